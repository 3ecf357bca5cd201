"""Usage of Amazon Bedrock's Converse: `inputTokens` leaves out what was read from or written to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.body import Body, count_of, fields_of, reported_usage, text_of

if TYPE_CHECKING:
    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_bedrock"]

_WRITE_KEYS = {"5m": "cache_write_5m_tokens", "1h": "cache_write_1h_tokens"}


def read_bedrock(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read Converse's usage. The input total is the sum of its three disjoint parts."""
    cache_read = count_of(usage.get("cacheReadInputTokens") or usage.get("cacheReadInputTokenCount"))
    cache_write = count_of(usage.get("cacheWriteInputTokens") or usage.get("cacheWriteInputTokenCount"))
    breakdown: dict[str, int] = {}
    if cache_read:
        breakdown["cache_read_tokens"] = cache_read
    written = 0
    details = usage.get("cacheDetails")
    for detail in details if isinstance(details, list) else ():
        fields = fields_of(detail)
        key = _WRITE_KEYS.get(text_of(fields.get("ttl")) or "")
        tokens = count_of(fields.get("inputTokens"))
        if key and tokens:
            breakdown[key] = breakdown.get(key, 0) + tokens
            written += tokens
    cache_write = max(cache_write, written)
    if cache_write:
        breakdown["cache_write_tokens"] = cache_write
    return reported_usage(
        body,
        count_of(usage.get("inputTokens")) + cache_read + cache_write,
        count_of(usage.get("outputTokens")),
        breakdown,
        tier=body.get("serviceTier"),
    )
