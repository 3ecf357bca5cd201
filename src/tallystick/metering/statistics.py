"""Statistics from rollups: their cost follows the number of hours and days asked for, never the number of events.

A range that does not begin or end on a full hour reads the events of that hour, and only these, so that every answer
is exact to the microsecond. Where clean-up has removed that day's events, an hour counts whole where it begins.

Hours and days are those of the account's zone. A question about everybody is asked once for each zone that is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, and_, case, func, literal, select

from tallystick.errors import CurrencyMismatch, InvalidInput
from tallystick.metering.rollup_zones import ZoneGroup, rollup_zone, zone_groups
from tallystick.money import Money
from tallystick.period import MAX_MICROS, MIN_MICROS, PeriodKind, PeriodRule, from_micros
from tallystick.quantity import from_millionths
from tallystick.storage import tables
from tallystick.storage.statements import ROLLUP_SUMS

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["TimeSeriesPoint", "UsageGroup", "UsageStatistics", "UsageTotals", "statistics", "time_series"]

_INTERVALS = {
    "hour": PeriodKind.HOURLY,
    "day": PeriodKind.DAILY,
    "week": PeriodKind.WEEKLY,
    "month": PeriodKind.MONTHLY,
}
_POINTS_MAX = 20_000
_GROUPS = ("billable", "provider", "model", "feature", "resource_type", "currency")


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over usage events. Corrections change costs but are no events of their own."""

    events: int
    unpriced_events: int
    quantity: int | Decimal
    input_tokens: int
    output_tokens: int
    total_tokens: int
    costs: tuple[Money, ...]

    @property
    def cost(self) -> Money:
        """The cost, where it is of one currency.

        Raises:
            CurrencyMismatch: there are costs of several currencies; read `costs`.
        """
        if len(self.costs) > 1:
            raise CurrencyMismatch(
                f"There are costs in several currencies ({', '.join(str(cost) for cost in self.costs)}). Read `costs`.",
                source=self.costs[0].currency,
                target=self.costs[1].currency,
            )
        return self.costs[0]


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """The totals of one billable, provider, model, feature or resource type."""

    name: str
    totals: UsageTotals


@dataclass(frozen=True, slots=True)
class UsageStatistics:
    """What was used in `[start, end)`, in all and by what it was. Groups are in order of cost, tokens, name."""

    billable: str | None
    start: datetime | None
    end: datetime | None
    totals: UsageTotals
    by_billable: tuple[UsageGroup, ...]
    by_resource_type: tuple[UsageGroup, ...]
    by_provider: tuple[UsageGroup, ...]
    by_model: tuple[UsageGroup, ...]
    by_feature: tuple[UsageGroup, ...]


