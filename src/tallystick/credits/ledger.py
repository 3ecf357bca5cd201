"""The ledger's accounts. The entries of a transaction sum to zero in each unit.

An amount is added to its account. What belongs to the customer is positive; where it came from is negative:

| account | what it says |
|---|---|
| available:paid | prepaid and not used: owed to the customer |
| available:promotional | given away and not used |
| overdraft | used beyond the credits, zero or below: the customer owes it |
| received | the other side of paid credits |
| granted | the other side of promotional credits |
| revenue | used of paid credits, and of overdraft: earned |
| spent | used of promotional credits: no revenue |
| expired:paid, expired:promotional | what ran out unused |
| withdrawn | paid credits that were taken back unused |
| exchange | the two sides of a conversion between currencies |

What open holds have pinned is no posting: it is counted on the account and on its grants (`held`), and the holds
themselves prove it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tallystick.credits.account import CreditKey

__all__ = [
    "ACCOUNTS",
    "BALANCE_ACCOUNTS",
    "EXCHANGE",
    "GRANTED",
    "OVERDRAFT",
    "RECEIVED",
    "REVENUE",
    "SPENT",
    "WITHDRAWN",
    "Entry",
    "available",
    "expired",
    "imbalance",
    "origin",
    "used",
]

OVERDRAFT = "overdraft"
RECEIVED = "received"
GRANTED = "granted"
REVENUE = "revenue"
SPENT = "spent"
WITHDRAWN = "withdrawn"
EXCHANGE = "exchange"

_AVAILABLE = "available:"
_EXPIRED = "expired:"
_PAID = "paid"

BALANCE_ACCOUNTS = ("available:paid", "available:promotional", OVERDRAFT)
"""The accounts that make up a balance."""

ACCOUNTS = (
    *BALANCE_ACCOUNTS, RECEIVED, GRANTED, REVENUE, SPENT, "expired:paid", "expired:promotional", WITHDRAWN, EXCHANGE,
)  # fmt: skip


class Entry(NamedTuple):
    """One posting: so much more on one account of somebody's credits."""

    key: CreditKey
    account: str
    amount: int
    grant_id: str | None = None


def available(kind: str) -> str:
    return _AVAILABLE + kind


def expired(kind: str) -> str:
    return _EXPIRED + kind


def origin(kind: str) -> str:
    """Return where credits of a kind come from."""
    return RECEIVED if kind == _PAID else GRANTED


def used(kind: str) -> str:
    """Return where credits of a kind go when they are used."""
    return REVENUE if kind == _PAID else SPENT


def imbalance(entries: Iterable[Entry]) -> dict[str, int]:
    """Return what the entries do not sum to zero by, for each unit; empty for a sound transaction."""
    sums: dict[str, int] = defaultdict(int)
    for entry in entries:
        sums[entry.key.unit] += entry.amount
    return {unit: total for unit, total in sums.items() if total}
