"""A past: events of ten days, their holds, counters and rollups, written by SQL and as the engine leaves them."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from benchmarks.databases import Database
from benchmarks.workload import BILLABLES
from benchmarks.writes import COUNTERS, EVENTS, NEW_HOLDS, ROLLUPS, Write
from tallystick.period import PeriodKind, calendar_period, to_micros

__all__ = ["write_history"]

_HOUR_MICROS = 3_600_000_000
_DAY_MICROS = 24 * _HOUR_MICROS
_DAYS = 10
# A prime: the billables come in turn, but not in their order.
_STRIDE = 7919


def write_history(database: Database, events: int) -> None:
    """Write events that were settled before now, evenly over ten days and all billables, and all that counts them."""
    with closing(database.connect()) as connection:
        if database.databases.kind == "sqlite":
            # The past is written at once; what is measured later is the engine's own connection.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN")
        for statement in _Past(database, events).statements():
            connection.execute(statement)
        connection.execute("COMMIT")
        _settle_down(connection, database.databases.kind)


def _settle_down(connection: Any, kind: str) -> None:
    """Do now what the database would otherwise do at leisure, into the measurement."""
    if kind == "sqlite":
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


class _Past:
    """The statements that write a past. `i` numbers its events; their ids follow their time, as real ones do."""

    def __init__(self, database: Database, events: int) -> None:
        self._sample = database.databases.sample
        self._is_sqlite = database.databases.kind == "sqlite"
        self._events = events
        self._now = time.time_ns() // 1000
        self._start = self._now - _DAYS * _DAY_MICROS

    def statements(self) -> list[str]:
        step = _DAYS * _DAY_MICROS // self._events
        at = f"({self._start} + i * {step})"
        billable = f"'user:' || (i * {_STRIDE} % {len(BILLABLES)})"
        event = {
            "id": self._id("evt", at),
            "billable": billable,
            "hold_id": self._id("hld", at),
            "occurred_at": at,
            "recorded_at": at,
            "period_start": self._period_start(at),
        }
        hold = {
            "id": self._id("hld", at),
            "billable": billable,
            "status": "'settled'",
            "event_id": self._id("evt", at),
            "created_at": at,
            "expires_at": f"({at} + 600000000)",
            "closed_at": at,
        }
        return [
            self._insert(EVENTS, event, self._series()),
            self._insert(NEW_HOLDS, hold, self._series()),
            *(self._rollup(write, width) for write, width in zip(ROLLUPS, (_HOUR_MICROS, _DAY_MICROS), strict=True)),
            self._counters(),
        ]

    def _rollup(self, write: Write, width: int) -> str:
        sums = [column for column in write.amounts if column not in {"events", "unpriced_events"}]
        bucket = f"occurred_at - occurred_at % {width}"
        values = {
            "billable": "billable",
            "bucket_start": bucket,
            "events": "count(*)",
            "unpriced_events": "count(*) - count(total_cost)",
            **{column: f"coalesce(sum({column}), 0)" for column in sums},
        }
        return self._insert(write, values, f"usage_events {self._old()} GROUP BY billable, {bucket}")

    def _counters(self) -> str:
        values = {
            "billable": "billable",
            "period_start": "period_start",
            "used": "sum(total_tokens)",
            "held": "0",
        }
        return self._insert(COUNTERS, values, f"usage_events {self._old()} GROUP BY billable, period_start")

    def _old(self) -> str:
        """Leave out the pair that every database starts with: it is counted already."""
        return f"WHERE id <> '{self._sample['usage_events']['id']}'"

    def _insert(self, write: Write, values: dict[str, str], source: str) -> str:
        constants = self._sample[write.table.name]
        selected = ", ".join(values.get(column) or _literal(constants[column]) for column in write.columns)
        return f"INSERT INTO {write.table.name} ({', '.join(write.columns)}) SELECT {selected} FROM {source}"

    def _series(self) -> str:
        if self._is_sqlite:
            numbers = f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {self._events - 1})"
            return f"({numbers} SELECT i FROM n) AS series"
        return f"generate_series(0::bigint, {self._events - 1}) AS series (i)"

    def _id(self, prefix: str, at: str) -> str:
        """Return a UUIDv7 of the event's millisecond, and of its number."""
        if self._is_sqlite:
            return f"printf('{prefix}_%012x7%03x8%015x', {at} / 1000, i % 4096, i)"
        return f"format('{prefix}_%s7%s8%s', {_hex(f'{at} / 1000', 12)}, {_hex('i % 4096', 3)}, {_hex('i', 15)})"

    def _period_start(self, at: str) -> str:
        this_month = to_micros(_month_start(self._now))
        before = to_micros(_month_start(this_month - 1))
        return f"CASE WHEN {at} >= {this_month} THEN {this_month} ELSE {before} END"


def _month_start(micros: int) -> datetime:
    start = calendar_period(PeriodKind.MONTHLY, datetime.fromtimestamp(micros / 1e6, UTC)).start
    assert start is not None
    return start


def _hex(number: str, digits: int) -> str:
    return f"lpad(to_hex({number}), {digits}, '0')"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
