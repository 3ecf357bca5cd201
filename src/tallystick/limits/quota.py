"""Quotas and rate limits as values, and deciding about them: pure functions over integers.

A quota limits what is used of a resource type in a period. Quantities are millionths of the resource's unit (of a
token, of a request); those of "cost" are nanos of the account's currency. `used + held` never passes a hard limit by a
hold.

A rate limit is a token bucket that holds `burst` and is filled with `limit` in each second, minute or hour. Its level
is one number: the instant at which the bucket will be full again. A use of n moves it by the time in which n flow in
(the generic cell rate algorithm, ITU-T I.371). That time is rarely whole, so levels count in nanoseconds divided by
`limit`, and are exact: three a second are three, and not the two that fit three rounded thirds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar

from tallystick.limits.counters import CounterKey
from tallystick.money import ceil_div

__all__ = [
    "COST",
    "EVERY_USER",
    "PERIODS",
    "REQUESTS",
    "SLIDING",
    "TOKENS",
    "Caller",
    "Quota",
    "RateLimit",
    "RateStanding",
    "applicable",
    "crossed",
    "fitted",
    "rate_key",
    "window_of",
]

TOKENS, REQUESTS, COST = "tokens", "requests", "cost"
"""What is counted of every call, beside its resource type."""

EVERY_USER = "user:*"
"""The scope of a quota that each user has on their own."""

PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly", "total")

# The width of a sliding window and of the buckets it is made of, in µs. A bucket counts until it is wholly outside, so
# a window never admits more than its limit, and gives room back at most one bucket late.
_MINUTE = 60_000_000
SLIDING = {
    "sliding_hourly": (60 * _MINUTE, _MINUTE),
    "sliding_daily": (24 * 60 * _MINUTE, 30 * _MINUTE),
    "sliding_weekly": (7 * 24 * 60 * _MINUTE, 4 * 60 * _MINUTE),
}

_NANOS_PER_MICRO = 1000
_NANOS_PER_SECOND = 1_000_000_000
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of a resource type in a period, for all use of a billable or for a part of it (`scope`).

    `limit` is in the meter's integers. `thresholds` are percent at which the quota warns, each once a period.
    """

    id: str
    billable: str
    resource_type: str
    period: str
    scope: str
    limit: int
    is_hard_limit: bool
    thresholds: tuple[int, ...]
    created_at: datetime
    updated_at: datetime

    @property
    def span(self) -> str:
        """Over which time it counts."""
        return self.period

    @property
    def is_sliding(self) -> bool:
        return self.period in SLIDING


class Caller(NamedTuple):
    """Whose use it is, as far as quotas and rate limits are for a part of a billable's use."""

    user: str | None = None
    feature: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many of a resource type in a second, minute or hour. `limit` and `burst` are millionths."""

    billable: str
    resource_type: str
    scope: str
    per: str
    limit: int
    burst: int

    @property
    def span(self) -> str:
        """Over which time it counts."""
        return self.per

    def level(self, used: int, fraction: int) -> int:
        """Return the level that a counter keeps: whole nanoseconds, and the rest as so many parts of `limit`."""
        return used * self.limit + fraction

    def stored(self, level: int) -> tuple[int, int]:
        """Return a level as a counter keeps it."""
        return divmod(level, self.limit)

    def debt(self, level: int, at: int) -> int:
        """Return how far a bucket is from full at an instant (µs), in the unit of levels."""
        return max(0, level - self._now(at))

    def standing(self, level: int, at: int) -> RateStanding:
        """Say what is left of a bucket at an instant (µs)."""
        debt = self.debt(level, at)
        left = max(0, self._depth(self.burst) - debt) // self._depth(1)
        return RateStanding(self, left, at * _NANOS_PER_MICRO + ceil_div(debt, self.limit))

    def wait(self, level: int, at: int, amount: int) -> int | None:
        """Return for how long (ns) an amount has to wait, 0 where there is room; None: it never fits."""
        if amount > self.burst:
            return None
        short = self.debt(level, at) + self._depth(amount) - self._depth(self.burst)
        return ceil_div(short, self.limit) if short > 0 else 0

    def taken(self, level: int, at: int, amount: int) -> int:
        """Return the level after an amount was taken at an instant (µs)."""
        return self._now(at) + self.debt(level, at) + self._depth(amount)

    def given_back(self, level: int, amount: int) -> int:
        """Return the level after an amount that was taken is given back."""
        return level - self._depth(amount)

    def settled(self, debt: int, at: int) -> int:
        """Return the level of a bucket that is so far from full at an instant (µs)."""
        return self._now(at) + debt

    def _now(self, at: int) -> int:
        return at * _NANOS_PER_MICRO * self.limit

    def _depth(self, amount: int) -> int:
        return amount * _SECONDS[self.per] * _NANOS_PER_SECOND


class RateStanding(NamedTuple):
    """What is left of a rate limit (millionths), and when it is full again (ns, rounded up)."""

    limit: RateLimit
    remaining: int
    full_at: int


_Limit = TypeVar("_Limit", bound="Quota | RateLimit")


def window_of(scope: str, caller: Caller) -> str | None:
    """Return the scope of the counter that a limit means for a caller; None: the limit is not for this caller."""
    if not scope:
        return ""
    if scope == EVERY_USER:
        return caller.user
    if scope.startswith("feature:"):
        return scope if scope == f"feature:{caller.feature}" else None
    if scope.startswith("key:"):
        return scope if scope == f"key:{caller.key}" else None
    return scope if scope == caller.user else None


def applicable(limits: tuple[_Limit, ...], caller: Caller) -> list[tuple[_Limit, str]]:
    """Return the limits that count a use, with the scopes of their counters.

    A user's own limit of a period stands in the place of the one that every user has.
    """
    found = [(limit, window) for limit in limits if (window := window_of(limit.scope, caller)) is not None]
    own = {(limit.span, limit.resource_type) for limit, _ in found if limit.scope and limit.scope == caller.user}
    if not own:
        return found
    return [
        (limit, window)
        for limit, window in found
        if limit.scope != EVERY_USER or (limit.span, limit.resource_type) not in own
    ]


def fitted(left: int, wanted: int, *, is_explicit: bool, least: int) -> int | None:
    """Return how much of an amount fits: whole, or, where it is only an estimate, what is left of at least `least`."""
    if wanted <= max(left, 0):
        return wanted
    return None if is_explicit or left < least else left


def crossed(quota: Quota, before: int, after: int) -> list[int]:
    """Return the thresholds (percent) that a use has reached, and no use before it; 100 is the limit itself."""
    levels = sorted({*quota.thresholds, 100})
    return [level for level in levels if before * 100 < quota.limit * level <= after * 100]


def rate_key(limit: RateLimit, window: str) -> CounterKey:
    """Return the counter that holds the level of a rate limit."""
    return CounterKey(limit.billable, f"rate:{limit.resource_type}", window, limit.per, 0)
