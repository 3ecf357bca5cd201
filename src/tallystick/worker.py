"""The worker: what is due by the clock, done over and over, until it is told to stop.

It uses `Tallystick` as any application does, and keeps nothing of its own: any number of workers may run on one
database, and one that is killed leaves its work to the others.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tallystick.errors import Closed, ConfigurationError, StorageError, TallystickError

if TYPE_CHECKING:
    from tallystick import Tallystick

__all__ = ["Round", "Worker", "failure_as_json", "in_words", "pause_after_failures", "stopping_on_signals"]

logger = logging.getLogger("tallystick.worker")

_JITTER = 0.1
# After work there is often more: what came meanwhile, or what was more than one round takes.
_BUSY_PAUSE_SECONDS = 1.0
_RETRY_SECONDS_MAX = 60.0
_HEARTBEAT_SECONDS = 1.0
_CLEANUP_EVERY = timedelta(days=1)

# Workers of one Tallystick take turns: a round never begins before the one before has ended.
_turns: WeakKeyDictionary[Tallystick, threading.Lock] = WeakKeyDictionary()
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Round:
    """One round of due jobs: what was `done`, as `ts.run_due_jobs()` returns it, and which jobs `failed`, and why.

    `at` is when it began, by the clock of Tallystick. `done` is None where the round came to nothing.
    """

    number: int
    at: datetime
    seconds: float
    done: Any
    failed: tuple[tuple[str, Exception], ...] = ()
    events_removed: int = 0

    @property
    def has_storage_error(self) -> bool:
        return any(isinstance(error, StorageError) for _, error in self.failed)

    @property
    def counts(self) -> dict[str, int]:
        """What was done of each kind, without what was not; deliveries as "messages_sent" and the like."""
        found = {} if self.done is None else dict(self.done.to_dict())
        deliveries = found.pop("deliveries", {})
        found.pop("failed", None)
        found |= {f"messages_{name}": number for name, number in deliveries.items()}
        found["events_removed"] = self.events_removed
        return {name: number for name, number in found.items() if number}

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values: every kind of work with its number, and each failure with its reason."""
        done = {} if self.done is None else dict(self.done.to_dict())
        done.pop("failed", None)
        return {
            "round": self.number,
            "at": self.at.isoformat(),
            "seconds": round(self.seconds, 3),
            "done": {**done, "events_removed": self.events_removed},
            "failed": [failure_as_json(name, error) for name, error in self.failed],
        }


