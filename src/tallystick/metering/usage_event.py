"""The usage event as its readers see it: one immutable record of use, with its tokens, its cost and its price."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.providers.usage import ProviderUsage
from tallystick.quantity import from_millionths
from tallystick.storage.statements import EVENT_COLUMNS

__all__ = ["UsageEvent"]

_POSITION = {name: index for index, name in enumerate(EVENT_COLUMNS)}


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One use that happened. It is never changed: a correction is an event of its own that names this one.

    `usage` holds the tokens, with the costs that were charged; `cost` is the total, None while no price is known. The
    `cost` of a correction is a difference, below zero where something is given back, and its `usage` is empty. The
    `quantity` of an adjustment is a difference too; one of a whole day's use names itself.
    `flags` say what was special: estimated, late, backdated, unpriced, overage, past_limit, overdraft,
    partial, shadow, correction.
    """

    id: str
    billable: str
    user: str | None
    tenant: str | None
    provider: str
    model: str
    feature: str | None
    resource_type: str
    quantity: int | Decimal
    usage: ProviderUsage
    cost: Money | None
    currency: str
    price: Mapping[str, object] | None
    billing_mode: str
    period: str
    period_start: datetime
    subscription_id: str | None
    plan_version_id: str | None
    hold_id: str | None
    idempotency_key: str | None
    corrects_event_id: str | None
    flags: tuple[str, ...]
    metadata: Mapping[str, object]
    occurred_at: datetime
    recorded_at: datetime

    @property
    def total_tokens(self) -> int:
        return self.usage.total_tokens

    @property
    def is_priced(self) -> bool:
        return self.cost is not None

    @classmethod
    def from_row(cls, row: Sequence[object]) -> UsageEvent:
        """Read a row of `usage_events`, in the order of its columns."""
        values = dict(zip(EVENT_COLUMNS, row, strict=True))
        currency = str(values["currency"])
        price = values["price"]
        return cls(
            id=str(values["id"]),
            billable=str(values["billable"]),
            user=_text(values["user_id"]),
            tenant=_text(values["tenant_id"]),
            provider=str(values["provider"]),
            model=str(values["model"]),
            feature=str(values["feature"]) or None,
            resource_type=str(values["resource_type"]),
            quantity=from_millionths(_integer(values["quantity"])),
            usage=_usage(values, currency),
            cost=_money(values["total_cost"], currency),
            currency=currency,
            price=json.loads(str(price)) if price is not None else None,
            billing_mode=str(values["billing_mode"]),
            period=str(values["period"]),
            period_start=from_micros(_integer(values["period_start"])),
            subscription_id=_text(values["subscription_id"]),
            plan_version_id=_text(values["plan_version_id"]),
            hold_id=_text(values["hold_id"]),
            idempotency_key=_text(values["idempotency_key"]),
            corrects_event_id=_text(values["corrects_event_id"]),
            flags=tuple(str(values["flags"]).split()),
            metadata=json.loads(str(values["metadata"])) if values["metadata"] is not None else {},
            occurred_at=from_micros(_integer(values["occurred_at"])),
            recorded_at=from_micros(_integer(values["recorded_at"])),
        )

    def to_dict(self) -> dict[str, object]:
        """Return the event as plain JSON values."""
        return {
            "id": self.id,
            "billable": self.billable,
            "user": self.user,
            "tenant": self.tenant,
            "provider": self.provider,
            "model": self.model,
            "feature": self.feature,
            "resource_type": self.resource_type,
            "quantity": self.quantity if isinstance(self.quantity, int) else str(self.quantity),
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "total_tokens": self.usage.total_tokens,
            "token_classes": dict(self.usage.classes),
            "cost": None if self.cost is None else str(self.cost.amount),
            "currency": self.currency,
            "price": self.price,
            "billing_mode": self.billing_mode,
            "subscription_id": self.subscription_id,
            "plan_version_id": self.plan_version_id,
            "hold_id": self.hold_id,
            "idempotency_key": self.idempotency_key,
            "corrects_event_id": self.corrects_event_id,
            "flags": list(self.flags),
            "metadata": dict(self.metadata),
            "occurred_at": self.occurred_at.isoformat(),
            "recorded_at": self.recorded_at.isoformat(),
        }


def _usage(values: Mapping[str, object], currency: str) -> ProviderUsage:
    stored = values["usage"]
    if values["corrects_event_id"] is not None:
        # A correction uses nothing, and its cost is a difference, which may be below zero.
        return ProviderUsage()
    if stored is not None:
        usage = ProviderUsage.from_dict(json.loads(str(stored)))
    else:
        usage = ProviderUsage(_integer(values["input_tokens"]), _integer(values["output_tokens"]))
    return replace(
        usage,
        input_cost=_money(values["input_cost"], currency),
        output_cost=_money(values["output_cost"], currency),
        total_cost=_money(values["total_cost"], currency),
        estimated="estimated" in str(values["flags"]).split(),
    )


def _money(nanos: object, currency: str) -> Money | None:
    return None if nanos is None else Money.from_nanos(_integer(nanos), currency)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _integer(value: object) -> int:
    return int(value)  # type: ignore[call-overload, no-any-return]  # a BIGINT column's value
