"""What a metered call takes of credits: of the wallet that pays for it, and of the feature that it uses.

Reserving decides before the call what may be pinned; charging decides after it what is taken. Both only read the
rows of the batch: whatever is missing is asked for before anything is changed, and a refusal leaves nothing behind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from tallystick.credits.account import (
    FEATURE_PREFIX,
    NEVER,
    AccountState,
    CreditKey,
    WalletStanding,
    amount_of,
    feature_unit,
    is_money,
)
from tallystick.credits.burn_down import Take, returned
from tallystick.credits.ledger import BALANCE_ACCOUNTS, OVERDRAFT, REVENUE, Entry, available, used
from tallystick.credits.posting import (
    GrantTerms,
    Purpose,
    TransactionFacts,
    account_of,
    burned,
    grant_limit_counter,
    overdraft_room,
    place_grant,
    require_limits,
    use_entries,
)
from tallystick.errors import CreditsInsufficient, FeatureLimitExceeded, LimitExceeded
from tallystick.identity import new_id
from tallystick.limits.counters import Claim, CounterKey
from tallystick.money import CurrencyRates, Money, ceil_div, round_half_even
from tallystick.period import MAX_MICROS, from_micros
from tallystick.plans.terms import PlanFeature
from tallystick.quantity import from_millionths
from tallystick.storage.workspace import Counter, MoreNeeded, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tallystick.errors import TallystickError
    from tallystick.plans.terms import Terms
    from tallystick.storage.workspace import HoldRow

__all__ = [
    "Exchange",
    "FeatureCharge",
    "Reservation",
    "WalletCharge",
    "cap_counter",
    "charge_feature",
    "charge_wallet",
    "exchange_for",
    "feature_entries",
    "insufficient",
    "no_allowance",
    "open_account",
    "paying_account",
    "refund_wallet",
    "require_grants",
    "reserve_feature",
    "reserve_wallet",
    "taken_by",
    "taken_from",
    "wallet_entries",
    "wallet_standing",
    "want_feature",
    "want_wallet",
]

_REFUND_PRIORITY = 50

CREDITS_SCOPE = "credits"
"""The scope of the counter of what was used of extra credits, beside the one of the plan's allowance."""


class Exchange(NamedTuple):
    """A conversion between currencies: units of the target for one of the source."""

    source: str
    target: str
    rate: Decimal

    def nanos(self, amount: int) -> int:
        """Return an amount of the source in the target, rounded half-even."""
        numerator, denominator = self.rate.as_integer_ratio()
        return amount if self.source == self.target else round_half_even(amount * numerator, denominator)

    def nanos_up(self, amount: int) -> int:
        """Return an amount of the source in the target, rounded up: for a reservation, which must suffice."""
        numerator, denominator = self.rate.as_integer_ratio()
        return amount if self.source == self.target else ceil_div(amount * numerator, denominator)

    def text(self, amount: int) -> str | None:
        """Return what is kept of a conversion with its transaction: the amount as it was stated, and the rate."""
        if self.source == self.target:
            return None
        stated = Money.from_nanos(amount, self.source).to_dict()
        return json.dumps({**stated, "rate": str(self.rate)}, separators=(",", ":"))


@dataclass(slots=True)
class Reservation:
    """What a hold would take: pins of grants, room of overdraft, claims of counters; or why it may not."""

    account: AccountState | None = None
    takes: tuple[Take, ...] = ()
    overdraft: int = 0
    claims: tuple[Claim, ...] = ()
    refusal: TallystickError | None = None


@dataclass(slots=True)
class WalletCharge:
    """What a use takes of a wallet, decided and not yet posted. A refund has a negative amount."""

    account: AccountState
    amount: int
    takes: tuple[Take, ...]
    overdraft: int
    exchange: Exchange
    stated: int
    cap: CounterKey | None = None
    reverses_id: str | None = None
    fresh: int = 0


