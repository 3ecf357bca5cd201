"""Credit notes: what is taken back of an invoice, where it goes, and that it is never more than there was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import ConfigurationError, Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.events import InvoicePaid
from tallystick.invoicing.standing import Noted, tax_share
from tallystick.invoicing.values import CreditNote, Invoice
from tallystick.money import Money, minor_unit
from tests.acceptance.accounts import assert_healthy
from tests.values import money


def parts(note: CreditNote) -> tuple[str, str, str]:
    return str(note.reduces), str(note.refunds), str(note.credits)


def standing(invoice: Invoice) -> tuple[str, str]:
    return invoice.status.value, str(invoice.amount_due)


# -- where a credit goes ----------------------------------------------------------------------------------------------


def test_a_credit_is_taken_off_what_is_due(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    note = ts.invoices.credit(invoice.id, "30", reason="Two days without service")
    assert parts(note) == ("30.00 USD", "0.00 USD", "0.00 USD")
    assert (note.number, note.invoice_id, note.billable) == ("CN-2026-000001", invoice.id, "tenant:acme")
    assert standing(ts.invoices.get(invoice.id)) == ("pending", "70.00 USD")
    ts.invoices.record_payment(invoice.id)
    assert ts.invoices.get(invoice.id).amount_paid == money("70 USD")
    assert_healthy(ts)


def test_what_was_paid_is_credited_to_the_balance(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(invoice.id, "80")
    note = ts.invoices.credit(invoice.id, "50", reason="Goodwill")
    assert parts(note) == ("20.00 USD", "0.00 USD", "30.00 USD")
    assert standing(ts.invoices.get(invoice.id)) == ("paid", "0.00 USD")
    following = ts.invoices.create("acme", amount_cents=10_000)
    assert following.credit_applied == money("30 USD")
    assert_healthy(ts)


def test_a_credit_goes_where_it_is_sent(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(invoice.id, "60")
    due = ts.invoices.credit(invoice.id, "10", reason="Part", to="due")
    balance = ts.invoices.credit(invoice.id, "20", reason="Part", to="balance")
    refund = ts.invoices.credit(invoice.id, "15", reason="Part", to="refund")
    assert [parts(one).index(str(one.amount)) for one in (due, balance, refund)] == [0, 2, 1]
    assert standing(ts.invoices.get(invoice.id)) == ("pending", "30.00 USD")
    assert [(one.kind, str(one.amount), one.note) for one in ts.invoices.payments(invoice.id)] == [
        ("payment", "60.00 USD", None),
        ("refund", "15.00 USD", "Part"),
    ]
    assert [str(ts.invoices.credit(invoice.id, reason="Rest", to=to).amount) for to in ("due", "refund")] == [
        "30.00 USD",
        "25.00 USD",
    ]
    assert standing(ts.invoices.get(invoice.id)) == ("partially_refunded", "0.00 USD")
    assert_healthy(ts)


def test_an_invoice_that_is_credited_as_a_whole_and_was_never_paid_is_cancelled(ts: Tallystick) -> None:
    paid: list[InvoicePaid] = []
    ts.on(InvoicePaid)(paid.append)
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.credit(invoice.id, "30", reason="A part")
    ts.invoices.credit(invoice.id, reason="And the rest")
    cancelled = ts.invoices.get(invoice.id)
    assert (standing(cancelled), cancelled.voided_at, cancelled.paid_at) == (("cancelled", "0.00 USD"), None, None)
    assert not paid
    assert ts.invoices.void(invoice.id) == cancelled
    assert_healthy(ts)


def test_a_credit_of_the_rest_settles_a_part_that_was_paid(ts: Tallystick) -> None:
    paid: list[InvoicePaid] = []
    ts.on(InvoicePaid)(paid.append)
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(invoice.id, "99.99")
    ts.invoices.credit(invoice.id, "0.01", reason="Bank charges")
    assert standing(ts.invoices.get(invoice.id)) == ("paid", "0.00 USD")
    assert len(paid) == 1


def test_an_invoice_that_credit_has_paid_gives_it_back(ts: Tallystick) -> None:
    ts.invoices.record_payment(ts.invoices.create("acme", amount_cents=100).id, "101")
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    assert standing(invoice) == ("paid", "0.00 USD")
    note = ts.invoices.credit(invoice.id, reason="Wrong customer")
    assert parts(note) == ("0.00 USD", "0.00 USD", "100.00 USD")
    assert ts.invoices.account("acme").credit == money("100 USD")
    assert ts.invoices.get(invoice.id).status == "paid"
    assert_healthy(ts)


def test_a_subscription_that_waited_for_a_cancelled_invoice_waits_for_none(ts: Tallystick) -> None:
    ts.plans.create("pro", price=money("100 USD"))
    ts.subscriptions.create("user:1", "pro", pending=True)
    invoice = ts.invoices.list("user:1")[0]
    ts.invoices.credit(invoice.id, reason="Changed their mind")
    assert ts.subscriptions.get("user:1").activation_invoice_id is None
    assert ts.subscriptions.status("user:1") == "pending"


def test_a_subscription_begins_when_payment_and_credit_have_settled_its_first_invoice(ts: Tallystick) -> None:
    ts.plans.create("pro", price=money("100 USD"))
    ts.subscriptions.create("user:1", "pro", pending=True)
    invoice = ts.invoices.list("user:1")[0]
    ts.invoices.record_payment(invoice.id, "60")
    ts.invoices.credit(invoice.id, reason="First month at a discount")
    assert ts.subscriptions.status("user:1") == "active"
    assert_healthy(ts)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (None, r"100.00 USD of it can be credited; 100.01 USD was asked for"),
        ("due", r"40.00 USD of it can be taken off what is due; 100.01 USD was asked for"),
        ("balance", r"60.00 USD of it can be credited to the balance; 100.01 USD was asked for"),
        ("refund", r"60.00 USD of it can be paid back; 100.01 USD was asked for"),
    ],
)
def test_no_more_is_credited_than_there_is(ts: Tallystick, to: str | None, said: str) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(invoice.id, "60")
    with pytest.raises(Conflict, match=said):
        ts.invoices.credit(invoice.id, "100.01", reason="Too much", to=to)
    assert not ts.invoices.credit_notes("acme")
    assert ts.invoices.get(invoice.id).amount_credited == money("0 USD")


def test_what_never_was_issued_or_is_void_is_not_credited(ts: Tallystick) -> None:
    draft = ts.invoices.create("acme", amount_cents=100, draft=True)
    with pytest.raises(Conflict, match="is a draft, and can be changed"):
        ts.invoices.credit(draft.id, reason="Too early")
    void = ts.invoices.void(ts.invoices.create("acme", amount_cents=100).id)
    with pytest.raises(Conflict, match="was voided"):
        ts.invoices.credit(void.id, reason="Too late")
    with pytest.raises(Conflict, match=r"0.00 USD of it can be credited\."):
        ts.invoices.credit(ts.invoices.create("acme", amount_cents=0).id, reason="Nothing")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"to": "wallet"}, "to"),
        ({"reason": "  "}, "reason"),
        ({"amount": "0.001"}, "amount"),
        ({"amount": "1 EUR"}, "amount"),
        ({"idempotency_key": ""}, "idempotency_key"),
    ],
)
def test_a_mistake_names_its_field(ts: Tallystick, given: dict[str, Any], field: str) -> None:
    invoice = ts.invoices.create("acme", amount_cents=100)
    with pytest.raises(InvalidInput) as refused:
        ts.invoices.credit(invoice.id, **({"reason": "A reason"} | given))
    assert refused.value.field == field


def test_a_key_stands_for_one_credit_of_an_invoice(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    once = ts.invoices.credit(invoice.id, "30", reason="Goodwill", idempotency_key="ticket-7")
    assert ts.invoices.credit(invoice.id, "30", reason="Goodwill", idempotency_key="ticket-7") == once
    assert ts.invoices.credit(invoice.id, reason="Goodwill", to="due", idempotency_key="ticket-7") == once
    changes: tuple[dict[str, Any], ...] = ({"amount": "31"}, {"reason": "Other"}, {"to": "balance"})
    for changed in changes:
        with pytest.raises(IdempotencyConflict) as refused:
            ts.invoices.credit(
                invoice.id, **({"amount": "30", "reason": "Goodwill", "idempotency_key": "ticket-7"} | changed)
            )
        assert refused.value.field == next(iter(changed))
    assert len(ts.invoices.credit_notes(invoice=invoice.id)) == 1


# -- tax, numbers, and where they are found ---------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 2_000), min_size=1, max_size=12),
    st.decimals(0, 100, places=2),
    st.sampled_from(["USD", "JPY"]),
)
def test_the_notes_of_a_whole_invoice_say_exactly_its_tax(cents: list[int], rate: Decimal, currency: str) -> None:
    unit = minor_unit(currency)
    total = sum(cents)
    tax = int(total * rate / (100 + rate))
    noted = Noted()
    for amount in cents:
        share = tax_share(tax * unit, total * unit, noted, amount * unit, unit=unit)
        assert 0 <= share <= amount * unit
        assert share % unit == 0
        noted = Noted(noted.amount + amount * unit, noted.tax + share)
    assert noted.tax == tax * unit


def test_a_note_says_its_share_of_the_tax(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, invoicing={"tax": {"rate_percent": "19", "name": "VAT"}}) as ts:
        invoice = ts.invoices.create("acme", amount_cents=1_000)
        assert (invoice.total, invoice.tax) == (money("11.90 USD"), money("1.90 USD"))
        shares = [ts.invoices.credit(invoice.id, "3.97", reason="A third").tax for _ in range(2)]
        shares.append(ts.invoices.credit(invoice.id, reason="The rest").tax)
        assert [str(one) for one in shares] == ["0.63 USD", "0.64 USD", "0.63 USD"]
        assert_healthy(ts)


def test_numbers_have_a_series_of_their_own_without_gaps(ts: Tallystick, clock: FixedClock) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    for _ in range(2):
        ts.invoices.credit(invoice.id, "1", reason="Goodwill")
        with pytest.raises(Conflict):
            ts.invoices.credit(invoice.id, "1000", reason="Too much")
    clock.set("2027-01-01T00:00:00Z")
    ts.invoices.credit(invoice.id, "1", reason="Goodwill")
    assert [one.number for one in ts.invoices.credit_notes("acme")] == [
        "CN-2027-000001",
        "CN-2026-000002",
        "CN-2026-000001",
    ]
    assert_healthy(ts)


def test_credit_notes_are_found_by_id_number_payer_and_invoice(ts: Tallystick, clock: FixedClock) -> None:
    made = []
    for payer in ("acme", "acme", "user:1"):
        clock.advance(hours=1)
        invoice = ts.invoices.create(payer, amount_cents=100)
        made.append(ts.invoices.credit(invoice.id, reason="Goodwill"))
    first, second, third = made
    assert ts.invoices.get_credit_note(second.id) == ts.invoices.get_credit_note(second.number) == second
    assert list(ts.invoices.credit_notes()) == [third, second, first]
    assert list(ts.invoices.credit_notes("acme")) == [second, first]
    assert list(ts.invoices.credit_notes(invoice=first.invoice_id)) == [first]
    page = ts.invoices.credit_notes(limit=2)
    assert list(page) == [third, second]
    rest = ts.invoices.credit_notes(limit=2, cursor=page.next_cursor)
    assert (list(rest), rest.next_cursor) == ([first], None)
    with pytest.raises(NotFound, match="CN-7"):
        ts.invoices.get_credit_note("CN-7")
    with pytest.raises(NotFound):
        ts.invoices.credit_notes(invoice="INV-7")


# -- on paper ---------------------------------------------------------------------------------------------------------


def test_documents_are_addressed_as_the_invoice_was(database_url: str, clock: FixedClock, tmp_path: Path) -> None:
    logo = tmp_path / "logo.svg"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>')
    seller = {"name": "Example Ltd", "logo": str(logo)}
    with Tallystick(database_url, clock=clock, invoicing={"seller": seller}) as ts:
        ts.invoices.set_billing_details("acme", name="Acme GmbH")
        invoice = ts.invoices.create("acme", amount_cents=10_000)
        draft = ts.invoices.create("acme", amount_cents=10_000, draft=True)
        ts.invoices.set_billing_details("acme", name="Acme SE")
        note = ts.invoices.credit(invoice.id, "30", reason="Goodwill")
        assert (note.seller.name, note.customer.name) == ("Example Ltd", "Acme GmbH")
        documents = [
            ts.invoices.pdf(invoice.number or ""),
            ts.invoices.pdf(draft.id),
            ts.invoices.pdf(invoice.id, locale="pt-BR"),
            ts.invoices.credit_note_pdf(note.id),
            ts.invoices.credit_note_pdf(note.number, locale="pt-BR"),
        ]
        assert all(one.startswith(b"%PDF-") for one in documents)
        assert len(set(documents)) == len(documents)
        assert ts.invoices.pdf(invoice.id) == documents[0]
        logo.unlink()
        with pytest.raises(ConfigurationError, match="cannot be read") as refused:
            ts.invoices.pdf(invoice.id)
        assert refused.value.field == "invoicing.seller.logo"


# -- any sequence -----------------------------------------------------------------------------------------------------

Action = tuple[str, int]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["pay", "overpay", "again", "credit", "due", "balance", "refund", "back", "void", "next"]),
        st.integers(1, 130),
    ),
    max_size=12,
)


def act(ts: Tallystick, invoice: str, action: Action, number: int) -> None:
    name, percent = action
    total = ts.invoices.get(invoice).amount_cents
    amount = Money.from_minor_units(max(1, total * percent // 100), "USD")
    ways: dict[str, Callable[[], object]] = {
        "pay": lambda: ts.invoices.record_payment(invoice),
        "overpay": lambda: ts.invoices.record_payment(invoice, amount),
        "again": lambda: ts.invoices.record_payment(invoice, amount, external_payment_id=f"{invoice}:{number}"),
        "credit": lambda: ts.invoices.credit(invoice, amount, reason="Some"),
        "due": lambda: ts.invoices.credit(invoice, amount, reason="Some", to="due"),
        "balance": lambda: ts.invoices.credit(invoice, amount, reason="Some", to="balance"),
        "refund": lambda: ts.invoices.credit(invoice, amount, reason="Some", to="refund"),
        "back": lambda: ts.invoices.refund(invoice),
        "void": lambda: ts.invoices.void(invoice),
        "next": lambda: None,
    }
    with suppress(Conflict):
        ways[name]()


def expected_credit(ts: Tallystick) -> int:
    """Recount what is on the account, from the facts alone: what came and was not owed, less what was used of it."""
    credit = 0
    for invoice in ts.invoices.list("acme", limit=100, include_archived=True):
        came = sum(one.amount.nanos for one in ts.invoices.payments(invoice.id) if one.kind == "payment")
        credit += came - invoice.amount_paid.nanos
        credit += sum(one.credits.nanos for one in ts.invoices.credit_notes(invoice=invoice.id))
        if invoice.voided_at is None:
            credit -= invoice.credit_applied.nanos
    return credit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, cents=st.sampled_from([1, 7, 1_000, 9_999]))
def test_any_sequence_keeps_the_books(actions: list[Action], cents: int, folder: Path, sqlite_template: Path) -> None:
    shutil.copyfile(sqlite_template, folder / "books.db")
    clock = FixedClock("2026-01-15T12:00:00Z")
    tax = {"rate_percent": "19"}
    with Tallystick(f"sqlite:///{folder / 'books.db'}", clock=clock, invoicing={"tax": tax}) as ts:
        invoice = ts.invoices.create("acme", amount_cents=cents)
        for number, action in enumerate(actions):
            clock.advance(hours=1)
            act(ts, invoice.id, action, number)
            now = ts.invoices.get(invoice.id)
            notes = ts.invoices.credit_notes(invoice=invoice.id)
            assert now.amount_refunded <= now.amount_paid
            assert now.amount_due >= money("0 USD")
            assert sum(one.amount.nanos for one in notes) <= now.total.nanos
            assert (now.status.is_open) == (now.amount_due > money("0 USD"))
            account = ts.invoices.account("acme")
            assert account.credit.nanos == expected_credit(ts) >= 0
            if action[0] == "next":
                # What follows uses the credit; it is the one that is corrected from here on.
                invoice = ts.invoices.create("acme", amount_cents=cents * 2)
        assert_healthy(ts)
