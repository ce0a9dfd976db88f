"""What one inbox row means for one instance: pure, so that the orchestrator and the verifier decide alike.

`decide` takes where an instance stands and one accepted row, and answers with where it stands afterwards, the effects
to make true, and the dotted entries for its history. It reads nothing else: no clock, no database, no settings but the
limit that it is given. Replaying the recorded inputs of a history through it gives the stored snapshot (promise 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import statechart
from common import decide_ai, decide_children, decide_compensation, decide_control
from common.canonical import dumps, is_deeper, size, storable
from common.db.tables import InboxType
from common.decision import (
    NOT_RUN_BY_A_RUNNER,
    START_TIMER,
    TIMEOUT_TIMER,
    Decision,
    Incident,
    Json,
    Standing,
    closing,
    fails,
    rejected,
    status_of,
    told,
    unchanged,
)
from common.errors import SignalboxError
from common.lifecycle import ACTIVE, FINAL, InstanceStatus, instance_can
from statechart import CancelChild, Chart, Env, Step, StepFailed
from statechart.draft import MAX_DEPTH

VERBS: Mapping[InboxType, str] = {
    InboxType.CANCEL: "cancel",
    InboxType.PAUSE: "pause",
    InboxType.RESUME: "resume",
    InboxType.RETRY: "retry",
    InboxType.RESTART: "restart",
    InboxType.STEP: "step",
    InboxType.TIMEOUT: "time_out",
}
"""Control commands by the verb of the lifecycle that they say. One that lost a race is rejected on record."""


THAWING = (InboxType.RETRY, InboxType.RESTART)
"""Commands by which a failed instance goes on, and takes a place again where its definition says how many run at once."""
NO_PLACE = (
    "concurrency.full: others have all the places that its definition gives; retry it when one has ended"
)


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

    `chart` None, for a definition that does not compile any more: notes, late results, incidents and what
    `decide_control` can do without one.
    `body` by type: record {entry} · start {input, context, by?} · event: the event itself · task {key, event, entry, decided?} · task.late {entry} ·
    timer {key, event} · child: see `decide_children` · undelivered: the event · note {note} · cancel {reason, compensate?, verb?, error?, tells?} · pause, resume {reason} · step {} ·
    timeout {milliseconds} · erase {reason, children, cancel} · restart {state, context, reason} · retry {incidents, reason}, see `decide_control.retry` ·
    incident {code, message, detail}: the engine gives up on the instance.
    """
    if type is InboxType.NOTE:
        return unchanged(standing, [{"type": "note", **body}])
    if type is InboxType.RECORD:
        return unchanged(standing, [body["entry"]])
    if type is InboxType.TASK_LATE:
        return unchanged(standing, [{"type": "task.late", **body["entry"]}])
    if type is InboxType.ERASE and standing.status in FINAL:
        return decide_control.erase(standing, body)
    if type is InboxType.ERASE or standing.status in FINAL:
        return rejected(standing, type, body)
    if type is InboxType.INCIDENT:
        return fails(standing, Incident(body["code"], body["message"], body.get("detail", {})), [])
    verb = verb_of(type, body)
    if verb is not None and not instance_can(verb, standing.status):
        return rejected(standing, type, body)
    if standing.is_full and type in THAWING and not _goes_on_undoing(standing, type):
        return rejected(standing, type, body, reason=NO_PLACE)
    try:
        decided = (
            _commanded(chart, standing, type, body, env) if verb else _taken(chart, standing, type, body, env)
        )
        return _bounded(standing, decided, max_context_bytes)
    except StepFailed as error:
        return fails(standing, incident_of(error), _received(type, body, standing.facts))


def verb_of(type: InboxType, body: Json) -> str | None:
    """The verb of the lifecycle that a control command says, None for any other row. A cancel may be said as `compensate`."""
    if type is InboxType.CANCEL and body.get("verb") == "compensate":
        return "compensate"
    return VERBS.get(type)


def _goes_on_undoing(standing: Standing, type: InboxType) -> bool:
    """Is it a retry of what undoes? That waits for nobody's place."""
    return type is InboxType.RETRY and decide_compensation.is_running(standing.snapshot)


def _commanded(chart: Chart | None, standing: Standing, type: InboxType, body: Json, env: Env) -> Decision:
    match type:
        case InboxType.CANCEL:
            return decide_control.cancel(chart, standing, body, env)
        case InboxType.TIMEOUT:
            return decide_control.time_out(chart, standing, body, env)
        case InboxType.PAUSE:
            return decide_control.pause(standing, body)
        case InboxType.RESUME:
            return decide_control.resume(standing, body)
        case InboxType.STEP:
            return unchanged(standing, [{"type": "instance.stepped"}])
        case InboxType.RESTART:
            return decide_control.restart(_needed(chart, type), standing, body, env)
        case _:
            return decide_control.retry(
                chart, standing, body, env, lambda thawed, type, body: _again(chart, thawed, type, body, env)
            )


