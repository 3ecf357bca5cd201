"""`AsyncTallystick`: the same engine and the same names, awaited.

What is on the way of a call (`meter`, its holds, deducting credits, using a feature) hands its commands to the lane
without a thread: `submitted(Method)` awaits the method's flow. Everything rarer is the synchronous method, run in a
worker thread, `threaded(Method)`. So there is one text for both colours.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine, Generator, Mapping
from decimal import Decimal
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from tallystick.app import Tallystick
from tallystick.clock import Clock
from tallystick.credits.credits import Credits
from tallystick.credits.features import Features
from tallystick.credits.ledger_view import Ledger
from tallystick.credits.wallets import Wallet, Wallets
from tallystick.events import Event
from tallystick.gateways.payment_methods import PaymentMethods
from tallystick.identity import BillableResolver
from tallystick.invoicing.coupons import Coupons
from tallystick.invoicing.invoices import Invoices
from tallystick.invoicing.overages import Overages
from tallystick.limits.limits import Limits
from tallystick.limits.quotas import Quotas
from tallystick.limits.rates import RateLimits
from tallystick.metering.flow import run_async
from tallystick.metering.meter import AsyncMeter
from tallystick.metering.usage import Usage
from tallystick.metering.usage_event import UsageEvent
from tallystick.notify.notifications import Notifications
from tallystick.notify.webhooks import Webhooks
from tallystick.plans.plans import Plans
from tallystick.plans.subscriptions import Subscriptions
from tallystick.pricing.prices import Prices
from tallystick.settings import Settings
from tallystick.tenants.tenants import Tenants

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
            return await asyncio.to_thread(self.method, instance._sync, *arguments, **keywords)

        return update_wrapper(call, self.method)


class submitted(threaded[Namespace, Parameters, Result]):  # noqa: N801  # used as a function, as `threaded`
    """A synchronous method whose flow is awaited: its command goes to the lane without a thread.

    A caller that is cancelled leaves it to be carried out, and its events to be sent.
    """

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        flow = inspect.unwrap(self.method)

        async def call(*arguments: Any, **keywords: Any) -> Any:
            lane = instance._sync._engine.lane
            task = asyncio.ensure_future(run_async(flow(instance._sync, *arguments, **keywords), lane))
            _running.add(task)
            task.add_done_callback(_finished)
            return await asyncio.shield(task)

        return update_wrapper(call, self.method)


_running: set[asyncio.Future[Any]] = set()


def _finished(task: asyncio.Future[Any]) -> None:
    _running.discard(task)
    # Nobody may be left to be told of its error; whoever is has it from the await.
    if not task.cancelled():
        task.exception()


class Pending(Generic[Result]):
    """A value that is read when it is awaited, in a worker thread: `await wallet.balance`."""

    def __init__(self, read: Callable[[], Result]) -> None:
        self._read = read

    def __await__(self) -> Generator[Any, None, Result]:
        return asyncio.to_thread(self._read).__await__()


class awaited(Generic[Result]):  # noqa: N801  # used as a function: `balance = awaited(Wallet.balance)`
    """A synchronous property as one whose value is awaited."""

    def __init__(self, read: Callable[[Any], Result]) -> None:
        # To type checkers a property of a class is its getter.
        self._read: Callable[[Any], Result] = getattr(read, "fget", read)
        self.__doc__ = read.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: _AsyncNamespace[Any], owner: type) -> Pending[Result]: ...
    def __get__(self, instance: _AsyncNamespace[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        return Pending(lambda: self._read(instance._sync))


class _AsyncNamespace(Generic[Namespace]):
    """A namespace whose methods are those of a synchronous one, threaded."""

    def __init__(self, sync: Namespace) -> None:
        self._sync = sync
        if not hasattr(type(self), "sync"):
            # A namespace with a method of this name has it in the place of the synchronous one.
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
    adjust = threaded(Usage.adjust)
    cleanup = threaded(Usage.cleanup)
    delete_for = threaded(Usage.delete_for)
    anonymize_before = threaded(Usage.anonymize_before)


class AsyncLimits(_AsyncNamespace[Limits]):
    """`Limits`, awaited."""

    check = threaded(Limits.check)
    override = threaded(Limits.override)
    overrides = threaded(Limits.overrides)
    end_override = threaded(Limits.end_override)


class AsyncQuotas(_AsyncNamespace[Quotas]):
    """`Quotas`, awaited. `consume` hands its command to the lane without a thread."""

    set = threaded(Quotas.set)
    delete = threaded(Quotas.delete)
    get = threaded(Quotas.get)
    list = threaded(Quotas.list)
    check = threaded(Quotas.check)
    enforce = threaded(Quotas.enforce)
    status = threaded(Quotas.status)

    async def consume(
        self,
        tenant: object,
        resource_type: str,
        quantity: int | Decimal | str = 1,
        *,
        user: object = None,
        feature: str | None = None,
        key: str | None = None,
        metadata: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> UsageEvent:
        """Use so much of a resource, as `Quotas.consume`."""
        flow = self.sync._consumption(
            tenant,
            resource_type,
            quantity,
            user=user,
            feature=feature,
            key=key,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
        return await run_async(flow, self.sync._engine.lane)


class AsyncRateLimits(_AsyncNamespace[RateLimits]):
    """`RateLimits`, awaited."""

    set = threaded(RateLimits.set)
    list = threaded(RateLimits.list)
    delete = threaded(RateLimits.delete)
    status = threaded(RateLimits.status)


class AsyncPlans(_AsyncNamespace[Plans]):
    """`Plans`, awaited."""

    create = threaded(Plans.create)
    new_version = threaded(Plans.new_version)
    edit_version = threaded(Plans.edit_version)
    discard_version = threaded(Plans.discard_version)
    publish = threaded(Plans.publish)
    update = threaded(Plans.update)
    archive = threaded(Plans.archive)
    activate = threaded(Plans.activate)
    get = threaded(Plans.get)
    version = threaded(Plans.version)
    diff = threaded(Plans.diff)
    sync = threaded(Plans.sync)  # type: ignore[assignment]  # in the place of the synchronous one
    export = threaded(Plans.export)
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
    pause = threaded(Subscriptions.pause)
    renew = threaded(Subscriptions.renew)
    change_plan = threaded(Subscriptions.change_plan)
    preview_change = threaded(Subscriptions.preview_change)
    migrate = threaded(Subscriptions.migrate)
    set_metadata = threaded(Subscriptions.set_metadata)
    payment_failed = threaded(Subscriptions.payment_failed)
    payment_succeeded = threaded(Subscriptions.payment_succeeded)


class AsyncOverages(_AsyncNamespace[Overages]):
    """`Overages`, awaited."""

    list = threaded(Overages.list)
    get = threaded(Overages.get)
    totals = threaded(Overages.totals)
    sync = threaded(Overages.sync)  # type: ignore[assignment]  # in the place of the synchronous one
    mark_as_synced = threaded(Overages.mark_as_synced)


class AsyncPaymentMethods(_AsyncNamespace[PaymentMethods]):
    """`PaymentMethods`, awaited."""

    add = threaded(PaymentMethods.add)
    list = threaded(PaymentMethods.list)
    get = threaded(PaymentMethods.get)
    default = threaded(PaymentMethods.default)
    set_default = threaded(PaymentMethods.set_default)
    remove = threaded(PaymentMethods.remove)
    expiring = threaded(PaymentMethods.expiring)
    token = threaded(PaymentMethods.token)


class AsyncWallet(_AsyncNamespace[Wallet]):
    """`Wallet`, awaited: its methods, and each property that reads (`await wallet.balance`). Its names are plain."""

    @property
    def id(self) -> str:
        return self.sync.id

    @property
    def billable(self) -> str:
        return self.sync.billable

    @property
    def currency(self) -> str:
        return self.sync.currency

    balance = awaited(Wallet.balance)
    available = awaited(Wallet.available)
    held = awaited(Wallet.held)
    paid = awaited(Wallet.paid)
    promotional = awaited(Wallet.promotional)
    overdraft = awaited(Wallet.overdraft)
    minimum_balance = awaited(Wallet.minimum_balance)
    overdraft_limit = awaited(Wallet.overdraft_limit)
    auto_top_up = awaited(Wallet.auto_top_up)

    has_sufficient_balance = threaded(Wallet.has_sufficient_balance)
    transactions = threaded(Wallet.transactions)
    transaction = threaded(Wallet.transaction)
    grants = threaded(Wallet.grants)
    caps = threaded(Wallet.caps)
    add_credits = submitted(Wallet.add_credits)
    deduct_credits = submitted(Wallet.deduct_credits)
    transfer = submitted(Wallet.transfer)
    refund = submitted(Wallet.refund)
    revoke = threaded(Wallet.revoke)
    set_minimum_balance = threaded(Wallet.set_minimum_balance)
    set_overdraft_limit = threaded(Wallet.set_overdraft_limit)
    set_auto_top_up = threaded(Wallet.set_auto_top_up)
    set_cap = threaded(Wallet.set_cap)

    def __repr__(self) -> str:
        return repr(self.sync)


class AsyncWallets(_AsyncNamespace[Wallets]):
    """`Wallets`, awaited. The wallets that it gives are awaited too."""

    async def get_or_create(self, billable: object, currency: str | None = None) -> AsyncWallet:
        """Return a billable's wallet in a currency, made if it is new, as `Wallets.get_or_create`."""
        return AsyncWallet(await asyncio.to_thread(self.sync.get_or_create, billable, currency))

    async def get(self, billable: object, currency: str | None = None) -> AsyncWallet:
        """Return a billable's wallet in a currency, as `Wallets.get`."""
        return AsyncWallet(await asyncio.to_thread(self.sync.get, billable, currency))

    async def list(self, billable: object = None) -> list[AsyncWallet]:
        """Return the wallets of a billable, or all there are, as `Wallets.list`."""
        return [AsyncWallet(one) for one in await asyncio.to_thread(self.sync.list, billable)]

    transfer = threaded(Wallets.transfer)
    top_ups = threaded(Wallets.top_ups)
    complete_top_up = threaded(Wallets.complete_top_up)
    fail_top_up = threaded(Wallets.fail_top_up)


