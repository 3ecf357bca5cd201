"""Settings of notifications: what customers are told, how it reaches them, and how patiently it is delivered."""

from __future__ import annotations

import re
from email.utils import parseaddr
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from tallystick.settings.sources import SettingError
from tallystick.settings.values import ClassPath, Frozen, Group, Lowered, Whole

__all__ = ["ChannelSettings", "NotificationSettings", "SmtpSettings"]

_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_CHANNEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


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


_Locale = Annotated[str, AfterValidator(_locale)]


class SmtpSettings(Group):
    """The mail server through which notifications are sent; without a host no mail is sent."""

    host: str | None = Field(default=None, description="Mail server; none: no mail is sent")
    port: Whole = Field(default=587, ge=1, le=65_535, description="Port of the mail server")
    security: Annotated[Literal["starttls", "tls", "none"], Lowered] = Field(
        default="starttls", description="Encryption: `starttls`, `tls` from the start (port 465), or `none`"
    )
    username: str | None = Field(default=None, description="User at the mail server; none: no login")
    password: SecretStr | None = Field(default=None, description="Password at the mail server; it is never shown")
    sender: Annotated[str, AfterValidator(_mail_address)] | None = Field(
        default=None, description='From whom mail comes, such as "Example <billing@example.com>"; needed with a host'
    )
    timeout_seconds: Whole = Field(
        default=10, ge=1, le=300, description="Seconds to wait for the mail server at each step"
    )

    @model_validator(mode="after")
    def _has_a_sender(self) -> Self:
        if self.host is not None and self.sender is None:
            raise SettingError("sender", self.sender, 'Say from whom mail comes: "Example <billing@example.com>".')
        return self


class ChannelSettings(Group):
    """A channel of the application's own, over which notifications go out."""

    class_path: ClassPath | None = Field(
        default=None, alias="class", description='Class that sends on this channel, such as "application.sms:Sms"'
    )


class NotificationSettings(Group):
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
    address_of: ClassPath | None = Field(
        default=None,
        description='Function from a billable to its e-mail address, such as "application.mail:address_of"',
    )
    digest_hour: Whole = Field(
        default=8, ge=0, le=23, description="Hour of the day, in the customer's zone, at which digests go out"
    )
    mails_per_hour: Whole = Field(
        default=10, ge=1, le=10_000, description="Mails to one customer in an hour; what comes beyond waits as a digest"
    )
    attempts_max: Whole = Field(
        default=10, ge=1, le=100, description="Attempts to deliver a message before it is a dead letter"
    )
    lease_seconds: Whole = Field(
        default=300, ge=30, le=86_400, description="Seconds after which another worker takes over from one that died"
    )
    threads: Whole = Field(default=8, ge=1, le=64, description="Destinations that one process delivers to at a time")
    webhook_timeout_seconds: Whole = Field(
        default=10, ge=1, le=120, description="Seconds that a webhook endpoint has for its answer"
    )
    webhook_private_addresses: bool = Field(
        default=False, description="Let webhooks go to private and local addresses, which only tests should need"
    )
    webhook_disable_after_days: Whole = Field(
        default=5, ge=1, le=365, description="Days of nothing but failures after which an endpoint is disabled"
    )
    trial_warning_days: Whole = Field(
        default=3, ge=0, le=90, description="Days before a trial ends at which it is told; 0: never"
    )
    subscription_warning_days: Whole = Field(
        default=7, ge=0, le=90, description="Days before a subscription ends at which it is told; 0: never"
    )
    keep_days: Whole = Field(default=365, ge=1, le=36_500, description="Days after which notifications are removed")
    outbox_keep_days: Whole = Field(
        default=14, ge=1, le=3650, description="Days after which messages that were sent are removed"
    )
    smtp: SmtpSettings = Field(default_factory=SmtpSettings)
    channels: Frozen[Annotated[str, AfterValidator(_channel_name)], ChannelSettings] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @model_validator(mode="after")
    def _leases_outlast_attempts(self) -> Self:
        slowest = max(self.webhook_timeout_seconds, self.smtp.timeout_seconds)
        if self.lease_seconds < 2 * slowest:
            remedy = f"Give at least {2 * slowest}: twice the seconds that an attempt may take."
            raise SettingError("lease_seconds", self.lease_seconds, remedy)
        return self
