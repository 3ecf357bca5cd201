"""Measuring fairly on a machine that others use too: short rounds in turns, medians, and the spread of the rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from benchmarks.machine import Neighbours

__all__ = ["Contestant", "Limit", "Pace", "Round", "Spread", "Turns", "rates", "ratios"]

OTHERS_SHARE_MAX = 0.15
"""The share of the processors that other programs may take of a turn that counts."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure: rounds that count, and turns that are run at most to get them.

    `history` is how many events, or ledger entries, a long past has; `subscriptions` is how many one run bills. With
    `is_examined` the doctor proves what the rounds of credits have left behind; of a long past that takes longer than
    the rounds.
    """

    rounds: int
    turns_max: int
    round_seconds: float
    history: int
    subscriptions: int
    is_examined: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """When a round ends: after so many seconds, or as soon as so much is done."""

    seconds: float
    done: float = inf


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did: so many pairs, deductions or readings.

    `longest_seconds` is the longest wait for one call, 0 where calls were not timed.
    """

    done: int
    seconds: float
    longest_seconds: float = 0.0
    done_by_caller: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        """How much of it was done in a second."""
        return self.done / self.seconds

    @property
    def fairness(self) -> float:
        """What the slowest caller has done over what the fastest one has."""
        return min(self.done_by_caller) / max(self.done_by_caller)


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the range of the rounds that it stands for."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)


Contestant = Callable[[Limit], Round]


class Turns:
    """Runs contestants in turns. A turn that other programs disturbed does not count while there are calmer ones."""

    def __init__(self, pace: Pace, neighbours: Neighbours) -> None:
        self.pace = pace
        self.disturbed = 0
        self.kept = 0
        self._neighbours = neighbours

    def run(self, contestants: Mapping[str, Contestant]) -> Mapping[str, Sequence[Round]]:
        """Run the contestants one after the other, turn after turn: what disturbs one disturbs its neighbours too."""
        rounds = self.pace.rounds
        turns: list[tuple[float, Mapping[str, Round]]] = []
        calm = 0
        while calm < rounds and len(turns) < self.pace.turns_max:
            others = self._neighbours.watch()
            turn = self._turn(contestants)
            share = others()
            turns.append((share, turn))
            calm += share <= OTHERS_SHARE_MAX
        self.disturbed += len(turns) - calm
        self.kept += max(0, rounds - calm)
        calmest = [turn for _, turn in sorted(turns, key=lambda one: one[0])[:rounds]]
        return {name: [turn[name] for turn in calmest] for name in contestants}

    def _turn(self, contestants: Mapping[str, Contestant]) -> Mapping[str, Round]:
        turn: dict[str, Round] = {}
        limit = Limit(self.pace.round_seconds)
        for name, run in contestants.items():
            turn[name] = run(limit)
            # A raw writer writes no more than the first contestant: their databases grow alike, and slow down alike.
            limit = Limit(limit.seconds, min(limit.done, turn[name].done))
        return turn


def rates(rounds: Sequence[Round]) -> Spread:
    return Spread(tuple(one.rate for one in rounds))


def ratios(ours: Sequence[Round], floor: Sequence[Round]) -> Spread:
    """Return our rate over the floor's, round by round."""
    return Spread(tuple(one.rate / other.rate for one, other in zip(ours, floor, strict=True)))
