"""Removing what sliding windows have left behind: counters of buckets that no window reaches any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Delete, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

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
    if not _is_first_of_the_day(engine, now - now % _DAY_MICROS, now):
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


def _is_first_of_the_day(engine: Engine, day: int, now: int) -> bool:
    runs = tables.job_runs
    known = select(runs.c.created_at).where(runs.c.job == _JOB, runs.c.period_start == day)
    if engine.read(lambda connection: connection.execute(known).first()) is not None:
        return False

    def claim(connection: Connection) -> bool:
        dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
        row = dialect.insert(runs).values(job=_JOB, period_start=day, created_at=now)
        done = connection.execute(row.on_conflict_do_nothing(), execution_options={"preserve_rowcount": True})
        connection.execute(delete(runs).where(runs.c.job == _JOB, runs.c.period_start < day))
        return bool(done.rowcount == 1)

    return engine.lane.transact(claim)
