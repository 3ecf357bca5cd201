"""A tenant as a value: a customer organisation, which pays as the billable "tenant:<slug>"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ["Tenant", "TenantStatus"]


class TenantStatus(StrEnum):
    """ACTIVE may use what is sold; SUSPENDED is refused, what it has in flight is still recorded; DELETED is gone."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer organisation. What is None follows the settings.

    `enforcement` is "on", "shadow" (decide and record, never refuse) or "off".
    """

    id: str
    slug: str
    billable: str
    name: str
    billing_email: str | None
    status: TenantStatus
    status_reason: str | None
    timezone: str | None
    currency: str | None
    locale: str | None
    tax_id: str | None
    enforcement: str | None
    metadata: Mapping[str, object]
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None

    @property
    def billable_type(self) -> str:
        """With `billable_id`: a tenant is a billable wherever one is given."""
        return "tenant"

    @property
    def billable_id(self) -> str:
        return self.slug

    @property
    def is_active(self) -> bool:
        return self.status is TenantStatus.ACTIVE
