"""Statistics answer from sums what a recount of the events would answer, to the microsecond and in every zone."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import CurrencyMismatch, InvalidInput
from tallystick.metering.statistics import UsageTotals
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import Money
from tests.acceptance.accounts import BILLABLE, assert_healthy, subscribe

ZONES = ("UTC", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe")
PRICES = {"acme": {"models": {"m": {"input_price_per_million": "0.15", "output_price_per_million": "0.6"}}}}

# Lord Howe's clocks went back by half an hour at 2025-04-05T15:00Z; the others stood still.
CHANGE = datetime(2025, 4, 5, 15, tzinfo=UTC)


def around_the_change(days: int) -> st.SearchStrategy[datetime]:
    """Instants of some days, many of them on and beside the edges of hours and days."""
    anywhere = st.integers(-days * 86_400 * 10**6, days * 86_400 * 10**6)
    quarter_hours = st.integers(-days * 96, days * 96).map(lambda n: n * 15 * 60 * 10**6)
    beside_edges = st.builds(lambda edge, step: edge + step, quarter_hours, st.sampled_from((-1, 0, 1)))
    return st.one_of(anywhere, beside_edges).map(lambda micros: CHANGE + timedelta(microseconds=micros))


def some_events(number: int) -> list[dict[str, Any]]:
    """Use spread unevenly over five days around the change, with edges among it."""
    records: list[dict[str, Any]] = []
    for n in range(number):
        offset = timedelta(minutes=15 * ((n * 37) % 480 - 240), microseconds=(0, 1, -1, 7_654_321)[n % 4])
        records.append(
            {
                "billable": BILLABLE if n % 5 else "tenant:acme",
                "provider": ("acme", "manual")[n % 7 == 0],
                "model": "m",
                "feature": ("chat", "")[n % 2],
                "resource_type": ("completion", "message")[n % 3 == 0],
                "quantity": Decimal(n % 4) / 4,
                "input_tokens": n,
                "output_tokens": 2 * n,
                "occurred_at": CHANGE + offset,
            }
        )
    return records


def totals_of(events: list[UsageEvent]) -> tuple[Any, ...]:
    """Add events up, one by one. A correction changes costs and is no use of its own."""
    corrected = {event.corrects_event_id for event in events}
    uses = [event for event in events if event.corrects_event_id is None]
    return (
        len(uses),
        sum(event.cost is None and event.id not in corrected for event in uses),
        sum((event.quantity for event in uses), 0),
        sum(event.usage.input_tokens for event in uses),
        sum(event.usage.output_tokens for event in uses),
        sum(event.total_tokens for event in uses),
        sum((event.cost for event in events if event.cost is not None), Money(0, "USD")),
    )


def plain(totals: UsageTotals) -> tuple[Any, ...]:
    return (
        totals.events,
        totals.unpriced_events,
        totals.quantity,
        totals.input_tokens,
        totals.output_tokens,
        totals.total_tokens,
        totals.cost,
    )


def all_events(ts: Tallystick, **wanted: Any) -> list[UsageEvent]:
    return list(ts.usage.events(limit=10_000, **wanted))


@pytest.fixture(params=ZONES)
def used(request: pytest.FixtureRequest, database_url: str, clock: FixedClock) -> Any:
    """An engine in each zone with use around a clock change, part of it priced only afterwards."""
    arguments: dict[str, Any] = {"clock": clock, "period": {"timezone": request.param}}
    with Tallystick(database_url, **arguments, on_unknown_price="record_unpriced") as ts:
        assert ts.usage.record_batch(some_events(120)).recorded == 120
    with Tallystick(database_url, **arguments, providers=PRICES) as ts:
        assert len(ts.usage.reprice(apply=True).differences) > 50
        assert ts.usage.record_batch(some_events(120)).recorded == 120
        yield ts
        assert_healthy(ts)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(edges=st.tuples(around_the_change(6), around_the_change(6)).map(sorted), who=st.sampled_from((None, BILLABLE)))
def test_totals_of_any_range_equal_a_recount(used: Tallystick, edges: list[datetime], who: str | None) -> None:
    start, end = edges
    found = used.usage.stats(who, start=start, end=end)
    assert plain(found.totals) == totals_of(all_events(used, billable=who, start=start, end=end))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    edges=st.tuples(around_the_change(6), around_the_change(6)).map(sorted),
    interval=st.sampled_from(("hour", "day", "week", "month")),
)
def test_every_point_of_a_series_equals_a_recount(used: Tallystick, edges: list[datetime], interval: str) -> None:
    start, end = edges
    points = used.usage.time_series(BILLABLE, start=start, end=end, interval=interval)
    events = all_events(used, billable=BILLABLE, start=start, end=end)
    for before, after in pairwise(points):
        assert before.end == after.start
    if start < end:
        assert points[0].start <= start < points[0].end
        assert points[-1].start < end <= points[-1].end
    for point in points:
        inside = [event for event in events if point.start <= event.occurred_at < point.end]
        assert plain(point.totals) == totals_of(inside), point
    assert sum(point.totals.total_tokens for point in points) == sum(event.total_tokens for event in events)


def test_points_begin_with_the_hours_and_days_of_the_zone(used: Tallystick) -> None:
    zone = ZoneInfo(used.settings.period.timezone)
    for interval in ("hour", "day", "week", "month"):
        for point in used.usage.time_series(interval=interval):
            local = point.start.astimezone(zone)
            assert (local.minute, local.second, local.microsecond) == (0, 0, 0)
            assert interval == "hour" or local.hour == 0
            assert interval != "week" or local.weekday() == 0
            assert interval != "month" or local.day == 1


def test_groups_add_up_to_the_totals(used: Tallystick) -> None:
    found = used.usage.stats()
    expected: dict[str, dict[str, list[UsageEvent]]] = defaultdict(lambda: defaultdict(list))
    for event in all_events(used):
        expected["by_billable"][event.billable].append(event)
        expected["by_provider"][event.provider].append(event)
        expected["by_model"][event.model].append(event)
        expected["by_feature"][event.feature or ""].append(event)
        expected["by_resource_type"][event.resource_type].append(event)
    for name, groups in expected.items():
        assert {group.name: plain(group.totals) for group in getattr(found, name)} == {
            key: totals_of(events) for key, events in groups.items()
        }


def test_a_range_that_straddles_an_hour_splits_it(ts: Tallystick) -> None:
    for minute in ("10:59:59.999999", "11:00:00"):
        ts.usage.log("acme", "message", occurred_at=f"2026-01-10T{minute}Z")
    points = ts.usage.time_series("acme", "2026-01-10T10:30:00Z", "2026-01-10T11:30:00Z", interval="hour")
    assert [point.totals.events for point in points] == [1, 1]


def test_a_range_that_straddles_midnight_splits_the_days(ts: Tallystick) -> None:
    for instant in ("2026-01-10T23:59:59.999999Z", "2026-01-11T00:00:00Z"):
        ts.usage.log("acme", "message", occurred_at=instant)
    points = ts.usage.time_series("acme", "2026-01-10T23:30:00Z", "2026-01-11T00:30:00Z", interval="day")
    assert [(point.label, point.totals.events) for point in points] == [("2026-01-10", 1), ("2026-01-11", 1)]


def test_gaps_are_filled_with_zeros_also_where_nothing_was_used(ts: Tallystick) -> None:
    points = ts.usage.time_series("acme", "2026-01-10", "2026-01-13")
    assert [(point.label, point.totals.events, str(point.totals.cost)) for point in points] == [
        ("2026-01-10", 0, "0.00 USD"),
        ("2026-01-11", 0, "0.00 USD"),
        ("2026-01-12", 0, "0.00 USD"),
    ]
    assert ts.usage.time_series("acme") == []


def test_an_empty_range_is_empty(ts: Tallystick) -> None:
    ts.usage.log("acme", "message", occurred_at="2026-01-10T12:00:00Z")
    assert ts.usage.stats("acme", "2026-01-10T12:00:00Z", "2026-01-10T12:00:00Z").totals.events == 0
    assert ts.usage.time_series("acme", "2026-01-10T12:00:00Z", "2026-01-10T12:00:00Z") == []


def test_a_reversed_range_and_an_unknown_interval_are_refused(ts: Tallystick) -> None:
    with pytest.raises(InvalidInput):
        ts.usage.stats("acme", "2026-01-11", "2026-01-10")
    with pytest.raises(InvalidInput):
        ts.usage.time_series("acme", interval="fortnight")


def test_costs_of_several_currencies_are_not_added(ts: Tallystick) -> None:
    subscribe(ts, "user:1", "dollars", price=Money("1", "USD"))
    subscribe(ts, "user:2", "euros", price=Money("1", "EUR"))
    ts.usage.record(billable="user:1", input_tokens=1, total_cost=Money("2", "USD"))
    ts.usage.record(billable="user:2", input_tokens=1, total_cost=Money("3", "EUR"))
    totals = ts.usage.stats().totals
    assert totals.costs == (Money("3", "EUR"), Money("2", "USD"))
    with pytest.raises(CurrencyMismatch):
        _ = totals.cost


def test_counted_use_of_an_account_in_another_currency_is_not_unpriced(ts: Tallystick) -> None:
    subscribe(ts, "tenant:acme", "euros", price=Money("1", "EUR"))
    event = ts.usage.log("acme", "message")
    assert (event.cost, event.flags) == (Money("0", "EUR"), ())
    assert ts.usage.stats("acme").totals.unpriced_events == 0
