"""What a credit report and a forecast say: frozen values, each amount in one unit.

An amount is `Money` in a currency's report and a number (int, or an exact Decimal) in a feature's. What is of different
units is never added: a report has a part for each unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal

from tallystick.credits.values import Amount, feature_slug
from tallystick.errors import NotFound
from tallystick.money import Money

__all__ = [
    "CreditGroup",
    "CreditPoint",
    "CreditRecipient",
    "CreditReport",
    "CreditTotals",
    "ExpiringCredits",
    "Forecast",
    "GrantTotals",
    "KindTotals",
    "UnitReport",
    "UseShare",
    "plain",
]


@dataclass(frozen=True, slots=True)
class CreditTotals:
    """What moved a unit's balances in the range, over all accounts.

    `closing == opening + granted - used - expired + refunded - revoked + other`, always. `other` is the sum of
    transfers, exchanges and reversals, which may be below zero. What expires counts at its instant, also before it is
    booked.
    """

    opening: Amount
    granted: Amount
    granted_count: int
    used: Amount
    used_count: int
    expired: Amount
    refunded: Amount
    revoked: Amount
    other: Amount
    closing: Amount


@dataclass(frozen=True, slots=True)
class KindTotals:
    """The range's totals of "paid" or "promotional" credits. `remaining` is what is open when the report is made.

    Use beyond the credits (overdraft) counts as used of the paid ones: it is owed.
    """

    kind: str
    granted: Amount
    used: Amount
    expired: Amount
    refunded: Amount
    remaining: Amount


@dataclass(frozen=True, slots=True)
class CreditGroup:
    """The range's totals of one feature, or of grants of one reason; "" is what has none.

    A name of None stands for all the smaller groups together, where there are more than a hundred.
    """

    name: str | None
    granted: Amount
    granted_count: int
    used: Amount
    expired: Amount


@dataclass(frozen=True, slots=True)
class CreditRecipient:
    """A billable, and what it was granted in the range."""

    billable: str
    granted: Amount
    granted_count: int


@dataclass(frozen=True, slots=True)
class CreditPoint:
    """One day, week or month of the account's time zone, half-open, with what moved in it."""

    start: datetime
    end: datetime
    label: str
    granted: Amount
    granted_count: int
    used: Amount
    used_count: int
    expired: Amount
    refunded: Amount


@dataclass(frozen=True, slots=True)
class UseShare:
    """What was used in the range in one hour of the day (0 to 23) or on one day of the week (0 is Monday)."""

    position: int
    label: str
    used: Amount
    used_count: int


@dataclass(frozen=True, slots=True)
class GrantTotals:
    """How many grants, what was granted with them, and what is left of them; or was left when they expired."""

    count: int
    amount: Amount
    remaining: Amount


@dataclass(frozen=True, slots=True)
class ExpiringCredits:
    """Credits that expire together, and how much of them is not used by then. A forecast of all names no grants."""

    grant_id: str | None
    expires_at: datetime
    remaining: Amount
    unused: Amount


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long credits last if they are used as on average since `measured_since`.

    `available` is what calls in flight have not pinned. `empty_at` and `days_left` are None where the credits never end
    at this rate. `will_expire` is the sum of what `expiring` calls unused. Restrictions of single grants are left out.
    """

    billable: str | None
    unit: str
    at: datetime
    available: Amount
    daily_burn: Amount
    measured_since: datetime
    days_left: float | None
    empty_at: datetime | None
    will_expire: Amount
    expiring: tuple[ExpiringCredits, ...]

    @property
    def currency(self) -> str | None:
        """The currency, of a wallet's forecast."""
        return self.unit if feature_slug(self.unit) is None else None

    @property
    def feature_slug(self) -> str | None:
        """The feature, of a forecast of its credits."""
        return feature_slug(self.unit)

    def to_dict(self) -> dict[str, object]:
        """Return the forecast as plain JSON values."""
        return _as_dict(self)


@dataclass(frozen=True, slots=True)
class UnitReport:
    """The report on one unit: a currency, or a feature ("feature:api-calls").

    `active` are the grants that are open when the report is made; `expired` those that expired in the range, with what
    they had left. `by_reason` says what was granted for a reason, and what was used and expired of grants with it.
    Groups and recipients are in order of size. `forecast` takes all accounts of the unit for one.
    """

    unit: str
    totals: CreditTotals
    active: GrantTotals
    expired: GrantTotals
    by_kind: tuple[KindTotals, ...]
    by_reason: tuple[CreditGroup, ...]
    by_feature: tuple[CreditGroup, ...]
    recipients: tuple[CreditRecipient, ...]
    periods: tuple[CreditPoint, ...]
    by_hour: tuple[UseShare, ...]
    by_weekday: tuple[UseShare, ...]
    forecast: Forecast

    @property
    def currency(self) -> str | None:
        """The currency, of wallets."""
        return self.unit if feature_slug(self.unit) is None else None

    @property
    def feature_slug(self) -> str | None:
        """The feature, of its extra credits."""
        return feature_slug(self.unit)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was there in the range, and nothing moved."""
        totals = self.totals
        moved = (totals.granted_count, totals.used_count, totals.expired, totals.refunded, totals.revoked, totals.other)
        return not (any(moved) or totals.opening or totals.closing)


@dataclass(frozen=True, slots=True)
class CreditReport:
    """What happened to credits in `[start, end)`, unit by unit; a bound of None is open. Currencies come first.

    `as_of` is when it was made: what is open, and the forecasts, are of that instant. `interval` ("day", "week" or
    "month") is how `periods` cut the range, in `timezone`.
    """

    start: datetime | None
    end: datetime | None
    as_of: datetime
    timezone: str
    interval: str
    units: tuple[UnitReport, ...]

    def of(self, unit: str) -> UnitReport:
        """Return the part on one unit.

        Raises:
            NotFound: there never were credits of this unit, or the report is on another one.
        """
        for part in self.units:
            if part.unit == unit:
                return part
        raise NotFound("credits of the unit", unit, f"Units: {', '.join(part.unit for part in self.units) or 'none'}.")

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        return _as_dict(self)


def _as_dict(value: object) -> dict[str, object]:
    return {one.name: plain(getattr(value, one.name)) for one in fields(value)}  # type: ignore[arg-type]  # a dataclass


def plain(value: object) -> object:
    """Return a value, and everything in it, as JSON has it: money as amount and currency, decimals as text."""
    if isinstance(value, Money):
        return value.to_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    return _as_dict(value) if is_dataclass(value) else value
