"""From a command of credits to its transactions: run it, tell of it, and read its lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, and_, or_, select

from tallystick.credits.account import CreditKey
from tallystick.credits.commands import Keyed, RevokeGrant
from tallystick.credits.input import checked_reason
from tallystick.credits.listing import find_grant
from tallystick.credits.posting import Posted
from tallystick.credits.values import CreditTransaction
from tallystick.errors import NotFound, TallystickError
from tallystick.identity import new_id
from tallystick.metering.flow import Flow, Read, run
from tallystick.money import Money
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.storage.lane import Command

__all__ = ["refundable", "refusal_of", "revoke_grant", "through_lane", "transact", "transacting"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _HasEngine(Protocol):
    _engine: Engine


Owner = TypeVar("Owner", bound=_HasEngine)


def through_lane(
    method: Callable[Concatenate[Owner, Parameters], Flow[Result]],
) -> Callable[Concatenate[Owner, Parameters], Result]:
    """Return a method that carries a flow out in the caller's thread. The flow stays below it (`inspect.unwrap`), for
    asyncio to await."""

    @wraps(method)
    def call(self: Owner, *arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        return run(method(self, *arguments, **keywords), self._engine.lane)

    return call  # type: ignore[return-value]  # `self` has a name here, and none in the type that is promised


def transacting(
    engine: Engine, command: Command[Posted], *, refusal: TallystickError | None = None, key: Keyed | None = None
) -> Flow[Sequence[CreditTransaction]]:
    """Run a command, send its events, and return its lines in the order of its accounts; of a replay, the first.

    `refusal` is why it may not be done now. What was done before with the same key is answered all the same: then it
    could be.
    """
    if refusal is not None:
        first: Sequence[CreditTransaction] | None = yield Read(lambda: _first_lines(engine, command.billables[0], key))
        if first is None:
            raise refusal
        return first
    posted: Posted = yield command
    engine.announce_credits(posted)
    if posted.rows or not posted.lines:
        return [CreditTransaction.from_row(row, replayed=posted.replayed) for row in posted.rows]
    lines: Sequence[CreditTransaction] = yield Read(
        lambda: engine.read(lambda connection: _lines(connection, posted.lines))
    )
    return lines


def transact(engine: Engine, command: Command[Posted]) -> Sequence[CreditTransaction]:
    """Run a command in this thread, as `transacting`."""
    return run(transacting(engine, command), engine.lane)


def refusal_of(check: Callable[[], object]) -> TallystickError | None:
    """Return what a check raises, if it does."""
    try:
        check()
    except TallystickError as error:
        return error
    return None


def revoke_grant(engine: Engine, grant_id: str, reason: str, *, unit: str, billable: str | None) -> CreditTransaction:
    """Take back what is left of a grant of these units: a currency, or the beginning that all features have.

    Raises:
        NotFound: there is no such grant here. Conflict: nothing is left of it.
    """
    checked = checked_reason(reason)
    now = engine.now()
    grant = engine.read(lambda connection: find_grant(connection, grant_id, now))
    if grant is None or not grant.unit.startswith(unit) or billable not in (None, grant.billable):
        raise NotFound("grant", grant_id)
    account = CreditKey(grant.billable, grant.unit)
    return transact(engine, RevokeGrant(account, grant_id, now, new_id("txn"), checked))[0]


def refundable(line: CreditTransaction) -> tuple[str, int | None]:
    """Return the transaction of which a use is given back, and how much (nanos); None: all that is left of it.

    What a correction has charged afterwards is part of the use that it corrects, and is given back of that.
    """
    if line.reverses_id is None:
        return line.id, None
    assert isinstance(line.amount, Money)  # noqa: S101  # only calls that cost money are corrected
    return line.reverses_id, line.amount.nanos


def _first_lines(engine: Engine, billable: str, key: Keyed | None) -> Sequence[CreditTransaction] | None:
    """Return the lines that a key stands for; None where it was not used with this input."""
    if key is None:
        return None
    keys = tables.idempotency_keys
    query = select(keys.c.outcome).where(
        keys.c.billable == billable, keys.c.key == key.key, keys.c.fingerprint == key.fingerprint
    )

    def read(connection: Connection) -> Sequence[CreditTransaction] | None:
        outcome = connection.execute(query).scalar()
        if outcome is None:
            return None
        return _lines(
            connection, [(str(name), str(unit), int(number)) for name, unit, number in json.loads(outcome)["lines"]]
        )

    return engine.read(read)


def _lines(connection: Connection, places: Sequence[tuple[str, str, int]]) -> list[CreditTransaction]:
    lines = tables.credit_transactions
    named = or_(
        *(
            and_(lines.c.billable == billable, lines.c.unit == unit, lines.c.number == number)
            for billable, unit, number in places
        )
    )
    found = {
        (row.billable, row.unit, row.number): CreditTransaction.from_row(tuple(row), replayed=True)
        for row in connection.execute(select(lines).where(named))
    }
    return [found[place] for place in places]
