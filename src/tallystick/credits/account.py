"""A credit account as a batch sees it: balances, and the grants that are still open, in the order in which they burn.

Amounts are whole numbers of the unit: nanos of a currency, millionths of a feature. These objects are changed while a
batch is decided, by `posting` alone, and saved with it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from tallystick.money import Money
from tallystick.quantity import from_millionths

__all__ = [
    "FEATURE_PREFIX",
    "NEVER",
    "AccountState",
    "CreditKey",
    "CreditPolicy",
    "GrantState",
    "Pin",
    "WalletStanding",
    "amount_of",
    "burn_order",
    "feature_unit",
    "is_money",
]

FEATURE_PREFIX = "feature:"

NEVER = 2**63 - 1
"""An instant after every other, for what does not expire."""


class CreditKey(NamedTuple):
    """Whose credits, in which unit: a currency, or "feature:" and a slug."""

    billable: str
    unit: str


class Pin(NamedTuple):
    """What an open hold has reserved of one grant. An empty grant id is room for overdraft."""

    unit: str
    grant_id: str
    amount: int

    def key(self, billable: str) -> CreditKey:
        """Return the account of the hold's billable that it is of."""
        return CreditKey(billable, self.unit)


def feature_unit(slug: str) -> str:
    """Return the unit in which a feature's extra credits are counted."""
    return FEATURE_PREFIX + slug


def is_money(unit: str) -> bool:
    return not unit.startswith(FEATURE_PREFIX)


def amount_of(unit: str, amount: int) -> Money | int | Decimal:
    """Return an amount in a unit's integers as people say it: Money, or a quantity of a feature."""
    return Money.from_nanos(amount, unit) if is_money(unit) else from_millionths(amount)


@dataclass(frozen=True, slots=True)
class CreditPolicy:
    """What the settings say of every wallet. Amounts are nanos; `overdraft_limit` None is without a floor."""

    expiring_first: bool = False
    overdraft_allowed: bool = False
    overdraft_limit: int | None = None
    minimum_balance: int | None = None


class WalletStanding(NamedTuple):
    """How a wallet stands, in nanos of its currency. `room` is what may be used beyond it; None: without a floor."""

    currency: str
    balance: int
    available: int
    room: int | None


class GrantState:
    """One grant. `remaining` includes `held`, which open holds have pinned; `expires_at` is in µs."""

    __slots__ = (
        "created_at",
        "expires_at",
        "feature",
        "held",
        "id",
        "kind",
        "limit_amount",
        "limit_period",
        "priority",
        "remaining",
        "subscription_id",
        "warned_at",
    )

    def __init__(
        self,
        id: str,  # noqa: A002  # the column's name
        kind: str,
        remaining: int,
        held: int,
        priority: int,
        feature: str | None,
        subscription_id: str | None,
        limit_amount: int | None,
        limit_period: str | None,
        expires_at: int | None,
        warned_at: int | None,
        created_at: int,
    ) -> None:
        self.id = id
        self.kind = kind
        self.remaining = remaining
        self.held = held
        self.priority = priority
        self.feature = feature
        self.subscription_id = subscription_id
        self.limit_amount = limit_amount
        self.limit_period = limit_period
        self.expires_at = expires_at
        self.warned_at = warned_at
        self.created_at = created_at

    @property
    def free(self) -> int:
        """What is neither used nor pinned by a hold."""
        return self.remaining - self.held

    @property
    def is_unrestricted(self) -> bool:
        """Whether any use at any time may take all of it, so that it also pays debts."""
        return self.feature is None and self.subscription_id is None and self.limit_amount is None

    def has_expired(self, at: int) -> bool:
        """Whether the instant of its expiry has come. Until the microsecond before, it can be used."""
        return self.expires_at is not None and self.expires_at <= at

    def is_usable(self, *, feature: str, subscription_id: str | None, at: int) -> bool:
        """Whether a use of this feature, under this subscription, may take of it at an instant (µs)."""
        if self.feature is not None and self.feature != feature:
            return False
        if self.subscription_id is not None and self.subscription_id != subscription_id:
            return False
        return not self.has_expired(at)


def burn_order(grant: GrantState, *, expiring_first: bool) -> tuple[int, int, int, str]:
    """Return a grant's place: lower priority number first; then, by setting, what expires first; then the oldest."""
    expiry = (NEVER if grant.expires_at is None else grant.expires_at) if expiring_first else 0
    return grant.priority, expiry, grant.created_at, grant.id


