"""Checking what is stated of a tenant, at the edge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tallystick.errors import InvalidInput
from tallystick.money import Money
from tallystick.period import PeriodKind, calendar_period, from_micros

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["UNCHANGED", "Unchanged", "checked_columns"]

_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,6})?")
_MAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_ENFORCEMENTS = ("on", "shadow", "off")
_TEXT_LENGTH_MAX = 200
_MAIL_LENGTH_MAX = 254


class Unchanged:
    """The default of what an update leaves as it is; None takes a value away."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED = Unchanged()


def checked_columns(engine: Engine, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was stated as the columns of a tenant, without what is to stay as it is.

    Raises:
        InvalidInput: naming the field.
    """
    given = {field: value for field, value in stated.items() if not isinstance(value, Unchanged)}
    columns: dict[str, Any] = {}
    for field, value in given.items():
        if field == "metadata":
            columns[field] = engine.metadata_policy.encoded(value or {})
        elif value is None and field != "name":
            columns[field] = None
        else:
            columns[field] = _CHECKS[field](field, value)
    return columns


def _text(field: str, value: object) -> str:
    stripped = value.strip() if isinstance(value, str) else ""
    if not stripped or len(stripped) > _TEXT_LENGTH_MAX or not stripped.isprintable():
        raise InvalidInput(field, value, f"Give 1 to {_TEXT_LENGTH_MAX} printable characters.")
    return stripped


def _mail(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAIL_LENGTH_MAX or not _MAIL.fullmatch(value):
        raise InvalidInput(field, value, 'Give an address such as "billing@example.com".')
    return value


def _zone(field: str, value: Any) -> str:
    try:
        calendar_period(PeriodKind.DAILY, from_micros(0), value)
    except InvalidInput as error:
        raise InvalidInput(field, value, error.remedy) from None
    return str(value)


def _currency(field: str, value: Any) -> str:
    try:
        return Money(0, value).currency
    except InvalidInput as error:
        raise InvalidInput(field, value, error.remedy) from None


def _locale(field: str, value: object) -> str:
    if not isinstance(value, str) or not _LOCALE.fullmatch(value):
        raise InvalidInput(field, value, 'Give a language, with a region if need be: "en", "pt-BR".')
    return value


def _enforcement(field: str, value: object) -> str:
    if value not in _ENFORCEMENTS:
        raise InvalidInput(field, value, f"Use one of {', '.join(_ENFORCEMENTS)}; None follows the settings.")
    return str(value)


_CHECKS = {
    "name": _text,
    "billing_email": _mail,
    "timezone": _zone,
    "currency": _currency,
    "locale": _locale,
    "tax_id": _text,
    "enforcement": _enforcement,
}
