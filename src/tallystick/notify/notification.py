"""What the notification namespaces answer with. Frozen values; instants are aware UTC."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tallystick.errors import InvalidInput
from tallystick.notify.kinds import Mode, Priority
from tallystick.period import from_micros
from tallystick.storage import tables

__all__ = [
    "Deliveries",
    "Notification",
    "NotificationPage",
    "OutboxMessage",
    "OutboxPage",
    "Preference",
    "WebhookEndpoint",
    "WebhookTest",
    "checked_limit",
    "cursor_of",
    "position_of",
]

_NOTIFICATION_COLUMNS = tuple(column.name for column in tables.notifications.columns)
_OUTBOX_COLUMNS = tuple(column.name for column in tables.outbox.columns)
_ENDPOINT_COLUMNS = tuple(column.name for column in tables.webhook_endpoints.columns)
_PAGE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Notification:
    """What a billable was told. `metadata` is what it is about; `in_app` is whether it is listed for its people."""

    id: str
    billable: str
    type: str
    priority: Priority
    subject: str
    message: str
    action_url: str | None
    locale: str
    metadata: Mapping[str, object]
    in_app: bool
    created_at: datetime
    read_at: datetime | None

    @property
    def is_read(self) -> bool:
        return self.read_at is not None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Notification:
        """Read a row of `notifications`, in the order of its columns."""
        values = dict(zip(_NOTIFICATION_COLUMNS, row, strict=True))
        return cls(
            id=values["id"],
            billable=values["billable"],
            type=values["type"],
            priority=Priority(values["priority"]),
            subject=values["subject"],
            message=values["message"],
            action_url=values["action_url"],
            locale=values["locale"],
            metadata=json.loads(values["metadata"]) if values["metadata"] else {},
            in_app=bool(values["in_app"]),
            created_at=from_micros(values["created_at"]),
            read_at=_instant(values["read_at"]),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "billable": self.billable,
            "type": self.type,
            "priority": self.priority.value,
            "subject": self.subject,
            "message": self.message,
            "action_url": self.action_url,
            "locale": self.locale,
            "metadata": dict(self.metadata),
            "created_at": self.created_at.isoformat(),
            "read_at": _text(self.read_at),
        }


@dataclass(frozen=True, slots=True)
class NotificationPage:
    """One page of notifications, the newest first. `next_cursor` asks for the following page; None: the last."""

    notifications: tuple[Notification, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[Notification]:
        return iter(self.notifications)

    def __len__(self) -> int:
        return len(self.notifications)

    def __getitem__(self, index: int) -> Notification:
        return self.notifications[index]


@dataclass(frozen=True, slots=True)
class Preference:
    """How a billable is told of a type on a channel. `is_default`: nobody has said so."""

    type: str
    channel: str
    mode: Mode
    is_default: bool

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {"type": self.type, "channel": self.channel, "mode": self.mode.value, "is_default": self.is_default}


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message on its way out, or that has been.

    `status` is "pending", "sent", "dead" (given up after `attempts`), or "dropped" (there was nowhere to send it).
    `due_at` is when it is tried next; while a worker has it, when another would take over.
    """

    id: str
    billable: str
    channel: str
    destination: str | None
    notification_id: str | None
    type: str
    payload: str
    is_digest: bool
    status: str
    attempts: int
    due_at: datetime
    last_error: str | None
    created_at: datetime
    closed_at: datetime | None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> OutboxMessage:
        """Read a row of `outbox`, in the order of its columns."""
        values = dict(zip(_OUTBOX_COLUMNS, row, strict=True))
        return cls(
            id=values["id"],
            billable=values["billable"],
            channel=values["channel"],
            destination=values["destination"] or None,
            notification_id=values["notification_id"],
            type=values["type"],
            payload=values["payload"],
            is_digest=bool(values["is_digest"]),
            status=values["status"],
            attempts=values["attempts"],
            due_at=from_micros(values["due_at"]),
            last_error=values["last_error"],
            created_at=from_micros(values["created_at"]),
            closed_at=_instant(values["closed_at"]),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values; without what it says."""
        return {
            "id": self.id,
            "billable": self.billable,
            "channel": self.channel,
            "destination": self.destination,
            "notification_id": self.notification_id,
            "type": self.type,
            "is_digest": self.is_digest,
            "status": self.status,
            "attempts": self.attempts,
            "due_at": self.due_at.isoformat(),
            "last_error": self.last_error,
            "created_at": self.created_at.isoformat(),
            "closed_at": _text(self.closed_at),
        }


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """One page of messages, the newest first. `next_cursor` asks for the following page; None: the last."""

    messages: tuple[OutboxMessage, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[OutboxMessage]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def __getitem__(self, index: int) -> OutboxMessage:
        return self.messages[index]


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What one round of delivering did: messages that were sent, that are tried again, given up, or went nowhere."""

    sent: int = 0
    retried: int = 0
    dead: int = 0
    dropped: int = 0

    def __add__(self, other: Deliveries) -> Deliveries:
        return Deliveries(
            self.sent + other.sent,
            self.retried + other.retried,
            self.dead + other.dead,
            self.dropped + other.dropped,
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {"sent": self.sent, "retried": self.retried, "dead": self.dead, "dropped": self.dropped}


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where events are posted to. `billable` None: the operator's own, which hears of everybody.

    `secret` is told once, when the endpoint is made or its secret replaced; otherwise it is None. `status` is "active"
    or "disabled"; `failing_since` is set while nothing reaches it.
    """

    id: str
    billable: str | None
    url: str
    events: tuple[str, ...]
    description: str | None
    status: str
    status_reason: str | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime
    secret: str | None = field(default=None, repr=False)

    @property
    def is_active(self) -> bool:
        return self.status == "active"

    @classmethod
    def from_row(cls, row: Sequence[Any], *, secret: str | None = None) -> WebhookEndpoint:
        """Read a row of `webhook_endpoints`, in the order of its columns, without its secrets."""
        values = dict(zip(_ENDPOINT_COLUMNS, row, strict=True))
        return cls(
            id=values["id"],
            billable=values["billable"],
            url=values["url"],
            events=tuple(json.loads(values["events"])),
            description=values["description"],
            status=values["status"],
            status_reason=values["status_reason"],
            failing_since=_instant(values["failing_since"]),
            created_at=from_micros(values["created_at"]),
            updated_at=from_micros(values["updated_at"]),
            secret=secret,
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values; with its secret only where it is told."""
        shown: dict[str, object] = {
            "id": self.id,
            "billable": self.billable,
            "url": self.url,
            "events": list(self.events),
            "description": self.description,
            "status": self.status,
            "status_reason": self.status_reason,
            "failing_since": _text(self.failing_since),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }
        return shown if self.secret is None else {**shown, "secret": self.secret}


@dataclass(frozen=True, slots=True)
class WebhookTest:
    """What became of a test event: whether the endpoint accepted it, its HTTP status, or what went wrong."""

    is_delivered: bool
    status_code: int | None
    error: str | None

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {"is_delivered": self.is_delivered, "status_code": self.status_code, "error": self.error}


def checked_limit(limit: object, *, most: int = _PAGE_MAX) -> int:
    """Return how many were asked for.

    Raises:
        InvalidInput: it is no number from 1.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= most:
        raise InvalidInput("limit", limit, f"Give 1 to {most}.")
    return limit


def cursor_of(created_at: int, row_id: str) -> str:
    """Return what asks for the page after a row."""
    return base64.urlsafe_b64encode(f"{created_at} {row_id}".encode()).decode().rstrip("=")


def position_of(cursor: str) -> tuple[int, str]:
    """Return the row that a cursor stands for: its creation (µs) and its id.

    Raises:
        InvalidInput: it is no cursor.
    """
    try:
        created_at, row_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        return int(created_at), row_id
    except (ValueError, binascii.Error):
        raise InvalidInput("cursor", cursor, "Give the next_cursor of the page before.") from None


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
