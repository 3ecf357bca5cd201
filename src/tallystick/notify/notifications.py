"""`ts.notifications`: what customers are told, how they want to be told, and its delivery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, func, select, tuple_, update

from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.metering.usage import subject_reference
from tallystick.notify.channels import EMAIL, IN_APP, WEBHOOK
from tallystick.notify.composing import Draft
from tallystick.notify.delivery import deliver
from tallystick.notify.kinds import EVERY_TYPE, KINDS, Mode, Priority, checked_type
from tallystick.notify.notification import (
    Deliveries,
    Notification,
    NotificationPage,
    OutboxMessage,
    OutboxPage,
    Preference,
    checked_limit,
    cursor_of,
    position_of,
)
from tallystick.notify.outgoing import WrittenDraft, preferred
from tallystick.notify.payload import encoded
from tallystick.notify.webhook_request import checked_url
from tallystick.period import from_micros, parse_instant
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Notifications"]

_SUBJECT_LENGTH_MAX = 200
_MESSAGE_LENGTH_MAX = 10_000
_STATUSES = ("pending", "sent", "dead", "dropped")


class Notifications:
    """What customers are told: sent, listed, read; their preferences; and the outbox through which it goes out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- telling ------------------------------------------------------------------------------------------------------

    def send(
        self,
        tenant: object,
        type: str,  # noqa: A002  # the word of the field, and the reference's
        *,
        subject: str | None = None,
        message: str | None = None,
        priority: str | None = None,
        action_url: str | None = None,
        metadata: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Notification:
        """Tell a tenant, or any billable, something: in the application, and on the channels that it wants.

        A type that is built in has its words, in the tenant's language, about the values of `metadata`; `subject` and
        `message` replace them. A type of your own needs a subject, or a text in the folder of your templates. With an
        `idempotency_key` it is told once: the first notification is returned again.

        It is delivered by `deliver`, which `ts.run_due_jobs()` calls.

        Raises:
            InvalidInput: there are no words for it, or a value that they speak of is missing.
        """
        billable = subject_reference(tenant, self._engine)
        stated = json.loads(encoded(metadata or {}))
        kept = json.loads(self._engine.metadata_policy.encoded(stated) or "{}")
        draft = Draft(
            billable=billable,
            type=checked_type(type),
            at=from_micros(self._engine.now()),
            values=_read_instants(metadata or {}),
            metadata=kept,
            key=None if idempotency_key is None else f"send:{idempotency_key}",
        )
        written = WrittenDraft(
            draft,
            subject=_checked_text("subject", subject, _SUBJECT_LENGTH_MAX),
            message=_checked_text("message", message, _MESSAGE_LENGTH_MAX),
            priority=None if priority is None else _priority(priority),
            action_url=None if action_url is None else checked_url(action_url, allows_plain=True, field="action_url"),
        )

        def tell(connection: Connection) -> Notification:
            [sent] = self._engine.outgoing.tell(connection, [written])
            return sent or _first(connection, written, idempotency_key or "")

        return self._engine.lane.transact(tell)

    # -- reading ------------------------------------------------------------------------------------------------------

    def list(
        self,
        tenant: object,
        unread_only: bool = False,
        type: str | None = None,  # noqa: A002  # as above
        priority: str | None = None,
        limit: int = 10,
        cursor: str | None = None,
    ) -> NotificationPage:
        """Return what a tenant, or any billable, was told in the application, the newest first."""
        notifications = tables.notifications.c
        query = self._shown(tenant)
        if unread_only:
            query = query.where(notifications.read_at.is_(None))
        if type is not None:
            query = query.where(notifications.type == checked_type(type))
        if priority is not None:
            query = query.where(notifications.priority == _priority(priority))
        place = (notifications.created_at, notifications.id)
        rows, next_cursor = _page(self._engine, query, place, limit, cursor)
        return NotificationPage(tuple(Notification.from_row(row) for row in rows), next_cursor)

    def get(self, id: str, tenant: object = None) -> Notification:  # noqa: A002  # the word of the reference
        """Return one notification. With a `tenant`, only one of its own: another's does not exist for it.

        Raises:
            NotFound: there is no such notification, or it is somebody else's.
        """
        query = self._one(id, tenant)
        row = self._engine.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise NotFound("notification", id)
        return Notification.from_row(tuple(row))

    def mark_read(self, id: str, tenant: object = None) -> Notification:  # noqa: A002  # as above
        """Note that a notification was read. With a `tenant`, only one of its own. The first time of reading stays.

        Name the tenant wherever an id comes from outside: without it, any notification is marked.

        Raises:
            NotFound: there is no such notification, or it is somebody else's.
        """
        query, now = self._one(id, tenant), self._engine.now()
        notifications = tables.notifications

        def mark(connection: Connection) -> Notification:
            row = connection.execute(query).first()
            if row is None:
                raise NotFound("notification", id)
            unread = notifications.c.id == id, notifications.c.read_at.is_(None)
            connection.execute(update(notifications).where(*unread).values(read_at=now))
            read = connection.execute(select(notifications).where(notifications.c.id == id)).one()
            return Notification.from_row(tuple(read))

        return self._engine.lane.transact(mark)

    def mark_all_read(self, tenant: object) -> int:
        """Note that a tenant, or any billable, has read everything. Returns how many were unread."""
        notifications = tables.notifications
        unread = (
            notifications.c.billable == subject_reference(tenant, self._engine),
            notifications.c.read_at.is_(None),
            notifications.c.in_app,
        )
        change = update(notifications).where(*unread).values(read_at=self._engine.now())
        options = {"preserve_rowcount": True}
        return self._engine.lane.transact(
            lambda connection: int(connection.execute(change, execution_options=options).rowcount)
        )

    def unread_count(self, tenant: object) -> int:
        """Return how many notifications a tenant, or any billable, has not read."""
        notifications = tables.notifications
        query = (
            select(func.count())
            .select_from(notifications)
            .where(
                notifications.c.billable == subject_reference(tenant, self._engine),
                notifications.c.read_at.is_(None),
                notifications.c.in_app,
            )
        )
        return self._engine.read(lambda connection: int(connection.execute(query).scalar_one()))

    # -- preferences --------------------------------------------------------------------------------------------------

    def preferences(self, tenant: object) -> tuple[Preference, ...]:
        """Return how a tenant, or any billable, is told of each type on each channel, said by it or as usual."""
        billable = subject_reference(tenant, self._engine)
        table = tables.notification_preferences
        query = select(table).where(table.c.billable == billable)
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        stated = {(billable, row.type, row.channel): Mode(row.mode) for row in rows}
        own_types = [row.type for row in rows if row.type not in KINDS and row.type != EVERY_TYPE]
        return tuple(
            Preference(
                name,
                channel,
                preferred(stated, billable, name, channel),
                is_default=not {(billable, name, channel), (billable, EVERY_TYPE, channel)} & stated.keys(),
            )
            for name in dict.fromkeys([*KINDS, *sorted(own_types)])
            for channel in self._channels()
        )

    def set_preference(self, tenant: object, type: str, channel: str, mode: str) -> Preference:  # noqa: A002  # as above
        """Say how a tenant, or any billable, wants to be told of a type ("*": of every type) on a channel.

        `mode` is "immediate", "digest" (once a day, together) or "off". In the application and for webhooks there is no
        digest. What is turned off in the application is kept and not listed.

        Raises:
            InvalidInput: there is no such channel or mode.
        """
        billable = subject_reference(tenant, self._engine)
        name = checked_type(type, or_every=True)
        if channel not in self._channels():
            raise InvalidInput("channel", channel, f"Use one of {', '.join(self._channels())}.")
        wanted = _mode(mode)
        if wanted is Mode.DIGEST and channel in (IN_APP, WEBHOOK):
            raise InvalidInput("mode", mode, f"There is no digest on the channel {channel}: use immediate or off.")
        row = {
            "billable": billable,
            "type": name,
            "channel": channel,
            "mode": wanted.value,
            "updated_at": self._engine.now(),
        }

        def put(connection: Connection) -> None:
            table = tables.notification_preferences
            insert = insert_into(connection, table).values(row)
            changed = {"mode": insert.excluded.mode, "updated_at": insert.excluded.updated_at}
            connection.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed))

        self._engine.lane.transact(put)
        return Preference(name, channel, wanted, is_default=False)

    # -- delivery -----------------------------------------------------------------------------------------------------

    def deliver(self, limit: int = 500) -> Deliveries:
        """Deliver what is due, at most so many messages: what `ts.run_due_jobs()` does. Any number may do it at once.

        Delivery is at least once: where a worker dies between sending and noting it, the message is sent again. Each
        message has an id that stays, for the receiver to tell.
        """
        return deliver(self._engine, checked_limit(limit))

    def messages(
        self,
        tenant: object = None,
        *,
        status: str | None = None,
        channel: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> OutboxPage:
        """Return messages on their way out, or that have been, the newest first: was the mail sent, and if not, why?"""
        outbox = tables.outbox
        query = select(outbox)
        if tenant is not None:
            query = query.where(outbox.c.billable == subject_reference(tenant, self._engine))
        if status is not None:
            if status not in _STATUSES:
                raise InvalidInput("status", status, f"Use one of {', '.join(_STATUSES)}.")
            query = query.where(outbox.c.status == status)
            if status != "pending":
                # By the index of what is done.
                query = query.where(outbox.c.closed_at.isnot(None))
        if channel is not None:
            query = query.where(outbox.c.channel == channel)
        # Ids are in the order in which they were made.
        rows, next_cursor = _page(self._engine, query, (outbox.c.id,), limit, cursor)
        return OutboxPage(tuple(OutboxMessage.from_row(row) for row in rows), next_cursor)

    def dead_letters(self, tenant: object = None, *, limit: int = 100, cursor: str | None = None) -> OutboxPage:
        """Return messages that were given up, the newest first. `retry` sends one again."""
        return self.messages(tenant, status="dead", limit=limit, cursor=cursor)

    def retry(self, id: str) -> OutboxMessage:  # noqa: A002  # as above
        """Send a dead letter again, with all its attempts; one that waits for its next attempt is tried at once.

        Raises:
            NotFound: there is no such message. Conflict: it was sent, or a worker has it.
        """
        outbox, now = tables.outbox, self._engine.now()
        own = outbox.c.id == id

        def revive(connection: Connection) -> OutboxMessage:
            row = connection.execute(select(outbox).where(own).with_for_update()).first()
            if row is None:
                raise NotFound("message", id)
            if row.status == "sent":
                raise Conflict(f"Message {id} was sent at {from_micros(row.closed_at):%Y-%m-%d %H:%M} UTC.")
            if row.lease is not None and row.due_at > now:
                raise Conflict(f"Message {id} is being sent now.")
            values = {"status": "pending", "attempts": 0, "due_at": now, "lease": None, "closed_at": None}
            connection.execute(update(outbox).where(own).values(**values))
            return OutboxMessage.from_row(tuple(connection.execute(select(outbox).where(own)).one()))

        return self._engine.lane.transact(revive)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _channels(self) -> tuple[str, ...]:
        return (IN_APP, EMAIL, WEBHOOK, *self._engine.settings.notifications.channels)

    def _shown(self, tenant: object) -> Select[Any]:
        notifications = tables.notifications
        billable = subject_reference(tenant, self._engine)
        return select(notifications).where(notifications.c.billable == billable, notifications.c.in_app)

    def _one(self, notification_id: str, tenant: object) -> Select[Any]:
        query = select(tables.notifications).where(tables.notifications.c.id == notification_id)
        if tenant is not None:
            query = query.where(tables.notifications.c.billable == subject_reference(tenant, self._engine))
        return query


def _first(connection: Connection, written: WrittenDraft, key: str) -> Notification:
    """Return what was told first with a key.

    Raises:
        IdempotencyConflict: it was something else.
    """
    notifications, draft = tables.notifications, written.draft
    query = select(notifications).where(notifications.c.billable == draft.billable, notifications.c.key == draft.key)
    first = Notification.from_row(tuple(connection.execute(query).one()))
    for field, before, now in (
        ("type", first.type, draft.type),
        ("metadata", first.metadata, draft.metadata),
        ("subject", first.subject, written.subject or first.subject),
        ("message", first.message, written.message or first.message),
    ):
        if before != now:
            raise IdempotencyConflict(key, field, before, now)
    return first


def _page(
    engine: Engine, query: Select[Any], place: tuple[Any, ...], limit: int, cursor: str | None
) -> tuple[list[tuple[Any, ...]], str | None]:
    """Read one page, the newest first by its `place`, and what asks for the next."""
    wanted = checked_limit(limit)
    if cursor is not None:
        query = query.where(tuple_(*place) < tuple_(*position_of(cursor)[-len(place) :]))
    query = query.order_by(*(column.desc() for column in place)).limit(wanted + 1)
    rows = engine.read(lambda connection: connection.execute(query).all())
    more = cursor_of(rows[wanted - 1].created_at, rows[wanted - 1].id) if len(rows) > wanted else None
    return [tuple(row) for row in rows[:wanted]], more


def _read_instants(values: Mapping[str, object]) -> dict[str, object]:
    """Return values as the words take them: a date or an instant given as text is one."""
    return {
        name: _instant(value) if name.endswith(("_at", "_date", "_until")) else value for name, value in values.items()
    }


def _instant(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_instant(value)
        except InvalidInput:
            return value
    return value


def _checked_text(field: str, text: object, length_max: int) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip() or len(text) > length_max:
        raise InvalidInput(field, text, f"Give a text of 1 to {length_max:,} characters.")
    return text.strip()


def _priority(priority: str) -> str:
    if priority not in tuple(Priority):
        raise InvalidInput("priority", priority, f"Use one of {', '.join(Priority)}.")
    return str(priority)


def _mode(mode: str) -> Mode:
    if mode not in tuple(Mode):
        raise InvalidInput("mode", mode, f"Use one of {', '.join(Mode)}.")
    return Mode(mode)
