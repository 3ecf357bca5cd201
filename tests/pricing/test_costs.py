"""What a usage costs: exactly, rounded once, never zero for want of a price."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from hypothesis import assume, given
from hypothesis import strategies as st

from tallystick.errors import CurrencyMismatch, InvalidInput, UnknownPrice
from tallystick.money import CurrencyRates, Money, ceil_div
from tallystick.pricing import Cost, CostLine, PriceOverride, Pricing, price_book
from tallystick.providers import Providers, ProviderUsage
from tests.pricing.test_catalogue import in_nanos
from tests.providers.custom import CustomProvider
from tests.providers.test_usage import usages

NOW = datetime(2026, 10, 20, 12, 0, tzinfo=UTC)
PRICING = Pricing()


def cost(provider: str, model: str, at: datetime = NOW, /, **usage: Any) -> Cost:
    return PRICING.cost(ProviderUsage.manual(**usage), provider, model, at)


def total(provider: str, model: str, at: datetime = NOW, /, **usage: Any) -> Money:
    return cost(provider, model, at, **usage).total_cost


def test_a_plain_call_costs_input_and_output() -> None:
    # gpt-4o-mini: 0.15 and 0.60 USD per million tokens.
    found = cost("openai", "gpt-4o-mini", input_tokens=1000, output_tokens=500)

    assert found.input_cost == Money("0.00015")
    assert found.output_cost == Money("0.0003")
    assert found.total_cost == Money("0.00045")
    assert found.currency == "USD"
    assert (found.source, found.model) == ("catalogue", "openai/gpt-4o-mini")
    assert found.version.startswith("genai-prices ")
    assert found.rates == {"input_tokens": Decimal("0.15"), "output_tokens": Decimal("0.6")}
    assert found.lines == (
        CostLine("input_tokens", 1000, Decimal("0.15"), 1_000_000),
        CostLine("output_tokens", 500, Decimal("0.6"), 1_000_000),
    )
    assert [line.amount for line in found.lines] == [Fraction(15, 100_000), Fraction(3, 10_000)]


def test_cached_input_is_charged_at_its_own_rate_and_only_once() -> None:
    # gpt-4o-mini reads its cache for 0.075 USD per million.
    found = cost("openai", "gpt-4o-mini", input_tokens=1_000_000, cached_input_tokens=400_000)

    assert found.total_cost == Money("0.12")
    assert {line.unit: line.quantity for line in found.lines} == {"input_tokens": 600_000, "cache_read_tokens": 400_000}


def test_cache_writes_are_charged_by_their_lifetime() -> None:
    # claude-opus-5: 5 USD, written for five minutes 6.25, for an hour 10.
    usage: dict[str, Any] = {
        "input_tokens": 3_000_000,
        "cache_write_5m_tokens": 1_000_000,
        "cache_write_1h_tokens": 1_000_000,
    }

    assert total("anthropic", "claude-opus-5", **usage) == Money("21.25")


def test_reasoning_without_a_price_of_its_own_is_output() -> None:
    with_reasoning = total("openai", "gpt-4o-mini", output_tokens=1000, reasoning_tokens=900)

    assert with_reasoning == total("openai", "gpt-4o-mini", output_tokens=1000)


def test_a_tier_is_a_cliff() -> None:
    # gemini-2.5-pro: 1.25 USD up to 200,000 input tokens, above that 2.50 for all of them.
    assert total("google", "gemini-2.5-pro", input_tokens=200_000) == Money("0.25")
    assert total("google", "gemini-2.5-pro", input_tokens=200_001) == Money("0.5000025")
    assert total("google", "gemini-2.5-pro", input_tokens=200_001, output_tokens=1_000_000) == Money("15.5000025")


def test_a_batch_is_charged_as_a_batch() -> None:
    usage: dict[str, Any] = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}

    assert total("openai", "gpt-4.1", **usage) == Money("10")
    assert total("openai", "gpt-4.1", **usage, service_tier="batch") == Money("5")
    assert total("openai", "gpt-4.1", **usage, service_tier="priority") == Money("17.5")
    assert total("openai", "gpt-4.1", **usage, service_tier="default") == Money("10")
    assert total("anthropic", "claude-opus-5", **usage, service_tier="fast") == Money("60")
    assert total("anthropic", "claude-opus-5", **usage, service_tier="standard") == Money("30")


def test_a_price_changes_on_its_date() -> None:
    change = datetime(2025, 6, 10, tzinfo=UTC)
    at_midnight_elsewhere = change.astimezone(timezone(timedelta(hours=-7)))
    usage: dict[str, Any] = {"input_tokens": 1_000_000}

    assert total("openai", "o3", change - timedelta(microseconds=1), **usage) == Money("10")
    assert total("openai", "o3", change, **usage) == Money("2")
    assert total("openai", "o3", at_midnight_elsewhere, **usage) == Money("2")


@pytest.mark.parametrize("model", ["deepseek-chat", "deepseek-v4-flash"])
def test_a_price_changes_by_the_hour_in_whatever_order_it_is_asked_for(model: str) -> None:
    start = datetime(2026, 8, 16, 0, 0, tzinfo=UTC)
    hours = [start + timedelta(minutes=30 * step) for step in range(100)]
    seen = set()
    for at in (*hours, *reversed(hours), *hours[::7]):
        expected = calc_price(Usage(input_tokens=10**6), model, provider_id="deepseek", genai_request_timestamp=at)
        found = cost("deepseek", model, at, input_tokens=10**6)
        seen.add(found.total_nanos)
        assert found.total_nanos == in_nanos(expected.total_price), at
    assert len(seen) > 1


def test_a_request_may_have_a_price_of_its_own() -> None:
    # sonar-pro: 3 USD input, 15 output, 14 for a thousand requests; what has no direction is on the input side.
    found = cost("perplexity", "sonar-pro", input_tokens=1_000_000, output_tokens=1_000_000)

    assert found.total_cost == Money("18.014")
    assert (found.input_cost, found.output_cost) == (Money("3.014"), Money("15"))
    twice = ProviderUsage(10, 10) + ProviderUsage(10, 10)
    assert (
        PRICING.cost(twice, "perplexity", "sonar-pro", NOW).total_nanos
        == 2 * cost("perplexity", "sonar-pro", input_tokens=10, output_tokens=10).total_nanos
    )


def test_searches_are_charged_by_the_call() -> None:
    # claude-opus-5: 10 USD for a thousand searches.
    found = cost("anthropic", "claude-opus-5", input_tokens=1000, counts={"web_searches": 3})

    assert found.total_cost == Money("0.035")


def test_a_transcription_at_groq_is_charged_for_ten_seconds_at_least() -> None:
    def transcribed(seconds: int | Decimal) -> int:
        counts = {"audio_seconds": seconds, "input_audio_seconds": seconds}
        return cost("groq", "whisper-large-v3", counts=counts).total_nanos

    assert transcribed(3) == transcribed(10) == in_nanos(Decimal("0.111") * 10 / 3600)
    assert transcribed(Decimal("12.5")) == in_nanos(Decimal("0.111") * Decimal("12.5") / 3600)


def test_the_sum_is_rounded_once() -> None:
    # Two halves of a nano are one; rounded one by one they would be none.
    override = PriceOverride("p", "m", input_price_per_million="0.0005", output_price_per_million="0.0005")
    pricing = Pricing([override])

    found = pricing.cost(ProviderUsage(1, 1), "p", "m", NOW)

    assert found.total_nanos == 1
    assert (found.input_cost.nanos, found.output_cost.nanos) == (1, 0)


@pytest.mark.parametrize(("tokens", "nanos"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_a_half_goes_to_the_even_nano(tokens: int, nanos: int) -> None:
    pricing = Pricing([PriceOverride("p", "m", input_price_per_million="0.0005")])

    assert pricing.cost(ProviderUsage(tokens), "p", "m", NOW).total_nanos == nanos


MODELS = [
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-realtime"),
    ("anthropic", "claude-opus-5"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
    ("perplexity", "sonar-deep-research"),
    ("aws", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
]


@given(usages, st.sampled_from(MODELS))
def test_every_token_is_charged_exactly_once_whatever_was_reported(
    usage: ProviderUsage, named: tuple[str, str]
) -> None:
    assume(usage.total_tokens)
    found = PRICING.cost(usage, *named, NOW)

    tokens = sum(line.quantity for line in found.lines if line.unit.endswith("_tokens"))
    assert tokens == usage.total_tokens
    assert all(line.quantity > 0 for line in found.lines)
    assert found.input_cost + found.output_cost == found.total_cost
    assert found.output_nanos >= 0
    assert found.input_cost.nanos >= 0
    assert found.recomputed_nanos() == found.total_nanos


@given(usages, st.sampled_from(MODELS))
def test_a_hold_at_the_dearest_rate_covers_every_class_of_tokens(usage: ProviderUsage, named: tuple[str, str]) -> None:
    tokens_only = ProviderUsage(usage.input_tokens, usage.output_tokens, usage.breakdown)

    assert PRICING.cost(tokens_only, *named, NOW).total_cost <= PRICING.dearest(*named, usage.total_tokens, NOW)


@given(usages, st.sampled_from(MODELS))
def test_a_cost_survives_the_database(usage: ProviderUsage, named: tuple[str, str]) -> None:
    assume(usage.total_tokens)
    found = PRICING.cost(usage, *named, NOW)
    stored = json.loads(json.dumps(found.to_dict()))

    assert Cost.from_dict(stored) == found


def test_an_unusual_decimal_context_of_the_application_changes_nothing() -> None:
    usage = ProviderUsage(123_457, 7, {"cache_read_tokens": 1}, {"web_searches": 3})
    expected = Pricing().cost(usage, "openai", "gpt-4.1", NOW)

    with localcontext(prec=2):
        assert Pricing().cost(usage, "openai", "gpt-4.1", NOW) == expected
        seconds = ProviderUsage(counts={"audio_seconds": Decimal("123.456"), "input_audio_seconds": Decimal("123.456")})
        assert Pricing().cost(seconds, "openai", "whisper-1", NOW).total_nanos == 12_345_600


def test_the_dearest_rate_counts_every_tier_and_class() -> None:
    # gemini-2.5-pro writes for 15 USD above its cliff; gpt-realtime hears for less than it speaks.
    assert PRICING.dearest_nanos_per_million("google", "gemini-2.5-pro", NOW) == 15_000_000_000
    assert PRICING.dearest("google", "gemini-2.5-pro", 10, NOW) == Money("0.00015")
    rates = PRICING.find("openai", "gpt-realtime", NOW)
    assert rates is not None
    spoken = max(price.base for price in rates.tariff.prices if price.unit.key == "output_audio_tokens")
    assert PRICING.dearest_nanos_per_million("openai", "gpt-realtime", NOW) == spoken * 10**9


def test_the_dearest_rate_is_rounded_up_and_includes_the_request() -> None:
    pricing = Pricing([PriceOverride("p", "m", input_price_per_million="0.0000000001")])

    assert pricing.dearest_nanos_per_million("p", "m", NOW) == 1
    assert pricing.dearest("p", "m", 1, NOW).nanos == 1
    assert pricing.dearest("p", "m", 0, NOW).nanos == 0
    assert PRICING.dearest("perplexity", "sonar-pro", 0, NOW) == Money("0.014")


def test_the_dearest_rate_is_that_of_the_tier_asked_for() -> None:
    standard = PRICING.dearest("openai", "gpt-4.1", 1_000_000, NOW)

    assert standard == Money("8")
    assert PRICING.dearest("openai", "gpt-4.1", 1_000_000, NOW, "priority") == Money("14")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-99-imaginary"),
        ("nobody", "gpt-4o"),
        # The catalogue knows these models, and states no price for them.
        ("google", "gemma-3"),
        ("cerebras", "qwen-3-coder-480b"),
        ("openai", ""),
        ("", "gpt-4o"),
    ],
)
def test_a_missing_price_is_never_zero(provider: str, model: str) -> None:
    assert PRICING.find(provider, model, NOW) is None
    with pytest.raises(UnknownPrice):
        PRICING.cost(ProviderUsage(10, 10), provider, model, NOW)
    with pytest.raises(UnknownPrice):
        PRICING.dearest(provider, model, 10, NOW)


def test_a_price_by_the_second_says_nothing_about_tokens() -> None:
    with pytest.raises(UnknownPrice, match="openai/whisper-1"):
        cost("openai", "whisper-1", input_tokens=100)
    with pytest.raises(UnknownPrice):
        cost("openai", "gpt-4o-mini", counts={"audio_seconds": 3})


def test_a_free_model_has_a_price_and_it_is_zero() -> None:
    rate = PRICING.find("openrouter", "deepseek/deepseek-r1:free", NOW)

    assert rate is not None
    assert rate.is_free
    assert rate.cost(ProviderUsage(10, 10)).total_cost == Money("0")
    paid = PRICING.find("openai", "gpt-4o-mini", NOW)
    assert paid is not None
    assert not paid.is_free


def test_an_embedding_model_has_no_price_for_output_and_needs_none() -> None:
    assert total("openai", "text-embedding-3-small", input_tokens=1_000_000) == Money("0.02")


def test_a_deployment_of_any_name_is_priced_by_the_model_that_answered() -> None:
    usage = ProviderUsage(1_000_000, 0, model="gpt-4o-mini-2024-07-18")

    assert PRICING.cost(usage, "azure", "our-deployment", NOW).total_cost == Money("0.15")
    assert PRICING.cost(usage, "openai", None, NOW).total_cost == Money("0.15")
    # The model that was asked for comes first: overrides are set by that name.
    assert PRICING.cost(usage, "openai", "gpt-4o", NOW).total_cost == Money("2.5")


def test_a_stated_cost_is_taken_at_its_word() -> None:
    both = ProviderUsage(10, 20, input_cost=Money("0.1"), output_cost=Money("0.2"))
    total_only = ProviderUsage(10, 20, total_cost=Money("0.5"))
    part = ProviderUsage(10, 20, input_cost=Money("0.1"), total_cost=Money("0.5"))
    contradiction = ProviderUsage(10, 20, output_cost=Money("9"), total_cost=Money("0.5"))

    found = PRICING.cost(both, "nobody", "unknown", NOW)
    assert (found.source, found.total_cost, found.lines) == ("stated", Money("0.3"), ())
    assert (found.input_cost, found.output_cost) == (Money("0.1"), Money("0.2"))
    assert PRICING.cost(total_only, "nobody", None, NOW).input_cost == Money("0.5")
    assert PRICING.cost(part, "nobody", None, NOW).output_cost == Money("0.4")
    cut = PRICING.cost(contradiction, "nobody", None, NOW)
    assert (cut.total_cost, cut.output_cost, cut.input_cost) == (Money("0.5"), Money("0.5"), Money("0"))
    assert Cost.from_dict(found.to_dict()) == found
    assert found.recomputed_nanos() == found.total_nanos


def test_a_cost_comes_in_the_currency_that_is_asked_for() -> None:
    pricing = Pricing([], None, CurrencyRates({"usd_brl": "5.4321"}), currency="brl")
    usage = ProviderUsage(1, 1)

    found = pricing.cost(usage, "openai", "gpt-4o-mini", NOW)

    # (0.15 + 0.60) USD per million, times 5.4321: 4,074.075 nanos, rounded once.
    assert (found.total_nanos, found.currency) == (4074, "BRL")
    assert (found.price_currency, found.exchange_rate) == ("USD", Decimal("5.4321"))
    assert found.rates["input_tokens"] == Decimal("0.15")
    assert found.recomputed_nanos() == 4074
    assert Cost.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert pricing.dearest("openai", "gpt-4o-mini", 1_000_000, NOW) == Money("3.25926", "BRL")
    stated = pricing.cost(ProviderUsage(total_cost=Money("2")), "openai", None, NOW)
    assert stated.total_cost == Money("10.8642", "BRL")
    assert (stated.price_currency, stated.exchange_rate) == ("USD", Decimal("5.4321"))


def test_a_single_cost_may_be_asked_for_in_a_currency() -> None:
    pricing = Pricing(rates=CurrencyRates({"usd_brl": "5.4321"}))
    usage = ProviderUsage(1, 1)

    assert pricing.cost(usage, "openai", "gpt-4o-mini", NOW).currency == "USD"
    assert pricing.cost(usage, "openai", "gpt-4o-mini", NOW, "BRL").total_cost == Money("0.000004074", "BRL")
    assert pricing.cost(usage, "openai", "gpt-4o-mini", NOW, "usd").total_cost == Money("0.00000075")


def test_a_missing_exchange_rate_is_never_one() -> None:
    pricing = Pricing(currency="EUR")

    with pytest.raises(CurrencyMismatch):
        pricing.cost(ProviderUsage(1, 1), "openai", "gpt-4o-mini", NOW)
    with pytest.raises(CurrencyMismatch):
        pricing.cost(ProviderUsage(total_cost=Money("1")), "openai", "gpt-4o-mini", NOW)


def test_a_time_without_a_zone_is_refused() -> None:
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(InvalidInput, match="at:"):
        PRICING.find("openai", "gpt-4o-mini", naive)


def test_names_of_models_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_book, "_CACHE_MAX", 5)
    pricing = Pricing()
    for number in range(23):
        pricing.find("openai", f"imaginary-{number}", NOW)
        assert pricing.find("openai", "gpt-4o-mini", NOW) is not None

    assert len(pricing._windows) <= 5


def test_a_response_is_read_and_priced() -> None:
    pricing = Pricing(providers=Providers({"custom": CustomProvider}))
    body = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 1000, "completion_tokens": 500}}

    usage = pricing.usage(body, "openai")

    assert usage is not None
    assert pricing.cost(usage, "openai", usage.model, NOW).total_cost == Money("0.00045")
    assert pricing.usage(None, "custom") is None


def test_the_bound_of_a_part_is_no_more_than_that_of_the_whole() -> None:
    per_million = PRICING.dearest_nanos_per_million("openai", "gpt-4o-mini", NOW)

    for tokens in (1, 2, 999, 1_000_001):
        assert PRICING.dearest("openai", "gpt-4o-mini", tokens, NOW).nanos == ceil_div(tokens * per_million, 10**6)


def test_importing_does_not_load_the_catalogue() -> None:
    program = (
        "import sys, tallystick.pricing as p, tallystick.providers\n"
        "p.Pricing([p.PriceOverride('p', 'm', input_price_per_1k='1')])\n"
        "print([name for name in sys.modules if name.startswith('genai_prices')])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
