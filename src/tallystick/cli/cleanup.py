"""`tallystick cleanup`: removing old events while every sum stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import counts
from tallystick.cli.options import AsJson, Config, Database, open_existing, the_same
from tallystick.cli.output import console, print_json
from tallystick.cli.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["cleanup"]


def cleanup(
    days: Annotated[
        int | None, typer.Option(min=1, help="How many days are kept; otherwise storage.prune_after_days, 90.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Events removed in one transaction.")] = 500,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remove old events, in small batches, also while applications run.

    Reports, limits, quotas, overages, credits and the ledger stay whole, and tallystick doctor proves them as before.
    Events without a price stay until they have one. What is removed cannot be explained or repriced any more.
    """
    with open_existing(database, config) as ts, progress_bar("Removing events", as_json=as_json) as progress:
        removed = ts.usage.cleanup(days, dry_run=dry_run, batch_size=batch_size, progress=progress)
        same = the_same(ts.settings, database, config)
    if as_json:
        print_json(removed.to_dict())
    else:
        _show(console(), removed, same)


def _show(out: Console, removed: Any, same: str) -> None:
    before = f"{removed.before:%Y-%m-%d}"
    if not (removed.events or removed.holds or removed.refusals):
        out.print(f"Nothing is older than {before}.")
    else:
        would = "would be" if removed.dry_run else "were"
        what = counts(removed.events, "event")
        out.print(f"{what} of {counts(removed.billables, 'billable')} from before {before} {would} removed.")
        if removed.holds:
            out.print(f"With them {counts(removed.holds, 'hold')} that ended without use.")
        if removed.refusals:
            out.print(f"With them {counts(removed.refusals, 'refusal')} that shadow mode had noted.")
    if removed.unpriced:
        kept = counts(removed.unpriced, "event")
        out.print(f"Kept until there is a price: {kept}. Set the price, and run tallystick reprice.")
    if removed.dry_run:
        out.print(f"A dry run: nothing was removed. To do it: tallystick cleanup{same}", soft_wrap=True)
