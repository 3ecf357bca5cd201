"""Caps: how much one user may spend of a wallet that many share, in a period.

A cap counts from the beginning of the period that is running. What was spent before it was set is summed up from the
statement, under the lock of the account, so that nothing spent meanwhile is missed or counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, delete, update

from tallystick.credits.account import CreditKey
from tallystick.credits.proof import SPENDING, cap_counters, cap_meter, named_spending, running_caps
from tallystick.limits.counters import CounterKey
from tallystick.period import PeriodKind
from tallystick.plans.loading import journal_change
from tallystick.plans.terms import CreditCap
from tallystick.storage import tables
from tallystick.storage.locking import lock_account

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["CAP_PERIODS", "SPENDING", "set_cap"]

CAP_PERIODS = tuple(str(kind) for kind in PeriodKind)


def set_cap(engine: Engine, key: CreditKey, member: str, amount: int | None, period: str) -> None:
    """Set what a member ("*": everybody without a cap of their own) may spend in a period; None takes the cap away.

    It holds at once, in every process, and counts what was spent since the running period began.
    """
    now = engine.now()
    caps = tables.credit_caps
    same = and_(caps.c.billable == key.billable, caps.c.unit == key.unit, caps.c.member == member)

    def change(connection: Connection) -> None:
        lock_account(connection, key.billable, now)
        connection.execute(delete(caps).where(same))
        if amount is not None:
            connection.execute(
                caps.insert().values(
                    billable=key.billable, unit=key.unit, member=member, amount=amount, period=period, created_at=now
                )
            )
        _count_again(engine, connection, key, member, now)
        journal_change(connection, key.billable)

    engine.lane.transact(change)


def _count_again(engine: Engine, connection: Connection, key: CreditKey, changed: str, now: int) -> None:
    """Set the counters of the users whose cap has changed to what the statement says of the running period."""
    caps = running_caps(connection, engine.terms_policy, now, [key.billable])
    lines = tables.credit_transactions
    condition = lines.c.unit == key.unit
    if changed != CreditCap.EVERYBODY:
        condition = and_(condition, lines.c.user_id == changed)
    spent = named_spending(connection, caps, condition)
    # What was spent by users whose names were erased is noted apart from the lines.
    for counter, used in cap_counters(connection, caps, removed=True).items():
        if counter.meter == cap_meter(key.unit) and changed in (counter.scope, CreditCap.EVERYBODY):
            spent[counter] = spent.get(counter, 0) + used
    for counter, used in spent.items():
        _set_used(connection, counter, used)


def _set_used(connection: Connection, key: CounterKey, used: int) -> None:
    """Give a counter its used amount; what calls in flight hold of it stays."""
    counters = tables.counters
    same = and_(*(counters.c[name] == value for name, value in key._asdict().items()))
    if not connection.execute(update(counters).where(same).values(used=used)).rowcount:
        connection.execute(counters.insert().values(**key._asdict(), used=used, held=0))
