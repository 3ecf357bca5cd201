"""The terms of a plan version as one value: what is written of it, and what two versions are compared by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from tallystick.money import Money
from tallystick.plans.terms import NO_FEATURES, OverageBehavior, PlanFeature, PlanVersion
from tallystick.plans.usage_prices import NO_USAGE_PRICES, PriceModel, Tier, UsagePrice, UsagePrices
from tallystick.quantity import from_millionths

__all__ = ["PlanDifference", "VersionTerms", "differences", "version_differences"]


@dataclass(frozen=True, slots=True)
class VersionTerms:
    """What a plan version says of limits, prices and features. Without any of them it limits and costs nothing."""

    currency: str
    monthly_token_limit: int | None = None
    monthly_cost_limit: Money | None = None
    overage_price_per_1k_tokens: Decimal | None = None
    overage_behavior: OverageBehavior | None = None
    overage_markup_percent: Decimal | None = None
    trial_days: int = 0
    price: Money | None = None
    billing_cycle: str = "monthly"
    features: Mapping[str, PlanFeature] = field(default_factory=lambda: NO_FEATURES, hash=False)
    usage_prices: UsagePrices = field(default_factory=lambda: NO_USAGE_PRICES, hash=False)

    @classmethod
    def of(cls, version: PlanVersion) -> VersionTerms:
        """Return the terms of a version. A price of zero is none."""
        stated = {one.name: getattr(version, one.name) for one in fields(cls)}
        return cls(**{**stated, "price": version.price or None})

    def columns(self) -> dict[str, Any]:
        """Return the columns of a version's row; its features have rows of their own."""
        markup, rate = self.overage_markup_percent, self.overage_price_per_1k_tokens
        prices = {name: price.to_dict() for name, price in self.usage_prices.items()}
        return {
            "currency": self.currency,
            "monthly_token_limit": self.monthly_token_limit,
            "monthly_cost_limit": None if self.monthly_cost_limit is None else self.monthly_cost_limit.nanos,
            "overage_price_per_1k_tokens": None if rate is None else str(rate),
            "overage_behavior": None if self.overage_behavior is None else str(self.overage_behavior),
            "overage_markup_percent": None if markup is None else str(markup),
            "trial_days": self.trial_days,
            "price": None if self.price is None else self.price.nanos,
            "billing_cycle": self.billing_cycle,
            "usage_prices": json.dumps(prices, separators=(",", ":")) if prices else None,
        }

    def feature_rows(self, plan_version_id: str) -> list[dict[str, Any]]:
        """Return the rows of its features."""
        return [
            {
                "plan_version_id": plan_version_id,
                "slug": one.slug,
                "name": one.name,
                "is_consumable": one.is_consumable,
                "value": one.allowance,
                "reset": one.reset,
                "display_value": one.display_value,
                "is_hidden": one.is_hidden,
                "sort_order": one.sort_order,
            }
            for one in self.features.values()
        ]


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """One thing in which two versions of a plan, or a plan and its file, differ.

    `field` is the name of a term, "features.<slug>" or "usage_prices.<name>". `before` and `after` are its values, None
    where there is none: unlimited, free, or not there.
    """

    field: str
    before: object
    after: object

    @property
    def before_in_words(self) -> str:
        return _in_words(self.before)

    @property
    def after_in_words(self) -> str:
        return _in_words(self.after)

    def to_dict(self) -> dict[str, object]:
        """Return the difference as plain JSON values."""
        return {"field": self.field, "before": _plain(self.before), "after": _plain(self.after)}

    def __str__(self) -> str:
        return f"{self.field}: {self.before_in_words} → {self.after_in_words}"


def differences(before: VersionTerms, after: VersionTerms) -> Iterator[PlanDifference]:
    """Find what differs by value: 0.10 is 0.1, and the order of features in a file says nothing."""
    for one in fields(VersionTerms):
        old, new = getattr(before, one.name), getattr(after, one.name)
        if isinstance(old, Mapping):
            for name in sorted(old.keys() | new.keys()):
                if old.get(name) != new.get(name):
                    yield PlanDifference(f"{one.name}.{name}", old.get(name), new.get(name))
        elif old != new:
            yield PlanDifference(one.name, old, new)


def version_differences(before: PlanVersion, after: PlanVersion) -> Iterator[PlanDifference]:
    """Find what differs between two versions: what they are called, and their terms."""
    if before.label != after.label:
        yield PlanDifference("label", before.label, after.label)
    yield from differences(VersionTerms.of(before), VersionTerms.of(after))


def _in_words(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, PlanFeature):
        return _feature_in_words(value)
    if isinstance(value, UsagePrice):
        return _price_in_words(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Money):
        return f"{value.amount:,f} {value.currency}"
    return _number(value) if isinstance(value, int | Decimal) else str(value)


def _number(number: int | Decimal) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,f}"


def _feature_in_words(feature: PlanFeature) -> str:
    said = "has it"
    if feature.is_consumable:
        reset = "once" if feature.reset == "never" else feature.reset
        said = "unlimited" if feature.value is None else f"{_number(feature.value)} {reset}"
    details = [] if feature.name == feature.slug else [f"called {feature.name}"]
    details += [] if feature.display_value is None else [f"shown as {feature.display_value}"]
    details += ["hidden"] if feature.is_hidden else []
    details += [f"place {feature.sort_order}"] if feature.sort_order else []
    return ", ".join([said, *details])


def _price_in_words(price: UsagePrice) -> str:
    if price.tiers:
        said = f"{price.model} {', '.join(_tier_in_words(tier) for tier in price.tiers)}"
    elif price.model is PriceModel.FLAT:
        said = f"{price.price:f} a month"
    elif price.model is PriceModel.PACKAGE:
        said = f"{price.price:f} for every {_number(from_millionths(price.size))} begun"
    else:
        said = f"{price.price:f} each"
    return f"{said}, {_number(from_millionths(price.included))} included" if price.included else said


def _tier_in_words(tier: Tier) -> str:
    upper = "beyond" if tier.up_to is None else f"to {_number(from_millionths(tier.up_to))}"
    return f"{upper} {tier.price:f}" + (f" + {tier.flat:f}" if tier.flat else "")


def _plain(value: object) -> object:
    if isinstance(value, Money):
        return value.to_dict()
    if isinstance(value, UsagePrice):
        return value.to_dict()
    if isinstance(value, PlanFeature):
        return {
            "name": value.name,
            "value": "unlimited" if value.is_unlimited else _plain(value.value) if value.is_consumable else True,
            "reset": value.reset,
            "display_value": value.display_value,
            "hidden": value.is_hidden,
            "sort_order": value.sort_order,
        }
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value if value is None or isinstance(value, bool | int) else str(value)
