"""The ledger as auditors read it: entries that sum to zero, accounts that prove balances, and reversals."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.credits.ledger import ACCOUNTS, BALANCE_ACCOUNTS
from tallystick.credits.wallets import Wallet
from tallystick.errors import Conflict, CreditsInsufficient, InvalidInput, NotFound
from tallystick.money import Money
from tests.acceptance.accounts import assert_healthy
from tests.values import money


@pytest.fixture
def wallet(ts: Tallystick) -> Wallet:
    return ts.wallets.get_or_create("user:1")


def posted(ts: Tallystick, transaction_id: str) -> list[tuple[str, str, str]]:
    return [(entry.billable, entry.account, str(entry.amount)) for entry in ts.ledger.entries(transaction_id)]


def sums(ts: Tallystick, billable: str = "user:1") -> dict[str, str]:
    """Return the accounts of a wallet that are not zero."""
    return {name: str(amount) for name, amount in ts.ledger.accounts(billable).items() if amount}


def test_adding_and_using_paid_credits_is_money_received_and_then_revenue(ts: Tallystick, wallet: Wallet) -> None:
    added = wallet.add_credits("10", "payment")
    assert posted(ts, added.id) == [
        ("user:1", "received", "-10.00 USD"),
        ("user:1", "available:paid", "10.00 USD"),
    ]
    taken = wallet.deduct_credits("4")
    assert posted(ts, taken.id) == [("user:1", "available:paid", "-4.00 USD"), ("user:1", "revenue", "4.00 USD")]
    assert sums(ts) == {"received": "-10.00 USD", "available:paid": "6.00 USD", "revenue": "4.00 USD"}


def test_using_promotional_credits_is_no_revenue(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", "promotion")
    wallet.deduct_credits("4")
    assert sums(ts) == {"granted": "-10.00 USD", "available:promotional": "6.00 USD", "spent": "4.00 USD"}


def test_every_account_is_shown_also_those_that_are_empty(ts: Tallystick, wallet: Wallet) -> None:
    found = ts.ledger.accounts(("user", 1), "usd")
    assert list(found) == [*ACCOUNTS, "held"]
    assert set(found.values()) == {money("0 USD")}
    wallet.add_credits("10")
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    with meter.hold(cost=money("3 USD")):
        assert ts.ledger.accounts("user:1")["held"] == money("3 USD")
    with pytest.raises(NotFound):
        ts.ledger.accounts("user:1", "EUR")
    with pytest.raises(InvalidInput):
        ts.ledger.accounts("user:1", "dollars")


def test_the_credits_of_a_feature_have_a_ledger_of_their_own(ts: Tallystick) -> None:
    ts.plans.create("pro", features={"api-calls": 10})
    ts.subscriptions.create("user:1", "pro")
    ts.features.grant_credits("user:1", "api-calls", 5)
    ts.features.use("user:1", "api-calls", 8)
    accounts = ts.ledger.accounts("user:1", "feature:api-calls")
    assert {name: amount for name, amount in accounts.items() if amount} == {"granted": -5, "spent": 5}


def test_an_entry_says_where_it_stands_and_which_grant_it_moved(ts: Tallystick, wallet: Wallet) -> None:
    added = wallet.add_credits("10")
    _, entry = ts.ledger.entries(added.id)
    assert (entry.transaction_id, entry.position, entry.unit, entry.statement_number) == (added.id, 1, "USD", 1)
    assert (entry.grant_id, entry.created_at) == (added.grant_id, added.created_at)
    for ask in (ts.ledger.entries, ts.ledger.transaction):
        with pytest.raises(NotFound):
            ask("txn_none")


def test_a_transfer_is_one_transaction_on_two_statements(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    sent = wallet.transfer("user:2", "4")
    assert posted(ts, sent.id) == [
        ("user:1", "available:paid", "-4.00 USD"),
        ("user:2", "available:paid", "4.00 USD"),
    ]
    received = ts.wallets.get("user:2").transaction(sent.id)
    assert (received.id, received.type, received.balance_after) == (sent.id, "credit", money("4 USD"))
    assert ts.ledger.transaction(sent.id) == sent


def test_a_transfer_between_currencies_balances_in_each(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency_rates": {"usd_eur": "0.9"}}) as ts:
        dollars, euros = ts.wallets.get_or_create("user:1"), ts.wallets.get_or_create("user:1", "EUR")
        dollars.add_credits("10")
        sent = dollars.transfer(euros, "5")
        assert (sent.source, dollars.balance, euros.balance) == ("exchange", money("5 USD"), money("4.50 EUR"))
        assert sum(entry.amount for entry in ts.ledger.entries(sent.id) if entry.unit == "USD") == money("0 USD")
        assert ts.ledger.accounts("user:1", "EUR")["exchange"] == money("-4.50 EUR")
        assert_healthy(ts)


def test_reversing_a_grant_takes_all_of_it_back(ts: Tallystick, wallet: Wallet) -> None:
    added = wallet.add_credits("1000", "payment")
    reversal = ts.ledger.reverse(added.id, "typing error")
    assert (reversal.source, reversal.reason, reversal.reverses_id) == ("reversal", "typing error", added.id)
    assert wallet.balance.is_zero
    assert sums(ts) == {}
    assert [grant.status for grant in wallet.grants(include_closed=True)] == ["revoked"]
    with pytest.raises(Conflict):
        ts.ledger.reverse(added.id, "again")
    assert_healthy(ts)


def test_a_grant_of_which_some_was_used_is_not_reversed(ts: Tallystick, wallet: Wallet) -> None:
    added = wallet.add_credits("10")
    wallet.deduct_credits("1")
    with pytest.raises(Conflict):
        ts.ledger.reverse(added.id, "too late")
    assert wallet.balance == money("9 USD")
    assert_healthy(ts)


def test_reversing_a_deduction_gives_it_back_to_its_grants(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", "payment")
    wallet.add_credits("5", "promotion", priority=1)
    taken = wallet.deduct_credits("8")
    back = ts.ledger.reverse(taken.id, "not delivered")
    assert (back.amount, back.reverses_id) == (money("8 USD"), taken.id)
    assert (wallet.paid, wallet.promotional) == (money("10 USD"), money("5 USD"))
    assert_healthy(ts)


def test_reversing_a_transfer_brings_it_home(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    sent = wallet.transfer("user:2", "4")
    ts.ledger.reverse(sent.id, "wrong person")
    assert (wallet.balance, ts.wallets.get("user:2").balance) == (money("10 USD"), money("0 USD"))
    assert_healthy(ts)


def test_the_use_of_a_feature_is_a_fact_and_is_not_reversed(ts: Tallystick) -> None:
    ts.plans.create("pro", features={"api-calls": 10})
    ts.features.grant_credits("user:1", "api-calls", 5)
    use = ts.features.use("user:1", "api-calls", 2)
    with pytest.raises(InvalidInput):
        ts.ledger.reverse("txn_" + use.usage_event_id.removeprefix("evt_"), "it was not me")
    assert ts.features.extra_credits("user:1", "api-calls") == 3


def test_an_expiry_is_a_fact_and_is_not_reversed(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    wallet.add_credits("5", "trial", expires_at="2026-01-20")
    clock.set("2026-01-20")
    ts.credits.expire()
    with pytest.raises(InvalidInput):
        ts.ledger.reverse(wallet.transactions(source="expiry")[0].id, "please")
    assert wallet.balance.is_zero


def total(accounts: dict[str, Any], names: tuple[str, ...]) -> Money:
    return sum((accounts[name] for name in names), money("0 USD"))


NUMBERS = count(1)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "promote", "expiring", "deduct", "refund", "transfer", "wait", "revoke"]),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_balances_are_what_the_ledger_proves_after_any_steps(sqlite_url: str, steps: list[tuple[str, int]]) -> None:
    clock = FixedClock("2026-01-15T12:00:00Z")
    name = f"user:{next(NUMBERS)}"
    with Tallystick(sqlite_url, clock=clock) as ts:
        wallet, friend = ts.wallets.get_or_create(name), ts.wallets.get_or_create(f"{name}-friend")
        for step, amount in steps:
            _take(wallet, friend, clock, step, amount)
        # Reading is right before anything that has lapsed is posted, and posting changes nothing of it.
        read = (wallet.balance, wallet.paid, wallet.promotional, wallet.overdraft, wallet.available)
        ts.credits.expire()
        assert (wallet.balance, wallet.paid, wallet.promotional, wallet.overdraft, wallet.available) == read
        accounts = ts.ledger.accounts(name)
        assert total(accounts, BALANCE_ACCOUNTS) == wallet.balance
        # What went to a friend is there.
        theirs = ts.ledger.accounts(friend.billable)
        assert total(accounts, ACCOUNTS) + total(theirs, ACCOUNTS) == money("0 USD")
        lines = wallet.transactions(limit=1000)
        left: list[Any] = [grant.remaining for grant in wallet.grants()]
        moved: list[Any] = [line.signed_amount for line in lines]
        assert sum(left, money("0 USD")) == sum(moved, money("0 USD")) == wallet.balance
        assert [line.number for line in lines] == list(range(len(lines), 0, -1))
        assert_healthy(ts)


def _take(wallet: Wallet, friend: Wallet, clock: FixedClock, step: str, amount: int) -> None:
    here: dict[str, Any] = {
        "add": lambda: wallet.add_credits(amount, "payment"),
        "promote": lambda: wallet.add_credits(amount, "promotion", priority=amount),
        "expiring": lambda: wallet.add_credits(amount, "trial", expires_at=clock.now() + timedelta(days=10 * amount)),
        "deduct": lambda: wallet.deduct_credits(Money.from_nanos(amount * 300_000_001)),
        "refund": lambda: wallet.refund(wallet.transactions(source="deduction")[0].id),
        "transfer": lambda: wallet.transfer(friend, amount),
        "wait": lambda: clock.advance(days=amount * 20),
        "revoke": lambda: wallet.revoke(wallet.grants()[0].id, "chargeback"),
    }
    try:
        here[step]()
    except (CreditsInsufficient, Conflict, IndexError):
        return
