"""Checking what a caller states of credits: amounts, reasons, expiries, and what follows where nothing was stated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.credits.commands import Keyed
from tallystick.credits.posting import GrantTerms
from tallystick.errors import InvalidInput
from tallystick.identity import billable_reference, new_id
from tallystick.metering.input import checked_key
from tallystick.money import NANOS, Money
from tallystick.period import from_micros, to_micros
from tallystick.quantity import MILLIONTHS, to_millionths

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "StatedAmount",
    "checked_granter",
    "checked_money",
    "checked_quantity",
    "checked_reason",
    "grant_terms",
    "keyed",
    "money_allowed",
    "quantity_allowed",
    "require_future",
    "stated_expiry",
    "wallet_currency",
]

_REASON_LENGTH_MAX = 200
_PRIORITY_MAX = 100
_KINDS = ("paid", "promotional")
_LIMIT_PERIODS = ("hourly", "daily")
_EXACT = 'Give Money, a Decimal, an int, or text such as "12.50"; a float is not exact.'


@dataclass(frozen=True, slots=True)
class StatedAmount:
    """An amount of money as it was stated, as a wallet counts it (nanos), and as JSON how that came of it."""

    stated: str
    nanos: int
    exchange: str | None = None


# -- amounts ----------------------------------------------------------------------------------------------------------


def wallet_currency(engine: Engine, currency: str | None) -> str:
    """Return the code of a wallet's currency; `billing.currency` where none is named."""
    return engine.settings.billing.currency if currency is None else Money(0, currency).currency


def checked_money(engine: Engine, value: Any, currency: str, *, field: str = "amount", least: int = 1) -> StatedAmount:
    """Return an amount in a wallet's currency. A number is of that currency; other Money is converted at today's rate.

    `least` is the smallest amount in nanos that will do.

    Raises:
        InvalidInput: for a float, less than `least`, or more than nine decimals.
        CurrencyMismatch: there is no exchange rate.
    """
    if isinstance(value, bool | float) or not isinstance(value, Money | Decimal | str | int):
        raise InvalidInput(field, value, _EXACT)
    try:
        stated = value if isinstance(value, Money) else Money(value, currency)
    except InvalidInput as error:
        raise InvalidInput(field, value, error.remedy) from None
    counted = stated.convert(currency, engine.currency_rates)
    if counted.nanos < least:
        raise InvalidInput(field, str(stated), "Give more than zero." if least else "Give zero or more.")
    if stated.currency == counted.currency:
        return StatedAmount(str(stated), counted.nanos)
    rate = engine.currency_rates.rate(stated.currency, currency)
    return StatedAmount(str(stated), counted.nanos, _json({**stated.to_dict(), "rate": str(rate)}))


def checked_quantity(value: Any, *, field: str = "amount", least: int = 1) -> int:
    """Return an amount of a feature in millionths.

    Raises:
        InvalidInput: for a float, less than `least` (millionths), or more than six decimals.
    """
    if isinstance(value, bool | float) or not isinstance(value, Decimal | str | int):
        raise InvalidInput(field, value, 'Give an int, a Decimal, or text such as "2.5"; a float is not exact.')
    return to_millionths(value, field=field, least=least)


def money_allowed(engine: Engine, amount: StatedAmount, currency: str) -> StatedAmount:
    """Return an amount that may be added to a wallet at once.

    Raises:
        InvalidInput: it is more than `credits.money_grant_max`.
    """
    most = engine.settings.credits.money_grant_max
    if amount.nanos > int(most * NANOS):
        raise InvalidInput("amount", amount.stated, f"At most {most:,} {currency} at once (credits.money_grant_max).")
    return amount


def quantity_allowed(engine: Engine, millionths: int, stated: object) -> int:
    """Return a number of extra credits that may be added at once, in millionths.

    Raises:
        InvalidInput: it is more than `credits.feature_grant_max`.
    """
    most = engine.settings.credits.feature_grant_max
    if millionths > most * MILLIONTHS:
        raise InvalidInput("credits", stated, f"At most {most:,} at once (credits.feature_grant_max).")
    return millionths


# -- what stands beside an amount -------------------------------------------------------------------------------------


