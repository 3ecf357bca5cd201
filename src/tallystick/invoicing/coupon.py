"""Coupons, and the discounts that billables have of them, as values. Pure; instants are aware UTC."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from tallystick.money import Money
from tallystick.period import from_micros

__all__ = ["Coupon", "CouponDuration", "Discount"]


class CouponDuration(StrEnum):
    """For how long what was redeemed holds: for the next invoice, for some months, or until it is removed."""

    ONCE = "once"
    REPEATING = "repeating"
    FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Coupon:
    """What a code gives: a percentage off, or an amount off each invoice. `plans` None: of whatever is charged.

    It may be redeemed until just before `redeem_by`, and `max_redemptions` times; None: without end.
    """

    id: str
    code: str
    name: str
    percent_off: Decimal | None
    amount_off: Money | None
    duration: CouponDuration
    duration_months: int | None
    max_redemptions: int | None
    redemptions: int
    redeem_by: datetime | None
    plans: tuple[str, ...] | None
    created_at: datetime
    archived_at: datetime | None

    def is_redeemable(self, at: datetime) -> bool:
        """Say whether somebody who has not redeemed it can."""
        is_used_up = self.max_redemptions is not None and self.redemptions >= self.max_redemptions
        return self.archived_at is None and not is_used_up and (self.redeem_by is None or at < self.redeem_by)

    @classmethod
    def from_row(cls, row: Any) -> Coupon:
        """Read a row of `coupons`."""
        return cls(
            id=row.id,
            code=row.code,
            name=row.name,
            percent_off=_percent(row),
            amount_off=_amount(row),
            duration=CouponDuration(row.duration),
            duration_months=row.duration_months,
            max_redemptions=row.redemptions_max,
            redemptions=row.redemptions,
            redeem_by=_instant(row.redeem_by),
            plans=_plans(row),
            created_at=from_micros(row.created_at),
            archived_at=_instant(row.archived_at),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "code": self.code,
            "name": self.name,
            "percent_off": None if self.percent_off is None else str(self.percent_off),
            "amount_off": None if self.amount_off is None else self.amount_off.to_dict(),
            "duration": self.duration.value,
            "duration_months": self.duration_months,
            "max_redemptions": self.max_redemptions,
            "redemptions": self.redemptions,
            "redeem_by": _text(self.redeem_by),
            "plans": None if self.plans is None else list(self.plans),
            "created_at": _text(self.created_at),
            "archived_at": _text(self.archived_at),
        }


@dataclass(frozen=True, slots=True)
class Discount:
    """What a billable has of a coupon it redeemed: for one subscription, or (None) for all that it is invoiced.

    It holds for what falls due in `[starts_at, ends_at)`, as long as `invoices_left` is not 0; None: without end.
    """

    id: str
    coupon_id: str
    code: str
    name: str
    billable: str
    subscription_id: str | None
    percent_off: Decimal | None
    amount_off: Money | None
    duration: CouponDuration
    plans: tuple[str, ...] | None
    starts_at: datetime
    ends_at: datetime | None
    invoices_left: int | None
    redeemed_at: datetime

    def has_ended(self, at: datetime) -> bool:
        """Say whether it holds for nothing that falls due at an instant or later."""
        return self.invoices_left == 0 or (self.ends_at is not None and self.ends_at <= at)

    @classmethod
    def from_row(cls, row: Any) -> Discount:
        """Read a row of `discounts`, with its coupon's columns."""
        return cls(
            id=row.id,
            coupon_id=row.coupon_id,
            code=row.code,
            name=row.name,
            billable=row.billable,
            subscription_id=row.subscription_id,
            percent_off=_percent(row),
            amount_off=_amount(row),
            duration=CouponDuration(row.duration),
            plans=_plans(row),
            starts_at=from_micros(row.starts_at),
            ends_at=_instant(row.ends_at),
            invoices_left=row.invoices_left,
            redeemed_at=from_micros(row.created_at),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "code": self.code,
            "name": self.name,
            "billable": self.billable,
            "subscription_id": self.subscription_id,
            "percent_off": None if self.percent_off is None else str(self.percent_off),
            "amount_off": None if self.amount_off is None else self.amount_off.to_dict(),
            "duration": self.duration.value,
            "plans": None if self.plans is None else list(self.plans),
            "starts_at": _text(self.starts_at),
            "ends_at": _text(self.ends_at),
            "invoices_left": self.invoices_left,
            "redeemed_at": _text(self.redeemed_at),
        }


def _percent(row: Any) -> Decimal | None:
    return None if row.percent_off is None else Decimal(row.percent_off)


def _amount(row: Any) -> Money | None:
    return None if row.amount_off is None else Money.from_nanos(row.amount_off, row.currency)


def _plans(row: Any) -> tuple[str, ...] | None:
    return None if row.plans is None else tuple(json.loads(row.plans))


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
