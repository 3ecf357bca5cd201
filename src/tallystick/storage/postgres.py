"""The lane's PostgreSQL connection: rows locked in one order, statements sent in pipelines.

A batch needs two round trips. The first begins, locks the accounts of the batch in key order (so that lanes never
deadlock) and reads; each read is a statement of its own and so sees what was committed before the locks were granted.
The second writes and commits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

from tallystick.credits.account import CreditKey
from tallystick.limits.counters import CounterKey
from tallystick.storage import tables
from tallystick.storage.database import HOLD_COLUMNS, Journal, add_entry, add_grant, hold_from_row, new_account
from tallystick.storage.statements import (
    ACCOUNT_COLUMNS,
    COUNTER_COLUMNS,
    GRANT_COLUMNS,
    GRANTS_FIRST,
    SAVES,
    grants_sql,
    json_rows,
    recordset,
)
from tallystick.storage.workspace import Counter, KeyRow, Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["PostgresDatabase"]

_SAVES = tuple((save.source, save.columns, save.set_sql()) for save in SAVES)
# The update that never happens still locks each row that it meets, and a missing account is made: one ordered pass.
_LOCK = """
INSERT INTO accounts (billable, created_at)
SELECT billable, %s FROM unnest(%s::text[]) AS wanted (billable) ORDER BY billable COLLATE "C"
ON CONFLICT (billable) DO UPDATE SET created_at = accounts.created_at WHERE false
"""
# Whatever the database begins with: what is read after waiting for a lock must be what the one before has committed.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_JOURNAL = "SELECT revision, billable FROM terms_changes WHERE revision > %s ORDER BY revision"
_COUNTER_KEY = COUNTER_COLUMNS[:5]
_COUNTERS = f"""
SELECT {", ".join(f"c.{name}" for name in COUNTER_COLUMNS)} FROM {recordset(tables.counters, _COUNTER_KEY)}
JOIN counters c USING ({", ".join(_COUNTER_KEY)})
"""
_HOLDS = f"SELECT {', '.join(HOLD_COLUMNS)} FROM holds WHERE id = ANY(%s)"
_KEY = ("billable", "key")
_KEYS = f"""
SELECT k.billable, k.key, k.fingerprint, k.hold_id, k.event_id, k.outcome
FROM {recordset(tables.idempotency_keys, _KEY)} JOIN idempotency_keys k USING (billable, key)
"""
_LAPSED_KEY = ("billable", "expires_at")
_LAPSED = f"""
SELECT {", ".join(f"h.{name}" for name in HOLD_COLUMNS)}
FROM {recordset(tables.holds, _LAPSED_KEY)} JOIN holds h ON h.billable = r.billable AND h.expires_at <= r.expires_at
WHERE h.status = 'open' ORDER BY h.id
"""
_CREDIT_KEY = ("billable", "unit")
_ACCOUNTS = f"""
SELECT c.billable, c.unit, {", ".join(f"c.{name}" for name in ACCOUNT_COLUMNS)}
FROM {recordset(tables.credit_accounts, _CREDIT_KEY)} JOIN credit_accounts c USING (billable, unit)
"""
_WANTED_GRANTS = (*_CREDIT_KEY, "remaining")
_GRANTS = {
    expiring_first: "SELECT r.billable, r.unit, g.* FROM "
    + recordset(tables.grants, _WANTED_GRANTS)
    + f" CROSS JOIN LATERAL ({grants_sql(expiring_first=expiring_first)}) g".format(
        billable="r.billable", unit="r.unit", limit="r.remaining"
    )
    for expiring_first in (False, True)
}
_GRANT = f"SELECT g.billable, g.unit, {', '.join(f'g.{name}' for name in GRANT_COLUMNS)} FROM"
_LAPSED_GRANTS = f"""
{_GRANT} {recordset(tables.grants, _CREDIT_KEY)} JOIN grants g USING (billable, unit)
WHERE g.remaining > 0 AND g.expires_at IS NOT NULL AND g.expires_at <= %s
"""
_SINGLE_GRANTS = f"{_GRANT} grants g WHERE g.id = ANY(%s)"
_WALLETS = """
SELECT billable, unit FROM credit_accounts WHERE billable = ANY(%s) AND substr(unit, 1, 8) <> 'feature:'
ORDER BY created_at, unit
"""
# In the order of posting, the transaction first.
_ENTRIES = """
SELECT transaction_id AS root, billable, unit, account, amount, grant_id, 0 AS is_return, statement_number, position
FROM ledger_entries WHERE transaction_id = ANY(%(ids)s)
UNION ALL
SELECT t.reverses_id, e.billable, e.unit, e.account, e.amount, e.grant_id, 1, e.statement_number, e.position
FROM (SELECT DISTINCT id, reverses_id FROM credit_transactions WHERE reverses_id = ANY(%(ids)s)) t
JOIN ledger_entries e ON e.transaction_id = t.id
ORDER BY is_return, statement_number, position
"""
_ALERTS_KEY = ("quota_id", "period_start", "scope")
_ALERTS = f"""
SELECT a.quota_id, a.period_start, a.scope, a.threshold, a.limit_value
FROM {recordset(tables.quota_alerts, _ALERTS_KEY)} JOIN quota_alerts a USING ({", ".join(_ALERTS_KEY)})
"""
_NO_LIMIT = 2**62
# Everything here is looked up by key. Plans are made once and kept, and one that was made while a table was small would
# go on reading it whole when it has grown.
_SESSION = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off"


class PostgresDatabase:
    """The `Database` of the lane on PostgreSQL."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        self._driver: psycopg.Connection[Any] = self._connection.connection.driver_connection  # type: ignore[assignment]  # the pool's type is any driver's
        self._driver.execute(_SESSION)

    def start(self, workspace: Workspace, *, since_revision: int) -> Journal:
        driver = self._driver
        with driver.pipeline():
            driver.execute(_BEGIN)
            driver.execute(_LOCK, (workspace.started_at, sorted(workspace.billables)))
            journal = driver.execute(_JOURNAL, (since_revision,))
            self._load(workspace)
            return journal.fetchall()

    def load(self, workspace: Workspace) -> None:
        with self._driver.pipeline():
            self._load(workspace)

    def _load(self, workspace: Workspace) -> None:
        """Send every query first, then read every answer: one round trip."""
        execute = self._driver.execute
        wanted = workspace
        counters = wanted.wanted_counters and execute(_COUNTERS, (json_rows(_COUNTER_KEY, wanted.wanted_counters),))
        holds = wanted.wanted_holds and execute(_HOLDS, (list(wanted.wanted_holds),))
        keys = wanted.wanted_keys and execute(_KEYS, (json_rows(_KEY, wanted.wanted_keys),))
        lapsed = wanted.wanted_lapsed and execute(_LAPSED, (json_rows(_LAPSED_KEY, wanted.wanted_lapsed.items()),))
        has_credits = wanted.wanted_credits or wanted.wanted_grants or wanted.wanted_wallets or wanted.wanted_entries
        credit_answers = self._ask_for_credits(workspace) if has_credits else None
        alerts = wanted.wanted_alerts and execute(_ALERTS, (json_rows(_ALERTS_KEY, wanted.wanted_alerts),))
        if counters:
            workspace.counters.update((key, Counter()) for key in workspace.wanted_counters)
            for row in counters:
                workspace.counters[CounterKey(*row[:5])] = Counter(*row[5:])
        if holds:
            for row in holds:
                workspace.holds[row[0]] = hold_from_row(row)
        if keys:
            workspace.keys.update(dict.fromkeys(workspace.wanted_keys))
            for row in keys:
                workspace.keys[row[0], row[1]] = KeyRow(*row[2:])
        if lapsed:
            for billable in workspace.wanted_lapsed:
                workspace.lapsed[billable] = []
            for row in lapsed:
                hold = workspace.holds.setdefault(row[0], hold_from_row(row))
                workspace.lapsed[hold.billable].append(hold)
        if alerts:
            _read_alerts(workspace, alerts)
        if credit_answers is not None:
            _read_credits(workspace, *credit_answers)
        workspace.forget_wants()

    def _ask_for_credits(self, workspace: Workspace) -> tuple[Any, ...]:
        execute = self._driver.execute
        wanted = workspace.wanted_credits
        expiring_first = workspace.credit_policy.expiring_first
        limits = [(*key, _NO_LIMIT if is_all else GRANTS_FIRST + 1) for key, is_all in wanted.items()]
        keys = json_rows(_CREDIT_KEY, wanted)
        accounts = wanted and execute(_ACCOUNTS, (keys,))
        grants = wanted and execute(_GRANTS[expiring_first], (json_rows(_WANTED_GRANTS, limits),))
        lapsed = wanted and execute(_LAPSED_GRANTS, (keys, workspace.started_at))
        single = workspace.wanted_grants and execute(_SINGLE_GRANTS, (list(workspace.wanted_grants),))
        wallets = workspace.wanted_wallets and execute(_WALLETS, (list(workspace.wanted_wallets),))
        entries = workspace.wanted_entries and execute(_ENTRIES, {"ids": list(workspace.wanted_entries)})
        return accounts, grants, lapsed, single, wallets, entries

    def load_terms(self, load: Callable[[Connection], None]) -> None:
        load(self._connection)

    def save_and_commit(self, workspace: Workspace) -> None:
        with self._driver.pipeline(), self._driver.cursor() as cursor:
            rows = workspace.rows()
            for source, columns, sql in _SAVES:
                if source in rows:
                    cursor.execute(sql, (json_rows(columns, rows[source]),))
            cursor.execute("COMMIT")

    def rollback(self) -> None:
        if not self._driver.closed:
            self._driver.execute("ROLLBACK")

    def transact(self, work: Callable[[Connection], object]) -> object:
        self._driver.execute(_BEGIN)
        result = work(self._connection)
        self._driver.execute("COMMIT")
        return result

    def is_lost(self, error: BaseException) -> bool:
        if self._driver.closed:
            return True
        # An error with a code is the server's answer: it has undone the transaction and is still there.
        return isinstance(error, psycopg.OperationalError) and error.sqlstate is None

    def close(self) -> None:
        self._connection.close()

    def discard(self) -> None:
        self._connection.invalidate()
        self._connection.close()


