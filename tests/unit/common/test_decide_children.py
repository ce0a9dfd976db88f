"""What a child's end means for its parent, decided purely: the row, the snapshot and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import statechart
from common.db.tables import InboxType
from common.decide import Decision, Standing, decide
from common.lifecycle import InstanceStatus
from statechart import CancelChild, Env, StartWorkflow
from statechart.effects import CreateTask

S = InstanceStatus
ENV = Env(datetime(2026, 3, 1, 12, tzinfo=UTC), seed="parent:2")
ID = "0195-child"


def parent(*, catches: bool) -> tuple[statechart.Chart, dict[str, Any]]:
    """A chart that waits for a child of `pack`, and its snapshot."""
    on = {"done.workflow.pack": "done"} | ({"error.workflow.pack": "caught"} if catches else {})
    chart = statechart.load(
        {
            "id": "parent",
            "initial": "waiting",
            "states": {
                "waiting": {"entry": {"type": "startWorkflow", "definitionKey": "pack"}, "on": on},
                "caught": {"on": {"STOP": "done"}},
                "done": {"type": "final"},
            },
        }
    )
    return chart, statechart.start(chart, None, ENV).snapshot


def row(status: str, **more: Any) -> dict[str, Any]:
    child = {"definitionKey": "pack", "instanceId": ID, "status": status}
    answer = {"output": {"n": 1}} if status == "completed" else {"error": {"code": "no", "message": "because", "data": None}}  # fmt: skip
    return {"key": "waiting/1/1", "child": child, **answer, **more}


REQUEST = {
    "definitionKey": "pack",
    "version": None,
    "input": {"n": 7},
    "businessKey": None,
    "wait": True,
    "cancelWithParent": True,
    "completionEvent": "done.workflow.pack",
    "failureEvent": "error.workflow.pack",
}


def told(body: dict[str, Any], *, catches: bool, status: InstanceStatus = S.WAITING) -> Decision:
    chart, snapshot = parent(catches=catches)
    return decide(
        chart, Standing(status, snapshot, {}, 2), InboxType.CHILD, body, ENV, max_context_bytes=1_000_000
    )


def configuration(decided: Decision) -> list[str]:
    assert decided.snapshot is not None
    return list(decided.snapshot["configuration"])


def test_a_completed_child_closes_its_obligation() -> None:
    decided = told(row("completed"), catches=False)

    assert (decided.status, configuration(decided)) == (S.COMPLETED, ["done"])
    assert [change["type"] for change in decided.changes[:2]] == ["child.completed", "event.received"]


@pytest.mark.parametrize("status", ["cancelled", "timed_out", "refused", "failed"])
def test_a_failure_that_is_caught_is_taken(status: str) -> None:
    decided = told(row(status, request=REQUEST), catches=True)

    assert (decided.status, configuration(decided)) == (S.WAITING, ["caught"])
    assert decided.changes[0]["type"] == f"child.{status}"
    assert decided.snapshot is not None
    assert decided.snapshot["children"] == {}


@pytest.mark.parametrize("status", ["cancelled", "timed_out", "refused"])
def test_an_end_that_is_caught_nowhere_opens_an_incident_and_keeps_the_obligation(status: str) -> None:
    decided = told(row(status, request=REQUEST), catches=False)

    assert decided.status is S.FAILED
    assert decided.incident is not None
    assert decided.incident.code == "no"
    assert decided.snapshot is not None
    assert list(decided.snapshot["children"]) == ["waiting/1/1"]


def test_a_child_that_may_go_on_is_only_noted() -> None:
    decided = told(row("failed"), catches=False)

    assert (decided.status, decided.incident) == (S.WAITING, None)
    assert [change["type"] for change in decided.changes] == ["child.failed"]


def test_a_final_parent_rejects_it_on_record() -> None:
    decided = told(row("completed"), catches=False, status=S.CANCELLED)

    assert decided.changes[0]["type"] == "event.rejected"
    assert decided.changes[0]["instanceId"] == ID


def retried(way: str, **more: Any) -> Decision:
    chart, snapshot = parent(catches=False)
    failed_on = {"type": "child", "body": row("refused", request=REQUEST)}
    chosen = {"id": "i", "code": "no", "way": way, "row": failed_on, **more}
    body = {"reason": None, "incidents": [chosen]}
    return decide(
        chart, Standing(S.FAILED, snapshot, {}, 2), InboxType.RETRY, body, ENV, max_context_bytes=1_000_000
    )


def test_a_retry_asks_again_under_a_new_key_and_another_id() -> None:
    decided = retried("retry")

    [again] = decided.effects
    assert isinstance(again, StartWorkflow)
    assert (again.key, again.input, decided.status) == ("waiting/1/2", {"n": 7}, S.WAITING)
    assert decided.snapshot is not None
    assert decided.snapshot["children"]["waiting/1/2"]["instanceId"] == again.instance_id


def test_a_skip_answers_with_an_output() -> None:
    decided = retried("skip", output={"n": 0})

    assert (decided.status, configuration(decided)) == (S.COMPLETED, ["done"])
    assert "child.skipped" in [change["type"] for change in decided.changes]


def test_a_workflow_task_that_is_answered_by_its_time_lets_its_child_be_cancelled() -> None:
    chart = statechart.load(
        {
            "id": "parent",
            "initial": "a",
            "states": {
                "a": {"invoke": {"src": "WORKFLOW", "input": {"definitionKey": "pack"}, "onError": "b"}},
                "b": {"on": {"STOP": "c"}},
                "c": {"type": "final"},
            },
        }
    )
    step = statechart.start(chart, None, ENV)
    task = next(effect for effect in step.effects if isinstance(effect, CreateTask))
    entry = {"type": "task.failed", "key": task.key, "name": task.name, "error": {"code": "task.timed_out"}}
    event = {"type": task.failure_event, "error": entry["error"]}
    body = {"key": task.key, "event": event, "entry": entry}

    decided = decide(
        chart,
        Standing(S.WAITING, step.snapshot, {}, 2),
        InboxType.TASK,
        body,
        ENV,
        max_context_bytes=1_000_000,
    )

    assert decided.effects == (CancelChild(task.key),)
