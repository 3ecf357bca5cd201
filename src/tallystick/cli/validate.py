"""`tallystick validate`: is this installation fit to run?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tallystick.cli.ending import NO, one_line
from tallystick.cli.figures import counts
from tallystick.cli.options import AsJson, Config, Database
from tallystick.cli.output import console, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick.validation import Validation

__all__ = ["validate"]

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def validate(database: Database = None, config: Config = None, as_json: AsJson = False) -> int:
    """Check settings, database, provider classes, prices and currencies.

    Prints every setting in force and where it came from. Changes nothing. Exit code 1 on problems.
    """
    from tallystick.validation import validate as examine

    validation = examine(database, config)
    if as_json:
        print_json(
            {
                "ok": validation.ok,
                "checks": [asdict(check) for check in validation.checks],
                "settings": [asdict(row) for row in validation.settings],
            }
        )
    else:
        _show(console(), validation)
    return 0 if validation.ok else NO


def _show(out: Console, validation: Validation) -> None:
    from rich.text import Text

    if validation.settings:
        settings = table("Setting", "Value", "From")
        for row in validation.settings:
            value = (
                json.dumps(row.value, ensure_ascii=False) if isinstance(row.value, list | dict) else _written(row.value)
            )
            settings.add_row(row.key, value, row.source, style="dim" if row.source == "default" else "")
        out.print(settings)
        out.print()
    for check in validation.checks:
        mark, style = _MARKS[check.outcome]
        line = Text.assemble(
            (mark, style), " ", (check.subject, "bold"), f": {_sentence(one_line(check.detail))}", f" {check.remedy}"
        )
        line.rstrip()
        out.print(line, soft_wrap=not out.is_terminal)
    problems = sum(check.outcome == "problem" for check in validation.checks)
    warnings = sum(check.outcome == "warning" for check in validation.checks)
    out.print()
    out.print(
        f"{counts(problems, 'problem')}, {counts(warnings, 'warning')}.", style="" if validation.ok else "bold red"
    )


def _written(value: object) -> str:
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(detail: str) -> str:
    return detail if detail.endswith((".", "!", "?")) else f"{detail}."
