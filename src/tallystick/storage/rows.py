"""Small things that statements on many rows need, on either database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["insert_into", "portions"]

# SQLite limits how many values one statement may have.
_PORTION = 500


def insert_into(connection: Connection, table: Table) -> Any:
    """Return an INSERT of the connection's own dialect, which knows `on_conflict_do_nothing` and `…_do_update`."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def portions(values: Iterable[str], size: int = _PORTION) -> Iterator[list[str]]:
    """Cut values into lists that one statement can take."""
    ordered = list(values)
    return (ordered[start : start + size] for start in range(0, len(ordered), size))
