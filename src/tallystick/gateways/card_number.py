"""Telling card numbers from other text, so that none is ever stored. Pure."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["has_card_number"]

_LENGTH_MIN, _LENGTH_MAX = 13, 19
_GROUPS = re.compile(r"[0-9]+(?:-[0-9]+)*")
# Of an identifier such as "pm_1Nx42Zc" the digits are parts of words, and a UUID may by chance end in many of them.
_WHOLE_GROUPS = re.compile(r"(?<![0-9A-Za-z])[0-9]+(?:-[0-9]+)*(?![0-9A-Za-z])")
_UUID = re.compile(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")
_INVISIBLE, _DASH = "Cf", "Pd"


def has_card_number(text: str, *, is_identifier: bool = False) -> bool:
    """Say whether a text contains 13 to 19 digits, with spaces or dashes between them or not, that pass Luhn's check.

    Digits of any script and dashes of any kind count. In prose each run of neighbouring groups of digits is tried; an
    identifier, such as a gateway's token, is only refused where all the digits that stand together are a card number.
    """
    plain = _plain(text)
    if is_identifier:
        runs = [[found[0]] for found in _WHOLE_GROUPS.finditer(_UUID.sub("uuid", plain))]
    else:
        runs = [run for found in _GROUPS.finditer(plain) for run in _runs(found[0].split("-"))]
    return any(_is_card_number("".join(run).replace("-", "")) for run in runs)


def _plain(text: str) -> str:
    """Return a text with ASCII digits, and one "-" for whatever separates them."""
    return re.sub("-+", "-", "".join(map(_plain_character, unicodedata.normalize("NFKC", text))))


def _plain_character(one: str) -> str:
    if one.isdecimal():
        return str(unicodedata.decimal(one))
    return "-" if one.isspace() or unicodedata.category(one) in (_INVISIBLE, _DASH) else one


def _runs(groups: list[str]) -> list[list[str]]:
    return [groups[first:last] for first in range(len(groups)) for last in range(first + 1, len(groups) + 1)]


def _is_card_number(digits: str) -> bool:
    if not _LENGTH_MIN <= len(digits) <= _LENGTH_MAX:
        return False
    # ISO/IEC 7812-1, annex B: every second digit from the right counts twice, its own digits summed.
    doubled = (2 * int(one) if position % 2 else int(one) for position, one in enumerate(reversed(digits)))
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0
