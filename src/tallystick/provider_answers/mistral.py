"""Mistral's chat completions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tallystick.provider_answers.answer import compose
from tallystick.provider_answers.call import Call, JsonObject, prompt_of, tokens_of
from tallystick.provider_answers.chat import Chat
from tallystick.provider_answers.endpoint import Endpoint, Provider
from tallystick.provider_answers.reply import Reply

__all__ = ["ENDPOINTS", "MISTRAL"]


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


def _mistral_chat(call: Call) -> Reply:
    """Answer as OpenAI does, except that a stream always gives its usage, in the chunk with the finish reason."""
    call.required("model")
    call.required("messages")
    prompt = prompt_of(call, "messages")
    input_tokens = tokens_of(len(prompt))
    answer = compose(call, input_tokens=input_tokens, tokens_max=call.count("max_tokens"))
    usage = {
        "prompt_tokens": input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": call.cache.repeated_tokens(f"mistral {call.model}", prompt)},
    }
    chat = Chat(call, call.identifier(""), answer, usage)
    return chat.streamed(_mistral_chat_chunks(chat)) if call.is_stream else chat.plain()


def _mistral_chat_chunks(chat: Chat) -> Iterator[JsonObject]:
    yield from chat.text_chunks()
    yield {**chat.chunk({"content": ""}, chat.finish_reason), "usage": chat.usage}


MISTRAL = Provider("mistral", _mistral_error, key_headers=("authorization",))
ENDPOINTS = (Endpoint(MISTRAL, "chat.completions", re.compile(r"/mistral/v1/chat/completions"), _mistral_chat),)
