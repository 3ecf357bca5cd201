"""Posting: the only way in which credit accounts change. Everything here works on the rows of one batch.

A change is first built as entries (`ledger`), then posted: the balances and the grants follow from the entries, so that
what stands beside the ledger cannot differ from it. Whatever has to be loaded is asked for before anything is changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tallystick.credits.account import NEVER, AccountState, CreditKey, GrantState, Pin, is_money
from tallystick.credits.burn_down import Burn, Take, burn
from tallystick.credits.ledger import (
    BALANCE_ACCOUNTS,
    OVERDRAFT,
    REVENUE,
    SPENT,
    Entry,
    available,
    expired,
    imbalance,
    origin,
    used,
)
from tallystick.identity import new_id
from tallystick.limits.counters import CounterKey
from tallystick.storage.workspace import MoreNeeded, Workspace

if TYPE_CHECKING:
    from tallystick.storage.workspace import HoldRow

__all__ = [
    "BalanceFell",
    "GrantExpired",
    "GrantTerms",
    "Posted",
    "Purpose",
    "TopUpDue",
    "TransactionFacts",
    "account_of",
    "account_ready",
    "burned",
    "expire_lapsed",
    "grant_entries",
    "grant_limit_counter",
    "note_fall",
    "overdraft_room",
    "pin",
    "place_grant",
    "post",
    "release_pins",
    "require_limits",
    "require_pins",
    "top_up_counter",
    "use_entries",
]

_AVAILABLE_PAID, _AVAILABLE_PROMOTIONAL = BALANCE_ACCOUNTS[0], BALANCE_ACCOUNTS[1]
_MONTHLY = "monthly"
# What counts against the limits of single grants; and what leaves an overdraft as it is.
_USES = frozenset({"usage", "deduction", "refund"})
_REPAYING = frozenset({"grant", "refund", "transfer", "exchange", "reversal"})


@dataclass(slots=True)
class TransactionFacts:
    """What a statement line says beside its numbers. Instants are µs; `occurred_at` is when it took effect."""

    id: str
    source: str
    reason: str
    occurred_at: int
    created_at: int
    grant_id: str | None = None
    event_id: str | None = None
    hold_id: str | None = None
    reverses_id: str | None = None
    user_id: str | None = None
    feature: str | None = None
    exchange: str | None = None
    metadata: str | None = None


@dataclass(slots=True)
class GrantTerms:
    """A grant as it is given. `amount` is in the unit's integers; instants are µs."""

    id: str
    kind: str
    amount: int
    priority: int
    reason: str
    granted_by: str | None = None
    feature: str | None = None
    subscription_id: str | None = None
    limit_amount: int | None = None
    limit_period: str | None = None
    metadata: str | None = None
    expires_at: int | None = None


@dataclass(slots=True)
class Posted:
    """A transaction as it was posted: its id, and its lines as rows of `credit_transactions`."""

    transaction_id: str
    rows: tuple[tuple[object, ...], ...]
    replayed: bool = False
    kept_lines: tuple[tuple[str, str, int], ...] = ()

    @property
    def lines(self) -> tuple[tuple[str, str, int], ...]:
        """Where its lines are: billable, unit and number of each, in the order of its accounts."""
        return self.kept_lines or tuple((str(row[0]), str(row[1]), int(str(row[2]))) for row in self.rows)


@dataclass(slots=True)
class Purpose:
    """What an amount is used for, as far as grants are restricted to it.

    What is moved elsewhere (`is_transfer`) leaves every restriction behind, so only unrestricted grants may go.
    """

    at: int
    feature: str = ""
    subscription_id: str | None = None
    is_transfer: bool = False


@dataclass(frozen=True, slots=True)
class GrantExpired:
    """A notice: what was left of a grant ran out at `expired_at` (µs)."""

    key: CreditKey
    grant_id: str
    amount: int
    kind: str
    expired_at: int
    at: int


@dataclass(frozen=True, slots=True)
class BalanceFell:
    """A notice: the balance fell below the minimum that was set."""

    key: CreditKey
    available: int
    minimum: int
    at: int


@dataclass(frozen=True, slots=True)
class TopUpDue:
    """A notice: an automatic top-up was asked for."""

    key: CreditKey
    top_up_id: str
    amount: int
    available: int
    at: int


# -- before a decision ------------------------------------------------------------------------------------------------


def account_ready(workspace: Workspace, key: CreditKey, at: int) -> AccountState:
    """Return an account with everything that changing it may need; ask for what is not loaded."""
    account = workspace.credits.get(key)
    if account is None:
        workspace.want_credit(key)
        raise MoreNeeded
    if account.top_up_below is not None:
        _require_counter(workspace, top_up_counter(workspace, account.key, at))
    if account.overdraft and not account.is_complete:
        # A debt is paid in the order of all of its grants.
        workspace.want_credit(key, is_all=True)
        raise MoreNeeded
    return account


