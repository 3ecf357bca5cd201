"""Asking quotas and rate limits for a use, and counting it, over the rows of a batch.

Asking only reads: what is missing is asked for before anything changes. Counting is for facts: it refuses nothing, also
where a limit is passed by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from tallystick.errors import QuotaExceeded, RateLimited, TallystickError
from tallystick.limits.counters import Claim, CounterKey
from tallystick.limits.quota import (
    COST,
    REQUESTS,
    SLIDING,
    TOKENS,
    Caller,
    Quota,
    RateLimit,
    applicable,
    crossed,
    fitted,
    rate_key,
)
from tallystick.money import Money, ceil_div
from tallystick.period import MAX_MICROS, from_micros
from tallystick.quantity import MILLIONTHS, from_millionths
from tallystick.storage.workspace import MoreNeeded, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tallystick.plans.terms import Terms

__all__ = [
    "Ask",
    "QuotaCount",
    "QuotaReached",
    "QuotaReservation",
    "RateTake",
    "ask_quotas",
    "ask_rates",
    "correct_rates",
    "count",
    "counts_of",
    "quota_amount",
    "quota_keys",
    "take_rates",
    "used_amounts",
    "want_limits",
]


class Ask(NamedTuple):
    """So much of a resource type. An explicit amount fits whole or not at all; an estimate shrinks to what is left."""

    resource_type: str
    amount: int
    is_explicit: bool = True
    least: int = MILLIONTHS


@dataclass(slots=True)
class QuotaReservation:
    """What a hold claims of quotas, and what is left of the estimates by resource type; or the refusal."""

    claims: tuple[Claim, ...] = ()
    amounts: dict[str, int] | None = None
    refusal: TallystickError | None = None


class RateTake(NamedTuple):
    """What a use makes of a rate limit: the counter of its bucket, and the level after it, as the counter keeps it."""

    key: CounterKey
    full_at: int
    fraction: int


class QuotaCount(NamedTuple):
    """What a use adds to the counter of a quota, and the thresholds (percent) that it is the first to reach."""

    quota: Quota
    window: str
    key: CounterKey
    period_start: int
    amount: int
    reached: tuple[int, ...]
    before: int


@dataclass(frozen=True, slots=True)
class QuotaReached:
    """A notice: a quota has reached a threshold (100: its limit). Once for each quota, period and limit."""

    quota: Quota
    window: str
    threshold: int
    current: int
    period_start: int
    currency: str
    at: int


# -- quotas -----------------------------------------------------------------------------------------------------------


def quota_keys(terms: Terms, quota: Quota, window: str, at: int, currency: str) -> tuple[int, tuple[CounterKey, ...]]:
    """Return where a quota's period around an instant (µs) starts, and its counters, the one that counts now first.

    A calendar period has one counter. A sliding window has one for each of its buckets.
    """
    meter = f"quota:{quota.resource_type}" + (f":{currency}" if quota.resource_type == COST else "")
    if not quota.is_sliding:
        start = terms.calendar(quota.period, at)[0]
        return start, (CounterKey(quota.billable, meter, window, quota.period, start),)
    width, bucket = SLIDING[quota.period]
    newest = at - at % bucket
    oldest = (at - width) - (at - width) % bucket
    starts = range(newest, oldest - 1, -bucket)
    return at - at % width, tuple(CounterKey(quota.billable, meter, window, quota.period, start) for start in starts)


def ask_quotas(
    workspace: Workspace, terms: Terms, asks: Sequence[Ask], caller: Caller, at: int, *, currency: str
) -> QuotaReservation:
    """Ask every quota that counts a use, at once: it fits all of them or is refused by the first that has no room."""
    _require(workspace, terms, (ask.resource_type for ask in asks), caller, at, currency)
    claimed: dict[CounterKey, str] = {}
    amounts: dict[str, int] = {}
    for ask in asks:
        amount = ask.amount
        for quota, window in applicable(terms.quotas_of(ask.resource_type), caller):
            if not quota.is_hard_limit:
                continue
            _, keys = quota_keys(terms, quota, window, at, currency)
            taken = sum(workspace.counters[key].used + workspace.counters[key].held for key in keys)
            fits = fitted(quota.limit - taken, amount, is_explicit=ask.is_explicit, least=ask.least)
            if fits is None:
                return QuotaReservation(refusal=_exceeded(workspace, terms, quota, keys, amount, at, currency))
            amount = fits
            claimed[keys[0]] = ask.resource_type
        amounts[ask.resource_type] = amount
    claims = tuple(Claim(key, amounts[name]) for key, name in claimed.items() if amounts[name])
    return QuotaReservation(claims, amounts)


def counts_of(
    workspace: Workspace, terms: Terms, amounts: Iterable[tuple[str, int]], caller: Caller, at: int, *, currency: str
) -> list[QuotaCount]:
    """Find what a use adds to which quotas, and which thresholds it is the first to reach. Nothing is changed."""
    used = [(name, amount) for name, amount in amounts if amount]
    _require(workspace, terms, (name for name, _ in used), caller, at, currency)
    found: list[QuotaCount] = []
    for name, amount in used:
        for quota, window in applicable(terms.quotas_of(name), caller):
            start, keys = quota_keys(terms, quota, window, at, currency)
            before = sum(workspace.counters[key].used for key in keys)
            levels = crossed(quota, before, before + amount)
            reached = _unannounced(workspace, quota, window, start, levels) if levels else ()
            found.append(QuotaCount(quota, window, keys[0], start, amount, reached, before))
    return found


def count(workspace: Workspace, counts: Iterable[QuotaCount], *, currency: str, at: int) -> None:
    """Add a use to its quotas' counters, and note the thresholds that it reached."""
    counted: set[CounterKey] = set()
    for one in counts:
        if one.key not in counted:
            # Two quotas of one period may share a counter.
            workspace.counters[one.key].used += one.amount
            counted.add(one.key)
        for threshold in one.reached:
            name = (one.quota.id, one.period_start, one.window)
            workspace.alerts[name].add((threshold, one.quota.limit))
            workspace.new_alerts.append((*name, threshold, one.quota.limit, at))
            workspace.notices.append(
                QuotaReached(one.quota, one.window, threshold, one.before + one.amount, one.period_start, currency, at)
            )


