"""Tallystick meters, limits and bills the use of AI models: a library first, and the same engine as a service."""

from __future__ import annotations

from importlib.metadata import version

from tallystick.aio import AsyncTallystick
from tallystick.app import Tallystick
from tallystick.clock import Clock, FixedClock, SystemClock
from tallystick.errors import TallystickError
from tallystick.metering.response import MeteredResponse
from tallystick.money import Money
from tallystick.providers.usage import ProviderUsage

__version__ = version("tallystick")

__all__ = [
    "AsyncTallystick",
    "Clock",
    "FixedClock",
    "MeteredResponse",
    "Money",
    "ProviderUsage",
    "SystemClock",
    "Tallystick",
    "TallystickError",
    "__version__",
]
