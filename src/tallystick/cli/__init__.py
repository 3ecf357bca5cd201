"""The command line: `tallystick`. Each command is one file; this one only starts it."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that the process was started with, and end the process with its exit code."""
    from tallystick.cli.application import application

    application(prog_name="tallystick")
