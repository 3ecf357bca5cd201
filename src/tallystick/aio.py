"""`AsyncTallystick`: the same engine and the same names, awaited.

What is on the way of a call (`meter`, its holds) hands its commands to the lane without a thread. Everything rarer is
the synchronous method, run in a worker thread: one text for both colours, `threaded(Method)`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from tallystick.app import Tallystick
from tallystick.clock import Clock
from tallystick.events import Event
from tallystick.identity import BillableResolver
from tallystick.invoicing.overages import Overages
from tallystick.limits.limits import Limits
from tallystick.metering.meter import AsyncMeter
from tallystick.metering.usage import Usage
from tallystick.plans.plans import Plans
from tallystick.plans.subscriptions import Subscriptions
from tallystick.pricing.prices import Prices
from tallystick.settings import Settings

__all__ = ["AsyncTallystick"]

Namespace = TypeVar("Namespace")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Client = TypeVar("Client")
Handler = TypeVar("Handler", bound=Callable[..., Any])


class threaded(Generic[Namespace, Parameters, Result]):  # noqa: N801  # used as a function: `get = threaded(Plans.get)`
    """A synchronous method as a coroutine function: it runs in a worker thread, and its signature stays."""

    def __init__(self, method: Callable[Concatenate[Namespace, Parameters], Result]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self, instance: _AsyncNamespace[Namespace], owner: type
    ) -> Callable[Parameters, Coroutine[Any, Any, Result]]: ...
    def __get__(self, instance: _AsyncNamespace[Namespace] | None, owner: type) -> Any:
        if instance is None:
            return self

        async def call(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
            return await asyncio.to_thread(self.method, instance.sync, *arguments, **keywords)

        return update_wrapper(call, self.method)


class _AsyncNamespace(Generic[Namespace]):
    """A namespace whose methods are those of a synchronous one, threaded."""

    def __init__(self, sync: Namespace) -> None:
        self.sync = sync


class AsyncUsage(_AsyncNamespace[Usage]):
    """`Usage`, awaited."""

    log = threaded(Usage.log)
    record = threaded(Usage.record)
    record_batch = threaded(Usage.record_batch)
    stats = threaded(Usage.stats)
    time_series = threaded(Usage.time_series)
    events = threaded(Usage.events)
    get = threaded(Usage.get)
    explain = threaded(Usage.explain)
    reprice = threaded(Usage.reprice)
    delete_for = threaded(Usage.delete_for)
    anonymize_before = threaded(Usage.anonymize_before)


class AsyncLimits(_AsyncNamespace[Limits]):
    """`Limits`, awaited."""

    check = threaded(Limits.check)
    override = threaded(Limits.override)
    overrides = threaded(Limits.overrides)
    end_override = threaded(Limits.end_override)


class AsyncPlans(_AsyncNamespace[Plans]):
    """`Plans`, awaited."""

    create = threaded(Plans.create)
    get = threaded(Plans.get)
    list = threaded(Plans.list)


class AsyncSubscriptions(_AsyncNamespace[Subscriptions]):
    """`Subscriptions`, awaited."""

    create = threaded(Subscriptions.create)
    get = threaded(Subscriptions.get)
    list = threaded(Subscriptions.list)
    status = threaded(Subscriptions.status)
    activate = threaded(Subscriptions.activate)
    cancel = threaded(Subscriptions.cancel)
    resume = threaded(Subscriptions.resume)
    payment_failed = threaded(Subscriptions.payment_failed)
    payment_succeeded = threaded(Subscriptions.payment_succeeded)


class AsyncOverages(_AsyncNamespace[Overages]):
    """`Overages`, awaited."""

    list = threaded(Overages.list)


class AsyncTallystick(_AsyncNamespace[Tallystick]):
    """`Tallystick` for asyncio. Opening it is synchronous and short; `await ts.close()`, or `async with`.

    Coroutine functions may be registered with `@ts.on(...)`: they run as tasks on the loop, which `close` waits for.
    `pricing` only computes, and is the synchronous one.
    """

    def __init__(
        self,
        database: str | None = None,
        *,
        clock: Clock | None = None,
        config: str | os.PathLike[str] | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(Tallystick(database, clock=clock, config=config, **overrides))
        self._engine = self.sync._engine
        self.settings: Settings = self.sync.settings
        self.meter = AsyncMeter(self._engine)
        self.usage = AsyncUsage(self.sync.usage)
        self.pricing: Prices = self.sync.pricing
        self.limits = AsyncLimits(self.sync.limits)
        self.plans = AsyncPlans(self.sync.plans)
        self.subscriptions = AsyncSubscriptions(self.sync.subscriptions)
        self.overages = AsyncOverages(self.sync.overages)

    @property
    def clock(self) -> Clock:
        return self._engine.clock

    run_due_jobs = threaded(Tallystick.run_due_jobs)
    doctor = threaded(Tallystick.doctor)

    def wrap(
        self,
        client: Client,
        *,
        billable: object = None,
        user: object = None,
        tenant: object = None,
        feature: str | None = None,
        billing_mode: str | None = None,
        metadata: Mapping[str, object] | None = None,
        provider: str | None = None,
    ) -> Client:
        """Return the same client, metered, as `Tallystick.wrap`."""
        return self.sync.wrap(
            client,
            billable=billable,
            user=user,
            tenant=tenant,
            feature=feature,
            billing_mode=billing_mode,
            metadata=metadata,
            provider=provider,
        )

    def on(self, event_class: type[Event]) -> Callable[[Handler], Handler]:
        """Return a decorator that calls a function, or starts a coroutine, after each event of a class."""
        return self.sync.on(event_class)

    def resolve_billable(self, resolver: BillableResolver) -> BillableResolver:
        """Register how the application's objects name their billable, as `Tallystick.resolve_billable`."""
        return self.sync.resolve_billable(resolver)

    def resolve_tenant(self, resolver: Callable[[], object]) -> Callable[[], object]:
        """Register where the tenant of the moment is found, as `Tallystick.resolve_tenant`."""
        return self.sync.resolve_tenant(resolver)

    async def close(self) -> None:
        """Wait for coroutine handlers, carry out what is waiting, and close the database."""
        await self._engine.handlers.drain()
        await asyncio.to_thread(self.sync.close)
        # Closing may have reported something itself.
        await self._engine.handlers.drain()

    async def __aenter__(self) -> Self:
        self._engine.handlers.use_loop(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