@dataclass(slots=True)
class FeatureCharge:
    """What a use takes of a feature, decided and not yet posted: of extra credits, and of the plan's allowance."""

    feature: PlanFeature
    account: AccountState
    takes: tuple[Take, ...]
    from_plan: int
    counter: CounterKey
    subscription_id: str | None = None

    @property
    def from_credits(self) -> int:
        return sum(take.amount for take in self.takes)

    @property
    def credits_counter(self) -> CounterKey:
        return self.counter._replace(scope=CREDITS_SCOPE)

    def goes_past(self, workspace: Workspace) -> bool:
        """Whether it takes more of the allowance than there is. Before it is posted."""
        allowance = self.feature.allowance
        return (
            allowance is not None
            and bool(self.from_plan)
            and (workspace.counters[self.counter].used + self.from_plan > allowance)
        )

    def left(self, workspace: Workspace, at: int) -> int | None:
        """Return what is left of allowance and extra credits together, in millionths; None: unlimited."""
        if self.feature.allowance is None:
            return None
        counter = workspace.counters[self.counter]
        # Asked after posting, when nothing can be loaded any more.
        extra = self.account.available
        if self.account.is_complete:
            extra = sum(
                grant.free
                for grant in self.account.grants
                if grant.is_usable(feature=self.feature.slug, subscription_id=self.subscription_id, at=at)
            )
        return max(0, self.feature.allowance - counter.used - counter.held) + extra


# -- what is loaded with the batch ------------------------------------------------------------------------------------


def want_wallet(workspace: Workspace, terms: Terms, currency: str, member: str | None, at: int) -> None:
    """Ask for what most calls need that a wallet pays: the wallet of the account's currency, and a user's cap."""
    workspace.want_credit(CreditKey(terms.billable, currency))
    cap = terms.cap_for(currency, member) if member is not None and member != terms.billable else None
    if cap is not None and member is not None:
        start = terms.bounds(cap.period, at)[0]
        workspace.want_counter(CounterKey(terms.billable, f"credits:{currency}", member, cap.period, start))


def want_feature(workspace: Workspace, terms: Terms, feature: PlanFeature | None, at: int) -> None:
    """Ask for what a use of a consumable feature needs: its allowance's counters and its extra credits."""
    if feature is not None and feature.is_consumable:
        counter = terms.feature_counter(feature.slug, feature.reset, at)
        workspace.want_counter(counter)
        workspace.want_counter(counter._replace(scope=CREDITS_SCOPE))
        workspace.want_credit(CreditKey(terms.billable, feature_unit(feature.slug)))


# -- the wallet that pays ---------------------------------------------------------------------------------------------


def paying_account(
    workspace: Workspace, billable: str, currency: str, at: int, *, hold: HoldRow | None = None
) -> AccountState:
    """Return the wallet that pays: the one a hold has pinned, that of the account's currency, or the oldest other.

    Without any it is the wallet of the account's currency, which a charge then opens.
    """
    pinned = next((pin.unit for pin in hold.pins if is_money(pin.unit)), None) if hold is not None else None
    account = account_of(workspace, CreditKey(billable, pinned or currency), at)
    if account.id:
        return account
    if billable not in workspace.wallets:
        workspace.want_wallets(billable)
        raise MoreNeeded
    others = workspace.wallets[billable]
    return account_of(workspace, CreditKey(billable, others[0]), at) if others else account


def open_account(account: AccountState) -> AccountState:
    """Give an account that nobody has used yet its id, which writes it."""
    if not account.id:
        account.id = new_id("wal")
    return account


def exchange_for(account: AccountState, currency: str, rates: CurrencyRates) -> Exchange:
    """Return how an amount in a currency is converted into a wallet's.

    Raises:
        CurrencyMismatch: there is no rate.
    """
    target = account.key.unit
    return Exchange(currency, target, Decimal(1) if currency == target else rates.rate(currency, target))


def wallet_standing(workspace: Workspace, account: AccountState) -> WalletStanding:
    room = overdraft_room(workspace, account) if account.is_complete else 0
    return WalletStanding(account.key.unit, account.balance, account.available, None if room == NEVER else room)


