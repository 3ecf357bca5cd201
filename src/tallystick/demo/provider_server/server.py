"""The server: it listens, answers every call by its provider's endpoint, waits as a model would, and counts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from tallystick.demo.provider_server.connection import Connection
from tallystick.demo.provider_server.endpoints import ENDPOINTS, provider_for
from tallystick.errors import Conflict, InvalidInput
from tallystick.provider_answers.call import Call, PromptCache
from tallystick.provider_answers.endpoint import Endpoint, read_call
from tallystick.provider_answers.openai_models import openai_models
from tallystick.provider_answers.reply import RefusedError, Reply, Request

__all__ = ["ProviderServer", "ServedRequest"]

HOST = "127.0.0.1"
SERVED_REQUESTS_MAX = 100_000
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
        self._cache = PromptCache(cache_tokens_min)
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
        connection = Connection(reader, writer)
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

    async def _respond(self, request: Request, connection: Connection) -> None:
        if request.problem is not None:
            await connection.send(provider_for(request.path).refuse(request.problem, self.retry_after_seconds))
            return
        if request.method == "GET" and request.path == "/v1/models":
            await connection.send(openai_models())
            return
        for endpoint in ENDPOINTS:
            match = endpoint.path.fullmatch(request.path)
            if match and request.method == "POST":
                await self._respond_to_call(endpoint, match, request, connection)
                return
        refusal = RefusedError(404, f"There is no {request.method} {request.path} on this demo provider.")
        await connection.send(provider_for(request.path).refuse(refusal, self.retry_after_seconds))

    async def _respond_to_call(
        self, endpoint: Endpoint, match: re.Match[str], request: Request, connection: Connection
    ) -> None:
        number = self._traffic.arrive()
        call = read_call(
            endpoint, match, request, number=number, seed=self.seed, cache=self._cache, created=int(time.time())
        )
        try:
            self._refuse_if_asked(endpoint, request, call)
            reply = endpoint.answer(call)
        except RefusedError as refusal:
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

    async def _send_all_but_the_last(self, reply: Reply, connection: Connection) -> None:
        await asyncio.sleep(self.latency_seconds)
        await connection.begin(reply)
        for chunk in reply.chunks[:-1]:
            await connection.send_event(chunk)
            await asyncio.sleep(self.chunk_seconds)
        connection.raise_if_gone()

    def _refuse_if_asked(self, endpoint: Endpoint, request: Request, call: Call) -> None:
        if self.require_key and not endpoint.provider.has_key(request):
            raise RefusedError(401, "No API key was sent with the request.")
        status = self._failure_due(request, call)
        if status is not None:
            raise RefusedError(status, f"The demo provider was asked to fail this call with {status}.")

    def _failure_due(self, request: Request, call: Call) -> int | None:
        asked = request.headers.get(FAILURE_HEADER)
        if asked is not None:
            if not (asked.isascii() and asked.isdigit() and 400 <= int(asked) <= 599):
                raise RefusedError(400, f"{FAILURE_HEADER} takes a status from 400 to 599.")
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


def _served_request(endpoint: Endpoint, call: Call, reply: Reply) -> ServedRequest:
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
