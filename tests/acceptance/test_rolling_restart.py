"""A rolling restart under load: each process is told to end by SIGTERM and followed by another, while callers go on.

The callers are plain: kept-alive connections, no second try. Beside them stand idlers, which speak so rarely that their
connections are closed under their hands if they are closed at the wrong moment. None of them may see a connection error or
an answer that is none; everything that was acknowledged happens once; every instance ends.

`ROLLING_ROUNDS` restarts everything more often than once.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from common.credentials import make_secret, read_secret
from common.db.tables import Role
from common.store import keys
from signalbox.ports import LOOPBACK, free_port, listen
from tests.support.cluster import Cluster, end_all, ready
from tests.support.figures import Tell
from tests.support.ledger import Ledger
from tests.support.processes import Child, Processes
from tests.support.up import runs
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

ROUNDS = int(os.environ.get("ROLLING_ROUNDS") or 1)
CALLERS = 4
PAUSE_SECONDS = 0.2
"""Of a caller between two instances: one that ended would be missed in the same way by fewer, and what starts has a core to start on."""
IDLERS = 4
TASKS = 2
EVENTS = 2
CHART: dict[str, Any] = {
    "id": "rolled",
    "initial": "opening",
    "context": {"counted": 0},
    "on": {"COUNT": {"actions": {"type": "assign", "params": {"path": "counted", "value": "${context.counted + 1}"}}}},
    "states": {
        "opening": {"invoke": {"src": "test.rest", "input": {"ms": 30}, "onDone": "counting"}},
        "counting": {"always": {"guard": f"context.counted >= {EVENTS}", "target": "closing"}},
        "closing": {"invoke": {"src": "test.rest", "input": {"ms": 30}, "onDone": "closed"}},
        "closed": {"type": "final"},
    },
}  # fmt: skip

pytestmark = pytest.mark.timeout(300 + 90 * ROUNDS)


@dataclass
class Callers:
    """Threads that start instances and send events, each by one connection that it keeps; and what they saw."""

    url: str
    key: str
    started: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    calls: int = 0
    longest: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        threads += [threading.Thread(target=self._idle, args=(number,)) for number in range(IDLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)

    def _client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(
            base_url=f"{self.url}/api/v1", headers=headers, timeout=30, trust_env=False, verify=False
        )

    def _call(self, number: int) -> None:
        with self._client() as client:
            turn = 0
            while not self._over.wait(PAUSE_SECONDS):
                turn += 1
                start = {"definitionKey": "rolled", "businessKey": f"{number}-{turn}"}
                instance = self._ask(client, 201, "POST", "/instances", json=start)
                if instance is None:
                    continue
                with self._turn:
                    self.started.append(instance["id"])
                for _ in range(EVENTS):
                    self._ask(
                        client, 202, "POST", f"/instances/{instance['id']}/events", json={"type": "COUNT"}
                    )

    def _idle(self, number: int) -> None:
        """Speak at odd moments: now before, now after a server that ends has had enough of waiting."""
        chance = random.Random(number)
        with self._client() as client:
            while not self._over.wait(chance.uniform(0.2, 3.5)):
                self._ask(client, 200, "GET", "/definitions/rolled")

    def _ask(self, client: httpx2.Client, status: int, method: str, path: str, **body: Any) -> Any:
        began = time.monotonic()
        try:
            answer = client.request(method, path, **body)
        except httpx2.TransportError as error:
            with self._turn:
                self.wrong.append(f"{method} {path}: {error!r} after {time.monotonic() - began:.2f} s")
            return None
        with self._turn:
            self.calls += 1
            self.longest = max(self.longest, time.monotonic() - began)
            if answer.status_code != status:
                self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.status_code == status else None

    def wait_for_more(self, instances: int = 10) -> None:
        """Wait until so many more instances have been started than now: what ended is missed by nobody."""
        enough = len(self.started) + instances
        wait_until(lambda: len(self.started) >= enough or self.wrong, what="more starts", seconds=60)


@pytest.fixture
def cluster(processes: Processes, postgres_url: str, valkey: ValkeyServer) -> Iterator[Cluster]:
    settings = {
        "SIGNALBOX_SECRET": make_secret(),
        "SIGNALBOX_PORT": str(free_port()),
        "LEDGER": str(processes.folder / "ledger"),
    }
    with Cluster(processes, postgres_url, valkey.url, settings) as cluster:
        cluster.engine.apply(CHART)
        yield cluster


@pytest.fixture
def callers(cluster: Cluster) -> Callers:
    secret = read_secret(cluster.settings["SIGNALBOX_SECRET"])
    with cluster.database.transaction() as tx:
        key = keys.issue_key(tx, cluster.engine.tenant_id, name="me", role=Role.ADMIN, secret=secret).key
    return Callers(f"http://{LOOPBACK}:{cluster.settings['SIGNALBOX_PORT']}", key)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/ready", timeout=2, verify=False).status_code == 200
    except httpx2.TransportError:
        return False


def successor_of(master: psutil.Process) -> psutil.Process:
    """What docs/operations.md tells: SIGUSR2, and wait until the old one has gone; who took its place."""
    workers = {child.pid for child in master.children()}
    master.send_signal(signal.SIGUSR2)

    def its_own() -> psutil.Process | None:
        return next((child for child in master.children() if child.pid not in workers), None)

    successor = wait_until(its_own, what="the successor to be started", seconds=20)
    wait_until(lambda: not runs(master), what="the predecessor to end", seconds=60)
    return successor


def assert_nothing_lost_or_doubled(cluster: Cluster, callers: Callers) -> None:
    """By the callers' list, by the handlers' own, and by every promise that the database can be asked for."""
    number = len(callers.started)
    cluster.wait_for_all("completed", number, seconds=60)
    assert {str(row[0]) for row in cluster.query("SELECT id FROM instances")} == set(callers.started)
    snapshots = [row[0] for row in cluster.query("SELECT snapshot FROM instances")]
    counted = Counter(json.loads(snapshot)["context"]["counted"] for snapshot in snapshots)
    assert counted == {EVENTS: number}
    cluster.assert_each_result_counted_once(tasks=TASKS * number)
    ledger = Ledger(Path(cluster.settings["LEDGER"]))
    for what in ("began", "ended"):
        times = Counter(line.task_id for line in ledger.lines(what))
        assert len(times) == TASKS * number
        assert set(times.values()) == {1}, "SIGTERM lets a handler end: no task is run twice"
    cluster.assert_healthy()


def test_rolling_everything_loses_nothing_and_no_caller_sees_it(
    cluster: Cluster, callers: Callers, processes: Processes, tell: Tell
) -> None:
    child = processes.start("api", "signalbox", "api")
    api = psutil.Process(child.pid)
    orchestrators = [processes.orchestrator() for _ in range(2)]
    runners = [processes.task_runner() for _ in range(2)]
    for worker in (*orchestrators, *runners):
        ready(worker)
    child.wait_until_ready(lambda: answers(callers.url), what="an answer", seconds=60)
    began = time.monotonic()

    with callers.speaking():
        callers.wait_for_more()
        for _ in range(ROUNDS):
            for number in range(2):
                assert end_all([orchestrators[number], runners[number]]) == [0, 0]
                orchestrators[number], runners[number] = processes.orchestrator(), processes.task_runner()
                api = successor_of(api)  # while the others start
                for worker in (orchestrators[number], runners[number]):
                    ready(worker)
                callers.wait_for_more()
    seconds = time.monotonic() - began

    assert not callers.wrong, callers.wrong[:10]
    assert_nothing_lost_or_doubled(cluster, callers)
    tell(
        f"{6 * ROUNDS} processes rolled in {seconds:.0f} s: {callers.calls} calls, {len(callers.started)} instances, "
        f"0 errors, longest call {callers.longest * 1000:.0f} ms"
    )


def test_an_api_started_again_on_a_socket_that_systemd_holds_refuses_nobody(
    cluster: Cluster, callers: Callers, processes: Processes, tell: Tell
) -> None:
    listener = listen(int(cluster.settings["SIGNALBOX_PORT"]))
    assert listener is not None
    with listener:
        fd = listener.fileno()
        # As systemd does it (sd_listen_fds(3)): descriptor 3, and the pid that it is meant for.
        become = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.execv(sys.executable, [sys.executable, '-m', 'api'])"
        )
        command = (sys.executable, "-c", become, str(fd))

        def start() -> Child:
            return processes.start("api", *command, env={"LISTEN_FDS": "1"}, sockets=[fd])

        api = start()
        cluster.workers()
        with callers.speaking():
            callers.wait_for_more()
            for _ in range(2 * ROUNDS):
                assert api.terminate() == 0
                api = start()
                callers.wait_for_more()

    assert not callers.wrong, callers.wrong[:10]
    assert_nothing_lost_or_doubled(cluster, callers)
    tell(f"{2 * ROUNDS} restarts: {callers.calls} calls, longest {callers.longest * 1000:.0f} ms")


def test_a_successor_is_followed_again_the_moment_its_predecessor_has_gone(
    cluster: Cluster, callers: Callers, processes: Processes
) -> None:
    child = processes.start("api", "signalbox", "api")
    child.wait_until_ready(lambda: answers(callers.url), what="an answer", seconds=60)

    second = successor_of(psutil.Process(child.pid))
    third = successor_of(second)  # gunicorn alone would ignore this signal for up to a second

    assert runs(third)
    assert answers(callers.url)


def test_a_successor_that_cannot_start_ends_nobody(
    cluster: Cluster, callers: Callers, processes: Processes
) -> None:
    child = processes.start("api", "signalbox", "api")
    child.wait_until_ready(lambda: answers(callers.url), what="an answer", seconds=60)
    with cluster.database.transaction() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")

    child.popen.send_signal(signal.SIGUSR2)

    child.wait_for_log("signalbox db upgrade", seconds=60)
    assert child.is_alive
    assert httpx2.get(f"{callers.url}/health/live", timeout=5, verify=False).status_code == 200
