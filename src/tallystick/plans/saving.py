"""Plans from and to their rows, inside a transaction. What is published is never written again.

Whoever changes plans calls `lock_terms` first: changes of plans and new subscriptions then follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from tallystick.errors import Conflict, PlanNotFound
from tallystick.identity import new_id
from tallystick.period import from_micros
from tallystick.plans.loading import load_features, plan_version_from_row
from tallystick.plans.terms import Plan, PlanType, PlanVersion
from tallystick.plans.version_terms import VersionTerms
from tallystick.storage import tables

__all__ = [
    "NewPlan",
    "change_plan_row",
    "find_plan",
    "find_version",
    "insert_plan",
    "insert_version",
    "load_plans",
    "publish_version",
    "remove_draft",
    "replace_draft",
    "unknown_plan",
    "version_of",
]


@dataclass(frozen=True, slots=True)
class NewPlan:
    """What a plan is called, and the terms of the version that is sold."""

    slug: str
    name: str
    plan_type: PlanType
    description: str | None
    label: str | None
    terms: VersionTerms


# -- reading ----------------------------------------------------------------------------------------------------------


def load_plans(connection: Connection, slug: str | None = None) -> list[Plan]:
    """Read one plan, or all by slug, with all versions."""
    plans, versions = tables.plans, tables.plan_versions
    columns = [plans.c[name].label(f"plan_{name}") for name in _PLAN_COLUMNS]
    query = (
        select(versions, plans.c.slug, plans.c.name, *columns)
        .join(plans, plans.c.id == versions.c.plan_id)
        .order_by(plans.c.slug, versions.c.version)
    )
    rows = connection.execute(query if slug is None else query.where(plans.c.slug == slug)).all()
    features = load_features(connection, [row.id for row in rows])
    by_plan: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_plan.setdefault(row.plan_id, []).append(row)
    return [
        _plan(own[0], [plan_version_from_row(dict(row._mapping), features[row.id]) for row in own])
        for own in by_plan.values()
    ]


_PLAN_COLUMNS = ("created_at", "plan_type", "description", "current_version_id", "archived_at")


def _plan(row: Row[Any], versions: Sequence[PlanVersion]) -> Plan:
    named = next((one for one in versions if one.id == row.plan_current_version_id), None)
    published = [one for one in versions if one.is_published]
    return Plan(
        id=row.plan_id,
        slug=row.slug,
        name=row.name,
        created_at=from_micros(row.plan_created_at),
        current=named or (published or versions)[-1],
        versions=tuple(versions),
        plan_type=PlanType.CUSTOM if row.plan_plan_type is None else PlanType(row.plan_plan_type),
        description=row.plan_description,
        archived_at=None if row.plan_archived_at is None else from_micros(row.plan_archived_at),
    )


def find_plan(connection: Connection, slug: str) -> Plan:
    """Return a plan with its versions.

    Raises:
        PlanNotFound: no plan of this slug.
    """
    found = load_plans(connection, slug) if isinstance(slug, str) else []
    if not found:
        raise unknown_plan(connection, slug)
    return found[0]


def unknown_plan(connection: Connection, slug: str) -> PlanNotFound:
    """Return the error that says which plans there are."""
    known = connection.execute(select(tables.plans.c.slug).order_by(tables.plans.c.slug)).scalars()
    return PlanNotFound(slug, f"Plans: {', '.join(known) or 'none yet'}.")


def version_of(plan: Plan, number: int) -> PlanVersion:
    """Return a version of a plan by its number.

    Raises:
        PlanNotFound: the plan has no such version.
    """
    found = plan.version(number)
    if found is None:
        known = ", ".join(str(one.version) for one in plan.versions)
        raise PlanNotFound(f"{plan.slug}, version {number}", f"Versions of {plan.slug}: {known}.")
    return found


def find_version(
    connection: Connection, slug: str, version: int | None = None, *, followed: str | None = None
) -> PlanVersion:
    """Return what a new subscriber gets of a plan: the version that is sold now, or a published one by its number.

    Who follows the plan `followed` (its slug) may move within it, also when it is archived.

    Raises:
        PlanNotFound: no plan of this slug, or no such version of it.
        Conflict: the plan is archived, or the version (or all of them) is a draft.
    """
    plan = find_plan(connection, slug)
    if not plan.is_active and slug != followed:
        raise Conflict(
            f"Plan {slug} is archived: nobody new can subscribe to it. Put it on sale again with "
            f"ts.plans.activate({slug!r}), or choose another plan."
        )
    found = plan.current if version is None else version_of(plan, version)
    if not found.is_published:
        what = f"Version {found.version} of plan {slug} is a draft"
        raise Conflict(f"{what}. Publish it with ts.plans.publish({slug!r}, {found.version}) before it is subscribed.")
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


def insert_plan(connection: Connection, new: NewPlan, *, now: int, publish: bool) -> str:
    """Write a plan with its first version. Returns its id.

    Raises:
        Conflict: there is a plan of this slug.
    """
    plans = tables.plans
    if connection.execute(select(plans.c.id).where(plans.c.slug == new.slug)).first():
        raise Conflict(f"There is a plan {new.slug!r} already. Choose another slug.")
    plan_id = new_id("pln")
    connection.execute(
        plans.insert().values(
            id=plan_id,
            slug=new.slug,
            name=new.name,
            created_at=now,
            plan_type=str(new.plan_type),
            description=new.description,
        )
    )
    insert_version(connection, plan_id, new.terms, label=new.label, now=now, publish=publish)
    return plan_id


def insert_version(
    connection: Connection, plan_id: str, terms: VersionTerms, *, label: str | None, now: int, publish: bool
) -> int:
    """Write the next version of a plan, a draft, or published and sold from now on. Returns its number."""
    versions = tables.plan_versions
    last = connection.execute(select(func.max(versions.c.version)).where(versions.c.plan_id == plan_id)).scalar()
    number, version_id = (last or 0) + 1, new_id("plv")
    connection.execute(
        versions.insert().values(
            id=version_id,
            plan_id=plan_id,
            version=number,
            created_at=now,
            published_at=now if publish else None,
            label=label,
            **terms.columns(),
        )
    )
    _insert_features(connection, version_id, terms)
    if publish:
        change_plan_row(connection, plan_id, {"current_version_id": version_id})
    return number


def replace_draft(connection: Connection, draft: PlanVersion, terms: VersionTerms, *, label: str | None) -> None:
    """Write other terms into a draft."""
    versions = tables.plan_versions
    # The condition is the last guard: whatever the caller believed, a published version is not touched.
    is_draft = (versions.c.id == draft.id) & versions.c.published_at.is_(None)
    changed = connection.execute(update(versions).where(is_draft).values(label=label, **terms.columns()))
    if changed.rowcount:
        connection.execute(delete(tables.plan_features).where(tables.plan_features.c.plan_version_id == draft.id))
        _insert_features(connection, draft.id, terms)


def remove_draft(connection: Connection, draft: PlanVersion) -> None:
    """Delete a draft."""
    versions = tables.plan_versions
    is_draft = (versions.c.id == draft.id) & versions.c.published_at.is_(None)
    if connection.execute(delete(versions).where(is_draft)).rowcount:
        connection.execute(delete(tables.plan_features).where(tables.plan_features.c.plan_version_id == draft.id))


def publish_version(connection: Connection, version: PlanVersion, *, now: int) -> None:
    """Sell a version from now on. When it was first published stays."""
    versions = tables.plan_versions
    is_draft = (versions.c.id == version.id) & versions.c.published_at.is_(None)
    connection.execute(update(versions).where(is_draft).values(published_at=now))
    change_plan_row(connection, version.plan_id, {"current_version_id": version.id})


def change_plan_row(connection: Connection, plan_id: str, values: Mapping[str, object]) -> None:
    """Change what is no term of a version: the name, the description, the type, what is sold, whether it is."""
    connection.execute(update(tables.plans).where(tables.plans.c.id == plan_id).values(dict(values)))


def _insert_features(connection: Connection, version_id: str, terms: VersionTerms) -> None:
    rows = terms.feature_rows(version_id)
    if rows:
        connection.execute(tables.plan_features.insert(), rows)
