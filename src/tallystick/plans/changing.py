"""How subscriptions change: to another plan, at once or at the end of the paid period; paused, resumed, revived.

Pure: each function returns the subscription as it is afterwards, or says why it cannot be. Instants are aware UTC.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from tallystick.errors import Conflict, CurrencyMismatch, InvalidInput
from tallystick.identity import new_id
from tallystick.period import MAX_MICROS, from_micros, to_micros
from tallystick.plans.cycle import LIFETIME, fee_period
from tallystick.plans.terms import ChangeKind, PlanChange, PlanVersion, Subscription, SubscriptionStatus

__all__ = ["first_anchor", "paid_until", "paused", "resumed", "revived", "with_plan"]


def first_anchor(subscription: Subscription) -> datetime:
    """Return from when on a subscription is paid for: the end of its trial, else its start."""
    return max(subscription.started_at, subscription.trial_ends_at or subscription.started_at)


def paid_until(subscription: Subscription, zone: str, at: datetime) -> datetime | None:
    """Return the end of the period that is paid, or tried out, at an instant; None for a lifetime plan."""
    if at < subscription.started_at:
        return subscription.started_at
    if at < first_anchor(subscription):
        return first_anchor(subscription)
    end = fee_period(subscription, zone, to_micros(at)).end
    return None if end >= MAX_MICROS else from_micros(end)


def with_plan(
    subscription: Subscription,
    plan: PlanVersion,
    zone: str,
    *,
    at: datetime,
    at_period_end: bool,
    is_prorated: bool,
    grace_period_days: int,
) -> Subscription:
    """Return a subscription that follows another plan version, from now on or from the end of its period.

    A change that was to come is replaced by this one. Where the plan's cycle is another, billing periods are counted
    anew from the change.

    Raises:
        Conflict: it is paused, has ended, or ends before the change. InvalidInput: a lifetime plan has no period's end.
        CurrencyMismatch: at once, and the plan is of another currency.
    """
    status = subscription.status(at, grace_period_days=grace_period_days)
    if status is SubscriptionStatus.SUSPENDED:
        raise Conflict(f"The subscription of {subscription.billable} is suspended. Resume it first.")
    if status in (SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED):
        raise Conflict(f"The subscription of {subscription.billable} is {status}. Create a new one.")
    kept = tuple(one for one in subscription.changes if one.starts_at <= at)
    current = replace(subscription, changes=kept).seen_at(at)
    if current.plan.id == plan.id:
        return current
    starts_at = at
    if at_period_end:
        end = paid_until(current, zone, at)
        if end is None:
            raise InvalidInput("at_period_end", True, "A lifetime plan has no end of a period: change it at once.")
        starts_at = end
    elif current.plan.currency != plan.currency and at >= first_anchor(current):
        raise CurrencyMismatch(
            f"{current.plan.slug} is billed in {current.plan.currency} and {plan.slug} in {plan.currency}. "
            "Change at the end of the period: at_period_end=True.",
            source=current.plan.currency,
            target=plan.currency,
        )
    if current.ends_at is not None and current.ends_at <= starts_at:
        raise Conflict(
            f"The subscription of {current.billable} ends at {current.ends_at:%Y-%m-%d %H:%M} UTC, before the change. "
            "Resume it first, or change it at once."
        )
    is_another_cycle = plan.billing_cycle == LIFETIME or current.plan.billing_cycle != plan.billing_cycle
    begins_anew = is_another_cycle and starts_at >= first_anchor(current)
    if begins_anew and current.cancels_at is not None:
        raise Conflict(
            f"The subscription of {current.billable} is cancelled for {current.cancels_at:%Y-%m-%d %H:%M} UTC, and "
            f"{plan.slug} would begin a period of its own. Resume it first."
        )
    change = PlanChange(
        id=new_id("sch"),
        kind=ChangeKind.CHANGE,
        starts_at=starts_at,
        plan=plan,
        anchor_at=starts_at if begins_anew else None,
        is_prorated=is_prorated,
        created_at=at,
    )
    return replace(current, changes=(*kept, change)).seen_at(at)


def paused(subscription: Subscription, *, at: datetime, is_prorated: bool, grace_period_days: int) -> Subscription:
    """Return a subscription that is paused from an instant on. A change that was to come is dropped.

    Raises:
        Conflict: it is not in force.
    """
    status = subscription.status(at, grace_period_days=grace_period_days)
    if not status.is_in_force:
        raise Conflict(f"The subscription of {subscription.billable} is {status}: only one in force can be paused.")
    kept = tuple(one for one in subscription.changes if one.starts_at <= at)
    change = PlanChange(new_id("sch"), ChangeKind.PAUSE, at, None, None, is_prorated, at)
    return replace(subscription, changes=(*kept, change))


def resumed(subscription: Subscription, zone: str, *, at: datetime) -> Subscription:
    """Return a paused subscription that goes on. Its billing periods are what they would have been."""
    pause = subscription.change_at(at)
    period_start = from_micros(fee_period(subscription, zone, to_micros(at)).start)
    # What was paid for and not given back is not paid for again.
    is_prorated = pause is None or pause.is_prorated or pause.starts_at <= period_start
    plan = subscription.seen_at(at).plan
    change = PlanChange(new_id("sch"), ChangeKind.RESUME, at, plan, None, is_prorated, at)
    return replace(subscription, changes=(*subscription.changes, change))


def revived(subscription: Subscription, *, ended_at: datetime, at: datetime) -> Subscription:
    """Return an expired subscription that is in force again from an instant on, and not for the time in between.

    Its billing periods are counted from there. A trial goes on as it was; so do the periods of one that is cancelled to
    the end of its period, which was charged.
    """
    kept = tuple(one for one in subscription.changes if one.starts_at <= ended_at)
    plan = replace(subscription, changes=kept).seen_at(ended_at).plan
    lapse = PlanChange(new_id("sch"), ChangeKind.LAPSE, ended_at, None, None, False, at)
    goes_on = subscription.cancels_at is not None or at < first_anchor(subscription)
    anchor = None if goes_on else at
    resume = PlanChange(new_id("sch"), ChangeKind.RESUME, at, plan, anchor, False, at)
    return replace(subscription, changes=(*kept, lapse, resume), payment_failed_at=None)
