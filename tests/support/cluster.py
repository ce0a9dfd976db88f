"""Workers as real processes on one database and one broker, and a caller beside them in the test's own process.

The workers are started as the Procfile starts them; the caller accepts starts and events as the API does, in its own
transactions, and rings as the API rings. Every wait has a deadline and names what it waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from common.commands.doctor import examine
from common.config import Settings
from common.credentials import make_secret
from common.db import Database
from common.queues import doorbell
from common.queues.doorbell import Doorbells
from tests.support.engine import Engine
from tests.support.forked import forked_orchestrator, forked_task_runner
from tests.support.processes import Child, Processes
from tests.support.waiting import wait_until

HANDLERS = "tests.support.cluster_handlers"
NO_BROKER = "memory://localhost"
QUICK_LEASES = {"SIGNALBOX_LEASE_SECONDS": "2", "SIGNALBOX_BEAT_SECONDS": "0.5"}
READY_SECONDS = 40.0


@dataclass
class Cluster:
    """Processes that share a database and a broker. `settings` are environment variables of every worker.

    With `forks` the workers are forked (`tests.support.forked`): where neither their start nor their end is what is tested.
    """

    processes: Processes
    database_url: str
    redis_url: str = NO_BROKER
    settings: Mapping[str, str] = field(default_factory=dict)
    forks: bool = False
    database: Database = field(init=False)
    engine: Engine = field(init=False)
    bells: Doorbells | None = field(init=False)

    def __post_init__(self) -> None:
        self.processes.env = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "SIGNALBOX_HANDLERS": HANDLERS,
            "SIGNALBOX_LOG_FORMAT": "json",
            "SIGNALBOX_SECRET": make_secret(),  # as `signalbox up` makes one: without it no step is told of ends
            **self.settings,
        }
        self.database = Database.open(self.database_url, name="signalbox-test")
        self.engine = Engine.on(self.database)
        rings = self.redis_url != NO_BROKER and self.settings.get("SIGNALBOX_DOORBELLS") != "false"
        ours = Settings(database_url=self.database_url, redis_url=self.redis_url, doorbells=rings)
        self.bells = doorbell.attach(self.database, ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bells is not None:
            self.bells.close()
        self.database.dispose()

    # -- processes -------------------------------------------------------------------------------------------------

    def orchestrator(self, *, env: Mapping[str, str] | None = None) -> Child:
        """Start an orchestrator and wait until it works."""
        return ready(self._start_orchestrator(env=env))

    def task_runner(self, *, env: Mapping[str, str] | None = None) -> Child:
        """Start a task runner and wait until it works."""
        return ready(self._start_task_runner(env=env))

    def workers(self, *, orchestrators: int = 1, task_runners: int = 1) -> list[Child]:
        """Start several workers at once; orchestrators first in the list."""
        started = [self._start_orchestrator() for _ in range(orchestrators)]
        started += [self._start_task_runner() for _ in range(task_runners)]
        return [ready(child) for child in started]

    def _start_orchestrator(self, *, env: Mapping[str, str] | None = None) -> Child:
        if self.forks:
            return forked_orchestrator(self.processes, env=env)
        return self.processes.orchestrator(env=env)

    def _start_task_runner(self, *, env: Mapping[str, str] | None = None) -> Child:
        if self.forks:
            return forked_task_runner(self.processes, env=env)
        return self.processes.task_runner(env=env)

    # -- facts -----------------------------------------------------------------------------------------------------

    def query(self, statement: str) -> list[Any]:
        """Rows of a query of the test's own, read without waiting for any writer."""
        with self.database.reading() as tx:
            return list(tx.exec_driver_sql(statement))

    def count(self, statement: str) -> int:
        """The one number that a query answers."""
        [(number,)] = self.query(statement)
        return int(number or 0)

    def statuses(self) -> dict[str, int]:
        """How many instances have each status."""
        return {
            str(status): int(number)
            for status, number in self.query("SELECT status, count(*) FROM instances GROUP BY status")
        }

    def wait_for_all(self, status: str, number: int, *, seconds: float) -> None:
        """Wait until `number` instances have `status`, and no instance another one."""
        wait_until_equal(
            self.statuses, {status: number}, what=f"{number} instances to be {status}", seconds=seconds
        )

    def wait_until_settled(self, *, seconds: float) -> None:
        """Wait until nothing is left to do: no unconsumed inbox row, no open task, no armed timer."""
        nothing = {"inbox": 0, "tasks": 0, "timers": 0}
        wait_until_equal(self.left_to_do, nothing, what="nothing to be left to do", seconds=seconds)

    def left_to_do(self) -> dict[str, int]:
        return {
            "inbox": self.count("SELECT count(*) FROM inbox"),
            "tasks": self.count("SELECT count(*) FROM tasks WHERE status IN ('pending', 'running')"),
            "timers": self.count("SELECT count(*) FROM timers WHERE status = 'armed'"),
        }

    def attempts(self, outcome: str) -> int:
        """How many attempts ended so."""
        return self.count(f"SELECT count(*) FROM attempts WHERE outcome = '{outcome}'")

    # -- promises --------------------------------------------------------------------------------------------------

    def assert_healthy(self) -> None:
        """Examine every promise: chains, replays, obligations and their rows."""
        report = examine(self.database)
        assert report["healthy"], report["problems"][:10]

    def assert_each_result_counted_once(self, *, tasks: int) -> None:
        """There are `tasks` tasks, each succeeded, and each has exactly one `task.succeeded` on record."""
        assert self.query("SELECT status, count(*) FROM tasks GROUP BY status") == [("succeeded", tasks)]
        told = [
            entry["taskId"]
            for (instance_id,) in self.query("SELECT id FROM instances")
            for entry in self.engine.entries(str(instance_id))
            if entry["type"] == "task.succeeded"
        ]
        assert len(told) == tasks
        assert len(set(told)) == tasks


def wait_until_equal(ask: Callable[[], Any], expected: Any, *, what: str, seconds: float) -> None:
    """Wait until `ask` answers `expected`; a failure tells the last answer."""
    last: Any = None

    def is_equal() -> bool:
        nonlocal last
        last = ask()
        return bool(last == expected)

    try:
        wait_until(is_equal, what=what, seconds=seconds)
    except AssertionError:
        raise AssertionError(f"waited {seconds:g} s for {what}; last seen {last}") from None


def ready(child: Child) -> Child:
    """Wait until a worker says that it works."""
    child.wait_for_log('"worker.ready"', seconds=READY_SECONDS)
    return child


def end_all(children: Iterable[Child], *, seconds: float = 20.0) -> list[int]:
    """SIGTERM to all at once, then wait; their exit codes."""
    ending: Sequence[Child] = list(children)
    for child in ending:
        if child.is_alive:
            child.popen.terminate()
    return [child.wait(seconds=seconds) for child in ending]
