"""Invoices from the database, with their lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from tallystick.errors import NotFound
from tallystick.invoicing.values import Invoice, LineItem, PaymentKind
from tallystick.period import to_micros
from tallystick.storage import tables
from tallystick.storage.rows import portions

__all__ = ["invoice_of", "invoices_of_rows", "line_row", "load_invoices", "locked_invoice"]


def load_invoices(connection: Connection, invoice_ids: Sequence[str], *, now: int) -> dict[str, Invoice]:
    """Read invoices by their ids."""
    invoices = tables.invoices
    rows = [
        row
        for some in portions(invoice_ids)
        for row in connection.execute(select(invoices).where(invoices.c.id.in_(some)))
    ]
    return {one.id: one for one in invoices_of_rows(connection, rows, now=now)}


def invoices_of_rows(connection: Connection, rows: Sequence[Any], *, now: int) -> list[Invoice]:
    """Read the rest of invoices whose rows were read, in their order."""
    ids = [row.id for row in rows]
    lines: dict[str, list[LineItem]] = {}
    currencies = {row.id: row.currency for row in rows}
    external: dict[str, str] = {}
    for some in portions(ids):
        table = tables.invoice_lines
        for row in connection.execute(
            select(table).where(table.c.invoice_id.in_(some)).order_by(table.c.invoice_id, table.c.position)
        ):
            lines.setdefault(row.invoice_id, []).append(LineItem.from_row(row, currencies[row.invoice_id]))
        paid = tables.payments
        for row in connection.execute(
            select(paid.c.invoice_id, paid.c.external_id)
            .where(paid.c.invoice_id.in_(some), paid.c.kind == PaymentKind.PAYMENT, paid.c.external_id.isnot(None))
            .order_by(paid.c.created_at, paid.c.id)
        ):
            external[row.invoice_id] = row.external_id
    return [
        Invoice.from_row(row, lines.get(row.id, ()), now=now, external_payment_id=external.get(row.id)) for row in rows
    ]


def invoice_of(connection: Connection, name: str, *, now: int) -> Invoice:
    """Read one invoice, by its id or its number.

    Raises:
        NotFound: there is none.
    """
    return invoices_of_rows(connection, [_row(connection, _named(name), name)], now=now)[0]


def locked_invoice(connection: Connection, name: str) -> Any:
    """Read the row of an invoice, by its id or its number, and keep others from changing it in this transaction.

    Raises:
        NotFound: there is none.
    """
    return _row(connection, _named(name), name, locks=True)


def _named(name: str) -> ColumnElement[bool]:
    invoices = tables.invoices.c
    return invoices.id == name if str(name).startswith("inv_") else invoices.number == name


def _row(connection: Connection, condition: ColumnElement[bool], name: str, *, locks: bool = False) -> Any:
    query = select(tables.invoices).where(condition)
    row = connection.execute(query.with_for_update() if locks else query).first()
    if row is None:
        raise NotFound("invoice", name, "Give its id, or its number once it has been issued.")
    return row


def line_row(invoice_id: str, position: int, line: LineItem, quantity: int) -> dict[str, Any]:
    """Return a line as a row of `invoice_lines`; `quantity` in millionths."""
    return {
        "invoice_id": invoice_id,
        "position": position,
        "kind": line.kind.value,
        "description": line.description,
        "quantity": quantity,
        "amount": line.amount.nanos,
        "subscription_id": line.subscription_id,
        "plan_version_id": line.plan_version_id,
        "resource_type": line.resource_type,
        "item_id": line.item_id,
        "discount_id": line.discount_id,
        "details": json.dumps(dict(line.details), separators=(",", ":"), ensure_ascii=False) if line.details else None,
        "period_start": _micros(line.period_start),
        "period_end": _micros(line.period_end),
    }


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else to_micros(instant)
