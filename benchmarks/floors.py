"""The floors: raw drivers that write the rows of pairs and deductions, with the SQL and durability of the engine.

They ask no limit, make no answer, and find their rows made: making them is not on the stopwatch. Apart from durability
the drivers and databases are as they come; what the engine tunes on its own connection, or in the driver, is its gain.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from benchmarks.credit_rows import DeductionMaker
from benchmarks.databases import Database
from benchmarks.rounds import Limit, Round
from benchmarks.workload import Pair, PairMaker, Row
from benchmarks.writes import COUNTERS, DEDUCTION, HOLD, ROLLUPS, SETTLEMENT, Write

__all__ = [
    "DeductionWriter",
    "GroupWriter",
    "PairWriter",
    "PlpgsqlCallers",
    "SqliteCallers",
    "group_commit",
    "run_threads",
]

_PORTION = 256
_GROUP = 64


class PairWriter:
    """One caller, two commits for each pair."""

    def __init__(self, database: Database, billables: Sequence[str]) -> None:
        self._connection = database.connect()
        self._maker = PairMaker(database.databases.sample, billables)
        self._write = _sqlite_pair if database.databases.kind == "sqlite" else _postgres_pair

    def __call__(self, limit: Limit) -> Round:
        write, connection = self._write, self._connection
        pairs, spent = 0, 0.0
        while spent < limit.seconds and pairs < limit.done:
            portion = self._maker.pairs(_PORTION)
            started = perf_counter()
            for pair in portion:
                write(connection, pair)
            spent += perf_counter() - started
            pairs += len(portion)
        return Round(pairs, spent)

    def close(self) -> None:
        self._connection.close()


class DeductionWriter:
    """One caller of one wallet, one commit for each deduction."""

    def __init__(self, database: Database, billable: str) -> None:
        self._connection = database.connect()
        self._maker = DeductionMaker(database.databases.credit_sample, database.query, billable)
        self._statements = _statements(DEDUCTION, database.databases.placeholder)
        self._write = _sqlite_transaction if database.databases.kind == "sqlite" else _postgres_transaction

    def __call__(self, limit: Limit) -> Round:
        write, connection, statements = self._write, self._connection, self._statements
        done, spent = 0, 0.0
        while spent < limit.seconds and done < limit.done:
            portion = self._maker.deductions(_PORTION)
            started = perf_counter()
            for deduction in portion:
                write(connection, statements, deduction)
            spent += perf_counter() - started
            done += len(portion)
        return Round(done, spent)

    def close(self) -> None:
        self._connection.close()


class GroupWriter:
    """One thread that takes 64 pairs at a time: one transaction for their holds, one for their settlements."""

    def __init__(self, database: Database, billables: Sequence[str]) -> None:
        self._connection = database.connect()
        self._maker = PairMaker(database.databases.sample, billables)
        self._placeholder = database.databases.placeholder
        self._transaction = group_commit(database.databases.kind)

    def __call__(self, limit: Limit) -> Round:
        hold_sql = _statements(HOLD, self._placeholder)
        settle_sql = _statements(SETTLEMENT, self._placeholder)
        pairs, spent = 0, 0.0
        while spent < limit.seconds and pairs < limit.done:
            group = self._maker.pairs(_GROUP)
            holds = list(zip(hold_sql, _together(HOLD, [pair.hold for pair in group]), strict=True))
            settlements = list(zip(settle_sql, _together(SETTLEMENT, [pair.settlement for pair in group]), strict=True))
            started = perf_counter()
            self._transaction(self._connection, holds)
            self._transaction(self._connection, settlements)
            spent += perf_counter() - started
            pairs += _GROUP
        return Round(pairs, spent)

    def close(self) -> None:
        self._connection.close()


class _Callers(ABC):
    """Threads with a connection each; every hold and every settlement is a transaction of its own."""

    adds = False

    def __init__(self, database: Database, billables: Sequence[str], callers: int) -> None:
        self._database = database
        self._connections = [database.connect() for _ in range(callers)]
        self._makers = [
            PairMaker(database.databases.sample, billables[number::callers] or billables, adds=self.adds)
            for number in range(callers)
        ]

    def __call__(self, limit: Limit) -> Round:
        portions = [maker.pairs(_PORTION) for maker in self._makers]
        done = [0] * len(portions)
        longest = [0.0] * len(portions)
        start = threading.Barrier(len(portions) + 1)

        def call(number: int) -> None:
            pairs = iter(portions[number])
            connection, maker = self._connections[number], self._makers[number]
            start.wait()
            ends = perf_counter() + limit.seconds
            before = perf_counter()
            while before < ends:
                pair = next(pairs, None)
                if pair is None:
                    pairs = iter(maker.pairs(_PORTION))
                    continue
                for write in (self.hold, self.settle):
                    write(connection, pair)
                    now = perf_counter()
                    longest[number] = max(longest[number], now - before)
                    before = now
                done[number] += 1

        spent = run_threads(call, len(portions), start)
        return Round(sum(done), spent, max(longest), tuple(done))

    @abstractmethod
    def hold(self, connection: Any, pair: Pair) -> None:
        """Write the rows of one hold, durably."""

    @abstractmethod
    def settle(self, connection: Any, pair: Pair) -> None:
        """Write the rows of its settlement, durably."""

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


class SqliteCallers(_Callers):
    """Callers who wait for SQLite's one writer by its busy timeout."""

    def hold(self, connection: Any, pair: Pair) -> None:
        _sqlite_transaction(connection, _SQLITE_HOLD, pair.hold)

    def settle(self, connection: Any, pair: Pair) -> None:
        _sqlite_transaction(connection, _SQLITE_SETTLE, pair.settlement)