def reserve_wallet(
    workspace: Workspace,
    account: AccountState,
    amount: int,
    purpose: Purpose,
    *,
    is_explicit: bool,
    member: str | None,
    is_forced: bool = False,
) -> Reservation:
    """Decide what a hold pins of a wallet for an amount (in nanos of the wallet's currency).

    An explicit amount fits whole or is refused; an implicit one shrinks to what is left, at least a nano. A forced one
    takes what there is and refuses nothing.
    """
    cap = cap_counter(workspace, account, member, purpose.at)
    capped = NEVER if cap is None else max(0, cap.limit - cap.counter.used - cap.counter.held)
    found = burned(workspace, account, amount, purpose)
    overdraft = min(found.short, overdraft_room(workspace, account)) if found.short else 0
    most = amount - found.short + overdraft
    if min(most, capped) < amount:
        if not is_forced and (is_explicit or min(most, capped) < 1):
            refusal: TallystickError
            if cap is not None and capped < amount and capped <= most:
                refusal = _cap_exceeded(account, cap, amount, member or "")
            else:
                refusal = insufficient(workspace, account, amount, purpose)
            return Reservation(refusal=refusal)
        most = most if is_forced else min(most, capped)
        found = burned(workspace, account, most, purpose)
        overdraft = found.short
    claims = [Claim(cap.key, most)] if cap is not None and most else []
    for take in found.takes:
        grant = account.by_id[take.grant_id]
        if grant.limit_amount is not None:
            claims.append(Claim(grant_limit_counter(workspace, account, grant, purpose.at), take.amount))
    return Reservation(account, found.takes, overdraft, tuple(claims))


def charge_wallet(
    workspace: Workspace,
    account: AccountState,
    stated: int,
    exchange: Exchange,
    purpose: Purpose,
    *,
    hold: HoldRow | None,
    member: str | None,
) -> WalletCharge:
    """Decide what a use takes: what its hold has pinned, then what is free, and the rest as overdraft. It happened."""
    amount = exchange.nanos(stated)
    pinned = tuple(
        Take(pin.grant_id, pin.amount)
        for pin in (hold.pins if hold is not None and hold.status == "open" else ())
        if pin.unit == account.key.unit and pin.grant_id
    )
    takes, left = _pinned_first(pinned, amount)
    found = burned(workspace, account, left, purpose)
    takes = _merged((*takes, *found.takes))
    require_limits(workspace, account, takes, purpose.at)
    cap = cap_counter(workspace, account, member, purpose.at)
    return WalletCharge(account, amount, takes, found.short, exchange, stated, None if cap is None else cap.key)


def refund_wallet(
    workspace: Workspace,
    account: AccountState,
    transaction_id: str,
    stated: int,
    exchange: Exchange,
    *,
    at: int,
    member: str | None,
) -> WalletCharge:
    """Decide what goes back of an earlier charge: to the grants that it came from, what was taken last first.

    `stated` is below zero. More than was taken never goes back.
    """
    takes, debt = taken_by(workspace, transaction_id, account.key)
    require_grants(workspace, account, (take.grant_id for take in takes))
    amount = min(-exchange.nanos(stated), debt + sum(take.amount for take in takes))
    # What was used on debt comes back first: off the debt, or, where that was paid meanwhile, as credits of its own.
    from_debt = min(amount, debt)
    forgiven = min(from_debt, -account.overdraft)
    back = returned(takes, amount - from_debt)
    require_limits(workspace, account, back.takes, at)
    given = tuple(Take(grant_id, -taken) for grant_id, taken in back.takes)
    cap = cap_counter(workspace, account, member, at)
    return WalletCharge(
        account,
        -amount,
        given,
        -forgiven,
        exchange,
        stated,
        cap=None if cap is None else cap.key,
        reverses_id=transaction_id,
        fresh=from_debt - forgiven,
    )


