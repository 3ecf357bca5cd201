"""A wrapped client is the provider's own, and every call of it is held, recorded and priced."""

from __future__ import annotations

import asyncio
import json
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anthropic
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from openai import AsyncOpenAI, OpenAI

from tallystick import AsyncTallystick, Tallystick
from tallystick.demo.provider_server import ProviderServer
from tallystick.errors import InvalidInput, LimitExceeded, ResponseGone, UnknownPrice
from tallystick.events import ProviderCallFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tallystick import FixedClock
    from tallystick.metering.usage_event import UsageEvent

Client = TypeVar("Client")

BILLABLE = "user:1"
QUESTION = "How does one count what was used?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
CHAT: Any = {"model": "gpt-4o-mini", "messages": MESSAGES}
CLAUDE: Any = {"model": "claude-sonnet-5", "max_tokens": 400, "messages": MESSAGES}
GEMINI: Any = {"model": "gemini-2.5-flash", "contents": QUESTION}
MISTRAL: Any = {"model": "mistral-small-latest", "messages": MESSAGES}


@pytest.fixture
def ts(sqlite_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    with Tallystick(sqlite_url, clock=clock) as engine:
        yield engine


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    with ProviderServer(latency_seconds=0, chunk_seconds=0) as server:
        yield server


class Clients:
    """The SDKs' clients, wrapped and pointed at the server, and closed in the end."""

    def __init__(self, ts: Tallystick | AsyncTallystick, server: ProviderServer) -> None:
        self._ts = ts
        self._url = server.url
        self._originals: list[Any] = []

    def wrapped(self, original: Client) -> Client:
        self._originals.append(original)
        return self._ts.wrap(original, billable=BILLABLE, feature="chat")

    @cached_property
    def openai(self) -> OpenAI:
        return self.wrapped(OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0))

    @cached_property
    def openai_async(self) -> AsyncOpenAI:
        return self.wrapped(AsyncOpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0))

    @cached_property
    def anthropic(self) -> Anthropic:
        return self.wrapped(Anthropic(base_url=self._url, api_key="none", max_retries=0))

    @cached_property
    def anthropic_async(self) -> AsyncAnthropic:
        return self.wrapped(AsyncAnthropic(base_url=self._url, api_key="none", max_retries=0))

    @cached_property
    def google(self) -> genai.Client:
        options = genai_types.HttpOptions(base_url=self._url)
        return self.wrapped(genai.Client(api_key="none", http_options=options))

    @cached_property
    def mistral(self) -> Mistral:
        return self.wrapped(Mistral(api_key="none", server_url=f"{self._url}/mistral"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for original in self._originals:
            original.__exit__(*exception)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for original in self._originals:
            await getattr(original, "aio", original).__aexit__(*exception)


@pytest.fixture
def clients(ts: Tallystick, server: ProviderServer) -> Iterator[Clients]:
    with Clients(ts, server) as clients:
        yield clients


def the_event(ts: Tallystick) -> UsageEvent:
    [event] = ts.usage.events(BILLABLE)
    return event


def held(ts: Tallystick) -> int:
    return ts.limits.check(BILLABLE).tokens_held


def assert_billed_as_served(ts: Tallystick, server: ProviderServer) -> None:
    """One call was served and one event recorded, of the same tokens, exact, priced and with nothing held."""
    [served] = server.requests
    event = the_event(ts)
    assert (event.usage.input_tokens, event.usage.output_tokens) == (served.input_quantity, served.output_quantity)
    assert event.total_tokens > 0
    assert event.flags == ()
    assert event.cost
    assert (event.provider, event.feature) == (served.provider, "chat")
    assert event.model == served.model
    assert held(ts) == 0
    assert ts.doctor().ok


# -- the calls that are metered ---------------------------------------------------------------------------------------


def openai_chat(clients: Clients) -> None:
    completion = clients.openai.chat.completions.create(**CHAT)
    assert isinstance(completion, openai.types.chat.ChatCompletion)


def openai_stream(clients: Clients) -> None:
    stream = clients.openai.chat.completions.create(**CHAT, stream=True)
    assert isinstance(stream, openai.Stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def openai_stream_left_at_its_finish_reason(clients: Clients) -> None:
    with clients.openai.chat.completions.create(**CHAT, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].finish_reason:
                break


def openai_helper(clients: Clients) -> None:
    with clients.openai.chat.completions.stream(**CHAT) as stream:
        assert [event.type for event in stream][-1] == "content.done"
        assert stream.get_final_completion().choices[0].message.content


def openai_raw(clients: Clients) -> None:
    raw = clients.openai.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().choices


def openai_raw_stream(clients: Clients) -> None:
    raw = clients.openai.with_raw_response.chat.completions.create(**CHAT, stream=True)
    assert raw.http_response.status_code == 200
    assert all(chunk.choices for chunk in raw.parse())


def openai_streamed_response(clients: Clients) -> None:
    with clients.openai.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert response.status_code == 200
        assert response.json()


def openai_streamed_response_unread(clients: Clients) -> None:
    with clients.openai.chat.completions.with_streaming_response.create(**CHAT):
        pass


def openai_streamed_stream(clients: Clients) -> None:
    with clients.openai.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        assert all(chunk.choices for chunk in response.parse())


def openai_beta(clients: Clients) -> None:
    assert clients.openai.beta.chat.completions.parse(**CHAT).choices


def openai_responses(clients: Clients) -> None:
    assert clients.openai.responses.create(model="gpt-4o-mini", input=QUESTION).output_text


def openai_responses_stream(clients: Clients) -> None:
    events = list(clients.openai.responses.create(model="gpt-4o-mini", input=QUESTION, stream=True))
    assert events[-1].type == "response.completed"


def openai_responses_helper(clients: Clients) -> None:
    with clients.openai.responses.stream(model="gpt-4o-mini", input=QUESTION) as stream:
        assert stream.get_final_response().output_text


def openai_parsed_responses(clients: Clients) -> None:
    assert clients.openai.responses.parse(model="gpt-4o-mini", input=QUESTION).output


def openai_embeddings(clients: Clients) -> None:
    answer = clients.openai.embeddings.create(model="text-embedding-3-small", input=QUESTION)
    assert len(answer.data[0].embedding) == 1536


def openai_copy(clients: Clients) -> None:
    assert clients.openai.with_options(timeout=20).chat.completions.create(**CHAT).choices


def anthropic_message(clients: Clients) -> None:
    assert clients.anthropic.messages.create(**CLAUDE).content


def anthropic_beta(clients: Clients) -> None:
    assert clients.anthropic.beta.messages.create(**CLAUDE).content


def anthropic_stream(clients: Clients) -> None:
    stream = clients.anthropic.messages.create(**CLAUDE, stream=True)
    assert isinstance(stream, anthropic.Stream)
    assert [event.type for event in stream][-1] == "message_stop"


def anthropic_text(clients: Clients) -> None:
    with clients.anthropic.messages.stream(**CLAUDE) as stream:
        assert isinstance(stream, anthropic.MessageStream)
        assert "".join(stream.text_stream)


def anthropic_final_message(clients: Clients) -> None:
    with clients.anthropic.messages.stream(**CLAUDE) as stream:
        assert stream.get_final_message().content


def anthropic_raw(clients: Clients) -> None:
    assert clients.anthropic.messages.with_raw_response.create(**CLAUDE).parse().content


def google_content(clients: Clients) -> None:
    assert clients.google.models.generate_content(**GEMINI).text


def google_stream(clients: Clients) -> None:
    assert "".join(chunk.text or "" for chunk in clients.google.models.generate_content_stream(**GEMINI))


def google_chat(clients: Clients) -> None:
    assert clients.google.chats.create(model="gemini-2.5-flash").send_message(QUESTION).text


def google_chat_stream(clients: Clients) -> None:
    assert list(clients.google.chats.create(model="gemini-2.5-flash").send_message_stream(QUESTION))


def mistral_chat(clients: Clients) -> None:
    assert clients.mistral.chat.complete(**MISTRAL).choices


def mistral_stream(clients: Clients) -> None:
    with clients.mistral.chat.stream(**MISTRAL) as stream:
        assert "".join(str(event.data.choices[0].delta.content) for event in stream)


SYNCHRONOUS: list[Callable[[Clients], None]] = [
    openai_chat,
    openai_stream,
    openai_stream_left_at_its_finish_reason,
    openai_helper,
    openai_raw,
    openai_raw_stream,
    openai_streamed_response,
    openai_streamed_response_unread,
    openai_streamed_stream,
    openai_beta,
    openai_responses,
    openai_responses_stream,
    openai_responses_helper,
    openai_parsed_responses,
    openai_embeddings,
    openai_copy,
    anthropic_message,
    anthropic_beta,
    anthropic_stream,
    anthropic_text,
    anthropic_final_message,
    anthropic_raw,
    google_content,
    google_stream,
    google_chat,
    google_chat_stream,
    mistral_chat,
    mistral_stream,
]


@pytest.mark.parametrize("call", SYNCHRONOUS, ids=lambda call: call.__name__)
def test_a_call_is_billed_as_it_was_served(
    ts: Tallystick, server: ProviderServer, clients: Clients, call: Callable[[Clients], None]
) -> None:
    call(clients)
    assert_billed_as_served(ts, server)


async def async_openai_chat(clients: Clients) -> None:
    assert (await clients.openai_async.chat.completions.create(**CHAT)).choices


async def async_openai_stream(clients: Clients) -> None:
    async with clients.openai_async as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        assert isinstance(stream, openai.AsyncStream)
        assert [chunk.choices[0] async for chunk in stream]


async def async_openai_stream_left_at_its_finish_reason(clients: Clients) -> None:
    async with await clients.openai_async.chat.completions.create(**CHAT, stream=True) as stream:
        async for chunk in stream:
            if chunk.choices[0].finish_reason:
                break


async def async_openai_helper(clients: Clients) -> None:
    async with clients.openai_async.chat.completions.stream(**CHAT) as stream:
        assert (await stream.get_final_completion()).choices


async def async_openai_raw_stream(clients: Clients) -> None:
    raw = await clients.openai_async.chat.completions.with_raw_response.create(**CHAT, stream=True)
    assert [chunk.choices[0] async for chunk in raw.parse()]


async def async_openai_streamed_response(clients: Clients) -> None:
    async with clients.openai_async.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert await response.json()


async def async_openai_streamed_stream(clients: Clients) -> None:
    create = clients.openai_async.chat.completions.with_streaming_response.create
    async with create(**CHAT, stream=True) as response:
        assert [chunk.choices[0] async for chunk in await response.parse()]


async def async_openai_responses(clients: Clients) -> None:
    assert (await clients.openai_async.responses.create(model="gpt-4o-mini", input=QUESTION)).output_text


async def async_openai_embeddings(clients: Clients) -> None:
    assert (await clients.openai_async.embeddings.create(model="text-embedding-3-small", input=QUESTION)).data


async def async_anthropic_message(clients: Clients) -> None:
    assert (await clients.anthropic_async.messages.create(**CLAUDE)).content


async def async_anthropic_stream(clients: Clients) -> None:
    stream = await clients.anthropic_async.messages.create(**CLAUDE, stream=True)
    assert [event.type async for event in stream][-1] == "message_stop"


async def async_anthropic_text(clients: Clients) -> None:
    async with clients.anthropic_async.messages.stream(**CLAUDE) as stream:
        assert [text async for text in stream.text_stream]


async def async_anthropic_final_message(clients: Clients) -> None:
    async with clients.anthropic_async.messages.stream(**CLAUDE) as stream:
        assert (await stream.get_final_message()).content


async def async_anthropic_raw(clients: Clients) -> None:
    raw = await clients.anthropic_async.messages.with_raw_response.create(**CLAUDE)
    assert (await raw.parse()).content


async def async_google_content(clients: Clients) -> None:
    async with clients.google.aio as client:
        assert (await client.models.generate_content(**GEMINI)).text


async def async_google_stream(clients: Clients) -> None:
    async with clients.google.aio as client:
        assert [chunk.text async for chunk in await client.models.generate_content_stream(**GEMINI)]


async def async_google_chat(clients: Clients) -> None:
    async with clients.google.aio as client:
        assert (await client.chats.create(model="gemini-2.5-flash").send_message(QUESTION)).text


async def async_mistral_chat(clients: Clients) -> None:
    async with clients.mistral as client:
        assert (await client.chat.complete_async(**MISTRAL)).choices


async def async_mistral_stream(clients: Clients) -> None:
    async with clients.mistral as client, await client.chat.stream_async(**MISTRAL) as stream:
        assert [event.data async for event in stream]


ASYNCHRONOUS: list[Callable[[Clients], Awaitable[None]]] = [
    async_openai_chat,
    async_openai_stream,
    async_openai_stream_left_at_its_finish_reason,
    async_openai_helper,
    async_openai_raw_stream,
    async_openai_streamed_response,
    async_openai_streamed_stream,
    async_openai_responses,
    async_openai_embeddings,
    async_anthropic_message,
    async_anthropic_stream,
    async_anthropic_text,
    async_anthropic_final_message,
    async_anthropic_raw,
    async_google_content,
    async_google_stream,
    async_google_chat,
    async_mistral_chat,
    async_mistral_stream,
]


@pytest.mark.parametrize("call", ASYNCHRONOUS, ids=lambda call: call.__name__)
def test_an_asynchronous_call_is_billed_as_it_was_served(
    sqlite_url: str, clock: FixedClock, server: ProviderServer, call: Callable[[Clients], Awaitable[None]]
) -> None:
    async def make() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            async with Clients(ts, server) as clients:
                await call(clients)
            assert_billed_as_served(ts.sync, server)

    asyncio.run(make())


@pytest.mark.parametrize("call", [async_openai_stream, async_anthropic_text], ids=lambda call: call.__name__)
def test_an_asynchronous_client_works_from_a_synchronous_tallystick_too(
    ts: Tallystick, server: ProviderServer, call: Callable[[Clients], Awaitable[None]]
) -> None:
    async def make() -> None:
        async with Clients(ts, server) as clients:
            await call(clients)

    asyncio.run(make())
    assert_billed_as_served(ts, server)


# -- the same client --------------------------------------------------------------------------------------------------


def test_what_is_not_metered_passes_through(ts: Tallystick, server: ProviderServer, clients: Clients) -> None:
    client = clients.openai
    assert isinstance(client, openai.OpenAI)
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]
    assert client.api_key == "none"
    client.api_key = "another"
    assert client.with_options(timeout=3).api_key == "another"
    assert "chat" in dir(client)
    with client as entered:
        assert entered.chat.completions.create(**CHAT).choices
    assert client.is_closed()
    assert len(list(ts.usage.events(BILLABLE))) == 1


def test_the_client_that_was_wrapped_stays_unmetered(ts: Tallystick, server: ProviderServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        ts.wrap(client, billable=BILLABLE)
        client.chat.completions.create(**CHAT)
    assert list(ts.usage.events(BILLABLE)) == []


# -- OpenAI's usage chunk ---------------------------------------------------------------------------------------------


def test_the_usage_chunk_is_hidden_from_who_did_not_ask_for_it(clients: Clients) -> None:
    chunks = list(clients.openai.chat.completions.create(**CHAT, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_the_usage_chunk_is_shown_to_who_asked_for_it(ts: Tallystick, server: ProviderServer, clients: Clients) -> None:
    *before, last = clients.openai.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    assert all(chunk.choices for chunk in before)
    assert last.choices == []
    assert last.usage
    assert last.usage.total_tokens == the_event(ts).total_tokens


def test_other_stream_options_are_kept(ts: Tallystick, server: ProviderServer, clients: Clients) -> None:
    options: Any = {"include_obfuscation": False}
    assert all(
        chunk.choices for chunk in clients.openai.chat.completions.create(**CHAT, stream=True, stream_options=options)
    )
    assert options == {"include_obfuscation": False}
    assert_billed_as_served(ts, server)


@pytest.mark.parametrize("options", [None, {"include_usage": False}])
def test_a_stream_that_must_not_be_asked_for_usage_is_estimated(
    ts: Tallystick, server: ProviderServer, clients: Clients, options: Any
) -> None:
    stream = clients.openai.chat.completions.create(**CHAT, stream=True, stream_options=options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    event = the_event(ts)
    assert event.flags == ("estimated",)
    assert event.usage.output_tokens == -(-len(text) // 4)
    assert event.usage.input_tokens == -(-len("user" + QUESTION) // 4)


def test_only_chat_streams_are_asked_for_their_usage(clients: Clients) -> None:
    bodies: list[Any] = []
    clients.openai._client.event_hooks["request"].append(lambda request: bodies.append(json.loads(request.content)))
    list(clients.openai.responses.create(model="gpt-4o-mini", input=QUESTION, stream=True))
    clients.openai.chat.completions.create(**CHAT)
    list(clients.openai.chat.completions.create(**CHAT, stream=True))
    assert [body.get("stream_options") for body in bodies] == [None, None, {"include_usage": True}]
    assert not any("tallystick" in body for body in bodies)


# -- streams that end early -------------------------------------------------------------------------------------------


def test_a_stream_closed_early_is_billed_for_its_request_and_what_passed(ts: Tallystick, clients: Clients) -> None:
    with clients.openai.chat.completions.create(**CHAT, stream=True) as stream:
        passed = "".join(next(stream).choices[0].delta.content or "" for _ in range(3))
    event = the_event(ts)
    assert event.flags == ("partial", "estimated")
    assert event.usage.output_tokens == -(-len(passed) // 4)
    assert event.usage.input_tokens == -(-len("user" + QUESTION) // 4)
    assert held(ts) == 0


def test_an_exception_of_the_consumer_ends_a_stream_as_closing_does(ts: Tallystick, clients: Clients) -> None:
    stream = clients.openai.chat.completions.create(**CHAT, stream=True)

    def consume() -> None:
        with stream:
            for _ in stream:
                raise LookupError

    with pytest.raises(LookupError):
        consume()
    assert the_event(ts).flags == ("partial", "estimated")
    assert held(ts) == 0


def test_an_exception_of_the_consumer_passes_also_where_settling_fails(
    ts: Tallystick, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    def consume() -> None:
        with clients.openai.chat.completions.with_streaming_response.create(**CHAT):
            ts.close()
            raise LookupError

    with pytest.raises(LookupError):
        consume()
    assert "settling it failed" in caplog.text


def test_a_provider_that_goes_away_in_the_middle_raises_its_own_error_and_is_billed_for_what_passed(
    ts: Tallystick,
) -> None:
    failures: list[BaseException] = []
    ts.on(ProviderCallFailed)(lambda event: failures.append(event.error))
    with ProviderServer(latency_seconds=0, chunk_seconds=30) as server:
        clients = Clients(ts, server)
        stream = clients.openai.chat.completions.create(**CHAT, stream=True)
        next(stream)
    with clients, pytest.raises(openai.APIConnectionError) as raised:
        list(stream)
    assert failures == [raised.value]
    assert the_event(ts).flags == ("partial", "estimated")


def test_a_cancelled_reader_is_billed_for_what_passed(sqlite_url: str, clock: FixedClock) -> None:
    async def read(stream: Any) -> None:
        async with stream:
            async for _ in stream:
                pass

    async def cancel(server: ProviderServer) -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts, Clients(ts, server) as clients:
            stream = await clients.openai_async.chat.completions.create(**CHAT, stream=True)
            reader = asyncio.create_task(read(stream))
            await asyncio.sleep(0.05)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert the_event(ts.sync).flags == ("partial", "estimated")
            assert held(ts.sync) == 0

    with ProviderServer(latency_seconds=0, chunk_seconds=30) as server:
        asyncio.run(cancel(server))


def test_a_caller_that_is_cancelled_while_a_helper_opens_is_not_billed(sqlite_url: str, clock: FixedClock) -> None:
    async def open_and_read(clients: Clients) -> None:
        async with clients.anthropic_async.messages.stream(**CLAUDE) as stream:
            await stream.until_done()

    async def cancel(server: ProviderServer) -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts, Clients(ts, server) as clients:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(open_and_read(clients), 0.1)
            assert held(ts.sync) == 0
            assert list(ts.sync.usage.events(BILLABLE)) == []

    with ProviderServer(latency_seconds=30) as server:
        asyncio.run(cancel(server))


# -- refused and failed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [openai_chat, openai_stream, openai_helper, openai_streamed_response, anthropic_text, google_stream, mistral_chat],
    ids=lambda call: call.__name__,
)
def test_an_exhausted_limit_refuses_before_the_provider_is_called(
    ts: Tallystick, server: ProviderServer, clients: Clients, call: Callable[[Clients], None]
) -> None:
    ts.limits.override(BILLABLE, token_limit=0)
    with pytest.raises(LimitExceeded):
        call(clients)
    assert server.calls == 0
    assert list(ts.usage.events(BILLABLE)) == []


def test_the_last_of_a_limit_can_be_used_and_an_overshoot_is_recorded_in_full(
    ts: Tallystick, server: ProviderServer, clients: Clients
) -> None:
    ts.limits.override(BILLABLE, token_limit=5)
    clients.openai.chat.completions.create(**CHAT, max_tokens=4000)
    assert the_event(ts).total_tokens > 5
    with pytest.raises(LimitExceeded):
        clients.openai.chat.completions.create(**CHAT, max_tokens=4000)
    assert server.calls == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (openai_chat, openai.RateLimitError),
        (openai_stream, openai.RateLimitError),
        (openai_helper, openai.RateLimitError),
        (openai_raw, openai.RateLimitError),
        (openai_streamed_response, openai.RateLimitError),
        (anthropic_message, anthropic.RateLimitError),
        (anthropic_text, anthropic.RateLimitError),
        (google_content, genai_errors.ClientError),
        (google_stream, genai_errors.ClientError),
        (mistral_chat, SDKError),
        (mistral_stream, SDKError),
    ],
)
def test_a_providers_error_passes_as_it_is_and_nothing_is_billed(
    ts: Tallystick,
    server: ProviderServer,
    clients: Clients,
    call: Callable[[Clients], None],
    error: type[Exception],
) -> None:
    failures: list[BaseException] = []
    ts.on(ProviderCallFailed)(lambda event: failures.append(event.error))
    server.fail_next(429)
    with pytest.raises(error) as raised:
        call(clients)
    assert failures == [raised.value]
    assert held(ts) == 0
    assert list(ts.usage.events(BILLABLE)) == []


@pytest.mark.parametrize(
    "call",
    [async_openai_chat, async_openai_helper, async_openai_streamed_response, async_anthropic_text, async_google_stream],
    ids=lambda call: call.__name__,
)
def test_a_providers_error_passes_an_asynchronous_call_too(
    sqlite_url: str, clock: FixedClock, server: ProviderServer, call: Callable[[Clients], Awaitable[None]]
) -> None:
    async def make() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            server.fail_next(429)
            async with Clients(ts, server) as clients:
                with pytest.raises((openai.RateLimitError, anthropic.RateLimitError, genai_errors.ClientError)):
                    await call(clients)
            assert held(ts.sync) == 0
            assert list(ts.sync.usage.events(BILLABLE)) == []

    asyncio.run(make())


def test_a_request_that_the_sdk_refuses_holds_nothing(ts: Tallystick, server: ProviderServer, clients: Clients) -> None:
    create: Any = clients.openai.chat.completions.create
    with pytest.raises(TypeError):
        create(messages=MESSAGES)
    with pytest.raises(TypeError):
        create(**CHAT, no_such_option=1)
    assert held(ts) == 0
    assert server.calls == 0


def test_a_model_without_a_price_is_refused_before_the_call(server: ProviderServer, clients: Clients) -> None:
    with pytest.raises(UnknownPrice):
        clients.openai.chat.completions.create(model="nobody-knows-it", messages=MESSAGES)
    assert server.calls == 0


# -- what a call can say of itself ------------------------------------------------------------------------------------


def test_a_call_can_say_who_it_is_for_and_the_provider_does_not_see_it(ts: Tallystick, server: ProviderServer) -> None:
    original: Any = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with ts.wrap(original, tenant="acme", feature="chat", metadata={"client": "web"}) as client:
        client.chat.completions.create(
            **CHAT, tallystick={"user": 42, "feature": "search", "metadata": {"ticket": 7}, "billable": BILLABLE}
        )
    event = the_event(ts)
    assert (event.tenant, event.user, event.feature) == ("tenant:acme", "user:42", "search")
    assert event.metadata == {"client": "web", "ticket": 7}


def test_an_unknown_option_is_named(clients: Clients, server: ProviderServer) -> None:
    create: Any = clients.openai.chat.completions.create
    with pytest.raises(InvalidInput, match="idempotency_key"):
        create(**CHAT, tallystick={"key": "req-1"})
    assert server.calls == 0


def test_an_estimate_that_is_stated_fits_whole_or_is_refused(
    ts: Tallystick, server: ProviderServer, clients: Clients
) -> None:
    ts.limits.override(BILLABLE, token_limit=100)
    create: Any = clients.openai.chat.completions.create
    with pytest.raises(LimitExceeded):
        create(**CHAT, tallystick={"estimate_tokens": 101})
    assert server.calls == 0
    assert create(**CHAT, tallystick={"estimate_tokens": 100}).choices


def test_a_replay_returns_the_first_response_without_a_call(
    ts: Tallystick, server: ProviderServer, clients: Clients
) -> None:
    create: Any = clients.openai.chat.completions.create
    first = create(**CHAT, tallystick={"idempotency_key": "req-1"})
    assert create(**CHAT, tallystick={"idempotency_key": "req-1"}) is first
    assert server.calls == 1
    assert_billed_as_served(ts, server)


@pytest.mark.parametrize("helper", [False, True])
def test_a_replay_of_a_stream_names_what_was_recorded(
    ts: Tallystick, server: ProviderServer, clients: Clients, helper: bool
) -> None:
    options = {"idempotency_key": "req-1"}
    messages: Any = clients.anthropic.messages
    create: Any = clients.openai.chat.completions.create

    def ask() -> None:
        if helper:
            with messages.stream(**CLAUDE, tallystick=options) as stream:
                stream.until_done()
        else:
            list(create(**CHAT, stream=True, tallystick=options))

    ask()
    with pytest.raises(ResponseGone) as raised:
        ask()
    assert raised.value.usage_event_id == the_event(ts).id
    assert raised.value.key == "req-1"
    assert server.calls == 1


def test_a_call_of_another_process_that_is_replayed_names_what_was_recorded(
    ts: Tallystick, sqlite_url: str, clock: FixedClock, server: ProviderServer, clients: Clients
) -> None:
    create: Any = clients.openai.chat.completions.create
    create(**CHAT, tallystick={"idempotency_key": "req-1"})
    with Tallystick(sqlite_url, clock=clock) as other, Clients(other, server) as others:
        create = others.openai.chat.completions.create
        with pytest.raises(ResponseGone):
            create(**CHAT, tallystick={"idempotency_key": "req-1"})
    assert server.calls == 1


# -- estimates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        ({"messages": MESSAGES, "max_tokens": 100}, 10 + 100),
        ({"messages": MESSAGES, "max_completion_tokens": 100, "n": 3}, 10 + 300),
        ({"messages": MESSAGES}, 10 + 1000),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}], "max_tokens": 1}, 11 + 1),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/" + "y" * 999}}]}
                ],
                "max_tokens": 1,
            },
            4 + 1,
        ),
    ],
)
def test_what_is_held_is_the_requests_length_and_its_maximum(
    ts: Tallystick, clients: Clients, request_: dict[str, Any], tokens: int
) -> None:
    seen: list[int] = []
    create: Any = clients.openai.chat.completions.create
    clients.openai._client.event_hooks["request"].append(lambda _: seen.append(held(ts)))
    create(model="gpt-4o-mini", **request_)
    assert seen == [tokens]


