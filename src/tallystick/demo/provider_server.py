"""A local stand-in for the model providers: their wire formats on 127.0.0.1, with invented answers and real counting.

The official SDKs talk to it unchanged, so the demo and the tests need neither a key nor the internet, and can prove how
many provider calls really happened. The file reads from the outside in: the server, its counters, HTTP, then one
section per provider. The answers of a section are pure: a call goes in, the finished bytes of a reply come out, and the
server alone decides when they are sent.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import re
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from http.client import responses as reason_phrases
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tallystick.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

__all__ = ["ProviderServer", "ServedRequest"]

JsonObject = dict[str, Any]

HOST = "127.0.0.1"
SERVED_REQUESTS_MAX = 100_000
BODY_BYTES_MAX = 32 * 1024 * 1024
CHARACTERS_PER_TOKEN = 4
CACHE_BLOCK_TOKENS = 128
CONNECTIONS_WAITING_MAX = 1024
FAILURE_HEADER = "x-demo-fail"
FAILING_MODEL_SUFFIXES = {"-rate-limited": 429, "-server-error": 500}


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One provider call as the server saw it: sizes and outcome, never a text.

    The quantities are all that a provider would bill, cached and reasoning tokens included. `unit` says what they
    count: tokens, or characters for the home-made provider. They are zero for a failed call. `finished` is False where
    the client went away before the whole answer was sent; the quantities are then still those of the whole answer.
    """

    number: int
    provider: str
    endpoint: str
    model: str
    is_stream: bool
    status: int
    input_quantity: int
    output_quantity: int
    unit: str
    finished: bool


class ProviderServer:
    """Serve OpenAI, Anthropic, Gemini, Mistral and a home-made provider, in their own formats, inside a `with` block.

    The same seed and request body always give the same text and token counts, streamed or not. Only ids and times
    differ from call to call, and cached tokens, which need an earlier call with the same beginning.

    Base URLs for the SDKs: OpenAI `url + "/v1"`, Anthropic and Gemini `url`, Mistral `url + "/mistral"`. The home-made
    provider answers at `url + "/acme/v1/rewrite"`.

    A call can be made to fail by the header `x-demo-fail: 429` (any status from 400 to 599), by a model name that ends
    in `-rate-limited` (429) or `-server-error` (500), by `fail_every`, or by `fail_next`. It is a call all the same.

    Args:
        latency_seconds: the time before an answer, or before the first event of a stream.
        chunk_seconds: the pause after each event of a stream.
        seed: another seed gives other answers.
        port: 0 takes a free one.
        fail_every: every n-th call fails with `fail_status`.
        retry_after_seconds: what a 429 asks the client to wait.
        require_key: a call without the provider's key header is answered with its 401; the key itself is never checked.
        cache_tokens_min: a shorter repeated beginning of a prompt is not cached.

    Raises:
        InvalidInput: an argument is out of its range.
    """

    def __init__(
        self,
        *,
        latency_seconds: float = 0.02,
        chunk_seconds: float = 0.005,
        seed: int = 7,
        port: int = 0,
        fail_every: int | None = None,
        fail_status: int = 500,
        retry_after_seconds: int = 1,
        require_key: bool = False,
        cache_tokens_min: int = 1024,
    ) -> None:
        _at_least("latency_seconds", latency_seconds, 0)
        _at_least("chunk_seconds", chunk_seconds, 0)
        _at_least("retry_after_seconds", retry_after_seconds, 0)
        _at_least("cache_tokens_min", cache_tokens_min, 1)
        if fail_every is not None:
            _at_least("fail_every", fail_every, 1)
        self.latency_seconds = latency_seconds
        self.chunk_seconds = chunk_seconds
        self.seed = seed
        self.fail_every = fail_every
        self.fail_status = _failure_status("fail_status", fail_status)
        self.retry_after_seconds = retry_after_seconds
        self.require_key = require_key
        self._port_wanted = port
        self._port: int | None = None
        self._failures_ahead: deque[int] = deque()
        self._traffic = _Traffic()
        self._cache = _PromptCache(cache_tokens_min)
        self._connections: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The server's root, such as `http://127.0.0.1:40123`. Raises Conflict outside of the `with` block."""
        if self._port is None:
            raise Conflict("The provider server is not running. Use it as `with ProviderServer() as server:`.")
        return f"http://{HOST}:{self._port}"

    @property
    def calls(self) -> int:
        """How many provider calls arrived, failed ones included. Listing the models is not a call."""
        return self._traffic.calls

    @property
    def in_flight_peak(self) -> int:
        """The greatest number of calls that were open at one moment."""
        return self._traffic.in_flight_peak

    @property
    def requests(self) -> tuple[ServedRequest, ...]:
        """The calls that ended, in that order, the latest 100,000. A client that has its answer finds its call here."""
        return self._traffic.served()

    def fail_next(self, status: int = 500, *, count: int = 1) -> None:
        """Make the next `count` calls fail with this status. Raises InvalidInput unless it is from 400 to 599."""
        _at_least("count", count, 1)
        self._failures_ahead.extend([_failure_status("status", status)] * count)

    # -- running ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise Conflict("This provider server is already running. Leave its `with` block, or make a second server.")
        # Listening starts here, in the caller's thread: a taken port raises at once, and early clients just queue.
        listener = socket.create_server((HOST, self._port_wanted), backlog=CONNECTIONS_WAITING_MAX)
        self._port = listener.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, started)), name="demo-provider-server", daemon=True
        )
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = self._stopping = self._port = None

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        acceptor = await asyncio.start_server(self._converse, sock=listener, backlog=CONNECTIONS_WAITING_MAX)
        started.set()
        await self._stopping.wait()
        acceptor.close()
        conversations = list(self._connections)
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        # A transport closes in the turn after it was told to; without this turn the loop ends with sockets open.
        await asyncio.sleep(0)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        connection = _Connection(reader, writer)
        try:
            # A client that goes away, in whatever state, ends its own conversation and nothing else. Leaving the block
            # cancels the conversations; asyncio's streams would log each one that ended as cancelled.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while (request := await connection.read_request()) is not None:
                    await self._respond(request, connection)
                    if request.closes:
                        break
        finally:
            connection.close()

    # -- answering ----------------------------------------------------------------------------------------------

    async def _respond(self, request: _Request, connection: _Connection) -> None:
        if request.problem is not None:
            await connection.send(_provider_for(request.path).refuse(request.problem, self.retry_after_seconds))
            return
        if request.method == "GET" and request.path == "/v1/models":
            await connection.send(_openai_models())
            return
        for endpoint in _ENDPOINTS:
            match = endpoint.path.fullmatch(request.path)
            if match and request.method == "POST":
                await self._respond_to_call(endpoint, match, request, connection)
                return
        refusal = _RefusedError(404, f"There is no {request.method} {request.path} on this demo provider.")
        await connection.send(_provider_for(request.path).refuse(refusal, self.retry_after_seconds))

    async def _respond_to_call(
        self, endpoint: _Endpoint, match: re.Match[str], request: _Request, connection: _Connection
    ) -> None:
        number = self._traffic.arrive()
        call = _read_call(endpoint, match, request, number=number, seed=self.seed, cache=self._cache)
        try:
            self._refuse_if_asked(endpoint, request, call)
            reply = endpoint.answer(call)
        except _RefusedError as refusal:
            reply = endpoint.provider.refuse(refusal, self.retry_after_seconds)
        served = _served_request(endpoint, call, reply)
        try:
            await self._send_all_but_the_last(reply, connection)
        except (ConnectionError, asyncio.CancelledError):
            self._traffic.leave(replace(served, finished=False))
            raise
        # The call leaves before its last bytes do: a client that has its answer finds it counted, and the client's next
        # call can never overlap with this one.
        self._traffic.leave(served)
        await connection.finish(reply)

    async def _send_all_but_the_last(self, reply: _Reply, connection: _Connection) -> None:
        await asyncio.sleep(self.latency_seconds)
        await connection.begin(reply)
        for chunk in reply.chunks[:-1]:
            await connection.send_event(chunk)
            await asyncio.sleep(self.chunk_seconds)
        connection.raise_if_gone()

    def _refuse_if_asked(self, endpoint: _Endpoint, request: _Request, call: _Call) -> None:
        if self.require_key and not endpoint.provider.has_key(request):
            raise _RefusedError(401, "No API key was sent with the request.")
        status = self._failure_due(request, call)
        if status is not None:
            raise _RefusedError(status, f"The demo provider was asked to fail this call with {status}.")

    def _failure_due(self, request: _Request, call: _Call) -> int | None:
        asked = request.headers.get(FAILURE_HEADER)
        if asked is not None:
            if not (asked.isascii() and asked.isdigit() and 400 <= int(asked) <= 599):
                raise _RefusedError(400, f"{FAILURE_HEADER} takes a status from 400 to 599.")
            return int(asked)
        if self._failures_ahead:
            return self._failures_ahead.popleft()
        if self.fail_every is not None and call.number % self.fail_every == 0:
            return self.fail_status
        return next((status for suffix, status in FAILING_MODEL_SUFFIXES.items() if call.model.endswith(suffix)), None)


