"""A provider of one's own, as an application would add it: it bills characters, and says itself what a call costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tallystick.money import Money
from tallystick.providers.usage import ProviderUsage

__all__ = ["AcmeProvider"]

PRICE_PER_CHARACTER_READ = Money("0.00002", "USD")
PRICE_PER_CHARACTER_WRITTEN = Money("0.00006", "USD")


class AcmeProvider:
    """Reads what Acme's answers say of their own use, and prices it by Acme's contract.

    Registered by its path: `Tallystick(providers={"acme": {"class": "tallystick.demo.acme:AcmeProvider"}})`.
    """

    name = "acme"

    def extract(self, response: object) -> ProviderUsage | None:
        """Return the characters of an answer with their cost, or None where it has no bill."""
        billing: Any = response.get("billing") if isinstance(response, Mapping) else None
        if billing is None:
            return None
        read, written = int(billing["characters_in"]), int(billing["characters_out"])
        counts: dict[str, int | Decimal] = {"input_characters": read, "output_characters": written}
        return ProviderUsage(
            counts=counts,
            input_cost=PRICE_PER_CHARACTER_READ * read,
            output_cost=PRICE_PER_CHARACTER_WRITTEN * written,
        )
