"""Bringing plans to what a file says: what differs is found by value, and carried out in one transaction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from tallystick.plans.loading import journal_change, lock_terms
from tallystick.plans.plan_file import WantedPlan, read_plan_file
from tallystick.plans.saving import (
    NewPlan,
    change_plan_row,
    insert_plan,
    insert_version,
    load_plans,
    publish_version,
)
from tallystick.plans.terms import Plan, PlanType, PlanVersion
from tallystick.plans.version_terms import PlanDifference, VersionTerms, differences

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["PlanSync", "SyncedPlan", "sync_plans"]


@dataclass(frozen=True, slots=True)
class SyncedPlan:
    """What a file changes of one plan. `version` is the number of the version that it is about."""

    slug: str
    version: int
    differences: tuple[PlanDifference, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return {
            "slug": self.slug,
            "version": self.version,
            "differences": [one.to_dict() for one in self.differences],
        }


@dataclass(frozen=True, slots=True)
class PlanSync:
    """What a file has changed, or with `dry_run` would change.

    A plan with other terms and another name is in `new_versions` and in `updated`. `not_in_file` are plans on sale that
    the file does not name, and that were left as they are. `published` says whether new versions are sold.
    """

    created: tuple[SyncedPlan, ...]
    new_versions: tuple[SyncedPlan, ...]
    updated: tuple[SyncedPlan, ...]
    unchanged: tuple[SyncedPlan, ...]
    archived: tuple[SyncedPlan, ...]
    not_in_file: tuple[SyncedPlan, ...]
    published: bool
    dry_run: bool

    @property
    def has_changes(self) -> bool:
        return bool(self.created or self.new_versions or self.updated or self.archived)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        groups = ("created", "new_versions", "updated", "unchanged", "archived", "not_in_file")
        listed = {name: [one.to_dict() for one in getattr(self, name)] for name in groups}
        return {**listed, "published": self.published, "dry_run": self.dry_run}


@dataclass(frozen=True, slots=True)
class _Step:
    """What has to be done for one plan of the file: `existing` is None where it is new.

    `draft` already has the terms that are wanted. Without `terms` what is sold stays.
    """

    wanted: WantedPlan
    existing: Plan | None
    terms: tuple[PlanDifference, ...] = ()
    is_new_version: bool = False
    draft: PlanVersion | None = None
    attributes: tuple[PlanDifference, ...] = ()

    @property
    def version(self) -> int:
        if self.existing is None:
            return 1
        if self.draft is not None:
            return self.draft.version
        return self.existing.versions[-1].version + 1 if self.is_new_version else self.existing.current.version


def sync_plans(
    engine: Engine, path: str | os.PathLike[str], *, dry_run: bool, publish: bool, archive_missing: bool
) -> PlanSync:
    """Compare a file with the plans that are there, and carry the differences out."""
    wanted = read_plan_file(path, engine.settings)
    now = engine.now()

    def look(connection: Connection) -> tuple[list[_Step], list[Plan]]:
        existing = {plan.slug: plan for plan in load_plans(connection)}
        steps = [_step(one, existing.get(one.plan.slug), publish=publish) for one in wanted]
        named = {one.plan.slug for one in wanted}
        # A plan of which nothing was published is somebody's work, and not on sale.
        missing = [
            plan
            for plan in existing.values()
            if plan.slug not in named and plan.is_active and plan.current.is_published
        ]
        return steps, missing

    def carry_out(connection: Connection) -> tuple[list[_Step], list[Plan]]:
        lock_terms(connection)
        steps, missing = look(connection)
        for step in steps:
            _carry_out(connection, step, now=now, publish=publish)
        if archive_missing:
            for plan in missing:
                change_plan_row(connection, plan.id, {"archived_at": now})
        if any(one.field == "name" for step in steps for one in step.attributes):
            # Lanes keep the names of the plans that their accounts follow.
            journal_change(connection, None)
        return steps, missing

    steps, missing = engine.read(look) if dry_run else engine.lane.transact(carry_out)
    return _answer(steps, missing, publish=publish, archive_missing=archive_missing, dry_run=dry_run)


def _step(wanted: WantedPlan, existing: Plan | None, *, publish: bool) -> _Step:
    new = wanted.plan
    if existing is None:
        nothing = VersionTerms(new.terms.currency)
        stated = (*_attributes(wanted, None), *differences(nothing, new.terms))
        return _Step(wanted, None, terms=stated)
    step = _Step(wanted, existing, attributes=tuple(_attributes(wanted, existing)))
    sold, newest = existing.current, existing.versions[-1]
    changed = tuple(_terms(new, sold))
    if not changed and sold.is_published:
        return step
    if not newest.is_published and not tuple(_terms(new, newest)):
        # Somebody has prepared it already: a draft of these terms is not made again, but published where it may be.
        return replace(step, terms=changed, is_new_version=True, draft=newest) if publish else step
    return replace(step, terms=changed, is_new_version=True)


def _terms(new: NewPlan, version: PlanVersion) -> Iterator[PlanDifference]:
    if new.label is not None and new.label != version.label:
        yield PlanDifference("label", version.label, new.label)
    yield from differences(VersionTerms.of(version), new.terms)


def _attributes(wanted: WantedPlan, existing: Plan | None) -> Iterator[PlanDifference]:
    new = wanted.plan
    pairs = (
        ("name", None if existing is None else existing.name, new.name),
        ("description", None if existing is None else existing.description, new.description),
        ("plan_type", PlanType.CUSTOM if existing is None else existing.plan_type, new.plan_type),
        ("active", True if existing is None else existing.is_active, wanted.is_active),
        ("label", None, new.label if existing is None else None),
    )
    for field, before, after in pairs:
        if before != after:
            yield PlanDifference(field, before, after)


def _carry_out(connection: Connection, step: _Step, *, now: int, publish: bool) -> None:
    new, existing = step.wanted.plan, step.existing
    archived_at = None if step.wanted.is_active else now
    if existing is None:
        plan_id = insert_plan(connection, new, now=now, publish=publish)
        change_plan_row(connection, plan_id, {"archived_at": archived_at})
        return
    if step.draft is not None:
        publish_version(connection, step.draft, now=now)
    elif step.is_new_version:
        insert_version(connection, existing.id, new.terms, label=new.label, now=now, publish=publish)
    changed = {one.field for one in step.attributes}
    values: dict[str, object] = {"name": new.name, "description": new.description, "plan_type": str(new.plan_type)}
    values = {name: value for name, value in values.items() if name in changed}
    if "active" in changed:
        values["archived_at"] = archived_at
    if values:
        change_plan_row(connection, existing.id, values)


def _answer(
    steps: Sequence[_Step], missing: Sequence[Plan], *, publish: bool, archive_missing: bool, dry_run: bool
) -> PlanSync:
    by_slug = sorted(steps, key=lambda step: step.wanted.plan.slug)
    there = [step for step in by_slug if step.existing is not None]
    left = tuple(
        SyncedPlan(plan.slug, plan.current.version, (PlanDifference("active", True, False),) if archive_missing else ())
        for plan in missing
    )
    return PlanSync(
        created=tuple(_synced(step, step.terms) for step in by_slug if step.existing is None),
        new_versions=tuple(_synced(step, step.terms) for step in there if step.is_new_version),
        updated=tuple(_synced(step, step.attributes) for step in there if step.attributes),
        unchanged=tuple(_synced(step, ()) for step in there if not step.is_new_version and not step.attributes),
        archived=left if archive_missing else (),
        not_in_file=() if archive_missing else left,
        published=publish,
        dry_run=dry_run,
    )


def _synced(step: _Step, changed: tuple[PlanDifference, ...]) -> SyncedPlan:
    return SyncedPlan(step.wanted.plan.slug, step.version, changed)
