"""Invoices, their lines, payments and credit notes, as values. Pure; instants are aware UTC.

What an invoice says from its issue on never changes. What is paid, credited and refunded of it does, and with it its
status; whether it is overdue follows from the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from tallystick.errors import InvalidInput
from tallystick.money import Money, round_half_even
from tallystick.period import from_micros
from tallystick.quantity import from_millionths

__all__ = [
    "CreditNote",
    "Invoice",
    "InvoicePage",
    "InvoiceStatus",
    "LineItem",
    "LineKind",
    "Party",
    "Payment",
    "PaymentKind",
]


class InvoiceStatus(StrEnum):
    """Where an invoice is in its life. OVERDUE is a pending one after its due date."""

    DRAFT = "draft"
    PENDING = "pending"
    PAID = "paid"
    OVERDUE = "overdue"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    PARTIALLY_REFUNDED = "partially_refunded"

    @property
    def is_open(self) -> bool:
        """Whether something is still owed."""
        return self in (InvoiceStatus.PENDING, InvoiceStatus.OVERDUE)


class LineKind(StrEnum):
    """What a line charges for. ITEM is whatever an operator added by hand; DISCOUNT takes something off."""

    FEE = "fee"
    PRORATION = "proration"
    USAGE = "usage"
    OVERAGE = "overage"
    ITEM = "item"
    DISCOUNT = "discount"


@dataclass(frozen=True, slots=True)
class LineItem:
    """One line of an invoice, exact to 10⁻⁹ of its currency. `quantity` may be 0 where nothing is counted."""

    kind: LineKind
    description: str
    quantity: int | Decimal
    amount: Money
    subscription_id: str | None = None
    plan_version_id: str | None = None
    resource_type: str | None = None
    item_id: str | None = None
    discount_id: str | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def amount_cents(self) -> int:
        """The amount in minor units, rounded half-even: for display. The exact amounts are what adds up."""
        return self.amount.minor_units()

    @property
    def unit_amount(self) -> Money | None:
        """The amount of one unit, rounded half-even to nanos; None where nothing is counted, or it is out of range."""
        if not self.quantity:
            return None
        numerator, denominator = Decimal(self.quantity).as_integer_ratio()
        try:
            return Money.from_nanos(round_half_even(self.amount.nanos * denominator, numerator), self.amount.currency)
        except InvalidInput:
            return None

    @classmethod
    def from_row(cls, row: Any, currency: str) -> LineItem:
        """Read a row of `invoice_lines`."""
        return cls(
            kind=LineKind(row.kind),
            description=row.description,
            quantity=from_millionths(row.quantity),
            amount=Money.from_nanos(row.amount, currency),
            subscription_id=row.subscription_id,
            plan_version_id=row.plan_version_id,
            resource_type=row.resource_type,
            item_id=row.item_id,
            discount_id=row.discount_id,
            period_start=_instant(row.period_start),
            period_end=_instant(row.period_end),
            details=_mapping(row.details),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "kind": self.kind.value,
            "description": self.description,
            "quantity": str(self.quantity).rstrip("0").rstrip(".") if "." in str(self.quantity) else str(self.quantity),
            "amount": self.amount.to_dict(),
            "amount_cents": self.amount_cents,
            "resource_type": self.resource_type,
            "period_start": _text(self.period_start),
            "period_end": _text(self.period_end),
        }


@dataclass(frozen=True, slots=True)
class Party:
    """One side of an invoice: who sends it, or to whom it is addressed. `address` is its lines."""

    name: str = ""
    address: tuple[str, ...] = ()
    country: str | None = None
    email: str | None = None
    tax_id: str | None = None
    website: str | None = None
    footer: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Party:
        """Read what `to_dict` wrote."""
        return cls(**{**values, "address": tuple(values.get("address") or ())})

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "name": self.name,
            "address": list(self.address),
            "country": self.country,
            "email": self.email,
            "tax_id": self.tax_id,
            "website": self.website,
            "footer": self.footer,
        }


class PaymentKind(StrEnum):
    """Which way the money went: to the seller, or back."""

    PAYMENT = "payment"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that was paid for an invoice, or paid back. `external_id` is what the gateway calls it."""

    id: str
    invoice_id: str
    billable: str
    kind: PaymentKind
    amount: Money
    method: str | None
    external_id: str | None
    note: str | None
    occurred_at: datetime
    created_at: datetime

    @classmethod
    def from_row(cls, row: Any) -> Payment:
        """Read a row of `payments`."""
        return cls(
            id=row.id,
            invoice_id=row.invoice_id,
            billable=row.billable,
            kind=PaymentKind(row.kind),
            amount=Money.from_nanos(row.amount, row.currency),
            method=row.method,
            external_id=row.external_id,
            note=row.note,
            occurred_at=from_micros(row.occurred_at),
            created_at=from_micros(row.created_at),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "invoice_id": self.invoice_id,
            "kind": self.kind.value,
            "amount": self.amount.to_dict(),
            "method": self.method,
            "external_id": self.external_id,
            "note": self.note,
            "occurred_at": self.occurred_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A correction of an issued invoice. `amount` contains `tax`, and is `reduces` + `refunds` + `credits`.

    `reduces` is off what was still due, `refunds` is paid back, `credits` pays the customer's next invoices.
    """

    id: str
    number: str
    invoice_id: str
    billable: str
    amount: Money
    tax: Money
    reduces: Money
    refunds: Money
    credits: Money
    reason: str
    seller: Party
    customer: Party
    issued_at: datetime

    @property
    def amount_cents(self) -> int:
        return self.amount.minor_units()

    @classmethod
    def from_row(cls, row: Any) -> CreditNote:
        """Read a row of `credit_notes`."""
        details = _mapping(row.details)
        return cls(
            id=row.id,
            number=row.number,
            invoice_id=row.invoice_id,
            billable=row.billable,
            amount=Money.from_nanos(row.amount, row.currency),
            tax=Money.from_nanos(row.tax, row.currency),
            reduces=Money.from_nanos(row.reduces, row.currency),
            refunds=Money.from_nanos(row.refunds, row.currency),
            credits=Money.from_nanos(row.credits, row.currency),
            reason=row.reason,
            seller=Party.from_dict(details.get("seller", {})),
            customer=Party.from_dict(details.get("customer", {})),
            issued_at=from_micros(row.issued_at),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "number": self.number,
            "invoice_id": self.invoice_id,
            "billable": self.billable,
            "amount": self.amount.to_dict(),
            "tax": self.tax.to_dict(),
            "reduces": self.reduces.to_dict(),
            "refunds": self.refunds.to_dict(),
            "credits": self.credits.to_dict(),
            "reason": self.reason,
            "issued_at": self.issued_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice, with its lines. Amounts are exact; `total`, `tax` and what is due are whole minor units.

    The lines add up to `subtotal`. What earlier invoices left below a cent, or below zero, comes in (`carried_in`), and
    what this one leaves goes to the next (`carried_out`). Tax is added (`net` + `tax` = `total`) or contained. Credit
    of the account pays part of it (`credit_applied`); the rest is due.
    """

    id: str
    billable: str
    number: str | None
    status: InvoiceStatus
    currency: str
    subscription_id: str | None
    period_start: datetime | None
    period_end: datetime | None
    line_items: tuple[LineItem, ...]
    subtotal: Money
    carried_in: Money
    carried_out: Money
    net: Money
    tax: Money
    total: Money
    credit_applied: Money
    amount_paid: Money
    amount_credited: Money
    amount_refunded: Money
    tax_rate_percent: Decimal | None
    tax_name: str | None
    is_tax_inclusive: bool
    seller: Party
    customer: Party
    locale: str | None
    zone: str
    notes: str | None
    metadata: Mapping[str, Any]
    external_payment_id: str | None
    created_at: datetime
    issued_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    archived_at: datetime | None

    @property
    def amount_cents(self) -> int:
        """The total in minor units: cents of USD, whole JPY."""
        return self.total.minor_units()

    @property
    def due_date(self) -> str | None:
        """The day on which it is due in the customer's time zone, such as "2026-02-15"."""
        return None if self.due_at is None else self.due_at.astimezone(ZoneInfo(self.zone)).date().isoformat()

    @property
    def amount_due(self) -> Money:
        """What is still to be paid; zero once it is paid or cancelled."""
        if self.status in (InvoiceStatus.DRAFT, InvoiceStatus.PENDING, InvoiceStatus.OVERDUE):
            return self.total - self.credit_applied - self.amount_credited - self.amount_paid
        return Money.from_nanos(0, self.currency)

    @property
    def is_overdue(self) -> bool:
        return self.status is InvoiceStatus.OVERDUE

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "number": self.number,
            "billable": self.billable,
            "status": self.status.value,
            "currency": self.currency,
            "amount_cents": self.amount_cents,
            "subtotal": self.subtotal.to_dict(),
            "carried_in": self.carried_in.to_dict(),
            "carried_out": self.carried_out.to_dict(),
            "net": self.net.to_dict(),
            "tax": self.tax.to_dict(),
            "tax_rate_percent": None if self.tax_rate_percent is None else str(self.tax_rate_percent),
            "tax_name": self.tax_name,
            "is_tax_inclusive": self.is_tax_inclusive,
            "total": self.total.to_dict(),
            "credit_applied": self.credit_applied.to_dict(),
            "amount_paid": self.amount_paid.to_dict(),
            "amount_credited": self.amount_credited.to_dict(),
            "amount_refunded": self.amount_refunded.to_dict(),
            "amount_due": self.amount_due.to_dict(),
            "subscription_id": self.subscription_id,
            "period_start": _text(self.period_start),
            "period_end": _text(self.period_end),
            "line_items": [line.to_dict() for line in self.line_items],
            "seller": self.seller.to_dict(),
            "customer": self.customer.to_dict(),
            "locale": self.locale,
            "notes": self.notes,
            "metadata": dict(self.metadata),
            "external_payment_id": self.external_payment_id,
            "created_at": _text(self.created_at),
            "issued_at": _text(self.issued_at),
            "due_at": _text(self.due_at),
            "due_date": self.due_date,
            "paid_at": _text(self.paid_at),
            "voided_at": _text(self.voided_at),
            "archived_at": _text(self.archived_at),
        }

    @classmethod
    def from_row(
        cls, row: Any, lines: Sequence[LineItem], *, now: int, external_payment_id: str | None = None
    ) -> Invoice:
        """Read a row of `invoices` with its lines. `now` (µs) decides whether it is overdue."""
        currency = row.currency
        details = _mapping(row.details)

        def money(nanos: int) -> Money:
            return Money.from_nanos(nanos, currency)

        status = InvoiceStatus(row.status)
        if status is InvoiceStatus.PENDING and row.due_at is not None and row.due_at <= now:
            status = InvoiceStatus.OVERDUE
        return cls(
            id=row.id,
            billable=row.billable,
            number=row.number,
            status=status,
            currency=currency,
            subscription_id=row.subscription_id,
            period_start=_instant(row.period_start),
            period_end=_instant(row.period_end),
            line_items=tuple(lines),
            subtotal=money(row.subtotal),
            carried_in=money(row.carried_in),
            carried_out=money(row.carried_out),
            net=money(row.net),
            tax=money(row.tax),
            total=money(row.total),
            credit_applied=money(row.credit_applied),
            amount_paid=money(row.amount_paid),
            amount_credited=money(row.amount_credited),
            amount_refunded=money(row.amount_refunded),
            tax_rate_percent=None if row.tax_rate_percent is None else Decimal(row.tax_rate_percent),
            tax_name=row.tax_name,
            is_tax_inclusive=bool(row.is_tax_inclusive),
            seller=Party.from_dict(details.get("seller", {})),
            customer=Party.from_dict(details.get("customer", {})),
            locale=row.locale,
            zone=str(details.get("zone", "UTC")),
            notes=row.notes,
            metadata=_mapping(row.metadata),
            external_payment_id=external_payment_id,
            created_at=from_micros(row.created_at),
            issued_at=_instant(row.issued_at),
            due_at=_instant(row.due_at),
            paid_at=_instant(row.paid_at),
            voided_at=_instant(row.voided_at),
            archived_at=_instant(row.archived_at),
        )


@dataclass(frozen=True, slots=True)
class InvoicePage:
    """One page of invoices, the newest first. `next_cursor` asks for the following page; None: the last."""

    invoices: tuple[Invoice, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[Invoice]:
        return iter(self.invoices)

    def __len__(self) -> int:
        return len(self.invoices)

    def __getitem__(self, index: int) -> Invoice:
        return self.invoices[index]


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _mapping(text: str | None) -> Mapping[str, Any]:
    return MappingProxyType(json.loads(text) if text else {})
