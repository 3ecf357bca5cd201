"""`ts.pricing`: what a response used and what that costs, without recording anything."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.period import from_micros

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.pricing.cost import Cost
    from tallystick.providers.usage import ProviderUsage

__all__ = ["Prices"]


class Prices:
    """Reads usage from responses, and prices it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def usage(self, response: object, provider: str, model: str | None = None) -> ProviderUsage | None:
        """Return what a response (an SDK's object or a dict) used; None where it carries no usage.

        Raises:
            ProviderError: the application's own provider class failed.
        """
        return self._engine.providers.extract(response, provider, model)

    def cost(
        self,
        usage: ProviderUsage,
        provider: str,
        model: str | None = None,
        at: str | datetime | None = None,
    ) -> Cost:
        """Return what a usage costs, by the prices in force now or at an instant, in the currency of the price.

        Without a model, or with one that has no price, the model that the response reported is priced.

        Raises:
            UnknownPrice: no price is known. It is never taken for zero.
        """
        instant = from_micros(self._engine.instant(at, field="at"))
        return self._engine.pricing.cost(usage, provider, model, instant)
