"""The whole of Signalbox on one machine: database, broker, API and workers, each its own process.

`signalbox up` keeps one running, `demo` and `bench` bring up their own. What stands in the environment is used
instead of an embedded part: a `DATABASE_URL` instead of SQLite, a `REDIS_URL` instead of the embedded Valkey. With no
broker at all the workers find their work by looking.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import urlsplit

from common.config import is_redis, redact_url
from common.credentials import is_key, key_prefix, read_secret
from common.db import Database
from common.db.migrate import upgrade
from common.db.tables import Role
from common.errors import Misconfigured, SignalboxError
from common.store import keys, overview
from signalbox.access import opened_database
from signalbox.broker import Broker, find_broker
from signalbox.client import Client
from signalbox.folder import DataFolder
from signalbox.machine import cores
from signalbox.parts import (
    USUAL,
    Duty,
    Workers,
    another,
    api_command,
    flower_command,
    is_reserve,
    worker_command,
)
from signalbox.ports import LOOPBACK, free_port, is_free, listen
from signalbox.processes import ForkServer
from signalbox.supervisor import Notice, Part, Say, Supervisor

TENANT = "default"
KEY_NAME = "local-admin"
USUAL_PORT = 8000
FLOWER_PORT = 5555
NO_BROKER = "memory://localhost"
"""kombu's broker inside each process: a worker on it waits for nobody and reaches nobody."""
READY_SECONDS = 30.0
TRIES_AT_START = 3
LAST_WORDS_SECONDS = 2.0
"""What a worker gets beyond its drain, to store what it holds and say good-bye."""
PORT_SECONDS = 2.0
"""How long a port that our folder used last is waited for: servers of a killed `up` take a second to notice."""

DUTIES: tuple[Duty, ...] = ("orchestrator", "task-runner")
# Both workers drain at the same time: what a handler still brings is committed, and stepped at the next start. The
# broker ends last, so that nobody has to miss it.
_STAGES = {"api": 0, "flower": 0, "task-runner": 0, "orchestrator": 0, "broker": 1}


@dataclass(frozen=True)
class Plan:
    """What to bring up. None for a URL or port: an embedded part, a port that is free."""

    folder: DataFolder
    cwd: Path
    environment: Mapping[str, str] = field(repr=False)
    database_url: str | None = None
    redis_url: str | None = None
    secret: str | None = field(default=None, repr=False)
    port: int | None = None
    tenant: str = TENANT
    drain_seconds: float = 8.0
    has_broker: bool = True
    has_flower: bool = False
    has_api: bool = True
    has_workers: bool = True
    workers: Workers = USUAL


class PartFailed(SignalboxError):
    """A process that did not begin to work; `log_end` are the last lines that it wrote."""

    code = "up.part_failed"

    def __init__(self, part: str, why: str, log_path: Path, log_end: list[str]) -> None:
        super().__init__(f"{part} did not start: it {why}; its log is {log_path}", part=part)
        self.log_end = log_end


class DatabaseGone(SignalboxError):
    """The file of the embedded database was removed or replaced, and its processes go on writing to the one that nobody finds any more."""

    code = "up.database_gone"


@dataclass(frozen=True)
class Ready:
    """A part that works now: what it is, for people, and the seconds since the start of the whole."""

    name: str
    detail: str
    seconds: float


