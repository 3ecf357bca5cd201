"""`Tallystick`: the one object that an application opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from tallystick.clock import Clock, SystemClock
from tallystick.credits.credits import Credits
from tallystick.credits.features import Features
from tallystick.credits.ledger_view import Ledger
from tallystick.credits.wallets import Wallets
from tallystick.doctor import Diagnosis, examine
from tallystick.due_jobs import DueJobs, run_due_jobs
from tallystick.engine import Engine
from tallystick.events import Event
from tallystick.gateways.driver import load_driver
from tallystick.gateways.payment_methods import PaymentMethods
from tallystick.identity import BillableResolver
from tallystick.invoicing.coupons import Coupons
from tallystick.invoicing.invoices import Invoices
from tallystick.invoicing.overages import Overages
from tallystick.key_rotation import rotate_keys
from tallystick.limits.limits import Limits
from tallystick.limits.quotas import Quotas
from tallystick.limits.rates import RateLimits
from tallystick.metering.meter import Meter
from tallystick.metering.usage import Usage
from tallystick.metering.wrapping import wrap
from tallystick.notify.notifications import Notifications
from tallystick.notify.webhooks import Webhooks
from tallystick.plans.plans import Plans
from tallystick.plans.subscriptions import Subscriptions
from tallystick.pricing.prices import Prices
from tallystick.settings import Settings
from tallystick.tenants.tenants import Tenants

__all__ = ["Tallystick"]

Client = TypeVar("Client")
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Tallystick:
    """Meters, limits and bills the use of AI models.

    ```python
    ts = Tallystick()  # ./tallystick.db, or TALLYSTICK_DATABASE_URL, or tallystick.toml
    result = ts.meter.billable("user:42").using_provider("openai", "gpt-4o-mini").call(ask_the_model)
    ```

    One object a process; threads share it. It creates or migrates its schema when it is opened, and is closed by
    `close()`, by `with`, or when the process ends. After a fork the child goes on with a connection of its own.

    Args:
        database: "sqlite:///file" or "postgresql://…". Before the environment and the file.
        clock: where the time comes from; a `FixedClock` for tests.
        config: path of a settings file instead of ./tallystick.toml.
        overrides: any setting by name: `enforcement="shadow"`, `billing={"currency": "EUR"}`.

    Raises:
        ConfigurationError: for an unknown or wrong setting; for a provider or a driver that cannot be imported.
        SchemaOutOfDate: the schema is newer than this version, or older and `auto_migrate` is off.
        StorageError: the database cannot be opened.
    """

    def __init__(
        self,
        database: str | None = None,
        *,
        clock: Clock | None = None,
        config: str | os.PathLike[str] | None = None,
        **overrides: object,
    ) -> None:
        self.settings = Settings.load(database, config, **overrides)
        self._engine = Engine(self.settings, clock or SystemClock())
        self._engine.open()
        self.meter = Meter(self._engine)
        self.usage = Usage(self._engine)
        self.pricing = Prices(self._engine)
        self.limits = Limits(self._engine)
        self.quotas = Quotas(self._engine)
        self.rate_limits = RateLimits(self._engine)
        self.plans = Plans(self._engine)
        self.subscriptions = Subscriptions(self._engine)
        self.features = Features(self._engine)
        self.wallets = Wallets(self._engine)
        self.credits = Credits(self._engine)
        self.ledger = Ledger(self._engine)
        self.overages = Overages(self._engine)
        self.invoices = Invoices(self._engine)
        self.coupons = Coupons(self._engine)
        self.payment_methods = PaymentMethods(self._engine)
        self.notifications = Notifications(self._engine)
        self.webhooks = Webhooks(self._engine)
        self.tenants = Tenants(self._engine)
        self._use_driver()

    @property
    def clock(self) -> Clock:
        return self._engine.clock

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
        """Return the same client of a provider's SDK, metered: `ts.wrap(OpenAI(), billable="tenant:acme")`.

        Every call through it is held, recorded and priced; responses and exceptions are the provider's own. The
        provider is known by the client's class and address; name it for a compatible service of your own. One call
        says more with a keyword that the provider never sees: `tallystick={"user": 42, "idempotency_key": "req-1"}`.
        """
        return wrap(
            self._engine,
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
        """Return a decorator that calls a function after each event of a class: `@ts.on(UsageRecorded)`.

        Handlers run after the commit; one that fails is logged and breaks nothing.
        """
        return self._engine.handlers.on(event_class)

    def resolve_billable(self, resolver: BillableResolver) -> BillableResolver:
        """Register how the application's objects name their billable. Usable as a decorator."""
        self._engine.billable_resolver = resolver
        return resolver

    def resolve_tenant(self, resolver: Callable[[], object]) -> Callable[[], object]:
        """Register where the tenant of the moment is found, such as `context_variable.get`. Usable as a decorator.

        It is asked for each call that names no tenant; None means that there is none.
        """
        self._engine.tenant_resolver = resolver
        return resolver

    def run_due_jobs(self, *, stopping: Callable[[], bool] | None = None) -> DueJobs:
        """Do what is due by the clock. Safe to run anywhere, and often.

        Holds that ran out are released and reported, credits that ran out are posted, and those that will run out soon
        are announced, as is the report of a month that has ended, where a handler listens. Subscriptions are renewed
        and invoiced, customers reminded of what they owe, and told of trials and subscriptions that end. Messages that
        are due are delivered, for a minute at most.

        Each job is on its own: one that fails is logged, the others go on, and then its error is raised; the error's
        `done` is what was done. `stopping` is asked between portions; once it says yes, the rest is left for next time.
        """
        return run_due_jobs(self._engine, stopping=stopping)

    def doctor(self, *, prices: bool = True) -> Diagnosis:
        """Recompute what stands beside the records, and report any drift in `.findings`.

        Counters, holds, rollups and overages follow from the events, the quantities of usage prices from what was
        charged, and the balances, grants, statements and allowances of credits from the ledger. With
        `prices`, every event's cost is computed again from the price that it keeps, which reads all events.
        """
        return examine(self._engine, prices=prices)

    def rotate_keys(self) -> int:
        """Encrypt everything that is kept encrypted with the first of `security.encryption_keys`; return how much was.

        Afterwards the other keys are needed no more. Secrets of webhooks from before there was a key are encrypted too.
        It goes in portions, and may be interrupted and run again: the second time there is nothing to do.

        Raises:
            ConfigurationError: there is no key, or something needs one that is not there any more; the rest is done.
            StorageError: something that is kept was changed or damaged; the rest is done.
        """
        return rotate_keys(self._engine)

    def close(self) -> None:
        """Carry out what is waiting and close the database. Closing twice is harmless."""
        self._engine.close()

    def _use_driver(self) -> None:
        try:
            self._engine.use_driver(load_driver(self.settings.billing.driver, self))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
