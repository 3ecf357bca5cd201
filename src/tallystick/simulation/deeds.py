"""What customers do, carried out on the engine as an application would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tallystick import Tallystick
from tallystick.simulation.players import Deed, Player
from tallystick.simulation.scenario import Scenario

__all__ = ["carry_out"]


def carry_out(ts: Tallystick, scenario: Scenario, player: Player, deed: Deed) -> None:
    """Do what a customer does now.

    Raises:
        TallystickError: it cannot be done as things stand.
    """
    if deed.do == "start":
        _start(ts, scenario, player, deed)
    else:
        _DEEDS[deed.do](ts, player, deed.arguments)


def _start(ts: Tallystick, scenario: Scenario, player: Player, deed: Deed) -> None:
    group, billable = player.group, player.billable
    if billable.startswith("tenant:"):
        slug = billable.removeprefix("tenant:")
        ts.tenants.create(
            slug, slug, timezone=group.timezone, currency=group.currency, locale=group.billing.get("locale")
        )
    if group.billing:
        ts.invoices.set_billing_details(billable, **group.billing)
    if group.wallet is not None:
        ts.wallets.get_or_create(billable, group.wallet.currency).add_credits(group.wallet, "top-up")
    trial_ends_at = scenario.after_days(deed.at, group.trial_days) if group.trial_days else None
    ts.subscriptions.create(
        billable, group.plan, billing_mode=group.billing_mode, trial_ends_at=trial_ends_at, coupon=group.coupon
    )
    player.has_started = True


def _subscribe(ts: Tallystick, player: Player, stated: Mapping[str, Any]) -> None:
    ts.subscriptions.create(
        player.billable, stated["plan"], billing_mode=player.group.billing_mode, coupon=stated.get("coupon")
    )


def _use(ts: Tallystick, player: Player, stated: Mapping[str, Any]) -> None:
    ts.usage.log(player.billable, stated["resource"], stated["quantity"])


def _add_credits(ts: Tallystick, player: Player, stated: Mapping[str, Any]) -> None:
    ts.wallets.get_or_create(player.billable, stated["amount"].currency).add_credits(stated["amount"], "top-up")


_DEEDS: Mapping[str, Callable[[Tallystick, Player, Mapping[str, Any]], object]] = MappingProxyType(
    {
        "change_plan": lambda ts, player, stated: ts.subscriptions.change_plan(player.billable, **stated),
        "cancel": lambda ts, player, stated: ts.subscriptions.cancel(player.billable, **stated),
        "resume": lambda ts, player, _: ts.subscriptions.resume(player.billable),
        "pause": lambda ts, player, stated: ts.subscriptions.pause(player.billable, **stated),
        "renew": lambda ts, player, _: ts.subscriptions.renew(player.billable),
        "payment_failed": lambda ts, player, _: ts.subscriptions.payment_failed(player.billable),
        "payment_succeeded": lambda ts, player, _: ts.subscriptions.payment_succeeded(player.billable),
        "redeem": lambda ts, player, stated: ts.coupons.redeem(player.billable, stated["coupon"]),
        "subscribe": _subscribe,
        "use": _use,
        "add_credits": _add_credits,
    }
)
