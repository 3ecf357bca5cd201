"""Redeeming a coupon in a transaction that is open: of its own, or of the subscription that is created with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, or_, select, update

from tallystick.errors import Conflict, CurrencyMismatch, InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.invoicing.coupon import Coupon, CouponDuration, Discount
from tallystick.period import PeriodKind, PeriodRule, from_micros, to_micros
from tallystick.plans.changing import first_anchor
from tallystick.plans.cycle import billing_instants
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.plans.terms import Subscription, Terms

__all__ = ["checked_code", "coupon_row", "discounts_query", "follow_activation", "redeem_in"]

_CODE = re.compile(r"[A-Z0-9_-]{3,64}")


def checked_code(code: object) -> str:
    """Return a code as it is kept: in capitals, since codes are compared without case.

    Raises:
        InvalidInput: it is no code.
    """
    stripped = code.strip() if isinstance(code, str) else ""
    # Only ASCII has one capital for each letter.
    capitals = stripped.upper() if stripped.isascii() else ""
    if not _CODE.fullmatch(capitals):
        raise InvalidInput("code", code, "Give 3 to 64 letters, digits, - or _, such as WELCOME20.")
    return capitals


def coupon_row(connection: Connection, code: str) -> Any:
    """Read the row of a coupon.

    Raises:
        NotFound: there is none of this code.
    """
    coupons = tables.coupons
    row = connection.execute(select(coupons).where(coupons.c.code == code)).first()
    if row is None:
        raise NotFound("coupon", code, "Create it with ts.coupons.create, or correct the code.")
    return row


def discounts_query() -> Select[Any]:
    """Return the query for discounts with their coupons."""
    discounts, coupons = tables.discounts, tables.coupons
    named = ("code", "name", "percent_off", "amount_off", "currency", "duration", "duration_months", "plans")
    return select(discounts, *(coupons.c[name] for name in named)).join(coupons, coupons.c.id == discounts.c.coupon_id)


def redeem_in(
    engine: Engine,
    connection: Connection,
    terms: Terms,
    code: str,
    *,
    subscription: Subscription | None = None,
    is_new: bool = False,
) -> Discount:
    """Redeem a checked code for the billable of these terms, or for one of its subscriptions.

    With a subscription that `is_new`, in the transaction that creates it, it holds from the beginning.

    Raises:
        NotFound: no such coupon. CurrencyMismatch: the subscription's plan is of another currency.
        Conflict: it cannot be redeemed any more, was redeemed by this billable, or is not for this plan.
    """
    now = engine.now()
    coupon = Coupon.from_row(coupon_row(connection, code))
    if subscription is not None:
        _require_fit(coupon, subscription)
    # From here on the coupon's row is locked, so of those who redeem it at once each sees what the one before did.
    if not _count(connection, coupon.id, now):
        raise Conflict(_refusal(Coupon.from_row(coupon_row(connection, code))))
    _require_first(connection, coupon, terms.billable)
    if is_new and subscription is not None:
        starts_at = to_micros(first_anchor(subscription))
        if subscription.is_pending:
            # Its first invoice comes before it begins.
            starts_at = min(starts_at, now)
    else:
        starts_at = _start(engine, connection, terms, subscription, now)
    discount_id = new_id("dsc")
    connection.execute(
        tables.discounts.insert().values(
            id=discount_id,
            coupon_id=coupon.id,
            billable=terms.billable,
            subscription_id=None if subscription is None else subscription.id,
            starts_at=starts_at,
            ends_at=_end(coupon, terms, subscription, starts_at),
            invoices_left=1 if coupon.duration is CouponDuration.ONCE else None,
            created_at=now,
        )
    )
    query = discounts_query().where(tables.discounts.c.id == discount_id)
    return Discount.from_row(connection.execute(query).one())


def follow_activation(connection: Connection, subscription: Subscription, zone: str) -> None:
    """Count the months of what was redeemed with a pending subscription from when it has really begun."""
    discounts = tables.discounts
    waited = discounts_query().where(
        discounts.c.subscription_id == subscription.id,
        discounts.c.ends_at.isnot(None),
        tables.coupons.c.duration == CouponDuration.REPEATING.value,
    )
    for row in connection.execute(waited).all():
        begun = max(row.starts_at, to_micros(first_anchor(subscription)))
        moved = update(discounts).where(discounts.c.id == row.id)
        connection.execute(moved.values(ends_at=_months_after(begun, row.duration_months, zone)))


def _count(connection: Connection, coupon_id: str, now: int) -> bool:
    """Count a redemption, and say whether there was one left: decided by the database, in one statement."""
    coupons = tables.coupons
    counted = update(coupons).where(
        coupons.c.id == coupon_id,
        coupons.c.archived_at.is_(None),
        or_(coupons.c.redeem_by.is_(None), coupons.c.redeem_by > now),
        or_(coupons.c.redemptions_max.is_(None), coupons.c.redemptions < coupons.c.redemptions_max),
    )
    return connection.execute(counted.values(redemptions=coupons.c.redemptions + 1)).rowcount == 1


def _refusal(coupon: Coupon) -> str:
    if coupon.archived_at is not None:
        return f"Coupon {coupon.code} was archived: it cannot be redeemed any more."
    if coupon.max_redemptions is not None and coupon.redemptions >= coupon.max_redemptions:
        return f"Coupon {coupon.code} was redeemed as often as it may be ({coupon.redemptions})."
    return f"Coupon {coupon.code} could be redeemed until {coupon.redeem_by:%Y-%m-%d %H:%M} UTC."


def _require_fit(coupon: Coupon, subscription: Subscription) -> None:
    plan = subscription.plan
    if coupon.plans is not None and plan.slug not in coupon.plans:
        raise Conflict(f"Coupon {coupon.code} is for {', '.join(coupon.plans)}, not for the plan {plan.slug}.")
    if coupon.amount_off is not None and plan.price is not None and plan.currency != coupon.amount_off.currency:
        raise CurrencyMismatch(
            f"Coupon {coupon.code} takes {coupon.amount_off} off, and the plan {plan.slug} is in {plan.currency}.",
            source=coupon.amount_off.currency,
            target=plan.currency,
        )


def _require_first(connection: Connection, coupon: Coupon, billable: str) -> None:
    discounts = tables.discounts
    redeemed = select(discounts.c.created_at).where(
        discounts.c.billable == billable, discounts.c.coupon_id == coupon.id
    )
    at = connection.execute(redeemed).scalar()
    if at is not None:
        raise Conflict(f"{billable} redeemed coupon {coupon.code} on {from_micros(at):%Y-%m-%d}; it can once.")


def _start(engine: Engine, connection: Connection, terms: Terms, subscription: Subscription | None, now: int) -> int:
    """Return from when a discount holds: from now on, and for the last billing instant if it was not invoiced yet.

    So what a worker has not come to yet is discounted, however soon it comes. Of a subscription that is not paid for
    yet: from its first paid period.
    """
    if subscription is not None and not subscription.is_pending:
        first = to_micros(first_anchor(subscription))
        if first > now:
            return first
    wanted = terms.subscriptions if subscription is None else (subscription,)
    rows = tables.subscriptions
    billed = connection.execute(
        select(rows.c.id, rows.c.billed_until).where(rows.c.billable == terms.billable, rows.c.billed_until.isnot(None))
    )
    billed_until = {row.id: row.billed_until for row in billed}
    grace = engine.settings.billing.payment_failure_grace_period_days
    starts_at = now
    for one in wanted:
        if one.id in billed_until:
            zone = terms.billing_zone(one)
            missed = billing_instants(one, zone, after=billed_until[one.id], until=now, grace_period_days=grace)
            starts_at = min(starts_at, max((instant.at for instant in missed), default=now))
    return starts_at


def _end(coupon: Coupon, terms: Terms, subscription: Subscription | None, starts_at: int) -> int | None:
    if coupon.duration_months is None:
        return None
    if subscription is None:
        return _months_after(starts_at, coupon.duration_months, terms.policy.zone)
    begun = max(starts_at, to_micros(first_anchor(subscription)))
    return _months_after(begun, coupon.duration_months, terms.billing_zone(subscription))


def _months_after(at: int, months: int, zone: str) -> int:
    """Return the instant so many calendar months later, as billing periods are cut."""
    rule = PeriodRule(PeriodKind.MONTHLY, zone, from_micros(at))
    period = rule.at(from_micros(at))
    for _ in range(months - 1):
        period = rule.next(period)
    return period.bounds_micros[1]
