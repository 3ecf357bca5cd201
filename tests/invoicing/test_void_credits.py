"""A voided invoice leaves no credit for what it charged."""

from __future__ import annotations

from tallystick import FixedClock, Tallystick
from tests.values import money


def test_a_credit_that_waits_goes_with_the_invoice_that_it_is_of(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price=money("31 USD"))
    ts.subscriptions.create("user:1", "pro")
    ts.run_due_jobs()
    (charged,) = ts.invoices.list("user:1")
    clock.advance(days=1)
    ts.subscriptions.cancel("user:1", immediately=True, prorate=True)
    assert [one.amount for one in ts.invoices.items("user:1")] == [money("-30 USD")]
    ts.invoices.void(charged.id)
    assert list(ts.invoices.items("user:1")) == []


def test_a_voided_invoice_gives_nothing_back_later(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price=money("31 USD"))
    ts.plans.create("team", price=money("62 USD"))
    ts.subscriptions.create("user:1", "pro")
    ts.run_due_jobs()
    ts.invoices.void(ts.invoices.list("user:1")[0].id)
    clock.advance(days=1)
    ts.subscriptions.change_plan("user:1", "team")
    assert [one.amount for one in ts.invoices.items("user:1")] == [money("60 USD")]
