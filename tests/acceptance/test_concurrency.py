"""Many starts at once, over the real API and several processes: never more run than may, and none is lost.

How many ran at once is told by the rows afterwards: from the step that started an instance to the step that ended it, both
by the database's clock. A watcher counts meanwhile what is live and not queued.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from common.credentials import make_secret, read_secret
from common.db.tables import Role
from common.store import keys
from signalbox.ports import LOOPBACK, free_port
from tests.support.cluster import Cluster
from tests.support.overlap import most_at_once
from tests.support.waiting import wait_until

STARTS, CALLERS, MAX = 24, 24, 3
LIVING = "('pending', 'running', 'waiting', 'paused', 'compensating')"
WORK_MS = 150


def limited(on_full: str, *, key: str | None = None) -> dict[str, Any]:
    work = {"src": "test.rest", "input": {"ms": WORK_MS}, "onDone": "over"}
    concurrency = {"max": MAX, "onFull": on_full} | ({"key": key} if key else {})
    return {
        "id": "limited",
        "initial": "working",
        "concurrency": concurrency,
        "states": {"working": {"invoke": work}, "over": {"type": "final"}},
    }


@pytest.fixture
def cluster(rung_cluster: Cluster) -> Cluster:
    return rung_cluster


class Callers:
    """Callers of the API, who all begin at the same moment."""

    def __init__(self, cluster: Cluster) -> None:
        secret = make_secret()
        with cluster.database.transaction() as tx:
            tenant = cluster.engine.tenant_id
            issued = keys.issue_key(tx, tenant, name="test", role=Role.ADMIN, secret=read_secret(secret))
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}/api/v1"
        self.headers = {"Authorization": f"Bearer {issued.key}"}
        cluster.processes.api(port, env={"SIGNALBOX_SECRET": secret})
        wait_until(self._answers, what="the API to answer", seconds=30)

    def _answers(self) -> bool:
        try:
            return httpx2.get(
                f"{self.url}/instances", headers=self.headers, timeout=5, verify=False
            ).is_success
        except httpx2.TransportError:
            return False

    def start_all(self, inputs: list[Any]) -> list[httpx2.Response]:
        gate = threading.Barrier(len(inputs))

        def start(given: Any) -> httpx2.Response:
            body = {"definitionKey": "limited", "input": given}
            gate.wait(30)
            return httpx2.post(
                f"{self.url}/instances", json=body, headers=self.headers, timeout=60, verify=False
            )

        with ThreadPoolExecutor(len(inputs)) as pool:
            return list(pool.map(start, inputs))


class Watcher:
    """Counts what has a place, again and again, each time in one statement."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0
        self.looks = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._ending.wait(0.01):
            rows = self._cluster.query(
                f"SELECT count(*) FROM instances WHERE NOT queued AND status IN {LIVING} GROUP BY concurrency_key"
            )
            self.most = max([self.most, *(int(count) for (count,) in rows)])
            self.looks += 1


def spans(cluster: Cluster, key: str = "") -> list[Any]:
    rows = cluster.query(
        f"SELECT started_at, finished_at FROM instances WHERE concurrency_key = '{key}' AND started_at IS NOT NULL"
    )
    return [(begin, end) for begin, end in rows]


def test_of_many_starts_at_once_the_others_wait_and_all_end_although_an_orchestrator_is_killed(
    cluster: Cluster,
) -> None:
    cluster.engine.apply(limited("queue", key="${input.customer}"))
    doomed, _, _ = cluster.workers(orchestrators=2, task_runners=1)
    callers = Callers(cluster)

    with Watcher(cluster) as watcher:
        answers = callers.start_all([{"customer": "ada" if at % 2 else "bob"} for at in range(STARTS)])
        assert [answer.status_code for answer in answers] == [201] * STARTS
        wait_until(lambda: cluster.statuses().get("completed", 0) >= MAX, what="the first to end", seconds=30)
        doomed.kill()
        cluster.wait_for_all("completed", STARTS, seconds=60)

    for customer in ("ada", "bob"):
        ran = spans(cluster, customer)
        assert len(ran) == STARTS // 2
        assert most_at_once(ran) == MAX
    assert watcher.looks > 0
    assert watcher.most == MAX
    cluster.assert_healthy()


def test_of_many_starts_at_once_as_many_as_may_are_accepted_and_the_others_refused(cluster: Cluster) -> None:
    cluster.engine.apply(limited("reject"))
    callers = Callers(cluster)

    answers = callers.start_all([None] * STARTS)

    assert sorted(answer.status_code for answer in answers) == [201] * MAX + [409] * (STARTS - MAX)
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert (refused["code"], refused["max"], refused["live"]) == ("concurrency.full", MAX, MAX)
    cluster.workers()
    cluster.wait_for_all("completed", MAX, seconds=30)
    assert [answer.status_code for answer in callers.start_all([None] * MAX)] == [201] * MAX
    cluster.wait_for_all("completed", 2 * MAX, seconds=30)
    cluster.assert_healthy()


def test_of_many_starts_at_once_the_youngest_are_left_where_the_oldest_give_way(cluster: Cluster) -> None:
    cluster.engine.apply(limited("cancelOldest"))
    cluster.workers(orchestrators=2, task_runners=1)
    callers = Callers(cluster)

    with Watcher(cluster) as watcher:
        answers = callers.start_all([None] * STARTS)
        cluster.wait_until_settled(seconds=60)

    assert [answer.status_code for answer in answers] == [201] * STARTS
    statuses = cluster.statuses()
    assert sum(statuses.values()) == STARTS
    assert statuses.keys() <= {"completed", "cancelled"}
    assert statuses["completed"] >= MAX
    assert watcher.most <= MAX
    assert most_at_once(spans(cluster)) <= MAX
    cluster.assert_healthy()
