"""Pages of usage events, the newest first."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, tuple_

from tallystick.errors import InvalidInput
from tallystick.metering.usage_event import UsageEvent
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["EventFilter", "EventPage", "list_events"]

_PAGE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events. `next_cursor` asks for the following page; None: this was the last."""

    events: tuple[UsageEvent, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[UsageEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> UsageEvent:
        return self.events[index]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None does not restrict. Instants are µs."""

    billable: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    provider: str | None = None
    model: str | None = None
    feature: str | None = None
    resource_type: str | None = None
    start: int | None = None
    end: int | None = None


def list_events(engine: Engine, wanted: EventFilter, *, limit: int, cursor: str | None) -> EventPage:
    """Read one page. A cursor stays valid while events are added: it names the last event that was seen."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _PAGE_MAX:
        raise InvalidInput("limit", limit, f"Give 1 to {_PAGE_MAX}.")
    events = tables.usage_events
    query = select(events).order_by(events.c.occurred_at.desc(), events.c.id.desc()).limit(limit + 1)
    for name in ("billable", "user_id", "tenant_id", "provider", "model", "feature", "resource_type"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(events.c[name] == value)
    if wanted.start is not None:
        query = query.where(events.c.occurred_at >= wanted.start)
    if wanted.end is not None:
        query = query.where(events.c.occurred_at < wanted.end)
    if cursor is not None:
        query = query.where(tuple_(events.c.occurred_at, events.c.id) < tuple_(*_position(cursor)))
    rows = engine.read(lambda connection: connection.execute(query).all())
    found = tuple(UsageEvent.from_row(tuple(row)) for row in rows[:limit])
    return EventPage(found, _cursor(tuple(rows[limit - 1])) if len(rows) > limit else None)


def _cursor(row: tuple[object, ...]) -> str:
    columns = list(tables.usage_events.columns.keys())
    position = f"{row[columns.index('occurred_at')]} {row[columns.index('id')]}"
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        occurred_at, event_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        return int(occurred_at), event_id
    except (ValueError, binascii.Error):
        raise InvalidInput("cursor", cursor, "Give the next_cursor of the page before.") from None
