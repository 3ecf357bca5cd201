"""`ts.wrap(client)`: a provider's client with the same methods, metered.

A wrapped client leads from attribute to attribute as the original does. At the end of a known path, such as
`chat.completions.create`, is a metered method: it holds what the request may use, calls the original, and records what
the answer used. It returns the provider's own answer, and streams as stand-ins (see `streams`). Everything else is the
original's and is not metered.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import cache, lru_cache, reduce
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tallystick.errors import InvalidInput, ResponseGone
from tallystick.metering.call import asked, begin, settle_or_estimate, settle_response
from tallystick.metering.flow import Ask, run, run_async
from tallystick.metering.input import checked_tokens
from tallystick.metering.meter import Meter
from tallystick.metering.response import Settlement
from tallystick.metering.streams import (
    CHARACTERS_PER_TOKEN,
    StandIn,
    carry_out_async,
    is_stream,
    metered_stream,
    quietly,
)
from tallystick.money import ceil_div
from tallystick.period import from_micros
from tallystick.providers.body import fields_of
from tallystick.providers.request import requested_model, requested_output_tokens

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.metering.call import Attempt, CallContext, Estimate
    from tallystick.metering.flow import Flow

__all__ = ["wrap"]

Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class _Method:
    """What is special about one of the SDKs' methods."""

    resource_type: str = "completion"
    opens_stream: bool = False
    makes_chat: bool = False


_COMPLETION = _Method()
_EMBEDDING = _Method(resource_type="embedding")
_OPENS_STREAM = _Method(opens_stream=True)

# The metered methods by their paths, without what only says how to call them: `aio`, `beta`, `with_raw_response`.
_METHODS: Mapping[str, _Method] = {
    # OpenAI and what is compatible with it
    "chat.completions.create": _COMPLETION,
    "chat.completions.parse": _COMPLETION,
    "chat.completions.stream": _OPENS_STREAM,
    "responses.create": _COMPLETION,
    "responses.parse": _COMPLETION,
    "responses.stream": _OPENS_STREAM,
    "completions.create": _COMPLETION,
    "embeddings.create": _EMBEDDING,
    # Anthropic
    "messages.create": _COMPLETION,
    "messages.parse": _COMPLETION,
    "messages.stream": _OPENS_STREAM,
    # Google
    "models.generate_content": _COMPLETION,
    "models.generate_content_stream": _COMPLETION,
    "models.embed_content": _EMBEDDING,
    "chats.create": _Method(makes_chat=True),
    "interactions.create": _COMPLETION,
    # Mistral, which names its asynchronous methods apart; `embeddings.create` is above.
    **{
        f"{namespace}.{name}{colour}": _COMPLETION
        for namespace, names in (
            ("chat", ("complete", "stream", "parse", "parse_stream")),
            ("fim", ("complete", "stream")),
            ("agents", ("complete", "stream")),
        )
        for name in names
        for colour in ("", "_async")
    },
    "responses.create_async": _COMPLETION,
    "embeddings.create_async": _EMBEDDING,
}
_NAMESPACES = frozenset(
    ".".join(parts[:length]) for path in _METHODS for parts in (path.split("."),) for length in range(1, len(parts))
)
_SAME_PLACE = ("aio", "beta")
_RAW, _STREAMED = "with_raw_response", "with_streaming_response"
_COPIES = ("with_options", "with_middleware", "copy")

# The SDKs by the module of their client, and the provider that they call unless told otherwise.
_SDKS = {"openai": "openai", "anthropic": "anthropic", "google": "google", "mistralai": "mistral", "groq": "groq"}
_HOSTED = (
    ("Azure", "azure"),
    ("Foundry", "azure"),
    ("Bedrock", "aws"),
    ("AWS", "aws"),
    ("Vertex", "google"),
    ("GoogleCloud", "google"),
)

