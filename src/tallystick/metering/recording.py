"""Recording one use: everything that belongs to it is decided first (`draft`), then written down at once (`record`).

A use is a fact: its event, its counters, the overage beyond a limit, what it takes of a wallet and of a feature, its
rollups, and the answer of its idempotency key are one transaction. `draft` only reads, and asks for the rows that are
missing; `record` changes everything, and asks for nothing.

These values are made several times a call. They are not frozen: a frozen dataclass takes three times as long to make.
Nobody changes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from tallystick.credits.account import WalletStanding, is_money
from tallystick.credits.charges import (
    FeatureCharge,
    WalletCharge,
    charge_feature,
    charge_wallet,
    exchange_for,
    feature_entries,
    paying_account,
    refund_wallet,
    taken_from,
    wallet_entries,
    wallet_standing,
    want_feature,
    want_wallet,
)
from tallystick.credits.posting import Posted, Purpose, TransactionFacts, account_of, post
from tallystick.errors import CurrencyMismatch
from tallystick.identity import new_id
from tallystick.limits.asking import (
    QuotaCount,
    RateTake,
    correct_rates,
    count,
    counts_of,
    take_rates,
    used_amounts,
    want_limits,
)
from tallystick.limits.decision import Overage, Standing, overage
from tallystick.limits.quota import COST, REQUESTS, TOKENS, Caller
from tallystick.metering.priced_use import PricedUse, charge_priced_use, priced_use, want_priced_use
from tallystick.money import CurrencyRates, round_half_even
from tallystick.plans.terms import BillingMode, InForce, PlanFeature, Terms
from tallystick.pricing.cost import Cost
from tallystick.quantity import MILLIONTHS
from tallystick.storage.workspace import Counter, HoldRow, KeyRow, Workspace

__all__ = [
    "Draft",
    "Recorded",
    "UsageFacts",
    "billing_mode",
    "draft",
    "in_force_at",
    "record",
    "standing",
    "transaction_of",
    "want_facts",
    "want_use",
]

_CREDITS = BillingMode.CREDITS.value
_NO_STANDING = Standing()


@dataclass(slots=True)
class UsageFacts:
    """What happened, complete before the lane sees it. Costs are (input, output, total) in nanos of `currency`.

    `quantity` is in millionths; instants are µs. `costs` is None where no price was known.
    """

    event_id: str
    billable: str
    user_id: str | None
    tenant_id: str | None
    provider: str
    model: str
    feature: str
    resource_type: str
    quantity: int
    input_tokens: int
    output_tokens: int
    usage: str | None
    costs: tuple[int, int, int] | None
    currency: str
    price: str | None
    flags: tuple[str, ...]
    metadata: str | None
    occurred_at: int
    recorded_at: int
    billing_mode: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    corrects_event_id: str | None = None
    prices_unpriced: bool = False
    key_id: str | None = None
    estimated_tokens: int | None = None

    @property
    def caller(self) -> Caller:
        """Whose use it is, as quotas and rate limits see it."""
        return Caller(self.user_id, self.feature, self.key_id)


@dataclass(slots=True)
class Draft:
    """What will be written of a use. `in_force` has no limits where a wallet pays: the wallet is the limit."""

    in_force: InForce
    mode: str
    costs: tuple[int, int, int] | None
    price: str | None
    flags: tuple[str, ...]
    wallet: WalletCharge | None
    feature: FeatureCharge | None
    quotas: list[QuotaCount]
    rates: list[RateTake]
    priced: list[PricedUse]


@dataclass(slots=True)
class Recorded:
    """A use was recorded: its row, how the account stands before and after it, and what it took of credits.

    `feature_left` is what is left of the feature it used, in millionths; None: unlimited, or it used none.
    """

    row: tuple[object, ...]
    in_force: InForce
    before: Standing
    after: Standing
    overage: Overage | None
    overage_id: str | None
    posted: Posted | None = None
    wallet: WalletStanding | None = None
    feature: FeatureCharge | None = None
    feature_left: int | None = None


def transaction_of(event_id: str) -> str:
    """Return the id of the transaction that a usage event has posted: it has the event's own digits."""
    return f"txn_{event_id.partition('_')[2]}"


