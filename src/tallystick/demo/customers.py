"""The demo's customers: six billables that differ in what happens at their limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tallystick.errors import NotFound
from tallystick.money import Money

if TYPE_CHECKING:
    from tallystick.app import Tallystick
    from tallystick.limits.decision import LimitCheck

__all__ = ["ADA", "BEN", "CUSTOMERS", "GUEST", "LIGHTHOUSE", "OLDMILL", "RIVERBANK", "Agreement", "agreed", "set_up"]

ADA = "user:ada"
BEN = "user:ben"
GUEST = "user:guest"
OLDMILL = "tenant:oldmill"
RIVERBANK = "tenant:riverbank"
LIGHTHOUSE = "tenant:lighthouse"
CUSTOMERS = (ADA, BEN, OLDMILL, RIVERBANK, LIGHTHOUSE, GUEST)


def set_up(ts: Tallystick) -> None:
    """Create the plans, subscribe everybody but the guest, and raise one limit until the end of the period."""
    ts.plans.create("free", "Free", monthly_token_limit=10_000)
    ts.plans.create("budget", "Budget", monthly_cost_limit=Money("0.02", "USD"), price=Money("5", "USD"))
    ts.plans.create(
        "pro",
        "Pro",
        monthly_token_limit=50_000,
        overage_behavior="charge",
        overage_price_per_1k_tokens=Money("0.02", "USD"),
        price=Money("99", "USD"),
    )
    ts.plans.create("partner", "Partner", monthly_token_limit=2_000, overage_behavior="allow")
    subscriptions = {ADA: "free", BEN: "free", OLDMILL: "budget", RIVERBANK: "pro", LIGHTHOUSE: "partner"}
    for billable, plan in subscriptions.items():
        ts.subscriptions.create(billable, plan)
    ts.limits.override(BEN, end=ts.limits.check(BEN).resets_at, token_limit=25_000, reason="Conference")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed with a billable, in words."""

    plan: str
    limit: str
    at_limit: str
    note: str | None = None


def agreed(ts: Tallystick, billable: str) -> Agreement:
    """Return what is in force for a billable now."""
    try:
        plan = ts.subscriptions.get(billable).plan
    except NotFound:
        return Agreement("none", "none", "-")
    at_limit = {"charge": "charge", "allow": "let pass"}.get(plan.overage_behavior or "block", "stop")
    note = None
    for override in ts.limits.overrides(billable):
        note = (
            f"{billable}: the plan's {plan.monthly_token_limit:,} tokens are raised until {override.end:%Y-%m-%d} "
            f"by a limit override ({override.reason})."
        )
    return Agreement(plan.slug, _limit(ts.limits.check(billable)), at_limit, note)


def _limit(check: LimitCheck) -> str:
    return f"{check.token_limit:,} tokens" if check.token_limit is not None else str(check.cost_limit)
