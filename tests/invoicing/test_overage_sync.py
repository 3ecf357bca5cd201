"""Overage and the billing driver: charged once, by it or by an invoice, whatever fails, dies or races."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tallystick import AsyncTallystick, FixedClock, Money, Tallystick
from tallystick.errors import BillingError, ConfigurationError, Conflict, InvalidInput, NotFound
from tallystick.gateways.driver import BillingDriver, NullDriver
from tallystick.invoicing.overage_charge import OverageStatus, OverageSync, SyncFailure
from tallystick.invoicing.overage_sync import sync_overages
from tallystick.invoicing.overages import OverageCharge
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, in_threads
from tests.acceptance.processes import CONTEXT, JOIN_SECONDS, run_in_processes
from tests.cli.commands import answer, invoke, succeed
from tests.invoicing.gateway import FOLDER, FolderGateway
from tests.values import money

DRIVER = "tests.invoicing.gateway:FolderGateway"
FINDING = "tests.invoicing.gateway:FindingGateway"
NOON = "2026-01-15T12:00:00Z"

Opener = Callable[..., Tallystick]


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the gateway keeps its books, for this process and those that it starts."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
def opened(database_url: str, clock: FixedClock, books: Path) -> Iterator[Opener]:
    """Opens an engine on a database of each kind, with a driver and a plan that charges what lies beyond it."""
    with ExitStack() as open_until_the_end:

        def open_engine(driver: str = DRIVER, **billing: Any) -> Tallystick:
            ts = Tallystick(database_url, clock=clock, billing={"driver": driver, **billing})
            open_until_the_end.enter_context(ts)
            if not ts.plans.list():
                ts.plans.create(
                    "pro",
                    monthly_token_limit=1_000,
                    overage_behavior="charge",
                    overage_price_per_1k_tokens=Money("0.02", "USD"),
                )
            return ts

        yield open_engine


def use(ts: Tallystick, billable: str = "user:1", tokens: int = 500, times: int = 1) -> None:
    """Use tokens beyond the plan's limit: 0.01 USD for 500."""
    if not ts.overages.list(billable):
        ts.subscriptions.create(billable, "pro")
        ts.usage.record(billable=billable, input_tokens=1_000)
    for _ in range(times):
        ts.usage.record(billable=billable, input_tokens=tokens)


def charged(books: Path) -> list[str]:
    """Return the keys that the gateway has charged."""
    return sorted(path.name.removeprefix("charge ") for path in books.glob("charge *"))


def log(books: Path) -> list[str]:
    path = books / "log"
    return path.read_text().splitlines() if path.exists() else []


def ids(overages: list[OverageCharge]) -> list[str]:
    return [one.id for one in overages]


def put_on_invoice(ts: Tallystick, billable: str, invoice_id: str) -> int:
    """Bill what is open as an invoice does: in one statement, whose condition excludes what a worker has."""
    overages = tables.overages
    is_open = (overages.c.billable == billable, overages.c.invoice_id.is_(None), overages.c.sync_started_at.is_(None))
    bill = update(overages).where(*is_open).values(invoice_id=invoice_id)
    return ts._engine.lane.transact(lambda connection: int(connection.execute(bill).rowcount))


# -- what a synchronisation does --------------------------------------------------------------------------------------


def test_overage_is_charged_once_with_its_id_as_the_key(opened: Opener, books: Path, clock: FixedClock) -> None:
    ts = opened()
    use(ts, times=3)
    assert ts.overages.sync() == OverageSync(synced=3)
    first, *_ = made = ts.overages.list("user:1")
    assert log(books) == [f"charge {one}" for one in ids(made)]
    assert (first.is_synced, first.sync_id, first.status) == (True, f"ch_{first.id}", OverageStatus.SYNCED)
    assert (first.synced_at, first.sync_started_at, first.sync_attempts) == (clock.now(), clock.now(), 1)
    assert (books / f"charge {first.id}").read_text() == str(money("0.01 USD"))
    assert ts.overages.sync() == OverageSync()
    assert len(log(books)) == 3
    assert ts.overages.list(is_synced=False) == []
    assert ts.overages.get(first.id) == first
    assert_healthy(ts)


