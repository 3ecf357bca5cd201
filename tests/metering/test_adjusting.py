"""Adjusting a quantity: a correction that quotas, rollups and statistics follow, and that never takes back too much."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import FixedClock, Tallystick
from tallystick.errors import IdempotencyConflict, InvalidInput, NotFound


def healthy(ts: Tallystick) -> None:
    assert ts.doctor().findings == ()


def quantity(ts: Tallystick, resource_type: str = "message") -> Any:
    return ts.usage.stats("acme", resource_type=resource_type).totals.quantity


def test_taking_back_part_of_an_event_lowers_what_counts_it(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "monthly")
    event = ts.usage.log("acme", "message", 8, user=7, feature="chat", occurred_at="2026-01-10T09:00:00Z")

    adjustment = ts.usage.adjust(event.id, quantity=-5, reason="sent twice")

    assert (adjustment.quantity, adjustment.corrects_event_id, adjustment.flags) == (-5, event.id, ("correction",))
    assert (adjustment.user, adjustment.feature, adjustment.occurred_at) == (event.user, "chat", event.occurred_at)
    assert adjustment.metadata == {"reason": "sent twice"}
    assert ts.usage.get(event.id) == event
    totals = ts.usage.stats("acme").totals
    assert (totals.events, totals.quantity) == (1, 3)
    assert ts.quotas.check("acme", "message", "monthly").current == 3
    assert [point.totals.quantity for point in ts.usage.time_series("acme", "2026-01-09", "2026-01-12")] == [0, 3, 0]
    explanation = ts.usage.explain(event.id)
    assert [one.id for one in explanation.corrections] == [adjustment.id]
    assert f"Corrected by {adjustment.id}: -5 message." in str(explanation)
    assert explanation.cost_now == explanation.cost
    healthy(ts)


def test_an_adjustment_follows_the_quotas_of_whoever_used_it(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "daily", user="*")
    ts.quotas.set("acme", "message", 10, "daily", feature="chat")
    event = ts.quotas.consume("acme", "message", 10, user=7, feature="chat")
    ts.usage.adjust(event.id, quantity=-4, reason="sent twice")
    assert ts.quotas.check("acme", "message", "daily", 4, user=7).allowed
    assert ts.quotas.check("acme", "message", "daily", 4, feature="chat").allowed
    assert not ts.quotas.check("acme", "message", "daily", 5, user=7).allowed
    ts.quotas.consume("acme", "message", 4, user=7, feature="chat")
    healthy(ts)


def test_a_quantity_that_was_missed_is_added(ts: Tallystick) -> None:
    event = ts.usage.log("acme", "file_storage", "1.5")
    ts.usage.adjust(event.id, quantity="0.25", reason="late sync")
    assert quantity(ts, "file_storage") == Decimal("1.75")
    healthy(ts)


def test_no_more_is_taken_back_than_there_was_of_an_event(ts: Tallystick) -> None:
    event = ts.usage.log("acme", "message", 5)
    ts.usage.log("acme", "message", 100)
    ts.usage.adjust(event.id, quantity=-3, reason="wrong")
    with pytest.raises(InvalidInput, match=f"Of event {event.id} 2 are there") as refused:
        ts.usage.adjust(event.id, quantity=-3, reason="wrong")
    assert refused.value.field == "quantity"
    ts.usage.adjust(event.id, quantity=-2, reason="wrong")
    assert quantity(ts) == 100
    healthy(ts)


def test_a_resource_type_is_adjusted_on_a_day(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "daily")
    ts.usage.log("acme", "message", 6)
    adjustment = ts.usage.adjust("acme", "message", quantity=-5, reason="failed deliveries")
    assert (adjustment.billable, adjustment.quantity, adjustment.occurred_at) == (
        "tenant:acme", -5, datetime(2026, 1, 15, 12, tzinfo=UTC))  # fmt: skip
    assert ts.usage.explain(adjustment.id).corrections == ()
    totals = ts.usage.stats("acme").totals
    assert (totals.events, totals.quantity) == (1, 1)
    assert ts.quotas.check("acme", "message", "daily").current == 1
    with pytest.raises(InvalidInput, match="Of message on that day 1 are there"):
        ts.usage.adjust("acme", "message", quantity=-2, reason="failed deliveries")
    with pytest.raises(InvalidInput, match="Of message on that day 0 are there"):
        ts.usage.adjust("acme", "message", quantity=-1, reason="of yesterday", occurred_at="2026-01-14")
    healthy(ts)


def test_a_day_is_one_of_the_accounts_zone(ts: Tallystick) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    ts.usage.log("acme", "message", 5, occurred_at="2026-01-11T02:59:59Z")
    ts.usage.adjust("acme", "message", quantity=-5, reason="wrong", occurred_at="2026-01-10T12:00:00Z")
    days = ts.usage.time_series("acme", "2026-01-10T03:00:00Z", "2026-01-12T03:00:00Z")
    assert [point.totals.quantity for point in days] == [0, 0]
    healthy(ts)


def test_use_whose_event_was_removed_is_adjusted_on_its_day(ts: Tallystick) -> None:
    event = ts.usage.log("acme", "message", 5, occurred_at="2025-03-01T10:00:00Z")
    ts.usage.cleanup()
    with pytest.raises(NotFound, match="by billable and day"):
        ts.usage.adjust(event.id, quantity=-1, reason="wrong")
    ts.usage.adjust("acme", "message", quantity=-5, reason="wrong", occurred_at="2025-03-01T10:00:00Z")
    assert quantity(ts) == 0
    assert ts.doctor().ok


def test_a_repetition_with_the_same_key_adjusts_once(ts: Tallystick) -> None:
    event = ts.usage.log("acme", "message", 5)
    wanted: dict[str, Any] = {"quantity": -2, "reason": "wrong", "idempotency_key": "fix-1"}
    first = ts.usage.adjust(event.id, **wanted)
    assert ts.usage.adjust(event.id, **wanted) == first
    assert quantity(ts) == 3
    with pytest.raises(IdempotencyConflict, match="quantity"):
        ts.usage.adjust(event.id, **{**wanted, "quantity": -1})
    other = ts.usage.adjust("acme", "message", occurred_at="2026-01-15T12:00:00Z", quantity=-1, reason="x",
                            idempotency_key="fix-2")  # fmt: skip
    assert other == ts.usage.adjust("acme", "message", occurred_at="2026-01-15T12:00:00Z", quantity=-1, reason="x",
                                    idempotency_key="fix-2")  # fmt: skip
    assert quantity(ts) == 2
    healthy(ts)


def test_many_at_once_take_back_no_more_than_there_was(ts: Tallystick) -> None:
    event = ts.usage.log("acme", "message", 10)

    def take_back(number: int) -> bool:
        try:
            if number % 2:
                ts.usage.adjust(event.id, quantity=-1, reason="wrong")
            else:
                ts.usage.adjust("acme", "embedding", quantity=-1, reason="wrong")
        except InvalidInput:
            return False
        return True

    ts.usage.log("acme", "embedding", 7)
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(take_back, range(60)))
    assert sum(done[1::2]) == 10
    assert sum(done[0::2]) == 7
    assert (quantity(ts), quantity(ts, "embedding")) == (0, 0)
    healthy(ts)


def test_adjusting_an_unpriced_event_leaves_it_to_be_priced(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as ts:
        event = ts.usage.record(billable="user:1", provider="ours", model="large", input_tokens=1_000_000, quantity=2)
        ts.usage.adjust(event.id, quantity=-1, reason="one answer only")
        assert ts.usage.explain(event.id).cost_now is None
        assert ts.usage.stats("user:1", "2026-01-15T11:30:00Z", "2026-01-15T12:30:00Z").totals.unpriced_events == 1
        assert [finding.kind for finding in ts.doctor().findings] == ["unpriced events"]
    prices = {"ours": {"models": {"large": {"input_price_per_million": "3", "output_price_per_million": "3"}}}}
    with Tallystick(database_url, clock=clock, providers=prices) as ts:
        assert len(ts.usage.reprice(only_unpriced=True, apply=True).differences) == 1
        totals = ts.usage.stats("user:1").totals
        assert (totals.unpriced_events, str(totals.cost.amount), totals.quantity) == (0, "3.00", 1)
        healthy(ts)


def test_tokens_cost_and_wallets_stay(ts: Tallystick) -> None:
    ts.plans.create(slug="payg", name="Pay as you go")
    ts.subscriptions.create("user:1", "payg", billing_mode="credits")
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits("10")
    event = ts.usage.record(billable="user:1", provider="openai", model="gpt-4o", input_tokens=5, total_cost="2")
    before = (wallet.balance, ts.usage.stats("user:1").totals.costs, ts.usage.stats("user:1").totals.total_tokens)
    ts.usage.adjust(event.id, quantity=-1, reason="wrong")
    after = (wallet.balance, ts.usage.stats("user:1").totals.costs, ts.usage.stats("user:1").totals.total_tokens)
    assert after == before
    healthy(ts)


@pytest.mark.parametrize(
    ("arguments", "keywords", "field"),
    [
        (("evt_x",), {"quantity": 0}, "quantity"),
        (("evt_x",), {"quantity": "some"}, "quantity"),
        (("evt_x",), {"reason": " "}, "reason"),
        (("evt_x",), {"user": 7}, "what"),
        (("acme",), {}, "what"),
        (("acme", "cost"), {}, "resource_type"),
    ],
)
def test_what_cannot_be_adjusted_is_refused(
    ts: Tallystick, arguments: tuple[Any, ...], keywords: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        ts.usage.adjust(*arguments, **{"quantity": -1, "reason": "wrong", **keywords})
    assert refused.value.field == field


def test_what_is_counted_in_whole_units_is_adjusted_in_whole_units(database_url: str, clock: FixedClock) -> None:
    seats = {"resource_types": {"seat": {"unit": "seat"}}}
    with Tallystick(database_url, clock=clock, usage=seats) as ts:
        event = ts.usage.log("acme", "seat", 3)
        for what in ((event.id,), ("acme", "seat")):
            with pytest.raises(InvalidInput, match="whole units"):
                ts.usage.adjust(*what, quantity="-0.5", reason="wrong")


def test_an_event_that_is_not_there_and_a_correction_are_not_adjusted(ts: Tallystick) -> None:
    with pytest.raises(NotFound):
        ts.usage.adjust("evt_none", quantity=-1, reason="wrong")
    event = ts.usage.log("acme", "message", 5)
    adjustment = ts.usage.adjust(event.id, quantity=-1, reason="wrong")
    with pytest.raises(InvalidInput, match="adjust what it corrects"):
        ts.usage.adjust(adjustment.id, quantity=1, reason="wrong")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.sampled_from(["log", "event", "day"]), st.integers(-6, 6)), max_size=12))
def test_nothing_drifts_and_nothing_falls_below_zero(
    sqlite_url: str, tmp_path_factory: Any, steps: list[tuple[str, int]]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('adjusting')}/tallystick.db"
    with Tallystick(url, clock=FixedClock("2026-01-15T12:00:00Z"), storage={"synchronous": "normal"}) as ts:
        ts.quotas.set("acme", "message", 1000, "monthly")
        event = ts.usage.log("acme", "message", 3)
        expected = 3
        for kind, amount in steps:
            try:
                if kind == "log":
                    ts.usage.log("acme", "message", abs(amount))
                    expected += abs(amount)
                    continue
                what = (event.id,) if kind == "event" else ("acme", "message")
                ts.usage.adjust(*what, quantity=amount, reason="a property")
                expected += amount
            except InvalidInput:
                continue
        assert quantity(ts) == expected == ts.quotas.check("acme", "message", "monthly").current
        assert ts.doctor().findings == ()
