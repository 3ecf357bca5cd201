"""Pricing events again: a preview of the differences, then corrections as new events. Nothing is ever edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tallystick.errors import CurrencyMismatch, UnknownPrice
from tallystick.identity import new_id
from tallystick.metering.commands import RecordUsage
from tallystick.metering.listing import EventFilter, list_events
from tallystick.metering.recording import Recorded, UsageFacts
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import Money
from tallystick.period import to_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.pricing.cost import Cost

__all__ = ["Repriced", "Repricing", "reprice"]

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Repriced:
    """One event whose cost is, or would be, another. `before` is None where it had no price."""

    event_id: str
    billable: str
    before: Money | None
    after: Money
    difference: Money


@dataclass(frozen=True, slots=True)
class Repricing:
    """The differences that pricing again makes. `still_unpriced` events have no price even now."""

    differences: tuple[Repriced, ...]
    unchanged: int
    still_unpriced: int
    applied: bool

    @property
    def total_differences(self) -> tuple[Money, ...]:
        """The sum of the differences, one amount for each currency."""
        sums: dict[str, Money] = {}
        for one in self.differences:
            currency = one.difference.currency
            sums[currency] = sums.get(currency, Money(0, currency)) + one.difference
        return tuple(sums[currency] for currency in sorted(sums))


@dataclass(frozen=True, slots=True)
class _Corrections:
    """What the corrections of one event add up to."""

    total_nanos: int = 0
    output_nanos: int = 0
    count: int = 0


def reprice(engine: Engine, wanted: EventFilter, *, only_unpriced: bool, apply: bool) -> Repricing:
    """Compare each event's cost, corrections included, with what the prices say now for when it happened."""
    differences: list[Repriced] = []
    unchanged = still_unpriced = 0
    for page in _pages(engine, wanted):
        corrections = _corrections(engine, [event.id for event in page])
        commands: list[RecordUsage] = []
        for event in page:
            added = corrections.get(event.id, _Corrections())
            before = _cost_now(event, added)
            if not _is_repriceable(event) or (only_unpriced and before is not None):
                continue
            cost = _priced_now(engine, event)
            if cost is None:
                still_unpriced += before is None
                continue
            after = cost.total_cost
            difference = after if before is None else after - before
            if before is not None and difference.is_zero:
                unchanged += 1
                continue
            differences.append(Repriced(event.id, event.billable, before, after, difference))
            commands.append(_correction(engine, event, cost, difference, added, was_unpriced=before is None))
        if apply:
            for answer in engine.lane.run_many(commands):
                if isinstance(answer, Recorded):
                    engine.announce(answer)
    return Repricing(tuple(differences), unchanged, still_unpriced, apply)


def _pages(engine: Engine, wanted: EventFilter) -> Iterator[list[UsageEvent]]:
    cursor: str | None = None
    while True:
        page = list_events(engine, wanted, limit=_PAGE, cursor=cursor)
        yield list(page)
        cursor = page.next_cursor
        if cursor is None:
            return


def _is_repriceable(event: UsageEvent) -> bool:
    if event.corrects_event_id is not None:
        return False
    if event.price is None:
        # Counted use, such as a message, has a cost of zero and no price; unpriced use has no cost.
        return event.cost is None
    return event.price.get("source") != "stated"


def _corrections(engine: Engine, event_ids: list[str]) -> dict[str, _Corrections]:
    """Return what corrections of costs have added to events so far. An adjustment of a quantity has no price."""
    events = tables.usage_events
    query = (
        select(events.c.corrects_event_id, func.sum(events.c.total_cost), func.sum(events.c.output_cost), func.count())
        .where(events.c.corrects_event_id.in_(event_ids), events.c.price.isnot(None))
        .group_by(events.c.corrects_event_id)
    )
    rows = engine.read(lambda connection: connection.execute(query).all())
    return {event_id: _Corrections(int(total), int(output), count) for event_id, total, output, count in rows}


def _cost_now(event: UsageEvent, added: _Corrections) -> Money | None:
    if not added.count:
        return event.cost
    base = event.cost.nanos if event.cost is not None else 0
    return Money.from_nanos(base + added.total_nanos, event.currency)


def _output_now(event: UsageEvent, added: _Corrections) -> int:
    output = event.usage.output_cost
    return (output.nanos if output is not None else 0) + added.output_nanos


def _priced_now(engine: Engine, event: UsageEvent) -> Cost | None:
    usage = replace(event.usage, input_cost=None, output_cost=None, total_cost=None)
    for model in dict.fromkeys((event.model, usage.model or event.model)):
        try:
            return engine.pricing.cost(usage, event.provider, model, event.occurred_at, event.currency)
        except (UnknownPrice, CurrencyMismatch):
            continue
    return None


def _correction(
    engine: Engine, event: UsageEvent, cost: Cost, difference: Money, added: _Corrections, *, was_unpriced: bool
) -> RecordUsage:
    """Return the event that brings the cost to what it should be, at the time when the use happened."""
    occurred_at = to_micros(event.occurred_at)
    output = cost.output_nanos - _output_now(event, added)
    # The key names where the cost comes from and goes to, so that two operators at once correct it once; and how often
    # it was corrected before, since a price may come back.
    key = f"reprice:{event.id}:{added.count}:{cost.total_nanos - difference.nanos}:{cost.total_nanos}"
    facts = UsageFacts(
        event_id=new_id("evt"),
        billable=event.billable,
        user_id=event.user,
        tenant_id=event.tenant,
        provider=event.provider,
        model=event.model,
        feature=event.feature or "",
        resource_type=event.resource_type,
        quantity=0,
        input_tokens=0,
        output_tokens=0,
        usage=None,
        costs=(difference.nanos - output, output, difference.nanos),
        currency=event.currency,
        price=json.dumps(cost.to_dict(), separators=(",", ":")),
        flags=("correction",),
        metadata=None,
        occurred_at=occurred_at,
        recorded_at=engine.now(),
        billing_mode=event.billing_mode,
        idempotency_key=key,
        fingerprint="{}",
        corrects_event_id=event.id,
        prices_unpriced=was_unpriced,
    )
    return RecordUsage(facts, engine.currency_rates)
