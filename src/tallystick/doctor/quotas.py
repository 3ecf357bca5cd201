"""What the doctor asks about quotas: whether their counters are what rollups and events say.

Only a period that is running, or is to come, limits anybody. Where records are gone for good (a tenant's that were
erased, a person's name), what is left proves only that nothing was counted too little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select, true

from tallystick.doctor.finding import Finding, differences
from tallystick.limits.asking import quota_keys
from tallystick.limits.counters import CounterKey
from tallystick.limits.quota import EVERY_USER, Quota
from tallystick.limits.recount import is_of_events, lost_records, quota_meter, recounted
from tallystick.plans.loading import load_terms, quota_from_row
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["quota_findings"]


def quota_findings(engine: Engine, connection: Connection) -> Iterator[Finding]:
    """Find quotas that have counted something else than was used."""
    quotas = [quota_from_row(row) for row in connection.execute(select(tables.quotas))]
    if not quotas:
        return
    now = engine.now()
    terms = load_terms(connection, sorted({quota.billable for quota in quotas}), engine.terms_policy)
    running = {
        CounterKey(quota.billable, quota.resource_type, quota.scope, quota.period, key.period_start)
        for quota in quotas
        for key in quota_keys(terms[quota.billable], quota, quota.scope, now, "")[1]
    }
    expected = _within(recounted(connection, true(), terms, now), running)
    found = _within(_counted(connection, running), running)
    partial = _partly_proved(connection, quotas)
    for key in expected.keys() | found.keys():
        if any(one._replace(period_start=0) in partial for one in _limited_by(key)):
            # More than the records that are left say is no drift.
            expected[key] = max(expected.get(key, 0), found.get(key, 0))
    yield from differences("used", expected, found, remedy="Rollups and events prove it.")


def _limited_by(key: CounterKey) -> Iterator[CounterKey]:
    """Yield the quotas that a counter may be of, as their resource type, scope and period."""
    of_quota = key._replace(meter=key.meter.split(":")[1])
    yield of_quota
    if key.scope.startswith("user:"):
        yield of_quota._replace(scope=EVERY_USER)


def _within(counts: dict[CounterKey, int], running: set[CounterKey]) -> dict[CounterKey, int]:
    return {key: used for key, used in counts.items() if not running.isdisjoint(_limited_by(key))}


def _counted(connection: Connection, running: set[CounterKey]) -> dict[CounterKey, int]:
    """Read what quotas have counted in running periods."""
    counters = tables.counters.c
    found: dict[CounterKey, int] = {}
    for period in sorted({key.period for key in running}):
        query = select(*(counters[name] for name in CounterKey._fields), counters.used).where(
            counters.period_start.in_({key.period_start for key in running if key.period == period}),
            counters.period == period,
            counters.meter.startswith(quota_meter("", ""), autoescape=True),
        )
        found |= {CounterKey(*row[:5]): row[5] for row in connection.execute(query)}
    return found


def _partly_proved(connection: Connection, quotas: list[Quota]) -> set[CounterKey]:
    """Return the quotas some of whose records may be gone, as their resource type, scope and period."""
    lost = lost_records(connection)
    return {
        CounterKey(quota.billable, quota.resource_type, quota.scope, quota.period, 0)
        for quota in quotas
        if lost.get(quota.billable)
        or quota.scope.startswith("user:")
        or (is_of_events(quota) and quota.billable in lost)
    }