def account_of(workspace: Workspace, key: CreditKey, at: int) -> AccountState:
    """Return an account that is ready, with everything of it that has lapsed by `at` (µs) expired.

    Expiring is right whatever is decided after it, so a command that then refuses leaves it done.
    """
    account = account_ready(workspace, key, at)
    if account.lapses_at <= at:
        expire_lapsed(workspace, account, at)
    return account


def expire_lapsed(workspace: Workspace, account: AccountState, at: int) -> int:
    """Take out of the balance what has run out, each grant at its own instant. What holds have pinned stays theirs."""
    lapsed = [grant for grant in account.grants if grant.has_expired(at) and grant.free > 0]
    total = 0
    for grant in lapsed:
        # A debt is paid before anything is lost.
        owed = min(-account.overdraft, grant.free) if grant.is_unrestricted else 0
        left = grant.free - owed
        entries = list(_paid_by(account, grant, owed))
        if left:
            entries += [
                Entry(account.key, available(grant.kind), -left, grant.id),
                Entry(account.key, expired(grant.kind), left, grant.id),
            ]
        facts = TransactionFacts(
            new_id("txn"), "expiry", "expired", grant.expires_at or at, at, grant_id=grant.id, feature=grant.feature
        )
        post(workspace, facts, entries)
        if left:
            expired_at = grant.expires_at if grant.expires_at is not None else at
            workspace.notices.append(GrantExpired(account.key, grant.id, left, grant.kind, expired_at, at))
        total += left
    account.find_next_expiry()
    return total


def burned(workspace: Workspace, account: AccountState, amount: int, purpose: Purpose) -> Burn:
    """Say which grants an amount would be taken from; nothing is changed. `short` is what they cannot give."""
    found = burn(_sources(workspace, account, purpose), amount)
    if found.short and not account.is_complete:
        workspace.want_credit(account.key, is_all=True)
        raise MoreNeeded
    return found


def overdraft_room(workspace: Workspace, account: AccountState) -> int:
    """Return how much more may be used than there is."""
    policy = workspace.credit_policy
    limit = account.overdraft_limit
    if not is_money(account.key.unit) or not (policy.overdraft_allowed or limit is not None):
        return 0
    if limit is None:
        limit = policy.overdraft_limit
    if limit is None:
        return NEVER
    pinned = account.held - sum(grant.held for grant in account.grants)
    return max(0, limit + account.overdraft - pinned)


def _sources(workspace: Workspace, account: AccountState, purpose: Purpose) -> Iterator[Take]:
    # A debt comes first: as much of what is free to use for anything is not there for a new use.
    owed = -account.overdraft
    for grant in account.in_order():
        free = grant.free
        if free <= 0 or not grant.is_usable(
            feature=purpose.feature, subscription_id=purpose.subscription_id, at=purpose.at
        ):
            continue
        if purpose.is_transfer and not grant.is_unrestricted:
            continue
        if owed and grant.is_unrestricted:
            withheld = min(free, owed)
            owed -= withheld
            free -= withheld
        if grant.limit_amount is not None:
            free = min(free, _limit_left(workspace, account, grant, purpose.at))
        if free > 0:
            yield Take(grant.id, free)


def _limit_left(workspace: Workspace, account: AccountState, grant: GrantState, at: int) -> int:
    key = grant_limit_counter(workspace, account, grant, at)
    _require_counter(workspace, key)
    counter = workspace.counters[key]
    return max(0, (grant.limit_amount or 0) - counter.used - counter.held)


def grant_limit_counter(workspace: Workspace, account: AccountState, grant: GrantState, at: int) -> CounterKey:
    """Return the counter of what was used of a limited grant in the hour or day around an instant (µs)."""
    period = grant.limit_period or ""
    terms = workspace.terms[account.key.billable]
    return CounterKey(account.key.billable, "grant", grant.id, period, terms.bounds(period, at)[0])


def require_limits(workspace: Workspace, account: AccountState, takes: Iterable[Take], at: int) -> None:
    """Make sure that the counters of limited grants are loaded before something of them is posted."""
    for take in takes:
        grant = account.by_id[take.grant_id]
        if grant.limit_amount is not None:
            _require_counter(workspace, grant_limit_counter(workspace, account, grant, at))


def _require_counter(workspace: Workspace, key: CounterKey) -> None:
    if key not in workspace.counters:
        workspace.want_counter(key)
        raise MoreNeeded


# -- holding ----------------------------------------------------------------------------------------------------------


