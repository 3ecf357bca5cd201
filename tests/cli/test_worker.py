"""`tallystick worker`: one round or many, a line for each in which something was done, and an end that is asked for."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tallystick import Tallystick
from tallystick.money import Money
from tests.cli.commands import answer, invoke, start, succeed


def sell(url: str, *, subscriptions: int = 2) -> None:
    with Tallystick(url) as ts:
        ts.plans.create("pro", price=Money("29", "USD"))
        for number in range(subscriptions):
            ts.subscriptions.create(f"user:{number}", "pro")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


def test_one_round_says_what_was_done(database_url: str) -> None:
    sell(database_url)
    said = succeed("worker", "--once", "--database", database_url)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  invoices 2.* \(\d+\.\d s\)\n", said)
    assert "nothing was due" in succeed("worker", "--once", "--database", database_url)


def test_one_round_is_one_object(database_url: str) -> None:
    sell(database_url)
    done = answer("worker", "--once", "--database", database_url)
    assert (done["event"], done["round"], done["failed"]) == ("round", 1, [])
    assert (done["done"]["invoices"], done["done"]["deliveries"]["sent"]) == (2, 0)


def test_a_job_that_fails_is_a_line_and_an_exit_code(sqlite_url: str) -> None:
    sell(sqlite_url)
    file = sqlite_url.removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        connection.execute("ALTER TABLE holds RENAME TO holds_elsewhere")
    ended = invoke("worker", "--once", "--database", sqlite_url)
    assert (ended.exit_code, ended.stderr) == (1, "")
    done, failed = ended.stdout.splitlines()
    assert "invoices 2" in done
    assert re.search(r"Z  expire_holds failed: .*no such table: holds", failed)
    said = answer("worker", "--once", "--database", sqlite_url, exit_code=1)
    assert [(one["job"], one["code"]) for one in said["failed"]] == [("expire_holds", "storage_error")]


def test_it_works_until_its_time_is_over(sqlite_url: str) -> None:
    sell(sqlite_url)
    ended = invoke("worker", "--interval", "0.05", "--max-seconds", "0.5", "--json", "--database", sqlite_url)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    # Rounds in which nothing was due are not told of.
    assert [line["event"] for line in lines] == ["started", "round", "stopped"]
    assert lines[1]["done"]["invoices"] == 2
    assert lines[2]["rounds"] > 2


def test_it_does_not_make_a_database_that_is_not_there(tmp_path: Path) -> None:
    error = answer("worker", "--database", f"sqlite:///{tmp_path / 'wrong.db'}", exit_code=3)["error"]
    assert (error["code"], error["kind"]) == ("not_found", "database")


def test_it_waits_for_a_server_that_is_away_and_says_so() -> None:
    # Nobody listens on this port.
    ended = invoke("worker", "--max-seconds", "2", "--database", "postgresql://127.0.0.1:1/billing")
    assert re.match(r".*Z  The database cannot be opened: .* Trying again in 1 s\.\n", ended.stdout)
    assert (ended.exit_code, "cannot be opened" in ended.stderr) == (3, True)
    at_once = invoke("worker", "--once", "--database", "postgresql://127.0.0.1:1/billing")
    assert (at_once.exit_code, at_once.stdout) == (3, "")


def test_old_events_go_only_where_it_is_told_to_remove_them(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        use = {"billable": "user:1", "input_tokens": 1, "total_cost": "0.01"}
        ts.usage.record_batch([{**use, "occurred_at": "2020-01-01T00:00:00Z"}, use])
    assert answer("worker", "--once", "--database", sqlite_url)["done"]["events_removed"] == 0
    assert answer("worker", "--once", "--cleanup", "--database", sqlite_url)["done"]["events_removed"] == 1


@pytest.mark.parametrize("asked_by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(sqlite_url: str, tmp_path: Path, asked_by: signal.Signals) -> None:
    sell(sqlite_url)
    output, heartbeat = tmp_path / "output", tmp_path / "heartbeat"
    worker = start("worker", "--heartbeat", heartbeat, "--database", sqlite_url, output=output)
    wait_until(lambda: heartbeat.exists() and json.loads(heartbeat.read_text())["round"] > 0)
    worker.send_signal(asked_by)
    assert worker.wait(timeout=60) == 0
    assert re.search(
        r"Working, every 10 seconds\.\n.*invoices 2.*\n.*Stopped after [12] rounds\.\n", output.read_text()
    )


def test_a_second_signal_ends_it_at_once_whatever_it_waits_for(sqlite_url: str, tmp_path: Path) -> None:
    sell(sqlite_url)
    heartbeat, options = tmp_path / "heartbeat", ("--interval", "0.01", "--database", sqlite_url)
    worker = start("worker", *options, "--heartbeat", heartbeat, output=tmp_path / "output")
    try:
        wait_until(lambda: heartbeat.exists() and json.loads(heartbeat.read_text())["round"] > 0)
        # Another process keeps the file to itself, and something becomes due that has to be written.
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None) as other:
            other.execute("UPDATE subscriptions SET next_billing_at = 1")
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(1)
            worker.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(timeout=1)
            worker.terminate()
            assert worker.wait(timeout=5) == 128 + signal.SIGTERM
            other.execute("ROLLBACK")
    finally:
        worker.kill()
        worker.wait()
    with Tallystick(sqlite_url) as ts:
        assert ts.doctor().ok