def billing_mode(stated: str | None, in_force: InForce, hold: HoldRow | None = None) -> str:
    """Return from what a use is paid: as it was stated, else as subscribed. A hold that pins money has settled it."""
    if hold is not None and hold.pins and any(is_money(pin.unit) for pin in hold.pins):
        return _CREDITS
    return stated or in_force.mode


def in_force_at(workspace: Workspace, billable: str, at: int) -> InForce:
    return workspace.terms[billable].at(at)


class Use(Protocol):
    """What a use is asked for with, before it and after it."""

    billing_mode: str | None
    feature: str
    user_id: str | None
    resource_type: str

    @property
    def caller(self) -> Caller: ...


def want_use(workspace: Workspace, terms: Terms, at: int, use: Use) -> None:
    """Ask for everything that a use usually needs, so that a batch is loaded at once."""
    in_force = terms.at(at)
    if (use.billing_mode or in_force.mode) == _CREDITS:
        want_wallet(workspace, terms, in_force.currency, use.user_id, at)
    else:
        workspace.want_counter(in_force.tokens_counter)
        workspace.want_counter(in_force.cost_counter)
        if in_force.usage_prices:
            want_priced_use(workspace, terms.billable, in_force, use.resource_type)
    if in_force.features and use.feature:
        want_feature(workspace, terms, in_force.features.get(use.feature), at)
    if terms.has_quotas or terms.has_rate_limits:
        names = (use.resource_type, REQUESTS, TOKENS, COST)
        want_limits(workspace, terms, names, use.caller, at, currency=in_force.currency)


def want_facts(workspace: Workspace, facts: UsageFacts) -> None:
    """Ask for everything that recording a use usually needs."""
    want_use(workspace, workspace.terms[facts.billable], facts.occurred_at, facts)
    if facts.idempotency_key is not None:
        workspace.want_key(facts.billable, facts.idempotency_key)


def standing(workspace: Workspace, in_force: InForce) -> Standing:
    tokens, cost = workspace.counter(in_force.tokens_counter), workspace.counter(in_force.cost_counter)
    return Standing(tokens.used, tokens.held, cost.used, cost.held)


# -- before -----------------------------------------------------------------------------------------------------------


def draft(
    workspace: Workspace,
    facts: UsageFacts,
    rates: CurrencyRates,
    *,
    flags: tuple[str, ...] = (),
    hold: HoldRow | None = None,
    feature: PlanFeature | None = None,
    uses_credits: bool = True,
) -> Draft:
    """Decide everything that follows from a use. Nothing is changed; rows that are missing are asked for.

    `feature` is what is used where the plan in force does not list it.
    """
    in_force = in_force_at(workspace, facts.billable, facts.occurred_at)
    mode = billing_mode(facts.billing_mode, in_force, hold)
    costs, price, flags = _account_costs(facts, in_force, rates, (*facts.flags, *flags))
    wallet: WalletCharge | None = None
    used: FeatureCharge | None = None
    priced = priced_use(workspace, facts, in_force) if in_force.usage_prices and mode != _CREDITS else []
    if mode == _CREDITS:
        if costs is not None and costs[2]:
            wallet = _wallet_charge(workspace, facts, in_force, costs[2], rates, hold)
        if wallet is not None and wallet.overdraft > 0:
            flags = (*flags, "overdraft")
        in_force = replace(in_force, token_limit=None, cost_limit=None)
    if facts.feature and facts.corrects_event_id is None:
        listed = feature or in_force.features.get(facts.feature)
        if listed is not None and listed.is_consumable and facts.quantity:
            purpose = Purpose(facts.occurred_at, facts.feature, in_force.subscription_id)
            used = charge_feature(
                workspace,
                facts.billable,
                listed,
                facts.quantity,
                purpose,
                uses_credits=uses_credits,
                hold=hold,
                now=facts.recorded_at,
            )
            if used.goes_past(workspace):
                flags = (*flags, "past_limit")
    terms = workspace.terms[facts.billable]
    quotas: list[QuotaCount] = []
    if terms.has_quotas:
        quotas = _quota_counts(workspace, terms, facts, in_force.currency, costs[2] if costs is not None else 0)
    moved: list[RateTake] = []
    if terms.has_rate_limits and facts.estimated_tokens is not None:
        difference = (facts.input_tokens + facts.output_tokens - facts.estimated_tokens) * MILLIONTHS
        if difference:
            moved = correct_rates(workspace, terms, TOKENS, difference, facts.caller, facts.recorded_at)
    return Draft(in_force, mode, costs, price, flags, wallet, used, quotas, moved, priced)


