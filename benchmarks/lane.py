"""Our side: pairs through the public interface, by one caller, by threads, and by tasks of asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import cycle
from time import perf_counter

from benchmarks.databases import Database
from benchmarks.floors import run_threads
from benchmarks.rounds import Contestant, Limit, Round
from benchmarks.workload import PAIR_TOKENS
from tallystick import AsyncTallystick, Tallystick

__all__ = ["Ours", "WrongTotals"]


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
    def sync(self) -> Tallystick:
        return self._ts.sync

    def close(self) -> None:
        self._loop.run(self._ts.close())
        self._loop.close()

    def warm_up(self, billables: Sequence[str]) -> None:
        """Run a pair of each billable, so that the engine has read its plan."""
        self._checked(self._loop.run(self._tasks(billables, callers=64, seconds=0, pairs=len(billables) // 64 + 1)))

    def one_caller(self, billables: Sequence[str]) -> Contestant:
        turn = cycle(billables)

        def run(limit: Limit) -> Round:
            done, longest = 0, 0.0
            started = before = perf_counter()
            while before - started < limit.seconds:
                longest = max(longest, _pair(self.sync, next(turn)))
                done += 1
                before = perf_counter()
            return self._checked(Round(done, before - started, longest))

        return run

    def threads(self, billables: Sequence[str], callers: int) -> Contestant:
        def run(limit: Limit) -> Round:
            done = [0] * callers
            longest = [0.0] * callers
            start = threading.Barrier(callers + 1)

            def call(number: int) -> None:
                turn = cycle(billables[number::callers] or billables)
                start.wait()
                ends = perf_counter() + limit.seconds
                while perf_counter() < ends:
                    longest[number] = max(longest[number], _pair(self.sync, next(turn)))
                    done[number] += 1

            spent = run_threads(call, callers, start)
            return self._checked(Round(sum(done), spent, max(longest), tuple(done)))

        return run

    def tasks(self, billables: Sequence[str], callers: int) -> Contestant:
        def run(limit: Limit) -> Round:
            return self._checked(self._loop.run(self._tasks(billables, callers=callers, seconds=limit.seconds)))

        return run

    async def _tasks(self, billables: Sequence[str], *, callers: int, seconds: float, pairs: int = 1) -> Round:
        """Run callers that go on for so many seconds, and for at least so many pairs each."""
        done = [0] * callers
        longest = [0.0] * callers
        started = perf_counter()

        async def call(number: int) -> None:
            turn = cycle(billables[number::callers] or billables)
            while done[number] < pairs or perf_counter() - started < seconds:
                before = perf_counter()
                meter = self._ts.meter.billable(next(turn)).using_provider("manual", "m")
                hold = await meter.hold(tokens=PAIR_TOKENS)
                between = perf_counter()
                await hold.settle(input_tokens=5, output_tokens=5)
                longest[number] = max(longest[number], between - before, perf_counter() - between)
                done[number] += 1

        await asyncio.gather(*(call(number) for number in range(callers)))
        return Round(sum(done), perf_counter() - started, max(longest), tuple(done))

    def _checked(self, done: Round) -> Round:
        before, now = self._before, self._database.totals()
        tokens = done.pairs * PAIR_TOKENS
        used, days = now.tokens_used - before.tokens_used, now.tokens_of_days - before.tokens_of_days
        if (used, now.tokens_held, days) != (tokens, 0, tokens):
            raise WrongTotals(
                f"{done.pairs} pairs of {PAIR_TOKENS} tokens: {used} counted, {days} in days, {now.tokens_held} held."
            )
        self._before = now
        return done


def _pair(ts: Tallystick, billable: str) -> float:
    """Run one pair. Returns the longer of its two waits, in seconds."""
    before = perf_counter()
    hold = ts.meter.billable(billable).using_provider("manual", "m").hold(tokens=PAIR_TOKENS)
    between = perf_counter()
    hold.settle(input_tokens=5, output_tokens=5)
    return max(between - before, perf_counter() - between)
