"""A metered stream passes every chunk on, and is settled exactly once, however it ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import os
import threading
import time
from collections import UserDict
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tallystick import AsyncTallystick, ProviderUsage, Tallystick
from tallystick.demo.provider_server import ProviderServer
from tallystick.errors import ProviderError, StreamNotFinished, TallystickError, UsageMissing
from tallystick.events import ProviderCallFailed, UsageRecorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from pathlib import Path

    from openai.types.chat import ChatCompletionMessageParam

    from tallystick import FixedClock, MeteredResponse
    from tallystick.metering.usage_event import UsageEvent

BILLABLE = "user:1"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How does one count what was used?"}]

# Twelve characters: three tokens where nobody counts.
HELLO = {"choices": [{"delta": {"content": "Hello, there"}, "finish_reason": None}]}
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
WHOLE = [HELLO, STOP, USAGE]


class ProviderDown(Exception):
    """What a provider's SDK raises."""


@pytest.fixture
def ts(sqlite_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    with Tallystick(sqlite_url, clock=clock) as engine:
        yield engine


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer(latency_seconds=0, chunk_seconds=0) as server:
        yield server


def chunks(*each: object, then: BaseException | None = None) -> Generator[Any, None, None]:
    """A provider's stream: these chunks, and then its failure."""
    yield from each
    if then is not None:
        raise then


async def chunks_async(*each: object, then: BaseException | None = None) -> AsyncIterator[Any]:
    for chunk in each:
        yield chunk
    if then is not None:
        raise then


class SdkStream:
    """A stream that an SDK opened already: the provider was called, and works."""

    def __init__(self, *each: object, then: BaseException | None = None) -> None:
        self.status_code = 200
        self.is_closed = False
        self._chunks = chunks(*each, then=then)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)

    def __enter__(self) -> SdkStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True


def metered(ts: Tallystick, response: object, *, tokens: int = 100) -> MeteredResponse[Any]:
    meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=tokens)
    return meter.call(lambda: response)


def recorded(ts: Tallystick) -> UsageEvent:
    """Return the one event that there is; nothing is held any more."""
    [event] = ts.usage.events(BILLABLE)
    assert held(ts) == 0
    return event


def held(ts: Tallystick) -> int:
    return ts.limits.check(BILLABLE).tokens_held


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for the thread that settles forgotten streams."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.005)
    return condition()


def failures(ts: Tallystick) -> list[BaseException]:
    heard: list[BaseException] = []

    @ts.on(ProviderCallFailed)
    def hear(event: ProviderCallFailed) -> None:
        heard.append(event.error)

    return heard


# -- what a stream is -------------------------------------------------------------------------------------------------


class Answer(BaseModel):
    usage: dict[str, int] = USAGE["usage"]  # type: ignore[assignment]


@pytest.mark.parametrize(
    "response",
    [USAGE, [HELLO], (HELLO,), "text", b"bytes", {1, 2}, UserDict(USAGE), Answer(), io.BytesIO(b"a line"), None, 7],
    ids=lambda response: type(response).__name__,
)
def test_what_can_be_iterated_again_is_no_stream(ts: Tallystick, response: object) -> None:
    result = metered(ts, response)
    assert result.response is response
    assert result.is_settled


def test_chunks_pass_unchanged_and_in_order(ts: Tallystick) -> None:
    passed = list(metered(ts, chunks(*WHOLE)).response)
    assert [id(chunk) for chunk in passed] == [id(chunk) for chunk in WHOLE]


def test_each_chunk_is_asked_for_only_when_the_consumer_wants_it(ts: Tallystick) -> None:
    given_out: list[int] = []

    def counting() -> Iterator[int]:
        for number in range(5):
            given_out.append(number)
            yield number

    stream = metered(ts, counting()).response
    assert given_out == []
    next(stream)
    next(stream)
    assert given_out == [0, 1]


def test_a_stand_in_is_of_the_originals_class_and_has_its_attributes(ts: Tallystick) -> None:
    original = SdkStream(*WHOLE)
    stream = metered(ts, original).response
    assert isinstance(stream, SdkStream)
    assert stream.status_code == 200
    assert inspect.isgenerator(metered(ts, chunks()).response)
    assert not hasattr(stream, "__aiter__")