def taken_by(workspace: Workspace, transaction_id: str, key: CreditKey) -> tuple[tuple[Take, ...], int]:
    """Return what a transaction, less everything that was given back of it, has taken of grants and of overdraft."""
    if transaction_id not in workspace.entries:
        workspace.want_entries(transaction_id)
        raise MoreNeeded
    # By grant, with the debts that it paid: a repayment beside a refund takes nothing. Without a grant: debt.
    taken: dict[str | None, int] = {None: 0}
    for entry in workspace.entries[transaction_id]:
        if entry.key == key and entry.account in BALANCE_ACCOUNTS:
            taken[entry.grant_id] = taken.get(entry.grant_id, 0) - entry.amount
    # What came back as a grant of its own was debt that had been paid.
    debt = taken.pop(None) + sum(amount for amount in taken.values() if amount < 0)
    takes = tuple(Take(grant_id, amount) for grant_id, amount in taken.items() if grant_id is not None and amount > 0)
    return takes, max(0, debt)


def require_grants(workspace: Workspace, account: AccountState, grant_ids: Iterable[str]) -> None:
    """Make sure that grants are loaded, also those that are used up."""
    missing = [grant_id for grant_id in grant_ids if grant_id not in account.by_id]
    for grant_id in missing:
        workspace.want_grant(grant_id)
    if missing:
        raise MoreNeeded


def taken_from(workspace: Workspace, transaction_id: str) -> CreditKey | None:
    """Return the wallet that a transaction was taken from; None where it took nothing."""
    if transaction_id not in workspace.entries:
        workspace.want_entries(transaction_id)
        raise MoreNeeded
    return next((entry.key for entry in workspace.entries[transaction_id] if is_money(entry.key.unit)), None)


def wallet_entries(workspace: Workspace, charge: WalletCharge, facts: TransactionFacts) -> list[Entry]:
    """Return the entries of what was decided: a use, or what goes back of one."""
    account = open_account(charge.account)
    facts.exchange = charge.exchange.text(abs(charge.stated))
    if charge.reverses_id is None:
        entries = use_entries(account, charge.takes, charge.overdraft)
    else:
        entries = _refund_entries(account, charge)
        if charge.fresh:
            entries += _fresh_entries(workspace, account, charge.fresh, facts)
        facts.source, facts.reverses_id = "refund", charge.reverses_id
        workspace.entries[charge.reverses_id] += entries
    if charge.cap is not None:
        workspace.counters[charge.cap].used += charge.amount
    return entries


def _refund_entries(account: AccountState, charge: WalletCharge) -> list[Entry]:
    entries: list[Entry] = []
    for grant_id, amount in charge.takes:
        kind = account.by_id[grant_id].kind
        entries += [
            Entry(account.key, available(kind), -amount, grant_id),
            Entry(account.key, used(kind), amount),
        ]
    if charge.overdraft:
        entries += [
            Entry(account.key, OVERDRAFT, -charge.overdraft),
            Entry(account.key, REVENUE, charge.overdraft),
        ]
    return entries


def _fresh_entries(workspace: Workspace, account: AccountState, amount: int, facts: TransactionFacts) -> list[Entry]:
    terms = GrantTerms(new_id("grt"), "paid", amount, _REFUND_PRIORITY, facts.reason)
    grant = place_grant(workspace, account, terms, created_at=facts.created_at)
    return [Entry(account.key, available(grant.kind), amount, grant.id), Entry(account.key, REVENUE, -amount)]


def _pinned_first(pinned: tuple[Take, ...], amount: int) -> tuple[tuple[Take, ...], int]:
    takes: list[Take] = []
    for grant_id, held in pinned:
        taken = min(held, amount)
        if taken:
            takes.append(Take(grant_id, taken))
            amount -= taken
    return tuple(takes), amount


def _merged(takes: tuple[Take, ...]) -> tuple[Take, ...]:
    sums: dict[str, int] = {}
    for grant_id, amount in takes:
        sums[grant_id] = sums.get(grant_id, 0) + amount
    return tuple(Take(grant_id, amount) for grant_id, amount in sums.items())


