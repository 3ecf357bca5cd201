"""`ts.invoices`: what customers are billed, from the draft to the payment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput
from tallystick.events import Event, InvoicePaid
from tallystick.invoicing.account import InvoiceAccount, account_of
from tallystick.invoicing.billing_run import told_of_new_invoice
from tallystick.invoicing.consequences import fail_payment, follow_withdrawal
from tallystick.invoicing.credit_notes import (
    CreditNotePage,
    checked_request,
    credit,
    credit_note_of,
    credit_notes_page,
    refund,
)
from tallystick.invoicing.details import BillingDetails, addressees, change_details, details_of
from tallystick.invoicing.gathering import release_waiting
from tallystick.invoicing.generating import Generation, generate, preview
from tallystick.invoicing.input import checked_charges, checked_due_at, checked_text, payer_reference
from tallystick.invoicing.issuing import (
    Draft,
    change_credit,
    draft_of_row,
    issue,
    lock_billing_accounts,
    rewrite_draft,
    write_drafts,
)
from tallystick.invoicing.items import InvoiceItem, add_item, bill_now, items_of, remove_item
from tallystick.invoicing.lines import Charge
from tallystick.invoicing.payments import checked_details, payments_of, record_payment
from tallystick.invoicing.printing import credit_note_pdf, invoice_pdf
from tallystick.invoicing.reading import invoice_of, invoices_of_rows, load_invoices, locked_invoice
from tallystick.invoicing.values import CreditNote, Invoice, InvoicePage, InvoiceStatus, LineKind, Payment
from tallystick.money import Money
from tallystick.notify.notification import checked_limit, cursor_of, position_of
from tallystick.notify.outgoing import Told
from tallystick.period import from_micros
from tallystick.plans.revising import terms_of
from tallystick.storage import tables
from tallystick.tenants.input import UNCHANGED, Unchanged

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Invoices"]


# Inside the class `list` is its method.
Conditions: TypeAlias = list[ColumnElement[bool]]

Text: TypeAlias = str | Unchanged | None


class Invoices:
    """Makes invoices and finds them; says what was paid of them, and corrects them.

    An invoice is a draft until it is issued (`finalize`): then it has a number and never changes. A payer is a tenant's
    slug ("acme") or any billable ("user:42"); an invoice is named by its id or its number.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- making them --------------------------------------------------------------------------------------------------

    def create(
        self,
        payer: object,
        amount_cents: int | None = None,
        due_date: str | date | datetime | None = None,
        line_items: Sequence[Mapping[str, Any]] | None = None,
        *,
        currency: str | None = None,
        description: str | None = None,
        notes: str | None = None,
        metadata: Mapping[str, object] | None = None,
        draft: bool = False,
        idempotency_key: str | None = None,
    ) -> Invoice:
        """Make an invoice by hand and issue it; or, with `draft`, leave it to be changed and issued later.

        A line has a `description`, an `amount_cents` a unit (or an exact `amount`), a `quantity` of 1 unless it says
        otherwise, and maybe a period. Without lines there is one, of `amount_cents`; with both, they must agree. The
        payer's tax is added, or contained, as on every invoice, and the account's credit is used. Coupons take nothing
        off it.

        It is due at the end of `due_date`, else after the payer's `due_days`. The same `idempotency_key` gives the same
        invoice again.

        Raises:
            InvalidInput: naming the field. IdempotencyConflict: the key stands for another amount.
        """
        engine = self._engine
        reference = payer_reference(engine, payer)
        encoded = None if metadata is None else engine.metadata_policy.encoded(metadata)
        text = None if notes is None else checked_text("notes", notes, length_max=_NOTES_LENGTH_MAX)
        now = engine.now()

        def work(connection: Connection) -> tuple[str, Sequence[Told]]:
            terms = terms_of(engine, connection, reference)
            addressee = addressees(engine, connection, {reference: terms})[reference]
            used = addressee.currency if currency is None else Money(0, currency).currency
            charges = checked_charges(line_items, amount_cents, used, description)
            given = _key_input(used, charges, due_date, text, draft=draft)
            if idempotency_key is not None:
                # Another who has the same key waits here, and then finds what was made with it.
                lock_billing_accounts(connection, [(reference, addressee.currency)], now)
            if idempotency_key is not None and (earlier := _of_key(connection, reference, idempotency_key)) is not None:
                return _repeated(earlier, given, idempotency_key), []
            made = Draft(
                addressee=addressee,
                currency=used,
                charges=tuple(charges),
                due_at=checked_due_at(due_date, addressee.zone),
                notes=text,
                metadata=encoded,
                key=idempotency_key,
                key_input=None if idempotency_key is None else json.dumps(given, separators=(",", ":")),
            )
            paid: list[str] = []
            if draft:
                write_drafts(connection, [made], now)
            else:
                paid = issue(connection, engine, [made], now)
            return made.id, self._tell_new(connection, made.id, is_paid=made.id in paid)

        invoice_id, told = engine.lane.transact(work)
        self._send(told)
        return self.get(invoice_id)

    def finalize(self, name: str) -> Invoice:
        """Issue a draft: give it the next number, and freeze it. One that was issued is returned as it is.

        Raises:
            NotFound: there is none. Conflict: it was cancelled.
        """
        engine = self._engine

        def work(connection: Connection) -> Sequence[Told]:
            row = locked_invoice(connection, name)
            if row.status == InvoiceStatus.CANCELLED:
                raise Conflict(f"Invoice {name} was cancelled.")
            if row.status != InvoiceStatus.DRAFT:
                return []
            terms = terms_of(engine, connection, row.billable)
            addressee = addressees(engine, connection, {row.billable: terms})[row.billable]
            now = engine.now()
            made = draft_of_row(row, _written_charges(connection, row), addressee)
            paid = issue(connection, engine, [made], now, are_written=True)
            return self._tell_new(connection, row.id, is_paid=row.id in paid)

        told = engine.lane.transact(work)
        self._send(told)
        return self.get(name)

    def generate(self, period: str | None = None, tenant: object = None, *, dry_run: bool = False) -> Generation:
        """Invoice subscriptions: everything that is due, or, with a month ("2026-01"), what is due by its end.

        What is due earlier and was missed comes first, in order. Each billing period of a subscription is invoiced
        once, however often this runs, here or by a worker. A `dry_run` does it all and leaves nothing behind.

        Raises:
            InvalidInput: the period is no month.
        """
        reference = None if tenant is None else payer_reference(self._engine, tenant)
        return generate(self._engine, period=period, billable=reference, dry_run=dry_run)

    def preview(self, payer: object) -> Invoice | None:
        """Return the payer's next invoice as it would be from what is known now; None where there is nothing to bill.

        It has no number. Nothing is changed.
        """
        return preview(self._engine, payer_reference(self._engine, payer))

    # -- what they are made of ----------------------------------------------------------------------------------------

    def billing_details(self, payer: object) -> BillingDetails:
        """Return what was said of a payer for its invoices. What is None is that of its tenant, or of the settings."""
        reference = payer_reference(self._engine, payer)
        return self._engine.read(lambda connection: details_of(connection, reference))

    def set_billing_details(
        self,
        payer: object,
        *,
        name: Text = UNCHANGED,
        email: Text = UNCHANGED,
        line1: Text = UNCHANGED,
        line2: Text = UNCHANGED,
        city: Text = UNCHANGED,
        region: Text = UNCHANGED,
        postal_code: Text = UNCHANGED,
        country: Text = UNCHANGED,
        tax_id: Text = UNCHANGED,
        tax_rate_percent: Decimal | int | str | Unchanged | None = UNCHANGED,
        tax_name: Text = UNCHANGED,
        is_tax_inclusive: bool | Unchanged | None = UNCHANGED,
        is_tax_exempt: bool | Unchanged | None = UNCHANGED,
        locale: Text = UNCHANGED,
        due_days: int | Unchanged | None = UNCHANGED,
        notes: Text = UNCHANGED,
    ) -> BillingDetails:
        """Say to whom a payer's invoices are addressed, and how they are taxed. None takes what was said away.

        It holds for invoices that are issued from now on, drafts among them; one that is issued never changes. A
        `country` has two letters. A `tax_id` must have the form that its country gives it: a CPF or a CNPJ with its
        check digits in BR, a VAT number's form in the European Union; whether it was given to anybody is not asked.
        `is_tax_exempt` goes before any rate.

        Raises:
            InvalidInput: naming the field.
        """
        stated = {
            "name": name,
            "email": email,
            "line1": line1,
            "line2": line2,
            "city": city,
            "region": region,
            "postal_code": postal_code,
            "country": country,
            "tax_id": tax_id,
            "tax_rate_percent": tax_rate_percent,
            "tax_name": tax_name,
            "is_tax_inclusive": is_tax_inclusive,
            "is_tax_exempt": is_tax_exempt,
            "locale": locale,
            "due_days": due_days,
            "notes": notes,
        }
        return change_details(self._engine, payer_reference(self._engine, payer), stated)

    def add_item(
        self,
        payer: object,
        amount: Money | Decimal | int | str,
        description: str,
        *,
        quantity: int | Decimal | str = 1,
        currency: str | None = None,
        due_at: str | datetime | None = None,
        subscription: str | None = None,
        idempotency_key: str | None = None,
    ) -> InvoiceItem:
        """Let something by hand wait for the payer's next invoice: at `amount` a unit, exact, in the payer's currency.

        Below zero it takes something off: with what is charged it makes one invoice, alone it goes on waiting. With
        `due_at` it is on no invoice before that; with a `subscription` (its id), on one of that. Discounts that hold
        for everything, or for that subscription, are taken off what it charges. The same `idempotency_key` gives the
        same item again, until it is removed.

        Raises:
            InvalidInput: naming the field. NotFound: no such subscription of this payer.
            IdempotencyConflict: the key stands for another item.
        """
        return add_item(
            self._engine,
            payer_reference(self._engine, payer),
            amount,
            description,
            quantity=quantity,
            currency=currency,
            due_at=due_at,
            subscription=subscription,
            idempotency_key=idempotency_key,
        )

    def items(self, payer: object) -> Sequence[InvoiceItem]:
        """Return what waits for the payer's next invoices, without use: fees, prorations, and what was added by hand.

        With what was used, `preview` shows it.
        """
        return items_of(self._engine, payer_reference(self._engine, payer))

    def remove_item(self, item_id: str) -> InvoiceItem:
        """Take back an item that was added by hand, and is on no invoice yet. Returns what it was.

        Raises:
            NotFound: no such item. Conflict: it is on an invoice, or it is a fee or a proration.
        """
        return remove_item(self._engine, item_id)

    def bill_now(self, payer: object) -> Sequence[Invoice]:
        """Invoice at once whatever waits of a payer, use among it; one invoice for each currency.

        Nothing of a subscription falls due by it: its next fee is invoiced when it would have been. Nothing is made
        where less than a cent waits.
        """
        return bill_now(self._engine, payer_reference(self._engine, payer))

    # -- finding them -------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Invoice:
        """Return an invoice, by its id or its number.

        Raises:
            NotFound: there is none.
        """
        now = self._engine.now()
        return self._engine.read_snapshot(lambda connection: invoice_of(connection, name, now=now))

    def list(
        self,
        payer: object = None,
        status: str | None = None,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        include_archived: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> InvoicePage:
        """Return a page of invoices, the newest first: of one payer, of one status, made in `[start, end)`.

        "pending" are those that are not overdue.
        """
        engine = self._engine
        invoices, now = tables.invoices.c, engine.now()
        wanted: Conditions = [] if include_archived else [invoices.archived_at.is_(None)]
        if payer is not None:
            wanted.append(invoices.billable == payer_reference(engine, payer))
        if status is not None:
            wanted.append(_of_status(status, now))
        if start is not None:
            wanted.append(invoices.created_at >= engine.instant(start, field="start"))
        if end is not None:
            wanted.append(invoices.created_at < engine.instant(end, field="end"))
        if cursor is not None:
            created_at, invoice_id = position_of(cursor)
            before = or_(
                invoices.created_at < created_at, and_(invoices.created_at == created_at, invoices.id < invoice_id)
            )
            wanted.append(before)
        size = checked_limit(limit)
        query = select(tables.invoices).where(*wanted).order_by(invoices.created_at.desc(), invoices.id.desc())

        def read(connection: Connection) -> InvoicePage:
            rows = connection.execute(query.limit(size + 1)).all()
            found = invoices_of_rows(connection, rows[:size], now=now)
            following = cursor_of(rows[size - 1].created_at, rows[size - 1].id) if len(rows) > size else None
            return InvoicePage(tuple(found), following)

        return engine.read_snapshot(read)

    # -- changing them ------------------------------------------------------------------------------------------------

    def update(
        self,
        name: str,
        *,
        status: str | None = None,
        external_payment_id: str | None = None,
        due_date: str | date | datetime | None = None,
        line_items: Sequence[Mapping[str, Any]] | None = None,
        notes: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Invoice:
        """Change an invoice, as far as one may be changed.

        A draft's lines, due date and notes; any invoice's metadata. As its status: "pending" issues a draft, "paid"
        records a payment of what is due (once for an `external_payment_id`), "cancelled" voids it, "refunded" records
        that all that was paid was paid back, with a credit note.

        Raises:
            Conflict: it is no draft any more, or cannot come to that status. InvalidInput: no such status.
        """
        if any(value is not None for value in (due_date, line_items, notes)):
            self._edit(name, due_date, line_items, notes)
        if metadata is not None:
            encoded = self._engine.metadata_policy.encoded(metadata)
            self._set(name, metadata=encoded)
        if status is not None:
            self._become(name, status, external_payment_id)
        elif external_payment_id is not None:
            raise InvalidInput("external_payment_id", external_payment_id, 'Say status="paid" with it.')
        return self.get(name)

    def void(self, name: str) -> Invoice:
        """Cancel an invoice of which nothing was paid: nothing is owed any more, and its number stays taken.

        Credit that it used is given back. What it charged is not charged again, and credits for it that still wait are
        dropped. A draft is cancelled without a trace of a number, and what waited on it waits again. A grace period
        that only this invoice had begun ends. Voiding twice changes nothing.

        Raises:
            NotFound: there is none. Conflict: something was paid: correct it with `credit`.
        """
        engine = self._engine

        def work(connection: Connection) -> Sequence[Event]:
            row = locked_invoice(connection, name)
            status = InvoiceStatus(row.status)
            if status is InvoiceStatus.CANCELLED:
                return []
            is_issued = status is not InvoiceStatus.DRAFT
            if not is_issued:
                release_waiting(connection, row.id)
            elif row.amount_paid or row.amount_credited or status is not InvoiceStatus.PENDING:
                raise Conflict(f"Invoice {row.number} is {status}: correct it with ts.invoices.credit({row.id!r}, …).")
            now, invoices = engine.now(), tables.invoices
            cancelled = {"status": InvoiceStatus.CANCELLED.value, "voided_at": now}
            connection.execute(update(invoices).where(invoices.c.id == row.id).values(**cancelled))
            events = follow_withdrawal(engine, connection, row).events
            if is_issued and row.credit_applied:
                change_credit(connection, row.billable, row.currency, row.credit_applied, now)
            return events

        engine.handlers.send(engine.lane.transact(work))
        return self.get(name)

    def archive(self, name: str, *, archived: bool = True) -> Invoice:
        """Take an invoice that is done out of the usual lists, or put it back.

        Raises:
            Conflict: something is still owed.
        """
        found = self.get(name)
        if archived and (found.status.is_open or found.status is InvoiceStatus.DRAFT):
            raise Conflict(f"Invoice {found.number or found.id} is {found.status}: it is not done.")
        self._set(name, archived_at=self._engine.now() if archived else None)
        return self.get(name)

    # -- money --------------------------------------------------------------------------------------------------------

    def record_payment(
        self,
        name: str,
        amount: Money | Decimal | int | str | None = None,
        *,
        external_payment_id: str | None = None,
        method: str | None = None,
        note: str | None = None,
        paid_at: str | datetime | None = None,
    ) -> Payment:
        """Record that an invoice was paid: what is due of it, or an `amount` in its currency.

        What is more than was due becomes credit, which pays the account's next invoices. The same `external_payment_id`
        gives the same payment again. A subscription that waited for its first invoice begins; a grace period that its
        invoices had begun ends with the last of them (see `payment_failed`).

        A payment with an `amount` and an `external_payment_id` is a fact, also where nothing is due any more: all of it
        becomes credit.

        Raises:
            Conflict: nothing is due of it. IdempotencyConflict: the id stands for another payment.
        """
        engine = self._engine
        details = checked_details(
            engine,
            external_id=("external_payment_id", external_payment_id),
            method=method,
            note=("note", note),
            occurred_at=("paid_at", paid_at),
        )
        return record_payment(engine, name, amount, details)

    def payment_failed(
        self, name: str, *, reason: str | None = None, failed_at: str | datetime | None = None
    ) -> Invoice:
        """Note that a payment of an invoice has failed: the grace period of its subscription begins, as of `failed_at`.

        The grace period ends when nothing is owed any more of all the subscription's invoices that have failed or were
        overdue too long: by payments, credits or a void. A subscription that had expired by then is in force again from
        that moment on. One that is past due already is told nothing new; an invoice without a subscription only has its
        payer told, once.

        Raises:
            Conflict: nothing is due of it.
        """
        engine = self._engine
        text = None if reason is None else checked_text("reason", reason)
        fail_payment(engine, name, reason=text, failed_at=engine.instant(failed_at, field="failed_at"))
        return self.get(name)

    def refund(
        self,
        name: str,
        amount: Money | Decimal | int | str | None = None,
        *,
        reason: str | None = None,
        external_refund_id: str | None = None,
        method: str | None = None,
        refunded_at: str | datetime | None = None,
    ) -> Payment:
        """Record that money was paid back: all that was paid and not given back as yet, or an `amount`.

        A credit note documents it. No money moves by this: whoever pays it back says so here. The same
        `external_refund_id` gives the same refund again. What was paid beyond the invoice is credit of the account, and
        is not refunded with it.

        Raises:
            Conflict: less was paid, or it was refunded or credited already.
            IdempotencyConflict: the id stands for another refund.
        """
        engine = self._engine
        details = checked_details(
            engine,
            external_id=("external_refund_id", external_refund_id),
            method=method,
            note=("reason", reason),
            occurred_at=("refunded_at", refunded_at),
        )
        return refund(engine, name, amount, details)

    def credit(
        self,
        name: str,
        amount: Money | Decimal | int | str | None = None,
        *,
        reason: str,
        to: str | None = None,
        idempotency_key: str | None = None,
    ) -> CreditNote:
        """Correct an invoice that was issued, by a credit note: of all that is left of it, or of an `amount`, with tax.

        It is taken off what is still due, and the rest is credited to the balance, which pays the account's next
        invoices. `to` says one of both, "due" or "balance", or "refund": the money was paid back. Credit notes never
        come to more than the invoice, and each says its share of the tax; together exactly the invoice's.

        Where nothing is due any more the invoice is paid; where all of it was credited and nothing ever paid, it is
        cancelled. The same `idempotency_key` gives the same note again.

        Raises:
            Conflict: it was never issued, or voided; or less can be credited that way.
            IdempotencyConflict: the key stands for another credit of this invoice.
        """
        return credit(self._engine, name, checked_request(amount, reason=reason, to=to, key=idempotency_key))

    def credit_notes(
        self, payer: object = None, invoice: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> CreditNotePage:
        """Return a page of credit notes, the newest first: all, or those of a payer, or of an invoice."""
        engine = self._engine
        billable = None if payer is None else payer_reference(engine, payer)
        invoice_id = None if invoice is None else self.get(invoice).id
        size = checked_limit(limit)
        return engine.read(
            lambda connection: credit_notes_page(
                connection, billable=billable, invoice_id=invoice_id, size=size, cursor=cursor
            )
        )

    def get_credit_note(self, name: str) -> CreditNote:
        """Return a credit note, by its id or its number.

        Raises:
            NotFound: there is none.
        """
        return self._engine.read(lambda connection: credit_note_of(connection, name))

    def account(self, payer: object, currency: str | None = None) -> InvoiceAccount:
        """Return what a payer's next invoice begins with: what was carried, and credit that pays it.

        In the payer's own currency, unless another is given.
        """
        engine = self._engine
        reference = payer_reference(engine, payer)
        own = engine.terms(reference).policy.currency if currency is None else Money(0, currency).currency
        return engine.read(lambda connection: account_of(connection, reference, own))

    def payments(self, name: str) -> Sequence[Payment]:
        """Return the payments and refunds of an invoice, the oldest first."""
        invoice_id = self.get(name).id
        return self._engine.read(lambda connection: payments_of(connection, invoice_id))

    # -- on paper -----------------------------------------------------------------------------------------------------

    def pdf(self, name: str, locale: str | None = None) -> bytes:
        """Return an invoice as PDF, with its payments and credit notes, in its language or that of `locale`.

        The same invoice is the same file, as long as nothing about it changes. A draft says that it is one.

        Raises:
            NotFound: there is none.
            ConfigurationError: the extra "pdf" is not installed, or the logo cannot be read.
        """
        return invoice_pdf(self._engine, name, locale)

    def credit_note_pdf(self, name: str, locale: str | None = None) -> bytes:
        """Return a credit note as PDF, by its id or its number.

        Raises:
            NotFound: there is none.
            ConfigurationError: the extra "pdf" is not installed, or the logo cannot be read.
        """
        return credit_note_pdf(self._engine, name, locale)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _tell_new(self, connection: Connection, invoice_id: str, *, is_paid: bool) -> Sequence[Told]:
        now = self._engine.now()
        invoice = load_invoices(connection, [invoice_id], now=now)[invoice_id]
        told = [told_of_new_invoice(invoice, now)]
        if is_paid:
            told.append(Told(None, InvoicePaid(billable=invoice.billable, at=from_micros(now), invoice=invoice)))
        self._engine.outgoing.tell(connection, told)
        return told

    def _send(self, told: Sequence[Told]) -> None:
        self._engine.handlers.send([one.event for one in told if one.event is not None])

    def _set(self, name: str, **values: Any) -> None:
        def work(connection: Connection) -> None:
            row = locked_invoice(connection, name)
            connection.execute(update(tables.invoices).where(tables.invoices.c.id == row.id).values(**values))

        self._engine.lane.transact(work)

    def _edit(
        self,
        name: str,
        due_date: str | date | datetime | None,
        line_items: Sequence[Mapping[str, Any]] | None,
        notes: str | None,
    ) -> None:
        engine = self._engine

        def work(connection: Connection) -> None:
            row = locked_invoice(connection, name)
            if row.status != InvoiceStatus.DRAFT:
                raise Conflict(
                    f"Invoice {row.number} was issued and never changes. Correct it with ts.invoices.credit(…)."
                )
            terms = terms_of(engine, connection, row.billable)
            addressee = addressees(engine, connection, {row.billable: terms})[row.billable]
            made = draft_of_row(row, _written_charges(connection, row), addressee)
            if due_date is not None:
                made = replace(made, due_at=checked_due_at(due_date, addressee.zone))
            if notes is not None:
                made = replace(made, notes=checked_text("notes", notes, length_max=_NOTES_LENGTH_MAX))
            if line_items is not None:
                if any(charge.kind is not LineKind.ITEM or charge.item_id is not None for charge in made.charges):
                    raise Conflict("The lines of a generated draft are what waited. Add an item, or void the draft.")
                made = replace(made, charges=tuple(checked_charges(line_items, None, row.currency, None)))
            rewrite_draft(connection, made)

        engine.lane.transact(work)

    def _become(self, name: str, status: str, external_payment_id: str | None) -> None:
        current = self.get(name)
        if status == current.status.value and external_payment_id is None:
            return
        if status == InvoiceStatus.PENDING and current.status is InvoiceStatus.DRAFT:
            self.finalize(name)
        elif status == InvoiceStatus.PENDING and current.status.is_open:
            return
        elif status == InvoiceStatus.PAID:
            is_draft = current.status is InvoiceStatus.DRAFT
            if is_draft and not self.finalize(name).status.is_open and external_payment_id is None:
                # Credit of its account has paid it.
                return
            self.record_payment(name, external_payment_id=external_payment_id)
        elif status == InvoiceStatus.CANCELLED:
            self.void(name)
        elif status == InvoiceStatus.REFUNDED:
            self.refund(name, external_refund_id=external_payment_id)
        elif status in tuple(InvoiceStatus):
            raise Conflict(
                f"Invoice {current.number or name} is {current.status}; it does not become {status} by hand."
            )
        else:
            raise InvalidInput("status", status, f"Use one of {', '.join(InvoiceStatus)}.")


_NOTES_LENGTH_MAX = 1_000


def _of_status(status: str, now: int) -> ColumnElement[bool]:
    invoices = tables.invoices.c
    if status not in tuple(InvoiceStatus):
        raise InvalidInput("status", status, f"Use one of {', '.join(InvoiceStatus)}.")
    if status == InvoiceStatus.OVERDUE:
        return and_(invoices.status == InvoiceStatus.PENDING.value, invoices.due_at <= now)
    if status == InvoiceStatus.PENDING:
        return and_(invoices.status == status, or_(invoices.due_at.is_(None), invoices.due_at > now))
    return invoices.status == str(status)


def _of_key(connection: Connection, billable: str, key: str) -> Any:
    invoices = tables.invoices
    query = select(invoices).where(invoices.c.billable == billable, invoices.c.key == key)
    return connection.execute(query).first()


def _repeated(earlier: Any, given: Mapping[str, Any], key: str) -> str:
    """Return the invoice that a key stands for; what is stated now must be what was stated then."""
    first = json.loads(earlier.key_input) if earlier.key_input else {}
    for field, value in given.items():
        if first.get(field) != value:
            raise IdempotencyConflict(key, field, first.get(field), value)
    return str(earlier.id)


def _key_input(
    currency: str, charges: Sequence[Charge], due_date: object, notes: str | None, *, draft: bool
) -> dict[str, Any]:
    return {
        "currency": currency,
        "line_items": [
            [one.description, one.quantity, one.amount, one.period_start, one.period_end] for one in charges
        ],
        "due_date": None if due_date is None else str(due_date),
        "notes": notes,
        "draft": draft,
    }


def _written_charges(connection: Connection, row: Any) -> list[Charge]:
    """Read the lines of a draft as what they charge."""
    lines = tables.invoice_lines
    query = select(lines).where(lines.c.invoice_id == row.id).order_by(lines.c.position)
    return [
        Charge(
            kind=LineKind(line.kind),
            words="manual",
            amount=line.amount,
            quantity=line.quantity,
            description=line.description,
            subscription_id=line.subscription_id,
            plan_version_id=line.plan_version_id,
            resource_type=line.resource_type,
            item_id=line.item_id,
            discount_id=line.discount_id,
            period_start=line.period_start,
            period_end=line.period_end,
        )
        for line in connection.execute(query)
    ]
