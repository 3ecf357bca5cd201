"""The doctor knows every number of credits: nothing is amiss whatever was done, and each that is changed is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tallystick import FixedClock, Tallystick
from tallystick.doctor import Finding
from tests.acceptance.accounts import assert_healthy
from tests.values import money


@pytest.fixture
def books(database_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    """Credits of every kind at work: wallets, grants, holds, overdraft, features, caps, limited grants, top-ups."""
    rates = {"usd_eur": "0.9"}
    with Tallystick(
        database_url, clock=clock, billing={"credit_overdraft_allowed": True, "currency_rates": rates}
    ) as ts:
        sell(ts)
        prepay(ts, clock)
        share(ts)
        use_features(ts)
        leave_open(ts)
        yield ts


def spend(ts: Tallystick, billable: str, cost: str, **details: Any) -> None:
    ts.usage.record(billable=billable, input_tokens=10, total_cost=money(cost), billing_mode="credits", **details)


def sell(ts: Tallystick) -> None:
    ts.plans.create("pro", monthly_token_limit=1_000, features={"api-calls": {"value": 5, "reset": "daily"}})
    ts.subscriptions.create("user:1", "pro", billing_mode="credits")
    ts.subscriptions.create("user:2", "pro")
    ts.usage.record(billable="user:2", input_tokens=100, total_cost=money("1 USD"))


def prepay(ts: Tallystick, clock: FixedClock) -> None:
    """Add to user:1's wallet, use it up and beyond, and give back, move, reverse, revoke and lose some of it."""
    wallet = ts.wallets.get_or_create("user:1")
    wallet.set_auto_top_up(below="1", amount="20")
    wallet.add_credits("10")
    promotion = wallet.add_credits("5", "promotion", expires_at="2026-01-16", granted_by="user:9")
    wallet.add_credits("3", "goodwill", limit="1", limit_period="daily", priority=0)
    deduction = wallet.deduct_credits("4", "setup fee")
    wallet.refund(deduction.id, "1.5")
    spend(ts, "user:1", "2.5 USD")
    wallet.transfer("user:3", "1")
    ts.wallets.transfer("user:1", ts.wallets.get_or_create("user:1", "EUR"), "1")
    mistake = wallet.add_credits("100", "top-up")
    ts.ledger.reverse(mistake.id, "typing error")
    clock.advance(days=1)
    wallet.revoke(wallet.add_credits("2", "trial").grant_id or "", "trial ended")
    assert promotion.grant_id
    spend(ts, "user:1", "30 USD")
    assert [one.status for one in ts.wallets.top_ups()] == ["pending"]
    assert wallet.overdraft < money("0 USD")


def share(ts: Tallystick) -> None:
    """A pool with a cap for everybody and another for one of its users."""
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("50")
    pool.set_cap("10")
    spend(ts, "tenant:acme", "3 USD", user="user:7")
    pool.set_cap("8", user="user:8", period="daily")
    spend(ts, "tenant:acme", "4 USD", user="user:8")
    pool.deduct_credits("1", user="user:7")
    spend(ts, "tenant:acme", "5 USD")


def use_features(ts: Tallystick) -> None:
    ts.features.grant_credits("user:1", "api-calls", 3, reason="Referral bonus", expires_at="2026-02-01")
    for billable, amount in (("user:1", 2), ("user:1", "2.5"), ("user:2", 4)):
        ts.features.use(billable, "api-calls", amount)


def leave_open(ts: Tallystick) -> None:
    """Calls in flight: of a wallet with credits, of one on debt, and of a shared one."""
    for billable, member in (("user:3", None), ("user:1", None), ("tenant:acme", 7)):
        meter = ts.meter.billable(billable).using_provider("manual", "model").billing_mode("credits")
        if member is not None:
            meter = meter.for_user(member)
        meter.feature("api-calls").hold(cost=money("0.5 USD"))


def execute(ts: Tallystick, statement: str) -> int:
    """Change the books behind the lane's back. Returns how many rows were changed."""

    def change(connection: Any) -> int:
        return int(connection.execute(text(statement)).rowcount)

    return ts._engine.lane.transact(change)


def drift(ts: Tallystick) -> list[Finding]:
    return [finding for finding in ts.doctor().findings if finding.severity == "drift"]


