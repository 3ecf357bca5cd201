"""In which time zone an account's hours and days are cut: a tenant's own, else that of the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, union

from tallystick.storage import tables

__all__ = ["PSEUDONYM", "ZoneGroup", "pseudonym_zones", "rollup_zone", "rollup_zones", "zone_groups"]

PSEUDONYM = "anonymous:"
"""How the random names begin that anonymised use is given."""


@dataclass(frozen=True, slots=True)
class ZoneGroup:
    """The accounts of one zone. `only` restricts a column of billables to them; None: no other zone is in use."""

    zone: str
    only: Callable[[Any], ColumnElement[bool]] | None = None


def rollup_zone(connection: Connection, billable: str, default: str) -> str:
    """Return the zone of one account's hours and days."""
    known = _known().subquery()
    zone = connection.execute(select(known.c.timezone).where(known.c.billable == billable)).scalar()
    return default if zone is None else str(zone)


def rollup_zones(connection: Connection, default: str) -> Mapping[str, str]:
    """Return the zones of all accounts whose zone is not the default one."""
    known = _known().subquery()
    rows = connection.execute(select(known).where(known.c.timezone != default))
    return {row.billable: row.timezone for row in rows}


def pseudonym_zones(connection: Connection, billables: Iterable[str]) -> dict[str, str]:
    """Return the zones of those of some accounts that are anonymised use of another zone than the default one."""
    pseudonyms = [billable for billable in billables if billable.startswith(PSEUDONYM)]
    if not pseudonyms:
        return {}
    kept = tables.rollup_zones.c
    rows = connection.execute(select(kept.billable, kept.timezone).where(kept.billable.in_(pseudonyms)))
    return {row.billable: row.timezone for row in rows}


def zone_groups(connection: Connection, default: str) -> list[ZoneGroup]:
    """Return all accounts by zone, those of the default one first."""
    known = _known().subquery()
    zones = connection.execute(
        select(known.c.timezone).where(known.c.timezone != default).distinct().order_by(known.c.timezone)
    ).scalars()
    groups = [_group(str(zone)) for zone in zones]
    if not groups:
        return [ZoneGroup(default)]
    elsewhere = select(known.c.billable).where(known.c.timezone != default)
    return [ZoneGroup(default, lambda column: column.not_in(elsewhere)), *groups]


def _group(zone: str) -> ZoneGroup:
    known = _known().subquery()
    there = select(known.c.billable).where(known.c.timezone == zone)
    return ZoneGroup(zone, lambda column: column.in_(there))


def _known() -> Any:
    tenants, kept = tables.tenants.c, tables.rollup_zones.c
    return union(
        select(tenants.billable, tenants.timezone).where(tenants.timezone.isnot(None)),
        select(kept.billable, kept.timezone),
    )
