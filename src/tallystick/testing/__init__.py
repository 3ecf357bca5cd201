"""For the tests of applications: a clock moved by hand, travel in time, a provider without a network, and credits.

```python
from tallystick import Tallystick
from tallystick.testing import CreditFactory, FixedClock, ProviderSimulator, time_travel

clock = FixedClock("2026-01-15T12:00:00Z")
ts = Tallystick("sqlite:///test.db", clock=clock)
simulator = ProviderSimulator(input_tokens=(200, 800), output_tokens=150)
ts.meter.billable("user:1").using_provider("openai", "gpt-4o-mini").call(lambda: simulator.call(model="gpt-4o-mini"))
travel = time_travel(ts, clock)
travel(days=31)

make = CreditFactory(ts)
make.wallet("user:1", "100 USD")
make.with_credits(25).referral_bonus("user:1", "api-calls")
make.expired("user:1", "api-calls")
```

With pytest: `pytest_plugins = ["tallystick.testing.fixtures"]` in `conftest.py` gives the fixtures `ts`, `clock`,
`travel`, `provider_simulator` and `credit_factory`.
"""

from __future__ import annotations

from tallystick.clock import FixedClock
from tallystick.testing.credit_factory import CreditFactory
from tallystick.testing.provider_simulator import ProviderSimulator, SimulatedCall, SimulatedProviderError
from tallystick.testing.time_travel import Journey, Stop, TimeTravel, time_travel

__all__ = [
    "CreditFactory",
    "FixedClock",
    "Journey",
    "ProviderSimulator",
    "SimulatedCall",
    "SimulatedProviderError",
    "Stop",
    "TimeTravel",
    "time_travel",
]
