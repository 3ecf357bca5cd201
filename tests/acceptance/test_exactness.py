"""Money adds up to the last nano, whether it comes in one piece or in a million."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from tallystick import FixedClock, Tallystick
from tallystick.money import Money
from tallystick.pricing import PriceOverride, Pricing
from tallystick.providers import ProviderUsage
from tests.acceptance.accounts import BILLABLE, assert_healthy, meter, subscribe

AT = datetime(2026, 1, 15, tzinfo=UTC)
FIFTEEN_CENTS = {"models": {"small": {"input_price_per_million": "0.15", "output_price_per_million": "0.60"}}}


def test_a_million_calls_of_one_token_at_15_cents_a_million_cost_15_cents() -> None:
    pricing = Pricing([PriceOverride("acme", "small", input_price_per_million="0.15", output_price_per_million="0.6")])
    one = ProviderUsage(input_tokens=1)
    total = sum((pricing.cost(one, "acme", "small", AT).total_cost for _ in range(1_000_000)), Money(0, "USD"))
    assert total == Money("0.15", "USD")


def test_recorded_calls_of_one_token_cost_exactly_their_share(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, providers={"acme": FIFTEEN_CENTS}) as ts:
        subscribe(ts, monthly_cost_limit=Money("0.003", "USD"))
        record = {"billable": BILLABLE, "provider": "acme", "model": "small", "input_tokens": 1}
        result = ts.usage.record_batch(record for _ in range(20_000))
        assert (result.recorded, result.duplicates, result.rejected) == (20_000, 0, ())
        # 20,000 of a million tokens at 0.15 USD.
        exactly = Money("0.003", "USD")
        assert ts.usage.stats(BILLABLE).totals.cost == exactly
        assert ts.usage.stats(BILLABLE, end="2026-01-15T12:30:00Z").totals.cost == exactly
        check = ts.limits.check(BILLABLE)
        assert (check.cost_used, check.limit_reached) == (exactly, True)
        assert ts.usage.events(limit=1)[0].cost == Money("0.00000015", "USD")
        assert_healthy(ts)


def test_a_held_and_settled_call_costs_the_same_as_a_recorded_one(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, providers={"acme": FIFTEEN_CENTS}) as ts:
        called = meter(ts).using_provider("acme", "small").with_manual_usage(input_tokens=333, output_tokens=77)
        recorded = ts.usage.record(
            billable=BILLABLE, provider="acme", model="small", input_tokens=333, output_tokens=77
        )
        expected = Money((333 * Decimal("0.15") + 77 * Decimal("0.6")) / 1_000_000, "USD")
        assert called.call(lambda: None).usage.total_cost == recorded.cost == expected
        assert_healthy(ts)


def test_an_exchanged_cost_is_rounded_once(database_url: str, clock: FixedClock) -> None:
    # One token costs 37.5 nano-euros: rounded before the exchange it would cost 38 × 1.37 = 52 nano-dollars.
    prices = {
        "models": {"m": {"input_price_per_million": "0.0375", "output_price_per_million": "1", "currency": "EUR"}}
    }
    with Tallystick(
        database_url, clock=clock, providers={"acme": prices}, billing={"currency_rates": {"eur_usd": "1.37"}}
    ) as ts:
        event = ts.usage.record(billable=BILLABLE, provider="acme", model="m", input_tokens=1)
        assert event.cost == Money("0.000000051", "USD")
        both = ts.usage.record(billable=BILLABLE, provider="acme", model="m", input_tokens=1, output_tokens=1)
        assert both.cost == Money("0.000001421", "USD")
        assert both.usage.output_cost == Money("0.00000137", "USD")
        assert both.usage.input_cost == Money("0.000000051", "USD")
        assert ts.usage.reprice().differences == ()
        assert_healthy(ts)


def test_a_stated_cost_is_exchanged_and_rounded_once(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency_rates": {"eur_usd": "1.37"}}) as ts:
        event = ts.usage.record(billable=BILLABLE, input_tokens=1, total_cost=Money("0.000000003", "EUR"))
        assert event.cost == Money("0.000000004", "USD")
        assert_healthy(ts)
