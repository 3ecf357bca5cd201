"""The demo's customers: seven billables that differ in what happens at their limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tallystick.errors import NotFound
from tallystick.money import Money

if TYPE_CHECKING:
    from tallystick.app import Tallystick
    from tallystick.limits.decision import LimitCheck

__all__ = [
    "ADA",
    "BEN",
    "CUSTOMERS",
    "FERRY",
    "GUEST",
    "LIGHTHOUSE",
    "OLDMILL",
    "POSTER",
    "POSTERS_A_DAY",
    "RIVERBANK",
    "Agreement",
    "agreed",
    "set_up",
    "set_up_prepaid",
]

ADA = "user:ada"
BEN = "user:ben"
FERRY = "tenant:ferry"
GUEST = "user:guest"
OLDMILL = "tenant:oldmill"
RIVERBANK = "tenant:riverbank"
LIGHTHOUSE = "tenant:lighthouse"
CUSTOMERS = (ADA, BEN, OLDMILL, RIVERBANK, LIGHTHOUSE, FERRY, GUEST)

POSTER = "poster"
POSTERS_A_DAY = 3


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


def set_up_prepaid(ts: Tallystick) -> None:
    """Subscribe the customer who pays in advance, to a plan that limits no calls and a feature."""
    ts.plans.create("prepaid", "Prepaid", features={POSTER: {"value": POSTERS_A_DAY, "reset": "daily"}})
    ts.subscriptions.create(FERRY, "prepaid", billing_mode="credits")


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
        subscription = ts.subscriptions.get(billable)
    except NotFound:
        return Agreement("none", "none", "-")
    plan = subscription.plan
    if subscription.billing_mode == "credits":
        return Agreement(plan.slug, "its wallet", "stop")
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
