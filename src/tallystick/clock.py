"""Where the time comes from: the system, or a clock that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Protocol

from tallystick.period import parse_instant

__all__ = ["Clock", "FixedClock", "SystemClock"]


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is moved: for tests, demonstrations and replays. Safe to share by threads.

    It may be moved backwards; what was recorded under the later time stays as it is.

    Raises:
        InvalidInput: for a time that is not an instant, such as a naive datetime.
    """

    def __init__(self, instant: str | datetime) -> None:
        self._lock = Lock()
        self._now = parse_instant(instant)

    def now(self) -> datetime:
        """Return the instant at which the clock stands, aware, in UTC."""
        return self._now

    def set(self, instant: str | datetime) -> None:
        """Move the clock to an instant, forwards or backwards."""
        moved = parse_instant(instant)
        with self._lock:
            self._now = moved

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0, microseconds: int = 0
    ) -> None:
        """Move the clock by an elapsed time; a day is 24 hours."""
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=microseconds)
        # Reading and writing are two steps: without the lock, two threads that advance at once would advance once.
        with self._lock:
            self._now += step

    def __repr__(self) -> str:
        return f"FixedClock({self._now.isoformat()!r})"
