"""`ts.plans`: what is sold. A plan has a slug and versions; a published version never changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from tallystick.errors import Conflict, InvalidInput, PlanNotFound
from tallystick.identity import new_id
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.plans.features import checked_features
from tallystick.plans.loading import load_features, lock_terms, plan_version_from_row
from tallystick.plans.terms import OverageBehavior, Plan, PlanVersion
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Plans"]

_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_BILLING_CYCLES = ("monthly", "quarterly", "yearly", "lifetime")


class Plans:
    """Creates and finds plans."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        slug: str,
        name: str | None = None,
        *,
        monthly_token_limit: int | None = None,
        monthly_cost_limit: Money | None = None,
        overage_price_per_1k_tokens: Money | Decimal | str | None = None,
        overage_behavior: str | None = None,
        trial_days: int = 0,
        price: Money | None = None,
        billing_cycle: str = "monthly",
        currency: str | None = None,
        features: Mapping[str, object] | None = None,
    ) -> Plan:
        """Create a plan and publish its first version.

        Limits are per period of the account (`period.type`, a month by default); None is unlimited. Without an
        `overage_behavior` the setting `billing.overage_behavior` holds. Amounts are of one currency, which is the
        plan's; without any amount it is `currency`, else `billing.currency`.

        `features` says by slug what the plan gives of each: how many uses in a reset period, "unlimited", or True for
        one that is there without being counted; False leaves it out. A table says more: `value`, `reset` ("hourly",
        "daily", "weekly", "monthly", "quarterly", "yearly", "never"; monthly where left out), `name`,
        `display_value`, `hidden`, `sort_order`.

        Raises:
            InvalidInput: for a value that cannot be, or amounts of two currencies.
            Conflict: there is a plan of this slug.
        """
        terms = self._checked_terms(
            monthly_token_limit=monthly_token_limit,
            monthly_cost_limit=monthly_cost_limit,
            overage_price_per_1k_tokens=overage_price_per_1k_tokens,
            overage_behavior=overage_behavior,
            trial_days=trial_days,
            price=price,
            billing_cycle=billing_cycle,
            currency=currency,
        )
        given_features = checked_features(features)
        if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
            raise InvalidInput(
                "slug", slug, "Use lower-case letters, digits, `-`, `_` and `.`, a letter or digit first."
            )
        now = self._engine.now()
        plan_id, version_id = new_id("pln"), new_id("plv")

        def insert(connection: Connection) -> None:
            plans = tables.plans
            lock_terms(connection)
            if connection.execute(select(plans.c.id).where(plans.c.slug == slug)).first():
                raise Conflict(f"There is a plan {slug!r} already. Choose another slug.")
            connection.execute(plans.insert().values(id=plan_id, slug=slug, name=name or slug, created_at=now))
            connection.execute(
                tables.plan_versions.insert().values(
                    id=version_id, plan_id=plan_id, version=1, created_at=now, published_at=now, **terms
                )
            )
            if given_features:
                rows = [{"plan_version_id": version_id, **columns} for columns in given_features]
                connection.execute(tables.plan_features.insert(), rows)

        self._engine.lane.transact(insert)
        return self.get(slug)

    def get(self, slug: str) -> Plan:
        """Return a plan with its versions.

        Raises:
            PlanNotFound: no plan of this slug.
        """
        found = self._load(slug)
        if not found:
            known = ", ".join(plan.slug for plan in self._load(None)) or "none yet"
            raise PlanNotFound(slug, f"Plans: {known}.")
        return found[0]

    def list(self) -> list[Plan]:
        """Return every plan, by slug."""
        return list(self._load(None))

    def _load(self, slug: str | None) -> Sequence[Plan]:
        plans, versions = tables.plans, tables.plan_versions
        query = (
            select(versions, plans.c.slug, plans.c.name, plans.c.created_at.label("plan_created_at"))
            .join(plans, plans.c.id == versions.c.plan_id)
            .order_by(plans.c.slug, versions.c.version)
        )
        if slug is not None:
            query = query.where(plans.c.slug == slug)

        def read(connection: Connection) -> list[Plan]:
            rows = connection.execute(query).all()
            features = load_features(connection, [row.id for row in rows])
            by_plan: dict[str, list[PlanVersion]] = {}
            created: dict[str, int] = {}
            for row in rows:
                version = plan_version_from_row(dict(row._mapping), features[row.id])
                by_plan.setdefault(version.slug, []).append(version)
                created[version.slug] = row.plan_created_at
            return [_plan(found, created[name]) for name, found in by_plan.items()]

        return self._engine.read(read)

    def _checked_terms(
        self,
        *,
        monthly_token_limit: int | None,
        monthly_cost_limit: Money | None,
        overage_price_per_1k_tokens: Money | Decimal | str | None,
        overage_behavior: str | None,
        trial_days: int,
        price: Money | None,
        billing_cycle: str,
        currency: str | None,
    ) -> dict[str, Any]:
        """Return the columns of a version, each value checked."""
        amounts: Mapping[str, object] = {
            "monthly_cost_limit": monthly_cost_limit,
            "overage_price_per_1k_tokens": overage_price_per_1k_tokens,
            "price": price,
        }
        plan_currency = self._currency(amounts, currency)
        if billing_cycle not in _BILLING_CYCLES:
            raise InvalidInput("billing_cycle", billing_cycle, f"Use one of {', '.join(_BILLING_CYCLES)}.")
        return {
            "currency": plan_currency,
            "monthly_token_limit": _count("monthly_token_limit", monthly_token_limit),
            "monthly_cost_limit": _nanos("monthly_cost_limit", monthly_cost_limit),
            "overage_price_per_1k_tokens": _rate("overage_price_per_1k_tokens", overage_price_per_1k_tokens),
            "overage_behavior": checked_behavior(overage_behavior),
            "trial_days": _count("trial_days", trial_days),
            "price": _nanos("price", price),
            "billing_cycle": billing_cycle,
        }

    def _currency(self, amounts: Mapping[str, object], currency: str | None) -> str:
        given = {name: amount.currency for name, amount in amounts.items() if isinstance(amount, Money)}
        if currency is not None:
            given["currency"] = Money(0, currency).currency
        if len(set(given.values())) > 1:
            raise InvalidInput("currency", given, "A plan has one currency; give every amount in it.")
        return next(iter(given.values()), self._engine.settings.billing.currency)


