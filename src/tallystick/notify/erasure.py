"""Taking a billable out of notifications, endpoints and the outbox."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import Connection, and_, delete, or_

from tallystick.notify.channels import WEBHOOK
from tallystick.plans.loading import journal_change
from tallystick.storage import tables
from tallystick.storage.lane import WEBHOOKS_CHANGED

__all__ = ["erase_notifications", "forget_mentions", "forget_messages_before"]


def erase_notifications(connection: Connection, billables: Iterable[str]) -> None:
    """Remove all that billables were told, what is on its way to them or about them, and their endpoints."""
    names = sorted(set(billables))
    removed_endpoints = 0
    for table in (
        tables.outbox,
        tables.notifications,
        tables.notification_preferences,
        tables.webhook_endpoints,
    ):
        gone = delete(table).where(table.c.billable.in_(names))
        done = connection.execute(gone, execution_options={"preserve_rowcount": True})
        if table is tables.webhook_endpoints:
            removed_endpoints = int(done.rowcount)
    if removed_endpoints:
        journal_change(connection, WEBHOOKS_CHANGED)


def forget_mentions(connection: Connection, billable: str) -> None:
    """Remove what tells of a billable's use, or names it: events that were posted or wait, and what others were told.

    What it was told itself stays: it is its own.
    """
    outbox, notifications = tables.outbox.c, tables.notifications.c
    name = json.dumps(billable, ensure_ascii=False)
    of_its_use = and_(outbox.billable == billable, outbox.channel == WEBHOOK)
    connection.execute(delete(tables.outbox).where(or_(of_its_use, outbox.payload.contains(name, autoescape=True))))
    named = and_(notifications.billable != billable, notifications.metadata.contains(name, autoescape=True))
    connection.execute(delete(tables.notifications).where(named))


def forget_messages_before(connection: Connection, until: int) -> None:
    """Remove the messages of before an instant (µs) that are not on their way any more."""
    outbox = tables.outbox.c
    connection.execute(delete(tables.outbox).where(outbox.created_at < until, outbox.status != "pending"))
