"""What stands on a payer's account beside its invoices, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from tallystick.money import Money
from tallystick.storage import tables

__all__ = ["InvoiceAccount", "account_of"]


@dataclass(frozen=True, slots=True)
class InvoiceAccount:
    """What a payer's next invoice in a currency begins with.

    `carried` is what earlier invoices left below a cent, or below zero; it is before tax. `credit` pays invoices, and
    comes from overpayments and credit notes.
    """

    billable: str
    currency: str
    carried: Money
    credit: Money

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "billable": self.billable,
            "currency": self.currency,
            "carried": self.carried.to_dict(),
            "credit": self.credit.to_dict(),
        }


def account_of(connection: Connection, billable: str, currency: str) -> InvoiceAccount:
    """Read an account; one that was never used has nothing on it."""
    accounts = tables.billing_accounts
    query = select(accounts).where(accounts.c.billable == billable, accounts.c.currency == currency)
    row = connection.execute(query).first()
    carried, credit = (0, 0) if row is None else (row.carried, row.credit)
    return InvoiceAccount(billable, currency, Money.from_nanos(carried, currency), Money.from_nanos(credit, currency))
