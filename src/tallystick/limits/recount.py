"""What quotas have counted, once more from the records: what a counter begins with, and what proves it.

Use of everybody, or of a feature, is summed up from the rollups, which stay where old events are removed. Use of single
users and keys, and of sliding windows, which rollups do not know, is summed up from the events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, case, cast, func, literal, or_, select

from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import COST, EVERY_USER, REQUESTS, SLIDING, TOKENS, Quota
from tallystick.period import MIN_MICROS
from tallystick.plans.loading import quota_from_row
from tallystick.plans.terms import Terms
from tallystick.quantity import MILLIONTHS
from tallystick.storage import tables

__all__ = ["TOTAL", "is_of_events", "lost_records", "note_erased", "period_start", "quota_meter", "recounted"]

TOTAL = "total"

# In the place of a period, beside no amounts: what was erased is of any time.
_ERASED = "erased"

# Every zone's full hours lie on a quarter of an hour of UTC, so sums by quarter can be put into any zone's periods.
_QUARTER_HOUR_MICROS = 15 * 60 * 1_000_000
_FACTORS = {TOKENS: MILLIONTHS, REQUESTS: MILLIONTHS, COST: 1}


def quota_meter(resource_type: str, currency: str) -> str:
    """Return the meter of a resource type's quotas. Costs are counted in each currency apart."""
    return f"quota:{resource_type}:{currency}" if resource_type == COST else f"quota:{resource_type}"


def is_of_events(quota: Quota) -> bool:
    """Say whether a quota is summed up from events: of single users and keys, and sliding windows."""
    return quota.is_sliding or quota.scope.startswith(("user:", "key:"))


def period_start(terms: Terms, quota: Quota, at: int) -> int:
    """Return where the period around an instant starts (µs); of a sliding window, its oldest bucket."""
    if not quota.is_sliding:
        return terms.calendar(quota.period, at)[0]
    width, bucket = SLIDING[quota.period]
    return (at - width) - (at - width) % bucket


def recounted(
    connection: Connection, wanted: ColumnElement[bool], terms: Mapping[str, Terms], at: int
) -> dict[CounterKey, int]:
    """Sum up what was used in the period around an instant (µs), and after it, of every quota that is wanted.

    `wanted` is a condition on the table of quotas, `terms` has the terms of all their billables. A counter of which
    nothing was used is left out.
    """
    quotas = [quota_from_row(row) for row in connection.execute(select(tables.quotas).where(wanted))]
    found: dict[CounterKey, int] = {}
    for period in sorted({quota.period for quota in quotas}):
        for of_events in (False, True):
            some = [quota for quota in quotas if quota.period == period and is_of_events(quota) == of_events]
            if some:
                found |= _of_period(connection, wanted, terms, at, some, of_events=of_events)
    return found


def note_erased(connection: Connection, billable: str) -> None:
    """Note that records of a billable are gone for good, so that what is left of them does not prove its quotas."""
    quotas, removed = tables.quotas.c, tables.usage_removed
    if connection.execute(select(quotas.id).where(quotas.billable == billable).limit(1)).first() is None:
        return
    note = {"billable": billable, "period": _ERASED, "period_start": 0, "currency": "", "rollups_kept": False}
    same = and_(*(removed.c[name] == value for name, value in note.items()))
    if connection.execute(select(removed.c.billable).where(same)).first() is None:
        nothing = {"events": 0, "quantity": 0, "total_tokens": 0, "total_cost": 0}
        connection.execute(removed.insert().values(**note, **nothing))


def lost_records(connection: Connection, *wanted: ColumnElement[bool]) -> dict[str, bool]:
    """Return the billables some of whose events are gone, and of each whether rollups went with them.

    `wanted` are conditions on the table `accounts`.
    """
    accounts, erased, cleaned = tables.accounts.c, tables.usage_removed.c, tables.removed_days.c
    of_erased = select(accounts.billable, erased.rollups_kept).join_from(
        tables.accounts, tables.usage_removed, erased.billable == accounts.billable
    )
    of_cleaned = select(accounts.billable).join_from(
        tables.accounts, tables.removed_days, cleaned.billable == accounts.billable
    )
    found = dict.fromkeys(connection.execute(of_cleaned.where(*wanted).distinct()).scalars(), False)
    for billable, is_kept in connection.execute(of_erased.where(*wanted).distinct()):
        found[billable] = found.get(billable, False) or not is_kept
    return found


