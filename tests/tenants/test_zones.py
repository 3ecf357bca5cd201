"""Everything that counts by hours, days and months counts by those of the tenant's own zone, and the doctor agrees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import CreditsInsufficient, FeatureLimitExceeded, InvalidInput, LimitExceeded, QuotaExceeded
from tests.values import money

OPENAI = {"provider": "openai", "model": "gpt-4o-mini"}


def healthy(ts: Tallystick) -> None:
    assert ts.doctor().findings == ()


@pytest.fixture
def acme(ts: Tallystick, clock: FixedClock) -> Tallystick:
    """A tenant in São Paulo, a microsecond before its midnight of 31 January: three o'clock in UTC."""
    clock.set("2026-02-01T02:59:59.999999Z")
    ts.plans.create(
        slug="pro",
        name="Pro",
        monthly_token_limit=100,
        features={"exports": {"value": 2, "reset": "daily"}},
    )
    ts.tenants.create("Acme", timezone="America/Sao_Paulo", plan="pro")
    return ts


def test_a_plans_month_ends_at_the_tenants_midnight(acme: Tallystick, clock: FixedClock) -> None:
    call = acme.meter.billable("tenant:acme").using_provider("openai", "gpt-4o-mini")
    call.hold(tokens=100).settle()
    with pytest.raises(LimitExceeded):
        call.hold(tokens=1)
    clock.advance(microseconds=1)
    call.hold(tokens=100).settle()
    with pytest.raises(LimitExceeded):
        call.hold(tokens=1)
    healthy(acme)


def test_a_quota_and_a_feature_start_again_at_the_tenants_midnight(acme: Tallystick, clock: FixedClock) -> None:
    acme.quotas.set("acme", "message", 2, "daily")
    acme.quotas.consume("acme", "message", 2)
    acme.features.use("tenant:acme", "exports", 2)
    with pytest.raises(QuotaExceeded):
        acme.quotas.consume("acme", "message")
    with pytest.raises(FeatureLimitExceeded):
        acme.features.use("tenant:acme", "exports")
    clock.advance(microseconds=1)
    acme.quotas.consume("acme", "message", 2)
    acme.features.use("tenant:acme", "exports", 2)
    healthy(acme)


def test_limits_of_grants_and_caps_count_by_the_tenants_days(acme: Tallystick, clock: FixedClock) -> None:
    wallet = acme.wallets.get_or_create("tenant:acme")
    wallet.add_credits("10", limit="1", limit_period="daily")
    wallet.set_cap("1", user=7, period="daily")
    wallet.deduct_credits("1", user=7)
    with pytest.raises(CreditsInsufficient):
        wallet.deduct_credits("1")
    healthy(acme)
    clock.advance(microseconds=1)
    wallet.deduct_credits("1", user=7)
    assert wallet.balance == money("8 USD")
    healthy(acme)


def test_the_doctor_agrees_after_everything_that_removes_records(acme: Tallystick, clock: FixedClock) -> None:
    for hours in (1, 20, 25, 30):
        clock.advance(hours=hours)
        acme.usage.record(tenant="acme", input_tokens=5, user=7, **OPENAI)
        acme.features.use("tenant:acme", "exports", user=7)
    healthy(acme)
    clock.advance(days=10)
    acme.usage.cleanup(days=9)
    assert acme.doctor().ok
    acme.usage.anonymize_before(clock.now())
    assert acme.doctor().ok
    acme.usage.delete_for("tenant:acme")
    assert acme.doctor().ok


def test_a_zone_that_is_chosen_while_use_begins_is_one_for_all_of_it(
    ts: Tallystick, database_url: str, clock: FixedClock
) -> None:
    clock.set("2026-01-15T01:00:00Z")
    with Tallystick(database_url, clock=clock) as other, ThreadPoolExecutor(2) as pool:
        for number in range(10):
            slug = f"tenant-{number}"
            ts.tenants.create(slug)
            both = Barrier(2)

            def use(slug: str = slug, both: Barrier = both) -> None:
                both.wait()
                for _ in range(3):
                    other.usage.log(slug, "message")

            def choose(slug: str = slug, both: Barrier = both) -> str | None:
                both.wait()
                try:
                    return ts.tenants.update(slug, timezone="America/Sao_Paulo").timezone
                except InvalidInput:
                    return None

            using, chosen = pool.submit(use), pool.submit(choose)
            using.result()
            zone = chosen.result()
            (day,) = ts.usage.time_series(slug, "2026-01-15T01:00:00Z", "2026-01-15T01:00:00.000001Z")
            assert (day.label, day.totals.quantity) == ("2026-01-15" if zone is None else "2026-01-14", 3)
    healthy(ts)
