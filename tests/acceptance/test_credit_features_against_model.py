"""Any sequence of grants, uses, calls and clock jumps leaves of a feature what the model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
from tallystick.errors import Conflict, CreditsInsufficient, FeatureLimitExceeded, TallystickError
from tallystick.metering.hold import Hold as EngineHold
from tallystick.money import Money
from tests.acceptance.accounts import assert_healthy
from tests.acceptance.credit_model import Allowance, Customer, Hold, Lot, Part, Rules, Wallet
from tests.acceptance.credit_processes import FEATURE
from tests.acceptance.test_credits_against_model import Placed, outcome

if TYPE_CHECKING:
    from tests.conftest import PostgresCluster

ALLOWED = {"user:1": 10, "user:2": 3}
NOTHING = Money("0", "USD")

names = st.sampled_from(tuple(ALLOWED))
amounts = st.integers(1, 8)


class Features(RuleBasedStateMachine):
    """The engine and the model side by side."""

    database: Callable[[], AbstractContextManager[str]]
    holds: Bundle[Placed] = Bundle("holds")

    @initialize(expiring_first=st.booleans())
    def open(self, expiring_first: bool) -> None:
        self.opened = self.database()
        self.clock = FixedClock("2026-01-15T12:00:00Z")
        order = "expiring_first" if expiring_first else "oldest_first"
        self.ts = Tallystick(self.opened.__enter__(), clock=self.clock, credits={"burn_order": order})
        self.allowances: dict[str, Allowance] = {}
        self.tags: dict[str, str] = {}
        self.subscribed: dict[str, list[tuple[datetime, str]]] = {name: [] for name in ALLOWED}
        for name, a_day in ALLOWED.items():
            plan = f"of-{a_day}"
            self.ts.plans.create(plan, features={FEATURE: {"value": a_day, "reset": "daily"}})
            self.allowances[name] = Allowance(Wallet(Customer(name), FEATURE, Rules(expiring_first)), a_day)
            self.subscribe(name)

    def teardown(self) -> None:
        if not hasattr(self, "ts"):
            return
        try:
            assert_healthy(self.ts)
        finally:
            self.ts.close()
            self.opened.__exit__(None, None, None)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def subscribe(self, name: str) -> None:
        self.tags[name] = self.ts.subscriptions.create(name, f"of-{ALLOWED[name]}").id
        self.subscribed[name].append((self.now, self.tags[name]))

    @rule(
        name=names,
        amount=st.integers(1, 12),
        priority=st.sampled_from((50, 50, 10, 90)),
        expires_in=st.sampled_from((None, None, 60, 3_600, 86_400)),
        is_of_subscription=st.booleans(),
        daily=st.sampled_from((None, None, 2)),
    )
    def grant(
        self, name: str, amount: int, priority: int, expires_in: int | None, is_of_subscription: bool, daily: int | None
    ) -> None:
        expires_at = None if expires_in is None else self.now + timedelta(seconds=expires_in)
        granted = self.ts.features.grant_credits(
            self.tags[name] if is_of_subscription else name,
            FEATURE,
            amount,
            expires_at=expires_at,
            priority=priority,
            limit=daily,
            limit_period=None if daily is None else "daily",
        )
        tag = self.tags[name] if is_of_subscription else None
        lot = Lot(granted.id, granted.kind, priority, self.now, expires_at, tag, daily)
        self.allowances[name].extra.add(lot, amount, self.now)

    @rule(name=names)
    @precondition(lambda self: all(len(one.extra.lots) < 60 for one in self.allowances.values()))
    def grant_crumbs(self, name: str) -> None:
        for _ in range(35):
            granted = self.ts.features.grant_credits(name, FEATURE, 1)
            self.allowances[name].extra.add(Lot(granted.id, granted.kind, 50, self.now), 1, self.now)

    @rule(name=names, amount=amounts, asks_extra=st.sampled_from((True, True, False)))
    def use(self, name: str, amount: int, asks_extra: bool) -> None:
        allowance, now = self.allowances[name], self.now
        can = self.ts.features.can_use(name, FEATURE, amount, asks_extra)
        real = outcome(lambda: self.ts.features.use(name, FEATURE, amount, asks_extra))
        if asks_extra:
            allowance.extra.lapse(now)
        parts, from_plan = allowance.split(amount, now, now, self.tags[name], asks_extra=asks_extra)
        fits = from_plan <= allowance.left(now)
        assert can == fits
        if not fits and allowance.extra.customer.give_way(now):
            parts, from_plan = allowance.split(amount, now, now, self.tags[name], asks_extra=asks_extra)
        if from_plan > allowance.left(now):
            assert isinstance(real, FeatureLimitExceeded), real
            return
        assert not isinstance(real, TallystickError), real
        assert (real.from_plan, real.from_credits) == (from_plan, amount - from_plan)
        allowance.use(parts, from_plan, now, now)

    @rule(name=names, days=st.sampled_from((0, 0, 1)))
    def record(self, name: str, days: int) -> None:
        allowance, at = self.allowances[name], self.now - timedelta(days=days)
        event = self.ts.usage.record(billable=name, input_tokens=1, total_cost=NOTHING, feature=FEATURE, occurred_at=at)
        tags = [tag for start, tag in self.subscribed[name] if start <= at]
        if not tags:
            # There was no such feature yet.
            return
        allowance.extra.lapse(self.now)
        parts, from_plan = allowance.split(1, self.now, at, tags[-1])
        assert ("past_limit" in event.flags) == (allowance.used(at)[0] + from_plan > allowance.a_day and from_plan > 0)
        allowance.use(parts, from_plan, at, self.now)

    @rule(target=holds, name=names, ttl=st.sampled_from((1, 3_600, 200_000)))
    def hold(self, name: str, ttl: int) -> Any:
        allowance, now = self.allowances[name], self.now
        meter = self.ts.meter.billable(name).feature(FEATURE).with_manual_usage(input_tokens=1, total_cost=NOTHING)
        real = outcome(lambda: meter.hold(ttl_seconds=ttl))
        allowance.extra.lapse(now)
        parts, from_plan = allowance.split(1, now, now, self.tags[name])
        if from_plan > allowance.left(now) and allowance.extra.customer.give_way(now):
            parts, from_plan = allowance.split(1, now, now, self.tags[name])
        if from_plan > allowance.left(now):
            assert isinstance(real, FeatureLimitExceeded), real
            return multiple()
        assert isinstance(real, EngineHold), real
        pins: list[tuple[Lot | None, int]] = [(part.lot, -part.amount) for part in parts]
        told = Hold(str(real.id), allowance.extra, now, now + timedelta(seconds=ttl), self.tags[name], pins)
        allowance.extra.customer.holds.append(told)
        allowance.claims[told] = from_plan
        return Placed(real, told)

    @rule(placed=holds)
    def settle(self, placed: Placed) -> None:
        hold, now = placed.told, self.now
        allowance = self.allowances[hold.wallet.customer.name]
        real = outcome(lambda: placed.real.settle())
        assert not isinstance(real, TallystickError), real
        if hold.state == "settled":
            assert real.usage_event_id == hold.event
            return
        hold.wallet.lapse(now)
        parts, from_plan = allowance.split(1, now, hold.placed_at, hold.feature, hold)
        is_past = allowance.used(hold.placed_at)[0] + from_plan > allowance.a_day and from_plan > 0
        assert real.event.flags == (("late",) if hold.state != "open" else ()) + (("past_limit",) if is_past else ())
        hold.state, hold.event = "settled", real.usage_event_id
        allowance.use(parts, from_plan, hold.placed_at, now)
        if hold.pins:
            hold.wallet.lapse(now)

    @rule(placed=holds)
    def void(self, placed: Placed) -> None:
        placed.real.void()
        placed.told.wallet.end(placed.told, "voided", self.now)

    @rule(source=names, amount=amounts)
    def transfer(self, source: str, amount: int) -> None:
        target = next(name for name in ALLOWED if name != source)
        giver, taker, now = self.allowances[source].extra, self.allowances[target].extra, self.now
        real = outcome(lambda: self.ts.features.transfer(source, target, FEATURE, amount))
        giver.lapse(now)
        taker.lapse(now)
        usable = giver.usable(now, now, moves=True)
        if sum(free for _, free in usable) < amount and giver.customer.give_way(now):
            usable = giver.usable(now, now, moves=True)
        if sum(free for _, free in usable) < amount:
            assert isinstance(real, CreditsInsufficient), real
            return
        known = {lot.id for lot in taker.lots}
        every = self.ts.features.credits(target, FEATURE, include_closed=True)
        arrived = sorted(grant.id for grant in every if grant.id not in known)
        out, into = [], []
        for lot, free in usable:
            moved = min(amount, free)
            amount -= moved
            if moved:
                out.append(Part(giver, lot, -moved))
                into.append(Part(taker, Lot(arrived.pop(0), lot.kind, lot.priority, now, lot.expires_at), moved))
        assert not arrived
        taker.lots += [part.lot for part in into if part.lot is not None]
        giver.post(out, "transfer", at=now, now=now)
        taker.post(into, "transfer", at=now, now=now)

    @rule(name=names, index=st.integers(0, 50))
    def revoke(self, name: str, index: int) -> None:
        wallet, now = self.allowances[name].extra, self.now
        if not wallet.lots:
            return
        lot = wallet.lots[index % len(wallet.lots)]
        real = outcome(lambda: self.ts.features.revoke(lot.id, "mistake"))
        wallet.lapse(now)
        free = wallet.free(lot)
        assert isinstance(real, Conflict) == (not free), real
        if free:
            wallet.post([Part(wallet, lot, -free)], "revocation", at=now, now=now)

    @rule(name=names)
    def subscribe_anew(self, name: str) -> None:
        self.clock.advance(seconds=1)
        self.ts.subscriptions.cancel(name, immediately=True)
        self.subscribe(name)

    @rule(seconds=st.sampled_from((1, 3_600, 43_200, 86_400)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(index=st.integers(0, 20), is_over=st.booleans())
    def wait_for_an_expiry(self, index: int, is_over: bool) -> None:
        wallets = [one.extra for one in self.allowances.values()]
        ends = {lot.expires_at for wallet in wallets for lot in wallet.lots if lot.expires_at is not None}
        ends |= {hold.expires_at for wallet in wallets for hold in wallet.customer.holds}
        ahead = sorted(end for end in ends if end > self.now + timedelta(microseconds=1))
        if ahead:
            end = ahead[index % len(ahead)]
            self.clock.set(end if is_over else end - timedelta(microseconds=1))

    @rule()
    def run_due_jobs(self) -> None:
        done = self.ts.run_due_jobs()
        wallets = [one.extra for one in self.allowances.values()]
        assert done.holds_expired == sum(len(wallet.customer.give_way(self.now)) for wallet in wallets)
        for wallet in wallets:
            wallet.lapse(self.now)

    @invariant()
    @precondition(lambda self: hasattr(self, "ts"))
    def what_is_left_is_what_the_model_says(self) -> None:
        now = self.now
        for name, allowance in self.allowances.items():
            extra, tag = allowance.extra, self.tags[name]
            mine = [lot for lot in extra.in_order() if extra.is_visible(lot, now) and lot.feature in (None, tag)]
            usable = sum(free for _, free in extra.usable(now, now, tag))
            stats = self.ts.features.credit_stats(name, FEATURE)
            assert (stats.plan_used, stats.extra_used) == allowance.used(now), name
            assert stats.extra_remaining == sum(lot.remaining for lot in mine), name
            assert stats.remaining == allowance.a_day - stats.plan_used + stats.extra_remaining, name
            assert stats.total_available == stats.remaining + stats.used, name
            assert self.ts.features.remaining(name, FEATURE) == allowance.left(now) + usable, name
            assert self.ts.features.remaining(name, FEATURE, False) == allowance.left(now), name
            found = [(grant.id, grant.remaining, grant.held) for grant in self.ts.features.credits(tag, FEATURE)]
            assert found == [(lot.id, lot.remaining, extra.pinned(lot)) for lot in mine], name


def run_against_model(examples: int, database: Callable[[], AbstractContextManager[str]]) -> None:
    machine = type("FeaturesMachine", (Features,), {"database": staticmethod(database)})
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


def test_features_do_what_the_model_says_on_sqlite(tmp_path: Path, sqlite_template: Path) -> None:
    numbers = count()

    @contextmanager
    def database() -> Iterator[str]:
        file = tmp_path / f"{next(numbers)}.db"
        file.write_bytes(sqlite_template.read_bytes())
        yield f"sqlite:///{file}"
        for leftover in tmp_path.glob(f"{file.name}*"):
            leftover.unlink()

    run_against_model(10, database)


def test_features_do_what_the_model_says_on_postgres(postgres_cluster: PostgresCluster) -> None:
    @contextmanager
    def database() -> Iterator[str]:
        name = postgres_cluster.take_database()
        yield postgres_cluster.url(name)
        postgres_cluster.give_back(name)

    run_against_model(5, database)
