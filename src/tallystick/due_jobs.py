"""Work that is due by the clock: what `ts.run_due_jobs()` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tallystick.credits.expiry import expire_grants, warn_of_expiry
from tallystick.credits.monthly_reports import send_due_reports
from tallystick.errors import StorageError, TallystickError
from tallystick.invoicing.billing_run import BillingRun, bill_due_subscriptions, bill_stragglers
from tallystick.invoicing.dunning import archive_paid, dun
from tallystick.invoicing.overage_sync import sync_overages
from tallystick.job_runs import is_first_of_the_day
from tallystick.limits.windows import remove_old_windows
from tallystick.metering.commands import CloseHold, Voided
from tallystick.notify.delivery import deliver
from tallystick.notify.due import remove_old, tell_what_is_due
from tallystick.notify.notification import Deliveries
from tallystick.storage import tables
from tallystick.storage.database import HOLD_COLUMNS, hold_from_row
from tallystick.storage.engines import is_driver_error
from tallystick.tenants.erasing import erase_due_tenants

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["DueJobs", "run_due_jobs"]

logger = logging.getLogger("tallystick.jobs")

_PAGE = 500
_DAY = 86_400_000_000
_STRAGGLERS = "stragglers"

Stopping = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class DueJobs:
    """What was done, as numbers: what expired, which warnings and monthly reports were sent, which tenants erased.

    `invoices` were made, for `renewals` of subscriptions and for what was used; subscriptions whose term or grace
    period ran out are `expirations`. `overdue` counts invoices that became so, and `reminders` what customers were told
    of those that are owed. `overages_synced` went to the billing driver. `notifications` is what the clock had them
    told; `deliveries` is what became of the messages that were due. `failed` names the jobs that did not end well, and
    `errors` says why.
    """

    holds_expired: int = 0
    grants_expired: int = 0
    expiry_warnings: int = 0
    credit_reports: int = 0
    notifications: int = 0
    deliveries: Deliveries = field(default_factory=Deliveries)
    tenants_erased: int = 0
    quota_windows_removed: int = 0
    overages_synced: int = 0
    invoices: int = 0
    renewals: int = 0
    expirations: int = 0
    reminders: int = 0
    overdue: int = 0
    failed: tuple[str, ...] = ()
    errors: tuple[Exception, ...] = field(default=(), repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        counted = {name: getattr(self, name) for name in _COUNTS}
        return {**counted, "deliveries": self.deliveries.to_dict(), "failed": list(self.failed)}


_COUNTS = tuple(name for name in DueJobs.__dataclass_fields__ if name not in ("deliveries", "failed", "errors"))


def run_due_jobs(engine: Engine, *, stopping: Stopping | None = None) -> DueJobs:
    """Do everything that is due now. Running it twice, or in several processes at once, does nothing twice.

    Each job is on its own. The error of the first that failed is raised when all have run; its `done` is this result.
    """
    is_stopping = stopping or _never
    counts: dict[str, Any] = {}
    failures: dict[str, Exception] = {}
    for name, job in _JOBS.items():
        if is_stopping():
            break
        try:
            counts |= job(engine, is_stopping)
        except Exception as error:  # noqa: BLE001  # whatever one job raises, the others have their turn
            failures[name] = _told(name, error)
            if _is_away(engine, failures[name]):
                # The others would only wait for the same database in vain.
                break
    done = DueJobs(**counts, failed=tuple(failures), errors=tuple(failures.values()))
    for failure in failures.values():
        failure.done = done  # type: ignore[attr-defined]  # as an error of a call carries the provider's response
        raise failure
    return done


def _told(name: str, error: Exception) -> Exception:
    """Log the error of a job, and return it; one that comes from the driver as an error of the tree."""
    if is_driver_error(error):
        refused = StorageError(f"The database cannot be used: {getattr(error, 'orig', None) or error}.")
        refused.__cause__ = error
        error = refused
    # An error of the tree says all there is to know; of any other its place is needed.
    logger.error("The job %s failed: %s", name, error, exc_info=None if isinstance(error, TallystickError) else error)
    return error


def _is_away(engine: Engine, error: Exception) -> bool:
    """Say whether the database itself is gone, and not only one statement refused."""
    if not isinstance(error, StorageError):
        return False
    try:
        engine.read(lambda connection: connection.execute(select(1)).scalar())
    except Exception:  # noqa: BLE001  # whatever it is, there is no database now
        return True
    return False


def _never() -> bool:
    return False


# -- the jobs ---------------------------------------------------------------------------------------------------------


def _expire_holds(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"holds_expired": expire_holds(engine)}


def _sync_overages(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"overages_synced": sync_overages(engine, _PAGE).synced}


def _bill(engine: Engine, stopping: Stopping) -> dict[str, object]:
    billed = bill(engine, stopping)
    return {"invoices": billed.made, "renewals": billed.renewals, "expirations": billed.expirations}


def _dun(engine: Engine, stopping: Stopping) -> dict[str, object]:
    done = dun(engine, stopping)
    return {"reminders": done.reminders, "overdue": done.overdue}


def _archive_invoices(engine: Engine, _: Stopping) -> dict[str, object]:
    archive_paid(engine)
    return {}


def _expire_grants(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"grants_expired": expire_grants(engine).grants}


def _warn_of_expiry(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"expiry_warnings": warn_of_expiry(engine)}


def _send_reports(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"credit_reports": send_due_reports(engine)}


def _notify(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"notifications": tell_what_is_due(engine)}


def _deliver(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"deliveries": deliver(engine, _PAGE)}


def _remove_old(engine: Engine, _: Stopping) -> dict[str, object]:
    remove_old(engine)
    return {}


def _erase_tenants(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"tenants_erased": erase_due_tenants(engine)}


def _remove_windows(engine: Engine, _: Stopping) -> dict[str, object]:
    return {"quota_windows_removed": remove_old_windows(engine)}


# In this order: what holds had pinned of grants that lapsed meanwhile expires with them; overage that a gateway charges
# is no longer there to be invoiced; and messages are delivered after all that tells of something.
_JOBS: Mapping[str, Callable[[Engine, Stopping], dict[str, object]]] = {
    "expire_holds": _expire_holds,
    "sync_overages": _sync_overages,
    "bill": _bill,
    "dun": _dun,
    "expire_grants": _expire_grants,
    "warn_of_expiry": _warn_of_expiry,
    "send_reports": _send_reports,
    "notify": _notify,
    "deliver": _deliver,
    "remove_old_messages": _remove_old,
    "archive_invoices": _archive_invoices,
    "erase_tenants": _erase_tenants,
    "remove_old_windows": _remove_windows,
}


def bill(engine: Engine, stopping: Stopping = _never) -> BillingRun:
    """Bill subscriptions whose instant has come, and once a day what nobody's subscription bills."""
    if not engine.settings.invoicing.enabled:
        return BillingRun()
    run = bill_due_subscriptions(engine, stopping=stopping)
    if stopping() or _was_done_today(engine, _STRAGGLERS) or _is_any_due(engine):
        # As long as another worker has subscriptions in hand, it is not known what they leave: a later round sees.
        return run
    run += bill_stragglers(engine, stopping=stopping)
    if not stopping():
        # Noted when it is done: a worker that dies in it leaves it to the next one, today.
        is_first_of_the_day(engine, _STRAGGLERS)
    return run


def _was_done_today(engine: Engine, job: str) -> bool:
    runs, now = tables.job_runs.c, engine.now()
    query = select(runs.created_at).where(runs.job == job, runs.period_start == now - now % _DAY)
    return engine.read(lambda connection: connection.execute(query).first()) is not None


def _is_any_due(engine: Engine) -> bool:
    due = select(tables.subscriptions.c.id).where(tables.subscriptions.c.next_billing_at <= engine.now()).limit(1)
    return engine.read(lambda connection: connection.execute(due).first()) is not None


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
