"""The reference in docs/cli.md: the help of every command, as the program prints it.

`python -m tests.cli.reference` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tallystick.cli.application import application

PAGE = Path(__file__).parent.parent.parent / "docs" / "cli.md"
HEADING = "## Reference\n"
_WIDTH = 100


def reference() -> str:
    """Return the part of the page that follows from the program."""
    parts = [f"### {path}\n\n```text\n{text}\n```\n" for path, text in helps()]
    return "\n".join([HEADING, *parts])


def helps() -> Iterator[tuple[str, str]]:
    """Yield every command that can be called, and its help without frames."""
    root: Any = typer.main.get_command(application)
    context = _context(root, "tallystick", None)
    yield context.command_path, _help(context)
    for name, command in root.commands.items():
        outer = _context(command, name, context)
        for inner, subcommand in getattr(command, "commands", {}).items():
            last = _context(subcommand, inner, outer)
            yield last.command_path, _help(last)
        if not hasattr(command, "commands"):
            yield outer.command_path, _help(outer)


def _context(command: Any, name: str, parent: Any) -> Any:
    widths = {"terminal_width": _WIDTH, "max_content_width": _WIDTH}
    return command.make_context(name, [], parent=parent, resilient_parsing=True, **widths)


def _help(context: Any) -> str:
    context.command.rich_markup_mode = None
    lines = [line.rstrip() for line in context.command.get_help(context).splitlines()]
    return "\n".join(lines).strip()


def page_with(generated: str) -> str:
    """Return the page with its reference replaced."""
    return PAGE.read_text(encoding="utf-8").partition(HEADING)[0] + generated


if __name__ == "__main__":
    PAGE.write_text(page_with(reference()), encoding="utf-8")