class AccountState:
    """One account: its balances, its settings, and its open grants in the order in which they burn.

    `is_complete` is false where only the first of many open grants were loaded, up to `read_until`.
    """

    __slots__ = (
        "_before",
        "by_id",
        "changed",
        "exists",
        "expiring_first",
        "grants",
        "held",
        "id",
        "is_complete",
        "key",
        "lapses_at",
        "last_number",
        "minimum_balance",
        "overdraft",
        "overdraft_limit",
        "paid",
        "promotional",
        "read_until",
        "top_up_amount",
        "top_up_below",
        "top_up_monthly_max",
        "top_up_state",
    )

    def __init__(
        self,
        key: CreditKey,
        *,
        id: str = "",  # noqa: A002  # the column's name
        paid: int = 0,
        promotional: int = 0,
        overdraft: int = 0,
        held: int = 0,
        last_number: int = 0,
        top_up_state: str = "armed",
        minimum_balance: int | None = None,
        overdraft_limit: int | None = None,
        top_up_below: int | None = None,
        top_up_amount: int | None = None,
        top_up_monthly_max: int | None = None,
        exists: bool = False,
        expiring_first: bool = False,
    ) -> None:
        self.key = key
        self.id = id
        self.paid = paid
        self.promotional = promotional
        self.overdraft = overdraft
        self.held = held
        self.last_number = last_number
        self.top_up_state = top_up_state
        self.minimum_balance = minimum_balance
        self.overdraft_limit = overdraft_limit
        self.top_up_below = top_up_below
        self.top_up_amount = top_up_amount
        self.top_up_monthly_max = top_up_monthly_max
        self.exists = exists
        self.expiring_first = expiring_first
        self.grants: list[GrantState] = []
        self.by_id: dict[str, GrantState] = {}
        # The grants that were decided on since they were loaded: an account may have thousands that were not.
        self.changed: dict[str, GrantState] = {}
        # The first expiry among these grants: until then none of them has to be looked at for it.
        self.lapses_at = NEVER
        # Where not all open grants were read, the place of the last that was: single ones behind it may be here too.
        self.read_until: tuple[int, int, int, str] | None = None
        self.is_complete = not exists
        self._before = self._columns()

    @property
    def balance(self) -> int:
        """What is posted: below zero where more was used than there was."""
        return self.paid + self.promotional + self.overdraft

    @property
    def available(self) -> int:
        """What a new use could take, before restrictions of single grants: the balance less what holds have pinned."""
        return self.balance - self.held

    @property
    def is_changed(self) -> bool:
        return self._columns() != self._before

    def mark_saved(self) -> None:
        """Note that what is here is what the database has."""
        self.exists = bool(self.id)
        self._before = self._columns()
        if any(grant.remaining == 0 for grant in self.changed.values()):
            self.grants = [grant for grant in self.grants if grant.remaining]
            self.by_id = {grant.id: grant for grant in self.grants}
            self.find_next_expiry()
        self.changed.clear()

    def find_next_expiry(self) -> None:
        """Find the first expiry among the grants that have anything left."""
        expiries = (grant.expires_at for grant in self.grants if grant.remaining and grant.expires_at is not None)
        self.lapses_at = min(expiries, default=NEVER)

    def put(self, grant: GrantState) -> GrantState:
        """Place a grant in its order; one that is known stays as it is, for it may have been decided on."""
        known = self.by_id.get(grant.id)
        if known is not None:
            return known
        self.by_id[grant.id] = grant
        insort(self.grants, grant, key=self._order)
        if grant.expires_at is not None:
            self.lapses_at = min(self.lapses_at, grant.expires_at)
        return grant

    def change(self, grant_id: str) -> GrantState:
        """Return a grant that is about to be changed, so that it is saved."""
        grant = self.by_id[grant_id]
        self.changed[grant_id] = grant
        return grant

    def note_read(self, last: GrantState | None) -> None:
        """Note how far the open grants were read, in their order: all of them, or up to one."""
        self.is_complete = last is None
        self.read_until = None if last is None else self._order(last)

    def in_order(self) -> Iterator[GrantState]:
        """Return the open grants in the order in which they burn, as far as no unread one can stand between them."""
        for grant in self.grants:
            if self.read_until is not None and self._order(grant) > self.read_until:
                return
            yield grant

    def _order(self, grant: GrantState) -> tuple[int, int, int, str]:
        return burn_order(grant, expiring_first=self.expiring_first)

    def _columns(self) -> tuple[object, ...]:
        return (
            self.id,
            self.paid,
            self.promotional,
            self.overdraft,
            self.held,
            self.last_number,
            self.top_up_state,
            self.minimum_balance,
            self.overdraft_limit,
            self.top_up_below,
            self.top_up_amount,
            self.top_up_monthly_max,
        )
