"""Reading credits: balances, grants, statement lines and top-ups, each with one query.

Expiry is exact without any job: what has run out at the instant of reading is left out here, whether or not it has been
posted by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, or_, select, text

from tallystick.credits.account import CreditKey
from tallystick.credits.values import CreditTransaction, Grant, LedgerEntry, TopUp, TransactionPage
from tallystick.errors import InvalidInput
from tallystick.storage import tables

__all__ = [
    "Balance",
    "TransactionFilter",
    "find_grant",
    "find_transaction",
    "list_grants",
    "list_top_ups",
    "list_transactions",
    "paying_unit",
    "read_balance",
    "sum_by_account",
    "transaction_entries",
]

_PAGE_MAX = 10_000
_ENDINGS = ("expiry", "revocation", "reversal")

# As the indexes of open grants say it: a bound value would keep both databases from using them.
IS_OPEN = text("grants.remaining > 0")

# Asked for in its own order, the index of open grants is used, and not one that goes through all of history.
OPEN_ORDER = (tables.grants.c.billable, tables.grants.c.unit, tables.grants.c.priority, tables.grants.c.created_at)


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's balances at one instant, in the integers of its unit, and its settings."""

    id: str
    billable: str
    unit: str
    paid: int
    promotional: int
    overdraft: int
    held: int
    top_up_state: str
    minimum_balance: int | None
    overdraft_limit: int | None
    top_up_below: int | None
    top_up_amount: int | None
    top_up_monthly_max: int | None

    @property
    def posted(self) -> int:
        """The balance: what is there, with what holds have pinned, less what is owed."""
        return self.paid + self.promotional + self.overdraft


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Which statement lines; None does not restrict. Instants are µs, of when a line took effect."""

    type: str | None = None
    source: str | None = None
    reason: str | None = None
    start: int | None = None
    end: int | None = None


# -- balances ---------------------------------------------------------------------------------------------------------


def read_balance(connection: Connection, key: CreditKey, at: int) -> Balance | None:
    """Return an account's balances at an instant (µs); None where there is no such account."""
    row = connection.execute(_balances(), {"whose": key.billable, "which": key.unit, "at": at}).first()
    return None if row is None else _balance(row)


def paying_unit(connection: Connection, billable: str, currency: str) -> str:
    """Return the currency of the wallet that pays: the one asked for where there is one, else that of the oldest."""
    accounts = tables.credit_accounts
    features = accounts.c.unit.startswith("feature:", autoescape=True)
    query = (
        select(accounts.c.unit)
        .where(accounts.c.billable == billable, ~features)
        .order_by(accounts.c.created_at, accounts.c.unit)
    )
    units = list(connection.execute(query).scalars())
    return currency if currency in units or not units else units[0]


@cache
def _balances() -> Select[Any]:
    """Build the query once: that takes ten times as long as running it."""
    accounts, grants = tables.credit_accounts, tables.grants
    unrestricted = and_(grants.c.feature.is_(None), grants.c.subscription_id.is_(None), grants.c.limit_amount.is_(None))

    def lapsed(condition: Any) -> Any:
        return (
            select(func.coalesce(func.sum(grants.c.remaining - grants.c.held), 0))
            .where(grants.c.billable == accounts.c.billable, grants.c.unit == accounts.c.unit, IS_OPEN)
            .where(grants.c.expires_at <= bindparam("at"), condition)
            .correlate(accounts)
            .scalar_subquery()
        )

    return select(
        *(accounts.c[name] for name in _BALANCE_COLUMNS),
        lapsed(grants.c.kind == "paid").label("lapsed_paid"),
        lapsed(grants.c.kind == "promotional").label("lapsed_promotional"),
        lapsed(unrestricted).label("lapsed_unrestricted"),
    ).where(accounts.c.billable == bindparam("whose"), accounts.c.unit == bindparam("which"))


_BALANCE_COLUMNS = tuple(name for name in Balance.__dataclass_fields__)


def _balance(row: Any) -> Balance:
    values = dict(row._mapping)
    values["paid"] -= int(values.pop("lapsed_paid"))
    values["promotional"] -= int(values.pop("lapsed_promotional"))
    # A debt is paid before anything is lost.
    values["overdraft"] += min(-values["overdraft"], int(values.pop("lapsed_unrestricted")))
    return Balance(**values)


# -- grants -----------------------------------------------------------------------------------------------------------


def list_grants(
    connection: Connection, key: CreditKey, at: int, *, include_closed: bool, expiring_first: bool
) -> list[Grant]:
    """Return an account's grants in the order in which they burn; also those that are used up or ended, if asked."""
    grants = tables.grants
    own = and_(grants.c.billable == key.billable, grants.c.unit == key.unit)
    if include_closed:
        found = [
            Grant.from_row(tuple(row)[:-1], at, ended_by=row.ended_by)
            for row in connection.execute(_with_ending(key).where(own))
        ]
    else:
        unexpired = or_(grants.c.expires_at.is_(None), grants.c.expires_at > at)
        query = select(grants).where(own, IS_OPEN, unexpired).order_by(*OPEN_ORDER)
        found = [Grant.from_row(tuple(row), at) for row in connection.execute(query)]
    return sorted(found, key=lambda grant: _burns(grant, expiring_first=expiring_first))


