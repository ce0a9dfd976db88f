"""Fixtures that every suite may ask for. Servers start when the first test wants one, and end with the run."""

import gc
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path

import pytest

from common.config import limits_of_process, settings_of_process
from common.db import Database
from common.db.migrate import upgrade
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.processes import Processes
from tests.support.scratch import scratch_folder, waits_for_disk
from tests.support.statements import share_compiled_statements
from tests.support.valkey import DATABASES, ValkeyServer, emptied_database, valkey_server

SQLITE = "sqlite"
POSTGRESQL = "postgresql"

share_compiled_statements()


def pytest_collection_finish() -> None:
    """What was loaded and collected stays: looking through it for garbage, again and again, takes a twentieth of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def migrate(url: str) -> None:
    """Bring the database at `url` to the newest schema and let go of it."""
    database = Database.open(url)
    try:
        upgrade(database)
    finally:
        database.dispose()


@pytest.fixture(autouse=True)
def settings_of_this_test() -> None:
    """What a process reads from its environment once, each test reads anew."""
    settings_of_process.cache_clear()
    limits_of_process.cache_clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this run (`TEST_DATABASE_URL`, else one from the wheel)."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, dropped after the test."""
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database of this test's own, dropped after it."""
    name = postgres.create_database(template=postgres.template("migrated", migrate))
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests copy; never written to after this."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def sqlite_files() -> Iterator[Path]:
    """The folder of this run's SQLite files."""
    with scratch_folder("signalbox-sqlite-", on_disk=waits_for_disk()) as folder:
        yield folder


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, sqlite_files: Path) -> Iterator[str]:
    """The URL of a migrated SQLite file of this test's own, in a folder of its own that is deleted after it."""
    folder = Path(tempfile.mkdtemp(dir=sqlite_files))
    path = folder / "signalbox.db"
    shutil.copyfile(migrated_sqlite_file, path)
    yield f"sqlite:///{path}"
    shutil.rmtree(folder)


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of this test's own: the test runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{'postgres' if request.param == POSTGRESQL else request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open `Database` on `database_url`, its connections closed after the test."""
    database = Database.open(database_url)
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def shared_valkey_url() -> Iterator[str]:
    """The broker of this run (`TEST_REDIS_URL`, else one from the wheel), which no test may stop."""
    elsewhere = os.environ.get("TEST_REDIS_URL")
    if elsewhere:
        yield elsewhere
        return
    with valkey_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_numbers(worker_id: str) -> Iterator[int]:
    """Database numbers in turn; workers that share one server have each their share of its sixteen."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = max(DATABASES // workers, 1)
    first = int(worker_id.removeprefix("gw")) * share if worker_id.startswith("gw") else 0
    return ((first + turn % share) % DATABASES for turn in count())


@pytest.fixture
def valkey_url(shared_valkey_url: str, valkey_numbers: Iterator[int]) -> str:
    """The URL of an empty database on the shared broker."""
    return emptied_database(shared_valkey_url, next(valkey_numbers))


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A broker of this test's own, to stop, kill, freeze and flush."""
    with valkey_server() as server:
        yield server


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Start real processes; each is ended after the test, and a failure shows the end of their logs."""
    with Processes(tmp_path) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the logs of a failed test's processes into its report."""
    report = yield
    running = getattr(item, "funcargs", {}).get("processes")
    if call.when == "call" and report.failed and isinstance(running, Processes):
        report.sections.append(("logs of the processes", running.logs()))
    return report
