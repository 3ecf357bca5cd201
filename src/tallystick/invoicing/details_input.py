"""Checking what is stated of a billable for its invoices, at the edge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tallystick.errors import InvalidInput
from tallystick.invoicing.countries import COUNTRIES
from tallystick.invoicing.input import checked_text
from tallystick.invoicing.percentage import checked_percent
from tallystick.tenants.input import Unchanged

__all__ = ["checked_details"]

_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,6})?")
_MAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_LINE_LENGTH_MAX = 200
_NAME_OF_TAX_LENGTH_MAX = 50
_NOTES_LENGTH_MAX = 1_000
_MAIL_LENGTH_MAX = 254
_DUE_DAYS_MAX = 3_650


def checked_details(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was stated as columns of `billing_details`, without what is to stay as it is.

    Whether the tax number is one of the country is asked when both are known.

    Raises:
        InvalidInput: naming the field.
    """
    columns: dict[str, Any] = {}
    for field, value in stated.items():
        if isinstance(value, Unchanged):
            continue
        if value is None:
            columns[field] = False if field == "is_tax_exempt" else None
        else:
            columns[field] = _CHECKS[field](field, value)
    return columns


def _line(field: str, value: object) -> str:
    stripped = value.strip() if isinstance(value, str) else ""
    length_max = _NAME_OF_TAX_LENGTH_MAX if field == "tax_name" else _LINE_LENGTH_MAX
    if not stripped or len(stripped) > length_max or not stripped.isprintable():
        raise InvalidInput(field, value, f"Give 1 to {length_max} printable characters.")
    return stripped


def _notes(field: str, value: object) -> str:
    return checked_text(field, value, length_max=_NOTES_LENGTH_MAX)


def _mail(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAIL_LENGTH_MAX or not _MAIL.fullmatch(value):
        raise InvalidInput(field, value, 'Give an address such as "billing@example.com".')
    return value


def _country(field: str, value: object) -> str:
    code = value.strip().upper() if isinstance(value, str) else ""
    if code not in COUNTRIES:
        remedy = 'Give its two letters (ISO 3166): "BR", "DE".'
        known_as = {"EL": "GR", "UK": "GB"}.get(code)
        raise InvalidInput(field, value, remedy if known_as is None else f'{remedy} Did you mean "{known_as}"?')
    return code


def _percent(field: str, value: object) -> str:
    return str(checked_percent(field, value, can_be_zero=True))


def _truth(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "Give True or False.")
    return value


def _locale(field: str, value: object) -> str:
    if not isinstance(value, str) or not _LOCALE.fullmatch(value):
        raise InvalidInput(field, value, 'Give a language, with a region if need be: "en", "pt-BR".')
    return value


def _days(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _DUE_DAYS_MAX:
        raise InvalidInput(field, value, f"Give a whole number of days from 0 to {_DUE_DAYS_MAX:,}.")
    return value


_CHECKS = {
    **dict.fromkeys(
        ("name", "line1", "line2", "city", "region", "postal_code", "tax_id", "tax_name"),
        _line,
    ),
    "email": _mail,
    "country": _country,
    "tax_rate_percent": _percent,
    "is_tax_inclusive": _truth,
    "is_tax_exempt": _truth,
    "locale": _locale,
    "due_days": _days,
    "notes": _notes,
}
