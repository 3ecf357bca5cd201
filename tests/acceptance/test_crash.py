"""A process that is killed loses nothing that it was told: what returned is recorded once, what did not is let go."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from tallystick import Tallystick
from tallystick.events import HoldExpired
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, standing, subscribe
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS, call_until_killed

CALLS = 1_000
TTL_SECONDS = 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killing_a_process_among_its_calls_loses_and_doubles_nothing(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    journal = tmp_path / "returned"
    with Tallystick(database_url) as ts:
        subscribe(ts, monthly_token_limit=1_000_000)
    process = CONTEXT.Process(target=call_until_killed, args=(database_url, journal, CALLS))
    process.start()
    # Not before it has begun, not after it has ended; anywhere in between.
    _wait_for_calls(journal, random.Random(seed).randrange(1, CALLS // 2))
    process.kill()
    process.join(JOIN_SECONDS)
    returned = _whole_lines(journal)
    assert not any(line.startswith("done") for line in returned), "it was not killed in the middle"

    with Tallystick(database_url) as ts:
        reported: list[HoldExpired] = []
        ts.on(HoldExpired)(reported.append)
        assert_healthy(ts)
        recorded = ts._engine.read(
            lambda connection: connection.execute(select(tables.usage_events.c.id)).scalars().all()
        )
        assert set(returned) <= set(recorded)
        assert len(returned) == len(set(returned))
        used, _ = standing(ts)
        assert used == 7 * len(recorded)
        time.sleep(TTL_SECONDS)
        left_behind = ts.doctor().open_holds
        assert ts.run_due_jobs().holds_expired == left_behind == len(reported)
        assert {tuple(one.held.items()) for one in reported} <= {(("tokens", 20),)}
        assert standing(ts) == (used, 0)
        assert_healthy(ts, open_holds=0)


def _wait_for_calls(journal: Path, calls: int) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while not journal.exists() or journal.read_bytes().count(b"\n") < calls:
        assert time.monotonic() < deadline, "the process makes no calls"
        time.sleep(0.002)


def _whole_lines(journal: Path) -> list[str]:
    return journal.read_text().rpartition("\n")[0].splitlines()
