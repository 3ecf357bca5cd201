"""Every price of the catalogue, against genai-prices itself."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import TYPE_CHECKING, Any

import pytest
from genai_prices.data import providers as catalogue_providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices, Usage
from genai_prices.types import Provider as CatalogueProvider

from tallystick.errors import UnknownPrice
from tallystick.pricing import Pricing
from tallystick.pricing.catalogue import Catalogue, CatalogueModel
from tallystick.pricing.rate import Rate
from tallystick.providers import ProviderUsage
from tallystick.providers.units import TOKEN_UNITS, UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

BEDROCK_MODEL = "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOW = datetime(2026, 10, 15, 12, 0, tzinfo=UTC)
TIERS = ("batch", "flex", "priority", "fast", "default")

# Every number is consistent with every other: each class within its whole, each overlap stated.
PLAIN = {"input_tokens": 1_234, "output_tokens": 567}
CACHED = {
    **PLAIN,
    "cache_read_tokens": 301,
    "cache_write_tokens": 207,
    "cache_write_5m_tokens": 53,
    "cache_write_1h_tokens": 101,
    "output_reasoning_tokens": 89,
    "output_citation_tokens": 7,
}
MIXED = {
    **CACHED,
    "input_text_tokens": 700,
    "input_audio_tokens": 211,
    "input_image_tokens": 199,
    "input_video_tokens": 97,
    "cache_text_read_tokens": 170,
    "cache_audio_read_tokens": 61,
    "cache_image_read_tokens": 47,
    "cache_video_read_tokens": 23,
    "cache_text_write_tokens": 207,
    "cache_text_write_5m_tokens": 53,
    "cache_text_write_1h_tokens": 101,
    "output_text_tokens": 400,
    "output_text_reasoning_tokens": 89,
    "output_audio_tokens": 83,
    "output_image_tokens": 41,
    "output_video_tokens": 31,
}
COUNTS = {
    **PLAIN,
    "web_searches": 3,
    "social_searches": 2,
    "storage_searches": 1,
    "code_executions": 5,
    "input_characters": 4_321,
    "input_text_messages": 11,
    "input_document_pages": 9,
    "input_annotated_document_pages": 4,
    "audio_seconds": Decimal("12.34"),
    "input_audio_seconds": Decimal("12.34"),
}
SHORT_AUDIO = {"audio_seconds": 3, "input_audio_seconds": 3}


def catalogue_models() -> Iterator[tuple[CatalogueProvider, ModelInfo]]:
    for provider in catalogue_providers:
        for info in provider.models:
            yield provider, info


def model_prices(info: ModelInfo) -> list[ModelPrice]:
    standard = [info.prices] if isinstance(info.prices, ModelPrice) else [entry.prices for entry in info.prices]
    return [*standard, *(variant.prices for variant in info.price_variants or ())]


def usages_for(info: ModelInfo) -> Iterator[dict[str, Any]]:
    yield from (PLAIN, CACHED, MIXED, COUNTS, SHORT_AUDIO)
    prices = [price for stated in model_prices(info) for price in vars(stated).values()]
    starts = {tier.start for price in prices if isinstance(price, TieredPrices) for tier in price.tiers}
    for start in sorted(starts):
        for input_tokens in (start - 1, start, start + 1):
            yield {**PLAIN, "input_tokens": input_tokens, "cache_read_tokens": input_tokens // 3}


def instants_for(info: ModelInfo) -> Iterator[datetime]:
    yield NOW
    constraints = [entry.constraint for entry in info.prices] if isinstance(info.prices, list) else []
    for constraint in (*constraints, *(variant.constraint for variant in info.price_variants or ())):
        for instant in boundary_instants(constraint):
            yield from (instant - timedelta(microseconds=1), instant)


def boundary_instants(constraint: Any) -> Iterator[datetime]:
    if hasattr(constraint, "start_date"):
        yield datetime.combine(constraint.start_date, datetime.min.time(), UTC)
    elif constraint is not None:
        for moment in (constraint.start_time, constraint.end_time):
            yield datetime.combine(NOW.date(), moment)


def our_usage(values: dict[str, Any], tier: str | None = None) -> ProviderUsage:
    parts = {key: value for key, value in values.items() if key in TOKEN_UNITS}
    totals = {key: parts.pop(key, 0) for key in ("input_tokens", "output_tokens")}
    counts = {key: value for key, value in values.items() if key not in TOKEN_UNITS}
    return ProviderUsage(**totals, breakdown=parts, counts=counts, service_tier=tier)


def in_nanos(price: Decimal) -> int:
    with localcontext(prec=60):
        return int((price * 1_000_000_000).quantize(Decimal(1), ROUND_HALF_EVEN))


def test_the_units_are_those_of_the_registry() -> None:
    registry = {key: (raw["per"], frozenset(raw["dimensions"].items())) for key, raw in unit_data.items()}

    assert {key: (unit.per, unit.dimensions) for key, unit in UNITS.items()} == registry


def test_every_model_costs_what_genai_prices_says_to_the_nano() -> None:
    compared = Counter[str]()
    for provider, info in catalogue_models():
        model = CatalogueModel(provider.id, info, is_own=True, version="test")
        tiers = (None, *TIERS) if info.price_variants else (None,)
        for at in instants_for(info):
            for tier in tiers:
                context = dict.fromkeys(("processing", "service_tier", "speed"), tier) if tier else {}
                tariff = model.tariff(provider.id, info.id, at, context)
                rate = Rate(tariff) if tariff is not None else None
                for values in usages_for(info):
                    expected = info.calc_price(
                        Usage(**values), provider, genai_request_timestamp=at, price_context=context
                    ).total_price
                    compared[compare(rate, values, expected, f"{provider.id}/{info.id} {values} {at} {tier}")] += 1

    assert compared["priced"] > 20_000


def compare(rate: Rate | None, values: dict[str, Any], expected: Decimal, case: str) -> str:
    """Hold one cost against the expected one. What we call unknown is what genai-prices takes for zero."""
    if rate is None:
        assert expected == 0, case
        return "unknown"
    try:
        cost = rate.cost(our_usage(values))
    except UnknownPrice:
        assert expected == 0, case
        has_token_price = any(price.unit.is_tokens for price in rate.tariff.prices)
        assert not (has_token_price and values.get("input_tokens")), case
        return "not covered"
    assert cost.total_nanos == in_nanos(expected), case
    assert cost.input_cost + cost.output_cost == cost.total_cost
    assert cost.recomputed_nanos() == cost.total_nanos
    return "priced"


def test_every_name_finds_the_model_that_genai_prices_finds() -> None:
    snapshot = DataSnapshot(providers=catalogue_providers, from_auto_update=False)
    catalogue = Catalogue()
    missed = 0
    for provider, info in catalogue_models():
        found = catalogue.find(provider.id, info.id.upper())
        try:
            expected_provider, expected = snapshot.find_provider_model(info.id.upper(), None, provider.id, None)
        except LookupError:
            assert found is None
            missed += 1
            continue
        assert found is not None
        assert (found.provider, found.info) == (expected_provider.id, expected)
    # Some models do not go by the name that they are filed under.
    assert missed < 100


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("gemini", "gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("google-vertex", "models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("AWS-Bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", f"aws/{BEDROCK_MODEL}"),
        ("aws", f"arn:aws:bedrock:us-east-1:1:inference-profile/{BEDROCK_MODEL[9:]}", f"aws/{BEDROCK_MODEL}"),
        ("azure", "gpt-4o-mini", "azure/gpt-4o-mini"),
        ("litellm", "openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("litellm", "claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
    ],
)
def test_a_provider_is_known_by_its_other_names(provider: str, model: str, found: str) -> None:
    rate = Pricing().find(provider, model, NOW)

    assert rate is not None
    assert rate.tariff.matched == found


def test_a_resold_model_has_the_price_of_its_maker_without_special_tiers() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    usage = ProviderUsage(1_000_000, 0)

    def nanos(provider: str, tier: str | None) -> int:
        rate = Pricing().find(provider, "gpt-4.1", at, tier)
        assert rate is not None
        return rate.cost(usage).total_nanos

    assert nanos("azure", None) == nanos("openai", None) == nanos("azure", "batch") == 2 * nanos("openai", "batch")
