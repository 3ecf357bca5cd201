"""What an invoice comes to: discounts, tax, what is carried from one invoice to the next. Pure, in nanos.

Lines are exact; what is owed is whole minor units. The whole units that are *reached* are billed and the rest is
carried to the next invoice, so 0.004 USD a month bills its first cent in the third month, and in sum nothing is lost or
added. An invoice that comes to less than nothing bills nothing, and all of it is carried.

Tax is computed once for an invoice and rounded half-even to the minor unit. It is added to what is billed, or, where
prices contain it, taken from it: total × rate ÷ (100 + rate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from tallystick.money import floor_to_minor_units, minor_unit, percent_of

__all__ = ["NO_TAX", "AppliedDiscount", "Chargeable", "Reduction", "Tax", "Totals", "reductions", "totals"]


@dataclass(frozen=True, slots=True)
class Tax:
    """A rate in percent, and whether prices contain it."""

    rate_percent: Decimal
    name: str
    is_inclusive: bool


NO_TAX = Tax(Decimal(0), "", is_inclusive=False)


class Chargeable(NamedTuple):
    """One amount on an invoice, as far as a discount asks of it.

    Credit for a fee that was invoiced is what was paid of it, after discounts, and no discount concerns it again.
    """

    amount: int
    subscription_id: str | None
    plan: str | None
    is_discountable: bool = True


@dataclass(frozen=True, slots=True)
class AppliedDiscount:
    """A discount that holds for an invoice: a percentage, or an amount in nanos. None of `plans`: of all."""

    id: str
    name: str
    percent: Decimal | None
    amount: int | None
    subscription_id: str | None = None
    plans: frozenset[str] | None = None

    def concerns(self, one: Chargeable) -> bool:
        if not one.is_discountable:
            return False
        if self.subscription_id is not None and one.subscription_id != self.subscription_id:
            return False
        return self.plans is None or one.plan in self.plans


class Reduction(NamedTuple):
    """What a discount takes off: an amount below zero, or above, where it gives less of a credit.

    `shares` says how much of it each of the charges bears, by its place among them.
    """

    discount: AppliedDiscount
    amount: int
    shares: Mapping[int, int]


class Totals(NamedTuple):
    """What an invoice comes to, in nanos. `total` and `tax` are whole minor units."""

    subtotal: int
    carried_in: int
    carried_out: int
    net: int
    tax: int
    total: int
    credit_applied: int


def reductions(charges: Sequence[Chargeable], discounts: Iterable[AppliedDiscount]) -> list[Reduction]:
    """Return what discounts take off, each from what those before it have left.

    A percentage also reduces credits among the charges (of time that was paid with the same discount). An amount takes
    off no more than there is.
    """
    left = [one.amount for one in charges]
    found: list[Reduction] = []
    for discount in discounts:
        concerned = [number for number, one in enumerate(charges) if discount.concerns(one)]
        if discount.percent is not None:
            shares = {number: -percent_of(left[number], discount.percent) for number in concerned}
        else:
            shares = _spread(discount.amount or 0, concerned, left)
        for number, share in shares.items():
            left[number] += share
        reduction = sum(shares.values())
        if reduction:
            found.append(Reduction(discount, reduction, shares))
    return found


def _spread(amount: int, concerned: Iterable[int], left: Sequence[int]) -> dict[int, int]:
    """Take an amount off the charges, from the first on, as far as they come to more than nothing together."""
    concerned = list(concerned)
    rest = min(amount, max(0, sum(left[number] for number in concerned)))
    shares: dict[int, int] = {}
    for number in concerned:
        share = min(rest, max(0, left[number]))
        if share:
            shares[number] = -share
            rest -= share
    return shares


def totals(subtotal: int, *, currency: str, tax: Tax = NO_TAX, carried: int = 0, credit: int = 0) -> Totals:
    """Return what an invoice comes to. `carried` is what earlier ones left, `credit` what the account can pay with."""
    exact = subtotal + carried
    billed = max(0, floor_to_minor_units(exact, currency))
    tax_amount = percent_of(billed, tax.rate_percent, unit=minor_unit(currency), is_contained=tax.is_inclusive)
    net, total = (billed - tax_amount, billed) if tax.is_inclusive else (billed, billed + tax_amount)
    return Totals(subtotal, carried, exact - billed, net, tax_amount, total, min(credit, total))
