"""`invoices`, `generate-invoices`, and `payment-methods`: from the bill to the payment, read by a tired operator."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.encryption import generate_key
from tallystick.money import Money
from tests.cli.commands import answer, invoke, succeed

TAX = {"tax": {"rate_percent": "19", "name": "VAT"}}


@pytest.fixture
def url(database_url: str) -> str:
    """A database with two customers of a plan, one of whom changed it in the middle of a month; nothing is billed."""
    clock = FixedClock("2026-01-15T12:00:00Z")
    with Tallystick(database_url, clock=clock, invoicing=TAX) as ts:
        ts.plans.create(
            "pro",
            price=Money("99", "USD"),
            monthly_token_limit=1_000,
            overage_behavior="charge",
            overage_price_per_1k_tokens=Money("0.01", "USD"),
        )
        ts.plans.create("team", price=Money("199", "USD"))
        ts.tenants.create(name="Acme Ltd", slug="acme")
        ts.subscriptions.create("tenant:acme", "pro", ends_at="2026-03-15T12:00:00Z")
        ts.subscriptions.create("user:1", "pro", ends_at="2026-03-15T12:00:00Z")
        ts.usage.record(billable="user:1", input_tokens=1_500)
        clock.advance(days=10)
        ts.subscriptions.change_plan("user:1", "team")
    return database_url


@pytest.fixture
def billed(url: str) -> str:
    """The same, after the invoices of the first two months were made."""
    with Tallystick(url, clock=FixedClock("2026-02-20T12:00:00Z"), invoicing=TAX) as ts:
        ts.run_due_jobs()
    return url


def number_of(url: str, billable: str, position: int) -> str:
    """Return the number of an invoice of a customer, counted from the oldest."""
    found = answer("invoices", "list", billable, "--database", url)["invoices"]
    return str(found[-1 - position]["number"])


# -- reading ----------------------------------------------------------------------------------------------------------


def test_the_list_has_a_row_for_each_invoice_the_newest_first(billed: str) -> None:
    page = answer("invoices", "list", "--database", billed)
    assert [one["created_at"][:10] for one in page["invoices"]] == ["2026-02-20"] * 4
    assert sorted(one["number"] for one in page["invoices"]) == [f"INV-2026-{number:06}" for number in (1, 2, 3, 4)]
    assert page["next_cursor"] is None
    said = succeed("invoices", "list", "acme", "--database", billed)
    assert re.search(r"INV-2026-00000\d +tenant:acme +(pending|overdue) +117\.81 USD +117\.81 USD +2026-03-22", said)
    assert "user:1" not in said


def test_the_list_goes_on_where_a_page_ended(billed: str) -> None:
    first = answer("invoices", "list", "--limit", 3, "--database", billed)
    rest = answer("invoices", "list", "--cursor", first["next_cursor"], "--database", billed)
    assert [len(first["invoices"]), len(rest["invoices"])] == [3, 1]
    assert "There are more: --cursor " in succeed("invoices", "list", "--limit", 3, "--database", billed)


def test_the_list_is_of_a_status_and_of_a_time(billed: str) -> None:
    with Tallystick(billed) as ts:
        ts.invoices.create("acme", 100, "2099-01-01")
    assert len(answer("invoices", "list", "--status", "pending", "--database", billed)["invoices"]) >= 1
    assert answer("invoices", "list", "--status", "paid", "--database", billed)["invoices"] == []
    old = answer("invoices", "list", "--end", "2026-02-21", "--database", billed)["invoices"]
    assert len(old) == 4
    assert "There are no such invoices." in succeed("invoices", "list", "--end", "2020-01-01", "--database", billed)
    wrong = answer("invoices", "list", "--status", "payed", "--database", billed, exit_code=3)["error"]
    assert (wrong["field"], "paid" in wrong["message"]) == ("status", True)


def test_an_invoice_is_shown_with_lines_that_add_up_in_one_column(billed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = succeed("invoices", "show", number_of(billed, "user:1", 1), "--database", billed)
    assert max(map(len, said.splitlines())) <= 80
    assert re.search(r"Invoice INV-2026-00000\d: (pending|overdue)\n  of +user:1\n", said)
    assert re.search(r"  period +2026-02-15 to 2026-03-15\n  issued +2026-02-20\n  due +2026-03-22, ", said)
    figures = {
        found[1].strip(): found[2].strip()
        for found in re.finditer(r"^(\S.*?) {2,}.*?(-?[\d,.]+) *$", said, re.MULTILINE)
    }
    assert figures == {
        "team (monthly)": "199.00",
        "Unused time of pro": "-67.064516129",
        "Remaining time of team": "134.806451613",
        "Tokens beyond the limit of pro": "0.005",
        "Subtotal": "266.746935484",
        "Carried to the next invoice": "-0.006935484",
        "Net": "266.74",
        "VAT 19%": "50.68",
        "Total": "317.42",
        "Due": "317.42",
    }
    points = {line.rindex(".") for line in said.splitlines() if re.search(r"\d\.\d+ *$", line)}
    assert len(points) == 1


def test_an_invoice_is_shown_with_what_was_paid_and_credited(billed: str) -> None:
    number = number_of(billed, "user:1", 0)
    paid = answer("invoices", "pay", number, 100, "--method", "bank", "--id", "4711", "--database", billed)
    assert (paid["payment"]["amount"]["amount"], paid["invoice"]["amount_due"]["amount"]) == ("100.00", "17.81")
    credited = answer("invoices", "credit", number, 10, "--reason", "Outage", "--database", billed)
    assert credited["credit_note"]["reduces"]["amount"] == "10.00"
    assert credited["invoice"]["amount_due"]["amount"] == "7.81"
    assert "7.81 USD was paid for invoice" in succeed("invoices", "pay", number, "--database", billed)
    said = succeed("invoices", "refund", number, 5, "--reason", "Goodwill", "--database", billed)
    assert f"5.00 USD of invoice {number} was paid back. It is partially refunded." in said

    said = succeed("invoices", "show", number, "--database", billed)
    assert re.search(r"Credited by notes +-10\.00\n.*Paid +-107\.81 *\n.*Due +0\.00 *\n +Refunded +5\.00", said)
    assert re.search(r"paid +100\.00 USD +bank +4711", said)
    assert re.search(r"refunded +5\.00 USD", said)
    assert re.search(r"CN-2026-000001 +\S+ +10\.00 USD +Outage", said)
    shown = answer("invoices", "show", number, "--database", billed)
    assert [one["kind"] for one in shown["payments"]] == ["payment", "payment", "refund"]
    assert [one["reason"] for one in shown["credit_notes"]] == ["Goodwill", "Outage"]


def test_an_invoice_that_is_not_there_is_an_error_with_a_remedy(billed: str) -> None:
    error = answer("invoices", "show", "INV-1", "--database", billed, exit_code=3)["error"]
    assert (error["code"], error["reference"]) == ("not_found", "INV-1")


def test_the_next_invoice_can_be_looked_at_and_nothing_changes(url: str) -> None:
    found = answer("invoices", "preview", "user:1", "--database", url)["invoice"]
    assert (found["number"], found["status"]) == (None, "draft")
    assert "The next invoice of user:1, as things stand" in succeed("invoices", "preview", "user:1", "--database", url)
    assert answer("invoices", "list", "--database", url)["invoices"] == []
    assert "There is nothing to bill user:9 for." in succeed("invoices", "preview", "user:9", "--database", url)
    assert answer("invoices", "preview", "user:9", "--database", url) == {"invoice": None}


# -- making and changing ----------------------------------------------------------------------------------------------


def test_an_invoice_is_made_by_hand_from_its_lines(url: str) -> None:
    lines = ("--line", "Setup=500", "--line", "Hours, at home=2.5 x 120.50 USD")
    options = ("--due", "2099-02-15", "--notes", "Thank you", "--idempotency-key", "k", "--database", url)
    made = answer("invoices", "create", "acme", *lines, *options)
    assert (made["status"], made["due_date"], made["notes"]) == ("pending", "2099-02-15", "Thank you")
    lines_made = [(one["description"], float(one["quantity"]), one["amount"]["amount"]) for one in made["line_items"]]
    assert lines_made == [("Setup", 1, "500.00"), ("Hours, at home", 2.5, "301.25")]
    assert answer("invoices", "create", "acme", *lines, *options)["id"] == made["id"]
    said = succeed("invoices", "show", made["number"], "--database", url)
    assert "tenant:acme, Acme Ltd" in said
    assert said.endswith("\nThank you\n")


def test_a_draft_waits_until_it_is_issued(url: str) -> None:
    options = ("--amount", "50", "--description", "Training", "--draft", "--database", url)
    draft = answer("invoices", "create", "user:1", *options)
    assert (draft["status"], draft["number"]) == ("draft", None)
    assert draft["line_items"][0]["description"] == "Training"
    issued = answer("invoices", "finalize", draft["id"], "--database", url)
    assert issued["number"].endswith("-000001")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ((), "line"),
        (("--line", "Setup"), "line"),
        (("--line", "Setup=5", "--amount", "5"), "line"),
        (("--line", "Setup=5", "--description", "x"), "description"),
        (("--line", "Setup=much"), "line_items.0.amount"),
    ],
)
def test_lines_that_cannot_be_read_are_refused(url: str, options: tuple[str, ...], field: str) -> None:
    error = answer("invoices", "create", "acme", *options, "--database", url, exit_code=3)["error"]
    assert error["field"] == field


def test_an_invoice_is_voided_as_long_as_nothing_was_paid(billed: str) -> None:
    one, other = number_of(billed, "acme", 0), number_of(billed, "acme", 1)
    assert f"Invoice {one} is cancelled" in succeed("invoices", "void", one, "--database", billed)
    assert answer("invoices", "show", one, "--database", billed)["status"] == "cancelled"
    succeed("invoices", "pay", other, "--at", "2026-02-21", "--database", billed)
    assert answer("invoices", "void", other, "--database", billed, exit_code=3)["error"]["code"] == "conflict"


def test_all_of_an_invoice_is_credited_and_says_where_it_went(billed: str) -> None:
    number = number_of(billed, "acme", 0)
    said = succeed("invoices", "credit", number, "--reason", "Never used", "--database", billed)
    assert "117.81 USD, of which 18.81 USD is tax." in said
    assert "117.81 USD off what was due. It is cancelled." in said
    assert invoke("invoices", "credit", number, "--database", billed).exit_code == 2


def test_an_invoice_is_written_as_pdf(billed: str, folder: Path) -> None:
    number = number_of(billed, "acme", 0)
    assert f"was written to {number}.pdf" in succeed("invoices", "pdf", number, "--database", billed)
    assert (folder / f"{number}.pdf").read_bytes().startswith(b"%PDF")
    other = answer("invoices", "pdf", number, "-o", "other.pdf", "--locale", "pt-BR", "--database", billed)
    assert (folder / "other.pdf").stat().st_size == other["bytes"]
    error = answer("invoices", "pdf", number, "-o", "nowhere/x.pdf", "--database", billed, exit_code=3)["error"]
    assert (error["field"], "No such file" in error["message"]) == ("output", True)


# -- generate-invoices ------------------------------------------------------------------------------------------------


def test_invoices_are_generated_for_a_month_once(url: str) -> None:
    dry = answer("generate-invoices", "--month", "2026-01", "--dry-run", "--database", url)
    assert (len(dry["invoices"]), dry["dry_run"]) == (2, True)
    assert answer("invoices", "list", "--database", url)["invoices"] == []
    said = succeed("generate-invoices", "--month", "2026-01", "--dry-run", "--database", url)
    assert "2 invoices would be made, of 198.00 USD." in said
    assert "A dry run: nothing was changed. To do it: tallystick generate-invoices" in said

    one = succeed("generate-invoices", "--month", "2026-01", "--tenant", "acme", "--database", url)
    assert "1 invoice was made, of 99.00 USD." in one
    assert len(answer("generate-invoices", "--month", "2026-01", "--database", url)["invoices"]) == 1
    assert "No invoice is due." in succeed("generate-invoices", "--month", "2026-01", "--database", url)
    later = answer("generate-invoices", "--month", "2026-02", "--database", url)
    assert (len(later["invoices"]), later["renewals"]) == (2, 2)
    assert (
        answer("generate-invoices", "--month", "2026-13", "--database", url, exit_code=3)["error"]["field"] == "period"
    )


# -- payment-methods --------------------------------------------------------------------------------------------------


def test_payment_methods_are_listed_without_their_tokens(database_url: str, folder: Path) -> None:
    key = generate_key()
    (folder / "tallystick.toml").write_text(f"[security]\nencryption_keys = [{json.dumps(key)}]\n")
    with Tallystick(database_url) as ts:
        ts.payment_methods.add(
            *("user:1", "stripe", "pm_secret"), brand="visa", last4="4242", exp_month=7, exp_year=2099, holder="Ada"
        )
        ts.payment_methods.add("user:1", "asaas", "tok_secret", kind="pix")
    said = succeed("payment-methods", "list", "user:1", "--database", database_url)
    assert re.search(r"pym_\w+ +stripe +visa … 4242 +07/2099 +Ada +default", said)
    assert re.search(r"pym_\w+ +asaas +pix", said)
    found = answer("payment-methods", "list", "user:1", "--database", database_url)
    assert [one["is_default"] for one in found["payment_methods"]] == [True, False]
    assert "secret" not in said + json.dumps(found)
    assert "user:2 has no payment method." in succeed("payment-methods", "list", "user:2", "--database", database_url)
