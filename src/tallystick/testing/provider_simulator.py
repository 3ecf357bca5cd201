"""A provider without a network: realistic answers, with the token counts, delays and failures that a test wants."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeAlias

from tallystick.clock import FixedClock
from tallystick.errors import InvalidInput
from tallystick.provider_answers import anthropic, gemini, mistral, openai
from tallystick.provider_answers.call import CHARACTERS_PER_TOKEN, Call, JsonObject, PromptCache
from tallystick.provider_answers.endpoint import Endpoint, digest_of
from tallystick.provider_answers.reply import RefusedError, Reply

__all__ = ["ProviderSimulator", "SimulatedCall", "SimulatedProviderError"]

Tokens: TypeAlias = int | tuple[int, int]
Seconds: TypeAlias = float | tuple[float, float]

_ENDPOINTS: Mapping[tuple[str, str], Endpoint] = MappingProxyType(
    {
        (one.provider.name, one.name): one
        for one in (*openai.ENDPOINTS, *anthropic.ENDPOINTS, *gemini.ENDPOINTS, *mistral.ENDPOINTS)
    }
)
# The first endpoint of a provider is what it is called with where nothing else is said.
_USUAL_ENDPOINTS = {
    "openai": "chat.completions",
    "anthropic": "messages",
    "google": "generate_content",
    "mistral": "chat.completions",
}
_MODEL_BEGINNINGS = {"claude": "anthropic", "gemini": "google", "mistral": "mistral", "ministral": "mistral"}
_MILLION = 1_000_000
# 2026-01-01: when answers were made that no clock tells of.
_CREATED = 1_767_225_600
_NO_CACHE = PromptCache(1 << 62)


class SimulatedProviderError(Exception):
    """The simulated provider has refused a call: its HTTP status, and the error as this provider words it."""

    def __init__(self, status_code: int, message: str, body: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """One call as the provider would bill it: all tokens, those of the cache and of reasoning included.

    They are zero where the call failed. What was asked is not kept.
    """

    number: int
    provider: str
    endpoint: str
    model: str
    is_stream: bool
    status: int
    input_tokens: int
    output_tokens: int


class _StatedCache(PromptCache):
    """Finds exactly so many tokens of a prompt in its cache."""

    def __init__(self, tokens: int) -> None:
        super().__init__(0)
        self._tokens = tokens

    def was_seen(self, beginning: bytes) -> bool:  # noqa: ARG002  # what was said to be cached is known
        return True

    def repeated_tokens(self, scope: str, text: str) -> int:  # noqa: ARG002  # as above
        return self._tokens


class ProviderSimulator:
    """Answers calls as OpenAI, Anthropic, Gemini and Mistral would, in this process and without a network.

    ```python
    simulator = ProviderSimulator(input_tokens=(200, 800), output_tokens=150, seed=7)
    ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").call(
        lambda: simulator.call(model="gpt-4o-mini")
    )
    ```

    An answer is a mapping in the provider's own format, a stream an iterator of its events. The same seed and the same
    calls in the same order always give the same answers. It is a client, too: `ts.wrap(simulator, provider="openai")`
    meters `simulator.chat.completions.create(...)`, `responses.create`, `embeddings.create`, `messages.create` and
    `models.generate_content`. It may be shared by threads.

    Args:
        input_tokens: how long a prompt is, or a range from which each call draws. None: as long as its messages are.
        output_tokens: how long an answer is, reasoning included, or a range. None: some 20 to 200, by the prompt.
        cached_tokens: how much of the prompt the provider has in its cache.
        failure_rate: the share of the calls that fail, from 0 to 1, drawn by the seed.
        failure_status: the HTTP status of these failures.
        clock: what delays advance, such as the engine's own `FixedClock`. Nobody waits in real time.
        delay_seconds: how long an answer takes in the clock's time, or a range.
        chunk_seconds: how much later each event of a stream comes.
        seed: another seed draws other numbers.

    Raises:
        InvalidInput: an argument is out of its range, or a delay has no clock.
    """

    def __init__(
        self,
        *,
        input_tokens: Tokens | None = None,
        output_tokens: Tokens | None = None,
        cached_tokens: Tokens = 0,
        failure_rate: float = 0,
        failure_status: int = 500,
        clock: FixedClock | None = None,
        delay_seconds: Seconds = 0,
        chunk_seconds: float = 0,
        seed: int = 7,
    ) -> None:
        self._input_tokens = None if input_tokens is None else _range("input_tokens", input_tokens)
        self._output_tokens = None if output_tokens is None else _range("output_tokens", output_tokens)
        self._cached_tokens = _range("cached_tokens", cached_tokens)
        if not 0 <= failure_rate <= 1:
            raise InvalidInput("failure_rate", failure_rate, "Give a share from 0 to 1.")
        self._failure_rate = failure_rate
        self._failure_status = _status("failure_status", failure_status)
        self._delay = _range("delay_seconds", delay_seconds)
        self._chunk_seconds = _range("chunk_seconds", chunk_seconds)[0]
        if clock is None and (self._delay[1] or self._chunk_seconds):
            raise InvalidInput("clock", None, "A delay advances a clock: give the FixedClock of the engine.")
        self._clock = clock
        self._seed = seed
        self._lock = threading.Lock()
        self._arrived = 0
        self._failures: list[tuple[int, int | None]] = []
        self._served: list[SimulatedCall] = []
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._method("openai", "chat.completions")))
        self.responses = SimpleNamespace(create=self._method("openai", "responses"))
        self.embeddings = SimpleNamespace(create=self._method("openai", "embeddings"))
        self.messages = SimpleNamespace(create=self._method("anthropic", "messages"))
        self.models = SimpleNamespace(
            generate_content=self._method("google", "generate_content"),
            generate_content_stream=self._method("google", "generate_content", stream=True),
        )

    @property
    def calls(self) -> int:
        """How many calls arrived, failed ones included."""
        return self._arrived

    @property
    def requests(self) -> tuple[SimulatedCall, ...]:
        """The calls that were answered or refused, in that order."""
        with self._lock:
            return tuple(self._served)

    def fail_next(self, status: int = 500, *, count: int = 1, after_chunks: int | None = None) -> None:
        """Let the next calls fail with an HTTP status; streams, with `after_chunks`, only after so many events.

        Raises:
            InvalidInput: the status is not from 400 to 599, or a number is too small.
        """
        if count < 1 or (after_chunks is not None and after_chunks < 0):
            raise InvalidInput("count", count, "Fail at least one call, after zero or more events.")
        with self._lock:
            self._failures += [(_status("status", status), after_chunks)] * count

    def call(
        self,
        model: str = "gpt-4o-mini",
        *,
        provider: str | None = None,
        endpoint: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
        stream: bool = False,
        **body: Any,
    ) -> Any:
        """Answer one call: with a mapping in the provider's format, or with an iterator of a stream's events.

        The provider follows from the model's name unless it is given: "openai", "anthropic", "google" or "mistral". The
        endpoint is its usual one; OpenAI also has "responses" and "embeddings". Token counts that are given here, and
        whatever else belongs into the request (`messages=...`), replace what the simulator would draw.

        Raises:
            SimulatedProviderError: the call fails, as it was told to, or because the request lacks something.
            InvalidInput: there is no such endpoint, or a number is out of its range.
        """
        answered = self._endpoint(model, provider, endpoint)
        stated = _Stated(input_tokens, output_tokens, cached_tokens)
        number, failure = self._arrive()
        status, after_chunks = failure or (0, None)
        call = self._call(answered, model, body, stated, number, is_stream=stream)
        try:
            reply = _answered(answered, call, 0 if stream and after_chunks is not None else status)
        except RefusedError as refusal:
            self._note(number, answered, model, stream, Reply((), status=refusal.status))
            raise _error(answered, refusal) from None
        self._wait(number)
        if stream:
            return self._events(number, answered, model, reply, status, after_chunks)
        self._note(number, answered, model, stream, reply)
        return json.loads(reply.chunks[0])

    __call__ = call

    async def acall(self, model: str = "gpt-4o-mini", **keywords: Any) -> Any:
        """Answer as `call` does, awaited; a stream is an asynchronous iterator."""
        answer = self.call(model, **keywords)
        return _asynchronous(answer) if keywords.get("stream") else answer

    # -- inside -------------------------------------------------------------------------------------------------------

    def _method(self, provider: str, endpoint: str, *, stream: bool = False) -> Any:
        def create(**body: Any) -> Any:
            body = {"stream": stream, **body}
            options = body.pop("stream_options", None)
            answer = self.call(provider=provider, endpoint=endpoint, **body)
            wants_usage = options is None or options.get("include_usage", True)
            return answer if wants_usage else (event for event in answer if event.get("choices") != [])

        return create

    def _endpoint(self, model: str, provider: str | None, endpoint: str | None) -> Endpoint:
        beginning = model.partition("-")[0]
        name = provider or _MODEL_BEGINNINGS.get(beginning, "openai")
        found = _ENDPOINTS.get((name, endpoint or _USUAL_ENDPOINTS.get(name, "")))
        if found is None:
            known = ", ".join(f"{one} {other}" for one, other in _ENDPOINTS)
            raise InvalidInput("endpoint", f"{name} {endpoint or ''}".strip(), f"Use one of: {known}.")
        return found

    def _arrive(self) -> tuple[int, tuple[int, int | None] | None]:
        """Return the number of this call, and how it was told to fail."""
        with self._lock:
            self._arrived += 1
            number = self._arrived
            if self._failures:
                return number, self._failures.pop(0)
        if self._draw(number, "failure", (0, _MILLION - 1)) < self._failure_rate * _MILLION:
            return number, (self._failure_status, None)
        return number, None

    def _call(
        self, endpoint: Endpoint, model: str, body: Mapping[str, Any], stated: _Stated, number: int, *, is_stream: bool
    ) -> Call:
        given = self._drawn("input_tokens", stated.input_tokens, self._input_tokens, number)
        cached = self._drawn("cached_tokens", stated.cached_tokens, self._cached_tokens, number) or 0
        asked: JsonObject = {"model": model, **_prompt(endpoint, body, given, cached), "stream": is_stream}
        if endpoint.name == "chat.completions" and is_stream:
            asked["stream_options"] = {"include_usage": True}
        return Call(
            number=number,
            seed=self._seed,
            digest=digest_of(endpoint, model, {**asked, "number": number}, seed=self._seed),
            model=model,
            is_stream=is_stream,
            query={"alt": "sse"},
            body=asked,
            cache=_StatedCache(cached) if cached else _NO_CACHE,
            created=_CREATED if self._clock is None else int(self._clock.now().timestamp()),
            output_tokens=self._drawn("output_tokens", stated.output_tokens, self._output_tokens, number),
        )

    def _drawn(self, what: str, stated: int | None, spread: tuple[Any, Any] | None, number: int) -> int | None:
        if stated is not None:
            return int(_range(what, stated)[0])
        return None if spread is None else self._draw(number, what, spread)

    def _draw(self, number: int, what: str, spread: tuple[int, int]) -> int:
        least, most = spread
        text = f"{self._seed} {number} {what}".encode()
        return least + int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) % (most - least + 1)

    def _wait(self, number: int) -> None:
        least, most = (round(seconds * _MILLION) for seconds in self._delay)
        if self._clock is not None and most:
            self._clock.advance(microseconds=self._draw(number, "delay", (least, most)))

    def _events(
        self, number: int, endpoint: Endpoint, model: str, reply: Reply, status: int, after_chunks: int | None
    ) -> Iterator[Any]:
        """Yield the events of a stream; whoever stops early has been billed all the same."""
        failure = None if after_chunks is None else RefusedError(status, f"The stream broke off with {status}.")
        self._note(number, endpoint, model, True, reply if failure is None else replace(reply, status=status))
        for place, chunk in enumerate(reply.chunks):
            if failure is not None and place == after_chunks:
                raise _error(endpoint, failure)
            if self._clock is not None and self._chunk_seconds:
                self._clock.advance(seconds=self._chunk_seconds)
            event = _event(chunk)
            if event is not None:
                yield event

    def _note(self, number: int, endpoint: Endpoint, model: str, is_stream: bool, reply: Reply) -> None:
        made = SimulatedCall(
            number=number,
            provider=endpoint.provider.name,
            endpoint=endpoint.name,
            model=model,
            is_stream=is_stream,
            status=reply.status,
            input_tokens=reply.input_quantity,
            output_tokens=reply.output_quantity,
        )
        with self._lock:
            self._served.append(made)


@dataclass(frozen=True, slots=True)
class _Stated:
    """The token counts that one call was given."""

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None


def _prompt(endpoint: Endpoint, body: Mapping[str, Any], tokens: int | None, cached: int) -> JsonObject:
    """Return the request's body, with a prompt of so many tokens where it is stated, or where there is none."""
    field = {"messages": "messages", "generate_content": "contents", "chat.completions": "messages"}.get(
        endpoint.name, "input"
    )
    asked = {name: value for name, value in body.items() if name != "config"}
    if endpoint.name == "messages":
        asked.setdefault("max_tokens", 1 << 20)
    if tokens is None and asked.get(field):
        return asked
    wanted = max(64 if tokens is None else tokens, cached)
    text, in_cache = "x" * ((wanted - cached) * CHARACTERS_PER_TOKEN), "x" * (cached * CHARACTERS_PER_TOKEN)
    if endpoint.name == "messages" and cached:
        marked = {"type": "text", "text": in_cache, "cache_control": {"type": "ephemeral"}}
        return {**asked, "system": [marked], "tools": None, "messages": [{"content": text}]}
    whole = in_cache + text
    content: Any = whole
    if field == "messages":
        # Without a role: that would be text too, and count.
        content = [{"content": whole}]
    elif field == "contents":
        content = [{"parts": [{"text": whole}]}]
    emptied: JsonObject = {
        name: None for name in ("system", "tools", "instructions", "systemInstruction") if name in asked
    }
    return {**asked, **emptied, field: content}


