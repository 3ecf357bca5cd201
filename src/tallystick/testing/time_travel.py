"""Moving an engine's clock over days and months, with everything that falls due on the way done in its order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tallystick.clock import FixedClock
from tallystick.errors import InvalidInput
from tallystick.period import from_micros, parse_instant, to_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.app import Tallystick
    from tallystick.due_jobs import DueJobs

__all__ = ["Journey", "Stop", "TimeTravel", "time_travel"]


@dataclass(frozen=True, slots=True)
class Stop:
    """An instant at which the due jobs ran, and what they did."""

    at: datetime
    done: DueJobs


@dataclass(frozen=True, slots=True)
class Journey:
    """The stops of one journey, in order, the start and the end among them."""

    stops: tuple[Stop, ...]

    def __iter__(self) -> Iterator[Stop]:
        return iter(self.stops)

    def __len__(self) -> int:
        return len(self.stops)

    @property
    def invoices(self) -> int:
        """How many invoices were made on the way."""
        return sum(stop.done.invoices for stop in self.stops)

    @property
    def renewals(self) -> int:
        """How many billing periods have begun on the way."""
        return sum(stop.done.renewals for stop in self.stops)

    @property
    def expirations(self) -> int:
        """How many subscriptions have expired on the way."""
        return sum(stop.done.expirations for stop in self.stops)

    @property
    def notifications(self) -> int:
        """How many notifications the clock had customers told."""
        return sum(stop.done.notifications for stop in self.stops)


class TimeTravel:
    """Moves the clock of an engine forward, and stops wherever something may fall due.

    It stops at every instant at which a subscription is to be billed and at every midnight (UTC), and runs the due jobs
    there, as a worker would have done; so an invoice is dated on its day, a reminder comes before what it warns of, and
    a subscription that ends in March is charged for February first. It begins with what is due already.
    """

    def __init__(self, ts: Tallystick, clock: FixedClock) -> None:
        if ts.clock is not clock:
            raise InvalidInput("clock", clock, "Give the FixedClock with which the engine was opened.")
        self._ts = ts
        self._clock = clock

    def __call__(self, *, days: float = 0, hours: float = 0, minutes: float = 0) -> Journey:
        """Move the clock by an elapsed time; a day is 24 hours.

        Raises:
            InvalidInput: it would go back.
        """
        return self.to(self._clock.now() + timedelta(days=days, hours=hours, minutes=minutes))

    def to(self, instant: str | datetime) -> Journey:
        """Move the clock to an instant, or to the midnight (UTC) of a date such as "2026-03-01".

        Raises:
            InvalidInput: it is no instant, or lies in the past.
        """
        end = parse_instant(instant)
        if end < self._clock.now():
            raise InvalidInput("instant", str(instant), f"It is {self._clock.now().isoformat()} already.")
        stops = [self._stop(self._clock.now())]
        while self._clock.now() < end:
            stops.append(self._stop(self._next_stop(end)))
        return Journey(tuple(stops))

    def _stop(self, at: datetime) -> Stop:
        self._clock.set(at)
        return Stop(at, self._ts.run_due_jobs())

    def _next_stop(self, end: datetime) -> datetime:
        now = self._clock.now()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        next_billing_at = tables.subscriptions.c.next_billing_at
        query = select(func.min(next_billing_at)).where(next_billing_at > to_micros(now))
        billing = self._ts._engine.read(lambda connection: connection.execute(query).scalar())
        return min(end, midnight) if billing is None else min(end, midnight, from_micros(billing))


def time_travel(ts: Tallystick, clock: FixedClock) -> TimeTravel:
    """Return what moves the clock of an engine: `travel = time_travel(ts, clock)`, then `travel(days=31)`.

    Raises:
        InvalidInput: it is not the clock with which the engine was opened.
    """
    return TimeTravel(ts, clock)
