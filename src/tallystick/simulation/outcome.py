"""What came of a scenario: invoices, months, customers. The same scenario and seed give the same, but for the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from tallystick.money import Money
from tallystick.simulation.scenario import Scenario

__all__ = ["MonthFigures", "MonthMoney", "Outcome", "PlayedCustomer", "Skipped"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that a customer could not do as things stood, and why."""

    billable: str
    at: datetime
    do: str
    reason: str

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {"billable": self.billable, "at": self.at.isoformat(), "do": self.do, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class MonthMoney:
    """The money of one month in one currency.

    `fees` (what plans cost, and prorations), `usage`, `overage` and `items` are lines of the invoices that were issued
    in the month, `discounts` (below zero) too. `invoiced` is the sum of their totals, after tax and what was carried.
    `paid` is what was paid in the month, for whichever invoice. `recurring` is the monthly recurring revenue (MRR) at
    its end: what the plans of paying customers cost a month, without tax and discounts; a trial is none.
    """

    currency: str
    fees: Money
    usage: Money
    overage: Money
    items: Money
    discounts: Money
    tax: Money
    invoiced: Money
    paid: Money
    recurring: Money

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values: amounts in their currency, as text."""
        names = ("fees", "usage", "overage", "items", "discounts", "tax", "invoiced", "paid", "recurring")
        return {"currency": self.currency, **{name: getattr(self, name).to_dict()["amount"] for name in names}}


@dataclass(frozen=True, slots=True)
class MonthFigures:
    """One month: invoices and calls, what the providers asked for them, and how many customers came and left.

    `customers` are those that pay at its end. `lost` had paid at the end of the month before, and pay no more.
    """

    label: str
    start: datetime
    end: datetime
    money: tuple[MonthMoney, ...]
    invoices: int
    calls: int
    tokens: int
    refused: int
    costs: tuple[Money, ...]
    customers: int
    gained: int
    lost: int

    @property
    def churn_percent(self) -> Decimal:
        """The share of those who paid at the end of the month before and have left, to a tenth of a percent."""
        before = self.customers - self.gained + self.lost
        if before <= 0:
            return Decimal("0.0")
        return Decimal((2_000 * self.lost + before) // (2 * before)).scaleb(-1)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "month": self.label,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "invoices": self.invoices,
            "money": [one.to_dict() for one in self.money],
            "calls": self.calls,
            "tokens": self.tokens,
            "refused_calls": self.refused,
            "provider_costs": [cost.to_dict() for cost in self.costs],
            "customers": self.customers,
            "gained": self.gained,
            "lost": self.lost,
            "churn_percent": str(self.churn_percent),
        }


@dataclass(frozen=True, slots=True)
class PlayedCustomer:
    """A customer at the end. `group` is its table's name. Money is of the currencies of its invoices."""

    billable: str
    group: str
    plan: str
    status: str
    calls: int
    tokens: int
    costs: tuple[Money, ...]
    refused: Mapping[str, int]
    invoices: int
    invoiced: tuple[Money, ...]
    paid: tuple[Money, ...]
    due: tuple[Money, ...]

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "billable": self.billable,
            "group": self.group,
            "plan": self.plan,
            "status": self.status,
            "calls": self.calls,
            "tokens": self.tokens,
            "provider_costs": [cost.to_dict() for cost in self.costs],
            "refused_calls": dict(self.refused),
            "invoices": self.invoices,
            "invoiced": [money.to_dict() for money in self.invoiced],
            "paid": [money.to_dict() for money in self.paid],
            "due": [money.to_dict() for money in self.due],
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a scenario. `invoices` are the engine's own, in the order of their numbers.

    `drift` is what the doctor found amiss, and empty where all numbers agree. `seconds` is how long the play took; it
    is the one thing that differs from run to run, and not in `to_dict`.
    """

    scenario: Scenario
    months: tuple[MonthFigures, ...]
    customers: tuple[PlayedCustomer, ...]
    invoices: tuple[Any, ...]
    refused: Mapping[str, int]
    failed_payments: int
    skipped: tuple[Skipped, ...]
    drift: tuple[str, ...]
    seconds: float = field(compare=False)

    @property
    def ok(self) -> bool:
        """Whether every number agrees with what was recorded."""
        return not self.drift

    @property
    def calls(self) -> int:
        return sum(month.calls for month in self.months)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values, without what is by chance: ids, and how long it took."""
        return {
            "scenario": {
                "name": self.scenario.name,
                "start": self.scenario.start.isoformat(),
                "months": self.scenario.months,
                "timezone": self.scenario.zone,
                "seed": self.scenario.seed,
                "customers": self.scenario.customers,
            },
            "months": [month.to_dict() for month in self.months],
            "customers": [customer.to_dict() for customer in self.customers],
            "invoices": [_invoice(one) for one in self.invoices],
            "refused_calls": dict(self.refused),
            "failed_payments": self.failed_payments,
            "skipped_events": [one.to_dict() for one in self.skipped],
            "doctor": {"ok": self.ok, "drift": list(self.drift)},
        }


_KEPT = (
    "number",
    "billable",
    "status",
    "currency",
    "issued_at",
    "due_date",
    "paid_at",
    "period_start",
    "period_end",
)
_AMOUNTS = (
    "subtotal",
    "carried_in",
    "carried_out",
    "net",
    "tax",
    "total",
    "credit_applied",
    "amount_paid",
    "amount_due",
)


def _invoice(invoice: Any) -> dict[str, object]:
    """Return what an invoice says, without the ids that differ from run to run."""
    said = invoice.to_dict()
    kept = {name: said[name] for name in _KEPT}
    kept |= {name: said[name]["amount"] for name in _AMOUNTS}
    kept["line_items"] = [{**line, "amount": line["amount"]["amount"]} for line in said["line_items"]]
    return kept
