"""What the doctor asks about use: counters, holds, rollups, overages and costs, each computed again from the events.

What plans charge for use is compared with what was counted for it; it has no other record of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Connection, String, and_, case, cast, func, literal, or_, select

from tallystick.doctor.finding import Finding, differences, unequal_sums
from tallystick.metering.priced_use import PRICED, PRICED_PERIOD
from tallystick.metering.rollup_zones import rollup_zones
from tallystick.period import PeriodKind, PeriodRule, from_micros
from tallystick.plans.terms import BillingMode
from tallystick.pricing.cost import Cost
from tallystick.storage import tables
from tallystick.storage.statements import ROLLUP_SUMS

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["price_findings", "usage_findings"]

# Every zone's full hours lie on a quarter of an hour of UTC, so sums by quarter can be put into any zone's hours.
_QUARTER_HOUR_MICROS = 15 * 60 * 1_000_000
_HOUR_MICROS = 60 * 60 * 1_000_000
# The longest day there is, with room for one that a change of the clock makes longer.
_DAY_MICROS = 26 * _HOUR_MICROS
_NO_USE = (0,) * len(ROLLUP_SUMS)
_NO_SUMS = (0,) * 4


def usage_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    """Find what disagrees with the events and the open holds."""
    yield from _used_findings(connection)
    yield from _held_findings(connection)
    yield from _rollup_findings(engine, connection)
    yield from _hold_findings(engine, connection)
    yield from _overage_findings(connection)
    yield from _priced_use_findings(connection)
    yield from _charged_event_findings(connection)
    yield from _unpriced_findings(connection)
    yield from _removed_findings(connection)


def _used_findings(connection: Connection) -> Iterator[Finding]:
    expected: dict[tuple[Any, ...], int] = defaultdict(int)
    for table in (tables.usage_events, tables.usage_removed):
        grouped = (table.c.billable, table.c.period, table.c.period_start, table.c.currency)
        sums = select(*grouped, func.sum(table.c.total_tokens), func.coalesce(func.sum(table.c.total_cost), 0))
        if table is tables.usage_events:
            # What a wallet pays is counted there, and not against a plan's limits.
            sums = sums.where(table.c.billing_mode != BillingMode.CREDITS)
        for billable, period, period_start, currency, tokens, cost in connection.execute(sums.group_by(*grouped)):
            expected[billable, "tokens", period, period_start] += int(tokens)
            expected[billable, f"cost:{currency}", period, period_start] += int(cost)
    counters = tables.counters
    columns = (counters.c.billable, counters.c.meter, counters.c.period, counters.c.period_start, counters.c.used)
    of_a_plan = or_(counters.c.meter == "tokens", counters.c.meter.startswith("cost:", autoescape=True))
    query = select(*columns).where(counters.c.scope == "", of_a_plan)
    yield from differences("used", expected, {tuple(row[:4]): int(row[4]) for row in connection.execute(query)})


def _held_findings(connection: Connection) -> Iterator[Finding]:
    holds, counters = tables.holds, tables.counters
    expected: dict[tuple[Any, ...], int] = defaultdict(int)
    for billable, claims in connection.execute(
        select(holds.c.billable, holds.c.claims).where(holds.c.status == "open")
    ):
        for meter, scope, period, period_start, amount in json.loads(claims):
            expected[billable, meter, scope, period, period_start] += amount
    columns = (counters.c.billable, counters.c.meter, counters.c.scope, counters.c.period, counters.c.period_start)
    # Of a rate limit's bucket, both numbers together are its level.
    is_held = and_(counters.c.held != 0, ~counters.c.meter.startswith("rate:", autoescape=True))
    rows = connection.execute(select(*columns, counters.c.held).where(is_held))
    yield from differences("held", expected, {tuple(row[:5]): int(row[5]) for row in rows})


def _rollup_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    """Compare hours with events, and days with hours; where clean-up has removed events, the sums of the day."""
    zones = _Zones(engine, connection)
    removed = _removed_days(connection)
    hourly: dict[tuple[Any, ...], tuple[int, ...]] = {}
    days_of_hours: dict[tuple[Any, ...], tuple[int, ...]] = {}
    cleaned: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for key, sums in _rollup_rows(connection, tables.usage_hourly):
        day = zones.day(key[0], key[1])
        _add(days_of_hours, (key[0], day, *key[2:]), sums)
        if (key[0], day) in removed:
            _add(cleaned, (key[0], day, key[-1]), _sums_of_a_day(sums))
        else:
            hourly[key] = sums
    daily = dict(_rollup_rows(connection, tables.usage_daily))
    yield from differences("day", days_of_hours, daily, nothing=(_NO_USE,))
    expected: dict[tuple[Any, ...], tuple[int, ...]] = {}
    expected_days = {(*day, currency): sums for day, found in removed.items() for currency, sums in found.items()}
    for key, sums in _event_sums(connection):
        day = zones.day(key[0], key[1])
        if (key[0], day) in removed:
            _add(expected_days, (key[0], day, key[-1]), _sums_of_a_day(sums))
        else:
            _add(expected, (key[0], zones.hour(key[0], key[1]), *key[2:]), sums)
    yield from differences("hour", expected, hourly, nothing=(_NO_USE,))
    yield from differences(
        "cleaned-up day", expected_days, cleaned, remedy="Events and what was removed prove it.", nothing=(_NO_SUMS,)
    )


class _Zones:
    """The hours and days of accounts, each in its own zone (µs)."""

    def __init__(self, engine: Engine, connection: Connection) -> None:
        default = engine.settings.period.timezone
        self._zone_of = rollup_zones(connection, default)
        self._rules = {
            zone: (PeriodRule(PeriodKind.HOURLY, zone), PeriodRule(PeriodKind.DAILY, zone))
            for zone in {default, *self._zone_of.values()}
        }
        self._default = default

    def hour(self, billable: str, at: int) -> int:
        return self._rules[self._zone_of.get(billable, self._default)][0].bounds_micros(at)[0]

    def day(self, billable: str, at: int) -> int:
        return self._rules[self._zone_of.get(billable, self._default)][1].bounds_micros(at)[0]


def _removed_days(connection: Connection) -> dict[tuple[str, int], dict[str, tuple[int, ...]]]:
    """Read what clean-up has removed: by account and day, then by currency."""
    removed = tables.removed_days.c
    amounts = (removed.events, removed.quantity, removed.total_tokens, removed.total_cost)
    found: dict[tuple[str, int], dict[str, tuple[int, ...]]] = defaultdict(dict)
    for billable, day, currency, *sums in connection.execute(
        select(removed.billable, removed.day_start, removed.currency, *amounts)
    ):
        found[billable, day][currency] = tuple(int(one) for one in sums)
    return found


def _sums_of_a_day(sums: tuple[int, ...]) -> tuple[int, ...]:
    """Return those of a rollup's sums that are kept of removed events."""
    return tuple(sums[ROLLUP_SUMS.index(name)] for name in ("events", "quantity", "total_tokens", "total_cost"))


