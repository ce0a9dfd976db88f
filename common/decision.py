"""What a decision is made from and what it says: the vocabulary of `decide`, pure like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import statechart
from common.canonical import dumps
from common.db.tables import InboxType
from common.ids import TaskId
from common.lifecycle import InstanceStatus
from statechart.effects import CancelTimer, Effect
from statechart.record import record

NOT_RUN_BY_A_RUNNER = statechart.effects.NOT_RUN_BY_A_RUNNER
"""Task types that wait without a runner: an instance that has only these open is `waiting`."""

START_TIMER = "start"
"""The key of the timer that starts a pending instance at the time it was asked for."""

TIMEOUT_TIMER = "timeout"
"""The key of the timer that ends an instance whose definition limits its time."""

UNLIMITED = 2**62

Json = Any


@record
class Standing:
    """Where an instance stands: its status and snapshot (None before its start), and the facts fixed at its start.

    `sequence` counts the rows of its history, the one to be decided included. `max_ai_events` is how many events AI tasks
    may emit in its life, by the setting. `is_full`: it has failed, and others have all the places that its definition gives.
    """

    status: InstanceStatus
    snapshot: dict[str, Json] | None
    facts: Mapping[str, Json]
    sequence: int
    max_ai_events: int = UNLIMITED
    is_full: bool = False


@record
class Incident:
    """Why an instance cannot go on by itself."""

    code: str
    message: str
    detail: dict[str, Json]
    task_id: str | None = None


@record
class Erasure:
    """The bodies of an instance are to be taken away, and those of its children too where `with_children` says so.

    `cancels`: a child that has not ended is cancelled first.
    """

    reason: str | None
    with_children: bool
    cancels: bool


@record
class Decision:
    """The consequence of one inbox row. `snapshot_text` is canonical; None as long as the instance has not started."""

    status: InstanceStatus
    snapshot: dict[str, Json] | None
    snapshot_text: str | None
    changes: list[dict[str, Json]]
    effects: tuple[Effect, ...] = ()
    incident: Incident | None = None
    resolution: str | None = None  # how this closes the incidents that were open
    retried_tasks: tuple[TaskId, ...] = ()  # ids of failed tasks to run again
    skipped_tasks: tuple[
        str, ...
    ] = ()  # ids of failed tasks that are given up, their obligation answered by hand
    erasure: Erasure | None = None

    def written(self, snapshot_text: str) -> Decision:
        """The same with the text of its snapshot. Each step asks for it, and `dataclasses.replace` takes as long as ten of these."""
        return Decision(
            self.status, self.snapshot, snapshot_text, self.changes, self.effects, self.incident, self.resolution,
            self.retried_tasks, self.skipped_tasks, self.erasure,
        )  # fmt: skip


def status_of(snapshot: Mapping[str, Json]) -> InstanceStatus:
    """The status that a snapshot means: a function of its machine status and its open obligations."""
    match snapshot["status"]:
        case "active":
            pass
        case "done":
            return InstanceStatus.COMPLETED
        case "error":
            return InstanceStatus.FAILED
        case "stopped":
            return InstanceStatus.CANCELLED
        case statechart.COMPENSATING:
            return InstanceStatus.COMPENSATING
    # A MAP says itself whether a runner executes its items.
    for task in snapshot["tasks"].values():
        if task["type"] not in NOT_RUN_BY_A_RUNNER or "isExecuted" in task:
            return InstanceStatus.RUNNING
    return InstanceStatus.WAITING


def closing(snapshot: Mapping[str, Json]) -> tuple[Effect, ...]:
    """The effects that end every open obligation of a snapshot."""
    return (
        *(statechart.effects.CancelTask(key) for key in snapshot.get("tasks", {})),
        *(CancelTimer(key) for key in snapshot.get("timers", {})),
        *(
            statechart.effects.CancelChild(key)
            for kind in ("tasks", "children")
            for key, asked in snapshot.get(kind, {}).items()
            if asked.get("cancelWithParent", kind == "children")
        ),
    )


def unchanged(
    standing: Standing,
    changes: list[dict[str, Json]],
    *,
    status: InstanceStatus | None = None,
    incident: Incident | None = None,
) -> Decision:
    text = None if standing.snapshot is None else dumps(standing.snapshot)
    return Decision(status or standing.status, standing.snapshot, text, changes, (), incident)


def fails(standing: Standing, incident: Incident, entries: list[dict[str, Json]]) -> Decision:
    changes = [
        *entries,
        {"type": "incident.opened", "code": incident.code, "message": incident.message},
        {"type": "instance.failed"},
    ]
    return unchanged(standing, changes, status=InstanceStatus.FAILED, incident=incident)


def told(body: Json) -> list[dict[str, Json]]:
    """What the row of an ended task tells: how it ended and, where a person ended it, who was shown what."""
    entries = [body["entry"]]
    if "decided" in body:
        entries.append({"type": "human.decided", **body["decided"]})
    return entries


def rejected(standing: Standing, type: InboxType, body: Json, *, reason: str | None = None) -> Decision:
    entry = {
        "type": "event.rejected",
        "reason": reason or f"instance is {standing.status.value}",
        "inboxType": type.value,
    }
    if type is InboxType.EVENT:
        entry["eventType"] = body["type"]
    if type is InboxType.CHILD:
        entry |= {"instanceId": body["child"]["instanceId"], "childStatus": body["child"]["status"]}
    entries = [*told(body), entry] if type is InboxType.TASK else [entry]
    return unchanged(standing, entries)