def pin(account: AccountState, takes: Iterable[Take], overdraft: int = 0) -> tuple[Pin, ...]:
    """Reserve what was decided. The pinned parts of the grants stay usable for this hold, also past their expiry."""
    pins: list[Pin] = []
    for grant_id, amount in takes:
        account.change(grant_id).held += amount
        account.held += amount
        pins.append(Pin(account.key.unit, grant_id, amount))
    if overdraft:
        account.held += overdraft
        pins.append(Pin(account.key.unit, "", overdraft))
    return tuple(pins)


def require_pins(workspace: Workspace, hold: HoldRow) -> None:
    """Make sure that everything that a hold has pinned is loaded."""
    is_missing = False
    for unit, grant_id, _ in hold.pins:
        key = CreditKey(hold.billable, unit)
        account = workspace.credits.get(key)
        if account is None:
            workspace.want_credit(key)
        elif grant_id and grant_id not in account.by_id:
            workspace.want_grant(grant_id)
        else:
            continue
        is_missing = True
    if is_missing:
        raise MoreNeeded


def release_pins(workspace: Workspace, hold: HoldRow) -> None:
    """Let go of what a hold had pinned. What has lapsed meanwhile expires with `account_of`."""
    for unit, grant_id, amount in hold.pins:
        account = workspace.credits[CreditKey(hold.billable, unit)]
        account.held -= amount
        if grant_id:
            grant = account.change(grant_id)
            grant.held -= amount
            if grant.expires_at is not None:
                account.lapses_at = min(account.lapses_at, grant.expires_at)


# -- entries ----------------------------------------------------------------------------------------------------------


def use_entries(account: AccountState, takes: Sequence[Take], overdraft: int = 0) -> list[Entry]:
    """Return the entries of a use: out of the grants, and what they could not give out of overdraft."""
    entries: list[Entry] = []
    by_kind: dict[str, int] = defaultdict(int)
    for grant_id, amount in takes:
        kind = account.by_id[grant_id].kind
        entries.append(Entry(account.key, available(kind), -amount, grant_id))
        by_kind[used(kind)] += amount
    if overdraft:
        entries.append(Entry(account.key, OVERDRAFT, -overdraft))
        by_kind[REVENUE] += overdraft
    entries += [Entry(account.key, name, amount) for name, amount in by_kind.items()]
    return entries


def grant_entries(account: AccountState, grant: GrantState, amount: int) -> list[Entry]:
    """Return the entries of credits that are added as a grant."""
    return [
        Entry(account.key, origin(grant.kind), -amount, grant.id),
        Entry(account.key, available(grant.kind), amount, grant.id),
    ]


def place_grant(workspace: Workspace, account: AccountState, terms: GrantTerms, *, created_at: int) -> GrantState:
    """Put a new grant to an account, with nothing in it yet: posting its entries fills it."""
    grant = GrantState(
        terms.id,
        terms.kind,
        0,
        0,
        terms.priority,
        terms.feature,
        terms.subscription_id,
        terms.limit_amount,
        terms.limit_period,
        terms.expires_at,
        None,
        created_at,
    )
    account.put(grant)
    columns = (
        terms.id,
        *account.key,
        terms.kind,
        terms.amount,
        terms.priority,
        terms.reason,
        terms.granted_by,
        terms.feature,
        terms.subscription_id,
        terms.limit_amount,
        terms.limit_period,
        terms.metadata,
        terms.expires_at,
        created_at,
    )
    workspace.new_grants.append((grant, columns))
    return grant


def _repayment(account: AccountState, at: int) -> Iterator[Entry]:
    """Return the entries that pay an overdraft from what is free to use for anything, in the order of burning."""
    owed = -account.overdraft
    for grant in account.grants:
        if owed <= 0:
            return
        if grant.is_unrestricted and not grant.has_expired(at):
            paid = min(grant.free, owed)
            owed -= paid
            yield from _paid_by(account, grant, paid)


def _paid_by(account: AccountState, grant: GrantState, amount: int) -> Iterator[Entry]:
    """Return the entries by which a grant pays debt. Both name it, so that what it paid adds up to nothing taken.

    What was used on debt was counted as earned. Where promotional credits pay it, it was not.
    """
    if amount <= 0:
        return
    yield Entry(account.key, available(grant.kind), -amount, grant.id)
    yield Entry(account.key, OVERDRAFT, amount, grant.id)
    if used(grant.kind) == SPENT:
        yield Entry(account.key, REVENUE, -amount)
        yield Entry(account.key, SPENT, amount)


# -- posting ----------------------------------------------------------------------------------------------------------


