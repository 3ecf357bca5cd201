"""Usage in the shape of OpenAI's chat completions: `prompt_tokens` and `completion_tokens`, both inclusive.

Most providers answer in this shape, each with something of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, amount_of, count_of, fields_of, read_details, reported_usage

if TYPE_CHECKING:
    from decimal import Decimal

    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_chat"]

_INPUT_DETAILS = (
    ("cached_tokens", "cache_read_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("audio_tokens", "input_audio_tokens"),
    ("image_tokens", "input_image_tokens"),
    ("video_tokens", "input_video_tokens"),
    ("text_tokens", "input_text_tokens"),
)
_OUTPUT_DETAILS = (
    ("reasoning_tokens", "output_reasoning_tokens"),
    ("audio_tokens", "output_audio_tokens"),
    ("image_tokens", "output_image_tokens"),
    ("text_tokens", "output_text_tokens"),
)
# Cached tokens outside `prompt_tokens_details`: Moonshot and Anthropic's compatible endpoint, DeepSeek, Databricks and
# LiteLLM, xAI. Mistral's old `num_cached_tokens` is left out: it told about its server's own cache, not about a price.
_CACHED_FIELDS = (
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
    "cached_prompt_text_tokens",
)


def read_chat(usage: Body, body: Body, provider: str) -> ProviderUsage:
    """Read chat completions, embeddings (no `completion_tokens`) and bodies that have a total only."""
    input_tokens = count_of(usage.get("prompt_tokens"))
    output_tokens = count_of(usage.get("completion_tokens"))
    breakdown: dict[str, int] = {}
    details = usage.get("prompt_tokens_details")
    if details:
        read_details(fields_of(details), _INPUT_DETAILS, breakdown)
    details = usage.get("completion_tokens_details")
    if details:
        read_details(fields_of(details), _OUTPUT_DETAILS, breakdown)
    if "cache_read_tokens" not in breakdown:
        _read_first(usage, _CACHED_FIELDS, "cache_read_tokens", breakdown)
    if "cache_write_tokens" not in breakdown:
        _read_first(usage, ("cache_creation_input_tokens",), "cache_write_tokens", breakdown)
    total = count_of(usage.get("total_tokens"))
    if not input_tokens and total > output_tokens:
        # Rerankers and some embedding endpoints report a total only.
        input_tokens = total - output_tokens
    output_tokens += _output_beside_completion(usage, provider, breakdown, total - input_tokens - output_tokens)
    return reported_usage(
        body, input_tokens, output_tokens, breakdown, _read_counts(usage), tier=usage.get("service_tier")
    )


def _read_first(usage: Body, names: tuple[str, ...], key: str, breakdown: dict[str, int]) -> None:
    for name in names:
        if name in usage:
            tokens = count_of(usage[name])
            if tokens:
                breakdown[key] = tokens
                return


def _output_beside_completion(usage: Body, provider: str, breakdown: dict[str, int], unexplained: int) -> int:
    """Return the output tokens that `completion_tokens` leaves out.

    xAI counts reasoning beside the completion, Perplexity reasoning and citations. For everybody else reasoning lies
    within, unless the reported total says otherwise, as that of Gemini's compatible endpoint does.
    """
    reasoning = count_of(usage.get("reasoning_tokens"))
    if reasoning:
        breakdown["output_reasoning_tokens"] = reasoning
    if provider == "perplexity":
        citations = count_of(usage.get("citation_tokens"))
        if citations:
            breakdown["output_citation_tokens"] = citations
        return reasoning + citations
    reasoning = breakdown.get("output_reasoning_tokens", 0)
    if unexplained == reasoning:
        return reasoning
    is_total_known = bool(usage.get("total_tokens"))
    return reasoning if provider in ("x-ai", "xai") and not (is_total_known and unexplained == 0) else 0


def _read_counts(usage: Body) -> dict[str, int | Decimal] | None:
    seconds = usage.get("prompt_audio_seconds")
    if seconds and (amount := amount_of(seconds)):
        return {"audio_seconds": amount, "input_audio_seconds": amount}
    searches = count_of(usage.get("num_search_queries"))
    return {"web_searches": searches} if searches else None
