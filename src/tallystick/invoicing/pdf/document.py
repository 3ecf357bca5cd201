"""What stands on an invoice or a credit note, block by block, in the words of one language. Pure.

The template lays these blocks out and adds no word or figure of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from tallystick.invoicing.pdf.wording import Wording
from tallystick.invoicing.values import (
    CreditNote,
    Invoice,
    InvoiceStatus,
    LineItem,
    LineKind,
    Party,
    Payment,
    PaymentKind,
)
from tallystick.money import Money

__all__ = ["credit_note_document", "invoice_document"]

# Where paper is not of the A series.
_LETTER_COUNTRIES = frozenset({"CA", "CL", "CO", "CR", "MX", "PA", "PH", "PR", "US", "VE"})

# What is longer may not fit on a page, if its column is as narrow as it can be.
_LINES_MAX = 40
_LINE_CHARACTERS = 20

# Overdue is not among them: what a document says must not change by the clock alone.
_TONES = {
    InvoiceStatus.DRAFT: "neutral",
    InvoiceStatus.PAID: "good",
    InvoiceStatus.CANCELLED: "bad",
    InvoiceStatus.REFUNDED: "neutral",
    InvoiceStatus.PARTIALLY_REFUNDED: "neutral",
}
_WITHOUT_EFFECT = (InvoiceStatus.DRAFT, InvoiceStatus.CANCELLED)


def invoice_document(
    invoice: Invoice, payments: Sequence[Payment], credit_notes: Sequence[CreditNote], words: Wording
) -> dict[str, Any]:
    """Return the blocks of an invoice."""
    tone = _TONES.get(invoice.status)
    mark = None if tone is None else {"text": words.name("marks", invoice.status.value), "tone": tone}
    return {
        **_frame(words, words.word("invoice"), invoice.number, invoice.seller),
        "mark": mark,
        "is_watermarked": invoice.status in _WITHOUT_EFFECT,
        "parties": _parties(words, invoice.seller, invoice.customer, invoice.billable),
        "facts": _invoice_facts(invoice, words),
        "headline": _invoice_headline(invoice, words),
        "lines": _lines(invoice, words),
        "totals": _invoice_totals(invoice, words),
        "sections": [
            section
            for section in (_credit_note_section(credit_notes, words), _payment_section(payments, words))
            if section["rows"]
        ],
        "notes": _titled(words.word("notes"), invoice.notes),
    }


def credit_note_document(note: CreditNote, invoice: Invoice, words: Wording) -> dict[str, Any]:
    """Return the blocks of a credit note, which names the invoice that it corrects."""
    seller = note.seller if note.seller.name else invoice.seller
    customer = note.customer if note.customer.name else invoice.customer
    facts = (
        (words.word("number"), note.number),
        (words.word("issued"), words.day(note.issued_at)),
        (words.word("corrects"), invoice.number),
        (words.word("corrected_issued"), _day(invoice.issued_at, words)),
    )
    return {
        **_frame(words, words.word("credit_note"), note.number, seller),
        "mark": None,
        "is_watermarked": False,
        "parties": _parties(words, seller, customer, note.billable),
        "facts": _known(facts),
        "headline": words.word("headline_credited", amount=words.money(note.amount)),
        "lines": None,
        "totals": _credit_note_totals(note, invoice, words),
        "sections": [],
        "notes": _titled(words.word("reason"), note.reason),
    }


# -- who, to whom, and when -------------------------------------------------------------------------------------------


def _frame(words: Wording, title: str, number: str | None, seller: Party) -> dict[str, Any]:
    """Return what every document has: its names, its language and its paper."""
    named = words.word("document_title", title=title, number=number or "", seller=seller.name)
    return {
        "title": title,
        "number": number,
        "document_title": " ".join(named.split()).strip("– "),
        "author": seller.name,
        "language": words.language,
        "region": words.region,
        "paper": "us-letter" if (seller.country or "").upper() in _LETTER_COUNTRIES else "a4",
        "page": words.word("page"),
        "footer": seller.footer or "",
    }


def _parties(words: Wording, seller: Party, customer: Party, billable: str) -> list[dict[str, Any]]:
    # An invoice without an addressee is none: whoever has no name is called by the account.
    blocks = (
        _party(words, seller, words.word("seller"), seller.name),
        _party(words, customer, words.word("customer"), customer.name or billable),
    )
    return [block for block in blocks if block["name"] or block["lines"]]


def _party(words: Wording, party: Party, label: str, name: str) -> dict[str, Any]:
    lines = [line for line in party.address if line.strip()]
    if party.country and (not lines or lines[-1].casefold() != party.country.casefold()):
        lines.append(party.country)
    if party.tax_id:
        lines.append(f"{words.tax_id_name(party.country)}: {party.tax_id}")
    lines.extend(line for line in (party.email, party.website) if line)
    return {"label": label, "name": name, "lines": lines}


def _invoice_facts(invoice: Invoice, words: Wording) -> list[tuple[str, str]]:
    # An open invoice says what to quote when it is paid; a gateway's own reference says it where there is one.
    reference = (invoice.external_payment_id or invoice.number) if invoice.status.is_open else None
    facts = (
        (words.word("number"), invoice.number),
        (words.word("issued"), _day(invoice.issued_at, words)),
        (words.word("due"), _day(invoice.due_at, words)),
        (words.word("paid_on"), _day(invoice.paid_at, words)),
        (words.word("cancelled_on"), _day(invoice.voided_at, words)),
        (words.word("period"), words.period(invoice.period_start, invoice.period_end)),
        (words.word("reference"), reference),
    )
    return _known(facts)


def _invoice_headline(invoice: Invoice, words: Wording) -> str | None:
    """Return what matters most: how much is due, and by when; or that it is paid."""
    due = invoice.amount_due
    if invoice.status.is_open and due and invoice.due_at is not None:
        return words.word("headline_due_by", amount=words.money(due), date=words.day(invoice.due_at))
    if invoice.status.is_open and due:
        return words.word("headline_due", amount=words.money(due))
    if invoice.status is InvoiceStatus.PAID and invoice.paid_at is not None and invoice.amount_paid:
        return words.word("headline_paid", amount=words.money(invoice.amount_paid), date=words.day(invoice.paid_at))
    return None


# -- what for, and how much -------------------------------------------------------------------------------------------


def _lines(invoice: Invoice, words: Wording) -> dict[str, Any]:
    """Return the table of what is charged; discounts stand below it."""
    return {
        "columns": [words.word(column) for column in ("description", "quantity", "unit_price", "amount")],
        "rows": [_line(line, words) for line in invoice.line_items if line.kind is not LineKind.DISCOUNT],
        "empty": words.word("no_lines"),
    }


def _line(line: LineItem, words: Wording) -> dict[str, Any]:
    unit = line.unit_amount
    return {
        "description": line.description,
        "period": words.period(line.period_start, line.period_end),
        "quantity": words.number(line.quantity) if line.quantity else "",
        "unit_price": "" if unit is None else words.unit_price(line.amount, line.quantity, unit),
        "amount": words.money(line.amount),
        "is_breakable": _is_long(line.description),
    }


def _is_long(*texts: str) -> bool:
    """Say whether a block is so long that it may go on on the next page; any other stays whole."""
    lines = (line for text in texts for line in text.splitlines())
    return sum(1 + len(line) // _LINE_CHARACTERS for line in lines) > _LINES_MAX


def _invoice_totals(invoice: Invoice, words: Wording) -> dict[str, Any]:
    """Return the way from the lines to what is due, each step only where there is something in it."""
    discounts = [line for line in invoice.line_items if line.kind is LineKind.DISCOUNT]
    rows: list[tuple[str, str, Money]] = []
    if discounts:
        before = invoice.subtotal - sum((line.amount for line in discounts), Money.from_nanos(0, invoice.currency))
        rows.append(("plain", words.word("subtotal_before_discounts"), before))
        rows.extend(("plain", line.description, line.amount) for line in discounts)
    rows.append(("plain", words.word("subtotal"), invoice.subtotal))
    rows.extend(_if_any(words, ("carried_in", invoice.carried_in), ("carried_out", -invoice.carried_out)))
    rows.extend(_total_and_tax(invoice, net=invoice.net, tax=invoice.tax, total=invoice.total, words=words))
    rows.extend(
        _if_any(
            words,
            ("credit_applied", -invoice.credit_applied),
            ("credited", -invoice.amount_credited),
            ("paid", -invoice.amount_paid),
        )
    )
    if invoice.status not in _WITHOUT_EFFECT:
        rows.append(("due", words.word("amount_due"), invoice.amount_due))
    if invoice.amount_refunded:
        # It stands after the sum: what was paid back is not due again.
        rows.append(("quiet", words.word("refunded"), invoice.amount_refunded))
    return _totals(rows, words)


def _credit_note_totals(note: CreditNote, invoice: Invoice, words: Wording) -> dict[str, Any]:
    rows = _total_and_tax(invoice, net=note.amount - note.tax, tax=note.tax, total=note.amount, words=words)
    rows.extend(
        _if_any(words, ("reduces", note.reduces), ("refunds", note.refunds), ("credits", note.credits)),
    )
    return _totals(rows, words)


def _total_and_tax(
    invoice: Invoice, *, net: Money, tax: Money, total: Money, words: Wording
) -> list[tuple[str, str, Money]]:
    """Return the total with its tax: before it where tax is added, after it where the total contains it."""
    total_row = ("total", words.word("total", currency=total.currency), total)
    rate = invoice.tax_rate_percent
    if not tax and not rate:
        return [total_row]
    manner = "tax_included" if invoice.is_tax_inclusive else "tax_added"
    name = invoice.tax_name or words.word("tax")
    label = (
        words.word(f"{manner}_without_rate", name=name)
        if rate is None
        else words.word(manner, name=name, rate=words.percent(rate))
    )
    style = "quiet" if invoice.is_tax_inclusive else "plain"
    parts = [(style, words.word("net"), net), (style, label, tax)]
    return [total_row, *parts] if invoice.is_tax_inclusive else [*parts, total_row]


def _if_any(words: Wording, *steps: tuple[str, Money]) -> list[tuple[str, str, Money]]:
    return [("plain", words.word(key), amount) for key, amount in steps if amount]


def _totals(rows: Sequence[tuple[str, str, Money]], words: Wording) -> dict[str, Any]:
    return {
        "rows": [{"style": style, "label": label, "amount": words.money(amount)} for style, label, amount in rows],
        "is_breakable": _is_long(*(label for _, label, _ in rows)),
    }


# -- what happened since ----------------------------------------------------------------------------------------------


def _credit_note_section(notes: Sequence[CreditNote], words: Wording) -> dict[str, Any]:
    return {
        "title": words.word("credit_notes"),
        "columns": [words.word(column) for column in ("number", "date", "reason", "amount")],
        "rows": [
            (note.number, words.day(note.issued_at), note.reason, words.money(-note.amount))
            for note in sorted(notes, key=lambda note: (note.issued_at, note.number))
        ],
    }


def _payment_section(payments: Sequence[Payment], words: Wording) -> dict[str, Any]:
    return {
        "title": words.word("payments"),
        "columns": [words.word(column) for column in ("method", "date", "payment_reference", "amount")],
        "rows": [
            (
                _method(payment, words),
                words.day(payment.occurred_at),
                payment.external_id or "",
                words.money(-payment.amount if payment.kind is PaymentKind.REFUND else payment.amount),
            )
            for payment in sorted(payments, key=lambda payment: (payment.occurred_at, payment.id))
        ],
    }


def _method(payment: Payment, words: Wording) -> str:
    method = words.name("methods", payment.method) if payment.method else ""
    if payment.kind is PaymentKind.PAYMENT:
        return method
    return words.word("refund_by", method=method) if method else words.word("refund")


# -- parts ------------------------------------------------------------------------------------------------------------


def _known(facts: Iterable[tuple[str, str | None]]) -> list[tuple[str, str]]:
    return [(label, value) for label, value in facts if value]


def _titled(title: str, text: str | None) -> dict[str, str] | None:
    return {"title": title, "text": text} if text and text.strip() else None


def _day(instant: datetime | None, words: Wording) -> str | None:
    return None if instant is None else words.day(instant)
