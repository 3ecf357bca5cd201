"""`ts.subscriptions`: which plan version a billable follows, from when until when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from tallystick.errors import Conflict, InvalidInput
from tallystick.events import (
    PaymentSucceeded,
    SubscriptionCreated,
    SubscriptionRenewed,
)
from tallystick.identity import billable_reference, new_id
from tallystick.invoicing.billing_run import bill_due_subscriptions, next_run_at
from tallystick.invoicing.redeeming import checked_code, redeem_in
from tallystick.notify.composing import payment_succeeded
from tallystick.notify.outgoing import Told
from tallystick.period import MAX_MICROS, from_micros, to_micros
from tallystick.plans.changing import first_anchor, paid_until, paused, resumed, revived
from tallystick.plans.cycle import fee_period
from tallystick.plans.loading import journal_change, lock_terms
from tallystick.plans.migrating import Migration, PlanChangePreview, migrate_plans, preview_change
from tallystick.plans.plans import find_version
from tallystick.plans.revising import current_subscription, named, revise, terms_of
from tallystick.plans.revisions import (
    Revision,
    activation,
    cancellation,
    payment_failure,
    payment_recovered,
    plan_change,
)
from tallystick.plans.terms import BillingMode, Subscription, SubscriptionStatus, Terms
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Subscriptions"]


class Subscriptions:
    """Creates, changes and ends subscriptions. A status follows from dates; no job has to run for it to change.

    Where a method takes a billable, the id of one of its subscriptions names that one.
    """

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
        version: int | None = None,
        auto_renew: bool = True,
        billed_until: str | datetime | None = None,
        metadata: Mapping[str, object] | None = None,
        coupon: str | None = None,
    ) -> Subscription:
        """Subscribe a billable to a plan: to the version that new subscribers get, or to a published one by its number.

        It starts now, or at `started_at`, also in the future. A trial lasts until `trial_ends_at`, else the plan's
        `trial_days`. A `pending` one is not in force until its first invoice is paid, or it is activated.

        It renews itself for another period of the plan's cycle each time one ends, unless `ends_at` says when it ends,
        or `auto_renew` is off: then it ends with its first period. Fees and use from its start on are invoiced; the
        fees of periods that began before `billed_until` were billed elsewhere.

        A `coupon` (its code) takes something off what this subscription is charged, from its first paid period on. One
        that cannot be redeemed leaves nothing behind.

        With the `billing_mode` "credits" its calls are paid from the billable's wallet and do not count against the
        plan's limits; the plan's features hold all the same.

        Raises:
            PlanNotFound: no such plan.
            Conflict: the billable has a subscription that has not ended (`subscriptions.allow_multiple` allows it), or
                the plan is not sold any more.
            InvalidInput: no plan, no such billing mode or version, or dates that contradict each other.
            NotFound, Conflict, CurrencyMismatch: the coupon, as `ts.coupons.redeem`.
        """
        engine = self._engine
        reference = billable_reference(billable, engine.billable_resolver)
        _require_mode(billing_mode)
        _require_plan(plan, billing_mode)
        code = None if coupon is None else checked_code(coupon)
        now = engine.now()
        start = engine.instant(started_at, field="started_at")
        trial_end = None if trial_ends_at is None else engine.instant(trial_ends_at, field="trial_ends_at")
        end = None if ends_at is None else engine.instant(ends_at, field="ends_at")
        for name, instant in (("trial_ends_at", trial_end), ("ends_at", end)):
            if instant is not None and instant <= start:
                raise InvalidInput(name, from_micros(instant).isoformat(), "It must lie after started_at.")
        cursor = (start if billed_until is None else engine.instant(billed_until, field="billed_until")) - 1
        encoded = None if metadata is None else engine.metadata_policy.encoded(metadata)
        subscription_id = new_id("sub")

        def insert(connection: Connection) -> SubscriptionCreated:
            lock_terms(connection)
            followed = find_version(connection, plan, version)
            terms = terms_of(engine, connection, reference)
            if not engine.settings.subscriptions.allow_multiple:
                _require_no_other(terms, start, engine.settings.billing.payment_failure_grace_period_days)
            trial = trial_end
            if trial is None and followed.trial_days:
                trial = to_micros(from_micros(start) + timedelta(days=followed.trial_days))
            made = Subscription(
                id=subscription_id,
                billable=reference,
                plan=followed,
                billing_mode=BillingMode(billing_mode),
                started_at=from_micros(start),
                trial_ends_at=None if trial is None else from_micros(trial),
                is_pending=pending,
                cancelled_at=None,
                cancels_at=None,
                term_ends_at=None if end is None else from_micros(end),
                payment_failed_at=None,
                created_at=from_micros(now),
                timezone=terms.policy.zone,
            )
            if not auto_renew and end is None:
                made = replace(made, term_ends_at=_first_period_end(made, terms.policy.zone))
            next_at = now if pending else next_run_at(engine, made, terms, cursor)
            connection.execute(tables.subscriptions.insert().values(_row(made, cursor, next_at, encoded)))
            if code is not None:
                redeem_in(engine, connection, terms, code, subscription=made, is_new=True)
            journal_change(connection, reference)
            subscribed = current_subscription(
                terms_of(engine, connection, reference), from_micros(now), subscription_id
            )
            event = SubscriptionCreated(billable=reference, at=from_micros(now), subscription=subscribed)
            engine.outgoing.tell(connection, [Told(None, event)])
            return event

        created = engine.lane.transact(insert)
        engine.handlers.send([created])
        if pending and engine.settings.invoicing.enabled:
            # What has to be paid before it begins is known now.
            bill_due_subscriptions(engine, billable=reference)
            return self.get(subscription_id)
        return created.subscription

    def get(self, billable: object) -> Subscription:
        """Return the billable's subscription: the one in force, else the one made last.

        Raises:
            NotFound: it never had one.
        """
        engine = self._engine

        def read(connection: Connection) -> Subscription:
            reference, subscription_id = named(engine, connection, billable)
            return current_subscription(terms_of(engine, connection, reference), engine.clock.now(), subscription_id)

        return engine.read(read)

    def list(self, billable: object) -> list[Subscription]:
        """Return every subscription that the billable has had, the newest first."""
        reference = billable_reference(billable, self._engine.billable_resolver)
        now = self._engine.clock.now()
        found = [one.seen_at(now) for one in self._engine.terms(reference).subscriptions]
        return sorted(found, key=lambda one: one.started_at, reverse=True)

    def status(self, billable: object, at: str | datetime | None = None) -> SubscriptionStatus:
        """Return the status of the billable's subscription now, or at an instant."""
        instant = from_micros(self._engine.instant(at, field="at"))
        return self.get(billable).status(instant, grace_period_days=self._grace)

    def activate(self, billable: object) -> Subscription:
        """Put a pending subscription in force, from now on where its start has passed.

        Its first invoice, if there is one, pays the first period; it stays owed if it was not paid.
        """

        def decide(_: Connection, before: Subscription, terms: Terms, at: datetime) -> Revision | None:
            return activation(before, terms, at)

        return revise(self._engine, billable, decide)

    def cancel(self, billable: object, *, immediately: bool = False, prorate: bool = False) -> Subscription:
        """Cancel the subscription at the end of the period that is paid, or at once.

        Until then it stays in force; `resume` takes the cancellation back. Cancelling twice keeps the first end, except
        that `immediately` always ends it now; so does cancelling one that is pending, or that has expired in its grace
        period. With `prorate` what is left of the paid period is credited on the next invoice.

        Raises:
            NotFound: there is none. Conflict: it has ended already.
            InvalidInput: a lifetime plan has no end of a period: cancel it immediately.
        """

        def decide(_: Connection, before: Subscription, terms: Terms, at: datetime) -> Revision | None:
            self._require_open(before, at)
            status = before.status(at, grace_period_days=self._grace)
            if immediately or status in (SubscriptionStatus.PENDING, SubscriptionStatus.EXPIRED):
                end: datetime | None = at
            elif before.cancels_at is not None:
                return None
            else:
                end = paid_until(before, terms.billing_zone(before), at)
            if end is None:
                raise InvalidInput("immediately", False, "A lifetime plan has no end of a period: cancel it at once.")
            return cancellation(before, end=end, at=at, is_prorated=prorate)

        return revise(self._engine, billable, decide)

    def resume(self, billable: object) -> Subscription:
        """Let a paused subscription go on, or take a cancellation back before its end.

        One that was paused pays for the rest of its billing period, as far as that was given back.

        Raises:
            Conflict: it was neither paused nor cancelled, or has ended.
        """

        def decide(_: Connection, before: Subscription, terms: Terms, at: datetime) -> Revision | None:
            self._require_open(before, at)
            if before.status(at, grace_period_days=self._grace) is SubscriptionStatus.SUSPENDED:
                after = resumed(before, terms.billing_zone(before), at=at)
                return Revision(after, is_prorated=after.changes[-1].is_prorated)
            if before.cancelled_at is None:
                raise Conflict(f"The subscription of {before.billable} is neither paused nor cancelled.")
            return Revision(replace(before, cancelled_at=None, cancels_at=None), is_prorated=True)

        return revise(self._engine, billable, decide)

    def pause(self, billable: object, *, prorate: bool = True) -> Subscription:
        """Suspend the subscription from now on: no fees, and its calls are refused until `resume`.

        With `prorate` what is left of the paid period is credited on the next invoice.

        Raises:
            Conflict: it is not in force.
        """

        def decide(_: Connection, before: Subscription, __: Terms, at: datetime) -> Revision:
            after = paused(before, at=at, is_prorated=prorate, grace_period_days=self._grace)
            return Revision(after, is_prorated=prorate)

        return revise(self._engine, billable, decide)

    def renew(self, billable: object) -> Subscription:
        """Prolong a subscription until its next period has ended.

        One that would end (`ends_at`, `auto_renew=False`) ends with the billing period that comes after, or, where it
        would end inside one, with that one. A cancellation is taken back. One that
        has expired is in force again, for a period from now on; the time in between is neither in force nor charged.
        One without an end renews by itself, and stays as it is.

        Raises:
            Conflict: it was cancelled, and has ended: create a new one.
        """

        def decide(_: Connection, before: Subscription, terms: Terms, at: datetime) -> Revision | None:
            status = before.status(at, grace_period_days=self._grace)
            if status is SubscriptionStatus.CANCELLED:
                self._require_open(before, at)
            expired_at = self._expired_at(before, at) if status is SubscriptionStatus.EXPIRED else None
            after = self._renewed(before, terms.billing_zone(before), expired_at, at)

            def told(renewed: Subscription) -> Sequence[Told]:
                start = at if expired_at is not None else before.ends_at or at
                event = SubscriptionRenewed(
                    billable=before.billable,
                    at=at,
                    subscription=renewed,
                    period_start=start,
                    period_end=renewed.ends_at,
                )
                return [Told(None, event)]

            if after == before:
                return None
            return Revision(after, is_prorated=True, told=told, revived_from=expired_at)

        return revise(self._engine, billable, decide)

    def change_plan(
        self,
        billable: object,
        plan: str,
        *,
        prorate: bool = True,
        at_period_end: bool = False,
        version: int | None = None,
    ) -> Subscription:
        """Move the subscription to another plan, or to another version of its plan, now or at the end of its period.

        Now: what was paid of the running period is credited, and what is left of it charged at the new price, both to
        the microsecond, on the next invoice (`prorate=False`: the new price holds from the next period on). A plan of
        another cycle begins its own period at once. At the end: nothing changes until then, and asking again replaces
        it; the plan it has takes it back. `previous_plan` is the one before.

        Use before the change counts in the period as a whole, and is priced by the plan in force when it happened.

        Raises:
            PlanNotFound: no such plan. Conflict: it is paused, or ends before the change.
            CurrencyMismatch: at once, and the plan is of another currency.
        """
        engine = self._engine

        def decide(connection: Connection, before: Subscription, terms: Terms, at: datetime) -> Revision | None:
            followed = find_version(connection, plan, version, followed=before.plan.slug)
            return plan_change(engine, before, terms, followed, at=at, prorate=prorate, at_period_end=at_period_end)

        return revise(engine, billable, decide)

    def preview_change(
        self,
        billable: object,
        plan: str,
        *,
        prorate: bool = True,
        at_period_end: bool = False,
        version: int | None = None,
    ) -> PlanChangePreview:
        """Say what `change_plan` would credit and charge now. Nothing is changed."""
        return preview_change(
            self._engine, billable, plan, prorate=prorate, at_period_end=at_period_end, version=version
        )

    def migrate(
        self,
        plan: str,
        billables: object = None,
        *,
        from_plan: str | None = None,
        version: int | None = None,
        prorate: bool = True,
        at_period_end: bool = False,
        dry_run: bool = False,
    ) -> Sequence[Migration]:
        """Move many subscriptions to a plan: those of `billables` (one, or several), or all of `from_plan`.

        With both, only those of them that follow `from_plan`. Each is changed on its own: one that cannot be is
        reported with its `error`, and the others go on. A `dry_run` says what would be done and what it would charge.

        Raises:
            PlanNotFound: no such plan. InvalidInput: neither billables nor `from_plan` are given.
        """
        return migrate_plans(
            self._engine,
            plan,
            billables,
            from_plan=from_plan,
            version=version,
            prorate=prorate,
            at_period_end=at_period_end,
            dry_run=dry_run,
        )

    def set_metadata(self, billable: object, metadata: Mapping[str, object] | None) -> Subscription:
        """Replace what the application keeps with a subscription, such as a gateway's ids."""
        encoded = self._engine.metadata_policy.encoded(metadata or {})
        checked = {} if encoded is None else json.loads(encoded)

        def decide(_: Connection, before: Subscription, __: Terms, ___: datetime) -> Revision:
            return Revision(replace(before, metadata=checked))

        return revise(self._engine, billable, decide)

    def payment_failed(self, billable: object, at: str | datetime | None = None) -> Subscription:
        """Start the grace period: it stays in force for `billing.payment_failure_grace_period_days`, then expires.

        A second failure in the same grace period does not prolong it.
        """
        failed_at = from_micros(self._engine.instant(at, field="at"))

        def decide(_: Connection, before: Subscription, __: Terms, now: datetime) -> Revision | None:
            self._require_open(before, now)
            return payment_failure(before, failed_at, now, grace_period_days=self._grace)

        return revise(self._engine, billable, decide)

    def payment_succeeded(self, billable: object) -> Subscription:
        """End the grace period. After it ran out, the subscription is in force again from now on.

        Then a new billing period begins, and the time in between is neither in force nor charged.
        """

        def decide(_: Connection, before: Subscription, __: Terms, now: datetime) -> Revision | None:
            revision = payment_recovered(before, now, grace_period_days=self._grace)
            if revision is None:
                return None

            def told(paid: Subscription) -> Sequence[Told]:
                event = PaymentSucceeded(billable=before.billable, at=now, payment=None, subscription=paid)
                return [Told(payment_succeeded(paid, now), event)]

            return replace(revision, told=told)

        return revise(self._engine, billable, decide)

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _grace(self) -> int:
        return self._engine.settings.billing.payment_failure_grace_period_days

    def _require_open(self, subscription: Subscription, at: datetime) -> None:
        if subscription.ends_at is not None and subscription.ends_at <= at:
            raise Conflict(
                f"The subscription of {subscription.billable} ended at {subscription.ends_at:%Y-%m-%d %H:%M} UTC."
            )

    def _expired_at(self, subscription: Subscription, at: datetime) -> datetime:
        ends = [at] if subscription.ends_at is None else [at, subscription.ends_at]
        if subscription.payment_failed_at is not None:
            ends.append(subscription.payment_failed_at + timedelta(days=self._grace))
        return min(ends)

    def _renewed(self, before: Subscription, zone: str, expired_at: datetime | None, at: datetime) -> Subscription:
        unlimited = replace(before, cancelled_at=None, cancels_at=None, term_ends_at=None)
        if expired_at is not None:
            after = revived(unlimited, ended_at=expired_at, at=at)
            return after if before.term_ends_at is None else replace(after, term_ends_at=_end_of(after, zone, at))
        if before.term_ends_at is None:
            return unlimited
        return replace(unlimited, term_ends_at=_end_of(unlimited, zone, before.term_ends_at))


