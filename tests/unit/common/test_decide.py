"""What one inbox row means, for every type of row and wherever an instance stands: a table, and no database."""

from datetime import UTC, datetime
from typing import Any

import pytest

import statechart
from common.canonical import dumps
from common.db.tables import InboxType
from common.decide import Decision, Standing, closing, decide, status_of
from common.lifecycle import InstanceStatus
from statechart import Chart, Env
from statechart.draft import MAX_DEPTH
from statechart.effects import CancelTask, CancelTimer, CreateTask

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENV = Env(now=NOW, seed="i:1")
ROOM = 1_000_000
FACTS = {
    "id": "i",
    "definitionKey": "d",
    "definitionVersion": 1,
    "businessKey": None,
    "parentId": None,
    "startedAt": "x",
}
S, B = InstanceStatus, InboxType

CHART: Chart = statechart.load(
    {
        "id": "d",
        "initial": "working",
        "context": {"seen": 0},
        "states": {
            "working": {
                "entry": [
                    {"type": "createTask", "task": {"type": "work", "name": "job", "completionEvent": "DONE"}}
                ],
                "after": {"1h": "late"},
                "on": {
                    "ADD": {"actions": [{"type": "assign", "path": "seen", "value": "${context.seen + 1}"}]},
                    "BREAK": {"actions": [{"type": "assign", "path": "seen", "value": "${1 / 0}"}]},
                    "GROW": {"actions": [{"type": "assign", "path": "text", "value": "${event.text}"}]},
                    "DONE": "done",
                },
            },
            "late": {"on": {"STOP": "done"}},
            "done": {"type": "final", "output": {"seen": "${context.seen}"}},
        },
        "output": "${event.output}",
    }
)
BODIES: dict[InboxType, dict[str, Any]] = {
    B.START: {"input": None, "context": None},
    B.EVENT: {"type": "ADD"},
    B.UNDELIVERED: {"type": "error.communication", "error": {}, "target": {}, "event": {"type": "X"}},
    B.TASK: {
        "key": "?",
        "event": {"type": "DONE", "output": 1, "task": {}},
        "entry": {"type": "task.succeeded", "key": "?", "name": "job"},
    },
    B.TASK_LATE: {"entry": {"key": "?", "outcome": "succeeded"}},
    B.TIMER: {"key": "?", "event": {"type": "xstate.after.1h.d.working"}},
    B.NOTE: {"note": "seen"},
    B.CANCEL: {"reason": "enough"},
    B.PAUSE: {"reason": "a holiday"},
    B.RESUME: {"reason": None},
    B.STEP: {},
    B.RETRY: {"incidents": [], "reason": None},
    B.RESTART: {"state": "late", "context": {"seen": 9}, "reason": None},
    B.TIMEOUT: {"milliseconds": 1_000},
    B.INCIDENT: {"code": "engine.poison", "message": "it kills", "detail": {}},
}


def started() -> Standing:
    step = statechart.start(CHART, None, ENV, instance=FACTS)
    return Standing(status_of(step.snapshot), step.snapshot, {}, 2)


def keys(standing: Standing) -> tuple[str, str]:
    assert standing.snapshot is not None
    return next(iter(standing.snapshot["tasks"])), next(iter(standing.snapshot["timers"]))


def standing_in(status: InstanceStatus) -> Standing:
    """Where an instance of `status` stands; before its start it has no snapshot."""
    if status is S.PENDING:
        return Standing(S.PENDING, None, FACTS, 1)
    return Standing(status, started().snapshot, {}, 2)


def body_of(type_: InboxType, **changed: Any) -> dict[str, Any]:
    task, timer = keys(started())
    body = {**BODIES[type_], **changed}
    if body.get("key") == "?":
        body["key"] = timer if type_ is B.TIMER else task
    return body


