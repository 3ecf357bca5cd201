"""The provider server speaks to the providers' own SDKs, and counts what it really answered."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from hypothesis import given, settings
from hypothesis import strategies as st
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from tallystick.demo.provider_server import ProviderServer, ServedRequest
from tallystick.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai.types.chat import ChatCompletionMessageParam

QUESTION = "How does one count what was used?"
LONG_TEXT = "The archive keeps every page of the old river book. " * 120
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "google": "/v1beta/models/gemini-2.5-flash:generateContent",
    "mistral": "/mistral/v1/chat/completions",
    "acme": "/acme/v1/rewrite",
}


@pytest.fixture(scope="module")
def quick() -> Iterator[ProviderServer]:
    """A server without waiting, for tests that look only at answers."""
    with ProviderServer(latency_seconds=0, chunk_seconds=0) as server:
        yield server


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """A server of this test alone, for tests that look at counters, caches or failures."""
    with ProviderServer(latency_seconds=0, chunk_seconds=0) as server:
        yield server


def openai_client(server: ProviderServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def anthropic_client(server: ProviderServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def gemini_client(server: ProviderServer) -> genai.Client:
    return genai.Client(api_key="none", http_options=genai_types.HttpOptions(base_url=server.url))


def mistral_client(server: ProviderServer) -> Mistral:
    return Mistral(api_key="none", server_url=f"{server.url}/mistral")


def connect(server: ProviderServer) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10))


def post(
    server: ProviderServer, path: str, body: object, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """Send one request by hand, and return its status, headers and decoded body."""
    with connect(server) as connection:
        connection.request("POST", path, json.dumps(body), headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, json.load(response)


def ask_openai(server: ProviderServer, *, model: str = "gpt-4o-mini") -> str:
    with openai_client(server) as client:
        return client.chat.completions.create(model=model, messages=MESSAGES).choices[0].message.content or ""


# -- OpenAI -----------------------------------------------------------------------------------------------------


def test_an_openai_chat_answers_with_text_and_usage_that_adds_up(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        completion = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-4o-mini-2024-07-18"
    assert completion.usage
    assert completion.usage.prompt_tokens > 0
    assert completion.usage.completion_tokens > 0
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_a_longer_prompt_costs_more_tokens(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        short, long = (
            client.embeddings.create(model="text-embedding-3-small", input=text).usage.prompt_tokens
            for text in ("abcd", "abcd" * 10)
        )
    assert (short, long) == (1, 10)


def test_max_tokens_cuts_the_answer(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        completion = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, max_tokens=5)
    assert completion.usage
    assert completion.usage.completion_tokens == 5
    assert completion.choices[0].finish_reason == "length"


def test_a_chat_stream_gives_usage_only_where_it_is_asked_for(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        plain = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        without = list(client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True))
        with_usage = list(
            client.chat.completions.create(
                model="gpt-4o-mini", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
    assert not any("usage" in chunk.model_fields_set for chunk in without)
    assert all(chunk.choices for chunk in without)
    *before, last = with_usage
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in before)
    assert last.choices == []
    assert last.usage == plain.usage
    for chunks in (without, before):
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
        assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]


def test_stream_options_without_a_stream_are_refused(quick: ProviderServer) -> None:
    with openai_client(quick) as client, pytest.raises(openai.BadRequestError, match="stream_options"):
        client.chat.completions.create(
            model="gpt-4o-mini", messages=MESSAGES, extra_body={"stream_options": {"include_usage": True}}
        )


@pytest.mark.parametrize(
    ("model", "reasons"), [("o3-mini", True), ("gpt-5-mini", True), ("gpt-5-chat-latest", False), ("gpt-4o", False)]
)
def test_only_reasoning_models_report_reasoning_tokens(quick: ProviderServer, model: str, reasons: bool) -> None:
    with openai_client(quick) as client:
        usage = client.chat.completions.create(model=model, messages=MESSAGES).usage
    assert usage
    assert usage.completion_tokens_details
    assert bool(usage.completion_tokens_details.reasoning_tokens) is reasons
    assert (usage.completion_tokens_details.reasoning_tokens or 0) < usage.completion_tokens


def test_reasoning_counts_against_the_maximum_and_can_leave_no_text(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        completion = client.chat.completions.create(model="gpt-5", messages=MESSAGES, max_completion_tokens=20)
    assert completion.choices[0].message.content == ""
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage
    assert completion.usage.completion_tokens == 20


def test_a_repeated_long_beginning_is_cached_from_its_second_call_on(server: ProviderServer) -> None:
    def cached_tokens(question: str) -> int | None:
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": LONG_TEXT},
            {"role": "user", "content": question},
        ]
        usage = client.chat.completions.create(model="gpt-4o-mini", messages=messages).usage
        assert usage
        assert usage.prompt_tokens_details
        return usage.prompt_tokens_details.cached_tokens

    with openai_client(server) as client:
        first, second = cached_tokens("Who wrote it?"), cached_tokens("When was it written?")
    assert first == 0
    assert second is not None
    assert second >= 1024
    assert second % 128 == 0


def test_the_responses_api_answers_plainly_and_as_events_alike(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        plain = client.responses.create(model="gpt-5", input=QUESTION, instructions="Be brief.")
        events = list(client.responses.create(model="gpt-5", input=QUESTION, instructions="Be brief.", stream=True))
    assert events[0].type == "response.created"
    assert events[0].response.usage is None
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == plain.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage == plain.usage
    assert last.response.output_text == plain.output_text
    assert plain.usage
    assert plain.usage.output_tokens_details.reasoning_tokens > 0
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens


def test_a_response_that_reaches_its_maximum_is_incomplete(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        events = list(client.responses.create(model="gpt-4o", input=QUESTION, max_output_tokens=16, stream=True))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage
    assert last.response.usage.output_tokens == 16


def test_embeddings_are_unit_vectors_that_depend_on_the_text_alone(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        # The SDK asks for base64 unless told otherwise.
        both = client.embeddings.create(model="text-embedding-3-small", input=["river", "mill"])
        one = client.embeddings.create(model="text-embedding-3-small", input="mill", encoding_format="float")
        small = client.embeddings.create(model="text-embedding-3-large", input="mill", dimensions=256)
    assert len(one.data[0].embedding) == 1536
    assert len(small.data[0].embedding) == 256
    assert both.data[1].embedding == pytest.approx(one.data[0].embedding, abs=1e-6)
    assert both.data[0].embedding != both.data[1].embedding
    assert sum(number * number for number in both.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
    assert both.usage.prompt_tokens == both.usage.total_tokens == 3


def test_listing_the_models_is_not_a_call(server: ProviderServer) -> None:
    with openai_client(server) as client:
        assert "gpt-4o-mini" in [model.id for model in client.models.list()]
    assert server.calls == 0


# -- Anthropic --------------------------------------------------------------------------------------------------


def test_an_anthropic_stream_starts_with_the_input_and_ends_with_cumulative_usage(quick: ProviderServer) -> None:
    with anthropic_client(quick) as client:
        message: anthropic.types.MessageParam = {"role": "user", "content": QUESTION}
        plain = client.messages.create(model="claude-sonnet-5", max_tokens=400, messages=[message])
        events = list(client.messages.create(model="claude-sonnet-5", max_tokens=400, messages=[message], stream=True))
        with client.messages.stream(model="claude-sonnet-5", max_tokens=400, messages=[message]) as stream:
            gathered = stream.get_final_message()
    assert [event.type for event in events if event.type != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, delta = events[0], events[-2]
    assert start.type == "message_start"
    assert delta.type == "message_delta"
    assert start.message.usage.input_tokens == delta.usage.input_tokens == plain.usage.input_tokens
    assert start.message.usage.output_tokens < delta.usage.output_tokens == plain.usage.output_tokens
    assert delta.delta.stop_reason == plain.stop_reason == "end_turn"
    assert [block.text for block in gathered.content if block.type == "text"] == [
        block.text for block in plain.content if block.type == "text"
    ]


@pytest.mark.parametrize("lifetime", ["5m", "1h"])
def test_a_marked_beginning_is_written_once_and_then_read(server: ProviderServer, lifetime: Any) -> None:
    def usage_of(question: str, *, marked: bool = True) -> anthropic.types.Usage:
        block: anthropic.types.TextBlockParam = {"type": "text", "text": LONG_TEXT}
        if marked:
            block["cache_control"] = {"type": "ephemeral", "ttl": lifetime}
        return client.messages.create(
            model="claude-sonnet-5", max_tokens=50, system=[block], messages=[{"role": "user", "content": question}]
        ).usage

    with anthropic_client(server) as client:
        unmarked, written, read = usage_of(QUESTION, marked=False), usage_of(QUESTION), usage_of(QUESTION)
    creation = written.cache_creation
    assert creation
    at_lifetime = {"5m": creation.ephemeral_5m_input_tokens, "1h": creation.ephemeral_1h_input_tokens}
    assert at_lifetime[lifetime] == sum(at_lifetime.values()) == written.cache_creation_input_tokens
    assert (unmarked.cache_creation_input_tokens, unmarked.cache_read_input_tokens) == (0, 0)
    assert written.cache_read_input_tokens == 0
    assert read.cache_creation_input_tokens == 0
    assert read.cache_read_input_tokens == written.cache_creation_input_tokens == 1560
    # The classes are disjoint: the prompt is as long as before.
    assert read.input_tokens == written.input_tokens == unmarked.input_tokens - 1560


def test_a_longer_marked_beginning_writes_only_what_is_new(server: ProviderServer) -> None:
    def usage_of(*texts: str) -> anthropic.types.Usage:
        blocks: list[anthropic.types.TextBlockParam] = [
            {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in texts
        ]
        return client.messages.create(
            model="claude-sonnet-5", max_tokens=50, system=blocks, messages=[{"role": "user", "content": QUESTION}]
        ).usage

    with anthropic_client(server) as client:
        usage_of(LONG_TEXT)
        longer = usage_of(LONG_TEXT, "And one more page. ")
    assert (longer.cache_read_input_tokens, longer.cache_creation_input_tokens) == (1560, 5)


def test_anthropic_needs_a_maximum(quick: ProviderServer) -> None:
    status, _, body = post(quick, PATHS["anthropic"], {"model": "claude-sonnet-5", "messages": MESSAGES})
    assert status == 400
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert "max_tokens" in body["error"]["message"]


# -- Gemini and Mistral -----------------------------------------------------------------------------------------


def test_a_gemini_stream_repeats_its_growing_usage_up_to_that_of_the_plain_answer(quick: ProviderServer) -> None:
    with gemini_client(quick) as client:
        plain = client.models.generate_content(model="gemini-2.5-flash", contents=QUESTION)
        parts = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents=QUESTION))
    totals = [part.usage_metadata.total_token_count or 0 for part in parts if part.usage_metadata]
    assert len(totals) == len(parts) > 1
    assert totals == sorted(totals)
    assert parts[-1].usage_metadata == plain.usage_metadata
    assert "".join(part.text or "" for part in parts) == plain.text
    usage = plain.usage_metadata
    assert usage
    assert usage.total_token_count == sum(
        count or 0 for count in (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count)
    )


@pytest.mark.parametrize(
    ("model", "budget", "thinks"),
    [
        ("gemini-2.0-flash", None, False),
        ("gemini-2.5-flash", None, True),
        ("gemini-2.5-flash", 0, False),
        ("gemini-3.5-flash", -1, True),
    ],
)
def test_gemini_thinks_from_2_5_on_unless_its_budget_is_zero(
    quick: ProviderServer, model: str, budget: int | None, thinks: bool
) -> None:
    thinking = None if budget is None else genai_types.ThinkingConfig(thinking_budget=budget)
    config = genai_types.GenerateContentConfig(thinking_config=thinking)
    with gemini_client(quick) as client:
        usage = client.models.generate_content(model=model, contents=QUESTION, config=config).usage_metadata
    assert usage
    assert bool(usage.thoughts_token_count) is thinks


def test_gemini_thoughts_count_against_the_maximum(quick: ProviderServer) -> None:
    config = genai_types.GenerateContentConfig(max_output_tokens=10)
    with gemini_client(quick) as client:
        answer = client.models.generate_content(model="gemini-2.5-pro", contents=QUESTION, config=config)
    assert answer.candidates
    assert answer.candidates[0].finish_reason == genai_types.FinishReason.MAX_TOKENS
    assert answer.usage_metadata
    assert answer.usage_metadata.thoughts_token_count == 10
    assert answer.usage_metadata.candidates_token_count is None


def test_a_mistral_stream_ends_with_the_usage_of_the_plain_answer(quick: ProviderServer) -> None:
    with mistral_client(quick) as client:
        plain = client.chat.complete(model="mistral-small-latest", messages=[{"role": "user", "content": QUESTION}])
        with client.chat.stream(
            model="mistral-small-latest", messages=[{"role": "user", "content": QUESTION}]
        ) as stream:
            chunks = [event.data for event in stream]
    *before, last = chunks
    assert all(chunk.usage is None for chunk in before)
    assert last.usage == plain.usage
    assert plain.usage.total_tokens == (plain.usage.prompt_tokens or 0) + (plain.usage.completion_tokens or 0)
    message = plain.choices[0].message
    assert message
    assert "".join(str(chunk.choices[0].delta.content) for chunk in chunks) == message.content


# -- The home-made provider -------------------------------------------------------------------------------------


def test_the_home_made_provider_bills_characters(server: ProviderServer) -> None:
    status, _, body = post(server, PATHS["acme"], {"text": QUESTION})
    assert status == 200
    assert body["billing"] == {"characters_in": len(QUESTION), "characters_out": len(body["rewritten"])}
    [served] = server.requests
    assert served.unit == "characters"
    assert (served.input_quantity, served.output_quantity) == (len(QUESTION), len(body["rewritten"]))


# -- Asynchronous clients ---------------------------------------------------------------------------------------


def test_the_asynchronous_clients_are_served_too(server: ProviderServer) -> None:
    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
            from_openai = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as claude:
            message = await claude.messages.create(
                model="claude-sonnet-5", max_tokens=400, messages=[{"role": "user", "content": QUESTION}]
            )
        async with gemini_client(server).aio as gemini:
            content = await gemini.models.generate_content(model="gemini-2.5-flash", contents=QUESTION)
        async with mistral_client(server) as mistral:
            completion = await mistral.chat.complete_async(
                model="mistral-small-latest", messages=[{"role": "user", "content": QUESTION}]
            )
        block = message.content[0]
        from_mistral = completion.choices[0].message
        return [
            from_openai,
            block.text if block.type == "text" else None,
            content.text,
            str(from_mistral.content) if from_mistral else None,
        ]

    answers = asyncio.run(ask_all())
    assert all(answers)
    assert [served.provider for served in server.requests] == ["openai", "anthropic", "google", "mistral"]


def test_a_hundred_calls_at_once_overlap_and_are_each_counted_once() -> None:
    async def ask_together(server: ProviderServer) -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            await asyncio.gather(
                *(client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES) for _ in range(100))
            )

    with ProviderServer(latency_seconds=0.5) as server:
        asyncio.run(ask_together(server))
        assert server.calls == 100
        assert sorted(served.number for served in server.requests) == list(range(1, 101))
        # A slow machine may not open a hundred connections within one call's time.
        assert 50 <= server.in_flight_peak <= 100


def test_calls_one_after_the_other_never_overlap(server: ProviderServer) -> None:
    for _ in range(20):
        ask_openai(server)
    assert (server.calls, server.in_flight_peak) == (20, 1)


# -- What the server tells --------------------------------------------------------------------------------------


def test_requests_tell_sizes_and_never_texts(server: ProviderServer) -> None:
    with openai_client(server) as client:
        completion = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    [served] = server.requests
    assert (served.provider, served.endpoint, served.model) == ("openai", "chat.completions", "gpt-4o-mini")
    assert (served.is_stream, served.status, served.unit, served.finished) == (False, 200, "tokens", True)
    assert completion.usage
    assert served.input_quantity == completion.usage.prompt_tokens
    assert served.output_quantity == completion.usage.completion_tokens
    assert QUESTION not in repr(server.requests)
    assert (completion.choices[0].message.content or "") not in repr(server.requests)


def test_the_seed_alone_decides_the_answers() -> None:
    def answers(seed: int) -> list[str]:
        with ProviderServer(latency_seconds=0, seed=seed) as server:
            return [ask_openai(server, model=model) for model in ("gpt-4o-mini", "gpt-4o", "gpt-5", "gpt-4.1")]

    assert answers(7) == answers(7)
    assert answers(7) != answers(8)


def test_each_call_has_an_id_of_its_own(quick: ProviderServer) -> None:
    with openai_client(quick) as client:
        ids = {client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES).id for _ in range(3)}
    assert len(ids) == 3


def test_a_stream_is_sent_event_by_event() -> None:
    with ProviderServer(latency_seconds=0, chunk_seconds=0.02) as server, openai_client(server) as client:
        stream = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        next(stream)
        arrived, answered = server.calls, len(server.requests)
        rest = list(stream)
        # The first event was here while the call was still open at the server.
        assert (arrived, answered) == (1, 0)
        assert len(rest) > 3
        assert [served.is_stream for served in server.requests] == [True]


def test_an_abandoned_stream_is_told_as_unfinished() -> None:
    with ProviderServer(latency_seconds=0, chunk_seconds=0.02) as server:
        with openai_client(server) as client:
            stream = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
            next(stream)
            stream.close()
        assert [served.finished for served in first_request_of(server)] == [False]


def test_a_call_whose_client_did_not_wait_is_told_as_unfinished() -> None:
    with ProviderServer(latency_seconds=0.2) as server:
        with connect(server) as connection:
            connection.request("POST", PATHS["acme"], json.dumps({"text": QUESTION}))
        assert [served.finished for served in first_request_of(server)] == [False]
        assert server.calls == 1


def first_request_of(server: ProviderServer) -> tuple[ServedRequest, ...]:
    """Wait until the server has noticed the end of its first call."""
    deadline = time.monotonic() + 5
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.005)
    return server.requests


def test_a_connection_is_kept_for_the_next_call(quick: ProviderServer) -> None:
    with connect(quick) as connection:
        sockets = set()
        for _ in range(3):
            connection.request("POST", PATHS["acme"], json.dumps({"text": QUESTION}))
            assert connection.getresponse().read()
            sockets.add(connection.sock)
        assert len(sockets) == 1
        assert None not in sockets


# -- Failures ---------------------------------------------------------------------------------------------------


def call_openai(server: ProviderServer) -> object:
    return ask_openai(server)


def call_anthropic(server: ProviderServer) -> object:
    with anthropic_client(server) as client:
        return client.messages.create(
            model="claude-sonnet-5", max_tokens=50, messages=[{"role": "user", "content": QUESTION}]
        )


def call_gemini(server: ProviderServer) -> object:
    with gemini_client(server) as client:
        return client.models.generate_content(model="gemini-2.5-flash", contents=QUESTION)


def call_mistral(server: ProviderServer) -> object:
    with mistral_client(server) as client:
        return client.chat.complete(model="mistral-small-latest", messages=[{"role": "user", "content": QUESTION}])


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        (call_openai, 429, openai.RateLimitError),
        (call_openai, 500, openai.InternalServerError),
        (call_openai, 401, openai.AuthenticationError),
        (call_anthropic, 429, anthropic.RateLimitError),
        (call_anthropic, 500, anthropic.InternalServerError),
        (call_anthropic, 529, anthropic.InternalServerError),
        (call_gemini, 429, genai_errors.ClientError),
        (call_gemini, 500, genai_errors.ServerError),
        (call_mistral, 429, SDKError),
        (call_mistral, 500, SDKError),
    ],
)
def test_a_failure_is_the_error_that_the_sdk_knows(
    server: ProviderServer, call: Callable[[ProviderServer], object], status: int, error: type[Exception]
) -> None:
    server.fail_next(status)
    with pytest.raises(error) as raised:
        call(server)
    # google-genai has the status as `code`.
    assert getattr(raised.value, "status_code", getattr(raised.value, "code", None)) == status
    [served] = server.requests
    assert (server.calls, served.status, served.input_quantity, served.output_quantity) == (1, status, 0, 0)
    call(server)
    assert server.calls == 2


def test_the_sdks_read_the_providers_own_error_bodies(server: ProviderServer) -> None:
    server.fail_next(429, count=4)
    with pytest.raises(openai.RateLimitError) as from_openai:
        call_openai(server)
    with pytest.raises(anthropic.RateLimitError) as from_anthropic:
        call_anthropic(server)
    with pytest.raises(genai_errors.ClientError) as from_gemini:
        call_gemini(server)
    with pytest.raises(SDKError) as from_mistral:
        call_mistral(server)
    assert from_openai.value.code == "rate_limit_exceeded"
    assert from_anthropic.value.type == "rate_limit_error"
    assert from_gemini.value.status == "RESOURCE_EXHAUSTED"
    assert json.loads(from_mistral.value.body)["type"] == "rate_limited"


@pytest.mark.parametrize("provider", PATHS)
def test_a_429_says_when_to_come_back(server: ProviderServer, provider: str) -> None:
    status, headers, _ = post(server, PATHS[provider], {"model": "m", "text": "t"}, {"x-demo-fail": "429"})
    assert (status, headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize(("suffix", "status"), [("-rate-limited", 429), ("-server-error", 500)])
def test_a_model_name_can_ask_for_a_failure(quick: ProviderServer, suffix: str, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        ask_openai(quick, model=f"gpt-4o-mini{suffix}")
    assert raised.value.status_code == status


def test_a_stream_can_fail_before_its_first_event(server: ProviderServer) -> None:
    server.fail_next(429)
    with openai_client(server) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)


def test_every_nth_call_fails() -> None:
    with ProviderServer(latency_seconds=0, fail_every=3, fail_status=503) as server:
        statuses = [post(server, PATHS["acme"], {"text": QUESTION})[0] for _ in range(7)]
    assert statuses == [200, 200, 503, 200, 200, 503, 200]


def test_an_sdk_that_retries_gets_its_answer_and_both_calls_are_counted() -> None:
    with ProviderServer(latency_seconds=0, retry_after_seconds=0) as server:
        server.fail_next(429)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=1) as client:
            assert client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES).choices
        assert [served.status for served in server.requests] == [429, 200]


@pytest.mark.parametrize("provider", PATHS)
def test_a_missing_key_matters_only_where_keys_are_required(quick: ProviderServer, provider: str) -> None:
    body = {"model": "m", "messages": MESSAGES, "contents": MESSAGES, "max_tokens": 9, "text": QUESTION}
    key = {"anthropic": "x-api-key", "google": "x-goog-api-key"}.get(provider, "authorization")
    assert post(quick, PATHS[provider], body)[0] == 200
    with ProviderServer(latency_seconds=0, require_key=True) as strict:
        status, _, refusal = post(strict, PATHS[provider], body)
        assert post(strict, PATHS[provider], body, {key: "any"})[0] == 200
    assert status == 401
    assert (
        refusal.keys()
        == {
            "openai": {"error"},
            "anthropic": {"type", "error"},
            "google": {"error"},
            "mistral": {"detail"},
            "acme": {"problem"},
        }[provider]
    )


def test_an_unknown_path_is_no_call(server: ProviderServer) -> None:
    status, _, body = post(server, "/v1/audio/speech", {})
    assert status == 404
    assert body["error"]["type"] == "invalid_request_error"
    assert server.calls == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "role"]), inner, max_size=2),
    max_leaves=6,
)
known_fields = st.sampled_from(
    [
        *("model", "messages", "input", "text", "contents", "instructions", "system", "systemInstruction", "tools"),
        *("max_tokens", "dimensions", "reasoning", "generationConfig", "cache_control", "stream", "stream_options"),
    ]
)


@settings(max_examples=40)
@given(
    path=st.sampled_from([*PATHS.values(), "/v1/responses", "/v1/embeddings"]),
    body=json_values | st.dictionaries(known_fields, json_values, max_size=6),
)
def test_any_json_is_answered_or_refused(quick: ProviderServer, path: str, body: object) -> None:
    with connect(quick) as connection:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        assert response.status in (200, 400)
        assert response.read()


# -- Starting and stopping --------------------------------------------------------------------------------------


def test_leaving_the_block_ends_open_calls_quietly_and_frees_the_port(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        with ProviderServer(latency_seconds=60) as server:
            port = urlsplit(server.url).port
            stack.enter_context(connect(server)).connect()
            waiting = stack.enter_context(connect(server))
            waiting.request("POST", PATHS["acme"], json.dumps({"text": QUESTION}))
            while server.calls == 0:
                time.sleep(0.005)
        with pytest.raises(http.client.RemoteDisconnected):
            waiting.getresponse()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port or 0), timeout=5):
        pass
    assert [served.finished for served in server.requests] == [False]
    assert caplog.messages == []


def test_a_server_has_a_url_only_while_it_runs() -> None:
    server = ProviderServer()
    with pytest.raises(Conflict, match="not running"):
        _ = server.url
    with server, pytest.raises(Conflict, match="already running"):
        server.__enter__()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_seconds", -0.1),
        ("chunk_seconds", -1),
        ("fail_every", 0),
        ("fail_status", 200),
        ("retry_after_seconds", -1),
        ("cache_tokens_min", 0),
    ],
)
def test_an_argument_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        ProviderServer(**{field: value})
    assert raised.value.field == field
