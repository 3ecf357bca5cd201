"""Billing periods and instants: of every cycle, from any anchor, in zones whose clocks change, without gaps."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick import FixedClock, Money, Tallystick
from tallystick.money import NANOS
from tallystick.period import MAX_MICROS, from_micros
from tallystick.plans.changing import paused, resumed, revived, with_plan
from tallystick.plans.cycle import (
    billing_instants,
    fee_at,
    fee_period,
    next_billing_instant,
    usage_month,
)
from tallystick.plans.terms import BillingMode, PlanVersion, Subscription
from tests.acceptance.billing_model import DAY, MONTHS, instant_of, micros, months_after
from tests.values import money

GRACE = 7
ZONES = (
    "UTC",
    "America/Sao_Paulo",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/New_York",
    "Asia/Kathmandu",
)
# Around leap days, ends of months, clock changes, and the day that Apia never had.
DAYS = (
    "2011-11-30T10:00:00",
    "2011-12-29T09:59:59",
    "2018-10-04T02:59:59",
    "2018-11-04T02:30:00",
    "2024-01-31T23:59:59.999999",
    "2024-02-29T00:00:00",
    "2027-08-31T12:00:00",
    "2028-02-29T12:34:56.789012",
    "2028-03-26T00:59:59",
    "2028-10-29T00:30:00",
    "2028-12-31T23:30:00",
)
ANCHORS = st.one_of(st.sampled_from(DAYS).map(micros), st.integers(micros("2005-01-01"), micros("2035-01-01")))


def plan(cycle: str = "monthly", price: str = "12 USD", slug: str = "pro") -> PlanVersion:
    now = from_micros(0)
    return PlanVersion(
        id=f"plv_{slug}_{cycle}",
        plan_id="pln",
        slug=slug,
        name=slug,
        version=1,
        currency=money(price).currency,
        monthly_token_limit=None,
        monthly_cost_limit=None,
        overage_price_per_1k_tokens=None,
        overage_behavior=None,
        trial_days=0,
        price=money(price),
        billing_cycle=cycle,
        created_at=now,
        published_at=now,
    )


def subscription(start: int, of: PlanVersion | None = None, **dates: object) -> Subscription:
    terms = {
        "trial_ends_at": None,
        "is_pending": False,
        "cancelled_at": None,
        "cancels_at": None,
        "term_ends_at": None,
        "payment_failed_at": None,
    }
    return Subscription(
        id="sub_1",
        billable="user:1",
        plan=of or plan(),
        billing_mode=BillingMode.PLAN,
        started_at=from_micros(start),
        created_at=from_micros(start),
        **{**terms, **dates},  # type: ignore[arg-type]
    )


def instants(one: Subscription, zone: str, after: int, until: int) -> list[int]:
    return [found.at for found in billing_instants(one, zone, after=after, until=until, grace_period_days=GRACE)]


@given(start=ANCHORS, zone=st.sampled_from(ZONES), trial_days=st.sampled_from([0, 0, 1, 14, 30]))
@example(start=micros("2011-11-30T10:00:00"), zone="Pacific/Apia", trial_days=0)
@example(start=micros("2018-10-04T02:59:59"), zone="America/Sao_Paulo", trial_days=0)
def test_billing_instants_are_the_anniversaries_of_the_anchor_without_gaps(
    start: int, zone: str, trial_days: int
) -> None:
    trial = from_micros(start) + timedelta(days=trial_days)
    one = subscription(start, trial_ends_at=trial if trial_days else None)
    anchor = start + trial_days * DAY
    found = instants(one, zone, start - 1, months_after(anchor, 30, zone))
    assert found == [months_after(anchor, number, zone) for number in range(31)]
    assert found == sorted(set(found))


@given(
    start=ANCHORS,
    zone=st.sampled_from(ZONES),
    cycle=st.sampled_from(["monthly", "quarterly", "yearly"]),
    ats=st.lists(st.integers(0, 900 * DAY), min_size=1, max_size=8),
)
def test_fee_periods_tile_time_and_begin_at_billing_instants(start: int, zone: str, cycle: str, ats: list[int]) -> None:
    one = subscription(start, plan(cycle))
    step = MONTHS[cycle]
    bounds = [months_after(start, number * step, zone) for number in range(34)]
    for offset in ats:
        at = start + offset
        period = fee_period(one, zone, at)
        assert period.start <= at < period.end
        assert period.start in bounds
        assert period.end == bounds[bounds.index(period.start) + 1]
        assert fee_period(one, zone, period.end).start == period.end
        assert fee_period(one, zone, period.end - 1) == period
        assert period.start in instants(one, zone, period.start - 1, period.start)


@given(start=ANCHORS, zone=st.sampled_from(ZONES), offset=st.integers(-40 * DAY, 900 * DAY))
def test_months_of_use_tile_time_whatever_the_cycle(start: int, zone: str, offset: int) -> None:
    months = [usage_month(subscription(start, plan(cycle)), zone, start + offset) for cycle in (*MONTHS, "lifetime")]
    assert len(set(months)) == 1
    month = months[0]
    assert month.start <= start + offset < month.end
    assert usage_month(subscription(start), zone, month.end).start == month.end


@given(start=ANCHORS, zone=st.sampled_from(ZONES), cycle=st.sampled_from(["monthly", "quarterly", "yearly"]))
def test_the_fees_of_a_year_are_the_price_of_as_many_periods(start: int, zone: str, cycle: str) -> None:
    one = subscription(start, plan(cycle, "7.000000001 USD"))
    end = months_after(start, 12, zone)
    fees = [
        fee
        for at in instants(one, zone, start - 1, end - 1)
        if (fee := fee_at(one, zone, at, grace_period_days=GRACE)) is not None
    ]
    assert sum(fee.amount for fee in fees) == 7_000_000_001 * (12 // MONTHS[cycle])
    assert fees[0].period.start == start
    assert fees[-1].period.end == end
    assert all(one.period.end == other.period.start for one, other in pairwise(fees))


@given(start=ANCHORS, zone=st.sampled_from(ZONES), days=st.integers(1, 500), cycle=st.sampled_from([*MONTHS]))
def test_a_term_that_ends_inside_a_period_pays_the_part_until_then(
    start: int, zone: str, days: int, cycle: str
) -> None:
    end = start + days * DAY
    one = subscription(start, plan(cycle, "100 USD"), term_ends_at=from_micros(end))
    found = list(billing_instants(one, zone, after=start - 1, until=MAX_MICROS, grace_period_days=GRACE))
    assert [instant.is_end for instant in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].at == end
    fees = [fee_at(one, zone, instant.at, grace_period_days=GRACE) for instant in found[:-1]]
    last = [fee for fee in fees if fee is not None][-1]
    whole = fee_period(one, zone, last.period.start)
    assert last.period.end == end
    length, part = whole.end - whole.start, end - whole.start
    assert abs(last.amount * length - 100 * NANOS * part) <= length / 2


def test_a_lifetime_plan_is_paid_once_and_its_use_billed_each_month() -> None:
    start = micros("2027-12-31")
    one = subscription(start, plan("lifetime", "500 USD"))
    found = instants(one, "UTC", start - 1, months_after(start, 14, "UTC"))
    assert len(found) == 15
    fees = [fee for at in found if (fee := fee_at(one, "UTC", at, grace_period_days=GRACE)) is not None]
    assert [(fee.amount, fee.period) for fee in fees] == [(500 * NANOS, (start, MAX_MICROS))]


@given(
    start=ANCHORS,
    zone=st.sampled_from(ZONES),
    cuts=st.lists(st.integers(0, 800 * DAY), min_size=1, max_size=6),
)
def test_instants_are_the_same_however_often_they_are_asked_for(start: int, zone: str, cuts: list[int]) -> None:
    one = subscription(start)
    end = start + 800 * DAY
    points = sorted({start - 1, end, *(start + cut for cut in cuts)})
    pieces = [at for a, b in pairwise(points) for at in instants(one, zone, a, b)]
    assert pieces == instants(one, zone, start - 1, end)


@given(
    start=ANCHORS,
    zone=st.sampled_from(ZONES),
    change_after=st.integers(0, 400 * DAY),
    first=st.sampled_from([*MONTHS]),
    then=st.sampled_from([*MONTHS]),
    at_period_end=st.booleans(),
)
def test_a_change_of_cycle_begins_its_periods_at_the_change_and_leaves_no_gap(
    start: int, zone: str, change_after: int, first: str, then: str, at_period_end: bool
) -> None:
    before = subscription(start, plan(first, slug="first"))
    at = start + change_after
    after = with_plan(
        before,
        plan(then, slug="then"),
        zone,
        at=from_micros(at),
        at_period_end=at_period_end,
        is_prorated=True,
        grace_period_days=GRACE,
    )
    changed = fee_period(before, zone, at).end if at_period_end else at
    found = instants(after, zone, start - 1, changed + 500 * DAY)
    assert found == sorted(set(found))
    old = [months_after(start, number, zone) for number in range(60)]
    anchor = start if first == then else changed
    new = [months_after(anchor, number, zone) for number in range(60)]
    expected = sorted({*(one for one in old if one < changed), *(one for one in new if one >= changed)})
    assert found == [one for one in expected if one <= changed + 500 * DAY]
    if first != then:
        assert fee_period(after, zone, changed) == (changed, months_after(changed, MONTHS[then], zone))
        month = usage_month(after, zone, changed - 1) if changed > start else None
        assert month is None or month.end == changed
        assert usage_month(after, zone, changed).start == changed


def test_who_comes_back_after_the_grace_period_is_billed_from_then_on() -> None:
    start, failed, back = micros("2028-01-31"), micros("2028-02-29"), micros("2028-04-15T06:00:00")
    one = subscription(start, payment_failed_at=from_micros(failed))
    ended = failed + GRACE * DAY
    assert next_billing_instant(one, "UTC", after=failed, grace_period_days=GRACE) == (ended, True)
    after = revived(one, ended_at=from_micros(ended), at=from_micros(back))
    found = instants(after, "UTC", ended, micros("2028-06-30"))
    fees = [at for at in found if fee_at(after, "UTC", at, grace_period_days=GRACE) is not None]
    assert fees == [back, micros("2028-05-15T06:00:00"), micros("2028-06-15T06:00:00")]


def test_a_pause_keeps_the_day_of_the_month() -> None:
    start = micros("2028-01-31")
    one = paused(subscription(start), at=from_micros(micros("2028-02-10")), is_prorated=True, grace_period_days=GRACE)
    one = resumed(one, "UTC", at=from_micros(micros("2028-04-05")))
    found = instants(one, "UTC", start - 1, micros("2028-06-01"))
    days = ["2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30", "2028-05-31"]
    assert found == [micros(day) for day in days]
    fees = [at for at in found if fee_at(one, "UTC", at, grace_period_days=GRACE) is not None]
    assert fees == [micros(day) for day in ("2028-01-31", "2028-04-30", "2028-05-31")]


def test_one_that_is_pending_or_over_is_billed_no_more() -> None:
    start = micros("2028-01-31")
    waiting = replace(subscription(start), is_pending=True)
    assert next_billing_instant(waiting, "UTC", after=start - 1, grace_period_days=GRACE) is None
    over = subscription(start, cancels_at=from_micros(micros("2028-02-29")))
    assert instants(over, "UTC", start - 1, MAX_MICROS) == [start, micros("2028-02-29")]
    assert next_billing_instant(over, "UTC", after=micros("2028-02-29"), grace_period_days=GRACE) is None


@pytest.mark.parametrize(
    ("zone", "start", "begins"),
    [
        # The clock of Sao Paulo skipped midnight of 4 November 2018; that of Berlin repeats an hour in October.
        ("America/Sao_Paulo", "2018-10-04T03:00:00", ["2018-10-04T03:00:00", "2018-11-04T03:00:00"]),
        ("Europe/Berlin", "2028-09-29T00:30:00", ["2028-09-29T00:30:00", "2028-10-29T00:30:00"]),
        # Summer time of half an hour.
        ("Australia/Lord_Howe", "2028-09-14T13:30:00", ["2028-09-14T13:30:00", "2028-10-14T13:00:00"]),
        # 30 December 2011 never was: the period begins with the day after it.
        ("Pacific/Apia", "2011-11-30T20:00:00", ["2011-11-30T20:00:00", "2011-12-30T10:00:00"]),
    ],
)
def test_fees_fall_due_at_the_same_time_of_the_day_in_the_accounts_zone(
    sqlite_url: str, zone: str, start: str, begins: list[str]
) -> None:
    clock = FixedClock(f"{start}Z")
    with Tallystick(sqlite_url, clock=clock, period={"timezone": zone}) as ts:
        ts.plans.create("pro", price=Money("31", "USD"))
        ts.subscriptions.create("user:1", "pro")
        clock.set(instant_of(micros(begins[-1]) - 1))
        ts.run_due_jobs()
        assert len(list(ts.invoices.list("user:1"))) == len(begins) - 1
        clock.set(f"{begins[-1]}Z")
        ts.run_due_jobs()
        periods = sorted(one.line_items[0].period_start for one in ts.invoices.list("user:1"))  # type: ignore[type-var]
        assert periods == [instant_of(micros(begin)) for begin in begins]


def test_use_is_billed_at_the_end_of_the_month_in_which_it_happened(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2028-01-31T10:00:00Z")
    ts.plans.create("pro", usage_prices={"message": "1"})
    ts.subscriptions.create("user:1", "pro")
    clock.set("2028-02-29T10:00:00Z")
    for occurred_at, quantity in (("2028-02-29T09:59:59.999999Z", 1), ("2028-02-29T10:00:00Z", 10)):
        ts.usage.log("user:1", "message", quantity, occurred_at=occurred_at)
    ts.run_due_jobs()
    clock.set("2028-03-30T10:00:00Z")
    # It is told of after the invoice on which it would have been.
    ts.usage.log("user:1", "message", 100, occurred_at="2028-02-10T00:00:00Z")
    ts.run_due_jobs()
    assert [one.amount_cents for one in ts.invoices.list("user:1")] == [100]
    clock.set("2028-03-31T10:00:00Z")
    ts.run_due_jobs()
    assert sorted(one.amount_cents for one in ts.invoices.list("user:1")) == [100, 11_000]
