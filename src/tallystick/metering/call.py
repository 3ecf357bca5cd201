"""One metered call, from the hold to the settlement, as flows over the engine.

begin   reserve the estimate, or answer a replay
(ask)   the provider works; no lock and no transaction is open
settle  record what was used, give back the rest of the hold
fail    the provider raised: void the hold, pass the exception on
abandon the caller was cancelled: record the estimate, for the provider goes on
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from tallystick.errors import (
    CallInProgress,
    CurrencyMismatch,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    StorageError,
    TallystickError,
    UsageMissing,
)
from tallystick.events import ProviderCallFailed
from tallystick.identity import new_id
from tallystick.metering.commands import CallFailed, CloseHold, InProgress, Placed, PlaceHold, Replayed, SettleHold
from tallystick.metering.flow import Ask, Flow, Pause, Read
from tallystick.metering.recording import Recorded
from tallystick.metering.response import MeteredResponse, Settlement
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.providers.usage import ProviderUsage
from tallystick.quantity import MILLIONTHS
from tallystick.storage.workspace import HoldRow

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = [
    "Attempt",
    "CallContext",
    "Estimate",
    "abandon",
    "announce_failure",
    "asked",
    "begin",
    "call",
    "fail",
    "failure_of",
    "require_same_usage",
    "settle",
    "settle_or_estimate",
    "settle_response",
]

_SETTLE_PAUSES_SECONDS = (0.05, 0.5, 2.0)
_WAIT_FIRST_SECONDS = 0.005
_WAIT_LONGEST_SECONDS = 0.25


class Estimate(NamedTuple):
    """What a call may use. An explicit estimate fits whole or the call is refused; an implicit one may shrink."""

    tokens: int
    tokens_explicit: bool
    cost: int | None
    cost_currency: str
    cost_explicit: bool


# These two are made for every call: not frozen, for that takes three times as long. Nobody changes them.
@dataclass(slots=True)
class CallContext:
    """Who calls what, resolved and checked: everything about a call but its result. `quantity` is in millionths."""

    billable: str
    user_id: str | None
    tenant_id: str | None
    provider: str
    model: str
    feature: str
    resource_type: str
    billing_mode: str | None
    metadata: str | None
    idempotency_key: str | None
    manual_usage: ProviderUsage | None
    quantity: int = MILLIONTHS
    key_id: str | None = None

    def fingerprint(self) -> str | None:
        """Return the input that a replay of the idempotency key has to repeat, as JSON."""
        if self.idempotency_key is None:
            return None
        fields: dict[str, object] = {
            "provider": self.provider,
            "model": self.model,
            "feature": self.feature,
            "resource_type": self.resource_type,
            "billing_mode": self.billing_mode,
            "user": self.user_id,
            "tenant": self.tenant_id,
        }
        if self.key_id is not None:
            fields["key"] = self.key_id
        if self.quantity != MILLIONTHS:
            fields["quantity_millionths"] = self.quantity
        if self.manual_usage is not None:
            fields["usage"] = self.manual_usage.to_dict()
        return json.dumps(fields, separators=(",", ":"), sort_keys=True)


@dataclass(slots=True)
class Attempt:
    """A call under way: its context and the hold that covers it."""

    context: CallContext
    hold: HoldRow
    started_at: int
    estimated_tokens: int
    flags: tuple[str, ...] = ()


def call(
    engine: Engine,
    context: CallContext,
    estimate: Estimate,
    ask: Callable[[], Any],
    *,
    ttl_seconds: int | None = None,
    is_sync: bool = False,
) -> Flow[MeteredResponse[Any]]:
    """Hold, call the provider, settle. A stream is settled when it ends."""
    begun = yield from begin(engine, context, estimate, ttl_seconds=ttl_seconds)
    if isinstance(begun, Settlement):
        return MeteredResponse(engine.remembered_response(context), begun)
    response = yield from asked(engine, begun, lambda: _no_awaitable(ask()) if is_sync else ask())
    if context.manual_usage is None:
        stream = engine.metered_stream(response, begun)
        if stream is not None:
            return stream
    # Before it is settled: a replay may be answered the moment after.
    engine.remember_response(context, response)
    settlement = yield from settle_response(engine, begun, response)
    return MeteredResponse(response, settlement)


def asked(engine: Engine, attempt: Attempt, ask: Callable[[], Any]) -> Flow[Any]:
    """Let the provider be called, and see to the hold where no answer comes back."""
    try:
        return (yield Ask(ask))
    except Exception as error:
        yield from fail(engine, attempt, error)
        raise
    except BaseException:
        yield from abandon(engine, attempt)
        raise


def _no_awaitable(answer: Any) -> Any:
    if not inspect.isawaitable(answer):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()
    raise InvalidInput("function", type(answer).__name__, "It returned an awaitable: call it through AsyncTallystick.")


def begin(
    engine: Engine, context: CallContext, estimate: Estimate, *, ttl_seconds: int | None = None
) -> Flow[Attempt | Settlement]:
    """Place the hold. Returns the first settlement instead where the idempotency key has one.

    A key whose call is still in flight, in this process or another, is waited for.
    """
    settings = engine.settings
    waited_seconds = 0.0
    pause_seconds = _WAIT_FIRST_SECONDS
    while True:
        at = engine.now()
        command = PlaceHold(
            hold_id=new_id("hld"),
            billable=context.billable,
            at=at,
            expires_at=at + (ttl_seconds or settings.holds.ttl_seconds) * 1_000_000,
            tokens=estimate.tokens,
            tokens_explicit=estimate.tokens_explicit,
            cost=estimate.cost,
            cost_currency=estimate.cost_currency,
            cost_explicit=estimate.cost_explicit,
            provider=context.provider,
            model=context.model,
            feature=context.feature,
            user_id=context.user_id,
            tenant_id=context.tenant_id,
            rates=engine.currency_rates,
            enforcement=settings.enforcement,
            subscription_required=settings.require_subscription,
            refuses_unpriced=settings.on_unknown_price == "refuse",
            idempotency_key=context.idempotency_key,
            fingerprint=context.fingerprint(),
            billing_mode=context.billing_mode,
            quantity=context.quantity,
            resource_type=context.resource_type,
            key_id=context.key_id,
        )
        placed = yield from _place(command)
        if isinstance(placed, Placed):
            flags = ("shadow",) if placed.would_refuse is not None else ()
            return Attempt(context, placed.hold, at, estimate.tokens, flags)
        if isinstance(placed, Replayed):
            return (yield from _first_settlement(engine, context.billable, placed))
        if waited_seconds >= settings.idempotency.wait_seconds:
            raise CallInProgress(context.idempotency_key or "", placed.hold_id)
        yield Pause(pause_seconds)
        waited_seconds += pause_seconds
        pause_seconds = min(pause_seconds * 2, _WAIT_LONGEST_SECONDS)


def _place(command: PlaceHold) -> Flow[Placed | Replayed | InProgress]:
    # Where it is not known whether the hold was placed, it is let go: nobody would settle it, its key would be taken.
    hold = HoldRow(command.hold_id, command.billable, "open", (), command.expires_at)
    try:
        placed: Placed | Replayed | InProgress = yield command
    except OutcomeUnknown:
        yield from _let_go(hold, command.at, _SETTLE_PAUSES_SECONDS)
        raise
    except Exception:
        raise
    except BaseException:
        # The caller was cancelled while the command was on its way.
        yield from _let_go(hold, command.at)
        raise
    return placed


def _let_go(
    hold: HoldRow, at: int, pauses_seconds: tuple[float, ...] = (), failure: CallFailed | None = None
) -> Flow[bool]:
    """Void a hold, if it is there. Returns whether it is certain that it holds nothing any more."""
    for pause_seconds in (*pauses_seconds, None):
        try:
            yield CloseHold(hold, at, failure=failure)
        except NotFound:
            return True
        except StorageError:
            if pause_seconds is not None:
                yield Pause(pause_seconds)
        except TallystickError:
            return False
        else:
            return True
    return False


def settle_response(engine: Engine, attempt: Attempt, response: object) -> Flow[Settlement]:
    """Settle with what the response says it used; without usage in it, with the estimate, flagged."""
    context = attempt.context
    problem: ProviderError | None = None
    usage = context.manual_usage
    if usage is None:
        try:
            usage = engine.providers.extract(response, context.provider, context.model or None)
        except ProviderError as error:
            problem = error
    return (yield from settle_or_estimate(engine, attempt, usage, response=response, problem=problem))


def settle_or_estimate(
    engine: Engine,
    attempt: Attempt,
    usage: ProviderUsage | None,
    *,
    response: object = None,
    problem: ProviderError | None = None,
    flags: tuple[str, ...] = (),
) -> Flow[Settlement]:
    """Settle with a usage, or where there is none with the estimate.

    The call happened, so it is recorded in any case; with `on_missing_usage = "error"`, or a provider class that
    failed, the error is raised after that.
    """
    if usage is not None:
        return (yield from settle(engine, attempt, usage, response=response, flags=flags))
    estimated = ProviderUsage(input_tokens=attempt.estimated_tokens, estimated=True)
    settlement = yield from settle(engine, attempt, estimated, response=response, flags=flags)
    if problem is not None:
        raise problem
    if engine.settings.on_missing_usage == "error":
        raise UsageMissing(
            f"The response of {attempt.context.provider} carried no usage; {attempt.estimated_tokens} tokens were "
            f"recorded as estimated ({settlement.usage_event_id}). State it with with_manual_usage(...), or register a "
            "provider class that reads it."
        )
    return settlement


def settle(
    engine: Engine,
    attempt: Attempt,
    usage: ProviderUsage,
    *,
    response: object = None,
    flags: tuple[str, ...] = (),
    failure: CallFailed | None = None,
) -> Flow[Settlement]:
    """Record a usage against the hold. A database that is away for a moment is asked again: the use is a fact.

    Raises:
        StorageError: the database stayed away. The provider's response is the error's `response`; the hold runs out
            and is reported.
        IdempotencyConflict: the hold was settled before, with another usage.
    """
    facts = engine.facts(
        attempt.context,
        usage,
        occurred_at=attempt.started_at,
        flags=(*attempt.flags, *flags),
        estimated_tokens=attempt.estimated_tokens,
    )
    command = SettleHold(attempt.hold, facts, engine.currency_rates, failure)
    for pause_seconds in (*_SETTLE_PAUSES_SECONDS, None):
        try:
            settled = yield from _settled(command)
            break
        except StorageError as error:
            # Settling is idempotent by its hold, so also an unknown outcome may be tried again.
            if pause_seconds is None:
                error.response = response  # type: ignore[attr-defined]  # so that the answer is not lost with it
                raise
            yield Pause(pause_seconds)
        except Exception:
            raise
        except BaseException:
            # The caller was taken away while it was being saved. That goes on, and is announced all the same.
            with suppress(TallystickError):
                settled = yield from _settled(command)
                if isinstance(settled, Recorded):
                    engine.announce(settled)
            raise
    if isinstance(settled, Recorded):
        engine.announce(settled)
        return Settlement.recorded(settled, approaching_percentage=engine.settings.limits.approaching_percentage)
    first = yield from _first_settlement(engine, attempt.hold.billable, settled)
    require_same_usage(engine, attempt.context.idempotency_key or attempt.hold.id, first, usage)
    return first


def _settled(command: SettleHold) -> Flow[Recorded | Replayed]:
    """Send a settlement. Where it is found recorded since its first answer was lost, that answer is given again."""
    settled: Recorded | Replayed = yield command
    if isinstance(settled, Replayed) and settled.event_id == command.facts.event_id and command.decided is not None:
        return command.decided
    return settled


def fail(engine: Engine, attempt: Attempt, error: BaseException) -> Flow[None]:
    """Void the hold of a call that the provider, or its caller, broke off. It raises nothing in the error's place."""
    pauses_seconds = _SETTLE_PAUSES_SECONDS if isinstance(error, Exception) else ()
    failure = failure_of(engine, attempt, error) if isinstance(error, Exception) else None
    if not (yield from _let_go(attempt.hold, engine.now(), pauses_seconds, failure)):
        engine.logger.warning("Hold %s could not be voided; it will run out.", attempt.hold.id)
    if isinstance(error, Exception):
        announce_failure(engine, attempt, error)


