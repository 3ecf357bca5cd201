"""The commands of metering: place a hold, settle it, void it, record use. Each decides over the lane's workspace.

Deciding is left to the pure functions of `tallystick.limits`; a command gathers what they need and writes down what
follows. Everything that belongs to one use (event, counters, rollups, overage, key) is written by one command.

Commands and their answers are made several times a call. They are not frozen: a frozen dataclass takes three times as
long to make. Nobody changes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tallystick.errors import (
    CurrencyMismatch,
    HoldNotOpen,
    IdempotencyConflict,
    LimitExceeded,
    NotFound,
    SubscriptionRequired,
    UnknownPrice,
)
from tallystick.identity import new_id
from tallystick.limits.counters import Claim
from tallystick.limits.decision import Admission, Overage, Refusal, Standing, admit, overage, refusal_message, resets_at
from tallystick.money import CurrencyRates, Money, ceil_div, round_half_even
from tallystick.plans.terms import InForce, Terms
from tallystick.pricing.cost import Cost
from tallystick.storage.database import claims_text
from tallystick.storage.workspace import Counter, HoldRow, KeyRow, MoreNeeded, Workspace

__all__ = [
    "CloseHold",
    "InProgress",
    "PlaceHold",
    "Placed",
    "RecordUsage",
    "Recorded",
    "Replayed",
    "SettleHold",
    "UsageFacts",
    "Voided",
]


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
    hour_start: int
    day_start: int
    billing_mode: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    corrects_event_id: str | None = None
    prices_unpriced: bool = False


@dataclass(slots=True)
class Placed:
    """A hold was placed. `would_refuse` is the refusal that shadow mode did not carry out."""

    hold: HoldRow
    in_force: InForce
    would_refuse: str | None


@dataclass(slots=True)
class Replayed:
    """The idempotency key, or the hold, already has its event: nothing was recorded again."""

    event_id: str
    outcome: str | None


@dataclass(slots=True)
class InProgress:
    """The idempotency key belongs to a call in flight."""

    hold_id: str


@dataclass(slots=True)
class Recorded:
    """A use was recorded: its row, and how the account stands before and after it."""

    row: tuple[object, ...]
    in_force: InForce
    before: Standing
    after: Standing
    overage: Overage | None
    overage_id: str | None


@dataclass(slots=True)
class Voided:
    """A hold was closed without use."""

    hold_id: str


@dataclass(slots=True)
class PlaceHold:
    """Reserve an estimate against every limit of the billable, or nothing.

    `cost` is the estimate in nanos of `cost_currency`, None where no price is known.
    """

    hold_id: str
    billable: str
    at: int
    expires_at: int
    tokens: int
    tokens_explicit: bool
    cost: int | None
    cost_currency: str
    cost_explicit: bool
    provider: str
    model: str
    feature: str
    user_id: str | None
    tenant_id: str | None
    rates: CurrencyRates
    is_enforced: bool = True
    is_shadow: bool = False
    subscription_required: bool = False
    refuses_unpriced: bool = True
    idempotency_key: str | None = None
    fingerprint: str | None = None

    def needs(self, workspace: Workspace) -> None:
        in_force = workspace.terms[self.billable].at(self.at)
        _want_counters(workspace, in_force)
        if self.idempotency_key is not None:
            workspace.want_key(self.billable, self.idempotency_key)

    def decide(self, workspace: Workspace) -> Placed | Replayed | InProgress:
        if self.idempotency_key is not None:
            earlier = _earlier_use(workspace, self.billable, self.idempotency_key, self.fingerprint, self.at)
            if earlier is not None:
                return earlier
        in_force = workspace.terms[self.billable].at(self.at)
        if self.is_enforced:
            self._check_terms(in_force)
        cost = self._cost_in(in_force)
        admission = self._admitted(in_force, _standing(workspace, in_force), cost)
        if admission.refusal is not None and self._lapsed_give_way(workspace):
            admission = self._admitted(in_force, _standing(workspace, in_force), cost)
        would_refuse: str | None = None
        if admission.refusal is not None:
            if self.is_enforced:
                raise _limit_exceeded(self.billable, in_force, admission.refusal)
            would_refuse = refusal_message(self.billable, in_force, admission.refusal)
            admission = Admission(self.tokens, cost)
        hold = self._hold(in_force, admission)
        workspace.place_hold(hold, self._row(hold))
        if self.idempotency_key is not None:
            claimed = KeyRow(self.fingerprint or "", hold.id, None, None)
            workspace.set_key(self.billable, self.idempotency_key, claimed, at=self.at)
        return Placed(hold, in_force, would_refuse if self.is_shadow else None)

    def _check_terms(self, in_force: InForce) -> None:
        if self.subscription_required and in_force.subscription_id is None:
            raise SubscriptionRequired(self.billable)
        if self.cost is None and in_force.cost_limit is not None and self.refuses_unpriced:
            # Without a price the cost limit cannot be kept.
            raise UnknownPrice(self.provider, self.model or None)

    def _admitted(self, in_force: InForce, standing: Standing, cost: int) -> Admission:
        return admit(
            in_force,
            standing,
            tokens=self.tokens,
            tokens_explicit=self.tokens_explicit,
            cost=cost,
            cost_explicit=self.cost_explicit,
        )

    def _cost_in(self, in_force: InForce) -> int:
        """Return the cost estimate in the account's currency, rounded up; 0 where none can be made or is needed."""
        if self.cost is None:
            return 0
        try:
            return _converted_up(self.cost, self.cost_currency, in_force.currency, self.rates)
        except CurrencyMismatch:
            if self.refuses_unpriced and self.is_enforced:
                raise
            return 0

    def _lapsed_give_way(self, workspace: Workspace) -> bool:
        """Expire this billable's lapsed holds: one that ran out must not refuse a new call. Says whether any did."""
        if self.billable not in workspace.lapsed:
            workspace.want_lapsed(self.billable, self.at)
            raise MoreNeeded
        lapsed = [hold for hold in workspace.lapsed[self.billable] if hold.status == "open"]
        for hold in lapsed:
            _require_counters(workspace, hold)
        for hold in lapsed:
            _expire(workspace, hold, self.at)
        return bool(lapsed)

    def _hold(self, in_force: InForce, admission: Admission) -> HoldRow:
        claims: tuple[Claim, ...] = (Claim(in_force.tokens_counter, admission.tokens),)
        if in_force.cost_limit is not None and admission.cost:
            claims += (Claim(in_force.cost_counter, admission.cost),)
        return HoldRow(
            id=self.hold_id,
            billable=self.billable,
            status="open",
            claims=claims,
            expires_at=self.expires_at,
            idempotency_key=self.idempotency_key,
        )

    def _row(self, hold: HoldRow) -> tuple[object, ...]:
        return (
            hold.id,
            hold.billable,
            "open",
            claims_text(hold.claims),
            self.provider,
            self.model,
            self.feature,
            self.user_id,
            self.tenant_id,
            self.idempotency_key,
            None,
            self.at,
            self.expires_at,
            None,
        )


