"""Keeping lanes away from an account while its terms change and what was used already is counted."""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from tallystick.storage import tables

__all__ = ["lock_account"]

_MAKE_ACCOUNT = text(
    "INSERT INTO accounts (billable, created_at) VALUES (:billable, :created_at) ON CONFLICT DO NOTHING"
)


def lock_account(connection: Connection, billable: str, at: int) -> None:
    """Lock an account as lanes do, also where there is none yet; on SQLite the transaction itself is the lock."""
    accounts = tables.accounts
    connection.execute(_MAKE_ACCOUNT, {"billable": billable, "created_at": at})
    connection.execute(select(accounts.c.billable).where(accounts.c.billable == billable).with_for_update())
