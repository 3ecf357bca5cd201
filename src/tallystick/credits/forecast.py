"""How long credits last, as a pure function: what is burned of each grant at a steady rate, and what expires before.

Credits burn in their order, each after the one before it. What expires while it waits is lost, and so is what is left
of the one that burns when its expiry comes. Time is exact here: fractions of a microsecond are kept until the end, so
that two forecasts in a row say what one over both would say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tallystick.money import round_half_even

__all__ = ["BurnDown", "BurnRate", "Lot", "LotBurned", "burn_down"]

_DAY_MICROS = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Lot:
    """Credits that expire together. `amount` is in whole nanos or millionths, `expires_at` in µs; None is never."""

    name: str
    amount: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class BurnRate:
    """So much in so many microseconds."""

    amount: int
    micros: int

    @property
    def per_day(self) -> int:
        """What is burned in 24 hours, rounded half-even."""
        return round_half_even(self.amount * _DAY_MICROS, self.micros)


@dataclass(frozen=True, slots=True)
class LotBurned:
    """What becomes of a lot: `used` before it expires, and `unused` when it does."""

    lot: Lot
    used: int
    unused: int


@dataclass(frozen=True, slots=True)
class BurnDown:
    """What becomes of all lots, in their order. `empty_at` (µs) is when nothing is left; None is never."""

    lots: tuple[LotBurned, ...]
    empty_at: int | None

    @property
    def unused(self) -> int:
        """What expires before it is used."""
        return sum(burned.unused for burned in self.lots)


def burn_down(lots: Iterable[Lot], rate: BurnRate, at: int) -> BurnDown:
    """Burn lots in their order at a rate, from an instant (µs) on. A rate of nothing burns nothing.

    Of a lot that expires, `used` and `unused` are its amount, always. `empty_at` is rounded up to the microsecond.
    """
    results: list[LotBurned] = []
    # When the lot before is used up or gone; None: never.
    now: Fraction | None = Fraction(at)
    for lot in lots:
        now, used = _burned(lot, rate, now)
        results.append(LotBurned(lot, used, 0 if lot.expires_at is None else lot.amount - used))
    return BurnDown(tuple(results), None if now is None else -(-now.numerator // now.denominator))


def _burned(lot: Lot, rate: BurnRate, now: Fraction | None) -> tuple[Fraction | None, int]:
    """Return when the next lot's turn comes, and what was used of this one."""
    if lot.amount <= 0:
        return now, 0
    if now is None or (lot.expires_at is not None and lot.expires_at <= now):
        return now, 0
    used_up_at = now + Fraction(lot.amount * rate.micros, rate.amount) if rate.amount > 0 else None
    if lot.expires_at is None:
        return used_up_at, lot.amount if used_up_at is not None else 0
    if used_up_at is not None and used_up_at <= lot.expires_at:
        return used_up_at, lot.amount
    burning = (lot.expires_at - now) * rate.amount / rate.micros
    return Fraction(lot.expires_at), round_half_even(burning.numerator, burning.denominator)