# -- the cap of a pool's user -----------------------------------------------------------------------------------------


class _Cap(NamedTuple):
    key: CounterKey
    limit: int
    counter: Counter
    period_end: int


def cap_counter(workspace: Workspace, account: AccountState, member: str | None, at: int) -> _Cap | None:
    """Return the cap on a user's spending from an account with its counter; None where there is none."""
    billable, unit = account.key
    if member is None or member == billable:
        return None
    terms = workspace.terms[billable]
    cap = terms.cap_for(unit, member)
    if cap is None:
        return None
    start, end = terms.bounds(cap.period, at)
    key = CounterKey(billable, f"credits:{unit}", member, cap.period, start)
    if key not in workspace.counters:
        workspace.want_counter(key)
        raise MoreNeeded
    return _Cap(key, cap.amount, workspace.counters[key], end)


def _cap_exceeded(account: AccountState, cap: _Cap, amount: int, member: str) -> LimitExceeded:
    limit, spent, held, wanted = (
        Money.from_nanos(nanos, account.key.unit) for nanos in (cap.limit, cap.counter.used, cap.counter.held, amount)
    )
    resets = from_micros(cap.period_end) if cap.period_end < MAX_MICROS else None
    return LimitExceeded(
        f"{member} may spend {limit} of {account.key.billable}'s credits ({cap.key.period}): {spent} used, {held} "
        f"held; {wanted} needed. Raise the cap, or lower the estimate.",
        billable=account.key.billable,
        limit_type="credit_cap",
        limit=limit,
        used=spent,
        held=held,
        requested=wanted,
        resets_at=resets,
    )


def insufficient(workspace: Workspace, account: AccountState, amount: int, purpose: Purpose) -> CreditsInsufficient:
    """Return the error of an account that has too little for this use."""
    billable, unit = account.key
    usable = account.available
    if not account.overdraft:
        usable = sum(take.amount for take in burned(workspace, account, NEVER, purpose).takes)
    others = account.available - usable
    left, posted, held, needed, restricted = (
        amount_of(unit, number) for number in (usable, account.balance, account.held, amount, others)
    )
    parts = f"{_bare(posted)} posted, {_bare(held)} held"
    if others > 0:
        parts += f", {_bare(restricted)} for other uses"
    if is_money(unit):
        message = f"Wallet {billable} has {left} available ({parts}); {needed} needed. Top up, or lower max_tokens."
    else:
        slug = unit.removeprefix(FEATURE_PREFIX)
        message = f"{billable} has {left} {slug} credits available ({parts}); {needed} needed. Grant more."
    return CreditsInsufficient(message, billable=billable, balance=left, required=needed)


def _bare(amount: Money | int | Decimal) -> str:
    return f"{amount.amount:f}" if isinstance(amount, Money) else f"{amount}"


# -- features ---------------------------------------------------------------------------------------------------------


def reserve_feature(
    workspace: Workspace,
    billable: str,
    feature: PlanFeature,
    amount: int,
    purpose: Purpose,
    *,
    uses_credits: bool = True,
    is_forced: bool = False,
) -> Reservation:
    """Decide what a hold takes of a feature (millionths): of extra credits first, then of the plan's allowance."""
    charge = charge_feature(workspace, billable, feature, amount, purpose, uses_credits=uses_credits)
    counter = workspace.counters[charge.counter]
    if feature.allowance is not None and not is_forced:
        left = max(0, feature.allowance - counter.used - counter.held)
        if charge.from_plan > left:
            return Reservation(refusal=_feature_exceeded(workspace, charge, counter, amount, purpose))
    claims = [Claim(charge.counter, charge.from_plan)] if charge.from_plan else []
    for take in charge.takes:
        grant = charge.account.by_id[take.grant_id]
        if grant.limit_amount is not None:
            claims.append(Claim(grant_limit_counter(workspace, charge.account, grant, purpose.at), take.amount))
    return Reservation(charge.account, charge.takes, 0, tuple(claims))


