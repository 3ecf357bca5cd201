"""The workspace: what one batch of commands has read, and what it will write.

Commands name the rows that they need (`want_*`), the database fills them in at once, each command decides in turn over
what is here (and so sees what the commands before it decided), and everything is saved at once. A command changes the
workspace only after it has decided, so one that raises leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING

from tallystick.credits.account import AccountState, CreditKey, CreditPolicy, GrantState, Pin

if TYPE_CHECKING:
    from tallystick.credits.ledger import Entry
    from tallystick.limits.counters import Claim, CounterKey
    from tallystick.plans.terms import Terms

__all__ = ["Counter", "HoldRow", "KeyRow", "MoreNeeded", "RollupKey", "Workspace"]


class MoreNeeded(Exception):
    """A command found out while deciding that it needs more rows. It has said which; load them and ask it again."""


_LISTS = (
    "new_accounts",
    "new_holds",
    "events",
    "overages",
    "usage_charges",
    "credit_transactions",
    "ledger_entries",
    "feature_uses",
    "new_top_ups",
    "closed_top_ups",
    "new_alerts",
    "new_shadow_refusals",
    "new_notifications",
    "new_messages",
)


_BY_NAME = ("closed_holds", "freed_keys", "kept_keys")


AlertsKey = tuple[str, int, str]
"""Which quota's announcements: of its id, its period's start (µs), and the scope of its counter."""


RollupKey = tuple[str, int, str, str, str, str, str]
"""One bucket of use: billable, start (µs), provider, model, feature, resource type, currency."""


class Counter:
    """Used and held amounts of one counter, as read and as decided so far."""

    __slots__ = ("_held_before", "_used_before", "held", "used")

    def __init__(self, used: int = 0, held: int = 0) -> None:
        self.used = used
        self.held = held
        self._used_before = used
        self._held_before = held

    @property
    def is_changed(self) -> bool:
        return self.used != self._used_before or self.held != self._held_before


@dataclass(slots=True)
class HoldRow:
    """A hold as the database has it, with the status that this batch has given it so far."""

    id: str
    billable: str
    status: str
    claims: tuple[Claim, ...]
    expires_at: int
    idempotency_key: str | None = None
    event_id: str | None = None
    pins: tuple[Pin, ...] = ()


@dataclass(slots=True)
class KeyRow:
    """An idempotency key as the database has it: who claimed it, with which input, and the answer if there is one."""

    fingerprint: str
    hold_id: str | None
    event_id: str | None
    outcome: str | None


class Workspace:
    """Rows read and rows to write for one batch. Keyed by names, so that loading twice is harmless."""

    __slots__ = (
        "absent_holds",
        "alerts",
        "billables",
        "closed_holds",
        "closed_top_ups",
        "counters",
        "credit_policy",
        "credit_transactions",
        "credits",
        "daily",
        "entries",
        "events",
        "feature_uses",
        "freed_keys",
        "holds",
        "hourly",
        "kept_keys",
        "keys",
        "lapsed",
        "ledger_entries",
        "new_accounts",
        "new_alerts",
        "new_grants",
        "new_holds",
        "new_messages",
        "new_notifications",
        "new_shadow_refusals",
        "new_top_ups",
        "notices",
        "overages",
        "returned",
        "started_at",
        "terms",
        "usage_charges",
        "wallets",
        "wanted_alerts",
        "wanted_counters",
        "wanted_credits",
        "wanted_entries",
        "wanted_grants",
        "wanted_holds",
        "wanted_keys",
        "wanted_lapsed",
        "wanted_wallets",
    )

    def __init__(self, started_at: int, credit_policy: CreditPolicy | None = None) -> None:
        self.started_at = started_at
        self.credit_policy = credit_policy or CreditPolicy()
        self.billables: set[str] = set()
        self.terms: dict[str, Terms] = {}
        self.wanted_counters: set[CounterKey] = set()
        self.wanted_holds: set[str] = set()
        self.wanted_keys: set[tuple[str, str]] = set()
        self.wanted_lapsed: dict[str, int] = {}
        self.wanted_credits: dict[CreditKey, bool] = {}
        self.wanted_grants: set[str] = set()
        self.wanted_wallets: set[str] = set()
        self.wanted_entries: set[str] = set()
        self.wanted_alerts: set[AlertsKey] = set()
        self.counters: dict[CounterKey, Counter] = {}
        self.holds: dict[str, HoldRow] = {}
        self.absent_holds: set[str] = set()
        self.keys: dict[tuple[str, str], KeyRow | None] = {}
        self.lapsed: dict[str, list[HoldRow]] = {}
        self.new_accounts: list[tuple[object, ...]] = []
        self.new_holds: list[tuple[object, ...]] = []
        self.closed_holds: dict[str, tuple[object, ...]] = {}
        self.events: list[tuple[object, ...]] = []
        self.hourly: dict[RollupKey, tuple[int, ...]] = {}
        self.daily: dict[RollupKey, tuple[int, ...]] = {}
        self.overages: list[tuple[object, ...]] = []
        self.usage_charges: list[tuple[object, ...]] = []
        # A batch may give a key to one call, free it and give it to another; it is in one of both, as it is in the end.
        self.kept_keys: dict[tuple[str, str], tuple[object, ...]] = {}
        self.freed_keys: dict[tuple[str, str], tuple[object, ...]] = {}
        self.credits: dict[CreditKey, AccountState] = {}
        self.wallets: dict[str, tuple[str, ...]] = {}
        self.entries: dict[str, list[Entry]] = {}
        # Transactions of which something was given back, or that were reversed.
        self.returned: set[str] = set()
        self.new_grants: list[tuple[GrantState, tuple[object, ...]]] = []
        self.credit_transactions: list[tuple[object, ...]] = []
        self.ledger_entries: list[tuple[object, ...]] = []
        self.feature_uses: list[tuple[object, ...]] = []
        self.new_top_ups: list[tuple[object, ...]] = []
        self.closed_top_ups: list[tuple[object, ...]] = []
        self.alerts: dict[AlertsKey, set[tuple[int, int]]] = {}
        self.new_alerts: list[tuple[object, ...]] = []
        self.new_shadow_refusals: list[tuple[object, ...]] = []
        self.new_notifications: list[tuple[object, ...]] = []
        self.new_messages: list[tuple[object, ...]] = []
        # What is told of after the commit, besides the answers: holds and grants that ran out, balances that fell.
        self.notices: list[object] = []

    # -- reading ------------------------------------------------------------------------------------------------------

    def want_counter(self, key: CounterKey) -> None:
        if key not in self.counters:
            self.wanted_counters.add(key)

    def want_hold(self, hold_id: str) -> None:
        if hold_id not in self.holds:
            self.wanted_holds.add(hold_id)

    def want_key(self, billable: str, key: str) -> None:
        if (billable, key) not in self.keys:
            self.wanted_keys.add((billable, key))

    def want_lapsed(self, billable: str, at: int) -> None:
        """Ask for the billable's open holds whose time ran out by `at` (µs)."""
        self.wanted_lapsed[billable] = at

    def want_credit(self, key: CreditKey, *, is_all: bool = False) -> None:
        """Ask for a credit account with the first of its open grants, or with all of them."""
        account = self.credits.get(key)
        if account is None or (is_all and not account.is_complete):
            self.wanted_credits[key] = is_all or self.wanted_credits.get(key, False)

    def want_grant(self, grant_id: str) -> None:
        """Ask for a single grant, also one that is used up, of an account that is asked for."""
        self.wanted_grants.add(grant_id)

    def want_wallets(self, billable: str) -> None:
        """Ask in which currencies a billable has wallets, the oldest first."""
        if billable not in self.wallets:
            self.wanted_wallets.add(billable)

    def want_entries(self, transaction_id: str) -> None:
        """Ask for what a transaction has posted, together with everything that gave some of it back."""
        if transaction_id not in self.entries:
            self.wanted_entries.add(transaction_id)

    def want_alerts(self, name: AlertsKey) -> None:
        """Ask which thresholds of a quota were announced in a period."""
        if name not in self.alerts:
            self.wanted_alerts.add(name)

    def forget_wants(self) -> None:
        self.wanted_counters.clear()
        self.absent_holds.update(hold_id for hold_id in self.wanted_holds if hold_id not in self.holds)
        self.wanted_holds.clear()
        self.wanted_keys.clear()
        self.wanted_lapsed.clear()
        self.wanted_credits.clear()
        self.wanted_grants.clear()
        self.wanted_wallets.clear()
        self.wanted_entries.clear()
        self.wanted_alerts.clear()

    def counter(self, key: CounterKey) -> Counter:
        """Return a counter that was loaded. One that was not is a mistake: its absolute value would be overwritten."""
        return self.counters[key]

    # -- writing ------------------------------------------------------------------------------------------------------

    def place_hold(self, hold: HoldRow, row: tuple[object, ...]) -> None:
        self.holds[hold.id] = hold
        for claim in hold.claims:
            self.counters[claim.key].held += claim.amount
        self.new_holds.append(row)

    def close_hold(self, hold: HoldRow, *, status: str, at: int, event_id: str | None = None) -> None:
        """Give a hold its end. What an open one claimed is free again; one that is settled late claimed nothing."""
        if hold.status == "open":
            for claim in hold.claims:
                self.counters[claim.key].held -= claim.amount
        hold.status = status
        hold.event_id = event_id
        self.closed_holds[hold.id] = (status, event_id, at, hold.id)

    def set_key(self, billable: str, key: str, row: KeyRow, *, at: int) -> None:
        """Give a key to a hold, or keep its first answer with it."""
        self.keys[billable, key] = row
        self.freed_keys.pop((billable, key), None)
        self.kept_keys[billable, key] = (billable, key, row.fingerprint, row.hold_id, row.event_id, row.outcome, at)

    def free_key(self, hold: HoldRow) -> None:
        """Let go of the key of a hold that ended without use, unless the key is another's by now."""
        if hold.idempotency_key is None:
            return
        name = hold.billable, hold.idempotency_key
        row = self.keys.get(name)
        if row is not None and row.hold_id != hold.id:
            return
        self.keys[name] = None
        self.kept_keys.pop(name, None)
        self.freed_keys[name] = (*name, hold.id)

    def add_to_rollups(self, hourly: RollupKey, daily: RollupKey, amounts: tuple[int, ...]) -> None:
        """Add one event's amounts to its hour and its day."""
        sums = self.hourly.get(hourly)
        self.hourly[hourly] = amounts if sums is None else tuple(map(add, sums, amounts))
        sums = self.daily.get(daily)
        self.daily[daily] = amounts if sums is None else tuple(map(add, sums, amounts))

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Return everything to write, by the names of `statements.SAVES`; what there is nothing of is left out."""
        found: dict[str, list[tuple[object, ...]]] = {}
        for name in _LISTS:
            rows = getattr(self, name)
            if rows:
                found[name] = rows
        for name in _BY_NAME:
            rows = getattr(self, name)
            if rows:
                found[name] = list(rows.values())
        if self.hourly:
            found["hourly"] = [(*key, *sums) for key, sums in self.hourly.items()]
            found["daily"] = [(*key, *sums) for key, sums in self.daily.items()]
        changed: list[tuple[object, ...]] = [
            (*key, counter.used, counter.held) for key, counter in self.counters.items() if counter.is_changed
        ]
        if changed:
            found["counters"] = changed
        if self.credits:
            found |= self._credit_rows()
        return found

    def _credit_rows(self) -> dict[str, list[tuple[object, ...]]]:
        accounts = [_account_row(account, self.started_at) for account in self.credits.values() if account.is_changed]
        new = {grant.id for grant, _ in self.new_grants}
        changed: list[tuple[object, ...]] = [
            (grant.remaining, grant.held, grant.warned_at, grant.id)
            for account in self.credits.values()
            for grant in account.changed.values()
            if grant.id not in new
        ]
        placed = [(*columns, grant.remaining, grant.held, grant.warned_at) for grant, columns in self.new_grants]
        rows = {"credit_accounts": accounts, "grants": changed, "new_grants": placed}
        return {name: found for name, found in rows.items() if found}

    def mark_saved(self) -> None:
        """Note that the credit accounts are what the database has."""
        for account in self.credits.values():
            account.mark_saved()


def _account_row(account: AccountState, at: int) -> tuple[object, ...]:
    return (
        account.key.billable,
        account.key.unit,
        account.id,
        account.paid,
        account.promotional,
        account.overdraft,
        account.held,
        account.last_number,
        account.top_up_state,
        account.minimum_balance,
        account.overdraft_limit,
        account.top_up_below,
        account.top_up_amount,
        account.top_up_monthly_max,
        at,
    )