@dataclass(slots=True)
class SettleHold:
    """Record what a call used and let go of what it held. After the hold ran out or was voided it is recorded too."""

    hold: HoldRow
    facts: UsageFacts
    rates: CurrencyRates
    # What was decided last. Where the answer to it was lost, and a repetition finds it recorded, this is the answer.
    decided: Recorded | None = field(default=None, init=False, compare=False)

    @property
    def billable(self) -> str:
        return self.hold.billable

    def needs(self, workspace: Workspace) -> None:
        workspace.want_hold(self.hold.id)
        for claim in self.hold.claims:
            workspace.want_counter(claim.key)
        if self.facts.idempotency_key is not None:
            workspace.want_key(self.hold.billable, self.facts.idempotency_key)
        in_force = workspace.terms[self.hold.billable].at(self.facts.occurred_at)
        _want_counters(workspace, in_force)

    def decide(self, workspace: Workspace) -> Recorded | Replayed:
        hold = workspace.holds.get(self.hold.id)
        if hold is None:
            # Its row was erased meanwhile; the use is a fact. The row comes back, so that it is recorded once.
            self._put_back(workspace)
            self.decided = _record(workspace, self.facts, self.rates, hold_id=self.hold.id, flags=("late",))
            return self.decided
        if hold.status == "settled" and hold.event_id is not None:
            return Replayed(hold.event_id, None)
        flags: tuple[str, ...] = ()
        if hold.status == "open":
            _require_counters(workspace, hold)
        else:
            # Its amounts were already given back; the use is recorded all the same, and once.
            flags = ("late",)
        workspace.close_hold(hold, status="settled", at=self.facts.recorded_at, event_id=self.facts.event_id)
        self.decided = _record(workspace, self.facts, self.rates, hold_id=hold.id, flags=flags)
        return self.decided

    def _put_back(self, workspace: Workspace) -> None:
        hold, facts = self.hold, self.facts
        workspace.holds[hold.id] = replace(hold, status="settled", event_id=facts.event_id)
        workspace.new_holds.append(
            (
                hold.id,
                hold.billable,
                "settled",
                claims_text(hold.claims),
                facts.provider,
                facts.model,
                facts.feature,
                facts.user_id,
                facts.tenant_id,
                hold.idempotency_key,
                facts.event_id,
                facts.occurred_at,
                hold.expires_at,
                facts.recorded_at,
            )
        )


