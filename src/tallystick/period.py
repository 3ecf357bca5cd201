"""Time and its periods: instants in UTC, half-open periods of real local calendars, and both as microseconds.

Every kind of period but one rests on one idea. The n-th period of a rule starts at a wall time of its zone: that of the
anchor (for calendar periods, of midnight on a Monday that was a first of January) plus n days, weeks or months. A wall
time becomes an instant by one definition: *the first instant at which the zone's clock reads that time or later*. So a
midnight that a clock change skips becomes the first instant after it, one that occurs twice becomes the earlier of the
two, and a day that a zone never had (Apia, 30 December 2011) is empty and no period at all.

Hours are the exception, because a repeated hour is two. A calendar hour runs from one full hour on the zone's clock to
the next. That is 60 minutes, except where a clock changes by part of an hour: the 30 minutes of Lord Howe's change make
one period of 90. An anniversary hour is 3,600 seconds, counted from the anchor.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from tallystick.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_MICROS",
    "MIN_MICROS",
    "Period",
    "PeriodKind",
    "PeriodRule",
    "add_months",
    "anniversary_period",
    "calendar_period",
    "from_micros",
    "parse_instant",
    "parse_kind",
    "to_micros",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR = timedelta(hours=1)

MIN_MICROS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The start of the total period in microseconds: the first instant that a datetime can hold."""

MAX_MICROS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The end of the total period in microseconds: the last instant that a datetime can hold."""

# The present period, the two beside it that early and late events ask for, and one to spare.
_RECENT_MAX = 4


class PeriodKind(StrEnum):
    """How long a period is. TOTAL is all time: it never ends, and nothing of it resets."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"
    YEARLY = "yearly"
    TOTAL = "total"


_DAYS = {PeriodKind.DAILY: 1, PeriodKind.WEEKLY: 7}
_MONTHS = {PeriodKind.MONTHLY: 1, PeriodKind.QUARTERLY: 3, PeriodKind.YEARLY: 12}

# Not from strftime, whose names follow the process's locale.
_MONTH_NAMES = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

# Any Monday that is a first of January aligns days, weeks, months, quarters and years alike.
_CALENDAR_ORIGIN = datetime(1900, 1, 1)  # noqa: DTZ001 (a wall time of any zone)


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open stretch of time `[start, end)`, in aware UTC. The total period has neither start nor end.

    Take periods from a `PeriodRule`, `calendar_period` or `anniversary_period`: these know their neighbours and their
    label. A period that is made by hand knows its bounds only.

    Raises:
        InvalidInput: when a bound is missing or naive, or the end is not after the start.
    """

    kind: PeriodKind
    start: datetime | None
    end: datetime | None
    rule: PeriodRule | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", parse_kind(self.kind))
        if self.kind is PeriodKind.TOTAL:
            if self.start is not None or self.end is not None:
                raise InvalidInput("period", (self.start, self.end), "The total period has no start and no end.")
            return
        if self.start is None or self.end is None:
            raise InvalidInput("period", (self.start, self.end), "Give a start and an end.")
        object.__setattr__(self, "start", parse_instant(self.start, field="start"))
        object.__setattr__(self, "end", parse_instant(self.end, field="end"))
        if self.start >= self.end:
            raise InvalidInput("period", (self.start, self.end), "The end comes after the start.")

    def contains(self, at: datetime) -> bool:
        """Tell whether the instant lies in the period; its end does not."""
        start, end = self.bounds_micros
        return start <= to_micros(at) < end or self.kind is PeriodKind.TOTAL

    def next(self) -> Period:
        """Return the period that starts where this one ends.

        Raises:
            InvalidInput: for the total period, and for a period that was made by hand.
        """
        return self._own_rule().next(self)

    def previous(self) -> Period:
        """Return the period that ends where this one starts.

        Raises:
            InvalidInput: for the total period, and for a period that was made by hand.
        """
        return self._own_rule().previous(self)

    @property
    def bounds_micros(self) -> tuple[int, int]:
        """The start and the end in microseconds since the epoch; (MIN_MICROS, MAX_MICROS) for the total period."""
        if self.start is None or self.end is None:
            return MIN_MICROS, MAX_MICROS
        return to_micros(self.start), to_micros(self.end)

    @property
    def label(self) -> str:
        """The period in a person's words: "January 2026", "2026-01-31", "month from 2026-01-31", "all time"."""
        return _label(self)

    def _own_rule(self) -> PeriodRule:
        if self.rule is None:
            raise InvalidInput("period", self, "It was made by hand; take it from a PeriodRule to know its neighbours.")
        return self.rule


