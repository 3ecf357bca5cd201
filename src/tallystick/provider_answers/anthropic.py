"""Anthropic's messages, with a prompt cache that is marked and priced."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.provider_answers.answer import Answer, compose, dated, encoded, named_event
from tallystick.provider_answers.call import Call, JsonObject, bytes_of, field_of, list_of, text_of, tokens_of
from tallystick.provider_answers.endpoint import Endpoint, Provider
from tallystick.provider_answers.reply import Reply

__all__ = ["ANTHROPIC", "ENDPOINTS"]

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


def _anthropic_input(call: Call) -> _AnthropicInput:
    """Divide the prompt at its `cache_control` marks: read up to the last known one, written from there to the last."""
    beginning = hashlib.blake2b(f"anthropic {call.model}".encode(), digest_size=16)
    characters = read = reached = written_five_minutes = written_one_hour = 0
    for text, mark in _anthropic_blocks(call.body):
        beginning.update(bytes_of(f"{text}\n"))
        characters += len(text)
        tokens = tokens_of(characters)
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
        fresh=tokens_of(characters) - reached,
        cache_read=read,
        cache_written_five_minutes=written_five_minutes,
        cache_written_one_hour=written_one_hour,
    )


def _anthropic_blocks(body: JsonObject) -> Iterator[tuple[str, JsonObject | None]]:
    """Yield each block's text and cache mark, in the order of the prompt: tools, system, messages."""
    contents = [body.get("system"), *(field_of(message, "content") for message in list_of(body.get("messages")))]
    blocks = [
        *((json.dumps(tool, sort_keys=True), field_of(tool, "cache_control")) for tool in list_of(body.get("tools"))),
        *((text_of(block), field_of(block, "cache_control")) for content in contents for block in list_of(content)),
    ]
    for place, (text, mark) in enumerate(blocks):
        # A mark on the request itself stands for one on its last block.
        of_request = body.get("cache_control") if place == len(blocks) - 1 else None
        found = mark or of_request
        yield text, found if isinstance(found, dict) else None


def _anthropic_messages(call: Call) -> Reply:
    for name in ("model", "messages", "max_tokens"):
        call.required(name)
    given = _anthropic_input(call)
    answer = compose(call, input_tokens=given.total, tokens_max=call.count("max_tokens"))
    stop_reason = "max_tokens" if answer.is_cut else "end_turn"
    message: JsonObject = {
        "id": call.identifier("msg_"),
        "type": "message",
        "role": "assistant",
        "model": dated(call.model),
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": given.usage(answer.output_tokens),
    }
    events = _anthropic_events(message, given, answer)
    chunks = [named_event(event) for event in events] if call.is_stream else [encoded(message)]
    return Reply(
        tuple(chunks), is_stream=call.is_stream, input_quantity=given.total, output_quantity=answer.output_tokens
    )


def _anthropic_events(message: JsonObject, given: _AnthropicInput, answer: Answer) -> Iterator[JsonObject]:
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


ANTHROPIC = Provider("anthropic", _anthropic_error, key_headers=("x-api-key", "authorization"))
ENDPOINTS = (Endpoint(ANTHROPIC, "messages", re.compile(r"/v1/messages"), _anthropic_messages),)
