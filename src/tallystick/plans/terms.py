"""The terms of a billable: what it subscribed to, what was overridden, and what of it is in force when, as values.

Pure: no clock, no storage. `Terms.at` is asked for every hold and every settlement, so an answer carries the instants
between which it stays true and is kept until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeVar

from tallystick.credits.account import feature_unit
from tallystick.errors import InvalidInput
from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import Quota, RateLimit
from tallystick.money import Money
from tallystick.period import (
    MAX_MICROS,
    MIN_MICROS,
    PeriodKind,
    PeriodRule,
    from_micros,
    parse_kind,
    to_micros,
)
from tallystick.plans.cycle import usage_month
from tallystick.plans.usage_prices import NO_USAGE_PRICES, UsagePrices
from tallystick.quantity import from_millionths
from tallystick.tenants.tenant import Tenant

__all__ = [
    "NEVER",
    "NO_FEATURES",
    "RESETS",
    "BillingMode",
    "ChangeKind",
    "CreditCap",
    "InForce",
    "LimitOverride",
    "OverageBehavior",
    "Plan",
    "PlanChange",
    "PlanFeature",
    "PlanType",
    "PlanVersion",
    "Subscription",
    "SubscriptionStatus",
    "Terms",
    "TermsPolicy",
]


class OverageBehavior(StrEnum):
    """What happens at a plan's limit: refuse the call, charge what goes beyond, or let it pass uncharged."""

    BLOCK = "block"
    CHARGE = "charge"
    ALLOW = "allow"


class BillingMode(StrEnum):
    """From what use is paid. PLAN: counted against the limits of the plan. CREDITS: taken from the wallet."""

    PLAN = "plan"
    CREDITS = "credits"


class SubscriptionStatus(StrEnum):
    """Where a subscription is in its life at one instant. TRIAL, ACTIVE and PAST_DUE are in force.

    PAST_DUE: a payment has failed, and its grace period runs. SUSPENDED: it is paused; its calls are refused.
    """

    PENDING = "pending"
    FUTURE = "future"
    TRIAL = "trial"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_in_force(self) -> bool:
        return self in _IN_FORCE

    @property
    def has_ended(self) -> bool:
        return self in (SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED)


_IN_FORCE = frozenset({SubscriptionStatus.TRIAL, SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE})


class PlanType(StrEnum):
    """What sort of plan it is. It says nothing of its terms; price lists and reports sort by it."""

    FREE = "free"
    STARTER = "starter"
    PROFESSIONAL = "professional"
    ENTERPRISE = "enterprise"
    CUSTOM = "custom"


class ChangeKind(StrEnum):
    """Why a subscription follows another plan version, or none, from an instant on.

    CHANGE: to another plan or version. PAUSE: to none. RESUME: to the one that was paused. LAPSE: to none, as its grace
    period had run out before a payment made it RESUME.
    """

    CHANGE = "change"
    PAUSE = "pause"
    RESUME = "resume"
    LAPSE = "lapse"


NEVER = "never"
"""The reset of an allowance that is given once, for all time."""

RESETS = (*(str(kind) for kind in PeriodKind if kind is not PeriodKind.TOTAL), NEVER)
"""After what an allowance starts again from zero, the shortest first."""


@dataclass(frozen=True, slots=True)
class PlanFeature:
    """What a plan version gives of a feature.

    A consumable one has an allowance for each reset period, in millionths; None is unlimited. One that is not
    consumable is there or not, and nothing of it is counted.
    """

    slug: str
    name: str
    is_consumable: bool
    allowance: int | None
    reset: str
    display_value: str | None
    is_hidden: bool
    sort_order: int

    @property
    def value(self) -> int | Decimal | None:
        """The allowance of a reset period as a number; None: unlimited, or not consumable."""
        return None if self.allowance is None else from_millionths(self.allowance)

    @property
    def is_unlimited(self) -> bool:
        """Whether it is consumable and nothing limits it."""
        return self.is_consumable and self.allowance is None


