"""Subscriptions at work: their life, and the limits that come and go with it."""

from __future__ import annotations

import threading

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, InvalidInput, LimitExceeded, NotFound, PlanNotFound
from tallystick.events import SubscriptionCancelled, SubscriptionCreated
from tallystick.period import parse_instant
from tests.acceptance.accounts import BILLABLE, assert_healthy, errors_of, in_threads, meter, standing, subscribe


def limit(ts: Tallystick, billable: str = BILLABLE) -> int | None:
    """Return the limit that counts, as asking sees it; a hold beyond it must be refused for the same one."""
    found = ts.limits.check(billable).token_limit
    if found is None:
        meter(ts, billable).hold(tokens=10**9).void()
    else:
        with pytest.raises(LimitExceeded) as refused:
            meter(ts, billable).hold(tokens=10**9)
        assert refused.value.limit == found
    return found


def test_a_subscription_is_in_force_from_its_start(ts: Tallystick, clock: FixedClock) -> None:
    heard: list[SubscriptionCreated] = []
    ts.on(SubscriptionCreated)(heard.append)
    ts.plans.create("pro", monthly_token_limit=100)
    ts.subscriptions.create(BILLABLE, "pro", started_at="2026-01-20")
    assert len(heard) == 1
    for instant, status, expected in (
        ("2026-01-19T23:59:59.999999Z", "future", None),
        ("2026-01-20T00:00:00Z", "active", 100),
    ):
        clock.set(instant)
        assert (ts.subscriptions.status(BILLABLE), limit(ts)) == (status, expected)


