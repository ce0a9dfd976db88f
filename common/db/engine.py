"""The database: one engine, transactions that ring after their commit, and the rules of each dialect.

PostgreSQL: READ COMMITTED, a session that idles in a transaction for 5 s loses it (a frozen holder must not keep locks),
and a worker's also after 30 s in whatever state.
SQLite: WAL, `synchronous=FULL`; writers take turns, and threads that wait for theirs share a transaction (`common.db.writing`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.types.string import TextLoader
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError

from common import faults
from common.clock import SQLITE_NOW, sqlite_now_text
from common.db.read_only import leave_if_read_only
from common.db.types import say_flags_bare
from common.db.writing import FileLock, Writer
from common.errors import Misconfigured

T = TypeVar("T")

ORCHESTRATOR_QUEUE = "workflow-orchestrator"
RESERVE_QUEUE = "workflow-orchestrator-reserve"
TASK_RUNNER_QUEUE = "workflow-task-runner"
ARRIVALS = "arrivals"
"""The bell of those who start a workflow or tell one something; its ids are their tenants (`common.queues.arrivals`)."""

_BELLS = "signalbox.bells"
_USED_AT = "signalbox.used_at"
_KNOWS_CLOCK = "signalbox.knows_clock"
_RUN_AGAIN = {"40P01", "40001", "23503"}
"""Deadlocks, serialization failures, and foreign keys: what a row points at was deleted after it was looked for."""
_RETRIES = 3

Bells = dict[str, list[str]]
"""Queue name → ids that hint at what is ready there; possibly none."""


def note_bell(tx: Connection, queue: str, *ids: str) -> None:
    """Remember that `queue` should be rung when `tx` has committed. Rolled back, it rings nobody."""
    tx.info.setdefault(_BELLS, {}).setdefault(queue, []).extend(ids)


@dataclass
class Sessions:
    """The ways in which work gets at a database. `listeners` are called with the bells of each committed transaction."""

    engine: Engine
    listeners: list[Callable[[Bells], None]] = field(default_factory=list)
    _writer: Writer | None = None

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def each_alone(self) -> Iterator[Connection]:
        """Take a connection on which each prepared statement commits by itself, then ring what was noted.

        One round trip instead of three, and most of what the API and runners ask is one statement, or a look and a write that
        need no common view. What runs here must be right when the process ends between two of its statements; what several
        statements promise together belongs into a transaction. On SQLite only for looking.

        An exception that leaves the block rings nobody, whatever is committed by then. A connection that broke is forgotten.
        """
        with self._connect() as tx:
            tx.info.pop(_BELLS, None)
            driver: Any = tx.connection.driver_connection
            if not self.is_sqlite:
                driver.autocommit = True
            try:
                yield tx
            except DBAPIError as error:
                if not self.is_sqlite and driver.closed:
                    tx.invalidate(error)
                raise
            finally:
                if not self.is_sqlite and not driver.closed:
                    driver.autocommit = False
            bells = tx.info.pop(_BELLS, None)
        self._ring(bells)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a writing transaction; commit at the end, roll back on any exception, then ring what was noted."""
        with self._begun() as tx:
            tx.info.pop(
                _BELLS, None
            )  # a connection is reused: bells of a rolled back transaction must not ring
            yield tx
            bells = tx.info.pop(_BELLS, None)
        self._ring(bells)

    def _ring(self, bells: Bells | None) -> None:
        if bells:
            faults.hit("after_commit_before_ring")
            for listener in self.listeners:
                listener(bells)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction for queries. On PostgreSQL it refuses to write; on SQLite nothing written in it is kept.

        There it is committed: its end by ROLLBACK would make psycopg forget what the connection has prepared.
        """
        with self._connect().execution_options(signalbox_reading=True) as tx:
            if self.is_sqlite:
                with tx.begin() as transaction:
                    yield tx
                    transaction.rollback()
                return
            driver: Any = tx.connection.driver_connection
            driver.read_only = True
            try:
                with tx.begin():
                    yield tx
            finally:
                if not driver.closed:
                    driver.read_only = None

    def looking(self) -> AbstractContextManager[Connection]:
        """Take a connection for queries that need no common view, asked again and again.

        On PostgreSQL without a transaction: its end by ROLLBACK would make psycopg forget the connection's prepared statements.
        """
        return self.reading() if self.is_sqlite else self.each_alone()

    def run(self, use_case: Callable[[Connection], T]) -> T:
        """Run `use_case` in one transaction; what a concurrent one made impossible is run again, 3 times.

        That is a deadlock, a failed serialization, or a row that points at what was deleted meanwhile.
        """
        for left in range(_RETRIES - 1, -1, -1):
            try:
                with self.transaction() as tx:
                    return use_case(tx)
            except DBAPIError as error:
                if left == 0 or sqlstate(error) not in _RUN_AGAIN:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def _connect(self) -> Connection:
        return self.engine.connect()

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        if self._writer is not None:
            with self._writer.transaction() as tx:
                yield tx
        else:
            with self._connect() as tx, tx.begin():
                yield tx


@dataclass
class Database(Sessions):
    """One database, opened once a process, as its login sees it: all tenants. The API's callers have `common.db.tenants`."""

    @classmethod
    def open(
        cls,
        url: str,
        *,
        pool_size: int = 8,
        name: str = "signalbox",
        longest_transaction: timedelta | None = None,
        longest_wait: timedelta | None = None,
    ) -> Database:
        """Open `postgresql://…` or `sqlite:///path`; connects lazily.

        A transaction that is not over after `longest_transaction` (whole milliseconds) loses its session, on PostgreSQL
        17 and later. A statement that waits longer than `longest_wait` for a lock fails there, as trouble.
        Raises `Misconfigured` for another scheme or an unusable folder.
        """
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):  # which quote what may be half of a password
            raise Misconfigured(
                'DATABASE_URL: expected "postgresql://user:password@host:port/database" with a number as the port; '
                '"@", "/" and ":" in user and password are written %40, %2F and %3A'
            ) from None
        if parsed.get_backend_name() == "postgresql":
            return cls(
                postgresql_engine(
                    url,
                    pool_size=pool_size,
                    name=name,
                    longest_transaction=longest_transaction,
                    longest_wait=longest_wait,
                )
            )
        if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
            path = Path(parsed.database).absolute()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Misconfigured(
                    f'DATABASE_URL: cannot make the folder of "{path}": {error.strerror}'
                ) from error
            engine = _sqlite(url, pool_size=pool_size)
            return cls(engine, _writer=Writer(engine, FileLock(Path(f"{path}.lock"))))
        raise Misconfigured('DATABASE_URL: expected "postgresql://…" or "sqlite:///path"')

    def takes_writes(self) -> bool:
        """Whether the server takes writes now; not a standby, nor where `default_transaction_read_only` is on."""
        if self.is_sqlite:
            return True
        if self._is_open_for_writes():
            return True
        self.engine.dispose()  # sessions of the pool are what they were when they began: a new one tells what is so now
        return self._is_open_for_writes()

    def vacuum(self, tables: Sequence[str] = ()) -> bool:
        """Rewrite what is stored, so that nothing that was deleted is left in the files. True when all of it was done.

        SQLite: the whole file, and the write-ahead log is emptied; False where a reader holds on to the log. PostgreSQL:
        `tables`, each locked while it is rewritten, and waited for 5 s at most. Runs outside of any transaction.
        """
        with nullcontext() if self._writer is None else self._writer.alone():
            connection = self.engine.raw_connection()
            try:
                driver: Any = connection.driver_connection
                if self.is_sqlite:
                    driver.execute("VACUUM")
                    busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    return not busy
                driver.autocommit = True
                driver.execute("SET lock_timeout = '5s'")
                driver.execute(f"VACUUM (FULL) {', '.join(tables)}")
                return True
            finally:
                connection.invalidate()  # its settings are not those that others expect
                connection.close()

    def backup(self, path: Path) -> None:
        """Copy a SQLite database as it is at this instant into the new file `path`, while others read and write.

        Raises `Misconfigured` for another database, and where the file cannot be made or is there already.
        """
        if not self.is_sqlite:
            raise Misconfigured(
                "only a SQLite file is backed up like this; PostgreSQL has pg_dump and pg_basebackup"
            )
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise Misconfigured(f'cannot make "{path}": {error.strerror}') from error
        connection = self.engine.raw_connection()
        try:
            driver: Any = connection.driver_connection
            driver.execute("VACUUM INTO ?", (str(path),))
        finally:
            connection.close()

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _is_open_for_writes(self) -> bool:
        with self.engine.connect() as tx:
            return bool(tx.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "off")


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's five-character error code, or None on SQLite and for lost connections."""
    return getattr(error.orig, "sqlstate", None)


