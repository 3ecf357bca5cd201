"""A customer who pays in advance: a wallet from its first payment to its last call, and a feature with extra credits.

These scenes are told by a clock of their own, which stands still unless it is moved: they begin yesterday, so that
credits expire at midnight while one looks on, to the microsecond.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tallystick.demo.customers import FERRY, POSTER, POSTERS_A_DAY
from tallystick.demo.scenes import PAGE_TOKENS, SLOW_SECONDS, SUMMARY_TOKENS, Limited, summary
from tallystick.errors import CreditsInsufficient, FeatureLimitExceeded, NotFound
from tallystick.money import Money
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from tallystick.app import Tallystick
    from tallystick.clock import FixedClock
    from tallystick.credits.values import CreditStats
    from tallystick.credits.wallets import Wallet
    from tallystick.demo.clients import Clients
    from tallystick.demo.scenes import Observations

__all__ = ["FeatureDay", "Midnight", "Payment", "WalletObservations", "WalletScenes", "midnight_before"]

THREADS = 40
POSTER_THREADS = 20
EXTRA_POSTERS = 5
CALLS_AT_MIDNIGHT = 2
MODEL = "gpt-4"

HOURS_BEFORE_MIDNIGHT = 15
"""When the scenes begin: at nine in the morning."""

Counting = Callable[..., AbstractContextManager[Callable[[], int]]]


def midnight_before(now: datetime) -> datetime:
    """Return the last midnight in UTC."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment that its provider announced more than once."""

    key: str
    amount: Money
    announced: int
    transaction_ids: frozenset[str]
    added: Money


@dataclass(frozen=True, slots=True)
class Midnight:
    """What the wallet had to the last microsecond of a day, and what it had a microsecond later."""

    before: Money
    after: Money
    was_enough: bool
    is_enough: bool


@dataclass(frozen=True, slots=True)
class FeatureDay:
    """A feature on one day: how often it was asked for at once, how often it was used, and its figures then."""

    day: datetime
    asked: int
    room: int
    used: int
    refusals: tuple[FeatureLimitExceeded, ...]
    stats: CreditStats


@dataclass(slots=True)
class WalletObservations:
    """What the application saw of the wallet and the feature while the scenes were played."""

    payments: list[Payment] = field(default_factory=list)
    midnights: list[Midnight] = field(default_factory=list)
    days: list[FeatureDay] = field(default_factory=list)


