"""What a plan gives of features, as a program writes it: short forms and tables, checked, into columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from tallystick.errors import InvalidInput
from tallystick.plans.terms import NEVER, RESETS
from tallystick.quantity import to_millionths

__all__ = ["checked_features"]

_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_UNLIMITED = "unlimited"
_DEFAULT_RESET = "monthly"
_KEYS = ("value", "reset", "name", "display_value", "hidden", "sort_order")
_TEXT_LENGTH_MAX = 200
_SORT_ORDER_MAX = 1_000_000
_VALUE_REMEDY = (
    'Give a number of uses in a reset period, "unlimited", or True for a feature that a plan has or has not.'
)


def checked_features(features: Mapping[str, object] | None) -> list[dict[str, Any]]:
    """Return the columns of each feature that a plan version has; one whose value is False is left out.

    Raises:
        InvalidInput: for what cannot be; `field` is "features.<slug>.<key>", or "features" for a name.
    """
    if features is None:
        return []
    if not isinstance(features, Mapping):
        raise InvalidInput(
            "features", features, 'Give a mapping such as {"api-calls": 1000, "priority-support": True}.'
        )
    checked = [_checked(slug, given) for slug, given in features.items()]
    return [columns for columns in checked if columns is not None]


def _checked(slug: object, given: object) -> dict[str, Any] | None:
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        raise InvalidInput(
            "features", slug, "Call a feature by lower-case letters, digits, `-`, `_` and `.`, a letter or digit first."
        )
    field = f"features.{slug}"
    stated = given if isinstance(given, Mapping) else {"value": given}
    _require_known(field, stated)
    if "value" not in stated:
        raise InvalidInput(f"{field}.value", None, _VALUE_REMEDY)
    value = stated["value"]
    is_consumable = not isinstance(value, bool)
    columns = {
        "slug": slug,
        "name": _text(f"{field}.name", stated.get("name")) or slug,
        "is_consumable": is_consumable,
        "value": _allowance(f"{field}.value", value) if is_consumable else None,
        "reset": _reset(f"{field}.reset", stated.get("reset"), is_consumable=is_consumable),
        "display_value": _text(f"{field}.display_value", stated.get("display_value")),
        "is_hidden": _flag(f"{field}.hidden", stated.get("hidden", False)),
        "sort_order": _sort_order(f"{field}.sort_order", stated.get("sort_order", 0)),
    }
    return None if value is False else columns


def _require_known(field: str, stated: Mapping[Any, object]) -> None:
    for key in stated:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            raise InvalidInput(f"{field}.{key}", stated[key], f"{meant}Known are {', '.join(_KEYS)}.")


def _allowance(field: str, value: object) -> int | None:
    """Return an allowance in millionths; None where it is unlimited."""
    if isinstance(value, str) and value.strip().lower() == _UNLIMITED:
        return None
    if not isinstance(value, int | float | str | Decimal):
        raise InvalidInput(field, value, _VALUE_REMEDY)
    try:
        return to_millionths(value, field=field)
    except InvalidInput as error:
        remedy = _VALUE_REMEDY if error.remedy == "Give a number." else error.remedy
        raise InvalidInput(field, value, remedy) from None


def _reset(field: str, reset: object, *, is_consumable: bool) -> str:
    if not is_consumable:
        if reset is not None:
            raise InvalidInput(field, reset, "Nothing of this feature is counted, so it does not reset: leave it out.")
        return NEVER
    if reset is None:
        return _DEFAULT_RESET
    name = reset.strip().lower() if isinstance(reset, str) else reset
    if name not in RESETS:
        near = get_close_matches(str(name), RESETS, n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(field, reset, f"{meant}Use one of {', '.join(RESETS)}.")
    return str(name)


def _text(field: str, text: object) -> str | None:
    if text is None:
        return None
    stripped = text.strip() if isinstance(text, str) else ""
    if not stripped or len(stripped) > _TEXT_LENGTH_MAX or not stripped.isprintable():
        raise InvalidInput(field, text, f"Use 1 to {_TEXT_LENGTH_MAX} printable characters, or leave it out.")
    return stripped


def _flag(field: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        raise InvalidInput(field, flag, "Give True or False.")
    return flag


def _sort_order(field: str, place: object) -> int:
    if isinstance(place, bool) or not isinstance(place, int) or not -_SORT_ORDER_MAX <= place <= _SORT_ORDER_MAX:
        bounds = f"from -{_SORT_ORDER_MAX:,} to {_SORT_ORDER_MAX:,}"
        raise InvalidInput(field, place, f"Give a whole number {bounds}; lower ones are shown first.")
    return place
