"""Any sequence of holds, settlements, lapses, overrides, cancellations and clock jumps gives what the model says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
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
    precondition,
    rule,
    run_state_machine_as_test,
)

from tallystick import FixedClock, Tallystick
from tallystick.errors import (
    CallInProgress,
    IdempotencyConflict,
    LimitExceeded,
    TallystickError,
    UnknownPrice,
)
from tallystick.events import HoldExpired
from tallystick.metering.hold import Hold as EngineHold
from tallystick.money import Money
from tests.acceptance.accounts import assert_healthy, meter
from tests.acceptance.model import Account, Hold, Override, Plan, Subscription, next_month

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import PostgresCluster

PLANS = {
    "user:1": Plan("both", tokens=100, cents=100, is_hard=True),
    "user:2": Plan("charge", tokens=60, cents=None, is_hard=False, cents_per_1k=100),
    "user:3": Plan("tokens", tokens=50, cents=None, is_hard=True),
}

names = st.sampled_from(tuple(PLANS))
tokens = st.integers(0, 60)
cents = st.integers(0, 50)
ttl = st.sampled_from((1, 60, 3_600, 600_000))


def money(amount: int) -> Money:
    return Money(Decimal(amount) / 100, "USD")


def outcome(work: Callable[[], Any]) -> Any:
    """Return what the engine answers, or the error that it raises."""
    try:
        return work()
    except TallystickError as error:
        return error


class Placed:
    """One hold, as the engine and as the model know it."""

    def __init__(self, name: str, real: EngineHold, told: Hold, usage: tuple[int, int]) -> None:
        self.name = name
        self.real = real
        self.told = told
        self.usage = usage


class Engine(RuleBasedStateMachine):
    """The engine and the model side by side."""

    database: Callable[[], AbstractContextManager[str]]
    holds: Bundle[Placed] = Bundle("holds")

    @initialize()
    def open(self) -> None:
        self.opened = self.database()
        self.clock = FixedClock("2026-01-15T12:00:00Z")
        self.ts = Tallystick(self.opened.__enter__(), clock=self.clock, idempotency={"wait_seconds": 0})
        self.accounts = {name: Account() for name in PLANS}
        self.expired: list[str] = []
        self.told_expired: list[str] = []
        self.numbers = count()
        self.ts.on(HoldExpired)(lambda event: self.expired.append(event.hold_id))
        for name, plan in PLANS.items():
            self.ts.plans.create(
                plan.slug,
                monthly_token_limit=plan.tokens,
                monthly_cost_limit=None if plan.cents is None else money(plan.cents),
                overage_behavior="block" if plan.is_hard else "charge",
                overage_price_per_1k_tokens=money(plan.cents_per_1k) if plan.cents_per_1k else None,
            )
            self.subscribe(name)

    def teardown(self) -> None:
        if not hasattr(self, "ts"):
            return
        try:
            assert_healthy(self.ts)
            for name, account in self.accounts.items():
                charged = sum((one.amount for one in self.ts.overages.list(name)), Money(0, "USD"))
                assert charged == Money(Decimal(account.overage_tokens) / 1_000, "USD")
        finally:
            self.ts.close()
            self.opened.__exit__(None, None, None)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    # -- holds --------------------------------------------------------------------------------------------------------

    @rule(target=holds, name=names, tokens=tokens, cents=cents, ttl=ttl)
    def hold_explicitly(self, name: str, tokens: int, cents: int, ttl: int) -> Any:
        account, now = self.accounts[name], self.now
        granted, expired = account.admit(now, tokens, cents)
        self.told_expired += [hold.id for hold in expired]
        real = outcome(lambda: meter(self.ts, name).hold(tokens=tokens, cost=money(cents), ttl_seconds=ttl))
        return self.placed(name, real, granted, cents, ttl, key=None, usage=(0, 0))

    @rule(target=holds, name=names, tokens=tokens, ttl=ttl)
    def hold_implicitly(self, name: str, tokens: int, ttl: int) -> Any:
        account, now = self.accounts[name], self.now
        real = outcome(lambda: meter(self.ts, name).expecting(tokens=tokens).hold(ttl_seconds=ttl))
        if account.limits(now).cents is not None:
            assert isinstance(real, UnknownPrice), real
            return _nothing()
        granted, expired = account.admit(now, tokens, 0, shrinks=True)
        self.told_expired += [hold.id for hold in expired]
        return self.placed(name, real, granted, 0, ttl, key=None, usage=(0, 0))

    @rule(
        target=holds, name=names, usage=st.sampled_from(((10, 5), (10, 5), (20, 0))), key=st.sampled_from("ab"), ttl=ttl
    )
    def hold_with_a_key(self, name: str, usage: tuple[int, int], key: str, ttl: int) -> Any:
        account, now = self.accounts[name], self.now
        tokens, cents = usage
        keyed = meter(self.ts, name).with_idempotency_key(key)
        keyed = keyed.with_manual_usage(input_tokens=tokens, total_cost=money(cents))
        real = outcome(lambda: keyed.hold(ttl_seconds=ttl))
        known = account.keys.get(key)
        if known is not None and (known.tokens, known.cents) != (tokens, cents):
            assert isinstance(real, IdempotencyConflict), real
            return _nothing()
        if known is not None and known.event is not None:
            assert isinstance(real, EngineHold), real
            assert real.settlement is not None
            assert real.settlement.usage_event_id == known.event
            return _nothing()
        if known is not None and known.hold is not None and known.hold.state == "open":
            if known.hold.expires_at > now:
                assert isinstance(real, CallInProgress), real
                return _nothing()
            account.expire(known.hold)
            self.told_expired.append(known.hold.id)
        granted, expired = account.admit(now, tokens, cents)
        self.told_expired += [hold.id for hold in expired]
        return self.placed(name, real, granted, cents, ttl, key=key, usage=(tokens, cents))

    def placed(
        self, name: str, real: Any, granted: int | None, cents: int, ttl: int, key: str | None, usage: tuple[int, int]
    ) -> Any:
        """Compare what the engine and the model decided about a hold."""
        if granted is None:
            assert isinstance(real, LimitExceeded), real
            return _nothing()
        assert isinstance(real, EngineHold), real
        assert real.tokens == granted
        assert real.id is not None
        hold = Hold(real.id, self.now, self.now + timedelta(seconds=ttl), granted, cents, key)
        self.accounts[name].place(hold, usage=usage)
        assert self.never_past_a_hard_limit_through_a_hold(name, hold)
        return Placed(name, real, hold, usage)

    def never_past_a_hard_limit_through_a_hold(self, name: str, hold: Hold) -> bool:
        account = self.accounts[name]
        left_tokens, left_cents = account.left(self.now)
        return not account.limits(self.now).is_hard or (
            (left_tokens is None or left_tokens >= 0 or hold.tokens == 0)
            and (left_cents is None or left_cents >= 0 or hold.cents == 0)
        )

    @rule(placed=holds, used=st.tuples(tokens, cents), again=st.booleans())
    def settle(self, placed: Placed, used: tuple[int, int], again: bool) -> None:
        hold, account = placed.told, self.accounts[placed.name]
        if hold.state == "settled" and again and hold.used is not None:
            used = hold.used
        real = outcome(lambda: placed.real.settle(input_tokens=used[0], total_cost=money(used[1])))
        if hold.state != "settled":
            assert not isinstance(real, TallystickError), real
            assert ("late" in real.event.flags) == (hold.state != "open")
            account.settle(hold, real.usage_event_id, used, usage=placed.usage, now=self.now)
        elif used == hold.used:
            assert real.usage_event_id == hold.event
        else:
            assert isinstance(real, IdempotencyConflict), real

    @rule(placed=holds)
    def void(self, placed: Placed) -> None:
        # What was settled stays so; what has ended otherwise, or was erased, has nothing left to give back.
        assert outcome(placed.real.void) is None
        self.accounts[placed.name].void(placed.told)

    @rule()
    def run_due_jobs(self) -> None:
        due = [(account, hold) for account in self.accounts.values() for hold in account.lapsed(self.now)]
        assert self.ts.run_due_jobs().holds_expired == len(due)
        for account, hold in due:
            account.expire(hold)
            self.told_expired.append(hold.id)

    # -- facts --------------------------------------------------------------------------------------------------------

    @rule(name=names, tokens=tokens, cents=cents, days=st.sampled_from((0, 0, 1, 20, 40)))
    def record(self, name: str, tokens: int, cents: int, days: int) -> None:
        at = self.now - timedelta(days=days)
        self.ts.usage.record(billable=name, input_tokens=tokens, total_cost=money(cents), occurred_at=at)
        self.accounts[name].use(at, tokens, cents)

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.ts.usage.delete_for(name)
        self.accounts[name].erase(self.now)

    @rule(days=st.integers(0, 40))
    def anonymize(self, days: int) -> None:
        day = (self.now - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
        self.ts.usage.anonymize_before(day)
        for account in self.accounts.values():
            account.anonymize(day)

    # -- terms --------------------------------------------------------------------------------------------------------

    def subscribe(self, name: str) -> None:
        self.ts.subscriptions.create(name, PLANS[name].slug)
        self.accounts[name].subscriptions.append(Subscription(PLANS[name], self.now, next(self.numbers)))

    @rule(
        name=names,
        limit=st.integers(0, 150),
        is_cost=st.booleans(),
        starts=st.sampled_from((-40, -1, 0, 0, 1, 20)),
        days=st.sampled_from((None, 1, 30)),
    )
    def override(self, name: str, limit: int, is_cost: bool, starts: int, days: int | None) -> None:
        start = self.now + timedelta(days=starts)
        end = None if days is None else start + timedelta(days=days)
        made = self.ts.limits.override(
            name,
            start=start,
            end=end,
            token_limit=None if is_cost else limit,
            cost_limit=money(limit) if is_cost else None,
        )
        told = Override(made.id, start, end, None if is_cost else limit, limit if is_cost else None)
        self.accounts[name].overrides.append(told)

    @rule(name=names, index=st.integers(0, 5))
    def end_override(self, name: str, index: int) -> None:
        overrides = self.accounts[name].overrides
        if not overrides:
            return
        override = overrides[index % len(overrides)]
        self.ts.limits.end_override(override.id)
        if override.start >= self.now:
            overrides.remove(override)
        elif override.end is None or override.end > self.now:
            override.end = self.now

    @rule(name=names, immediately=st.booleans())
    def cancel(self, name: str, immediately: bool) -> None:
        current = self.accounts[name].current(self.now)
        if current is None or (current.cancels_at is not None and current.cancels_at <= self.now):
            return
        self.ts.subscriptions.cancel(name, immediately=immediately)
        if immediately or current.has_lapsed(self.now):
            current.cancels_at = self.now
        elif current.cancels_at is None:
            current.cancels_at = current.paid_until(self.now)

    @rule(name=names)
    def resume(self, name: str) -> None:
        current = self.accounts[name].current(self.now)
        if current is None or current.cancels_at is None or current.cancels_at <= self.now:
            return
        self.ts.subscriptions.resume(name)
        current.cancels_at = None

    @rule(name=names, fails=st.booleans())
    def pay(self, name: str, fails: bool) -> None:
        current = self.accounts[name].current(self.now)
        if current is None:
            return
        if not fails:
            self.ts.subscriptions.payment_succeeded(name)
            if current.has_lapsed(self.now) and current.cancels_at is None:
                current.paid_since = self.now
            current.payment_failed_at = None
        elif current.cancels_at is None or current.cancels_at > self.now:
            self.ts.subscriptions.payment_failed(name)
            current.payment_failed_at = current.payment_failed_at or self.now

    @rule(name=names)
    def subscribe_again(self, name: str) -> None:
        if self.accounts[name].subscription(self.now) is None:
            self.subscribe(name)

    # -- time ---------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, 59, 60, 3_600, 86_400, 7 * 86_400, 20 * 86_400)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(after=st.booleans())
    def wait_for_the_months_end(self, after: bool) -> None:
        end = next_month(self.now)
        self.clock.set(end if after else max(end - timedelta(microseconds=1), self.now))

    # -- comparing ----------------------------------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "ts"))
    def the_engine_says_what_the_model_says(self) -> None:
        now = self.now
        for name, account in self.accounts.items():
            check = self.ts.limits.check(name)
            limits, used, held = account.limits(now), account.used(now), account.held(now)
            left = account.left(now)
            told = {
                "token_limit": limits.tokens,
                "cost_limit": None if limits.cents is None else money(limits.cents),
                "tokens_used": used[0],
                "cost_used": money(used[1]),
                "tokens_held": held[0],
                "cost_held": money(held[1]),
                "remaining_tokens": None if left[0] is None else max(0, left[0]),
                "remaining_cost": None if left[1] is None else max(money(0), money(left[1])),
                "plan": None if limits.plan is None else limits.plan.slug,
                "allowed": account.fits(now, 1, 1),
                "limit_reached": (limits.tokens is not None and used[0] >= limits.tokens)
                or (limits.cents is not None and used[1] >= limits.cents),
                "resets_at": next_month(now),
            }
            assert {field: getattr(check, field) for field in told} == told, name

    @invariant()
    @precondition(lambda self: hasattr(self, "ts"))
    def holds_that_ran_out_were_reported_once(self) -> None:
        assert sorted(self.expired) == sorted(self.told_expired)


def _nothing() -> Any:
    from hypothesis.stateful import multiple

    return multiple()


def run_against_model(database: Callable[[], AbstractContextManager[str]]) -> None:
    machine = type("EngineMachine", (Engine,), {"database": staticmethod(database)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            settings(),
            max_examples=25,
            stateful_step_count=40,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_the_engine_does_what_the_model_says_on_sqlite(tmp_path: Path) -> None:
    numbers = count()

    @contextmanager
    def database() -> Iterator[str]:
        yield f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"

    run_against_model(database)


def test_the_engine_does_what_the_model_says_on_postgres(postgres_cluster: PostgresCluster) -> None:
    @contextmanager
    def database() -> Iterator[str]:
        name = postgres_cluster.create_database()
        yield postgres_cluster.url(name)
        postgres_cluster.drop_database(name)

    run_against_model(database)
