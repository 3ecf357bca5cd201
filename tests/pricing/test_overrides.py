"""Prices that the operator sets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any

import pytest

from tallystick.errors import InvalidInput, UnknownPrice
from tallystick.money import CurrencyRates, Money
from tallystick.pricing import PriceOverride, Pricing
from tallystick.providers import ProviderUsage

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
MILLION_IN = ProviderUsage(1_000_000)


def price_of(pricing: Pricing, model: str, at: datetime = NOW, provider: str = "openai") -> Money:
    return pricing.cost(MILLION_IN, provider, model, at).total_cost


def override(model: str, price: str, provider: str = "openai", **fields: Any) -> PriceOverride:
    return PriceOverride(provider, model, input_price_per_million=price, **fields)


def test_an_override_wins_over_the_catalogue() -> None:
    pricing = Pricing([override("gpt-4o-mini", "7")])

    found = pricing.cost(MILLION_IN, "openai", "gpt-4o-mini", NOW)

    assert found.total_cost == Money("7")
    assert (found.source, found.model, found.version) == ("override", "openai/gpt-4o-mini", "")
    assert price_of(pricing, "gpt-4o") == Money("2.5")
    assert price_of(pricing, "gpt-4o-mini", provider="azure") == Money("0.15")


def test_a_price_per_thousand_is_a_thousandth_of_that_per_million() -> None:
    usage = ProviderUsage(1_234_567, 7_654_321)
    per_1k = PriceOverride("p", "m", input_price_per_1k="0.0005", output_price_per_1k=Decimal("0.0015"))
    per_million = PriceOverride("p", "m", input_price_per_million="0.5", output_price_per_million="1.5")

    assert Pricing([per_1k]).cost(usage, "p", "m", NOW) == Pricing([per_million]).cost(usage, "p", "m", NOW)
    with localcontext(prec=3):
        long = PriceOverride("p", "m", input_price_per_1k="0.123456789")
        assert long.prices_per_million() == {"input": Decimal("123.456789")}


def test_classes_without_a_price_cost_what_their_whole_costs() -> None:
    usage = ProviderUsage.manual(
        1_000_000, 1_000_000, cached_input_tokens=400_000, cache_write_tokens=100_000, reasoning_tokens=500_000
    )
    whole = PriceOverride("p", "m", input_price_per_million=10, output_price_per_million=20)
    parts = PriceOverride(
        "p",
        "m",
        input_price_per_million=10,
        output_price_per_million=20,
        cached_input_price_per_million=1,
        cache_write_price_per_million=12,
        reasoning_price_per_million=40,
    )

    assert Pricing([whole]).cost(usage, "p", "m", NOW).total_cost == Money("30")
    assert Pricing([parts]).cost(usage, "p", "m", NOW).total_cost == Money("36.6")


def test_a_direction_without_a_price_is_unknown_and_not_free() -> None:
    input_only = Pricing([override("m", "1", "p")])
    output_only = Pricing([PriceOverride("p", "m", output_price_per_1k="1")])

    assert input_only.cost(ProviderUsage(1, 0), "p", "m", NOW).total_nanos == 1000
    with pytest.raises(UnknownPrice):
        input_only.cost(ProviderUsage(1, 1), "p", "m", NOW)
    with pytest.raises(UnknownPrice):
        output_only.cost(ProviderUsage(1, 1), "p", "m", NOW)


def test_free_is_an_explicit_zero() -> None:
    pricing = Pricing([PriceOverride("p", "m", input_price_per_1k=0, output_price_per_1k="0.00")])

    rate = pricing.find("p", "m", NOW)

    assert rate is not None
    assert rate.is_free
    assert pricing.cost(ProviderUsage(5, 5), "p", "m", NOW).total_cost == Money("0")
    assert pricing.dearest("p", "m", 10**9, NOW) == Money("0")


def test_an_override_holds_from_its_beginning_until_just_before_its_end() -> None:
    start, end = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=timezone(timedelta(hours=2)))
    pricing = Pricing([override("gpt-4o-mini", "7", effective_from=start, effective_until=end)])
    instant = timedelta(microseconds=1)

    # Back and forth, so that what is kept of one time is not taken for another.
    for _ in range(2):
        assert price_of(pricing, "gpt-4o-mini", start - instant) == Money("0.15")
        assert price_of(pricing, "gpt-4o-mini", start) == Money("7")
        assert price_of(pricing, "gpt-4o-mini", end - instant) == Money("7")
        assert price_of(pricing, "gpt-4o-mini", end) == Money("0.15")
    found = pricing.cost(MILLION_IN, "openai", "gpt-4o-mini", start)
    assert found.version == "2026-03-01T00:00:00+00:00"


def test_the_override_that_began_last_holds() -> None:
    january, march = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    always = override("m", "1", "p")
    later = [override("m", "3", "p", effective_from=march), override("m", "2", "p", effective_from=january)]
    for given in ([always, *later], [*later, always], [later[1], always, later[0]]):
        pricing = Pricing(given)
        prices = [
            price_of(pricing, "m", at, "p") for at in (january - timedelta(1), january, march - timedelta(1), march)
        ]
        assert prices == [Money("1"), Money("2"), Money("2"), Money("3")]


def test_of_equal_overrides_the_last_given_holds() -> None:
    assert price_of(Pricing([override("m", "1", "p"), override("m", "2", "p")]), "m", NOW, "p") == Money("2")


def test_an_exact_name_comes_before_a_pattern_and_a_longer_pattern_before_a_shorter() -> None:
    prices = {"gpt-4o*": "4", "*": "1", "gpt-4o-mini": "9", "gpt-*": "3", "gpt-4o-min[i]*": "8"}
    pricing = Pricing(override(model, price) for model, price in prices.items())

    assert price_of(pricing, "gpt-4o-mini") == Money("9")
    assert price_of(pricing, "GPT-4O-Mini") == Money("9")
    assert price_of(pricing, "gpt-4o-mini-2024-07-18") == Money("8")
    assert price_of(pricing, "gpt-4o-2024-08-06") == Money("4")
    assert price_of(pricing, "gpt-5") == Money("3")
    assert price_of(pricing, "anything") == Money("1")


def test_a_pattern_holds_where_the_exact_override_does_not_yet() -> None:
    pricing = Pricing([override("gpt-4o*", "4"), override("gpt-4o-mini", "9", effective_from=NOW)])

    assert price_of(pricing, "gpt-4o-mini", NOW - timedelta(seconds=1)) == Money("4")
    assert price_of(pricing, "gpt-4o-mini", NOW) == Money("9")


def test_a_provider_may_be_named_in_any_of_its_ways() -> None:
    pricing = Pricing([override("gemini-2.5-flash", "5", "gemini")])

    for provider in ("gemini", "google", "GOOGLE-VERTEX"):
        assert price_of(pricing, "gemini-2.5-flash", NOW, provider) == Money("5")
    assert price_of(pricing, "gpt-4o", NOW, "openai") == Money("2.5")


def test_an_override_may_be_in_another_currency() -> None:
    in_real = override("m", "7.50", "p", currency="brl")

    assert price_of(Pricing([in_real]), "m", NOW, "p") == Money("7.50", "BRL")
    in_dollar = Pricing([in_real], rates=CurrencyRates({"brl_usd": "0.2"}), currency="USD")
    assert price_of(in_dollar, "m", NOW, "p") == Money("1.50", "USD")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "input_price_per_1k"),
        ({"input_price_per_1k": 0.1}, "input_price_per_1k"),
        ({"input_price_per_1k": True}, "input_price_per_1k"),
        ({"input_price_per_1k": "-1"}, "input_price_per_1k"),
        ({"input_price_per_1k": "NaN"}, "input_price_per_1k"),
        ({"input_price_per_1k": "cheap"}, "input_price_per_1k"),
        ({"input_price_per_1k": "1", "input_price_per_million": "1000"}, "input_price_per_million"),
        ({"cached_input_price_per_1k": "1"}, "input_price_per_1k"),
        ({"output_price_per_1k": "1", "cached_input_price_per_1k": "1"}, "input_price_per_1k"),
        ({"input_price_per_1k": "1", "reasoning_price_per_1k": "1"}, "output_price_per_1k"),
        ({"input_price_per_1k": "1", "currency": "dollars"}, "currency"),
        ({"input_price_per_1k": "1", "effective_from": datetime(2026, 1, 1)}, "effective_from"),  # noqa: DTZ001
        ({"input_price_per_1k": "1", "effective_from": "2026-01-01"}, "effective_from"),
        ({"input_price_per_1k": "1", "effective_from": NOW, "effective_until": NOW}, "effective_until"),
        ({"input_price_per_1k": "1", "model": ""}, "model"),
        ({"input_price_per_1k": "1", "provider": None}, "provider"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        PriceOverride(**{"provider": "p", "model": "m", **fields})

    assert refused.value.field == field
