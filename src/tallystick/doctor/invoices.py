"""What the doctor asks about invoices: lines against what they charge, totals against lines, and what became of them.

An invoice's totals follow from its lines and from what was carried; its status and its amounts from payments and credit
notes; and what stands on an account from all its invoices, in whatever order they were issued.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, func, or_, select, union_all

from tallystick.doctor.finding import Finding, unequal_sums
from tallystick.invoicing.numbering import NUMBER_MARK
from tallystick.invoicing.standing import Noted, Standing, tax_share
from tallystick.invoicing.totals import NO_TAX, Tax, totals
from tallystick.invoicing.values import InvoiceStatus, LineKind, PaymentKind
from tallystick.money import Money, minor_unit
from tallystick.storage import tables

__all__ = ["invoice_findings"]

_CHANGED = "An invoice that was issued never changes: restore it."
_LINES = "Its lines prove it: restore what was changed."
_FACTS = "Payments and credit notes prove it: restore what was changed."
_LOST = "A document is lost, or its number was changed: restore it."
_ROWS = 5_000

# A draft that was given up has let go of what it charged.
_IS_MEANT = or_(
    tables.invoices.c.status != InvoiceStatus.CANCELLED.value,
    tables.invoices.c.number.isnot(None),
)


def invoice_findings(connection: Connection) -> Iterator[Finding]:
    """Find what disagrees on invoices, credit notes, payments and the accounts beside them."""
    yield from _line_findings(connection)
    yield from _charge_findings(connection)
    yield from _item_findings(connection)
    yield from _overage_findings(connection)
    yield from _total_findings(connection)
    yield from _note_findings(connection)
    yield from _account_findings(connection)
    yield from _number_findings(connection)


# -- what is charged --------------------------------------------------------------------------------------------------


def _line_findings(connection: Connection) -> Iterator[Finding]:
    lines, invoices = tables.invoice_lines.c, tables.invoices.c
    charged = select(lines.invoice_id, lines.amount)
    stated = select(invoices.id, invoices.subtotal)
    yield from unequal_sums(connection, "subtotal, in nanos,", charged, stated, remedy=_LINES)


def _charge_findings(connection: Connection) -> Iterator[Finding]:
    """Compare the lines of an invoice with what was given to it: its items, and the use and overage it charges."""
    items, lines = tables.invoice_items.c, tables.invoice_lines.c
    for name, table, is_of in (
        ("items", tables.invoice_items, lines.item_id.isnot(None)),
        ("use", tables.usage_charges, lines.kind == LineKind.USAGE.value),
        ("overage", tables.overages, lines.kind == LineKind.OVERAGE.value),
    ):
        given = select(table.c.invoice_id, table.c.amount).where(table.c.invoice_id.isnot(None))
        kind = f"{name} charged, in nanos,"
        yield from unequal_sums(connection, kind, given, _meant_lines(is_of), remedy="Each thing is on one invoice.")
    # A sum may agree by chance where two items were mixed up.
    mixed = (
        select(lines.item_id, lines.invoice_id, items.invoice_id.label("given_to"))
        .join_from(tables.invoice_lines, tables.invoices, tables.invoices.c.id == lines.invoice_id)
        .join(tables.invoice_items, items.id == lines.item_id, isouter=True)
        .where(lines.item_id.isnot(None), _IS_MEANT)
        .where(or_(items.invoice_id.is_(None), items.invoice_id != lines.invoice_id))
    )
    for item_id, invoice_id, given_to in connection.execute(mixed):
        yield Finding("invoice of item", item_id, invoice_id, str(given_to), "Each thing is on one invoice.")


def _meant_lines(is_of: ColumnElement[bool]) -> Select[Any]:
    lines = tables.invoice_lines.c
    return (
        select(lines.invoice_id, lines.amount)
        .join_from(tables.invoice_lines, tables.invoices, tables.invoices.c.id == lines.invoice_id)
        .where(is_of, _IS_MEANT)
    )


def _item_findings(connection: Connection) -> Iterator[Finding]:
    """Find items that stand on several lines, as far as these are meant."""
    lines = tables.invoice_lines.c
    query = (
        select(lines.item_id, func.count())
        .join_from(tables.invoice_lines, tables.invoices, tables.invoices.c.id == lines.invoice_id)
        .where(lines.item_id.isnot(None), _IS_MEANT)
        .group_by(lines.item_id)
        .having(func.count() > 1)
    )
    for item_id, count in connection.execute(query):
        yield Finding("lines of item", item_id, "1", str(count), "It is charged more than once: credit an invoice.")


def _overage_findings(connection: Connection) -> Iterator[Finding]:
    """Find overage that an invoice charges and the billing driver has, or may have."""
    overages = tables.overages.c
    went = or_(overages.sync_started_at.isnot(None), overages.synced_at.isnot(None))
    query = select(overages.id, overages.invoice_id).where(overages.invoice_id.isnot(None), went)
    for overage_id, invoice_id in connection.execute(query):
        found = f"{invoice_id} and the billing driver"
        yield Finding("charges of overage", overage_id, "one", found, "It is charged twice: credit the invoice.")


# -- what it comes to -------------------------------------------------------------------------------------------------


def _total_findings(connection: Connection) -> Iterator[Finding]:
    """Compute each invoice anew: its totals from its subtotal, what became of it from payments and credit notes."""
    payments, notes = tables.payments.c, tables.credit_notes.c
    came = _sums(connection, tables.payments, payments.kind == PaymentKind.PAYMENT.value, payments.amount)
    went = _sums(connection, tables.payments, payments.kind == PaymentKind.REFUND.value, payments.amount)
    noted = _sums(connection, tables.credit_notes, None, notes.reduces, notes.refunds, notes.amount)
    for row in connection.execute(select(tables.invoices).execution_options(yield_per=_ROWS)):
        yield from _unlike(row.number or row.id, row.currency, _expected_totals(row), row._mapping, _CHANGED)
        if row.number is not None:
            paid, refunded = came.get(row.id, (0,))[0], went.get(row.id, (0,))[0]
            yield from _amount_findings(row, paid, refunded, _Noted(*noted.get(row.id, (0, 0, 0))))


class _Noted(NamedTuple):
    """What the credit notes of an invoice say of it."""

    reduces: int
    refunds: int
    amount: int


def _amount_findings(row: Any, paid: int, refunded: int, noted: _Noted) -> Iterator[Finding]:
    """Compare what became of an invoice with payments and credit notes, and its status with both."""
    # What came after it was voided, or beyond what was owed, is credit.
    owed = 0 if row.voided_at is not None else row.total - row.credit_applied - noted.reduces
    standing = Standing(row.total, row.credit_applied, noted.reduces, min(paid, owed), refunded)
    amounts = {name: getattr(standing, name) for name in ("amount_credited", "amount_paid", "amount_refunded")}
    yield from _unlike(row.number, row.currency, amounts, row._mapping, _FACTS)
    status = standing.status if row.voided_at is None else InvoiceStatus.CANCELLED
    if row.status != status:
        yield Finding("status", row.number, status.value, row.status, _FACTS)
    if noted.refunds != refunded:
        yield _finding("refunds on credit notes", row.number, row.currency, refunded, noted.refunds, _FACTS)
    if noted.amount > row.total:
        yield _finding("credit notes", row.number, row.currency, row.total, noted.amount, "No more than its total.")


def _sums(
    connection: Connection, table: Table, condition: ColumnElement[bool] | None, *amounts: ColumnElement[int]
) -> dict[str, tuple[int, ...]]:
    query = select(table.c.invoice_id, *(func.sum(amount) for amount in amounts)).group_by(table.c.invoice_id)
    if condition is not None:
        query = query.where(condition)
    return {row[0]: tuple(int(one) for one in row[1:]) for row in connection.execute(query)}


def _expected_totals(row: Any) -> Mapping[str, int]:
    tax = NO_TAX
    if row.tax_rate_percent is not None:
        tax = Tax(Decimal(row.tax_rate_percent), row.tax_name or "", is_inclusive=bool(row.is_tax_inclusive))
    counted = totals(row.subtotal, currency=row.currency, tax=tax, carried=row.carried_in)
    return {name: getattr(counted, name) for name in ("carried_out", "net", "tax", "total")}


def _note_findings(connection: Connection) -> Iterator[Finding]:
    """Compute each credit note anew: its parts make its amount, and its tax is its share of the invoice's."""
    notes, invoices = tables.credit_notes, tables.invoices
    query = (
        select(notes, invoices.c.total.label("of_total"), invoices.c.tax.label("of_tax"))
        .join_from(notes, invoices, invoices.c.id == notes.c.invoice_id, isouter=True)
        .order_by(notes.c.invoice_id, notes.c.issued_at, notes.c.id)
    )
    before: dict[str, Noted] = defaultdict(Noted)
    for row in connection.execute(query.execution_options(yield_per=_ROWS)):
        if row.of_total is None:
            yield Finding("credit note", row.number, f"invoice {row.invoice_id}", "none", _LOST)
            continue
        noted = before[row.invoice_id]
        tax = tax_share(row.of_tax, row.of_total, noted, row.amount, unit=minor_unit(row.currency))
        expected = {"amount": row.reduces + row.refunds + row.credits, "tax": tax}
        yield from _unlike(row.number, row.currency, expected, row._mapping, "A credit note never changes: restore it.")
        before[row.invoice_id] = Noted(noted.amount + row.amount, noted.tax + row.tax)


