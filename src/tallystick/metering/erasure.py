"""Taking people out of the records: erasing a billable, and anonymising what is old. Sums stay provable.

What leaves `usage_events` while its counter stays is noted in `usage_removed` as a sum, so that `doctor` can still
recompute every counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, literal, or_, select, update

from tallystick.credits.account import FEATURE_PREFIX
from tallystick.credits.erasure import forget_before, forget_person, named_before, shared_by
from tallystick.gateways.erasure import erase_payment_methods
from tallystick.invoicing.details import forget_details
from tallystick.limits.quota import SLIDING
from tallystick.limits.recount import note_erased
from tallystick.metering.adjusting import ADJUSTED
from tallystick.metering.rollup_zones import PSEUDONYM, zone_groups
from tallystick.notify.erasure import forget_mentions, forget_messages_before
from tallystick.period import calendar_period, from_micros
from tallystick.plans.loading import journal_change
from tallystick.plans.terms import BillingMode
from tallystick.storage import tables
from tallystick.storage.locking import lock_accounts

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.plans.terms import InForce

__all__ = ["PSEUDONYM", "Erasure", "anonymize_before", "delete_for"]


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
    now = engine.now()
    running = engine.terms(billable).at(now)
    events, holds = tables.usage_events, tables.holds

    def erase(connection: Connection) -> Erasure:
        shared = shared_by(connection, billable)
        lock_accounts(connection, {billable, *shared})
        own = events.c.billable == billable
        for one in _sums(connection, own):
            if (one.period, one.period_start) == (running.period, running.period_start):
                _note_removed(connection, billable, one)
        _forget_plan_periods(connection, billable, running)
        _forget_allowance_periods(connection, billable, now)
        forget_person(connection, engine, billable, shared)
        erased = connection.execute(delete(events).where(own)).rowcount
        for named in (tables.usage_hourly, tables.usage_daily, tables.idempotency_keys):
            connection.execute(delete(named).where(named.c.billable == billable))
        for named in (tables.removed_days, tables.shadow_refusals):
            connection.execute(delete(named).where(named.c.billable == billable))
        counters = tables.counters.c
        connection.execute(
            delete(tables.counters).where(
                counters.billable == billable, counters.meter == ADJUSTED, counters.period == ""
            )
        )
        connection.execute(delete(holds).where(holds.c.billable == billable, holds.c.status != "open"))
        mentions = 0
        # What calls that have ended had claimed of caps names the user.
        ended = update(holds).where(holds.c.user_id == billable, holds.c.status != "open")
        connection.execute(ended.values(claims="[]"))
        for name in ("user_id", "tenant_id"):
            connection.execute(update(holds).where(holds.c[name] == billable).values({name: None}))
            mentioned = update(events).where(events.c[name] == billable).values({name: None, "metadata": None})
            mentions += connection.execute(mentioned).rowcount
        forget_mentions(connection, billable)
        erase_payment_methods(connection, billable)
        forget_details(connection, billable)
        note_erased(connection, billable)
        journal_change(connection, billable)
        return Erasure(erased, mentions, 1)

    return engine.lane.transact(erase)


def anonymize_before(engine: Engine, when: int) -> Erasure:
    """Give all use before the start of `when`'s day, by each account's zone, random names, one for each billable."""
    until = engine.days.bounds_micros(when)[0]
    events, holds, keys = tables.usage_events, tables.holds, tables.idempotency_keys
    # What was moved of an account whose day began later is old too.
    is_moved = and_(events.c.billable.startswith(PSEUDONYM), events.c.occurred_at < when)
    is_old = or_(events.c.occurred_at < until, is_moved)
    people = or_(
        events.c.user_id.isnot(None),
        events.c.tenant_id.isnot(None),
        events.c.metadata.isnot(None),
        events.c.idempotency_key.isnot(None),
    )

    def anonymize(connection: Connection) -> Erasure:
        used = _with_old_use(engine, connection, when)
        spent_for = named_before(connection, until)
        lock_accounts(connection, {*(old.billable for old in used), *spent_for})
        moved = sum(
            _move(connection, old.billable, _anonymous(engine, connection, old.zone), old.until) for old in used
        )
        nameless = {"user_id": None, "tenant_id": None, "metadata": None, "idempotency_key": None}
        mentions = connection.execute(update(events).where(is_old, people).values(nameless)).rowcount
        forget_before(connection, engine, until, spent_for)
        connection.execute(delete(keys).where(keys.c.created_at < until))
        forget_messages_before(connection, until)
        connection.execute(delete(holds).where(holds.c.created_at < until, holds.c.status != "open"))
        return Erasure(moved, mentions, len(used))

    return engine.lane.transact(anonymize)


@dataclass(frozen=True, slots=True)
class _OldUse:
    """Whose use is old, the zone of its days, and until when (µs) it is old."""

    billable: str
    zone: str
    until: int


def _with_old_use(engine: Engine, connection: Connection, when: int) -> list[_OldUse]:
    """Return who has use before their day of an instant: events, or rollups whose events are gone."""
    events, daily = tables.usage_events.c, tables.usage_daily.c
    found: list[_OldUse] = []
    for group in zone_groups(connection, engine.settings.period.timezone):
        until = calendar_period("daily", from_micros(when), group.zone).bounds_micros[0]
        billables: set[str] = set()
        for column, at in ((events.billable, events.occurred_at), (daily.billable, daily.bucket_start)):
            named = select(column).where(at < until, ~column.startswith(PSEUDONYM)).distinct()
            if group.only is not None:
                named = named.where(group.only(column))
            billables.update(connection.execute(named).scalars())
        found += [_OldUse(billable, group.zone, until) for billable in sorted(billables)]
    return found


def _anonymous(engine: Engine, connection: Connection, zone: str) -> str:
    """Return a random name that leads back to nobody, whose days are those of a zone."""
    name = f"{PSEUDONYM}{uuid4().hex}"
    if zone != engine.settings.period.timezone:
        connection.execute(tables.rollup_zones.insert().values(billable=name, timezone=zone))
    return name


def _move(connection: Connection, billable: str, name: str, until: int) -> int:
    """Move a billable's old use to another name: events, rollups, and what they add to counters.

    What was used of its features stays its own, in sums that name no event.
    """
    events = tables.usage_events
    own_old = and_(events.c.billable == billable, events.c.occurred_at < until)
    for one in _sums(connection, own_old):
        for meter, amount in (("tokens", one.total_tokens), (f"cost:{one.currency}", one.total_cost)):
            key = {"meter": meter, "scope": "", "period": one.period, "period_start": one.period_start}
            _add(connection, tables.counters, {"billable": name, **key}, {"used": amount, "held": 0})
        _note_removed(connection, billable, one)
    _sum_up_uses(connection, billable, own_old)
    note_erased(connection, billable)
    moved = connection.execute(update(events).where(own_old).values(billable=name)).rowcount
    for rollup in (tables.usage_hourly, tables.usage_daily):
        own_buckets = and_(rollup.c.billable == billable, rollup.c.bucket_start < until)
        connection.execute(update(rollup).where(own_buckets).values(billable=name))
    removed = tables.removed_days
    own_days = and_(removed.c.billable == billable, removed.c.day_start < until)
    connection.execute(update(removed).where(own_days).values(billable=name))
    return moved


def _forget_plan_periods(connection: Connection, billable: str, running: InForce) -> None:
    """Delete what a plan's limits counted in periods that are over."""
    counters, removed = tables.counters, tables.usage_removed
    for table in (counters, removed):
        is_running = and_(table.c.period == running.period, table.c.period_start == running.period_start)
        is_over = and_(table.c.billable == billable, ~is_running)
        if table is counters:
            is_over = and_(is_over, _is_of_a_plan(counters))
            # Calls in flight may hold of a period that is over: what they hold stays counted until they end.
            connection.execute(update(table).where(is_over, table.c.held != 0).values(used=0))
            is_over = and_(is_over, table.c.held == 0)
        connection.execute(delete(table).where(is_over))


