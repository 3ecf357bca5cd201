"""`tallystick invoices`: what customers are billed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.account_zone import account_zone
from tallystick.cli.figures import amount
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.invoice_view import called, print_invoice, print_invoices
from tallystick.cli.options import AsJson, Config, Database, End, Start, open_existing
from tallystick.cli.output import console, print_json
from tallystick.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick import Tallystick

__all__ = ["invoices"]

invoices = typer.Typer(
    name="invoices", help="Invoices: list, show, create, finalize, pay, void, credit, refund, pdf, preview."
)

Name = Annotated[str, typer.Argument(metavar="INVOICE", help="Its number, such as INV-2026-000001, or its id.")]
Payer = Annotated[str, typer.Argument(metavar="PAYER", help="A tenant's slug, or a billable such as user:1.")]
Amount = Annotated[
    str | None, typer.Argument(metavar="AMOUNT", help='Such as 20, or "20 USD". Without it: all that there is.')
]

_LINE = re.compile(r"(?P<description>.+)=\s*((?P<quantity>[\d.]+)\s*[x×*]\s*)?(?P<amount>[^=]+)", re.DOTALL)


@invoices.command("list")
def list_invoices(
    payer: Annotated[
        str | None, typer.Argument(metavar="PAYER", help="A tenant's slug, or a billable; otherwise everybody's.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="draft, pending, overdue, paid, cancelled, refunded or partially_refunded."),
    ] = None,
    start: Start = None,
    end: End = None,
    archived: Annotated[bool, typer.Option("--archived", help="Those that are archived too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List invoices, the newest first: everybody's, or those of a payer; of a status, or made in a time.

    Example: tallystick invoices list acme --status overdue
    """
    with open_existing(database, config) as ts:
        zone = account_zone(ts, payer)
        page = ts.invoices.list(
            payer,
            status,
            start=_instant(start, zone, "start"),
            end=_instant(end, zone, "end"),
            include_archived=archived,
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        print_json({"invoices": [one.to_dict() for one in page], "next_cursor": page.next_cursor})
        return
    out = console()
    if not page.invoices:
        out.print("There are no such invoices.")
        return
    print_invoices(out, page.invoices)
    if page.next_cursor is not None:
        out.print(f"There are more: --cursor {page.next_cursor}", soft_wrap=True)


@invoices.command("show")
def show_invoice(name: Name, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show an invoice: its lines, how they come to what is due, what was paid and credited.

    Periods are written by their first day and the first day after them.
    """
    with open_existing(database, config) as ts:
        _answer(ts, ts.invoices.get(name), as_json=as_json)


@invoices.command("preview")
def preview_invoice(payer: Payer, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show the next invoice of a payer as it would be from what is known now. Nothing is changed."""
    with open_existing(database, config) as ts:
        found = ts.invoices.preview(payer)
        if as_json:
            print_json({"invoice": None if found is None else found.to_dict()})
        elif found is None:
            console().print(f"There is nothing to bill {payer} for.")
        else:
            title = f"The next invoice of {found.billable}, as things stand"
            print_invoice(console(), found, now=ts.clock.now(), title=title)


@invoices.command("create")
def create_invoice(
    payer: Payer,
    line: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT=AMOUNT", help='"Setup=500", or "Hours=3x120": so many at so much. Several times for several.'
        ),
    ] = None,
    amount_text: Annotated[
        str | None, typer.Option("--amount", metavar="AMOUNT", help="One line of so much, instead of --line.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What the line of --amount says.")] = None,
    currency: Annotated[str | None, typer.Option(help="Its currency; otherwise the payer's.")] = None,
    due: Annotated[
        str | None, typer.Option(metavar="DATE", help="Due at the end of that day; otherwise after the usual days.")
    ] = None,
    notes: Annotated[str | None, typer.Option(help="What stands below the lines.")] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Do not issue it yet: tallystick invoices finalize.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Running the same command again with this key makes no second.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make an invoice by hand, and issue it: it then has a number, and never changes.

    Tax is added as on every invoice, and credit of the account is used.

    Example: tallystick invoices create acme --line "Setup=500" --line "Hours=3x120" --due 2026-02-15
    """
    with open_existing(database, config) as ts:
        made = ts.invoices.create(
            payer,
            due_date=due,
            line_items=_lines(line, amount_text, description),
            currency=currency,
            notes=notes,
            draft=draft,
            idempotency_key=idempotency_key,
        )
        _answer(ts, made, as_json=as_json)


@invoices.command("finalize")
def finalize_invoice(name: Name, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Issue a draft: it gets the next number, and never changes again."""
    with open_existing(database, config) as ts:
        _answer(ts, ts.invoices.finalize(name), as_json=as_json)


@invoices.command("pay")
def pay_invoice(
    name: Name,
    amount_text: Amount = None,
    external_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="What the bank or gateway calls it; once for each.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="How it was paid, such as bank or card.")] = None,
    note: Annotated[str | None, typer.Option(help="A remark; it is kept.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="When it was paid; otherwise now.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Record that an invoice was paid: what is due of it, or an amount. Nothing is charged by this.

    What is more than was due becomes credit of the account.

    Example: tallystick invoices pay INV-2026-000001 --method bank --id 4711
    """
    with open_existing(database, config) as ts:
        invoice = ts.invoices.get(name)
        payment = ts.invoices.record_payment(
            invoice.id,
            amount_text,
            external_payment_id=external_id,
            method=method,
            note=note,
            paid_at=_instant(at, invoice.zone, "at"),
        )
        after = ts.invoices.get(invoice.id)
    if as_json:
        print_json({"payment": payment.to_dict(), "invoice": after.to_dict()})
    else:
        console().print(f"{amount(payment.amount)} was paid for invoice {called(after)}. {_left(after)}")


@invoices.command("void")
def void_invoice(name: Name, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Cancel an invoice of which nothing was paid. Its number stays taken; what it charged is not charged again.

    One that was paid is corrected with tallystick invoices credit, or refund.
    """
    with open_existing(database, config) as ts:
        after = ts.invoices.void(name)
    if as_json:
        print_json(after.to_dict())
    else:
        console().print(f"Invoice {called(after)} is cancelled: nothing is owed of it.")


@invoices.command("credit")
def credit_invoice(
    name: Name,
    amount_text: Amount = None,
    *,
    reason: Annotated[str, typer.Option(help="Why; it stands on the credit note.")],
    to: Annotated[
        Literal["due", "balance", "refund"] | None,
        typer.Option(help="Off what is due, to the balance, or paid back; otherwise due first, the rest to balance."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Running the same command again with this key makes no second.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Correct an invoice that was issued, by a credit note: of all that is left of it, or of an amount with its tax.

    Example: tallystick invoices credit INV-2026-000001 20 --reason "Outage on 3 May"
    """
    with open_existing(database, config) as ts:
        note = ts.invoices.credit(name, amount_text, reason=reason, to=to, idempotency_key=idempotency_key)
        after = ts.invoices.get(note.invoice_id)
    if as_json:
        print_json({"credit_note": note.to_dict(), "invoice": after.to_dict()})
        return
    out = console()
    tax = f", of which {amount(note.tax)} is tax" if note.tax else ""
    out.print(f"Credit note {note.number} of invoice {called(after)}: {amount(note.amount)}{tax}.")
    ways = ((note.reduces, "off what was due"), (note.credits, "to the balance"), (note.refunds, "paid back"))
    out.print(f"{', '.join(f'{amount(part)} {way}' for part, way in ways if part)}. {_left(after)}")


@invoices.command("refund")
def refund_invoice(
    name: Name,
    amount_text: Amount = None,
    reason: Annotated[str | None, typer.Option(help="Why; it stands on the credit note.")] = None,
    external_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="What the bank or gateway calls it; once for each.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="How it was paid back, such as bank or card.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="When; otherwise now.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Record that money was paid back: all that was paid, or an amount. No money moves by this.

    A credit note documents it.
    """
    with open_existing(database, config) as ts:
        invoice = ts.invoices.get(name)
        refund = ts.invoices.refund(
            invoice.id,
            amount_text,
            reason=reason,
            external_refund_id=external_id,
            method=method,
            refunded_at=_instant(at, invoice.zone, "at"),
        )
        after = ts.invoices.get(invoice.id)
    if as_json:
        print_json({"refund": refund.to_dict(), "invoice": after.to_dict()})
    else:
        console().print(f"{amount(refund.amount)} of invoice {called(after)} was paid back. {_left(after)}")


@invoices.command("pdf")
def pdf_of_invoice(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; otherwise its number with .pdf.")
    ] = None,
    locale: Annotated[str | None, typer.Option(help="Its language, such as en or pt-BR; otherwise its own.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write an invoice as PDF. A file of that name is replaced.

    Example: tallystick invoices pdf INV-2026-000001 --output invoice.pdf
    """
    with open_existing(database, config) as ts:
        invoice = ts.invoices.get(name)
        rendered = ts.invoices.pdf(invoice.id, locale)
    # A number may have a slash in it, as the settings write it.
    file = output or Path(f"{re.sub(r'[^0-9A-Za-z._-]', '-', called(invoice))}.pdf")
    try:
        file.write_bytes(rendered)
    except OSError as error:
        raise InvalidInput("output", str(file), f"It cannot be written: {error.strerror}.") from None
    if as_json:
        print_json({"file": str(file), "bytes": len(rendered), "invoice_id": invoice.id})
    else:
        console().print(f"Invoice {called(invoice)} was written to {file}.", soft_wrap=True)


# -- reading what was written -----------------------------------------------------------------------------------------


def _answer(ts: Tallystick, invoice: Any, *, as_json: bool) -> None:
    payments = ts.invoices.payments(invoice.id)
    notes = list(ts.invoices.credit_notes(invoice=invoice.id))
    if as_json:
        also = {"payments": [one.to_dict() for one in payments], "credit_notes": [one.to_dict() for one in notes]}
        print_json({**invoice.to_dict(), **also})
    else:
        print_invoice(console(), invoice, now=ts.clock.now(), payments=payments, credit_notes=notes)


def _left(invoice: Any) -> str:
    """Return how an invoice stands after money moved, in a sentence."""
    if invoice.amount_due:
        return f"{amount(invoice.amount_due)} is still due."
    return f"It is {str(invoice.status).replace('_', ' ')}."


def _lines(lines: list[str] | None, amount_text: str | None, description: str | None) -> list[dict[str, object]]:
    if (lines is None) == (amount_text is None):
        raise InvalidInput("line", lines, 'Give --line "Setup=500", once or several times; or --amount 500.')
    if lines is None:
        return [{"description": description or "Invoice", "amount": amount_text}]
    if description is not None:
        raise InvalidInput("description", description, "It goes with --amount; a --line has its own.")
    return [_line(text) for text in lines]


def _line(text: str) -> dict[str, object]:
    found = _LINE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput("line", text, 'Write "Setup=500", or "Hours=3x120" for three at 120 each.')
    return {
        "description": found["description"].strip(),
        "quantity": found["quantity"] or "1",
        "amount": found["amount"].strip(),
    }


def _instant(text: str | None, zone: str, field: str) -> datetime | None:
    return None if text is None else instant(text, zone_named(zone), field=field)
