"""Who has held locks for long is named: nothing else tells why an instance stands still that workers pass by."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest
from typer.testing import CliRunner

from common.store.holders import Holder, read_holders
from signalbox.cli.app import app
from tests.integration.engine.documents import COUNTER, ON_POSTGRESQL
from tests.support.engine import Engine
from tests.support.waiting import wait_until

pytestmark = ON_POSTGRESQL
AT_ONCE = timedelta(0)


@contextmanager
def stranger(database_url: str, statement: LiteralString, *, name: str = "somebody's psql") -> Iterator[int]:
    """A session of somebody else's, in a transaction that has done this; its process id."""
    url = database_url.replace("+psycopg", "")
    with psycopg.connect(url, application_name=name) as session:
        session.execute(statement)
        yield session.info.backend_pid
        if not session.closed:
            session.rollback()


def found(engine: Engine) -> list[Holder]:
    with engine.database.reading() as tx:
        return read_holders(tx, longer_than=AT_ONCE)


def test_a_row_that_somebody_has_locked_names_him(engine: Engine, database_url: str) -> None:
    engine.start(COUNTER)
    with stranger(database_url, "SELECT 1 FROM instances FOR UPDATE") as pid:
        [holder] = found(engine)

        assert (holder.pid, holder.application, holder.state) == (
            pid,
            "somebody's psql",
            "idle in transaction",
        )
        assert (holder.waiting, bool(holder.user), holder.seconds >= 0) == (0, True, True)

    assert found(engine) == []


def test_who_only_reads_holds_nobody_up(engine: Engine, database_url: str) -> None:
    engine.start(COUNTER)
    with stranger(database_url, "SELECT 1 FROM instances"):
        assert found(engine) == []


def test_a_locked_table_tells_how_many_wait_for_it(engine: Engine, database_url: str) -> None:
    def lock_too() -> None:
        with stranger(database_url, "LOCK TABLE tasks IN SHARE MODE"):
            pass

    with stranger(database_url, "LOCK TABLE tasks IN EXCLUSIVE MODE") as pid:
        waiting = threading.Thread(target=lock_too)
        waiting.start()
        wait_until(
            lambda: (pid, 1) in {(one.pid, one.waiting) for one in found(engine)}, what="somebody who waits"
        )
    waiting.join()


def test_only_who_has_held_them_for_long_is_told(engine: Engine, database_url: str) -> None:
    engine.start(COUNTER)
    with (
        stranger(database_url, "SELECT 1 FROM instances FOR UPDATE"),
        engine.database.reading() as tx,
    ):
        assert read_holders(tx, longer_than=timedelta(hours=1)) == []


def test_the_doctor_says_how_to_end_such_a_session(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("common.store.holders.LONG", AT_ONCE)
    engine.start(COUNTER)
    with stranger(database_url, "SELECT 1 FROM instances FOR UPDATE") as pid:
        result = CliRunner().invoke(app, ["doctor"])

    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stdout.splitlines() if f"session {pid} of PostgreSQL" in line]
    assert "somebody's psql" in line
    assert f"SELECT pg_terminate_backend({pid})" in line
