"""The schema: created at once or migrated step by step, it is the same; a database of another version is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from tallystick import Tallystick
from tallystick.errors import SchemaOutOfDate
from tallystick.settings import Settings
from tallystick.storage.engines import open_engine
from tallystick.storage.schema import HEAD, MIGRATIONS, create_schema, ensure_schema, schema_version
from tallystick.storage.tables import metadata


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _engine(url: str) -> Engine:
    return open_engine(Settings.load(url))


def _description(connection: Connection) -> dict[str, object]:
    """Return tables, columns, keys and indexes as the database itself tells them."""
    found = inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"]) for column in found.get_columns(name)
            },
            "key": found.get_pk_constraint(name)["constrained_columns"],
            "indexes": sorted(
                (
                    index["name"] or "",
                    tuple(index["column_names"]),
                    bool(index["unique"]),
                    sorted((name, str(value)) for name, value in index.get("dialect_options", {}).items()),
                )
                for index in found.get_indexes(name)
            ),
        }
        for name in sorted(found.get_table_names())
    }


def test_a_migrated_schema_equals_a_fresh_one(database_url: str) -> None:
    engine = _engine(database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        command.upgrade(_alembic(connection), "head")
        migrated = _description(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN")
        create_schema(connection)
        fresh = _description(connection)
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()
    assert migrated.keys() > {"usage_events", "counters", "holds"}
    assert migrated == fresh


def test_the_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_many_openers_at_once_create_one_schema(database_url: str) -> None:
    def open_and_close(_: int) -> None:
        Tallystick(database_url).close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_close, range(8)))
    engine = _engine(database_url)
    with engine.connect() as connection:
        assert schema_version(connection) == HEAD
        assert connection.execute(text("SELECT count(*) FROM terms_revision")).scalar() == 1
    engine.dispose()


def test_openers_of_a_new_file_wait_for_each_other(tmp_path: Path) -> None:
    """Putting a file into WAL mode fails at once where another connection is doing it, instead of waiting."""
    for number in range(8):
        url = f"sqlite:///{tmp_path}/{number}.db"
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _, url=url: Tallystick(url).close(), range(16)))


def test_an_empty_database_is_refused_where_migrating_is_switched_off(database_url: str) -> None:
    with pytest.raises(SchemaOutOfDate, match="tallystick migrate"):
        Tallystick(database_url, auto_migrate=False)


def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    Tallystick(database_url).close()
    engine = _engine(database_url)
    with engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaOutOfDate, match="Upgrade tallystick"):
        ensure_schema(engine, auto_migrate=True)
    engine.dispose()
