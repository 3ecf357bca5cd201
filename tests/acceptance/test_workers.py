"""Several workers on one database, one killed in the middle: together they do what one calm worker does, and once."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tallystick import FixedClock, Tallystick
from tallystick.events import SubscriptionRenewed
from tallystick.money import Money
from tallystick.worker import Worker
from tests.acceptance.accounts import assert_healthy
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS
from tests.acceptance.worker_books import (
    LEFT_BEHIND,
    NOW,
    billed,
    has_billed_the_rest,
    is_all_done,
    keep_books,
    made,
    numbers,
    work_until_told,
)

WORKERS = 3


@dataclass(frozen=True)
class Books:
    """Books that nobody has billed yet, to be copied; and what one calm run makes of a copy."""

    copy: Callable[[], str]
    calm: dict[tuple[object, ...], list[object]]
    invoices: int


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    made_for = {"sqlite": _sqlite_copies, "postgres": _postgres_copies}
    with_copies = made_for[request.param](request, tmp_path_factory.mktemp("workers"))
    copy = next(with_copies)
    with Tallystick(copy(), clock=FixedClock(NOW)) as ts:
        last = Worker(ts).run(once=True)
        assert last is not None
        assert not last.failed
        assert is_all_done(ts)
        calm, invoices = billed(ts), made(ts)
    assert last.counts["invoices"] == invoices - LEFT_BEHIND > 700
    yield Books(copy, calm, invoices)
    with_copies.close()


def _sqlite_copies(_: pytest.FixtureRequest, folder: Path) -> Generator[Callable[[], str], None, None]:
    original = folder / "original.db"
    keep_books(f"sqlite:///{original}")
    copies = itertools.count(1)

    def copy() -> str:
        return f"sqlite:///{shutil.copyfile(original, folder / f'copy-{next(copies)}.db')}"

    yield copy


def _postgres_copies(request: pytest.FixtureRequest, _: Path) -> Generator[Callable[[], str], None, None]:
    cluster = request.getfixturevalue("postgres_cluster")
    original = cluster.create_database()
    keep_books(cluster.url(original))
    names = [original]

    def copy() -> str:
        names.append(f"{original}_copy_{len(names)}")
        made_of = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(names[-1]), sql.Identifier(original))
        with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(made_of)
        return str(cluster.url(names[-1]))

    yield copy
    for name in reversed(names):
        cluster.drop_database(name)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_several_workers_of_which_one_is_killed_bill_what_one_calm_worker_bills(books: Books, seed: int) -> None:
    url, chance = books.copy(), random.Random(seed)
    workers = [CONTEXT.Process(target=work_until_told, args=(url,)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    with Tallystick(url, clock=FixedClock(NOW)) as ts:
        # Anywhere between the first page and the last.
        killed_after = chance.randrange(LEFT_BEHIND + 1, books.invoices - 50)
        _wait_until(lambda: made(ts) >= killed_after)
        workers[0].kill()
        left_to_do = not is_all_done(ts)
        _wait_until(lambda: is_all_done(ts))
        assert [_ended(worker, signal.SIGTERM) for worker in workers[1:]] == [0] * (WORKERS - 1)
        assert _ended(workers[0], None) == -signal.SIGKILL
        assert left_to_do, "it was not killed in the middle"

        assert billed(ts) == books.calm
        assert numbers(ts) == [f"INV-2026-{number:06}" for number in range(1, books.invoices + 1)]
        assert_healthy(ts)
        again = Worker(ts).run_round()
        assert (again.counts, again.failed) == ({}, ())
        assert billed(ts) == books.calm


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "the workers do not go on"
        time.sleep(0.005)


def _ended(process: SpawnProcess, with_signal: signal.Signals | None) -> int | None:
    if with_signal is signal.SIGTERM:
        process.terminate()
    process.join(JOIN_SECONDS)
    if process.is_alive():
        process.kill()
    return process.exitcode


def test_a_page_that_one_worker_has_in_hand_keeps_no_other_from_the_rest(postgres_url: str, clock: FixedClock) -> None:
    # Who would wait for the other is refused after a while, so that this test ends in any case.
    impatient = f"{postgres_url}&options=-c%20lock_timeout%3D5s"
    with Tallystick(impatient, clock=clock) as ts:
        ts.plans.create("pro", price=Money("29", "USD"))
        for number in range(120):
            ts.subscriptions.create(f"user:{number:03}", "pro")
        page = "SELECT id FROM subscriptions ORDER BY next_billing_at, id LIMIT 50 FOR UPDATE"
        with psycopg.connect(postgres_url) as other_worker:
            other_worker.execute(page)
            done = Worker(ts).run_round()
            assert done.counts["invoices"] == made(ts) == 70
            other_worker.rollback()
        assert Worker(ts).run_round().counts["invoices"] == 50
        assert_healthy(ts)


def test_what_has_no_subscription_is_left_as_long_as_another_worker_has_one_in_hand(
    postgres_url: str, clock: FixedClock
) -> None:
    with Tallystick(postgres_url, clock=clock) as ts:
        ts.plans.create("pro", price=Money("29", "USD"))
        ts.subscriptions.create("user:1", "pro")
        with psycopg.connect(postgres_url) as other_worker:
            other_worker.execute("SELECT id FROM subscriptions FOR UPDATE")
            Worker(ts).run_round()
            assert not has_billed_the_rest(ts)
            other_worker.rollback()
        Worker(ts).run_round()
        assert has_billed_the_rest(ts)


def test_a_missed_week_is_caught_up_in_the_order_in_which_it_was_due(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price=Money("29", "USD"))
    renewed: list[SubscriptionRenewed] = []
    ts.on(SubscriptionRenewed)(renewed.append)
    # More than a page, every three hours one, and not in the order of their ids.
    for number in random.Random(1).sample(range(80), 80):
        start = f"2026-01-{15 + number // 8:02}T{number % 8 * 3:02}:00:00Z"
        ts.subscriptions.create(f"user:{number}", "pro", started_at=start)
    clock.set("2026-02-15T00:00:00Z")
    Worker(ts).run_round()
    renewed.clear()
    before = made(ts)

    clock.advance(days=7)
    Worker(ts).run_round()
    missed = [ts.invoices.get(number) for number in numbers(ts)[before:]]
    assert [one.period_start for one in missed] == sorted(_start(one) for one in missed)
    assert [event.period_start for event in renewed] == [one.period_start for one in missed]
    assert len(missed) == 7 * 8


def test_a_missed_quarter_of_many_is_caught_up_in_the_order_of_its_instants(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price=Money("29", "USD"))
    # Two pages, who began in ten different weeks.
    for number in random.Random(2).sample(range(70), 70):
        start = datetime(2026, 1, 15, tzinfo=UTC) + timedelta(days=number)
        ts.subscriptions.create(f"user:{number}", "pro", started_at=start)
    clock.set("2026-04-20T00:00:00Z")
    Worker(ts).run_round()
    starts = [_start(ts.invoices.get(number)) for number in numbers(ts)]
    assert starts == sorted(starts)
    assert len(starts) > 140


def test_a_missed_quarter_is_renewed_month_by_month(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price=Money("29", "USD"))
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-15T00:00:00Z")
    renewed: list[SubscriptionRenewed] = []
    ts.on(SubscriptionRenewed)(renewed.append)
    clock.set("2026-04-16T00:00:00Z")
    assert Worker(ts).run_round().counts["renewals"] == 3
    assert [f"{event.period_start:%m-%d}" for event in renewed] == ["02-15", "03-15", "04-15"]
    assert [f"{_start(ts.invoices.get(number)):%m-%d}" for number in numbers(ts)] == [
        "01-15",
        "02-15",
        "03-15",
        "04-15",
    ]


def _start(invoice: Any) -> Any:
    return invoice.period_start
