"""What has expired and is not booked yet, as the booking will find it (`posting.expire_lapsed`), in one query."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Subquery, and_, case, cast, func, literal, select

from tallystick.credits.listing import IS_OPEN
from tallystick.period import MAX_MICROS
from tallystick.storage import tables

__all__ = ["in_burn_order", "is_unrestricted", "lapsed_grants"]

_NEVER = literal(MAX_MICROS, BigInteger)


def lapsed_grants(at: int, *, expiring_first: bool) -> Subquery:
    """Select the grants of which something has lapsed by `at` (µs), with what is `lost` of each.

    What holds have pinned is not lost. A debt is paid before anything is lost: by the grants that are free for any use,
    in the order in which they burn.
    """
    grants, accounts = tables.grants, tables.credit_accounts
    free = grants.c.remaining - grants.c.held
    paying = case((is_unrestricted(), free), else_=0)
    paid_until = func.sum(paying).over(
        partition_by=(grants.c.billable, grants.c.unit),
        order_by=in_burn_order(expiring_first=expiring_first),
        rows=(None, 0),
    )
    found = (
        select(
            *(grants.c[name] for name in ("id", "unit", "kind", "reason", "feature", "amount", "expires_at")),
            free.label("free"),
            paying.label("paying"),
            paid_until.label("paid_until"),
            (-accounts.c.overdraft).label("owed"),
        )
        .join(accounts, and_(accounts.c.billable == grants.c.billable, accounts.c.unit == grants.c.unit))
        .where(IS_OPEN, grants.c.expires_at.isnot(None), grants.c.expires_at <= at, grants.c.remaining > grants.c.held)
        .subquery("found")
    )
    columns = found.c
    paid = _least(columns.paid_until, columns.owed) - _least(columns.paid_until - columns.paying, columns.owed)
    lost: Select[Any] = select(
        *(columns[name] for name in ("id", "unit", "kind", "reason", "feature", "amount", "expires_at")),
        cast(columns.free - paid, BigInteger).label("lost"),
    ).where(columns.free > paid)
    return lost.subquery("lapsed")


def in_burn_order(*, expiring_first: bool) -> tuple[ColumnElement[Any], ...]:
    """Return the columns in whose order grants burn, as `account.burn_order` says it."""
    grants = tables.grants.c
    expiry = (func.coalesce(grants.expires_at, _NEVER),) if expiring_first else ()
    return (grants.priority, *expiry, grants.created_at, grants.id)


def is_unrestricted() -> ColumnElement[bool]:
    """Select grants that any use may take all of, so that they also pay debts."""
    grants = tables.grants.c
    return and_(grants.feature.is_(None), grants.subscription_id.is_(None), grants.limit_amount.is_(None))


def _least(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((one < other, one), else_=other)