def test_at_most_as_many_as_asked_for_are_sent_the_oldest_first(opened: Opener, books: Path) -> None:
    ts = opened()
    use(ts, times=5)
    made = ids(ts.overages.list())
    assert ts.overages.sync(limit=2) == OverageSync(synced=2, left=3)
    assert charged(books) == sorted(made[:2])
    assert ts.overages.sync(limit=3) == OverageSync(synced=3)
    for limit in (0, 10_001, True, "5"):
        with pytest.raises(InvalidInput, match="limit"):
            ts.overages.sync(limit)  # type: ignore[arg-type]


def test_without_a_driver_nothing_is_claimed_and_the_answer_says_who_charges(opened: Opener, books: Path) -> None:
    ts = opened("null")
    use(ts, times=2)
    assert ts.overages.sync() == OverageSync(left=2, is_billed_on_invoices=True)
    assert {one.status for one in ts.overages.list()} == {OverageStatus.OPEN}
    assert {one.sync_started_at for one in ts.overages.list()} == {None}
    assert log(books) == []
    with pytest.raises(BillingError, match="on an invoice"):
        NullDriver().charge_overage(ts.overages.list()[0], "key")


def test_one_that_fails_is_noted_and_tried_again_and_keeps_no_other(opened: Opener, books: Path) -> None:
    ts = opened()
    use(ts, "user:1")
    use(ts, "user:2")
    (books / "fail user:1").touch()
    done = ts.overages.sync()
    [failed] = ts.overages.list("user:1")
    said = "ConnectionError: The gateway is away."
    assert done == OverageSync(synced=1, failed=1, left=1, failures=(SyncFailure(failed.id, said),))
    assert (failed.status, failed.sync_error, failed.sync_attempts) == (OverageStatus.SYNCING, said, 1)
    assert ts.overages.sync() == replace(done, synced=0)
    (books / "fail user:1").unlink()
    assert ts.overages.sync() == OverageSync(synced=1)
    [synced] = ts.overages.list("user:1")
    assert (synced.sync_error, synced.sync_attempts, synced.is_synced) == (None, 3, True)
    assert log(books).count(f"charge {synced.id}") == 3


def test_many_that_fail_do_not_keep_new_ones_from_being_sent(opened: Opener, books: Path) -> None:
    ts = opened()
    use(ts, "user:1", times=5)
    (books / "fail user:1").touch()
    assert ts.overages.sync(limit=5).failed == 5
    use(ts, "user:2", times=3)
    assert ts.overages.sync(limit=4) == OverageSync(
        synced=3, failed=1, left=5, failures=(SyncFailure(ts.overages.list("user:1")[0].id, _AWAY),)
    )


_AWAY = "ConnectionError: The gateway is away."


def test_a_job_waits_longer_after_each_attempt(opened: Opener, books: Path, clock: FixedClock) -> None:
    ts = opened()
    use(ts)
    (books / "fail").touch()
    for pause in (5, 30, 120, 360, 1440, 1440):
        assert sync_overages(ts._engine, 50).failed == 1
        clock.advance(minutes=pause - 1)
        assert sync_overages(ts._engine, 50) == OverageSync(left=1)
        clock.advance(minutes=1)
    (books / "fail").unlink()
    assert sync_overages(ts._engine, 50) == OverageSync(synced=1)


def test_a_driver_that_is_given_a_tallystick_may_use_it(opened: Opener, books: Path) -> None:
    ts = opened("tests.invoicing.gateway.GatewayOfThisApplication")
    use(ts, times=2)
    assert ts.overages.sync().synced == 2
    assert log(books)[0] == "user:1 has 2"


