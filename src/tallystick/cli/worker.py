"""`tallystick worker`: doing what is due by the clock, over and over."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.ending import NO, one_line
from tallystick.cli.options import AsJson, Config, Database, open_existing
from tallystick.errors import SchemaOutOfDate, StorageError

if TYPE_CHECKING:
    from tallystick import Tallystick
    from tallystick.worker import Round

__all__ = ["worker"]

_IDLE_LINE_SECONDS = 300.0


def worker(
    interval: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="Pause between two rounds, a tenth more or less.")
    ] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Do one round, and end: for cron.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="End after so long; otherwise it runs on.")
    ] = None,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Once a day, remove events older than storage.prune_after_days.")
    ] = False,
    heartbeat: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was done last to this file; its age shows life.")
    ] = None,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Do what is due: bill subscriptions, release holds, book expired credits, deliver messages, and so on.

    Any number of workers may run on one database, and one may be killed at any time: nothing is done twice. A line is
    printed for each round in which something was done, and every five minutes otherwise; with --json each is an object.

    SIGTERM or Ctrl-C ends it after the portion in hand, a second one at once. While the database is away it is tried
    again, after longer and longer pauses. Exit code 1: in its last round a job failed.
    """
    from tallystick.worker import Worker, stopping_on_signals

    # Each failure is a line of the answer; where it comes from is said with TALLYSTICK_DEBUG=1 to commands, and by the
    # log to applications.
    logging.getLogger("tallystick.jobs").addHandler(logging.NullHandler())
    stop = threading.Event()
    log = _Log(as_json=as_json, is_once=once)
    stops_at = float("inf") if max_seconds is None else time.monotonic() + max_seconds
    with stopping_on_signals(stop):
        ts = _opened(database, config, stop, log, stops_at=time.monotonic() if once else stops_at)
        if ts is None:
            return 0
        with ts:
            log.started(ts, interval)
            work = Worker(
                ts, interval_seconds=interval, stop=stop, tell=log.round, cleanup=cleanup, heartbeat=heartbeat
            )
            left = None if max_seconds is None else stops_at - time.monotonic()
            last = work.run(once=once, max_seconds=left)
            log.stopped(last)
    return NO if last is not None and last.failed else 0


def _opened(
    database: str | None, config: Path | None, stop: threading.Event, log: _Log, *, stops_at: float
) -> Tallystick | None:
    """Open the database, and wait for it where it is away, until `stops_at`; None where the worker was stopped."""
    from tallystick.worker import pause_after_failures

    failures = 0
    while not stop.is_set():
        try:
            return open_existing(database, config)
        except StorageError as error:
            failures += 1
            pause = pause_after_failures(failures)
            if isinstance(error, SchemaOutOfDate) or time.monotonic() + pause >= stops_at:
                raise
            log.waiting(error, pause)
            stop.wait(pause)
    return None


class _Log:
    """What the worker says: a line for people, or an object, each at once."""

    def __init__(self, *, as_json: bool, is_once: bool) -> None:
        self._as_json = as_json
        self._is_once = is_once
        self._said_at = float("-inf")

    def started(self, ts: Tallystick, interval: float) -> None:
        if self._is_once:
            return
        at = ts.clock.now()
        self._say({"event": "started", "at": at.isoformat()}, at, f"Working, every {interval:g} seconds.")

    def round(self, made: Round) -> None:
        from tallystick.worker import in_words

        is_quiet = not (made.counts or made.failed)
        if is_quiet and not self._is_once and time.monotonic() - self._said_at < _IDLE_LINE_SECONDS:
            return
        done = in_words(made.counts) if made.counts else "nothing was due"
        lines = [f"{done} ({made.seconds:.1f} s)"] if made.counts or not made.failed else []
        lines += [f"{name} failed: {_why(error)}" for name, error in made.failed]
        self._say({"event": "round", **made.to_dict()}, made.at, *lines)

    def waiting(self, error: StorageError, seconds: float) -> None:
        at = datetime.now(UTC)
        why = one_line(str(error))
        what = {"event": "waiting", "at": at.isoformat(), "message": why, "seconds": round(seconds, 3)}
        self._say(what, at, f"{why} Trying again in {seconds:.0f} s.")

    def stopped(self, last: Round | None) -> None:
        if self._is_once:
            return
        at = datetime.now(UTC) if last is None else last.at
        rounds = 0 if last is None else last.number
        self._say({"event": "stopped", "at": at.isoformat(), "rounds": rounds}, at, f"Stopped after {rounds:,} rounds.")

    def _say(self, data: dict[str, object], at: datetime, *lines: str) -> None:
        self._said_at = time.monotonic()
        shown = [f"{at:%Y-%m-%d %H:%M:%S}Z  {line}" for line in lines]
        text = [json.dumps(data, ensure_ascii=False)] if self._as_json else shown
        # Not through the console: a line stays one line, whatever its length, so that it can be searched for.
        sys.stdout.write("".join(f"{line}\n" for line in text))
        sys.stdout.flush()


def _why(error: Exception) -> str:
    said = one_line(str(error))
    return said if isinstance(error, StorageError) else f"{type(error).__name__}: {said}"
