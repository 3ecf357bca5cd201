"""Delivering what is in the outbox: claim, send outside any transaction, note what became of it.

A message is claimed by moving its `due_at` ahead by the lease. A worker that dies leaves it at that, and the message is
due again when the lease has run out: everything is delivered at least once. What a worker notes counts only while the
lease is its own.

Each destination (an endpoint, the mail server, a channel) is served by one thread at a time, and by its own pace: where
it is away, all that waits for it is put off, without an attempt being counted for each.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sqlalchemy import Connection, func, select, update

from tallystick.errors import ConfigurationError, StorageError
from tallystick.identity import new_id
from tallystick.named_imports import import_named
from tallystick.notify.channels import EMAIL, WEBHOOK, Channel, DeliveryFailed, OutgoingNotification
from tallystick.notify.composing import Draft
from tallystick.notify.endpoint_secrets import signing_secrets
from tallystick.notify.mail import Mail
from tallystick.notify.notification import Deliveries, Notification
from tallystick.notify.outgoing import Told
from tallystick.notify.signature import signed_headers
from tallystick.notify.webhook_request import post
from tallystick.period import from_micros
from tallystick.plans.loading import journal_change
from tallystick.storage import tables
from tallystick.storage.lane import WEBHOOKS_CHANGED
from tallystick.tenants.tenant import TenantStatus

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["PAUSES_SECONDS", "deliver", "signed_request"]

logger = logging.getLogger("tallystick.notify")

PAUSES_SECONDS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After which attempt how long is waited, before the jitter. The last holds for all that follow."""

_JITTER = 0.25
_RETRY_AFTER_MAX_SECONDS = 86_400
_PER_DESTINATION_MAX = 25
_SECONDS_EACH_MAX = 20
_SECONDS_MAX = 60
_ERROR_LENGTH_MAX = 500
_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_DAY = 24 * _HOUR

_random = SystemRandom()


class _Destination(NamedTuple):
    channel: str
    name: str


