"""Channels: how a notification leaves the house. E-mail is built in; an application adds its own by a class.

    # application/sms.py
    class Sms:
        def send(self, notifications: Sequence[OutgoingNotification]) -> None: ...

and in the settings `notifications.channels.sms.class = "application.sms:Sms"`. What goes out on it follows each
customer's preferences, through the outbox, with retries, as mail does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

__all__ = ["EMAIL", "IN_APP", "WEBHOOK", "Channel", "DeliveryFailed", "OutgoingNotification"]

EMAIL, IN_APP, WEBHOOK = "email", "in_app", "webhook"


@dataclass(frozen=True, slots=True)
class OutgoingNotification:
    """A notification as a channel gets it. `id` is the same at each attempt: a message may come twice, so let it tell.

    `action` is what the link is called, in the reader's language. `address` is where mail to the billable goes.
    """

    id: str
    billable: str
    type: str
    priority: str
    subject: str
    message: str
    action: str
    action_url: str | None
    locale: str
    metadata: Mapping[str, object]
    created_at: datetime
    name: str | None = None
    address: str | None = None


class DeliveryFailed(Exception):
    """A channel could not deliver. It is tried again later, unless it `is_permanent`: then it is a dead letter at once.

    `is_unreachable` says that the destination itself is away, so that what else waits for it is not tried in vain.
    """

    def __init__(
        self,
        message: str,
        *,
        is_permanent: bool = False,
        is_unreachable: bool = False,
        retry_after_seconds: float | None = None,
        status_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.is_permanent = is_permanent
        self.is_unreachable = is_unreachable
        self.retry_after_seconds = retry_after_seconds


class Channel(Protocol):
    """A way to reach a billable. Made without arguments, used by one thread at a time."""

    def send(self, notifications: Sequence[OutgoingNotification]) -> None:
        """Send notifications of one billable as one message: a single one, or those of a digest, the oldest first.

        Raises:
            DeliveryFailed: it could not be delivered. Any other exception counts as one that may pass.
        """
