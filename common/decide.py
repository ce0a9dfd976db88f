"""What one inbox row means for one instance: pure, so that the orchestrator and the verifier decide alike.

`decide` takes where an instance stands and one accepted row, and answers with where it stands afterwards, the effects
to make true, and the dotted entries for its history. It reads nothing else: no clock, no database, no settings but the
limit that it is given. Replaying the recorded inputs of a history through it gives the stored snapshot (promise 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import statechart
from common.canonical import dumps, size, storable
from common.db.tables import InboxType
from common.errors import SignalboxError
from common.lifecycle import FINAL, InstanceStatus
from statechart import Chart, Env, Step, StepFailed
from statechart.effects import CancelTimer, Effect

NOT_RUN_BY_A_RUNNER = frozenset({"HUMAN", "WORKFLOW", "MAP", "TIMER"})
"""Task types that wait without a runner: an instance that has only these open is `waiting`."""

START_TIMER = "start"
"""The key of the timer that starts a pending instance at the time it was asked for."""

Json = Any


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an instance stands: its status and snapshot (None before its start), and the facts fixed at its start."""

    status: InstanceStatus
    snapshot: dict[str, Json] | None
    facts: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Incident:
    """Why an instance cannot go on by itself."""

    code: str
    message: str
    detail: dict[str, Json]
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The consequence of one inbox row. `snapshot_text` is canonical; None as long as the instance has not started."""

    status: InstanceStatus
    snapshot: dict[str, Json] | None
    snapshot_text: str | None
    changes: list[dict[str, Json]]
    effects: tuple[Effect, ...] = ()
    incident: Incident | None = None
    resolves: bool = False  # incidents that were open are closed by this


def decide(
    chart: Chart | None,
    standing: Standing,
    type: InboxType,
    body: Json,
    env: Env,
    *,
    max_context_bytes: int,
) -> Decision:
    """Decide one inbox row. Never raises for what a definition, an event or a handler's output can cause.

    `chart` None, for a definition that does not compile any more: notes, late results, cancels and incidents only.
    `body` by type: start {input, context} · event: the event itself · task {key, event, entry} · task.late {entry} ·
    timer {key, event} · undelivered: the event · note {note} · cancel {reason} ·
    incident {code, message, detail}: the engine gives up on the instance.
    """
    if type is InboxType.NOTE:
        return _unchanged(standing, [{"type": "note", **body}])
    if type is InboxType.TASK_LATE:
        return _unchanged(standing, [{"type": "task.late", **body["entry"]}])
    if standing.status in FINAL:
        return _rejected(standing, type, body)
    if type is InboxType.INCIDENT:
        return _fails(standing, Incident(body["code"], body["message"], body.get("detail", {})), [])
    if type is InboxType.CANCEL:
        return _cancel(chart, standing, body, env)
    if chart is None:
        raise ValueError(f'a row of type "{type.value}" cannot be decided without a chart')
    try:
        decided = _DECIDERS[type](chart, standing, body, env)
        return _bounded(standing, decided, max_context_bytes)
    except StepFailed as error:
        detail = {"path": error.path, "data": error.data}
        return _fails(standing, Incident(error.code, storable(str(error)), detail), [_received(type, body)])


def _start(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is not None:
        return _unchanged(standing, [{"type": "event.ignored", "reason": "already_started"}])
    step = statechart.start(
        chart, body.get("input"), env, context=body.get("context"), instance=standing.facts
    )
    return _stepped(step, [{"type": "instance.started"}])


def _event(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is None:
        return _unchanged(
            standing, [{"type": "event.ignored", "eventType": body["type"], "reason": "not_started"}]
        )
    step = statechart.step(chart, standing.snapshot, body, env)
    return _stepped(step, [_event_entry(step, body)])


def _task(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is None:
        return _unchanged(standing, [{"type": "event.ignored", "reason": "not_started"}])
    entry = body["entry"]
    event = _as_asked(standing.snapshot, body["key"], body["event"], entry["type"])
    step = statechart.step(chart, standing.snapshot, event, env, obligation=body["key"])
    if entry["type"] == "task.failed" and step.reason == "no_transition":
        # Caught nowhere: the obligation stays open in the old snapshot, so that `retry` can run the task again.
        error = entry.get("error") or {}
        incident = Incident(
            error.get("code", "task.failed"),
            f'task "{entry.get("name")}" failed and no transition takes "{event["type"]}": {error.get("message", "")}',
            {"key": body["key"], "error": error},
            task_id=entry.get("taskId"),
        )
        return _fails(standing, incident, [entry])
    return _stepped(step, [entry, _event_entry(step, event)])


def _as_asked(snapshot: Mapping[str, Json], key: str, event: dict[str, Json], ended: str) -> dict[str, Json]:
    """Name an outcome as the obligation that it answers wants it: askers of the same work may want different names."""
    asked = snapshot["tasks"].get(key)
    if asked is None:
        return event
    return event | {"type": asked["failureEvent" if ended == "task.failed" else "completionEvent"]}


def _timer(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is None:
        return _unchanged(standing, [{"type": "event.ignored", "reason": "not_started"}])
    step = statechart.step(chart, standing.snapshot, body["event"], env, obligation=body["key"])
    return _stepped(step, [{"type": "timer.fired", "key": body["key"]}, _event_entry(step, body["event"])])


_DECIDERS = {
    InboxType.START: _start,
    InboxType.EVENT: _event,
    InboxType.UNDELIVERED: _event,
    InboxType.TASK: _task,
    InboxType.TIMER: _timer,
}


def _cancel(chart: Chart | None, standing: Standing, body: Json, env: Env) -> Decision:
    changes: list[dict[str, Json]] = [{"type": "instance.cancelled", "reason": body.get("reason")}]
    if standing.snapshot is None:  # not started; a start that waits for its time must not come any more
        return Decision(
            InstanceStatus.CANCELLED, None, None, changes, (CancelTimer(START_TIMER),), resolves=True
        )
    try:
        if chart is None:
            raise StepFailed("definition.unusable", "the definition does not compile, no exit action is run")
        step = statechart.stop(chart, standing.snapshot, env)
        text = dumps(step.snapshot)
        dumps(step.changes)
    except Exception as error:  # noqa: BLE001 - see below: whatever it is, it must not keep an instance from ending
        # A broken exit action must not make an instance impossible to cancel: it ends without its exit actions.
        changes.append({"type": "error.execution", "message": storable(str(error))})
        stopped = standing.snapshot | {"status": "stopped", "tasks": {}, "timers": {}, "children": {}}
        return Decision(
            InstanceStatus.CANCELLED,
            stopped,
            dumps(stopped),
            changes,
            closing(standing.snapshot),
            resolves=True,
        )
    return Decision(
        InstanceStatus.CANCELLED,
        step.snapshot,
        text,
        changes + list(step.changes),
        step.effects,
        resolves=True,
    )


def closing(snapshot: Mapping[str, Json]) -> tuple[Effect, ...]:
    """The effects that end every open obligation of a snapshot."""
    return (
        *(statechart.effects.CancelTask(key) for key in snapshot.get("tasks", {})),
        *(CancelTimer(key) for key in snapshot.get("timers", {})),
        *(statechart.effects.CancelChild(key) for key in snapshot.get("children", {})),
    )


def status_of(snapshot: Mapping[str, Json]) -> InstanceStatus:
    """The status that a snapshot means: a function of its machine status and its open obligations."""
    match snapshot["status"]:
        case "done":
            return InstanceStatus.COMPLETED
        case "error":
            return InstanceStatus.FAILED
        case "stopped":
            return InstanceStatus.CANCELLED
    executed = any(task["type"] not in NOT_RUN_BY_A_RUNNER for task in snapshot["tasks"].values())
    return InstanceStatus.RUNNING if executed else InstanceStatus.WAITING


def _stepped(step: Step, entries: list[dict[str, Json]]) -> Decision:
    status = status_of(step.snapshot)
    changes = entries + list(step.changes)
    incident = None
    if status is InstanceStatus.COMPLETED:
        changes.append({"type": "instance.completed", "output": step.snapshot.get("output")})
    elif status is InstanceStatus.FAILED:
        incident = Incident(
            "instance.error", _message_of(step.snapshot.get("error")), {"error": step.snapshot.get("error")}
        )
        changes.append({"type": "incident.opened", "code": incident.code, "message": incident.message})
        changes.append({"type": "instance.failed"})
    return Decision(status, step.snapshot, None, changes, step.effects, incident)


def _bounded(standing: Standing, decided: Decision, max_context_bytes: int) -> Decision:
    """Give the decision its canonical text, or fail the instance where the text cannot be or is too large."""
    if decided.snapshot is None or decided.snapshot_text is not None:
        return decided
    try:
        text = dumps(decided.snapshot)
    except SignalboxError as error:
        return _fails(standing, Incident("context.unstorable", str(error), {}), decided.changes[:1])
    if size(text) > max_context_bytes:
        message = (
            f"the snapshot grew to {size(text)} bytes, at most {max_context_bytes} are allowed "
            '("SIGNALBOX_MAX_CONTEXT_BYTES"); keep large data outside and store a reference'
        )
        detail = {"limit": "max_context_bytes", "allowed": max_context_bytes}
        return _fails(standing, Incident("limit.context", message, detail), decided.changes[:1])
    return Decision(
        decided.status,
        decided.snapshot,
        text,
        decided.changes,
        decided.effects,
        decided.incident,
        decided.resolves,
    )


def _fails(standing: Standing, incident: Incident, entries: list[dict[str, Json]]) -> Decision:
    changes = [
        *entries,
        {"type": "incident.opened", "code": incident.code, "message": incident.message},
        {"type": "instance.failed"},
    ]
    return _unchanged(standing, changes, status=InstanceStatus.FAILED, incident=incident)


def _rejected(standing: Standing, type: InboxType, body: Json) -> Decision:
    entry = {
        "type": "event.rejected",
        "reason": f"instance is {standing.status.value}",
        "inboxType": type.value,
    }
    if type is InboxType.EVENT:
        entry["eventType"] = body["type"]
    entries = [body["entry"], entry] if type is InboxType.TASK else [entry]
    return _unchanged(standing, entries)


def _unchanged(
    standing: Standing,
    changes: list[dict[str, Json]],
    *,
    status: InstanceStatus | None = None,
    incident: Incident | None = None,
) -> Decision:
    text = None if standing.snapshot is None else dumps(standing.snapshot)
    return Decision(status or standing.status, standing.snapshot, text, changes, (), incident)


def _received(type: InboxType, body: Json) -> dict[str, Json]:
    match type:
        case InboxType.START:
            return {"type": "instance.started"}
        case InboxType.TASK:
            return dict(body["entry"])
        case InboxType.TIMER:
            return {"type": "timer.fired", "key": body["key"]}
        case _:
            return {"type": "event.received", "eventType": body["type"]}


def _event_entry(step: Step, event: Mapping[str, Json]) -> dict[str, Json]:
    if step.outcome == "applied":
        return {"type": "event.received", "eventType": event["type"]}
    return {"type": "event.ignored", "eventType": event["type"], "reason": step.reason}


def _message_of(error: Json) -> str:
    if isinstance(error, Mapping) and "message" in error:
        return str(error["message"])
    return "the machine ended with an error"


__all__ = [
    "NOT_RUN_BY_A_RUNNER",
    "START_TIMER",
    "Decision",
    "Incident",
    "Standing",
    "closing",
    "decide",
    "status_of",
]
