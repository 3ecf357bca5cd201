"""What callers do again and again through the public interface, and what the database counts for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from benchmarks.databases import Totals
from benchmarks.workload import BILLABLES, DEDUCTION, HOT, PAIR_TOKENS
from tallystick import AsyncTallystick, Money, Tallystick
from tallystick.aio import AsyncWallet
from tallystick.credits.wallets import Wallet

__all__ = ["Call", "CallAsync", "Deductions", "Pairs", "Readings", "Work", "add_grant"]

Call = Callable[[], float]
"""Does the work once. Returns the longest that one of its calls has waited, in seconds."""
CallAsync = Callable[[], Awaitable[float]]
_PLENTY = Money(1_000_000, "USD")


def add_grant(ts: Tallystick, billable: str) -> None:
    """Give a billable's wallet a grant that no measuring uses up."""
    ts.wallets.get_or_create(billable).add_credits(_PLENTY)


class Work(Protocol):
    """What one caller does again and again for one billable."""

    @property
    def name(self) -> str:
        """What a second's worth of it is counted in."""

    @property
    def billables(self) -> Sequence[str]:
        """Whose work it is."""

    def prepare(self, ts: Tallystick, billable: str) -> None:
        """Give a billable what it needs for it."""

    def call(self, ts: Tallystick, billable: str) -> Call: ...

    async def call_async(self, ts: AsyncTallystick, billable: str) -> CallAsync: ...

    def counted(self, done: int) -> Totals:
        """Return what doing it so often adds to what a database has counted."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A hold and its settlement. `cost` is what the call costs, and `mode` who pays for it: the plan or the wallet."""

    cost: Money | None = None
    mode: str = "plan"
    billables: Sequence[str] = BILLABLES
    name: str = "pairs"

    def prepare(self, ts: Tallystick, billable: str) -> None:
        if self.mode == "credits":
            add_grant(ts, billable)

    def call(self, ts: Tallystick, billable: str) -> Call:
        return partial(self._pair, ts, billable)

    async def call_async(self, ts: AsyncTallystick, billable: str) -> CallAsync:
        return partial(self._pair_async, ts, billable)

    def counted(self, done: int) -> Totals:
        tokens = done * PAIR_TOKENS
        if self.cost is None or self.mode != "credits":
            return Totals(tokens_used=tokens, tokens_of_days=tokens)
        # The wallet is the limit: what it pays for is not counted towards the plan's.
        return Totals(tokens_of_days=tokens, credits_nanos=-done * self.cost.nanos, statement_lines=done)

    def _pair(self, ts: Tallystick, billable: str) -> float:
        before = perf_counter()
        meter = ts.meter.billable(billable).using_provider("manual", "m")
        if self.mode != "plan":
            meter = meter.billing_mode(self.mode)
        hold = meter.hold(tokens=PAIR_TOKENS, cost=self.cost)
        between = perf_counter()
        hold.settle(**self._usage())
        return max(between - before, perf_counter() - between)

    async def _pair_async(self, ts: AsyncTallystick, billable: str) -> float:
        before = perf_counter()
        meter = ts.meter.billable(billable).using_provider("manual", "m")
        if self.mode != "plan":
            meter = meter.billing_mode(self.mode)
        hold = await meter.hold(tokens=PAIR_TOKENS, cost=self.cost)
        between = perf_counter()
        await hold.settle(**self._usage())
        return max(between - before, perf_counter() - between)

    def _usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {"input_tokens": 5, "output_tokens": 5}
        return usage if self.cost is None else {**usage, "total_cost": self.cost}


@dataclass(frozen=True, slots=True)
class Deductions:
    """A deduction of a wallet that the caller has at hand."""

    billables: Sequence[str] = HOT
    name: str = "deductions"

    def prepare(self, ts: Tallystick, billable: str) -> None:
        add_grant(ts, billable)

    def call(self, ts: Tallystick, billable: str) -> Call:
        wallet = ts.wallets.get_or_create(billable)
        return partial(self._deduct, wallet)

    async def call_async(self, ts: AsyncTallystick, billable: str) -> CallAsync:
        wallet = await ts.wallets.get_or_create(billable)
        return partial(self._deduct_async, wallet)

    def counted(self, done: int) -> Totals:
        return Totals(credits_nanos=-done * DEDUCTION.nanos, statement_lines=done)

    def _deduct(self, wallet: Wallet) -> float:
        before = perf_counter()
        wallet.deduct_credits(DEDUCTION)
        return perf_counter() - before

    async def _deduct_async(self, wallet: AsyncWallet) -> float:
        before = perf_counter()
        await wallet.deduct_credits(DEDUCTION)
        return perf_counter() - before


@dataclass(frozen=True, slots=True)
class Readings:
    """A reading of a wallet's balance."""

    billables: Sequence[str] = HOT
    name: str = "readings"

    def prepare(self, ts: Tallystick, billable: str) -> None:
        add_grant(ts, billable)

    def call(self, ts: Tallystick, billable: str) -> Call:
        wallet = ts.wallets.get_or_create(billable)
        return partial(self._read, wallet)

    async def call_async(self, ts: AsyncTallystick, billable: str) -> CallAsync:
        wallet = await ts.wallets.get_or_create(billable)
        return partial(self._read_async, wallet)

    def counted(self, done: int) -> Totals:  # noqa: ARG002  # reading changes nothing, however often
        return Totals()

    def _read(self, wallet: Wallet) -> float:
        before = perf_counter()
        _ = wallet.balance
        return perf_counter() - before

    async def _read_async(self, wallet: AsyncWallet) -> float:
        before = perf_counter()
        await wallet.balance
        return perf_counter() - before
