"""Google's Gemini, plain and streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tallystick.provider_answers.answer import Answer, compose, data_event, encoded
from tallystick.provider_answers.call import Call, JsonObject, field_of, prompt_of, tokens_of
from tallystick.provider_answers.endpoint import Endpoint, Provider
from tallystick.provider_answers.reply import RefusedError, Reply

__all__ = ["ENDPOINTS", "GEMINI"]

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
    found = field_of(value, name)
    return field_of(value, snake_case) if found is None else found


def _gemini_thinking_tokens(call: Call) -> int:
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


def _gemini_generate(call: Call) -> Reply:
    call.required("contents")
    if call.is_stream and call.query.get("alt") != "sse":
        raise RefusedError(400, "This demo provider streams events only: add `?alt=sse`.")
    maximum = _gemini_field(_gemini_field(call.body, "generationConfig"), "maxOutputTokens")
    prompt = prompt_of(call, "systemInstruction", "system_instruction", "contents")
    input_tokens = tokens_of(len(prompt))
    answer = compose(
        call,
        input_tokens=input_tokens,
        tokens_max=maximum if isinstance(maximum, int) and maximum > 0 else None,
        thinking_tokens=_gemini_thinking_tokens(call),
    )
    cached_tokens = call.cache.repeated_tokens(f"gemini {call.model}", prompt)
    generation = _Generation(call, answer, input_tokens, cached_tokens)
    chunks = [data_event(part) for part in generation.parts()] if call.is_stream else [encoded(generation.whole())]
    return Reply(
        tuple(chunks), is_stream=call.is_stream, input_quantity=input_tokens, output_quantity=answer.output_tokens
    )


@dataclass(frozen=True, slots=True)
class _Generation:
    """An answer of Gemini, worked out and not yet put on the wire."""

    call: Call
    answer: Answer
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
            yield self._body(piece, tokens_of(characters), is_last=place == len(pieces))

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


GEMINI = Provider("google", _gemini_error, key_headers=("x-goog-api-key", "authorization"), key_parameter="key")
ENDPOINTS = (
    Endpoint(
        GEMINI,
        "generate_content",
        re.compile(r"/v1(?:beta|alpha)?/models/(?P<model>[^/:]+):(?P<action>generateContent|streamGenerateContent)"),
        _gemini_generate,
    ),
)
