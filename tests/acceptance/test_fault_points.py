"""A process that dies at any of its fault points costs nothing but time.

For each point in `common/faults.py` a process is started that dies exactly there, at its first pass. Another one, the
test's own, takes its place, and the instance ends as its definition says: each effect recorded once, each promise kept.
"""

import signal
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from common import faults
from common.commands.schedules import ScheduleRequest, create_schedule
from common.credentials import make_secret, read_secret
from common.db.tables import Role
from common.schedule import ScheduleKind
from common.store import keys
from signalbox.ports import LOOPBACK, free_port
from tests.support.cluster import Cluster
from tests.support.engine import LIMITS
from tests.support.forked import doomed_orchestrator, doomed_task_runner
from tests.support.processes import Child
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.turns import Turns
from tests.support.waiting import wait_until

ORCHESTRATOR = ("after_lock", "in_step", "before_commit")
TASK_RUNNER = (
    "after_claim",
    "after_handler",
    "before_report",
    "before_outcome_commit",
    "after_outcome_commit",
)
ITEMS, SCHEDULE, PLACES = "before_items_commit", "before_schedule_commit", "before_admission_commit"
ANY_PROCESS = "after_commit_before_ring"
API = "after_accept_commit"

COMPLETE_SECONDS = 20.0
ENTRIES = Counter(
    {"task.created": TASKS, "task.succeeded": TASKS, "instance.started": 1, "instance.completed": 1}
)


def test_every_fault_point_is_tried_here() -> None:
    assert {*ORCHESTRATOR, ITEMS, SCHEDULE, PLACES, *TASK_RUNNER, ANY_PROCESS, API} == faults.POINTS


def assert_killed(child: Child) -> None:
    assert child.wait(seconds=30) == -signal.SIGKILL


def assert_ended_as_defined(cluster: Cluster, instance_id: str) -> None:
    cluster.wait_for_all("completed", 1, seconds=COMPLETE_SECONDS)
    entries = Counter(cluster.engine.entry_types(instance_id))
    assert {name: entries[name] for name in ENTRIES} == dict(ENTRIES)
    cluster.assert_each_result_counted_once(tasks=TASKS)
    assert cluster.engine.snapshot(instance_id)["configuration"] == ["done"]
    cluster.assert_healthy()


@pytest.mark.parametrize("point", [*ORCHESTRATOR, ANY_PROCESS])
def test_an_orchestrator_that_dies(point: str, cluster: Cluster) -> None:
    doomed = doomed_orchestrator(cluster.processes, fault=f"{point}=kill")
    instance_id = cluster.engine.start(three_tasks(ms=10))
    assert_killed(doomed)

    with Turns.of_task_runner(cluster.engine), Turns.of_orchestrator(cluster.engine):
        assert_ended_as_defined(cluster, instance_id)


SHORT = {"id": "short", "initial": "over", "states": {"over": {"type": "final"}}}
CHILDREN = 3


def test_an_orchestrator_that_dies_while_it_starts_the_children_of_a_map(cluster: Cluster) -> None:
    given = {"items": list(range(CHILDREN)), "workflow": {"definitionKey": "short"}}
    document = {
        "id": "families",
        "initial": "mapping",
        "states": {
            "mapping": {"invoke": {"src": "MAP", "input": given, "onDone": "over"}},
            "over": {"type": "final"},
        },
    }
    cluster.engine.apply(SHORT)
    doomed = doomed_orchestrator(cluster.processes, fault=f"{ITEMS}=kill")
    cluster.engine.start(document)
    assert_killed(doomed)

    cluster.orchestrator()

    cluster.wait_for_all("completed", 1 + CHILDREN, seconds=COMPLETE_SECONDS)
    cluster.assert_healthy()


def test_an_orchestrator_that_dies_while_it_gives_places(cluster: Cluster) -> None:
    document = {**three_tasks(ms=10), "concurrency": {"max": 1}}
    doomed = doomed_orchestrator(cluster.processes, fault=f"{PLACES}=kill")
    ids = [cluster.engine.start(document) for _ in range(2)]
    assert_killed(doomed)

    cluster.orchestrator()
    with Turns.of_task_runner(cluster.engine):
        cluster.wait_for_all("completed", len(ids), seconds=COMPLETE_SECONDS)
    assert_ran_one_by_one(cluster, ids)
    cluster.assert_healthy()


