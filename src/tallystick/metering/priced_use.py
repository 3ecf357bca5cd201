"""What a plan's usage prices charge for one use: the difference that it makes to the price of its billing month.

The month's quantity of each priced resource type is a counter ("priced:message"). It counts every use of the month,
also under plans that were left; each use is priced by the plan in force when it happened. So a tier that was reached
under one plan is reached under the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tallystick.errors import InvalidInput
from tallystick.identity import new_id
from tallystick.limits.asking import used_amounts
from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import REQUESTS, TOKENS
from tallystick.plans.usage_prices import UsagePrice
from tallystick.quantity import from_millionths
from tallystick.storage.workspace import MoreNeeded

if TYPE_CHECKING:
    from tallystick.metering.recording import UsageFacts
    from tallystick.plans.terms import InForce
    from tallystick.storage.workspace import Workspace

__all__ = ["PRICED", "PRICED_PERIOD", "PricedUse", "charge_priced_use", "priced_use", "want_priced_use"]

PRICED = "priced:"
"""How the meter of such a counter begins."""

PRICED_PERIOD = "billing"
"""The period of these counters: a billing month, from its start."""

_CHARGE_MAX = 2**63 - 1


class PricedUse(NamedTuple):
    """How much of a resource type was used that has a price, in millionths, and the counter of its month."""

    resource_type: str
    quantity: int
    price: UsagePrice
    counter: CounterKey


def want_priced_use(workspace: Workspace, billable: str, in_force: InForce, resource_type: str) -> None:
    """Ask for the counters that pricing a use usually needs."""
    for name in (resource_type, REQUESTS, TOKENS):
        if name in in_force.usage_prices:
            workspace.want_counter(_counter(billable, name, in_force))


def priced_use(workspace: Workspace, facts: UsageFacts, in_force: InForce) -> list[PricedUse]:
    """Return what of a use has a price. Counters that are missing are asked for."""
    amounts = used_amounts(
        resource_type=facts.resource_type,
        quantity=facts.quantity,
        tokens=facts.input_tokens + facts.output_tokens,
        cost=0,
        is_call=bool(facts.provider) and facts.corrects_event_id is None,
    )
    priced = [
        PricedUse(name, quantity, price, _counter(facts.billable, name, in_force))
        for name, quantity in amounts
        if quantity and (price := in_force.usage_prices.get(name)) is not None
    ]
    missing = [use.counter for use in priced if use.counter not in workspace.counters]
    if missing:
        for key in missing:
            workspace.want_counter(key)
        raise MoreNeeded
    for use in priced:
        _require_chargeable(workspace, use)
    return priced


def _require_chargeable(workspace: Workspace, use: PricedUse) -> None:
    """Refuse use whose price no amount of money can hold."""
    before = workspace.counter(use.counter).used
    if abs(use.price.charge(before, before + use.quantity)) > _CHARGE_MAX:
        quantity = from_millionths(use.quantity)
        raise InvalidInput("quantity", quantity, f"Its price for {use.resource_type} is beyond ±9.2 billion.")


def charge_priced_use(workspace: Workspace, facts: UsageFacts, in_force: InForce, priced: list[PricedUse]) -> None:
    """Count what was used, and write down what it costs; also where it costs nothing, so that a month can be told."""
    month_start, month_end = in_force.usage_month
    for use in priced:
        counter = workspace.counter(use.counter)
        before = counter.used
        counter.used += use.quantity
        workspace.usage_charges.append(
            (
                new_id("uch"),
                facts.billable,
                facts.event_id,
                in_force.subscription_id,
                in_force.plan_version_id,
                use.resource_type,
                use.quantity,
                use.price.charge(before, counter.used),
                in_force.currency,
                month_start,
                month_end,
                facts.occurred_at,
                facts.recorded_at,
            )
        )


def _counter(billable: str, resource_type: str, in_force: InForce) -> CounterKey:
    return CounterKey(billable, PRICED + resource_type, "", PRICED_PERIOD, in_force.usage_month[0])
