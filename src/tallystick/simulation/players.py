"""The customers of a scenario, what each of them will do when, and how they stand while it is played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tallystick.simulation.distributions import generator
from tallystick.simulation.rooms import Room
from tallystick.simulation.scenario import CustomerGroup, Scenario

__all__ = ["Deed", "Player", "cast"]

_CHURN_WITHIN_DAYS = 28


class Deed(NamedTuple):
    """Something that a customer does at an instant. The first of all is to "start"."""

    at: datetime
    do: str
    arguments: Mapping[str, Any]


@dataclass(slots=True)
class Player:
    """One customer. What stands below `deeds` changes as time goes on.

    `status` is that of the subscription, and holds until `turns_at`. `is_careful` lets every call be asked for, one
    after the other; `room` is what may be used before that is needed.
    """

    group: CustomerGroup
    billable: str
    starts_at: datetime
    deeds: tuple[Deed, ...]
    has_started: bool = False
    subscription: Any = None
    status: str = ""
    turns_at: datetime | None = None
    is_stale: bool = True
    is_careful: bool = False
    room: Room | None = None
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def uses(self) -> bool:
        """Whether it uses anything now: nobody does who has left, or pauses."""
        return self.has_started and self.status in ("trial", "active", "past_due")


def cast(scenario: Scenario) -> list[Player]:
    """Return the customers, in the order of the scenario."""
    return [_player(scenario, group, number) for group in scenario.groups for number in range(1, group.count + 1)]


def _player(scenario: Scenario, group: CustomerGroup, number: int) -> Player:
    name = group.customer(number)
    billable = name if ":" in name else f"tenant:{name}"
    starts_at = _start(scenario, group, number)
    deeds = [Deed(starts_at, "start", {}), *_happenings(scenario, group, billable, starts_at)]
    deeds += _departure(scenario, group, billable, starts_at)
    # A sort keeps the order of the scenario for what happens at one instant.
    kept = sorted((one for one in deeds if starts_at <= one.at < scenario.end), key=lambda deed: deed.at)
    return Player(group, billable, starts_at, tuple(kept))


def _start(scenario: Scenario, group: CustomerGroup, number: int) -> datetime:
    if group.starts_at is not None:
        return group.starts_at
    days = (scenario.after_months(group.spread_months) - scenario.start).days
    return scenario.after_days(scenario.start, (number - 1) * days // group.count)


def _happenings(scenario: Scenario, group: CustomerGroup, billable: str, starts_at: datetime) -> Iterator[Deed]:
    # One draw for all: who is among the half that pauses is also among the half that resumes.
    drawn = generator(scenario.seed, billable, "share").random()
    for happening in group.happenings:
        if drawn >= happening.share:
            continue
        at = happening.at
        if at is None:
            at = scenario.after_days(starts_at, happening.after_days or 0)
        yield Deed(at, happening.do, happening.arguments)


def _departure(scenario: Scenario, group: CustomerGroup, billable: str, starts_at: datetime) -> Iterator[Deed]:
    """Yield the cancellation of a customer who leaves, if it does: each month it may."""
    random = generator(scenario.seed, billable, "churn")
    day = scenario.after_days(starts_at, _CHURN_WITHIN_DAYS)
    while day < scenario.end:
        if random.random() < group.churn:
            yield Deed(scenario.after_days(day, int(random.random() * _CHURN_WITHIN_DAYS)), "cancel", {})
            return
        day = scenario.after_days(day, 30)
