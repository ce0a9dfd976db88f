"""What a control command means for an instance: pure, and a part of `decide`, which asks the lifecycle first.

Each function takes where the instance stands and the command's body, and answers with the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import statechart
from common import decide_children, decide_compensation
from common.canonical import dumps, storable
from common.db.tables import InboxType
from common.decision import (
    START_TIMER,
    Decision,
    Erasure,
    Incident,
    Json,
    Standing,
    closing,
    fails,
    status_of,
    unchanged,
)
from common.lifecycle import InstanceStatus
from statechart import Chart, Env, StepFailed
from statechart.compensation import Ends, is_there_to_undo
from statechart.effects import CancelTimer

Again = Callable[[Standing, InboxType, Json], Decision]


def pause(standing: Standing, body: Json) -> Decision:
    """Running tasks finish and their results wait; nothing new starts, no event and no timer is taken."""
    change = {"type": "instance.paused", "reason": body.get("reason")}
    return unchanged(standing, [change], status=InstanceStatus.PAUSED)


def resume(standing: Standing, body: Json) -> Decision:
    """Go on at the same point: what waited is taken in its order."""
    change = {"type": "instance.resumed", "reason": body.get("reason")}
    return unchanged(standing, [change], status=_thawed(standing))


def _thawed(standing: Standing) -> InstanceStatus:
    return InstanceStatus.PENDING if standing.snapshot is None else status_of(standing.snapshot)


# -- going on after a failure --------------------------------------------------------------------------------------


def retry(chart: Chart | None, standing: Standing, body: Json, env: Env, again: Again) -> Decision:
    """Thaw a failed instance where it stands, by the way out that was chosen for each of its incidents.

    `body` is {reason, incidents: [{id, code, way, ...}]}. Way "retry" with `task` {id, key} runs the failed task again;
    with `row` {type, body} it takes the row again on which the step failed; with neither, what waits is simply taken
    up. Way "skip" answers the task with `answer` {event, entry} instead, a child with `output`, or leaves the row out and
    closes what it would have answered. All in one step, so that nothing that waits can come in between. An instance that
    nothing would wake after that fails again, with an incident that says so. Raises `StepFailed`.
    """
    thawed = replace(standing, status=_thawed(standing))
    decided = unchanged(thawed, [{"type": "instance.retried", "reason": body.get("reason")}])
    if decided.status is InstanceStatus.FAILED:
        return _refused(standing, "the machine ended with an error; restart it from a state")
    for chosen in body["incidents"]:
        decided = _take_way_out(chart, decided, standing, chosen, env, again)
        if decided.status is InstanceStatus.FAILED:
            break
    ways = {chosen["way"] for chosen in body["incidents"]}
    if ways == {"skip"} and chart is not None and _is_stuck(chart, decided):
        stuck = fails(standing, _STUCK, list(decided.changes))
        decided = replace(decided, status=stuck.status, changes=stuck.changes, incident=stuck.incident)
    return replace(decided, resolution="skipped" if ways == {"skip"} else "retried")


_STUCK = Incident(
    "instance.stuck",
    "nothing will wake it: it waits for no task, timer or child and takes no event; restart it from a state, or cancel it",
    {},
)


def _is_stuck(chart: Chart, decided: Decision) -> bool:
    snapshot = decided.snapshot
    if snapshot is None or snapshot["status"] != "active":
        return False
    waits = snapshot["tasks"] or snapshot["timers"] or snapshot["children"]
    return not waits and not statechart.accepts(chart, snapshot)


def _take_way_out(
    chart: Chart | None, before: Decision, frozen: Standing, chosen: Json, env: Env, again: Again
) -> Decision:
    way, task, row = chosen["way"], chosen.get("task"), chosen.get("row")
    resolved = {"type": "incident.resolved", "code": chosen["code"], "incidentId": chosen["id"], "way": way}
    before = replace(before, changes=[*before.changes, resolved])
    standing = replace(frozen, status=before.status, snapshot=before.snapshot)
    if task is not None:
        is_open = before.snapshot is not None and task["key"] in before.snapshot["tasks"]
        if not is_open:
            return before
        if way == "retry":
            return replace(before, retried_tasks=(*before.retried_tasks, task["id"]))
        answered = _after(before, again(standing, InboxType.TASK, {**chosen["answer"], "key": task["key"]}))
        return replace(answered, skipped_tasks=(*before.skipped_tasks, task["id"]))
    if decide_compensation.is_running(before.snapshot):
        return _after(before, decide_compensation.retry_unusable(chart, standing, way, env))
    if row is None:
        return before
    if row["type"] == InboxType.CHILD.value and way == "skip" and "error" in row["body"]:
        ended = decide_children.skipped(row["body"], chosen["output"])
        return _after(before, again(standing, InboxType.CHILD, ended))
    if way == "retry":
        return _after(before, again(standing, InboxType(row["type"]), row["body"]))
    return _leave_out(chart, before, row, env)


def _leave_out(chart: Chart | None, before: Decision, row: Json, env: Env) -> Decision:
    """Nobody waits any more for what a row that is left out would have answered."""
    if chart is None or before.snapshot is None or row["type"] not in _ANSWERS:
        return before
    step = statechart.close(chart, before.snapshot, env, row["body"]["key"])
    return replace(
        before,
        status=status_of(step.snapshot),
        snapshot=step.snapshot,
        snapshot_text=None,
        changes=[*before.changes, *step.changes],
        effects=(*before.effects, *step.effects),
    )


_ANSWERS = (InboxType.TASK.value, InboxType.TIMER.value, InboxType.CHILD.value)


def _after(before: Decision, following: Decision) -> Decision:
    """Two decisions in one step."""
    return replace(
        following,
        changes=[*before.changes, *following.changes],
        effects=(*before.effects, *following.effects),
        retried_tasks=before.retried_tasks,
        skipped_tasks=before.skipped_tasks,
    )


def restart(chart: Chart, standing: Standing, body: Json, env: Env) -> Decision:
    """Leave what is active, give up every obligation, and enter `state` (None: the initial one) with the context as it is.

    `context` is laid over it, key by key at the top. Raises `StepFailed` where entering fails.
    """
    if standing.snapshot is None:
        return _refused(standing, "it has not started; retry it")
    step = statechart.restart(chart, standing.snapshot, env, state=body["state"], context=body["context"])
    change = {"type": "instance.restarted", "reason": body["reason"], "state": body["state"]}
    status = status_of(step.snapshot)
    changes = [change, *step.changes]
    if status is InstanceStatus.COMPLETED:
        changes.append({"type": "instance.completed", "output": step.snapshot.get("output")})
    failed = standing.status is InstanceStatus.FAILED
    return Decision(
        status, step.snapshot, None, changes, step.effects, resolution="restarted" if failed else None
    )


def _refused(standing: Standing, reason: str) -> Decision:
    return unchanged(standing, [{"type": "event.rejected", "reason": reason}])


# -- ending --------------------------------------------------------------------------------------------------------


def cancel(chart: Chart | None, standing: Standing, body: Json, env: Env) -> Decision:
    """End it by hand: exit actions run, every open obligation is cancelled; what was done is undone first, where the
    definition says so and `body` does not say otherwise. Said as `compensate`, it has to be undone."""
    if decide_compensation.is_running(standing.snapshot):
        return decide_compensation.cancel(chart, standing, body, env)
    if body.get("verb") == "compensate":
        return _compensate(chart, standing, body, env)
    if body.get("compensate", True):
        if chart is None and (standing.snapshot or {}).get("compensation"):
            return fails(standing, _NOT_UNDONE, [])
        if decide_compensation.is_due(chart, standing.snapshot, "cancelled"):
            return decide_compensation.by_hand(chart, standing, body, env, "cancelled")
    change = {"type": "instance.cancelled", "reason": body.get("reason")}
    return _ended(chart, standing, env, InstanceStatus.CANCELLED, change)


_NOT_UNDONE = Incident(
    "definition.unusable",
    "the definition does not compile, so that nothing can be undone; cancel it without compensation",
    {},
)


def _compensate(chart: Chart | None, standing: Standing, body: Json, env: Env) -> Decision:
    ends: Ends = "failed" if standing.status is InstanceStatus.FAILED else "cancelled"
    snapshot = standing.snapshot
    if chart is None or snapshot is None or snapshot["status"] != "active":
        return _refused(standing, "there is nothing that could be undone")
    if not is_there_to_undo(chart, snapshot):
        return _refused(standing, "nothing is registered that could be undone")
    return decide_compensation.by_hand(chart, standing, body, env, ends)


def time_out(chart: Chart | None, standing: Standing, body: Json, env: Env) -> Decision:
    """End it because its time is over, as the definition's `timeout` says; as `cancel` in everything else."""
    if decide_compensation.is_running(standing.snapshot):
        return decide_compensation.time_out(standing, body)
    if chart is not None and decide_compensation.is_due(chart, standing.snapshot, "timed_out"):
        return decide_compensation.by_time(chart, standing, body, env)
    change = {"type": "instance.timed_out", "milliseconds": body["milliseconds"]}
    return _ended(chart, standing, env, InstanceStatus.TIMED_OUT, change)


