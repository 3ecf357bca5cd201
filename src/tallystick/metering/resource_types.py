"""Resource types: what is logged as used besides model calls, in which unit, and whether parts of a unit count."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from tallystick.errors import InvalidInput
from tallystick.limits.quota import COST, REQUESTS, TOKENS
from tallystick.metering.input import checked_name
from tallystick.quantity import MILLIONTHS, to_millionths

if TYPE_CHECKING:
    from tallystick.settings import UsageSettings

__all__ = ["checked_resource_type", "checked_use"]


def checked_use(settings: UsageSettings, resource_type: str, quantity: int | Decimal | str) -> tuple[str, int]:
    """Return a resource type's name and so much of it in millionths.

    Raises:
        InvalidInput: a bad or unknown name, a quantity below zero or finer than a millionth, or part of a unit where
            only whole ones are counted.
    """
    name = checked_resource_type(settings, resource_type)
    return name, _whole_where_needed(settings, name, quantity, to_millionths(quantity))


def checked_resource_type(settings: UsageSettings, resource_type: str) -> str:
    """Return a resource type's name. One that nobody registered will do, unless `usage.strict_resource_types` is set.

    Raises:
        InvalidInput: it has characters that no name has, is not known, or is counted of every call ("tokens").
    """
    name = checked_name("resource_type", resource_type)
    if name in (TOKENS, REQUESTS, COST):
        raise InvalidInput("resource_type", name, "It is counted of every call: record the call, and not it by itself.")
    if settings.strict_resource_types and settings.resource_type(name) is None:
        known = ", ".join(settings.known_resource_types)
        remedy = f"Register it under usage.resource_types, or use one of {known}."
        raise InvalidInput("resource_type", name, remedy)
    return name


def _whole_where_needed(settings: UsageSettings, name: str, quantity: object, millionths: int) -> int:
    known = settings.resource_type(name)
    if known is not None and not known.fractions and millionths % MILLIONTHS:
        remedy = (
            f"{name} is counted in whole units ({known.unit}); set usage.resource_types.{name}.fractions otherwise."
        )
        raise InvalidInput("quantity", quantity, remedy)
    return millionths
