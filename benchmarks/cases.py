"""The cases: who races against which floor, and what is to be reached."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.billing import billing
from benchmarks.comparison import Case, Comparison, Race
from benchmarks.credits import DEDUCTIONS, credits
from benchmarks.floors import GroupWriter, PairWriter
from benchmarks.quotas import CONSUMPTIONS, quotas
from benchmarks.rounds import Round, Spread
from benchmarks.workload import BILLABLES, HOT

__all__ = ["CASES"]

_THREADS = 16
_TASKS = 64
_WORST_WAIT_MILLISECONDS = 100.0


def one_caller(race: Race) -> list[Comparison]:
    """One caller who waits for each commit, beside the same two commits by the raw driver."""
    ours = race.ours(BILLABLES)
    found = race.run({"ours": ours.one_caller(BILLABLES), "floor": race.floor(PairWriter, BILLABLES)})
    target = 0.5 if race.databases.kind == "sqlite" else None
    return [race.rates("1 caller", found["ours"], found["floor"], beside="raw, two commits a pair", target=target)]


def threads(race: Race) -> list[Comparison]:
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


def tasks(race: Race) -> list[Comparison]:
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


def hot(race: Race) -> list[Comparison]:
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


def history(race: Race) -> list[Comparison]:
    """A database that has seen much, beside one that has seen nothing."""
    events = race.turns.pace.history
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


CASES = (
    *(Case(race.__name__, race) for race in (one_caller, threads, tasks, hot, history)),
    Case("credits", credits, work=DEDUCTIONS),
    Case("quotas", quotas, work=CONSUMPTIONS),
    Case("billing", billing),
)
