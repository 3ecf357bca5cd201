"""What the credit namespaces answer with: grants, transactions, ledger entries, figures of features. Frozen values.

An amount is `Money` on a wallet and a number (int, or an exact Decimal) on a feature. Instants are aware UTC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias

from tallystick.credits.account import FEATURE_PREFIX, amount_of, is_money
from tallystick.money import Money
from tallystick.period import from_micros
from tallystick.storage import tables

__all__ = [
    "Amount",
    "AutoTopUp",
    "CreditStats",
    "CreditTransaction",
    "Exchange",
    "FeatureStatus",
    "FeatureUse",
    "Grant",
    "LedgerEntry",
    "SpendingCap",
    "TopUp",
    "TransactionPage",
    "feature_slug",
]

Amount: TypeAlias = Money | int | Decimal
"""Money on a wallet; on a feature, a number of uses."""

_GRANT_COLUMNS = tuple(column.name for column in tables.grants.columns)
_TRANSACTION_COLUMNS = tuple(column.name for column in tables.credit_transactions.columns)
_ENTRY_COLUMNS = tuple(column.name for column in tables.ledger_entries.columns)
_TOP_UP_COLUMNS = tuple(column.name for column in tables.top_ups.columns)

_NO_META: Mapping[str, object] = MappingProxyType({})


def feature_slug(unit: str) -> str | None:
    """Return the feature whose credits a unit counts; None for a currency."""
    return None if is_money(unit) else unit.removeprefix(FEATURE_PREFIX)


@dataclass(frozen=True, slots=True)
class Grant:
    """Prepaid money or uses, from when they were added until they are used up, taken back, or expire.

    `remaining` includes `held`, which calls in flight have pinned; after the expiry it is only what they have pinned.
    `status` is "open", "spent", "expired" or "revoked". With `limit`, at most so much of it is used in a
    `limit_period`. `feature` restricts money to calls of that feature; `subscription_id` restricts a feature's credits
    to the time in which that subscription is in force.
    """

    id: str
    billable: str
    unit: str
    kind: str
    amount: Amount
    remaining: Amount
    held: Amount
    priority: int
    reason: str
    granted_by: str | None
    feature: str | None
    subscription_id: str | None
    limit: Amount | None
    limit_period: str | None
    meta: Mapping[str, object]
    expires_at: datetime | None
    created_at: datetime
    status: str

    @property
    def currency(self) -> str | None:
        """The currency, of a wallet's grant."""
        return self.unit if is_money(self.unit) else None

    @property
    def feature_slug(self) -> str | None:
        """The feature whose uses these are, of a feature's grant."""
        return feature_slug(self.unit)

    @property
    def is_usable(self) -> bool:
        """Whether something is left that has not expired. It may still be restricted."""
        return self.status == "open"

    @classmethod
    def from_row(cls, row: Sequence[Any], at: int, *, ended_by: str | None = None) -> Grant:
        """Read a row of `grants`, in the order of its columns, as it stands at an instant (µs).

        `ended_by` is the source of the transaction that took the rest of it, where there was one.
        """
        values = dict(zip(_GRANT_COLUMNS, row, strict=True))
        unit = str(values["unit"])
        expires_at, remaining, held = values["expires_at"], int(values["remaining"]), int(values["held"])
        has_lapsed = expires_at is not None and expires_at <= at
        status = _status(ended_by, remaining=remaining, free=remaining - held, has_lapsed=has_lapsed)
        limit = values["limit_amount"]
        return cls(
            id=str(values["id"]),
            billable=str(values["billable"]),
            unit=unit,
            kind=str(values["kind"]),
            amount=amount_of(unit, int(values["amount"])),
            # What has expired is gone at its instant, though it is posted when somebody comes by.
            remaining=amount_of(unit, held if status == "expired" else remaining),
            held=amount_of(unit, held),
            priority=int(values["priority"]),
            reason=str(values["reason"]),
            granted_by=values["granted_by"],
            feature=values["feature"],
            subscription_id=values["subscription_id"],
            limit=None if limit is None else amount_of(unit, int(limit)),
            limit_period=values["limit_period"],
            meta=_meta(values["metadata"]),
            expires_at=None if expires_at is None else from_micros(expires_at),
            created_at=from_micros(values["created_at"]),
            status=status,
        )

    def to_dict(self) -> dict[str, object]:
        """Return the grant as plain JSON values."""
        return {
            "id": self.id,
            "billable": self.billable,
            "unit": self.unit,
            "currency": self.currency,
            "feature_slug": self.feature_slug,
            "kind": self.kind,
            "amount": _plain(self.amount),
            "remaining": _plain(self.remaining),
            "held": _plain(self.held),
            "priority": self.priority,
            "reason": self.reason,
            "granted_by": self.granted_by,
            "feature": self.feature,
            "subscription_id": self.subscription_id,
            "limit": _plain(self.limit),
            "limit_period": self.limit_period,
            "meta": dict(self.meta),
            "expires_at": _plain(self.expires_at),
            "created_at": _plain(self.created_at),
            "status": self.status,
        }


