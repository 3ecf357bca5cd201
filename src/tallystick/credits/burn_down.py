"""Burn-down, as a pure function: which grants an amount is taken from.

Whoever asks puts the sources in order (`account.burn_order`) and says how much of each may be taken. Taking a, then b,
takes the same of every grant as taking a + b at once, because each source is emptied before the next is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Burn", "Take", "burn", "returned"]


class Take(NamedTuple):
    """What is taken of one grant."""

    grant_id: str
    amount: int


class Burn(NamedTuple):
    """What is taken of each grant, in order, and what no grant could give."""

    takes: tuple[Take, ...]
    short: int


def burn(sources: Iterable[Take], amount: int) -> Burn:
    """Take an amount of sources in their order, each before the next. `sources` say how much each has to give."""
    takes: list[Take] = []
    for grant_id, free in sources:
        if amount <= 0:
            break
        taken = min(free, amount)
        if taken > 0:
            takes.append(Take(grant_id, taken))
            amount -= taken
    return Burn(tuple(takes), max(amount, 0))


def returned(takes: Iterable[Take], amount: int) -> Burn:
    """Say where an amount goes back to: what was taken last is returned first. `short` is more than was ever taken."""
    return burn(reversed(tuple(takes)), amount)
