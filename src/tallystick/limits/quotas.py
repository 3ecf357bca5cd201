"""`ts.quotas`: limits that an operator sets on what a tenant uses, in a period, and using something against them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from tallystick.errors import CallInProgress, CurrencyMismatch, InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.limits.asking import quota_keys
from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import COST, EVERY_USER, PERIODS, REQUESTS, SLIDING, TOKENS, Quota
from tallystick.limits.recount import lost_records, quota_meter, recounted
from tallystick.limits.scopes import caller_of, scope_of
from tallystick.limits.standing import Answer, Question, answered, read_statuses, tenant_quota
from tallystick.limits.values import QuotaCheck, QuotaStatus, TenantQuota
from tallystick.metering.call import CallContext
from tallystick.metering.commands import Consume, InProgress, Replayed
from tallystick.metering.flow import Flow, Read, run
from tallystick.metering.input import COST_NANOS_MAX, checked_key
from tallystick.metering.resource_types import checked_resource_type, checked_use
from tallystick.metering.usage import subject_reference
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import Money
from tallystick.plans.loading import journal_change, load_terms, quota_from_row
from tallystick.providers.usage import ProviderUsage
from tallystick.quantity import to_millionths
from tallystick.storage import tables
from tallystick.storage.locking import lock_account

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Quotas"]

_OF_EVERY_CALL = (TOKENS, REQUESTS, COST)
_SLIDING = "sliding_"


class Quotas:
    """Sets quotas, asks about them, and records use against them.

    A quota limits a resource type: "message", "embedding", any name of your own; or what is counted of every call:
    "tokens", "requests", "cost". The first argument is a tenant's name ("acme"), or any billable ("user:42"): whoever
    pays for the use is limited.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- setting ------------------------------------------------------------------------------------------------------

    def set(
        self,
        tenant: object,
        resource_type: str,
        limit: int | Decimal | str | Money,
        period: str,
        *,
        is_hard_limit: bool = True,
        notification_threshold: int | None = None,
        thresholds: Collection[int] | None = None,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
        sliding: bool = False,
    ) -> TenantQuota:
        """Limit what is used of a resource type in each hour, day, week, month or year, or in all ("total").

        A hard limit refuses what does not fit; a soft one (`is_hard_limit=False`) only warns. `QuotaWarning` is sent at
        each of `thresholds`, percent of the limit (`notification_threshold` is short for a single one;
        `quotas.thresholds` where neither is given), and `QuotaExceeded` at the limit: once a period each.

        Periods are those of the calendar in the account's zone. With `sliding`, hourly, daily and weekly quotas limit
        the last 60 minutes, 24 hours or 7 days at any moment instead. `user`, `feature` or `key` limit that part of the
        use only, and `user="*"` each user on their own; a user's own quota stands in the place of it.

        There is one quota for each resource type, period and part: setting it again changes it. It holds at once, in
        every process. What was used before it was first set, in the period that is running, counts. A limit of cost is
        Money in the account's currency.

        Raises:
            InvalidInput: an unknown period, a negative limit, thresholds outside 1 to 99, more than one part.
            CurrencyMismatch: a limit of cost in another currency than the account's.
        """
        engine = self._engine
        reference = subject_reference(tenant, engine)
        name = self._checked_type(resource_type)
        period = _checked_period(period, sliding=sliding)
        scope = scope_of(user, feature, key)
        now = engine.now()
        currency = engine.terms(reference).at(now).currency
        set_to = {
            "limit_value": _amount(name, limit, currency, field="limit"),
            "is_hard_limit": _checked_boolean("is_hard_limit", is_hard_limit),
            "thresholds": json.dumps(self._thresholds(notification_threshold, thresholds)),
            "updated_at": now,
        }
        quotas = tables.quotas
        names = {"billable": reference, "resource_type": name, "period": period, "scope": scope}
        same = and_(*(quotas.c[column] == value for column, value in names.items()))

        def change(connection: Connection) -> Quota:
            lock_account(connection, reference, now)
            if not connection.execute(update(quotas).where(same).values(**set_to)).rowcount:
                connection.execute(quotas.insert().values(id=new_id("qta"), **names, **set_to, created_at=now))
                quota = quota_from_row(connection.execute(select(quotas).where(same)).one())
                _count_what_was_used(engine, connection, quota, now)
            journal_change(connection, reference)
            return quota_from_row(connection.execute(select(quotas).where(same)).one())

        return tenant_quota(engine.lane.transact(change), currency)

    def delete(self, quota_id: str) -> None:
        """Take a quota away. It limits nothing from now on, in every process.

        Raises:
            NotFound: no such quota.
        """
        quotas, alerts = tables.quotas, tables.quota_alerts

        def remove(connection: Connection) -> None:
            row = connection.execute(select(quotas.c.billable).where(quotas.c.id == quota_id)).first()
            if row is None:
                raise NotFound("quota", quota_id)
            lock_account(connection, row.billable, self._engine.now())
            connection.execute(delete(quotas).where(quotas.c.id == quota_id))
            connection.execute(delete(alerts).where(alerts.c.quota_id == quota_id))
            journal_change(connection, row.billable)

        self._engine.lane.transact(remove)

    def get(self, quota_id: str) -> TenantQuota:
        """Return a quota.

        Raises:
            NotFound: no such quota.
        """
        quotas = tables.quotas
        query = select(quotas).where(quotas.c.id == quota_id)
        row = self._engine.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise NotFound("quota", quota_id)
        return tenant_quota(quota_from_row(row), self._currency(row.billable))

    # -- asking -------------------------------------------------------------------------------------------------------

    def check(
        self,
        tenant: object,
        resource_type: str,
        period: str | None = None,
        quantity: int | Decimal | str | Money = 1,
        *,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
    ) -> QuotaCheck:
        """Say whether so much more of a resource type would be admitted now. Nothing is held, recorded or refused.

        All quotas that count such a use by this `user`, in this `feature`, with this `key` are asked: those of one
        period, or without one of every period. The answer shows the one that refuses, or else leaves the least. In
        shadow mode everything is allowed, and `reason` says what would not be.

        Raises:
            InvalidInput: an unknown period, or a negative quantity.
        """
        return self._ask(tenant, resource_type, period, quantity, user, feature, key).check

    def enforce(
        self,
        tenant: object,
        resource_type: str,
        period: str | None = None,
        quantity: int | Decimal | str | Money = 1,
        *,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
    ) -> QuotaCheck:
        """Ask as `check` does, and raise where it would not be admitted. Nothing is recorded.

        Others may use up what is left before you do: `consume` asks and records in one step.

        Raises:
            QuotaExceeded: a hard quota has no room. TenantSuspended: the tenant may not use anything.
        """
        answer = self._ask(tenant, resource_type, period, quantity, user, feature, key)
        if answer.refusal is not None:
            raise answer.refusal
        return answer.check

    def status(self, tenant: object) -> list[QuotaStatus]:
        """Return all quotas of a tenant with how each stands in its running period, by resource type and period.

        It costs two queries, however many quotas there are.
        """
        engine = self._engine
        reference = subject_reference(tenant, engine)
        return engine.read_snapshot(lambda connection: read_statuses(engine, connection, reference))

    # -- using --------------------------------------------------------------------------------------------------------

    def consume(
        self,
        tenant: object,
        resource_type: str,
        quantity: int | Decimal | str = 1,
        *,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
        metadata: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> UsageEvent:
        """Use so much of a resource: every quota and rate limit of it is asked and the use is recorded, in one step.

        However many ask at once, in however many processes, no more is admitted than fits. Where `feature` is one of
        the plan's, its allowance is asked too. With an idempotency key a repetition returns the first event.

        Raises:
            QuotaExceeded: a hard quota has no room; nothing was recorded. RateLimited, FeatureLimitExceeded: likewise.
            TenantSuspended: the tenant may not use anything.
            InvalidInput: a quantity of zero or less; "tokens", "requests" and "cost", which are counted of calls.
            IdempotencyConflict: the key was used with other input.
        """
        flow = self._consumption(
            tenant,
            resource_type,
            quantity,
            user=user,
            feature=feature,
            key=key,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
        return run(flow, self._engine.lane)

    def _consumption(
        self,
        tenant: object,
        resource_type: str,
        quantity: Any,
        *,
        user: object,
        feature: str | None,
        key: str | None,
        metadata: Mapping[str, object] | None,
        idempotency_key: str | None,
    ) -> Flow[UsageEvent]:
        """Use so much of a resource, as steps for either colour."""
        engine = self._engine
        if resource_type in _OF_EVERY_CALL:
            raise InvalidInput("resource_type", resource_type, "It is counted of every call, and not used by itself.")
        name, amount = checked_use(engine.settings.usage, resource_type, quantity)
        if not amount:
            raise InvalidInput("quantity", quantity, "Give more than zero.")
        caller = caller_of(user, feature, key)
        context = CallContext(
            billable=subject_reference(tenant, engine),
            user_id=caller.user,
            tenant_id=None,
            provider="",
            model="",
            feature=caller.feature,
            resource_type=name,
            billing_mode=None,
            metadata=engine.metadata_policy.encoded(metadata or {}),
            idempotency_key=None if idempotency_key is None else checked_key(idempotency_key),
            manual_usage=None,
            quantity=amount,
            key_id=caller.key,
        )
        facts = engine.facts(context, ProviderUsage(), occurred_at=engine.now(), has_price=False)
        answer = yield Consume(facts, engine.currency_rates, engine.settings.enforcement)
        if isinstance(answer, InProgress):
            raise CallInProgress(idempotency_key or "", answer.hold_id)
        if isinstance(answer, Replayed):
            event_id = answer.event_id
            row = yield Read(lambda: engine.event_row(event_id))
            return UsageEvent.from_row(row)
        engine.announce(answer)
        return UsageEvent.from_row(answer.row)

    def list(self, tenant: object) -> list[TenantQuota]:
        """Return the quotas of a tenant, by resource type, period and part."""
        reference = subject_reference(tenant, self._engine)
        terms = self._engine.terms(reference)
        currency = terms.at(self._engine.now()).currency
        ordered = sorted(terms.quotas, key=lambda one: (one.resource_type, one.period, one.scope))
        return [tenant_quota(quota, currency) for quota in ordered]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _ask(
        self,
        tenant: object,
        resource_type: str,
        period: str | None,
        quantity: Any,
        user: object,
        feature: str | None,
        key: str | None,
    ) -> Answer:
        engine = self._engine
        question = Question(
            subject_reference(tenant, engine),
            self._checked_type(resource_type),
            None if period is None else _checked_period(period, sliding=False),
            caller_of(user, feature, key),
            engine.now(),
        )

        def amount_in(currency: str) -> int:
            return _amount(question.resource_type, quantity, currency, field="quantity")

        return engine.read_snapshot(lambda connection: answered(engine, connection, question, amount_in))

    def _checked_type(self, resource_type: str) -> str:
        if resource_type in _OF_EVERY_CALL:
            return resource_type
        return checked_resource_type(self._engine.settings.usage, resource_type)

    def _currency(self, billable: str) -> str:
        return self._engine.terms(billable).at(self._engine.now()).currency

    def _thresholds(self, single: int | None, several: Collection[int] | None) -> Sequence[int]:
        if single is not None and several is not None:
            raise InvalidInput("notification_threshold", single, "thresholds are given too: keep one.")
        if single is None and several is None:
            return sorted(set(self._engine.settings.quotas.thresholds))
        given = [single] if several is None else list(several)
        for threshold in given:
            if isinstance(threshold, bool) or not isinstance(threshold, int) or not 1 <= threshold <= 99:
                field = "thresholds" if several is not None else "notification_threshold"
                raise InvalidInput(field, threshold, "Give whole percentages from 1 to 99.")
        return sorted({threshold for threshold in given if threshold is not None})


def _checked_period(period: str, *, sliding: bool) -> str:
    known = (*PERIODS, *SLIDING)
    wanted = f"{_SLIDING}{period}" if sliding and period in PERIODS else period
    if wanted in known:
        return wanted
    if sliding and period in PERIODS:
        windows = ", ".join(name.removeprefix(_SLIDING) for name in SLIDING)
        raise InvalidInput("period", period, f"Windows that slide are {windows}.")
    raise InvalidInput("period", period, f"Use one of {', '.join(known)}.")


def _checked_boolean(field: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "Give True or False.")
    return value


def _amount(resource_type: str, stated: Any, currency: str, *, field: str) -> int:
    """Return an amount of a resource type in its quotas' integers: millionths, or nanos of the account's currency."""
    if resource_type != COST:
        if isinstance(stated, Money):
            raise InvalidInput(field, str(stated), 'Only "cost" is limited in money: give a number.')
        return to_millionths(stated, field=field)
    amount = stated if isinstance(stated, Money) else Money(stated, currency)
    if amount.currency != currency:
        raise CurrencyMismatch(
            f"The account's costs are in {currency}; the {field} is in {amount.currency}. Give it in {currency}.",
            source=amount.currency,
            target=currency,
        )
    if not 0 <= amount.nanos <= COST_NANOS_MAX:
        raise InvalidInput(field, str(amount), "Give an amount of zero or more that can be counted.")
    return amount.nanos


def _count_what_was_used(engine: Engine, connection: Connection, quota: Quota, at: int) -> None:
    """Give a new quota's counters what was used already. The account is locked: nothing is used meanwhile.

    What calls in flight hold of counters that an earlier quota left behind stays.
    """
    terms = load_terms(connection, [quota.billable], engine.terms_policy)
    used = recounted(connection, tables.quotas.c.id == quota.id, terms, at)
    running = quota_keys(terms[quota.billable], quota, quota.scope, at, "")[1]
    before = _counted_before(connection, quota, {key.period_start for key in (*running, *used)})
    # Where the records of some use are gone, what was counted of it counts.
    is_partial = bool(lost_records(connection, tables.accounts.c.billable == quota.billable))
    for key in used.keys() | before.keys():
        amount = used.get(key, 0)
        _set_used(connection, key, max(amount, before.get(key, 0)) if is_partial else amount)


def _counted_before(connection: Connection, quota: Quota, starts: Collection[int]) -> dict[CounterKey, int]:
    """Return what an earlier quota of the same kind has counted in these periods."""
    counters = tables.counters.c
    meter = quota_meter(quota.resource_type, "")
    is_meter: ColumnElement[bool] = counters.meter == meter
    if quota.resource_type == COST:
        is_meter = counters.meter.startswith(meter, autoescape=True)
    is_scope = counters.scope == quota.scope
    if quota.scope == EVERY_USER:
        is_scope = or_(is_scope, counters.scope.startswith("user:", autoescape=True))
    query = select(*(counters[name] for name in CounterKey._fields), counters.used).where(
        counters.period_start.in_(starts),
        counters.period == quota.period,
        counters.billable == quota.billable,
        is_meter,
        is_scope,
    )
    return {CounterKey(*row[:5]): row[5] for row in connection.execute(query)}


def _set_used(connection: Connection, key: CounterKey, used: int) -> None:
    counters = tables.counters
    same = and_(*(counters.c[name] == value for name, value in key._asdict().items()))
    if not connection.execute(update(counters).where(same).values(used=used)).rowcount:
        connection.execute(counters.insert().values(**key._asdict(), used=used, held=0))
