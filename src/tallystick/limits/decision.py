"""Deciding, as pure functions over integers: may a call be held, what went beyond a limit, how close is it now.

Tokens are whole numbers, costs are nanos of the account's currency. `used` is what was settled, `held` what calls in
flight have reserved; `limit - used - held` is what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from tallystick.money import NANOS, Money, round_half_even
from tallystick.period import MAX_MICROS, from_micros
from tallystick.plans.terms import InForce, OverageBehavior

if TYPE_CHECKING:
    from tallystick.credits.account import WalletStanding

__all__ = ["Admission", "LimitCheck", "Overage", "Refusal", "Standing", "admit", "check", "check_wallet", "overage"]


class Standing(NamedTuple):
    """Used and held amounts of the period, of tokens and of cost."""

    tokens_used: int = 0
    tokens_held: int = 0
    cost_used: int = 0
    cost_held: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The limit that had no room, in the limit's own unit."""

    limit_type: str
    limit: int
    used: int
    held: int
    requested: int


class Admission(NamedTuple):
    """What a hold takes of each limit, or the refusal. It takes from all limits or from none."""

    tokens: int
    cost: int
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Overage:
    """The part of one use that lies beyond a limit: tokens, or cost in nanos, and what is charged for it in nanos."""

    tokens: int
    cost: int
    limit_type: str
    amount: int


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """How a billable stands to its limits. Asking changes nothing, and the answer may be old when it is read.

    `remaining_tokens` and `remaining_cost` are what a new hold could take (less what calls in flight hold); None means
    unlimited. `usage_percentage` is the fuller of the two limits, by what was used; 0.0 without a limit. `allowed` is
    whether the amounts asked about would be admitted now; `reason` says why not.
    """

    billable: str
    allowed: bool
    approaching: bool
    limit_reached: bool
    hard_limit_reached: bool
    remaining_tokens: int | None
    remaining_cost: Money | None
    usage_percentage: float
    reason: str | None
    token_limit: int | None
    tokens_used: int
    tokens_held: int
    cost_limit: Money | None
    cost_used: Money
    cost_held: Money
    plan: str | None
    period_start: datetime | None
    resets_at: datetime | None


def admit(
    in_force: InForce, standing: Standing, *, tokens: int, tokens_explicit: bool, cost: int, cost_explicit: bool
) -> Admission:
    """Decide a hold. An explicit amount fits whole or is refused; an implicit one shrinks to what is left, at least 1.

    Limits that charge or allow what goes beyond them refuse nothing.
    """
    if not in_force.is_hard:
        return Admission(tokens, cost)
    if in_force.token_limit is not None:
        fitted = _fit(in_force.token_limit - standing.tokens_used - standing.tokens_held, tokens, tokens_explicit)
        if fitted is None:
            refusal = Refusal("tokens", in_force.token_limit, standing.tokens_used, standing.tokens_held, tokens)
            return Admission(0, 0, refusal)
        tokens = fitted
    if in_force.cost_limit is not None:
        fitted = _fit(in_force.cost_limit - standing.cost_used - standing.cost_held, cost, cost_explicit)
        if fitted is None:
            refusal = Refusal("cost", in_force.cost_limit, standing.cost_used, standing.cost_held, cost)
            return Admission(0, 0, refusal)
        cost = fitted
    return Admission(tokens, cost)


def _fit(left: int, wanted: int, explicit: bool) -> int | None:
    # What asks nothing of a limit (a free model of a cost limit) fits, however full it is.
    if wanted <= max(left, 0):
        return wanted
    if explicit or left < 1:
        return None
    return left


def overage(in_force: InForce, standing: Standing, *, tokens: int, cost: int) -> Overage | None:
    """Find the part of one use that lies beyond a limit, given what was used before it. None where nothing does.

    Only the part beyond counts, so a call that straddles the limit pays for exactly its excess, and how use was cut
    into calls does not matter. Under `charge`, tokens beyond the token limit cost the plan's overage price per 1,000;
    a plan without that price charges the cost beyond its cost limit, with the plan's markup. The amount is rounded
    once, half-even. A negative use (a correction) gives back what the corrected use was charged.
    """
    tokens_over = _beyond(in_force.token_limit, standing.tokens_used, tokens)
    cost_over = _beyond(in_force.cost_limit, standing.cost_used, cost)
    if not tokens_over and not cost_over:
        return None
    price = in_force.overage_price_per_1k_tokens
    is_charged = in_force.overage_behavior is OverageBehavior.CHARGE
    if price is not None and in_force.token_limit is not None:
        amount = token_overage_amount(tokens_over, price) if is_charged else 0
        return Overage(tokens_over, cost_over, "tokens" if tokens_over else "cost", amount)
    amount = cost_overage_amount(cost_over, in_force.overage_markup_percent) if is_charged else 0
    return Overage(tokens_over, cost_over, "cost" if cost_over else "tokens", amount)


def cost_overage_amount(cost: int, markup_percent: Decimal | None) -> int:
    """Return a cost with a markup in percent, in nanos, rounded once, half-even."""
    if not markup_percent:
        return cost
    numerator, denominator = markup_percent.as_integer_ratio()
    return round_half_even(cost * (100 * denominator + numerator), 100 * denominator)


def token_overage_amount(tokens: int, price_per_1k_tokens: Decimal) -> int:
    """Return tokens at a price per 1,000, in nanos: multiplied, divided and rounded once, half-even."""
    numerator, denominator = price_per_1k_tokens.as_integer_ratio()
    return round_half_even(tokens * numerator * NANOS, denominator * 1000)