def _removed_findings(connection: Connection) -> Iterator[Finding]:
    removed = tables.removed_days.c
    query = select(
        func.coalesce(func.sum(removed.events), 0), func.count(removed.billable.distinct()), func.max(removed.day_start)
    )
    events, billables, last = connection.execute(query).one()
    if billables:
        yield Finding(
            "removed by clean-up",
            "usage",
            "its sums in the rollups",
            f"{int(events)} events of {billables} billables, up to {from_micros(last):%Y-%m-%d}",
            "Rollups, counters, overages and the ledger still have them.",
            severity="notice",
        )


def _event_sums(connection: Connection) -> Iterator[tuple[tuple[Any, ...], tuple[int, ...]]]:
    events = tables.usage_events
    corrected = events.alias("corrected")
    was_unpriced = (
        select(literal(1))
        .where(corrected.c.id == events.c.corrects_event_id, corrected.c.total_cost.is_(None))
        .exists()
    )
    quarter = events.c.occurred_at - events.c.occurred_at % cast(literal(_QUARTER_HOUR_MICROS), BigInteger)
    grouped = (
        events.c.billable,
        quarter,
        events.c.provider,
        events.c.model,
        events.c.feature,
        events.c.resource_type,
        events.c.currency,
    )
    # The first correction of an unpriced event that has a price prices it; later ones change a price, and an adjustment
    # of a quantity has none.
    is_first = (
        ~select(literal(1))
        .where(
            corrected.c.corrects_event_id == events.c.corrects_event_id,
            corrected.c.price.isnot(None),
            corrected.c.id < events.c.id,
        )
        .exists()
    )
    prices_it = events.c.corrects_event_id.isnot(None) & events.c.price.isnot(None)
    unpriced = case(
        (events.c.total_cost.is_(None), 1),
        (prices_it & was_unpriced & is_first, -1),
        else_=0,
    )
    query = select(
        *grouped,
        func.sum(case((events.c.corrects_event_id.is_(None), 1), else_=0)),
        func.sum(unpriced),
        *(func.sum(events.c[name]) for name in ROLLUP_SUMS[2:-1]),
        func.coalesce(func.sum(events.c.total_cost), 0),
    ).group_by(*grouped)
    for row in connection.execute(query):
        yield tuple(row[:7]), tuple(int(value) for value in row[7:])


