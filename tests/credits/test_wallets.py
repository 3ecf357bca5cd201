"""Wallets at work: credits added and used, in which order they burn, when they expire, and what a wallet is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Money, Tallystick
from tallystick.credits.wallets import Wallet
from tallystick.errors import (
    Conflict,
    CreditsInsufficient,
    CurrencyMismatch,
    IdempotencyConflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    TallystickError,
)
from tallystick.events import (
    CreditsAdded,
    CreditsDeducted,
    CreditsExpired,
    CreditsExpiring,
    CreditsLow,
    Event,
    TopUpRequested,
)
from tests.acceptance.accounts import assert_healthy, errors_of, in_threads
from tests.metering.test_repricing import priced
from tests.values import money


@pytest.fixture
def wallet(ts: Tallystick) -> Wallet:
    return ts.wallets.get_or_create("user:1")


def balances(wallet: Wallet) -> tuple[str, str, str]:
    return str(wallet.balance), str(wallet.paid), str(wallet.promotional)


def heard(ts: Tallystick, *kinds: type[Event]) -> list[Any]:
    """Return a list that fills with the events of some classes."""
    events: list[Any] = []
    for kind in kinds:
        ts.on(kind)(events.append)
    return events


def spend(ts: Tallystick, cost: str, billable: str = "user:1", feature: str = "", **extra: Any) -> Any:
    """Make a call in credits mode that costs so much."""
    meter = ts.meter.billable(billable).using_provider("manual", "model").billing_mode("credits")
    if feature:
        meter = meter.feature(feature)
    if "user" in extra:
        meter = meter.for_user(extra["user"])
    return meter.with_manual_usage(input_tokens=10, total_cost=money(f"{cost} USD")).call(lambda: "answer")


# -- making wallets ---------------------------------------------------------------------------------------------------


def test_a_wallet_is_made_once_and_found_again(ts: Tallystick) -> None:
    first = ts.wallets.get_or_create("user:1")
    assert first.id.startswith("wal_")
    assert (first.billable, first.currency, str(first.balance)) == ("user:1", "USD", "0.00 USD")
    assert ts.wallets.get_or_create("user:1").id == ts.wallets.get("user:1").id == first.id
    assert [one.id for one in ts.wallets.list()] == [first.id]


def test_a_billable_has_a_wallet_for_each_currency(ts: Tallystick) -> None:
    ts.wallets.get_or_create(("user", 1), currency="eur").add_credits("5")
    ts.wallets.get_or_create("user:1").add_credits("7")
    ts.wallets.get_or_create("user:2")
    assert [(one.currency, str(one.balance)) for one in ts.wallets.list("user:1")] == [
        ("EUR", "5.00 EUR"),
        ("USD", "7.00 USD"),
    ]
    assert len(ts.wallets.list()) == 3


def test_a_wallet_that_was_never_made_is_not_found(ts: Tallystick) -> None:
    with pytest.raises(NotFound):
        ts.wallets.get("user:1")
    ts.wallets.get_or_create("user:1")
    with pytest.raises(NotFound):
        ts.wallets.get("user:1", "EUR")
    with pytest.raises(InvalidInput):
        ts.wallets.get_or_create("user:1", "dollars")


def test_the_settings_currency_is_the_one_of_a_wallet_that_names_none(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency": "EUR"}) as ts:
        assert ts.wallets.get_or_create("user:1").currency == "EUR"


# -- adding and deducting ---------------------------------------------------------------------------------------------


def test_adding_credits_raises_the_balance_and_says_why(ts: Tallystick, wallet: Wallet) -> None:
    added = wallet.add_credits("100.00", "top-up", {"payment_id": "pay_123", "payment_method": "stripe"})
    assert (added.type, added.source, added.reason) == ("credit", "grant", "top-up")
    assert (added.amount, added.balance_after) == (money("100 USD"), money("100 USD"))
    assert added.meta == {"payment_id": "pay_123", "payment_method": "stripe"}
    assert (added.number, added.billable, added.currency) == (1, "user:1", "USD")
    assert balances(wallet) == ("100.00 USD", "100.00 USD", "0.00 USD")
    assert [grant.id for grant in wallet.grants()] == [added.grant_id]
    assert_healthy(ts)


def test_deducting_credits_lowers_the_balance_and_says_why(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits(100)
    taken = wallet.deduct_credits(Decimal("50.00"), "usage", {"usage_id": 7, "feature": "chat"})
    assert (taken.type, taken.source, taken.reason) == ("debit", "deduction", "usage")
    assert (taken.amount, taken.balance_after) == (money("50 USD"), money("50 USD"))
    assert taken.signed_amount == money("-50 USD")
    assert taken.meta == {"usage_id": 7, "feature": "chat"}
    assert wallet.balance == money("50 USD")
    assert_healthy(ts)


def test_more_than_there_is_cannot_be_deducted(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("1.00")
    with pytest.raises(CreditsInsufficient) as refused:
        wallet.deduct_credits("1.01")
    assert (refused.value.balance, refused.value.required) == (money("1 USD"), money("1.01 USD"))
    assert refused.value.billable == "user:1"
    assert wallet.balance == money("1 USD")
    assert len(wallet.transactions()) == 1
    assert_healthy(ts)


def test_a_billionth_is_neither_lost_nor_rounded(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("0.000000007")
    for _ in range(6):
        wallet.deduct_credits("0.000000001")
    assert wallet.balance == money("0.000000001 USD")
    wallet.deduct_credits("0.000000001")
    assert wallet.balance.is_zero
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("0.000000001")
    assert_healthy(ts)


@pytest.mark.parametrize("amount", [0, -1, "0", "-0.01", 1.0, True, "ten", None, "NaN", "1e400", "0.0000000001"])
def test_an_amount_that_is_no_exact_amount_above_zero_is_refused(ts: Tallystick, amount: Any) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits("10")
    for change in (wallet.add_credits, wallet.deduct_credits):
        with pytest.raises(InvalidInput) as refused:
            change(amount)
        assert refused.value.field == "amount"
    assert wallet.balance == money("10 USD")


def test_more_than_the_settings_allow_at_once_is_refused(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, credits={"money_grant_max": "100.50"}) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("100.50")
        with pytest.raises(InvalidInput, match="money_grant_max"):
            wallet.add_credits("100.500000001")
        assert wallet.balance == money("100.50 USD")


@pytest.mark.parametrize(
    ("field", "stated"),
    [
        ("reason", {"reason": ""}),
        ("reason", {"reason": "a" * 201}),
        ("reason", {"reason": "line\nbreak"}),
        ("expires_at", {"expires_at": "2026-01-15T12:00:00Z"}),
        ("expires_at", {"expires_at": "2026-01-15T11:00:00"}),
        ("priority", {"priority": 101}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": True}),
        ("kind", {"kind": "free"}),
        ("limit_period", {"limit": "1"}),
        ("limit_period", {"limit": "1", "limit_period": "monthly"}),
        ("limit", {"limit": 1.5, "limit_period": "daily"}),
        ("metadata.x", {"meta": {"x": object()}}),
        ("granted_by", {"granted_by": "a" * 300}),
        ("feature", {"feature": "two words"}),
        ("idempotency_key", {"idempotency_key": ""}),
    ],
)
def test_a_grant_that_cannot_be_is_refused_and_says_which_field(
    ts: Tallystick, field: str, stated: dict[str, Any]
) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    with pytest.raises(InvalidInput) as refused:
        wallet.add_credits("1", **stated)
    assert refused.value.field == field
    assert wallet.balance.is_zero


def test_what_cannot_be_done_changes_nothing_even_for_many_at_once(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    outcomes = in_threads(16, lambda _: wallet.deduct_credits("1"))
    assert len(errors_of(outcomes, CreditsInsufficient)) == 6
    assert wallet.balance.is_zero
    assert sorted(line.number for line in wallet.transactions()) == list(range(1, 12))
    assert_healthy(ts)


# -- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("top-up", "paid"),
        ("stripe_payment", "paid"),
        ("refund", "paid"),
        ("our own word", "paid"),
        ("admin_grant", "promotional"),
        ("Referral bonus", "promotional"),
        ("promotion", "promotional"),
        ("loyalty", "promotional"),
    ],
)
def test_a_reason_says_whether_credits_were_paid_for(ts: Tallystick, reason: str, kind: str) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits("50.00", reason, {"admin_id": 1}, granted_by="admin:1")
    [grant] = wallet.grants()
    assert (grant.kind, grant.reason, grant.granted_by) == (kind, reason, "admin:1")
    assert ts.ledger.accounts("user:1")["received" if kind == "paid" else "granted"] == money("-50 USD")


def test_settings_give_a_reason_its_kind_priority_and_expiry(database_url: str, clock: FixedClock) -> None:
    reasons = {"beta-tester": {"kind": "promotional", "priority": 7, "expires_after_days": 30}}
    with Tallystick(database_url, clock=clock, credits={"reasons": reasons, "default_priority": 60}) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("5", "Beta tester")
        wallet.add_credits("5", "top-up")
        stated = wallet.add_credits("5", "beta_tester", kind="paid", priority=1, expires_at="2026-01-16")
        first, second, third = wallet.grants()
        assert first.id == stated.grant_id
        assert (first.kind, first.priority, first.expires_at) == ("paid", 1, datetime(2026, 1, 16, tzinfo=UTC))
        assert (second.kind, second.priority, second.expires_at) == (
            "promotional",
            7,
            clock.now() + timedelta(days=30),
        )
        assert (third.kind, third.priority, third.expires_at) == ("paid", 60, None)


def test_who_granted_may_be_any_object_of_the_application(ts: Tallystick, wallet: Wallet) -> None:
    class Admin:
        id = 9

    wallet.add_credits("1", granted_by=Admin())
    wallet.add_credits("1", granted_by=("admin", 10))
    wallet.add_credits("1", granted_by="the office")
    assert [grant.granted_by for grant in wallet.grants()] == ["admin:9", "admin:10", "the office"]


# -- the statement ----------------------------------------------------------------------------------------------------


def test_transactions_are_listed_by_type_source_reason_and_time(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    wallet.add_credits("10", "top-up")
    clock.advance(hours=1)
    wallet.deduct_credits("1", "usage")
    clock.advance(hours=1)
    wallet.deduct_credits("2", "fee")
    wallet.add_credits("3", "bonus")
    assert [line.reason for line in wallet.transactions()] == ["bonus", "fee", "usage", "top-up"]
    assert [line.reason for line in wallet.transactions(type="credit")] == ["bonus", "top-up"]
    assert [line.reason for line in wallet.transactions(type="debit")] == ["fee", "usage"]
    assert [line.reason for line in wallet.transactions(source="deduction")] == ["fee", "usage"]
    assert [line.amount for line in wallet.transactions(reason="fee")] == [money("2 USD")]
    between = wallet.transactions(start="2026-01-15T13:00:00Z", end="2026-01-15T14:00:00Z")
    assert [line.reason for line in between] == ["usage"]
    for wrong in ({"type": "both"}, {"source": "magic"}, {"limit": 0}, {"cursor": "no"}, {"start": "yesterday"}):
        with pytest.raises(InvalidInput):
            wallet.transactions(**wrong)


def test_pages_of_transactions_neither_skip_nor_repeat_while_others_are_added(ts: Tallystick, wallet: Wallet) -> None:
    for number in range(7):
        wallet.add_credits(number + 1)
    page = wallet.transactions(limit=3)
    numbers = [line.number for line in page]
    wallet.add_credits("100")
    while page.next_cursor is not None:
        page = wallet.transactions(limit=3, cursor=page.next_cursor)
        numbers += [line.number for line in page]
    assert numbers == [7, 6, 5, 4, 3, 2, 1]
    assert len(page) == 1
    assert page[0].number == 1


def test_a_transaction_is_found_by_its_id_in_its_own_wallet_only(ts: Tallystick, wallet: Wallet) -> None:
    added = wallet.add_credits("10", "top-up", {"payment_id": "pay_1"})
    assert wallet.transaction(added.id) == added
    assert added.to_dict()["amount"] == "10.00"
    with pytest.raises(NotFound):
        ts.wallets.get_or_create("user:2").transaction(added.id)
    with pytest.raises(NotFound):
        wallet.transaction("txn_none")


# -- repetitions ------------------------------------------------------------------------------------------------------


def test_a_repeated_key_changes_nothing_and_returns_the_first_answer(ts: Tallystick, wallet: Wallet) -> None:
    events = heard(ts, CreditsAdded, CreditsDeducted)
    first = wallet.add_credits("10", "stripe_payment", {"webhook": 1}, idempotency_key="evt_1")
    wallet.deduct_credits("4", idempotency_key="order-1")
    again = wallet.add_credits("10", "stripe_payment", {"webhook": 2}, idempotency_key="evt_1")
    assert again == first
    assert (first.replayed, again.replayed) == (False, True)
    assert wallet.deduct_credits("4", idempotency_key="order-1").replayed
    assert wallet.balance == money("6 USD")
    assert len(events) == 2
    assert_healthy(ts)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("amount", {"amount": "11"}),
        ("reason", {"reason": "payment"}),
        ("expires_at", {"expires_at": "2027-01-01"}),
        ("priority", {"priority": 1}),
    ],
)
def test_a_key_with_other_input_is_a_conflict_that_names_the_field(
    ts: Tallystick, field: str, other: dict[str, Any]
) -> None:
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits("10", idempotency_key="key")
    with pytest.raises(IdempotencyConflict) as conflict:
        wallet.add_credits(**{"amount": "10", "idempotency_key": "key", **other})
    assert conflict.value.field == field
    assert wallet.balance == money("10 USD")


def test_a_key_of_one_operation_is_not_taken_for_another(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", "usage", idempotency_key="key")
    with pytest.raises(IdempotencyConflict):
        wallet.deduct_credits("10", "usage", idempotency_key="key")


def test_a_repetition_is_answered_also_when_it_could_not_be_done_any_more(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    def granted() -> Any:
        return wallet.add_credits("10", "trial", expires_at="2026-01-20", idempotency_key="signup")

    first = granted()
    clock.set("2026-01-21")
    assert granted().replayed
    assert granted() == first
    with pytest.raises(InvalidInput):
        wallet.add_credits("10", "trial", expires_at="2026-01-20", idempotency_key="another")
    with pytest.raises(InvalidInput):
        wallet.add_credits("11", "trial", expires_at="2026-01-20", idempotency_key="signup")
    assert wallet.balance.is_zero


def test_an_instant_is_the_same_input_in_whatever_form_it_is_written(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", expires_at="2026-02-01", idempotency_key="key")
    midnight = datetime(2026, 2, 1, tzinfo=UTC)
    assert wallet.add_credits("10", expires_at=midnight, idempotency_key="key").replayed


def test_of_many_repetitions_at_once_one_adds(ts: Tallystick, wallet: Wallet) -> None:
    outcomes = in_threads(12, lambda _: wallet.add_credits("10", idempotency_key="evt_1"))
    assert errors_of(outcomes, TallystickError) == []
    assert sum(not one.replayed for one in outcomes) == 1
    assert wallet.balance == money("10 USD")


# -- enough or not ----------------------------------------------------------------------------------------------------


def test_a_balance_is_sufficient_up_to_the_last_nano(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("50")
    assert wallet.has_sufficient_balance("50.00")
    assert wallet.has_sufficient_balance(Money("50"))
    assert wallet.has_sufficient_balance(0)
    assert not wallet.has_sufficient_balance("50.000000001")
    with pytest.raises(InvalidInput):
        wallet.has_sufficient_balance(50.0)  # type: ignore[arg-type]


def test_what_calls_in_flight_hold_is_not_sufficient_for_another(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    with meter.hold(cost=money("6 USD")):
        assert (wallet.balance, wallet.held, wallet.available) == (money("10 USD"), money("6 USD"), money("4 USD"))
        assert wallet.has_sufficient_balance("4")
        assert not wallet.has_sufficient_balance("4.01")
        assert wallet.grants()[0].held == money("6 USD")
        with pytest.raises(CreditsInsufficient) as refused:
            wallet.deduct_credits("5")
        assert refused.value.balance == money("4 USD")
    assert (wallet.held, wallet.available) == (money("0 USD"), money("10 USD"))
    assert_healthy(ts, open_holds=0)


def test_with_overdraft_allowed_the_balance_goes_below_zero(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"credit_overdraft_allowed": True}) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("10")
        assert wallet.has_sufficient_balance("1000")
        assert wallet.deduct_credits("25").balance_after == money("-15 USD")
        assert (wallet.balance, wallet.overdraft, wallet.paid) == (money("-15 USD"), money("-15 USD"), money("0 USD"))
        wallet.add_credits("20", "payment")
        assert (wallet.balance, wallet.overdraft) == (money("5 USD"), money("0 USD"))
        assert wallet.grants()[0].remaining == money("5 USD")
        assert_healthy(ts)


def test_an_overdraft_limit_is_a_floor(database_url: str, clock: FixedClock) -> None:
    floor: dict[str, Any] = {"billing": {"credit_overdraft_allowed": True}, "credits": {"overdraft_limit": "5"}}
    with Tallystick(database_url, clock=clock, **floor) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("10")
        assert wallet.has_sufficient_balance("15")
        assert not wallet.has_sufficient_balance("15.01")
        wallet.deduct_credits("15")
        with pytest.raises(CreditsInsufficient):
            wallet.deduct_credits("0.01")
        wallet.set_overdraft_limit("6")
        assert wallet.overdraft_limit == money("6 USD")
        wallet.deduct_credits("1")
        assert wallet.balance == money("-6 USD")
        assert_healthy(ts)


def test_without_overdraft_nothing_goes_below_zero(ts: Tallystick, wallet: Wallet) -> None:
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("0.01")
    assert not wallet.has_sufficient_balance("0.01")
    assert wallet.balance.is_zero


GRANTS = st.lists(
    st.fixed_dictionaries(
        {"amount": st.integers(1, 9)},
        optional={
            "feature": st.sampled_from(["chat", "search"]),
            "expires_at": st.sampled_from(["2026-01-15T13:00:00Z", "2026-01-16", "2026-02-01"]),
            "priority": st.integers(40, 60),
            "limit": st.integers(1, 5),
        },
    ),
    max_size=6,
)
NUMBERS = count(1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(grants=GRANTS, first=st.integers(1, 12), asked=st.integers(1, 40), feature=st.sampled_from([None, "chat"]))
def test_a_balance_is_sufficient_exactly_where_a_deduction_succeeds(
    sqlite_url: str, grants: list[dict[str, Any]], first: int, asked: int, feature: str | None
) -> None:
    clock = FixedClock("2026-01-15T12:00:00Z")
    with Tallystick(sqlite_url, clock=clock) as ts:
        wallet = ts.wallets.get_or_create(f"user:{next(NUMBERS)}")
        for grant in grants:
            wallet.add_credits(**grant, limit_period="daily" if "limit" in grant else None)
        clock.advance(hours=1)
        for amount in (first, asked):
            is_enough = wallet.has_sufficient_balance(amount, feature=feature)
            try:
                wallet.deduct_credits(amount, feature=feature)
            except CreditsInsufficient:
                was_enough = False
            else:
                was_enough = True
            assert was_enough == is_enough
        assert_healthy(ts)


# -- credits mode -----------------------------------------------------------------------------------------------------


def test_a_call_in_credits_mode_is_paid_from_the_wallet(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("1.00")
    result = spend(ts, "0.25", feature="chat")
    assert wallet.balance == money("0.75 USD")
    [line] = wallet.transactions(source="usage")
    assert (line.type, line.amount, line.balance_after) == ("debit", money("0.25 USD"), money("0.75 USD"))
    assert (line.usage_event_id, line.feature) == (result.usage_event_id, "chat")
    assert line.id == "txn_" + result.usage_event_id.removeprefix("evt_")
    assert ts.usage.get(result.usage_event_id).billing_mode == "credits"
    assert_healthy(ts)


def test_a_call_that_the_wallet_cannot_pay_is_refused_before_the_provider_is_asked(
    ts: Tallystick, wallet: Wallet
) -> None:
    wallet.add_credits("0.42")
    asked: list[int] = []
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    with pytest.raises(CreditsInsufficient) as refused:
        meter.estimate(cost=money("0.50 USD")).call(lambda: asked.append(1))
    assert asked == []
    assert (refused.value.balance, refused.value.required) == (money("0.42 USD"), money("0.50 USD"))
    assert refused.value.code == "credits_insufficient"
    assert "0.42 USD available" in str(refused.value)
    assert refused.value.data()["required"] == "0.50 USD"
    assert wallet.balance == money("0.42 USD")
    assert_healthy(ts, open_holds=0)


def test_a_subscription_in_credits_mode_pays_every_call_from_the_wallet(ts: Tallystick, wallet: Wallet) -> None:
    ts.plans.create("prepaid", monthly_token_limit=1)
    ts.subscriptions.create("user:1", "prepaid", billing_mode="credits")
    wallet.add_credits("1")
    meter = ts.meter.billable("user:1").using_provider("manual", "model")
    meter.with_manual_usage(input_tokens=500, total_cost=money("0.30 USD")).call(lambda: None)
    assert wallet.balance == money("0.70 USD")
    assert ts.limits.check("user:1").tokens_used == 0
    assert_healthy(ts)


def test_what_was_really_used_is_recorded_also_beyond_the_wallet(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("1")
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    with meter.hold(cost=money("0.90 USD")) as hold:
        hold.settle(input_tokens=10, total_cost=money("1.50 USD"))
    assert (wallet.balance, wallet.overdraft) == (money("-0.50 USD"), money("-0.50 USD"))
    assert not wallet.has_sufficient_balance("0.01")
    wallet.add_credits("2")
    assert (wallet.balance, wallet.overdraft) == (money("1.50 USD"), money("0 USD"))
    assert_healthy(ts, open_holds=0)


# -- grants and their order -------------------------------------------------------------------------------------------


def test_lower_priority_numbers_burn_first_and_then_the_oldest(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    for reason, priority in (("old", None), ("first", 10), ("last", 90)):
        wallet.add_credits("10", reason, priority=priority)
        clock.advance(seconds=1)
    wallet.add_credits("10", "young")
    assert [grant.reason for grant in wallet.grants()] == ["first", "old", "young", "last"]
    wallet.deduct_credits("25")
    assert [(grant.reason, str(grant.remaining)) for grant in wallet.grants()] == [
        ("young", "5.00 USD"),
        ("last", "10.00 USD"),
    ]
    every = wallet.grants(include_closed=True)
    assert [(grant.reason, grant.status) for grant in every] == [
        ("first", "spent"),
        ("old", "spent"),
        ("young", "open"),
        ("last", "open"),
    ]
    assert_healthy(ts)


def test_by_setting_what_expires_first_burns_first(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, credits={"burn_order": "expiring_first"}) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("10", "for ever")
        wallet.add_credits("10", "spring", expires_at="2026-04-01")
        wallet.add_credits("10", "winter", expires_at="2026-02-01")
        assert [grant.reason for grant in wallet.grants()] == ["winter", "spring", "for ever"]
        wallet.deduct_credits("15")
        assert [grant.reason for grant in wallet.grants()] == ["spring", "for ever"]
        assert_healthy(ts)


def test_a_grant_for_one_feature_pays_that_feature_only(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("5", "top-up")
    wallet.add_credits("3", "promotion", feature="chat", priority=1)
    assert wallet.available == money("8 USD")
    assert not wallet.has_sufficient_balance("6")
    assert wallet.has_sufficient_balance("8", feature="chat")
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("6")
    spend(ts, "1", feature="search")
    spend(ts, "4", feature="chat")
    assert (wallet.paid, wallet.promotional) == (money("3 USD"), money("0 USD"))
    assert_healthy(ts)


def test_a_grant_with_an_hourly_limit_gives_only_so_much_an_hour(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    added = wallet.add_credits("10", limit="3", limit_period="hourly")
    [grant] = wallet.grants()
    assert (grant.id, grant.limit, grant.limit_period) == (added.grant_id, money("3 USD"), "hourly")
    wallet.deduct_credits("2")
    assert wallet.has_sufficient_balance("1")
    assert not wallet.has_sufficient_balance("1.01")
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("1.01")
    clock.set("2026-01-15T12:59:59.999999Z")
    assert not wallet.has_sufficient_balance("3")
    clock.set("2026-01-15T13:00:00Z")
    assert wallet.has_sufficient_balance("3")
    wallet.deduct_credits("3")
    assert wallet.balance == money("5 USD")
    assert_healthy(ts)


def test_a_grant_shows_as_plain_values(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("2.5", "promotion", {"campaign": "spring"}, expires_at="2026-03-01", granted_by="admin:1")
    shown = wallet.grants()[0].to_dict()
    assert shown["amount"] == shown["remaining"] == "2.50"
    assert (shown["currency"], shown["reason"], shown["granted_by"]) == ("USD", "promotion", "admin:1")
    assert (shown["expires_at"], shown["meta"]) == ("2026-03-01T00:00:00+00:00", {"campaign": "spring"})


# -- expiry -----------------------------------------------------------------------------------------------------------


def test_credits_can_be_used_until_the_microsecond_before_they_expire(
    ts: Tallystick, wallet: Wallet, clock: FixedClock
) -> None:
    wallet.add_credits("5", "trial", expires_at="2026-01-20")
    wallet.add_credits("1")
    clock.set("2026-01-19T23:59:59.999999Z")
    assert wallet.balance == money("6 USD")
    wallet.deduct_credits("2")
    clock.set("2026-01-20")
    # Nothing was posted yet; what is read says so all the same.
    assert (wallet.balance, wallet.available, wallet.promotional) == (money("1 USD"), money("1 USD"), money("0 USD"))
    assert [grant.reason for grant in wallet.grants()] == ["top-up"]
    assert [one.balance for one in ts.wallets.list()] == [money("1 USD")]
    assert not wallet.has_sufficient_balance("1.01")
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("1.01")
    [trial] = [grant for grant in wallet.grants(include_closed=True) if grant.reason == "trial"]
    assert (trial.status, trial.remaining) == ("expired", money("0 USD"))
    wallet.deduct_credits("1")
    assert wallet.balance.is_zero
    assert_healthy(ts)


def test_an_expiry_is_posted_at_its_own_instant(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    events = heard(ts, CreditsExpired)
    wallet.add_credits("5", "trial", expires_at="2026-01-20")
    clock.set("2026-01-25")
    assert ts.credits.expire(dry_run=True)
    assert len(wallet.transactions(source="expiry")) == 0
    ts.credits.expire()
    [line] = wallet.transactions(source="expiry")
    assert (line.type, line.amount) == ("debit", money("5 USD"))
    assert (line.occurred_at, line.created_at) == (
        datetime(2026, 1, 20, tzinfo=UTC),
        datetime(2026, 1, 25, tzinfo=UTC),
    )
    assert len(events) == 1
    [grant] = wallet.grants(include_closed=True)
    assert (grant.status, grant.id) == ("expired", line.grant_id)
    assert ts.ledger.accounts("user:1")["expired:promotional"] == money("5 USD")
    assert_healthy(ts)


def test_what_a_call_has_reserved_outlives_the_expiry(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    wallet.add_credits("5", "trial", expires_at="2026-01-15T12:05:00Z")
    meter = ts.meter.billable("user:1").using_provider("manual", "model").billing_mode("credits")
    hold = meter.hold(cost=money("2 USD"))
    clock.set("2026-01-15T12:05:00Z")
    assert (wallet.balance, wallet.held, wallet.available) == (money("2 USD"), money("2 USD"), money("0 USD"))
    hold.settle(input_tokens=1, total_cost=money("1.50 USD"))
    assert (wallet.balance, wallet.held) == (money("0 USD"), money("0 USD"))
    assert_healthy(ts, open_holds=0)


def test_what_is_about_to_expire_is_listed_and_told(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    events = heard(ts, CreditsExpiring)
    wallet.add_credits("5", "trial", expires_at="2026-01-20")
    wallet.add_credits("5", "promotion", expires_at="2026-03-20")
    assert [grant.reason for grant in ts.credits.expiring(within_days=7)] == ["trial"]
    ts.run_due_jobs()
    ts.run_due_jobs()
    assert len(events) == 1


# -- other currencies -------------------------------------------------------------------------------------------------


def test_money_of_another_currency_is_converted_and_the_rate_is_kept(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency_rates": {"eur_usd": "1.10"}}) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        added = wallet.add_credits(money("10 EUR"), "payment")
        assert added.amount == money("11 USD")
        assert added.exchange is not None
        assert (added.exchange.amount, added.exchange.rate) == (money("10 EUR"), Decimal("1.10"))
        assert wallet.transaction(added.id).exchange == added.exchange
        assert wallet.has_sufficient_balance(money("10 EUR"))
        assert wallet.deduct_credits(money("1 EUR")).amount == money("1.10 USD")
        with pytest.raises(CurrencyMismatch):
            wallet.add_credits(money("10 BRL"))
        assert wallet.balance == money("9.90 USD")
        assert_healthy(ts)


# -- transfers, refunds, reversals ------------------------------------------------------------------------------------


def test_a_transfer_moves_credits_and_neither_makes_nor_loses_any(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", "payment")
    wallet.add_credits("5", "promotion", priority=1, expires_at="2026-02-01")
    sent = wallet.transfer("user:2", "7", meta={"note": "thanks"})
    assert (sent.type, sent.source, sent.amount, sent.balance_after) == (
        "debit",
        "transfer",
        money("7 USD"),
        money("8 USD"),
    )
    other = ts.wallets.get("user:2")
    assert (other.balance, other.paid, other.promotional) == (money("7 USD"), money("2 USD"), money("5 USD"))
    assert {grant.expires_at for grant in other.grants()} == {None, datetime(2026, 2, 1, tzinfo=UTC)}
    assert ts.wallets.transfer(other, wallet, "1").id != sent.id
    assert wallet.balance + other.balance == money("15 USD")
    with pytest.raises(CreditsInsufficient):
        ts.wallets.transfer("user:1", "user:2", "100")
    with pytest.raises(InvalidInput):
        wallet.transfer("user:1", "1")
    assert_healthy(ts)


def test_restricted_credits_stay_when_others_are_moved(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("5", "payment")
    wallet.add_credits("5", "promotion", feature="chat", priority=1)
    wallet.add_credits("5", "promotion", limit="5", limit_period="daily", priority=1)
    with pytest.raises(CreditsInsufficient) as refused:
        wallet.transfer("user:2", "5.01")
    assert refused.value.balance == money("5 USD")
    wallet.transfer("user:2", "5")
    assert wallet.balance == money("10 USD")
    assert_healthy(ts)


def test_a_refund_gives_back_what_was_taken_and_never_more(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10", "payment")
    wallet.add_credits("5", "promotion", priority=1)
    charge = wallet.deduct_credits("8")
    part = wallet.refund(charge.id, "2", "goodwill", {"ticket": 1})
    assert (part.type, part.source, part.reason, part.reverses_id) == ("credit", "refund", "goodwill", charge.id)
    assert wallet.balance == money("9 USD")
    with pytest.raises(TallystickError):
        wallet.refund(charge.id, "6.01")
    assert wallet.refund(charge.id).amount == money("6 USD")
    assert (wallet.paid, wallet.promotional) == (money("10 USD"), money("5 USD"))
    with pytest.raises(TallystickError):
        wallet.refund(charge.id, "0.01")
    assert_healthy(ts)


def test_the_call_of_a_wallet_can_be_refunded(ts: Tallystick, wallet: Wallet) -> None:
    wallet.add_credits("10")
    spend(ts, "4")
    [line] = wallet.transactions(source="usage")
    wallet.refund(line.id)
    assert wallet.balance == money("10 USD")
    assert_healthy(ts)


@pytest.mark.parametrize("first_price", ["2", None])
def test_what_a_correction_charged_can_be_refunded_once(
    database_url: str, clock: FixedClock, first_price: str | None
) -> None:
    with priced(database_url, clock, first_price) as ts:
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("10")
        meter = ts.meter.billable("user:1").using_provider("acme", "m").billing_mode("credits")
        meter.with_manual_usage(input_tokens=1_000_000).call(lambda: None)
    with priced(database_url, clock, "3") as ts:
        ts.usage.reprice(apply=True)
        wallet = ts.wallets.get("user:1")
        assert wallet.balance == money("7 USD")
        correction = wallet.transactions(source="usage")[0]
        back = wallet.refund(correction.id)
        assert (back.amount, back.reverses_id) == (correction.amount, correction.reverses_id)
        for line in wallet.transactions(source="usage"):
            if line.id != correction.id:
                wallet.refund(line.id)
        assert wallet.balance == money("10 USD")
        for line in wallet.transactions(source="usage"):
            with pytest.raises(Conflict):
                wallet.refund(line.id)
            with pytest.raises(Conflict):
                ts.ledger.reverse(line.id, "once more")
        assert_healthy(ts)


def test_revoking_a_grant_takes_back_what_is_left_of_it(ts: Tallystick, wallet: Wallet) -> None:
    kept = wallet.add_credits("10", "payment")
    gift = wallet.add_credits("5", "bonus", priority=1)
    wallet.deduct_credits("2")
    assert gift.grant_id is not None
    revoked = wallet.revoke(gift.grant_id, "chargeback")
    assert (revoked.source, revoked.reason, revoked.amount) == ("revocation", "chargeback", money("3 USD"))
    assert wallet.balance == money("10 USD")
    statuses = {grant.id: grant.status for grant in wallet.grants(include_closed=True)}
    assert statuses == {kept.grant_id: "open", gift.grant_id: "revoked"}
    with pytest.raises(NotFound):
        wallet.revoke("grt_none", "typing error")
    assert_healthy(ts)


def test_a_grant_of_another_wallet_cannot_be_revoked_here(ts: Tallystick, wallet: Wallet) -> None:
    other = ts.wallets.get_or_create("user:2").add_credits("5")
    assert other.grant_id is not None
    with pytest.raises(NotFound):
        wallet.revoke(other.grant_id, "mine")
    assert ts.wallets.get("user:2").balance == money("5 USD")


# -- pools ------------------------------------------------------------------------------------------------------------


def test_a_cap_limits_what_one_user_spends_of_a_pool(ts: Tallystick, clock: FixedClock) -> None:
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("100")
    pool.set_cap("10")
    pool.set_cap("30", user="user:chief", period="daily")
    assert [(cap.user, cap.amount, cap.period) for cap in pool.caps()] == [
        (None, money("10 USD"), "monthly"),
        ("user:chief", money("30 USD"), "daily"),
    ]
    assert pool.deduct_credits("8", user=1).user == "user:1"
    with pytest.raises(LimitExceeded) as refused:
        spend(ts, "3", "tenant:acme", user="user:1")
    assert (refused.value.limit_type, refused.value.limit) == ("credit_cap", money("10 USD"))
    spend(ts, "2", "tenant:acme", user="user:1")
    spend(ts, "30", "tenant:acme", user="user:chief")
    with pytest.raises(LimitExceeded):
        pool.deduct_credits("1", user="user:chief")
    pool.deduct_credits("5")
    clock.advance(days=1)
    pool.deduct_credits("30", user="user:chief")
    with pytest.raises(LimitExceeded):
        pool.deduct_credits("0.01", user="user:1")
    pool.set_cap(None)
    pool.deduct_credits("11", user="user:1")
    assert pool.balance == money("14 USD")
    assert_healthy(ts)


def test_a_cap_counts_what_was_spent_before_it_was_set(ts: Tallystick, clock: FixedClock) -> None:
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("100")
    pool.deduct_credits("50", user="user:1")
    clock.set("2026-02-03")
    refunded = pool.deduct_credits("9", user="user:1")
    pool.refund(refunded.id, "2")
    pool.deduct_credits("1", user="user:2")
    pool.set_cap("10", period="monthly")
    with pytest.raises(LimitExceeded) as refused:
        pool.deduct_credits("3.01", user="user:1")
    assert refused.value.used == money("7 USD")
    pool.deduct_credits("3", user="user:1")
    pool.deduct_credits("9", user="user:2")
    # Another period counts from its own beginning.
    pool.set_cap("13", user="user:1", period="daily")
    pool.deduct_credits("3", user="user:1")
    with pytest.raises(LimitExceeded):
        pool.deduct_credits("0.01", user="user:1")
    assert_healthy(ts)


def test_spending_while_a_cap_is_set_is_not_lost(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        pool = one.wallets.get_or_create("tenant:acme")
        pool.add_credits("100")

        def work(index: int) -> Any:
            if index == 0:
                return pool.set_cap("20")
            here = (one, other)[index % 2].wallets.get("tenant:acme")
            return [_deducted(here) for _ in range(5)]

        in_threads(7, work)
        spent = money("100 USD") - pool.balance
        with pytest.raises(LimitExceeded) as refused:
            other.wallets.get("tenant:acme").deduct_credits("100", user="user:1")
        assert refused.value.used == spent
        assert_healthy(one)


def _deducted(pool: Wallet) -> bool:
    try:
        pool.deduct_credits("1", user="user:1")
    except LimitExceeded:
        return False
    return True


@pytest.mark.parametrize(("field", "stated"), [("amount", {"amount": 1.5}), ("period", {"period": "fortnightly"})])
def test_a_cap_that_cannot_be_is_refused(ts: Tallystick, field: str, stated: dict[str, Any]) -> None:
    pool = ts.wallets.get_or_create("tenant:acme")
    with pytest.raises(InvalidInput) as refused:
        pool.set_cap(**{"amount": "1", **stated})
    assert refused.value.field == field
    assert pool.caps() == []


# -- alerts and top-ups -----------------------------------------------------------------------------------------------


def test_adding_and_deducting_are_told_with_wallet_and_amount(ts: Tallystick, wallet: Wallet) -> None:
    events = heard(ts, CreditsAdded, CreditsDeducted)
    wallet.add_credits("10", "top-up")
    wallet.deduct_credits("4")
    spend(ts, "1")
    assert [(type(event).__name__, event.billable, str(event.amount)) for event in events] == [
        ("CreditsAdded", "user:1", "10.00 USD"),
        ("CreditsDeducted", "user:1", "4.00 USD"),
        ("CreditsDeducted", "user:1", "1.00 USD"),
    ]


def test_a_low_balance_is_told_once_for_each_fall(ts: Tallystick, wallet: Wallet) -> None:
    events = heard(ts, CreditsLow)
    wallet.set_minimum_balance("5")
    assert wallet.minimum_balance == money("5 USD")
    wallet.add_credits("10")
    wallet.deduct_credits("5")
    assert events == []
    wallet.deduct_credits("1")
    wallet.deduct_credits("1")
    assert len(events) == 1
    wallet.add_credits("10")
    spend(ts, "9")
    assert len(events) == 2
    wallet.set_minimum_balance(None)
    assert wallet.minimum_balance is None


def test_the_settings_minimum_balance_is_every_wallets(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, credits={"minimum_balance": "5"}) as ts:
        events = heard(ts, CreditsLow)
        wallet = ts.wallets.get_or_create("user:1")
        wallet.add_credits("10")
        wallet.deduct_credits("6")
        assert len(events) == 1


def test_a_top_up_is_asked_for_once_until_it_is_answered(ts: Tallystick, wallet: Wallet) -> None:
    events = heard(ts, TopUpRequested)
    wallet.add_credits("10")
    wallet.set_auto_top_up(below="5", amount="20")
    found = wallet.auto_top_up
    assert found is not None
    assert (found.below, found.amount, found.monthly_max, found.state) == (
        money("5 USD"),
        money("20 USD"),
        None,
        "armed",
    )
    wallet.deduct_credits("6")
    wallet.deduct_credits("1")
    assert len(events) == 1
    [request] = ts.wallets.top_ups()
    assert (request.billable, request.amount, request.status) == ("user:1", money("20 USD"), "pending")
    paid = ts.wallets.complete_top_up(request.id, {"payment": "pay_1"})
    again = ts.wallets.complete_top_up(request.id)
    assert (paid.amount, paid.balance_after, paid.meta) == (money("20 USD"), money("23 USD"), {"payment": "pay_1"})
    assert (again.id, again.replayed) == (paid.id, True)
    [closed] = ts.wallets.top_ups("user:1", status="completed")
    assert closed.transaction_id == paid.id
    wallet.deduct_credits("20")
    assert len(events) == 2
    assert_healthy(ts)


def test_a_failed_top_up_is_not_asked_for_again_until_it_is_set_anew(ts: Tallystick, wallet: Wallet) -> None:
    wallet.set_auto_top_up("5", "20")
    [request] = ts.wallets.top_ups(status="pending")
    wallet.add_credits("6")
    failed = ts.wallets.fail_top_up(request.id, "card declined")
    assert (failed.status, failed.note) == ("failed", "card declined")
    wallet.deduct_credits("2")
    assert len(ts.wallets.top_ups()) == 1
    with pytest.raises(Conflict):
        ts.wallets.complete_top_up(request.id)
    wallet.set_auto_top_up("5", "20")
    assert len(ts.wallets.top_ups()) == 2
    wallet.set_auto_top_up(None)
    assert wallet.auto_top_up is None
    assert_healthy(ts)


def test_top_ups_of_a_month_stay_within_their_maximum(ts: Tallystick, wallet: Wallet, clock: FixedClock) -> None:
    wallet.add_credits("5")
    wallet.set_auto_top_up(below="5", amount="20", monthly_max="45")
    for _ in range(2):
        wallet.deduct_credits("1")
        [request] = ts.wallets.top_ups(status="pending")
        ts.wallets.complete_top_up(request.id)
        wallet.deduct_credits("19")
    wallet.deduct_credits("1")
    assert (len(ts.wallets.top_ups()), wallet.balance) == (2, money("4 USD"))
    clock.set("2026-02-01")
    wallet.deduct_credits("1")
    assert len(ts.wallets.top_ups()) == 3
    assert_healthy(ts)


def test_settings_of_a_wallet_that_cannot_be_are_refused(ts: Tallystick, wallet: Wallet) -> None:
    for wrong in (
        lambda: wallet.set_minimum_balance(-1),
        lambda: wallet.set_overdraft_limit(0.5),  # type: ignore[arg-type]
        lambda: wallet.set_auto_top_up("5"),
        lambda: wallet.set_auto_top_up("5", "0"),
        lambda: wallet.set_auto_top_up("5", "20", monthly_max="10"),
        lambda: ts.wallets.top_ups(status="lost"),
    ):
        with pytest.raises(InvalidInput):
            wrong()
    with pytest.raises(NotFound):
        ts.wallets.complete_top_up("tup_none")
    assert wallet.auto_top_up is None