def test_a_generator_returns_its_value_through_its_stand_in(ts: Tallystick) -> None:
    returned: list[str] = []

    def answering() -> Generator[Any, None, str]:
        yield from WHOLE
        return "the end"

    def consume() -> Generator[Any, None, None]:
        returned.append((yield from metered(ts, answering()).response))

    assert list(consume()) == WHOLE
    assert returned == ["the end"]


# -- read to its end --------------------------------------------------------------------------------------------------


def test_a_stream_read_to_its_end_is_settled_with_the_usage_it_reported(ts: Tallystick) -> None:
    result = metered(ts, chunks(*WHOLE))
    assert held(ts) == 100
    with pytest.raises(StreamNotFinished):
        _ = result.usage
    list(result.response)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)
    event = recorded(ts)
    assert event.id == result.usage_event_id
    assert event.flags == ()


def test_an_asynchronous_stream_read_to_its_end_is_settled_with_the_usage_it_reported(
    sqlite_url: str, clock: FixedClock
) -> None:
    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            result = await meter.call(lambda: chunks_async(*WHOLE))
            assert [chunk async for chunk in result.response] == WHOLE
            assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)
            assert recorded(ts.sync).flags == ()

    asyncio.run(consume())


def test_a_stream_without_usage_is_estimated_from_its_text_within_the_calls_estimate(ts: Tallystick) -> None:
    result = metered(ts, chunks(HELLO, HELLO, STOP), tokens=100)
    list(result.response)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (94, 6)
    assert recorded(ts).flags == ("estimated",)


def test_more_text_than_the_estimate_is_recorded_in_full(ts: Tallystick) -> None:
    result = metered(ts, chunks(*[HELLO] * 40), tokens=100)
    list(result.response)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (0, 120)


@pytest.mark.parametrize(
    ("chunk", "tokens"),
    [
        ("twelve chars", 3),
        ({"type": "response.output_text.delta", "delta": "twelve chars"}, 3),
        ({"type": "response.output_text.done", "text": "twelve chars"}, 0),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "twelve chars"}}, 3),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"a": "12"}'}}, 3),
        ({"candidates": [{"content": {"parts": [{"text": "twelve chars"}], "role": "model"}}]}, 3),
        ({"data": {"choices": [{"delta": {"content": "twelve chars"}}]}}, 3),
        ({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a": "12"}'}}]}}]}, 3),
        ({"choices": [{"text": "twelve chars"}]}, 3),
        ({"message": {"role": "assistant", "content": "twelve chars"}}, 3),
        (7, 0),
    ],
)
def test_text_is_measured_wherever_a_provider_puts_it(ts: Tallystick, chunk: object, tokens: int) -> None:
    result = metered(ts, chunks(chunk), tokens=100)
    list(result.response)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (100 - tokens, tokens)


def test_a_missing_usage_is_an_error_after_it_was_recorded_where_the_setting_says_so(
    sqlite_url: str, clock: FixedClock
) -> None:
    with Tallystick(sqlite_url, clock=clock, on_missing_usage="error") as ts:
        stream = metered(ts, chunks(HELLO)).response
        assert next(stream) is HELLO
        with pytest.raises(UsageMissing):
            next(stream)
        assert recorded(ts).flags == ("estimated",)
        with pytest.raises(StopIteration):
            next(stream)


def test_no_text_of_a_stream_is_stored(ts: Tallystick, tmp_path: Path) -> None:
    secret = "An unmistakable sentence of the customer's own."
    list(metered(ts, chunks({"choices": [{"delta": {"content": secret}}]}, secret, USAGE)).response)
    assert recorded(ts).total_tokens == 10
    ts.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert BILLABLE.encode() in stored
    assert secret.encode() not in stored


# -- left early -------------------------------------------------------------------------------------------------------


def test_a_stream_closed_early_is_settled_with_what_it_reported_so_far(ts: Tallystick) -> None:
    growing = {"usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    original = SdkStream(growing, *WHOLE)
    result = metered(ts, original)
    next(result.response)
    result.response.close()
    assert original.is_closed
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 1)
    assert recorded(ts).flags == ("partial",)


def test_a_stream_closed_before_any_usage_is_estimated_from_its_text(ts: Tallystick) -> None:
    result = metered(ts, SdkStream(*WHOLE), tokens=100)
    with result.response as stream:
        next(stream)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (97, 3)
    assert recorded(ts).flags == ("partial", "estimated")


