"""Instants as people and exports write them: dates, times with and without a zone, and Unix time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from tallystick.errors import InvalidInput
from tallystick.period import Period, PeriodKind, calendar_period, from_micros

__all__ = ["instant", "month", "zone_named"]

_UNIX_TIME = re.compile(r"(\d{9,10})(?:\.(\d+))?|(\d{13})|(\d{16})")
_MONTH = re.compile(r"(?P<year>[1-9]\d{3})-(?P<month>0[1-9]|1[0-2])")
_REMEDY = 'Write "2026-01-31", "2026-01-31 10:00:00", "2026-01-31T10:00:00Z", or Unix time.'


@lru_cache(maxsize=64)
def zone_named(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        InvalidInput: there is none of this name; it says which one was probably meant.
    """
    calendar_period(PeriodKind.DAILY, datetime(2026, 1, 1, tzinfo=UTC), name)
    return ZoneInfo(name)


def instant(text: object, zone: ZoneInfo, *, field: str) -> datetime:
    """Read an instant. Without a zone of its own it is a wall time of `zone`; of a time that is twice, the first.

    Digits beyond microseconds are cut off, which never moves an instant into another hour or day. Whole numbers are
    Unix time in seconds (9 or 10 digits, with decimals if any), milliseconds (13) or microseconds (16).

    Raises:
        InvalidInput: it is none of these.
    """
    written = str(text).strip()
    try:
        # The forms of Unix time are none of ISO 8601: that begins with a year of four digits and has a hyphen or a T.
        unix_time = _UNIX_TIME.fullmatch(written)
        if unix_time is not None:
            return from_micros(_unix_micros(unix_time))
        read = datetime.fromisoformat(written)
        return read.astimezone(UTC) if read.tzinfo is not None else read.replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(field, text, _REMEDY) from None


def month(text: str, zone: ZoneInfo) -> Period:
    """Return the month that a person writes as "2026-01", as the calendar of a zone has it.

    Raises:
        InvalidInput: it is no month.
    """
    found = _MONTH.fullmatch(text.strip())
    if found is None:
        raise InvalidInput("month", text, 'Write a month as "2026-01".')
    first = datetime(int(found["year"]), int(found["month"]), 1, tzinfo=zone)
    return calendar_period(PeriodKind.MONTHLY, first, zone.key)


def _unix_micros(found: re.Match[str]) -> int:
    seconds, decimals, milliseconds, microseconds = found.groups()
    if seconds is not None:
        return int(seconds) * 1_000_000 + int((decimals or "0").ljust(6, "0")[:6])
    return int(milliseconds) * 1_000 if milliseconds is not None else int(microseconds)
