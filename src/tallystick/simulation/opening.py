"""The engine on which a scenario is played: its settings, plans and coupons, and nothing of the world outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from tallystick import FixedClock, Tallystick
from tallystick.errors import ConfigurationError, Conflict, InvalidInput, TallystickError
from tallystick.simulation.scenario import Scenario

__all__ = ["open_simulation"]

# Whatever else is set: nothing is sent to anybody, and no payment provider is asked.
_HARMLESS: Mapping[str, Any] = {
    "auto_migrate": True,
    "notifications": {"enabled": False, "smtp": {"host": None}},
    "billing": {"driver": "null"},
    # A power cut loses a play, and nothing else.
    "storage": {"synchronous": "normal"},
}
_SOURCE = " Source: argument."


@contextmanager
def open_simulation(
    scenario: Scenario, url: str, clock: FixedClock, base: Mapping[str, Any], folder: Path
) -> Iterator[Tallystick]:
    """Open an empty database with the scenario's settings, over `base`, and put its plans and coupons there.

    Raises:
        InvalidInput: naming the file, the table and the key. Conflict: the database is not empty.
    """
    # An empty file in its place: the settings of the folder one happens to stand in do not count.
    nothing = folder / "no-settings.toml"
    nothing.write_text("", encoding="utf-8")
    zone = {"period": {"timezone": scenario.zone}}
    wanted = _merged(_merged(_merged(zone, base), scenario.settings), _HARMLESS)
    try:
        ts = Tallystick(url, clock=clock, config=nothing, **wanted)
    except ConfigurationError as error:
        remedy = error.remedy.removesuffix(_SOURCE)
        raise ConfigurationError(f"{scenario.file}: settings.{error.field}", error.value, remedy) from None
    with ts:
        _require_empty(ts)
        _put_on_sale(ts, scenario, folder / "plans.toml")
        for code, coupon in scenario.coupons.items():
            with _naming(scenario, f"coupons.{code}."):
                ts.coupons.create(code, **coupon)
        yield ts


def _require_empty(ts: Tallystick) -> None:
    if ts.plans.list() or len(ts.usage.events(limit=1)) or len(ts.invoices.list(limit=1)):
        shown = next(str(row.value) for row in ts.settings.describe() if row.key == "database_url")
        raise Conflict(f"{shown} is not empty. Simulate on an empty database, or leave --database out.")


def _put_on_sale(ts: Tallystick, scenario: Scenario, file: Path) -> None:
    file.write_text(f"plans = {_toml(scenario.plans)}\n", encoding="utf-8")
    try:
        ts.plans.sync(file)
    except InvalidInput as error:
        field = error.field.replace(f"{file}: ", f"{scenario.file}: ")
        raise InvalidInput(field, error.value, error.remedy) from None


@contextmanager
def _naming(scenario: Scenario, place: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{scenario.file}: {place}{error.field}", error.value, error.remedy) from None
    except TallystickError as error:
        raise Conflict(f"{scenario.file}: {place.rstrip('.')}: {error.message}") from None


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others, table by table."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[name] = _merged(below, value) if both and below is not None else value
    return merged


def _toml(value: object) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else str(value)
    return json.dumps(value.isoformat() if isinstance(value, date) else str(value), ensure_ascii=False)