def test_a_stream_opened_and_closed_unread_is_settled_because_the_provider_was_called(ts: Tallystick) -> None:
    metered(ts, SdkStream(*WHOLE), tokens=100).response.close()
    event = recorded(ts)
    assert event.total_tokens == 100
    assert event.flags == ("partial", "estimated")


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_a_generator_that_was_never_started_is_voided_because_nobody_was_called(ts: Tallystick, leave: str) -> None:
    result = metered(ts, chunks(*WHOLE))
    assert held(ts) == 100
    if leave == "close":
        result.response.close()
    del result
    assert eventually(lambda: held(ts) == 0)
    assert list(ts.usage.events(BILLABLE)) == []


def test_leaving_at_the_finish_reason_reads_the_usage_that_comes_right_after_it(ts: Tallystick) -> None:
    result = metered(ts, SdkStream(*WHOLE))
    with result.response as stream:
        for chunk in stream:
            if chunk["choices"][0]["finish_reason"] == "stop":
                break
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)
    assert recorded(ts).flags == ()


def test_a_consumers_own_exception_settles_what_passed_and_is_no_failure_of_the_provider(ts: Tallystick) -> None:
    heard = failures(ts)
    error = ValueError("the consumer's")

    def consume() -> None:
        with metered(ts, SdkStream(*WHOLE)).response as stream:
            next(stream)
            raise error

    with pytest.raises(ValueError, match="the consumer's") as raised:
        consume()
    assert raised.value is error
    assert recorded(ts).flags == ("partial", "estimated")
    assert heard == []


def test_a_forgotten_stream_is_settled(ts: Tallystick) -> None:
    def take_one() -> None:
        for _ in metered(ts, SdkStream(*WHOLE)).response:
            break

    take_one()
    assert eventually(lambda: held(ts) == 0)
    assert recorded(ts).flags == ("partial", "estimated")


def test_a_forgotten_asynchronous_stream_is_settled(sqlite_url: str, clock: FixedClock) -> None:
    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            async for _ in (await meter.call(lambda: chunks_async(*WHOLE))).response:
                break
            assert eventually(lambda: held(ts.sync) == 0)
            assert recorded(ts.sync).flags == ("partial", "estimated")

    asyncio.run(consume())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_drops_its_copy_leaves_the_stream_to_its_parent(ts: Tallystick) -> None:
    result = metered(ts, chunks(*WHOLE))
    next(result.response)
    child = os.fork()
    if child == 0:
        try:
            # Of its own streams, the child takes care.
            del result
            metered(ts, SdkStream(*WHOLE), tokens=50)
            settled = eventually(lambda: held(ts) == 100)
            time.sleep(0.1)
            os._exit(0 if settled else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert held(ts) == 100
    list(result.response)
    assert result.event.flags == ()
    assert held(ts) == 0


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_consumer_settles_what_passed(sqlite_url: str, clock: FixedClock, times: int) -> None:
    async def waiting() -> AsyncIterator[Any]:
        yield HELLO
        await asyncio.Event().wait()

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            result = await meter.call(waiting)
            settled = asyncio.Event()
            ts.on(UsageRecorded)(lambda _: settled.set())
            reader = asyncio.create_task(read(result.response))
            await asyncio.sleep(0.02)
            for _ in range(times):
                # A cancel scope, as web frameworks use them, cancels every await of what it ends.
                reader.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await reader
            await settled.wait()
            assert result.usage.output_tokens == 3
            assert recorded(ts.sync).flags == ("partial", "estimated")

    asyncio.run(asyncio.wait_for(consume(), 10))


def test_a_reader_that_is_cancelled_before_a_generator_answered_voids_the_call(
    sqlite_url: str, clock: FixedClock
) -> None:
    async def silent() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield HELLO

    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            stream = (await meter.call(silent)).response
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.02)
            assert held(ts.sync) == 0
            assert list(ts.sync.usage.events(BILLABLE)) == []

    asyncio.run(consume())


class SilentStreamManager:
    """Opens a stream that says nothing."""

    async def __aenter__(self) -> AsyncIterator[Any]:
        return chunks_async_then_silence()

    async def __aexit__(self, *exception: object) -> None:
        pass