def _at_least(name: str, value: float, minimum: int) -> None:
    if value < minimum:
        raise InvalidInput(name, value, f"It must be at least {minimum}.")


def _failure_status(name: str, status: int) -> int:
    if not 400 <= status <= 599:
        raise InvalidInput(name, status, "A failing call needs an HTTP status from 400 to 599.")
    return status


class _Traffic:
    """The counters. Written by the server's thread, read by any other."""

    def __init__(self) -> None:
        self.calls = 0
        self.in_flight = 0
        self.in_flight_peak = 0
        self._served: deque[ServedRequest] = deque(maxlen=SERVED_REQUESTS_MAX)
        self._lock = threading.Lock()

    def arrive(self) -> int:
        with self._lock:
            self.calls += 1
            self.in_flight += 1
            self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
            return self.calls

    def leave(self, served: ServedRequest) -> None:
        with self._lock:
            self.in_flight -= 1
            self._served.append(served)

    def served(self) -> tuple[ServedRequest, ...]:
        with self._lock:
            return tuple(self._served)


class _PromptCache:
    """Knows which beginnings of prompts were sent before, as hashes. The first to send one writes, later ones read."""

    def __init__(self, tokens_min: int) -> None:
        self.tokens_min = tokens_min
        self._seen: set[bytes] = set()

    def was_seen(self, beginning: bytes) -> bool:
        """Say whether this hash was asked about before, and remember it."""
        seen = beginning in self._seen
        self._seen.add(beginning)
        return seen

    def repeated_tokens(self, scope: str, text: str) -> int:
        """Return how many tokens of `text` begin like an earlier one: whole blocks, zero below the minimum."""
        block_characters = CACHE_BLOCK_TOKENS * CHARACTERS_PER_TOKEN
        beginning = hashlib.blake2b(scope.encode(), digest_size=16)
        repeated = 0
        for start in range(0, len(text) - block_characters + 1, block_characters):
            beginning.update(_bytes_of(text[start : start + block_characters]))
            if self.was_seen(beginning.digest()):
                repeated += CACHE_BLOCK_TOKENS
        return repeated if repeated >= self.tokens_min else 0