def decided(status: InstanceStatus, type_: InboxType, *, room: int = ROOM, **changed: Any) -> Decision:
    return decide(CHART, standing_in(status), type_, body_of(type_, **changed), ENV, max_context_bytes=room)


# status before, type of row → status after, first entry, how many effects
TABLE = [
    (S.PENDING, B.START, S.RUNNING, "instance.started", 2),
    (S.PENDING, B.EVENT, S.PENDING, "event.ignored", 0),
    (S.PENDING, B.UNDELIVERED, S.PENDING, "event.ignored", 0),
    (S.PENDING, B.TASK, S.PENDING, "event.ignored", 0),
    (S.PENDING, B.TASK_LATE, S.PENDING, "task.late", 0),
    (S.PENDING, B.TIMER, S.PENDING, "event.ignored", 0),
    (S.PENDING, B.NOTE, S.PENDING, "note", 0),
    (S.PENDING, B.CANCEL, S.CANCELLED, "instance.cancelled", 1),
    (S.PENDING, B.INCIDENT, S.FAILED, "incident.opened", 0),
    (S.RUNNING, B.START, S.RUNNING, "event.ignored", 0),
    (S.RUNNING, B.EVENT, S.RUNNING, "event.received", 0),
    (S.RUNNING, B.UNDELIVERED, S.RUNNING, "event.ignored", 0),
    (S.RUNNING, B.TASK, S.COMPLETED, "task.succeeded", 1),
    (S.RUNNING, B.TASK_LATE, S.RUNNING, "task.late", 0),
    (S.RUNNING, B.TIMER, S.RUNNING, "timer.fired", 0),
    (S.RUNNING, B.NOTE, S.RUNNING, "note", 0),
    (S.RUNNING, B.CANCEL, S.CANCELLED, "instance.cancelled", 2),
    (S.RUNNING, B.INCIDENT, S.FAILED, "incident.opened", 0),
    (S.FAILED, B.NOTE, S.FAILED, "note", 0),
    (S.FAILED, B.TASK_LATE, S.FAILED, "task.late", 0),
    (S.FAILED, B.CANCEL, S.CANCELLED, "instance.cancelled", 2),
    (S.PAUSED, B.NOTE, S.PAUSED, "note", 0),
    (S.PAUSED, B.CANCEL, S.CANCELLED, "instance.cancelled", 2),
    # taken one by one, by hand
    (S.PAUSED, B.EVENT, S.PAUSED, "event.received", 0),
    (S.PAUSED, B.TASK, S.COMPLETED, "task.succeeded", 1),
    (S.PENDING, B.PAUSE, S.PAUSED, "instance.paused", 0),
    (S.RUNNING, B.PAUSE, S.PAUSED, "instance.paused", 0),
    (S.PAUSED, B.PAUSE, S.PAUSED, "event.rejected", 0),
    (S.FAILED, B.PAUSE, S.FAILED, "event.rejected", 0),
    (S.PAUSED, B.RESUME, S.RUNNING, "instance.resumed", 0),
    (S.RUNNING, B.RESUME, S.RUNNING, "event.rejected", 0),
    (S.PAUSED, B.STEP, S.PAUSED, "instance.stepped", 0),
    (S.RUNNING, B.STEP, S.RUNNING, "event.rejected", 0),
    (S.FAILED, B.RETRY, S.RUNNING, "instance.retried", 0),
    (S.RUNNING, B.RETRY, S.RUNNING, "event.rejected", 0),
    (S.PAUSED, B.RETRY, S.PAUSED, "event.rejected", 0),
    (S.RUNNING, B.RESTART, S.WAITING, "instance.restarted", 2),
    (S.PAUSED, B.RESTART, S.WAITING, "instance.restarted", 2),
    (S.FAILED, B.RESTART, S.WAITING, "instance.restarted", 2),
    (S.PENDING, B.RESTART, S.PENDING, "event.rejected", 0),
    (S.PENDING, B.TIMEOUT, S.TIMED_OUT, "instance.timed_out", 1),
    (S.RUNNING, B.TIMEOUT, S.TIMED_OUT, "instance.timed_out", 2),
    (S.PAUSED, B.TIMEOUT, S.TIMED_OUT, "instance.timed_out", 2),
    (S.FAILED, B.TIMEOUT, S.TIMED_OUT, "instance.timed_out", 2),
]
RESOLUTIONS = {
    B.CANCEL: "cancelled",
    B.TIMEOUT: "timed_out",
    B.RETRY: "retried",
    B.RESTART: "restarted",
}
FINAL_TABLE = [
    (final, type_, final, first, 0)
    for final in (S.COMPLETED, S.CANCELLED, S.TIMED_OUT)
    for type_, first in {
        B.START: "event.rejected",
        B.EVENT: "event.rejected",
        B.UNDELIVERED: "event.rejected",
        B.TASK: "task.succeeded",  # what the runner did is told, and then that it changed nothing
        B.TASK_LATE: "task.late",
        B.TIMER: "event.rejected",
        B.NOTE: "note",
        B.CANCEL: "event.rejected",
        B.PAUSE: "event.rejected",
        B.RESUME: "event.rejected",
        B.STEP: "event.rejected",
        B.RETRY: "event.rejected",
        B.RESTART: "event.rejected",
        B.TIMEOUT: "event.rejected",
        B.INCIDENT: "event.rejected",
    }.items()
]


