"""A provider and its endpoints: who answers which path, in which shape."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from tallystick.provider_answers.answer import encoded
from tallystick.provider_answers.call import Call, JsonObject, PromptCache
from tallystick.provider_answers.reply import RefusedError, Reply, Request

__all__ = ["Endpoint", "Provider", "digest_of", "read_call"]


@dataclass(frozen=True, slots=True)
class Provider:
    """Who answers: the name, the shape of its errors, and where its clients send their key."""

    name: str
    error: Callable[[int, str], JsonObject]
    key_headers: tuple[str, ...]
    key_parameter: str | None = None

    def has_key(self, request: Request) -> bool:
        in_query = self.key_parameter is not None and self.key_parameter in request.query
        return in_query or any(request.headers.get(name) for name in self.key_headers)

    def refuse(self, refusal: RefusedError, retry_after_seconds: int) -> Reply:
        """Return the error in this provider's own shape. A 429 says when to come back."""
        headers = {"retry-after": str(retry_after_seconds)} if refusal.status == 429 else {}
        return Reply((encoded(self.error(refusal.status, refusal.message)),), status=refusal.status, headers=headers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of call, by its path. `unit` is what the provider bills of it."""

    provider: Provider
    name: str
    path: re.Pattern[str]
    answer: Callable[[Call], Reply]
    unit: str = "tokens"


def read_call(
    endpoint: Endpoint,
    match: re.Match[str],
    request: Request,
    *,
    number: int,
    seed: int,
    cache: PromptCache,
    created: int,
) -> Call:
    """Read a request to an endpoint. The seed and what was asked decide the digest, and with it the answer."""
    body = _json_object(request.body)
    in_path = match.groupdict()
    model = in_path.get("model") or body.get("model")
    is_stream = in_path["action"] == "streamGenerateContent" if "action" in in_path else body.get("stream") is True
    return Call(
        number=number,
        seed=seed,
        digest=digest_of(endpoint, model, body, seed=seed),
        model=model if isinstance(model, str) else "",
        is_stream=is_stream,
        query=request.query,
        body=body,
        cache=cache,
        created=created,
    )


def digest_of(endpoint: Endpoint, model: object, body: JsonObject, *, seed: int) -> bytes:
    """Return what decides the answer: the seed and what was asked."""
    # Streaming is a way of sending, not another question: it must not change the answer.
    question = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    digested = json.dumps([seed, endpoint.provider.name, endpoint.name, model, question], sort_keys=True)
    return hashlib.blake2b(digested.encode(), digest_size=12).digest()


def _json_object(content: bytes) -> JsonObject:
    """Return the body's object. Anything else reads as an empty one, whose missing fields are then refused by name."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
