"""`tallystick import`: record the use that a file tells of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.ending import NO
from tallystick.cli.figures import amount, count, counts
from tallystick.cli.importing import Importer, Payers, Rejects, Tally, rejects_file
from tallystick.cli.instants import zone_named
from tallystick.cli.options import AsJson, Config, Database, open_any, the_same
from tallystick.cli.output import console, error_console, print_json
from tallystick.cli.trace_file import Format, TraceFile
from tallystick.cli.trace_identity import RowKeys, Scan, scan
from tallystick.cli.trace_mapping import FieldMapping, assignments, known_fields
from tallystick.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick import Tallystick
    from tallystick.settings import Settings

__all__ = ["import_file"]

_INTERRUPTED = 130


def import_file(
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, by its name; .gz is unpacked.")],
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Read a field of the record from a column; repeat it. Without any: columns "
            "that have the name of a field.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Give a field the same value in every row; repeat it."),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Short for --set provider=…")] = None,
    model: Annotated[str | None, typer.Option(help="Short for --set model=…")] = None,
    billable: Annotated[str | None, typer.Option(metavar="TYPE:ID", help="Short for --set billable=…")] = None,
    spread: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Spread rows in turn over N billables: import:0, import:1, …"),
    ] = None,
    spread_prefix: Annotated[str, typer.Option(metavar="TYPE", help="The type of these billables.")] = "import",
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="Zone of times that name none.")] = "UTC",
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where rows come from: equal rows of two sources are two uses."),
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="What the file is, if its name does not say it.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(metavar="CHARACTER", help="What separates cells; a comma.")] = None,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write rejected rows there, with line and reason.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and price every row, and record nothing.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Record the use that a file tells of.

    Each row is priced as of when it happened. Importing again records only rows that were not there before, so an
    import that was broken off is simply run again. A bad row is rejected with its line and reason and harms no other;
    the exit code is then 1.

    Example: tallystick import trace.csv --map occurred_at=TIMESTAMP --map input_tokens=ContextTokens --map
    output_tokens=GeneratedTokens --provider openai --model gpt-4o-mini --spread 20
    """
    from tallystick.settings import Settings

    constants = assignments(sets or (), "--set")
    for name, value in (("provider", provider), ("model", model), ("billable", billable)):
        if value is not None and constants.setdefault(name, value) != value:
            raise typer.BadParameter(f"{name} is given twice.", param_hint=f"--{name}")
    trace = TraceFile(file, format_, delimiter)
    settings = Settings.load(database, config)
    mapping = _mapping(trace, assignments(maps or (), "--map"), constants, timezone, settings)
    payers = _payers(mapping, spread, spread_prefix)
    started, tally = monotonic(), Tally()
    with _progress(as_json=as_json) as progress:
        scanned = _scanned(trace, mapping, progress)
        with _opened(database, config, dry_run=dry_run) as ts, rejects_file(rejects, trace) as out:
            importer = Importer(ts, mapping, payers, RowKeys(scanned.repeated, source), Rejects(tally, out, trace))
            interrupted = _run(importer, trace, scanned, tally, progress)
    if as_json:
        print_json(_as_json(trace, tally, scanned, dry_run=dry_run))
    else:
        _show(console(), trace, tally, seconds=monotonic() - started, dry_run=dry_run, rejects=rejects)
        for sentence in _closing(tally, scanned, the_same(settings, database, config), dry_run=dry_run):
            console().print(sentence, soft_wrap=True)
    if interrupted:
        return _INTERRUPTED
    return NO if tally.rejected else 0


def _mapping(
    trace: TraceFile, columns: dict[str, str], constants: dict[str, str], timezone: str, settings: Settings
) -> FieldMapping:
    if not columns:
        # A file that was made for this: its columns have the names of the fields.
        there = trace.first_columns()
        columns = {name: name for name in there if name in known_fields() and name not in constants}
        if not columns:
            remedy = f"Say which column is what. {trace.path.name} has: {', '.join(there)}."
            raise typer.BadParameter(remedy, param_hint="--map")
    return FieldMapping(columns, constants, zone=zone_named(timezone), currency=settings.billing.currency)


def _payers(mapping: FieldMapping, spread: int | None, prefix: str) -> Payers:
    if "occurred_at" not in mapping.fields:
        raise typer.BadParameter("Say when it happened: --map occurred_at=COLUMN.", param_hint="--map")
    if spread is not None and "billable" in mapping.fields:
        raise typer.BadParameter("The billable is given too: keep one.", param_hint="--spread")
    if spread is None and not mapping.names_payer:
        raise typer.BadParameter("Say who pays: --map billable=COLUMN, --billable, or --spread.", param_hint="--map")
    return Payers(prefix, spread) if spread is not None else Payers()


def _scanned(trace: TraceFile, mapping: FieldMapping, progress: Progress) -> Scan:
    """Read the file a first time, and see that it has the columns that are asked for."""
    progress.begin(f"Reading {trace.path.name}", None)
    scanned = scan(trace, mapping.columns)
    if scanned.missing:
        missing = ", ".join(scanned.missing)
        there = ", ".join(scanned.columns) or "none"
        raise InvalidInput("map", missing, f"{trace.path.name} has no such column. Its columns: {there}.")
    return scanned


