"""The commands of credits: add, deduct, transfer, give back, expire. Each decides over the lane's workspace.

All of them answer with `Posted`, whose lines the API reads as transactions. With an idempotency key the first answer is
given again.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tallystick.credits.account import NEVER, AccountState, CreditKey, amount_of
from tallystick.credits.burn_down import Take
from tallystick.credits.charges import (
    Exchange,
    WalletCharge,
    charge_wallet,
    exchange_for,
    insufficient,
    open_account,
    refund_wallet,
    require_grants,
    reserve_wallet,
    taken_by,
    wallet_entries,
)
from tallystick.credits.ledger import (
    ACCOUNTS,
    BALANCE_ACCOUNTS,
    EXCHANGE,
    GRANTED,
    OVERDRAFT,
    WITHDRAWN,
    Entry,
    available,
)
from tallystick.credits.posting import (
    GrantExpired,
    GrantTerms,
    Posted,
    Purpose,
    TransactionFacts,
    account_of,
    burned,
    grant_entries,
    note_fall,
    place_grant,
    post,
    top_up_counter,
)
from tallystick.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from tallystick.identity import new_id
from tallystick.limits.counters import CounterKey
from tallystick.limits.holds import lapsed_give_way
from tallystick.limits.keys import idempotency_conflict
from tallystick.money import CurrencyRates
from tallystick.storage.workspace import KeyRow, MoreNeeded, Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AddCredits",
    "AddMany",
    "CloseTopUp",
    "ConfigureAccount",
    "DeductCredits",
    "ExpireGrants",
    "Expired",
    "RefundCredits",
    "ReverseTransaction",
    "RevokeGrant",
    "TransferCredits",
    "WarnExpiring",
]

_NO_RATES = CurrencyRates({})
# Entries here may name a grant, and are not of what is left of it.
_NO_GRANT = frozenset(ACCOUNTS) - {available("paid"), available("promotional")}


@dataclass(slots=True)
class Keyed:
    """An idempotency key, and the input (JSON) that a repetition has to state again."""

    key: str
    fingerprint: str


class _OnAccount:
    """What the commands on one account have in common: whose rows they need."""

    __slots__ = ()

    account: CreditKey
    keyed: Keyed | None = None

    @property
    def billables(self) -> tuple[str, ...]:
        return (self.account.billable,)

    def needs(self, workspace: Workspace) -> None:
        workspace.want_credit(self.account)
        _want_key(workspace, self.account.billable, self.keyed)


class _Posting(_OnAccount, ABC):
    """A command that posts a transaction, or gives the first answer of its key again."""

    __slots__ = ()

    at: int

    def decide(self, workspace: Workspace) -> Posted:
        billable = self.account.billable
        earlier = _earlier(workspace, billable, self.keyed)
        if earlier is not None:
            return earlier
        posted = self.carry_out(workspace)
        _keep(workspace, billable, self.keyed, posted, self.at)
        return posted

    @abstractmethod
    def carry_out(self, workspace: Workspace) -> Posted:
        """Decide, then post. Raise `TallystickError` to refuse, before any change."""


@dataclass(slots=True)
class AddCredits(_Posting):
    """Add credits to an account as one grant. An overdraft is paid from it first."""

    account: CreditKey
    terms: GrantTerms
    at: int
    transaction_id: str
    exchange: str | None = None
    keyed: Keyed | None = None

    def carry_out(self, workspace: Workspace) -> Posted:
        return self.add(workspace, account_of(workspace, self.account, self.at))

    def add(self, workspace: Workspace, account: AccountState) -> Posted:
        """Post the grant. Changes only: whatever it needs is loaded."""
        open_account(account)
        if account.top_up_state == "paused":
            account.top_up_state = "armed"
        terms = self.terms
        grant = place_grant(workspace, account, terms, created_at=self.at)
        facts = TransactionFacts(
            self.transaction_id,
            "grant",
            terms.reason,
            self.at,
            self.at,
            grant_id=grant.id,
            feature=terms.feature,
            exchange=self.exchange,
            metadata=terms.metadata,
        )
        return post(workspace, facts, grant_entries(account, grant, terms.amount))


@dataclass(slots=True)
class AddMany:
    """Add several grants to one billable's accounts, all or nothing. The answers are in the order of the grants."""

    adds: tuple[AddCredits, ...]
    keyed: Keyed | None = None

    @property
    def billables(self) -> tuple[str, ...]:
        return (self.adds[0].account.billable,)

    def needs(self, workspace: Workspace) -> None:
        for add in self.adds:
            workspace.want_credit(add.account)
        _want_key(workspace, self.billables[0], self.keyed)

    def decide(self, workspace: Workspace) -> Posted:
        billable = self.billables[0]
        earlier = _earlier(workspace, billable, self.keyed)
        if earlier is not None:
            return earlier
        accounts = [account_of(workspace, add.account, add.at) for add in self.adds]
        rows = [
            row for add, account in zip(self.adds, accounts, strict=True) for row in add.add(workspace, account).rows
        ]
        posted = Posted(self.adds[0].transaction_id, tuple(rows))
        _keep(workspace, billable, self.keyed, posted, self.adds[0].at)
        return posted


