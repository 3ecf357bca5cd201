"""The events of quotas: what follows from a threshold that a batch has found reached."""

from __future__ import annotations

from collections.abc import Callable

from tallystick.events import Event, QuotaExceeded, QuotaWarning
from tallystick.limits.asking import QuotaReached, quota_amount
from tallystick.period import MIN_MICROS, from_micros

__all__ = ["quota_event"]

_ALL_OF_IT = 100


def quota_event(notice: object, wants: Callable[[type[Event]], bool]) -> Event | None:
    """Return what is to be told of a notice; None where it is not of quotas, or nobody listens."""
    if not isinstance(notice, QuotaReached):
        return None
    quota = notice.quota
    event_class = QuotaExceeded if notice.threshold >= _ALL_OF_IT else QuotaWarning
    if not wants(event_class):
        return None
    return event_class(
        billable=quota.billable,
        at=from_micros(notice.at),
        quota_id=quota.id,
        resource_type=quota.resource_type,
        period=quota.period,
        scope=notice.window or None,
        threshold=notice.threshold,
        current=quota_amount(quota.resource_type, notice.current, notice.currency),
        limit=quota_amount(quota.resource_type, quota.limit, notice.currency),
        percentage=100 * notice.current / quota.limit if quota.limit else 100.0,
        is_hard_limit=quota.is_hard_limit,
        period_start=None if notice.period_start == MIN_MICROS else from_micros(notice.period_start),
    )
