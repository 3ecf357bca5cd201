"""What is prepaid is spent once, however many spend at once: threads, processes, coroutines."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from tallystick import AsyncTallystick, Tallystick
from tallystick.errors import CreditsInsufficient, FeatureLimitExceeded, LimitExceeded
from tallystick.money import Money
from tallystick.storage import tables
from tests.acceptance.accounts import BILLABLE, CountingProvider, assert_healthy, errors_of, in_threads, subscribe
from tests.acceptance.credit_processes import (
    FEATURE,
    call_on_credits,
    deduct_until_empty,
    deduct_with_one_key,
    transfer_back_and_forth,
    use_until_empty,
)
from tests.acceptance.processes import CONTEXT, run_in_processes

if TYPE_CHECKING:
    from tallystick.metering.meter import Meter

TEN_CENTS = Money("0.10", "USD")


def usd(amount: str) -> Money:
    return Money(amount, "USD")


def assert_books_balance(ts: Tallystick) -> None:
    """Assert that what the ledger has posted of each transaction and unit sums to zero, and that nothing drifted."""
    entries = tables.ledger_entries.c
    by_transaction = select(func.sum(entries.amount)).group_by(entries.transaction_id, entries.unit)
    sums = ts._engine.read(lambda connection: connection.execute(by_transaction).scalars().all())
    assert not any(sums)
    assert_healthy(ts)


def lowest_balance(ts: Tallystick, billable: str = BILLABLE) -> Money:
    """Return the lowest balance that was ever posted."""
    lines = tables.credit_transactions.c
    query = select(func.min(lines.balance_after)).where(lines.billable == billable)
    return Money.from_nanos(ts._engine.read(lambda connection: connection.execute(query).scalar_one()), "USD")


def test_64_threads_deduct_exactly_what_there_is(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("40.00")
    wallet.add_credits("60.00", "promotion", priority=10)

    def deduct(_: int) -> list[Any]:
        # 64 × 25 is more than there is.
        return [_tried(lambda: wallet.deduct_credits("0.07")) for _ in range(25)]

    outcomes = [one for several in in_threads(64, deduct) for one in several]
    assert len(outcomes) == 1_600
    refused = errors_of(outcomes, CreditsInsufficient)
    assert len(outcomes) - len(refused) == 1_428
    assert {(one.balance, one.required) for one in refused} == {(usd("0.04"), usd("0.07"))}
    assert wallet.balance == wallet.available == usd("0.04")
    assert lowest_balance(ts) == usd("0.04")
    assert_books_balance(ts)


def test_4_processes_deduct_exactly_what_there_is(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("100.00")
        found = run_in_processes(4, deduct_until_empty, database_url, 16, "0.07", CONTEXT.Barrier(4))
        assert [unexpected for _, unexpected in found] == [[]] * 4
        assert sum(succeeded for succeeded, _ in found) == 1_428
        assert wallet.balance == usd("0.04")
        assert lowest_balance(ts) == usd("0.04")
        assert len(wallet.transactions(limit=10_000, source="deduction")) == 1_428
        assert_books_balance(ts)


def test_64_threads_use_exactly_the_allowance_and_every_grant(ts: Tallystick) -> None:
    _give_uses(ts)
    outcomes = [
        one
        for several in in_threads(64, lambda _: [_tried(lambda: ts.features.use(BILLABLE, FEATURE)) for _ in range(20)])
        for one in several
    ]
    refused = errors_of(outcomes, FeatureLimitExceeded)
    assert (len(outcomes), len(outcomes) - len(refused)) == (1_280, 1_040)
    _assert_used_up(ts)
    uses = [one for one in outcomes if not isinstance(one, BaseException)]
    assert sum(use.from_credits for use in uses) == 40
    assert sum(use.from_plan for use in uses) == 1_000


def test_4_processes_use_exactly_the_allowance_and_every_grant(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        _give_uses(ts)
        found = run_in_processes(4, use_until_empty, database_url, 16, CONTEXT.Barrier(4))
        assert [unexpected for _, unexpected in found] == [[]] * 4
        assert sum(succeeded for succeeded, _ in found) == 1_040
        _assert_used_up(ts)


def _give_uses(ts: Tallystick) -> None:
    subscribe(ts, features={FEATURE: {"value": 1_000, "reset": "never"}})
    for credits in (10, 25, 5):
        ts.features.grant_credits(BILLABLE, FEATURE, credits, "referral")


def _assert_used_up(ts: Tallystick) -> None:
    stats = ts.features.credit_stats(BILLABLE, FEATURE)
    assert (stats.plan_used, stats.extra_used, stats.used, stats.remaining) == (1_000, 40, 1_040, 0)
    assert ts.features.remaining(BILLABLE, FEATURE) == 0
    assert not ts.features.can_use(BILLABLE, FEATURE)
    assert [grant.status for grant in ts.features.credits(BILLABLE, FEATURE, include_closed=True)] == ["spent"] * 3
    assert_books_balance(ts)


def test_of_200_threads_exactly_as_many_calls_are_made_as_are_paid_for(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("10.00")
    provider = CountingProvider(seconds=0.005)
    outcomes = in_threads(200, lambda _: _on_credits(ts).call(provider))
    refused = errors_of(outcomes, CreditsInsufficient)
    assert (provider.calls, len(refused)) == (100, 100)
    assert (wallet.balance, wallet.held) == (usd("0"), usd("0"))
    assert_books_balance(ts)
    assert_healthy(ts, open_holds=0)


def test_of_200_threads_in_2_processes_exactly_as_many_calls_are_made_as_are_paid_for(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("10.00")
        calls = CONTEXT.Value("i", 0)
        found = run_in_processes(2, call_on_credits, database_url, 100, calls, CONTEXT.Barrier(2))
        assert [unexpected for _, unexpected in found] == [[]] * 2
        assert (calls.value, sum(refused for refused, _ in found)) == (100, 100)
        assert (wallet.balance, wallet.held) == (usd("0"), usd("0"))
        assert_books_balance(ts)
        assert_healthy(ts, open_holds=0)


def test_of_200_tasks_exactly_as_many_calls_are_made_as_are_paid_for(database_url: str) -> None:
    provider_calls = 0

    async def provider() -> str:
        nonlocal provider_calls
        provider_calls += 1
        await asyncio.sleep(0.002)
        return "answer"

    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            wallet = await ts.wallets.get_or_create(BILLABLE)
            await wallet.add_credits("10.00")
            meter = ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")
            meter = meter.with_manual_usage(input_tokens=1, total_cost=TEN_CENTS).estimate(cost=TEN_CENTS)
            outcomes = await asyncio.gather(*(meter.call(provider) for _ in range(200)), return_exceptions=True)
            assert len(errors_of(list(outcomes), CreditsInsufficient)) == 100
            assert provider_calls == 100
            assert (await wallet.balance, await wallet.held) == (usd("0"), usd("0"))
            assert_books_balance(ts.sync)
            assert_healthy(ts.sync, open_holds=0)

    asyncio.run(main())


def test_a_users_cap_admits_exactly_as_many_calls_as_it_pays_for(ts: Tallystick) -> None:
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("100.00")
    pool.set_cap("1.00", period="daily")
    provider = CountingProvider(seconds=0.005)

    def call(index: int) -> object:
        meter = ts.meter.billable("tenant:acme").for_user(f"user:{index % 3}").using_provider("manual", "model")
        meter = meter.billing_mode("credits").with_manual_usage(input_tokens=1, total_cost=TEN_CENTS)
        return meter.estimate(cost=TEN_CENTS).call(provider)

    outcomes = in_threads(90, call)
    refused = errors_of(outcomes, LimitExceeded)
    assert (provider.calls, len(refused)) == (30, 60)
    assert {one.limit_type for one in refused} == {"credit_cap"}
    assert (pool.balance, pool.held) == (usd("97.00"), usd("0"))
    outcomes = in_threads(30, lambda _: pool.deduct_credits("0.30", user="user:9"))
    assert len(errors_of(outcomes, LimitExceeded)) == 27
    assert pool.balance == usd("96.10")
    assert_books_balance(ts)


def test_a_grant_for_so_much_a_day_gives_exactly_that(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("10.00", "promotion", limit="1.00", limit_period="daily", priority=1)
    provider = CountingProvider(seconds=0.005)
    outcomes = in_threads(
        40, lambda index: wallet.deduct_credits("0.10") if index % 2 else _on_credits(ts).call(provider)
    )
    assert len(errors_of(outcomes, CreditsInsufficient)) == 30
    assert wallet.balance == usd("9.00")
    assert_books_balance(ts)


def test_calls_deductions_and_grants_at_once_spend_exactly_what_was_added(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("1.00")
    provider = CountingProvider()

    def work(index: int) -> dict[str, int]:
        done: dict[str, int] = defaultdict(int)
        for _ in range(10):
            if index % 3 == 0 and not isinstance(_tried(lambda: wallet.add_credits("0.20")), BaseException):
                done["added"] += 20
            if index % 3 == 1 and not isinstance(_tried(lambda: wallet.deduct_credits("0.10")), BaseException):
                done["deducted"] += 10
            if index % 3 == 2 and not isinstance(_tried(lambda: _on_credits(ts).call(provider)), BaseException):
                done["called"] += 10
        return done

    sums: dict[str, int] = defaultdict(int)
    for done in in_threads(24, work):
        for name, cents in done.items():
            sums[name] += cents
    assert sums["added"] == 8 * 10 * 20
    assert provider.calls * 10 == sums["called"]
    left = 100 + sums["added"] - sums["deducted"] - sums["called"]
    assert wallet.balance == wallet.available == Money.from_nanos(left * 10_000_000, "USD")
    assert lowest_balance(ts) >= usd("0")
    assert_books_balance(ts)


def test_transfers_in_both_directions_neither_lock_each_other_nor_lose_anything(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        for number, amount in enumerate(("5.00", "3.00", "2.00"), start=1):
            wallet = ts.wallets.get_or_create(f"user:{number}")
            wallet.add_credits(amount, expires_at=None if number == 1 else "2100-01-01")
        found = run_in_processes(2, transfer_back_and_forth, database_url, 9, 12, CONTEXT.Barrier(2))
        assert found == [[]] * 2
        wallets = [ts.wallets.get(f"user:{number}") for number in (1, 2, 3)]
        assert sum((one.balance for one in wallets), usd("0")) == usd("10.00")
        assert all(lowest_balance(ts, one.billable) >= usd("0") for one in wallets)
        assert_books_balance(ts)


def test_transfers_to_wallets_that_do_not_exist_yet_make_each_once(ts: Tallystick) -> None:
    source = ts.wallets.get_or_create("user:0")
    source.add_credits("10.00")
    # Every one of them is given to from several sides at the same moment, and gives to the next.
    outcomes = in_threads(24, lambda index: ts.wallets.transfer("user:0", f"user:{1 + index % 4}", "0.25"))
    assert errors_of(outcomes, CreditsInsufficient) == []
    assert [ts.wallets.get(f"user:{number}").balance for number in range(5)] == [usd("4.00")] + [usd("1.50")] * 4
    assert_books_balance(ts)


def test_one_key_deducts_once_from_50_threads(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("10")
    outcomes = in_threads(50, lambda _: wallet.deduct_credits("4", idempotency_key="order-1"))
    assert len({one.id for one in outcomes}) == 1
    assert sorted(one.replayed for one in outcomes) == [False] + [True] * 49
    assert wallet.balance == usd("6")
    assert_books_balance(ts)


def test_one_key_deducts_once_from_2_processes(database_url: str) -> None:
    with Tallystick(database_url) as ts:
        wallet = ts.wallets.get_or_create(BILLABLE)
        wallet.add_credits("10")
        found = run_in_processes(2, deduct_with_one_key, database_url, 25, CONTEXT.Barrier(2))
        answers = [one for several in found for one in several]
        assert len({transaction_id for transaction_id, _, _ in answers}) == 1
        assert sorted(replayed for _, replayed, _ in answers) == [False] + [True] * 49
        assert wallet.balance == usd("6")
        assert_books_balance(ts)


def _on_credits(ts: Tallystick) -> Meter:
    meter = ts.meter.billable(BILLABLE).using_provider("manual", "model").billing_mode("credits")
    return meter.with_manual_usage(input_tokens=1, total_cost=TEN_CENTS).estimate(cost=TEN_CENTS)


def _tried(work: Callable[[], object]) -> Any:
    """Return what it answers, or its refusal."""
    try:
        return work()
    except (CreditsInsufficient, FeatureLimitExceeded) as refusal:
        return refusal