@dataclass(slots=True)
class DeductCredits(_Posting):
    """Deduct an amount of a wallet, whole or not at all.

    Its refusal is `CreditsInsufficient`, or `LimitExceeded` where a user's cap is what has no room.
    """

    account: CreditKey
    amount: int
    at: int
    transaction_id: str
    reason: str
    metadata: str | None = None
    feature: str | None = None
    user_id: str | None = None
    exchange: str | None = None
    keyed: Keyed | None = None

    def carry_out(self, workspace: Workspace) -> Posted:
        billable = self.account.billable
        account = account_of(workspace, self.account, self.at)
        subscription_id = workspace.terms[billable].at(self.at).subscription_id
        purpose = Purpose(self.at, self.feature or "", subscription_id)
        refusal = self._refusal(workspace, account, purpose)
        if refusal is not None and lapsed_give_way(workspace, billable, self.at):
            refusal = self._refusal(workspace, account, purpose)
        if refusal is not None:
            raise refusal
        exchange = exchange_for(account, account.key.unit, _NO_RATES)
        charge = charge_wallet(workspace, account, self.amount, exchange, purpose, hold=None, member=self.user_id)
        facts = TransactionFacts(
            self.transaction_id,
            "deduction",
            self.reason,
            self.at,
            self.at,
            user_id=self.user_id,
            feature=self.feature,
            metadata=self.metadata,
        )
        entries = wallet_entries(workspace, charge, facts)
        facts.exchange = self.exchange
        return post(workspace, facts, entries)

    def _refusal(self, workspace: Workspace, account: AccountState, purpose: Purpose) -> Any:
        reserved = reserve_wallet(workspace, account, self.amount, purpose, is_explicit=True, member=self.user_id)
        return reserved.refusal


