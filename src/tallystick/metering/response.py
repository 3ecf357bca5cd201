"""What a metered call answers with: the provider's response, and what was metered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tallystick.credits.account import WalletStanding
from tallystick.errors import StreamNotFinished
from tallystick.limits.decision import LimitCheck, Standing, check, check_wallet
from tallystick.metering.usage_event import UsageEvent
from tallystick.money import Money
from tallystick.plans.terms import InForce, OverageBehavior
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from tallystick.metering.recording import Recorded

__all__ = ["MeteredResponse", "Settlement"]

Response = TypeVar("Response")


class Settlement:
    """What was recorded of one use, and how the billable stood to its limits right after it.

    A replay carries the first settlement again, with `replayed` set; its event and its numbers are the first ones.
    """

    __slots__ = (
        "_approaching_percentage",
        "_check",
        "_event",
        "in_force",
        "overage_amount",
        "replayed",
        "row",
        "standing",
        "wallet",
    )

    def __init__(
        self,
        row: tuple[object, ...],
        in_force: InForce,
        standing: Standing,
        *,
        approaching_percentage: int,
        overage_amount: int = 0,
        replayed: bool = False,
        wallet: WalletStanding | None = None,
    ) -> None:
        self.row = row
        self.in_force = in_force
        self.standing = standing
        self.overage_amount = overage_amount
        self.replayed = replayed
        self.wallet = wallet
        self._approaching_percentage = approaching_percentage
        self._event: UsageEvent | None = None
        self._check: LimitCheck | None = None

    @classmethod
    def recorded(cls, recorded: Recorded, *, approaching_percentage: int) -> Settlement:
        return cls(
            recorded.row,
            recorded.in_force,
            recorded.after,
            approaching_percentage=approaching_percentage,
            overage_amount=recorded.overage.amount if recorded.overage is not None else 0,
            wallet=recorded.wallet,
        )

    @classmethod
    def replay(
        cls,
        row: tuple[object, ...],
        outcome: str | None,
        current: tuple[InForce, Standing],
        *,
        approaching_percentage: int,
    ) -> Settlement:
        """Return the first settlement. Without a kept outcome (a hold settled twice) the limits are those of now."""
        in_force, standing = current
        overage_amount = 0
        wallet: WalletStanding | None = None
        if outcome is not None:
            kept: dict[str, Any] = json.loads(outcome)
            in_force, standing = _first_limits(kept, in_force), Standing(*kept["standing"])
            overage_amount = int(kept["overage_amount"])
            wallet = WalletStanding(*kept["wallet"]) if "wallet" in kept else None
        return cls(
            row,
            in_force,
            standing,
            approaching_percentage=approaching_percentage,
            overage_amount=overage_amount,
            replayed=True,
            wallet=wallet,
        )

    def repeated(self) -> Settlement:
        """Return the same settlement as the answer to a repetition."""
        return Settlement(
            self.row,
            self.in_force,
            self.standing,
            approaching_percentage=self._approaching_percentage,
            overage_amount=self.overage_amount,
            replayed=True,
            wallet=self.wallet,
        )

    def __repr__(self) -> str:
        event = self.event
        return f"Settlement({event.id}, {event.total_tokens} tokens, {event.cost})"

    @property
    def usage_event_id(self) -> str:
        return str(self.row[0])

    @property
    def event(self) -> UsageEvent:
        """The usage event as it was recorded."""
        if self._event is None:
            self._event = UsageEvent.from_row(self.row)
        return self._event

    @property
    def usage(self) -> ProviderUsage:
        """The tokens, with their costs; `usage.total_cost` is None while no price is known."""
        return self.event.usage

    @property
    def overage(self) -> Money | None:
        """What was charged for the part beyond a limit; None where nothing was."""
        return Money.from_nanos(self.overage_amount, self.in_force.currency) if self.overage_amount else None

    @property
    def wallet_balance(self) -> Money | None:
        """The balance of the wallet that paid, right after this use; None where no wallet did."""
        return None if self.wallet is None else Money.from_nanos(self.wallet.balance, self.wallet.currency)

    @property
    def limit_check(self) -> LimitCheck:
        """How the billable stood to its limits, or its wallet to its floor, right after this use."""
        if self._check is None and self.wallet is not None:
            self._check = check_wallet(self.event.billable, self.in_force, self.wallet)
        elif self._check is None:
            self._check = check(
                self.event.billable,
                self.in_force,
                self.standing,
                approaching_percentage=self._approaching_percentage,
            )
        return self._check

    @property
    def remaining_tokens(self) -> int | None:
        return self.limit_check.remaining_tokens

    @property
    def remaining_cost(self) -> Money | None:
        return self.limit_check.remaining_cost

    @property
    def usage_percentage(self) -> float:
        return self.limit_check.usage_percentage

    @property
    def is_approaching_limit(self) -> bool:
        return self.limit_check.approaching

    @property
    def is_limit_reached(self) -> bool:
        return self.limit_check.limit_reached


class MeteredResponse(Generic[Response]):
    """A provider's response with what was metered of it.

    For a stream, `response` is the stream to read, and the rest is known when it has been read to its end or closed;
    until then reading it raises `StreamNotFinished`. For a replay, `replayed` is true and the provider was not called:
    `response` is the first call's where this process still has it, otherwise None.
    """

    __slots__ = ("_settlement", "response")

    def __init__(self, response: Response, settlement: Settlement | None) -> None:
        self.response = response
        self._settlement = settlement

    def finish(self, settlement: Settlement) -> None:
        """Attach the settlement of a stream that has ended."""
        self._settlement = settlement

    @property
    def is_settled(self) -> bool:
        return self._settlement is not None

    @property
    def settlement(self) -> Settlement:
        if self._settlement is None:
            raise StreamNotFinished("The stream is still open: read it to its end, or close it, to know its usage.")
        return self._settlement

    @property
    def event(self) -> UsageEvent:
        return self.settlement.event

    @property
    def usage(self) -> ProviderUsage:
        return self.settlement.usage

    @property
    def usage_event_id(self) -> str:
        return self.settlement.usage_event_id

    @property
    def replayed(self) -> bool:
        return self.settlement.replayed

    @property
    def overage(self) -> Money | None:
        return self.settlement.overage

    @property
    def wallet_balance(self) -> Money | None:
        return self.settlement.wallet_balance

    @property
    def limit_check(self) -> LimitCheck:
        return self.settlement.limit_check

    @property
    def remaining_tokens(self) -> int | None:
        return self.settlement.remaining_tokens

    @property
    def remaining_cost(self) -> Money | None:
        return self.settlement.remaining_cost

    @property
    def usage_percentage(self) -> float:
        return self.settlement.usage_percentage

    @property
    def is_approaching_limit(self) -> bool:
        return self.settlement.is_approaching_limit

    @property
    def is_limit_reached(self) -> bool:
        return self.settlement.is_limit_reached

    def __repr__(self) -> str:
        if self._settlement is None:
            return "MeteredResponse(stream not finished)"
        event = self.event
        return f"MeteredResponse({event.id}, {event.total_tokens} tokens, {event.cost})"


def _first_limits(kept: dict[str, Any], in_force: InForce) -> InForce:
    """Return the limits that were in force at the first answer."""
    return replace(
        in_force,
        period=kept["period"],
        period_start=kept["period_start"],
        period_end=kept["period_end"],
        currency=kept["currency"],
        token_limit=kept["token_limit"],
        cost_limit=kept["cost_limit"],
        overage_behavior=OverageBehavior(kept["overage_behavior"]),
        plan=kept["plan"],
    )
