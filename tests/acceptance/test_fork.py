"""After a fork both processes go on: the child with connections and a lane of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tallystick import Tallystick
from tests.acceptance.accounts import BILLABLE, assert_healthy
from tests.acceptance.forking import EVENTS

ROOT = Path(__file__).parent.parent.parent


def run(scenario: str, url: str) -> str:
    """Run a scenario in a process of its own; return what it wrote."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.forking", scenario, url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def events_by_feature(url: str) -> dict[str, int]:
    with Tallystick(url) as ts:
        assert_healthy(ts, open_holds=0)
        return {group.name: group.totals.events for group in ts.usage.stats(BILLABLE).by_feature}


def test_a_parent_and_its_children_record_side_by_side(database_url: str) -> None:
    run("parent_and_children_go_on", database_url)
    assert events_by_feature(database_url) == {"before": 1, "child": 3 * EVENTS, "parent": EVENTS, "after": 1}


def test_a_fork_in_the_middle_of_a_batch_locks_nobody_out(database_url: str) -> None:
    recorded = int(run("fork_while_the_writer_is_busy", database_url))
    assert events_by_feature(database_url) == {"parent": recorded, "child": 50}


def test_a_child_that_closes_does_not_hang_up_for_its_parent(database_url: str) -> None:
    run("a_child_closes_and_the_parent_goes_on", database_url)
    assert events_by_feature(database_url) == {"before": 1, "child": 5, "parent": 5}


def test_ids_made_after_a_fork_differ(database_url: str) -> None:
    run("ids_of_parent_and_child_differ", database_url)
    assert events_by_feature(database_url) == {"before": 1, "": 9_000}
