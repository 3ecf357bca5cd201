"""Billing periods of a subscription: when its fees are due, and which month its use is billed in.

Time is cut from an *anchor*: the end of the trial, else the start. Months, quarters and years are counted from it in
the subscription's zone, clamp to short months and come back (31 January, 28 February, 31 March). A change to a plan
with another cycle, and a payment after the subscription had lapsed, set a new anchor. A lifetime plan is paid once.

*Billing instants* are the anchor and each month after it, whatever the cycle, and the end: what was used is billed each
month. A fee is due at those instants at which a period of the plan's cycle begins.

Pure; instants are whole microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from tallystick.money import round_half_even
from tallystick.period import MAX_MICROS, PeriodKind, anniversary_period, from_micros, to_micros

if TYPE_CHECKING:
    from tallystick.plans.terms import PlanVersion, Subscription

__all__ = [
    "CYCLES",
    "LIFETIME",
    "BillingInstant",
    "Fee",
    "Span",
    "billing_instants",
    "effective_end",
    "fee_at",
    "fee_period",
    "next_billing_instant",
    "prorated",
    "usage_month",
]

LIFETIME = "lifetime"
CYCLES = ("monthly", "quarterly", "yearly", LIFETIME)


class Span(NamedTuple):
    """A half-open stretch of time in µs. One that never ends has `MAX_MICROS` as its end."""

    start: int
    end: int


class BillingInstant(NamedTuple):
    """An instant (µs) at which a subscription is billed. `is_end`: nothing follows it."""

    at: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class Fee:
    """What a plan costs for one billing period, due at its start, in nanos."""

    period: Span
    plan: PlanVersion
    amount: int


class _Segment(NamedTuple):
    """How time is cut from one anchor to the next."""

    anchor: int
    end: int
    cycle: str


def fee_period(subscription: Subscription, zone: str, at: int) -> Span:
    """Return the period around an instant that a plan's fee pays for; for a lifetime plan all time from its anchor."""
    return _fee_period(_segment_at(subscription, at), zone, at)


def usage_month(subscription: Subscription, zone: str, at: int) -> Span:
    """Return the month around an instant in which use is priced as a whole; a new anchor cuts it short."""
    segment = _segment_at(subscription, at)
    start, end = _bounds(PeriodKind.MONTHLY, zone, segment.anchor, at)
    return Span(max(start, segment.anchor) if at >= segment.anchor else start, min(end, segment.end))


def effective_end(subscription: Subscription, grace_period_days: int) -> int:
    """Return when a subscription ends: as agreed, as cancelled, or as its grace period runs out; else `MAX_MICROS`."""
    ends = [MAX_MICROS]
    if subscription.ends_at is not None:
        ends.append(to_micros(subscription.ends_at))
    if subscription.payment_failed_at is not None:
        ends.append(to_micros(subscription.payment_failed_at + timedelta(days=grace_period_days)))
    return min(ends)


def next_billing_instant(
    subscription: Subscription, zone: str, *, after: int, grace_period_days: int
) -> BillingInstant | None:
    """Return the first instant after another at which the subscription is billed; None when there is none left."""
    if subscription.is_pending:
        return None
    end = effective_end(subscription, grace_period_days)
    if after >= end:
        return None
    for segment in _segments(subscription):
        if segment.end <= after + 1:
            continue
        at = segment.anchor if after < segment.anchor else _bounds(PeriodKind.MONTHLY, zone, segment.anchor, after)[1]
        if at < segment.end:
            return BillingInstant(end, is_end=True) if end <= at else BillingInstant(at, is_end=False)
    return BillingInstant(end, is_end=True) if end < MAX_MICROS else None


def billing_instants(
    subscription: Subscription, zone: str, *, after: int, until: int, grace_period_days: int
) -> Iterator[BillingInstant]:
    """Return the billing instants in `(after, until]`, in order."""
    while True:
        found = next_billing_instant(subscription, zone, after=after, grace_period_days=grace_period_days)
        if found is None or found.at > until:
            return
        yield found
        after = found.at


def fee_at(subscription: Subscription, zone: str, at: int, *, grace_period_days: int) -> Fee | None:
    """Return the fee that is due at a billing instant; None where none is.

    So it is where no period of the cycle begins, the subscription is paused or no longer in force, or its plan costs
    nothing. A term that ends inside the period is agreed on beforehand, so the fee is for the part until then.
    """
    segment = _segment_at(subscription, at)
    period = _fee_period(segment, zone, at)
    if period.start != at or at < segment.anchor:
        return None
    instant = from_micros(at)
    plan = subscription.plan_at(instant)
    is_in_force = subscription.status(instant, grace_period_days=grace_period_days).is_in_force
    if plan is None or plan.price is None or not plan.price.nanos or not is_in_force:
        return None
    if segment.cycle == LIFETIME:
        return Fee(period, plan, plan.price.nanos)
    part = Span(at, min(period.end, _term_end(subscription)))
    return Fee(part, plan, prorated(plan.price.nanos, period, part))


def prorated(price: int, period: Span, part: Span) -> int:
    """Return the share of a period's price (nanos) that a part of it costs.

    The price of `[start, x)` is price × (x - start) ÷ (end - start), rounded half-even to nanos, and a part is the
    difference of two of these: parts that make up a period add up to its price exactly. A period without end has no
    parts: what was paid for all time is not given back.
    """
    if part == period:
        return price
    if period.end >= MAX_MICROS:
        return 0
    return _price_until(price, period, part.end) - _price_until(price, period, part.start)


def _price_until(price: int, period: Span, until: int) -> int:
    return round_half_even(price * (until - period.start), period.end - period.start)


def _term_end(subscription: Subscription) -> int:
    return MAX_MICROS if subscription.term_ends_at is None else to_micros(subscription.term_ends_at)


def _segments(subscription: Subscription) -> list[_Segment]:
    anchors = [to_micros(max(subscription.started_at, subscription.trial_ends_at or subscription.started_at))]
    for change in subscription.changes:
        if change.anchor_at is not None:
            anchor = to_micros(change.anchor_at)
            # A new anchor before the first one (a change in a trial) takes its place.
            anchors = [one for one in anchors if one < anchor] + [anchor]
    ends = [*anchors[1:], MAX_MICROS]
    return [_Segment(anchor, end, _cycle_at(subscription, anchor)) for anchor, end in zip(anchors, ends, strict=True)]


def _segment_at(subscription: Subscription, at: int) -> _Segment:
    segments = _segments(subscription)
    return next((one for one in reversed(segments) if one.anchor <= at), segments[0])


def _cycle_at(subscription: Subscription, at: int) -> str:
    """Return the cycle in which a subscription is billed from an instant on: of its plan, or of that it has paused."""
    cycle = subscription.first_plan.billing_cycle
    for change in subscription.changes:
        if change.plan is not None and to_micros(change.starts_at) <= at:
            cycle = change.plan.billing_cycle
    return cycle


def _fee_period(segment: _Segment, zone: str, at: int) -> Span:
    if segment.cycle == LIFETIME:
        return Span(segment.anchor, MAX_MICROS)
    return Span(*_bounds(PeriodKind(segment.cycle), zone, segment.anchor, at))


def _bounds(kind: PeriodKind, zone: str, anchor: int, at: int) -> tuple[int, int]:
    return anniversary_period(kind, from_micros(at), from_micros(anchor), zone).bounds_micros
