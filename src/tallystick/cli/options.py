"""The options that commands share, and the engine that they lead to."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from tallystick import Tallystick
    from tallystick.settings import Settings

__all__ = [
    "AsJson",
    "Billable",
    "Config",
    "Database",
    "End",
    "Start",
    "open_any",
    "open_existing",
    "shown_url",
    "the_same",
]

Database: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Database: sqlite:///file.db or postgresql://… Without it: TALLYSTICK_DATABASE_URL, the settings file, "
        "./tallystick.db.",
    ),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Settings file. Without it: TALLYSTICK_CONFIG, or ./tallystick.toml where there is one."
    ),
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output and nothing else there; errors too.")
]
Billable: TypeAlias = Annotated[str | None, typer.Option(metavar="TYPE:ID", help="Only this billable, such as user:1.")]
Start: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="From then on: a date or time, in the account's zone unless it names one."),
]
End: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TIME", help="Until just before then: a date or time, as for --start.")
]


def open_any(database: str | None, config: Path | None) -> Tallystick:
    """Return an engine; the database is created on first use."""
    from tallystick import Tallystick

    return Tallystick(database, config=config)


def open_existing(database: str | None, config: Path | None) -> Tallystick:
    """Return an engine on a database that is there.

    A question to a database that does not exist is a wrong name: it is refused, not answered with an empty one.

    Raises:
        NotFound: there is no such database, or it holds nothing of Tallystick's.
    """
    from tallystick import Tallystick
    from tallystick.errors import NotFound
    from tallystick.settings import Settings
    from tallystick.upkeep import look_at_database

    settings = Settings.load(database, config)
    if look_at_database(settings).schema is None:
        raise NotFound(
            "database", shown_url(settings), "Name another one with --database, or create it with tallystick init."
        )
    return Tallystick(database, config=config)


def shown_url(settings: Settings) -> str:
    """Return the database's URL as it may be shown: without a password."""
    return next(str(row.value) for row in settings.describe() if row.key == "database_url")


def the_same(settings: Settings, database: str | None, config: Path | None) -> str:
    """Return the options with which another command works on the same database; a password is never repeated."""
    words: list[str] = []
    if config is not None:
        words += ["--config", str(config)]
    if database is not None and shown_url(settings) == settings.database_url:
        words += ["--database", database]
    return "".join(f" {shlex.quote(word)}" for word in words)
