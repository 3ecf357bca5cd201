"""Usage of Cohere: what is billed, which is less than what was processed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, count_of, fields_of, reported_usage

if TYPE_CHECKING:
    from decimal import Decimal

    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_cohere"]


def read_cohere(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read billed units where they are reported, else the processed tokens.

    The two count differently (billed units leave out the preamble and the cache), so they are never mixed.
    """
    billed = usage.get("billed_units")
    tokens = fields_of(billed or usage.get("tokens"))
    breakdown: dict[str, int] = {}
    counts: dict[str, int | Decimal] = {}
    images = count_of(tokens.get("image_tokens"))
    if images:
        breakdown["input_image_tokens"] = images
    searches = count_of(tokens.get("search_units"))
    if searches:
        counts["rerank_searches"] = searches
    cached = count_of(usage.get("cached_tokens")) if not billed else 0
    if cached:
        breakdown["cache_read_tokens"] = cached
    return reported_usage(
        body, count_of(tokens.get("input_tokens")) + images, count_of(tokens.get("output_tokens")), breakdown, counts
    )
