"""A hard limit holds, however many callers ask at once: threads, processes, coroutines, and all of them together."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack

import psycopg
from psycopg import sql

from tallystick import AsyncTallystick, Tallystick
from tallystick.errors import LimitExceeded
from tallystick.money import Money
from tests.acceptance.accounts import (
    BILLABLE,
    CountingProvider,
    assert_healthy,
    async_meter,
    errors_of,
    in_threads,
    meter,
    standing,
    subscribe,
)
from tests.acceptance.processes import CONTEXT, call_from_threads, run_in_processes


def test_of_200_threads_exactly_as_many_are_admitted_as_fit(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    provider = CountingProvider()
    outcomes = in_threads(
        200, lambda _: meter(ts).with_manual_usage(input_tokens=10).estimate(tokens=10).call(provider)
    )
    assert len(errors_of(outcomes, LimitExceeded)) == 100
    assert provider.calls == 100
    assert standing(ts) == (1_000, 0)
    assert_healthy(ts, open_holds=0)


def test_of_200_threads_in_8_processes_exactly_as_many_are_admitted_as_fit(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        subscribe(ts, monthly_token_limit=1_000)
        provider_calls = CONTEXT.Value("i", 0)
        found = run_in_processes(8, call_from_threads, database_url, 25, provider_calls, CONTEXT.Barrier(8))
        assert [unexpected for _, unexpected in found] == [[]] * 8
        assert sum(refused for refused, _ in found) == 100
        assert provider_calls.value == 100
        assert standing(ts) == (1_000, 0)
        assert_healthy(ts, open_holds=0)


def test_of_500_coroutines_exactly_as_many_are_admitted_as_fit(database_url: str) -> None:
    provider_calls = 0

    async def provider() -> str:
        nonlocal provider_calls
        provider_calls += 1
        await asyncio.sleep(0)
        return "answer"

    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            subscribe(ts.sync, monthly_token_limit=1_000)
            calls = [
                async_meter(ts).with_manual_usage(input_tokens=10).estimate(tokens=10).call(provider)
                for _ in range(500)
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert len(errors_of(list(outcomes), LimitExceeded)) == 400
            assert provider_calls == 100
            assert standing(ts.sync) == (1_000, 0)
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_threads_and_coroutines_share_one_limit(database_url: str) -> None:
    provider = CountingProvider()

    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            subscribe(ts.sync, monthly_token_limit=1_000)
            in_background = asyncio.to_thread(
                in_threads,
                60,
                lambda _: meter(ts.sync).with_manual_usage(input_tokens=10).estimate(tokens=10).call(provider),
            )
            calls = [
                async_meter(ts).with_manual_usage(input_tokens=10).estimate(tokens=10).call(provider)
                for _ in range(140)
            ]
            from_threads, from_loop = await asyncio.gather(
                in_background, asyncio.gather(*calls, return_exceptions=True)
            )
            assert len(errors_of([*from_threads, *from_loop], LimitExceeded)) == 100
            assert provider.calls == 100
            assert standing(ts.sync) == (1_000, 0)
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_the_limit_holds_whatever_isolation_the_database_begins_with(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        for level in ("repeatable read", "serializable"):
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}").format(name, sql.Literal(level))
            )
            with Tallystick(postgres_url) as one, Tallystick(postgres_url) as other:
                billable = f"user:{level.partition(' ')[0]}"
                subscribe(one, billable, level.partition(" ")[0], monthly_token_limit=500)
                outcomes = in_threads(
                    80, lambda index, both=(one, other), who=billable: meter(both[index % 2], who).hold(tokens=10)
                )
                assert len(errors_of(outcomes, LimitExceeded)) == 30
                assert standing(one, billable) == (0, 500)
                assert_healthy(one, open_holds=50 * (1 + (level == "serializable")))


def test_engines_that_share_many_billables_wait_for_each_other_and_never_for_ever(database_url: str) -> None:
    names = [f"user:{number}" for number in range(40)]
    with ExitStack() as stack:
        engines = [stack.enter_context(Tallystick(database_url)) for _ in range(4)]

        def work(index: int) -> int:
            chance = random.Random(index)
            recorded = 0
            for _ in range(12):
                order = chance.sample(names, len(names))
                result = engines[index % 4].usage.record_batch({"billable": name, "input_tokens": 1} for name in order)
                recorded += result.recorded
                if index == 0:
                    engines[0].limits.override(order[0], token_limit=10**9)
                    engines[0].usage.anonymize_before("2026-01-01")
            return recorded

        assert in_threads(8, work) == [12 * len(names)] * 8
        assert [standing(engines[0], name) for name in names] == [(96, 0)] * len(names)
        assert_healthy(engines[0])


def test_calls_overlap_while_the_provider_works(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    provider = CountingProvider(seconds=0.2)
    began = time.monotonic()
    outcomes = in_threads(
        100, lambda _: meter(ts).with_manual_usage(input_tokens=10).estimate(tokens=10).call(provider)
    )
    assert time.monotonic() - began < 5, "one after the other they take 20 seconds"
    assert not errors_of(outcomes, LimitExceeded)
    assert standing(ts) == (1_000, 0)


def test_a_cost_limit_admits_exactly_as_many_as_it_pays_for(ts: Tallystick) -> None:
    subscribe(ts, monthly_cost_limit=Money("1", "USD"))
    provider = CountingProvider()
    outcomes = in_threads(
        60,
        lambda _: meter(ts).with_manual_usage(input_tokens=1, total_cost=Money("0.04", "USD")).call(provider),
    )
    assert provider.calls == 25
    refusals = errors_of(outcomes, LimitExceeded)
    assert len(refusals) == 35
    assert {refusal.limit_type for refusal in refusals} == {"cost"}
    check = ts.limits.check(BILLABLE)
    assert (check.cost_used, check.cost_held) == (Money("1", "USD"), Money("0", "USD"))
    assert_healthy(ts, open_holds=0)


def test_a_hold_takes_of_every_limit_or_of_none(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=100, monthly_cost_limit=Money("1", "USD"))
    outcomes = in_threads(40, lambda _: meter(ts).hold(tokens=5, cost=Money("0.1", "USD")))
    holds = [one for one in outcomes if not isinstance(one, BaseException)]
    assert len(holds) == 10, "the cost limit has room for 10, the token limit for 20"
    check = ts.limits.check(BILLABLE)
    assert (check.tokens_held, check.cost_held) == (50, Money("1", "USD"))
    for hold in holds:
        hold.void()
    check = ts.limits.check(BILLABLE)
    assert (check.tokens_held, check.cost_held) == (0, Money("0", "USD"))
    assert_healthy(ts, open_holds=0)


def test_implicit_holds_shrink_to_what_is_left_and_never_pass_the_limit(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    outcomes = in_threads(50, lambda _: meter(ts).expecting(tokens=300).hold())
    holds = [one for one in outcomes if not isinstance(one, BaseException)]
    assert sorted(hold.tokens for hold in holds) == [100, 300, 300, 300]
    assert standing(ts) == (0, 1_000)


def test_a_refusal_says_the_numbers_and_the_remedy(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    meter(ts).with_manual_usage(input_tokens=700).call(lambda: None)
    with meter(ts).hold(tokens=200):
        provider = CountingProvider()
        (refusal,) = in_threads(1, lambda _: meter(ts).with_manual_usage(input_tokens=101).call(provider))
    assert isinstance(refusal, LimitExceeded)
    assert provider.calls == 0
    assert (refusal.limit, refusal.used, refusal.held, refusal.requested) == (1_000, 700, 200, 101)
    assert (refusal.billable, refusal.limit_type) == (BILLABLE, "tokens")
    assert "100 tokens left of 1,000 (700 used, 200 held; plan pro); 101 tokens needed" in refusal.message
    assert "Raise the limit" in refusal.message
