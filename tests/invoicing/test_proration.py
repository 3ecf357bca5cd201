"""What fees come to when subscriptions change, whatever is done to them in whatever order, against a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from tallystick import FixedClock, Money, Tallystick
from tallystick.errors import Conflict
from tallystick.plans.cycle import Span, prorated
from tallystick.storage import tables
from tests.acceptance.billing_checks import assert_adds_up, carry_out
from tests.acceptance.billing_model import DAY, NEVER, Offer, Owed, instant_of, micros, share
from tests.values import money

BILLABLE = "user:1"
OFFERS = {
    one.slug: one
    for one in (
        Offer("small", 9_990_000_001),
        Offer("large", 49_000_000_003),
        Offer("free", 0),
        Offer("quarter", 120_000_000_007, "quarterly"),
        Offer("year", 365_000_000_001, "yearly"),
        Offer("life", 999_000_000_000, "lifetime"),
    )
}


def sell(ts: Tallystick) -> None:
    for offer in OFFERS.values():
        ts.plans.create(offer.slug, price=Money.from_nanos(offer.price, "USD"), billing_cycle=offer.cycle)


def charged(ts: Tallystick, billable: str = BILLABLE) -> int:
    """Return what all fees and prorations come to, whether or not they are on an invoice, in nanos."""
    items = tables.invoice_items.c
    query = select(func.coalesce(func.sum(items.amount), 0)).where(items.billable == billable)
    return int(ts._engine.read(lambda connection: connection.execute(query).scalar_one()))


# -- the arithmetic -------------------------------------------------------------------------------------------------


@given(
    price=st.integers(0, 10**15),
    start=st.integers(0, 10**15),
    length=st.integers(1, 10**14),
    cuts=st.lists(st.integers(0, 10**14), max_size=8),
)
def test_the_parts_of_a_period_add_up_to_its_price_exactly(
    price: int, start: int, length: int, cuts: list[int]
) -> None:
    period = Span(start, start + length)
    points = sorted({start, start + length, *(start + cut % (length + 1) for cut in cuts)})
    parts = [Span(one, other) for one, other in pairwise(points)]
    costs = [prorated(price, period, part) for part in parts]
    assert sum(costs) == price
    for part, cost in zip(parts, costs, strict=True):
        assert cost == share(price, *period, *part)
        # Each of its two bounds is rounded once.
        assert abs(cost * length - price * (part.end - part.start)) <= length


# -- against the model ----------------------------------------------------------------------------------------------

_HOUR = DAY // 24
GAPS = st.sampled_from([0, 0, 1, _HOUR, DAY, 3 * DAY, 6 * DAY + 7, 8 * DAY, 17 * DAY, 31 * DAY, 45 * DAY + _HOUR])
CHANGES = st.tuples(
    st.just("change"),
    st.sampled_from(["small", "large", "free", "quarter", "year"]),
    st.booleans(),
    st.booleans(),
)
STEPS = st.lists(
    st.tuples(
        GAPS,
        st.one_of(
            st.just(("wait",)),
            CHANGES,
            st.tuples(st.just("pause"), st.booleans()),
            st.just(("resume",)),
            st.tuples(st.just("cancel"), st.sampled_from([False, False, True]), st.booleans()),
            st.just(("renew",)),
            st.just(("fail",)),
            st.just(("succeed",)),
        ),
    ),
    max_size=14,
)


@dataclass(frozen=True)
class Beginning:
    """How a subscription of an example begins."""

    plan: str
    start: str
    zone: str
    trial_days: int
    term_days: int | None


BEGINNINGS = st.builds(
    Beginning,
    plan=st.sampled_from(["small", "large", "quarter", "year", "life", "free"]),
    start=st.sampled_from(["2027-12-15T10:00:00", "2028-01-31T23:30:00", "2028-02-29T00:00:00", "2028-03-25T01:30:00"]),
    zone=st.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]),
    trial_days=st.sampled_from([0, 0, 14, 30]),
    term_days=st.sampled_from([None, None, None, 40, 100]),
)


class Sold:
    """One subscription, in the engine and in the model."""

    def __init__(self, ts: Tallystick, clock: FixedClock, billable: str, begun: Beginning, days_before: int) -> None:
        self.ts, self.clock, self.billable, self.days_before = ts, clock, billable, days_before
        start = micros(begun.start)
        trial = start + begun.trial_days * DAY
        term = NEVER if begun.term_days is None else trial + begun.term_days * DAY
        clock.set(instant_of(start))
        ts.subscriptions.create(
            billable,
            begun.plan,
            trial_ends_at=instant_of(trial) if begun.trial_days else None,
            ends_at=instant_of(term) if begun.term_days is not None else None,
        )
        self.model = Owed(OFFERS[begun.plan], trial, begun.zone, term=term, now=start - 1, start=start)
        self.model.advance(start)

    def do(self, gap: int, step: tuple[Any, ...]) -> None:
        self.model.advance(self.model.now + gap)
        self.clock.set(instant_of(self.model.now))
        if step[0] == "wait":
            return
        is_refused = self.model.refuses(step, OFFERS)
        if is_refused:
            with pytest.raises(Conflict):
                carry_out(self.ts, self.billable, step)
        elif is_refused is not None:
            carry_out(self.ts, self.billable, step)
            self.model.take(step, OFFERS)

    def check(self) -> None:
        self.ts.invoices.generate(tenant=self.billable)
        expected = self.model.ahead(self.days_before)
        assert charged(self.ts, self.billable) == expected, expected


class Shop:
    """Engines of several zones on databases of their own, kept between examples: each example is a new customer."""

    def __init__(self, url: str, zone: str, days_before: int) -> None:
        self.clock = FixedClock("2027-01-01")
        self.ts = Tallystick(url, clock=self.clock, period={"timezone": zone}, invoicing={"days_before": days_before})
        if not self.ts.plans.list():
            sell(self.ts)
        self.customers = 0

    def subscribe(self, begun: Beginning, days_before: int) -> Sold:
        self.customers += 1
        return Sold(
            self.ts, self.clock, f"user:{self.customers}-{self.ts.settings.period.timezone}", begun, days_before
        )


@pytest.fixture
def shops(database_url: str) -> Iterator[dict[tuple[str, int], Shop]]:
    found: dict[tuple[str, int], Shop] = {}

    class Opened(dict[tuple[str, int], Shop]):
        def __missing__(self, key: tuple[str, int]) -> Shop:
            self[key] = Shop(database_url, *key)
            return self[key]

    found = Opened()
    yield found
    for shop in found.values():
        shop.ts.close()


@pytest.mark.parametrize("days_before", [0, 7])
def test_whatever_is_done_to_a_subscription_its_fees_are_those_of_the_model(
    shops: dict[tuple[str, int], Shop], days_before: int, database_url: str
) -> None:
    # The rules are the same on both databases; one of them is asked more often.
    examples = settings().max_examples * 2 // 5 if database_url.startswith("sqlite") else 10

    @settings(max_examples=examples)
    @given(begun=BEGINNINGS, steps=STEPS, is_late=st.booleans())
    def agrees(begun: Beginning, steps: list[tuple[int, tuple[Any, ...]]], is_late: bool) -> None:
        sold = shops[begun.zone, days_before].subscribe(begun, days_before)
        sold.check()
        for gap, step in steps:
            sold.do(gap, step)

    agrees()


# -- one by one -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(ts: Tallystick, clock: FixedClock) -> Tallystick:
    """An engine at the beginning of a month of 31 days, with plans of round prices."""
    clock.set("2026-01-01")
    for slug, price, cycle in (
        ("free", None, "monthly"),
        ("month", "31", "monthly"),
        ("more", "62", "monthly"),
        ("year", "365", "yearly"),
        ("life", "100", "lifetime"),
        ("lives", "500", "lifetime"),
    ):
        ts.plans.create(slug, price=None if price is None else Money(price, "USD"), billing_cycle=cycle)
    return ts


def comes_to(ts: Tallystick, clock: FixedClock, day: str, amount: str) -> None:
    """Assert what all fees come to on a day, after whatever is due then."""
    clock.set(day)
    ts.run_due_jobs()
    assert charged(ts) == money(f"{amount} USD").nanos


def test_there_and_back_at_one_moment_costs_nothing(shop: Tallystick, clock: FixedClock) -> None:
    shop.subscriptions.create(BILLABLE, "month")
    comes_to(shop, clock, "2026-01-11T07:11:13.000017Z", "31")
    for slug in ("more", "month", "more", "free", "month"):
        shop.subscriptions.change_plan(BILLABLE, slug)
    comes_to(shop, clock, "2026-01-31T00:00:00Z", "31")


def test_one_that_expired_and_is_renewed_pays_for_one_new_period(shop: Tallystick, clock: FixedClock) -> None:
    shop.subscriptions.create(BILLABLE, "month", auto_renew=False)
    comes_to(shop, clock, "2026-02-10", "31")
    shop.subscriptions.renew(BILLABLE)
    comes_to(shop, clock, "2026-02-10", "62")


def test_a_missed_fee_of_a_term_is_that_of_the_term_also_when_it_is_renewed_before_the_run(
    shop: Tallystick, clock: FixedClock
) -> None:
    shop.subscriptions.create(BILLABLE, "month", ends_at="2026-03-11")
    clock.set("2026-03-20")
    shop.subscriptions.renew(BILLABLE)
    # Two whole months, ten days of March, and the month from the renewal on.
    comes_to(shop, clock, "2026-03-20", "103")


def test_cancelling_and_resuming_in_one_moment_neither_gives_nor_takes(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-01-01")
    with Tallystick(ts.settings.database_url, clock=clock, invoicing={"days_before": 7}) as early:
        early.plans.create("month", price=Money("31", "USD"))
        early.subscriptions.create(BILLABLE, "month")
        comes_to(early, clock, "2026-01-28", "62")
        for _ in range(3):
            early.subscriptions.cancel(BILLABLE)
            assert charged(early) == money("31 USD").nanos
            early.subscriptions.resume(BILLABLE)
        comes_to(early, clock, "2026-02-05", "62")
        early.subscriptions.cancel(BILLABLE)
        comes_to(early, clock, "2026-03-05", "62")


def test_a_lifetime_plan_that_is_exchanged_for_a_dearer_one_costs_the_difference(
    shop: Tallystick, clock: FixedClock
) -> None:
    shop.subscriptions.create(BILLABLE, "life")
    comes_to(shop, clock, "2026-01-11", "100")
    shop.subscriptions.change_plan(BILLABLE, "lives")
    comes_to(shop, clock, "2026-05-11", "500")
    shop.subscriptions.change_plan(BILLABLE, "life")
    comes_to(shop, clock, "2026-06-11", "500")


def test_who_pays_after_the_grace_period_pays_no_day_twice(shop: Tallystick, clock: FixedClock) -> None:
    shop.subscriptions.create(BILLABLE, "month")
    shop.run_due_jobs()
    shop.subscriptions.payment_failed(BILLABLE)
    comes_to(shop, clock, "2026-01-16", "31")
    shop.subscriptions.payment_succeeded(BILLABLE)
    # Seven days of grace, and the month from the payment on.
    comes_to(shop, clock, "2026-01-16", "38")
    comes_to(shop, clock, "2026-02-16", "69")


def test_what_was_never_charged_is_not_given_back(shop: Tallystick, clock: FixedClock) -> None:
    shop.subscriptions.create(BILLABLE, "month")
    comes_to(shop, clock, "2026-01-11", "31")
    shop.subscriptions.change_plan(BILLABLE, "more", prorate=False)
    comes_to(shop, clock, "2026-01-12", "31")
    shop.subscriptions.change_plan(BILLABLE, "month")
    comes_to(shop, clock, "2026-01-13", "31")
    shop.subscriptions.change_plan(BILLABLE, "more", prorate=False)
    shop.subscriptions.cancel(BILLABLE, immediately=True, prorate=True)
    comes_to(shop, clock, "2026-03-01", "12")


def test_one_that_is_cancelled_does_not_begin_a_period_that_it_will_not_have(
    shop: Tallystick, clock: FixedClock
) -> None:
    shop.subscriptions.create(BILLABLE, "month")
    comes_to(shop, clock, "2026-01-11", "31")
    shop.subscriptions.cancel(BILLABLE)
    with pytest.raises(Conflict):
        shop.subscriptions.change_plan(BILLABLE, "year")
    comes_to(shop, clock, "2026-05-01", "31")


def test_a_pause_at_the_moment_of_the_fee_is_paid_from_its_end_on(shop: Tallystick, clock: FixedClock) -> None:
    shop.subscriptions.create(BILLABLE, "month")
    # Nothing of the period has passed, so nothing of it is kept.
    shop.subscriptions.pause(BILLABLE, prorate=False)
    clock.set("2026-01-11")
    shop.subscriptions.resume(BILLABLE)
    comes_to(shop, clock, "2026-01-31", "21")


def test_one_that_was_cancelled_and_then_paid_late_goes_on_to_its_end_and_pays_no_more(
    shop: Tallystick, clock: FixedClock
) -> None:
    shop.subscriptions.create(BILLABLE, "month")
    shop.run_due_jobs()
    shop.subscriptions.payment_failed(BILLABLE)
    shop.subscriptions.cancel(BILLABLE)
    comes_to(shop, clock, "2026-01-16", "31")
    shop.subscriptions.payment_succeeded(BILLABLE)
    assert shop.subscriptions.status(BILLABLE) == "active"
    comes_to(shop, clock, "2026-01-31", "31")
    comes_to(shop, clock, "2026-03-31", "31")


def test_what_is_changed_at_the_moment_of_the_first_fee_is_charged_once(shop: Tallystick, clock: FixedClock) -> None:
    for number, (first, then, amount) in enumerate(
        (("free", "month", "31"), ("month", "more", "62"), ("month", "free", "0"), ("month", "year", "365"))
    ):
        billable = f"user:{number}"
        shop.subscriptions.create(billable, first)
        shop.subscriptions.change_plan(billable, then)
        shop.run_due_jobs()
        assert charged(shop, billable) == money(f"{amount} USD").nanos, (first, then)
    clock.set("2026-01-20")
    shop.run_due_jobs()
    assert charged(shop, "user:0") == money("31 USD").nanos


def test_a_free_month_that_becomes_a_paid_one_as_it_ends_is_charged_once(shop: Tallystick, clock: FixedClock) -> None:
    shop.subscriptions.create(BILLABLE, "free")
    comes_to(shop, clock, "2026-01-15", "0")
    clock.set("2026-02-01")
    shop.subscriptions.change_plan(BILLABLE, "month")
    comes_to(shop, clock, "2026-02-01", "31")
    comes_to(shop, clock, "2026-02-20", "31")


def test_use_in_a_trial_is_free_also_after_a_payment_failed(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-01-01")
    ts.plans.create("pro", price=Money("31", "USD"), trial_days=14, usage_prices={"message": "1"})
    ts.subscriptions.create(BILLABLE, "pro")
    clock.set("2026-01-10")
    ts.subscriptions.payment_failed(BILLABLE)
    ts.usage.log(BILLABLE, "message", 5)
    clock.set("2026-01-15")
    ts.subscriptions.payment_succeeded(BILLABLE)
    ts.usage.log(BILLABLE, "message", 2)
    clock.set("2026-02-15")
    ts.run_due_jobs()
    lines = [line for one in ts.invoices.list(BILLABLE) for line in one.line_items if line.kind == "usage"]
    assert sum(line.amount.nanos for line in lines) == money("2 USD").nanos


def test_no_more_is_given_back_than_a_coupon_left_to_pay(shop: Tallystick, clock: FixedClock) -> None:
    shop.coupons.create("ALL", percent_off="100")
    shop.coupons.create("FIFTH", percent_off="20")
    for billable, code in (("user:1", "ALL"), ("user:2", "FIFTH")):
        shop.subscriptions.create(billable, "month", coupon=code)
    shop.run_due_jobs()
    clock.set("2026-01-11")
    for billable, paid in (("user:1", "0"), ("user:2", "8")):
        shop.subscriptions.cancel(billable, immediately=True, prorate=True)
        shop.invoices.create(billable, amount_cents=10_000)
        shop.invoices.bill_now(billable)
        shop.invoices.create(billable, amount_cents=10_000)
        found = sorted(shop.invoices.list(billable), key=lambda one: one.number or "")
        assert_adds_up(found)
        # Ten of 31 days were used, at what was really paid for them.
        fees = sum(one.total.nanos for one in found) - 2 * money("100 USD").nanos
        waiting = sum(item.amount.nanos for item in shop.invoices.items(billable))
        assert fees + waiting == money(f"{paid} USD").nanos
