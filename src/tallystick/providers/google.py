"""Usage of Gemini: `usageMetadata` of generateContent and Live, and the usage of an interaction.

The REST API writes camel case and the SDK snake case; both are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tallystick.providers.body import Body, count_of, fields_of, reported_usage
from tallystick.providers.units import INPUT, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tallystick.providers.usage import ProviderUsage

__all__ = ["read_gemini", "read_interaction"]

# A document's pages are counted and charged as images.
_MODALITIES = {"TEXT": "text", "AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}
_INPUT = INPUT.plain.keys
_OUTPUT = OUTPUT.plain.keys
_CACHED = INPUT.kinds[0].keys
_TOOL = INPUT.kinds[-1].keys


def read_gemini(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read `usageMetadata`. Prompts of tools are input, and thoughts are output, beside the two counts of that name."""
    tool = count_of(_either(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count"))
    thoughts = count_of(_either(usage, "thoughtsTokenCount", "thoughts_token_count"))
    cached = count_of(_either(usage, "cachedContentTokenCount", "cached_content_token_count"))
    prompt = count_of(_either(usage, "promptTokenCount", "prompt_token_count"))
    answer = count_of(
        _either(usage, "candidatesTokenCount", "candidates_token_count")
        or _either(usage, "responseTokenCount", "response_token_count")
    )
    breakdown = {
        key: tokens
        for key, tokens in (
            ("cache_read_tokens", cached),
            ("input_tool_tokens", tool),
            ("output_reasoning_tokens", thoughts),
        )
        if tokens
    }
    prompt_details = _either(usage, "promptTokensDetails", "prompt_tokens_details") or _either(
        usage, "promptTokenDetails", "prompt_token_details"
    )
    answer_details = _either(usage, "candidatesTokensDetails", "candidates_tokens_details") or _either(
        usage, "responseTokensDetails", "response_tokens_details"
    )
    tool_details = _either(usage, "toolUsePromptTokensDetails", "tool_use_prompt_tokens_details")
    _read_modalities(prompt_details, breakdown, _INPUT)
    _read_modalities(answer_details, breakdown, _OUTPUT)
    _read_modalities(_either(usage, "cacheTokensDetails", "cache_tokens_details"), breakdown, _CACHED)
    _read_modalities(tool_details, breakdown, _INPUT, _TOOL)
    tier = _either(usage, "serviceTier", "service_tier")
    return reported_usage(body, prompt + tool, answer + thoughts, breakdown, tier=tier)


def read_interaction(usage: Body, body: Body, provider: str) -> ProviderUsage:  # noqa: ARG001 - all readers are called alike
    """Read the usage of an interaction, whose counts are the same under other names."""
    tool = count_of(usage.get("total_tool_use_tokens"))
    thoughts = count_of(usage.get("total_thought_tokens"))
    cached = count_of(usage.get("total_cached_tokens"))
    breakdown = {
        key: tokens
        for key, tokens in (
            ("cache_read_tokens", cached),
            ("input_tool_tokens", tool),
            ("output_reasoning_tokens", thoughts),
        )
        if tokens
    }
    _read_modalities(usage.get("input_tokens_by_modality"), breakdown, _INPUT)
    _read_modalities(usage.get("output_tokens_by_modality"), breakdown, _OUTPUT)
    _read_modalities(usage.get("cached_tokens_by_modality"), breakdown, _CACHED)
    _read_modalities(usage.get("tool_use_tokens_by_modality"), breakdown, _INPUT, _TOOL)
    return reported_usage(
        body,
        count_of(usage.get("total_input_tokens")) + tool,
        count_of(usage.get("total_output_tokens")) + thoughts,
        breakdown,
    )


def _either(usage: Body, camel: str, snake: str) -> Any:
    value = usage.get(camel)
    return usage.get(snake) if value is None else value


def _read_modalities(details: object, breakdown: dict[str, int], *destinations: Mapping[str, str]) -> None:
    if not isinstance(details, list | tuple):
        return
    for detail in details:
        fields = fields_of(detail)
        named = getattr(fields.get("modality"), "value", fields.get("modality"))
        modality = _MODALITIES.get(named.upper()) if isinstance(named, str) else None
        tokens = count_of(fields.get("tokenCount") or fields.get("token_count") or fields.get("tokens"))
        if modality and tokens:
            for keys in destinations:
                breakdown[keys[modality]] = breakdown.get(keys[modality], 0) + tokens
