"""Where chaos happens: a running Signalbox of real processes, what there is of it to be hurt, and how it is kept up.

`Production` is what a Procfile or Compose would run: an API, two orchestrators and one in reserve, and two task runners under a supervisor that
starts again what ends, a PostgreSQL and a Valkey of their own, and a relay before the Valkey. `Embedded` is `signalbox up`
itself. A **member** is one process that is kept up; its **role** is what it does there.
"""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx2
import psutil
import psycopg
from sqlalchemy import Connection, select

from common.credentials import make_secret, read_secret
from common.db.tables import Role as KeyRole
from common.db.tables import workers
from common.store import keys
from signalbox.folder import DataFolder
from signalbox.parts import api_command, worker_command
from signalbox.ports import LOOPBACK, free_port
from signalbox.supervisor import Notice, Part, Supervisor
from tests.support.chaos_recovery import ask
from tests.support.chaos_relay import Relay
from tests.support.cluster import NO_BROKER, Cluster
from tests.support.postgres import OwnServer
from tests.support.processes import Processes, plain_environment
from tests.support.up import Up, runs
from tests.support.valkey import ValkeyServer, answers_ping
from tests.support.waiting import crowd, wait_until

IN_RESERVE = "orchestrator-reserve"
Role = Literal["api", "orchestrator", "task-runner", "broker"]

Inside = Literal["idle transaction", "unfinished sending"]

HANDLERS = "tests.support.chaos_handlers"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
START_SECONDS = 5.0
"""How long a worker's start takes at most on an idle machine."""
AHEAD = "+600s"
"""How far the host's clock of a fast worker is ahead."""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
FAST_CLOCK = Path(__file__).with_name("fast_clock")
SHARED_MEMORY = Path("/dev/shm")


class Site(ABC):
    """A running Signalbox. `cluster` asks its database; `url` and `key` are for its callers."""

    cluster: Cluster
    url: str
    key: str
    broker_url: str
    ledger: Path
    lease: float
    roles: Mapping[str, Role]
    """The role of each member, by its name."""
    told: set[int]
    """The pids of members that were told to end; what they make of it has to be exit code 0."""

    @abstractmethod
    def tick(self) -> None:
        """Look after what is kept up; called every 50 ms."""

    @abstractmethod
    def process(self, member: str) -> psutil.Process | None:
        """The process that plays a member now; None between two lives."""

    @abstractmethod
    def end(self) -> None:
        """End every process in order."""

    @abstractmethod
    def crashes(self) -> list[str]:
        """Members that ended although nobody killed them or told them to, as their supervisor tells it."""

    @abstractmethod
    def hold_transaction(self) -> ExitStack:
        """Read something in a transaction of a stranger and leave it open, until the answer is closed."""

    def is_meant(self, text: str) -> bool:
        """Whether an end that a supervisor tells of was ours: killed, or told to end and ended in order."""
        in_order = any(f"(exit code 0, pid {pid})" in text for pid in self.told)
        return in_order or "killed by SIGKILL" in text

    def members(self, role: Role) -> list[str]:
        return [member for member, its in self.roles.items() if its == role]

    def family(self, member: str) -> list[psutil.Process]:
        """The process of a member and those that it started, such as gunicorn's worker."""
        process = self.process(member)
        if process is None:
            return []
        try:
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def is_ready(self, member: str) -> bool:
        """Whether a member works: a worker has said so in the database, the API answers."""
        process = self.process(member)
        if process is None:
            return False
        match self.roles[member]:
            case "api":
                return self._answers_http()
            case "broker":
                return answers_ping(self.broker_url)
            case _:
                return process.pid in (ask(self.cluster.database, _registered) or ())

    def _answers_http(self) -> bool:
        try:
            # No certificates are read for a loopback without TLS: that costs more than the question.
            return httpx2.get(f"{self.url}/health/ready", timeout=1, verify=False).status_code == 200
        except httpx2.TransportError:
            return False

    def wait_until_ready(self) -> None:
        def all_ready() -> bool:
            self.tick()
            return all(self.is_ready(member) for member in self.roles)

        wait_until(all_ready, what="every member of the site to be ready", seconds=READY_SECONDS)


def _registered(tx: Connection) -> set[int]:
    return {row[0] for row in tx.execute(select(workers.c.pid).where(workers.c.ended_at.is_(None)))}