def _beyond(limit: int | None, used_before: int, used: int) -> int:
    if limit is None:
        return 0
    return max(0, used_before + used - limit) - max(0, used_before - limit)


def check(
    billable: str,
    in_force: InForce,
    standing: Standing,
    *,
    approaching_percentage: int,
    tokens: int = 0,
    cost: int = 0,
    is_enforced: bool = True,
    reason: str | None = None,
) -> LimitCheck:
    """Say how a billable stands, and whether these amounts would be admitted."""
    currency = in_force.currency
    remaining_tokens = _left(in_force.token_limit, standing.tokens_used + standing.tokens_held)
    remaining_cost = _left(in_force.cost_limit, standing.cost_used + standing.cost_held)
    percentage = max(
        _percentage(in_force.token_limit, standing.tokens_used), _percentage(in_force.cost_limit, standing.cost_used)
    )
    reached = _is_reached(in_force.token_limit, standing.tokens_used) or _is_reached(
        in_force.cost_limit, standing.cost_used
    )
    if reason is None:
        admission = admit(
            in_force, standing, tokens=max(tokens, 1), tokens_explicit=True, cost=max(cost, 1), cost_explicit=True
        )
        refusal = admission.refusal
        reason = refusal_message(billable, in_force, refusal) if refusal is not None else None
    return LimitCheck(
        billable=billable,
        allowed=reason is None or not is_enforced,
        approaching=percentage >= approaching_percentage,
        limit_reached=reached,
        hard_limit_reached=reached and in_force.is_hard,
        remaining_tokens=remaining_tokens,
        remaining_cost=None if remaining_cost is None else Money.from_nanos(remaining_cost, currency),
        usage_percentage=percentage,
        reason=reason,
        token_limit=in_force.token_limit,
        tokens_used=standing.tokens_used,
        tokens_held=standing.tokens_held,
        cost_limit=None if in_force.cost_limit is None else Money.from_nanos(in_force.cost_limit, currency),
        cost_used=Money.from_nanos(standing.cost_used, currency),
        cost_held=Money.from_nanos(standing.cost_held, currency),
        plan=in_force.plan,
        period_start=from_micros(in_force.period_start) if in_force.period_end < MAX_MICROS else None,
        resets_at=resets_at(in_force),
    )


def check_wallet(
    billable: str,
    in_force: InForce,
    wallet: WalletStanding,
    *,
    cost: int = 0,
    reason: str | None = None,
    is_enforced: bool = True,
) -> LimitCheck:
    """Say how the wallet that pays stands: its floor is the limit. `remaining_cost` is what a new hold could take.

    `cost` is what is asked about, in nanos of the wallet's currency.
    """
    left = None if wallet.room is None else max(0, wallet.available + wallet.room)
    is_reached = left is not None and left <= 0
    is_short = left is not None and left < max(cost, 1)
    if reason is None and is_short:
        has, needed = (Money.from_nanos(nanos, wallet.currency) for nanos in (wallet.available, max(cost, 1)))
        reason = f"Wallet {billable} has {has} available; {needed} needed. Top up."
    return LimitCheck(
        billable=billable,
        allowed=reason is None or not is_enforced,
        approaching=is_reached,
        limit_reached=is_reached,
        hard_limit_reached=is_reached,
        remaining_tokens=None,
        remaining_cost=None if left is None else Money.from_nanos(left, wallet.currency),
        usage_percentage=100.0 if is_reached else 0.0,
        reason=reason,
        token_limit=None,
        tokens_used=0,
        tokens_held=0,
        cost_limit=None,
        cost_used=Money.from_nanos(0, wallet.currency),
        cost_held=Money.from_nanos(0, wallet.currency),
        plan=in_force.plan,
        period_start=from_micros(in_force.period_start) if in_force.period_end < MAX_MICROS else None,
        resets_at=None,
    )


def resets_at(in_force: InForce) -> datetime | None:
    """Return when the period's counters start again from zero; None where they never do."""
    return from_micros(in_force.period_end) if in_force.period_end < MAX_MICROS else None


def refusal_message(billable: str, in_force: InForce, refusal: Refusal) -> str:
    """Say fact, numbers and remedy of a refused hold."""
    amounts = (
        refusal.limit,
        refusal.used,
        refusal.held,
        max(0, refusal.limit - refusal.used - refusal.held),
        refusal.requested,
    )
    if refusal.limit_type == "cost":
        limit, used, held, left, requested = (str(Money.from_nanos(amount, in_force.currency)) for amount in amounts)
        unit = ""
    else:
        limit, used, held, left, requested = (f"{amount:,}" for amount in amounts)
        unit = " tokens"
    source = f"plan {in_force.plan}" if in_force.plan else "limit override"
    resets = resets_at(in_force)
    until = f" or wait until {resets:%Y-%m-%d %H:%M} UTC" if resets is not None else ""
    return (
        f"{billable} has {left}{unit} left of {limit} ({used} used, {held} held; {source}); {requested}{unit} needed. "
        f"Raise the limit, lower the estimate,{until}."
    ).replace(",.", ".")


def _left(limit: int | None, taken: int) -> int | None:
    return None if limit is None else max(0, limit - taken)


def _percentage(limit: int | None, used: int) -> float:
    if limit is None:
        return 0.0
    if limit == 0:
        return 100.0
    return 100 * used / limit


def _is_reached(limit: int | None, used: int) -> bool:
    return limit is not None and used >= limit
