"""Hours and days are those of each account's zone, also where accounts of several zones are summed up together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick

ZONES = {"utc": None, "sao-paulo": "America/Sao_Paulo", "kolkata": "Asia/Kolkata", "vienna": "Europe/Vienna"}


def series(ts: Tallystick, billable: Any, start: str, end: str, interval: str = "day") -> list[Any]:
    return [point.totals.quantity for point in ts.usage.time_series(billable, start, end, interval)]


def test_the_edge_of_a_day_is_midnight_in_the_tenants_zone(ts: Tallystick) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    ts.usage.log("acme", "message", 1, occurred_at="2026-01-10T02:59:59.999999Z")
    ts.usage.log("acme", "message", 2, occurred_at="2026-01-10T03:00:00Z")
    days = ts.usage.time_series("acme", "2026-01-09T03:00:00Z", "2026-01-11T03:00:00Z")
    assert [(point.label, point.totals.quantity) for point in days] == [("2026-01-09", 1), ("2026-01-10", 2)]
    hours = ts.usage.time_series("acme", "2026-01-10T02:00:00Z", "2026-01-10T04:00:00Z", "hour")
    assert [(point.label, point.totals.quantity) for point in hours] == [
        ("2026-01-09 23:00 America/Sao_Paulo", 1),
        ("2026-01-10 00:00 America/Sao_Paulo", 2),
    ]
    assert ts.doctor().findings == ()


def test_the_edge_of_a_month_and_of_a_week_is_the_tenants(ts: Tallystick) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    ts.usage.log("acme", "message", 1, occurred_at="2026-01-01T02:59:59.999999Z")
    ts.usage.log("acme", "message", 2, occurred_at="2026-01-01T03:00:00Z")
    assert series(ts, "acme", "2025-12-01T03:00:00Z", "2026-01-15T03:00:00Z", "month") == [1, 2]
    ts.usage.log("acme", "message", 4, occurred_at="2026-01-05T02:59:59.999999Z")
    ts.usage.log("acme", "message", 8, occurred_at="2026-01-05T03:00:00Z")
    assert series(ts, "acme", "2025-12-29T03:00:00Z", "2026-01-10T03:00:00Z", "week") == [7, 8]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_has_23_or_25_hours_where_the_clock_changes(
    ts: Tallystick, clock: FixedClock, day: str, hours: int
) -> None:
    clock.set("2026-12-01T00:00:00Z")
    ts.tenants.create("Acme", timezone="Europe/Vienna")
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Vienna")).astimezone(UTC)
    for hour in range(-1, hours + 1):
        ts.usage.log("acme", "message", occurred_at=start + timedelta(hours=hour))
    end = start + timedelta(hours=hours)
    assert series(ts, "acme", start.isoformat(), end.isoformat()) == [hours]
    assert series(ts, "acme", start.isoformat(), end.isoformat(), "hour") == [1] * hours
    assert ts.usage.time_series("acme", start, end)[0].label == day
    assert ts.doctor().findings == ()


def test_sums_of_everybody_are_exact_in_whichever_zones_they_are(ts: Tallystick) -> None:
    for slug, zone in ZONES.items():
        ts.tenants.create(slug, timezone=zone)
        for minute in range(0, 72 * 60, 45):
            at = datetime(2026, 1, 10, tzinfo=UTC) + timedelta(minutes=minute)
            ts.usage.log(slug, "message", occurred_at=at)
    for start, end in (
        ("2026-01-10T00:00:00Z", "2026-01-13T00:00:00Z"),
        ("2026-01-10T03:00:00Z", "2026-01-12T18:30:00Z"),
        ("2026-01-10T10:10:00Z", "2026-01-12T20:47:00Z"),
    ):
        single = [ts.usage.stats(slug, start, end).totals.quantity for slug in ZONES]
        events = [len(ts.usage.events(slug, start=start, end=end, limit=1000)) for slug in ZONES]
        assert single == events
        assert ts.usage.stats(None, start, end).totals.quantity == sum(single)
        assert sum(series(ts, None, start, end)) == sum(single)
    assert ts.doctor().findings == ()


def test_days_of_everybody_are_those_of_the_settings(ts: Tallystick) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    ts.usage.log("acme", "message", 1, occurred_at="2026-01-10T02:59:59Z")
    ts.usage.log("user:1", "message", 2, occurred_at="2026-01-10T02:59:59Z")
    assert series(ts, None, "2026-01-09", "2026-01-11") == [0, 3]


def test_anonymised_use_keeps_the_hours_it_was_summed_up_by(ts: Tallystick) -> None:
    for slug, zone in ZONES.items():
        ts.tenants.create(slug, timezone=zone)
        for hour in range(0, 60, 5):
            at = datetime(2026, 1, 10, tzinfo=UTC) + timedelta(hours=hour)
            ts.usage.log(slug, "message", occurred_at=at, user=7)
    before = ts.usage.stats().totals
    ts.usage.anonymize_before("2026-01-12T12:00:00Z")
    assert ts.usage.stats().totals == before
    assert ts.doctor().findings == ()
    left = ts.usage.events("kolkata")
    assert min(event.occurred_at for event in left) >= datetime(2026, 1, 11, 18, 30, tzinfo=UTC)
    assert all(event.user is None for event in ts.usage.events(limit=1000) if event.billable.startswith("anonymous:"))


def test_a_correction_of_anonymised_use_counts_in_its_zone(ts: Tallystick) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    event = ts.usage.log("acme", "message", 5, occurred_at="2026-01-10T02:59:59Z")
    ts.usage.anonymize_before("2026-01-14")
    ts.usage.adjust(event.id, quantity=-2, reason="sent twice")
    assert ts.usage.stats().totals.quantity == 3
    assert ts.doctor().findings == ()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    uses=st.lists(st.tuples(st.sampled_from(sorted(ZONES)), st.integers(0, 5 * 24 * 60)), max_size=15),
    cleaned=st.integers(0, 5),
    anonymised=st.integers(0, 5 * 24),
)
def test_nothing_drifts_through_clean_up_and_anonymising(
    tmp_path_factory: Any, uses: list[tuple[str, int]], cleaned: int, anonymised: int
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('zones')}/tallystick.db"
    clock = FixedClock("2026-04-01T12:00:00Z")
    # Over the night in which Vienna's clock is put forward.
    first = datetime(2026, 3, 27, tzinfo=UTC)
    with Tallystick(url, clock=clock, storage={"synchronous": "normal"}) as ts:
        for slug, zone in ZONES.items():
            ts.tenants.create(slug, timezone=zone)
        for slug, minute in uses:
            ts.usage.log(slug, "message", occurred_at=first + timedelta(minutes=minute))
        ts.usage.cleanup(days=1 + cleaned, batch_size=2)
        ts.usage.anonymize_before(first + timedelta(hours=anonymised))
        ts.usage.cleanup(days=1, batch_size=3)
        assert ts.doctor().ok
        assert ts.usage.stats().totals.quantity == len(uses)