class WalletScenes:
    """The scenes, over an engine that goes by `clock`, which stands at their midnight.

    `calls` counts the calls that a provider receives.
    """

    def __init__(
        self, ts: Tallystick, clock: FixedClock, clients: Clients, seen: Observations, calls: Counting
    ) -> None:
        self._ts = ts
        self._clock = clock
        self._clients = clients
        self._seen = seen
        self._calls = calls
        self._midnight = clock.now()
        self.told = WalletObservations()
        seen.listen_to(ts)
        clock.advance(hours=-HOURS_BEFORE_MIDNIGHT)

    def program(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Return the scenes in their order, each with what it is about."""
        return (
            ("A payment that is announced twice, and a gift until midnight", self.a_payment),
            (f"{THREADS} threads pay from one wallet, until it is empty", self.a_crowd_at_a_wallet),
            ("A bad answer is paid back, with something on top", self.a_refund),
            (f"{POSTER_THREADS} threads want a feature that is allowed {POSTERS_A_DAY} times a day", self.a_feature),
            ("Midnight, to the microsecond", self.a_midnight),
        )

    @property
    def _wallet(self) -> Wallet:
        return self._ts.wallets.get(FERRY)

    def a_payment(self) -> None:
        wallet = self._ts.wallets.get_or_create(FERRY)
        wallet.set_minimum_balance("0.10")
        paid, key = Money("0.50", "USD"), "evt_31"
        announced = [wallet.add_credits(paid, "top-up", idempotency_key=key) for _ in range(2)]
        ids = frozenset(line.id for line in announced)
        self.told.payments.append(Payment(key, paid, len(announced), ids, added=wallet.balance))
        wallet.add_credits("0.20", "promotion", expires_at=self._midnight, priority=10, granted_by="marketing")

    def a_crowd_at_a_wallet(self) -> None:
        self._clock.advance(hours=1)
        room = self._room(THREADS)
        everybody = threading.Barrier(THREADS)

        def call(_: int) -> CreditsInsufficient | None:
            everybody.wait()
            return self._refusal_of_a_call()

        with self._calls(THREADS, seconds=SLOW_SECONDS) as received, ThreadPoolExecutor(THREADS) as threads:
            refusals = tuple(filter(None, threads.map(call, range(THREADS))))
        what = f"{THREADS} threads at once"
        self._seen.limited.append(Limited(FERRY, what, THREADS, room, received(), refusals))

    def a_refund(self) -> None:
        self._clock.advance(hours=1)
        wallet = self._wallet
        wallet.refund(self._paid_call(), reason="bad answer")
        wallet.add_credits("0.10", "goodwill", expires_at=self._midnight, priority=10, granted_by="support")
        self._clock.advance(hours=1)
        with self._calls(1):
            self._refusal_of_a_call()

    def a_feature(self) -> None:
        ts = self._ts
        ts.features.grant_credits(FERRY, POSTER, EXTRA_POSTERS, "Referral bonus", granted_by="sales")
        self._use_at_once()

    def a_midnight(self) -> None:
        wallet = self._wallet
        self._clock.set(self._midnight - timedelta(microseconds=1))
        with self._calls(1):
            self._refusal_of_a_call()
        before = wallet.balance
        everything = max(before, Money(0, before.currency))
        was_enough = wallet.has_sufficient_balance(everything)
        self._clock.set(self._midnight)
        is_enough = wallet.has_sufficient_balance(everything)
        self.told.midnights.append(Midnight(before, wallet.balance, was_enough, is_enough))
        room = self._room(CALLS_AT_MIDNIGHT)
        with self._calls(CALLS_AT_MIDNIGHT) as received:
            refusals = tuple(filter(None, (self._refusal_of_a_call() for _ in range(CALLS_AT_MIDNIGHT))))
        what = f"{CALLS_AT_MIDNIGHT} calls at midnight"
        self._seen.limited.append(Limited(FERRY, what, CALLS_AT_MIDNIGHT, room, received(), refusals))
        self._use_at_once()

    # -- calls and uses -----------------------------------------------------------------------------------------------

    def _cost(self) -> Money:
        usage = ProviderUsage(PAGE_TOKENS, SUMMARY_TOKENS)
        return self._ts.pricing.cost(usage, provider="openai", model=MODEL).total_cost

    def _room(self, attempted: int) -> int:
        return min(attempted, max(0, self._wallet.available.nanos) // self._cost().nanos)

    def _refusal_of_a_call(self) -> CreditsInsufficient | None:
        meter = self._ts.meter.billable(FERRY).using_provider("openai", MODEL).feature("postcard")
        try:
            meter.estimate(cost=self._cost()).call(lambda: self._clients.openai.ask(summary(MODEL)))
        except CreditsInsufficient as refusal:
            return refusal
        return None

    def _paid_call(self) -> str:
        """Return the last transaction that took only what was paid for: what is refunded then can be used any time."""
        for line in self._wallet.transactions(source="usage"):
            if {entry.account for entry in self._ts.ledger.entries(line.id)} == {"available:paid", "revenue"}:
                return line.id
        raise NotFound("call of paid credits", FERRY)

    def _use_at_once(self) -> None:
        ts = self._ts
        everybody = threading.Barrier(POSTER_THREADS)
        room = int(ts.features.remaining(FERRY, POSTER) or 0)

        def use(_: int) -> FeatureLimitExceeded | None:
            everybody.wait()
            try:
                ts.features.use(FERRY, POSTER)
            except FeatureLimitExceeded as refusal:
                return refusal
            return None

        with ThreadPoolExecutor(POSTER_THREADS) as threads:
            refusals = tuple(filter(None, threads.map(use, range(POSTER_THREADS))))
        used = POSTER_THREADS - len(refusals)
        stats = ts.features.credit_stats(FERRY, POSTER)
        self.told.days.append(FeatureDay(self._clock.now(), POSTER_THREADS, room, used, refusals, stats))
