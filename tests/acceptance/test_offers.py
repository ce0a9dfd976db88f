"""Real workers on a real broker: steps lease tasks to the runner that offered, and what dies with it is done by another."""

import pytest

from common.db.tables import AttemptOutcome
from common.lifecycle import InstanceStatus
from signalbox.bench import steps_chart
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

HANDED = "SELECT count(*) FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE a.started_at = t.created_at"


@pytest.fixture
def cluster(rung_cluster: Cluster) -> Cluster:
    return rung_cluster


def handed(cluster: Cluster) -> int:
    return int(cluster.engine.execute(HANDED)[0][0])


def run_one(cluster: Cluster) -> bool:
    """Run a workflow to its end; were any of its tasks leased by the steps that created them?"""
    before = handed(cluster)
    instance_id = cluster.engine.start("bench-3-steps")
    wait_until(
        lambda: cluster.engine.status(instance_id) is InstanceStatus.COMPLETED, what="the workflow to end"
    )
    return handed(cluster) > before


def test_steps_lease_to_a_runner_that_waits_for_work(cluster: Cluster) -> None:
    cluster.engine.apply(steps_chart(3))
    cluster.orchestrator()
    cluster.task_runner()

    wait_until(lambda: run_one(cluster), what="a task to be leased by its step")

    assert {row[0] for row in cluster.engine.execute("SELECT outcome FROM attempts")} == {
        AttemptOutcome.SUCCEEDED
    }
    cluster.assert_healthy()


def test_what_was_leased_to_a_runner_that_died_before_it_called_anybody_is_done_by_another(
    cluster: Cluster,
) -> None:
    cluster.engine.apply(steps_chart(3))
    cluster.orchestrator()
    doomed = cluster.task_runner(env={"SIGNALBOX_FAULTS": "after_claim=kill"})
    ids = [cluster.engine.start("bench-3-steps") for _ in range(3)]
    wait_until(lambda: not doomed.is_alive, what="the runner to die")
    cluster.task_runner()

    wait_until(
        lambda: all(cluster.engine.status(one) is InstanceStatus.COMPLETED for one in ids),
        what="another runner to end them",
    )

    outcomes = [row[0] for row in cluster.engine.execute("SELECT outcome FROM attempts")]
    assert AttemptOutcome.LOST in outcomes
    assert outcomes.count(AttemptOutcome.SUCCEEDED) == 9
    cluster.assert_healthy()
