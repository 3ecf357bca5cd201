"""Making invoices when somebody asks: for a month, as a trial that leaves nothing behind, or as a look ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select

from tallystick.errors import InvalidInput
from tallystick.invoicing.billing_run import (
    BillingRun,
    bill_due_subscriptions,
    bill_page,
    bill_stragglers,
    bill_waiting,
    stragglers,
)
from tallystick.invoicing.values import Invoice, InvoiceStatus
from tallystick.period import PeriodKind, calendar_period, to_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Generation", "generate", "preview"]


@dataclass(frozen=True, slots=True)
class Generation:
    """The invoices that were made, or, in a `dry_run`, would be; their numbers are then only guesses."""

    invoices: tuple[Invoice, ...]
    renewals: int
    expirations: int
    dry_run: bool

    def __iter__(self) -> Iterator[Invoice]:
        return iter(self.invoices)

    def __len__(self) -> int:
        return len(self.invoices)


class _Undo(Exception):
    """Raised to leave nothing of a transaction; it carries what was found out."""

    def __init__(self, run: BillingRun) -> None:
        super().__init__("undone")
        self.run = run


def generate(engine: Engine, *, period: str | None, billable: str | None, dry_run: bool) -> Generation:
    """Make the invoices that are due, up to the end of a month where one is given."""
    until = engine.now() if period is None else min(engine.now(), _month_end(engine, period))
    if dry_run:
        run = _undone(engine, lambda connection: _all_pages(engine, connection, until, billable))
    else:
        run = bill_due_subscriptions(engine, until=until, billable=billable, keeps_invoices=True)
        run += bill_stragglers(engine, billable=billable, keeps_invoices=True)
    return Generation(run.invoices, run.renewals, run.expirations, dry_run)


def preview(engine: Engine, billable: str) -> Invoice | None:
    """Return the next invoice of a billable as it would be now; None where nothing is to be invoiced."""
    subscriptions = tables.subscriptions

    def look(connection: Connection) -> BillingRun:
        due = connection.execute(
            select(func.min(subscriptions.c.next_billing_at)).where(subscriptions.c.billable == billable)
        ).scalar()
        page = bill_waiting(engine, connection, [billable]) if due is None else None
        if due is not None:
            page = bill_page(engine, connection, max(due, engine.now()), billable)
        return BillingRun() if page is None else page.run

    run = _undone(engine, look)
    if not run.invoices:
        return None
    return replace(run.invoices[0], number=None, status=InvoiceStatus.DRAFT, issued_at=None, due_at=None, paid_at=None)


def _all_pages(engine: Engine, connection: Connection, until: int, billable: str | None) -> BillingRun:
    run = BillingRun()
    while (page := bill_page(engine, connection, until, billable)) is not None:
        run += page.run
    return run + bill_waiting(engine, connection, stragglers(connection, engine.now(), billable)).run


def _undone(engine: Engine, work: Callable[[Connection], BillingRun]) -> BillingRun:
    """Do something for real, and leave nothing of it."""

    def undo(connection: Connection) -> None:
        raise _Undo(work(connection))

    try:
        engine.lane.transact(undo)
    except _Undo as undone:
        return undone.run
    raise AssertionError("it is always undone")


def _month_end(engine: Engine, period: str) -> int:
    try:
        year, month = (int(part) for part in period.split("-"))
        inside = datetime(year, month, 15, tzinfo=UTC)
    except (ValueError, AttributeError):
        raise InvalidInput("period", period, 'Name a month as "2026-01".') from None
    end = calendar_period(PeriodKind.MONTHLY, inside, engine.settings.period.timezone).end
    return to_micros(end) if end is not None else engine.now()