@dataclass(frozen=True, slots=True)
class PeriodRule:
    """How time is cut into periods of one kind: without gaps, without overlaps.

    Without an anchor the periods follow the calendar of the zone (weeks start on Monday). With an anchor they are its
    anniversaries at its wall time: monthly, quarterly and yearly ones clamp to the end of a shorter month and come back
    (31 January, 28 February, 31 March), and reach before the anchor too.

    A rule remembers the few periods that it found last, so asking for the same ones again is cheap; keep it.

    Raises:
        InvalidInput: for an unknown zone or kind, or an anchor without time zone.
    """

    kind: PeriodKind
    zone: str = "UTC"
    anchor: datetime | None = None
    # Replaced as a whole and never changed in place, so threads may share a rule without a lock.
    _recent: tuple[tuple[int, int, Period], ...] = field(default=(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", parse_kind(self.kind))
        _zone_info(self.zone)
        if self.anchor is not None:
            object.__setattr__(self, "anchor", parse_instant(self.anchor, field="anchor"))

    def at(self, instant: datetime) -> Period:
        """Return the one period that the instant lies in.

        Raises:
            InvalidInput: for a naive datetime, and at the very ends of the years 1 to 9999.
        """
        at_micros = to_micros(instant)
        for start, end, period in self._recent:
            if start <= at_micros < end:
                return period
        return self._found(at_micros)[2]

    def bounds_micros(self, at_micros: int) -> tuple[int, int]:
        """Return the bounds of the period around an instant, all in microseconds since the epoch."""
        for start, end, _ in self._recent:
            if start <= at_micros < end:
                return start, end
        return self._found(at_micros)[:2]

    def next(self, period: Period) -> Period:
        """Return the period that starts where the given one ends."""
        if period.end is None:
            raise InvalidInput("period", period.label, "The total period has no next one.")
        return self.at(period.end)

    def previous(self, period: Period) -> Period:
        """Return the period that ends where the given one starts."""
        if period.start is None:
            raise InvalidInput("period", period.label, "The total period has no previous one.")
        return self.at(period.start - _MICROSECOND)

    def _found(self, at_micros: int) -> tuple[int, int, Period]:
        period = self._period_around(from_micros(at_micros))
        found = (*period.bounds_micros, period)
        object.__setattr__(self, "_recent", (found, *self._recent[: _RECENT_MAX - 1]))
        return found

    def _period_around(self, at: datetime) -> Period:
        if self.kind is PeriodKind.TOTAL:
            return Period(self.kind, None, None, self)
        try:
            start, end = self._hour_around(at) if self.kind is PeriodKind.HOURLY else self._dates_around(at)
        except (OverflowError, ValueError):
            raise InvalidInput("at", at, "Periods are known for the years 1 to 9999 only.") from None
        return Period(self.kind, start, end, self)

    def _hour_around(self, at: datetime) -> tuple[datetime, datetime]:
        if self.anchor is not None:
            start = at - (at - self.anchor) % _HOUR
            return start, start + _HOUR
        return _clock_hour_around(at, _zone_info(self.zone))

    def _dates_around(self, at: datetime) -> tuple[datetime, datetime]:
        # The wall clock says which period it should be; next to a clock change the instants decide.
        n = self._index_near(at)
        while self._start(n) > at:
            n -= 1
        while self._start(n + 1) <= at:
            n += 1
        return self._start(n), self._start(n + 1)

    def _index_near(self, at: datetime) -> int:
        wall, origin = _wall_time(at, _zone_info(self.zone)), self._origin()
        if self.kind in _DAYS:
            return (wall - origin).days // _DAYS[self.kind]
        return ((wall.year - origin.year) * 12 + wall.month - origin.month) // _MONTHS[self.kind]

    def _start(self, n: int) -> datetime:
        """Return the instant at which the n-th period starts, counted from the anchor or the calendar's origin."""
        if n == 0 and self.anchor is not None:
            # The anchor itself, which its wall time alone does not say where the clock reads that time twice.
            return self.anchor
        origin = self._origin()
        if self.kind in _DAYS:
            return _first_instant(origin + timedelta(days=n * _DAYS[self.kind]), _zone_info(self.zone))
        return _first_instant(add_months(origin, n * _MONTHS[self.kind]), _zone_info(self.zone))

    def _origin(self) -> datetime:
        return _CALENDAR_ORIGIN if self.anchor is None else _wall_time(self.anchor, _zone_info(self.zone))


def calendar_period(kind: PeriodKind | str, at: datetime, zone: str = "UTC") -> Period:
    """Return the calendar period of a zone that an instant lies in."""
    return _rule(parse_kind(kind), zone, None).at(at)


def anniversary_period(kind: PeriodKind | str, at: datetime, anchor: datetime, zone: str = "UTC") -> Period:
    """Return the period that an instant lies in, counted from an anchor; the instant may lie before the anchor."""
    return _rule(parse_kind(kind), zone, parse_instant(anchor, field="anchor")).at(at)


def add_months(local: datetime, months: int) -> datetime:
    """Return the same wall time `months` later (or earlier), on the month's last day where the day does not exist.

    Count from the first date, never from the last result: 31 January plus 1 is 28 February, plus 2 is 31 March.
    """
    year, month_index = divmod(local.year * 12 + local.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise InvalidInput("months", months, "The result lies outside the years 1 to 9999.")
    return local.replace(year=year, month=month_index + 1, day=min(local.day, monthrange(year, month_index + 1)[1]))


def to_micros(instant: datetime) -> int:
    """Return the microseconds since 1970-01-01T00:00Z, exactly."""
    try:
        return (instant - _EPOCH) // _MICROSECOND
    except TypeError:
        raise InvalidInput("instant", instant, "Give an aware datetime: datetime(..., tzinfo=UTC).") from None


def from_micros(micros: int) -> datetime:
    """Return the instant that many microseconds after 1970-01-01T00:00Z, aware, in UTC."""
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise InvalidInput("micros", micros, "A datetime holds the years 1 to 9999.") from None


def parse_instant(value: str | datetime | date, *, field: str = "instant") -> datetime:
    """Return an instant as an aware datetime in UTC. A date stands for its midnight in UTC.

    Raises:
        InvalidInput: for text that is not ISO 8601, and for a time without a zone; `field` names the value there.
    """
    try:
        instant = _datetime(value)
        if instant.utcoffset() is None:
            raise InvalidInput(field, value, 'It has no time zone: add "Z" or an offset, or give an aware datetime.')
        return instant.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(field, value, 'Write an instant as "2026-01-31T10:00:00Z", or a date.') from None


def parse_kind(value: PeriodKind | str) -> PeriodKind:
    """Return the kind of that name, in any case."""
    if isinstance(value, PeriodKind):
        return value
    name = str(value).strip().lower()
    try:
        return PeriodKind(name)
    except ValueError:
        meant = _did_you_mean(name, {kind.value: kind.value for kind in PeriodKind})
        raise InvalidInput("period", value, f"{meant}Use one of {', '.join(PeriodKind)}.") from None


def _datetime(value: str | datetime | date) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    text = value.strip() if isinstance(value, str) else value
    try:
        return _datetime(date.fromisoformat(text))
    except ValueError:
        return datetime.fromisoformat(text)


@lru_cache(maxsize=4096)
def _rule(kind: PeriodKind, zone: str, anchor: datetime | None) -> PeriodRule:
    return PeriodRule(kind, zone, anchor)


@lru_cache(maxsize=1024)
def _zone_info(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    # Besides the error for a missing zone: a folder of the database, an absolute path, and a value that is no text.
    except (LookupError, ValueError, OSError, TypeError):
        meant = _did_you_mean(str(name).lower(), {zone.lower(): zone for zone in available_timezones()})
        raise InvalidInput("zone", name, f'{meant}Use an IANA name such as "America/Sao_Paulo".') from None


def _did_you_mean(name: str, known: Mapping[str, str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {known[near[0]]!r}? " if near else ""


def _wall_time(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def _first_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant at which the zone's clock reads this wall time or later."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first <= second:
        return first
    # The clock never reads this time. The two readings of it enclose the change that skips it, to the microsecond.
    before, after = to_micros(second), to_micros(first)
    while after - before > 1:
        middle = (before + after) // 2
        if _wall_time(from_micros(middle), zone) >= wall:
            after = middle
        else:
            before = middle
    return from_micros(after)


def _clock_hour_around(at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the last instant up to `at` at which the zone's clock reads a full hour, and the first one after it."""
    start = at - _past_the_hour(at, zone)
    end = start + _HOUR
    if not _past_the_hour(start, zone) and not _past_the_hour(end, zone):
        return start, end
    # The clock changes by part of an hour: full hours lie on one grid before the change and on another one after it.
    sides = (at - 2 * _HOUR, at, at + 2 * _HOUR)
    grid = {side - _past_the_hour(side, zone) + n * _HOUR for side in sides for n in range(-3, 5)}
    full_hours = [hour for hour in grid if not _past_the_hour(hour, zone)]
    return max(hour for hour in full_hours if hour <= at), min(hour for hour in full_hours if hour > at)


def _past_the_hour(at: datetime, zone: ZoneInfo) -> timedelta:
    wall = _wall_time(at, zone)
    return timedelta(minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)


def _label(period: Period) -> str:
    if period.start is None:
        return "all time"
    zone, anchored = ("UTC", False) if period.rule is None else (period.rule.zone, period.rule.anchor is not None)
    local = period.start.astimezone(_zone_info(zone))
    hour = f"{local:%Y-%m-%d %H:%M} {zone}{' (again)' if local.fold else ''}"
    match period.kind:
        case PeriodKind.HOURLY:
            return hour
        case PeriodKind.DAILY:
            return hour if anchored else f"{local:%Y-%m-%d}"
        case PeriodKind.WEEKLY:
            return f"week {'from' if anchored else 'of'} {local:%Y-%m-%d}"
        case PeriodKind.MONTHLY:
            return f"month from {local:%Y-%m-%d}" if anchored else f"{_MONTH_NAMES[local.month - 1]} {local.year}"
        case PeriodKind.QUARTERLY:
            return f"quarter from {local:%Y-%m-%d}" if anchored else f"Q{(local.month + 2) // 3} {local.year}"
        case _:
            return f"year from {local:%Y-%m-%d}" if anchored else f"{local.year}"
