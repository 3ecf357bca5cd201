"""`tallystick generate-invoices`: billing what is due now, instead of waiting for the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import counts
from tallystick.cli.invoice_view import print_invoices, sums
from tallystick.cli.options import AsJson, Config, Database, open_existing, the_same
from tallystick.cli.output import console, print_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["generate_invoices"]


def generate_invoices(
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="What is due by the end of that month; otherwise by now.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="PAYER", help="Only this tenant, or any billable such as user:1.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which invoices would be made.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make the invoices that are due, as the worker does. What was missed before comes first, in order.

    Each billing period is invoiced once, however often this runs, and whoever runs it.

    Example: tallystick generate-invoices --month 2026-01 --dry-run
    """
    with open_existing(database, config) as ts:
        made = ts.invoices.generate(month, tenant, dry_run=dry_run)
        same = the_same(ts.settings, database, config)
    if as_json:
        print_json(
            {
                "invoices": [one.to_dict() for one in made],
                "renewals": made.renewals,
                "expirations": made.expirations,
                "dry_run": made.dry_run,
            }
        )
    else:
        _show(console(), made, same)


def _show(out: Console, made: Any, same: str) -> None:
    if not made.invoices:
        out.print("No invoice is due.")
    else:
        print_invoices(out, made.invoices)
        verb = "would be" if made.dry_run else "was" if len(made.invoices) == 1 else "were"
        out.print(f"{counts(len(made.invoices), 'invoice')} {verb} made, of {sums(made.invoices)}.")
    life = ((made.renewals, "renewed"), (made.expirations, "found expired"))
    for number, what in life:
        if number:
            verb = "would be" if made.dry_run else "was" if number == 1 else "were"
            out.print(f"{counts(number, 'subscription')} {verb} {what}.")
    if made.dry_run and made.invoices:
        out.print(
            f"A dry run: nothing was changed. To do it: tallystick generate-invoices{same}",
            soft_wrap=True,
        )
