"""Recording use that somebody states: what comes late counts when it happened, and says that it came late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tallystick.errors import InvalidInput
from tallystick.metering.commands import InProgress, RecordUsage, Replayed, earlier_use
from tallystick.metering.recording import Recorded, UsageFacts, draft, record
from tallystick.period import from_micros

if TYPE_CHECKING:
    from tallystick.plans.terms import Terms
    from tallystick.storage.workspace import Workspace

__all__ = ["BACKDATED", "LogUse", "lateness", "require_timely"]

BACKDATED = "backdated"
"""The flag of what was recorded when its period was over, which may have been charged already."""

_DAY_MICROS = 24 * 60 * 60 * 1_000_000


@dataclass(slots=True)
class LogUse(RecordUsage):
    """Record use that somebody states. It happened: nothing refuses it."""

    def decide(self, workspace: Workspace) -> Recorded | Replayed | InProgress:
        facts = self.facts
        if facts.idempotency_key is not None:
            earlier = earlier_use(
                workspace, facts.billable, facts.idempotency_key, facts.fingerprint, facts.recorded_at
            )
            if earlier is not None:
                return earlier
        flags = lateness(workspace.terms[facts.billable], facts)
        return record(workspace, facts, draft(workspace, facts, self.rates, flags=flags), hold_id=None)


def lateness(terms: Terms, facts: UsageFacts) -> tuple[str, ...]:
    """Return the flag of use whose period was over when it was recorded; it counts in that period all the same."""
    return (BACKDATED,) if terms.at(facts.occurred_at).period_end <= facts.recorded_at else ()


def require_timely(occurred_at: int, *, now: int, days_max: int | None) -> None:
    """Refuse use (µs) that comes so late that its time is closed.

    Raises:
        InvalidInput: it happened more than `days_max` days ago.
    """
    if days_max is None or occurred_at >= now - days_max * _DAY_MICROS:
        return
    remedy = f"Use is accepted for {days_max} days after it happened (usage.late_event_days)."
    raise InvalidInput("occurred_at", f"{from_micros(occurred_at):%Y-%m-%dT%H:%M:%SZ}", remedy)