# -- HTTP/1.1 ---------------------------------------------------------------------------------------------------


class _RefusedError(Exception):
    """The provider answers this call with an error of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    closes: bool = False
    problem: _RefusedError | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    """A finished answer: one chunk, or one for each event of a stream."""

    chunks: tuple[bytes, ...]
    status: int = 200
    is_stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    input_quantity: int = 0
    output_quantity: int = 0

    def head(self) -> bytes:
        reason = reason_phrases.get(self.status, "Failed")
        headers = {
            "content-type": "text/event-stream; charset=utf-8" if self.is_stream else "application/json",
            "cache-control": "no-store",
            **self.headers,
        }
        if self.is_stream:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["content-length"] = str(len(self.chunks[0]))
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Connection:
    """One client's connection: requests are read from it and replies written to it, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read_request(self) -> _Request | None:
        """Return the next request, or None where the client has closed. What cannot be read arrives as a `problem`."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            return _unreadable("GET", "/", 431, "The headers are too large.")
        request_line, *header_lines = head.decode("latin-1").strip().split("\r\n")
        method, _, rest = request_line.partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in header_lines)}
        path = unquote(target.path)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            return _unreadable(method, path, 411, "Send the body with a content-length.")
        if int(length) > BODY_BYTES_MAX:
            return _unreadable(method, path, 413, "The body is too large.")
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return _Request(
            method=method,
            path=path,
            query={name: values[-1] for name, values in parse_qs(target.query).items()},
            headers=headers,
            body=await self._reader.readexactly(int(length)),
            closes=headers.get("connection", "").lower() == "close",
        )

    async def send(self, reply: _Reply) -> None:
        await self.begin(reply)
        await self.finish(reply)

    async def begin(self, reply: _Reply) -> None:
        self.raise_if_gone()
        if reply.is_stream:
            await self._write(reply.head())

    async def send_event(self, chunk: bytes) -> None:
        self.raise_if_gone()
        await self._write(_framed(chunk))

    async def finish(self, reply: _Reply) -> None:
        last = reply.chunks[-1]
        await self._write(_framed(last) + _framed(b"") if reply.is_stream else reply.head() + last)

    def raise_if_gone(self) -> None:
        if self._writer.is_closing() or self._reader.at_eof():
            raise ConnectionResetError

    def close(self) -> None:
        self._writer.close()

    async def _write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()


def _unreadable(method: str, path: str, status: int, message: str) -> _Request:
    return _Request(method, path, query={}, headers={}, closes=True, problem=_RefusedError(status, message))


def _framed(chunk: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


# -- A call and its invented answer -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    """A request to an endpoint, read. `digest` decides everything that looks like chance."""

    number: int
    seed: int
    digest: bytes
    model: str
    is_stream: bool
    query: Mapping[str, str]
    body: JsonObject
    cache: _PromptCache

    def pick(self, what: str, choices: int) -> int:
        """Return a number below `choices` that this seed and body always give for `what`."""
        return int.from_bytes(hashlib.blake2b(what.encode(), key=self.digest, digest_size=8).digest()) % choices

    def identifier(self, prefix: str) -> str:
        return f"{prefix}{self.digest.hex()}{self.number:06d}"

    def required(self, name: str) -> Any:
        value = self.body.get(name)
        if value is None or value in ("", []):
            raise _RefusedError(400, f"`{name}` is missing. The body must be a JSON object that has it.")
        return value

    def count(self, *names: str) -> int | None:
        """Return the first of these fields that is set. Only a whole number of at least one will do."""
        value = next((self.body[name] for name in names if self.body.get(name) is not None), None)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise _RefusedError(400, f"`{names[0]}` must be a whole number of at least 1.")
        return value


def _read_call(
    endpoint: _Endpoint, match: re.Match[str], request: _Request, *, number: int, seed: int, cache: _PromptCache
) -> _Call:
    body = _json_object(request.body)
    in_path = match.groupdict()
    model = in_path.get("model") or body.get("model")
    is_stream = in_path["action"] == "streamGenerateContent" if "action" in in_path else body.get("stream") is True
    # Streaming is a way of sending, not another question: it must not change the answer.
    question = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    digested = json.dumps([seed, endpoint.provider.name, endpoint.name, model, question], sort_keys=True)
    return _Call(
        number=number,
        seed=seed,
        digest=hashlib.blake2b(digested.encode(), digest_size=12).digest(),
        model=model if isinstance(model, str) else "",
        is_stream=is_stream,
        query=request.query,
        body=body,
        cache=cache,
    )


def _json_object(content: bytes) -> JsonObject:
    """Return the body's object. Anything else reads as an empty one, whose missing fields are then refused by name."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _served_request(endpoint: _Endpoint, call: _Call, reply: _Reply) -> ServedRequest:
    return ServedRequest(
        number=call.number,
        provider=endpoint.provider.name,
        endpoint=endpoint.name,
        model=call.model,
        is_stream=call.is_stream,
        status=reply.status,
        input_quantity=reply.input_quantity,
        output_quantity=reply.output_quantity,
        unit=endpoint.unit,
        finished=True,
    )


