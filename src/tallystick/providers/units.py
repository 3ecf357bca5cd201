"""What a provider can charge for: token kinds, which contain each other, and counts such as searches or seconds.

A token has a direction, may have a modality and may have a kind (read from the cache, reasoning, ...). A unit that
names fewer of these contains every unit that names the same and more: `input_tokens` contains `cache_read_tokens`,
which contains `cache_audio_read_tokens`. The names are those of the genai-prices registry (a test compares the two).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "INPUT",
    "MODALITIES",
    "OUTPUT",
    "TOKEN_UNITS",
    "UNITS",
    "Direction",
    "TokenKind",
    "Unit",
]

MILLION = 1_000_000

MODALITIES = ("", "text", "audio", "image", "video")
"""The modalities of a token; "" is one that the provider did not break down."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing that is counted. A price is stated for `per` of it; `dimensions` decide what contains what."""

    key: str
    per: int
    dimensions: frozenset[tuple[str, str]]

    @property
    def direction(self) -> str | None:
        """ "input", "output", or None for what has no direction, such as a request."""
        return next((value for name, value in self.dimensions if name == "direction"), None)

    @property
    def is_tokens(self) -> bool:
        return ("family", "tokens") in self.dimensions

    def contains(self, other: Unit) -> bool:
        """Tell whether every `other` is also one of these; a unit contains itself."""
        return self.dimensions <= other.dimensions


@dataclass(frozen=True, slots=True)
class TokenKind:
    """One kind of token of a direction: the unit's key for each modality, and the name of its disjoint class."""

    name: str
    keys: Mapping[str, str]
    dimensions: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Direction:
    """All token units of one direction. `kinds` never overlap each other; `plain` is a token of no kind."""

    name: str
    total_key: str
    plain: TokenKind
    kinds: tuple[TokenKind, ...]


def _kind(direction: str, name: str, total_key: str, modal_key: str, kind: str = "", ttl: str = "") -> TokenKind:
    keys = {modality: modal_key.format(modality) if modality else total_key for modality in MODALITIES}
    named = {"family": "tokens", "direction": direction, "token_type": kind, "cache_ttl": ttl}
    return TokenKind(name, MappingProxyType(keys), frozenset(pair for pair in named.items() if pair[1]))


def _cache_write(ttl: str) -> TokenKind:
    return _kind(
        "input",
        f"cache_write_{ttl}",
        f"cache_write_{ttl}_tokens",
        f"cache_{{}}_write_{ttl}_tokens",
        "cache_write",
        ttl,
    )


INPUT = Direction(
    "input",
    "input_tokens",
    _kind("input", "input", "input_tokens", "input_{}_tokens"),
    (
        _kind("input", "cached_input", "cache_read_tokens", "cache_{}_read_tokens", "cache_read"),
        _cache_write("5m"),
        _cache_write("1h"),
        # After the two with a lifetime: this one takes the writes whose lifetime is not known.
        _kind("input", "cache_write", "cache_write_tokens", "cache_{}_write_tokens", "cache_write"),
        _kind("input", "tool_input", "input_tool_tokens", "input_{}_tool_tokens", "tool"),
    ),
)

OUTPUT = Direction(
    "output",
    "output_tokens",
    _kind("output", "output", "output_tokens", "output_{}_tokens"),
    (
        _kind("output", "reasoning", "output_reasoning_tokens", "output_{}_reasoning_tokens", "reasoning"),
        _kind("output", "citation", "output_citation_tokens", "output_{}_citation_tokens", "citation"),
    ),
)


def _token_units() -> Iterator[Unit]:
    for direction in (INPUT, OUTPUT):
        for kind in (direction.plain, *direction.kinds):
            for modality, key in kind.keys.items():
                modal = {("modality", modality)} if modality else set()
                yield Unit(key, MILLION, kind.dimensions | modal)


def _count(key: str, per: int, **dimensions: str) -> Unit:
    return Unit(key, per, frozenset(dimensions.items()))


TOKEN_UNITS: Mapping[str, Unit] = MappingProxyType({unit.key: unit for unit in _token_units()})
"""Every token unit by its key."""

_COUNT_UNITS = (
    _count("input_characters", MILLION, family="characters", direction="input"),
    _count("input_text_messages", 1000, family="messages", direction="input", modality="text"),
    _count("audio_seconds", 3600, family="durations", modality="audio"),
    _count("input_audio_seconds", 3600, family="durations", direction="input", modality="audio"),
    _count("output_audio_seconds", 3600, family="durations", direction="output", modality="audio"),
    _count("input_pixels", 1000 * MILLION, family="pixels", direction="input"),
    _count("input_document_pages", 1000, family="document_pages", direction="input"),
    _count(
        "input_annotated_document_pages", 1000, family="document_pages", direction="input", page_type="annotated"
    ),
    _count("rerank_searches", 1000, family="rerank"),
    _count("web_searches", 1000, family="tool_calls", tool_type="web_search"),
    _count("social_searches", 1000, family="tool_calls", tool_type="social_search"),
    _count("storage_searches", 1000, family="tool_calls", tool_type="storage_search"),
    _count("code_executions", 1000, family="tool_calls", tool_type="code_execution"),
    _count("requests", 1000, family="requests"),
)  # fmt: skip

UNITS: Mapping[str, Unit] = MappingProxyType({**TOKEN_UNITS, **{unit.key: unit for unit in _COUNT_UNITS}})
"""Every unit by its key."""
