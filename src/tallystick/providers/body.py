"""Reading a response without knowing whether it is a dict or an object of some SDK."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from inspect import iscoroutinefunction
from typing import Any

from tallystick.providers.usage import ProviderUsage

__all__ = ["Body", "amount_of", "count_of", "fields_of", "read_details", "reported_usage", "text_of", "unwrapped"]

Body = Mapping[str, Any]

_EMPTY: Body = {}
# Far more than any call uses, and its cost still fits the database: one broken response must not stop the writer.
_COUNT_MAX = 10**12
_OPAQUE = (str, bytes, bytearray, int, float, bool, list, tuple, set, frozenset, type(None))


def fields_of(value: object) -> Body:
    """Return the fields of a dict or of an object as a mapping; an empty one for anything else.

    A pydantic model keeps its fields in `__dict__` and what it does not declare in `__pydantic_extra__`: reading both
    costs a tenth of `model_dump`, and unlike it never converts the content of a long response.
    """
    if type(value) is dict:
        return value
    if isinstance(value, _OPAQUE):
        return _EMPTY
    if isinstance(value, Mapping):
        return value
    fields: Body | None = getattr(value, "__dict__", None)
    if fields is None:
        return _slots_of(value)
    extra = getattr(value, "__pydantic_extra__", None)
    return {**fields, **extra} if type(extra) is dict and extra else fields


def _slots_of(value: object) -> Body:
    names = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()) if isinstance(name, str)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def unwrapped(response: object) -> object:
    """Return the parsed body of a raw response (`client.with_raw_response`), and anything else as it is."""
    parse = getattr(response, "parse", None)
    if callable(parse) and hasattr(response, "http_response") and not iscoroutinefunction(parse):
        parsed: object = parse()
        return parsed
    return response


def count_of(value: object) -> int:
    """Return a reported number of tokens; zero for what is absent, negative, absurd or not a whole number."""
    if type(value) is int:
        return value if 0 < value <= _COUNT_MAX else 0
    if isinstance(value, float) and 0 < value <= _COUNT_MAX and value.is_integer():
        return int(value)
    return 0


def amount_of(value: object) -> int | Decimal:
    """Return a reported amount that may be fractional, such as seconds, exactly as it was written."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, float) and 0 < value <= _COUNT_MAX and not value.is_integer():
        return Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite() and 0 < value <= _COUNT_MAX:
        return value
    return count_of(value)


def read_details(details: Body, names: tuple[tuple[str, str], ...], breakdown: dict[str, int]) -> None:
    """Add to the breakdown what is above zero of the named fields."""
    for name, key in names:
        value = details.get(name)
        if value:
            tokens = count_of(value)
            if tokens:
                breakdown[key] = tokens


def text_of(value: object) -> str | None:
    """Return a non-empty text, also from an enumeration, else None."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str) and value else None


def reported_usage(
    body: Body,
    input_tokens: int,
    output_tokens: int,
    breakdown: dict[str, int],
    counts: dict[str, int | Decimal] | None = None,
    *,
    tier: object = None,
) -> ProviderUsage:
    """Return a usage with what every kind of body carries beside it: the model, the tier and the id."""
    model = body.get("model") or body.get("modelVersion") or body.get("model_version")
    tier = tier or body.get("service_tier")
    return ProviderUsage(
        input_tokens,
        output_tokens,
        breakdown,
        counts or {},
        model=model if type(model) is str else text_of(model),
        service_tier=_tier_text(tier) if tier else None,
        response_id=text_of(body.get("id") or body.get("responseId") or body.get("response_id")),
    )


def _tier_text(tier: object) -> str | None:
    # Bedrock wraps it: {"serviceTier": {"type": "priority"}}.
    text = tier if type(tier) is str else text_of(fields_of(tier).get("type", tier))
    return text.lower() if text else None
