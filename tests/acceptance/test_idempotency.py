"""One key, one effect: one provider call, one event, one answer, whoever repeats it and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import CallInProgress, IdempotencyConflict, InvalidInput, LimitExceeded
from tallystick.events import HoldExpired, LimitReached, UsageRecorded
from tallystick.metering.hold import Hold
from tallystick.money import Money
from tallystick.storage import tables
from tests.acceptance.accounts import (
    BILLABLE,
    CountingProvider,
    assert_healthy,
    async_meter,
    count_rows,
    errors_of,
    in_threads,
    meter,
    standing,
    subscribe,
)
from tests.acceptance.processes import CONTEXT, call_with_one_key, run_in_processes


def test_50_threads_with_one_key_make_one_call_and_get_one_answer(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    heard: list[UsageRecorded] = []
    ts.on(UsageRecorded)(heard.append)
    provider = CountingProvider(seconds=0.05)
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10, output_tokens=5)
    outcomes = in_threads(50, lambda _: keyed.call(provider))
    assert not errors_of(outcomes, LimitExceeded)
    assert provider.calls == 1
    assert {(one.usage_event_id, one.limit_check) for one in outcomes} == {
        (outcomes[0].usage_event_id, outcomes[0].limit_check)
    }
    assert all(one.usage == outcomes[0].usage for one in outcomes)
    assert sorted(one.replayed for one in outcomes) == [False] + [True] * 49
    assert {one.response for one in outcomes} == {"answer"}
    assert len(heard) == 1
    assert count_rows(ts, tables.usage_events) == 1
    assert standing(ts) == (15, 0)
    assert_healthy(ts, open_holds=0)


def test_a_replay_in_the_moment_of_the_settlement_has_the_response(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    replays: list[object] = []
    ts.on(UsageRecorded)(lambda event: replays.append(keyed.call(lambda: "another").response))
    keyed.call(lambda: "answer")
    assert replays == ["answer"]


def test_4_processes_with_one_key_make_one_call_and_get_one_answer(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        subscribe(ts, monthly_token_limit=1_000)
        provider_calls = CONTEXT.Value("i", 0)
        found = run_in_processes(4, call_with_one_key, database_url, 12, provider_calls, CONTEXT.Barrier(4))
        answers = [answer for answers in found for answer in answers]
        assert provider_calls.value == 1
        assert all(isinstance(answer, tuple) for answer in answers), answers
        assert all(answer[:3] == answers[0][:3] for answer in answers)
        assert sorted(answer[3] for answer in answers) == [False] + [True] * 47
        assert standing(ts) == (15, 0)
        assert_healthy(ts, open_holds=0)


def test_50_coroutines_with_one_key_make_one_call(database_url: str) -> None:
    provider_calls = 0

    async def provider() -> str:
        nonlocal provider_calls
        provider_calls += 1
        await asyncio.sleep(0.02)
        return "answer"

    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            keyed = async_meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
            answers = await asyncio.gather(*(keyed.call(provider) for _ in range(50)))
            assert provider_calls == 1
            assert len({answer.usage_event_id for answer in answers}) == 1
            assert sum(answer.replayed for answer in answers) == 49
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_a_replay_gives_the_first_answer_after_everything_has_changed(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=1_000)
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=900)
    first = keyed.call(lambda: "answer")
    meter(ts).with_manual_usage(input_tokens=100).call(lambda: None)
    ts.limits.override(BILLABLE, token_limit=5)
    clock.advance(days=40)
    ts.subscriptions.cancel(BILLABLE, immediately=True)
    provider = CountingProvider()
    again = keyed.call(provider)
    assert provider.calls == 0
    assert again.replayed
    assert (again.usage_event_id, again.usage, again.limit_check) == (
        first.usage_event_id,
        first.usage,
        first.limit_check,
    )
    assert_healthy(ts, open_holds=0)


def test_a_replay_repeats_what_was_charged_and_charges_nothing(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=100, overage_behavior="charge", overage_price_per_1k_tokens=Money("0.01", "USD"))
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=1_100)
    first, again = keyed.call(lambda: None), keyed.call(lambda: None)
    assert first.overage == again.overage == Money("0.01", "USD")
    assert len(ts.overages.list(BILLABLE)) == 1


OTHER_INPUT: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (lambda one: one.with_manual_usage(input_tokens=11), "usage"),
    (lambda one: one.with_manual_usage(input_tokens=10, total_cost=Money("1", "USD")), "usage"),
    (lambda one: one.using_provider("manual", "other"), "model"),
    (lambda one: one.feature("search"), "feature"),
    (lambda one: one.for_user(7), "user"),
    (lambda one: one.for_tenant("acme"), "tenant"),
    (lambda one: one.resource_type("embedding"), "resource_type"),
)


def test_a_key_with_other_input_is_a_conflict_that_names_the_field(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    keyed.call(lambda: None)
    provider = CountingProvider()
    for change, field in OTHER_INPUT:
        with pytest.raises(IdempotencyConflict) as conflict:
            change(keyed).call(provider)
        assert (conflict.value.field, conflict.value.key) == (field, "once")
    assert provider.calls == 0
    assert count_rows(ts, tables.usage_events) == 1
    assert_healthy(ts, open_holds=0)


def test_a_key_belongs_to_its_billable(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    assert not keyed.call(lambda: None).replayed
    assert not keyed.billable("user:2").call(lambda: None).replayed


def test_metadata_and_estimates_may_differ_in_a_replay(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    first = keyed.with_meta(attempt=1).estimate(tokens=20).call(lambda: None)
    again = keyed.with_meta(attempt=2).estimate(tokens=50).call(lambda: None)
    assert again.usage_event_id == first.usage_event_id
    assert again.event.metadata == {"attempt": 1}


def test_the_key_is_free_again_after_the_provider_failed(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    failing = CountingProvider(error=ConnectionError("no route"))
    with pytest.raises(ConnectionError, match="no route"):
        keyed.call(failing)
    working = CountingProvider()
    assert not keyed.call(working).replayed
    assert keyed.call(working).replayed
    assert (failing.calls, working.calls) == (1, 1)
    assert_healthy(ts, open_holds=0)


def test_who_waits_for_a_call_that_fails_makes_it_himself(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    failures = iter([True, True, True, *[False] * 100])
    calls: list[bool] = []

    def provider() -> str:
        failing = next(failures)
        calls.append(failing)
        if failing:
            raise ConnectionError("no route")
        return "answer"

    outcomes = in_threads(20, lambda _: keyed.call(provider))
    assert len(errors_of(outcomes, ConnectionError)) == 3
    assert calls == [True, True, True, False]
    assert count_rows(ts, tables.usage_events) == 1
    assert_healthy(ts, open_holds=0)


def test_the_key_of_a_refused_call_is_free(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=5)
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    with pytest.raises(LimitExceeded):
        keyed.call(lambda: None)
    ts.limits.override(BILLABLE, token_limit=10)
    assert not keyed.call(lambda: None).replayed


def test_a_key_whose_holder_died_is_free_once_its_hold_ran_out(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, idempotency={"wait_seconds": 0}) as ts:
        expired: list[HoldExpired] = []
        ts.on(HoldExpired)(expired.append)
        keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
        abandoned = keyed.hold(ttl_seconds=60)
        with pytest.raises(CallInProgress) as waiting:
            keyed.call(lambda: None)
        assert waiting.value.hold_id == abandoned.id
        clock.advance(seconds=60)
        provider = CountingProvider()
        assert not keyed.call(provider).replayed
        assert provider.calls == 1
        assert [(one.hold_id, one.idempotency_key) for one in expired] == [(abandoned.id, "once")]
        assert_healthy(ts, open_holds=0)


def test_a_late_settlement_is_recorded_and_leaves_the_key_to_its_new_holder(ts: Tallystick, clock: FixedClock) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    slow = keyed.hold(ttl_seconds=60)
    clock.advance(seconds=61)
    second = keyed.call(lambda: None)
    late = slow.settle(input_tokens=10)
    assert "late" in late.event.flags
    assert late.usage_event_id != second.usage_event_id
    assert keyed.call(lambda: None).usage_event_id == second.usage_event_id
    assert standing(ts) == (20, 0)
    assert_healthy(ts, open_holds=0)


def test_a_late_settlement_answers_its_key_where_nobody_took_it(ts: Tallystick, clock: FixedClock) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    slow = keyed.hold(ttl_seconds=60)
    clock.advance(seconds=61)
    assert ts.run_due_jobs().holds_expired == 1
    late = slow.settle(input_tokens=10)
    provider = CountingProvider()
    assert keyed.call(provider).usage_event_id == late.usage_event_id
    assert provider.calls == 0


def test_settling_twice_alike_gives_the_first_settlement(ts: Tallystick) -> None:
    hold = meter(ts).hold(tokens=100)
    first = hold.settle(input_tokens=10, output_tokens=5)
    again = hold.settle(input_tokens=10, output_tokens=5)
    assert (again.usage_event_id, again.usage) == (first.usage_event_id, first.usage)
    assert (first.replayed, again.replayed) == (False, True)
    assert standing(ts) == (15, 0)


OTHER_USAGE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"input_tokens": 11, "output_tokens": 5}, "input_tokens"),
    ({"input_tokens": 10, "output_tokens": 6}, "output_tokens"),
    ({"input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 1}, "breakdown"),
    ({"input_tokens": 10, "output_tokens": 5, "counts": {"web_searches": 2}}, "counts"),
    ({"input_tokens": 10, "output_tokens": 5, "total_cost": Money("2", "USD")}, "total_cost"),
)


@pytest.mark.parametrize("key", [None, "once"])
def test_settling_twice_differently_is_a_conflict(ts: Tallystick, key: str | None) -> None:
    one = meter(ts) if key is None else meter(ts).with_idempotency_key(key)
    hold = one.hold(tokens=100)
    forgetful = Hold(hold._engine, hold._context, hold._attempt or pytest.fail("it was placed"))
    first = hold.settle(input_tokens=10, output_tokens=5, total_cost=Money("1", "USD"))
    # One hold remembers its settlement, the other has to be told by the database.
    for repeated in (hold, forgetful):
        for other, field in OTHER_USAGE:
            with pytest.raises(IdempotencyConflict) as conflict:
                repeated.settle(**{"total_cost": Money("1", "USD"), **other})
            assert conflict.value.field == field
        again = repeated.settle(input_tokens=10, output_tokens=5, total_cost=Money("1", "USD"))
        assert (again.usage_event_id, again.usage, again.replayed) == (first.usage_event_id, first.usage, True)
    assert standing(ts) == (15, 0)
    assert count_rows(ts, tables.usage_events) == 1
    assert_healthy(ts, open_holds=0)


def test_one_hold_settled_by_20_threads_is_recorded_once(ts: Tallystick) -> None:
    hold = meter(ts).hold(tokens=100)
    outcomes = in_threads(20, lambda _: hold.settle(input_tokens=10))
    assert len({one.usage_event_id for one in outcomes}) == 1
    assert sorted(one.replayed for one in outcomes) == [False] + [True] * 19
    assert standing(ts) == (10, 0)
    assert_healthy(ts, open_holds=0)


@pytest.mark.parametrize("end", ["expired", "voided"])
def test_a_late_settlement_is_recorded_once_however_often_it_is_sent(
    ts: Tallystick, clock: FixedClock, end: str
) -> None:
    hold = meter(ts).hold(tokens=100, ttl_seconds=60)
    if end == "voided":
        hold.void()
    else:
        clock.advance(seconds=60)
        ts.run_due_jobs()
    first = hold.settle(input_tokens=10)
    again = hold.settle(input_tokens=10)
    assert "late" in first.event.flags
    assert again.usage_event_id == first.usage_event_id
    with pytest.raises(IdempotencyConflict):
        hold.settle(input_tokens=11)
    assert standing(ts) == (10, 0)
    assert_healthy(ts, open_holds=0)


def test_a_replayed_hold_holds_nothing_and_answers_with_the_first_settlement(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once")
    with keyed.hold(tokens=100) as first:
        settled = first.settle(input_tokens=10)
    with keyed.hold(tokens=100) as again:
        assert (again.replayed, again.tokens, again.id) == (True, 0, None)
        assert again.settle(input_tokens=10).usage_event_id == settled.usage_event_id
        with pytest.raises(IdempotencyConflict):
            again.settle(input_tokens=9, output_tokens=1)
    assert standing(ts) == (10, 0)
    assert_healthy(ts, open_holds=0)


def test_a_cancelled_keyed_call_leaves_its_key_free(database_url: str) -> None:
    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            keyed = async_meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
            for _ in range(5):
                task = asyncio.ensure_future(keyed.call(lambda: None))
                # The hold is queued when the task has run up to its first wait; the lane may or may not have seen it.
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert standing(ts.sync)[1] == 0
            provider = CountingProvider()
            answer = await asyncio.wait_for(keyed.call(provider), timeout=10)
            assert (answer.replayed, provider.calls) == (False, 1)
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_a_logged_use_with_a_key_is_logged_once(ts: Tallystick) -> None:
    first = ts.usage.log("acme", "message", 3, idempotency_key="once")
    again = ts.usage.log("acme", "message", 3, idempotency_key="once")
    assert again == first
    with pytest.raises(IdempotencyConflict) as conflict:
        ts.usage.log("acme", "message", 4, idempotency_key="once")
    assert conflict.value.field == "quantity_millionths"
    assert ts.usage.stats("acme").totals.quantity == 3
    assert_healthy(ts)


def test_a_recorded_use_with_a_key_is_recorded_once_from_many_threads(ts: Tallystick) -> None:
    outcomes = in_threads(30, lambda _: ts.usage.record(billable=BILLABLE, input_tokens=7, idempotency_key="once"))
    assert len({one.id for one in outcomes}) == 1
    assert standing(ts) == (7, 0)
    assert_healthy(ts)


def test_a_batch_with_keys_can_be_sent_again(ts: Tallystick) -> None:
    records = [{"billable": BILLABLE, "input_tokens": n, "idempotency_key": f"k{n}"} for n in range(700)]
    first = ts.usage.record_batch([*records, records[5]])
    assert (first.recorded, first.duplicates, first.rejected) == (700, 1, ())
    again = ts.usage.record_batch([*records, {**records[6], "input_tokens": 1_000}])
    assert (again.recorded, again.duplicates) == (0, 700)
    assert [(one.index, one.code) for one in again.rejected] == [(700, "idempotency_conflict")]
    assert standing(ts) == (sum(range(700)), 0)
    assert_healthy(ts)


def test_a_key_twice_in_one_commit_is_recorded_once(ts: Tallystick) -> None:
    record = {"billable": BILLABLE, "input_tokens": 3, "idempotency_key": "once"}
    result = ts.usage.record_batch([record, record, {**record, "input_tokens": 4}, {**record, "billable": "user:2"}])
    assert (result.recorded, result.duplicates) == (2, 1)
    assert [(one.index, one.code) for one in result.rejected] == [(2, "idempotency_conflict")]
    assert standing(ts) == (3, 0)
    assert_healthy(ts)


def test_use_cannot_be_recorded_under_the_key_of_a_call_in_flight(ts: Tallystick) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    record = {
        "billable": BILLABLE,
        "provider": "manual",
        "model": "model",
        "input_tokens": 10,
        "resource_type": "completion",
        "idempotency_key": "once",
    }
    with keyed.hold() as hold:
        with pytest.raises(CallInProgress) as in_flight:
            ts.usage.record(**record)
        assert in_flight.value.hold_id == hold.id
        rejected = ts.usage.record_batch([record]).rejected
        assert [one.code for one in rejected] == ["call_in_progress"]
        hold.settle()
    assert ts.usage.record_batch([record]).duplicates == 1


def test_a_limit_is_announced_once_though_its_call_is_replayed(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=10)
    reached: list[LimitReached] = []
    ts.on(LimitReached)(reached.append)
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=10)
    for _ in range(3):
        keyed.call(lambda: None)
    assert len(reached) == 1


def test_a_key_that_cannot_be_kept_is_refused(ts: Tallystick) -> None:
    for key in ("", "x" * 256, "a\nb", "a\x00b"):
        with pytest.raises(InvalidInput):
            meter(ts).with_idempotency_key(key)
        with pytest.raises(InvalidInput):
            ts.usage.log("acme", "message", idempotency_key=key)
