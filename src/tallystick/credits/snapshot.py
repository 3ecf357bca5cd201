"""One moment of the database for several questions, so that their answers agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection

if TYPE_CHECKING:
    from tallystick.engine import Engine

__all__ = ["read_snapshot"]

Answer = TypeVar("Answer")


def read_snapshot(engine: Engine, query: Callable[[Connection], Answer]) -> Answer:
    """Run reads that all see the same moment. They wait for nobody, and nobody waits for them."""

    def look(connection: Connection) -> Answer:
        isolation = "" if connection.dialect.name == "sqlite" else " ISOLATION LEVEL REPEATABLE READ READ ONLY"
        connection.exec_driver_sql("BEGIN" + isolation)
        try:
            return query(connection)
        finally:
            connection.exec_driver_sql("ROLLBACK")

    return engine.read(look)