def _of_period(
    connection: Connection,
    wanted: ColumnElement[bool],
    terms: Mapping[str, Terms],
    at: int,
    quotas: Iterable[Quota],
    *,
    of_events: bool,
) -> dict[CounterKey, int]:
    by_id = {quota.id: quota for quota in quotas}
    period = next(iter(by_id.values())).period
    starts = {quota.id: period_start(terms[quota.billable], quota, at) for quota in by_id.values()}
    rows = (_event_sums if of_events else _rollup_sums)(connection, wanted, period, min(starts.values()))
    # A user's own quota and that of every user share the user's counter: both prove it, and neither adds to the other.
    sums: dict[str, dict[CounterKey, int]] = defaultdict(lambda: defaultdict(int))
    for quota_id, window, bucket, currency, counted, own in rows:
        quota = by_id.get(quota_id)
        if quota is None or bucket < starts[quota_id]:
            continue
        start = bucket if quota.is_sliding else terms[quota.billable].calendar(period, bucket)[0]
        key = CounterKey(quota.billable, quota_meter(quota.resource_type, currency), window, period, start)
        sums[quota_id][key] += int(counted) * _FACTORS.get(quota.resource_type, 1) + int(own)
    return {key: used for keys in sums.values() for key, used in keys.items()}


def _rollup_sums(connection: Connection, wanted: ColumnElement[bool], period: str, since: int) -> Iterator[Any]:
    quotas = tables.quotas.c
    rollup = tables.usage_hourly if period == "hourly" else tables.usage_daily
    use = rollup.c
    bucket: ColumnElement[int] = cast(literal(MIN_MICROS), BigInteger) if period == TOTAL else use.bucket_start
    is_call = case((use.provider != "", use.events), else_=0)
    query = (
        select(
            quotas.id,
            quotas.scope,
            bucket.label("bucket"),
            use.currency,
            func.sum(_counted(is_call, use.total_tokens, use.total_cost)),
            func.sum(case((use.resource_type == quotas.resource_type, use.quantity), else_=0)),
        )
        .select_from(tables.quotas.join(rollup, use.billable == quotas.billable))
        .where(
            wanted,
            quotas.period == period,
            or_(quotas.scope == "", quotas.scope == literal("feature:") + use.feature),
            _concerns(use.resource_type),
        )
        .group_by(quotas.id, quotas.scope, "bucket", use.currency)
    )
    if period != TOTAL:
        query = query.where(use.bucket_start >= since)
    return iter(connection.execute(query))


def _event_sums(connection: Connection, wanted: ColumnElement[bool], period: str, since: int) -> Iterator[Any]:
    quotas, use = tables.quotas.c, tables.usage_events.c
    window = case((quotas.scope == EVERY_USER, use.user_id), else_=quotas.scope)
    is_call = case((and_(use.provider != "", use.corrects_event_id.is_(None)), 1), else_=0)
    is_meant = or_(
        quotas.scope == "",
        quotas.scope == literal("feature:") + use.feature,
        quotas.scope == literal("key:") + use.key_id,
        quotas.scope == use.user_id,
        and_(quotas.scope == EVERY_USER, use.user_id.isnot(None)),
    )
    query = (
        select(
            quotas.id,
            window.label("window"),
            _bucket(period).label("bucket"),
            use.currency,
            func.sum(_counted(is_call, use.total_tokens, func.coalesce(use.total_cost, 0))),
            func.sum(case((use.resource_type == quotas.resource_type, use.quantity), else_=0)),
        )
        .select_from(tables.quotas.join(tables.usage_events, use.billable == quotas.billable))
        .where(wanted, quotas.period == period, is_meant, _concerns(use.resource_type))
        .group_by(quotas.id, "window", "bucket", use.currency)
    )
    if period != TOTAL:
        query = query.where(use.occurred_at >= since)
    return iter(connection.execute(query))


def _bucket(period: str) -> ColumnElement[int]:
    if period == TOTAL:
        return cast(literal(MIN_MICROS), BigInteger)
    width = SLIDING[period][1] if period in SLIDING else _QUARTER_HOUR_MICROS
    occurred_at = tables.usage_events.c.occurred_at
    return occurred_at - occurred_at % cast(literal(width), BigInteger)


def _counted(is_call: Any, tokens: Any, cost: Any) -> ColumnElement[int]:
    """What quotas of every call count of a row."""
    name = tables.quotas.c.resource_type
    return case((name == REQUESTS, is_call), (name == TOKENS, tokens), (name == COST, cost), else_=0)


def _concerns(used: ColumnElement[str]) -> ColumnElement[bool]:
    name = tables.quotas.c.resource_type
    return or_(name == used, name.in_((REQUESTS, TOKENS, COST)))