# What a request says to the model, and what in it is no text: images and files, as data or as links.
_CONTENT = ("messages", "input", "inputs", "prompt", "suffix", "contents", "system", "instructions", "tools")
_CONFIGURED = ("config", "generation_config")
_CONFIGURED_CONTENT = ("system_instruction", "systemInstruction", "tools")
_NO_TEXT = frozenset(
    ("data", "url", "image_url", "document_url", "file_data", "inline_data", "input_audio", "source", "signature")
)
_CONTENT_DEPTH_MAX = 10

_OPTIONS = ("billable", "user", "tenant", "feature", "billing_mode", "metadata", "idempotency_key", "estimate_tokens")
_MISSING = object()


def wrap(
    engine: Engine,
    client: Client,
    *,
    billable: object = None,
    user: object = None,
    tenant: object = None,
    feature: str | None = None,
    billing_mode: str | None = None,
    metadata: Mapping[str, object] | None = None,
    provider: str | None = None,
) -> Client:
    """Return the same client, metered, for either colour: `client.chat.completions.create(...)` as always.

    Metered are the calls of OpenAI's client (and Azure's, and every compatible one), Anthropic's, Google's (`genai`,
    with `aio` and `chats`) and Mistral's that create completions, messages, responses, content and embeddings, with
    their `stream`, `parse`, `with_raw_response` and `with_streaming_response`. Other methods pass through and are not
    metered. The client is not changed; what `with_options` returns is metered too. A Gemini call that runs Python
    functions as tools by itself makes several requests and reports the usage of the last only; disable its automatic
    function calling to have each one metered.

    Held are the request's length (a token for four characters) and its maximum of output, or `holds.default_tokens`;
    where that is more than what is left, the hold shrinks to it. A call can say more with a keyword of its own, which
    the provider never sees:

    ```python
    client.chat.completions.create(..., tallystick={"user": 42, "idempotency_key": "req-1", "estimate_tokens": 900})
    ```

    It takes `billable`, `user`, `tenant`, `feature`, `billing_mode`, `metadata` (added to the client's),
    `idempotency_key` and `estimate_tokens`, which fits whole or is refused.

    A chat stream of OpenAI's is asked for its usage: `stream_options={"include_usage": True}`. The chunk that then
    carries it is kept from a caller who did not ask for it. For a service that does not know that option, say
    `stream_options=None`: its streams are estimated.

    `provider` is found from the client's class and its `base_url`, and is needed for a class that is not known.

    The context managers of `stream` and `with_streaming_response` hold when they are entered, not when they are made.

    A method raises what `Meter.call` raises, and `ResponseGone` for an idempotency key whose response is gone.

    Raises:
        InvalidInput: the client has none of the metered methods, or its provider is not known.
    """
    if not any(_resolves(client, path) for path in _METHODS):
        remedy = "Wrap a client of openai, anthropic, google-genai or mistralai, or use ts.meter.….call(...)."
        raise InvalidInput("client", type(client).__name__, remedy)
    options = {
        "billable": billable,
        "user": user,
        "tenant": tenant,
        "feature": feature,
        "billing_mode": billing_mode,
        "metadata": metadata,
    }
    meter = _with_options(Meter(engine), options)
    wrapping = _Wrapping(engine, meter, provider.strip().lower() if provider else _provider_of(client))
    wrapped: Any = _Namespace(client, wrapping)
    return wrapped  # type: ignore[no-any-return]  # it stands in for the client


def _resolves(client: object, path: str) -> bool:
    return callable(reduce(lambda found, name: getattr(found, name, None), path.split("."), client))


def _with_options(meter: Meter, options: Mapping[str, Any]) -> Meter:
    """Return a meter with the options that are given."""
    steps: tuple[tuple[str, Callable[[Any], Meter]], ...] = (
        ("billable", lambda value: meter.billable(value)),
        ("user", lambda value: meter.for_user(value)),
        ("tenant", lambda value: meter.for_tenant(value)),
        ("feature", lambda value: meter.feature(value)),
        ("billing_mode", lambda value: meter.billing_mode(value)),
        ("metadata", lambda value: meter.with_meta(value)),
        ("idempotency_key", lambda value: meter.with_idempotency_key(value)),
        ("estimate_tokens", lambda value: meter.estimate(tokens=value)),
    )
    for name, step in steps:
        if options.get(name) is not None:
            meter = step(options[name])
    return meter


