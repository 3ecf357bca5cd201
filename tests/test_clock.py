"""A clock tells aware UTC; a fixed one stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier, Thread

import pytest

from tallystick.clock import Clock, FixedClock, SystemClock
from tallystick.errors import InvalidInput

NAIVE = datetime(2026, 1, 31, 10)  # noqa: DTZ001


def test_the_system_clock_tells_the_present_in_utc() -> None:
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    now = clock.now()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC


def test_a_fixed_clock_stands_still() -> None:
    clock: Clock = FixedClock("2026-01-31T10:00:00Z")
    assert clock.now() == clock.now() == datetime(2026, 1, 31, 10, tzinfo=UTC)


def test_a_fixed_clock_tells_utc_wherever_it_was_set() -> None:
    clock = FixedClock(datetime(2026, 1, 31, 10, tzinfo=timezone(timedelta(hours=-3))))
    assert clock.now().isoformat() == "2026-01-31T13:00:00+00:00"
    assert repr(clock) == "FixedClock('2026-01-31T13:00:00+00:00')"


def test_a_fixed_clock_is_set_forwards_and_backwards() -> None:
    clock = FixedClock("2026-01-31T10:00:00Z")
    clock.set("2026-02-28T23:59:59Z")
    assert clock.now() == datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    clock.set(datetime(2025, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(2025, 1, 1, tzinfo=UTC)


def test_a_fixed_clock_advances_by_all_units_together() -> None:
    clock = FixedClock("2026-02-28T23:59:59Z")
    clock.advance(days=1, hours=2, minutes=3, seconds=4, microseconds=5)
    assert clock.now() == datetime(2026, 3, 2, 2, 3, 3, 5, tzinfo=UTC)


@pytest.mark.parametrize("instant", [NAIVE, "2026-01-31T10:00:00", None, 1769853600, "tomorrow"])
def test_a_fixed_clock_refuses_what_is_not_an_instant_and_stays(instant: object) -> None:
    clock = FixedClock("2026-01-31T10:00:00Z")
    with pytest.raises(InvalidInput):
        clock.set(instant)  # type: ignore[arg-type]
    assert clock.now() == datetime(2026, 1, 31, 10, tzinfo=UTC)
    with pytest.raises(InvalidInput):
        FixedClock(instant)  # type: ignore[arg-type]


def test_threads_that_advance_at_once_lose_no_step() -> None:
    clock, start = FixedClock("2026-01-01T00:00:00Z"), Barrier(4)

    def advance() -> None:
        start.wait()
        for _ in range(2_000):
            clock.advance(microseconds=1)

    threads = [Thread(target=advance) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 0, 8_000, tzinfo=UTC)
