"""Percentages as people state them: exact, to six decimals, up to a hundred."""

from __future__ import annotations

from decimal import Context, Decimal

from tallystick.errors import InvalidInput
from tallystick.quantity import MILLIONTHS, from_millionths, to_millionths

__all__ = ["checked_percent"]

# Independent of the application's own decimal context, which may round.
_EXACT = Context(prec=20)


def checked_percent(field: str, value: object, *, can_be_zero: bool = False) -> Decimal:
    """Return a percentage as the shortest decimal that says it: "20" or "8.25".

    Raises:
        InvalidInput: for a float, which is not what it prints; for what is no number, or not within 0 and 100.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(field, value, 'Write it as text, such as "8.25", or give a Decimal or an int.')
    millionths = to_millionths(value, field=field, least=0 if can_be_zero else 1)
    if millionths > 100 * MILLIONTHS:
        raise InvalidInput(field, value, "Give at most 100 percent.")
    return Decimal(f"{_EXACT.normalize(Decimal(from_millionths(millionths))):f}")
