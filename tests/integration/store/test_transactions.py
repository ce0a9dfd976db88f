"""Transactions: what is read is not kept, victims of a deadlock run again, and what may pass by itself is told from what never will."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Barrier

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from common.db import Database, engine, is_away, is_trouble
from common.db.now import read_now
from common.db.prepared import run
from common.ids import new_id
from common.store import claims
from common.store.keys import ensure_tenant, find_tenant
from tests.support.postgres import read_only

POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_what_is_written_while_reading_is_refused_or_not_kept(database: Database) -> None:
    if database.is_sqlite:
        with database.reading() as tx:
            ensure_tenant(tx, "forgotten")
            assert find_tenant(tx, "forgotten") is not None
    else:
        with pytest.raises(DBAPIError, match="read-only transaction"), database.reading() as tx:
            ensure_tenant(tx, "forgotten")
        with database.transaction() as tx:  # nor is the connection left like this
            ensure_tenant(tx, "kept")
    with database.reading() as tx:
        assert find_tenant(tx, "forgotten") is None


def test_an_exception_rolls_back(database: Database) -> None:
    def use_case(tx: Connection) -> None:
        ensure_tenant(tx, "forgotten")
        raise LookupError

    with pytest.raises(LookupError):
        database.run(use_case)
    with database.reading() as tx:
        assert find_tenant(tx, "forgotten") is None


def test_writers_queue_and_none_is_lost(database: Database) -> None:
    together = Barrier(4)

    def writer(number: int) -> None:
        together.wait(10)
        for turn in range(10):
            with database.transaction() as tx:
                ensure_tenant(tx, f"tenant-{number}-{turn}")

    with ThreadPoolExecutor(4) as writers:
        for done in [writers.submit(writer, number) for number in range(4)]:
            done.result(60)
    with database.reading() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM tenants").scalar_one() == 40


@POSTGRESQL
def test_the_victim_of_a_deadlock_runs_again(database: Database) -> None:
    with database.transaction() as tx:
        rows = [ensure_tenant(tx, name) for name in ("a", "b")]
    meet = Barrier(2)
    runs: list[str] = []

    def in_order(name: str, first: str, second: str) -> None:
        def use_case(tx: Connection) -> None:
            runs.append(name)
            if len(runs) > 2:  # who was let through has to wake up first, or both would meet again
                time.sleep(0.5)
            tx.execute(_TOUCH, {"id": first})
            if len(runs) <= 2:  # only the first runs of both meet; the victim's second run finds the way free
                meet.wait(10)
            tx.execute(_TOUCH, {"id": second})

        database.run(use_case)

    with ThreadPoolExecutor(2) as threads:
        for done in [
            threads.submit(in_order, "up", *rows),
            threads.submit(in_order, "down", *reversed(rows)),
        ]:
            done.result(30)

    assert len(runs) == 3, "two runs, and one again"


_TOUCH = text("UPDATE tenants SET created_at = created_at WHERE id = :id")


def test_anything_else_runs_once(database: Database) -> None:
    runs: list[int] = []

    def use_case(tx: Connection) -> None:
        runs.append(1)
        tx.execute(
            text("INSERT INTO tenants (id, name, created_at) VALUES (:id, NULL, NULL)"), {"id": new_id()}
        )

    with pytest.raises(IntegrityError):
        database.run(use_case)
    assert len(runs) == 1


@POSTGRESQL
def test_a_deadlock_that_does_not_end_is_given_up_after_three_runs(database: Database) -> None:
    runs: list[int] = []

    def use_case(tx: Connection) -> None:
        runs.append(1)
        tx.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40P01'; END $$")

    with pytest.raises(OperationalError):
        database.run(use_case)
    assert len(runs) == 3


REFUSED_ROWS = {
    "22001": "data",
    "22P05": "data",
    "23505": "twins",
    "23514": "check",
    "P0001": "a trigger",
    "54000": "an index entry that is too long",
}
PASSING = {
    "08006": "the connection",
    "40P01": "a deadlock",
    "42501": "a right that was taken away",
    "42P01": "a table that is not there yet",
    "42703": "a column that is not there yet",
    "53100": "a full disk",
    "53300": "too many connections",
    "55P03": "a lock",
    "57P01": "a server that shuts down",
    "25P03": "a session that idled too long",
}


@POSTGRESQL
@pytest.mark.parametrize("trouble", [True, False])
def test_what_may_pass_by_itself_is_told_from_what_never_will(database: Database, trouble: bool) -> None:
    """A row that is refused costs its instance; a right that somebody took away must not cost all of them."""
    wrong = {}
    for code, what in (PASSING if trouble else REFUSED_ROWS).items():
        with pytest.raises(DBAPIError) as raised, database.transaction() as tx:
            tx.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION '{what}' USING ERRCODE = '{code}'; END $$")
        if is_trouble(raised.value) is not trouble:
            wrong[code] = what
    assert wrong == {}


WRITE = "UPDATE tenants SET name = name"


@POSTGRESQL
@pytest.mark.parametrize(
    "write",
    [lambda tx: tx.execute(text(WRITE)), lambda tx: run(tx, WRITE, ())],
    ids=["through SQLAlchemy", "prepared"],
)
@pytest.mark.parametrize("alone", [False, True], ids=["in a transaction", "alone"])
def test_a_session_that_takes_no_writes_is_given_up(
    database: Database, database_url: str, write: Callable[[Connection], object], alone: bool
) -> None:
    """Else a pool full of them outlasts a failover, until somebody restarts the process."""
    opened = database.each_alone if alone else database.transaction
    with read_only(database_url):
        with opened(), opened(), opened():
            pass  # three sessions in the pool that would never take anything
        with pytest.raises(DBAPIError) as refused, opened() as tx:
            write(tx)
        assert (is_trouble(refused.value), is_away(refused.value)) == (True, True)
        with opened(), opened(), opened():
            pass

    with pytest.raises(DBAPIError), opened() as tx:
        write(tx)
    for _ in range(3):
        with opened() as tx:
            write(tx)


@POSTGRESQL
def test_whether_writes_are_taken_is_asked_of_a_new_session(database: Database, database_url: str) -> None:
    with read_only(database_url):
        assert not database.takes_writes()
        with database.transaction(), database.transaction(), database.transaction():
            pass
    assert database.takes_writes()


def test_sqlite_takes_writes(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    assert database.takes_writes()
    database.dispose()


def test_errors_of_our_own_are_no_trouble(database: Database) -> None:
    errors: list[Exception] = [KeyError("bug"), ValueError("surrogates"), TypeError("adapt")]
    assert not any(is_trouble(error) for error in errors)
    assert is_trouble(OSError(5, "disk"))


def test_a_value_that_the_driver_refuses_is_no_trouble(database: Database) -> None:
    with pytest.raises(Exception) as raised, database.transaction() as tx:  # noqa: PT011 - each driver has its own
        tx.execute(text("SELECT :value"), {"value": object()})
    assert isinstance(raised.value, ProgrammingError | DBAPIError)
    assert not is_trouble(raised.value)


def test_time_is_read_from_the_database(database: Database) -> None:
    with database.reading() as tx:
        first, second = read_now(tx), read_now(tx)
    assert first.utcoffset() is not None
    assert first < second or first == second


def test_reading_and_resting_keep_what_the_connection_has_prepared(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that ends by ROLLBACK makes psycopg forget it: every look was planned anew, and so were the claims after it."""
    monkeypatch.setattr(engine, "PING_AFTER", -1.0)  # each is asked whether it still lives

    def prepared_after(looks: Callable[[Database], AbstractContextManager[Connection]]) -> int:
        database = Database.open(postgres_url)
        try:
            with looks(database) as tx:
                claims.is_due(tx, types=["work"], functions=[])
            with looks(database) as tx:
                return int(tx.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one())
        finally:
            database.dispose()

    assert prepared_after(Database.looking) >= 1
    assert prepared_after(Database.reading) >= 1


def test_a_connection_that_was_closed_while_it_rested_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PING_AFTER", -1.0)
    database = Database.open(postgres_url)
    try:
        with database.reading() as tx:
            driver = tx.connection.driver_connection
        assert driver is not None
        driver.close()

        with database.reading() as tx:
            assert tx.exec_driver_sql("SELECT 1").scalar_one() == 1
    finally:
        database.dispose()
