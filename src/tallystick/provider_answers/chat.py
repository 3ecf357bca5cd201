"""A chat completion in the shape that OpenAI and Mistral share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.provider_answers.answer import Answer, data_event, dated, encoded
from tallystick.provider_answers.call import Call, JsonObject
from tallystick.provider_answers.reply import Reply

__all__ = ["Chat"]


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat completion of OpenAI or Mistral, worked out and not yet put on the wire."""

    call: Call
    id: str
    answer: Answer
    usage: JsonObject

    @property
    def finish_reason(self) -> str:
        return "length" if self.answer.is_cut else "stop"

    def plain(self) -> Reply:
        message: JsonObject = {"role": "assistant", "content": self.answer.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        body = {**self._envelope("chat.completion"), "choices": [choice], "usage": self.usage}
        return self._reply([encoded(body)])

    def streamed(self, chunks: Iterator[JsonObject]) -> Reply:
        return self._reply([*(data_event(chunk) for chunk in chunks), b"data: [DONE]\n\n"])

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
        return {"id": self.id, "object": kind, "created": self.call.created, "model": dated(self.call.model)}

    def _reply(self, chunks: list[bytes]) -> Reply:
        return Reply(
            tuple(chunks),
            is_stream=self.call.is_stream,
            input_quantity=self.usage["prompt_tokens"],
            output_quantity=self.usage["completion_tokens"],
        )