async def chunks_async_then_silence(*each: object) -> AsyncIterator[Any]:
    for chunk in each:
        yield chunk
    await asyncio.Event().wait()


def test_a_reader_that_is_cancelled_once_a_helper_is_open_is_billed(sqlite_url: str, clock: FixedClock) -> None:
    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            result = await meter.call(SilentStreamManager)
            async with result.response as stream:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(stream), 0.02)
            assert recorded(ts.sync).flags == ("partial", "estimated")

    asyncio.run(consume())


def test_a_cancelled_consumer_does_not_wait_for_the_usage_chunk(sqlite_url: str, clock: FixedClock) -> None:
    async def read(stream: Any) -> None:
        async with stream:
            async for chunk in stream:
                if chunk is STOP:
                    await asyncio.Event().wait()

    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            result = await meter.call(lambda: chunks_async_then_silence(HELLO, STOP))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read(result.response), 0.05)
            assert recorded(ts.sync).flags == ("partial", "estimated")

    asyncio.run(asyncio.wait_for(consume(), 10))


# -- broken off -------------------------------------------------------------------------------------------------------


def test_a_failure_before_the_first_chunk_voids_the_call(ts: Tallystick) -> None:
    heard = failures(ts)
    error = ProviderDown("503")
    stream = metered(ts, chunks(then=error)).response
    with pytest.raises(ProviderDown) as raised:
        next(stream)
    assert raised.value is error
    assert list(ts.usage.events(BILLABLE)) == []
    assert held(ts) == 0
    assert heard == [error]


def test_a_failure_after_some_chunks_settles_what_passed(ts: Tallystick) -> None:
    heard = failures(ts)
    error = ProviderDown("the line broke")
    result = metered(ts, chunks(HELLO, then=error), tokens=100)
    with pytest.raises(ProviderDown) as raised:
        list(result.response)
    assert raised.value is error
    assert (result.usage.input_tokens, result.usage.output_tokens) == (97, 3)
    assert recorded(ts).flags == ("partial", "estimated")
    assert heard == [error]


def test_an_asynchronous_failure_after_some_chunks_settles_what_passed(sqlite_url: str, clock: FixedClock) -> None:
    error = ProviderDown("the line broke")

    async def consume() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            heard = failures(ts.sync)
            meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=100)
            result = await meter.call(lambda: chunks_async(HELLO, then=error))
            with pytest.raises(ProviderDown) as raised:
                async for _ in result.response:
                    pass
            assert raised.value is error
            assert recorded(ts.sync).flags == ("partial", "estimated")
            assert heard == [error]

    asyncio.run(consume())


def test_the_providers_exception_is_the_one_raised_also_where_settling_fails(
    ts: Tallystick, caplog: pytest.LogCaptureFixture
) -> None:
    stream = metered(ts, chunks(HELLO, then=ProviderDown("the line broke"))).response
    next(stream)
    ts.close()
    with pytest.raises(ProviderDown):
        next(stream)
    assert "settling it failed" in caplog.text


def test_closing_a_stream_whose_database_is_gone_says_so(ts: Tallystick) -> None:
    original = SdkStream(*WHOLE)
    stream = metered(ts, original).response
    ts.close()
    with pytest.raises(TallystickError):
        stream.close()
    assert original.is_closed


# -- exactly once -----------------------------------------------------------------------------------------------------


def test_closing_twice_or_after_the_end_records_once(ts: Tallystick) -> None:
    result = metered(ts, SdkStream(*WHOLE))
    with result.response as stream:
        list(stream)
        first = result.usage_event_id
        stream.close()
        assert list(stream) == []
    result.response.close()
    assert recorded(ts).id == result.usage_event_id == first


def test_threads_that_close_one_stream_together_settle_it_once(ts: Tallystick) -> None:
    recordings: list[str] = []
    ts.on(UsageRecorded)(lambda event: recordings.append(event.usage.id))
    stream = metered(ts, SdkStream(*WHOLE)).response
    next(stream)
    start = threading.Barrier(8)

    def close() -> None:
        start.wait()
        stream.close()

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recordings == [recorded(ts).id]


