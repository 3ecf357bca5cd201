"""`tallystick limits`: how a billable stands to its limits, and overrides of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tallystick.cli.figures import amount, count
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, print_json
from tallystick.cli.plans import money
from tallystick.cli.standing import print_standing, standing_as_json
from tallystick.cli.subscriptions import Who

__all__ = ["limits"]

limits = typer.Typer(name="limits", help="Limits: show how a billable stands, override them.")


@limits.command("show")
def show_limits(billable: Who, database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show what a billable has used of its limits in the period that is running, and the overrides of them."""
    with open_existing(database, config) as ts:
        check = ts.limits.check(billable)
        overrides = ts.limits.overrides(billable)
        zone = ts.settings.period.timezone
    if as_json:
        print_json({**standing_as_json(check), "overrides": [_override_as_json(one) for one in overrides]})
        return
    out = console()
    out.print(check.billable, style="bold")
    if check.plan is None and check.token_limit is None and check.cost_limit is None:
        out.print("  No plan and no override: use is counted and not limited.")
    print_standing(out, check, zone)
    if overrides:
        out.print()
        out.print("Overrides", style="bold")
    for override in overrides:
        out.print(f"  {_described(override, zone)}")


@limits.command("override")
def override_limits(
    billable: Who,
    token_limit: Annotated[int | None, typer.Option(min=0, help="Tokens per period in place of the plan's.")] = None,
    cost_limit: Annotated[
        str | None, typer.Option(metavar="MONEY", help='Cost per period in place of the plan\'s, such as "100 USD".')
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="From when; otherwise from now.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Until just before when; otherwise for ever.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Replace the limits of a billable for some time. It takes effect at once, in every process."""
    with open_any(database, config) as ts:
        zone = zone_named(ts.settings.period.timezone)
        override = ts.limits.override(
            billable,
            start=None if start is None else instant(start, zone, field="start"),
            end=None if end is None else instant(end, zone, field="end"),
            token_limit=token_limit,
            cost_limit=money(cost_limit, ts.settings.billing.currency, field="cost_limit"),
            reason=reason,
        )
    if as_json:
        print_json(_override_as_json(override))
    else:
        console().print(f"{override.billable}: {_described(override, zone.key)}")


def _override_as_json(override: Any) -> dict[str, object]:
    return {
        "id": override.id,
        "billable": override.billable,
        "start": override.start,
        "end": override.end,
        "token_limit": override.token_limit,
        "cost_limit": override.cost_limit,
        "reason": override.reason,
    }


def _described(override: Any, zone: str) -> str:
    limits_given = [
        *([] if override.token_limit is None else [f"{count(override.token_limit)} tokens"]),
        *([] if override.cost_limit is None else [amount(override.cost_limit)]),
    ]
    start, end = (
        None if at is None else f"{at.astimezone(zone_named(zone)):%Y-%m-%d %H:%M}"
        for at in (override.start, override.end)
    )
    reason = f" ({override.reason})" if override.reason else ""
    until = f" until {end} {zone}" if end else f" {zone}, without end"
    return f"{' and '.join(limits_given)} per period, from {start}{until}{reason}"
