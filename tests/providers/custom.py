"""A provider as an application would write it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.money import Money
from tallystick.providers import ProviderUsage

if TYPE_CHECKING:
    from collections.abc import Mapping


class CustomProvider:
    """Charges 0.001 USD for a thousand input tokens and 0.002 USD for a thousand output tokens."""

    name = "custom"

    def extract(self, response: Any) -> ProviderUsage | None:
        if response is None:
            return None
        return ProviderUsage(
            input_tokens=response.input_tokens,
            output_tokens=response.output_tokens,
            input_cost=Money("0.001") * response.input_tokens * Decimal("0.001"),
            output_cost=Money("0.002") * response.output_tokens * Decimal("0.001"),
        )

    def stream(self) -> CharacterStream:
        return CharacterStream()

    def estimate(self, request: Mapping[str, Any]) -> int | None:
        return len(request["prompt"]) // 4


class CharacterStream:
    """Counts every chunk as one token."""

    def __init__(self) -> None:
        self.chunks = 0

    def feed(self, chunk: object) -> None:
        self.chunks += bool(chunk)

    def usage(self) -> ProviderUsage | None:
        return ProviderUsage(0, self.chunks, estimated=True)


class Broken:
    name = "broken"

    def extract(self, response: object) -> ProviderUsage | None:
        raise KeyError(response)


class Wrong:
    name = "wrong"

    def extract(self, response: object) -> Any:
        return {"input_tokens": response}


class NoProvider:
    name = "none"


class NeedsMore:
    name = "more"

    def __init__(self, key: str) -> None:
        self.key = key

    def extract(self, response: object) -> ProviderUsage | None:
        return None
