"""`ts.webhooks`: where events are posted to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, select, update

from tallystick.errors import InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.metering.usage import subject_reference
from tallystick.notify.channels import WEBHOOK, DeliveryFailed
from tallystick.notify.delivery import signed_request
from tallystick.notify.endpoint_secrets import kept
from tallystick.notify.notification import WebhookEndpoint, WebhookTest
from tallystick.notify.payload import TEST_EVENT, body_of, event_names
from tallystick.notify.signature import checked_secret, new_secret
from tallystick.notify.webhook_request import checked_url
from tallystick.period import from_micros
from tallystick.plans.loading import journal_change
from tallystick.storage import tables
from tallystick.storage.lane import WEBHOOKS_CHANGED

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Webhooks"]

_DESCRIPTION_LENGTH_MAX = 500
_OLD_SECRET_HOURS = 24
_HOUR = 3_600_000_000
_UNSET: Any = object()


class Webhooks:
    """Endpoints to which events are posted, signed as Standard Webhooks does.

    An event that somebody subscribes to is written with what it tells of, and delivered at least once: also where the
    process dies in between, and while the receiver is away.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        url: str,
        events: object = "*",
        *,
        tenant: object = None,
        description: str | None = None,
        secret: str | None = None,
    ) -> WebhookEndpoint:
        """Add an endpoint, and return it with its secret: it is told this once.

        `events` are names or classes of events ("quota.warning", QuotaWarning), "notification.created", or "*" for
        all. With a `tenant`, or any billable, it hears of that one alone; without, of everybody: then it is yours.

        Raises:
            InvalidInput: the address is not https, there is no such event, or the secret is none.
        """
        checked = self._checked_url(url)
        names = event_names(events)
        told = _checked_description(description)
        signing = new_secret() if secret is None else checked_secret(secret)
        now, endpoint_id = self._engine.now(), new_id("whk")
        row = {
            "id": endpoint_id,
            "billable": None if tenant is None else subject_reference(tenant, self._engine),
            "url": checked,
            "events": json.dumps(names),
            "description": told,
            "secret": kept(self._engine.cipher, signing, endpoint_id),
            "status": "active",
            "created_at": now,
            "updated_at": now,
        }

        def insert(connection: Connection) -> WebhookEndpoint:
            connection.execute(tables.webhook_endpoints.insert().values(row))
            journal_change(connection, WEBHOOKS_CHANGED)
            return WebhookEndpoint.from_row(_found(connection, endpoint_id, None), secret=signing)

        return self._engine.lane.transact(insert)

    def list(self, tenant: object = None) -> list[WebhookEndpoint]:
        """Return all endpoints, or those of a tenant or billable, the oldest first; without their secrets."""
        endpoints = tables.webhook_endpoints
        query = select(endpoints).order_by(endpoints.c.created_at, endpoints.c.id)
        if tenant is not None:
            query = query.where(endpoints.c.billable == subject_reference(tenant, self._engine))
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [WebhookEndpoint.from_row(tuple(row)) for row in rows]

    def get(self, id: str, tenant: object = None) -> WebhookEndpoint:  # noqa: A002  # the word of the other namespaces
        """Return an endpoint, without its secret. With a `tenant`, only one of its own.

        Raises:
            NotFound: there is no such endpoint, or it is somebody else's.
        """
        return WebhookEndpoint.from_row(self._read(id, tenant))

    def update(
        self,
        id: str,  # noqa: A002  # as above
        *,
        url: str | None = None,
        events: object = None,
        description: str | None = _UNSET,
        is_active: bool | None = None,
        tenant: object = None,
    ) -> WebhookEndpoint:
        """Change an endpoint; what is left out stays. `is_active` disables it, or enables it again after failures.

        What it missed while it was disabled is not sent; its dead letters can be, with `ts.notifications.retry`.

        Raises:
            NotFound: there is no such endpoint, or it is somebody else's.
        """
        values: dict[str, object] = {"updated_at": self._engine.now()}
        if url is not None:
            values["url"] = self._checked_url(url)
        if events is not None:
            values["events"] = json.dumps(event_names(events))
        if description is not _UNSET:
            values["description"] = _checked_description(description)
        if is_active is not None:
            values |= {"status": "active" if is_active else "disabled", "status_reason": None, "failing_since": None}
        return self._change(id, tenant, values)

    def rotate_secret(
        self,
        id: str,  # noqa: A002  # as above
        *,
        old_valid_hours: int = _OLD_SECRET_HOURS,
        tenant: object = None,
    ) -> WebhookEndpoint:
        """Replace the secret, and return the endpoint with the new one: it is told this once.

        For so many hours requests are signed with the old one too, so that the receiver can change over in peace.

        Raises:
            NotFound: there is no such endpoint, or it is somebody else's.
        """
        if isinstance(old_valid_hours, bool) or not isinstance(old_valid_hours, int) or not 0 <= old_valid_hours <= 720:
            raise InvalidInput("old_valid_hours", old_valid_hours, "Give 0 to 720 hours.")
        signing, now = new_secret(), self._engine.now()
        values = {
            "secret": kept(self._engine.cipher, signing, id),
            "previous_secret": tables.webhook_endpoints.c.secret,
            "previous_secret_until": now + old_valid_hours * _HOUR,
            "updated_at": now,
        }
        return self._change(id, tenant, values, secret=signing)

    def remove(self, id: str, tenant: object = None) -> None:  # noqa: A002  # as above
        """Remove an endpoint. What waits for it is not sent any more.

        Raises:
            NotFound: there is no such endpoint, or it is somebody else's.
        """
        reference = None if tenant is None else subject_reference(tenant, self._engine)
        outbox, now = tables.outbox, self._engine.now()
        waiting = outbox.c.channel == WEBHOOK, outbox.c.destination == id, outbox.c.status == "pending"

        def remove(connection: Connection) -> None:
            _found(connection, id, reference)
            connection.execute(delete(tables.webhook_endpoints).where(tables.webhook_endpoints.c.id == id))
            dropped = {"status": "dropped", "closed_at": now, "last_error": "The endpoint was removed."}
            connection.execute(update(outbox).where(*waiting).values(**dropped))
            journal_change(connection, WEBHOOKS_CHANGED)

        self._engine.lane.transact(remove)

    def test(self, id: str, tenant: object = None) -> WebhookTest:  # noqa: A002  # as above
        """Post the event "webhook.test" now, past the outbox, and say what became of it; it is not repeated.

        Raises:
            NotFound: there is no such endpoint, or it is somebody else's.
            ConfigurationError: its secret was encrypted with a key that is not there any more.
        """
        endpoint = self._read(id, tenant)
        body = body_of(TEST_EVENT, from_micros(self._engine.now()), {"endpoint_id": id})
        try:
            return WebhookTest(True, signed_request(self._engine, endpoint, new_id("msg"), body), None)
        except DeliveryFailed as failure:
            return WebhookTest(False, failure.status_code, str(failure))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _checked_url(self, url: object) -> str:
        return checked_url(url, allows_plain=self._engine.settings.notifications.webhook_private_addresses)

    def _read(self, endpoint_id: str, tenant: object) -> Any:
        reference = None if tenant is None else subject_reference(tenant, self._engine)
        return self._engine.read(lambda connection: _found(connection, endpoint_id, reference))

    def _change(
        self, endpoint_id: str, tenant: object, values: dict[str, Any], *, secret: str | None = None
    ) -> WebhookEndpoint:
        reference = None if tenant is None else subject_reference(tenant, self._engine)
        endpoints = tables.webhook_endpoints

        def change(connection: Connection) -> WebhookEndpoint:
            _found(connection, endpoint_id, reference)
            connection.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(**values))
            journal_change(connection, WEBHOOKS_CHANGED)
            return WebhookEndpoint.from_row(_found(connection, endpoint_id, reference), secret=secret)

        return self._engine.lane.transact(change)


def _found(connection: Connection, endpoint_id: str, billable: str | None) -> Any:
    endpoints = tables.webhook_endpoints
    query = select(endpoints).where(endpoints.c.id == endpoint_id)
    if billable is not None:
        query = query.where(endpoints.c.billable == billable)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound("webhook endpoint", endpoint_id)
    return row


def _checked_description(description: str | None) -> str | None:
    if description is None:
        return None
    if not isinstance(description, str) or len(description) > _DESCRIPTION_LENGTH_MAX:
        raise InvalidInput("description", description, f"Give a text of at most {_DESCRIPTION_LENGTH_MAX} characters.")
    return description.strip() or None
