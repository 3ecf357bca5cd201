"""Events as webhooks carry them: a name in words ("usage.recorded") and plain JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType

from tallystick import events
from tallystick.errors import InvalidInput
from tallystick.events import Event

__all__ = [
    "EVENT_NAMES",
    "EVERY_EVENT",
    "NOTIFICATION_CREATED",
    "TEST_EVENT",
    "body_of",
    "encoded",
    "event_body",
    "event_names",
]

EVERY_EVENT = "*"
NOTIFICATION_CREATED = "notification.created"
"""A notification, as an event: for receivers that show what customers are told."""

TEST_EVENT = "webhook.test"
"""What `ts.webhooks.test` sends. It reaches every endpoint, whatever it subscribes to."""

_WORD = re.compile(r"[A-Z][a-z]*")
# Where the last word alone does not say what happened.
_STATED = {"SubscriptionEndingSoon": "subscription.ending_soon"}


def _name_of(class_name: str) -> str:
    words = [word.lower() for word in _WORD.findall(class_name)]
    return _STATED.get(class_name) or f"{'_'.join(words[:-1])}.{words[-1]}"


EVENT_NAMES: Mapping[type[Event], str] = MappingProxyType(
    {getattr(events, name): _name_of(name) for name in events.__all__ if name != "Event"}
)
"""The name of each class of `tallystick.events`: UsageRecorded is "usage.recorded"."""


def event_names(wanted: object) -> tuple[str, ...]:
    """Return the names of events that were named or given as classes, in order, each once. "*" is every event.

    Raises:
        InvalidInput: there is no such event, or none is given.
    """
    if isinstance(wanted, str | type):
        wanted = (wanted,)
    if not isinstance(wanted, Iterable) or not (found := list(wanted)):
        raise InvalidInput("events", wanted, 'Give events such as "quota.warning" or QuotaWarning, or "*" for all.')
    return tuple(dict.fromkeys(_event_name(one) for one in found))


def _event_name(wanted: object) -> str:
    if isinstance(wanted, type) and wanted in EVENT_NAMES:
        return EVENT_NAMES[wanted]
    if wanted in (EVERY_EVENT, NOTIFICATION_CREATED) or wanted in EVENT_NAMES.values():
        return str(wanted)
    known = ", ".join(sorted([*EVENT_NAMES.values(), NOTIFICATION_CREATED]))
    raise InvalidInput("events", wanted, f"There are: {known}.")


def event_body(event: Event) -> str:
    """Return the body in which an event is posted."""
    data = {one.name: getattr(event, one.name) for one in dataclasses.fields(event) if one.name != "at"}
    return body_of(EVENT_NAMES[type(event)], event.at, data)


def body_of(name: str, at: datetime, data: Mapping[str, object]) -> str:
    """Return a body as Standard Webhooks recommends it: type, timestamp, data."""
    return encoded({"type": name, "timestamp": at, "data": data})


def encoded(value: object) -> str:
    """Return a value as JSON: money as amount and currency, instants in ISO 8601, exact numbers as text."""
    return json.dumps(value, default=_form, separators=(",", ":"), ensure_ascii=False)


def _form(value: object) -> object:
    """Return what JSON has no form for as something that it, or this again, has one for."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, BaseException):
        # Its message may repeat what the provider was asked: only what kind of failure it was.
        status = getattr(value, "status_code", None)
        return {"class": type(value).__name__, "status_code": status if isinstance(status, int) else None}
    if isinstance(value, Mapping):
        return {str(name): inner for name, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if callable(to_dict := getattr(value, "to_dict", None)):
        return to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return str(value)
