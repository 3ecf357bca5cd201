"""What the tests of notifications share: real servers, and an engine that knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tests.notify import receivers
from tests.notify.receivers import MailServer, Receiver

Opener = Callable[..., Tallystick]


@pytest.fixture
def mail() -> Iterator[MailServer]:
    """A mail server."""
    with receivers.mail_server() as made:
        yield made


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receivers.receiver() as made:
        yield made


@pytest.fixture
def opened(database_url: str, clock: FixedClock) -> Iterator[Opener]:
    """Opens an engine on a database of each kind, with settings of notifications, for receivers of this machine."""
    with ExitStack() as open_until_the_end:

        def open_engine(mail: MailServer | None = None, **settings: Any) -> Tallystick:
            given = {"webhook_private_addresses": True, "webhook_timeout_seconds": 2, **settings}
            if mail is not None:
                given["smtp"] = mail.settings
            ts = Tallystick(database_url, clock=clock, notifications=given)
            return open_until_the_end.enter_context(ts)

        yield open_engine
