"""What is in force when: statuses at exact instants, periods of calendars and anniversaries, kept answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import InvalidInput
from tallystick.limits.counters import CounterKey
from tallystick.money import Money
from tallystick.period import MAX_MICROS, MIN_MICROS, PeriodKind, from_micros, parse_instant, to_micros
from tallystick.plans.terms import (
    RESETS,
    BillingMode,
    CreditCap,
    LimitOverride,
    OverageBehavior,
    PlanVersion,
    Subscription,
    SubscriptionStatus,
    Terms,
    TermsPolicy,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = TermsPolicy(
    currency="USD",
    period_kind=PeriodKind.MONTHLY,
    is_anniversary=False,
    zone="UTC",
    overage_behavior=OverageBehavior.BLOCK,
    grace_period_days=7,
)
PLAN = PlanVersion(
    id="plv_1",
    plan_id="pln_1",
    slug="pro",
    name="Pro",
    version=1,
    currency="USD",
    monthly_token_limit=100,
    monthly_cost_limit=Money("1", "USD"),
    overage_price_per_1k_tokens=Decimal("0.01"),
    overage_behavior=None,
    trial_days=0,
    price=None,
    billing_cycle="monthly",
    created_at=START,
    published_at=START,
)


def subscription(started_at: datetime = START, **dates: Any) -> Subscription:
    given: dict[str, Any] = {
        "id": "sub_1",
        "billable": "user:1",
        "plan": PLAN,
        "billing_mode": BillingMode.PLAN,
        "started_at": started_at,
        "trial_ends_at": None,
        "is_pending": False,
        "cancelled_at": None,
        "cancels_at": None,
        "term_ends_at": None,
        "payment_failed_at": None,
        "created_at": START,
    }
    return Subscription(**{**given, **dates})


def at(text: str) -> datetime:
    return parse_instant(text)


@pytest.mark.parametrize(
    ("instant", "status"),
    [
        ("2026-01-31T23:59:59.999999Z", "future"),
        ("2026-02-01T00:00:00Z", "trial"),
        ("2026-02-14T23:59:59.999999Z", "trial"),
        ("2026-02-15T00:00:00Z", "active"),
        ("2026-02-28T23:59:59.999999Z", "active"),
        ("2026-03-01T00:00:00Z", "past_due"),
        ("2026-03-07T23:59:59.999999Z", "past_due"),
        ("2026-03-08T00:00:00Z", "expired"),
        ("2026-04-01T00:00:00Z", "cancelled"),
    ],
)
def test_a_status_changes_at_its_instant_to_the_microsecond(instant: str, status: str) -> None:
    one = subscription(
        at("2026-02-01"),
        trial_ends_at=at("2026-02-15"),
        payment_failed_at=at("2026-03-01"),
        cancelled_at=at("2026-03-15"),
        cancels_at=at("2026-04-01"),
    )
    assert one.status(at(instant), grace_period_days=7) == status
    in_force = Terms("user:1", POLICY, (one,)).at(to_micros(at(instant)))
    is_in_force = status in ("trial", "active", "past_due")
    assert (in_force.token_limit, in_force.plan) == ((100, "pro") if is_in_force else (None, None))
    assert SubscriptionStatus(status).is_in_force == is_in_force


def test_a_pending_subscription_is_never_in_force() -> None:
    pending = subscription(is_pending=True)
    assert pending.status(START + timedelta(days=400), grace_period_days=7) == "pending"
    assert Terms("user:1", POLICY, (pending,)).at(to_micros(START)).plan is None


def test_a_term_that_ends_expires_and_a_cancellation_cancels() -> None:
    ends = at("2026-03-01")
    assert subscription(term_ends_at=ends).status(ends, grace_period_days=7) == "expired"
    assert subscription(cancels_at=ends, cancelled_at=START).status(ends, grace_period_days=7) == "cancelled"
    both = subscription(term_ends_at=ends, cancels_at=at("2026-04-01"), cancelled_at=START)
    assert both.ends_at == ends


def test_of_several_subscriptions_the_one_that_started_last_is_in_force() -> None:
    later = subscription(at("2026-02-01"), id="sub_2")
    terms = Terms("user:1", POLICY, (later, subscription()))
    assert terms.at(to_micros(at("2026-01-31"))).subscription_id == "sub_1"
    assert terms.at(to_micros(at("2026-02-01"))).subscription_id == "sub_2"


@pytest.mark.parametrize(
    ("instant", "start", "end"),
    [
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"),
        ("2026-02-28T09:59:59.999999Z", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"),
        ("2026-02-28T10:00:00Z", "2026-02-28T10:00:00Z", "2026-03-31T10:00:00Z"),
        ("2026-03-31T10:00:00Z", "2026-03-31T10:00:00Z", "2026-04-30T10:00:00Z"),
        ("2028-02-29T10:00:00Z", "2028-02-29T10:00:00Z", "2028-03-31T10:00:00Z"),
    ],
)
def test_anniversary_periods_clamp_to_short_months_and_come_back(instant: str, start: str, end: str) -> None:
    policy = TermsPolicy(**{**{name: getattr(POLICY, name) for name in POLICY.__slots__}, "is_anniversary": True})
    in_force = Terms("user:1", policy, (subscription(at("2026-01-31T10:00:00Z")),)).at(to_micros(at(instant)))
    assert (from_micros(in_force.period_start), from_micros(in_force.period_end)) == (at(start), at(end))


def test_calendar_periods_begin_at_midnight_of_the_zone() -> None:
    policy = TermsPolicy(**{**{name: getattr(POLICY, name) for name in POLICY.__slots__}, "zone": "America/Sao_Paulo"})
    in_force = Terms("user:1", policy, (subscription(),)).at(to_micros(at("2026-02-01T02:59:59Z")))
    assert from_micros(in_force.period_end) == at("2026-02-01T03:00:00Z")


instants = st.integers(to_micros(START) - 10**13, to_micros(START) + 3 * 10**13)
dates = st.none() | instants.map(from_micros)


@st.composite
def some_terms(draw: st.DrawFn) -> Terms:
    subscriptions = tuple(
        subscription(
            from_micros(draw(instants)),
            id=f"sub_{number}",
            trial_ends_at=draw(dates),
            is_pending=draw(st.booleans()),
            cancelled_at=draw(dates),
            cancels_at=draw(dates),
            term_ends_at=draw(dates),
            payment_failed_at=draw(dates),
        )
        for number in range(draw(st.integers(0, 3)))
    )
    overrides = []
    for number in range(draw(st.integers(0, 3))):
        start = draw(instants)
        length = draw(st.none() | st.integers(1, 10**13))
        end = None if length is None else from_micros(start + length)
        token_limit, cost_limit = draw(st.integers(0, 9)), draw(st.none() | st.just(Money("2", "USD")))
        created = from_micros(draw(instants))
        overrides.append(
            LimitOverride(f"ovr_{number}", "user:1", from_micros(start), end, token_limit, cost_limit, None, created)
        )
    policy = TermsPolicy("USD", PeriodKind.MONTHLY, draw(st.booleans()), "UTC", OverageBehavior.ALLOW, 7)
    return Terms("user:1", policy, subscriptions, tuple(overrides))


@given(some_terms(), st.lists(instants, min_size=2, max_size=12))
def test_a_kept_answer_equals_a_fresh_one_at_any_instant(terms: Terms, asked: list[int]) -> None:
    for instant in asked:
        kept = terms.at(instant)
        fresh = Terms(terms.billable, terms.policy, terms.subscriptions, terms.overrides).at(instant)
        assert kept == fresh
        assert kept.valid_from <= instant < kept.valid_until
        # And so it is until the last microsecond that it claims, and from the first.
        for edge in (kept.valid_from, kept.valid_until - 1):
            if abs(edge) < 4 * 10**15:
                again = Terms(terms.billable, terms.policy, terms.subscriptions, terms.overrides).at(edge)
                assert again == kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": START},
        {"token_limit": None},
        {"token_limit": -1},
        {"cost_limit": Money("-1", "USD")},
    ],
)
def test_an_override_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "id": "ovr_1",
        "billable": "user:1",
        "start": START,
        "end": None,
        "token_limit": 1,
        "cost_limit": None,
        "reason": None,
        "created_at": START,
    }
    with pytest.raises(InvalidInput):
        LimitOverride(**{**given, **wrong})


# The periods of allowances and caps ----------------------------------------------------------------------------------


def zoned(zone: str, *, is_anniversary: bool = False) -> TermsPolicy:
    return TermsPolicy("USD", PeriodKind.MONTHLY, is_anniversary, zone, OverageBehavior.BLOCK, 7)


def bounds(terms: Terms, period: str, instant: str) -> tuple[str, str]:
    start, end = terms.bounds(period, to_micros(at(instant)))
    return f"{from_micros(start):%Y-%m-%dT%H:%M}", f"{from_micros(end):%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("period", "instant", "start", "end"),
    [
        ("hourly", "2026-02-01T02:59:59.999999Z", "2026-02-01T02:00", "2026-02-01T03:00"),
        ("daily", "2026-02-01T02:59:59.999999Z", "2026-01-31T03:00", "2026-02-01T03:00"),
        ("daily", "2026-02-01T03:00:00Z", "2026-02-01T03:00", "2026-02-02T03:00"),
        ("weekly", "2026-02-01T12:00:00Z", "2026-01-26T03:00", "2026-02-02T03:00"),
        ("monthly", "2026-02-01T02:59:59.999999Z", "2026-01-01T03:00", "2026-02-01T03:00"),
        ("monthly", "2026-02-01T03:00:00Z", "2026-02-01T03:00", "2026-03-01T03:00"),
        ("quarterly", "2026-02-01T03:00:00Z", "2026-01-01T03:00", "2026-04-01T03:00"),
        ("yearly", "2026-01-01T02:59:59.999999Z", "2025-01-01T03:00", "2026-01-01T03:00"),
        # The clocks went forward at midnight: the day begins at one o'clock and has 23 hours.
        ("daily", "2018-11-04T03:00:00Z", "2018-11-04T03:00", "2018-11-05T02:00"),
        ("daily", "2018-11-04T02:59:59.999999Z", "2018-11-03T03:00", "2018-11-04T03:00"),
        # They went back at midnight: the evening is there twice, and the day has 25 hours.
        ("daily", "2019-02-17T02:59:59.999999Z", "2019-02-16T02:00", "2019-02-17T03:00"),
        ("hourly", "2019-02-17T02:30:00Z", "2019-02-17T02:00", "2019-02-17T03:00"),
        ("monthly", "2018-11-15T00:00:00Z", "2018-11-01T03:00", "2018-12-01T02:00"),
    ],
)
def test_reset_periods_of_the_calendar_begin_where_the_zone_says(
    period: str, instant: str, start: str, end: str
) -> None:
    terms = Terms("user:1", zoned("America/Sao_Paulo"), (subscription(at("2018-01-31T10:00:00Z")),))
    assert bounds(terms, period, instant) == (start, end)


@pytest.mark.parametrize(
    ("period", "instant", "start", "end"),
    [
        ("hourly", "2026-01-31T10:59:59Z", "2026-01-31T10:30", "2026-01-31T11:30"),
        ("daily", "2026-02-01T10:29:59.999999Z", "2026-01-31T10:30", "2026-02-01T10:30"),
        ("daily", "2026-02-01T10:30:00Z", "2026-02-01T10:30", "2026-02-02T10:30"),
        ("weekly", "2026-02-07T10:29:59Z", "2026-01-31T10:30", "2026-02-07T10:30"),
        ("monthly", "2026-02-28T10:29:59.999999Z", "2026-01-31T10:30", "2026-02-28T10:30"),
        ("monthly", "2026-02-28T10:30:00Z", "2026-02-28T10:30", "2026-03-31T10:30"),
        ("quarterly", "2026-04-30T10:30:00Z", "2026-04-30T10:30", "2026-07-31T10:30"),
        ("yearly", "2027-01-31T10:29:59Z", "2026-01-31T10:30", "2027-01-31T10:30"),
    ],
)
def test_reset_periods_of_anniversaries_begin_on_the_subscriptions_own_day_and_hour(
    period: str, instant: str, start: str, end: str
) -> None:
    policy = zoned("America/Sao_Paulo", is_anniversary=True)
    terms = Terms("user:1", policy, (subscription(at("2026-01-31T10:30:00Z")),))
    assert bounds(terms, period, instant) == (start, end)


def test_an_anniversary_keeps_its_wall_time_across_a_clock_change() -> None:
    started_at = at("2018-10-04T03:00:00Z")  # midnight of the 4th in São Paulo
    terms = Terms("user:1", zoned("America/Sao_Paulo", is_anniversary=True), (subscription(started_at),))
    # On the 4th of November there is no midnight: the clock reads one o'clock first. A month on it is midnight again.
    assert bounds(terms, "monthly", "2018-11-04T02:59:59Z") == ("2018-10-04T03:00", "2018-11-04T03:00")
    assert bounds(terms, "monthly", "2018-11-04T03:00:00Z") == ("2018-11-04T03:00", "2018-12-04T02:00")
    assert bounds(terms, "daily", "2018-11-04T03:00:00Z") == ("2018-11-04T03:00", "2018-11-05T02:00")


def test_without_a_subscription_in_force_anniversaries_are_those_of_the_calendar() -> None:
    policy = zoned("UTC", is_anniversary=True)
    ended = subscription(at("2026-01-10T06:00:00Z"), cancels_at=at("2026-01-20T00:00:00Z"))
    next_one = subscription(at("2026-01-25T18:00:00Z"), id="sub_2")
    terms = Terms("user:1", policy, (ended, next_one))
    for _ in range(2):
        assert bounds(terms, "monthly", "2026-01-09T00:00:00Z") == ("2026-01-01T00:00", "2026-02-01T00:00")
        assert bounds(terms, "monthly", "2026-01-19T23:59:59Z") == ("2026-01-10T06:00", "2026-02-10T06:00")
        assert bounds(terms, "monthly", "2026-01-20T00:00:00Z") == ("2026-01-01T00:00", "2026-02-01T00:00")
        assert bounds(terms, "monthly", "2026-01-25T18:00:00Z") == ("2026-01-25T18:00", "2026-02-25T18:00")
    assert bounds(Terms("user:1", policy), "daily", "2026-01-09T12:00:00Z") == ("2026-01-09T00:00", "2026-01-10T00:00")


@pytest.mark.parametrize("period", ["never", "total"])
def test_what_never_resets_is_counted_for_all_time(period: str) -> None:
    for policy in (POLICY, zoned("America/Sao_Paulo", is_anniversary=True)):
        terms = Terms("user:1", policy, (subscription(),))
        for instant in (MIN_MICROS, 0, to_micros(START), MAX_MICROS - 1, MAX_MICROS):
            assert terms.bounds(period, instant) == (MIN_MICROS, MAX_MICROS)


def test_a_period_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'daily'"):
        Terms("user:1", POLICY).bounds("dayly", 0)


def test_an_allowance_has_one_counter_for_each_reset_period() -> None:
    terms = Terms("user:1", zoned("America/Sao_Paulo"), (subscription(),))
    midnight = to_micros(at("2026-01-15T03:00:00Z"))
    today = CounterKey("user:1", "feature:api-calls", "", "daily", midnight)
    day = 86_400_000_000
    assert terms.feature_counter("api-calls", "daily", midnight) == today
    assert terms.feature_counter("api-calls", "daily", midnight + day - 1) == today
    assert terms.feature_counter("api-calls", "daily", midnight + day) == today._replace(period_start=midnight + day)
    assert terms.feature_counter("api-calls", "never", midnight) == CounterKey(
        "user:1", "feature:api-calls", "", "never", MIN_MICROS
    )


@given(some_terms(), st.lists(st.tuples(st.sampled_from(RESETS), instants), min_size=2, max_size=12))
def test_kept_bounds_equal_fresh_ones_at_any_instant(terms: Terms, asked: list[tuple[str, int]]) -> None:
    for period, instant in asked:
        start, end = terms.bounds(period, instant)
        assert start <= instant < end
        fresh = Terms(terms.billable, terms.policy, terms.subscriptions, terms.overrides)
        assert fresh.bounds(period, instant) == (start, end)


# Caps ---------------------------------------------------------------------------------------------------------------


def test_a_users_own_cap_goes_before_that_of_everybody() -> None:
    everybody = CreditCap("tenant:acme", "USD", "*", 5, "monthly", START)
    own = CreditCap("tenant:acme", "USD", "user:7", 9, "daily", START)
    exports = CreditCap("tenant:acme", "feature:exports", "user:7", 1, "never", START)
    terms = Terms("tenant:acme", POLICY, caps=(everybody, own, exports))
    assert terms.cap_for("USD", "user:7") is own
    assert terms.cap_for("USD", "user:8") is everybody
    assert terms.cap_for("feature:exports", "user:7") is exports
    assert terms.cap_for("feature:exports", "user:8") is None
    assert terms.cap_for("EUR", "user:7") is None
    assert terms.cap_for("USD", None) is None
    assert Terms("tenant:acme", POLICY).cap_for("USD", "user:7") is None


def test_a_cap_of_nothing_is_a_cap() -> None:
    everybody = CreditCap("tenant:acme", "USD", "*", 5, "monthly", START)
    nothing = CreditCap("tenant:acme", "USD", "user:7", 0, "monthly", START)
    assert Terms("tenant:acme", POLICY, caps=(everybody, nothing)).cap_for("USD", "user:7") is nothing