@dataclass(slots=True)
class CloseHold:
    """Give back what a hold reserved, without use: `voided` by its caller, or `expired` when its time ran out."""

    hold: HoldRow
    at: int
    status: str = "voided"

    @property
    def billable(self) -> str:
        return self.hold.billable

    def needs(self, workspace: Workspace) -> None:
        workspace.want_hold(self.hold.id)
        for claim in self.hold.claims:
            workspace.want_counter(claim.key)

    def decide(self, workspace: Workspace) -> Voided | None:
        """Close the hold. Returns None where it was closed in this way before, or is not yet due to expire."""
        hold = workspace.holds.get(self.hold.id)
        if hold is None:
            raise NotFound("hold", self.hold.id)
        if self.status == "expired":
            if hold.status != "open" or hold.expires_at > self.at:
                return None
            _require_counters(workspace, hold)
            _expire(workspace, hold, self.at)
            return Voided(hold.id)
        if hold.status == "settled":
            raise HoldNotOpen(hold.id, hold.status)
        if hold.status != "open":
            return None
        _require_counters(workspace, hold)
        workspace.close_hold(hold, status="voided", at=self.at)
        workspace.free_key(hold)
        return Voided(hold.id)


@dataclass(slots=True)
class RecordUsage:
    """Record use that needs no permission: it happened."""

    facts: UsageFacts
    rates: CurrencyRates

    @property
    def billable(self) -> str:
        return self.facts.billable

    def needs(self, workspace: Workspace) -> None:
        facts = self.facts
        _want_counters(workspace, workspace.terms[facts.billable].at(facts.occurred_at))
        if facts.idempotency_key is not None:
            workspace.want_key(facts.billable, facts.idempotency_key)

    def decide(self, workspace: Workspace) -> Recorded | Replayed | InProgress:
        facts = self.facts
        if facts.idempotency_key is not None:
            earlier = _earlier_use(
                workspace, facts.billable, facts.idempotency_key, facts.fingerprint, facts.recorded_at
            )
            if earlier is not None:
                return earlier
        return _record(workspace, facts, self.rates, hold_id=None, flags=())


# -- shared by the commands -------------------------------------------------------------------------------------------


def _want_counters(workspace: Workspace, in_force: InForce) -> None:
    workspace.want_counter(in_force.tokens_counter)
    workspace.want_counter(in_force.cost_counter)


def _standing(workspace: Workspace, in_force: InForce) -> Standing:
    tokens, cost = workspace.counter(in_force.tokens_counter), workspace.counter(in_force.cost_counter)
    return Standing(tokens.used, tokens.held, cost.used, cost.held)


def _require_counters(workspace: Workspace, hold: HoldRow) -> None:
    """Make sure that what the hold claims of is loaded; the caller of a command may not have known its claims."""
    missing = [claim.key for claim in hold.claims if claim.key not in workspace.counters]
    if missing:
        for key in missing:
            workspace.want_counter(key)
        raise MoreNeeded


def _earlier_use(
    workspace: Workspace, billable: str, key: str, fingerprint: str | None, at: int
) -> Replayed | InProgress | None:
    """Return what the key stands for already; None where it is free, or its holder's time ran out."""
    row = workspace.keys[billable, key]
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise _idempotency_conflict(key, row.fingerprint, fingerprint or "{}")
    if row.event_id is not None:
        return Replayed(row.event_id, row.outcome)
    hold_id = row.hold_id or ""
    hold = workspace.holds.get(hold_id)
    if hold is None and hold_id in workspace.absent_holds:
        # It was erased, and what it held with it.
        return None
    if hold is None:
        workspace.want_hold(hold_id)
        raise MoreNeeded
    if hold.status == "open" and hold.expires_at > at:
        return InProgress(hold_id)
    if hold.status == "open":
        _require_counters(workspace, hold)
        _expire(workspace, hold, at)
    return None


def _idempotency_conflict(key: str, first: str, second: str) -> IdempotencyConflict:
    before, now = json.loads(first or "{}"), json.loads(second)
    fields = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    field = fields[0] if fields else "input"
    return IdempotencyConflict(key, field, before.get(field), now.get(field))


def _expire(workspace: Workspace, hold: HoldRow, at: int) -> None:
    workspace.close_hold(hold, status="expired", at=at)
    workspace.expired.append(hold)
    workspace.free_key(hold)


def _limit_exceeded(billable: str, in_force: InForce, refusal: Refusal) -> LimitExceeded:
    amounts: list[int | Money] = [refusal.limit, refusal.used, refusal.held, refusal.requested]
    if refusal.limit_type == "cost":
        amounts = [Money.from_nanos(int(amount), in_force.currency) for amount in amounts]  # type: ignore[arg-type]  # all integers until here
    limit, used, held, requested = amounts
    return LimitExceeded(
        refusal_message(billable, in_force, refusal),
        billable=billable,
        limit_type=refusal.limit_type,
        limit=limit,
        used=used,
        held=held,
        requested=requested,
        resets_at=resets_at(in_force),
    )