class Rewriter:
    """A provider of one's own: what it will use can be told from the request."""

    name = "rewriter"

    def extract(self, response: object) -> None:
        return None

    def estimate(self, request: dict[str, Any]) -> int:
        return len(request["messages"]) * 7


def test_a_custom_providers_estimate_is_preferred(sqlite_url: str, clock: FixedClock, server: ProviderServer) -> None:
    provider = {"rewriter": {"class": f"{__name__}:Rewriter"}}
    with Tallystick(sqlite_url, clock=clock, providers=provider) as ts:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with ts.wrap(client, billable=BILLABLE, provider="rewriter") as wrapped:
            wrapped.chat.completions.create(**CHAT)
        assert the_event(ts).total_tokens == 7


def test_embeddings_are_a_resource_of_their_own(ts: Tallystick, clients: Clients) -> None:
    openai_embeddings(clients)
    assert the_event(ts).resource_type == "embedding"


# -- which provider ---------------------------------------------------------------------------------------------------


class Completions:
    def create(self, **request: Any) -> dict[str, Any]:
        return {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


class Chat:
    completions = Completions()


class CompatibleClient:
    """A client of another maker with OpenAI's methods."""

    chat = Chat()

    def embeddings(self) -> str:
        return "a method where others have a namespace"


class OurOpenAI(openai.OpenAI):
    """An application's own client."""


@pytest.mark.parametrize(
    ("client", "provider"),
    [
        (openai.OpenAI(api_key="none"), "openai"),
        (openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1"), "openai"),
        (OurOpenAI(api_key="none"), "openai"),
        (openai.OpenAI(api_key="none", base_url="https://api.groq.com/openai/v1"), "groq"),
        (openai.OpenAI(api_key="none", base_url="https://api.deepseek.com"), "deepseek"),
        (openai.OpenAI(api_key="none", base_url="https://openrouter.ai/api/v1"), "openrouter"),
        (openai.OpenAI(api_key="none", base_url="https://a.openai.azure.com/openai/v1"), "azure"),
        (
            openai.AzureOpenAI(api_key="none", api_version="2025-01-01", azure_endpoint="https://a.openai.azure.com"),
            "azure",
        ),
        (anthropic.Anthropic(api_key="none"), "anthropic"),
        (anthropic.AsyncAnthropic(api_key="none"), "anthropic"),
        (genai.Client(api_key="none"), "google"),
        (Mistral(api_key="none"), "mistral"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_provider_is_found_from_the_client(ts: Tallystick, client: Any, provider: str) -> None:
    assert vars(ts.wrap(client, billable=BILLABLE))["_wrapping"].provider == provider


def test_any_client_with_such_methods_is_metered_once_its_provider_is_named(ts: Tallystick) -> None:
    client: Any = ts.wrap(CompatibleClient(), billable=BILLABLE, provider="Groq")
    client.chat.completions.create(model="llama-3.3-70b-versatile", messages=MESSAGES)
    event = the_event(ts)
    assert (event.provider, event.total_tokens, event.flags) == ("groq", 10, ())
    assert client.embeddings() == CompatibleClient().embeddings()


class LaterCompletions(Completions):
    def create(self, **request: Any) -> Any:
        answer = super().create

        async def later() -> dict[str, Any]:
            if request["model"] == "fails":
                raise ConnectionError
            return answer(**request)

        return later()


class LaterChat:
    completions = LaterCompletions()


class LaterClient:
    """A client whose methods do not look like coroutine functions, as of one that another library has wrapped."""

    chat = LaterChat()


def test_a_method_that_turns_out_to_be_awaited_is_metered(ts: Tallystick) -> None:
    client: Any = ts.wrap(LaterClient(), billable=BILLABLE, provider="openai")
    answer = asyncio.run(client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES))
    assert answer["usage"]["total_tokens"] == the_event(ts).total_tokens == 10
    assert held(ts) == 0


def test_a_method_that_turns_out_to_be_awaited_and_fails_holds_nothing(ts: Tallystick) -> None:
    client: Any = ts.wrap(LaterClient(), billable=BILLABLE, provider="azure")
    with pytest.raises(ConnectionError):
        asyncio.run(client.chat.completions.create(model="fails", messages=MESSAGES))
    assert list(ts.usage.events(BILLABLE)) == []
    assert held(ts) == 0


def test_a_client_of_an_unknown_maker_needs_its_provider(ts: Tallystick) -> None:
    with pytest.raises(InvalidInput) as raised:
        ts.wrap(CompatibleClient(), billable=BILLABLE)
    assert raised.value.field == "provider"


@pytest.mark.parametrize("client", [object(), {"chat": 1}, "openai", None])
def test_a_client_without_any_metered_method_is_refused(ts: Tallystick, client: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        ts.wrap(client, billable=BILLABLE, provider="openai")
    assert raised.value.field == "client"


def test_a_deployment_at_azure_is_priced_by_the_model_that_answers(ts: Tallystick) -> None:
    client: Any = ts.wrap(CompatibleClient(), billable=BILLABLE, provider="azure")
    client.chat.completions.create(model="our-deployment", messages=MESSAGES)
    event = the_event(ts)
    assert (event.model, event.flags) == ("gpt-4o-mini", ())
    assert event.cost


# -- many callers -----------------------------------------------------------------------------------------------------


def test_threads_share_a_wrapped_client(ts: Tallystick, server: ProviderServer, clients: Clients) -> None:
    client = clients.openai
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        for _ in range(3):
            client.chat.completions.create(**CHAT)
            list(client.chat.completions.create(**CHAT, stream=True))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = sum(request.input_quantity + request.output_quantity for request in server.requests)
    assert server.calls == 48
    assert ts.limits.check(BILLABLE).tokens_used == served
    assert held(ts) == 0
    assert ts.doctor().ok


def test_of_many_streams_at_once_only_those_that_fit_reach_the_provider(sqlite_url: str, clock: FixedClock) -> None:
    async def ask(client: Any) -> bool:
        try:
            stream = await client.chat.completions.create(**CHAT, stream=True, tallystick={"estimate_tokens": 100})
        except LimitExceeded:
            return False
        return bool([chunk async for chunk in stream])

    async def together(server: ProviderServer) -> list[bool]:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts, Clients(ts, server) as clients:
            await ts.limits.override(BILLABLE, token_limit=300)
            answers = await asyncio.gather(*(ask(clients.openai_async) for _ in range(20)))
            assert held(ts.sync) == 0
            assert ts.sync.doctor().ok
            return answers

    with ProviderServer(latency_seconds=0.3, chunk_seconds=0) as server:
        answers = asyncio.run(together(server))
        assert sum(answers) == server.calls == 3