def find_version(connection: Connection, slug: str) -> PlanVersion:
    """Return the newest published version of a plan.

    Raises:
        PlanNotFound: no plan of this slug.
    """
    plans, versions = tables.plans, tables.plan_versions
    newest = (
        select(func.max(versions.c.version))
        .where(versions.c.plan_id == plans.c.id, versions.c.published_at.isnot(None))
        .correlate(plans)
        .scalar_subquery()
    )
    row = connection.execute(
        select(versions, plans.c.slug, plans.c.name)
        .join(plans, plans.c.id == versions.c.plan_id)
        .where(plans.c.slug == slug, versions.c.version == newest)
    ).first()
    if row is None:
        known = ", ".join(connection.execute(select(plans.c.slug).order_by(plans.c.slug)).scalars()) or "none yet"
        raise PlanNotFound(slug, f"Plans: {known}.")
    return plan_version_from_row(dict(row._mapping), load_features(connection, [row.id])[row.id])


def checked_behavior(behavior: str | None) -> str | None:
    if behavior is not None and behavior not in set(OverageBehavior):
        raise InvalidInput("overage_behavior", behavior, f"Use one of {', '.join(OverageBehavior)}.")
    return None if behavior is None else str(behavior)


def _plan(versions: list[PlanVersion], created_at: int) -> Plan:
    published = [version for version in versions if version.is_published]
    current = published[-1] if published else versions[-1]
    return Plan(current.plan_id, current.slug, current.name, from_micros(created_at), current, tuple(versions))


def _count(field: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InvalidInput(field, value, "Give a whole number, zero or more.")
    return value


def _nanos(field: str, value: Money | None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, Money) or value.nanos < 0:
        raise InvalidInput(field, value, 'Give Money of zero or more, such as Money("100", "USD").')
    return value.nanos


def _rate(field: str, value: Money | Decimal | str | None) -> str | None:
    """Return a rate as the text of an exact decimal: a rate may be finer than money."""
    if value is None:
        return None
    try:
        rate = value.amount if isinstance(value, Money) else Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        raise InvalidInput(field, value, 'Give Money, or a decimal as text such as "0.01".') from None
    if isinstance(value, float) or not rate.is_finite() or rate < 0:
        raise InvalidInput(field, value, 'Give Money, or a decimal as text such as "0.01", of zero or more.')
    return str(rate)
