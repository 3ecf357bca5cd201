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
from benchmarks.cases import CASES
from benchmarks.comparison import Case, Comparison
from benchmarks.databases import Databases, SqliteDatabases, postgres_databases
from benchmarks.machine import Machine, Neighbours
from benchmarks.profiling import print_profile
from benchmarks.report import as_json, print_table
from benchmarks.rounds import OTHERS_SHARE_MAX, Pace, Turns

PRICING = "pricing"
THOROUGH = Pace(rounds=5, turns_max=7, round_seconds=0.8, history=1_000_000, subscriptions=10_000)
QUICK = Pace(rounds=3, turns_max=4, round_seconds=0.25, history=100_000, subscriptions=1_000, is_examined=True)
_PROFILE_SECONDS = 2.0


class Which(StrEnum):
    """The databases to measure on."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    BOTH = "both"


def main(
    *,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Short rounds, 100,000 events of history, 1,000 subscriptions; examined by the doctor"
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only these cases: {', '.join(case.name for case in CASES)}, {PRICING}", metavar="NAME"),
    ] = None,
    database: Annotated[Which, typer.Option(help="On which database")] = Which.BOTH,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every round's figures here")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time goes instead of measuring")] = False,
) -> None:
    """Measure holds, settlements, deductions and invoices beside raw drivers that write the same rows as durably."""
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
        machine, neighbours = Machine.measured(folder), Neighbours()
        kinds = list(_started(database, folder, neighbours, opened))
        for line in (*machine.lines(), *(kind.version() for kind in kinds)):
            console.print(line, highlight=False)
        if profile:
            for kind in kinds:
                for work in dict.fromkeys(case.work for case in cases):
                    print_profile(console, kind, work, _PROFILE_SECONDS)
            return
        turns = Turns(QUICK if quick else THOROUGH, neighbours)
        found = _measured(console, cases, kinds, turns)
        versions = [kind.version() for kind in kinds]
    print_table(console, found)
    if turns.disturbed:
        console.print(
            f"Other programs took more than {OTHERS_SHARE_MAX:.0%} of the processors in {turns.disturbed} turns, "
            f"of which {turns.kept} count all the same, for want of calmer ones.",
            highlight=False,
        )
    if json_file is not None:
        facts = {"machine": asdict(machine), "databases": versions, "disturbed_turns_that_count": turns.kept}
        json_file.write_text(json.dumps({**facts, "results": as_json(found)}, indent=2) + "\n")


def _chosen(only: list[str] | None) -> list[Case]:
    known = {case.name: case for case in CASES}
    for name in only or ():
        if name not in known and name != PRICING:
            raise typer.BadParameter(f"There is no case {name!r}. Cases: {', '.join((*known, PRICING))}.")
    return [case for case in CASES if not only or case.name in only]


def _started(which: Which, folder: Path, neighbours: Neighbours, opened: ExitStack) -> Iterator[Databases]:
    if which is not Which.POSTGRES:
        yield SqliteDatabases(folder)
    if which is not Which.SQLITE:
        server = opened.enter_context(postgres_databases(folder))
        if server.process is not None:
            neighbours.leave_out(server.process)
        yield server


def _measured(console: Console, cases: list[Case], kinds: list[Databases], turns: Turns) -> list[Comparison]:
    found: list[Comparison] = []
    for kind in kinds:
        for case in cases:
            with console.status(f"{kind.kind}: {case.name.replace('_', ' ')}"):
                found += case.run(kind, turns)
    return found


if __name__ == "__main__":
    typer.run(main)