@pytest.mark.parametrize(("before", "type_", "after", "first", "effects"), TABLE + FINAL_TABLE)
def test_each_type_of_row_in_each_standing(
    before: InstanceStatus, type_: InboxType, after: InstanceStatus, first: str, effects: int
) -> None:
    decision = decided(before, type_)

    assert decision.status is after
    assert decision.changes[0]["type"] == first
    assert len(decision.effects) == effects
    assert (decision.incident is not None) is (after is S.FAILED and before is not S.FAILED)
    if before is S.FAILED and decision.changes[0]["type"] != "event.rejected":
        assert decision.resolution == RESOLUTIONS.get(type_)
    if before in (S.COMPLETED, S.CANCELLED, S.TIMED_OUT):
        assert decision.snapshot == standing_in(before).snapshot


@pytest.mark.parametrize(("before", "type_"), [(row[0], row[1]) for row in TABLE + FINAL_TABLE])
def test_deciding_twice_gives_the_same_and_its_text_is_its_snapshot(
    before: InstanceStatus, type_: InboxType
) -> None:
    first, second = decided(before, type_), decided(before, type_)

    assert (first.changes, first.effects, first.snapshot_text) == (
        second.changes,
        second.effects,
        second.snapshot_text,
    )
    assert first.snapshot_text == (None if first.snapshot is None else dumps(first.snapshot))


def test_a_start_asks_for_its_task_and_timer_and_knows_its_instance() -> None:
    decision = decided(S.PENDING, B.START, input={"n": 1}, context={"seen": 5, "more": True})

    assert decision.snapshot is not None
    assert decision.snapshot["context"] == {"seen": 5, "more": True}
    assert decision.snapshot["input"] == {"n": 1}
    assert decision.snapshot["instance"] == FACTS
    assert isinstance(decision.effects[0], CreateTask)


def test_a_task_that_ends_its_machine_completes_it_with_its_output() -> None:
    decision = decided(S.RUNNING, B.TASK)

    assert decision.changes[-1] == {"type": "instance.completed", "output": {"seen": 0}}
    assert decision.effects == (CancelTimer(keys(started())[1]),)


def test_a_task_is_named_as_its_obligation_wants_it() -> None:
    """Whoever ran it may have been asked by another obligation for the same work."""
    decision = decided(S.RUNNING, B.TASK, event={"type": "ANOTHER_S_NAME", "output": 1, "task": {}})
    assert decision.status is S.COMPLETED


