"""Clean-up: removing old events in small batches, while every sum that they went into stays whole and provable.

Counters, rollups, overages and the ledger are not touched. What a batch removes is noted in its transaction: by plan
period in `usage_removed` (events + removed = counters), and by the account's day in `removed_days` (events + removed =
rollups). An event without a price stays until it has one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, literal, or_, select, tuple_, update

from tallystick.errors import InvalidInput
from tallystick.metering.adjusting import ADJUSTED
from tallystick.metering.rollup_zones import rollup_zones
from tallystick.period import PeriodKind, PeriodRule, from_micros
from tallystick.plans.terms import BillingMode
from tallystick.storage import tables
from tallystick.storage.locking import lock_accounts

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Cleanup", "Progress", "cleanup"]

Progress = Callable[[int, int], None]
"""Is told how many events were removed so far, and how many there are to remove."""

_DAY_MICROS = 24 * 60 * 60 * 1_000_000
_PORTION = 500
_BATCH_MAX = 10_000
_PAGE = 5_000

# What is kept of removed events: of plan periods, and of days. Corrections are no events of their own.
_AMOUNTS = ("events", "quantity", "total_tokens", "total_cost")
_NOTHING = (0,) * len(_AMOUNTS)


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What was removed, or with `dry_run` would be: the events of days that ended before `before`.

    `unpriced` events are kept: they have no price yet. `holds` are those that had ended, `refusals` those that shadow
    mode had noted.
    """

    before: datetime
    events: int
    billables: int
    unpriced: int
    holds: int
    refusals: int
    dry_run: bool

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {**asdict(self), "before": self.before.isoformat()}


def cleanup(
    engine: Engine,
    *,
    days: int | None = None,
    dry_run: bool = False,
    batch_size: int = _PORTION,
    progress: Progress | None = None,
) -> Cleanup:
    """Remove the events of days that ended more than `days` days ago, each account's days by its own zone.

    A batch is one short transaction; others write between two of them. Stopping in the middle is harmless, and so is
    running it in several processes.
    """
    days = engine.settings.storage.prune_after_days if days is None else days
    if isinstance(days, bool) or not isinstance(days, int) or days < 1:
        raise InvalidInput("days", days, "Give the number of days that are kept, 1 or more.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= _BATCH_MAX:
        raise InvalidInput("batch_size", batch_size, f"Give 1 to {_BATCH_MAX:,}.")
    before = engine.now() - days * _DAY_MICROS
    accounts = engine.read(lambda connection: list(_accounts(engine, connection, before)))
    total = sum(account.removable for account in accounts)
    removed, billables = 0, 0
    if dry_run:
        removed, billables = total, sum(account.removable > 0 for account in accounts)
    else:
        for account in accounts:
            done_before = removed
            for count in _removed(engine, account, batch_size):
                removed += count
                if progress is not None:
                    progress(removed, max(total, removed))
            billables += removed > done_before
    return Cleanup(
        before=from_micros(before),
        events=removed,
        billables=billables,
        unpriced=sum(account.unpriced for account in accounts),
        holds=_ended_holds(engine, before, batch_size, dry_run=dry_run),
        refusals=_refusals(engine, before, dry_run=dry_run),
        dry_run=dry_run,
    )


@dataclass(frozen=True, slots=True)
class _Account:
    """One account with old events: until when (µs) they go, how many, and how many stay for want of a price."""

    billable: str
    days: PeriodRule
    until: int
    removable: int
    unpriced: int


def _accounts(engine: Engine, connection: Connection, before: int) -> Iterator[_Account]:
    events = tables.usage_events.c
    default = engine.settings.period.timezone
    zones: Mapping[str, str] = rollup_zones(connection, default)
    rules = {zone: PeriodRule(PeriodKind.DAILY, zone) for zone in {default, *zones.values()}}
    named = select(events.billable).where(events.occurred_at < before).group_by(events.billable)
    for billable in connection.execute(named.order_by(events.billable)).scalars().all():
        days = rules[zones.get(billable, default)]
        until = days.bounds_micros(before)[0]
        old = and_(events.billable == billable, events.occurred_at < until)
        counts = select(func.count(), func.count().filter(_waits_for_a_price()), func.min(events.occurred_at)).where(
            old
        )
        count, unpriced, first = connection.execute(counts).one()
        if first is not None:
            yield _Account(billable, days, until, count - unpriced, unpriced)


def _waits_for_a_price() -> ColumnElement[bool]:
    """Say whether an event has no price, and no correction has priced it."""
    events = tables.usage_events
    corrections = events.alias("corrections")
    prices_it = and_(corrections.c.corrects_event_id == events.c.id, corrections.c.price.isnot(None))
    return and_(events.c.total_cost.is_(None), ~select(literal(1)).where(prices_it).exists())


# -- one account ------------------------------------------------------------------------------------------------------


def _removed(engine: Engine, account: _Account, batch_size: int) -> Iterator[int]:
    """Remove an account's old events, a batch at a time; each step says how many."""
    position: tuple[int, str] | None = None
    while True:
        last, count = engine.lane.transact(_Batch(account, position, batch_size))
        if count:
            yield count
        if last is None:
            return
        position = last


@dataclass(frozen=True, slots=True)
class _Batch:
    """One transaction: the events after a position, the notes of what goes, and the calls that they end."""

    account: _Account
    after: tuple[int, str] | None
    size: int

    def __call__(self, connection: Connection) -> tuple[tuple[int, str] | None, int]:
        """Return the position that was reached, None at the end, and how many events were removed."""
        account, events = self.account, tables.usage_events
        lock_accounts(connection, [account.billable])
        query = select(
            *(events.c[name] for name in ("id", "occurred_at", "currency", "period", "period_start", "hold_id")),
            *(events.c[name] for name in ("quantity", "total_tokens", "total_cost", "billing_mode")),
            events.c.corrects_event_id,
        ).where(events.c.billable == account.billable, events.c.occurred_at < account.until, ~_waits_for_a_price())
        if self.after is not None:
            query = query.where(tuple_(events.c.occurred_at, events.c.id) > tuple_(*self.after))
        rows = connection.execute(query.order_by(events.c.occurred_at, events.c.id).limit(self.size)).all()
        if not rows:
            return None, 0
        _note(connection, account, rows)
        _delete(connection, events, [row.id for row in rows])
        _delete_adjusted(connection, account.billable, [row.id for row in rows])
        _delete(connection, tables.holds, [row.hold_id for row in rows if row.hold_id], keep_open=True)
        last = rows[-1]
        return (None if len(rows) < self.size else (last.occurred_at, last.id)), len(rows)


def _note(connection: Connection, account: _Account, rows: Sequence[Any]) -> None:
    """Note what goes, so that every sum can still be computed again."""
    days: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * len(_AMOUNTS))
    periods: dict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0] * len(_AMOUNTS))
    for row in rows:
        is_event = row.corrects_event_id is None
        amounts = (int(is_event), row.quantity, row.total_tokens, row.total_cost or 0)
        _add(days[account.days.bounds_micros(row.occurred_at)[0], row.currency], amounts)
        # What a wallet paid for is not counted against a plan's limits. That something went is noted all the same.
        is_of_a_plan = row.billing_mode != BillingMode.CREDITS
        _add(periods[row.period, row.period_start, row.currency], amounts if is_of_a_plan else _NOTHING)
    for (day, currency), sums in days.items():
        key = {"billable": account.billable, "day_start": day, "currency": currency}
        _add_to_row(connection, tables.removed_days, key, sums)
    for (period, start, currency), sums in periods.items():
        key = {"billable": account.billable, "period": period, "period_start": start, "currency": currency}
        _add_to_row(connection, tables.usage_removed, {**key, "rollups_kept": True}, sums)


