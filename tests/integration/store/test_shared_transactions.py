"""SQLite: threads that wait for their turn to write share a transaction and its flush, and nothing else."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, IntegrityError

from common.db import Database, writing
from common.store.keys import ensure_tenant
from tests.integration.engine.documents import ON_SQLITE
from tests.support.waiting import wait_until

pytestmark = ON_SQLITE
OTHERS = 3
UseCase = Callable[[Connection], object]


class Queue:
    """Transactions of one process: the first is held open until the others wait behind it."""

    def __init__(
        self, database: Database, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.database = database
        self.threads = threads
        self.commits: list[str] = []
        event.listen(database.engine, "commit", lambda _tx: self.commits.append("commit"))
        monkeypatch.setattr(writing, "JOINED_SECONDS", 60.0)  # however slowly this machine lets them come

    @property
    def waiting(self) -> int:
        assert self.database._writer is not None
        return self.database._writer._waiting

    def run(self, first: UseCase, *others: UseCase) -> list[Future[object]]:
        """Run `others`, which queue in any order while `first` is under way; all are over then."""
        begun, go_on = threading.Event(), threading.Event()

        def hold(tx: Connection) -> object:
            begun.set()
            assert go_on.wait(20)
            return first(tx)

        futures = [self.threads.submit(self.database.run, hold)]
        assert begun.wait(20)
        futures += [self.threads.submit(self.database.run, other) for other in others]
        wait_until(lambda: self.waiting == len(others), what="the others to wait for their turn")
        go_on.set()
        for future in futures:
            future.exception(20)
        return futures

    def tenants(self) -> set[str]:
        with self.database.reading() as tx:
            return {row[0] for row in tx.exec_driver_sql("SELECT name FROM tenants")}


@pytest.fixture
def queue(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    with ThreadPoolExecutor(OTHERS + 1) as threads:
        yield Queue(database, threads, monkeypatch)


def add(name: str) -> UseCase:
    return lambda tx: ensure_tenant(tx, name)


def fail(name: str) -> UseCase:
    def use_case(tx: Connection) -> None:
        ensure_tenant(tx, name)
        raise LookupError(name)

    return use_case


def others() -> list[UseCase]:
    return [add(f"other-{number}") for number in range(OTHERS)]


OTHER_NAMES = {f"other-{number}" for number in range(OTHERS)}


def test_who_waits_joins_the_transaction_that_is_open(queue: Queue) -> None:
    for future in queue.run(add("first"), *others()):
        future.result()

    assert queue.commits == ["commit"]
    assert queue.tenants() == {"first"} | OTHER_NAMES


def test_who_is_alone_waits_for_nobody(queue: Queue) -> None:
    for name in ("a", "b"):
        queue.database.run(add(name))
        assert name in queue.tenants()
    assert len(queue.commits) == 2


def test_nobody_goes_on_before_all_of_it_is_stored(queue: Queue) -> None:
    running: list[Future[object]] = []

    def look(tx: Connection) -> bool:
        ensure_tenant(tx, "second")
        return any(future.done() for future in running) or bool(queue.tenants())

    begun, go_on = threading.Event(), threading.Event()

    def hold(tx: Connection) -> None:
        ensure_tenant(tx, "first")
        begun.set()
        assert go_on.wait(20)

    running.append(queue.threads.submit(queue.database.run, hold))
    assert begun.wait(20)
    second = queue.threads.submit(queue.database.run, look)
    wait_until(lambda: queue.waiting == 1, what="the second to wait for its turn")
    go_on.set()

    assert second.result(20) is False, "nobody has returned by then, and nobody else sees what is written"
    running[0].result(20)
    assert queue.tenants() == {"first", "second"}


def test_a_part_that_fails_takes_back_itself_alone(queue: Queue) -> None:
    first, failed, *_ = queue.run(add("first"), fail("failed"), *others()[1:])

    assert isinstance(failed.exception(), LookupError)
    first.result()
    assert queue.tenants() == {"first"} | OTHER_NAMES - {"other-0"}


def test_the_first_that_fails_takes_nobody_along(queue: Queue) -> None:
    failed, *rest = queue.run(fail("failed"), *others())

    assert isinstance(failed.exception(), LookupError)
    for future in rest:
        future.result()
    assert queue.tenants() == OTHER_NAMES


def test_a_commit_that_is_refused_is_told_to_each_whose_part_it_was(queue: Queue) -> None:
    def orphan(tx: Connection) -> None:
        tx.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        tx.exec_driver_sql(
            "INSERT INTO secrets (tenant_id, name, version, key_id, sealed, created_at, updated_at, updated_by)"
            " SELECT 'nobody', 'x', 1, 'k', x'00', at, at, 'test' FROM (SELECT '2026-01-01 00:00:00.000000' AS at)"
        )

    futures = queue.run(add("first"), orphan, *others()[1:])

    assert [type(future.exception()) for future in futures] == [IntegrityError] * (OTHERS + 1)
    assert queue.tenants() == set()
    queue.database.run(add("later"))
    assert queue.tenants() == {"later"}


def test_what_sqlite_rolled_back_is_told_to_each_whose_part_it_was(queue: Queue) -> None:
    """As it does by itself when the disk is full, whatever the part makes of it."""

    def lose(tx: Connection) -> None:
        tx.exec_driver_sql("ROLLBACK")

    first, lost = queue.run(add("first"), lose)

    assert isinstance(first.exception(), DBAPIError)
    assert isinstance(lost.exception(), DBAPIError)
    for future in queue.run(*others()):
        future.result()
    assert queue.tenants() == OTHER_NAMES


def test_another_process_gets_its_turn_amid_a_crowd(database: Database, sqlite_url: str) -> None:
    """A lock of its own on the file is what makes a process; this is a second one in ours."""
    other, ended = Database.open(sqlite_url), threading.Event()
    turns: list[int] = []

    def crowd(number: int) -> None:
        while not ended.is_set():
            database.run(lambda tx: ensure_tenant(tx, f"crowd-{number}-{len(turns)}"))
            turns.append(number)

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(crowd, number) for number in range(8)]
        wait_until(lambda: len(turns) > 20, what="the crowd to be busy")
        try:
            for number in range(5):
                other.run(add(f"other-{number}"))
        finally:
            ended.set()
        for one in running:
            one.result(20)
    other.dispose()


def test_who_is_interrupted_while_it_waits_leaves_nobody_behind(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches only the main thread, and finds it where it waits for its turn."""
    monkeypatch.setattr(writing, "ORPHANED_SECONDS", 0.05)
    begun, go_on = threading.Event(), threading.Event()
    entered = queue.database._writer
    assert entered is not None

    def hold(tx: Connection) -> None:
        ensure_tenant(tx, "first")
        begun.set()
        assert go_on.wait(20)

    first = queue.threads.submit(queue.database.run, hold)
    assert begun.wait(20)

    def interrupt(_signal: int, _frame: object) -> None:
        # The first ends its part while this thread still counts as one that waits.
        go_on.set()
        wait_until(lambda: not entered._turn.locked(), what="the turn to be handed on")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            queue.database.run(add("interrupted"))
    finally:
        signal.signal(signal.SIGUSR1, before)

    first.result(20)
    assert queue.tenants() == {"first"}
