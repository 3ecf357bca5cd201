"""The events of credits: what follows from a transaction that was committed, and from what a batch noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tallystick.credits.account import amount_of
from tallystick.credits.posting import BalanceFell, GrantExpired, Posted, TopUpDue
from tallystick.events import CreditsAdded, CreditsDeducted, CreditsExpired, CreditsLow, Event, TopUpRequested
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.storage.statements import TRANSACTION_COLUMNS

__all__ = ["Wants", "events_of", "notice_event"]

Wants = Callable[[type[Event]], bool]


def events_of(posted: Posted, wants: Wants) -> Iterator[Event]:
    """Say what a transaction added to, or took of, each account."""
    for row in posted.rows:
        line = dict(zip(TRANSACTION_COLUMNS, row, strict=True))
        amount, unit = int(str(line["amount"])), str(line["unit"])
        event_class = CreditsAdded if amount > 0 else CreditsDeducted
        if not amount or not wants(event_class):
            continue
        yield event_class(
            billable=str(line["billable"]),
            at=from_micros(int(str(line["created_at"]))),
            unit=unit,
            amount=amount_of(unit, abs(amount)),
            balance=amount_of(unit, int(str(line["balance_after"]))),
            source=str(line["source"]),
            reason=str(line["reason"]),
            transaction_id=posted.transaction_id,
            grant_id=_text(line["grant_id"]),
            usage_event_id=_text(line["event_id"]),
            user=_text(line["user_id"]),
        )


def notice_event(notice: object, wants: Wants) -> Event | None:
    """Return what is to be told of a notice; None where nobody listens."""
    if isinstance(notice, GrantExpired) and wants(CreditsExpired):
        billable, unit = notice.key
        return CreditsExpired(
            billable=billable,
            at=from_micros(notice.at),
            unit=unit,
            amount=amount_of(unit, notice.amount),
            kind=notice.kind,
            grant_id=notice.grant_id,
            expired_at=from_micros(notice.expired_at),
        )
    if isinstance(notice, BalanceFell) and wants(CreditsLow):
        return CreditsLow(
            billable=notice.key.billable,
            at=from_micros(notice.at),
            available=Money.from_nanos(notice.available, notice.key.unit),
            minimum=Money.from_nanos(notice.minimum, notice.key.unit),
        )
    if isinstance(notice, TopUpDue) and wants(TopUpRequested):
        return TopUpRequested(
            billable=notice.key.billable,
            at=from_micros(notice.at),
            top_up_id=notice.top_up_id,
            amount=Money.from_nanos(notice.amount, notice.key.unit),
            available=Money.from_nanos(notice.available, notice.key.unit),
        )
    return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
