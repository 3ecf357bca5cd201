"""The cases: who races against which floor, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from benchmarks.databases import Databases
from benchmarks.floors import GroupWriter, PairWriter, PlpgsqlCallers, SqliteCallers
from benchmarks.history import write_history
from benchmarks.lane import Ours
from benchmarks.rounds import Contestant, Round, Spread, Turns, rates, ratios
from benchmarks.workload import BILLABLES, HOT

__all__ = ["CASES", "Case", "Comparison"]

_THREADS = 16
_TASKS = 64
_WORST_WAIT_MILLISECONDS = 100.0


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
    def is_reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.decisive <= self.target if self.is_ceiling else self.decisive >= self.target


@dataclass(slots=True)
class _Race:
    """One database kind's contestants of one case, closed when it is over."""

    databases: Databases
    turns: Turns
    case: str
    opened: ExitStack = field(default_factory=ExitStack)

    def ours(self, *billables: Sequence[str], name: str = "ours", history: int = 0) -> Ours:
        database = self.databases.fresh(f"{self.case}_{name}")
        if history:
            write_history(database, history)
        ours = self.opened.enter_context(closing(Ours(database)))
        for some in billables:
            ours.warm_up(some)
        return ours

    def floor(
        self,
        kind: type[PairWriter | GroupWriter],
        billables: Sequence[str],
    ) -> Contestant:
        database = self.databases.fresh(f"{self.case}_{kind.__name__.lower()}")
        return self.opened.enter_context(closing(kind(database, billables)))

    def callers(self, billables: Sequence[str], callers: int) -> Contestant:
        kind = SqliteCallers if self.databases.kind == "sqlite" else PlpgsqlCallers
        database = self.databases.fresh(f"{self.case}_{callers}_callers")
        return self.opened.enter_context(closing(kind(database, billables, callers)))

    def run(self, contestants: Mapping[str, Contestant]) -> Mapping[str, Sequence[Round]]:
        return self.turns.run(contestants)

    def rates(
        self,
        name: str,
        ours: Sequence[Round],
        floor: Sequence[Round],
        *,
        beside: str,
        target: float | None = None,
    ) -> Comparison:
        return Comparison(
            self.databases.kind,
            name,
            beside,
            floor=rates(floor),
            ours=rates(ours),
            result=ratios(ours, floor),
            target=target,
        )


def one_caller(race: _Race) -> list[Comparison]:
    """One caller who waits for each commit, beside the same two commits by the raw driver."""
    ours = race.ours(BILLABLES)
    found = race.run({"ours": ours.one_caller(BILLABLES), "floor": race.floor(PairWriter, BILLABLES)})
    target = 0.5 if race.databases.kind == "sqlite" else None
    return [race.rates("1 caller", found["ours"], found["floor"], beside="raw, two commits a pair", target=target)]


def threads(race: _Race) -> list[Comparison]:
    """Threads at once: how much together, the longest wait of any, and whether all get their share."""
    ours = race.ours(BILLABLES)
    found = race.run({"ours": ours.threads(BILLABLES, _THREADS), "floor": race.callers(BILLABLES, _THREADS)})
    kind, name = race.databases.kind, f"{_THREADS} threads"
    beside = f"raw, {_THREADS} connections" if kind == "sqlite" else f"plpgsql, {_THREADS} connections"

    def waits(rounds: Sequence[Round]) -> Spread:
        return Spread(tuple(one.longest_seconds * 1000 for one in rounds))

    def fairness(rounds: Sequence[Round]) -> Spread:
        return Spread(tuple(one.fairness for one in rounds))

    return [
        race.rates(name, found["ours"], found["floor"], beside=beside),
        Comparison(
            kind,
            f"{name}: longest wait for one call",
            beside,
            floor=waits(found["floor"]),
            ours=waits(found["ours"]),
            result=waits(found["ours"]),
            unit="ms",
            target=_WORST_WAIT_MILLISECONDS,
            is_ceiling=True,
            decides_by="most",
        ),
        Comparison(
            kind,
            f"{name}: slowest over fastest",
            beside,
            floor=fairness(found["floor"]),
            ours=fairness(found["ours"]),
            result=fairness(found["ours"]),
            unit="share",
            target=0.5,
            decides_by="least",
        ),
    ]


def tasks(race: _Race) -> list[Comparison]:
    """Callers of asyncio, beside a writer that does nothing but write their rows in groups."""
    ours = race.ours(BILLABLES)
    found = race.run(
        {
            "ours": ours.tasks(BILLABLES, _TASKS),
            "group": race.floor(GroupWriter, BILLABLES),
            "single": race.floor(PairWriter, BILLABLES),
        }
    )
    name, is_sqlite = f"{_TASKS} async callers", race.databases.kind == "sqlite"
    return [
        race.rates(name, found["ours"], found["group"], beside=f"raw, {_TASKS} pairs a commit", target=0.5),
        race.rates(
            name,
            found["ours"],
            found["single"],
            beside="raw, two commits a pair",
            target=3 if is_sqlite else None,
        ),
    ]


def hot(race: _Race) -> list[Comparison]:
    """The same callers on one billable, beside the same over many, and beside one round trip for each call."""
    ours = race.ours(BILLABLES, HOT)
    contestants = {"ours": ours.tasks(HOT, _TASKS), "many": ours.tasks(BILLABLES, _TASKS)}
    functions: dict[str, int] = {}
    if race.databases.kind == "postgres":
        # Callers of one billable wait for each other, so fewer of them get more done: both figures are told.
        functions = {f"plpgsql, {callers} connections": callers for callers in (_TASKS, _THREADS)}
        contestants |= {name: race.callers(HOT, callers) for name, callers in functions.items()}
    found = race.run(contestants)
    name = f"{_TASKS} async callers, one tenant"
    beside_functions = [
        race.rates(name, found["ours"], found[beside], beside=beside, target=10 if callers == _TASKS else None)
        for beside, callers in functions.items()
    ]
    target = 0.5 if functions else None
    return [
        *beside_functions,
        race.rates(name, found["ours"], found["many"], beside="ours, 1,000 tenants", target=target),
    ]


def history(race: _Race) -> list[Comparison]:
    """A database that has seen much, beside one that has seen nothing."""
    events = race.turns.pace.history_events
    full, empty = race.ours(BILLABLES, name="full", history=events), race.ours(BILLABLES, name="empty")
    lines = []
    for callers in (_TASKS, 1):
        of_each = {
            name: ours.tasks(BILLABLES, callers) if callers > 1 else ours.one_caller(BILLABLES)
            for name, ours in (("empty", empty), ("full", full))
        }
        found = race.run(of_each)
        who = "1 caller" if callers == 1 else f"{callers} async callers"
        name = f"{who}, {events:,} events of history"
        lines.append(race.rates(name, found["full"], found["empty"], beside="ours, empty", target=0.9))
    return lines


@dataclass(frozen=True, slots=True)
class Case:
    """A case by name: runs on one kind of database."""

    name: str
    race: Callable[[_Race], list[Comparison]]

    def run(self, databases: Databases, turns: Turns) -> list[Comparison]:
        race = _Race(databases, turns, self.name)
        with race.opened:
            return self.race(race)


CASES = tuple(Case(race.__name__, race) for race in (one_caller, threads, tasks, hot, history))
