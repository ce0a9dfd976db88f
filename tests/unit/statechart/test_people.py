"""HUMAN tasks in the kernel: their options at the door and when asked for, and the timers of `due`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import statechart
from statechart import Env, Step
from statechart.effects import ArmTimer, AssignTask, CancelTask, CancelTimer, CreateTask

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = "a/1/1"


def asking(due: Any = None, on: dict[str, Any] | None = None, **task: Any) -> dict[str, Any]:
    wanted = {"type": "HUMAN", "name": "review", **({} if due is None else {"due": due}), **task}
    return {
        "id": "d",
        "initial": "a",
        "states": {
            "a": {
                "entry": [{"type": "createTask", "task": wanted}],
                "on": {"done.task.review": "b", "STOP": "b", "CANCEL": {"actions": {"type": "cancel", "id": "review"}},
                       **(on or {})},
            },
            "b": {"on": {"END": "end"}},
            "end": {"type": "final"},
        },
    }  # fmt: skip


class Machine:
    def __init__(self, document: dict[str, Any], input: Any = None) -> None:
        self.chart = statechart.load(document)
        self.step: Step = statechart.start(self.chart, input, Env(NOW))

    def take(self, event: str, obligation: str | None = None, **members: Any) -> Step:
        self.step = statechart.step(
            self.chart, self.step.snapshot, {"type": event, **members}, Env(NOW), obligation=obligation
        )
        return self.step

    def fire(self, key: str) -> Step:
        event = self.step.snapshot["timers"][key]["event"]
        self.step = statechart.step(self.chart, self.step.snapshot, event, Env(NOW), obligation=key)
        return self.step

    @property
    def armed(self) -> dict[str, timedelta]:
        effects = [effect for effect in self.step.effects if isinstance(effect, ArmTimer)]
        return {effect.key.removeprefix(f"{KEY}/"): effect.due_at - NOW for effect in effects}


HOURS = timedelta(hours=1)


@pytest.mark.parametrize(
    ("due", "armed"),
    [
        (None, {}),
        ("2h", {"due": 2 * HOURS}),
        (3_600_000, {"due": HOURS}),
        ("2026-03-01T15:00:00+01:00", {"due": 2 * HOURS}),
        ("2026-03-01T11:00:00Z", {"due": -HOURS}),
        ({"in": "3h"}, {"due": 3 * HOURS}),
        ({"at": "2026-03-01T13:00:00Z", "remind": []}, {"due": HOURS}),
        (
            {"in": "3h", "remind": ["1h", "2h", "60m", "3h", "1d"]},
            {"remind/1": HOURS, "remind/2": 2 * HOURS, "due": 3 * HOURS},
        ),
        ({"in": "1h", "escalate": {}}, {"due": HOURS, "escalate": HOURS}),
        ({"in": "1h", "escalate": {"after": "2h"}}, {"due": HOURS, "escalate": 3 * HOURS}),
        ("${input.when}", {"due": 2 * HOURS}),
        ({"in": "${input.when}", "remind": ["${input.before}"]}, {"remind/1": HOURS, "due": 2 * HOURS}),
    ],
)
def test_timers_are_armed_for_what_is_due(due: Any, armed: dict[str, timedelta]) -> None:
    machine = Machine(asking(due), {"when": "2h", "before": "1h"})
    assert machine.armed == armed
    (task,) = [effect for effect in machine.step.effects if isinstance(effect, CreateTask)]
    assert task.due_at == (NOW + armed["due"] if armed else None)
    assert {timer["task"] for timer in machine.step.snapshot["timers"].values()} <= {KEY}


@pytest.mark.parametrize(
    "due",
    [
        True, [], "soon", "2026-03-01T12:00:00", {}, {"in": "1h", "at": "2026-03-01T12:00:00Z"}, {"in": "x"}, {"at": 7},
        {"in": "1h", "remind": "1h"}, {"in": "1h", "remind": ["x"]}, {"in": "1h", "remind": ["1h"] * 21},
        {"in": "1h", "escalate": "boss"}, {"in": "1h", "escalate": {"to": "boss"}},
        {"in": "1h", "escalate": {"after": "x"}}, {"in": "1h", "escalate": {"assignee": 7}},
        {"in": "1h", "escalate": {"candidates": "boss"}}, {"in": "1h", "when": 1},
    ],
)  # fmt: skip
def test_a_due_that_is_none_is_refused_at_the_door_and_when_it_is_computed(due: Any) -> None:
    problems = [problem for problem in statechart.check(asking(due)) if problem.severity == "error"]
    assert {problem.code for problem in problems} == {"task.due"}
    assert all(
        problem.path.startswith("states.a.entry[0].task.due") or ".due" in problem.path
        for problem in problems
    )

    computed = asking("${input}", on={"error.execution": "b"})
    assert Machine(computed, due).step.snapshot["configuration"] == ["b"]


@pytest.mark.parametrize(
    "due",
    [
        {"at": "9999-12-31T00:00:00Z", "escalate": {"after": "36500d"}},
        {"at": "0001-01-01T00:00:00Z", "remind": ["36500d"]},
    ],
)
def test_an_instant_outside_of_the_calendar_is_an_error_of_the_definition(due: Any) -> None:
    machine = Machine(asking("${input}", on={"error.execution": "b"}), due)
    assert machine.step.snapshot["configuration"] == ["b"]


def test_data_that_looks_like_a_template_is_checked_like_any_other() -> None:
    for due in (
        {"in": "${x}"},
        {"in": "1h", "escalate": {"assignee": {"x": "${y}"}}},
        {"in": "1h", "remind": "${x}"},
    ):
        machine = Machine(asking("${input}", on={"error.execution": "b"}), due)
        assert machine.step.snapshot["configuration"] == ["b"], due


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("assignee", 7), ("assignee", ""), ("assignee", " ada"), ("candidates", "ada"), ("candidates", [1]),
        ("candidates", ["x"] * 1_001), ("form", "x"), ("fourEyes", "yes"), ("title", 7), ("description", []),
    ],
)  # fmt: skip
def test_options_for_people_are_refused_at_the_door_and_when_they_are_computed(
    option: str, value: Any
) -> None:
    (problem,) = [one for one in statechart.check(asking(**{option: value})) if one.severity == "error"]
    assert (problem.code, problem.path) == ("task.people", f"states.a.entry.task.{option}")

    computed = asking(on={"error.execution": "b"}, **{option: "${input}"})
    assert Machine(computed, value).step.snapshot["configuration"] == ["b"]
    assert Machine(asking(**{option: "${input}"}), None).step.snapshot["configuration"] == ["a"]


def test_the_events_name_the_task_and_nobody_has_to_listen() -> None:
    machine = Machine(asking({"in": "3h", "remind": ["1h"], "escalate": {}}, assignee="ada"))
    told = {
        "key": KEY,
        "name": "review",
        "type": "HUMAN",
        "dueAt": "2026-03-01T15:00:00.000000Z",
        "assignee": "ada",
    }
    for kind, key in (("reminder", "remind/1"), ("due", "due"), ("escalated", "escalate")):
        event = machine.step.snapshot["timers"][f"{KEY}/{key}"]["event"]
        assert event == {"type": f"{kind}.task.review", "task": told}
        step = machine.fire(f"{KEY}/{key}")
        assert (step.outcome, step.reason) == ("ignored", "no_transition")
        assert [change["type"] for change in step.changes] == ["timer.fired"]
    assert machine.step.snapshot["timers"] == {}
    assert KEY in machine.step.snapshot["tasks"]


def test_a_definition_that_listens_takes_the_event_in_that_macrostep() -> None:
    said = {"actions": {"type": "log", "message": "${event.task.name} of ${event.task.assignee}"}}
    machine = Machine(asking({"in": "1h"}, on={"due.task.review": said}, assignee="ada"))
    step = machine.fire(f"{KEY}/due")
    assert [change["message"] for change in step.changes if change["type"] == "log"] == ["review of ada"]
    assert step.outcome == "applied"


@pytest.mark.parametrize(
    ("goes_to", "assignee"),
    [
        ({"assignee": "boss"}, "boss"),
        ({"candidates": ["x", "y"]}, "ada"),
        ({"assignee": "boss", "candidates": ["x"]}, "boss"),
    ],
)
@pytest.mark.parametrize("listens", [True, False])
def test_escalation_gives_the_task_to_others(goes_to: dict[str, Any], assignee: str, listens: bool) -> None:
    on = {"escalated.task.review": {"actions": {"type": "log", "message": "x"}}} if listens else {}
    machine = Machine(asking({"in": "1h", "escalate": goes_to}, on=on, assignee="ada"))
    assert machine.step.snapshot["timers"][f"{KEY}/escalate"]["event"]["task"]["assignee"] == assignee

    step = machine.fire(f"{KEY}/escalate")

    assert step.effects[0] == AssignTask(KEY, goes_to.get("assignee"), goes_to.get("candidates"))
    assert step.changes[:2] == (
        {"type": "timer.fired", "key": f"{KEY}/escalate"},
        {"type": "task.assigned", "key": KEY, **goes_to},
    )


FULL = {"in": "3h", "remind": ["1h"], "escalate": {"after": "1h"}}


@pytest.mark.parametrize(
    "way", ["answered", "answered, ignored", "cancelled", "closed", "stopped", "restarted", "done"]
)
def test_the_timers_end_with_the_task_however_it_ends(way: str) -> None:
    document = asking(FULL)
    if way == "answered, ignored":
        del document["states"]["a"]["on"]["done.task.review"]
    machine = Machine(document)
    snapshot = machine.step.snapshot
    match way:
        case "answered" | "answered, ignored":
            step = machine.take("done.task.review", KEY)
        case "cancelled":
            step = machine.take("CANCEL")
        case "closed":
            step = statechart.close(machine.chart, snapshot, Env(NOW), KEY)
        case "stopped":
            step = statechart.stop(machine.chart, snapshot, Env(NOW))
        case "restarted":
            step = statechart.restart(machine.chart, snapshot, Env(NOW), state="b")
        case _:
            machine.take("STOP")
            step = machine.take("END")
    assert step.snapshot["timers"] == {}
    assert {effect.key for effect in step.effects if isinstance(effect, CancelTimer)} == set(
        snapshot["timers"]
    )
    assert step.snapshot["tasks"] == {}
    assert any(isinstance(effect, CancelTask) for effect in step.effects) == (
        not way.startswith(("answered", "closed"))
    )


def test_the_timers_of_an_invoke_end_when_its_state_is_left() -> None:
    document = asking()
    document["states"]["a"] = {"invoke": {"src": "HUMAN", "id": "review", "due": FULL}, "on": {"STOP": "b"}}
    machine = Machine(document)
    assert len(machine.step.snapshot["timers"]) == 3
    assert machine.take("STOP").snapshot["timers"] == {}


def test_a_failure_that_nobody_catches_leaves_task_and_timers_open() -> None:
    machine = Machine(asking(FULL))
    step = machine.take("error.task.review", KEY, error={"code": "human.rejected"})
    assert step.reason == "no_transition"
    assert len(step.snapshot["timers"]) == 3
    assert step.effects == ()


def test_what_is_asked_for_and_answered_in_one_step_arms_nothing() -> None:
    document = asking(FULL)
    document["states"]["a"]["always"] = "b"
    document["states"]["a"]["exit"] = [{"type": "cancel", "id": "review"}]
    assert Machine(document).step.effects == ()


def test_check_knows_the_events_and_explain_takes_them_for_the_engines() -> None:
    document = asking("1h", on={"due.task.review": "b", "due.task.reviw": "b", "reminder.task.x": "b"})
    warned = [
        (one.path, one.suggestion) for one in statechart.check(document) if one.code == "event.unknown_source"
    ]
    assert warned == [
        ("states.a.on.due.task.reviw", "due.task.review"),
        ("states.a.on.reminder.task.x", None),
    ]
    chart = statechart.load(document)
    told = statechart.explain(chart, statechart.start(chart, None, Env(NOW)).snapshot)
    assert [event["type"] for event in told["events"]] == ["STOP", "CANCEL"]
    (timer,) = told["timers"]
    assert timer["event"]["type"] == "due.task.review"
    assert timer["transitions"][0]["target"] == ["b"]


def test_another_type_of_task_has_no_timers() -> None:
    assert Machine(asking("1h", type="work")).armed == {}
