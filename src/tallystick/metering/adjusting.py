"""Adjusting what was counted: a correction of a quantity, as an event of its own that counts when the use did.

How much of an event, or of a day, was adjusted is kept in a counter, so that no more is taken back than there was,
however many adjust it at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from tallystick.errors import CallInProgress, InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.limits.counters import CounterKey
from tallystick.metering.commands import InProgress, RecordUsage, Replayed, earlier_use
from tallystick.metering.input import checked_key
from tallystick.metering.recording import Recorded, UsageFacts, draft, record
from tallystick.quantity import MILLIONTHS, from_millionths, to_millionths
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.metering.call import CallContext
    from tallystick.storage.workspace import Workspace

__all__ = ["ADJUSTED", "CORRECTION", "Adjustment", "adjust_event", "adjust_use"]

ADJUSTED = "adjusted"
"""The meter of the counters that say how much of an event, or of a day, was adjusted."""

CORRECTION = "correction"
"""The flag of events that correct others."""

_QUANTITY_MIN = -(10**18)
_REASON_LENGTH_MAX = 500


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What is to be corrected by how much (millionths), and why."""

    quantity: int
    reason: str
    metadata: dict[str, object]
    idempotency_key: str | None

    @classmethod
    def checked(cls, engine: Engine, *, quantity: Any, reason: str, idempotency_key: str | None) -> Adjustment:
        """Check what a caller states."""
        amount = to_millionths(quantity, least=_QUANTITY_MIN)
        if not amount:
            raise InvalidInput("quantity", quantity, "Give what is to be taken back (below zero), or added.")
        if not isinstance(reason, str) or not reason.strip() or len(reason) > _REASON_LENGTH_MAX:
            raise InvalidInput("reason", reason, f"Say why, in up to {_REASON_LENGTH_MAX} characters.")
        metadata: dict[str, object] = {"reason": reason.strip()}
        engine.metadata_policy.encoded(metadata)
        return cls(amount, reason.strip(), metadata, None if idempotency_key is None else checked_key(idempotency_key))


@dataclass(slots=True)
class _Adjust(RecordUsage):
    """Record an adjustment, unless it takes back more than there is. `available` is what there was without any."""

    adjusted: CounterKey
    available: int
    of_what: str

    def needs(self, workspace: Workspace) -> None:
        RecordUsage.needs(self, workspace)
        workspace.want_counter(self.adjusted)

    def decide(self, workspace: Workspace) -> Recorded | Replayed | InProgress:
        facts = self.facts
        if facts.idempotency_key is not None:
            earlier = earlier_use(
                workspace, facts.billable, facts.idempotency_key, facts.fingerprint, facts.recorded_at
            )
            if earlier is not None:
                return earlier
        counter = workspace.counter(self.adjusted)
        left = self.available + counter.used
        if left + facts.quantity < 0:
            raise InvalidInput(
                "quantity",
                str(from_millionths(facts.quantity)),
                f"Of {self.of_what} {from_millionths(left)} are there to be taken back.",
            )
        drafted = draft(workspace, facts, self.rates)
        counter.used += facts.quantity
        return record(workspace, facts, drafted, hold_id=None)