class Production(Site):
    """PostgreSQL, Valkey, an API and two workers of each duty. `fast` names a member whose host's clock is 10 min ahead."""

    def __init__(
        self,
        processes: Processes,
        postgres: OwnServer,
        database_url: str,
        valkey: ValkeyServer,
        settings: Mapping[str, str],
        *,
        lease: float,
        fast: str | None = None,
    ) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.broker_url = valkey.url
        self.relay = Relay(valkey.port)
        self.ledger = processes.folder / "ledger"
        self.lease = lease
        self.roles = {
            "api": "api",
            **{f"orchestrator-{number}": "orchestrator" for number in (1, 2)},
            IN_RESERVE: "orchestrator",
            **{f"task-runner-{number}": "task-runner" for number in (1, 2)},
        }
        self.told = set()
        self._crashes: list[str] = []
        self._without_database = 0.0
        self._supervisor = Supervisor(processes.folder, processes.folder, self._note)
        secret = make_secret()
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._environment = plain_environment(
            processes.folder,
            {
                "DATABASE_URL": database_url,
                "REDIS_URL": self.relay.url,
                "SIGNALBOX_HANDLERS": HANDLERS,
                "SIGNALBOX_LOG_FORMAT": "json",
                "SIGNALBOX_SECRET": secret,
                "SIGNALBOX_PORT": str(port),
                "LEDGER": str(self.ledger),
                **settings,
            },
        )
        self._fast = fast
        self._fast_pids: set[int] = set()
        self._exit = ExitStack()
        self.cluster = self._exit.enter_context(Cluster(processes, database_url, NO_BROKER))
        with self.cluster.database.transaction() as tx:
            tenant_id = self.cluster.engine.tenant_id
            issued = keys.issue_key(
                tx, tenant_id, name="chaos", role=KeyRole.ADMIN, secret=read_secret(secret)
            )
        self.key = issued.key

    def __enter__(self) -> Self:
        self._exit.callback(self._clear_shared_memory)
        self._exit.enter_context(self.relay)
        self._exit.callback(self._supervisor.stop, seconds=1.0)
        for member, role in self.roles.items():
            self._supervisor.start(Part(member, self._command(member, role), self._environment_of(member)))
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def tick(self) -> None:
        self._supervisor.tick()
        pid = self._supervisor.pid(self._fast) if self._fast else None
        if pid is not None:
            self._fast_pids.add(pid)

    def process(self, member: str) -> psutil.Process | None:
        return _process(self._supervisor.pid(member))

    def end(self) -> None:
        self._supervisor.stop(seconds=STOP_SECONDS)

    def crashes(self) -> list[str]:
        return self._crashes

    def _note(self, notice: Notice) -> None:
        """Keep what ended by itself. A worker that finds no database at its start may: that is its supervisor's to mend."""
        ended = notice.text.startswith(("ended (", "did not end")) and not self.is_meant(notice.text)
        if ended and time.monotonic() > self._without_database:
            self._crashes.append(f"{notice.part}: {notice.text}")

    def _clear_shared_memory(self) -> None:
        """Remove what libfaketime leaves behind of a process that was killed."""
        for pid in self._fast_pids:
            for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
                (SHARED_MEMORY / name).unlink(missing_ok=True)

    def restart_postgres(self) -> None:
        """Stop it in immediate mode, as a crash would, and start it again; returns when it accepts connections."""
        self.postgres.stop_immediately()
        self.postgres.start_again()
        self.cluster.database.dispose()
        self._without_database = time.monotonic() + START_SECONDS * crowd()

    def hold_transaction(self) -> ExitStack:
        url = self.cluster.database.engine.url.set(drivername="postgresql")
        connection = psycopg.connect(url.render_as_string(hide_password=False))
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        # A snapshot holds back what vacuum may clean, and a number of its own holds back who reads by those.
        connection.execute("SELECT pg_current_xact_id(), count(*) FROM instances, inbox")
        stack = ExitStack()
        stack.callback(connection.close)
        return stack

    def what_it_stands_in(self, member: str) -> Inside | None:
        """What a frozen member was in the middle of when it froze, by what PostgreSQL thinks of its sessions.

        Idle in a transaction, it loses its locks after 5 s. Between two rows of an `executemany` it is not idle for
        PostgreSQL, which waits for the rest and ends the transaction by its age.
        """
        process = self.process(member)
        if process is None:
            return None
        ports = {one.laddr.port for one in process.net_connections("tcp") if one.laddr}
        query = (
            "SELECT client_port, state FROM pg_stat_activity "
            "WHERE datname = current_database() AND xact_start IS NOT NULL"
        )
        states = {state for port, state in self.cluster.query(query) if port in ports}
        if "active" in states:
            return "unfinished sending"
        return "idle transaction" if states else None

    def _command(self, member: str, role: Role) -> tuple[str, ...]:
        if role not in ("orchestrator", "task-runner"):
            return api_command()
        return worker_command(role, name=member, in_reserve=member == IN_RESERVE)

    def _environment_of(self, member: str) -> Mapping[str, str]:
        if member == IN_RESERVE:
            return {**self._environment, "SIGNALBOX_RESERVE": "true"}
        if member != self._fast:
            return self._environment
        # Monotonic clocks stay: it is the time of day that differs between hosts.
        return {
            **self._environment,
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": AHEAD,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(FAST_CLOCK),
        }


