"""The types of notifications that are built in. An application may send types of its own beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tallystick.errors import InvalidInput

__all__ = ["EVERY_TYPE", "KINDS", "Kind", "Mode", "Priority", "checked_type", "kind_of", "usual_mode"]

EVERY_TYPE = "*"
"""In a preference: every type that has no preference of its own."""


class Priority(StrEnum):
    """How much a notification wants to be read."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


class Mode(StrEnum):
    """How somebody wants to be told: at once, once a day together with others, or not at all."""

    IMMEDIATE = "immediate"
    DIGEST = "digest"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of notification. `page` is where its link leads, below `notifications.base_url`."""

    name: str
    priority: Priority
    page: str = ""


def usual_mode(priority: Priority) -> Mode:
    """Return how a notification goes out where nobody has said otherwise: what is of low priority waits."""
    return Mode.DIGEST if priority is Priority.LOW else Mode.IMMEDIATE


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("quota_warning", Priority.HIGH, "quotas"),
            Kind("quota_exceeded", Priority.URGENT, "quotas"),
            Kind("limit_approaching", Priority.HIGH, "usage"),
            Kind("limit_reached", Priority.URGENT, "usage"),
            Kind("credits_low", Priority.HIGH, "credits"),
            Kind("credits_expiring", Priority.NORMAL, "credits"),
            Kind("payment_failed", Priority.URGENT, "payments"),
            Kind("payment_success", Priority.NORMAL, "payments"),
            Kind("subscription_expiring", Priority.HIGH, "subscription"),
            Kind("subscription_expired", Priority.URGENT, "subscription"),
            Kind("trial_ending", Priority.HIGH, "subscription"),
            Kind("invoice_created", Priority.NORMAL, "invoices"),
            Kind("invoice_due", Priority.NORMAL, "invoices"),
            Kind("invoice_overdue", Priority.URGENT, "invoices"),
            Kind("invoice_paid", Priority.LOW, "invoices"),
            Kind("plan_changed", Priority.NORMAL, "subscription"),
            Kind("webhook_disabled", Priority.HIGH, "webhooks"),
        )
    }
)

_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


def kind_of(name: str) -> Kind:
    """Return a type of notification; one of the application's own is of normal priority."""
    return KINDS.get(name) or Kind(name, Priority.NORMAL)


def checked_type(name: object, *, or_every: bool = False) -> str:
    """Return the name of a type, as it may be.

    Raises:
        InvalidInput: it is no such name.
    """
    if isinstance(name, str) and (_TYPE.fullmatch(name) or (or_every and name == EVERY_TYPE)):
        return name
    every = ', or "*" for every type' if or_every else ""
    raise InvalidInput("type", name, f'Give a name such as "quota_warning", in lower case{every}.')
