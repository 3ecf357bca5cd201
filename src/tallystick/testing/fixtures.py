"""Fixtures for pytest: an engine with a clock moved by hand, and a factory of credits on it.

```python
# conftest.py
pytest_plugins = ["tallystick.testing.fixtures"]
```

A fixture of the same name in your own `conftest.py` takes the place of one of these: with a `ts` of your own, the
factory makes credits there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallystick.app import Tallystick
from tallystick.clock import FixedClock
from tallystick.testing import CreditFactory

__all__ = ["clock", "credit_factory", "ts"]


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
