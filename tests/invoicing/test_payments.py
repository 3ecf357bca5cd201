"""Money for invoices: what comes, what goes back, and what that makes of the subscription that waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from tallystick import FixedClock, Tallystick
from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.events import Event, InvoicePaid, PaymentFailed, PaymentSucceeded, SubscriptionRenewed
from tests.acceptance.accounts import assert_healthy
from tests.values import money


@pytest.fixture
def sold(ts: Tallystick) -> Iterator[Tallystick]:
    """user:1 has the plan pro of 100 USD a month, and its first invoice."""
    ts.plans.create("pro", price=money("100 USD"))
    ts.subscriptions.create("user:1", "pro")
    ts.run_due_jobs()
    yield ts
    assert_healthy(ts)


@pytest.fixture
def several(database_url: str, clock: FixedClock) -> Iterator[list[Tallystick]]:
    """Engines on one database, as several processes have: only the database keeps them apart."""
    engines = [Tallystick(database_url, clock=clock) for _ in range(4)]
    yield engines
    for engine in engines:
        engine.close()


def at_once(works: Iterable[Callable[[], object]]) -> None:
    """Do all of it in threads of its own, and raise what one of them raises."""
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result()


def suppressed(work: Callable[[], object]) -> None:
    """Do something that may be refused."""
    with suppress(Conflict):
        work()


def invoices(ts: Tallystick, billable: str = "user:1") -> list[str]:
    """Return the ids of a payer's invoices, the oldest first."""
    return [one.id for one in reversed(list(ts.invoices.list(billable)))]


def heard(ts: Tallystick, *kinds: type[Event]) -> list[Event]:
    events: list[Event] = []
    for kind in kinds:
        ts.on(kind)(events.append)
    return events


def told(ts: Tallystick, kind: str) -> list[str]:
    return [one.message for one in ts.notifications.list("user:1", limit=100) if one.type == kind]


# -- payments that come -----------------------------------------------------------------------------------------------


def test_a_payment_of_what_is_due_settles_an_invoice_and_is_told_once(ts: Tallystick, clock: FixedClock) -> None:
    invoice = ts.invoices.create("acme", amount_cents=9900)
    events = heard(ts, PaymentSucceeded, InvoicePaid)
    clock.advance(days=2)
    payment = ts.invoices.record_payment(
        invoice.id, external_payment_id="pay_1", method="card", paid_at="2026-01-16T08:00:00Z"
    )
    assert (payment.amount, payment.method, payment.external_id) == (money("99 USD"), "card", "pay_1")
    paid = ts.invoices.get(invoice.id)
    assert (paid.status, paid.amount_due, paid.external_payment_id) == ("paid", money("0 USD"), "pay_1")
    assert paid.paid_at == payment.occurred_at
    assert [type(one) for one in events] == [PaymentSucceeded, InvoicePaid]
    assert ts.invoices.record_payment(invoice.id, external_payment_id="pay_1") == payment
    assert ts.invoices.record_payment(invoice.number or "", "99", external_payment_id="pay_1") == payment
    assert len(events) == 2
    assert_healthy(ts)


