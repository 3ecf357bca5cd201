"""A past of ten days, written by SQL and as the engine leaves it: calls, or the transactions of a wallet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from benchmarks.databases import Database
from benchmarks.workload import BILLABLES, DEDUCTION
from benchmarks.writes import (
    COUNTERS,
    CREDIT_ACCOUNTS,
    EVENTS,
    LEDGER_ENTRIES,
    NEW_GRANTS,
    NEW_HOLDS,
    ROLLUPS,
    STATEMENT_LINES,
    Write,
    literal,
)
from tallystick.identity import new_id
from tallystick.period import PeriodKind, calendar_period, to_micros

__all__ = ["write_history", "write_wallet_history"]

_HOUR_MICROS = 3_600_000_000
_DAY_MICROS = 24 * _HOUR_MICROS
_DAYS = 10
# A prime: the billables come in turn, but not in their order.
_STRIDE = 7919
# A grant and what uses it up.
_TURN = 10
_IS_GRANT = f"i % {_TURN} = 0"


def write_history(database: Database, events: int) -> None:
    """Write events that were settled before now, evenly over ten days and all billables, and all that counts them."""
    _write(database, _Calls(database, events).statements())


def write_wallet_history(database: Database, billable: str, entries: int) -> None:
    """Write what a wallet has seen: grants, each used up by nine deductions, until nothing is left.

    Each transaction has two entries. `entries` is a multiple of 20.
    """
    _write(database, _Wallet(database, billable, entries // 2).statements())


def _write(database: Database, statements: Iterable[str]) -> None:
    with closing(database.connect()) as connection:
        if database.databases.kind == "sqlite":
            # The past is written at once; what is measured later is the engine's own connection.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN")
        for statement in statements:
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
    """SQL for what happened so often until now. `i` numbers it; ids follow its time, as real ones do."""

    def __init__(self, database: Database, count: int) -> None:
        self._is_sqlite = database.databases.kind == "sqlite"
        self._count = count
        self._now = time.time_ns() // 1000
        self._start = self._now - _DAYS * _DAY_MICROS

    def _at(self, number: str = "i") -> str:
        return f"({self._start} + ({number}) * {_DAYS * _DAY_MICROS // self._count})"

    def _series(self, step: int = 1) -> str:
        """Return the numbers from zero on, or every `step`th of them; the count is a multiple of it."""
        if self._is_sqlite:
            following = f"SELECT i + {step} FROM n WHERE i < {self._count - step}"
            return f"(WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL {following}) SELECT i FROM n) AS series"
        return f"generate_series(0::bigint, {self._count - 1}, {step}) AS series (i)"

    def _id(self, prefix: str, number: str = "i") -> str:
        """Return a UUIDv7 of the millisecond of what has a number, and of the number."""
        millisecond, number = f"{self._at(number)} / 1000", f"({number})"
        if self._is_sqlite:
            return f"printf('{prefix}_%012x7%03x8%015x', {millisecond}, {number} % 4096, {number})"
        digits = f"{_hex(millisecond, 12)}, {_hex(f'{number} % 4096', 3)}, {_hex(number, 15)}"
        return f"format('{prefix}_%s7%s8%s', {digits})"

    def _insert(self, write: Write, values: Mapping[str, str], source: str) -> str:
        """Return the statement that inserts a row for each of a source."""
        selected = ", ".join(values[column] for column in write.columns)
        return f"INSERT INTO {write.table.name} ({', '.join(write.columns)}) SELECT {selected} FROM {source}"


class _Calls(_Past):
    """Metered calls, with all that they leave."""

    def __init__(self, database: Database, count: int) -> None:
        super().__init__(database, count)
        self._sample = database.databases.sample

    def statements(self) -> list[str]:
        at = self._at()
        billable = f"'user:' || (i * {_STRIDE} % {len(BILLABLES)})"
        event = {
            "id": self._id("evt"),
            "billable": billable,
            "hold_id": self._id("hld"),
            "occurred_at": at,
            "recorded_at": at,
            "period_start": self._period_start(at),
        }
        hold = {
            "id": self._id("hld"),
            "billable": billable,
            "status": "'settled'",
            "event_id": self._id("evt"),
            "created_at": at,
            "expires_at": f"({at} + 600000000)",
            "closed_at": at,
        }
        return [
            self._like(EVENTS, event, self._series()),
            self._like(NEW_HOLDS, hold, self._series()),
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
        return self._like(write, values, f"usage_events {self._old()} GROUP BY billable, {bucket}")

    def _counters(self) -> str:
        values = {
            "billable": "billable",
            "period_start": "period_start",
            "used": "sum(total_tokens)",
            "held": "0",
        }
        return self._like(COUNTERS, values, f"usage_events {self._old()} GROUP BY billable, period_start")

    def _old(self) -> str:
        """Leave out the pair that every database starts with: it is counted already."""
        return f"WHERE id <> '{self._sample['usage_events']['id']}'"

    def _like(self, write: Write, values: Mapping[str, str], source: str) -> str:
        return self._insert(write, {**_literals(self._sample[write.table.name]), **values}, source)

    def _period_start(self, at: str) -> str:
        this_month = to_micros(_month_start(self._now))
        before = to_micros(_month_start(this_month - 1))
        return f"CASE WHEN {at} >= {this_month} THEN {this_month} ELSE {before} END"


class _Wallet(_Past):
    """A wallet's transactions: every tenth is a grant, and the nine after it use it up."""

    def __init__(self, database: Database, billable: str, count: int) -> None:
        super().__init__(database, count)
        self._sample = database.databases.credit_sample
        self._own = {"billable": literal(billable), "created_at": self._at()}

    def statements(self) -> list[str]:
        sample, transactions = self._sample, (self._sample.granted, self._sample.deducted)
        account = {"id": literal(new_id("wal")), "last_number": str(self._count), "created_at": str(self._start)}
        grant = {"id": self._id("grt"), "amount": str((_TURN - 1) * DEDUCTION.nanos)}
        sides = [_either("side = 0", *map(self._entry, one.entries)) for one in transactions]
        both = "CROSS JOIN (SELECT 0 AS side UNION ALL SELECT 1) AS sides ORDER BY i, side"
        return [
            self._insert(CREDIT_ACCOUNTS, {**_literals(sample.account), **self._own, **account}, "(SELECT 1) AS once"),
            self._insert(NEW_GRANTS, {**_literals(sample.grant), **self._own, **grant}, self._series(_TURN)),
            self._insert(
                STATEMENT_LINES, _either(_IS_GRANT, *(self._line(one.line) for one in transactions)), self._series()
            ),
            self._insert(LEDGER_ENTRIES, _either(_IS_GRANT, *sides), f"{self._series()} {both}"),
        ]

    def _line(self, sample: Mapping[str, Any]) -> dict[str, str]:
        return {
            **_literals(sample),
            **self._own,
            "number": "i + 1",
            "id": self._id("txn"),
            "amount": self._amount(sample),
            "balance_after": f"({_TURN - 1} - i % {_TURN}) * {DEDUCTION.nanos}",
            "grant_id": self._grant_id(sample),
            "occurred_at": self._at(),
        }

    def _entry(self, sample: Mapping[str, Any]) -> dict[str, str]:
        return {
            **_literals(sample),
            **self._own,
            "transaction_id": self._id("txn"),
            "statement_number": "i + 1",
            "amount": self._amount(sample),
            "grant_id": self._grant_id(sample),
        }

    def _amount(self, sample: Mapping[str, Any]) -> str:
        """Return the sample's amount; nine times as much of it where it is a grant's."""
        return f"(CASE WHEN {_IS_GRANT} THEN {_TURN - 1} ELSE 1 END * {sample['amount']})"

    def _grant_id(self, sample: Mapping[str, Any]) -> str:
        """Return the id of the grant before a transaction, where the sample names one."""
        return "NULL" if sample["grant_id"] is None else self._id("grt", f"i - i % {_TURN}")


def _either(condition: str, one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Return values of which a condition says which of two they are."""
    return {
        column: value if value == other[column] else f"CASE WHEN {condition} THEN {value} ELSE {other[column]} END"
        for column, value in one.items()
    }


def _month_start(micros: int) -> datetime:
    start = calendar_period(PeriodKind.MONTHLY, datetime.fromtimestamp(micros / 1e6, UTC)).start
    assert start is not None
    return start


def _hex(number: str, digits: int) -> str:
    return f"lpad(to_hex({number}), {digits}, '0')"


def _literals(sample: Mapping[str, Any]) -> dict[str, str]:
    return {column: literal(value) for column, value in sample.items()}
