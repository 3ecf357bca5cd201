"""Taking people out of the records: erasing a billable, and anonymising what is old. Sums stay provable.

What leaves `usage_events` while its counter stays is noted in `usage_removed` as a sum, so that `doctor` can still
recompute every counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from tallystick.plans.loading import journal_change
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Erasure", "anonymize_before", "delete_for"]

_PSEUDONYM = "anonymous:"


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased: the events that went or changed their name, and mentions of people in the events of others."""

    events: int
    mentions: int
    billables: int


@dataclass(frozen=True, slots=True)
class _PeriodSum:
    """What some events of one billable add to one period's counters."""

    period: str
    period_start: int
    currency: str
    events: int
    quantity: int
    total_tokens: int
    total_cost: int


def delete_for(engine: Engine, billable: str) -> Erasure:
    """Erase one billable, all at once."""
    running = engine.terms(billable).at(engine.now())
    events, holds = tables.usage_events, tables.holds

    def erase(connection: Connection) -> Erasure:
        _lock(connection, billable)
        own = events.c.billable == billable
        for one in _sums(connection, own):
            if (one.period, one.period_start) == (running.period, running.period_start):
                _note_removed(connection, billable, one)
        for table in (tables.counters, tables.usage_removed):
            is_running = and_(table.c.period == running.period, table.c.period_start == running.period_start)
            is_over = and_(table.c.billable == billable, ~is_running)
            if table is tables.counters:
                # Calls in flight may hold of a period that is over: what they hold stays counted until they end.
                connection.execute(update(table).where(is_over, table.c.held != 0).values(used=0))
                is_over = and_(is_over, table.c.held == 0)
            connection.execute(delete(table).where(is_over))
        erased = connection.execute(delete(events).where(own)).rowcount
        for named in (tables.usage_hourly, tables.usage_daily, tables.idempotency_keys):
            connection.execute(delete(named).where(named.c.billable == billable))
        connection.execute(delete(holds).where(holds.c.billable == billable, holds.c.status != "open"))
        mentions = 0
        for name in ("user_id", "tenant_id"):
            connection.execute(update(holds).where(holds.c[name] == billable).values({name: None}))
            mentioned = update(events).where(events.c[name] == billable).values({name: None, "metadata": None})
            mentions += connection.execute(mentioned).rowcount
        journal_change(connection, billable)
        return Erasure(erased, mentions, 1)

    return engine.lane.transact(erase)


def anonymize_before(engine: Engine, when: int) -> Erasure:
    """Give all use before the start of `when`'s day random names, one for each billable."""
    until = engine.days.bounds_micros(when)[0]
    events, holds, keys = tables.usage_events, tables.holds, tables.idempotency_keys
    old = events.c.occurred_at < until
    people = or_(
        events.c.user_id.isnot(None),
        events.c.tenant_id.isnot(None),
        events.c.metadata.isnot(None),
        events.c.idempotency_key.isnot(None),
    )

    def anonymize(connection: Connection) -> Erasure:
        named = select(events.c.billable).where(old, ~events.c.billable.startswith(_PSEUDONYM)).distinct()
        billables = sorted(connection.execute(named).scalars())
        moved = sum(_move(connection, billable, f"{_PSEUDONYM}{uuid4().hex}", until) for billable in billables)
        nameless = {"user_id": None, "tenant_id": None, "metadata": None, "idempotency_key": None}
        mentions = connection.execute(update(events).where(old, people).values(nameless)).rowcount
        connection.execute(delete(keys).where(keys.c.created_at < until))
        connection.execute(delete(holds).where(holds.c.created_at < until, holds.c.status != "open"))
        return Erasure(moved, mentions, len(billables))

    return engine.lane.transact(anonymize)


def _move(connection: Connection, billable: str, name: str, until: int) -> int:
    """Move a billable's old use to another name: events, rollups, and what they add to counters."""
    _lock(connection, billable)
    events = tables.usage_events
    own_old = and_(events.c.billable == billable, events.c.occurred_at < until)
    for one in _sums(connection, own_old):
        for meter, amount in (("tokens", one.total_tokens), (f"cost:{one.currency}", one.total_cost)):
            key = {"meter": meter, "scope": "", "period": one.period, "period_start": one.period_start}
            _add(connection, tables.counters, {"billable": name, **key}, {"used": amount, "held": 0})
        _note_removed(connection, billable, one)
    moved = connection.execute(update(events).where(own_old).values(billable=name)).rowcount
    for rollup in (tables.usage_hourly, tables.usage_daily):
        own_buckets = and_(rollup.c.billable == billable, rollup.c.bucket_start < until)
        connection.execute(update(rollup).where(own_buckets).values(billable=name))
    return moved


def _sums(connection: Connection, condition: Any) -> list[_PeriodSum]:
    events = tables.usage_events
    grouped = (events.c.period, events.c.period_start, events.c.currency)
    rows = connection.execute(
        select(
            *grouped,
            func.count(),
            func.sum(events.c.quantity),
            func.sum(events.c.total_tokens),
            func.coalesce(func.sum(events.c.total_cost), 0),
        )
        .where(condition)
        .group_by(*grouped)
    ).all()
    return [_PeriodSum(row[0], row[1], row[2], *(int(amount) for amount in row[3:])) for row in rows]


def _note_removed(connection: Connection, billable: str, one: _PeriodSum) -> None:
    key = {
        "billable": billable,
        "period": one.period,
        "period_start": one.period_start,
        "currency": one.currency,
        "rollups_kept": False,
    }
    amounts = {
        "events": one.events,
        "quantity": one.quantity,
        "total_tokens": one.total_tokens,
        "total_cost": one.total_cost,
    }
    _add(connection, tables.usage_removed, key, amounts)


def _add(connection: Connection, table: Any, key: dict[str, Any], amounts: dict[str, int]) -> None:
    """Add amounts to the row of a key, or begin it."""
    same = and_(*(table.c[name] == value for name, value in key.items()))
    added = {name: table.c[name] + amount for name, amount in amounts.items()}
    if not connection.execute(update(table).where(same).values(added)).rowcount:
        connection.execute(table.insert().values(**key, **amounts))


def _lock(connection: Connection, billable: str) -> None:
    """Keep other lanes away from the account; on SQLite the transaction itself does."""
    accounts = tables.accounts
    connection.execute(select(accounts.c.billable).where(accounts.c.billable == billable).with_for_update())
