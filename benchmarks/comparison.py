"""What a case is, and what comes of it: the contestants of a race, and the lines of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from benchmarks.databases import Database, Databases
from benchmarks.floors import GroupWriter, PairWriter, PlpgsqlCallers, SqliteCallers
from benchmarks.history import write_history
from benchmarks.lane import PAIRS, Ours
from benchmarks.rounds import Contestant, Limit, Round, Spread, Turns, rates, ratios
from benchmarks.work import Work

__all__ = ["Case", "Comparison", "Race"]


class _Closable(Protocol):
    def close(self) -> None: ...


Closing = TypeVar("Closing", bound=_Closable)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the report: our figures beside a floor's, and what is to be reached.

    `result` is the ratio of ours to the floor's, or where there is no floor our figure itself.
    """

    database: str
    name: str
    beside: str
    floor: Spread | None
    ours: Spread
    result: Spread
    unit: str = "pairs/s"
    target: float | None = None
    is_ceiling: bool = False
    decides_by: str = "median"

    @property
    def decisive(self) -> float:
        """The figure that is held against the target."""
        value: float = getattr(self.result, self.decides_by)
        return value

    @property
    def is_rate(self) -> bool:
        """Whether so much is done in a second, and the result says how many times as much."""
        return self.unit.endswith("/s")

    @property
    def is_reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.decisive <= self.target if self.is_ceiling else self.decisive >= self.target


@dataclass(slots=True)
class Race:
    """One database kind's contestants of one case, closed when it is over."""

    databases: Databases
    turns: Turns
    case: str
    opened: ExitStack = field(default_factory=ExitStack)

    def fresh(self, name: str) -> Database:
        return self.databases.fresh(f"{self.case}_{name.lower()}")

    def closing(self, contestant: Closing) -> Closing:
        """Close what is opened when the race is over."""
        return self.opened.enter_context(closing(contestant))

    def ours(self, *billables: Sequence[str], name: str = "ours", history: int = 0, work: Work = PAIRS) -> Ours:
        database = self.fresh(name)
        if history:
            write_history(database, history)
        ours = self.closing(Ours(database))
        for some in billables:
            ours.warm_up(some, work)
        return ours

    def floor(
        self,
        kind: type[PairWriter | GroupWriter],
        billables: Sequence[str],
    ) -> Contestant:
        return self.raw(self.closing(kind(self.fresh(kind.__name__), billables)))

    def callers(self, billables: Sequence[str], callers: int) -> Contestant:
        kind = SqliteCallers if self.databases.kind == "sqlite" else PlpgsqlCallers
        return self.raw(self.closing(kind(self.fresh(f"{callers}_callers"), billables, callers)))

    def raw(self, floor: Contestant) -> Contestant:
        """Let a raw driver run as it comes: what the engine has tuned in it is the engine's gain."""

        def run(limit: Limit) -> Round:
            with self.databases.untuned():
                return floor(limit)

        return run

    def run(self, contestants: Mapping[str, Contestant]) -> Mapping[str, Sequence[Round]]:
        return self.turns.run(contestants)

    def rates(
        self,
        name: str,
        ours: Sequence[Round],
        floor: Sequence[Round],
        *,
        beside: str,
        unit: str = "pairs/s",
        target: float | None = None,
    ) -> Comparison:
        return Comparison(
            self.databases.kind,
            name,
            beside,
            floor=rates(floor),
            ours=rates(ours),
            result=ratios(ours, floor),
            unit=unit,
            target=target,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A case by name: runs on one kind of database. `work` is what a profile of it profiles."""

    name: str
    race: Callable[[Race], list[Comparison]]
    work: Work = PAIRS

    def run(self, databases: Databases, turns: Turns) -> list[Comparison]:
        race = Race(databases, turns, self.name)
        with race.opened:
            return self.race(race)
