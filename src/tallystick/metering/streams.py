"""Streams: an answer that is settled when it ends, however it ends.

A stream is handed to the application as a stand-in that behaves as the original and passes every chunk on as it
arrives. What becomes of its hold:

    read to its end                      settled with the usage that the chunks reported
    closed, left or forgotten early      settled with what was reported so far, flagged "partial"
    broken off by the provider           the same, and `ProviderCallFailed` is sent; the exception passes unchanged
    failed before its first chunk, or    voided, as a call that failed
    cancelled before it was opened
    never begun (a generator that was    voided: the provider was never called
    not started, a `with` not entered)

A stream that was opened and then closed without one chunk read is settled as "partial" too: the provider has accepted
the request and works on it, and to charge nothing would make closing early a way to call it for free.

Where no usage was reported, it is estimated from the length of the text that passed by, and flagged "estimated". The
text itself is never kept.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Self

from tallystick.errors import ProviderError, UsageMissing
from tallystick.metering.call import announce_failure, fail, failure_of, settle
from tallystick.metering.flow import run, run_async
from tallystick.metering.response import MeteredResponse
from tallystick.money import ceil_div
from tallystick.providers.body import Body, fields_of
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.metering.call import Attempt
    from tallystick.metering.commands import CallFailed
    from tallystick.metering.flow import Flow
    from tallystick.metering.response import Settlement
    from tallystick.providers.protocol import UsageStream

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "StandIn",
    "StreamMeter",
    "carry_out_async",
    "is_stream",
    "metered_stream",
    "quietly",
]

CHARACTERS_PER_TOKEN = 4
"""How long a token is taken to be where nobody counted: about right for English, too long for most other languages."""

# A stream of OpenAI's chat ends with a chunk that only carries the usage, after the one that says why it stopped.
_CHUNKS_AFTER_THE_ANSWER = 2

_NO_STREAMS = (str, bytes, bytearray, memoryview, Mapping, list, tuple, set, frozenset, io.IOBase)
_PYDANTIC = ("__pydantic_fields__", "__fields__")

# Where chunks have text. The fields of an event that repeats the whole text, such as `snapshot`, are not among them.
_TEXT_FIELDS = (
    *("choices", "candidates", "data", "delta", "message", "content", "contentBlockDelta", "parts", "output"),
    *("text", "thinking", "reasoning", "reasoning_content", "refusal", "partial_json"),
    *("tool_calls", "function", "arguments"),
)
_TEXT_DEPTH_MAX = 8
_LAST_EVENTS = ("message_stop", "response.completed", "response.incomplete")
_SNAPSHOTS = ("current_message_snapshot", "current_completion_snapshot")


def metered_stream(
    engine: Engine,
    response: Any,
    attempt: Attempt,
    *,
    input_tokens: int | None = None,
    hides_usage_chunk: bool = False,
) -> MeteredResponse[Any] | None:
    """Return a stream that settles its attempt when it ends; None where the response is no stream.

    Iterators are streams, sync and async, and the context managers that open one (`client.messages.stream(...)`).
    `input_tokens` is the size of the request where it is known, for the estimate of a stream that reports nothing.
    `hides_usage_chunk` keeps a chunk from the consumer that carries nothing but the usage.
    """
    stand_in = _stand_in_for(response)
    if stand_in is None:
        return None
    meter = StreamMeter(engine, attempt, input_tokens=input_tokens, hides_usage_chunk=hides_usage_chunk)
    metered = _StreamResponse(stand_in(response, meter), None)
    meter.tell(metered)
    return metered


class _StreamResponse(MeteredResponse[Any]):
    # The meter must not keep it alive: it holds the stream, which then could never be noticed as forgotten.
    __slots__ = ("__weakref__",)


# -- what is known of one stream --------------------------------------------------------------------------------------


class StreamMeter:
    """Takes note of a stream's chunks and settles its attempt, once, whoever ends it."""

    def __init__(
        self, engine: Engine, attempt: Attempt, *, input_tokens: int | None = None, hides_usage_chunk: bool = False
    ) -> None:
        self.engine = engine
        self._attempt = attempt
        self._input_tokens = input_tokens
        self._hides_usage_chunk = hides_usage_chunk
        self._collector: UsageStream | None = None
        self._problem: ProviderError | None = None
        self._chunks = 0
        self._characters = 0
        self._is_asked = True
        self._is_accepted = True
        self._is_answered = False
        self._is_over = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._helper: object = None
        self._metered: weakref.ref[_StreamResponse] | None = None
        context = attempt.context
        try:
            self._collector = engine.providers.stream(context.provider, context.model or None)
        except Exception as error:  # noqa: BLE001  # a custom provider's fault, told when the stream is settled
            self._problem = self._unreadable(error)

    @property
    def is_unsettled(self) -> bool:
        """Whether it is still to be settled here. A forked child has copies of streams that its parent reads on."""
        return not self._is_over and self._process == os.getpid()

    @property
    def awaits_usage(self) -> bool:
        """Whether the whole answer has passed, and only its usage is missing."""
        return self._is_answered and not self._is_over and self._reported() is None

    def tell(self, metered: _StreamResponse) -> None:
        """Give the settlement to this response, as long as anybody has it."""
        self._metered = weakref.ref(metered)

    def read_at_the_end(self, helper: object) -> None:
        """Look into this object of the SDK for the usage where no chunk passes by."""
        self._helper = helper

    def not_asked_yet(self) -> None:
        """Say that the provider is called later, by the first step."""
        self._is_asked = self._is_accepted = False

    def asked(self) -> None:
        """Say that the provider is being called now."""
        self._is_asked = True

    def accepted(self) -> None:
        """Say that the provider has begun to answer."""
        self._is_asked = self._is_accepted = True

    def passes(self, chunk: object) -> bool:
        """Take note of a chunk. Returns whether the consumer is to see it."""
        self._chunks += 1
        self._is_accepted = True
        if self._collector is not None and self._problem is None:
            try:
                self._collector.feed(chunk)
            except Exception as error:  # noqa: BLE001  # a custom provider's fault must not break the answer off
                self._problem = self._unreadable(error)
        fields = fields_of(chunk)
        self._characters += _characters_of(chunk if isinstance(chunk, str) else fields)
        self._is_answered = self._is_answered or _ends_answer(fields)
        return not (self._hides_usage_chunk and _is_usage_only(fields))

    # -- the ends -----------------------------------------------------------------------------------------------------

    def completed(self) -> Flow[None]:
        """Settle a stream that was read to its end.

        Raises:
            StorageError: as `settle`. UsageMissing, ProviderError: as for any response, after it was recorded.
        """
        if self._takes_the_end():
            yield from self._settle(is_whole=True)

    def left(self, *, is_quiet: bool = False) -> Flow[None]:
        """Settle a stream that its consumer left. `is_quiet` logs what goes wrong: another exception is on its way."""
        if not self._takes_the_end():
            return
        if not self._is_asked:
            yield from fail(self.engine, self._attempt, GeneratorExit())
            return
        is_whole = self._is_answered and self._reported() is not None
        settling = self._settle(is_whole=is_whole)
        yield from self._logged(settling) if is_quiet else settling

    def failed(self, error: BaseException) -> Flow[None]:
        """Settle, or void, a stream that an exception ended, which is the consumer's to see. Never raises."""
        if self._is_accepted and not isinstance(error, Exception):
            # A cancellation is the consumer's: the provider went on working.
            yield from self.left(is_quiet=True)
            return
        if not self._takes_the_end():
            return
        if self._chunks == 0:
            yield from self._logged(fail(self.engine, self._attempt, error))
            return
        failure = failure_of(self.engine, self._attempt, error) if isinstance(error, Exception) else None
        yield from self._logged(self._settle(is_whole=False, failure=failure))
        if isinstance(error, Exception):
            announce_failure(self.engine, self._attempt, error)

    def _takes_the_end(self) -> bool:
        with self._lock:
            is_first = not self._is_over
            self._is_over = True
        return is_first

    def _settle(self, *, is_whole: bool, failure: CallFailed | None = None) -> Flow[None]:
        usage = self._usage()
        flags = () if is_whole else ("partial",)
        settlement = yield from settle(self.engine, self._attempt, usage, flags=flags, failure=failure)
        self._finish(settlement)
        if self._problem is not None:
            raise self._problem
        if is_whole and self._reported() is None and self.engine.settings.on_missing_usage == "error":
            raise UsageMissing(
                f"The stream of {self._attempt.context.provider} carried no usage; {usage.total_tokens} tokens were "
                f"recorded as estimated ({settlement.usage_event_id}). Ask for it (OpenAI: stream_options="
                '{"include_usage": True}), or register a provider class whose stream() reads it.'
            )

    def _finish(self, settlement: Settlement) -> None:
        metered = self._metered() if self._metered is not None else None
        if metered is not None:
            metered.finish(settlement)

    def _logged(self, flow: Flow[None]) -> Flow[None]:
        return quietly(self.engine, self._attempt, flow)

    # -- the usage ----------------------------------------------------------------------------------------------------

    def _usage(self) -> ProviderUsage:
        usage = self._reported()
        if usage is None:
            return self._estimated()
        if usage.estimated:
            # Anthropic reports the input at the start. What passed by says more of the output than that.
            return replace(usage, output_tokens=max(usage.output_tokens, self._passed_tokens()))
        return usage

    def _reported(self) -> ProviderUsage | None:
        if self._problem is not None or self._collector is None:
            return None
        try:
            usage = self._collector.usage()
            if usage is None and self._chunks == 0 and self._helper is not None:
                usage = self._usage_of_helper()
            if usage is not None and not isinstance(usage, ProviderUsage):
                raise TypeError(f"usage() returned {type(usage).__name__}")  # noqa: TRY301  # told like any other fault
        except Exception as error:  # noqa: BLE001  # as in `passes`
            self._problem = self._unreadable(error)
            return None
        return usage

    def _usage_of_helper(self) -> ProviderUsage | None:
        context = self._attempt.context
        for name in _SNAPSHOTS:
            # Before the first event, a snapshot is an assertion that fails.
            with suppress(AttributeError, AssertionError):
                snapshot = getattr(self._helper, name)
                return self.engine.providers.extract(snapshot, context.provider, context.model or None)
        return None

    def _estimated(self) -> ProviderUsage:
        """Return a usage from the text that passed by.

        The input is the request's where its size is known; else it is what is left of the call's estimate, so that the
        total is the estimate, or the output where that alone is more.
        """
        output_tokens = self._passed_tokens()
        input_tokens = self._input_tokens
        if input_tokens is None:
            input_tokens = max(0, self._attempt.estimated_tokens - output_tokens)
        return ProviderUsage(input_tokens=input_tokens, output_tokens=output_tokens, estimated=True)

    def _passed_tokens(self) -> int:
        return ceil_div(self._characters, CHARACTERS_PER_TOKEN)

    def _unreadable(self, error: Exception) -> ProviderError:
        problem = ProviderError(f"Provider {self._attempt.context.provider!r} failed to read a stream: {error!r}")
        problem.__cause__ = error
        return problem