NO_FEATURES: Mapping[str, PlanFeature] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """One immutable set of terms of a plan. Limits are per period of the account; None is unlimited."""

    id: str
    plan_id: str
    slug: str
    name: str
    version: int
    currency: str
    monthly_token_limit: int | None
    monthly_cost_limit: Money | None
    overage_price_per_1k_tokens: Decimal | None
    overage_behavior: OverageBehavior | None
    trial_days: int
    price: Money | None
    billing_cycle: str
    created_at: datetime
    published_at: datetime | None
    # By slug, in the order in which they are shown. A mapping has no hash.
    features: Mapping[str, PlanFeature] = field(default_factory=lambda: NO_FEATURES, hash=False)
    label: str | None = None
    overage_markup_percent: Decimal | None = None
    usage_prices: UsagePrices = field(default_factory=lambda: NO_USAGE_PRICES, hash=False)

    @property
    def is_published(self) -> bool:
        return self.published_at is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as it is sold now: its name, and the version that new subscribers get (`current`).

    One that is not `is_active` has no new subscribers; who has it keeps it.
    """

    id: str
    slug: str
    name: str
    created_at: datetime
    current: PlanVersion
    versions: tuple[PlanVersion, ...]
    plan_type: PlanType = PlanType.CUSTOM
    description: str | None = None
    archived_at: datetime | None = None

    @property
    def is_active(self) -> bool:
        return self.archived_at is None

    def version(self, number: int) -> PlanVersion | None:
        """Return a version by its number; None: there is none."""
        return next((one for one in self.versions if one.version == number), None)


@dataclass(frozen=True, slots=True)
class PlanChange:
    """From `starts_at` on a subscription follows `plan`; None: it is paused, or had lapsed.

    With an `anchor_at` its billing periods are counted from there; None: as before.
    """

    id: str
    kind: ChangeKind
    starts_at: datetime
    plan: PlanVersion | None
    anchor_at: datetime | None
    is_prorated: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Subscription:
    """A billable's agreement to one plan version after another, with the dates that decide its status.

    `plan` is the version that it follows, or has paused, and `previous_plan` the one before, as seen at the instant
    for which it was asked (`seen_at`); `changes` has them all, also those to come. It ends at the earlier of
    `term_ends_at`, agreed when it was made, and `cancels_at`, set by a cancellation.
    """

    id: str
    billable: str
    plan: PlanVersion
    billing_mode: BillingMode
    started_at: datetime
    trial_ends_at: datetime | None
    is_pending: bool
    cancelled_at: datetime | None
    cancels_at: datetime | None
    term_ends_at: datetime | None
    payment_failed_at: datetime | None
    created_at: datetime
    changes: tuple[PlanChange, ...] = ()
    timezone: str | None = None
    billed_until: datetime | None = None
    activation_invoice_id: str | None = None
    metadata: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    previous_plan: PlanVersion | None = None
    # What it began with; `plan` until `seen_at` says otherwise.
    _first_plan: PlanVersion | None = field(default=None, compare=False, repr=False)

    @property
    def ends_at(self) -> datetime | None:
        """When it ends, or ended; None: it goes on."""
        return min((end for end in (self.cancels_at, self.term_ends_at) if end is not None), default=None)

    @property
    def first_plan(self) -> PlanVersion:
        """The plan version that it began with."""
        return self._first_plan or self.plan

    @property
    def scheduled(self) -> PlanChange | None:
        """The change that is made at the end of a period, where it was asked for and has not been taken back."""
        return self.changes[-1] if self.changes and self.changes[-1].starts_at > self.changes[-1].created_at else None

    def seen_at(self, at: datetime) -> Subscription:
        """Return the subscription with the plans that it follows, and followed before, at an instant."""
        plan, previous = self.first_plan, None
        for change in self.changes:
            if change.starts_at <= at and change.plan is not None and change.plan.id != plan.id:
                plan, previous = change.plan, plan
        if plan is self.plan and previous is self.previous_plan:
            return self
        return replace(self, plan=plan, previous_plan=previous, _first_plan=self.first_plan)

    def plan_at(self, at: datetime) -> PlanVersion | None:
        """Return the plan version that it follows at an instant; None while it is paused, or had lapsed."""
        change = self.change_at(at)
        return self.first_plan if change is None else change.plan

    def change_at(self, at: datetime) -> PlanChange | None:
        """Return the last change that was in effect at an instant; None: it was as it began."""
        return next((one for one in reversed(self.changes) if one.starts_at <= at), None)

    def status(self, at: datetime, *, grace_period_days: int) -> SubscriptionStatus:
        """Return the status at an instant. It follows from the dates alone, so no job has to run for it to change.

        After a failed payment the subscription stays in force for `grace_period_days`, then it has expired.
        """
        if self.is_pending:
            return SubscriptionStatus.PENDING
        if at < self.started_at:
            return SubscriptionStatus.FUTURE
        if self.ends_at is not None and at >= self.ends_at:
            return SubscriptionStatus.CANCELLED if self.ends_at == self.cancels_at else SubscriptionStatus.EXPIRED
        change = self.change_at(at) if self.changes else None
        if change is not None and change.plan is None:
            return SubscriptionStatus.EXPIRED if change.kind is ChangeKind.LAPSE else SubscriptionStatus.SUSPENDED
        if self.payment_failed_at is not None and at >= self.payment_failed_at:
            grace_ends_at = self.payment_failed_at + timedelta(days=grace_period_days)
            return SubscriptionStatus.PAST_DUE if at < grace_ends_at else SubscriptionStatus.EXPIRED
        if self.trial_ends_at is not None and at < self.trial_ends_at:
            return SubscriptionStatus.TRIAL
        return SubscriptionStatus.ACTIVE

    def turning_points(self, *, grace_period_days: int) -> list[datetime]:
        """Return every instant at which the status, or the plan, may change."""
        points = [self.started_at, self.trial_ends_at, self.ends_at, self.payment_failed_at]
        points += [change.starts_at for change in self.changes]
        if self.payment_failed_at is not None:
            points.append(self.payment_failed_at + timedelta(days=grace_period_days))
        return [point for point in points if point is not None]


@dataclass(frozen=True, slots=True)
class LimitOverride:
    """A replacement of a plan's limits for `[start, end)`. A limit that is None stays the plan's."""

    id: str
    billable: str
    start: datetime
    end: datetime | None
    token_limit: int | None
    cost_limit: Money | None
    reason: str | None
    created_at: datetime

    def __post_init__(self) -> None:
        if self.end is not None and self.end <= self.start:
            raise InvalidInput("end", self.end.isoformat(), f"It must lie after start ({self.start.isoformat()}).")
        if self.token_limit is None and self.cost_limit is None:
            raise InvalidInput("token_limit", None, "Give a token_limit, a cost_limit, or both.")
        if self.token_limit is not None and self.token_limit < 0:
            raise InvalidInput("token_limit", self.token_limit, "A limit is zero or more.")
        if self.cost_limit is not None and self.cost_limit.nanos < 0:
            raise InvalidInput("cost_limit", str(self.cost_limit), "A limit is zero or more.")

    def is_in_force(self, at: datetime) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


@dataclass(frozen=True, slots=True)
class CreditCap:
    """The most that one user of a billable may spend of its credits of a unit in a period, in the unit's integers.

    `member` is the user's reference, or "*": every user who has no cap of their own.
    """

    EVERYBODY: ClassVar[str] = "*"

    billable: str
    unit: str
    member: str
    amount: int
    period: str
    created_at: datetime


_ALL_TIME = (MIN_MICROS, MAX_MICROS)


@dataclass(frozen=True, slots=True)
class TermsPolicy:
    """What the settings say where a plan is silent."""

    currency: str
    period_kind: PeriodKind
    is_anniversary: bool
    zone: str
    overage_behavior: OverageBehavior
    grace_period_days: int
    # Rate limits of everybody who has none of their own, with an empty billable.
    rate_limits: tuple[RateLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class InForce:
    """The limits of one billable at an instant, in integers, and from when until when (µs, half-open) they are these.

    `cost_limit` is in nanos of `currency`. Without a subscription in force and without an override nothing is limited.
    `features` are those of the plan in force, by slug; none without one. `status` is that of the subscription in force;
    SUSPENDED where there is none but a paused one, whose calls are refused.
    """

    valid_from: int
    valid_until: int
    period: str
    period_start: int
    period_end: int
    currency: str
    token_limit: int | None
    cost_limit: int | None
    overage_behavior: OverageBehavior
    overage_price_per_1k_tokens: Decimal | None
    billing_mode: BillingMode
    status: SubscriptionStatus | None
    subscription_id: str | None
    plan_version_id: str | None
    plan: str | None
    tokens_counter: CounterKey
    cost_counter: CounterKey
    features: Mapping[str, PlanFeature] = field(default_factory=lambda: NO_FEATURES, hash=False)
    overage_markup_percent: Decimal | None = None
    # What use costs by resource type, and the month (µs) in which it is priced as a whole; no prices during a trial.
    usage_prices: UsagePrices = field(default_factory=lambda: NO_USAGE_PRICES, hash=False)
    usage_month: tuple[int, int] = _ALL_TIME
    # The billing mode as it is written: asked several times a call, where an enumeration is slow.
    mode: str = field(default="", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", self.billing_mode.value)

    @property
    def is_hard(self) -> bool:
        return self.overage_behavior is OverageBehavior.BLOCK

    @property
    def is_suspended(self) -> bool:
        """Whether there is no subscription in force, but a paused one."""
        return self.status is SubscriptionStatus.SUSPENDED


@lru_cache(maxsize=1024)
def _calendar(period: str, zone: str) -> PeriodRule:
    """Return how a zone's calendar cuts time. Accounts of a zone share it, with the periods that it found last."""
    return PeriodRule(parse_kind(period), zone)


