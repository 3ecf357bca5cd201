"""What waits to be invoiced: items, what usage prices have charged, and overage. Read, and given to an invoice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, Update, and_, bindparam, func, or_, select, update

from tallystick.invoicing.lines import Charge
from tallystick.invoicing.values import LineKind
from tallystick.quantity import MILLIONTHS
from tallystick.storage import tables
from tallystick.storage.rows import portions

__all__ = [
    "Waiting",
    "WaitingItem",
    "is_waiting_anywhere",
    "move_use",
    "release_waiting",
    "take_use",
    "use_of_invoices",
    "waiting_items",
]


class Waiting(NamedTuple):
    """Whose charges, and until when (µs): items that are due by `items_until`, and use before `use_before`.

    Charges of the subscriptions in `others` wait for invoices of their own. With a billing driver overage is its.
    """

    billable: str
    items_until: int
    use_before: int
    others: tuple[str, ...] = ()
    bills_overage: bool = True


class WaitingItem(NamedTuple):
    """An item that no invoice has, in a currency, from when it is due (µs)."""

    currency: str
    due_at: int
    charge: Charge

    def fits(self, waiting: Waiting) -> bool:
        """Say whether it belongs to what is asked for."""
        return self.due_at <= waiting.items_until and self.charge.subscription_id not in waiting.others


def waiting_items(connection: Connection, waiting: Sequence[Waiting]) -> dict[str, list[WaitingItem]]:
    """Read the items that wait, in the order in which they were added; by billable.

    They are locked until the transaction ends: no other run puts them on an invoice of its own.
    """
    items = tables.invoice_items.c
    found: dict[str, list[WaitingItem]] = {}
    until = max((one.items_until for one in waiting), default=0)
    for some in portions({one.billable for one in waiting}):
        condition = and_(items.billable.in_(some), items.invoice_id.is_(None), items.due_at <= until)
        for row in connection.execute(_items_query().where(condition)):
            found.setdefault(row.billable, []).append(WaitingItem(row.currency, row.due_at, _item_charge(row)))
    return found


def take_use(connection: Connection, taken: Mapping[str, Waiting]) -> None:
    """Give the use and overage that waits to invoices, by their ids, in order: each row to the first that asks for it.

    What is recorded meanwhile is either taken or waits on, so what an invoice bills is read after this.
    """
    for table in (tables.usage_charges, tables.overages):
        asked = [(name, one) for name, one in taken.items() if table is tables.usage_charges or one.bills_overage]
        for others, some in groupby(asked, key=lambda one: len(one[1].others)):
            rows = [
                {
                    "of_invoice": invoice_id,
                    "of_billable": one.billable,
                    "before": one.use_before,
                    **{f"other_{number}": subscription_id for number, subscription_id in enumerate(one.others)},
                }
                for invoice_id, one in some
            ]
            connection.execute(_taking(table, others), rows)


def move_use(connection: Connection, invoice_id: str, currency: str, to: str | None) -> None:
    """Give the use that an invoice has in a currency to another one; None: let it wait again."""
    for table in (tables.usage_charges, tables.overages):
        own = and_(table.c.invoice_id == invoice_id, table.c.currency == currency)
        connection.execute(update(table).where(own).values(invoice_id=to))


def release_waiting(connection: Connection, invoice_id: str) -> None:
    """Let what was given to a draft wait again, and count what it used of discounts as unused."""
    for table in (tables.invoice_items, tables.usage_charges, tables.overages):
        connection.execute(update(table).where(table.c.invoice_id == invoice_id).values(invoice_id=None))
    discounts, lines = tables.discounts, tables.invoice_lines
    used = select(lines.c.discount_id).where(lines.c.invoice_id == invoice_id, lines.c.discount_id.isnot(None))
    counted = update(discounts).where(discounts.c.id.in_(used), discounts.c.invoices_left.isnot(None))
    connection.execute(counted.values(invoices_left=discounts.c.invoices_left + 1))


def use_of_invoices(connection: Connection, invoice_ids: Iterable[str]) -> dict[str, dict[str, list[Charge]]]:
    """Return the sums of use and overage that were given to invoices; by invoice, then by currency."""
    found: dict[str, dict[str, list[Charge]]] = {}
    for some in portions(invoice_ids):
        for charges_of in (_usage_charges, _overage_charges):
            for invoice_id, currency, charge in charges_of(connection, some):
                found.setdefault(invoice_id, {}).setdefault(currency, []).append(charge)
    return found


def is_waiting_anywhere(table: Table) -> ColumnElement[bool]:
    """Return the condition for rows of items, use or overage that no invoice, and no gateway, charges as yet."""
    if table is tables.overages:
        # What may have reached a gateway is charged there.
        return and_(table.c.invoice_id.is_(None), table.c.sync_started_at.is_(None), table.c.is_synced.is_(False))
    return table.c.invoice_id.is_(None)


@cache
def _taking(table: Table, others: int) -> Update:
    """Return the statement that gives waiting use to an invoice, but for that of so many other subscriptions."""
    use = table.c
    own = and_(
        use.billable == bindparam("of_billable"), is_waiting_anywhere(table), use.occurred_at < bindparam("before")
    )
    if others:
        of_nobody = and_(*(use.subscription_id != bindparam(f"other_{number}") for number in range(others)))
        own = and_(own, or_(use.subscription_id.is_(None), of_nobody))
    return update(table).where(own).values(invoice_id=bindparam("of_invoice"))


@cache
def _items_query() -> Select[Any]:
    items = tables.invoice_items
    # In one order, so that two runs that want the same wait for each other, and never both.
    return select(items).order_by(items.c.created_at, items.c.id).with_for_update()


def _item_charge(row: Row[Any]) -> Charge:
    details: Mapping[str, Any] = json.loads(row.details) if row.details else {}
    return Charge(
        kind=LineKind(row.kind),
        words=str(details.get("words", "manual")),
        amount=row.amount,
        quantity=row.quantity,
        description=row.description,
        details=MappingProxyType(details),
        subscription_id=row.subscription_id,
        plan_version_id=row.plan_version_id,
        plan=details.get("slug"),
        item_id=row.id,
        is_discountable=bool(row.is_discountable),
        period_start=row.period_start,
        period_end=row.period_end,
    )


@cache
def _usage_query() -> Select[Any]:
    use, versions, plans = tables.usage_charges.c, tables.plan_versions, tables.plans
    grouped = (
        use.invoice_id,
        use.currency,
        use.subscription_id,
        use.plan_version_id,
        use.resource_type,
        use.period_start,
        use.period_end,
        plans.c.slug,
        plans.c.name,
    )
    return (
        select(*grouped, func.sum(use.quantity).label("quantity"), func.sum(use.amount).label("amount"))
        .join_from(tables.usage_charges, versions, versions.c.id == use.plan_version_id)
        .join(plans, plans.c.id == versions.c.plan_id)
        .where(use.invoice_id.in_(bindparam("invoice_ids", expanding=True)))
        .group_by(*grouped)
    )


def _usage_charges(connection: Connection, invoice_ids: Sequence[str]) -> Iterator[tuple[str, str, Charge]]:
    for row in connection.execute(_usage_query(), {"invoice_ids": invoice_ids}):
        details = {"resource": row.resource_type, "plan": row.name, "slug": row.slug}
        yield (
            row.invoice_id,
            row.currency,
            Charge(
                kind=LineKind.USAGE,
                words="usage",
                amount=int(row.amount),
                quantity=int(row.quantity),
                details=MappingProxyType(details),
                subscription_id=row.subscription_id,
                plan_version_id=row.plan_version_id,
                plan=row.slug,
                resource_type=row.resource_type,
                period_start=row.period_start,
                period_end=row.period_end,
            ),
        )


@cache
def _overage_query() -> Select[Any]:
    over, versions, plans = tables.overages.c, tables.plan_versions, tables.plans
    grouped = (
        over.invoice_id,
        over.currency,
        over.subscription_id,
        over.plan_version_id,
        over.limit_type,
        over.price_per_1k_tokens,
        over.period_start,
        over.period_end,
        plans.c.slug,
        plans.c.name,
    )
    return (
        select(*grouped, func.sum(over.tokens).label("tokens"), func.sum(over.amount).label("amount"))
        .join_from(tables.overages, versions, versions.c.id == over.plan_version_id, isouter=True)
        .join(plans, plans.c.id == versions.c.plan_id, isouter=True)
        .where(over.invoice_id.in_(bindparam("invoice_ids", expanding=True)))
        .group_by(*grouped)
    )


def _overage_charges(connection: Connection, invoice_ids: Sequence[str]) -> Iterator[tuple[str, str, Charge]]:
    for row in connection.execute(_overage_query(), {"invoice_ids": invoice_ids}):
        is_of_tokens = row.limit_type == "tokens"
        details = {"plan": row.name or "", "slug": row.slug, "price_per_1k_tokens": row.price_per_1k_tokens}
        yield (
            row.invoice_id,
            row.currency,
            Charge(
                kind=LineKind.OVERAGE,
                words="overage_tokens" if is_of_tokens else "overage_cost",
                amount=int(row.amount),
                quantity=int(row.tokens) * MILLIONTHS if is_of_tokens else MILLIONTHS,
                details=MappingProxyType(details),
                subscription_id=row.subscription_id,
                plan_version_id=row.plan_version_id,
                plan=row.slug,
                resource_type=row.limit_type,
                period_start=row.period_start,
                period_end=row.period_end,
            ),
        )
