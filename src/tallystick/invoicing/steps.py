"""What is done once for an invoice, by whoever writes the step's row first: reminders, dunning, a failed payment."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, exists

from tallystick.storage import tables
from tallystick.storage.rows import insert_into

__all__ = ["has_step", "take_steps"]


def take_steps(connection: Connection, steps: Iterable[tuple[str, str]], at: int) -> set[tuple[str, str]]:
    """Take steps, by invoice and name. Returns those that nobody had taken before."""
    table = tables.invoice_steps
    rows = [{"invoice_id": invoice_id, "step": step, "created_at": at} for invoice_id, step in steps]
    if not rows:
        return set()
    insert = insert_into(connection, table).values(rows).on_conflict_do_nothing()
    taken = connection.execute(insert.returning(table.c.invoice_id, table.c.step))
    return {(row.invoice_id, row.step) for row in taken}


def has_step(*names: str) -> ColumnElement[bool]:
    """Return the condition for invoices of which any of these steps was taken."""
    steps = tables.invoice_steps.c
    return exists().where(steps.invoice_id == tables.invoices.c.id, steps.step.in_(names))
