"""The events that an application can listen to with `@ts.on(...)`: frozen values, sent after the commit they tell of.

A handler that fails is logged and harms neither the call nor the other handlers. Handlers run in the thread (or event
loop) of the caller whose command was committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tallystick.credits.reporting import CreditReport
    from tallystick.credits.values import Grant
    from tallystick.invoicing.values import Invoice, Payment
    from tallystick.metering.usage_event import UsageEvent
    from tallystick.money import Money
    from tallystick.plans.terms import PlanVersion, Subscription

__all__ = [
    "CreditReportDue",
    "CreditsAdded",
    "CreditsDeducted",
    "CreditsExpired",
    "CreditsExpiring",
    "CreditsLow",
    "Event",
    "HoldExpired",
    "InvoiceCreated",
    "InvoiceOverdue",
    "InvoicePaid",
    "LimitApproaching",
    "LimitReached",
    "OverageCharged",
    "PaymentFailed",
    "PaymentSucceeded",
    "PlanChanged",
    "ProviderCallFailed",
    "QuotaExceeded",
    "QuotaWarning",
    "SubscriptionCancelled",
    "SubscriptionCreated",
    "SubscriptionEndingSoon",
    "SubscriptionExpired",
    "SubscriptionRenewed",
    "TopUpRequested",
    "UsageRecorded",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says: whom it concerns, and when it happened (aware UTC)."""

    billable: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecorded(Event):
    """A use was recorded. Sent once for each event, not for a replay."""

    usage: UsageEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitApproaching(Event):
    """Use passed `limits.approaching_percentage` of a plan's limit with this event. Sent once a period and limit."""

    limit_type: str
    usage_percentage: float
    remaining_tokens: int | None
    remaining_cost: Money | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReached(Event):
    """Use reached a plan's limit with this event; `limit_type` is "tokens" or "cost". Sent once a period and limit."""

    limit_type: str
    is_hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _QuotaReached(Event):
    """A threshold of a quota was reached, in percent of its limit. Sent once for each quota, period and limit.

    `scope` is whose part of the use it limits ("user:42", "feature:chat", "key:…"), None for all of it. `current` and
    `limit` are Money for a quota of cost. `period_start` is None for a quota of all time.
    """

    quota_id: str
    resource_type: str
    period: str
    scope: str | None
    threshold: int
    current: int | Decimal | Money
    limit: int | Decimal | Money
    percentage: float
    is_hard_limit: bool
    period_start: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaWarning(_QuotaReached):
    """Use has reached a threshold of a quota, such as 80 percent. Sent once for each threshold, period and limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaExceeded(_QuotaReached):
    """Use has reached a quota's limit: a hard one has no more room. Sent once for each period and limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCallFailed(Event):
    """The provider raised; its exception was passed on. The hold was voided (settled, for a broken stream)."""

    provider: str
    model: str | None
    error: BaseException
    hold_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverageCharged(Event):
    """Use beyond a limit was charged."""

    overage_id: str
    usage_event_id: str
    tokens: int
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldExpired(Event):
    """A hold ran out before it was settled: its process died, or its call took longer than `holds.ttl_seconds`.

    What it held is free again. `held` maps each meter to the amount. If the call comes back after all, its use is still
    recorded, flagged late.
    """

    hold_id: str
    held: Mapping[str, int]
    idempotency_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionCreated(Event):
    """A billable subscribed to a plan version."""

    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionCancelled(Event):
    """A subscription was cancelled; it stays in force until `ends_at`."""

    subscription: Subscription
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRenewed(Event):
    """A further billing period of a subscription has begun, or its term was prolonged."""

    subscription: Subscription
    period_start: datetime
    period_end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionEndingSoon(Event):
    """A subscription ends soon (`notifications.subscription_warning_days`). Sent once for each end."""

    subscription: Subscription
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionExpired(Event):
    """A subscription is no longer in force since `ended_at`: its term, or its grace period, ran out. Sent once."""

    subscription: Subscription
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChanged(Event):
    """A subscription follows another plan version from `effective_at` on, which may lie ahead."""

    subscription: Subscription
    previous_plan: PlanVersion
    plan: PlanVersion
    effective_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceCreated(Event):
    """An invoice was issued, or a draft was made."""

    invoice: Invoice


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePaid(Event):
    """Nothing is owed of an invoice any more."""

    invoice: Invoice


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceOverdue(Event):
    """An invoice was not paid in time. Sent once."""

    invoice: Invoice
    days_overdue: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentSucceeded(Event):
    """A payment was received. `payment` is None where it was only said of a subscription that it has come."""

    payment: Payment | None
    subscription: Subscription | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFailed(Event):
    """A payment failed: of an `invoice`, or of a subscription in general, which stays in force until `grace_until`.

    `reason` is what the gateway said, as far as it is told.
    """

    subscription: Subscription | None
    grace_until: datetime | None
    invoice: Invoice | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _CreditsMoved(Event):
    """One line of an account's statement. `unit` is a currency, or "feature:" and a slug; so are the amounts.

    `amount` is more than zero, `balance` is what stood after it. `source` says what did it: grant, usage, deduction,
    transfer, exchange, refund, reversal or revocation.
    """

    unit: str
    amount: Money | int | Decimal
    balance: Money | int | Decimal
    source: str
    reason: str
    transaction_id: str
    grant_id: str | None
    usage_event_id: str | None
    user: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsAdded(_CreditsMoved):
    """Credits were added to a wallet, or to a feature's extra credits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsDeducted(_CreditsMoved):
    """Credits were used, deducted, moved away or taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsExpired(Event):
    """What was left of a grant ran out at `expired_at`, whenever that was noticed. Sent once for each part of it."""

    unit: str
    amount: Money | int | Decimal
    kind: str
    grant_id: str
    expired_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsExpiring(Event):
    """A grant that is not used up will expire soon (`credits.expiry_warning_days`). Sent once for each grant."""

    grant: Grant
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsLow(Event):
    """What is available of a wallet fell below its minimum. Sent each time it falls, not while it stays there."""

    available: Money
    minimum: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpRequested(Event):
    """A wallet fell below its threshold for automatic top-ups: collect `amount`, then complete or fail the top-up."""

    top_up_id: str
    amount: Money
    available: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditReportDue(Event):
    """The report of a month that has ended; `billable` is "*". Sent once for each month."""

    report: CreditReport
