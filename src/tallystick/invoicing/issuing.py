"""Making invoices: drafts, and issuing them, many in one transaction.

To issue is to take a number, to bill the whole cents that the account has reached and carry the rest, to use its
credit, and to freeze who sends the invoice to whom. After that nothing of it changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select, update

from tallystick.identity import new_id
from tallystick.invoicing.details import Addressee, seller_of
from tallystick.invoicing.lines import Charge, line_of
from tallystick.invoicing.numbering import take_numbers
from tallystick.invoicing.reading import line_row
from tallystick.invoicing.totals import Totals, totals
from tallystick.invoicing.values import InvoiceStatus
from tallystick.period import MAX_MICROS, from_micros, to_micros
from tallystick.plans.cycle import Span
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "BillingAccount",
    "Draft",
    "change_credit",
    "draft_of_row",
    "issue",
    "lock_billing_accounts",
    "rewrite_draft",
    "write_drafts",
]


@dataclass(frozen=True, slots=True)
class Draft:
    """An invoice before its issue. `charges` are its lines, in order, discounts among them; µs and nanos."""

    addressee: Addressee
    currency: str
    charges: tuple[Charge, ...]
    id: str = field(default_factory=lambda: new_id("inv"))
    subscription_id: str | None = None
    period: Span | None = None
    due_at: int | None = None
    notes: str | None = None
    metadata: str | None = None
    key: str | None = None
    key_input: str | None = None

    @property
    def subtotal(self) -> int:
        return sum(one.amount for one in self.charges)


@dataclass(slots=True)
class BillingAccount:
    """What an account brings to its next invoice, in nanos: what was carried (before tax), and credit (after it)."""

    billable: str
    currency: str
    carried: int
    credit: int


def lock_billing_accounts(
    connection: Connection, names: Iterable[tuple[str, str]], at: int
) -> dict[tuple[str, str], BillingAccount]:
    """Read accounts by billable and currency, made where they are new; locked until the transaction ends."""
    accounts = tables.billing_accounts
    ordered = sorted(set(names))
    found: dict[tuple[str, str], BillingAccount] = {}
    if not ordered:
        return found
    blank = {"carried": 0, "credit": 0, "updated_at": at}
    rows = [{"billable": billable, "currency": currency, **blank} for billable, currency in ordered]
    connection.execute(insert_into(connection, accounts).on_conflict_do_nothing(), rows)
    wanted = set(ordered)
    for start in range(0, len(ordered), 500):
        named = accounts.c.billable.in_({billable for billable, _ in ordered[start : start + 500]})
        query = select(accounts).where(named).order_by(accounts.c.billable, accounts.c.currency).with_for_update()
        for row in connection.execute(query):
            if (row.billable, row.currency) in wanted:
                found[row.billable, row.currency] = BillingAccount(row.billable, row.currency, row.carried, row.credit)
    return found


def change_credit(connection: Connection, billable: str, currency: str, amount: int, at: int) -> None:
    """Add to the credit of an account, in nanos. Its next invoices use it."""
    account = lock_billing_accounts(connection, [(billable, currency)], at)[billable, currency]
    account.credit += amount
    _save_accounts(connection, [account], at)


def write_drafts(connection: Connection, drafts: Sequence[Draft], at: int) -> None:
    """Write invoices that wait to be issued. They have no number, and nothing is carried or paid by credit yet."""
    rows = []
    for draft in drafts:
        counted = totals(draft.subtotal, currency=draft.currency, tax=draft.addressee.tax)
        # What would be carried is decided when it is issued.
        rows.append(_row(draft, counted, InvoiceStatus.DRAFT) | {"created_at": at, "due_at": draft.due_at})
    _insert(connection, drafts, rows)


def rewrite_draft(connection: Connection, draft: Draft) -> None:
    """Replace what a draft says that stands in the database."""
    lines = tables.invoice_lines
    connection.execute(lines.delete().where(lines.c.invoice_id == draft.id))
    counted = totals(draft.subtotal, currency=draft.currency, tax=draft.addressee.tax)
    _rewrite(connection, [_row(draft, counted, InvoiceStatus.DRAFT) | {"due_at": draft.due_at}])
    _insert_lines(connection, [draft])


def issue(
    connection: Connection, engine: Engine, drafts: Sequence[Draft], at: int, *, are_written: bool = False
) -> list[str]:
    """Issue invoices, in order. Returns the ids of those that are paid by that: nothing is due of them.

    `are_written` says that they stand in the database as drafts.
    """
    accounts = lock_billing_accounts(connection, ((one.addressee.billable, one.currency) for one in drafts), at)
    number_format = engine.settings.invoicing.number_format
    numbers = take_numbers(connection, engine.settings, number_format, len(drafts), at) if drafts else []
    seller = seller_of(engine).to_dict()
    rows: list[dict[str, Any]] = []
    paid: list[str] = []
    for draft, number in zip(drafts, numbers, strict=True):
        account = accounts[draft.addressee.billable, draft.currency]
        counted = totals(
            draft.subtotal,
            currency=draft.currency,
            tax=draft.addressee.tax,
            carried=account.carried,
            credit=account.credit,
        )
        account.carried = counted.carried_out
        account.credit -= counted.credit_applied
        is_paid = counted.total == counted.credit_applied
        if is_paid:
            paid.append(draft.id)
        due_at = draft.due_at
        if due_at is None:
            due_at = to_micros(from_micros(at) + timedelta(days=draft.addressee.due_days))
        details = {"seller": seller, "customer": draft.addressee.party.to_dict(), "zone": draft.addressee.zone}
        rows.append(
            _row(draft, counted, InvoiceStatus.PAID if is_paid else InvoiceStatus.PENDING)
            | {
                "number": number,
                "details": json.dumps(details, separators=(",", ":"), ensure_ascii=False),
                "created_at": at,
                "issued_at": at,
                "due_at": due_at,
                "paid_at": at if is_paid else None,
            }
        )
    if are_written:
        _rewrite(connection, rows)
    else:
        _insert(connection, drafts, rows)
    _save_accounts(connection, accounts.values(), at)
    return paid


def draft_of_row(row: Any, charges: Sequence[Charge], addressee: Addressee) -> Draft:
    """Return a draft that stands in the database, by its row and its lines."""
    period = None
    if row.period_start is not None:
        period = Span(row.period_start, MAX_MICROS if row.period_end is None else row.period_end)
    return Draft(
        addressee=addressee,
        currency=row.currency,
        charges=tuple(charges),
        id=row.id,
        subscription_id=row.subscription_id,
        period=period,
        due_at=row.due_at,
        notes=row.notes,
        metadata=row.metadata,
        key=row.key,
        key_input=row.key_input,
    )


def _row(draft: Draft, counted: Totals, status: InvoiceStatus) -> dict[str, Any]:
    tax = draft.addressee.tax
    has_end = draft.period is not None and draft.period.end < MAX_MICROS
    return {
        "id": draft.id,
        "billable": draft.addressee.billable,
        "number": None,
        "status": status.value,
        "currency": draft.currency,
        "subscription_id": draft.subscription_id,
        "period_start": None if draft.period is None else draft.period.start,
        "period_end": draft.period.end if draft.period is not None and has_end else None,
        **counted._asdict(),
        "amount_paid": 0,
        "amount_credited": 0,
        "amount_refunded": 0,
        "tax_rate_percent": str(tax.rate_percent) if tax.rate_percent else None,
        "tax_name": tax.name if tax.rate_percent else None,
        "is_tax_inclusive": tax.is_inclusive,
        "details": None,
        "locale": draft.addressee.locale,
        "notes": draft.notes if draft.notes is not None else draft.addressee.notes,
        "metadata": draft.metadata,
        "key": draft.key,
        "key_input": draft.key_input,
        "issued_at": None,
        "paid_at": None,
    }


def _insert(connection: Connection, drafts: Sequence[Draft], rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    connection.execute(tables.invoices.insert(), list(rows))
    _insert_lines(connection, drafts)


def _insert_lines(connection: Connection, drafts: Sequence[Draft]) -> None:
    lines = [
        line_row(draft.id, position, line_of(charge, draft.currency, draft.addressee.locale), charge.quantity)
        for draft in drafts
        for position, charge in enumerate(draft.charges)
    ]
    if lines:
        connection.execute(tables.invoice_lines.insert(), lines)


def _rewrite(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    invoices = tables.invoices
    for row in rows:
        values = {name: value for name, value in row.items() if name not in ("id", "created_at")}
        connection.execute(update(invoices).where(invoices.c.id == row["id"]).values(**values))


def _save_accounts(connection: Connection, changed: Iterable[BillingAccount], at: int) -> None:
    accounts = tables.billing_accounts
    rows = [
        {
            "billable": one.billable,
            "currency": one.currency,
            "carried": one.carried,
            "credit": one.credit,
            "updated_at": at,
        }
        for one in changed
    ]
    if not rows:
        return
    insert = insert_into(connection, accounts)
    replaced = {name: insert.excluded[name] for name in ("carried", "credit", "updated_at")}
    connection.execute(insert.on_conflict_do_update(index_elements=list(accounts.primary_key), set_=replaced), rows)