SENTENCES = (
    "A tally stick keeps its notches, so both halves have to agree.",
    "Count what was used first, and only then ask what it costs.",
    "Small amounts are amounts too, and by the end of the month they add up.",
    "The meter at the mill turns once for every thousand litres of the river.",
    "A limit is a promise that was made before the work began.",
    "Two clerks who share one book had better take turns.",
    "A receipt that anybody can recompute needs no argument.",
    "The lamp burned for six hours, and the ledger says six hours.",
    "When the well runs low, the bell should ring before the bucket comes up dry.",
    "Every notch has a date, a reason and an owner.",
    "An entry that arrives late still belongs to the day on which it happened.",
    "The baker sells by weight and the potter by piece, yet both close their books on Friday.",
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The invented output. `is_cut` says that the caller's maximum ended it."""

    text: str
    thinking_tokens: int
    is_cut: bool

    @property
    def text_tokens(self) -> int:
        return _tokens(len(self.text))

    @property
    def output_tokens(self) -> int:
        return self.text_tokens + self.thinking_tokens

    @property
    def pieces(self) -> list[str]:
        """The text in the bits in which a stream sends it: three words each."""
        return re.findall(r"(?:\S+\s*){1,3}", self.text)


def _compose(call: _Call, *, input_tokens: int, tokens_max: int | None, thinking_tokens: int = 0) -> _Answer:
    """Invent an answer: longer for a longer prompt, in whole sentences unless the maximum cuts it.

    Thinking comes first and counts against the maximum, so it can leave no room for any text.
    """
    target = 16 + call.pick("length", 48) + min(input_tokens // 4, 160)
    sentence = call.pick("sentence", len(SENTENCES))
    # A stride that shares no factor with the number of sentences visits each of them before any repeats.
    stride = (1, 5, 7, 11)[call.pick("stride", 4)]
    text = SENTENCES[sentence]
    while _tokens(len(text)) < target:
        sentence = (sentence + stride) % len(SENTENCES)
        text = f"{text} {SENTENCES[sentence]}"
    if tokens_max is None or thinking_tokens + _tokens(len(text)) <= tokens_max:
        return _Answer(text, thinking_tokens, is_cut=False)
    thinking_tokens = min(thinking_tokens, tokens_max)
    return _Answer(text[: (tokens_max - thinking_tokens) * CHARACTERS_PER_TOKEN], thinking_tokens, is_cut=True)


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


_TEXT_FIELDS = frozenset({"role", "name", "content", "text", "parts", "arguments", "output", "thinking"})


def _text_of(value: object) -> str:
    """Return all text of a message, a list of them, or a part, in any provider's nesting. Media counts as nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_text_of(item) for item in value)
    if isinstance(value, dict):
        return "\n".join(_text_of(item) for name, item in value.items() if name in _TEXT_FIELDS)
    return ""


def _prompt_of(call: _Call, *names: str) -> str:
    """Return the text of these fields, with the tools before it: their descriptions are input like any other."""
    tools = call.body.get("tools")
    described = [json.dumps(tools, sort_keys=True)] if tools else []
    return "\n".join([*described, *(_text_of(call.body[name]) for name in names if call.body.get(name) is not None)])


def _bytes_of(text: str) -> bytes:
    # JSON may carry half a surrogate pair, which has no encoding of its own.
    return text.encode("utf-8", "surrogatepass")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(value: object) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _named_event(value: JsonObject) -> bytes:
    return f"event: {value['type']}\n".encode() + _event(value)


def _now_seconds() -> int:
    return int(time.time())


# The services answer with the dated name of what they ran, where the request gave the undated one.
_DATED_MODELS = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}


def _dated(model: str) -> str:
    return _DATED_MODELS.get(model, model)


# -- OpenAI -----------------------------------------------------------------------------------------------------

_OPENAI_ERRORS: Mapping[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "unknown_url"),
    429: ("requests", "rate_limit_exceeded"),
}
_OPENAI_REASONING_MODEL = re.compile(r"(o\d|gpt-[5-9])(?!.*-chat)")
_THINKING_BLOCKS_OF_EFFORT = {"none": 0, "minimal": 0, "low": 1, "medium": 3, "high": 6, "xhigh": 10}
_EMBEDDING_DIMENSIONS = {"text-embedding-3-large": 3072, "mistral-embed": 1024}


def _openai_error(status: int, message: str) -> JsonObject:
    kind, code = _OPENAI_ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _openai_thinking_tokens(call: _Call, effort: object) -> int:
    """Return the hidden reasoning's size, in the blocks of 64 that the service reports. Other models do not reason."""
    if not _OPENAI_REASONING_MODEL.match(call.model):
        return 0
    blocks = _THINKING_BLOCKS_OF_EFFORT.get(effort if isinstance(effort, str) else "medium", 3)
    return 64 * (blocks + call.pick("thinking", blocks + 1))


@dataclass(frozen=True, slots=True)
class _Chat:
    """A chat completion of OpenAI or Mistral, worked out and not yet put on the wire."""

    call: _Call
    id: str
    answer: _Answer
    usage: JsonObject

    @property
    def finish_reason(self) -> str:
        return "length" if self.answer.is_cut else "stop"

    def plain(self) -> _Reply:
        message: JsonObject = {"role": "assistant", "content": self.answer.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        body = {**self._envelope("chat.completion"), "choices": [choice], "usage": self.usage}
        return self._reply([_json(body)])

    def streamed(self, chunks: Iterator[JsonObject]) -> _Reply:
        return self._reply([*(_event(chunk) for chunk in chunks), b"data: [DONE]\n\n"])

    def chunk(self, delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._envelope("chat.completion.chunk"), "choices": [choice]}

    def text_chunks(self) -> Iterator[JsonObject]:
        yield self.chunk({"role": "assistant", "content": ""})
        for piece in self.answer.pieces:
            yield self.chunk({"content": piece})

    def usage_chunk(self) -> JsonObject:
        return {**self._envelope("chat.completion.chunk"), "choices": [], "usage": self.usage}

    def _envelope(self, kind: str) -> JsonObject:
        return {"id": self.id, "object": kind, "created": _now_seconds(), "model": _dated(self.call.model)}

    def _reply(self, chunks: list[bytes]) -> _Reply:
        return _Reply(
            tuple(chunks),
            is_stream=self.call.is_stream,
            input_quantity=self.usage["prompt_tokens"],
            output_quantity=self.usage["completion_tokens"],
        )


def _openai_chat(call: _Call) -> _Reply:
    call.required("model")
    call.required("messages")
    options = call.body.get("stream_options")
    if options is not None and not call.is_stream:
        raise _RefusedError(400, "`stream_options` can be given only together with `stream`.")
    prompt = _prompt_of(call, "messages")
    input_tokens = _tokens(len(prompt))
    answer = _compose(
        call,
        input_tokens=input_tokens,
        tokens_max=call.count("max_completion_tokens", "max_tokens"),
        thinking_tokens=_openai_thinking_tokens(call, call.body.get("reasoning_effort")),
    )
    usage = {
        "prompt_tokens": input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": input_tokens + answer.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": call.cache.repeated_tokens(f"openai {call.model}", prompt),
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": answer.thinking_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    chat = _Chat(call, call.identifier("chatcmpl-"), answer, usage)
    if not call.is_stream:
        return chat.plain()
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return chat.streamed(_openai_chat_chunks(chat, wants_usage=wants_usage))


def _openai_chat_chunks(chat: _Chat, *, wants_usage: bool) -> Iterator[JsonObject]:
    """Yield the chunks. Usage comes last, with no choices, and only where asked for; the others then say `null`."""
    announced: JsonObject = {"usage": None} if wants_usage else {}
    for chunk in chat.text_chunks():
        yield {**chunk, **announced}
    yield {**chat.chunk({}, chat.finish_reason), **announced}
    if wants_usage:
        yield chat.usage_chunk()


def _openai_embeddings(call: _Call) -> _Reply:
    model = call.required("model")
    given = call.required("input")
    # One text and one list of token ids are each a single input.
    inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if not all(isinstance(item, str | list) for item in inputs):
        raise _RefusedError(400, "`input` must be a text, a list of texts, or one or several lists of token ids.")
    dimensions = call.count("dimensions") or _EMBEDDING_DIMENSIONS.get(call.model, 1536)
    vectors = [_vector(call, item, dimensions) for item in inputs]
    as_base64 = call.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(max(1, _tokens(len(item))) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "data": data, "model": model, "usage": usage}
    return _Reply((_json(body),), input_quantity=tokens)


def _vector(call: _Call, item: object, dimensions: int) -> list[float]:
    """Return the unit vector that this seed and model always give for the item, whatever else the request holds."""
    source = hashlib.shake_128(json.dumps([call.seed, call.model, item]).encode()).digest(2 * dimensions)
    numbers = struct.unpack(f"<{dimensions}h", source)
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _openai_responses(call: _Call) -> _Reply:
    call.required("model")
    call.required("input")
    prompt = _prompt_of(call, "instructions", "input")
    input_tokens = _tokens(len(prompt))
    reasoning = call.body.get("reasoning")
    answer = _compose(
        call,
        input_tokens=input_tokens,
        tokens_max=call.count("max_output_tokens"),
        thinking_tokens=_openai_thinking_tokens(call, reasoning.get("effort") if isinstance(reasoning, dict) else None),
    )
    usage = {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": call.cache.repeated_tokens(f"openai {call.model}", prompt),
            "cache_write_tokens": 0,
        },
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.thinking_tokens},
        "total_tokens": input_tokens + answer.output_tokens,
    }
    response = _Response(call, answer, usage)
    chunks = [_named_event(event) for event in response.events()] if call.is_stream else [_json(response.finished())]
    return _Reply(
        tuple(chunks), is_stream=call.is_stream, input_quantity=input_tokens, output_quantity=answer.output_tokens
    )


@dataclass(frozen=True, slots=True)
class _Response:
    """An answer of the Responses API, worked out and not yet put on the wire."""

    call: _Call
    answer: _Answer
    usage: JsonObject

    @property
    def end(self) -> str:
        return "incomplete" if self.answer.is_cut else "completed"

    def finished(self) -> JsonObject:
        reason = {"reason": "max_output_tokens"} if self.answer.is_cut else None
        return self._body(self.end, output=self._items(), usage=self.usage, incomplete_details=reason)

    def events(self) -> Iterator[JsonObject]:
        for number, event in enumerate(self._unnumbered_events()):
            yield {**event, "sequence_number": number}

    def _unnumbered_events(self) -> Iterator[JsonObject]:
        opened = self._body("in_progress", output=[], usage=None, incomplete_details=None)
        yield {"type": "response.created", "response": opened}
        yield {"type": "response.in_progress", "response": opened}
        for index, item in enumerate(self._items()):
            if item["type"] == "message":
                yield from self._message_events(index, item)
            else:
                yield {"type": "response.output_item.added", "output_index": index, "item": item}
                yield {"type": "response.output_item.done", "output_index": index, "item": item}
        yield {"type": f"response.{self.end}", "response": self.finished()}

    def _message_events(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        place = {"item_id": item["id"], "output_index": index, "content_index": 0}
        opened = {**item, "status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", "output_index": index, "item": opened}
        yield {"type": "response.content_part.added", **place, "part": _output_text("")}
        for piece in self.answer.pieces:
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **place, "text": self.answer.text, "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": _output_text(self.answer.text)}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}

    def _items(self) -> list[JsonObject]:
        items: list[JsonObject] = []
        if _OPENAI_REASONING_MODEL.match(self.call.model):
            items.append({"id": self.call.identifier("rs_"), "type": "reasoning", "summary": []})
        if self.answer.text:
            items.append(
                {
                    "id": self.call.identifier("msg_"),
                    "type": "message",
                    "status": self.end,
                    "role": "assistant",
                    "content": [_output_text(self.answer.text)],
                }
            )
        return items

    def _body(
        self, status: str, *, output: list[JsonObject], usage: JsonObject | None, incomplete_details: JsonObject | None
    ) -> JsonObject:
        asked = self.call.body
        return {
            "id": self.call.identifier("resp_"),
            "object": "response",
            "created_at": _now_seconds(),
            "status": status,
            "error": None,
            "incomplete_details": incomplete_details,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "metadata": asked.get("metadata") or {},
            "model": _dated(self.call.model),
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": asked.get("previous_response_id"),
            "service_tier": "default",
            "temperature": asked.get("temperature", 1.0),
            "text": {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": asked.get("tools") or [],
            "top_p": asked.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": usage,
        }


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _openai_models() -> _Reply:
    names = [*(name for name in _DATED_MODELS if name.startswith("gpt")), "text-embedding-3-small"]
    data = [{"id": name, "object": "model", "created": 1_735_689_600, "owned_by": "demo"} for name in names]
    return _Reply((_json({"object": "list", "data": data}),))


# -- Anthropic --------------------------------------------------------------------------------------------------

_ANTHROPIC_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _anthropic_error(status: int, message: str) -> JsonObject:
    kind = _ANTHROPIC_ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


@dataclass(frozen=True, slots=True)
class _AnthropicInput:
    """The prompt's tokens in disjoint classes, as this provider reports them. Their sum is the whole prompt."""

    fresh: int
    cache_read: int
    cache_written_five_minutes: int
    cache_written_one_hour: int

    @property
    def cache_written(self) -> int:
        return self.cache_written_five_minutes + self.cache_written_one_hour

    @property
    def total(self) -> int:
        return self.fresh + self.cache_read + self.cache_written

    def cumulative_usage(self, output_tokens: int) -> JsonObject:
        return {
            "input_tokens": self.fresh,
            "cache_creation_input_tokens": self.cache_written,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": output_tokens,
        }

    def usage(self, output_tokens: int) -> JsonObject:
        creation = {
            "ephemeral_5m_input_tokens": self.cache_written_five_minutes,
            "ephemeral_1h_input_tokens": self.cache_written_one_hour,
        }
        return {**self.cumulative_usage(output_tokens), "cache_creation": creation, "service_tier": "standard"}


def _anthropic_input(call: _Call) -> _AnthropicInput:
    """Divide the prompt at its `cache_control` marks: read up to the last known one, written from there to the last."""
    beginning = hashlib.blake2b(f"anthropic {call.model}".encode(), digest_size=16)
    characters = read = reached = written_five_minutes = written_one_hour = 0
    for text, mark in _anthropic_blocks(call.body):
        beginning.update(_bytes_of(f"{text}\n"))
        characters += len(text)
        tokens = _tokens(characters)
        if mark is None or tokens < call.cache.tokens_min:
            continue
        if call.cache.was_seen(beginning.digest()):
            # A known beginning covers new marks inside of it: nothing of it is written again.
            read, written_five_minutes, written_one_hour = tokens, 0, 0
        elif mark.get("ttl") == "1h":
            written_one_hour += tokens - reached
        else:
            written_five_minutes += tokens - reached
        reached = tokens
    return _AnthropicInput(
        fresh=_tokens(characters) - reached,
        cache_read=read,
        cache_written_five_minutes=written_five_minutes,
        cache_written_one_hour=written_one_hour,
    )


def _anthropic_blocks(body: JsonObject) -> Iterator[tuple[str, JsonObject | None]]:
    """Yield each block's text and cache mark, in the order of the prompt: tools, system, messages."""
    contents = [body.get("system"), *(_field(message, "content") for message in _list(body.get("messages")))]
    blocks = [
        *((json.dumps(tool, sort_keys=True), _field(tool, "cache_control")) for tool in _list(body.get("tools"))),
        *((_text_of(block), _field(block, "cache_control")) for content in contents for block in _list(content)),
    ]
    for place, (text, mark) in enumerate(blocks):
        # A mark on the request itself stands for one on its last block.
        of_request = body.get("cache_control") if place == len(blocks) - 1 else None
        found = mark or of_request
        yield text, found if isinstance(found, dict) else None


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _anthropic_messages(call: _Call) -> _Reply:
    for name in ("model", "messages", "max_tokens"):
        call.required(name)
    given = _anthropic_input(call)
    answer = _compose(call, input_tokens=given.total, tokens_max=call.count("max_tokens"))
    stop_reason = "max_tokens" if answer.is_cut else "end_turn"
    message: JsonObject = {
        "id": call.identifier("msg_"),
        "type": "message",
        "role": "assistant",
        "model": _dated(call.model),
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": given.usage(answer.output_tokens),
    }
    events = _anthropic_events(message, given, answer)
    chunks = [_named_event(event) for event in events] if call.is_stream else [_json(message)]
    return _Reply(
        tuple(chunks), is_stream=call.is_stream, input_quantity=given.total, output_quantity=answer.output_tokens
    )


def _anthropic_events(message: JsonObject, given: _AnthropicInput, answer: _Answer) -> Iterator[JsonObject]:
    """Yield the stream. Its start knows the input and one token of output; its delta repeats all, cumulatively."""
    opened = {**message, "content": [], "stop_reason": None, "usage": given.usage(output_tokens=1)}
    yield {"type": "message_start", "message": opened}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for piece in answer.pieces:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": given.cumulative_usage(answer.output_tokens),
    }
    yield {"type": "message_stop"}


# -- Gemini -----------------------------------------------------------------------------------------------------

_GEMINI_STATUSES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_GEMINI_VERSION = re.compile(r"gemini-(\d+(?:\.\d+)?)")


def _gemini_error(status: int, message: str) -> JsonObject:
    name = _GEMINI_STATUSES.get(status, "UNKNOWN" if status >= 500 else "INVALID_ARGUMENT")
    return {"error": {"code": status, "message": message, "status": name}}


def _gemini_field(value: object, name: str) -> Any:
    """Return a field in either spelling, `maxTokens` or `max_tokens`: the service reads both and its SDK mixes them."""
    snake_case = re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
    found = _field(value, name)
    return _field(value, snake_case) if found is None else found


def _gemini_thinking_tokens(call: _Call) -> int:
    """Return the size of the thoughts: none before 2.5 or for a budget of zero, and never more than the budget."""
    version = _GEMINI_VERSION.match(call.model)
    if version is not None and float(version[1]) < 2.5:
        return 0
    budget = _gemini_field(
        _gemini_field(_gemini_field(call.body, "generationConfig"), "thinkingConfig"), "thinkingBudget"
    )
    thoughts = 40 + call.pick("thinking", 200)
    # A negative budget leaves the amount to the model.
    return min(thoughts, budget) if isinstance(budget, int) and budget >= 0 else thoughts


def _gemini_generate(call: _Call) -> _Reply:
    call.required("contents")
    if call.is_stream and call.query.get("alt") != "sse":
        raise _RefusedError(400, "This demo provider streams events only: add `?alt=sse`.")
    maximum = _gemini_field(_gemini_field(call.body, "generationConfig"), "maxOutputTokens")
    prompt = _prompt_of(call, "systemInstruction", "system_instruction", "contents")
    input_tokens = _tokens(len(prompt))
    answer = _compose(
        call,
        input_tokens=input_tokens,
        tokens_max=maximum if isinstance(maximum, int) and maximum > 0 else None,
        thinking_tokens=_gemini_thinking_tokens(call),
    )
    cached_tokens = call.cache.repeated_tokens(f"gemini {call.model}", prompt)
    generation = _Generation(call, answer, input_tokens, cached_tokens)
    chunks = [_event(part) for part in generation.parts()] if call.is_stream else [_json(generation.whole())]
    return _Reply(
        tuple(chunks), is_stream=call.is_stream, input_quantity=input_tokens, output_quantity=answer.output_tokens
    )


@dataclass(frozen=True, slots=True)
class _Generation:
    """An answer of Gemini, worked out and not yet put on the wire."""

    call: _Call
    answer: _Answer
    input_tokens: int
    cached_tokens: int

    def whole(self) -> JsonObject:
        return self._body(self.answer.text, self.answer.text_tokens, is_last=True)

    def parts(self) -> Iterator[JsonObject]:
        """Yield the stream: every part repeats the usage, counted up to there."""
        pieces = self.answer.pieces or [""]
        characters = 0
        for place, piece in enumerate(pieces, start=1):
            characters += len(piece)
            yield self._body(piece, _tokens(characters), is_last=place == len(pieces))

    def _body(self, text: str, text_tokens: int, *, is_last: bool) -> JsonObject:
        content: JsonObject = {"parts": [{"text": text}], "role": "model"} if text else {"role": "model"}
        candidate: JsonObject = {"content": content, "index": 0}
        if is_last:
            candidate["finishReason"] = "MAX_TOKENS" if self.answer.is_cut else "STOP"
        return {
            "candidates": [candidate],
            "usageMetadata": self._usage(text_tokens),
            "modelVersion": self.call.model,
            "responseId": self.call.identifier(""),
        }

    def _usage(self, text_tokens: int) -> JsonObject:
        """Return the usage as the service words it: a count of nothing is left out rather than zero."""
        thoughts = self.answer.thinking_tokens
        counts = {
            "promptTokenCount": self.input_tokens,
            "candidatesTokenCount": text_tokens,
            "thoughtsTokenCount": thoughts,
            "cachedContentTokenCount": self.cached_tokens,
            "totalTokenCount": self.input_tokens + text_tokens + thoughts,
        }
        usage: JsonObject = {name: tokens for name, tokens in counts.items() if tokens}
        usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": self.input_tokens}]
        if self.cached_tokens:
            usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": self.cached_tokens}]
        return usage


# -- Mistral ----------------------------------------------------------------------------------------------------


def _mistral_error(status: int, message: str) -> JsonObject:
    if status == 401:
        return {"detail": "Unauthorized"}
    kind = {429: "rate_limited"}.get(status, "internal_server_error" if status >= 500 else "invalid_request_error")
    return {
        "object": "error",
        "message": message,
        "type": kind,
        "param": None,
        "code": "1300" if status == 429 else None,
        "raw_status_code": status,
    }


def _mistral_chat(call: _Call) -> _Reply:
    """Answer as OpenAI does, except that a stream always gives its usage, in the chunk with the finish reason."""
    call.required("model")
    call.required("messages")
    prompt = _prompt_of(call, "messages")
    input_tokens = _tokens(len(prompt))
    answer = _compose(call, input_tokens=input_tokens, tokens_max=call.count("max_tokens"))
    usage = {
        "prompt_tokens": input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": call.cache.repeated_tokens(f"mistral {call.model}", prompt)},
    }
    chat = _Chat(call, call.identifier(""), answer, usage)
    return chat.streamed(_mistral_chat_chunks(chat)) if call.is_stream else chat.plain()


def _mistral_chat_chunks(chat: _Chat) -> Iterator[JsonObject]:
    yield from chat.text_chunks()
    yield {**chat.chunk({"content": ""}, chat.finish_reason), "usage": chat.usage}


# -- Acme: a provider of one's own ------------------------------------------------------------------------------


def _acme_error(status: int, message: str) -> JsonObject:
    code = {401: "key_missing", 404: "no_such_thing", 429: "too_many_requests"}.get(
        status, "acme_failed" if status >= 500 else "request_not_understood"
    )
    return {"problem": {"code": code, "detail": message}}


def _acme_rewrite(call: _Call) -> _Reply:
    """Rewrite a text. This provider knows no tokens: it bills characters, in a shape of its own."""
    text = call.required("text")
    if not isinstance(text, str):
        raise _RefusedError(400, "`text` must be a string.")
    rewritten = _compose(call, input_tokens=_tokens(len(text)), tokens_max=None).text
    body = {
        "id": call.identifier("rw_"),
        "model": call.model or "acme-rewrite-1",
        "rewritten": rewritten,
        "billing": {"characters_in": len(text), "characters_out": len(rewritten)},
    }
    return _Reply((_json(body),), input_quantity=len(text), output_quantity=len(rewritten))


# -- Who answers what -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Provider:
    name: str
    error: Callable[[int, str], JsonObject]
    key_headers: tuple[str, ...]
    key_parameter: str | None = None

    def has_key(self, request: _Request) -> bool:
        in_query = self.key_parameter is not None and self.key_parameter in request.query
        return in_query or any(request.headers.get(name) for name in self.key_headers)

    def refuse(self, refusal: _RefusedError, retry_after_seconds: int) -> _Reply:
        """Return the error in this provider's own shape. A 429 says when to come back."""
        headers = {"retry-after": str(retry_after_seconds)} if refusal.status == 429 else {}
        return _Reply((_json(self.error(refusal.status, refusal.message)),), status=refusal.status, headers=headers)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    provider: _Provider
    name: str
    path: re.Pattern[str]
    answer: Callable[[_Call], _Reply]
    unit: str = "tokens"


_OPENAI = _Provider("openai", _openai_error, key_headers=("authorization",))
_ANTHROPIC = _Provider("anthropic", _anthropic_error, key_headers=("x-api-key", "authorization"))
_GEMINI = _Provider("google", _gemini_error, key_headers=("x-goog-api-key", "authorization"), key_parameter="key")
_MISTRAL = _Provider("mistral", _mistral_error, key_headers=("authorization",))
_ACME = _Provider("acme", _acme_error, key_headers=("authorization",))

_ENDPOINTS = (
    _Endpoint(_OPENAI, "chat.completions", re.compile(r"/v1/chat/completions"), _openai_chat),
    _Endpoint(_OPENAI, "responses", re.compile(r"/v1/responses"), _openai_responses),
    _Endpoint(_OPENAI, "embeddings", re.compile(r"/v1/embeddings"), _openai_embeddings),
    _Endpoint(_ANTHROPIC, "messages", re.compile(r"/v1/messages"), _anthropic_messages),
    _Endpoint(
        _GEMINI,
        "generate_content",
        re.compile(r"/v1(?:beta|alpha)?/models/(?P<model>[^/:]+):(?P<action>generateContent|streamGenerateContent)"),
        _gemini_generate,
    ),
    _Endpoint(_MISTRAL, "chat.completions", re.compile(r"/mistral/v1/chat/completions"), _mistral_chat),
    _Endpoint(_ACME, "rewrite", re.compile(r"/acme/v1/rewrite"), _acme_rewrite, unit="characters"),
)


def _provider_for(path: str) -> _Provider:
    """Return whose error shape answers a path that no endpoint has."""
    beginnings = {
        "/v1/messages": _ANTHROPIC,
        "/v1/models/": _GEMINI,
        "/v1beta/": _GEMINI,
        "/mistral/": _MISTRAL,
        "/acme/": _ACME,
    }
    return next((provider for start, provider in beginnings.items() if path.startswith(start)), _OPENAI)
