"""What subscriptions owe besides use: fees as they fall due, and what a change makes of fees that were charged already.

Pure. Each is an item with a key, so whatever finds out that it is due (the run that bills subscriptions, or a change
that comes before it) has it written once, by `accruing`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tallystick.identity import new_id
from tallystick.money import round_half_even
from tallystick.period import MAX_MICROS, from_micros, to_micros
from tallystick.plans.cycle import (
    LIFETIME,
    Fee,
    Span,
    billing_instants,
    fee_at,
    fee_period,
    prorated,
)
from tallystick.plans.terms import ChangeKind, PlanVersion, Subscription, SubscriptionStatus
from tallystick.quantity import MILLIONTHS

__all__ = [
    "ChargedItem",
    "FeeItem",
    "activation_item",
    "fee_item",
    "fees_between",
    "first_fee",
    "prorations",
    "settled_fee_item",
]


@dataclass(frozen=True, slots=True)
class FeeItem:
    """An item to be written: what it is for, and its amount in nanos. Instants are µs; `words` names what it says."""

    billable: str
    subscription_id: str
    plan: PlanVersion
    kind: str
    words: str
    amount: int
    period: Span | None
    due_at: int
    key: str
    invoice_id: str | None = None
    is_discountable: bool = True

    def row(self, at: int) -> dict[str, Any]:
        """Return it as a row of `invoice_items`."""
        end = None if self.period is None or self.period.end >= MAX_MICROS else self.period.end
        details = {
            "words": self.words,
            "plan": self.plan.name,
            "slug": self.plan.slug,
            "cycle": self.plan.billing_cycle,
        }
        return {
            "id": new_id("itm"),
            "billable": self.billable,
            "subscription_id": self.subscription_id,
            "plan_version_id": self.plan.id,
            "invoice_id": self.invoice_id,
            "kind": self.kind,
            "description": None,
            "details": json.dumps(details, separators=(",", ":"), ensure_ascii=False),
            "quantity": MILLIONTHS,
            "amount": self.amount,
            "discounted": 0,
            "is_discountable": self.is_discountable,
            "currency": self.plan.currency,
            "period_start": None if self.period is None else self.period.start,
            "period_end": end,
            "due_at": self.due_at,
            "key": self.key,
            "created_at": at,
        }


def fees_between(
    subscription: Subscription, zone: str, *, after: int, until: int, grace_period_days: int
) -> Iterator[FeeItem]:
    """Return the fees that fall due in `(after, until]`."""
    for instant in billing_instants(subscription, zone, after=after, until=until, grace_period_days=grace_period_days):
        fee = None if instant.is_end else fee_at(subscription, zone, instant.at, grace_period_days=grace_period_days)
        if fee is not None:
            yield fee_item(subscription, fee)


def fee_item(subscription: Subscription, fee: Fee) -> FeeItem:
    """Return the item of a fee."""
    return FeeItem(
        billable=subscription.billable,
        subscription_id=subscription.id,
        plan=fee.plan,
        kind="fee",
        words="fee_lifetime" if fee.plan.billing_cycle == LIFETIME else "fee",
        amount=fee.amount,
        period=fee.period,
        due_at=fee.period.start,
        key=_fee_key(subscription.id, fee.period.start, fee.plan.billing_cycle),
    )


def first_fee(subscription: Subscription, zone: str) -> Fee | None:
    """Return the fee of the first period of a subscription that waits for its payment; None where it costs nothing."""
    begun = replace(subscription, is_pending=False)
    start = to_micros(max(begun.started_at, begun.trial_ends_at or begun.started_at))
    return fee_at(begun, zone, start, grace_period_days=0)


def activation_item(subscription: Subscription, fee: Fee, at: int) -> FeeItem:
    """Return what has to be paid before a pending subscription begins: the fee of its first period."""
    item = fee_item(subscription, fee)
    return replace(item, period=None, due_at=at, key=f"activation:{subscription.id}")


def settled_fee_item(subscription: Subscription, zone: str, invoice_id: str) -> FeeItem:
    """Return the item that says that the first fee of a subscription was paid beforehand, by another invoice."""
    anchor = to_micros(max(subscription.started_at, subscription.trial_ends_at or subscription.started_at))
    period = fee_period(subscription, zone, anchor)
    plan = subscription.plan_at(from_micros(anchor)) or subscription.plan
    key = _fee_key(subscription.id, anchor, plan.billing_cycle)
    return FeeItem(
        subscription.billable, subscription.id, plan, "fee", "fee", 0, period, anchor, key, invoice_id=invoice_id
    )


class ChargedItem(NamedTuple):
    """What was charged of a plan for a time, in nanos, and what discounts took off it.

    Of one on an invoice that was voided, or credited as a whole, nothing was charged after all.
    """

    id: str
    plan_version_id: str
    period: Span
    amount: int
    discounted: int
    is_fee: bool
    is_invoiced: bool
    is_void: bool


class _Value(NamedTuple):
    """What a subscription costs in a part of a billing period, and under which plan; in nanos."""

    plan: PlanVersion | None
    amount: int
    part: Span


def prorations(
    before: Subscription,
    after: Subscription,
    zone: str,
    *,
    at: int,
    charged_until: int,
    grace_period_days: int,
    is_prorated: bool,
    charged: Sequence[ChargedItem],
    key: str,
) -> list[FeeItem]:
    """Return what a change made at an instant gives back of fees that were charged, and what it charges instead.

    Of each period that is running or was billed ahead, the price of what is left of it under the old terms is given
    back, and its price under the new ones charged; where the plan stays the same, the difference. Where billing periods
    begin anew, the new one is billed from its own beginning, and only the old one is given back. Without `is_prorated`
    the running period stays as it was paid.

    What is given back is what was `charged` (in order), less what discounts took off it; of a voided invoice nothing.
    """
    new = [change for change in after.changes if change not in before.changes]
    anchors = [to_micros(change.anchor_at) for change in new if change.anchor_at is not None]
    items: list[FeeItem] = []
    for period in _charged_periods(before, zone, at, charged_until):
        begun = at > period.start
        if begun and not is_prorated:
            continue
        part = Span(max(at, period.start), period.end)
        old = _value(before, period, part, grace_period_days)
        due = _value(after, period, part, grace_period_days)
        if _begins_anew(old, due, part, anchors):
            if begun and period.end >= MAX_MICROS:
                old = _lifetime_credit(old, due)
            due = _Value(None, 0, part)
        items += _items(after, old, due, at=at, begun=begun, charged=charged, key=f"{key}:{period.start}")
    return items


def _begins_anew(old: _Value, due: _Value, part: Span, anchors: Iterable[int]) -> bool:
    if any(anchor <= part.start for anchor in anchors):
        return True
    # In a trial, where no new anchor is needed.
    return due.plan is not None and old.plan is not None and due.plan.billing_cycle != old.plan.billing_cycle


def _lifetime_credit(old: _Value, due: _Value) -> _Value:
    """A lifetime plan is not given back; but who moves to another one pays no more than the difference."""
    if old.plan is None or due.plan is None or due.plan.billing_cycle != LIFETIME:
        return old
    prices = [0 if plan.price is None else plan.price.nanos for plan in (old.plan, due.plan)]
    return old._replace(amount=min(prices))


def _items(
    after: Subscription,
    old: _Value,
    due: _Value,
    *,
    at: int,
    begun: bool,
    charged: Sequence[ChargedItem],
    key: str,
) -> Iterator[FeeItem]:
    def item(value: _Value, words: str, amount: int, name: str, *, is_discountable: bool = True) -> FeeItem:
        plan = value.plan or after.plan
        written = FeeItem(after.billable, after.id, plan, "proration", words, amount, value.part, at, f"{name}:{key}")
        return replace(written, is_discountable=is_discountable)

    def credit(value: _Value, words: str, name: str) -> Iterator[FeeItem]:
        given = _given_back(value, charged)
        if given.amount:
            yield item(value, words, -given.amount, name, is_discountable=given.is_discountable)

    if old.plan is not None and due.plan is not None and old.plan.id == due.plan.id:
        if old.plan.billing_cycle == LIFETIME:
            # It is paid once, however long it lasts.
            return
        difference = due.amount - old.amount
        longer = due if difference > 0 else old
        extra = longer._replace(part=Span(min(old.part.end, due.part.end), longer.part.end), amount=abs(difference))
        if difference > 0:
            yield item(extra, "proration_charge", difference, "difference")
        elif difference < 0:
            yield from credit(extra, "proration_credit", "difference")
        return
    if old.amount:
        yield from credit(old, "proration_credit" if begun else "reversal", "credit")
    if due.amount:
        yield item(due, "proration_charge" if begun else "fee", due.amount, "charge")


class _Credit(NamedTuple):
    amount: int
    is_discountable: bool


def _given_back(value: _Value, charged: Sequence[ChargedItem]) -> _Credit:
    """Return what is given back of a value: as it was charged last, for that time and plan.

    Of what was invoiced that is the share that was left after discounts, which no later discount concerns. What still
    waits meets the same discounts as its credit.
    """
    plan_id = "" if value.plan is None else value.plan.id
    found = [
        one
        for one in charged
        if one.plan_version_id == plan_id and one.period.start <= value.part.start < one.period.end and one.amount
    ]
    if not found or not found[-1].is_invoiced:
        return _Credit(value.amount, is_discountable=True)
    last = found[-1]
    if last.is_void:
        return _Credit(0, is_discountable=False)
    off = round_half_even(value.amount * last.discounted, last.amount)
    return _Credit(value.amount - off, is_discountable=False)


def _charged_periods(subscription: Subscription, zone: str, at: int, charged_until: int) -> Iterator[Span]:
    """Return the periods of the plan's cycle that have begun or were charged, and have not ended at an instant.

    One that begins at this very instant, and was not charged as yet, is left to the run.
    """
    start = to_micros(max(subscription.started_at, subscription.trial_ends_at or subscription.started_at))
    period = fee_period(subscription, zone, max(at, start))
    if at <= period.start and period.start > charged_until:
        return
    yield period
    while period.end <= charged_until:
        period = fee_period(subscription, zone, period.end)
        yield period


def _value(subscription: Subscription, period: Span, part: Span, grace_period_days: int) -> _Value:
    """Return what a part of a period was charged at, as far as the subscription has agreed to it."""
    start = from_micros(part.start)
    end = part.end if subscription.ends_at is None else min(part.end, to_micros(subscription.ends_at))
    plan = _charged_plan(subscription, period.start, part.start)
    status = subscription.status(start, grace_period_days=grace_period_days)
    if plan is None or end <= part.start or status.has_ended or status is SubscriptionStatus.PENDING:
        return _Value(None, 0, part)
    price = 0 if plan.price is None else plan.price.nanos
    inside = Span(part.start, end)
    return _Value(plan, prorated(price, period, inside), inside)


def _charged_plan(subscription: Subscription, start: int, at: int) -> PlanVersion | None:
    """Return at which plan's price the rest of a period stands: a change inside it counts where it was prorated."""
    plan = subscription.plan_at(from_micros(start))
    for change in subscription.changes:
        if start < to_micros(change.starts_at) <= at and (change.is_prorated or change.kind is ChangeKind.LAPSE):
            plan = change.plan
    return plan


def _fee_key(subscription_id: str, start: int, cycle: str) -> str:
    return f"fee:{subscription_id}:{start}:{cycle}"
