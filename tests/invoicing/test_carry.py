"""Amounts below a cent, and below zero, go from invoice to invoice, and nothing is lost or added on the way."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import FixedClock, Money, Tallystick
from tallystick.invoicing.totals import Tax, totals
from tallystick.invoicing.values import Invoice
from tests.acceptance.billing_checks import MINOR_UNITS, assert_adds_up
from tests.values import money

BILLABLE = "user:1"


def invoices(ts: Tallystick, billable: str = BILLABLE) -> list[Invoice]:
    return sorted(ts.invoices.list(billable), key=lambda one: one.number or "")


@pytest.mark.parametrize(
    ("terms", "uses"),
    [
        ({"usage_prices": {"message": "0.004"}}, {"resource_type": "message"}),
        ({"usage_prices": {"tokens": "0.000004"}}, {"input_tokens": 600, "output_tokens": 400}),
        (
            {
                "monthly_token_limit": 0,
                "overage_behavior": "charge",
                "overage_price_per_1k_tokens": Money("0.004", "USD"),
            },
            {"input_tokens": 1000},
        ),
        (
            {
                "monthly_cost_limit": Money("0", "USD"),
                "overage_behavior": "charge",
                "overage_markup_percent": Decimal(100),
            },
            {"total_cost": "0.002", "input_tokens": 1},
        ),
    ],
    ids=["messages", "tokens", "overage by tokens", "overage by cost"],
)
def test_four_tenths_of_a_cent_a_month_bill_a_cent_when_it_is_reached(
    ts: Tallystick, clock: FixedClock, terms: dict[str, Any], uses: dict[str, Any]
) -> None:
    ts.plans.create("pro", **terms)
    ts.subscriptions.create(BILLABLE, "pro")
    reached = []
    for _ in range(10):
        clock.advance(days=1)
        ts.usage.record(billable=BILLABLE, **uses)
        clock.advance(days=30)
        ts.run_due_jobs()
        reached.append(sum(one.amount_cents for one in ts.invoices.list(BILLABLE)))
    clock.advance(days=31)
    ts.run_due_jobs()
    found = invoices(ts)
    assert sum(one.amount_cents for one in found) == 4
    # 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0 cents; a month may be longer than 31 days of the clock.
    assert all(cents in (number * 4 // 10, (number + 1) * 4 // 10) for number, cents in enumerate(reached))
    assert sum(line.amount.nanos for one in found for line in one.line_items) == money("0.04 USD").nanos
    assert found[-1].carried_out == money("0 USD")
    assert_adds_up(found)


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize(
    ("currency", "price", "coins"),
    [("USD", "3.333333333", 4333), ("JPY", "0.4", 5), ("BHD", "0.0004", 5)],
)
def test_carried_amounts_meet_each_currencys_smallest_coin(
    database_url: str, clock: FixedClock, currency: str, price: str, coins: int, inclusive: bool
) -> None:
    tax = {"rate_percent": "19", "name": "VAT", "inclusive": inclusive}
    with Tallystick(database_url, clock=clock, invoicing={"tax": tax}, billing={"currency": currency}) as ts:
        ts.plans.create("pro", price=Money(price, currency))
        ts.subscriptions.create(BILLABLE, "pro")
        for _ in range(14):
            ts.run_due_jobs()
            clock.advance(days=30)
        found = invoices(ts)
        assert_adds_up(found)
        for one in found:
            assert one.total.nanos % MINOR_UNITS[currency] == 0
            assert one.tax.nanos % MINOR_UNITS[currency] == 0
        billed = sum((one.total if inclusive else one.net).nanos for one in found)
        fees = sum(line.amount.nanos for one in found for line in one.line_items)
        assert billed + found[-1].carried_out.nanos == fees
        assert billed // MINOR_UNITS[currency] == coins


def test_a_credit_larger_than_the_next_fees_is_carried_until_it_is_used(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("year", price=Money("365.25", "USD"), billing_cycle="yearly")
    ts.plans.create("small", price=Money("9.99", "USD"))
    ts.subscriptions.create(BILLABLE, "year")
    ts.run_due_jobs()
    clock.advance(days=73)
    ts.subscriptions.change_plan(BILLABLE, "small")
    for _ in range(40):
        ts.run_due_jobs()
        clock.advance(days=30)
    ts.run_due_jobs()
    found = invoices(ts)
    assert_adds_up(found)
    # 292 of 365 days are given back.
    credit = money("365.25 USD").nanos * 292 // 365
    assert found[1].subtotal.nanos == money("9.99 USD").nanos - credit
    assert (found[1].total, found[1].status) == (money("0 USD"), "paid")
    fees = sum(line.amount.nanos for one in found[1:] for line in one.line_items if line.kind == "fee")
    assert sum(one.total.nanos for one in found[1:]) + found[-1].carried_out.nanos == fees - credit
    assert found[-1].total == money("9.99 USD")


def test_an_invoice_by_hand_uses_what_was_carried_and_carries_on(ts: Tallystick) -> None:
    def made(amount: str) -> Invoice:
        line = {"description": "Work", "amount": amount}
        return ts.invoices.create(BILLABLE, line_items=[line])

    found = [made(amount) for amount in ("0.005", "0.004", "0.002", "-5", "3", "3.333333333", "-0.000000001")]
    assert [str(one.total.amount) for one in found] == ["0.00", "0.00", "0.01", "0.00", "0.00", "1.33", "0.00"]
    assert_adds_up(found)
    assert found[-1].carried_out == money("0.004333332 USD")


@given(
    subtotals=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=20),
    rate=st.decimals(0, 100, places=2),
    inclusive=st.booleans(),
    currency=st.sampled_from(list(MINOR_UNITS)),
)
def test_what_is_billed_and_what_is_carried_is_what_was_charged(
    subtotals: list[int], rate: Decimal, inclusive: bool, currency: str
) -> None:
    carried = 0
    billed = 0
    for subtotal in subtotals:
        counted = totals(subtotal, currency=currency, tax=Tax(rate, "VAT", is_inclusive=inclusive), carried=carried)
        assert counted.total >= 0
        assert counted.net + counted.tax == counted.total
        carried = counted.carried_out
        billed += counted.total if inclusive else counted.net
        assert counted.total % MINOR_UNITS[currency] == counted.tax % MINOR_UNITS[currency] == 0
    assert billed + carried == sum(subtotals)
    assert carried < MINOR_UNITS[currency]


def test_two_currencies_carry_apart(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, billing={"currency": "EUR"}) as ts:
        for currency, amount in (("EUR", "0.006"), ("USD", "0.006"), ("EUR", "0.006"), ("JPY", "0.6"), ("USD", "-1")):
            line = {"description": "Work", "amount": amount}
            ts.invoices.create(BILLABLE, line_items=[line], currency=currency)
        found = invoices(ts)
        assert_adds_up(found)
        assert [str(one.total) for one in found] == ["0.00 EUR", "0.00 USD", "0.01 EUR", "0 JPY", "0.00 USD"]
        carried = {one.currency: str(one.carried_out.amount) for one in found}
        assert carried == {"EUR": "0.002", "USD": "-0.994", "JPY": "0.6"}
