"""`tallystick migrate-plan`: moving subscriptions to another plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.ending import NO
from tallystick.cli.figures import amount, counts
from tallystick.cli.instants import zone_named
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, error_console, print_json, table
from tallystick.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["migrate_plan"]

_SHOWN_MAX = 50


def migrate_plan(
    names: Annotated[
        list[str],
        typer.Argument(metavar="[BILLABLE]... PLAN", help="Whom to move, such as user:1; and the plan's slug, last."),
    ],
    from_plan: Annotated[
        str | None, typer.Option(metavar="PLAN", help="Only those who follow this plan; with --all: all of them.")
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Everybody who follows --from-plan, instead of named ones.")
    ] = False,
    at_period_end: Annotated[
        bool, typer.Option("--at-period-end", help="Each at the end of its running period; otherwise now.")
    ] = False,
    prorate: Annotated[
        bool,
        typer.Option("--prorate/--no-prorate", help="Settle the rest of each paid period on the next invoice."),
    ] = True,
    version: Annotated[
        int | None, typer.Option(min=1, help="That version of the plan; otherwise the one that is sold.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and charged.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it is carried out.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Move subscriptions to a plan, each on its own: one that cannot be moved is reported, and the others go on.

    It shows what would be credited and charged, and asks where --all is meant. Exit code 1: some could not be moved.

    Example: tallystick migrate-plan user:1 pro --from-plan basic

    Example: tallystick migrate-plan --all --from-plan basic pro --at-period-end --dry-run
    """
    *billables, plan = names
    _require_one_way(billables, plan, from_plan, everybody=everybody)
    options: dict[str, Any] = {
        "from_plan": from_plan,
        "version": version,
        "prorate": prorate,
        "at_period_end": at_period_end,
    }
    with open_existing(database, config) as ts:
        whom = None if everybody else billables
        zone = ts.settings.period.timezone
        moved = ts.subscriptions.migrate(plan, whom, dry_run=True, **options)
        if not dry_run and any(one.error is None for one in moved):
            if everybody and not yes:
                _show(error_console() if as_json else console(), moved, zone)
                typer.confirm("Carry this out?", abort=True, err=True)
            moved = ts.subscriptions.migrate(plan, whom, **options)
    failed = sum(one.error is not None for one in moved)
    if as_json:
        print_json({"subscriptions": [_as_json(one) for one in moved], "dry_run": dry_run})
    else:
        _show(console(), moved, zone)
        done = len(moved) - failed
        verb = "would be" if dry_run else "was" if done == 1 else "were"
        console().print(f"{counts(done, 'subscription')} {verb} moved to {plan}; {failed:,} could not be.")
        if dry_run:
            console().print("A dry run: nothing was changed.")
    return NO if failed else 0


def _require_one_way(billables: Sequence[str], plan: str, from_plan: str | None, *, everybody: bool) -> None:
    if everybody and billables:
        raise InvalidInput("all", billables[0], "Name whom to move, or give --all with --from-plan.")
    if everybody and from_plan is None:
        raise InvalidInput("from_plan", None, "--all moves everybody who follows --from-plan: name that plan.")
    if not everybody and not billables:
        raise InvalidInput("billable", plan, "Name whom to move before the plan, or give --all with --from-plan.")


def _as_json(one: Any) -> dict[str, object]:
    return {
        "billable": one.billable,
        "subscription_id": one.subscription_id,
        "from": None if one.from_plan is None else {"slug": one.from_plan, "version": one.from_version},
        "to": {"slug": one.to_plan, "version": one.to_version},
        "effective_at": one.effective_at,
        "credit": one.credit,
        "charge": one.charge,
        "applied": one.applied,
        "error": None if one.error is None else one.error.data(),
    }


def _show(out: Console, moved: Sequence[Any], zone: str) -> None:
    if not moved:
        return
    shown = table("Of", "From", "When", "Credit", "Charge", right=("Credit", "Charge"))
    for one in moved[:_SHOWN_MAX]:
        if one.error is not None:
            continue
        before = f"{one.from_plan}, version {one.from_version}"
        when = "" if one.effective_at is None else f"{one.effective_at.astimezone(zone_named(zone)):%Y-%m-%d}"
        shown.add_row(one.billable, before, when, amount(one.credit), amount(one.charge))
    if shown.row_count:
        out.print(shown)
    if len(moved) > _SHOWN_MAX:
        out.print(f"… and {len(moved) - _SHOWN_MAX:,} more; --json lists all.")
    for one in moved:
        if one.error is not None:
            out.print(f"{one.billable} cannot be moved: {one.error}", soft_wrap=True)
