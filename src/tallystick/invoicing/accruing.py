"""Fees and prorations as items that wait for the next invoice: written once, and read again where they are changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update

from tallystick.invoicing.fees import ChargedItem, FeeItem
from tallystick.invoicing.values import InvoiceStatus
from tallystick.period import MAX_MICROS, MIN_MICROS, from_micros
from tallystick.plans.cycle import Span
from tallystick.plans.terms import Subscription
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

__all__ = [
    "charged_items",
    "charged_until",
    "free_keys",
    "reversals_after",
    "withdraw_credits",
    "write_items",
]


def reversals_after(connection: Connection, subscription: Subscription, end: int) -> list[FeeItem]:
    """Return what gives back fees that were charged ahead for periods that begin after a subscription has expired.

    Their keys are free after that: if it comes back, these periods are charged again.
    """
    ahead = [
        one
        for one in charged_items(connection, subscription.id, end)
        if one.period.start >= end and not one.is_void and one.is_fee
    ]
    free_keys(connection, [one.id for one in ahead])
    return [
        FeeItem(
            billable=subscription.billable,
            subscription_id=subscription.id,
            plan=subscription.seen_at(from_micros(end)).plan,
            kind="proration",
            words="reversal",
            amount=-(one.amount - (one.discounted if one.is_invoiced else 0)),
            period=one.period,
            due_at=end,
            key=f"reversal:{one.id}",
            is_discountable=not one.is_invoiced,
        )
        for one in ahead
    ]


def free_keys(connection: Connection, item_ids: Sequence[str]) -> None:
    """Let fees that were given back be charged again: their items keep no key that a new one would have."""
    items = tables.invoice_items
    for item_id in item_ids:
        connection.execute(update(items).where(items.c.id == item_id).values(key=f"given back:{item_id}"))


def charged_until(connection: Connection, subscription_id: str) -> int:
    """Return where the last period begins whose fee was charged, and not given back as a whole (µs)."""
    items = tables.invoice_items.c
    fees = and_(items.subscription_id == subscription_id, items.kind == "fee", items.key.startswith("fee:"))
    last = connection.execute(select(func.max(items.period_start)).where(fees)).scalar()
    return MIN_MICROS if last is None else int(last)


def charged_items(connection: Connection, subscription_id: str, at: int) -> list[ChargedItem]:
    """Read what was charged of a subscription for the time after an instant, in order."""
    items, invoices, notes = tables.invoice_items, tables.invoices, tables.credit_notes
    credited = select(func.sum(notes.c.amount)).where(notes.c.invoice_id == invoices.c.id).scalar_subquery()
    query = (
        select(items, invoices.c.status, (credited >= invoices.c.total).label("is_credited"))
        .join(invoices, invoices.c.id == items.c.invoice_id, isouter=True)
        .where(
            items.c.subscription_id == subscription_id,
            items.c.kind.in_(("fee", "proration")),
            items.c.amount > 0,
            or_(items.c.period_end.is_(None), items.c.period_end > at),
        )
        .order_by(items.c.created_at, items.c.id)
    )
    return [
        ChargedItem(
            row.id,
            row.plan_version_id,
            Span(
                MIN_MICROS if row.period_start is None else row.period_start,
                MAX_MICROS if row.period_end is None else row.period_end,
            ),
            row.amount,
            row.discounted,
            is_fee=row.kind == "fee",
            is_invoiced=row.status not in (None, InvoiceStatus.DRAFT.value),
            is_void=row.status == InvoiceStatus.CANCELLED.value or bool(row.is_credited),
        )
        for row in connection.execute(query)
    ]


def withdraw_credits(connection: Connection, invoice_id: str) -> None:
    """Drop credits that still wait and give back what an invoice has charged: it is voided, and charges nothing."""
    items = tables.invoice_items
    given, charged = items.alias("given"), items.alias("charged")
    of_it = exists().where(
        charged.c.invoice_id == invoice_id,
        charged.c.amount > 0,
        charged.c.subscription_id == given.c.subscription_id,
        charged.c.plan_version_id == given.c.plan_version_id,
        or_(charged.c.period_start.is_(None), charged.c.period_start <= given.c.period_start),
        or_(charged.c.period_end.is_(None), charged.c.period_end > given.c.period_start),
    )
    waiting = and_(given.c.invoice_id.is_(None), given.c.kind == "proration", given.c.amount < 0, of_it)
    found = connection.execute(select(given.c.id).where(waiting)).scalars().all()
    if found:
        connection.execute(delete(items).where(items.c.id.in_(found)))


def write_items(connection: Connection, items: Iterable[FeeItem], at: int) -> int:
    """Write items, each once. Returns how many are new."""
    rows = [item.row(at) for item in items]
    if not rows:
        return 0
    statement = insert_into(connection, tables.invoice_items).on_conflict_do_nothing()
    connection.execute(statement, rows)
    return len(rows)
