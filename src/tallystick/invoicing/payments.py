"""Money for invoices: payments that came, and what follows from them.

A payment is a fact. It is recorded once for each `external_payment_id`, and what is more than was due becomes credit of
the account, which pays its next invoices.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select, update

from tallystick.errors import Conflict, IdempotencyConflict
from tallystick.events import Event, InvoicePaid, PaymentSucceeded
from tallystick.identity import new_id
from tallystick.invoicing.consequences import Consequence, follow_settlement
from tallystick.invoicing.input import checked_amount, checked_text
from tallystick.invoicing.issuing import change_credit
from tallystick.invoicing.reading import load_invoices, locked_invoice
from tallystick.invoicing.standing import Standing
from tallystick.invoicing.values import InvoiceStatus, Payment, PaymentKind
from tallystick.money import Money
from tallystick.notify.composing import invoice_paid, payment_succeeded
from tallystick.notify.outgoing import Told
from tallystick.period import from_micros, to_micros
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "PaymentDetails",
    "checked_details",
    "earlier_payment",
    "payments_of",
    "record_payment",
    "save_standing",
    "tell_settlement",
    "write_payment",
]

Amount = Money | Decimal | int | str | None

_EXTERNAL_ID_LENGTH_MAX = 200
_METHOD_LENGTH_MAX = 50


@dataclass(frozen=True, slots=True)
class PaymentDetails:
    """What is said of a payment or a refund besides its amount. `occurred_at` in µs."""

    external_id: str | None
    method: str | None
    note: str | None
    occurred_at: int


def checked_details(
    engine: Engine,
    *,
    external_id: tuple[str, str | None],
    method: str | None,
    note: tuple[str, str | None],
    occurred_at: tuple[str, str | datetime | None],
) -> PaymentDetails:
    """Return what was said of a payment, checked; each with the name of its field."""
    id_field, stated_id = external_id
    note_field, stated_note = note
    return PaymentDetails(
        None if stated_id is None else checked_text(id_field, stated_id, length_max=_EXTERNAL_ID_LENGTH_MAX),
        None if method is None else checked_text("method", method, length_max=_METHOD_LENGTH_MAX),
        None if stated_note is None else checked_text(note_field, stated_note),
        engine.instant(occurred_at[1], field=occurred_at[0]),
    )


def record_payment(engine: Engine, name: str, amount: Amount, details: PaymentDetails) -> Payment:
    """Record a payment of an invoice; see `Invoices.record_payment`."""

    def work(connection: Connection) -> tuple[Payment, list[Event]]:
        row = locked_invoice(connection, name)
        earlier = earlier_payment(connection, row, PaymentKind.PAYMENT, amount, details.external_id)
        if earlier is not None:
            return earlier, []
        due = Standing.of(row).due if row.status == InvoiceStatus.PENDING else 0
        if due <= 0:
            _require_fact(row, amount, details)
        owed = Money.from_nanos(due, row.currency)
        money = owed if amount is None else checked_amount("amount", amount, row.currency)
        payment = write_payment(connection, row, PaymentKind.PAYMENT, money, details, engine.now())
        return payment, _pay(engine, connection, row, payment, due)

    payment, events = engine.lane.transact(work)
    engine.handlers.send(events)
    return payment


def _pay(engine: Engine, connection: Connection, row: Any, payment: Payment, due: int) -> list[Event]:
    """Pay what is due of an invoice, and credit the rest to its account; return the events to be sent."""
    now, before = engine.now(), Standing.of(row)
    paid = min(payment.amount.nanos, due)
    after = before._replace(amount_paid=before.amount_paid + paid)
    consequence = Consequence()
    if paid:
        save_standing(connection, row, after, at=to_micros(payment.occurred_at))
        if not after.due:
            consequence = follow_settlement(engine, connection, row)
    # After the subscription: the run that bills it locks accounts in this order too.
    if payment.amount.nanos > paid:
        change_credit(connection, row.billable, row.currency, payment.amount.nanos - paid, now)
    return tell_settlement(engine, connection, row, after, consequence, payment=payment)


def save_standing(connection: Connection, row: Any, standing: Standing, *, at: int) -> None:
    """Write what has become of an invoice's total, and the status that follows. `at` (µs): when that was."""
    invoices = tables.invoices
    values: dict[str, Any] = {
        "status": standing.status.value,
        "amount_credited": standing.amount_credited,
        "amount_paid": standing.amount_paid,
        "amount_refunded": standing.amount_refunded,
    }
    if row.paid_at is None and standing.status not in (InvoiceStatus.PENDING, InvoiceStatus.CANCELLED):
        values["paid_at"] = at
    connection.execute(update(invoices).where(invoices.c.id == row.id).values(**values))


