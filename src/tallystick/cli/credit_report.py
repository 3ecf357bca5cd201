"""A credit report as lines and tables: first what moved, then how long it lasts, then what it was."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tallystick.cli.figures import amount, amounts, bar, count, counts, percentage, sparkline
from tallystick.cli.instants import zone_named
from tallystick.cli.output import table
from tallystick.money import Money

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["column", "exactly", "print_credit_report", "roughly", "unit_name"]

_BAR_WIDTH = 12
_GROUPS_SHOWN_MAX = 10
_UNNAMED, _OTHERS = "(none)", "(all others)"
_MICRO = Decimal(1).scaleb(-6)


def print_credit_report(out: Console, report: Any, label: str) -> None:
    """Print the report, unit by unit; units of which there is nothing to say are left out."""
    from rich.text import Text

    out.print(Text.assemble("Credits, ", (label, "bold"), f" ({report.timezone})"))
    units = [unit for unit in report.units if not unit.is_quiet]
    if not units:
        out.print()
        out.print("  Nothing was granted or used, and there are no credits.")
    for unit in units:
        out.print()
        out.print(unit_name(unit.unit), style="bold")
        _print_totals(out, unit)
        _print_standing(out, unit, report.timezone)
        _print_chart(out, unit, report.interval, report.timezone)
        _print_patterns(out, unit)
        _print_kinds(out, unit)
        _print_groups(out, "Reason", unit.by_reason)
        if any(group.name for group in unit.by_feature) and unit.currency is not None:
            _print_groups(out, "Feature", unit.by_feature)
        _print_recipients(out, unit)


def unit_name(unit: str) -> str:
    """Return what people call a unit: the currency, or the feature."""
    return f"{unit.removeprefix('feature:')} (extra credits)" if unit.startswith("feature:") else unit


def exactly(value: Any) -> str:
    """Return one amount, money or a number, exactly."""
    return amount(value) if isinstance(value, Money) else count(value)


def column(values: Sequence[Any]) -> list[str]:
    """Return a column of amounts of one unit: money to one common digit, numbers as they are."""
    if any(isinstance(value, Money) for value in values):
        return amounts([[value] for value in values])
    return [count(value) for value in values]


def roughly(value: Any) -> str:
    """Return one amount, rounded for the eye: an average has more digits than it means."""
    return amounts([[value]])[0] if isinstance(value, Money) else count(round(Decimal(value), 2))


def _figures(values: Sequence[Any]) -> list[str]:
    """Return a column of a table: nothing is a dash, so that what is something stands out."""
    return [figure if value else "–" for value, figure in zip(values, column(values), strict=True)]


def _whole(value: Any) -> int:
    """Return an amount as a whole number, to compare it with others of its unit."""
    return value.nanos if isinstance(value, Money) else int(Decimal(value) / _MICRO)


def _print_totals(out: Console, unit: Any) -> None:
    totals = unit.totals
    rows: list[tuple[str, str, Any, str]] = [
        ("", "Opening", totals.opening, ""),
        ("+", "Granted", totals.granted, counts(totals.granted_count, "grant")),
        ("–", "Used", totals.used, counts(totals.used_count, "use")),
        ("–", "Expired", totals.expired, counts(unit.expired.count, "grant")),
        ("+", "Refunded", totals.refunded, ""),
        ("–", "Taken back", totals.revoked, ""),
        ("+", "Transferred, exchanged, reversed", totals.other, ""),
        ("=", "Closing", totals.closing, ""),
    ]
    # What did not happen is not worth a line; the two balances and what always happens are.
    shown = [row for row in rows if row[1] in ("Opening", "Granted", "Used", "Closing") or row[2]]
    figures = column([row[2] for row in shown])
    width = max(len(row[1]) for row in shown)
    right = max(map(len, figures))
    for (sign, name, _, remark), figure in zip(shown, figures, strict=True):
        out.print(f"  {sign or ' '} {name:<{width}}  {figure:>{right}}{f'   {remark}' if remark else ''}")


def _print_standing(out: Console, unit: Any, zone: str) -> None:
    active, forecast = unit.active, unit.forecast
    out.print()
    of = f" of {exactly(active.amount)}" if active.count else ""
    out.print(f"  Open now     {counts(active.count, 'grant')}, {exactly(active.remaining)}{of} left")
    if not active.count:
        return
    days = (forecast.at - forecast.measured_since).days
    since = f"{roughly(forecast.daily_burn)} a day as in the last {counts(days, 'day')}"
    if not forecast.daily_burn:
        out.print(f"  Lasts        nothing was used in the last {counts(days, 'day')}")
    elif forecast.empty_at is None:
        out.print(f"  Lasts        for ever, at {since}")
    else:
        until = forecast.empty_at.astimezone(zone_named(zone))
        out.print(f"  Lasts        until about {until:%Y-%m-%d}, at {since}")
    if forecast.will_expire:
        out.print(f"  Will expire  {exactly(forecast.will_expire)} before it is used, at that rate", style="yellow")


def _print_chart(out: Console, unit: Any, interval: str, zone: str) -> None:
    points = unit.periods
    if len(points) < 2:
        return
    form = "%Y-%m" if interval == "month" else "%Y-%m-%d" if len(points) > 366 else "%m-%d"
    first, last = (f"{point.start.astimezone(zone_named(zone)):{form}}" for point in (points[0], points[-1]))
    width = max(20, out.width - 14)
    charts = [
        (name, [_whole(getattr(point, name)) for point in points])
        for name in ("granted", "used", "expired")
        if any(getattr(point, name) for point in points)
    ]
    if not charts:
        return
    out.print()
    out.print(f"  By {interval}, {first} to {last}")
    for name, values in charts:
        drawn = sparkline(values)
        # Cut by hand where it is too long: a chart that wraps is no longer one.
        for start in range(0, len(drawn), width):
            out.print(f"  {name.capitalize() if start == 0 else '':<10}  {drawn[start : start + width]}")


def _print_patterns(out: Console, unit: Any) -> None:
    if not unit.totals.used_count:
        return
    hours, days = ([_whole(share.used) for share in shares] for shares in (unit.by_hour, unit.by_weekday))
    busiest = max(unit.by_hour, key=lambda share: _whole(share.used))
    weekday = max(unit.by_weekday, key=lambda share: _whole(share.used))
    out.print()
    out.print("  Used by hour of the day and day of the week")
    out.print(f"  00 to 23    {sparkline(hours)}  most at {busiest.label}")
    out.print(f"  Mon to Sun  {sparkline(days)}{' ' * (len(hours) - len(days))}  most on {weekday.label}")


def _print_kinds(out: Console, unit: Any) -> None:
    figures = ("granted", "used", "expired", "refunded", "remaining")
    kinds = [kind for kind in unit.by_kind if any(getattr(kind, name) for name in figures)]
    if len(kinds) < 2:
        # The totals above say the same.
        return
    headings = ("Granted", "Used", "Expired", "Refunded", "Left now")
    shown = table("Kind", *headings, right=headings)
    columns = [_figures([getattr(kind, name) for kind in kinds]) for name in figures]
    for kind, *values in zip(kinds, *columns, strict=True):
        shown.add_row(kind.kind, *values)
    out.print()
    out.print(shown)


def _print_groups(out: Console, title: str, groups: Sequence[Any]) -> None:
    if not groups:
        return
    first = groups[:_GROUPS_SHOWN_MAX]
    headings = ("Granted", "Grants", "Used", "Expired")
    shown = table(title, *headings, right=headings)
    granted, used, expired = (
        _figures([getattr(group, name) for group in first]) for name in ("granted", "used", "expired")
    )
    for group, given, taken, lost in zip(first, granted, used, expired, strict=True):
        name = _OTHERS if group.name is None else group.name or _UNNAMED
        shown.add_row(name, given, count(group.granted_count) if group.granted_count else "–", taken, lost)
    out.print()
    out.print(shown)
    if len(groups) > len(first):
        out.print(f"… and {len(groups) - len(first):,} more; --json lists all.", style="dim")


def _print_recipients(out: Console, unit: Any) -> None:
    if not unit.recipients:
        return
    shown = table("Most granted to", "Granted", "Grants", "Share", right=("Granted", "Grants"))
    figures = _figures([recipient.granted for recipient in unit.recipients])
    whole, largest = _whole(unit.totals.granted), _whole(unit.recipients[0].granted)
    for recipient, figure in zip(unit.recipients, figures, strict=True):
        part = _whole(recipient.granted)
        share = f"{percentage(part, whole):>4} {bar(part, largest, width=_BAR_WIDTH)}"
        shown.add_row(recipient.billable, figure, count(recipient.granted_count), share)
    out.print()
    out.print(shown)