_MARKS: Mapping[str, tuple[str, ...]] = {
    "api": ("-m api",),
    "orchestrator": ("workflow-orchestrator",),
    "task-runner": ("workflow-task-runner",),
    "broker": ("valkey-server", "redis-server"),
}
"""What `ps` tells of each child of `signalbox up`."""


class Embedded(Site):
    """`signalbox up` with SQLite and its own Valkey."""

    def __init__(self, processes: Processes, settings: Mapping[str, str], *, lease: float) -> None:
        self.roles = {
            "api": "api",
            "orchestrator": "orchestrator",
            "task-runner": "task-runner",
            "broker": "broker",
        }
        self.lease = lease
        self.told = set()
        self._processes = processes
        self._folder = DataFolder.at(processes.folder / "data")
        self.ledger = self._folder.path / "ledger"
        self._env = {**settings, "SIGNALBOX_HANDLERS": HANDLERS, "LEDGER": str(self.ledger)}
        self._port = free_port()
        self._found: dict[str, psutil.Process] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._up = Up.start(self._processes, self._env, port=self._port)
        self.url, self.key = self._folder.url() or "", self._folder.key() or ""
        self.broker_url = self._folder.broker_url() or ""
        url = f"sqlite:///{self.database_path}"
        # Not with our processes: what a cluster puts into their environment is not for the next life of `up`.
        aside = Processes(self._processes.folder)
        self.cluster = self._exit.enter_context(Cluster(aside, url, NO_BROKER))
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def database_path(self) -> Path:
        return self._folder.database_path

    def tick(self) -> None:
        """It looks after itself."""

    def process(self, member: str) -> psutil.Process | None:
        known = self._found.get(member)
        if known is not None and runs(known):
            return known
        for child in _children(_process(self._up.child.pid)):  # which looks at every process of the machine
            with suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline())
                if any(mark in line for mark in _MARKS[member]) and runs(child):
                    self._found[member] = child
                    return child
        return None

    def end(self) -> None:
        exit_code = self._up.child.terminate(seconds=STOP_SECONDS)
        assert exit_code == 0, f"`signalbox up` ended with {exit_code}:\n{self._up.child.log_tail()}"

    def crashes(self) -> list[str]:
        lives = [child.log() for child in self._processes.children if child.name == "up"]
        lines = [line for log in lives for line in log.splitlines()]
        return [line for line in lines if "ended (" in line and not self.is_meant(line)]

    def kill_up(self) -> None:
        """SIGKILL to `up` alone; its children must end with it. Then start it again: returns when it says that it is up."""
        root = psutil.Process(self._up.child.pid)
        family = root.children(recursive=True)
        root.kill()
        self._up.child.wait(seconds=10)
        wait_until(
            lambda: not any(runs(one) for one in family),
            what="the children of a killed `signalbox up` to end with it",
            seconds=10,
        )
        self._start_again()

    def restart_up(self) -> None:
        """SIGTERM to `up`, which ends its children and itself in order. Then start it again, as `kill_up` does."""
        self.end()
        self._start_again()

    def _start_again(self) -> None:
        self._up = Up.start(self._processes, self._env, port=self._port)
        self.broker_url = self._folder.broker_url() or ""  # another port and password

    def hold_transaction(self) -> ExitStack:
        connection = sqlite3.connect(self.database_path, isolation_level=None)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM instances").fetchone()
        stack = ExitStack()
        stack.callback(connection.close)
        return stack


def _process(pid: int | None) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid is not None else None
    except psutil.NoSuchProcess:
        return None


def _children(process: psutil.Process | None) -> list[psutil.Process]:
    try:
        return process.children() if process is not None else []
    except psutil.NoSuchProcess:
        return []
