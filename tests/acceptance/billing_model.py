"""What a customer owes for subscriptions, by the documented rules, with arithmetic and a calendar of its own.

Instants are whole microseconds of UTC, amounts whole nanos. Nothing here is shared with the code under test.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

DAY = 86_400_000_000
NEVER = 10**18
MONTHS = {"monthly": 1, "quarterly": 3, "yearly": 12}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(instant: str | datetime) -> int:
    """Return an instant as microseconds."""
    parsed = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - _EPOCH) // timedelta(microseconds=1)


def instant_of(at: int) -> datetime:
    """Return microseconds as an instant."""
    return _EPOCH + timedelta(microseconds=at)


def months_after(anchor: int, months: int, zone: str) -> int:
    """Return the anniversary of an anchor so many months later: its wall time, on the last day of a shorter month."""
    if months == 0:
        return anchor
    local = instant_of(anchor).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    return first_reading(local.replace(year=year, month=month + 1, day=day), ZoneInfo(zone))


def first_reading(wall: datetime, zone: ZoneInfo) -> int:
    """Return the first instant at which the clock reads a wall time, or what comes after it where it is skipped."""
    at = micros(wall.replace(tzinfo=zone))
    shown = instant_of(at).astimezone(zone).replace(tzinfo=None)
    if shown == wall:
        return at
    # Skipped: `at` lies after the change, by as much as the wall time lies after the gap's beginning.
    offset = instant_of(at).astimezone(zone).utcoffset()
    low, high = at - 2 * DAY, at
    while high - low > 1:
        middle = (low + high) // 2
        if instant_of(middle).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high


def share(price: int, start: int, end: int, part_start: int, part_end: int) -> int:
    """Return what a part of a period costs: the difference of two rounded prices since the period's start."""
    length = end - start
    until_end = round(Fraction(price * (part_end - start), length))
    return until_end - round(Fraction(price * (part_start - start), length))


@dataclass(frozen=True)
class Offer:
    """A plan as it is sold, with its price in nanos."""

    slug: str
    price: int
    cycle: str = "monthly"


