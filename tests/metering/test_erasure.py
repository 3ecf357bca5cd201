"""Taking people out of the records: their names go, the sums stay provable, and limits are not given back."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import String, select

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, CreditsInsufficient, FeatureLimitExceeded, InvalidInput, LimitExceeded
from tallystick.metering.hold import Hold
from tallystick.money import Money
from tallystick.storage import tables
from tests.acceptance.accounts import BILLABLE, assert_healthy, count_rows, meter, standing, subscribe
from tests.values import money

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


# -- credits ----------------------------------------------------------------------------------------------------------

# Whose account it is stays with what was charged to it.
CHARGED = {
    f"{table}.billable" for table in ("credit_accounts", "credit_transactions", "grants", "ledger_entries", "top_ups")
}


def spend(ts: Tallystick, billable: str, cost: str, **details: Any) -> None:
    ts.usage.record(billable=billable, input_tokens=10, total_cost=money(cost), billing_mode="credits", **details)


def everybodys_statement(ts: Tallystick) -> list[tuple[Any, ...]]:
    """Return what stands on all statements, apart from what people have said."""
    return [
        (line.billable, line.number, line.source, line.amount, line.balance_after, line.occurred_at)
        for wallet in ts.wallets.list()
        for line in wallet.transactions()
    ]


def test_deleting_keeps_the_books_of_credits_and_takes_what_they_say_of_people(ts: Tallystick) -> None:
    wallet = ts.wallets.get_or_create("user:42")
    wallet.set_auto_top_up(below="3", amount="5")
    wallet.add_credits("10", meta={"card_of": "user:42"}, granted_by="user:42")
    spend(ts, "user:42", "4 USD", user="user:42", metadata={"asked_by": "user:42"})
    wallet.deduct_credits("4", meta={"asked_by": "user:42"}, user="user:42")
    [request] = ts.wallets.top_ups()
    ts.wallets.fail_top_up(request.id, "the card of user:42 has expired")
    shared = ts.wallets.get_or_create("tenant:acme")
    shared.add_credits("10", meta={"payment_id": "pay_1"}, granted_by="user:42")
    shared.deduct_credits("1", meta={"asked_by": "user:42"}, user="user:42")
    before = everybodys_statement(ts)
    ts.usage.delete_for("user:42")
    assert mentions(ts, "user:42") == {*CHARGED, "counters.billable"}
    assert everybodys_statement(ts) == before
    assert (wallet.balance, shared.balance) == (money("2 USD"), money("9 USD"))
    assert [grant.meta for grant in shared.grants()] == [{"payment_id": "pay_1"}]
    assert_healthy(ts)
    spend(ts, "user:42", "2 USD")
    assert wallet.balance == money("0 USD")
    assert_healthy(ts)


def test_deleting_leaves_what_a_wallet_paid_for_out_of_the_plans_limits(ts: Tallystick) -> None:
    subscribe(ts, monthly_token_limit=100)
    ts.wallets.get_or_create(BILLABLE).add_credits("10")
    ts.usage.record(billable=BILLABLE, input_tokens=30)
    spend(ts, BILLABLE, "1 USD")
    ts.usage.delete_for(BILLABLE)
    assert standing(ts) == (30, 0)
    assert_healthy(ts)


def test_deleting_does_not_give_a_used_up_feature_back(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, features={"exports": {"value": 3, "reset": "daily"}, "seats": {"value": 5, "reset": "never"}})
    ts.features.grant_credits(BILLABLE, "exports", 2)
    ts.features.use(BILLABLE, "exports", 4)
    clock.advance(days=1)
    ts.features.use(BILLABLE, "exports", 3)
    ts.features.use(BILLABLE, "seats", 5)
    ts.usage.delete_for(BILLABLE)
    assert count_rows(ts, tables.feature_uses) == 2
    assert_healthy(ts)
    for slug in ("exports", "seats"):
        assert ts.features.remaining(BILLABLE, slug) == 0
        with pytest.raises(FeatureLimitExceeded):
            ts.features.use(BILLABLE, slug)
    clock.advance(days=1)
    assert ts.features.use(BILLABLE, "exports").remaining == 2
    ts.usage.delete_for(BILLABLE)
    assert ts.features.remaining(BILLABLE, "exports") == 2
    assert_healthy(ts)


def test_deleting_a_user_does_not_give_a_used_up_cap_back(ts: Tallystick, clock: FixedClock) -> None:
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("100")
    pool.set_cap("10")
    pool.set_cap("5", user="user:8", period="daily")
    for user in ("user:7", "user:8", "user:9"):
        spend(ts, "tenant:acme", "4 USD", user=user)
    ts.usage.delete_for("user:7")
    ts.usage.delete_for("user:8")
    assert not any(line.user in ("user:7", "user:8") for line in pool.transactions())
    assert_healthy(ts)
    pool.deduct_credits("6", user="user:7")
    for user, amount in (("user:7", "0.01"), ("user:8", "1.01")):
        with pytest.raises(LimitExceeded):
            pool.deduct_credits(amount, user=user)
    ts.usage.delete_for("tenant:acme")
    assert_healthy(ts)
    with pytest.raises(LimitExceeded):
        pool.deduct_credits("6.01", user="user:9")
    clock.advance(days=31)
    pool.deduct_credits("10", user="user:7")
    ts.usage.delete_for("user:7")
    assert_healthy(ts)
    # Nothing is left of the month before.
    assert mentions(ts, "user:7") == {"counters.scope"}


def test_deleting_does_not_give_a_used_up_limit_of_a_grant_back(ts: Tallystick, clock: FixedClock) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.add_credits("10", "goodwill", limit="2", limit_period="daily")
    for _ in range(2):
        wallet.deduct_credits("2")
        clock.advance(days=1)
    wallet.deduct_credits("1.5")
    ts.usage.delete_for(BILLABLE)
    assert_healthy(ts)
    assert not wallet.has_sufficient_balance("0.51")
    assert wallet.has_sufficient_balance("0.5")


def test_deleting_while_calls_hold_credits_keeps_what_they_hold(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", features={"exports": {"value": 10, "reset": "hourly"}})
    ts.subscriptions.create("tenant:acme", "pro", billing_mode="credits")
    ts.features.grant_credits("tenant:acme", "exports", "0.5")
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("10", expires_at="2026-01-15T12:30:00Z")
    pool.set_cap("5", period="hourly")
    calls = meter(ts, "tenant:acme").for_user(7).feature("exports")
    settled, voided, lapsed = (calls.hold(cost=money("1 USD")) for _ in range(3))
    assert pool.held == money("3 USD")
    # The hour of the cap and of the feature is over when the user, and then the pool, is erased.
    clock.advance(minutes=10)
    spend(ts, "tenant:acme", "1 USD", user="user:7", feature="exports")
    clock.advance(hours=1)
    spend(ts, "tenant:acme", "0.5 USD", user="user:7", feature="exports")
    for erased in ("user:7", "tenant:acme"):
        ts.usage.delete_for(erased)
        assert_healthy(ts, open_holds=3)
    settled.settle(input_tokens=1, total_cost=money("0.75 USD"))
    assert_healthy(ts, open_holds=2)
    voided.void()
    assert_healthy(ts, open_holds=1)
    clock.advance(hours=1)
    ts.run_due_jobs()
    assert lapsed.id is not None
    assert_healthy(ts, open_holds=0)
    assert pool.held == money("0 USD")


def test_anonymising_takes_people_off_old_statements_and_keeps_amounts(ts: Tallystick, clock: FixedClock) -> None:
    subscribe(ts, "tenant:acme", features={"exports": {"value": 3, "reset": "monthly"}})
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.set_cap("10")
    pool.add_credits("50", meta={"payment_id": "pay_1"}, granted_by="user:1")
    ts.features.grant_credits("tenant:acme", "exports", 1, granted_by="user:1")
    for _ in range(3):
        spend(ts, "tenant:acme", "2 USD", user="user:7", feature="exports")
        pool.deduct_credits("1", meta={"asked_by": "user:7"}, user="user:7")
        clock.advance(days=1)
    before = everybodys_statement(ts)
    for when in ("2026-01-16", "2026-01-17", "2026-01-17"):
        ts.usage.anonymize_before(when)
        assert_healthy(ts)
    assert everybodys_statement(ts) == before
    old = [line for line in pool.transactions() if line.occurred_at < datetime(2026, 1, 17, tzinfo=UTC)]
    assert [(line.user, line.meta) for line in old] == [(None, {})] * 5
    assert [line.user for line in pool.transactions(limit=2)] == ["user:7"] * 2
    assert [(grant.granted_by, grant.meta) for grant in pool.grants()] == [(None, {})]
    # No use of a feature leads from an event that was renamed back to who made it.
    renamed = {event.id for event in ts.usage.events(end="2026-01-17")}
    assert not renamed & feature_events(ts)
    # What was used up stays so.
    assert ts.features.remaining("tenant:acme", "exports") == 1
    pool.deduct_credits("1", user="user:7")
    with pytest.raises(LimitExceeded):
        pool.deduct_credits("0.01", user="user:7")
    assert_healthy(ts)
    clock.advance(days=40)
    ts.usage.delete_for("user:7")
    ts.usage.anonymize_before(clock.now())
    assert_healthy(ts)


def feature_events(ts: Tallystick) -> set[str]:
    query = select(tables.feature_uses.c.event_id)
    return set(ts._engine.read(lambda connection: connection.execute(query).scalars().all()))


def test_a_cap_that_is_set_after_a_user_was_erased_counts_what_was_erased(ts: Tallystick) -> None:
    pool = ts.wallets.get_or_create("tenant:acme")
    pool.add_credits("100")
    pool.set_cap("10")
    pool.deduct_credits("4", user="user:7")
    ts.usage.delete_for("user:7")
    pool.deduct_credits("1", user="user:7")
    pool.set_cap("6")
    assert_healthy(ts)
    with pytest.raises(LimitExceeded):
        pool.deduct_credits("1.01", user="user:7")


def test_erasing_among_spending_through_another_engine_keeps_every_number_of_credits_right(
    ts: Tallystick, database_url: str, clock: FixedClock
) -> None:
    subscribe(ts, "tenant:acme", features={"exports": 100_000})
    for name in ("tenant:acme", "tenant:zeta"):
        pool = ts.wallets.get_or_create(name)
        pool.add_credits("1000")
        pool.set_cap("1000")
    stop = threading.Event()

    def work(number: int) -> None:
        with Tallystick(database_url, clock=clock) as other:
            while not stop.is_set():
                for name in ("tenant:zeta", "user:1", "tenant:acme"):
                    spend(other, name, "0.01 USD", user=f"user:{number}", feature="exports")

    workers = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for worker in workers:
        worker.start()
    for _ in range(5):
        ts.usage.delete_for("user:1")
        ts.usage.delete_for("tenant:acme")
        ts.usage.anonymize_before("2026-01-15")
    clock.advance(days=1)
    ts.usage.anonymize_before(clock.now())
    stop.set()
    for worker in workers:
        worker.join(20)
    assert_healthy(ts, open_holds=0)


def test_a_top_up_that_was_paid_is_not_paid_again_after_its_key_was_forgotten(
    ts: Tallystick, clock: FixedClock
) -> None:
    wallet = ts.wallets.get_or_create(BILLABLE)
    wallet.set_auto_top_up(below="5", amount="10")
    wallet.add_credits("6")
    wallet.deduct_credits("2")
    [request] = ts.wallets.top_ups()
    paid = ts.wallets.complete_top_up(request.id)
    clock.advance(days=2)
    ts.usage.anonymize_before(clock.now())
    ts.usage.delete_for(BILLABLE)
    assert ts.wallets.complete_top_up(request.id).id == paid.id
    assert wallet.balance == money("14 USD")
    assert_healthy(ts)


STEPS: dict[str, Callable[[Tallystick, FixedClock, str, str], object]] = {
    "an hour": lambda ts, clock, who, user: clock.advance(hours=1),
    "a day": lambda ts, clock, who, user: clock.advance(days=1),
    "add": lambda ts, clock, who, user: ts.wallets.get(who).add_credits("5", limit="2", limit_period="daily"),
    "spend": lambda ts, clock, who, user: spend(ts, who, "1.5 USD", user=user, feature="exports"),
    "spend late": lambda ts, clock, who, user: spend(
        ts, who, "1 USD", user=user, occurred_at=clock.now() - timedelta(hours=20)
    ),
    "deduct": lambda ts, clock, who, user: ts.wallets.get(who).deduct_credits("1", user=user),
    "hold": lambda ts, clock, who, user: (
        meter(ts, who).for_user(user).billing_mode("credits").feature("exports").hold(cost=money("1 USD"))
    ),
    "refund": lambda ts, clock, who, user: [
        ts.wallets.get(who).refund(line.id, "0.25") for line in ts.wallets.get(who).transactions("debit", limit=1)
    ],
    "use": lambda ts, clock, who, user: ts.features.use(who, "exports", user=user),
    "grant": lambda ts, clock, who, user: ts.features.grant_credits(who, "exports", 1, granted_by=user),
    "cap": lambda ts, clock, who, user: ts.wallets.get(who).set_cap("4", user=user, period="daily"),
    "cap everybody": lambda ts, clock, who, user: ts.wallets.get(who).set_cap("9"),
    "erase the account": lambda ts, clock, who, user: ts.usage.delete_for(who),
    "erase the user": lambda ts, clock, who, user: ts.usage.delete_for(user),
    "anonymise": lambda ts, clock, who, user: ts.usage.anonymize_before(clock.now()),
}


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(STEPS)),
            st.sampled_from(("user:1", "tenant:acme")),
            st.sampled_from(("user:1", "user:2")),
        ),
        min_size=15,
        max_size=30,
    )
)
def test_whatever_is_spent_and_erased_every_number_can_be_proven(
    sqlite_template: Path, steps: list[tuple[str, str, str]]
) -> None:
    clock = FixedClock("2026-01-30T20:00:00Z")
    with TemporaryDirectory() as folder:
        shutil.copyfile(sqlite_template, Path(folder) / "tallystick.db")
        with Tallystick(f"sqlite:///{folder}/tallystick.db", clock=clock) as ts:
            ts.plans.create("pro", features={"exports": {"value": 3, "reset": "daily"}})
            for who in ("user:1", "tenant:acme"):
                ts.subscriptions.create(who, "pro", billing_mode="credits")
                ts.wallets.get_or_create(who).add_credits("10")
            for step, who, user in steps:
                with contextlib.suppress(LimitExceeded, CreditsInsufficient, Conflict, InvalidInput):
                    STEPS[step](ts, clock, who, user)
            assert_healthy(ts)
            clock.advance(days=3)
            ts.run_due_jobs()
            assert_healthy(ts, open_holds=0)
