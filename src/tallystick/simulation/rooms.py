"""How much a customer may use before its limits have to be asked for every single call.

Use is recorded a day at a time, as facts, where no limit comes near. Near a limit each call is a real one: the engine
holds, admits or refuses it. So what is refused is what the engine refuses, and the rest is fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from tallystick import ProviderUsage, Tallystick
from tallystick.errors import CurrencyMismatch, InvalidInput, UnknownPrice
from tallystick.money import CurrencyRates, Money, ceil_div
from tallystick.simulation.demand import Use
from tallystick.simulation.scenario import Scenario

__all__ = ["Rates", "Room", "ask_room", "model_rates"]

_MILLION = 1_000_000
# A price may rise with the length of a prompt; twice the usual one is more than any asks.
_DEARER = 2
_NANO = 1


class Room(NamedTuple):
    """Tokens and nanos of a currency that are left until an instant; None: no limit, or no end."""

    tokens: int | None
    nanos: int | None
    currency: str
    until: datetime | None

    def closed(self) -> Room:
        return self._replace(tokens=None if self.tokens is None else -1, nanos=None if self.nanos is None else -1)

    def less(self, tokens: int, nanos: int) -> Room:
        return self._replace(
            tokens=None if self.tokens is None else self.tokens - tokens,
            nanos=None if self.nanos is None else self.nanos - nanos,
        )


class Rates:
    """What models cost at most, as far as it decides whether a limit comes near."""

    def __init__(self, by_model: dict[tuple[str, str], tuple[Money, Money]], rates: CurrencyRates) -> None:
        self._by_model = by_model
        self._rates = rates

    def most(self, uses: Iterable[Use], currency: str) -> int | None:
        """Return what uses cost at most, in nanos of a currency; None where it cannot be converted."""
        nanos = 0
        for use in uses:
            prices = self._by_model.get((use.provider, use.model))
            if prices is None:
                continue
            try:
                dear_input, dear_output = (price.convert(currency, self._rates).nanos for price in prices)
            except CurrencyMismatch:
                return None
            nanos += ceil_div(dear_input * use.input_tokens + dear_output * use.output_tokens, _MILLION)
        return nanos * _DEARER


def model_rates(ts: Tallystick, scenario: Scenario) -> Rates:
    """Return the rates of all models of a scenario.

    Raises:
        InvalidInput: one has no price.
    """
    found: dict[tuple[str, str], tuple[Money, Money]] = {}
    usage = ProviderUsage.manual(input_tokens=_MILLION, output_tokens=_MILLION)
    for place, group in enumerate(scenario.groups, start=1):
        for model in group.models:
            try:
                cost = ts.pricing.cost(usage, model.provider, model.name)
            except UnknownPrice:
                if ts.settings.on_unknown_price == "record_unpriced":
                    continue
                field = f"{scenario.file}: customers[{place}].model"
                remedy = f"It has no price. Give it one: [settings.providers.{model.provider}.models.{model.name!r}]."
                raise InvalidInput(field, f"{model.provider}/{model.name}", remedy) from None
            found[model.provider, model.name] = (cost.input_cost, cost.output_cost)
    return Rates(found, CurrencyRates(ts.settings.billing.currency_rates))


def ask_room(ts: Tallystick, billable: str, until: datetime | None) -> Room:
    """Ask how much a billable may use, at most until its terms turn."""
    standing = ts.limits.check(billable)
    currency = standing.cost_used.currency
    if not standing.allowed:
        return Room(0, 0, currency, until)
    tokens, cost = standing.remaining_tokens, standing.remaining_cost
    if tokens is not None and ts.limits.check(billable, tokens=max(tokens, 0) + 1).allowed:
        tokens = None
    nanos = None
    if cost is not None:
        currency = cost.currency
        beyond = Money.from_nanos(max(cost.nanos, 0) + _NANO, currency)
        nanos = None if ts.limits.check(billable, cost=beyond).allowed else cost.nanos
    if (tokens is not None or nanos is not None) and standing.resets_at is not None:
        until = standing.resets_at if until is None else min(until, standing.resets_at)
    return Room(tokens, nanos, currency, until)
