"""A hold in the application's hands: settle it for what was used, or void it. Exactly one of both happens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from tallystick.credits.account import is_money
from tallystick.errors import InvalidInput, NotFound
from tallystick.metering.call import Attempt, CallContext, require_same_usage, settle, settle_or_estimate
from tallystick.metering.commands import CloseHold
from tallystick.metering.flow import Flow, run, run_async
from tallystick.metering.input import manual_usage
from tallystick.metering.response import Settlement
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["AsyncHold", "Hold"]


class _HoldState:
    """What both colours of a hold know and do."""

    def __init__(self, engine: Engine, context: CallContext, begun: Attempt | Settlement) -> None:
        self._engine = engine
        self._context = context
        self._attempt = begun if isinstance(begun, Attempt) else None
        self._settlement = begun if isinstance(begun, Settlement) else None
        self._is_open = self._attempt is not None

    @property
    def id(self) -> str | None:
        """The hold's id; None for a replay, which holds nothing."""
        return self._attempt.hold.id if self._attempt is not None else None

    @property
    def tokens(self) -> int:
        """The tokens held. An implicit estimate may have shrunk to what was left; where a wallet pays, the estimate."""
        if self._attempt is not None and self._is_paid_by_wallet:
            return self._attempt.estimated_tokens
        return self._held("tokens")

    @property
    def credits(self) -> Money | None:
        """What is held of the wallet that pays; None where none does."""
        pins = self._attempt.hold.pins if self._attempt is not None else ()
        money = [pin for pin in pins if is_money(pin.unit)]
        return Money.from_nanos(sum(pin.amount for pin in money), money[0].unit) if money else None

    @property
    def expires_at(self) -> datetime | None:
        return from_micros(self._attempt.hold.expires_at) if self._attempt is not None else None

    @property
    def replayed(self) -> bool:
        """Whether the idempotency key was used before: nothing is held, and `settlement` is the first one."""
        return self._attempt is None

    @property
    def settlement(self) -> Settlement | None:
        """The settlement, once there is one."""
        return self._settlement

    @property
    def _is_paid_by_wallet(self) -> bool:
        claims = self._attempt.hold.claims if self._attempt is not None else ()
        return not any(claim.key.meter == "tokens" for claim in claims)

    def _held(self, meter: str) -> int:
        claims = self._attempt.hold.claims if self._attempt is not None else ()
        return sum(claim.amount for claim in claims if claim.key.meter == meter)

    def _settle(self, usage: object, keywords: Mapping[str, Any]) -> Flow[Settlement]:
        stated, response = self._read(usage, keywords)
        if self._settlement is not None:
            return self._repeat(self._settlement, stated)
        assert self._attempt is not None  # noqa: S101  # a hold has an attempt or a settlement
        if stated is None:
            return self._recorded(settle_or_estimate(self._engine, self._attempt, None, response=response))
        return self._recorded(settle(self._engine, self._attempt, stated, response=response))

    def _recorded(self, flow: Flow[Settlement]) -> Flow[Settlement]:
        settlement = yield from flow
        self._is_open = False
        if self._settlement is None:
            self._settlement = settlement
        return settlement

    def _repeat(self, first: Settlement, usage: ProviderUsage | None) -> Flow[Settlement]:
        yield from ()
        if usage is not None:
            require_same_usage(self._engine, self._context.idempotency_key or self.id or "", first, usage)
        return first.repeated()

    def _read(self, usage: object, keywords: Mapping[str, Any]) -> tuple[ProviderUsage | None, object]:
        """Return the usage that was given in any of its forms, and the response where it was one."""
        if usage is None:
            return (manual_usage(keywords) if keywords else self._context.manual_usage), None
        if keywords:
            raise InvalidInput("usage", sorted(keywords), "Give a usage or keywords, not both.")
        if isinstance(usage, ProviderUsage):
            return usage, None
        return self._engine.providers.extract(usage, self._context.provider, self._context.model or None), usage

    def _void(self) -> Flow[None]:
        if self._attempt is not None and self._is_open:
            # Where it ran out and was erased with its billable's usage, there is nothing left to give back.
            with suppress(NotFound):
                yield CloseHold(self._attempt.hold, self._engine.now())
            self._is_open = False


class Hold(_HoldState):
    """A hold that was placed. `with` voids it where it was not settled."""

    def settle(self, usage: object = None, /, **keywords: Any) -> Settlement:
        """Record what was used and give back the rest. A replay returns the first settlement.

        `usage` is a `ProviderUsage`, a provider's response (object or dict), or is left out for keywords
        (`input_tokens=450, output_tokens=900`). Without anything, the meter's manual usage, else the estimate counts.
        A hold that has expired is recorded all the same, flagged late.

        Raises:
            IdempotencyConflict: it was settled before with another usage.
            InvalidInput: for keywords that state no usage.
        """
        return run(self._settle(usage, keywords), self._engine.lane)

    def void(self) -> None:
        """Give back everything: the call did not happen. Voiding twice, or after it ended, changes nothing.

        Raises:
            HoldNotOpen: another process settled it.
        """
        run(self._void(), self._engine.lane)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.void()


class AsyncHold(_HoldState):
    """A hold that was placed, on asyncio. `async with` voids it where it was not settled."""

    async def settle(self, usage: object = None, /, **keywords: Any) -> Settlement:
        """Record what was used and give back the rest, as `Hold.settle`."""
        return await run_async(self._settle(usage, keywords), self._engine.lane)

    async def void(self) -> None:
        """Give back everything, as `Hold.void`."""
        await run_async(self._void(), self._engine.lane)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.void()