class Worker:
    """Runs the due jobs of a Tallystick every `interval_seconds`, a tenth more or less, so that workers do not march.

    A round that fails is told, and the next one comes: after a pause that grows, where the database is away. `tell` is
    called after each round. `stop`, an event, ends it after the portion in hand; so does `max_seconds` of `run`.

    With `cleanup`, old events are removed once a day as `ts.usage.cleanup()` does it, after `storage.prune_after_days`.
    `heartbeat` is a file that is written at each round and between its portions: its age says whether the worker lives.
    """

    def __init__(
        self,
        ts: Tallystick,
        *,
        interval_seconds: float = 10.0,
        stop: threading.Event | None = None,
        tell: Callable[[Round], None] | None = None,
        cleanup: bool = False,
        heartbeat: str | os.PathLike[str] | None = None,
    ) -> None:
        self._ts = ts
        self._interval_seconds = interval_seconds
        self._stop = threading.Event() if stop is None else stop
        self._tell = tell or _log
        self._cleans_up = cleanup
        self._cleaned_at: datetime | None = None
        self._heartbeat = None if heartbeat is None else Path(heartbeat)
        self._beaten_at = float("-inf")
        self._last: dict[str, object] = {"round": 0}
        self._stops_at = float("inf")
        self._rounds = 0
        self._failures = 0

    def run(self, *, once: bool = False, max_seconds: float | None = None) -> Round | None:
        """Work until it is stopped, or do one round, and return the last round; None where it never came to one.

        Raises:
            Closed: the Tallystick was closed.
        """
        self._stops_at = float("inf") if max_seconds is None else time.monotonic() + max_seconds
        last: Round | None = None
        while not self._is_stopping():
            last = self.run_round()
            if once:
                break
            self._wait(self._pause(last))
        return last

    def run_round(self) -> Round:
        """Do one round: everything that is due now, as far as the worker is not stopped."""
        with _turns.setdefault(self._ts, threading.Lock()):
            self._rounds += 1
            began, at = time.monotonic(), self._ts.clock.now()
            done, failed = self._due_jobs()
            removed = 0
            if self._cleans_up and not any(isinstance(error, StorageError) for _, error in failed):
                try:
                    removed = self._clean_up(at)
                except Exception as error:  # noqa: BLE001  # told as the failure of a job is
                    failed.append(("cleanup", error))
            made = Round(self._rounds, at, time.monotonic() - began, done, tuple(failed), removed)
        self._failures = self._failures + 1 if made.has_storage_error else 0
        self._beat(made)
        self._tell(made)
        return made

    def stop(self) -> None:
        """End the work after the portion in hand. Safe from any thread, and from a signal's handler."""
        self._stop.set()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _due_jobs(self) -> tuple[Any, list[tuple[str, Exception]]]:
        try:
            return self._ts.run_due_jobs(stopping=self._is_stopping), []
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001  # the worker outlives whatever one round brings
            done = getattr(error, "done", None)
            if done is None:
                return None, [("due_jobs", error)]
            return done, list(zip(done.failed, done.errors, strict=True))

    def _clean_up(self, at: datetime) -> int:
        if self._is_stopping() or (self._cleaned_at is not None and at - self._cleaned_at < _CLEANUP_EVERY):
            return 0
        removed = 0

        def progress(done: int, _: int) -> None:
            nonlocal removed
            removed = done
            if self._is_stopping():
                raise _Stopped

        try:
            self._ts.usage.cleanup(progress=progress)
        except _Stopped:
            return removed
        self._cleaned_at = at
        return removed

    def _is_stopping(self) -> bool:
        """Say whether to stop. It is asked between portions of work, so it is also where a long round shows life."""
        self._beat()
        return self._stop.is_set() or time.monotonic() >= self._stops_at

    def _pause(self, last: Round) -> float:
        if self._failures:
            return pause_after_failures(self._failures)
        seconds = self._interval_seconds
        if last.counts and not last.failed:
            seconds = min(seconds, _BUSY_PAUSE_SECONDS)
        return seconds * _random.uniform(1 - _JITTER, 1 + _JITTER)

    def _wait(self, seconds: float) -> None:
        ends_at = min(time.monotonic() + seconds, self._stops_at)
        while not self._is_stopping():
            left = ends_at - time.monotonic()
            if left <= 0 or self._stop.wait(min(left, _HEARTBEAT_SECONDS if self._heartbeat else left)):
                return

    def _beat(self, made: Round | None = None) -> None:
        """Write the heartbeat, at most once a second but for the end of a round."""
        now = time.monotonic()
        if self._heartbeat is None or (made is None and now - self._beaten_at < _HEARTBEAT_SECONDS):
            return
        self._beaten_at = now
        if made is not None:
            self._last = made.to_dict()
        written = self._heartbeat.with_name(f"{self._heartbeat.name}.{os.getpid()}")
        try:
            written.write_text(json.dumps({"pid": os.getpid(), **self._last}) + "\n", encoding="utf-8")
            written.replace(self._heartbeat)
        except OSError as error:
            # Work goes on: whoever watches the file sees that it grows old, and here is why.
            logger.warning("The heartbeat %s cannot be written: %s", self._heartbeat, error)


class _Stopped(Exception):
    """Ends a clean-up between two of its portions."""


def pause_after_failures(failures: int) -> float:
    """Return how many seconds to wait before the database is tried again: 1, 2, 4, … 60, each up to a tenth more."""
    return min(_RETRY_SECONDS_MAX, 2.0 ** min(failures - 1, 10)) * _random.uniform(1, 1 + _JITTER)


def failure_as_json(name: str, error: Exception) -> dict[str, object]:
    """Return what failed, and why, as plain JSON values."""
    if isinstance(error, TallystickError):
        return {"job": name, "code": error.code, "message": error.message}
    return {"job": name, "code": "unexpected", "message": f"{type(error).__name__}: {error}"}


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT set an event; a second one ends the process at once. Only for the main thread.

    Ended so, its exit code is 128 and the signal's number, and what was not committed is undone by the database.

    Raises:
        ConfigurationError: this is another thread, which gets no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("signals", "this thread", "Only the main thread of a process gets signals.")
    # Python calls a handler only between two of its own steps, which a thread that waits for a database does not take.
    # The number of a signal is written here by the system's handler itself, and another thread reads it.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {one: signal.signal(one, _passed_on) for one in (signal.SIGTERM, signal.SIGINT)}
    wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, stop), name="tallystick-signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for one, handler in before.items():
            signal.signal(one, handler)
        writer.close()
        watcher.join()
        reader.close()


def _passed_on(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number was written to the watcher. Without a handler the system would end the process."""


def _watch(reader: socket.socket, stop: threading.Event) -> None:
    asked = 0
    while numbers := reader.recv(64):
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                asked += 1
                if asked > 1:
                    os._exit(128 + number)
                stop.set()


def _log(made: Round) -> None:
    for name, error in made.failed:
        logger.error("Round %d: %s failed: %s", made.number, name, error)
    if made.counts:
        logger.info("Round %d: %s (%.1f s)", made.number, in_words(made.counts), made.seconds)


def in_words(counts: dict[str, int]) -> str:
    """Return what was done in one line: "invoices 3, renewals 2"."""
    return ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in counts.items())
