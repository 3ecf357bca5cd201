"""The prices of the models that are publicly known: the data that genai-prices bundles. Nothing is ever fetched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from tallystick.pricing.rate import Tariff, UnitPrice
from tallystick.providers.units import UNITS, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genai_prices.types import ModelInfo, ModelPrice
    from genai_prices.types import Provider as CatalogueProvider

__all__ = ["Catalogue", "CatalogueModel"]

# A transcription at Groq is charged for ten seconds at least.
_SECONDS_MIN = {("groq", "whisper-large-v3"): 10, ("groq", "whisper-large-v3-turbo"): 10}

# These name a model also by its resource: models/gemini-2.5-pro, projects/…/models/gemini-2.5-pro,
# arn:aws:bedrock:…:foundation-model/anthropic.claude-….
_RESOURCE_PROVIDERS = frozenset(("google", "aws"))


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that the catalogue knows, at one provider."""

    provider: str
    info: ModelInfo
    # A model that a provider resells (Azure the models of OpenAI) has the other's prices, without its special tiers.
    is_own: bool
    version: str

    def tariff(self, provider: str, model: str, at: datetime, context: Mapping[str, str]) -> Tariff | None:
        """Return the prices in force at an instant in a context, or None when the catalogue states none."""
        prices = self.info.get_prices(at, context if self.is_own and context else None)
        stated = _unit_prices(prices)
        if not stated and not self._is_free():
            return None
        return Tariff(
            provider=provider,
            model=model,
            prices=stated or _FREE,
            currency="USD",
            source="catalogue",
            version=self.version,
            matched=f"{self.provider}/{self.info.id}",
            seconds_min=_SECONDS_MIN.get((self.provider, self.info.id), 0),
        )

    def boundaries(self, at: datetime) -> Iterator[datetime]:
        """Yield the instants where other prices may come into force, among them the nearest on either side of `at`."""
        from genai_prices.types import StartDateConstraint

        conditions = [] if not isinstance(self.info.prices, list) else [price.constraint for price in self.info.prices]
        for constraint in (*conditions, *(variant.constraint for variant in self.info.price_variants or ())):
            if isinstance(constraint, StartDateConstraint):
                yield datetime.combine(constraint.start_date, time(), UTC)
            elif constraint is not None:
                yield from _daily_instants(at, constraint.start_time, constraint.end_time)

    def _is_free(self) -> bool:
        # The catalogue states no price for the free variants of models, and says in their name that they are free.
        return self.info.id.endswith(":free")


class Catalogue:
    """The bundled catalogue. Its data is imported on first use: it takes a tenth of a second and 26 MB."""

    def canonical(self, provider: str) -> str | None:
        """Return the catalogue's id of a provider ("google" for "gemini" or "vertex"), or None when it has none."""
        found = _provider(provider)
        return found.id if found is not None else None

    def find(self, provider: str, model: str) -> CatalogueModel | None:
        """Return the model that a provider's name for it means, or None. Names are matched in any case."""
        if provider.lower() == "litellm" and "/" in model:
            # LiteLLM writes the real provider before the model.
            named, _, rest = model.partition("/")
            if _provider(named) is not None:
                provider, model = named, rest
        found = _provider(provider) or (_provider_of_model(model) if provider.lower() == "litellm" else None)
        if found is None:
            return None
        info = found.find_model(model, all_providers=_providers())
        if info is None and found.id in _RESOURCE_PROVIDERS and "/" in model:
            info = found.find_model(model.rpartition("/")[2], all_providers=_providers())
        if info is None:
            return None
        return CatalogueModel(found.id, info, any(info is own for own in found.models), _version())


@cache
def _providers() -> list[CatalogueProvider]:
    # genai_prices.data_snapshot would give an application's own snapshot, that may have been fetched.
    from genai_prices.data import providers

    return providers


@cache
def _version() -> str:
    from genai_prices import __version__

    return f"genai-prices {__version__}"


@cache
def _units_by_price() -> dict[str, Unit]:
    from genai_prices.data_units import unit_data

    return {
        raw["price_key"]: UNITS.get(key) or Unit(key, raw["per"], frozenset(raw["dimensions"].items()))
        for key, raw in unit_data.items()
    }


def _provider(name: str) -> CatalogueProvider | None:
    from genai_prices.data_snapshot import find_provider_by_id

    return find_provider_by_id(_providers(), name)


def _provider_of_model(model: str) -> CatalogueProvider | None:
    named = model.lower()
    return next((found for found in _providers() if found.model_match and found.model_match.is_match(named)), None)


def _unit_prices(prices: ModelPrice) -> tuple[UnitPrice, ...]:
    stated: dict[str, Any] = {key: price for key, price in vars(prices).items() if price is not None}
    units = _units_by_price()
    # In the order of the registry: a cost lists input before output.
    return tuple(_unit_price(unit, stated[key]) for key, unit in units.items() if key in stated)


def _unit_price(unit: Unit, price: Any) -> UnitPrice:
    if isinstance(price, Decimal):
        return UnitPrice(unit, price)
    return UnitPrice(unit, price.base, tuple((tier.start, tier.price) for tier in price.tiers))


def _daily_instants(at: datetime, *times: time) -> Iterator[datetime]:
    day = at.astimezone(UTC).date()
    for offset in (-2, -1, 0, 1, 2):
        for moment in times:
            local = datetime.combine(day + timedelta(days=offset), moment)
            yield local.replace(tzinfo=UTC) if local.tzinfo is None else local.astimezone(UTC)


_FREE = (UnitPrice(UNITS["input_tokens"], Decimal(0)), UnitPrice(UNITS["output_tokens"], Decimal(0)))