def post(workspace: Workspace, facts: TransactionFacts, entries: Sequence[Entry]) -> Posted:
    """Post a transaction: its entries, the balances that follow, and a line on the statement of each account."""
    unsound = imbalance(entries)
    if unsound:
        raise AssertionError(f"{facts.source} {facts.id} does not sum to zero: {unsound}")
    before = {entry.key: workspace.credits[entry.key].balance for entry in entries}
    changes = _applied(workspace, entries)
    for key in before:
        account = workspace.credits[key]
        if account.overdraft and facts.source in _REPAYING:
            repayment = list(_repayment(account, facts.created_at))
            _applied(workspace, repayment)
            entries = (*entries, *repayment)
    rows: list[tuple[object, ...]] = []
    for key in before:
        account = workspace.credits[key]
        account.last_number += 1
        rows.append(_line(account, facts, changes[key]))
    workspace.credit_transactions += rows
    for position, entry in enumerate(entries):
        workspace.ledger_entries.append(
            (
                facts.id,
                position,
                entry.key.billable,
                entry.key.unit,
                entry.account,
                entry.grant_id,
                entry.amount,
                workspace.credits[entry.key].last_number,
                facts.created_at,
            )
        )
    if facts.source in _USES:
        _count_limited(workspace, entries, facts.occurred_at)
    for key, balance_before in before.items():
        note_fall(workspace, workspace.credits[key], balance_before, facts.created_at)
    return Posted(facts.id, tuple(rows))


def _applied(workspace: Workspace, entries: Iterable[Entry]) -> dict[CreditKey, int]:
    """Let balances and grants follow the entries. Returns what changed of each balance."""
    changes: dict[CreditKey, int] = defaultdict(int)
    for key, name, amount, grant_id in entries:
        account = workspace.credits[key]
        if name == _AVAILABLE_PAID:
            account.paid += amount
        elif name == _AVAILABLE_PROMOTIONAL:
            account.promotional += amount
        elif name == OVERDRAFT:
            account.overdraft += amount
        else:
            continue
        changes[key] += amount
        if grant_id is not None and name != OVERDRAFT:
            grant = account.change(grant_id)
            grant.remaining += amount
            if amount > 0 and grant.expires_at is not None:
                account.lapses_at = min(account.lapses_at, grant.expires_at)
    return changes


def _line(account: AccountState, facts: TransactionFacts, amount: int) -> tuple[object, ...]:
    return (
        account.key.billable,
        account.key.unit,
        account.last_number,
        facts.id,
        facts.source,
        amount,
        account.balance,
        facts.reason,
        facts.grant_id,
        facts.event_id,
        facts.hold_id,
        facts.reverses_id,
        facts.user_id,
        facts.feature,
        facts.exchange,
        facts.metadata,
        facts.occurred_at,
        facts.created_at,
    )


def _count_limited(workspace: Workspace, entries: Iterable[Entry], occurred_at: int) -> None:
    """Count what a use took of grants that may be used only so much in an hour or a day."""
    for entry in entries:
        if entry.grant_id is None or entry.account not in (_AVAILABLE_PAID, _AVAILABLE_PROMOTIONAL):
            continue
        account = workspace.credits[entry.key]
        grant = account.by_id[entry.grant_id]
        if grant.limit_amount is not None:
            workspace.counters[grant_limit_counter(workspace, account, grant, occurred_at)].used -= entry.amount


def note_fall(workspace: Workspace, account: AccountState, balance_before: int, at: int) -> None:
    """Say it once when the balance falls below the minimum, and ask for a top-up where too little is available.

    The edge is that of the balance: what is held may come back, and would hide the fall if it does not.
    """
    if not is_money(account.key.unit):
        return
    minimum = account.minimum_balance
    if minimum is None:
        minimum = workspace.credit_policy.minimum_balance
    if minimum is not None and account.balance < minimum <= balance_before:
        workspace.notices.append(BalanceFell(account.key, account.available, minimum, at))
    if account.top_up_below is None or account.available >= account.top_up_below or account.top_up_state != "armed":
        return
    amount = account.top_up_amount or 0
    counter = workspace.counters[top_up_counter(workspace, account.key, at)]
    if account.top_up_monthly_max is not None and counter.used + amount > account.top_up_monthly_max:
        return
    counter.used += amount
    account.top_up_state = "pending"
    top_up_id = new_id("tup")
    workspace.new_top_ups.append(
        (top_up_id, account.key.billable, account.key.unit, amount, "pending", None, None, at, None)
    )
    workspace.notices.append(TopUpDue(account.key, top_up_id, amount, account.available, at))


def top_up_counter(workspace: Workspace, key: CreditKey, at: int) -> CounterKey:
    """Return the counter of what was asked for in automatic top-ups of the month around an instant (µs)."""
    billable, unit = key
    start = workspace.terms[billable].bounds(_MONTHLY, at)[0]
    return CounterKey(billable, f"top_up:{unit}", "", _MONTHLY, start)