def assert_ran_one_by_one(cluster: Cluster, ids: list[str]) -> None:
    spans = sorted(
        cluster.engine.execute(f"SELECT started_at, finished_at FROM instances WHERE id = '{one}'")[0]
        for one in ids
    )
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_an_orchestrator_that_dies_while_it_starts_what_is_scheduled(cluster: Cluster) -> None:
    engine = cluster.engine
    engine.apply(SHORT)
    at = (engine.now() + timedelta(seconds=1)).isoformat()
    request = ScheduleRequest("short", ScheduleKind.AT, at)
    with cluster.database.transaction() as tx:
        create_schedule(tx, engine.tenant_id, request, actor="test", limits=LIMITS)
    doomed = doomed_orchestrator(cluster.processes, fault=f"{SCHEDULE}=kill")
    assert_killed(doomed)

    cluster.orchestrator()

    cluster.wait_for_all("completed", 1, seconds=COMPLETE_SECONDS)
    cluster.assert_healthy()


@pytest.mark.parametrize("point", [*TASK_RUNNER, ANY_PROCESS])
def test_a_task_runner_that_dies(point: str, cluster: Cluster, tmp_path: Path) -> None:
    doomed = doomed_task_runner(cluster.processes, fault=f"{point}=kill")
    with Turns.of_orchestrator(cluster.engine):
        instance_id = cluster.engine.start(three_tasks(ms=10))
        assert_killed(doomed)

        with Turns.of_task_runner(cluster.engine):
            assert_ended_as_defined(cluster, instance_id)

    outcomes = Counter(outcome for (outcome,) in cluster.query("SELECT outcome FROM attempts"))
    was_stored = point in ("after_outcome_commit", ANY_PROCESS)
    assert outcomes == Counter(succeeded=TASKS, lost=0 if was_stored else 1)
    begun = [line for line in (tmp_path / "ledger").read_text().splitlines() if line.startswith("began")]
    assert len(begun) == (TASKS if was_stored or point == "after_claim" else TASKS + 1)


@pytest.mark.parametrize(
    ("point", "cluster"), [(API, "postgresql"), (ANY_PROCESS, "sqlite")], indirect=["cluster"]
)
def test_an_api_that_dies_before_it_answers(point: str, cluster: Cluster) -> None:
    """What it accepted is done, and the caller who asks again with the same key starts nothing twice."""
    secret = make_secret()
    with cluster.database.transaction() as tx:
        tenant = cluster.engine.tenant_id
        issued = keys.issue_key(tx, tenant, name="test", role=Role.OPERATOR, secret=read_secret(secret))
    cluster.engine.apply(three_tasks(ms=10))
    port = free_port()
    env = {"SIGNALBOX_SECRET": secret}
    doomed = cluster.processes.api(port, env={**env, "SIGNALBOX_FAULTS": f"{point}=kill"})

    def start() -> httpx2.Response | None:
        """The answer, or None where the connection broke first."""
        headers = {"Authorization": f"Bearer {issued.key}", "Idempotency-Key": "once"}
        url = f"http://{LOOPBACK}:{port}/api/v1/instances"
        try:
            return httpx2.post(
                url, headers=headers, json={"definitionKey": "three-tasks"}, timeout=10, verify=False
            )
        except httpx2.TransportError:
            return None

    def answers() -> bool:
        try:
            return (
                httpx2.get(f"http://{LOOPBACK}:{port}/health/live", timeout=1, verify=False).status_code
                == 200
            )
        except httpx2.TransportError:
            return False

    wait_until(answers, what="the API to answer", seconds=30)
    assert start() is None
    doomed.sweep()  # gunicorn would bring its worker back, to die again
    cluster.processes.api(port, env=env)
    wait_until(answers, what="the new API to answer", seconds=30)

    again = start()

    assert again is not None
    assert again.status_code == 201
    with Turns.of_orchestrator(cluster.engine), Turns.of_task_runner(cluster.engine):
        assert_ended_as_defined(cluster, again.json()["id"])
