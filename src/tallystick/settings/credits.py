"""Settings of credits: how prepaid credits are added, used and watched, and what each reason says of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tallystick.settings.sources import SettingError
from tallystick.settings.values import Exact, Frozen, Group, Lowered, Whole

__all__ = ["CreditReason", "CreditReasonSettings", "CreditSettings", "reason_slug"]


@dataclass(frozen=True, slots=True)
class CreditReason:
    """What a reason says of the credits that are added for it.

    `priority` None: `credits.default_priority`; `expires_after_days` None: they do not expire by themselves.
    """

    slug: str
    kind: str
    label: str
    priority: int | None = None
    expires_after_days: int | None = None


_PAID, _PROMOTIONAL = "paid", "promotional"


_BUILT_IN_REASONS = {
    slug: CreditReason(slug, kind, label)
    for kind, labels in {
        _PAID: {
            "top-up": "Top-up",
            "payment": "Payment",
            "stripe-payment": "Payment by Stripe",
            "asaas-payment": "Payment by Asaas",
            "purchase": "Purchase",
            "refund": "Refund",
        },
        _PROMOTIONAL: {
            "referral": "Referral",
            "referral-bonus": "Referral bonus",
            "promotion": "Promotion",
            "loyalty": "Loyalty",
            "bonus": "Bonus",
            "trial": "Trial",
            "goodwill": "Goodwill",
            "admin-grant": "Granted by an administrator",
            "compensation": "Compensation",
        },
    }.items()
    for slug, label in labels.items()
}


def reason_slug(reason: str) -> str:
    """Return the one form of a reason's name: "Referral bonus", "referral_bonus" and "referral-bonus" are the same."""
    return re.sub(r"[\s_-]+", "-", reason.strip().lower())


def _distinct_reasons(value: object) -> object:
    if isinstance(value, Mapping):
        forms: dict[str, str] = {}
        for name in map(str, value):
            known = forms.setdefault(reason_slug(name), name)
            if known != name:
                raise SettingError(name, value[name], f"It is given as {known!r} too: write it one way, everywhere.")
    return value


_Amount = Annotated[Exact, Field(ge=0, le=10**9, decimal_places=9)]


class CreditReasonSettings(Group):
    """What is set for one reason; what is left out stays as it is built in."""

    kind: Annotated[Literal["paid", "promotional"], Lowered] | None = Field(
        default=None, description="Credits added for this reason are `paid`, or `promotional` (given away)"
    )
    label: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="What people read for this reason; none: its built-in label, or the reason itself"
    )
    priority: Annotated[Whole, Field(ge=0, le=100)] | None = Field(
        default=None, description="Place in the order of use, 0 to 100, lower first; none: `credits.default_priority`"
    )
    expires_after_days: Annotated[Whole, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Days after which credits added for this reason expire; none: never"
    )


class CreditSettings(Group):
    """How prepaid credits are added, used and watched."""

    overdraft_limit: _Amount | None = Field(
        default=None,
        description="How far below zero a wallet may go where overdraft is allowed, in its currency; none: no floor",
    )
    burn_order: Annotated[Literal["oldest_first", "expiring_first"], Lowered] = Field(
        default="oldest_first",
        description="Which credits of one priority are used first: `oldest_first`, or `expiring_first`",
    )
    default_priority: Whole = Field(
        default=50, ge=0, le=100, description="Place of added credits in the order of use, lower first"
    )
    money_grant_max: Annotated[_Amount, Field(gt=0)] = Field(
        default=Decimal(1_000_000), description="The most that is added to a wallet at once, in its currency"
    )
    feature_grant_max: Whole = Field(
        default=1_000_000, ge=1, le=10**12, description="The most extra credits of a feature that are added at once"
    )
    expiry_warning_days: Whole = Field(
        default=7, ge=0, le=3650, description="Days before credits expire at which `CreditsExpiring` is sent; 0: never"
    )
    minimum_balance: _Amount | None = Field(
        default=None,
        description="Balance below which `CreditsLow` is sent, for a wallet that sets none; none: never",
    )
    reasons: Annotated[Frozen[str, CreditReasonSettings], BeforeValidator(_distinct_reasons)] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    report_monthly: bool = Field(default=True, description="Send `CreditReportDue` when a month has ended")

    def reason(self, text: str, *, is_money: bool) -> CreditReason:
        """Return what a reason says of credits added for it, in whatever form its name is written.

        One that is neither set nor built in says `paid` for a wallet, `promotional` for a feature's extra credits.
        """
        slug = reason_slug(text)
        known = _BUILT_IN_REASONS.get(slug) or CreditReason(slug, _PAID if is_money else _PROMOTIONAL, text.strip())
        given = next((given for name, given in self.reasons.items() if reason_slug(name) == slug), None)
        return known if given is None else replace(known, **given.model_dump(exclude_none=True))
