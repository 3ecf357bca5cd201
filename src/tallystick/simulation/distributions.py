"""Numbers that look like chance: how many calls on a day, how many tokens in a call. Pure.

They are drawn from a generator that is seeded with a text, so the same text always gives the same numbers. None of them
is money.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from tallystick.errors import InvalidInput

__all__ = ["ALWAYS", "Distribution", "Week", "generator", "read_distribution", "read_week"]

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEK_KEYS = (*_DAYS, "weekday", "weekend")
_NUMBER = r"\d+(?:\.\d+)?"
_FORMS = {
    "poisson": re.compile(rf"poisson:({_NUMBER})"),
    "uniform": re.compile(rf"uniform:({_NUMBER})-({_NUMBER})"),
    "normal": re.compile(rf"normal:({_NUMBER}),({_NUMBER})"),
    "lognormal": re.compile(rf"lognormal:({_NUMBER}),({_NUMBER})"),
}
_REMEDY = (
    'Give a number, "poisson:12" (mean), "uniform:50-400", "normal:400,100" (mean, deviation) or '
    '"lognormal:400,0.6" (median, spread).'
)
_MOST = 10_000_000
_SPREAD_MOST = 4
# The mean up to which products of random numbers do not underflow.
_POISSON_STEP = 30.0
_POISSON_MOST = 100_000.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a whole number of zero or more is drawn: its kind, and the kind's numbers."""

    kind: str
    first: float
    second: float = 0.0

    def draw(self, random: Random, *, factor: float = 1.0) -> int:
        """Return one number, `factor` times as large as usual. A part of one is drawn by chance: 2.5 is 2 or 3."""
        if self.kind == "poisson":
            return _poisson(random, self.first * factor)
        if self.kind == "uniform":
            value = self.first + (self.second - self.first) * random.random()
        elif self.kind == "normal":
            value = random.normalvariate(self.first, self.second)
        elif self.kind == "lognormal":
            value = self.first * math.exp(self.second * random.normalvariate(0.0, 1.0))
        else:
            value = self.first
        scaled = min(max(value * factor, 0.0), float(_MOST))
        return math.floor(scaled + random.random())


ALWAYS = Distribution("constant", 1.0)


@dataclass(frozen=True, slots=True)
class Week:
    """A distribution for each day of the week, from Monday."""

    days: tuple[Distribution, ...]

    def on(self, weekday: int) -> Distribution:
        return self.days[weekday]


def generator(*parts: object) -> Random:
    """Return numbers that follow from these parts alone, whatever was drawn elsewhere."""
    return Random("/".join(str(part) for part in parts))  # noqa: S311  # chance that can be repeated, not a secret


def read_distribution(field: str, stated: object) -> Distribution:
    """Return the distribution that a scenario states as a number or as text.

    Raises:
        InvalidInput: naming the field.
    """
    if isinstance(stated, int | Decimal) and not isinstance(stated, bool):
        if not 0 <= stated <= _MOST:
            raise InvalidInput(field, stated, f"Give zero to {_MOST:,}.")
        return Distribution("constant", float(stated))
    text = stated.replace(" ", "").lower() if isinstance(stated, str) else ""
    for kind, form in _FORMS.items():
        if match := form.fullmatch(text):
            return _checked(field, stated, kind, [float(number) for number in match.groups()])
    raise InvalidInput(field, stated, _REMEDY)


def read_week(field: str, stated: object) -> Week:
    """Return the distributions of a week: one for all days, or a table such as {weekday = 20, weekend = "poisson:3"}.

    Raises:
        InvalidInput: naming the field.
    """
    if not isinstance(stated, Mapping):
        return Week((read_distribution(field, stated),) * len(_DAYS))
    unknown = next((name for name in stated if name not in _WEEK_KEYS), None)
    if unknown is not None or not stated:
        raise InvalidInput(f"{field}.{unknown}" if unknown else field, unknown, f"Use {', '.join(_WEEK_KEYS)}.")
    days = []
    for number, day in enumerate(_DAYS):
        name = next((one for one in (day, "weekend" if number > 4 else "weekday") if one in stated), None)
        days.append(
            Distribution("constant", 0.0) if name is None else read_distribution(f"{field}.{name}", stated[name])
        )
    return Week(tuple(days))


def _checked(field: str, stated: object, kind: str, numbers: list[float]) -> Distribution:
    if max(numbers[:1]) > _MOST or numbers[-1] > _MOST:
        raise InvalidInput(field, stated, f"Give at most {_MOST:,}.")
    if kind == "uniform" and numbers[0] > numbers[1]:
        raise InvalidInput(field, stated, "The smaller number comes first.")
    if kind == "lognormal" and numbers[1] > _SPREAD_MOST:
        raise InvalidInput(field, stated, f"Give a spread of at most {_SPREAD_MOST}; 0.6 is usual.")
    return Distribution(kind, *numbers)


def _poisson(random: Random, mean: float) -> int:
    """Return how often something happens that happens `mean` times on average (Knuth), in steps that stay exact."""
    drawn, mean = 0, min(mean, _POISSON_MOST)
    while mean > 0:
        step = min(mean, _POISSON_STEP)
        mean -= step
        threshold, product = math.exp(-step), random.random()
        while product > threshold:
            drawn += 1
            product *= random.random()
    return drawn
