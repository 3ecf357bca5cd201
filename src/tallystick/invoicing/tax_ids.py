"""Are tax numbers well formed? Only that: whether one was given to somebody, its authority knows. Pure.

- European Union: a number that begins with the letters of a member must have the shape of that member's VAT numbers.
  One without such letters is a national number, of which nothing is known here.
- Brazil: a CPF (11 digits) or a CNPJ (14; since July 2026 its first twelve may be letters too), with the check digits
  that they must have. A character of a CNPJ counts as its ASCII code less 48, so that letters go on after digits
  (Instrução Normativa RFB nº 2.229/2024).
"""

from __future__ import annotations

import re

from tallystick.errors import InvalidInput
from tallystick.invoicing.countries import VAT_AREA

__all__ = ["checked_tax_id"]

# What follows the letters of the country.
_VAT_SHAPES = {
    "AT": r"U\d{8}",
    "BE": r"[01]\d{9}",
    "BG": r"\d{9,10}",
    "CY": r"\d{8}[A-Z]",
    "CZ": r"\d{8,10}",
    "DE": r"\d{9}",
    "DK": r"\d{8}",
    "EE": r"\d{9}",
    "EL": r"\d{9}",
    "ES": r"[A-Z]\d{8}|\d{8}[A-Z]|[A-Z]\d{7}[A-Z]",
    "FI": r"\d{8}",
    "FR": r"[A-Z0-9]{2}\d{9}",
    "HR": r"\d{11}",
    "HU": r"\d{8}",
    "IE": r"\d{7}[A-Z]{1,2}|\d[A-Z+*]\d{5}[A-Z]",
    "IT": r"\d{11}",
    "LT": r"\d{9}|\d{12}",
    "LU": r"\d{8}",
    "LV": r"\d{11}",
    "MT": r"\d{8}",
    "NL": r"\d{9}B\d{2}",
    "PL": r"\d{10}",
    "PT": r"\d{9}",
    "RO": r"\d{2,10}",
    "SE": r"\d{12}",
    "SI": r"\d{8}",
    "SK": r"\d{10}",
    "XI": r"\d{9}|\d{12}|(GD|HA)\d{3}",
}
_CPF = re.compile(r"[0-9]{11}")
_CNPJ = re.compile(r"[0-9A-Z]{12}[0-9]{2}")
_PUNCTUATION = re.compile(r"[\s./-]+")


def checked_tax_id(tax_id: str, country: str | None) -> str:
    """Return a tax number as it was given, if it can be one of this country; None: of any.

    Raises:
        InvalidInput: it cannot be.
    """
    plain = _PUNCTUATION.sub("", tax_id).upper()
    if country == "BR" and not _is_brazilian(plain):
        raise InvalidInput("tax_id", tax_id, "Give a CPF or a CNPJ with its check digits: 12.ABC.345/01DE-35.")
    if country in VAT_AREA or (country == "GB" and plain.startswith("XI")):
        shape = _VAT_SHAPES.get(plain[:2])
        if shape is not None and not re.fullmatch(shape, plain[2:], re.ASCII):
            raise InvalidInput("tax_id", tax_id, f"A VAT number that begins with {plain[:2]} has another form.")
    return tax_id


def _is_brazilian(plain: str) -> bool:
    # Numbers of one digit alone have the right check digits, and are given to nobody.
    if len(set(plain)) == 1:
        return False
    if _CPF.fullmatch(plain):
        return plain[9:] == _check_digits(plain[:9], weight_max=11)
    return _CNPJ.fullmatch(plain) is not None and plain[12:] == _check_digits(plain[:12], weight_max=9)


def _check_digits(body: str, *, weight_max: int) -> str:
    first = _check_digit(body, weight_max)
    return first + _check_digit(body + first, weight_max)


def _check_digit(body: str, weight_max: int) -> str:
    """Return what makes the weighted sum a multiple of 11. Weights go from 2 up, from the right, and begin again."""
    weights = range(2, weight_max + 1)
    total = sum(
        (ord(character) - ord("0")) * weights[place % len(weights)] for place, character in enumerate(reversed(body))
    )
    rest = total % 11
    return "0" if rest < 2 else str(11 - rest)