def _ended(
    chart: Chart | None, standing: Standing, env: Env, status: InstanceStatus, change: dict[str, Json]
) -> Decision:
    if standing.snapshot is None:  # not started; a start that waits for its time must not come any more
        return Decision(status, None, None, [change], (CancelTimer(START_TIMER),), resolution=status.value)
    if (
        standing.snapshot["status"] != "active"
    ):  # it failed with an error of its own: there is nothing left to stop
        closed = unchanged(standing, [change], status=status)
        return replace(closed, effects=closing(standing.snapshot), resolution=status.value)
    try:
        if chart is None:
            raise StepFailed(
                "definition.unusable", "the definition does not compile, no exit action is run", path=""
            )
        step = statechart.stop(chart, standing.snapshot, env)
        text = dumps(step.snapshot)
        dumps(step.changes)
    except Exception as error:  # noqa: BLE001 - see below: whatever it is, it must not keep an instance from ending
        # A broken exit action must not make an instance impossible to end: it ends without its exit actions.
        failure = {"type": "error.execution", "message": storable(str(error))}
        stopped = standing.snapshot | {"status": "stopped", "tasks": {}, "timers": {}, "children": {}}
        effects = closing(standing.snapshot)
        return Decision(status, stopped, dumps(stopped), [change, failure], effects, resolution=status.value)
    return Decision(
        status, step.snapshot, text, [change, *step.changes], step.effects, resolution=status.value
    )


