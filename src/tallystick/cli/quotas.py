"""`tallystick quotas`: limits on what a tenant uses in a period, as an operator sets and watches them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import amount, bar, count, percentage
from tallystick.cli.instants import zone_named
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.plans import money
from tallystick.money import Money

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["Feature", "Key", "Tenant", "User", "fields_of", "part_of", "quantity_in", "quotas", "quotas_of_everyone"]

quotas = typer.Typer(name="quotas", help="Quotas: set, watch and check what a tenant may use in a period.")

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant, such as acme, or any billable: user:1.")]
ResourceType = Annotated[
    str,
    typer.Argument(metavar="RESOURCE", help="What is used: message, embedding, …; tokens, requests or cost of calls."),
]
Period = Annotated[str, typer.Argument(metavar="PERIOD", help="hourly, daily, weekly, monthly, yearly or total.")]
User = Annotated[str | None, typer.Option(metavar="USER", help='Only of this user; "*" is each user on their own.')]
Feature = Annotated[str | None, typer.Option(help="Only of this feature.")]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="Only with this API key.")]

_BAR_WIDTH = 20


@quotas.command("set")
def set_quota(
    tenant: Tenant,
    resource_type: ResourceType,
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help='How many; of cost, such as "100 USD".')],
    period: Period,
    soft: Annotated[bool, typer.Option("--soft", help="Only warn; without it, what does not fit is refused.")] = False,
    threshold: Annotated[
        list[int] | None,
        typer.Option(metavar="PERCENT", help="Warn there; may be given several times. Else as quotas.thresholds says."),
    ] = None,
    sliding: Annotated[
        bool, typer.Option("--sliding", help="The last hour, day or week at any moment, not that of the calendar.")
    ] = False,
    user: User = None,
    feature: Feature = None,
    key: Key = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Set a quota, or change the one there is. It holds at once, in every process, also for what was used already."""
    with open_any(database, config) as ts:
        quota = ts.quotas.set(
            tenant,
            resource_type,
            quantity_in(ts, resource_type, limit),
            period,
            is_hard_limit=not soft,
            thresholds=threshold or None,
            user=user,
            feature=feature,
            key=key,
            sliding=sliding,
        )
    if as_json:
        print_json(fields_of(quota))
    else:
        console().print(f"{quota.billable}: {_described(quota)} ({quota.id})")