def _again(chart: Chart | None, standing: Standing, type: InboxType, body: Json, env: Env) -> Decision:
    """What an instance that a retry has thawed makes of the row that it failed on."""
    try:
        if type is InboxType.RESTART:
            return decide_control.restart(_needed(chart, type), standing, body, env)
        if type is InboxType.CHILD:
            return _child(_needed(chart, type), standing, body, env, asks_again=True)
        return _taken(chart, standing, type, body, env)
    except StepFailed as error:
        return fails(standing, incident_of(error), _received(type, body, standing.facts))


def _taken(chart: Chart | None, standing: Standing, type: InboxType, body: Json, env: Env) -> Decision:
    """Step what is not a command. A paused instance that takes one row by hand stays paused."""
    needed = _needed(chart, type)
    if decide_compensation.is_running(standing.snapshot):
        return decide_compensation.take(needed, standing, type, body, env)
    decided = _DECIDERS[type](needed, standing, body, env)
    if needed.max_steps is not None and standing.sequence > needed.max_steps and decided.status in ACTIVE:
        message = (
            f'it has taken {needed.max_steps:,} steps, which is all that "maxSteps" of its definition allows'
        )
        detail = {"limit": "maxSteps", "allowed": needed.max_steps}
        return fails(
            standing, Incident("limit.steps", message, detail), _received(type, body, standing.facts)
        )
    if standing.status is InstanceStatus.PAUSED and decided.status in ACTIVE:
        return replace(decided, status=InstanceStatus.PAUSED)
    return decided


def _needed(chart: Chart | None, type: InboxType) -> Chart:
    if chart is None:
        raise StepFailed(
            "definition.unusable",
            f'the definition does not compile; a row of type "{type.value}" needs it',
            path="",
        )
    return chart


def incident_of(error: StepFailed) -> Incident:
    """The incident of a step that the statechart refused."""
    return Incident(error.code, storable(str(error)), {"path": error.path, "data": error.data})


