"""The terms of a plan version as a program or a file states them, checked, into `VersionTerms`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar

from tallystick.errors import InvalidInput
from tallystick.money import Money
from tallystick.plans.cycle import CYCLES
from tallystick.plans.features import checked_features
from tallystick.plans.terms import NO_FEATURES, OverageBehavior, PlanFeature, PlanType
from tallystick.plans.usage_price_input import checked_rate, checked_usage_prices, known_only
from tallystick.plans.version_terms import VersionTerms

if TYPE_CHECKING:
    from tallystick.settings import Settings

__all__ = [
    "TERM_NAMES",
    "Amount",
    "StatedTerms",
    "checked_description",
    "checked_label",
    "checked_name",
    "checked_slug",
    "checked_terms",
    "checked_type",
]

Amount: TypeAlias = Money | Decimal | int | str
"""An amount: `Money`, its text ("99 USD"), or a number, which is in the plan's currency."""


class StatedTerms(TypedDict, total=False):
    """What may be stated of a version. What is left out stays as it was in the version that it is based on."""

    monthly_token_limit: int | None
    monthly_cost_limit: Amount | None
    overage_price_per_1k_tokens: Amount | None
    overage_behavior: str | None
    overage_markup_percent: Decimal | int | str | None
    trial_days: int
    price: Amount | None
    billing_cycle: str
    currency: str | None
    features: Mapping[str, object] | None
    usage_prices: Mapping[str, object] | None


TERM_NAMES = tuple(StatedTerms.__annotations__)

Choice = TypeVar("Choice", bound=StrEnum)

_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_WITH_CURRENCY = re.compile(r"\S+\s+(?P<code>[A-Za-z]{3})")
_AMOUNTS = ("monthly_cost_limit", "overage_price_per_1k_tokens", "price", "usage_prices")
_TOKENS_MAX = 10**15
_TRIAL_DAYS_MAX = 36_500
_MARKUP_MAX = 10_000
_NAME_LENGTH_MAX = 200
_LABEL_LENGTH_MAX = 100
_DESCRIPTION_LENGTH_MAX = 2_000


def checked_terms(stated: Mapping[str, object], *, base: VersionTerms | None, settings: Settings) -> VersionTerms:
    """Return the terms of a version that is like `base` but for what is stated; without a base, only what is stated.

    Raises:
        InvalidInput: for a name that is not known, a value that cannot be, or amounts of two currencies.
    """
    known_only("", stated, TERM_NAMES)
    currency = _currency(stated, base.currency if base is not None else settings.billing.currency)
    if base is not None and base.currency != currency:
        _require_every_amount(stated, base, currency)
    checked = {name: _CHECKS[name](name, value, currency) for name, value in stated.items() if name in _CHECKS}
    if "usage_prices" in stated:
        checked["usage_prices"] = checked_usage_prices(
            stated["usage_prices"], currency=currency, settings=settings.usage
        )
    return replace(base or VersionTerms(currency), currency=currency, **checked)


def checked_slug(slug: object) -> str:
    """Return what programs call a plan, or say how it may be called."""
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        raise InvalidInput("slug", slug, "Use lower-case letters, digits, `-`, `_` and `.`, a letter or digit first.")
    return slug


def checked_name(name: object) -> str:
    """Return what people call a plan."""
    return _text("name", name, _NAME_LENGTH_MAX)


def checked_label(label: object) -> str | None:
    """Return what people call a version."""
    return None if label is None else _text("label", label, _LABEL_LENGTH_MAX)


def checked_description(description: object) -> str | None:
    """Return what a plan's description says; it may have several lines."""
    if description is None:
        return None
    stripped = description.strip() if isinstance(description, str) else ""
    is_printable = all(one.isprintable() or one == "\n" for one in stripped)
    if not stripped or len(stripped) > _DESCRIPTION_LENGTH_MAX or not is_printable:
        remedy = f"Use 1 to {_DESCRIPTION_LENGTH_MAX:,} printable characters and line breaks, or None."
        raise InvalidInput("description", description, remedy)
    return stripped


def checked_type(plan_type: object) -> PlanType:
    """Return what sort of plan it is."""
    return _one_of("plan_type", plan_type, PlanType)


def _text(field: str, text: object, length_max: int) -> str:
    stripped = text.strip() if isinstance(text, str) else ""
    if not stripped or len(stripped) > length_max or not stripped.isprintable():
        raise InvalidInput(field, text, f"Use 1 to {length_max} printable characters.")
    return stripped


# -- the currency -----------------------------------------------------------------------------------------------------


