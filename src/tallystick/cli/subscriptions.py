"""`tallystick subscriptions`: who follows which plan, from when until when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.account_zone import account_zone
from tallystick.cli.figures import amount
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.plans import features_in_words, plan_as_json
from tallystick.errors import NotFound

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["Who", "subscriptions"]

subscriptions = typer.Typer(
    name="subscriptions",
    help="Subscriptions: create, list, show, change-plan, cancel, resume, pause, renew, activate, and payments.",
)

Who = Annotated[str, typer.Argument(metavar="BILLABLE", help="Who pays and is limited, such as user:1 or tenant:acme.")]
Which = Annotated[
    str, typer.Argument(metavar="BILLABLE", help="Who has it, such as user:1; or the subscription's own id, sub_….")
]
Version = Annotated[int | None, typer.Option(min=1, help="That version of the plan; otherwise the one that is sold.")]
At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="When it happened; otherwise now.")]


@subscriptions.command("create")
def create_subscription(
    billable: Who,
    plan: Annotated[str, typer.Argument(help="The plan's slug.")],
    started_at: Annotated[str | None, typer.Option(metavar="TIME", help="When it begins; otherwise now.")] = None,
    trial_ends_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When the trial ends; otherwise after the plan's trial days.")
    ] = None,
    ends_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends; otherwise it renews itself.")
    ] = None,
    auto_renew: Annotated[
        bool, typer.Option("--auto-renew/--no-auto-renew", help="Renew it by itself, or let it end with its period.")
    ] = True,
    billing_mode: Annotated[
        Literal["plan", "credits"],
        typer.Option(help="Count use against the plan's limits, or take it from the wallet."),
    ] = "plan",
    pending: Annotated[
        bool, typer.Option("--pending", help="Not in force until its first invoice is paid, or it is activated.")
    ] = False,
    version: Version = None,
    billed_until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Fees of periods that began before were billed elsewhere.")
    ] = None,
    coupon: Annotated[str | None, typer.Option(metavar="CODE", help="Redeem this coupon for it.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Subscribe a billable to a plan. Its limits hold at once.

    Example: tallystick subscriptions create user:1 pro --trial-ends-at 2026-02-15
    """
    with open_any(database, config) as ts:
        zone = account_zone(ts, billable)
        created = ts.subscriptions.create(
            billable,
            plan,
            billing_mode=billing_mode,
            started_at=_instant(started_at, zone, "started_at"),
            trial_ends_at=_instant(trial_ends_at, zone, "trial_ends_at"),
            ends_at=_instant(ends_at, zone, "ends_at"),
            pending=pending,
            version=version,
            auto_renew=auto_renew,
            billed_until=_instant(billed_until, zone, "billed_until"),
            coupon=coupon,
        )
        _answer(ts, created, as_json=as_json)


