"""OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.provider_answers.answer import Answer, compose, dated, encoded, named_event
from tallystick.provider_answers.call import Call, JsonObject, prompt_of, tokens_of
from tallystick.provider_answers.openai_models import REASONING_MODEL, thinking_tokens_of
from tallystick.provider_answers.reply import Reply

__all__ = ["openai_responses"]


def openai_responses(call: Call) -> Reply:
    call.required("model")
    call.required("input")
    prompt = prompt_of(call, "instructions", "input")
    input_tokens = tokens_of(len(prompt))
    reasoning = call.body.get("reasoning")
    answer = compose(
        call,
        input_tokens=input_tokens,
        tokens_max=call.count("max_output_tokens"),
        thinking_tokens=thinking_tokens_of(call, reasoning.get("effort") if isinstance(reasoning, dict) else None),
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
    chunks = [named_event(event) for event in response.events()] if call.is_stream else [encoded(response.finished())]
    return Reply(
        tuple(chunks), is_stream=call.is_stream, input_quantity=input_tokens, output_quantity=answer.output_tokens
    )


@dataclass(frozen=True, slots=True)
class _Response:
    """An answer of the Responses API, worked out and not yet put on the wire."""

    call: Call
    answer: Answer
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
        if REASONING_MODEL.match(self.call.model):
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
            "created_at": self.call.created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete_details,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "metadata": asked.get("metadata") or {},
            "model": dated(self.call.model),
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