def quietly(engine: Engine, attempt: Attempt, flow: Flow[None]) -> Flow[None]:
    """Carry out a settlement, and log what goes wrong: another exception is on its way to the application."""
    try:
        yield from flow
    except Exception:
        engine.logger.warning("The answer of hold %s ended, and settling it failed.", attempt.hold.id, exc_info=True)


async def carry_out_async(flow: Flow[None], engine: Engine) -> None:
    """Carry a settlement out in a task of its own: a consumer that is cancelled, and again, does not break it off."""
    task = asyncio.ensure_future(run_async(flow, engine.lane))
    _settling.add(task)
    task.add_done_callback(_settling.discard)
    await asyncio.shield(task)


_settling: set[asyncio.Future[None]] = set()


def _characters_of(value: object, depth: int = 0) -> int:
    """Return the length of a chunk's text. The text is looked at and left where it is."""
    if isinstance(value, str):
        return len(value)
    if depth > _TEXT_DEPTH_MAX:
        return 0
    if isinstance(value, list | tuple):
        return sum(_characters_of(each, depth + 1) for each in value)
    fields = fields_of(value)
    kind = fields.get("type")
    if isinstance(kind, str) and kind.endswith(".done"):
        # OpenAI's Responses repeat the whole text at its end.
        return 0
    return sum(_characters_of(fields[name], depth + 1) for name in _TEXT_FIELDS if fields.get(name))


