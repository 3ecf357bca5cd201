"""The run that bills subscriptions, where something is wrong with one of them."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from tallystick import FixedClock, Tallystick
from tallystick.storage import tables
from tests.values import money


def test_a_subscription_that_cannot_be_billed_keeps_no_other_from_it(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price=money("31 USD"))
    for number in range(60):
        ts.subscriptions.create(f"user:{number}", "pro")
    subscriptions = tables.subscriptions
    broken = update(subscriptions).where(subscriptions.c.billable == "user:7").values(timezone="Nowhere/Land")
    ts._engine.lane.transact(lambda connection: connection.execute(broken))
    for _ in range(2):
        with pytest.raises(Exception, match="Nowhere/Land"):
            ts.run_due_jobs()
        assert len(ts.invoices.list()) == 59
    mended = update(subscriptions).where(subscriptions.c.billable == "user:7").values(timezone="UTC")
    ts._engine.lane.transact(lambda connection: connection.execute(mended))
    assert ts.run_due_jobs().invoices == 1
    assert ts.doctor().ok