def grant_terms(
    engine: Engine,
    at: int,
    amount: int,
    *,
    is_money: bool,
    reason: str,
    meta: Mapping[str, object] | None,
    expires_at: str | datetime | None,
    priority: int | None,
    granted_by: object,
    kind: str | None,
    limit: int | None,
    limit_period: str | None,
    feature: str | None = None,
    subscription_id: str | None = None,
) -> GrantTerms:
    """Return a grant's terms. What is not stated follows from the reason (`credits.reasons`), then from the settings.

    `at` is the instant (µs) of the grant; `amount` and `limit` are in the integers of its unit.
    """
    checked = checked_reason(reason)
    settings = engine.settings.credits
    known = settings.reason(checked, is_money=is_money)
    if kind is not None and kind not in _KINDS:
        raise InvalidInput("kind", kind, 'Use "paid" or "promotional".')
    if (limit is None) != (limit_period is None):
        raise InvalidInput("limit_period", limit_period, 'Give limit and limit_period ("hourly", "daily") together.')
    if limit_period is not None and limit_period not in _LIMIT_PERIODS:
        raise InvalidInput("limit_period", limit_period, 'Use "hourly" or "daily".')
    if priority is None:
        priority = settings.default_priority if known.priority is None else known.priority
    return GrantTerms(
        id=new_id("grt"),
        kind=known.kind if kind is None else kind,
        amount=amount,
        priority=_checked_priority(priority),
        reason=checked,
        granted_by=checked_granter(engine, granted_by),
        feature=feature,
        subscription_id=subscription_id,
        limit_amount=limit,
        limit_period=limit_period,
        metadata=engine.metadata_policy.encoded({} if meta is None else meta),
        expires_at=_expiry(engine, expires_at, at, known.expires_after_days),
    )


def checked_reason(reason: str, *, field: str = "reason") -> str:
    """Return a reason without the space around it, or say what is wrong with it."""
    stripped = reason.strip() if isinstance(reason, str) else ""
    if not 1 <= len(stripped) <= _REASON_LENGTH_MAX or not stripped.isprintable():
        raise InvalidInput(field, reason, f"Give 1 to {_REASON_LENGTH_MAX} printable characters.")
    return stripped


def checked_granter(engine: Engine, granted_by: object) -> str | None:
    """Return who granted, as text: a name, or the reference of an object."""
    if granted_by is None:
        return None
    if isinstance(granted_by, str):
        return checked_reason(granted_by, field="granted_by")
    return billable_reference(granted_by, engine.billable_resolver)


def _checked_priority(priority: int) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= _PRIORITY_MAX:
        raise InvalidInput("priority", priority, f"Give 0 to {_PRIORITY_MAX}; lower is used first.")
    return priority


def _expiry(engine: Engine, expires_at: str | datetime | None, at: int, after_days: int | None) -> int | None:
    if expires_at is None:
        return None if after_days is None else to_micros(from_micros(at) + timedelta(days=after_days))
    return engine.instant(expires_at, field="expires_at")


def require_future(expires_at: int | None, at: int) -> None:
    """Refuse an expiry that has come. A repetition of what was granted before may be later than it."""
    if expires_at is not None and expires_at <= at:
        raise InvalidInput("expires_at", from_micros(expires_at).isoformat(), "Give an instant in the future.")


def stated_expiry(engine: Engine, expires_at: str | datetime | None) -> datetime | None:
    """Return an expiry as a repetition has to state it: the instant, in whatever form it is written."""
    return None if expires_at is None else from_micros(engine.instant(expires_at, field="expires_at"))


# -- idempotency ------------------------------------------------------------------------------------------------------


def keyed(key: str | None, operation: str, **stated: object) -> Keyed | None:
    """Return an idempotency key with the input that a repetition has to state again; None without a key.

    Metadata is left out, as with calls: a repetition may carry other marks of its transport.
    """
    if key is None:
        return None
    values = {"operation": operation, **{name: _plain(value) for name, value in stated.items()}}
    return Keyed(checked_key(key), _json(values, sort_keys=True))


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _json(values: object, *, sort_keys: bool = False) -> str:
    return json.dumps(values, separators=(",", ":"), sort_keys=sort_keys)
