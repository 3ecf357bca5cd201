"""What goes back never exceeds what was taken, however it is asked for, and whatever became of it meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.credits.wallets import Wallet
from tallystick.errors import Conflict, CreditsInsufficient, InvalidInput, TallystickError
from tallystick.money import Money
from tests.acceptance.accounts import BILLABLE, assert_healthy, errors_of, in_threads


def usd(amount: str) -> Money:
    return Money(amount, "USD")


@pytest.fixture
def ts(database_url: str, clock: FixedClock) -> Any:
    """An engine that lets wallets go below zero."""
    with Tallystick(database_url, clock=clock, billing={"credit_overdraft_allowed": True}) as engine:
        yield engine


@pytest.fixture
def wallet(ts: Tallystick) -> Wallet:
    return ts.wallets.get_or_create(BILLABLE)


def refund_all(wallet: Wallet, transaction_id: str, amount: str) -> Money:
    """Ask for an amount back until it is refused. Return what came back in all."""
    back = usd("0")
    for _ in range(20):
        try:
            back += wallet.refund(transaction_id, amount).amount  # type: ignore[operator]  # it is a wallet's
        except (Conflict, InvalidInput):
            return back
    raise AssertionError("it was given back for ever")


def test_debt_that_was_paid_meanwhile_comes_back_once(ts: Tallystick, wallet: Wallet) -> None:
    charge = wallet.deduct_credits("10")
    wallet.add_credits("10")
    assert wallet.balance == usd("0")
    assert refund_all(wallet, charge.id, "2.50") == usd("10")
    assert (wallet.balance, wallet.paid, wallet.overdraft) == (usd("10"), usd("10"), usd("0"))
    assert_healthy(ts)


def test_a_refund_that_pays_another_debt_counts_in_full(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    charge = wallet.deduct_credits("10")
    wallet.deduct_credits("5")
    assert refund_all(wallet, charge.id, "2") == usd("10")
    assert wallet.balance == usd("5")
    assert_healthy(ts)


def test_a_refund_of_grants_and_of_debt_takes_nothing_twice(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("4", "promotion", priority=1)
    wallet.add_credits("3")
    charge = wallet.deduct_credits("12")
    assert wallet.balance == usd("-5")
    wallet.add_credits("2")
    assert refund_all(wallet, charge.id, "1.50") == usd("12")
    wallet.add_credits("1")
    assert wallet.balance == usd("10")
    with pytest.raises(Conflict):
        wallet.refund(charge.id)
    assert_healthy(ts)


def test_refunds_at_once_give_back_no_more_than_one_after_the_other(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("3")
    charge = wallet.deduct_credits("10")
    wallet.deduct_credits("5")
    outcomes = in_threads(30, lambda _: wallet.refund(charge.id, "0.50"))
    assert len(errors_of(outcomes, TallystickError)) == 10
    assert wallet.balance == usd("-2")
    assert_healthy(ts)


def test_a_reversal_that_pays_a_debt_is_made_once(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    sent = wallet.transfer("user:2", "10")
    wallet.deduct_credits("4")
    ts.ledger.reverse(sent.id, "mistake")
    assert (wallet.balance, ts.wallets.get("user:2").balance) == (usd("6"), usd("0"))
    lines = len(wallet.transactions())
    with pytest.raises(Conflict):
        ts.ledger.reverse(sent.id, "mistake")
    assert len(wallet.transactions()) == lines
    assert_healthy(ts)


def test_a_grant_that_paid_a_debt_is_reversed_with_it(ts: Tallystick, wallet: Wallet) -> None:
    wallet.deduct_credits("4")
    added = wallet.add_credits("10", "promotion")
    ts.ledger.reverse(added.id, "mistake")
    assert (wallet.balance, wallet.overdraft, wallet.promotional) == (usd("-4"), usd("-4"), usd("0"))
    accounts = ts.ledger.accounts(BILLABLE)
    assert (accounts["revenue"], accounts["spent"], accounts["granted"]) == (usd("4"), usd("0"), usd("0"))
    with pytest.raises(Conflict):
        ts.ledger.reverse(added.id, "mistake")
    assert_healthy(ts)


def test_credits_for_one_use_or_so_many_a_day_cannot_be_moved_out_of_it(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", limit="2", limit_period="daily")
    wallet.add_credits("10", feature="chat")
    wallet.add_credits("1")
    with pytest.raises(CreditsInsufficient):
        wallet.transfer("user:2", "1.01")
    wallet.transfer("user:2", "1")
    assert wallet.balance == usd("20")
    assert_healthy(ts)


def test_debt_is_paid_by_what_expires_before_it_is_lost(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    wallet.add_credits("10", priority=1)
    wallet.add_credits("10", priority=2, expires_at="2026-01-15T13:00:00Z")
    hold = ts.meter.billable(BILLABLE).using_provider("manual", "m").billing_mode("credits").hold(cost=usd("20"))
    ts.usage.record(billable=BILLABLE, input_tokens=1, total_cost=usd("5"), billing_mode="credits")
    hold.void()
    assert (wallet.balance, wallet.overdraft) == (usd("15"), usd("-5"))
    clock.set("2026-01-15T13:00:00Z")
    assert (wallet.balance, wallet.overdraft) == (usd("10"), usd("0"))
    ts.credits.expire()
    assert (wallet.balance, wallet.overdraft) == (usd("10"), usd("0"))
    assert_healthy(ts)
