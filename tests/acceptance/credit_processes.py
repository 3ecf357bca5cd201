"""What the tests of credits do in processes of their own. Each opens its own engine on the same database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallystick import Tallystick
from tallystick.errors import CreditsInsufficient, FeatureLimitExceeded
from tallystick.events import CreditsExpired, HoldExpired
from tallystick.money import Money
from tests.acceptance.accounts import BILLABLE, in_threads
from tests.acceptance.processes import JOIN_SECONDS

FEATURE = "api-calls"
COST = Money("0.01", "USD")


def deduct_until_empty(index: int, answers: Any, url: str, threads: int, amount: str, ready: Any) -> None:
    """Deduct from so many threads, each until it is refused three times; answer how often it succeeded."""
    del index

    def deduct(_: int) -> int:
        wallet = ts.wallets.get(BILLABLE)
        return _as_often_as_it_goes(lambda: wallet.deduct_credits(amount), CreditsInsufficient)

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        answers.put(_sums(in_threads(threads, deduct)))


def use_until_empty(index: int, answers: Any, url: str, threads: int, ready: Any) -> None:
    """Use a feature, one by one, from so many threads, each until it is refused three times; answer how often."""
    del index

    def use(_: int) -> int:
        return _as_often_as_it_goes(lambda: ts.features.use(BILLABLE, FEATURE), FeatureLimitExceeded)

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        answers.put(_sums(in_threads(threads, use)))


def call_on_credits(index: int, answers: Any, url: str, threads: int, provider_calls: Any, ready: Any) -> None:
    """Call a provider of 10 cents from so many threads in credits mode; answer how many were refused."""
    del index

    def provider() -> str:
        with provider_calls.get_lock():
            provider_calls.value += 1
        return "answer"

    def call(_: int) -> object:
        meter = ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")
        cost = Money("0.10", "USD")
        return meter.with_manual_usage(input_tokens=1, total_cost=cost).estimate(cost=cost).call(provider)

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(threads, call)
    refused = [one for one in outcomes if isinstance(one, CreditsInsufficient)]
    unexpected = [repr(one) for one in outcomes if isinstance(one, BaseException) and one not in refused]
    answers.put((len(refused), unexpected))


def transfer_back_and_forth(index: int, answers: Any, url: str, threads: int, times: int, ready: Any) -> None:
    """Move credits between three wallets in both directions from so many threads; answer what went wrong."""
    names = ("user:1", "user:2", "user:3")

    def transfer(number: int) -> int:
        refused = 0
        for time in range(times):
            source = names[(number + time) % 3]
            target = names[(number + time + 1 + (index + number) % 2) % 3]
            try:
                ts.wallets.transfer(source, target, "0.30")
            except CreditsInsufficient:
                refused += 1
        return refused

    with Tallystick(url) as ts:
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(threads, transfer)
    answers.put([repr(one) for one in outcomes if isinstance(one, BaseException)])


def deduct_with_one_key(index: int, answers: Any, url: str, threads: int, ready: Any) -> None:
    """Make one and the same keyed deduction from so many threads; answer what each got."""
    del index
    with Tallystick(url) as ts:
        wallet = ts.wallets.get(BILLABLE)
        ready.wait(timeout=JOIN_SECONDS)
        outcomes = in_threads(threads, lambda _: wallet.deduct_credits("4", idempotency_key="order-1"))
    answers.put(
        [repr(one) if isinstance(one, BaseException) else (one.id, one.replayed, str(one.amount)) for one in outcomes]
    )


def run_due_jobs_at_once(index: int, answers: Any, url: str, ready: Any) -> None:
    """Run due jobs in the same moment as others; answer what was told here."""
    del index
    told: list[tuple[str, str]] = []
    with Tallystick(url) as ts:
        ts.on(CreditsExpired)(lambda event: told.append((event.grant_id, str(event.amount))))
        ts.on(HoldExpired)(lambda event: told.append((event.hold_id, "")))
        ready.wait(timeout=JOIN_SECONDS)
        in_threads(2, lambda _: ts.run_due_jobs())
    answers.put(told)


def spend_until_killed(url: str, journal: Path, times: int) -> None:
    """Make calls on credits and deduct from threads, and note each that returned, durably, before the next."""
    threads = 4
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ts = Tallystick(url, holds={"ttl_seconds": 1})
    wallet = ts.wallets.get(BILLABLE)

    def work(index: int) -> None:
        for number in range(times // threads):
            if number % 4 == 0:
                key = f"deduct-{os.getpid()}-{index}-{number}" if number % 8 == 0 else None
                transaction = wallet.deduct_credits(COST, idempotency_key=key)
                os.write(descriptor, f"{transaction.id}\n".encode())
                continue
            meter = ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")
            if number % 3 == 0:
                meter = meter.with_idempotency_key(f"{os.getpid()}-{index}-{number}")
            called = meter.with_manual_usage(input_tokens=1, total_cost=COST).estimate(cost=COST * 3)
            event_id = called.call(lambda: None).usage_event_id
            os.write(descriptor, f"txn_{event_id.partition('_')[2]}\n".encode())

    errors = [one for one in in_threads(threads, work) if one is not None]
    os.write(descriptor, f"done {errors!r}\n".encode())


def _as_often_as_it_goes(work: Callable[[], object], refusal: type[Exception]) -> int:
    succeeded = refused = 0
    while refused < 3:
        try:
            work()
        except refusal:
            refused += 1
        else:
            succeeded += 1
    return succeeded


def _sums(outcomes: list[Any]) -> tuple[int, list[str]]:
    unexpected = [repr(one) for one in outcomes if not isinstance(one, int)]
    return sum(one for one in outcomes if isinstance(one, int)), unexpected