def _quota_counts(workspace: Workspace, terms: Terms, facts: UsageFacts, currency: str, cost: int) -> list[QuotaCount]:
    amounts = used_amounts(
        resource_type=facts.resource_type,
        quantity=facts.quantity,
        tokens=facts.input_tokens + facts.output_tokens,
        cost=cost,
        is_call=bool(facts.provider) and facts.corrects_event_id is None,
    )
    return counts_of(workspace, terms, amounts, facts.caller, facts.occurred_at, currency=currency)


def _wallet_charge(
    workspace: Workspace, facts: UsageFacts, in_force: InForce, cost: int, rates: CurrencyRates, hold: HoldRow | None
) -> WalletCharge | None:
    if cost < 0 and facts.corrects_event_id is not None:
        return _wallet_refund(workspace, facts, in_force, cost, rates)
    account = paying_account(workspace, facts.billable, in_force.currency, facts.recorded_at, hold=hold)
    try:
        exchange = exchange_for(account, in_force.currency, rates)
    except CurrencyMismatch:
        # The use is a fact and has its cost: it is owed in the currency that it is known in.
        key = account.key._replace(unit=in_force.currency)
        account = account_of(workspace, key, facts.recorded_at)
        exchange = exchange_for(account, in_force.currency, rates)
    purpose = Purpose(facts.occurred_at, facts.feature, in_force.subscription_id)
    return charge_wallet(workspace, account, cost, exchange, purpose, hold=hold, member=facts.user_id)


def _wallet_refund(
    workspace: Workspace, facts: UsageFacts, in_force: InForce, cost: int, rates: CurrencyRates
) -> WalletCharge | None:
    original = transaction_of(facts.corrects_event_id or "")
    key = taken_from(workspace, original)
    if key is None:
        return None
    account = account_of(workspace, key, facts.recorded_at)
    exchange = exchange_for(account, in_force.currency, rates)
    charge = refund_wallet(workspace, account, original, cost, exchange, at=facts.occurred_at, member=facts.user_id)
    return charge if charge.amount else None


def _account_costs(
    facts: UsageFacts, in_force: InForce, rates: CurrencyRates, flags: tuple[str, ...]
) -> tuple[tuple[int, int, int] | None, str | None, tuple[str, ...]]:
    """Return costs in the account's currency, the price with the exchange rate used, and the flags.

    A missing exchange rate leaves the event unpriced, to be repriced once there is one: it happened, so it is recorded.
    """
    if facts.costs is None:
        return None, facts.price, (*flags, "unpriced")
    if facts.currency == in_force.currency or not any(facts.costs):
        return facts.costs, facts.price, flags
    try:
        rate = rates.rate(facts.currency, in_force.currency)
    except CurrencyMismatch:
        return None, facts.price, (*flags, "unpriced", "no_exchange_rate")
    if facts.price is None or facts.corrects_event_id is not None:
        # A correction is a difference of costs, which its price does not state.
        return _converted(facts.costs, Fraction(*rate.as_integer_ratio())), facts.price, flags
    cost = Cost.from_dict(json.loads(facts.price)).exchanged(in_force.currency, rate)
    costs = (cost.total_nanos - cost.output_nanos, cost.output_nanos, cost.total_nanos)
    return costs, json.dumps(cost.to_dict(), separators=(",", ":")), flags


