"""Taking people out of the records: their names go, the sums stay provable, and limits are not given back."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import String, select

from tallystick import FixedClock, Tallystick
from tallystick.errors import LimitExceeded
from tallystick.metering.hold import Hold
from tallystick.money import Money
from tallystick.storage import tables
from tests.acceptance.accounts import BILLABLE, assert_healthy, count_rows, meter, standing, subscribe

# What keeps the name of who pays on purpose: plans and charges are accounts, not use.
KEPT = {"accounts", "subscriptions", "limit_overrides", "overages", "terms_changes"}


def mentions(ts: Tallystick, name: str) -> set[str]:
    """Return the tables and columns that contain a text anywhere, apart from those that keep it on purpose."""

    def look(connection: Any) -> set[str]:
        return {
            f"{table.name}.{column.name}"
            for table in tables.metadata.sorted_tables
            if table.name not in KEPT
            for column in table.columns
            if isinstance(column.type, String)
            and connection.execute(select(column).where(column.contains(name, autoescape=True))).first()
        }

    return ts._engine.read(look)


def test_deleting_takes_every_mention_of_the_billable(ts: Tallystick) -> None:
    subscribe(ts, "user:42", monthly_token_limit=10_000)
    meter(ts, "user:42").with_idempotency_key("k").with_manual_usage(input_tokens=10).call(lambda: None)
    (
        meter(ts, "tenant:acme")
        .for_user(42)
        .with_meta(asked_by="user:42")
        .with_manual_usage(input_tokens=10)
        .call(lambda: None)
    )
    meter(ts, "user:42").hold(tokens=5).void()
    ts.usage.log("user:42", "message", idempotency_key="m")
    erasure = ts.usage.delete_for("user:42")
    assert (erasure.events, erasure.mentions) == (2, 1)
    # The counter of the running period alone stays, so that the limit is not given back.
    assert mentions(ts, "user:42") == {"counters.billable", "usage_removed.billable"}
    assert standing(ts, "user:42") == (10, 0)
    assert ts.usage.stats("user:42").totals.events == 0
    assert ts.usage.stats("acme").totals.events == 1
    assert_healthy(ts)


def test_deleting_a_tenant_takes_its_mentions_in_the_events_of_others(ts: Tallystick) -> None:
    meter(ts, "user:1").for_tenant("acme").with_meta(of="tenant:acme").with_manual_usage(input_tokens=1).call(lambda: 0)
    hold = meter(ts, "user:1").for_tenant("acme").hold(tokens=1)
    assert ts.usage.delete_for("tenant:acme").mentions == 1
    assert mentions(ts, "tenant:acme") == set()
    hold.void()
    assert_healthy(ts)


def test_deleting_does_not_give_a_used_up_limit_back(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=100)
    meter(ts).with_manual_usage(input_tokens=100).call(lambda: None)
    ts.usage.delete_for(BILLABLE)
    with pytest.raises(LimitExceeded):
        meter(ts).hold(tokens=1)
    assert_healthy(ts)


def test_use_after_deleting_counts_on(ts: Tallystick, clock: FixedClock) -> None:
    for _ in range(3):
        ts.usage.record(billable=BILLABLE, input_tokens=10, total_cost=Money("1", "USD"))
        ts.usage.delete_for(BILLABLE)
        assert_healthy(ts)
    assert standing(ts) == (30, 0)
    clock.advance(days=31)
    ts.usage.record(billable=BILLABLE, input_tokens=1)
    ts.usage.delete_for(BILLABLE)
    assert_healthy(ts)
    assert standing(ts) == (1, 0)


def test_deleting_while_calls_are_in_flight_keeps_their_holds(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-01-31T23:59:00Z")
    subscribe(ts, monthly_token_limit=100)
    meter(ts).with_manual_usage(input_tokens=10).call(lambda: None)
    settled, voided, lapsed = (meter(ts).with_idempotency_key(key).hold(tokens=20) for key in "abc")
    # The holds are of a period that is over when their billable is erased.
    clock.set("2026-02-01T00:01:00Z")
    ts.usage.delete_for(BILLABLE)
    assert_healthy(ts, open_holds=3)
    settled.settle(input_tokens=15)
    voided.void()
    clock.advance(hours=1)
    assert ts.run_due_jobs().holds_expired == 1
    assert lapsed.id is not None
    assert_healthy(ts, open_holds=0)
    assert standing(ts) == (0, 0)


def test_a_lapsed_call_that_comes_back_after_its_hold_was_erased_is_recorded(ts: Tallystick, clock: FixedClock) -> None:
    hold = meter(ts).hold(tokens=20)
    clock.advance(hours=1)
    ts.run_due_jobs()
    ts.usage.delete_for(BILLABLE)
    # One that remembers nothing of the first settlement, as after an outage.
    repeated = Hold(hold._engine, hold._context, hold._attempt or pytest.fail("it was placed"))
    late = hold.settle(input_tokens=15)
    assert "late" in late.event.flags
    assert repeated.settle(input_tokens=15).usage_event_id == late.usage_event_id
    hold.void()
    assert ts.usage.stats(BILLABLE).totals.total_tokens == 15
    assert_healthy(ts, open_holds=0)


def test_a_provider_that_fails_after_its_billable_was_erased_is_heard(ts: Tallystick, clock: FixedClock) -> None:
    def erase_and_fail() -> None:
        clock.advance(hours=1)
        ts.run_due_jobs()
        ts.usage.delete_for(BILLABLE)
        raise ConnectionError("the provider's own")

    with pytest.raises(ConnectionError, match="the provider's own"):
        meter(ts).call(erase_and_fail)
    assert_healthy(ts, open_holds=0)


def test_a_key_of_an_erased_call_in_flight_can_be_used_by_another_and_stays_its(
    ts: Tallystick, clock: FixedClock
) -> None:
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=1)
    keyed.hold(ttl_seconds=60)
    ts.usage.delete_for(BILLABLE)
    second = keyed.hold(ttl_seconds=600)
    clock.advance(seconds=60)
    assert ts.run_due_jobs().holds_expired == 1
    settled = second.settle()
    assert keyed.call(lambda: None).usage_event_id == settled.usage_event_id
    assert_healthy(ts, open_holds=0)


def test_deleting_somebody_unknown_changes_nothing(ts: Tallystick) -> None:
    erasure = ts.usage.delete_for("user:nobody")
    assert (erasure.events, erasure.mentions) == (0, 0)
    assert_healthy(ts)


def test_deleting_among_recording_keeps_every_counter_right(ts: Tallystick) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            ts.usage.record(billable=BILLABLE, input_tokens=1)
            meter(ts).with_manual_usage(input_tokens=1).call(lambda: None)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(5):
        ts.usage.delete_for(BILLABLE)
        ts.usage.anonymize_before("2026-01-15")
    stop.set()
    for worker in workers:
        worker.join(20)
    assert_healthy(ts, open_holds=0)


def some_history(ts: Tallystick) -> None:
    for day in range(10, 15):
        for name in ("user:1", "user:2"):
            ts.usage.record(
                billable=name,
                user=name,
                tenant="acme",
                input_tokens=day,
                total_cost=Money("0.5", "USD"),
                metadata={"who": name},
                idempotency_key=f"{name}-{day}",
                occurred_at=f"2026-01-{day}T23:59:59.999999Z",
            )


def test_anonymising_takes_names_and_keeps_sums(ts: Tallystick) -> None:
    some_history(ts)
    before = ts.usage.stats(end="2026-01-13")
    everything = ts.usage.stats()
    erasure = ts.usage.anonymize_before("2026-01-13T15:00:00Z")
    assert (erasure.events, erasure.billables) == (6, 2)
    assert ts.usage.stats(end="2026-01-13").totals == before.totals
    assert ts.usage.stats().totals == everything.totals
    old = list(ts.usage.events(end="2026-01-13"))
    assert len(old) == 6
    assert {event.billable.partition(":")[0] for event in old} == {"anonymous"}
    assert len({event.billable for event in old}) == 2
    assert {(event.user, event.tenant, event.idempotency_key) for event in old} == {(None, None, None)}
    assert all(event.metadata == {} for event in old)
    young = list(ts.usage.events(start="2026-01-13"))
    assert {event.billable for event in young} == {"user:1", "user:2"}
    assert all(event.metadata for event in young)
    assert_healthy(ts)


def test_anonymising_twice_and_going_on_keeps_every_counter_right(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, "user:1", monthly_token_limit=1_000)
    some_history(ts)
    for when in ("2026-01-12", "2026-01-12", "2026-01-14", "2026-01-15"):
        ts.usage.anonymize_before(when)
        assert_healthy(ts)
    # Use that is reported late falls into what was anonymised already.
    ts.usage.record(billable="user:1", input_tokens=7, occurred_at="2026-01-11T10:00:00Z")
    ts.usage.anonymize_before("2026-01-15")
    assert standing(ts, "user:1") == (10 + 11 + 12 + 13 + 14 + 7, 0)
    assert_healthy(ts)
    clock.advance(days=20)
    ts.usage.delete_for("user:1")
    ts.usage.anonymize_before(clock.now())
    assert_healthy(ts)


def test_anonymising_leaves_calls_in_flight_alone(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-01-14T23:59:30Z")
    keyed = meter(ts).with_idempotency_key("once").with_manual_usage(input_tokens=3)
    hold = keyed.hold(tokens=10)
    clock.set("2026-01-15T00:00:30Z")
    ts.usage.anonymize_before("2026-01-15")
    assert_healthy(ts, open_holds=1)
    settled = hold.settle()
    assert keyed.call(lambda: None).usage_event_id == settled.usage_event_id
    assert standing(ts) == (3, 0)
    assert_healthy(ts, open_holds=0)


def test_statistics_of_a_zone_are_anonymised_by_its_days(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, period={"timezone": "Asia/Kolkata"}) as ts:
        for instant in ("2026-01-13T18:29:59Z", "2026-01-13T18:30:00Z"):
            ts.usage.log("acme", "message", occurred_at=instant)
        # In Kolkata it is the 14th from 18:30 of the 13th, UTC.
        ts.usage.anonymize_before(datetime(2026, 1, 14, 12, tzinfo=UTC))
        assert ts.usage.stats("acme").totals.events == 1
        assert count_rows(ts, tables.usage_events) == 2
        assert_healthy(ts)