def _add(sums: list[int], amounts: tuple[int, ...]) -> None:
    for position, amount in enumerate(amounts):
        sums[position] += amount


def _add_to_row(connection: Connection, table: Table, key: Mapping[str, object], sums: Sequence[int]) -> None:
    same = and_(*(table.c[name] == value for name, value in key.items()))
    amounts = dict(zip(_AMOUNTS, sums, strict=True))
    added = {name: table.c[name] + amount for name, amount in amounts.items()}
    if not connection.execute(update(table).where(same).values(added)).rowcount:
        connection.execute(table.insert().values(**key, **amounts))


def _delete(connection: Connection, table: Table, ids: Sequence[str], *, keep_open: bool = False) -> int:
    deleted = 0
    for start in range(0, len(ids), _PORTION):
        statement = delete(table).where(table.c.id.in_(ids[start : start + _PORTION]))
        if keep_open:
            statement = statement.where(table.c.status != "open")
        deleted += connection.execute(statement).rowcount
    return deleted


def _delete_adjusted(connection: Connection, billable: str, ids: Sequence[str]) -> None:
    """Forget how much of events was adjusted."""
    counters = tables.counters
    for start in range(0, len(ids), _PORTION):
        scopes = counters.c.scope.in_(ids[start : start + _PORTION])
        of_these = and_(counters.c.period_start == 0, counters.c.period == "", counters.c.billable == billable, scopes)
        connection.execute(delete(counters).where(of_these, counters.c.meter == ADJUSTED))


# -- what has no account ----------------------------------------------------------------------------------------------


def _ended_holds(engine: Engine, before: int, batch_size: int, *, dry_run: bool) -> int:
    """Remove old holds that ended without use. Those of events go with their events."""
    holds = tables.holds
    old = and_(
        or_(holds.c.status == "voided", holds.c.status == "expired"),
        holds.c.created_at < before,
    )
    found, last = 0, ""
    while True:
        # Once over all holds, by key: an index for this alone would cost every call.
        page = select(holds.c.id, old.label("goes")).where(holds.c.id > last).order_by(holds.c.id).limit(_PAGE)
        rows = engine.read(lambda connection, page=page: connection.execute(page).all())  # type: ignore[misc]  # bound now
        ids = [row.id for row in rows if row.goes]
        found += len(ids)
        for start in range(0, 0 if dry_run else len(ids), batch_size):
            some = ids[start : start + batch_size]
            engine.lane.transact(lambda connection, some=some: _delete(connection, holds, some, keep_open=True))  # type: ignore[misc]  # bound now
        if len(rows) < _PAGE:
            return found
        last = rows[-1].id


def _refusals(engine: Engine, before: int, *, dry_run: bool) -> int:
    refusals = tables.shadow_refusals
    old = refusals.c.created_at < before
    if dry_run:
        count = select(func.count()).select_from(refusals).where(old)
        return engine.read(lambda connection: connection.execute(count).scalar_one())
    found = 0
    while True:
        some = select(refusals.c.id).where(old).order_by(refusals.c.id).limit(_PORTION)
        gone = delete(refusals).where(refusals.c.id.in_(some.scalar_subquery()))
        count_now: int = engine.lane.transact(lambda connection, gone=gone: connection.execute(gone).rowcount)  # type: ignore[misc]  # bound now
        found += count_now
        if count_now < _PORTION:
            return found