class PlpgsqlCallers(_Callers):
    """Callers of two PostgreSQL functions: one round trip and one transaction for a hold, and for a settlement."""

    adds = True

    def __init__(self, database: Database, billables: Sequence[str], callers: int) -> None:
        super().__init__(database, billables, callers)
        self._hold = _plpgsql_function(self._connections[0], "hold", HOLD)
        self._settle = _plpgsql_function(self._connections[0], "settle", SETTLEMENT)

    def hold(self, connection: Any, pair: Pair) -> None:
        connection.execute(self._hold, _flat(pair.hold))

    def settle(self, connection: Any, pair: Pair) -> None:
        connection.execute(self._settle, _flat(pair.settlement))


def run_threads(call: Callable[[int], None], count: int, start: threading.Barrier) -> float:
    """Run `call(number)` in threads that meet at the barrier with this one. Returns how long they took, in seconds."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            call(number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    spent = perf_counter() - started
    if failures:
        raise failures[0]
    return spent


# -- one transaction ---------------------------------------------------------------------------------------------------


def _statements(writes: Sequence[Write], placeholder: str) -> tuple[str, ...]:
    return tuple(write.sql(placeholder) for write in writes)


_SQLITE_HOLD, _SQLITE_SETTLE = _statements(HOLD, "?"), _statements(SETTLEMENT, "?")
_POSTGRES_HOLD, _POSTGRES_SETTLE = _statements(HOLD, "%s"), _statements(SETTLEMENT, "%s")


def _sqlite_pair(connection: Any, pair: Pair) -> None:
    _sqlite_transaction(connection, _SQLITE_HOLD, pair.hold)
    _sqlite_transaction(connection, _SQLITE_SETTLE, pair.settlement)


def _sqlite_transaction(connection: Any, statements: Sequence[str], rows: Sequence[Row]) -> None:
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    for sql, row in zip(statements, rows, strict=True):
        execute(sql, row)
    execute("COMMIT")


def group_commit(kind: str) -> Callable[[Any, Iterable[tuple[str, list[Row]]]], None]:
    """Return what writes statements with their rows to a connection, in one transaction."""
    return _sqlite_group if kind == "sqlite" else _postgres_group


def _sqlite_group(connection: Any, writes: Iterable[tuple[str, list[Row]]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for sql, rows in writes:
        connection.executemany(sql, rows)
    connection.execute("COMMIT")


def _postgres_pair(connection: Any, pair: Pair) -> None:
    _postgres_transaction(connection, _POSTGRES_HOLD, pair.hold)
    _postgres_transaction(connection, _POSTGRES_SETTLE, pair.settlement)


def _postgres_transaction(connection: Any, statements: Sequence[str], rows: Sequence[Row]) -> None:
    with connection.pipeline():
        connection.execute("BEGIN")
        for sql, row in zip(statements, rows, strict=True):
            connection.execute(sql, row)
        connection.execute("COMMIT")


def _postgres_group(connection: Any, writes: Iterable[tuple[str, list[Row]]]) -> None:
    with connection.pipeline(), connection.cursor() as cursor:
        cursor.execute("BEGIN")
        for sql, rows in writes:
            cursor.executemany(sql, rows)
        cursor.execute("COMMIT")


def _together(writes: Sequence[Write], transactions: Sequence[tuple[Row, ...]]) -> list[list[Row]]:
    """Return the rows of many transactions as those of one: for each write its rows, those of one key united."""
    return [_united(write, [rows[index] for rows in transactions]) for index, write in enumerate(writes)]


def _united(write: Write, rows: list[Row]) -> list[Row]:
    if not write.on_conflict:
        return rows
    key = tuple(write.columns.index(column) for column in write.key)
    added = tuple(write.columns.index(column) for column in write.amounts if write.on_conflict == "add")
    by_key: dict[Row, list[Any]] = {}
    for row in rows:
        name = tuple(row[index] for index in key)
        before = by_key.get(name)
        by_key[name] = now = list(row)
        if before is not None:
            for index in added:
                now[index] += before[index]
    return [tuple(row) for row in by_key.values()]


# -- one function ------------------------------------------------------------------------------------------------------


def _plpgsql_function(connection: Any, name: str, writes: Sequence[Write]) -> str:
    """Create a function that writes one row each, and return the statement that calls it."""
    types: list[str] = []
    own: list[str] = []
    shared: list[str] = []
    for write in writes:
        # What all callers of one billable meet at comes last: they wait there until the one before has committed.
        statements = shared if write in (COUNTERS, *ROLLUPS) else own
        adding = replace(write, on_conflict=write.on_conflict and "add")
        statements.append(adding.numbered_sql(len(types) + 1))
        types += [_TYPES[write.table.columns[column].type.python_type] for column in write.columns]
    connection.execute(
        f"CREATE FUNCTION benchmark_{name} ({', '.join(types)}) RETURNS void LANGUAGE plpgsql AS "
        f"$$ BEGIN {'; '.join(own + shared)}; END $$"
    )
    return f"SELECT benchmark_{name} ({', '.join(['%s'] * len(types))})"


_TYPES = {int: "bigint", str: "text"}


def _flat(rows: Iterable[Row]) -> list[Any]:
    return [value for row in rows for value in row]
