"""Periods cut time as real local calendars do: without gaps, without overlaps, through every change of a clock."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.errors import InvalidInput
from tallystick.period import (
    MAX_MICROS,
    MIN_MICROS,
    Period,
    PeriodKind,
    PeriodRule,
    add_months,
    anniversary_period,
    calendar_period,
    from_micros,
    parse_instant,
    parse_kind,
    to_micros,
)

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
NAIVE = datetime(2026, 1, 31, 10)  # noqa: DTZ001

ZONES = [
    "UTC",
    "Africa/Casablanca",  # winter time is the exception
    "America/Havana",  # midnight occurs twice
    "America/Sao_Paulo",  # midnight was skipped
    "America/St_Johns",  # changed its clocks a minute past midnight, and lies half an hour off
    "Antarctica/Troll",  # changes by two hours
    "Asia/Beirut",  # midnight is skipped
    "Asia/Kathmandu",  # a quarter of an hour off
    "Asia/Kolkata",
    "Australia/Lord_Howe",  # changes by half an hour
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Apia",  # skipped a day
]
CLOCK_CHANGES = [
    "2011-12-30T10:00Z",  # Apia: from the end of the 29th to the 31st
    "2018-11-04T03:00Z",  # São Paulo: 00:00 to 01:00
    "2019-02-17T02:00Z",  # São Paulo: 24:00 back to 23:00
    "2010-03-14T03:31Z",  # St John's: 00:01 to 01:01
    "2010-11-07T02:31Z",  # St John's: 00:01 back to 23:01
    "2025-10-04T15:30Z",  # Lord Howe: 02:00 to 02:30
    "2026-04-04T15:00Z",  # Lord Howe: 02:00 back to 01:30
    "2026-03-29T01:00Z",  # Berlin: 02:00 to 03:00
    "2026-10-25T01:00Z",  # Berlin: 03:00 back to 02:00
    "2026-03-28T22:00Z",  # Beirut: 00:00 to 01:00
    "2026-11-01T05:00Z",  # Havana: 01:00 back to 00:00
    "1905-12-31T18:06:32Z",  # Kolkata: Madras time to a half-hour offset
]
TIMED_KINDS = [kind for kind in PeriodKind if kind is not PeriodKind.TOTAL]
MONTHS = {PeriodKind.MONTHLY: 1, PeriodKind.QUARTERLY: 3, PeriodKind.YEARLY: 12}
DAYS = {PeriodKind.DAILY: 1, PeriodKind.WEEKLY: 7}


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def wall(at: datetime, zone: str) -> datetime:
    return at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def bounds(period: Period) -> tuple[datetime, datetime]:
    assert period.start is not None
    assert period.end is not None
    return period.start, period.end


def hours_long(period: Period) -> float:
    start, end = bounds(period)
    return (end - start) / HOUR


def starts(rule: PeriodRule, first: str, count: int) -> list[str]:
    """The wall times at which `count` successive periods start."""
    periods = [rule.at(instant(first))]
    while len(periods) < count:
        periods.append(periods[-1].next())
    return [f"{wall(bounds(period)[0], rule.zone):%Y-%m-%d %H:%M}" for period in periods]


any_time = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
near_a_change = st.builds(
    lambda change, away: instant(change) + away,
    st.sampled_from(CLOCK_CHANGES),
    st.timedeltas(timedelta(hours=-30), timedelta(hours=30)),
)
instants = any_time | near_a_change
zones = st.sampled_from(ZONES)
rules = st.builds(PeriodRule, st.sampled_from(TIMED_KINDS), zones, st.none() | instants)


# --- every rule ------------------------------------------------------------------------------------------------------


@given(rules, instants)
def test_an_instant_lies_in_one_period_and_its_neighbours_touch_it(rule: PeriodRule, at: datetime) -> None:
    period = rule.at(at)
    start, end = bounds(period)
    assert start <= at < end
    assert period.contains(at)
    assert rule.bounds_micros(to_micros(end))[0] == to_micros(end)
    assert bounds(period.next())[0] == end
    assert bounds(period.previous())[1] == start
    assert not period.next().contains(at)
    assert not period.previous().contains(at)


@given(rules, instants, st.integers(0, 999))
def test_every_instant_of_a_period_finds_that_period(rule: PeriodRule, at: datetime, thousandths: int) -> None:
    period = rule.at(at)
    start, end = bounds(period)
    # A rule that has not found anything yet, so that nothing is remembered.
    for inside in (start, start + (end - start) * thousandths / 1000, end - MICROSECOND):
        assert PeriodRule(rule.kind, rule.zone, rule.anchor).at(inside) == period


@given(rules, instants)
def test_previous_undoes_next(rule: PeriodRule, at: datetime) -> None:
    period = rule.at(at)
    assert period.next().previous() == period
    assert period.previous().next() == period


@given(rules, st.lists(instants, min_size=1, max_size=12))
def test_what_a_rule_remembers_never_changes_its_answer(rule: PeriodRule, asked: list[datetime]) -> None:
    for at in asked:
        fresh = PeriodRule(rule.kind, rule.zone, rule.anchor).at(at)
        assert rule.at(at) == fresh
        assert rule.bounds_micros(to_micros(at)) == fresh.bounds_micros
        assert rule.at(at.astimezone(ZoneInfo("Asia/Kathmandu"))) == fresh


def test_a_rule_that_found_a_period_answers_with_it_again() -> None:
    rule = PeriodRule(PeriodKind.DAILY)
    noon = instant("2026-01-31T12:00Z")
    found = rule.at(noon)
    late = rule.at(noon - timedelta(days=1))
    assert rule.at(noon + HOUR) is found
    assert rule.at(noon - timedelta(hours=25)) is late


@given(rules, instants)
def test_a_rule_and_its_periods_survive_pickle_and_copy(rule: PeriodRule, at: datetime) -> None:
    period = rule.at(at)
    for twin in (pickle.loads(pickle.dumps(period)), copy.deepcopy(period)):
        assert twin == period
        assert twin.next() == period.next()
    assert {rule: 1}[pickle.loads(pickle.dumps(rule))] == 1


# --- calendar periods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "at", "start", "end", "label"),
    [
        ("hourly", "2026-01-31T10:59:59.999999Z", "2026-01-31T10:00Z", "2026-01-31T11:00Z", "2026-01-31 10:00 UTC"),
        ("daily", "2026-01-31T00:00Z", "2026-01-31T00:00Z", "2026-02-01T00:00Z", "2026-01-31"),
        ("weekly", "2026-02-01T23:59Z", "2026-01-26T00:00Z", "2026-02-02T00:00Z", "week of 2026-01-26"),
        ("monthly", "2026-01-31T10:00Z", "2026-01-01T00:00Z", "2026-02-01T00:00Z", "January 2026"),
        ("monthly", "2024-02-29T10:00Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z", "February 2024"),
        ("quarterly", "2026-03-31T10:00Z", "2026-01-01T00:00Z", "2026-04-01T00:00Z", "Q1 2026"),
        ("quarterly", "2026-12-31T23:59Z", "2026-10-01T00:00Z", "2027-01-01T00:00Z", "Q4 2026"),
        ("yearly", "2026-12-31T23:59Z", "2026-01-01T00:00Z", "2027-01-01T00:00Z", "2026"),
    ],
)
def test_calendar_periods_in_utc(kind: str, at: str, start: str, end: str, label: str) -> None:
    period = calendar_period(kind, instant(at))
    assert bounds(period) == (instant(start), instant(end))
    assert period.label == label


def test_a_calendar_month_starts_at_midnight_of_its_zone() -> None:
    period = calendar_period("monthly", instant("2026-02-01T02:59Z"), "America/Sao_Paulo")
    assert bounds(period) == (instant("2026-01-01T00:00-03:00"), instant("2026-02-01T00:00-03:00"))
    assert period.label == "January 2026"


def test_bounds_are_told_in_utc() -> None:
    start, end = bounds(calendar_period("daily", instant("2026-06-01T00:00Z"), "Asia/Kolkata"))
    assert (start.tzinfo, end.tzinfo) == (UTC, UTC)
    assert start.isoformat() == "2026-05-31T18:30:00+00:00"


@given(st.sampled_from([*DAYS, *MONTHS]), zones, instants)
def test_a_calendar_period_starts_with_the_first_instant_of_its_first_day(
    kind: PeriodKind, zone: str, at: datetime
) -> None:
    start, _ = bounds(calendar_period(kind, at, zone))
    reads, read_before = wall(start, zone), wall(start - MICROSECOND, zone)
    assert read_before.date() < reads.date()
    assert {
        PeriodKind.DAILY: True,
        # A first day that the zone skipped begins with the next one.
        PeriodKind.WEEKLY: reads.weekday() == 0 or (reads.date() - read_before.date()).days > 1,
        PeriodKind.MONTHLY: reads.day == 1,
        PeriodKind.QUARTERLY: (reads.day, reads.month % 3) == (1, 1),
        PeriodKind.YEARLY: (reads.day, reads.month) == (1, 1),
    }[kind]


@pytest.mark.parametrize(
    ("zone", "noon", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", 25),
        ("Australia/Lord_Howe", "2025-10-05T12:00+11:00", 23.5),
        ("Australia/Lord_Howe", "2026-04-05T12:00+10:30", 24.5),
        ("America/Sao_Paulo", "2018-11-04T12:00-02:00", 23),
        ("America/Sao_Paulo", "2019-02-16T12:00-02:00", 25),
        ("Asia/Kolkata", "2026-03-29T12:00+05:30", 24),
    ],
)
def test_a_day_is_as_long_as_its_clock_makes_it(zone: str, noon: str, hours: float) -> None:
    assert hours_long(calendar_period("daily", instant(noon), zone)) == hours


@pytest.mark.parametrize(
    ("zone", "noon", "start"),
    [
        ("America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00"),
        ("Asia/Beirut", "2026-03-29T12:00+03:00", "2026-03-29T01:00+03:00"),
    ],
)
def test_a_day_whose_midnight_is_skipped_starts_with_its_first_instant(zone: str, noon: str, start: str) -> None:
    period = calendar_period("daily", instant(noon), zone)
    assert bounds(period)[0] == instant(start)
    assert period.label == noon[:10]


def test_a_day_whose_midnight_occurs_twice_starts_with_the_first() -> None:
    period = calendar_period("daily", instant("2026-11-01T12:00-05:00"), "America/Havana")
    assert bounds(period)[0] == instant("2026-11-01T00:00-04:00")


def test_a_clock_that_returns_to_yesterday_stays_in_todays_period() -> None:
    back_at_2330 = instant("2010-11-06T23:30-03:30")
    assert wall(back_at_2330, "America/St_Johns").day == 6
    period = calendar_period("daily", back_at_2330, "America/St_Johns")
    assert bounds(period)[0] == instant("2010-11-07T00:00-02:30")
    assert period.label == "2010-11-07"


def test_a_day_that_a_zone_skipped_is_no_period() -> None:
    assert starts(PeriodRule(PeriodKind.DAILY, "Pacific/Apia"), "2011-12-28T22:00Z", 4) == [
        "2011-12-28 00:00",
        "2011-12-29 00:00",
        "2011-12-31 00:00",
        "2012-01-01 00:00",
    ]


def test_a_repeated_hour_is_two_periods_with_two_labels() -> None:
    first = calendar_period("hourly", instant("2026-10-25T02:30+02:00"), "Europe/Berlin")
    second = calendar_period("hourly", instant("2026-10-25T02:30+01:00"), "Europe/Berlin")
    assert first.next() == second
    assert (hours_long(first), hours_long(second)) == (1, 1)
    assert first.label == "2026-10-25 02:00 Europe/Berlin"
    assert second.label == "2026-10-25 02:00 Europe/Berlin (again)"


def test_a_missing_hour_is_no_period() -> None:
    assert starts(PeriodRule(PeriodKind.HOURLY, "Europe/Berlin"), "2026-03-29T01:30+01:00", 2) == [
        "2026-03-29 01:00",
        "2026-03-29 03:00",
    ]


def test_an_hour_starts_at_the_full_hour_of_a_half_hour_zone() -> None:
    period = calendar_period("hourly", instant("2026-01-31T10:29:59Z"), "Asia/Kolkata")
    assert bounds(period) == (instant("2026-01-31T15:00+05:30"), instant("2026-01-31T16:00+05:30"))
    assert period.label == "2026-01-31 15:00 Asia/Kolkata"


@pytest.mark.parametrize(
    ("first", "walls"),
    [
        ("2025-10-05T00:30+10:30", ["2025-10-05 00:00", "2025-10-05 01:00", "2025-10-05 03:00", "2025-10-05 04:00"]),
        ("2026-04-05T00:30+11:00", ["2026-04-05 00:00", "2026-04-05 01:00", "2026-04-05 02:00", "2026-04-05 03:00"]),
    ],
)
def test_the_half_hour_of_lord_howe_makes_one_hour_of_ninety_minutes(first: str, walls: list[str]) -> None:
    rule = PeriodRule(PeriodKind.HOURLY, "Australia/Lord_Howe")
    assert starts(rule, first, 4) == walls
    period = rule.at(instant(first))
    assert [hours_long(period), hours_long(period.next()), hours_long(period.next().next())] == [1, 1.5, 1]


def test_a_clock_set_back_a_minute_past_midnight_has_that_midnight_twice() -> None:
    rule = PeriodRule(PeriodKind.HOURLY, "America/St_Johns")
    assert starts(rule, "2010-11-06T23:30-02:30", 4) == [
        "2010-11-06 23:00",
        "2010-11-07 00:00",
        "2010-11-07 00:00",
        "2010-11-07 01:00",
    ]


@given(zones, instants)
def test_a_calendar_hour_starts_at_each_full_hour_of_the_clock_and_nowhere_else(zone: str, at: datetime) -> None:
    start, end = bounds(calendar_period("hourly", at, zone))
    assert (wall(start, zone).minute, wall(start, zone).second, wall(start, zone).microsecond) == (0, 0, 0)
    inside = [start + timedelta(seconds=n) for n in range(1, int((end - start).total_seconds()), 20)]
    assert all((wall(moment, zone).minute, wall(moment, zone).second) != (0, 0) for moment in inside)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "America/Sao_Paulo"])
def test_the_hours_of_a_year_add_up_to_the_year(zone: str) -> None:
    year = calendar_period("yearly", instant("2026-06-01T00:00Z"), zone)
    hours, days = PeriodRule(PeriodKind.HOURLY, zone), PeriodRule(PeriodKind.DAILY, zone)
    start, end = bounds(year)
    assert bounds(hours.at(start))[0] == bounds(days.at(start))[0] == start
    assert bounds(hours.at(end - MICROSECOND))[1] == bounds(days.at(end - MICROSECOND))[1] == end


# --- anniversaries ---------------------------------------------------------------------------------------------------


def test_a_monthly_anniversary_clamps_and_comes_back() -> None:
    rule = PeriodRule(PeriodKind.MONTHLY, anchor=instant("2026-01-31T10:00Z"))
    assert starts(rule, "2025-11-30T10:00Z", 6) == [
        "2025-11-30 10:00",
        "2025-12-31 10:00",
        "2026-01-31 10:00",
        "2026-02-28 10:00",
        "2026-03-31 10:00",
        "2026-04-30 10:00",
    ]
    assert starts(rule, "2028-02-29T10:00Z", 1) == ["2028-02-29 10:00"]


def test_a_quarterly_anniversary_clamps_from_its_anchor() -> None:
    rule = PeriodRule(PeriodKind.QUARTERLY, anchor=instant("2025-11-30T00:00Z"))
    assert starts(rule, "2025-12-01T00:00Z", 3) == ["2025-11-30 00:00", "2026-02-28 00:00", "2026-05-30 00:00"]


def test_a_yearly_anniversary_of_29_february_comes_back_in_leap_years() -> None:
    rule = PeriodRule(PeriodKind.YEARLY, anchor=instant("2024-02-29T00:00Z"))
    assert starts(rule, "2023-03-01T00:00Z", 6) == [
        "2023-02-28 00:00",
        "2024-02-29 00:00",
        "2025-02-28 00:00",
        "2026-02-28 00:00",
        "2027-02-28 00:00",
        "2028-02-29 00:00",
    ]


def test_the_instant_before_a_clamped_anniversary_belongs_to_the_month_before() -> None:
    anchor = instant("2026-01-31T10:00Z")
    before = anniversary_period("monthly", instant("2026-02-28T09:59:59.999999Z"), anchor)
    assert bounds(before) == (anchor, instant("2026-02-28T10:00Z"))
    assert before.label == "month from 2026-01-31"


def test_anniversary_days_and_weeks_keep_the_wall_time_through_a_clock_change() -> None:
    anchor = instant("2026-03-22T09:15+01:00")
    week = anniversary_period("weekly", instant("2026-03-23T00:00Z"), anchor, "Europe/Berlin")
    assert bounds(week) == (anchor, instant("2026-03-29T09:15+02:00"))
    day = anniversary_period("daily", instant("2026-03-29T00:00Z"), anchor, "Europe/Berlin")
    assert bounds(day) == (instant("2026-03-28T09:15+01:00"), instant("2026-03-29T09:15+02:00"))
    assert (hours_long(week), hours_long(day)) == (7 * 24 - 1, 23)


@given(instants, instants, zones)
def test_an_anniversary_hour_is_3600_seconds_from_the_anchor(at: datetime, anchor: datetime, zone: str) -> None:
    period = anniversary_period("hourly", at, anchor, zone)
    assert hours_long(period) == 1
    assert (bounds(period)[0] - anchor) % HOUR == timedelta(0)


@given(st.sampled_from([*DAYS, *MONTHS]), instants, zones, instants)
@example(PeriodKind.MONTHLY, instant("2026-01-31T10:00Z"), "UTC", instant("2026-03-01T00:00Z"))
@example(PeriodKind.DAILY, instant("2018-11-03T00:30-03:00"), "America/Sao_Paulo", instant("2018-11-04T12:00-02:00"))
@example(PeriodKind.DAILY, instant("2011-12-28T12:00-10:00"), "Pacific/Apia", instant("2011-12-31T06:00+14:00"))
@example(PeriodKind.DAILY, instant("2026-10-24T02:30+02:00"), "Europe/Berlin", instant("2026-10-25T12:00+01:00"))
def test_the_nth_period_starts_when_the_clock_first_reads_the_anchors_time_on_the_nth_date_or_later(
    kind: PeriodKind, anchor: datetime, zone: str, at: datetime
) -> None:
    origin = wall(anchor, zone)

    def nth_starts_at(n: int, start: datetime) -> bool:
        due = add_months(origin, n * MONTHS[kind]) if kind in MONTHS else origin + timedelta(days=n * DAYS[kind])
        earlier = (start - before for before in (MICROSECOND, HOUR / 2, HOUR, 2 * HOUR))
        first = wall(start, zone) >= due and all(wall(moment, zone) < due for moment in earlier)
        return start == anchor if n == 0 else first

    start, end = bounds(anniversary_period(kind, at, anchor, zone))
    reads = wall(start, zone)
    months = (reads.year - origin.year) * 12 + reads.month - origin.month
    near = months // MONTHS[kind] if kind in MONTHS else (reads - origin).days // DAYS[kind]
    numbers = [n for n in range(near - 2, near + 3) if nth_starts_at(n, start)]
    assert numbers
    assert nth_starts_at(max(numbers) + 1, end)


@given(st.sampled_from(TIMED_KINDS), instants, zones)
def test_the_anchor_itself_starts_a_period(kind: PeriodKind, anchor: datetime, zone: str) -> None:
    assert bounds(anniversary_period(kind, anchor, anchor, zone))[0] == anchor


def test_an_anchor_in_a_repeated_hour_starts_its_own_period_there() -> None:
    again = instant("2026-10-25T02:30+01:00")
    rule = PeriodRule(PeriodKind.DAILY, "Europe/Berlin", again)
    assert bounds(rule.at(again)) == (again, instant("2026-10-26T02:30+01:00"))
    assert bounds(rule.at(again).previous())[1] == again


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("hourly", "2026-01-31 11:05 Europe/Berlin"),
        ("daily", "2026-01-31 11:05 Europe/Berlin"),
        ("weekly", "week from 2026-01-31"),
        ("monthly", "month from 2026-01-31"),
        ("quarterly", "quarter from 2026-01-31"),
        ("yearly", "year from 2026-01-31"),
    ],
)
def test_an_anniversary_period_is_labelled_by_its_start(kind: str, label: str) -> None:
    anchor = instant("2026-01-31T11:05+01:00")
    assert anniversary_period(kind, anchor, anchor, "Europe/Berlin").label == label


# --- add_months ------------------------------------------------------------------------------------------------------


def test_months_are_added_from_the_first_date_and_clamped() -> None:
    january_31 = NAIVE
    assert [f"{add_months(january_31, n):%Y-%m-%d %H}" for n in (-2, -1, 0, 1, 2, 25)] == [
        "2025-11-30 10",
        "2025-12-31 10",
        "2026-01-31 10",
        "2026-02-28 10",
        "2026-03-31 10",
        "2028-02-29 10",
    ]


@given(any_time, st.integers(-1_000, 1_000))
def test_adding_months_moves_the_month_and_keeps_the_rest_where_it_exists(at: datetime, months: int) -> None:
    later = add_months(at, months)
    assert (later.year * 12 + later.month) - (at.year * 12 + at.month) == months
    assert later.timetz() == at.timetz()
    assert later.day == at.day or (later.day < at.day and (later + timedelta(days=1)).day == 1)


@pytest.mark.parametrize("months", [-25_000, 96_000])
def test_months_beyond_the_calendar_are_refused(months: int) -> None:
    with pytest.raises(InvalidInput):
        add_months(NAIVE, months)


# --- the total period ------------------------------------------------------------------------------------------------


@given(st.datetimes(timezones=st.just(UTC)))
@example(datetime.min.replace(tzinfo=UTC))
@example(datetime.max.replace(tzinfo=UTC))
def test_the_total_period_contains_everything(at: datetime) -> None:
    rule = PeriodRule(PeriodKind.TOTAL, "Europe/Berlin", instant("2026-01-31T10:00Z"))
    assert rule.at(at) == Period(PeriodKind.TOTAL, None, None)
    assert rule.at(at).contains(at)
    assert rule.bounds_micros(to_micros(at)) == (MIN_MICROS, MAX_MICROS)


def test_the_total_period_has_no_neighbours() -> None:
    total = calendar_period("total", instant("2026-01-31T10:00Z"))
    assert total.label == "all time"
    with pytest.raises(InvalidInput, match="no next"):
        total.next()
    with pytest.raises(InvalidInput, match="no previous"):
        total.previous()


def test_the_total_periods_bounds_are_instants_themselves() -> None:
    assert from_micros(MIN_MICROS) == datetime.min.replace(tzinfo=UTC)
    assert from_micros(MAX_MICROS) == datetime.max.replace(tzinfo=UTC)


# --- a period by itself ----------------------------------------------------------------------------------------------


def test_a_period_holds_its_start_and_not_its_end() -> None:
    january = calendar_period("monthly", instant("2026-01-15T00:00Z"))
    assert january.contains(instant("2026-01-01T00:00Z"))
    assert january.contains(instant("2026-01-31T23:59:59.999999Z"))
    assert not january.contains(instant("2026-02-01T00:00Z"))
    assert not january.contains(instant("2025-12-31T23:59:59.999999Z"))


def test_periods_with_the_same_bounds_are_equal_whatever_made_them() -> None:
    january = calendar_period("monthly", instant("2026-01-15T00:00Z"))
    by_hand = Period(PeriodKind.MONTHLY, instant("2026-01-01T01:00+01:00"), instant("2026-02-01T00:00Z"))
    assert by_hand == january == anniversary_period("monthly", bounds(january)[0], bounds(january)[0])
    assert hash(by_hand) == hash(january)
    assert by_hand.label == "January 2026"
    with pytest.raises(InvalidInput, match="PeriodRule"):
        by_hand.next()


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [
        (PeriodKind.TOTAL, instant("2026-01-01T00:00Z"), None),
        (PeriodKind.DAILY, None, instant("2026-01-01T00:00Z")),
        (PeriodKind.DAILY, instant("2026-01-01T00:00Z"), None),
        (PeriodKind.DAILY, instant("2026-01-01T00:00Z"), instant("2026-01-01T00:00Z")),
        (PeriodKind.DAILY, NAIVE, instant("2026-02-01T00:00Z")),
    ],
)
def test_a_period_without_sound_bounds_is_refused(kind: PeriodKind, start: datetime, end: datetime) -> None:
    with pytest.raises(InvalidInput):
        Period(kind, start, end)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PeriodKind)
def test_a_kind_is_known_by_its_name_in_any_case(kind: PeriodKind) -> None:
    assert parse_kind(kind) is parse_kind(kind.value) is parse_kind(f" {kind.value.upper()} ") is kind


@pytest.mark.parametrize(("name", "meant"), [("montly", "'monthly'"), ("Quaterly", "'quarterly'")])
def test_an_unknown_kind_suggests_the_near_one(name: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=f"Did you mean {meant}"):
        parse_kind(name)


@pytest.mark.parametrize("value", ["fortnightly", "", None, 30])
def test_a_value_that_is_no_kind_is_refused_with_the_kinds(value: object) -> None:
    with pytest.raises(InvalidInput, match="hourly, daily"):
        parse_kind(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("zone", "meant"),
    [("America/Sao_Paolo", "America/Sao_Paulo"), ("europe/berlin", "Europe/Berlin"), ("utc", "UTC")],
)
def test_an_unknown_zone_suggests_the_near_one(zone: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=f"Did you mean '{meant}'") as refused:
        PeriodRule(PeriodKind.DAILY, zone)
    assert refused.value.field == "zone"


@pytest.mark.parametrize("zone", ["", "America", "../UTC", "/etc/localtime", "nowhere\x00", "-", None, 3])
def test_what_is_no_zone_is_refused(zone: object) -> None:
    with pytest.raises(InvalidInput):
        calendar_period("daily", instant("2026-01-31T10:00Z"), zone)  # type: ignore[arg-type]


# --- instants and microseconds ---------------------------------------------------------------------------------------


@given(st.integers(MIN_MICROS, MAX_MICROS))
def test_microseconds_return_unchanged(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros
    assert from_micros(micros).tzinfo is UTC


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_an_instant_is_the_same_through_microseconds_and_text(at: datetime) -> None:
    assert from_micros(to_micros(at)) == at.astimezone(UTC)
    assert parse_instant(at) == at.astimezone(UTC)
    assert parse_instant(at.astimezone(UTC).isoformat()) == at.astimezone(UTC)


def test_microseconds_count_from_1970_in_both_directions() -> None:
    assert to_micros(instant("1970-01-01T00:00Z")) == 0
    assert to_micros(instant("1969-12-31T23:59:59.999999Z")) == -1
    assert to_micros(instant("2026-01-31T10:00:00.000001Z")) == 1_769_853_600_000_001


def test_the_two_readings_of_a_repeated_hour_are_an_hour_apart() -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert to_micros(first.replace(fold=1)) - to_micros(first) == 3_600_000_000


@pytest.mark.parametrize("micros", [MIN_MICROS - 1, MAX_MICROS + 1, 2**63, 10**40])
def test_microseconds_beyond_the_calendar_are_refused(micros: int) -> None:
    with pytest.raises(InvalidInput):
        from_micros(micros)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00+00:00"),
        (" 2026-01-31T10:00:00.5-03:00 ", "2026-01-31T13:00:00.500000+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        (date(2026, 1, 31), "2026-01-31T00:00:00+00:00"),
        (datetime(2026, 1, 31, 10, tzinfo=timezone(HOUR)), "2026-01-31T09:00:00+00:00"),
    ],
)
def test_an_instant_is_read_from_text_a_date_or_a_datetime(value: str | date | datetime, expected: str) -> None:
    read = parse_instant(value)
    assert read.isoformat() == expected
    assert read.tzinfo is UTC


@pytest.mark.parametrize("value", [NAIVE, "2026-01-31T10:00:00", "2026-01-31 10:00"])
def test_a_time_without_a_zone_is_refused_with_the_remedy(value: str | datetime) -> None:
    with pytest.raises(InvalidInput, match='add "Z"') as refused:
        parse_instant(value, field="started_at")
    assert refused.value.field == "started_at"


@pytest.mark.parametrize("value", ["", "soon", "2026-13-01", "0001-01-01T00:00:00+14:00", None, 1_769_853_600, True])
def test_what_is_no_instant_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        parse_instant(value)  # type: ignore[arg-type]


def test_naive_times_are_refused_everywhere() -> None:
    rule = PeriodRule(PeriodKind.DAILY)
    for use in (
        lambda: rule.at(NAIVE),
        lambda: rule.at(instant("2026-01-31T10:00Z")).contains(NAIVE),
        lambda: calendar_period("total", NAIVE),
        lambda: anniversary_period("daily", instant("2026-01-31T10:00Z"), NAIVE),
        lambda: PeriodRule(PeriodKind.DAILY, anchor=NAIVE),
        lambda: to_micros(NAIVE),
    ):
        with pytest.raises(InvalidInput):
            use()


@pytest.mark.parametrize("kind", TIMED_KINDS)
def test_a_period_that_leaves_the_calendar_is_refused(kind: PeriodKind) -> None:
    with pytest.raises(InvalidInput):
        calendar_period(kind, datetime.max.replace(tzinfo=UTC), "Pacific/Apia")
    with pytest.raises(InvalidInput):
        calendar_period(kind, datetime.min.replace(tzinfo=UTC), "America/Sao_Paulo")


def test_successive_months_over_a_century_touch() -> None:
    anchor = instant("1955-01-31T23:30-03:00")
    period = PeriodRule(PeriodKind.MONTHLY, "America/Sao_Paulo", anchor).at(anchor)
    periods = [period := period.next() for _ in range(1_200)]
    assert all(bounds(one)[1] == bounds(other)[0] for one, other in pairwise(periods))
    assert bounds(periods[-1])[0] == instant("2055-01-31T23:30-03:00")