def _unlike(
    name: str, currency: str, expected: Mapping[str, int], found: Mapping[Any, Any], remedy: str
) -> Iterator[Finding]:
    for field, amount in expected.items():
        if found[field] != amount:
            yield _finding(field, name, currency, amount, found[field], remedy)


def _finding(kind: str, name: str, currency: str, expected: int, found: int, remedy: str) -> Finding:
    was, now = (str(Money.from_nanos(nanos, currency)) for nanos in (expected, found))
    return Finding(kind, name, was, now, remedy)


# -- beside them ------------------------------------------------------------------------------------------------------


def _account_findings(connection: Connection) -> Iterator[Finding]:
    """Sum up what all invoices of an account left and used, which their order does not change."""
    accounts, invoices, payments, notes = (
        tables.billing_accounts.c,
        tables.invoices.c,
        tables.payments.c,
        tables.credit_notes.c,
    )
    is_issued, is_owed = invoices.number.isnot(None), invoices.voided_at.is_(None)
    left = select(invoices.billable, invoices.currency, invoices.carried_out - invoices.carried_in).where(is_issued)
    carried = select(accounts.billable, accounts.currency, accounts.carried)
    remedy = "In nanos. All invoices of the account prove it."
    yield from unequal_sums(connection, "carried", left, carried, remedy=remedy)
    came = payments.kind == PaymentKind.PAYMENT.value
    sides = union_all(
        select(payments.billable, payments.currency, payments.amount.label("amount")).where(came),
        select(invoices.billable, invoices.currency, -invoices.amount_paid).where(is_issued),
        select(invoices.billable, invoices.currency, -invoices.credit_applied).where(is_issued, is_owed),
        select(notes.billable, notes.currency, notes.credits),
    ).subquery()
    credit = select(accounts.billable, accounts.currency, accounts.credit)
    remedy = "In nanos. Overpayments and credit notes, less what invoices used, prove it."
    yield from unequal_sums(connection, "credit", select(sides), credit, remedy=remedy)