def _ends_answer(fields: Body) -> bool:
    """Say whether a chunk tells why the answer stopped: what follows is at most its usage."""
    if fields.get("type") in _LAST_EVENTS:
        return True
    answers = fields.get("choices") or fields.get("candidates") or fields_of(fields.get("data")).get("choices")
    return isinstance(answers, list) and any(fields_of(answer).get("finish_reason") for answer in answers)


def _is_usage_only(fields: Body) -> bool:
    return fields.get("choices") == [] and fields.get("usage") is not None


# -- stand-ins --------------------------------------------------------------------------------------------------------


class StandIn:
    """Stands in for another object. What is not defined here is the original's, its class included."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        if name == "_original":
            # Half made, as by `copy`: there is nobody to ask.
            raise AttributeError(name)
        return getattr(self._original, name)

    # `isinstance(stream, openai.Stream)` keeps its answer.
    __class__ = property(lambda self: type(self._original))

    def __dir__(self) -> Iterable[str]:
        return dir(self._original)

    def __repr__(self) -> str:
        return f"<metered {self._original!r}>"


class _Metered(StandIn):
    """A stand-in whose end is noticed also where it is only forgotten."""

    def __init__(self, original: Any, meter: StreamMeter) -> None:
        super().__init__(original)
        self._meter = meter
        _forgotten.open()

    def _carry_out(self, flow: Flow[None]) -> None:
        run(flow, self._meter.engine.lane)

    async def _carry_out_async(self, flow: Flow[None]) -> None:
        await carry_out_async(flow, self._meter.engine)

    def __del__(self) -> None:
        # Whatever is gone already, at the end of the process or of a failed `__init__`, cannot be put right here.
        with suppress(Exception):
            if self._meter.is_unsettled:
                _forgotten.put(self._meter)


class MeteredStream(_Metered):
    """A stream for `for`. It settles in the thread that reads it."""

    def __init__(self, original: Any, meter: StreamMeter) -> None:
        super().__init__(original, meter)
        self._iterator: Iterator[Any] = original if hasattr(type(original), "__next__") else iter(original)
        if isinstance(original, GeneratorType):
            meter.not_asked_yet()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        meter = self._meter
        meter.asked()
        while True:
            try:
                chunk = next(self._iterator)
            except StopIteration:
                self._carry_out(meter.completed())
                raise
            except BaseException as error:
                self._carry_out(meter.failed(error))
                raise
            if meter.passes(chunk):
                return chunk

    def __enter__(self) -> Self:
        if hasattr(self._original, "__enter__"):
            self._original.__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        try:
            self.read_usage_chunk()
            if hasattr(self._original, "__exit__"):
                return self._original.__exit__(*exception)
            return self._close_original()
        finally:
            self._carry_out(self._meter.left(is_quiet=exception[0] is not None))

    def close(self) -> Any:
        """Close the stream. What passed by until now is settled."""
        try:
            self.read_usage_chunk()
            return self._close_original()
        finally:
            self._carry_out(self._meter.left())

    def read_usage_chunk(self) -> None:
        """Read on where only the usage is missing: many leave at the `finish_reason`, one chunk before it."""
        with suppress(Exception):
            for _ in range(_CHUNKS_AFTER_THE_ANSWER):
                if self._meter.awaits_usage:
                    self._meter.passes(next(self._iterator))

    def _close_original(self) -> Any:
        close = getattr(self._original, "close", None)
        return close() if callable(close) else None


class AsyncMeteredStream(_Metered):
    """A stream for `async for`."""

    def __init__(self, original: Any, meter: StreamMeter) -> None:
        super().__init__(original, meter)
        self._async_iterator: AsyncIterator[Any] = original if hasattr(type(original), "__anext__") else aiter(original)
        if isinstance(original, AsyncGeneratorType):
            meter.not_asked_yet()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        meter = self._meter
        meter.asked()
        while True:
            try:
                chunk = await anext(self._async_iterator)
            except StopAsyncIteration:
                await self._carry_out_async(meter.completed())
                raise
            except BaseException as error:
                await self._carry_out_async(meter.failed(error))
                raise
            if meter.passes(chunk):
                return chunk

    async def __aenter__(self) -> Self:
        if hasattr(self._original, "__aenter__"):
            await self._original.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        try:
            await self.read_usage_chunk_async(exception[0])
            if hasattr(self._original, "__aexit__"):
                return await self._original.__aexit__(*exception)
            return await self._close_original_async()
        finally:
            await self._carry_out_async(self._meter.left(is_quiet=exception[0] is not None))

    async def close(self) -> Any:
        """Close the stream. What passed by until now is settled."""
        return await self.aclose()

    async def aclose(self) -> Any:
        """Close the stream. What passed by until now is settled."""
        try:
            await self.read_usage_chunk_async()
            return await self._close_original_async()
        finally:
            await self._carry_out_async(self._meter.left())

    async def read_usage_chunk_async(self, exception: type[BaseException] | None = None) -> None:
        """Read on where only the usage is missing, as `MeteredStream.read_usage_chunk`; not for a cancelled task."""
        if exception is not None and not issubclass(exception, Exception):
            return
        with suppress(Exception):
            for _ in range(_CHUNKS_AFTER_THE_ANSWER):
                if self._meter.awaits_usage:
                    self._meter.passes(await anext(self._async_iterator))

    async def _close_original_async(self) -> Any:
        close = getattr(self._original, "aclose", None) or getattr(self._original, "close", None)
        closing = close() if callable(close) else None
        return await closing if inspect.isawaitable(closing) else closing


class EitherMeteredStream(MeteredStream, AsyncMeteredStream):
    """A stream for both kinds of `for`, as LiteLLM's. It settles in the way in which it is read."""

    def close(self) -> Any:
        """Close the stream, in the original's way."""
        if inspect.iscoroutinefunction(getattr(self._original, "close", None)):
            return self.aclose()
        return super().close()


