"""A directed graph with a condition, a skipped branch, a join and a compensation, written as a chart by hand.

The graph is the onboarding of docs' example company: provision -> is-engineer -> (invite-eng | invite-general),
provision and write-welcome -> welcome-mail; where anything fails, the account is removed again. Each node is a region.
"""

from __future__ import annotations

import pytest

import statechart
from statechart import CreateTask
from tests.unit.statechart.charts import begin, chart_of, send


def over(node: str) -> dict:
    """The node has ended, done or skipped."""
    return {
        "type": "or",
        "guards": [
            {"type": "stateIn", "state": f"graph.{node}.done"},
            {"type": "stateIn", "state": f"graph.{node}.skipped"},
        ],
    }


def done(node: str) -> dict:
    return {"type": "stateIn", "state": f"graph.{node}.done"}


def all_of(*guards) -> dict:
    return {"type": "and", "guards": list(guards)}


def node(name: str, task: str, task_input: dict, *, after: tuple[str, ...] = (), when: str = "true") -> dict:
    """Waits for all that comes before it, is skipped where all of it was or its condition does not hold."""
    ready = all_of(*(over(before) for before in after))
    runs = {"type": "or", "guards": [done(before) for before in after]} if after else True
    return {
        "initial": "waiting",
        "states": {
            "waiting": {
                "always": [
                    {"target": "running", "guard": all_of(ready, runs, when)},
                    {"target": "skipped", "guard": ready},
                ]
            },
            "running": {
                "invoke": {
                    "src": task,
                    "id": name,
                    "input": task_input,
                    "outputKey": f"nodes.{name}",
                    "onDone": "done",
                    "onError": "#m.compensating",
                },
            },
            "done": {"type": "final"},
            "skipped": {"type": "final"},
        },
    }


IS_ENGINEER = "input.employee.department == 'Engineering'"
ONBOARDING = {
    "graph": {
        "type": "parallel",
        "onDone": "completed",
        "states": {
            "provision": node("provision", "identity.provision", {"email": "${input.employee.email}"}),
            "write-welcome": node(
                "write-welcome", "ai.generate_content", {"name": "${input.employee.firstName}"}
            ),
            "is-engineer": node(
                "is-engineer", "TRANSFORM", {"result": f"${{{IS_ENGINEER}}}"}, after=("provision",)
            ),
            "invite-eng": node(
                "invite-eng",
                "slack.channel_invite",
                {"channel": "#engineering"},
                after=("is-engineer",),
                when="context.nodes['is-engineer'].result",
            ),
            "invite-general": node(
                "invite-general",
                "slack.channel_invite",
                {"channel": "#general"},
                after=("is-engineer",),
                when="!context.nodes['is-engineer'].result",
            ),
            "welcome-mail": node(
                "welcome-mail",
                "email.send",
                {"to": "${input.employee.email}", "body": "${context.nodes['write-welcome'].content}"},
                after=("provision", "write-welcome"),
            ),
        },
    },
    "compensating": {
        "initial": "choose",
        "states": {
            "choose": {
                "always": [{"target": "undo-account", "guard": "has(context.nodes.provision)"}, "#m.failed"]
            },
            "undo-account": {
                "invoke": {"src": "identity.deprovision", "onDone": "#m.failed", "onError": "#m.failed"}
            },
        },
    },
    "completed": {"type": "final", "output": "COMPLETED"},
    "failed": {"type": "final", "output": "FAILED"},
}


def play(department: str, answers: dict[str, dict]) -> tuple[dict, list[tuple[str, dict]]]:
    """Run to the end, answering tasks in the order in which they were created; the snapshot and what was asked for."""
    chart = chart_of(ONBOARDING, context={"nodes": {}})
    employee = {"email": "a@x.io", "firstName": "A", "department": department}
    step = begin(chart, input={"employee": employee})
    asked: list[CreateTask] = []
    while True:
        asked += [effect for effect in step.effects if isinstance(effect, CreateTask)]
        waiting = [task for task in asked if task.key in step.snapshot["tasks"]]
        if not waiting:
            return step.snapshot, [(task.type, task.input) for task in asked]
        answer = answers.get(waiting[0].type, {})
        kind = waiting[0].failure_event if "error" in answer else waiting[0].completion_event
        step = send(chart, step, {"type": kind, **answer}, obligation=waiting[0].key)


@pytest.mark.parametrize(
    ("department", "invited", "skipped"),
    [("Engineering", "#engineering", "invite-general"), ("Sales", "#general", "invite-eng")],
)
def test_one_branch_runs_and_the_other_is_skipped(department, invited, skipped):
    answers = {
        "identity.provision": {"output": {"accountId": "acc-1"}},
        "ai.generate_content": {"output": {"content": "Hello A"}},
    }

    snapshot, asked = play(department, answers)

    assert (snapshot["status"], snapshot["output"]) == ("done", "COMPLETED")
    assert ("slack.channel_invite", {"channel": invited}) in asked
    assert sum(kind == "slack.channel_invite" for kind, _ in asked) == 1
    assert ("email.send", {"to": "a@x.io", "body": "Hello A"}) in asked
    assert skipped not in snapshot["context"]["nodes"]


def test_a_failure_removes_the_account_again():
    answers = {
        "identity.provision": {"output": {"accountId": "acc-1"}},
        "ai.generate_content": {"output": {"content": "Hello A"}},
        "email.send": {"error": {"code": "VALIDATION_ERROR", "message": "bad address"}},
    }

    snapshot, asked = play("Sales", answers)

    assert (snapshot["status"], snapshot["output"]) == ("done", "FAILED")
    assert asked[-1][0] == "identity.deprovision"


def test_nothing_is_undone_where_nothing_was_done():
    snapshot, asked = play("Sales", {"identity.provision": {"error": {"code": "E", "message": "no"}}})

    assert snapshot["output"] == "FAILED"
    assert "identity.deprovision" not in [kind for kind, _ in asked]


def test_the_graph_raises_no_alarm():
    assert statechart.check(chart_of(ONBOARDING, context={"nodes": {}}).document) == []
