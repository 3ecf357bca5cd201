"""The commands of metering: place a hold, settle it, void it, record use. Each decides over the lane's workspace.

Deciding is left to the pure functions of `tallystick.limits` and `tallystick.credits`; a command gathers what they need
and writes down what follows. Everything that belongs to one use is written by `recording`.

Commands and their answers are made several times a call. They are not frozen: a frozen dataclass takes three times as
long to make. Nobody changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tallystick.credits.charges import (
    Exchange,
    Reservation,
    exchange_for,
    no_allowance,
    open_account,
    paying_account,
    reserve_feature,
    reserve_wallet,
)
from tallystick.credits.posting import Purpose, pin
from tallystick.errors import (
    Conflict,
    CurrencyMismatch,
    HoldNotOpen,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SubscriptionRequired,
    TallystickError,
    TenantSuspended,
    UnknownPrice,
)
from tallystick.identity import new_id
from tallystick.limits.asking import Ask, QuotaReservation, RateTake, ask_quotas, ask_rates, take_rates
from tallystick.limits.counters import Claim
from tallystick.limits.decision import Refusal, admit, refusal_message, resets_at
from tallystick.limits.holds import expire_hold, expire_released, lapsed_give_way, let_go, require_claims
from tallystick.limits.keys import idempotency_conflict
from tallystick.limits.quota import COST, REQUESTS, TOKENS, Caller
from tallystick.metering.recording import (
    Recorded,
    UsageFacts,
    billing_mode,
    draft,
    record,
    standing,
    want_facts,
    want_use,
)
from tallystick.money import CurrencyRates, Money, ceil_div
from tallystick.plans.terms import BillingMode, InForce, PlanFeature, Terms
from tallystick.quantity import MILLIONTHS
from tallystick.storage.database import claims_text, pins_text
from tallystick.storage.workspace import HoldRow, KeyRow, MoreNeeded, Workspace

__all__ = [
    "CallFailed",
    "CloseHold",
    "Consume",
    "InProgress",
    "PlaceHold",
    "Placed",
    "RecordUsage",
    "Replayed",
    "SettleHold",
    "Voided",
    "earlier_use",
]

_CREDITS = BillingMode.CREDITS.value


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
class Voided:
    """A hold was closed without use."""

    hold_id: str


@dataclass(slots=True)
class CallFailed:
    """A notice: the provider failed a call. It is written with the end of the call's hold."""

    billable: str
    provider: str
    model: str | None
    error: BaseException
    hold_id: str
    at: int