def _currency(stated: Mapping[str, object], otherwise: str) -> str:
    """Return the one currency that is stated."""
    given = {path: code for name in _AMOUNTS for path, code in _currencies(name, stated.get(name))}
    currency = stated.get("currency")
    if currency is not None:
        given["currency"] = Money(0, currency if isinstance(currency, str) else "").currency
    if len(set(given.values())) > 1:
        raise InvalidInput("currency", given, "A plan has one currency; give every amount in it.")
    return next(iter(given.values()), otherwise)


def _currencies(path: str, value: object) -> Iterator[tuple[str, str]]:
    """Find the currencies of amounts, at any depth."""
    if isinstance(value, Money):
        yield path, value.currency
    elif isinstance(value, str):
        if found := _WITH_CURRENCY.fullmatch(value.strip()):
            yield path, found["code"].upper()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _currencies(f"{path}.{key}", inner)
    elif isinstance(value, Sequence):
        for number, inner in enumerate(value):
            yield from _currencies(f"{path}.{number}", inner)


def _require_every_amount(stated: Mapping[str, object], base: VersionTerms, currency: str) -> None:
    """An amount of the base in another currency is not converted; whoever changes the currency says it anew."""
    missing = [name for name in _AMOUNTS if name not in stated and getattr(base, name)]
    if missing:
        remedy = f"The version that it is based on is in {base.currency}: state {', '.join(missing)} in {currency} too."
        raise InvalidInput("currency", currency, remedy)


# -- single terms -----------------------------------------------------------------------------------------------------


def _money(field: str, value: Any, currency: str) -> Money | None:
    if value is None:
        return None
    try:
        if isinstance(value, Money):
            amount = value
        elif isinstance(value, str) and _WITH_CURRENCY.fullmatch(value.strip()):
            amount = Money.parse(value)
        else:
            amount = Money(value.strip() if isinstance(value, str) else value, currency)
    except InvalidInput as error:
        raise InvalidInput(field, value, f'Give Money, or text such as "100 {currency}". {error.remedy}') from None
    if amount.nanos < 0:
        raise InvalidInput(field, value, 'Give Money of zero or more, such as Money("100", "USD").')
    return amount


def _price(field: str, value: Any, currency: str) -> Money | None:
    # Free is free, however it is said.
    return _money(field, value, currency) or None


def _rate(field: str, value: object, currency: str) -> Decimal | None:
    return None if value is None else checked_rate(field, value, currency)


def _markup(field: str, value: object, _currency: str) -> Decimal | None:
    if value is None:
        return None
    remedy = f'Give a percentage from 0 to {_MARKUP_MAX:,}, such as 20 or "12.5".'
    if isinstance(value, Money) or (isinstance(value, str) and " " in value.strip()):
        raise InvalidInput(field, value, remedy)
    try:
        percent = checked_rate(field, value, _currency)
    except InvalidInput:
        raise InvalidInput(field, value, remedy) from None
    if percent > _MARKUP_MAX:
        raise InvalidInput(field, value, remedy)
    return percent


def _tokens(field: str, value: object, _currency: str) -> int | None:
    return None if value is None else _count(field, value, _TOKENS_MAX)


def _days(field: str, value: object, _currency: str) -> int:
    return 0 if value is None else _count(field, value, _TRIAL_DAYS_MAX)


def _count(field: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidInput(field, value, f"Give a whole number, from zero to {most:,}.")
    return value


def _behavior(field: str, value: object, _currency: str) -> OverageBehavior | None:
    return None if value is None else _one_of(field, value, OverageBehavior)


def _cycle(field: str, value: object, _currency: str) -> str:
    if not isinstance(value, str) or value not in CYCLES:
        raise InvalidInput(field, value, f"{_meant(value, CYCLES)}Use one of {', '.join(CYCLES)}.")
    return value


def _features(_field: str, value: Any, _currency: str) -> Mapping[str, PlanFeature]:
    features = {
        columns["slug"]: PlanFeature(allowance=columns.pop("value"), **columns) for columns in checked_features(value)
    }
    return MappingProxyType(features) if features else NO_FEATURES


def _one_of(field: str, value: object, choices: type[Choice]) -> Choice:
    known = tuple(str(one) for one in choices)
    if not isinstance(value, str) or value not in known:
        raise InvalidInput(field, value, f"{_meant(value, known)}Use one of {', '.join(known)}.")
    return choices(value)


def _meant(value: object, known: Sequence[str]) -> str:
    near = get_close_matches(str(value), known, n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


_CHECKS: Mapping[str, Callable[[str, Any, str], Any]] = {
    "monthly_token_limit": _tokens,
    "monthly_cost_limit": _money,
    "overage_price_per_1k_tokens": _rate,
    "overage_behavior": _behavior,
    "overage_markup_percent": _markup,
    "trial_days": _days,
    "price": _price,
    "billing_cycle": _cycle,
    "features": _features,
}
