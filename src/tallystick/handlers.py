"""The application's event handlers: called after the commit, each on its own, never in the way of the call."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tallystick.errors import InvalidInput
from tallystick.events import Event

__all__ = ["Handlers"]

logger = logging.getLogger("tallystick.events")

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Handlers:
    """Handlers by event class. A handler of a base class (`Event`) hears every event below it."""

    def __init__(self) -> None:
        self._handlers: dict[type[Event], list[Callable[..., Any]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, event_class: type[Event]) -> Callable[[Handler], Handler]:
        """Return a decorator that registers a function, or a coroutine function, for a class of events."""
        if not (isinstance(event_class, type) and issubclass(event_class, Event)):
            raise InvalidInput("event_class", event_class, "Give a class of tallystick.events, such as UsageRecorded.")

        def register(handler: Handler) -> Handler:
            self._handlers.setdefault(event_class, []).append(handler)
            return handler

        return register

    def wants(self, event_class: type[Event]) -> bool:
        """Say whether anybody listens, so that an event nobody hears is not even made."""
        return bool(self._handlers) and any(base in self._handlers for base in event_class.__mro__)

    @property
    def is_empty(self) -> bool:
        return not self._handlers

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutine handlers on this loop from now on."""
        self._loop = loop

    def send(self, events: Iterable[Event]) -> None:
        for event in events:
            for base in type(event).__mro__:
                for handler in self._handlers.get(base, ()):
                    self._call(handler, event)

    async def drain(self) -> None:
        """Wait until the coroutine handlers of this loop have ended, also those that were only just handed to it."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        while own := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.gather(*own)

    def _call(self, handler: Callable[..., Any], event: Event) -> None:
        try:
            answer = handler(event)
            if inspect.iscoroutine(answer):
                self._run_coroutine(answer, handler, event)
        except Exception:
            logger.exception("The handler %r failed on %s.", handler, type(event).__name__)

    def _run_coroutine(self, coroutine: Any, handler: Callable[..., Any], event: Event) -> None:
        async def logged() -> None:
            try:
                await coroutine
            except Exception:
                logger.exception("The handler %r failed on %s.", handler, type(event).__name__)

        loop = self._loop if self._loop is not None and not self._loop.is_closed() else _running_loop()
        if loop is None:
            asyncio.run(logged())
        else:
            loop.call_soon_threadsafe(self._start_task, logged)

    def _start_task(self, logged: Callable[[], Any]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
