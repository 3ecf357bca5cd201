"""`ts.overages`: what was used beyond limits and is charged, event by event."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, case, func, select, update

from tallystick.errors import Conflict, InvalidInput, NotFound
from tallystick.identity import billable_reference
from tallystick.invoicing.overage_charge import OverageCharge, OverageSync, OverageTotal
from tallystick.invoicing.overage_sync import sync_overages
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["OverageCharge", "Overages"]

_LIMIT_MAX = 10_000
_ID_LENGTH_MAX = 200


class Overages:
    """Lists and sums overage, and hands it to the billing driver where there is one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def totals(
        self,
        billable: object = None,
        is_synced: bool | None = None,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
    ) -> list[OverageTotal]:
        """Return the exact sum for each billable, period of its plan, and currency, in this order.

        Each says how much of it is on invoices, how much the gateway has charged, and how much nobody has yet. `start`
        and `end` restrict it to what happened in `[start, end)`.
        """
        overages = tables.overages.c
        grouped = (overages.billable, overages.period_start, overages.period_end, overages.period, overages.currency)
        query = (
            select(
                *grouped,
                func.count().label("charges"),
                func.sum(overages.tokens).label("tokens"),
                func.sum(overages.amount).label("amount"),
                _sum_where(overages.invoice_id.isnot(None)).label("on_invoices"),
                _sum_where(and_(overages.invoice_id.is_(None), overages.is_synced)).label("synced"),
            )
            .where(*_conditions(self._engine, billable, is_synced, start, end))
            .group_by(*grouped)
            .order_by(*grouped)
        )
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [
            OverageTotal(
                billable=row.billable,
                period=row.period,
                period_start=from_micros(row.period_start),
                period_end=from_micros(row.period_end),
                charges=int(row.charges),
                tokens=int(row.tokens),
                amount=Money.from_nanos(int(row.amount), row.currency),
                on_invoices=Money.from_nanos(int(row.on_invoices), row.currency),
                synced=Money.from_nanos(int(row.synced), row.currency),
            )
            for row in rows
        ]

    def list(
        self,
        billable: object = None,
        is_synced: bool | None = None,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        invoice_id: str | None = None,
    ) -> list[OverageCharge]:
        """Return overage charges in the order in which they happened; of one billable, only (un)synced, if asked.

        `start` and `end` restrict them to `[start, end)`, and `invoice_id` to those that an invoice charges.
        """
        overages = tables.overages
        conditions = _conditions(self._engine, billable, is_synced, start, end)
        if invoice_id is not None:
            conditions.append(overages.c.invoice_id == invoice_id)
        query = select(overages).where(*conditions).order_by(overages.c.occurred_at, overages.c.id)
        rows = self._engine.read(lambda connection: connection.execute(query).all())
        return [OverageCharge.from_row(row) for row in rows]

    def get(self, id: str) -> OverageCharge:  # noqa: A002  # the word of the other namespaces
        """Return an overage charge.

        Raises:
            NotFound: there is none.
        """
        return self._engine.read(lambda connection: _found(connection, id))

    def sync(self, limit: int = 50) -> OverageSync:
        """Hand up to so many overages to the billing driver, and say what became of them.

        What is on an invoice is never sent, and what was sent is never put on one. What failed before is tried again
        now. Without a driver nothing is sent: invoices charge it, and the answer says so. Safe in several processes at
        once, and to be cut off anywhere: an overage is sent again only with the same idempotency key, its id.

        Raises:
            InvalidInput: `limit` is no number from 1 to 10,000.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LIMIT_MAX:
            raise InvalidInput("limit", limit, f"Give 1 to {_LIMIT_MAX:,}.")
        return sync_overages(self._engine, limit, is_retried_at_once=True)

    def mark_as_synced(self, id: str, sync_id: str) -> OverageCharge:  # noqa: A002  # as above
        """Note that an overage was charged elsewhere, as `sync_id`, and return it. It is on no invoice then, nor sent.

        Doing it twice with the same id is harmless.

        Raises:
            NotFound: there is none.
            Conflict: an invoice charges it, or it was charged as something else.
            InvalidInput: `sync_id` is no id.
        """
        if not isinstance(sync_id, str) or not 1 <= len(sync_id.strip()) <= _ID_LENGTH_MAX or not sync_id.isprintable():
            raise InvalidInput(
                "sync_id", sync_id, f"Give the gateway's id: 1 to {_ID_LENGTH_MAX} printable characters."
            )
        overages, now, named = tables.overages, self._engine.now(), sync_id.strip()
        values = {
            "is_synced": True,
            "sync_id": named,
            "synced_at": now,
            # It is in nobody's reach any more: neither an invoice's nor a worker's.
            "sync_started_at": func.coalesce(overages.c.sync_started_at, now),
            "sync_error": None,
        }
        may_be_marked = and_(overages.c.id == id, overages.c.invoice_id.is_(None), overages.c.synced_at.is_(None))

        def mark(connection: Connection) -> OverageCharge:
            connection.execute(update(overages).where(may_be_marked).values(**values))
            marked = _found(connection, id)
            if marked.invoice_id is not None:
                raise Conflict(f"Overage {id} is charged by invoice {marked.invoice_id}: it would be paid twice.")
            if marked.sync_id != named:
                raise Conflict(f"Overage {id} was charged as {marked.sync_id!r}, not as {named!r}.")
            return marked

        return self._engine.lane.transact(mark)


def _conditions(
    engine: Engine, billable: object, is_synced: bool | None, start: str | datetime | None, end: str | datetime | None
) -> list[ColumnElement[bool]]:
    overages = tables.overages.c
    conditions: list[ColumnElement[bool]] = []
    if billable is not None:
        conditions.append(overages.billable == billable_reference(billable, engine.billable_resolver))
    if is_synced is not None:
        conditions.append(overages.is_synced == is_synced)
    if start is not None:
        conditions.append(overages.occurred_at >= engine.instant(start, field="start"))
    if end is not None:
        conditions.append(overages.occurred_at < engine.instant(end, field="end"))
    return conditions


def _found(connection: Connection, overage_id: str) -> OverageCharge:
    overages = tables.overages
    row = connection.execute(select(overages).where(overages.c.id == overage_id)).first()
    if row is None:
        raise NotFound("overage", overage_id, "See ts.overages.list(billable).")
    return OverageCharge.from_row(row)


def _sum_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, tables.overages.c.amount), else_=0))
