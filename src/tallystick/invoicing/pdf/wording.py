"""How a language says what stands on an invoice: its words, numbers, amounts of money, dates and periods.

Texts are data: `texts/<locale>.toml`. A locale without texts gets those of its language, else English.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from tallystick.money import Money, round_half_even

__all__ = ["Wording", "wording_of"]

_LOCALES = ("en", "pt-BR")
_FALLBACK = "en"
_SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Wording:
    """The texts of one language, with dates in one time zone."""

    locale: str
    zone: str
    texts: Mapping[str, Any]

    @property
    def language(self) -> str:
        return self.locale.partition("-")[0]

    @property
    def region(self) -> str | None:
        return self.locale.partition("-")[2] or None

    def word(self, key: str, /, **values: object) -> str:
        """Return one of the words, with the values that it names."""
        text: str = self.texts["words"][key]
        return text.format(**values) if values else text

    def name(self, group: str, key: str) -> str:
        """Return what the text calls one of a group, such as a payment method; its own name where it has no other."""
        return str(self.texts[group].get(key, key))

    def tax_id_name(self, country: str | None) -> str:
        """Return what a tax number is called in a country."""
        names: Mapping[str, str] = self.texts["tax_ids"]
        return names.get((country or "").upper(), names["default"])

    def number(self, number: int | Decimal) -> str:
        """Return a number with its thousands grouped and without zeros at its end."""
        plain = f"{number:,f}"
        return self._localised(plain.rstrip("0").rstrip(".") if "." in plain else plain)

    def percent(self, rate: Decimal) -> str:
        """Return a rate in percent."""
        return str(self.texts["numbers"]["percent"]).format(number=self.number(rate))

    def money(self, money: Money) -> str:
        """Return an amount exactly: all its decimals, and at least those of the currency's minor unit."""
        return self._signed(f"{money.amount:,f}".lstrip("-"), money)

    def unit_price(self, amount: Money, quantity: int | Decimal, unit: Money) -> str:
        """Return the price of one unit: exactly, or shortened and marked so where the amount is no multiple of it."""
        numerator, denominator = Decimal(quantity).as_integer_ratio()
        if unit.nanos * numerator == amount.nanos * denominator:
            return self.money(unit)
        return str(self.texts["money"]["approximate"]).format(amount=self.money(_shortened(unit)))

    def day(self, instant: datetime) -> str:
        """Return the day of an instant in this time zone."""
        return self._named(self._local(instant))

    def period(self, start: datetime | None, end: datetime | None) -> str | None:
        """Return a half-open period by its first and last day; None where neither is known."""
        forms = self.texts["dates"]
        first = None if start is None else self._local(start)
        last = None if end is None else self._last_day(start, end)
        if first is None or last is None:
            return self._open_period(first, last)
        if first == last:
            return self._named(first)
        form = "across_years"
        if first.year == last.year:
            form = "within_month" if first.month == last.month else "within_year"
        return str(forms[form]).format(
            **self._parts(first),
            last_day=last.day,
            last_month=forms["months"][last.month - 1],
            first=self._named(first),
            last=self._named(last),
        )

    def _open_period(self, first: date | None, last: date | None) -> str | None:
        forms = self.texts["dates"]
        if first is not None:
            return str(forms["from"]).format(first=self._named(first))
        return None if last is None else str(forms["until"]).format(last=self._named(last))

    def _signed(self, plain: str, money: Money) -> str:
        forms = self.texts["money"]
        symbol = forms["symbols"].get(money.currency)
        return str(forms["with_symbol" if symbol else "with_code"]).format(
            sign="-" if money.nanos < 0 else "", currency=symbol or money.currency, amount=self._localised(plain)
        )

    def _localised(self, plain: str) -> str:
        forms = self.texts["numbers"]
        return plain.translate(str.maketrans({",": forms["group"], ".": forms["decimal"]}))

    def _local(self, instant: datetime) -> date:
        return instant.astimezone(ZoneInfo(self.zone)).date()

    def _last_day(self, start: datetime | None, end: datetime) -> date:
        # The end itself is outside. An empty period has its one instant all the same.
        return self._local(end if start == end else end - timedelta(microseconds=1))

    def _named(self, day: date) -> str:
        return str(self.texts["dates"]["day"]).format(**self._parts(day))

    def _parts(self, day: date) -> dict[str, object]:
        return {"day": day.day, "month": self.texts["dates"]["months"][day.month - 1], "year": day.year}


def wording_of(locale: str | None, zone: str) -> Wording:
    """Return the texts of a locale: its own, else those of its language, else English."""
    name = _nearest(locale) if locale else _FALLBACK
    return Wording(name, zone, _texts(name))


def _nearest(locale: str) -> str:
    wanted = locale.replace("_", "-").lower()
    exact = (name for name in _LOCALES if name.lower() == wanted)
    of_language = (name for name in _LOCALES if name.lower().partition("-")[0] == wanted.partition("-")[0])
    return next(exact, None) or next(of_language, _FALLBACK)


@lru_cache
def _texts(locale: str) -> Mapping[str, Any]:
    return tomllib.loads(files("tallystick.invoicing.pdf").joinpath(f"texts/{locale}.toml").read_text("utf-8"))


def _shortened(unit: Money) -> Money:
    """Return an amount with four significant digits, and at least those of its minor unit."""
    step: int = 10 ** max(len(str(abs(unit.nanos))) - _SIGNIFICANT_DIGITS, 0)
    step = min(step, Money.from_minor_units(1, unit.currency).nanos)
    return Money.from_nanos(round_half_even(unit.nanos, step) * step, unit.currency)