@subscriptions.command("list")
def list_subscriptions(
    billable: Who, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """List every subscription that a billable has had, the newest first."""
    with open_existing(database, config) as ts:
        found = [(one, str(ts.subscriptions.status(one.id))) for one in ts.subscriptions.list(billable)]
        zone = account_zone(ts, billable)
    if as_json:
        print_json({"subscriptions": [_as_json(one, status) for one, status in found]})
        return
    out = console()
    if not found:
        out.print(f"{billable} has had no subscription. Create one: tallystick subscriptions create {billable} PLAN")
        return
    shown = table("Plan", "Status", "Started", "Ends", "Subscription")
    for one, status in found:
        plan = f"{one.plan.slug}, version {one.plan.version}"
        shown.add_row(plan, _words(status), _day(one.started_at, zone), _day(one.ends_at, zone), one.id)
    out.print(shown)


@subscriptions.command("show")
def show_subscription(
    billable: Which, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Show a subscription: the one in force, else the one made last."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            found = ts.subscriptions.get(billable)
        _answer(ts, found, as_json=as_json)


@subscriptions.command("change-plan")
def change_plan(
    billable: Which,
    plan: Annotated[str, typer.Argument(help="The slug of the plan to move to.")],
    at_period_end: Annotated[
        bool, typer.Option("--at-period-end", help="At the end of the running period; otherwise now.")
    ] = False,
    prorate: Annotated[
        bool, typer.Option("--prorate/--no-prorate", help="Settle the rest of the paid period on the next invoice.")
    ] = True,
    version: Version = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would credit and charge.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Move a subscription to another plan, or to another version of its plan.

    Example: tallystick subscriptions change-plan user:1 team --dry-run
    """
    with open_existing(database, config) as ts:
        options: dict[str, Any] = {"prorate": prorate, "at_period_end": at_period_end, "version": version}
        with _saying_how_to_subscribe():
            expected = ts.subscriptions.preview_change(billable, plan, **options)
            changed = None if dry_run else ts.subscriptions.change_plan(billable, plan, **options)
        if as_json:
            after = {} if changed is None else _as_json(changed, str(ts.subscriptions.status(changed.id)))
            print_json({**after, "change": _change_as_json(expected), "dry_run": dry_run})
            return
        out, zone = console(), account_zone(ts, expected.billable)
        would = "would be" if dry_run else "are"
        moves = f"{expected.billable} {'would move' if dry_run else 'moves'} from {_version(expected.previous_plan)}"
        out.print(f"{moves} to {_version(expected.plan)}: {_minute(expected.effective_at, zone)}.")
        if expected.credit or expected.charge:
            out.print(f"{amount(expected.credit)} {would} credited, {amount(expected.charge)} {would} charged.")
        if dry_run:
            out.print("A dry run: nothing was changed.")


@subscriptions.command("cancel")
def cancel_subscription(
    billable: Which,
    immediately: Annotated[
        bool, typer.Option("--immediately", help="End it now; otherwise at the end of the running period.")
    ] = False,
    prorate: Annotated[
        bool, typer.Option("--prorate", help="Credit what is left of the paid period on the next invoice.")
    ] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a subscription. The billable's use goes on being counted, without a limit."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            cancelled = ts.subscriptions.cancel(billable, immediately=immediately, prorate=prorate)
        _answer(ts, cancelled, as_json=as_json)


@subscriptions.command("resume")
def resume_subscription(
    billable: Which, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Let a paused subscription go on, or take a cancellation back before its end."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            resumed = ts.subscriptions.resume(billable)
        _answer(ts, resumed, as_json=as_json)


@subscriptions.command("pause")
def pause_subscription(
    billable: Which,
    prorate: Annotated[
        bool,
        typer.Option("--prorate/--no-prorate", help="Credit what is left of the paid period on the next invoice."),
    ] = True,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Suspend a subscription: no fees, and its calls are refused until it is resumed."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            paused = ts.subscriptions.pause(billable, prorate=prorate)
        _answer(ts, paused, as_json=as_json)


@subscriptions.command("renew")
def renew_subscription(
    billable: Which, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Prolong a subscription that ends, or has expired, by one period. One without an end renews by itself."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            renewed = ts.subscriptions.renew(billable)
        _answer(ts, renewed, as_json=as_json)


@subscriptions.command("activate")
def activate_subscription(
    billable: Which, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Put a pending subscription in force now, without waiting for its first payment."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            activated = ts.subscriptions.activate(billable)
        _answer(ts, activated, as_json=as_json)


@subscriptions.command("payment-failed")
def payment_failed(
    billable: Which, at: At = None, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Start the grace period: the subscription stays in force for some days, then it expires."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            failed = ts.subscriptions.payment_failed(billable, _instant(at, account_zone(ts, billable), "at"))
        _answer(ts, failed, as_json=as_json)


@subscriptions.command("payment-succeeded")
def payment_succeeded(
    billable: Which, database: Database = None, config: Config = None, as_json: AsJson = False
) -> None:
    """End the grace period. A subscription that had expired by it is in force again from now on."""
    with open_existing(database, config) as ts:
        with _saying_how_to_subscribe():
            paid = ts.subscriptions.payment_succeeded(billable)
        _answer(ts, paid, as_json=as_json)


# -- answers ----------------------------------------------------------------------------------------------------------


@contextmanager
def _saying_how_to_subscribe() -> Iterator[None]:
    """Give an error its remedy in the words of the command line."""
    try:
        yield
    except NotFound as error:
        if error.kind != "subscription" or ":" not in error.reference:
            raise
        remedy = f"Create one: tallystick subscriptions create {error.reference} PLAN"
        raise NotFound(error.kind, error.reference, remedy) from None


def _answer(ts: Tallystick, subscription: Any, *, as_json: bool) -> None:
    status = str(ts.subscriptions.status(subscription.id))
    if as_json:
        print_json(_as_json(subscription, status))
    else:
        zone = account_zone(ts, subscription.billable)
        _show(console(), subscription, status, zone, now=ts.clock.now())


def _as_json(subscription: Any, status: str) -> dict[str, object]:
    previous = subscription.previous_plan
    return {
        "id": subscription.id,
        "billable": subscription.billable,
        "status": status,
        "plan": plan_as_json(subscription.plan),
        "previous_plan": None if previous is None else {"slug": previous.slug, "version": previous.version},
        "billing_mode": str(subscription.billing_mode),
        "started_at": subscription.started_at,
        "trial_ends_at": subscription.trial_ends_at,
        "cancelled_at": subscription.cancelled_at,
        "ends_at": subscription.ends_at,
        "payment_failed_at": subscription.payment_failed_at,
        "billed_until": subscription.billed_until,
        "activation_invoice_id": subscription.activation_invoice_id,
        "changes": [
            {
                "kind": str(one.kind),
                "starts_at": one.starts_at,
                "plan": None if one.plan is None else {"slug": one.plan.slug, "version": one.plan.version},
            }
            for one in subscription.changes
        ],
        "metadata": dict(subscription.metadata),
    }


def _change_as_json(change: Any) -> dict[str, object]:
    return {
        "from": {"slug": change.previous_plan.slug, "version": change.previous_plan.version},
        "to": {"slug": change.plan.slug, "version": change.plan.version},
        "effective_at": change.effective_at,
        "credit": change.credit,
        "charge": change.charge,
    }


def _show(out: Console, subscription: Any, status: str, zone: str, *, now: datetime) -> None:
    plan = subscription.plan
    paid = ", paid from credits" if subscription.billing_mode == "credits" else ""
    out.print(f"{subscription.billable}: {plan.slug}, version {plan.version}, {_words(status)}{paid}", style="bold")
    dates = {
        "started": subscription.started_at,
        "trial ends": subscription.trial_ends_at,
        "cancelled": subscription.cancelled_at,
        "ends": subscription.ends_at,
        "payment failed": subscription.payment_failed_at,
    }
    for name, at in dates.items():
        if at is not None:
            out.print(f"  {name:<15} {_minute(at, zone)}")
    if subscription.activation_invoice_id is not None and subscription.is_pending:
        out.print(f"  {'waits for':<15} {subscription.activation_invoice_id} to be paid")
    for one in subscription.changes:
        verb = "since" if one.starts_at <= now else "from"
        what = str(one.kind) if one.plan is None else _version(one.plan)
        out.print(f"  {verb:<15} {_minute(one.starts_at, zone)}: {what}")
    for number, feature in enumerate(features_in_words(plan)):
        out.print(f"  {'' if number else 'features':<15} {feature}")
    out.print(f"  {'id':<15} {subscription.id}")


def _words(status: str) -> str:
    return status.replace("_", " ")


def _version(plan: Any) -> str:
    return f"{plan.slug} version {plan.version}"


def _minute(at: datetime, zone: str) -> str:
    return f"{at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M} {zone}"


def _day(at: datetime | None, zone: str) -> str:
    return "" if at is None else f"{at.astimezone(zone_named(zone)):%Y-%m-%d}"


def _instant(text: str | None, zone: str, field: str) -> datetime | None:
    return None if text is None else instant(text, zone_named(zone), field=field)