@dataclass(slots=True)
class TransferCredits:
    """Move credits to another account. What arrives keeps its kind, its expiry and its priority, grant by grant.

    Only what is free to use for anything can be moved, and no overdraft. `rate` converts between currencies.
    """

    source: CreditKey
    target: CreditKey
    amount: int
    at: int
    transaction_id: str
    reason: str
    rate: Exchange
    metadata: str | None = None
    keyed: Keyed | None = None

    @property
    def billables(self) -> tuple[str, ...]:
        return (self.source.billable, self.target.billable)

    def needs(self, workspace: Workspace) -> None:
        workspace.want_credit(self.source)
        workspace.want_credit(self.target)
        _want_key(workspace, self.source.billable, self.keyed)

    def decide(self, workspace: Workspace) -> Posted:
        earlier = _earlier(workspace, self.source.billable, self.keyed)
        if earlier is not None:
            return earlier
        source = account_of(workspace, self.source, self.at)
        target = account_of(workspace, self.target, self.at)
        purpose = Purpose(self.at, is_transfer=True)
        found = burned(workspace, source, self.amount, purpose)
        if found.short and lapsed_give_way(workspace, self.source.billable, self.at):
            found = burned(workspace, source, self.amount, purpose)
        if found.short:
            raise insufficient(workspace, source, self.amount, purpose)
        if not any(self.rate.nanos(take.amount) for take in found.takes):
            raise InvalidInput("amount", str(amount_of(source.key.unit, self.amount)), "Too little of it would arrive.")
        open_account(target)
        entries = [entry for take in found.takes for entry in self._moved(workspace, source, target, take)]
        facts = TransactionFacts(
            self.transaction_id,
            "transfer" if self.source.unit == self.target.unit else "exchange",
            self.reason,
            self.at,
            self.at,
            exchange=self.rate.text(self.amount),
            metadata=self.metadata,
        )
        posted = post(workspace, facts, entries)
        _keep(workspace, self.source.billable, self.keyed, posted, self.at)
        return posted

    def _moved(self, workspace: Workspace, source: AccountState, target: AccountState, take: Take) -> Iterable[Entry]:
        grant = source.by_id[take.grant_id]
        amount = self.rate.nanos(take.amount)
        yield Entry(source.key, available(grant.kind), -take.amount, grant.id)
        if source.key.unit != target.key.unit:
            yield Entry(source.key, EXCHANGE, take.amount)
        if not amount:
            # A part so small that nothing of it is left in the other currency.
            return
        terms = GrantTerms(new_id("grt"), grant.kind, amount, grant.priority, self.reason, expires_at=grant.expires_at)
        arrived = place_grant(workspace, target, terms, created_at=self.at)
        if source.key.unit != target.key.unit:
            yield Entry(target.key, EXCHANGE, -amount)
        yield Entry(target.key, available(grant.kind), amount, arrived.id)


@dataclass(slots=True)
class RefundCredits(_Posting):
    """Give back what a use or a deduction took, to the grants that it came from; all of it, or an amount.

    `user_id` is whose spending it was, where a cap counts it.
    """

    account: CreditKey
    original_id: str
    amount: int | None
    at: int
    transaction_id: str
    reason: str
    user_id: str | None = None
    metadata: str | None = None
    keyed: Keyed | None = None

    def needs(self, workspace: Workspace) -> None:
        _OnAccount.needs(self, workspace)
        workspace.want_entries(self.original_id)

    def carry_out(self, workspace: Workspace) -> Posted:
        account = account_of(workspace, self.account, self.at)
        takes, debt = taken_by(workspace, self.original_id, self.account)
        left = sum(take.amount for take in takes) + debt
        amount = left if self.amount is None else self.amount
        if not left:
            raise Conflict(f"Nothing is left to give back of transaction {self.original_id}.")
        if amount > left:
            wanted, most = (amount_of(account.key.unit, one) for one in (amount, left))
            raise InvalidInput("amount", str(wanted), f"Of transaction {self.original_id} {most} is left to give back.")
        exchange = exchange_for(account, account.key.unit, _NO_RATES)
        charge: WalletCharge = refund_wallet(
            workspace, account, self.original_id, -amount, exchange, at=self.at, member=self.user_id
        )
        facts = TransactionFacts(
            self.transaction_id,
            "refund",
            self.reason,
            self.at,
            self.at,
            user_id=self.user_id,
            metadata=self.metadata,
        )
        entries = wallet_entries(workspace, charge, facts)
        posted = post(workspace, facts, entries)
        # What goes back to a grant that has run out meanwhile runs out with it.
        account_of(workspace, self.account, self.at)
        return posted


