"""The broker is disposable: flushed, frozen, killed or made a replica in the middle of the work, nothing is lost and nothing stops."""

import time
from collections.abc import Callable
from itertools import pairwise

import redis

from common.db import ORCHESTRATOR_QUEUE
from common.ids import InstanceId
from tests.support.cluster import Cluster, end_all
from tests.support.figures import Tell
from tests.support.processes import Processes
from tests.support.slowdown import assert_within
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

INSTANCES = 50
GOES_ON_SECONDS = 2.0
"""Promise 4: with the broker gone, work goes on within two seconds."""
IN_TIME_SECONDS = 10.0


def start_many(cluster: Cluster) -> list[InstanceId]:
    key = cluster.engine.apply(three_tasks())
    return [cluster.engine.start(key) for _ in range(INSTANCES)]


def longest_pause(cluster: Cluster) -> float:
    """The longest time in seconds in which no instance moved, by the instants of the history."""
    instants = [at for (at,) in cluster.query("SELECT at FROM history ORDER BY at")]
    return max((later - earlier).total_seconds() for earlier, later in pairwise(instants))


def run_through(
    cluster: Cluster, valkey: ValkeyServer, tell: Tell, *, outage: Callable[[], None], end: Callable[[], None]
) -> None:
    """Let the outage begin in the middle of 50 instances; start as many during it; end it; everything completes."""
    workers = cluster.workers(orchestrators=1, task_runners=1)
    start_many(cluster)
    wait_until(lambda: cluster.attempts("succeeded") > INSTANCES, what="a third of the tasks", seconds=30)
    before = longest_pause(cluster)
    outage()
    began = time.monotonic()
    start_many(cluster)
    cluster.wait_for_all("completed", 2 * INSTANCES, seconds=30)
    seconds = time.monotonic() - began
    end()
    start_many(cluster)
    cluster.wait_for_all("completed", 3 * INSTANCES, seconds=30)
    pause = longest_pause(cluster)
    tell(f"100 instances completed {seconds:.1f} s into the outage; nothing moved for {pause:.2f} s at most")

    cluster.assert_each_result_counted_once(tasks=3 * INSTANCES * TASKS)
    cluster.assert_healthy()
    assert_within(pause, GOES_ON_SECONDS + before, "the same work paused so long with the broker there")
    began = time.monotonic()
    assert end_all(workers) == [0, 0]
    assert_within(time.monotonic() - began, IN_TIME_SECONDS)


def test_a_flushed_broker(processes: Processes, postgres_url: str, valkey: ValkeyServer, tell: Tell) -> None:
    with Cluster(processes, postgres_url, valkey.url, forks=True) as cluster:
        run_through(cluster, valkey, tell, outage=valkey.flush, end=valkey.flush)


def test_a_frozen_broker(processes: Processes, postgres_url: str, valkey: ValkeyServer, tell: Tell) -> None:
    with Cluster(processes, postgres_url, valkey.url, forks=True) as cluster:
        run_through(cluster, valkey, tell, outage=valkey.freeze, end=valkey.thaw)


def test_a_killed_broker(processes: Processes, postgres_url: str, valkey: ValkeyServer, tell: Tell) -> None:
    with Cluster(processes, postgres_url, valkey.url, forks=True) as cluster:
        run_through(cluster, valkey, tell, outage=valkey.kill, end=valkey.start)


def test_a_broker_that_becomes_a_replica(
    processes: Processes, postgres_url: str, valkey: ValkeyServer, tell: Tell
) -> None:
    with Cluster(processes, postgres_url, valkey.url, forks=True) as cluster:
        run_through(cluster, valkey, tell, outage=valkey.follow, end=valkey.lead)


def test_something_else_under_the_name_of_a_queue(
    processes: Processes, postgres_url: str, valkey: ValkeyServer
) -> None:
    with (
        Cluster(processes, postgres_url, valkey.url, forks=True) as cluster,
        redis.Redis.from_url(valkey.url) as client,
    ):
        orchestrator = cluster.orchestrator()

        client.set(ORCHESTRATOR_QUEUE, "no list")

        orchestrator.wait_for_log("WRONGTYPE")
        client.delete(ORCHESTRATOR_QUEUE)
        wait_until(
            lambda: client.info("clients")["blocked_clients"] > 0,
            what="the orchestrator to wait for messages again",
            seconds=20,
        )
        assert end_all([orchestrator]) == [0]
