"""Features at work: what a plan allows, extra credits on top of it, and use of both, exact to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event

from tallystick import FixedClock, Tallystick
from tallystick.errors import (
    Conflict,
    CreditsInsufficient,
    FeatureLimitExceeded,
    IdempotencyConflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    TallystickError,
)
from tallystick.events import UsageRecorded
from tallystick.plans.terms import Subscription
from tests.acceptance.accounts import assert_healthy, errors_of, in_threads

BILLABLE = "user:1"
FEATURES: dict[str, Any] = {
    "api-calls": {"value": 10, "reset": "daily", "name": "API calls"},
    "exports": 3,
    "storage": {"value": "2.5", "reset": "never"},
    "search": "unlimited",
    "priority-support": True,
}


@pytest.fixture
def subscription(ts: Tallystick) -> Subscription:
    """A plan with features of every sort, sold to user:1."""
    ts.plans.create("pro", features=FEATURES)
    return ts.subscriptions.create(BILLABLE, "pro")


def stats(ts: Tallystick, slug: str = "api-calls", subject: object = BILLABLE) -> tuple[Any, ...]:
    found = ts.features.credit_stats(subject, slug)
    return found.plan_limit, found.extra_credits, found.total_available, found.used, found.remaining


# -- the plan's allowance ---------------------------------------------------------------------------------------------


def test_a_feature_can_be_used_up_to_its_allowance(ts: Tallystick, subscription: Subscription) -> None:
    assert ts.features.can_use(BILLABLE, "api-calls")
    assert ts.features.can_use(BILLABLE, "api-calls", 10)
    assert not ts.features.can_use(BILLABLE, "api-calls", 11)
    use = ts.features.use(BILLABLE, "api-calls", 7, user=9, meta={"batch": 4})
    assert (use.amount, use.from_plan, use.from_credits, use.remaining, use.replayed) == (7, 7, 0, 3, False)
    used = ts.usage.get(use.usage_event_id)
    assert (used.feature, used.quantity, used.user, used.metadata) == ("api-calls", 7, "user:9", {"batch": 4})
    assert ts.features.remaining(BILLABLE, "api-calls") == 3
    with pytest.raises(FeatureLimitExceeded) as refused:
        ts.features.use(BILLABLE, "api-calls", 4)
    assert isinstance(refused.value, LimitExceeded)
    assert refused.value.code == "feature_limit_exceeded"
    assert (refused.value.limit, refused.value.used, refused.value.requested) == (10, 7, 4)
    assert refused.value.resets_at == datetime(2026, 1, 16, tzinfo=UTC)
    assert ts.features.remaining(BILLABLE, "api-calls") == 3
    assert_healthy(ts)


def test_the_allowance_starts_again_at_its_reset_and_not_before(
    ts: Tallystick, subscription: Subscription, clock: FixedClock
) -> None:
    ts.features.use(BILLABLE, "api-calls", 10)
    ts.features.use(BILLABLE, "exports", 3)
    ts.features.use(BILLABLE, "storage", "2.5")
    assert ts.features.next_reset(BILLABLE, "api-calls") == datetime(2026, 1, 16, tzinfo=UTC)
    assert ts.features.next_reset(BILLABLE, "exports") == datetime(2026, 2, 1, tzinfo=UTC)
    for instant, left in (("2026-01-15T23:59:59.999999Z", 0), ("2026-01-16T00:00:00Z", 10)):
        clock.set(instant)
        assert ts.features.remaining(BILLABLE, "api-calls") == left
        assert ts.features.can_use(BILLABLE, "api-calls") == bool(left)
    assert ts.features.remaining(BILLABLE, "exports") == 0
    clock.set("2026-02-01")
    assert ts.features.remaining(BILLABLE, "exports") == 3
    # Given once, for all time.
    clock.set("2036-01-01")
    assert ts.features.remaining(BILLABLE, "storage") == 0
    assert_healthy(ts)


def test_what_never_resets_or_is_not_counted_has_no_next_reset(ts: Tallystick, subscription: Subscription) -> None:
    for slug in ("storage", "search", "priority-support", "nothing"):
        assert ts.features.next_reset(BILLABLE, slug) is None


def test_fractions_of_a_feature_are_exact(ts: Tallystick, subscription: Subscription) -> None:
    ts.features.grant_credits(BILLABLE, "storage", "0.000001")
    ts.features.use(BILLABLE, "storage", Decimal("0.1"))
    ts.features.use(BILLABLE, "storage", "0.2")
    assert ts.features.remaining(BILLABLE, "storage") == Decimal("2.200001")
    assert_healthy(ts)


def test_an_unlimited_feature_is_counted_and_never_refused(ts: Tallystick, subscription: Subscription) -> None:
    use = ts.features.use(BILLABLE, "search", 1_000_000)
    assert (use.remaining, use.from_plan) == (None, 1_000_000)
    assert ts.features.remaining(BILLABLE, "search") is None
    assert ts.features.total_available(BILLABLE, "search") is None
    assert stats(ts, "search") == (None, 0, None, 1_000_000, None)
    assert_healthy(ts)


def test_a_feature_that_is_not_consumable_is_there_or_not(ts: Tallystick, subscription: Subscription) -> None:
    assert ts.features.can_use(BILLABLE, "priority-support")
    assert not ts.features.can_use("user:2", "priority-support")
    for wrong in (
        lambda: ts.features.use(BILLABLE, "priority-support"),
        lambda: ts.features.grant_credits(BILLABLE, "priority-support", 5),
        lambda: ts.features.grant_credits("user:2", "priority-support", 5),
    ):
        with pytest.raises(InvalidInput, match="not consumable"):
            wrong()


def test_without_a_plan_or_with_another_feature_nothing_can_be_used(ts: Tallystick, subscription: Subscription) -> None:
    for billable, slug in ((BILLABLE, "faxes"), ("user:2", "api-calls")):
        assert not ts.features.can_use(billable, slug)
        assert ts.features.remaining(billable, slug) == 0
        assert stats(ts, slug, billable) == (0, 0, 0, 0, 0)
        with pytest.raises(FeatureLimitExceeded):
            ts.features.use(billable, slug)
    assert ts.features.usage("user:2") == []


@pytest.mark.parametrize("amount", [0, -1, 1.0, True, "many", "0.0000001", None])
def test_an_amount_that_is_no_exact_amount_above_zero_is_refused(
    ts: Tallystick, subscription: Subscription, amount: Any
) -> None:
    for ask in (ts.features.can_use, ts.features.use, ts.features.grant_credits):
        with pytest.raises(InvalidInput) as refused:
            ask(BILLABLE, "api-calls", amount)
        assert refused.value.field in ("amount", "credits")
    assert ts.features.remaining(BILLABLE, "api-calls") == 10


# -- extra credits ----------------------------------------------------------------------------------------------------


def test_extra_credits_come_on_top_of_the_plan_and_are_used_first(ts: Tallystick, subscription: Subscription) -> None:
    grant = ts.features.grant_credits(BILLABLE, "api-calls", 5, "Referral bonus")
    assert (grant.amount, grant.remaining, grant.reason, grant.kind) == (5, 5, "Referral bonus", "promotional")
    assert (grant.feature_slug, grant.currency, grant.unit) == ("api-calls", None, "feature:api-calls")
    assert ts.features.can_use(BILLABLE, "api-calls", 15)
    assert not ts.features.can_use(BILLABLE, "api-calls", 16)
    first = ts.features.use(BILLABLE, "api-calls", 3)
    assert (first.from_credits, first.from_plan, first.remaining) == (3, 0, 12)
    second = ts.features.use(BILLABLE, "api-calls", 10)
    assert (second.from_credits, second.from_plan, second.remaining) == (2, 8, 2)
    with pytest.raises(FeatureLimitExceeded):
        ts.features.use(BILLABLE, "api-calls", 3)
    assert_healthy(ts)


def test_extra_credits_can_be_left_out_of_asking_and_of_use(ts: Tallystick, subscription: Subscription) -> None:
    ts.features.grant_credits(BILLABLE, "api-calls", 5)
    assert not ts.features.can_use(BILLABLE, "api-calls", 11, include_extra_credits=False)
    assert ts.features.remaining(BILLABLE, "api-calls", include_extra_credits=False) == 10
    use = ts.features.use(BILLABLE, "api-calls", 10, use_extra_credits=False)
    assert (use.from_credits, use.from_plan) == (0, 10)
    with pytest.raises(FeatureLimitExceeded):
        ts.features.use(BILLABLE, "api-calls", 1, use_extra_credits=False)
    assert ts.features.remaining(BILLABLE, "api-calls") == 5
    assert ts.features.use(BILLABLE, "api-calls", 5).from_credits == 5
    assert_healthy(ts)


def test_statistics_count_no_use_twice(ts: Tallystick, subscription: Subscription, clock: FixedClock) -> None:
    assert stats(ts) == (10, 0, 10, 0, 10)
    ts.features.grant_credits(BILLABLE, "api-calls", 5)
    assert stats(ts) == (10, 5, 15, 0, 15)
    ts.features.use(BILLABLE, "api-calls", 7)
    assert stats(ts) == (10, 5, 15, 7, 8)
    found = ts.features.credit_stats(BILLABLE, "api-calls")
    assert (found.plan_used, found.extra_used, found.extra_remaining) == (2, 5, 0)
    assert ts.features.total_available(BILLABLE, "api-calls") == 15
    ts.features.grant_credits(BILLABLE, "api-calls", 100)
    ts.features.use(BILLABLE, "api-calls", 1)
    assert stats(ts) == (10, 105, 115, 8, 107)
    # What was used yesterday is no longer part of today's total.
    clock.advance(days=1)
    assert stats(ts) == (10, 99, 109, 0, 109)
    assert_healthy(ts)


def test_the_oldest_credits_are_used_first(ts: Tallystick, subscription: Subscription, clock: FixedClock) -> None:
    for reason in ("first", "second", "third"):
        ts.features.grant_credits(BILLABLE, "api-calls", 5, reason)
        clock.advance(seconds=1)
    ts.features.grant_credits(BILLABLE, "api-calls", 5, "urgent", priority=1)
    ts.features.use(BILLABLE, "api-calls", 12)
    assert [(grant.reason, grant.remaining) for grant in ts.features.credits(BILLABLE, "api-calls")] == [
        ("second", 3),
        ("third", 5),
    ]
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 8
    every = ts.features.credits(BILLABLE, "api-calls", include_closed=True)
    assert [grant.status for grant in every] == ["spent", "spent", "open", "open"]


def test_credits_keep_who_granted_them_when_and_why(ts: Tallystick, subscription: Subscription) -> None:
    class Admin:
        id = 7

    ts.features.grant_credits(
        BILLABLE,
        "api-calls",
        10,
        "Promotion",
        expires_at="2026-04-15T12:00:00Z",
        granted_by=Admin(),
        meta={"campaign": "spring"},
    )
    [grant] = ts.features.credits(BILLABLE, "api-calls")
    assert (grant.reason, grant.granted_by, grant.meta) == ("Promotion", "admin:7", {"campaign": "spring"})
    assert grant.expires_at == datetime(2026, 4, 15, 12, tzinfo=UTC)
    assert grant.created_at == datetime(2026, 1, 15, 12, tzinfo=UTC)
    shown = grant.to_dict()
    assert (shown["feature_slug"], shown["amount"], shown["granted_by"]) == ("api-calls", 10, "admin:7")


def test_credits_can_be_used_until_the_microsecond_before_they_expire(
    ts: Tallystick, subscription: Subscription, clock: FixedClock
) -> None:
    ts.features.grant_credits(BILLABLE, "api-calls", 5, expires_at="2026-01-15T18:00:00Z")
    clock.set("2026-01-15T17:59:59.999999Z")
    assert ts.features.remaining(BILLABLE, "api-calls") == 15
    assert ts.features.use(BILLABLE, "api-calls", 2).from_credits == 2
    clock.set("2026-01-15T18:00:00Z")
    # No job has run.
    assert ts.features.remaining(BILLABLE, "api-calls") == 10
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 0
    assert not ts.features.can_use(BILLABLE, "api-calls", 11)
    assert ts.features.credits(BILLABLE, "api-calls") == []
    assert stats(ts) == (10, 2, 12, 2, 10)
    assert ts.features.use(BILLABLE, "api-calls", 3).from_credits == 0
    [expired] = ts.features.credits(BILLABLE, "api-calls", include_closed=True)
    assert (expired.status, expired.remaining) == ("expired", 0)
    assert_healthy(ts)


def test_expired_credits_are_booked_by_the_clean_up_and_stay_in_the_history(
    ts: Tallystick, subscription: Subscription, clock: FixedClock
) -> None:
    for _ in range(3):
        ts.features.grant_credits(BILLABLE, "api-calls", 5, expires_at="2026-02-01")
    clock.set("2026-02-02")
    before = ts.features.credits(BILLABLE, "api-calls", include_closed=True)
    ts.credits.expire(dry_run=True)
    ts.credits.expire(batch_size=2)
    after = ts.features.credits(BILLABLE, "api-calls", include_closed=True)
    assert [grant.status for grant in before] == [grant.status for grant in after] == ["expired"] * 3
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 0
    assert_healthy(ts)


def test_several_features_are_granted_all_or_none(ts: Tallystick, subscription: Subscription) -> None:
    grants = ts.features.grant_many(
        BILLABLE, {"api-calls": 5, "exports": "2"}, "Loyalty", expires_at="2026-03-01", granted_by="admin:1"
    )
    assert [(grant.feature_slug, grant.amount, grant.reason, grant.granted_by) for grant in grants] == [
        ("api-calls", 5, "Loyalty", "admin:1"),
        ("exports", 2, "Loyalty", "admin:1"),
    ]
    for wrong in ({"api-calls": 5, "faxes": 1}, {"api-calls": 5, "exports": 0}, {}):
        with pytest.raises(InvalidInput):
            ts.features.grant_many(BILLABLE, wrong)
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 5
    assert ts.features.extra_credits(BILLABLE, "exports") == 2
    again = ts.features.grant_many(BILLABLE, {"exports": 1, "api-calls": 1}, idempotency_key="once")
    assert ts.features.grant_many(BILLABLE, {"exports": 1, "api-calls": 1}, idempotency_key="once") == again
    assert ts.features.extra_credits(BILLABLE, "exports") == 3
    assert_healthy(ts)


def test_a_feature_that_no_plan_has_is_refused_with_the_one_that_was_meant(
    ts: Tallystick, subscription: Subscription
) -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'api-calls'"):
        ts.features.grant_credits(BILLABLE, "api-call", 5)
    with pytest.raises(InvalidInput, match="No plan lists it"):
        ts.features.grant_credits(BILLABLE, "teleportation", 5)


def test_more_than_the_settings_allow_at_once_is_refused(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, credits={"feature_grant_max": 100}) as ts:
        ts.plans.create("pro", features=FEATURES)
        ts.features.grant_credits(BILLABLE, "api-calls", 100)
        with pytest.raises(InvalidInput, match="feature_grant_max"):
            ts.features.grant_credits(BILLABLE, "api-calls", "100.000001")
        assert ts.features.extra_credits(BILLABLE, "api-calls") == 100


def test_credits_may_be_granted_without_a_plan_of_ones_own(ts: Tallystick, subscription: Subscription) -> None:
    ts.features.grant_credits("user:2", "api-calls", 5)
    assert ts.features.use("user:2", "api-calls", 4).from_credits == 4
    assert ts.features.remaining("user:2", "api-calls") == 1
    assert stats(ts, subject="user:2") == (0, 5, 5, 4, 1)
    [status] = ts.features.usage("user:2")
    assert (status.slug, status.is_in_plan, status.extra_used, status.remaining) == ("api-calls", False, 4, 1)
    assert_healthy(ts)


def test_a_grant_with_a_daily_limit_gives_only_so_much_a_day(
    ts: Tallystick, subscription: Subscription, clock: FixedClock
) -> None:
    ts.features.grant_credits(BILLABLE, "exports", 10, limit=2, limit_period="daily")
    assert ts.features.remaining(BILLABLE, "exports") == 5
    assert ts.features.extra_credits(BILLABLE, "exports") == 10
    assert ts.features.use(BILLABLE, "exports", 5).from_credits == 2
    assert not ts.features.can_use(BILLABLE, "exports")
    clock.advance(days=1)
    assert ts.features.remaining(BILLABLE, "exports") == 2
    assert_healthy(ts)


def test_revoking_takes_back_what_is_left_of_a_grant(ts: Tallystick, subscription: Subscription) -> None:
    grant = ts.features.grant_credits(BILLABLE, "api-calls", 5)
    ts.features.use(BILLABLE, "api-calls", 2)
    line = ts.features.revoke(grant.id, "granted by mistake")
    assert (line.type, line.source, line.amount, line.feature_slug) == ("debit", "revocation", 3, "api-calls")
    assert ts.features.remaining(BILLABLE, "api-calls") == 10
    [closed] = ts.features.credits(BILLABLE, "api-calls", include_closed=True)
    assert closed.status == "revoked"
    with pytest.raises(Conflict):
        ts.features.revoke(grant.id, "again")
    money = ts.wallets.get_or_create(BILLABLE).add_credits("5")
    for other in ("grt_none", money.grant_id or ""):
        with pytest.raises(NotFound):
            ts.features.revoke(other, "no feature's")
    assert_healthy(ts)


def test_the_setting_of_a_reason_says_when_its_credits_expire(database_url: str, clock: FixedClock) -> None:
    """Tiers of expiry: each reason has its own."""
    reasons = {"referral-bonus": {"expires_after_days": 30}, "purchase": {"expires_after_days": 365}}
    with Tallystick(database_url, clock=clock, credits={"reasons": reasons}) as ts:
        ts.plans.create("pro", features=FEATURES)
        short = ts.features.grant_credits(BILLABLE, "api-calls", 5, "Referral bonus")
        long = ts.features.grant_credits(BILLABLE, "api-calls", 5, "purchase")
        assert (short.expires_at, short.kind) == (datetime(2026, 2, 14, 12, tzinfo=UTC), "promotional")
        assert (long.expires_at, long.kind) == (datetime(2027, 1, 15, 12, tzinfo=UTC), "paid")


def test_extra_credits_move_to_another_and_keep_their_expiry(ts: Tallystick, subscription: Subscription) -> None:
    ts.features.grant_credits(BILLABLE, "api-calls", 5, "bonus", expires_at="2026-03-01")
    ts.features.grant_credits(subscription, "api-calls", 5, "bonus")
    sent = ts.features.transfer(BILLABLE, "user:2", "api-calls", 3, idempotency_key="gift")
    assert (sent.type, sent.source, sent.amount, sent.balance_after) == ("debit", "transfer", 3, 7)
    assert ts.features.transfer(BILLABLE, "user:2", "api-calls", 3, idempotency_key="gift").replayed
    [arrived] = ts.features.credits("user:2", "api-calls")
    assert (arrived.remaining, arrived.expires_at) == (3, datetime(2026, 3, 1, tzinfo=UTC))
    assert ts.features.use("user:2", "api-calls", 3).from_credits == 3
    # What is bound to the subscription stays.
    with pytest.raises(CreditsInsufficient) as refused:
        ts.features.transfer(BILLABLE, "user:2", "api-calls", 3)
    assert str(refused.value.required) == "3"
    with pytest.raises(InvalidInput):
        ts.features.transfer(BILLABLE, BILLABLE, "api-calls", 1)
    assert_healthy(ts)


# -- subscriptions ----------------------------------------------------------------------------------------------------


def test_a_subscription_may_stand_for_its_billable_everywhere(ts: Tallystick, subscription: Subscription) -> None:
    grant = ts.features.grant_credits(subscription, "api-calls", 5, "bonus")
    assert grant.subscription_id == subscription.id
    ts.features.grant_many(subscription.id, {"exports": 1})
    for subject in (subscription, subscription.id):
        assert ts.features.can_use(subject, "api-calls", 15)
        assert ts.features.remaining(subject, "api-calls") == 15
        assert ts.features.extra_credits(subject, "api-calls") == 5
        assert ts.features.total_available(subject, "api-calls") == 15
        assert [one.id for one in ts.features.credits(subject, "api-calls")] == [grant.id]
        assert ts.features.next_reset(subject, "api-calls") == datetime(2026, 1, 16, tzinfo=UTC)
        assert [one.slug for one in ts.features.usage(subject)] == sorted(FEATURES)
    assert ts.features.use(subscription, "api-calls", 6).from_credits == 5
    assert stats(ts, subject=subscription.id) == (10, 5, 15, 6, 9)
    with pytest.raises(NotFound):
        ts.features.remaining("sub_none", "api-calls")
    assert_healthy(ts)


def test_credits_of_a_subscription_end_with_it(ts: Tallystick, subscription: Subscription, clock: FixedClock) -> None:
    ts.features.grant_credits(subscription, "api-calls", 5)
    ts.features.grant_credits(BILLABLE, "api-calls", 2)
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 7
    clock.advance(seconds=1)
    ts.subscriptions.cancel(BILLABLE, immediately=True)
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 2
    assert ts.features.remaining(BILLABLE, "api-calls") == 2
    assert not ts.features.can_use(subscription, "api-calls")
    assert ts.features.remaining(subscription, "api-calls") == 0
    assert stats(ts, subject=subscription) == (0, 0, 0, 0, 0)
    for refused in (
        lambda: ts.features.use(subscription, "api-calls"),
        lambda: ts.features.grant_credits(subscription, "api-calls", 1),
    ):
        with pytest.raises(Conflict):
            refused()
    ts.subscriptions.create(BILLABLE, "pro")
    assert ts.features.remaining(BILLABLE, "api-calls") == 12
    assert_healthy(ts)


# -- all features at once ---------------------------------------------------------------------------------------------


def test_every_feature_of_the_plan_and_of_grants_is_shown_with_its_figures(
    ts: Tallystick, subscription: Subscription
) -> None:
    ts.plans.create("other", features={"faxes": 5})
    ts.features.grant_credits(BILLABLE, "api-calls", 5)
    ts.features.grant_credits(BILLABLE, "faxes", 2)
    ts.features.use(BILLABLE, "api-calls", 6)
    found = {one.slug: one for one in ts.features.usage(BILLABLE)}
    assert list(found) == [*sorted(FEATURES), "faxes"]
    calls = found["api-calls"]
    assert (calls.name, calls.is_in_plan, calls.is_consumable, calls.value, calls.reset) == (
        "API calls",
        True,
        True,
        10,
        "daily",
    )
    assert (calls.plan_used, calls.extra_used, calls.extra_remaining, calls.remaining) == (1, 5, 0, 9)
    assert calls.next_reset == datetime(2026, 1, 16, tzinfo=UTC)
    assert (found["priority-support"].is_consumable, found["search"].remaining) == (False, None)
    assert (found["faxes"].is_in_plan, found["faxes"].remaining) == (False, 2)


# -- repetitions and concurrency --------------------------------------------------------------------------------------


def test_a_repeated_use_uses_nothing_and_returns_the_first_answer(ts: Tallystick, subscription: Subscription) -> None:
    heard: list[UsageRecorded] = []
    ts.on(UsageRecorded)(heard.append)
    ts.features.grant_credits(BILLABLE, "api-calls", 2)
    first = ts.features.use(BILLABLE, "api-calls", 3, idempotency_key="job-1")
    ts.features.use(BILLABLE, "api-calls", 5)
    again = ts.features.use(BILLABLE, "api-calls", 3, idempotency_key="job-1")
    assert again.replayed
    assert (again.usage_event_id, again.from_credits, again.from_plan, again.remaining) == (
        first.usage_event_id,
        2,
        1,
        first.remaining,
    )
    assert len(heard) == 2
    for other in ({"amount": 4}, {"slug": "exports"}, {"use_extra_credits": False}):
        with pytest.raises(IdempotencyConflict):
            ts.features.use(
                **{"billable": BILLABLE, "slug": "api-calls", "amount": 3, "idempotency_key": "job-1", **other}  # type: ignore[arg-type]
            )
    assert_healthy(ts)


def test_a_repeated_grant_grants_nothing_and_returns_the_first(ts: Tallystick, subscription: Subscription) -> None:
    first = ts.features.grant_credits(BILLABLE, "api-calls", 5, "bonus", idempotency_key="referral-17")
    assert ts.features.grant_credits(BILLABLE, "api-calls", 5, "bonus", idempotency_key="referral-17") == first
    with pytest.raises(IdempotencyConflict) as conflict:
        ts.features.grant_credits(BILLABLE, "api-calls", 6, "bonus", idempotency_key="referral-17")
    assert conflict.value.field == "credits"
    assert ts.features.extra_credits(BILLABLE, "api-calls") == 5


def test_of_many_at_once_exactly_as_many_use_it_as_there_is_room_for(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        one.plans.create("pro", features=FEATURES)
        one.subscriptions.create(BILLABLE, "pro")
        one.features.grant_credits(BILLABLE, "api-calls", 3)
        outcomes = in_threads(20, lambda index: (one, other)[index % 2].features.use(BILLABLE, "api-calls"))
        assert len(errors_of(outcomes, FeatureLimitExceeded)) == 7
        uses = [use for use in outcomes if not isinstance(use, TallystickError)]
        assert sum(use.from_credits for use in uses) == 3
        assert sorted(use.remaining for use in uses) == list(range(13))
        assert stats(one) == (10, 3, 13, 13, 0)
        assert_healthy(one)


def test_what_a_call_in_flight_holds_is_not_left_for_another(ts: Tallystick, subscription: Subscription) -> None:
    ts.features.grant_credits(BILLABLE, "exports", 1)
    meter = ts.meter.billable(BILLABLE).using_provider("manual", "model").feature("exports")
    holds = [meter.hold(tokens=1) for _ in range(3)]
    assert ts.features.remaining(BILLABLE, "exports") == 1
    meter.with_manual_usage(input_tokens=1).call(lambda: None)
    assert not ts.features.can_use(BILLABLE, "exports")
    with pytest.raises(FeatureLimitExceeded):
        meter.hold(tokens=1)
    holds[0].settle(input_tokens=1)
    holds[1].void()
    holds[2].void()
    found = ts.features.credit_stats(BILLABLE, "exports")
    assert (found.used, found.extra_used, found.remaining) == (2, 1, 2)
    assert_healthy(ts, open_holds=0)


def test_asking_reads_what_is_open_and_not_all_that_ever_was(sqlite_url: str, clock: FixedClock) -> None:
    with Tallystick(sqlite_url, clock=clock) as ts:
        ts.plans.create("pro", features=FEATURES)
        ts.features.grant_credits(BILLABLE, "api-calls", 5)
        asked: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
            asked.append((statement, values))

        event.listen(ts._engine.database, "before_cursor_execute", note)
        ts.features.remaining(BILLABLE, "api-calls")
        ts.features.credits(BILLABLE, "api-calls")
        ts.features.usage(BILLABLE)
        ts.wallets.get_or_create(BILLABLE).has_sufficient_balance("1")
        event.remove(ts._engine.database, "before_cursor_execute", note)
        with ts._engine.database.connect() as connection:
            for statement, values in asked:
                if "FROM grants" in statement:
                    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
                    assert [row[-1] for row in plan if "ix_grants_open" in row[-1]], plan
        assert sum("FROM grants" in statement for statement, _ in asked) == 4


@pytest.mark.parametrize(("enforcement", "flags"), [("shadow", {"shadow", "past_limit"}), ("off", {"past_limit"})])
def test_where_limits_are_not_enforced_a_use_past_the_allowance_is_recorded(
    database_url: str, enforcement: str, flags: set[str]
) -> None:
    with Tallystick(database_url, enforcement=enforcement) as ts:
        ts.plans.create("pro", features={"api-calls": 3})
        ts.subscriptions.create("user:1", "pro")
        ts.features.grant_credits("user:1", "api-calls", 1)
        use = ts.features.use("user:1", "api-calls", 10)
        assert (use.from_credits, use.from_plan, use.remaining) == (1, 9, 0)
        assert set(ts.usage.get(use.usage_event_id).flags) == flags
        assert ts.doctor().ok
