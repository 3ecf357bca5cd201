"""What becomes of a subscription with the payment of its invoices.

A payment that fails, and an invoice that stays overdue too long, begin the grace period of the invoice's subscription.
It ends when nothing is owed any more of all those of its invoices that had failed: paid, credited or voided. A grace
period that was begun by hand (`ts.subscriptions.payment_failed`) is ended by hand.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, and_, delete, exists, select, update

from tallystick.errors import Conflict
from tallystick.events import Event, PaymentFailed
from tallystick.invoicing.accruing import withdraw_credits
from tallystick.invoicing.reading import load_invoices, locked_invoice
from tallystick.invoicing.steps import has_step, take_steps
from tallystick.invoicing.values import Invoice, InvoiceStatus
from tallystick.notify.composing import payment_failed
from tallystick.notify.outgoing import Told
from tallystick.period import from_micros, to_micros
from tallystick.plans.revising import current_subscription, revise_in, terms_of
from tallystick.plans.revisions import Revision, activation, cancellation, payment_failure, payment_recovered
from tallystick.plans.terms import Subscription, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "PAST_DUE",
    "Consequence",
    "begin_grace",
    "end_now",
    "fail_payment",
    "follow_settlement",
    "follow_withdrawal",
]

PAST_DUE = "past_due"
"""The step of an invoice that was overdue too long."""

_FAILED = "payment_failed"


class Consequence(NamedTuple):
    """The subscription of an invoice, the events to be sent, and whether its grace period ended by that."""

    subscription: Subscription | None = None
    events: tuple[Event, ...] = ()
    has_recovered: bool = False


def follow_settlement(engine: Engine, connection: Connection, row: Any) -> Consequence:
    """Carry out what follows from an invoice that is paid: its subscription begins, or is in order again."""
    if row.subscription_id is None:
        return Consequence()
    terms = terms_of(engine, connection, row.billable)
    current = current_subscription(terms, from_micros(engine.now()), row.subscription_id)
    if current.is_pending and current.activation_invoice_id == row.id:
        begun, events = revise_in(
            engine, connection, row.subscription_id, lambda _, before, found, at: activation(before, found, at)
        )
        return Consequence(begun, tuple(events))
    return _recover(engine, connection, row, current)


def follow_withdrawal(engine: Engine, connection: Connection, row: Any) -> Consequence:
    """Carry out what follows from an invoice that was voided, or credited as a whole: nobody waits for it any more."""
    withdraw_credits(connection, row.id)
    if row.subscription_id is None:
        return Consequence()
    _forget_activation(connection, row.id)
    terms = terms_of(engine, connection, row.billable)
    current = current_subscription(terms, from_micros(engine.now()), row.subscription_id)
    return _recover(engine, connection, row, current)


def fail_payment(engine: Engine, name: str, *, reason: str | None, failed_at: int) -> None:
    """Note that a payment of an invoice failed; see `Invoices.payment_failed`."""

    def work(connection: Connection) -> list[Event]:
        row = locked_invoice(connection, name)
        if row.status != InvoiceStatus.PENDING:
            raise Conflict(f"Invoice {row.number or row.id} is {row.status}: no payment is expected of it.")
        is_first = bool(take_steps(connection, [(row.id, _FAILED)], engine.now()))
        events = begin_grace(engine, connection, row, failed_at=failed_at, reason=reason)
        if not events and is_first:
            # No grace period tells of it: there is no subscription in force, or it is past due already.
            at = from_micros(engine.now())
            invoice = _invoice(engine, connection, row.id)
            draft = payment_failed(row.billable, at, invoice=invoice, reason=reason)
            event = PaymentFailed(
                billable=row.billable, at=at, subscription=None, grace_until=None, invoice=invoice, reason=reason
            )
            engine.outgoing.tell(connection, [Told(draft, event)])
            return [event]
        return events

    engine.handlers.send(engine.lane.transact(work))


def begin_grace(
    engine: Engine, connection: Connection, row: Any, *, failed_at: int, reason: str | None = None
) -> list[Event]:
    """Begin the grace period of an invoice's subscription, unless it has begun. Returns the events to be sent.

    None are returned where it does not begin: there is no subscription, or it has ended or never begun.
    """
    if row.subscription_id is None:
        return []
    invoice = _invoice(engine, connection, row.id)
    grace = engine.settings.billing.payment_failure_grace_period_days

    def decide(_: Connection, before: Subscription, __: Terms, at: datetime) -> Revision | None:
        if before.is_pending or (before.ends_at is not None and before.ends_at <= at):
            return None
        return payment_failure(
            before, from_micros(failed_at), at, grace_period_days=grace, invoice=invoice, reason=reason
        )

    _, events = revise_in(engine, connection, row.subscription_id, decide)
    if events:
        take_steps(connection, [(row.id, _grace_step(failed_at))], engine.now())
    return events


def end_now(engine: Engine, connection: Connection, row: Any) -> list[Event]:
    """End the subscription of an invoice that stays unpaid, unless it has ended. Returns the events to be sent."""

    def decide(_: Connection, before: Subscription, __: Terms, at: datetime) -> Revision | None:
        if before.ends_at is not None and before.ends_at <= at:
            return None
        return cancellation(before, end=at, at=at, is_prorated=False)

    return revise_in(engine, connection, row.subscription_id, decide)[1]


def _recover(engine: Engine, connection: Connection, row: Any, current: Subscription) -> Consequence:
    """End the grace period that failed invoices began, where none of them is owed any more."""
    if current.payment_failed_at is None:
        return Consequence(current)
    grace = engine.settings.billing.payment_failure_grace_period_days

    def decide(inside: Connection, before: Subscription, _: Terms, at: datetime) -> Revision | None:
        # Asked with the subscription locked: of two last invoices that are paid at once, the later finds none open.
        if not _was_begun_by_invoice(inside, before) or _is_failed_one_open(inside, before.id, row.id):
            return None
        return payment_recovered(before, at, grace_period_days=grace)

    after, events = revise_in(engine, connection, current.id, decide)
    return Consequence(after, tuple(events), has_recovered=after.payment_failed_at is None)


def _forget_activation(connection: Connection, invoice_id: str) -> None:
    """Let a subscription that waited for an invoice wait for none, and charge no first fee for it."""
    subscriptions, items = tables.subscriptions, tables.invoice_items
    of_it = select(subscriptions.c.id).where(subscriptions.c.activation_invoice_id == invoice_id)
    asked = and_(
        items.c.invoice_id.is_(None), items.c.subscription_id.in_(of_it), items.c.key.startswith("activation:")
    )
    connection.execute(delete(items).where(asked))
    waited = update(subscriptions).where(
        subscriptions.c.activation_invoice_id == invoice_id, subscriptions.c.is_pending
    )
    connection.execute(waited.values(activation_invoice_id=None, next_billing_at=None))


def _was_begun_by_invoice(connection: Connection, subscription: Subscription) -> bool:
    if subscription.payment_failed_at is None:
        return False
    step = _grace_step(to_micros(subscription.payment_failed_at))
    of_subscription = tables.invoices.c.subscription_id == subscription.id
    return bool(connection.execute(select(exists().where(of_subscription, has_step(step)))).scalar())


def _is_failed_one_open(connection: Connection, subscription_id: str, but: str) -> bool:
    invoices = tables.invoices.c
    is_open = (
        invoices.subscription_id == subscription_id,
        invoices.status == InvoiceStatus.PENDING.value,
        invoices.id != but,
    )
    return bool(connection.execute(select(exists().where(*is_open, has_step(_FAILED, PAST_DUE)))).scalar())


def _grace_step(failed_at: int) -> str:
    """Return the step that says which invoice began a grace period: one that began otherwise has no such invoice."""
    return f"grace:{failed_at}"


def _invoice(engine: Engine, connection: Connection, invoice_id: str) -> Invoice:
    return load_invoices(connection, [invoice_id], now=engine.now())[invoice_id]
