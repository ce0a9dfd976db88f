"""Every integration test ends with an examination: whatever it did, the promises must hold afterwards."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event

from common import faults
from common.commands.doctor import find_problems
from common.db import Database
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.support.runners import MakeRunner, runners


@pytest.fixture
def engine(database: Database) -> Engine:
    """The engine in process, on each database in turn."""
    return Engine.on(database)


@pytest.fixture
def make_runner(engine: Engine) -> Iterator[MakeRunner]:
    """Make runners that have begun; what they still hold at the end of the test is given back."""
    with runners(engine) as make:
        yield make


@pytest.fixture
def clock(database: Database) -> Iterator[ManualClock]:
    """A clock that stands still at noon of 1 March 2026 until the test moves it."""
    clock = ManualClock(database, datetime(2026, 3, 1, 12, tzinfo=UTC))
    yield clock
    clock.release()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that say how far one pass comes: on a busy machine its tenth of a second may be over before."""
    monkeypatch.setattr("orchestrator.locked.STEP_BUDGET", 60.0)


def _note_executemany(piped: list[str], *execution: Any) -> None:
    _connection, _cursor, statement, _parameters, _context, is_executemany = execution
    if is_executemany:
        piped.append(statement)


@pytest.fixture(autouse=True)
def promises_hold(request: pytest.FixtureRequest) -> Iterator[None]:
    """Examine the database that the test used; a test that breaks rows on purpose is marked `breaks_promises`."""
    uses_database = "database" in request.fixturenames
    database: Database | None = request.getfixturevalue("database") if uses_database else None
    piped: list[str] = []
    if database is not None and not database.is_sqlite:
        event.listen(database.engine, "before_cursor_execute", partial(_note_executemany, piped))
    yield
    faults.disarm()
    assert piped == [], "PostgreSQL never gets an executemany: see common/db/rows.py"
    if database is not None and request.node.get_closest_marker("breaks_promises") is None:
        _, problems = find_problems(
            database
        )  # what else `examine` tells, of delays and rights, has tests of its own
        assert not problems, [problem.to_json() for problem in problems]
