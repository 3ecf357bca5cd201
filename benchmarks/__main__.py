"""`python -m benchmarks`: measure, and say how the figures stand to their targets. A missed target is no failure."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import pricing
from benchmarks.cases import CASES, Case, Comparison
from benchmarks.databases import Databases, SqliteDatabases, postgres_databases
from benchmarks.machine import Machine, others_share
from benchmarks.profiling import print_profile
from benchmarks.report import as_json, print_table
from benchmarks.rounds import Pace

PRICING = "pricing"
THOROUGH = Pace(rounds=5, round_seconds=1.0, history_events=1_000_000)
QUICK = Pace(rounds=3, round_seconds=0.3, history_events=100_000)
_PROFILE_SECONDS = 2.0


class Which(StrEnum):
    """The databases to measure on."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    BOTH = "both"


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Short rounds, 100,000 events of history")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only these cases: {', '.join(case.name for case in CASES)}, {PRICING}", metavar="NAME"),
    ] = None,
    database: Annotated[Which, typer.Option(help="On which database")] = Which.BOTH,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every round's figures here")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time goes instead of measuring")] = False,
) -> None:
    """Measure holds and settlements beside raw drivers that write the same rows with the same durability."""
    cases = _chosen(only)
    console = Console(width=max(Console().width, 150) if not Console().is_terminal else None)
    if only and PRICING in only:
        pricing.main()
    if not cases:
        return
    with ExitStack() as opened:
        folder = Path(
            opened.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True))
        )
        machine, others_before = Machine.measured(folder), others_share()
        kinds = list(_started(database, folder, opened))
        for line in (*machine.lines(), *(kind.version() for kind in kinds)):
            console.print(line, highlight=False)
        if profile:
            for kind in kinds:
                print_profile(console, kind, _PROFILE_SECONDS)
            return
        found = _measured(console, cases, kinds, QUICK if quick else THOROUGH)
        versions = [kind.version() for kind in kinds]
    shares = (others_before, others_share())
    print_table(console, found)
    if shares[0] is not None and shares[1] is not None:
        console.print(
            f"Other programs took {shares[0]:.0%} of the processors before the run and {shares[1]:.0%} after it.",
            highlight=False,
        )
    if json_file is not None:
        facts = {"machine": asdict(machine), "databases": versions, "others_share": shares}
        json_file.write_text(json.dumps({**facts, "results": as_json(found)}, indent=2) + "\n")


def _chosen(only: list[str] | None) -> list[Case]:
    known = {case.name: case for case in CASES}
    for name in only or ():
        if name not in known and name != PRICING:
            raise typer.BadParameter(f"There is no case {name!r}. Cases: {', '.join((*known, PRICING))}.")
    return [case for case in CASES if not only or case.name in only]


def _started(which: Which, folder: Path, opened: ExitStack) -> Iterator[Databases]:
    if which is not Which.POSTGRES:
        yield SqliteDatabases(folder)
    if which is not Which.SQLITE:
        yield opened.enter_context(postgres_databases(folder))


def _measured(console: Console, cases: list[Case], kinds: list[Databases], pace: Pace) -> list[Comparison]:
    found: list[Comparison] = []
    for kind in kinds:
        for case in cases:
            with console.status(f"{kind.kind}: {case.name.replace('_', ' ')}"):
                found += case.run(kind, pace)
    return found


if __name__ == "__main__":
    typer.run(main)
