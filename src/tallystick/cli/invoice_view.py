"""Invoices as an operator reads them: a list, and one with its lines, its totals and its payments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tallystick.cli.figures import amount, count
from tallystick.cli.instants import zone_named
from tallystick.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick.money import Money

__all__ = ["called", "days_from", "print_invoice", "print_invoices", "sums"]

_WIDTH_OF_WORDS = 14


def called(invoice: Any) -> str:
    """Return what an invoice is called: its number, or its id as long as it has none."""
    return str(invoice.number or invoice.id)


def print_invoices(out: Console, invoices: Sequence[Any]) -> None:
    """Print invoices, one a row."""
    shown = table("Invoice", "Of", "Status", "Total", "Due", "Due on", right=("Total", "Due"))
    for one in invoices:
        owed = amount(one.amount_due) if one.amount_due else ""
        shown.add_row(called(one), one.billable, _status(one), amount(one.total), owed, one.due_date or "")
    out.print(shown)


def sums(invoices: Iterable[Any]) -> str:
    """Return what invoices come to, each currency on its own: "123.00 USD + 50.00 EUR"."""
    totals: dict[str, Money] = {}
    for one in invoices:
        totals[one.currency] = totals[one.currency] + one.total if one.currency in totals else one.total
    return " + ".join(amount(total) for total in totals.values())


def print_invoice(
    out: Console,
    invoice: Any,
    *,
    now: datetime,
    payments: Sequence[Any] = (),
    credit_notes: Sequence[Any] = (),
    title: str | None = None,
) -> None:
    """Print an invoice: whose it is, its lines, how they come to what is due, and what was paid."""
    out.print(title or f"Invoice {called(invoice)}: {_status(invoice)}", style="bold")
    for name, text in _facts(invoice, now):
        out.print(f"  {name:<{_WIDTH_OF_WORDS}} {text}")
    out.print()
    out.print(_lines(invoice))
    _print_payments(out, invoice, payments)
    _print_credit_notes(out, invoice, credit_notes)
    if invoice.notes:
        out.print()
        out.print(invoice.notes)


# -- whose, and when --------------------------------------------------------------------------------------------------


def _status(invoice: Any) -> str:
    said = str(invoice.status).replace("_", " ")
    return f"{said}, archived" if invoice.archived_at is not None else said


def _facts(invoice: Any, now: datetime) -> Iterator[tuple[str, str]]:
    name = invoice.customer.name
    yield "of", invoice.billable if name in ("", invoice.billable) else f"{invoice.billable}, {name}"
    if invoice.number is not None:
        yield "id", invoice.id
    if invoice.subscription_id is not None:
        yield "subscription", invoice.subscription_id
    if invoice.period_start is not None:
        yield "period", _span(invoice, invoice.period_start, invoice.period_end)
    if invoice.issued_at is None:
        yield "created", _day(invoice, invoice.created_at)
    else:
        yield "issued", _day(invoice, invoice.issued_at)
    if invoice.due_at is not None:
        is_owed = invoice.status in ("draft", "pending", "overdue")
        yield "due", f"{invoice.due_date}{f', {days_from(now, invoice.due_at)}' if is_owed else ''}"
    for word, at in (("paid", invoice.paid_at), ("cancelled", invoice.voided_at), ("archived", invoice.archived_at)):
        if at is not None:
            yield word, _day(invoice, at)


def days_from(now: datetime, at: datetime) -> str:
    """Return how far an instant is: "in 3 days", "today", "5 days ago"."""
    seconds = (at - now).total_seconds()
    days = int(abs(seconds) // 86_400)
    if not days:
        return "in less than a day" if seconds >= 0 else "less than a day ago"
    said = "1 day" if days == 1 else f"{days:,} days"
    return f"in {said}" if seconds >= 0 else f"{said} ago"


def _day(invoice: Any, at: datetime) -> str:
    return f"{at.astimezone(zone_named(invoice.zone)):%Y-%m-%d}"


def _span(invoice: Any, start: datetime, end: datetime | None) -> str:
    """Return a period by its first day and the day on which it has ended, as all periods are: [start, end)."""
    return f"{_day(invoice, start)} to {'–' if end is None else _day(invoice, end)}"


# -- lines and totals -------------------------------------------------------------------------------------------------


def _lines(invoice: Any) -> object:
    """Return the lines and what they come to, exactly, in one column that adds up."""
    totals = list(_totals(invoice))
    money, *figures = _aligned(
        f"Amount {invoice.currency}",
        [*(line.amount for line in invoice.line_items), *(figure for _, figure in totals)],
    )
    shown = table("Line", "Quantity", money, right=("Quantity",))
    for line, figure in zip(invoice.line_items, figures, strict=False):
        words = line.description
        if line.period_start is not None:
            words += f"\n  {_span(invoice, line.period_start, line.period_end)}"
        shown.add_row(words, count(line.quantity) if line.quantity else "", figure)
    shown.add_section()
    for (words, _), figure in zip(totals, figures[len(invoice.line_items) :], strict=True):
        style = "bold" if words in ("Total", "Due") else None
        shown.add_row(words, "", figure, style=style)
    return shown


def _totals(invoice: Any) -> Iterator[tuple[str, Money]]:
    yield "Subtotal", invoice.subtotal
    if invoice.carried_in:
        yield "Carried in from the invoice before", invoice.carried_in
    if invoice.carried_out:
        yield "Carried to the next invoice", -invoice.carried_out
    rate = "" if invoice.tax_rate_percent is None else f" {invoice.tax_rate_percent.normalize():f}%"
    tax = f"{invoice.tax_name or 'Tax'}{rate}"
    if invoice.tax and not invoice.is_tax_inclusive:
        yield "Net", invoice.net
        yield tax, invoice.tax
    yield "Total", invoice.total
    if invoice.tax and invoice.is_tax_inclusive:
        yield f"  {tax}, contained", invoice.tax
    for words, figure in (
        ("Credit used", invoice.credit_applied),
        ("Credited by notes", invoice.amount_credited),
        ("Paid", invoice.amount_paid),
    ):
        if figure:
            yield words, -figure
    yield "Due", invoice.amount_due
    if invoice.amount_refunded:
        yield "  Refunded", invoice.amount_refunded


def _aligned(title: str, column: Sequence[Money]) -> list[str]:
    """Return a title and amounts, exact, with their points one below the other and no zeros that say nothing."""
    texts = [f"{money.amount:,f}" for money in column]
    tails = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    longest = max(tails, default=0)
    padded = [title, *(text + " " * (longest - tail) for text, tail in zip(texts, tails, strict=True))]
    # To the right here, and not by the table: it would take the spaces at the end away.
    width = max(map(len, padded))
    return [text.rjust(width) for text in padded]


# -- money ------------------------------------------------------------------------------------------------------------


def _print_payments(out: Console, invoice: Any, payments: Sequence[Any]) -> None:
    if not payments:
        return
    out.print()
    shown = table("Payments", "", "Amount", "By", "External id", "Note", right=("Amount",))
    for one in payments:
        words = "refunded" if one.kind == "refund" else "paid"
        day = _day(invoice, one.occurred_at)
        shown.add_row(day, words, amount(one.amount), one.method or "", one.external_id or "", one.note or "")
    out.print(shown)


def _print_credit_notes(out: Console, invoice: Any, credit_notes: Sequence[Any]) -> None:
    if not credit_notes:
        return
    out.print()
    shown = table("Credit notes", "Issued", "Amount", "Reason", right=("Amount",))
    for one in credit_notes:
        shown.add_row(one.number, _day(invoice, one.issued_at), amount(one.amount), one.reason)
    out.print(shown)
