"""What goes out because of something that happened, written in the transaction of what happened.

The lane asks `prepare` before it saves: what its batch has noticed and answered becomes notifications, and messages of
the outbox, and commits with it or not at all. Rarer work, in transactions of its own (`Lane.transact`), calls `tell`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Table, select

from tallystick.events import Event, ProviderCallFailed
from tallystick.identity import new_id
from tallystick.limits.asking import QuotaReached
from tallystick.metering.commands import CallFailed
from tallystick.notify.channels import EMAIL, IN_APP, WEBHOOK
from tallystick.notify.composing import TOLD, Draft, draft_of
from tallystick.notify.kinds import EVERY_TYPE, Mode, Priority, kind_of, usual_mode
from tallystick.notify.notification import Notification
from tallystick.notify.payload import EVENT_NAMES, EVERY_EVENT, NOTIFICATION_CREATED, body_of, encoded, event_body
from tallystick.notify.wording import Text, Voice, Wordings
from tallystick.period import from_micros, to_micros
from tallystick.plans.loading import load_terms
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.plans.terms import Terms
    from tallystick.storage.workspace import Workspace

__all__ = ["Outgoing", "Told", "WrittenDraft", "message_row", "preferred"]

logger = logging.getLogger("tallystick.notify")

Preferences = Mapping[tuple[str, str, str], Mode]
"""How billables want to be told: by billable, type and channel."""


class Told(NamedTuple):
    """One thing that happened: what its billable is told, and the event that webhooks carry. Either may be missing."""

    draft: Draft | None
    event: Event | None


@dataclass(frozen=True, slots=True)
class WrittenDraft:
    """A draft with what the caller of `ts.notifications.send` has said of it."""

    draft: Draft
    subject: str | None = None
    message: str | None = None
    priority: str | None = None
    action_url: str | None = None


class _Endpoint(NamedTuple):
    id: str
    billable: str | None
    events: frozenset[str]

    def hears(self, name: str, billable: str) -> bool:
        return self.billable in (None, billable) and (name in self.events or EVERY_EVENT in self.events)


class _Reader(NamedTuple):
    """Who reads what a billable is told: in which language and zone, and whether there is an address for mail."""

    locale: str | None
    zone: str
    has_address: bool


class Outgoing:
    """Turns what happened into notifications and messages. One for an engine; the lane's baton guards it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings.notifications
        self._endpoints: tuple[_Endpoint, ...] | None = None
        self._heard: frozenset[str] = frozenset()
        if self._settings.templates is not None or self._settings.locale != "en":
            # A mistake in them is told now, and not when something is to be said.
            _ = self.wordings
        own = (name for name, channel in self._settings.channels.items() if channel.class_path is not None)
        self.channels = (*((EMAIL,) if self._settings.smtp.host else ()), *own)

    @cached_property
    def wordings(self) -> Wordings:
        """The texts, read when the first is needed."""
        return Wordings(self._settings.templates, self._settings.locale)

    # -- the lane's ---------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Read the endpoints again: they were changed, or the connection is a new one."""
        self._endpoints = None

    def prepare(
        self,
        workspace: Workspace,
        answers: Sequence[object],
        read: Callable[[Callable[[Connection], None]], None],
    ) -> None:
        """Add to a batch what goes out because of it. Before it is saved, in its transaction.

        A mistake in a text or an event is logged, and keeps nothing from being recorded. `read` reads in the
        transaction; if the database fails there, the batch fails with it.
        """
        if self._endpoints is None:
            read(self._load_endpoints)
        endpoints = self._endpoints or ()
        if not (endpoints or self._settings.enabled):
            return
        told = list(self._told(workspace, answers, listens=bool(endpoints)))
        if not told:
            return
        drafts = [one.draft for one in told if one.draft is not None]
        preferences: Preferences = {}
        if drafts:

            def load(connection: Connection) -> None:
                nonlocal preferences
                preferences = _preferences(connection, {draft.billable for draft in drafts})

            read(load)
        for draft, event in told:
            try:
                notifications: list[tuple[object, ...]] = []
                messages: list[tuple[object, ...]] = []
                if draft is not None:
                    reader = self._reader(workspace.terms[draft.billable])
                    row, messages = self._written(WrittenDraft(draft), reader, preferences, endpoints)
                    notifications = [row]
                if event is not None:
                    messages += self._posted(event, endpoints)
            except Exception:
                logger.exception("Telling of %r failed.", draft.type if draft is not None else event)
            else:
                workspace.new_notifications += notifications
                workspace.new_messages += messages

    def wants(self, event_class: type[Event]) -> bool:
        """Say whether customers or endpoints are told of a class of events, as far as it is known in this batch."""
        name = EVENT_NAMES.get(event_class, "")
        return name in self._heard or EVERY_EVENT in self._heard or (self._settings.enabled and event_class in TOLD)

    def _told(self, workspace: Workspace, answers: Iterable[object], *, listens: bool) -> Iterator[Told]:
        engine, enabled = self._engine, self._settings.enabled
        for notice in workspace.notices:
            if isinstance(notice, CallFailed):
                event: Event | None = _call_failed(notice)
            else:
                event = _safely(engine.event_of_notice, notice, self.wants)
            fact = notice if isinstance(notice, QuotaReached) else event
            billable = notice.quota.billable if isinstance(notice, QuotaReached) else getattr(event, "billable", None)
            yield from self._one(workspace, billable, fact, event, enabled=enabled)
        for answer in answers:
            if not (listens or engine.reaches_limit(answer)):
                # The usual case: no endpoint listens, and of answers customers are told nothing but limits.
                continue
            for event in _safely_all(engine.events_of_answer, answer, self.wants):
                yield from self._one(workspace, event.billable, event, event, enabled=enabled)

    def _one(
        self, workspace: Workspace, billable: str | None, fact: object, event: Event | None, *, enabled: bool
    ) -> Iterator[Told]:
        draft: Draft | None = None
        if enabled and fact is not None and billable in workspace.terms:
            draft = _safely(draft_of, fact, workspace.terms[billable].policy.zone)
        is_heard = event is not None and self._hears(type(event))
        if draft is not None or is_heard:
            yield Told(draft, event if is_heard else None)

    def _hears(self, event_class: type[Event]) -> bool:
        return EVERY_EVENT in self._heard or EVENT_NAMES.get(event_class, "") in self._heard

    def _load_endpoints(self, connection: Connection) -> None:
        self._endpoints = _endpoints(connection)
        self._heard = frozenset(name for one in self._endpoints for name in one.events)

    # -- in a transaction of its own ----------------------------------------------------------------------------------

    def hears(self, connection: Connection, event_class: type[Event]) -> bool:
        """Say whether any endpoint hears of a class of events, as the database has it now."""
        names = {EVENT_NAMES[event_class], EVERY_EVENT}
        return any(names & one.events for one in _endpoints(connection))

    def tell(
        self, connection: Connection, told: Iterable[Told | WrittenDraft], terms: Mapping[str, Terms] | None = None
    ) -> list[Notification | None]:
        """Write what goes out because of rare work, inside its transaction. `terms` are those of all who are told.

        Returns the notification of each; None where there is none, or where it was told before, by its key. Then its
        event is not sent again either.
        """
        telling = [(one, self._drafted(one)) for one in told]
        drafts = [written.draft for _, written in telling if written is not None]
        endpoints = _endpoints(connection) if telling else ()
        preferences: Preferences = {}
        if drafts:
            billables = {draft.billable for draft in drafts}
            if terms is None:
                terms = load_terms(connection, sorted(billables), self._engine.terms_policy)
            preferences = _preferences(connection, billables)
        prepared: list[tuple[Event | None, tuple[object, ...] | None, list[tuple[object, ...]]]] = []
        for one, written in telling:
            event = one.event if isinstance(one, Told) else None
            row: tuple[object, ...] | None = None
            of_row: list[tuple[object, ...]] = []
            if written is not None:
                is_shown = isinstance(one, WrittenDraft) or self._settings.enabled
                reader = self._reader((terms or {})[written.draft.billable])
                row, of_row = self._written(written, reader, preferences, endpoints, is_shown=is_shown)
            prepared.append((event, row, of_row))
        new = _insert_once(connection, [row for _, row, _ in prepared if row is not None])
        messages: list[tuple[object, ...]] = []
        for event, row, of_row in prepared:
            if row is None or row[0] in new:
                messages += of_row
                messages += () if event is None else self._posted(event, endpoints)
        if messages:
            connection.execute(tables.outbox.insert(), _by_name(tables.outbox, messages))
        return [Notification.from_row(row) if row is not None and row[0] in new else None for _, row, _ in prepared]

    def _drafted(self, told: Told | WrittenDraft) -> WrittenDraft | None:
        """Return what a billable is told; None where it is told nothing. What has a key is noted in any case."""
        if isinstance(told, WrittenDraft):
            return told
        if told.draft is not None and (self._settings.enabled or told.draft.key):
            return WrittenDraft(told.draft)
        return None

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _reader(self, terms: Terms) -> _Reader:
        tenant = terms.tenant
        has_address = self._settings.address_of is not None or (tenant is not None and bool(tenant.billing_email))
        return _Reader(tenant.locale if tenant is not None else None, terms.policy.zone, has_address)

    def _written(
        self,
        written: WrittenDraft,
        reader: _Reader,
        preferences: Preferences,
        endpoints: Iterable[_Endpoint],
        *,
        is_shown: bool = True,
    ) -> tuple[tuple[object, ...], list[tuple[object, ...]]]:
        """Return the row of a notification, and its messages on the channels that its billable wants it on."""
        draft = written.draft
        kind = kind_of(draft.type)
        voice = self.wordings.voice(reader.locale, reader.zone)
        text = _text(written, voice)
        at = to_micros(draft.at)
        in_app = is_shown and preferred(preferences, draft.billable, draft.type, IN_APP) is not Mode.OFF
        metadata = encoded(draft.metadata)
        row: tuple[object, ...] = (
            new_id("ntf"),
            draft.billable,
            draft.type,
            str(written.priority or kind.priority),
            text.subject,
            text.message,
            written.action_url or self._link(kind.page),
            voice.locale,
            metadata if draft.metadata else None,
            draft.key,
            in_app,
            at,
            None,
        )
        if not is_shown:
            return row, []
        messages = list(self._on_channels(row, reader, preferences, at))
        if preferred(preferences, draft.billable, draft.type, WEBHOOK) is not Mode.OFF:
            messages += _notified(row, endpoints, at)
        return row, messages

    def _on_channels(
        self, row: tuple[object, ...], reader: _Reader, preferences: Preferences, at: int
    ) -> Iterator[tuple[object, ...]]:
        notification_id, billable, type_name, priority = (str(value) for value in row[:4])
        for channel in self.channels:
            mode = preferred(preferences, billable, type_name, channel, Priority(priority))
            if mode is Mode.OFF or (channel == EMAIL and not reader.has_address):
                continue
            is_digest = mode is Mode.DIGEST
            due_at = _next_digest(at, reader.zone, self._settings.digest_hour) if is_digest else at
            yield message_row(
                billable=billable,
                channel=channel,
                notification_id=notification_id,
                type_name=type_name,
                is_digest=is_digest,
                at=at,
                due_at=due_at,
            )

    def _link(self, page: str) -> str | None:
        base = self._settings.base_url
        return base if base is None or not page else f"{base}/{page}"

    def _posted(self, event: Event, endpoints: Iterable[_Endpoint]) -> list[tuple[object, ...]]:
        name = EVENT_NAMES[type(event)]
        hearing = [one for one in endpoints if one.hears(name, event.billable)]
        if not hearing:
            return []
        body, at = event_body(event), to_micros(event.at)
        return [
            message_row(
                billable=event.billable, channel=WEBHOOK, destination=one.id, type_name=name, payload=body, at=at
            )
            for one in hearing
        ]


