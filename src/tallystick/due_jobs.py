"""Work that is due by the clock: what `ts.run_due_jobs()` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from tallystick.credits.expiry import expire_grants, warn_of_expiry
from tallystick.credits.monthly_reports import send_due_reports
from tallystick.metering.commands import CloseHold, Voided
from tallystick.storage import tables
from tallystick.storage.database import HOLD_COLUMNS, hold_from_row

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["DueJobs", "run_due_jobs"]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class DueJobs:
    """What was done: how many holds and grants expired, how many warnings and monthly reports were sent."""

    holds_expired: int
    grants_expired: int
    expiry_warnings: int
    credit_reports: int


def run_due_jobs(engine: Engine) -> DueJobs:
    """Do everything that is due now. Running it twice, or in several processes at once, does nothing twice."""
    return DueJobs(
        # Holds first: what they had pinned of grants that lapsed meanwhile expires with them.
        holds_expired=expire_holds(engine),
        grants_expired=expire_grants(engine).grants,
        expiry_warnings=warn_of_expiry(engine),
        credit_reports=send_due_reports(engine),
    )


def expire_holds(engine: Engine) -> int:
    """Release holds whose time ran out, and report each with `HoldExpired`."""
    now = engine.now()
    holds = tables.holds
    query = (
        select(*(holds.c[name] for name in HOLD_COLUMNS))
        .where(holds.c.status == "open", holds.c.expires_at <= now)
        .order_by(holds.c.billable, holds.c.expires_at)
        .limit(_PAGE)
    )
    expired = 0
    while True:
        rows = engine.read(lambda connection: connection.execute(query).all())
        commands = [CloseHold(hold_from_row(tuple(row)), now, "expired") for row in rows]
        expired += sum(isinstance(answer, Voided) for answer in engine.lane.run_many(commands))
        if len(rows) < _PAGE:
            return expired
