"""A price compiled to integers: one multiplication for each unit of a usage, one division and one rounding in all."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING

from tallystick.errors import UnknownPrice
from tallystick.money import NANOS, Money, ceil_div, round_half_even
from tallystick.pricing.cost import Charge, Cost
from tallystick.providers.classes import disjoint_cells
from tallystick.providers.units import INPUT, OUTPUT, TOKEN_UNITS, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from tallystick.providers.usage import ProviderUsage

__all__ = ["Rate", "Tariff", "UnitPrice"]

_MILLION = 1_000_000
_TOTALS = frozenset((INPUT.total_key, OUTPUT.total_key))


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """The price of one unit: `base` for every `unit.per` of it, or the price of a tier.

    Tiers are cliffs, ascending: above `start` input tokens in all, the tier's price holds for every token.
    """

    unit: Unit
    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        """Return the price that holds for a usage of that many input tokens."""
        price = self.base
        for start, tier_price in self.tiers:
            if input_tokens > start:
                price = tier_price
        return price


@dataclass(frozen=True, slots=True)
class Tariff:
    """Everything a model is priced by at one time, and where that is from."""

    provider: str
    model: str
    prices: tuple[UnitPrice, ...]
    currency: str
    source: str
    version: str
    matched: str
    # Every direction that a usage has must be priced, or the price is unknown.
    is_strict: bool = False
    # A request is charged for at least so many seconds of audio.
    seconds_min: int = 0


@dataclass(frozen=True, slots=True)
class _Band:
    """The prices above `start` input tokens: the stated ones, and numerators over the rate's common denominator."""

    start: int
    prices: tuple[Decimal, ...]
    numerators: tuple[int, ...]
    input: int
    output: int
    request: int
    # Unit, price and quantity that it is for, as a cost repeats them; None where there is no such price.
    input_charge: tuple[str, Decimal, int] | None
    output_charge: tuple[str, Decimal, int] | None
    request_charge: tuple[str, Decimal, int] | None


