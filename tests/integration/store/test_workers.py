"""Workers: who is here, who said good-bye, and who was found dead, so that what he may have held is handled with care."""

import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import ProgrammingError

from common.commands.presence import SUSPICION, Presence, arrive, leave, stay
from common.db import Database
from common.store import overview, workers
from common.store.workers import PublishedHandler
from orchestrator.sweep import WORKERS_KEPT, forget
from tests.integration.engine.documents import ON_SQLITE
from tests.support.executed import statements
from tests.support.manual_clock import ManualClock


def arrived(database: Database, duty: str = "orchestrator") -> Presence:
    presence = Presence.of(duty, types=["b", "a"], slots=4)
    with database.transaction() as tx:
        arrive(tx, presence, version="test")
    return presence


def stayed(database: Database, presence: Presence) -> datetime | None:
    return stay(database, presence, register=lambda tx: arrive(tx, presence, version="anew"))


def here(database: Database) -> list[str]:
    with database.reading() as tx:
        return [str(worker.id) for worker in overview.list_workers(tx)]


def on_another_host(database: Database, presence: Presence) -> None:
    """So that a process that arrives here does not look for its pid."""
    with database.transaction() as tx:
        tx.execute(text("UPDATE workers SET host = 'elsewhere' WHERE id = :id"), {"id": presence.id})


@ON_SQLITE
def test_a_worker_is_here_until_it_says_good_bye(database: Database) -> None:
    presence = arrived(database)
    assert here(database) == [presence.id]

    with database.transaction() as tx:
        leave(tx, presence)

    assert here(database) == []
    other = arrived(database)
    assert stayed(database, other) is None, "an end in order is no death"


def test_a_worker_that_falls_silent_is_taken_for_dead_for_a_minute(
    clock: ManualClock, database: Database
) -> None:
    silent = arrived(database)
    on_another_host(database, silent)
    living = arrived(database)

    clock.advance(workers.SILENT_AFTER)
    assert stayed(database, living) is None
    died_at = clock.advance(timedelta(seconds=1))
    assert stayed(database, living) == died_at
    assert here(database) == [living.id]

    clock.advance(SUSPICION - timedelta(seconds=1))
    assert stayed(database, living) == died_at
    clock.advance(timedelta(seconds=1))
    assert stayed(database, living) is None


def test_one_that_was_frozen_comes_back_to_life(clock: ManualClock, database: Database) -> None:
    frozen = arrived(database)
    on_another_host(database, frozen)
    living = arrived(database)
    clock.advance(timedelta(seconds=20))
    assert stayed(database, living) is not None

    stayed(database, frozen)

    assert sorted(here(database)) == sorted([frozen.id, living.id])
    assert stayed(database, living) is None


