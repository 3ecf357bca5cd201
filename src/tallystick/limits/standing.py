"""How quotas stand, read beside the lane and decided by its functions, so that asking and acting never disagree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, and_, case, func, null, or_, select, union_all

from tallystick.errors import TallystickError, TenantSuspended
from tallystick.limits.asking import Ask, ask_quotas, quota_amount, quota_keys
from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import EVERY_USER, SLIDING, Caller, Quota, applicable
from tallystick.limits.recount import period_start, quota_meter
from tallystick.limits.scopes import scope_parts
from tallystick.limits.values import QuotaCheck, QuotaStatus, TenantQuota
from tallystick.metering.commands import enforcement_of
from tallystick.period import MAX_MICROS, from_micros
from tallystick.plans.loading import load_terms, quota_from_row
from tallystick.plans.terms import Terms
from tallystick.storage import tables
from tallystick.storage.database import HOLD_COLUMNS, hold_from_row
from tallystick.storage.workspace import Counter, Workspace

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.engine import Engine

__all__ = ["Answer", "Question", "answered", "read_statuses", "tenant_quota"]

_DAY_MICROS = 24 * 60 * 60 * 1_000_000


class Question(NamedTuple):
    """What is asked: of a billable's resource type, in one kind of period or (None) in all of them, by whom, when."""

    billable: str
    resource_type: str
    period: str | None
    caller: Caller
    at: int


@dataclass(frozen=True, slots=True)
class Answer:
    """How a quota stands, and the error that acting would raise."""

    check: QuotaCheck
    refusal: TallystickError | None


def tenant_quota(quota: Quota, currency: str) -> TenantQuota:
    """Return a quota as its readers see it."""
    user, feature, key = scope_parts(quota.scope)
    return TenantQuota(
        id=quota.id,
        billable=quota.billable,
        resource_type=quota.resource_type,
        period=quota.period,
        limit=quota_amount(quota.resource_type, quota.limit, currency),
        is_hard_limit=quota.is_hard_limit,
        thresholds=quota.thresholds,
        user=user,
        feature=feature,
        key=key,
        created_at=quota.created_at,
        updated_at=quota.updated_at,
    )


# -- one question -----------------------------------------------------------------------------------------------------


def answered(engine: Engine, connection: Connection, question: Question, amount_in: Any) -> Answer:
    """Answer a question at one moment. `amount_in` gives the amount that is asked about, in the account's currency."""
    billable, name, period, caller, at = question
    terms = load_terms(connection, [billable], engine.terms_policy)[billable]
    in_force = terms.at(at)
    currency = in_force.currency
    amount = amount_in(currency)
    asked = [
        (quota, window)
        for quota, window in applicable(terms.quotas_of(name), caller)
        if period is None or quota.period == period
    ]
    terms = replace(terms, quotas=tuple(quota for quota, _ in asked))
    workspace = Workspace(started_at=at, credit_policy=engine.credit_policy)
    workspace.terms[billable] = terms
    keys = {(quota.id, window): quota_keys(terms, quota, window, at, currency)[1] for quota, window in asked}
    workspace.counters.update(_counters(connection, billable, [key for some in keys.values() for key in some], at))
    refusal: TallystickError | None = None
    if terms.tenant is not None and not terms.tenant.is_active:
        refusal = TenantSuspended(terms.tenant.slug, terms.tenant.status.value, terms.tenant.status_reason)
    else:
        refusal = ask_quotas(workspace, terms, [Ask(name, amount)], caller, at, currency=currency).refusal
    is_enforced = isinstance(refusal, TenantSuspended) or enforcement_of(terms, engine.settings.enforcement) == "on"
    refused_by = getattr(refusal, "quota_id", None)
    best = min(
        (_standing(workspace, terms, quota, keys[quota.id, window], at) for quota, window in asked),
        key=lambda one: (one.quota.id != refused_by, one.left),
        default=None,
    )
    check = _check(question, best, refusal, currency, allowed=refusal is None or not is_enforced)
    return Answer(check, refusal if is_enforced else None)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What was used and is held of a quota in its running period, in its integers, and when some of it is free again.

    All in one: of a sliding window, of all its buckets.
    """

    quota: Quota
    used: int
    held: int
    frees_at: int

    @property
    def left(self) -> int:
        return self.quota.limit - self.used - self.held

    @property
    def percentage(self) -> float:
        return 100 * self.used / self.quota.limit if self.quota.limit else 100.0

    @property
    def resets_at(self) -> datetime | None:
        return from_micros(self.frees_at) if self.frees_at < MAX_MICROS else None


def _standing(workspace: Workspace, terms: Terms, quota: Quota, keys: Sequence[CounterKey], at: int) -> _Standing:
    counted = [(key.period_start, workspace.counters[key]) for key in keys]
    oldest = min((start for start, one in counted if one.used or one.held), default=None)
    return _Standing(
        quota,
        sum(one.used for _, one in counted),
        sum(one.held for _, one in counted),
        _frees_at(terms, quota, oldest, at),
    )


def _frees_at(terms: Terms, quota: Quota, oldest: int | None, at: int) -> int:
    """Return when a quota has room again (µs): at its period's end; of a window, when its oldest use leaves it."""
    if not quota.is_sliding:
        return terms.calendar(quota.period, at)[1]
    width, bucket = SLIDING[quota.period]
    return at if oldest is None else oldest + bucket + width


