"""Taking a billable's payment methods out of the database."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from tallystick.storage import tables

__all__ = ["erase_payment_methods"]


def erase_payment_methods(connection: Connection, billable: str) -> None:
    """Remove every payment method of a billable, also what is left of those that were removed."""
    methods = tables.payment_methods
    own = methods.c.billable == billable
    # In the order in which keys are rotated.
    connection.execute(select(methods.c.id).where(own).order_by(methods.c.id).with_for_update()).all()
    connection.execute(delete(methods).where(own))
