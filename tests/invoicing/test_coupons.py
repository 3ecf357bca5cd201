"""Coupons: how long what was redeemed holds, off what it is taken, and how often it can be."""

from __future__ import annotations

import asyncio
from datetime import date
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tallystick import AsyncTallystick, FixedClock, Money, Tallystick
from tallystick.errors import Conflict, CurrencyMismatch, InvalidInput, NotFound, PlanNotFound
from tallystick.events import InvoicePaid
from tallystick.invoicing.values import Invoice
from tallystick.period import parse_instant
from tests.acceptance.accounts import assert_healthy, errors_of, in_threads
from tests.cli.commands import answer, succeed
from tests.invoicing.waiting import start_and_wait
from tests.values import money

BILLABLE = "user:1"


def sell(ts: Tallystick, slug: str = "pro", price: str = "100 USD", **terms: Any) -> None:
    ts.plans.create(slug, price=money(price), **terms)


def invoices(ts: Tallystick, payer: str = BILLABLE) -> list[Invoice]:
    """Return a payer's invoices, the first one first."""
    return list(reversed(list(ts.invoices.list(payer))))


def totals(ts: Tallystick, payer: str = BILLABLE) -> list[str]:
    return [str(one.total) for one in invoices(ts, payer)]


def bill_until(ts: Tallystick, clock: FixedClock, instant: str) -> None:
    clock.set(instant)
    ts.run_due_jobs()


# -- how long it holds ------------------------------------------------------------------------------------------------


