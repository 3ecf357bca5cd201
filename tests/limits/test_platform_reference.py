"""What the platform's billing system promised, by its own figures: usage, quotas, notifications, and moving in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from tallystick import FixedClock, Tallystick
from tallystick.errors import QuotaExceeded
from tallystick.events import QuotaWarning
from tests.acceptance.accounts import assert_healthy
from tests.values import money

SEVEN = ("message", "completion", "file_upload", "file_storage", "vector_query", "tool_call", "embedding")


# -- usage ------------------------------------------------------------------------------------------------------------


def test_each_of_the_seven_types_is_logged_once_unless_a_quantity_is_given(ts: Tallystick) -> None:
    for number, resource_type in enumerate(SEVEN, start=1):
        logged = ts.usage.log("acme", resource_type, metadata={"additional": "data"})
        assert (logged.resource_type, logged.quantity, logged.metadata) == (resource_type, 1, {"additional": "data"})
        ts.usage.log("acme", resource_type, quantity=number)
    found = ts.usage.stats("acme").by_resource_type
    assert {group.name: (group.totals.events, group.totals.quantity) for group in found} == {
        name: (2, number + 1) for number, name in enumerate(SEVEN, start=1)
    }
    assert_healthy(ts)


def test_statistics_have_events_and_quantities_by_type_and_in_all(ts: Tallystick) -> None:
    january = {"billable": "tenant:acme", "occurred_at": "2024-01-31T23:59:59.999999Z"}
    ts.usage.record_batch({**january, "resource_type": "message"} for _ in range(150))
    ts.usage.record_batch({**january, "resource_type": "embedding", "quantity": 2} for _ in range(50))
    ts.usage.log("acme", "message", 7, occurred_at="2024-02-01T00:00:00Z")
    ts.usage.log("acme", "message", 7, occurred_at="2023-12-31T23:59:59Z")
    ts.usage.log("other", "message", 7, occurred_at="2024-01-15T00:00:00Z")

    stats = ts.usage.stats("acme", start="2024-01-01T00:00:00Z", end="2024-02-01T00:00:00Z")

    assert stats.billable == "tenant:acme"
    assert (stats.start, stats.end) == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
    found = {group.name: (group.totals.events, group.totals.quantity) for group in stats.by_resource_type}
    assert found == {"message": (150, 150), "embedding": (50, 100)}
    assert (stats.totals.events, stats.totals.quantity) == (200, 250)
    messages = ts.usage.stats("acme", "2024-01-01", "2024-02-01", resource_type="message")
    assert (messages.totals.events, messages.totals.quantity) == (150, 150)
    assert [group.name for group in messages.by_resource_type] == ["message"]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("hour", {"2024-01-28T22": 1, "2024-01-28T23": 2, "2024-01-29T00": 4, "2024-01-29T01": 0}),
        ("day", {"2024-01-28T00": 3, "2024-01-29T00": 4, "2024-01-30T00": 0, "2024-01-31T00": 8, "2024-02-01T00": 16}),
        ("week", {"2024-01-22T00": 3, "2024-01-29T00": 28}),
        ("month", {"2024-01-01T00": 15, "2024-02-01T00": 16}),
    ],
)
def test_a_series_is_cut_by_the_interval_that_is_asked_for(
    ts: Tallystick, interval: str, expected: dict[str, int]
) -> None:
    used_at = ("01-28T22:00:00Z", "01-28T23:59:59.999999Z", "01-29T00:00:00Z", "01-31T23:59:59Z", "02-01T00:00:00Z")
    for power, at in enumerate(used_at):
        ts.usage.log("acme", "message", 2**power, occurred_at=f"2024-{at}")
    ts.usage.log("acme", "embedding", 100, occurred_at="2024-01-29T00:00:00Z")
    end = "2024-01-29T02:00:00Z" if interval == "hour" else "2024-02-01T12:00:00Z"

    points = ts.usage.time_series("acme", "2024-01-28T22:00:00Z", end, interval, resource_type="message")

    assert {f"{point.start:%Y-%m-%dT%H}": point.totals.quantity for point in points} == expected


def test_a_series_without_an_interval_and_an_end_goes_by_day_to_the_last_use(ts: Tallystick) -> None:
    ts.usage.log("acme", "message", 5, occurred_at="2024-01-02T10:00:00Z")
    ts.usage.log("acme", "message", 6, occurred_at="2024-01-03T10:00:00Z")
    points = ts.usage.time_series("acme", start="2024-01-01T00:00:00Z")
    assert [(point.label, point.totals.quantity) for point in points] == [
        ("2024-01-01", 0),
        ("2024-01-02", 5),
        ("2024-01-03", 6),
    ]


def test_sums_and_quotas_are_right_at_once_and_read_no_events(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 1000, "monthly")
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(ts._engine.database, "before_cursor_execute", note)
    for number in (1, 2, 3):
        ts.usage.log("acme", "message")
        statements.clear()
        assert ts.usage.stats("acme", "2026-01-01", "2026-02-01").totals.quantity == number
        assert ts.usage.time_series("acme", "2026-01-15", "2026-01-16")[0].totals.quantity == number
        assert ts.quotas.check("acme", "message", "monthly").current == number
        assert ts.quotas.status("acme")[0].current == number
        assert statements
        assert not [statement for statement in statements if "usage_events" in statement]
    event.remove(ts._engine.database, "before_cursor_execute", note)


# -- quotas -----------------------------------------------------------------------------------------------------------


def test_a_check_and_a_status_have_the_figures_of_a_quota(ts: Tallystick) -> None:
    quota = ts.quotas.set("acme", "message", 1000, "daily", is_hard_limit=True, notification_threshold=80)
    ts.usage.log("acme", "message", 250)
    [status] = ts.quotas.status("acme")
    assert (status.id, status.resource_type, status.limit, status.period) == (quota.id, "message", 1000, "daily")
    assert (status.current, status.percentage, status.allowed, status.is_hard_limit) == (250, 25.0, True, True)
    assert (status.held, status.remaining, status.is_near_limit) == (0, 750, False)
    ts.usage.log("acme", "message", 250)
    check = ts.quotas.check("acme", "message", "daily")
    assert (check.allowed, check.current, check.limit, check.percentage) == (True, 500, 1000, 50.0)
    assert (check.remaining, check.is_hard_limit, check.reason) == (500, True, None)
    assert (check.resets_at, status.resets_at) == (datetime(2026, 1, 16, tzinfo=UTC),) * 2
    assert ts.quotas.enforce("acme", "message", "daily", quantity=500) == ts.quotas.check(
        "acme", "message", "daily", quantity=500
    )
    with pytest.raises(QuotaExceeded):
        ts.quotas.enforce("acme", "message", "daily", quantity=501)
    assert ts.quotas.list("acme") == [quota]


def test_a_month_is_the_calendars_and_a_total_never_starts_again(ts: Tallystick, clock: FixedClock) -> None:
    for period in ("hourly", "daily", "monthly", "total"):
        ts.quotas.set("acme", "message", 10, period)
    clock.set("2026-01-31T23:59:59.999999Z")
    ts.quotas.consume("acme", "message", 6)
    clock.advance(microseconds=1)
    assert {one.period: one.current for one in ts.quotas.status("acme")} == {
        "hourly": 0,
        "daily": 0,
        "monthly": 0,
        "total": 6,
    }
    ts.quotas.consume("acme", "message", 4)
    # On 2 March, the last thirty days would have this use; its month is over.
    clock.set("2026-03-02T00:00:00Z")
    assert ts.quotas.check("acme", "message", "monthly").current == 0
    with pytest.raises(QuotaExceeded, match="total") as refused:
        ts.quotas.consume("acme", "message")
    assert refused.value.resets_at is None
    assert_healthy(ts)


def test_a_soft_daily_quota_warns_long_before_a_hard_monthly_one_refuses(ts: Tallystick, clock: FixedClock) -> None:
    warned: list[tuple[str, int]] = []
    ts.on(QuotaWarning)(lambda one: warned.append((one.period, int(one.current))))
    ts.quotas.set("acme", "message", 10, "daily", is_hard_limit=False, notification_threshold=80)
    ts.quotas.set("acme", "message", 50, "monthly", is_hard_limit=True, notification_threshold=80)
    for number in range(50):
        ts.quotas.consume("acme", "message")
        if number % 20 == 19:
            clock.advance(days=1)
    with pytest.raises(QuotaExceeded, match="monthly"):
        ts.quotas.consume("acme", "message")
    assert warned == [("daily", 8), ("daily", 8), ("monthly", 40), ("daily", 8)]


def test_what_a_quota_does_not_refuse_can_be_found_out(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, enforcement="off") as ts:
        ts.quotas.set("acme", "message", 1, "daily")
        ts.quotas.set("acme", "embedding", 1, "daily", is_hard_limit=False)
        for resource_type in ("message", "embedding"):
            ts.quotas.consume("acme", resource_type, 2)
        check = ts.quotas.check("acme", "message", "daily")
        assert (check.allowed, check.current, check.is_hard_limit) == (True, 2, True)
        assert "2 of 1 used" in str(check.reason)
    with Tallystick(database_url, clock=clock) as ts:
        assert not ts.quotas.check("acme", "message", "daily").allowed
        soft = ts.quotas.check("acme", "embedding", "daily")
        assert (soft.allowed, soft.is_hard_limit, soft.reason) == (True, False, None)
        # A quota of another period, or of another type, is another quota.
        assert not ts.quotas.check("acme", "message", "monthly").has_quota
        assert not ts.quotas.check("acme", "tool_call").has_quota


# -- notifications ----------------------------------------------------------------------------------------------------


def test_a_warning_and_a_failed_payment_can_be_sent_with_their_figures(ts: Tallystick) -> None:
    figures = {"resource": "message", "period": "daily", "used": 800, "limit": 1000, "percentage": 80}
    warning = ts.notifications.send("acme", "quota_warning", metadata=figures)
    assert (warning.subject, warning.priority) == ("80% of the daily quota of messages is used", "high")
    assert warning.message == "Used of the daily quota of messages: 800 of 1,000."
    failed = ts.notifications.send(
        "acme", "payment_failed", metadata={"invoice": "INV-7", "amount": money("99.00 USD")}
    )
    assert (failed.subject, failed.priority) == ("A payment has failed", "urgent")
    assert failed.message == (
        "Your payment of 99.00 USD has failed. It was for invoice INV-7. Please check how you pay."
    )
    listed = ts.notifications.list("acme", unread_only=True, limit=10)
    assert {one.id for one in listed} == {warning.id, failed.id}
    assert ts.notifications.mark_read(failed.id, tenant="acme").is_read
    assert [one.id for one in ts.notifications.list("acme", unread_only=True)] == [warning.id]
    assert ts.notifications.unread_count("acme") == 1


def test_ten_notifications_are_listed_unless_a_limit_is_given(ts: Tallystick) -> None:
    for number in range(11):
        ts.notifications.send("acme", "news", subject=f"News {number}")
    assert (len(ts.notifications.list("acme")), len(ts.notifications.list("acme", limit=20))) == (10, 11)


def test_what_is_of_low_priority_waits_for_the_digest_and_all_else_goes_at_once(
    database_url: str, clock: FixedClock
) -> None:
    mail = {"smtp": {"host": "mail.example.com", "sender": "billing@example.com"}, "digest_hour": 8}
    with Tallystick(database_url, clock=clock, notifications=mail) as ts:
        ts.tenants.create("Acme", slug="acme", billing_email="a@acme.example")
        for priority in ("low", "normal", "high", "urgent"):
            ts.notifications.send("acme", f"of-{priority}", subject="News", priority=priority)
        due = {one.type: one.due_at for one in ts.notifications.messages("acme", channel="email")}
        assert due == {
            "of-low": datetime(2026, 1, 16, 8, tzinfo=UTC),
            "of-normal": clock.now(),
            "of-high": clock.now(),
            "of-urgent": clock.now(),
        }


def test_a_notification_leads_to_where_something_can_be_done(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, notifications={"base_url": "https://app.example.com/billing"}) as ts:
        ts.quotas.set("acme", "message", 10, "daily")
        ts.quotas.consume("acme", "message", 10)
        ts.notifications.send("acme", "payment_failed")
        assert {one.type: one.action_url for one in ts.notifications.list("acme")} == {
            "quota_warning": "https://app.example.com/billing/quotas",
            "quota_exceeded": "https://app.example.com/billing/quotas",
            "payment_failed": "https://app.example.com/billing/payments",
        }


# -- moving in --------------------------------------------------------------------------------------------------------


def test_an_existing_deployment_becomes_a_tenants_step_by_step(ts: Tallystick, clock: FixedClock) -> None:
    for billable in ("agent:1", "agent:2", "user:7"):
        ts.usage.log(billable, "message", 5, occurred_at=clock.now() - timedelta(days=3))
    before = ts.usage.stats()

    tenant = ts.tenants.create("Existing Customer", slug="existing-customer")
    planned = ts.tenants.attach(tenant, everything=True)
    assert (planned.events, planned.applied) == (3, False)
    assert ts.tenants.attach(tenant, everything=True, apply=True).events == 3
    ts.quotas.set("existing-customer", "message", 10000, "monthly")
    ts.quotas.consume("existing-customer", "message", user=7)

    assert {one.billable for one in ts.usage.events(tenant="existing-customer")} == {"agent:1", "agent:2", "user:7"}
    assert [member.user for member in ts.tenants.users(tenant)] == ["user:7"]
    assert ts.quotas.check("existing-customer", "message", "monthly").current == 1
    assert ts.usage.stats().totals.quantity == before.totals.quantity + 1
    # Doing it again finds nothing that was missed.
    assert ts.tenants.attach(tenant, everything=True, apply=True).events == 0
    assert_healthy(ts)