LONGEST_TRANSACTION = timedelta(seconds=30)
"""For processes that lock what others wait for. A process that freezes between two rows that it sends in one go is not
idle for PostgreSQL, which waits for the rest: only the age of its transaction tells."""
TRANSACTION_TIMEOUT_SINCE = 170_000
WORKERS_PLANS = " -c enable_seqscan=off -c jit=off"
"""What workers keep asking has an index. A plan that PostgreSQL made for them when a table was nearly empty reads it whole, and
is kept until autovacuum has looked at the table, a minute in which it may grow by a hundred thousand rows. What must
be read whole still is, at a cost that would set off the compiler before PostgreSQL 18."""

LONGEST_WAIT = timedelta(seconds=10)
"""For processes that answer callers. Longer than a holder that froze keeps its locks (5 s); who waits longer waits for somebody
who works on a whole table, and each that waits keeps a thread from everybody else."""
_MILLISECOND = timedelta(milliseconds=1)

PING_AFTER = 2.5
"""Seconds of rest after which a pooled connection is asked whether it still lives; busy ones save the round trip, and so does who comes each two seconds."""


def postgresql_engine(
    url: str | URL,
    *,
    pool_size: int,
    name: str,
    longest_transaction: timedelta | None = None,
    longest_wait: timedelta | None = None,
    role: str | None = None,
) -> Engine:
    """A pool of sessions, each of which takes `role` when it begins; None: the login's own. See `Database.open` for the rest."""
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_use_lifo=True,  # who needs one has one whose server process, plans and tables are warm; the others rest
        hide_parameters=True,  # they are bodies and inputs, and an error is for the log
        connect_args={
            "application_name": name,
            "connect_timeout": 5,
            "options": "-c idle_in_transaction_session_timeout=5000 -c timezone=UTC"
            + ("" if longest_transaction is None else WORKERS_PLANS)
            + ("" if longest_wait is None else f" -c lock_timeout={longest_wait // _MILLISECOND}")
            + ("" if role is None else f" -c role={role}"),
            "prepare_threshold": 2,
        },
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.adapters.register_loader("uuid", TextLoader)  # ids are text everywhere in Python
        record.info[_USED_AT] = time.monotonic()
        if longest_transaction is not None and connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            milliseconds = longest_transaction // _MILLISECOND
            connection.execute(f"SET transaction_timeout = {milliseconds}")
            connection.commit()

    @event.listens_for(engine, "handle_error")
    def _leave_read_only(context: ExceptionContext) -> None:
        if context.connection is not None:
            leave_if_read_only(context.connection, context.original_exception)

    @event.listens_for(engine, "checkin")
    def _note_use(_connection: Any, record: Any) -> None:
        record.info[_USED_AT] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping_rested(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info[_USED_AT] > PING_AFTER and not _is_usable(connection):
            raise DisconnectionError  # the pool opens another one

    return engine


def _is_usable(connection: Any) -> bool:
    """Does it answer? Asked without a transaction: its end by ROLLBACK would make psycopg forget what the connection has prepared."""
    try:
        connection.autocommit = True
        connection.execute("SELECT 1", prepare=False)
        connection.autocommit = False
    except psycopg.OperationalError:
        return False
    return True


def teach_clock(tx: Connection) -> None:
    """Let our statements ask the time on a connection of somebody else's engine. On SQLite that is a function of ours."""
    if tx.dialect.name == "sqlite" and _KNOWS_CLOCK not in tx.info:
        _teach_clock(tx.connection.driver_connection, tx.info)


def _teach_clock(connection: Any, info: dict[Any, Any]) -> None:
    connection.create_function(SQLITE_NOW, 0, sqlite_now_text)
    info[_KNOWS_CLOCK] = True


def _sqlite(url: str, *, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        hide_parameters=True,  # as above
        connect_args={"timeout": 10, "check_same_thread": False},
    )
    say_flags_bare(engine.dialect)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours, see below
        _teach_clock(connection, record.info)
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "cache_size=-16000",
            "temp_store=MEMORY", "journal_size_limit=67108864",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(tx: Connection) -> None:
        reading = tx.get_execution_options().get("signalbox_reading", False)
        tx.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
