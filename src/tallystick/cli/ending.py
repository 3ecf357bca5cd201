"""How a command ends: its exit code, and an error as one line with its remedy, or as JSON."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from tallystick.cli.output import error_console, print_json
from tallystick.errors import TallystickError

__all__ = ["FAILED", "NO", "USAGE", "Commands", "one_line"]

NO = 1
"""The answer is no: drift was found, the configuration has problems, rows were rejected."""

USAGE = 2
"""The command line is wrong."""

FAILED = 3
"""It could not be done."""

# What the database toolkit adds to a driver's own words: the class of its error, and a link.
_NOISE = re.compile(r"\((?:psycopg|pysqlite3|sqlite3)[\w.]*\) |\s*\(Background on this error at: \S+\)")


class Commands(TyperGroup):
    """The root of all commands. Every ending goes through here, from the terminal and from tests alike."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command. It returns its exit code, None for 0; an exception becomes one line and a code."""
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in arguments
        _never_fail_to_encode()
        try:
            code = super().main(arguments or ["--help"], prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            code = _usage_error(error, as_json=as_json)
        except typer.Abort:
            code = NO
        # The last stop: everything becomes one line and an exit code.
        except Exception as error:
            if os.environ.get("TALLYSTICK_DEBUG", "").lower() in {"1", "true", "yes"}:
                raise
            code = _failure(error, as_json=as_json)
        if standalone_mode:
            sys.exit(code)
        return code


def _never_fail_to_encode() -> None:
    """Write "?" for what the terminal's encoding has no character for, rather than break off in the middle."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _usage_error(error: typer.TyperException, *, as_json: bool) -> int:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    message += "" if message.endswith((".", "?", "!")) else "."
    remedy = f"Try: {context.command_path} --help" if context is not None else ""
    if as_json:
        print_json({"error": {"code": "usage", "message": message, "remedy": remedy}})
    else:
        _print_error(f"{message} {remedy}")
    return error.exit_code


def _failure(error: Exception, *, as_json: bool) -> int:
    data = error.data() if isinstance(error, TallystickError) else _unexpected(error)
    message = data["message"] = one_line(str(data["message"]))
    if as_json:
        print_json({"error": data})
    else:
        _print_error(message)
    return FAILED


def _unexpected(error: Exception) -> dict[str, object]:
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    return {"code": "unexpected", "message": f"{what}. TALLYSTICK_DEBUG=1 shows where it comes from."}


def one_line(message: str) -> str:
    """Return a message without line breaks, and without what is not for people."""
    return " ".join(_NOISE.sub("", message).split())


def _print_error(message: str) -> None:
    from rich.text import Text

    line = Text.assemble(("Error:", "bold red"), " ", message)
    error_console().print(line, soft_wrap=True)
