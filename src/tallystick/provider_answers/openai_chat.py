"""OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.provider_answers.answer import compose
from tallystick.provider_answers.call import Call, JsonObject, prompt_of, tokens_of
from tallystick.provider_answers.chat import Chat
from tallystick.provider_answers.openai_models import thinking_tokens_of
from tallystick.provider_answers.reply import RefusedError, Reply

__all__ = ["openai_chat"]


def openai_chat(call: Call) -> Reply:
    call.required("model")
    call.required("messages")
    options = call.body.get("stream_options")
    if options is not None and not call.is_stream:
        raise RefusedError(400, "`stream_options` can be given only together with `stream`.")
    prompt = prompt_of(call, "messages")
    input_tokens = tokens_of(len(prompt))
    answer = compose(
        call,
        input_tokens=input_tokens,
        tokens_max=call.count("max_completion_tokens", "max_tokens"),
        thinking_tokens=thinking_tokens_of(call, call.body.get("reasoning_effort")),
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
    chat = Chat(call, call.identifier("chatcmpl-"), answer, usage)
    if not call.is_stream:
        return chat.plain()
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return chat.streamed(_openai_chat_chunks(chat, wants_usage=wants_usage))


def _openai_chat_chunks(chat: Chat, *, wants_usage: bool) -> Iterator[JsonObject]:
    """Yield the chunks. Usage comes last, with no choices, and only where asked for; the others then say `null`."""
    announced: JsonObject = {"usage": None} if wants_usage else {}
    for chunk in chat.text_chunks():
        yield {**chunk, **announced}
    yield {**chat.chunk({}, chat.finish_reason), **announced}
    if wants_usage:
        yield chat.usage_chunk()
