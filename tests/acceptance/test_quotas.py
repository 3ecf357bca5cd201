"""Quotas hold whatever comes at once, count in the right period, and are held together with all else or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Table, select

from tallystick import FixedClock, Money, Tallystick
from tallystick.errors import CreditsInsufficient, LimitExceeded, QuotaExceeded, RateLimited, TallystickError
from tallystick.events import QuotaExceeded as Exceeded
from tallystick.events import QuotaWarning
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, count_rows, errors_of, in_threads
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS, run_in_processes

LIMIT = 1_000
ACME = "tenant:acme"


def listen(ts: Tallystick) -> tuple[list[QuotaWarning], list[Exceeded]]:
    warnings: list[QuotaWarning] = []
    exceeded: list[Exceeded] = []
    ts.on(QuotaWarning)(warnings.append)
    ts.on(Exceeded)(exceeded.append)
    return warnings, exceeded


def consume_fifty(ts: Tallystick) -> Callable[[int], int]:
    """Return work that asks 50 times for one message, and says how often it was given."""

    def work(_: int) -> int:
        admitted = 0
        for _ in range(50):
            try:
                ts.quotas.consume("acme", "message")
            except QuotaExceeded:
                continue
            admitted += 1
        return admitted

    return work


# -- at once ----------------------------------------------------------------------------------------------------------


def test_of_40_threads_that_ask_50_times_exactly_the_quota_is_admitted_and_announced_once(ts: Tallystick) -> None:
    warnings, exceeded = listen(ts)
    ts.quotas.set("acme", "message", LIMIT, "daily", is_hard_limit=True, notification_threshold=80)
    outcomes = in_threads(40, consume_fifty(ts))
    assert errors_of(outcomes, AssertionError) == []
    assert sum(outcomes) == LIMIT
    assert [(one.threshold, one.current) for one in warnings] == [(80, 800)]
    assert [(one.threshold, one.current) for one in exceeded] == [(100, LIMIT)]
    [status] = ts.quotas.status("acme")
    assert (status.current, status.held, status.remaining, status.allowed) == (LIMIT, 0, 0, False)
    assert count_rows(ts, tables.usage_events) == LIMIT
    assert_healthy(ts)


def consume_from_threads(index: int, answers: Any, url: str, now: str, ready: Any) -> None:
    del index
    with Tallystick(url, clock=FixedClock(now)) as ts:
        warnings, exceeded = listen(ts)
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(10, consume_fifty(ts))
    answers.put((outcomes, [one.current for one in warnings], [one.current for one in exceeded]))


def test_of_four_processes_of_ten_threads_exactly_the_quota_is_admitted_and_announced_once(
    database_url: str, clock: FixedClock
) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        ts.quotas.set("acme", "message", LIMIT, "daily")
        found = run_in_processes(4, consume_from_threads, database_url, clock.now().isoformat(), CONTEXT.Barrier(4))
        assert all(isinstance(one, int) for outcomes, _, _ in found for one in outcomes)
        assert sum(sum(outcomes) for outcomes, _, _ in found) == LIMIT
        assert [current for _, warnings, _ in found for current in warnings] == [800]
        assert [current for _, _, exceeded in found for current in exceeded] == [LIMIT]
        assert ts.quotas.check("acme", "message", "daily").remaining == 0
        assert_healthy(ts)


def test_a_quota_set_in_one_process_holds_in_every_other_at_once(database_url: str) -> None:
    with Tallystick(database_url) as one, Tallystick(database_url) as other:
        other.quotas.consume("acme", "message")
        quota = one.quotas.set("acme", "message", 2, "daily")
        other.quotas.consume("acme", "message")
        with pytest.raises(QuotaExceeded):
            other.quotas.consume("acme", "message")
        one.quotas.set("acme", "message", 3, "daily")
        other.quotas.consume("acme", "message")
        one.quotas.delete(quota.id)
        other.quotas.consume("acme", "message", 100)
        assert_healthy(one)


# -- when -------------------------------------------------------------------------------------------------------------


def midnight(zone: str, day: str) -> datetime:
    """Return the first instant of a day in a zone."""
    return datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("zone", "day"),
    [("America/Sao_Paulo", "2026-02-01"), ("America/New_York", "2026-04-01"), ("Asia/Kathmandu", "2026-05-01")],
)
@pytest.mark.parametrize("has_own_zone", [False, True])
def test_the_last_microsecond_of_a_day_and_the_first_of_the_next_are_in_their_own_periods(
    database_url: str, zone: str, day: str, has_own_zone: bool
) -> None:
    edge = midnight(zone, day)
    clock = FixedClock(edge - timedelta(microseconds=1))
    with Tallystick(database_url, clock=clock, period={"timezone": "UTC" if has_own_zone else zone}) as ts:
        if has_own_zone:
            ts.tenants.create("Acme", slug="acme", timezone=zone)
        for period in ("hourly", "daily", "monthly"):
            ts.quotas.set("acme", "message", 1, period)
        ts.quotas.consume("acme", "message")
        for period in ("hourly", "daily", "monthly"):
            check = ts.quotas.check("acme", "message", period)
            assert (check.current, check.allowed, check.resets_at) == (1, False, edge)
        with pytest.raises(QuotaExceeded):
            ts.quotas.consume("acme", "message")
        clock.advance(microseconds=1)
        for period in ("hourly", "daily", "monthly"):
            assert ts.quotas.check("acme", "message", period).current == 0
        ts.quotas.consume("acme", "message")
        # What comes to light later counts when it happened.
        ts.usage.log("acme", "message", occurred_at=edge - timedelta(microseconds=1))
        for period in ("hourly", "daily", "monthly"):
            assert ts.quotas.check("acme", "message", period).current == 1
        hours = ts.usage.time_series(
            "acme", start=edge - timedelta(hours=1), end=edge + timedelta(hours=1), interval="hour"
        )
        assert [point.start for point in hours] == [edge - timedelta(hours=1), edge]
        assert_healthy(ts)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        # Midnight itself is skipped: the day begins at one o'clock.
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("America/Sao_Paulo", "2018-02-17", 25),
    ],
)
def test_a_day_of_23_or_25_hours_is_one_day_of_as_many_hours(
    database_url: str, zone: str, day: str, hours: int
) -> None:
    start = midnight(zone, day).astimezone(ZoneInfo("UTC"))
    clock = FixedClock(start)
    with Tallystick(database_url, clock=clock, period={"timezone": zone}) as ts:
        ts.quotas.set("acme", "message", 1_000, "daily")
        ts.quotas.set("acme", "message", 1, "hourly")
        assert ts.quotas.check("acme", "message", "daily").resets_at == start + timedelta(hours=hours)
        for _ in range(hours):
            ts.quotas.consume("acme", "message")
            with pytest.raises(QuotaExceeded):
                ts.quotas.consume("acme", "message")
            clock.advance(minutes=59, seconds=59, microseconds=999_999)
            with pytest.raises(QuotaExceeded):
                ts.quotas.consume("acme", "message")
            clock.advance(microseconds=1)
        clock.advance(microseconds=-1)
        assert ts.quotas.check("acme", "message", "daily").current == hours
        clock.advance(microseconds=1)
        assert ts.quotas.check("acme", "message", "daily").current == 0
        assert_healthy(ts)


# -- all or nothing ---------------------------------------------------------------------------------------------------

STATE = (
    tables.counters,
    tables.holds,
    tables.credit_accounts,
    tables.grants,
    tables.ledger_entries,
    tables.usage_events,
    tables.idempotency_keys,
)


def state(ts: Tallystick) -> list[list[tuple[Any, ...]]]:
    """Return everything that a hold may change. A counter that was only looked at is as good as none."""

    def rows(table: Table) -> list[tuple[Any, ...]]:
        found = ts._engine.read(lambda connection: connection.execute(select(table)).all())
        return sorted(tuple(row) for row in found)

    return [rows(table) for table in STATE]


def everything(ts: Tallystick, mode: str) -> Any:
    """Give an account a limit of each kind, with room for ten of each, and return its meter."""
    ts.plans.create(
        "all",
        monthly_token_limit=1_000,
        monthly_cost_limit=Money("10", "USD"),
        features={"chat": {"value": 10, "reset": "daily"}},
    )
    ts.subscriptions.create(ACME, "all", billing_mode=mode)
    ts.wallets.get_or_create(ACME).add_credits("10")
    for name, limit in (("tokens", 1_000), ("requests", 10), ("completion", 10), ("cost", "10")):
        ts.quotas.set("acme", name, limit, "daily")
        ts.quotas.set("acme", name, limit, "monthly", user="*")
    ts.quotas.set("acme", "completion", 10, "hourly", sliding=True)
    ts.rate_limits.set("acme", "requests", 100, "second")
    ts.rate_limits.set("acme", "tokens", 10_000, "minute", user="*")
    return (
        ts.meter.billable(ACME)
        .for_user(1)
        .feature("chat")
        .using_provider("manual", "m")
        .estimate(tokens=100, cost=Money("1", "USD"))
        .with_idempotency_key("k")
    )


NARROW: dict[str, tuple[Callable[[Tallystick], object], type[TallystickError]]] = {
    "plan tokens": (lambda ts: ts.limits.override(ACME, token_limit=99), LimitExceeded),
    "plan cost": (lambda ts: ts.limits.override(ACME, cost_limit=Money("0.99", "USD")), LimitExceeded),
    "quota of tokens": (lambda ts: ts.quotas.set("acme", "tokens", 99, "daily"), QuotaExceeded),
    "quota of cost": (lambda ts: ts.quotas.set("acme", "cost", "0.99", "daily"), QuotaExceeded),
    "quota of requests": (lambda ts: ts.quotas.set("acme", "requests", 0, "monthly", user="*"), QuotaExceeded),
    "quota of the type": (lambda ts: ts.quotas.set("acme", "completion", 0, "hourly", sliding=True), QuotaExceeded),
    "feature": (lambda ts: ts.features.use(ACME, "chat", 10), LimitExceeded),
    "rate of requests": (lambda ts: ts.rate_limits.set("acme", "requests", "0.5", "second"), RateLimited),
    "rate of tokens": (lambda ts: ts.rate_limits.set("acme", "tokens", 99, "minute", user="*"), RateLimited),
    "wallet": (lambda ts: ts.wallets.get(ACME).deduct_credits("9.01"), CreditsInsufficient),
}
IN_MODE = {
    "plan": [name for name in NARROW if name != "wallet"],
    "credits": [name for name in NARROW if not name.startswith("plan")],
}


@pytest.mark.parametrize(("mode", "narrow"), [(mode, name) for mode, names in IN_MODE.items() for name in names])
def test_a_hold_covers_every_limit_or_none(ts: Tallystick, mode: str, narrow: str) -> None:
    meter = everything(ts, mode)
    change, error = NARROW[narrow]
    change(ts)
    before = state(ts)
    with pytest.raises(error):
        meter.hold()
    assert state(ts) == before
    assert_healthy(ts, open_holds=0)


@pytest.mark.parametrize("mode", ["plan", "credits"])
def test_a_hold_takes_of_every_limit_and_gives_all_of_it_back(ts: Tallystick, mode: str) -> None:
    meter = everything(ts, mode)
    with meter.hold() as hold:
        held = {(one.resource_type, one.quota.user, one.period): one.held for one in ts.quotas.status("acme")}
        assert held == {
            ("tokens", None, "daily"): 100,
            ("tokens", "user:*", "monthly"): 100,
            ("cost", None, "daily"): Money("1", "USD"),
            ("cost", "user:*", "monthly"): Money("1", "USD"),
            ("requests", None, "daily"): 1,
            ("requests", "user:*", "monthly"): 1,
            ("completion", None, "daily"): 1,
            ("completion", "user:*", "monthly"): 1,
            ("completion", None, "sliding_hourly"): 1,
        }
        assert ts.features.remaining(ACME, "chat") == 9
        assert ts.wallets.get(ACME).held == Money("1" if mode == "credits" else "0", "USD")
        assert ts.limits.check(ACME).tokens_held == (100 if mode == "plan" else 0)
        hold.void()
    assert all(one.held in (0, Money("0", "USD")) for one in ts.quotas.status("acme"))
    assert ts.features.remaining(ACME, "chat") == 10
    assert ts.wallets.get(ACME).held == Money("0", "USD")
    assert_healthy(ts, open_holds=0)