def want_limits(
    workspace: Workspace, terms: Terms, names: Iterable[str], caller: Caller, at: int, *, currency: str
) -> None:
    """Ask for the counters of every quota and rate limit that counts a use, so that a batch is loaded at once."""
    for name in names:
        for quota, window in applicable(terms.quotas_of(name), caller):
            for key in quota_keys(terms, quota, window, at, currency)[1]:
                workspace.want_counter(key)
        for limit, window in applicable(terms.rate_limits_of(name), caller):
            workspace.want_counter(rate_key(limit, window))


def _require(workspace: Workspace, terms: Terms, names: Iterable[str], caller: Caller, at: int, currency: str) -> None:
    is_missing = False
    for name in names:
        for quota, window in applicable(terms.quotas_of(name), caller):
            for key in quota_keys(terms, quota, window, at, currency)[1]:
                if key not in workspace.counters:
                    workspace.want_counter(key)
                    is_missing = True
    if is_missing:
        raise MoreNeeded


def _unannounced(
    workspace: Workspace, quota: Quota, window: str, period_start: int, levels: list[int]
) -> tuple[int, ...]:
    name = (quota.id, period_start, window)
    if name not in workspace.alerts:
        workspace.want_alerts(name)
        raise MoreNeeded
    return tuple(level for level in levels if (level, quota.limit) not in workspace.alerts[name])


def _exceeded(
    workspace: Workspace,
    terms: Terms,
    quota: Quota,
    keys: tuple[CounterKey, ...],
    amount: int,
    at: int,
    currency: str,
) -> QuotaExceeded:
    used = sum(workspace.counters[key].used for key in keys)
    held = sum(workspace.counters[key].held for key in keys)
    limit, spent, kept, wanted = (
        quota_amount(quota.resource_type, number, currency) for number in (quota.limit, used, held, amount)
    )
    frees_at = _frees_at(workspace, terms, quota, keys, at)
    resets = from_micros(frees_at) if frees_at < MAX_MICROS else None
    until = f" Wait until {resets:%Y-%m-%d %H:%M} UTC, or raise it." if resets is not None else " Raise it."
    whose = f" of {keys[0].scope}" if quota.scope else ""
    return QuotaExceeded(
        f"The {quota.period.replace('_', ' ')} quota {quota.resource_type}{whose} of {quota.billable} has no room: "
        f"{spent} of {limit} used, {kept} held, {wanted} needed.{until}",
        billable=quota.billable,
        quota_id=quota.id,
        resource_type=quota.resource_type,
        period=quota.period,
        limit=limit,
        used=spent,
        held=kept,
        requested=wanted,
        resets_at=resets,
        retry_after_seconds=None if resets is None else max(0.0, (frees_at - at) / 1_000_000),
    )