def _row(made: Subscription, billed_until: int, next_at: int | None, metadata: str | None) -> dict[str, Any]:
    return {
        "id": made.id,
        "billable": made.billable,
        "plan_version_id": made.plan.id,
        "billing_mode": made.billing_mode.value,
        "started_at": to_micros(made.started_at),
        "trial_ends_at": None if made.trial_ends_at is None else to_micros(made.trial_ends_at),
        "is_pending": made.is_pending,
        "term_ends_at": None if made.term_ends_at is None else to_micros(made.term_ends_at),
        "created_at": to_micros(made.created_at),
        "timezone": made.timezone,
        "billed_until": billed_until,
        "next_billing_at": next_at,
        "metadata": metadata,
    }


def _first_period_end(made: Subscription, zone: str) -> datetime | None:
    return _end_of(made, zone, first_anchor(made))


def _end_of(subscription: Subscription, zone: str, at: datetime) -> datetime | None:
    end = fee_period(subscription, zone, to_micros(at)).end
    return None if end >= MAX_MICROS else from_micros(end)


def _require_mode(billing_mode: str) -> None:
    if billing_mode not in tuple(BillingMode):
        raise InvalidInput("billing_mode", billing_mode, f"Use {' or '.join(repr(str(one)) for one in BillingMode)}.")


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
