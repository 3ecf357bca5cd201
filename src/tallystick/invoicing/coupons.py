"""`ts.coupons`: codes that take something off invoices, and who has redeemed them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, or_, select, update

from tallystick.errors import Conflict, InvalidInput, NotFound, PlanNotFound
from tallystick.identity import new_id
from tallystick.invoicing.coupon import Coupon, CouponDuration, Discount
from tallystick.invoicing.input import checked_text, payer_reference
from tallystick.invoicing.percentage import checked_percent
from tallystick.invoicing.redeeming import checked_code, coupon_row, discounts_query, redeem_in
from tallystick.money import Money
from tallystick.period import PeriodKind, calendar_period, from_micros, parse_instant, to_micros
from tallystick.plans.revising import current_subscription, terms_of
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Coupons"]

_MONTHS_MAX = 1_200
_REDEMPTIONS_MAX = 2**31 - 1
_NAME_LENGTH_MAX = 100


class Coupons:
    """Creates coupons, redeems them, and says what discounts a billable has.

    Codes are compared without case. A payer is a tenant's slug ("acme") or any billable ("user:42").
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        code: str,
        *,
        percent_off: Decimal | int | str | None = None,
        amount_off: Money | str | None = None,
        name: str | None = None,
        duration: str = "once",
        duration_months: int | None = None,
        max_redemptions: int | None = None,
        redeem_by: str | date | datetime | None = None,
        plans: Iterable[str] | None = None,
    ) -> Coupon:
        """Create a coupon that takes a percentage, or an amount, off each invoice for which it holds.

        With the `duration` "once" it holds for the next invoice, with "repeating" for `duration_months`, with "forever"
        until it is removed. An amount takes off no more than there is, and what is left of it is not kept. With `plans`
        (slugs) it is taken off what these are charged for, and off nothing else. Invoices show its `name`, or its code.

        It can be redeemed until the end of the day `redeem_by` (or just before an instant), `max_redemptions` times by
        all together, and once by each.

        Raises:
            InvalidInput: naming the field. PlanNotFound: no such plan. Conflict: there is a coupon of this code.
        """
        engine = self._engine
        checked = checked_code(code)
        if (percent_off is None) == (amount_off is None):
            raise InvalidInput("percent_off", percent_off, "Give either percent_off or amount_off.")
        percent = None if percent_off is None else checked_percent("percent_off", percent_off)
        amount = None if amount_off is None else _checked_amount(amount_off)
        slugs = None if plans is None else _checked_slugs(plans)
        now = engine.now()
        until = None if redeem_by is None else _checked_until(redeem_by, engine.settings.period.timezone)
        if until is not None and until <= now:
            raise InvalidInput("redeem_by", redeem_by, "It must lie in the future.")
        row = {
            "id": new_id("cpn"),
            "code": checked,
            "name": checked if name is None else checked_text("name", name, length_max=_NAME_LENGTH_MAX),
            "percent_off": None if percent is None else str(percent),
            "amount_off": None if amount is None else amount.nanos,
            "currency": None if amount is None else amount.currency,
            "duration": _checked_duration(duration, duration_months),
            "duration_months": duration_months,
            "redemptions_max": _checked_count("max_redemptions", max_redemptions, most=_REDEMPTIONS_MAX),
            "redemptions": 0,
            "redeem_by": until,
            "plans": None if slugs is None else json.dumps(slugs, separators=(",", ":")),
            "archived_at": None,
            "created_at": now,
        }

        def insert(connection: Connection) -> Coupon:
            _require_plans(connection, slugs or [])
            made = insert_into(connection, tables.coupons).values(**row).on_conflict_do_nothing()
            if connection.execute(made, execution_options={"preserve_rowcount": True}).rowcount != 1:
                raise Conflict(f"There is a coupon {checked} already. Choose another code; codes are never used again.")
            return Coupon.from_row(coupon_row(connection, checked))

        return engine.lane.transact(insert)

    def get(self, code: str) -> Coupon:
        """Return a coupon by its code, also an archived one.

        Raises:
            NotFound: there is none of this code.
        """
        checked = checked_code(code)
        return self._engine.read(lambda connection: Coupon.from_row(coupon_row(connection, checked)))

    def archive(self, code: str) -> Coupon:
        """Let nobody redeem a coupon any more. Discounts of those who did go on. Archiving twice changes nothing.

        Raises:
            NotFound: there is none of this code.
        """
        checked, now = checked_code(code), self._engine.now()
        coupons = tables.coupons

        def close(connection: Connection) -> Coupon:
            open_one = update(coupons).where(coupons.c.code == checked, coupons.c.archived_at.is_(None))
            connection.execute(open_one.values(archived_at=now))
            return Coupon.from_row(coupon_row(connection, checked))

        return self._engine.lane.transact(close)

    def redeem(self, billable: object, code: str, *, subscription: str | None = None) -> Discount:
        """Redeem a coupon for all that a payer is invoiced, or for one `subscription` (its id) alone.

        It holds for what falls due from now on, and for what has just fallen due and is not on an invoice yet; of a
        subscription in its trial, from its first paid period on. Months are counted from then, in the account's zone.
        To have it on the first invoice in any case, create the subscription with its `coupon`. Several discounts are
        taken off in the order in which they were redeemed, each from what those before it have left.

        Raises:
            NotFound: no such coupon, or no such subscription of this payer.
            Conflict: it is archived, used up, out of date, not for this plan, or was redeemed by this payer before; or
                the subscription has ended.
            CurrencyMismatch: it takes off an amount in another currency than that of the subscription's plan.
        """
        engine = self._engine
        checked = checked_code(code)
        reference = payer_reference(engine, billable)

        def work(connection: Connection) -> Discount:
            terms = terms_of(engine, connection, reference)
            if subscription is None:
                return redeem_in(engine, connection, terms, checked)
            at = from_micros(engine.now())
            followed = current_subscription(terms, at, subscription)
            if followed.ends_at is not None and followed.ends_at <= at:
                raise Conflict(f"Subscription {subscription} ended at {followed.ends_at:%Y-%m-%d %H:%M} UTC.")
            return redeem_in(engine, connection, terms, checked, subscription=followed)

        return engine.lane.transact(work)

    def discounts(self, billable: object, *, include_ended: bool = False) -> list[Discount]:
        """Return what discounts a payer has, in the order in which they are taken off."""
        reference, at = payer_reference(self._engine, billable), self._engine.clock.now()
        rows = tables.discounts.c
        query = discounts_query().where(rows.billable == reference).order_by(rows.created_at, rows.id)
        found = self._engine.read(lambda connection: connection.execute(query).all())
        discounts = [Discount.from_row(row) for row in found]
        return [one for one in discounts if include_ended or not one.has_ended(at)]

    def remove(self, discount_id: str) -> Discount:
        """End a discount now. Invoices that have it keep it, and its coupon stays redeemed.

        Raises:
            NotFound: no such discount.
        """
        at = self._engine.clock.now()
        discounts = tables.discounts
        now = self._engine.now()

        def end(connection: Connection) -> Discount:
            query = discounts_query().where(discounts.c.id == discount_id)
            row = connection.execute(query.with_for_update(of=discounts)).first()
            if row is None:
                raise NotFound("discount", discount_id, "List them with ts.coupons.discounts(billable).")
            if not Discount.from_row(row).has_ended(at):
                ended = update(discounts).where(discounts.c.id == discount_id)
                connection.execute(ended.values(ends_at=now))
            return Discount.from_row(connection.execute(query).one())

        return self._engine.lane.transact(end)

    # Last: inside the class `list` is this method from here on.
    def list(self, *, active_only: bool = False) -> list[Coupon]:
        """Return all coupons, the newest first; with `active_only`, those that somebody could still redeem."""
        coupons, now = tables.coupons.c, self._engine.now()
        query = select(tables.coupons).order_by(coupons.created_at.desc(), coupons.id.desc())
        if active_only:
            query = query.where(
                coupons.archived_at.is_(None),
                or_(coupons.redeem_by.is_(None), coupons.redeem_by > now),
                or_(coupons.redemptions_max.is_(None), coupons.redemptions < coupons.redemptions_max),
            )
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [Coupon.from_row(row) for row in rows]


