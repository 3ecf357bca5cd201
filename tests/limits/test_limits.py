"""Limits at work: behaviours, overrides, enforcement, prices and currencies, and the events of crossing."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import (
    CurrencyMismatch,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SubscriptionRequired,
    UnknownPrice,
)
from tallystick.events import Event, LimitApproaching, LimitReached, OverageCharged, UsageRecorded
from tallystick.money import Money
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

PRICES = {
    "acme": {
        "models": {
            "m": {"input_price_per_million": "1", "output_price_per_million": "4"},
            "euro": {"input_price_per_million": "1", "output_price_per_million": "1", "currency": "EUR"},
        }
    }
}


def used_tokens(ts: Tallystick, *tokens: int) -> list[Any]:
    return [meter(ts).with_manual_usage(input_tokens=number).call(lambda: None) for number in tokens]


# -- behaviours -------------------------------------------------------------------------------------------------------


def test_a_call_that_straddles_the_limit_pays_exactly_the_part_beyond(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000, overage_behavior="charge", overage_price_per_1k_tokens=Money("2", "USD"))
    charged: list[OverageCharged] = []
    ts.on(OverageCharged)(charged.append)
    within, straddling, beyond = used_tokens(ts, 900, 300, 50)
    assert within.overage is None
    assert straddling.overage == Money("0.4", "USD")
    assert beyond.overage == Money("0.1", "USD")
    assert [(one.tokens, one.amount) for one in charged] == [(200, Money("0.4", "USD")), (50, Money("0.1", "USD"))]
    listed = ts.overages.list(BILLABLE)
    assert [(one.usage_event_id, one.tokens, one.amount, one.limit_type) for one in listed] == [
        (straddling.usage_event_id, 200, Money("0.4", "USD"), "tokens"),
        (beyond.usage_event_id, 50, Money("0.1", "USD"), "tokens"),
    ]
    assert "overage" in straddling.event.flags
    assert_healthy(ts)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 900), min_size=1, max_size=6))
def test_however_use_is_cut_the_same_is_charged(ts: Tallystick, cuts: list[int]) -> None:
    if not ts.plans.list():
        ts.plans.create(
            "pro", monthly_token_limit=1_000, overage_behavior="charge", overage_price_per_1k_tokens="0.001"
        )
    billable = f"user:{'-'.join(map(str, cuts))}"
    ts.usage.delete_for(billable)
    if not ts._engine.terms(billable).subscriptions:
        ts.subscriptions.create(billable, "pro")
        for tokens in cuts:
            meter(ts, billable).with_manual_usage(input_tokens=tokens).call(lambda: None)
        listed = ts.overages.list(billable)
        assert sum(one.tokens for one in listed) == max(0, sum(cuts) - 1_000)
        assert sum((one.amount for one in listed), Money(0, "USD")) == Money(
            Decimal(max(0, sum(cuts) - 1_000)) / 1_000_000, "USD"
        )


def test_allow_lets_pass_and_charges_nothing(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=100, overage_behavior="allow", overage_price_per_1k_tokens=Money("2", "USD"))
    _, beyond = used_tokens(ts, 100, 50)
    assert beyond.overage is None
    assert "past_limit" in beyond.event.flags
    assert (beyond.limit_check.limit_reached, beyond.limit_check.hard_limit_reached) == (True, False)
    assert ts.overages.list() == []
    assert_healthy(ts)


def test_an_overshoot_under_block_is_recorded_in_full_and_flagged(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=100)
    with meter(ts).hold(tokens=100) as hold:
        settled = hold.settle(input_tokens=170)
    assert "past_limit" in settled.event.flags
    assert settled.remaining_tokens == 0
    assert standing(ts) == (170, 0)
    with pytest.raises(LimitExceeded) as refused:
        meter(ts).expecting(tokens=1).hold()
    assert "has 0 tokens left of 100 (170 used, 0 held" in refused.value.message
    assert ts.overages.list() == []
    assert_healthy(ts)


def test_recorded_use_is_never_refused(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=10, monthly_cost_limit=Money("0.01", "USD"))
    for _ in range(3):
        ts.usage.record(billable=BILLABLE, input_tokens=10, total_cost=Money("1", "USD"))
    assert standing(ts) == (30, 0)
    assert_healthy(ts)


def test_a_plan_with_both_limits_and_a_price_charges_by_the_price_alone(ts: Tallystick) -> None:
    subscribe(
        ts,
        monthly_token_limit=100,
        monthly_cost_limit=Money("1", "USD"),
        overage_behavior="charge",
        overage_price_per_1k_tokens=Money("1", "USD"),
    )
    ts.usage.record(billable=BILLABLE, input_tokens=50, total_cost=Money("3", "USD"))
    assert ts.overages.list(BILLABLE) == []
    ts.usage.record(billable=BILLABLE, input_tokens=100, total_cost=Money("3", "USD"))
    assert [one.amount for one in ts.overages.list(BILLABLE)] == [Money("0.05", "USD")]


# -- overrides --------------------------------------------------------------------------------------------------------


def test_an_override_holds_from_its_start_until_just_before_its_end(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100)
    ts.limits.override(
        BILLABLE, start="2026-01-20T00:00:00Z", end="2026-01-21T00:00:00Z", token_limit=500, reason="launch"
    )
    for instant, limit in (
        ("2026-01-19T23:59:59.999999Z", 100),
        ("2026-01-20T00:00:00Z", 500),
        ("2026-01-20T23:59:59.999999Z", 500),
        ("2026-01-21T00:00:00Z", 100),
    ):
        clock.set(instant)
        assert ts.limits.check(BILLABLE).token_limit == limit, instant
        with pytest.raises(LimitExceeded) as refused:
            meter(ts).hold(tokens=501)
        assert refused.value.limit == limit


def test_of_several_overrides_the_one_made_last_counts_for_each_limit_apart(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100, monthly_cost_limit=Money("1", "USD"))
    ts.limits.override(BILLABLE, token_limit=200, cost_limit=Money("2", "USD"))
    ts.limits.override(BILLABLE, token_limit=300)
    last = ts.limits.override(BILLABLE, token_limit=50, end="2026-01-16")
    check = ts.limits.check(BILLABLE)
    assert (check.token_limit, check.cost_limit) == (50, Money("2", "USD"))
    assert ts.limits.overrides(BILLABLE)[0].id == last.id
    clock.set("2026-01-16")
    assert ts.limits.check(BILLABLE).token_limit == 300


def test_an_override_limits_also_without_a_plan(ts: Tallystick) -> None:
    ts.limits.override("user:2", token_limit=10)
    with pytest.raises(LimitExceeded, match="limit override"):
        meter(ts, "user:2").hold(tokens=11)
    assert meter(ts, "user:2").hold(tokens=10)


def test_ending_an_override_brings_the_plans_limit_back_at_once(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100)
    running = ts.limits.override(BILLABLE, token_limit=5)
    future = ts.limits.override(BILLABLE, start="2026-02-01", token_limit=1)
    clock.advance(seconds=1)
    ts.limits.end_override(running.id)
    ts.limits.end_override(future.id)
    assert meter(ts).hold(tokens=100)
    assert [one.id for one in ts.limits.overrides(BILLABLE)] == [running.id]
    with pytest.raises(NotFound):
        ts.limits.end_override("ovr_none")


def test_an_override_of_another_process_holds_for_the_next_call(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        subscribe(one, monthly_token_limit=100)
        meter(one).hold(tokens=10).void()
        meter(other).hold(tokens=10).void()
        for limit in (5, 50, 7):
            override = other.limits.override(BILLABLE, token_limit=limit)
            with pytest.raises(LimitExceeded) as refused:
                meter(one).hold(tokens=limit + 1)
            assert refused.value.limit == limit
            clock.advance(seconds=1)
            other.limits.end_override(override.id)
            meter(one).hold(tokens=100).void()


def test_an_override_that_cannot_be_is_refused(ts: Tallystick) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"token_limit": -1},
        {"token_limit": 1, "start": "2026-01-02", "end": "2026-01-02"},
        {"token_limit": 1, "end": "2026-01-01"},
        {"cost_limit": Money("-1", "USD")},
    )
    for given_wrongly in wrong:
        with pytest.raises(InvalidInput):
            ts.limits.override(BILLABLE, **given_wrongly)
    assert ts.limits.overrides(BILLABLE) == []


def test_an_override_in_another_currency_is_refused(ts: Tallystick) -> None:
    subscribe(ts, monthly_cost_limit=Money("1", "EUR"))
    with pytest.raises(CurrencyMismatch):
        ts.limits.override(BILLABLE, cost_limit=Money("1", "USD"))


# -- who is limited ---------------------------------------------------------------------------------------------------


def test_without_a_subscription_use_is_recorded_and_not_limited(ts: Tallystick) -> None:
    assert meter(ts).with_manual_usage(input_tokens=10**9).call(lambda: "answer").response == "answer"
    assert ts.limits.check(BILLABLE).allowed


def test_with_require_subscription_it_is_refused_before_the_call(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, require_subscription=True) as ts:
        provider = CountingProvider()
        with pytest.raises(SubscriptionRequired):
            meter(ts).call(provider)
        check = ts.limits.check(BILLABLE)
        assert (check.allowed, check.reason) == (False, "user:1 has no subscription in force.")
        assert provider.calls == 0
        subscribe(ts)
        meter(ts).with_manual_usage(input_tokens=1).call(provider)
        ts.subscriptions.cancel(BILLABLE, immediately=True)
        with pytest.raises(SubscriptionRequired):
            meter(ts).call(provider)
        # What happened is a fact all the same.
        ts.usage.record(billable=BILLABLE, input_tokens=1)
        assert_healthy(ts, open_holds=0)


@pytest.mark.parametrize("enforcement", ["shadow", "off"])
def test_in_shadow_and_off_nothing_is_refused_and_everything_is_counted(
    database_url: str, clock: FixedClock, enforcement: str
) -> None:
    with Tallystick(
        database_url, clock=clock, enforcement=enforcement, require_subscription=True, providers=PRICES
    ) as ts:
        meter(ts, "user:2").with_manual_usage(input_tokens=1).call(lambda: None)
        subscribe(ts, monthly_token_limit=10, monthly_cost_limit=Money("0.00001", "USD"))
        call = ts.meter.billable(BILLABLE).using_provider("acme", "m").with_manual_usage(input_tokens=50)
        first, second = call.call(lambda: None), call.call(lambda: None)
        assert ("shadow" in second.event.flags) == (enforcement == "shadow")
        assert "past_limit" in first.event.flags
        ts.meter.billable(BILLABLE).using_provider("acme", "unknown").with_manual_usage(input_tokens=1).call(lambda: 0)
        # No rate leads from euros to dollars; that too refuses only where limits are enforced.
        euro = ts.meter.billable(BILLABLE).using_provider("acme", "euro").with_manual_usage(input_tokens=1)
        assert "no_exchange_rate" in euro.call(lambda: None).event.flags
        assert standing(ts) == (102, 0)
        assert ts.limits.check(BILLABLE).allowed
        assert_healthy(ts, open_holds=0)


def test_a_call_within_its_limits_is_not_flagged_in_shadow(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, enforcement="shadow") as ts:
        subscribe(ts, monthly_token_limit=10)
        assert meter(ts).with_manual_usage(input_tokens=10).call(lambda: None).event.flags == ("unpriced",)


# -- prices and currencies --------------------------------------------------------------------------------------------


def test_an_estimate_in_tokens_is_priced_at_the_dearest_rate(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, providers=PRICES) as ts:
        subscribe(ts, monthly_cost_limit=Money("0.004", "USD"))
        call = ts.meter.billable(BILLABLE).using_provider("acme", "m")
        # 1,000 tokens cost 0.001 USD as input and 0.004 USD as output: the dearest fits just so.
        with call.hold(tokens=1_000) as hold:
            assert ts.limits.check(BILLABLE).cost_held == Money("0.004", "USD")
            hold.settle(input_tokens=1_000)
        check = ts.limits.check(BILLABLE)
        assert (check.cost_used, check.remaining_cost) == (Money("0.001", "USD"), Money("0.003", "USD"))
        with pytest.raises(LimitExceeded) as refused:
            call.hold(tokens=751)
        assert (refused.value.limit_type, refused.value.requested) == ("cost", Money("0.003004", "USD"))
        assert call.hold(tokens=750)
        assert_healthy(ts, open_holds=1)


def test_an_implicit_estimate_shrinks_to_the_cost_that_is_left(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, providers=PRICES) as ts:
        subscribe(ts, monthly_cost_limit=Money("0.001", "USD"))
        call = ts.meter.billable(BILLABLE).using_provider("acme", "m")
        hold = call.expecting(tokens=1_000_000).hold()
        assert ts.limits.check(BILLABLE).remaining_cost == Money("0", "USD")
        with pytest.raises(LimitExceeded):
            call.expecting(tokens=1).hold()
        hold.settle(input_tokens=100)
        assert call.expecting(tokens=1).hold()
        assert_healthy(ts)


def test_a_cost_limit_needs_a_price(ts: Tallystick) -> None:
    subscribe(ts, monthly_cost_limit=Money("1", "USD"))
    provider = CountingProvider()
    with pytest.raises(UnknownPrice):
        meter(ts).call(provider)
    assert provider.calls == 0
    stated = meter(ts).with_manual_usage(input_tokens=1, total_cost=Money("0.5", "USD"))
    assert stated.call(provider).remaining_cost == Money("0.5", "USD")
    assert meter(ts).hold(cost=Money("0.5", "USD"))


def test_a_free_model_may_be_used_though_the_cost_limit_is_used_up(database_url: str, clock: FixedClock) -> None:
    free = {"acme": {"models": {"free": {"input_price_per_million": "0", "output_price_per_million": "0"}}}}
    with Tallystick(database_url, clock=clock, providers=free) as ts:
        subscribe(ts, monthly_cost_limit=Money("1", "USD"))
        for cost in ("1", "1"):
            ts.usage.record(billable=BILLABLE, input_tokens=1, total_cost=Money(cost, "USD"))
            call = ts.meter.billable(BILLABLE).using_provider("acme", "free").with_manual_usage(input_tokens=5)
            assert call.call(lambda: None).usage.total_cost == Money("0", "USD")


def test_a_missing_exchange_rate_refuses_before_the_call(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, providers=PRICES) as ts:
        provider = CountingProvider()
        with pytest.raises(CurrencyMismatch, match="eur_usd"):
            ts.meter.billable(BILLABLE).using_provider("acme", "euro").call(provider)
        assert provider.calls == 0
        assert_healthy(ts, open_holds=0)


def test_an_exchange_rate_brings_price_limit_and_counter_together(database_url: str, clock: FixedClock) -> None:
    rates = {"currency_rates": {"eur_usd": "1.25"}}
    with Tallystick(database_url, clock=clock, providers=PRICES, billing=rates) as ts:
        subscribe(ts, monthly_cost_limit=Money("2.5", "USD"))
        call = ts.meter.billable(BILLABLE).using_provider("acme", "euro")
        with call.hold(tokens=2_000_000) as hold:
            assert ts.limits.check(BILLABLE).cost_held == Money("2.5", "USD")
            settled = hold.settle(input_tokens=1_000_000)
        assert settled.usage.total_cost == Money("1.25", "USD")
        assert ts.limits.check(BILLABLE, cost=Money("1", "EUR")).allowed
        assert not ts.limits.check(BILLABLE, cost=Money("1.01", "EUR")).allowed
        assert_healthy(ts)


# -- crossing ---------------------------------------------------------------------------------------------------------


def test_crossing_is_announced_once_though_20_threads_cross(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=1_000, overage_behavior="allow")
    heard: list[Event] = []
    ts.on(LimitApproaching)(heard.append)
    ts.on(LimitReached)(heard.append)
    in_threads(20, lambda _: [used_tokens(ts, 10) for _ in range(10)])
    assert [type(one) for one in sorted(heard, key=lambda one: type(one).__name__)] == [LimitApproaching, LimitReached]
    approaching = next(one for one in heard if isinstance(one, LimitApproaching))
    assert (approaching.limit_type, approaching.usage_percentage) == ("tokens", 80.0)
    assert approaching.remaining_tokens is not None
    assert approaching.remaining_tokens <= 200


def test_each_limit_and_each_period_is_announced_for_itself(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100, monthly_cost_limit=Money("10", "USD"))
    heard: list[tuple[str, str]] = []
    ts.on(LimitApproaching)(lambda event: heard.append(("approaching", event.limit_type)))
    ts.on(LimitReached)(lambda event: heard.append(("reached", event.limit_type)))
    ts.usage.record(billable=BILLABLE, input_tokens=79, total_cost=Money("7.999999999", "USD"))
    assert heard == []
    ts.usage.record(billable=BILLABLE, input_tokens=1, total_cost=Money("2.000000001", "USD"))
    assert heard == [("approaching", "tokens"), ("approaching", "cost"), ("reached", "cost")]
    clock.set("2026-02-01")
    heard.clear()
    ts.usage.record(billable=BILLABLE, input_tokens=150, total_cost=Money("0", "USD"))
    assert heard == [("approaching", "tokens"), ("reached", "tokens")]


def test_a_failing_handler_is_logged_and_breaks_nothing(ts: Tallystick, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    @ts.on(UsageRecorded)
    def fail(event: UsageRecorded) -> None:
        raise RuntimeError("handler")

    ts.on(Event)(heard.append)
    with caplog.at_level(logging.ERROR, "tallystick.events"):
        assert meter(ts).with_manual_usage(input_tokens=1).call(lambda: "answer").response == "answer"
    assert [type(one) for one in heard] == [UsageRecorded]
    assert "RuntimeError: handler" in caplog.text
    assert_healthy(ts, open_holds=0)


def test_a_handler_hears_of_what_another_reader_sees(ts: Tallystick) -> None:
    seen: list[bool] = []
    ts.on(UsageRecorded)(lambda event: seen.append(ts.usage.get(event.usage.id) == event.usage))
    used_tokens(ts, 1)
    ts.usage.log("acme", "message")
    ts.usage.record_batch([{"billable": BILLABLE, "input_tokens": 1}] * 3)
    assert seen == [True] * 5


def test_asking_changes_nothing(ts: Tallystick) -> None:
    from tallystick.storage import tables

    subscribe(ts, monthly_token_limit=10)
    assert not ts.limits.check(BILLABLE, tokens=11).allowed
    assert ts.limits.check(BILLABLE, tokens=10).allowed
    assert [count_rows(ts, table) for table in (tables.holds, tables.counters, tables.usage_events)] == [0, 0, 0]
    for wrong in ({"tokens": -1}, {"tokens": True}, {"cost": Money("-1", "USD")}):
        with pytest.raises(InvalidInput):
            ts.limits.check(BILLABLE, **wrong)
    with pytest.raises(CurrencyMismatch):
        ts.limits.check(BILLABLE, cost=Money("1", "EUR"))


def test_a_hold_that_ran_out_refuses_nobody(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100)
    for _ in range(10):
        meter(ts).hold(tokens=10, ttl_seconds=60)
    clock.advance(seconds=60)
    outcomes = in_threads(20, lambda _: meter(ts).hold(tokens=10))
    assert len(errors_of(outcomes, LimitExceeded)) == 10
    assert standing(ts) == (0, 100)
    assert_healthy(ts, open_holds=10)
