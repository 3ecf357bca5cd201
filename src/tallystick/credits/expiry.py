"""Expiry as work: booking the grants whose time has come, and warning of those whose time comes soon.

Balances leave out what has lapsed from its instant on, whether it is booked or not. Booking takes it out of the ledger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, func, select, tuple_

from tallystick.credits.account import CreditKey, amount_of
from tallystick.credits.commands import Expired, ExpireGrants, WarnExpiring
from tallystick.credits.credit_report import plain
from tallystick.credits.lapsed import lapsed_grants
from tallystick.credits.listing import IS_OPEN
from tallystick.credits.values import Amount, Grant
from tallystick.errors import InvalidInput
from tallystick.events import CreditsExpiring
from tallystick.period import from_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Expiry", "expire_grants", "expiring_grants", "warn_of_expiry"]

_DAY_MICROS = 86_400_000_000
_DAYS_MAX = 36_500
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Expiry:
    """What was booked as expired, or with `dry_run` would be: how many grants, and what they had left of each unit."""

    dry_run: bool
    grants: int
    amounts: Mapping[str, Amount]

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {"dry_run": self.dry_run, "grants": self.grants, "amounts": plain(self.amounts)}


def expire_grants(
    engine: Engine,
    *,
    dry_run: bool = False,
    batch_size: int = _PAGE,
    progress: Callable[[int, int], object] | None = None,
) -> Expiry:
    """Book what has lapsed until now, `batch_size` grants at a time. What others book meanwhile is not counted here."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInput("batch_size", batch_size, "Give a whole number, 1 or more.")
    now = engine.now()
    grants = tables.grants.c
    lapsed = lapsed_grants(now, expiring_first=engine.credit_policy.expiring_first).c
    due = _rows(engine, select(lapsed.unit, func.count(), func.sum(lapsed.lost)).group_by(lapsed.unit))
    total = sum(int(count) for _, count, _ in due)
    if dry_run:
        return _expiry(total, {unit: int(amount) for unit, _, amount in due}, dry_run=True)
    done, booked, lost = 0, 0, defaultdict[str, int](int)
    for page in _pages(engine, select(grants.billable, grants.unit), _lapsed(now), batch_size):
        accounts = list(dict.fromkeys(CreditKey(row.billable, row.unit) for row in page))
        answers = engine.lane.run_many([ExpireGrants(account, now) for account in accounts])
        for account, answer in zip(accounts, answers, strict=True):
            if isinstance(answer, Expired):
                booked += answer.grants
                lost[account.unit] += answer.amount
        # All that has lapsed of an account goes at once, so that a page may do the work of later ones too.
        done = max(done + len(page), booked)
        if progress is not None:
            progress(done, max(total, done))
    return _expiry(booked, lost, dry_run=False)


def expiring_grants(engine: Engine, *, within_days: int) -> list[Grant]:
    """Read the open grants that expire within so many days of 24 hours from now, the next one first."""
    if isinstance(within_days, bool) or not isinstance(within_days, int) or not 0 <= within_days <= _DAYS_MAX:
        raise InvalidInput("within_days", within_days, f"Give a whole number of days, 0 to {_DAYS_MAX:,}.")
    now = engine.now()
    grants = tables.grants
    query = select(grants).where(*_expiring(now, within_days)).order_by(grants.c.expires_at, grants.c.id)
    rows = engine.read(lambda connection: connection.execute(query).all())
    return [Grant.from_row(tuple(row), now) for row in rows]


def warn_of_expiry(engine: Engine) -> int:
    """Send `CreditsExpiring` for each grant that expires within `credits.expiry_warning_days`, once over all processes.

    Returns how many were announced here. Where nobody listens nothing is marked: another process may.
    """
    days = engine.settings.credits.expiry_warning_days
    if not days or not engine.handlers.wants(CreditsExpiring):
        return 0
    now = engine.now()
    grants = tables.grants
    warned = 0
    for page in _pages(engine, select(*grants.c), (*_expiring(now, days), grants.c.warned_at.is_(None)), _PAGE):
        commands = [WarnExpiring(CreditKey(row.billable, row.unit), row.id, now) for row in page]
        for row, answer in zip(page, engine.lane.run_many(commands), strict=True):
            if answer is True:
                grant = Grant.from_row(tuple(row)[: len(grants.c)], now)
                expires_at = from_micros(row.expires_at)
                event = CreditsExpiring(
                    billable=grant.billable, at=from_micros(now), grant=grant, expires_at=expires_at
                )
                engine.handlers.send([event])
                warned += 1
    return warned


def _expiry(grants: int, lost: Mapping[str, int], *, dry_run: bool) -> Expiry:
    amounts = {unit: amount_of(unit, lost[unit]) for unit in sorted(lost) if lost[unit]}
    return Expiry(dry_run=dry_run, grants=grants, amounts=MappingProxyType(amounts))


def _lapsed(now: int) -> tuple[Any, ...]:
    """Select grants of which something has run out and is not booked."""
    grants = tables.grants.c
    return IS_OPEN, grants.expires_at.isnot(None), grants.expires_at <= now, grants.remaining > grants.held


def _expiring(now: int, days: int) -> tuple[Any, ...]:
    grants = tables.grants.c
    until = now + days * _DAY_MICROS
    return IS_OPEN, grants.expires_at.isnot(None), grants.expires_at > now, grants.expires_at <= until


def _pages(engine: Engine, query: Select[Any], conditions: tuple[Any, ...], size: int) -> Iterator[list[Any]]:
    """Yield what is found, by expiry, page by page. Each page begins after the last, whatever became of that one."""
    grants = tables.grants.c
    place = (grants.expires_at, grants.id)
    query = query.add_columns(*(column.label(f"place_{column.name}") for column in place))
    query = query.where(*conditions).order_by(*place).limit(size)
    after: ColumnElement[bool] | None = None
    while True:
        rows = _rows(engine, query if after is None else query.where(after))
        if rows:
            yield rows
        if len(rows) < size:
            return
        after = tuple_(*place) > tuple_(rows[-1].place_expires_at, rows[-1].place_id)


def _rows(engine: Engine, query: Select[Any]) -> list[Any]:
    return list(engine.read(lambda connection: connection.execute(query).all()))
