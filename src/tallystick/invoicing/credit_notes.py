"""Credit notes: corrections of invoices that were issued. Each has a number of its own series, without gaps.

A refund comes with a credit note, as accounting wants it: the invoice says what was owed, the note what of that was
taken back, and the payment says that the money has gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, func, or_, select

from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.events import Event
from tallystick.identity import new_id
from tallystick.invoicing.consequences import Consequence, follow_settlement, follow_withdrawal
from tallystick.invoicing.input import checked_amount, checked_text
from tallystick.invoicing.issuing import change_credit, lock_billing_accounts
from tallystick.invoicing.numbering import take_numbers
from tallystick.invoicing.payments import (
    PaymentDetails,
    earlier_payment,
    save_standing,
    tell_settlement,
    write_payment,
)
from tallystick.invoicing.pdf.wording import wording_of
from tallystick.invoicing.reading import locked_invoice
from tallystick.invoicing.standing import CreditTo, Noted, Parts, Standing, parts_of, room_for, tax_share
from tallystick.invoicing.values import CreditNote, InvoiceStatus, Payment, PaymentKind
from tallystick.money import Money, minor_unit
from tallystick.notify.notification import cursor_of, position_of
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "CreditNotePage",
    "CreditRequest",
    "checked_request",
    "credit",
    "credit_note_of",
    "credit_notes_of",
    "credit_notes_page",
    "refund",
]

Amount = Money | Decimal | int | str | None

_KEY_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class CreditNotePage:
    """One page of credit notes, the newest first. `next_cursor` asks for the following page; None: the last."""

    credit_notes: tuple[CreditNote, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[CreditNote]:
        return iter(self.credit_notes)

    def __len__(self) -> int:
        return len(self.credit_notes)

    def __getitem__(self, index: int) -> CreditNote:
        return self.credit_notes[index]


@dataclass(frozen=True, slots=True)
class CreditRequest:
    """What is to be credited of an invoice: all that can be (None) or an amount, why, and where it goes."""

    amount: Amount
    reason: str | None
    to: CreditTo | None = None
    key: str | None = None


def checked_request(amount: Amount, *, reason: str, to: str | None, key: str | None) -> CreditRequest:
    """Return what was asked for, checked as far as it can be without the invoice."""
    if to is not None and to not in tuple(CreditTo):
        ways = ", ".join(repr(one.value) for one in CreditTo)
        raise InvalidInput("to", to, f"Use one of {ways}; leave it out: off what is due, and the rest to the balance.")
    return CreditRequest(
        amount,
        checked_text("reason", reason),
        None if to is None else CreditTo(to),
        None if key is None else checked_text("idempotency_key", key, length_max=_KEY_LENGTH_MAX),
    )


def credit(engine: Engine, name: str, request: CreditRequest) -> CreditNote:
    """Credit a part of an invoice, or all of it; see `Invoices.credit`."""

    def work(connection: Connection) -> tuple[CreditNote, list[Event]]:
        row = locked_invoice(connection, name)
        if request.key is not None and (earlier := _of_key(connection, row.id, request.key)) is not None:
            return _repeated(earlier, request), []
        money = _asked(connection, row, request)
        parts = parts_of(Standing.of(row), money.nanos, request.to)
        if parts.refunds:
            details = PaymentDetails(None, None, request.reason, engine.now())
            write_payment(connection, row, PaymentKind.REFUND, money, details, engine.now())
        return _carry_out(engine, connection, row, parts, request)

    note, events = engine.lane.transact(work)
    engine.handlers.send(events)
    return note


def refund(engine: Engine, name: str, amount: Amount, details: PaymentDetails) -> Payment:
    """Record that money was paid back, with the credit note that documents it; see `Invoices.refund`."""

    def work(connection: Connection) -> tuple[Payment, list[Event]]:
        row = locked_invoice(connection, name)
        earlier = earlier_payment(connection, row, PaymentKind.REFUND, amount, details.external_id)
        if earlier is not None:
            return earlier, []
        money = _asked(connection, row, CreditRequest(amount, details.note, CreditTo.REFUND))
        payment = write_payment(connection, row, PaymentKind.REFUND, money, details, engine.now())
        # The key says which refund it documents.
        request = CreditRequest(money, details.note, CreditTo.REFUND, f"refund:{payment.id}")
        _, events = _carry_out(engine, connection, row, Parts(refunds=money.nanos), request)
        return payment, events

    payment, events = engine.lane.transact(work)
    engine.handlers.send(events)
    return payment


def _carry_out(
    engine: Engine, connection: Connection, row: Any, parts: Parts, request: CreditRequest
) -> tuple[CreditNote, list[Event]]:
    """Write a credit note and what it does to its invoice, to the account and to the subscription."""
    now = engine.now()
    before = Standing.of(row)
    after = before._replace(
        amount_credited=before.amount_credited + parts.reduces,
        amount_refunded=before.amount_refunded + parts.refunds,
    )
    save_standing(connection, row, after, at=now)
    consequence = Consequence()
    if row.status == InvoiceStatus.PENDING and not after.due:
        follow = follow_withdrawal if after.status is InvoiceStatus.CANCELLED else follow_settlement
        consequence = follow(engine, connection, row)
    # Whoever takes numbers has the account first, as where invoices are issued.
    lock_billing_accounts(connection, [(row.billable, row.currency)], now)
    if parts.credits:
        change_credit(connection, row.billable, row.currency, parts.credits, now)
    note = _written(engine, connection, row, parts, request, now)
    return note, tell_settlement(engine, connection, row, after, consequence)


def _written(
    engine: Engine, connection: Connection, row: Any, parts: Parts, request: CreditRequest, now: int
) -> CreditNote:
    notes = tables.credit_notes
    noted = _noted(connection, row.id)
    number_format = engine.settings.invoicing.credit_note_number_format
    tax = tax_share(row.tax, row.total, noted, parts.amount, unit=minor_unit(row.currency))
    zone = str(json.loads(row.details or "{}").get("zone", "UTC"))
    values = {
        "id": new_id("crn"),
        "number": take_numbers(connection, engine.settings, number_format, 1, now)[0],
        "invoice_id": row.id,
        "billable": row.billable,
        "currency": row.currency,
        "amount": parts.amount,
        "tax": tax,
        **parts._asdict(),
        "reason": request.reason or wording_of(row.locale, zone).word("refund"),
        # A credit note is addressed as the invoice was that it corrects.
        "details": row.details,
        "key": request.key,
        "issued_at": now,
    }
    connection.execute(notes.insert().values(**values))
    return CreditNote.from_row(connection.execute(select(notes).where(notes.c.id == values["id"])).one())


def _asked(connection: Connection, row: Any, request: CreditRequest) -> Money:
    """Return the amount to be credited of an invoice, for which there is room.

    Raises:
        Conflict: it was never issued, or voided; or less can be credited.
    """
    status = InvoiceStatus(row.status)
    if status is InvoiceStatus.DRAFT:
        raise Conflict(f"Invoice {row.id} is a draft, and can be changed: ts.invoices.update({row.id!r}, …).")
    if row.voided_at is not None:
        raise Conflict(f"Invoice {row.number or row.id} was voided: nothing is owed of it.")
    room = room_for(Standing.of(row), _noted(connection, row.id), request.to)
    asked = None if request.amount is None else checked_amount("amount", request.amount, row.currency)
    if room <= 0 or (asked is not None and asked.nanos > room):
        left = Money.from_nanos(room, row.currency)
        wanted = "." if asked is None else f"; {asked} was asked for."
        raise Conflict(f"Invoice {row.number} is {status}: {left} of it can be {_DONE[request.to]}{wanted}")
    return asked if asked is not None else Money.from_nanos(room, row.currency)


_DONE = {
    None: "credited",
    CreditTo.DUE: "taken off what is due",
    CreditTo.BALANCE: "credited to the balance",
    CreditTo.REFUND: "paid back",
}


def _noted(connection: Connection, invoice_id: str) -> Noted:
    notes = tables.credit_notes.c
    sums = (func.coalesce(func.sum(one), 0) for one in (notes.amount, notes.tax, notes.credits))
    return Noted(*(int(one) for one in connection.execute(select(*sums).where(notes.invoice_id == invoice_id)).one()))


def _of_key(connection: Connection, invoice_id: str, key: str) -> CreditNote | None:
    notes = tables.credit_notes
    row = connection.execute(select(notes).where(notes.c.invoice_id == invoice_id, notes.c.key == key)).first()
    return None if row is None else CreditNote.from_row(row)


def _repeated(earlier: CreditNote, request: CreditRequest) -> CreditNote:
    """Return a credit note that was made before with the same key; it must be the same."""
    key = request.key or ""
    if request.amount is not None:
        money = checked_amount("amount", request.amount, earlier.amount.currency)
        if money != earlier.amount:
            raise IdempotencyConflict(key, "amount", str(earlier.amount), str(money))
    if request.reason != earlier.reason:
        raise IdempotencyConflict(key, "reason", earlier.reason, request.reason)
    part = {CreditTo.DUE: earlier.reduces, CreditTo.BALANCE: earlier.credits, CreditTo.REFUND: earlier.refunds}
    if request.to is not None and part[request.to] != earlier.amount:
        first = next((way.value for way, amount in part.items() if amount == earlier.amount), "due and balance")
        raise IdempotencyConflict(key, "to", first, request.to.value)
    return earlier


# -- finding them -----------------------------------------------------------------------------------------------------


def credit_note_of(connection: Connection, name: str) -> CreditNote:
    """Read a credit note, by its id or its number.

    Raises:
        NotFound: there is none.
    """
    notes = tables.credit_notes
    condition = notes.c.id == name if str(name).startswith("crn_") else notes.c.number == name
    row = connection.execute(select(notes).where(condition)).first()
    if row is None:
        raise NotFound("credit note", name, "Give its id or its number.")
    return CreditNote.from_row(row)


def credit_notes_of(connection: Connection, invoice_id: str) -> Sequence[CreditNote]:
    """Read the credit notes of an invoice, the oldest first."""
    notes = tables.credit_notes
    query = select(notes).where(notes.c.invoice_id == invoice_id).order_by(notes.c.issued_at, notes.c.id)
    return [CreditNote.from_row(row) for row in connection.execute(query)]


def credit_notes_page(
    connection: Connection, *, billable: str | None, invoice_id: str | None, size: int, cursor: str | None
) -> CreditNotePage:
    """Read a page of credit notes, the newest first."""
    notes = tables.credit_notes.c
    wanted = []
    if billable is not None:
        wanted.append(notes.billable == billable)
    if invoice_id is not None:
        wanted.append(notes.invoice_id == invoice_id)
    if cursor is not None:
        issued_at, note_id = position_of(cursor)
        wanted.append(or_(notes.issued_at < issued_at, and_(notes.issued_at == issued_at, notes.id < note_id)))
    query = select(tables.credit_notes).where(*wanted).order_by(notes.issued_at.desc(), notes.id.desc())
    rows = connection.execute(query.limit(size + 1)).all()
    following = cursor_of(rows[size - 1].issued_at, rows[size - 1].id) if len(rows) > size else None
    return CreditNotePage(tuple(CreditNote.from_row(row) for row in rows[:size]), following)