# -- which provider ---------------------------------------------------------------------------------------------------


def _provider_of(client: object) -> str:
    """Return the provider that a client calls, by its class, and for OpenAI's by its address.

    Raises:
        InvalidInput: it cannot be told.
    """
    for kind in type(client).__mro__:
        sdk = _SDKS.get(kind.__module__.partition(".")[0])
        if sdk is not None:
            hosted = next((provider for part, provider in _HOSTED if part in kind.__name__), None)
            return hosted or (_provider_at(str(getattr(client, "base_url", ""))) if sdk == "openai" else None) or sdk
    raise InvalidInput("provider", None, f'Say whom {type(client).__name__} calls: wrap(client, provider="groq", ...).')


def _provider_at(address: str) -> str | None:
    """Return the provider that answers at an address, or None: OpenAI's client speaks to many."""
    if address.startswith("https://api.openai.com"):
        return "openai"
    return next((name for name, pattern in _addresses() if re.match(pattern, address)), None)


@cache
def _addresses() -> tuple[tuple[str, str], ...]:
    from genai_prices.data import providers  # large, and most clients do without it

    return tuple((provider.id, provider.api_pattern) for provider in providers)


# -- from attribute to attribute --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wrapping:
    """How a client was wrapped."""

    engine: Engine
    meter: Meter
    provider: str


class _Namespace(StandIn):
    """A client, or a part of it that leads to metered methods."""

    def __init__(self, original: Any, wrapping: _Wrapping, path: str = "", answer: str = "") -> None:
        # Past __setattr__, which sets the original's attributes.
        vars(self).update(_original=original, _wrapping=wrapping, _path=path, _answer=answer)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        wrapping, path, answer = self._wrapping, self._path, self._answer
        if name in _SAME_PLACE:
            return _Namespace(value, wrapping, path, answer)
        if name in (_RAW, _STREAMED):
            return _Namespace(value, wrapping, path, name)
        if not path and name in _COPIES and callable(value):
            return lambda *args, **kwargs: _Namespace(value(*args, **kwargs), wrapping)
        path = f"{path}.{name}" if path else name
        method = _METHODS.get(path)
        if method is not None and callable(value):
            return self._metered(value, method)
        leads_on = path in _NAMESPACES and not inspect.isroutine(value)
        return _Namespace(value, wrapping, path, answer) if leads_on else value

    def _metered(self, original: Callable[..., Any], method: _Method) -> Callable[..., Any]:
        if method.makes_chat:
            return _chat_maker(original, self._wrapping)
        call = _MeteredMethod(self._wrapping, original, method, self._answer)
        if self._answer == _STREAMED:
            return call.opens_response
        if method.opens_stream:
            return call.opens_stream
        return call.asynchronous if _is_coroutine_function(original) else call.synchronous

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._original, name, value)

    def __enter__(self) -> Self:
        self._original.__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        return self._original.__exit__(*exception)

    async def __aenter__(self) -> Self:
        await self._original.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._original.__aexit__(*exception)


def _chat_maker(create: Callable[..., Any], wrapping: _Wrapping) -> Callable[..., Any]:
    """Return Google's `chats.create`, whose chats send their messages through metered models."""

    def create_metered(*args: Any, **kwargs: Any) -> Any:
        chat = create(*args, **kwargs)
        chat._modules = _Namespace(chat._modules, wrapping, "models")
        return chat

    return create_metered


def _is_coroutine_function(method: Callable[..., Any]) -> bool:
    # The SDKs check arguments in plain functions around their coroutine functions.
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(inspect.unwrap(method))


# -- one call ---------------------------------------------------------------------------------------------------------


