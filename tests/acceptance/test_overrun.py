"""Attempts that overrun, crash, leak or are cut off, with real runner processes: only the attempt is harmed."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from signalbox.supervisor import Notice, Part, Supervisor
from tests.support.cluster import QUICK_LEASES, Cluster
from tests.support.figures import Tell
from tests.support.processes import Processes, plain_environment
from tests.support.turns import Turns
from tests.support.waiting import wait_until

HANDLERS = "tests.support.overrun_handlers,tests.support.isolated_handlers"


def document(kind: str) -> dict[str, Any]:
    """One task of this type; what becomes of it, its failure included, ends the instance."""
    caught = {"target": "done", "actions": {"type": "assign", "path": "error", "value": "${event.error}"}}
    done = {"target": "done", "actions": {"type": "assign", "path": "output", "value": "${event.output}"}}
    return {
        "id": kind.replace(".", "-"),
        "initial": "working",
        "context": {"error": None, "output": None},
        "states": {
            "working": {"invoke": {"src": kind, "onDone": done, "onError": caught}},
            "done": {"type": "final"},
        },
    }


@pytest.fixture
def cluster(processes: Processes, sqlite_url: str) -> Iterator[Cluster]:
    settings = {"SIGNALBOX_HANDLERS": HANDLERS, "SIGNALBOX_SLOTS": "8", "SIGNALBOX_LOOK_SECONDS": "0.2"}
    with Cluster(processes, sqlite_url, settings={**settings, **QUICK_LEASES}) as cluster:
        yield cluster


def outcomes(cluster: Cluster, kind: str) -> list[tuple[int, str | None]]:
    rows = cluster.query(
        "SELECT a.attempt, a.outcome FROM attempts a JOIN tasks t ON t.id = a.task_id "
        f"WHERE t.type = '{kind}' ORDER BY a.started_at, a.attempt"
    )
    return [(attempt, outcome) for attempt, outcome in rows]


def supervised(cluster: Cluster, folder: Path, **settings: str) -> tuple[list[Notice], Supervisor]:
    """A runner that is started again whenever it ends, and what its supervisor tells of it."""
    notices: list[Notice] = []
    supervisor = Supervisor(folder, folder, notices.append)
    env = plain_environment(folder, {**cluster.processes.env, **settings})
    env["PYTHONPATH"] = os.pathsep.join([os.getcwd(), env.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    worker = ("celery", "-A", "task_runner.worker", "worker", "-Q", "workflow-task-runner", "-P", "threads")
    supervisor.start(Part("task-runner", (sys.executable, "-m", *worker), env))
    return notices, supervisor


def tick_until_completed(cluster: Cluster, supervisor: Supervisor, notices: list[Notice]) -> None:
    until = time.monotonic() + 60
    while cluster.statuses() != {"completed": 1} and time.monotonic() < until:
        supervisor.tick()
        time.sleep(0.05)
    assert cluster.statuses() == {"completed": 1}, [notice.text for notice in notices]


def test_a_runner_outlives_what_spins_crashes_exits_and_leaks(cluster: Cluster, tell: Tell) -> None:
    runner = cluster.task_runner()
    kinds = ("overrun.spin", "isolated.segfault", "isolated.exit", "isolated.leak")
    began = time.monotonic()
    with Turns.of_orchestrator(cluster.engine):
        started = {kind: cluster.engine.start(document(kind)) for kind in kinds}
        cluster.wait_for_all("completed", len(kinds), seconds=30)
        seconds = time.monotonic() - began
        wait_until(
            lambda: "task.late" in cluster.engine.entry_types(started["overrun.spin"]),
            what="what the spinning thread returned in the end to be on record",
        )

    assert outcomes(cluster, "overrun.spin") == [(1, "timed_out"), (2, "succeeded")]
    errors = {kind: cluster.engine.context(id_)["error"] for kind, id_ in started.items()}
    assert errors["overrun.spin"] is None
    assert errors["isolated.segfault"]["data"] == {"signal": "SIGSEGV"}
    assert errors["isolated.exit"]["data"] == {"exitCode": 3}
    assert errors["isolated.leak"]["code"] == "task.out_of_memory"
    runner.wait_for_log("Segmentation fault")
    assert runner.is_alive
    cluster.assert_healthy()
    tell(f"four harmful handlers ended {seconds:.1f} s after their start, with one runner")


def test_a_long_handler_goes_on_where_it_was_when_its_runner_was_killed(cluster: Cluster, tell: Tell) -> None:
    runner = cluster.task_runner()
    with Turns.of_orchestrator(cluster.engine):
        instance_id = cluster.engine.start(document("overrun.pages"))

        def page() -> int:
            [(progress,)] = cluster.query("SELECT progress FROM tasks") or [(None,)]
            return int(json.loads(progress)["page"]) if progress else 0

        wait_until(lambda: page() >= 10, what="ten pages", seconds=20)
        runner.kill()
        reached = page()
        cluster.task_runner()
        cluster.wait_for_all("completed", 1, seconds=30)

    output = cluster.engine.context(instance_id)["output"]
    assert output == {"first": reached}
    assert outcomes(cluster, "overrun.pages") == [(1, "lost"), (1, "succeeded")]
    pages = [
        json.loads(text)["page"]
        for (text,) in cluster.query("SELECT progress FROM attempts ORDER BY started_at")
    ]
    assert pages == [reached, 60]
    cluster.assert_healthy()
    tell(f"killed at page {reached} of 60, read on from there")


def test_at_half_the_slots_in_zombies_the_process_is_replaced(
    cluster: Cluster, tmp_path: Path, tell: Tell
) -> None:
    notices, supervisor = supervised(cluster, tmp_path, SIGNALBOX_SLOTS="2")
    try:
        first = supervisor.pid("task-runner")
        with Turns.of_orchestrator(cluster.engine):
            instance_id = cluster.engine.start(document("overrun.hang"))
            tick_until_completed(cluster, supervisor, notices)
        second = supervisor.pid("task-runner")
    finally:
        supervisor.stop(seconds=10)

    assert [notice.text for notice in notices if "exit code 75" in notice.text], notices
    assert cluster.engine.context(instance_id)["output"] == {"pid": second}
    assert second != first
    assert outcomes(cluster, "overrun.hang") == [(1, "timed_out"), (2, "succeeded")]
    [(ended_at, died_at)] = cluster.query("SELECT ended_at, died_at FROM workers ORDER BY started_at LIMIT 1")
    assert (ended_at is not None, died_at) == (True, None), "it said good-bye"
    cluster.assert_healthy()
    tell("a worn-out runner ended with exit code 75 and was replaced")


def test_a_light_handler_that_kills_its_process_does_so_on_record(
    cluster: Cluster, tmp_path: Path, tell: Tell
) -> None:
    """Within the claim nothing was; from the first death on it is run under a lease, and lost leases are counted."""
    quick = {"SIGNALBOX_LEASE_SECONDS": "1", "SIGNALBOX_BEAT_SECONDS": "0.3"}
    notices, supervisor = supervised(cluster, tmp_path, **quick)
    try:
        with Turns.of_orchestrator(cluster.engine):
            instance_id = cluster.engine.start(document("light.deadly"))
            tick_until_completed(cluster, supervisor, notices)
    finally:
        supervisor.stop(seconds=10)

    assert cluster.engine.context(instance_id)["error"]["code"] == "task.lost"
    assert outcomes(cluster, "light.deadly") == [(1, "lost")] * 3
    deaths = [notice for notice in notices if "exit code 9" in notice.text]
    assert len(deaths) == 4
    cluster.assert_healthy()
    tell(
        "a light handler that kills its process was given up after 4 deaths, 3 of them on record as attempts"
    )
