"""What users have spent of wallets that they share, as statement lines prove it: the counters of caps must equal it.

Where a user's name is taken off the lines, what they had spent in a period that is running is noted beside its counter
(`removed_meter`), so that the counter stays provable and the cap is not given back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import CTE, BigInteger, ColumnElement, Connection, String, and_, column, func, select, values

from tallystick.credits.account import is_money
from tallystick.limits.counters import CounterKey
from tallystick.plans.loading import load_terms
from tallystick.plans.terms import Terms, TermsPolicy
from tallystick.storage import tables

__all__ = [
    "SPENDING",
    "CapPeriod",
    "RunningCaps",
    "cap_counters",
    "cap_meter",
    "named_spending",
    "removed_meter",
    "running_caps",
]

SPENDING = ("usage", "deduction", "refund")
"""The sources of statement lines that count towards a cap."""

_PORTION = 100


class CapPeriod(NamedTuple):
    """A period (µs, half-open) in which caps on a billable's wallet count."""

    billable: str
    unit: str
    period: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RunningCaps:
    """The periods that are running of all caps in force, and the terms that say whom they limit."""

    periods: tuple[CapPeriod, ...]
    terms: Mapping[str, Terms]

    @property
    def is_anniversary(self) -> bool:
        """Whether periods begin with subscriptions, so that those of a month may overlap where one began or ended."""
        return any(terms.policy.is_anniversary for terms in self.terms.values())

    def limits(self, billable: str, unit: str, member: str, period: str) -> bool:
        """Whether a user's spending counts towards a cap of this period."""
        cap = self.terms[billable].cap_for(unit, member) if member != billable else None
        return cap is not None and cap.period == period


def cap_meter(unit: str) -> str:
    """Return the meter of what a user (the counter's scope) has spent of a wallet."""
    return f"credits:{unit}"


def removed_meter(unit: str) -> str:
    """Return the meter of that part of it that no statement line names any more."""
    return f"credits_removed:{unit}"


def running_caps(
    connection: Connection, policy: TermsPolicy, at: int, billables: Iterable[str] | None = None
) -> RunningCaps:
    """Find the caps in force at an instant (µs) on anybody's wallets, or on those of some."""
    caps = tables.credit_caps
    capped = set(connection.execute(select(caps.c.billable).distinct()).scalars())
    terms = load_terms(connection, sorted(capped if billables is None else capped & set(billables)), policy)
    periods = {
        CapPeriod(billable, cap.unit, cap.period, *own.bounds(cap.period, at))
        for billable, own in terms.items()
        for cap in own.caps
        if is_money(cap.unit)
    }
    return RunningCaps(tuple(sorted(periods)), terms)


def named_spending(
    connection: Connection, caps: RunningCaps, condition: ColumnElement[bool] | None = None
) -> dict[CounterKey, int]:
    """Return what the lines of the running periods (those of a condition) say of users whom a cap limits."""
    lines = tables.credit_transactions.c
    found: dict[CounterKey, int] = defaultdict(int)
    for running in _portions(caps.periods):
        grouped = [lines.billable, lines.unit, lines.user_id, running.c.period, running.c.period_start]
        if caps.is_anniversary:
            grouped.append(lines.occurred_at)
        within = and_(
            lines.billable == running.c.billable,
            lines.unit == running.c.unit,
            lines.occurred_at >= running.c.period_start,
            lines.occurred_at < running.c.period_end,
        )
        query = (
            select(*grouped, func.sum(-lines.amount))
            .select_from(running.join(tables.credit_transactions, within))
            .where(lines.user_id.isnot(None), lines.source.in_(SPENDING))
            .group_by(*grouped)
        )
        if condition is not None:
            query = query.where(condition)
        for billable, unit, member, period, start, *at, amount in connection.execute(query):
            is_of_it = not at or caps.terms[billable].bounds(period, at[0])[0] == start
            if is_of_it and caps.limits(billable, unit, member, period):
                found[CounterKey(billable, cap_meter(unit), member, period, start)] += int(amount)
    return found


def cap_counters(connection: Connection, caps: RunningCaps, *, removed: bool) -> dict[CounterKey, int]:
    """Return what is counted in the running periods towards caps in force; or what was noted as removed of it.

    The keys are those of the caps' counters either way.
    """
    counters = tables.counters.c
    meter_of = removed_meter if removed else cap_meter
    units = {meter_of(one.unit): one.unit for one in caps.periods}
    found: dict[CounterKey, int] = {}
    for running in _portions(caps.periods, meter_of=meter_of):
        same = and_(
            counters.period_start == running.c.period_start,
            counters.period == running.c.period,
            counters.billable == running.c.billable,
            counters.meter == running.c.unit,
        )
        key = (counters.billable, counters.meter, counters.scope, counters.period, counters.period_start)
        for billable, meter, member, period, start, used in connection.execute(
            select(*key, counters.used).select_from(running.join(tables.counters, same))
        ):
            unit = units[meter]
            if caps.limits(billable, unit, member, period):
                found[CounterKey(billable, cap_meter(unit), member, period, start)] = used
    return found


def _portions(periods: Sequence[CapPeriod], meter_of: Any = None) -> Iterator[CTE]:
    """Give periods to the database, some at a time, as a relation to join with; units as their meters, if asked for."""
    columns = (
        column("billable", String),
        column("unit", String),
        column("period", String),
        column("period_start", BigInteger),
        column("period_end", BigInteger),
    )
    for first in range(0, len(periods), _PORTION):
        some = periods[first : first + _PORTION]
        rows = [one if meter_of is None else one._replace(unit=meter_of(one.unit)) for one in some]
        yield values(*columns, name="running").data([tuple(row) for row in rows]).cte("running")
