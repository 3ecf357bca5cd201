"""The demo's clients of the providers: the official SDKs where they are installed, plain HTTP otherwise.

Both send the same bodies to the same server. A call that goes by plain HTTP is metered through `ts.meter`, one of an
SDK's client also through `ts.wrap`; the records are the same.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import anthropic
    import openai
    from google import genai
    from mistralai.client import Mistral

    from tallystick.app import Tallystick
    from tallystick.metering.meter import Meter

__all__ = ["Clients", "Http", "OpenAIChat", "PlainHttpError"]

KEY = "no-key-is-needed"
TIMEOUT_SECONDS = 60
PLAIN_HTTP = "plain HTTP"

Body = dict[str, Any]


class PlainHttpError(Exception):
    """A provider answered a call by plain HTTP with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status


class Http:
    """JSON over plain HTTP to a server on this machine."""

    def __init__(self, url: str) -> None:
        self._location = urlsplit(url).netloc

    def post(self, path: str, body: Mapping[str, Any]) -> Body:
        """Return the answer to one call.

        Raises:
            PlainHttpError: the provider refused it.
        """
        with closing(HTTPConnection(self._location, timeout=TIMEOUT_SECONDS)) as connection:
            answer: Body = json.load(_asked(connection, path, body))
            return answer

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Body]:
        """Yield the events of a stream as they arrive. The call is made with the first of them."""
        with closing(HTTPConnection(self._location, timeout=TIMEOUT_SECONDS)) as connection:
            for line in _asked(connection, path, body):
                if line.startswith(b"data: {"):
                    yield json.loads(line.removeprefix(b"data: "))


def _asked(connection: HTTPConnection, path: str, body: Mapping[str, Any]) -> Any:
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status >= 400:
        raise PlainHttpError(response.status, response.read().decode(errors="replace"))
    return response


class MeteredHttp(Http):
    """Plain HTTP, metered: what `ts.wrap` is for an SDK's client."""

    def __init__(self, url: str, ts: Tallystick, provider: str, *, billable: str, feature: str) -> None:
        super().__init__(url)
        self._meter = ts.meter.billable(billable).feature(feature)
        self._provider = provider

    def post(self, path: str, body: Mapping[str, Any]) -> Body:
        call_plainly = super().post
        return self._meter_for(body).call(lambda: call_plainly(path, body)).response

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Body]:
        call_plainly = super().events
        return self._meter_for(body).call(lambda: call_plainly(path, body)).response

    def _meter_for(self, body: Mapping[str, Any]) -> Meter:
        tokens_max = body.get("max_completion_tokens") or body["max_tokens"]
        return self._meter.using_provider(self._provider, body["model"]).expecting(tokens_max)


class OpenAIChat:
    """OpenAI's chat completions and embeddings."""

    def __init__(self, url: str, sdk: openai.OpenAI | None, http: Http | None = None) -> None:
        self._url = url
        self._sdk = sdk
        self._http = http or Http(url)

    def ask(self, body: Body) -> Any:
        if self._sdk is None:
            return self._http.post("/v1/chat/completions", body)
        return self._sdk.chat.completions.create(**body)

    def stream(self, body: Body) -> Iterator[Any]:
        if self._sdk is None:
            # A chat stream of OpenAI's reports its usage only where it is asked to, which `ts.wrap` sees to.
            asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
            return self._http.events("/v1/chat/completions", asked)
        chunks: Iterator[Any] = self._sdk.chat.completions.create(**body, stream=True)
        return chunks

    def embed(self, body: Body) -> Any:
        if self._sdk is None:
            return self._http.post("/v1/embeddings", body)
        return self._sdk.embeddings.create(**body)

    def metered(self, ts: Tallystick, *, billable: str, feature: str) -> OpenAIChat:
        """Return the same client with every call of it metered for this billable."""
        if self._sdk is None:
            http = MeteredHttp(self._url, ts, "openai", billable=billable, feature=feature)
            return OpenAIChat(self._url, None, http)
        return OpenAIChat(self._url, ts.wrap(self._sdk, billable=billable, feature=feature, provider="openai"))


