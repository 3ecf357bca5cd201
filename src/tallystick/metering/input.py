"""Checking what a caller states, at the edge: names, amounts and usages, or an error that says what would do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tallystick.errors import InvalidInput
from tallystick.plans.terms import BillingMode
from tallystick.providers.usage import ProviderUsage

__all__ = [
    "COST_NANOS_MAX",
    "checked_billing_mode",
    "checked_key",
    "checked_name",
    "checked_text",
    "checked_tokens",
    "checked_ttl",
    "manual_usage",
]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_KEY_LENGTH_MAX = 255
_TEXT_LENGTH_MAX = 200
_TTL_SECONDS_MAX = 604_800

# More than anybody uses at once, and little enough that sums of it fit into the database's integers.
_TOKENS_MAX = 10**15
COST_NANOS_MAX = 10**18
_PLAIN_USAGE = frozenset({"input_tokens", "output_tokens"})


def checked_name(field: str, name: str) -> str:
    """Return a feature's or a resource type's name, or say what is wrong with it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(field, name, "Use 1 to 100 letters, digits, `_`, `-` and `.`.")
    return name


def checked_text(field: str, text: str) -> str:
    """Return a provider's or a model's name without the space around it, or say what is wrong with it."""
    stripped = text.strip() if isinstance(text, str) else ""
    if not isinstance(text, str) or len(stripped) > _TEXT_LENGTH_MAX or not stripped.isprintable():
        raise InvalidInput(field, text, f"Use at most {_TEXT_LENGTH_MAX} printable characters.")
    return stripped


def checked_key(key: str) -> str:
    if not isinstance(key, str) or not key or len(key) > _KEY_LENGTH_MAX or not key.isprintable():
        raise InvalidInput("idempotency_key", key, f"Give 1 to {_KEY_LENGTH_MAX} printable characters.")
    return key


def checked_ttl(ttl_seconds: int | None) -> int | None:
    is_number = isinstance(ttl_seconds, int) and not isinstance(ttl_seconds, bool)
    if ttl_seconds is not None and not (is_number and 1 <= ttl_seconds <= _TTL_SECONDS_MAX):
        raise InvalidInput("ttl_seconds", ttl_seconds, f"Give 1 to {_TTL_SECONDS_MAX:,} seconds.")
    return ttl_seconds


def checked_tokens(field: str, tokens: int) -> int:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= _TOKENS_MAX:
        raise InvalidInput(field, tokens, f"Give a whole number of tokens, from zero to {_TOKENS_MAX:,}.")
    return tokens


def checked_billing_mode(mode: str) -> str:
    if mode not in tuple(BillingMode):
        raise InvalidInput("billing_mode", mode, f"Use {' or '.join(repr(str(known)) for known in BillingMode)}.")
    return mode


def manual_usage(stated: Mapping[str, Any]) -> ProviderUsage:
    """Return the usage that keywords state, or say which keyword is not known."""
    if stated.keys() <= _PLAIN_USAGE:
        return _countable(ProviderUsage(**stated))
    try:
        return _countable(ProviderUsage.manual(**stated))
    except TypeError as error:
        raise InvalidInput(
            "usage", sorted(stated), f"Use input_tokens, output_tokens, total_cost and their like ({error})."
        ) from None


def _countable(usage: ProviderUsage) -> ProviderUsage:
    checked_tokens("total_tokens", usage.total_tokens)
    if usage.total_cost is not None and usage.total_cost.nanos > COST_NANOS_MAX:
        raise InvalidInput("total_cost", usage.total_cost, "It is more than can be counted.")
    return usage
