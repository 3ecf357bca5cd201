"""`tallystick reprice`: price events again, first as a preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import amount, amounts, counts
from tallystick.cli.instants import instant, zone_named
from tallystick.cli.options import AsJson, Billable, Config, Database, End, Start, open_existing
from tallystick.cli.output import console, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["reprice"]

_SHOWN_MAX = 20


def reprice(
    provider: Annotated[str | None, typer.Option(help="Only events of this provider.")] = None,
    model: Annotated[str | None, typer.Option(help="Only events of this model.")] = None,
    start: Start = None,
    end: End = None,
    billable: Billable = None,
    only_unpriced: Annotated[bool, typer.Option("--only-unpriced", help="Only events that have no cost yet.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Record the differences; without it, only show them.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Price events again, with the prices known now.

    Each event has the price of when it happened. Without --apply this is a preview. With it, each difference is
    recorded as a correction that names its event. Nothing is edited, and applying twice changes nothing more. Costs
    that were stated stay as they are.
    """
    with open_existing(database, config) as ts:
        zone = zone_named(ts.settings.period.timezone)
        repricing = ts.usage.reprice(
            billable=billable,
            provider=provider,
            model=model,
            start=None if start is None else instant(start, zone, field="start"),
            end=None if end is None else instant(end, zone, field="end"),
            only_unpriced=only_unpriced,
            apply=apply,
        )
    if as_json:
        print_json(_as_json(repricing))
    else:
        _show(console(), repricing)


def _as_json(repricing: Any) -> dict[str, object]:
    return {
        "applied": repricing.applied,
        "unchanged": repricing.unchanged,
        "still_unpriced": repricing.still_unpriced,
        "total_differences": repricing.total_differences,
        "differences": [
            {
                "usage_event_id": one.event_id,
                "billable": one.billable,
                "before": one.before,
                "after": one.after,
                "difference": one.difference,
            }
            for one in repricing.differences
        ],
    }


def _show(out: Console, repricing: Any) -> None:
    largest = sorted(repricing.differences, key=lambda one: (-abs(one.difference.nanos), one.event_id))[:_SHOWN_MAX]
    if largest:
        shown = table("Event", "Billable", "Before", "After", "Difference", right=("Before", "After", "Difference"))
        columns = [
            amounts([[] if one.before is None else [one.before] for one in largest]),
            amounts([[one.after] for one in largest]),
            amounts([[one.difference] for one in largest]),
        ]
        for one, before, after, difference in zip(largest, *columns, strict=True):
            shown.add_row(one.event_id, one.billable, before or "unpriced", after, difference)
        out.print(shown)
        if len(repricing.differences) > len(largest):
            out.print(f"… the largest of {len(repricing.differences):,}; --json lists all.", style="dim")
        out.print()
    for sentence in _sentences(repricing):
        out.print(sentence)


def _sentences(repricing: Any) -> list[str]:
    found = len(repricing.differences)
    total = " + ".join(amount(money) for money in repricing.total_differences)
    if not found:
        sentences = ["No event would cost anything else."]
    elif repricing.applied:
        sentences = [f"{counts(found, 'correction')} recorded, {total} in all."]
    else:
        sentences = [
            f"{counts(found, 'event')} would cost otherwise: {total} in all. Nothing was recorded: add --apply."
        ]
    if repricing.unchanged:
        sentences.append(f"Unchanged: {counts(repricing.unchanged, 'event')}.")
    if repricing.still_unpriced:
        unpriced = counts(repricing.still_unpriced, "event")
        sentences.append(f"Still without a price: {unpriced}. Set the price, and run this again.")
    return sentences
