"""Quantities of what is counted, such as messages or gigabytes: exact, to six decimals, as whole millionths."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

from tallystick.errors import InvalidInput

__all__ = ["MILLIONTHS", "from_millionths", "to_millionths"]

MILLIONTHS = 1_000_000
"""One unit in the database's integers."""

_QUANTITY_MAX = 10**18

# Independent of the application's own decimal context, which may round.
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])


def from_millionths(millionths: int) -> int | Decimal:
    """Return a stored quantity: a whole number as int, a fraction as an exact Decimal."""
    whole, fraction = divmod(millionths, MILLIONTHS)
    return whole if not fraction else _EXACT.scaleb(Decimal(millionths), -6)


def to_millionths(quantity: Any, *, field: str = "quantity", least: int = 0) -> int:
    """Return a quantity as whole millionths; a float counts as the decimal that it prints.

    Raises:
        InvalidInput: for what is no number, finer than a millionth, below `least` (millionths), or out of range.
    """
    try:
        stated = Decimal(quantity if not isinstance(quantity, float) else str(quantity))
        exact = _EXACT.multiply(stated, Decimal(MILLIONTHS)) if stated.is_finite() else stated
    except (InvalidOperation, TypeError, ValueError):
        raise InvalidInput(field, quantity, "Give a number.") from None
    except (Inexact, Overflow):
        raise InvalidInput(field, quantity, "Give at most six decimals.") from None
    if not exact.is_finite() or exact != int(exact) or not least <= exact <= _QUANTITY_MAX:
        bound = "zero or more" if least == 0 else "more than zero"
        raise InvalidInput(field, quantity, f"Give {bound}, with at most six decimals.")
    return int(exact)
