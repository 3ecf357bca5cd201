"""Prices that come later, and prices that were wrong: corrections as new events, applied once."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import UnknownPrice
from tallystick.money import Money
from tallystick.storage import tables
from tests.acceptance.accounts import (
    BILLABLE,
    CountingProvider,
    assert_healthy,
    count_rows,
    in_threads,
    subscribe,
)


def priced(url: str, clock: FixedClock, price: str | None, **settings: Any) -> Tallystick:
    """Open an engine that knows this price of a million tokens of acme/m, or none."""
    models = {"m": {"input_price_per_million": price, "output_price_per_million": price}}
    providers = {} if price is None else {"acme": {"models": models}}
    return Tallystick(url, clock=clock, providers=providers, on_unknown_price="record_unpriced", **settings)


def use(ts: Tallystick, tokens: int = 1_000_000) -> str:
    call = ts.meter.billable(BILLABLE).using_provider("acme", "m").with_manual_usage(input_tokens=tokens)
    return call.call(lambda: None).usage_event_id


def test_an_unknown_price_refuses_before_the_call(ts: Tallystick) -> None:
    provider = CountingProvider()
    with pytest.raises(UnknownPrice) as unknown:
        ts.meter.billable(BILLABLE).using_provider("acme", "m").call(provider)
    assert provider.calls == 0
    assert (unknown.value.provider, unknown.value.model) == ("acme", "m")
    assert_healthy(ts, open_holds=0)


def test_unpriced_use_is_recorded_and_never_costs_zero(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, None) as ts:
        event = ts.usage.get(use(ts))
        assert (event.cost, event.flags) == (None, ("unpriced",))
        assert event.usage.total_cost is None
        assert ts.usage.stats(BILLABLE).totals.unpriced_events == 1
        repricing = ts.usage.reprice(apply=True)
        assert (repricing.still_unpriced, repricing.differences) == (1, ())


def test_a_preview_records_nothing_and_applying_twice_corrects_once(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, None) as ts:
        event_id = use(ts)
    clock.advance(days=40)
    with priced(database_url, clock, "2") as ts:
        preview = ts.usage.reprice()
        assert [(one.event_id, one.before, one.after) for one in preview.differences] == [
            (event_id, None, Money("2", "USD"))
        ]
        assert count_rows(ts, tables.usage_events) == 1
        assert ts.usage.reprice(apply=True).total_differences == (Money("2", "USD"),)
        again = ts.usage.reprice(apply=True)
        assert (again.differences, again.unchanged) == ((), 1)
        assert count_rows(ts, tables.usage_events) == 2
        event, totals = ts.usage.get(event_id), ts.usage.stats(BILLABLE).totals
        assert event.cost is None, "history does not change"
        assert (totals.events, totals.unpriced_events, totals.cost) == (1, 0, Money("2", "USD"))
        # The correction counts when its use happened.
        assert ts.usage.stats(BILLABLE, end="2026-01-16").totals.cost == Money("2", "USD")
        assert ts.usage.explain(event_id).cost_now == Money("2", "USD")
        assert_healthy(ts)


def test_a_price_that_goes_back_and_forth_is_followed_each_time(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, "1") as ts:
        event_id = use(ts)
    for price in ("2", "1", "2", "1", "3", "1", "2"):
        with priced(database_url, clock, price) as ts:
            assert len(ts.usage.reprice(apply=True).differences) == 1
            assert ts.usage.explain(event_id).cost_now == Money(price, "USD")
            assert ts.usage.stats(BILLABLE).totals.cost == Money(price, "USD")
            assert ts.usage.reprice().differences == ()
            assert_healthy(ts)


def test_several_who_reprice_at_once_correct_once(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, None) as ts:
        for _ in range(20):
            use(ts)
    with priced(database_url, clock, "2") as ts:
        assert not [one for one in in_threads(6, lambda _: ts.usage.reprice(apply=True)) if isinstance(one, Exception)]
        assert count_rows(ts, tables.usage_events) == 40
        assert ts.usage.stats(BILLABLE).totals.cost == Money("40", "USD")
        assert_healthy(ts)


def test_a_correction_changes_the_counter_and_the_overage_of_its_period(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, "1") as ts:
        subscribe(ts, monthly_cost_limit=Money("1.5", "USD"), overage_behavior="charge")
        use(ts)
        use(ts)
        assert [one.amount for one in ts.overages.list(BILLABLE)] == [Money("0.5", "USD")]
    with priced(database_url, clock, "3") as ts:
        ts.usage.reprice(apply=True)
        check = ts.limits.check(BILLABLE)
        assert check.cost_used == Money("6", "USD")
        assert sum((one.amount for one in ts.overages.list(BILLABLE)), Money(0, "USD")) == Money("4.5", "USD")
        assert_healthy(ts)
    with priced(database_url, clock, "0.5") as ts:
        ts.usage.reprice(apply=True)
        # Both now cost less than the limit, so what was charged is given back.
        assert sum((one.amount for one in ts.overages.list(BILLABLE)), Money(0, "USD")) == Money(0, "USD")
        assert ts.limits.check(BILLABLE).cost_used == Money("1", "USD")
        assert_healthy(ts)


def test_stated_costs_and_counted_use_are_not_repriced(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, "1") as ts:
        ts.usage.record(billable=BILLABLE, provider="acme", model="m", input_tokens=5, total_cost=Money("9", "USD"))
        ts.usage.log("acme", "message")
    with priced(database_url, clock, "2") as ts:
        assert ts.usage.reprice(apply=True).differences == ()


def test_only_what_is_asked_for_is_repriced(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, "1") as ts:
        use(ts)
    with priced(database_url, clock, None) as ts:
        unpriced = ts.usage.record(billable="user:2", provider="acme", model="m", input_tokens=1_000_000).id
    with priced(database_url, clock, "2") as ts:
        only_unpriced = ts.usage.reprice(only_unpriced=True)
        assert [one.event_id for one in only_unpriced.differences] == [unpriced]
        assert len(ts.usage.reprice().differences) == 2
        assert len(ts.usage.reprice(billable=BILLABLE).differences) == 1
        assert ts.usage.reprice(provider="other").differences == ()
        assert ts.usage.reprice(start="2026-01-16").differences == ()
        assert ts.usage.reprice(end="2026-01-16", model="m", apply=True).applied


def test_use_recorded_without_an_exchange_rate_is_priced_once_there_is_one(
    database_url: str, clock: FixedClock
) -> None:
    euros = {
        "acme": {"models": {"m": {"input_price_per_million": "1", "output_price_per_million": "1", "currency": "EUR"}}}
    }
    arguments: dict[str, Any] = {"clock": clock, "providers": euros}
    with Tallystick(database_url, **arguments) as ts:
        event = ts.usage.record(billable=BILLABLE, provider="acme", model="m", input_tokens=1_000_000)
        assert event.cost is None
        assert set(event.flags) == {"unpriced", "no_exchange_rate"}
        assert ts.usage.reprice().still_unpriced == 1
        assert_healthy(ts)
    with Tallystick(database_url, **arguments, billing={"currency_rates": {"eur_usd": "1.25"}}) as ts:
        ts.usage.reprice(apply=True)
        assert ts.usage.stats(BILLABLE).totals.cost == Money("1.25", "USD")
        assert ts.usage.reprice(apply=True).unchanged == 1
        assert_healthy(ts)


def test_a_corrected_event_whose_key_was_forgotten_is_not_corrected_again(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, None) as ts:
        use(ts)
    clock.advance(days=3)
    with priced(database_url, clock, "2") as ts:
        ts.usage.reprice(apply=True)
        ts.usage.anonymize_before(clock.now())
        assert ts.usage.reprice(apply=True).differences == ()
        assert ts.usage.stats().totals.cost == Money("2", "USD")
        assert_healthy(ts)