def _check(
    question: Question, standing: _Standing | None, refusal: TallystickError | None, currency: str, *, allowed: bool
) -> QuotaCheck:
    reason = None if refusal is None else refusal.message
    name = question.resource_type
    nothing = quota_amount(name, 0, currency)
    if standing is None:
        return QuotaCheck(
            billable=question.billable,
            resource_type=name,
            allowed=allowed,
            has_quota=False,
            quota_id=None,
            period=question.period,
            current=nothing,
            held=nothing,
            limit=None,
            remaining=None,
            percentage=0.0,
            is_hard_limit=False,
            resets_at=None,
            reason=reason,
        )
    quota = standing.quota
    return QuotaCheck(
        billable=question.billable,
        resource_type=name,
        allowed=allowed,
        has_quota=True,
        quota_id=quota.id,
        period=quota.period,
        current=quota_amount(name, standing.used, currency),
        held=quota_amount(name, standing.held, currency),
        limit=quota_amount(name, quota.limit, currency),
        remaining=quota_amount(name, max(0, standing.left), currency),
        percentage=standing.percentage,
        is_hard_limit=quota.is_hard_limit,
        resets_at=standing.resets_at,
        reason=reason,
    )


def _counters(connection: Connection, billable: str, keys: Iterable[CounterKey], at: int) -> dict[CounterKey, Counter]:
    """Read counters, without what holds that ran out still claim of them: it gives way to whoever asks."""
    found = {key: Counter() for key in keys}
    if not found:
        return found
    counters, holds = tables.counters.c, tables.holds.c
    query = select(*(counters[name] for name in CounterKey._fields), counters.used, counters.held).where(
        counters.billable == billable,
        *(
            counters[name].in_({getattr(key, name) for key in found})
            for name in CounterKey._fields
            if name != "billable"
        ),
    )
    for *names, used, held in connection.execute(query):
        key = CounterKey(*names)
        if key in found:
            found[key] = Counter(used, held)
    lapsed = select(*(holds[name] for name in HOLD_COLUMNS)).where(
        holds.status == "open", holds.billable == billable, holds.expires_at <= at
    )
    for row in connection.execute(lapsed):
        for claim in hold_from_row(tuple(row)).claims:
            if claim.key in found:
                found[claim.key].held -= claim.amount
    return found


# -- all quotas -------------------------------------------------------------------------------------------------------


class _Count(NamedTuple):
    """What is counted of one meter and scope in a running period; `oldest` is the start of the first bucket in use."""

    used: int
    held: int
    oldest: int | None


_NOTHING = _Count(0, 0, None)


def read_statuses(engine: Engine, connection: Connection, billable: str) -> list[QuotaStatus]:
    """Read how all quotas of a billable stand: with one query for the quotas and one for all that they count."""
    at = engine.now()
    rows = connection.execute(_quotas_query(engine, billable, at)).all()
    if not rows:
        return []
    first = rows[0]
    policy = engine.terms_policy
    policy = replace(
        policy, zone=first.tenant_timezone or policy.zone, currency=first.tenant_currency or policy.currency
    )
    currency = first.plan_currency or policy.currency
    is_enforced = (first.tenant_enforcement or engine.settings.enforcement) == "on"
    quotas = [quota_from_row(row) for row in rows]
    terms = Terms(billable, policy, quotas=tuple(quotas))
    counts = {
        (meter, period, scope): _Count(int(used), int(held), oldest)
        for meter, period, scope, used, held, oldest in connection.execute(_counts_query(terms, currency, at))
    }
    return [_status(terms, quota, counts, currency, at, is_enforced=is_enforced) for quota in quotas]


