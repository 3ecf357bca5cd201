"""The schema: created at once or migrated step by step, it is the same; a database of another version is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from tallystick import FixedClock, Tallystick
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
            "is keyed alone": name in _without_rowid(connection),
            "unique": sorted(tuple(unique["column_names"]) for unique in found.get_unique_constraints(name)),
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


def _without_rowid(connection: Connection) -> set[str]:
    """Return SQLite's tables that are stored in the order of their key, which it does not tell by reflection."""
    if connection.dialect.name != "sqlite":
        return set()
    return set(connection.execute(text("SELECT name FROM pragma_table_list WHERE wr")).scalars())


def test_a_migrated_schema_equals_a_fresh_one(empty_database_url: str) -> None:
    engine = _engine(empty_database_url)
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


def test_many_openers_at_once_create_one_schema(empty_database_url: str) -> None:
    def open_and_close(_: int) -> None:
        Tallystick(empty_database_url).close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_close, range(8)))
    engine = _engine(empty_database_url)
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


def test_an_empty_database_is_refused_where_migrating_is_switched_off(empty_database_url: str) -> None:
    with pytest.raises(SchemaOutOfDate, match="tallystick migrate"):
        Tallystick(empty_database_url, auto_migrate=False)


def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    engine = _engine(database_url)
    with engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaOutOfDate, match="Upgrade tallystick"):
        ensure_schema(engine, auto_migrate=True)
    engine.dispose()


# Written by the first version: an hour of use, a call in flight, and what they count.
_OF_THE_FIRST_SCHEMA: dict[str, dict[str, Any]] = {
    "accounts": {"billable": "user:42", "created_at": 1},
    "counters": {
        "billable": "user:42",
        "meter": "tokens",
        "scope": "",
        "period": "monthly",
        "period_start": 1_767_225_600_000_000,
        "used": 100,
        "held": 20,
    },
    "holds": {
        "id": "hld_1",
        "billable": "user:42",
        "status": "open",
        "claims": '[["tokens","","monthly",1767225600000000,20]]',
        "provider": "openai",
        "model": "gpt-4o",
        "feature": "",
        "created_at": 1_768_478_400_000_000,
        "expires_at": 1_768_479_300_000_000,
    },
    "usage_events": {
        "id": "evt_1",
        "billable": "user:42",
        "provider": "openai",
        "model": "gpt-4o",
        "feature": "",
        "resource_type": "completion",
        "quantity": 1_000_000,
        "input_tokens": 60,
        "output_tokens": 40,
        "total_tokens": 100,
        "currency": "USD",
        "billing_mode": "plan",
        "period": "monthly",
        "period_start": 1_767_225_600_000_000,
        "flags": "unpriced",
        "metadata": '{"ticket":1}',
        "occurred_at": 1_768_478_400_000_000,
        "recorded_at": 1_768_478_400_000_000,
    },
} | {
    rollup: {
        "billable": "user:42",
        "bucket_start": start,
        "provider": "openai",
        "model": "gpt-4o",
        "feature": "",
        "resource_type": "completion",
        "currency": "USD",
        "events": 1,
        "unpriced_events": 1,
        "quantity": 1_000_000,
        "input_tokens": 60,
        "output_tokens": 40,
        "total_tokens": 100,
        "total_cost": 0,
    }
    for rollup, start in (("usage_hourly", 1_768_478_400_000_000), ("usage_daily", 1_768_435_200_000_000))
}


def test_what_the_first_version_wrote_is_there_after_the_migration(empty_database_url: str, clock: FixedClock) -> None:
    engine = _engine(empty_database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        command.upgrade(_alembic(connection), "0001")
        for table, row in _OF_THE_FIRST_SCHEMA.items():
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
        connection.exec_driver_sql("COMMIT")
    with Tallystick(empty_database_url, clock=clock) as ts:
        for table, row in _OF_THE_FIRST_SCHEMA.items():
            assert ts._engine.read(partial(_only_row, table=table, names=tuple(row))) == tuple(row.values())
        assert ts.doctor().ok
        assert ts.usage.stats("user:42").totals.total_tokens == 100
        clock.advance(hours=1)
        assert ts.run_due_jobs().holds_expired == 1
        assert ts.usage.log("user:42", "message").billable == "user:42"
        assert ts.doctor().ok
        assert ts.doctor().open_holds == 0
    engine.dispose()


def _only_row(connection: Connection, *, table: str, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(connection.execute(text(f"SELECT {', '.join(names)} FROM {table}")).one())
