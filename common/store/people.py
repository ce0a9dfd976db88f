"""Tasks of people: locking, assigning and ending what nobody leases, and who had a part in an instance.

A person's decision locks its task, and where four eyes are asked for every such task of the instance, in id order and in
one statement: two that are decided at the same moment meet on the first of them, and the second sees who ended the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from common.canonical import read
from common.db.rows import update_rows
from common.db.tables import history, instances, tasks
from common.ids import InstanceId, LeaseToken, TaskId, TenantId
from common.lifecycle import TaskStatus

_t = tasks.c
_h = history.c
_i = instances.c


@dataclass(frozen=True, slots=True)
class HumanTask:
    """A locked task as who decides it must know it. `input` and `joined_keys` are stored JSON texts.

    Of any type: which types people may decide is for the command to say.
    """

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    status: TaskStatus
    attempt: int
    completion_event: str
    failure_event: str
    retry: str | None
    lease_token: LeaseToken | None
    assignee: str | None
    candidates: Sequence[str] | None
    ended_by: str | None
    finished_at: datetime | None
    parent_task_id: TaskId | None
    gated: bool
    input: str
    options: Mapping[str, Any]

    @property
    def needs_four_eyes(self) -> bool:
        return self.options.get("fourEyes") is True


_TASK = select(
    _t.id, _t.tenant_id, _t.instance_id, _t.key, _t.joined_keys, _t.type, _t.name, _t.status, _t.attempt,
    _t.completion_event, _t.failure_event, _t.retry, _t.lease_token, _t.assignee, _t.candidates, _t.ended_by,
    _t.finished_at, _t.parent_task_id, _t.gated, _t.input, _t.options,
)  # fmt: skip
_ONE = _TASK.where(_t.tenant_id == bindparam("tenant_id"), _t.id == bindparam("id"))
_LOCK_ONE = _ONE.with_for_update()
_LOCK_ALL = (
    _TASK.where(
        _t.tenant_id == bindparam("tenant_id"),
        _t.instance_id == bindparam("instance_id"),
        _t.type == "HUMAN",
    )
    .order_by(_t.id)
    .with_for_update()
)


def find(tx: Connection, tenant_id: TenantId, task_id: str) -> HumanTask | None:
    """Read a task without a lock."""
    row = tx.execute(_ONE, {"tenant_id": tenant_id, "id": task_id}).one_or_none()
    return None if row is None else _task(row)


def lock(tx: Connection, tenant_id: TenantId, task_id: str) -> HumanTask | None:
    """Lock one task. The caller waits for no other task afterwards."""
    row = tx.execute(_LOCK_ONE, {"tenant_id": tenant_id, "id": task_id}).one_or_none()
    return None if row is None else _task(row)


def lock_all_of(tx: Connection, tenant_id: TenantId, instance_id: InstanceId) -> list[HumanTask]:
    """Lock every HUMAN task that an instance ever had, in id order: who decided the others cannot change any more."""
    rows = tx.execute(_LOCK_ALL, {"tenant_id": tenant_id, "instance_id": instance_id})
    return [_task(row) for row in rows]


def _task(row: Any) -> HumanTask:
    facts = list(row)
    facts[7] = TaskStatus(facts[7])
    facts[-1] = read(facts[-1]) if facts[-1] is not None else {}
    return HumanTask(*facts)


_OPEN_NAMED = (
    select(_t.id)
    .where(
        _t.tenant_id == bindparam("tenant_id"),
        _t.instance_id == bindparam("instance_id"),
        _t.type == "HUMAN",
        _t.name == bindparam("name"),
        _t.status == TaskStatus.RUNNING,
    )
    .order_by(_t.id.desc())
    .limit(1)
)


def find_open(tx: Connection, tenant_id: TenantId, instance_id: str, name: str) -> TaskId | None:
    """The newest open HUMAN task of an instance with this name."""
    given = {"tenant_id": tenant_id, "instance_id": instance_id, "name": name}
    found: TaskId | None = tx.execute(_OPEN_NAMED, given).scalar_one_or_none()
    return found


_ASSIGN = (
    update(tasks)
    .where(_t.id == bindparam("b_id"), _t.status == TaskStatus.RUNNING)
    .values(assignee=bindparam("b_assignee"))
)


def assign(tx: Connection, task_id: TaskId, assignee: str | None) -> None:
    """Make a locked open task somebody's work, or nobody's."""
    tx.execute(_ASSIGN, {"b_id": task_id, "b_assignee": assignee})


def escalate(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Give locked open tasks to others: rows {id, assignee, candidates?}, all with the same members."""
    update_rows(tx, tasks, rows, match=(("id", "id"),), only_if="tasks.status = 'running'")


def decide(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End locked tasks that nobody leases: rows {id, status, output, error, finished_at, ended_by}."""
    update_rows(
        tx,
        tasks,
        rows,
        match=(("id", "id"),),
        only_if="tasks.status = 'running' AND tasks.lease_token IS NULL",
    )


# A note may stand before the start. The type is the last member of what the orchestrator writes as a row's input, so that no event can pretend to be a start.
_STARTED_BY = (
    select(_h.actor, _h.input)
    .where(
        _h.tenant_id == bindparam("tenant_id"),
        _h.instance_id == bindparam("instance_id"),
        _h.input.endswith('"type":"start"}', autoescape=True),
    )
    .order_by(_h.sequence)
    .limit(1)
)
_FIRST_ACTOR = select(_h.actor).where(
    _h.tenant_id == bindparam("tenant_id"), _h.instance_id == bindparam("instance_id"), _h.sequence == 1
)
_PARENT = select(_i.parent_id).where(
    _i.tenant_id == bindparam("tenant_id"), _i.id == bindparam("instance_id")
)


def read_starters(tx: Connection, tenant_id: TenantId, instance_id: InstanceId) -> list[str]:
    """Who started an instance, and the instances above it: a child's work was asked for by who started its parents."""
    starters: list[str] = []
    one: InstanceId | None = instance_id
    while one is not None:
        names = {"tenant_id": tenant_id, "instance_id": one}
        started = tx.execute(_STARTED_BY, names).one_or_none()
        if started is not None:
            starters += [started.actor, *_asked_by(started.input)]
        else:  # its body was erased: the first row is as near as one can get
            starters += tx.execute(_FIRST_ACTOR, names).scalars()
        one = tx.execute(_PARENT, names).scalar_one_or_none()
    return starters


def _asked_by(input: str) -> list[str]:
    """Who asked for a later start: its row came from a timer."""
    by = read(input)["body"].get("by")
    return [by] if isinstance(by, str) else []