def _read_credits(
    workspace: Workspace, accounts: Any, grants: Any, lapsed: Any, single: Any, wallets: Any, entries: Any
) -> None:
    wanted = workspace.wanted_credits
    expiring_first = workspace.credit_policy.expiring_first
    if accounts:
        found = {CreditKey(*row[:2]): row[2:] for row in accounts}
        for key in wanted:
            if key not in workspace.credits:
                workspace.credits[key] = new_account(key, found.get(key), expiring_first=expiring_first)
    read: dict[CreditKey, list[str]] = defaultdict(list)
    for row in grants or ():
        key = CreditKey(*row[:2])
        read[key].append(row[2])
        add_grant(workspace, key, row[2:])
    for key, is_all in wanted.items():
        account, ids = workspace.credits[key], read[key]
        account.note_read(None if is_all or len(ids) <= GRANTS_FIRST else account.by_id[ids[-1]])
    for rows in (lapsed, single):
        for row in rows or ():
            add_grant(workspace, CreditKey(*row[:2]), row[2:])
    for billable in workspace.wanted_wallets:
        workspace.wallets[billable] = ()
    for billable, unit in wallets or ():
        workspace.wallets[billable] += (unit,)
    for transaction_id in workspace.wanted_entries:
        workspace.entries[transaction_id] = []
    for row in entries or ():
        add_entry(workspace, row)


def _read_alerts(workspace: Workspace, alerts: Any) -> None:
    workspace.alerts.update((name, set()) for name in workspace.wanted_alerts)
    for quota_id, period_start, scope, threshold, limit in alerts:
        workspace.alerts[quota_id, period_start, scope].add((threshold, limit))
