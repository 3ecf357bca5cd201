"""Changing one subscription in a transaction of its own: its terms, what that makes of fees, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, select, update

from tallystick.errors import NotFound
from tallystick.events import Event
from tallystick.identity import billable_reference, new_id
from tallystick.invoicing.accruing import charged_items, charged_until, free_keys, reversals_after, write_items
from tallystick.invoicing.billing_run import next_run_at
from tallystick.invoicing.fees import FeeItem, fees_between, prorations
from tallystick.invoicing.redeeming import follow_activation
from tallystick.period import from_micros, to_micros
from tallystick.plans.changing import first_anchor
from tallystick.plans.cycle import effective_end
from tallystick.plans.loading import journal_change, load_terms, lock_terms
from tallystick.plans.revisions import Revision
from tallystick.plans.terms import PlanChange, Subscription, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["current_subscription", "expected_items", "named", "revise", "revise_in", "terms_of"]


Decide = Callable[[Connection, Subscription, Terms, datetime], Revision | None]


def terms_of(engine: Engine, connection: Connection, billable: str) -> Terms:
    """Read the terms of one billable in a transaction."""
    return load_terms(connection, [billable], engine.terms_policy)[billable]


def current_subscription(terms: Terms, at: datetime, subscription_id: str | None = None) -> Subscription:
    """Return the subscription in force, else the one made last; or the one of an id. As it is seen at an instant.

    Raises:
        NotFound: there is none.
    """
    if subscription_id is not None:
        found = next((one for one in terms.subscriptions if one.id == subscription_id), None)
        if found is None:
            raise NotFound("subscription", subscription_id)
        return found.seen_at(at)
    current = terms.subscription_at(at)
    if current is not None:
        return current
    if not terms.subscriptions:
        remedy = f"Create one with ts.subscriptions.create({terms.billable!r}, plan)."
        raise NotFound("subscription", terms.billable, remedy)
    return max(terms.subscriptions, key=lambda one: (one.created_at, one.id)).seen_at(at)


def named(engine: Engine, connection: Connection, name: object) -> tuple[str, str | None]:
    """Return the billable, and the id where a subscription was named by its own id."""
    if isinstance(name, str) and name.startswith("sub_"):
        subscriptions = tables.subscriptions
        found = connection.execute(select(subscriptions.c.billable).where(subscriptions.c.id == name)).scalar()
        if found is None:
            raise NotFound("subscription", name)
        return found, name
    return billable_reference(name, engine.billable_resolver), None


def revise(engine: Engine, name: object, decide: Decide) -> Subscription:
    """Change the subscription of a billable, or of an id, as `decide` says; None leaves it as it is."""

    def work(connection: Connection) -> tuple[Subscription, list[Event]]:
        return revise_in(engine, connection, name, decide)

    changed, events = engine.lane.transact(work)
    engine.handlers.send(events)
    return changed


def revise_in(engine: Engine, connection: Connection, name: object, decide: Decide) -> tuple[Subscription, list[Event]]:
    """Change a subscription in a transaction that is open. Returns it, and the events to be sent after the commit."""
    now = engine.now()
    at = from_micros(now)
    billable, subscription_id = named(engine, connection, name)
    lock_terms(connection)
    terms = terms_of(engine, connection, billable)
    before = current_subscription(terms, at, subscription_id)
    subscriptions = tables.subscriptions
    # The run that bills subscriptions has it locked while it moves its cursor.
    row = connection.execute(
        select(subscriptions.c.billed_until, subscriptions.c.next_billing_at)
        .where(subscriptions.c.id == before.id)
        .with_for_update()
    ).one()
    revision = decide(connection, before, terms, at)
    if revision is None or revision.after == before:
        return before, []
    after = revision.after
    _save(connection, before, after)
    if before.is_pending and not after.is_pending:
        follow_activation(connection, after, terms.billing_zone(after))
    billed_until = _bill(engine, connection, terms, before, revision, row.billed_until, now)
    next_at = None if billed_until is None else next_run_at(engine, after, terms, billed_until)
    if billed_until is None:
        next_at = row.next_billing_at
    moved = update(subscriptions).where(subscriptions.c.id == after.id)
    connection.execute(moved.values(billed_until=billed_until, next_billing_at=next_at))
    journal_change(connection, billable)
    changed = current_subscription(terms_of(engine, connection, billable), at, after.id)
    told = [] if revision.told is None else list(revision.told(changed))
    engine.outgoing.tell(connection, told)
    return changed, [one.event for one in told if one.event is not None]


def expected_items(
    engine: Engine,
    connection: Connection,
    terms: Terms,
    before: Subscription,
    after: Subscription,
    *,
    billed_until: int,
    at: int,
    is_prorated: bool,
) -> list[FeeItem]:
    """Return what a change that is made now, or is to come, makes of the fees that were charged."""
    return prorations(
        before,
        after,
        terms.billing_zone(before),
        at=at,
        charged_until=max(billed_until, charged_until(connection, before.id)),
        grace_period_days=engine.settings.billing.payment_failure_grace_period_days,
        is_prorated=is_prorated,
        charged=charged_items(connection, before.id, at),
        # Each change is made once, under the lock of its subscription.
        key=new_id("itm"),
    )


def _bill(
    engine: Engine,
    connection: Connection,
    terms: Terms,
    before: Subscription,
    revision: Revision,
    billed_until: int | None,
    now: int,
) -> int | None:
    """Write what the change makes of fees. Returns until when the subscription is billed; None: not here as yet."""
    after = revision.after
    if revision.settled_by is not None:
        write_items(connection, [revision.settled_by], now)
    if billed_until is None:
        return None
    if before.is_pending:
        return to_micros(after.started_at) - 1
    if engine.settings.invoicing.enabled:
        write_items(connection, _owed(engine, connection, terms, before, revision, billed_until, now), now)
    cursor = _rewound(engine, before, after, billed_until)
    if cursor < billed_until and (revision.is_prorated is not None or revision.revived_from is not None):
        _free_keys(connection, after.id, cursor)
    return cursor


def _owed(
    engine: Engine,
    connection: Connection,
    terms: Terms,
    before: Subscription,
    revision: Revision,
    billed_until: int,
    now: int,
) -> list[FeeItem]:
    """Return what a change makes of fees: what was due before it, and what it gives back and charges instead."""
    after = revision.after
    if revision.is_prorated is None and revision.revived_from is None:
        return []
    zone = terms.billing_zone(before)
    grace = engine.settings.billing.payment_failure_grace_period_days
    # What fell due before the change, and was not found by the run as yet, was due under the terms before it.
    due = fees_between(before, zone, after=billed_until, until=now, grace_period_days=grace)
    write_items(connection, due, now)
    if revision.revived_from is not None:
        # What is left of the period in which it expired was charged, and is given back: a new one begins.
        ended_at = to_micros(revision.revived_from)
        lasting = replace(before, payment_failed_at=None)
        items = expected_items(
            engine, connection, terms, lasting, after, billed_until=ended_at, at=ended_at, is_prorated=True
        )
        return [*items, *reversals_after(connection, before, ended_at)]
    return expected_items(
        engine,
        connection,
        terms,
        before,
        after,
        billed_until=billed_until,
        at=now,
        is_prorated=bool(revision.is_prorated),
    )


def _rewound(engine: Engine, before: Subscription, after: Subscription, billed_until: int) -> int:
    """Return until when a subscription counts as billed: until a change begins, or no longer begins, a new cycle.

    And until before its end, where that has become an earlier one: the end is an instant of its own.
    """
    new = [change for change in after.changes if change not in before.changes]
    dropped = [change for change in before.changes if change not in after.changes]
    begins = [to_micros(change.anchor_at) for change in (*new, *dropped) if change.anchor_at is not None]
    cycle = before.plan.billing_cycle
    if any(one.anchor_at is None and one.plan is not None and one.plan.billing_cycle != cycle for one in new):
        # In a trial whose first period was billed ahead.
        begins.append(to_micros(first_anchor(after)))
    cursor = min([billed_until, *(start - 1 for start in begins)])
    grace = engine.settings.billing.payment_failure_grace_period_days
    end = effective_end(after, grace)
    return min(cursor, end - 1) if end != effective_end(before, grace) else cursor


def _free_keys(connection: Connection, subscription_id: str, cursor: int) -> None:
    """Let fees after the cursor be charged again: those that were charged have been given back."""
    items = tables.invoice_items
    charged = and_(items.c.subscription_id == subscription_id, items.c.kind == "fee", items.c.period_start > cursor)
    free_keys(connection, connection.execute(select(items.c.id).where(charged)).scalars().all())


def _save(connection: Connection, before: Subscription, after: Subscription) -> None:
    subscriptions, changes = tables.subscriptions, tables.subscription_changes
    values: dict[str, Any] = {
        "plan_version_id": after.first_plan.id,
        "started_at": to_micros(after.started_at),
        "trial_ends_at": _micros(after.trial_ends_at),
        "is_pending": after.is_pending,
        "cancelled_at": _micros(after.cancelled_at),
        "cancels_at": _micros(after.cancels_at),
        "term_ends_at": _micros(after.term_ends_at),
        "payment_failed_at": _micros(after.payment_failed_at),
        "metadata": json.dumps(dict(after.metadata), separators=(",", ":")) if after.metadata else None,
    }
    connection.execute(update(subscriptions).where(subscriptions.c.id == after.id).values(**values))
    kept = {change.id for change in after.changes}
    dropped = [change.id for change in before.changes if change.id not in kept]
    if dropped:
        connection.execute(delete(changes).where(changes.c.id.in_(dropped)))
    known = {change.id for change in before.changes}
    rows = [_change_row(after.id, change) for change in after.changes if change.id not in known]
    if rows:
        connection.execute(changes.insert(), rows)


def _change_row(subscription_id: str, change: PlanChange) -> dict[str, Any]:
    return {
        "id": change.id,
        "subscription_id": subscription_id,
        "kind": change.kind.value,
        "starts_at": to_micros(change.starts_at),
        "plan_version_id": None if change.plan is None else change.plan.id,
        "anchor_at": _micros(change.anchor_at),
        "is_prorated": change.is_prorated,
        "created_at": to_micros(change.created_at),
    }


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else to_micros(instant)
