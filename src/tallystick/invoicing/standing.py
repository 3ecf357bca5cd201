"""What became of an invoice's total: paid, credited, refunded, still due; and what that makes of its status.

Pure, in nanos. From these numbers the status follows, and the doctor proves it by them.

What is still due may be taken off by a credit note. What was paid, with money or with credit of the account, may be
given back: as money, no more than came as money, or as credit. Together that is never more than the invoice's total.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple, Self

from tallystick.invoicing.values import InvoiceStatus
from tallystick.money import round_half_even

__all__ = ["CreditTo", "Noted", "Parts", "Standing", "parts_of", "room_for", "tax_share"]


class CreditTo(StrEnum):
    """Where a credit goes: off what is due, to the balance that pays the next invoices, or back as money."""

    DUE = "due"
    BALANCE = "balance"
    REFUND = "refund"


class Standing(NamedTuple):
    """What became of the total of an issued invoice. `amount_credited` is what credit notes took off what was due."""

    total: int
    credit_applied: int
    amount_credited: int
    amount_paid: int
    amount_refunded: int

    @classmethod
    def of(cls, row: Any) -> Self:
        """Read a row of `invoices`."""
        return cls(row.total, row.credit_applied, row.amount_credited, row.amount_paid, row.amount_refunded)

    @property
    def due(self) -> int:
        return self.total - self.credit_applied - self.amount_credited - self.amount_paid

    @property
    def status(self) -> InvoiceStatus:
        """What the invoice is, unless it was voided. One that was credited as a whole, and never paid, is cancelled."""
        if self.due > 0:
            return InvoiceStatus.PENDING
        if self.amount_refunded:
            is_whole = self.amount_refunded == self.amount_paid
            return InvoiceStatus.REFUNDED if is_whole else InvoiceStatus.PARTIALLY_REFUNDED
        if self.total and self.amount_credited == self.total:
            return InvoiceStatus.CANCELLED
        return InvoiceStatus.PAID


class Noted(NamedTuple):
    """What the credit notes of an invoice come to: in all, their tax, and what went to the balance."""

    amount: int = 0
    tax: int = 0
    credits: int = 0


class Parts(NamedTuple):
    """Where a credit note's amount goes."""

    reduces: int = 0
    refunds: int = 0
    credits: int = 0

    @property
    def amount(self) -> int:
        return self.reduces + self.refunds + self.credits


def room_for(standing: Standing, noted: Noted, to: CreditTo | None) -> int:
    """Return how much may still be credited of an invoice, that way; None: first what is due, then to the balance."""
    # What was paid, with money or with credit, and was not given back as yet.
    paid = standing.amount_paid + standing.credit_applied - standing.amount_refunded - noted.credits
    if to is CreditTo.DUE:
        return standing.due
    if to is CreditTo.BALANCE:
        return paid
    if to is CreditTo.REFUND:
        return min(paid, standing.amount_paid - standing.amount_refunded)
    return standing.due + paid


def parts_of(standing: Standing, amount: int, to: CreditTo | None) -> Parts:
    """Return where an amount goes for which there is room."""
    if to is CreditTo.REFUND:
        return Parts(refunds=amount)
    if to is CreditTo.BALANCE:
        return Parts(credits=amount)
    reduces = min(amount, standing.due)
    return Parts(reduces=reduces, credits=amount - reduces)


def tax_share(tax: int, total: int, noted: Noted, amount: int, *, unit: int) -> int:
    """Return how much of an invoice's tax is in the next `amount` credited of it, in whole `unit`s.

    The share of all that is credited so far is rounded, half-even, and what notes before it have said is taken off: so
    the notes of an invoice that is credited as a whole say exactly its tax.
    """
    credited = noted.amount + amount
    return unit * round_half_even(tax * credited, total * unit) - noted.tax
