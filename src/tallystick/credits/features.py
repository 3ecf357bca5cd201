"""`ts.features`: what a plan allows of its features, extra credits on top of it, and their use.

A use takes extra credits first, then the plan's allowance. Asking answers from what is stored; `use` decides and
records in one step, so of many callers at once exactly as many succeed as there is room for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, case, func, select

from tallystick.credits.account import FEATURE_PREFIX, CreditKey, feature_unit
from tallystick.credits.charges import CREDITS_SCOPE, Exchange, no_allowance
from tallystick.credits.commands import AddCredits, AddMany, Keyed, TransferCredits
from tallystick.credits.input import (
    checked_quantity,
    checked_reason,
    grant_terms,
    keyed,
    quantity_allowed,
    require_future,
    stated_expiry,
)
from tallystick.credits.listing import find_grant, list_grants
from tallystick.credits.posting import Purpose
from tallystick.credits.standing import read_workspace, usable
from tallystick.credits.transacting import refusal_of, revoke_grant, through_lane, transacting
from tallystick.credits.values import CreditStats, CreditTransaction, FeatureStatus, FeatureUse, Grant
from tallystick.errors import CallInProgress, Conflict, InvalidInput, NotFound, TallystickError
from tallystick.identity import billable_reference, new_id, user_reference
from tallystick.limits.counters import CounterKey
from tallystick.metering.call import CallContext
from tallystick.metering.commands import Consume, InProgress, Replayed
from tallystick.metering.flow import Flow, Read
from tallystick.metering.input import checked_name
from tallystick.metering.recording import Recorded
from tallystick.period import MAX_MICROS, from_micros, to_micros
from tallystick.plans.loading import load_terms
from tallystick.plans.terms import NO_FEATURES, PlanFeature, Subscription, Terms
from tallystick.providers.usage import ProviderUsage
from tallystick.quantity import from_millionths
from tallystick.storage import tables
from tallystick.storage.workspace import Workspace

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Features"]

RESOURCE_TYPE = "feature"
"""The resource type of the usage events that `Features.use` records."""

_SUBSCRIPTION = "sub_"


@dataclass(frozen=True, slots=True)
class _Subject:
    """Whose feature is asked for; with a subscription, only while it is in force."""

    billable: str
    subscription_id: str | None


@dataclass(frozen=True, slots=True)
class _View:
    """A billable's features at one instant: its terms, and its credit accounts and counters as a command finds them."""

    terms: Terms
    at: int
    features: Mapping[str, PlanFeature]
    subscription_id: str | None
    workspace: Workspace
    is_asked: bool

    def feature(self, slug: str) -> PlanFeature:
        return self.features.get(slug) or no_allowance(slug)

    def purpose(self, slug: str) -> Purpose:
        return Purpose(self.at, feature=slug, subscription_id=self.subscription_id)

    def key(self, slug: str) -> CreditKey:
        return CreditKey(self.terms.billable, feature_unit(slug))

    def plan_left(self, feature: PlanFeature) -> int | None:
        """Return what a new use could take of the allowance, in millionths; None: unlimited."""
        if feature.allowance is None:
            return None
        counter = self.workspace.counters[self.terms.feature_counter(feature.slug, feature.reset, self.at)]
        return max(0, feature.allowance - counter.used - counter.held)

    def extra_usable(self, slug: str) -> int:
        """Return what a new use could take of extra credits at this instant, within the limits of single grants."""
        return usable(self.workspace, self.key(slug), self.purpose(slug)) if self.is_asked else 0

    def extra_left(self, slug: str) -> int:
        """Return what is left of extra credits in all, also what holds have pinned."""
        account = self.workspace.credits.get(self.key(slug))
        if account is None or not self.is_asked:
            return 0
        purpose = self.purpose(slug)
        return account.overdraft + sum(
            grant.remaining
            for grant in account.grants
            if grant.is_usable(feature=slug, subscription_id=purpose.subscription_id, at=self.at)
        )

    def used(self, feature: PlanFeature) -> tuple[int, int]:
        """Return what was used in the running period: of the plan, and of extra credits."""
        if not self.is_asked:
            return 0, 0
        counter = self.terms.feature_counter(feature.slug, feature.reset, self.at)
        counters = self.workspace.counters
        return counters[counter].used, counters[counter._replace(scope=CREDITS_SCOPE)].used


