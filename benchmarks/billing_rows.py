"""Customers with subscriptions, what they use in a month, and the rows of an invoice, as the engine writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Table

from benchmarks.databases import Database
from benchmarks.workload import SAMPLE, Row
from benchmarks.writes import (
    BILLING_ACCOUNTS,
    INVOICE_LINES,
    INVOICES,
    ITEMS,
    NEW_NOTIFICATIONS,
    SUBSCRIPTION_CURSORS,
    TAKEN_OVERAGES,
    TAKEN_USE,
    Write,
    literal,
)
from tallystick import FixedClock, Money, Tallystick
from tallystick.identity import new_id
from tallystick.period import to_micros
from tallystick.storage import tables

__all__ = ["CHARGES", "OVERAGES", "InvoiceSample", "Month", "add_customers", "add_use", "month", "pay", "read_invoice"]

CHARGES, OVERAGES = 20, 2
"""How often each customer uses what costs something, and goes past a limit, in a month."""

_PLAN = "billed"
_SAMPLE = "inv_sample"
_FIRST_YEAR = 2031
_DAY_MICROS = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month by its number from the first, in µs."""

    number: int
    start: int
    end: int


def month(number: int) -> Month:
    return Month(number, _month_start(number), _month_start(number + 1))


def add_customers(database: Database, count: int) -> None:
    """Subscribe so many customers to a plan with a price, prices for use, and overage; the first month is billed.

    The engine writes one of them, of which the others are copies. Only these subscriptions are billed from then on.
    """
    first = month(0)
    clock = FixedClock(datetime.fromtimestamp(first.start / 1e6, UTC))
    with Tallystick(database.url, clock=clock) as ts:
        ts.plans.create(
            _PLAN,
            price=Money("99", "USD"),
            monthly_token_limit=1,
            overage_behavior="charge",
            overage_price_per_1k_tokens=Money("0.01", "USD"),
            usage_prices={"message": {"model": "per_unit", "price": "0.01"}},
        )
        subscription = ts.subscriptions.create(_customer(0), _PLAN)
        ts.run_due_jobs()
        clock.advance(days=10)
        ts.usage.log(_customer(0), "message", 5)
        ts.usage.record(billable=_customer(0), provider="manual", model="m", input_tokens=3000, total_cost=0)
    own = {**_only(database, tables.subscriptions, f"id = '{subscription.id}'")}
    copies = [{**own, "id": new_id("sub"), "billable": _customer(number)} for number in range(1, count)]
    with closing(database.connect()) as connection:
        connection.execute("BEGIN")
        connection.execute(f"UPDATE subscriptions SET next_billing_at = NULL WHERE id <> '{own['id']}'")
        for table in (tables.usage_charges, tables.overages):
            # What the engine has written is what the use of every month is made from, and is not billed itself.
            connection.execute(f"UPDATE {table.name} SET invoice_id = '{_SAMPLE}'")
        _insert(connection, database, Write(tables.subscriptions, tuple(own)), copies)
        connection.execute("COMMIT")


def add_use(database: Database, of: Month) -> None:
    """Let every customer use as much in a month as the engine's own one did in the first, so many times over."""
    with closing(database.connect()) as connection:
        connection.execute("BEGIN")
        for table, prefix, times in ((tables.usage_charges, "uch", CHARGES), (tables.overages, "ovg", OVERAGES)):
            sample = _only(database, table, f"invoice_id = '{_SAMPLE}'")
            number = f"'{prefix}_month' || {of.number} || subscriptions.id || turn"
            values = {
                **{column: literal(value) for column, value in sample.items()},
                "id": number,
                "event_id": number,
                "billable": "subscriptions.billable",
                "subscription_id": "subscriptions.id",
                "invoice_id": "NULL",
                "occurred_at": f"{of.start + _DAY_MICROS} + turn",
                "period_start": str(of.start),
                "period_end": str(of.end),
            }
            turns = " UNION ALL ".join(f"SELECT {turn} AS turn" for turn in range(times))
            connection.execute(
                f"INSERT INTO {table.name} ({', '.join(values)}) SELECT {', '.join(values.values())} "
                f"FROM subscriptions CROSS JOIN ({turns}) AS turns WHERE next_billing_at = {of.end}"
            )
        connection.execute("COMMIT")


