"""What is to be played, as checked values. Instants are aware UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tallystick.money import Money
from tallystick.period import add_months
from tallystick.simulation.distributions import Distribution, Week

__all__ = ["CustomerGroup", "Happening", "Model", "Month", "Paying", "Scenario"]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that customers do, at an instant or so many days after their start. `share`: how many of them do it."""

    do: str
    at: datetime | None
    after_days: int | None
    arguments: Mapping[str, Any]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Paying:
    """When customers pay: "always" at once, when "due", "late" by days, "never"; or at once unless it "fails"."""

    kind: str
    days: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is called, and how often beside the others."""

    provider: str
    name: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class CustomerGroup:
    """Customers who are alike. `starts_at` is None where their starts are spread over `spread_months`."""

    name: str
    count: int
    plan: str
    billing_mode: str
    trial_days: int | None
    coupon: str | None
    billing: Mapping[str, Any]
    timezone: str | None
    currency: str | None
    starts_at: datetime | None
    spread_months: int
    calls: Week
    models: tuple[Model, ...]
    input_tokens: Distribution
    output_tokens: Distribution
    feature: str
    resources: Mapping[str, Week]
    growth: float
    churn: float
    pays: Paying
    wallet: Money | None
    tops_up: Money | None
    happenings: tuple[Happening, ...]

    def customer(self, number: int) -> str:
        """Return the name of one of them, counted from 1."""
        width = len(str(self.count))
        return self.name.replace("{n}", f"{number:0{width}}")


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the scenario, half-open."""

    label: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is played, from `start` for so many months in a zone. `plans` is as in a file of plans."""

    name: str
    start: datetime
    months: int
    zone: str
    seed: int
    settings: Mapping[str, Any]
    plans: Mapping[str, Any]
    coupons: Mapping[str, Mapping[str, Any]]
    groups: tuple[CustomerGroup, ...]
    file: str = ""

    @property
    def end(self) -> datetime:
        """The instant at which it stops; what happens then does not belong to it."""
        return self.after_months(self.months)

    @property
    def customers(self) -> int:
        return sum(group.count for group in self.groups)

    def after_months(self, months: int) -> datetime:
        """Return the same wall time so many months after the start."""
        return add_months(self.start.astimezone(ZoneInfo(self.zone)), months).astimezone(self.start.tzinfo)

    def after_days(self, instant: datetime, days: int) -> datetime:
        """Return the same wall time so many days later, in the scenario's zone."""
        return (instant.astimezone(ZoneInfo(self.zone)) + timedelta(days=days)).astimezone(instant.tzinfo)

    def parts(self) -> tuple[Month, ...]:
        """Return the months, named as calendars do where they begin on the first."""
        return tuple(self._part(number) for number in range(self.months))

    def _part(self, number: int) -> Month:
        start, end = self.after_months(number), self.after_months(number + 1)
        local = start.astimezone(ZoneInfo(self.zone))
        return Month(f"{local:%Y-%m}" if local.day == 1 else f"{local:%Y-%m-%d}", start, end)
