"""Which price holds for a model at an instant, and what a usage costs by it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from tallystick.errors import InvalidInput, UnknownPrice
from tallystick.money import CurrencyRates, Money
from tallystick.pricing.catalogue import Catalogue
from tallystick.pricing.cost import Cost
from tallystick.pricing.overrides import PriceOverride
from tallystick.pricing.rate import Rate
from tallystick.providers.registry import Providers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tallystick.providers.usage import ProviderUsage

__all__ = ["Pricing"]

_MILLION = 1_000_000
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)
# Model names may come from an application's users: the cache is emptied before they could fill the memory.
_CACHE_MAX = 10_000


class _Window(NamedTuple):
    """The rate of one model in [start, end), or None where no price is known."""

    start: datetime
    end: datetime
    rate: Rate | None


class Pricing:
    """Prices by provider, model and time: overrides first, then the catalogue.

    `currency` is the one that costs come in; without it, each comes in the currency of its price. Rates that were
    resolved are kept for as long as they hold, so a price costs a look-up.
    """

    def __init__(
        self,
        overrides: Iterable[PriceOverride] = (),
        providers: Providers | None = None,
        rates: CurrencyRates | None = None,
        currency: str | None = None,
    ) -> None:
        self._overrides = tuple(overrides)
        self._providers = providers or Providers()
        self._currency_rates = rates or CurrencyRates({})
        self._currency = Money(0, currency).currency if currency is not None else None
        self._catalogue = Catalogue()
        self._windows: dict[tuple[str, str, str | None, str | None], _Window] = {}

    def usage(self, response: object, provider: str, model: str | None = None) -> ProviderUsage | None:
        """Return what a response used, or None when it carries no usage.

        Raises:
            ProviderError: when a custom provider fails.
        """
        return self._providers.extract(response, provider, model)

    def cost(
        self, usage: ProviderUsage, provider: str, model: str | None, at: datetime, currency: str | None = None
    ) -> Cost:
        """Return what a usage costs at an instant. A usage that states its own cost is taken at its word.

        `model` is what was asked for; where no price is known by that name (a deployment at Azure has any name), the
        model that the response reported is tried. With a `currency` the exact cost is exchanged before it is rounded.

        Raises:
            UnknownPrice: when no price is known. It is never taken for zero.
            CurrencyMismatch: when the price is in another currency and no exchange rate is set.
        """
        if usage.total_cost is not None:
            return Cost.stated(usage, currency or self._currency, self._currency_rates)
        rate = self.find(provider, model, at, usage.service_tier, currency) if model else None
        if rate is None and usage.model and usage.model != model:
            rate = self.find(provider, usage.model, at, usage.service_tier, currency)
        if rate is None:
            raise UnknownPrice(provider, model or usage.model)
        return rate.cost(usage)

    def find(
        self, provider: str, model: str, at: datetime, service_tier: str | None = None, currency: str | None = None
    ) -> Rate | None:
        """Return the price of a model that is in force at an instant for a tier (batch, flex, ...), or None.

        A tier without a price of its own has the standard one.

        Raises:
            InvalidInput: when `at` has no time zone.
            CurrencyMismatch: when the price is in another currency and no exchange rate is set.
        """
        key = (provider, model, service_tier, currency)
        window = self._windows.get(key)
        if at.tzinfo is None:
            raise InvalidInput("at", at, "Give an aware datetime, such as datetime.now(UTC).")
        if window is None or not window.start <= at < window.end:
            window = self._window(provider, model, at, service_tier, currency)
            if len(self._windows) >= _CACHE_MAX:
                self._windows.clear()
            self._windows[key] = window
        return window.rate

    def dearest_nanos_per_million(
        self, provider: str, model: str, at: datetime, service_tier: str | None = None
    ) -> int:
        """Return the most that a million tokens of unknown class cost, in nanos, over all tiers of size, rounded up.

        Raises:
            UnknownPrice: when no price is known.
        """
        return self._required(provider, model, at, service_tier).dearest_nanos_per_million

    def dearest(self, provider: str, model: str, tokens: int, at: datetime, service_tier: str | None = None) -> Money:
        """Return the most that a call of that many tokens costs, whatever their classes: what to hold for it.

        It holds for the price in force at `at` and the tier asked for. What is not charged by the token (searches,
        seconds) is not in it, apart from a price per request.

        Raises:
            UnknownPrice: when no price is known.
        """
        rate = self._required(provider, model, at, service_tier)
        return Money.from_nanos(rate.dearest_nanos(tokens), rate.currency)

    def _required(self, provider: str, model: str, at: datetime, service_tier: str | None) -> Rate:
        rate = self.find(provider, model, at, service_tier)
        if rate is None:
            raise UnknownPrice(provider, model)
        return rate

    def _window(
        self, provider: str, model: str, at: datetime, service_tier: str | None, currency: str | None
    ) -> _Window:
        boundaries: list[datetime] = []
        named = model.lower()
        overrides = [
            override
            for override in self._overrides
            if override.matches_model(named) and self._is_same_provider(override.provider, provider)
        ]
        for override in overrides:
            boundaries += [instant for instant in (override.effective_from, override.effective_until) if instant]
        in_force = [override for override in overrides if override.in_force(at)]
        tariff = None
        if in_force:
            # Of equals the last: max keeps the first.
            chosen = max(reversed(in_force), key=PriceOverride.precedence)
            tariff = chosen.tariff(provider, model)
        else:
            found = self._catalogue.find(provider, model)
            if found is not None:
                boundaries += found.boundaries(at)
                tariff = found.tariff(provider, model, at, _context(service_tier))
        start = max((instant for instant in boundaries if instant <= at), default=_BEGINNING)
        end = min((instant for instant in boundaries if instant > at), default=_END)
        if tariff is None:
            return _Window(start, end, None)
        wanted = currency or self._currency or tariff.currency
        return _Window(start, end, Rate(tariff, wanted, self._currency_rates.rate(tariff.currency, wanted)))

    def _is_same_provider(self, left: str, right: str) -> bool:
        if left.lower() == right.lower():
            return True
        canonical = self._catalogue.canonical(left)
        return canonical is not None and canonical == self._catalogue.canonical(right)


def _context(service_tier: str | None) -> Mapping[str, str]:
    """Return a tier as the catalogue asks for it: it calls a batch a processing, and Anthropic's fast mode a speed."""
    return {"service_tier": service_tier, "processing": service_tier, "speed": service_tier} if service_tier else {}
