"""Tasks that an instance took back because it undoes what it has done: it is told how each has ended.

One that was cancelled by it never answers, one that had ended already has its answer in the inbox, or had it taken before. The
instance waits for each, so each gets exactly one row. Asked when the tasks are cancelled under their locks: from
then on none of them ends any more, and whoever ended one before has committed its inbox row with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.db.tables import InboxType
from common.ids import InstanceId, TenantId
from common.lifecycle import TaskStatus
from common.store import inbox, instances, tasks
from common.store.instances import LockedInstance
from common.store.tasks import AnsweringTask


@dataclass
class TakenBack:
    """Obligations of tasks that were taken back in a batch, by instance and key."""

    _keys: dict[tuple[str, str], TenantId] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(instance, key) of each, in order."""
        return sorted(self._keys)

    def add(self, held: LockedInstance, key: str) -> None:
        self._keys[held.id, key] = held.tenant_id

    def merge(self, other: TakenBack) -> None:
        self._keys.update(other._keys)

    def answers(
        self, tx: Connection, rows: Sequence[Mapping[str, Any]], *, consumed: Sequence[int], now: datetime
    ) -> list[dict[str, Any]]:
        """Inbox rows for those that nothing else answers. `rows` are about to be put, `consumed` about to go."""
        ids = sorted({instance_id for instance_id, _ in self._keys})
        # Children before the inbox: one that is not seen as ended tells it later, one that is has told it already.
        living = instances.read_living_children(tx, ids)
        found: dict[tuple[str, str], AnsweringTask] = {
            (task.instance_id, key): task for task in tasks.read_answering(tx, ids) for key in task.keys
        }
        gone = set(consumed)
        waiting = [(one, body) for row_id, one, body in inbox.read_answers(tx, ids) if row_id not in gone]
        waiting += [(row["instance_id"], row["body"]) for row in rows if row["type"] in inbox.ANSWERS]
        answered = {(instance_id, read(body)["key"]) for instance_id, body in waiting}
        return [
            inbox.new_row(
                tenant_id,
                InstanceId(one),
                InboxType.TASK,
                answer_of(key, found.get((one, key))),
                "engine",
                now,
            )
            for (one, key), tenant_id in sorted(self._keys.items())
            if (one, key) not in answered and (one, key) not in living
        ]


class Answered(Protocol):
    """A row of work, as far as its end tells what was done."""

    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> TaskStatus: ...
    @property
    def attempt(self) -> int: ...
    @property
    def output(self) -> str | None: ...
    @property
    def error_text(self) -> str | None: ...


def answer_of(key: str, task: Answered | None) -> str:
    """The body of the row that tells how a task ended that was taken back: {entry, event, key}, `event` null where
    nothing of it was done. Who takes it names the event as the obligation wants it."""
    entry: dict[str, Any] = {"type": "task.taken_back", "key": key}
    event: dict[str, Any] | None = None
    if task is not None:
        entry |= {"name": task.name, "taskId": task.id, "status": task.status.value}
        about = {"attempt": task.attempt, "id": task.id, "name": task.name, "type": task.type}
        if task.status is TaskStatus.SUCCEEDED:
            event = {"type": "succeeded", "output": read(task.output or "null"), "task": about}
        elif task.attempt or task.type in _BEGINS_AT_ONCE:
            error = read(task.error_text) if task.error_text else _CANCELLED
            event = {"type": "failed", "error": error, "task": about}
    return dumps({"entry": entry, "event": event, "key": key})


_BEGINS_AT_ONCE = ("MAP", "WORKFLOW")  # others do their work, from the moment they are asked for
_CANCELLED = {"code": "task.cancelled", "message": "it was taken back before it ended", "data": None}
