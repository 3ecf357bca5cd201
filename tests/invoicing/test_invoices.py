"""Invoices by hand: made, issued, found, changed as far as they may be, voided and put away."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.events import InvoiceCreated, InvoicePaid
from tallystick.invoicing.invoices import Invoices
from tests.acceptance.accounts import assert_healthy
from tests.values import money

LINES: list[dict[str, Any]] = [
    {"description": "Setup", "amount_cents": 9900},
    {"description": "Support, hours", "amount": "12.345", "quantity": "1.5"},
]


# -- made and issued --------------------------------------------------------------------------------------------------


def test_an_invoice_is_made_and_issued_at_once(ts: Tallystick, clock: FixedClock) -> None:
    created: list[InvoiceCreated] = []
    ts.on(InvoiceCreated)(created.append)
    invoice = ts.invoices.create("acme", amount_cents=9900, description="Setup", notes="Thank you", metadata={"po": 7})
    assert (invoice.number, invoice.billable, invoice.status) == ("INV-2026-000001", "tenant:acme", "pending")
    assert (invoice.amount_cents, invoice.amount_due, invoice.currency) == (9900, money("99 USD"), "USD")
    assert (invoice.issued_at, invoice.due_date) == (clock.now(), "2026-02-14")
    assert [(one.kind, one.description, one.amount_cents) for one in invoice.line_items] == [("item", "Setup", 9900)]
    assert (invoice.notes, invoice.metadata) == ("Thank you", {"po": 7})
    assert [one.invoice for one in created] == [invoice]
    assert [one.type for one in ts.notifications.list("acme")] == ["invoice_created"]
    assert ts.invoices.get(invoice.id) == ts.invoices.get("INV-2026-000001") == invoice
    assert_healthy(ts)


def test_lines_are_exact_and_their_sum_is_billed_in_whole_cents(ts: Tallystick) -> None:
    invoice = ts.invoices.create("user:42", line_items=LINES)
    assert [str(one.amount) for one in invoice.line_items] == ["99.00 USD", "18.5175 USD"]
    assert (invoice.subtotal, invoice.total) == (money("117.5175 USD"), money("117.51 USD"))
    assert invoice.carried_out == ts.invoices.account("user:42").carried == money("0.0075 USD")
    following = ts.invoices.create("user:42", line_items=[{"description": "Rest", "amount": "0.0025"}])
    assert (following.carried_in, following.total) == (money("0.0075 USD"), money("0.01 USD"))
    assert_healthy(ts)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "amount_cents"),
        ({"amount_cents": 99.0}, "amount_cents"),
        ({"amount_cents": True}, "amount_cents"),
        ({"line_items": []}, "line_items"),
        ({"line_items": LINES, "amount_cents": 1}, "amount_cents"),
        ({"line_items": [{"description": "Setup"}]}, "line_items.0.amount_cents"),
        ({"line_items": [*LINES, {"amount_cents": 1}]}, "line_items.2.description"),
        ({"line_items": [{"description": "Setup", "price": 1}]}, "line_items.0.price"),
        ({"line_items": [{"description": "Setup", "amount": "1 EUR"}]}, "line_items.0.amount"),
        ({"line_items": [{"description": "A", "amount_cents": 1, "quantity": 0}]}, "line_items.0.quantity"),
        ({"amount_cents": 1, "due_date": "soon"}, "due_date"),
        ({"amount_cents": 1, "notes": ""}, "notes"),
        ({"amount_cents": 1, "currency": "DOLLARS"}, "currency"),
    ],
)
def test_a_mistake_names_its_field_and_leaves_nothing_behind(ts: Tallystick, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ts.invoices.create("acme", **given)
    assert refused.value.field == field
    assert len(ts.invoices.list()) == 0
    assert ts.invoices.create("acme", amount_cents=1).number == "INV-2026-000001"


def test_a_key_gives_the_same_invoice_again(ts: Tallystick) -> None:
    first = ts.invoices.create("acme", amount_cents=9900, idempotency_key="order-7")
    assert ts.invoices.create("acme", amount_cents=9900, idempotency_key="order-7") == first
    with pytest.raises(IdempotencyConflict):
        ts.invoices.create("acme", amount_cents=9901, idempotency_key="order-7")
    assert ts.invoices.create("user:1", amount_cents=9900, idempotency_key="order-7").id != first.id
    assert len(ts.invoices.list("acme")) == 1


def test_a_key_that_comes_to_several_at_once_gives_all_the_same_invoice(database_url: str, clock: FixedClock) -> None:
    engines = [Tallystick(database_url, clock=clock) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number in range(5):
            make = partial(Invoices.create, payer="acme", amount_cents=9900, idempotency_key=f"order-{number}")
            assert len({one.id for one in pool.map(make, [ts.invoices for ts in engines])}) == 1
    assert_healthy(engines[0])
    for engine in engines:
        engine.close()


def test_what_is_due_by_a_day_is_due_at_its_end_where_the_customer_is(ts: Tallystick) -> None:
    ts.tenants.create("Acme", slug="acme", timezone="America/Sao_Paulo")
    invoice = ts.invoices.create("acme", amount_cents=1, due_date="2026-02-15")
    assert (str(invoice.due_at), invoice.due_date) == ("2026-02-16 02:59:59.999999+00:00", "2026-02-15")
    exact = ts.invoices.create("acme", amount_cents=1, due_date="2026-02-15T12:00:00Z")
    assert str(exact.due_at) == "2026-02-15 12:00:00+00:00"


def test_an_invoice_over_nothing_is_paid_at_once(ts: Tallystick) -> None:
    paid: list[InvoicePaid] = []
    ts.on(InvoicePaid)(paid.append)
    invoice = ts.invoices.create("acme", amount_cents=0)
    assert (invoice.status, invoice.paid_at) == ("paid", invoice.issued_at)
    assert len(paid) == 1
    assert_healthy(ts)


def test_numbers_have_no_gaps_when_many_make_invoices_at_once(ts: Tallystick) -> None:
    def make(number: int) -> None:
        for _ in range(5):
            ts.invoices.create(f"user:{number}", amount_cents=100)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(str(one.number) for one in ts.invoices.list(limit=100))
    assert numbers == [f"INV-2026-{number:06}" for number in range(1, 31)]
    assert_healthy(ts)


# -- drafts -----------------------------------------------------------------------------------------------------------


def test_a_draft_is_changed_until_it_is_issued_and_then_never(ts: Tallystick, clock: FixedClock) -> None:
    draft = ts.invoices.create("acme", amount_cents=9900, draft=True)
    assert (draft.number, draft.status, draft.issued_at, draft.due_at) == (None, "draft", None, None)
    assert [one.type for one in ts.notifications.list("acme")] == []
    changed = ts.invoices.update(draft.id, line_items=LINES, due_date="2026-03-01", notes="As agreed")
    assert (changed.subtotal, changed.due_date, changed.notes) == (money("117.5175 USD"), "2026-03-01", "As agreed")
    clock.advance(days=3)
    issued = ts.invoices.finalize(draft.id)
    assert (issued.number, issued.status, issued.issued_at) == ("INV-2026-000001", "pending", clock.now())
    assert (issued.total, issued.due_date, issued.notes) == (money("117.51 USD"), "2026-03-01", "As agreed")
    assert ts.invoices.finalize(draft.id) == issued
    changes: tuple[dict[str, Any], ...] = ({"line_items": LINES}, {"due_date": "2026-04-01"}, {"notes": "Other"})
    for change in changes:
        with pytest.raises(Conflict, match="INV-2026-000001 was issued and never changes"):
            ts.invoices.update(draft.id, **change)
    assert ts.invoices.update(draft.id, metadata={"po": 7}).metadata == {"po": 7}
    assert ts.invoices.get(draft.id).line_items == issued.line_items
    assert_healthy(ts)


def test_a_draft_uses_credit_when_it_is_issued(ts: Tallystick) -> None:
    draft = ts.invoices.create("acme", amount_cents=2_000, draft=True)
    ts.invoices.record_payment(ts.invoices.create("acme", amount_cents=1_000).id, "40")
    assert ts.invoices.get(draft.id).credit_applied == money("0 USD")
    issued = ts.invoices.update(draft.id, status="paid")
    assert (issued.status, issued.credit_applied, issued.amount_paid) == ("paid", money("20 USD"), money("0 USD"))
    assert ts.invoices.account("acme").credit == money("10 USD")
    assert_healthy(ts)


def test_a_draft_that_is_voided_takes_no_number(ts: Tallystick) -> None:
    draft = ts.invoices.create("acme", amount_cents=9900, draft=True)
    assert ts.invoices.void(draft.id).status == "cancelled"
    with pytest.raises(Conflict, match="was cancelled"):
        ts.invoices.finalize(draft.id)
    assert ts.invoices.create("acme", amount_cents=9900).number == "INV-2026-000001"
    assert_healthy(ts)


def test_what_waited_on_a_generated_draft_waits_again_when_it_is_voided(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, invoicing={"finalize": False}) as ts:
        ts.plans.create("pro", price=money("100 USD"))
        ts.subscriptions.create("user:1", "pro")
        ts.run_due_jobs()
        draft = ts.invoices.list("user:1")[0]
        assert (draft.status, draft.total) == ("draft", money("100 USD"))
        with pytest.raises(Conflict, match="what waited"):
            ts.invoices.update(draft.id, line_items=LINES)
        ts.invoices.void(draft.id)
        again = ts.invoices.preview("user:1")
        assert again is not None
        assert money("100 USD") in [one.amount for one in again.line_items]
        assert_healthy(ts)


# -- found ------------------------------------------------------------------------------------------------------------


def test_invoices_are_listed_by_payer_status_and_time(ts: Tallystick, clock: FixedClock) -> None:
    made = []
    for payer in ("acme", "acme", "user:1", "acme"):
        made.append(ts.invoices.create(payer, amount_cents=100, due_date="2026-01-20"))
        clock.advance(days=1)
    paid, open_one, other, void = made
    ts.invoices.record_payment(paid.id)
    ts.invoices.void(void.id)
    assert [one.id for one in ts.invoices.list()] == [void.id, other.id, open_one.id, paid.id]
    assert [one.id for one in ts.invoices.list("acme", status="paid")] == [paid.id]
    assert [one.id for one in ts.invoices.list("acme", "cancelled")] == [void.id]
    assert [one.id for one in ts.invoices.list(status="pending")] == [other.id, open_one.id]
    clock.set("2026-01-21")
    assert [one.id for one in ts.invoices.list(status="overdue")] == [other.id, open_one.id]
    assert len(ts.invoices.list(status="pending")) == 0
    assert [one.id for one in ts.invoices.list(start="2026-01-16T12:00:00Z", end="2026-01-17T12:00:00Z")] == [
        open_one.id
    ]
    with pytest.raises(InvalidInput, match="status"):
        ts.invoices.list(status="late")


def test_pages_have_each_invoice_once(ts: Tallystick) -> None:
    made = {ts.invoices.create("acme", amount_cents=100).id for _ in range(7)}
    found: list[str] = []
    cursor = None
    while True:
        page = ts.invoices.list("acme", limit=3, cursor=cursor)
        found += [one.id for one in page]
        if (cursor := page.next_cursor) is None:
            break
    assert (len(found), set(found)) == (7, made)


@pytest.mark.parametrize("name", ["INV-2026-000009", "inv_0", ""])
def test_an_invoice_that_is_not_there_is_said_to_be_missing(ts: Tallystick, name: str) -> None:
    for act in (ts.invoices.get, ts.invoices.void, ts.invoices.finalize, ts.invoices.archive, ts.invoices.payments):
        with pytest.raises(NotFound):
            act(name)


# -- changed ----------------------------------------------------------------------------------------------------------


def test_a_status_is_reached_as_its_own_method_would(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=9900, draft=True)
    assert ts.invoices.update(invoice.id, status="pending").number == "INV-2026-000001"
    assert ts.invoices.update(invoice.id, status="pending").status == "pending"
    paid = ts.invoices.update(invoice.id, status="paid", external_payment_id="pay_1")
    assert (paid.status, paid.external_payment_id) == ("paid", "pay_1")
    assert ts.invoices.update(invoice.id, status="paid", external_payment_id="pay_1") == paid
    assert ts.invoices.update(invoice.id, status="paid") == paid
    assert len(ts.invoices.payments(invoice.id)) == 1
    for status in ("pending", "draft", "overdue", "cancelled", "partially_refunded"):
        with pytest.raises(Conflict):
            ts.invoices.update(invoice.id, status=status)
    with pytest.raises(InvalidInput, match="status"):
        ts.invoices.update(invoice.id, status="done")
    with pytest.raises(InvalidInput, match='Say status="paid" with it'):
        ts.invoices.update(invoice.id, external_payment_id="pay_1")
    other = ts.invoices.create("acme", amount_cents=9900)
    assert ts.invoices.update(other.id, status="cancelled").status == "cancelled"


def test_a_void_gives_used_credit_back_and_keeps_the_number(ts: Tallystick) -> None:
    ts.invoices.record_payment(ts.invoices.create("acme", amount_cents=1_000).id, "40")
    invoice = ts.invoices.create("acme", amount_cents=5_000)
    assert (invoice.credit_applied, invoice.amount_due) == (money("30 USD"), money("20 USD"))
    void = ts.invoices.void(invoice.id)
    assert (void.status, void.number, void.amount_due) == ("cancelled", "INV-2026-000002", money("0 USD"))
    assert ts.invoices.void(invoice.id) == void
    assert ts.invoices.account("acme").credit == money("30 USD")
    assert ts.invoices.create("acme", amount_cents=1).number == "INV-2026-000003"
    assert_healthy(ts)


@pytest.mark.parametrize("way", ["payment", "credit", "settled"])
def test_an_invoice_of_which_something_was_paid_or_credited_is_not_voided(ts: Tallystick, way: str) -> None:
    invoice = ts.invoices.create("acme", amount_cents=5_000)
    if way == "credit":
        ts.invoices.credit(invoice.id, "1", reason="Goodwill")
    else:
        ts.invoices.record_payment(invoice.id, None if way == "settled" else "1")
    with pytest.raises(Conflict, match=r"correct it with ts\.invoices\.credit"):
        ts.invoices.void(invoice.id)
    assert_healthy(ts)


def test_only_what_is_done_is_archived(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=5_000)
    with pytest.raises(Conflict, match="is pending: it is not done"):
        ts.invoices.archive(invoice.id)
    ts.invoices.void(invoice.id)
    assert ts.invoices.archive(invoice.id).archived_at is not None
    assert len(ts.invoices.list("acme")) == 0
    assert len(ts.invoices.list("acme", include_archived=True)) == 1
    assert ts.invoices.archive(invoice.id, archived=False).archived_at is None
    assert len(ts.invoices.list("acme")) == 1


def test_an_account_is_one_of_a_currency(ts: Tallystick) -> None:
    ts.invoices.create("acme", line_items=[{"description": "A", "amount": "1.005"}], currency="EUR")
    assert ts.invoices.account("acme", "EUR").carried == money("0.005 EUR")
    own = ts.invoices.account("acme")
    assert (own.currency, own.carried, own.credit) == ("USD", money("0 USD"), money("0 USD"))
    assert own.to_dict() == {
        "billable": "tenant:acme",
        "currency": "USD",
        "carried": money("0 USD").to_dict(),
        "credit": money("0 USD").to_dict(),
    }
    with pytest.raises(InvalidInput):
        ts.invoices.account("acme", "DOLLARS")
