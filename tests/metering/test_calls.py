"""Calls and holds: what goes out, what comes back, and what is left behind, in both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import HoldNotOpen, InvalidInput, NotFound, StorageError, UsageMissing
from tallystick.events import HoldExpired, ProviderCallFailed, UsageRecorded
from tallystick.metering.commands import CloseHold
from tallystick.money import Money
from tallystick.storage import tables
from tallystick.storage.workspace import HoldRow
from tests.acceptance.accounts import (
    BILLABLE,
    CountingProvider,
    assert_healthy,
    async_meter,
    count_rows,
    meter,
    standing,
    subscribe,
)

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    },
}


def openai(ts: Tallystick) -> Any:
    return ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini")


# -- a call -----------------------------------------------------------------------------------------------------------


def test_a_call_is_held_made_and_recorded(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=10_000, monthly_cost_limit=Money("1", "USD"))
    heard: list[UsageRecorded] = []
    ts.on(UsageRecorded)(heard.append)
    seen: list[tuple[int, int]] = []

    def provider() -> dict[str, Any]:
        seen.append(standing(ts))
        return CHAT

    response = openai(ts).feature("chat").for_user(7).with_meta(ticket_id=123).estimate(tokens=2_000).call(provider)
    assert response.response is CHAT
    assert seen == [(0, 2_000)]
    assert response.usage.total_tokens == 1_500
    # 0.15 and 0.60 USD a million.
    assert response.usage.total_cost == Money("0.00045", "USD")
    assert (response.remaining_tokens, response.remaining_cost) == (8_500, Money("0.99955", "USD"))
    assert (response.usage_percentage, response.is_approaching_limit, response.is_limit_reached) == (15.0, False, False)
    assert not response.replayed
    event = ts.usage.get(response.usage_event_id)
    assert event == response.event == heard[0].usage
    assert (event.feature, event.user, event.metadata, event.provider) == (
        "chat",
        "user:7",
        {"ticket_id": 123},
        "openai",
    )
    assert standing(ts) == (1_500, 0)
    assert_healthy(ts, open_holds=0)


def test_the_providers_exception_passes_unchanged_and_nothing_stays_held(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=10_000)
    heard: list[ProviderCallFailed] = []
    ts.on(ProviderCallFailed)(heard.append)
    error = ConnectionError("rate limited")
    with pytest.raises(ConnectionError) as raised:
        openai(ts).call(CountingProvider(error=error))
    assert raised.value is error
    assert [(one.error, one.provider, one.model) for one in heard] == [(error, "openai", "gpt-4o-mini")]
    assert standing(ts) == (0, 0)
    assert count_rows(ts, tables.usage_events) == 0
    assert_healthy(ts, open_holds=0)


def test_without_usage_in_the_response_the_estimate_is_recorded_and_flagged(ts: Tallystick) -> None:
    response = openai(ts).estimate(tokens=700).call(lambda: {"answer": "text"})
    assert (response.usage.total_tokens, response.usage.estimated) == (700, True)
    assert "estimated" in response.event.flags


def test_without_usage_it_may_be_an_error_but_is_recorded_all_the_same(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, on_missing_usage="error") as ts:
        with pytest.raises(UsageMissing):
            openai(ts).estimate(tokens=700).call(lambda: {"answer": "text"})
        assert standing(ts) == (700, 0)
        assert_healthy(ts, open_holds=0)


def test_an_awaitable_in_a_synchronous_call_is_refused_and_nothing_stays_held(ts: Tallystick) -> None:
    async def provider() -> dict[str, Any]:
        return CHAT

    with pytest.raises(InvalidInput, match="AsyncTallystick"):
        openai(ts).call(provider)
    assert_healthy(ts, open_holds=0)


def test_the_same_response_settles_a_hold_twice_without_conflict(ts: Tallystick) -> None:
    hold = openai(ts).hold(tokens=2_000)
    first, again = hold.settle(CHAT), hold.settle(CHAT)
    assert (first.usage_event_id, again.replayed) == (again.usage_event_id, True)


def test_a_name_that_a_provider_reports_cannot_break_the_record(ts: Tallystick) -> None:
    strange = {**CHAT, "model": "gpt\x00-4o\ud800" + "x" * 5_000}
    call = ts.meter.billable(BILLABLE).using_provider("openai").estimate(tokens=1)
    event = call.call(lambda: strange).event
    assert event.total_tokens == 1_500
    assert event.model.startswith("gpt-4o")
    assert ts.usage.get(event.id) == event
    assert_healthy(ts)


WRONG: tuple[Callable[[Any], Any], ...] = (
    lambda one: one.using_provider(""),
    lambda one: one.using_provider("open\x00ai"),
    lambda one: one.using_provider("openai", "m\ud800"),
    lambda one: one.using_provider("openai", "m" * 201),
    lambda one: one.feature("a b"),
    lambda one: one.resource_type(""),
    lambda one: one.billing_mode("barter"),
    lambda one: one.estimate(),
    lambda one: one.estimate(tokens=-1),
    lambda one: one.estimate(tokens=1.5),
    lambda one: one.estimate(tokens=True),
    lambda one: one.estimate(tokens=10**30),
    lambda one: one.estimate(cost=Money("-1", "USD")),
    lambda one: one.estimate(cost=1),
    lambda one: one.with_manual_usage(input_tokens=-1),
    lambda one: one.with_manual_usage(input_tokens=10**30),
    lambda one: one.with_manual_usage(tokens=1),
    lambda one: one.with_manual_usage(total_cost=Money(10**12, "USD")),
    lambda one: one.hold(tokens=1, ttl_seconds=0),
    lambda one: one.hold(tokens=1, ttl_seconds=-5),
    lambda one: one.hold(tokens=1, ttl_seconds=True),
    lambda one: one.with_meta(secret_sauce=object()).call(lambda: None),
)


def test_what_cannot_be_is_refused_before_anything_is_held(ts: Tallystick) -> None:
    for number, wrong in enumerate(WRONG):
        with pytest.raises(InvalidInput):
            wrong(meter(ts))
        assert count_rows(ts, tables.holds) == 0, number


def test_who_pays_has_to_be_said(ts: Tallystick) -> None:
    with pytest.raises(InvalidInput, match="who pays"):
        ts.meter.using_provider("openai", "gpt-4o-mini").call(lambda: None)
    assert ts.meter.for_user(1).with_manual_usage(input_tokens=1).call(lambda: None).event.billable == "user:1"
    both = ts.meter.for_user(1).for_tenant("acme").with_manual_usage(input_tokens=1).call(lambda: None)
    assert (both.event.billable, both.event.user, both.event.tenant) == ("tenant:acme", "user:1", "tenant:acme")


def test_a_meter_is_never_changed_by_what_is_built_on_it(ts: Tallystick) -> None:
    shared = meter(ts).with_meta(a=1)
    shared.with_meta(b=2).feature("x").with_idempotency_key("k").with_manual_usage(input_tokens=9).call(lambda: None)
    event = shared.with_manual_usage(input_tokens=1).call(lambda: None).event
    assert (event.metadata, event.feature, event.idempotency_key) == ({"a": 1}, None, None)


# -- a hold -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [0, 40, 100, 160])
def test_settling_records_what_was_used_and_gives_back_the_rest(ts: Tallystick, used: int) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    with meter(ts).hold(tokens=100) as hold:
        assert standing(ts) == (0, 100)
        settled = hold.settle(input_tokens=used)
    assert (settled.usage.total_tokens, hold.settlement) == (used, settled)
    assert standing(ts) == (used, 0)
    assert_healthy(ts, open_holds=0)


def test_leaving_a_with_voids_what_was_not_settled(ts: Tallystick) -> None:
    with meter(ts).hold(tokens=100) as hold:
        assert hold.tokens == 100
    with pytest.raises(ValueError, match="mistake"), meter(ts).hold(tokens=100):
        raise ValueError("mistake")
    hold.void()
    assert standing(ts) == (0, 0)
    assert count_rows(ts, tables.usage_events) == 0
    assert_healthy(ts, open_holds=0)


def test_a_settled_hold_is_not_voided(ts: Tallystick) -> None:
    hold = meter(ts).hold(tokens=100)
    hold.settle(input_tokens=10)
    hold.void()
    row = hold._attempt.hold  # type: ignore[union-attr]
    with pytest.raises(HoldNotOpen):
        ts._engine.lane.run(CloseHold(row, ts._engine.now()))
    assert standing(ts) == (10, 0)


def test_a_hold_that_does_not_exist_is_not_found(ts: Tallystick) -> None:
    with pytest.raises(NotFound):
        ts._engine.lane.run(CloseHold(HoldRow("hld_none", BILLABLE, "open", (), 0), 0))
    assert_healthy(ts, open_holds=0)


def test_settling_without_words_takes_the_stated_usage_else_the_estimate(ts: Tallystick) -> None:
    assert meter(ts).with_manual_usage(input_tokens=7).hold().settle().usage.total_tokens == 7
    settled = meter(ts).hold(tokens=70).settle()
    assert (settled.usage.total_tokens, settled.usage.estimated) == (70, True)


def test_a_hold_lapses_at_its_instant_and_is_reported_with_what_it_held(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100, monthly_cost_limit=Money("1", "USD"))
    heard: list[HoldExpired] = []
    ts.on(HoldExpired)(heard.append)
    hold = meter(ts).hold(tokens=60, cost=Money("0.4", "USD"), ttl_seconds=30)
    clock.advance(seconds=30, microseconds=-1)
    assert ts.run_due_jobs().holds_expired == 0
    clock.advance(microseconds=1)
    assert ts.run_due_jobs().holds_expired == 1
    assert ts.run_due_jobs().holds_expired == 0
    assert [(one.hold_id, dict(one.held), one.billable) for one in heard] == [
        (hold.id, {"tokens": 60, "cost:USD": 400_000_000}, BILLABLE)
    ]
    hold.void()
    late = hold.settle(input_tokens=10)
    assert "late" in late.event.flags
    assert standing(ts) == (10, 0)
    assert_healthy(ts, open_holds=0)


def test_more_holds_than_a_page_lapse_at_once(ts: Tallystick, clock: FixedClock) -> None:
    for number in range(1_100):
        meter(ts, f"user:{number % 3}").hold(tokens=1, ttl_seconds=1)
    clock.advance(seconds=1)
    assert ts.run_due_jobs().holds_expired == 1_100
    assert_healthy(ts, open_holds=0)


# -- asyncio ----------------------------------------------------------------------------------------------------------


def run_async(database_url: str, main: Callable[[AsyncTallystick], Any], **settings: Any) -> None:
    async def opened() -> None:
        async with AsyncTallystick(database_url, **settings) as ts:
            await main(ts)
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(opened())


def test_an_awaited_call_is_held_made_and_recorded(database_url: str) -> None:
    async def main(ts: AsyncTallystick) -> None:
        async def provider() -> dict[str, Any]:
            await asyncio.sleep(0)
            return CHAT

        call = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini")
        for function in (provider, lambda: CHAT):
            response = await call.call(function)
            assert (response.response, response.usage.total_tokens) == (CHAT, 1_500)
        with pytest.raises(ConnectionError):
            await call.call(CountingProvider(error=ConnectionError()))
        async with call.hold(tokens=10) as hold:
            settled = await hold.settle(input_tokens=5)
        pending = await call.hold(tokens=10)
        await pending.void()
        async with call.hold(tokens=10):
            pass
        assert settled.usage.total_tokens == 5
        assert standing(ts.sync) == (3_005, 0)

    run_async(database_url, main)


def test_a_cancelled_call_is_recorded_as_far_as_it_is_known(database_url: str) -> None:
    async def main(ts: AsyncTallystick) -> None:
        started = asyncio.Event()

        async def provider() -> None:
            started.set()
            await asyncio.sleep(60)

        task = asyncio.ensure_future(async_meter(ts).estimate(tokens=70).call(provider))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (event,) = await ts.usage.events()
        assert (event.total_tokens, {"partial", "estimated"} <= set(event.flags)) == (70, True)

    run_async(database_url, main)


@pytest.mark.parametrize("enters", [True, False])
def test_coroutine_handlers_run_and_closing_waits_for_them(database_url: str, enters: bool) -> None:
    heard: list[str] = []

    async def main() -> None:
        ts = AsyncTallystick(database_url)
        if enters:
            await ts.__aenter__()

        @ts.on(UsageRecorded)
        async def note(event: UsageRecorded) -> None:
            if event.usage.resource_type == "heard":
                return
            await asyncio.sleep(0.01)
            # The engine is still open for it.
            await ts.usage.log("acme", "heard")
            heard.append(event.usage.id)

        @ts.on(UsageRecorded)
        async def fail(event: UsageRecorded) -> None:
            raise RuntimeError("handler")

        # One is announced in a worker thread, one on the loop just before it is closed.
        logged = await ts.usage.log("acme", "message")
        response = await async_meter(ts).with_manual_usage(input_tokens=1).call(lambda: None)
        await ts.close()
        assert sorted(heard) == sorted([logged.id, response.usage_event_id])

    asyncio.run(main())


def test_coroutine_handlers_of_a_synchronous_engine_run_too(ts: Tallystick) -> None:
    heard: list[str] = []

    @ts.on(UsageRecorded)
    async def note(event: UsageRecorded) -> None:
        await asyncio.sleep(0)
        heard.append(event.usage.id)

    assert [ts.usage.log("acme", "message").id] == heard


def test_a_database_that_stays_away_is_reported_with_the_providers_answer(sqlite_url: str) -> None:
    ts = Tallystick(sqlite_url)

    def lose_the_table() -> str:
        from sqlalchemy import text

        with ts._engine.database.connect() as connection:
            connection.execute(text("DROP TABLE usage_events"))
        return "answer"

    with ts, pytest.raises(StorageError) as away:
        meter(ts).with_manual_usage(input_tokens=1).call(lose_the_table)
    assert away.value.response == "answer"  # type: ignore[attr-defined]
