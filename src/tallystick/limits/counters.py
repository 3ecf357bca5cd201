"""The names of counters: what is counted, for whom, within which scope and period; and what a hold claims of one."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Claim", "CounterKey"]


class CounterKey(NamedTuple):
    """One counter. `scope` is empty for the limits of a plan; `period_start` is in µs."""

    billable: str
    meter: str
    scope: str
    period: str
    period_start: int


class Claim(NamedTuple):
    """What an open hold reserves of one counter."""

    key: CounterKey
    amount: int
