"""Short ways to write values in tests, so that the literals stay visible."""

from __future__ import annotations

from tallystick.money import Money


def money(text: str) -> Money:
    """Return the amount that a text such as "10 USD" or "0.00000015 EUR" says."""
    return Money.parse(text)