# -- taking bodies away --------------------------------------------------------------------------------------------


def erase(standing: Standing, body: Json) -> Decision:
    """Take every body away that an ended instance has left: in its snapshot only the structure stays, and in its history
    an entry that tells of it. `body` is {reason, children, cancel}.
    """
    erasure = Erasure(body["reason"], with_children=body["children"], cancels=body["cancel"])
    change = {"type": "instance.erased", "reason": body["reason"]}
    if standing.snapshot is None:  # it never started
        return Decision(standing.status, None, None, [change], erasure=erasure)
    bare = bare_snapshot(standing.snapshot)
    return Decision(standing.status, bare, dumps(bare), [change], erasure=erasure)


def bare_snapshot(snapshot: Mapping[str, Json]) -> dict[str, Json]:
    """A snapshot of an ended instance without anything that came from outside: states, counts and ids are left."""
    blank: dict[str, Json] = {"context": {}, "input": None, "output": None, "error": None}
    instance = {**snapshot["instance"], "businessKey": None}
    kept = {name: snapshot[name] for name in _STRUCTURE if name in snapshot}
    return {**kept, **blank, "instance": instance, "tasks": {}, "timers": {}, "children": {}, "erased": True}


def is_erased(snapshot: Mapping[str, Json] | None) -> bool:
    """Is it what `bare_snapshot` left?"""
    return snapshot is not None and snapshot.get("erased", False)


_STRUCTURE = ("kernel", "status", "configuration", "entered", "history", "counts")