def test_an_uncaught_failure_keeps_the_snapshot_and_names_the_task() -> None:
    task, _ = keys(started())
    entry = {
        "type": "task.failed",
        "key": task,
        "name": "job",
        "taskId": "t-1",
        "error": {"code": "x.y", "message": "no"},
    }
    decision = decided(
        S.RUNNING, B.TASK, event={"type": "error.task.job", "error": {}, "task": {}}, entry=entry
    )

    assert decision.status is S.FAILED
    assert decision.snapshot == started().snapshot, "the obligation stays open for a retry"
    assert decision.incident is not None
    assert (decision.incident.code, decision.incident.task_id) == ("x.y", "t-1")
    assert [entry["type"] for entry in decision.changes] == [
        "task.failed",
        "incident.opened",
        "instance.failed",
    ]


def test_an_answer_to_an_obligation_that_is_closed_is_ignored() -> None:
    for type_ in (B.TASK, B.TIMER):
        decision = decided(S.RUNNING, type_, key="gone/1")
        assert decision.status is S.RUNNING
        assert decision.changes[-1]["reason"] == "obligation_closed"


def test_a_step_that_fails_changes_nothing_but_the_status() -> None:
    decision = decided(S.RUNNING, B.EVENT, type="BREAK")

    assert decision.status is S.FAILED
    assert decision.snapshot == started().snapshot
    assert decision.effects == ()
    assert decision.incident is not None
    assert decision.incident.code == "step.uncaught"
    assert decision.changes[0] == {"type": "event.received", "eventType": "BREAK"}


@pytest.mark.parametrize(("text", "fails"), [("x" * 500, False), ("x" * 1_500, True), ("é" * 700, True)])
def test_a_snapshot_is_bounded_in_bytes(text: str, fails: bool) -> None:
    room = len(dumps(started().snapshot)) + 1_000
    decision = decided(S.RUNNING, B.EVENT, type="GROW", text=text, room=room)

    assert (decision.status is S.FAILED) is fails
    if fails:
        assert decision.incident is not None
        assert decision.incident.code == "limit.context"
        assert decision.incident.detail == {"limit": "max_context_bytes", "allowed": room}
        assert "SIGNALBOX_MAX_CONTEXT_BYTES" in decision.incident.message
        assert decision.snapshot == started().snapshot


@pytest.mark.parametrize("value", ["\x00", "\ud800", 2**60])
def test_a_snapshot_that_cannot_be_stored_fails_its_instance(value: Any) -> None:
    decision = decided(S.RUNNING, B.EVENT, type="GROW", text=value)

    assert decision.status is S.FAILED
    assert decision.incident is not None
    assert decision.incident.code == "context.unstorable"
    assert decision.snapshot_text == dumps(started().snapshot)


def deep_chart(parts: int) -> Chart:
    """Assigns what an event brings below so many names."""
    assign = {"type": "assign", "path": ".".join(["a"] * parts), "value": "${event.value}"}
    return statechart.load(
        {"id": "d", "initial": "a", "states": {"a": {"on": {"GROW": {"actions": [assign]}}}}}
    )


def grown(chart: Chart, value: Any) -> Decision:
    step = statechart.start(chart, None, ENV, instance=FACTS)
    standing = Standing(status_of(step.snapshot), step.snapshot, {}, 2)
    return decide(chart, standing, B.EVENT, {"type": "GROW", "value": value}, ENV, max_context_bytes=ROOM)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_a_snapshot_is_bounded_in_depth() -> None:
    as_deep_as_allowed = grown(deep_chart(MAX_DEPTH - 65), nested(64))
    too_deep = grown(deep_chart(MAX_DEPTH - 64), nested(64))

    assert as_deep_as_allowed.incident is None
    assert as_deep_as_allowed.status is S.WAITING
    assert too_deep.status is S.FAILED
    assert too_deep.incident is not None
    assert too_deep.incident.code == "context.unstorable"
    assert f"deeper than {MAX_DEPTH} levels" in too_deep.incident.message
    assert too_deep.snapshot is not None
    assert too_deep.snapshot["context"] == {}


