"""Quotas: setting them, asking about them, using against them, and what they announce."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, update

from tallystick import AsyncTallystick, FixedClock, Tallystick
from tallystick.errors import (
    CurrencyMismatch,
    IdempotencyConflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    QuotaExceeded,
    TallystickError,
    TenantSuspended,
)
from tallystick.events import QuotaExceeded as Exceeded
from tallystick.events import QuotaWarning
from tallystick.limits.values import QuotaStatus
from tallystick.money import Money
from tallystick.period import to_micros
from tallystick.storage import tables
from tests.acceptance.accounts import assert_healthy, count_rows, in_threads

NUMBERS = count(1)


def call(ts: Tallystick, billable: str = "tenant:acme", **usage: Any) -> Any:
    """Make a call of a provider whose use is stated."""
    meter = ts.meter.billable(billable).using_provider("manual", "m")
    return meter.with_manual_usage(**usage).call(lambda: None)


def standings(ts: Tallystick, tenant: str = "acme") -> dict[tuple[str, str, str | None], Any]:
    return {
        (one.resource_type, one.period, one.quota.user or one.quota.feature or one.quota.key): one.current
        for one in ts.quotas.status(tenant)
    }


def announced(ts: Tallystick) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for kind in (QuotaWarning, Exceeded):
        ts.on(kind)(lambda one: found.append((one.resource_type, one.threshold)))
    return found


# -- setting ----------------------------------------------------------------------------------------------------------


def test_a_quota_is_hard_and_warns_at_80_percent_unless_it_says_otherwise(ts: Tallystick) -> None:
    quota = ts.quotas.set("acme", "message", 1000, "daily")
    assert (quota.billable, quota.resource_type, quota.limit, quota.period) == ("tenant:acme", "message", 1000, "daily")
    assert (quota.is_hard_limit, quota.thresholds, quota.notification_threshold) == (True, (80,), 80)
    soft = ts.quotas.set("acme", "message", "2.5", "total", is_hard_limit=False, thresholds=(90, 50, 90), user=7)
    assert (soft.limit, soft.is_hard_limit, soft.thresholds, soft.user) == (Decimal("2.5"), False, (50, 90), "user:7")
    assert ts.quotas.list("acme") == [quota, soft]
    assert ts.quotas.get(soft.id) == soft
    assert ts.quotas.set("acme", "tool_call", 1, "daily", thresholds=()).notification_threshold is None


def test_the_thresholds_of_the_settings_hold_where_none_are_given(sqlite_url: str) -> None:
    with Tallystick(sqlite_url, quotas={"thresholds": (95, 50)}) as ts:
        assert ts.quotas.set("acme", "message", 10, "daily").thresholds == (50, 95)
        assert ts.quotas.set("acme", "message", 10, "daily", notification_threshold=80).thresholds == (80,)


def test_setting_a_quota_again_changes_the_one_there_is(ts: Tallystick, clock: FixedClock) -> None:
    first = ts.quotas.set("acme", "message", 5, "daily")
    ts.quotas.consume("acme", "message", 4)
    clock.advance(minutes=1)
    second = ts.quotas.set("acme", "message", 3, "daily", is_hard_limit=False)
    assert (second.id, second.created_at) == (first.id, first.created_at)
    assert second.updated_at == clock.now()
    assert ts.quotas.check("acme", "message", "daily").current == 4
    others = [
        ts.quotas.set("acme", "message", 3, "monthly"),
        ts.quotas.set("acme", "message", 3, "daily", user="*"),
        ts.quotas.set("acme", "message", 3, "daily", sliding=True),
        ts.quotas.set("acme", "embedding", 3, "daily"),
        ts.quotas.set("user:1", "message", 3, "daily"),
    ]
    assert len({first.id, *(one.id for one in others)}) == 6


@pytest.mark.parametrize(
    ("field", "given_to_set"),
    [
        ("period", {"period": "fortnightly"}),
        ("period", {"period": "monthly", "sliding": True}),
        ("limit", {"limit": -1}),
        ("limit", {"limit": "many"}),
        ("limit", {"limit": "0.0000001"}),
        ("limit", {"limit": Money("5", "USD")}),
        ("amount", {"resource_type": "cost", "limit": 0.5}),
        ("limit", {"resource_type": "cost", "limit": Money("-1", "USD")}),
        ("thresholds", {"thresholds": (80, 100)}),
        ("notification_threshold", {"notification_threshold": 0}),
        ("notification_threshold", {"notification_threshold": 80, "thresholds": (80,)}),
        ("feature", {"user": 1, "feature": "chat"}),
        ("key", {"feature": "chat", "key": "k"}),
        ("is_hard_limit", {"is_hard_limit": "yes"}),
        ("resource_type", {"resource_type": "no such name"}),
    ],
)
def test_what_cannot_be_a_quota_is_refused_by_field(sqlite_url: str, field: str, given_to_set: dict[str, Any]) -> None:
    stated = {"tenant": "acme", "resource_type": "message", "limit": 10, "period": "daily", **given_to_set}
    with Tallystick(sqlite_url) as ts:
        with pytest.raises(InvalidInput) as caught:
            ts.quotas.set(**stated)
        assert caught.value.field == field


def test_a_limit_of_cost_is_in_the_currency_of_the_account(ts: Tallystick) -> None:
    ts.plans.create("euro", monthly_cost_limit=Money("100", "EUR"))
    ts.subscriptions.create("tenant:acme", "euro")
    assert ts.quotas.set("acme", "cost", "12.50", "monthly").limit == Money("12.50", "EUR")
    assert ts.quotas.set("acme", "cost", Money("13", "EUR"), "monthly").limit == Money("13", "EUR")
    with pytest.raises(CurrencyMismatch):
        ts.quotas.set("acme", "cost", Money("13", "USD"), "monthly")
    assert ts.quotas.status("acme")[0].remaining == Money("13", "EUR")


def test_a_deleted_quota_limits_nothing(ts: Tallystick) -> None:
    quota = ts.quotas.set("acme", "message", 1, "daily")
    ts.quotas.consume("acme", "message")
    ts.quotas.delete(quota.id)
    ts.quotas.consume("acme", "message")
    assert (ts.quotas.list("acme"), ts.quotas.status("acme")) == ([], [])
    for missing in (ts.quotas.delete, ts.quotas.get):
        with pytest.raises(NotFound):
            missing(quota.id)
    ts.quotas.set("acme", "message", 5, "daily")
    # What was used while there was none counts too.
    assert ts.quotas.check("acme", "message", "daily").current == 2


# -- what was used already --------------------------------------------------------------------------------------------


def test_what_was_used_before_in_the_running_period_counts(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-01-14T23:59:59.999999Z")
    ts.quotas.consume("acme", "file_storage", 100, user=1, feature="chat", key="k1")
    clock.set("2026-01-15T00:00:00Z")
    ts.quotas.consume("acme", "file_storage", 2, user=1, feature="chat", key="k1")
    ts.quotas.consume("acme", "file_storage", 3, user=2, feature="mail", key="k2")
    ts.usage.log("other", "file_storage", 50)
    clock.set("2026-01-15T01:30:00Z")
    ts.usage.log("acme", "file_storage", "0.5")
    for part in ({}, {"user": 1}, {"user": "*"}, {"feature": "mail"}, {"key": "k1"}):
        ts.quotas.set("acme", "file_storage", 10, "daily", **part)
    for period in ("hourly", "weekly", "monthly", "yearly", "total"):
        ts.quotas.set("acme", "file_storage", 1000, period)
    ts.quotas.set("acme", "file_storage", 1000, "hourly", sliding=True)
    ts.quotas.set("acme", "file_storage", 1000, "daily", sliding=True)
    assert standings(ts) == {
        ("file_storage", "hourly", None): Decimal("0.5"),
        ("file_storage", "daily", None): Decimal("5.5"),
        ("file_storage", "daily", "user:1"): 2,
        ("file_storage", "daily", "user:*"): 3,
        ("file_storage", "daily", "mail"): 3,
        ("file_storage", "daily", "k1"): 2,
        ("file_storage", "weekly", None): Decimal("105.5"),
        ("file_storage", "monthly", None): Decimal("105.5"),
        ("file_storage", "yearly", None): Decimal("105.5"),
        ("file_storage", "total", None): Decimal("105.5"),
        ("file_storage", "sliding_hourly", None): Decimal("0.5"),
        ("file_storage", "sliding_daily", None): Decimal("105.5"),
    }
    assert_healthy(ts)


def test_what_calls_have_used_counts_in_tokens_requests_and_cost(ts: Tallystick) -> None:
    call(ts, input_tokens=100, output_tokens=20, total_cost=Money("0.25", "USD"))
    for name, limit in (("tokens", 1000), ("requests", 10), ("cost", "5"), ("completion", 10)):
        ts.quotas.set("acme", name, limit, "daily")
        ts.quotas.set("acme", name, limit, "daily", sliding=True)
    call(ts, input_tokens=5, total_cost=Money("0.05", "USD"))
    ts.usage.log("acme", "message")
    for period in ("daily", "sliding_daily"):
        found = {name: current for (name, of, _), current in standings(ts).items() if of == period}
        assert found == {"completion": 2, "cost": Money("0.30", "USD"), "requests": 2, "tokens": 125}
    assert_healthy(ts)


def test_a_quota_that_is_set_while_it_is_used_misses_nothing(database_url: str) -> None:
    with Tallystick(database_url) as one, Tallystick(database_url) as other:

        def work(index: int) -> None:
            for number in range(20):
                if index == 0:
                    part = {"user": "*"} if number % 2 else {}
                    one.quotas.set("acme", "message", 10_000 + number, "total", **part)  # type: ignore[arg-type]
                (one, other)[index % 2].quotas.consume("acme", "message", user=index)

        assert in_threads(8, work) == [None] * 8
        assert one.quotas.check("acme", "message", "total").current == 160
        assert_healthy(one)


# -- using ------------------------------------------------------------------------------------------------------------


def test_consume_records_an_event_or_nothing(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 5, "daily")
    used = ts.quotas.consume("acme", "message", 3, user=7, feature="chat", key="k", metadata={"ticket": 1})
    assert (used.billable, used.resource_type, used.quantity) == ("tenant:acme", "message", 3)
    assert (used.user, used.feature, used.metadata) == ("user:7", "chat", {"ticket": 1})
    assert (used.cost, used.total_tokens) == (Money("0", "USD"), 0)
    with pytest.raises(QuotaExceeded) as caught:
        ts.quotas.consume("acme", "message", 3)
    refused = caught.value
    assert isinstance(refused, LimitExceeded)
    assert (refused.resource_type, refused.limit, refused.used, refused.requested) == ("message", 5, 3, 3)
    assert refused.retry_after_seconds == 12 * 3600
    assert "3 of 5 used, 0 held, 3 needed. Wait until 2026-01-16 00:00 UTC, or raise it." in refused.message
    ts.quotas.consume("acme", "message", 2)
    assert count_rows(ts, tables.usage_events) == 2
    assert_healthy(ts)


def test_consuming_twice_with_one_key_uses_it_once(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 1, "daily")
    first = ts.quotas.consume("acme", "message", idempotency_key="m1")
    assert ts.quotas.consume("acme", "message", idempotency_key="m1") == first
    with pytest.raises(IdempotencyConflict):
        ts.quotas.consume("acme", "message", 2, idempotency_key="m1")
    assert ts.quotas.check("acme", "message", "daily").current == 1


def test_every_quota_that_counts_a_use_is_asked(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "daily")
    ts.quotas.set("acme", "message", 2, "daily", user="*")
    ts.quotas.set("acme", "message", 4, "daily", user=1)
    ts.quotas.set("acme", "message", 3, "hourly", feature="mail")
    for _ in range(4):
        ts.quotas.consume("acme", "message", user=1)
    for refused in ({"user": 1}, {"user": 2, "quantity": 3}, {"feature": "mail", "quantity": 4}):
        with pytest.raises(QuotaExceeded):
            ts.quotas.consume("acme", "message", **refused)
    ts.quotas.consume("acme", "message", 3, feature="mail")
    ts.quotas.consume("acme", "message", 2, user=2)
    ts.quotas.consume("acme", "message", 1)
    with pytest.raises(QuotaExceeded, match="quota message of tenant:acme"):
        ts.quotas.consume("acme", "message")
    assert_healthy(ts)


def test_what_is_counted_of_calls_is_not_consumed(ts: Tallystick) -> None:
    for name in ("tokens", "requests", "cost"):
        with pytest.raises(InvalidInput, match="counted of every call"):
            ts.quotas.consume("acme", name)
    with pytest.raises(InvalidInput, match="more than zero"):
        ts.quotas.consume("acme", "message", 0)


def test_whoever_pays_is_limited(ts: Tallystick) -> None:
    ts.quotas.set("acme", "requests", 1, "daily")
    meter = ts.meter.using_provider("manual", "m").for_tenant("acme").with_manual_usage(input_tokens=1)
    meter.billable("user:1").call(lambda: None)
    meter.call(lambda: None)
    with pytest.raises(QuotaExceeded):
        meter.call(lambda: None)


def test_a_call_holds_what_it_may_use_of_every_quota(ts: Tallystick) -> None:
    ts.quotas.set("acme", "tokens", 100, "daily")
    ts.quotas.set("acme", "requests", 2, "hourly")
    meter = ts.meter.billable("tenant:acme").using_provider("manual", "m")
    with meter.hold(tokens=70) as hold:
        found = {one.resource_type: (one.current, one.held, one.remaining) for one in ts.quotas.status("acme")}
        assert found == {"tokens": (0, 70, 30), "requests": (0, 1, 1)}
        with pytest.raises(QuotaExceeded, match="70 held, 31 needed"):
            meter.hold(tokens=31)
        hold.settle(input_tokens=90)
    # What was really used is recorded past what was held.
    assert standings(ts) == {("tokens", "daily", None): 90, ("requests", "hourly", None): 1}
    # An estimate that nobody has stated shrinks to what is left.
    with meter.hold() as last:
        assert ts.quotas.check("acme", "tokens", "daily").remaining == 0
        last.settle(input_tokens=10)
    assert_healthy(ts)


def test_a_soft_quota_warns_and_refuses_nothing(ts: Tallystick) -> None:
    found = announced(ts)
    ts.quotas.set("acme", "message", 10, "daily", is_hard_limit=False, thresholds=(50, 80))
    ts.quotas.consume("acme", "message", 25)
    assert found == [("message", 50), ("message", 80), ("message", 100)]
    check = ts.quotas.check("acme", "message", "daily")
    assert (check.allowed, check.is_hard_limit, check.remaining, check.percentage) == (True, False, 0, 250.0)


def test_each_threshold_is_announced_once_a_period(ts: Tallystick, clock: FixedClock) -> None:
    found = announced(ts)
    ts.quotas.set("acme", "message", 10, "daily", thresholds=(80, 90))
    ts.quotas.set("acme", "embedding", 10, "daily")
    ts.quotas.consume("acme", "embedding", 8)
    for _ in range(10):
        ts.quotas.consume("acme", "message")
    # One quota's warning does not silence another's.
    assert found == [("embedding", 80), ("message", 80), ("message", 90), ("message", 100)]
    clock.advance(days=1)
    found.clear()
    ts.quotas.consume("acme", "message", 8)
    assert found == [("message", 80)]


def test_raising_a_limit_lets_it_warn_again(ts: Tallystick) -> None:
    found = announced(ts)
    ts.quotas.set("acme", "message", 10, "daily")
    ts.quotas.consume("acme", "message", 10)
    ts.quotas.set("acme", "message", 20, "daily")
    ts.quotas.consume("acme", "message", 6)
    assert found == [("message", 80), ("message", 100), ("message", 80)]


def test_an_announcement_says_how_the_quota_stands(ts: Tallystick, clock: FixedClock) -> None:
    found: list[QuotaWarning] = []
    ts.on(QuotaWarning)(found.append)
    quota = ts.quotas.set("acme", "file_storage", 10, "daily", user="*")
    ts.quotas.consume("acme", "file_storage", "8.5", user=7)
    [one] = found
    assert (one.billable, one.at, one.quota_id, one.resource_type) == (
        "tenant:acme",
        clock.now(),
        quota.id,
        "file_storage",
    )
    assert (one.period, one.scope, one.threshold, one.is_hard_limit) == ("daily", "user:7", 80, True)
    assert (one.current, one.limit, one.percentage) == (Decimal("8.5"), 10, 85.0)
    assert one.period_start is not None
    assert one.period_start.isoformat() == "2026-01-15T00:00:00+00:00"


def test_corrections_reach_the_quotas_that_counted_the_use(ts: Tallystick, clock: FixedClock) -> None:
    for part in ({}, {"user": "*"}, {"feature": "chat"}):
        ts.quotas.set("acme", "message", 10, "daily", **part)  # type: ignore[arg-type]
        ts.quotas.set("acme", "message", 10, "weekly", sliding=True, **part)  # type: ignore[arg-type]
    used = ts.quotas.consume("acme", "message", 10, user=1, feature="chat")
    clock.advance(days=1)
    with pytest.raises(QuotaExceeded, match="sliding weekly"):
        ts.quotas.consume("acme", "message", user=2)
    ts.usage.adjust(used.id, quantity=-4, reason="sent twice")
    ts.quotas.consume("acme", "message", user=2)
    found = standings(ts)
    assert {found["message", "daily", part] for part in (None, "user:*")} == {1}
    assert found["message", "sliding_weekly", None] == 7
    assert (found["message", "sliding_weekly", "user:*"], found["message", "sliding_weekly", "chat"]) == (6, 6)
    assert_healthy(ts)


# -- asking -----------------------------------------------------------------------------------------------------------


def test_without_a_quota_everything_is_allowed(ts: Tallystick) -> None:
    check = ts.quotas.check("acme", "message", "daily", 10**9)
    assert (check.allowed, check.has_quota, check.limit, check.remaining) == (True, False, None, None)
    assert (check.current, check.percentage, check.reason) == (0, 0.0, None)
    assert ts.quotas.enforce("acme", "message") == ts.quotas.check("acme", "message")


def test_a_check_shows_the_quota_that_refuses_or_leaves_the_least(ts: Tallystick) -> None:
    daily = ts.quotas.set("acme", "message", 100, "daily")
    own = ts.quotas.set("acme", "message", 50, "daily", user=1)
    hourly = ts.quotas.set("acme", "message", 10, "hourly")
    ts.quotas.consume("acme", "message", 4)
    assert ts.quotas.check("acme", "message").quota_id == hourly.id
    assert ts.quotas.check("acme", "message", "daily").quota_id == daily.id
    assert ts.quotas.check("acme", "message", "daily", user=1).quota_id == own.id
    refused = ts.quotas.check("acme", "message", quantity=7)
    assert (refused.allowed, refused.quota_id, refused.remaining) == (False, hourly.id, 6)
    assert refused.reason is not None
    assert ts.quotas.check("acme", "message", "daily", 7).allowed
    with pytest.raises(QuotaExceeded, match="hourly"):
        ts.quotas.enforce("acme", "message", quantity=7)
    with pytest.raises(InvalidInput):
        ts.quotas.check("acme", "message", user="*")
    # Asking has recorded nothing.
    assert count_rows(ts, tables.usage_events) == 1


def test_a_hold_that_ran_out_refuses_nobody(ts: Tallystick, clock: FixedClock) -> None:
    ts.quotas.set("acme", "tokens", 100, "daily")
    ts.meter.billable("tenant:acme").using_provider("manual", "m").hold(tokens=100)
    assert not ts.quotas.check("acme", "tokens", "daily").allowed
    clock.advance(seconds=600)
    check = ts.quotas.check("acme", "tokens", "daily", 100)
    assert (check.allowed, check.held, check.remaining) == (True, 0, 100)
    call(ts, input_tokens=100)


def test_shadow_mode_allows_all_and_says_what_it_would_not(sqlite_url: str) -> None:
    with Tallystick(sqlite_url, enforcement="shadow") as ts:
        ts.quotas.set("acme", "message", 1, "daily")
        ts.quotas.consume("acme", "message")
        assert "shadow" in ts.quotas.consume("acme", "message").flags
        check = ts.quotas.enforce("acme", "message", "daily")
        assert (check.allowed, check.current) == (True, 2)
        assert "has no room" in str(check.reason)
        assert ts.quotas.status("acme")[0].allowed
        assert count_rows(ts, tables.shadow_refusals) == 1


def test_a_suspended_tenant_may_use_nothing(ts: Tallystick) -> None:
    ts.tenants.create("Acme", slug="acme")
    ts.quotas.set("acme", "message", 10, "daily")
    ts.tenants.suspend("acme", "unpaid")
    assert not ts.quotas.check("acme", "message", "daily").allowed
    for ask in (ts.quotas.enforce, ts.quotas.consume):
        with pytest.raises(TenantSuspended):
            ask("acme", "message")


# -- status -----------------------------------------------------------------------------------------------------------


def test_the_status_of_50_quotas_costs_two_queries(ts: Tallystick) -> None:
    for number in range(23):
        ts.quotas.set("acme", f"type-{number}", 10, "daily")
        ts.quotas.set("acme", f"type-{number}", 100, "monthly")
    ts.quotas.set("acme", "cost", "10", "monthly")
    ts.quotas.set("acme", "message", 10, "hourly", sliding=True)
    ts.quotas.set("acme", "message", 10, "hourly", user="*")
    ts.quotas.set("acme", "message", 10, "total", feature="chat")
    ts.quotas.consume("acme", "type-3", 4)
    queries: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            queries.append(statement)

    event.listen(ts._engine.database, "before_cursor_execute", note)
    found = ts.quotas.status("acme")
    event.remove(ts._engine.database, "before_cursor_execute", note)
    assert len(found) == 50
    assert len(queries) == 2
    assert [one.current for one in found if one.resource_type == "type-3"] == [4, 4]


def test_the_status_of_what_each_user_has_is_that_of_the_fullest(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "daily", user="*")
    assert ts.quotas.status("acme")[0].fullest_user is None
    ts.quotas.set("acme", "message", 100, "daily", user=9)
    for user, quantity in ((1, 2), (2, 9), (9, 50)):
        ts.quotas.consume("acme", "message", quantity, user=user)
    everybody, own = ts.quotas.status("acme")
    assert (everybody.current, everybody.fullest_user, everybody.is_near_limit) == (9, "user:2", True)
    assert (own.current, own.fullest_user, own.is_near_limit) == (50, None, False)


@pytest.mark.parametrize(
    "subscription",
    [
        {},
        {"pending": True},
        {"started_at": "2026-01-20"},
        {"trial_ends_at": "2026-01-10"},
        {"cancel": True},
        {"payment_failed": "2026-01-14"},
        {"payment_failed": "2026-01-01"},
    ],
)
def test_the_status_is_in_the_currency_of_the_plan_in_force(ts: Tallystick, subscription: dict[str, Any]) -> None:
    stated = {"started_at": "2026-01-02", **subscription}
    cancel, failed = stated.pop("cancel", False), stated.pop("payment_failed", None)
    ts.plans.create("euro", monthly_cost_limit=Money("100", "EUR"))
    ts.subscriptions.create("tenant:acme", "euro", **stated)
    if cancel:
        ts.subscriptions.cancel("tenant:acme", immediately=True)
    if failed is not None:
        ts.subscriptions.payment_failed("tenant:acme", at=failed)
    ts.quotas.set("acme", "cost", "10", "monthly")
    [status] = ts.quotas.status("acme")
    currency = ts._engine.terms("tenant:acme").at(ts._engine.now()).currency
    assert status.limit == Money("10", currency)


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Australia/Lord_Howe"])
def test_status_and_check_agree(database_url: str, clock: FixedClock, zone: str) -> None:
    with Tallystick(database_url, clock=clock, period={"timezone": zone}) as ts:
        for number, period in enumerate(("hourly", "daily", "weekly", "monthly", "yearly", "total")):
            ts.quotas.set("acme", "message", 10 + number, period)
        for period in ("hourly", "daily", "weekly"):
            ts.quotas.set("acme", "message", 10, period, sliding=True)
        for hours in (0, 1, 25, 400, 2):
            clock.advance(hours=hours)
            ts.usage.log("acme", "message", 2)
            for status in ts.quotas.status("acme"):
                check = ts.quotas.check("acme", "message", status.period)
                assert (check.current, check.held, check.remaining) == (status.current, status.held, status.remaining)
                assert (check.percentage, check.resets_at) == (status.percentage, status.resets_at)
                assert check.allowed == status.allowed
            assert_healthy(ts)


# -- proof ------------------------------------------------------------------------------------------------------------


def test_the_doctor_finds_a_quota_that_has_counted_something_else(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "daily")
    ts.quotas.set("acme", "message", 10, "daily", user="*")
    ts.quotas.consume("acme", "message", 3, user=1)
    assert_healthy(ts)
    counters = tables.counters

    def spoil(scope: str, used: int) -> list[str]:
        wrong = update(counters).where(counters.c.meter == "quota:message", counters.c.scope == scope)
        ts._engine.lane.transact(lambda connection: connection.execute(wrong.values(used=used)))
        return [str(finding) for finding in ts.doctor().findings]

    assert "expected 3000000, found 7000000" in spoil("", 7_000_000)[0]
    assert not spoil("", 3_000_000)
    assert "user:1" in spoil("user:1", 1_000_000)[0]


def test_forgetting_who_used_it_gives_no_quota_back(ts: Tallystick, clock: FixedClock) -> None:
    for part in ({}, {"user": "*"}, {"feature": "chat"}):
        ts.quotas.set("acme", "message", 10, "total", **part)  # type: ignore[arg-type]
        ts.quotas.set("acme", "message", 10, "monthly", **part)  # type: ignore[arg-type]
    ts.quotas.consume("acme", "message", 8, user=1, feature="chat")
    clock.advance(days=2)
    ts.usage.anonymize_before(clock.now())
    assert_healthy(ts)
    assert set(standings(ts).values()) == {8}
    quota = next(one for one in ts.quotas.list("acme") if one.period == "total" and one.user is None)
    ts.quotas.delete(quota.id)
    ts.quotas.set("acme", "message", 10, "total")
    assert ts.quotas.check("acme", "message", "total").current == 8
    ts.usage.delete_for("user:1")
    assert_healthy(ts)


def test_erasing_whoever_paid_gives_no_quota_back(ts: Tallystick, clock: FixedClock) -> None:
    for period in ("total", "yearly", "monthly", "daily"):
        ts.quotas.set("acme", "message", 10, period)
        ts.quotas.set("acme", "message", 10, period, user="*")
    ts.quotas.consume("acme", "message", 3, user=1)
    clock.advance(days=60)
    ts.quotas.consume("acme", "message", 2, user=1)
    before = standings(ts)
    ts.usage.delete_for("tenant:acme")
    assert standings(ts) == before
    assert_healthy(ts)
    clock.advance(days=60)
    ts.usage.delete_for("tenant:acme")
    ts.quotas.consume("acme", "message", 1, user=1)
    assert ts.quotas.check("acme", "message", "total").current == 6
    assert_healthy(ts)


def test_what_wallets_pay_for_is_counted_and_proved_likewise(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("prepaid")
    ts.subscriptions.create("tenant:acme", "prepaid", billing_mode="credits")
    ts.wallets.get_or_create("tenant:acme").add_credits("100")
    for name, limit in (("tokens", 1000), ("cost", "50"), ("completion", 10)):
        for part in ({}, {"user": "*"}, {"key": "k"}):
            ts.quotas.set("acme", name, limit, "total", **part)  # type: ignore[arg-type]
    meter = ts.meter.billable("tenant:acme").for_user(1).for_key("k").using_provider("manual", "m")
    meter.with_manual_usage(input_tokens=100, total_cost=Money("2", "USD")).call(lambda: None)
    before = standings(ts)
    assert set(map(str, before.values())) == {"100", "2.00 USD", "1"}
    clock.advance(days=100)
    assert ts.usage.cleanup(days=90).events == 1
    assert standings(ts) == before
    assert_healthy(ts)
    meter.with_manual_usage(input_tokens=1, total_cost=Money("1", "USD")).call(lambda: None)
    clock.advance(days=3)
    ts.usage.anonymize_before(clock.now())
    assert set(map(str, standings(ts).values())) == {"101", "3.00 USD", "2"}
    assert_healthy(ts)


def test_cleaning_up_old_events_gives_no_quota_back(ts: Tallystick, clock: FixedClock) -> None:
    for part in ({}, {"user": "*"}, {"feature": "chat"}, {"key": "k"}):
        ts.quotas.set("acme", "message", 10, "total", **part)  # type: ignore[arg-type]
    ts.quotas.consume("acme", "message", 8, user=1, feature="chat", key="k")
    clock.advance(days=100)
    ts.quotas.consume("acme", "message", 1, user=2)
    assert ts.usage.cleanup(days=90).events == 1
    assert standings(ts) == {
        ("message", "total", None): 9,
        ("message", "total", "user:*"): 8,
        ("message", "total", "chat"): 8,
        ("message", "total", "k"): 8,
    }
    assert_healthy(ts)
    for quota in ts.quotas.list("acme"):
        ts.quotas.delete(quota.id)
    ts.quotas.set("acme", "message", 10, "total")
    # The rollups still know of it.
    assert ts.quotas.check("acme", "message", "total").current == 9
    assert_healthy(ts)


def test_buckets_that_no_window_reaches_go_away(ts: Tallystick, clock: FixedClock) -> None:
    for period in ("hourly", "daily", "weekly"):
        ts.quotas.set("acme", "message", 1000, period, sliding=True)
    ts.quotas.set("acme", "tokens", 1000, "hourly", sliding=True)
    hold = ts.meter.billable("tenant:acme").using_provider("manual", "m").hold(tokens=5, ttl_seconds=604_800)
    for _ in range(30):
        ts.quotas.consume("acme", "message")
        clock.advance(minutes=20)
    before = count_rows(ts, tables.counters)
    # Thirty buckets of a minute, of which those of the last two hours stay, and that of which a call holds something.
    assert ts.run_due_jobs().quota_windows_removed == 24
    assert ts.run_due_jobs().quota_windows_removed == 0
    assert count_rows(ts, tables.counters) == before - 24
    assert [one.current for one in ts.quotas.status("acme")] == [30, 3, 30, 0]
    clock.advance(days=1)
    assert ts.run_due_jobs().quota_windows_removed == 6
    hold.settle(input_tokens=5)
    assert ts.quotas.check("acme", "message", "sliding_weekly").current == 30
    assert_healthy(ts)


def test_both_colours_consume_from_one_quota(database_url: str) -> None:
    async def main() -> None:
        async with AsyncTallystick(database_url) as ts:
            await ts.quotas.set("acme", "message", 10, "daily")
            uses = [ts.quotas.consume("acme", "message", idempotency_key=f"m{number}") for number in range(15)]
            outcomes = await asyncio.gather(*uses, return_exceptions=True)
            assert sum(isinstance(one, QuotaExceeded) for one in outcomes) == 5
            first = next(one for one in outcomes if not isinstance(one, BaseException))
            again = await ts.quotas.consume("acme", "message", idempotency_key=first.idempotency_key)
            assert again == first
            [status] = await ts.quotas.status("acme")
            assert isinstance(status, QuotaStatus)
            assert (status.current, status.remaining) == (10, 0)

    asyncio.run(main())


# -- properties -------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("consume", "hold", "settle", "void", "advance", "raise", "check")),
        st.integers(1, 9),
        st.integers(1, 3),
    ),
    max_size=25,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_used_and_held_never_pass_a_hard_limit(ts: Tallystick, clock: FixedClock, steps: list[Any]) -> None:
    billable = f"tenant:{next(NUMBERS)}"
    limits = {("tokens", "daily", None): 20, ("tokens", "hourly", None): 12, ("tokens", "daily", "user:*"): 10}
    for (name, period, user), limit in limits.items():
        ts.quotas.set(billable, name, limit, period, user=user)
    ts.quotas.set(billable, "message", 15, "daily")
    ts.quotas.set(billable, "message", 9, "hourly", sliding=True)
    holds: list[Any] = []
    for action, amount, user in steps:
        meter = ts.meter.billable(billable).using_provider("manual", "m").for_user(user)
        try:
            if action == "consume":
                ts.quotas.consume(billable, "message", amount, user=user)
            elif action == "hold":
                holds.append((meter.hold(tokens=amount), amount))
            elif action == "settle" and holds:
                hold, held = holds.pop(0)
                hold.settle(input_tokens=min(amount, held))
            elif action == "void" and holds:
                holds.pop(0)[0].void()
            elif action == "advance":
                clock.advance(minutes=amount)
            elif action == "raise":
                ts.quotas.set(billable, "tokens", 20 + amount, "daily")
            else:
                allowed = ts.quotas.check(billable, "tokens", "daily", amount).allowed
                assert allowed == all(
                    one.remaining >= amount
                    for one in ts.quotas.status(billable)
                    if one.resource_type == "tokens" and one.period == "daily" and one.quota.user is None
                )
        except QuotaExceeded:
            pass
        for one in ts.quotas.status(billable):
            assert one.current + one.held <= one.limit  # type: ignore[operator]
    for hold, _ in holds:
        hold.void()
    assert_healthy(ts)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.lists(st.tuples(st.integers(0, 40 * 60 * 10**6), st.integers(1, 4)), min_size=1, max_size=25),
    limit=st.integers(1, 8),
)
def test_no_sliding_window_admits_more_than_its_limit(
    sqlite_engine: tuple[Tallystick, FixedClock], steps: list[tuple[int, int]], limit: int
) -> None:
    ts, clock = sqlite_engine
    tenant = f"sliding-{next(NUMBERS)}"
    ts.quotas.set(tenant, "message", limit, "hourly", sliding=True)
    width = 3600 * 10**6
    admitted: list[tuple[int, int]] = []
    for microseconds, quantity in steps:
        clock.advance(microseconds=microseconds)
        now = to_micros(clock.now())
        try:
            ts.quotas.consume(tenant, "message", quantity)
        except QuotaExceeded:
            # Room is given back at most a bucket of one minute late.
            window = sum(amount for at, amount in admitted if at > now - width - 60 * 10**6)
            assert window + quantity > limit
        else:
            admitted.append((now, quantity))
    for at, _ in admitted:
        assert sum(amount for when, amount in admitted if at - width < when <= at) <= limit


@pytest.fixture
def sqlite_engine(sqlite_url: str, clock: FixedClock) -> Any:
    with Tallystick(sqlite_url, clock=clock, storage={"synchronous": "normal"}) as ts:
        yield ts, clock


def test_an_error_of_a_quota_is_data(ts: Tallystick) -> None:
    quota = ts.quotas.set("acme", "cost", "1", "total")
    with pytest.raises(TallystickError) as caught:
        call(ts, input_tokens=1, total_cost=Money("1.5", "USD"))
    refused = caught.value
    assert isinstance(refused, QuotaExceeded)
    assert (refused.code, refused.quota_id, refused.period) == ("quota_exceeded", quota.id, "total")
    assert (refused.limit, refused.used, refused.requested) == (Money("1"), Money("0"), Money("1.5"))
    assert (refused.resets_at, refused.retry_after_seconds) == (None, None)
