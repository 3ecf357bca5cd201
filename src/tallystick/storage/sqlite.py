"""The lane's SQLite connection: WAL, `BEGIN IMMEDIATE`, full durability.

One writer at a time is SQLite's own rule; `BEGIN IMMEDIATE` takes that place before anything is read, so what a
batch has read cannot change before it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from tallystick.credits.account import AccountState, CreditKey
from tallystick.limits.counters import CounterKey
from tallystick.storage.database import HOLD_COLUMNS, Journal, add_entry, add_grant, hold_from_row, new_account
from tallystick.storage.statements import ACCOUNT_COLUMNS, GRANT_COLUMNS, GRANTS_FIRST, SAVES, grants_sql
from tallystick.storage.workspace import Counter, HoldRow, KeyRow, Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["SqliteDatabase"]

_SAVES = tuple((save.source, save.row_sql()) for save in SAVES)
_JOURNAL = "SELECT revision, billable FROM terms_changes WHERE revision > ? ORDER BY revision"
_COUNTER = (
    "SELECT used, held FROM counters WHERE billable = ? AND meter = ? AND scope = ? AND period = ? AND period_start = ?"
)
_HOLD = f"SELECT {', '.join(HOLD_COLUMNS)} FROM holds"

_REMEMBERED_MAX = 200_000

# Each active billable has pages of its own in every index. The usual cache of 2 MB is too small for a thousand of them,
# and a checkpoint every 4 MB of log would write the same pages out again and again.
_PRAGMAS = ("cache_size = -65536", "wal_autocheckpoint = 8192")

# Many rows are read by statements for fixed numbers of keys, so that each is compiled once and kept by the driver.
_PORTIONS = (64, 8, 1)
_COUNTERS = {
    size: "WITH wanted (billable, meter, scope, period, period_start) AS "
    f"(VALUES {', '.join(['(?, ?, ?, ?, ?)'] * size)}) "
    "SELECT billable, meter, scope, period, period_start, used, held FROM wanted "
    "JOIN counters USING (billable, meter, scope, period, period_start)"
    for size in _PORTIONS
}
_HOLDS = {size: f"{_HOLD} WHERE id IN ({', '.join(['?'] * size)})" for size in _PORTIONS}
_ACCOUNT = f"SELECT {', '.join(ACCOUNT_COLUMNS)} FROM credit_accounts WHERE billable = ? AND unit = ?"
_GRANTS = {
    expiring_first: grants_sql(expiring_first=expiring_first).format(billable="?", unit="?", limit="?")
    for expiring_first in (False, True)
}
_GRANT = f"SELECT {', '.join(GRANT_COLUMNS)} FROM grants"
_LAPSED_GRANTS = (
    f"{_GRANT} WHERE billable = ? AND unit = ? AND remaining > 0 AND expires_at IS NOT NULL AND expires_at <= ?"
)
_SINGLE_GRANT = f"SELECT billable, unit, {', '.join(GRANT_COLUMNS)} FROM grants WHERE id = ?"
_WALLETS = (
    "SELECT unit FROM credit_accounts WHERE billable = ? AND substr(unit, 1, 8) <> 'feature:' ORDER BY created_at, unit"
)
# In the order of posting, the transaction first.
_ENTRIES = """
SELECT ?1, billable, unit, account, amount, grant_id, transaction_id <> ?1 AS is_return, statement_number, position
FROM ledger_entries
WHERE transaction_id = ?1 OR transaction_id IN (SELECT id FROM credit_transactions WHERE reverses_id = ?1)
ORDER BY is_return, statement_number, position
"""
_ALERTS = "SELECT threshold, limit_value FROM quota_alerts WHERE quota_id = ? AND period_start = ? AND scope = ?"
_NO_LIMIT = -1
_KEY = "SELECT fingerprint, hold_id, event_id, outcome FROM idempotency_keys WHERE billable = ? AND key = ?"


class SqliteDatabase:
    """The `Database` of the lane on SQLite.

    Counters and open holds that a batch has left behind are remembered for the next. `PRAGMA data_version` changes with
    every commit of any other connection, in this process or another, so while it stands still they are what the file
    holds; the lane's own commits are what they were remembered from.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        driver: Any = self._connection.connection.driver_connection
        self._driver = driver
        self._cursor: Any = driver.cursor()
        for pragma in _PRAGMAS:
            self._cursor.execute(f"PRAGMA {pragma}")
        self._data_version = -1
        self._counters: dict[CounterKey, tuple[int, int]] = {}
        self._holds: dict[str, HoldRow] = {}
        self._credits: dict[CreditKey, AccountState] = {}

    def start(self, workspace: Workspace, *, since_revision: int) -> Journal:
        self._cursor.execute("BEGIN IMMEDIATE")
        [data_version] = self._cursor.execute("PRAGMA data_version").fetchone()
        journal: Journal = []
        if data_version != self._data_version or max(len(self._counters), len(self._credits)) > _REMEMBERED_MAX:
            self._forget()
            self._data_version = data_version
            journal = self._cursor.execute(_JOURNAL, (since_revision,)).fetchall()
        self.load(workspace)
        return journal

    def load(self, workspace: Workspace) -> None:
        execute = self._cursor.execute
        self._load_counters(workspace)
        self._load_holds(workspace)
        for billable, key in workspace.wanted_keys:
            row = execute(_KEY, (billable, key)).fetchone()
            workspace.keys[billable, key] = KeyRow(*row) if row else None
        for billable, at in workspace.wanted_lapsed.items():
            rows = execute(
                f"{_HOLD} WHERE status = 'open' AND billable = ? AND expires_at <= ? ORDER BY id", (billable, at)
            ).fetchall()
            workspace.lapsed[billable] = [workspace.holds.setdefault(row[0], hold_from_row(row)) for row in rows]
        if workspace.wanted_credits or workspace.wanted_grants or workspace.wanted_wallets or workspace.wanted_entries:
            self._load_credits(workspace)
        for name in workspace.wanted_alerts:
            workspace.alerts[name] = set(execute(_ALERTS, name).fetchall())
        workspace.forget_wants()

    def _load_credits(self, workspace: Workspace) -> None:
        execute = self._cursor.execute
        for key, is_all in workspace.wanted_credits.items():
            remembered = self._credits.get(key)
            if remembered is not None:
                workspace.credits.setdefault(key, remembered)
            else:
                self._load_account(workspace, key, is_all=is_all)
        for grant_id in workspace.wanted_grants:
            row = execute(_SINGLE_GRANT, (grant_id,)).fetchone()
            if row is not None:
                add_grant(workspace, CreditKey(row[0], row[1]), row[2:])
        for billable in workspace.wanted_wallets:
            workspace.wallets[billable] = tuple(row[0] for row in execute(_WALLETS, (billable,)))
        for transaction_id in workspace.wanted_entries:
            workspace.entries[transaction_id] = []
            for row in execute(_ENTRIES, (transaction_id,)).fetchall():
                add_entry(workspace, row)

    def _load_account(self, workspace: Workspace, key: CreditKey, *, is_all: bool) -> None:
        execute = self._cursor.execute
        expiring_first = workspace.credit_policy.expiring_first
        account = workspace.credits.get(key)
        if account is None:
            row = execute(_ACCOUNT, key).fetchone()
            account = new_account(key, row, expiring_first=expiring_first)
            workspace.credits[key] = account
            if row is None:
                return
        limit = _NO_LIMIT if is_all else GRANTS_FIRST + 1
        rows = execute(_GRANTS[expiring_first], (*key, limit)).fetchall()
        for row in rows:
            add_grant(workspace, key, row)
        account.note_read(None if is_all or len(rows) <= GRANTS_FIRST else account.by_id[rows[-1][0]])
        if not account.is_complete:
            for row in execute(_LAPSED_GRANTS, (*key, workspace.started_at)).fetchall():
                add_grant(workspace, key, row)

    def _load_holds(self, workspace: Workspace) -> None:
        unknown: list[str] = []
        for hold_id in workspace.wanted_holds:
            remembered = self._holds.get(hold_id)
            if remembered is None:
                unknown.append(hold_id)
            else:
                workspace.holds[hold_id] = remembered
        for some in _portions(tuple(unknown)):
            for row in self._cursor.execute(_HOLDS[len(some)], some):
                workspace.holds[row[0]] = hold_from_row(row)

    def _load_counters(self, workspace: Workspace) -> None:
        counters = workspace.counters
        unknown: list[CounterKey] = []
        for key in workspace.wanted_counters:
            remembered = self._counters.get(key)
            if remembered is None:
                unknown.append(key)
            else:
                counters[key] = Counter(*remembered)
        for some in _portions(tuple(unknown)):
            if len(some) == 1:
                row = self._cursor.execute(_COUNTER, some[0]).fetchone()
                counters[some[0]] = Counter(*row) if row else Counter()
            else:
                counters.update((key, Counter()) for key in some)
                for row in self._cursor.execute(_COUNTERS[len(some)], tuple(chain.from_iterable(some))):
                    counters[CounterKey(*row[:5])] = Counter(row[5], row[6])

    def load_terms(self, load: Callable[[Connection], None]) -> None:
        load(self._connection)

    def save_and_commit(self, workspace: Workspace) -> None:
        rows = workspace.rows()
        for source, sql in _SAVES:
            if source in rows:
                self._cursor.executemany(sql, rows[source])
        self._cursor.execute("COMMIT")
        self._remember(workspace)

    def _remember(self, workspace: Workspace) -> None:
        if workspace.credits:
            workspace.mark_saved()
            for key, account in workspace.credits.items():
                if account.is_complete:
                    self._credits[key] = account
        self._counters.update((key, (one.used, one.held)) for key, one in workspace.counters.items())
        for hold_id, hold in workspace.holds.items():
            if hold.status == "open":
                self._holds[hold_id] = hold
            else:
                self._holds.pop(hold_id, None)

    def _forget(self) -> None:
        self._data_version = -1
        self._counters.clear()
        self._holds.clear()
        self._credits.clear()

    def rollback(self) -> None:
        # Decisions that are undone have changed the holds in memory.
        self._forget()
        if self._driver.in_transaction:
            self._cursor.execute("ROLLBACK")

    def transact(self, work: Callable[[Connection], object]) -> object:
        # What the work changes, this connection would not see as a change.
        self._forget()
        self._cursor.execute("BEGIN IMMEDIATE")
        result = work(self._connection)
        self._cursor.execute("COMMIT")
        return result

    def is_lost(self, error: BaseException) -> bool:  # noqa: ARG002  # a file does not hang up: no error of SQLite's means it
        return False

    def close(self) -> None:
        self._connection.close()

    def discard(self) -> None:
        self._connection.invalidate()
        self._connection.close()


def _portions(keys: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Cut keys into portions of the sizes that there are statements for."""
    start = 0
    for size in _PORTIONS:
        while len(keys) - start >= size:
            yield keys[start : start + size]
            start += size