@dataclass(slots=True)
class ReverseTransaction:
    """Post the opposite of a transaction that was a mistake, on every account that it touched.

    Only what is still there can be taken back: of a grant that was used or is held, nothing is reversed.
    """

    original_id: str
    accounts: tuple[CreditKey, ...]
    at: int
    transaction_id: str
    reason: str

    @property
    def billables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.billable for key in self.accounts))

    def needs(self, workspace: Workspace) -> None:
        for key in self.accounts:
            workspace.want_credit(key)
        workspace.want_entries(self.original_id)

    def decide(self, workspace: Workspace) -> Posted:
        for key in self.accounts:
            account_of(workspace, key, self.at)
        if self.original_id in workspace.returned:
            raise Conflict(f"Transaction {self.original_id} is reversed already.")
        entries = self._opposite(workspace)
        for key in self.accounts:
            named = (entry.grant_id for entry in entries if entry.key == key and entry.grant_id is not None)
            require_grants(workspace, workspace.credits[key], named)
        self._require_unused(workspace, entries)
        grants = {entry.grant_id for entry in entries if entry.account in BALANCE_ACCOUNTS and entry.grant_id}
        facts = TransactionFacts(
            self.transaction_id,
            "reversal",
            self.reason,
            self.at,
            self.at,
            grant_id=next(iter(grants)) if len(grants) == 1 else None,
            reverses_id=self.original_id,
        )
        posted = post(workspace, facts, entries)
        workspace.returned.add(self.original_id)
        for key in self.accounts:
            account_of(workspace, key, self.at)
        return posted

    def _opposite(self, workspace: Workspace) -> list[Entry]:
        """Return the opposite of the transaction, with one entry for each account and grant."""
        sums: dict[tuple[CreditKey, str, str | None], int] = {}
        for entry in workspace.entries[self.original_id]:
            name = (entry.key, entry.account, entry.grant_id)
            sums[name] = sums.get(name, 0) + entry.amount
        return [Entry(key, account, -amount, grant_id) for (key, account, grant_id), amount in sums.items() if amount]

    def _require_unused(self, workspace: Workspace, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.account == OVERDRAFT and workspace.credits[entry.key].overdraft + entry.amount > 0:
                raise Conflict(
                    f"Transaction {self.original_id} cannot be reversed: the debt that it made was paid. Refund it."
                )
            if entry.grant_id is None or entry.account in _NO_GRANT or entry.amount > 0:
                continue
            grant = workspace.credits[entry.key].by_id[entry.grant_id]
            if grant.free < -entry.amount:
                raise Conflict(
                    f"Transaction {self.original_id} cannot be reversed: of grant {grant.id} some was used or is held. "
                    "Revoke what is left of it, or deduct the difference."
                )


@dataclass(slots=True)
class RevokeGrant(_Posting):
    """Take back what is unused of a grant. What open holds have pinned of it stays theirs."""

    account: CreditKey
    grant_id: str
    at: int
    transaction_id: str
    reason: str

    def needs(self, workspace: Workspace) -> None:
        _OnAccount.needs(self, workspace)
        workspace.want_grant(self.grant_id)

    def carry_out(self, workspace: Workspace) -> Posted:
        account = account_of(workspace, self.account, self.at)
        grant = account.by_id.get(self.grant_id)
        if grant is None or grant.free <= 0:
            raise Conflict(f"Nothing is left to take back of grant {self.grant_id}.")
        contra = WITHDRAWN if grant.kind == "paid" else GRANTED
        amount = grant.free
        entries = [
            Entry(account.key, available(grant.kind), -amount, grant.id),
            Entry(account.key, contra, amount, grant.id),
        ]
        facts = TransactionFacts(
            self.transaction_id, "revocation", self.reason, self.at, self.at, grant_id=grant.id, feature=grant.feature
        )
        return post(workspace, facts, entries)


@dataclass(frozen=True, slots=True)
class Expired:
    """What ran out of one account: how many grants, and how much in the unit's integers."""

    grants: int
    amount: int


@dataclass(slots=True)
class ExpireGrants(_OnAccount):
    """Expire what has lapsed of one account by `at` (µs). Each grant is told of once, by a notice."""

    account: CreditKey
    at: int

    def decide(self, workspace: Workspace) -> Expired:
        before = len(workspace.notices)
        account_of(workspace, self.account, self.at)
        expired = [one for one in workspace.notices[before:] if isinstance(one, GrantExpired)]
        return Expired(len(expired), sum(one.amount for one in expired))


@dataclass(slots=True)
class ConfigureAccount(_OnAccount):
    """Open an account where there is none, and set what is given of its settings, by the names of its columns."""

    account: CreditKey
    at: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    def decide(self, workspace: Workspace) -> str:
        account = account_of(workspace, self.account, self.at)
        asks_for_top_ups = self.changes.get("top_up_below") is not None
        counter = top_up_counter(workspace, self.account, self.at)
        if asks_for_top_ups and counter not in workspace.counters:
            workspace.want_counter(counter)
            raise MoreNeeded
        open_account(account)
        for name, value in self.changes.items():
            setattr(account, name, value)
        if asks_for_top_ups:
            if account.top_up_state == "paused":
                account.top_up_state = "armed"
            # It may be below the threshold already.
            note_fall(workspace, account, account.balance, self.at)
        return account.id


@dataclass(slots=True)
class CloseTopUp(_OnAccount):
    """End a top-up that is pending, once: paid, which adds its credits, or failed, which pauses automatic top-ups.

    `add` is the credits of one that was paid; `keyed` names the top-up, so that of two ends the first counts.
    """

    account: CreditKey
    top_up_id: str
    amount: int
    requested_at: int
    at: int
    keyed: Keyed
    add: AddCredits | None = None
    note: str | None = None

    def needs(self, workspace: Workspace) -> None:
        _OnAccount.needs(self, workspace)
        workspace.want_counter(self._counter(workspace))

    def decide(self, workspace: Workspace) -> Posted:
        try:
            earlier = _earlier(workspace, self.account.billable, self.keyed)
        except IdempotencyConflict:
            raise Conflict(f"Top-up {self.top_up_id} has ended already.") from None
        if earlier is not None:
            return earlier
        account = account_of(workspace, self.account, self.at)
        counter = workspace.counters[self._counter(workspace)]
        if self.add is not None:
            account.top_up_state = "armed"
            posted = self.add.add(workspace, account)
            closed: tuple[object, ...] = ("completed", posted.transaction_id, self.note, self.at, self.top_up_id)
        else:
            account.top_up_state = "paused"
            counter.used -= self.amount
            posted = Posted("", ())
            closed = ("failed", None, self.note, self.at, self.top_up_id)
        workspace.closed_top_ups.append(closed)
        _keep(workspace, self.account.billable, self.keyed, posted, self.at)
        return posted

    def _counter(self, workspace: Workspace) -> CounterKey:
        return top_up_counter(workspace, self.account, self.requested_at)


@dataclass(slots=True)
class WarnExpiring(_OnAccount):
    """Note that a grant's expiry was announced. Says whether this is the first time, and something of it is left."""

    account: CreditKey
    grant_id: str
    at: int

    def needs(self, workspace: Workspace) -> None:
        _OnAccount.needs(self, workspace)
        workspace.want_grant(self.grant_id)

    def decide(self, workspace: Workspace) -> bool:
        account = account_of(workspace, self.account, self.at)
        grant = account.by_id.get(self.grant_id)
        if grant is None:
            raise NotFound("grant", self.grant_id)
        if grant.warned_at is not None or not grant.remaining or (grant.expires_at or NEVER) <= self.at:
            return False
        account.change(grant.id).warned_at = self.at
        return True


# -- idempotency ------------------------------------------------------------------------------------------------------


def _want_key(workspace: Workspace, billable: str, keyed: Keyed | None) -> None:
    if keyed is not None:
        workspace.want_key(billable, keyed.key)


def _earlier(workspace: Workspace, billable: str, keyed: Keyed | None) -> Posted | None:
    """Return the first answer of a key; None where it is free.

    Raises:
        IdempotencyConflict: it was used with other input.
    """
    if keyed is None:
        return None
    if (billable, keyed.key) not in workspace.keys:
        workspace.want_key(billable, keyed.key)
        raise MoreNeeded
    row = workspace.keys[billable, keyed.key]
    if row is None:
        return None
    if row.fingerprint != keyed.fingerprint:
        raise idempotency_conflict(keyed.key, row.fingerprint, keyed.fingerprint)
    kept = json.loads(row.outcome or "{}")
    lines = tuple((str(name), str(unit), int(number)) for name, unit, number in kept["lines"])
    return Posted(kept["transaction"], (), replayed=True, kept_lines=lines)


def _keep(workspace: Workspace, billable: str, keyed: Keyed | None, posted: Posted, at: int) -> None:
    if keyed is None:
        return
    outcome = json.dumps({"transaction": posted.transaction_id, "lines": posted.lines}, separators=(",", ":"))
    workspace.set_key(billable, keyed.key, KeyRow(keyed.fingerprint, None, None, outcome), at=at)
