"""`tallystick sync-plans`: bringing the plans to what a file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.figures import counts
from tallystick.cli.options import AsJson, Config, Database, open_any, open_existing
from tallystick.cli.output import console, error_console, print_json, table
from tallystick.cli.plans import print_plans

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["sync_plans"]


def sync_plans(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A TOML file of plans; without one the plans are listed.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    no_publish: Annotated[bool, typer.Option("--no-publish", help="Leave new versions as drafts.")] = False,
    archive_missing: Annotated[
        bool, typer.Option("--archive-missing", help="Archive plans that the file does not name.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it is carried out.")] = False,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Bring the plans to what a TOML file says, all or nothing.

    Changed terms become a new version; who has subscribed keeps theirs. tallystick plans export writes such a file.
    """
    if file is None:
        with open_existing(database, config) as ts:
            print_plans(ts, active_only=True, as_json=as_json)
        return
    with open_existing(database, config) if dry_run else open_any(database, config) as ts:
        options = {"publish": not no_publish, "archive_missing": archive_missing}
        found = ts.plans.sync(file, dry_run=True, **options)
        if not as_json:
            _show(console(), found)
        if found.has_changes and not dry_run:
            if not yes:
                if as_json:
                    _show(error_console(), found)
                typer.confirm("Carry this out?", abort=True, err=True)
            found = ts.plans.sync(file, **options)
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(_said(found, dry_run=dry_run))


def _show(out: Console, found: Any) -> None:
    rows = [*_rows(found)]
    if rows:
        shown = table("Plan", "What", "From", "To")
        for row in rows:
            shown.add_row(*row)
        out.print(shown)
    if found.not_in_file:
        left = ", ".join(one.slug for one in found.not_in_file)
        out.print(f"Not in the file, and left as they are: {left}.")


def _rows(found: Any) -> list[tuple[str, str, str, str]]:
    version = "version {}" if found.published else "version {}, a draft"
    groups = (
        (found.created, "new" if found.published else "new, a draft"),
        (found.new_versions, version),
        (found.updated, ""),
        (found.archived, ""),
    )
    rows: list[tuple[str, str, str, str]] = []
    for plans, what in groups:
        for plan in plans:
            called = f"{plan.slug} ({what.format(plan.version)})" if what else plan.slug
            lines = [(one.field, one.before_in_words, one.after_in_words) for one in plan.differences]
            for number, line in enumerate(lines or [("–", "–", "–")]):
                rows.append(("" if number else called, *line))
    return rows


def _said(found: Any, *, dry_run: bool) -> str:
    if not found.has_changes:
        return f"Nothing to change: {counts(len(found.unchanged), 'plan')} as the file says."
    parts = (
        (len(found.created), "{} created"),
        (len(found.new_versions), "{} with a new version"),
        (len(found.updated), "{} updated"),
        (len(found.archived), "{} archived"),
        (len(found.unchanged), "{} unchanged"),
    )
    said = ", ".join(text.format(counts(number, "plan")) for number, text in parts if number)
    return f"{said}. A dry run: nothing was changed." if dry_run else f"{said}."
