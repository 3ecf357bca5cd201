"""Checking what is stated of an invoice, at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tallystick.errors import InvalidInput
from tallystick.identity import billable_reference, tenant_reference
from tallystick.invoicing.lines import Charge
from tallystick.invoicing.values import LineKind
from tallystick.money import Money
from tallystick.period import parse_instant, to_micros
from tallystick.quantity import MILLIONTHS, to_millionths

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "checked_amount",
    "checked_cents",
    "checked_charges",
    "checked_due_at",
    "checked_text",
    "payer_reference",
]

_TEXT_LENGTH_MAX = 500
_LINES_MAX = 1_000
_LINE_KEYS = ("description", "amount_cents", "amount", "quantity", "period_start", "period_end")
_DUE_REMEDY = 'Give a day such as "2026-02-15", or an instant with a time zone.'


def payer_reference(engine: Engine, payer: object) -> str:
    """Return who pays: a tenant by its slug ("acme"), or any billable ("user:42")."""
    if isinstance(payer, str) and ":" not in payer:
        return tenant_reference(payer)
    return billable_reference(payer, engine.billable_resolver)


def checked_cents(field: str, cents: object, currency: str) -> Money:
    """Return whole minor units as money."""
    if isinstance(cents, bool) or not isinstance(cents, int):
        raise InvalidInput(field, cents, "Give a whole number of minor units: 9900 is 99.00 USD.")
    return Money.from_minor_units(cents, currency)


def checked_amount(field: str, amount: Money | Decimal | int | str, currency: str) -> Money:
    """Return an amount in a currency, of whole minor units and more than zero."""
    money = amount if isinstance(amount, Money) else _stated(field, amount, currency)
    if money.currency != currency:
        raise InvalidInput(field, str(money), f"Give it in {currency}.")
    if money.nanos <= 0 or money != Money.from_minor_units(money.minor_units(), currency):
        raise InvalidInput(field, str(money), "Give more than zero, in whole minor units.")
    return money


def checked_text(field: str, text: object, *, length_max: int = _TEXT_LENGTH_MAX) -> str:
    """Return a text of one or more lines."""
    stripped = text.strip() if isinstance(text, str) else ""
    printable = stripped.replace("\n", "").replace("\t", "").isprintable()
    if not stripped or len(stripped) > length_max or not printable:
        raise InvalidInput(field, text, f"Give 1 to {length_max} printable characters.")
    return stripped


def checked_due_at(due: str | date | datetime | None, zone: str) -> int | None:
    """Return until when an invoice is to be paid (µs): the end of a day in a zone, or an instant; None: as usual."""
    if due is None:
        return None
    day: date | None = None
    if isinstance(due, date) and not isinstance(due, datetime):
        day = due
    elif isinstance(due, str):
        try:
            day = date.fromisoformat(due.strip())
        except ValueError:
            day = None
    if day is None:
        try:
            return to_micros(parse_instant(due, field="due_date"))
        except InvalidInput:
            raise InvalidInput("due_date", due, _DUE_REMEDY) from None
    end = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)) + timedelta(days=1)
    return to_micros(end) - 1


def checked_charges(
    lines: Sequence[Mapping[str, Any]] | None, amount_cents: int | None, currency: str, description: str | None
) -> list[Charge]:
    """Return what an operator charges, line by line; without lines, one line of the whole amount.

    Raises:
        InvalidInput: naming the line and its field, or amounts that do not agree.
    """
    if lines is None:
        if amount_cents is None:
            raise InvalidInput("amount_cents", None, "Give the amount, or line_items.")
        amount = checked_cents("amount_cents", amount_cents, currency)
        stated = None if description is None else checked_text("description", description)
        return [Charge(LineKind.ITEM, "manual", amount.nanos, description=stated)]
    if isinstance(lines, str | Mapping) or not isinstance(lines, Sequence) or not 0 < len(lines) <= _LINES_MAX:
        raise InvalidInput("line_items", lines, f"Give 1 to {_LINES_MAX:,} lines.")
    charges = [_charge(f"line_items.{number}", line, currency) for number, line in enumerate(lines)]
    if amount_cents is not None:
        total = checked_cents("amount_cents", amount_cents, currency)
        summed = Money.from_nanos(sum(charge.amount for charge in charges), currency)
        if total != summed:
            raise InvalidInput(
                "amount_cents", amount_cents, f"The lines come to {summed}: leave it out, or correct it."
            )
    return charges


def _charge(field: str, line: Mapping[str, Any], currency: str) -> Charge:
    if not isinstance(line, Mapping):
        raise InvalidInput(field, line, 'Give a table: {"description": "Setup", "amount_cents": 9900, "quantity": 1}.')
    for key in line:
        if key not in _LINE_KEYS:
            raise InvalidInput(f"{field}.{key}", line[key], f"Known are {', '.join(_LINE_KEYS)}.")
    quantity = MILLIONTHS
    if "quantity" in line:
        quantity = to_millionths(line["quantity"], field=f"{field}.quantity", least=1)
    unit = _unit_amount(field, line, currency)
    exact = unit.nanos * quantity
    if exact % MILLIONTHS:
        raise InvalidInput(f"{field}.quantity", line["quantity"], "Its amount would have more than nine decimals.")
    period = [line.get(name) for name in ("period_start", "period_end")]
    start, end = (
        None if one is None else to_micros(parse_instant(one, field=f"{field}.{name}"))
        for name, one in zip(("period_start", "period_end"), period, strict=True)
    )
    return Charge(
        kind=LineKind.ITEM,
        words="manual",
        amount=exact // MILLIONTHS,
        quantity=quantity,
        description=checked_text(f"{field}.description", line.get("description")),
        details=MappingProxyType({}),
        period_start=start,
        period_end=end,
    )


def _unit_amount(field: str, line: Mapping[str, Any], currency: str) -> Money:
    """Return what one unit costs; below zero, it takes something off."""
    if ("amount_cents" in line) == ("amount" in line):
        raise InvalidInput(f"{field}.amount_cents", line.get("amount_cents"), "Give amount_cents, or an exact amount.")
    if "amount_cents" in line:
        return checked_cents(f"{field}.amount_cents", line["amount_cents"], currency)
    stated = line["amount"]
    money = stated if isinstance(stated, Money) else _stated(f"{field}.amount", stated, currency)
    if money.currency != currency:
        raise InvalidInput(f"{field}.amount", str(money), f"Give it in {currency}.")
    return money


def _stated(field: str, amount: Any, currency: str) -> Money:
    try:
        if isinstance(amount, str) and " " in amount.strip():
            return Money.parse(amount)
        return Money(amount, currency)
    except InvalidInput as error:
        raise InvalidInput(field, amount, error.remedy) from None