@dataclass(frozen=True, slots=True)
class Exchange:
    """How a transaction's amount came from another currency: what was stated, and the rate that was used."""

    amount: Money
    rate: Decimal


@dataclass(frozen=True, slots=True)
class CreditTransaction:
    """One line of an account's statement: what changed its balance, by how much, and why. It is never changed.

    Lines of an account are numbered without gaps. `amount` has no sign: `type` is "credit" for what was added, "debit"
    for what was taken. `source` is grant, usage, deduction, expiry, transfer, exchange, refund, reversal or revocation.
    `replayed`: the idempotency key was used before, and this is the first answer.
    """

    id: str
    number: int
    billable: str
    unit: str
    type: str
    source: str
    amount: Amount
    balance_after: Amount
    reason: str
    meta: Mapping[str, object]
    grant_id: str | None
    usage_event_id: str | None
    hold_id: str | None
    reverses_id: str | None
    user: str | None
    feature: str | None
    exchange: Exchange | None
    occurred_at: datetime
    created_at: datetime
    replayed: bool = field(default=False, compare=False)

    @property
    def currency(self) -> str | None:
        """The currency, of a wallet's transaction."""
        return self.unit if is_money(self.unit) else None

    @property
    def feature_slug(self) -> str | None:
        """The feature whose credits changed, of a feature's transaction."""
        return feature_slug(self.unit)

    @property
    def signed_amount(self) -> Amount:
        """The amount as it changed the balance: below zero for a debit."""
        return self.amount if self.type == "credit" else -self.amount

    @classmethod
    def from_row(cls, row: Sequence[Any], *, replayed: bool = False) -> CreditTransaction:
        """Read a row of `credit_transactions`, in the order of its columns."""
        values = dict(zip(_TRANSACTION_COLUMNS, row, strict=True))
        unit, amount = str(values["unit"]), int(values["amount"])
        return cls(
            id=str(values["id"]),
            number=int(values["number"]),
            billable=str(values["billable"]),
            unit=unit,
            type="credit" if amount >= 0 else "debit",
            source=str(values["source"]),
            amount=amount_of(unit, abs(amount)),
            balance_after=amount_of(unit, int(values["balance_after"])),
            reason=str(values["reason"]),
            meta=_meta(values["metadata"]),
            grant_id=values["grant_id"],
            usage_event_id=values["event_id"],
            hold_id=values["hold_id"],
            reverses_id=values["reverses_id"],
            user=values["user_id"],
            feature=values["feature"] or None,
            exchange=_exchange(values["exchange"]),
            occurred_at=from_micros(values["occurred_at"]),
            created_at=from_micros(values["created_at"]),
            replayed=replayed,
        )

    def as_replay(self) -> CreditTransaction:
        return replace(self, replayed=True)

    def to_dict(self) -> dict[str, object]:
        """Return the transaction as plain JSON values."""
        exchange = self.exchange
        return {
            "id": self.id,
            "number": self.number,
            "billable": self.billable,
            "unit": self.unit,
            "currency": self.currency,
            "feature_slug": self.feature_slug,
            "type": self.type,
            "source": self.source,
            "amount": _plain(self.amount),
            "balance_after": _plain(self.balance_after),
            "reason": self.reason,
            "meta": dict(self.meta),
            "grant_id": self.grant_id,
            "usage_event_id": self.usage_event_id,
            "hold_id": self.hold_id,
            "reverses_id": self.reverses_id,
            "user": self.user,
            "feature": self.feature,
            "exchange": None if exchange is None else {**exchange.amount.to_dict(), "rate": str(exchange.rate)},
            "occurred_at": _plain(self.occurred_at),
            "created_at": _plain(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class TransactionPage:
    """One page of an account's transactions, the newest first. `next_cursor` asks for the next page; None: the last."""

    transactions: tuple[CreditTransaction, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[CreditTransaction]:
        return iter(self.transactions)

    def __len__(self) -> int:
        return len(self.transactions)

    def __getitem__(self, index: int) -> CreditTransaction:
        return self.transactions[index]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One immutable posting: so much more (below zero: less) on one account of somebody's credits.

    The entries of a transaction sum to zero in each unit.
    """

    transaction_id: str
    position: int
    billable: str
    unit: str
    account: str
    grant_id: str | None
    amount: Amount
    statement_number: int
    created_at: datetime

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> LedgerEntry:
        """Read a row of `ledger_entries`, in the order of its columns."""
        values = dict(zip(_ENTRY_COLUMNS, row, strict=True))
        unit = str(values["unit"])
        return cls(
            transaction_id=str(values["transaction_id"]),
            position=int(values["position"]),
            billable=str(values["billable"]),
            unit=unit,
            account=str(values["account"]),
            grant_id=values["grant_id"],
            amount=amount_of(unit, int(values["amount"])),
            statement_number=int(values["statement_number"]),
            created_at=from_micros(values["created_at"]),
        )


@dataclass(frozen=True, slots=True)
class TopUp:
    """A request for an automatic top-up: pending, then completed (`transaction_id` added the credits) or failed."""

    id: str
    billable: str
    currency: str
    amount: Money
    status: str
    transaction_id: str | None
    note: str | None
    created_at: datetime
    closed_at: datetime | None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> TopUp:
        """Read a row of `top_ups`, in the order of its columns."""
        values = dict(zip(_TOP_UP_COLUMNS, row, strict=True))
        closed_at = values["closed_at"]
        return cls(
            id=str(values["id"]),
            billable=str(values["billable"]),
            currency=str(values["unit"]),
            amount=Money.from_nanos(int(values["amount"]), str(values["unit"])),
            status=str(values["status"]),
            transaction_id=values["transaction_id"],
            note=values["note"],
            created_at=from_micros(values["created_at"]),
            closed_at=None if closed_at is None else from_micros(closed_at),
        )


@dataclass(frozen=True, slots=True)
class AutoTopUp:
    """When a wallet asks to be topped up: below which balance, by how much, and at most how much in a month.

    `state` is "armed", "pending" (asked, and not answered yet) or "paused" (a payment failed).
    """

    below: Money
    amount: Money
    monthly_max: Money | None
    state: str


@dataclass(frozen=True, slots=True)
class SpendingCap:
    """How much of a wallet one user may spend in a period; `user` is None for all users without a cap of their own."""

    user: str | None
    amount: Money
    period: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FeatureUse:
    """What a use took of a feature: of the plan's allowance and of extra credits. `remaining` None is unlimited."""

    amount: int | Decimal
    from_credits: int | Decimal
    from_plan: int | Decimal
    remaining: int | Decimal | None
    usage_event_id: str
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class CreditStats:
    """The figures of a feature in the running reset period. None is unlimited.

    `extra_credits` are those left and those used in this period, so `total_available - used == remaining`, always, and
    no use counts twice.
    """

    plan_limit: int | Decimal | None
    extra_credits: int | Decimal
    total_available: int | Decimal | None
    used: int | Decimal
    remaining: int | Decimal | None
    plan_used: int | Decimal
    extra_used: int | Decimal
    extra_remaining: int | Decimal


@dataclass(frozen=True, slots=True)
class FeatureStatus:
    """How a billable stands to one feature of its plan, or of its grants. Amounts are of the running reset period.

    `value` is the plan's allowance, None where it is unlimited or the feature is not consumable; `remaining` is what a
    new use could take, None where that is unlimited.
    """

    slug: str
    name: str
    is_in_plan: bool
    is_consumable: bool
    value: int | Decimal | None
    display_value: str | None
    is_hidden: bool
    reset: str
    next_reset: datetime | None
    plan_used: int | Decimal
    extra_used: int | Decimal
    extra_remaining: int | Decimal
    remaining: int | Decimal | None


def _status(ended_by: str | None, *, remaining: int, free: int, has_lapsed: bool) -> str:
    # What was taken back may have come again, with a refund that was undone.
    if free > 0:
        return "expired" if has_lapsed else "open"
    if ended_by is not None:
        return "expired" if ended_by == "expiry" else "revoked"
    if not remaining:
        return "spent"
    return "expired" if has_lapsed else "open"


def _meta(stored: str | None) -> Mapping[str, object]:
    return _NO_META if stored is None else json.loads(stored)


def _exchange(stored: str | None) -> Exchange | None:
    if stored is None:
        return None
    values = json.loads(stored)
    return Exchange(Money(values["amount"], values["currency"]), Decimal(values["rate"]))


def _plain(value: object) -> object:
    if isinstance(value, Money):
        return str(value.amount)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
