"""Settings of billing: what is charged and in which currency, subscriptions, and how these are invoiced."""

from __future__ import annotations

import re
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tallystick.invoicing.countries import COUNTRIES
from tallystick.settings.values import Ascending, Currency, Exact, Frozen, Group, Lowered, NullOrClassPath, Whole

__all__ = ["BillingSettings", "InvoicingSettings", "SellerSettings", "SubscriptionSettings", "TaxSettings"]

_CURRENCY_PAIR = re.compile(r"[a-z]{3}_[a-z]{3}")


def _currency_pair(value: str) -> str:
    if not _CURRENCY_PAIR.fullmatch(value) or value[:3] == value[4:]:
        raise ValueError('Name two currencies, the source first, such as "usd_eur".')
    return value


def _number_format(value: str) -> str:
    try:
        first, second = (value.format(number=number, year=2026, month=1) for number in (1, 2))
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError('Use {number}, {year} and {month}, such as "INV-{year}-{number:06}".') from None
    if first == second:
        raise ValueError('It must contain {number}: "INV-{year}-{number:06}".')
    return value


_Rate = Annotated[Exact, Field(gt=0, le=10**9, decimal_places=18)]
_Days = Annotated[Whole, Field(ge=0, le=3650)]


class BillingSettings(Group):
    """What is charged, and in which currency."""

    overage_behavior: Annotated[Literal["block", "charge", "allow"], Lowered] = Field(
        default="block",
        description="Past a plan's limit: `block`, `charge` for the excess, or `allow` it; a plan may say otherwise",
    )
    currency: Currency = Field(default="USD", description="Currency of whatever does not name its own")
    currency_rates: Frozen[Annotated[str, AfterValidator(_currency_pair)], _Rate] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="How many units of the target one unit of the source is; never inverted",
    )
    payment_failure_grace_period_days: Whole = Field(
        default=7, ge=0, le=3650, description="Days that a subscription stays in force after a payment has failed"
    )
    credit_overdraft_allowed: bool = Field(
        default=False, description="Let a wallet go below zero; otherwise a call that it cannot pay is refused"
    )
    driver: NullOrClassPath = Field(
        default="null",
        description="Where overage is charged beside invoices: `null`, or a class such as `application.billing:Ours`",
    )
    overage_sync_strategy: Annotated[Literal["immediate", "batch"], Lowered] = Field(
        default="batch",
        description="When the driver gets overage: with each use (`immediate`), or when it is synced (`batch`)",
    )


class SubscriptionSettings(Group):
    """What holds for every subscription."""

    allow_multiple: bool = Field(
        default=False, description="Let a billable have several subscriptions at a time; the last one sets its limits"
    )


def _country(value: str) -> str:
    if value and value.upper() not in COUNTRIES:
        raise ValueError('Give the two letters of ISO 3166-1, such as "BR".')
    return value.upper()


class SellerSettings(Group):
    """Who sends invoices, as they say it."""

    name: str = Field(default="", max_length=200, description="Name of your company")
    address: str = Field(default="", max_length=500, description="Its address, line by line")
    country: Annotated[str, AfterValidator(_country)] = Field(
        default="", description="Two letters of its country, such as `BR`: what its tax number is called, and the paper"
    )
    tax_id: str = Field(default="", max_length=100, description="Its tax number, such as a VAT id or a CNPJ")
    email: str = Field(default="", max_length=200, description="Where customers write to about an invoice")
    website: str = Field(default="", max_length=200, description="Its website")
    logo: str | None = Field(default=None, description="File of its logo: SVG, PNG, JPEG, GIF or WebP")
    footer: str = Field(default="", max_length=1_000, description="Small print at the end: bank account, register")


class TaxSettings(Group):
    """The tax on invoices of whoever has no rate of their own."""

    rate_percent: Annotated[Exact, Field(ge=0, le=100, decimal_places=6)] = Field(
        default=Decimal(0), description="Rate in percent, such as `19` or `8.25`; 0: no tax"
    )
    name: str = Field(default="Tax", min_length=1, max_length=50, description="What the tax is called: VAT, ISS, …")
    inclusive: bool = Field(default=False, description="Prices contain the tax, rather than that it is added to them")


class InvoicingSettings(Group):
    """How subscriptions are invoiced, and how patiently payment is waited for."""

    enabled: bool = Field(default=True, description="Let `run_due_jobs` and the worker invoice subscriptions")
    finalize: bool = Field(default=True, description="Issue these invoices at once, rather than leave drafts")
    days_before: _Days = Field(
        default=0, description="Days before a billing period at which its invoice is made; at most 28", le=28
    )
    due_days: _Days = Field(default=30, description="Days that a customer has to pay")
    number_format: Annotated[str, AfterValidator(_number_format)] = Field(
        default="INV-{year}-{number:06}", description="Numbers of invoices; each year has its own where it is named"
    )
    credit_note_number_format: Annotated[str, AfterValidator(_number_format)] = Field(
        default="CN-{year}-{number:06}", description="Numbers of credit notes"
    )
    reminder_days_before: Annotated[tuple[_Days, ...], Ascending] = Field(
        default=(7,), description="Days before an invoice is due at which its customer is reminded"
    )
    overdue_reminder_days: Annotated[tuple[_Days, ...], Ascending] = Field(
        default=(1, 7, 14), description="Days after an invoice was due at which its customer is reminded"
    )
    past_due_after_days: _Days | None = Field(
        default=None,
        description="Days after which an overdue invoice starts a grace period; none: never",
    )
    cancel_after_days: _Days | None = Field(
        default=None, description="Days after which an overdue invoice ends its subscription; none: never"
    )
    archive_after_days: _Days | None = Field(
        default=None, description="Days after its payment at which an invoice is archived; none: never"
    )
    notes: str = Field(default="", max_length=1_000, description="What stands on every invoice that says nothing else")
    tax: TaxSettings = Field(default_factory=TaxSettings)
    seller: SellerSettings = Field(default_factory=SellerSettings)
