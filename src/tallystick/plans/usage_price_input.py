"""What a plan charges for use, as a program writes it: a price a unit, or a table with tiers, checked, into values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tallystick.errors import InvalidInput
from tallystick.limits.quota import COST, REQUESTS, TOKENS
from tallystick.metering.resource_types import checked_resource_type
from tallystick.money import Money
from tallystick.plans.usage_prices import NO_USAGE_PRICES, PriceModel, Tier, UsagePrice, UsagePrices
from tallystick.quantity import to_millionths

if TYPE_CHECKING:
    from tallystick.settings import UsageSettings

__all__ = ["checked_rate", "checked_usage_prices", "known_only"]

_FIRST_KEYS = ("model", "included")
_KEYS = {
    PriceModel.FLAT: (*_FIRST_KEYS, "price"),
    PriceModel.PER_UNIT: (*_FIRST_KEYS, "price"),
    PriceModel.PACKAGE: (*_FIRST_KEYS, "price", "size"),
    PriceModel.GRADUATED: (*_FIRST_KEYS, "tiers"),
    PriceModel.VOLUME: (*_FIRST_KEYS, "tiers"),
}
_TIERED = (PriceModel.GRADUATED, PriceModel.VOLUME)
_TIER_KEYS = ("up_to", "price", "flat")
_TIERS_MAX = 100
_RATE_MAX = 10**9
_RATE_DIGITS_MAX = 30
_TIERS_REMEDY = 'Give a list such as [{"up_to": 1000, "price": "0.01"}, {"price": "0.005"}], the last without up_to.'


def checked_usage_prices(given: object, *, currency: str, settings: UsageSettings) -> UsagePrices:
    """Return the prices of a plan version, by resource type. `currency` is the plan's, in which every price is.

    Raises:
        InvalidInput: for what cannot be; `field` leads there, such as "usage_prices.message.tiers.1.price" (counted
            from 0), or is "usage_prices" for a name.
    """
    if given is None:
        return NO_USAGE_PRICES
    if not isinstance(given, Mapping):
        raise InvalidInput("usage_prices", given, 'Give a mapping such as {"message": Money("0.01", "USD")}.')
    checked = {
        _name(name, settings): _price(f"usage_prices.{name}", stated, currency) for name, stated in given.items()
    }
    return MappingProxyType(checked) if checked else NO_USAGE_PRICES


def checked_rate(field: str, value: object, currency: str) -> Decimal:
    """Return a rate of zero or more. A rate may be finer than money, so it stays an exact decimal."""
    remedy = f'Give Money, or a decimal as text such as "0.01", of zero or more, in {currency}.'
    stated: Any = value
    if isinstance(value, str) and " " in value.strip():
        number, _, code = value.strip().rpartition(" ")
        stated = number.strip() if code.upper() == currency else None
    elif isinstance(value, Money):
        stated = value.amount if value.currency == currency else None
    if isinstance(stated, bool) or not isinstance(stated, Decimal | int | str):
        raise InvalidInput(field, value, remedy)
    try:
        rate = Decimal(stated)
    except InvalidOperation:
        raise InvalidInput(field, value, remedy) from None
    exponent = rate.as_tuple().exponent
    if not rate.is_finite() or not isinstance(exponent, int) or rate < 0:
        raise InvalidInput(field, value, remedy)
    if rate.adjusted() > 12 or rate > _RATE_MAX or exponent < -_RATE_DIGITS_MAX:
        raise InvalidInput(field, value, f"Give up to {_RATE_MAX:,}, with at most {_RATE_DIGITS_MAX} decimals.")
    # Not `abs`, which rounds to the digits of the application's decimal context.
    return rate.copy_abs()


def known_only(field: str, stated: Mapping[Any, object], known: Sequence[str]) -> None:
    """Refuse a key that is not known, and suggest the near one. Without a `field` the key is the field."""
    for key in stated:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            path = f"{field}.{key}" if field else str(key)
            raise InvalidInput(path, stated[key], f"{meant}Known are {', '.join(known)}.")


def _name(name: object, settings: UsageSettings) -> str:
    if name in (TOKENS, REQUESTS):
        return str(name)
    if name == COST:
        raise InvalidInput(
            "usage_prices", name, "Set overage_markup_percent for cost beyond a limit, or price tokens or requests."
        )
    try:
        return checked_resource_type(settings, name)  # type: ignore[arg-type]  # it checks that it is text
    except InvalidInput as error:
        raise InvalidInput("usage_prices", name, error.remedy) from None


def _price(field: str, given: object, currency: str) -> UsagePrice:
    if isinstance(given, UsagePrice):
        given = given.to_dict()
    if not isinstance(given, Mapping):
        return UsagePrice(PriceModel.PER_UNIT, checked_rate(field, given, currency))
    model = _model(field, given)
    known_only(field, given, tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys)))
    for key in given:
        if key not in _KEYS[model]:
            having = " and ".join(str(one) for one, keys in _KEYS.items() if key in keys)
            raise InvalidInput(f"{field}.{key}", given[key], f"The model is {model}; only {having} prices have {key}.")
    tiers = _tiers(f"{field}.tiers", given.get("tiers"), currency) if model in _TIERED else ()
    return UsagePrice(
        model=model,
        price=Decimal(0) if tiers else checked_rate(f"{field}.price", given.get("price"), currency),
        included=_quantity(f"{field}.included", given.get("included", 0), least=0),
        size=_quantity(f"{field}.size", given.get("size", 1), least=1),
        tiers=tiers,
    )


def _model(field: str, given: Mapping[Any, object]) -> PriceModel:
    stated = given.get("model", PriceModel.PER_UNIT)
    known = tuple(str(one) for one in PriceModel)
    if not isinstance(stated, str) or stated not in known:
        near = get_close_matches(str(stated), known, n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"{field}.model", stated, f"{meant}Use one of {', '.join(known)}.")
    return PriceModel(stated)


def _tiers(field: str, given: object, currency: str) -> tuple[Tier, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given or len(given) > _TIERS_MAX:
        raise InvalidInput(field, given, f"{_TIERS_REMEDY} Up to {_TIERS_MAX} of them.")
    tiers: list[Tier] = []
    for number, stated in enumerate(given):
        here = f"{field}.{number}"
        if not isinstance(stated, Mapping):
            raise InvalidInput(here, stated, _TIERS_REMEDY)
        known_only(here, stated, _TIER_KEYS)
        reached = tiers[-1].up_to or 0 if tiers else 0
        up_to = _up_to(f"{here}.up_to", stated.get("up_to"), reached, is_last=number == len(given) - 1)
        flat = checked_rate(f"{here}.flat", stated.get("flat", 0), currency)
        # A tier may cost its flat amount alone.
        price = checked_rate(f"{here}.price", stated.get("price", 0 if "flat" in stated else None), currency)
        tiers.append(Tier(up_to, price, flat))
    return tuple(tiers)


def _up_to(field: str, given: object, reached: int, *, is_last: bool) -> int | None:
    if is_last:
        if given is not None:
            raise InvalidInput(
                field, given, "The last tier has no end, so that every quantity has a price: leave it out."
            )
        return None
    if given is None:
        raise InvalidInput(
            field, given, "Say up to which quantity of a month this tier goes; only the last has no end."
        )
    up_to = _quantity(field, given, least=1)
    if up_to <= reached:
        raise InvalidInput(field, given, "Each tier goes further than the one before.")
    return up_to


def _quantity(field: str, given: object, *, least: int) -> int:
    if given is None or isinstance(given, bool):
        raise InvalidInput(field, given, "Give a number.")
    return to_millionths(given, field=field, least=least)