class AsyncFeatures(_AsyncNamespace[Features]):
    """`Features`, awaited."""

    can_use = threaded(Features.can_use)
    remaining = threaded(Features.remaining)
    next_reset = threaded(Features.next_reset)
    usage = threaded(Features.usage)
    extra_credits = threaded(Features.extra_credits)
    total_available = threaded(Features.total_available)
    credit_stats = threaded(Features.credit_stats)
    credits = threaded(Features.credits)
    use = submitted(Features.use)
    grant_credits = submitted(Features.grant_credits)
    grant_many = submitted(Features.grant_many)
    transfer = submitted(Features.transfer)
    revoke = threaded(Features.revoke)


class AsyncCredits(_AsyncNamespace[Credits]):
    """`Credits`, awaited."""

    report = threaded(Credits.report)
    forecast = threaded(Credits.forecast)
    expire = threaded(Credits.expire)
    expiring = threaded(Credits.expiring)


class AsyncLedger(_AsyncNamespace[Ledger]):
    """`Ledger`, awaited."""

    entries = threaded(Ledger.entries)
    accounts = threaded(Ledger.accounts)
    transaction = threaded(Ledger.transaction)
    reverse = threaded(Ledger.reverse)


class AsyncCoupons(_AsyncNamespace[Coupons]):
    """`Coupons`, awaited."""

    create = threaded(Coupons.create)
    get = threaded(Coupons.get)
    archive = threaded(Coupons.archive)
    redeem = threaded(Coupons.redeem)
    discounts = threaded(Coupons.discounts)
    remove = threaded(Coupons.remove)
    list = threaded(Coupons.list)


