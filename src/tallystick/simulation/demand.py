"""What a customer does on a day. Pure: it follows from the scenario's seed, the customer and the day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tallystick.simulation.distributions import generator
from tallystick.simulation.scenario import CustomerGroup, Scenario

__all__ = ["Use", "uses_between"]

_DAYS_A_MONTH = 30.4375


class Use(NamedTuple):
    """One call of a model, or, with a `resource_type`, so much of a resource."""

    at: datetime
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    resource_type: str
    quantity: int


def uses_between(
    scenario: Scenario, group: CustomerGroup, billable: str, *, start: datetime, end: datetime, since: datetime
) -> list[Use]:
    """Return what a customer uses on the day `[start, end)`, in order of time. They are a customer `since` then."""
    random = generator(scenario.seed, billable, start.isoformat())
    factor = group.growth ** ((start - since).days / _DAYS_A_MONTH)
    weekday = start.astimezone(ZoneInfo(scenario.zone)).weekday()
    uses = [
        *_calls(group, random, start, end, factor, weekday),
        *_resources(group, random, start, end, factor, weekday),
    ]
    return sorted(uses, key=lambda use: use.at)


def _calls(
    group: CustomerGroup, random: Random, start: datetime, end: datetime, factor: float, weekday: int
) -> Iterator[Use]:
    weights = [model.weight for model in group.models]
    for _ in range(group.calls.on(weekday).draw(random, factor=factor)):
        model = random.choices(group.models, weights)[0] if len(weights) > 1 else group.models[0]
        input_tokens = max(group.input_tokens.draw(random), 1)
        output_tokens = group.output_tokens.draw(random)
        yield Use(_moment(random, start, end), model.provider, model.name, input_tokens, output_tokens, "", 1)


def _resources(
    group: CustomerGroup, random: Random, start: datetime, end: datetime, factor: float, weekday: int
) -> Iterator[Use]:
    for resource_type, week in group.resources.items():
        quantity = week.on(weekday).draw(random, factor=factor)
        if quantity:
            yield Use(_moment(random, start, end), "", "", 0, 0, resource_type, quantity)


def _moment(random: Random, start: datetime, end: datetime) -> datetime:
    milliseconds = (end - start) // timedelta(milliseconds=1)
    return start + timedelta(milliseconds=int(random.random() * milliseconds))
