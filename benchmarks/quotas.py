"""The case of quotas: messages that five quotas count, of one tenant alone, and where ten thousand have quotas."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from benchmarks.comparison import Comparison, Race
from benchmarks.databases import Database, Totals
from benchmarks.lane import Ours, require_health
from benchmarks.work import Call, CallAsync
from tallystick import AsyncTallystick, Tallystick
from tallystick.identity import new_id

__all__ = ["CONSUMPTIONS", "quotas"]

_TASKS = 64
_MANY = 10_000
_LIMIT = 10**17
# Of a message each; the last is each user's own.
_QUOTAS = (("hourly", ""), ("daily", ""), ("monthly", ""), ("total", ""), ("daily", "user:*"))
# The targets: one tenant of many, and all of them in turn, beside one alone.
_ONE_OF_MANY = 0.9
_ALL_OF_MANY = {1: 0.9, _TASKS: 0.5}


@dataclass(frozen=True, slots=True)
class Consumptions:
    """A message of one user, which every quota counts."""

    billables: Sequence[str]
    name: str = "messages"

    def prepare(self, ts: Tallystick, billable: str) -> None:
        """Nothing: the quotas are written before the engine opens."""

    def call(self, ts: Tallystick, billable: str) -> Call:
        return partial(self._consume, ts, billable)

    async def call_async(self, ts: AsyncTallystick, billable: str) -> CallAsync:
        return partial(self._consume_async, ts, billable)

    def counted(self, done: int) -> Totals:  # noqa: ARG002  # messages are no tokens; the doctor proves the counters
        return Totals()

    def _consume(self, ts: Tallystick, billable: str) -> float:
        before = perf_counter()
        ts.quotas.consume(billable, "message", user=1)
        return perf_counter() - before

    async def _consume_async(self, ts: AsyncTallystick, billable: str) -> float:
        before = perf_counter()
        await ts.quotas.consume(billable, "message", user=1)
        return perf_counter() - before


_ALL = Consumptions(tuple(f"tenant:{number}" for number in range(_MANY)))
_ONE = Consumptions(_ALL.billables[:1])
CONSUMPTIONS = _ONE


def quotas(race: Race) -> list[Comparison]:  # the case's name
    """Messages of one tenant alone, of one among many, and of all of them in turn."""
    alone, many = _ours(race, "alone", _ONE), _ours(race, "many", _ALL)
    lines = []
    for who, callers in (("1 caller", 1), (f"{_TASKS} async callers", _TASKS)):
        runs = {"alone": (alone, _ONE), "one": (many, _ONE), "all": (many, _ALL)}
        found = race.run(
            {
                name: ours.one_caller(work.billables, work)
                if callers == 1
                else ours.tasks(work.billables, callers, work)
                for name, (ours, work) in runs.items()
            }
        )
        for name, of_whom, target in (
            ("one", f"one of {_MANY:,} tenants", _ONE_OF_MANY),
            ("all", f"{_MANY:,} tenants in turn", _ALL_OF_MANY[callers]),
        ):
            line = race.rates(
                f"{who}, {len(_QUOTAS)} quotas, {of_whom}",
                found[name],
                found["alone"],
                beside="ours, one tenant alone",
                unit=f"{_ONE.name}/s",
                target=target,
            )
            lines.append(line)
    if race.turns.pace.is_examined:
        for ours in (alone, many):
            require_health(ours.database)
    return lines


def _ours(race: Race, name: str, work: Consumptions) -> Ours:
    database = race.fresh(name)
    _write_quotas(database, work.billables)
    ours = race.closing(Ours(database))
    ours.warm_up(work.billables, work)
    return ours


def _write_quotas(database: Database, billables: Sequence[str]) -> None:
    columns = (
        "id", "billable", "resource_type", "period", "scope", "limit_value", "is_hard_limit", "thresholds",
        "created_at", "updated_at",
    )  # fmt: skip
    now = time.time_ns() // 1000
    rows = [
        (new_id("qta"), billable, "message", period, scope, _LIMIT, True, "[80]", now, now)
        for billable in billables
        for period, scope in _QUOTAS
    ]
    values = ", ".join([database.databases.placeholder] * len(columns))
    with closing(database.connect()) as connection:
        connection.execute("BEGIN")
        connection.cursor().executemany(f"INSERT INTO quotas ({', '.join(columns)}) VALUES ({values})", rows)
        connection.execute("COMMIT")
