"""Travelling in time does on the way what a worker would have done, in its order."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import InvalidInput
from tallystick.events import InvoiceCreated, SubscriptionEndingSoon, SubscriptionExpired
from tallystick.testing import TimeTravel, time_travel
from tests.values import money


@pytest.fixture
def travel(ts: Tallystick, clock: FixedClock) -> TimeTravel:
    return time_travel(ts, clock)


def test_invoices_are_dated_on_their_days(ts: Tallystick, clock: FixedClock, travel: TimeTravel) -> None:
    ts.plans.create("pro", price=money("10 USD"))
    ts.subscriptions.create("user:1", "pro")
    journey = travel.to("2026-04-01")
    assert clock.now() == datetime(2026, 4, 1, tzinfo=UTC)
    assert journey.invoices == 3
    assert [f"{one.issued_at:%m-%dT%H}" for one in reversed(ts.invoices.list("user:1").invoices) if one.issued_at] == [
        "01-15T12", "02-15T12", "03-15T12",
    ]  # fmt: skip
    assert journey.renewals == 2
    assert ts.doctor().ok


def test_it_stops_at_every_midnight_and_every_billing_instant(
    ts: Tallystick, clock: FixedClock, travel: TimeTravel
) -> None:
    ts.plans.create("pro", price=money("10 USD"))
    ts.subscriptions.create("user:1", "pro")
    clock.set("2026-02-13T18:00:00Z")
    journey = travel(days=2)
    assert [f"{stop.at:%d %H:%M}" for stop in journey] == ["13 18:00", "14 00:00", "15 00:00", "15 12:00", "15 18:00"]
    assert [stop.done.invoices for stop in journey] == [1, 0, 0, 1, 0]
    assert len(travel(hours=1)) == 2
    assert len(travel()) == 1


def test_what_happens_on_the_way_happens_in_order(ts: Tallystick, travel: TimeTravel) -> None:
    ts.plans.create("pro", price=money("10 USD"))
    ts.subscriptions.create("user:1", "pro", ends_at="2026-03-01T00:00:00Z")
    heard: list[str] = []
    for kind in (InvoiceCreated, SubscriptionEndingSoon, SubscriptionExpired):
        ts.on(kind)(lambda event: heard.append(f"{event.at:%m-%d} {type(event).__name__}"))
    travel(days=60)
    assert heard == [
        "01-15 InvoiceCreated", "02-15 InvoiceCreated", "02-22 SubscriptionEndingSoon", "03-01 SubscriptionExpired",
    ]  # fmt: skip


def test_travelling_in_steps_is_as_good_as_at_once(sqlite_url: str, tmp_path: Path) -> None:
    def invoices(name: str, steps: list[str]) -> list[Any]:
        clock = FixedClock("2026-01-31T09:00:00Z")
        with Tallystick(f"sqlite:///{tmp_path / name}", clock=clock) as ts:
            ts.plans.create("pro", price=money("10 USD"), usage_prices={"message": money("0.10 USD")})
            ts.subscriptions.create("user:1", "pro")
            ts.usage.log("user:1", "message", 3)
            travel = time_travel(ts, clock)
            for step in steps:
                travel.to(step)
            return [(one.number, one.total, one.issued_at) for one in ts.invoices.list()]

    assert invoices("a.db", ["2026-05-01"]) == invoices("b.db", ["2026-02-28T12:00:00Z", "2026-03-31", "2026-05-01"])
    assert len(invoices("c.db", ["2026-05-01"])) == 4


def test_it_goes_forward_only_and_with_the_engines_own_clock(ts: Tallystick, travel: TimeTravel) -> None:
    with pytest.raises(InvalidInput, match="already"):
        travel.to("2026-01-01")
    with pytest.raises(InvalidInput, match="already"):
        travel(days=-1)
    with pytest.raises(InvalidInput, match="clock"):
        time_travel(ts, FixedClock("2026-01-15T12:00:00Z"))


def test_the_fixtures_work_in_the_tests_of_an_application(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tallystick.testing.fixtures"]\n')
    (tmp_path / "test_application.py").write_text(
        "from tallystick import Money\n"
        "def test_a_month(ts, clock, travel, provider_simulator):\n"
        "    ts.plans.create('pro', price=Money('10', 'USD'), usage_prices={'completion': Money('0.01', 'USD')})\n"
        "    ts.subscriptions.create('user:1', 'pro')\n"
        "    meter = ts.meter.billable('user:1').using_provider('openai', 'gpt-4o-mini')\n"
        "    meter.call(lambda: provider_simulator.call(model='gpt-4o-mini', output_tokens=150))\n"
        "    travel(days=31)\n"
        "    assert clock.now().isoformat() == '2026-02-15T12:00:00+00:00'\n"
        "    assert [str(invoice.total) for invoice in ts.invoices.list()] == ['10.01 USD', '10.00 USD']\n"
        "    travel.to('2026-03-16')\n"
        "    assert len(ts.invoices.list()) == 3\n"
    )
    ended = _pytest(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def _pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