def test_one_whose_row_is_gone_arrives_anew(database: Database) -> None:
    """A backup was restored that was taken before the worker began, or its host slept for so long that the row was forgotten."""
    presence = arrived(database)
    with database.transaction() as tx:
        tx.execute(text("DELETE FROM workers"))

    stayed(database, presence)

    assert here(database) == [presence.id]
    stayed(database, presence)
    with database.reading() as tx:
        assert list(tx.execute(text("SELECT version FROM workers")).scalars()) == ["anew"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_one_does_not_arrive_anew_in_a_table_that_is_being_restored(database: Database) -> None:
    """Keys come last of a dump: its own row may be on the way, and would then stand there twice."""
    presence = arrived(database)
    with database.transaction() as tx:
        tx.execute(text("DELETE FROM workers"))
        tx.execute(text("ALTER TABLE workers DROP CONSTRAINT pk_workers"))

    with pytest.raises(ProgrammingError, match="ON CONFLICT"):
        stayed(database, presence)

    with database.transaction() as tx:
        tx.execute(text("ALTER TABLE workers ADD CONSTRAINT pk_workers PRIMARY KEY (id)"))
    stayed(database, presence)
    assert here(database) == [presence.id]


def test_a_death_concerns_its_own_duty(clock: ManualClock, database: Database) -> None:
    runner = arrived(database, "task-runner")
    on_another_host(database, runner)
    orchestrator = arrived(database)
    clock.advance(timedelta(seconds=20))

    assert stayed(database, orchestrator) is None
    assert stayed(database, arrived(database, "task-runner")) is not None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_lives_says_so_in_one_statement_without_a_transaction(database: Database) -> None:
    """It is most of what a worker with nothing to do asks of PostgreSQL."""
    presence = arrived(database)
    begun: list[object] = []
    event.listen(database.engine, "begin", begun.append)

    with statements(database) as asked:
        stayed(database, presence)

    assert (len(asked), begun) == (1, [])


@ON_SQLITE
def test_a_predecessor_whose_process_is_gone_is_dead_at_once(database: Database) -> None:
    gone = arrived(database)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(10)
    with database.transaction() as tx:
        tx.execute(text("UPDATE workers SET pid = :pid WHERE id = :id"), {"pid": ended.pid, "id": gone.id})

    successor = arrived(database)

    assert here(database) == [successor.id]
    assert stayed(database, successor) is not None


@ON_SQLITE
def test_a_neighbour_whose_process_lives_is_left_alone(database: Database) -> None:
    neighbour = arrived(database)
    with database.transaction() as tx:
        tx.execute(
            text("UPDATE workers SET pid = :pid WHERE id = :id"), {"pid": os.getppid(), "id": neighbour.id}
        )

    successor = arrived(database)

    assert sorted(here(database)) == sorted([neighbour.id, successor.id])
    assert stayed(database, successor) is None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_workers_that_were_all_frozen_do_not_wait_for_each_other(
    clock: ManualClock, database: Database
) -> None:
    """A host that slept: each says that it lives, and would mark the others as dead."""
    first, second = arrived(database), Presence.of("orchestrator")
    on_another_host(database, first)
    with database.transaction() as tx:
        arrive(tx, second, version="test")
    clock.advance(timedelta(minutes=5))

    with database.transaction() as held:
        held.execute(text("UPDATE workers SET seen_at = seen_at WHERE id = :id"), {"id": first.id})
        with database.each_alone() as tx:
            tx.exec_driver_sql("SET lock_timeout = '300ms'")
            workers.stay_alone(tx, second.id, second.duty, suspicion=SUSPICION)
            tx.exec_driver_sql("RESET lock_timeout")

    assert sorted(here(database)) == sorted([first.id, second.id]), (
        "nobody is dead who is just saying that he lives"
    )


@ON_SQLITE
def test_what_runners_can_do_stays_when_they_leave(database: Database) -> None:
    published = [PublishedHandler("orders.one", "", "does one thing", False, False, None, None)]
    presence = Presence.of("task-runner", types=["orders.one"])
    with database.transaction() as tx:
        arrive(tx, presence, version="test", published=published)
        workers.publish(
            tx,
            [PublishedHandler("orders.one", "", "does it better", False, False, "{}", None)],
            now=datetime.now().astimezone(),
        )
        leave(tx, presence)

    with database.reading() as tx:
        assert [(one.type, one.description, one.input_schema) for one in overview.list_handlers(tx)] == [
            ("orders.one", "does it better", "{}")
        ]


@ON_SQLITE
def test_rows_of_workers_that_ended_long_ago_are_forgotten(clock: ManualClock, database: Database) -> None:
    gone, living = arrived(database), Presence.of("orchestrator")
    with database.transaction() as tx:
        leave(tx, gone)
        arrive(tx, living, version="test")
    clock.advance(WORKERS_KEPT + timedelta(seconds=1))

    forget(database)

    with database.reading() as tx:
        assert list(tx.execute(text("SELECT count(*) FROM workers")).scalars()) == [1]
    assert here(database) == [living.id]
