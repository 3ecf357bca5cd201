"""Work that is due by the clock: what `ts.run_due_jobs()` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import select

from tallystick.credits.expiry import expire_grants, warn_of_expiry
from tallystick.credits.monthly_reports import send_due_reports
from tallystick.limits.windows import remove_old_windows
from tallystick.metering.commands import CloseHold, Voided
from tallystick.notify.delivery import deliver
from tallystick.notify.due import remove_old, tell_what_is_due
from tallystick.notify.notification import Deliveries
from tallystick.storage import tables
from tallystick.storage.database import HOLD_COLUMNS, hold_from_row
from tallystick.tenants.erasing import erase_due_tenants

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["DueJobs", "run_due_jobs"]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class DueJobs:
    """What was done, as numbers: what expired, which warnings and monthly reports were sent, which tenants erased.

    `notifications` is what the clock had customers told; `deliveries` is what became of the messages that were due.
    """

    holds_expired: int
    grants_expired: int
    expiry_warnings: int
    credit_reports: int
    notifications: int = 0
    deliveries: Deliveries = field(default_factory=Deliveries)
    tenants_erased: int = 0
    quota_windows_removed: int = 0


def run_due_jobs(engine: Engine) -> DueJobs:
    """Do everything that is due now. Running it twice, or in several processes at once, does nothing twice."""
    return DueJobs(
        # Holds first: what they had pinned of grants that lapsed meanwhile expires with them.
        holds_expired=expire_holds(engine),
        grants_expired=expire_grants(engine).grants,
        expiry_warnings=warn_of_expiry(engine),
        credit_reports=send_due_reports(engine),
        notifications=tell_what_is_due(engine),
        # After all that tells of something.
        deliveries=_deliver(engine),
        tenants_erased=erase_due_tenants(engine),
        quota_windows_removed=remove_old_windows(engine),
    )


def _deliver(engine: Engine) -> Deliveries:
    done = deliver(engine, _PAGE)
    remove_old(engine)
    return done


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