class AsyncInvoices(_AsyncNamespace[Invoices]):
    """`Invoices`, awaited."""

    create = threaded(Invoices.create)
    finalize = threaded(Invoices.finalize)
    generate = threaded(Invoices.generate)
    preview = threaded(Invoices.preview)
    billing_details = threaded(Invoices.billing_details)
    set_billing_details = threaded(Invoices.set_billing_details)
    add_item = threaded(Invoices.add_item)
    items = threaded(Invoices.items)
    remove_item = threaded(Invoices.remove_item)
    bill_now = threaded(Invoices.bill_now)
    get = threaded(Invoices.get)
    update = threaded(Invoices.update)
    void = threaded(Invoices.void)
    archive = threaded(Invoices.archive)
    record_payment = threaded(Invoices.record_payment)
    payment_failed = threaded(Invoices.payment_failed)
    refund = threaded(Invoices.refund)
    credit = threaded(Invoices.credit)
    credit_notes = threaded(Invoices.credit_notes)
    get_credit_note = threaded(Invoices.get_credit_note)
    account = threaded(Invoices.account)
    payments = threaded(Invoices.payments)
    pdf = threaded(Invoices.pdf)
    credit_note_pdf = threaded(Invoices.credit_note_pdf)
    list = threaded(Invoices.list)


