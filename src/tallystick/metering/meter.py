"""The fluent call: `ts.meter.billable(...).using_provider(...).call(fn)`.

A meter is immutable: every method returns a new one, so a half-built meter can be kept and shared.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from tallystick.errors import InvalidInput, UnknownPrice
from tallystick.identity import billable_reference, tenant_reference, user_reference
from tallystick.metering.call import CallContext, Estimate, begin, call
from tallystick.metering.flow import run, run_async
from tallystick.metering.hold import AsyncHold, Hold
from tallystick.metering.input import (
    COST_NANOS_MAX,
    checked_billing_mode,
    checked_key,
    checked_name,
    checked_text,
    checked_tokens,
    checked_ttl,
    manual_usage,
)
from tallystick.metering.resource_types import checked_resource_type
from tallystick.metering.response import MeteredResponse
from tallystick.money import Money
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["MANUAL", "AsyncMeter", "Meter", "PendingHold"]

MANUAL = "manual"
"""The provider of use that the application states itself. It has no price list."""

Response = TypeVar("Response")


class _MeterBuilder:
    """The fluent methods, the same for both colours. Every name is checked when it is given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._billable: str | None = None
        self._user: str | None = None
        self._tenant: str | None = None
        self._provider: str | None = None
        self._model = ""
        self._feature = ""
        self._resource_type = "completion"
        self._mode: str | None = None
        self._key_id: str | None = None
        self._metadata: Mapping[str, object] = {}
        self._key: str | None = None
        self._usage: ProviderUsage | None = None
        self._tokens: int | None = None
        self._tokens_explicit = False
        self._cost: Money | None = None

    def _with(self, **changes: object) -> Self:
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        changed.__dict__.update(changes)
        return changed

    def for_user(self, user: object) -> Self:
        """Say who made the call. The user is billed where neither a billable nor a tenant is given."""
        return self._with(_user=user_reference(user))

    def for_tenant(self, tenant: object) -> Self:
        """Say for which tenant ("acme", "tenant:acme", an object). It is billed where no billable is given."""
        return self._with(_tenant=tenant_reference(tenant))

    def billable(self, billable: object) -> Self:
        """Say who pays and is limited: "type:id", (type, id), or an object."""
        return self._with(_billable=billable_reference(billable, self._engine.billable_resolver))

    def using_provider(self, provider: str, model: str | None = None) -> Self:
        """Name the provider and the model; without a model, the one that the response names is priced."""
        if not isinstance(provider, str) or not provider.strip():
            raise InvalidInput("provider", provider, 'Name a provider, such as "openai".')
        return self._with(
            _provider=checked_text("provider", provider).lower(), _model=checked_text("model", model or "")
        )

    def feature(self, feature: str) -> Self:
        """Name the feature of the application that the call serves. Letters, digits, `_`, `-`, `.`."""
        return self._with(_feature=checked_name("feature", feature))

    def resource_type(self, resource_type: str) -> Self:
        """Name what is used up, "completion" where it is not given: "embedding", "tool_call", one of your own."""
        return self._with(_resource_type=checked_resource_type(self._engine.settings.usage, resource_type))

    def for_key(self, key: str) -> Self:
        """Say with which API key of the application's the call was made, for quotas of single keys."""
        return self._with(_key_id=checked_name("key", key))

    def billing_mode(self, mode: str) -> Self:
        """Say from what the use is paid; without it, as the subscription says, else "plan"."""
        return self._with(_mode=checked_billing_mode(mode))

    def with_meta(self, metadata: Mapping[str, object] | None = None, **values: object) -> Self:
        """Add metadata: plain values, limited in size, never prompt or completion text."""
        return self._with(_metadata={**self._metadata, **(metadata or {}), **values})

    def with_idempotency_key(self, key: str) -> Self:
        """Record this call once, however often it is repeated with the same key and input for the same billable.

        A replay does not call the provider again. Two calls at once with one key: the second waits for the first.
        """
        return self._with(_key=checked_key(key))

    def with_manual_usage(
        self, usage: ProviderUsage | Mapping[str, Any] | None = None, /, **tokens_and_costs: Any
    ) -> Self:
        """State the usage instead of reading it from the response: `input_tokens=450, output_tokens=900`.

        Takes the keywords of `ProviderUsage.manual`; a stated `total_cost` is taken as it is.
        """
        if isinstance(usage, ProviderUsage):
            if tokens_and_costs:
                raise InvalidInput("usage", tokens_and_costs, "Give a ProviderUsage or keywords, not both.")
            return self._with(_usage=usage)
        return self._with(_usage=manual_usage({**(usage or {}), **tokens_and_costs}))

    def estimate(self, tokens: int | None = None, cost: Money | None = None) -> Self:
        """State what the call may use at most. It is held before the call; where it does not fit whole, it is refused.

        An estimate in tokens is priced at the dearest rate that may apply where a cost limit counts.
        """
        if tokens is None and cost is None:
            raise InvalidInput("estimate", None, "Give tokens, a cost, or both.")
        if cost is not None and (not isinstance(cost, Money) or not 0 <= cost.nanos <= COST_NANOS_MAX):
            raise InvalidInput("cost", cost, 'Give Money of zero or more, such as Money("0.05", "USD").')
        changes: dict[str, object] = {}
        if tokens is not None:
            changes |= {"_tokens": checked_tokens("tokens", tokens), "_tokens_explicit": True}
        if cost is not None:
            changes["_cost"] = cost
        return self._with(**changes)

    def expecting(self, tokens: int) -> Self:
        """Hint at what the call may use, as `max_tokens` does. Unlike `estimate`, the hold shrinks to what is left."""
        if self._tokens_explicit:
            return self
        return self._with(_tokens=checked_tokens("tokens", tokens), _tokens_explicit=False)

    # -- made ready ---------------------------------------------------------------------------------------------------

    def _context(self) -> CallContext:
        engine = self._engine
        provider = self._provider or engine.settings.default_provider
        if provider is None:
            if self._usage is None:
                raise InvalidInput(
                    "provider", None, 'Name it with using_provider("openai", "gpt-4o-mini"), or set default_provider.'
                )
            provider = MANUAL
        billable, tenant = self._who_pays()
        return CallContext(
            billable=billable,
            user_id=self._user,
            tenant_id=tenant,
            provider=provider,
            model=self._model,
            feature=self._feature,
            resource_type=self._resource_type,
            billing_mode=self._mode,
            metadata=engine.metadata_policy.encoded(self._metadata),
            idempotency_key=self._key,
            manual_usage=self._usage,
            key_id=self._key_id,
        )

    def _who_pays(self) -> tuple[str, str | None]:
        """Return the billable (given, else the tenant, else the user) and the tenant."""
        tenant = self._tenant
        if tenant is None and self._engine.tenant_resolver is not None:
            found = self._engine.tenant_resolver()
            tenant = tenant_reference(found) if found is not None else None
        billable = self._billable or tenant or self._user
        if billable is None:
            raise InvalidInput("billable", None, "Say who pays: billable(...), for_tenant(...) or for_user(...).")
        return billable, tenant

    def _estimate(self, context: CallContext, at: int) -> Estimate:
        """Return what to hold, priced where a price is known.

        Raises:
            UnknownPrice: for a model without a price, with `on_unknown_price = "refuse"`. A provider that states its
                costs itself, and a call that names no model, are priced by what comes back.
        """
        engine = self._engine
        tokens, explicit = self._tokens, self._tokens_explicit
        usage = context.manual_usage
        if tokens is None:
            # A stated usage is no guess: it fits or it does not.
            explicit = usage is not None
            tokens = usage.total_tokens if usage is not None else engine.settings.holds.default_tokens
        if usage is not None and self._cost is None:
            costs, currency, _ = engine.costs(usage, context.provider, context.model, at)
            if costs is None:
                self._refuse_unpriced(context)
            return Estimate(tokens, explicit, None if costs is None else costs[2], currency, explicit)
        rate = engine.rate(context.provider, context.model, at)
        if rate is None and (usage is None or usage.total_cost is None):
            self._refuse_unpriced(context)
        if self._cost is not None:
            return Estimate(tokens, explicit, self._cost.nanos, self._cost.currency, cost_explicit=True)
        if rate is None:
            return Estimate(tokens, explicit, None, engine.settings.billing.currency, explicit)
        return Estimate(tokens, explicit, rate.dearest_nanos(tokens), rate.currency, explicit)

    def _refuse_unpriced(self, context: CallContext) -> None:
        settings = self._engine.settings
        if settings.on_unknown_price != "refuse" or settings.enforcement != "on":
            return
        if context.provider != MANUAL and context.model and not self._engine.providers.is_custom(context.provider):
            raise UnknownPrice(context.provider, context.model)


