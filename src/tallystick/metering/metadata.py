"""Metadata of usage events: plain values, limited in size, with secrets taken out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from tallystick.errors import InvalidInput

__all__ = ["MetadataPolicy", "printable"]

_DEPTH_MAX = 4
_REDACTED = "[redacted]"
_WORD_END = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class MetadataPolicy:
    """How much metadata an event may carry, and the key names, or their last words, whose values are never kept."""

    bytes_max: int
    keys_max: int
    redact: tuple[str, ...]

    def encoded(self, metadata: Mapping[str, object]) -> str | None:
        """Return metadata as compact JSON, None where there is none.

        Dates, UUIDs and decimals become text, control characters are dropped, values of secret-looking keys are
        replaced.

        Raises:
            InvalidInput: for a value that JSON has no form for, too many keys, or too many bytes.
        """
        if not isinstance(metadata, Mapping):
            raise InvalidInput("metadata", metadata, "Give a mapping of names to values.")
        if not metadata:
            return None
        if len(metadata) > self.keys_max:
            raise InvalidInput("metadata", f"{len(metadata)} keys", f"Give at most {self.keys_max} keys.")
        encoded = json.dumps(self._mapping(metadata, 1), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        size = len(encoded.encode())
        if size > self.bytes_max:
            raise InvalidInput("metadata", f"{size} bytes", f"Give at most {self.bytes_max} bytes of JSON.")
        return encoded

    def _mapping(self, values: Mapping[Any, object], depth: int) -> dict[str, object]:
        if depth > _DEPTH_MAX:
            raise InvalidInput("metadata", "nested mapping", f"Nest at most {_DEPTH_MAX} levels.")
        cleaned: dict[str, object] = {}
        for key, value in values.items():
            name = printable(str(key))
            cleaned[name] = _REDACTED if self._is_secret(name) else self._value(name, value, depth)
        return cleaned

    def _is_secret(self, name: str) -> bool:
        """Compare whole words: `openaiApiKey` ends in api_key, and `max_tokens` does not end in token."""
        words = _WORD_END.sub("_", name).lower().replace("-", "_").replace(".", "_")
        return any(words == secret or words.endswith(f"_{secret}") for secret in self.redact)

    def _value(self, name: str, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, float):
            if value != value or value in (float("inf"), float("-inf")):
                raise InvalidInput(f"metadata.{name}", value, "JSON has no form for it; leave it out.")
            return value
        if isinstance(value, datetime | date):
            return value.isoformat()
        if isinstance(value, Decimal | UUID):
            return str(value)
        if isinstance(value, Mapping):
            return self._mapping(value, depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            if depth >= _DEPTH_MAX:
                raise InvalidInput("metadata", "nested list", f"Nest at most {_DEPTH_MAX} levels.")
            return [self._value(name, item, depth + 1) for item in value]
        raise InvalidInput(f"metadata.{name}", value, "Give text, numbers, dates, lists or mappings of them.")


def printable(text: str) -> str:
    """Return a text without what no database or terminal wants."""
    if text.isprintable():
        return text
    # NUL cannot be stored in PostgreSQL text; lone surrogates cannot be encoded; the rest only confuses terminals.
    kept = (character for character in text if character.isprintable() or character in "\n\t")
    return "".join(kept)
