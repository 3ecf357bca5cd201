"""The schema: created at once on an empty database, migrated by Alembic on an older one, refused if newer."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from tallystick.errors import SchemaOutOfDate
from tallystick.storage.tables import metadata, terms_revision

__all__ = ["HEAD", "create_schema", "ensure_schema", "migrate_schema", "schema_version"]

HEAD = "0004"
"""The newest migration; a test compares it with the scripts."""

MIGRATIONS = Path(__file__).with_name("migrations")

# Any number will do as long as every process uses the same; it makes processes that start together wait for each other.
_MIGRATION_LOCK = 7_411_981_2026


def schema_version(connection: Connection) -> str | None:
    """Return the migration that the database is at; None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def ensure_schema(engine: Engine, *, auto_migrate: bool) -> None:
    """Bring the database to this version's schema. Processes that start together wait for the one that does it.

    Raises:
        SchemaOutOfDate: the schema is newer, or it is older and `auto_migrate` is off.
    """
    with engine.connect() as connection:
        version = schema_version(connection)
    if version == HEAD:
        return
    if not auto_migrate:
        raise SchemaOutOfDate(
            f"The database is at schema {version or 'none'}, this version needs {HEAD}. Run: tallystick migrate"
        )
    migrate_schema(engine)


def migrate_schema(engine: Engine) -> tuple[str | None, str]:
    """Create or migrate the schema, alone, in one transaction. Returns the version before and after."""
    with engine.connect() as connection:
        _begin_alone(connection)
        try:
            before = schema_version(connection)
            if before is None:
                create_schema(connection)
            elif before != HEAD:
                _upgrade(connection, before)
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
    return before, HEAD


def create_schema(connection: Connection) -> None:
    """Create every table of the newest schema."""
    metadata.create_all(connection)
    connection.execute(terms_revision.insert().values(id=1, revision=0))
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})


def _begin_alone(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("BEGIN")
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})


def _upgrade(connection: Connection, version: str) -> None:
    # Alembic is slow to import and rarely needed.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version not in known:
        raise SchemaOutOfDate(
            f"The database is at schema {version}, which this version ({HEAD}) does not know. Upgrade tallystick."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
