"""`tallystick subscriptions`: who follows which plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json
from tallystick.cli.plans import features_in_words, plan_as_json
from tallystick.errors import NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["Who", "subscriptions"]

subscriptions = typer.Typer(name="subscriptions", help="Subscriptions: create, show, cancel.")

Who = Annotated[str, typer.Argument(metavar="BILLABLE", help="Who pays and is limited, such as user:1 or tenant:acme.")]


@subscriptions.command("create")
def create_subscription(
    billable: Who,
    plan: Annotated[str, typer.Argument(help="The plan's slug.")],
    started_at: Annotated[str | None, typer.Option(metavar="TIME", help="When it begins; otherwise now.")] = None,
    trial_ends_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When the trial ends; otherwise after the plan's trial days.")
    ] = None,
    billing_mode: Annotated[
        Literal["plan", "credits"],
        typer.Option(help="Count use against the plan's limits, or take it from the wallet."),
    ] = "plan",
    pending: Annotated[bool, typer.Option("--pending", help="Not in force until it is activated.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Subscribe a billable to the newest version of a plan. Its limits hold at once."""
    with open_any(database, config) as ts:
        zone = zone_named(ts.settings.period.timezone)
        created = ts.subscriptions.create(
            billable,
            plan,
            billing_mode=billing_mode,
            started_at=None if started_at is None else instant(started_at, zone, field="started_at"),
            trial_ends_at=None if trial_ends_at is None else instant(trial_ends_at, zone, field="trial_ends_at"),
            pending=pending,
        )
        _answer(ts, created, as_json=as_json)


@subscriptions.command("show")
def show_subscription(billable: Who, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show the subscription of a billable: the one in force, else the one made last."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            found = ts.subscriptions.get(billable)
        _answer(ts, found, as_json=as_json)


@subscriptions.command("cancel")
def cancel_subscription(
    billable: Who,
    immediately: Annotated[
        bool, typer.Option("--immediately", help="End it now; otherwise at the end of the running period.")
    ] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Cancel the subscription of a billable. Its use goes on being counted, without a limit."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            cancelled = ts.subscriptions.cancel(billable, immediately=immediately)
        _answer(ts, cancelled, as_json=as_json)


@contextmanager
def _saying_how_to_subscribe() -> Iterator[None]:
    """Give an error its remedy in the words of the command line."""
    try:
        yield
    except NotFound as error:
        remedy = f"Create one: tallystick subscriptions create {error.reference} PLAN"
        raise NotFound(error.kind, error.reference, remedy) from None


def _answer(ts: Tallystick, subscription: Any, *, as_json: bool) -> None:
    status = str(ts.subscriptions.status(subscription.billable))
    if as_json:
        print_json(_as_json(subscription, status))
    else:
        _show(console(), subscription, status, ts.settings.period.timezone)


def _as_json(subscription: Any, status: str) -> dict[str, object]:
    return {
        "id": subscription.id,
        "billable": subscription.billable,
        "status": status,
        "plan": plan_as_json(subscription.plan),
        "billing_mode": str(subscription.billing_mode),
        "started_at": subscription.started_at,
        "trial_ends_at": subscription.trial_ends_at,
        "cancelled_at": subscription.cancelled_at,
        "ends_at": subscription.ends_at,
        "payment_failed_at": subscription.payment_failed_at,
    }


def _show(out: Console, subscription: Any, status: str, zone: str) -> None:
    plan = subscription.plan
    paid = ", paid from credits" if subscription.billing_mode == "credits" else ""
    out.print(f"{subscription.billable}: {plan.slug}, version {plan.version}, {status}{paid}", style="bold")
    dates = {
        "started": subscription.started_at,
        "trial ends": subscription.trial_ends_at,
        "cancelled": subscription.cancelled_at,
        "ends": subscription.ends_at,
        "payment failed": subscription.payment_failed_at,
    }
    for name, at in dates.items():
        if at is not None:
            out.print(f"  {name:<15} {at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M} {zone}")
    for number, feature in enumerate(features_in_words(plan)):
        out.print(f"  {'' if number else 'features':<15} {feature}")
