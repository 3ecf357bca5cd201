"""Reminders of invoices that are owed, and what follows where nobody pays: each once, in order, whoever looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tallystick import FixedClock, Tallystick
from tallystick.events import InvoiceOverdue, PaymentFailed, PaymentSucceeded, SubscriptionCancelled
from tallystick.invoicing import dunning
from tallystick.invoicing.dunning import dun
from tests.acceptance.accounts import assert_healthy
from tests.values import money

Open = Callable[..., Tallystick]


@pytest.fixture
def opened(database_url: str, clock: FixedClock) -> Iterator[Open]:
    """Open engines on one database, with settings of invoicing."""
    engines: list[Tallystick] = []

    def make(**invoicing: Any) -> Tallystick:
        engines.append(Tallystick(database_url, clock=clock, invoicing=invoicing))
        return engines[-1]

    yield make
    assert_healthy(engines[0])
    for engine in engines:
        engine.close()


def subscribed(ts: Tallystick, *, price: str = "100 USD") -> str:
    """Sell a plan to user:1, and return its first invoice, which is due on 2026-02-14 at noon."""
    ts.plans.create("pro", price=money(price))
    ts.subscriptions.create("user:1", "pro")
    ts.run_due_jobs()
    return ts.invoices.list("user:1")[0].id


def reminders(ts: Tallystick, billable: str = "tenant:acme") -> list[tuple[str, str]]:
    """Return what a payer was told of its invoices and when, the oldest first."""
    found = reversed(list(ts.notifications.list(billable, limit=100)))
    kinds = ("invoice_due", "invoice_overdue")
    return [(one.type, f"{one.created_at:%m-%d}") for one in found if one.type in kinds]


def run_each_day(ts: Tallystick, clock: FixedClock, days: int) -> None:
    for _ in range(days):
        clock.advance(days=1)
        ts.run_due_jobs()


# -- reminders --------------------------------------------------------------------------------------------------------


def test_a_customer_is_reminded_before_and_after_an_invoice_is_due(ts: Tallystick, clock: FixedClock) -> None:
    overdue: list[InvoiceOverdue] = []
    ts.on(InvoiceOverdue)(overdue.append)
    invoice = ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14")
    run_each_day(ts, clock, 48)
    assert reminders(ts) == [
        ("invoice_due", "02-08"),
        ("invoice_overdue", "02-15"),
        ("invoice_overdue", "02-16"),
        ("invoice_overdue", "02-22"),
        ("invoice_overdue", "03-01"),
    ]
    assert [(one.invoice.id, one.invoice.status, one.days_overdue) for one in overdue] == [(invoice.id, "overdue", 0)]
    said = [one.message for one in ts.notifications.list("acme", limit=100)]
    assert said[-2:] == [
        "Invoice INV-2026-000001 is due at 2026-02-14 23:59 (UTC). Its amount is 99.00 USD.",
        "Invoice INV-2026-000001 was issued. Its amount is 99.00 USD. It is due at 2026-02-14 23:59 (UTC).",
    ]
    assert said[0] == "Invoice INV-2026-000001 was due at 2026-02-14 23:59 (UTC). Still to be paid: 99.00 USD."


def test_what_was_done_is_counted(ts: Tallystick, clock: FixedClock) -> None:
    ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14T12:00:00Z")
    counted = []
    for day in ("2026-02-07", "2026-02-14", "2026-02-15", "2026-02-16"):
        clock.set(f"{day}T12:00:00Z")
        done = ts.run_due_jobs()
        counted.append((done.reminders, done.overdue))
    assert counted == [(1, 0), (0, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize("way", ["paid", "void", "credited"])
def test_nothing_is_said_of_an_invoice_that_is_owed_no_more(ts: Tallystick, clock: FixedClock, way: str) -> None:
    invoice = ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14")
    clock.set("2026-02-10")
    ts.run_due_jobs()
    assert reminders(ts) == [("invoice_due", "02-10")]
    ways: dict[str, Callable[[], object]] = {
        "paid": lambda: ts.invoices.record_payment(invoice.id),
        "void": lambda: ts.invoices.void(invoice.id),
        "credited": lambda: ts.invoices.credit(invoice.id, reason="Goodwill"),
    }
    ways[way]()
    run_each_day(ts, clock, 7)
    assert reminders(ts) == [("invoice_due", "02-10")]


def test_a_draft_is_no_invoice_to_be_reminded_of(ts: Tallystick, clock: FixedClock) -> None:
    draft = ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14", draft=True)
    clock.set("2026-02-20")
    ts.run_due_jobs()
    assert reminders(ts) == []
    ts.invoices.finalize(draft.id)
    ts.run_due_jobs()
    assert reminders(ts) == [("invoice_overdue", "02-20")]


def test_who_was_away_tells_only_what_matters_now(ts: Tallystick, clock: FixedClock) -> None:
    overdue: list[InvoiceOverdue] = []
    ts.on(InvoiceOverdue)(overdue.append)
    ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14")
    clock.set("2026-02-25T06:00:00Z")
    done = ts.run_due_jobs()
    assert (done.reminders, done.overdue) == (1, 1)
    assert reminders(ts) == [("invoice_overdue", "02-25")]
    assert [one.days_overdue for one in overdue] == [10]
    run_each_day(ts, clock, 6)
    assert reminders(ts) == [("invoice_overdue", "02-25"), ("invoice_overdue", "03-01")]
    assert len(overdue) == 1


def test_who_gets_an_invoice_late_is_not_reminded_of_it_at_once(ts: Tallystick, clock: FixedClock) -> None:
    ts.invoices.create("acme", amount_cents=9900, due_date="2026-01-18")
    ts.run_due_jobs()
    assert reminders(ts) == []
    clock.set("2026-01-19T00:00:00Z")
    ts.run_due_jobs()
    assert reminders(ts) == [("invoice_overdue", "01-19")]


def test_a_reminder_says_what_is_still_to_be_paid(ts: Tallystick, clock: FixedClock) -> None:
    invoice = ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14")
    ts.invoices.record_payment(invoice.id, "90")
    clock.set("2026-02-15")
    ts.run_due_jobs()
    told = ts.notifications.list("acme")[0]
    assert "9.00 USD" in told.message
    assert told.metadata["invoice_id"] == invoice.id


def test_without_days_nothing_is_told_but_that_it_is_overdue(opened: Open, clock: FixedClock) -> None:
    ts = opened(reminder_days_before=[], overdue_reminder_days=[])
    ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14")
    run_each_day(ts, clock, 34)
    assert reminders(ts) == [("invoice_overdue", "02-15")]


def test_days_of_the_same_day_are_told_once(opened: Open, clock: FixedClock) -> None:
    ts = opened(reminder_days_before=[0], overdue_reminder_days=[0])
    ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14")
    run_each_day(ts, clock, 34)
    assert reminders(ts) == [("invoice_overdue", "02-15")]


def test_many_workers_at_once_remind_each_customer_once(opened: Open, clock: FixedClock) -> None:
    workers = [opened() for _ in range(4)]
    overdue: list[InvoiceOverdue] = []
    for worker in workers:
        worker.on(InvoiceOverdue)(overdue.append)
    for number in range(130):
        workers[0].invoices.create(f"user:{number}", amount_cents=100, due_date="2026-02-14")
    clock.set("2026-02-15T06:00:00Z")
    done: list[int] = []
    threads = [threading.Thread(target=lambda one=one: done.append(dun(one._engine).overdue)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What one had locked, another passes over; the next round has it.
    done += [dun(one._engine).overdue for one in workers]
    assert sum(done) == len(overdue) == len({one.billable for one in overdue}) == 130
    assert all(len(reminders(workers[0], f"user:{number}")) == 1 for number in range(130))


def test_what_is_owed_is_found_by_its_index(sqlite_url: str, clock: FixedClock) -> None:
    with Tallystick(sqlite_url, clock=clock, invoicing={"past_due_after_days": 7, "cancel_after_days": 30}) as ts:
        engine = ts._engine
        for job in dunning._jobs(engine, engine.settings.invoicing, engine.now()):
            query = dunning._owed(job.condition, 1).compile(
                dialect=engine.read(lambda connection: connection.dialect), compile_kwargs={"literal_binds": True}
            )
            plan = engine.read(lambda c, query=query: c.execute(text(f"EXPLAIN QUERY PLAN {query}")).all())  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            steps = [str(row[-1]) for row in plan]
            assert any("invoices USING INDEX ix_invoices_owed (due_at" in step for step in steps), steps
            assert not any("SCAN" in step or "TEMP B-TREE" in step for step in steps), steps


# -- what follows -----------------------------------------------------------------------------------------------------


def test_an_invoice_that_stays_overdue_begins_the_grace_period(opened: Open, clock: FixedClock) -> None:
    ts = opened(past_due_after_days=5)
    failed: list[PaymentFailed] = []
    ts.on(PaymentFailed)(failed.append)
    invoice = subscribed(ts)
    clock.set("2026-02-19T11:59:59Z")
    ts.run_due_jobs()
    assert ts.subscriptions.status("user:1") == "active"
    clock.set("2026-02-19T12:00:00Z")
    ts.run_due_jobs()
    assert ts.subscriptions.status("user:1") == "past_due"
    run_each_day(ts, clock, 2)
    assert len(failed) == 1
    ts.invoices.record_payment(invoice)
    assert ts.subscriptions.status("user:1") == "active"


def test_of_two_overdue_invoices_the_last_one_paid_ends_it(opened: Open, clock: FixedClock) -> None:
    ts = opened(past_due_after_days=0, due_days=1)
    succeeded: list[PaymentSucceeded] = []
    ts.on(PaymentSucceeded)(succeeded.append)
    first = subscribed(ts)
    clock.set("2026-02-15T12:00:00Z")
    ts.run_due_jobs()
    second = ts.invoices.list("user:1")[0].id
    assert second != first
    clock.set("2026-02-16T12:00:00Z")
    ts.run_due_jobs()
    ts.invoices.record_payment(second)
    assert ts.subscriptions.status("user:1") == "past_due"
    ts.invoices.record_payment(first)
    assert ts.subscriptions.status("user:1") == "active"
    assert [one.subscription is not None for one in succeeded] == [True, True]


def test_a_worker_that_was_away_takes_no_day_of_grace(opened: Open, clock: FixedClock) -> None:
    ts = opened(past_due_after_days=5)
    subscribed(ts)
    clock.set("2026-03-10T12:00:00Z")
    ts.run_due_jobs()
    found = ts.subscriptions.get("user:1")
    assert found.payment_failed_at == clock.now()
    assert ts.subscriptions.status("user:1") == "past_due"


def test_an_invoice_that_nobody_pays_ends_its_subscription(opened: Open, clock: FixedClock) -> None:
    ts = opened(past_due_after_days=5, cancel_after_days=6)
    cancelled: list[SubscriptionCancelled] = []
    ts.on(SubscriptionCancelled)(cancelled.append)
    invoice = subscribed(ts)
    clock.set("2026-02-20T12:00:00Z")
    ts.run_due_jobs()
    assert ts.subscriptions.status("user:1") == "cancelled"
    assert [one.ends_at for one in cancelled] == [clock.now()]
    run_each_day(ts, clock, 3)
    assert len(cancelled) == 1
    owed = [one for one in ts.invoices.list("user:1") if one.status.is_open]
    assert invoice in {one.id for one in owed}
    for one in owed:
        ts.invoices.record_payment(one.id)
    assert ts.subscriptions.status("user:1") == "cancelled"


def test_a_subscription_that_ended_by_itself_is_left_alone(opened: Open, clock: FixedClock) -> None:
    ts = opened(past_due_after_days=5, cancel_after_days=30)
    events: list[object] = []
    for kind in (PaymentFailed, SubscriptionCancelled):
        ts.on(kind)(events.append)
    subscribed(ts)
    ts.subscriptions.cancel("user:1", immediately=True)
    for day in ("2026-02-20", "2026-03-20"):
        clock.set(day)
        ts.run_due_jobs()
    assert [type(one) for one in events] == [SubscriptionCancelled]


def test_dunning_that_is_set_later_finds_what_is_overdue_already(opened: Open, clock: FixedClock) -> None:
    subscribed(opened())
    clock.set("2026-03-05T12:00:00Z")
    opened().run_due_jobs()
    ts = opened(past_due_after_days=5)
    ts.run_due_jobs()
    assert ts.subscriptions.status("user:1") == "past_due"


def test_invoices_without_a_subscription_only_remind(opened: Open, clock: FixedClock) -> None:
    ts = opened(past_due_after_days=1, cancel_after_days=2)
    ts.plans.create("pro", price=money("0 USD"))
    ts.subscriptions.create("user:1", "pro")
    ts.invoices.create("user:1", amount_cents=100, due_date="2026-01-20")
    run_each_day(ts, clock, 10)
    assert ts.subscriptions.status("user:1") == "active"


# -- the archive ------------------------------------------------------------------------------------------------------


def test_invoices_that_were_paid_are_archived_in_time(opened: Open, clock: FixedClock) -> None:
    ts = opened(archive_after_days=10)
    paid, refunded, owed = (ts.invoices.create("acme", amount_cents=100) for _ in range(3))
    for one in (paid, refunded):
        ts.invoices.record_payment(one.id)
    ts.invoices.refund(refunded.id)
    run_each_day(ts, clock, 9)
    assert len(ts.invoices.list("acme")) == 3
    run_each_day(ts, clock, 1)
    assert [one.id for one in ts.invoices.list("acme")] == [owed.id]
    assert len(ts.invoices.list("acme", include_archived=True)) == 3
    ts.invoices.archive(paid.id, archived=False)
    run_each_day(ts, clock, 3)
    assert {one.id for one in ts.invoices.list("acme")} == {owed.id, paid.id}