@dataclass(slots=True)
class _Decision:
    """What a hold would take of everything that applies, or the refusal of the first that has no room."""

    claims: tuple[Claim, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    refusal: TallystickError | None = None
    rates: tuple[RateTake, ...] = ()


@dataclass(slots=True)
class PlaceHold:
    """Reserve an estimate of everything that limits a call, or nothing: the plan's limits or the wallet that pays, and
    the feature that is used.

    `cost` is the estimate in nanos of `cost_currency`, None where no price is known. `quantity` (millionths) is how
    much the call uses of its feature.
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
    enforcement: str = "on"
    subscription_required: bool = False
    refuses_unpriced: bool = True
    idempotency_key: str | None = None
    fingerprint: str | None = None
    billing_mode: str | None = None
    quantity: int = MILLIONTHS
    resource_type: str = "completion"
    key_id: str | None = None

    @property
    def caller(self) -> Caller:
        return Caller(self.user_id, self.feature, self.key_id)

    @property
    def billables(self) -> tuple[str, ...]:
        return _with_tenant(self.billable, self.tenant_id)

    def needs(self, workspace: Workspace) -> None:
        want_use(workspace, workspace.terms[self.billable], self.at, self)
        if self.idempotency_key is not None:
            workspace.want_key(self.billable, self.idempotency_key)

    def decide(self, workspace: Workspace) -> Placed | Replayed | InProgress:
        if self.idempotency_key is not None:
            earlier = earlier_use(workspace, self.billable, self.idempotency_key, self.fingerprint, self.at)
            if earlier is not None:
                return earlier
        terms = workspace.terms[self.billable]
        in_force = terms.at(self.at)
        mode = billing_mode(self.billing_mode, in_force)
        enforcement = enforcement_of(terms, self.enforcement)
        suspended = suspension(workspace, self.billables)
        if suspended is not None:
            # Its operator has said so: that is no limit, and holds in shadow mode too.
            raise suspended
        refusal = self._refused_by_terms(in_force, mode)
        if refusal is not None and enforcement == "on":
            raise refusal
        decision = self._decided(workspace, terms, mode, enforcement=enforcement)
        if decision.refusal is not None and lapsed_give_way(workspace, self.billable, self.at):
            decision = self._decided(workspace, terms, mode, enforcement=enforcement)
        refusal = refusal or decision.refusal
        if decision.refusal is not None:
            if enforcement == "on":
                raise decision.refusal
            decision = self._decided(workspace, terms, mode, enforcement=enforcement, is_forced=True)
        hold = self._hold(decision)
        workspace.place_hold(hold, self._row(hold))
        take_rates(workspace, decision.rates)
        if refusal is not None and enforcement == "shadow":
            note_shadow(workspace, self.billable, refusal, at=self.at, hold_id=hold.id)
        if self.idempotency_key is not None:
            claimed = KeyRow(self.fingerprint or "", hold.id, None, None)
            workspace.set_key(self.billable, self.idempotency_key, claimed, at=self.at)
        return Placed(hold, in_force, refusal.message if refusal is not None and enforcement == "shadow" else None)

    def _refused_by_terms(self, in_force: InForce, mode: str) -> TallystickError | None:
        """Say why the account may make no such call at all, whatever is left of its limits."""
        if in_force.is_suspended:
            return SubscriptionRequired(self.billable, is_suspended=True)
        if self.subscription_required and in_force.subscription_id is None:
            return SubscriptionRequired(self.billable)
        needs_price = mode == _CREDITS or in_force.cost_limit is not None
        if self.cost is None and needs_price and self.refuses_unpriced:
            # Without a price neither a cost limit nor a wallet's floor can be kept.
            return UnknownPrice(self.provider, self.model or None)
        return None

    def _decided(
        self, workspace: Workspace, terms: Terms, mode: str, *, enforcement: str, is_forced: bool = False
    ) -> _Decision:
        in_force = terms.at(self.at)
        is_enforced = enforcement == "on"
        tokens, cost = self.tokens, self._cost_in(in_force, is_enforced=is_enforced)
        quotas = QuotaReservation()
        rates: tuple[RateTake, ...] = ()
        if terms.has_quotas or terms.has_rate_limits:
            asks = self._asks(tokens, cost)
            if not is_forced:
                rates, limited = ask_rates(workspace, terms, asks, self.caller, self.at)
                if limited is not None:
                    return _Decision(refusal=limited)
                quotas = ask_quotas(workspace, terms, asks, self.caller, self.at, currency=in_force.currency)
                if quotas.refusal is not None:
                    return _Decision(refusal=quotas.refusal)
                fits = quotas.amounts or {}
                tokens = min(tokens, -(-fits.get(TOKENS, tokens * MILLIONTHS) // MILLIONTHS))
                cost = min(cost, fits.get(COST, cost))
        if mode == _CREDITS:
            decision = self._of_wallet(workspace, in_force, cost, is_enforced=is_enforced, is_forced=is_forced)
        else:
            decision = self._of_plan(workspace, in_force, tokens, cost, is_forced=is_forced)
        decision.claims += quotas.claims
        decision.rates = rates
        if decision.refusal is not None or not self.feature:
            return decision
        listed = in_force.features.get(self.feature)
        if listed is None or not listed.is_consumable or not self.quantity:
            return decision
        purpose = Purpose(self.at, self.feature, in_force.subscription_id)
        reserved = reserve_feature(workspace, self.billable, listed, self.quantity, purpose, is_forced=is_forced)
        return _Decision(decision.claims + reserved.claims, (*decision.reservations, reserved), reserved.refusal, rates)

    def _asks(self, tokens: int, cost: int) -> tuple[Ask, ...]:
        return (
            Ask(self.resource_type, self.quantity),
            Ask(REQUESTS, MILLIONTHS),
            Ask(TOKENS, tokens * MILLIONTHS, self.tokens_explicit),
            Ask(COST, cost, self.cost_explicit, least=1),
        )

    def _of_plan(
        self, workspace: Workspace, in_force: InForce, tokens: int, cost: int, *, is_forced: bool
    ) -> _Decision:
        if not is_forced:
            admission = admit(
                in_force,
                standing(workspace, in_force),
                tokens=tokens,
                tokens_explicit=self.tokens_explicit,
                cost=cost,
                cost_explicit=self.cost_explicit,
            )
            if admission.refusal is not None:
                return _Decision(refusal=_limit_exceeded(self.billable, in_force, admission.refusal))
            tokens, cost = admission.tokens, admission.cost
        claims: tuple[Claim, ...] = (Claim(in_force.tokens_counter, tokens),)
        if in_force.cost_limit is not None and cost:
            claims += (Claim(in_force.cost_counter, cost),)
        return _Decision(claims)

    def _of_wallet(
        self, workspace: Workspace, in_force: InForce, cost: int, *, is_enforced: bool, is_forced: bool
    ) -> _Decision:
        account = paying_account(workspace, self.billable, in_force.currency, self.at)
        exchange: Exchange
        try:
            exchange = exchange_for(account, in_force.currency, self.rates)
        except CurrencyMismatch:
            if is_enforced:
                raise
            return _Decision()
        reserved = reserve_wallet(
            workspace,
            account,
            exchange.nanos_up(cost),
            Purpose(self.at, self.feature, in_force.subscription_id),
            is_explicit=self.cost_explicit,
            member=self.user_id,
            is_forced=is_forced,
        )
        return _Decision(reserved.claims, (reserved,), reserved.refusal)

    def _cost_in(self, in_force: InForce, *, is_enforced: bool) -> int:
        """Return the cost estimate in the account's currency, rounded up; 0 where none can be made or is needed."""
        if self.cost is None:
            return 0
        try:
            return _converted_up(self.cost, self.cost_currency, in_force.currency, self.rates)
        except CurrencyMismatch:
            if self.refuses_unpriced and is_enforced:
                raise
            return 0

    def _hold(self, decision: _Decision) -> HoldRow:
        pins = tuple(
            pinned
            for reserved in decision.reservations
            if reserved.account is not None and (reserved.takes or reserved.overdraft)
            for pinned in pin(open_account(reserved.account), reserved.takes, reserved.overdraft)
        )
        return HoldRow(
            id=self.hold_id,
            billable=self.billable,
            status="open",
            claims=decision.claims,
            expires_at=self.expires_at,
            idempotency_key=self.idempotency_key,
            pins=pins,
        )

    def _row(self, hold: HoldRow) -> tuple[object, ...]:
        return (
            hold.id,
            hold.billable,
            "open",
            claims_text(hold.claims),
            pins_text(hold.pins),
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
    failure: CallFailed | None = None
    # What was decided last. Where the answer to it was lost, and a repetition finds it recorded, this is the answer.
    decided: Recorded | None = field(default=None, init=False, compare=False)

    @property
    def billables(self) -> tuple[str, ...]:
        return (self.hold.billable,)

    def needs(self, workspace: Workspace) -> None:
        _want_hold(workspace, self.hold)
        want_facts(workspace, self.facts)

    def decide(self, workspace: Workspace) -> Recorded | Replayed:
        hold, facts = workspace.holds.get(self.hold.id), self.facts
        if hold is None:
            # Its row was erased meanwhile; the use is a fact. The row comes back, so that it is recorded once.
            drafted = draft(workspace, facts, self.rates, flags=("late",))
            self._put_back(workspace)
            self.decided = record(workspace, facts, drafted, hold_id=self.hold.id)
            return self.decided
        if hold.status == "settled" and hold.event_id is not None:
            return Replayed(hold.event_id, None)
        flags: tuple[str, ...] = ()
        if hold.status == "open":
            require_claims(workspace, hold, facts.recorded_at)
        else:
            # Its amounts were already given back; the use is recorded all the same, and once.
            flags = ("late",)
        drafted = draft(workspace, facts, self.rates, flags=flags, hold=hold)
        let_go(workspace, hold, status="settled", at=facts.recorded_at, event_id=facts.event_id)
        self.decided = record(workspace, facts, drafted, hold_id=hold.id)
        if self.failure is not None:
            workspace.notices.append(self.failure)
        if hold.pins:
            expire_released(workspace, hold, facts.recorded_at)
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
                pins_text(hold.pins),
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
    failure: CallFailed | None = None

    @property
    def billables(self) -> tuple[str, ...]:
        return (self.hold.billable,)

    def needs(self, workspace: Workspace) -> None:
        _want_hold(workspace, self.hold)

    def decide(self, workspace: Workspace) -> Voided | None:
        """Close the hold. Returns None where it was closed in this way before, or is not yet due to expire."""
        hold = workspace.holds.get(self.hold.id)
        if hold is None:
            raise NotFound("hold", self.hold.id)
        if self.status == "expired":
            if hold.status != "open" or hold.expires_at > self.at:
                return None
            require_claims(workspace, hold, self.at)
            expire_hold(workspace, hold, self.at)
            return Voided(hold.id)
        if hold.status == "settled":
            raise HoldNotOpen(hold.id, hold.status)
        if hold.status != "open":
            return None
        require_claims(workspace, hold, self.at)
        let_go(workspace, hold, status="voided", at=self.at)
        if self.failure is not None:
            workspace.notices.append(self.failure)
        if hold.pins:
            expire_released(workspace, hold, self.at)
        workspace.free_key(hold)
        return Voided(hold.id)


@dataclass(slots=True)
class RecordUsage:
    """Record use that needs no permission: it happened."""

    facts: UsageFacts
    rates: CurrencyRates

    @property
    def billables(self) -> tuple[str, ...]:
        return (self.facts.billable,)

    def needs(self, workspace: Workspace) -> None:
        want_facts(workspace, self.facts)

    def decide(self, workspace: Workspace) -> Recorded | Replayed | InProgress:
        facts = self.facts
        if facts.idempotency_key is not None:
            earlier = earlier_use(
                workspace, facts.billable, facts.idempotency_key, facts.fingerprint, facts.recorded_at
            )
            if earlier is not None:
                return earlier
        return record(workspace, facts, draft(workspace, facts, self.rates), hold_id=None)


@dataclass(slots=True)
class Consume:
    """Use so much of a resource type: ask every quota and rate limit of it, and record the use, in one step.

    Where the use names a feature of the plan, its allowance and extra credits are asked too; `of_feature` says that it
    is the feature that is used, which then has to be consumable, and may have nothing but extra credits.
    `subscription_id` demands that this subscription is in force. Where limits are not enforced, the use is recorded
    also past them; in shadow mode it is flagged.
    """

    facts: UsageFacts
    rates: CurrencyRates
    enforcement: str = "on"
    of_feature: bool = False
    uses_credits: bool = True
    subscription_id: str | None = None

    @property
    def billables(self) -> tuple[str, ...]:
        return _with_tenant(self.facts.billable, self.facts.tenant_id)

    def needs(self, workspace: Workspace) -> None:
        want_facts(workspace, self.facts)

    def decide(self, workspace: Workspace) -> Recorded | Replayed | InProgress:
        facts = self.facts
        if facts.idempotency_key is not None:
            earlier = earlier_use(
                workspace, facts.billable, facts.idempotency_key, facts.fingerprint, facts.recorded_at
            )
            if earlier is not None:
                return earlier
        suspended = suspension(workspace, self.billables)
        if suspended is not None:
            raise suspended
        terms = workspace.terms[facts.billable]
        enforcement = enforcement_of(terms, self.enforcement)
        feature = self._feature(terms.at(facts.occurred_at))
        refusal, takes = self._asked(workspace, terms, feature)
        if refusal is not None and lapsed_give_way(workspace, facts.billable, facts.recorded_at):
            refusal, takes = self._asked(workspace, terms, feature)
        if refusal is not None and enforcement == "on":
            raise refusal
        is_shadow = enforcement == "shadow"
        flags = ("shadow",) if refusal is not None and is_shadow else ()
        drafted = draft(workspace, facts, self.rates, flags=flags, feature=feature, uses_credits=self.uses_credits)
        take_rates(workspace, takes)
        if refusal is not None and is_shadow:
            note_shadow(workspace, facts.billable, refusal, at=facts.recorded_at, hold_id=None)
        return record(workspace, facts, drafted, hold_id=None)

    def _feature(self, in_force: InForce) -> PlanFeature | None:
        """Return the consumable feature that is used up; None where none is."""
        facts = self.facts
        if self.subscription_id is not None and in_force.subscription_id != self.subscription_id:
            raise Conflict(f"Subscription {self.subscription_id} of {facts.billable} is not in force.")
        listed = in_force.features.get(facts.feature) if facts.feature else None
        if not self.of_feature:
            return listed if listed is not None and listed.is_consumable else None
        feature = listed or no_allowance(facts.feature)
        if not feature.is_consumable:
            raise InvalidInput("feature", facts.feature, "It is not consumable: there is nothing to use up.")
        return feature

    def _asked(
        self, workspace: Workspace, terms: Terms, feature: PlanFeature | None
    ) -> tuple[TallystickError | None, tuple[RateTake, ...]]:
        facts = self.facts
        in_force = terms.at(facts.occurred_at)
        if in_force.is_suspended:
            return SubscriptionRequired(facts.billable, is_suspended=True), ()
        asks = (Ask(facts.resource_type, facts.quantity),)
        takes, limited = ask_rates(workspace, terms, asks, facts.caller, facts.occurred_at)
        if limited is not None:
            return limited, ()
        asked = ask_quotas(workspace, terms, asks, facts.caller, facts.occurred_at, currency=in_force.currency)
        if asked.refusal is not None:
            return asked.refusal, ()
        if feature is not None and facts.quantity:
            purpose = Purpose(facts.occurred_at, facts.feature, in_force.subscription_id)
            reserved = reserve_feature(
                workspace, facts.billable, feature, facts.quantity, purpose, uses_credits=self.uses_credits
            )
            if reserved.refusal is not None:
                return reserved.refusal, ()
        return None, takes


# -- shared by the commands -------------------------------------------------------------------------------------------


def enforcement_of(terms: Terms, general: str) -> str:
    """Return whether limits are "on", in "shadow" or "off" for an account: as its tenant has it, else in general."""
    return (terms.tenant.enforcement if terms.tenant is not None else None) or general


def suspension(workspace: Workspace, billables: tuple[str, ...]) -> TenantSuspended | None:
    """Return why a tenant that is concerned may not use anything; None where all of them may."""
    for billable in billables:
        tenant = workspace.terms[billable].tenant
        if tenant is not None and not tenant.is_active:
            return TenantSuspended(tenant.slug, tenant.status.value, tenant.status_reason)
    return None


def note_shadow(workspace: Workspace, billable: str, refusal: TallystickError, *, at: int, hold_id: str | None) -> None:
    """Write down what shadow mode would have refused."""
    limit_type = str(getattr(refusal, "limit_type", ""))
    workspace.new_shadow_refusals.append(
        (new_id("shd"), billable, refusal.code, limit_type, refusal.message, hold_id, at)
    )


def _with_tenant(billable: str, tenant_id: str | None) -> tuple[str, ...]:
    return (billable,) if tenant_id is None or tenant_id == billable else (billable, tenant_id)


def _want_hold(workspace: Workspace, hold: HoldRow) -> None:
    """Ask for a hold and for what its caller knows that it claims and pins."""
    workspace.want_hold(hold.id)
    for claim in hold.claims:
        workspace.want_counter(claim.key)
    if hold.pins:
        for pinned in hold.pins:
            workspace.want_credit(pinned.key(hold.billable))


def earlier_use(
    workspace: Workspace, billable: str, key: str, fingerprint: str | None, at: int
) -> Replayed | InProgress | None:
    """Return what the key stands for already; None where it is free, or its holder's time ran out."""
    row = workspace.keys[billable, key]
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise idempotency_conflict(key, row.fingerprint, fingerprint or "{}")
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
        require_claims(workspace, hold, at)
        expire_hold(workspace, hold, at)
    return None


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
