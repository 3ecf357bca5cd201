"""Removing what sliding windows have left behind: counters of buckets that no window reaches any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Delete, delete, select, tuple_

from tallystick.job_runs import is_first_of_the_day
from tallystick.limits.quota import SLIDING
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["remove_old_windows"]

_JOB = "quota_windows"
_PAGE = 500
_DAY_MICROS = 24 * 60 * 60 * 1_000_000
# So far back it looks. After a longer pause some counters stay, of no use to anybody.
_LOOKS_BACK_MICROS = 8 * _DAY_MICROS
_KEY = ("period_start", "period", "billable", "meter", "scope")


def remove_old_windows(engine: Engine) -> int:
    """Remove, once a day, buckets that lie two widths back, unless a call in flight holds of them; say how many."""
    now = engine.now()
    if not is_first_of_the_day(engine, _JOB):
        return 0
    return sum(_remove(engine, period, now - 2 * width) for period, (width, _) in SLIDING.items())


def _remove(engine: Engine, period: str, until: int) -> int:
    counters = tables.counters.c
    key = [counters[name] for name in _KEY]
    is_old = (
        counters.period_start >= until - _LOOKS_BACK_MICROS,
        counters.period_start < until,
        counters.period == period,
        counters.held == 0,
    )
    some = select(*key).where(*is_old).limit(_PAGE)
    removed = 0
    while True:
        found = engine.read(lambda connection: [tuple(row) for row in connection.execute(some)])
        if found:
            _delete(engine, delete(tables.counters).where(tuple_(*key).in_(found), counters.held == 0))
        removed += len(found)
        if len(found) < _PAGE:
            return removed


def _delete(engine: Engine, statement: Delete) -> None:
    engine.lane.transact(lambda connection: connection.execute(statement))
