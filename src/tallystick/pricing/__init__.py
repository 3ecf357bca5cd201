"""What a usage costs: prices by provider, model and time, and exact costs by them."""

from __future__ import annotations

from tallystick.pricing.catalogue import Catalogue
from tallystick.pricing.cost import Cost, CostLine
from tallystick.pricing.overrides import PriceOverride
from tallystick.pricing.price_book import Pricing
from tallystick.pricing.rate import Rate

__all__ = ["Catalogue", "Cost", "CostLine", "PriceOverride", "Pricing", "Rate"]
