"""An orchestrator on PostgreSQL is more than one process: they share what there is to step, and none is needed."""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.support.cluster import Cluster, end_all
from tests.support.figures import Tell
from tests.support.processes import Child, Processes
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.waiting import wait_until

INSTANCES = 300


@pytest.fixture
def cluster(processes: Processes, postgres_url: str, valkey_url: str) -> Iterator[Cluster]:
    with Cluster(processes, postgres_url, valkey_url) as cluster:
        yield cluster


def stepping(cluster: Cluster) -> list[int]:
    """The pids of the orchestrator's processes that are here, its own first."""
    rows = cluster.query(
        "SELECT pid FROM workers WHERE duty = 'orchestrator' AND ended_at IS NULL ORDER BY started_at"
    )
    return [pid for (pid,) in rows]


def wait_for_stepper(cluster: Cluster, orchestrator: Child, *, other_than: int = 0) -> int:
    def stepper() -> int | None:
        others = [pid for pid in stepping(cluster) if pid not in (orchestrator.pid, other_than)]
        return others[0] if others else None

    return wait_until(stepper, what="a stepper beside the orchestrator", seconds=20) or 0


def start_many(cluster: Cluster) -> None:
    key = cluster.engine.apply(three_tasks(ms=0))
    for _ in range(INSTANCES):
        cluster.engine.start(key)


def test_a_stepper_that_is_killed_is_replaced_and_nothing_is_lost(cluster: Cluster, tell: Tell) -> None:
    orchestrator, runner = cluster.workers()
    stepper = wait_for_stepper(cluster, orchestrator)
    start_many(cluster)
    cluster.wait_for_all("completed", INSTANCES, seconds=60)
    used = {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in (orchestrator.pid, stepper)}

    os.kill(stepper, signal.SIGKILL)
    start_many(cluster)
    again = wait_for_stepper(cluster, orchestrator, other_than=stepper)
    cluster.wait_for_all("completed", 2 * INSTANCES, seconds=60)

    assert orchestrator.is_alive
    assert psutil.Process(again).ppid() == psutil.Process(orchestrator.pid).children()[0].pid
    cluster.assert_each_result_counted_once(tasks=2 * INSTANCES * TASKS)
    cluster.assert_healthy()
    assert end_all([orchestrator, runner]) == [0, 0]
    goodbyes = cluster.query("SELECT pid, died_at IS NULL FROM workers WHERE duty = 'orchestrator'")
    assert dict(goodbyes) == {orchestrator.pid: True, stepper: False, again: True}
    assert not psutil.pid_exists(again)
    tell(
        f"seconds of CPU before the kill: orchestrator {used[orchestrator.pid]:.1f}, stepper {used[stepper]:.1f}"
    )


def test_a_stepper_that_freezes_keeps_nobody_and_goes_on_once_thawed(cluster: Cluster) -> None:
    orchestrator, runner = cluster.workers()
    stepper = wait_for_stepper(cluster, orchestrator)
    os.kill(stepper, signal.SIGSTOP)
    start_many(cluster)
    cluster.wait_for_all("completed", INSTANCES, seconds=60)
    os.kill(stepper, signal.SIGCONT)

    start_many(cluster)
    cluster.wait_for_all("completed", 2 * INSTANCES, seconds=60)

    cluster.assert_each_result_counted_once(tasks=2 * INSTANCES * TASKS)
    cluster.assert_healthy()
    assert end_all([orchestrator, runner]) == [0, 0]


def test_no_stepper_outlives_an_orchestrator_that_is_killed(cluster: Cluster) -> None:
    orchestrator, _ = cluster.workers()
    stepper = wait_for_stepper(cluster, orchestrator)
    start_many(cluster)
    orchestrator.kill()

    wait_until(lambda: not psutil.pid_exists(stepper), what="the stepper to be gone")

    successor = cluster.orchestrator()
    cluster.wait_for_all("completed", INSTANCES, seconds=60)
    assert {orchestrator.pid, stepper}.isdisjoint(stepping(cluster))
    assert successor.is_alive
    cluster.assert_each_result_counted_once(tasks=INSTANCES * TASKS)
    cluster.assert_healthy()


@pytest.mark.parametrize("number", ["1", "3"])
def test_as_many_processes_step_as_the_setting_says(cluster: Cluster, number: str) -> None:
    orchestrator = cluster.orchestrator(env={"SIGNALBOX_ORCHESTRATOR_PROCESSES": number})
    wait_until(lambda: len(stepping(cluster)) == int(number), what=f"{number} processes", seconds=20)
    assert len(psutil.Process(orchestrator.pid).children(recursive=True)) == {"1": 0, "3": 3}[number]
    assert end_all([orchestrator]) == [0]
    assert stepping(cluster) == []
