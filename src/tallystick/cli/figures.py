"""Figures as people read them: thousands apart, money in one column to the same digit, bars and sparklines."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from tallystick.money import Money, round_half_even

__all__ = ["amount", "amounts", "bar", "count", "counts", "percentage", "sparkline"]

_EIGHTHS = "▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"

# How many digits after the point a table shows. JSON has them all.
_DIGITS_SHOWN = 4
_SMALL_NANOS = 10_000_000


def count(number: int | Decimal) -> str:
    """Return a number with its thousands apart, and no zeros behind its last digit."""
    return f"{number.normalize():,f}" if isinstance(number, Decimal) else f"{number:,}"


def counts(number: int, noun: str) -> str:
    """Return a number with its noun: "1 event", "2 events"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def amount(money: Money) -> str:
    """Return one amount, exactly, with its thousands apart."""
    return f"{money.amount:,f} {money.currency}"


def amounts(column: Sequence[Sequence[Money]]) -> list[str]:
    """Return a column of amounts, each cell with one or several currencies, rounded for the eye to a common digit.

    That is the fourth after the point; where nothing reaches a cent, the ninth. What is something is not shown as zero.
    """
    every = [money for cell in column for money in cell]
    digits = _DIGITS_SHOWN if any(abs(money.nanos) >= _SMALL_NANOS for money in every) else 9
    shown = [[_rounded(money, digits) for money in cell] for cell in column]
    needed = max((-_exponent(number) for cell in shown for number in cell), default=0)
    return [
        " + ".join(_shown(number, money, needed) for number, money in zip(numbers, cell, strict=True))
        for numbers, cell in zip(shown, column, strict=True)
    ]


def percentage(part: int, whole: int) -> str:
    """Return a share in whole percent; what is not nothing is never 0%, and what is not all is never 100%."""
    if part <= 0 or whole <= 0:
        return "0%"
    rounded = round_half_even(part * 100, whole)
    if rounded == 0:
        return "<1%"
    return ">99%" if rounded == 100 and part < whole else f"{rounded}%"


def bar(part: int, whole: int, *, width: int) -> str:
    """Return a bar whose length is the share of the whole, to an eighth of a character; full bars for more than all."""
    if part <= 0 or whole <= 0:
        return ""
    full, eighths = divmod(min(max(part * width * 8 // whole, 1), width * 8), 8)
    return "█" * full + (_EIGHTHS[eighths - 1] if eighths else "")


def sparkline(values: Sequence[int]) -> str:
    """Return one character for each value, as high as it is beside the highest; a dot for nothing."""
    highest = max(values, default=0)
    return "".join(_NOTHING if value <= 0 else _HEIGHTS[(value * len(_HEIGHTS) - 1) // highest] for value in values)


def _shown(number: Decimal, money: Money, digits: int) -> str:
    if money and not number:
        return f"{'<' if money.nanos > 0 else '>-'}{Decimal(1).scaleb(-digits):f} {money.currency}"
    return f"{number:,.{digits}f} {money.currency}"


def _rounded(money: Money, digits: int) -> Decimal:
    step = 10 ** (9 - digits)
    return Money.from_nanos(round_half_even(money.nanos, step) * step, money.currency).amount


def _exponent(number: Decimal) -> int:
    return int(number.as_tuple().exponent)
