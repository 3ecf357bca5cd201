"""What the platform and the metering package promised of plans, subscriptions, invoices and overage, by figures."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tallystick import FixedClock, Money, Tallystick
from tallystick.errors import Conflict, LimitExceeded, SubscriptionRequired
from tallystick.events import OverageCharged, PaymentFailed, PlanChanged, SubscriptionExpired, SubscriptionRenewed
from tests.acceptance.accounts import assert_healthy, meter
from tests.values import money

# -- plans and subscriptions ------------------------------------------------------------------------------------------


def test_a_plan_is_of_one_of_the_five_types_and_of_a_cycle(ts: Tallystick) -> None:
    types = ("free", "starter", "professional", "enterprise", "custom")
    cycles = ("monthly", "quarterly", "yearly", "lifetime", "monthly")
    for plan_type, cycle in zip(types, cycles, strict=True):
        plan = ts.plans.create(plan_type, plan_type=plan_type, billing_cycle=cycle, price=money("99.00 USD"))
        assert (plan.plan_type, plan.current.billing_cycle, plan.current.price) == (plan_type, cycle, money("99 USD"))


def test_a_professional_plan_of_99_a_month_is_subscribed_and_active(ts: Tallystick) -> None:
    ts.plans.create("professional", plan_type="professional", billing_cycle="monthly", price="99.00 USD")
    ts.tenants.create("Acme Corp", slug="acme", billing_email="billing@acme.com")
    ts.subscriptions.create("tenant:acme", "professional")
    assert ts.subscriptions.status("tenant:acme") == "active"
    assert ts.subscriptions.get("tenant:acme").plan.price == Money("99.00", "USD")


@pytest.mark.parametrize(
    ("cycle", "days"),
    [
        ("monthly", "01-31 02-28 03-31 04-30 05-31 06-30 07-31 08-31 09-30 10-31 11-30 12-31 01-31"),
        ("quarterly", "01-31 04-30 07-31 10-31 01-31"),
        ("yearly", "01-31 01-31"),
        ("lifetime", "01-31"),
    ],
)
def test_each_cycle_is_paid_at_the_beginning_of_its_own_periods(
    ts: Tallystick, clock: FixedClock, cycle: str, days: str
) -> None:
    ts.plans.create("pro", price="99 USD", billing_cycle=cycle)
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-31T10:00:00Z")
    clock.set("2027-01-31T10:00:00Z")
    ts.run_due_jobs()
    invoices = list(reversed(list(ts.invoices.list("user:1"))))
    assert " ".join(f"{one.period_start:%m-%d}" for one in invoices) == days
    assert {one.amount_cents for one in invoices} == {9900}
    assert_healthy(ts)


def test_who_pays_by_the_year_pays_for_use_by_the_month(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price="990 USD", billing_cycle="yearly", usage_prices={"message": "0.01"})
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-01")
    ts.usage.log("user:1", "message", quantity=250)
    clock.set("2026-03-15")
    ts.usage.log("user:1", "message", quantity=100)
    # It happened before the first of March, and was told of afterwards.
    ts.usage.log("user:1", "message", quantity=40, occurred_at="2026-02-20")
    clock.set("2026-04-01")
    ts.run_due_jobs()
    lines = [
        (line.resource_type, line.quantity, line.amount_cents, f"{line.period_start:%m-%d}")
        for invoice in reversed(list(ts.invoices.list("user:1")))
        for line in invoice.line_items
    ]
    assert lines == [
        (None, 1, 99000, "01-01"),
        ("message", 250, 250, "01-01"),
        ("message", 40, 40, "02-01"),
        ("message", 100, 100, "03-01"),
    ]
    assert_healthy(ts)


def test_a_subscription_is_pending_future_trial_active_past_due_suspended_cancelled_or_expired(
    ts: Tallystick, clock: FixedClock
) -> None:
    ts.plans.create("pro", price="99 USD")
    made = ts.subscriptions
    made.create("user:pending", "pro", pending=True)
    made.create("user:future", "pro", started_at="2026-02-01")
    made.create("user:trial", "pro", trial_ends_at="2026-02-01")
    made.create("user:active", "pro")
    for name in ("past_due", "suspended", "cancelled", "expired"):
        made.create(f"user:{name}", "pro", started_at="2026-01-01")
    made.payment_failed("user:past_due")
    made.pause("user:suspended")
    made.cancel("user:cancelled", immediately=True)
    made.payment_failed("user:expired", at="2026-01-02")
    statuses = ("pending", "future", "trial", "active", "past_due", "suspended", "cancelled", "expired")
    assert [made.status(f"user:{name}") for name in statuses] == list(statuses)


def test_a_subscription_is_cancelled_at_the_end_of_what_is_paid_or_immediately(
    ts: Tallystick, clock: FixedClock
) -> None:
    ts.plans.create("pro", price="99 USD", monthly_token_limit=1_000)
    for name in ("user:later", "user:now"):
        ts.subscriptions.create(name, "pro", started_at="2026-01-10")
    ts.run_due_jobs()
    assert ts.subscriptions.cancel("user:later").ends_at == datetime(2026, 2, 10, tzinfo=UTC)
    assert ts.subscriptions.cancel("user:now", immediately=True).ends_at == clock.now()
    assert [ts.subscriptions.status(name) for name in ("user:later", "user:now")] == ["active", "cancelled"]
    clock.set("2026-02-10")
    ts.run_due_jobs()
    assert ts.subscriptions.status("user:later") == "cancelled"
    assert len(ts.invoices.list("user:later")) == len(ts.invoices.list("user:now")) == 1


def test_a_renewal_moves_neither_the_start_nor_the_day_of_the_month(ts: Tallystick, clock: FixedClock) -> None:
    heard: list[SubscriptionRenewed] = []
    ts.on(SubscriptionRenewed)(heard.append)
    ts.plans.create("pro", price="99 USD")
    started = ts.subscriptions.create("user:1", "pro", started_at="2026-01-15T12:00:00Z").started_at
    for month in (2, 3, 4):
        clock.set(f"2026-{month:02}-20")
        ts.run_due_jobs()
    assert ts.subscriptions.get("user:1").started_at == started
    assert [f"{one.period_start:%m-%d}" for one in heard] == ["02-15", "03-15", "04-15"]


def test_gateway_ids_are_kept_with_the_subscription(ts: Tallystick) -> None:
    ids = {"stripe_subscription_id": "sub_1Nx", "stripe_customer_id": "cus_9"}
    ts.plans.create("pro")
    assert ts.subscriptions.create("user:1", "pro", metadata=ids).metadata == ids
    ts.subscriptions.set_metadata("user:1", {**ids, "stripe_customer_id": "cus_10"})
    assert ts.subscriptions.get("user:1").metadata["stripe_customer_id"] == "cus_10"


# -- changing plans ---------------------------------------------------------------------------------------------------


def test_a_plan_is_changed_now_with_the_difference_for_the_rest_of_the_period(
    ts: Tallystick, clock: FixedClock
) -> None:
    heard: list[PlanChanged] = []
    ts.on(PlanChanged)(heard.append)
    ts.plans.create("basic", price="30 USD")
    ts.plans.create("pro", price="60 USD")
    ts.subscriptions.create("user:1", "basic", started_at="2026-04-01")
    clock.set("2026-04-01")
    ts.run_due_jobs()
    clock.set("2026-04-11")
    changed = ts.subscriptions.change_plan("user:1", "pro")
    assert changed.previous_plan is not None
    assert (changed.plan.slug, changed.previous_plan.slug) == ("pro", "basic")
    assert [(one.previous_plan.slug, one.plan.slug, one.effective_at) for one in heard] == [
        ("basic", "pro", clock.now())
    ]
    clock.set("2026-05-01")
    ts.run_due_jobs()
    lines = [(line.kind, line.amount) for line in ts.invoices.list("user:1")[0].line_items]
    assert lines == [("fee", money("60 USD")), ("proration", money("-20 USD")), ("proration", money("40 USD"))]
    assert_healthy(ts)


def test_subscribers_are_migrated_only_from_the_plan_that_is_named(ts: Tallystick, clock: FixedClock) -> None:
    for slug in ("basic-plan", "other-plan", "pro-plan"):
        ts.plans.create(slug, price="10 USD")
    for number, slug in enumerate(("basic-plan", "basic-plan", "other-plan"), start=1):
        ts.subscriptions.create(f"user:{number}", slug)
    planned = ts.subscriptions.migrate("pro-plan", from_plan="basic-plan", dry_run=True)
    assert [(one.billable, one.applied) for one in planned] == [("user:1", False), ("user:2", False)]
    [refused] = ts.subscriptions.migrate("pro-plan", "user:3", from_plan="basic-plan")
    assert (refused.applied, refused.error and refused.error.code) == (False, "invalid_input")
    moved = ts.subscriptions.migrate("pro-plan", from_plan="basic-plan")
    assert [(one.billable, one.from_plan, one.applied) for one in moved] == [
        ("user:1", "basic-plan", True),
        ("user:2", "basic-plan", True),
    ]
    plans = [ts.subscriptions.get(f"user:{number}").plan.slug for number in (1, 2, 3)]
    assert plans == ["pro-plan", "pro-plan", "other-plan"]


# -- grace ------------------------------------------------------------------------------------------------------------


def test_in_the_grace_period_limits_hold_and_use_is_tracked_and_after_it_nothing_is_limited(
    ts: Tallystick, clock: FixedClock
) -> None:
    failed: list[PaymentFailed] = []
    expired: list[SubscriptionExpired] = []
    ts.on(PaymentFailed)(failed.append)
    ts.on(SubscriptionExpired)(expired.append)
    ts.plans.create("pro", monthly_token_limit=100, price="10 USD")
    ts.subscriptions.create("user:1", "pro")
    ts.subscriptions.payment_failed("user:1")
    assert [one.grace_until for one in failed] == [datetime(2026, 1, 22, 12, tzinfo=UTC)]

    clock.set("2026-01-22T11:59:59.999999Z")
    assert ts.subscriptions.status("user:1") == "past_due"
    meter(ts, "user:1").with_manual_usage(input_tokens=60).call(lambda: None)
    with pytest.raises(LimitExceeded):
        meter(ts, "user:1").hold(tokens=50)

    clock.set("2026-01-22T12:00:00Z")
    assert ts.subscriptions.status("user:1") == "expired"
    meter(ts, "user:1").with_manual_usage(input_tokens=500).call(lambda: None)
    assert ts.usage.stats("user:1").totals.total_tokens == 560
    ts.run_due_jobs()
    ts.run_due_jobs()
    assert [(one.billable, one.ended_at) for one in expired] == [("user:1", clock.now())]


def test_who_pays_after_the_grace_period_is_in_force_again_and_pays_for_no_time_in_between(
    ts: Tallystick, clock: FixedClock
) -> None:
    ts.plans.create("pro", price="31 USD")
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-01")
    clock.set("2026-01-10")
    ts.run_due_jobs()
    ts.subscriptions.payment_failed("user:1")
    clock.set("2026-01-20")
    assert ts.subscriptions.status("user:1") == "expired"
    ts.subscriptions.payment_succeeded("user:1")
    assert ts.subscriptions.status("user:1") == "active"
    days = ("2026-01-16", "2026-01-17", "2026-01-20")
    assert [ts.subscriptions.status("user:1", at=day).is_in_force for day in days] == [True, False, True]
    ts.run_due_jobs()
    # January was paid: of its 31 days, 15 lie after the grace period. From the 20th on a new month is paid.
    latest, first = ts.invoices.list("user:1")
    assert (first.amount_cents, latest.amount_cents) == (3100, 3100 - 1500)
    assert latest.period_start == clock.now()
    assert_healthy(ts)


def test_after_its_end_calls_are_refused_where_a_subscription_is_required(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, require_subscription=True) as ts:
        ts.plans.create("pro")
        ts.subscriptions.create("user:1", "pro")
        meter(ts, "user:1").hold(tokens=1).void()
        ts.subscriptions.cancel("user:1", immediately=True)
        with pytest.raises(SubscriptionRequired):
            meter(ts, "user:1").hold(tokens=1)


# -- invoices ---------------------------------------------------------------------------------------------------------


def test_an_invoice_by_hand_has_its_amount_its_day_and_its_lines(ts: Tallystick, clock: FixedClock) -> None:
    ts.tenants.create("Acme Corp", slug="acme", billing_email="billing@acme.com", timezone="America/Sao_Paulo")
    line = {"description": "Professional Plan - Monthly", "amount_cents": 9900, "quantity": 1}
    invoice = ts.invoices.create("acme", amount_cents=9900, due_date="2026-02-14", line_items=[line])
    assert (invoice.billable, invoice.amount_cents, invoice.status) == ("tenant:acme", 9900, "pending")
    assert invoice.due_date == "2026-02-14"
    assert [(one.description, one.amount_cents, one.quantity) for one in invoice.line_items] == [
        ("Professional Plan - Monthly", 9900, 1)
    ]
    clock.set("2026-02-15T02:59:59Z")
    assert ts.invoices.get(invoice.id).status == "pending"
    clock.set("2026-02-15T03:00:00Z")
    assert ts.invoices.get(invoice.id).status == "overdue"


def test_an_invoice_is_said_to_be_paid_with_the_gateways_id(ts: Tallystick) -> None:
    invoice = ts.invoices.create("user:1", 9900)
    for _ in range(2):
        paid = ts.invoices.update(invoice.id, status="paid", external_payment_id="pay_xxx")
        assert (paid.status, paid.external_payment_id, paid.amount_due) == ("paid", "pay_xxx", money("0 USD"))
    assert [(one.external_id, one.amount) for one in ts.invoices.payments(invoice.id)] == [("pay_xxx", money("99 USD"))]
    assert_healthy(ts)


def test_invoices_are_listed_by_status_in_pages(ts: Tallystick, clock: FixedClock) -> None:
    made = []
    for _ in range(5):
        made.append(ts.invoices.create("acme", 9900, due_date="2026-01-20").id)
        clock.advance(seconds=1)
    ts.invoices.create("other", 100)
    ts.invoices.update(made[0], status="paid")
    ts.invoices.update(made[1], status="cancelled")
    first = ts.invoices.list("acme", status="pending", limit=2)
    rest = ts.invoices.list("acme", status="pending", limit=2, cursor=first.next_cursor)
    assert [one.id for one in (*first, *rest)] == [made[4], made[3], made[2]]
    assert [one.id for one in ts.invoices.list("acme", status="paid")] == [made[0]]
    clock.set("2026-01-21")
    assert len(ts.invoices.list("acme", status="overdue")) == 3


def test_an_invoice_is_made_before_its_period_begins(database_url: str, clock: FixedClock) -> None:
    with Tallystick(database_url, clock=clock, invoicing={"days_before": 7}) as ts:
        ts.plans.create("pro", price="99 USD")
        ts.subscriptions.create("user:1", "pro", started_at="2026-01-15T12:00:00Z")
        ts.run_due_jobs()
        clock.set("2026-02-08T12:00:00Z")
        ts.run_due_jobs()
        periods = [f"{one.period_start:%Y-%m-%d}" for one in ts.invoices.list("user:1")]
        assert periods == ["2026-02-15", "2026-01-15"]


def test_less_than_a_cent_is_carried_until_a_cent_is_reached(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price="1 USD", usage_prices={"message": "0.004"})
    ts.subscriptions.create("user:1", "pro", started_at="2026-01-01")
    for month in range(1, 7):
        clock.set(f"2026-{month:02}-10")
        ts.usage.log("user:1", "message")
    clock.set("2026-07-01")
    ts.run_due_jobs()
    totals = [one.amount_cents for one in reversed(list(ts.invoices.list("user:1")))]
    # 0.004, 0.008, 0.012: the first cent is reached with the third use; in all 7.024 is charged, and 7.02 billed.
    assert totals == [100, 100, 100, 101, 100, 101, 100]
    assert ts.invoices.list("user:1")[0].carried_out == money("0.004 USD")
    assert_healthy(ts)


def test_what_was_billed_before_is_never_billed_again(ts: Tallystick, clock: FixedClock) -> None:
    ts.plans.create("pro", price="99 USD")
    ts.subscriptions.create("tenant:acme", "pro")
    clock.set("2026-03-20")
    planned = ts.invoices.generate(dry_run=True)
    assert len(planned) == 3
    assert len(ts.invoices.list()) == 0
    assert len(ts.invoices.generate("2026-01")) == 1
    assert len(ts.invoices.generate("2026-02", "acme")) == 1
    assert (ts.run_due_jobs().invoices, ts.run_due_jobs().invoices) == (1, 0)
    assert [one.number for one in reversed(list(ts.invoices.list()))] == [
        "INV-2026-000001",
        "INV-2026-000002",
        "INV-2026-000003",
    ]


def test_a_paid_invoice_is_archived_and_one_that_is_owed_is_not(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", 9900)
    with pytest.raises(Conflict):
        ts.invoices.archive(invoice.id)
    ts.invoices.update(invoice.id, status="paid")
    assert ts.invoices.archive(invoice.id).archived_at is not None
    assert len(ts.invoices.list("acme")) == 0
    assert [one.id for one in ts.invoices.list("acme", include_archived=True)] == [invoice.id]


def test_what_was_done_can_be_told_from_the_records(ts: Tallystick, clock: FixedClock) -> None:
    for slug in ("basic", "pro"):
        ts.plans.create(slug, price="30 USD")
    ts.subscriptions.create("user:1", "basic")
    clock.advance(days=1)
    ts.subscriptions.change_plan("user:1", "pro")
    clock.advance(days=1)
    ts.subscriptions.pause("user:1")
    clock.advance(days=1)
    ts.subscriptions.resume("user:1")
    changes = ts.subscriptions.get("user:1").changes
    assert [(one.kind, one.plan and one.plan.slug, one.starts_at.day) for one in changes] == [
        ("change", "pro", 16),
        ("pause", None, 17),
        ("resume", "pro", 18),
    ]
    # An invoice that was issued is never edited: what is corrected is a payment, a credit note, or a void that stays.
    issued = ts.invoices.create("user:1", 9900)
    voided = ts.invoices.void(ts.invoices.create("user:1", 100).id)
    with pytest.raises(Conflict):
        ts.invoices.update(issued.id, notes="another")
    ts.invoices.record_payment(issued.id, external_payment_id="pay_1")
    ts.invoices.credit(issued.id, money("9 USD"), reason="a day of outage")
    assert [one.external_id for one in ts.invoices.payments(issued.id)] == ["pay_1"]
    assert [one.reason for one in ts.invoices.credit_notes("user:1")] == ["a day of outage"]
    assert ts.invoices.get(voided.id).number == "INV-2026-000002"
    assert ts.invoices.get(issued.id).line_items == issued.line_items
    assert_healthy(ts)


# -- overage ----------------------------------------------------------------------------------------------------------


def test_overage_is_charged_told_of_and_invoiced(ts: Tallystick, clock: FixedClock) -> None:
    heard: list[OverageCharged] = []
    ts.on(OverageCharged)(heard.append)
    ts.plans.create(
        "pro",
        price="99 USD",
        monthly_token_limit=1_000_000,
        overage_behavior="charge",
        overage_price_per_1k_tokens="0.01",
    )
    ts.subscriptions.create("user:1", "pro")
    ts.run_due_jobs()
    # The second passes the limit: of it, half is beyond. Two that are alike on one day are two charges.
    for tokens in (750_000, 500_000, 250_000, 250_000):
        ts.usage.record(billable="user:1", input_tokens=tokens)
    amounts = [money(f"{amount} USD") for amount in ("2.50", "2.50", "2.50")]
    assert [one.amount for one in heard] == [one.amount for one in ts.overages.list("user:1")] == amounts
    assert len(ts.overages.list("user:1", is_synced=False)) == 3
    clock.set("2026-02-15T12:00:00Z")
    ts.run_due_jobs()
    [invoice, _] = ts.invoices.list("user:1")
    assert [(one.kind, one.amount, one.quantity) for one in invoice.line_items] == [
        ("fee", money("99 USD"), 1),
        ("overage", money("7.50 USD"), 750_000),
    ]
    assert {one.invoice_id for one in ts.overages.list("user:1")} == {invoice.id}
    assert_healthy(ts)


def test_plans_are_synced_from_a_file_and_listed(ts: Tallystick, tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    file.write_text('[plans.pro-plan]\nname = "Pro"\nprice = "99 USD"\n', encoding="utf-8")
    assert [one.slug for one in ts.plans.sync(file).created] == ["pro-plan"]
    assert not ts.plans.sync(file).has_changes
    assert [one.slug for one in ts.plans.list()] == ["pro-plan"]