class AsyncTenants(_AsyncNamespace[Tenants]):
    """`Tenants`, awaited."""

    create = threaded(Tenants.create)
    get = threaded(Tenants.get)
    update = threaded(Tenants.update)
    suspend = threaded(Tenants.suspend)
    activate = threaded(Tenants.activate)
    delete = threaded(Tenants.delete)
    erase = threaded(Tenants.erase)
    stats = threaded(Tenants.stats)
    shadow_report = threaded(Tenants.shadow_report)
    add_user = threaded(Tenants.add_user)
    remove_user = threaded(Tenants.remove_user)
    users = threaded(Tenants.users)
    attach = threaded(Tenants.attach)
    list = threaded(Tenants.list)


class AsyncNotifications(_AsyncNamespace[Notifications]):
    """`Notifications`, awaited."""

    send = threaded(Notifications.send)
    list = threaded(Notifications.list)
    get = threaded(Notifications.get)
    mark_read = threaded(Notifications.mark_read)
    mark_all_read = threaded(Notifications.mark_all_read)
    unread_count = threaded(Notifications.unread_count)
    preferences = threaded(Notifications.preferences)
    set_preference = threaded(Notifications.set_preference)
    deliver = threaded(Notifications.deliver)
    messages = threaded(Notifications.messages)
    dead_letters = threaded(Notifications.dead_letters)
    retry = threaded(Notifications.retry)


class AsyncWebhooks(_AsyncNamespace[Webhooks]):
    """`Webhooks`, awaited."""

    add = threaded(Webhooks.add)
    list = threaded(Webhooks.list)
    get = threaded(Webhooks.get)
    update = threaded(Webhooks.update)
    rotate_secret = threaded(Webhooks.rotate_secret)
    remove = threaded(Webhooks.remove)
    test = threaded(Webhooks.test)


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
        self.quotas = AsyncQuotas(self.sync.quotas)
        self.rate_limits = AsyncRateLimits(self.sync.rate_limits)
        self.plans = AsyncPlans(self.sync.plans)
        self.subscriptions = AsyncSubscriptions(self.sync.subscriptions)
        self.features = AsyncFeatures(self.sync.features)
        self.wallets = AsyncWallets(self.sync.wallets)
        self.credits = AsyncCredits(self.sync.credits)
        self.ledger = AsyncLedger(self.sync.ledger)
        self.overages = AsyncOverages(self.sync.overages)
        self.invoices = AsyncInvoices(self.sync.invoices)
        self.coupons = AsyncCoupons(self.sync.coupons)
        self.payment_methods = AsyncPaymentMethods(self.sync.payment_methods)
        self.notifications = AsyncNotifications(self.sync.notifications)
        self.webhooks = AsyncWebhooks(self.sync.webhooks)
        self.tenants = AsyncTenants(self.sync.tenants)

    @property
    def clock(self) -> Clock:
        return self._engine.clock

    run_due_jobs = threaded(Tallystick.run_due_jobs)
    doctor = threaded(Tallystick.doctor)
    rotate_keys = threaded(Tallystick.rotate_keys)

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
