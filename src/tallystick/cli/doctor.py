"""`tallystick doctor`: do all numbers agree?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.ending import NO
from tallystick.cli.figures import counts
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.cli.output import console, print_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

__all__ = ["doctor"]

_SHOWN_MAX = 50


def doctor(
    prices: Annotated[
        bool,
        typer.Option("--prices/--no-prices", help="Compute each event's cost again from the price it keeps."),
    ] = True,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Compute every number again from the events, and report any drift.

    Counters, holds, rollups, overages, costs, and the books of credits. Changes nothing. Exit code 1 where anything
    differs.
    """
    with open_existing(database, config) as ts:
        diagnosis = ts.doctor(prices=prices)
    if as_json:
        print_json(
            {
                "ok": diagnosis.ok,
                "events": diagnosis.events,
                "counters": diagnosis.counters,
                "open_holds": diagnosis.open_holds,
                "findings": [asdict(finding) for finding in diagnosis.findings],
            }
        )
    else:
        _show(console(), diagnosis)
    return 0 if diagnosis.ok else NO


def _show(out: Console, diagnosis: Any) -> None:
    drift = [finding for finding in diagnosis.findings if finding.severity == "drift"]
    notices = [finding for finding in diagnosis.findings if finding.severity != "drift"]
    for title, findings in (("Drift", drift), ("Worth knowing", notices)):
        if findings:
            out.print(title, style="bold red" if title == "Drift" else "bold")
            out.print(_findings(findings))
            if len(findings) > _SHOWN_MAX:
                out.print(f"… and {len(findings) - _SHOWN_MAX:,} more; --json lists all.")
            out.print()
    looked_at = f"{counts(diagnosis.events, 'event')}, {counts(diagnosis.counters, 'counter')}, "
    looked_at += counts(diagnosis.open_holds, "open hold")
    if diagnosis.ok:
        out.print(f"All numbers agree: {looked_at}.", style="green")
    else:
        out.print(f"{counts(len(drift), 'number')} out of step, in {looked_at}.", style="bold red")


def _findings(findings: Sequence[Any]) -> object:
    found = table("What", "Of", "Expected", "Found", "What to do")
    for finding in findings[:_SHOWN_MAX]:
        found.add_row(finding.kind, finding.subject, finding.expected, finding.found, finding.remedy)
    return found
