"""Real workers: light handlers that steps wait for, and what is left where one of the two dies while the other waits."""

import os
import signal
import time
from random import Random

import pytest

from common.db.tables import AttemptOutcome
from common.lifecycle import InstanceStatus
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.processes import Child
from tests.support.waiting import wait_until

THREE_STEPS = {
    "id": "three-light-steps",
    "initial": "first",
    "states": {
        **{
            name: {"invoke": {"src": "test.light", "onDone": then}}
            for name, then in (("first", "second"), ("second", "third"), ("third", "done"))
        },
        "done": {"type": "final"},
    },
}
BLOWS = 5
"""To orchestrator and runner in turn. The runner dies twice: who loses the same task a third time fails it, as is promised."""
CALLED = "SELECT count(*) FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE a.started_at > t.created_at AND a.outcome = 'succeeded'"
"""Attempts that began after their task was asked for, in a database that has only seen steps which waited for them."""


@pytest.fixture
def cluster(rung_cluster: Cluster) -> Cluster:
    rung_cluster.engine.apply(THREE_STEPS)
    return rung_cluster


def run_until(cluster: Cluster, over: Child) -> list[str]:
    """Start workflows one after the other until a process has died; their ids."""
    ids: list[str] = []
    while over.is_alive:
        ids.append(cluster.engine.start("three-light-steps"))
        wait_until(
            lambda: not over.is_alive or cluster.engine.status(ids[-1]) is InstanceStatus.COMPLETED,
            what="the workflow to end, or the process to die",
        )
    assert over.wait(seconds=10) == -signal.SIGKILL
    return ids


def test_a_step_waits_for_light_handlers(cluster: Cluster) -> None:
    cluster.workers()

    def is_called() -> bool:
        instance_id = cluster.engine.start("three-light-steps")
        wait_until(
            lambda: cluster.engine.status(instance_id) is InstanceStatus.COMPLETED, what="the workflow to end"
        )
        return cluster.count(CALLED) >= 3

    wait_until(is_called, what="a workflow whose steps wait for its handlers")
    assert cluster.attempts(AttemptOutcome.SUCCEEDED) == cluster.count("SELECT count(*) FROM tasks")
    cluster.assert_healthy()


def test_an_orchestrator_that_dies_while_handlers_have_been_called_has_them_called_for_the_same_work(
    cluster: Cluster, ledger: Ledger
) -> None:
    doomed = cluster.orchestrator(env={"SIGNALBOX_FAULTS": "before_commit=kill@20"})
    cluster.task_runner()
    ids = run_until(cluster, doomed)

    cluster.orchestrator()

    cluster.wait_for_all("completed", len(ids), seconds=20)
    known = {str(row[0]) for row in cluster.query("SELECT id FROM tasks")}
    assert {line.task_id for line in ledger.lines("began")} == known, (
        "no handler was called for what is not on record"
    )
    cluster.assert_healthy()


def test_both_are_killed_again_and_again(cluster: Cluster) -> None:
    """Whoever waits loses whom it waits for, and the other way round; nothing is lost, and nothing counts twice."""
    random = Random(7)
    starts = [cluster.orchestrator, cluster.task_runner]
    alive = [start() for start in starts]
    ids: list[str] = []
    for blow in range(BLOWS):
        ids += [cluster.engine.start("three-light-steps") for _ in range(random.randrange(10, 30))]
        time.sleep(random.uniform(0.0, 0.2))
        struck = blow % 2
        os.kill(alive[struck].pid, signal.SIGKILL)
        alive[struck] = starts[struck]()

    cluster.wait_for_all("completed", len(ids), seconds=60)
    assert cluster.attempts(AttemptOutcome.SUCCEEDED) == 3 * len(ids)
    assert cluster.count("SELECT count(*) FROM tasks") == 3 * len(ids)
    assert cluster.count("SELECT count(*) FROM history") == 4 * len(ids)
    cluster.assert_healthy()


def test_a_runner_that_dies_in_a_light_handler_that_a_step_waits_for_loses_one_attempt(
    cluster: Cluster,
) -> None:
    cluster.orchestrator()
    doomed = cluster.task_runner(env={"SIGNALBOX_FAULTS": "after_handler=kill@20"})
    ids = run_until(cluster, doomed)

    cluster.task_runner()

    cluster.wait_for_all("completed", len(ids), seconds=30)
    assert cluster.attempts(AttemptOutcome.SUCCEEDED) == 3 * len(ids)
    assert cluster.attempts(AttemptOutcome.LOST) <= 1, "of the one task that it had called"
    cluster.assert_healthy()
