"""What the tests of billing do with every engine: carry out a step of the model, and add invoices up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tallystick import Tallystick
from tallystick.invoicing.values import Invoice

MINOR_UNITS = {"USD": 10_000_000, "EUR": 10_000_000, "JPY": 1_000_000_000, "BHD": 1_000_000}


def assert_adds_up(found: Sequence[Invoice]) -> None:
    """Assert that each invoice is what its lines and the one before it say, in its currency."""
    carried: dict[str, int] = {}
    for one in found:
        unit = MINOR_UNITS[one.currency]
        assert sum(line.amount.nanos for line in one.line_items) == one.subtotal.nanos
        assert one.carried_in.nanos == carried.get(one.currency, 0)
        exact = one.subtotal.nanos + one.carried_in.nanos
        billed = max(0, exact // unit * unit)
        rate = Fraction(one.tax_rate_percent or 0)
        if one.is_tax_inclusive:
            tax = round(Fraction(billed) * rate / (100 + rate) / unit) * unit
            assert (one.total.nanos, one.tax.nanos, one.net.nanos) == (billed, tax, billed - tax)
        else:
            tax = round(Fraction(billed) * rate / 100 / unit) * unit
            assert (one.net.nanos, one.tax.nanos, one.total.nanos) == (billed, tax, billed + tax)
        assert one.carried_out.nanos == exact - billed
        assert exact < unit or one.carried_out.nanos < unit
        carried[one.currency] = one.carried_out.nanos


def carry_out(ts: Tallystick, billable: str, step: tuple[Any, ...]) -> None:
    """Do what a step of the model says."""
    match step:
        case ("change", slug, prorate, at_period_end):
            ts.subscriptions.change_plan(billable, slug, prorate=prorate, at_period_end=at_period_end)
        case ("pause", prorate):
            ts.subscriptions.pause(billable, prorate=prorate)
        case ("cancel", immediately, prorate):
            ts.subscriptions.cancel(billable, immediately=immediately, prorate=prorate)
        case ("fail",):
            ts.subscriptions.payment_failed(billable)
        case ("succeed",):
            ts.subscriptions.payment_succeeded(billable)
        case (name,):
            getattr(ts.subscriptions, name)(billable)
