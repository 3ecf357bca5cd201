"""A call as every provider reads it: its text, its size in tokens, and what looks like chance in its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tallystick.provider_answers.reply import RefusedError

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Call",
    "JsonObject",
    "PromptCache",
    "bytes_of",
    "field_of",
    "list_of",
    "prompt_of",
    "text_of",
    "tokens_of",
]

JsonObject: TypeAlias = dict[str, Any]

CHARACTERS_PER_TOKEN = 4
CACHE_BLOCK_TOKENS = 128


class PromptCache:
    """Knows which beginnings of prompts were sent before, as hashes. The first to send one writes, later ones read."""

    def __init__(self, tokens_min: int) -> None:
        self.tokens_min = tokens_min
        self._seen: set[bytes] = set()

    def was_seen(self, beginning: bytes) -> bool:
        """Say whether this hash was asked about before, and remember it."""
        seen = beginning in self._seen
        self._seen.add(beginning)
        return seen

    def repeated_tokens(self, scope: str, text: str) -> int:
        """Return how many tokens of `text` begin like an earlier one: whole blocks, zero below the minimum."""
        block_characters = CACHE_BLOCK_TOKENS * CHARACTERS_PER_TOKEN
        beginning = hashlib.blake2b(scope.encode(), digest_size=16)
        repeated = 0
        for start in range(0, len(text) - block_characters + 1, block_characters):
            beginning.update(bytes_of(text[start : start + block_characters]))
            if self.was_seen(beginning.digest()):
                repeated += CACHE_BLOCK_TOKENS
        return repeated if repeated >= self.tokens_min else 0


@dataclass(frozen=True, slots=True)
class Call:
    """A request to an endpoint, read. `digest` decides everything that looks like chance.

    `created` is when it came, in seconds since 1970. `output_tokens` says how long the answer is, where that is known.
    """

    number: int
    seed: int
    digest: bytes
    model: str
    is_stream: bool
    query: Mapping[str, str]
    body: JsonObject
    cache: PromptCache
    created: int
    output_tokens: int | None = None

    def pick(self, what: str, choices: int) -> int:
        """Return a number below `choices` that this seed and body always give for `what`."""
        return int.from_bytes(hashlib.blake2b(what.encode(), key=self.digest, digest_size=8).digest()) % choices

    def identifier(self, prefix: str) -> str:
        return f"{prefix}{self.digest.hex()}{self.number:06d}"

    def required(self, name: str) -> Any:
        value = self.body.get(name)
        if value is None or value in ("", []):
            raise RefusedError(400, f"`{name}` is missing. The body must be a JSON object that has it.")
        return value

    def count(self, *names: str) -> int | None:
        """Return the first of these fields that is set. Only a whole number of at least one will do."""
        value = next((self.body[name] for name in names if self.body.get(name) is not None), None)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise RefusedError(400, f"`{names[0]}` must be a whole number of at least 1.")
        return value


def tokens_of(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


_TEXT_FIELDS = frozenset({"role", "name", "content", "text", "parts", "arguments", "output", "thinking"})


def text_of(value: object) -> str:
    """Return all text of a message, a list of them, or a part, in any provider's nesting. Media counts as nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return "\n".join(text_of(item) for name, item in value.items() if name in _TEXT_FIELDS)
    return ""


def prompt_of(call: Call, *names: str) -> str:
    """Return the text of these fields, with the tools before it: their descriptions are input like any other."""
    tools = call.body.get("tools")
    described = [json.dumps(tools, sort_keys=True)] if tools else []
    return "\n".join([*described, *(text_of(call.body[name]) for name in names if call.body.get(name) is not None)])


def bytes_of(text: str) -> bytes:
    # JSON may carry half a surrogate pair, which has no encoding of its own.
    return text.encode("utf-8", "surrogatepass")


def list_of(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def field_of(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
