"""`ts.subscriptions`: which plan version a billable follows, from when until when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, update

from tallystick.errors import Conflict, InvalidInput, NotFound
from tallystick.events import Event, SubscriptionCancelled, SubscriptionCreated
from tallystick.identity import billable_reference, new_id
from tallystick.notify.composing import payment_failed, payment_succeeded
from tallystick.notify.outgoing import Told
from tallystick.period import from_micros, to_micros
from tallystick.plans.loading import journal_change, lock_terms
from tallystick.plans.plans import find_version
from tallystick.plans.terms import BillingMode, Subscription, SubscriptionStatus, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Subscriptions"]


class Subscriptions:
    """Creates, finds and ends subscriptions. A status follows from dates; no job has to run for it to change."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        billable: object,
        plan: str,
        *,
        billing_mode: str = "plan",
        started_at: str | datetime | None = None,
        trial_ends_at: str | datetime | None = None,
        ends_at: str | datetime | None = None,
        pending: bool = False,
    ) -> Subscription:
        """Subscribe a billable to the newest published version of a plan.

        It starts now, or at `started_at`, also in the future. A trial lasts until `trial_ends_at`, else the plan's
        `trial_days`. A `pending` one is not in force until it is activated.

        With the `billing_mode` "credits" its calls are paid from the billable's wallet and do not count against the
        plan's limits; the plan's features hold all the same.

        Raises:
            PlanNotFound: no such plan.
            Conflict: the billable has a subscription that has not ended.
            InvalidInput: no plan, no such billing mode, or dates that contradict each other.
        """
        reference = billable_reference(billable, self._engine.billable_resolver)
        if billing_mode not in tuple(BillingMode):
            raise InvalidInput(
                "billing_mode", billing_mode, f"Use {' or '.join(repr(str(one)) for one in BillingMode)}."
            )
        _require_plan(plan, billing_mode)
        now = self._engine.now()
        start = self._engine.instant(started_at, field="started_at")
        trial_end = None if trial_ends_at is None else self._engine.instant(trial_ends_at, field="trial_ends_at")
        end = None if ends_at is None else self._engine.instant(ends_at, field="ends_at")
        for name, instant in (("trial_ends_at", trial_end), ("ends_at", end)):
            if instant is not None and instant <= start:
                raise InvalidInput(name, from_micros(instant).isoformat(), "It must lie after started_at.")
        subscription_id = new_id("sub")

        def insert(connection: Connection) -> SubscriptionCreated:
            lock_terms(connection)
            version = find_version(connection, plan)
            terms = self._terms(connection, reference)
            _require_no_other(terms, start, self._engine.settings.billing.payment_failure_grace_period_days)
            trial = trial_end
            if trial is None and version.trial_days:
                trial = to_micros(from_micros(start) + timedelta(days=version.trial_days))
            connection.execute(
                tables.subscriptions.insert().values(
                    id=subscription_id,
                    billable=reference,
                    plan_version_id=version.id,
                    billing_mode=billing_mode,
                    started_at=start,
                    trial_ends_at=trial,
                    is_pending=pending,
                    term_ends_at=end,
                    created_at=now,
                )
            )
            journal_change(connection, reference)
            subscribed = next(
                one for one in self._terms(connection, reference).subscriptions if one.id == subscription_id
            )
            event = SubscriptionCreated(billable=reference, at=from_micros(now), subscription=subscribed)
            self._engine.outgoing.tell(connection, [Told(None, event)])
            return event

        created = self._engine.lane.transact(insert)
        self._send(created)
        return created.subscription

    def get(self, billable: object) -> Subscription:
        """Return the billable's subscription: the one in force, else the one made last.

        Raises:
            NotFound: it never had one.
        """
        reference = billable_reference(billable, self._engine.billable_resolver)
        terms = self._engine.terms(reference)
        current = terms.subscription_at(self._engine.clock.now())
        if current is not None:
            return current
        if not terms.subscriptions:
            raise NotFound("subscription", reference, f"Create one with ts.subscriptions.create({reference!r}, plan).")
        return max(terms.subscriptions, key=lambda one: (one.created_at, one.id))

    def list(self, billable: object) -> list[Subscription]:
        """Return every subscription that the billable has had, the newest first."""
        reference = billable_reference(billable, self._engine.billable_resolver)
        return sorted(self._engine.terms(reference).subscriptions, key=lambda one: one.started_at, reverse=True)

    def status(self, billable: object, at: str | datetime | None = None) -> SubscriptionStatus:
        """Return the status of the billable's subscription now, or at an instant."""
        instant = from_micros(self._engine.instant(at, field="at"))
        grace = self._engine.settings.billing.payment_failure_grace_period_days
        return self.get(billable).status(instant, grace_period_days=grace)

    def activate(self, billable: object) -> Subscription:
        """Put a pending subscription in force, from now on where its start has passed."""
        current = self.get(billable)
        now = self._engine.now()
        start = max(now, to_micros(current.started_at))
        return self._change(current, is_pending=False, started_at=start)[0]

    def cancel(self, billable: object, *, immediately: bool = False) -> Subscription:
        """Cancel the subscription at the end of the period that is paid, or at once.

        Until then it stays in force; `resume` takes the cancellation back. Cancelling twice keeps the first end, except
        that `immediately` always ends it now.

        Raises:
            NotFound: there is none. Conflict: it has ended already.
        """
        current = self._open(billable)
        now = self._engine.now()
        if immediately:
            end = now
        elif current.cancels_at is not None:
            return current
        else:
            rule = self._engine.terms(current.billable).period_rule(current)
            # One that has not begun ends before it does.
            end = (
                rule.bounds_micros(now)[1] if current.started_at <= from_micros(now) else to_micros(current.started_at)
            )

        def told(cancelled: Subscription) -> Told:
            ends_at = cancelled.ends_at or from_micros(end)
            at = from_micros(now)
            event = SubscriptionCancelled(billable=current.billable, at=at, subscription=cancelled, ends_at=ends_at)
            return Told(None, event)

        cancelled, event = self._change(current, told, cancelled_at=now, cancels_at=end)
        if event is not None:
            self._send(event)
        return cancelled

    def resume(self, billable: object) -> Subscription:
        """Take a cancellation back before its end.

        Raises:
            Conflict: it was not cancelled, or has ended.
        """
        current = self._open(billable)
        if current.cancelled_at is None:
            raise Conflict(f"The subscription of {current.billable} is not cancelled.")
        return self._change(current, cancelled_at=None, cancels_at=None)[0]

    def payment_failed(self, billable: object, at: str | datetime | None = None) -> Subscription:
        """Start the grace period: it stays in force for `billing.payment_failure_grace_period_days`, then expires.

        A second failure in the same grace period does not prolong it.
        """
        current = self._open(billable)
        if current.payment_failed_at is not None:
            return current
        failed_at = self._engine.instant(at, field="at")
        grace_until = from_micros(failed_at) + timedelta(
            days=self._engine.settings.billing.payment_failure_grace_period_days
        )
        now = from_micros(self._engine.now())

        def told(failed: Subscription) -> Told:
            return Told(payment_failed(failed, grace_until, now), None)

        return self._change(current, told, payment_failed_at=failed_at)[0]

    def payment_succeeded(self, billable: object) -> Subscription:
        """End the grace period, also after it ran out: the subscription is in force again."""
        current = self.get(billable)
        if current.payment_failed_at is None:
            return current
        now = from_micros(self._engine.now())
        return self._change(current, lambda paid: Told(payment_succeeded(paid, now), None), payment_failed_at=None)[0]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _open(self, billable: object) -> Subscription:
        current = self.get(billable)
        if current.ends_at is not None and current.ends_at <= self._engine.clock.now():
            raise Conflict(f"The subscription of {current.billable} ended at {current.ends_at:%Y-%m-%d %H:%M} UTC.")
        return current

    def _change(
        self, subscription: Subscription, told: Callable[[Subscription], Told] | None = None, **values: Any
    ) -> tuple[Subscription, Event | None]:
        """Change a subscription, and write what is told of it with the change. Returns it, and its event."""

        def change(connection: Connection) -> tuple[Subscription, Event | None]:
            subscriptions = tables.subscriptions
            connection.execute(update(subscriptions).where(subscriptions.c.id == subscription.id).values(**values))
            journal_change(connection, subscription.billable)
            terms = self._terms(connection, subscription.billable)
            changed = next(one for one in terms.subscriptions if one.id == subscription.id)
            if told is None:
                return changed, None
            about = told(changed)
            self._engine.outgoing.tell(connection, [about])
            return changed, about.event

        return self._engine.lane.transact(change)

    def _terms(self, connection: Connection, billable: str) -> Terms:
        from tallystick.plans.loading import load_terms

        return load_terms(connection, [billable], self._engine.terms_policy)[billable]

    def _send(self, event: Event) -> None:
        if self._engine.handlers.wants(type(event)):
            self._engine.handlers.send([event])


def _require_plan(plan: object, billing_mode: str) -> None:
    if not isinstance(plan, str) or not plan.strip():
        remedy = "Name the plan by its slug."
        if billing_mode == BillingMode.CREDITS:
            remedy += (
                " A subscription in credits mode needs a plan too: its features hold, and use is paid from the wallet."
            )
        raise InvalidInput("plan", plan, remedy)


def _require_no_other(terms: Terms, start: int, grace_period_days: int) -> None:
    """One subscription at a time: another may begin only where the one before has ended by then."""
    at = from_micros(start)
    for other in terms.subscriptions:
        status = other.status(max(at, other.started_at), grace_period_days=grace_period_days)
        if status not in (SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED):
            raise Conflict(
                f"{terms.billable} has a subscription to {other.plan.slug} ({status}, since "
                f"{other.started_at:%Y-%m-%d}). Cancel it first, or start this one after its end."
            )
