"""`tallystick demo`: the engine at work, with a provider that answers on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from tallystick.cli.options import AsJson

__all__ = ["demo"]


def demo(
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="An empty database to record in; otherwise a new SQLite file.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """See Tallystick at work, with a provider that answers on this machine.

    Nothing leaves the machine, and no key is needed. Exit code 1 where a number is not as it must be.
    """
    from tallystick.cli.output import console
    from tallystick.demo.scenario import run

    return run(database, console(), as_json=as_json)
