"""Usage in the shape of Anthropic's messages: `input_tokens` leaves out what was read from or written to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, count_of, fields_of, reported_usage

if TYPE_CHECKING:
    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_anthropic"]


def read_anthropic(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read a message. The input total is the sum of its three disjoint parts.

    What a tool or a compaction used of another model stands in `usage.iterations` only; it is not part of this call's
    model and is not read here.
    """
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
    tools = usage.get("server_tool_use")
    searches = count_of(fields_of(tools).get("web_search_requests")) if tools else 0
    return reported_usage(
        body,
        count_of(usage.get("input_tokens")) + cache_read + cache_write,
        count_of(usage.get("output_tokens")),
        breakdown,
        {"web_searches": searches} if searches else None,
        # The fast mode is priced like a tier; its `service_tier` says "standard" all the same.
        tier="fast" if usage.get("speed") == "fast" else usage.get("service_tier"),
    )
