"""Moving many subscriptions to a plan, and saying beforehand what a change would credit and charge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from tallystick.errors import InvalidInput, NotFound, TallystickError
from tallystick.identity import billable_reference
from tallystick.invoicing.fees import FeeItem
from tallystick.money import Money
from tallystick.period import from_micros, to_micros
from tallystick.plans.plans import find_version
from tallystick.plans.revising import current_subscription, expected_items, named, revise, terms_of
from tallystick.plans.revisions import Revision, plan_change
from tallystick.plans.terms import PlanVersion, Subscription, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Migration", "PlanChangePreview", "migrate_plans", "preview_change"]


@dataclass(frozen=True, slots=True)
class PlanChangePreview:
    """What a change of plan would do: `credit` is given back of what was paid, `charge` is charged instead.

    Both are put on the next invoice. Where the new plan begins its own period, its fee comes with that, not here.
    """

    billable: str
    subscription_id: str
    previous_plan: PlanVersion
    plan: PlanVersion
    effective_at: datetime
    credit: Money
    charge: Money


@dataclass(frozen=True, slots=True)
class Migration:
    """What became of one subscription: moved, or not, and then `error` says why. In a dry run nothing was `applied`."""

    billable: str
    subscription_id: str | None
    from_plan: str | None
    from_version: int | None
    to_plan: str
    to_version: int
    effective_at: datetime | None
    credit: Money
    charge: Money
    applied: bool
    error: TallystickError | None = None


def preview_change(
    engine: Engine, name: object, plan: str, *, prorate: bool, at_period_end: bool, version: int | None
) -> PlanChangePreview:
    """Say what a change of plan would do."""

    def read(connection: Connection) -> PlanChangePreview:
        followed = find_version(connection, plan, version)
        return _preview(engine, connection, name, followed, prorate=prorate, at_period_end=at_period_end)

    return engine.read(read)


def migrate_plans(
    engine: Engine,
    plan: str,
    billables: object,
    *,
    from_plan: str | None,
    version: int | None,
    prorate: bool,
    at_period_end: bool,
    dry_run: bool,
) -> list[Migration]:
    """Move subscriptions to a plan, each in a transaction of its own."""
    if billables is None and from_plan is None:
        raise InvalidInput("billables", None, "Name whom to move, or give from_plan for all who follow it.")
    followed = engine.read(lambda connection: find_version(connection, plan, version))

    def look(connection: Connection) -> PlanChangePreview:
        return _preview(
            engine, connection, name, followed, prorate=prorate, at_period_end=at_period_end, from_plan=from_plan
        )

    def decide(_: Connection, before: Subscription, terms: Terms, at: datetime) -> Revision | None:
        _require_follows(before, from_plan)
        return plan_change(engine, before, terms, followed, at=at, prorate=prorate, at_period_end=at_period_end)

    moved: list[Migration] = []
    for name in _on_plan(engine, from_plan) if billables is None and from_plan is not None else _several(billables):
        try:
            preview = engine.read(look)
            if not dry_run:
                revise(engine, preview.subscription_id, decide)
            moved.append(_migration(preview, applied=not dry_run))
        except TallystickError as error:
            moved.append(_not_moved(engine, name, followed, error))
    return moved


def _not_moved(engine: Engine, name: object, plan: PlanVersion, error: TallystickError) -> Migration:
    is_id = isinstance(name, str) and name.startswith("sub_")
    return Migration(
        billable=str(name) if is_id else billable_reference(name, engine.billable_resolver),
        subscription_id=str(name) if is_id else None,
        from_plan=None,
        from_version=None,
        to_plan=plan.slug,
        to_version=plan.version,
        effective_at=None,
        credit=Money.from_nanos(0, plan.currency),
        charge=Money.from_nanos(0, plan.currency),
        applied=False,
        error=error,
    )


def _preview(
    engine: Engine,
    connection: Connection,
    name: object,
    plan: PlanVersion,
    *,
    prorate: bool,
    at_period_end: bool,
    from_plan: str | None = None,
) -> PlanChangePreview:
    now = engine.now()
    at = from_micros(now)
    reference, subscription_id = named(engine, connection, name)
    terms = terms_of(engine, connection, reference)
    before = current_subscription(terms, at, subscription_id)
    _require_follows(before, from_plan)
    revision = plan_change(engine, before, terms, plan, at=at, prorate=prorate, at_period_end=at_period_end)
    items: Sequence[FeeItem] = ()
    effective_at = at
    if revision is not None and before.billed_until is not None and not before.is_pending:
        after = revision.after
        billed_until = to_micros(before.billed_until)
        items = expected_items(
            engine, connection, terms, before, after, billed_until=billed_until, at=now, is_prorated=prorate
        )
        effective_at = after.changes[-1].starts_at if after.changes else at
    return PlanChangePreview(
        billable=before.billable,
        subscription_id=before.id,
        previous_plan=before.plan,
        plan=plan,
        effective_at=effective_at,
        credit=Money.from_nanos(-sum(one.amount for one in items if one.amount < 0), before.plan.currency),
        charge=Money.from_nanos(sum(one.amount for one in items if one.amount > 0), plan.currency),
    )


def _require_follows(subscription: Subscription, from_plan: str | None) -> None:
    if from_plan is not None and subscription.plan.slug != from_plan:
        raise InvalidInput("from_plan", from_plan, f"{subscription.billable} follows {subscription.plan.slug}.")


def _on_plan(engine: Engine, slug: str) -> list[object]:
    """Return the ids of the subscriptions that follow a plan now, and have not ended."""
    subscriptions, changes = tables.subscriptions, tables.subscription_changes
    versions, plans = tables.plan_versions, tables.plans
    grace = engine.settings.billing.payment_failure_grace_period_days

    def read(connection: Connection) -> list[object]:
        if connection.execute(select(plans.c.id).where(plans.c.slug == slug)).first() is None:
            raise NotFound("plan", slug)
        of_plan = select(versions.c.id).join(plans, plans.c.id == versions.c.plan_id).where(plans.c.slug == slug)
        begun = select(subscriptions.c.id).where(subscriptions.c.plan_version_id.in_(of_plan))
        changed = select(changes.c.subscription_id).where(changes.c.plan_version_id.in_(of_plan))
        ids = set(connection.execute(begun).scalars()) | set(connection.execute(changed).scalars())
        now = engine.clock.now()
        found: list[object] = []
        for one in sorted(ids):
            reference, _ = named(engine, connection, one)
            current = current_subscription(terms_of(engine, connection, reference), now, one)
            if current.plan.slug == slug and not current.status(now, grace_period_days=grace).has_ended:
                found.append(one)
        return found

    return engine.read(read)


def _several(billables: object) -> Iterable[object]:
    if isinstance(billables, str | tuple) or not isinstance(billables, Iterable):
        return [billables]
    return list(billables)


def _migration(preview: PlanChangePreview, *, applied: bool) -> Migration:
    return Migration(
        billable=preview.billable,
        subscription_id=preview.subscription_id,
        from_plan=preview.previous_plan.slug,
        from_version=preview.previous_plan.version,
        to_plan=preview.plan.slug,
        to_version=preview.plan.version,
        effective_at=preview.effective_at,
        credit=preview.credit,
        charge=preview.charge,
        applied=applied,
    )