def _forget_allowance_periods(connection: Connection, billable: str, now: int) -> None:
    """Delete what features, caps and limited grants counted before the last period that has begun for each.

    Each has periods of its own length, and what was used up in one that is running is not given back.
    """
    counters, uses = tables.counters, tables.feature_uses
    later = counters.alias("later")
    own = or_(counters.c.billable == billable, counters.c.scope == billable)
    is_followed = and_(
        later.c.billable == counters.c.billable,
        later.c.meter == counters.c.meter,
        later.c.period == counters.c.period,
        # The allowance and the extra credits used beside it are proven by the same uses.
        or_(later.c.scope == counters.c.scope, counters.c.meter.startswith(FEATURE_PREFIX, autoescape=True)),
        later.c.period_start > counters.c.period_start,
        later.c.period_start <= now,
    )
    # A sliding window has several counters that count at once. One that is followed is over when it is outside.
    has_left = or_(
        *(
            and_(counters.c.period == period, counters.c.period_start < now - width - bucket)
            for period, (width, bucket) in SLIDING.items()
        ),
        counters.c.period.not_in(SLIDING),
    )
    is_over = and_(own, ~_is_of_a_plan(counters), has_left, select(literal(1)).where(is_followed).exists())
    use_is_over = and_(
        uses.c.billable == billable,
        select(literal(1))
        .where(
            later.c.billable == billable,
            later.c.meter == literal(FEATURE_PREFIX) + uses.c.feature,
            later.c.period == uses.c.period,
            later.c.period_start > uses.c.period_start,
            later.c.period_start <= now,
        )
        .exists(),
    )
    connection.execute(delete(uses).where(use_is_over))
    of_a_feature = counters.c.meter.startswith(FEATURE_PREFIX, autoescape=True)
    connection.execute(update(counters).where(is_over, of_a_feature, counters.c.held != 0).values(used=0))
    connection.execute(delete(counters).where(is_over, counters.c.held == 0))


def _is_of_a_plan(counters: Table) -> ColumnElement[bool]:
    return or_(counters.c.meter == "tokens", counters.c.meter.startswith("cost:", autoescape=True))


def _sum_up_uses(connection: Connection, billable: str, own_old: ColumnElement[bool]) -> None:
    """Put sums in the place of single uses of features, whose events are about to lose their billable's name."""
    uses, events = tables.feature_uses, tables.usage_events
    of_these = and_(uses.c.billable == billable, uses.c.event_id.in_(select(events.c.id).where(own_old)))
    grouped = (uses.c.feature, uses.c.period, uses.c.period_start)
    sums = select(*grouped, func.sum(uses.c.from_plan), func.sum(uses.c.from_credits)).where(of_these)
    rows = connection.execute(sums.group_by(*grouped)).all()
    connection.execute(delete(uses).where(of_these))
    for feature, period, period_start, from_plan, from_credits in rows:
        connection.execute(
            uses.insert().values(
                event_id=f"{PSEUDONYM}{uuid4().hex}",
                billable=billable,
                feature=feature,
                period=period,
                period_start=period_start,
                from_plan=int(from_plan),
                from_credits=int(from_credits),
            )
        )


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
        # What a wallet paid for is not counted against a plan's limits.
        .where(condition, events.c.billing_mode != BillingMode.CREDITS)
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
