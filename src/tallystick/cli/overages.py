"""`tallystick sync-overages`: handing overage to the billing driver."""

from __future__ import annotations

from typing import Annotated

import typer

from tallystick.cli.ending import NO
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json, table

__all__ = ["sync_overages"]


def sync_overages(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Have the billing driver charge overage that nobody has charged yet; what failed before is tried again.

    What is on an invoice is not sent. With billing.driver null nothing is: invoices charge overage. Exit code 1: some
    could not be charged.
    """
    with open_existing(database, config) as ts:
        done = ts.overages.sync(limit)
    if as_json:
        print_json(done.to_dict())
    elif done.is_billed_on_invoices:
        console().print(f"billing.driver is null: invoices charge overage. {done.left} not charged yet.")
    else:
        console().print(f"{done.synced} charged, {done.failed} failed, {done.left} not charged yet.")
        if done.failures:
            shown = table("overage", "error")
            for one in done.failures:
                shown.add_row(one.overage_id, one.error)
            console().print(shown)
    if done.failed:
        raise typer.Exit(NO)
