"""An examination: all questions at one moment, and what they have found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from tallystick.doctor.allowances import allowance_findings
from tallystick.doctor.credits import credit_findings
from tallystick.doctor.finding import Finding
from tallystick.doctor.invoices import invoice_findings
from tallystick.doctor.quotas import quota_findings
from tallystick.doctor.usage import price_findings, usage_findings
from tallystick.storage import tables

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Diagnosis", "examine"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found. `ok`: every number agrees; notices do not change that."""

    findings: tuple[Finding, ...]
    events: int
    counters: int
    open_holds: int

    @property
    def ok(self) -> bool:
        return not any(finding.severity == "drift" for finding in self.findings)


def examine(engine: Engine, *, prices: bool = True) -> Diagnosis:
    """Examine everything at one moment. With `prices`, each event's cost is computed again from the price it keeps."""
    # One snapshot for all questions, or use recorded meanwhile would look like drift.
    return engine.read_snapshot(lambda connection: _examined(engine, connection, prices=prices))


def _examined(engine: Engine, connection: Connection, *, prices: bool) -> Diagnosis:
    findings = [
        *usage_findings(engine, connection),
        *credit_findings(connection),
        *allowance_findings(engine, connection),
        *quota_findings(engine, connection),
        *invoice_findings(connection),
    ]
    if prices:
        findings += price_findings(connection)
    holds = tables.holds
    return Diagnosis(
        findings=tuple(findings),
        events=_count(connection, tables.usage_events),
        counters=_count(connection, tables.counters),
        open_holds=connection.execute(select(func.count()).where(holds.c.status == "open")).scalar_one(),
    )


def _count(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
