"""Invented answers, the same for the same call, and how they are written down."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tallystick.provider_answers.call import CHARACTERS_PER_TOKEN, Call, JsonObject, tokens_of

__all__ = ["DATED_MODELS", "Answer", "compose", "data_event", "dated", "encoded", "named_event"]

SENTENCES = (
    "A tally stick keeps its notches, so both halves have to agree.",
    "Count what was used first, and only then ask what it costs.",
    "Small amounts are amounts too, and by the end of the month they add up.",
    "The meter at the mill turns once for every thousand litres of the river.",
    "A limit is a promise that was made before the work began.",
    "Two clerks who share one book had better take turns.",
    "A receipt that anybody can recompute needs no argument.",
    "The lamp burned for six hours, and the ledger says six hours.",
    "When the well runs low, the bell should ring before the bucket comes up dry.",
    "Every notch has a date, a reason and an owner.",
    "An entry that arrives late still belongs to the day on which it happened.",
    "The baker sells by weight and the potter by piece, yet both close their books on Friday.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The invented output. `is_cut` says that the caller's maximum ended it."""

    text: str
    thinking_tokens: int
    is_cut: bool

    @property
    def text_tokens(self) -> int:
        return tokens_of(len(self.text))

    @property
    def output_tokens(self) -> int:
        return self.text_tokens + self.thinking_tokens

    @property
    def pieces(self) -> list[str]:
        """The text in the bits in which a stream sends it: three words each."""
        return re.findall(r"(?:\S+\s*){1,3}", self.text)


def compose(call: Call, *, input_tokens: int, tokens_max: int | None, thinking_tokens: int = 0) -> Answer:
    """Invent an answer: longer for a longer prompt, in whole sentences unless the maximum cuts it.

    Thinking comes first and counts against the maximum, so it can leave no room for any text. Where the call says how
    long its answer is, it is exactly that long, whatever was asked for.
    """
    if call.output_tokens is not None:
        thinking_tokens = min(thinking_tokens, call.output_tokens)
        return Answer(_words(call.output_tokens - thinking_tokens), thinking_tokens, is_cut=False)
    target = 16 + call.pick("length", 48) + min(input_tokens // 4, 160)
    sentence = call.pick("sentence", len(SENTENCES))
    # A stride that shares no factor with the number of sentences visits each of them before any repeats.
    stride = (1, 5, 7, 11)[call.pick("stride", 4)]
    text = SENTENCES[sentence]
    while tokens_of(len(text)) < target:
        sentence = (sentence + stride) % len(SENTENCES)
        text = f"{text} {SENTENCES[sentence]}"
    if tokens_max is None or thinking_tokens + tokens_of(len(text)) <= tokens_max:
        return Answer(text, thinking_tokens, is_cut=False)
    thinking_tokens = min(thinking_tokens, tokens_max)
    return Answer(text[: (tokens_max - thinking_tokens) * CHARACTERS_PER_TOKEN], thinking_tokens, is_cut=True)


def _words(tokens: int) -> str:
    """Return text of exactly so many tokens."""
    characters = tokens * CHARACTERS_PER_TOKEN
    text = " ".join(SENTENCES) + " "
    return (text * (characters // len(text) + 1))[:characters]


def encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def data_event(value: object) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"


def named_event(value: JsonObject) -> bytes:
    return f"event: {value['type']}\n".encode() + data_event(value)


# The services answer with the dated name of what they ran, where the request gave the undated one.
DATED_MODELS = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}


def dated(model: str) -> str:
    return DATED_MODELS.get(model, model)
