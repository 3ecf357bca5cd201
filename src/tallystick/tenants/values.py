"""What readers see of tenants besides the tenants themselves: pages, members, figures, and what was attached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from tallystick.money import Money

if TYPE_CHECKING:
    from tallystick.limits.values import QuotaStatus
    from tallystick.metering.statistics import UsageStatistics
    from tallystick.plans.terms import Subscription, SubscriptionStatus
    from tallystick.tenants.tenant import Tenant

__all__ = [
    "AttachedQuota",
    "Attachment",
    "ShadowGroup",
    "ShadowReport",
    "TenantMember",
    "TenantPage",
    "TenantStats",
    "WalletBalance",
]


@dataclass(frozen=True, slots=True)
class TenantPage:
    """One page of tenants, the newest first. `next_cursor` asks for the following page; None: this was the last."""

    tenants: tuple[Tenant, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self.tenants)

    def __len__(self) -> int:
        return len(self.tenants)

    def __getitem__(self, index: int) -> Tenant:
        return self.tenants[index]


@dataclass(frozen=True, slots=True)
class TenantMember:
    """A user of a tenant, and since when."""

    tenant: str
    user: str
    since: datetime


@dataclass(frozen=True, slots=True)
class WalletBalance:
    """What a wallet has, and what of it is not reserved by calls in flight."""

    currency: str
    balance: Money
    available: Money


@dataclass(frozen=True, slots=True)
class TenantStats:
    """How a tenant stands: what it used in `[usage.start, usage.end)`, its quotas, wallets, members, subscription.

    `subscription` is the one in force, else the one made last; None: it never had one.
    """

    tenant: Tenant
    usage: UsageStatistics
    quotas: tuple[QuotaStatus, ...]
    wallets: tuple[WalletBalance, ...]
    members: int
    subscription: Subscription | None
    subscription_status: SubscriptionStatus | None

    @property
    def quotas_near_limit(self) -> tuple[QuotaStatus, ...]:
        """The quotas that have reached their first threshold, or their limit."""
        return tuple(quota for quota in self.quotas if quota.is_near_limit)


@dataclass(frozen=True, slots=True)
class ShadowGroup:
    """What one kind of limit would have refused: how often, the first and the last time, and the last refusal's words.

    `code` is that of the error ("quota_exceeded"), `limit_type` what was limited ("message"), empty where it has none.
    """

    code: str
    limit_type: str
    refusals: int
    first_at: datetime
    last_at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What would have been refused in `[start, end)`, had limits been enforced; the most frequent first."""

    tenant: str
    start: datetime | None
    end: datetime | None
    groups: tuple[ShadowGroup, ...]

    @property
    def refusals(self) -> int:
        return sum(group.refusals for group in self.groups)


@dataclass(frozen=True, slots=True)
class AttachedQuota:
    """A default quota that a tenant gets."""

    resource_type: str
    period: str
    limit: int | Decimal
    is_hard_limit: bool


@dataclass(frozen=True, slots=True)
class Attachment:
    """What was attached to a tenant, or, where `applied` is false, would be.

    `users` become members, `events` of `billables` get its name, and `quotas` are those of the defaults that it lacks.
    """

    tenant: str
    users: tuple[str, ...]
    billables: tuple[str, ...]
    events: int
    quotas: tuple[AttachedQuota, ...]
    applied: bool