@dataclass(frozen=True, slots=True)
class _Row:
    """A message that was claimed."""

    id: str
    billable: str
    notification_id: str | None
    type: str
    payload: str
    is_digest: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What is sent as one: a message, or those of a digest."""

    rows: tuple[_Row, ...]

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.rows]

    @property
    def attempts(self) -> int:
        return max(row.attempts for row in self.rows)


class _Dropped(Exception):
    """There is nowhere to send a message to, and there will not be."""


def deliver(engine: Engine, limit: int) -> Deliveries:
    """Deliver what is due, at most so many messages, and return what became of them.

    It goes on in rounds, a few messages of each destination in each, for a minute at most; the rest stays due.
    """
    done, left = Deliveries(), limit
    # How long it may really take is the machine's matter, whatever the engine's clock says.
    stops_at = time.monotonic() + _SECONDS_MAX
    while left > 0 and time.monotonic() < stops_at:
        if not engine.read(lambda connection: _is_anything_due(connection, engine.now())):
            # A worker that looks often and finds nothing keeps nobody from writing.
            break
        claimed = _Round(engine).run(left)
        if claimed.messages == 0:
            break
        left -= claimed.messages
        done += claimed.done
    return done


class _Rounded(NamedTuple):
    """What a round claimed, and what became of it; the rest was given back."""

    messages: int
    done: Deliveries


def _is_anything_due(connection: Connection, now: int) -> bool:
    outbox = tables.outbox.c
    due = select(outbox.id).where(outbox.status == "pending", outbox.due_at <= now).limit(1)
    return connection.execute(due).first() is not None


class _Round:
    """One round of one worker. Its lease is its own name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings.notifications
        self._lease = new_id("dlv")

    def run(self, limit: int) -> _Rounded:
        """Claim, send and note. Each destination has a thread of its own."""
        claimed = self._engine.lane.transact(lambda connection: self.claim(connection, limit))
        if not claimed:
            return _Rounded(0, Deliveries())
        workers = min(self._settings.threads, len(claimed))
        with ThreadPoolExecutor(workers, thread_name_prefix="tallystick-delivery") as pool:
            served = list(pool.map(lambda one: self.serve(*one), claimed.items()))
        return _Rounded(sum(map(len, claimed.values())), sum(served, Deliveries()))

    # -- claiming -----------------------------------------------------------------------------------------------------

    def claim(self, connection: Connection, limit: int) -> dict[_Destination, list[_Row]]:
        """Take what is due and nobody else has, in turn of the destinations that have waited longest."""
        now = self._engine.now()
        outbox = tables.outbox.c
        due = (outbox.status == "pending", outbox.due_at <= now)
        destinations = connection.execute(
            select(outbox.channel, outbox.destination)
            .where(*due)
            .group_by(outbox.channel, outbox.destination)
            .order_by(func.min(outbox.due_at))
            .limit(limit)
        ).all()
        claimed: dict[_Destination, list[_Row]] = {}
        left = limit
        for channel, name in destinations:
            here = (outbox.channel == channel, outbox.destination == name)
            columns = (outbox.id, outbox.billable, outbox.notification_id, outbox.type, outbox.payload)
            query = (
                select(*columns, outbox.is_digest, outbox.attempts)
                .where(*due, *here)
                .order_by(outbox.due_at, outbox.id)
                .with_for_update(skip_locked=True)
            )
            rows = connection.execute(query.limit(min(left, _PER_DESTINATION_MAX))).all()
            # A digest goes out as one: the rest of it comes along.
            digests = {row.billable for row in rows if row.is_digest}
            if digests:
                more = query.where(outbox.is_digest, outbox.billable.in_(digests))
                rows = [*rows, *(row for row in connection.execute(more).all() if row not in rows)]
            if rows:
                claimed[_Destination(channel, name)] = [
                    _Row(*row[:5], is_digest=bool(row.is_digest), attempts=row.attempts + 1) for row in rows
                ]
            left -= len(rows)
            if left <= 0:
                break
        lease_until = now + self._settings.lease_seconds * _SECOND
        self._set(
            connection,
            [row.id for rows in claimed.values() for row in rows],
            is_own=False,
            due_at=lease_until,
            lease=self._lease,
            attempts=outbox.attempts + 1,
        )
        return claimed

    # -- sending ------------------------------------------------------------------------------------------------------

    def serve(self, destination: _Destination, rows: Sequence[_Row]) -> Deliveries:
        """Send what was claimed for one destination, in order. Never raises for what a destination does."""
        done = Deliveries()
        sender: _Sender | None = None
        # Neither may the lease run out under our hands, nor all others wait for this one.
        stops_at = time.monotonic() + min(self._settings.lease_seconds / 2, _SECONDS_EACH_MAX)
        parcels = self._parcels(destination, rows)
        try:
            for number, parcel in enumerate(parcels):
                if time.monotonic() > stops_at:
                    self._release(parcels[number:], self._engine.now())
                    break
                try:
                    sender = sender or self._sender(destination)
                    sender.send(parcel)
                except _Dropped as nowhere:
                    done += self._close(parcel, "dropped", str(nowhere))
                except Exception as error:  # noqa: BLE001  # an application's channel may raise anything
                    failure = error if isinstance(error, DeliveryFailed) else _unexpected(destination, error)
                    again_at = self._next(parcel, failure)
                    done += self._failed(destination, parcel, failure, again_at)
                    if failure.is_unreachable:
                        self._put_off(destination, parcels[number + 1 :], parcel, again_at)
                        break
                else:
                    done += self._close(parcel, "sent", None)
                    sender.succeeded()
        finally:
            if sender is not None:
                sender.close()
        return done

    def _parcels(self, destination: _Destination, rows: Sequence[_Row]) -> list[_Parcel]:
        if destination.channel == WEBHOOK:
            return [_Parcel((row,)) for row in rows]
        digests: dict[str, list[_Row]] = defaultdict(list)
        alone: list[_Parcel] = []
        for row in rows:
            if row.is_digest:
                digests[row.billable].append(row)
            else:
                alone.append(_Parcel((row,)))
        if destination.channel == EMAIL:
            alone = self._within_rate(alone)
        return [*alone, *(_Parcel(tuple(some)) for some in digests.values())]

    def _within_rate(self, parcels: Sequence[_Parcel]) -> list[_Parcel]:
        """Return the mails that may go out now. Those of a billable that got many in this hour wait for a digest."""
        now = self._engine.now()
        outbox = tables.outbox.c
        query = (
            select(outbox.billable, func.count(outbox.sent_as.distinct()))
            .where(
                outbox.billable.in_({parcel.rows[0].billable for parcel in parcels}),
                outbox.closed_at > now - _HOUR,
                outbox.status == "sent",
                outbox.channel == EMAIL,
            )
            .group_by(outbox.billable)
        )
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        sent = defaultdict(int, {str(billable): int(count) for billable, count in rows})
        within: list[_Parcel] = []
        beyond: list[_Parcel] = []
        for parcel in parcels:
            billable = parcel.rows[0].billable
            sent[billable] += 1
            (within if sent[billable] <= self._settings.mails_per_hour else beyond).append(parcel)
        if beyond:
            self._release(beyond, now + _HOUR, is_digest=True)
        return within

    def _sender(self, destination: _Destination) -> _Sender:
        if destination.channel == WEBHOOK:
            return _WebhookSender(self._engine, destination.name)
        return _NotificationSender(self._engine, destination.channel)

    # -- noting -------------------------------------------------------------------------------------------------------

    def _close(self, parcel: _Parcel, status: str, error: str | None) -> Deliveries:
        self._note(
            parcel.ids,
            status=status,
            closed_at=self._engine.now(),
            lease=None,
            last_error=error,
            sent_as=new_id("dlv") if status == "sent" else None,
        )
        return replace(Deliveries(), **{status: len(parcel.rows)})

    def _failed(self, destination: _Destination, parcel: _Parcel, failure: DeliveryFailed, again_at: int) -> Deliveries:
        said = str(failure)[:_ERROR_LENGTH_MAX]
        if failure.is_permanent or parcel.attempts >= self._settings.attempts_max:
            logger.warning("A message to %s is given up: %s", destination.name or destination.channel, said)
            return self._close(parcel, "dead", said)
        self._note(parcel.ids, due_at=again_at, lease=None, last_error=said)
        return Deliveries(retried=len(parcel.rows))

    def _next(self, parcel: _Parcel, failure: DeliveryFailed) -> int:
        pause = PAUSES_SECONDS[min(parcel.attempts, len(PAUSES_SECONDS)) - 1]
        # With jitter, so that what failed together does not come back together.
        seconds = pause * _random.uniform(1.0, 1.0 + _JITTER)
        if failure.retry_after_seconds is not None:
            seconds = max(seconds, min(failure.retry_after_seconds, _RETRY_AFTER_MAX_SECONDS))
        return self._engine.now() + int(seconds * _SECOND)

    def _put_off(self, destination: _Destination, rest: Sequence[_Parcel], failed: _Parcel, until: int) -> None:
        """Let all that waits for a destination that is away wait until it is tried again, by the one that failed."""
        self._release(rest, until)
        outbox = tables.outbox.c
        waiting = (
            update(tables.outbox)
            .where(
                outbox.channel == destination.channel,
                outbox.destination == destination.name,
                outbox.status == "pending",
                outbox.lease.is_(None),
                outbox.due_at < until,
                outbox.id.not_in(failed.ids),
            )
            .values(due_at=until)
        )
        self._engine.lane.transact(lambda connection: connection.execute(waiting).rowcount)

    def _release(self, parcels: Iterable[_Parcel], due_at: int, **values: object) -> None:
        """Give back what was not tried: its attempt does not count."""
        ids = [row_id for parcel in parcels for row_id in parcel.ids]
        self._note(ids, due_at=due_at, lease=None, attempts=tables.outbox.c.attempts - 1, **values)

    def _note(self, ids: Sequence[str], **values: object) -> None:
        if ids:
            self._engine.lane.transact(lambda connection: self._set(connection, ids, is_own=True, **values))

    def _set(self, connection: Connection, ids: Sequence[str], *, is_own: bool, **values: object) -> None:
        for start in range(0, len(ids), 500):
            change = update(tables.outbox).where(tables.outbox.c.id.in_(ids[start : start + 500]))
            if is_own:
                # Where the lease ran out, another has the message now, and notes it.
                change = change.where(tables.outbox.c.lease == self._lease)
            connection.execute(change.values(**values))


