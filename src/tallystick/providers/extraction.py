"""Finding the usage in a response and choosing the reader by its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tallystick.providers.anthropic import read_anthropic
from tallystick.providers.bedrock import read_bedrock
from tallystick.providers.body import Body, fields_of, unwrapped
from tallystick.providers.chat import read_chat
from tallystick.providers.cohere import read_cohere
from tallystick.providers.google import read_gemini, read_interaction
from tallystick.providers.mistral import read_pages
from tallystick.providers.responses import read_responses, read_seconds
from tallystick.providers.usage import ProviderUsage

__all__ = ["Found", "extract", "find_usage", "read_usage"]

Reader = Callable[[Body, Body, str], ProviderUsage]

# Where the usage stands in a body, and what a body may be wrapped in: an event of a stream, a line of a batch result.
_USAGE_FIELDS = ("usage", "usageMetadata", "usage_metadata", "usage_info", "tokenUsage", "meta")
_WRAPPERS = ("response", "message", "interaction", "data", "delta", "metadata", "x_groq", "body", "result")
_WRAPPER_DEPTH = 3
# Bodies that carry their two counts themselves: Ollama, Llama on Bedrock's InvokeModel.
_BARE_PAIRS = (("prompt_eval_count", "eval_count"), ("prompt_token_count", "generation_token_count"))

# The first field that a usage has decides its shape, in this order.
_READERS: tuple[tuple[str, Reader], ...] = (
    ("prompt_tokens", read_chat),
    ("completion_tokens", read_chat),
    ("promptTokenCount", read_gemini),
    ("prompt_token_count", read_gemini),
    ("totalTokenCount", read_gemini),
    ("total_token_count", read_gemini),
    ("total_input_tokens", read_interaction),
    ("inputTokens", read_bedrock),
    ("outputTokens", read_bedrock),
    ("billed_units", read_cohere),
    ("tokens", read_cohere),
    ("cache_read_input_tokens", read_anthropic),
    ("cache_creation_input_tokens", read_anthropic),
    ("input_tokens", read_responses),
    ("output_tokens", read_responses),
    ("pages_processed", read_pages),
    ("seconds", read_seconds),
    ("billable_audio_seconds", read_responses),
    ("total_tokens", read_chat),
)


class Found(NamedTuple):
    """A usage as it was reported, and the body that it stood in."""

    usage: Body
    body: Body


def extract(response: object, provider: str, model: str | None = None) -> ProviderUsage | None:
    """Return what a response used, or None when it carries no usage.

    The response is an SDK's object, a raw response of one, or its JSON as a dict. Its shape decides how it is read;
    the provider's name only tells apart what shapes leave open, so an unknown provider is read as well. `model` is
    taken where the response names none. Numbers that make no sense are read as zero: a response that was paid for is
    never refused.
    """
    found = find_usage(fields_of(response)) or _find_in_object(response)
    if found is None:
        return None
    usage = read_usage(found, provider)
    return replace(usage, model=model) if usage is not None and usage.model is None and model else usage


def read_usage(found: Found, provider: str) -> ProviderUsage | None:
    """Return the usage read by the reader of its shape; None when it has the shape of none."""
    reader = _reader_of(found.usage)
    if reader is None:
        return None
    if reader is read_responses and _is_anthropic(found):
        reader = read_anthropic
    return reader(found.usage, found.body, provider.lower())


def _reader_of(usage: Body) -> Reader | None:
    for name, reader in _READERS:
        if name in usage:
            return reader
    return None


def find_usage(body: Body, depth: int = 0) -> Found | None:
    """Return the usage of a body, of what it wraps, or of a body that is itself a usage."""
    for name in _USAGE_FIELDS:
        usage = body.get(name)
        if usage is not None:
            fields = fields_of(usage)
            if _reader_of(fields) is not None:
                return Found(fields, body)
    if depth < _WRAPPER_DEPTH:
        for name in _WRAPPERS:
            wrapped = body.get(name)
            if wrapped is not None:
                found = find_usage(fields_of(wrapped), depth + 1)
                if found is not None:
                    return found._replace(body=_with_outer(found.body, body))
    # Only the body itself: what it carries along, such as the application's metadata, is not taken for a usage.
    return _bare_usage(body) if depth == 0 else None


def _with_outer(inner: Body, outer: Body) -> Body:
    """Return the wrapped body with what only the wrapper knows: the model of a chunk, or that this is a batch."""
    named = {name: outer[name] for name in ("model", "id", "output") if outer.get(name) and not inner.get(name)}
    if "custom_id" in outer:
        # A line of a batch result says "default" like any other response; the batch's own price applies.
        named["service_tier"] = "batch"
    return {**inner, **named} if named else inner


def _bare_usage(body: Body) -> Found | None:
    if "prompt_tokens" in body or ("input_tokens" in body and "output_tokens" in body) or "promptTokenCount" in body:
        return Found(body, {})
    for input_name, output_name in _BARE_PAIRS:
        if input_name in body and output_name in body:
            return Found({"prompt_tokens": body[input_name], "completion_tokens": body[output_name]}, body)
    if "prompt_token_count" in body or "total_input_tokens" in body or "billed_units" in body:
        return Found(body, {})
    if "text" in body and body.get("duration"):
        # A verbose transcription of before transcriptions had a usage.
        return Found({"seconds": body["duration"]}, body)
    return None


def _find_in_object(response: object) -> Found | None:
    """Look again through attributes, which may be properties, and into a raw response."""
    for name in _USAGE_FIELDS:
        fields = fields_of(getattr(response, name, None))
        if _reader_of(fields) is not None:
            return Found(fields, fields_of(response))
    return find_usage(fields_of(unwrapped(response)))


def _is_anthropic(found: Found) -> bool:
    if "input_tokens_details" in found.usage or "input_token_details" in found.usage:
        return False
    kind = found.body.get("type")
    return isinstance(kind, str) and kind.startswith("message")
