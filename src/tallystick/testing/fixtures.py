"""Fixtures for pytest: an engine with a clock moved by hand, credits, a simulated provider, and travel in time.

```python
# conftest.py
pytest_plugins = ["tallystick.testing.fixtures"]
```

A fixture of the same name in your own `conftest.py` takes the place of one of these: with a `ts` of your own, the
factory makes credits there, and `travel` moves the `clock` that you have opened it with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallystick.app import Tallystick
from tallystick.clock import FixedClock
from tallystick.testing import CreditFactory, ProviderSimulator, TimeTravel

__all__ = ["clock", "credit_factory", "provider_simulator", "travel", "ts"]


@pytest.fixture
def clock() -> FixedClock:
    """The clock of `ts`: it stands at 2026-01-15T12:00:00Z until a test moves it."""
    return FixedClock("2026-01-15T12:00:00Z")


@pytest.fixture
def ts(tmp_path: Path, clock: FixedClock) -> Iterator[Tallystick]:
    """An engine on an empty SQLite database of this test alone, with `clock` as its time."""
    with Tallystick(f"sqlite:///{tmp_path / 'tallystick.db'}", clock=clock) as engine:
        yield engine


@pytest.fixture
def credit_factory(ts: Tallystick) -> CreditFactory:
    """A factory that makes credits in `ts`."""
    return CreditFactory(ts)


@pytest.fixture
def provider_simulator(clock: FixedClock) -> ProviderSimulator:
    """A provider without a network: `provider_simulator.call(model="gpt-4o-mini", output_tokens=150)`."""
    return ProviderSimulator(clock=clock)


@pytest.fixture
def travel(ts: Tallystick, clock: FixedClock) -> TimeTravel:
    """Moves `clock` and runs what falls due in `ts` on the way: `travel(days=31)`, `travel.to("2026-03-01")`."""
    return TimeTravel(ts, clock)