class MeteredManager(_Metered):
    """A `with` that opens a stream. The provider is called on entering."""

    def __init__(self, original: Any, meter: StreamMeter) -> None:
        super().__init__(original, meter)
        self._opened: MeteredStream | None = None
        meter.not_asked_yet()

    def __enter__(self) -> Any:
        self._meter.asked()
        try:
            stream = self._original.__enter__()
        except BaseException as error:
            self._carry_out(self._meter.failed(error))
            raise
        opened, self._opened = _opened(stream, self._meter)
        self._meter.accepted()
        return opened

    def __exit__(self, *exception: Any) -> Any:
        try:
            if self._opened is not None:
                self._opened.read_usage_chunk()
            return self._original.__exit__(*exception)
        finally:
            self._carry_out(self._meter.left(is_quiet=exception[0] is not None))


class AsyncMeteredManager(_Metered):
    """An `async with` that opens a stream. The provider is called on entering."""

    def __init__(self, original: Any, meter: StreamMeter) -> None:
        super().__init__(original, meter)
        self._opened: AsyncMeteredStream | None = None
        meter.not_asked_yet()

    async def __aenter__(self) -> Any:
        self._meter.asked()
        try:
            stream = await self._original.__aenter__()
        except BaseException as error:
            await self._carry_out_async(self._meter.failed(error))
            raise
        opened, self._opened = _opened(stream, self._meter)
        self._meter.accepted()
        return opened

    async def __aexit__(self, *exception: Any) -> Any:
        try:
            if self._opened is not None:
                await self._opened.read_usage_chunk_async(exception[0])
            return await self._original.__aexit__(*exception)
        finally:
            await self._carry_out_async(self._meter.left(is_quiet=exception[0] is not None))


