"""`ts.plans`: what is sold. A plan has a slug and versions; a published version never changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, Unpack

from sqlalchemy import Connection

from tallystick.errors import Conflict
from tallystick.plans.loading import journal_change, lock_terms
from tallystick.plans.plan_file import plans_as_toml
from tallystick.plans.saving import (
    NewPlan,
    change_plan_row,
    find_plan,
    find_version,
    insert_plan,
    insert_version,
    load_plans,
    publish_version,
    remove_draft,
    replace_draft,
    version_of,
)
from tallystick.plans.sync import PlanSync, sync_plans
from tallystick.plans.terms import Plan, PlanVersion
from tallystick.plans.terms_input import (
    Amount,
    StatedTerms,
    checked_description,
    checked_label,
    checked_name,
    checked_slug,
    checked_terms,
    checked_type,
)
from tallystick.plans.version_terms import PlanDifference, VersionTerms, version_differences

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Plans", "find_version"]

Result = TypeVar("Result")
Differences: TypeAlias = list[PlanDifference]


class _Unset(Enum):
    UNSET = "not given"

    def __repr__(self) -> str:
        return "..."


_UNSET: Final = _Unset.UNSET


class Plans:
    """Creates, changes and finds plans.

    Limits are per period of the account (`period.type`, a month by default); None is unlimited. Amounts are `Money`,
    text such as "99 USD", or a number in the plan's currency, and are all of one currency.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        slug: str,
        name: str | None = None,
        *,
        plan_type: str = "custom",
        description: str | None = None,
        label: str | None = None,
        monthly_token_limit: int | None = None,
        monthly_cost_limit: Amount | None = None,
        overage_price_per_1k_tokens: Amount | None = None,
        overage_behavior: str | None = None,
        overage_markup_percent: Decimal | int | str | None = None,
        trial_days: int = 0,
        price: Amount | None = None,
        billing_cycle: str = "monthly",
        currency: str | None = None,
        features: Mapping[str, object] | None = None,
        usage_prices: Mapping[str, object] | None = None,
        publish: bool = True,
    ) -> Plan:
        """Create a plan and publish its first version; without `publish` that stays a draft, which nobody can have.

        A `price` of 0 or None is free. Without an `overage_behavior` the setting `billing.overage_behavior` holds.
        `overage_markup_percent` (0 to 10,000) comes on top of cost beyond the cost limit, where that is charged. The
        currency is that of the amounts; without any it is `currency`, else `billing.currency`.

        `features` says by slug what the plan gives of each: how many uses in a reset period, "unlimited", or True for
        one that is there without being counted; False leaves it out. A table says more: `value`, `reset` ("hourly",
        "daily", "weekly", "monthly", "quarterly", "yearly", "never"; monthly where left out), `name`,
        `display_value`, `hidden`, `sort_order`.

        `usage_prices` says by resource type, or "tokens" or "requests", what use costs beside the fee: a price a unit,
        or a table with `model` ("per_unit", "flat", "package" with a `size`, "graduated" or "volume" with `tiers`),
        `price`, and `included`, which costs nothing. A whole billing month is priced together.

        Raises:
            InvalidInput: for a value that cannot be, or amounts of two currencies.
            Conflict: there is a plan of this slug.
        """
        stated: StatedTerms = {
            "monthly_token_limit": monthly_token_limit,
            "monthly_cost_limit": monthly_cost_limit,
            "overage_price_per_1k_tokens": overage_price_per_1k_tokens,
            "overage_behavior": overage_behavior,
            "overage_markup_percent": overage_markup_percent,
            "trial_days": trial_days,
            "price": price,
            "billing_cycle": billing_cycle,
            "currency": currency,
            "features": features,
            "usage_prices": usage_prices,
        }
        terms = checked_terms(stated, base=None, settings=self._engine.settings)
        new = NewPlan(
            slug=checked_slug(slug),
            name=checked_name(name or slug),
            plan_type=checked_type(plan_type),
            description=checked_description(description),
            label=checked_label(label),
            terms=terms,
        )
        now = self._engine.now()

        def insert(connection: Connection) -> Plan:
            insert_plan(connection, new, now=now, publish=publish)
            return find_plan(connection, new.slug)

        return self._change(insert)

    def new_version(
        self,
        slug: str,
        *,
        label: str | None = None,
        publish: bool = False,
        based_on: int | None = None,
        **terms: Unpack[StatedTerms],
    ) -> PlanVersion:
        """Add a version to a plan: a draft, or with `publish` what new subscribers get from now on.

        `terms` are those of `create`. What is not given stays as in the version `based_on`, otherwise the newest;
        None takes a limit or a price away, and `features` and `usage_prices` are replaced as a whole. Who has
        subscribed keeps the version that they have. For another currency every amount has to be given.

        Raises:
            PlanNotFound: no such plan, or no such version.
            InvalidInput: for a value that cannot be, a name that is no term, or amounts of two currencies.
        """
        checked, now = checked_label(label), self._engine.now()

        def insert(connection: Connection) -> PlanVersion:
            plan = find_plan(connection, slug)
            base = plan.versions[-1] if based_on is None else version_of(plan, based_on)
            wanted = checked_terms(terms, base=VersionTerms.of(base), settings=self._engine.settings)
            number = insert_version(connection, plan.id, wanted, label=checked, now=now, publish=publish)
            return version_of(find_plan(connection, slug), number)

        return self._change(insert)

    def edit_version(
        self, slug: str, version: int, *, label: str | _Unset | None = _UNSET, **terms: Unpack[StatedTerms]
    ) -> PlanVersion:
        """Change a draft. What is not given stays; `features` and `usage_prices` are replaced as a whole.

        Raises:
            PlanNotFound: no such plan, or no such version.
            Conflict: it was published, and never changes again: add a `new_version`.
            InvalidInput: for a value that cannot be, a name that is no term, or amounts of two currencies.
        """

        def edit(connection: Connection) -> PlanVersion:
            draft = _draft_of(find_plan(connection, slug), version)
            wanted = checked_terms(terms, base=VersionTerms.of(draft), settings=self._engine.settings)
            named = draft.label if isinstance(label, _Unset) else checked_label(label)
            replace_draft(connection, draft, wanted, label=named)
            return version_of(find_plan(connection, slug), version)

        return self._change(edit)

    def discard_version(self, slug: str, version: int) -> Plan:
        """Delete a draft. The next new version may get its number.

        Raises:
            PlanNotFound: no such plan, or no such version.
            Conflict: it was published, or is the only version of its plan.
        """

        def discard(connection: Connection) -> Plan:
            plan = find_plan(connection, slug)
            draft = _draft_of(plan, version)
            if len(plan.versions) == 1:
                raise Conflict(
                    f"Version {version} is the only one of plan {slug}. "
                    f"Change it with ts.plans.edit_version({slug!r}, {version}), or archive the plan."
                )
            remove_draft(connection, draft)
            return find_plan(connection, slug)

        return self._change(discard)

    def publish(self, slug: str, version: int | None = None) -> Plan:
        """Sell a version, otherwise the newest, to new subscribers from now on. An older one is sold again so.

        Who has subscribed keeps the version that they have. Publishing what is sold already changes nothing, and an
        archived plan stays archived.

        Raises:
            PlanNotFound: no such plan, or no such version.
        """
        now = self._engine.now()

        def put_on_sale(connection: Connection) -> Plan:
            plan = find_plan(connection, slug)
            chosen = plan.versions[-1] if version is None else version_of(plan, version)
            publish_version(connection, chosen, now=now)
            return find_plan(connection, slug)

        return self._change(put_on_sale)

    def update(
        self,
        slug: str,
        *,
        name: str | _Unset = _UNSET,
        description: str | _Unset | None = _UNSET,
        plan_type: str | _Unset = _UNSET,
    ) -> Plan:
        """Change what a plan is called, its description (None takes it away), or its type. What is not given stays.

        It holds for subscribers too: these are no terms.

        Raises:
            PlanNotFound: no such plan. InvalidInput: for a value that cannot be.
        """
        values: dict[str, object] = {}
        if not isinstance(name, _Unset):
            values["name"] = checked_name(name)
        if not isinstance(description, _Unset):
            values["description"] = checked_description(description)
        if not isinstance(plan_type, _Unset):
            values["plan_type"] = str(checked_type(plan_type))
        return self._change_plan(slug, lambda _: values)

    def archive(self, slug: str) -> Plan:
        """Take a plan off sale: nobody new can subscribe. Who has it keeps it. Archiving twice keeps the first time.

        Raises:
            PlanNotFound: no such plan.
        """
        now = self._engine.now()
        return self._change_plan(slug, lambda plan: {"archived_at": now} if plan.is_active else {})

    def activate(self, slug: str) -> Plan:
        """Put an archived plan on sale again.

        Raises:
            PlanNotFound: no such plan.
        """
        return self._change_plan(slug, lambda _: {"archived_at": None})

    def get(self, slug: str) -> Plan:
        """Return a plan with its versions; `current` is what new subscribers get.

        Raises:
            PlanNotFound: no plan of this slug.
        """
        return self._engine.read(lambda connection: find_plan(connection, slug))

    def version(self, slug: str, number: int) -> PlanVersion:
        """Return a version of a plan, a draft too.

        Raises:
            PlanNotFound: no such plan, or no such version.
        """
        return version_of(self.get(slug), number)

    def diff(self, slug: str, a: int, b: int) -> Differences:
        """Return in what version `b` of a plan differs from version `a`, by value; nothing where they are the same.

        Features and usage prices are compared one by one ("features.api-calls").

        Raises:
            PlanNotFound: no such plan, or no such version.
        """
        plan = self.get(slug)
        return [*version_differences(version_of(plan, a), version_of(plan, b))]

    def sync(
        self,
        path: str | os.PathLike[str],
        *,
        dry_run: bool = False,
        publish: bool = True,
        archive_missing: bool = False,
    ) -> PlanSync:
        """Bring the plans to what a TOML file says, all in one transaction, or none.

        A new slug is created. Other terms than those that are sold become a new version, published, or with
        `publish=False` a draft; subscribers keep theirs. Another name, description or type, and `active`, are changed
        in place. What a table leaves out is as `create` has it, but for the label, which is then not compared. Plans
        that the file does not name stay as they are, or with `archive_missing` are archived. A second time nothing is
        left to do. With `dry_run` it is only said what would be done.

        Raises:
            NotFound: no such file. InvalidInput: the file is not TOML, or a key in it cannot be; `field` names the
                file, the table and the key.
        """
        return sync_plans(self._engine, path, dry_run=dry_run, publish=publish, archive_missing=archive_missing)

    def export(self) -> str:
        """Return every plan as it is sold now as TOML, which `sync` reads, and finds nothing to change.

        Plans of which nothing was ever published are left out; archived ones say so.
        """
        return plans_as_toml(self.list())

    def list(self, *, active_only: bool = False) -> list[Plan]:
        """Return every plan, by slug; with `active_only` those that are not archived."""
        found = self._engine.read(load_plans)
        return [plan for plan in found if plan.is_active or not active_only]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _change(self, change: Callable[[Connection], Result]) -> Result:
        """Change plans in one transaction, while nobody else does, and nobody subscribes."""

        def carry_out(connection: Connection) -> Result:
            lock_terms(connection)
            return change(connection)

        return self._engine.lane.transact(carry_out)

    def _change_plan(self, slug: str, values_for: Callable[[Plan], Mapping[str, object]]) -> Plan:
        def change(connection: Connection) -> Plan:
            plan = find_plan(connection, slug)
            values = values_for(plan)
            if values:
                change_plan_row(connection, plan.id, values)
            if "name" in values:
                # Lanes keep the names of the plans that their accounts follow.
                journal_change(connection, None)
            return find_plan(connection, slug)

        return self._change(change)


def _draft_of(plan: Plan, version: int) -> PlanVersion:
    found = version_of(plan, version)
    if found.is_published:
        raise Conflict(
            f"Version {version} of plan {plan.slug} was published at {found.published_at:%Y-%m-%d %H:%M} UTC, and "
            f"never changes. Add one with ts.plans.new_version({plan.slug!r}, based_on={version}, ...)."
        )
    return found
