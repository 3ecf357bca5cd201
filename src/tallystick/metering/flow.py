"""Flows: a use case as a generator of steps, so that one text serves both colours of Python.

A flow yields what it wants done (a command for the lane, a call of the provider, a read, a pause) and gets the answer
back; errors are raised where it yielded. `run` carries the steps out in the caller's thread, `run_async` awaits them.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from tallystick.storage.lane import Lane

__all__ = ["Ask", "Flow", "Pause", "Read", "run", "run_async"]

Answer = TypeVar("Answer")
Flow = Generator[Any, Any, Answer]


@dataclass(frozen=True, slots=True)
class Ask:
    """Call the application's function that calls the provider. Awaited where it returns an awaitable."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Read:
    """Read from the database, outside the lane."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait a moment."""

    seconds: float


def run(flow: Flow[Answer], lane: Lane) -> Answer:
    """Carry a flow out in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                if isinstance(step, Ask | Read):
                    answer = step.function()
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                    answer = None
                else:
                    answer = lane.run(step)
            except BaseException as error:  # noqa: BLE001  # the flow decides what becomes of it
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # a generator's return value is untyped here


async def run_async(flow: Flow[Answer], lane: Lane) -> Answer:
    """Carry a flow out on the running loop, without blocking it."""
    try:
        step = next(flow)
        while True:
            try:
                if isinstance(step, Ask):
                    answer = step.function()
                    if inspect.isawaitable(answer):
                        answer = await answer
                elif isinstance(step, Read):
                    answer = await asyncio.to_thread(step.function)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    answer = None
                else:
                    answer = await lane.submit(step)
            except BaseException as error:  # noqa: BLE001  # as above; a cancellation too must see to the hold
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # as above