# -- telling what a response is ---------------------------------------------------------------------------------------


def _stand_in_for(response: Any) -> Callable[[Any, StreamMeter], Any] | None:
    """Return what makes the stand-in of a response; None where it is no stream and opens none."""
    if is_stream(response):
        return _stream
    kind = type(response)
    if kind is dict and is_stream(response.get("stream")):
        return _event_stream
    if kind.__name__.endswith("StreamManager"):
        return AsyncMeteredManager if hasattr(kind, "__aenter__") else MeteredManager
    return None


def is_stream(response: Any) -> bool:
    """Say whether a response is read with `for` or `async for`, chunk by chunk and once."""
    return any(_colours(response))


def _colours(response: Any) -> tuple[bool, bool]:
    """Say whether a response is a stream to read with `for`, and with `async for`.

    What only can be iterated anew (a list, a page of results, a pydantic model) is a response like any other.
    """
    kind = type(response)
    if isinstance(response, _NO_STREAMS) or any(hasattr(kind, name) for name in _PYDANTIC):
        return False, False
    # Such as the event streams of botocore.
    is_named = kind.__name__.endswith("Stream")
    return (
        hasattr(kind, "__next__") or (is_named and hasattr(kind, "__iter__")),
        hasattr(kind, "__anext__") or (is_named and hasattr(kind, "__aiter__")),
    )


