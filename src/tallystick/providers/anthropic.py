"""Usage in the shape of Anthropic's messages: `input_tokens` leaves out what was read from or written to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, count_of, fields_of, reported_usage

if TYPE_CHECKING:
    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_anthropic"]


def read_anthropic(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read a message. The input total is the sum of its three disjoint parts.

    A compaction of the context stands in `usage.iterations` only and is added. What an advisor of another model used
    stands there as well; it is not part of this call's model and is not read.
    """
    input_tokens, output_tokens, breakdown = _read_parts(usage)
    iterations = usage.get("iterations")
    for iteration in iterations if isinstance(iterations, list) else ():
        fields = fields_of(iteration)
        if fields.get("type") == "compaction":
            more_input, more_output, parts = _read_parts(fields)
            input_tokens += more_input
            output_tokens += more_output
            for key, tokens in parts.items():
                breakdown[key] = breakdown.get(key, 0) + tokens
    tools = usage.get("server_tool_use")
    searches = count_of(fields_of(tools).get("web_search_requests")) if tools else 0
    return reported_usage(
        body,
        input_tokens,
        output_tokens,
        breakdown,
        {"web_searches": searches} if searches else None,
        # The fast mode is priced like a tier; its `service_tier` says "standard" all the same.
        tier="fast" if usage.get("speed") == "fast" else usage.get("service_tier"),
    )


def _read_parts(usage: Body) -> tuple[int, int, dict[str, int]]:
    """Return input, output and the breakdown of a message or of one iteration of it."""
    cache_read = count_of(usage.get("cache_read_input_tokens"))
    cache_write = count_of(usage.get("cache_creation_input_tokens"))
    breakdown: dict[str, int] = {}
    if cache_read:
        breakdown["cache_read_tokens"] = cache_read
    written = usage.get("cache_creation")
    if written:
        written = fields_of(written)
        written_5m = count_of(written.get("ephemeral_5m_input_tokens"))
        written_1h = count_of(written.get("ephemeral_1h_input_tokens"))
        if written_5m:
            breakdown["cache_write_5m_tokens"] = written_5m
        if written_1h:
            breakdown["cache_write_1h_tokens"] = written_1h
        cache_write = max(cache_write, written_5m + written_1h)
    if cache_write:
        breakdown["cache_write_tokens"] = cache_write
    details = usage.get("output_tokens_details")
    if details:
        thinking = count_of(fields_of(details).get("thinking_tokens"))
        if thinking:
            breakdown["output_reasoning_tokens"] = thinking
    input_tokens = count_of(usage.get("input_tokens")) + cache_read + cache_write
    return input_tokens, count_of(usage.get("output_tokens")), breakdown
