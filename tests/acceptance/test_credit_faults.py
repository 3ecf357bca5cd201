"""What billing systems get wrong with prepaid money: work that nobody pays, charges made twice, prices that change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.credits.wallets import Wallet
from tallystick.errors import (
    Conflict,
    CreditsInsufficient,
    CurrencyMismatch,
    IdempotencyConflict,
    InvalidInput,
    OutcomeUnknown,
    UnknownPrice,
)
from tallystick.events import CreditsDeducted
from tallystick.money import Money
from tests.acceptance.accounts import BILLABLE, CountingProvider, assert_healthy, in_threads
from tests.acceptance.proxy import BreakingProxy


def usd(amount: str) -> Money:
    return Money(amount, "USD")


def on_credits(ts: Tallystick) -> Any:
    return ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")


def costing(ts: Tallystick, cost: str, estimate: str | None = None) -> Any:
    call = on_credits(ts).with_manual_usage(input_tokens=1, total_cost=usd(cost))
    return call.estimate(cost=usd(estimate or cost))


def priced(url: str, clock: FixedClock, price: str | None, **settings: Any) -> Tallystick:
    """Open an engine that knows this price of a million tokens of acme/m, or none."""
    models = {"m": {"input_price_per_million": price, "output_price_per_million": price}}
    providers = {} if price is None else {"acme": {"models": models}}
    return Tallystick(url, clock=clock, providers=providers, on_unknown_price="record_unpriced", **settings)


def use_a_million(ts: Tallystick) -> str:
    call = ts.meter.billable(BILLABLE).using_provider("acme", "m").billing_mode("credits")
    event_id: str = call.with_manual_usage(input_tokens=1_000_000).call(lambda: None).usage_event_id
    return event_id


def remaining(wallet: Wallet) -> list[str]:
    return [str(grant.remaining) for grant in wallet.grants()]


@pytest.fixture
def wallet(ts: Tallystick) -> Wallet:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("1.00")
    return wallet


# -- the charge after the call ----------------------------------------------------------------------------------------


def test_a_call_that_used_more_than_there_is_is_charged_and_the_next_refused(ts: Tallystick, wallet: Wallet) -> None:
    provider = CountingProvider()
    called = costing(ts, "2.50", estimate="0.80").call(provider)
    event = ts.usage.get(called.usage_event_id)
    assert (event.cost, event.flags) == (usd("2.50"), ("overdraft",))
    assert (wallet.balance, wallet.overdraft, wallet.held) == (usd("-1.50"), usd("-1.50"), usd("0"))
    with pytest.raises(CreditsInsufficient) as refused:
        costing(ts, "0.01").call(provider)
    assert refused.value.balance == usd("-1.50")
    with pytest.raises(CreditsInsufficient):
        on_credits(ts).with_manual_usage(input_tokens=1, total_cost=Money.from_nanos(1, "USD")).call(provider)
    assert provider.calls == 1
    wallet.add_credits("1.50")
    with pytest.raises(CreditsInsufficient):
        costing(ts, "0.01").call(provider)
    wallet.add_credits("0.01")
    costing(ts, "0.01").call(provider)
    assert wallet.balance == usd("0")
    assert_healthy(ts, open_holds=0)


def test_calls_that_all_use_more_than_they_estimated_are_all_charged(ts: Tallystick, wallet: Wallet) -> None:
    provider = CountingProvider(seconds=0.05)
    outcomes = in_threads(20, lambda _: costing(ts, "0.30", estimate="0.10").call(provider))
    refused = [one for one in outcomes if isinstance(one, CreditsInsufficient)]
    # No more than ten fit at any time; what they used beyond their holds is owed.
    assert provider.calls == 20 - len(refused) <= 10
    assert wallet.balance == usd("1.00") - usd("0.30") * provider.calls
    assert wallet.held == usd("0")
    assert_healthy(ts, open_holds=0)


def test_a_hold_is_charged_once_however_many_settle_it(ts: Tallystick, wallet: Wallet) -> None:
    hold = on_credits(ts).hold(cost=usd("0.60"))
    outcomes = in_threads(16, lambda _: hold.settle(input_tokens=1, total_cost=usd("0.40")))
    assert len({one.usage_event_id for one in outcomes}) == 1
    assert wallet.balance == usd("0.60")
    with pytest.raises(IdempotencyConflict):
        hold.settle(input_tokens=1, total_cost=usd("0.41"))
    assert wallet.balance == usd("0.60")
    assert_healthy(ts, open_holds=0)


def test_a_call_that_comes_back_after_its_hold_ran_out_is_charged_all_the_same(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    hold = on_credits(ts).hold(cost=usd("0.80"), ttl_seconds=60)
    clock.advance(seconds=60)
    wallet.deduct_credits("1.00")
    settled = hold.settle(input_tokens=1, total_cost=usd("0.50"))
    assert settled.event is not None
    assert settled.event.flags == ("late", "overdraft")
    assert (wallet.balance, wallet.held) == (usd("-0.50"), usd("0"))
    assert_healthy(ts, open_holds=0)


def test_a_call_that_failed_costs_nothing(ts: Tallystick, wallet: Wallet) -> None:
    with pytest.raises(ConnectionError):
        costing(ts, "0.50").call(CountingProvider(error=ConnectionError("gone")))
    assert (wallet.balance, wallet.available) == (usd("1.00"), usd("1.00"))
    assert len(wallet.transactions()) == 1
    assert_healthy(ts, open_holds=0)


def test_hanging_up_is_no_way_to_use_credits_for_nothing(database_url: str) -> None:
    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            wallet = await ts.wallets.get_or_create(BILLABLE)
            await wallet.add_credits("1.00")
            asked = asyncio.Event()

            async def provider() -> None:
                asked.set()
                await asyncio.sleep(60)

            meter = ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")
            metered = meter.with_manual_usage(input_tokens=1, total_cost=usd("0.40"))
            task = asyncio.create_task(metered.call(provider))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await wallet.balance, await wallet.held) == (usd("0.60"), usd("0"))
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_use_that_the_plan_pays_leaves_the_wallet_alone(ts: Tallystick, wallet: Wallet) -> None:
    ts.plans.create("pro", monthly_token_limit=10)
    ts.subscriptions.create(BILLABLE, "pro")
    ts.meter.billable(BILLABLE).with_manual_usage(input_tokens=10, total_cost=usd("0.40")).call(lambda: None)
    costing(ts, "0.30").call(lambda: None)
    assert wallet.balance == usd("0.70")
    assert ts.limits.check(BILLABLE).tokens_used == 10
    assert_healthy(ts, open_holds=0)


def test_customers_without_a_wallet_may_go_below_zero_where_that_is_allowed(
    database_url: str, clock: FixedClock
) -> None:
    with Tallystick(database_url, clock=clock, billing={"credit_overdraft_allowed": True}) as ts:
        names = [f"user:{number}" for number in range(1, 9)]

        def call(index: int) -> None:
            meter = ts.meter.billable(names[index]).using_provider("manual", "model").billing_mode("credits")
            with meter.hold(cost=usd("2")) as hold:
                hold.settle(input_tokens=1, total_cost=usd("0.50"))

        assert in_threads(len(names), call) == [None] * len(names)
        assert [str(wallet.balance) for wallet in ts.wallets.list()] == ["-0.50 USD"] * len(names)
        assert len({wallet.id for wallet in ts.wallets.list()}) == len(names)
        assert_healthy(ts, open_holds=0)


def test_a_late_use_of_a_feature_takes_extra_credits_that_are_there(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", features={"exports": {"value": 1, "reset": "never"}})
    ts.subscriptions.create(BILLABLE, "pro")
    export = ts.meter.billable(BILLABLE).feature("exports").with_manual_usage(input_tokens=1, total_cost=usd("0"))
    hold = export.hold(ttl_seconds=10)
    clock.advance(seconds=20)
    ts.features.use(BILLABLE, "exports")
    ts.features.grant_credits(BILLABLE, "exports", 5)
    settled = hold.settle()
    assert settled.event is not None
    assert settled.event.flags == ("late",)
    stats = ts.features.credit_stats(BILLABLE, "exports")
    assert (stats.plan_used, stats.extra_used, stats.remaining) == (1, 1, 4)
    assert_healthy(ts, open_holds=0)


def test_a_top_up_that_is_paid_is_added_once(ts: Tallystick, wallet: Wallet) -> None:
    wallet.set_auto_top_up(below="0.50", amount="10")
    in_threads(8, lambda _: wallet.deduct_credits("0.10"))
    [request] = ts.wallets.top_ups()
    outcomes = in_threads(12, lambda _: ts.wallets.complete_top_up(request.id))
    assert len({one.id for one in outcomes}) == 1
    assert wallet.balance == usd("10.20")
    assert_healthy(ts)


# -- repetitions ------------------------------------------------------------------------------------------------------


def test_a_replay_charges_nothing_again(database_url: str, clock: FixedClock) -> None:
    provider = CountingProvider()
    for _ in range(3):
        # Each in an engine of its own, which remembers nothing.
        with Tallystick(database_url, clock=clock) as ts:
            wallet = ts.wallets.get_or_create(BILLABLE)
            wallet.add_credits("1.00", idempotency_key="payment-1")
            costing(ts, "0.70").with_idempotency_key("request-1").call(provider)
            wallet.deduct_credits("0.10", idempotency_key="order-1")
            ts.usage.record(
                billable=BILLABLE,
                input_tokens=1,
                total_cost=usd("0.05"),
                billing_mode="credits",
                idempotency_key="record-1",
            )
            assert wallet.balance == usd("0.15")
            assert_healthy(ts, open_holds=0)
    assert provider.calls == 1


def test_a_key_at_once_from_many_threads_charges_one_call(ts: Tallystick, wallet: Wallet) -> None:
    provider = CountingProvider(seconds=0.02)
    outcomes = in_threads(20, lambda _: costing(ts, "0.70").with_idempotency_key("request-1").call(provider))
    assert len({one.usage_event_id for one in outcomes}) == 1
    assert provider.calls == 1
    assert wallet.balance == usd("0.30")
    assert_healthy(ts, open_holds=0)


def test_a_replayed_refund_gives_back_once(ts: Tallystick, wallet: Wallet) -> None:
    charge = wallet.deduct_credits("0.80")
    outcomes = in_threads(12, lambda _: wallet.refund(charge.id, "0.20", idempotency_key="ticket-1"))
    assert len({one.id for one in outcomes}) == 1
    assert wallet.balance == usd("0.40")
    assert_healthy(ts)


# -- an answer that is lost -------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[BreakingProxy]:
    """A way to PostgreSQL that can lose the answer to a commit."""
    proxy = BreakingProxy(postgres_url)
    yield proxy
    proxy.close()


def test_a_call_whose_settlement_lost_its_answer_is_charged_once(proxy: BreakingProxy) -> None:
    with Tallystick(proxy.url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("1.00")
        told: list[CreditsDeducted] = []
        ts.on(CreditsDeducted)(told.append)
        # The hold was placed before the provider is asked: the next commit is the settlement's.
        costing(ts, "0.40").call(proxy.break_at_next_commit)
        assert proxy.breaks == 1
        assert (wallet.balance, wallet.held) == (usd("0.60"), usd("0"))
        assert [event.amount for event in told] == [usd("0.40")]
        assert_healthy(ts, open_holds=0)


def test_a_hold_whose_answer_was_lost_keeps_no_credits(proxy: BreakingProxy) -> None:
    with Tallystick(proxy.url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("1.00")
        provider = CountingProvider()
        proxy.break_at_next_commit()
        with pytest.raises(OutcomeUnknown):
            costing(ts, "0.40").call(provider)
        assert (provider.calls, proxy.breaks) == (0, 1)
        assert (wallet.available, wallet.held) == (usd("1.00"), usd("0"))
        assert_healthy(ts, open_holds=0)


def test_a_deduction_whose_answer_was_lost_is_found_again_by_its_key(proxy: BreakingProxy) -> None:
    with Tallystick(proxy.url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("1.00")
        proxy.break_at_next_commit()
        with pytest.raises(OutcomeUnknown):
            wallet.deduct_credits("0.40", idempotency_key="order-1")
        assert wallet.deduct_credits("0.40", idempotency_key="order-1").replayed
        assert wallet.balance == usd("0.60")
        assert_healthy(ts)


# -- rates and prices -------------------------------------------------------------------------------------------------


def test_a_wallet_of_another_currency_without_a_rate_refuses_before_the_call(ts: Tallystick) -> None:
    ts.wallets.get_or_create(BILLABLE, "EUR").add_credits("100")
    provider = CountingProvider()
    with pytest.raises(CurrencyMismatch):
        costing(ts, "0.10").call(provider)
    assert provider.calls == 0
    assert ts.wallets.get(BILLABLE, "EUR").available == Money("100", "EUR")
    assert_healthy(ts, open_holds=0)


def test_a_wallet_of_another_currency_pays_at_the_rate(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency_rates": {"usd_eur": "0.90"}}) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE, "EUR")
        wallet.add_credits("1")
        costing(ts, "1").call(lambda: None)
        assert wallet.balance == Money("0.10", "EUR")
        [line] = wallet.transactions(source="usage")
        assert line.exchange is not None
        assert (line.exchange.amount, str(line.exchange.rate)) == (usd("1"), "0.90")
        with pytest.raises(CreditsInsufficient):
            costing(ts, "0.112").call(lambda: None)
        assert [one.currency for one in ts.wallets.list(BILLABLE)] == ["EUR"]
        assert_healthy(ts, open_holds=0)


def test_an_unknown_price_refuses_a_call_on_credits(ts: Tallystick, wallet: Wallet) -> None:
    provider = CountingProvider()
    with pytest.raises(UnknownPrice):
        on_credits(ts).using_provider("acme", "m").call(provider)
    assert (provider.calls, wallet.held) == (0, usd("0"))
    assert_healthy(ts, open_holds=0)


def test_a_call_without_a_price_is_charged_once_there_is_one(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, None) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("5", "promotion", priority=1)
        wallet.add_credits("10")
        event = ts.usage.get(use_a_million(ts))
        assert (event.cost, event.flags) == (None, ("unpriced",))
        assert wallet.balance == usd("15")
        assert_healthy(ts, open_holds=0)
    with priced(database_url, clock, "7") as ts:
        wallet = ts.wallets.get(BILLABLE)
        ts.usage.reprice()
        assert wallet.balance == usd("15"), "a preview charges nothing"
        ts.usage.reprice(apply=True)
        assert (wallet.balance, remaining(wallet)) == (usd("8"), ["8.00 USD"])
        ts.usage.reprice(apply=True)
        assert wallet.balance == usd("8")
        assert_healthy(ts, open_holds=0)


def test_a_price_that_falls_gives_back_to_the_grants(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, "7") as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("5", "promotion", priority=1)
        wallet.add_credits("10")
        use_a_million(ts)
        assert remaining(wallet) == ["8.00 USD"]
    for price, left in (("4", ["1.00 USD", "10.00 USD"]), ("9", ["6.00 USD"]), ("0", ["5.00 USD", "10.00 USD"])):
        with priced(database_url, clock, price) as ts:
            wallet = ts.wallets.get(BILLABLE)
            ts.usage.reprice(apply=True)
            assert remaining(wallet) == left
            ts.usage.reprice(apply=True)
            assert remaining(wallet) == left
            assert_healthy(ts, open_holds=0)


def test_a_price_that_falls_after_a_refund_gives_back_no_more_than_was_taken(
    database_url: str, clock: FixedClock
) -> None:
    with priced(database_url, clock, "7") as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("10")
        use_a_million(ts)
        [charge] = wallet.transactions(source="usage")
        wallet.refund(charge.id, "5")
    with priced(database_url, clock, "1") as ts:
        wallet = ts.wallets.get(BILLABLE)
        ts.usage.reprice(apply=True)
        assert wallet.balance == usd("10")
        assert_healthy(ts, open_holds=0)


def test_a_correction_that_was_refunded_is_not_given_back_again(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, "1") as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("10")
        use_a_million(ts)
    with priced(database_url, clock, "5") as ts:
        wallet = ts.wallets.get(BILLABLE)
        ts.usage.reprice(apply=True)
        assert wallet.balance == usd("5")
        # The line of the correction, and then the line of the call itself.
        for line in list(wallet.transactions(source="usage")):
            _refund_what_is_left(wallet, line.id)
        assert wallet.balance <= usd("10")
    with priced(database_url, clock, "0") as ts:
        wallet = ts.wallets.get(BILLABLE)
        ts.usage.reprice(apply=True)
        for line in list(wallet.transactions(source="usage")):
            _refund_what_is_left(wallet, line.id)
        assert wallet.balance == usd("10"), "credits were made of nothing"
        assert_healthy(ts, open_holds=0)


def test_debt_of_a_price_that_falls_is_forgiven(database_url: str, clock: FixedClock) -> None:
    with priced(database_url, clock, None) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("2")
        use_a_million(ts)
    for price, balance in (("7", "-5"), ("3", "-1"), ("1", "1"), ("7", "-5")):
        with priced(database_url, clock, price) as ts:
            ts.usage.reprice(apply=True)
            assert ts.wallets.get(BILLABLE).balance == usd(balance)
            assert_healthy(ts, open_holds=0)
    with priced(database_url, clock, "4") as ts:
        wallet = ts.wallets.get(BILLABLE)
        wallet.add_credits("10")
        ts.usage.reprice(apply=True)
        assert (wallet.balance, wallet.overdraft) == (usd("8"), usd("0"))
        assert_healthy(ts, open_holds=0)


def _refund_what_is_left(wallet: Wallet, transaction_id: str) -> None:
    # Nothing may be left of it, or it may be a line that only goes back with another.
    with suppress(Conflict, InvalidInput):
        wallet.refund(transaction_id)
