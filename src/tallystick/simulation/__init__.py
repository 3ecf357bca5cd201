"""Months of customers, calls, changes and payments, played in seconds on a database of their own.

    scenario.py       what is to be played, as values        scenario_file.py   the same as TOML, read and checked
    distributions.py  numbers that look like chance          demand.py          what a customer does on a day
    players.py        customers, and what they will do       stage.py           the days, one after the other
    cashier.py        who pays when                          outcome.py         what came of it, month by month

It uses the engine as any application does. The same scenario and seed give the same invoices.
"""

from __future__ import annotations

from tallystick.simulation.outcome import MonthFigures, Outcome, PlayedCustomer, Skipped
from tallystick.simulation.scenario import Scenario
from tallystick.simulation.scenario_file import example_file, example_scenario, read_scenario
from tallystick.simulation.stage import simulate

__all__ = [
    "MonthFigures",
    "Outcome",
    "PlayedCustomer",
    "Scenario",
    "Skipped",
    "example_file",
    "example_scenario",
    "read_scenario",
    "simulate",
]
