"""Children as the kernel asks for them: named before they exist, tied to an obligation, asked for again under a new key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

import statechart
from statechart import CancelChild, CreateTask, Env, StartWorkflow, StepFailed
from statechart.workflows import child_id
from tests.unit.statechart.charts import begin

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def chart_of(**invoke: Any) -> statechart.Chart:
    """Invokes a child, and ends on LEAVE."""
    wanted = {"src": "WORKFLOW", "id": "sub", "input": {"definitionKey": "pack"}, **invoke}
    return statechart.load(
        {
            "id": "one",
            "initial": "a",
            "states": {"a": {"invoke": wanted, "on": {"LEAVE": "b"}}, "b": {"type": "final"}},
        }
    )


def test_a_child_s_id_is_a_uuid_of_the_step_s_time_and_the_same_in_each_replay() -> None:
    env = Env(NOW, seed="0192:7")
    first = UUID(child_id(env, "a/1/1"))

    assert (first.version, first.variant) == (7, "specified in RFC 4122")
    assert first.int >> 80 == int(NOW.timestamp() * 1000)
    assert str(first) == child_id(env, "a/1/1")
    assert (
        len({child_id(env, key) for key in ("a/1/1", "a/1/2")} | {child_id(Env(NOW, seed="x"), "a/1/1")}) == 3
    )


def test_a_workflow_task_is_a_task_and_a_child_under_one_key() -> None:
    step = begin(chart_of(priority=3))

    task, child = step.effects
    assert isinstance(task, CreateTask)
    assert isinstance(child, StartWorkflow)
    assert (task.key, task.type, child.key, child.priority) == (child.key, "WORKFLOW", "a/1/1", 3)
    assert step.snapshot["tasks"]["a/1/1"]["instanceId"] == child.instance_id
    assert step.snapshot["children"] == {}


@pytest.mark.parametrize(("tied", "kinds"), [(True, ["CancelTask", "CancelChild"]), (False, ["CancelTask"])])
def test_leaving_cancels_the_child_that_is_tied(tied: bool, kinds: list[str]) -> None:
    chart = chart_of(input={"definitionKey": "pack", "cancelWithParent": tied})
    started = begin(chart)

    left = statechart.step(chart, started.snapshot, {"type": "LEAVE"}, Env(NOW))

    assert [type(effect).__name__ for effect in left.effects] == kinds
    told = [change["type"] for change in left.changes if change["type"].startswith("child.")]
    assert told == ["child.cancelled" if tied else "child.released"]


def test_a_child_is_asked_for_again_under_a_new_key() -> None:
    chart = chart_of()
    started = begin(chart)
    request = {"input": {"n": 1}, "businessKey": "order-1"}

    again = statechart.ask_again(chart, started.snapshot, Env(NOW, seed="x"), "a/1/1", request)

    task, child = again.effects
    assert isinstance(task, CreateTask)
    assert isinstance(child, StartWorkflow)
    assert (task.key, task.invoke, child.input, child.business_key) == ("a/1/2", "sub", {"n": 1}, "order-1")
    assert list(again.snapshot["tasks"]) == ["a/1/2"]
    left = statechart.step(chart, again.snapshot, {"type": "LEAVE"}, Env(NOW))
    assert CancelChild("a/1/2") in left.effects


def test_what_cannot_be_asked_for_fails_the_step() -> None:
    chart = chart_of()
    request = {"definitionKey": None, "completionEvent": "DONE", "failureEvent": "NONE"}
    with pytest.raises(StepFailed, match="a definition key"):
        statechart.ask_again(chart, begin(chart).snapshot, Env(NOW), "b/1/1", request)


@pytest.mark.parametrize(
    ("member", "code", "message"),
    [
        ({"definitionKey": ""}, "workflow.definition_key", 'expected a key, found ""'),
        ({"definitionKey": None}, "workflow.definition_key", "expected a key, found null"),
        ({"version": "2"}, "workflow.version", 'expected a version, an integer, found "2"'),
        ({"businessKey": ""}, "workflow.business_key", 'expected a key, found ""'),
        ({"wait": "yes"}, "workflow.input", "expected true or false, found 'yes'"),
        ({"cancelWithParent": None}, "workflow.input", "expected true or false, found None"),
    ],
)
def test_what_is_written_of_a_child_and_can_never_be_right_is_refused_at_the_door(
    member: dict[str, Any], code: str, message: str
) -> None:
    (name,) = member
    with pytest.raises(statechart.DefinitionInvalid) as refused:
        chart_of(input={"definitionKey": "pack", **member})

    (problem,) = refused.value.problems
    assert (problem.code, problem.path) == (code, f"states.a.invoke.input.{name}")
    assert problem.message == message


def test_a_version_to_start_is_no_number_in_quotes() -> None:
    start = {"type": "startWorkflow", "definitionKey": "pack", "version": "2"}
    document = {"id": "one", "initial": "a", "states": {"a": {"entry": start}}}

    found = [(problem.code, problem.path) for problem in statechart.check(document)]
    assert ("workflow.version", "states.a.entry.version") in found


def test_what_is_computed_of_a_child_passes_the_door() -> None:
    computed = {"definitionKey": "${input.key}", "version": "${input.version}", "businessKey": "$.key", "wait": "${input.wait}"}  # fmt: skip
    chart = chart_of(input=computed)

    assert chart.warnings == []
