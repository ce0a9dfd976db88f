"""Families of workflows whose orchestrator and runner are killed in the middle: everybody completes, every answer once."""

from collections import Counter

from tests.integration.engine.documents import Document, assign
from tests.support.cluster import QUICK_LEASES, Cluster
from tests.support.figures import Tell
from tests.support.processes import Processes
from tests.support.waiting import wait_until

FAMILIES = 50
INSTANCES = 4 * FAMILIES  # a parent, two children, and a child of one of these
ANSWERS = 3 * FAMILIES


LEAF: Document = {
    "id": "leaf",
    "initial": "working",
    "output": {"name": "${input.name}"},
    "states": {
        "working": {
            "invoke": {"src": "SYSTEM", "name": "test.rest", "input": {"ms": 100}, "onDone": "done"},
        },
        "done": {"type": "final"},
    },
}
MIDDLE: Document = {
    "id": "middle",
    "initial": "waiting",
    "output": {"names": ["middle", "${context.leaf.output.name}"]},
    "states": {
        "waiting": {
            "invoke": {
                "src": "WORKFLOW",
                "id": "leaf",
                "input": {"definitionKey": "leaf", "input": {"name": "grandchild"}},
                "outputKey": "leaf",
                "onDone": "done",
            }
        },
        "done": {"type": "final"},
    },
}
TOP: Document = {
    "id": "top",
    "initial": "waiting",
    "context": {"answers": 0},
    "states": {
        "waiting": {
            "entry": [
                {"type": "startWorkflow", "definitionKey": "leaf", "input": {"name": "child"}},
                {"type": "startWorkflow", "definitionKey": "middle"},
            ],
            "on": {
                "done.workflow.*": {"actions": [assign("answers", "${context.answers + 1}")]},
            },
            "always": {"target": "done", "guard": "context.answers == 2"},
        },
        "done": {"type": "final"},
    },
}


def test_families_survive_the_death_of_their_workers(
    processes: Processes, postgres_url: str, valkey_url: str, tell: Tell
) -> None:
    with Cluster(
        processes, postgres_url, valkey_url, {**QUICK_LEASES, "SIGNALBOX_SLOTS": "4"}, forks=True
    ) as cluster:
        doomed = cluster.workers()
        for document in (LEAF, MIDDLE, TOP):
            cluster.engine.apply(document)
        for _ in range(FAMILIES):
            cluster.engine.start("top")
        wait_until(lambda: completed(cluster) > INSTANCES // 4, what="a quarter of them", seconds=30)
        for worker in doomed:
            worker.kill()
        done_at_the_kill = completed(cluster)
        assert done_at_the_kill < INSTANCES, "everything had completed before the kill: that proves nothing"

        cluster.workers()
        cluster.wait_for_all("completed", INSTANCES, seconds=30)

        assert_every_answer_came_once(cluster)
        assert cluster.left_to_do() == {"inbox": 0, "tasks": 0, "timers": 0}
        cluster.assert_healthy()
        tell(f"{done_at_the_kill} of {INSTANCES} instances had completed when both workers were killed")


def completed(cluster: Cluster) -> int:
    return cluster.statuses().get("completed", 0)


def assert_every_answer_came_once(cluster: Cluster) -> None:
    """Each child that a parent was to hear of is on its record once as started and once as completed."""
    children = {str(id_) for (id_,) in cluster.query("SELECT id FROM instances WHERE parent_id IS NOT NULL")}
    told: Counter[tuple[str, str]] = Counter()
    for (instance_id,) in cluster.query("SELECT id FROM instances WHERE definition_key IN ('top', 'middle')"):
        for entry in cluster.engine.entries(str(instance_id)):
            if entry["type"].startswith("child."):
                told[entry["type"], entry["instanceId"]] += 1
    assert len(children) == ANSWERS
    assert told == Counter(
        {(type, child): 1 for type in ("child.started", "child.completed") for child in children}
    )