def test_the_books_of_every_kind_of_credits_agree(books: Tallystick, clock: FixedClock) -> None:
    assert_healthy(books, open_holds=3)
    clock.advance(days=40)
    assert_healthy(books, open_holds=3)
    books.run_due_jobs()
    assert_healthy(books, open_holds=0)


def test_periods_that_begin_with_subscriptions_agree_where_one_begins_and_ends(
    database_url: str, clock: FixedClock
) -> None:
    rolling = {"alignment": "rolling"}
    with Tallystick(database_url, clock=clock, period=rolling) as ts:
        ts.plans.create("pro", features={"api-calls": {"value": 9, "reset": "weekly"}})
        wallet = ts.wallets.get_or_create("tenant:acme")
        wallet.set_cap("20")
        wallet.set_cap("20", user="user:8", period="daily")
        wallet.set_auto_top_up(below="99", amount="1")
        wallet.add_credits("100", limit="50", limit_period="daily")

        def use() -> None:
            for user in ("user:7", "user:8"):
                wallet.deduct_credits("1", user=user)
                spend(ts, "tenant:acme", "1 USD", user=user)
            ts.usage.record(billable="tenant:acme", feature="api-calls", input_tokens=1)
            assert_healthy(ts)

        use()
        clock.advance(minutes=7, microseconds=1)
        ts.subscriptions.create("tenant:acme", "pro")
        for _ in range(2):
            clock.advance(hours=13)
            use()
        clock.advance(seconds=1)
        ts.subscriptions.cancel("tenant:acme", immediately=True)
        for _ in range(2):
            clock.advance(hours=13)
            use()
        wallet.set_cap("30")
        use()
        ts.usage.delete_for("user:7")
        clock.advance(days=20)
        use()


