"""What the end of a child means for its parent: pure, and a part of `decide`, which takes the step.

A row of type `child` is {key, child: {definitionKey, instanceId, status}, output | error, request?}. `key` is the
obligation that it answers. `status` says how the child stands: completed, cancelled, timed_out, failed (frozen, it may
still go on), or refused (it could not be started). `request` holds what it was asked to do, where it can be asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.decision import Incident, Json

REFUSED = "refused"
COMPLETED = "completed"
FAILED = "failed"
SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class ChildAnswer:
    """What a row of type `child` says, read beside the snapshot of the parent that it is for."""

    event: dict[str, Json]
    entries: list[dict[str, Json]]
    is_failure: bool
    may_go_on: bool


def answer_of(snapshot: Mapping[str, Json], body: Mapping[str, Json]) -> ChildAnswer:
    """The event that a child's end is for the parent, named as its obligation asks, and the entries that tell it."""
    key, child = body["key"], body["child"]
    task = snapshot["tasks"].get(key)
    asked = task or snapshot["children"].get(key) or body.get("request") or {}
    is_failure = child["status"] not in (COMPLETED, SKIPPED)
    event: dict[str, Json] = {
        # Where nothing is open under the key any more, no state sees the event, whatever it is called.
        "type": asked.get("failureEvent" if is_failure else "completionEvent", f"child.{child['status']}"),
    }
    if task is not None:
        event["task"] = {"key": key, "name": task["name"], "type": task["type"]}
    else:
        event["child"] = {"definitionKey": child["definitionKey"], "instanceId": child["instanceId"]}
    if is_failure:
        event["error"] = body["error"]
    else:
        event["output"] = {
            "instanceId": child["instanceId"],
            "output": body["output"],
            "status": child["status"],
        }
    may_go_on = has_stopped(body)
    entries = [entry_of(body)]
    if task is not None and not may_go_on:
        entries.append(_task_entry(body, task["name"], is_failure=is_failure))
    return ChildAnswer(event, entries, is_failure, may_go_on)


def has_stopped(body: Mapping[str, Json]) -> bool:
    """Has the child failed, and may still go on? One that has been undone does not."""
    child = body["child"]
    return bool(child["status"] == FAILED and not child.get("compensated"))


def entry_of(body: Mapping[str, Json]) -> dict[str, Json]:
    """`child.completed`, `child.failed`, `child.cancelled`, `child.timed_out` or `child.refused`."""
    child = body["child"]
    entry = {
        "type": f"child.{child['status']}",
        "key": body["key"],
        "instanceId": child["instanceId"],
        "definitionKey": child["definitionKey"],
    }
    return {**entry, "error": body["error"]} if "error" in body else entry


def _task_entry(body: Mapping[str, Json], name: str, *, is_failure: bool) -> dict[str, Json]:
    entry = {"key": body["key"], "name": name}
    if is_failure:
        return {"type": "task.failed", **entry, "error": body["error"]}
    return {"type": "task.succeeded", **entry}


def incident_of(body: Mapping[str, Json], event_type: str) -> Incident:
    """The incident of a parent that catches the failure of its child nowhere."""
    child, error = body["child"], body["error"]
    return Incident(
        error["code"],
        f'child "{child["definitionKey"]}" is {child["status"]} and no transition takes "{event_type}": {error["message"]}',
        {"error": error, "instanceId": child["instanceId"], "key": body["key"]},
    )


def is_awaited(body: Mapping[str, Json]) -> bool:
    """Is there an obligation that this row answers? A start that was refused may be one that nobody waits for."""
    return body["child"]["status"] != REFUSED or bool(body["request"]["wait"])


def skipped(body: Mapping[str, Json], output: Json) -> dict[str, Json]:
    """The row of a failed child as if it had ended well with `output`: its parent is to go on without it."""
    answer = {name: value for name, value in body.items() if name != "error"}
    return {**answer, "child": {**body["child"], "status": SKIPPED}, "output": output}
