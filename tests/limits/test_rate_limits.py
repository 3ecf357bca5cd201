"""Rate limits: token buckets of each account, of each user, and of the settings."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import ConfigurationError, InvalidInput, NotFound, RateLimited
from tallystick.limits.quota import RateLimit
from tallystick.period import to_micros
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, count_rows, errors_of, in_threads

NUMBERS = count(1)


def use_all(ts: Tallystick, tenant: str = "acme", name: str = "ping", **part: Any) -> int:
    """Use one at a time until refused, and return how many went through."""
    for done in range(1000):
        try:
            ts.quotas.consume(tenant, name, **part)
        except RateLimited:
            return done
    raise AssertionError("nothing limits it")


def remaining(ts: Tallystick, tenant: str = "acme", **part: Any) -> list[Any]:
    return [(one.resource_type, one.per, one.remaining) for one in ts.rate_limits.status(tenant, **part)]


# -- the bucket -------------------------------------------------------------------------------------------------------


def test_a_burst_goes_through_at_once_and_then_the_rate(ts: Tallystick, clock: FixedClock) -> None:
    ts.rate_limits.set("acme", "ping", 2, "second", burst=5)
    assert use_all(ts) == 5
    with pytest.raises(RateLimited) as caught:
        ts.quotas.consume("acme", "ping")
    refused = caught.value
    assert (refused.code, refused.resource_type, refused.per, refused.limit) == ("rate_limited", "ping", "second", 2)
    assert (refused.remaining, refused.retry_after_seconds) == (0, 0.5)
    assert refused.reset_at == clock.now() + timedelta(seconds=2.5)
    clock.advance(seconds=refused.retry_after_seconds or 0)
    assert use_all(ts) == 1
    clock.advance(seconds=60)
    assert use_all(ts) == 5
    assert count_rows(ts, tables.usage_events) == 11
    assert_healthy(ts)


def test_the_status_says_what_is_left_and_when_all_of_it_is_back(ts: Tallystick, clock: FixedClock) -> None:
    ts.rate_limits.set("acme", "ping", 60, "minute", burst=10)
    ts.quotas.consume("acme", "ping", 4)
    [status] = ts.rate_limits.status("acme")
    assert (status.limit, status.remaining, status.per, status.resource_type) == (60, 6, "minute", "ping")
    assert status.reset_at == clock.now() + timedelta(seconds=4)
    clock.advance(seconds=1)
    assert ts.rate_limits.status("acme")[0].remaining == 7
    clock.advance(days=1)
    assert ts.rate_limits.status("acme")[0].reset_at == clock.now()


def test_more_than_a_burst_never_fits(ts: Tallystick) -> None:
    ts.rate_limits.set("acme", "ping", 10, "second")
    with pytest.raises(RateLimited, match="So many at once never fit") as caught:
        ts.quotas.consume("acme", "ping", 11)
    assert caught.value.retry_after_seconds is None
    ts.quotas.consume("acme", "ping", 10)


def test_several_times_hold_together(ts: Tallystick, clock: FixedClock) -> None:
    ts.rate_limits.set("acme", "ping", 3, "second")
    ts.rate_limits.set("acme", "ping", 5, "hour")
    assert use_all(ts) == 3
    clock.advance(seconds=1)
    assert use_all(ts) == 2
    # What a limit refuses, no other has lost.
    per_second, per_hour = ts.rate_limits.status("acme")
    assert (per_second.remaining, per_hour.remaining < 1) == (1, True)


def test_each_part_has_a_bucket_of_its_own(ts: Tallystick) -> None:
    ts.rate_limits.set("acme", "ping", 2, "minute", user="*")
    ts.rate_limits.set("acme", "ping", 4, "minute", user=9)
    ts.rate_limits.set("acme", "ping", 3, "minute", feature="chat")
    ts.rate_limits.set("acme", "ping", 1, "minute", key="k")
    assert [use_all(ts, user=user) for user in (1, 2, 9)] == [2, 2, 4]
    assert use_all(ts, feature="chat") == 3
    assert use_all(ts, key="k") == 1
    assert remaining(ts, user=9, feature="chat") == [("ping", "minute", 0), ("ping", "minute", 0)]
    assert remaining(ts) == []


def test_of_many_at_once_a_burst_goes_through(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        one.rate_limits.set("acme", "ping", 20, "second")
        outcomes = in_threads(60, lambda index: (one, other)[index % 2].quotas.consume("acme", "ping"))
        assert len(errors_of(outcomes, RateLimited)) == 40
        assert_healthy(one)


def test_calls_count_as_requests_and_tokens(ts: Tallystick, clock: FixedClock) -> None:
    ts.rate_limits.set("acme", "requests", 3, "minute")
    ts.rate_limits.set("acme", "tokens", 6000, "minute", burst=1000)
    meter = ts.meter.billable("tenant:acme").using_provider("manual", "m")
    with meter.hold(tokens=600) as hold:
        with pytest.raises(RateLimited):
            meter.hold(tokens=600)
        # What was asked for and not used is there again.
        hold.settle(input_tokens=100)
    assert remaining(ts, resource_type="tokens") == [("tokens", "minute", 900)]
    meter.with_manual_usage(input_tokens=900).call(lambda: None)
    with pytest.raises(RateLimited) as caught:
        meter.hold(tokens=100)
    assert caught.value.retry_after_seconds == 1
    clock.advance(seconds=1)
    meter.hold(tokens=100).settle(input_tokens=100)
    clock.advance(seconds=15)
    with pytest.raises(RateLimited, match="3 requests a minute"):
        meter.hold(tokens=1)
    assert_healthy(ts)


# -- setting ----------------------------------------------------------------------------------------------------------


def test_a_changed_limit_goes_on_from_what_was_used(ts: Tallystick, clock: FixedClock) -> None:
    first = ts.rate_limits.set("acme", "ping", 60, "minute", burst=10)
    ts.quotas.consume("acme", "ping", 10)
    second = ts.rate_limits.set("acme", "ping", 6, "minute", burst=12)
    assert (second.id, second.limit, second.burst) == (first.id, 6, 12)
    assert remaining(ts) == [("ping", "minute", 2)]
    clock.advance(seconds=10)
    assert remaining(ts) == [("ping", "minute", 3)]


def test_a_deleted_limit_limits_nothing_and_leaves_nothing_behind(ts: Tallystick) -> None:
    limit = ts.rate_limits.set("acme", "ping", 1, "hour")
    assert use_all(ts) == 1
    assert limit.id is not None
    ts.rate_limits.delete(limit.id)
    ts.quotas.consume("acme", "ping")
    assert ts.rate_limits.list("acme") == []
    with pytest.raises(NotFound):
        ts.rate_limits.delete(limit.id)
    ts.rate_limits.set("acme", "ping", 1, "hour")
    assert use_all(ts) == 1


@pytest.mark.parametrize(
    ("field", "given_to_set"),
    [
        ("per", {"per": "day"}),
        ("limit", {"limit": 0}),
        ("burst", {"burst": 0}),
        ("resource_type", {"resource_type": "cost"}),
        ("feature", {"user": 1, "feature": "chat"}),
    ],
)
def test_what_cannot_be_a_rate_limit_is_refused_by_field(
    sqlite_url: str, field: str, given_to_set: dict[str, Any]
) -> None:
    stated = {"tenant": "acme", "resource_type": "ping", "limit": 10, "per": "second", **given_to_set}
    with Tallystick(sqlite_url) as ts:
        with pytest.raises(InvalidInput) as caught:
            ts.rate_limits.set(**stated)
        assert caught.value.field == field


def test_the_settings_limit_whoever_has_no_limit_of_their_own(database_url: str, clock: FixedClock) -> None:
    everybody = {"ping": {"per_second": 2, "per_hour": 100, "burst": 3}, "requests": {"per_minute": "1.5"}}
    with Tallystick(database_url, clock=clock, rate_limits=everybody) as ts:
        own = ts.rate_limits.set("acme", "ping", 4, "second")
        assert [(one.resource_type, one.per, one.limit, one.burst, one.id) for one in ts.rate_limits.list("acme")] == [
            ("ping", "second", 4, 4, own.id),
            ("ping", "hour", 100, 3, None),
            ("requests", "minute", ts.rate_limits.list("acme")[2].limit, ts.rate_limits.list("acme")[2].burst, None),
        ]
        assert use_all(ts, "other") == 3
        assert use_all(ts, "acme") == 3
        # Where the own one goes, that of the settings comes back, with what was just used.
        assert own.id is not None
        ts.rate_limits.delete(own.id)
        assert remaining(ts, resource_type="ping") == [("ping", "second", 0), ("ping", "hour", 0)]
        assert_healthy(ts)


def test_rate_limits_and_thresholds_may_come_from_the_environment(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_RATE_LIMITS__REQUESTS__PER_MINUTE", "300")
    monkeypatch.setenv("TALLYSTICK_RATE_LIMITS__FILE_UPLOAD__PER_SECOND", "0.5")
    monkeypatch.setenv("TALLYSTICK_QUOTAS__THRESHOLDS", "90,75")
    with Tallystick(sqlite_url) as ts:
        found = {(one.resource_type, one.per): one.limit for one in ts.rate_limits.list("acme")}
        assert found == {("requests", "minute"): 300, ("file_upload", "second"): Decimal("0.5")}
        assert ts.settings.quotas.thresholds == (75, 90)
        shown = {row.key: row.value for row in ts.settings.describe() if row.key.startswith(("quotas", "rate_limits"))}
        assert shown == {
            "quotas.thresholds": [75, 90],
            "rate_limits.requests.per_minute": "300",
            "rate_limits.file_upload.per_second": "0.5",
        }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate_limits.ping.per_second", {"ping": {"per_second": 0}}),
        ("rate_limits.ping.per_day", {"ping": {"per_day": 1}}),
        ("rate_limits.ping", {"ping": {"burst": 5}}),
        ("rate_limits.cost", {"cost": {"per_hour": 5}}),
    ],
)
def test_settings_that_are_no_rate_limits_are_refused(key: str, value: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Tallystick("sqlite://", rate_limits=value)
    assert key in str(caught.value)


@pytest.mark.parametrize("limit", [1, 3, 7, 999, 1_000_003])
def test_exactly_a_burst_fits_at_once_whatever_the_rate(limit: int) -> None:
    rate = RateLimit("user:1", "ping", "", "second", limit * 10**6, limit * 10**6)
    level, now = 0, 1_768_478_400_000_000
    for part in (1, limit // 3, limit - 1 - limit // 3):
        assert rate.wait(level, now, part * 10**6) == 0
        level = rate.taken(level, now, part * 10**6)
    assert rate.standing(level, now).remaining == 0
    assert rate.stored(level)[1] < rate.limit < 2**63
    assert rate.level(*rate.stored(level)) == level
    assert rate.standing(level, now + 10**6).remaining == rate.burst


# -- properties -------------------------------------------------------------------------------------------------------

BUCKETS = st.builds(
    lambda per, limit, burst: RateLimit("user:1", "ping", "", per, limit, burst),
    st.sampled_from(("second", "minute", "hour")),
    st.integers(1, 10**9),
    st.integers(1, 10**8),
)
SECONDS = {"second": 1, "minute": 60, "hour": 3600}


@given(
    limit=BUCKETS,
    steps=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**8)), min_size=1, max_size=40),
)
def test_no_stretch_of_time_admits_more_than_the_burst_and_what_flows_in(
    limit: RateLimit, steps: list[tuple[int, int]]
) -> None:
    now, level = 1_768_478_400_000_000, 0
    admitted: list[tuple[int, int]] = []
    for microseconds, amount in steps:
        now += microseconds
        wait = limit.wait(level, now, amount)
        assert (wait is None) == (amount > limit.burst)
        if wait is not None and wait > 0:
            # It says truly when there is room.
            later = now + -(-wait // 1000)
            assert limit.wait(level, later, amount) == 0
        if wait == 0:
            assert amount <= limit.standing(level, now).remaining
            level = limit.taken(level, now, amount)
            admitted.append((now, amount))
    for first, (start, _) in enumerate(admitted):
        total = 0
        for at, amount in admitted[first:]:
            total += amount
            flown_in = (at - start) * limit.limit // (SECONDS[limit.per] * 10**6)
            assert total <= limit.burst + flown_in


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.integers(0, 3 * 10**6), st.integers(1, 3)), min_size=1, max_size=20))
def test_the_engine_admits_no_more_than_the_burst_and_the_rate(
    ts: Tallystick, clock: FixedClock, steps: list[tuple[int, int]]
) -> None:
    tenant = f"rate-{next(NUMBERS)}"
    ts.rate_limits.set(tenant, "ping", 2, "second", burst=3)
    admitted: list[tuple[int, int]] = []
    for microseconds, quantity in steps:
        clock.advance(microseconds=microseconds)
        try:
            ts.quotas.consume(tenant, "ping", quantity)
        except RateLimited:
            continue
        admitted.append((to_micros(clock.now()), quantity))
    for first, (start, _) in enumerate(admitted):
        for last in range(first, len(admitted)):
            total = sum(quantity for _, quantity in admitted[first : last + 1])
            assert total <= 3 + 2 * (admitted[last][0] - start) / 10**6
