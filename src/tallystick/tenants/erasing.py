"""Erasing deleted tenants when their time has come: usage, members, limits, and everything that was said of them.

What was charged stays: overages, wallets and the ledger. So does the slug, which nobody else may be given with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select, update

from tallystick.metering.erasure import Erasure, delete_for
from tallystick.notify.erasure import erase_notifications
from tallystick.plans.loading import journal_change
from tallystick.storage import tables
from tallystick.tenants.tenant import TenantStatus

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["erase_due_tenants", "erase_tenant"]

_DAY_MICROS = 24 * 60 * 60 * 1_000_000


def erase_due_tenants(engine: Engine) -> int:
    """Erase every tenant that was deleted `tenants.erase_after_days` ago. Returns how many were."""
    days = engine.settings.tenants.erase_after_days
    if days is None:
        return 0
    tenants = tables.tenants.c
    due = select(tenants.billable).where(
        tenants.status == TenantStatus.DELETED,
        tenants.erased_at.is_(None),
        tenants.deleted_at <= engine.now() - days * _DAY_MICROS,
    )
    billables = engine.read(lambda connection: list(connection.execute(due).scalars()))
    for billable in billables:
        erase_tenant(engine, billable)
    return len(billables)


def erase_tenant(engine: Engine, billable: str) -> Erasure:
    """Erase one tenant. Interrupted in between, it is done again from the beginning."""
    erasure = delete_for(engine, billable)
    now = engine.now()
    tenants, quotas = tables.tenants, tables.quotas

    def forget(connection: Connection) -> None:
        own = select(quotas.c.id).where(quotas.c.billable == billable)
        connection.execute(delete(tables.quota_alerts).where(tables.quota_alerts.c.quota_id.in_(own)))
        for table in (quotas, tables.rate_limits, tables.shadow_refusals):
            connection.execute(delete(table).where(table.c.billable == billable))
        connection.execute(delete(tables.tenant_members).where(tables.tenant_members.c.tenant == billable))
        erase_notifications(connection, [billable])
        nameless = {"name": "", "billing_email": None, "tax_id": None, "metadata": None, "status_reason": None}
        connection.execute(update(tenants).where(tenants.c.billable == billable).values(**nameless, erased_at=now))
        journal_change(connection, billable)

    engine.lane.transact(forget)
    return erasure
