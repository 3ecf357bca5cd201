"""Where answers go: tables to people, JSON to programs. Colours only on a terminal, and only there its width."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from tallystick.money import Money

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["console", "error_console", "plain", "print_json", "table"]

# Wide enough for every table, so that a file or a pipe never gets cut columns.
_WIDTH_WITHOUT_TERMINAL = 140


def console() -> Console:
    """Return the console for answers. What comes from data is never taken for markup."""
    return _console(stderr=False)


def error_console() -> Console:
    """Return the console for errors and progress, which is never part of an answer."""
    return _console(stderr=True)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table with these columns; those of `right` are figures and stand on the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        # Folded rather than cut: an id or a name of which the end is missing is of no use.
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=column in right, overflow="fold")
    return made


def print_json(data: Mapping[str, object]) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return a value as JSON has it: money as amount and currency, instants in ISO 8601, decimals as text."""
    if isinstance(value, Money):
        return value.to_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = _WIDTH_WITHOUT_TERMINAL
    return made
