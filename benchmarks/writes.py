"""What a pair writes, as plain SQL for one row each: the engine's own tables, in the form that any driver takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count

from sqlalchemy import Table

from tallystick.storage import tables

__all__ = ["CLOSED_HOLDS", "COUNTERS", "EVENTS", "HOLD", "NEW_HOLDS", "ROLLUPS", "SETTLEMENT", "Write"]


@dataclass(frozen=True, slots=True)
class Write:
    """A row for a table: inserted; or replacing or adding to the row that has its key; or changing the row of an id."""

    table: Table
    columns: tuple[str, ...]
    on_conflict: str = ""
    is_update: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.table.primary_key)

    @property
    def amounts(self) -> tuple[str, ...]:
        """The columns beside the key."""
        return tuple(column for column in self.columns if column not in self.key)

    def sql(self, placeholder: str) -> str:
        """Return the statement; its values are bound in the order of `columns`."""
        name = self.table.name
        if self.is_update:
            changes = ", ".join(f"{column} = {placeholder}" for column in self.amounts)
            return f"UPDATE {name} SET {changes} WHERE id = {placeholder}"
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

HOLD = (COUNTERS, NEW_HOLDS)
"""The transaction of a hold."""
SETTLEMENT = (COUNTERS, CLOSED_HOLDS, EVENTS, *ROLLUPS)
"""The transaction of a settlement."""