def charge_feature(
    workspace: Workspace,
    billable: str,
    feature: PlanFeature,
    amount: int,
    purpose: Purpose,
    *,
    uses_credits: bool = True,
    hold: HoldRow | None = None,
    now: int | None = None,
) -> FeatureCharge:
    """Decide what a use takes of a feature. An unlimited allowance leaves extra credits alone.

    `now` (µs) is when it is recorded: what has run out by then is gone, also for a use that began before.
    """
    terms = workspace.terms[billable]
    counter = terms.feature_counter(feature.slug, feature.reset, purpose.at)
    missing = [key for key in (counter, counter._replace(scope=CREDITS_SCOPE)) if key not in workspace.counters]
    for key in missing:
        workspace.want_counter(key)
    account_key = CreditKey(billable, feature_unit(feature.slug))
    workspace.want_credit(account_key)
    if missing:
        raise MoreNeeded
    account = account_of(workspace, account_key, purpose.at if now is None else now)
    if feature.is_unlimited or not uses_credits:
        return FeatureCharge(feature, account, (), amount, counter, purpose.subscription_id)
    pinned = tuple(
        Take(pin.grant_id, pin.amount)
        for pin in (hold.pins if hold is not None and hold.status == "open" else ())
        if pin.unit == account_key.unit
    )
    takes, left = _pinned_first(pinned, amount)
    claims = hold.claims if hold is not None and hold.status == "open" else ()
    # What the hold has claimed of the allowance comes from there, also where credits were granted since.
    claimed = sum(claim.amount for claim in claims if claim.key == counter)
    found = burned(workspace, account, max(0, left - claimed), purpose)
    takes = _merged((*takes, *found.takes))
    require_limits(workspace, account, takes, purpose.at)
    from_plan = amount - sum(take.amount for take in takes)
    return FeatureCharge(feature, account, takes, from_plan, counter, purpose.subscription_id)


def feature_entries(workspace: Workspace, charge: FeatureCharge, event_id: str) -> list[Entry]:
    """Count a use of a feature, and return the entries of what it takes of extra credits."""
    workspace.counters[charge.counter].used += charge.from_plan
    workspace.counters[charge.credits_counter].used += charge.from_credits
    workspace.feature_uses.append(
        (
            event_id,
            charge.account.key.billable,
            charge.feature.slug,
            charge.counter.period,
            charge.counter.period_start,
            charge.from_plan,
            charge.from_credits,
        )
    )
    return use_entries(charge.account, charge.takes)


def _feature_exceeded(
    workspace: Workspace, charge: FeatureCharge, counter: Counter, amount: int, purpose: Purpose
) -> FeatureLimitExceeded:
    feature, billable = charge.feature, charge.account.key.billable
    extra = sum(take.amount for take in burned(workspace, charge.account, NEVER, purpose).takes)
    allowance = feature.allowance or 0
    end = workspace.terms[billable].bounds(feature.reset, purpose.at)[1]
    resets = from_micros(end) if end < MAX_MICROS else None
    limit, spent, held, extras, wanted = (
        from_millionths(millionths) for millionths in (allowance, counter.used, counter.held, extra, amount)
    )
    until = f", or wait until {resets:%Y-%m-%d %H:%M} UTC" if resets is not None and allowance else ""
    return FeatureLimitExceeded(
        f"{billable} has {from_millionths(max(0, allowance - counter.used - counter.held))} of {limit} {feature.slug} "
        f"left ({spent} used, {held} held) and {extras} extra credits; {wanted} needed. Grant extra credits{until}.",
        billable=billable,
        feature=feature.slug,
        limit=limit,
        used=spent,
        held=held,
        requested=wanted,
        extra_credits=extras,
        resets_at=resets,
    )


def no_allowance(slug: str) -> PlanFeature:
    """Return a feature that no plan gives: only extra credits can be used of it."""
    return PlanFeature(
        slug=slug,
        name=slug,
        is_consumable=True,
        allowance=0,
        reset="monthly",
        display_value=None,
        is_hidden=True,
        sort_order=0,
    )