class Meter(_MeterBuilder):
    """Builds and makes metered calls. See `AsyncMeter` for asyncio."""

    def call(self, function: Callable[[], Response], *, ttl_seconds: int | None = None) -> MeteredResponse[Response]:
        """Call the provider through `function`, metered: hold, call, settle.

        Returns once the use is committed. Where the response is a stream, it returns at once, and the use is recorded
        when the stream ends. The provider's exceptions pass through unchanged, after the hold was voided.
        `ttl_seconds` replaces `holds.ttl_seconds` for a call that takes longer.

        Raises:
            LimitExceeded: a hard limit has no room. The provider was not called, nothing is held.
            SubscriptionRequired, UnknownPrice, CurrencyMismatch: likewise refused before the call.
            IdempotencyConflict: the key was used with other input. CallInProgress: it is still being used.
            StorageError: the database is away. After the provider was called, the error's `response` is its answer.
        """
        context = self._context()
        estimate = self._estimate(context, self._engine.now())
        flow = call(self._engine, context, estimate, function, ttl_seconds=checked_ttl(ttl_seconds), is_sync=True)
        return run(flow, self._engine.lane)

    def hold(self, tokens: int | None = None, cost: Money | None = None, *, ttl_seconds: int | None = None) -> Hold:
        """Place a hold, for use that does not fit into one function. Settle or void it; `with` voids what is left open.

        `ttl_seconds` replaces `holds.ttl_seconds` for a call that takes longer. Raises what `call` raises.
        """
        meter = self.estimate(tokens, cost) if tokens is not None or cost is not None else self
        checked_ttl(ttl_seconds)
        context = meter._context()
        estimate = meter._estimate(context, self._engine.now())
        begun = run(begin(self._engine, context, estimate, ttl_seconds=ttl_seconds), self._engine.lane)
        return Hold(self._engine, context, begun)


