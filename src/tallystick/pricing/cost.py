"""What a usage costs: exact lines, one rounding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from tallystick.errors import InvalidInput
from tallystick.money import NANOS, CurrencyRates, Money, round_half_even
from tallystick.providers.units import UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tallystick.providers.usage import ProviderUsage

__all__ = ["Charge", "Cost", "CostLine"]

Charge: TypeAlias = tuple[str, Decimal, int, int | Decimal]
"""A line before it is asked for: unit, rate, per, quantity."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """One unit of a cost: `quantity` of it at `rate` for every `per`, in the currency of the price."""

    unit: str
    quantity: int | Decimal
    rate: Decimal
    per: int

    @property
    def amount(self) -> Fraction:
        """The exact amount in currency units, before any rounding."""
        return Fraction(self.quantity) * Fraction(self.rate) / self.per


@dataclass(frozen=True, slots=True)
class Cost:
    """What a usage costs, and the price that was used, so that it can be explained for ever.

    `total_nanos` is the exact sum of the lines rounded half-even, once. `output_nanos` is the exact sum of the output
    lines, rounded likewise. The input side is the remainder of the two, so that both add up to the total: it carries
    what has no direction (requests, searches, seconds), and may differ from its own rounding by one nano.

    `source` says where the price is from: "catalogue", "override", or "stated" by the usage itself (then there are no
    lines). `version` names the data it was taken from, `model` the catalogue's model or the override's pattern.
    `exchange_rate` is set when the price is in another currency, `price_currency`, than the cost.
    """

    total_nanos: int
    output_nanos: int
    currency: str
    charges: tuple[Charge, ...]
    source: str
    version: str
    model: str | None = None
    price_currency: str | None = None
    exchange_rate: Decimal | None = None

    @classmethod
    def stated(cls, usage: ProviderUsage, currency: str | None = None, rates: CurrencyRates | None = None) -> Self:
        """Return the cost that a usage states itself. A total without parts counts as input.

        Raises:
            CurrencyMismatch: when `currency` is another one and `rates` does not lead to it.
        """
        total, output = usage.total_cost, usage.output_cost
        if total is None:
            raise InvalidInput("total_cost", None, "Only a usage with a total_cost states its cost.")
        if output is None:
            output = total - usage.input_cost if usage.input_cost is not None else total * 0
        stated_in, exchange_rate = total.currency, None
        if currency is not None and currency != stated_in:
            rates = rates or CurrencyRates({})
            exchange_rate = rates.rate(stated_in, currency)
            total, output = total.convert(currency, rates), output.convert(currency, rates)
        return cls(
            total.nanos,
            # Parts that contradict the total are cut: the total is what was charged.
            min(max(output.nanos, 0), total.nanos),
            total.currency,
            (),
            "stated",
            "",
            price_currency=stated_in if exchange_rate is not None else None,
            exchange_rate=exchange_rate,
        )

    @property
    def total_cost(self) -> Money:
        return Money.from_nanos(self.total_nanos, self.currency)

    @property
    def output_cost(self) -> Money:
        return Money.from_nanos(self.output_nanos, self.currency)

    @property
    def input_cost(self) -> Money:
        """The rest of the total: input, and what has no direction."""
        return Money.from_nanos(self.total_nanos - self.output_nanos, self.currency)

    @property
    def lines(self) -> tuple[CostLine, ...]:
        """What the total consists of; empty for a stated cost."""
        return tuple(CostLine(unit, quantity, rate, per) for unit, rate, per, quantity in self.charges)

    @property
    def rates(self) -> dict[str, Decimal]:
        """The rates that were used, by unit; a line's `per` says for how many (a million, for tokens)."""
        return {unit: rate for unit, rate, _, _ in self.charges}

    def exchanged(self, currency: str, rate: Decimal) -> Self:
        """Return the cost in another currency. Its lines are exchanged exactly and rounded once, as before."""
        total, output = Fraction(self.total_nanos), Fraction(self.output_nanos)
        if self.charges:
            outputs = [
                line.amount for line in self.lines if line.unit in UNITS and UNITS[line.unit].direction == "output"
            ]
            total = sum((line.amount for line in self.lines), Fraction(0)) * NANOS
            output = sum(outputs, Fraction(0)) * NANOS
        numerator, denominator = rate.as_integer_ratio()
        return replace(
            self,
            total_nanos=round_half_even(total.numerator * numerator, total.denominator * denominator),
            output_nanos=round_half_even(output.numerator * numerator, output.denominator * denominator),
            currency=currency,
            price_currency=self.currency,
            exchange_rate=rate,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return compact JSON that is stored with the event."""
        stored: dict[str, Any] = {
            "total": self.total_nanos,
            "output": self.output_nanos,
            "currency": self.currency,
            "source": self.source,
        }
        if self.charges:
            stored["lines"] = [
                (unit, quantity if type(quantity) is int else str(quantity), str(rate), per)
                for unit, rate, per, quantity in self.charges
            ]
        if self.version:
            stored["version"] = self.version
        if self.model is not None:
            stored["model"] = self.model
        if self.exchange_rate is not None:
            stored["price_currency"] = self.price_currency
            stored["exchange_rate"] = str(self.exchange_rate)
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also after JSON made lists of its tuples."""
        exchange_rate = stored.get("exchange_rate")
        return cls(
            stored["total"],
            stored["output"],
            stored["currency"],
            tuple(
                (unit, Decimal(rate), per, quantity if type(quantity) is int else Decimal(quantity))
                for unit, quantity, rate, per in stored.get("lines", ())
            ),
            stored["source"],
            stored.get("version", ""),
            stored.get("model"),
            stored.get("price_currency"),
            None if exchange_rate is None else Decimal(exchange_rate),
        )

    def recomputed_nanos(self) -> int:
        """Return the total computed again from the lines, to check a stored cost; a stated one has none to check."""
        if not self.charges:
            return self.total_nanos
        exact = sum((line.amount for line in self.lines), Fraction(0)) * Fraction(self.exchange_rate or 1) * NANOS
        return round(exact)  # Fraction rounds half-even.
