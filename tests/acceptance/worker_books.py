"""Three months of two hundred subscriptions that nobody has billed yet, and what billing them must come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from tallystick import FixedClock, Tallystick
from tallystick.money import Money
from tallystick.storage import tables
from tallystick.worker import Worker, stopping_on_signals

NOW = "2026-04-20T12:00:00Z"
SUBSCRIPTIONS = 200
LEFT_BEHIND = 4

_FIRST_DAY = datetime(2026, 1, 5, 9, tzinfo=UTC)
_LEFT_AT = datetime(2026, 1, 8, tzinfo=UTC)


def keep_books(url: str) -> None:
    """Sell plans to everybody, change, pause and cancel some, and record what all of them used."""
    clock = FixedClock(_FIRST_DAY)
    with Tallystick(url, clock=clock) as ts:
        _sell(ts)
        _leave_some_behind(ts, clock)
        for number in range(SUBSCRIPTIONS):
            # Ten days of twenty subscriptions, some hours apart.
            clock.set(_FIRST_DAY + timedelta(days=number // 20, hours=number % 20))
            trial = clock.now() + timedelta(days=14) if number % 7 == 0 else None
            ts.subscriptions.create(f"user:{number}", "pro", trial_ends_at=trial)
        _live(ts, clock)
        clock.set(NOW)
        recorded = ts.usage.record_batch(list(_use()))
        assert not recorded.rejected


def _sell(ts: Tallystick) -> None:
    by_unit = {"model": "per_unit", "price": "0.00123"}
    overage: dict[str, Any] = {
        "overage_behavior": "charge",
        "overage_price_per_1k_tokens": Money("0.35", "USD"),
        "usage_prices": {"message": by_unit},
    }
    ts.plans.create("pro", price=Money("29", "USD"), monthly_token_limit=10_000, **overage)
    ts.plans.create("team", price=Money("99", "USD"), monthly_token_limit=50_000, **overage)


def _leave_some_behind(ts: Tallystick, clock: FixedClock) -> None:
    """Let some leave again at once; what is recorded of them later has no subscription that would bill it."""
    for number in range(LEFT_BEHIND):
        ts.subscriptions.create(f"user:left-{number}", "pro")
    clock.set(_LEFT_AT)
    for number in range(LEFT_BEHIND):
        ts.subscriptions.cancel(f"user:left-{number}", immediately=True)
        ts.invoices.generate(tenant=f"user:left-{number}")
    clock.set(_FIRST_DAY)


def _live(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-02-10T08:00:00Z")
    for number in range(0, SUBSCRIPTIONS, 11):
        ts.subscriptions.change_plan(f"user:{number}", "team")
    clock.set("2026-02-20T08:00:00Z")
    for number in range(5, SUBSCRIPTIONS, 17):
        ts.subscriptions.pause(f"user:{number}")
    clock.set("2026-03-03T08:00:00Z")
    for number in set(range(3, SUBSCRIPTIONS, 13)) - set(range(5, SUBSCRIPTIONS, 17)):
        ts.subscriptions.cancel(f"user:{number}")
    clock.set("2026-03-12T08:00:00Z")
    for number in range(5, SUBSCRIPTIONS, 34):
        ts.subscriptions.resume(f"user:{number}")


def _use() -> Any:
    for number in range(LEFT_BEHIND):
        use = {"occurred_at": "2026-01-06T00:00:00Z", "resource_type": "message", "quantity": 1_000 + number}
        yield {"billable": f"user:left-{number}", **use}
    for number in range(SUBSCRIPTIONS):
        for month, day in ((1, 25), (2, 14), (3, 2), (3, 28), (4, 11)):
            at = datetime(2026, month, day, number % 24, tzinfo=UTC)
            yield {
                "billable": f"user:{number}",
                "occurred_at": at,
                "resource_type": "message",
                "quantity": 10 + number * day % 97,
            }
            tokens = 4_000 + number * day % 17 * 500
            use = {"provider": "manual", "model": "m", "total_cost": Money(0, "USD"), "input_tokens": tokens}
            yield {"billable": f"user:{number}", "occurred_at": at, **use}


def work_until_told(url: str) -> None:
    """Work as a worker does, in a process of its own, until a signal comes."""
    import threading

    stop = threading.Event()
    with stopping_on_signals(stop), Tallystick(url, clock=FixedClock(NOW)) as ts:
        Worker(ts, interval_seconds=0.02, stop=stop).run()


def made(ts: Tallystick) -> int:
    """Return how many invoices there are."""
    return ts._engine.read(
        lambda connection: connection.execute(select(func.count()).select_from(tables.invoices)).scalar_one()
    )


def is_all_done(ts: Tallystick) -> bool:
    """Say whether no subscription is due any more, and what has none was billed."""
    due = tables.subscriptions.c.next_billing_at <= ts._engine.now()
    left = select(func.count()).select_from(tables.subscriptions).where(due)
    return has_billed_the_rest(ts) and not ts._engine.read(lambda found: found.execute(left).scalar_one())


def has_billed_the_rest(ts: Tallystick) -> bool:
    """Say whether what has no subscription was billed today."""
    looked = select(func.count()).select_from(tables.job_runs).where(tables.job_runs.c.job == "stragglers")
    return bool(ts._engine.read(lambda found: found.execute(looked).scalar_one()))


def billed(ts: Tallystick) -> dict[tuple[object, ...], list[object]]:
    """Return every invoice by whose it is and its period: all that it says but its number."""
    found: dict[tuple[object, ...], list[object]] = {}
    for invoice in _all_invoices(ts):
        lines = [
            (one.kind, one.description, one.quantity, str(one.amount), one.period_start, one.period_end)
            for one in invoice.line_items
        ]
        amounts = [
            str(getattr(invoice, name))
            for name in ("subtotal", "carried_in", "carried_out", "net", "tax", "total", "amount_due")
        ]
        key = (invoice.billable, invoice.period_start, invoice.period_end)
        found.setdefault(key, []).append((invoice.status, invoice.due_at, amounts, lines))
    return found


def numbers(ts: Tallystick) -> list[str]:
    """Return the numbers of all invoices, in order."""
    return sorted(str(invoice.number) for invoice in _all_invoices(ts))


def _all_invoices(ts: Tallystick) -> Any:
    cursor = None
    while True:
        page = ts.invoices.list(limit=500, cursor=cursor)
        yield from page
        if page.next_cursor is None:
            return
        cursor = page.next_cursor
