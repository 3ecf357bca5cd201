"""From what happened to what a customer is told of it: pure functions over events and notices.

A draft carries values, not words: those are found when it is known who reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.events import CreditsLow, LimitApproaching, LimitReached
from tallystick.limits.asking import QuotaReached, quota_amount
from tallystick.limits.quota import COST, SLIDING
from tallystick.period import PeriodKind, calendar_period, from_micros, parse_kind, to_micros

if TYPE_CHECKING:
    from tallystick.credits.values import Grant
    from tallystick.invoicing.values import Invoice, Payment
    from tallystick.plans.terms import Subscription

__all__ = [
    "TOLD",
    "Draft",
    "credits_expiring",
    "draft_of",
    "invoice_created",
    "invoice_due",
    "invoice_overdue",
    "invoice_paid",
    "payment_failed",
    "payment_succeeded",
    "plan_changed",
    "subscription_expired",
    "subscription_expiring",
    "trial_ending",
]

TOLD = (CreditsLow, LimitApproaching, LimitReached)
"""The events of which customers are told by themselves."""

_EXCEEDED = 100


@dataclass(frozen=True, slots=True)
class Draft:
    """Something to tell a billable. `values` fill in its words; `metadata` is kept with it, as plain JSON values.

    With a `key` it is told once, however often it is found.
    """

    billable: str
    type: str
    at: datetime
    values: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    key: str | None = None


def draft_of(fact: object, zone: str) -> Draft | None:
    """Return what a billable is told of a fact; None where it is told nothing. Periods end in the account's `zone`."""
    if isinstance(fact, QuotaReached):
        return _quota_reached(fact, zone)
    if isinstance(fact, LimitApproaching):
        remaining = fact.remaining_tokens if fact.limit_type == "tokens" else fact.remaining_cost
        percentage = round(fact.usage_percentage, 1)
        stated = {"limit_type": fact.limit_type, "percentage": percentage}
        return Draft(fact.billable, "limit_approaching", fact.at, {**stated, "remaining": remaining}, stated)
    if isinstance(fact, LimitReached):
        stated = {"limit_type": fact.limit_type}
        return Draft(fact.billable, "limit_reached", fact.at, stated, {**stated, "is_hard": fact.is_hard})
    if isinstance(fact, CreditsLow):
        amounts = {"available": fact.available, "minimum": fact.minimum}
        return Draft(fact.billable, "credits_low", fact.at, amounts, amounts)
    return None


def _quota_reached(notice: QuotaReached, zone: str) -> Draft:
    quota = notice.quota
    used = quota_amount(quota.resource_type, notice.current, notice.currency)
    limit = quota_amount(quota.resource_type, quota.limit, notice.currency)
    percentage = notice.current * 100 // quota.limit if quota.limit else _EXCEEDED
    resets_at = _resets_at(quota.period, notice.at, zone)
    values = {
        "resource": quota.resource_type,
        "period": quota.period,
        "used": used,
        "limit": limit,
        "percentage": notice.threshold,
        "scope": notice.window or None,
        "resets_at": resets_at,
    }
    metadata = {
        "quota_id": quota.id,
        "resource_type": quota.resource_type,
        "period": quota.period,
        "current": used,
        "limit": limit,
        "percentage": percentage,
        "threshold": notice.threshold,
        "scope": notice.window,
        "is_hard_limit": quota.is_hard_limit,
        "resets_at": resets_at,
    }
    if quota.resource_type == COST:
        metadata["currency"] = notice.currency
    name = "quota_exceeded" if notice.threshold >= _EXCEEDED else "quota_warning"
    return Draft(quota.billable, name, from_micros(notice.at), values, metadata)


def _resets_at(period: str, at: int, zone: str) -> datetime | None:
    if period in SLIDING:
        return None
    kind = parse_kind(period)
    return None if kind is PeriodKind.TOTAL else calendar_period(kind, from_micros(at), zone).end


# -- found by the clock -----------------------------------------------------------------------------------------------


def credits_expiring(grant: Grant, at: datetime) -> Draft:
    """Tell of credits that expire soon, once for each grant."""
    values = {"remaining": grant.remaining, "expires_at": grant.expires_at, "feature": grant.feature_slug}
    metadata = {"grant_id": grant.id, "unit": grant.unit, "remaining": grant.remaining, "expires_at": grant.expires_at}
    return Draft(grant.billable, "credits_expiring", at, values, metadata, f"credits_expiring:{grant.id}")


def trial_ending(subscription: Subscription, at: datetime) -> Draft:
    """Tell of a trial that ends soon, once for each end."""
    return _of_subscription("trial_ending", subscription, subscription.trial_ends_at, at)


def subscription_expiring(subscription: Subscription, at: datetime) -> Draft:
    """Tell of a subscription that ends soon, once for each end."""
    return _of_subscription("subscription_expiring", subscription, subscription.ends_at, at)


