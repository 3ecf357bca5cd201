"""What an operator does with a database besides opening an engine on it: look at its schema, and migrate it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from tallystick.errors import StorageError
from tallystick.storage.engines import is_sqlite_safe, open_engine, sqlite_version
from tallystick.storage.schema import HEAD, migrate_schema, schema_version

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tallystick.settings import Settings

__all__ = ["DatabaseState", "SchemaChange", "look_at_database", "migrate_database"]


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """A database as it is found. `schema` is None where there is none yet, also where an SQLite file does not exist.

    `sqlite_version` is None for PostgreSQL; `is_sqlite_safe` says that the library is free of the WAL-reset bug.
    """

    kind: str
    schema: str | None
    schema_needed: str
    sqlite_version: str | None
    is_sqlite_safe: bool

    @property
    def is_current(self) -> bool:
        return self.schema == self.schema_needed


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """The schema's version before a migration (None: there was none) and after it."""

    before: str | None
    after: str


def look_at_database(settings: Settings) -> DatabaseState:
    """Say which schema a database has. Nothing is created or changed, not even an empty SQLite file.

    Raises:
        ConfigurationError: the URL cannot be used. StorageError: the database cannot be reached.
    """
    if not settings.database_url.startswith("sqlite"):
        return DatabaseState("postgresql", _schema(settings), HEAD, None, is_sqlite_safe=True)
    file = make_url(settings.database_url).database
    schema = None if file and not Path(file).exists() else _schema(settings)
    return DatabaseState("sqlite", schema, HEAD, sqlite_version(), is_sqlite_safe=is_sqlite_safe())


def migrate_database(settings: Settings) -> SchemaChange:
    """Bring a database to this version's schema, creating what is missing. A current one stays as it is.

    Raises:
        ConfigurationError: the URL cannot be used. StorageError: the database cannot be reached.
        SchemaOutOfDate: the schema is newer than this version knows.
    """
    engine = open_engine(settings)
    try:
        before, after = migrate_schema(engine)
    except SQLAlchemyError as error:
        raise _unreachable(error) from error
    finally:
        engine.dispose()
    return SchemaChange(before, after)


def _schema(settings: Settings) -> str | None:
    engine = open_engine(settings)
    try:
        return _schema_of(engine)
    except SQLAlchemyError as error:
        raise _unreachable(error) from error
    finally:
        engine.dispose()


def _schema_of(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return schema_version(connection)


def _unreachable(error: SQLAlchemyError) -> StorageError:
    # The driver's own words; SQLAlchemy adds links to its documentation.
    return StorageError(f"The database cannot be opened: {str(getattr(error, 'orig', None) or error).strip()}")
