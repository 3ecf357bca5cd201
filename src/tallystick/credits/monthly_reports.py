"""Monthly credit reports: each month that has ended is reported once, over all processes, in order.

The table `job_runs` decides who does it: whoever inserts the month's row sends the report. A report that cannot be made
leaves no row, and is made when the job runs next. Where nobody listens nothing is taken: another process may.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select

from tallystick.credits.reporting import ReportRange, credit_report
from tallystick.events import CreditReportDue
from tallystick.job_runs import take_period
from tallystick.notify.outgoing import Told
from tallystick.period import Period, PeriodKind, PeriodRule, from_micros
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["send_due_reports"]

_JOB = "credit_report"
_HALF_A_MONTH = timedelta(days=15)


def send_due_reports(engine: Engine) -> int:
    """Send `CreditReportDue` for every month that has ended and was not reported. Returns how many were sent here.

    The first month is the one of the first grant; months that were missed are made up for, the oldest first.
    """
    if not engine.settings.credits.report_monthly or not _is_wanted(engine):
        return 0
    now = engine.now()
    month = _first_due(engine)
    sent = 0
    while month is not None and month.bounds_micros[1] <= now:
        start, end = month.bounds_micros
        report = credit_report(engine, ReportRange(start, end, None))
        due = CreditReportDue(billable="*", at=from_micros(now), report=report)
        if not _take(engine, start, due, now):
            # Another process is at it, and goes on with the months that follow.
            break
        engine.handlers.send([due])
        sent += 1
        month = month.next()
    return sent


def _is_wanted(engine: Engine) -> bool:
    """Say whether a handler of this process, or a webhook endpoint, hears of reports."""
    return engine.handlers.wants(CreditReportDue) or engine.read(
        lambda connection: engine.outgoing.hears(connection, CreditReportDue)
    )


def _first_due(engine: Engine) -> Period | None:
    """Return the month after the last that was reported; the month of the first grant where none was."""
    runs, grants = tables.job_runs, tables.grants
    rule = PeriodRule(PeriodKind.MONTHLY, engine.settings.period.timezone)

    def read(connection: Connection) -> tuple[int | None, int | None]:
        last = connection.execute(select(func.max(runs.c.period_start)).where(runs.c.job == _JOB)).scalar()
        if last is not None:
            return last, None
        return None, connection.execute(select(func.min(grants.c.created_at))).scalar()

    last, first_grant = engine.read(read)
    if last is not None:
        # From the middle of it: the zone may have been changed since, and with it the month's first instant.
        return rule.at(from_micros(last) + _HALF_A_MONTH).next()
    return None if first_grant is None else rule.at(from_micros(first_grant))


def _take(engine: Engine, period_start: int, due: CreditReportDue, now: int) -> bool:
    """Say whether this process is the first to want the month. Webhooks are told of it in the same transaction."""

    def insert(connection: Connection) -> bool:
        is_first = take_period(connection, _JOB, period_start, now)
        if is_first:
            engine.outgoing.tell(connection, [Told(None, due)])
        return is_first

    return engine.lane.transact(insert)
