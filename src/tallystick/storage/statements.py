"""The lane's SQL, written once from the table descriptions, for both drivers.

SQLAlchemy describes the tables; the driver runs these texts. Executing through SQLAlchemy would cost two to four times
as much on statements this small. SQLite runs a statement for each row, inside the process; PostgreSQL gets all rows of
a table at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from tallystick.storage import tables

__all__ = [
    "ACCOUNT_COLUMNS",
    "COUNTER_COLUMNS",
    "EVENT_COLUMNS",
    "GRANTS_FIRST",
    "GRANT_COLUMNS",
    "ROLLUP_SUMS",
    "SAVES",
    "TRANSACTION_COLUMNS",
    "Save",
    "grants_sql",
    "json_rows",
    "recordset",
]

ROLLUP_SUMS = ("events", "unpriced_events", "quantity", "input_tokens", "output_tokens", "total_tokens", "total_cost")
COUNTER_COLUMNS = tuple(column.name for column in tables.counters.columns)
EVENT_COLUMNS = tuple(column.name for column in tables.usage_events.columns)
TRANSACTION_COLUMNS = tuple(column.name for column in tables.credit_transactions.columns)
# What the lane reads of accounts and grants, in the order of `AccountState` and `GrantState`.
ACCOUNT_COLUMNS = (
    "id",
    "paid",
    "promotional",
    "overdraft",
    "held",
    "last_number",
    "top_up_state",
    "minimum_balance",
    "overdraft_limit",
    "top_up_below",
    "top_up_amount",
    "top_up_monthly_max",
)
GRANT_COLUMNS = (
    "id",
    "kind",
    "remaining",
    "held",
    "priority",
    "feature",
    "subscription_id",
    "limit_amount",
    "limit_period",
    "expires_at",
    "warned_at",
    "created_at",
)


@dataclass(frozen=True, slots=True)
class Save:
    """One set-based write: rows of `columns` into `table`, in the way of `on_conflict` or as an update by key.

    `source` is the name of the rows in `Workspace.rows()`.
    """

    source: str
    table: Table
    columns: tuple[str, ...]
    replace: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    ignore_existing: bool = False
    update_by: tuple[str, ...] = ()
    delete_by: tuple[str, ...] = ()

    def row_sql(self) -> str:
        """Return the statement for one row, for SQLite: its values are bound in the order of `columns`."""
        name = self.table.name
        if self.delete_by:
            return f"DELETE FROM {name} WHERE {_equal(self.delete_by, '?', ' AND ')}"
        if self.update_by:
            changed = tuple(column for column in self.columns if column not in self.update_by)
            return f"UPDATE {name} SET {_equal(changed, '?', ', ')} WHERE {_equal(self.update_by, '?', ' AND ')}"
        values = ", ".join(["?"] * len(self.columns))
        return f"INSERT INTO {name} ({', '.join(self.columns)}) VALUES ({values}){self._on_conflict()}"

    def set_sql(self) -> str:
        """Return the statement for many rows, for PostgreSQL: they are bound as one JSON text of `json_rows`."""
        name = self.table.name
        source = recordset(self.table, self.columns)
        if self.delete_by:
            return f"DELETE FROM {name} USING {source} WHERE {_matching(name, self.delete_by)}"
        if self.update_by:
            changed = ", ".join(f"{column} = r.{column}" for column in self.columns if column not in self.update_by)
            return f"UPDATE {name} SET {changed} FROM {source} WHERE {_matching(name, self.update_by)}"
        columns = ", ".join(self.columns)
        return f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {source}{self._on_conflict()}"

    def _on_conflict(self) -> str:
        if self.ignore_existing:
            return " ON CONFLICT DO NOTHING"
        if not (self.replace or self.add):
            return ""
        key = ", ".join(column.name for column in self.table.primary_key)
        changes = [f"{column} = excluded.{column}" for column in self.replace]
        changes += [f"{column} = {self.table.name}.{column} + excluded.{column}" for column in self.add]
        return f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}"


def recordset(table: Table, columns: Iterable[str]) -> str:
    """Return PostgreSQL's reading of a JSON text of rows as a relation `r` with these columns of a table."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types for it
    typed = ", ".join(f"{name} {table.columns[name].type.compile(dialect)}" for name in columns)
    return f"json_to_recordset(%s::json) AS r ({typed})"


