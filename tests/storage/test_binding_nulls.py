"""SQLite's driver is told how to bind NULL, which is dear where it has to find out."""

from __future__ import annotations

from contextlib import closing

from tallystick.storage.engines import sqlite_module


def test_the_driver_finds_an_adapter_for_null_at_once() -> None:
    module = sqlite_module()
    assert (type(None), module.PrepareProtocol) in module.adapters


def test_null_stays_null() -> None:
    with closing(sqlite_module().connect(":memory:")) as connection:
        connection.execute("CREATE TABLE kept (id INTEGER, value TEXT)")
        connection.executemany("INSERT INTO kept VALUES (?, ?)", [(1, None), (2, "some")])
        assert connection.execute("SELECT value FROM kept WHERE id IS ?", (1,)).fetchall() == [(None,)]
        assert connection.execute("SELECT id FROM kept WHERE value IS ?", (None,)).fetchall() == [(1,)]