def test_a_trial_lasts_the_plans_days_or_until_its_date(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", trial_days=14, monthly_token_limit=100)
    ts.subscriptions.create("user:1", "pro")
    ts.subscriptions.create("user:2", "pro", trial_ends_at="2026-01-16")
    clock.set("2026-01-16")
    assert [ts.subscriptions.status(f"user:{n}") for n in (1, 2)] == ["trial", "active"]
    clock.set("2026-01-29T12:00:00Z")
    assert ts.subscriptions.status("user:1") == "active"
    assert limit(ts) == 100


def test_a_pending_one_waits_to_be_activated(ts: Tallystick) -> None:
    ts.plans.create("pro", monthly_token_limit=100)
    ts.subscriptions.create(BILLABLE, "pro", pending=True)
    assert (ts.subscriptions.status(BILLABLE), limit(ts)) == ("pending", None)
    ts.subscriptions.activate(BILLABLE)
    assert (ts.subscriptions.status(BILLABLE), limit(ts)) == ("active", 100)


def test_a_cancelled_one_lasts_until_the_period_ends_and_can_be_resumed(ts: Tallystick, clock: FixedClock) -> None:
    heard: list[SubscriptionCancelled] = []
    ts.on(SubscriptionCancelled)(heard.append)
    subscribe(ts, monthly_token_limit=100)
    cancelled = ts.subscriptions.cancel(BILLABLE)
    assert cancelled.ends_at == parse_instant("2026-02-15T12:00:00Z")
    assert ts.subscriptions.cancel(BILLABLE).ends_at == cancelled.ends_at
    assert [one.ends_at for one in heard] == [cancelled.ends_at]
    ts.subscriptions.resume(BILLABLE)
    with pytest.raises(Conflict):
        ts.subscriptions.resume(BILLABLE)
    clock.set("2026-02-15T12:00:00Z")
    assert limit(ts) == 100
    ts.subscriptions.cancel(BILLABLE)
    clock.set("2026-03-15T11:59:59.999999Z")
    assert limit(ts) == 100
    clock.set("2026-03-15T12:00:00Z")
    assert (ts.subscriptions.status(BILLABLE), limit(ts)) == ("cancelled", None)
    with pytest.raises(Conflict):
        ts.subscriptions.resume(BILLABLE)
    with pytest.raises(Conflict):
        ts.subscriptions.cancel(BILLABLE)


def test_cancelling_never_prolongs_what_ends_earlier(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", monthly_token_limit=100)
    ts.subscriptions.create(BILLABLE, "pro", ends_at="2026-01-20")
    assert ts.subscriptions.cancel(BILLABLE).ends_at == parse_instant("2026-01-20")
    assert ts.subscriptions.resume(BILLABLE).ends_at == parse_instant("2026-01-20")
    clock.set("2026-01-20")
    assert limit(ts) is None


def test_cancelling_at_once_ends_it_now_and_keeps_what_was_used(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100)
    meter(ts).with_manual_usage(input_tokens=90).call(lambda: None)
    ts.subscriptions.cancel(BILLABLE)
    ts.subscriptions.cancel(BILLABLE, immediately=True)
    assert limit(ts) is None
    ts.subscriptions.create(BILLABLE, "pro")
    # The period is the calendar's, so a new subscription in it does not begin at zero.
    assert standing(ts) == (90, 0)
    assert_healthy(ts)


def test_a_failed_payment_starts_a_grace_period_that_a_second_does_not_prolong(
    ts: Tallystick, clock: FixedClock
) -> None:
    subscribe(ts, monthly_token_limit=100)
    ts.subscriptions.payment_failed(BILLABLE)
    clock.advance(days=6)
    assert (ts.subscriptions.status(BILLABLE), limit(ts)) == ("past_due", 100)
    ts.subscriptions.payment_failed(BILLABLE)
    clock.advance(days=1)
    assert (ts.subscriptions.status(BILLABLE), limit(ts)) == ("expired", None)
    ts.subscriptions.payment_succeeded(BILLABLE)
    assert (ts.subscriptions.status(BILLABLE), limit(ts)) == ("active", 100)


def test_one_subscription_at_a_time(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts)
    with pytest.raises(Conflict):
        ts.subscriptions.create(BILLABLE, "pro")
    with pytest.raises(Conflict):
        ts.subscriptions.create(BILLABLE, "pro", started_at="2026-03-01")
    ts.subscriptions.cancel(BILLABLE)
    with pytest.raises(Conflict):
        ts.subscriptions.create(BILLABLE, "pro", started_at="2026-02-15T11:59:59.999999Z")
    ts.subscriptions.create(BILLABLE, "pro", started_at="2026-02-15T12:00:00Z")
    assert len(ts.subscriptions.list(BILLABLE)) == 2
    clock.set("2026-02-15T12:00:00Z")
    assert ts.subscriptions.status(BILLABLE) == "active"


def test_of_many_who_subscribe_at_once_one_does(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        one.plans.create("pro")
        outcomes = in_threads(12, lambda index: (one, other)[index % 2].subscriptions.create(BILLABLE, "pro"))
        assert len(errors_of(outcomes, Conflict)) == 11
        assert len(one.subscriptions.list(BILLABLE)) == 1


def test_of_many_who_create_a_plan_at_once_one_does(database_url: str) -> None:
    with Tallystick(database_url) as one, Tallystick(database_url) as other:
        outcomes = in_threads(12, lambda index: (one, other)[index % 2].plans.create("pro"))
        assert len(errors_of(outcomes, Conflict)) == 11
        assert [plan.slug for plan in one.plans.list()] == ["pro"]


def test_what_cannot_be_subscribed_is_refused(ts: Tallystick) -> None:
    with pytest.raises(PlanNotFound):
        ts.subscriptions.create(BILLABLE, "none")
    ts.plans.create("pro")
    for dates in ({"trial_ends_at": "2026-01-01"}, {"ends_at": "2026-01-15T12:00:00Z"}):
        with pytest.raises(InvalidInput):
            ts.subscriptions.create(BILLABLE, "pro", **dates)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        ts.subscriptions.create(BILLABLE, "pro", billing_mode="barter")
    with pytest.raises(NotFound):
        ts.subscriptions.get(BILLABLE)


def test_a_hold_before_midnight_that_is_settled_after_it_counts_in_the_old_period(
    ts: Tallystick, clock: FixedClock
) -> None:
    subscribe(ts, monthly_token_limit=100)
    clock.set("2026-01-31T23:59:59.999999Z")
    hold = meter(ts).hold(tokens=60)
    clock.set("2026-02-01")
    assert standing(ts) == (0, 0)
    assert meter(ts).hold(tokens=100)
    settled = hold.settle(input_tokens=80)
    assert settled.event.period_start == parse_instant("2026-01-01")
    assert settled.limit_check.tokens_used == 80
    assert standing(ts) == (0, 100)
    clock.set("2026-01-31T23:59:59Z")
    assert standing(ts) == (80, 0)
    assert_healthy(ts)


def test_a_hold_outlives_the_subscription_that_it_was_taken_of(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, monthly_token_limit=100)
    hold = meter(ts).hold(tokens=60)
    clock.advance(seconds=1)
    ts.subscriptions.cancel(BILLABLE, immediately=True)
    settled = hold.settle(input_tokens=10)
    assert settled.event.plan_version_id is not None
    assert standing(ts) == (10, 0)
    assert_healthy(ts, open_holds=0)


def test_rolling_periods_begin_on_the_subscriptions_own_day(database_url: str, clock: FixedClock) -> None:
    clock.set("2026-01-31T10:00:00Z")
    with Tallystick(database_url, clock=clock, period={"type": "rolling"}) as ts:
        subscribe(ts, monthly_token_limit=100)
        for instant, used, resets_at in (
            ("2026-01-31T10:00:00Z", 0, "2026-02-28T10:00:00Z"),
            ("2026-02-28T09:59:59.999999Z", 100, "2026-02-28T10:00:00Z"),
            ("2026-02-28T10:00:00Z", 0, "2026-03-31T10:00:00Z"),
            ("2026-03-31T10:00:00Z", 0, "2026-04-30T10:00:00Z"),
        ):
            clock.set(instant)
            assert standing(ts) == (used, 0), instant
            assert ts.limits.check(BILLABLE).resets_at == parse_instant(resets_at)
            if not used:
                meter(ts).with_manual_usage(input_tokens=100).call(lambda: None)
            with pytest.raises(LimitExceeded):
                meter(ts).hold(tokens=1)
        assert_healthy(ts)


def test_terms_that_change_all_the_time_never_admit_too_much(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts, Tallystick(database_url, clock=clock) as office:
        subscribe(ts, monthly_token_limit=100)
        stop = threading.Event()

        def change() -> None:
            while not stop.is_set():
                # Only ever to a limit that is as tight or tighter.
                override = office.limits.override(BILLABLE, token_limit=50)
                office.limits.end_override(override.id)

        changer = threading.Thread(target=change)
        changer.start()
        outcomes = in_threads(8, lambda _: [_held(ts) for _ in range(10)])
        stop.set()
        changer.join(20)
        held = sum(tokens for one in outcomes for tokens in one)
        assert 50 <= held <= 100
        assert standing(ts) == (0, held)
        assert_healthy(ts)


def _held(ts: Tallystick) -> int:
    try:
        return meter(ts).hold(tokens=5).tokens
    except LimitExceeded:
        return 0
