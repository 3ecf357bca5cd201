"""Settings: every key with its type, its default and its meaning.

A value comes from the first of: an argument, the environment (`TALLYSTICK_BILLING__CURRENCY`), the file
`tallystick.toml` (in the working directory, or where `TALLYSTICK_CONFIG` says), the default. Groups are merged key by
key. An unknown key, wherever it is, is an error that names its origin and the key that was probably meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact
from email.utils import parseaddr
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from tallystick.errors import ConfigurationError, InvalidInput
from tallystick.money import Money
from tallystick.period import PeriodKind, calendar_period, parse_instant
from tallystick.setting_sources import (
    Given,
    KeyPath,
    KnownKeys,
    Layer,
    SettingError,
    configuration_error,
    dotted,
    environment_name,
    from_arguments,
    from_environment,
    from_file,
    origin_of,
    without_password,
)

if TYPE_CHECKING:
    import os

    from pydantic.fields import FieldInfo

__all__ = [
    "BillingSettings",
    "ChannelSettings",
    "CreditReason",
    "CreditReasonSettings",
    "CreditSettings",
    "DefaultQuotaSettings",
    "HoldSettings",
    "IdempotencySettings",
    "LimitSettings",
    "MetadataSettings",
    "ModelPriceSetting",
    "ModelPrices",
    "NotificationSettings",
    "PeriodSettings",
    "ProviderSettings",
    "ResourceTypeSettings",
    "SettingKey",
    "SettingRow",
    "Settings",
    "SmtpSettings",
    "StorageSettings",
    "TenantSettings",
    "UsageSettings",
    "known_settings",
    "reason_slug",
]

_TOKEN_CLASSES = ("input", "output", "cached_input", "cache_write")
_PERIOD_TYPES = ("monthly", "weekly", "daily", "yearly", "rolling")

# A price is moved from a thousand tokens to a million exactly, whatever decimal context the application has set.
_EXACT = Context(prec=60, traps=[Inexact])

_MODULE_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")
_CURRENCY_PAIR = re.compile(r"[a-z]{3}_[a-z]{3}")
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_CHANNEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_RESOURCE_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _not_a_boolean(value: object) -> object:
    # Python takes True for 1; in a settings file, `ttl_seconds = true` is a mistake.
    if isinstance(value, bool):
        raise ValueError("Give a number.")  # noqa: TRY004 - the error that pydantic takes for an objection
    return value


def _not_a_float(value: object) -> object:
    if isinstance(value, float):
        remedy = f'A float is not exact: write it as text, "{value!r}", or give a Decimal.'
        raise ValueError(remedy)  # noqa: TRY004 - the error that pydantic takes for an objection
    return _not_a_boolean(value)


def _currency(value: str) -> str:
    try:
        return Money(0, value).currency
    except InvalidInput as error:
        raise ValueError(error.remedy) from None


def _currency_pair(value: str) -> str:
    if not _CURRENCY_PAIR.fullmatch(value) or value[:3] == value[4:]:
        raise ValueError('Name two currencies, the source first, such as "usd_eur".')
    return value


def _provider_name(value: str) -> str:
    if not _PROVIDER_NAME.fullmatch(value):
        raise ValueError('Write the name of a provider in lower case, such as "openai".')
    return value


def _instant(value: object) -> datetime:
    if not isinstance(value, str | date):
        raise ValueError("Give a date, or an instant with a time zone.")  # noqa: TRY004 - as above
    try:
        return parse_instant(value)
    except InvalidInput as error:
        raise ValueError(error.remedy) from None


def _time_zone(value: str) -> str:
    try:
        # A zone is known when a day can be found in it.
        calendar_period(PeriodKind.DAILY, datetime(2026, 1, 1, tzinfo=UTC), value)
    except InvalidInput as error:
        raise ValueError(error.remedy) from None
    return value


def _database_url(value: str) -> str:
    # Hosting platforms still hand out the old form of the name.
    url = re.sub(r"^postgres://", "postgresql://", value.strip())
    if not re.match(r"(sqlite|postgresql)(\+\w+)?://", url):
        raise ValueError('Give a URL such as "sqlite:///tallystick.db" or "postgresql://user@host/database".')
    return url


def _class_path(value: str) -> str:
    if not _MODULE_ATTRIBUTE.fullmatch(value):
        raise ValueError('Name a class with its module, such as "application.providers:OurProvider".')
    return value


def _locale(value: str) -> str:
    if not _LOCALE.fullmatch(value):
        raise ValueError('Name a language, and a country if it matters: "en", "pt-BR".')
    return value.replace("_", "-")


def _mail_address(value: str) -> str:
    _, address = parseaddr(value)
    name, at, domain = address.partition("@")
    if not (name and at and domain) or not value.isprintable() or " " in address:
        raise ValueError('Give an address: "billing@example.com", or "Example <billing@example.com>".')
    return value


def _web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError('Give an address such as "https://app.example.com/billing".')
    return value.rstrip("/")


def _channel_name(value: str) -> str:
    if not _CHANNEL_NAME.fullmatch(value) or value in ("email", "in_app", "webhook"):
        raise ValueError("Name a channel in lower case; email, in_app and webhook are built in.")
    return value


def _separated_names(value: object) -> object:
    return [name for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(value)))


def _resource_type(value: str) -> str:
    if not _RESOURCE_TYPE.fullmatch(value):
        raise ValueError('Name a resource type, such as "message", or "requests" or "tokens", counted of every call.')
    if value == "cost":
        raise ValueError("Cost has quotas, and no rate limits.")
    return value


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, Mapping) else value


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


def _in_order(entries: tuple[ModelPrices, ...]) -> tuple[ModelPrices, ...]:
    """Return dated prices from the earliest on; two that hold at one instant are refused."""
    earliest = datetime.min.replace(tzinfo=UTC)
    ordered = tuple(sorted(entries, key=lambda entry: entry.effective_from or earliest))
    for entry, following in pairwise(ordered):
        begins = following.effective_from
        if begins is None or entry.effective_until is None or entry.effective_until > begins:
            remedy = "Another price holds at that time: give effective_until to the one before, up to this instant."
            raise SettingError("effective_from", begins, remedy)
    return ordered


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_Frozen = Annotated[Mapping[_Key, _Value], AfterValidator(MappingProxyType)]
_Lowered = BeforeValidator(_lower)
_Whole = Annotated[int, BeforeValidator(_not_a_boolean)]
_Price = Annotated[Decimal, BeforeValidator(_not_a_float), Field(ge=0, le=10**9, decimal_places=18)]
_Rate = Annotated[Decimal, BeforeValidator(_not_a_float), Field(gt=0, le=10**9, decimal_places=18)]
_Amount = Annotated[Decimal, BeforeValidator(_not_a_float), Field(ge=0, le=10**9, decimal_places=9)]
_Quantity = Annotated[Decimal, BeforeValidator(_not_a_float), Field(gt=0, le=10**12, decimal_places=6)]
_Currency = Annotated[str, AfterValidator(_currency)]
_Instant = Annotated[datetime, BeforeValidator(_instant)]
_Name = Annotated[str, _Lowered]
_Locale = Annotated[str, AfterValidator(_locale)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelPrices(_Group):
    """The prices of one model, for the time from `effective_from` until just before `effective_until`."""

    input_price_per_1k: _Price | None = Field(default=None, description="Price of 1,000 input tokens")
    output_price_per_1k: _Price | None = Field(default=None, description="Price of 1,000 output tokens")
    cached_input_price_per_1k: _Price | None = Field(
        default=None, description="Price of 1,000 input tokens read from a cache"
    )
    cache_write_price_per_1k: _Price | None = Field(
        default=None, description="Price of 1,000 input tokens written to a cache"
    )
    input_price_per_million: _Price | None = Field(default=None, description="Price of 1,000,000 input tokens")
    output_price_per_million: _Price | None = Field(default=None, description="Price of 1,000,000 output tokens")
    cached_input_price_per_million: _Price | None = Field(
        default=None, description="Price of 1,000,000 input tokens read from a cache"
    )
    cache_write_price_per_million: _Price | None = Field(
        default=None, description="Price of 1,000,000 input tokens written to a cache"
    )
    currency: _Currency | None = Field(default=None, description="Currency of these prices; none: `billing.currency`")
    effective_from: _Instant | None = Field(default=None, description="First instant of these prices; none: always")
    effective_until: _Instant | None = Field(
        default=None, description="First instant after these prices; none: without end"
    )

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for name in _TOKEN_CLASSES:
            per_million = getattr(self, f"{name}_price_per_million")
            if per_million is not None and getattr(self, f"{name}_price_per_1k") is not None:
                raise SettingError(
                    f"{name}_price_per_million", per_million, f"{name}_price_per_1k is given too: keep one."
                )
        if not self.per_million():
            raise ValueError("Give at least one price, such as input_price_per_1k.")
        if self.effective_from and self.effective_until and self.effective_until <= self.effective_from:
            raise SettingError("effective_until", self.effective_until, "Give an instant after effective_from.")
        return self

    def per_million(self) -> Mapping[str, Decimal]:
        """Return the price of 1,000,000 tokens of each class that has one, exactly."""
        prices: dict[str, Decimal] = {}
        for name in _TOKEN_CLASSES:
            per_1k: Decimal | None = getattr(self, f"{name}_price_per_1k")
            per_million: Decimal | None = getattr(self, f"{name}_price_per_million")
            if per_1k is not None:
                per_million = _EXACT.multiply(per_1k, Decimal(1000))
            if per_million is not None:
                prices[name] = per_million
        return MappingProxyType(prices)


class ProviderSettings(_Group):
    """One provider: a class of the application's own that reads its usage, and prices that replace the catalogue's."""

    class_path: Annotated[str, AfterValidator(_class_path)] | None = Field(
        default=None,
        alias="class",
        description='Class that reads this provider\'s usage, such as "application.providers:Ours"',
    )
    models: _Frozen[
        str, Annotated[tuple[ModelPrices, ...], BeforeValidator(_one_or_more), AfterValidator(_in_order)]
    ] = Field(default_factory=lambda: MappingProxyType({}))


class BillingSettings(_Group):
    """What is charged, and in which currency."""

    overage_behavior: Annotated[Literal["block", "charge", "allow"], _Lowered] = Field(
        default="block",
        description="Past a plan's limit: `block`, `charge` for the excess, or `allow` it; a plan may say otherwise",
    )
    currency: _Currency = Field(default="USD", description="Currency of whatever does not name its own")
    currency_rates: _Frozen[Annotated[str, AfterValidator(_currency_pair)], _Rate] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="How many units of the target one unit of the source is; never inverted",
    )
    payment_failure_grace_period_days: _Whole = Field(
        default=7, ge=0, le=3650, description="Days that a subscription stays in force after a payment has failed"
    )
    credit_overdraft_allowed: bool = Field(
        default=False, description="Let a wallet go below zero; otherwise a call that it cannot pay is refused"
    )


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


class CreditReasonSettings(_Group):
    """What is set for one reason; what is left out stays as it is built in."""

    kind: Annotated[Literal["paid", "promotional"], _Lowered] | None = Field(
        default=None, description="Credits added for this reason are `paid`, or `promotional` (given away)"
    )
    label: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="What people read for this reason; none: its built-in label, or the reason itself"
    )
    priority: Annotated[_Whole, Field(ge=0, le=100)] | None = Field(
        default=None, description="Place in the order of use, 0 to 100, lower first; none: `credits.default_priority`"
    )
    expires_after_days: Annotated[_Whole, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Days after which credits added for this reason expire; none: never"
    )


class CreditSettings(_Group):
    """How prepaid credits are added, used and watched."""

    overdraft_limit: _Amount | None = Field(
        default=None,
        description="How far below zero a wallet may go where overdraft is allowed, in its currency; none: no floor",
    )
    burn_order: Annotated[Literal["oldest_first", "expiring_first"], _Lowered] = Field(
        default="oldest_first",
        description="Which credits of one priority are used first: `oldest_first`, or `expiring_first`",
    )
    default_priority: _Whole = Field(
        default=50, ge=0, le=100, description="Place of added credits in the order of use, lower first"
    )
    money_grant_max: Annotated[_Amount, Field(gt=0)] = Field(
        default=Decimal(1_000_000), description="The most that is added to a wallet at once, in its currency"
    )
    feature_grant_max: _Whole = Field(
        default=1_000_000, ge=1, le=10**12, description="The most extra credits of a feature that are added at once"
    )
    expiry_warning_days: _Whole = Field(
        default=7, ge=0, le=3650, description="Days before credits expire at which `CreditsExpiring` is sent; 0: never"
    )
    minimum_balance: _Amount | None = Field(
        default=None,
        description="Balance below which `CreditsLow` is sent, for a wallet that sets none; none: never",
    )
    reasons: Annotated[_Frozen[str, CreditReasonSettings], BeforeValidator(_distinct_reasons)] = Field(
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


class PeriodSettings(_Group):
    """Over which time a plan's limits count."""

    type: Annotated[Literal["monthly", "weekly", "daily", "yearly"], _Lowered] = Field(
        default="monthly",
        description="Period of limits: `monthly`, `weekly`, `daily`, `yearly`; `rolling`: monthly, so aligned",
    )
    alignment: Annotated[Literal["calendar", "rolling"], _Lowered] = Field(
        default="calendar",
        description="Periods begin with those of the `calendar`, or (`rolling`) on the subscription's anniversaries",
    )
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="UTC", description="IANA time zone in which calendar periods begin"
    )

    @model_validator(mode="before")
    @classmethod
    def _rolling_is_monthly(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "type" not in given:
            return given
        name, alignment = _lower(given["type"]), given.get("alignment", "rolling")
        if name not in _PERIOD_TYPES:
            raise SettingError("type", given["type"], f"Give one of {', '.join(_PERIOD_TYPES)}.")
        if name != "rolling":
            return given
        if _lower(alignment) != "rolling":
            raise SettingError("alignment", alignment, 'Leave it out, or give "rolling", with period.type "rolling".')
        return {**given, "type": "monthly", "alignment": "rolling"}


class LimitSettings(_Group):
    """When a limit is worth a word."""

    approaching_percentage: _Whole = Field(
        default=80, ge=1, le=100, description="Share of a limit at which `LimitApproaching` is sent, in percent"
    )


class QuotaSettings(_Group):
    """What a quota does that does not say it itself."""

    thresholds: Annotated[
        tuple[Annotated[_Whole, Field(ge=1, le=99)], ...], BeforeValidator(_separated_names), AfterValidator(_ascending)
    ] = Field(
        default=(80,),
        description="Shares of a quota at which `QuotaWarning` is sent, in percent; a list given replaces this one",
    )


class RateLimitSettings(_Group):
    """The rate limits of one resource type that every billable has, unless it has one of its own."""

    per_second: _Quantity | None = Field(default=None, description="How many in a second; none: as many as come")
    per_minute: _Quantity | None = Field(default=None, description="How many in a minute; none: as many as come")
    per_hour: _Quantity | None = Field(default=None, description="How many in an hour; none: as many as come")
    burst: _Quantity | None = Field(
        default=None, description="How many at once after a pause; none: as many as the limit itself"
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.per_second is None and self.per_minute is None and self.per_hour is None:
            raise ValueError("Give per_second, per_minute or per_hour.")
        return self


class HoldSettings(_Group):
    """What is reserved before a call, and for how long."""

    default_tokens: _Whole = Field(
        default=1000,
        ge=1,
        le=1_000_000_000,
        description="Tokens held for a call that gives neither an estimate nor a maximum",
    )
    ttl_seconds: _Whole = Field(
        default=600, ge=1, le=604_800, description="Seconds until a hold that was never settled expires"
    )


class MetadataSettings(_Group):
    """What an application may store with a usage event."""

    max_bytes: _Whole = Field(default=4096, ge=0, le=1_048_576, description="Size of an event's metadata as JSON")
    max_keys: _Whole = Field(default=50, ge=0, le=10_000, description="Number of keys in an event's metadata")
    redact: Annotated[tuple[_Name, ...], BeforeValidator(_separated_names)] = Field(
        default=(
            "access_token",
            "api_key",
            "apikey",
            "authorization",
            "client_secret",
            "cookie",
            "credentials",
            "password",
            "private_key",
            "refresh_token",
            "secret",
            "token",
        ),
        description="Keys, in any case, whose values are never stored; a list given replaces this one",
    )


class IdempotencySettings(_Group):
    """How a second caller with the same key is treated while the first is at work."""

    wait_seconds: _Whole = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that a call waits for another with its idempotency key to finish",
    )


class StorageSettings(_Group):
    """How the database is kept."""

    synchronous: Annotated[Literal["full", "normal"], _Lowered] = Field(
        default="full",
        description="SQLite: `full` survives a power cut; `normal` is faster and may lose the last commits to one",
    )
    prune_after_days: _Whole = Field(
        default=90,
        ge=1,
        le=36_500,
        description="Days that `tallystick cleanup` keeps events, unless it is told otherwise",
    )


class ResourceTypeSettings(_Group):
    """What a resource type is counted in."""

    unit: Annotated[str, Field(min_length=1, max_length=50)] = Field(
        default="unit", description='What one of it is called, such as "minute"'
    )
    fractions: bool = Field(default=False, description="Whether parts of a unit are recorded, such as 0.5")


# They take parts of a unit: of files some count the number and some the size, and so with the others.
_BUILT_IN_RESOURCE_TYPES = {
    name: ResourceTypeSettings(unit=unit, fractions=True)
    for name, unit in {
        "message": "message",
        "completion": "completion",
        "file_upload": "file",
        "file_storage": "GB",
        "vector_query": "query",
        "tool_call": "call",
        "embedding": "embedding",
    }.items()
}


class UsageSettings(_Group):
    """What is logged as used, and until when."""

    resource_types: _Frozen[str, ResourceTypeSettings] = Field(default_factory=lambda: MappingProxyType({}))
    strict_resource_types: bool = Field(
        default=False,
        description="Refuse a resource type that is neither built in nor registered, such as a misspelt one",
    )
    late_event_days: Annotated[_Whole, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Days after which a use can no longer be logged late; none: however old it is"
    )

    def resource_type(self, name: str) -> ResourceTypeSettings | None:
        """Return what is known of a resource type: as it is registered, else as it is built in, else nothing."""
        return self.resource_types.get(name) or _BUILT_IN_RESOURCE_TYPES.get(name)

    @property
    def known_resource_types(self) -> tuple[str, ...]:
        """The names of all resource types that are known, the built-in ones first."""
        return tuple(dict.fromkeys((*_BUILT_IN_RESOURCE_TYPES, *self.resource_types)))


_QuotaLimit = Annotated[Decimal, BeforeValidator(_not_a_float), Field(ge=0, le=10**12, decimal_places=6)]


class DefaultQuotaSettings(_Group):
    """The quotas of one resource type that a new tenant gets, by period."""

    hourly: _QuotaLimit | None = Field(default=None, description="Limit of each hour; none: no such quota")
    daily: _QuotaLimit | None = Field(default=None, description="Limit of each day; none: no such quota")
    weekly: _QuotaLimit | None = Field(default=None, description="Limit of each week; none: no such quota")
    monthly: _QuotaLimit | None = Field(default=None, description="Limit of each month; none: no such quota")
    yearly: _QuotaLimit | None = Field(default=None, description="Limit of each year; none: no such quota")
    total: _QuotaLimit | None = Field(default=None, description="Limit for all time; none: no such quota")
    is_hard_limit: bool = Field(default=True, description="Refuse past the limit, rather than only warn of it")
    notification_threshold: Annotated[_Whole, Field(ge=1, le=99)] = Field(
        default=80, description="Share of the limit at which `QuotaWarning` is sent, in percent"
    )

    @property
    def limits(self) -> Mapping[str, Decimal]:
        """The limits that are set, by period."""
        periods = ("hourly", "daily", "weekly", "monthly", "yearly", "total")
        found = {period: getattr(self, period) for period in periods}
        return {period: limit for period, limit in found.items() if limit is not None}


class TenantSettings(_Group):
    """What holds for every tenant."""

    erase_after_days: Annotated[_Whole, Field(ge=0, le=36_500)] | None = Field(
        default=None, description="Days after its deletion at which a tenant's usage and data are erased; none: never"
    )
    default_quotas: _Frozen[str, DefaultQuotaSettings] = Field(default_factory=lambda: MappingProxyType({}))


class SmtpSettings(_Group):
    """The mail server through which notifications are sent; without a host no mail is sent."""

    host: str | None = Field(default=None, description="Mail server; none: no mail is sent")
    port: _Whole = Field(default=587, ge=1, le=65_535, description="Port of the mail server")
    security: Annotated[Literal["starttls", "tls", "none"], _Lowered] = Field(
        default="starttls", description="Encryption: `starttls`, `tls` from the start (port 465), or `none`"
    )
    username: str | None = Field(default=None, description="User at the mail server; none: no login")
    password: SecretStr | None = Field(default=None, description="Password at the mail server; it is never shown")
    sender: Annotated[str, AfterValidator(_mail_address)] | None = Field(
        default=None, description='From whom mail comes, such as "Example <billing@example.com>"; needed with a host'
    )
    timeout_seconds: _Whole = Field(
        default=10, ge=1, le=300, description="Seconds to wait for the mail server at each step"
    )

    @model_validator(mode="after")
    def _has_a_sender(self) -> Self:
        if self.host is not None and self.sender is None:
            raise SettingError("sender", self.sender, 'Say from whom mail comes: "Example <billing@example.com>".')
        return self


class ChannelSettings(_Group):
    """A channel of the application's own, over which notifications go out."""

    class_path: Annotated[str, AfterValidator(_class_path)] | None = Field(
        default=None, alias="class", description='Class that sends on this channel, such as "application.sms:Sms"'
    )


class NotificationSettings(_Group):
    """What customers are told, how it reaches them, and how patiently it is delivered."""

    enabled: bool = Field(default=True, description="Tell customers of quotas, credits, trials and payments by itself")
    locale: _Locale = Field(default="en", description="Language of a customer without one: `en`, `pt-BR`, or your own")
    product: str = Field(
        default="", max_length=100, description="Name of your product, as mails sign with it; none: no name"
    )
    base_url: Annotated[str, AfterValidator(_web_address)] | None = Field(
        default=None, description="Where links in notifications lead, such as https://app.example.com/billing"
    )
    templates: str | None = Field(
        default=None, description="Folder of texts and templates of your own, which replace the built-in ones"
    )
    address_of: Annotated[str, AfterValidator(_class_path)] | None = Field(
        default=None,
        description='Function from a billable to its e-mail address, such as "application.mail:address_of"',
    )
    digest_hour: _Whole = Field(
        default=8, ge=0, le=23, description="Hour of the day, in the customer's zone, at which digests go out"
    )
    mails_per_hour: _Whole = Field(
        default=10, ge=1, le=10_000, description="Mails to one customer in an hour; what comes beyond waits as a digest"
    )
    attempts_max: _Whole = Field(
        default=10, ge=1, le=100, description="Attempts to deliver a message before it is a dead letter"
    )
    lease_seconds: _Whole = Field(
        default=300, ge=30, le=86_400, description="Seconds after which another worker takes over from one that died"
    )
    threads: _Whole = Field(default=8, ge=1, le=64, description="Destinations that one process delivers to at a time")
    webhook_timeout_seconds: _Whole = Field(
        default=10, ge=1, le=120, description="Seconds that a webhook endpoint has for its answer"
    )
    webhook_private_addresses: bool = Field(
        default=False, description="Let webhooks go to private and local addresses, which only tests should need"
    )
    webhook_disable_after_days: _Whole = Field(
        default=5, ge=1, le=365, description="Days of nothing but failures after which an endpoint is disabled"
    )
    trial_warning_days: _Whole = Field(
        default=3, ge=0, le=90, description="Days before a trial ends at which it is told; 0: never"
    )
    subscription_warning_days: _Whole = Field(
        default=7, ge=0, le=90, description="Days before a subscription ends at which it is told; 0: never"
    )
    keep_days: _Whole = Field(default=365, ge=1, le=36_500, description="Days after which notifications are removed")
    outbox_keep_days: _Whole = Field(
        default=14, ge=1, le=3650, description="Days after which messages that were sent are removed"
    )
    smtp: SmtpSettings = Field(default_factory=SmtpSettings)
    channels: _Frozen[Annotated[str, AfterValidator(_channel_name)], ChannelSettings] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @model_validator(mode="after")
    def _leases_outlast_attempts(self) -> Self:
        slowest = max(self.webhook_timeout_seconds, self.smtp.timeout_seconds)
        if self.lease_seconds < 2 * slowest:
            remedy = f"Give at least {2 * slowest}: twice the seconds that an attempt may take."
            raise SettingError("lease_seconds", self.lease_seconds, remedy)
        return self


@dataclass(frozen=True, slots=True)
class ModelPriceSetting:
    """The prices set for one model: for 1,000,000 tokens, by token class, from one instant until before another."""

    provider: str
    model: str
    prices: Mapping[str, Decimal]
    currency: str
    effective_from: datetime | None
    effective_until: datetime | None


@dataclass(frozen=True, slots=True)
class SettingKey:
    """A setting that exists. `<name>` in its name stands for any."""

    name: str
    environment: str
    default: object
    description: str


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting's value as plain data, and where it was given: "default", "argument", "environment …", "file …"."""

    key: str
    value: object
    source: str


class Settings(BaseSettings):
    """All settings of one engine, read once; they never change afterwards. `Settings.load` reads them."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        default="sqlite:///tallystick.db", repr=False, description="Database: `sqlite:///file` or `postgresql://…`"
    )
    auto_migrate: bool = Field(default=True, description="Create or migrate the schema on first use; otherwise refuse")
    default_provider: _Name | None = Field(default=None, description="Provider of calls that name none")
    enforcement: Annotated[Literal["on", "shadow", "off"], _Lowered] = Field(
        default="on",
        description="`on`: refuse past a limit; `shadow`: decide and record, never refuse; `off`: do not ask",
    )
    require_subscription: bool = Field(default=False, description="Refuse a billable without a subscription in force")
    on_unknown_price: Annotated[Literal["refuse", "record_unpriced"], _Lowered] = Field(
        default="refuse",
        description="A model without a price: `refuse` the call, or `record_unpriced` and price it with `reprice`",
    )
    on_missing_usage: Annotated[Literal["estimate", "error"], _Lowered] = Field(
        default="estimate",
        description="A response without usage: record the `estimate`, or raise `UsageMissing` (`error`)",
    )
    providers: _Frozen[Annotated[str, AfterValidator(_provider_name)], ProviderSettings] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    billing: BillingSettings = Field(default_factory=BillingSettings)
    credits: CreditSettings = Field(default_factory=CreditSettings)
    period: PeriodSettings = Field(default_factory=PeriodSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    quotas: QuotaSettings = Field(default_factory=QuotaSettings)
    rate_limits: _Frozen[Annotated[str, AfterValidator(_resource_type)], RateLimitSettings] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    holds: HoldSettings = Field(default_factory=HoldSettings)
    metadata: MetadataSettings = Field(default_factory=MetadataSettings)
    idempotency: IdempotencySettings = Field(default_factory=IdempotencySettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    usage: UsageSettings = Field(default_factory=UsageSettings)
    tenants: TenantSettings = Field(default_factory=TenantSettings)
    notifications: NotificationSettings = Field(default_factory=NotificationSettings)

    _given: tuple[Mapping[KeyPath, Given], ...] = PrivateAttr(default=())

    def __init__(self, *layers: Layer) -> None:
        """Take settings from sources that were read, the first before the second; without any, all are defaults."""
        given = tuple(layer.given for layer in layers)
        try:
            super().__init__(_build_sources=(layers, {}))
        except ValidationError as error:
            raise configuration_error(error, given, _KNOWN) from None
        self._given = given

    @classmethod
    def load(
        cls, database: str | None = None, config: str | os.PathLike[str] | None = None, **overrides: object
    ) -> Settings:
        """Read the settings: arguments before environment before file before defaults.

        `database` is short for `database_url`, and `config` names the file. Other settings are given by name, nested
        (`billing={"currency": "EUR"}`) or dotted (`**{"billing.currency": "EUR"}`).

        Raises:
            ConfigurationError: for an unknown key, a value that cannot be used, or a file that cannot be read.
        """
        if database is not None:
            if "database_url" in overrides:
                raise ConfigurationError("database", without_password(database), "database_url is given too: keep one.")
            overrides["database_url"] = database
        return cls(
            from_arguments(cls, overrides, _KNOWN), from_environment(cls, _KNOWN), from_file(cls, config, _KNOWN)
        )

    def price_overrides(self) -> tuple[ModelPriceSetting, ...]:
        """Return the prices that were set, for 1,000,000 tokens, those of one model from the earliest on."""
        return tuple(
            ModelPriceSetting(
                provider=provider,
                model=model,
                prices=entry.per_million(),
                currency=entry.currency or self.billing.currency,
                effective_from=entry.effective_from,
                effective_until=entry.effective_until,
            )
            for provider, provider_settings in self.providers.items()
            for model, entries in provider_settings.models.items()
            for entry in entries
        )

    def describe(self) -> tuple[SettingRow, ...]:
        """Return every setting in force with its source, as plain values; passwords in URLs are masked."""
        return tuple(SettingRow(dotted(path), value, self._source(path)) for path, value in _values(self))

    def _source(self, path: KeyPath) -> str:
        origin = origin_of(path, self._given)
        if origin is None and path == ("period", "alignment") and self.period.alignment == "rolling":
            origin = origin_of(("period", "type"), self._given)
        return origin or "default"


def known_settings() -> tuple[SettingKey, ...]:
    """Return every setting that exists, in the order of the documentation."""
    return tuple(
        SettingKey(
            name=dotted(path),
            environment=environment_name(path),
            default=_plain(field.get_default(call_default_factory=True)),
            description=field.description or "",
        )
        for path, field in _fields(Settings)
    )


_HIDDEN = "***"

_PLACEHOLDERS = {
    "providers": "<name>",
    "rate_limits": "<resource_type>",
    "models": "<model>",
    "currency_rates": "<source>_<target>",
    "reasons": "<reason>",
    "resource_types": "<resource_type>",
    "default_quotas": "<resource_type>",
    "channels": "<channel>",
}


def _fields(model: type[BaseModel], above: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        if name in _PLACEHOLDERS:
            path = (*path, _PLACEHOLDERS[name])
        group = _group_inside(field.annotation)
        if group is None:
            yield path, field
        else:
            yield from _fields(group, path)


def _group_inside(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_group_inside, get_args(annotation))), None)


_KNOWN = KnownKeys(path for path, _ in _fields(Settings))


# Of these, what is not set is not worth a line.
_SPARSE = (ModelPrices, ProviderSettings, CreditReasonSettings, DefaultQuotaSettings, RateLimitSettings)


def _values(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Walk all values in force. Of prices and the like only what is set; one of several dated prices has its number."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if inner is not None or not isinstance(value, _SPARSE):
                yield from _values(inner, (*path, field.alias or name))
    elif isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _values(inner, (*path, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], ModelPrices):
        for number, entry in enumerate(value):
            yield from _values(entry, path if len(value) == 1 else (*path, str(number)))
    else:
        yield path, _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return _HIDDEN
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value