def _rollup_rows(connection: Connection, table: Any) -> Iterator[tuple[tuple[Any, ...], tuple[int, ...]]]:
    for row in connection.execute(select(table)):
        yield tuple(row[:7]), tuple(int(value) for value in row[7:])


def _hold_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    holds, events = tables.holds, tables.usage_events
    missing = connection.execute(
        select(holds.c.id, holds.c.event_id)
        .outerjoin(events, events.c.id == holds.c.event_id)
        .where(holds.c.status == "settled", events.c.id.is_(None))
    )
    for hold_id, event_id in missing:
        yield Finding("settled hold", hold_id, f"event {event_id}", "none", "Its event is gone; restore it.")
    recorded = connection.execute(
        select(holds.c.id, events.c.id).join(events, events.c.hold_id == holds.c.id).where(holds.c.status == "open")
    )
    for hold_id, event_id in recorded:
        yield Finding("open hold", hold_id, "no event", f"event {event_id}", "It was recorded and not closed.")
    twice = connection.execute(
        select(events.c.hold_id).where(events.c.hold_id.isnot(None)).group_by(events.c.hold_id).having(func.count() > 1)
    )
    for (hold_id,) in twice:
        yield Finding("events of a hold", hold_id, "one", "several", "A call was recorded more than once.")
    lapsed = connection.execute(
        select(holds.c.id, holds.c.billable, holds.c.expires_at).where(
            holds.c.status == "open", holds.c.expires_at <= engine.now()
        )
    )
    for hold_id, billable, expires_at in lapsed:
        yield Finding(
            "lapsed hold",
            f"{hold_id} ({billable})",
            f"closed by {from_micros(expires_at):%Y-%m-%d %H:%M:%S} UTC",
            "open",
            "ts.run_due_jobs() releases and reports it.",
            severity="notice",
        )


def _overage_findings(connection: Connection) -> Iterator[Finding]:
    overages, events = tables.overages, tables.usage_events
    flagged = select(events.c.id).where(events.c.flags.contains("overage"))
    # Both databases look into a set of all of them once; to ask for each event would be quadratic.
    missing = flagged.where(events.c.id.notin_(select(overages.c.event_id)))
    for (event_id,) in connection.execute(missing):
        yield Finding("overage", event_id, "an overage charge", "none", "The event is flagged overage.")


