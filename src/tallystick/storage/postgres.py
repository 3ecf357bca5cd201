"""The lane's PostgreSQL connection: rows locked in one order, statements sent in pipelines.

A batch needs two round trips. The first begins, locks the accounts of the batch in key order (so that lanes never
deadlock) and reads; each read is a statement of its own and so sees what was committed before the locks were granted.
The second writes and commits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

from tallystick.storage.database import Journal, hold_from_row
from tallystick.storage.statements import SAVES
from tallystick.storage.workspace import Counter, CounterKey, KeyRow, Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["PostgresDatabase"]

_SAVES = tuple((save.source, save.sql("%s")) for save in SAVES)
# The update that never happens still locks each row that it meets, and a missing account is made: one ordered pass.
_LOCK = """
INSERT INTO accounts (billable, created_at)
SELECT billable, %s FROM unnest(%s::text[]) AS wanted (billable) ORDER BY billable COLLATE "C"
ON CONFLICT (billable) DO UPDATE SET created_at = accounts.created_at WHERE false
"""
_JOURNAL = "SELECT revision, billable FROM terms_changes WHERE revision > %s ORDER BY revision"
_COUNTERS = """
SELECT billable, meter, scope, period, period_start, used, held FROM counters
WHERE (billable, meter, scope, period, period_start)
   IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[]))
"""
_HOLD_COLUMNS = "id, billable, status, claims, expires_at, idempotency_key, event_id"
_HOLDS = f"SELECT {_HOLD_COLUMNS} FROM holds WHERE id = ANY(%s)"
_KEYS = """
SELECT billable, key, fingerprint, hold_id, event_id, outcome FROM idempotency_keys
WHERE (billable, key) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_LAPSED = f"""
SELECT {_HOLD_COLUMNS} FROM holds JOIN unnest(%s::text[], %s::bigint[]) AS wanted (who, at)
    ON billable = who AND expires_at <= at
WHERE status = 'open' ORDER BY id
"""


class PostgresDatabase:
    """The `Database` of the lane on PostgreSQL."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        self._driver: psycopg.Connection[Any] = self._connection.connection.driver_connection  # type: ignore[assignment]  # the pool's type is any driver's

    def start(self, workspace: Workspace, *, since_revision: int) -> Journal:
        driver = self._driver
        with driver.pipeline():
            driver.execute("BEGIN")
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
        counters = workspace.wanted_counters and execute(_COUNTERS, _columns(workspace.wanted_counters, 5))
        holds = workspace.wanted_holds and execute(_HOLDS, (list(workspace.wanted_holds),))
        keys = workspace.wanted_keys and execute(_KEYS, _columns(workspace.wanted_keys, 2))
        lapsed = workspace.wanted_lapsed and execute(_LAPSED, _columns(workspace.wanted_lapsed.items(), 2))
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
            for source, sql in _SAVES:
                if source in rows:
                    cursor.executemany(sql, rows[source])
            cursor.execute("COMMIT")

    def rollback(self) -> None:
        if not self._driver.closed:
            self._driver.execute("ROLLBACK")

    def transact(self, work: Callable[[Connection], object]) -> object:
        self._driver.execute("BEGIN")
        result = work(self._connection)
        self._driver.execute("COMMIT")
        return result

    def is_lost(self, error: BaseException) -> bool:
        return self._driver.closed or isinstance(error, psycopg.OperationalError)

    def close(self) -> None:
        self._connection.close()


def _columns(rows: Any, width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
