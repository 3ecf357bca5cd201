"""Settings of limits: the periods in which use counts, quotas, rate limits, and what is held before a call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tallystick.errors import InvalidInput
from tallystick.period import PeriodKind, calendar_period
from tallystick.settings.sources import SettingError
from tallystick.settings.values import Ascending, Exact, Group, Lowered, Separated, Whole, lower_case

__all__ = [
    "HoldSettings",
    "LimitSettings",
    "PeriodSettings",
    "QuotaSettings",
    "RateLimitSettings",
    "RateLimitedType",
]

_PERIOD_TYPES = ("monthly", "weekly", "daily", "yearly", "rolling")

_RESOURCE_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def _time_zone(value: str) -> str:
    try:
        # A zone is known when a day can be found in it.
        calendar_period(PeriodKind.DAILY, datetime(2026, 1, 1, tzinfo=UTC), value)
    except InvalidInput as error:
        raise ValueError(error.remedy) from None
    return value


def _resource_type(value: str) -> str:
    if not _RESOURCE_TYPE.fullmatch(value):
        raise ValueError('Name a resource type, such as "message", or "requests" or "tokens", counted of every call.')
    if value == "cost":
        raise ValueError("Cost has quotas, and no rate limits.")
    return value


RateLimitedType = Annotated[str, AfterValidator(_resource_type)]

_Quantity = Annotated[Exact, Field(gt=0, le=10**12, decimal_places=6)]


class PeriodSettings(Group):
    """Over which time a plan's limits count."""

    type: Annotated[Literal["monthly", "weekly", "daily", "yearly"], Lowered] = Field(
        default="monthly",
        description="Period of limits: `monthly`, `weekly`, `daily`, `yearly`; `rolling`: monthly, so aligned",
    )
    alignment: Annotated[Literal["calendar", "rolling"], Lowered] = Field(
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
        name, alignment = lower_case(given["type"]), given.get("alignment", "rolling")
        if name not in _PERIOD_TYPES:
            raise SettingError("type", given["type"], f"Give one of {', '.join(_PERIOD_TYPES)}.")
        if name != "rolling":
            return given
        if lower_case(alignment) != "rolling":
            raise SettingError("alignment", alignment, 'Leave it out, or give "rolling", with period.type "rolling".')
        return {**given, "type": "monthly", "alignment": "rolling"}


class LimitSettings(Group):
    """When a limit is worth a word."""

    approaching_percentage: Whole = Field(
        default=80, ge=1, le=100, description="Share of a limit at which `LimitApproaching` is sent, in percent"
    )


class QuotaSettings(Group):
    """What a quota does that does not say it itself."""

    thresholds: Annotated[tuple[Annotated[Whole, Field(ge=1, le=99)], ...], Separated, Ascending] = Field(
        default=(80,),
        description="Shares of a quota at which `QuotaWarning` is sent, in percent; a list given replaces this one",
    )


class RateLimitSettings(Group):
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


class HoldSettings(Group):
    """What is reserved before a call, and for how long."""

    default_tokens: Whole = Field(
        default=1000,
        ge=1,
        le=1_000_000_000,
        description="Tokens held for a call that gives neither an estimate nor a maximum",
    )
    ttl_seconds: Whole = Field(
        default=600, ge=1, le=604_800, description="Seconds until a hold that was never settled expires"
    )