STEPS = st.lists(st.sampled_from(["next", "close", "enter", "leave", "leave with an error"]), max_size=6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS, length=st.integers(0, 3), fails=st.booleans())
def test_whatever_is_done_with_a_stream_is_recorded_at_most_once_and_nothing_stays_held(
    ts: Tallystick, steps: list[str], length: int, fails: bool
) -> None:
    before = ts.limits.check(BILLABLE).tokens_used
    stream = metered(ts, SdkStream(*[HELLO] * length, then=ProviderDown() if fails else None), tokens=100).response
    for step in [*steps, "close"]:
        with suppress(StopIteration, ProviderDown):
            if step == "next":
                next(stream)
            elif step == "close":
                stream.close()
            elif step == "enter":
                stream.__enter__()
            elif step == "leave":
                stream.__exit__(None, None, None)
            else:
                stream.__exit__(ValueError, ValueError("the consumer's"), None)
    acts = [step for step in steps if step != "enter"]
    is_voided = fails and length == 0 and acts[:1] == ["next"]
    assert ts.limits.check(BILLABLE).tokens_used - before == (0 if is_voided else 100)
    assert held(ts) == 0
    assert ts.doctor().ok


# -- custom providers -------------------------------------------------------------------------------------------------


class Shouting:
    """A provider whose streams report in a form of their own."""

    name = "shouting"

    def extract(self, response: object) -> ProviderUsage | None:
        return None

    def stream(self) -> Shouts:
        return Shouts()


class Shouts:
    def __init__(self) -> None:
        self.words = 0

    def feed(self, chunk: str) -> None:
        self.words += len(chunk.split())

    def usage(self) -> ProviderUsage | None:
        return ProviderUsage(output_tokens=self.words)


class Mumbling(Shouting):
    name = "mumbling"

    def stream(self) -> Mumbles:
        return Mumbles()


class Mumbles(Shouts):
    def feed(self, chunk: str) -> None:
        raise LookupError("What did it say?")


def with_provider(url: str, clock: FixedClock, provider: type[Shouting]) -> Tallystick:
    return Tallystick(url, clock=clock, providers={provider.name: {"class": f"{__name__}:{provider.__name__}"}})


def test_a_custom_providers_collector_reads_its_own_chunks(sqlite_url: str, clock: FixedClock) -> None:
    with with_provider(sqlite_url, clock, Shouting) as ts:
        result = ts.meter.billable(BILLABLE).using_provider("shouting", "loud").call(lambda: chunks("HEAR ME", "NOW"))
        assert list(result.response) == ["HEAR ME", "NOW"]
        assert result.usage.output_tokens == 3


def test_a_custom_collector_that_fails_breaks_no_stream_and_is_told_at_its_end(
    sqlite_url: str, clock: FixedClock
) -> None:
    with with_provider(sqlite_url, clock, Mumbling) as ts:
        meter = ts.meter.billable(BILLABLE).using_provider("mumbling", "low").estimate(tokens=100)
        stream = meter.call(lambda: chunks("twelve chars", "twelve chars")).response
        assert [next(stream), next(stream)] == ["twelve chars", "twelve chars"]
        with pytest.raises(ProviderError, match="What did it say"):
            next(stream)
        event = recorded(ts)
        assert (event.usage.input_tokens, event.usage.output_tokens) == (94, 6)
        assert "estimated" in event.flags


# -- streams of other shapes ------------------------------------------------------------------------------------------


class EventStream:
    """As botocore's: it can be iterated, and is not an iterator."""

    def __init__(self, *events: object) -> None:
        self._events = events
        self.is_closed = False

    def __iter__(self) -> Iterator[Any]:
        yield from self._events

    def close(self) -> None:
        self.is_closed = True


def test_bedrocks_answer_with_a_stream_in_it_is_metered(ts: Tallystick) -> None:
    events = EventStream(
        {"contentBlockDelta": {"delta": {"text": "Hello"}}},
        {"metadata": {"usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}}},
    )
    answer = {"ResponseMetadata": {"HTTPStatusCode": 200}, "stream": events}
    result = metered(ts, answer)
    assert result.response["ResponseMetadata"] == {"HTTPStatusCode": 200}
    assert len(list(result.response["stream"])) == 2
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)
    assert answer["stream"] is events


class EitherStream:
    """As LiteLLM's: read with `for` or with `async for`."""

    def __init__(self, *each: object) -> None:
        self._chunks = iter(each)

    def __iter__(self) -> EitherStream:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)

    def __aiter__(self) -> EitherStream:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_for_both_kinds_of_for_is_metered_in_both(ts: Tallystick, is_async: bool) -> None:
    async def read(stream: Any) -> list[Any]:
        return [chunk async for chunk in stream]

    stream = metered(ts, EitherStream(*WHOLE)).response
    passed = asyncio.run(read(stream)) if is_async else list(stream)
    assert passed == WHOLE
    assert recorded(ts).total_tokens == 10