class Stack:
    """One running Signalbox. `start` brings it up, `tick` keeps it up, leaving the `with` block takes it down."""

    def __init__(self, plan: Plan, say: Say, *, fork_server: ForkServer | None = None) -> None:
        self._plan = plan
        self._say = say
        self._exit = ExitStack()
        self._began = time.monotonic()
        self.folder = plan.folder
        self.url = ""
        self.key = ""
        self.flower_url: str | None = None
        self.broker: Broker | None = None
        self._environment: dict[str, str] = {}
        self._database_file: os.stat_result | None = None
        self.redis_url: str | None = None
        self.hurried: Callable[[], bool] = lambda: False
        self.is_unwanted: Callable[[], bool] = lambda: False
        self.supervisor = Supervisor(
            plan.folder.logs,
            plan.cwd,
            say,
            write_lock=None if plan.database_url else Path(f"{plan.folder.database_path}.lock"),
            fork_server=fork_server,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Iterator[Ready]:
        """Bring everything up, telling each part as it begins to work. Exhaust it before using the stack.

        Waits for nobody any more once `is_unwanted` says so.
        Raises `Conflict` where another `up` holds the folder, `Misconfigured` for a port that is taken, and
        `PartFailed` for a part that does not begin to work.
        """
        self.folder.create()
        self._exit.enter_context(self.folder.locked())
        self._exit.callback(
            lambda: self.supervisor.stop(
                seconds=self._plan.drain_seconds + LAST_WORDS_SECONDS, hurried=self.hurried
            )
        )
        if self._plan.has_api or self._plan.has_workers:
            self.supervisor.start_fork_server(self._plan.environment, stage=_STAGES["broker"])
        # Held by us and served by the API: nobody can take the port from it, and callers outlive its restarts.
        listener = self._exit.enter_context(self._listen())
        port = listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{port}"
        self.redis_url = self._start_broker()
        yield self._prepare_database()
        self._environment = self._make_environment(port, self.redis_url)
        if self.broker is not None:
            yield from self._await(["broker"])
        self.supervisor.await_fork_server(READY_SECONDS, self.is_unwanted)
        if self._plan.has_api:
            self._start_part("api", api_command(), listener.fileno())
        if self._plan.has_flower:
            self._start_flower()
        if self._plan.has_workers:
            self._start_workers()
        yield from self._await(name for name in self.supervisor.names() if name not in ("broker", "flower"))
        self.folder.store_url(self.url)

    def start_workers(self) -> Iterator[Ready]:
        """Start the workers of a stack that was planned without them, or whose workers were stopped."""
        self._start_workers()
        yield from self._await(name for name, _ in self.workers.parts())

    def add_worker(self, duty: Duty, number: int) -> Ready:
        """Start one more worker beside the first; `number` tells it from others, and the answer has its name."""
        name = another(duty, number)
        self._start_worker(name, duty)
        [ready] = self._await([name])
        return ready

    def stop_workers(self) -> None:
        """End the workers in order; the rest goes on."""
        self.supervisor.end([name for name, _ in self.workers.parts()])

    def tick(self) -> float:
        """Look after the processes, see `Supervisor.tick`.

        Raises `DatabaseGone`, after which the stack is to be stopped: whatever is accepted would be lost.
        """
        if self._database_file is not None and not _is_still(self.folder.database_path, self._database_file):
            raise DatabaseGone(
                f'"{self.folder.database_path}" was removed or replaced while it was in use, and what is accepted now would be '
                "lost, so everything is stopped; put the file back or restore a backup, and start again"
            )
        return self.supervisor.tick()

    def client(self) -> Client:
        """A client with the key of this stack."""
        return Client(self.url, self.key)

    def stop(self) -> None:
        """End every process in order, within the drain and 2 s, and let go of the folder."""
        self._exit.close()

    # --- broker and database ----------------------------------------------------------------------------------

    def _start_broker(self) -> str | None:
        """Start the embedded broker where one is wanted and there is one; the URL that the processes get."""
        if not self._plan.has_broker or self._plan.redis_url:
            return self._plan.redis_url
        self.broker = find_broker(self.folder.broker)
        if self.broker is None:
            self._say(
                Notice(
                    "broker",
                    "no Valkey or Redis found here: the workers look for work each second",
                    "warning",
                )
            )
            return None
        self.supervisor.start(Part("broker", self.broker.command(), {"PATH": os.defpath}, _STAGES["broker"]))
        self.folder.store_broker_url(self.broker.url)
        return self.broker.url

    @property
    def database_url(self) -> str:
        """The database that the processes use; it may hold a password."""
        return self._plan.database_url or self.folder.database_url

    def _prepare_database(self) -> Ready:
        """Bring the schema up, and make the tenant and the key of the CLI where they are missing."""
        with opened_database(self.database_url, name="signalbox-up") as database:
            before, after = upgrade(database)
            self.key = self._admin_key(database)
        if self._plan.database_url is None:
            self._database_file = self.folder.database_path.stat()
        detail = "SQLite" if self._plan.database_url is None else redact_url(self.database_url)
        done = f"schema {after}" if before == after else f"schema {before or 'none'} → {after}"
        return self._ready("database", f"{detail}, {done}")

    def _admin_key(self, database: Database) -> str:
        """The stored key of the CLI if this database knows it, else a new one, stored."""
        secret = read_secret(self._secret)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, self._plan.tenant)
            stored = self.folder.key()
            prefix = key_prefix(stored) if stored else None
            known = keys.find_usable_key(tx, prefix) if prefix else None
            if stored and known and is_key(secret, stored, known.hash):
                return stored
            fresh = keys.issue_key(tx, tenant_id, name=KEY_NAME, role=Role.ADMIN, secret=secret)
        self.folder.store_key(fresh.key)
        return fresh.key

    @property
    def _secret(self) -> str:
        return self._plan.secret or self.folder.secret()

    # --- processes --------------------------------------------------------------------------------------------

    def _listen(self) -> socket.socket:
        """Listen on the port that was asked for, else the one of last time, the usual one, or any that is free."""
        if self._plan.port is not None:
            listener = _listen_soon(self._plan.port)
            if listener is None:
                raise Misconfigured(
                    f"port {self._plan.port} is taken by another program; stop it, or name another port with --port"
                )
            return listener
        last = urlsplit(self.folder.url() or "").port
        listener = _listen_soon(last) if last is not None else None
        listener = listener or listen(USUAL_PORT) or listen(0)
        if listener is None:
            raise Misconfigured(
                "no port of the loopback can be listened on; see what holds them with `ss -ltn`"
            )
        return listener

    @property
    def workers(self) -> Workers:
        """How many there are of each. SQLite has one writer at a time, so nobody is in reserve there."""
        is_shared = not self.database_url.startswith("sqlite") and is_redis(self.redis_url or "")
        return self._plan.workers.on(cores=cores(), is_shared=is_shared)

    def _start_workers(self) -> None:
        for name, duty in self.workers.parts():
            self._start_worker(name, duty, in_reserve=is_reserve(name))

    def _start_worker(self, name: str, duty: Duty, *, in_reserve: bool = False) -> None:
        command = worker_command(duty, name=name, in_reserve=in_reserve)
        self._start_part(
            name, command, stage=_STAGES[duty], more={"SIGNALBOX_RESERVE": str(in_reserve).lower()}
        )

    def _start_flower(self) -> None:
        port = FLOWER_PORT if is_free(FLOWER_PORT) else free_port()
        self.flower_url = f"http://{LOOPBACK}:{port}"
        self._start_part("flower", flower_command(port))

    def _start_part(
        self,
        name: str,
        command: tuple[str, ...],
        *sockets: int,
        stage: int | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        environment = {**self._environment, **more}
        if sockets:
            environment["SIGNALBOX_LISTEN_FD"] = str(sockets[0])
        stage = _STAGES[name] if stage is None else stage
        self.supervisor.start(Part(name, command, environment, stage, sockets=sockets))

    def _make_environment(self, port: int, redis_url: str | None) -> dict[str, str]:
        ours = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": redis_url or NO_BROKER,
            "SIGNALBOX_SECRET": self._secret,
            "SIGNALBOX_DATA": str(self.folder.path),
            "SIGNALBOX_HOST": LOOPBACK,
            "SIGNALBOX_PORT": str(port),
            "SIGNALBOX_PUBLIC_URL": f"http://{LOOPBACK}:{port}",
            "SIGNALBOX_LOG_FORMAT": "json",  # what `LogTail` reads
        }
        if redis_url is None:
            ours["SIGNALBOX_DOORBELLS"] = "false"
        return {**self._plan.environment, **ours}

    # --- waiting ----------------------------------------------------------------------------------------------

    def _await(self, names: Iterable[str]) -> Iterator[Ready]:
        """Tell each process as it begins to work; give up on one that keeps ending, or after `READY_SECONDS`."""
        waiting = list(names)
        began = time.monotonic()
        database = Database.open(self.database_url, name="signalbox-up")
        client = self.client()
        try:
            while waiting and not self.is_unwanted():
                self.supervisor.tick()
                workers = _worker_pids(database)
                for name in list(waiting):
                    detail = self._detail_when_ready(name, workers, client)
                    if detail is not None:
                        waiting.remove(name)
                        yield self._ready(name, detail)
                self._give_up_on(waiting, time.monotonic() - began)
                time.sleep(0.03)
        finally:
            client.close()
            database.dispose()

    def _detail_when_ready(self, name: str, workers: set[int], client: Client) -> str | None:
        """What to tell about a process that works now; None while it does not."""
        pid = self.supervisor.pid(name)
        if pid is None:
            return None
        if name == "broker":
            version = self.broker.version() if self.broker else None
            return f"{version}, loopback, pid {pid}" if version else None
        if name == "api":
            return f"{self.url}, pid {pid}" if client.is_ready() else None
        told = f"pid {pid}, in reserve" if is_reserve(name) else f"pid {pid}"
        return told if pid in workers else None

    def _give_up_on(self, waiting: list[str], waited: float) -> None:
        late = waited > READY_SECONDS
        for name in waiting:
            failures = self.supervisor.failures(name)
            if late or failures >= TRIES_AT_START:
                why = (
                    f"ended {failures} times" if failures else f"gave no sign of life in {READY_SECONDS:g} s"
                )
                raise PartFailed(name, why, self.supervisor.log_path(name), self.supervisor.log_end(name))

    def _ready(self, name: str, detail: str) -> Ready:
        return Ready(name, detail, time.monotonic() - self._began)


def _is_still(path: Path, file: os.stat_result) -> bool:
    """Whether `path` names this very file. True where the system does not tell."""
    try:
        return os.path.samestat(path.stat(), file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a right that was taken away, a disk that fails: the file is where it was
        return True


def _listen_soon(port: int) -> socket.socket | None:
    """Listen on a port that is free now or within `PORT_SECONDS`."""
    deadline = time.monotonic() + PORT_SECONDS
    while (listener := listen(port)) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return listener


def _worker_pids(database: Database) -> set[int]:
    """The processes on this machine whose workers have said that they are here."""
    host = socket.gethostname()
    with database.reading() as tx:
        return {worker.pid for worker in overview.list_workers(tx) if worker.host == host}