def json_rows(columns: tuple[str, ...], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as the JSON text that `recordset` reads. One text is bound much faster than many values."""
    return json.dumps([dict(zip(columns, row, strict=True)) for row in rows], separators=(",", ":"))


def _matching(table: str, columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{table}.{column} = r.{column}" for column in columns)


def _equal(columns: tuple[str, ...], placeholder: str, separator: str) -> str:
    return separator.join(f"{column} = {placeholder}" for column in columns)


def _all(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


def _until(table: Table, last: str) -> tuple[str, ...]:
    """Return the columns that a new row has, up to `last`: what comes after it is written when it is billed."""
    columns = _all(table)
    return columns[: columns.index(last) + 1]


_FREED_KEY = ("billable", "key", "hold_id")

# Of a wallet with many grants the first of them are read, and the rest only where these do not suffice.
GRANTS_FIRST = 32
_BURN_ORDER = {
    False: "priority, created_at, id",
    True: "priority, COALESCE(expires_at, 9223372036854775807), created_at, id",
}


def grants_sql(*, expiring_first: bool) -> str:
    """Return the query for an account's open grants in the order in which they burn: that of `account.burn_order`."""
    return (
        f"SELECT {', '.join(GRANT_COLUMNS)} FROM grants WHERE billable = {{billable}} AND unit = {{unit}} "
        f"AND remaining > 0 ORDER BY {_BURN_ORDER[expiring_first]} LIMIT {{limit}}"
    )


# A new grant's own columns, then what this batch has already made of it.
NEW_GRANT_COLUMNS = (
    "id",
    "billable",
    "unit",
    "kind",
    "amount",
    "priority",
    "reason",
    "granted_by",
    "feature",
    "subscription_id",
    "limit_amount",
    "limit_period",
    "metadata",
    "expires_at",
    "created_at",
    "remaining",
    "held",
    "warned_at",
)

# In this order: a row is written after the rows that it names.
SAVES: tuple[Save, ...] = (
    Save("new_accounts", tables.accounts, _all(tables.accounts), ignore_existing=True),
    Save("counters", tables.counters, COUNTER_COLUMNS, replace=("used", "held")),
    Save("new_holds", tables.holds, _all(tables.holds)),
    Save("closed_holds", tables.holds, ("status", "event_id", "closed_at", "id"), update_by=("id",)),
    Save("events", tables.usage_events, EVENT_COLUMNS),
    Save("hourly", tables.usage_hourly, _all(tables.usage_hourly), add=ROLLUP_SUMS),
    Save("daily", tables.usage_daily, _all(tables.usage_daily), add=ROLLUP_SUMS),
    Save("overages", tables.overages, _until(tables.overages, "is_synced")),
    Save("usage_charges", tables.usage_charges, _until(tables.usage_charges, "created_at")),
    Save("credit_accounts", tables.credit_accounts, _all(tables.credit_accounts), replace=ACCOUNT_COLUMNS[1:]),
    Save("new_grants", tables.grants, NEW_GRANT_COLUMNS),
    Save("grants", tables.grants, ("remaining", "held", "warned_at", "id"), update_by=("id",)),
    Save("credit_transactions", tables.credit_transactions, _all(tables.credit_transactions)),
    Save("ledger_entries", tables.ledger_entries, _all(tables.ledger_entries)),
    Save("feature_uses", tables.feature_uses, _all(tables.feature_uses)),
    Save("new_top_ups", tables.top_ups, _all(tables.top_ups)),
    Save("new_alerts", tables.quota_alerts, _all(tables.quota_alerts)),
    Save("new_shadow_refusals", tables.shadow_refusals, _all(tables.shadow_refusals)),
    Save("new_notifications", tables.notifications, _all(tables.notifications)),
    Save("new_messages", tables.outbox, _all(tables.outbox)),
    Save("closed_top_ups", tables.top_ups, ("status", "transaction_id", "note", "closed_at", "id"), update_by=("id",)),
    Save("freed_keys", tables.idempotency_keys, _FREED_KEY, delete_by=_FREED_KEY),
    Save(
        "kept_keys",
        tables.idempotency_keys,
        _all(tables.idempotency_keys),
        replace=("fingerprint", "hold_id", "event_id", "outcome"),
    ),
)
