"""The instant of an expiry is exact, whether or not any job has run: usable a microsecond before, gone at it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.credits.wallets import Wallet
from tallystick.errors import CreditsInsufficient, FeatureLimitExceeded
from tallystick.events import CreditsExpired
from tallystick.money import Money
from tests.acceptance.accounts import BILLABLE, CountingProvider, assert_healthy, subscribe
from tests.acceptance.credit_processes import FEATURE, run_due_jobs_at_once
from tests.acceptance.processes import CONTEXT, run_in_processes

EXPIRES_AT = datetime(2026, 2, 1, tzinfo=UTC)
JUST_BEFORE = EXPIRES_AT - timedelta(microseconds=1)


def usd(amount: str) -> Money:
    return Money(amount, "USD")


def on_credits(ts: Tallystick) -> Any:
    return ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")


@pytest.fixture
def wallet(ts: Tallystick) -> Wallet:
    """A wallet with 5 USD that expire, which are used first, and 2 USD that do not."""
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("5", "trial", expires_at=EXPIRES_AT)
    wallet.add_credits("2", "top-up")
    return wallet


def test_a_balance_is_exact_to_the_microsecond(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    def read() -> tuple[object, ...]:
        [found] = [one for one in ts.wallets.list() if one.id == wallet.id]
        return (
            wallet.balance,
            wallet.available,
            found.promotional,
            wallet.paid,
            wallet.has_sufficient_balance("7"),
            wallet.has_sufficient_balance("2.01"),
            len(wallet.grants()),
        )

    clock.set(JUST_BEFORE)
    assert read() == (usd("7"), usd("7"), usd("5"), usd("2"), True, True, 2)
    clock.set(EXPIRES_AT)
    assert read() == (usd("2"), usd("2"), usd("0"), usd("2"), False, False, 1)
    assert wallet.transactions(source="expiry").transactions == (), "reading posts nothing"
    assert_healthy(ts)


def test_a_deduction_is_exact_to_the_microsecond(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    clock.set(JUST_BEFORE)
    wallet.deduct_credits("5.50")
    wallet.refund(wallet.transactions(limit=1)[0].id)
    clock.set(EXPIRES_AT)
    with pytest.raises(CreditsInsufficient) as refused:
        wallet.deduct_credits("2.000000001")
    assert refused.value.balance == usd("2")
    wallet.deduct_credits("2")
    assert wallet.balance == usd("0")
    assert_healthy(ts)


def test_a_metered_call_is_exact_to_the_microsecond(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    provider = CountingProvider()
    metered = on_credits(ts).with_manual_usage(input_tokens=1, total_cost=usd("3")).estimate(cost=usd("3"))
    clock.set(JUST_BEFORE)
    metered.call(provider)
    clock.set(EXPIRES_AT)
    with pytest.raises(CreditsInsufficient):
        metered.call(provider)
    assert provider.calls == 1
    assert (wallet.balance, wallet.held) == (usd("2"), usd("0"))
    assert_healthy(ts, open_holds=0)


def test_a_hold_shrinks_to_what_has_not_expired(database_url: str, clock: FixedClock) -> None:
    prices = {"models": {"m": {"input_price_per_million": "1000000", "output_price_per_million": "1000000"}}}
    with Tallystick(database_url, clock=clock, providers={"acme": prices}) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("5", "trial", expires_at=EXPIRES_AT)
        wallet.add_credits("2", "top-up")
        expecting = on_credits(ts).using_provider("acme", "m").expecting(tokens=100)
        clock.set(JUST_BEFORE)
        with expecting.hold():
            assert wallet.held == usd("7")
        clock.set(EXPIRES_AT)
        with expecting.hold():
            assert wallet.held == usd("2")
        assert_healthy(ts, open_holds=0)


def test_the_use_of_a_feature_is_exact_to_the_microsecond(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, features={FEATURE: {"value": 1, "reset": "never"}})
    ts.features.grant_credits(BILLABLE, FEATURE, 3, "trial", expires_at=EXPIRES_AT)
    clock.set(JUST_BEFORE)
    assert ts.features.can_use(BILLABLE, FEATURE, 4)
    assert ts.features.remaining(BILLABLE, FEATURE) == 4
    assert ts.features.use(BILLABLE, FEATURE).from_credits == 1
    clock.set(EXPIRES_AT)
    assert not ts.features.can_use(BILLABLE, FEATURE, 2)
    assert ts.features.remaining(BILLABLE, FEATURE) == 1
    assert ts.features.extra_credits(BILLABLE, FEATURE) == 0
    stats = ts.features.credit_stats(BILLABLE, FEATURE)
    assert (stats.used, stats.remaining, stats.total_available) == (1, 1, 2)
    with pytest.raises(FeatureLimitExceeded) as refused:
        ts.features.use(BILLABLE, FEATURE, 2)
    assert refused.value.extra_credits == 0
    assert ts.features.use(BILLABLE, FEATURE).from_plan == 1
    assert_healthy(ts)


def test_a_use_that_is_told_of_after_the_expiry_takes_nothing_of_it(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, features={FEATURE: {"value": 10, "reset": "never"}})
    ts.features.grant_credits(BILLABLE, FEATURE, 3, "trial", expires_at=EXPIRES_AT)
    ts.wallets.get_or_create(BILLABLE).add_credits("5", expires_at=EXPIRES_AT)
    clock.set(EXPIRES_AT)
    ts.usage.record(
        billable=BILLABLE,
        input_tokens=1,
        total_cost=usd("1"),
        feature=FEATURE,
        billing_mode="credits",
        occurred_at=JUST_BEFORE,
    )
    stats = ts.features.credit_stats(BILLABLE, FEATURE)
    assert (stats.plan_used, stats.extra_used) == (1, 0)
    assert ts.wallets.get(BILLABLE).balance == usd("-1")
    assert_healthy(ts)


def test_what_was_reserved_before_the_expiry_is_paid_with_after_it(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    clock.set(JUST_BEFORE)
    hold = on_credits(ts).hold(cost=usd("4"), ttl_seconds=86_400)
    clock.set(EXPIRES_AT)
    assert (wallet.balance, wallet.held, wallet.available) == (usd("6"), usd("4"), usd("2"))
    ts.run_due_jobs()
    assert (wallet.balance, wallet.held, wallet.available) == (usd("6"), usd("4"), usd("2"))
    clock.advance(hours=1)
    settled = hold.settle(input_tokens=1, total_cost=usd("3.50"))
    assert settled.event is not None
    assert settled.event.flags == ()
    assert (wallet.balance, wallet.held) == (usd("2"), usd("0"))
    lost = [line.amount for line in wallet.transactions(source="expiry")]
    assert lost == [usd("0.50"), usd("1")]
    assert_healthy(ts, open_holds=0)


def test_more_than_was_reserved_is_paid_by_what_has_not_expired(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    clock.set(JUST_BEFORE)
    hold = on_credits(ts).hold(cost=usd("4"), ttl_seconds=86_400)
    clock.set(EXPIRES_AT)
    settled = hold.settle(input_tokens=1, total_cost=usd("7"))
    assert settled.event is not None
    assert settled.event.flags == ("overdraft",)
    assert (wallet.balance, wallet.overdraft) == (usd("-1"), usd("-1"))
    assert_healthy(ts, open_holds=0)


@pytest.mark.parametrize("ending", ["void", "runs out"])
def test_giving_back_after_the_expiry_does_not_bring_it_back(
    ts: Tallystick, wallet: Wallet, clock: FixedClock, ending: str
) -> None:
    told: list[CreditsExpired] = []
    ts.on(CreditsExpired)(told.append)
    clock.set(JUST_BEFORE)
    hold = on_credits(ts).hold(cost=usd("4"), ttl_seconds=60)
    if ending == "void":
        clock.set(EXPIRES_AT)
        hold.void()
    else:
        clock.advance(seconds=60)
        ts.run_due_jobs()
    assert (wallet.balance, wallet.held, wallet.available) == (usd("2"), usd("0"), usd("2"))
    assert not wallet.has_sufficient_balance("2.01")
    assert sum((event.amount for event in told), usd("0")) == usd("5")
    assert_healthy(ts, open_holds=0)


def test_a_refund_after_the_expiry_expires_with_it(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    charge = wallet.deduct_credits("6")
    clock.set(EXPIRES_AT)
    wallet.refund(charge.id)
    assert (wallet.balance, wallet.paid, wallet.promotional) == (usd("2"), usd("2"), usd("0"))
    assert_healthy(ts)


def test_a_hold_that_has_run_out_gives_way_to_the_next_call(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    on_credits(ts).hold(cost=usd("7"), ttl_seconds=60)
    clock.advance(seconds=60, microseconds=-1)
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("0.01")
    clock.advance(microseconds=1)
    wallet.deduct_credits("7")
    assert (wallet.balance, wallet.held) == (usd("0"), usd("0"))
    assert_healthy(ts, open_holds=0)


def test_an_expiry_is_told_once_by_processes_that_run_due_jobs_at_once(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        granted, held = [], []
        for number in range(30):
            name = f"user:{number % 7}"
            wallet = ts.wallets.get_or_create(name)
            granted.append(wallet.add_credits("1", "trial", expires_at=EXPIRES_AT).grant_id)
            if number % 3 == 0:
                meter = ts.meter.billable(name).using_provider("manual", "model").billing_mode("credits")
                held.append(meter.hold(cost=usd("0.25"), ttl_seconds=60).id)
    # The processes have the clock of the system, by which all of it has run out long ago.
    found = run_in_processes(3, run_due_jobs_at_once, database_url, CONTEXT.Barrier(3))
    told = [one for several in found for one in several]
    assert sorted(hold_id for hold_id, amount in told if not amount) == sorted(map(str, held))
    with Tallystick(database_url) as ts:
        wallets = ts.wallets.list()
        lines = [line for wallet in wallets for line in wallet.transactions(source="expiry")]
        assert sorted((str(line.grant_id), str(line.amount)) for line in lines) == sorted(one for one in told if one[1])
        assert {line.grant_id for line in lines} == set(granted)
        assert {str(wallet.balance) for wallet in wallets} == {"0.00 USD"}
        assert sum(len(wallet.grants(include_closed=True)) for wallet in wallets) == 30
        assert_healthy(ts, open_holds=0)
