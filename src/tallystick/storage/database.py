"""What the lane asks of a database: open a transaction on some billables, load rows, save rows, commit.

Two implementations, one for each database. Everything between `start` and `save_and_commit` or `rollback` is one
transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import Connection

from tallystick.credits.account import AccountState, CreditKey, GrantState, Pin
from tallystick.credits.ledger import Entry
from tallystick.limits.counters import Claim, CounterKey
from tallystick.storage.statements import ACCOUNT_COLUMNS
from tallystick.storage.workspace import HoldRow, Workspace

__all__ = [
    "HOLD_COLUMNS",
    "Database",
    "Journal",
    "add_entry",
    "add_grant",
    "claims_text",
    "hold_from_row",
    "new_account",
    "pins_text",
]

HOLD_COLUMNS = ("id", "billable", "status", "claims", "expires_at", "idempotency_key", "event_id", "pins")
"""What the lane reads of a hold."""

# Terms changes since a revision: [(revision, billable or None), ...]
Journal = list[tuple[int, str | None]]


class Database(Protocol):
    """One connection of one database, used by one thread at a time: whoever holds the lane's baton."""

    def start(self, workspace: Workspace, *, since_revision: int) -> Journal:
        """Begin, lock the workspace's billables, load what it wants, and return the terms changes since a revision."""

    def load(self, workspace: Workspace) -> None:
        """Fill in everything that the workspace still wants."""

    def load_terms(self, load: Callable[[Connection], None]) -> None:
        """Read through SQLAlchemy inside the running transaction."""

    def save_and_commit(self, workspace: Workspace) -> None:
        """Write everything that the commands decided, set by set, and commit."""

    def rollback(self) -> None: ...

    def transact(self, work: Callable[[Connection], object]) -> object:
        """Run one piece of work through SQLAlchemy in a transaction of its own."""

    def is_lost(self, error: BaseException) -> bool:
        """Say whether the error means that the connection is gone."""

    def close(self) -> None:
        """Give the connection back."""

    def discard(self) -> None:
        """Close a connection that is lost, or in a state that nobody knows."""


def claims_text(claims: tuple[Claim, ...]) -> str:
    """Return a hold's claims as they are stored: JSON [[meter, scope, period, period_start, amount], ...]."""
    return _text(tuple((*key[1:], amount) for key, amount in claims))


def pins_text(pins: tuple[Pin, ...]) -> str | None:
    """Return what a hold has pinned of credits as it is stored: JSON [[unit, grant id, amount], ...], or nothing."""
    return json.dumps(pins, separators=(",", ":")) if pins else None


def new_account(key: CreditKey, row: tuple[Any, ...] | None, *, expiring_first: bool) -> AccountState:
    """Read a credit account from `ACCOUNT_COLUMNS`; without a row it is one that nobody has used yet."""
    columns = {} if row is None else dict(zip(ACCOUNT_COLUMNS, row, strict=True))
    return AccountState(key, exists=row is not None, expiring_first=expiring_first, **columns)


def add_grant(workspace: Workspace, key: CreditKey, columns: tuple[Any, ...]) -> None:
    """Put a grant that was read to its account."""
    account = workspace.credits.get(key)
    if account is not None:
        account.put(GrantState(*columns))


def add_entry(workspace: Workspace, row: tuple[Any, ...]) -> None:
    """Put an entry that was read to its transaction: its own, or one that gave something of it back."""
    transaction_id, billable, unit, account, amount, grant_id, is_return = row[:7]
    workspace.entries[transaction_id].append(Entry(CreditKey(billable, unit), account, amount, grant_id))
    if is_return:
        workspace.returned.add(transaction_id)


def hold_from_row(row: tuple[str, str, str, str, int, str | None, str | None, str | None]) -> HoldRow:
    """Read a hold from the columns that the lane selects."""
    hold_id, billable, status, claims, expires_at, idempotency_key, event_id, pins = row
    return HoldRow(
        id=hold_id,
        billable=billable,
        status=status,
        claims=tuple(
            Claim(CounterKey(billable, meter, scope, period, start), amount)
            for meter, scope, period, start, amount in _values(claims)
        ),
        expires_at=expires_at,
        idempotency_key=idempotency_key,
        event_id=event_id,
        pins=tuple(Pin(*pin) for pin in json.loads(pins)) if pins else (),
    )


# Calls in flight claim much the same of their billables' counters, so texts and values repeat.
@lru_cache(maxsize=65_536)
def _text(values: tuple[tuple[object, ...], ...]) -> str:
    return json.dumps(values, separators=(",", ":"))


@lru_cache(maxsize=65_536)
def _values(text: str) -> tuple[tuple[str, str, str, int, int], ...]:
    return tuple(tuple(claim) for claim in json.loads(text))