def _number_findings(connection: Connection) -> Iterator[Finding]:
    """Find gaps in the numbers of invoices and credit notes: each number from 1 to the last of its series is there."""
    series = tables.number_series.c
    query = select(series.series, series.last_number)
    last: dict[str, int] = {name: int(number) for name, number in connection.execute(query)}
    # A format may be the beginning of another: the one that says more is the right one.
    patterns = {name: _pattern(name) for name in sorted(last, key=lambda one: (-len(one), one))}
    found: dict[str, set[int]] = defaultdict(set)
    for number in connection.execute(_numbers()).scalars():
        matches = ((name, pattern.fullmatch(number)) for name, pattern in patterns.items() if pattern is not None)
        series_of, match = next(((name, match) for name, match in matches if match), (None, None))
        if series_of is not None and match is not None:
            found[series_of].add(int(re.sub("[,_]", "", match.group(1))))
        elif None not in patterns.values():
            yield Finding("series of number", number, "one that is counted", "none", _LOST)
    for name, pattern in patterns.items():
        if pattern is not None:
            yield from _gaps(re.sub(_MARK, "…", name), last[name], found[name])


# The number may be grouped: {number:,}.
_MARK = "[,_]?".join(str(NUMBER_MARK))


def _pattern(series: str) -> re.Pattern[str] | None:
    """Return what the numbers of a series look like; None where its format writes numbers in a way of its own."""
    parts = re.split(_MARK, series)
    return re.compile("([0-9,_]+)".join(re.escape(part) for part in parts)) if len(parts) > 1 else None


def _gaps(series: str, last: int, found: set[int]) -> Iterator[Finding]:
    wanted = set(range(1, last + 1))
    for numbers, word in ((wanted - found, "without"), (found - wanted, "also")):
        if numbers:
            yield Finding("numbers", series, f"1 to {last}", f"{word} {_some(sorted(numbers))}", _LOST)


def _numbers() -> Select[Any]:
    invoices, notes = tables.invoices.c, tables.credit_notes.c
    both = union_all(select(invoices.number).where(invoices.number.isnot(None)), select(notes.number)).subquery()
    return select(both.c[0])


def _some(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:5])
    return shown if len(numbers) <= 5 else f"{shown} and {len(numbers) - 5} more"
