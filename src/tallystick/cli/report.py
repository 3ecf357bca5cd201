"""`tallystick report`: what was used and what it cost, in a month or any range."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallystick.cli.account_zone import account_zone
from tallystick.cli.figures import amount, amounts, bar, count, counts, percentage, sparkline
from tallystick.cli.instants import instant, month, zone_named
from tallystick.cli.options import AsJson, Billable, Config, Database, End, Start, open_existing
from tallystick.cli.output import console, print_json, table
from tallystick.cli.standing import print_standing
from tallystick.errors import InvalidInput
from tallystick.period import PeriodKind, calendar_period

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tallystick import Tallystick

__all__ = ["report", "totals_as_json"]

Grouping = Literal["billable", "model", "provider", "feature", "resource-type"]

_GROUPINGS: tuple[Grouping, ...] = ("billable", "model", "provider", "feature", "resource-type")
_BAR_WIDTH = 12
_UNNAMED = "(none)"


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of time under the name that a person gave it. A missing end is open."""

    start: datetime | None
    end: datetime | None
    label: str
    zone: str

    def contains(self, at: datetime) -> bool:
        return (self.start is None or self.start <= at) and (self.end is None or at < self.end)


def report(
    month_name: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="That month. Without any range: this month.")
    ] = None,
    billable: Billable = None,
    start: Start = None,
    end: End = None,
    by: Annotated[Grouping | None, typer.Option(help="One table, by this, instead of the usual ones.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of a table at most; JSON has all.")] = 20,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Sum up what was used and what it cost.

    This month, --month, or from --start until --end. Amounts in tables are rounded for the eye; JSON has them exactly.
    """
    with open_existing(database, config) as ts:
        wanted = _range(ts, billable, month_name, start, end)
        stats = ts.usage.stats(billable, wanted.start, wanted.end)
        interval = _interval(wanted)
        points = ts.usage.time_series(billable, wanted.start, wanted.end, interval=interval)
        groupings = _groupings(by, billable)
        if as_json:
            print_json(_as_json(wanted, stats, (interval, points), groupings))
            return
        out = console()
        _print_heading(out, ts, wanted, stats)
        if _is_used(stats):
            _print_chart(out, interval, points, wanted.zone)
            for grouping in groupings:
                groups = _groups(stats, grouping)
                # A table that says only that nothing has a name is not worth its lines, unless it was asked for.
                if by is not None or any(group.name for group in groups):
                    _print_groups(out, grouping, groups, top)
        if billable is not None and wanted.contains(ts.clock.now()):
            print_standing(out, ts.limits.check(billable), wanted.zone)


def totals_as_json(totals: Any) -> dict[str, object]:
    """Return sums of use as plain values."""
    return {
        "events": totals.events,
        "unpriced_events": totals.unpriced_events,
        "quantity": totals.quantity,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "total_tokens": totals.total_tokens,
        "costs": totals.costs,
    }


def _range(ts: Tallystick, billable: str | None, month_name: str | None, start: str | None, end: str | None) -> Range:
    zone = zone_named(account_zone(ts, billable))
    if month_name is not None and (start is not None or end is not None):
        raise InvalidInput("month", month_name, "Give --month, or --start and --end.")
    if start is None and end is None:
        now = ts.clock.now()
        period = calendar_period(PeriodKind.MONTHLY, now, zone.key) if month_name is None else month(month_name, zone)
        return Range(period.start, period.end, period.label, zone.key)
    starts = None if start is None else instant(start, zone, field="start")
    ends = None if end is None else instant(end, zone, field="end")
    label = " ".join(
        part for part in (f"from {start}" if start else "", f"until just before {end}" if end else "") if part
    )
    return Range(starts, ends, label, zone.key)


def _groupings(by: Grouping | None, billable: str | None) -> tuple[Grouping, ...]:
    if by is not None:
        return (by,)
    return ("billable", "model") if billable is None else ("model", "feature")


def _groups(stats: Any, grouping: Grouping) -> tuple[Any, ...]:
    found: tuple[Any, ...] = getattr(stats, f"by_{grouping.replace('-', '_')}")
    return found


def _interval(wanted: Range) -> str:
    """Return the interval that gives a chart some tens of columns."""
    if wanted.start is None or wanted.end is None:
        return "month"
    length = wanted.end - wanted.start
    if length <= timedelta(days=2):
        return "hour"
    if length <= timedelta(days=62):
        return "day"
    return "week" if length <= timedelta(days=400) else "month"


def _as_json(
    wanted: Range, stats: Any, series: tuple[str, Sequence[Any]], groupings: Sequence[Grouping]
) -> dict[str, object]:
    interval, points = series
    return {
        "billable": stats.billable,
        "start": wanted.start,
        "end": wanted.end,
        "label": wanted.label,
        "timezone": wanted.zone,
        "totals": totals_as_json(stats.totals),
        "by": {
            grouping.replace("-", "_"): [
                {"name": group.name, **totals_as_json(group.totals)} for group in _groups(stats, grouping)
            ]
            for grouping in groupings
        },
        "series": {
            "interval": interval,
            "points": [
                {"start": point.start, "end": point.end, "label": point.label, **totals_as_json(point.totals)}
                for point in points
            ],
        },
    }


# -- for people -------------------------------------------------------------------------------------------------------


def _print_heading(out: Console, ts: Tallystick, wanted: Range, stats: Any) -> None:
    from rich.text import Text

    who, totals = stats.billable or "all billables", stats.totals
    out.print(Text.assemble("Usage of ", (who, "bold"), f", {wanted.label} ({wanted.zone})"))
    out.print()
    if not _is_used(stats):
        out.print(f"  Nothing was used.{_last_month(ts, stats.billable)}")
        return
    out.print(f"  Events   {count(totals.events)}")
    tokens = f"({count(totals.input_tokens)} in, {count(totals.output_tokens)} out)"
    out.print(f"  Tokens   {count(totals.total_tokens)}  {tokens}")
    out.print(f"  Cost     {' + '.join(amount(cost) for cost in totals.costs)}")
    if totals.unpriced_events:
        unpriced = counts(totals.unpriced_events, "event")
        out.print(f"  Unpriced {unpriced}: not in the cost. Set the prices and run tallystick reprice.", style="yellow")


def _is_used(stats: Any) -> bool:
    return bool(stats.totals.events or any(stats.totals.costs))


def _last_month(ts: Tallystick, billable: str | None) -> str:
    """Return where there is something to see, for somebody who asked for a month without use."""
    months = ts.usage.time_series(billable, interval="month")
    if not months:
        return ""
    last = months[-1].start.astimezone(zone_named(account_zone(ts, billable)))
    return f" The last use is in {months[-1].label}: --month {last:%Y-%m}"


def _print_chart(out: Console, interval: str, points: Sequence[Any], zone: str) -> None:
    """Print a column for each interval: of cost where there is one cost, else of tokens, else of events."""
    if len(points) < 2:
        return
    measure, values = _measured([point.totals for point in points])
    highest = max(range(len(values)), key=values.__getitem__)
    most = amount(points[highest].totals.costs[0]) if measure == "cost" else f"{count(values[highest])} {measure}"
    width = max(20, out.width - 2)
    columns = sparkline(values)
    out.print()
    out.print(f"  {measure.capitalize()} by {interval}, at most {most} ({points[highest].label})")
    # Cut by hand where it is too long: a chart that wraps is no longer one.
    for first in range(0, len(columns), width):
        out.print(f"  {columns[first : first + width]}")
    form = "%H:%M" if interval == "hour" else "%Y-%m" if interval == "month" else "%m-%d"
    start, end = (f"{point.start.astimezone(zone_named(zone)):{form}}" for point in (points[0], points[-1]))
    gap = min(len(columns), width) - len(start) - len(end)
    out.print(f"  {start}{' ' * gap if gap > 0 else ' … '}{end}", style="dim")


def _print_groups(out: Console, grouping: Grouping, groups: Sequence[Any], top: int) -> None:
    title = grouping.replace("-", " ").capitalize()
    measure, values = _measured([group.totals for group in groups])
    whole, largest = sum(value for value in values if value > 0), max(values)
    shown = table(title, "Cost", "Tokens", "Events", f"Share of {measure}", right=("Cost", "Tokens", "Events"))
    costs = amounts([group.totals.costs for group in groups])
    for group, cost, value in list(zip(groups, costs, values, strict=True))[:top]:
        totals = group.totals
        share = f"{percentage(value, whole):>4} {bar(value, largest, width=_BAR_WIDTH)}"
        shown.add_row(
            group.name or _UNNAMED, _cost(totals, cost), count(totals.total_tokens), count(totals.events), share
        )
    out.print()
    out.print(shown)
    if len(groups) > top:
        out.print(f"… and {len(groups) - top:,} more: --top {len(groups)}, or --json.", style="dim")


def _cost(totals: Any, priced: str) -> str:
    """Return what a group cost; what has no price yet is not nothing."""
    if not totals.unpriced_events:
        return priced
    if totals.unpriced_events >= totals.events:
        return "unpriced"
    return f"{priced} + {count(totals.unpriced_events)} unpriced"


def _measured(every: Sequence[Any]) -> tuple[str, list[int]]:
    """Return what a chart can compare: cost where all is of one currency, else tokens, else events."""
    if len({cost.currency for totals in every for cost in totals.costs}) == 1:
        costs = [totals.costs[0].nanos for totals in every]
        if any(costs):
            return "cost", costs
    tokens = [totals.total_tokens for totals in every]
    return ("tokens", tokens) if any(tokens) else ("events", [totals.events for totals in every])
