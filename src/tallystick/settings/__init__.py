"""Settings: every key with its type, its default and its meaning.

A value comes from the first of: an argument, the environment (`TALLYSTICK_BILLING__CURRENCY`), the file
`tallystick.toml` (in the working directory, or where `TALLYSTICK_CONFIG` says), the default. Groups are merged key by
key. An unknown key, wherever it is, is an error that names its origin and the key that was probably meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tallystick.errors import ConfigurationError
from tallystick.settings.billing import (
    BillingSettings,
    InvoicingSettings,
    SellerSettings,
    SubscriptionSettings,
    TaxSettings,
)
from tallystick.settings.credits import CreditReason, CreditReasonSettings, CreditSettings, reason_slug
from tallystick.settings.describing import SettingKey, SettingRow, plain, setting_fields, values_in_force
from tallystick.settings.limits import (
    HoldSettings,
    LimitSettings,
    PeriodSettings,
    QuotaSettings,
    RateLimitedType,
    RateLimitSettings,
)
from tallystick.settings.notifications import ChannelSettings, NotificationSettings, SmtpSettings
from tallystick.settings.providers import ModelPrices, ModelPriceSetting, ProviderName, ProviderSettings
from tallystick.settings.sources import (
    Given,
    KeyPath,
    KnownKeys,
    Layer,
    configuration_error,
    dotted,
    environment_name,
    from_arguments,
    from_environment,
    from_file,
    origin_of,
    without_password,
)
from tallystick.settings.storage import DatabaseUrl, SecuritySettings, StorageSettings
from tallystick.settings.tenants import DefaultQuotaSettings, TenantSettings
from tallystick.settings.usage import IdempotencySettings, MetadataSettings, ResourceTypeSettings, UsageSettings
from tallystick.settings.values import Frozen, Lowered, Name

if TYPE_CHECKING:
    import os

__all__ = [
    "BillingSettings",
    "ChannelSettings",
    "CreditReason",
    "CreditReasonSettings",
    "CreditSettings",
    "DefaultQuotaSettings",
    "HoldSettings",
    "IdempotencySettings",
    "InvoicingSettings",
    "LimitSettings",
    "MetadataSettings",
    "ModelPriceSetting",
    "ModelPrices",
    "NotificationSettings",
    "PeriodSettings",
    "ProviderSettings",
    "ResourceTypeSettings",
    "SecuritySettings",
    "SellerSettings",
    "SettingKey",
    "SettingRow",
    "Settings",
    "SmtpSettings",
    "StorageSettings",
    "SubscriptionSettings",
    "TaxSettings",
    "TenantSettings",
    "UsageSettings",
    "known_settings",
    "reason_slug",
]


class Settings(BaseSettings):
    """All settings of one engine, read once; they never change afterwards. `Settings.load` reads them."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    database_url: DatabaseUrl = Field(
        default="sqlite:///tallystick.db", repr=False, description="Database: `sqlite:///file` or `postgresql://…`"
    )
    auto_migrate: bool = Field(default=True, description="Create or migrate the schema on first use; otherwise refuse")
    default_provider: Name | None = Field(default=None, description="Provider of calls that name none")
    enforcement: Annotated[Literal["on", "shadow", "off"], Lowered] = Field(
        default="on",
        description="`on`: refuse past a limit; `shadow`: decide and record, never refuse; `off`: do not ask",
    )
    require_subscription: bool = Field(default=False, description="Refuse a billable without a subscription in force")
    on_unknown_price: Annotated[Literal["refuse", "record_unpriced"], Lowered] = Field(
        default="refuse",
        description="A model without a price: `refuse` the call, or `record_unpriced` and price it with `reprice`",
    )
    on_missing_usage: Annotated[Literal["estimate", "error"], Lowered] = Field(
        default="estimate",
        description="A response without usage: record the `estimate`, or raise `UsageMissing` (`error`)",
    )
    providers: Frozen[ProviderName, ProviderSettings] = Field(default_factory=lambda: MappingProxyType({}))
    billing: BillingSettings = Field(default_factory=BillingSettings)
    credits: CreditSettings = Field(default_factory=CreditSettings)
    period: PeriodSettings = Field(default_factory=PeriodSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    quotas: QuotaSettings = Field(default_factory=QuotaSettings)
    rate_limits: Frozen[RateLimitedType, RateLimitSettings] = Field(default_factory=lambda: MappingProxyType({}))
    holds: HoldSettings = Field(default_factory=HoldSettings)
    metadata: MetadataSettings = Field(default_factory=MetadataSettings)
    idempotency: IdempotencySettings = Field(default_factory=IdempotencySettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    usage: UsageSettings = Field(default_factory=UsageSettings)
    tenants: TenantSettings = Field(default_factory=TenantSettings)
    notifications: NotificationSettings = Field(default_factory=NotificationSettings)
    subscriptions: SubscriptionSettings = Field(default_factory=SubscriptionSettings)
    invoicing: InvoicingSettings = Field(default_factory=InvoicingSettings)
    security: SecuritySettings = Field(default_factory=SecuritySettings)

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
        return tuple(SettingRow(dotted(path), value, self._source(path)) for path, value in values_in_force(self))

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
            default=plain(field.get_default(call_default_factory=True)),
            description=field.description or "",
        )
        for path, field in setting_fields(Settings)
    )


_KNOWN = KnownKeys(
    (path for path, _ in setting_fields(Settings)),
    (path for path, field in setting_fields(Settings) if "SecretStr" in str(field.annotation)),
)