def _quotas_query(engine: Engine, billable: str, at: int) -> Any:
    quotas, tenants = tables.quotas, tables.tenants
    return (
        select(
            *quotas.columns,
            tenants.c.timezone.label("tenant_timezone"),
            tenants.c.currency.label("tenant_currency"),
            tenants.c.enforcement.label("tenant_enforcement"),
            _plan_currency(engine, billable, at).label("plan_currency"),
        )
        .select_from(quotas.outerjoin(tenants, tenants.c.billable == quotas.c.billable))
        .where(quotas.c.billable == billable)
        .order_by(quotas.c.resource_type, quotas.c.period, quotas.c.scope)
    )


def _plan_currency(engine: Engine, billable: str, at: int) -> Any:
    """Return the currency of the plan in force, as `Terms.subscription_at` finds it."""
    own, versions = tables.subscriptions.c, tables.plan_versions
    grace = engine.terms_policy.grace_period_days * _DAY_MICROS
    return (
        select(versions.c.currency)
        .join(tables.subscriptions, versions.c.id == own.plan_version_id)
        .where(
            own.billable == billable,
            ~own.is_pending,
            own.started_at <= at,
            or_(own.cancels_at.is_(None), own.cancels_at > at),
            or_(own.term_ends_at.is_(None), own.term_ends_at > at),
            or_(own.payment_failed_at.is_(None), own.payment_failed_at + grace > at),
        )
        .order_by(own.started_at.desc(), own.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def _counts_query(terms: Terms, currency: str, at: int) -> Any:
    counters = tables.counters.c
    some = []
    for period in sorted({quota.period for quota in terms.quotas}):
        of_period = [quota for quota in terms.quotas if quota.period == period]
        start = period_start(terms, of_period[0], at)
        is_running = (
            and_(counters.period_start >= start, counters.period_start <= at)
            if of_period[0].is_sliding
            else counters.period_start == start
        )
        in_use = case((or_(counters.used != 0, counters.held != 0), counters.period_start), else_=null())
        some.append(
            select(
                counters.meter,
                counters.period,
                counters.scope,
                func.sum(counters.used),
                func.sum(counters.held),
                func.min(in_use),
            )
            .where(
                is_running,
                counters.period == period,
                counters.billable == terms.billable,
                counters.meter.in_({quota_meter(quota.resource_type, currency) for quota in of_period}),
            )
            .group_by(counters.meter, counters.period, counters.scope)
        )
    return union_all(*some)


def _status(
    terms: Terms,
    quota: Quota,
    counts: Mapping[tuple[str, str, str], _Count],
    currency: str,
    at: int,
    *,
    is_enforced: bool,
) -> QuotaStatus:
    name = quota.resource_type
    fullest: str | None = None
    if quota.scope == EVERY_USER:
        users = dict(_of_users(terms, quota, counts, currency))
        fullest = max(users, key=lambda user: (users[user].used, user), default=None)
        count = users[fullest] if fullest is not None else _NOTHING
    else:
        count = counts.get((quota_meter(name, currency), quota.period, quota.scope), _NOTHING)
    standing = _Standing(quota, count.used, count.held, _frees_at(terms, quota, count.oldest, at))
    return QuotaStatus(
        quota=tenant_quota(quota, currency),
        current=quota_amount(name, standing.used, currency),
        held=quota_amount(name, standing.held, currency),
        remaining=quota_amount(name, max(0, standing.left), currency),
        percentage=standing.percentage,
        allowed=standing.left > 0 or not quota.is_hard_limit or not is_enforced,
        resets_at=standing.resets_at,
        fullest_user=fullest,
    )


def _of_users(
    terms: Terms, quota: Quota, counts: Mapping[tuple[str, str, str], _Count], currency: str
) -> Iterator[tuple[str, _Count]]:
    """Find what each user has used of a quota that is each user's own, but those who have another."""
    others = {one.scope for one in terms.quotas_of(quota.resource_type) if one.period == quota.period}
    meter = quota_meter(quota.resource_type, currency)
    for (counted, period, scope), count in counts.items():
        if (counted, period) == (meter, quota.period) and scope.startswith("user:") and scope not in others:
            yield scope, count
