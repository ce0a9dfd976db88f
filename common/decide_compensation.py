"""How an instance undoes what it has done: pure, and a part of `decide`.

It begins when a task or child has failed for good and is caught nowhere, by a cancel, at the end of the instance's time, or
by hand (`compensate`). From then on only the answers of its own tasks are taken: `take`. It ends failed, cancelled
or timed out, with the whole story in the snapshot's `compensation`. A compensation that fails for good is an incident of
its own; the instance is `failed` there, and goes on undoing when that is retried or skipped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from common import decide_children
from common.canonical import storable
from common.db.tables import InboxType
from common.decision import (
    TIMEOUT_TIMER,
    Decision,
    Incident,
    Json,
    Standing,
    fails,
    told,
    unchanged,
)
from common.lifecycle import InstanceStatus
from statechart import COMPENSATING, Chart, Env, Step, StepFailed, compensating
from statechart.compensation import Ends, Verdict, is_there_to_undo
from statechart.effects import CancelTimer

FAILED_CODE = "compensation.failed"


def is_running(snapshot: Mapping[str, Json] | None) -> bool:
    """Is it being undone, or has stopped in the middle of that?"""
    return snapshot is not None and snapshot["status"] == COMPENSATING


def has_ended(decided: Decision) -> bool:
    """Has it been undone, as far as it will be?"""
    snapshot = decided.snapshot or {}
    return snapshot.get("status") in ("error", "stopped") and "started" in (
        snapshot.get("compensation") or {}
    )


def is_due(
    chart: Chart | None, snapshot: Mapping[str, Json] | None, ends: Ends, *, without: Collection[str] = ()
) -> bool:
    """Does such an end undo what was done, and is there anything? `without`: keys of what has failed."""
    if chart is None or chart.compensation is None or snapshot is None or snapshot["status"] != "active":
        return False
    return ends in chart.compensation.on and is_there_to_undo(chart, snapshot, without=without)


def after_failure(
    chart: Chart,
    standing: Standing,
    env: Env,
    incident: Incident,
    entries: list[dict[str, Json]],
    answered: tuple[str, dict[str, Json]],
) -> Decision:
    """What a failure that is caught nowhere means: what was done is undone, or the instance freezes where it stands."""
    rules = chart.compensation
    is_excepted = rules is not None and incident.code in rules.without
    if is_excepted or not is_due(chart, standing.snapshot, "failed", without=(answered[0],)):
        return fails(standing, incident, entries)
    why = {
        "code": incident.code,
        "message": incident.message,
        "detail": incident.detail,
        "taskId": incident.task_id,
        "error": incident.detail.get("error"),
    }
    return _begun(chart, standing, env, "failed", why, entries, answered=answered)


def by_hand(chart: Chart | None, standing: Standing, body: Json, env: Env, ends: Ends) -> Decision:
    """Undo because somebody wants the instance to end. `body` is that of a cancel."""
    if chart is None:
        raise StepFailed(
            "definition.unusable", "the definition does not compile; nothing can be undone", path=""
        )
    error = body.get("error") or {}
    why: dict[str, Json] = {"reason": body.get("reason")}
    if ends == "failed":
        why |= {
            "code": error.get("code", "instance.compensated"),
            "message": error.get("message", "it was undone by hand"),
            "detail": error.get("data") or {},
            "error": error or None,
        }
    decided = _begun(chart, standing, env, ends, why, [])
    return replace(decided, resolution=decided.resolution or "compensated")


def by_time(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    """Undo because the time of the instance is over."""
    decided = _begun(chart, standing, env, "timed_out", {"milliseconds": body["milliseconds"]}, [])
    return replace(decided, resolution=decided.resolution or "timed_out")


def _begun(
    chart: Chart,
    standing: Standing,
    env: Env,
    ends: Ends,
    why: dict[str, Json],
    entries: list[dict[str, Json]],
    *,
    answered: tuple[str, dict[str, Json]] | None = None,
) -> Decision:
    if standing.snapshot is None:
        raise StepFailed("compensation.nothing", "it has not started; there is nothing to undo", path="")
    step = compensating.compensate(chart, standing.snapshot, env, ends=ends, why=why, answered=answered)
    told_why = {name: why[name] for name in ("code", "message", "reason", "milliseconds") if why.get(name)}
    decided = _stepped(step, [*entries, {"type": "instance.compensating", "ends": ends, **told_why}])
    # What undoing takes is bounded by its tasks; the time of the instance must not cut it off.
    return replace(decided, effects=(*decided.effects, CancelTimer(TIMEOUT_TIMER)))


def take(chart: Chart, standing: Standing, type: InboxType, body: Json, env: Env) -> Decision:
    """What a row means that is no command, while the instance is being undone. Ordinary events mean nothing any more."""
    if type is InboxType.TASK:
        return _task(chart, standing, body, env)
    if type is InboxType.CHILD:
        return _child(chart, standing, body, env)
    if type is InboxType.TIMER:
        entries = [{"type": "timer.fired", "key": body["key"]}, _ignored(body["event"]["type"])]
        return unchanged(standing, entries)
    return unchanged(standing, [_ignored(body.get("type", type.value))])


def _ignored(event_type: str) -> dict[str, Json]:
    return {"type": "event.ignored", "eventType": event_type, "reason": "compensating"}


def _task(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    snapshot, key, entry = standing.snapshot or {}, body["key"], body["entry"]
    awaited = snapshot["compensation"].get("awaited", {})
    if key in awaited:
        event = body["event"]
        if event is not None:
            asked = awaited[key]
            failed = "error" in event
            event = event | {"type": asked["failureEvent" if failed else "completionEvent"]}
        return _stepped(compensating.tell(chart, snapshot, env, key, event), told(body))
    if key not in snapshot["tasks"]:
        event_type = body["event"]["type"] if body["event"] else entry["type"]
        ignored = {"type": "event.ignored", "eventType": event_type, "reason": "obligation_closed"}
        return unchanged(standing, [*told(body), ignored])
    if entry["type"] == "task.failed":
        return _undoing_failed(chart, standing, body, env)
    verdict: Verdict = "skipped" if entry["type"] == "task.skipped" else "done"
    return _stepped(compensating.answer(chart, snapshot, env, key, verdict), told(body))


def _undoing_failed(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    snapshot, key, error = standing.snapshot or {}, body["key"], body["entry"].get("error") or {}
    item = compensating.running_item(snapshot) or {}
    if item.get("onFailure") == "continue":
        return _stepped(compensating.answer(chart, snapshot, env, key, "passed_over", error), told(body))
    failed = {
        "type": FAILED_CODE,
        "id": item.get("id"),
        "undoes": item.get("undoes"),
        "name": item.get("name"),
    }
    return fails(
        standing,
        _incident(item, error, key, body["entry"].get("taskId")),
        [*told(body), {**failed, "error": error}],
    )


def _incident(item: Mapping[str, Json], error: Mapping[str, Json], key: str, task_id: str | None) -> Incident:
    return Incident(
        FAILED_CODE,
        f'"{item.get("name")}", which undoes "{item.get("undoes")}", failed: {error.get("message", "")}',
        {"compensation": item.get("id"), "error": dict(error), "key": key, "undoes": item.get("undoes")},
        task_id=task_id,
    )


def _child(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    snapshot, key = standing.snapshot or {}, body["key"]
    awaited = snapshot["compensation"].get("awaited", {})
    told_of = decide_children.entry_of(body)
    if key not in awaited:
        ignored = {"type": "event.ignored", "eventType": told_of["type"], "reason": "obligation_closed"}
        return unchanged(standing, [told_of, ignored])
    if decide_children.has_stopped(body):  # it has stopped in the middle; that is known when it has ended
        return unchanged(standing, [told_of])
    as_open = {**snapshot, "tasks": {**snapshot["tasks"], key: awaited[key]}}
    answer = decide_children.answer_of(as_open, body)
    # Its own task was cancelled when it was taken back: what has ended is the child.
    return _stepped(compensating.tell(chart, snapshot, env, key, answer.event), [told_of])


# -- going on after a compensation failed, and ending in the middle -----------------------------------------------------


def retry_unusable(chart: Chart | None, standing: Standing, way: str, env: Env) -> Decision:
    """The way out of a compensation that could not even be asked for: trying again does not help, so it is skipped or stays."""
    if chart is None or standing.snapshot is None:
        raise StepFailed(
            "definition.unusable", "the definition does not compile; nothing can be undone", path=""
        )
    if way == "skip":
        return _stepped(compensating.skip_unusable(chart, standing.snapshot, env), [])
    return _stepped(Step(standing.snapshot, (), (), "applied"), [])


def cancel(chart: Chart | None, standing: Standing, body: Json, env: Env) -> Decision:
    """A cancel of an instance that is being undone: that goes on, and it ends cancelled. With `compensate` false it ends
    at once, and what is not undone yet is skipped, on record."""
    if chart is None or standing.snapshot is None:
        raise StepFailed(
            "definition.unusable", "the definition does not compile; nothing can be undone", path=""
        )
    why = {"reason": body.get("reason")}
    if body.get("compensate", True):
        if standing.status is InstanceStatus.FAILED:
            reason = "a compensation has failed: retry or skip it, or cancel without compensation"
            return unchanged(standing, [{"type": "event.rejected", "reason": reason, "inboxType": "cancel"}])
        step = compensating.end_otherwise(chart, standing.snapshot, env, "cancelled", why)
        return _stepped(step, [{"type": "instance.compensating", "ends": "cancelled", **why}])
    step = compensating.end_otherwise(chart, standing.snapshot, env, "cancelled", why)
    return replace(
        _stepped(compensating.stop_compensating(chart, step.snapshot, env), []), resolution="cancelled"
    )


def time_out(standing: Standing, body: Json) -> Decision:
    """The time of the instance is over while it is being undone: too late to matter."""
    return unchanged(standing, [_ignored("timeout") | {"milliseconds": body["milliseconds"]}])


def _stepped(step: Step, entries: list[dict[str, Json]]) -> Decision:
    """Where the instance stands after a step of its compensation."""
    snapshot, changes = step.snapshot, [*entries, *step.changes]
    why = snapshot["compensation"]["started"]
    if snapshot["status"] == COMPENSATING:
        stopped = compensating.stopped_item(snapshot)
        if stopped is None:
            return Decision(InstanceStatus.COMPENSATING, snapshot, None, changes, step.effects)
        problem = stopped["problem"]
        incident = replace(_incident(stopped, problem, stopped["key"], None), code="compensation.unusable")
        return _failed(snapshot, changes, step, incident)
    match why["ends"]:
        case "failed":
            detail = {**why["detail"], "compensated": True}
            incident = Incident(why["code"], storable(why["message"]), detail, why.get("taskId"))
            return _failed(snapshot, changes, step, incident)
        case "timed_out":
            changes.append({"type": "instance.timed_out", "milliseconds": why["milliseconds"]})
            return Decision(InstanceStatus.TIMED_OUT, snapshot, None, changes, step.effects)
        case _:
            changes.append({"type": "instance.cancelled", "reason": why.get("reason")})
            return Decision(InstanceStatus.CANCELLED, snapshot, None, changes, step.effects)


def _failed(
    snapshot: dict[str, Json], changes: list[dict[str, Json]], step: Step, incident: Incident
) -> Decision:
    opened = {"type": "incident.opened", "code": incident.code, "message": incident.message}
    changes += [opened, {"type": "instance.failed"}]
    return Decision(InstanceStatus.FAILED, snapshot, None, changes, step.effects, incident)