def find_grant(connection: Connection, grant_id: str, at: int) -> Grant | None:
    """Return a grant by its id."""
    grants = tables.grants
    row = connection.execute(select(grants).where(grants.c.id == grant_id)).first()
    if row is None:
        return None
    if row.remaining:
        return Grant.from_row(tuple(row), at)
    found = connection.execute(_with_ending(CreditKey(row.billable, row.unit)).where(grants.c.id == grant_id)).one()
    return Grant.from_row(tuple(found)[:-1], at, ended_by=found.ended_by)


def _with_ending(key: CreditKey) -> Select[Any]:
    """Grants with the source of the transaction that took what was left of them."""
    grants, transactions = tables.grants, tables.credit_transactions
    ended = (
        select(transactions.c.grant_id, func.max(transactions.c.source).label("ended_by"))
        .where(transactions.c.billable == key.billable, transactions.c.unit == key.unit)
        .where(transactions.c.source.in_(_ENDINGS), transactions.c.amount < 0, transactions.c.grant_id.isnot(None))
        .group_by(transactions.c.grant_id)
        .subquery()
    )
    return select(grants, ended.c.ended_by).outerjoin(ended, ended.c.grant_id == grants.c.id)


def _burns(grant: Grant, *, expiring_first: bool) -> tuple[Any, ...]:
    never = grant.expires_at is None
    expiry = (never, grant.created_at if never else grant.expires_at) if expiring_first else ()
    return (grant.priority, *expiry, grant.created_at, grant.id)


# -- transactions -----------------------------------------------------------------------------------------------------


def list_transactions(
    connection: Connection, key: CreditKey, wanted: TransactionFilter, *, limit: int, cursor: str | None
) -> TransactionPage:
    """Read one page of an account's statement, the newest line first.

    A cursor stays valid while lines are added: it is the number of the last line that was seen.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _PAGE_MAX:
        raise InvalidInput("limit", limit, f"Give 1 to {_PAGE_MAX}.")
    lines = tables.credit_transactions
    query = select(lines).where(lines.c.billable == key.billable, lines.c.unit == key.unit)
    if wanted.type is not None:
        query = query.where(lines.c.amount >= 0 if wanted.type == "credit" else lines.c.amount < 0)
    if wanted.source is not None:
        query = query.where(lines.c.source == wanted.source)
    if wanted.reason is not None:
        query = query.where(lines.c.reason == wanted.reason)
    if wanted.start is not None:
        query = query.where(lines.c.occurred_at >= wanted.start)
    if wanted.end is not None:
        query = query.where(lines.c.occurred_at < wanted.end)
    if cursor is not None:
        query = query.where(lines.c.number < _number(cursor))
    rows = connection.execute(query.order_by(lines.c.number.desc()).limit(limit + 1)).all()
    found = tuple(CreditTransaction.from_row(tuple(row)) for row in rows[:limit])
    return TransactionPage(found, str(found[-1].number) if len(rows) > limit else None)


def find_transaction(connection: Connection, transaction_id: str, key: CreditKey | None = None) -> Any | None:
    """Return the row of a transaction by its id: its line on one account, or where it has several its first."""
    lines, entries = tables.credit_transactions, tables.ledger_entries
    # The entries are found by the transaction; they say where its line stands.
    place = and_(
        lines.c.billable == entries.c.billable,
        lines.c.unit == entries.c.unit,
        lines.c.number == entries.c.statement_number,
    )
    query = select(lines).select_from(entries).join(lines, place).where(entries.c.transaction_id == transaction_id)
    if key is not None:
        query = query.where(entries.c.billable == key.billable, entries.c.unit == key.unit)
    return connection.execute(query.order_by(entries.c.position).limit(1)).first()


# -- the ledger -------------------------------------------------------------------------------------------------------


def transaction_entries(connection: Connection, transaction_id: str) -> list[LedgerEntry]:
    """Return the entries of a transaction in their order."""
    entries = tables.ledger_entries
    query = select(entries).where(entries.c.transaction_id == transaction_id).order_by(entries.c.position)
    return [LedgerEntry.from_row(tuple(row)) for row in connection.execute(query)]


def sum_by_account(connection: Connection, key: CreditKey) -> dict[str, int]:
    """Return what was posted in all on each account of somebody's credits."""
    lines, entries = tables.credit_transactions, tables.ledger_entries
    own = and_(
        entries.c.transaction_id == lines.c.id, entries.c.billable == lines.c.billable, entries.c.unit == lines.c.unit
    )
    query = (
        select(entries.c.account, func.sum(entries.c.amount))
        .select_from(lines)
        .join(entries, own)
        .where(lines.c.billable == key.billable, lines.c.unit == key.unit)
        .group_by(entries.c.account)
    )
    return {account: int(total) for account, total in connection.execute(query)}


# -- top-ups ----------------------------------------------------------------------------------------------------------


def list_top_ups(connection: Connection, billable: str | None, status: str | None) -> list[TopUp]:
    """Return requests for top-ups, the newest first."""
    top_ups = tables.top_ups
    query = select(top_ups).order_by(top_ups.c.created_at.desc(), top_ups.c.id.desc())
    if billable is not None:
        query = query.where(top_ups.c.billable == billable)
    if status is not None:
        query = query.where(top_ups.c.status == status)
    return [TopUp.from_row(tuple(row)) for row in connection.execute(query)]


def _number(cursor: str) -> int:
    if not isinstance(cursor, str) or not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise InvalidInput("cursor", cursor, "Give the next_cursor of the page before.")
    return int(cursor)