class HelperStream:
    """A helper of an SDK that keeps its raw stream elsewhere than those that are known."""

    def __init__(self) -> None:
        self._snapshot: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    @property
    def current_completion_snapshot(self) -> dict[str, Any]:
        assert self._snapshot is not None
        return self._snapshot

    def read_everything(self) -> str:
        self._snapshot = USAGE
        return "Hello, there"


class HelperStreamManager:
    def __enter__(self) -> HelperStream:
        return HelperStream()

    def __exit__(self, *exception: object) -> None:
        pass


def test_a_helper_whose_chunks_cannot_be_seen_is_settled_with_its_snapshot(ts: Tallystick) -> None:
    result = metered(ts, HelperStreamManager())
    with result.response as stream:
        assert stream.read_everything() == "Hello, there"
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)


def test_a_helper_that_was_not_read_is_settled_at_the_estimate(ts: Tallystick) -> None:
    result = metered(ts, HelperStreamManager(), tokens=100)
    with result.response:
        pass
    assert result.usage.total_tokens == 100
    assert recorded(ts).flags == ("partial", "estimated")


# -- the SDKs' own streams --------------------------------------------------------------------------------------------


def test_an_openai_stream_of_a_plain_call_is_estimated_where_usage_was_not_asked_for(
    ts: Tallystick, server: ProviderServer
) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        meter = ts.meter.billable(BILLABLE).using_provider("openai", "gpt-4o-mini").estimate(tokens=60)
        result = meter.call(lambda: client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True))
        assert isinstance(result.response, openai.Stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in result.response)
    assert result.usage.output_tokens == -(-len(text) // 4) > 10
    assert result.usage.total_tokens == 60
    assert recorded(ts).flags == ("estimated",)


@pytest.mark.parametrize("way", ["events", "text", "message"])
def test_anthropics_helper_is_metered_whichever_way_it_is_read(
    ts: Tallystick, server: ProviderServer, way: str
) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        meter = ts.meter.billable(BILLABLE).using_provider("anthropic", "claude-sonnet-5")
        result = meter.call(
            lambda: client.messages.stream(
                model="claude-sonnet-5", max_tokens=400, messages=[{"role": "user", "content": "How?"}]
            )
        )
        with result.response as stream:
            if way == "events":
                assert list(stream)[-1].type == "message_stop"
            elif way == "text":
                assert "".join(stream.text_stream)
            else:
                assert stream.get_final_text()
    served = server.requests[-1]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (served.input_quantity, served.output_quantity)
    assert recorded(ts).flags == ()


def test_leaving_anthropics_text_early_counts_its_input_and_what_passed(ts: Tallystick, server: ProviderServer) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        meter = ts.meter.billable(BILLABLE).using_provider("anthropic", "claude-sonnet-5")
        result = meter.call(
            lambda: client.messages.stream(
                model="claude-sonnet-5", max_tokens=400, messages=[{"role": "user", "content": "How?"}]
            )
        )
        with result.response as stream:
            passed = "".join(islice(stream.text_stream, 8))
    assert result.usage.input_tokens == server.requests[-1].input_quantity
    assert result.usage.output_tokens == -(-len(passed) // 4) > 5
    assert recorded(ts).flags == ("partial", "estimated")


def test_a_stream_manager_that_is_never_entered_is_voided(ts: Tallystick, server: ProviderServer) -> None:
    calls = server.calls
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        meter = ts.meter.billable(BILLABLE).using_provider("anthropic", "claude-sonnet-5")
        meter.call(lambda: client.messages.stream(model="claude-sonnet-5", max_tokens=400, messages=[]))
        assert eventually(lambda: held(ts) == 0)
    assert list(ts.usage.events(BILLABLE)) == []
    assert server.calls == calls