_Limit = TypeVar("_Limit", bound="Quota | RateLimit")


def _by_type(limits: tuple[_Limit, ...]) -> dict[str, tuple[_Limit, ...]]:
    found: dict[str, tuple[_Limit, ...]] = {}
    for limit in limits:
        found[limit.resource_type] = (*found.get(limit.resource_type, ()), limit)
    return found


class _Bounds(NamedTuple):
    """A period's bounds, and for which instants (half-open) they are the answer. All in µs."""

    valid_from: int
    valid_until: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything that decides a billable's limits, with the policy of the settings."""

    billable: str
    policy: TermsPolicy
    subscriptions: tuple[Subscription, ...] = ()
    overrides: tuple[LimitOverride, ...] = ()
    caps: tuple[CreditCap, ...] = ()
    tenant: Tenant | None = None
    quotas: tuple[Quota, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    # The answer given last; replaced as a whole, so threads may share it.
    _last: InForce | None = field(default=None, init=False, compare=False, repr=False)
    # The bounds found last, for each kind of period that was asked for; each replaced as a whole too.
    _bounds: dict[str, _Bounds] = field(default_factory=dict, init=False, compare=False, repr=False)
    # A pool may have as many caps as users, and most accounts have none.
    _cap_by_member: Mapping[tuple[str, str], CreditCap] | None = field(
        default=None, init=False, compare=False, repr=False
    )

    _quotas_by_type: Mapping[str, tuple[Quota, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False, hash=False
    )
    _rates_by_type: Mapping[str, tuple[RateLimit, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False, hash=False
    )

    # Asked several times of every call, and mostly false.
    has_quotas: bool = field(default=False, init=False, compare=False, repr=False)
    has_rate_limits: bool = field(default=False, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.caps:
            object.__setattr__(self, "_cap_by_member", {(cap.unit, cap.member): cap for cap in self.caps})
        if self.quotas:
            object.__setattr__(self, "_quotas_by_type", _by_type(self.quotas))
            object.__setattr__(self, "has_quotas", True)
        rates = self._rates()
        if rates:
            object.__setattr__(self, "_rates_by_type", _by_type(rates))
            object.__setattr__(self, "has_rate_limits", True)

    def quotas_of(self, resource_type: str) -> tuple[Quota, ...]:
        return self._quotas_by_type.get(resource_type, ())

    def rate_limits_of(self, resource_type: str) -> tuple[RateLimit, ...]:
        """Return the rate limits of a resource type: the billable's own, and where it has none, everybody's."""
        return self._rates_by_type.get(resource_type, ())

    def calendar(self, period: str, at_micros: int) -> tuple[int, int]:
        """Return start and end (µs) of the calendar's period around an instant, in the account's zone."""
        return _calendar(period, self.policy.zone).bounds_micros(at_micros)

    def _rates(self) -> tuple[RateLimit, ...]:
        own = {(limit.resource_type, limit.scope, limit.per) for limit in self.rate_limits}
        general = [
            replace(limit, billable=self.billable)
            for limit in self.policy.rate_limits
            if (limit.resource_type, limit.scope, limit.per) not in own
        ]
        return (*self.rate_limits, *general)

    def at(self, at_micros: int) -> InForce:
        """Return what is in force at an instant (µs)."""
        last = self._last
        if last is not None and last.valid_from <= at_micros < last.valid_until:
            return last
        found = self._resolved(at_micros)
        object.__setattr__(self, "_last", found)
        return found

    def subscription_at(self, at: datetime) -> Subscription | None:
        """Return the subscription in force at an instant, as seen then; of several, the one that started last."""
        grace = self.policy.grace_period_days
        in_force = [one for one in self.subscriptions if one.status(at, grace_period_days=grace).is_in_force]
        latest = max(in_force, key=lambda one: (one.started_at, one.id), default=None)
        return None if latest is None else latest.seen_at(at)

    def billing_zone(self, subscription: Subscription) -> str:
        """Return the zone in which a subscription's billing periods are cut."""
        return subscription.timezone or self.policy.zone

    def period_rule(self, subscription: Subscription | None) -> PeriodRule:
        """Return how the account's time is cut: by the calendar, or from the subscription's start."""
        policy = self.policy
        anchor = subscription.started_at if subscription is not None and policy.is_anniversary else None
        return PeriodRule(policy.period_kind, policy.zone, anchor)

    def bounds(self, period: str, at_micros: int) -> tuple[int, int]:
        """Return start and end (µs) of the period around an instant in which an allowance or a cap counts.

        `period` is one of `RESETS`, or "total". It is cut by the calendar of the policy's zone; where periods are
        anniversaries, from the start of the subscription in force at that instant. One that never resets is all time.

        Raises:
            InvalidInput: there is no such period.
        """
        known = self._bounds.get(period)
        if known is None or not known.valid_from <= at_micros < known.valid_until:
            known = self._found_bounds(period, at_micros)
            self._bounds[period] = known
        return known.start, known.end

    def feature_counter(self, slug: str, reset: str, at_micros: int) -> CounterKey:
        """Return the counter of a feature's allowance for the reset period around an instant (µs)."""
        return CounterKey(self.billable, feature_unit(slug), "", reset, self.bounds(reset, at_micros)[0])

    def cap_for(self, unit: str, member: str | None) -> CreditCap | None:
        """Return what limits a user's spending of a unit: a cap of their own, else that of everybody, else nothing.

        Use on nobody's behalf (None) is no user's, and has no cap.
        """
        caps = self._cap_by_member
        if caps is None or member is None:
            return None
        return caps.get((unit, member)) or caps.get((unit, CreditCap.EVERYBODY))

    def _found_bounds(self, period: str, at_micros: int) -> _Bounds:
        policy = self.policy
        kind = PeriodKind.TOTAL if period == NEVER else parse_kind(period)
        if kind is PeriodKind.TOTAL:
            return _Bounds(*_ALL_TIME, *_ALL_TIME)
        if not policy.is_anniversary:
            start, end = _calendar(kind.value, policy.zone).bounds_micros(at_micros)
            return _Bounds(start, end, start, end)
        subscription = self.subscription_at(from_micros(at_micros))
        anchor = subscription.started_at if subscription is not None else None
        start, end = PeriodRule(kind, policy.zone, anchor).bounds_micros(at_micros)
        return _Bounds(*self._stable_around(at_micros, start, end), start, end)

    def _resolved(self, at_micros: int) -> InForce:
        at = from_micros(at_micros)
        policy = self.policy
        subscription = self.subscription_at(at)
        plan = subscription.plan if subscription is not None else None
        override_tokens, override_cost = self._overridden(at)
        period_start, period_end = self.period_rule(subscription).bounds_micros(at_micros)
        valid_from, valid_until = self._stable_around(at_micros, period_start, period_end)
        token_limit = plan.monthly_token_limit if plan is not None else None
        cost_limit = plan.monthly_cost_limit if plan is not None else None
        if override_tokens is not None:
            token_limit = override_tokens
        if override_cost is not None:
            cost_limit = override_cost
        currency = plan.currency if plan is not None else policy.currency
        period = policy.period_kind.value
        status = self._status(subscription, at)
        priced, month = NO_USAGE_PRICES, _ALL_TIME
        if subscription is not None and plan is not None and plan.usage_prices:
            month = usage_month(subscription, self.billing_zone(subscription), at_micros)
            valid_from, valid_until = max(valid_from, month[0]), min(valid_until, month[1])
            # What is tried out is not charged, also where a payment has failed meanwhile.
            if subscription.trial_ends_at is None or at >= subscription.trial_ends_at:
                priced = plan.usage_prices
        return InForce(
            valid_from=valid_from,
            valid_until=valid_until,
            period=period,
            period_start=period_start,
            period_end=period_end,
            currency=currency,
            token_limit=token_limit,
            cost_limit=cost_limit.nanos if cost_limit is not None else None,
            overage_behavior=(plan.overage_behavior if plan is not None else None) or policy.overage_behavior,
            overage_price_per_1k_tokens=plan.overage_price_per_1k_tokens if plan is not None else None,
            billing_mode=subscription.billing_mode if subscription is not None else BillingMode.PLAN,
            status=status,
            subscription_id=subscription.id if subscription is not None else None,
            plan_version_id=plan.id if plan is not None else None,
            plan=plan.slug if plan is not None else None,
            tokens_counter=CounterKey(self.billable, "tokens", "", period, period_start),
            cost_counter=CounterKey(self.billable, f"cost:{currency}", "", period, period_start),
            features=plan.features if plan is not None else NO_FEATURES,
            overage_markup_percent=plan.overage_markup_percent if plan is not None else None,
            usage_prices=priced,
            usage_month=month,
        )

    def _status(self, subscription: Subscription | None, at: datetime) -> SubscriptionStatus | None:
        """Return the status of the subscription in force; SUSPENDED where only a paused one is there."""
        grace = self.policy.grace_period_days
        if subscription is not None:
            return subscription.status(at, grace_period_days=grace)
        statuses = {one.status(at, grace_period_days=grace) for one in self.subscriptions}
        return SubscriptionStatus.SUSPENDED if SubscriptionStatus.SUSPENDED in statuses else None

    def _overridden(self, at: datetime) -> tuple[int | None, Money | None]:
        """Return the limits that overrides set; of several, the one made last counts, for each limit apart."""
        tokens: int | None = None
        cost: Money | None = None
        for override in sorted(self.overrides, key=lambda one: (one.created_at, one.id)):
            if override.is_in_force(at):
                tokens = override.token_limit if override.token_limit is not None else tokens
                cost = override.cost_limit if override.cost_limit is not None else cost
        return tokens, cost

    def _stable_around(self, at_micros: int, period_start: int, period_end: int) -> tuple[int, int]:
        points = [MIN_MICROS, period_start, period_end, MAX_MICROS]
        for subscription in self.subscriptions:
            grace = self.policy.grace_period_days
            points += [to_micros(point) for point in subscription.turning_points(grace_period_days=grace)]
        for override in self.overrides:
            points.append(to_micros(override.start))
            if override.end is not None:
                points.append(to_micros(override.end))
        return max(point for point in points if point <= at_micros), min(point for point in points if point > at_micros)