def _call_failed(notice: CallFailed) -> ProviderCallFailed:
    return ProviderCallFailed(
        billable=notice.billable,
        at=from_micros(notice.at),
        provider=notice.provider,
        model=notice.model,
        error=notice.error,
        hold_id=notice.hold_id,
    )


def preferred(
    preferences: Preferences, billable: str, type_name: str, channel: str, priority: Priority | None = None
) -> Mode:
    """Return how a billable is told of a type on a channel: as it said, for this type or for every, else as usual.

    What is usual follows from the priority: that of the notification, or without one that of its type.
    """
    stated = preferences.get((billable, type_name, channel)) or preferences.get((billable, EVERY_TYPE, channel))
    if stated is not None:
        return stated
    if channel in (IN_APP, WEBHOOK):
        return Mode.IMMEDIATE
    return usual_mode(priority or kind_of(type_name).priority)


def message_row(
    *,
    billable: str,
    channel: str,
    type_name: str,
    at: int,
    destination: str = "",
    notification_id: str | None = None,
    payload: str = "",
    is_digest: bool = False,
    due_at: int | None = None,
) -> tuple[object, ...]:
    """Return a new row of `outbox`, in the order of its columns. Instants are µs."""
    return (
        new_id("msg"),
        billable,
        channel,
        destination,
        notification_id,
        type_name,
        payload,
        is_digest,
        "pending",
        0,
        at if due_at is None else due_at,
        None,
        None,
        None,
        at,
        None,
    )