def _start(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is not None:
        return unchanged(standing, [{"type": "event.ignored", "reason": "already_started"}])
    step = statechart.start(
        chart, body.get("input"), env, context=body.get("context"), instance=standing.facts
    )
    return _stepped(step, [_started(body, standing.facts)])


def _started(body: Json, facts: Mapping[str, Json]) -> dict[str, Json]:
    """Who asked for a later start stands in its body: the row came from the timer."""
    entry = {"type": "instance.started"}
    if body.get("by") is not None:
        entry["by"] = body["by"]
    if facts.get("parentId") is not None:
        entry["parentId"] = facts["parentId"]
    return entry


def _event(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is None:
        return unchanged(
            standing, [{"type": "event.ignored", "eventType": body["type"], "reason": "not_started"}]
        )
    step = statechart.step(chart, standing.snapshot, body, env)
    return _stepped(step, [_event_entry(step, body)])


def _task(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is None:
        return unchanged(standing, [{"type": "event.ignored", "reason": "not_started"}])
    entry = body["entry"]
    event = _as_asked(standing.snapshot, body["key"], body["event"], entry["type"])
    ruled = decide_ai.rule_on(chart, standing.snapshot, body, max_events=standing.max_ai_events)
    if ruled is not None:
        event = {**event, "output": ruled.output}
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
        return decide_compensation.after_failure(
            chart, standing, env, incident, told(body), (body["key"], event)
        )
    ruling = [] if ruled is None else [ruled.entry]
    decided = _stepped(step, [*told(body), *ruling, _event_entry(step, event)])
    if ruled is not None and ruled.event is not None:
        return _emitted(chart, decided, ruled.event, env)
    asked = standing.snapshot["tasks"].get(body["key"], {})
    if asked.get("cancelWithParent") and body["key"] not in step.snapshot["tasks"]:
        # A WORKFLOW that was answered by anything but its child, such as the end of its time: nobody waits for the child.
        cancelled = {"type": "child.cancelled", "key": body["key"], "instanceId": asked["instanceId"]}
        effects = (*decided.effects, CancelChild(body["key"]))
        return replace(decided, changes=[*decided.changes, cancelled], effects=effects)
    return decided


def _emitted(chart: Chart, decided: Decision, event: dict[str, Json], env: Env) -> Decision:
    """Take the event of a model in the same step as the end of its task, right after it."""
    snapshot = decided.snapshot
    if snapshot is None or decided.status not in ACTIVE:
        ignored = {"type": "event.ignored", "eventType": event["type"], "reason": "not_active"}
        return replace(decided, changes=[*decided.changes, ignored])
    step = statechart.step(chart, decide_ai.counted(snapshot), event, replace(env, seed=f"{env.seed}:ai"))
    following = _stepped(step, [_event_entry(step, event) | {"source": event["source"]}])
    return replace(
        following,
        changes=[*decided.changes, *following.changes],
        effects=(*decided.effects, *following.effects),
    )


def _as_asked(snapshot: Mapping[str, Json], key: str, event: dict[str, Json], ended: str) -> dict[str, Json]:
    """Name an outcome as the obligation that it answers wants it: askers of the same work may want different names."""
    asked = snapshot["tasks"].get(key)
    if asked is None:
        return event
    return event | {"type": asked["failureEvent" if ended == "task.failed" else "completionEvent"]}


def _child(chart: Chart, standing: Standing, body: Json, env: Env, *, asks_again: bool = False) -> Decision:
    """A child has ended, failed or could not be started. `asks_again` starts it anew where that is caught nowhere."""
    if standing.snapshot is None:
        return unchanged(standing, [{"type": "event.ignored", "reason": "not_started"}])
    answer = decide_children.answer_of(standing.snapshot, body)
    obligation = body["key"] if decide_children.is_awaited(body) else None
    step = statechart.step(chart, standing.snapshot, answer.event, env, obligation=obligation)
    if not answer.is_failure or step.reason != "no_transition":
        return _stepped(step, [*answer.entries, _event_entry(step, answer.event)])
    if answer.may_go_on:  # its own incident is the reason why the parent waits on
        return unchanged(standing, answer.entries)
    if asks_again:
        asked = statechart.ask_again(chart, standing.snapshot, env, body["key"], body["request"])
        return _stepped(asked, [])
    incident = decide_children.incident_of(body, answer.event["type"])
    return decide_compensation.after_failure(
        chart, standing, env, incident, answer.entries, (body["key"], answer.event)
    )


def _timer(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    if standing.snapshot is None:
        return unchanged(standing, [{"type": "event.ignored", "reason": "not_started"}])
    step = statechart.step(chart, standing.snapshot, body["event"], env, obligation=body["key"])
    return _stepped(step, [{"type": "timer.fired", "key": body["key"]}, _event_entry(step, body["event"])])


_DECIDERS = {
    InboxType.START: _start,
    InboxType.EVENT: _event,
    InboxType.UNDELIVERED: _event,
    InboxType.TASK: _task,
    InboxType.CHILD: _child,
    InboxType.TIMER: _timer,
}


def _stepped(step: Step, entries: list[dict[str, Json]]) -> Decision:
    status = status_of(step.snapshot)
    changes = [*entries, *step.changes]
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
        return _instead(standing, decided, Incident("context.unstorable", str(error), {}))
    if is_deeper(decided.snapshot, text, MAX_DEPTH):
        message = f"the snapshot nests deeper than {MAX_DEPTH} levels; assign under shorter paths"
        return _instead(standing, decided, Incident("context.unstorable", message, {}))
    if size(text) > max_context_bytes:
        message = (
            f"the snapshot grew to {size(text)} bytes, at most {max_context_bytes} are allowed "
            '("SIGNALBOX_MAX_CONTEXT_BYTES"); keep large data outside and store a reference'
        )
        detail = {"limit": "max_context_bytes", "allowed": max_context_bytes}
        return _instead(standing, decided, Incident("limit.context", message, detail))
    return decided.written(text)


def _instead(standing: Standing, decided: Decision, incident: Incident) -> Decision:
    """Nothing of a decision that cannot be stored becomes true, but what it said of older incidents."""
    told_first = 2 if [change["type"] for change in decided.changes[1:2]] == ["human.decided"] else 1
    return replace(fails(standing, incident, decided.changes[:told_first]), resolution=decided.resolution)


def _received(type: InboxType, body: Json, facts: Mapping[str, Json]) -> list[dict[str, Json]]:
    match type:
        case InboxType.START:
            return [_started(body, facts)]
        case InboxType.TASK:
            return told(body)
        case InboxType.TIMER:
            return [{"type": "timer.fired", "key": body["key"]}]
        case InboxType.CHILD:
            return [decide_children.entry_of(body)]
        case InboxType.RESTART:
            return [{"type": "instance.restarted", "state": body["state"], "reason": body["reason"]}]
        case _:
            return [{"type": "event.received", "eventType": body["type"]}]


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
    "TIMEOUT_TIMER",
    "Decision",
    "Incident",
    "Standing",
    "closing",
    "decide",
    "status_of",
]
