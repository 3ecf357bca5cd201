"""What the acceptance tests do in processes of their own. Each opens its own engine on the same database."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from tallystick import Tallystick
from tallystick.errors import LimitExceeded
from tests.acceptance.accounts import BILLABLE, in_threads, meter

CONTEXT = multiprocessing.get_context("spawn")
JOIN_SECONDS = 60


def run_in_processes(number: int, target: Callable[..., None], *arguments: Any) -> list[Any]:
    """Run `target(index, answers, *arguments)` in so many processes and return what each put into `answers`."""
    answers = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=target, args=(index, answers, *arguments)) for index in range(number)]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=JOIN_SECONDS) for _ in processes]
        for process in processes:
            process.join(timeout=JOIN_SECONDS)
    finally:
        _end(processes)
    assert [process.exitcode for process in processes] == [0] * number
    return found


def _end(processes: list[SpawnProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def call_from_threads(index: int, answers: Any, url: str, threads: int, provider_calls: Any, ready: Any) -> None:
    """Call a provider of 10 tokens from so many threads; answer how many were refused."""
    del index

    def provider() -> str:
        with provider_calls.get_lock():
            provider_calls.value += 1
        return "answer"

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(
            threads,
            lambda _: meter(ts).with_manual_usage(input_tokens=10).estimate(tokens=10).call(provider),
        )
    refused = [one for one in outcomes if isinstance(one, LimitExceeded)]
    unexpected = [repr(one) for one in outcomes if isinstance(one, BaseException) and one not in refused]
    answers.put((len(refused), unexpected))


def call_with_one_key(index: int, answers: Any, url: str, threads: int, provider_calls: Any, ready: Any) -> None:
    """Make one and the same keyed call from so many threads; answer what each got."""
    del index

    def provider() -> str:
        with provider_calls.get_lock():
            provider_calls.value += 1
        return "answer"

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(
            threads,
            lambda _: (
                meter(ts)
                .with_idempotency_key("once")
                .with_manual_usage(input_tokens=10, output_tokens=5)
                .call(provider)
            ),
        )
        described = [
            repr(one)
            if isinstance(one, BaseException)
            else (one.usage_event_id, one.usage, one.limit_check, one.replayed)
            for one in outcomes
        ]
    answers.put(described)


def call_until_killed(url: str, journal: Path, calls: int) -> None:
    """Make calls from threads, and note the event of each that returned, durably, before the next."""
    threads = 4
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ts = Tallystick(url, holds={"ttl_seconds": 1})

    def work(index: int) -> None:
        for number in range(calls // threads):
            one = meter(ts).with_meta(thread=index, number=number)
            if number % 3 == 0:
                one = one.with_idempotency_key(f"{index}-{number}")
            response = one.with_manual_usage(input_tokens=3, output_tokens=4).estimate(tokens=20).call(lambda: None)
            os.write(descriptor, f"{response.usage_event_id}\n".encode())

    errors = [one for one in in_threads(threads, work) if one is not None]
    os.write(descriptor, f"done {errors!r}\n".encode())


def record_while_parent_works(index: int, answers: Any, url: str, events: int) -> None:
    """Record events, one by one; answer their ids."""
    with Tallystick(url) as ts:
        answers.put(
            [ts.usage.record(billable=BILLABLE, input_tokens=1, feature=f"child-{index}").id for _ in range(events)]
        )