def _unexpected(destination: _Destination, error: Exception) -> DeliveryFailed:
    logger.warning("Sending on %s failed.", destination.channel, exc_info=error)
    return DeliveryFailed(f"{type(error).__name__}: {error}")


class _Sender(Protocol):
    """What reaches one destination during a round."""

    def send(self, parcel: _Parcel) -> None:
        """Send one message, or several that go together. Raise `DeliveryFailed` where that fails."""

    def succeeded(self) -> None:
        """Note that the destination is there."""
        return

    def close(self) -> None:
        """Take leave."""
        return


class _NotificationSender(_Sender):
    """Sends notifications by mail, or on a channel of the application's own."""

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine = engine
        self._name = channel
        settings = engine.settings.notifications
        self._channel: Channel
        if channel == EMAIL:
            if settings.smtp.host is None:
                raise DeliveryFailed("notifications.smtp.host is not set here.", is_unreachable=True)
            self._channel = Mail(settings, engine.outgoing.wordings, engine.clock.now)
        else:
            stated = settings.channels.get(channel)
            if stated is None or stated.class_path is None:
                raise DeliveryFailed(f"notifications.channels.{channel} is not set here.", is_unreachable=True)
            self._channel = import_named(f"notifications.channels.{channel}.class", stated.class_path)()

    def send(self, parcel: _Parcel) -> None:
        billable = parcel.rows[0].billable
        notifications, tenant = self._engine.read(lambda connection: self._read(connection, parcel, billable))
        if not notifications:
            raise _Dropped("The notification was removed.")
        if tenant is not None and tenant.status == TenantStatus.DELETED:
            raise _Dropped("The tenant was deleted.")
        address = tenant.billing_email if tenant is not None else None
        address_of = self._engine.settings.notifications.address_of
        if address is None and address_of is not None:
            address = import_named("notifications.address_of", address_of)(billable)
        if self._name == EMAIL and not address:
            raise _Dropped(f"{billable} has no address for mail.")
        name = tenant.name if tenant is not None else None
        self._channel.send([self._outgoing(one, name, address) for one in notifications])

    def close(self) -> None:
        close = getattr(self._channel, "close", None)
        if callable(close):
            close()

    def _outgoing(self, one: Notification, name: str | None, address: str | None) -> OutgoingNotification:
        voice = self._engine.outgoing.wordings.voice(one.locale, "UTC")
        return OutgoingNotification(
            id=one.id,
            billable=one.billable,
            type=one.type,
            priority=one.priority.value,
            subject=one.subject,
            message=one.message,
            action=voice.action(one.type),
            action_url=one.action_url,
            locale=one.locale,
            metadata=one.metadata,
            created_at=one.created_at,
            name=name,
            address=address,
        )

    def _read(self, connection: Connection, parcel: _Parcel, billable: str) -> tuple[list[Notification], Any]:
        notifications, tenants = tables.notifications, tables.tenants
        ids = [row.notification_id for row in parcel.rows]
        query = select(notifications).where(notifications.c.id.in_(ids))
        rows = connection.execute(query.order_by(notifications.c.created_at, notifications.c.id)).all()
        found = [Notification.from_row(tuple(row)) for row in rows]
        tenant = select(tenants.c.name, tenants.c.billing_email, tenants.c.status).where(tenants.c.billable == billable)
        return found, connection.execute(tenant).first()


