"""Exact money. The amount is a whole number of nanos (10⁻⁹ of a currency unit), in memory and in the database.

This is the one module that rounds: always half-even, always in integers, once per result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Self

from tallystick.errors import CurrencyMismatch, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NANOS",
    "CurrencyRates",
    "Money",
    "ceil_div",
    "floor_to_minor_units",
    "minor_unit",
    "percent_of",
    "round_half_even",
]

NANOS = 1_000_000_000
"""One currency unit in the database's integers."""

_NANO_DIGITS = 9
_NANOS_MIN = -(2**63)
_NANOS_MAX = 2**63 - 1
_TEXT_LENGTH_MAX = 100

# ISO 4217. Every currency that is not listed has two digits after the point.
_CURRENCIES_BY_MINOR_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
_MINOR_DIGITS = {code: digits for digits, codes in _CURRENCIES_BY_MINOR_DIGITS.items() for code in codes.split()}

_RATE_KEY = re.compile(r"[A-Za-z]{3}_[A-Za-z]{3}")
_RANGE_REMEDY = "Money holds up to about ±9.2 billion units."


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Money:
    """An exact amount of one currency, to nine decimals and up to about ±9.2 billion units (a BIGINT of nanos).

    Amounts of one currency add, subtract and compare; two currencies raise `CurrencyMismatch`, and are never equal.
    A product with an int is exact, one with a `Decimal` is rounded half-even to nanos. `sum()` works.

    Raises:
        InvalidInput: for a float, a bool, NaN or infinity, an amount with more than nine decimals (`Money.rounded`
            takes those) or out of range, and a currency that is not three letters.
    """

    nanos: int
    currency: str

    def __init__(self, amount: Decimal | int | str, currency: str = "USD") -> None:
        object.__setattr__(self, "nanos", _exact_nanos(_decimal("amount", amount)))
        object.__setattr__(self, "currency", _currency_code(currency))

    @classmethod
    def from_nanos(cls, nanos: int, currency: str = "USD") -> Self:
        """Return the money of that many nanos, as the database stores it."""
        if type(nanos) is not int:
            raise InvalidInput("nanos", nanos, "Nanos are a whole number; give an int.")
        money = object.__new__(cls)
        object.__setattr__(money, "nanos", _in_range(nanos))
        object.__setattr__(money, "currency", _currency_code(currency))
        return money

    @classmethod
    def from_minor_units(cls, minor_units: int, currency: str = "USD") -> Self:
        """Return the money of that many minor units: 150 is 1.50 USD, 150 JPY, 0.150 BHD."""
        if type(minor_units) is not int:
            raise InvalidInput("minor_units", minor_units, "Minor units are a whole number; give an int.")
        return cls.from_nanos(minor_units * _nanos_per_minor_unit(_currency_code(currency)), currency)

    @classmethod
    def rounded(cls, amount: Decimal, currency: str = "USD") -> Self:
        """Return the amount rounded half-even to nine decimals."""
        return cls.from_nanos(_product(NANOS, _decimal("amount", amount)), currency)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str()` writes: "12.34 USD"."""
        amount, _, currency = text.strip().rpartition(" ")
        if not amount:
            raise InvalidInput("money", text, 'Write the amount, a space and the currency: "12.34 USD".')
        return cls(amount, currency)

    @property
    def amount(self) -> Decimal:
        """The exact amount in currency units, with at least the digits of the currency's minor unit."""
        return Decimal(self._amount_text())

    @property
    def is_zero(self) -> bool:
        return self.nanos == 0

    def minor_units(self) -> int:
        """Return the amount in whole minor units (cents; JPY has none, BHD has three digits), rounded half-even."""
        return round_half_even(self.nanos, _nanos_per_minor_unit(self.currency))

    def convert(self, currency: str, rates: CurrencyRates) -> Money:
        """Return the amount in another currency, rounded half-even to nanos.

        Raises:
            CurrencyMismatch: when `rates` has no rate for this direction.
        """
        return Money.from_nanos(_product(self.nanos, rates.rate(self.currency, currency)), currency)

    def to_dict(self) -> dict[str, str]:
        """Return the money for JSON; the amount is text, so that no reader makes a float of it."""
        return {"amount": self._amount_text(), "currency": self.currency}

    def __str__(self) -> str:
        return f"{self._amount_text()} {self.currency}"

    def __repr__(self) -> str:
        return f"Money({self._amount_text()!r}, {self.currency!r})"

    def __bool__(self) -> bool:
        return self.nanos != 0

    def __neg__(self) -> Money:
        return Money.from_nanos(-self.nanos, self.currency)

    def __abs__(self) -> Money:
        return Money.from_nanos(abs(self.nanos), self.currency)

    def __add__(self, other: Money) -> Money:
        if not isinstance(other, Money):
            return NotImplemented
        return Money.from_nanos(self.nanos + self._same_currency(other), self.currency)

    def __radd__(self, other: int) -> Money:
        # sum() starts from the number 0, which has no currency; any other number is a mistake.
        return self if type(other) is int and other == 0 else NotImplemented

    def __sub__(self, other: Money) -> Money:
        if not isinstance(other, Money):
            return NotImplemented
        return Money.from_nanos(self.nanos - self._same_currency(other), self.currency)

    def __mul__(self, factor: int | Decimal) -> Money:
        if isinstance(factor, bool | float):
            raise InvalidInput("factor", factor, "Multiply money by an int or a Decimal.")
        if isinstance(factor, int):
            return Money.from_nanos(self.nanos * factor, self.currency)
        if isinstance(factor, Decimal):
            return Money.from_nanos(_product(self.nanos, _finite("factor", factor)), self.currency)
        return NotImplemented

    __rmul__ = __mul__

    def __lt__(self, other: Money) -> bool:
        return self.nanos < self._same_currency(other) if isinstance(other, Money) else NotImplemented

    def __le__(self, other: Money) -> bool:
        return self.nanos <= self._same_currency(other) if isinstance(other, Money) else NotImplemented

    def __gt__(self, other: Money) -> bool:
        return self.nanos > self._same_currency(other) if isinstance(other, Money) else NotImplemented

    def __ge__(self, other: Money) -> bool:
        return self.nanos >= self._same_currency(other) if isinstance(other, Money) else NotImplemented

    def _same_currency(self, other: Money) -> int:
        if other.currency != self.currency:
            raise CurrencyMismatch(
                f"{self} and {other} are of two currencies. Convert one first: money.convert(currency, rates).",
                source=other.currency,
                target=self.currency,
            )
        return other.nanos

    def _amount_text(self) -> str:
        whole, fraction = divmod(abs(self.nanos), NANOS)
        digits = f"{fraction:0{_NANO_DIGITS}d}".rstrip("0").ljust(_minor_digits(self.currency), "0")
        return f"{'-' if self.nanos < 0 else ''}{whole}{'.' if digits else ''}{digits}"


@dataclass(frozen=True, slots=True, init=False)
class CurrencyRates:
    """Exchange rates, keyed "usd_eur" (any case): how many EUR one USD is.

    A rate holds in its own direction only: it is never inverted, chained, or taken for 1.
    """

    rates: Mapping[str, Decimal] = field(hash=False)

    def __init__(self, rates: Mapping[str, Decimal | int | str] | None = None) -> None:
        object.__setattr__(self, "rates", dict(_rate(key, value) for key, value in (rates or {}).items()))

    def rate(self, source: str, target: str) -> Decimal:
        """Return how many units of `target` one unit of `source` is; 1 when both are the same currency.

        Raises:
            CurrencyMismatch: when no rate is set for this direction.
        """
        source, target = _currency_code(source), _currency_code(target)
        if source == target:
            return Decimal(1)
        key = f"{source}_{target}".lower()
        if key not in self.rates:
            raise CurrencyMismatch(
                f"No exchange rate from {source} to {target}. Set billing.currency_rates.{key}.",
                source=source,
                target=target,
            )
        return self.rates[key]


def round_half_even(numerator: int, denominator: int) -> int:
    """Return numerator ÷ denominator as the nearest integer, a tie going to the even one. `denominator` is positive."""
    _require_positive(denominator)
    # divmod floors, so the remainder is never negative, whatever the numerator's sign.
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    return quotient + 1 if twice > denominator or (twice == denominator and quotient % 2 == 1) else quotient


def ceil_div(numerator: int, denominator: int) -> int:
    """Return numerator ÷ denominator, rounded up (towards positive infinity). `denominator` is positive."""
    _require_positive(denominator)
    return -(-numerator // denominator)


def minor_unit(currency: str) -> int:
    """Return what the smallest coin of a currency is in nanos: a cent, or a whole JPY."""
    return _nanos_per_minor_unit(_currency_code(currency))


def floor_to_minor_units(nanos: int, currency: str) -> int:
    """Return the whole minor units that an amount has reached, in nanos, rounded down (towards negative infinity)."""
    return nanos - nanos % minor_unit(currency)


def percent_of(nanos: int, percent: Decimal, *, unit: int = 1, is_contained: bool = False) -> int:
    """Return so many percent of an amount, as a multiple of `unit` nanos, rounded once, half-even.

    A percentage that is contained in the amount is percent ÷ (100 + percent) of it.
    """
    numerator, denominator = percent.as_integer_ratio()
    whole = 100 * denominator + (numerator if is_contained else 0)
    return unit * round_half_even(nanos * numerator, whole * unit)


def _require_positive(denominator: int) -> None:
    if denominator <= 0:
        raise InvalidInput("denominator", denominator, "Divide by a positive integer.")


def _in_range(nanos: int) -> int:
    if not _NANOS_MIN <= nanos <= _NANOS_MAX:
        # In a context of its own: the application's may be too narrow to show the amount.
        raise InvalidInput("amount", Context(prec=30).scaleb(Decimal(nanos), -_NANO_DIGITS), _RANGE_REMEDY)
    return nanos


def _exact_nanos(amount: Decimal) -> int:
    numerator, denominator = _ratio(amount)
    nanos, rest = divmod(numerator * NANOS, denominator)
    if rest:
        raise InvalidInput("amount", amount, "Money has at most nine decimals; Money.rounded(amount, currency) rounds.")
    return _in_range(nanos)


def _product(nanos: int, factor: Decimal) -> int:
    numerator, denominator = _ratio(factor)
    return round_half_even(nanos * numerator, denominator)


def _ratio(number: Decimal) -> tuple[int, int]:
    """Return the number as numerator and denominator, bounded: "1E+999999999" must not become an integer."""
    magnitude = number.adjusted() if number else 0
    if magnitude > 40:
        raise InvalidInput("amount", number, _RANGE_REMEDY)
    if magnitude < -40:
        # Too small to be exact in nanos, and any int64 times it rounds to zero: so does this stand-in.
        return 1, 10**40
    return number.as_integer_ratio()


def _decimal(name: str, value: Decimal | int | str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(name, value, 'Write it as a string, such as "0.10", or give a Decimal or an int.')
    if isinstance(value, str) and len(value) > _TEXT_LENGTH_MAX:
        # Exact arithmetic on a text of a million digits would take minutes.
        raise InvalidInput(name, value, f"Write it in at most {_TEXT_LENGTH_MAX} characters.")
    try:
        return _finite(name, Decimal(value))
    except InvalidOperation:
        raise InvalidInput(name, value, 'Write a plain number with a point, such as "1234.50".') from None


def _finite(name: str, value: Decimal) -> Decimal:
    if not value.is_finite():
        raise InvalidInput(name, value, "Give a finite number.")
    return value


@lru_cache(maxsize=512)
def _currency_code(currency: str) -> str:
    if not isinstance(currency, str) or not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise InvalidInput("currency", currency, 'Give the three letters of ISO 4217, such as "USD".')
    return currency.upper()


def _minor_digits(currency: str) -> int:
    return _MINOR_DIGITS.get(currency, 2)


def _nanos_per_minor_unit(currency: str) -> int:
    return int(10 ** (_NANO_DIGITS - _minor_digits(currency)))


def _rate(key: str, value: Decimal | int | str) -> tuple[str, Decimal]:
    name = f"currency_rates.{key}"
    if not _RATE_KEY.fullmatch(key):
        raise InvalidInput("currency_rates", key, 'Name a rate by its two currencies, such as "usd_eur".')
    rate = _decimal(name, value)
    if rate <= 0:
        raise InvalidInput(name, value, "An exchange rate is above zero.")
    return key.lower(), rate
