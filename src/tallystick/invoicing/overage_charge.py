"""Overage as values: one charge, sums of them, and what a synchronisation did. Pure; instants are aware UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from tallystick.money import Money
from tallystick.period import from_micros

__all__ = ["OverageCharge", "OverageStatus", "OverageSync", "OverageTotal", "SyncFailure"]


class OverageStatus(StrEnum):
    """Who charges an overage. SYNCING: it may have reached the gateway, and is not known to have."""

    OPEN = "open"
    INVOICED = "invoiced"
    SYNCING = "syncing"
    SYNCED = "synced"


@dataclass(frozen=True, slots=True)
class OverageCharge:
    """The part of one usage event beyond a limit, and what is charged for it. A correction may give some back.

    It is charged once: by the invoice `invoice_id`, or by the gateway, which calls it `sync_id`. `sync_error` is what
    went wrong at the last of `sync_attempts`.
    """

    id: str
    billable: str
    usage_event_id: str
    subscription_id: str | None
    plan_version_id: str | None
    limit_type: str
    tokens: int
    amount: Money
    price_per_1k_tokens: Decimal | None
    period: str
    period_start: datetime
    period_end: datetime
    occurred_at: datetime
    is_synced: bool
    invoice_id: str | None = None
    sync_id: str | None = None
    synced_at: datetime | None = None
    sync_started_at: datetime | None = None
    sync_attempts: int = 0
    sync_error: str | None = None

    @property
    def status(self) -> OverageStatus:
        if self.invoice_id is not None:
            return OverageStatus.INVOICED
        if self.is_synced:
            return OverageStatus.SYNCED
        return OverageStatus.OPEN if self.sync_started_at is None else OverageStatus.SYNCING

    @classmethod
    def from_row(cls, row: Any) -> OverageCharge:
        """Read a row of `overages`."""
        price = row.price_per_1k_tokens
        return cls(
            id=row.id,
            billable=row.billable,
            usage_event_id=row.event_id,
            subscription_id=row.subscription_id,
            plan_version_id=row.plan_version_id,
            limit_type=row.limit_type,
            tokens=row.tokens,
            amount=Money.from_nanos(row.amount, row.currency),
            price_per_1k_tokens=None if price is None else Decimal(price),
            period=row.period,
            period_start=from_micros(row.period_start),
            period_end=from_micros(row.period_end),
            occurred_at=from_micros(row.occurred_at),
            is_synced=bool(row.is_synced),
            invoice_id=row.invoice_id,
            sync_id=row.sync_id,
            synced_at=_instant(row.synced_at),
            sync_started_at=_instant(row.sync_started_at),
            sync_attempts=row.sync_attempts or 0,
            sync_error=row.sync_error,
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "billable": self.billable,
            "status": self.status.value,
            "usage_event_id": self.usage_event_id,
            "subscription_id": self.subscription_id,
            "plan_version_id": self.plan_version_id,
            "limit_type": self.limit_type,
            "tokens": self.tokens,
            "amount": self.amount.to_dict(),
            "price_per_1k_tokens": None if self.price_per_1k_tokens is None else str(self.price_per_1k_tokens),
            "period": self.period,
            "period_start": self.period_start.isoformat(),
            "period_end": self.period_end.isoformat(),
            "occurred_at": self.occurred_at.isoformat(),
            "is_synced": self.is_synced,
            "invoice_id": self.invoice_id,
            "sync_id": self.sync_id,
            "synced_at": _text(self.synced_at),
            "sync_started_at": _text(self.sync_started_at),
            "sync_attempts": self.sync_attempts,
            "sync_error": self.sync_error,
        }


@dataclass(frozen=True, slots=True)
class OverageTotal:
    """The exact sum of a billable's overage in one period of its plan and one currency.

    `amount` is `on_invoices` + `synced` + `unbilled`; what is on its way to the gateway counts as unbilled.
    """

    billable: str
    period: str
    period_start: datetime
    period_end: datetime
    charges: int
    tokens: int
    amount: Money
    on_invoices: Money
    synced: Money

    @property
    def currency(self) -> str:
        return self.amount.currency

    @property
    def unbilled(self) -> Money:
        return self.amount - self.on_invoices - self.synced

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "billable": self.billable,
            "period": self.period,
            "period_start": self.period_start.isoformat(),
            "period_end": self.period_end.isoformat(),
            "currency": self.currency,
            "charges": self.charges,
            "tokens": self.tokens,
            "amount": self.amount.to_dict(),
            "on_invoices": self.on_invoices.to_dict(),
            "synced": self.synced.to_dict(),
            "unbilled": self.unbilled.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class SyncFailure:
    """An overage that the driver could not charge, and what it said. It is tried again later."""

    overage_id: str
    error: str


@dataclass(frozen=True, slots=True)
class OverageSync:
    """What a synchronisation did. `left` counts what is not charged yet, with what failed or is under way elsewhere.

    With `is_billed_on_invoices` there is no driver: nothing was sent, and invoices charge what is left.
    """

    synced: int = 0
    failed: int = 0
    left: int = 0
    failures: tuple[SyncFailure, ...] = ()
    is_billed_on_invoices: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "synced": self.synced,
            "failed": self.failed,
            "left": self.left,
            "failures": [{"overage_id": one.overage_id, "error": one.error} for one in self.failures],
            "is_billed_on_invoices": self.is_billed_on_invoices,
        }


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
