"""What a retry of an instance in memory says of its incidents, as `common.commands.incidents.ways_out` does of stored ones."""

from __future__ import annotations

from typing import Any

from common.canonical import read
from common.commands.incidents import Way, _failed_on
from common.db.tables import InboxType
from signalbox.testing.memory import Incident, Memory, Task

Json = Any


def ways_out(memory: Memory, instance_id: str, *, way: Way, output: Json = None) -> list[dict[str, Json]]:
    """What a `retry` row says of each open incident of an instance."""
    return [_way_out(memory, one, way, output) for one in memory.open_incidents(instance_id)]


def _way_out(memory: Memory, one: Incident, way: Way, output: Json) -> dict[str, Json]:
    chosen: dict[str, Json] = {"code": one.code, "id": one.id, "way": way}
    key = one.detail.get("key")
    tasks = memory.tasks.values()
    task = next((task for task in tasks if task.id == one.task_id), None)
    if task is not None and key is not None:
        chosen["task"] = {"id": task.id, "key": key}
        if way == "skip":
            chosen["answer"] = _skipped(task, key, output)
        return chosen
    rows = memory.history
    row = next(
        row for row in rows if (row["instance_id"], row["sequence"]) == (one.instance_id, one.sequence)
    )
    recorded = read(row["input"])
    failed_on = _failed_on(recorded["type"], recorded["body"])
    if failed_on is None:
        return chosen
    if failed_on["type"] == InboxType.CHILD.value and way == "skip":
        chosen["output"] = output
    return {**chosen, "row": failed_on}


def _skipped(task: Task, key: str, output: Json) -> dict[str, Json]:
    """The event and entry that stand for a task which is skipped."""
    named = {"attempt": task.attempt, "id": task.id, "name": task.name, "type": task.asked_as or task.type}
    return {
        "entry": {"key": key, "name": task.name, "taskId": task.id, "type": "task.skipped"},
        "event": {"output": output, "task": named, "type": task.completion_event},
    }