def failure_of(engine: Engine, attempt: Attempt, error: Exception) -> CallFailed:
    """Return what is written of a failure of the provider, with the end of its hold."""
    context = attempt.context
    model = context.model or None
    return CallFailed(context.billable, context.provider, model, error, attempt.hold.id, engine.now())


def announce_failure(engine: Engine, attempt: Attempt, error: Exception) -> None:
    """Tell the application's handlers that the provider failed a call."""
    if engine.handlers.wants(ProviderCallFailed):
        failed = ProviderCallFailed(
            billable=attempt.context.billable,
            at=from_micros(engine.now()),
            provider=attempt.context.provider,
            model=attempt.context.model or None,
            error=error,
            hold_id=attempt.hold.id,
        )
        engine.handlers.send([failed])


def abandon(engine: Engine, attempt: Attempt) -> Flow[None]:
    """Settle a call that its caller was taken away from (a cancelled task, an interrupt).

    The provider was asked, goes on and charges, so a client that hangs up is not a way to use it for nothing: the
    stated usage counts, else the estimate, flagged partial and estimated.
    """
    usage = attempt.context.manual_usage or ProviderUsage(attempt.estimated_tokens, estimated=True)
    try:
        yield from settle(engine, attempt, usage, flags=("partial",))
    except TallystickError:
        engine.logger.warning("Hold %s could not be settled; it will run out.", attempt.hold.id, exc_info=True)