def test_a_driver_that_returns_no_id_has_not_charged(opened: Opener) -> None:
    ts = opened("tests.invoicing.gateway:Wordless")
    use(ts)
    [failure] = ts.overages.sync().failures
    assert "returned NoneType" in failure.error
    assert not ts.overages.list()[0].is_synced


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere.at.all:Driver", "can be imported"),
        ("tests.invoicing.gateway:Missing", "can be imported"),
        ("tests.invoicing.gateway:FOLDER", "has a method charge_overage"),
        ("tests.invoicing.gateway:Asynchronous", "make it plain"),
        ("tests.invoicing.gateway:Demanding", "more than the Tallystick"),
    ],
)
def test_a_driver_that_cannot_be_one_keeps_the_engine_closed(sqlite_url: str, path: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        Tallystick(sqlite_url, billing={"driver": path})
    assert caught.value.field == "billing.driver"


def test_a_correction_is_sent_as_a_credit(opened: Opener, books: Path) -> None:
    ts = opened()
    use(ts)
    assert ts.overages.sync().synced == 1
    overages = tables.overages
    # A correction of a cost is a row of its own, with what it gives back.
    row = ts._engine.read(lambda connection: connection.execute(select(overages)).mappings().one())
    given_back = {name: value for name, value in row.items() if name not in _OF_A_SYNC}
    given_back |= {"id": "ovg_back", "amount": -row["amount"], "is_synced": False}
    ts._engine.lane.transact(lambda connection: connection.execute(overages.insert().values(given_back)).rowcount)
    assert ts.overages.sync().synced == 1
    assert (books / "charge ovg_back").read_text() == "-0.01 USD"
    [total] = ts.overages.totals()
    assert (total.amount, total.synced) == (money("0 USD"), money("0 USD"))


_OF_A_SYNC = {"invoice_id", "sync_id", "synced_at", "sync_started_at", "sync_attempts", "sync_error"}


# -- by the gateway or by an invoice, never by both -------------------------------------------------------------------


def test_what_is_on_an_invoice_is_not_sent_and_not_marked(opened: Opener, books: Path) -> None:
    ts = opened()
    use(ts, times=2)
    assert put_on_invoice(ts, "user:1", "inv_1") == 2
    use(ts)
    first, second, third = ts.overages.list()
    assert ts.overages.sync() == OverageSync(synced=1)
    assert charged(books) == [third.id]
    assert first.status is OverageStatus.INVOICED
    assert ids(ts.overages.list(invoice_id="inv_1")) == [first.id, second.id]
    with pytest.raises(Conflict, match="inv_1: it would be paid twice"):
        ts.overages.mark_as_synced(first.id, "ch_1")
    assert ts.overages.get(first.id) == first


def test_what_was_sent_or_may_have_been_is_put_on_no_invoice(opened: Opener, books: Path) -> None:
    ts = opened()
    use(ts)
    ts.overages.sync()
    use(ts)
    (books / "fail").touch()
    ts.overages.sync()
    use(ts)
    marked = ts.overages.mark_as_synced(ts.overages.list()[-1].id, "ch_by_hand")
    assert marked.status is OverageStatus.SYNCED
    assert put_on_invoice(ts, "user:1", "inv_1") == 0


def test_an_overage_that_was_charged_elsewhere_is_marked_once(opened: Opener, books: Path, clock: FixedClock) -> None:
    ts = opened()
    use(ts)
    [one] = ts.overages.list()
    marked = ts.overages.mark_as_synced(one.id, " ch_1 ")
    assert (marked.sync_id, marked.synced_at, marked.is_synced) == ("ch_1", clock.now(), True)
    clock.advance(days=1)
    assert ts.overages.mark_as_synced(one.id, "ch_1") == marked
    with pytest.raises(Conflict, match="charged as 'ch_1', not as 'ch_2'"):
        ts.overages.mark_as_synced(one.id, "ch_2")
    with pytest.raises(NotFound, match="ovg_0"):
        ts.overages.mark_as_synced("ovg_0", "ch_1")
    with pytest.raises(NotFound, match="ovg_0"):
        ts.overages.get("ovg_0")
    for sync_id in ("", " ", "a\nb", "x" * 201, None):
        with pytest.raises(InvalidInput, match="sync_id"):
            ts.overages.mark_as_synced(one.id, sync_id)  # type: ignore[arg-type]
    assert ts.overages.sync() == OverageSync()
    assert log(books) == []


def test_invoices_and_workers_that_race_never_charge_one_both(opened: Opener, books: Path) -> None:
    ts = opened()
    for user in range(6):
        use(ts, f"user:{user}", times=5)

    def work(index: int) -> int:
        if index % 2:
            return ts.overages.sync(limit=30).synced
        return put_on_invoice(ts, f"user:{index // 2}", f"inv_{index}")

    outcomes = in_threads(12, work)
    invoiced = [one for one in ts.overages.list() if one.invoice_id is not None]
    synced = [one for one in ts.overages.list() if one.is_synced]
    assert len(invoiced) + len(synced) == sum(outcomes) == 30
    assert not set(ids(invoiced)) & set(charged(books))
    assert sorted(ids(synced)) == charged(books)
    assert len(log(books)) == len(synced)


# -- sums and lists ---------------------------------------------------------------------------------------------------


def test_totals_are_exact_and_say_who_has_charged_how_much(opened: Opener, clock: FixedClock) -> None:
    ts = opened()
    use(ts, "user:1", tokens=1, times=3)
    assert put_on_invoice(ts, "user:1", "inv_1") == 3
    use(ts, "user:1", tokens=2)
    assert ts.overages.sync().synced == 1
    use(ts, "user:1", tokens=4)
    use(ts, "user:2", tokens=500)
    clock.set("2026-02-03T00:00:00Z")
    ts.usage.record(billable="user:1", input_tokens=1_008)
    january, february = ts.overages.totals("user:1")
    assert (january.charges, january.tokens, january.amount) == (5, 9, money("0.00018 USD"))
    assert (january.on_invoices, january.synced) == (money("0.00006 USD"), money("0.00004 USD"))
    assert january.unbilled == money("0.00008 USD")
    assert (january.period, january.currency) == ("monthly", "USD")
    assert january.period_start == datetime(2026, 1, 1, tzinfo=UTC)
    assert january.period_end == february.period_start == datetime(2026, 2, 1, tzinfo=UTC)
    assert (february.tokens, february.unbilled) == (8, money("0.00016 USD"))
    assert [one.billable for one in ts.overages.totals()] == ["user:1", "user:1", "user:2"]
    assert ts.overages.totals("user:1", start="2026-02-01T00:00:00Z") == [february]
    assert ts.overages.totals("user:1", end="2026-02-03T00:00:00Z") == [january]
    assert [one.tokens for one in ts.overages.totals("user:1", is_synced=True)] == [2]
    assert ts.overages.totals("user:3") == []
    assert january.to_dict()["unbilled"] == {"amount": "0.00008", "currency": "USD"}


def test_a_list_is_of_a_time_a_billable_or_what_is_left(opened: Opener, clock: FixedClock) -> None:
    ts = opened()
    use(ts, "user:1")
    clock.advance(hours=1)
    use(ts, "user:2")
    first, second = ts.overages.list()
    assert ts.overages.list(start=second.occurred_at) == [second]
    assert ts.overages.list(end=second.occurred_at) == [first]
    assert ts.overages.list("user:2", is_synced=False) == [second]
    assert second.to_dict()["status"] == "open"


# -- workers that die, and workers that race --------------------------------------------------------------------------


def sync_and_die(url: str, driver: str) -> None:
    with Tallystick(url, clock=FixedClock(NOON), billing={"driver": driver}) as ts:
        ts.overages.sync()


@pytest.mark.parametrize("driver", [DRIVER, FINDING])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_killed_while_it_charges_is_followed_by_another_with_the_same_key(
    opened: Opener, database_url: str, books: Path, clock: FixedClock, driver: str, when: str
) -> None:
    ts = opened(driver)
    use(ts, times=3)
    first, *others = ids(ts.overages.list())
    (books / f"die {when}").touch()
    process = CONTEXT.Process(target=sync_and_die, args=(database_url, driver))
    process.start()
    process.join(JOIN_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    (books / f"die {when}").unlink()
    claimed = ts.overages.get(first)
    assert (claimed.status, claimed.sync_attempts, claimed.sync_error) == (OverageStatus.SYNCING, 1, None)
    assert charged(books) == ([first] if when == "after" else [])
    # Whether it is dead or only slow cannot be seen: its lease is waited for.
    assert ts.overages.sync() == OverageSync(synced=2, left=1)
    clock.advance(minutes=5)
    assert ts.overages.sync() == OverageSync(synced=1)
    assert ts.overages.get(first).sync_id == f"ch_{first}"
    assert charged(books) == sorted([first, *others])
    is_found = driver == FINDING and when == "after"
    assert log(books).count(f"charge {first}") == (1 if is_found else 2)
    assert log(books).count(f"find {first}") == (1 if driver == FINDING else 0)


def sync_everything(index: int, answers: Any, url: str, ready: Any) -> None:
    with Tallystick(url, billing={"driver": DRIVER}) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        done = in_threads(3, lambda _: ts.overages.sync(limit=100))
        answers.put([sum(one.synced for one in done), sum(one.failed for one in done)])


def test_threads_and_processes_that_race_charge_each_once(opened: Opener, database_url: str, books: Path) -> None:
    ts = opened()
    use(ts, times=60)
    found = run_in_processes(3, sync_everything, database_url, CONTEXT.Barrier(3))
    assert [sum(column) for column in zip(*found, strict=True)] == [60, 0]
    assert len(log(books)) == len(set(log(books))) == 60
    assert all(one.sync_attempts == 1 for one in ts.overages.list())


def test_a_worker_that_was_only_slow_notes_its_charge_too_and_nobody_charges_it_twice(
    opened: Opener, books: Path, clock: FixedClock
) -> None:
    ts = opened()
    use(ts)
    driver = driver_of(ts)
    driver.seconds = 0.5

    def work(index: int) -> int:
        if index:
            wait_for(lambda: len(log(books)) == 1)
            clock.advance(minutes=6)
        return ts.overages.sync().synced

    assert in_threads(2, work) == [1, 1]
    [one] = ts.overages.list()
    assert (one.is_synced, one.sync_id, one.sync_attempts) == (True, f"ch_{one.id}", 2)
    assert charged(books) == [one.id]


def driver_of(ts: Tallystick) -> FolderGateway:
    driver: BillingDriver = ts._engine.driver
    assert isinstance(driver, FolderGateway)
    return driver


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- immediately ------------------------------------------------------------------------------------------------------


def test_with_immediate_a_use_is_charged_right_after_it_and_waits_for_nothing(opened: Opener, books: Path) -> None:
    ts = opened(overage_sync_strategy="immediate")
    use(ts)
    wait_for(lambda: ts.overages.list()[0].is_synced)
    driver_of(ts).seconds = 1.0
    started = time.monotonic()
    result = ts.meter.billable("user:1").using_provider("manual", "m").with_manual_usage(input_tokens=500).call(_answer)
    assert time.monotonic() - started < 0.9
    assert result.overage == money("0.01 USD")
    # What waits is sent before the engine is closed.
    ts.close()
    assert len(charged(books)) == 2
    later = opened()
    assert {one.status for one in later.overages.list()} == {OverageStatus.SYNCED}


def _answer() -> str:
    return "answer"


def test_with_immediate_a_gateway_that_is_away_breaks_no_call_and_is_asked_again_by_the_job(
    opened: Opener, books: Path, clock: FixedClock
) -> None:
    ts = opened(overage_sync_strategy="immediate")
    (books / "fail").touch()
    use(ts, times=3)
    wait_for(lambda: all(one.sync_error == _AWAY for one in ts.overages.list()))
    (books / "fail").unlink()
    assert sync_overages(ts._engine, 50) == OverageSync(left=3)
    clock.advance(minutes=5)
    assert sync_overages(ts._engine, 50) == OverageSync(synced=3)
    assert_healthy(ts)


def test_with_immediate_many_calls_at_once_are_charged_once_each(opened: Opener, books: Path) -> None:
    ts = opened(overage_sync_strategy="immediate")
    use(ts)
    in_threads(8, lambda _: [ts.usage.record(billable="user:1", input_tokens=500) for _ in range(5)])
    wait_for(lambda: all(one.is_synced for one in ts.overages.list()))
    assert len(charged(books)) == len(log(books)) == 41


def test_with_immediate_a_parent_and_its_child_send_what_is_their_own(
    opened: Opener, database_url: str, books: Path
) -> None:
    ts = opened("null")
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-01T00:00:00Z")
    ts.usage.record(billable="user:1", input_tokens=1_000, occurred_at=datetime.now(UTC))
    finished = subprocess.run(
        [sys.executable, "-m", "tests.invoicing.forking", database_url],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=JOIN_SECONDS,
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert {one.status for one in ts.overages.list()} == {OverageStatus.SYNCED}
    assert len(log(books)) == len(charged(books)) == 5


def test_with_immediate_an_awaited_call_leaves_the_loop_free(
    opened: Opener, database_url: str, books: Path, clock: FixedClock
) -> None:
    opened("null").subscriptions.create("user:1", "pro")
    billing = {"driver": DRIVER, "overage_sync_strategy": "immediate"}

    async def call() -> float:
        async with AsyncTallystick(database_url, clock=clock, billing=billing) as ts:
            driver_of(ts.sync).seconds = 1.0
            started = time.monotonic()
            await (
                ts.meter.billable("user:1")
                .using_provider("manual", "m")
                .with_manual_usage(input_tokens=1_500)
                .call(_answer)
            )
            took = time.monotonic() - started
        return took

    assert asyncio.run(call()) < 0.9
    assert len(charged(books)) == 1


def test_a_synchronisation_is_awaited_and_takes_what_is_left(
    opened: Opener, database_url: str, books: Path, clock: FixedClock
) -> None:
    use(opened(), times=2)

    async def sync() -> OverageSync:
        async with AsyncTallystick(database_url, clock=clock, billing={"driver": DRIVER}) as ts:
            await ts.overages.mark_as_synced((await ts.overages.list())[0].id, "ch_1")
            assert len(await ts.overages.totals()) == 1
            return await ts.overages.sync()

    assert asyncio.run(sync()) == OverageSync(synced=1)
    assert len(charged(books)) == 1


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_sends_overage_and_says_what_failed(
    opened: Opener, database_url: str, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ts = opened()
    use(ts, times=3)
    options = ("--database", database_url)
    assert "invoices charge overage. 3 not charged yet." in succeed("sync-overages", *options)
    monkeypatch.setenv("TALLYSTICK_BILLING__DRIVER", DRIVER)
    assert "1 charged, 0 failed, 2 not charged yet." in succeed("sync-overages", "--limit", 1, *options)
    (books / "fail").touch()
    failed = answer("sync-overages", *options, exit_code=1)
    assert (failed["synced"], failed["failed"], failed["left"]) == (0, 2, 2)
    said = invoke("sync-overages", *options)
    assert said.exit_code == 1
    assert "The gateway is away." in said.stdout
    (books / "fail").unlink()
    assert answer("sync-overages", *options) == OverageSync(synced=2).to_dict()