def adjust_event(engine: Engine, event_id: object, wanted: Adjustment) -> Recorded | Replayed:
    """Correct the quantity of one event."""
    if not isinstance(event_id, str) or not event_id.startswith("evt_"):
        raise InvalidInput("what", event_id, "Give an event's id, or a billable with a resource_type.")
    events = tables.usage_events
    row = engine.read(lambda connection: connection.execute(select(events).where(events.c.id == event_id)).first())
    if row is None:
        raise NotFound("usage event", event_id, "One that clean-up has removed is adjusted by billable and day.")
    if row.corrects_event_id is not None:
        raise InvalidInput("what", event_id, "It is a correction itself: adjust what it corrects.")
    _require_whole(engine, row.resource_type, wanted)
    facts = UsageFacts(
        event_id=new_id("evt"),
        billable=row.billable,
        user_id=row.user_id,
        tenant_id=row.tenant_id,
        provider=row.provider,
        model=row.model,
        feature=row.feature,
        resource_type=row.resource_type,
        quantity=wanted.quantity,
        input_tokens=0,
        output_tokens=0,
        usage=None,
        costs=(0, 0, 0),
        currency=row.currency,
        price=None,
        flags=(CORRECTION,),
        metadata=engine.metadata_policy.encoded(wanted.metadata),
        occurred_at=row.occurred_at,
        recorded_at=engine.now(),
        billing_mode=row.billing_mode,
        idempotency_key=wanted.idempotency_key,
        fingerprint=_fingerprint(wanted, event=row.id),
        corrects_event_id=row.id,
        key_id=row.key_id,
    )
    key = CounterKey(row.billable, ADJUSTED, row.id, "", 0)
    return _run(engine, _Adjust(facts, engine.currency_rates, key, row.quantity, f"event {row.id}"))


def adjust_use(engine: Engine, context: CallContext, wanted: Adjustment, occurred_at: int) -> Recorded | Replayed:
    """Correct how much of a resource type was used on a day: a correction that names no event but itself."""
    _require_whole(engine, context.resource_type, wanted)
    day = engine.terms(context.billable).calendar("daily", occurred_at)[0]
    key = CounterKey(context.billable, ADJUSTED, f"{context.resource_type}:{day}", "", 0)
    event_id = new_id("evt")
    facts = UsageFacts(
        event_id=event_id,
        billable=context.billable,
        user_id=context.user_id,
        tenant_id=context.tenant_id,
        provider="",
        model="",
        feature=context.feature,
        resource_type=context.resource_type,
        quantity=wanted.quantity,
        input_tokens=0,
        output_tokens=0,
        usage=None,
        costs=(0, 0, 0),
        currency=engine.settings.billing.currency,
        price=None,
        flags=(CORRECTION,),
        metadata=context.metadata,
        occurred_at=occurred_at,
        recorded_at=engine.now(),
        idempotency_key=wanted.idempotency_key,
        fingerprint=_fingerprint(wanted, resource_type=context.resource_type, occurred_at=occurred_at),
        corrects_event_id=event_id,
    )
    used = engine.read_snapshot(lambda connection: _used_on(connection, context, day, key))
    return _run(engine, _Adjust(facts, engine.currency_rates, key, used, f"{context.resource_type} on that day"))


def _run(engine: Engine, command: _Adjust) -> Recorded | Replayed:
    answer = engine.lane.run(command)
    if isinstance(answer, InProgress):
        raise CallInProgress(command.facts.idempotency_key or "", answer.hold_id)
    return answer


def _used_on(connection: Connection, context: CallContext, day: int, key: CounterKey) -> int:
    """Return how much was used on a day, without what was adjusted of it as a whole."""
    daily, counters = tables.usage_daily.c, tables.counters.c
    used = select(func.coalesce(func.sum(daily.quantity), 0)).where(
        daily.billable == context.billable,
        daily.bucket_start == day,
        daily.resource_type == context.resource_type,
    )
    names = zip(CounterKey._fields, key, strict=True)
    adjusted = select(counters.used).where(*(counters[name] == value for name, value in names))
    return int(connection.execute(used).scalar_one()) - int(connection.execute(adjusted).scalar() or 0)


def _require_whole(engine: Engine, resource_type: str, wanted: Adjustment) -> None:
    known = engine.settings.usage.resource_type(resource_type)
    if known is not None and not known.fractions and wanted.quantity % MILLIONTHS:
        stated: int | Decimal = from_millionths(wanted.quantity)
        raise InvalidInput("quantity", stated, f"{resource_type} is counted in whole units ({known.unit}).")


def _fingerprint(wanted: Adjustment, **what: object) -> str:
    """Return what a replay of the same key must repeat."""
    stated = {**what, "quantity": str(from_millionths(wanted.quantity)), "reason": wanted.reason}
    return json.dumps(stated, separators=(",", ":"))
