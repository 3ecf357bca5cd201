"""Keeping lanes away from accounts, in transactions of their own: while terms change, use is counted, records go."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, text

from tallystick.storage import tables

__all__ = ["lock_account", "lock_accounts"]

_MAKE_ACCOUNT = text(
    "INSERT INTO accounts (billable, created_at) VALUES (:billable, :created_at) ON CONFLICT DO NOTHING"
)
_PORTION = 500


def lock_account(connection: Connection, billable: str, at: int) -> None:
    """Lock an account as lanes do, also where there is none yet; on SQLite the transaction itself is the lock."""
    connection.execute(_MAKE_ACCOUNT, {"billable": billable, "created_at": at})
    lock_accounts(connection, [billable])


def lock_accounts(connection: Connection, billables: Iterable[str]) -> None:
    """Lock the accounts that there are of these, in the order in which lanes do."""
    accounts = tables.accounts
    ordered = sorted(billables)
    for first in range(0, len(ordered), _PORTION):
        some = accounts.c.billable.in_(ordered[first : first + _PORTION])
        connection.execute(select(accounts.c.billable).where(some).order_by(accounts.c.billable).with_for_update())
