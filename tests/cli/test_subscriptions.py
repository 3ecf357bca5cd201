"""`subscriptions` and `migrate-plan`: a subscription's life from the command line, and many moved at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from tallystick import Tallystick
from tallystick.cli.application import application
from tallystick.money import Money
from tests.cli.commands import answer, invoke, succeed


@pytest.fixture
def url(database_url: str) -> str:
    """A database with three plans for sale, and nobody who has subscribed."""
    with Tallystick(database_url) as ts:
        ts.plans.create("basic", price=Money("10", "USD"))
        ts.plans.create("pro", price=Money("30", "USD"), features={"exports": 5})
        ts.plans.create("forever", price=Money("500", "USD"), billing_cycle="lifetime")
    return database_url


def subscribe(url: str, billable: str = "user:1", plan: str = "basic", *options: object) -> dict[str, object]:
    created: dict[str, object] = answer("subscriptions", "create", billable, plan, *options, "--database", url)
    return created


def days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


# -- one subscription -------------------------------------------------------------------------------------------------


def test_a_subscription_that_does_not_renew_itself_ends_with_its_period_and_is_renewed_by_hand(url: str) -> None:
    made = subscribe(url, "user:1", "basic", "--started-at", "2099-01-31T10:00:00Z", "--no-auto-renew")
    assert (made["status"], made["ends_at"]) == ("future", "2099-02-28T10:00:00+00:00")
    renewed = answer("subscriptions", "renew", "user:1", "--database", url)
    assert renewed["ends_at"] == "2099-03-31T10:00:00+00:00"
    ending = subscribe(url, "user:2", "basic", "--ends-at", "2099-05-01")
    assert ending["ends_at"] == "2099-05-01T00:00:00+00:00"


def test_a_subscription_follows_a_version_and_leaves_out_what_was_billed_elsewhere(url: str) -> None:
    with Tallystick(url) as ts:
        ts.plans.new_version("basic", price=Money("12", "USD"))
        ts.plans.publish("basic", version=2)
    billed = ("--started-at", days_ago(3), "--billed-until", days_ago(1))
    made = subscribe(url, "user:1", "basic", "--version", 1, *billed)
    assert made["plan"]["version"] == 1  # type: ignore[index]
    assert answer("generate-invoices", "--database", url)["invoices"] == []


def test_a_coupon_is_redeemed_with_the_subscription(url: str) -> None:
    with Tallystick(url) as ts:
        ts.coupons.create("HALF", percent_off=50)
    subscribe(url, "user:1", "basic", "--coupon", "half")
    assert "1 invoice was made, of 5.00 USD." in succeed("generate-invoices", "--database", url)
    refused = invoke("subscriptions", "create", "user:2", "basic", "--coupon", "NONE", "--database", url)
    assert (refused.exit_code, "NONE" in refused.stderr) == (3, True)


def test_every_subscription_of_a_billable_is_listed_the_newest_first(url: str) -> None:
    first = subscribe(url, "user:1", "basic", "--started-at", days_ago(50))
    answer("subscriptions", "cancel", "user:1", "--immediately", "--database", url)
    second = subscribe(url, "user:1", "pro")
    found = answer("subscriptions", "list", "user:1", "--database", url)["subscriptions"]
    assert [(one["id"], one["status"]) for one in found] == [(second["id"], "active"), (first["id"], "cancelled")]
    said = succeed("subscriptions", "list", "user:1", "--database", url)
    assert re.search(rf"pro, version 1 +active +\S+ +{second['id']}\n.*basic, version 1 +cancelled", said)
    assert "user:9 has had no subscription." in succeed("subscriptions", "list", "user:9", "--database", url)
    # The id names one of several.
    assert answer("subscriptions", "show", first["id"], "--database", url)["status"] == "cancelled"
    assert f"  id              {first['id']}" in succeed("subscriptions", "show", first["id"], "--database", url)


def test_a_plan_is_changed_after_a_look_at_what_it_costs(url: str) -> None:
    subscribe(url, "user:1", "basic", "--started-at", days_ago(3))
    succeed("worker", "--once", "--database", url)
    options = ("user:1", "pro", "--database", url)
    dry = answer("subscriptions", "change-plan", *options, "--dry-run")
    assert (dry["dry_run"], dry["change"]["from"]["slug"], dry["change"]["to"]["slug"]) == (True, "basic", "pro")
    # Three times the price for the same rest of the period, less what was paid for it.
    credit, charge = (float(dry["change"][name]["amount"]) for name in ("credit", "charge"))
    assert 8 < credit < 10
    assert charge == pytest.approx(3 * credit)
    said = succeed("subscriptions", "change-plan", *options, "--dry-run")
    assert re.search(r"user:1 would move from basic version 1 to pro version 1: .* UTC\.\n.* would be credited", said)
    assert answer("subscriptions", "show", "user:1", "--database", url)["plan"]["slug"] == "basic"

    assert "user:1 moves from basic version 1 to pro version 1" in succeed("subscriptions", "change-plan", *options)
    shown = answer("subscriptions", "show", "user:1", "--database", url)
    assert (shown["plan"]["slug"], shown["previous_plan"]) == ("pro", {"slug": "basic", "version": 1})
    back = ("user:1", "basic", "--at-period-end", "--no-prorate", "--database", url)
    later = answer("subscriptions", "change-plan", *back)
    assert (later["plan"]["slug"], later["changes"][-1]["plan"]["slug"]) == ("pro", "basic")
    said = succeed("subscriptions", "show", "user:1", "--database", url)
    assert re.search(r"  since +\S+ \S+ UTC: pro version 1\n  from +\S+ \S+ UTC: basic version 1\n", said)
    error = answer("subscriptions", "change-plan", "user:1", "por", "--database", url, exit_code=3)["error"]
    assert (error["code"], "Plans: basic, forever, pro." in error["message"]) == ("plan_not_found", True)


def test_a_subscription_is_paused_resumed_and_cancelled(url: str) -> None:
    subscribe(url)
    assert answer("subscriptions", "pause", "user:1", "--no-prorate", "--database", url)["status"] == "suspended"
    assert "user:1: basic, version 1, active" in succeed("subscriptions", "resume", "user:1", "--database", url)
    cancelled = answer("subscriptions", "cancel", "user:1", "--database", url)
    assert cancelled["ends_at"] is not None
    assert answer("subscriptions", "resume", "user:1", "--database", url)["ends_at"] is None
    ended = answer("subscriptions", "cancel", "user:1", "--immediately", "--prorate", "--database", url)
    assert ended["status"] == "cancelled"
    assert answer("subscriptions", "resume", "user:1", "--database", url, exit_code=3)["error"]["code"] == "conflict"


def test_a_pending_subscription_waits_for_its_invoice_or_is_activated(url: str) -> None:
    made = subscribe(url, "user:1", "basic", "--pending")
    assert made["status"] == "pending"
    said = succeed("subscriptions", "show", "user:1", "--database", url)
    assert f"waits for       {made['activation_invoice_id']} to be paid" in said
    assert answer("subscriptions", "activate", "user:1", "--database", url)["status"] == "active"
    subscribe(url, "user:2", "basic", "--pending")
    invoice = answer("invoices", "list", "user:2", "--database", url)["invoices"][0]
    succeed("invoices", "pay", invoice["number"], "--database", url)
    assert answer("subscriptions", "show", "user:2", "--database", url)["status"] == "active"


def test_a_failed_payment_starts_a_grace_period_that_a_payment_ends(url: str) -> None:
    subscribe(url, "user:1", "basic", "--started-at", days_ago(30))
    failed = answer("subscriptions", "payment-failed", "user:1", "--at", days_ago(1), "--database", url)
    assert (failed["status"], failed["payment_failed_at"][:10]) == ("past_due", days_ago(1)[:10])
    said = succeed("subscriptions", "show", "user:1", "--database", url)
    assert re.match(r"user:1: basic, version 1, past due\n", said)
    paid = answer("subscriptions", "payment-succeeded", "user:1", "--database", url)
    assert (paid["status"], paid["payment_failed_at"]) == ("active", None)


@pytest.mark.parametrize(
    "command",
    ["show", "cancel", "resume", "pause", "renew", "activate", "payment-failed", "payment-succeeded", "change-plan"],
)
def test_who_has_no_subscription_is_told_how_to_get_one(url: str, command: str) -> None:
    plan = ("pro",) if command == "change-plan" else ()
    error = answer("subscriptions", command, "user:9", *plan, "--database", url, exit_code=3)["error"]
    assert error["message"].endswith("Create one: tallystick subscriptions create user:9 PLAN")
    wrong = answer("subscriptions", command, "sub_none", *plan, "--database", url, exit_code=3)["error"]
    assert (wrong["code"], "create sub_none" in wrong["message"]) == ("not_found", False)


def test_times_are_those_of_the_customers_zone(url: str) -> None:
    with Tallystick(url) as ts:
        ts.tenants.create(name="Acme", slug="acme", timezone="America/Sao_Paulo")
    made = subscribe(url, "tenant:acme", "basic", "--started-at", "2099-01-01")
    assert made["started_at"] == "2099-01-01T03:00:00+00:00"
    said = succeed("subscriptions", "show", "tenant:acme", "--database", url)
    assert "started         2099-01-01 00:00 America/Sao_Paulo" in said


# -- many -------------------------------------------------------------------------------------------------------------


def test_named_customers_are_moved_and_one_who_cannot_be_is_reported(url: str) -> None:
    for billable in ("user:1", "user:2"):
        subscribe(url, billable, "basic", "--started-at", days_ago(3))
    subscribe(url, "user:3", "pro")
    options = ("--from-plan", "basic", "--database", url)
    moved = answer("migrate-plan", "user:1", "user:2", "user:3", "pro", *options, exit_code=1)
    assert [(one["billable"], one["applied"]) for one in moved["subscriptions"]] == [
        ("user:1", True),
        ("user:2", True),
        ("user:3", False),
    ]
    assert moved["subscriptions"][2]["error"]["code"] == "invalid_input"
    assert answer("subscriptions", "show", "user:1", "--database", url)["plan"]["slug"] == "pro"
    again = invoke("migrate-plan", "user:3", "pro", *options)
    assert again.exit_code == 1
    assert "user:3 cannot be moved: " in again.stdout
    assert "0 subscriptions were moved to pro; 1 could not be." in again.stdout


def test_a_dry_run_says_what_would_be_done_and_does_nothing(url: str) -> None:
    subscribe(url, "user:1", "basic", "--started-at", days_ago(3))
    said = succeed("migrate-plan", "user:1", "pro", "--no-prorate", "--dry-run", "--database", url)
    assert re.search(r"user:1 +basic, version 1 +\S+ +0\.00 USD +0\.00 USD", said)
    assert "1 subscription would be moved to pro; 0 could not be.\nA dry run: nothing was changed." in said
    assert answer("subscriptions", "show", "user:1", "--database", url)["plan"]["slug"] == "basic"


def test_everybody_is_moved_after_a_question(url: str) -> None:
    for number in range(3):
        subscribe(url, f"user:{number}", "basic")
    command = ("migrate-plan", "--all", "--from-plan", "basic", "pro", "--at-period-end", "--database", url)
    for said, applied in (("n\n", False), ("y\n", True)):
        result = CliRunner().invoke(application, command, input=said)
        assert (result.exit_code, "Carry this out?" in result.stderr) == (0 if applied else 1, True)
        found = answer("subscriptions", "show", "user:1", "--database", url)["changes"]
        assert bool(found) is applied
    succeed("migrate-plan", "--all", "--from-plan", "pro", "basic", "--yes", "--database", url)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("pro",), "billable"),
        (("--all", "pro"), "from_plan"),
        (("--all", "--from-plan", "basic", "user:1", "pro"), "all"),
    ],
)
def test_whom_to_move_is_said_in_one_way(url: str, words: tuple[str, ...], field: str) -> None:
    error = answer("migrate-plan", *words, "--database", url, exit_code=3)["error"]
    assert (error["code"], error["field"]) == ("invalid_input", field)
