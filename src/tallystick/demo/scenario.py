"""`tallystick demo`: the main job, from a hard limit under load to the last digit of a charge, in some seconds.

It starts the local provider server, opens a fresh SQLite database, plays the scenes, reports what came of them and
checks itself against the server's own counters. It needs neither a key nor the internet.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tallystick.aio import AsyncTallystick
from tallystick.app import Tallystick
from tallystick.clock import FixedClock
from tallystick.demo.clients import Clients
from tallystick.demo.customers import set_up, set_up_prepaid
from tallystick.demo.findings import Findings, Traffic, gather
from tallystick.demo.next_steps import next_commands
from tallystick.demo.provider_server import ProviderServer
from tallystick.demo.report import WIDE_COLUMNS, show
from tallystick.demo.scenes import Scenes
from tallystick.demo.wallet_scenes import WalletScenes, midnight_before
from tallystick.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["play", "run"]

# Whatever the environment or a settings file say, the numbers of the demo are the same.
SETTINGS: Mapping[str, Any] = {
    "auto_migrate": True,
    "default_provider": "openai",
    "enforcement": "on",
    "require_subscription": False,
    "on_unknown_price": "refuse",
    "on_missing_usage": "error",
    "providers": {"acme": {"class": "tallystick.demo.acme:AcmeProvider"}},
    "billing": {"currency": "USD", "overage_behavior": "block", "credit_overdraft_allowed": False},
    "credits": {
        "burn_order": "oldest_first",
        "default_priority": 50,
        "money_grant_max": 1_000_000,
        "feature_grant_max": 1_000_000,
        "reasons": {
            "top-up": {"kind": "paid"},
            "promotion": {"kind": "promotional"},
            "goodwill": {"kind": "promotional"},
            "referral-bonus": {"kind": "promotional"},
        },
    },
    "period": {"type": "monthly", "alignment": "calendar", "timezone": "UTC"},
    "limits": {"approaching_percentage": 80},
}

CHUNK_SECONDS = 0.002
"""The pause between two pieces of a stream: it is seen to arrive in pieces, and nobody has to wait for it."""


def run(database: str | None = None, console: Console | None = None, *, as_json: bool = False) -> int:
    """Play the demo and print its report, as text or as JSON. Returns 0, or 1 where a number is not as it must be.

    `database` is a URL of an empty database; without it a new SQLite file is made in a temporary folder and kept, for
    the commands that the report ends with. `console` is where the report goes, standard output unless given.

    Raises:
        Conflict: the database has plans or usage already. TallystickError: it cannot be opened.
    """
    url = database or f"sqlite:///{Path(tempfile.mkdtemp(prefix='tallystick-')) / 'demo.db'}"
    console = console or _console()
    with nullcontext() if as_json else console.status("") as status:
        findings = play(url, announce=status.update if status is not None else _say_nothing)
    commands = next_commands(url, findings)
    if as_json:
        report = {**findings.to_dict(), "database": url, "next_commands": [command.to_dict() for command in commands]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        show(console, findings, commands)
    return 0 if findings.ok else 1


def play(url: str, *, announce: Callable[[str], None]) -> Findings:
    """Play all scenes on an empty database, and return what was found. Each scene is announced when it begins.

    Raises:
        Conflict: the database has plans or usage already. TallystickError: it cannot be opened.
    """
    with (
        ProviderServer(chunk_seconds=CHUNK_SECONDS) as server,
        Tallystick(url, **SETTINGS) as ts,
        Clients(server.url) as clients,
    ):
        _require_empty(ts, url)
        clock = FixedClock(midnight_before(ts.clock.now()))
        scenes = Scenes(ts, server, clients, lambda: AsyncTallystick(url, **SETTINGS))
        with Tallystick(url, clock=clock, **SETTINGS) as prepaid:
            wallet_scenes = WalletScenes(prepaid, clock, clients, scenes.seen, scenes.calls)
            set_up_prepaid(prepaid)
            set_up(ts)
            started = time.perf_counter()
            for title, scene in (*scenes.program(), *wallet_scenes.program()):
                announce(f"{title} ...")
                scene()
            seconds = time.perf_counter() - started
        traffic = Traffic(server.calls, server.in_flight_peak, server.requests, seconds, clients.ways)
        return gather(ts, scenes.seen, wallet_scenes.told, traffic)


def _say_nothing(_: str) -> None:
    """Announce a scene to nobody: standard output is for the JSON alone."""


def _console() -> Console:
    # A pipe has no width of its own: what goes into one is laid out as for a wide terminal.
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if has_width else WIDE_COLUMNS)


def _require_empty(ts: Tallystick, url: str) -> None:
    if ts.plans.list() or len(ts.usage.events(limit=1)):
        raise Conflict(f"{url} has plans or usage already. Run the demo on an empty database, or leave --database out.")
