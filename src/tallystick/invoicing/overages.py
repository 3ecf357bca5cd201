"""`ts.overages`: what was used beyond limits and is charged, event by event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tallystick.identity import billable_reference
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["OverageCharge", "Overages"]


@dataclass(frozen=True, slots=True)
class OverageCharge:
    """The part of one usage event beyond a limit, and what is charged for it. A correction may give some back."""

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


class Overages:
    """Lists overage."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(self, billable: object = None, is_synced: bool | None = None) -> list[OverageCharge]:
        """Return overage charges in the order in which they happened; of one billable, only (un)synced, if asked."""
        overages = tables.overages
        query = select(overages).order_by(overages.c.occurred_at, overages.c.id)
        if billable is not None:
            query = query.where(overages.c.billable == billable_reference(billable, self._engine.billable_resolver))
        if is_synced is not None:
            query = query.where(overages.c.is_synced == is_synced)
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [_charge(row._mapping) for row in rows]


def _charge(values: Any) -> OverageCharge:
    price = values["price_per_1k_tokens"]
    return OverageCharge(
        id=values["id"],
        billable=values["billable"],
        usage_event_id=values["event_id"],
        subscription_id=values["subscription_id"],
        plan_version_id=values["plan_version_id"],
        limit_type=values["limit_type"],
        tokens=values["tokens"],
        amount=Money.from_nanos(values["amount"], values["currency"]),
        price_per_1k_tokens=None if price is None else Decimal(price),
        period=values["period"],
        period_start=from_micros(values["period_start"]),
        period_end=from_micros(values["period_end"]),
        occurred_at=from_micros(values["occurred_at"]),
        is_synced=bool(values["is_synced"]),
    )