def _stream(stream: Any, meter: StreamMeter) -> Any:
    return _opened(stream, meter)[0]


def _event_stream(response: dict[str, Any], meter: StreamMeter) -> dict[str, Any]:
    """Return Bedrock's answer to `converse_stream`, a dict with a stream in it, with that stream metered."""
    return {**response, "stream": _stream(response["stream"], meter)}


def _opened(stream: Any, meter: StreamMeter) -> tuple[Any, Any]:
    """Return what the application reads in place of a stream, and the stand-in that sees its chunks.

    A helper such as Anthropic's `MessageStream` has several ways to be read (`text_stream`, `get_final_message()`),
    which all end at the raw stream that it keeps. So it stays itself, over a stand-in of that.
    """
    raw = getattr(stream, "_raw_stream", None)
    if is_stream(raw):
        seen = _metered(raw, meter)
        stream._raw_stream = seen
        return stream, seen
    if any(hasattr(type(stream), name) for name in _SNAPSHOTS):
        meter.read_at_the_end(stream)
    seen = _metered(stream, meter)
    return seen, seen


def _metered(stream: Any, meter: StreamMeter) -> MeteredStream | AsyncMeteredStream:
    is_sync, is_async = _colours(stream)
    if is_sync and is_async:
        return EitherMeteredStream(stream, meter)
    return AsyncMeteredStream(stream, meter) if is_async else MeteredStream(stream, meter)


# -- forgotten streams ------------------------------------------------------------------------------------------------


class _Forgotten:
    """Settles streams that were dropped without being read to their end or closed.

    `__del__` may run in any thread at any moment, also within the lane itself, where waiting for the lane would never
    end. So it only puts the meter here, which is safe anywhere, and a thread of its own settles it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start with nothing: at birth, and in a forked child, whose parent settles its own streams."""
        self._meters: SimpleQueue[StreamMeter] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Have the thread running before anything can be forgotten: in `__del__` it may be too late to start one."""
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._settle_forever, name="tallystick-streams", daemon=True)
                    self._thread.start()

    def put(self, meter: StreamMeter) -> None:
        self._meters.put(meter)

    def _settle_forever(self) -> None:
        while True:
            meter = self._meters.get()
            with suppress(Exception):
                run(meter.left(is_quiet=True), meter.engine.lane)
            # Not until the next one comes: the meter holds its engine.
            del meter


_forgotten = _Forgotten()

os.register_at_fork(after_in_child=_forgotten.reset)
