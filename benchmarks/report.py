"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import Comparison
from benchmarks.rounds import Spread

__all__ = ["as_json", "print_table"]


_TITLE = (
    "A pair is a hold and its settlement: two calls, two durable answers. A deduction is one. A subscription is billed "
    "with its fee and a month of use."
)


def print_table(console: Console, found: Sequence[Comparison]) -> None:
    table = Table(title=_TITLE, title_style="")
    for column in ("Database", "Case", "Beside"):
        table.add_column(column)
    for column in ("There", "Ours", "Result", "Range", "Target"):
        table.add_column(column, justify="right")
    table.add_column("Reached")
    before = ""
    for line in found:
        if before and line.database != before:
            table.add_section()
        before = line.database
        table.add_row(
            line.database,
            line.name,
            line.beside,
            _amount(line, line.floor),
            _amount(line, line.ours),
            _result(line, line.decisive),
            f"{_result(line, line.result.least)}–{_result(line, line.result.most)}",
            _target(line),
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[line.is_reached],
        )
    console.print(table)


def as_json(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    return [
        {
            "database": line.database,
            "case": line.name,
            "beside": line.beside,
            "unit": line.unit,
            "floor": None if line.floor is None else _spread(line.floor),
            "ours": _spread(line.ours),
            "result": _spread(line.result),
            "decisive": line.decisive,
            "target": line.target,
            "target_is": "at most" if line.is_ceiling else "at least",
            "reached": line.is_reached,
        }
        for line in found
    ]


def _amount(line: Comparison, spread: Spread | None) -> str:
    if spread is None:
        return ""
    if line.is_rate:
        return f"{spread.median:,.0f}/s"
    return _figure(line, getattr(spread, line.decides_by))


def _result(line: Comparison, value: float) -> str:
    return f"{value:.2f} ×" if line.is_rate else _figure(line, value)


def _figure(line: Comparison, value: float) -> str:
    return f"{value:.2f}" if line.unit == "share" else f"{value:,.1f} {line.unit}"


def _target(line: Comparison) -> str:
    if line.target is None:
        return ""
    unit = " ×" if line.is_rate else "" if line.unit == "share" else f" {line.unit}"
    return f"{'≤' if line.is_ceiling else '≥'} {line.target:.4g}{unit}"


def _spread(spread: Spread) -> dict[str, Any]:
    return {"median": spread.median, "rounds": list(spread.values)}
