"""Clean-up: old events go, every sum stays, and the doctor can still prove it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput, NotFound
from tests.values import money

OPENAI = {"provider": "openai", "model": "gpt-4o-mini"}


def healthy(ts: Tallystick) -> list[str]:
    """Make sure that nothing drifts, and return the kinds of what is worth knowing."""
    diagnosis = ts.doctor()
    assert diagnosis.ok, [str(finding) for finding in diagnosis.findings]
    return [finding.kind for finding in diagnosis.findings]


def use_of_a_year(ts: Tallystick, clock: FixedClock) -> None:
    """Leave a use each month of 2025, and one of today, for two accounts."""
    for month in range(1, 13):
        at = f"2025-{month:02}-15T10:30:00Z"
        ts.usage.log("acme", "message", 2, occurred_at=at, user=7)
        ts.usage.record(billable="user:1", input_tokens=100, output_tokens=50, occurred_at=at, **OPENAI)
    ts.usage.log("acme", "message", 1)
    ts.usage.record(billable="user:1", input_tokens=1, **OPENAI)


def test_old_events_go_and_every_sum_stays(ts: Tallystick, clock: FixedClock) -> None:
    use_of_a_year(ts, clock)
    before = [ts.usage.stats(billable) for billable in ("acme", "user:1", None)]
    by_month = ts.usage.time_series("acme", interval="month")
    checked = ts.limits.check("user:1")

    removed = ts.usage.cleanup(days=90)

    assert (removed.events, removed.billables, removed.unpriced, removed.dry_run) == (20, 2, 0, False)
    assert removed.before == datetime(2025, 10, 17, 12, tzinfo=UTC)
    left = [event.occurred_at.month for event in ts.usage.events(billable="acme")]
    assert left == [1, 12, 11]
    assert [ts.usage.stats(billable) for billable in ("acme", "user:1", None)] == before
    assert ts.usage.time_series("acme", interval="month") == by_month
    assert ts.limits.check("user:1") == checked
    assert healthy(ts) == ["removed by clean-up"]
    finding = ts.doctor().findings[0]
    assert "20 events of 2 billables" in finding.found


def test_a_dry_run_says_what_would_go_and_removes_nothing(ts: Tallystick, clock: FixedClock) -> None:
    use_of_a_year(ts, clock)
    planned = ts.usage.cleanup(days=90, dry_run=True)
    assert (planned.events, planned.billables, planned.dry_run) == (20, 2, True)
    assert len(ts.usage.events(limit=1000)) == 26
    assert healthy(ts) == []
    done = ts.usage.cleanup(days=90)
    assert (done.events, done.holds) == (planned.events, planned.holds)


def test_cleaning_up_twice_removes_nothing_more(ts: Tallystick, clock: FixedClock) -> None:
    use_of_a_year(ts, clock)
    ts.usage.cleanup(days=90)
    assert ts.usage.cleanup(days=90).events == 0
    clock.advance(days=31)
    assert ts.usage.cleanup(days=90).events == 2
    assert healthy(ts) == ["removed by clean-up"]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
def test_small_batches_remove_the_same_and_say_how_far_they_are(
    ts: Tallystick, clock: FixedClock, batch_size: int
) -> None:
    use_of_a_year(ts, clock)
    steps: list[tuple[int, int]] = []
    removed = ts.usage.cleanup(days=90, batch_size=batch_size, progress=lambda done, total: steps.append((done, total)))
    assert removed.events == 20
    assert steps[-1] == (20, 20)
    assert all(later[0] - earlier[0] <= batch_size for earlier, later in zip([(0, 0), *steps], steps, strict=False))
    healthy(ts)


def test_stopping_in_the_middle_of_a_day_leaves_everything_provable(ts: Tallystick) -> None:
    for minute in range(5):
        ts.usage.log("acme", "message", occurred_at=f"2025-03-01T10:{minute:02}:00Z")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ts.usage.cleanup(batch_size=2, progress=stop)
    assert len(ts.usage.events(billable="acme")) == 3
    healthy(ts)
    assert ts.usage.stats("acme").totals.quantity == 5
    assert ts.usage.cleanup().events == 3


def test_only_whole_days_of_the_accounts_own_zone_go(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme", timezone="America/Sao_Paulo")
    clock.set("2026-01-15T02:30:00Z")  # still the 14th there
    for at in ("2026-01-04T02:59:59Z", "2026-01-04T03:00:00Z"):
        ts.usage.log("acme", "message", occurred_at=at)
        ts.usage.log("user:1", "message", occurred_at=at)
    assert ts.usage.cleanup(days=10).events == 3
    assert [event.occurred_at.hour for event in ts.usage.events(billable="acme")] == [3]
    assert len(ts.usage.events(billable="user:1")) == 0
    healthy(ts)


def test_an_event_without_a_price_stays_until_it_has_one(ts: Tallystick) -> None:
    old = {"occurred_at": "2025-03-01T10:00:00Z", "billable": "user:1", "input_tokens": 1_000_000}
    unpriced = ts.usage.record(provider="ours", model="large", **old)
    ts.usage.record(**OPENAI, **old)
    removed = ts.usage.cleanup()
    assert (removed.events, removed.unpriced) == (1, 1)
    assert ts.usage.get(unpriced.id).cost is None
    healthy(ts)


def test_an_event_that_was_priced_since_goes_with_its_correction(database_url: str, clock: FixedClock) -> None:
    old = {"occurred_at": "2025-03-01T10:00:00Z", "billable": "user:1", "input_tokens": 1_000_000}
    with Tallystick(database_url, clock=clock) as ts:
        ts.usage.record(provider="ours", model="large", **old)
    prices = {"ours": {"models": {"large": {"input_price_per_million": "3", "output_price_per_million": "3"}}}}
    with Tallystick(database_url, clock=clock, providers=prices) as ts:
        ts.usage.reprice(apply=True)
        assert ts.usage.cleanup().events == 2
        assert ts.usage.stats("user:1").totals.cost == money("3 USD")
        assert ts.usage.stats("user:1").totals.unpriced_events == 0
        assert healthy(ts) == ["removed by clean-up"]


def test_a_quota_of_all_time_is_not_lowered(ts: Tallystick) -> None:
    ts.quotas.set("acme", "message", 10, "total")
    for _ in range(8):
        ts.usage.log("acme", "message", occurred_at="2025-03-01T10:00:00Z")
    assert ts.usage.cleanup().events == 8
    assert ts.quotas.check("acme", "message", "total").current == 8
    assert not ts.quotas.check("acme", "message", "total", quantity=3).allowed
    healthy(ts)


def test_a_quota_that_is_set_after_clean_up_counts_what_was_removed(ts: Tallystick) -> None:
    for _ in range(8):
        ts.usage.log("acme", "message", occurred_at="2025-03-01T10:00:00Z")
    ts.usage.cleanup()
    ts.quotas.set("acme", "message", 10, "total")
    assert ts.quotas.check("acme", "message", "total").current == 8
    healthy(ts)


def test_what_wallets_paid_goes_and_the_ledger_stays(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create(slug="payg", name="Pay as you go")
    ts.subscriptions.create("user:1", "payg", billing_mode="credits", started_at="2025-01-01")
    wallet = ts.wallets.get_or_create("user:1")
    wallet.add_credits("10")
    ts.usage.record(billable="user:1", total_cost="2", occurred_at="2025-03-01T10:00:00Z", **OPENAI)
    before = (wallet.balance, ts.usage.stats("user:1"))
    assert ts.usage.cleanup().events == 1
    assert (wallet.balance, ts.usage.stats("user:1")) == before
    assert healthy(ts) == ["removed by clean-up"]


def test_overages_stay(ts: Tallystick) -> None:
    ts.plans.create(slug="small", name="Small", monthly_token_limit=10, overage_behavior="charge",
                    overage_price_per_1k_tokens=money("1 USD"))  # fmt: skip
    ts.subscriptions.create("user:1", "small", started_at="2025-01-01")
    ts.usage.record(billable="user:1", input_tokens=1010, occurred_at="2025-03-01T10:00:00Z", **OPENAI)
    before = ts.overages.list("user:1")
    assert len(before) == 1
    ts.usage.cleanup()
    assert ts.overages.list("user:1") == before
    healthy(ts)


def test_the_holds_of_removed_events_go_and_open_ones_stay(ts: Tallystick, clock: FixedClock) -> None:
    call = ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini")
    call.hold(tokens=10).settle(input_tokens=5)
    call.hold(tokens=10).void()
    clock.advance(days=100)
    running = call.hold(tokens=10)
    removed = ts.usage.cleanup()
    assert (removed.events, removed.holds) == (1, 1)
    healthy(ts)
    running.settle(input_tokens=7)
    assert ts.usage.stats("user:1").totals.total_tokens == 12
    healthy(ts)


def test_the_key_of_a_removed_event_still_means_it(ts: Tallystick) -> None:
    record: dict[str, Any] = {"occurred_at": "2025-03-01T10:00:00Z", "idempotency_key": "import-1"}
    ts.usage.log("acme", "message", **record)
    ts.usage.cleanup()
    with pytest.raises(NotFound, match="removed since"):
        ts.usage.log("acme", "message", **record)
    assert ts.usage.stats("acme").totals.events == 1
    assert ts.usage.record_batch([{"billable": "tenant:acme", "resource_type": "message", **record}]).duplicates == 1


def test_use_that_comes_late_counts_beside_what_was_removed(ts: Tallystick) -> None:
    ts.usage.log("acme", "message", 3, occurred_at="2025-03-01T10:00:00Z")
    ts.usage.cleanup()
    ts.usage.log("acme", "message", 2, occurred_at="2025-03-01T11:00:00Z")
    assert ts.usage.stats("acme").totals.quantity == 5
    assert healthy(ts) == ["removed by clean-up"]
    ts.usage.cleanup()
    assert ts.usage.stats("acme").totals.quantity == 5
    assert healthy(ts) == ["removed by clean-up"]


def test_of_an_hour_whose_events_are_gone_a_range_has_all_or_nothing(ts: Tallystick) -> None:
    ts.usage.log("acme", "message", 3, occurred_at="2025-03-01T10:10:00Z")
    ts.usage.log("acme", "message", 4, occurred_at="2025-03-01T10:50:00Z")
    first_half = ("2025-03-01T10:00:00Z", "2025-03-01T10:30:00Z")
    second_half = ("2025-03-01T10:30:00Z", "2025-03-01T11:00:00Z")
    assert ts.usage.stats("acme", *first_half).totals.quantity == 3
    ts.usage.cleanup()
    for billable in ("acme", None):
        assert ts.usage.stats(billable, *first_half).totals.quantity == 7
        assert ts.usage.stats(billable, *second_half).totals.quantity == 0


@pytest.mark.parametrize("tampered", ["usage_daily", "usage_hourly", "removed_days", "usage_events"])
def test_the_doctor_sees_a_changed_sum_of_a_day_that_was_cleaned_up(ts: Tallystick, tampered: str) -> None:
    from sqlalchemy import text

    ts.usage.log("acme", "message", 3, occurred_at="2025-03-01T10:10:00Z")
    ts.usage.cleanup()
    ts.usage.log("acme", "message", 1, occurred_at="2025-03-01T10:20:00Z")
    assert ts.doctor().ok
    statement = text(f"UPDATE {tampered} SET quantity = quantity + 1000000")
    ts._engine.lane.transact(lambda connection: connection.execute(statement))
    assert not ts.doctor().ok


def test_erasing_and_anonymising_follow_a_clean_up(ts: Tallystick, clock: FixedClock) -> None:
    use_of_a_year(ts, clock)
    ts.usage.cleanup(days=90)
    ts.usage.anonymize_before("2025-12-01T00:00:00Z")
    healthy(ts)
    assert ts.usage.stats("acme").totals.events == 2
    assert ts.usage.stats().totals.events == 26
    ts.usage.delete_for("tenant:acme")
    assert healthy(ts) == ["removed by clean-up"]
    assert ts.usage.stats("acme").totals.events == 0


@pytest.mark.parametrize("wrong", [{"days": 0}, {"days": -1}, {"days": True}, {"batch_size": 0}, {"batch_size": 10**9}])
def test_a_wrong_number_is_refused(ts: Tallystick, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        ts.usage.cleanup(**wrong)


def test_use_goes_on_while_several_clean_up(ts: Tallystick, database_url: str, clock: FixedClock) -> None:
    ts.quotas.set("acme", "message", 10**6, "total")
    ts.usage.record_batch(
        {"billable": "tenant:acme", "resource_type": "message", "occurred_at": f"2025-03-{day:02}T10:00:00Z"}
        for day in range(1, 31)
        for _ in range(20)
    )

    def use(number: int) -> None:
        for _ in range(40):
            ts.usage.log("acme", "message", occurred_at=f"2025-04-{1 + number:02}T10:00:00Z")
            ts.quotas.consume("acme", "message")

    def clean(_: int) -> int:
        with Tallystick(database_url, clock=clock) as other:
            return sum(other.usage.cleanup(batch_size=7).events for _ in range(3))

    with ThreadPoolExecutor(6) as pool:
        users = [pool.submit(use, number) for number in range(4)]
        cleaned = sum(pool.map(clean, range(2)))
        for one in users:
            one.result()
    cleaned += ts.usage.cleanup().events
    assert cleaned == 600 + 160
    assert ts.usage.stats("acme").totals.quantity == 600 + 320
    assert ts.quotas.check("acme", "message", "total").current == 600 + 320
    assert healthy(ts) == ["removed by clean-up"]


def test_the_days_that_are_kept_are_a_setting(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, storage={"prune_after_days": 5}) as ts:
        ts.usage.log("acme", "message", occurred_at="2026-01-05T10:00:00Z")
        assert ts.usage.cleanup(dry_run=True).events == 1
        assert ts.usage.cleanup(30, dry_run=True).events == 0
