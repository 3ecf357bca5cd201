"""The lane: answers after the commit, harm to nobody else, and nobody left waiting, whatever breaks."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import Closed, InvalidInput, StorageError
from tallystick.events import HoldExpired, UsageRecorded
from tallystick.metering.commands import RecordUsage
from tallystick.storage import tables
from tallystick.storage.lane import Lane
from tallystick.storage.workspace import Workspace
from tests.acceptance.accounts import (
    BILLABLE,
    CountingProvider,
    assert_healthy,
    async_meter,
    count_rows,
    in_threads,
    meter,
    standing,
    subscribe,
)

ANSWER_SECONDS = 20


class Crafted:
    """A command of the test's own."""

    def __init__(self, decide: Callable[[], Any], billable: str = BILLABLE) -> None:
        self.billables = (billable,)
        self._decide = decide

    def needs(self, workspace: Workspace) -> None:
        pass

    def decide(self, workspace: Workspace) -> Any:
        return self._decide()


class Waiters:
    """Callers in threads of their own, each with its result or its error."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], Any]) -> None:
        index = len(self.outcomes)
        self.outcomes.append(None)

        def run() -> None:
            try:
                self.outcomes[index] = work()
            except BaseException as error:  # noqa: BLE001
                self.outcomes[index] = error

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> list[Any]:
        for thread in self._threads:
            thread.join(timeout=ANSWER_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "a caller was never answered"
        return self.outcomes


@contextmanager
def busy(lane: Lane, waiting: int) -> Iterator[Waiters]:
    """Keep the lane from working until so many callers wait, so that they are one batch."""
    waiters = Waiters()
    with lane._baton:
        yield waiters
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(lane._queue) < waiting:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    waiters.join()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def record(ts: Tallystick, **fields: Any) -> RecordUsage:
    return ts.usage._command({"billable": BILLABLE, "input_tokens": 1, **fields})


def fail_with(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


# -- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_comes_after_the_commit(ts: Tallystick) -> None:
    def record_and_look(index: int) -> None:
        for _ in range(10):
            event = ts.usage.record(billable=f"user:{index % 3}", input_tokens=1)
            # On a connection of its own, which sees what is committed and nothing else.
            assert ts.usage.get(event.id) == event

    assert in_threads(16, record_and_look) == [None] * 16


def test_an_awaited_answer_comes_after_the_commit(database_url: str) -> None:
    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:

            async def call_and_look() -> None:
                answer = await async_meter(ts).with_manual_usage(input_tokens=1).call(lambda: None)
                assert ts.sync.usage.get(answer.usage_event_id) == answer.event

            await asyncio.gather(*(call_and_look() for _ in range(60)))

    asyncio.run(main())


def test_a_refused_command_harms_no_other_of_its_batch(ts: Tallystick) -> None:
    lane = ts._engine.lane
    refusal = InvalidInput("field", "value", "No.")
    with busy(lane, 3) as waiters:
        waiters.start(lambda: lane.run(record(ts)))
        waiters.start(lambda: lane.run(Crafted(fail_with(refusal))))
        waiters.start(lambda: lane.run(record(ts)))
    assert waiters.outcomes[1] is refusal
    assert not isinstance(waiters.outcomes[0], BaseException)
    assert standing(ts) == (2, 0)
    assert_healthy(ts)


def test_a_command_that_the_database_refuses_harms_no_other_of_its_batch(ts: Tallystick) -> None:
    lane = ts._engine.lane
    first, second = record(ts), record(ts)
    twin = replace(first, facts=replace(first.facts, input_tokens=5))
    with busy(lane, 3) as waiters:
        for command in (first, twin, second):
            waiters.start(lambda command=command: lane.run(command))  # type: ignore[misc]
    failures = [one for one in waiters.outcomes if isinstance(one, BaseException)]
    assert len(failures) == 1
    assert type(failures[0]) is StorageError
    assert "Nothing of it was recorded" in failures[0].message
    assert count_rows(ts, tables.usage_events) == 2
    assert_healthy(ts)
    assert lane.run(record(ts))


def test_a_command_with_a_mistake_harms_no_other_of_its_batch(ts: Tallystick) -> None:
    lane = ts._engine.lane
    with busy(lane, 3) as waiters:
        waiters.start(lambda: lane.run(record(ts)))
        waiters.start(lambda: lane.run(Crafted(fail_with(KeyError("mistake")))))
        waiters.start(lambda: lane.run(record(ts)))
    assert isinstance(waiters.outcomes[1], KeyError)
    assert standing(ts) == (2, 0)
    assert_healthy(ts)


def test_a_new_account_is_kept_though_the_first_command_of_it_failed(ts: Tallystick) -> None:
    lane = ts._engine.lane
    with pytest.raises(KeyError):
        lane.run(Crafted(fail_with(KeyError("mistake")), "user:new"))
    ts.usage.record(billable="user:new", input_tokens=1)
    assert count_rows(ts, tables.accounts) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_each_failed_caller_has_an_exception_of_its_own(ts: Tallystick) -> None:
    lane = ts._engine.lane
    with busy(lane, 4) as waiters:
        for _ in range(3):
            waiters.start(lambda: lane.run(record(ts)))
        waiters.start(lambda: lane.run(Crafted(fail_with(SystemExit()))))
    assert len({id(one) for one in waiters.outcomes}) == 4


# -- broken threads ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_writer_dies_everybody_is_answered_and_the_next_command_works(ts: Tallystick) -> None:
    lane = ts._engine.lane
    ts.usage.record(billable=BILLABLE, input_tokens=1)
    with busy(lane, 21) as waiters:
        for _ in range(20):
            waiters.start(lambda: lane.run(record(ts)))
        waiters.start(lambda: lane.run(Crafted(fail_with(SystemExit()))))
    assert all(isinstance(one, StorageError) for one in waiters.outcomes)
    ts.usage.record(billable=BILLABLE, input_tokens=1)
    with busy(lane, 2) as waiters:
        for _ in range(2):
            waiters.start(lambda: lane.run(record(ts)))
    assert standing(ts) == (4, 0)
    assert_healthy(ts)


def test_when_a_caller_is_interrupted_in_the_lane_the_others_of_its_batch_are_answered(ts: Tallystick) -> None:
    lane = ts._engine.lane
    waiters = Waiters()
    # The writer is asleep in another batch: the interrupted caller serves those who wait.
    lane._writer_lock.acquire()
    try:
        with lane._baton:
            for _ in range(5):
                waiters.start(lambda: lane.run(record(ts)))
            while len(lane._queue) < 5:
                time.sleep(0.001)
        with pytest.raises(KeyboardInterrupt):
            lane.run(Crafted(fail_with(KeyboardInterrupt())))
    finally:
        lane._writer_lock.release()
    assert all(isinstance(one, StorageError) for one in waiters.join())
    assert ts.usage.record(billable=BILLABLE, input_tokens=1)
    assert_healthy(ts)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_reporting_an_expired_hold_ends_the_writer_everybody_is_answered(
    ts: Tallystick, clock: FixedClock
) -> None:
    subscribe(ts, monthly_token_limit=100)
    lane = ts._engine.lane

    @ts.on(HoldExpired)
    def leave(event: HoldExpired) -> None:
        raise SystemExit

    for _ in range(5):
        meter(ts).hold(tokens=100, ttl_seconds=1)
        clock.advance(seconds=1)
        with busy(lane, 11) as waiters:
            waiters.start(lambda: meter(ts).hold(tokens=100))
            for _ in range(10):
                waiters.start(lambda: lane.run(record(ts, billable="user:2")))
        assert not any(isinstance(one, BaseException) for one in waiters.outcomes)
        waiters.outcomes[0].void()
    assert standing(ts, "user:2") == (50, 0)


def test_a_failing_report_of_an_expired_hold_does_not_take_the_callers_answer(
    ts: Tallystick, clock: FixedClock
) -> None:
    subscribe(ts, monthly_token_limit=100)

    @ts.on(HoldExpired)
    def fail(event: HoldExpired) -> None:
        raise RuntimeError("handler")

    meter(ts).hold(tokens=100, ttl_seconds=1)
    clock.advance(seconds=1)
    assert meter(ts).hold(tokens=60).tokens == 60
    assert standing(ts) == (0, 60)


def test_a_handler_in_the_writers_thread_does_not_wait_for_itself(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100)
    lane = ts._engine.lane
    entered, taken, done = threading.Event(), threading.Event(), threading.Event()

    @ts.on(HoldExpired)
    def note(event: HoldExpired) -> None:
        entered.set()
        assert taken.wait(ANSWER_SECONDS)
        ts.usage.log("acme", "expired")
        done.set()

    meter(ts).hold(tokens=100, ttl_seconds=1)
    clock.advance(seconds=1)
    with busy(lane, 1) as waiters:
        waiters.start(lambda: meter(ts).hold(tokens=100))
    assert entered.wait(ANSWER_SECONDS)
    with lane._baton:
        # Somebody else is at work when the handler sends its command, and nobody comes after him.
        taken.set()
        time.sleep(0.05)
    assert done.wait(ANSWER_SECONDS), "the writer waits for itself"


def test_a_handler_may_use_the_engine_wherever_it_runs(database_url: str, clock: FixedClock) -> None:
    async def main() -> None:
        async with AsyncTallystick(database_url, clock=clock) as ts:
            subscribe(ts.sync, monthly_token_limit=100)

            @ts.on(HoldExpired)
            def note(event: HoldExpired) -> None:
                # It runs in the lane's own thread, which must not wait for itself.
                for _ in range(20):
                    ts.sync.usage.log("acme", "expired")

            for _ in range(5):
                await async_meter(ts).hold(tokens=100, ttl_seconds=1)
                clock.advance(seconds=1)
                calls = [async_meter(ts).billable("user:2").with_manual_usage(input_tokens=1) for _ in range(50)]
                await asyncio.wait_for(
                    asyncio.gather(
                        async_meter(ts).with_manual_usage(input_tokens=0).estimate(tokens=100).call(lambda: None),
                        *(call.call(lambda: None) for call in calls),
                    ),
                    timeout=ANSWER_SECONDS,
                )
            await asyncio.to_thread(wait_until, lambda: ts.sync.usage.stats("acme").totals.events == 100)
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_every_expired_hold_is_reported_once(ts: Tallystick, clock: FixedClock) -> None:
    reported: list[str] = []
    lock = threading.Lock()

    @ts.on(HoldExpired)
    def note(event: HoldExpired) -> None:
        with lock:
            reported.append(event.hold_id)

    placed = [str(meter(ts, f"user:{n % 20}").hold(tokens=1, ttl_seconds=1).id) for n in range(400)]
    clock.advance(seconds=1)

    def expire_or_record(index: int) -> None:
        if index % 2:
            ts.run_due_jobs()
        else:
            for n in range(20):
                ts.usage.record(billable=f"user:{n}", input_tokens=1)

    assert in_threads(12, expire_or_record) == [None] * 12
    assert sorted(reported) == sorted(placed)
    assert_healthy(ts, open_holds=0)


def test_a_hold_that_two_processes_expire_at_once_is_reported_by_one(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        reported: list[str] = []
        for engine in (one, other):
            engine.on(HoldExpired)(lambda event: reported.append(event.hold_id))
        placed = [str(meter(one, f"user:{n % 5}").hold(tokens=1, ttl_seconds=1).id) for n in range(100)]
        clock.advance(seconds=1)
        done = in_threads(6, lambda index: (one, other)[index % 2].run_due_jobs().holds_expired)
        assert sum(done) == 100
        assert sorted(reported) == sorted(placed)
        assert_healthy(one, open_holds=0)


# -- closing ----------------------------------------------------------------------------------------------------------


def test_closing_carries_out_what_waits_and_refuses_what_comes_after(database_url: str) -> None:
    ts = Tallystick(database_url)
    lane = ts._engine.lane
    commands = [record(ts) for _ in range(20)]
    with busy(lane, 20) as waiters:
        for command in commands:
            waiters.start(lambda command=command: lane.run(command))  # type: ignore[misc]
        while len(lane._queue) < 20:
            time.sleep(0.001)
        closing = threading.Thread(target=ts.close)
        closing.start()
        while not lane._closing:
            time.sleep(0.001)
        with pytest.raises(Closed):
            lane.run(record(ts))
    closing.join(ANSWER_SECONDS)
    assert not closing.is_alive()
    assert not any(isinstance(one, BaseException) for one in waiters.outcomes)
    ts.close()
    with pytest.raises(Closed):
        lane.run(commands[0])
    with pytest.raises(Closed):
        ts.plans.create("pro")
    with pytest.raises(Closed):
        meter(ts).with_manual_usage(input_tokens=1).call(lambda: None)
    with Tallystick(database_url) as again:
        assert standing(again) == (20, 0)
        assert_healthy(again)


def test_an_awaited_command_after_closing_is_refused(database_url: str) -> None:
    async def main() -> None:
        ts = AsyncTallystick(database_url)
        await ts.close()
        with pytest.raises(Closed):
            await async_meter(ts).with_manual_usage(input_tokens=1).call(lambda: None)

    asyncio.run(main())


def test_closing_in_the_middle_of_work_answers_everybody(database_url: str) -> None:
    ts = Tallystick(database_url)
    recorded = CountingProvider()

    def work(index: int) -> None:
        if index == 0:
            time.sleep(0.05)
            ts.close()
            return
        while True:
            ts.usage.record(billable=f"user:{index}", input_tokens=1)
            recorded()

    outcomes = in_threads(9, work)
    assert outcomes[0] is None
    assert all(isinstance(one, Closed) for one in outcomes[1:]), outcomes
    with Tallystick(database_url) as again:
        assert again.doctor().events == recorded.calls
        assert_healthy(again)


def test_a_call_that_comes_back_to_a_closed_engine_keeps_its_answer_and_its_exception(database_url: str) -> None:
    ts = Tallystick(database_url)

    def close_and_fail() -> None:
        ts.close()
        raise ConnectionError("the provider's own")

    with pytest.raises(ConnectionError, match="the provider's own"):
        meter(ts).call(close_and_fail)


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_a_settlement_whose_caller_is_taken_away_is_recorded_and_announced_once(database_url: str) -> None:
    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            heard: list[str] = []
            ts.on(UsageRecorded)(lambda event: heard.append(event.usage.id))
            answered = asyncio.Event()

            async def provider() -> None:
                answered.set()

            lane = ts.sync._engine.lane
            for _ in range(20):
                answered.clear()
                task = asyncio.ensure_future(async_meter(ts).with_manual_usage(input_tokens=1).call(provider))
                await answered.wait()
                # Until its settlement is on its way.
                for _ in range(100):
                    if lane._queue or task.done():
                        break
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            events = await ts.usage.events()
            assert sorted(heard) == sorted(event.id for event in events)
            assert len(events) == 20
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cancelled_calls_leave_nothing_held(database_url: str, seed: int) -> None:
    chance = random.Random(seed)

    async def provider() -> None:
        await asyncio.sleep(chance.random() * 0.01)

    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            subscribe(ts.sync, monthly_token_limit=1_000_000)
            tasks = [
                asyncio.ensure_future(
                    async_meter(ts).with_manual_usage(input_tokens=3).estimate(tokens=10).call(provider)
                )
                for _ in range(100)
            ]
            for task in chance.sample(tasks, 60):
                await asyncio.sleep(chance.random() * 0.001)
                task.cancel()
                if chance.random() < 0.3:
                    # Cancelled again while it cleans up.
                    await asyncio.sleep(0)
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(one) for one in outcomes if isinstance(one, BaseException)} <= {asyncio.CancelledError}
            finished = sum(not isinstance(one, BaseException) for one in outcomes)
            # What was on its way is carried out, also where nobody waits for it any more.
            await async_meter(ts).with_manual_usage(input_tokens=0).call(lambda: None)
            used, held = standing(ts.sync)
            assert held == 0
            assert used >= 3 * finished
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_threads_and_several_loops_share_a_lane(ts: Tallystick) -> None:
    heard = CountingProvider()
    ts.on(UsageRecorded)(lambda event: heard())

    def work(index: int) -> None:
        if index % 2:
            for _ in range(30):
                meter(ts).with_manual_usage(input_tokens=1).call(lambda: None)
            return

        async def main() -> None:
            from tallystick.metering.meter import AsyncMeter

            asynchronous = AsyncMeter(ts._engine).billable(BILLABLE).using_provider("manual")
            await asyncio.gather(
                *(asynchronous.with_manual_usage(input_tokens=1).call(lambda: None) for _ in range(30))
            )

        asyncio.run(main())

    assert in_threads(8, work) == [None] * 8
    assert standing(ts) == (240, 0)
    assert heard.calls == 240
    assert_healthy(ts, open_holds=0)


def test_a_loop_that_is_closed_harms_no_other_caller(ts: Tallystick) -> None:
    lane = ts._engine.lane
    with busy(lane, 2) as waiters:
        loop = asyncio.new_event_loop()

        async def submit() -> object:
            return await lane.submit(record(ts))

        task = loop.create_task(submit())
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        waiters.start(lambda: lane.run(record(ts)))
    assert not isinstance(waiters.outcomes[0], BaseException)
    assert standing(ts) == (2, 0)