class Rate:
    """A tariff in one currency, compiled. Immutable; shared by all threads.

    The price of n units is n × numerator ÷ denominator nanos, exactly, in integers. genai-prices computes the same in
    Decimals of 28 digits: its values are sums of a dozen products that need fewer digits than that, so nothing is lost
    before the rounding, and both round to the same nano. (Where `per` is 3,600 its quotient is cut at the 28th digit,
    far below a nano; only an exact tie could then round differently, and seconds at such a rate make none.)

    `dearest_nanos_per_million` is the most that a million tokens of any class cost over all tiers of size, and
    `request_nanos` what a request costs beside them, both rounded up.
    """

    __slots__ = (
        "_bands",
        "_cell_prices",
        "_covers_both",
        "_denominator",
        "_directions",
        "_exchange_rate",
        "_order",
        "_parts",
        "_relevant_counts",
        "_relevant_parts",
        "_units",
        "_wholes",
        "currency",
        "dearest_nanos_per_million",
        "request_nanos",
        "tariff",
    )

    def __init__(self, tariff: Tariff, currency: str | None = None, exchange_rate: Decimal | None = None) -> None:
        self.tariff = tariff
        self.currency = Money(0, currency).currency if currency is not None else tariff.currency
        self._exchange_rate = exchange_rate if self.currency != tariff.currency else None
        units = tuple(price.unit for price in tariff.prices)
        self._units = units
        self._directions = tuple(unit.direction for unit in units)
        self._covers_both = {unit.key for unit in units} >= _TOTALS
        # The most specific first: what a part takes is no longer there for the whole.
        self._order = tuple(sorted(range(len(units)), key=lambda index: -len(units[index].dimensions)))
        self._parts = tuple(
            tuple(other for other in self._order if other != index and unit.contains(units[other]))
            for index, unit in enumerate(units)
        )
        self._wholes = _priced_wholes(units)
        self._relevant_parts = frozenset(unit.key for unit in units if unit.is_tokens).union(self._wholes) - _TOTALS
        self._relevant_counts = frozenset(unit.key for unit in units if not unit.is_tokens) - {"requests"}
        self._cell_prices = {key: _most_specific(unit, units) for key, unit in TOKEN_UNITS.items()}
        self._denominator, self._bands = self._compiled_bands()
        tokens = [index for index, unit in enumerate(units) if unit.is_tokens]
        dearest = max((band.numerators[index] for band in self._bands for index in tokens), default=0)
        self.dearest_nanos_per_million = ceil_div(dearest * _MILLION, self._denominator)
        self.request_nanos = ceil_div(max(band.request for band in self._bands), self._denominator)

    @property
    def source(self) -> str:
        return self.tariff.source

    @property
    def version(self) -> str:
        return self.tariff.version

    def dearest_nanos(self, tokens: int) -> int:
        """Return the most that a call of so many tokens costs, whatever their classes, in nanos, rounded up."""
        return ceil_div(tokens * self.dearest_nanos_per_million, _MILLION) + self.request_nanos

    @property
    def is_free(self) -> bool:
        """Whether every price is zero: a known price, unlike a missing one."""
        return not any(any(band.numerators) for band in self._bands)

    def cost(self, usage: ProviderUsage) -> Cost:
        """Return what a usage costs, by this price; a cost that the usage states itself is not looked at.

        Raises:
            UnknownPrice: when this price covers nothing of what was used.
        """
        if not self._covers_both or (usage.counts and not usage.total_tokens):
            self._require_coverage(usage)
        band = self._bands[0]
        if len(self._bands) > 1:
            band = self._band_of(usage.input_tokens)
        breakdown, counts = usage.breakdown, usage.counts
        if (breakdown and not self._relevant_parts.isdisjoint(breakdown)) or (
            counts and not self._relevant_counts.isdisjoint(counts)
        ):
            return self._cost_of_parts(usage, band)
        # Most calls end here: nothing is priced apart from input, output and the request itself.
        charges: list[Charge] = []
        input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
        if input_tokens and band.input_charge is not None:
            charges.append((*band.input_charge, input_tokens))
        if output_tokens and band.output_charge is not None:
            charges.append((*band.output_charge, output_tokens))
        output = output_tokens * band.output
        total = input_tokens * band.input + output
        if band.request_charge is not None:
            charges.append((*band.request_charge, usage.requests))
            total += usage.requests * band.request
        return self._rounded(total, output, tuple(charges))

    def _cost_of_parts(self, usage: ProviderUsage, band: _Band) -> Cost:
        total: int | Fraction = 0
        output: int | Fraction = 0
        charges: list[Charge] = []
        for index, quantity in enumerate(self._quantities(usage)):
            if quantity:
                # A Fraction, since a Decimal product is cut to the precision of the caller's context.
                exact = quantity if type(quantity) is int else Fraction(quantity)
                amount = exact * band.numerators[index]
                total += amount
                if self._directions[index] == "output":
                    output += amount
                unit = self._units[index]
                charges.append((unit.key, band.prices[index], unit.per, quantity))
        return self._rounded(total, output, tuple(charges))

    def _rounded(self, total: int | Fraction, output: int | Fraction, charges: tuple[Charge, ...]) -> Cost:
        tariff = self.tariff
        return Cost(
            self._nanos(total),
            self._nanos(output),
            self.currency,
            charges,
            tariff.source,
            tariff.version,
            tariff.matched,
            tariff.currency if self._exchange_rate is not None else None,
            self._exchange_rate,
        )

    def _nanos(self, amount: int | Fraction) -> int:
        if type(amount) is int:
            return round_half_even(amount, self._denominator)
        return round_half_even(amount.numerator, amount.denominator * self._denominator)

    def _band_of(self, input_tokens: int) -> _Band:
        for band in self._bands:
            if input_tokens > band.start:
                return band
        return self._bands[-1]

    def _quantities(self, usage: ProviderUsage) -> list[int | Decimal]:
        """Return how many of each priced unit are charged; every token is charged once, as the most specific one."""
        quantities = self._remainders(usage)
        if quantities is None:
            quantities = self._quantities_of_cells(usage)
        return quantities

    def _remainders(self, usage: ProviderUsage) -> list[int | Decimal] | None:
        """Return each unit's number less that of the units within it; None when the numbers contradict each other."""
        breakdown = usage.breakdown
        for key in breakdown:
            for whole in self._wholes.get(key, ()):
                if breakdown.get(whole, 0) < breakdown[key]:
                    return None
        quantities: list[int | Decimal] = [0] * len(self._units)
        for index in self._order:
            quantity = self._reported(usage, self._units[index])
            for part in self._parts[index]:
                quantity -= quantities[part]
            if quantity < 0:
                return None
            quantities[index] = quantity
        return quantities

    def _quantities_of_cells(self, usage: ProviderUsage) -> list[int | Decimal]:
        """Return the same from numbers that had to be made disjoint first."""
        quantities: list[int | Decimal] = [0] * len(self._units)
        for direction, total in ((INPUT, usage.input_tokens), (OUTPUT, usage.output_tokens)):
            for key, tokens in disjoint_cells(direction, total, usage.breakdown).items():
                index = self._cell_prices[key]
                if index is not None:
                    quantities[index] += tokens
        for index in self._order:
            unit = self._units[index]
            if not unit.is_tokens:
                within = sum(quantities[part] for part in self._parts[index])
                quantities[index] = max(self._reported(usage, unit) - within, 0)
        return quantities

    def _reported(self, usage: ProviderUsage, unit: Unit) -> int | Decimal:
        key = unit.key
        if key == "input_tokens":
            return usage.input_tokens
        if key == "output_tokens":
            return usage.output_tokens
        if key == "requests":
            return usage.requests
        if unit.is_tokens:
            return usage.breakdown.get(key, 0)
        reported = usage.counts.get(key, 0)
        if reported and self.tariff.seconds_min and key in ("audio_seconds", "input_audio_seconds"):
            return max(reported, self.tariff.seconds_min * usage.requests)
        return reported

    def _require_coverage(self, usage: ProviderUsage) -> None:
        """Refuse what would be charged as nothing because no price is meant for it.

        As genai-prices has it, a model without an output price (an embedding) gives what output it reports for free;
        an override is a price list of the operator's own, and what it leaves out is an oversight. A price by the second
        or by the page says nothing about tokens.
        """
        priced = {unit.key for unit in self._units}
        unpriced_input = usage.input_tokens > 0 and INPUT.total_key not in priced
        unpriced_output = usage.output_tokens > 0 and OUTPUT.total_key not in priced
        has_token_price = any(unit.is_tokens for unit in self._units)
        is_covered = (
            "requests" in priced
            or not (usage.total_tokens or usage.counts)
            or (usage.total_tokens > 0 and has_token_price)
            or not self._relevant_counts.isdisjoint(usage.counts)
        )
        if not is_covered or (self.tariff.is_strict and (unpriced_input or unpriced_output)):
            raise UnknownPrice(self.tariff.provider, self.tariff.model)

    def _compiled_bands(self) -> tuple[int, tuple[_Band, ...]]:
        prices = self.tariff.prices
        starts = sorted({start for price in prices for start, _ in price.tiers}, reverse=True)
        exchange = Fraction(1 if self._exchange_rate is None else self._exchange_rate)
        stated = [(start, tuple(price.at(start + 1) for price in prices)) for start in (*starts, -1)]
        exact = [
            [Fraction(price) * exchange * NANOS / unit.per for price, unit in zip(row, self._units, strict=True)]
            for _, row in stated
        ]
        denominator = lcm(*(fraction.denominator for row in exact for fraction in row))
        return denominator, tuple(
            self._band(start, row, tuple(int(fraction * denominator) for fraction in fractions))
            for (start, row), fractions in zip(stated, exact, strict=True)
        )

    def _band(self, start: int, prices: tuple[Decimal, ...], numerators: tuple[int, ...]) -> _Band:
        positions = {unit.key: index for index, unit in enumerate(self._units)}
        charges = {
            key: (key, prices[index], self._units[index].per) if (index := positions.get(key)) is not None else None
            for key in ("input_tokens", "output_tokens", "requests")
        }
        by_key = {key: numerators[index] for key, index in positions.items()}
        return _Band(
            start,
            prices,
            numerators,
            by_key.get("input_tokens", 0),
            by_key.get("output_tokens", 0),
            by_key.get("requests", 0),
            charges["input_tokens"],
            charges["output_tokens"],
            charges["requests"],
        )


def _priced_wholes(units: Sequence[Unit]) -> Mapping[str, tuple[str, ...]]:
    """Return, for every token unit, the priced units that contain it, apart from itself and the two totals."""
    priced = [unit for unit in units if unit.is_tokens and unit.key not in _TOTALS]
    wholes = {
        key: tuple(whole.key for whole in priced if whole.key != key and whole.contains(unit))
        for key, unit in TOKEN_UNITS.items()
    }
    return {key: names for key, names in wholes.items() if names}


def _most_specific(unit: Unit, priced: Sequence[Unit]) -> int | None:
    """Return the position of the priced unit that a token of this kind is charged as."""
    containing = [index for index, other in enumerate(priced) if other.is_tokens and other.contains(unit)]
    return max(containing, key=lambda index: len(priced[index].dimensions), default=None)
