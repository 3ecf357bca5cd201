"""Taking people out of the books of credits: what they wrote and who they were goes, amounts and balances stay.

An account that was charged keeps its statement and its ledger, under its own name: they are accounts, not use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from tallystick.credits.proof import named_spending, removed_meter, running_caps
from tallystick.limits.counters import CounterKey
from tallystick.storage import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tallystick.engine import Engine

__all__ = ["forget_before", "forget_person", "named_before", "shared_by"]

_PORTION = 500


def shared_by(connection: Connection, member: str) -> list[str]:
    """Return whose wallets somebody has spent of as one of several users."""
    lines = tables.credit_transactions.c
    return list(connection.execute(select(lines.billable).where(lines.user_id == member).distinct()).scalars())


def named_before(connection: Connection, until: int) -> list[str]:
    """Return whose statements name users before an instant (µs)."""
    lines = tables.credit_transactions.c
    query = select(lines.billable).where(lines.occurred_at < until, lines.user_id.isnot(None))
    return list(connection.execute(query.distinct()).scalars())


def forget_person(connection: Connection, engine: Engine, billable: str, shared: Iterable[str]) -> None:
    """Take what was said about a billable off its own statement, and its name off those of `shared` wallets.

    The accounts of both are locked.
    """
    lines, grants, top_ups = tables.credit_transactions, tables.grants, tables.top_ups
    pools = sorted(shared)
    own = lines.c.billable == billable
    named = and_(lines.c.user_id == billable, lines.c.billable.in_(pools))
    _note_spending(connection, engine, [billable, *pools], or_(own, named))
    nobody = {"user_id": None, "metadata": None}
    says_something = or_(lines.c.user_id.isnot(None), lines.c.metadata.isnot(None))
    connection.execute(update(lines).where(own, says_something).values(nobody))
    connection.execute(update(lines).where(named).values(nobody))
    connection.execute(update(grants).where(grants.c.billable == billable).values(granted_by=None, metadata=None))
    # What was written to the grant of another is about that other.
    connection.execute(update(grants).where(grants.c.granted_by == billable).values(granted_by=None))
    connection.execute(update(top_ups).where(top_ups.c.billable == billable).values(note=None))


def forget_before(connection: Connection, engine: Engine, until: int, named: Iterable[str]) -> None:
    """Take what was said about people off everything before an instant (µs).

    The accounts of `named` are locked: users' names are taken off their statements alone. Another that names somebody
    meanwhile is not ready for it, for nobody has noted what its caps count.
    """
    lines, grants, top_ups = tables.credit_transactions, tables.grants, tables.top_ups
    ordered = sorted(named)
    for first in range(0, len(ordered), _PORTION):
        some = ordered[first : first + _PORTION]
        old_names = and_(lines.c.occurred_at < until, lines.c.user_id.isnot(None), lines.c.billable.in_(some))
        _note_spending(connection, engine, some, old_names)
        connection.execute(update(lines).where(old_names).values(user_id=None))
    old_words = and_(lines.c.occurred_at < until, lines.c.metadata.isnot(None))
    connection.execute(update(lines).where(old_words).values(metadata=None))
    old_grants = and_(grants.c.created_at < until, or_(grants.c.granted_by.isnot(None), grants.c.metadata.isnot(None)))
    connection.execute(update(grants).where(old_grants).values(granted_by=None, metadata=None))
    old_top_ups = and_(top_ups.c.created_at < until, top_ups.c.note.isnot(None))
    connection.execute(update(top_ups).where(old_top_ups).values(note=None))


def _note_spending(
    connection: Connection, engine: Engine, billables: Iterable[str], condition: ColumnElement[bool]
) -> None:
    """Note what users have spent in the running periods of caps, before their names are taken off these lines."""
    caps = running_caps(connection, engine.terms_policy, engine.now(), billables)
    counters = tables.counters
    for counted, amount in named_spending(connection, caps, condition).items():
        unit = counted.meter.partition(":")[2]
        key: CounterKey = counted._replace(meter=removed_meter(unit))
        same = and_(*(counters.c[name] == value for name, value in key._asdict().items()))
        if not connection.execute(update(counters).where(same).values(used=counters.c.used + amount)).rowcount:
            connection.execute(counters.insert().values(**key._asdict(), used=amount, held=0))