# What is changed, how, and what the doctor then speaks of.
BREAKS: dict[str, tuple[str, set[str]]] = {
    "an entry of the ledger": (
        "UPDATE ledger_entries SET amount = amount + 1 WHERE account = 'revenue' AND billable = 'user:1'",
        {"sum of entries"},
    ),
    "an entry that is lost": (
        "DELETE FROM ledger_entries WHERE account = 'available:promotional' AND billable = 'user:1' AND amount > 0",
        {"sum of entries", "statement line", "balance", "remaining of grant"},
    ),
    "what was paid": ("UPDATE credit_accounts SET paid = paid + 1 WHERE billable = 'user:3'", {"balance"}),
    "what was given": ("UPDATE credit_accounts SET promotional = 7 WHERE billable = 'user:3'", {"balance"}),
    "a debt": ("UPDATE credit_accounts SET overdraft = overdraft - 1 WHERE billable = 'user:1'", {"balance"}),
    "a debt that is none": (
        "UPDATE credit_accounts SET overdraft = 1 WHERE billable = 'user:3'",
        {"balance", "overdraft"},
    ),
    "what an account holds": ("UPDATE credit_accounts SET held = held + 1", {"held of account"}),
    "what a grant has left": (
        "UPDATE grants SET remaining = remaining - 1 WHERE billable = 'tenant:acme'",
        {"remaining of grant"},
    ),
    "more than was granted": (
        "UPDATE grants SET remaining = amount + 1 WHERE billable = 'tenant:acme'",
        {"remaining of grant", "grant"},
    ),
    "what a grant holds": ("UPDATE grants SET held = held + 1 WHERE billable = 'tenant:acme'", {"held of grant"}),
    "more held than there is": (
        "UPDATE grants SET held = amount + 1 WHERE billable = 'tenant:acme'",
        {"held of grant", "grant"},
    ),
    "the kind of a grant": (
        "UPDATE grants SET kind = 'promotional' WHERE billable = 'tenant:acme'",
        {"remaining of grant"},
    ),
    "a hold's pins": (
        "UPDATE holds SET pins = NULL WHERE billable = 'user:3'",
        {"held of grant", "held of account"},
    ),
    "room for overdraft that a hold has pinned": (
        "UPDATE holds SET pins = NULL WHERE billable = 'user:1'",
        {"held of account"},
    ),
    "the amount of a line": (
        "UPDATE credit_transactions SET amount = amount + 1 WHERE billable = 'user:3' AND number = 1",
        {"statement line", "balance after"},
    ),
    "the balance after a line": (
        "UPDATE credit_transactions SET balance_after = balance_after + 1 WHERE billable = 'user:3' AND number = 1",
        {"balance after"},
    ),
    "a line's number": (
        "UPDATE credit_transactions SET number = 100 WHERE billable = 'user:3' AND number = 1",
        {"statement number", "statement line"},
    ),
    "a line that is lost": (
        "DELETE FROM credit_transactions WHERE billable = 'user:3' AND number = 1",
        {"statement lines", "statement line"},
    ),
    "the last number": (
        "UPDATE credit_accounts SET last_number = last_number + 1 WHERE billable = 'user:3'",
        {"statement lines"},
    ),
    "a lost account": (
        "DELETE FROM credit_accounts WHERE billable = 'tenant:acme'",
        {"statement lines", "statement number", "balance", "held of account"},
    ),
    "a counter of a feature": (
        "UPDATE counters SET used = used + 1 WHERE meter = 'feature:api-calls' AND scope = '' AND billable = 'user:2'",
        {"used"},
    ),
    "a counter of extra credits": (
        (
            "UPDATE counters SET used = used + 1 WHERE meter = 'feature:api-calls' AND scope = 'credits'"
            " AND billable = 'user:1'"
        ),
        {"used"},
    ),
    "a use of a feature": (
        "UPDATE feature_uses SET from_plan = from_plan + 1 WHERE billable = 'user:2'",
        {"used"},
    ),
    "what a use took of extra credits": (
        (
            "UPDATE feature_uses SET from_credits = from_credits + 1, from_plan = from_plan - 1 WHERE from_plan > 0"
            " AND from_credits > 0"
        ),
        {"used", "extra credits of"},
    ),
    "a use that is lost": (
        "DELETE FROM feature_uses WHERE billable = 'user:1'",
        {"used", "extra credits of"},
    ),
    "a counter of a cap": (
        "UPDATE counters SET used = used + 1 WHERE meter = 'credits:USD' AND scope = 'user:7'",
        {"used"},
    ),
    "a counter of a cap that is lost": (
        "DELETE FROM counters WHERE meter = 'credits:USD' AND scope = 'user:8'",
        {"used"},
    ),
    "whose spending it was": (
        "UPDATE credit_transactions SET user_id = 'user:7' WHERE user_id = 'user:8'",
        {"used"},
    ),
    "a counter of a limited grant": (
        "UPDATE counters SET used = used - 1 WHERE meter = 'grant' AND used > 0",
        {"used"},
    ),
    "a counter of top-ups": ("UPDATE counters SET used = used - 1 WHERE meter = 'top_up:USD'", {"used"}),
    "a top-up": ("UPDATE top_ups SET status = 'failed'", {"used"}),
    "a charge that is lost": (
        (
            "DELETE FROM ledger_entries WHERE transaction_id IN"
            " (SELECT id FROM credit_transactions WHERE source = 'usage' AND billable = 'tenant:acme' AND unit = 'USD')"
        ),
        {"charge", "statement line", "balance", "remaining of grant"},
    ),
    "what an event cost": (
        "UPDATE usage_events SET total_cost = total_cost + 1 WHERE billable = 'tenant:acme'",
        {"charge", "cost", "hour"},
    ),
    "more given back than was taken": (
        ("UPDATE credit_transactions SET amount = 9 * amount WHERE source = 'refund' AND billable = 'user:1'"),
        {"refunds", "statement line", "balance after"},
    ),
    "how an event is paid": (
        "UPDATE usage_events SET billing_mode = 'plan' WHERE billable = 'tenant:acme'",
        {"charge", "used"},
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_each_number_that_is_changed_is_found(books: Tallystick, broken: str) -> None:
    statement, kinds = BREAKS[broken]
    assert execute(books, statement) > 0
    found = drift(books)
    assert {finding.kind for finding in found} == kinds, "\n" + "\n".join(map(str, found))


def test_a_cap_that_is_set_again_is_counted_anew(books: Tallystick) -> None:
    execute(books, "UPDATE counters SET used = 0 WHERE meter = 'credits:USD'")
    assert {finding.remedy for finding in drift(books)} == {"Set the cap again: it is then counted anew."}
    pool = books.wallets.get("tenant:acme")
    for cap in pool.caps():
        pool.set_cap(cap.amount, user=cap.user, period=cap.period)
    assert_healthy(books)