def tell_settlement(
    engine: Engine,
    connection: Connection,
    row: Any,
    standing: Standing,
    consequence: Consequence,
    *,
    payment: Payment | None = None,
) -> list[Event]:
    """Write what is told of a payment, or of a credit, that an invoice has got; return the events to be sent."""
    now = engine.now()
    at = from_micros(now)
    invoice = load_invoices(connection, [row.id], now=now)[row.id]
    told: list[Told] = []
    if payment is not None:
        subscription = consequence.subscription
        draft = None
        if consequence.has_recovered and subscription is not None:
            draft = payment_succeeded(subscription, at, payment=payment, invoice=invoice)
        event = PaymentSucceeded(billable=row.billable, at=at, payment=payment, subscription=subscription)
        told.append(Told(draft, event))
    if row.status == InvoiceStatus.PENDING and not standing.due and standing.status is not InvoiceStatus.CANCELLED:
        told.append(Told(invoice_paid(invoice, at), InvoicePaid(billable=row.billable, at=at, invoice=invoice)))
    engine.outgoing.tell(connection, told)
    return [*consequence.events, *(one.event for one in told if one.event is not None)]


def write_payment(
    connection: Connection, row: Any, kind: PaymentKind, money: Money, details: PaymentDetails, at: int
) -> Payment:
    """Write a payment of an invoice, or a refund.

    Raises:
        IdempotencyConflict: its external id was recorded meanwhile, of another invoice.
    """
    payments = tables.payments
    values = {
        "id": new_id("pay"),
        "invoice_id": row.id,
        "billable": row.billable,
        "kind": kind.value,
        "amount": money.nanos,
        "currency": row.currency,
        "method": details.method,
        "external_id": details.external_id,
        "note": details.note,
        "occurred_at": details.occurred_at,
        "created_at": at,
    }
    insert = insert_into(connection, payments).values(**values).on_conflict_do_nothing()
    written = connection.execute(insert.returning(*payments.c)).first()
    if written is None:
        # Another process was first to record this id: of another invoice, as this one is locked.
        earlier_payment(connection, row, kind, money, details.external_id)
        raise Conflict(f"The payment {details.external_id!r} is being recorded elsewhere. Try it again.")
    return Payment.from_row(written)


def payments_of(connection: Connection, invoice_id: str) -> list[Payment]:
    """Read the payments and refunds of an invoice, the oldest first."""
    payments = tables.payments
    query = select(payments).where(payments.c.invoice_id == invoice_id)
    return [Payment.from_row(row) for row in connection.execute(query.order_by(payments.c.created_at, payments.c.id))]


def earlier_payment(
    connection: Connection, row: Any, kind: PaymentKind, amount: Amount, external_id: str | None
) -> Payment | None:
    """Return the payment, or refund, that was recorded with an external id before. It must be the same one.

    Raises:
        IdempotencyConflict: the id stands for one of another invoice, or of another amount.
    """
    if external_id is None:
        return None
    payments = tables.payments
    query = select(payments).where(payments.c.external_id == external_id, payments.c.kind == kind.value)
    found = connection.execute(query).first()
    if found is None:
        return None
    earlier = Payment.from_row(found)
    if earlier.invoice_id != row.id:
        raise IdempotencyConflict(external_id, "invoice", earlier.invoice_id, row.id)
    if amount is not None:
        money = checked_amount("amount", amount, row.currency)
        if money != earlier.amount:
            raise IdempotencyConflict(external_id, "amount", str(earlier.amount), str(money))
    return earlier


def _require_fact(row: Any, amount: Amount, details: PaymentDetails) -> None:
    """Refuse a payment of an invoice of which nothing is due, unless it is known by its amount and its id elsewhere.

    Such a one has happened: whoever pays twice has credit.
    """
    status = InvoiceStatus(row.status)
    if status is InvoiceStatus.DRAFT:
        raise Conflict(f"Invoice {row.id} is a draft. Issue it first: ts.invoices.finalize({row.id!r}).")
    if amount is None or details.external_id is None:
        raise Conflict(
            f"Invoice {row.number or row.id} is {status}: nothing is due of it. To record a payment that came all the "
            "same, as credit of the account, give its amount and its external_payment_id."
        )
