"""Any sequence of grants, uses, holds, transfers, refunds, reversals and clock jumps gives what the model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, CreditsInsufficient, IdempotencyConflict, InvalidInput, TallystickError
from tallystick.events import CreditsExpired, CreditsLow, TopUpRequested
from tallystick.metering.hold import Hold as EngineHold
from tallystick.money import Money
from tests.acceptance.accounts import assert_healthy
from tests.acceptance.credit_model import (
    Customer,
    Hold,
    Lot,
    Part,
    Rules,
    Transaction,
    Wallet,
    exchanged,
    given_back,
    opposite,
    refund_parts,
    taken,
)

if TYPE_CHECKING:
    from tests.conftest import PostgresCluster

CENT = 10_000_000
RATES = {("EUR", "USD"): "1.37", ("USD", "EUR"): "0.73"}
# One token costs a cent, so that a hint of so many tokens is an estimate of so many cents.
CENT_A_TOKEN = {"models": {"cents": {"input_price_per_million": "10000", "output_price_per_million": "10000"}}}

Name = tuple[str, str]
NAMES: tuple[Name, ...] = (("user:1", "USD"), ("user:2", "USD"), ("user:1", "EUR"))

names = st.sampled_from(NAMES)
payers = st.sampled_from(NAMES[:2])
amounts = st.one_of(st.integers(1, 100).map(lambda cents: cents * CENT), st.sampled_from((1, 3, 333_333_333)))
costs = st.one_of(st.just(0), amounts)
ttl = st.sampled_from((1, 60, 3_600, 600_000))
features = st.sampled_from(("", "", "chat", "search"))


def money(nanos: int, currency: str = "USD") -> Money:
    return Money.from_nanos(nanos, currency)


def outcome(work: Callable[[], Any]) -> Any:
    """Return what the engine answers, or the error that it raises."""
    try:
        return work()
    except TallystickError as error:
        return error


@dataclass(eq=False, repr=False)
class Placed:
    """One hold, as the engine and as the model know it."""

    real: EngineHold
    told: Hold


class Engine(RuleBasedStateMachine):
    """The engine and the model side by side."""

    database: Callable[[], AbstractContextManager[str]]
    holds: Bundle[Placed] = Bundle("holds")
    uses: Bundle[Transaction] = Bundle("uses")
    others: Bundle[Transaction] = Bundle("others")

    @initialize(expiring_first=st.booleans(), overdraft=st.sampled_from((None, None, (True, None), (True, 50 * CENT))))
    def open(self, expiring_first: bool, overdraft: tuple[bool, int | None] | None) -> None:
        self.opened = self.database()
        self.clock = FixedClock("2026-01-15T12:00:00Z")
        allowed, limit = overdraft or (False, None)
        credit: dict[str, Any] = {"burn_order": "expiring_first" if expiring_first else "oldest_first"}
        if limit is not None:
            credit["overdraft_limit"] = money(limit).amount
        self.ts = Tallystick(
            self.opened.__enter__(),
            clock=self.clock,
            providers={"acme": CENT_A_TOKEN},
            billing={
                "credit_overdraft_allowed": allowed,
                "currency_rates": {"eur_usd": RATES["EUR", "USD"], "usd_eur": RATES["USD", "EUR"]},
            },
            credits=credit,
        )
        self.settings_told = Rules(expiring_first, allowed, limit)
        self.customers = {name: Customer(name) for name, _ in NAMES}
        self.wallets = {name: Wallet(self.customers[name[0]], name[1], self.settings_told) for name in NAMES}
        self.real = {name: self.ts.wallets.get_or_create(*name) for name in NAMES}
        self.known_lots: set[str] = set()
        self.keys: dict[tuple[Name, str], tuple[int, str, str]] = {}
        self.lost: list[tuple[str, int]] = []
        self.low: list[str] = []
        self.asked: list[str] = []
        self.ts.on(CreditsExpired)(lambda event: self.lost.append((event.grant_id, _nanos(event.amount))))
        self.ts.on(CreditsLow)(lambda event: self.low.append(event.billable))
        self.ts.on(TopUpRequested)(lambda event: self.asked.append(event.top_up_id))

    def teardown(self) -> None:
        if not hasattr(self, "ts"):
            return
        try:
            assert_healthy(self.ts)
            self.ts.credits.expire()
            assert_healthy(self.ts)
        finally:
            self.ts.close()
            self.opened.__exit__(None, None, None)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    # -- adding -------------------------------------------------------------------------------------------------------

    @rule(
        target=others,
        name=names,
        amount=amounts,
        kind=st.sampled_from(("paid", "promotional")),
        priority=st.sampled_from((50, 50, 50, 0, 10, 90)),
        expires_in=st.sampled_from((None, None, 60, 3_600, 86_400, 30 * 86_400)),
        feature=features,
        daily=st.sampled_from((None, None, None, 5 * CENT)),
    )
    def add(
        self, name: Name, amount: int, kind: str, priority: int, expires_in: int | None, feature: str, daily: int | None
    ) -> Transaction:
        expires_at = None if expires_in is None else self.now + timedelta(seconds=expires_in)
        added = self.real[name].add_credits(
            money(amount, name[1]),
            kind=kind,
            priority=priority,
            expires_at=expires_at,
            feature=feature or None,
            limit=None if daily is None else money(daily, name[1]),
            limit_period=None if daily is None else "daily",
        )
        assert added.grant_id is not None
        self.known_lots.add(added.grant_id)
        lot = Lot(added.grant_id, kind, priority, self.now, expires_at, feature or None, daily)
        return Transaction(added.id, "grant", self.wallets[name].add(lot, amount, self.now))

    @rule(name=names, expires_in=st.sampled_from((None, 3_600)), priority=st.sampled_from((40, 50)))
    @precondition(lambda self: len(self.known_lots) < 80)
    def add_crumbs(self, name: Name, expires_in: int | None, priority: int) -> None:
        """Add more grants than the engine reads at once."""
        expires_at = None if expires_in is None else self.now + timedelta(seconds=expires_in)
        for _ in range(36):
            added = self.real[name].add_credits(money(CENT, name[1]), priority=priority, expires_at=expires_at)
            assert added.grant_id is not None
            self.known_lots.add(added.grant_id)
            self.wallets[name].add(Lot(added.grant_id, "paid", priority, self.now, expires_at), CENT, self.now)

    def new_lots(self, name: Name) -> list[str]:
        """Return the ids of grants that the engine made by itself since it was last asked, in their order."""
        ids = {grant.id for grant in self.real[name].grants(include_closed=True)} - self.known_lots
        self.known_lots |= ids
        return sorted(ids)

    # -- using --------------------------------------------------------------------------------------------------------

    @rule(target=uses, name=names, amount=amounts, feature=features, key=st.sampled_from(("", "", "", "a", "b")))
    def deduct(self, name: Name, amount: int, feature: str, key: str) -> Any:
        wallet, now = self.wallets[name], self.now
        real = outcome(
            lambda: self.real[name].deduct_credits(
                money(amount, name[1]), feature=feature or None, idempotency_key=key or None
            )
        )
        first = self.keys.get((name, key)) if key else None
        if first is None and key and any(known == key and other[0] == name[0] for other, known in self.keys):
            assert isinstance(real, IdempotencyConflict), "the key is the customer's, not the wallet's"
            return multiple()
        if first is not None:
            if first[:2] != (amount, feature):
                assert isinstance(real, IdempotencyConflict), real
            else:
                assert (real.id, real.replayed) == (first[2], True)
            return multiple()
        wallet.lapse(now)
        admitted = wallet.admit(amount, now, feature)
        if admitted is None and wallet.customer.give_way(now):
            admitted = wallet.admit(amount, now, feature)
        if admitted is None:
            assert isinstance(real, CreditsInsufficient), real
            return multiple()
        assert not isinstance(real, TallystickError), real
        if key:
            self.keys[name, key] = (amount, feature, real.id)
        parts = wallet.post(wallet.take(amount, now, now, feature), "deduction", at=now, now=now)
        return Transaction(real.id, "deduction", parts)

    @rule(name=names, amounts=st.lists(amounts, min_size=2, max_size=4), feature=features)
    def deducting_in_parts_takes_what_deducting_at_once_takes(
        self, name: Name, amounts: list[int], feature: str
    ) -> None:
        wallet, now = self.wallets[name], self.now
        if wallet.admit(sum(amounts), now, feature) is None:
            return
        wallet.lapse(now)
        for amount in amounts:
            self.real[name].deduct_credits(money(amount, name[1]), feature=feature or None)
        # The model takes it at once: the grants that are left have to be the same.
        parts = wallet.take(sum(amounts), now, now, feature)
        wallet.post(parts, "deduction", at=now, now=now)

    @rule(target=uses, name=payers, cost=costs, feature=features, days=st.sampled_from((0, 0, 0, 1)))
    def record(self, name: Name, cost: int, feature: str, days: int) -> Any:
        wallet, now = self.wallets[name], self.now
        at = now - timedelta(days=days)
        event = self.ts.usage.record(
            billable=name[0],
            input_tokens=1,
            total_cost=money(cost),
            feature=feature or None,
            billing_mode="credits",
            occurred_at=at,
        )
        if not cost:
            assert event.flags == ()
            return multiple()
        wallet.lapse(now)
        parts = wallet.take(cost, now, at, feature)
        assert ("overdraft" in event.flags) == any(part.lot is None for part in parts)
        wallet.post(parts, "usage", at=at, now=now)
        return Transaction(_transaction_of(event.id), "usage", parts)

    # -- holds --------------------------------------------------------------------------------------------------------

    def meter(self, name: Name, feature: str) -> Any:
        meter = self.ts.meter.billable(name[0]).billing_mode("credits")
        return meter.feature(feature) if feature else meter

    @rule(target=holds, name=payers, cost=costs, feature=features, ttl=ttl)
    def hold_explicitly(self, name: Name, cost: int, feature: str, ttl: int) -> Any:
        wallet, now = self.wallets[name], self.now
        meter = self.meter(name, feature).using_provider("manual", "model")
        real = outcome(lambda: meter.hold(cost=money(cost), ttl_seconds=ttl))
        wallet.lapse(now)
        admitted = wallet.admit(cost, now, feature)
        if admitted is None and wallet.customer.give_way(now):
            admitted = wallet.admit(cost, now, feature)
        return self.placed(name, real, admitted, feature, ttl)

    @rule(target=holds, name=payers, tokens=st.integers(1, 100), feature=features, ttl=ttl)
    def hold_implicitly(self, name: Name, tokens: int, feature: str, ttl: int) -> Any:
        wallet, now = self.wallets[name], self.now
        meter = self.meter(name, feature).using_provider("acme", "cents").expecting(tokens=tokens)
        real = outcome(lambda: meter.hold(ttl_seconds=ttl))
        wallet.lapse(now)
        most = wallet.most(now, feature)
        if most is not None and most < 1 and wallet.customer.give_way(now):
            most = wallet.most(now, feature)
        wanted = tokens * CENT if most is None else min(tokens * CENT, most)
        return self.placed(name, real, wallet.admit(wanted, now, feature) if wanted else None, feature, ttl)

    def placed(self, name: Name, real: Any, admitted: Any, feature: str, ttl: int) -> Any:
        if admitted is None:
            assert isinstance(real, CreditsInsufficient), real
            return multiple()
        assert isinstance(real, EngineHold), real
        assert real.id is not None
        wallet = self.wallets[name]
        hold = Hold(real.id, wallet, self.now, self.now + timedelta(seconds=ttl), feature, admitted)
        wallet.customer.holds.append(hold)
        return Placed(real, hold)

    @rule(target=uses, placed=holds, cost=costs, share=st.sampled_from((None, None, 0.5, 1, 1.5)), again=st.booleans())
    def settle(self, placed: Placed, cost: int, share: float | None, again: bool) -> Any:
        hold, now = placed.told, self.now
        wallet, held = hold.wallet, sum(amount for _, amount in hold.pins)
        if share is not None and held:
            cost = int(held * share)
        if hold.state == "settled" and again and hold.used is not None:
            cost = hold.used
        real = outcome(lambda: placed.real.settle(input_tokens=1, total_cost=money(cost)))
        if hold.state == "settled":
            if cost == hold.used:
                assert (real.usage_event_id, real.replayed) == (hold.event, True)
            else:
                assert isinstance(real, IdempotencyConflict), real
            return multiple()
        assert not isinstance(real, TallystickError), real
        assert ("late" in real.event.flags) == (hold.state != "open")
        pins = hold.pins if hold.state == "open" else []
        if hold.pins or cost:
            wallet.lapse(now)
        parts = wallet.take(cost, now, hold.placed_at, hold.feature, pins)
        assert ("overdraft" in real.event.flags) == any(part.lot is None for part in parts)
        hold.state, hold.used, hold.event = "settled", cost, real.usage_event_id
        if parts:
            wallet.post(parts, "usage", at=hold.placed_at, now=now)
        if hold.pins:
            wallet.lapse(now)
        return Transaction(_transaction_of(real.usage_event_id), "usage", parts) if parts else multiple()

    @rule(placed=holds)
    def void(self, placed: Placed) -> None:
        assert outcome(placed.real.void) is None
        placed.told.wallet.end(placed.told, "voided", self.now)

    # -- moving and undoing -------------------------------------------------------------------------------------------

    @rule(target=others, source=names, target_name=names, amount=amounts)
    def transfer(self, source: Name, target_name: Name, amount: int) -> Any:
        if source == target_name:
            return multiple()
        giver, taker, now = self.wallets[source], self.wallets[target_name], self.now
        real = outcome(lambda: self.real[source].transfer(self.real[target_name], money(amount, source[1])))
        giver.lapse(now)
        taker.lapse(now)
        usable = giver.usable(now, now, moves=True)
        if sum(free for _, free in usable) < amount and giver.customer.give_way(now):
            usable = giver.usable(now, now, moves=True)
        if sum(free for _, free in usable) < amount:
            assert isinstance(real, CreditsInsufficient), real
            return multiple()
        assert not isinstance(real, TallystickError), real
        rate = RATES.get((source[1], target_name[1]), "1")
        out: list[Part] = []
        into: list[Part] = []
        for lot, free in usable:
            moved = min(amount, free)
            amount -= moved
            if moved:
                arrived = Lot("", lot.kind, lot.priority, now, lot.expires_at)
                out.append(Part(giver, lot, -moved))
                into.append(Part(taker, arrived, exchanged(moved, rate)))
        for part, id_ in zip(into, self.new_lots(target_name), strict=True):
            assert part.lot is not None
            part.lot.id = id_
            taker.lots.append(part.lot)
        parts = giver.post(out, "transfer", at=now, now=now) + taker.post(into, "transfer", at=now, now=now)
        return Transaction(real.id, "transfer", parts)

    @rule(target=others, use=uses, amount=st.one_of(st.none(), amounts), share=st.sampled_from((None, None, 0.3, 1, 2)))
    def refund(self, use: Transaction, amount: int | None, share: float | None) -> Any:
        wallet, now = use.parts[0].wallet, self.now
        left = taken(use) - given_back(use)
        if share is not None:
            amount = max(1, int(left * share))
        name = next(name for name, one in self.wallets.items() if one is wallet)
        real = outcome(
            lambda: self.real[name].refund(use.id, None if amount is None else money(amount, wallet.currency))
        )
        wallet.lapse(now)
        if not left:
            assert isinstance(real, Conflict), real
            return multiple()
        if amount is not None and amount > left:
            assert isinstance(real, InvalidInput), real
            return multiple()
        assert not isinstance(real, TallystickError), real
        return self.given_back(name, use, left if amount is None else amount, real.id)

    def given_back(self, name: Name, use: Transaction, amount: int, transaction_id: str) -> Transaction:
        wallet, now = self.wallets[name], self.now
        parts, fresh = refund_parts(use, wallet, amount)
        if fresh:
            [lot_id] = self.new_lots(name)
            lot = Lot(lot_id, "paid", 50, now)
            wallet.lots.append(lot)
            parts.append(Part(wallet, lot, fresh))
        back = Transaction(transaction_id, "refund", wallet.post(parts, "refund", at=now, now=now))
        wallet.lapse(now)
        use.undone_by.append(back)
        return back

    @rule(use=uses)
    def reverse_a_use(self, use: Transaction) -> None:
        wallet = use.parts[0].wallet
        real = outcome(lambda: self.ts.ledger.reverse(use.id, "mistake"))
        wallet.lapse(self.now)
        left = taken(use) - given_back(use)
        if not left:
            assert isinstance(real, Conflict), real
            return
        assert not isinstance(real, TallystickError), real
        name = next(name for name, one in self.wallets.items() if one is wallet)
        self.given_back(name, use, left, real.id)

    @rule(other=others)
    @precondition(lambda self: hasattr(self, "ts"))
    def reverse(self, other: Transaction) -> None:
        if other.source == "refund":
            # What is left of a use whose refund was undone is a matter of definition.
            return
        now = self.now
        real = outcome(lambda: self.ts.ledger.reverse(other.id, "mistake"))
        wallets = list(dict.fromkeys(part.wallet for part in other.parts))
        for wallet in wallets:
            wallet.lapse(now)
        parts = opposite(other)
        short = any(part.lot is not None and part.wallet.free(part.lot) < -part.amount for part in parts)
        if other.undone_by or short:
            assert isinstance(real, Conflict), real
            return
        assert not isinstance(real, TallystickError), real
        done = []
        for wallet in wallets:
            done += wallet.post([part for part in parts if part.wallet is wallet], "reversal", at=now, now=now)
        for wallet in wallets:
            wallet.lapse(now)
        other.undone_by.append(Transaction(real.id, "reversal", done))

    @rule(target=others, name=names, index=st.integers(0, 50))
    def revoke(self, name: Name, index: int) -> Any:
        wallet, now = self.wallets[name], self.now
        if not wallet.lots:
            return multiple()
        lot = wallet.lots[index % len(wallet.lots)]
        real = outcome(lambda: self.real[name].revoke(lot.id, "mistake"))
        wallet.lapse(now)
        free = wallet.free(lot)
        if not free:
            assert isinstance(real, Conflict), real
            return multiple()
        assert not isinstance(real, TallystickError), real
        parts = wallet.post([Part(wallet, lot, -free)], "revocation", at=now, now=now)
        return Transaction(real.id, "revocation", parts)

    # -- settings and top-ups -----------------------------------------------------------------------------------------

    @rule(name=names, limit=st.sampled_from((None, 0, 20 * CENT)))
    def limit_overdraft(self, name: Name, limit: int | None) -> None:
        self.real[name].set_overdraft_limit(None if limit is None else money(limit, name[1]))
        self.wallets[name].lapse(self.now)
        self.wallets[name].own_limit = limit

    @rule(name=names, least=st.sampled_from((None, 10 * CENT)))
    def watch(self, name: Name, least: int | None) -> None:
        self.real[name].set_minimum_balance(None if least is None else money(least, name[1]))
        self.wallets[name].lapse(self.now)
        self.wallets[name].least = least

    @rule(name=names, below=st.sampled_from((None, 10 * CENT, 40 * CENT)))
    def set_auto_top_up(self, name: Name, below: int | None) -> None:
        wallet = self.wallets[name]
        wallet.lapse(self.now)
        if below is None:
            self.real[name].set_auto_top_up(None)
            wallet.top_up = None
            return
        self.real[name].set_auto_top_up(money(below, name[1]), money(30 * CENT, name[1]))
        wallet.top_up = (below, 30 * CENT)
        if wallet.top_up_state == "paused":
            wallet.top_up_state = "armed"
        wallet.ask_for_top_up()

    @rule(target=others, is_paid=st.booleans())
    @precondition(lambda self: bool(getattr(self, "asked", ())))
    def answer_a_top_up(self, is_paid: bool) -> Any:
        found = [one for one in self.ts.wallets.top_ups() if one.id == self.asked[-1]]
        [request] = found
        wallet = self.wallets[request.billable, request.currency]
        if not is_paid:
            failed = outcome(lambda: self.ts.wallets.fail_top_up(request.id, "no money"))
            if request.status == "completed":
                assert isinstance(failed, Conflict), failed
            elif request.status == "pending":
                assert failed.status == "failed"
                wallet.lapse(self.now)
                wallet.top_up_state = "paused"
            return multiple()
        paid = outcome(lambda: self.ts.wallets.complete_top_up(request.id))
        if request.status == "failed":
            assert isinstance(paid, Conflict), paid
            return multiple()
        assert paid.replayed == (request.status == "completed")
        if request.status == "completed":
            return multiple()
        assert paid.grant_id is not None
        self.known_lots.add(paid.grant_id)
        wallet.lapse(self.now)
        wallet.top_up_state = "armed"
        parts = wallet.add(Lot(paid.grant_id, "paid", 50, self.now), 30 * CENT, self.now)
        return Transaction(paid.id, "grant", parts)

    # -- time ---------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, 60, 3_600, 86_400, 20 * 86_400)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(index=st.integers(0, 20), is_over=st.booleans())
    def wait_for_an_expiry(self, index: int, is_over: bool) -> None:
        ends = {lot.expires_at for wallet in self.wallets.values() for lot in wallet.lots if lot.expires_at is not None}
        ends |= {hold.expires_at for customer in self.customers.values() for hold in customer.holds}
        ahead = sorted(end for end in ends if end > self.now + timedelta(microseconds=1))
        if ahead:
            end = ahead[index % len(ahead)]
            self.clock.set(end if is_over else end - timedelta(microseconds=1))

    @rule()
    def run_due_jobs(self) -> None:
        now = self.now
        done = self.ts.run_due_jobs()
        assert done.holds_expired == sum(len(customer.give_way(now)) for customer in self.customers.values())
        self.lapse_all()

    @rule()
    def expire(self) -> None:
        assert self.ts.credits.expire().grants == self.lapse_all()

    def lapse_all(self) -> int:
        return sum(wallet.lapse(self.now) for wallet in self.wallets.values())

    # -- comparing ----------------------------------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "ts"))
    def every_balance_is_what_the_model_says(self) -> None:
        now = self.now
        for name, wallet in self.wallets.items():
            real = self.real[name]
            found = real._read_balance()
            assert (found.paid, found.promotional, found.overdraft) == wallet.balances(now), name
            assert (found.posted, found.held) == (wallet.balance(now), wallet.held), name
            most = wallet.most(now)
            if most is None:
                assert real.has_sufficient_balance(money(10**15, name[1]))
            else:
                assert real.has_sufficient_balance(money(most, name[1]))
                assert not real.has_sufficient_balance(money(most + 1, name[1]))

    @invariant()
    @precondition(lambda self: hasattr(self, "ts"))
    def every_grant_has_left_what_the_model_says(self) -> None:
        now = self.now
        for name, wallet in self.wallets.items():
            found = [(one.id, _nanos(one.remaining), _nanos(one.held)) for one in self.real[name].grants()]
            assert found == [
                (lot.id, lot.remaining, wallet.pinned(lot)) for lot in wallet.in_order() if wallet.is_visible(lot, now)
            ], name

    @invariant()
    @precondition(lambda self: hasattr(self, "ts"))
    def what_happened_by_itself_was_told_once(self) -> None:
        assert sorted(self.lost) == sorted(lost for wallet in self.wallets.values() for lost in wallet.lost)
        assert len(self.low) == sum(wallet.told_low for wallet in self.wallets.values())
        assert len(self.asked) == sum(wallet.asked for wallet in self.wallets.values())


def _nanos(amount: Any) -> int:
    assert isinstance(amount, Money)
    return amount.nanos


def _transaction_of(event_id: str) -> str:
    return f"txn_{event_id.partition('_')[2]}"


def run_against_model(examples: int, database: Callable[[], AbstractContextManager[str]]) -> None:
    machine = type("EngineMachine", (Engine,), {"database": staticmethod(database)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            settings(),
            max_examples=examples if settings().derandomize else settings().max_examples,
            stateful_step_count=40,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_wallets_do_what_the_model_says_on_sqlite(tmp_path: Path, sqlite_template: Path) -> None:
    numbers = count()

    @contextmanager
    def database() -> Iterator[str]:
        file = tmp_path / f"{next(numbers)}.db"
        file.write_bytes(sqlite_template.read_bytes())
        yield f"sqlite:///{file}"
        for leftover in tmp_path.glob(f"{file.name}*"):
            leftover.unlink()

    run_against_model(25, database)


def test_wallets_do_what_the_model_says_on_postgres(postgres_cluster: PostgresCluster) -> None:
    @contextmanager
    def database() -> Iterator[str]:
        name = postgres_cluster.take_database()
        yield postgres_cluster.url(name)
        postgres_cluster.give_back(name)

    run_against_model(9, database)
