"""Invoices and credit notes as PDF, from what the database has of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.errors import ConfigurationError
from tallystick.invoicing.credit_notes import credit_note_of, credit_notes_of
from tallystick.invoicing.payments import payments_of
from tallystick.invoicing.pdf import render_credit_note, render_invoice
from tallystick.invoicing.reading import invoice_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tallystick.engine import Engine
    from tallystick.invoicing.values import CreditNote, Invoice, Payment

__all__ = ["credit_note_pdf", "invoice_pdf"]


def invoice_pdf(engine: Engine, name: str, locale: str | None) -> bytes:
    """Return an invoice as PDF, with its payments and credit notes."""
    now = engine.now()

    def read(connection: Connection) -> tuple[Invoice, list[Payment], list[CreditNote]]:
        invoice = invoice_of(connection, name, now=now)
        return invoice, payments_of(connection, invoice.id), list(credit_notes_of(connection, invoice.id))

    invoice, payments, notes = engine.read_snapshot(read)
    return render_invoice(invoice, payments=payments, credit_notes=notes, logo=_logo(engine), locale=locale)


def credit_note_pdf(engine: Engine, name: str, locale: str | None) -> bytes:
    """Return a credit note as PDF."""
    now = engine.now()

    def read(connection: Connection) -> tuple[CreditNote, Invoice]:
        note = credit_note_of(connection, name)
        return note, invoice_of(connection, note.invoice_id, now=now)

    note, invoice = engine.read_snapshot(read)
    return render_credit_note(note, invoice, logo=_logo(engine), locale=locale)


def _logo(engine: Engine) -> bytes | None:
    file = engine.settings.invoicing.seller.logo
    if not file:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        remedy = f"It cannot be read ({error.strerror or error}). Name a file that can, or leave it out."
        raise ConfigurationError("invoicing.seller.logo", file, remedy) from None