class _MeteredMethod:
    """A method of an SDK, metered."""

    def __init__(self, wrapping: _Wrapping, original: Callable[..., Any], method: _Method, answer: str) -> None:
        self._wrapping = wrapping
        self._original = original
        self._method = method
        self._is_raw = answer == _RAW

    def synchronous(self, *args: Any, **kwargs: Any) -> Any:
        return run(self._request(args, kwargs).answer(), self._wrapping.engine.lane)

    async def asynchronous(self, *args: Any, **kwargs: Any) -> Any:
        return await run_async(self._request(args, kwargs).answer(), self._wrapping.engine.lane)

    def opens_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return the context manager of a stream. Entering it, and nothing before, holds and calls the provider."""
        return _Opening(self._request(args, kwargs))

    def opens_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the context manager of a response that is still to be read."""
        return _StreamedResponse(self._request(args, kwargs))

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Request:
        """Make a call ready: who pays, what may be used, and what the SDK is given."""
        wrapping, engine = self._wrapping, self._wrapping.engine
        options, given = _split(kwargs)
        provider, at = wrapping.provider, engine.now()
        model = requested_model(given) or ""
        if provider == "azure" and model and engine.pricing.find(provider, model, from_micros(at)) is None:
            # A deployment has any name. It is priced by the model that its answers name.
            model = ""
        meter = _with_options(wrapping.meter.resource_type(self._method.resource_type), options)
        meter = meter.using_provider(provider, model)
        input_tokens = ceil_div(_characters_of_request(given), CHARACTERS_PER_TOKEN)
        meter = meter.expecting(self._expected_tokens(given, input_tokens))
        given, hides_usage_chunk = self._asking_for_usage(given)
        context = meter._context()
        return _Request(
            engine=engine,
            context=context,
            estimate=meter._estimate(context, at),
            input_tokens=input_tokens,
            hides_usage_chunk=hides_usage_chunk,
            is_raw=self._is_raw,
            ask=lambda: self._original(*args, **given),
        )

    def _expected_tokens(self, given: Mapping[str, Any], input_tokens: int) -> int:
        engine = self._wrapping.engine
        stated = engine.providers.estimate(self._wrapping.provider, given)
        if stated is not None:
            return stated
        if self._method.resource_type == "embedding":
            return max(1, input_tokens)
        return input_tokens + (requested_output_tokens(given) or engine.settings.holds.default_tokens)

    def _asking_for_usage(self, given: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Have OpenAI's chat streams report their usage. Says whether that adds a chunk which the caller is not to see.

        Without the option such a stream says nothing of what it used. With it, a last chunk comes whose `choices` are
        empty, and programs that read `chunk.choices[0]`, as most do, fail on it unless they asked for it.
        """
        if not (given.get("stream") or self._method.opens_stream) or not _takes_stream_options(self._original):
            return given, False
        options = given.get("stream_options", _MISSING)
        if options is None or "stream_options" in fields_of(given.get("extra_body")):
            return given, False
        if not isinstance(options, Mapping):
            # Left out, or one of the SDK's own marks for that.
            options = {}
        if "include_usage" in options:
            return given, False
        return {**given, "stream_options": {**options, "include_usage": True}}, True


def _split(kwargs: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return the options of this call for Tallystick, and the keywords for the SDK."""
    given = dict(kwargs)
    options = given.pop("tallystick", None) or {}
    if not isinstance(options, Mapping) or not options.keys() <= set(_OPTIONS):
        raise InvalidInput("tallystick", options, f"Give a dict with any of: {', '.join(_OPTIONS)}.")
    if options.get("estimate_tokens") is not None:
        checked_tokens("estimate_tokens", options["estimate_tokens"])
    return options, given


def _takes_stream_options(method: Callable[..., Any]) -> bool:
    """Say whether a method is of OpenAI's chat, or one like it, and can be asked for the usage of a stream."""
    function = inspect.unwrap(method)
    return _has_stream_options(getattr(function, "__func__", function))


@lru_cache(maxsize=256)
def _has_stream_options(function: Callable[..., Any]) -> bool:
    try:
        names = inspect.signature(function).parameters.keys()
    except (TypeError, ValueError):
        return False
    # OpenAI's Responses have other options of that name, and report their usage without being asked.
    return "stream_options" in names and "input" not in names


def _characters_of_request(given: Mapping[str, Any]) -> int:
    """Return the length of what a request says to the model. The text is looked at and left where it is."""
    said = [given.get(name) for name in _CONTENT]
    for name in _CONFIGURED:
        configured = fields_of(given.get(name))
        said += [configured.get(inner) for inner in _CONFIGURED_CONTENT]
    return sum(_characters_of(part) for part in said)


def _characters_of(value: object, depth: int = 0) -> int:
    if isinstance(value, str):
        return 0 if value.startswith("data:") else len(value)
    if isinstance(value, int):
        # Text that was made into tokens already, as embeddings take it.
        return CHARACTERS_PER_TOKEN
    if depth > _CONTENT_DEPTH_MAX:
        return 0
    if isinstance(value, list | tuple):
        return sum(_characters_of(each, depth + 1) for each in value)
    if isinstance(value, Mapping) or is_dataclass(value) or hasattr(type(value), "__pydantic_fields__"):
        return sum(_characters_of(inner, depth + 1) for name, inner in fields_of(value).items() if name not in _NO_TEXT)
    return 0


@dataclass(frozen=True, slots=True)
class _Request:
    """One call, made ready."""

    engine: Engine
    context: CallContext
    estimate: Estimate
    input_tokens: int
    hides_usage_chunk: bool
    is_raw: bool
    ask: Callable[[], Any]

    def answer(self) -> Flow[Any]:
        """Hold, call, settle, and return the provider's answer; for a replay the first one, which is still here."""
        begun = yield from begin(self.engine, self.context, self.estimate)
        if isinstance(begun, Settlement):
            return self._remembered(begun)
        response = yield from asked(self.engine, begun, self.ask)
        if inspect.isawaitable(response):
            return self._awaited(begun, response)
        return (yield from self._settled(begun, response))

    def opened(self) -> Flow[tuple[Attempt, Any]]:
        """Hold and call, and leave the settlement to the context manager that came back."""
        begun = yield from begin(self.engine, self.context, self.estimate)
        if isinstance(begun, Settlement):
            # What a context manager opened was never kept.
            raise ResponseGone(self.context.idempotency_key or "", begun.usage_event_id)
        return begun, (yield from asked(self.engine, begun, self.ask))

    def opened_stream(self) -> Flow[Any]:
        """Hold, and return the context manager of a stream, metered."""
        attempt, manager = yield from self.opened()
        metered = self.metered(attempt, manager)
        return metered if metered is not None else (yield from self._settled(attempt, manager))

    def metered(self, attempt: Attempt, response: Any) -> Any:
        """Return the stand-in of a stream, None for any other response."""
        stream = metered_stream(
            self.engine,
            response,
            attempt,
            input_tokens=self.input_tokens,
            hides_usage_chunk=self.hides_usage_chunk,
        )
        return None if stream is None else stream.response

    async def _awaited(self, attempt: Attempt, response: Any) -> Any:
        """Go on with an answer that has to be awaited, of a method that did not look like it."""
        lane = self.engine.lane
        answer = await run_async(asked(self.engine, attempt, lambda: response), lane)
        return await run_async(self._settled(attempt, answer), lane)

    def _remembered(self, first: Settlement) -> Any:
        response = self.engine.remembered_response(self.context)
        if response is None:
            raise ResponseGone(self.context.idempotency_key or "", first.usage_event_id)
        return response

    def _settled(self, attempt: Attempt, response: Any) -> Flow[Any]:
        body = response
        if self.is_raw:
            # The caller parses it too; the SDK keeps the result. Where it cannot be parsed, the caller is told so.
            try:
                body = yield Ask(response.parse)
            except Exception:  # noqa: BLE001  # the call is recorded in any case
                body = response
        stream = self.metered(attempt, body)
        if stream is not None:
            return _RawStream(response, stream) if self.is_raw else stream
        # Before it is settled: a replay may be answered the moment after.
        self.engine.remember_response(self.context, response)
        yield from settle_response(self.engine, attempt, body)
        return response


# -- answers that are opened and read afterwards ----------------------------------------------------------------------


class _RawStream(StandIn):
    """A raw response (`with_raw_response`) of a stream: what it is parsed into is metered."""

    def __init__(self, original: Any, stream: Any) -> None:
        super().__init__(original)
        self._stream = stream

    def parse(self, **options: Any) -> Any:
        """Return the stream, as the original's `parse` does."""
        if options:
            return self._original.parse(**options)
        return _soon(self._stream) if inspect.iscoroutinefunction(self._original.parse) else self._stream


async def _soon(value: Any) -> Any:
    return value


class _Opening:
    """The context manager of a stream helper (`messages.stream`). Entering it holds and calls; both colours."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._manager: Any = None

    def __enter__(self) -> Any:
        self._manager = run(self._request.opened_stream(), self._request.engine.lane)
        return self._manager.__enter__()

    def __exit__(self, *exception: Any) -> Any:
        return self._manager.__exit__(*exception)

    async def __aenter__(self) -> Any:
        self._manager = await run_async(self._request.opened_stream(), self._request.engine.lane)
        return await self._manager.__aenter__()

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._manager.__aexit__(*exception)


class _StreamedResponse:
    """The context manager of `with_streaming_response`, whose response is read within it; both colours."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._manager: Any = None
        self._response: _UnreadResponse | None = None

    def __enter__(self) -> Any:
        lane = self._request.engine.lane
        attempt, self._manager = run(self._request.opened(), lane)
        response = run(asked(self._request.engine, attempt, self._manager.__enter__), lane)
        self._response = _UnreadResponse(response, self._request, attempt)
        return self._response

    def __exit__(self, *exception: Any) -> Any:
        try:
            if self._response is not None:
                run(self._response.ended(exception[0]), self._request.engine.lane)
        finally:
            left = self._manager.__exit__(*exception)
        return left

    async def __aenter__(self) -> Any:
        lane = self._request.engine.lane
        attempt, self._manager = await run_async(self._request.opened(), lane)
        response = await run_async(asked(self._request.engine, attempt, self._manager.__aenter__), lane)
        self._response = _UnreadResponse(response, self._request, attempt)
        return self._response

    async def __aexit__(self, *exception: Any) -> Any:
        try:
            if self._response is not None:
                await carry_out_async(self._response.ended(exception[0]), self._request.engine)
        finally:
            left = await self._manager.__aexit__(*exception)
        return left


class _UnreadResponse(StandIn):
    """A response whose body the caller reads: parsed as a whole, parsed into a stream, or byte by byte."""

    def __init__(self, original: Any, request: _Request, attempt: Attempt) -> None:
        super().__init__(original)
        self._request = request
        self._attempt = attempt
        self._stream: Any = None

    def parse(self, **options: Any) -> Any:
        """Return the body as the original's `parse` does; a stream is metered."""
        parsed = self._original.parse(**options)
        return self._parsed_later(parsed) if inspect.isawaitable(parsed) else self._parsed(parsed)

    async def _parsed_later(self, parsed: Any) -> Any:
        return self._parsed(await parsed)

    def _parsed(self, parsed: Any) -> Any:
        if self._stream is None:
            self._stream = self._request.metered(self._attempt, parsed)
        return parsed if self._stream is None else self._stream

    def ended(self, exception: type[BaseException] | None) -> Flow[None]:
        """Settle as the `with` is left: with the body, which is read where the caller did not; else at the estimate."""
        settling = self._settling(can_read=exception is None or issubclass(exception, Exception))
        if exception is not None:
            settling = quietly(self._request.engine, self._attempt, settling)
        yield from settling

    def _settling(self, *, can_read: bool) -> Flow[None]:
        engine, attempt = self._request.engine, self._attempt
        if self._stream is not None:
            yield Ask(self._stream.close)
            return
        body = None
        if can_read:
            with suppress(Exception):
                body = yield Ask(self._original.parse)
        if body is None or is_stream(body):
            # It was read as it came over the wire, and what passed by is not known.
            yield from settle_or_estimate(engine, attempt, None, flags=("partial",))
        else:
            yield from settle_response(engine, attempt, body)