def test_once_is_the_next_invoice_alone(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("ONCE", percent_off=20)
    ts.subscriptions.create(BILLABLE, "pro")
    ts.run_due_jobs()
    redeemed = ts.coupons.redeem(BILLABLE, "once")
    assert (redeemed.invoices_left, redeemed.ends_at, redeemed.starts_at) == (1, None, clock.now())
    bill_until(ts, clock, "2026-04-01")
    assert totals(ts) == ["100.00 USD", "80.00 USD", "100.00 USD"]
    assert ts.coupons.discounts(BILLABLE) == []
    assert [one.invoices_left for one in ts.coupons.discounts(BILLABLE, include_ended=True)] == [0]
    assert_healthy(ts)


def test_repeating_counts_calendar_months_that_clamp_and_come_back(ts: Tallystick, clock: FixedClock) -> None:
    clock.set("2026-01-31T10:00:00Z")
    sell(ts)
    ts.coupons.create("HALF", percent_off="50", duration="repeating", duration_months=3)
    ts.subscriptions.create(BILLABLE, "pro", coupon="half")
    assert [one.ends_at for one in ts.coupons.discounts(BILLABLE)] == [parse_instant("2026-04-30T10:00:00Z")]
    bill_until(ts, clock, "2026-06-15")
    assert [str(one.period_start)[:10] for one in invoices(ts)] == [
        "2026-01-31",
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
        "2026-05-31",
    ]
    assert totals(ts) == ["50.00 USD"] * 3 + ["100.00 USD"] * 2


def test_months_are_counted_in_the_accounts_time_zone(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme", "acme", timezone="America/New_York")
    ts.coupons.create("MONTHS", percent_off=10, duration="repeating", duration_months=2)
    # In New York it is the evening of the 31st, in winter time; two months later, in summer time.
    clock.set("2026-02-01T02:30:00Z")
    redeemed = ts.coupons.redeem("acme", "MONTHS")
    assert redeemed.ends_at == parse_instant("2026-03-31T21:30:00-04:00")
    assert redeemed.billable == "tenant:acme"


def test_forever_lasts_until_it_is_removed(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("FRIEND", amount_off=money("30 USD"), duration="forever")
    ts.subscriptions.create(BILLABLE, "pro", coupon="FRIEND")
    bill_until(ts, clock, "2026-02-20")
    (discount,) = ts.coupons.discounts(BILLABLE)
    removed = ts.coupons.remove(discount.id)
    assert removed.ends_at == clock.now()
    assert ts.coupons.remove(discount.id) == removed
    bill_until(ts, clock, "2026-03-20")
    assert totals(ts) == ["70.00 USD", "70.00 USD", "100.00 USD"]
    assert ts.coupons.discounts(BILLABLE) == []
    with pytest.raises(Conflict, match="redeemed coupon FRIEND"):
        ts.coupons.redeem(BILLABLE, "FRIEND")
    with pytest.raises(NotFound):
        ts.coupons.remove("dsc_none")


def test_of_a_trial_it_holds_from_the_first_paid_period_on(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, trial_days=40)
    ts.coupons.create("HALF", percent_off=50, duration="repeating", duration_months=2)
    ts.subscriptions.create("user:1", "pro", coupon="HALF")
    subscription = ts.subscriptions.create("user:2", "pro")
    assert [one.starts_at for one in ts.coupons.discounts("user:1")] == [subscription.trial_ends_at]
    clock.advance(days=10)
    redeemed = ts.coupons.redeem("user:2", "HALF", subscription=subscription.id)
    assert redeemed.starts_at == subscription.trial_ends_at
    bill_until(ts, clock, "2026-05-30")
    assert totals(ts, "user:1") == totals(ts, "user:2") == ["50.00 USD"] * 2 + ["100.00 USD"] * 2


def test_one_that_is_removed_before_it_begins_never_holds(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts, trial_days=20)
    ts.coupons.create("HALF", percent_off=50, duration="forever")
    ts.subscriptions.create(BILLABLE, "pro", coupon="HALF")
    (discount,) = ts.coupons.discounts(BILLABLE)
    ts.coupons.remove(discount.id)
    assert ts.coupons.discounts(BILLABLE) == []
    bill_until(ts, clock, "2026-02-20")
    assert totals(ts) == ["100.00 USD"]


def test_a_pending_subscription_has_it_on_the_invoice_that_it_waits_for(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("HALF", percent_off=50, duration="repeating", duration_months=2)
    ts.subscriptions.create(BILLABLE, "pro", pending=True, started_at="2026-01-20", coupon="HALF")
    (waiting,) = invoices(ts)
    assert waiting.total == money("50 USD")
    clock.set("2026-03-10")
    ts.invoices.record_payment(waiting.id)
    assert ts.subscriptions.get(BILLABLE).started_at == clock.now()
    # It waited longer than a month: its two months are those from its beginning on.
    bill_until(ts, clock, "2026-05-20")
    assert totals(ts) == ["50.00 USD", "50.00 USD", "100.00 USD"]


def test_what_the_worker_has_not_come_to_yet_is_discounted(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("ONCE", percent_off=20)
    ts.subscriptions.create(BILLABLE, "pro")
    clock.advance(seconds=90)
    ts.coupons.redeem(BILLABLE, "ONCE")
    ts.run_due_jobs()
    assert totals(ts) == ["80.00 USD"]


def test_what_was_missed_long_ago_is_not(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("HALF", percent_off=50, duration="forever")
    ts.subscriptions.create(BILLABLE, "pro")
    clock.set("2026-03-20")
    ts.coupons.redeem(BILLABLE, "HALF")
    ts.run_due_jobs()
    assert totals(ts) == ["100.00 USD", "100.00 USD", "50.00 USD"]


# -- off what it is taken ---------------------------------------------------------------------------------------------


def test_all_of_it_is_an_invoice_of_nothing_that_is_paid_at_once(ts: Tallystick) -> None:
    heard: list[InvoicePaid] = []
    ts.on(InvoicePaid)(heard.append)
    sell(ts)
    ts.coupons.create("FREE", percent_off=100)
    ts.subscriptions.create(BILLABLE, "pro", coupon="FREE")
    ts.run_due_jobs()
    (invoice,) = invoices(ts)
    assert (invoice.total, invoice.amount_due, invoice.status) == (money("0 USD"), money("0 USD"), "paid")
    assert [line.description for line in invoice.line_items] == ["pro (monthly)", "FREE (−100 %)"]
    assert [one.invoice.id for one in heard] == [invoice.id]


def test_several_are_taken_off_in_the_order_in_which_they_were_redeemed(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("HALF", percent_off=50, duration="forever")
    ts.coupons.create("TEN", amount_off="10 USD", duration="forever", name="Ten for you")
    for payer, codes in (("user:1", ("HALF", "TEN")), ("user:2", ("TEN", "HALF"))):
        for code in codes:
            ts.coupons.redeem(payer, code)
        ts.subscriptions.create(payer, "pro")
    ts.run_due_jobs()
    lines = [[(one.description, str(one.amount)) for one in invoices(ts, f"user:{n}")[0].line_items] for n in (1, 2)]
    assert lines[0][1:] == [("HALF (−50 %)", "-50.00 USD"), ("Ten for you", "-10.00 USD")]
    assert lines[1][1:] == [("Ten for you", "-10.00 USD"), ("HALF (−50 %)", "-45.00 USD")]
    assert (totals(ts, "user:1"), totals(ts, "user:2")) == (["40.00 USD"], ["45.00 USD"])
    assert_healthy(ts)


def test_what_an_amount_leaves_is_not_kept(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("BIG", amount_off="250 USD")
    ts.subscriptions.create(BILLABLE, "pro", coupon="BIG")
    bill_until(ts, clock, "2026-02-20")
    assert totals(ts) == ["0.00 USD", "100.00 USD"]


def test_tax_is_on_what_is_left(sqlite_url: str, clock: FixedClock) -> None:
    tax = {"tax": {"rate_percent": "19", "name": "VAT"}}
    with Tallystick(sqlite_url, clock=clock, invoicing=tax) as ts:
        sell(ts)
        ts.coupons.create("HALF", percent_off=50)
        ts.subscriptions.create(BILLABLE, "pro", coupon="HALF")
        ts.run_due_jobs()
        (invoice,) = invoices(ts)
        assert [str(one) for one in (invoice.net, invoice.tax, invoice.total)] == ["50.00 USD", "9.50 USD", "59.50 USD"]


def test_one_of_some_plans_takes_nothing_off_others(ts: Tallystick) -> None:
    sell(ts)
    sell(ts, "team", "200 USD")
    ts.coupons.create("TEAMS", percent_off=50, plans=["team"])
    for payer, plan in (("user:1", "pro"), ("user:2", "team")):
        ts.coupons.redeem(payer, "TEAMS")
        ts.subscriptions.create(payer, plan)
    ts.run_due_jobs()
    assert (totals(ts, "user:1"), totals(ts, "user:2")) == (["100.00 USD"], ["100.00 USD"])
    # It is not used up by an invoice that it took nothing off.
    assert [one.invoices_left for one in ts.coupons.discounts("user:1")] == [1]


def test_one_of_a_subscription_takes_nothing_off_another(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, subscriptions={"allow_multiple": True}) as ts:
        sell(ts)
        sell(ts, "addon", "10 USD")
        ts.coupons.create("HALF", percent_off=50, duration="forever")
        ts.subscriptions.create(BILLABLE, "pro")
        addon = ts.subscriptions.create(BILLABLE, "addon", coupon="HALF")
        ts.run_due_jobs()
        by_subscription = {one.subscription_id: str(one.total) for one in invoices(ts)}
        assert by_subscription.pop(addon.id) == "5.00 USD"
        assert list(by_subscription.values()) == ["100.00 USD"]


def test_invoices_by_hand_know_no_discounts(ts: Tallystick) -> None:
    ts.coupons.create("HALF", percent_off=50)
    ts.coupons.redeem(BILLABLE, "HALF")
    assert ts.invoices.create(BILLABLE, amount_cents=9900).total == money("99 USD")
    assert [one.invoices_left for one in ts.coupons.discounts(BILLABLE)] == [1]


def test_a_draft_that_is_cancelled_gives_back_what_it_used(sqlite_url: str, clock: FixedClock) -> None:
    with Tallystick(sqlite_url, clock=clock, invoicing={"finalize": False}) as ts:
        sell(ts)
        ts.coupons.create("ONCE", percent_off=50)
        ts.subscriptions.create(BILLABLE, "pro", coupon="ONCE")
        ts.run_due_jobs()
        (draft,) = invoices(ts)
        assert (draft.total, ts.coupons.discounts(BILLABLE)) == (money("50 USD"), [])
        ts.invoices.void(draft.id)
        assert [one.invoices_left for one in ts.coupons.discounts(BILLABLE)] == [1]


def test_looking_ahead_uses_nothing_up(ts: Tallystick) -> None:
    sell(ts)
    ts.coupons.create("ONCE", percent_off=50)
    ts.subscriptions.create(BILLABLE, "pro", coupon="ONCE")
    for _ in range(2):
        expected = ts.invoices.preview(BILLABLE)
        assert expected is not None
        assert expected.total == money("50 USD")
        assert [str(one.total) for one in ts.invoices.generate(dry_run=True)] == ["50.00 USD"]
    assert [one.invoices_left for one in ts.coupons.discounts(BILLABLE)] == [1]


# -- who may redeem it, and how often ---------------------------------------------------------------------------------


def test_codes_are_compared_without_case_and_are_there_once(ts: Tallystick) -> None:
    created = ts.coupons.create("Welcome-20", percent_off="20.50", name="Welcome")
    assert (created.code, created.name, created.percent_off) == ("WELCOME-20", "Welcome", Decimal("20.5"))
    assert ts.coupons.get("welcome-20") == created
    with pytest.raises(Conflict, match="WELCOME-20 already"):
        ts.coupons.create("WELCOME-20", percent_off=10)
    assert ts.coupons.redeem(BILLABLE, " wElCoMe-20 ").code == "WELCOME-20"
    with pytest.raises(Conflict, match="user:1 redeemed coupon WELCOME-20 on 2026-01-15"):
        ts.coupons.redeem(BILLABLE, "WELCOME-20")
    assert ts.coupons.get("WELCOME-20").redemptions == 1


def test_a_day_until_which_it_can_be_redeemed_counts_whole(ts: Tallystick, clock: FixedClock) -> None:
    until = ts.coupons.create("SOON", percent_off=10, redeem_by="2026-01-31").redeem_by
    assert until == parse_instant("2026-02-01")
    assert ts.coupons.create("SOON2", percent_off=10, redeem_by=date(2026, 1, 31)).redeem_by == until
    clock.set("2026-01-31T23:59:59.999999Z")
    ts.coupons.redeem("user:1", "SOON")
    clock.set("2026-02-01")
    with pytest.raises(Conflict, match="could be redeemed until 2026-02-01 00:00 UTC"):
        ts.coupons.redeem("user:2", "SOON")
    assert ts.coupons.get("SOON").redemptions == 1


def test_an_archived_one_is_redeemed_no_more_and_goes_on_where_it_was(ts: Tallystick, clock: FixedClock) -> None:
    sell(ts)
    ts.coupons.create("OLD", percent_off=50, duration="forever")
    ts.subscriptions.create("user:1", "pro", coupon="OLD")
    archived = ts.coupons.archive("old")
    assert (archived.archived_at, ts.coupons.archive("OLD")) == (clock.now(), archived)
    with pytest.raises(Conflict, match="OLD was archived"):
        ts.coupons.redeem("user:2", "OLD")
    ts.run_due_jobs()
    assert totals(ts) == ["50.00 USD"]
    ts.coupons.create("NEW", percent_off=50, max_redemptions=1)
    ts.coupons.create("LATE", percent_off=50, redeem_by="2026-01-16")
    assert [one.code for one in ts.coupons.list(active_only=True)] == ["LATE", "NEW"]
    ts.coupons.redeem("user:2", "NEW")
    clock.advance(days=2)
    assert ts.coupons.list(active_only=True) == []
    assert [one.code for one in ts.coupons.list()] == ["LATE", "NEW", "OLD"]


@pytest.mark.parametrize(
    ("code", "plan", "error", "words"),
    [
        ("NONE", "pro", NotFound, "No coupon 'NONE'"),
        ("USED", "pro", Conflict, "USED was redeemed as often as it may be .1."),
        ("TEAMS", "pro", Conflict, "TEAMS is for team, not for the plan pro"),
        ("EUROS", "pro", CurrencyMismatch, "EUROS takes 5.00 EUR off, and the plan pro is in USD"),
        ("?", "pro", InvalidInput, "3 to 64 letters"),
    ],
)
def test_a_subscription_is_not_created_where_its_coupon_is_refused(
    ts: Tallystick, code: str, plan: str, error: type[Exception], words: str
) -> None:
    sell(ts)
    sell(ts, "team")
    ts.coupons.create("USED", percent_off=50, max_redemptions=1)
    ts.coupons.redeem("user:2", "USED")
    ts.coupons.create("TEAMS", percent_off=50, plans=["team"])
    ts.coupons.create("EUROS", amount_off="5 EUR")
    with pytest.raises(error, match=words.replace("?", r"\?")):
        ts.subscriptions.create(BILLABLE, plan, coupon=code)
    assert ts.subscriptions.list(BILLABLE) == []
    assert ts.coupons.discounts(BILLABLE, include_ended=True) == []
    assert [one.redemptions for one in ts.coupons.list()] == [0, 0, 1]


def test_a_refused_subscription_redeems_nothing(ts: Tallystick) -> None:
    sell(ts)
    ts.coupons.create("HALF", percent_off=50)
    ts.subscriptions.create(BILLABLE, "pro")
    with pytest.raises(Conflict, match="has a subscription"):
        ts.subscriptions.create(BILLABLE, "pro", coupon="HALF")
    assert ts.coupons.get("HALF").redemptions == 0


def test_a_subscription_of_another_or_that_has_ended_is_refused(ts: Tallystick) -> None:
    sell(ts)
    ts.coupons.create("HALF", percent_off=50)
    subscription = ts.subscriptions.create("user:1", "pro")
    with pytest.raises(NotFound):
        ts.coupons.redeem("user:2", "HALF", subscription=subscription.id)
    ts.subscriptions.cancel("user:1", immediately=True)
    with pytest.raises(Conflict, match="ended at 2026-01-15"):
        ts.coupons.redeem("user:1", "HALF", subscription=subscription.id)
    assert ts.coupons.get("HALF").redemptions == 0


def test_of_many_at_once_exactly_as_many_redeem_it_as_may(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        sell(one)
        one.coupons.create("SEVEN", percent_off=50, max_redemptions=7)

        def redeem(number: int) -> Any:
            ts = (one, other)[number % 2]
            if number % 3:
                return ts.coupons.redeem(f"user:{number}", "seven")
            return ts.subscriptions.create(f"user:{number}", "pro", coupon="seven")

        outcomes = in_threads(24, redeem)
        assert len(errors_of(outcomes, Conflict)) == 17
        assert one.coupons.get("SEVEN").redemptions == 7
        redeemed = [one.coupons.discounts(f"user:{number}") for number in range(24)]
        assert sum(map(len, redeemed)) == 7
        subscribed = [number for number in range(0, 24, 3) if one.subscriptions.list(f"user:{number}")]
        assert subscribed == [number for number in range(0, 24, 3) if redeemed[number]]


def test_one_payer_redeems_it_once_however_often_they_try_at_once(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        one.coupons.create("HALF", percent_off=50)
        outcomes = in_threads(12, lambda number: (one, other)[number % 2].coupons.redeem(BILLABLE, "HALF"))
        assert len(errors_of(outcomes, Conflict)) == 11
        assert one.coupons.get("HALF").redemptions == len(one.coupons.discounts(BILLABLE)) == 1


def test_of_two_that_create_one_code_at_once_one_is_refused(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock) as one, Tallystick(database_url, clock=clock) as other:
        outcomes = in_threads(8, lambda number: (one, other)[number % 2].coupons.create("HALF", percent_off=number + 1))
        assert len(errors_of(outcomes, Conflict)) == 7


def test_two_invoices_that_are_made_at_once_do_not_both_use_what_is_for_one(
    postgres_url: str, clock: FixedClock
) -> None:
    with Tallystick(postgres_url, clock=clock) as one, Tallystick(postgres_url, clock=clock) as other:
        sell(one)
        one.subscriptions.create(BILLABLE, "pro")
        one.invoices.add_item(BILLABLE, 10, "Setup", due_at="2026-01-15T12:00:00Z")
        one.coupons.create("ONCE", percent_off=50)
        one.coupons.redeem(BILLABLE, "ONCE")
        with psycopg.connect(postgres_url) as holding:
            holding.execute("SELECT 1 FROM discounts FOR UPDATE")
            threads = [
                start_and_wait(postgres_url, 1, lambda: one.invoices.bill_now(BILLABLE)),
                start_and_wait(postgres_url, 2, lambda: other.invoices.generate()),
            ]
            holding.rollback()
            for thread in threads:
                thread.join(timeout=30)
        assert sorted(totals(one)) == ["100.00 USD", "5.00 USD"]
        assert [one.invoices_left for one in one.coupons.discounts(BILLABLE, include_ended=True)] == [0]


# -- what may be stated -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "stated"),
    [
        ("code", {"code": "ab", "percent_off": 10}),
        ("code", {"code": "A" * 65, "percent_off": 10}),
        ("code", {"code": "WITH SPACE", "percent_off": 10}),
        ("code", {"code": "straße", "percent_off": 10}),
        ("code", {"code": 123, "percent_off": 10}),
        ("percent_off", {}),
        ("percent_off", {"percent_off": 10, "amount_off": money("1 USD")}),
        ("percent_off", {"percent_off": 0}),
        ("percent_off", {"percent_off": "100.01"}),
        ("percent_off", {"percent_off": "-5"}),
        ("percent_off", {"percent_off": 12.5}),
        ("percent_off", {"percent_off": True}),
        ("percent_off", {"percent_off": "0.0000001"}),
        ("percent_off", {"percent_off": "NaN"}),
        ("amount_off", {"amount_off": money("0 USD")}),
        ("amount_off", {"amount_off": money("-1 USD")}),
        ("amount_off", {"amount_off": "ten"}),
        ("amount_off", {"amount_off": 10}),
        ("duration", {"percent_off": 10, "duration": "weekly"}),
        ("duration_months", {"percent_off": 10, "duration": "repeating"}),
        ("duration_months", {"percent_off": 10, "duration": "repeating", "duration_months": 0}),
        ("duration_months", {"percent_off": 10, "duration": "repeating", "duration_months": True}),
        ("duration_months", {"percent_off": 10, "duration_months": 3}),
        ("max_redemptions", {"percent_off": 10, "max_redemptions": 0}),
        ("redeem_by", {"percent_off": 10, "redeem_by": "2026-01-14"}),
        ("redeem_by", {"percent_off": 10, "redeem_by": "tomorrow"}),
        ("plans", {"percent_off": 10, "plans": "pro"}),
        ("plans", {"percent_off": 10, "plans": []}),
        ("plans", {"percent_off": 10, "plans": [1, "pro"]}),
        ("name", {"percent_off": 10, "name": " "}),
    ],
)
def test_what_cannot_be_a_coupon_is_refused_by_its_field(sqlite_url: str, field: str, stated: dict[str, Any]) -> None:
    clock = FixedClock("2026-01-15T12:00:00Z")
    with Tallystick(sqlite_url, clock=clock) as ts:
        with pytest.raises(InvalidInput) as refused:
            ts.coupons.create(stated.pop("code", "CODE"), **stated)
        assert refused.value.field == field
        assert ts.coupons.list() == []


def test_plans_that_are_not_there_are_refused(ts: Tallystick) -> None:
    with pytest.raises(PlanNotFound):
        ts.coupons.create("HALF", percent_off=50, plans=["pro"])
    sell(ts)
    assert ts.coupons.create("HALF", percent_off=50, plans={"pro"}).plans == ("pro",)


def test_a_coupon_and_a_discount_are_plain_values(ts: Tallystick) -> None:
    coupon = ts.coupons.create("HALF", percent_off="12.50", duration="repeating", duration_months=2)
    assert coupon.to_dict() | {"id": "", "created_at": ""} == {
        "id": "",
        "code": "HALF",
        "name": "HALF",
        "percent_off": "12.5",
        "amount_off": None,
        "duration": "repeating",
        "duration_months": 2,
        "max_redemptions": None,
        "redemptions": 0,
        "redeem_by": None,
        "plans": None,
        "created_at": "",
        "archived_at": None,
    }
    discount = ts.coupons.redeem(BILLABLE, "HALF")
    assert discount.to_dict()["ends_at"] == "2026-03-15T12:00:00+00:00"
    assert (discount.redeemed_at, discount.coupon_id) == (coupon.created_at, coupon.id)


# -- the other ways in ------------------------------------------------------------------------------------------------


def test_coupons_are_awaited_too(sqlite_url: str, clock: FixedClock) -> None:
    async def use() -> None:
        async with AsyncTallystick(sqlite_url, clock=clock) as ts:
            await ts.coupons.create("HALF", amount_off=Money("5", "USD"))
            await ts.coupons.redeem(BILLABLE, "HALF")
            assert [one.amount_off for one in await ts.coupons.discounts(BILLABLE)] == [money("5 USD")]

    asyncio.run(use())


def test_the_command_line_creates_lists_redeems_and_archives(
    database_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--database", database_url)
    succeed("plans", "create", "pro", "--price", "100 USD", *where)
    terms = ("--duration", "repeating", "--months", 3, "--max-redemptions", 5, "--redeem-by", "2099-12-31")
    created = answer("coupons", "create", "half", "--percent-off", "50", *terms, "--plan", "pro", *where)
    assert (created["code"], created["plans"], created["redeem_by"][:10]) == ("HALF", ["pro"], "2100-01-01")
    assert "TEN: 10.00 USD off, the next invoice." in succeed("coupons", "create", "ten", "--amount-off", "10", *where)
    assert answer("coupons", "redeem", "user:1", "Half", *where)["code"] == "HALF"
    assert "user:1: 10.00 USD off from " in succeed("coupons", "redeem", "user:1", "TEN", *where)
    again = answer("coupons", "redeem", "user:1", "half", *where, exit_code=3)
    assert again["error"]["code"] == "conflict"
    assert "TEN is archived. Redeemed: 1." in succeed("coupons", "archive", "ten", *where)
    assert [one["code"] for one in answer("coupons", "list", "--active-only", *where)["coupons"]] == ["HALF"]
    said = succeed("coupons", "list", *where)
    assert "1 of 5" in said
    assert "archived" in said


def test_the_command_line_says_that_there_are_none(sqlite_url: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    succeed("migrate", "--database", sqlite_url)
    assert "There are no coupons." in succeed("coupons", "list", "--database", sqlite_url)