def subscription_expired(subscription: Subscription, at: datetime, ended_at: datetime | None = None) -> Draft:
    """Tell of a subscription that has ended, once for each end; `ended_at` is that of its grace period."""
    return _of_subscription("subscription_expired", subscription, ended_at or subscription.ends_at, at)


def invoice_created(invoice: Invoice, at: datetime) -> Draft:
    """Tell of a new invoice."""
    values = {"invoice": invoice.number, "amount": invoice.total, "due_date": invoice.due_at}
    return Draft(
        invoice.billable, "invoice_created", at, values, _invoice_metadata(invoice), f"invoice_created:{invoice.id}"
    )


def invoice_paid(invoice: Invoice, at: datetime) -> Draft:
    """Tell that nothing is owed of an invoice any more."""
    values = {"invoice": invoice.number, "amount": invoice.total}
    return Draft(invoice.billable, "invoice_paid", at, values, _invoice_metadata(invoice), f"invoice_paid:{invoice.id}")


def invoice_due(invoice: Invoice, at: datetime, days_before: int) -> Draft:
    """Remind of an invoice that is due soon, once for each number of days."""
    values = {"invoice": invoice.number, "amount": invoice.amount_due, "due_date": invoice.due_at}
    key = f"invoice_due:{invoice.id}:{days_before}"
    return Draft(invoice.billable, "invoice_due", at, values, _invoice_metadata(invoice), key)


def invoice_overdue(invoice: Invoice, at: datetime, days_after: int, days_overdue: int) -> Draft:
    """Tell of an invoice that is overdue, and remind of it, once for each number of days."""
    values = {
        "invoice": invoice.number,
        "amount": invoice.amount_due,
        "due_date": invoice.due_at,
        "days_overdue": days_overdue,
    }
    metadata = {**_invoice_metadata(invoice), "days_overdue": days_overdue}
    key = f"invoice_overdue:{invoice.id}:{days_after}"
    return Draft(invoice.billable, "invoice_overdue", at, values, metadata, key)


def _invoice_metadata(invoice: Invoice) -> Mapping[str, object]:
    return {
        "invoice_id": invoice.id,
        "number": invoice.number,
        "amount": invoice.total,
        "currency": invoice.currency,
        "amount_due": invoice.amount_due,
        "due_at": invoice.due_at,
    }


def plan_changed(subscription: Subscription, previous: str, plan: str, effective_at: datetime, at: datetime) -> Draft:
    """Tell of a change of plan, which may lie ahead."""
    values = {"plan": plan, "previous_plan": previous, "effective_at": effective_at}
    return Draft(subscription.billable, "plan_changed", at, values, {**values, "subscription_id": subscription.id})


def payment_failed(
    billable: str,
    at: datetime,
    *,
    subscription: Subscription | None = None,
    grace_until: datetime | None = None,
    invoice: Invoice | None = None,
    reason: str | None = None,
) -> Draft:
    """Tell that a payment has failed, once for each failure: for a subscription, for an invoice, or for both."""
    values: dict[str, object] = {"grace_until": grace_until}
    metadata: dict[str, object] = {}
    about = ""
    if invoice is not None:
        about = invoice.id
        values |= {"invoice": invoice.number, "amount": invoice.amount_due}
        metadata |= {**_invoice_metadata(invoice), "reason": reason}
    if subscription is not None:
        about = f"{subscription.id}:{to_micros(at)}"
        values["plan"] = subscription.plan.name
        metadata |= {"subscription_id": subscription.id, "plan": subscription.plan.slug, "grace_until": grace_until}
    return Draft(billable, "payment_failed", at, values, metadata, f"payment_failed:{about}")


def payment_succeeded(
    subscription: Subscription, at: datetime, *, payment: Payment | None = None, invoice: Invoice | None = None
) -> Draft:
    """Tell that a payment has come after all."""
    values: dict[str, object] = {"plan": subscription.plan.name}
    metadata: dict[str, object] = {"subscription_id": subscription.id, "plan": subscription.plan.slug}
    if payment is not None:
        values["amount"] = payment.amount
        metadata["payment_id"] = payment.id
    if invoice is not None:
        values["invoice"] = invoice.number
        metadata |= _invoice_metadata(invoice)
    return Draft(subscription.billable, "payment_success", at, values, metadata)


def _of_subscription(name: str, subscription: Subscription, ends_at: datetime | None, at: datetime) -> Draft:
    values = {"plan": subscription.plan.name, "ends_at": ends_at}
    metadata = {"subscription_id": subscription.id, "plan": subscription.plan.slug, "ends_at": ends_at}
    key = f"{name}:{subscription.id}:{to_micros(ends_at) if ends_at is not None else ''}"
    return Draft(subscription.billable, name, at, values, metadata, key)
