"""A frozen process is alive for the kernel and dead for everybody else: its work is taken over, and its return harmless."""

import time
from collections.abc import Iterator

import psutil
import pytest

from common.lifecycle import InstanceStatus
from signalbox.ports import free_port
from tests.support.cluster import NO_BROKER, QUICK_LEASES, Cluster
from tests.support.figures import Tell
from tests.support.ledger import Ledger
from tests.support.one_task import ONE_TASK
from tests.support.processes import Processes
from tests.support.slowdown import assert_within, slower
from tests.support.three_tasks import three_tasks
from tests.support.turns import Turns
from tests.support.up import Up, freeze_holder
from tests.support.waiting import wait_until

LEASE_SECONDS = 2.0
TAKEN_OVER_WITHIN = LEASE_SECONDS + 2.0
LOCKS_LOST_AFTER = 5.0
"""`idle_in_transaction_session_timeout` of every connection of the engine."""
LOOK_SECONDS = 1.0
LONG_ENOUGH_MS = 1_500
"""A task still runs when its runner is frozen, however late this process sees that it has begun."""


@pytest.fixture
def cluster(processes: Processes, postgres_url: str, valkey_url: str, ledger: Ledger) -> Iterator[Cluster]:
    settings = {**QUICK_LEASES, "LEDGER": str(ledger.path)}
    with Cluster(processes, postgres_url, valkey_url, settings, forks=True) as cluster:
        yield cluster


def test_the_task_of_a_frozen_runner_is_taken_over_and_its_late_result_refused(
    cluster: Cluster, ledger: Ledger, tell: Tell
) -> None:
    runners = {worker.pid: worker for worker in cluster.workers(orchestrators=1, task_runners=2)[1:]}
    started = time.monotonic()
    instance_id = cluster.engine.start(ONE_TASK, input=LONG_ENOUGH_MS)
    [first] = ledger.wait_until_begun()
    taken = time.monotonic() - started
    frozen = runners[first.pid]
    frozen.freeze()
    began = time.monotonic()

    _, second = ledger.wait_until_begun(2, seconds=30)

    taken_over = time.monotonic() - began
    assert second.pid != first.pid
    cluster.wait_for_all("completed", 1, seconds=15)
    completed = time.monotonic() - began
    frozen.thaw()
    wait_until(
        lambda: cluster.engine.entry_types(instance_id).count("task.late") == 1,
        what="the late result to be on record",
        seconds=15,
    )

    assert cluster.query("SELECT attempt, outcome FROM attempts ORDER BY started_at") == [
        (1, "late"),
        (1, "succeeded"),
    ]
    assert cluster.engine.execute("SELECT output FROM tasks") == [(f'{{"pid":{second.pid}}}',)]
    cluster.assert_each_result_counted_once(tasks=1)
    cluster.assert_healthy()
    tell(f"taken over {taken_over:.2f} s after the freeze, completed after {completed:.2f} s, lease 2 s")
    assert_within(taken_over, TAKEN_OVER_WITHIN + taken, "the lease, a look, and what a task takes to begin")


def test_an_orchestrator_that_freezes_inside_a_transaction_loses_its_locks(
    cluster: Cluster, tell: Tell
) -> None:
    cluster.engine.handler("test.rest", lambda _input: None)
    doomed = cluster.orchestrator(env={"SIGNALBOX_FAULTS": "before_commit=stop"})
    started = time.monotonic()
    instance_id = cluster.engine.start(ONE_TASK, input=1)
    wait_until(
        lambda: psutil.Process(doomed.pid).status() == psutil.STATUS_STOPPED,
        what="the orchestrator to freeze with its locks",
        seconds=20,
    )
    began = time.monotonic()
    assert cluster.engine.entries(instance_id) == []  # it froze before its commit
    with Turns.of_task_runner(cluster.engine):
        with Turns.of_orchestrator(cluster.engine):  # another one, which does not have to start first
            wait_until(lambda: cluster.engine.entries(instance_id), what="the instance to move", seconds=20)
            moved = time.monotonic()
            cluster.wait_for_all("completed", 1, seconds=20)
        assert cluster.engine.entry_types(instance_id).count("instance.started") == 1

        # Thawed, it finds that its transaction is gone, and goes on with others.
        doomed.thaw()
        second = cluster.engine.start("one-task", input=1)
        wait_until(
            lambda: cluster.engine.status(second) is InstanceStatus.COMPLETED,
            what="the thawed orchestrator to work again",
            seconds=20,
        )
    assert doomed.terminate() == 0
    cluster.assert_healthy()
    tell(f"its instance moved again {moved - began:.2f} s after the freeze")
    assert moved - started >= LOCKS_LOST_AFTER
    assert_within(moved - began, LOCKS_LOST_AFTER + LOOK_SECONDS + 2.0)


def test_up_kills_a_writer_that_freezes_with_the_write_lock_of_sqlite(
    processes: Processes, tell: Tell
) -> None:
    """Nobody else can write to the file meanwhile, and only the end of the process frees its lock."""
    up = Up.start(processes, QUICK_LEASES, port=free_port())
    database = up.data / "signalbox.db"
    pids = [one.pid for one in psutil.Process(up.child.pid).children(recursive=True)]
    with Cluster(processes, f"sqlite:///{database}", NO_BROKER) as cluster, up.client() as client:
        client.apply(three_tasks(ms=1))
        instances = 0
        deadline = time.monotonic() + 40 * slower()
        frozen = None
        while frozen is None:
            assert time.monotonic() < deadline, "no child was ever caught holding the write lock"
            client.start("three-tasks")
            instances += 1
            frozen = freeze_holder(database, pids)
        began = time.monotonic()

        cluster.wait_for_all("completed", instances, seconds=40)

        seconds = time.monotonic() - began
        assert f"pid {frozen} held the database's write lock for more than" in up.child.log()
        cluster.assert_healthy()
        tell(
            f"everything completed {seconds:.1f} s after a writer froze with the lock, {instances} instances"
        )
    assert up.child.terminate() == 0
