"""What the engine should do, told a second time and differently: loops over lists of facts, nothing kept in sums.

Months are of the UTC calendar, amounts are whole tokens and whole cents. It shares no code with the engine.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass, field
from datetime import datetime, timedelta

GRACE = timedelta(days=7)


@dataclass
class Plan:
    slug: str
    tokens: int | None
    cents: int | None
    is_hard: bool
    cents_per_1k: int = 0


@dataclass
class Subscription:
    plan: Plan
    started_at: datetime
    number: int
    cancels_at: datetime | None = None
    payment_failed_at: datetime | None = None
    # From where its paid months are counted: its start, or when it came back.
    paid_since: datetime | None = None

    def is_in_force(self, at: datetime) -> bool:
        if at < self.started_at or (self.cancels_at is not None and at >= self.cancels_at):
            return False
        return not self.has_lapsed(at)

    def has_lapsed(self, at: datetime) -> bool:
        return self.payment_failed_at is not None and at >= self.payment_failed_at + GRACE

    def paid_until(self, at: datetime) -> datetime:
        return next_anniversary(self.paid_since or self.started_at, at)


@dataclass
class Override:
    id: str
    start: datetime
    end: datetime | None
    tokens: int | None
    cents: int | None


@dataclass
class Hold:
    id: str
    placed_at: datetime
    expires_at: datetime
    tokens: int
    cents: int
    key: str | None
    state: str = "open"
    event: str | None = None
    used: tuple[int, int] | None = None


@dataclass
class Key:
    tokens: int
    cents: int
    hold: Hold | None
    event: str | None
    made_at: datetime


@dataclass
class Limits:
    tokens: int | None
    cents: int | None
    is_hard: bool
    plan: Plan | None


@dataclass
class Account:
    """One billable: what it subscribed to, what it holds, and what it used, as lists."""

    subscriptions: list[Subscription] = field(default_factory=list)
    overrides: list[Override] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    uses: list[tuple[datetime, int, int]] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    overage_tokens: int = 0

    # -- terms --------------------------------------------------------------------------------------------------------

    def subscription(self, at: datetime) -> Subscription | None:
        in_force = [one for one in self.subscriptions if one.is_in_force(at)]
        return max(in_force, key=lambda one: (one.started_at, one.number), default=None)

    def current(self, at: datetime) -> Subscription | None:
        """The one that the engine's `get` means: in force, else the one made last."""
        return self.subscription(at) or (self.subscriptions[-1] if self.subscriptions else None)

    def limits(self, at: datetime) -> Limits:
        subscription = self.subscription(at)
        plan = subscription.plan if subscription is not None else None
        tokens, cents = (plan.tokens, plan.cents) if plan is not None else (None, None)
        for override in self.overrides:
            if override.start <= at and (override.end is None or at < override.end):
                tokens = tokens if override.tokens is None else override.tokens
                cents = cents if override.cents is None else override.cents
        return Limits(tokens, cents, plan is None or plan.is_hard, plan)

    # -- counting -----------------------------------------------------------------------------------------------------

    def used(self, at: datetime) -> tuple[int, int]:
        month = [(tokens, cents) for when, tokens, cents in self.uses if same_month(when, at)]
        return sum(tokens for tokens, _ in month), sum(cents for _, cents in month)

    def held(self, at: datetime) -> tuple[int, int]:
        month = [hold for hold in self.holds if hold.state == "open" and same_month(hold.placed_at, at)]
        return sum(hold.tokens for hold in month), sum(hold.cents for hold in month)

    def left(self, at: datetime) -> tuple[int | None, int | None]:
        limits, used, held = self.limits(at), self.used(at), self.held(at)
        return (
            None if limits.tokens is None else limits.tokens - used[0] - held[0],
            None if limits.cents is None else limits.cents - used[1] - held[1],
        )

    def lapsed(self, at: datetime) -> list[Hold]:
        return [hold for hold in self.holds if hold.state == "open" and hold.expires_at <= at]

    # -- deciding -----------------------------------------------------------------------------------------------------

    def fits(self, at: datetime, tokens: int, cents: int) -> bool:
        left_tokens, left_cents = self.left(at)
        return not self.limits(at).is_hard or (
            (left_tokens is None or tokens == 0 or tokens <= left_tokens)
            and (left_cents is None or cents == 0 or cents <= left_cents)
        )

    def admit(self, at: datetime, tokens: int, cents: int, *, shrinks: bool = False) -> tuple[int | None, list[Hold]]:
        """Return the tokens that a hold gets, None for a refusal, and the holds that ran out over it."""
        expired: list[Hold] = []
        for attempt in (1, 2):
            granted = tokens
            left, _ = self.left(at)
            if shrinks and left is not None and self.limits(at).is_hard and tokens > left:
                granted = left
            if self.fits(at, granted, cents) and (granted >= 1 or tokens == 0):
                return granted, expired
            if attempt == 1:
                expired = self.lapsed(at)
                for hold in expired:
                    self.expire(hold)
        return None, expired

    # -- changing -----------------------------------------------------------------------------------------------------

    def place(self, hold: Hold, *, usage: tuple[int, int] | None = None) -> None:
        if self.limits(hold.placed_at).cents is None:
            hold.cents = 0
        self.holds.append(hold)
        if hold.key is not None and usage is not None:
            made_at = self.keys[hold.key].made_at if hold.key in self.keys else hold.placed_at
            self.keys[hold.key] = Key(*usage, hold, None, made_at)

    def expire(self, hold: Hold) -> None:
        self._close(hold, "expired")

    def void(self, hold: Hold) -> None:
        if hold.state == "open":
            self._close(hold, "voided")

    def _close(self, hold: Hold, state: str) -> None:
        hold.state = state
        if hold.key is not None and hold.key in self.keys and self.keys[hold.key].hold is hold:
            del self.keys[hold.key]

    def settle(self, hold: Hold, event: str, used: tuple[int, int], *, usage: tuple[int, int], now: datetime) -> None:
        hold.state, hold.event, hold.used = "settled", event, used
        self.use(hold.placed_at, *used)
        if hold.key is not None:
            key = self.keys.get(hold.key)
            if key is None:
                self.keys[hold.key] = Key(*usage, hold, event, now)
            elif key.hold is hold:
                key.event = event

    def use(self, at: datetime, tokens: int, cents: int) -> None:
        limits, (before, _) = self.limits(at), self.used(at)
        if limits.plan is not None and limits.plan.cents_per_1k and limits.tokens is not None:
            self.overage_tokens += max(0, before + tokens - limits.tokens) - max(0, before - limits.tokens)
        self.uses.append((at, tokens, cents))

    def erase(self, now: datetime) -> None:
        """Erase as the engine does: use of the running month goes on counting, all that is over is gone."""
        self.uses = [use for use in self.uses if same_month(use[0], now)]
        self.keys.clear()

    def anonymize(self, day: datetime) -> None:
        """Take the names out of what was before a day: keys and closed holds go, sums stay."""
        self.keys = {name: key for name, key in self.keys.items() if key.made_at >= day}


def same_month(one: datetime, other: datetime) -> bool:
    return (one.year, one.month) == (other.year, other.month)


def next_anniversary(since: datetime, at: datetime) -> datetime:
    """The first of the instants a month, two months, … after `since` that lies after `at`; short months end earlier."""
    months = 0
    while True:
        months += 1
        year, month = divmod(since.year * 12 + since.month - 1 + months, 12)
        day = min(since.day, monthrange(year, month + 1)[1])
        found = since.replace(year=year, month=month + 1, day=day)
        if found > at:
            return found


def next_month(at: datetime) -> datetime:
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)
