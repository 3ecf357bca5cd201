"""Measuring fairly on a machine that others use too: short rounds in turns, medians, and the spread of the rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Pace", "Round", "Spread", "measured_in_turns", "ratios"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure."""

    rounds: int
    round_seconds: float
    history_events: int


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. `longest_seconds` is the longest wait for one call, 0 where calls were not timed."""

    pairs: int
    seconds: float
    longest_seconds: float = 0.0
    pairs_by_caller: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        """Pairs per second."""
        return self.pairs / self.seconds

    @property
    def fairness(self) -> float:
        """The slowest caller's pairs over the fastest one's."""
        return min(self.pairs_by_caller) / max(self.pairs_by_caller)


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


def measured_in_turns(contestants: Mapping[str, Callable[[float], Round]], pace: Pace) -> Mapping[str, Sequence[Round]]:
    """Run the contestants one after the other, round after round: what disturbs one disturbs its neighbours too."""
    found: dict[str, list[Round]] = {name: [] for name in contestants}
    for _ in range(pace.rounds):
        for name, run in contestants.items():
            found[name].append(run(pace.round_seconds))
    return found


def rates(rounds: Sequence[Round]) -> Spread:
    return Spread(tuple(one.rate for one in rounds))


def ratios(ours: Sequence[Round], floor: Sequence[Round]) -> Spread:
    """Return our rate over the floor's, round by round."""
    return Spread(tuple(one.rate / other.rate for one, other in zip(ours, floor, strict=True)))
