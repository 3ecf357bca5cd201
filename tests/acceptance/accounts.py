"""What the acceptance tests do with every engine: sell a plan, call a provider that counts, and look for damage."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, func, select

from tallystick import Tallystick

if TYPE_CHECKING:
    from tallystick import AsyncTallystick
    from tallystick.metering.meter import AsyncMeter, Meter

BILLABLE = "user:1"


def subscribe(ts: Tallystick, billable: str = BILLABLE, plan: str = "pro", **terms: Any) -> None:
    """Sell a new plan of these terms to a billable."""
    ts.plans.create(plan, **terms)
    ts.subscriptions.create(billable, plan)


def meter(ts: Tallystick, billable: str = BILLABLE) -> Meter:
    return ts.meter.billable(billable).using_provider("manual", "model")


def async_meter(ts: AsyncTallystick, billable: str = BILLABLE) -> AsyncMeter:
    return ts.meter.billable(billable).using_provider("manual", "model")


def standing(ts: Tallystick, billable: str = BILLABLE) -> tuple[int, int]:
    """Return the tokens used and held in the running period."""
    check = ts.limits.check(billable)
    return check.tokens_used, check.tokens_held


def assert_healthy(ts: Tallystick, *, open_holds: int | None = None) -> None:
    """Assert that the doctor finds no drift, and as many open holds as are meant to be."""
    diagnosis = ts.doctor()
    assert diagnosis.ok, "\n" + "\n".join(str(finding) for finding in diagnosis.findings)
    if open_holds is not None:
        assert diagnosis.open_holds == open_holds


def count_rows(ts: Tallystick, table: Table) -> int:
    """Count the rows of a table on a connection that is not the lane's."""
    count = select(func.count()).select_from(table)
    return ts._engine.read(lambda connection: connection.execute(count).scalar_one())


class CountingProvider:
    """A provider that counts how often it is called, and takes its time."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.calls += 1
        if self.seconds:
            time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return "answer"


def in_threads(number: int, work: Any) -> list[Any]:
    """Run `work(index)` in so many threads that start at one moment. Return results and exceptions, by index."""
    outcomes: list[Any] = [None] * number
    start = threading.Barrier(number)

    def run(index: int) -> None:
        start.wait()
        try:
            outcomes[index] = work(index)
        except BaseException as error:  # noqa: BLE001
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "a caller was never answered"
    return outcomes


def errors_of(outcomes: list[Any], kind: type[BaseException]) -> list[Any]:
    """Return the outcomes that are errors of a kind; any other error fails the test."""
    unexpected = [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, kind)]
    assert not unexpected, repr(unexpected[:3])
    return [one for one in outcomes if isinstance(one, kind)]
