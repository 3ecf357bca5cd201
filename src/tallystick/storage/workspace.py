"""The workspace: what one batch of commands has read, and what it will write.

Commands name the rows that they need (`want_*`), the database fills them in at once, each command decides in turn over
what is here (and so sees what the commands before it decided), and everything is saved at once. A command changes the
workspace only after it has decided, so one that raises leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
)


_BY_NAME = ("closed_holds", "freed_keys", "kept_keys")


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
        "billables",
        "closed_holds",
        "counters",
        "daily",
        "events",
        "expired",
        "freed_keys",
        "holds",
        "hourly",
        "kept_keys",
        "keys",
        "lapsed",
        "new_accounts",
        "new_holds",
        "overages",
        "started_at",
        "terms",
        "wanted_counters",
        "wanted_holds",
        "wanted_keys",
        "wanted_lapsed",
    )

    def __init__(self, started_at: int) -> None:
        self.started_at = started_at
        self.billables: set[str] = set()
        self.terms: dict[str, Terms] = {}
        self.wanted_counters: set[CounterKey] = set()
        self.wanted_holds: set[str] = set()
        self.wanted_keys: set[tuple[str, str]] = set()
        self.wanted_lapsed: dict[str, int] = {}
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
        # A batch may give a key to one call, free it and give it to another; it is in one of both, as it is in the end.
        self.kept_keys: dict[tuple[str, str], tuple[object, ...]] = {}
        self.freed_keys: dict[tuple[str, str], tuple[object, ...]] = {}
        self.expired: list[HoldRow] = []

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

    def forget_wants(self) -> None:
        self.wanted_counters.clear()
        self.absent_holds.update(hold_id for hold_id in self.wanted_holds if hold_id not in self.holds)
        self.wanted_holds.clear()
        self.wanted_keys.clear()
        self.wanted_lapsed.clear()

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
        return found
