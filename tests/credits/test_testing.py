"""The factory makes what an application would have made: real grants, with their history, that the doctor approves."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tallystick import FixedClock, Tallystick, testing
from tallystick.errors import InvalidInput
from tallystick.events import CreditsExpired
from tallystick.testing import CreditFactory
from tests.acceptance.accounts import assert_healthy
from tests.values import money


@pytest.fixture
def make(ts: Tallystick) -> CreditFactory:
    return CreditFactory(ts)


def test_a_wallet_has_the_balance_that_was_asked_for(ts: Tallystick, make: CreditFactory) -> None:
    wallet = make.wallet("user:1", "100 USD")
    assert (wallet.balance, wallet.paid) == (money("100 USD"), money("100 USD"))
    assert make.wallet("user:2", Decimal("2.50")).balance == money("2.50 USD")
    assert make.wallet("user:3", money("7 EUR")).currency == "EUR"
    assert make.with_credits(5).wallet("user:4").balance == money("5 USD")
    assert_healthy(ts)


def test_each_kind_of_grant_has_its_reason_and_its_expiry(make: CreditFactory, clock: FixedClock) -> None:
    made = [
        make.referral_bonus("user:1", "api-calls"),
        make.promotion("user:1", "api-calls"),
        make.loyalty("user:1", "api-calls"),
        make.expiring("user:1", "api-calls", in_days=3),
    ]
    assert [(grant.reason, grant.amount, grant.kind) for grant in made] == [
        ("Referral bonus", 10, "promotional"),
        ("Promotion", 50, "promotional"),
        ("Loyalty", 25, "promotional"),
        ("Promotion", 10, "promotional"),
    ]
    days = [None if grant.expires_at is None else (grant.expires_at - clock.now()).days for grant in made]
    assert days == [None, 90, None, 3]


def test_credits_and_expiry_are_set_for_all_that_a_factory_makes(make: CreditFactory) -> None:
    other = make.with_credits("2.5").expiring_on("2026-03-01")
    march = datetime(2026, 3, 1, tzinfo=UTC)
    for grant in (
        other.loyalty("user:1", "api-calls"),
        other.promotion("user:1", "api-calls"),
        other.loyalty("user:1"),
    ):
        assert grant.expires_at == march
    assert other.loyalty("user:1", "exports").amount == Decimal("2.5")
    assert other.loyalty("user:1", "exports", credits=4).amount == 4
    assert make.loyalty("user:1", "exports").amount == 25


def test_without_a_feature_the_credits_are_money(ts: Tallystick, make: CreditFactory) -> None:
    assert make.referral_bonus("user:1").amount == money("10 USD")
    assert make.with_credits("3 EUR").loyalty("user:1").amount == money("3 EUR")
    wallet = ts.wallets.get("user:1", "EUR")
    assert (wallet.promotional, wallet.paid) == (money("3 EUR"), money("0 EUR"))


@pytest.mark.parametrize("slug", ["api-calls", None])
def test_an_expired_grant_was_granted_in_the_past_and_expired_yesterday(
    ts: Tallystick, make: CreditFactory, clock: FixedClock, slug: str | None
) -> None:
    before = clock.now()
    grant = make.expired("user:1", slug)
    assert clock.now() == before
    assert grant.expires_at is not None
    assert ((before - grant.expires_at).days, (before - grant.created_at).days) == (1, 31)
    assert (grant.status, bool(grant.remaining)) == ("expired", False)
    assert ts.features.extra_credits("user:1", "api-calls") == 0
    assert_healthy(ts)

    reported: list[CreditsExpired] = []
    ts.on(CreditsExpired)(reported.append)
    assert ts.run_due_jobs().grants_expired == 1
    assert [(event.grant_id, event.expired_at) for event in reported] == [(grant.id, grant.expires_at)]
    assert_healthy(ts)


def test_an_expired_grant_may_have_expired_another_day_of_the_past(make: CreditFactory) -> None:
    expired = make.expiring_on("2025-06-01").expired("user:1", "api-calls")
    assert expired.expires_at == datetime(2025, 6, 1, tzinfo=UTC)
    with pytest.raises(InvalidInput, match="expires_at"):
        make.expiring_on("2026-06-01").expired("user:1", "api-calls")


def test_the_system_clock_will_do_too(sqlite_url: str) -> None:
    with Tallystick(sqlite_url) as ts:
        CreditFactory(ts).expired("user:1", "api-calls")
        assert ts.credits.expire().grants == 1
        CreditFactory(ts).expiring("user:1", "api-calls")
        assert ts.features.extra_credits("user:1", "api-calls") == 10


def test_a_feature_that_no_plan_lists_gets_a_plan_of_its_own(ts: Tallystick, make: CreditFactory) -> None:
    ts.plans.create("pro", features={"exports": 50})
    make.loyalty("user:1", "exports")
    make.loyalty("user:1", "api-calls")
    make.loyalty("user:2", "api-calls")
    assert [plan.slug for plan in ts.plans.list()] == ["pro", "with-api-calls"]


def test_money_is_no_number_of_a_feature(make: CreditFactory) -> None:
    with pytest.raises(InvalidInput, match="credits"):
        make.with_credits(money("5 USD")).loyalty("user:1", "api-calls")


def test_the_package_brings_the_clock_along() -> None:
    assert testing.FixedClock is FixedClock
    assert {"CreditFactory", "FixedClock", "ProviderSimulator", "time_travel"} <= set(testing.__all__)


def test_the_fixtures_work_in_the_tests_of_an_application(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tallystick.testing.fixtures"]\n')
    (tmp_path / "test_application.py").write_text(
        "def test_credits(ts, clock, credit_factory):\n"
        "    credit_factory.expiring('user:1', 'api-calls', in_days=3)\n"
        "    assert ts.features.extra_credits('user:1', 'api-calls') == 10\n"
        "    clock.advance(days=3)\n"
        "    assert ts.features.extra_credits('user:1', 'api-calls') == 0\n"
    )
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
