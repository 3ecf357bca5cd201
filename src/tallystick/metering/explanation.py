"""Why an event cost what it did: from the token classes down to the rate, the rounding and the limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, select

from tallystick.credits.account import amount_of
from tallystick.credits.ledger import BALANCE_ACCOUNTS, OVERDRAFT
from tallystick.metering.recording import transaction_of
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import Money
from tallystick.period import from_micros, to_micros
from tallystick.plans.loading import load_features, plan_version_from_row
from tallystick.plans.terms import PlanVersion
from tallystick.pricing.cost import Cost
from tallystick.quantity import from_millionths
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["CreditShare", "Explanation", "ExplanationLine", "GrantShare", "OverageShare", "UsageChargeShare", "explain"]


@dataclass(frozen=True, slots=True)
class ExplanationLine:
    """One priced unit: `quantity` at `rate` for every `per`, which is `amount`, exactly, before any rounding."""

    unit: str
    quantity: int | Decimal
    rate: Decimal
    per: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class OverageShare:
    """What was charged of this event because it lay beyond a limit."""

    id: str
    limit_type: str
    tokens: int
    price_per_1k_tokens: Decimal | None
    amount: Money


@dataclass(frozen=True, slots=True)
class UsageChargeShare:
    """What the plan's usage price has charged for this event, or for a correction of it (`event_id`).

    `amount` is the difference that `quantity` made to the price of the whole billing month (`month_start` until before
    `month_end`), under version `plan_version` of `plan`. It is below zero where use was taken back, and under the
    volume model where a cheaper tier was reached.
    """

    id: str
    event_id: str
    resource_type: str
    quantity: int | Decimal
    amount: Money
    plan: str
    plan_version: int
    month_start: datetime
    month_end: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return the charge as plain JSON values."""
        return {
            "id": self.id,
            "event_id": self.event_id,
            "resource_type": self.resource_type,
            "quantity": str(self.quantity),
            "amount": self.amount.to_dict(),
            "plan": {"slug": self.plan, "version": self.plan_version},
            "month_start": self.month_start.isoformat(),
            "month_end": self.month_end.isoformat(),
        }

    def __str__(self) -> str:
        month = f"{self.month_start:%Y-%m-%d} to {self.month_end:%Y-%m-%d}"
        return (
            f"{self.amount} for {self.quantity} {self.resource_type}, "
            f"by plan {self.plan}, version {self.plan_version} (month of {month})"
        )


@dataclass(frozen=True, slots=True)
class GrantShare:
    """What was taken of one grant, or given back to it (below zero)."""

    grant_id: str
    kind: str
    reason: str
    amount: Money | int | Decimal


