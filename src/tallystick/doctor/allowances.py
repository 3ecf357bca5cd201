"""What the doctor asks about allowances: counters of features, caps, limited grants and automatic top-ups.

Only a period that is running limits anybody. Of one that is over, a counter is compared where it is still there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, String, and_, literal, or_, select, union_all

from tallystick.credits.account import FEATURE_PREFIX
from tallystick.credits.charges import CREDITS_SCOPE
from tallystick.credits.ledger import BALANCE_ACCOUNTS
from tallystick.credits.proof import SPENDING, cap_counters, named_spending, running_caps
from tallystick.doctor.finding import Finding, differences, unequal_sums
from tallystick.limits.counters import CounterKey
from tallystick.metering.erasure import PSEUDONYM
from tallystick.metering.rollup_zones import rollup_zones
from tallystick.plans.loading import load_terms
from tallystick.plans.terms import Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["allowance_findings"]

_USES = "What was recorded proves it."


def allowance_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    """Find counters that disagree with what was used of features, of shared wallets, and of limited grants."""
    yield from _feature_findings(connection)
    yield from _extra_credit_findings(connection)
    yield from _cap_findings(engine, connection)
    yield from _grant_limit_findings(engine, connection)
    yield from _top_up_findings(engine, connection)


def _feature_findings(connection: Connection) -> Iterator[Finding]:
    uses, counters = tables.feature_uses.c, tables.counters.c
    meter = literal(FEATURE_PREFIX, String) + uses.feature
    recorded = union_all(
        *(
            select(
                uses.billable,
                meter.label("meter"),
                literal(scope, String).label("scope"),
                uses.period,
                uses.period_start,
                amount.label("amount"),
            )
            for scope, amount in (("", uses.from_plan), (CREDITS_SCOPE, uses.from_credits))
        )
    ).subquery()
    counted = select(
        counters.billable, counters.meter, counters.scope, counters.period, counters.period_start, counters.used
    ).where(counters.meter.startswith(FEATURE_PREFIX, autoescape=True))
    yield from unequal_sums(connection, "used", select(recorded), counted, unit="meter", remedy=_USES)


def _extra_credit_findings(connection: Connection) -> Iterator[Finding]:
    """Compare what uses took of extra credits with the statement. Use that was erased or renamed names no line."""
    uses, lines, events = tables.feature_uses, tables.credit_transactions, tables.usage_events
    unit = literal(FEATURE_PREFIX, String) + uses.c.feature
    recorded = select(uses.c.event_id, uses.c.billable, unit.label("unit"), uses.c.from_credits).where(
        ~uses.c.event_id.startswith(PSEUDONYM, autoescape=True)
    )
    has_use = select(literal(1)).where(uses.c.event_id == lines.c.event_id).exists()
    is_event = and_(events.c.id == lines.c.event_id, events.c.billable == lines.c.billable)
    has_event = select(literal(1)).where(is_event).exists()
    posted = select(lines.c.event_id, lines.c.billable, lines.c.unit, -lines.c.amount).where(
        lines.c.source == "usage", lines.c.unit.startswith(FEATURE_PREFIX, autoescape=True), or_(has_use, has_event)
    )
    yield from unequal_sums(connection, "extra credits of", posted, recorded, unit="unit", remedy=_USES)


def _cap_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    caps = running_caps(connection, engine.terms_policy, engine.now())
    expected = named_spending(connection, caps)
    for key, used in cap_counters(connection, caps, removed=True).items():
        expected[key] = expected.get(key, 0) + used
    found = cap_counters(connection, caps, removed=False)
    yield from differences("used", expected, found, remedy="Set the cap again: it is then counted anew.")


def _grant_limit_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    """Compare what was taken of limited grants in an hour or a day with what was counted of it."""
    grants, lines, entries = tables.grants, tables.credit_transactions, tables.ledger_entries
    is_limited = grants.c.limit_amount.isnot(None)
    limited = connection.execute(select(grants.c.billable).where(is_limited).distinct()).scalars().all()
    if not limited:
        return
    same_line = and_(
        lines.c.billable == entries.c.billable,
        lines.c.unit == entries.c.unit,
        lines.c.number == entries.c.statement_number,
    )
    query = (
        select(grants.c.billable, grants.c.id, grants.c.limit_period, lines.c.occurred_at, entries.c.amount)
        .select_from(entries.join(grants, grants.c.id == entries.c.grant_id).join(lines, same_line))
        .where(is_limited, entries.c.account.in_(BALANCE_ACCOUNTS), lines.c.source.in_(SPENDING))
    )
    periods = _Periods(engine, connection, limited)
    expected: dict[tuple[Any, ...], int] = defaultdict(int)
    for billable, grant_id, period, at, amount in connection.execute(query.execution_options(yield_per=5000)):
        expected[CounterKey(billable, "grant", grant_id, period, periods.start(billable, period, at))] -= amount
    yield from periods.compared(expected, tables.counters.c.meter == "grant")


def _top_up_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    """Compare the automatic top-ups of a month that did not fail with what was counted towards its maximum."""
    top_ups = tables.top_ups.c
    query = select(top_ups.billable, top_ups.unit, top_ups.created_at, top_ups.amount).where(top_ups.status != "failed")
    rows = connection.execute(query).all()
    periods = _Periods(engine, connection, {row.billable for row in rows})
    expected: dict[tuple[Any, ...], int] = defaultdict(int)
    for billable, unit, at, amount in rows:
        start = periods.start(billable, "monthly", at)
        expected[CounterKey(billable, f"top_up:{unit}", "", "monthly", start)] += amount
    yield from periods.compared(expected, tables.counters.c.meter.startswith("top_up:", autoescape=True))


class _Periods:
    """The periods of accounts, and the counters in them: those that are there, and those that must be."""

    def __init__(self, engine: Engine, connection: Connection, billables: Iterable[str]) -> None:
        self._connection = connection
        self._now = engine.now()
        # Only anniversaries, and tenants' own zones, differ from account to account.
        self._everybody = Terms("", engine.terms_policy)
        zones = rollup_zones(connection, engine.terms_policy.zone)
        own = billables if engine.terms_policy.is_anniversary else [one for one in billables if one in zones]
        self._terms = load_terms(connection, own, engine.terms_policy)

    def start(self, billable: str, period: str, at: int) -> int:
        """Return the start (µs) of an account's period around an instant."""
        return self._terms.get(billable, self._everybody).bounds(period, at)[0]

    def compared(self, expected: dict[tuple[Any, ...], int], meters: ColumnElement[bool]) -> Iterator[Finding]:
        """Compare with the counters of some meters.

        Of a period that is over a counter may have been erased, and its bounds may be others by terms that came later:
        there, only what has the same bounds on both sides is compared.
        """
        counters = tables.counters.c
        key = (counters.billable, counters.meter, counters.scope, counters.period, counters.period_start)
        rows = self._connection.execute(select(*key, counters.used).where(meters))
        found = {tuple(row[:5]): int(row[5]) for row in rows}
        both = expected.keys() & found.keys()
        needed, there = (
            {one: amount for one, amount in side.items() if one in both or self._is_running(*one)}
            for side in (expected, found)
        )
        yield from differences("used", needed, there, remedy=_USES)

    def _is_running(self, billable: str, _meter: str, _scope: str, period: str, start: int) -> bool:
        return start == self.start(billable, period, self._now)