class AsyncMeter(_MeterBuilder):
    """Builds and makes metered calls on asyncio. The methods of `Meter`, awaited where they wait."""

    @overload
    async def call(
        self, function: Callable[[], Awaitable[Response]], *, ttl_seconds: int | None = None
    ) -> MeteredResponse[Response]: ...
    @overload
    async def call(
        self, function: Callable[[], Response], *, ttl_seconds: int | None = None
    ) -> MeteredResponse[Response]: ...
    async def call(
        self, function: Callable[[], Awaitable[Response]] | Callable[[], Response], *, ttl_seconds: int | None = None
    ) -> MeteredResponse[Response]:
        """Call the provider through `function`, which may return an awaitable, metered: hold, call, settle.

        As `Meter.call`; the loop is never blocked, and no thread is held while the provider works. A call that is
        cancelled while the provider works is recorded with its estimate, flagged partial.
        """
        context = self._context()
        estimate = self._estimate(context, self._engine.now())
        flow = call(self._engine, context, estimate, function, ttl_seconds=checked_ttl(ttl_seconds))
        return await run_async(flow, self._engine.lane)

    def hold(
        self, tokens: int | None = None, cost: Money | None = None, *, ttl_seconds: int | None = None
    ) -> PendingHold:
        """Place a hold: `async with meter.hold(tokens=100) as hold`, or `hold = await meter.hold(tokens=100)`."""
        meter = self.estimate(tokens, cost) if tokens is not None or cost is not None else self
        return PendingHold(meter, checked_ttl(ttl_seconds))

    async def _placed(self, ttl_seconds: int | None) -> AsyncHold:
        context = self._context()
        estimate = self._estimate(context, self._engine.now())
        flow = begin(self._engine, context, estimate, ttl_seconds=ttl_seconds)
        return AsyncHold(self._engine, context, await run_async(flow, self._engine.lane))


class PendingHold:
    """A hold that is placed when it is awaited or entered."""

    __slots__ = ("_hold", "_meter", "_ttl_seconds")

    def __init__(self, meter: AsyncMeter, ttl_seconds: int | None) -> None:
        self._meter = meter
        self._ttl_seconds = ttl_seconds
        self._hold: AsyncHold | None = None

    def __await__(self) -> Generator[Any, None, AsyncHold]:
        return self._meter._placed(self._ttl_seconds).__await__()

    async def __aenter__(self) -> AsyncHold:
        self._hold = await self
        return self._hold

    async def __aexit__(self, *exception: object) -> None:
        if self._hold is not None:
            await self._hold.__aexit__(*exception)