@dataclass(frozen=True, slots=True)
class CreditShare:
    """What credits paid of this event, or of a correction of it: a wallet's money, or uses of a feature.

    `amount` is what was taken (below zero: given back), of `grants` and, beyond them, of `overdraft`. `exchange` says
    how a cost in another currency was converted.
    """

    transaction_id: str
    unit: str
    amount: Money | int | Decimal
    overdraft: Money | int | Decimal
    balance_after: Money | int | Decimal
    exchange: str | None
    grants: tuple[GrantShare, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the share as plain JSON values."""
        return {
            "transaction_id": self.transaction_id,
            "unit": self.unit,
            "amount": _plain(self.amount),
            "overdraft": _plain(self.overdraft),
            "balance_after": _plain(self.balance_after),
            "exchange": self.exchange,
            "grants": [
                {"grant_id": one.grant_id, "kind": one.kind, "reason": one.reason, "amount": _plain(one.amount)}
                for one in self.grants
            ],
        }

    def __str__(self) -> str:
        parts = [f"{one.amount} of {one.reason} ({one.kind}, {one.grant_id})" for one in self.grants]
        if self.overdraft:
            parts.append(f"{self.overdraft} of overdraft")
        wallet = "wallet" if isinstance(self.amount, Money) else f"{self.unit} credits"
        exchanged = f" at {self.exchange}" if self.exchange else ""
        return f"{self.amount} of the {wallet}{exchanged}: {', '.join(parts)}; balance {self.balance_after}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One event taken apart. `exact` is the sum of the lines; `cost` is it, rounded once, half-even, to nanos.

    `corrections` are later events that changed the cost, or the quantity, and `cost_now` is the sum of all costs.
    `credits` say which grants paid, where a wallet or extra credits did, and `usage_charges` what usage prices charged.
    """

    event: UsageEvent
    lines: tuple[ExplanationLine, ...]
    exact: Decimal | None
    cost: Money | None
    cost_now: Money | None
    price_source: str | None
    price_version: str | None
    price_model: str | None
    exchange: str | None
    plan: PlanVersion | None
    overage: OverageShare | None
    corrections: tuple[UsageEvent, ...]
    credits: tuple[CreditShare, ...]
    usage_charges: tuple[UsageChargeShare, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON values."""
        return {
            "event": self.event.to_dict(),
            "lines": [
                {
                    "unit": line.unit,
                    "quantity": str(line.quantity),
                    "rate": str(line.rate),
                    "per": line.per,
                    "amount": f"{line.amount:f}",
                }
                for line in self.lines
            ],
            "exact": None if self.exact is None else f"{self.exact:f}",
            "cost": None if self.cost is None else self.cost.to_dict(),
            "cost_now": None if self.cost_now is None else self.cost_now.to_dict(),
            "price": {"source": self.price_source, "version": self.price_version, "model": self.price_model},
            "exchange": self.exchange,
            "plan": None if self.plan is None else {"slug": self.plan.slug, "version": self.plan.version},
            "overage": None
            if self.overage is None
            else {"id": self.overage.id, "tokens": self.overage.tokens, "amount": self.overage.amount.to_dict()},
            "corrections": [event.to_dict() for event in self.corrections],
            "credits": [share.to_dict() for share in self.credits],
            "usage_charges": [share.to_dict() for share in self.usage_charges],
        }

    def __str__(self) -> str:
        return "\n".join(self._sentences())

    def _sentences(self) -> list[str]:
        event = self.event
        what = " ".join(part for part in (event.provider, event.model) if part) or event.resource_type
        text = [f"{event.id}: {event.billable} used {what} at {event.occurred_at:%Y-%m-%d %H:%M:%S} UTC."]
        text += [
            f"  {line.quantity:,} {line.unit} × {line.rate:f} / {line.per:,} = {line.amount:f}" for line in self.lines
        ]
        if self.cost is None:
            text.append("  No price was known. Price it with reprice.")
        else:
            source = " ".join(part for part in (self.price_source, self.price_version, self.price_model) if part)
            text.append(f"  Cost: {self.cost} (price: {source or 'none of its own'}).")
        if self.exchange:
            text.append(f"  Exchanged at {self.exchange}.")
        if self.overage is not None:
            text.append(f"  Overage: {self.overage.tokens:,} tokens beyond the limit, {self.overage.amount}.")
        text += [f"  Charged: {share}." for share in self.usage_charges]
        text += [f"  Paid: {share}." for share in self.credits]
        if event.flags:
            text.append(f"  Flags: {', '.join(event.flags)}.")
        text += [f"  Corrected by {one.id}: {corrected(one)}." for one in self.corrections]
        if any(one.price for one in self.corrections):
            text.append(f"  Cost now: {self.cost_now}.")
        return text


def corrected(correction: UsageEvent) -> Money | str | None:
    """Return what a correction changes: a cost, or, where it has no price, a quantity."""
    return correction.cost if correction.price else f"{correction.quantity:+} {correction.resource_type}"


def explain(engine: Engine, event_id: str) -> Explanation:
    """Gather what is known of an event."""
    event = UsageEvent.from_row(engine.event_row(event_id))
    corrections = _corrections(engine, event_id)
    price = Cost.from_dict(event.price) if event.price is not None else None
    costs = [one.cost for one in (event, *(one for one in corrections if one.price)) if one.cost is not None]
    lines = () if price is None else tuple(_line(line) for line in price.lines)
    return Explanation(
        event=event,
        lines=lines,
        exact=sum((line.amount for line in lines), Decimal(0)) if lines else None,
        cost=event.cost,
        cost_now=sum(costs[1:], costs[0]) if costs else None,
        price_source=None if price is None else price.source,
        price_version=None if price is None else price.version or None,
        price_model=None if price is None else price.model,
        exchange=_exchange(price),
        plan=_plan(engine, event),
        overage=_overage(engine, event_id),
        corrections=corrections,
        credits=_credits(engine, [transaction_of(one.id) for one in (event, *corrections)]),
        usage_charges=_usage_charges(engine, event, corrections),
    )


def _line(line: Any) -> ExplanationLine:
    return ExplanationLine(line.unit, line.quantity, line.rate, line.per, _decimal(line.amount))


def _decimal(amount: Fraction) -> Decimal:
    # Rates are decimals and `per` a power of ten or a number of seconds, so the quotient ends, or is long enough.
    return Decimal(amount.numerator) / Decimal(amount.denominator)


def _exchange(price: Cost | None) -> str | None:
    if price is None or price.exchange_rate is None:
        return None
    return f"1 {price.price_currency} = {price.exchange_rate} {price.currency}"


def _corrections(engine: Engine, event_id: str) -> tuple[UsageEvent, ...]:
    events = tables.usage_events
    # An adjustment of a day's use names itself.
    of_others = and_(events.c.corrects_event_id == event_id, events.c.id != event_id)
    query = select(events).where(of_others).order_by(events.c.id)
    rows = engine.read(lambda connection: connection.execute(query).all())
    return tuple(UsageEvent.from_row(tuple(row)) for row in rows)


def _credits(engine: Engine, transaction_ids: list[str]) -> tuple[CreditShare, ...]:
    """Read which grants paid, and what they left."""
    entries, lines, grants = tables.ledger_entries, tables.credit_transactions, tables.grants
    query = (
        select(
            entries.c.transaction_id,
            entries.c.unit,
            entries.c.account,
            entries.c.amount,
            entries.c.grant_id,
            lines.c.amount.label("line_amount"),
            lines.c.balance_after,
            lines.c.exchange,
            grants.c.kind,
            grants.c.reason,
        )
        .join(
            lines,
            (lines.c.billable == entries.c.billable)
            & (lines.c.unit == entries.c.unit)
            & (lines.c.number == entries.c.statement_number),
        )
        .outerjoin(grants, grants.c.id == entries.c.grant_id)
        .where(entries.c.transaction_id.in_(transaction_ids), entries.c.account.in_(BALANCE_ACCOUNTS))
        .order_by(entries.c.transaction_id, entries.c.position)
    )
    rows = engine.read(lambda connection: connection.execute(query).all())
    found: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        found.setdefault((row.transaction_id, row.unit), []).append(row)
    return tuple(_share(transaction_id, unit, own) for (transaction_id, unit), own in found.items())


def _share(transaction_id: str, unit: str, rows: list[Any]) -> CreditShare:
    line = rows[0]
    overdraft = -sum(int(row.amount) for row in rows if row.account == OVERDRAFT)
    exchange = json.loads(line.exchange) if line.exchange else None
    return CreditShare(
        transaction_id=transaction_id,
        unit=unit,
        amount=amount_of(unit, -int(line.line_amount)),
        overdraft=amount_of(unit, overdraft),
        balance_after=amount_of(unit, int(line.balance_after)),
        exchange=None if exchange is None else f"1 {exchange['currency']} = {exchange['rate']} {unit}",
        grants=tuple(
            GrantShare(row.grant_id, row.kind, row.reason, amount_of(unit, -int(row.amount)))
            for row in rows
            if row.grant_id is not None and row.account != OVERDRAFT
        ),
    )


def _plain(amount: Money | int | Decimal) -> object:
    return amount.to_dict() if isinstance(amount, Money) else str(amount)


def _plan(engine: Engine, event: UsageEvent) -> PlanVersion | None:
    """Read the plan version that was in force, whatever is followed now."""
    version_id = event.plan_version_id
    if version_id is None:
        return None
    versions, plans = tables.plan_versions, tables.plans
    query = select(versions, plans.c.slug, plans.c.name).join(plans, plans.c.id == versions.c.plan_id)

    def read(connection: Connection) -> PlanVersion | None:
        row = connection.execute(query.where(versions.c.id == version_id)).first()
        if row is None:
            return None
        return plan_version_from_row(dict(row._mapping), load_features(connection, [row.id])[row.id])

    return engine.read(read)


def _usage_charges(
    engine: Engine, event: UsageEvent, corrections: tuple[UsageEvent, ...]
) -> tuple[UsageChargeShare, ...]:
    """Read what usage prices have charged. Charges are found by account and time, as their index has them."""
    charges, versions, plans = tables.usage_charges, tables.plan_versions, tables.plans
    both = (event, *corrections)
    query = (
        select(charges, plans.c.slug, versions.c.version)
        .join(versions, versions.c.id == charges.c.plan_version_id)
        .join(plans, plans.c.id == versions.c.plan_id)
        .where(
            charges.c.billable == event.billable,
            charges.c.occurred_at.in_({to_micros(one.occurred_at) for one in both}),
            charges.c.event_id.in_([one.id for one in both]),
        )
        .order_by(charges.c.id)
    )
    rows = engine.read(lambda connection: connection.execute(query).all())
    return tuple(
        UsageChargeShare(
            id=row.id,
            event_id=row.event_id,
            resource_type=row.resource_type,
            quantity=from_millionths(row.quantity),
            amount=Money.from_nanos(row.amount, row.currency),
            plan=row.slug,
            plan_version=row.version,
            month_start=from_micros(row.period_start),
            month_end=from_micros(row.period_end),
        )
        for row in rows
    )


def _overage(engine: Engine, event_id: str) -> OverageShare | None:
    overages = tables.overages
    query = select(overages).where(overages.c.event_id == event_id)
    row = engine.read(lambda connection: connection.execute(query).first())
    if row is None:
        return None
    values: Mapping[str, Any] = dict(row._mapping)
    price = values["price_per_1k_tokens"]
    return OverageShare(
        id=values["id"],
        limit_type=values["limit_type"],
        tokens=values["tokens"],
        price_per_1k_tokens=None if price is None else Decimal(price),
        amount=Money.from_nanos(values["amount"], values["currency"]),
    )
