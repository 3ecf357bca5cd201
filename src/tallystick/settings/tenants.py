"""Settings of tenants: the quotas of new ones, and when deleted ones are erased."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from tallystick.settings.values import Exact, Frozen, Group, Whole

__all__ = ["DefaultQuotaSettings", "TenantSettings"]

_QuotaLimit = Annotated[Exact, Field(ge=0, le=10**12, decimal_places=6)]


class DefaultQuotaSettings(Group):
    """The quotas of one resource type that a new tenant gets, by period."""

    hourly: _QuotaLimit | None = Field(default=None, description="Limit of each hour; none: no such quota")
    daily: _QuotaLimit | None = Field(default=None, description="Limit of each day; none: no such quota")
    weekly: _QuotaLimit | None = Field(default=None, description="Limit of each week; none: no such quota")
    monthly: _QuotaLimit | None = Field(default=None, description="Limit of each month; none: no such quota")
    yearly: _QuotaLimit | None = Field(default=None, description="Limit of each year; none: no such quota")
    total: _QuotaLimit | None = Field(default=None, description="Limit for all time; none: no such quota")
    is_hard_limit: bool = Field(default=True, description="Refuse past the limit, rather than only warn of it")
    notification_threshold: Annotated[Whole, Field(ge=1, le=99)] = Field(
        default=80, description="Share of the limit at which `QuotaWarning` is sent, in percent"
    )

    @property
    def limits(self) -> Mapping[str, Decimal]:
        """The limits that are set, by period."""
        periods = ("hourly", "daily", "weekly", "monthly", "yearly", "total")
        found = {period: getattr(self, period) for period in periods}
        return {period: limit for period, limit in found.items() if limit is not None}


class TenantSettings(Group):
    """What holds for every tenant."""

    erase_after_days: Annotated[Whole, Field(ge=0, le=36_500)] | None = Field(
        default=None, description="Days after its deletion at which a tenant's usage and data are erased; none: never"
    )
    default_quotas: Frozen[str, DefaultQuotaSettings] = Field(default_factory=lambda: MappingProxyType({}))
