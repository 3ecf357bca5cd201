"""Work that is done once a period, however many processes run it: whoever writes the period's row does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select

from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["is_first_of_the_day", "take_period"]

_DAY_MICROS = 86_400_000_000


def take_period(connection: Connection, job: str, period_start: int, at: int) -> bool:
    """Say whether this transaction is the first to want a job's period (its start in µs); then it is taken."""
    row = insert_into(connection, tables.job_runs).values(job=job, period_start=period_start, created_at=at)
    taken = connection.execute(row.on_conflict_do_nothing(), execution_options={"preserve_rowcount": True})
    return bool(taken.rowcount == 1)


def is_first_of_the_day(engine: Engine, job: str) -> bool:
    """Say whether nobody has done a job yet today (of UTC); then it is this caller's. Past days are forgotten."""
    now = engine.now()
    day = now - now % _DAY_MICROS
    runs = tables.job_runs
    known = select(runs.c.created_at).where(runs.c.job == job, runs.c.period_start == day)
    if engine.read(lambda connection: connection.execute(known).first()) is not None:
        # The usual answer, which needs no turn on the lane.
        return False

    def take(connection: Connection) -> bool:
        is_first = take_period(connection, job, day, now)
        connection.execute(delete(runs).where(runs.c.job == job, runs.c.period_start < day))
        return is_first

    return engine.lane.transact(take)