class AsyncOpenAIChat:
    """OpenAI's chat completions, awaited."""

    def __init__(self, url: str, sdk: openai.AsyncOpenAI | None, calls_at_once: int) -> None:
        self._sdk = sdk
        self._http = Http(url)
        self._threads = ThreadPoolExecutor(calls_at_once)

    async def ask(self, body: Body) -> Any:
        if self._sdk is None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._http.post, "/v1/chat/completions", body)
        return await self._sdk.chat.completions.create(**body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._threads.shutdown()
        if self._sdk is not None:
            await self._sdk.close()


class AnthropicMessages:
    """Anthropic's messages."""

    def __init__(self, url: str, sdk: anthropic.Anthropic | None, http: Http | None = None) -> None:
        self._url = url
        self._sdk = sdk
        self._http = http or Http(url)

    def ask(self, body: Body) -> Any:
        if self._sdk is None:
            return self._http.post("/v1/messages", body)
        return self._sdk.messages.create(**body)

    def stream(self, body: Body) -> Iterator[Any]:
        if self._sdk is None:
            return self._http.events("/v1/messages", {**body, "stream": True})
        events: Iterator[Any] = self._sdk.messages.create(**body, stream=True)
        return events

    def metered(self, ts: Tallystick, *, billable: str, feature: str) -> AnthropicMessages:
        """Return the same client with every call of it metered for this billable."""
        if self._sdk is None:
            http = MeteredHttp(self._url, ts, "anthropic", billable=billable, feature=feature)
            return AnthropicMessages(self._url, None, http)
        return AnthropicMessages(self._url, ts.wrap(self._sdk, billable=billable, feature=feature))


class Clients:
    """A client of every provider, open inside a `with` block. `ways` says which SDK, or that it is plain HTTP."""

    def __init__(self, url: str) -> None:
        self.ways: dict[str, str] = {}
        self._url = url
        self._http = Http(url)
        self._open = ExitStack()
        self._google: genai.Client | None = None
        self._mistral: Mistral | None = None

    def __enter__(self) -> Self:
        self._open.enter_context(_no_proxy())
        self.openai = OpenAIChat(self._url, self._openai())
        self.anthropic = AnthropicMessages(self._url, self._anthropic())
        self._google = self._genai()
        self._mistral = self._mistralai()
        self.ways["acme"] = PLAIN_HTTP
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def openai_async(self, *, calls_at_once: int) -> AsyncOpenAIChat:
        """Return an asynchronous client of OpenAI, for `async with`."""
        if self.ways["openai"] == PLAIN_HTTP:
            return AsyncOpenAIChat(self._url, None, calls_at_once)
        import openai

        return AsyncOpenAIChat(self._url, openai.AsyncOpenAI(**self._openai_options()), calls_at_once)

    def gemini(self, *, model: str, text: str, tokens_max: int) -> Any:
        if self._google is None:
            contents = [{"role": "user", "parts": [{"text": text}]}]
            body = {"contents": contents, "generationConfig": {"maxOutputTokens": tokens_max}}
            return self._http.post(f"/v1beta/models/{model}:generateContent", body)
        config: Any = {"max_output_tokens": tokens_max}
        return self._google.models.generate_content(model=model, contents=text, config=config)

    def mistral(self, body: Body) -> Any:
        if self._mistral is None:
            return self._http.post("/mistral/v1/chat/completions", body)
        return self._mistral.chat.complete(**body)

    def acme(self, body: Body) -> Body:
        return self._http.post("/acme/v1/rewrite", body)

    # -- opening the SDKs ---------------------------------------------------------------------------------------------

    def _openai_options(self) -> Body:
        # Without retries: a call that fails is to be seen, and counted, once.
        return {"base_url": f"{self._url}/v1", "api_key": KEY, "max_retries": 0, "timeout": TIMEOUT_SECONDS}

    def _openai(self) -> openai.OpenAI | None:
        try:
            import openai
        except ImportError:
            self.ways["openai"] = PLAIN_HTTP
            return None
        self._through("openai", "openai")
        return self._open.enter_context(openai.OpenAI(**self._openai_options()))

    def _anthropic(self) -> anthropic.Anthropic | None:
        try:
            import anthropic
        except ImportError:
            self.ways["anthropic"] = PLAIN_HTTP
            return None
        self._through("anthropic", "anthropic")
        client = anthropic.Anthropic(base_url=self._url, api_key=KEY, max_retries=0, timeout=TIMEOUT_SECONDS)
        return self._open.enter_context(client)

    def _genai(self) -> genai.Client | None:
        try:
            from google import genai
        except ImportError:
            self.ways["google"] = PLAIN_HTTP
            return None
        self._through("google", "google-genai")
        options: Any = {"base_url": self._url, "timeout": TIMEOUT_SECONDS * 1000}
        return self._open.enter_context(genai.Client(vertexai=False, api_key=KEY, http_options=options))

    def _mistralai(self) -> Mistral | None:
        try:
            from mistralai.client import Mistral
        except ImportError:
            self.ways["mistral"] = PLAIN_HTTP
            return None
        self._through("mistral", "mistralai")
        client: Mistral = Mistral(api_key=KEY, server_url=f"{self._url}/mistral", timeout_ms=TIMEOUT_SECONDS * 1000)
        self._open.enter_context(client)
        return client

    def _through(self, provider: str, distribution: str) -> None:
        try:
            self.ways[provider] = f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            self.ways[provider] = distribution


@contextmanager
def _no_proxy() -> Iterator[None]:
    """Keep calls to this machine from a proxy that the environment names; the SDKs would send them there."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    os.environ.update(dict.fromkeys(before, ",".join(filter(None, [*before.values(), "127.0.0.1"]))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