class _WebhookSender(_Sender):
    """Posts events to one endpoint."""

    def __init__(self, engine: Engine, endpoint_id: str) -> None:
        self._engine = engine
        endpoints = tables.webhook_endpoints
        query = select(endpoints).where(endpoints.c.id == endpoint_id)
        self._endpoint: Any = engine.read(lambda connection: connection.execute(query).first())

    def send(self, parcel: _Parcel) -> None:
        endpoint = self._endpoint
        if endpoint is None:
            raise _Dropped("The endpoint was removed.")
        if endpoint.status != "active":
            raise DeliveryFailed(
                f"The endpoint is disabled: {endpoint.status_reason or 'by request'}.", is_permanent=True
            )
        [row] = parcel.rows
        try:
            signed_request(self._engine, endpoint, row.id, row.payload)
        except DeliveryFailed as failure:
            self._note_failure(failure)
            raise
        except (ConfigurationError, StorageError) as error:
            # A secret that cannot be decrypted here is the operator's matter, and no failure of the endpoint.
            raise DeliveryFailed(str(error), is_unreachable=True) from error

    def succeeded(self) -> None:
        if self._endpoint.failing_since is not None:
            self._change(failing_since=None)

    def _note_failure(self, failure: DeliveryFailed) -> None:
        now = self._engine.now()
        since = self._endpoint.failing_since
        days = self._engine.settings.notifications.webhook_disable_after_days
        if failure.is_permanent:
            self._disable("It asked for nothing more (410)", now)
        elif since is None:
            self._change(failing_since=now)
        elif now - since >= days * _DAY:
            self._disable(f"Nothing was delivered for {days} days; last: {str(failure)[:200]}".rstrip("."), now)

    def _disable(self, reason: str, now: int) -> None:
        logger.error("Webhook endpoint %s is disabled: %s", self._endpoint.id, reason)
        self._change(status="disabled", status_reason=reason, updated_at=now)

    def _change(self, **values: object) -> None:
        endpoint = self._endpoint
        endpoints = tables.webhook_endpoints

        def change(connection: Connection) -> Any:
            own = endpoints.c.id == endpoint.id
            before = connection.execute(select(endpoints).where(own).with_for_update()).first()
            if before is None:
                return None
            connection.execute(update(endpoints).where(own).values(**values))
            if values.get("status") == "disabled" and before.status == "active":
                journal_change(connection, WEBHOOKS_CHANGED)
                self._engine.outgoing.tell(connection, self._told(str(values["status_reason"])))
            return connection.execute(select(endpoints).where(own)).first()

        self._endpoint = self._engine.lane.transact(change)

    def _told(self, reason: str) -> list[Told]:
        endpoint = self._endpoint
        if endpoint.billable is None:
            # The operator's own: there is no customer to tell, and the log has it.
            return []
        at = from_micros(self._engine.now())
        stated = {"url": endpoint.url, "reason": reason}
        metadata = {"endpoint_id": endpoint.id, **stated}
        return [Told(Draft(endpoint.billable, "webhook_disabled", at, stated, metadata), None)]


def signed_request(engine: Engine, endpoint: Any, message_id: str, payload: str) -> int:
    """Post a payload to an endpoint, a row of `webhook_endpoints`, and return the status of its answer.

    Raises:
        DeliveryFailed: it was not accepted, or not reached.
        ConfigurationError, StorageError: its secret cannot be decrypted.
    """
    now = engine.now()
    settings = engine.settings.notifications
    headers = signed_headers(message_id, now // _SECOND, payload, signing_secrets(engine.cipher, endpoint, now))
    return post(
        endpoint.url,
        payload.encode(),
        {"content-type": "application/json; charset=utf-8", "user-agent": "tallystick", **headers},
        timeout_seconds=settings.webhook_timeout_seconds,
        allows_private=settings.webhook_private_addresses,
    )
