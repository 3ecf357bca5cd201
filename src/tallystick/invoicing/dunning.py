"""Reminders of invoices that are owed, and what follows where they stay unpaid. Run with the jobs that are due.

Each step of an invoice is done once, by whoever writes its row. Of the messages whose time has come, only the latest is
sent: whoever was away for a month tells a customer once, not four times. The earlier steps are noted all the same.

An invoice is looked up by the step whose turn it is, which follows from its due date, and by nothing else: where that
was taken, those before it were too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, select, text, update

from tallystick.events import Event, InvoiceOverdue
from tallystick.invoicing.consequences import PAST_DUE, begin_grace, end_now
from tallystick.invoicing.reading import load_invoices
from tallystick.invoicing.steps import has_step, take_steps
from tallystick.invoicing.values import Invoice
from tallystick.job_runs import is_first_of_the_day
from tallystick.notify.composing import invoice_due, invoice_overdue
from tallystick.notify.outgoing import Told
from tallystick.period import from_micros, to_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.settings import InvoicingSettings

__all__ = ["Dunning", "archive_paid", "dun"]

_DAY = 86_400_000_000
_PAGE = 50
# Whoever ends subscriptions keeps others from changing theirs.
_ACTIONS_PAGE = 20
_OVERDUE, _CANCEL, _ARCHIVE = "overdue", "cancel", "archive"
# As the index of what is owed says it: a parameter would not be known to be the same.
_IS_OWED = text("invoices.status = 'pending'")
_IS_SETTLED = ("paid", "refunded", "partially_refunded")

Stopping = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Dunning:
    """What was done: reminders told, invoices that became overdue, grace periods begun and subscriptions ended."""

    reminders: int = 0
    overdue: int = 0
    past_due: int = 0
    cancelled: int = 0

    def __add__(self, other: Dunning) -> Dunning:
        return Dunning(
            self.reminders + other.reminders,
            self.overdue + other.overdue,
            self.past_due + other.past_due,
            self.cancelled + other.cancelled,
        )


class _Step(NamedTuple):
    """Something to be told so many days after an invoice is due, or before it (below zero)."""

    days: int
    name: str

    @property
    def offset(self) -> int:
        return self.days * _DAY

    @property
    def is_before(self) -> bool:
        return self.name.startswith("due:")


class _Page(NamedTuple):
    """What one transaction did: how many rows it found, what came of them, and the events to be sent."""

    found: int
    done: Dunning
    events: Sequence[Event]


def dun(engine: Engine, stopping: Stopping = lambda: False) -> Dunning:
    """Remind of invoices that are owed, and do what the settings say of those that stay unpaid, as of now."""
    done = Dunning()
    for job in _jobs(engine, engine.settings.invoicing, engine.now()):
        # Mostly nothing is due, which needs no turn on the lane.
        is_due = _owed(job.condition, 1)
        while not stopping() and engine.read(lambda connection, query=is_due: connection.execute(query).first()):  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            page = engine.lane.transact(job.work)
            engine.handlers.send(page.events)
            done += page.done
            if page.found < job.size:
                # What is missing of a page, if anything, another worker has.
                break
    return done


def archive_paid(engine: Engine) -> int:
    """Archive, once a day, invoices that were paid long enough ago. One that was taken back stays. Returns how many."""
    days = engine.settings.invoicing.archive_after_days
    if days is None or not is_first_of_the_day(engine, "archive_invoices"):
        return 0
    invoices, now = tables.invoices, engine.now()
    query = (
        select(invoices.c.id)
        .where(invoices.c.archived_at.is_(None), invoices.c.paid_at <= now - days * _DAY)
        .where(invoices.c.status.in_(_IS_SETTLED), ~has_step(_ARCHIVE))
        .order_by(invoices.c.paid_at, invoices.c.id)
        .limit(_PAGE)
        .with_for_update(skip_locked=True)
    )

    def work(connection: Connection) -> int:
        ids = list(connection.execute(query).scalars())
        taken = [one for one, _ in take_steps(connection, [(one, _ARCHIVE) for one in ids], now)]
        connection.execute(update(invoices).where(invoices.c.id.in_(taken)).values(archived_at=now))
        return len(ids)

    archived = 0
    while True:
        found = engine.lane.transact(work)
        archived += found
        if found < _PAGE:
            return archived


class _Job(NamedTuple):
    """Something that is done of invoices that are owed and meet a condition, page by page."""

    condition: ColumnElement[bool]
    work: Callable[[Connection], _Page]
    size: int


def _jobs(engine: Engine, settings: InvoicingSettings, now: int) -> Iterator[_Job]:
    """Return what is to be done, in the order in which an invoice comes to it."""
    steps = _steps(settings)
    for number in range(len(steps)):
        yield _telling(engine, steps, number, now)
    if settings.past_due_after_days is not None:
        yield _acting(engine, PAST_DUE, settings.past_due_after_days, now)
    if settings.cancel_after_days is not None:
        yield _acting(engine, _CANCEL, settings.cancel_after_days, now)


def _steps(settings: InvoicingSettings) -> list[_Step]:
    """Return what customers are told of an invoice, in order. Of two at the same time the later one counts."""
    before = [_Step(-days, f"due:{days}") for days in settings.reminder_days_before]
    after = [_Step(days, f"overdue:{days}") for days in settings.overdue_reminder_days]
    return sorted([*before, _Step(0, _OVERDUE), *after], key=lambda one: one.days)


# -- telling ----------------------------------------------------------------------------------------------------------


def _telling(engine: Engine, steps: Sequence[_Step], number: int, now: int) -> _Job:
    """Tell of a step those whose turn it is: its time has come, and that of the next one has not."""
    due_at = tables.invoices.c.due_at
    step, past = steps[number], steps[: number + 1]
    is_turn = and_(due_at <= now - step.offset, ~has_step(step.name))
    if number + 1 < len(steps):
        is_turn = and_(is_turn, due_at > now - steps[number + 1].offset)

    def work(connection: Connection) -> _Page:
        rows = _locked(connection, is_turn, _PAGE)
        taken = take_steps(connection, [(row.id, one.name) for row in rows for one in past], now)
        invoices = load_invoices(connection, [row.id for row in rows if (row.id, step.name) in taken], now=now)
        told = [
            Told(_draft(invoice, step, now), _event(invoice, now) if (invoice.id, _OVERDUE) in taken else None)
            for invoice in invoices.values()
        ]
        heard = [one for one in told if one.draft is not None or one.event is not None]
        engine.outgoing.tell(connection, heard)
        done = Dunning(
            reminders=sum(one.draft is not None for one in heard) if step.name != _OVERDUE else 0,
            overdue=sum(one.event is not None for one in heard),
        )
        return _Page(len(rows), done, [one.event for one in heard if one.event is not None])

    return _Job(is_turn, work, _PAGE)


def _draft(invoice: Invoice, step: _Step, now: int) -> Any:
    """Return what a customer is told; None of a reminder whose time was over when the invoice was issued."""
    at, due_at = from_micros(now), invoice.due_at
    if due_at is None:
        return None
    if step.is_before:
        is_news = invoice.issued_at is None or to_micros(invoice.issued_at) < to_micros(due_at) + step.offset
        return invoice_due(invoice, at, -step.days) if is_news else None
    return invoice_overdue(invoice, at, step.days if step.name != _OVERDUE else 0, _days_overdue(invoice, now))


def _event(invoice: Invoice, now: int) -> InvoiceOverdue:
    return InvoiceOverdue(
        billable=invoice.billable, at=from_micros(now), invoice=invoice, days_overdue=_days_overdue(invoice, now)
    )


def _days_overdue(invoice: Invoice, now: int) -> int:
    return 0 if invoice.due_at is None else (now - to_micros(invoice.due_at)) // _DAY


# -- acting -----------------------------------------------------------------------------------------------------------


def _acting(engine: Engine, step: str, days: int, now: int) -> _Job:
    """Begin grace periods, or end subscriptions, of invoices that have been overdue for so many days."""
    invoices = tables.invoices.c
    is_due = and_(invoices.due_at <= now - days * _DAY, invoices.subscription_id.isnot(None), ~has_step(step))

    def work(connection: Connection) -> _Page:
        rows = _locked(connection, is_due, _ACTIONS_PAGE)
        taken = take_steps(connection, [(row.id, step) for row in rows], now)
        events: list[Event] = []
        acted = 0
        for row in rows:
            if (row.id, step) not in taken:
                continue
            if step == PAST_DUE:
                # It begins now: a worker that was away takes no day of it.
                found = begin_grace(engine, connection, row, failed_at=now)
            else:
                found = end_now(engine, connection, row)
            acted += bool(found)
            events += found
        done = Dunning(past_due=acted) if step == PAST_DUE else Dunning(cancelled=acted)
        return _Page(len(rows), done, events)

    return _Job(is_due, work, _ACTIONS_PAGE)


def _owed(condition: ColumnElement[bool], size: int) -> Select[Any]:
    """Return the query for invoices that are owed, those that are due first."""
    invoices = tables.invoices
    return select(invoices).where(_IS_OWED, condition).order_by(invoices.c.due_at, invoices.c.id).limit(size)


def _locked(connection: Connection, condition: ColumnElement[bool], size: int) -> Sequence[Any]:
    """Read invoices that are owed and lock them, without those that others have locked."""
    return connection.execute(_owed(condition, size).with_for_update(skip_locked=True)).all()
