"""Attaching what was there before its tenant: users become members, use gets the tenant's name, default quotas are set.

Who paid for use stays as it was: only the name of the tenant is written beside it, where there was none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select, tuple_, update

from tallystick.limits.quotas import Quotas
from tallystick.metering.erasure import PSEUDONYM
from tallystick.quantity import from_millionths, to_millionths
from tallystick.storage import tables
from tallystick.tenants.values import AttachedQuota, Attachment

if TYPE_CHECKING:
    from tallystick.engine import Engine
    from tallystick.settings import DefaultQuotaSettings

__all__ = ["add_members", "attach", "missing_quotas", "set_quotas"]

_BATCH = 500
_USER, _TENANT = "user:", "tenant:"


def attach(
    engine: Engine,
    tenant: str,
    *,
    users: Iterable[str],
    billables: Iterable[str],
    everything: bool,
    quotas: bool,
    apply: bool,
) -> Attachment:
    """Find out what there is to attach to a tenant (its billable), and attach it with `apply`."""
    named = {*users, *billables}
    if everything:
        named |= engine.read(_without_tenant)
    own = [billable for billable in sorted(named) if billable != tenant]
    members = _members(engine, tenant)
    new_members = [user for user in own if user.startswith(_USER) and user not in members]
    missing = missing_quotas(engine, tenant) if quotas else ()
    counts = {billable: _unnamed(engine, billable) for billable in own}
    if apply:
        add_members(engine, tenant, new_members)
        counts = {billable: sum(_named(engine, billable, tenant)) for billable in own}
        set_quotas(engine, tenant, missing)
    return Attachment(
        tenant=tenant,
        users=tuple(new_members),
        billables=tuple(billable for billable, events in counts.items() if events),
        events=sum(counts.values()),
        quotas=tuple(one.shown for one in missing),
        applied=apply,
    )


def add_members(engine: Engine, tenant: str, users: Iterable[str]) -> None:
    """Make users members of a tenant; who is one stays one."""
    members, now = tables.tenant_members, engine.now()

    def add(connection: Connection) -> None:
        for user in users:
            same = (members.c.tenant == tenant) & (members.c.user_id == user)
            if connection.execute(select(members.c.user_id).where(same)).first() is None:
                connection.execute(members.insert().values(tenant=tenant, user_id=user, created_at=now))

    engine.lane.transact(add)


# -- default quotas ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _DefaultQuota:
    """A quota that every tenant gets."""

    shown: AttachedQuota
    threshold: int


def missing_quotas(engine: Engine, tenant: str) -> tuple[_DefaultQuota, ...]:
    """Return the default quotas that a tenant does not have. Those that it has stay as they are."""
    quotas = tables.quotas.c
    query = select(quotas.resource_type, quotas.period).where(quotas.billable == tenant, quotas.scope == "")
    there = engine.read(lambda connection: {tuple(row) for row in connection.execute(query)})
    return tuple(one for one in _defaults(engine.settings.tenants.default_quotas.items()) if _name(one) not in there)


def set_quotas(engine: Engine, tenant: str, wanted: Iterable[_DefaultQuota]) -> None:
    quotas = Quotas(engine)
    for one in wanted:
        quotas.set(
            tenant,
            one.shown.resource_type,
            one.shown.limit,
            one.shown.period,
            is_hard_limit=one.shown.is_hard_limit,
            notification_threshold=one.threshold,
        )


def _defaults(settings: Iterable[tuple[str, DefaultQuotaSettings]]) -> Iterator[_DefaultQuota]:
    for resource_type, group in settings:
        for period, stated in group.limits.items():
            limit = from_millionths(to_millionths(stated))
            shown = AttachedQuota(resource_type, period, limit, group.is_hard_limit)
            yield _DefaultQuota(shown, group.notification_threshold)


def _name(quota: _DefaultQuota) -> tuple[str, str]:
    return quota.shown.resource_type, quota.shown.period


# -- use --------------------------------------------------------------------------------------------------------------


def _without_tenant(connection: Connection) -> set[str]:
    """Return who has use that is nobody's: of no tenant, and not anonymised."""
    events = tables.usage_events.c
    query = select(events.billable).where(
        events.tenant_id.is_(None),
        ~events.billable.startswith(_TENANT, autoescape=True),
        ~events.billable.startswith(PSEUDONYM, autoescape=True),
    )
    return set(connection.execute(query.distinct()).scalars())


def _members(engine: Engine, tenant: str) -> set[str]:
    members = tables.tenant_members.c
    query = select(members.user_id).where(members.tenant == tenant)
    return engine.read(lambda connection: set(connection.execute(query).scalars()))


def _unnamed(engine: Engine, billable: str) -> int:
    events = tables.usage_events.c
    query = select(func.count()).where(events.billable == billable, events.tenant_id.is_(None))
    return engine.read(lambda connection: connection.execute(query).scalar_one())


def _named(engine: Engine, billable: str, tenant: str) -> Iterator[int]:
    """Write a tenant's name on a billable's events that have none, some hundred at a time; each step says how many."""
    events = tables.usage_events
    position: tuple[int, str] | None = None

    def name_some(connection: Connection) -> list[tuple[int, str]]:
        query = select(events.c.occurred_at, events.c.id).where(
            events.c.billable == billable, events.c.tenant_id.is_(None)
        )
        if position is not None:
            query = query.where(tuple_(events.c.occurred_at, events.c.id) > tuple_(*position))
        rows = connection.execute(query.order_by(events.c.occurred_at, events.c.id).limit(_BATCH)).all()
        ids = [row.id for row in rows]
        connection.execute(update(events).where(events.c.id.in_(ids)).values(tenant_id=tenant))
        return [(row.occurred_at, row.id) for row in rows]

    while True:
        named = engine.lane.transact(name_some)
        yield len(named)
        if len(named) < _BATCH:
            return
        position = named[-1]