def _frees_at(workspace: Workspace, terms: Terms, quota: Quota, keys: tuple[CounterKey, ...], at: int) -> int:
    """Return when something of a quota is free again (µs): at its period's end; of a window, when use leaves it."""
    if not quota.is_sliding:
        return terms.calendar(quota.period, at)[1]
    width, bucket = SLIDING[quota.period]
    taken = [key.period_start for key in keys if workspace.counters[key].used or workspace.counters[key].held]
    return min(taken, default=at) + bucket + width


def quota_amount(resource_type: str, number: int, currency: str) -> int | Decimal | Money:
    """Return a quota's integers as people say them."""
    return Money.from_nanos(number, currency) if resource_type == COST else from_millionths(number)


# -- rate limits ------------------------------------------------------------------------------------------------------


def ask_rates(
    workspace: Workspace, terms: Terms, asks: Iterable[Ask], caller: Caller, at: int
) -> tuple[tuple[RateTake, ...], RateLimited | None]:
    """Ask every rate limit that counts a use, at once. An estimate of more than a whole bucket takes the bucket."""
    wanted: list[tuple[RateLimit, CounterKey, int]] = []
    for ask in asks:
        for limit, window in applicable(terms.rate_limits_of(ask.resource_type), caller):
            amount = ask.amount if ask.is_explicit else min(ask.amount, limit.burst)
            wanted.append((limit, rate_key(limit, window), amount))
    missing = [key for _, key, _ in wanted if key not in workspace.counters]
    for key in missing:
        workspace.want_counter(key)
    if missing:
        raise MoreNeeded
    takes: list[RateTake] = []
    for limit, key, amount in wanted:
        level = _level(workspace, limit, key)
        wait = limit.wait(level, at, amount)
        if wait is None or wait > 0:
            return (), _limited(limit, key, level, at, amount, wait)
        takes.append(RateTake(key, *limit.stored(limit.taken(level, at, amount))))
    return tuple(takes), None


def take_rates(workspace: Workspace, takes: Iterable[RateTake]) -> None:
    """Give buckets their new levels."""
    for key, full_at, fraction in takes:
        counter = workspace.counters[key]
        counter.used, counter.held = full_at, fraction


def correct_rates(
    workspace: Workspace, terms: Terms, resource_type: str, difference: int, caller: Caller, at: int
) -> list[RateTake]:
    """Find the levels of buckets where a use was not what it was estimated. Nothing is changed."""
    found: list[RateTake] = []
    for limit, window in applicable(terms.rate_limits_of(resource_type), caller):
        key = rate_key(limit, window)
        if key not in workspace.counters:
            workspace.want_counter(key)
            raise MoreNeeded
        level = _level(workspace, limit, key)
        level = limit.taken(level, at, difference) if difference > 0 else limit.given_back(level, -difference)
        found.append(RateTake(key, *limit.stored(level)))
    return found


def _level(workspace: Workspace, limit: RateLimit, key: CounterKey) -> int:
    counter = workspace.counters[key]
    return limit.level(counter.used, counter.held)


def _limited(limit: RateLimit, key: CounterKey, level: int, at: int, amount: int, wait: int | None) -> RateLimited:
    standing = limit.standing(level, at)
    rate, left, wanted = (from_millionths(number) for number in (limit.limit, standing.remaining, amount))
    seconds = None if wait is None else wait / 1_000_000_000
    remedy = "So many at once never fit." if seconds is None else f"Try again in {seconds:.3f} seconds."
    whose = f" of {key.scope}" if key.scope else ""
    return RateLimited(
        f"{limit.billable} may use {rate} {limit.resource_type}{whose} a {limit.per}: {left} left, {wanted} needed. "
        f"{remedy}",
        billable=limit.billable,
        resource_type=limit.resource_type,
        per=limit.per,
        limit=rate,
        remaining=left,
        reset_at=from_micros(ceil_div(standing.full_at, 1000)),
        retry_after_seconds=seconds,
    )


def used_amounts(
    *, resource_type: str, quantity: int, tokens: int, cost: int, is_call: bool
) -> tuple[tuple[str, int], ...]:
    """Return what a recorded use adds to each kind of quota, in the quotas' integers."""
    return (
        (resource_type, quantity),
        (REQUESTS, MILLIONTHS if is_call else 0),
        (TOKENS, tokens * MILLIONTHS),
        (COST, cost),
    )
