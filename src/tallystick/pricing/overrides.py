"""Prices that the operator sets: they win over the catalogue, for the dates they are given for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase

from tallystick.errors import InvalidInput
from tallystick.money import Money
from tallystick.pricing.rate import Tariff, UnitPrice
from tallystick.providers.units import UNITS

__all__ = ["PriceOverride"]

_UNIT_BY_PRICE = {
    "input": "input_tokens",
    "cached_input": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "output": "output_tokens",
    "reasoning": "output_reasoning_tokens",
}
_WHOLE_OF = {"cached_input": "input", "cache_write": "input", "reasoning": "output"}
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """The prices of one model, or of all that match a pattern such as "gpt-4o*", in one currency.

    A price is given per thousand or per million tokens, not both. It replaces the catalogue's as a whole: a class that
    is not given costs what its whole costs (cached input as input, reasoning as output), and a direction that is not
    given has no price. Free is an explicit 0. `effective_from` is included, `effective_until` is not; of overrides of
    the same model the one that began last holds.

    Raises:
        InvalidInput: naming the field, for a float, a negative or missing price, and naive or reversed dates.
    """

    provider: str
    model: str
    input_price_per_1k: Decimal | int | str | None = None
    output_price_per_1k: Decimal | int | str | None = None
    cached_input_price_per_1k: Decimal | int | str | None = None
    cache_write_price_per_1k: Decimal | int | str | None = None
    reasoning_price_per_1k: Decimal | int | str | None = None
    input_price_per_million: Decimal | int | str | None = None
    output_price_per_million: Decimal | int | str | None = None
    cached_input_price_per_million: Decimal | int | str | None = None
    cache_write_price_per_million: Decimal | int | str | None = None
    reasoning_price_per_million: Decimal | int | str | None = None
    currency: str = "USD"
    effective_from: datetime | None = None
    effective_until: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("provider", "model"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InvalidInput(name, getattr(self, name), "Name what the price is for.")
        prices = self.prices_per_million()
        if "input" not in prices and "output" not in prices:
            raise InvalidInput(
                "input_price_per_1k", None, f"Give {self.provider}/{self.model} an input or an output price; free is 0."
            )
        for part, whole in _WHOLE_OF.items():
            if part in prices and whole not in prices:
                raise InvalidInput(f"{whole}_price_per_1k", None, f"A {part} price is part of it: give both.")
        for name in ("effective_from", "effective_until"):
            instant = getattr(self, name)
            if instant is not None and (not isinstance(instant, datetime) or instant.tzinfo is None):
                raise InvalidInput(name, instant, "Give an aware datetime, such as 2026-01-01T00:00:00Z.")
        if self.effective_from and self.effective_until and self.effective_until <= self.effective_from:
            raise InvalidInput("effective_until", self.effective_until, "It is after effective_from.")
        object.__setattr__(self, "currency", Money(0, self.currency).currency)

    @property
    def is_pattern(self) -> bool:
        return not _WILDCARDS.isdisjoint(self.model)

    def matches_model(self, model: str) -> bool:
        """Tell whether this override is meant for a model; `model` is in lower case."""
        named = self.model.lower()
        return named == model or (self.is_pattern and fnmatchcase(model, named))

    def in_force(self, at: datetime) -> bool:
        """Tell whether this override holds at an instant."""
        return (self.effective_from is None or self.effective_from <= at) and (
            self.effective_until is None or at < self.effective_until
        )

    def precedence(self) -> tuple[bool, int, datetime]:
        """Return what the greatest of is chosen: an exact name, a longer pattern, a later beginning."""
        return not self.is_pattern, len(self.model), self.effective_from or datetime.min.replace(tzinfo=UTC)

    def prices_per_million(self) -> dict[str, Decimal]:
        """Return the given prices for a million tokens, by "input", "output", "cached_input", ..."""
        prices: dict[str, Decimal] = {}
        for name in _UNIT_BY_PRICE:
            per_1k = _price(f"{name}_price_per_1k", getattr(self, f"{name}_price_per_1k"))
            per_million = _price(f"{name}_price_per_million", getattr(self, f"{name}_price_per_million"))
            if per_1k is not None and per_million is not None:
                raise InvalidInput(f"{name}_price_per_million", per_million, f"{name}_price_per_1k is given as well.")
            if per_1k is not None:
                # Shifting the exponent is exact; multiplying rounds to the precision of the caller's context.
                sign, digits, exponent = per_1k.as_tuple()
                prices[name] = Decimal((sign, digits, int(exponent) + 3))
            elif per_million is not None:
                prices[name] = per_million
        return prices

    def tariff(self, provider: str, model: str) -> Tariff:
        """Return what a model of that name is priced by."""
        return Tariff(
            provider=provider,
            model=model,
            prices=tuple(
                UnitPrice(UNITS[_UNIT_BY_PRICE[name]], price) for name, price in self.prices_per_million().items()
            ),
            currency=self.currency,
            source="override",
            version=self.effective_from.isoformat() if self.effective_from else "",
            matched=f"{self.provider}/{self.model}",
            is_strict=True,
        )


def _price(name: str, value: object) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(name, value, 'Write the price as a string, such as "0.00015"; a float is not exact.')
    try:
        price = Decimal(value)
    except InvalidOperation:
        raise InvalidInput(name, value, 'Write a plain number, such as "0.00015".') from None
    if not price.is_finite() or price < 0:
        raise InvalidInput(name, value, "Give a price of zero or more.")
    return price
