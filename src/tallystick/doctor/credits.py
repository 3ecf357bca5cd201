"""What the doctor asks about credits: the ledger against itself, and all that stands beside it against the ledger.

Every question is one statement over whole tables which only differences leave: millions of entries are no burden.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Connection, String, and_, cast, func, literal, or_, select, union_all

from tallystick.credits.account import FEATURE_PREFIX
from tallystick.credits.ledger import BALANCE_ACCOUNTS, OVERDRAFT, available
from tallystick.doctor.finding import Finding, amount_text, differences, unequal_sums
from tallystick.plans.terms import BillingMode
from tallystick.storage import tables

__all__ = ["credit_findings"]

_ENTRIES = "The ledger's entries prove it: restore what was changed."
_LOST = "A row of the ledger is lost or was changed: restore it."
_EVENTS_PREFIX = "evt_"
_TRANSACTIONS_PREFIX = "txn_"


def credit_findings(connection: Connection) -> Iterator[Finding]:
    """Find what disagrees with the ledger, and where the ledger disagrees with itself."""
    yield from _imbalance_findings(connection)
    yield from _line_findings(connection)
    yield from _numbering_findings(connection)
    yield from _running_balance_findings(connection)
    yield from _balance_findings(connection)
    yield from _grant_findings(connection)
    yield from _range_findings(connection)
    yield from _pin_findings(connection)
    yield from _charge_findings(connection)
    yield from _refund_findings(connection)


def _imbalance_findings(connection: Connection) -> Iterator[Finding]:
    entries = tables.ledger_entries.c
    total = func.sum(entries.amount)
    query = (
        select(entries.transaction_id, entries.unit, total)
        .group_by(entries.transaction_id, entries.unit)
        .having(total != 0)
    )
    for transaction_id, unit, amount in connection.execute(query):
        yield Finding("sum of entries", transaction_id, amount_text(unit, 0), amount_text(unit, amount), _LOST)


def _line_findings(connection: Connection) -> Iterator[Finding]:
    entries, lines = tables.ledger_entries.c, tables.credit_transactions.c
    posted = select(
        entries.billable, entries.unit, entries.statement_number, entries.transaction_id, entries.amount
    ).where(entries.account.in_(BALANCE_ACCOUNTS))
    stated = select(lines.billable, lines.unit, lines.number, lines.id, lines.amount)
    yield from unequal_sums(connection, "statement line", posted, stated, unit="unit", remedy=_LOST)


def _numbering_findings(connection: Connection) -> Iterator[Finding]:
    """A number is a line's key, so that as many lines as the last number says, and none outside, leave no gap."""
    lines, accounts = tables.credit_transactions, tables.credit_accounts
    numbered = select(accounts.c.billable, accounts.c.unit, accounts.c.last_number)
    there = select(lines.c.billable, lines.c.unit, cast(literal(1), BigInteger))
    yield from unequal_sums(connection, "statement lines", numbered, there, remedy="A line is lost: restore it.")
    same = and_(accounts.c.billable == lines.c.billable, accounts.c.unit == lines.c.unit)
    outside = or_(lines.c.number < 1, lines.c.number > accounts.c.last_number, accounts.c.id.is_(None))
    query = (
        select(lines.c.billable, lines.c.unit, lines.c.number, accounts.c.last_number)
        .select_from(lines.outerjoin(accounts, same))
        .where(outside)
    )
    for billable, unit, number, last in connection.execute(query):
        yield Finding("statement number", f"{billable} {unit}", f"1 to {last or 0}", str(number), _LOST)


def _running_balance_findings(connection: Connection) -> Iterator[Finding]:
    """Compare each line with the one before it, so that a wrong line is found where it is and not ever after."""
    lines = tables.credit_transactions.c
    before = func.lag(lines.balance_after, 1, cast(literal(0), BigInteger)).over(
        partition_by=(lines.billable, lines.unit), order_by=lines.number
    )
    running = select(
        lines.billable, lines.unit, lines.number, lines.balance_after, (before + lines.amount).label("expected")
    ).subquery()
    query = select(running).where(running.c.balance_after != running.c.expected)
    for billable, unit, number, found, expected in connection.execute(query):
        line = f"{billable} {unit} {number}"
        yield Finding("balance after", line, amount_text(unit, expected), amount_text(unit, found), _LOST)


def _balance_findings(connection: Connection) -> Iterator[Finding]:
    entries, accounts = tables.ledger_entries.c, tables.credit_accounts.c
    posted = select(entries.billable, entries.unit, entries.account, entries.amount).where(
        entries.account.in_(BALANCE_ACCOUNTS)
    )
    balances = ((available("paid"), accounts.paid), (available("promotional"), accounts.promotional))
    standing = union_all(
        *(
            select(accounts.billable, accounts.unit, literal(name, String).label("account"), amount.label("amount"))
            for name, amount in (*balances, (OVERDRAFT, accounts.overdraft))
        )
    ).subquery()
    yield from unequal_sums(connection, "balance", posted, select(standing), unit="unit", remedy=_ENTRIES)


def _grant_findings(connection: Connection) -> Iterator[Finding]:
    entries, grants = tables.ledger_entries.c, tables.grants.c
    posted = select(entries.billable, entries.unit, entries.grant_id, entries.account, entries.amount).where(
        entries.account.in_((available("paid"), available("promotional")))
    )
    standing = select(
        grants.billable, grants.unit, grants.id, literal(available(""), String) + grants.kind, grants.remaining
    )
    yield from unequal_sums(connection, "remaining of grant", posted, standing, unit="unit", remedy=_ENTRIES)