# -- after ------------------------------------------------------------------------------------------------------------


def record(workspace: Workspace, facts: UsageFacts, drafted: Draft, *, hold_id: str | None) -> Recorded:
    """Write one use down, as it was drafted."""
    in_force, costs, flags = drafted.in_force, drafted.costs, drafted.flags
    tokens, cost = facts.input_tokens + facts.output_tokens, costs[2] if costs is not None else 0
    before = after = _NO_STANDING
    over: Overage | None = None
    if drafted.mode != _CREDITS:
        tokens_counter = workspace.counter(in_force.tokens_counter)
        cost_counter = workspace.counter(in_force.cost_counter)
        before = Standing(tokens_counter.used, tokens_counter.held, cost_counter.used, cost_counter.held)
        over = overage(in_force, before, tokens=tokens, cost=cost)
        if over is not None:
            flags = (*flags, "overage" if over.amount else "past_limit")
        after = _count(tokens_counter, cost_counter, tokens, cost)
    if drafted.priced:
        charge_priced_use(workspace, facts, in_force, drafted.priced)
    if drafted.quotas:
        count(workspace, drafted.quotas, currency=in_force.currency, at=facts.recorded_at)
    take_rates(workspace, drafted.rates)
    row = _event_row(facts, drafted, flags=flags, hold_id=hold_id)
    workspace.events.append(row)
    _add_to_rollups(workspace, facts, in_force.currency, tokens, costs)
    overage_id = None
    if over is not None and over.amount:
        overage_id = new_id("ovg")
        workspace.overages.append(_overage_row(overage_id, facts, in_force, over))
    recorded = Recorded(row, in_force, before, after, over, overage_id, feature=drafted.feature)
    if drafted.wallet is not None or drafted.feature is not None:
        recorded.posted = _post_charges(workspace, facts, drafted, hold_id)
    if drafted.wallet is not None:
        recorded.wallet = wallet_standing(workspace, drafted.wallet.account)
    if drafted.feature is not None:
        recorded.feature_left = drafted.feature.left(workspace, facts.occurred_at)
    if facts.idempotency_key is not None:
        _answer_key(workspace, facts, recorded, hold_id=hold_id)
    return recorded


def _post_charges(workspace: Workspace, facts: UsageFacts, drafted: Draft, hold_id: str | None) -> Posted | None:
    """Post what a use took of its wallet and of its feature, as one transaction."""
    transaction = TransactionFacts(
        transaction_of(facts.event_id),
        "usage",
        "usage",
        facts.occurred_at,
        facts.recorded_at,
        event_id=facts.event_id,
        hold_id=hold_id,
        reverses_id=transaction_of(facts.corrects_event_id) if facts.corrects_event_id is not None else None,
        user_id=facts.user_id,
        feature=facts.feature or None,
    )
    entries = []
    if drafted.wallet is not None:
        entries += wallet_entries(workspace, drafted.wallet, transaction)
    if drafted.feature is not None:
        entries += feature_entries(workspace, drafted.feature, facts.event_id)
    return post(workspace, transaction, entries) if entries else None


def _converted(costs: tuple[int, int, int], rate: Fraction) -> tuple[int, int, int]:
    """Convert (input, output, total). Total and output are rounded, once; the input is what remains."""
    total = round_half_even(costs[2] * rate.numerator, rate.denominator)
    output = round_half_even(costs[1] * rate.numerator, rate.denominator)
    return total - output, output, total


def _count(tokens_counter: Counter, cost_counter: Counter, tokens: int, cost: int) -> Standing:
    tokens_counter.used += tokens
    cost_counter.used += cost
    return Standing(tokens_counter.used, tokens_counter.held, cost_counter.used, cost_counter.held)