def test_steps_that_nest_what_they_read_come_to_an_end() -> None:
    assign = {"type": "assign", "path": "a.b", "value": "$.a"}
    chart = statechart.load(
        {"id": "d", "initial": "a", "states": {"a": {"on": {"GROW": {"actions": [assign]}}}}}
    )
    step = statechart.start(chart, None, ENV, instance=FACTS)
    standing = Standing(status_of(step.snapshot), step.snapshot, {}, 2)
    for taken in range(MAX_DEPTH):
        decision = decide(chart, standing, B.EVENT, {"type": "GROW"}, ENV, max_context_bytes=ROOM)
        if decision.incident is not None:
            break
        standing = Standing(decision.status, decision.snapshot, {}, taken + 3)

    assert decision.incident is not None
    assert decision.incident.code == "context.unstorable"
    assert taken == MAX_DEPTH - 2  # the snapshot, its context, and a level with each event


def test_a_cancel_before_the_start_takes_back_a_start_at_a_time() -> None:
    assert decided(S.PENDING, B.CANCEL).effects == (CancelTimer("start"),)


def test_a_cancel_closes_everything_that_is_open() -> None:
    task, timer = keys(started())
    assert set(decided(S.RUNNING, B.CANCEL).effects) == {CancelTask(task), CancelTimer(timer)}


@pytest.mark.parametrize("chart", [None, statechart.load({"id": "d", "initial": "a", "states": {"a": {}}})])
def test_a_cancel_works_without_a_chart_and_with_one_that_does_not_fit(chart: Chart | None) -> None:
    task, timer = keys(started())
    decision = decide(chart, standing_in(S.RUNNING), B.CANCEL, {"reason": None}, ENV, max_context_bytes=ROOM)

    assert decision.status is S.CANCELLED
    assert set(decision.effects) == {CancelTask(task), CancelTimer(timer)}
    assert decision.snapshot is not None
    assert decision.snapshot["status"] == "stopped"
    assert [entry["type"] for entry in decision.changes] == ["instance.cancelled", "error.execution"]


@pytest.mark.parametrize("type_", [B.START, B.EVENT, B.TASK, B.TIMER, B.RESTART])
def test_without_a_chart_nothing_is_stepped(type_: InboxType) -> None:
    before = standing_in(S.RUNNING)
    decision = decide(None, before, type_, body_of(type_), ENV, max_context_bytes=ROOM)

    assert decision.status is S.FAILED
    assert decision.snapshot == before.snapshot
    assert decision.incident is not None
    assert decision.incident.code == "definition.unusable"


def test_the_status_is_a_function_of_the_snapshot() -> None:
    def snapshot(status: str, *types: str) -> dict[str, Any]:
        return {"status": status, "tasks": {str(n): {"type": type_} for n, type_ in enumerate(types)}}

    assert status_of(snapshot("done")) is S.COMPLETED
    assert status_of(snapshot("error")) is S.FAILED
    assert status_of(snapshot("stopped")) is S.CANCELLED
    assert status_of(snapshot("active")) is S.WAITING
    assert status_of(snapshot("active", "work")) is S.RUNNING
    assert status_of(snapshot("active", "HUMAN", "TIMER", "MAP", "WORKFLOW")) is S.WAITING
    assert status_of(snapshot("active", "HUMAN", "work")) is S.RUNNING


def test_closing_covers_every_kind_of_obligation() -> None:
    effects = closing({"tasks": {"a": {}}, "timers": {"b": {}}, "children": {"c": {}}})
    assert [(type(effect).__name__, effect.key) for effect in effects if hasattr(effect, "key")] == [
        ("CancelTask", "a"),
        ("CancelTimer", "b"),
        ("CancelChild", "c"),
    ]