@contextmanager
def _opened(database: str | None, config: Path | None, *, dry_run: bool) -> Iterator[Tallystick]:
    """Open the engine; for a dry run, one with the same settings on a database that is thrown away."""
    if not dry_run:
        with open_any(database, config) as ts:
            yield ts
        return
    from tallystick import Tallystick

    with TemporaryDirectory(prefix="tallystick-") as folder:
        url = f"sqlite:///{folder}/dry-run.db"
        with Tallystick(url, config=config, auto_migrate=True, storage={"synchronous": "normal"}) as ts:
            yield ts


def _run(importer: Importer, trace: TraceFile, scanned: Scan, tally: Tally, progress: Progress) -> bool:
    """Import all rows. Returns whether the operator broke it off, which loses nothing."""
    progress.begin(f"Importing {trace.path.name}", scanned.rows)
    try:
        importer.run(trace, scanned, tally, progress.advance)
    except KeyboardInterrupt:
        return True
    return False


# -- progress ---------------------------------------------------------------------------------------------------------


class Progress:
    """A bar on standard error, where that is a terminal; otherwise nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None

    def begin(self, what: str, total: int | None) -> None:
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, total=total)

    def advance(self, rows: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, rows)


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Progress]:
    out = error_console()
    if as_json or not out.is_terminal:
        yield Progress(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=out, transient=True) as bar:
        yield Progress(bar)


# -- the answer -------------------------------------------------------------------------------------------------------


def _as_json(trace: TraceFile, tally: Tally, scanned: Scan, *, dry_run: bool) -> dict[str, object]:
    return {
        "file": str(trace.path),
        "dry_run": dry_run,
        "complete": tally.rows == scanned.rows,
        "rows": tally.rows,
        "recorded": tally.recorded,
        "duplicates": tally.duplicates,
        "rejected": tally.rejected,
        "unpriced": tally.unpriced,
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "total_tokens": tally.input_tokens + tally.output_tokens,
        "costs": [tally.costs[currency] for currency in sorted(tally.costs)],
        "from": tally.first,
        "to": tally.last,
        "rejections": [{"line": one.line, "reason": one.reason, "code": one.code} for one in tally.rejections],
    }


def _show(
    out: Console,
    trace: TraceFile,
    tally: Tally,
    *,
    seconds: float,
    dry_run: bool,
    rejects: Path | None,
) -> None:
    if tally.rejections:
        _show_rejections(out, tally, rejects)
    speed = f"{tally.rows / max(seconds, 0.001):,.0f} rows a second"
    out.print(f"{trace.path.name}: {counts(tally.rows, 'row')} in {seconds:.1f} seconds ({speed})", style="bold")
    for name, figure, remark in _summary(tally, dry_run=dry_run):
        out.print(f"  {name:<11} {figure}{f'  {remark}' if remark else ''}")


def _show_rejections(out: Console, tally: Tally, rejects: Path | None) -> None:
    out.print(f"Rejected {counts(tally.rejected, 'row')}:", style="bold red")
    for one in tally.rejections:
        out.print(f"  line {one.line}: {one.reason}", soft_wrap=True)
    more = tally.rejected - len(tally.rejections)
    if more:
        where = "all of them are in the file" if rejects is not None else "--rejects FILE writes all of them"
        out.print(f"  … and {more:,} more; {where}.")
    if any(one.code == "idempotency_conflict" for one in tally.rejections):
        out.print(
            "Rows that were recorded before stay as they were. To correct prices: tallystick reprice. "
            "If these are other rows that only look the same: --source NAME."
        )
    out.print()


def _summary(tally: Tally, *, dry_run: bool) -> list[tuple[str, str, str]]:
    width = len(count(tally.rows))
    tokens = f"({count(tally.input_tokens)} in, {count(tally.output_tokens)} out)"
    lines = [
        ("Valid" if dry_run else "Recorded", f"{count(tally.recorded):>{width}}", ""),
        ("Duplicates", f"{count(tally.duplicates):>{width}}", "recorded before" if tally.duplicates else ""),
        ("Rejected", f"{count(tally.rejected):>{width}}", ""),
        ("Tokens", count(tally.input_tokens + tally.output_tokens), tokens),
        ("Cost", " + ".join(amount(tally.costs[currency]) for currency in sorted(tally.costs)) or "0", ""),
    ]
    if tally.unpriced:
        lines.append(("Unpriced", count(tally.unpriced), "not in the cost: set prices, then tallystick reprice"))
    if tally.first is not None and tally.last is not None:
        lines.append(("From", f"{tally.first:%Y-%m-%d %H:%M:%S} UTC", ""))
        lines.append(("To", f"{tally.last:%Y-%m-%d %H:%M:%S} UTC", ""))
    return lines


def _closing(tally: Tally, scanned: Scan, same: str, *, dry_run: bool) -> list[str]:
    sentences = []
    if tally.rows < scanned.rows:
        sentences.append(f"Stopped after {tally.rows:,} of {scanned.rows:,} rows. Run the same command again to go on.")
    if dry_run:
        sentences.append("A dry run: nothing was recorded. Rows that the database has already were not looked for.")
    elif tally.recorded and tally.last is not None:
        sentences.append(f"Next: tallystick report --month {tally.last:%Y-%m}{same}")
    return sentences
