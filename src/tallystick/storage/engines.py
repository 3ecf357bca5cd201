"""Opening the two databases: which driver, which pragmas, and connections for reading and for the lane."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import weakref
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url

from tallystick.errors import ConfigurationError
from tallystick.storage.database import Database
from tallystick.storage.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from tallystick.settings import Settings

__all__ = ["connect_lane", "is_driver_error", "is_sqlite_safe", "open_engine", "sqlite_module", "sqlite_version"]

# Before this version, several connections to one WAL database can, rarely, corrupt it: the "WAL-reset bug" of its
# documentation of WAL mode.
_SQLITE_SAFE_VERSION = (3, 51, 3)
_BUSY_TIMEOUT_SECONDS = 60
_AS_IT_IS: dict[None, None] = {}
_DRIVERS = frozenset({"psycopg", "pysqlite3", "sqlalchemy", "sqlite3"})


def sqlite_module() -> ModuleType:
    """Return the SQLite driver: `pysqlite3`, whose wheel carries a current library, or else Python's own."""
    module: ModuleType = sqlite3
    with contextlib.suppress(ImportError):
        from pysqlite3 import dbapi2

        module = dbapi2
    # For each NULL that is bound the driver looks for an adapter in vain, by way of two exceptions: a fifth of what a
    # call cost the lane. This one is found at once, and leaves it as it is.
    module.register_adapter(type(None), _AS_IT_IS.get)
    return module


def sqlite_version() -> str:
    return str(sqlite_module().sqlite_version)


def is_sqlite_safe() -> bool:
    """Say whether the SQLite library is free of the WAL-reset bug."""
    return tuple(int(part) for part in sqlite_version().split(".")) >= _SQLITE_SAFE_VERSION


def is_driver_error(error: BaseException) -> bool:
    """Say whether the database or its driver raised it. By name, for a driver that is not used is not imported."""
    return any(base.__module__.partition(".")[0] in _DRIVERS for base in type(error).__mro__)


def open_engine(settings: Settings) -> Engine:
    """Return a SQLAlchemy engine whose connections are in autocommit: transactions are begun in so many words.

    Raises:
        ConfigurationError: for a URL of neither database, or a missing driver.
    """
    url = make_url(settings.database_url)
    engine = _open_sqlite(url, settings) if url.get_backend_name() == "sqlite" else _open_postgres(url)
    _engines.add(engine)
    return engine


def connect_lane(engine: Engine) -> Database:
    """Return the lane's own connection."""
    if engine.dialect.name == "sqlite":
        return SqliteDatabase(engine)
    from tallystick.storage.postgres import PostgresDatabase

    return PostgresDatabase(engine)


def _open_sqlite(url: URL, settings: Settings) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "database_url", str(url), 'A database in memory cannot be shared by threads: name a file, "sqlite:///x.db".'
        )
    Path(str(url.database)).expanduser().absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        module=sqlite_module(),
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_SECONDS},
    )
    synchronous = settings.storage.synchronous.upper()

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        _use_wal(cursor)
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.close()

    return engine


def _use_wal(cursor: Any) -> None:
    """Put a new file into WAL mode, which it then stays in.

    Changing the mode does not wait for others as statements do: where two processes open a new file at once, the second
    is told that it is locked, and asks again.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite_module().OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _open_postgres(url: URL) -> Engine:
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=5
        )
    except ImportError:
        raise ConfigurationError(
            "database_url", "postgresql://…", 'PostgreSQL needs its driver: pip install "tallystick[postgres]".'
        ) from None


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _before_fork() -> None:
    """Close the connections that nobody uses: parent and child must not speak through one."""
    for engine in list(_engines):
        engine.dispose()


def _after_fork_in_child() -> None:
    """Leave those that other threads were using to the parent, which alone goes on with them."""
    for engine in list(_engines):
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    # Called in reverse order, so lanes, which register later, have handed their connections back by then.
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
