"""Due jobs do what the clock says, once, over however many processes: expiry, warnings, and monthly reports."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.due_jobs import DueJobs
from tallystick.events import CreditReportDue, CreditsExpired, CreditsExpiring, Event
from tallystick.testing import CreditFactory
from tests.acceptance.accounts import assert_healthy
from tests.values import money


def heard(ts: Tallystick, event_class: type[Event]) -> list[Any]:
    """Listen to a class of events from now on."""
    events: list[Any] = []
    ts.on(event_class)(events.append)
    return events


def months(events: list[Any]) -> list[str]:
    return [f"{event.report.start:%Y-%m}" for event in events]


def by_several(database_url: str, clock: FixedClock, event_class: type[Event], workers: int) -> tuple[int, list[Any]]:
    """Run due jobs in several engines at once. Returns how much of `event_class` they say was sent, and the events."""
    engines = [Tallystick(database_url, clock=clock) for _ in range(workers)]
    events: list[Any] = []
    done: list[DueJobs] = []
    for engine in engines:
        engine.on(event_class)(events.append)
    start = threading.Barrier(workers)

    def work(engine: Tallystick) -> None:
        start.wait()
        done.append(engine.run_due_jobs())

    threads = [threading.Thread(target=work, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.close()
    field = {CreditsExpired: "grants_expired", CreditsExpiring: "expiry_warnings", CreditReportDue: "credit_reports"}
    return sum(getattr(one, field[event_class]) for one in done), events


def test_nothing_to_do_is_said_to_be_nothing(ts: Tallystick) -> None:
    assert ts.run_due_jobs() == DueJobs(holds_expired=0, grants_expired=0, expiry_warnings=0, credit_reports=0)


# -- expiry -----------------------------------------------------------------------------------------------------------


def test_what_has_expired_is_booked_and_told_once(ts: Tallystick, clock: FixedClock) -> None:
    make = CreditFactory(ts)
    grants = [make.expiring("user:1", "api-calls", in_days=n) for n in (1, 2, 9)]
    events = heard(ts, CreditsExpired)
    clock.advance(days=2)
    assert ts.run_due_jobs().grants_expired == 2
    assert ts.run_due_jobs().grants_expired == 0
    assert {(event.grant_id, event.expired_at) for event in events} == {
        (grant.id, grant.expires_at) for grant in grants[:2]
    }
    assert [event.amount for event in events] == [10, 10]
    assert_healthy(ts)


def test_several_workers_book_each_expiry_once(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        for n in range(40):
            CreditFactory(ts).expired(f"user:{n % 7}", "api-calls")
        booked, events = by_several(database_url, clock, CreditsExpired, workers=4)
        assert (booked, len(events), len({event.grant_id for event in events})) == (40, 40, 40)
        assert_healthy(ts)


def test_what_a_lapsed_hold_had_pinned_expires_with_it(ts: Tallystick, clock: FixedClock) -> None:
    CreditFactory(ts).with_credits(money("10 USD")).expiring("user:1", in_days=1)
    events = heard(ts, CreditsExpired)
    metered = ts.meter.billable("user:1").billing_mode("credits").using_provider("openai", "gpt-4o-mini")
    metered.hold(cost=money("4 USD"), ttl_seconds=2 * 86_400)
    clock.advance(days=1)
    assert ts.run_due_jobs().grants_expired == 1
    assert (ts.wallets.get("user:1").balance, ts.wallets.get("user:1").available) == (money("4 USD"), money("0 USD"))
    clock.advance(days=1)
    assert ts.run_due_jobs().holds_expired == 1
    assert ts.wallets.get("user:1").balance == money("0 USD")
    assert [event.amount for event in events] == [money("6 USD"), money("4 USD")]
    report = ts.credits.report().of("USD")
    assert (report.totals.expired, report.expired.count) == (money("10 USD"), 1)
    assert_healthy(ts)


# -- warnings ---------------------------------------------------------------------------------------------------------


def test_a_grant_is_announced_once_before_it_expires(ts: Tallystick, clock: FixedClock) -> None:
    events = heard(ts, CreditsExpiring)
    grant = CreditFactory(ts).expiring("user:1", "api-calls", in_days=10)
    assert ts.run_due_jobs().expiry_warnings == 0
    clock.advance(days=3)
    assert ts.run_due_jobs().expiry_warnings == 1
    clock.advance(days=1)
    assert ts.run_due_jobs().expiry_warnings == 0
    (event,) = events
    assert (event.billable, event.grant.id, event.grant.remaining) == ("user:1", grant.id, 10)
    assert (event.expires_at, event.at) == (grant.expires_at, datetime(2026, 1, 18, 12, tzinfo=UTC))
    assert_healthy(ts)


def test_what_is_used_up_or_expired_or_lasts_is_not_announced(ts: Tallystick) -> None:
    events = heard(ts, CreditsExpiring)
    make = CreditFactory(ts)
    make.expiring("user:1", "api-calls")
    ts.features.use("user:1", "api-calls", 10)
    make.expired("user:2", "api-calls")
    make.loyalty("user:3", "api-calls")
    assert (ts.run_due_jobs().expiry_warnings, events) == (0, [])


def test_the_setting_says_how_long_before_and_zero_is_never(database_url: str, clock: FixedClock) -> None:
    for days, warned in ((0, 0), (2, 0), (3, 1)):
        with Tallystick(database_url, clock=clock, credits={"expiry_warning_days": days}) as ts:
            if not days:
                CreditFactory(ts).expiring("user:1", "api-calls", in_days=3)
            events = heard(ts, CreditsExpiring)
            assert (ts.run_due_jobs().expiry_warnings, len(events)) == (warned, warned)


def test_where_nobody_listens_no_warning_is_used_up(ts: Tallystick) -> None:
    CreditFactory(ts).expiring("user:1", "api-calls")
    assert ts.run_due_jobs().expiry_warnings == 0
    events = heard(ts, CreditsExpiring)
    assert (ts.run_due_jobs().expiry_warnings, len(events)) == (1, 1)


def test_several_workers_announce_each_grant_once(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        for n in range(40):
            CreditFactory(ts).expiring(f"user:{n % 7}", "api-calls")
    warned, events = by_several(database_url, clock, CreditsExpiring, workers=4)
    assert (warned, len(events), len({event.grant.id for event in events})) == (40, 40, 40)


# -- monthly reports --------------------------------------------------------------------------------------------------


def test_a_month_is_reported_once_when_it_has_ended(ts: Tallystick, clock: FixedClock) -> None:
    events = heard(ts, CreditReportDue)
    CreditFactory(ts).wallet("user:1", "100 USD").deduct_credits(30)
    assert ts.run_due_jobs().credit_reports == 0
    clock.set("2026-02-01T00:00:00Z")
    assert ts.run_due_jobs().credit_reports == 1
    assert ts.run_due_jobs().credit_reports == 0
    (event,) = events
    assert (event.billable, event.at) == ("*", datetime(2026, 2, 1, tzinfo=UTC))
    assert (event.report.start, event.report.end) == (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 1, tzinfo=UTC),
    )
    assert event.report.of("USD").totals.used == money("30 USD")
    assert event.report == ts.credits.report("2026-01-01", "2026-02-01")


def test_a_new_database_has_no_months_before_its_first_grant(ts: Tallystick, clock: FixedClock) -> None:
    events = heard(ts, CreditReportDue)
    assert ts.run_due_jobs().credit_reports == 0
    clock.set("2026-06-10T00:00:00Z")
    assert ts.run_due_jobs().credit_reports == 0
    CreditFactory(ts).wallet("user:1", "100 USD")
    assert ts.run_due_jobs().credit_reports == 0
    clock.set("2026-07-03T00:00:00Z")
    assert (ts.run_due_jobs().credit_reports, months(events)) == (1, ["2026-06"])


def test_months_that_were_missed_are_made_up_for_in_order(ts: Tallystick, clock: FixedClock) -> None:
    events = heard(ts, CreditReportDue)
    wallet = CreditFactory(ts).wallet("user:1", "100 USD")
    clock.set("2026-02-01T00:00:00Z")
    ts.run_due_jobs()
    wallet.deduct_credits(10)
    clock.set("2026-05-20T00:00:00Z")
    assert ts.run_due_jobs().credit_reports == 3
    assert months(events) == ["2026-01", "2026-02", "2026-03", "2026-04"]
    assert [event.report.of("USD").totals.used for event in events[1:]] == [money(f"{n} USD") for n in (10, 0, 0)]


def test_months_are_those_of_the_accounts_zone_also_after_a_change_of_it(database_url: str) -> None:
    clock = FixedClock("2026-01-15T12:00:00Z")
    events: list[Any] = []
    for zone, now, due in (
        ("America/Sao_Paulo", "2026-02-01T02:59:59Z", 0),
        ("America/Sao_Paulo", "2026-02-01T03:00:00Z", 1),
        ("Asia/Kolkata", "2026-02-28T18:29:59Z", 0),
        ("Asia/Kolkata", "2026-02-28T18:30:00Z", 1),
        ("UTC", "2026-04-01T00:00:00Z", 1),
    ):
        with Tallystick(database_url, clock=clock, period={"timezone": zone}) as ts:
            if not events and not due:
                CreditFactory(ts).wallet("user:1", "100 USD")
            ts.on(CreditReportDue)(events.append)
            clock.set(now)
            assert ts.run_due_jobs().credit_reports == due, (zone, now)
    starts = [event.report.start for event in events]
    assert starts == [
        datetime(2026, 1, 1, 3, tzinfo=UTC),
        datetime(2026, 1, 31, 18, 30, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
    ]


def test_reports_are_sent_where_somebody_listens_and_not_at_all_if_so_set(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        CreditFactory(ts).wallet("user:1", "100 USD")
        clock.advance(days=60)
        assert ts.run_due_jobs().credit_reports == 0
    with Tallystick(database_url, clock=clock, credits={"report_monthly": False}) as ts:
        events = heard(ts, CreditReportDue)
        assert (ts.run_due_jobs().credit_reports, events) == (0, [])
    with Tallystick(database_url, clock=clock) as ts:
        events = heard(ts, CreditReportDue)
        assert (ts.run_due_jobs().credit_reports, months(events)) == (2, ["2026-01", "2026-02"])


def test_several_workers_report_each_month_once_and_in_order(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        CreditFactory(ts).wallet("user:1", "100 USD")
    clock.advance(days=120)
    sent, events = by_several(database_url, clock, CreditReportDue, workers=4)
    # Who finds a month taken leaves the months after it to the one that took it.
    assert sent == len(events)
    assert sorted(set(months(events))) == sorted(months(events)) == ["2026-01", "2026-02", "2026-03", "2026-04"]


def test_a_handler_that_fails_harms_nothing(
    ts: Tallystick, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    @ts.on(CreditReportDue)
    def fail(event: CreditReportDue) -> None:
        raise RuntimeError("No paper.")

    CreditFactory(ts).wallet("user:1", "100 USD")
    clock.advance(days=31)
    assert ts.run_due_jobs().credit_reports == 1
    assert "No paper." in caplog.text
    assert ts.run_due_jobs().credit_reports == 0
