"""What credits could give at an instant, as a command would find them: read beside the lane, decided by its functions.

The accounts are loaded into a workspace that is never saved. So asking and acting cannot come to different answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, Table, bindparam, select

from tallystick.credits.account import FEATURE_PREFIX, NEVER, AccountState, CreditKey, GrantState
from tallystick.credits.listing import IS_OPEN, OPEN_ORDER
from tallystick.credits.posting import Purpose, burned, expire_lapsed, grant_limit_counter
from tallystick.limits.counters import CounterKey
from tallystick.storage import tables
from tallystick.storage.statements import ACCOUNT_COLUMNS, GRANT_COLUMNS
from tallystick.storage.workspace import Counter, Workspace

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.plans.terms import Terms

__all__ = ["read_workspace", "usable"]


def read_workspace(
    engine: Engine,
    connection: Connection,
    terms: Terms,
    at: int,
    unit: str | None,
    counters: Callable[[Iterable[CreditKey]], Iterable[CounterKey]] | None = None,
) -> Workspace:
    """Read a billable's accounts with their open grants: one account, or without a unit those of all features.

    `counters` names what else is wanted, once the accounts are known. That makes three queries.
    """
    workspace = Workspace(started_at=at, credit_policy=engine.credit_policy)
    workspace.terms[terms.billable] = terms
    accounts, open_grants = _queries(is_one=unit is not None)
    whose = {"whose": terms.billable} if unit is None else {"whose": terms.billable, "which": unit}
    for row in connection.execute(accounts, whose):
        key = CreditKey(terms.billable, row.unit)
        columns = {name: getattr(row, name) for name in ACCOUNT_COLUMNS}
        account = AccountState(key, exists=True, expiring_first=engine.credit_policy.expiring_first, **columns)
        account.is_complete = True
        # Nobody is asked for money by reading.
        account.top_up_below = account.top_up_monthly_max = None
        workspace.credits[key] = account
    for row in connection.execute(open_grants, whose):
        account = workspace.credits[CreditKey(terms.billable, row.unit)]
        account.put(GrantState(*tuple(row)[1:]))
    wanted = _limits(workspace, at) | set(counters(workspace.credits) if counters is not None else ())
    workspace.counters.update(_read_counters(connection, wanted))
    for account in workspace.credits.values():
        expire_lapsed(workspace, account, at)
    return workspace


def usable(workspace: Workspace, key: CreditKey, purpose: Purpose, amount: int = NEVER) -> int:
    """Return how much of an amount the grants of an account could give to a use; without one, all that they could."""
    account = workspace.credits.get(key)
    return 0 if account is None else amount - burned(workspace, account, amount, purpose).short


def _read_counters(connection: Connection, wanted: Collection[CounterKey]) -> dict[CounterKey, Counter]:
    """Return the counters of one billable, with one query; what was never counted is zero."""
    found = {key: Counter() for key in wanted}
    if not wanted:
        return found
    counters = tables.counters
    query = select(*(counters.c[name] for name in CounterKey._fields), counters.c.used, counters.c.held).where(
        *(counters.c[name].in_({getattr(key, name) for key in wanted}) for name in CounterKey._fields)
    )
    for *names, used, held in connection.execute(query):
        key = CounterKey(*names)
        if key in found:
            found[key] = Counter(used, held)
    return found


@cache
def _queries(*, is_one: bool) -> tuple[Select[Any], Select[Any]]:
    """Build the queries for accounts and open grants once: that takes longer than running them."""
    accounts = _of(tables.credit_accounts, ACCOUNT_COLUMNS, is_one=is_one)
    return accounts, _of(tables.grants, GRANT_COLUMNS, is_one=is_one).where(IS_OPEN).order_by(*OPEN_ORDER)


def _of(table: Table, columns: Iterable[str], *, is_one: bool) -> Select[Any]:
    query = select(table.c.unit, *(table.c[name] for name in columns)).where(table.c.billable == bindparam("whose"))
    if is_one:
        return query.where(table.c.unit == bindparam("which"))
    return query.where(table.c.unit.startswith(FEATURE_PREFIX, autoescape=True))


def _limits(workspace: Workspace, at: int) -> set[CounterKey]:
    """Return the counters of what was used of grants that may be used only so much in an hour or a day."""
    return {
        grant_limit_counter(workspace, account, grant, at)
        for account in workspace.credits.values()
        for grant in account.grants
        if grant.limit_amount is not None
    }