def pay(database: Database) -> None:
    """Pay every invoice, so that the next run has nobody to remind."""
    with closing(database.connect()) as connection:
        connection.execute("BEGIN")
        paid = "status = 'paid', paid_at = issued_at, amount_paid = total"
        connection.execute(f"UPDATE invoices SET {paid} WHERE status = 'pending'")
        connection.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class InvoiceSample:
    """What the engine has written of one invoice of a month."""

    item: Mapping[str, Any]
    invoice: Mapping[str, Any]
    lines: tuple[Mapping[str, Any], ...]
    account: Mapping[str, Any]
    notification: Mapping[str, Any]
    series: str

    def like(self, subscription_id: str, billable: str, of: Month) -> dict[Write, list[Row]]:
        """Return the rows of one more invoice like it, of another customer, and of what it takes in a month."""
        invoice_id, item_id = new_id("inv"), new_id("itm")
        own = {"billable": billable, "subscription_id": subscription_id}
        item = {**self.item, **own, "id": item_id, "invoice_id": invoice_id, "key": item_id}
        notification = {**self.notification, "billable": billable, "id": new_id("ntf"), "key": None}
        return {
            ITEMS: _rows(ITEMS, [item]),
            TAKEN_USE: [(invoice_id, billable, of.end)],
            TAKEN_OVERAGES: [(invoice_id, billable, of.end)],
            INVOICES: _rows(INVOICES, [{**self.invoice, **own, "id": invoice_id, "number": invoice_id}]),
            INVOICE_LINES: _rows(INVOICE_LINES, ({**line, "invoice_id": invoice_id} for line in self.lines)),
            BILLING_ACCOUNTS: _rows(BILLING_ACCOUNTS, [{**self.account, "billable": billable}]),
            SUBSCRIPTION_CURSORS: [(of.end, month(of.number + 1).end, subscription_id)],
            NEW_NOTIFICATIONS: _rows(NEW_NOTIFICATIONS, [notification]),
        }


def read_invoice(database: Database) -> InvoiceSample:
    """Read the engine's rows of some customer's newest invoice; a month with use must have been billed."""
    invoice = _only(database, tables.invoices, f"billable = '{_customer(1)}' ORDER BY created_at DESC, id DESC LIMIT 1")
    of_invoice = f"invoice_id = '{invoice['id']}'"
    (series,) = database.query("SELECT series FROM number_series ORDER BY last_number DESC LIMIT 1")[0]
    newest = f"billable = '{_customer(1)}' ORDER BY created_at DESC LIMIT 1"
    return InvoiceSample(
        item=_only(database, tables.invoice_items, of_invoice),
        invoice=invoice,
        lines=tuple(_all(database, tables.invoice_lines, of_invoice)),
        account=_only(database, tables.billing_accounts, f"billable = '{_customer(1)}'"),
        notification=_only(database, tables.notifications, newest),
        series=series,
    )


def _customer(number: int) -> str:
    return f"{SAMPLE.partition(':')[0]}:customer-{number}"


def _month_start(number: int) -> int:
    return to_micros(datetime(_FIRST_YEAR + number // 12, number % 12 + 1, 1, tzinfo=UTC))


def _only(database: Database, table: Table, condition: str) -> Mapping[str, Any]:
    (row,) = _all(database, table, condition)
    return row


def _all(database: Database, table: Table, condition: str) -> list[Mapping[str, Any]]:
    names = [column.name for column in table.columns]
    found = database.query(f"SELECT {', '.join(names)} FROM {table.name} WHERE {condition}")
    return [dict(zip(names, row, strict=True)) for row in found]


def _rows(write: Write, columns: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [tuple(itemgetter(*write.columns)(one)) for one in columns]


def _insert(connection: Any, database: Database, write: Write, columns: Iterable[Mapping[str, Any]]) -> None:
    connection.cursor().executemany(write.sql(database.databases.placeholder), _rows(write, columns))
