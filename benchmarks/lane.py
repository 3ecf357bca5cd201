"""Our side: work through the public interface, by one caller, by threads, and by tasks of asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from time import perf_counter

from benchmarks.databases import Database
from benchmarks.floors import run_threads
from benchmarks.rounds import Contestant, Limit, Round
from benchmarks.work import Pairs, Work
from tallystick import AsyncTallystick, Tallystick

__all__ = ["PAIRS", "Ours", "WrongTotals", "require_health"]

PAIRS = Pairs()


class WrongTotals(Exception):
    """The engine counted something else than what was done. No figure counts then."""


class Ours:
    """The engine on one database, open from the first round to the last, as in an application.

    Every round is followed by a check: what was done is counted, nothing is held any more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.Runner()
        self._ts = AsyncTallystick(database.url)
        self._before = database.totals()

    @property
    def database(self) -> Database:
        return self._database

    @property
    def sync(self) -> Tallystick:
        return self._ts.sync

    def close(self) -> None:
        self._loop.run(self._ts.close())
        self._loop.close()

    def warm_up(self, billables: Sequence[str], work: Work = PAIRS) -> int:
        """Prepare each billable and do its work once, so that the engine has read its plan. Returns how often."""
        for billable in billables:
            work.prepare(self.sync, billable)
        self._before = self._database.totals()
        each = len(billables) // 64 + 1
        return self._checked(work, self._loop.run(self._tasks(work, billables, callers=64, seconds=0, least=each))).done

    def one_caller(self, billables: Sequence[str], work: Work = PAIRS) -> Contestant:
        turn = cycle([work.call(self.sync, billable) for billable in billables])

        def run(limit: Limit) -> Round:
            done, longest = 0, 0.0
            started = before = perf_counter()
            while before - started < limit.seconds:
                longest = max(longest, next(turn)())
                done += 1
                before = perf_counter()
            return self._checked(work, Round(done, before - started, longest))

        return run

    def threads(self, billables: Sequence[str], callers: int, work: Work = PAIRS) -> Contestant:
        def run(limit: Limit) -> Round:
            done = [0] * callers
            longest = [0.0] * callers
            start = threading.Barrier(callers + 1)
            calls = [work.call(self.sync, billable) for billable in billables]

            def call(number: int) -> None:
                turn = cycle(calls[number::callers] or calls)
                start.wait()
                ends = perf_counter() + limit.seconds
                while perf_counter() < ends:
                    longest[number] = max(longest[number], next(turn)())
                    done[number] += 1

            spent = run_threads(call, callers, start)
            return self._checked(work, Round(sum(done), spent, max(longest), tuple(done)))

        return run

    def tasks(self, billables: Sequence[str], callers: int, work: Work = PAIRS) -> Contestant:
        def run(limit: Limit) -> Round:
            tasks = self._tasks(work, billables, callers=callers, seconds=limit.seconds)
            return self._checked(work, self._loop.run(tasks))

        return run

    async def _tasks(
        self, work: Work, billables: Sequence[str], *, callers: int, seconds: float, least: int = 1
    ) -> Round:
        """Run callers that go on for so many seconds, and do at least so much each."""
        done = [0] * callers
        longest = [0.0] * callers
        calls = [await work.call_async(self._ts, billable) for billable in billables]
        started = perf_counter()

        async def call(number: int) -> None:
            turn = cycle(calls[number::callers] or calls)
            while done[number] < least or perf_counter() - started < seconds:
                longest[number] = max(longest[number], await next(turn)())
                done[number] += 1

        await asyncio.gather(*(call(number) for number in range(callers)))
        return Round(sum(done), perf_counter() - started, max(longest), tuple(done))

    def _checked(self, work: Work, done: Round) -> Round:
        counted = work.counted(done.done)
        expected = replace(self._before + counted, tokens_held=0, credits_held_nanos=0)
        now = self._database.totals()
        if now != expected:
            raise WrongTotals(f"{done.done} {work.name} were to make {expected} of {self._before}, and made {now}.")
        self._before = now
        return done


def require_health(database: Database) -> None:
    """Have the doctor recompute every number of a database from the records that prove it.

    Raises:
        WrongTotals: one differs.
    """
    with Tallystick(database.url) as ts:
        drift = [str(finding) for finding in ts.doctor().findings if finding.severity == "drift"]
    if drift:
        raise WrongTotals(f"{database.url}: {len(drift)} numbers differ, first: {'; '.join(drift[:3])}")
