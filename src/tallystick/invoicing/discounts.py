"""The discounts that hold for an invoice, and how they are used up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, select, update

from tallystick.invoicing.totals import AppliedDiscount
from tallystick.storage import tables

NONE_USED: Mapping[str, int] = MappingProxyType({})

__all__ = ["holding_discounts", "load_discounts", "use_discounts"]


def load_discounts(connection: Connection, billables: Iterable[str]) -> dict[str, list[Any]]:
    """Read what billables have redeemed, with the coupons, the oldest first; by billable."""
    discounts, coupons = tables.discounts, tables.coupons
    named = [coupons.c[name] for name in ("code", "name", "percent_off", "amount_off", "currency", "plans")]
    found: dict[str, list[Any]] = {}
    ordered = list(billables)
    for start in range(0, len(ordered), 500):
        query = (
            select(discounts, *named)
            .join(coupons, coupons.c.id == discounts.c.coupon_id)
            .where(discounts.c.billable.in_(ordered[start : start + 500]))
            .order_by(discounts.c.created_at, discounts.c.id)
        )
        for row in connection.execute(query):
            found.setdefault(row.billable, []).append(row)
    return found


def holding_discounts(
    rows: Iterable[Any], currency: str, at: int, used: Mapping[str, int] = NONE_USED
) -> list[AppliedDiscount]:
    """Return which of the discounts that were read hold at an instant (µs), for an invoice in a currency.

    `used` says on how many invoices each was used since it was read.
    """
    return [
        AppliedDiscount(
            id=row.id,
            name=row.name,
            percent=None if row.percent_off is None else Decimal(row.percent_off),
            amount=row.amount_off,
            subscription_id=row.subscription_id,
            plans=None if row.plans is None else frozenset(json.loads(row.plans)),
        )
        for row in rows
        if row.starts_at <= at
        and (row.ends_at is None or at < row.ends_at)
        and (row.invoices_left is None or row.invoices_left > used.get(row.id, 0))
        and (row.percent_off is not None or row.currency == currency)
    ]


def use_discounts(connection: Connection, discount_ids: Iterable[str]) -> None:
    """Note that an invoice has used discounts: those that hold for so many invoices have one less."""
    discounts = tables.discounts
    for discount_id in discount_ids:
        counted = update(discounts).where(discounts.c.id == discount_id, discounts.c.invoices_left.isnot(None))
        connection.execute(counted.values(invoices_left=discounts.c.invoices_left - 1))