def _answered(endpoint: Endpoint, call: Call, failure_status: int) -> Reply:
    if failure_status:
        raise RefusedError(failure_status, f"The simulated provider was told to fail this call with {failure_status}.")
    return endpoint.answer(call)


def _error(endpoint: Endpoint, refusal: RefusedError) -> SimulatedProviderError:
    return SimulatedProviderError(
        refusal.status, refusal.message, endpoint.provider.error(refusal.status, refusal.message)
    )


def _event(chunk: bytes) -> Any:
    """Return what an event of a stream says; None for one that only ends it."""
    data = next((line for line in chunk.split(b"\n") if line.startswith(b"data: {")), None)
    return None if data is None else json.loads(data.removeprefix(b"data: "))


async def _asynchronous(events: Iterator[Any]) -> AsyncIterator[Any]:
    for event in events:
        yield event


def _range(name: str, stated: Any) -> tuple[Any, Any]:
    spread = stated if isinstance(stated, tuple) else (stated, stated)
    if len(spread) != 2 or not 0 <= spread[0] <= spread[1]:
        raise InvalidInput(name, stated, "Give a number of zero or more, or a range of two such as (200, 800).")
    return spread


def _status(name: str, status: int) -> int:
    if not 400 <= status <= 599:
        raise InvalidInput(name, status, "A failing call needs an HTTP status from 400 to 599.")
    return status
