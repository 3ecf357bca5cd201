"""A way to pay that a gateway keeps for a customer. Pure; instants are aware UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tallystick.period import from_micros

__all__ = ["PaymentMethod"]


@dataclass(frozen=True, slots=True)
class PaymentMethod:
    """A card, a bank account or the like, as a gateway knows it. Its token is not part of it.

    `kind` is "card", "pix", "boleto", "sepa_debit" or the gateway's own word. `removed_at` is set where it was taken
    away: then its token and holder are gone.
    """

    id: str
    billable: str
    gateway: str
    kind: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    holder: str | None = field(repr=False)
    is_default: bool
    created_at: datetime
    updated_at: datetime
    removed_at: datetime | None

    @property
    def expires_at(self) -> datetime | None:
        """The first instant at which it is no longer valid: the end of its month, in UTC. None: it does not expire."""
        if self.exp_month is None or self.exp_year is None:
            return None
        months = self.exp_year * 12 + self.exp_month
        return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)

    @classmethod
    def from_row(cls, row: Any, *, holder: str | None) -> PaymentMethod:
        """Read a row of `payment_methods`, whose holder was decrypted."""
        return cls(
            id=row.id,
            billable=row.billable,
            gateway=row.gateway,
            kind=row.kind,
            brand=row.brand,
            last4=row.last4,
            exp_month=row.exp_month,
            exp_year=row.exp_year,
            holder=holder,
            is_default=bool(row.is_default),
            created_at=from_micros(row.created_at),
            updated_at=from_micros(row.updated_at),
            removed_at=None if row.removed_at is None else from_micros(row.removed_at),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values. The token is never among them."""
        return {
            "id": self.id,
            "billable": self.billable,
            "gateway": self.gateway,
            "kind": self.kind,
            "brand": self.brand,
            "last4": self.last4,
            "exp_month": self.exp_month,
            "exp_year": self.exp_year,
            "holder": self.holder,
            "is_default": self.is_default,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "removed_at": None if self.removed_at is None else self.removed_at.isoformat(),
        }
