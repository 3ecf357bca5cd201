"""From overlapping counts to disjoint ones: each token is put into exactly one cell of kind × modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.providers.units import INPUT, MODALITIES, OUTPUT, Direction, TokenKind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["disjoint_cells", "disjoint_classes"]

_CLASS_BY_KEY = {
    key: kind.name if modality in ("", "text") else f"{kind.name}_{modality}"
    for direction in (INPUT, OUTPUT)
    for kind in (direction.plain, *direction.kinds)
    for modality, key in kind.keys.items()
}


def disjoint_classes(input_tokens: int, output_tokens: int, breakdown: Mapping[str, int]) -> dict[str, int]:
    """Return the non-empty token classes; their sum is exactly `input_tokens + output_tokens`.

    Text is not told apart from tokens without a modality: "input" is plain text, "cached_input_audio" cached audio.
    """
    if not breakdown:
        plain = {"input": input_tokens, "output": output_tokens}
        return {name: tokens for name, tokens in plain.items() if tokens}
    classes: dict[str, int] = {}
    for direction, total in ((INPUT, input_tokens), (OUTPUT, output_tokens)):
        for key, tokens in disjoint_cells(direction, total, breakdown).items():
            name = _CLASS_BY_KEY[key]
            classes[name] = classes.get(name, 0) + tokens
    return classes


def disjoint_cells(direction: Direction, total: int, breakdown: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` into cells named by their unit's key; the cells always sum to `total`.

    Numbers that contradict each other are cut to fit, in this order of trust: the total; the modalities (audio, image,
    video, text); the kinds in the order of `direction.kinds`; what is reported for a kind and a modality together.
    Where a provider does not say which modality a kind has, it is taken to be text, and another only when text does
    not suffice: audio is dearer, so cached tokens are not assumed to be audio.
    """
    room = _room_by_modality(direction, total, breakdown)
    cells: dict[str, int] = {}
    rests: list[tuple[TokenKind, int]] = []
    left = total
    for kind in direction.kinds:
        tokens = min(_tokens_of_kind(direction, kind, breakdown, ""), left)
        left -= tokens
        for modality in MODALITIES[1:]:
            stated = _tokens_of_kind(direction, kind, breakdown, modality)
            taken = min(stated, tokens, room[modality])
            tokens -= _put(cells, kind, modality, taken, room)
        rests.append((kind, tokens))
    for kind, rest in rests:
        for modality in MODALITIES:
            rest -= _put(cells, kind, modality, min(rest, room[modality]), room)
    for modality in MODALITIES:
        _put(cells, direction.plain, modality, room[modality], room)
    return cells


def _room_by_modality(direction: Direction, total: int, breakdown: Mapping[str, int]) -> dict[str, int]:
    room = dict.fromkeys(MODALITIES, 0)
    left = total
    for modality in ("audio", "image", "video", "text"):
        of_kinds = sum(_tokens_of_kind(direction, kind, breakdown, modality) for kind in direction.kinds)
        room[modality] = min(max(breakdown.get(direction.plain.keys[modality], 0), of_kinds), left)
        left -= room[modality]
    room[""] = left
    return room


def _tokens_of_kind(direction: Direction, kind: TokenKind, breakdown: Mapping[str, int], modality: str) -> int:
    """Return what is reported for a kind, without the kinds of `direction.kinds` that it contains.

    A kind without a number of its own is what its modalities sum to.
    """
    tokens = breakdown.get(kind.keys[modality], 0)
    if tokens and kind.name == "cache_write":
        for other in direction.kinds:
            if other is not kind and kind.dimensions <= other.dimensions:
                tokens -= breakdown.get(other.keys[modality], 0)
    if modality == "":
        return max(tokens, sum(_tokens_of_kind(direction, kind, breakdown, named) for named in MODALITIES[1:]))
    return max(tokens, 0)


def _put(cells: dict[str, int], kind: TokenKind, modality: str, tokens: int, room: dict[str, int]) -> int:
    if tokens:
        key = kind.keys[modality]
        cells[key] = cells.get(key, 0) + tokens
        room[modality] -= tokens
    return tokens
