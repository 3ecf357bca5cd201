"""What waits for the next invoice by hand, and invoicing at once what waits."""

from __future__ import annotations

import asyncio
from decimal import Decimal, localcontext
from typing import Any

import psycopg
import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.events import InvoiceCreated
from tallystick.invoicing.values import Invoice, LineKind
from tests.acceptance.accounts import assert_healthy, errors_of, in_threads
from tests.invoicing.waiting import start_and_wait
from tests.values import money

BILLABLE = "user:1"


def sell(ts: Tallystick, slug: str = "pro", price: str = "100 USD", **terms: Any) -> None:
    ts.plans.create(slug, price=money(price), **terms)


def invoices(ts: Tallystick, payer: str = BILLABLE) -> list[Invoice]:
    """Return a payer's invoices, the first one first."""
    return list(reversed(list(ts.invoices.list(payer, include_archived=True))))


def lines(invoice: Invoice) -> list[tuple[str, str]]:
    return [(one.description, str(one.amount)) for one in invoice.line_items]


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_an_item_waits_for_the_next_invoice(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.subscriptions.create(BILLABLE, "pro")
    ts.run_due_jobs()
    added = ts.invoices.add_item(BILLABLE, "12.50", "Training", quantity="1.5")
    assert (added.amount, added.quantity, added.kind) == (money("18.75 USD"), Decimal("1.5"), LineKind.ITEM)
    assert list(ts.invoices.items(BILLABLE)) == [added]
    clock.set("2026-02-15T12:00:00Z")
    ts.run_due_jobs()
    assert lines(invoices(ts)[1]) == [("pro (monthly)", "100.00 USD"), ("Training", "18.75 USD")]
    assert invoices(ts)[1].line_items[1].item_id == added.id
    assert list(ts.invoices.items(BILLABLE)) == []
    assert_healthy(ts)


def test_of_somebody_without_a_subscription_it_is_invoiced_too(ts: Tallystick) -> None:
    ts.tenants.create("Acme", "acme")
    ts.invoices.add_item("acme", 30, "Setup")
    ts.run_due_jobs()
    (invoice,) = invoices(ts, "acme")
    assert (invoice.billable, lines(invoice)) == ("tenant:acme", [("Setup", "30.00 USD")])


def test_goodwill_takes_something_off_and_no_discount_makes_less_of_it(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("HALF", percent_off=50)
    ts.coupons.redeem(BILLABLE, "HALF")
    ts.subscriptions.create(BILLABLE, "pro")
    ts.invoices.add_item(BILLABLE, money("-20 USD"), "Sorry for the outage")
    ts.invoices.add_item(BILLABLE, 30, "Training")
    ts.run_due_jobs()
    (invoice,) = invoices(ts)
    assert lines(invoice) == [
        ("pro (monthly)", "100.00 USD"),
        ("Training", "30.00 USD"),
        ("Sorry for the outage", "-20.00 USD"),
        ("HALF (−50 %)", "-65.00 USD"),
    ]
    assert invoice.total == money("45 USD")


def test_goodwill_alone_goes_onstart_and_wait(ts: Tallystick) -> None:
    ts.invoices.add_item(BILLABLE, "-20", "Sorry")
    ts.run_due_jobs()
    assert list(ts.invoices.bill_now(BILLABLE)) == []
    assert [str(one.amount) for one in ts.invoices.items(BILLABLE)] == ["-20.00 USD"]
    ts.invoices.add_item(BILLABLE, 50, "Setup")
    assert [str(one.total) for one in ts.invoices.bill_now(BILLABLE)] == ["30.00 USD"]


def test_one_for_later_is_on_no_invoice_before_it_is_due(ts: Tallystick, clock: FixedClock) -> None:
    ts.invoices.add_item(BILLABLE, 10, "Now")
    ts.invoices.add_item(BILLABLE, 20, "Later", due_at="2026-03-01")
    assert [lines(one) for one in ts.invoices.bill_now(BILLABLE)] == [[("Now", "10.00 USD")]]
    clock.set("2026-02-28T23:59:59.999999Z")
    assert list(ts.invoices.bill_now(BILLABLE)) == []
    clock.set("2026-03-01")
    assert [lines(one) for one in ts.invoices.bill_now(BILLABLE)] == [[("Later", "20.00 USD")]]


def test_one_of_a_subscription_is_on_an_invoice_of_that(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, subscriptions={"allow_multiple": True}) as ts:
        sell(ts)
        sell(ts, "addon", "10 USD")
        ts.subscriptions.create(BILLABLE, "pro")
        addon = ts.subscriptions.create(BILLABLE, "addon")
        ts.invoices.add_item(BILLABLE, 5, "More of the add-on", subscription=addon.id)
        ts.run_due_jobs()
        found = {one.subscription_id: str(one.total) for one in invoices(ts)}
        assert found.pop(addon.id) == "15.00 USD"
        assert list(found.values()) == ["100.00 USD"]
        with pytest.raises(NotFound):
            ts.invoices.add_item("user:2", 5, "Not theirs", subscription=addon.id)


def test_each_currency_has_an_invoice_of_its_own(ts: Tallystick) -> None:
    ts.invoices.add_item(BILLABLE, money("10 EUR"), "In euros")
    ts.invoices.add_item(BILLABLE, "20", "In euros too", currency="eur")
    ts.invoices.add_item(BILLABLE, 5, "In dollars")
    assert sorted(str(one.total) for one in ts.invoices.bill_now(BILLABLE)) == ["30.00 EUR", "5.00 USD"]


def test_fees_and_prorations_wait_in_the_words_of_the_customer(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    sell(ts, "team", "200 USD")
    ts.invoices.set_billing_details(BILLABLE, locale="pt-BR")
    ts.subscriptions.create(BILLABLE, "pro")
    ts.run_due_jobs()
    clock.set("2026-01-31T00:00:00Z")
    ts.subscriptions.change_plan(BILLABLE, "team")
    ts.invoices.add_item(BILLABLE, 10, "Treinamento")
    waiting = ts.invoices.items(BILLABLE)
    assert [str(one.kind) for one in waiting] == ["proration", "proration", "item"]
    assert [one.amount.nanos > 0 for one in waiting] == [False, True, True]
    assert "Tempo" in waiting[0].description
    assert waiting[0].period_end is not None
    for one in waiting[:2]:
        with pytest.raises(Conflict, match="is a proration that follows from a subscription"):
            ts.invoices.remove_item(one.id)


def test_an_item_is_a_plain_value(ts: Tallystick, clock: FixedClock) -> None:
    item = ts.invoices.add_item(BILLABLE, "0.000000001", "Tiny", quantity=2)
    assert item.to_dict() | {"id": ""} == {
        "id": "",
        "billable": "user:1",
        "kind": "item",
        "description": "Tiny",
        "quantity": "2",
        "amount": {"amount": "0.000000002", "currency": "USD"},
        "amount_cents": 0,
        "subscription_id": None,
        "period_start": None,
        "period_end": None,
        "due_at": "2026-01-15T12:00:00+00:00",
        "created_at": "2026-01-15T12:00:00+00:00",
    }


# -- taking back, and saying twice ------------------------------------------------------------------------------------


def test_one_that_waits_can_be_taken_back(ts: Tallystick) -> None:
    item = ts.invoices.add_item(BILLABLE, 10, "A mistake")
    assert ts.invoices.remove_item(item.id) == item
    assert list(ts.invoices.items(BILLABLE)) == []
    with pytest.raises(NotFound):
        ts.invoices.remove_item(item.id)


def test_one_on_an_invoice_stays(ts: Tallystick) -> None:
    item = ts.invoices.add_item(BILLABLE, 10, "Setup")
    ts.invoices.bill_now(BILLABLE)
    with pytest.raises(Conflict, match="stands on invoice inv_"):
        ts.invoices.remove_item(item.id)


def test_a_cancelled_draft_lets_its_items_wait_again(sqlite_url: str, clock: FixedClock) -> None:
    with Tallystick(sqlite_url, clock=clock, invoicing={"finalize": False}) as ts:
        item = ts.invoices.add_item(BILLABLE, 10, "Setup")
        (draft,) = ts.invoices.bill_now(BILLABLE)
        assert (draft.status, draft.number) == ("draft", None)
        ts.invoices.void(draft.id)
        assert list(ts.invoices.items(BILLABLE)) == [item]


def test_the_same_key_adds_once(ts: Tallystick) -> None:
    first = ts.invoices.add_item(BILLABLE, 10, "Setup", idempotency_key="order-1")
    assert ts.invoices.add_item(BILLABLE, "10.00", " Setup ", idempotency_key="order-1") == first
    assert ts.invoices.add_item("user:2", 10, "Setup", idempotency_key="order-1").id != first.id
    for field, amount, description, others in (
        ("amount", 11, "Setup", {}),
        ("currency", 10, "Setup", {"currency": "EUR"}),
        ("description", 10, "Support", {}),
        ("quantity", 5, "Setup", {"quantity": 2}),
    ):
        with pytest.raises(IdempotencyConflict) as refused:
            ts.invoices.add_item(BILLABLE, amount, description, idempotency_key="order-1", **others)
        assert refused.value.field == field
    ts.invoices.bill_now(BILLABLE)
    assert ts.invoices.add_item(BILLABLE, 10, "Setup", idempotency_key="order-1") == first
    assert list(ts.invoices.items(BILLABLE)) == []


def test_the_same_key_at_once_adds_once(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:

        def add(number: int) -> str:
            ts = (one, other)[number % 2]
            return ts.invoices.add_item(BILLABLE, 10, "Setup", idempotency_key="order-1").id

        outcomes = in_threads(10, add)
        assert errors_of(outcomes, Conflict) == []
        assert len(set(outcomes)) == len(one.invoices.items(BILLABLE)) == 1


@pytest.mark.parametrize(
    ("field", "amount", "description", "others"),
    [
        ("amount", 0, "Nothing", {}),
        ("amount", "much", "Words", {}),
        ("amount", 1.5, "A float", {}),
        ("amount", "0.0000000001", "Too fine", {}),
        ("amount", money("1 EUR"), "Two currencies", {"currency": "USD"}),
        ("currency", 1, "No currency", {"currency": "dollars"}),
        ("quantity", 1, "None", {"quantity": 0}),
        ("quantity", 1, "Less than none", {"quantity": -1}),
        ("quantity", "0.000000001", "Half a nano", {"quantity": "0.5"}),
        ("description", 1, " ", {}),
        ("description", 1, "x" * 501, {}),
        ("due_at", 1, "Some day", {"due_at": "some day"}),
        ("idempotency_key", 1, "No key", {"idempotency_key": ""}),
    ],
)
def test_what_cannot_be_an_item_is_refused_by_its_field(
    sqlite_url: str, field: str, amount: Any, description: str, others: dict[str, Any]
) -> None:
    with Tallystick(sqlite_url) as ts:
        with pytest.raises(InvalidInput) as refused:
            ts.invoices.add_item(BILLABLE, amount, description, **others)
        assert refused.value.field == field
        assert list(ts.invoices.items(BILLABLE)) == []


def test_the_applications_decimal_context_changes_nothing(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts, localcontext(prec=2):
        assert str(ts.invoices.add_item(BILLABLE, "1234.567", "Exact", quantity=3).amount) == "3703.701 USD"


# -- at once ----------------------------------------------------------------------------------------------------------


def test_billing_now_takes_what_waits_and_leaves_the_subscriptions_as_they_are(
    ts: Tallystick, clock: FixedClock
) -> None:
    heard: list[InvoiceCreated] = []
    ts.on(InvoiceCreated)(heard.append)
    sell(ts)
    ts.subscriptions.create(BILLABLE, "pro")
    ts.run_due_jobs()
    ts.invoices.add_item(BILLABLE, 10, "Setup")
    clock.set("2026-01-20")
    (now,) = ts.invoices.bill_now(BILLABLE)
    assert (now.subscription_id, lines(now), now.status) == (None, [("Setup", "10.00 USD")], "pending")
    assert [one.invoice.id for one in heard] == [invoices(ts)[0].id, now.id]
    assert list(ts.invoices.bill_now(BILLABLE)) == []
    clock.set("2026-02-15T12:00:00Z")
    ts.run_due_jobs()
    assert lines(invoices(ts)[2]) == [("pro (monthly)", "100.00 USD")]
    assert_healthy(ts)


def test_billing_now_takes_use_too(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, monthly_token_limit=0, overage_behavior="charge", overage_price_per_1k_tokens=money("1 USD"))
    ts.subscriptions.create(BILLABLE, "pro")
    ts.run_due_jobs()
    ts.usage.record(billable=BILLABLE, provider="manual", model="m", input_tokens=2_500, total_cost=money("0 USD"))
    clock.advance(seconds=1)
    (now,) = ts.invoices.bill_now(BILLABLE)
    assert [(str(one.kind), str(one.amount)) for one in now.line_items] == [("overage", "2.50 USD")]
    clock.set("2026-02-15T12:00:00Z")
    ts.run_due_jobs()
    assert str(invoices(ts)[2].total) == "100.00 USD"


def test_a_subscriptions_discount_holds_for_what_is_billed_now(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    sell(ts, "team", "200 USD")
    ts.coupons.create("HALF", percent_off=50, duration="forever")
    ts.subscriptions.create(BILLABLE, "pro", coupon="HALF")
    ts.run_due_jobs()
    clock.set("2026-01-31T00:00:00Z")
    ts.subscriptions.change_plan(BILLABLE, "team")
    clock.advance(seconds=1)
    (now,) = ts.invoices.bill_now(BILLABLE)
    amounts = {one.description: one.amount for one in now.line_items}
    credit, charge, off = (amounts[name] for name in ("Unused time of pro", "Remaining time of team", "HALF (−50 %)"))
    # Of the new price a half; of the old one what was paid, which was a half.
    assert off * -2 == charge
    assert credit * -4 == charge


def test_of_two_that_bill_at_once_one_has_the_item(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        sell(one)
        for number in range(8):
            payer = f"user:{number}"
            one.subscriptions.create(payer, "pro")
            one.invoices.add_item(payer, 10, "Setup")

            def bill(thread: int, payer: str = payer) -> None:
                ts = (one, other)[thread % 2]
                if thread // 2:
                    ts.invoices.bill_now(payer)
                else:
                    ts.invoices.generate(tenant=payer)

            assert errors_of(in_threads(4, bill), Conflict) == []
            setups = [line for invoice in invoices(one, payer) for line in lines(invoice) if line[0] == "Setup"]
            assert setups == [("Setup", "10.00 USD")]
        assert_healthy(one)


@pytest.mark.parametrize("first", ["remove_item", "bill_now"])
def test_what_another_has_taken_before_the_run_has_its_turn_is_not_billed_again(
    postgres_url: str, clock: FixedClock, first: str
) -> None:
    with Tallystick(postgres_url, clock=clock) as one, Tallystick(postgres_url, clock=clock) as other:
        sell(one)
        one.subscriptions.create(BILLABLE, "pro")
        one.invoices.add_item(BILLABLE, 10, "Elsewhere")
        one.invoices.bill_now(BILLABLE)
        item = one.invoices.add_item(BILLABLE, 10, "Setup")
        calls = {
            "remove_item": lambda: one.invoices.remove_item(item.id),
            "bill_now": lambda: one.invoices.bill_now(BILLABLE),
        }
        with psycopg.connect(postgres_url) as holding:
            holding.execute("SELECT 1 FROM billing_accounts FOR UPDATE")
            holding.execute("SELECT 1 FROM invoice_items FOR UPDATE")
            # Whoever came first waits, and so does the run: it must look again when it has its turn.
            threads = [start_and_wait(postgres_url, 1, calls[first])]
            threads.append(start_and_wait(postgres_url, 2, lambda: other.invoices.generate()))
            holding.rollback()
            for thread in threads:
                thread.join(timeout=30)
        setups = [line for invoice in invoices(one) for line in lines(invoice) if line[0] == "Setup"]
        assert len(setups) == (1 if first == "bill_now" else 0)


def test_what_the_run_has_taken_meanwhile_is_not_removed(postgres_url: str, clock: FixedClock) -> None:
    with Tallystick(postgres_url, clock=clock) as one, Tallystick(postgres_url, clock=clock) as other:
        item = one.invoices.add_item(BILLABLE, 10, "Setup")
        refused: list[Conflict] = []

        def remove() -> None:
            try:
                one.invoices.remove_item(item.id)
            except Conflict as error:
                refused.append(error)

        with psycopg.connect(postgres_url) as holding:
            holding.execute("SELECT 1 FROM invoice_items FOR UPDATE")
            threads = [
                start_and_wait(postgres_url, 1, lambda: other.invoices.generate()),
                start_and_wait(postgres_url, 2, remove),
            ]
            holding.rollback()
            for thread in threads:
                thread.join(timeout=30)
        assert len(refused) == 1
        assert [lines(invoice) for invoice in invoices(one)] == [[("Setup", "10.00 USD")]]


def test_items_are_awaited_too(sqlite_url: str, clock: FixedClock) -> None:
    async def use() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            item = await ts.invoices.add_item(BILLABLE, 10, "Setup")
            assert await ts.invoices.items(BILLABLE) == [item]
            await ts.invoices.remove_item(item.id)
            assert list(await ts.invoices.bill_now(BILLABLE)) == []
            await ts.invoices.set_billing_details(BILLABLE, name="Acme Ltd")
            assert (await ts.invoices.billing_details(BILLABLE)).name == "Acme Ltd"

    asyncio.run(use())