def _first_settlement(engine: Engine, billable: str, replayed: Replayed) -> Flow[Settlement]:
    settlement: Settlement = yield Read(lambda: engine.settlement_of(billable, replayed))
    return settlement


def require_same_usage(engine: Engine, key: str, first: Settlement, usage: ProviderUsage) -> None:
    """Compare a usage with the one that was settled first.

    Raises:
        IdempotencyConflict: naming the field that differs.
    """
    kept = first.usage
    for field, before, now in (
        ("input_tokens", kept.input_tokens, usage.input_tokens),
        ("output_tokens", kept.output_tokens, usage.output_tokens),
        ("breakdown", _without_zeros(kept.breakdown), _without_zeros(usage.breakdown)),
        ("counts", _without_zeros(kept.counts), _without_zeros(usage.counts)),
        ("total_cost", kept.total_cost, _stated_cost(engine, first, usage)),
    ):
        if before != now:
            raise IdempotencyConflict(key, field, before, now)


def _without_zeros(amounts: Mapping[str, int | Decimal]) -> dict[str, int | Decimal]:
    return {unit: amount for unit, amount in amounts.items() if amount}


def _stated_cost(engine: Engine, first: Settlement, usage: ProviderUsage) -> Money | None:
    """Return the cost that a usage states, in the currency of the record; the recorded cost where it states none."""
    kept = first.usage.total_cost
    if usage.total_cost is None or kept is None:
        return kept
    try:
        return usage.total_cost.convert(kept.currency, engine.currency_rates)
    except CurrencyMismatch:
        return kept
