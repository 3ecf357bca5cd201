"""Usage collected from the chunks of a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest
from google.genai import types as google_types
from mistralai.client import models as mistral_models

from tallystick.providers import ProviderUsage, StreamUsage
from tests.providers.test_extraction import as_object

if TYPE_CHECKING:
    from collections.abc import Iterable

CHAT: list[dict[str, Any]] = [
    {"id": "c1", "model": "gpt-4o-mini", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": None},
    {
        "id": "c1",
        "model": "gpt-4o-mini",
        "object": "chat.completion.chunk",
        "created": 1,
        "choices": [{"index": 0, "delta": {"content": "Hi."}, "finish_reason": "stop"}],
        "service_tier": "default",
    },
    {
        "id": "c1",
        "model": "gpt-4o-mini",
        "object": "chat.completion.chunk",
        "created": 1,
        "choices": [],
        "service_tier": "default",
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 7,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 10},
        },
    },
]
CHAT_USAGE = ProviderUsage(
    20, 7, {"cache_read_tokens": 10}, model="gpt-4o-mini", service_tier="default", response_id="c1"
)

RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": {"id": "r1", "model": "gpt-5", "usage": None}},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Hi."},
    {
        "type": "response.completed",
        "sequence_number": 2,
        "response": {
            "id": "r1",
            "model": "gpt-5",
            "output": [{"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search"}}],
            "usage": {
                "input_tokens": 30,
                "output_tokens": 9,
                "total_tokens": 39,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 4},
            },
        },
    },
]
RESPONSES_USAGE = ProviderUsage(
    30, 9, {"output_reasoning_tokens": 4}, {"web_searches": 1}, model="gpt-5", response_id="r1"
)

MESSAGE: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 25,
                "cache_read_input_tokens": 40,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 1,
                "service_tier": "standard",
            },
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi."}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 15, "input_tokens": None},
    },
    {"type": "message_stop"},
]
MESSAGE_USAGE = ProviderUsage(
    70,
    15,
    {"cache_read_tokens": 40, "cache_write_5m_tokens": 5, "cache_write_tokens": 5},
    model="claude-sonnet-4-5",
    service_tier="standard",
    response_id="m1",
)

GEMINI = [
    {
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {
            "promptTokenCount": 12,
            "candidatesTokenCount": answer,
            "thoughtsTokenCount": thoughts,
            "totalTokenCount": 12 + (answer or 0) + (thoughts or 0),
        },
    }
    for answer, thoughts in ((None, None), (4, 8), (9, 8))
]
GEMINI_USAGE = ProviderUsage(12, 17, {"output_reasoning_tokens": 8}, model="gemini-2.5-flash")

BEDROCK = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"delta": {"text": "Hi."}, "contentBlockIndex": 0}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"metadata": {"usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}, "metrics": {"latencyMs": 5}}},
]
GROQ = [
    {"id": "g1", "model": "llama-3.3-70b-versatile", "x_groq": {"id": "req_1"}, "choices": []},
    {
        "id": "g1",
        "model": "llama-3.3-70b-versatile",
        "choices": [],
        "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    },
]
COHERE = [
    {"type": "message-start", "id": "c1"},
    {"type": "content-delta", "delta": {"message": {"content": {"text": "Hi."}}}},
    {
        "type": "message-end",
        "delta": {
            "finish_reason": "COMPLETE",
            "usage": {"billed_units": {"input_tokens": 2, "output_tokens": 3}, "tokens": {"input_tokens": 90}},
        },
    },
]
MISTRAL = [
    {"data": {"id": "s1", "model": "mistral-small-latest", "choices": []}},
    {
        "data": {
            "id": "s1",
            "model": "mistral-small-latest",
            "choices": [],
            "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
        }
    },
]
STREAMS: dict[str, tuple[str, list[Any], ProviderUsage]] = {
    "openai chat": ("openai", CHAT, CHAT_USAGE),
    "openai responses": ("openai", RESPONSES, RESPONSES_USAGE),
    "anthropic": ("anthropic", MESSAGE, MESSAGE_USAGE),
    "gemini": ("google", GEMINI, GEMINI_USAGE),
    "bedrock": ("aws", BEDROCK, ProviderUsage(7, 2)),
    "groq": ("groq", GROQ, ProviderUsage(3, 4, model="llama-3.3-70b-versatile", response_id="req_1")),
    "cohere": ("cohere", COHERE, ProviderUsage(2, 3)),
    "mistral": ("mistral", MISTRAL, ProviderUsage(5, 6, model="mistral-small-latest", response_id="s1")),
}


def usage_of(provider: str, chunks: Iterable[object], model: str | None = None) -> ProviderUsage | None:
    stream = StreamUsage(provider, model)
    for chunk in chunks:
        stream.feed(chunk)
    return stream.usage()


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_ends_with_its_usage(name: str) -> None:
    provider, chunks, expected = STREAMS[name]

    assert usage_of(provider, chunks) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_chunks_may_be_objects(name: str) -> None:
    provider, chunks, expected = STREAMS[name]

    assert usage_of(provider, [as_object(chunk) for chunk in chunks]) == expected


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in ("anthropic", "gemini")])
def test_a_stream_that_broke_off_before_its_usage_has_none(name: str) -> None:
    provider, chunks, _ = STREAMS[name]

    assert usage_of(provider, chunks[:-1]) is None


def test_a_message_that_broke_off_is_an_estimate() -> None:
    usage = usage_of("anthropic", MESSAGE[:3])

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (70, 1, True)


def test_numbers_of_a_stream_are_never_added_up() -> None:
    usage = usage_of("google", [*GEMINI, GEMINI[-1], GEMINI[-1]])

    assert usage == GEMINI_USAGE


def test_the_given_model_stays_where_no_chunk_names_one() -> None:
    usage = usage_of("aws", BEDROCK, "amazon.nova-lite")

    assert usage is not None
    assert usage.model == "amazon.nova-lite"


def test_the_usage_may_be_asked_for_at_any_time() -> None:
    stream = StreamUsage("google")
    totals = []
    for chunk in GEMINI:
        stream.feed(chunk)
        usage = stream.usage()
        totals.append(usage.total_tokens if usage is not None else None)

    assert totals == [12, 24, 29]


def streaming(events: list[dict[str, Any]], *, with_names: bool) -> httpx2.MockTransport:
    lines = [(f"event: {event['type']}\n" if with_names else "") + f"data: {json.dumps(event)}\n\n" for event in events]
    content = "".join(lines) + ("" if with_names else "data: [DONE]\n\n")
    headers = {"content-type": "text/event-stream"}
    return httpx2.MockTransport(
        lambda request: httpx2.Response(200, content=content.encode(), headers=headers, request=request)
    )


def test_chunks_of_the_openai_sdk_are_read() -> None:
    client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=streaming(CHAT, with_names=False)))
    chunks = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}], stream=True
    )

    assert usage_of("openai", chunks) == CHAT_USAGE


def test_events_of_openai_responses_are_read() -> None:
    client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=streaming(RESPONSES, with_names=True)))

    assert usage_of("openai", client.responses.create(model="gpt-5", input="Hello", stream=True)) == RESPONSES_USAGE


def test_events_of_the_anthropic_sdk_are_read() -> None:
    transport = streaming(MESSAGE, with_names=True)
    client = anthropic.Anthropic(api_key="k", http_client=httpx2.Client(transport=transport))
    ask: dict[str, Any] = {
        "model": "claude-opus-5",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "Hello"}],
    }

    assert usage_of("anthropic", client.messages.create(**ask, stream=True)) == MESSAGE_USAGE
    with client.messages.stream(**ask) as events:
        assert usage_of("anthropic", events) == MESSAGE_USAGE


def test_chunks_of_the_google_sdk_are_read() -> None:
    chunks = [google_types.GenerateContentResponse.model_validate(chunk) for chunk in GEMINI]

    assert usage_of("google", chunks) == GEMINI_USAGE


def test_events_of_the_mistral_sdk_are_read() -> None:
    assert (
        usage_of("mistral", [mistral_models.CompletionEvent.model_validate(event) for event in MISTRAL])
        == STREAMS["mistral"][2]
    )