def _event_row(facts: UsageFacts, drafted: Draft, *, flags: tuple[str, ...], hold_id: str | None) -> tuple[object, ...]:
    in_force, costs = drafted.in_force, drafted.costs
    return (
        facts.event_id,
        facts.billable,
        facts.user_id,
        facts.tenant_id,
        facts.provider,
        facts.model,
        facts.feature,
        facts.resource_type,
        facts.quantity,
        facts.input_tokens,
        facts.output_tokens,
        facts.input_tokens + facts.output_tokens,
        facts.usage,
        *(costs if costs is not None else (None, None, None)),
        in_force.currency,
        drafted.price,
        drafted.mode,
        in_force.period,
        in_force.period_start,
        in_force.subscription_id,
        in_force.plan_version_id,
        hold_id,
        facts.idempotency_key,
        facts.corrects_event_id,
        facts.key_id,
        " ".join(flags),
        facts.metadata,
        facts.occurred_at,
        facts.recorded_at,
    )


def _add_to_rollups(
    workspace: Workspace, facts: UsageFacts, currency: str, tokens: int, costs: tuple[int, int, int] | None
) -> None:
    names = (facts.provider, facts.model, facts.feature, facts.resource_type, currency)
    is_correction = facts.corrects_event_id is not None
    unpriced = -1 if facts.prices_unpriced else int(costs is None)
    terms = workspace.terms[facts.billable]
    workspace.add_to_rollups(
        (facts.billable, terms.calendar("hourly", facts.occurred_at)[0], *names),
        (facts.billable, terms.calendar("daily", facts.occurred_at)[0], *names),
        (
            0 if is_correction else 1,
            unpriced,
            facts.quantity,
            facts.input_tokens,
            facts.output_tokens,
            tokens,
            costs[2] if costs is not None else 0,
        ),
    )


def _overage_row(overage_id: str, facts: UsageFacts, in_force: InForce, over: Overage) -> tuple[object, ...]:
    price = in_force.overage_price_per_1k_tokens
    return (
        overage_id,
        facts.billable,
        facts.event_id,
        in_force.subscription_id,
        in_force.plan_version_id,
        over.limit_type,
        over.tokens,
        over.amount,
        in_force.currency,
        str(price) if price is not None else None,
        in_force.period,
        in_force.period_start,
        in_force.period_end,
        facts.occurred_at,
        facts.recorded_at,
        False,
    )


def _answer_key(workspace: Workspace, facts: UsageFacts, recorded: Recorded, *, hold_id: str | None) -> None:
    """Keep the first answer with the key, so that a replay gives it and not today's numbers."""
    key, in_force, after = facts.idempotency_key or "", recorded.in_force, recorded.after
    kept: dict[str, object] = {
        "period": in_force.period,
        "period_start": in_force.period_start,
        "period_end": in_force.period_end,
        "currency": in_force.currency,
        "overage_amount": recorded.overage.amount if recorded.overage is not None else 0,
        "token_limit": in_force.token_limit,
        "cost_limit": in_force.cost_limit,
        "overage_behavior": in_force.overage_behavior.value,
        "plan": in_force.plan,
        "standing": [after.tokens_used, after.tokens_held, after.cost_used, after.cost_held],
    }
    if recorded.wallet is not None:
        kept["wallet"] = recorded.wallet
    if recorded.feature is not None:
        kept["feature"] = {
            "from_plan": recorded.feature.from_plan,
            "from_credits": recorded.feature.from_credits,
            "left": recorded.feature_left,
        }
    outcome = json.dumps(kept, separators=(",", ":"))
    row = KeyRow(facts.fingerprint or "", hold_id, facts.event_id, outcome)
    claimed = workspace.keys[facts.billable, key]
    # Otherwise this hold ran out and the key was given to another call: its answer stands, this use is recorded too.
    if claimed is None or claimed.hold_id == hold_id:
        workspace.set_key(facts.billable, key, row, at=facts.recorded_at)
