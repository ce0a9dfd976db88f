"""SIGTERM: finish what can be finished, give the rest back uncounted, say good-bye, and be gone in time."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from common.commands.control import cancel_instance
from common.lifecycle import InstanceStatus
from tests.support.cluster import Cluster, end_all
from tests.support.figures import Tell
from tests.support.one_task import ONE_TASK
from tests.support.processes import Processes
from tests.support.slowdown import assert_within
from tests.support.turns import Turns
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

IN_TIME_SECONDS = 10.0
"""What the supervisor of `signalbox up` grants before it kills."""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def cluster(processes: Processes, sqlite_url: str, valkey: ValkeyServer, ledger: Path) -> Iterator[Cluster]:
    with Cluster(processes, sqlite_url, valkey.url, {"LEDGER": str(ledger)}) as cluster:
        yield cluster


def wait_until_begun(ledger: Path, times: int = 1) -> None:
    def begun() -> int:
        return ledger.read_text().count("began") if ledger.exists() else 0

    wait_until(lambda: begun() >= times, what=f"{times} attempts to begin", seconds=20)


def goodbyes(cluster: Cluster) -> list[tuple[str, bool, bool]]:
    """(duty, has said good-bye, was found dead) of each worker."""
    rows = cluster.query("SELECT duty, ended_at, died_at FROM workers ORDER BY started_at")
    return [(duty, ended_at is not None, died_at is not None) for duty, ended_at, died_at in rows]


def test_a_handler_that_ends_in_time_is_finished_and_reported(
    cluster: Cluster, ledger: Path, tell: Tell
) -> None:
    runner = cluster.task_runner()
    with Turns.of_orchestrator(cluster.engine):
        instance_id = cluster.engine.start(ONE_TASK, input=2_000)
        wait_until_begun(ledger)
        began = time.monotonic()

        assert runner.terminate() == 0

        seconds = time.monotonic() - began
        cluster.wait_for_all("completed", 1, seconds=10)
    assert_within(seconds, IN_TIME_SECONDS)
    assert cluster.engine.status(instance_id) is InstanceStatus.COMPLETED
    assert cluster.query("SELECT attempt, outcome FROM attempts") == [(1, "succeeded")]
    assert goodbyes(cluster) == [("task-runner", True, False)]
    cluster.assert_healthy()
    tell(f"gone {seconds:.1f} s after SIGTERM, with a handler of 2 s that had just begun")


def test_a_handler_that_takes_too_long_is_given_back_uncounted_and_another_runner_takes_it(
    cluster: Cluster, ledger: Path, tell: Tell
) -> None:
    runner = cluster.processes.task_runner(env={"SIGNALBOX_DRAIN_SECONDS": "1"})
    with Turns.of_orchestrator(cluster.engine):
        instance_id = cluster.engine.start(ONE_TASK, input=30_000)
        wait_until_begun(ledger)
        began = time.monotonic()

        assert runner.terminate() == 0

        seconds = time.monotonic() - began
        assert cluster.query("SELECT status, attempt, lost FROM tasks") == [("pending", 0, 0)]
        cluster.task_runner()
        wait_until_begun(ledger, 2)
        assert cluster.query("SELECT status, attempt, lost FROM tasks") == [("running", 1, 0)]
        outcomes = cluster.query("SELECT attempt, outcome FROM attempts ORDER BY started_at")
        assert outcomes == [(1, "released"), (1, None)]

        cluster.database.run(
            lambda tx: cancel_instance(tx, cluster.engine.tenant_id, instance_id, reason=None, actor="test")
        )
        cluster.wait_for_all("cancelled", 1, seconds=10)
    assert_within(seconds, 1 + 5)
    cluster.assert_healthy()
    tell(f"gone {seconds:.1f} s after SIGTERM, granted 1 s for a handler of 30 s")


def test_idle_workers_end_at_once_and_take_leave_of_flower(
    cluster: Cluster, valkey: ValkeyServer, tell: Tell
) -> None:
    workers = cluster.workers()
    for worker in workers:
        worker.wait_for_log(" ready.", seconds=20)  # Celery's consumer is connected and waits in its socket
    with redis.Redis.from_url(valkey.url) as client, client.pubsub(ignore_subscribe_messages=True) as flower:
        flower.psubscribe("*worker.offline")
        flower.get_message(timeout=5)
        began = time.monotonic()

        codes = end_all(workers)

        seconds = time.monotonic() - began
        for _ in workers:
            wait_until(lambda: flower.get_message(timeout=1), what="both to say that they are gone")
    assert codes == [0, 0]
    assert sorted(goodbyes(cluster)) == [("orchestrator", True, False), ("task-runner", True, False)]
    tell(f"both gone {seconds:.2f} s after SIGTERM")


@pytest.mark.parametrize("outage", ["stopped", "frozen"])
def test_both_workers_end_in_time_without_a_broker(
    outage: str, cluster: Cluster, valkey: ValkeyServer, tell: Tell
) -> None:
    workers = cluster.workers()
    for worker in workers:
        worker.wait_for_log(" ready.", seconds=20)  # Celery's consumer is connected and waits in its socket
    if outage == "stopped":
        valkey.stop()
    else:
        valkey.freeze()
    instance_id = cluster.engine.start(ONE_TASK, input=10)
    cluster.wait_for_all("completed", 1, seconds=15)
    began = time.monotonic()

    codes = end_all(workers)

    seconds = time.monotonic() - began
    assert codes == [0, 0]
    assert_within(seconds, IN_TIME_SECONDS)
    assert cluster.engine.status(instance_id) is InstanceStatus.COMPLETED
    assert sorted(goodbyes(cluster)) == [("orchestrator", True, False), ("task-runner", True, False)]
    cluster.assert_healthy()
    tell(f"both gone {seconds:.1f} s after SIGTERM")
