"""What limits would have refused of a tenant that they are tried out on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tallystick.period import from_micros
from tallystick.storage import tables
from tallystick.tenants.values import ShadowGroup, ShadowReport

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["shadow_report"]


def shadow_report(engine: Engine, billable: str, start: int | None, end: int | None) -> ShadowReport:
    """Sum up the refusals that were noted in `[start, end)` (µs), by what would have refused."""
    refusals = tables.shadow_refusals.c
    grouped = (refusals.code, refusals.limit_type)
    noted = [refusals.billable == billable]
    if start is not None:
        noted.append(refusals.created_at >= start)
    if end is not None:
        noted.append(refusals.created_at < end)
    position = func.row_number().over(partition_by=grouped, order_by=(refusals.created_at.desc(), refusals.id.desc()))
    ranked = (
        select(*grouped, refusals.message, refusals.created_at, position.label("position")).where(*noted).subquery()
    )
    sums = (
        select(
            ranked.c.code,
            ranked.c.limit_type,
            func.count().label("refusals"),
            func.min(ranked.c.created_at).label("first_at"),
            func.max(ranked.c.created_at).label("last_at"),
            func.max(ranked.c.message).filter(ranked.c.position == 1).label("message"),
        )
        .group_by(ranked.c.code, ranked.c.limit_type)
        .order_by(func.count().desc(), ranked.c.code, ranked.c.limit_type)
    )
    rows = engine.read(lambda connection: connection.execute(sums).all())
    groups = tuple(
        ShadowGroup(
            row.code, row.limit_type, row.refusals, from_micros(row.first_at), from_micros(row.last_at), row.message
        )
        for row in rows
    )
    return ShadowReport(
        billable,
        None if start is None else from_micros(start),
        None if end is None else from_micros(end),
        groups,
    )
