"""Where the time of our side goes: on the processor by thread, and by function."""

from __future__ import annotations

import cProfile
import gc
import pstats
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.databases import Database, Databases
from benchmarks.lane import Ours
from benchmarks.rounds import Contestant, Limit
from benchmarks.work import Work

__all__ = ["print_profile"]

_LINES = 12
_WRITER = "tallystick-lane"


def print_profile(console: Console, databases: Databases, work: Work, seconds: float) -> None:
    """Print what work costs on the processor and which functions that is, for one caller and for many."""
    for who, callers in (("1 caller", 1), ("64 async callers", 64)):
        console.rule(f"{databases.kind}, {work.name}, {who}")
        name = f"profile_{work.name}_{callers}"
        _print_processor_time(console, databases.fresh(name), work, callers, seconds)
        caller = cProfile.Profile()
        with closing(Ours(databases.fresh(f"{name}_caller"))) as ours:
            ours.warm_up(work.billables, work)
            run = _run(ours, work, callers)
            caller.enable()
            done = run(Limit(seconds)).done
            caller.disable()
        console.print(_functions("The callers' thread", caller, done))
        if callers > 1:
            writer = cProfile.Profile()
            _profile_next_writer(writer)
            with closing(Ours(databases.fresh(f"{name}_writer"))) as ours:
                done = ours.warm_up(work.billables, work)
                done += _run(ours, work, callers)(Limit(seconds)).done
            console.print(_functions("The lane's writer", writer, done))


def _run(ours: Ours, work: Work, callers: int) -> Contestant:
    return ours.one_caller(work.billables, work) if callers == 1 else ours.tasks(work.billables, callers, work)


def _print_processor_time(console: Console, database: Database, work: Work, callers: int, seconds: float) -> None:
    with closing(Ours(database)) as ours:
        ours.warm_up(work.billables, work)
        run = _run(ours, work, callers)
        before, writer_before = time.thread_time(), _writer_time()
        with _collections_watched() as pauses:
            done = run(Limit(seconds))
        caller, writer = time.thread_time() - before, _writer_time() - writer_before
    each = 1e6 / done.done
    console.print(
        f"{done.rate:,.0f} {work.name}/s: {done.seconds * each:,.0f} µs each, of it on the processor "
        f"{caller * each:,.0f} µs in the callers' thread and {writer * each:,.0f} µs in the lane's writer. "
        f"Python's garbage collection took {sum(pauses) * each:,.1f} µs of these, "
        f"at most {max(pauses, default=0) * 1000:,.0f} ms at once."
    )


@contextmanager
def _collections_watched() -> Iterator[list[float]]:
    """Collect how long each garbage collection takes, in seconds. They stop every thread."""
    pauses: list[float] = []
    began = 0.0

    def watch(phase: str, _information: object) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            pauses.append(time.perf_counter() - began)

    gc.callbacks.append(watch)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(watch)


def _writer_time() -> float:
    """Return the processor seconds of the lane's writer; 0 where there is none."""
    writers = [thread for thread in threading.enumerate() if thread.name == _WRITER and thread.ident is not None]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0)) for thread in writers)


def _profile_next_writer(profile: cProfile.Profile) -> None:
    """Let the profile begin in the lane's thread, with the first call there: a profile belongs to one thread."""

    def begin(_frame: object, _event: str, _argument: object) -> None:
        sys.setprofile(None)
        if threading.current_thread().name == _WRITER:
            threading.setprofile(None)
            profile.enable()

    threading.setprofile(begin)


def _functions(title: str, profile: cProfile.Profile, done: int) -> Table:
    stats: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    longest = sorted(stats.items(), key=lambda entry: -entry[1][2])[:_LINES]
    table = Table(title=f"{title}: own time (calls of Python look slower under the profiler)", title_style="")
    table.add_column("µs each", justify="right")
    table.add_column("calls each", justify="right")
    table.add_column("function")
    for (file, line, name), (_, calls, own, *_rest) in longest:
        where = f"{Path(file).parent.name}/{Path(file).name}:{line} " if line else ""
        table.add_row(f"{own / done * 1e6:,.1f}", f"{calls / done:.2f}", f"{where}{name}")
    return table
