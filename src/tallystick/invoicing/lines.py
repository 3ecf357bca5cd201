"""From what is to be charged to the lines of an invoice, in the order in which they are read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from tallystick.invoicing.totals import AppliedDiscount, Chargeable, reductions
from tallystick.invoicing.values import LineItem, LineKind
from tallystick.invoicing.wording import line_words
from tallystick.money import Money
from tallystick.period import MAX_MICROS, from_micros
from tallystick.quantity import MILLIONTHS, from_millionths

__all__ = ["Charge", "ChargeLines", "charge_lines", "line_of"]

_ORDER = {kind: place for place, kind in enumerate(LineKind)}


@dataclass(frozen=True, slots=True)
class Charge:
    """One thing to charge, in integers: an item that waits, or the sum of a month's use or overage.

    `words` names what its line says, with the values in `details`; a `description` says it instead.
    """

    kind: LineKind
    words: str
    amount: int
    quantity: int = MILLIONTHS
    description: str | None = None
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    subscription_id: str | None = None
    plan_version_id: str | None = None
    plan: str | None = None
    resource_type: str | None = None
    item_id: str | None = None
    discount_id: str | None = None
    period_start: int | None = None
    period_end: int | None = None
    is_discountable: bool = True


class ChargeLines(NamedTuple):
    """Charges as they stand on an invoice, and how much discounts have taken off each item, by its id."""

    charges: list[Charge]
    discounted: dict[str, int]


def charge_lines(charges: Sequence[Charge], discounts: Iterable[AppliedDiscount]) -> ChargeLines:
    """Put charges in the order of an invoice, with what discounts take off after them.

    Nothing of zero is a line, except use that its plan includes.
    """
    ordered = sorted(
        (one for one in charges if one.amount or one.kind is LineKind.USAGE),
        key=lambda one: (_ORDER[one.kind], one.period_start or 0, one.plan or "", one.resource_type or "", -one.amount),
    )
    asked = [Chargeable(one.amount, one.subscription_id, one.plan, one.is_discountable) for one in ordered]
    found = reductions(asked, discounts)
    discounted: dict[str, int] = {}
    for reduction in found:
        for place, share in reduction.shares.items():
            item_id = ordered[place].item_id
            if item_id is not None:
                discounted[item_id] = discounted.get(item_id, 0) - share
    return ChargeLines([*ordered, *(_discount(one.discount, one.amount) for one in found)], discounted)


def line_of(charge: Charge, currency: str, locale: str | None) -> LineItem:
    """Return a charge as a line, in the words of a language."""
    described = charge.description or line_words(locale, charge.words, charge.details)
    has_end = charge.period_end is not None and charge.period_end < MAX_MICROS
    return LineItem(
        kind=charge.kind,
        description=described,
        quantity=from_millionths(charge.quantity),
        amount=Money.from_nanos(charge.amount, currency),
        subscription_id=charge.subscription_id,
        plan_version_id=charge.plan_version_id,
        resource_type=charge.resource_type,
        item_id=charge.item_id,
        discount_id=charge.discount_id,
        period_start=None if charge.period_start is None else from_micros(charge.period_start),
        period_end=from_micros(charge.period_end) if has_end and charge.period_end is not None else None,
        details=charge.details,
    )


def _discount(discount: AppliedDiscount, amount: int) -> Charge:
    if discount.percent is None:
        words, values = "discount_amount", {"name": discount.name}
    else:
        words, values = "discount_percent", {"name": discount.name, "percent": f"{discount.percent:f}"}
    return Charge(
        LineKind.DISCOUNT, words, amount, details=MappingProxyType(values), discount_id=discount.id,
        subscription_id=discount.subscription_id,
    )  # fmt: skip
