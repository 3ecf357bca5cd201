"""Terms from and to the database: rows into values, and the journal that tells every lane what changed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, update

from tallystick.limits.quota import Quota, RateLimit
from tallystick.metering.rollup_zones import pseudonym_zones
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.plans.terms import (
    NO_FEATURES,
    BillingMode,
    ChangeKind,
    CreditCap,
    LimitOverride,
    OverageBehavior,
    PlanChange,
    PlanFeature,
    PlanVersion,
    Subscription,
    Terms,
    TermsPolicy,
)
from tallystick.plans.usage_prices import NO_USAGE_PRICES, UsagePrice, UsagePrices
from tallystick.storage import tables
from tallystick.storage.rows import portions
from tallystick.tenants.tenant import Tenant, TenantStatus

__all__ = [
    "Features",
    "journal_change",
    "load_features",
    "load_subscriptions",
    "load_terms",
    "lock_terms",
    "override_from_row",
    "plan_version_from_row",
    "quota_from_row",
    "rate_limit_from_row",
    "subscription_from_row",
    "tenant_from_row",
]

Features = Mapping[str, PlanFeature]
"""The features of one plan version by slug, in the order in which they are shown."""

_JOURNAL_KEPT = 10_000


def load_terms(connection: Connection, billables: Iterable[str], policy: TermsPolicy) -> dict[str, Terms]:
    """Read the terms of billables, all at once. One that has none gets terms that limit nothing."""
    wanted = list(billables)
    subscriptions: dict[str, list[Subscription]] = defaultdict(list)
    overrides: dict[str, list[LimitOverride]] = defaultdict(list)
    caps: dict[str, list[CreditCap]] = defaultdict(list)
    quotas: dict[str, list[Quota]] = defaultdict(list)
    rates: dict[str, list[RateLimit]] = defaultdict(list)
    tenants: dict[str, Tenant] = {}
    zones: dict[str, str] = {}
    for some in portions(wanted):
        for one in load_subscriptions(connection, tables.subscriptions.c.billable.in_(some)):
            subscriptions[one.billable].append(one)
        for row in connection.execute(
            select(tables.limit_overrides).where(tables.limit_overrides.c.billable.in_(some))
        ):
            overrides[row.billable].append(override_from_row(row))
        for row in connection.execute(select(tables.credit_caps).where(tables.credit_caps.c.billable.in_(some))):
            caps[row.billable].append(_cap_from_row(row))
        for row in connection.execute(select(tables.quotas).where(tables.quotas.c.billable.in_(some))):
            quotas[row.billable].append(quota_from_row(row))
        for row in connection.execute(select(tables.rate_limits).where(tables.rate_limits.c.billable.in_(some))):
            rates[row.billable].append(rate_limit_from_row(row))
        for row in connection.execute(select(tables.tenants).where(tables.tenants.c.billable.in_(some))):
            tenants[row.billable] = tenant_from_row(row)
        zones |= pseudonym_zones(connection, some)
    return {
        billable: Terms(
            billable,
            _policy_of(tenants.get(billable), zones.get(billable), policy),
            tuple(subscriptions[billable]),
            tuple(overrides[billable]),
            tuple(caps[billable]),
            tenants.get(billable),
            tuple(quotas[billable]),
            tuple(rates[billable]),
        )
        for billable in wanted
    }


def load_subscriptions(connection: Connection, condition: ColumnElement[bool]) -> list[Subscription]:
    """Read the subscriptions that meet a condition, with all that they followed and will follow."""
    rows = connection.execute(_subscriptions_query().where(condition)).all()
    changes = _load_changes(connection, [row.id for row in rows])
    features = load_features(connection, {row.plan_version_id for row in rows})
    return [subscription_from_row(row, features[row.plan_version_id], changes.get(row.id, ())) for row in rows]


def _load_changes(connection: Connection, subscription_ids: Sequence[str]) -> dict[str, tuple[PlanChange, ...]]:
    changes, versions, plans = tables.subscription_changes, tables.plan_versions, tables.plans
    query = (
        select(changes, *_plan_columns())
        .join(versions, versions.c.id == changes.c.plan_version_id, isouter=True)
        .join(plans, plans.c.id == versions.c.plan_id, isouter=True)
        .order_by(changes.c.subscription_id, changes.c.starts_at, changes.c.id)
    )
    rows: list[Row[Any]] = []
    for some in portions(subscription_ids):
        rows += connection.execute(query.where(changes.c.subscription_id.in_(some))).all()
    features = load_features(connection, {row.plan_version_id for row in rows if row.plan_version_id is not None})
    found: dict[str, tuple[PlanChange, ...]] = {}
    for row in rows:
        plan = None if row.plan_version_id is None else _plan_of(row, features[row.plan_version_id])
        change = PlanChange(
            id=row.id,
            kind=ChangeKind(row.kind),
            starts_at=from_micros(row.starts_at),
            plan=plan,
            anchor_at=_instant(row.anchor_at),
            is_prorated=bool(row.is_prorated),
            created_at=from_micros(row.created_at),
        )
        found[row.subscription_id] = (*found.get(row.subscription_id, ()), change)
    return found


def _policy_of(tenant: Tenant | None, pseudonym_zone: str | None, policy: TermsPolicy) -> TermsPolicy:
    """Return the policy of the settings with what a tenant has, or anonymised use has kept, of its own."""
    if pseudonym_zone is not None:
        return replace(policy, zone=pseudonym_zone)
    if tenant is None or (tenant.timezone is None and tenant.currency is None):
        return policy
    return replace(policy, zone=tenant.timezone or policy.zone, currency=tenant.currency or policy.currency)


def quota_from_row(row: Row[Any]) -> Quota:
    return Quota(
        id=row.id,
        billable=row.billable,
        resource_type=row.resource_type,
        period=row.period,
        scope=row.scope,
        limit=row.limit_value,
        is_hard_limit=bool(row.is_hard_limit),
        thresholds=tuple(json.loads(row.thresholds)),
        created_at=from_micros(row.created_at),
        updated_at=from_micros(row.updated_at),
    )


def rate_limit_from_row(row: Row[Any]) -> RateLimit:
    return RateLimit(row.billable, row.resource_type, row.scope, row.per, row.limit_value, row.burst)


def tenant_from_row(row: Row[Any]) -> Tenant:
    return Tenant(
        id=row.id,
        slug=row.slug,
        billable=row.billable,
        name=row.name,
        billing_email=row.billing_email,
        status=TenantStatus(row.status),
        status_reason=row.status_reason,
        timezone=row.timezone,
        currency=row.currency,
        locale=row.locale,
        tax_id=row.tax_id,
        enforcement=row.enforcement,
        metadata=MappingProxyType(json.loads(row.metadata) if row.metadata else {}),
        created_at=from_micros(row.created_at),
        updated_at=from_micros(row.updated_at),
        deleted_at=None if row.deleted_at is None else from_micros(row.deleted_at),
    )


def load_features(connection: Connection, plan_version_ids: Iterable[str]) -> Mapping[str, Features]:
    """Read the features of plan versions, all at once. A version that has none gets an empty mapping."""
    features = tables.plan_features
    found: dict[str, dict[str, PlanFeature]] = defaultdict(dict)
    wanted = sorted(set(plan_version_ids))
    for some in portions(wanted):
        query = select(features).where(features.c.plan_version_id.in_(some))
        for row in connection.execute(query.order_by(features.c.sort_order, features.c.slug)):
            found[row.plan_version_id][row.slug] = _feature_from_row(row)
    return {
        version_id: MappingProxyType(found[version_id]) if version_id in found else NO_FEATURES for version_id in wanted
    }


def journal_change(connection: Connection, billable: str | None) -> None:
    """Tell every lane, in every process, that a billable's terms (None: everybody's) have changed.

    The one row of the revision is updated first, so that changes are numbered in the order in which they commit.
    """
    revisions = tables.terms_revision
    connection.execute(update(revisions).values(revision=revisions.c.revision + 1))
    revision = connection.execute(select(revisions.c.revision)).scalar_one()
    changes = tables.terms_changes
    connection.execute(changes.insert().values(revision=revision, billable=billable))
    if revision % _JOURNAL_KEPT == 0:
        # A lane that slept through all of these must forget everything, which the oldest kept entry tells it.
        oldest = revision - _JOURNAL_KEPT
        connection.execute(changes.delete().where(changes.c.revision < oldest))
        connection.execute(update(changes).where(changes.c.revision == oldest).values(billable=None))


def lock_terms(connection: Connection) -> None:
    """Let others who change terms wait until this transaction ends, so that what it has looked up stays true."""
    connection.execute(select(tables.terms_revision.c.revision).with_for_update())


def _subscriptions_query() -> Any:
    return _with_plan(select(tables.subscriptions, *_plan_columns()))


def _with_plan(query: Any) -> Any:
    return query.join(tables.plan_versions, tables.plan_versions.c.id == tables.subscriptions.c.plan_version_id).join(
        tables.plans, tables.plans.c.id == tables.plan_versions.c.plan_id
    )


def _plan_columns() -> list[Any]:
    """Return the columns of a plan version and its plan beside those of what follows it, under names of their own."""
    versions = [column.label(f"plan_version_{column.name}") for column in tables.plan_versions.columns]
    # `plan_version_id` is a column of the owner already, and the same value.
    return [column for column in versions if column.name != "plan_version_id"] + [
        tables.plans.c.slug.label("plan_slug"),
        tables.plans.c.name.label("plan_name"),
    ]


def _plan_of(row: Row[Any], features: Features) -> PlanVersion:
    values = row._mapping
    return plan_version_from_row(
        {
            "id": values["plan_version_id"],
            "slug": values["plan_slug"],
            "name": values["plan_name"],
            **{name: values.get(f"plan_version_{name}") for name in _VERSION_FIELDS},
        },
        features,
    )


def subscription_from_row(row: Row[Any], features: Features, changes: tuple[PlanChange, ...] = ()) -> Subscription:
    """Read a row of a subscription joined with the plan version it began with, whose features are given."""
    values = row._mapping
    return Subscription(
        id=values["id"],
        billable=values["billable"],
        plan=_plan_of(row, features),
        billing_mode=BillingMode(values["billing_mode"]),
        started_at=from_micros(values["started_at"]),
        trial_ends_at=_instant(values["trial_ends_at"]),
        is_pending=bool(values["is_pending"]),
        cancelled_at=_instant(values["cancelled_at"]),
        cancels_at=_instant(values["cancels_at"]),
        term_ends_at=_instant(values["term_ends_at"]),
        payment_failed_at=_instant(values["payment_failed_at"]),
        created_at=from_micros(values["created_at"]),
        changes=changes,
        timezone=values["timezone"],
        billed_until=_instant(values["billed_until"]),
        activation_invoice_id=values["activation_invoice_id"],
        metadata=MappingProxyType(json.loads(values["metadata"]) if values["metadata"] else {}),
    )


_VERSION_FIELDS = tuple(column.name for column in tables.plan_versions.columns if column.name != "id")


def plan_version_from_row(values: Mapping[str, Any], features: Features) -> PlanVersion:
    """Read a plan version with the slug and the name of its plan. Its features are given."""
    currency = values["currency"]
    behavior, overage_price = values["overage_behavior"], values["overage_price_per_1k_tokens"]
    markup = values["overage_markup_percent"]
    return PlanVersion(
        id=values["id"],
        plan_id=values["plan_id"],
        slug=values["slug"],
        name=values["name"],
        version=values["version"],
        currency=currency,
        monthly_token_limit=values["monthly_token_limit"],
        monthly_cost_limit=_money(values["monthly_cost_limit"], currency),
        overage_price_per_1k_tokens=None if overage_price is None else Decimal(overage_price),
        overage_behavior=None if behavior is None else OverageBehavior(behavior),
        trial_days=values["trial_days"],
        price=_money(values["price"], currency),
        billing_cycle=values["billing_cycle"],
        created_at=from_micros(values["created_at"]),
        published_at=_instant(values["published_at"]),
        features=features,
        label=values["label"],
        overage_markup_percent=None if markup is None else Decimal(markup),
        usage_prices=_usage_prices(values["usage_prices"]),
    )


def _usage_prices(text: str | None) -> UsagePrices:
    if text is None:
        return NO_USAGE_PRICES
    return MappingProxyType({name: UsagePrice.from_dict(stated) for name, stated in json.loads(text).items()})


def _feature_from_row(row: Row[Any]) -> PlanFeature:
    return PlanFeature(
        slug=row.slug,
        name=row.name,
        is_consumable=bool(row.is_consumable),
        allowance=row._mapping["value"],
        reset=row.reset,
        display_value=row.display_value,
        is_hidden=bool(row.is_hidden),
        sort_order=row.sort_order,
    )


def _cap_from_row(row: Row[Any]) -> CreditCap:
    return CreditCap(
        billable=row.billable,
        unit=row.unit,
        member=row.member,
        amount=row.amount,
        period=row.period,
        created_at=from_micros(row.created_at),
    )


def override_from_row(row: Row[Any]) -> LimitOverride:
    return LimitOverride(
        id=row.id,
        billable=row.billable,
        start=from_micros(row.start_at),
        end=_instant(row.end_at),
        token_limit=row.token_limit,
        cost_limit=_money(row.cost_limit, row.currency),
        reason=row.reason,
        created_at=from_micros(row.created_at),
    )


def _instant(micros: int | None) -> Any:
    return None if micros is None else from_micros(micros)


def _money(nanos: int | None, currency: str) -> Money | None:
    return None if nanos is None else Money.from_nanos(nanos, currency)
