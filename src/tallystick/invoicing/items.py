"""What waits for a payer's next invoice besides use: fees, prorations, and what an operator adds by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, select

from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.invoicing.billing_run import bill_waiting
from tallystick.invoicing.details import addressees
from tallystick.invoicing.input import checked_text
from tallystick.invoicing.values import Invoice, LineKind
from tallystick.invoicing.wording import line_words
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.plans.revising import current_subscription, terms_of
from tallystick.quantity import MILLIONTHS, from_millionths, to_millionths
from tallystick.storage import tables
from tallystick.storage.rows import insert_into

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["InvoiceItem", "add_item", "bill_now", "items_of", "remove_item"]

_KEY_LENGTH_MAX = 200
_KEY_PREFIX = "item:"


@dataclass(frozen=True, slots=True)
class InvoiceItem:
    """One thing that waits for an invoice: it is put on the first one that is made for `due_at` or later.

    `amount` is that of all its `quantity`, below zero where it takes something off. `description` is what the line
    will say.
    """

    id: str
    billable: str
    kind: LineKind
    description: str
    quantity: int | Decimal
    amount: Money
    subscription_id: str | None
    period_start: datetime | None
    period_end: datetime | None
    due_at: datetime
    created_at: datetime

    @property
    def amount_cents(self) -> int:
        """The amount in minor units, rounded half-even: for display."""
        return self.amount.minor_units()

    @classmethod
    def from_row(cls, row: Any, locale: str | None) -> InvoiceItem:
        """Read a row of `invoice_items`; what it is called is said in the words of a language."""
        details = json.loads(row.details) if row.details else {}
        return cls(
            id=row.id,
            billable=row.billable,
            kind=LineKind(row.kind),
            description=row.description or line_words(locale, str(details.get("words", "manual")), details),
            quantity=from_millionths(row.quantity),
            amount=Money.from_nanos(row.amount, row.currency),
            subscription_id=row.subscription_id,
            period_start=None if row.period_start is None else from_micros(row.period_start),
            period_end=None if row.period_end is None else from_micros(row.period_end),
            due_at=from_micros(row.due_at),
            created_at=from_micros(row.created_at),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        start, end = (None if at is None else at.isoformat() for at in (self.period_start, self.period_end))
        return {
            "id": self.id,
            "billable": self.billable,
            "kind": self.kind.value,
            "description": self.description,
            "quantity": str(self.quantity),
            "amount": self.amount.to_dict(),
            "amount_cents": self.amount_cents,
            "subscription_id": self.subscription_id,
            "period_start": start,
            "period_end": end,
            "due_at": self.due_at.isoformat(),
            "created_at": self.created_at.isoformat(),
        }


def add_item(
    engine: Engine,
    billable: str,
    amount: Money | Decimal | int | str,
    description: str,
    *,
    quantity: int | Decimal | str,
    currency: str | None,
    due_at: str | datetime | None,
    subscription: str | None,
    idempotency_key: str | None,
) -> InvoiceItem:
    """Let something wait for the next invoice of a billable."""
    text = checked_text("description", description)
    millionths = to_millionths(quantity, least=1)
    due, now = engine.instant(due_at, field="due_at"), engine.now()
    key = None if idempotency_key is None else _checked_key(idempotency_key)

    def work(connection: Connection) -> InvoiceItem:
        terms = terms_of(engine, connection, billable)
        unit = _money(amount, currency, terms.policy.currency)
        total = _total(unit, millionths, quantity)
        row = {
            "id": new_id("itm"),
            "billable": billable,
            "subscription_id": None,
            "plan_version_id": None,
            "invoice_id": None,
            "kind": LineKind.ITEM.value,
            "description": text,
            "details": None,
            "quantity": millionths,
            "amount": total,
            "discounted": 0,
            # Somebody has weighed what is given back: no percentage makes less of it.
            "is_discountable": total > 0,
            "currency": unit.currency,
            "period_start": None,
            "period_end": None,
            "due_at": due,
            "key": key,
            "created_at": now,
        }
        if subscription is not None:
            followed = current_subscription(terms, from_micros(now), subscription)
            row |= {"subscription_id": followed.id, "plan_version_id": followed.plan.id}
        return InvoiceItem.from_row(_insert(connection, row), None)

    return engine.lane.transact(work)


def _insert(connection: Connection, row: dict[str, Any]) -> Any:
    """Write an item, or find the one that its key stands for. Returns the row that is there."""
    items = tables.invoice_items
    added = insert_into(connection, items).values(**row).on_conflict_do_nothing()
    same = items.c.id == row["id"]
    # Of two that say the same key at once, the second waits, and then sees what the first has added.
    if connection.execute(added, execution_options={"preserve_rowcount": True}).rowcount != 1:
        same = and_(items.c.billable == row["billable"], items.c.key == row["key"])
    found = connection.execute(select(items).where(same)).first()
    if found is None:
        raise Conflict("The item that this idempotency key stood for was removed just now. Add it again.")
    _require_same(found, row)
    return found


def items_of(engine: Engine, billable: str) -> list[InvoiceItem]:
    """Return what waits of a billable besides use, in the order in which it is due."""
    items = tables.invoice_items
    query = select(items).where(items.c.billable == billable, items.c.invoice_id.is_(None))

    def read(connection: Connection) -> list[InvoiceItem]:
        terms = terms_of(engine, connection, billable)
        locale = addressees(engine, connection, {billable: terms})[billable].locale
        rows = connection.execute(query.order_by(items.c.due_at, items.c.created_at, items.c.id))
        return [InvoiceItem.from_row(row, locale) for row in rows]

    return engine.read_snapshot(read)


def remove_item(engine: Engine, item_id: str) -> InvoiceItem:
    """Take back what was added by hand and waits.

    Raises:
        NotFound: no such item. Conflict: it stands on an invoice, or was not added by hand.
    """
    items = tables.invoice_items
    query = select(items).where(items.c.id == item_id)

    def work(connection: Connection) -> InvoiceItem:
        # Whoever makes an invoice of it has locked it too: afterwards it is either on the invoice, or waits.
        row = connection.execute(query.with_for_update()).first()
        if row is None:
            raise NotFound("invoice item", item_id, "List what waits with ts.invoices.items(payer).")
        if row.kind != LineKind.ITEM:
            raise Conflict(f"Item {item_id} is a {row.kind} that follows from a subscription: add one that offsets it.")
        if row.invoice_id is not None:
            raise Conflict(f"Item {item_id} stands on invoice {row.invoice_id}: void that, or correct it.")
        connection.execute(delete(items).where(items.c.id == item_id))
        return InvoiceItem.from_row(row, None)

    return engine.lane.transact(work)


def bill_now(engine: Engine, billable: str) -> tuple[Invoice, ...]:
    """Invoice at once whatever waits of a billable: an invoice for each currency, none where nothing waits."""
    page = engine.lane.transact(lambda connection: bill_waiting(engine, connection, [billable]))
    engine.handlers.send(page.events)
    return page.run.invoices


def _money(amount: object, currency: str | None, usual: str) -> Money:
    """Return the amount of one unit: in the currency that it names, that is named, or that is the payer's."""
    try:
        wanted = usual if currency is None else Money(0, currency).currency
        if isinstance(amount, str) and " " in amount.strip():
            amount = Money.parse(amount)
        unit = amount if isinstance(amount, Money) else Money(amount, wanted)  # type: ignore[arg-type]  # it refuses what is none
    except InvalidInput as error:
        field = "currency" if error.field == "currency" else "amount"
        raise InvalidInput(field, error.value, error.remedy) from None
    if currency is not None and unit.currency != wanted:
        raise InvalidInput("amount", str(unit), f"Give it in {wanted}.")
    if not unit:
        raise InvalidInput("amount", str(unit), "Give what it costs, or, below zero, what it takes off.")
    return unit


def _total(unit: Money, millionths: int, quantity: object) -> int:
    exact, rest = divmod(unit.nanos * millionths, MILLIONTHS)
    if rest:
        raise InvalidInput("quantity", quantity, "Its amount would have more than nine decimals.")
    return Money.from_nanos(exact, unit.currency).nanos


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or not key.strip() or len(key) > _KEY_LENGTH_MAX or not key.isprintable():
        raise InvalidInput("idempotency_key", key, f"Give 1 to {_KEY_LENGTH_MAX} printable characters.")
    # Fees and prorations have keys too.
    return f"{_KEY_PREFIX}{key}"


def _require_same(earlier: Any, row: dict[str, Any]) -> None:
    for field in ("amount", "currency", "description", "quantity", "subscription_id"):
        first, second = getattr(earlier, field), row[field]
        if first == second:
            continue
        if field == "amount":
            first, second = (Money.from_nanos(one, row["currency"]) for one in (first, second))
        elif field == "quantity":
            first, second = from_millionths(first), from_millionths(second)
        raise IdempotencyConflict(str(row["key"]).removeprefix(_KEY_PREFIX), field.removesuffix("_id"), first, second)
