"""Forecasts: how fast credits were burned of late, and how long what is left lasts at that rate.

The rate is the average of the last 30 days, or of the time since the first use where that is shorter; never of less
than a day, as one use a minute ago says nothing of a day. What was refunded was not burned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, ColumnElement, Connection, case, func, literal, select

from tallystick.credits.account import amount_of
from tallystick.credits.credit_report import ExpiringCredits, Forecast
from tallystick.credits.forecast import BurnRate, Lot, burn_down
from tallystick.credits.lapsed import in_burn_order, is_unrestricted
from tallystick.credits.listing import IS_OPEN
from tallystick.period import MAX_MICROS, from_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["DAY_MICROS", "USES", "account_forecast", "unit_forecasts"]

DAY_MICROS = 86_400_000_000

USES = ("usage", "deduction")
"""The sources of transactions that use credits."""

_BURNING = (*USES, "refund")
_WINDOW_MICROS = 30 * DAY_MICROS
_NEVER = literal(MAX_MICROS, BigInteger)


@dataclass(frozen=True, slots=True)
class _Burned:
    """What was burned within the window, when use began in it (µs; None: not), and whether there was use before it."""

    amount: int
    first_at: int | None
    was_before: bool

    def rate(self, at: int) -> BurnRate:
        since = self.first_at if self.first_at is not None and not self.was_before else at - _WINDOW_MICROS
        return BurnRate(max(self.amount, 0), max(at - since, DAY_MICROS))


_NOTHING = _Burned(0, None, was_before=False)


def account_forecast(engine: Engine, billable: str, unit: str) -> Forecast:
    """Foresee one account, grant by grant in the order in which they burn."""
    at = engine.now()

    def look(connection: Connection) -> Forecast:
        columns = tables.credit_transactions.c
        burned = _burned(connection, at, [unit], columns.billable == billable).get(unit, _NOTHING)
        lots = list(_open_lots(connection, billable, unit, at, expiring_first=engine.credit_policy.expiring_first))
        return _forecast(billable, unit, at, lots, burned.rate(at))

    return engine.read_snapshot(look)


def unit_forecasts(connection: Connection, units: Iterable[str], at: int) -> Mapping[str, Forecast]:
    """Foresee units, all accounts of each taken for one. What expires on one day (of UTC) is one lot."""
    wanted = list(units)
    rates = _burned(connection, at, wanted)
    lots: dict[str, list[Lot]] = {unit: [] for unit in wanted}
    for unit, lot in _pooled_lots(connection, at):
        if unit in lots:
            lots[unit].append(lot)
    return {unit: _forecast(None, unit, at, lots[unit], rates.get(unit, _NOTHING).rate(at)) for unit in wanted}


def _forecast(billable: str | None, unit: str, at: int, lots: list[Lot], rate: BurnRate) -> Forecast:
    found = burn_down(lots, rate, at)
    empty_at = found.empty_at
    return Forecast(
        billable=billable,
        unit=unit,
        at=from_micros(at),
        available=amount_of(unit, sum(lot.amount for lot in lots)),
        daily_burn=amount_of(unit, rate.per_day),
        measured_since=from_micros(at - rate.micros),
        days_left=None if empty_at is None else (empty_at - at) / DAY_MICROS,
        # Later than a calendar knows is as good as never.
        empty_at=None if empty_at is None or empty_at > MAX_MICROS else from_micros(empty_at),
        will_expire=amount_of(unit, found.unused),
        expiring=tuple(
            ExpiringCredits(
                grant_id=burned.lot.name or None,
                expires_at=from_micros(burned.lot.expires_at),
                remaining=amount_of(unit, burned.lot.amount),
                unused=amount_of(unit, burned.unused),
            )
            for burned in sorted(found.lots, key=lambda one: one.lot.expires_at or 0)
            if burned.lot.expires_at is not None
        ),
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def _burned(connection: Connection, at: int, units: list[str], *only: ColumnElement[bool]) -> dict[str, _Burned]:
    lines = tables.credit_transactions
    window = at - _WINDOW_MICROS
    first_use = func.min(case((lines.c.source.in_(USES), lines.c.occurred_at)))
    query = (
        select(lines.c.unit, -func.sum(lines.c.amount), first_use)
        .where(lines.c.occurred_at >= window, lines.c.occurred_at <= at, lines.c.source.in_(_BURNING), *only)
        .group_by(lines.c.unit)
    )
    found: dict[str, _Burned] = {}
    for unit, amount, first_at in connection.execute(query):
        if unit in units:
            before = select(literal(1)).where(
                lines.c.unit == unit, lines.c.occurred_at < window, lines.c.source.in_(USES), *only
            )
            was_before = connection.execute(before.limit(1)).first() is not None
            found[unit] = _Burned(int(amount), None if first_at is None else int(first_at), was_before)
    return found


def _open_lots(connection: Connection, billable: str, unit: str, at: int, *, expiring_first: bool) -> Iterator[Lot]:
    """Yield the open grants in the order in which they burn, less what calls in flight have pinned and what is owed."""
    grants, accounts = tables.grants, tables.credit_accounts
    own = accounts.c.billable == billable, accounts.c.unit == unit
    owed = -(connection.execute(select(accounts.c.overdraft).where(*own)).scalar() or 0)
    query = (
        select(grants.c.id, grants.c.remaining - grants.c.held, grants.c.expires_at, is_unrestricted())
        .where(grants.c.billable == billable, grants.c.unit == unit, IS_OPEN)
        .where(func.coalesce(grants.c.expires_at, _NEVER) > at)
        .order_by(*in_burn_order(expiring_first=expiring_first))
    )
    for grant_id, free, expires_at, pays_debts in connection.execute(query):
        withheld = min(free, owed) if pays_debts else 0
        owed -= withheld
        yield Lot(grant_id, free - withheld, expires_at)


def _pooled_lots(connection: Connection, at: int) -> Iterator[tuple[str, Lot]]:
    """Yield (unit, lot) of all that is open: a lot for each priority and day of expiry, the soonest first."""
    grants = tables.grants
    day = grants.c.expires_at // literal(DAY_MICROS, BigInteger)
    query = (
        select(
            grants.c.unit,
            grants.c.priority,
            func.min(grants.c.expires_at),
            func.sum(grants.c.remaining - grants.c.held),
        )
        .where(IS_OPEN, func.coalesce(grants.c.expires_at, _NEVER) > at)
        .group_by(grants.c.unit, grants.c.priority, day)
    )
    rows = connection.execute(query).all()
    for unit, _, expires_at, amount in sorted(rows, key=lambda row: (row[1], MAX_MICROS if row[2] is None else row[2])):
        yield unit, Lot("", int(amount), expires_at)
