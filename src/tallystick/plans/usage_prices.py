"""What a plan charges for use: a price of each resource type, for the whole quantity of one billing month.

A charge for one event is the difference that it makes to the price of the month: `total(after) - total(before)`. So
charges always add up to the price of what was used, however it was cut into events; tiers and packages included. Under
the volume model that difference can be negative, where a cheaper tier takes all that was used before.

Pure. Quantities are whole millionths, charges nanos of the plan's currency; a total is rounded once, half-even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from tallystick.money import NANOS, ceil_div, round_half_even
from tallystick.quantity import MILLIONTHS, from_millionths, to_millionths

__all__ = ["NO_USAGE_PRICES", "PriceModel", "Tier", "UsagePrice", "UsagePrices"]


class PriceModel(StrEnum):
    """How a quantity becomes a price.

    FLAT: one amount for a month in which anything is used. PER_UNIT: a price a unit. PACKAGE: a price for each package
    that is begun. GRADUATED: each tier prices the units inside it. VOLUME: the tier that the whole quantity reaches
    prices all of it.
    """

    FLAT = "flat"
    PER_UNIT = "per_unit"
    PACKAGE = "package"
    GRADUATED = "graduated"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Tier:
    """A price a unit up to a quantity of the month (millionths; None: without end), and an amount for reaching it."""

    up_to: int | None
    price: Decimal
    flat: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class UsagePrice:
    """The price of one resource type. The first `included` millionths of a month cost nothing.

    `price` is that of a unit, of a package of `size` millionths, or of the month; the tiered models have `tiers`.
    """

    model: PriceModel
    price: Decimal = Decimal(0)
    included: int = 0
    size: int = MILLIONTHS
    tiers: tuple[Tier, ...] = ()

    def total(self, quantity: int) -> int:
        """Return the price of a month's whole quantity (millionths), in nanos."""
        billed = quantity - self.included
        if billed <= 0:
            return 0
        exact = self._exact(billed)
        return round_half_even(exact.numerator * NANOS, exact.denominator)

    def charge(self, before: int, after: int) -> int:
        """Return what it costs that a month's quantity grows from `before` to `after` (millionths), in nanos."""
        return self.total(after) - self.total(before)

    def _exact(self, billed: int) -> Fraction:
        if self.model is PriceModel.FLAT:
            return Fraction(self.price)
        if self.model is PriceModel.PACKAGE:
            return Fraction(self.price) * ceil_div(billed, self.size)
        if self.model is PriceModel.GRADUATED:
            return self._graduated(billed)
        if self.model is PriceModel.VOLUME:
            tier = next(one for one in self.tiers if one.up_to is None or billed <= one.up_to)
            return Fraction(tier.price) * Fraction(billed, MILLIONTHS) + Fraction(tier.flat)
        return Fraction(self.price) * Fraction(billed, MILLIONTHS)

    def _graduated(self, billed: int) -> Fraction:
        exact, below = Fraction(0), 0
        for tier in self.tiers:
            upper = billed if tier.up_to is None else min(billed, tier.up_to)
            exact += Fraction(tier.price) * Fraction(upper - below, MILLIONTHS) + Fraction(tier.flat)
            if upper == billed:
                break
            below = upper
        return exact

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, as `from_dict` reads them and `ts.plans.create` takes them."""
        stated: dict[str, Any] = {"model": self.model.value}
        if self.tiers:
            stated["tiers"] = [_tier_to_dict(tier) for tier in self.tiers]
        else:
            stated["price"] = str(self.price)
        if self.model is PriceModel.PACKAGE:
            stated["size"] = str(from_millionths(self.size))
        if self.included:
            stated["included"] = str(from_millionths(self.included))
        return stated

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> UsagePrice:
        """Read what `to_dict` wrote."""
        return cls(
            model=PriceModel(stated["model"]),
            price=Decimal(stated.get("price", "0")),
            included=to_millionths(stated.get("included", "0")),
            size=to_millionths(stated.get("size", "1")),
            tiers=tuple(
                Tier(
                    None if tier.get("up_to") is None else to_millionths(tier["up_to"]),
                    Decimal(tier["price"]),
                    Decimal(tier.get("flat", "0")),
                )
                for tier in stated.get("tiers", ())
            ),
        )


UsagePrices = Mapping[str, UsagePrice]
"""The prices of a plan version, by resource type; "tokens" and "requests" count every call."""

NO_USAGE_PRICES: UsagePrices = MappingProxyType({})


def _tier_to_dict(tier: Tier) -> dict[str, str]:
    stated = {} if tier.up_to is None else {"up_to": str(from_millionths(tier.up_to))}
    stated["price"] = str(tier.price)
    if tier.flat:
        stated["flat"] = str(tier.flat)
    return stated
