"""Billing under fire: workers at once and killed, lost answers, plans changed while they are billed, trials undone."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import func, select

from tallystick import FixedClock, Money, Tallystick
from tallystick.errors import OutcomeUnknown
from tallystick.events import InvoiceCreated, SubscriptionRenewed
from tallystick.invoicing.values import Invoice
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, count_rows, errors_of, in_threads
from tests.acceptance.billing_checks import assert_adds_up
from tests.acceptance.billing_processes import (
    bill_at_once,
    bill_until_killed,
    create_invoices,
    pay_at_once,
    work_on_subscriptions,
)
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS, run_in_processes
from tests.acceptance.proxy import BreakingProxy
from tests.values import money

START = "2026-01-31T08:00:00Z"
LATER = "2026-07-01T00:00:00Z"
# Periods that began from 31 January to 30 June.
PERIODS = 6
SETTINGS: dict[str, Any] = {"invoicing": {"tax": {"rate_percent": "19", "name": "VAT"}}}


def sell(ts: Tallystick, customers: int) -> None:
    """Sell a plan to so many customers, and have each of them use something."""
    ts.plans.create("pro", price=Money("9.99", "USD"), usage_prices={"message": "0.0033"})
    ts.plans.create("team", price=Money("49.5", "USD"), usage_prices={"message": "0.0011"})
    for number in range(customers):
        ts.subscriptions.create(f"user:{number}", "pro")
    ts.usage.record_batch(
        {"billable": f"user:{number}", "resource_type": "message", "quantity": number + 1}
        for number in range(customers)
    )


def all_invoices(ts: Tallystick, billable: str | None = None) -> list[Invoice]:
    found: list[Invoice] = []
    cursor = None
    while True:
        page = ts.invoices.list(billable, limit=500, cursor=cursor)
        found += page
        cursor = page.next_cursor
        if cursor is None:
            return sorted(found, key=lambda one: (one.created_at, one.number or "", one.id))


def assert_billed_once(ts: Tallystick, customers: int) -> None:
    """Assert that every customer was billed each period, and its use, once, and that numbers have no gap."""
    invoices = all_invoices(ts)
    periods = Counter(
        (one.billable, line.period_start) for one in invoices for line in one.line_items if line.kind == "fee"
    )
    assert set(periods.values()) == {1}
    assert len(periods) == customers * PERIODS
    used = Counter[str]()
    for one in invoices:
        used[one.billable] += sum(line.amount.nanos for line in one.line_items if line.kind == "usage")
    assert used == {f"user:{number}": 3_300_000 * (number + 1) for number in range(customers)}
    assert_numbers(invoices)
    for number in range(customers):
        assert_adds_up([one for one in invoices if one.billable == f"user:{number}"])
    assert_healthy(ts)


def assert_numbers(invoices: list[Invoice]) -> None:
    numbers = sorted(int(one.number[-6:]) for one in invoices if one.number is not None)
    assert numbers == list(range(1, len(numbers) + 1))


def dump(ts: Tallystick) -> dict[str, list[Any]]:
    """Return all that stands in the database."""

    def read(connection: Any) -> dict[str, list[Any]]:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(select(table)))
            for table in tables.metadata.sorted_tables
        }

    return ts._engine.read(read)


# -- workers --------------------------------------------------------------------------------------------------------


def test_three_workers_in_processes_bill_everything_once(database_url: str) -> None:
    with Tallystick(database_url, clock=FixedClock(START), **SETTINGS) as ts:
        sell(ts, 60)
    ready = CONTEXT.Barrier(3)
    answers = run_in_processes(3, bill_at_once, database_url, LATER, SETTINGS, ready)
    with Tallystick(database_url, clock=FixedClock(LATER), **SETTINGS) as ts:
        # One that passes over what another has locked may be done before it.
        ts.run_due_jobs()
        assert sum(made for made, _ in answers) <= 60 * PERIODS
        assert_billed_once(ts, 60)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_worker_that_is_killed_leaves_nothing_half_done(database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    with Tallystick(database_url, clock=FixedClock(START), **SETTINGS) as ts:
        sell(ts, 60)
        workers = [CONTEXT.Process(target=bill_until_killed, args=(database_url, LATER, SETTINGS)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            _wait_for_invoices(ts, chance.randrange(1, 150))
            worker.kill()
        for worker in workers:
            worker.join(JOIN_SECONDS)
        assert count_rows(ts, tables.invoices) < 60 * PERIODS, "none was killed in the middle"
    with Tallystick(database_url, clock=FixedClock(LATER), **SETTINGS) as ts:
        ts.run_due_jobs()
        assert_billed_once(ts, 60)
        assert ts.run_due_jobs().invoices == 0


def _wait_for_invoices(ts: Tallystick, number: int) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while count_rows(ts, tables.invoices) < number:
        assert time.monotonic() < deadline, "the worker bills nothing"
        time.sleep(0.002)


def test_each_renewal_and_invoice_is_told_once_by_workers_at_once(ts: Tallystick, clock: FixedClock) -> None:
    heard: list[tuple[str, str, str]] = []
    clock.set(START)
    sell(ts, 12)
    url = ts.settings.database_url
    with Tallystick(url, clock=clock) as other:
        for one in (ts, other):
            one.on(InvoiceCreated)(lambda event: heard.append(("invoice", event.invoice.id, "")))
            one.on(SubscriptionRenewed)(
                lambda event: heard.append(("renewal", event.billable, str(event.period_start)))
            )
        clock.set(LATER)
        workers = (ts, other)
        errors_of(in_threads(4, lambda index: workers[index % 2].run_due_jobs()), AssertionError)
        ts.run_due_jobs()
    assert len(heard) == len(set(heard))
    assert Counter(kind for kind, _, _ in heard) == {"invoice": 12 * PERIODS, "renewal": 12 * (PERIODS - 1)}


# -- lost answers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[BreakingProxy]:
    """A way to PostgreSQL that breaks when told to."""
    proxy = BreakingProxy(postgres_url)
    yield proxy
    proxy.close()


def test_a_run_whose_answer_was_lost_bills_nothing_twice(proxy: BreakingProxy, clock: FixedClock) -> None:
    clock.set(START)
    with Tallystick(proxy.url, clock=clock) as ts:
        sell(ts, 7)
        clock.set(LATER)
        breaks = 0
        for _ in range(20):
            proxy.break_at_next_commit()
            try:
                made = ts.invoices.generate()
            except OutcomeUnknown:
                breaks += 1
                continue
            if not len(made):
                break
        assert breaks > 1
        ts.run_due_jobs()
        assert_billed_once(ts, 7)


@pytest.mark.parametrize(
    "act",
    [
        lambda ts: ts.subscriptions.change_plan("user:0", "team"),
        lambda ts: ts.invoices.create("user:0", amount_cents=500, idempotency_key="once"),
        lambda ts: ts.invoices.record_payment(
            all_invoices(ts, "user:0")[0].id, Money("4", "USD"), external_payment_id="pay-1"
        ),
        lambda ts: ts.invoices.add_item("user:0", "3", "Work", idempotency_key="once"),
    ],
    ids=["change of plan", "invoice by hand", "payment", "item"],
)
def test_what_lost_its_answer_can_be_said_again(
    proxy: BreakingProxy, clock: FixedClock, act: Callable[[Tallystick], object]
) -> None:
    clock.set(START)
    with Tallystick(proxy.url, clock=clock) as ts:
        sell(ts, 1)
        ts.run_due_jobs()
        clock.advance(days=3)
        proxy.break_at_next_commit()
        with pytest.raises(OutcomeUnknown):
            act(ts)
        before = {name: len(rows) for name, rows in dump(ts).items()}
        act(ts)
        assert {name: len(rows) for name, rows in dump(ts).items()} == before
        assert_healthy(ts)


# -- at once --------------------------------------------------------------------------------------------------------


def test_plans_change_while_they_are_billed_and_used(postgres_url: str) -> None:
    with Tallystick(postgres_url, clock=FixedClock(START)) as ts:
        sell(ts, 4)
        before = count_rows(ts, tables.usage_events)
    ready = CONTEXT.Barrier(3)
    errors = run_in_processes(3, work_on_subscriptions, postgres_url, LATER, 16, ready)
    assert errors == [[], [], []]
    with Tallystick(postgres_url, clock=FixedClock("2026-08-15T00:00:00Z")) as ts:
        ts.run_due_jobs()
        assert count_rows(ts, tables.usage_events) == before + 3 * 3 * 4 * 5
        invoices = all_invoices(ts)
        assert_numbers(invoices)
        for number in range(4):
            billable = f"user:{number}"
            found = [one for one in invoices if one.billable == billable]
            assert_adds_up(found)
            fees = Counter(line.period_start for one in found for line in one.line_items if line.kind == "fee")
            assert set(fees.values()) == {1}
            assert len(fees) == 7
            # Each of eight months' counters begins at zero; what was used in one month is priced by both plans.
            items = tables.invoice_items.c
            per_item = select(func.count(), func.count(items.key.distinct())).where(items.billable == billable)
            rows = ts._engine.read(lambda connection, query=per_item: connection.execute(query).one())  # type: ignore[misc]
            assert rows[0] == rows[1]
            lines = sum(line.amount.nanos for one in found for line in one.line_items)
            assert lines == _charged(ts, billable)
        assert_healthy(ts)


def _charged(ts: Tallystick, billable: str) -> int:
    """Return what items and use come to that are on invoices."""
    total = 0
    for table in (tables.invoice_items, tables.usage_charges, tables.overages):
        query = select(func.coalesce(func.sum(table.c.amount), 0)).where(
            table.c.billable == billable, table.c.invoice_id.isnot(None)
        )
        total += int(ts._engine.read(lambda connection, query=query: connection.execute(query).scalar_one()))  # type: ignore[misc]
    return total


def test_numbers_have_no_gap_whoever_issues_and_whatever_is_refused(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        ts.plans.create("pro", price=money("1 USD"))
    ready = CONTEXT.Barrier(2)
    outcomes = run_in_processes(2, create_invoices, database_url, 4, 8, ready)
    ids = [one for answers in outcomes for one in answers]
    assert not [one for one in ids if isinstance(one, str)], ids
    with Tallystick(database_url) as ts:
        invoices = all_invoices(ts)
        issued = [one for one in invoices if one.number is not None]
        assert_numbers(invoices)
        assert {one.id for one in issued} == {id_ for made in ids for id_ in made}
        # 2 processes × 4 threads × 4 times without a key; with one, one for each key and payer.
        assert len(issued) == 2 * 4 * 4 + 4 * 5
        assert all(one.status == "cancelled" for one in invoices if one.number is None)
        assert_healthy(ts)


def test_one_payment_told_of_from_many_threads_is_one_payment(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        invoice = ts.invoices.create("user:1", amount_cents=10_000)
    ready = CONTEXT.Barrier(2)
    outcomes = run_in_processes(2, pay_at_once, database_url, invoice.id, ready)
    assert len({one for answers in outcomes for one in answers}) == 1
    with Tallystick(database_url) as ts:
        assert len(list(ts.invoices.payments(invoice.id))) == 1
        paid = ts.invoices.get(invoice.id)
        assert (paid.amount_paid, paid.amount_due, paid.status) == (money("40 USD"), money("60 USD"), "pending")


def test_payments_at_once_never_take_more_than_is_due_off_an_invoice(ts: Tallystick) -> None:
    invoice = ts.invoices.create("user:1", amount_cents=1_000)
    outcomes = in_threads(
        8, lambda number: ts.invoices.record_payment(invoice.id, "3", external_payment_id=f"pay-{number}")
    )
    assert not [one for one in outcomes if isinstance(one, BaseException)], outcomes
    paid = ts.invoices.get(invoice.id)
    assert (paid.amount_paid, paid.status) == (money("10 USD"), "paid")
    # Each payment is a fact: what was more than due is credit.
    assert ts.invoices.account("user:1").credit == money("14 USD")
    assert_healthy(ts)


def test_two_generations_at_once_make_each_invoice_once(ts: Tallystick, clock: FixedClock) -> None:
    clock.set(START)
    sell(ts, 10)
    clock.set(LATER)
    with Tallystick(ts.settings.database_url, clock=clock) as other:
        engines = (ts, other)
        made = in_threads(4, lambda index: engines[index % 2].invoices.generate())
        assert not [one for one in made if isinstance(one, BaseException)], made
        ids = [one.id for generation in made for one in generation]
        assert len(ids) == len(set(ids))
        ts.invoices.generate()
    assert_billed_once(ts, 10)


# -- what leaves nothing behind -------------------------------------------------------------------------------------


def test_looking_ahead_leaves_nothing_behind(ts: Tallystick, clock: FixedClock) -> None:
    clock.set(START)
    sell(ts, 3)
    ts.coupons.create("ONCE", percent_off="50")
    ts.coupons.redeem("user:0", "ONCE")
    ts.subscriptions.create("user:9", "team", pending=True)
    clock.set("2026-03-10T00:00:00Z")
    ts.subscriptions.change_plan("user:1", "team")
    heard: list[object] = []
    ts.on(InvoiceCreated)(heard.append)
    before = dump(ts)
    for _ in range(2):
        looked = ts.invoices.generate(dry_run=True)
        assert len(looked) == 6
        ts.invoices.generate("2026-02", dry_run=True)
        for billable in ("user:0", "user:1", "user:9", "user:77"):
            ts.invoices.preview(billable)
        ts.subscriptions.preview_change("user:0", "team")
        ts.subscriptions.migrate("team", from_plan="pro", dry_run=True)
    assert dump(ts) == before
    assert heard == []
    preview = ts.invoices.preview("user:0")
    made = ts.invoices.generate()
    assert preview is not None
    said = [(one.billable, str(one.total), [str(line.amount) for line in one.line_items]) for one in looked]
    done = [(one.billable, str(one.total), [str(line.amount) for line in one.line_items]) for one in made]
    assert sorted(said) == sorted(done)
    first = next(one for one in made if one.billable == "user:0")
    assert [line.amount for line in first.line_items] == [line.amount for line in preview.line_items]
