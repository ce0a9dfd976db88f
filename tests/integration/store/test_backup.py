"""The drill of docs/operations.md: backed up in the middle of work, restored into an empty place, and work goes on once."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common.commands.doctor import examine
from common.db import Database
from common.errors import Misconfigured
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import COUNTER, Document, one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.support.postgres import PostgresServer

Restore = Callable[[], str]

TIMED: Document = {
    "id": "timed",
    "initial": "early",
    "states": {"early": {"after": {"1h": "late"}}, "late": {"type": "final"}},
}


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.dispose()


def program(postgres: PostgresServer, name: str) -> str:
    """One of PostgreSQL's own tools: the wheel's, beside its server, else the one on the PATH."""
    folder = str(postgres.own.binaries) if postgres.own is not None else None
    found = shutil.which(name, path=folder)
    assert found is not None, f"no {name} here"
    return found


@pytest.fixture
def back_up(
    engine: Engine, database_url: str, tmp_path: Path, request: Any
) -> Iterator[Callable[[], Restore]]:
    """Back the engine's database up; what comes back restores it into an empty place and gives its URL."""
    made: list[str] = []
    postgres: PostgresServer | None = (
        None if engine.database.is_sqlite else request.getfixturevalue("postgres")
    )

    def sqlite() -> Restore:
        copy = tmp_path / "backup" / "copy.db"
        copy.parent.mkdir()
        engine.database.backup(copy)

        def restore() -> str:
            shutil.copyfile(copy, tmp_path / "backup" / "restored.db")
            return f"sqlite:///{tmp_path}/backup/restored.db"

        return restore

    def postgresql() -> Restore:
        assert postgres is not None
        copy = tmp_path / "copy.dump"
        plain = database_url.replace("+psycopg", "")
        subprocess.run([program(postgres, "pg_dump"), "--format=custom", f"--file={copy}", plain], check=True)

        def restore() -> str:
            made.append(postgres.create_database())
            url = postgres.url(made[-1])
            target = f"--dbname={url.replace('+psycopg', '')}"
            subprocess.run(
                [program(postgres, "pg_restore"), "--no-owner", "--exit-on-error", target, copy], check=True
            )
            return url

        return restore

    yield sqlite if engine.database.is_sqlite else postgresql
    for name in made:
        assert postgres is not None
        postgres.drop_database(name)


def test_a_backup_in_the_middle_of_work_goes_on_where_it_was(
    engine: Engine, back_up: Callable[[], Restore]
) -> None:
    calls: list[str] = []

    def work(_input: Any, context: Any) -> str:
        calls.append(context.task_id)
        return "done"

    engine.handler("work", work)
    claimed = engine.start(one_task())
    waiting = engine.start(COUNTER)
    timed = engine.start(TIMED)
    engine.advance()
    [claim] = engine.claim()
    engine.send(waiting, "ADD", n=1)
    restore = back_up()
    engine.report(engine.call(claim))  # the old place goes on for a while, and is lost
    engine.settle()
    assert engine.status(claimed) is InstanceStatus.COMPLETED
    calls.clear()

    with opened(restore()) as database:
        assert examine(database)["healthy"]
        again = Engine(database, engine.tenant_id, registry=engine.registry)
        assert again.status(claimed) is InstanceStatus.RUNNING
        clock = ManualClock(database, again.now() + timedelta(hours=2))
        try:
            again.settle()
        finally:
            clock.release()

        assert calls == [claim.id], "the claim that was lost is claimed again, once"
        assert again.status(claimed) is InstanceStatus.COMPLETED
        assert again.context(waiting)["seen"] == [1]
        assert again.status(timed) is InstanceStatus.COMPLETED
        assert again.entry_types(claimed).count("task.succeeded") == 1
        rows = again.execute(f"SELECT count(*) FROM history WHERE instance_id = '{timed}'")
        assert rows[0][0] == 2, "its start, and its timer once"
        assert examine(database)["healthy"]
        with pytest.raises(Exception, match="append-only"):
            again.execute("DELETE FROM history")


def test_a_backup_is_private_and_overwrites_nothing(sqlite_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with opened(sqlite_url) as database:
        before = os.umask(0)
        try:
            database.backup(copy)
        finally:
            os.umask(before)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with pytest.raises(Misconfigured, match="cannot make"):
            database.backup(copy)
        with pytest.raises(Misconfigured, match="cannot make"):
            database.backup(tmp_path / "nowhere" / "copy.db")


def test_another_database_says_what_it_has(postgres_url: str, tmp_path: Path) -> None:
    with opened(postgres_url) as database, pytest.raises(Misconfigured, match="pg_dump"):
        database.backup(tmp_path / "copy.db")