@dataclass(frozen=True, slots=True)
class TimeSeriesPoint:
    """One hour, day, week or month of the account's time zone, half-open, with what was used in it.

    The day on which the clock is put forward has 23 hours, the one on which it is put back 25.
    """

    start: datetime
    end: datetime
    label: str
    totals: UsageTotals


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Whose use, of what, and when (µs, half-open)."""

    billable: str | None
    resource_type: str | None
    start: int
    end: int


def statistics(engine: Engine, wanted: UsageFilter) -> UsageStatistics:
    """Sum up a range."""
    rows = engine.read(lambda connection: _rows(engine, connection, wanted))
    default_currency = engine.settings.billing.currency
    groups: dict[str, dict[str, list[Any]]] = {name: {} for name in _GROUPS}
    for row in rows:
        for name in _GROUPS:
            groups[name].setdefault(getattr(row, name), []).append(row)

    def grouped(name: str) -> tuple[UsageGroup, ...]:
        found = [UsageGroup(key, _totals(some, default_currency)) for key, some in groups[name].items()]
        return tuple(sorted(found, key=_weight))

    return UsageStatistics(
        billable=wanted.billable,
        start=from_micros(wanted.start) if wanted.start > MIN_MICROS else None,
        end=from_micros(wanted.end) if wanted.end < MAX_MICROS else None,
        totals=_totals(rows, default_currency),
        by_billable=grouped("billable"),
        by_resource_type=grouped("resource_type"),
        by_provider=grouped("provider"),
        by_model=grouped("model"),
        by_feature=grouped("feature"),
    )


def time_series(engine: Engine, wanted: UsageFilter, interval: str) -> list[TimeSeriesPoint]:
    """Sum up a range by hour, day, week or month, in order; intervals without use are there, with zeros.

    They are those of the account's zone; for everybody, of the settings' zone. There, the use of an account of another
    zone counts where its hour begins.
    """
    if interval not in _INTERVALS:
        raise InvalidInput("interval", interval, f"Use one of {', '.join(_INTERVALS)}.")

    def read(connection: Connection) -> tuple[str, list[Any]]:
        zone = _zone(engine, connection, wanted)
        return zone, _rows(engine, connection, wanted, series=_Series(zone, hours_only=interval == "hour"))

    zone, rows = engine.read(read)
    rule = PeriodRule(_INTERVALS[interval], zone)
    is_bounded = wanted.start > MIN_MICROS and wanted.end < MAX_MICROS
    if wanted.start == wanted.end or not (rows or is_bounded):
        return []
    by_start: dict[int, list[Any]] = {}
    for row in rows:
        by_start.setdefault(rule.bounds_micros(row.bucket_start)[0], []).append(row)
    first = rule.bounds_micros(wanted.start)[0] if wanted.start > MIN_MICROS else min(by_start)
    last = wanted.end if wanted.end < MAX_MICROS else max(by_start) + 1
    points: list[TimeSeriesPoint] = []
    period = rule.at(from_micros(first))
    while period.bounds_micros[0] < last:
        if len(points) >= _POINTS_MAX:
            raise InvalidInput(
                "interval", interval, f"The range has more than {_POINTS_MAX} of these; take a longer one."
            )
        start, end = period.bounds_micros
        totals = _totals(by_start.get(start, ()), engine.settings.billing.currency)
        points.append(TimeSeriesPoint(from_micros(start), from_micros(end), period.label, totals))
        period = rule.next(period)
    return points


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Series:
    """In which zone's intervals rows are asked for, and whether days are too long for them."""

    zone: str
    hours_only: bool


def _zone(engine: Engine, connection: Connection, wanted: UsageFilter) -> str:
    default = engine.settings.period.timezone
    return default if wanted.billable is None else rollup_zone(connection, wanted.billable, default)


def _rows(engine: Engine, connection: Connection, wanted: UsageFilter, *, series: _Series | None = None) -> list[Any]:
    if wanted.billable is None:
        groups = zone_groups(connection, engine.settings.period.timezone)
    else:
        groups = [ZoneGroup(series.zone if series is not None else _zone(engine, connection, wanted))]
    return [row for group in groups for row in _rows_of_zone(connection, wanted, group, series)]


def _rows_of_zone(connection: Connection, wanted: UsageFilter, group: ZoneGroup, series: _Series | None) -> list[Any]:
    hours, days = PeriodRule(PeriodKind.HOURLY, group.zone), PeriodRule(PeriodKind.DAILY, group.zone)
    # Another zone's days are not the series' days; its hours nearly always are.
    hours_only = series is not None and (series.hours_only or series.zone != group.zone)
    rows: list[Any] = []
    for source, start, end in _pieces(hours, days, wanted, hours_only=hours_only):
        if source == "events":
            queries = _edge_queries(connection, wanted, start, end, day=days.bounds_micros(start)[0])
        else:
            queries = [(_rollup_sums(source, start, end, by_time=series is not None), _columns(source))]
        for query, columns in queries:
            query = _only(query, columns, wanted)
            if group.only is not None:
                query = query.where(group.only(columns.billable))
            rows += connection.execute(query).all()
    return rows


def _columns(source: str) -> Any:
    return (tables.usage_hourly if source == "hourly" else tables.usage_daily).c


def _edge_queries(
    connection: Connection, wanted: UsageFilter, start: int, end: int, *, day: int
) -> list[tuple[Select[Any], Any]]:
    """Ask for part of one hour: its events; of accounts whose events are gone, the whole hour where it begins here."""
    removed, events, hourly = tables.removed_days.c, tables.usage_events.c, tables.usage_hourly.c
    cleaned = select(removed.billable).where(removed.day_start == day)
    if wanted.billable is not None:
        cleaned = cleaned.where(removed.billable == wanted.billable)
    from_events = _events_sums(start, end)
    if connection.execute(cleaned.limit(1)).first() is None:
        return [(from_events, events)]
    whole_hour = _rollup_sums("hourly", start, end, by_time=True)
    return [
        (from_events.where(events.billable.not_in(cleaned)), events),
        (whole_hour.where(hourly.billable.in_(cleaned)), hourly),
    ]


