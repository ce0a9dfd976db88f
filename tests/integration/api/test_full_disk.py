"""A database whose disk is full: who is refused is told why, and readiness and doctor say so until there is room."""

import errno
import os
from collections.abc import Callable

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from api import health
from api.app import services_of
from common.commands.doctor import examine
from common.db import Database
from common.db.room import has_room
from tests.integration.api.conftest import Api, problem_of


def test_a_full_disk_is_told_to_who_asks_and_in_one_line_of_the_log(api: Api) -> None:
    """Else the log grows by a traceback with each call, on the disk that may be the full one."""
    api.apply()
    fill_disk(services_of(api.app).database)
    start = {"definitionKey": "approval", "input": {"card": "4111 1111", "filler": "x" * 100_000}}
    for headers in ({}, {"Idempotency-Key": "once"}):
        with capture_logs() as lines:
            answer = api.post("/instances", start, headers=headers)

        problem_of(answer, 503, "unavailable")
        assert "has no room left on its disk" in answer.json["detail"]
        (line,) = [line for line in lines if line["event"] == "request.failed"]
        assert "No space left" in line["reason"] or "disk is full" in line["reason"]
        assert "exc_info" not in line
        assert "4111" not in str(lines)


def test_readiness_says_full_from_the_first_refusal_until_there_is_room(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on, so that nobody who only looks would learn why every start fails."""
    monkeypatch.setattr(health, "KEPT_SECONDS", -1.0)
    api.apply()
    database = services_of(api.app).database
    fill_disk(database)
    with monkeypatch.context() as meanwhile:
        leave_no_room(database, meanwhile)
        assert ready(api) == (200, "up"), "nobody was refused yet, and nobody writes for the sake of a look"

        start = {"definitionKey": "approval", "input": {"filler": "x" * 100_000}}
        problem_of(api.post("/instances", start), 503, "unavailable")

        assert ready(api) == (503, "full")
        assert api.get("/definitions").status_code == 200
        assert examine(database)["delays"]["full"] is True
    make_room(database)

    assert ready(api) == (200, "up")
    assert examine(database)["delays"]["full"] is False


def test_who_may_not_try_finds_room(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_no_room(database, monkeypatch, says=(errno.EACCES, "insufficient_privilege"))

    assert has_room(database)
    make_room(database)


def ready(api: Api) -> tuple[int, str]:
    answer = api.app.test_client().get("/health/ready")
    assert answer.json is not None
    return answer.status_code, answer.json["database"]


def refuse(code: int) -> Callable[..., None]:
    def refused(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    return refused


def leave_no_room(
    database: Database, monkeypatch: pytest.MonkeyPatch, says: tuple[int, str] = (errno.ENOSPC, "disk_full")
) -> None:
    """Let what asks for room be refused: on SQLite by the system, on PostgreSQL by a trigger of new tables."""
    code, condition = says
    if database.is_sqlite:
        monkeypatch.setattr(os, "fsync", refuse(code))
        return
    with database.transaction() as tx:
        tx.exec_driver_sql(
            "CREATE FUNCTION no_room() RETURNS event_trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{condition}'; END $$"
        )
        tx.exec_driver_sql(
            "CREATE EVENT TRIGGER no_room ON ddl_command_start WHEN TAG IN ('CREATE TABLE AS') EXECUTE FUNCTION no_room()"
        )


def make_room(database: Database) -> None:
    if database.is_sqlite:
        return
    with database.transaction() as tx:
        tx.exec_driver_sql("DROP EVENT TRIGGER no_room")


def fill_disk(database: Database) -> None:
    """Let each session of `database` that begins from now on find that its disk is full.

    A page more than there are is what SQLite cannot write then; PostgreSQL has a trigger say what it says of a full disk.
    """
    if database.is_sqlite:
        event.listen(
            database.engine, "connect", lambda driver, _record: driver.execute("PRAGMA max_page_count = 1")
        )
        database.dispose()
        return
    with database.transaction() as tx:
        tx.exec_driver_sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        for table in ("instances", "idempotency"):
            tx.exec_driver_sql(
                f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