def _converted_up(nanos: int, source: str, target: str, rates: CurrencyRates) -> int:
    if source == target or not nanos:
        return nanos
    numerator, denominator = rates.rate(source, target).as_integer_ratio()
    return ceil_div(nanos * numerator, denominator)


def _converted(costs: tuple[int, int, int], rate: Fraction) -> tuple[int, int, int]:
    """Convert (input, output, total). Total and output are rounded, once; the input is what remains."""
    total = round_half_even(costs[2] * rate.numerator, rate.denominator)
    output = round_half_even(costs[1] * rate.numerator, rate.denominator)
    return total - output, output, total


def _record(
    workspace: Workspace, facts: UsageFacts, rates: CurrencyRates, *, hold_id: str | None, flags: tuple[str, ...]
) -> Recorded:
    """Write one use down: event, counters, rollups, overage, and the answer of its key."""
    terms: Terms = workspace.terms[facts.billable]
    in_force = terms.at(facts.occurred_at)
    costs, price, flags = _account_costs(facts, in_force, rates, (*facts.flags, *flags))
    tokens_counter = workspace.counter(in_force.tokens_counter)
    cost_counter = workspace.counter(in_force.cost_counter)
    before = Standing(tokens_counter.used, tokens_counter.held, cost_counter.used, cost_counter.held)
    tokens, cost = facts.input_tokens + facts.output_tokens, costs[2] if costs is not None else 0
    over = overage(in_force, before, tokens=tokens, cost=cost)
    if over is not None:
        flags = (*flags, "overage" if over.amount else "past_limit")
    row = _event_row(facts, in_force, costs, price=price, flags=flags, hold_id=hold_id)

    after = _count(tokens_counter, cost_counter, tokens, cost)
    workspace.events.append(row)
    _add_to_rollups(workspace, facts, in_force.currency, tokens, costs)
    overage_id = None
    if over is not None and over.amount:
        overage_id = new_id("ovg")
        workspace.overages.append(_overage_row(overage_id, facts, in_force, over))
    if facts.idempotency_key is not None:
        amount = over.amount if over is not None else 0
        _answer_key(workspace, facts, in_force, after, hold_id=hold_id, overage_amount=amount)
    return Recorded(row, in_force, before, after, over, overage_id)


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


def _count(tokens_counter: Counter, cost_counter: Counter, tokens: int, cost: int) -> Standing:
    tokens_counter.used += tokens
    cost_counter.used += cost
    return Standing(tokens_counter.used, tokens_counter.held, cost_counter.used, cost_counter.held)


def _event_row(
    facts: UsageFacts,
    in_force: InForce,
    costs: tuple[int, int, int] | None,
    *,
    price: str | None,
    flags: tuple[str, ...],
    hold_id: str | None,
) -> tuple[object, ...]:
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
        price,
        facts.billing_mode or in_force.billing_mode.value,
        in_force.period,
        in_force.period_start,
        in_force.subscription_id,
        in_force.plan_version_id,
        hold_id,
        facts.idempotency_key,
        facts.corrects_event_id,
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
    workspace.add_to_rollups(
        (facts.billable, facts.hour_start, *names),
        (facts.billable, facts.day_start, *names),
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


def _answer_key(
    workspace: Workspace,
    facts: UsageFacts,
    in_force: InForce,
    after: Standing,
    *,
    hold_id: str | None,
    overage_amount: int,
) -> None:
    """Keep the first answer with the key, so that a replay gives it and not today's numbers."""
    key = facts.idempotency_key or ""
    outcome = json.dumps(
        {
            "period": in_force.period,
            "period_start": in_force.period_start,
            "period_end": in_force.period_end,
            "currency": in_force.currency,
            "overage_amount": overage_amount,
            "token_limit": in_force.token_limit,
            "cost_limit": in_force.cost_limit,
            "overage_behavior": in_force.overage_behavior.value,
            "plan": in_force.plan,
            "standing": [after.tokens_used, after.tokens_held, after.cost_used, after.cost_held],
        },
        separators=(",", ":"),
    )
    row = KeyRow(facts.fingerprint or "", hold_id, facts.event_id, outcome)
    claimed = workspace.keys[facts.billable, key]
    # Otherwise this hold ran out and the key was given to another call: its answer stands, this use is recorded too.
    if claimed is None or claimed.hold_id == hold_id:
        workspace.set_key(facts.billable, key, row, at=facts.recorded_at)
