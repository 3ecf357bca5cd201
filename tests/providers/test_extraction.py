"""What is read from a response, whatever its provider and its form."""

from __future__ import annotations

import copy
from collections import Counter
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.providers import ProviderUsage, extract
from tests.providers.bodies import EXAMPLES, Example
from tests.providers.shared_data import expected_usage, origin, shared_bodies

# Bodies where we read more than genai-prices' test data expects, and why.
EXCEPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "test_bedrock_cache_messages_with_image_as_last_content": (
        {"cache_write_5m_tokens": 297},
        "cacheDetails states the lifetime of what was written; the data is of before genai-prices read it",
    ),
    "test_google_task_prefix[": (
        {"input_text_tokens": ...},
        "embeddings write promptTokenDetails for promptTokensDetails; models of several modalities need it",
    ),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_body_is_read_as_its_provider_means_it(example: Example) -> None:
    usage = extract(example.body, example.provider)

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (example.input_tokens, example.output_tokens)
    assert usage.classes == example.classes
    assert usage.counts == example.counts
    assert (usage.model, usage.service_tier) == (example.model, example.service_tier)
    assert usage.total_cost is None
    assert not usage.estimated


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_object_is_read_like_its_dict(example: Example) -> None:
    assert extract(as_object(example.body), example.provider) == extract(example.body, example.provider)


def as_object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(item) for key, item in value.items()})
    return [as_object(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_reading_changes_nothing_in_the_body(example: Example) -> None:
    before = copy.deepcopy(example.body)

    extract(example.body, example.provider)

    assert example.body == before


def test_real_bodies_are_read_as_expected(record_property: Any) -> None:
    entries = [*shared_bodies(), *own_entries()]
    providers = Counter[str]()
    excepted = Counter[str]()
    for entry in entries:
        provider, _ = origin(entry)
        usage = extract(entry["body"], provider)
        assert usage is not None, entry
        totals = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        read = {key: value for key, value in {**totals, **usage.breakdown, **usage.counts}.items() if value}
        name = entry["body"]["file"].rpartition("/")[2]
        exception = next((marker for marker in EXCEPTIONS if name.startswith(marker)), None)
        if exception is not None and read != expected_usage(entry):
            for key, value in EXCEPTIONS[exception][0].items():
                assert value is ... or read[key] == value, entry
                del read[key]
            excepted[exception] += 1
        assert read == expected_usage(entry), entry
        assert sum(usage.classes.values()) == usage.total_tokens == usage.input_tokens + usage.output_tokens
        providers[provider] += 1
    record_property("bodies", dict(providers))
    record_property("exceptions", dict(excepted))

    assert sum(providers.values()) == len(entries) >= 2
    assert len(entries) < 700 or set(excepted) == set(EXCEPTIONS)


def own_entries() -> list[dict[str, Any]]:
    """Two entries in the form of the shared data, so that the comparison is made where that is missing."""
    chat = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    message = {"input_tokens": 5, "cache_read_input_tokens": 6, "output_tokens": 1}
    return [
        {
            "body": {"file": "own/chat", "model": "gpt-4o", "usage": chat},
            "extracted": [
                {
                    "extractors": [{"provider_id": "openai", "api_flavor": "chat"}],
                    "usage": {"input_tokens": 7, "output_tokens": 2, "cache_read_tokens": 3},
                }
            ],
        },
        {
            "body": {"file": "own/message", "model": "claude-sonnet-4-5", "usage": message},
            "extracted": [
                {
                    "extractors": [{"provider_id": "anthropic", "api_flavor": "default"}],
                    "usage": {"input_tokens": 11, "output_tokens": 1, "cache_read_tokens": 6},
                }
            ],
        },
    ]


def test_every_shape_is_read_under_an_unknown_name_too() -> None:
    named = {"x-ai", "perplexity"}
    for example in EXAMPLES:
        if example.provider not in named:
            assert extract(example.body, "a proxy of ours") == extract(example.body, example.provider), example.name


@pytest.mark.parametrize(
    "response",
    [
        None,
        "text",
        b"bytes",
        12,
        [],
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": "12 tokens"},
        {"usage": {"credits": 3}},
        {"id": "chatcmpl-1", "choices": [], "usage": None},
        {"input_tokens": 14},
        SimpleNamespace(),
        object(),
    ],
)
def test_a_response_without_usage_has_none(response: object) -> None:
    assert extract(response, "openai") is None


def test_what_an_application_attaches_is_not_taken_for_a_usage() -> None:
    assert extract({"metadata": {"input_tokens": "9", "output_tokens": "9", "prompt_tokens": 9}}, "openai") is None


def test_the_given_model_is_taken_where_the_response_names_none() -> None:
    body = {"usage": {"inputTokens": 1, "outputTokens": 2}}

    assert extract(body, "aws", "anthropic.claude-haiku") == ProviderUsage(1, 2, model="anthropic.claude-haiku")
    assert extract({**body, "model": "nova"}, "aws", "anthropic.claude-haiku") == ProviderUsage(1, 2, model="nova")


def test_a_usage_behind_a_property_is_found() -> None:
    class Response:
        @property
        def usage(self) -> dict[str, int]:
            return {"prompt_tokens": 4, "completion_tokens": 5}

    assert extract(Response(), "openai") == ProviderUsage(4, 5)


def test_an_object_with_slots_is_read() -> None:
    class Usage:
        __slots__ = ("completion_tokens", "prompt_tokens")

        def __init__(self) -> None:
            self.prompt_tokens, self.completion_tokens = 4, 5

    assert extract({"usage": Usage()}, "openai") == ProviderUsage(4, 5)


def test_fractional_seconds_stay_as_they_were_written() -> None:
    usage = extract({"usage": {"type": "duration", "seconds": 12.345}}, "openai")

    assert usage is not None
    assert usage.counts["audio_seconds"] == Decimal("12.345")


detail_fields = st.sampled_from(
    ["tokenCount", "modality", "ttl", "inputTokens", "cached_tokens", "reasoning_tokens", "audio_tokens"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**6) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(detail_fields, inner, max_size=4),
    max_leaves=8,
)
usage_fields = st.sampled_from(
    [
        *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"),
        *("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details", "cache_creation"),
        *("cache_read_input_tokens", "cache_creation_input_tokens", "server_tool_use", "service_tier", "seconds"),
        *("promptTokenCount", "candidatesTokenCount", "promptTokensDetails", "thoughtsTokenCount", "totalTokenCount"),
        *("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheDetails", "billed_units", "tokens"),
        *("total_input_tokens", "total_output_tokens", "pages_processed", "citation_tokens", "num_search_queries"),
    ]
)


@given(
    st.dictionaries(usage_fields, anything, max_size=10),
    st.sampled_from(["openai", "anthropic", "google", "aws", "x-ai", "perplexity", "cohere", "?"]),
)
def test_whatever_a_provider_writes_is_read_and_nothing_counted_twice(usage: dict[str, Any], provider: str) -> None:
    read = extract({"usage": usage, "model": usage.get("tokens")}, provider)

    if read is not None:
        assert sum(read.classes.values()) == read.total_tokens
        assert min(read.classes.values(), default=1) > 0


def test_a_double_of_an_applications_tests_is_read_like_what_it_stands_for() -> None:
    usage = Mock(prompt_tokens=4, completion_tokens=5, completion_tokens_details=Mock(reasoning_tokens=2))

    assert extract(Mock(usage=usage), "openai") == ProviderUsage(4, 5, {"output_reasoning_tokens": 2})
    assert extract(MagicMock(), "openai") is None