@quotas.command("list")
def list_quotas(tenant: Tenant, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the quotas of a tenant, with their ids."""
    with open_existing(database, config) as ts:
        found = ts.quotas.list(tenant)
    if as_json:
        print_json({"quotas": [fields_of(quota) for quota in found]})
        return
    if not found:
        console().print("There are no quotas.")
        return
    shown = table("id", "resource", "period", "of", "limit", "kind", "warns at", right=("limit",))
    for quota in found:
        warns = ", ".join(f"{threshold}%" for threshold in quota.thresholds)
        kind = "hard" if quota.is_hard_limit else "soft"
        period = quota.period.replace("_", " ")
        shown.add_row(quota.id, quota.resource_type, period, part_of(quota), _written(quota.limit), kind, warns or "-")
    console().print(shown)


@quotas.command("status")
def show_status(tenant: Tenant, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show how all quotas of a tenant stand in the periods that are running."""
    with open_existing(database, config) as ts:
        found = ts.quotas.status(tenant)
        zone = ts.settings.period.timezone
    if as_json:
        print_json({"tenant": tenant, "quotas": [_status_as_json(status) for status in found]})
        return
    quotas_of_everyone(console(), found, zone)


@quotas.command("check")
def check_quota(
    tenant: Tenant,
    resource_type: ResourceType,
    period: Annotated[str | None, typer.Argument(metavar="[PERIOD]", help="Only quotas of this period.")] = None,
    quantity: Annotated[str, typer.Option(metavar="NUMBER", help="How much more; of cost, such as 0.05.")] = "1",
    user: Annotated[str | None, typer.Option(metavar="USER", help="Used by this user.")] = None,
    feature: Annotated[str | None, typer.Option(help="Used in this feature.")] = None,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="Used with this API key.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say whether so much more would be admitted now. Nothing is recorded; the exit code is 1 where it would not."""
    with open_existing(database, config) as ts:
        asked = quantity_in(ts, resource_type, quantity)
        check = ts.quotas.check(tenant, resource_type, period, asked, user=user, feature=feature, key=key)
        zone = ts.settings.period.timezone
    if as_json:
        print_json(fields_of(check))
    elif not check.has_quota:
        console().print(check.reason or f"No quota limits {resource_type} of {check.billable}.")
    else:
        out = console()
        _print_line(out, f"{check.period} {resource_type}", check, zone, 0)
        if check.reason is not None:
            out.print(f"  {check.reason}", style="bold red")
    if not check.allowed:
        raise typer.Exit(1)


@quotas.command("delete")
def delete_quota(
    quota_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, as tallystick quotas list shows it.")],
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take a quota away. It limits nothing from now on."""
    with open_existing(database, config) as ts:
        quota = ts.quotas.get(quota_id)
        ts.quotas.delete(quota_id)
    if as_json:
        print_json({"deleted": fields_of(quota)})
    else:
        console().print(f"{quota.billable}: took away {_described(quota)}")


def quantity_in(ts: Tallystick, resource_type: str, stated: str) -> str | Money:
    """Return an amount as a command line states it: of cost, money in the currency that it names, or the account's."""
    if resource_type != "cost" or " " not in stated.strip():
        return stated
    return money(stated, ts.settings.billing.currency, field="limit") or stated


def part_of(limit: Any) -> str:
    """Say whose part of the use a limit is for."""
    if limit.user == "user:*":
        return "each user"
    if limit.user is not None:
        return str(limit.user)
    if limit.feature is not None:
        return f"feature {limit.feature}"
    return "all" if limit.key is None else f"key {limit.key}"


def quotas_of_everyone(out: Console, found: list[Any], zone: str) -> None:
    """Print a line for each quota: how full it is, and until when."""
    if not found:
        out.print("There are no quotas.")
        return
    names = [_name(status) for status in found]
    width = max(map(len, names))
    for name, status in zip(names, found, strict=True):
        _print_line(out, name, status, zone, width)


def _name(status: Any) -> str:
    part = part_of(status.quota)
    if status.fullest_user is not None:
        part = f"{part}, most {status.fullest_user}"
    of = "" if part == "all" else f" ({part})"
    return f"{status.resource_type} {status.period.replace('_', ' ')}{of}"


def _print_line(out: Console, name: str, standing: Any, zone: str, width: int) -> None:
    from rich.text import Text

    used, whole = (getattr(value, "nanos", value) for value in (standing.current, standing.limit))
    part, full = int(used * 10**6), int(whole * 10**6)
    style = "bold red" if part >= full else "yellow" if part * 100 >= full * 80 else "green"
    drawn = bar(part, full, width=_BAR_WIDTH).ljust(_BAR_WIDTH, "░")
    share = percentage(part, full) if full else "full"
    text = f" {share:>4}  {_written(standing.current)} of {_written(standing.limit)}"
    if getattr(standing.held, "nanos", standing.held):
        text += f", {_written(standing.held)} held by calls in flight"
    if standing.resets_at is not None:
        text += f", until {standing.resets_at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M} {zone}"
    out.print(Text.assemble(f"{name.replace('_', ' '):<{width}}  ", (drawn, style), text))


def _written(value: Any) -> str:
    return amount(value) if isinstance(value, Money) else count(value)


def _described(quota: Any) -> str:
    kind = "at most" if quota.is_hard_limit else "a warning past"
    part = part_of(quota)
    of = "" if part == "all" else f" of {part}"
    return f"{kind} {_written(quota.limit)} {quota.resource_type}{of}, {quota.period.replace('_', ' ')}"


def fields_of(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass, each as it is."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _status_as_json(status: Any) -> dict[str, object]:
    return {
        **fields_of(status.quota),
        "current": status.current,
        "held": status.held,
        "remaining": status.remaining,
        "percentage": status.percentage,
        "allowed": status.allowed,
        "resets_at": status.resets_at,
        "fullest_user": status.fullest_user,
    }
