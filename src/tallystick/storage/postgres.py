"""The lane's PostgreSQL connection: rows locked in one order, statements sent in pipelines.

A batch needs two round trips. The first begins, locks the accounts of the batch in key order (so that lanes never
deadlock) and reads; each read is a statement of its own and so sees what was committed before the locks were granted.
The second writes and commits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

from tallystick.limits.counters import CounterKey
from tallystick.storage import tables
from tallystick.storage.database import Journal, hold_from_row
from tallystick.storage.statements import COUNTER_COLUMNS, SAVES, json_rows, recordset
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
_HOLD_COLUMNS = "id, billable, status, claims, expires_at, idempotency_key, event_id"
_HOLDS = f"SELECT {_HOLD_COLUMNS} FROM holds WHERE id = ANY(%s)"
_KEY = ("billable", "key")
_KEYS = f"""
SELECT k.billable, k.key, k.fingerprint, k.hold_id, k.event_id, k.outcome
FROM {recordset(tables.idempotency_keys, _KEY)} JOIN idempotency_keys k USING (billable, key)
"""
_LAPSED_KEY = ("billable", "expires_at")
_LAPSED = f"""
SELECT h.id, h.billable, h.status, h.claims, h.expires_at, h.idempotency_key, h.event_id
FROM {recordset(tables.holds, _LAPSED_KEY)} JOIN holds h ON h.billable = r.billable AND h.expires_at <= r.expires_at
WHERE h.status = 'open' ORDER BY h.id
"""
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
        workspace.forget_wants()

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
