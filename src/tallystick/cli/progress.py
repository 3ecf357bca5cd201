"""A progress bar on standard error, where that is a terminal and a person reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tallystick.cli.output import error_console

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(what: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how many of how many are done; it does nothing under --json or without a terminal."""
    out = error_console()
    if as_json or not out.is_terminal:
        yield lambda done, total: None  # noqa: ARG005  # nobody looks
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