@dataclass
class Owed:
    """One subscription, moved through time: `total` is what its fees come to so far.

    `paid_as` is the price at which the rest of the running period was charged; None: it was given back, or never paid.
    """

    offer: Offer
    anchor: int
    zone: str = "UTC"
    grace: int = 7 * DAY
    term: int = NEVER
    now: int = 0
    start: int = 0
    total: int = 0
    paid_as: int | None = None
    period: tuple[int, int] = (0, 0)
    periods: int = 0
    is_paused: bool = False
    is_cancelled: bool = False
    cancels: int = NEVER
    failed: int = NEVER
    # Periods that begin until then were billed ahead before the payment failed.
    billed_ahead_until: int = 0
    unused: int | None = None
    planned: tuple[int, Offer] | None = None
    # From when on it followed which offer, or none; and from when on months were counted anew.
    history: list[tuple[int, str | None]] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)

    def copy(self) -> Owed:
        return replace(self, history=list(self.history), anchors=list(self.anchors))

    def slug_at(self, at: int) -> str | None:
        """Return the offer that was followed at an instant; None: it was not in force."""
        return next((slug for start, slug in reversed(self.history) if start <= at), None)

    def month_start(self, at: int) -> int | None:
        """Return the start of the month in which use at an instant is priced; None before the first anchor."""
        anchor = max((one for one in self.anchors if one <= at), default=None)
        if anchor is None:
            return None
        number = 0
        while months_after(anchor, number + 1, self.zone) <= at:
            number += 1
        return months_after(anchor, number, self.zone)

    def _note(self, at: int) -> None:
        """Note what is followed from an instant on."""
        slug = self.offer.slug if self.is_in_force else None
        if not self.history or self.history[-1][1] != slug:
            self.history.append((at, slug))
        if self.periods and self.anchor not in self.anchors:
            self.anchors.append(self.anchor)

    @property
    def end(self) -> int:
        return min(self.term, self.cancels, self.failed + self.grace)

    @property
    def has_ended(self) -> bool:
        return self.now >= min(self.term, self.cancels)

    @property
    def has_expired(self) -> bool:
        return self.now >= self.failed + self.grace

    @property
    def is_in_force(self) -> bool:
        return self.now >= self.start and not self.has_ended and not self.has_expired and not self.is_paused

    @property
    def paid_until(self) -> int:
        """The end of the running period; of a trial its end; before the start the start."""
        if self.now < self.start:
            return self.start
        return self.anchor if self.now < self.anchor else self.period[1]

    def _next_start(self) -> int:
        return self.anchor if self.periods == 0 else self.period[1]

    def advance(self, to: int) -> None:
        """Let time pass: periods begin, fees fall due, a planned change is made."""
        if self.now < self.start <= to:
            self._pass(self.start)
        while (at := self._next_start()) <= to and at < NEVER:
            self._expire(at)
            self._pass(at)
            self._begin(at)
            self._note(at)
        self._pass(to)

    def _pass(self, to: int) -> None:
        """Move to an instant, past the end if it lies before it."""
        if self.now < self.end <= to:
            self.now = self.end
            self._note(self.end)
        self.now = to
        self._note(to)

    def _expire(self, by: int) -> None:
        """Note what was paid of the time after the grace period ran out, in the period in which it did."""
        ended_at = self.failed + self.grace
        if self.unused is None and ended_at < by and self.periods:
            self.unused = self._rest(self.paid_as, since=max(ended_at, self.period[0]))

    def _begin(self, at: int) -> None:
        # What was planned for a time at which it had expired does not come.
        if self.planned is not None and self.planned[0] <= at and not self.has_expired:
            changed, self.planned = self.planned[1], None
            if self._follow(changed):
                self.anchor, self.periods = at, 0
        self._open(at)

    def _follow(self, offer: Offer) -> bool:
        """Follow another offer; say whether its cycle is another."""
        is_other = offer.cycle != self.offer.cycle
        self.offer = offer
        return is_other

    def _open(self, at: int) -> None:
        """Begin the period that starts now, and charge its fee."""
        self.periods += 1
        if self.offer.cycle == "lifetime":
            self.period = (at, NEVER)
        else:
            step = MONTHS[self.offer.cycle]
            self.period = (at, months_after(self.anchor, self.periods * step, self.zone))
        self.paid_as = None
        if self.is_in_force or (at <= self.billed_ahead_until and not self.is_paused and not self.has_ended):
            end = min(self.period[1], self.term)
            amount = self.offer.price
            if self.period[1] < NEVER:
                amount = share(self.offer.price, *self.period, at, end)
            self.total += amount
            self.paid_as = self.offer.price

    def _rest(self, price: int | None, since: int | None = None, until: int | None = None) -> int:
        """Return what is left of the running period at a price, as far as the term goes."""
        start = self.now if since is None else since
        end = min(self.period[1], self.term if until is None else until)
        if price is None or self.periods == 0 or self.period[1] >= NEVER or end <= start:
            return 0
        return share(price, *self.period, start, end)

    def change(self, offer: Offer, *, prorate: bool, at_period_end: bool) -> None:
        """Follow another offer, now or from the period's end on; a change that was planned is dropped."""
        self.planned = None
        if offer.slug == self.offer.slug:
            return
        if at_period_end:
            self.planned = (self.paid_until, offer)
            return
        if self.periods == 0:
            # Nothing is paid before the first period.
            self.offer = offer
            return
        if self.now == self.period[0]:
            # Nothing of the period has passed: it is charged as if it had begun with this.
            self.total -= self._whole()
            self.periods -= 1
            if self._follow(offer):
                self.anchor, self.periods = self.now, 0
            self._open(self.now)
            return
        if prorate:
            self.total -= self._rest(self.paid_as)
            self.paid_as = None
        if self._follow(offer):
            self.anchor, self.periods = self.now, 0
            self._open(self.now)
        elif prorate:
            self.total += self._rest(offer.price)
            self.paid_as = offer.price

    def _whole(self) -> int:
        if self.paid_as is None:
            return 0
        return self.paid_as if self.period[1] >= NEVER else self._rest(self.paid_as)

    def pause(self, *, prorate: bool) -> None:
        self.planned = None
        self.is_paused = True
        if self.periods and (prorate or self.now == self.period[0]):
            self._give_back()

    def _give_back(self) -> None:
        self.total -= self._whole() if self.now == self.period[0] else self._rest(self.paid_as)
        self.paid_as = None

    def resume(self) -> None:
        """Go on after a pause, or take a cancellation back."""
        if not self.is_paused:
            self.cancels, self.is_cancelled = NEVER, False
            return
        self.is_paused = False
        if self.periods and self.paid_as is None and self.is_in_force:
            amount = self._rest(self.offer.price)
            if self.period[1] >= NEVER and self.now == self.period[0]:
                amount = self.offer.price
            self.total += amount
            self.paid_as = self.offer.price

    def cancel(self, *, immediately: bool, prorate: bool) -> None:
        if immediately:
            if self.periods and (prorate or self.now == self.period[0]) and not self.has_expired:
                self._give_back()
            self.cancels = self.now
        elif not self.is_cancelled:
            # One that has expired has no period that is paid.
            self.cancels = self.now if self.has_expired else self.paid_until
        self.is_cancelled = True
        if self.planned is not None and self.planned[0] >= self.cancels:
            self.planned = None

    def fail(self) -> None:
        if self.failed == NEVER:
            self.failed = self.now
            self.unused = None

    def succeed(self) -> None:
        """A payment came. After the grace period had run out, the subscription begins anew.

        One that is cancelled to the end of its period, which was charged, goes on until then.
        """
        ended_at = self.failed + self.grace
        has_expired, self.failed = self.has_expired, NEVER
        if has_expired and self.is_cancelled:
            self.unused, self.planned, self.is_paused = None, None, False
        elif has_expired:
            self._give_back_unused(ended_at)
            self._revive()

    def renew(self) -> None:
        """Go on for another period."""
        was_expired = self.has_expired or self.now >= self.term
        self.cancels, self.is_cancelled = NEVER, False
        had_term = self.term < NEVER
        if was_expired:
            ended_at = min(self.term, self.failed + self.grace)
            self._give_back_unused(ended_at)
            self.term, self.failed = NEVER, NEVER
            self._revive(has_term=had_term)
        elif had_term:
            before = self.term
            self.term = self._end_of_period_around(before)
            if self.periods and self.period[0] <= before < self.period[1] and self.paid_as is not None:
                self.total += self._rest(self.paid_as, since=before)

    def _end_of_period_around(self, at: int) -> int:
        offer, anchor = self.offer, self.anchor
        if self.planned is not None and self.planned[0] <= at and self.planned[1].cycle != offer.cycle:
            anchor, offer = self.planned
        if offer.cycle == "lifetime":
            return NEVER
        step = MONTHS[offer.cycle]
        number = 1
        while months_after(anchor, number * step, self.zone) <= at:
            number += 1
        return months_after(anchor, number * step, self.zone)

    def _give_back_unused(self, ended_at: int) -> None:
        """The time in between is not charged: what was paid of it is given back."""
        if self.unused is None and self.periods:
            self.unused = self._rest(self.paid_as, since=max(ended_at, self.period[0]))
        self.total -= self.unused or 0
        self.unused = None

    def _revive(self, *, has_term: bool = False) -> None:
        self.planned = None
        self.is_paused = False
        self.failed = NEVER
        if self.now < self.anchor:
            # The trial goes on.
            return
        self.anchor, self.periods = self.now, 0
        if has_term:
            self.term = self._end_of_period_around(self.now)
        self._open(self.now)

    def refuses(self, step: tuple[Any, ...], offers: Mapping[str, Offer]) -> bool | None:
        """Say whether a step is refused as things stand; None for what is not tried, as it is told elsewhere."""
        kind = step[0]
        if kind == "change":
            return self._refuses_change(offers[step[1]], at_period_end=step[3])
        if kind == "pause":
            return None if self.failed < NEVER else not self.is_in_force
        if kind == "resume":
            return self.has_ended or not (self.is_paused or self.is_cancelled)
        if kind == "cancel":
            is_endless = not step[1] and self.paid_until >= NEVER and not self.has_expired
            return None if is_endless else self.has_ended
        if kind == "renew":
            if self.is_paused or self.offer.cycle == "lifetime":
                return None
            return self.cancels <= min(self.now, self.term)
        if kind == "fail":
            return False if self.is_in_force and self.failed == NEVER else None
        return False if self.failed < NEVER and not self.has_ended else None

    def _refuses_change(self, offer: Offer, *, at_period_end: bool) -> bool | None:
        if self.is_paused or self.has_ended or self.has_expired:
            return True
        if offer.slug == self.offer.slug:
            return False
        if at_period_end:
            return None if self.paid_until >= NEVER else min(self.term, self.cancels) <= self.paid_until
        return self.is_cancelled and self.periods > 0 and offer.cycle != self.offer.cycle

    def take(self, step: tuple[Any, ...], offers: Mapping[str, Offer]) -> None:
        """Carry a step out that is not refused."""
        kind = step[0]
        if kind == "change":
            self.change(offers[step[1]], prorate=step[2], at_period_end=step[3])
        elif kind == "pause":
            self.pause(prorate=step[1])
        elif kind == "cancel":
            self.cancel(immediately=step[1], prorate=step[2])
        else:
            {"resume": self.resume, "renew": self.renew, "fail": self.fail, "succeed": self.succeed}[kind]()
        self._note(self.now)

    def ahead(self, days: int) -> int:
        """Return what was charged, with the fees of periods that begin within so many days, as things stand."""
        seen = self.copy()
        if days and self.failed < NEVER and not self.has_expired:
            seen.billed_ahead_until = self.failed + days * DAY
        seen.advance(self.now + days * DAY)
        return seen.total
