"""The run that bills subscriptions: each billing instant that has come, once, in order.

A page of subscriptions is one transaction. Its rows are locked, those that another worker has are passed over, and the
cursor of each (`billed_until`) moves on with what was written; so any number of workers may run, one may die, and what
was missed for a week is caught up instant by instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, bindparam, exists, select, update

from tallystick.errors import StorageError
from tallystick.events import Event, InvoiceCreated, InvoicePaid, SubscriptionExpired, SubscriptionRenewed
from tallystick.gateways.driver import NullDriver
from tallystick.identity import new_id
from tallystick.invoicing.accruing import reversals_after, write_items
from tallystick.invoicing.details import Addressee, addressees
from tallystick.invoicing.discounts import holding_discounts, load_discounts, use_discounts
from tallystick.invoicing.fees import FeeItem, activation_item, fee_item, first_fee
from tallystick.invoicing.gathering import (
    Waiting,
    WaitingItem,
    is_waiting_anywhere,
    move_use,
    take_use,
    use_of_invoices,
    waiting_items,
)
from tallystick.invoicing.issuing import Draft, issue, lock_billing_accounts, write_drafts
from tallystick.invoicing.lines import Charge, charge_lines
from tallystick.invoicing.reading import load_invoices
from tallystick.invoicing.values import Invoice
from tallystick.money import minor_unit
from tallystick.notify.composing import Draft as NotificationDraft
from tallystick.notify.composing import invoice_created, subscription_expired
from tallystick.notify.outgoing import Told
from tallystick.period import MAX_MICROS, from_micros, to_micros
from tallystick.plans.cycle import (
    BillingInstant,
    Fee,
    Span,
    effective_end,
    fee_at,
    fee_period,
    next_billing_instant,
    usage_month,
)
from tallystick.plans.loading import load_terms
from tallystick.plans.terms import Subscription, SubscriptionStatus, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "BillingRun",
    "Page",
    "bill_due_subscriptions",
    "bill_page",
    "bill_stragglers",
    "bill_waiting",
    "next_run_at",
    "stragglers",
    "told_of_new_invoice",
]

_PAGE = 50
_DAY = 86_400_000_000
# Less than any month.
_SPAN = 28 * _DAY


@dataclass(frozen=True, slots=True)
class BillingRun:
    """What a run did: how many invoices it made, how many periods were renewed, how many subscriptions have expired.

    `invoices` has those that it made, where they were to be kept.
    """

    made: int = 0
    renewals: int = 0
    expirations: int = 0
    invoices: tuple[Invoice, ...] = ()

    def __add__(self, other: BillingRun) -> BillingRun:
        return BillingRun(
            self.made + other.made,
            self.renewals + other.renewals,
            self.expirations + other.expirations,
            (*self.invoices, *other.invoices),
        )


def bill_due_subscriptions(
    engine: Engine,
    *,
    until: int | None = None,
    billable: str | None = None,
    keeps_invoices: bool = False,
    stopping: Callable[[], bool] | None = None,
) -> BillingRun:
    """Carry out every billing instant up to now, or up to `until` (µs), of all subscriptions or of one billable's.

    `keeps_invoices` returns the invoices that were made, which takes memory for each. `stopping` is asked before each
    page; once it says yes, the rest is left for the next run.

    A subscription that cannot be billed, whatever the reason, keeps no other from being billed: it is passed over in
    this run, and the first such error is raised when all others are done.
    """
    done = BillingRun()
    limit = engine.now() if until is None else min(until, engine.now())
    failed: dict[str, Exception] = {}
    while not (stopping is not None and stopping()):
        try:
            page = _one_page(engine, limit, billable, failed)
        except StorageError:
            raise
        except Exception:
            # One of the page is at fault: each has a transaction of its own, and the rest goes on.
            engine.logger.exception("Billing a page of subscriptions failed; they are billed one by one.")
            page = _one_by_one(engine, limit, billable, failed)
        if page is None:
            break
        engine.handlers.send(page.events)
        done += page.run if keeps_invoices else replace(page.run, invoices=())
    for error in failed.values():
        raise error
    return done


def _one_page(engine: Engine, limit: int, billable: str | None, failed: Mapping[str, Exception]) -> Page | None:
    return engine.lane.transact(
        lambda connection: bill_page(engine, connection, limit, billable, passed_over=tuple(failed))
    )


def _one_by_one(engine: Engine, limit: int, billable: str | None, failed: dict[str, Exception]) -> Page:
    """Bill the subscriptions of the next page each on its own, and note those that fail."""
    due = engine.read(lambda connection: connection.execute(_due_query(limit, billable, tuple(failed))).all())
    done = Page(BillingRun(), [])
    for row in due:
        try:
            page = engine.lane.transact(
                lambda connection, only=row.id: bill_page(engine, connection, limit, billable, only=only)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            )
        except StorageError:
            raise
        except Exception as error:
            engine.logger.exception("Subscription %s of %s cannot be billed.", row.id, row.billable)
            failed[row.id] = error
        else:
            if page is not None:
                done = Page(done.run + page.run, [*done.events, *page.events])
    return done


def _due_query(limit: int, billable: str | None, passed_over: Sequence[str]) -> Any:
    subscriptions = tables.subscriptions.c
    conditions = [subscriptions.next_billing_at.isnot(None), subscriptions.next_billing_at <= limit]
    if billable is not None:
        conditions.append(subscriptions.billable == billable)
    if passed_over:
        conditions.append(subscriptions.id.notin_(passed_over))
    return (
        select(subscriptions.id, subscriptions.billable, subscriptions.billed_until, subscriptions.next_billing_at)
        .where(*conditions)
        .order_by(subscriptions.next_billing_at, subscriptions.id)
        .limit(_PAGE)
    )


def bill_stragglers(
    engine: Engine,
    *,
    billable: str | None = None,
    keeps_invoices: bool = False,
    stopping: Callable[[], bool] | None = None,
) -> BillingRun:
    """Invoice what waits of billables none of whose subscriptions goes on: late use, and what was added by hand."""
    done = BillingRun()
    wanted = engine.read(lambda connection: stragglers(connection, engine.now(), billable))
    for start in range(0, len(wanted), _PAGE):
        if stopping is not None and stopping():
            break
        some = wanted[start : start + _PAGE]
        page = engine.lane.transact(lambda connection, some=some: bill_waiting(engine, connection, some))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        engine.handlers.send(page.events)
        done += page.run if keeps_invoices else replace(page.run, invoices=())
    return done


def next_run_at(engine: Engine, subscription: Subscription, terms: Terms, billed_until: int) -> int | None:
    """Return when a subscription is to be billed next (µs); None: never, as things stand."""
    grace = engine.settings.billing.payment_failure_grace_period_days
    zone = terms.billing_zone(subscription)
    instant = next_billing_instant(subscription, zone, after=billed_until, grace_period_days=grace)
    return None if instant is None else _run_at(engine, subscription, instant)


def _run_at(engine: Engine, subscription: Subscription, instant: BillingInstant) -> int:
    if instant.is_end:
        return instant.at
    ahead = engine.settings.invoicing.days_before * _DAY
    return max(instant.at - ahead, min(instant.at, to_micros(subscription.created_at)))


@dataclass(slots=True)
class _Due:
    """One billing instant of one subscription, while it is carried out. `is_first_payment`: a pending one is billed."""

    subscription: Subscription
    terms: Terms
    at: int
    cut: int
    is_end: bool = False
    is_first_payment: bool = False
    fee: Fee | None = None
    others: tuple[str, ...] = ()
    bills_overage: bool = True
    drafts: list[Draft] = field(default_factory=list)

    @property
    def billable(self) -> str:
        return self.subscription.billable

    @property
    def waiting(self) -> Waiting:
        return Waiting(self.billable, self.at, self.cut, self.others, self.bills_overage)


class Page(NamedTuple):
    """What one transaction did, and the events to be sent after its commit."""

    run: BillingRun
    events: list[Event]


class _Asked(NamedTuple):
    """What an invoice is asked of, at an instant (µs); for a subscription's period, where it is one's."""

    waiting: Waiting
    at: int
    subscription_id: str | None = None
    period: Span | None = None


class _Known(NamedTuple):
    """What is known of the accounts of a page before its invoices are made."""

    terms: Mapping[str, Terms]
    addressed: Mapping[str, Addressee]
    discounts: Mapping[str, list[Any]]
    carried: Mapping[tuple[str, str], int]
    # What the invoices of this page have taken and used so far.
    taken: set[str]
    used: Counter[str]
    discounted: dict[str, int]


def bill_page(
    engine: Engine,
    connection: Connection,
    limit: int,
    billable: str | None = None,
    *,
    passed_over: Sequence[str] = (),
    only: str | None = None,
) -> Page | None:
    """Carry out one instant of each of the subscriptions that are due next, or of one; None where none is."""
    query = _due_query(limit, billable, passed_over)
    if only is not None:
        query = query.where(tables.subscriptions.c.id == only)
    query = query.with_for_update(skip_locked=True)
    rows = connection.execute(query).all()
    if not rows:
        return None
    # Not so far ahead that one of these had its next instant before another's: numbers follow the order of instants.
    rows = [row for row in rows if row.next_billing_at < rows[0].next_billing_at + _SPAN]
    now = engine.now()
    accounts = load_terms(connection, sorted({row.billable for row in rows}), engine.terms_policy)
    by_id = {one.id: one for terms in accounts.values() for one in terms.subscriptions}
    due: list[_Due] = []
    cursors: list[dict[str, Any]] = []
    for row in rows:
        # One that was there before it was billed here: billing begins with what comes next.
        billed_until = now if row.billed_until is None else row.billed_until
        found = _next_due(engine, by_id[row.id], accounts[row.billable], billed_until, now, limit)
        if found is None:
            cursors.append(_cursor(engine, by_id[row.id], accounts[row.billable], billed_until, None))
        else:
            due.append(found)
    known = _known(engine, connection, {one.billable: one.terms for one in due})
    write_items(connection, [*_fees(due), *_reversals(connection, due)], now)
    drafts = _drafts(connection, due, known)
    paid = _write(engine, connection, drafts, known, now)
    cursors += [_moved(engine, one) for one in due]
    _save_cursors(connection, cursors)
    return _told(engine, connection, known, due, drafts, paid, now)


def bill_waiting(engine: Engine, connection: Connection, billables: Sequence[str]) -> Page:
    """Invoice whatever waits of billables now, whether or not a subscription of theirs is due."""
    now = engine.now()
    terms = load_terms(connection, sorted(billables), engine.terms_policy)
    known = _known(engine, connection, terms)
    asked = [_Asked(_all_that_waits(engine, billable, now), now) for billable in terms]
    drafts = [draft for some in _drafted(connection, known, asked) for draft in some]
    paid = _write(engine, connection, drafts, known, now)
    return _told(engine, connection, known, (), drafts, paid, now)


def _all_that_waits(engine: Engine, billable: str, now: int) -> Waiting:
    # Also what was used at this very instant.
    return Waiting(billable, now, now + 1, bills_overage=bills_overage(engine))


def stragglers(connection: Connection, now: int, billable: str | None) -> list[str]:
    """Return of whom something waits, and no subscription goes on."""
    subscriptions = tables.subscriptions
    found: set[str] = set()
    for table, is_due in (
        (tables.invoice_items, tables.invoice_items.c.due_at <= now),
        (tables.usage_charges, tables.usage_charges.c.occurred_at < now),
        (tables.overages, tables.overages.c.occurred_at < now),
    ):
        goes_on = exists().where(
            subscriptions.c.billable == table.c.billable, subscriptions.c.next_billing_at.isnot(None)
        )
        query = select(table.c.billable).where(is_waiting_anywhere(table), is_due, ~goes_on).distinct()
        if billable is not None:
            query = query.where(table.c.billable == billable)
        found.update(connection.execute(query).scalars())
    return sorted(found)


def _write(engine: Engine, connection: Connection, drafts: Sequence[Draft], known: _Known, now: int) -> list[str]:
    """Write invoices, issued or as drafts, and give them their items. Returns the ids of those that are paid."""
    paid: list[str] = []
    if engine.settings.invoicing.finalize:
        paid = issue(connection, engine, drafts, now)
    else:
        write_drafts(connection, drafts, now)
    _give_items(connection, drafts, known.discounted)
    return paid


def _next_due(
    engine: Engine, subscription: Subscription, terms: Terms, billed_until: int, now: int, limit: int
) -> _Due | None:
    """Return what is to be done of a subscription; None where it is nothing, as things stand."""
    grace = engine.settings.billing.payment_failure_grace_period_days
    zone = terms.billing_zone(subscription)
    if subscription.is_pending:
        fee = first_fee(subscription, zone) if subscription.activation_invoice_id is None else None
        if fee is None:
            return None
        return _Due(subscription, terms, now, now, is_first_payment=True, fee=fee, bills_overage=bills_overage(engine))
    instant = next_billing_instant(subscription, zone, after=billed_until, grace_period_days=grace)
    if instant is None:
        return None
    cut = _run_at(engine, subscription, instant)
    if cut > limit:
        return None
    fee = None if instant.is_end else fee_at(subscription, zone, instant.at, grace_period_days=grace)
    # What other subscriptions that go on have used is billed by themselves.
    others = tuple(
        one.id for one in terms.subscriptions if one.id != subscription.id and effective_end(one, grace) > instant.at
    )
    return _Due(
        subscription,
        terms,
        instant.at,
        cut,
        is_end=instant.is_end,
        fee=fee,
        others=others,
        bills_overage=bills_overage(engine),
    )


def bills_overage(engine: Engine) -> bool:
    """Say whether overage is put on invoices: where no driver charges it."""
    return isinstance(engine.driver, NullDriver)


def _fees(due: Iterable[_Due]) -> Iterator[FeeItem]:
    for one in due:
        if one.fee is not None:
            is_first = one.is_first_payment
            yield (
                activation_item(one.subscription, one.fee, one.at) if is_first else fee_item(one.subscription, one.fee)
            )


def _reversals(connection: Connection, due: Iterable[_Due]) -> Iterator[FeeItem]:
    """Give back what was billed ahead for periods that do not come, as a grace period has run out."""
    for one in due:
        ends_at = one.subscription.ends_at
        if one.is_end and (ends_at is None or to_micros(ends_at) > one.at):
            yield from reversals_after(connection, one.subscription, one.at)


def _known(engine: Engine, connection: Connection, terms: Mapping[str, Terms]) -> _Known:
    # Two runs that bill one account wait for each other here, before anything is read of what waits. Where nothing was
    # invoiced before, there is an account to wait at from now on.
    names = [(billable, one.policy.currency) for billable, one in terms.items()]
    lock_billing_accounts(connection, names, engine.now())
    accounts = tables.billing_accounts.c
    query = select(accounts.billable, accounts.currency, accounts.carried).where(accounts.billable.in_(terms))
    carried = connection.execute(query.order_by(accounts.billable, accounts.currency).with_for_update())
    return _Known(
        terms,
        addressees(engine, connection, terms),
        load_discounts(connection, terms),
        {(billable, currency): amount for billable, currency, amount in carried},
        set(),
        Counter(),
        {},
    )


def _drafts(connection: Connection, due: Sequence[_Due], known: _Known) -> list[Draft]:
    """Put what waits on invoices, each thing on one."""
    asked = [_Asked(one.waiting, one.at, one.subscription.id, _period(one)) for one in due]
    for one, drafts in zip(due, _drafted(connection, known, asked), strict=True):
        one.drafts = drafts
    return [draft for one in due for draft in one.drafts]


def _drafted(connection: Connection, known: _Known, asked: Sequence[_Asked]) -> list[list[Draft]]:
    """Take what waits. Returns for each who asks, in order, an invoice in each currency in which it is worth one."""
    waiting = [one.waiting for one in asked]
    items = waiting_items(connection, waiting)
    taken = {new_id("inv"): one for one in waiting}
    take_use(connection, taken)
    use = use_of_invoices(connection, taken)
    drafts = [
        list(
            _invoices(connection, known, one, items.get(one.waiting.billable, ()), invoice_id, use.get(invoice_id, {}))
        )
        for invoice_id, one in zip(taken, asked, strict=True)
    ]
    use_discounts(connection, known.used.elements())
    return drafts


def _invoices(
    connection: Connection,
    known: _Known,
    asked: _Asked,
    items: Sequence[WaitingItem],
    taken_by: str,
    use: Mapping[str, list[Charge]],
) -> Iterator[Draft]:
    """Make invoices of items and of the use that was taken, by an invoice that has the first currency of it."""
    billable = asked.waiting.billable
    found: dict[str, list[Charge]] = {}
    for item in items:
        if item.fits(asked.waiting) and item.charge.item_id not in known.taken:
            found.setdefault(item.currency, []).append(item.charge)
    first = min(use, default=None)
    for currency in sorted({*found, *use}):
        charges = [*found.get(currency, ()), *use.get(currency, ())]
        is_worth_it = _is_worth_an_invoice(charges, currency, known.carried.get((billable, currency), 0))
        invoice_id = taken_by if currency == first else new_id("inv")
        if currency in use and (currency != first or not is_worth_it):
            move_use(connection, taken_by, currency, invoice_id if is_worth_it else None)
        if is_worth_it:
            yield _draft(known, asked, invoice_id, currency, charges)


def _draft(known: _Known, asked: _Asked, invoice_id: str, currency: str, charges: Sequence[Charge]) -> Draft:
    """Put charges on an invoice, less what discounts take off, and note what it uses of both."""
    billable, subscription_id = asked.waiting.billable, asked.subscription_id
    holding = holding_discounts(known.discounts.get(billable, ()), currency, asked.at, known.used)
    lines, discounted = charge_lines(charges, holding)
    known.discounted.update(discounted)
    known.taken.update(charge.item_id for charge in charges if charge.item_id is not None)
    known.used.update(charge.discount_id for charge in lines if charge.discount_id is not None)
    return Draft(
        known.addressed[billable],
        currency,
        tuple(lines),
        id=invoice_id,
        subscription_id=subscription_id,
        period=asked.period,
    )


def _is_worth_an_invoice(charges: Sequence[Charge], currency: str, carried: int) -> bool:
    """Say whether at least the smallest coin is charged, or owed with what was carried; the rest goes on waiting."""
    unit = minor_unit(currency)
    charged = sum(max(0, charge.amount) for charge in charges)
    return charged >= unit or (bool(charges) and charged > 0 and carried + sum(one.amount for one in charges) >= unit)


def _period(one: _Due) -> Span | None:
    if one.is_first_payment:
        return None
    if one.fee is not None:
        return one.fee.period
    month = usage_month(one.subscription, one.terms.billing_zone(one.subscription), one.at - 1)
    return Span(month.start, one.at)


def _give_items(connection: Connection, drafts: Iterable[Draft], discounted: Mapping[str, int]) -> None:
    given = [
        {"of_item": charge.item_id, "of_invoice": draft.id, "of_discount": discounted.get(charge.item_id, 0)}
        for draft in drafts
        for charge in draft.charges
        if charge.item_id is not None
    ]
    items = tables.invoice_items
    if given:
        to_invoice = update(items).where(items.c.id == bindparam("of_item"))
        values: dict[str, Any] = {"invoice_id": bindparam("of_invoice"), "discounted": bindparam("of_discount")}
        connection.execute(to_invoice.values(**values), given)


def _moved(engine: Engine, one: _Due) -> dict[str, Any]:
    """Return where the cursor of a subscription stands after its instant was carried out."""
    if one.is_first_payment:
        start = to_micros(one.subscription.started_at) - 1
        invoice_id = one.drafts[0].id if one.drafts else None
        return _cursor(engine, one.subscription, one.terms, start, invoice_id)
    return _cursor(engine, one.subscription, one.terms, one.at, one.subscription.activation_invoice_id)


def _cursor(
    engine: Engine, subscription: Subscription, terms: Terms, billed_until: int, activation_invoice_id: str | None
) -> dict[str, Any]:
    return {
        "of_id": subscription.id,
        "of_billed_until": billed_until,
        "of_next": next_run_at(engine, subscription, terms, billed_until),
        "of_activation": activation_invoice_id or subscription.activation_invoice_id,
    }


def _save_cursors(connection: Connection, cursors: Sequence[dict[str, Any]]) -> None:
    subscriptions = tables.subscriptions
    moved = update(subscriptions).where(subscriptions.c.id == bindparam("of_id"))
    connection.execute(
        moved.values(
            billed_until=bindparam("of_billed_until"),
            next_billing_at=bindparam("of_next"),
            activation_invoice_id=bindparam("of_activation"),
        ),
        list(cursors),
    )


def _told(
    engine: Engine,
    connection: Connection,
    known: _Known,
    due: Sequence[_Due],
    drafts: Sequence[Draft],
    paid: Sequence[str],
    now: int,
) -> Page:
    """Write what customers and webhooks are told of a page, and return it."""
    invoices = load_invoices(connection, [draft.id for draft in drafts], now=now)
    told: list[Told] = []
    renewals = expirations = 0
    for one in due:
        life = _life_event(engine, one)
        renewals += isinstance(life, SubscriptionRenewed)
        expirations += isinstance(life, SubscriptionExpired)
        if life is not None:
            told.append(Told(_expired_in_grace(one, life), life))
    for draft in drafts:
        invoice = invoices[draft.id]
        told.append(told_of_new_invoice(invoice, now))
        if invoice.id in paid:
            told.append(Told(None, InvoicePaid(billable=invoice.billable, at=from_micros(now), invoice=invoice)))
    engine.outgoing.tell(connection, told, known.terms)
    made = tuple(invoices[draft.id] for draft in drafts)
    run = BillingRun(len(made), renewals, expirations, made)
    return Page(run, [one.event for one in told if one.event is not None])


def _life_event(engine: Engine, one: _Due) -> SubscriptionRenewed | SubscriptionExpired | None:
    """Return what became of the subscription at this instant: a further period has begun, or it has expired."""
    if one.is_first_payment:
        return None
    at, zone = from_micros(one.at), one.terms.billing_zone(one.subscription)
    subscription = one.subscription.seen_at(at)
    grace = engine.settings.billing.payment_failure_grace_period_days
    status = subscription.status(at, grace_period_days=grace)
    if one.is_end:
        if status is not SubscriptionStatus.EXPIRED:
            return None
        return SubscriptionExpired(billable=one.billable, at=at, subscription=subscription, ended_at=at)
    period = fee_period(subscription, zone, one.at)
    first = max(subscription.started_at, subscription.trial_ends_at or subscription.started_at)
    if period.start != one.at or at <= first or not status.is_in_force:
        return None
    ends = from_micros(period.end) if period.end < MAX_MICROS else None
    return SubscriptionRenewed(
        billable=one.billable, at=at, subscription=subscription, period_start=at, period_end=ends
    )


def _expired_in_grace(one: _Due, event: Event) -> NotificationDraft | None:
    """Tell of the end of a grace period; of an end that was known before, the clock tells."""
    if not isinstance(event, SubscriptionExpired) or one.subscription.ends_at == event.ended_at:
        return None
    return subscription_expired(event.subscription, event.at, ended_at=event.ended_at)


def told_of_new_invoice(invoice: Invoice, now: int) -> Told:
    """Return what is told of an invoice that was made: customers of one that was issued, webhooks of drafts too."""
    at = from_micros(now)
    event = InvoiceCreated(billable=invoice.billable, at=at, invoice=invoice)
    return Told(None if invoice.number is None else invoice_created(invoice, at), event)
