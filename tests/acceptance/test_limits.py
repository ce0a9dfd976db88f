"""8 claimers and a limit of 3: never 4 at once, and no place empty while work waits.

The workers look by themselves every 30 s only, so that a wake-up that is missing would show as a place that stands empty for as long.
`LIMITED_TASKS` says how many tasks there are (600).
"""

import os
import threading
from collections.abc import Iterator
from typing import Any, Self

import psutil
import pytest
from sqlalchemy import select

from common.db.tables import attempts
from tests.support.cluster import QUICK_LEASES, Cluster, end_all
from tests.support.figures import Tell
from tests.support.places import Interval, Places
from tests.support.processes import Child, Processes
from tests.support.slowdown import assert_within
from tests.support.waiting import wait_until

TASKS = int(os.environ.get("LIMITED_TASKS", "600"))
CLAIMERS, LIMIT = 8, 3
SECONDS = 60.0 + TASKS / 20
EMPTY_SECONDS = 5.0
"""Longer than any commit on a busy machine, and far shorter than a look."""
SETTINGS = {"SIGNALBOX_LOOK_SECONDS": "30"}

pytestmark = pytest.mark.timeout(SECONDS + 300)


@pytest.fixture(params=["sqlite", "postgresql"])
def cluster(request: pytest.FixtureRequest, processes: Processes, valkey_url: str) -> Iterator[Cluster]:
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    with Cluster(processes, url, valkey_url, SETTINGS, forks=True) as cluster:
        yield cluster


def many(count: int, *, ms: int) -> dict[str, Any]:
    """So many tasks that are due together, under a limit of 3."""
    each = {"type": "test.rest", "input": {"ms": ms}, "limit": {"key": "crm", "maxRunning": LIMIT}}
    work = {"src": "MAP", "input": {"items": list(range(count)), "task": each}, "onDone": "done"}
    states = {"working": {"invoke": work}, "done": {"type": "final"}}
    return {"id": "many", "initial": "working", "states": states}


class Sampler:
    """Counts who runs, over and over, until it is left."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.seen: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)

    def _sample(self) -> None:
        while not self._over.wait(0.01):
            self.seen.append(self._cluster.count("SELECT count(*) FROM tasks WHERE lease_owner IS NOT NULL"))


def judge(cluster: Cluster) -> Places:
    with cluster.database.reading() as tx:
        rows = tx.execute(select(attempts.c.started_at, attempts.c.ended_at)).all()
    return Places.of([Interval(*row) for row in rows])


def test_8_claimers_keep_to_a_limit_of_3(cluster: Cluster, tell: Tell) -> None:
    workers = cluster.workers(orchestrators=1, task_runners=CLAIMERS)
    with Sampler(cluster) as sampler:
        cluster.engine.start(many(TASKS, ms=5))
        cluster.wait_for_all("completed", 1, seconds=SECONDS)
    assert end_all(workers) == [0] * (CLAIMERS + 1)

    judged = judge(cluster)
    claimers = cluster.count("SELECT count(DISTINCT worker_id) FROM attempts")
    tell(f"{judged}; {claimers} claimers took part, {len(sampler.seen)} samples")
    assert judged.attempts == TASKS
    assert judged.most_at_once == LIMIT
    assert max(sampler.seen) <= LIMIT
    assert_within(judged.at(1), EMPTY_SECONDS)
    cluster.assert_healthy()


def test_a_killed_runner_s_places_are_given_back_with_its_leases(cluster: Cluster, tell: Tell) -> None:
    cluster.processes.env = {**cluster.processes.env, **QUICK_LEASES}
    _, *runners = cluster.workers(orchestrators=1, task_runners=3)
    count = 60
    with Sampler(cluster) as sampler:
        cluster.engine.start(many(count, ms=100))
        wait_until(lambda: frozen_holder(cluster, runners), what="a runner to freeze with a place").kill()
        cluster.wait_for_all("completed", 1, seconds=SECONDS)

    judged = judge(cluster)
    tell(f"{judged}; {cluster.attempts('lost')} lost")
    assert cluster.attempts("lost") >= 1
    assert judged.attempts == count + cluster.attempts("lost")
    assert judged.most_at_once == LIMIT
    assert max(sampler.seen) <= LIMIT
    cluster.assert_healthy()


def frozen_holder(cluster: Cluster, runners: list[Child]) -> Child | None:
    """A runner that holds a place, frozen so that it keeps it; None where it gave it back before it froze."""
    for child in runners:
        if child.pid in holders(cluster):
            child.freeze()
            wait_until(
                lambda child=child: psutil.Process(child.pid).status() == "stopped", what="it to freeze"
            )
            if child.pid in holders(cluster):
                return child
            child.thaw()
    return None


def holders(cluster: Cluster) -> set[int]:
    """The pids of the runners that hold places."""
    rows = cluster.query("SELECT workers.pid FROM tasks JOIN workers ON workers.id = tasks.lease_owner")
    return {int(pid) for (pid,) in rows}
