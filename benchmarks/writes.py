"""What pairs and deductions write, as plain SQL for one row each: the engine's own tables, in a form for any driver."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import Table

from tallystick.storage import tables

__all__ = [
    "BILLING_ACCOUNTS",
    "CLOSED_HOLDS",
    "COUNTERS",
    "CREDIT_ACCOUNTS",
    "DEDUCTION",
    "EVENTS",
    "GRANTS",
    "HOLD",
    "INVOICES",
    "INVOICE_LINES",
    "ITEMS",
    "LEDGER_ENTRIES",
    "NEW_GRANTS",
    "NEW_HOLDS",
    "NEW_NOTIFICATIONS",
    "NUMBER_SERIES",
    "ROLLUPS",
    "SETTLEMENT",
    "STATEMENT_LINES",
    "SUBSCRIPTION_CURSORS",
    "TAKEN_OVERAGES",
    "TAKEN_USE",
    "Write",
    "literal",
]


@dataclass(frozen=True, slots=True)
class Write:
    """A row for a table: inserted; or replacing or adding to the row that has its key; or changing the row of an id.

    Of a row that is there already, the columns `kept` stay as they are. What is changed may be said by `where` instead
    of by an id.
    """

    table: Table
    columns: tuple[str, ...]
    on_conflict: str = ""
    is_update: bool = False
    kept: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.table.primary_key)

    @property
    def amounts(self) -> tuple[str, ...]:
        """The columns beside the key that change."""
        return tuple(column for column in self.columns if column not in self.key and column not in self.kept)

    def sql(self, placeholder: str) -> str:
        """Return the statement; its values are bound in the order of `columns`."""
        name = self.table.name
        if self.is_update:
            changes = ", ".join(f"{column} = {placeholder}" for column in self.amounts)
            condition = " AND ".join(one.format(placeholder) for one in self.where or ("id = {}",))
            return f"UPDATE {name} SET {changes} WHERE {condition}"
        values = ", ".join([placeholder] * len(self.columns))
        insert = f"INSERT INTO {name} ({', '.join(self.columns)}) VALUES ({values})"
        if not self.on_conflict:
            return insert
        before = f"{name}.{{0}} + " if self.on_conflict == "add" else ""
        changes = ", ".join(f"{column} = {before.format(column)}excluded.{column}" for column in self.amounts)
        return f"{insert} ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {changes}"

    def numbered_sql(self, first: int) -> str:
        """Return the statement with PostgreSQL's own placeholders: `$first`, and so on."""
        numbers = count(first)
        return re.sub(r"\?", lambda _: f"${next(numbers)}", self.sql("?"))


def _whole(table: Table, on_conflict: str = "") -> Write:
    return Write(table, tuple(column.name for column in table.columns), on_conflict)


COUNTERS = _whole(tables.counters, "replace")
ROLLUPS = (_whole(tables.usage_hourly, "add"), _whole(tables.usage_daily, "add"))
NEW_HOLDS = _whole(tables.holds)
CLOSED_HOLDS = Write(tables.holds, ("status", "event_id", "closed_at", "id"), is_update=True)
EVENTS = _whole(tables.usage_events)
CREDIT_ACCOUNTS = Write(
    tables.credit_accounts,
    tuple(column.name for column in tables.credit_accounts.columns),
    "replace",
    kept=("id", "created_at"),
)
NEW_GRANTS = _whole(tables.grants)
GRANTS = Write(tables.grants, ("remaining", "held", "warned_at", "id"), is_update=True)
STATEMENT_LINES = _whole(tables.credit_transactions)
LEDGER_ENTRIES = _whole(tables.ledger_entries)

ITEMS = _whole(tables.invoice_items)
INVOICES = _whole(tables.invoices)
INVOICE_LINES = _whole(tables.invoice_lines)
BILLING_ACCOUNTS = _whole(tables.billing_accounts, "replace")
NUMBER_SERIES = _whole(tables.number_series, "add")
NEW_NOTIFICATIONS = _whole(tables.notifications)
SUBSCRIPTION_CURSORS = Write(tables.subscriptions, ("billed_until", "next_billing_at", "id"), is_update=True)
_WAITS = ("billable = {}", "invoice_id IS NULL", "occurred_at < {}")
TAKEN_USE = Write(tables.usage_charges, ("invoice_id",), is_update=True, where=_WAITS)
TAKEN_OVERAGES = Write(tables.overages, ("invoice_id",), is_update=True, where=(*_WAITS, "sync_started_at IS NULL"))

HOLD = (COUNTERS, NEW_HOLDS)
"""The transaction of a hold."""
SETTLEMENT = (COUNTERS, CLOSED_HOLDS, EVENTS, *ROLLUPS)
"""The transaction of a settlement."""
DEDUCTION = (CREDIT_ACCOUNTS, GRANTS, STATEMENT_LINES, LEDGER_ENTRIES, LEDGER_ENTRIES)
"""The transaction of a deduction that one grant can give."""


def literal(value: Any) -> str:
    """Return a value that was read as SQL writes it."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
