"""`tallystick events`: single uses, the newest first, with the ids that `explain` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.account_zone import account_zone
from tallystick.cli.figures import amounts, count
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Billable, Config, Database, End, Start, open_existing
from tallystick.cli.output import console, print_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from rich.table import Table

__all__ = ["events"]


def events(
    billable: Billable = None,
    start: Start = None,
    end: End = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after the page before.")] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List usage events, the newest first.

    Their ids are what tallystick explain takes.
    """
    with open_existing(database, config) as ts:
        zone = zone_named(account_zone(ts, billable))
        page = ts.usage.events(
            billable,
            start=None if start is None else instant(start, zone, field="start"),
            end=None if end is None else instant(end, zone, field="end"),
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        print_json({"events": [event.to_dict() for event in page], "next_cursor": page.next_cursor})
        return
    out = console()
    if not page.events:
        out.print("No usage events.")
        return
    out.print(_listed(page.events, zone))
    if page.next_cursor is not None:
        out.print(f"More with --cursor {page.next_cursor}", soft_wrap=True)


def _listed(found: Sequence[Any], zone: ZoneInfo) -> Table:
    listed = table("Event", "Happened", "Billable", "What", "Tokens", "Cost", right=("Tokens", "Cost"))
    # An id that is broken over lines cannot be copied.
    listed.columns[0].no_wrap = True
    costs = amounts([[event.cost] if event.cost is not None else [] for event in found])
    for event, cost in zip(found, costs, strict=True):
        what = "/".join(part for part in (event.provider, event.model) if part) or event.resource_type
        happened = f"{event.occurred_at.astimezone(zone):%Y-%m-%d %H:%M:%S}"
        tokens = count(event.total_tokens) if event.total_tokens else ""
        listed.add_row(event.id, happened, event.billable, what, tokens, cost or "unpriced")
    return listed