def _pieces(
    hours: PeriodRule, days: PeriodRule, wanted: UsageFilter, *, hours_only: bool
) -> Iterable[tuple[str, int, int]]:
    """Cut a range into days, the hours before and after them, and what is left of an hour at either end."""
    first_hour, last_hour = _ceiling(hours, wanted.start), _floor(hours, wanted.end)
    if first_hour > last_hour:
        # Not one full hour, and no edge of one either.
        return [("events", wanted.start, wanted.end)]
    pieces = [("events", wanted.start, first_hour), ("events", last_hour, wanted.end)]
    first_day, last_day = _ceiling(days, first_hour), _floor(days, last_hour)
    if hours_only or first_day >= last_day:
        pieces.append(("hourly", first_hour, last_hour))
    else:
        pieces += [("hourly", first_hour, first_day), ("daily", first_day, last_day), ("hourly", last_day, last_hour)]
    return [piece for piece in pieces if piece[1] < piece[2]]


def _floor(rule: PeriodRule, at: int) -> int:
    return at if at in (MIN_MICROS, MAX_MICROS) else rule.bounds_micros(at)[0]


def _ceiling(rule: PeriodRule, at: int) -> int:
    if at in (MIN_MICROS, MAX_MICROS):
        return at
    start, end = rule.bounds_micros(at)
    return start if start == at else end


def _rollup_sums(source: str, start: int, end: int, *, by_time: bool) -> Select[Any]:
    table = tables.usage_hourly if source == "hourly" else tables.usage_daily
    grouped = [table.c[name] for name in _GROUPS]
    if by_time:
        grouped.append(table.c.bucket_start)
    query = select(*grouped, *(func.sum(table.c[name]).label(name) for name in ROLLUP_SUMS)).group_by(*grouped)
    return query.where(table.c.bucket_start >= start, table.c.bucket_start < end)


def _events_sums(start: int, end: int) -> Select[Any]:
    """Sum the events of a part of one hour, which count into the bucket that the part begins in."""
    events = tables.usage_events
    is_event = case((events.c.corrects_event_id.is_(None), 1), else_=0)
    corrections = events.alias("corrections")
    # An adjustment of a quantity is a correction too, and prices nothing.
    prices_it = and_(corrections.c.corrects_event_id == events.c.id, corrections.c.price.isnot(None))
    is_priced_since = select(literal(1)).where(prices_it).exists()
    is_unpriced = case((events.c.total_cost.is_(None) & ~is_priced_since, 1), else_=0)
    sums: dict[str, ColumnElement[Any]] = {
        "events": func.sum(is_event),
        "unpriced_events": func.sum(is_unpriced),
        **{name: func.sum(events.c[name]) for name in ROLLUP_SUMS[2:-1]},
        "total_cost": func.coalesce(func.sum(events.c.total_cost), 0),
    }
    grouped = [events.c[name] for name in _GROUPS]
    query = select(
        *grouped,
        literal(start, BigInteger).label("bucket_start"),
        *(column.label(name) for name, column in sums.items()),
    ).group_by(*grouped)
    return query.where(events.c.occurred_at >= start, events.c.occurred_at < end)


def _only(query: Select[Any], columns: Any, wanted: UsageFilter) -> Select[Any]:
    if wanted.billable is not None:
        query = query.where(columns.billable == wanted.billable)
    if wanted.resource_type is not None:
        query = query.where(columns.resource_type == wanted.resource_type)
    return query


def _totals(rows: Sequence[Any], default_currency: str) -> UsageTotals:
    # PostgreSQL sums BIGINT to NUMERIC, which the driver gives as Decimal; these are whole numbers all the same.
    sums = {name: sum(int(getattr(row, name)) for row in rows) for name in ROLLUP_SUMS}
    costs: dict[str, int] = {}
    for row in rows:
        costs[row.currency] = costs.get(row.currency, 0) + int(row.total_cost)
    return UsageTotals(
        events=sums["events"],
        unpriced_events=sums["unpriced_events"],
        quantity=from_millionths(sums["quantity"]),
        input_tokens=sums["input_tokens"],
        output_tokens=sums["output_tokens"],
        total_tokens=sums["total_tokens"],
        costs=tuple(Money.from_nanos(nanos, currency) for currency, nanos in sorted(costs.items()))
        or (Money.from_nanos(0, default_currency),),
    )


def _weight(group: UsageGroup) -> tuple[int, int, str]:
    return -sum(cost.nanos for cost in group.totals.costs), -group.totals.total_tokens, group.name
