"""The turn to write to a SQLite file, among the threads of a process and among processes.

Theory of operation. One process writes at a time: it holds an exclusive flock on `<database>.lock`, which queues writers in the
kernel, where `busy_timeout` alone polled and starved them for seconds. The file names its holder's pid, so that a supervisor can end a
process that froze while holding it. In a process one thread writes at a time, and whoever waits behind it joins the transaction
that is open, with a savepoint of its own: one flush to the disk for all of them, as PostgreSQL's group commit does it. None
goes on before that flush, and a part that fails is taken back by itself.

Nobody joins a transaction of 50 parts, or one that began more than 10 ms ago, so that other processes get their turn. Who is alone waits
for nobody.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from common.db.prepared import run

PARTS_MAX = 50
JOINED_SECONDS = 0.01
ORPHANED_SECONDS = 0.5
"""After so long without an end, whoever has a part in a transaction looks whether the thread that was to end it is still there."""


class FileLock:
    """An exclusive flock whose file names the holder's pid, and 0 when it is free."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._pid = -1

    def take(self) -> None:
        """Wait for the lock; by one thread at a time."""
        if self._file is None or self._pid != os.getpid():  # a flock would be shared with a forked parent
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._pid = os.getpid()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.pwrite(self._file, f"{self._pid:<12}".encode(), 0)

    def give_back(self) -> None:
        """Let the next process have it."""
        assert self._file is not None, "it is taken first"  # noqa: S101
        os.pwrite(self._file, f"{0:<12}".encode(), 0)
        fcntl.flock(self._file, fcntl.LOCK_UN)


@dataclass
class _Shared:
    """A transaction of one or more parts. It `is_over` when it is committed, or lost by an `error`."""

    tx: Connection
    began: float
    parts: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    @property
    def driver(self) -> Any:
        return self.tx.connection.driver_connection

    def begin_part(self) -> None:
        if self.parts:  # the first needs none: it is alone until it has ended
            run(self.tx, "SAVEPOINT part", ())
        self.parts += 1

    def keep_part(self) -> None:
        if self.parts > 1 and self.driver.in_transaction:
            run(self.tx, "RELEASE part", ())

    def undo_part(self) -> None:
        """Take back what the part wrote; where SQLite has rolled everything back, `commit` finds out."""
        if self.parts == 1:
            self.tx.rollback()
        elif self.driver.in_transaction:
            run(self.tx, "ROLLBACK TO part", ())
            run(self.tx, "RELEASE part", ())

    def commit(self) -> None:
        if not self.driver.in_transaction:  # the disk was full, say: to commit nothing is no error
            raise OperationalError("COMMIT", None, Exception("SQLite has rolled the transaction back"))
        self.tx.commit()

    def roll_back(self) -> None:
        self.driver.rollback()  # a COMMIT that is refused leaves it open, of which SQLAlchemy does not know


class Writer:
    """Writes to one SQLite file, from all threads of this process."""

    def __init__(self, engine: Engine, lock: FileLock) -> None:
        self._engine = engine
        self._lock = lock
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._open: _Shared | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection in a transaction; when the block has ended, what it wrote is on the disk, or undone if it raised.

        Raises what became of the COMMIT, to each whose part it was.
        """
        shared = self._enter()
        try:
            yield shared.tx
        except BaseException:
            self._leave(shared, shared.undo_part)
            raise
        self._leave(shared, shared.keep_part)
        self._await_end(shared)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the turn without a transaction."""
        with self._turn:
            if self._open is not None:
                self._end(self._open)
            self._lock.take()
            try:
                yield
            finally:
                self._lock.give_back()

    def _enter(self) -> _Shared:
        """Begin a part; the turn is this thread's until `_leave`."""
        with self._counting:
            self._waiting += 1
        try:
            self._turn.acquire()
        finally:
            with self._counting:
                self._waiting -= 1
        try:
            shared = self._open or self._begin()
            shared.begin_part()
        except BaseException:
            self._turn.release()
            raise
        return shared

    def _begin(self) -> _Shared:
        self._lock.take()
        tx: Connection | None = None
        try:
            tx = self._engine.connect()
            tx.begin()
        except BaseException:
            if tx is not None:
                tx.close()
            self._lock.give_back()
            raise
        self._open = _Shared(tx, time.monotonic())
        return self._open

    def _leave(self, shared: _Shared, end_part: Callable[[], None]) -> None:
        """End a part, then hand the turn on to who joins, or end the transaction."""
        try:
            try:
                end_part()
            except BaseException as error:
                shared.error = error
                raise
            finally:
                if shared.error is not None or not self._is_joined(shared):
                    self._end(shared)
        finally:
            self._turn.release()

    def _is_joined(self, shared: _Shared) -> bool:
        """Does somebody wait who may still join? Whoever it is gets the turn, and ends what is open."""
        return (
            self._waiting > 0
            and shared.parts < PARTS_MAX
            and time.monotonic() < shared.began + JOINED_SECONDS
            and shared.driver.in_transaction
        )

    def _end(self, shared: _Shared) -> None:
        """Commit, unless all of it is lost, and tell everybody whose part it was. Raises nothing."""
        self._open = None
        try:
            if shared.error is None:
                shared.commit()
        except BaseException as error:  # noqa: BLE001 - told to each whose part it was, this thread among them
            shared.error = error
        finally:
            try:
                if shared.error is not None:
                    shared.roll_back()
                shared.tx.close()
            finally:
                self._lock.give_back()
                shared.is_over.set()

    def _await_end(self, shared: _Shared) -> None:
        """Wait until the transaction has ended. Raises what it was lost by."""
        while not shared.is_over.wait(ORPHANED_SECONDS):
            if self._turn.acquire(blocking=False):  # who was to go on was interrupted while it waited
                try:
                    if self._open is shared:
                        self._end(shared)
                finally:
                    self._turn.release()
        if shared.error is not None:
            raise shared.error
