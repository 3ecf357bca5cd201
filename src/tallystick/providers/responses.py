"""Usage in the shape of OpenAI's responses: `input_tokens` and `output_tokens`, both inclusive.

Images, audio transcriptions and realtime sessions use the same names with other details.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, amount_of, count_of, fields_of, read_details, reported_usage, text_of

if TYPE_CHECKING:
    from decimal import Decimal

    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_responses", "read_seconds"]

_INPUT_DETAILS = (
    ("cached_tokens", "cache_read_tokens"),
    ("cache_read_input_tokens", "cache_read_tokens"),
    ("cache_read", "cache_read_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("cache_creation", "cache_write_tokens"),
    ("audio_tokens", "input_audio_tokens"),
    ("audio", "input_audio_tokens"),
    ("image_tokens", "input_image_tokens"),
    ("text_tokens", "input_text_tokens"),
)
_CACHED_DETAILS = (
    ("audio_tokens", "cache_audio_read_tokens"),
    ("image_tokens", "cache_image_read_tokens"),
    ("text_tokens", "cache_text_read_tokens"),
)
_OUTPUT_DETAILS = (
    ("reasoning_tokens", "output_reasoning_tokens"),
    ("reasoning", "output_reasoning_tokens"),
    ("audio_tokens", "output_audio_tokens"),
    ("audio", "output_audio_tokens"),
    ("image_tokens", "output_image_tokens"),
    ("text_tokens", "output_text_tokens"),
)
# The tools that a provider charges for by the call: as output items (OpenAI) and as counts in the usage (xAI).
_TOOL_ITEMS = {"web_search_call": "web_searches", "file_search_call": "storage_searches"}
_TOOL_COUNTS = (
    ("web_search_calls", "web_searches"),
    ("x_search_calls", "social_searches"),
    ("file_search_calls", "storage_searches"),
    ("document_search_calls", "storage_searches"),
    ("code_interpreter_calls", "code_executions"),
)


def read_responses(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read responses, images, transcriptions by tokens, realtime responses, and LangChain's usage metadata."""
    breakdown: dict[str, int] = {}
    details = (
        usage.get("input_tokens_details") or usage.get("input_token_details") or usage.get("prompt_tokens_details")
    )
    if details:
        details = fields_of(details)
        read_details(details, _INPUT_DETAILS, breakdown)
        if details.get("cached_tokens_details"):
            read_details(fields_of(details["cached_tokens_details"]), _CACHED_DETAILS, breakdown)
    details = usage.get("output_tokens_details") or usage.get("output_token_details")
    if details:
        read_details(fields_of(details), _OUTPUT_DETAILS, breakdown)
    return reported_usage(
        body,
        count_of(usage.get("input_tokens")),
        count_of(usage.get("output_tokens")),
        breakdown,
        _read_counts(usage, body),
        tier="batch" if body.get("object") == "batch" else None,
    )


def read_seconds(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read a transcription that is charged by the second of its audio."""
    seconds = amount_of(usage.get("seconds") or usage.get("duration") or usage.get("billable_audio_seconds"))
    return reported_usage(body, 0, 0, {}, {"audio_seconds": seconds, "input_audio_seconds": seconds})


def _read_counts(usage: Body, body: Body) -> dict[str, int | Decimal] | None:
    counts: dict[str, int | Decimal] = {}
    output = body.get("output")
    if type(output) is list:
        for item in output:
            fields = fields_of(item)
            key = _TOOL_ITEMS.get(text_of(fields.get("type")) or "")
            # Opening a found page is a web search call as well, but is not charged.
            if key and fields_of(fields.get("action")).get("type", "search") == "search":
                counts[key] = counts.get(key, 0) + 1
    reported = usage.get("server_side_tool_usage_details")
    if reported:
        for name, key in _TOOL_COUNTS:
            calls = count_of(fields_of(reported).get(name))
            if calls:
                counts[key] = counts.get(key, 0) + calls
    seconds = amount_of(usage.get("billable_audio_seconds"))
    if seconds:
        counts["audio_seconds"] = seconds
        counts["input_text_messages"] = count_of(usage.get("input_text_messages"))
    searches = count_of(fields_of(fields_of(usage.get("tool_calls_details")).get("search_web")).get("invocation"))
    if searches:
        counts["web_searches"] = searches
    return counts
