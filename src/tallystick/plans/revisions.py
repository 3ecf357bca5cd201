"""What is to become of a subscription, decided: for `revising` to write down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tallystick.errors import Conflict
from tallystick.events import PaymentFailed, PlanChanged, SubscriptionCancelled
from tallystick.invoicing.fees import FeeItem, settled_fee_item
from tallystick.notify.composing import payment_failed, plan_changed
from tallystick.notify.outgoing import Told
from tallystick.plans.changing import revived, with_plan
from tallystick.plans.terms import PlanVersion, Subscription, Terms

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.invoicing.values import Invoice

__all__ = ["Revision", "activation", "cancellation", "payment_failure", "payment_recovered", "plan_change"]


@dataclass(frozen=True, slots=True)
class Revision:
    """A subscription as it is to be, and what is told of that.

    `is_prorated` says whether what was paid of the running period is given back; None, that fees stay as they are.
    `settled_by` is the invoice that has charged the first fee beforehand. One that had expired is `revived_from` then.
    """

    after: Subscription
    is_prorated: bool | None = None
    told: Callable[[Subscription], Sequence[Told]] | None = None
    settled_by: FeeItem | None = None
    revived_from: datetime | None = None


def activation(before: Subscription, terms: Terms, at: datetime) -> Revision | None:
    """Return how a pending subscription begins; None where it is not pending."""
    if not before.is_pending:
        return None
    start = max(at, before.started_at)
    trial = before.trial_ends_at
    if trial is not None:
        # It was not to be tried out while it waited.
        trial += start - before.started_at
    after = replace(before, is_pending=False, started_at=start, trial_ends_at=trial)
    settled = None
    if before.activation_invoice_id is not None:
        settled = settled_fee_item(after, terms.billing_zone(after), before.activation_invoice_id)
    return Revision(after, settled_by=settled)


def cancellation(before: Subscription, *, end: datetime, at: datetime, is_prorated: bool) -> Revision:
    """Return how a subscription is cancelled, at an instant or at an end that lies ahead."""
    # A change that was to come with the end, or after it, does not come.
    kept = tuple(one for one in before.changes if one.starts_at < end or one.starts_at <= at)
    after = replace(before, cancelled_at=at, cancels_at=end, changes=kept)

    def told(cancelled: Subscription) -> Sequence[Told]:
        ends_at = cancelled.ends_at or end
        event = SubscriptionCancelled(billable=before.billable, at=at, subscription=cancelled, ends_at=ends_at)
        return [Told(None, event)]

    return Revision(after, is_prorated=is_prorated, told=told)


def payment_failure(
    before: Subscription,
    failed_at: datetime,
    at: datetime,
    *,
    grace_period_days: int,
    invoice: Invoice | None = None,
    reason: str | None = None,
) -> Revision | None:
    """Return how the grace period of a subscription begins; None where it has begun. `invoice` was not paid."""
    if before.payment_failed_at is not None:
        return None
    grace_until = failed_at + timedelta(days=grace_period_days)

    def told(failed: Subscription) -> Sequence[Told]:
        event = PaymentFailed(
            billable=before.billable,
            at=at,
            subscription=failed,
            grace_until=grace_until,
            invoice=invoice,
            reason=reason,
        )
        draft = payment_failed(
            before.billable, at, subscription=failed, grace_until=grace_until, invoice=invoice, reason=reason
        )
        return [Told(draft, event)]

    return Revision(replace(before, payment_failed_at=failed_at), told=told)


def payment_recovered(before: Subscription, at: datetime, *, grace_period_days: int) -> Revision | None:
    """Return how a grace period ends with a payment; None where there is none.

    After it ran out, the subscription is in force again from now on; the time in between is neither in force nor
    charged.
    """
    if before.payment_failed_at is None:
        return None
    grace_until = before.payment_failed_at + timedelta(days=grace_period_days)
    if grace_until <= at:
        after = revived(before, ended_at=grace_until, at=at)
        return Revision(after, revived_from=grace_until if before.cancels_at is None else None)
    return Revision(replace(before, payment_failed_at=None))


def plan_change(
    engine: Engine,
    before: Subscription,
    terms: Terms,
    plan: PlanVersion,
    *,
    at: datetime,
    prorate: bool,
    at_period_end: bool,
) -> Revision | None:
    """Return how a subscription moves to another plan version; None where it follows it already."""
    if before.is_pending:
        if before.activation_invoice_id is not None:
            raise Conflict(
                f"The subscription of {before.billable} waits for its first payment. Void that invoice first."
            )
        return Revision(replace(before, plan=plan, _first_plan=plan))
    after = with_plan(
        before,
        plan,
        terms.billing_zone(before),
        at=at,
        at_period_end=at_period_end,
        is_prorated=prorate,
        grace_period_days=engine.settings.billing.payment_failure_grace_period_days,
    )
    if after == before:
        return None
    change = after.changes[-1] if after.changes and after.changes[-1] not in before.changes else None

    def told(changed: Subscription) -> Sequence[Told]:
        if change is None:
            return []
        event = PlanChanged(
            billable=before.billable,
            at=at,
            subscription=changed,
            previous_plan=before.plan,
            plan=plan,
            effective_at=change.starts_at,
        )
        draft = plan_changed(changed, before.plan.name, plan.name, change.starts_at, at)
        return [Told(draft, event)]

    return Revision(after, is_prorated=prorate, told=told)
