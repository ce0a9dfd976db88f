"""Real workers: an orchestrator that dies with what it was told of ended tasks costs no task a second attempt."""

import signal

import pytest

from common.db.tables import AttemptOutcome
from common.lifecycle import InstanceStatus
from signalbox.bench import steps_chart
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

PASSES = 30  # of four a workflow: the thirtieth is told of a first task


NUMBERED = {
    "postgresql": "SELECT last_value FROM inbox_id_seq",
    "sqlite": "SELECT seq FROM sqlite_sequence WHERE name = 'inbox'",
}
"""How many rows the inbox has ever had."""


@pytest.fixture
def cluster(rung_cluster: Cluster) -> Cluster:
    return rung_cluster


@pytest.mark.parametrize("point", ["before_commit", "after_commit_before_ring"])
def test_what_an_orchestrator_was_told_when_it_died_its_runner_stores(cluster: Cluster, point: str) -> None:
    cluster.engine.apply(steps_chart(3))
    doomed = cluster.orchestrator(env={"SIGNALBOX_FAULTS": f"{point}=kill@{PASSES}"})
    cluster.task_runner()
    ids = []
    while doomed.is_alive:
        ids.append(cluster.engine.start("bench-3-steps"))
        wait_until(
            lambda: not doomed.is_alive or cluster.engine.status(ids[-1]) is InstanceStatus.COMPLETED,
            what="the workflow to end, or the orchestrator to die",
        )
    assert doomed.wait(seconds=10) == -signal.SIGKILL

    cluster.orchestrator()

    cluster.wait_for_all("completed", len(ids), seconds=20)
    outcomes = [row[0] for row in cluster.engine.execute("SELECT outcome FROM attempts")]
    assert outcomes == [AttemptOutcome.SUCCEEDED] * 3 * len(ids)
    assert cluster.count(NUMBERED[cluster.database.engine.dialect.name]) < 2 * len(ids), "four each if stored"
    cluster.assert_healthy()
