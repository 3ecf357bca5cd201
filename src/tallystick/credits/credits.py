"""`ts.credits`: credits as an operator sees them: reports, forecasts and expiry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.credits.account import FEATURE_PREFIX, feature_unit
from tallystick.credits.credit_report import CreditReport, Forecast
from tallystick.credits.expiry import Expiry, expire_grants, expiring_grants
from tallystick.credits.forecasting import account_forecast
from tallystick.credits.reporting import ReportRange, credit_report
from tallystick.credits.values import Grant
from tallystick.errors import InvalidInput
from tallystick.identity import billable_reference
from tallystick.money import Money
from tallystick.period import MAX_MICROS, MIN_MICROS

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["Credits"]

_UNIT_REMEDY = 'Give a currency, such as "USD", or a feature as "feature:api-calls".'


class Credits:
    """Reports on credits, foresees when they run out, and books what has expired."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def report(
        self,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        unit: str | None = None,
    ) -> CreditReport:
        """Report on credits in `[start, end)`, unit by unit; a bound that is left out is open.

        What was granted, used, refunded and lost; by day, week or month, by kind, reason and feature; who was granted
        most; when credits are used; what is open now and how long it lasts. `unit` is a currency, or a feature as
        "feature:api-calls"; None reports on every unit. Days are those of `period.timezone`.

        Raises:
            InvalidInput: an end before the start, no such form of a unit.
        """
        engine = self._engine
        wanted = ReportRange(
            start=MIN_MICROS if start is None else engine.instant(start, field="start"),
            end=MAX_MICROS if end is None else engine.instant(end, field="end"),
            unit=None if unit is None else _unit(unit, field="unit"),
        )
        if wanted.end < wanted.start:
            raise InvalidInput("end", str(end), f"It must not lie before start ({start}).")
        return credit_report(engine, wanted)

    def forecast(self, billable: object, currency: str | None = None, *, feature: str | None = None) -> Forecast:
        """Foresee how long the credits of a billable last if they are used as of late, and what expires before its use.

        Of its wallet in `currency` (`billing.currency` where none is named), or of its extra credits of `feature`. The
        rate is the average of the last 30 days, or since the first use where that is shorter, and never of less than
        a day.

        Raises:
            InvalidInput: a currency together with a feature.
        """
        engine = self._engine
        if feature is not None:
            if currency is not None:
                raise InvalidInput("feature", feature, "Give a currency or a feature, not both.")
            unit = feature_unit(feature.removeprefix(FEATURE_PREFIX))
        else:
            unit = engine.settings.billing.currency if currency is None else _unit(currency, field="currency")
        return account_forecast(engine, billable_reference(billable, engine.billable_resolver), unit)

    def expire(
        self,
        dry_run: bool = False,
        batch_size: int = 500,
        progress: Callable[[int, int], object] | None = None,
    ) -> Expiry:
        """Book the expiry of every grant whose time has come. With `dry_run`, only say what would be booked.

        Balances are right without it: what has expired cannot be used from its instant on. What calls in flight have
        pinned stays theirs. `batch_size` grants are booked at a time; `progress` is called after each portion with how
        many are done, and how many there were to do. Running it twice, or in several processes, books nothing twice.

        Raises:
            InvalidInput: a batch size below 1.
        """
        return expire_grants(self._engine, dry_run=dry_run, batch_size=batch_size, progress=progress)

    def expiring(self, within_days: int = 7) -> list[Grant]:
        """Return the open grants that expire within so many days from now, the next one first.

        Raises:
            InvalidInput: days below zero.
        """
        return expiring_grants(self._engine, within_days=within_days)


def _unit(stated: str, *, field: str) -> str:
    """Return a unit: the code of a currency, or "feature:" and a slug."""
    if isinstance(stated, str) and stated.startswith(FEATURE_PREFIX) and len(stated) > len(FEATURE_PREFIX):
        return stated
    try:
        return Money(0, stated).currency
    except InvalidInput:
        raise InvalidInput(field, stated, _UNIT_REMEDY) from None