def test_parts_of_an_invoice_are_paid_one_after_another(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    events = heard(ts, InvoicePaid)
    ts.invoices.record_payment(invoice.id, "40 USD")
    half = ts.invoices.get(invoice.id)
    assert (half.status, half.amount_due, half.amount_paid) == ("pending", money("60 USD"), money("40 USD"))
    assert not events
    ts.invoices.record_payment(invoice.id, money("60 USD"))
    assert ts.invoices.get(invoice.id).status == "paid"
    assert len(events) == 1
    assert [one.amount for one in ts.invoices.payments(invoice.id)] == [money("40 USD"), money("60 USD")]


def test_what_is_paid_too_much_pays_the_next_invoice(ts: Tallystick) -> None:
    first = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(first.id, "130")
    assert ts.invoices.account("acme").credit == money("30 USD")
    second = ts.invoices.create("acme", amount_cents=2_000)
    assert (second.status, second.credit_applied, second.amount_due) == ("paid", money("20 USD"), money("0 USD"))
    third = ts.invoices.create("acme", amount_cents=2_000)
    assert (third.credit_applied, third.amount_due) == (money("10 USD"), money("10 USD"))
    assert ts.invoices.account("acme").credit == money("0 USD")
    assert_healthy(ts)


def test_an_invoice_that_was_paid_twice_gives_credit(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(invoice.id, external_payment_id="pay_1")
    with pytest.raises(Conflict, match="INV-2026-000001 is paid: nothing is due of it"):
        ts.invoices.record_payment(invoice.id)
    with pytest.raises(Conflict, match="give its amount and its external_payment_id"):
        ts.invoices.record_payment(invoice.id, "100")
    with pytest.raises(Conflict):
        ts.invoices.update(invoice.id, status="paid", external_payment_id="pay_2")
    ts.invoices.record_payment(invoice.id, "100", external_payment_id="pay_2")
    assert ts.invoices.account("acme").credit == money("100 USD")
    assert ts.invoices.get(invoice.id).amount_paid == money("100 USD")
    assert_healthy(ts)


def test_a_payment_of_a_voided_invoice_is_credit(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.void(invoice.id)
    ts.invoices.record_payment(invoice.id, "100", external_payment_id="pay_late")
    assert ts.invoices.get(invoice.id).status == "cancelled"
    assert ts.invoices.account("acme").credit == money("100 USD")
    assert_healthy(ts)


def test_an_external_id_stands_for_one_payment(ts: Tallystick) -> None:
    one, other = (ts.invoices.create("acme", amount_cents=10_000) for _ in range(2))
    ts.invoices.record_payment(one.id, "40", external_payment_id="pay_1")
    with pytest.raises(IdempotencyConflict, match="amount"):
        ts.invoices.record_payment(one.id, "41", external_payment_id="pay_1")
    with pytest.raises(IdempotencyConflict, match="invoice"):
        ts.invoices.record_payment(other.id, "40", external_payment_id="pay_1")
    assert ts.invoices.get(other.id).amount_paid == money("0 USD")


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "1 EUR", "much"])
def test_a_payment_is_a_whole_number_of_cents_in_the_invoices_currency(ts: Tallystick, amount: str) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    with pytest.raises(InvalidInput) as refused:
        ts.invoices.record_payment(invoice.id, amount)
    assert refused.value.field == "amount"


def test_a_draft_is_not_paid(ts: Tallystick) -> None:
    draft = ts.invoices.create("acme", amount_cents=10_000, draft=True)
    with pytest.raises(Conflict, match="Issue it first"):
        ts.invoices.record_payment(draft.id, "100", external_payment_id="pay_1")
    with pytest.raises(NotFound):
        ts.invoices.record_payment("INV-1")


def test_payments_at_once_are_all_counted(several: list[Tallystick]) -> None:
    ts = several[0]
    invoice = ts.invoices.create("acme", amount_cents=1_000)
    for _ in range(3):
        at_once(
            partial(one.invoices.record_payment, invoice.id, "4.50", external_payment_id="pay_1") for one in several
        )
    assert len(ts.invoices.payments(invoice.id)) == 1
    assert ts.invoices.get(invoice.id).amount_due == money("5.50 USD")
    at_once(
        partial(one.invoices.record_payment, invoice.id, "1.50", external_payment_id=f"more_{number}")
        for number, one in enumerate(several * 2)
    )
    assert ts.invoices.get(invoice.id).status == "paid"
    assert ts.invoices.account("acme").credit == money("6.50 USD")
    assert_healthy(ts)


def test_what_is_paid_credited_and_refunded_at_once_is_never_more_than_there_is(several: list[Tallystick]) -> None:
    ts = several[0]
    invoice = ts.invoices.create("acme", amount_cents=1_000)
    for _ in range(3):
        works: list[Callable[[], object]] = []
        for one in several:
            works += (
                partial(one.invoices.record_payment, invoice.id, "1.70"),
                partial(one.invoices.credit, invoice.id, "1.30", reason="Goodwill"),
                partial(one.invoices.refund, invoice.id, "0.90"),
                partial(one.invoices.credit, invoice.id, "1.10", reason="Goodwill", to="balance"),
            )
        at_once(partial(suppressed, work) for work in works)
    assert sum(one.amount.nanos for one in ts.invoices.credit_notes("acme")) <= invoice.total.nanos
    assert_healthy(ts)


def test_one_id_that_comes_for_two_invoices_at_once_is_recorded_of_one(several: list[Tallystick]) -> None:
    ts = several[0]
    for number in range(10):
        made = [ts.invoices.create("acme", amount_cents=1_000).id for _ in several]
        refused: list[Conflict] = []

        def pay(one: Tallystick, invoice: str, name: str = f"pay_{number}", lost: list[Conflict] = refused) -> None:
            try:
                one.invoices.record_payment(invoice, "10", external_payment_id=name)
            except Conflict as conflict:
                lost.append(conflict)

        at_once(partial(pay, one, invoice) for one, invoice in zip(several, made, strict=True))
        assert [type(one) for one in refused] == [IdempotencyConflict] * (len(several) - 1)
        assert sorted(str(ts.invoices.get(one).status) for one in made) == ["paid", *["pending"] * 3]


# -- refunds ----------------------------------------------------------------------------------------------------------


def test_a_refund_comes_with_a_credit_note(ts: Tallystick, clock: FixedClock) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    paid_at = ts.invoices.record_payment(invoice.id).occurred_at
    clock.advance(days=1)
    back = ts.invoices.refund(invoice.id, "30", reason="Two days without service", external_refund_id="re_1")
    assert (back.kind, back.amount, back.note) == ("refund", money("30 USD"), "Two days without service")
    partly = ts.invoices.get(invoice.id)
    assert (partly.status, partly.amount_refunded) == ("partially_refunded", money("30 USD"))
    assert (partly.amount_paid, partly.amount_due) == (money("100 USD"), money("0 USD"))
    note = ts.invoices.credit_notes(invoice=invoice.id)[0]
    assert (note.number, note.refunds, note.reason) == ("CN-2026-000001", back.amount, "Two days without service")
    ts.invoices.refund(invoice.id)
    assert (ts.invoices.get(invoice.id).status, ts.invoices.get(invoice.id).paid_at) == ("refunded", paid_at)
    assert [str(one.amount) for one in ts.invoices.credit_notes("acme")] == ["70.00 USD", "30.00 USD"]
    assert ts.invoices.credit_notes("acme")[0].reason == "Refund"
    assert_healthy(ts)


def test_no_more_is_refunded_than_was_paid_and_not_given_back(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    with pytest.raises(Conflict, match=r"INV-2026-000001 is pending: 0.00 USD of it can be paid back\.$"):
        ts.invoices.refund(invoice.id)
    ts.invoices.record_payment(invoice.id, "120")
    ts.invoices.credit(invoice.id, "50", reason="Goodwill", to="balance")
    with pytest.raises(Conflict, match=r"50.00 USD of it can be paid back; 50.01 USD was asked for"):
        ts.invoices.refund(invoice.id, "50.01")
    assert ts.invoices.refund(invoice.id).amount == money("50 USD")
    assert ts.invoices.account("acme").credit == money("70 USD")
    assert_healthy(ts)


def test_what_credit_has_paid_is_not_refunded_as_money(ts: Tallystick) -> None:
    ts.invoices.record_payment(ts.invoices.create("acme", amount_cents=100).id, "41")
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    assert invoice.credit_applied == money("40 USD")
    ts.invoices.record_payment(invoice.id)
    assert ts.invoices.refund(invoice.id).amount == money("60 USD")
    assert ts.invoices.get(invoice.id).status == "refunded"
    assert ts.invoices.credit(invoice.id, reason="The rest").credits == money("40 USD")
    assert_healthy(ts)


def test_a_part_that_was_refunded_leaves_the_rest_due(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.record_payment(invoice.id, "40")
    ts.invoices.refund(invoice.id)
    open_again = ts.invoices.get(invoice.id)
    assert (open_again.status, open_again.amount_due) == ("pending", money("60 USD"))
    ts.invoices.record_payment(invoice.id)
    assert ts.invoices.get(invoice.id).status == "partially_refunded"
    assert_healthy(ts)


def test_a_refund_with_an_id_is_recorded_once(ts: Tallystick) -> None:
    invoice, other = (ts.invoices.create("acme", amount_cents=10_000) for _ in range(2))
    for one in (invoice, other):
        ts.invoices.record_payment(one.id)
    back = ts.invoices.refund(invoice.id, "30", external_refund_id="re_1")
    assert ts.invoices.refund(invoice.id, "30", external_refund_id="re_1") == back
    assert ts.invoices.refund(invoice.id, external_refund_id="re_1") == back
    with pytest.raises(IdempotencyConflict, match="amount"):
        ts.invoices.refund(invoice.id, "31", external_refund_id="re_1")
    with pytest.raises(IdempotencyConflict, match="invoice"):
        ts.invoices.refund(other.id, "30", external_refund_id="re_1")
    assert len(ts.invoices.credit_notes("acme")) == 1
    assert ts.invoices.get(invoice.id).amount_refunded == money("30 USD")


def test_an_update_to_refunded_pays_back_all_that_is_left(ts: Tallystick) -> None:
    invoice = ts.invoices.create("acme", amount_cents=10_000)
    ts.invoices.update(invoice.id, status="paid")
    ts.invoices.refund(invoice.id, "30")
    refunded = ts.invoices.update(invoice.id, status="refunded")
    assert (refunded.status, refunded.amount_refunded) == ("refunded", money("100 USD"))
    assert ts.invoices.update(invoice.id, status="refunded") == refunded


# -- payments that fail -----------------------------------------------------------------------------------------------


def test_a_failed_payment_begins_the_grace_period_and_the_payment_ends_it(sold: Tallystick, clock: FixedClock) -> None:
    events = heard(sold, PaymentFailed, PaymentSucceeded)
    (invoice,) = invoices(sold)
    failed = sold.invoices.payment_failed(invoice, reason="card_declined")
    assert failed.status == "pending"
    assert sold.subscriptions.status("user:1") == "past_due"
    assert "invoice INV-2026-000001" in told(sold, "payment_failed")[0]
    clock.advance(days=1)
    sold.invoices.payment_failed(invoice, reason="card_declined")
    (failure,) = events
    assert isinstance(failure, PaymentFailed)
    assert failure.subscription is not None
    assert failure.invoice is not None
    assert (failure.invoice.id, failure.reason) == (invoice, "card_declined")
    assert len(told(sold, "payment_failed")) == 1
    sold.invoices.record_payment(invoice)
    assert sold.subscriptions.status("user:1") == "active"
    assert [type(one) for one in events] == [PaymentFailed, PaymentSucceeded]
    recovered = events[1]
    assert isinstance(recovered, PaymentSucceeded)
    assert recovered.payment is not None
    assert recovered.subscription is not None
    assert recovered.subscription.payment_failed_at is None
    (thanks,) = told(sold, "payment_success")
    assert thanks == (
        "We have received your payment of 100.00 USD. It was for invoice INV-2026-000001. "
        "Your subscription to pro is in order again."
    )


def test_the_grace_period_lasts_until_the_last_failed_invoice_is_paid(sold: Tallystick, clock: FixedClock) -> None:
    sold.invoices.payment_failed(invoices(sold)[0], failed_at="2026-02-14T12:00:00Z")
    clock.set("2026-02-15T12:00:00Z")
    sold.run_due_jobs()
    first, second = invoices(sold)
    sold.invoices.payment_failed(second)
    sold.invoices.record_payment(first)
    assert sold.subscriptions.status("user:1") == "past_due"
    sold.invoices.record_payment(second)
    assert sold.subscriptions.status("user:1") == "active"


def test_two_failed_invoices_that_are_paid_at_once_end_it(several: list[Tallystick], clock: FixedClock) -> None:
    ts, other = several[:2]
    ts.plans.create("pro", price=money("100 USD"))
    for number in range(5):
        ts.subscriptions.create(f"user:{number}", "pro")
    ts.run_due_jobs()
    clock.set("2026-02-15T12:00:00Z")
    ts.run_due_jobs()
    for number in range(5):
        for one in invoices(ts, f"user:{number}"):
            ts.invoices.payment_failed(one)
        first, second = invoices(ts, f"user:{number}")
        at_once(
            [partial(ts.invoices.record_payment, first), partial(other.invoices.record_payment, second)],
        )
        assert ts.subscriptions.status(f"user:{number}") == "active"
    assert_healthy(ts)


def test_the_payment_of_another_invoice_does_not_end_it(sold: Tallystick) -> None:
    by_hand = sold.invoices.create("user:1", amount_cents=100)
    sold.invoices.payment_failed(invoices(sold)[0])
    sold.invoices.record_payment(by_hand.id)
    assert sold.subscriptions.status("user:1") == "past_due"


def test_a_grace_period_that_was_begun_by_hand_is_ended_by_hand(sold: Tallystick) -> None:
    sold.subscriptions.payment_failed("user:1")
    (invoice,) = invoices(sold)
    sold.invoices.record_payment(invoice)
    assert sold.subscriptions.status("user:1") == "past_due"
    assert sold.subscriptions.payment_succeeded("user:1").payment_failed_at is None


@pytest.mark.parametrize("way", ["void", "credit"])
def test_what_was_to_be_given_back_of_an_invoice_is_dropped_with_it(
    ts: Tallystick, clock: FixedClock, way: str
) -> None:
    ts.plans.create("pro", price=money("100 USD"))
    ts.subscriptions.create("user:1", "pro")
    ts.run_due_jobs()
    (invoice,) = invoices(ts)
    clock.advance(days=3)
    ts.subscriptions.cancel("user:1", immediately=True, prorate=True)
    assert [one.amount < money("0 USD") for one in ts.invoices.items("user:1")] == [True]
    if way == "void":
        ts.invoices.void(invoice)
    else:
        ts.invoices.credit(invoice, reason="Changed their mind")
    assert list(ts.invoices.items("user:1")) == []
    assert_healthy(ts)


@pytest.mark.parametrize("way", ["void", "credit"])
def test_an_invoice_that_is_owed_no_more_ends_it_without_thanks(sold: Tallystick, way: str) -> None:
    (invoice,) = invoices(sold)
    sold.invoices.payment_failed(invoice)
    events = heard(sold, PaymentSucceeded, InvoicePaid)
    if way == "void":
        sold.invoices.void(invoice)
    else:
        sold.invoices.credit(invoice, reason="It was our fault")
    assert sold.invoices.get(invoice).status == "cancelled"
    assert sold.subscriptions.status("user:1") == "active"
    assert not events
    assert not told(sold, "payment_success")


def test_a_subscription_that_has_expired_meanwhile_is_in_force_again_with_the_payment(
    sold: Tallystick, clock: FixedClock
) -> None:
    (invoice,) = invoices(sold)
    sold.invoices.payment_failed(invoice)
    clock.set("2026-03-01T12:00:00Z")
    sold.run_due_jobs()
    assert sold.subscriptions.status("user:1") == "expired"
    renewed = heard(sold, SubscriptionRenewed)
    sold.invoices.record_payment(invoice)
    assert sold.subscriptions.status("user:1") == "active"
    sold.run_due_jobs()
    assert [sold.invoices.get(one).period_start for one in invoices(sold)][1:] == [clock.now()]
    assert len(renewed) <= 1


def test_an_invoice_without_a_subscription_that_fails_is_told_once(ts: Tallystick) -> None:
    invoice = ts.invoices.create("user:1", amount_cents=9900)
    events = heard(ts, PaymentFailed)
    for _ in range(2):
        ts.invoices.payment_failed(invoice.id, reason="card_declined")
    (failure,) = events
    assert isinstance(failure, PaymentFailed)
    assert (failure.subscription, failure.grace_until, failure.reason) == (None, None, "card_declined")
    (message,) = told(ts, "payment_failed")
    assert message == (
        "Your payment of 99.00 USD has failed. It was for invoice INV-2026-000001. Please check how you pay."
    )
    ts.invoices.record_payment(invoice.id)
    with pytest.raises(Conflict, match="no payment is expected"):
        ts.invoices.payment_failed(invoice.id)


def test_a_subscription_that_waits_for_its_first_payment_is_not_past_due_when_it_begins(ts: Tallystick) -> None:
    ts.plans.create("pro", price=money("100 USD"))
    ts.subscriptions.create("user:1", "pro", pending=True)
    (invoice,) = invoices(ts)
    ts.invoices.payment_failed(invoice)
    assert ts.subscriptions.status("user:1") == "pending"
    assert len(told(ts, "payment_failed")) == 1
    ts.invoices.record_payment(invoice)
    assert ts.subscriptions.status("user:1") == "active"
    assert_healthy(ts)


def test_an_ended_subscription_is_not_begun_again_by_a_late_payment(sold: Tallystick, clock: FixedClock) -> None:
    (invoice,) = invoices(sold)
    sold.invoices.payment_failed(invoice)
    clock.advance(days=40)
    sold.run_due_jobs()
    sold.subscriptions.cancel("user:1", immediately=True)
    clock.advance(days=40)
    sold.invoices.record_payment(invoice)
    assert sold.subscriptions.status("user:1") == "cancelled"
    sold.run_due_jobs()
    assert invoices(sold) == [invoice]