class Features:
    """Answers what may be used of a feature, records use, and grants extra credits.

    Whose feature is the first argument everywhere: a billable, or a subscription (or its id). Of a subscription only
    what holds while it is in force is asked; credits granted to one can be used only while it is.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- asking -------------------------------------------------------------------------------------------------------

    def can_use(
        self, billable: object, slug: str, amount: int | Decimal | str = 1, include_extra_credits: bool = True
    ) -> bool:
        """Say whether so much of a feature could be used now. One that is not consumable can be, if the plan has it.

        Raises:
            InvalidInput: an amount that is not above zero, or a float.
        """
        wanted = checked_quantity(amount)
        view = self._look(self._subject(billable), checked_name("feature", slug))
        feature = view.feature(slug)
        if not feature.is_consumable:
            return True
        left = view.plan_left(feature)
        if left is None or wanted <= left:
            return True
        return include_extra_credits and wanted <= left + view.extra_usable(slug)

    def remaining(self, billable: object, slug: str, include_extra_credits: bool = True) -> int | Decimal | None:
        """Return how much of a feature could be used now; None is unlimited, or a feature of which nothing is counted.

        What calls in flight hold is not counted as left. Without such a feature it is 0.
        """
        view = self._look(self._subject(billable), checked_name("feature", slug))
        left = _remaining(view, view.feature(slug), with_extra=include_extra_credits)
        return None if left is None else from_millionths(left)

    def next_reset(self, billable: object, slug: str) -> datetime | None:
        """Return when the plan's allowance starts again; None: never, or the plan has no such allowance."""
        view = self._look(self._subject(billable), checked_name("feature", slug))
        return _next_reset(view, view.features.get(slug))

    def usage(self, billable: object) -> list[FeatureStatus]:
        """Return every feature of the plan in force, in its order, then those of which there are only extra credits."""
        view = self._look(self._subject(billable), None)
        granted = {key.unit.removeprefix(FEATURE_PREFIX) for key in view.workspace.credits}
        others = sorted(slug for slug in granted - view.features.keys() if _is_worth_showing(view, slug))
        return [_status(view, slug) for slug in (*view.features, *others)]

    def extra_credits(self, billable: object, slug: str) -> int | Decimal:
        """Return what is left of extra credits in all that can be used now, without what has expired."""
        view = self._look(self._subject(billable), checked_name("feature", slug))
        return from_millionths(view.extra_left(slug))

    def total_available(self, billable: object, slug: str) -> int | Decimal | None:
        """Return the plan's allowance with the extra credits, left and used, of the running period; None: unlimited."""
        return self.credit_stats(billable, slug).total_available

    def credit_stats(self, billable: object, slug: str) -> CreditStats:
        """Return a feature's figures of the running reset period. `total_available - used == remaining`, always.

        Without an allowance in the plan the plan's figures are 0, and the period is the month.
        """
        view = self._look(self._subject(billable), checked_name("feature", slug))
        feature = view.feature(slug)
        plan_used, extra_used = view.used(feature)
        extra_left = view.extra_left(slug)
        limit = feature.allowance
        total = None if limit is None else limit + extra_left + extra_used
        used = plan_used + extra_used
        return CreditStats(
            plan_limit=None if limit is None else from_millionths(limit),
            extra_credits=from_millionths(extra_left + extra_used),
            total_available=None if total is None else from_millionths(total),
            used=from_millionths(used),
            remaining=None if total is None else from_millionths(total - used),
            plan_used=from_millionths(plan_used),
            extra_used=from_millionths(extra_used),
            extra_remaining=from_millionths(extra_left),
        )

    def credits(self, billable: object, slug: str, include_closed: bool = False) -> list[Grant]:
        """Return the grants of extra credits in the order in which they are used; all that ever were, if asked.

        Of a subscription, those that it can use: its own, and those that the billable was granted without one.
        """
        subject = self._subject(billable)
        key = CreditKey(subject.billable, feature_unit(checked_name("feature", slug)))
        found = self._engine.read(
            lambda connection: list_grants(
                connection,
                key,
                self._engine.now(),
                include_closed=include_closed,
                expiring_first=self._engine.credit_policy.expiring_first,
            )
        )
        if subject.subscription_id is None:
            return found
        return [grant for grant in found if grant.subscription_id in (None, subject.subscription_id)]

    # -- using --------------------------------------------------------------------------------------------------------

    @through_lane
    def use(
        self,
        billable: object,
        slug: str,
        amount: int | Decimal | str = 1,
        use_extra_credits: bool = True,
        *,
        user: object = None,
        meta: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[FeatureUse]:
        """Use so much of a feature, or nothing: of extra credits first, then of the plan's allowance.

        It is recorded as a usage event of the resource type "feature". With an idempotency key a repetition returns
        the first answer and uses nothing.

        Raises:
            FeatureLimitExceeded: there is too little; nothing was used. Where `enforcement` is not "on", it is used.
            InvalidInput: a feature that is not consumable, an amount that is not above zero, or a float.
            Conflict: the subscription that is named is not in force.
            IdempotencyConflict: the key was used with other input.
        """
        engine = self._engine
        subject = yield from self._named(billable)
        context = CallContext(
            billable=subject.billable,
            user_id=None if user is None else user_reference(user),
            tenant_id=None,
            provider="",
            model="",
            feature=checked_name("feature", slug),
            resource_type=RESOURCE_TYPE,
            billing_mode=None,
            metadata=engine.metadata_policy.encoded({} if meta is None else meta),
            idempotency_key=None,
            manual_usage=None,
            quantity=checked_quantity(amount),
        )
        facts = engine.facts(context, ProviderUsage(), occurred_at=engine.now(), has_price=False)
        key = keyed(
            idempotency_key,
            "use_feature",
            feature=slug,
            amount=from_millionths(context.quantity),
            user=context.user_id,
            use_extra_credits=use_extra_credits,
            subscription=subject.subscription_id,
        )
        if key is not None:
            facts.idempotency_key, facts.fingerprint = key.key, key.fingerprint
        answer: Recorded | Replayed | InProgress = yield Consume(
            facts,
            engine.currency_rates,
            engine.settings.enforcement,
            of_feature=True,
            uses_credits=use_extra_credits,
            subscription_id=subject.subscription_id,
        )
        if isinstance(answer, InProgress):
            raise CallInProgress(idempotency_key or "", answer.hold_id)
        if isinstance(answer, Replayed):
            return _first_use(answer, context.quantity)
        engine.announce(answer)
        charge = answer.feature
        assert charge is not None  # noqa: S101  # a feature was used
        return FeatureUse(
            amount=from_millionths(context.quantity),
            from_credits=from_millionths(charge.from_credits),
            from_plan=from_millionths(charge.from_plan),
            remaining=None if answer.feature_left is None else from_millionths(answer.feature_left),
            usage_event_id=facts.event_id,
        )

    # -- granting -----------------------------------------------------------------------------------------------------

    @through_lane
    def grant_credits(
        self,
        billable: object,
        slug: str,
        credits: int | Decimal | str,  # the word of the domain
        reason: str | None = None,
        expires_at: str | datetime | None = None,
        granted_by: object = None,
        *,
        priority: int | None = None,
        kind: str | None = None,
        meta: Mapping[str, object] | None = None,
        limit: int | Decimal | str | None = None,
        limit_period: str | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Grant]:
        """Grant extra credits of a feature, on top of what a plan allows.

        The reason says, by `credits.reasons`, when they expire and how early they are used; `expires_at`, `priority`
        (0 to 100, lower is used first) and `kind` say otherwise. `granted_by` is kept: a name, or any object with a
        reference. With `limit`, at most so many of them are used in each `limit_period` ("hourly", "daily").
        With an idempotency key a repetition returns the first grant.

        Raises:
            InvalidInput: a feature that no plan lists as consumable (naming the one that was probably meant), an amount
                of zero or less, a float, or more than `credits.feature_grant_max`.
            Conflict: the subscription that is named has ended.
            IdempotencyConflict: the key was used with other input.
        """
        subject = yield from self._named(billable)
        at = self._engine.now()
        terms = {
            "reason": reason,
            "expires_at": expires_at,
            "granted_by": granted_by,
            "priority": priority,
            "kind": kind,
            "meta": meta,
            "limit": limit,
            "limit_period": limit_period,
        }
        add = self._add(subject, slug, credits, at, terms)
        add.keyed = self._grant_key(idempotency_key, "grant_credits", subject, {slug: add}, terms)
        return (yield from self._granted(add, add.keyed, subject, [slug], at))[0]

    @through_lane
    def grant_many(
        self,
        billable: object,
        credits: Mapping[str, int | Decimal | str],  # the word of the domain
        reason: str | None = None,
        expires_at: str | datetime | None = None,
        granted_by: object = None,
        *,
        priority: int | None = None,
        kind: str | None = None,
        meta: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[list[Grant]]:
        """Grant extra credits of several features at once, all or nothing: `{"api-calls": 5, "exports": 2}`.

        Returns the grants in the order of the features given. Everything else is as for `grant_credits`.
        """
        if not isinstance(credits, Mapping) or not credits:
            raise InvalidInput("credits", credits, 'Give features and amounts: {"api-calls": 5}.')
        subject = yield from self._named(billable)
        at = self._engine.now()
        terms = {
            "reason": reason,
            "expires_at": expires_at,
            "granted_by": granted_by,
            "priority": priority,
            "kind": kind,
            "meta": meta,
            "limit": None,
            "limit_period": None,
        }
        adds = {slug: self._add(subject, slug, amount, at, terms) for slug, amount in credits.items()}
        key = self._grant_key(idempotency_key, "grant_many", subject, adds, terms)
        command = AddMany(tuple(adds.values()), key)
        granted = yield from self._granted(command, key, subject, list(adds), at)
        # Of a repetition they are in the order of the first time.
        grants = {grant.feature_slug: grant for grant in granted}
        return [grants[slug] for slug in adds]

    def revoke(self, grant_id: str, reason: str) -> CreditTransaction:
        """Take back what is left of a grant of extra credits. What calls in flight have reserved of it stays theirs.

        Raises:
            NotFound: no such grant of a feature. Conflict: nothing is left of it.
        """
        return revoke_grant(self._engine, grant_id, reason, unit=FEATURE_PREFIX, billable=None)

    @through_lane
    def transfer(
        self,
        source: object,
        target: object,
        slug: str,
        credits: int | Decimal | str,  # the word of the domain
        reason: str = "transfer",
        meta: Mapping[str, object] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Flow[CreditTransaction]:
        """Move extra credits of a feature from one billable to another. They keep their kind, priority and expiry.

        Credits that are restricted, to a subscription or to so many an hour, stay. Returns the line of who gave.

        Raises:
            CreditsInsufficient: too little is free to move. InvalidInput: to itself, or a bad amount.
        """
        engine = self._engine
        unit = feature_unit(checked_name("feature", slug))
        given, taken = (
            CreditKey(billable_reference(party, engine.billable_resolver), unit) for party in (source, target)
        )
        if given == taken:
            raise InvalidInput("target", taken.billable, "Name another billable.")
        checked = checked_reason(reason)
        amount = checked_quantity(credits, field="credits")
        command = TransferCredits(
            given,
            taken,
            amount,
            engine.now(),
            new_id("txn"),
            checked,
            Exchange(unit, unit, Decimal(1)),
            metadata=engine.metadata_policy.encoded({} if meta is None else meta),
            keyed=keyed(
                idempotency_key,
                "transfer_feature_credits",
                feature=slug,
                target=taken.billable,
                credits=from_millionths(amount),
                reason=checked,
            ),
        )
        return (yield from transacting(engine, command))[0]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _named(self, value: object) -> Flow[_Subject]:
        """Return whose feature is meant, in a flow: only an id of a subscription has to be looked up."""
        if _is_subscription_id(value):
            found: _Subject = yield Read(lambda: self._subject(value))
            return found
        return self._subject(value)

    def _subject(self, value: object) -> _Subject:
        if isinstance(value, Subscription):
            return _Subject(value.billable, value.id)
        if not _is_subscription_id(value):
            return _Subject(billable_reference(value, self._engine.billable_resolver), None)
        subscriptions = tables.subscriptions
        query = select(subscriptions.c.billable).where(subscriptions.c.id == value)
        billable = self._engine.read(lambda connection: connection.execute(query).scalar())
        if billable is None:
            raise NotFound("subscription", str(value))
        return _Subject(billable, str(value))

    def _add(
        self, subject: _Subject, slug: str, credits: Any, at: int, stated: Mapping[str, Any]
    ) -> AddCredits:  # the word of the domain
        """Check one grant and return the command that adds it."""
        amount = quantity_allowed(self._engine, checked_quantity(credits, field="credits"), credits)
        limit = stated["limit"]
        terms = grant_terms(
            self._engine,
            at,
            amount,
            is_money=False,
            subscription_id=subject.subscription_id,
            **{
                **stated,
                "reason": "grant" if stated["reason"] is None else stated["reason"],
                "limit": None if limit is None else checked_quantity(limit, field="limit"),
            },
        )
        account = CreditKey(subject.billable, feature_unit(checked_name("feature", slug)))
        return AddCredits(account, terms, at, new_id("txn"))

    def _grant_key(
        self,
        key: str | None,
        operation: str,
        subject: _Subject,
        adds: Mapping[str, AddCredits],
        stated: Mapping[str, Any],
    ) -> Keyed | None:
        one = next(iter(adds.values()))
        amounts = sorted((slug, from_millionths(add.terms.amount)) for slug, add in adds.items())
        return keyed(
            key,
            operation,
            credits=", ".join(f"{slug}: {amount}" for slug, amount in amounts),
            reason=one.terms.reason,
            expires_at=stated_expiry(self._engine, stated["expires_at"]),
            granted_by=one.terms.granted_by,
            priority=stated["priority"],
            kind=stated["kind"],
            limit=None if one.terms.limit_amount is None else from_millionths(one.terms.limit_amount),
            limit_period=one.terms.limit_period,
            subscription=subject.subscription_id,
        )

    def _granted(
        self, command: AddCredits | AddMany, key: Keyed | None, subject: _Subject, slugs: list[str], at: int
    ) -> Flow[list[Grant]]:
        """Add grants where they may be, and return them."""
        expires_at = (command.adds[0] if isinstance(command, AddMany) else command).terms.expires_at

        def allow() -> None:
            require_future(expires_at, at)
            self._require_grantable(subject, slugs, at)

        refusal: TallystickError | None = yield Read(lambda: refusal_of(allow))
        lines = yield from transacting(self._engine, command, refusal=refusal, key=key)
        grants: list[Grant] = yield Read(lambda: self._grants_of(lines))
        return grants

    def _require_grantable(self, subject: _Subject, slugs: list[str], at: int) -> None:
        """Refuse features that cannot have extra credits, and a subscription that could never use them."""

        def read(connection: Connection) -> tuple[Terms, dict[str, bool]]:
            listed = tables.plan_features
            query = select(listed.c.slug, func.max(case((listed.c.is_consumable, 1), else_=0))).group_by(listed.c.slug)
            known = {slug: bool(consumable) for slug, consumable in connection.execute(query)}
            return load_terms(connection, [subject.billable], self._engine.terms_policy)[subject.billable], known

        terms, known = self._engine.read(read)
        own = terms.at(at).features
        for slug in slugs:
            if slug not in known:
                near = get_close_matches(slug, known, n=1)
                meant = f"Did you mean {near[0]!r}? " if near else ""
                raise InvalidInput("feature", slug, f"{meant}No plan lists it: give it to one with features={{...}}.")
            if not (own[slug].is_consumable if slug in own else known[slug]):
                raise InvalidInput("feature", slug, "It is not consumable: a plan has it or not.")
        for subscription in terms.subscriptions:
            ends_at = subscription.ends_at
            if subscription.id == subject.subscription_id and ends_at is not None and to_micros(ends_at) <= at:
                raise Conflict(
                    f"Subscription {subscription.id} ended at {ends_at:%Y-%m-%d %H:%M} UTC. Grant the credits to "
                    f"{subject.billable}."
                )

    def _grants_of(self, lines: Sequence[CreditTransaction]) -> list[Grant]:
        now = self._engine.now()

        def read(connection: Connection) -> list[Grant]:
            found = [find_grant(connection, line.grant_id or "", now) for line in lines]
            return [grant for grant in found if grant is not None]

        return self._engine.read(read)

    def _look(self, subject: _Subject, slug: str | None) -> _View:
        """Read how a billable stands to one feature, or to all, at one moment."""
        at = self._engine.now()

        def read(connection: Connection) -> _View:
            terms = load_terms(connection, [subject.billable], self._engine.terms_policy)[subject.billable]
            in_force = terms.at(at)
            is_asked = subject.subscription_id in (None, in_force.subscription_id)
            features = in_force.features if is_asked else NO_FEATURES

            def counters(accounts: Iterable[CreditKey]) -> Iterator[CounterKey]:
                for one in {slug} if slug is not None else {*features, *map(_slug, accounts)}:
                    reset = (features.get(one) or no_allowance(one)).reset
                    counter = terms.feature_counter(one, reset, at)
                    yield from (counter, counter._replace(scope=CREDITS_SCOPE))

            unit = None if slug is None else feature_unit(slug)
            workspace = read_workspace(self._engine, connection, terms, at, unit, counters)
            return _View(terms, at, features, in_force.subscription_id, workspace, is_asked=is_asked)

        return self._engine.read_snapshot(read)


def _is_subscription_id(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_SUBSCRIPTION) and ":" not in value


def _first_use(replayed: Replayed, quantity: int) -> FeatureUse:
    """Return the answer that a key was given first."""
    kept = json.loads(replayed.outcome or "{}")["feature"]
    left = kept["left"]
    return FeatureUse(
        amount=from_millionths(quantity),
        from_credits=from_millionths(kept["from_credits"]),
        from_plan=from_millionths(kept["from_plan"]),
        remaining=None if left is None else from_millionths(left),
        usage_event_id=replayed.event_id,
        replayed=True,
    )


def _slug(key: CreditKey) -> str:
    return key.unit.removeprefix(FEATURE_PREFIX)


def _remaining(view: _View, feature: PlanFeature, *, with_extra: bool) -> int | None:
    """Return what a new use could take, in millionths; None where nothing limits it."""
    left = view.plan_left(feature)
    if left is None:
        return None
    return left + (view.extra_usable(feature.slug) if with_extra else 0)


def _next_reset(view: _View, feature: PlanFeature | None) -> datetime | None:
    if feature is None or not feature.is_consumable or feature.allowance is None:
        return None
    end = view.terms.bounds(feature.reset, view.at)[1]
    return None if end >= MAX_MICROS else from_micros(end)


def _is_worth_showing(view: _View, slug: str) -> bool:
    return view.extra_left(slug) != 0 or view.used(view.feature(slug))[1] != 0


def _status(view: _View, slug: str) -> FeatureStatus:
    feature = view.feature(slug)
    plan_used, extra_used = view.used(feature)
    left = _remaining(view, feature, with_extra=True)
    return FeatureStatus(
        slug=slug,
        name=feature.name,
        is_in_plan=slug in view.features,
        is_consumable=feature.is_consumable,
        value=feature.value,
        display_value=feature.display_value,
        is_hidden=feature.is_hidden and slug in view.features,
        reset=feature.reset,
        next_reset=_next_reset(view, view.features.get(slug)),
        plan_used=from_millionths(plan_used),
        extra_used=from_millionths(extra_used),
        extra_remaining=from_millionths(view.extra_left(slug)),
        remaining=None if left is None else from_millionths(left),
    )