def _notified(row: tuple[object, ...], endpoints: Iterable[_Endpoint], at: int) -> list[tuple[object, ...]]:
    billable = str(row[1])
    hearing = [one for one in endpoints if one.hears(NOTIFICATION_CREATED, billable)]
    if not hearing:
        return []
    body = body_of(NOTIFICATION_CREATED, from_micros(at), Notification.from_row(row).to_dict())
    return [
        message_row(
            billable=billable,
            channel=WEBHOOK,
            destination=one.id,
            notification_id=str(row[0]),
            type_name=NOTIFICATION_CREATED,
            payload=body,
            at=at,
        )
        for one in hearing
    ]


def _text(written: WrittenDraft, voice: Voice) -> Text:
    """Return what a notification says: its caller's own words, and for the rest those of its type."""
    if written.subject is not None and (written.message is not None or not voice.knows(written.draft.type)):
        return Text(_one_line(written.subject), written.message or "", "")
    said = voice.say(written.draft.type, written.draft.values)
    subject = said.subject if written.subject is None else written.subject
    return Text(_one_line(subject), said.message if written.message is None else written.message, said.action)


def _one_line(subject: str) -> str:
    return " ".join(subject.split())


def _next_digest(at: int, zone: str, hour: int) -> int:
    """Return when the next digest goes out (µs): at that hour on the clock of the zone."""
    now = from_micros(at)
    local = now.astimezone(ZoneInfo(zone))
    due: datetime = local.replace(hour=hour, minute=0, second=0, microsecond=0)
    if due <= local:
        due = (local + timedelta(days=1)).replace(hour=hour, minute=0, second=0, microsecond=0)
    return to_micros(due)