def _range_findings(connection: Connection) -> Iterator[Finding]:
    """Find amounts that cannot be, whatever the entries say."""
    grants, accounts = tables.grants.c, tables.credit_accounts.c
    is_sound = and_(grants.held >= 0, grants.held <= grants.remaining, grants.remaining <= grants.amount)
    query = select(grants.id, grants.unit, grants.amount, grants.remaining, grants.held).where(~is_sound)
    for grant_id, unit, *amounts in connection.execute(query):
        amount, remaining, held = (amount_text(unit, one) for one in amounts)
        found = f"{held} held, {remaining} remaining"
        yield Finding("grant", grant_id, f"0 ≤ held ≤ remaining ≤ {amount}", found, "More was taken than there was.")
    debts = select(accounts.billable, accounts.unit, accounts.overdraft).where(accounts.overdraft > 0)
    for billable, unit, overdraft in connection.execute(debts):
        found = amount_text(unit, overdraft)
        yield Finding("overdraft", f"{billable} {unit}", "zero or below", found, "More was paid than was owed.")


def _pin_findings(connection: Connection) -> Iterator[Finding]:
    """Compare what grants and accounts say is held with what open holds have pinned. Overdraft has no grant."""
    holds, grants, accounts = tables.holds.c, tables.grants.c, tables.credit_accounts.c
    by_grant: dict[tuple[Any, ...], int] = defaultdict(int)
    by_account: dict[tuple[Any, ...], int] = defaultdict(int)
    query = select(holds.billable, holds.pins).where(holds.status == "open", holds.pins.isnot(None))
    for billable, pins in connection.execute(query):
        for unit, grant_id, amount in json.loads(pins):
            by_account[billable, unit] += amount
            if grant_id:
                by_grant[billable, unit, grant_id] += amount
    remedy = "Open holds prove it."
    held = select(grants.billable, grants.unit, grants.id, grants.held).where(grants.held != 0)
    found = {tuple(row[:3]): int(row[3]) for row in connection.execute(held)}
    yield from differences("held of grant", by_grant, found, remedy=remedy)
    held = select(accounts.billable, accounts.unit, accounts.held).where(accounts.held != 0)
    found = {tuple(row[:2]): int(row[2]) for row in connection.execute(held)}
    yield from differences("held of account", by_account, found, remedy=remedy)


def _charge_findings(connection: Connection) -> Iterator[Finding]:
    """Find use that was to be paid with credits and was not, or not with what it cost.

    A correction that gives back may have nothing to give back. What was converted has its rate, and is not compared.
    """
    events, entries, lines = tables.usage_events, tables.ledger_entries, tables.credit_transactions
    transaction_id = literal(_TRANSACTIONS_PREFIX, String) + func.substr(events.c.id, len(_EVENTS_PREFIX) + 1)
    is_money = ~entries.c.unit.startswith(FEATURE_PREFIX, autoescape=True)
    posted = select(literal(1)).where(entries.c.transaction_id == transaction_id, is_money).exists()
    unpaid = select(events.c.id, events.c.currency, events.c.total_cost).where(
        events.c.billing_mode == BillingMode.CREDITS, events.c.total_cost > 0, ~posted
    )
    for event_id, currency, cost in connection.execute(unpaid):
        yield Finding("charge", event_id, amount_text(currency, cost), "none", "Its transaction is lost: restore it.")
    is_paid_with_credits = events.c.billing_mode == BillingMode.CREDITS
    is_right = and_(is_paid_with_credits, lines.c.amount == -func.coalesce(events.c.total_cost, 0))
    wrong = (
        select(events.c.id, events.c.billing_mode, lines.c.unit, events.c.total_cost, lines.c.amount)
        .select_from(lines.join(events, events.c.id == lines.c.event_id))
        .where(lines.c.source == "usage", lines.c.unit == events.c.currency, lines.c.exchange.is_(None), ~is_right)
    )
    for event_id, mode, unit, cost, amount in connection.execute(wrong):
        expected = cost or 0 if mode == BillingMode.CREDITS else 0
        yield Finding("charge", event_id, amount_text(unit, expected), amount_text(unit, -amount), _LOST)


def _refund_findings(connection: Connection) -> Iterator[Finding]:
    """Find uses of which more was given back than was ever taken. What a correction took or gave belongs to its use."""
    lines, given = tables.credit_transactions, tables.credit_transactions.alias("given")
    first_id = func.coalesce(lines.c.reverses_id, lines.c.id).label("first_id")
    taken = select(lines.c.billable, lines.c.unit, first_id, lines.c.amount, literal(0).label("back"))
    is_use = lines.c.source.in_(("usage", "deduction"))
    of_it = and_(given.c.reverses_id == lines.c.id, given.c.billable == lines.c.billable, given.c.unit == lines.c.unit)
    back = select(given.c.billable, given.c.unit, first_id, literal(0).label("amount"), given.c.amount).where(
        given.c.source.in_(("refund", "reversal"))
    )
    both = union_all(taken.where(is_use), back.join_from(given, lines, and_(of_it, is_use))).subquery()
    key = (both.c.billable, both.c.unit, both.c.first_id)
    was_taken, was_given = -func.sum(both.c.amount), func.sum(both.c.back)
    query = select(*key, was_taken, was_given).group_by(*key).having(was_given > was_taken)
    for billable, unit, transaction_id, amount, found in connection.execute(query):
        yield Finding(
            "refunds",
            f"{billable} {transaction_id}",
            f"at most {amount_text(unit, amount)}",
            amount_text(unit, found),
            "More was given back than was taken: deduct the difference.",
        )