def _checked_amount(amount: object) -> Money:
    if isinstance(amount, str):
        try:
            amount = Money.parse(amount)
        except InvalidInput as error:
            raise InvalidInput("amount_off", amount, error.remedy) from None
    if not isinstance(amount, Money) or amount.nanos <= 0:
        raise InvalidInput("amount_off", amount, 'Give money above zero: Money("10", "USD"), or "10 USD".')
    return amount


def _checked_until(redeem_by: str | date | datetime, zone: str) -> int:
    """Return the instant (µs) before which a coupon can be redeemed: an instant, or the end of a day."""
    day = redeem_by if isinstance(redeem_by, date) and not isinstance(redeem_by, datetime) else None
    if isinstance(redeem_by, str):
        with suppress(ValueError):
            day = date.fromisoformat(redeem_by.strip())
    if day is None:
        return to_micros(parse_instant(redeem_by, field="redeem_by"))
    inside = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone))
    return calendar_period(PeriodKind.DAILY, inside, zone).bounds_micros[1]


def _checked_duration(duration: object, months: object) -> str:
    if duration not in tuple(CouponDuration):
        known = ", ".join(repr(str(one)) for one in CouponDuration)
        raise InvalidInput("duration", duration, f"Use one of {known}.")
    if duration == CouponDuration.REPEATING:
        if months is None:
            raise InvalidInput("duration_months", None, "Say for how many months it repeats.")
        _checked_count("duration_months", months, most=_MONTHS_MAX)
    elif months is not None:
        raise InvalidInput("duration_months", months, 'Only with duration="repeating".')
    return str(duration)


def _checked_count(field: str, number: object, *, most: int) -> int | None:
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
        raise InvalidInput(field, number, f"Give a whole number from 1 to {most:,}.")
    return number


def _checked_slugs(plans: object) -> list[str]:
    slugs = [] if isinstance(plans, str) or not isinstance(plans, Iterable) else [*plans]
    if not slugs or not all(isinstance(slug, str) for slug in slugs):
        raise InvalidInput("plans", plans, 'Give the slugs of plans: ["pro", "team"].')
    return sorted(set(slugs))


def _require_plans(connection: Connection, slugs: list[str]) -> None:
    plans = tables.plans
    known = set(connection.execute(select(plans.c.slug).where(plans.c.slug.in_(slugs))).scalars())
    for slug in slugs:
        if slug not in known:
            raise PlanNotFound(slug, "A coupon for a plan that is not there would take nothing off.")