def _endpoints(connection: Connection) -> tuple[_Endpoint, ...]:
    """Read the active endpoints."""
    endpoints = tables.webhook_endpoints.c
    query = select(endpoints.id, endpoints.billable, endpoints.events).where(endpoints.status == "active")
    rows = connection.execute(query.order_by(endpoints.id)).all()
    return tuple(_Endpoint(row.id, row.billable, frozenset(json.loads(row.events))) for row in rows)


def _preferences(connection: Connection, billables: set[str]) -> Preferences:
    table = tables.notification_preferences
    rows = connection.execute(select(table).where(table.c.billable.in_(sorted(billables)))).all()
    return {(row.billable, row.type, row.channel): Mode(row.mode) for row in rows}


def _insert_once(connection: Connection, rows: Sequence[tuple[object, ...]]) -> set[object]:
    """Insert notifications, and return the ids of those that are the first with their key."""
    if not rows:
        return set()
    insert = insert_into(connection, tables.notifications).on_conflict_do_nothing().returning(tables.notifications.c.id)
    return set(connection.execute(insert, _by_name(tables.notifications, rows)).scalars())


def _by_name(table: Table, rows: Iterable[tuple[object, ...]]) -> list[dict[str, object]]:
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _safely(work: Callable[..., Any], *arguments: object) -> Any:
    """Do something that must not keep a fact from being recorded; None, and a line in the log, where it fails."""
    try:
        return work(*arguments)
    except Exception:
        logger.exception("Telling of %r failed.", arguments[0])
        return None


def _safely_all(work: Callable[..., Iterable[Event]], *arguments: object) -> list[Event]:
    try:
        return list(work(*arguments))
    except Exception:
        logger.exception("Telling of what follows from a use failed.")
        return []
