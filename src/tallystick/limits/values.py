"""Quotas and rate limits as their readers see them: numbers and money in place of the database's integers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from tallystick.money import Money

__all__ = ["QuotaCheck", "QuotaStatus", "RateLimitStatus", "TenantQuota", "TenantRateLimit"]

Amount = int | Decimal | Money
"""A quantity of a resource type; Money for a quota of cost."""


@dataclass(frozen=True, slots=True)
class TenantQuota:
    """A quota as it is set: so much of a resource type in a period.

    `user`, `feature` or `key` say whose part of the use it limits; `user` "user:*" is each user on their own. With none
    of them it limits all use together. `thresholds` are the percentages at which `QuotaWarning` is sent.
    """

    id: str
    billable: str
    resource_type: str
    period: str
    limit: Amount
    is_hard_limit: bool
    thresholds: tuple[int, ...]
    user: str | None
    feature: str | None
    key: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def notification_threshold(self) -> int | None:
        """The first percentage at which it warns; None: it warns at none."""
        return min(self.thresholds, default=None)


@dataclass(frozen=True, slots=True)
class QuotaCheck:
    """Whether so much more would be admitted now, and how the quota stands that leaves the least.

    `current` is what was used, `held` what calls in flight have reserved, and `remaining` what is left besides both.
    `percentage` is what was used of the limit. Without a quota nothing is limited: then `has_quota` is false, and
    `limit`, `remaining` and `resets_at` are None. `reason` says why it would not be admitted.
    """

    billable: str
    resource_type: str
    allowed: bool
    has_quota: bool
    quota_id: str | None
    period: str | None
    current: Amount
    held: Amount
    limit: Amount | None
    remaining: Amount | None
    percentage: float
    is_hard_limit: bool
    resets_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """A quota with how it stands in the period that is running.

    `allowed` is whether anything more would be admitted. Of a quota that each user has on their own, the figures are
    those of the user who has used most of it, `fullest_user`. `resets_at` is None for a quota of all time; of a sliding
    window it is when some of its use leaves the window.
    """

    quota: TenantQuota
    current: Amount
    held: Amount
    remaining: Amount
    percentage: float
    allowed: bool
    resets_at: datetime | None
    fullest_user: str | None

    @property
    def id(self) -> str:
        return self.quota.id

    @property
    def resource_type(self) -> str:
        return self.quota.resource_type

    @property
    def period(self) -> str:
        return self.quota.period

    @property
    def limit(self) -> Amount:
        return self.quota.limit

    @property
    def is_hard_limit(self) -> bool:
        return self.quota.is_hard_limit

    @property
    def is_near_limit(self) -> bool:
        """Whether use has reached the first threshold, or the limit itself."""
        return self.percentage >= min(self.quota.thresholds, default=100)


@dataclass(frozen=True, slots=True)
class TenantRateLimit:
    """So many of a resource type in a second, minute or hour, with at most `burst` of them at once.

    `id` is None where it follows from the settings and is everybody's. `user`, `feature` and `key` are as for a quota.
    """

    id: str | None
    billable: str
    resource_type: str
    per: str
    limit: int | Decimal
    burst: int | Decimal
    user: str | None
    feature: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """What is left of a rate limit now, and when all of it (its burst) will be there again if nothing is used."""

    rate_limit: TenantRateLimit
    remaining: int | Decimal
    reset_at: datetime

    @property
    def limit(self) -> int | Decimal:
        return self.rate_limit.limit

    @property
    def resource_type(self) -> str:
        return self.rate_limit.resource_type

    @property
    def per(self) -> str:
        return self.rate_limit.per