def _priced_use_findings(connection: Connection) -> Iterator[Finding]:
    """Compare what was counted of priced use, by billing month, with what was charged for.

    Erasing a billable takes the counters of months that are over with it, and leaves the charges.
    """
    charges, counters, events = tables.usage_charges.c, tables.counters.c, tables.usage_events.c
    meter = literal(PRICED, String) + charges.resource_type
    is_counted = (
        select(literal(1))
        .where(
            counters.period_start == charges.period_start,
            counters.period == PRICED_PERIOD,
            counters.billable == charges.billable,
            counters.meter == meter,
        )
        .exists()
    )
    has_event = select(literal(1)).where(events.id == charges.event_id, events.billable == charges.billable).exists()
    charged = select(charges.billable, meter.label("meter"), charges.period_start, charges.quantity)
    counted = select(counters.billable, counters.meter, counters.period_start, counters.used).where(
        counters.period == PRICED_PERIOD, counters.meter.startswith(PRICED, autoescape=True)
    )
    remedy = "In millionths. The usage charges prove it."
    yield from unequal_sums(connection, "used", charged.where(or_(is_counted, has_event)), counted, remedy=remedy)


def _charged_event_findings(connection: Connection) -> Iterator[Finding]:
    """Find charges of use whose event is gone, though neither clean-up nor an erasure has removed it."""
    charges, events = tables.usage_charges.c, tables.usage_events.c
    hourly, days, erased = tables.usage_hourly.c, tables.removed_days.c, tables.usage_removed.c
    # An erasure takes the rollups too, and notes what it took of the period that was running.
    has_rollup = (
        select(literal(1))
        .where(
            hourly.billable == charges.billable,
            hourly.bucket_start <= charges.occurred_at,
            hourly.bucket_start > charges.occurred_at - cast(literal(_HOUR_MICROS), BigInteger),
        )
        .exists()
    )
    is_erased = select(literal(1)).where(erased.billable == charges.billable, erased.rollups_kept.is_(False)).exists()
    is_cleaned_up = (
        select(literal(1))
        .where(
            days.billable == charges.billable,
            days.day_start <= charges.occurred_at,
            days.day_start > charges.occurred_at - cast(literal(_DAY_MICROS), BigInteger),
        )
        .exists()
    )
    has_event = select(literal(1)).where(events.id == charges.event_id).exists()
    query = select(charges.id, charges.event_id).where(~has_event, has_rollup, ~is_erased, ~is_cleaned_up)
    for charge_id, event_id in connection.execute(query.order_by(charges.id)):
        yield Finding("usage charge", charge_id, f"event {event_id}", "none", "Its event is gone; restore it.")


def _unpriced_findings(connection: Connection) -> Iterator[Finding]:
    hourly = tables.usage_hourly
    unpriced = int(connection.execute(select(func.coalesce(func.sum(hourly.c.unpriced_events), 0))).scalar_one())
    if unpriced:
        yield Finding(
            "unpriced events",
            "usage",
            "0",
            str(unpriced),
            "Set their prices and run reprice.",
            severity="notice",
        )


def price_findings(connection: Connection) -> Iterator[Finding]:
    """Find costs that differ from what the price kept with them makes."""
    events = tables.usage_events
    query = select(events.c.id, events.c.total_cost, events.c.price).where(
        events.c.price.isnot(None), events.c.total_cost.isnot(None), events.c.corrects_event_id.is_(None)
    )
    for event_id, total, price in connection.execute(query.execution_options(yield_per=5000)):
        expected = Cost.from_dict(json.loads(price)).recomputed_nanos()
        if expected != total:
            yield Finding("cost", event_id, f"{expected} nanos", f"{total} nanos", "Its price does not make its cost.")


def _add(sums: dict[tuple[Any, ...], tuple[int, ...]], key: tuple[Any, ...], amounts: Iterable[int]) -> None:
    before = sums.get(key)
    sums[key] = tuple(amounts) if before is None else tuple(map(sum, zip(before, amounts, strict=True)))
