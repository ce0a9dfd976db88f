"""A process that dies in any step of a compensation costs nothing but time: all is undone, once, last first.

On PostgreSQL alone. What a death leaves of a transaction is the same whatever the transaction was about, and `test_fault_points.py`
dies at each of these points on both databases; compensation itself runs on both in `tests/integration/engine/test_compensation.py`.
"""

import signal
from typing import Any

import pytest

from common.lifecycle import InstanceStatus
from tests.support.cluster import Cluster
from tests.support.forked import doomed_orchestrator, doomed_task_runner
from tests.support.processes import Child
from tests.support.turns import Turns
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("cluster", ["postgresql"], indirect=True)

STEPS = ("one", "two")
# The cancel, and the end of each compensation: with three steps of the orchestrator and two tasks everything is passed.
ORCHESTRATOR = [
    *(f"{point}=kill@{n}" for n in (1, 2, 3) for point in ("in_step", "before_commit")),
    "after_lock=kill@2",
    "after_commit_before_ring=kill",
]
TASK_RUNNER = [
    f"{point}=kill@{n}"
    for n in (1, 2)
    for point in ("after_claim", "after_handler", "before_outcome_commit", "after_outcome_commit")
]


def saga() -> dict[str, Any]:
    """Two pieces of work, each undone by a task of its own; then it waits."""
    states: dict[str, Any] = {"waiting": {"on": {"GO": "over"}}, "over": {"type": "final"}}
    for name, following in zip(STEPS, (*STEPS[1:], "waiting"), strict=True):
        undo = {"type": "test.rest", "name": f"undo-{name}", "input": {"ms": 10}}
        work = {"src": "test.rest", "id": name, "name": name, "input": {"ms": 10}, "compensate": undo}
        states[name] = {"invoke": {**work, "onDone": following}}
    return {"id": "saga", "initial": STEPS[0], "states": states}


def waiting(cluster: Cluster) -> str:
    instance_id = cluster.engine.start(saga())
    cluster.engine.settle()
    assert cluster.engine.status(instance_id) is InstanceStatus.WAITING
    return str(instance_id)


def assert_killed(child: Child) -> None:
    assert child.wait(seconds=40) == -signal.SIGKILL


def assert_undone(cluster: Cluster, instance_id: str) -> None:
    engine = cluster.engine
    wait_until(
        lambda: engine.status(instance_id) is InstanceStatus.CANCELLED, what="the end of the saga", seconds=20
    )
    entries = engine.entries(instance_id)
    undone = [entry["undoes"] for entry in entries if entry["type"] == "compensation.task.done"]
    assert undone == list(reversed(STEPS))
    cluster.assert_each_result_counted_once(tasks=2 * len(STEPS))
    cluster.assert_healthy()


@pytest.mark.parametrize("fault", ORCHESTRATOR)
def test_an_orchestrator_that_dies_while_it_undoes(fault: str, cluster: Cluster) -> None:
    instance_id = waiting(cluster)
    doomed = doomed_orchestrator(cluster.processes, fault=fault)
    cluster.engine.control("cancel", instance_id)
    with Turns.of_task_runner(cluster.engine):
        assert_killed(doomed)
        with Turns.of_orchestrator(cluster.engine):
            assert_undone(cluster, instance_id)


@pytest.mark.parametrize("fault", TASK_RUNNER)
def test_a_task_runner_that_dies_while_it_undoes(fault: str, cluster: Cluster) -> None:
    instance_id = waiting(cluster)
    doomed = doomed_task_runner(cluster.processes, fault=fault)
    cluster.engine.control("cancel", instance_id)
    with Turns.of_orchestrator(cluster.engine):
        assert_killed(doomed)
        with Turns.of_task_runner(cluster.engine):
            assert_undone(cluster, instance_id)
