"""What is over: leases that ran out, and tasks that should have started or ended by now.

The next such instants, for who sleeps until then, and the tasks themselves, locked. Sweeps skip locked rows instead of
waiting: whoever holds one is ending it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    func,
    not_,
    select,
)

from common.db.rows import update_rows
from common.db.tables import tasks
from common.db.types import UtcDateTime
from common.ids import InstanceId, LeaseToken, TaskId, TenantId
from common.lifecycle import TaskStatus
from common.store.tasks import ASKED

_t = tasks.c
_BY_ID = (("id", "id"),)

# -- expiring ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExpiredTask:
    """A running task whose lease ran out."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    attempt: int
    lost: int
    failure_event: str
    options: str | None
    token: LeaseToken
    start_within_ms: int | None
    parent_task_id: TaskId | None


_EXPIRED = (
    select(
        _t.id, _t.tenant_id, _t.instance_id, _t.key, _t.joined_keys, ASKED, _t.name, _t.attempt, _t.lost,
        _t.failure_event, _t.options, _t.lease_token, _t.start_within_ms, _t.parent_task_id,
    )
    .where(_t.status == TaskStatus.RUNNING, _t.lease_token.is_not(None), _t.lease_expires_at < bindparam("now", type_=UtcDateTime()))
    .order_by(_t.lease_expires_at)
    .limit(500)
    .with_for_update(skip_locked=True)
)  # fmt: skip
NEXT_EXPIRY = select(func.min(_t.lease_expires_at)).where(
    _t.status == TaskStatus.RUNNING, _t.lease_token.is_not(None)
)


def lock_expired(tx: Connection, *, now: datetime) -> list[ExpiredTask]:
    """Lock up to 500 running tasks whose lease is over, longest over first; rows in flight are skipped."""
    rows: Iterable[Any] = tx.execute(_EXPIRED, {"now": now})
    return [ExpiredTask(*row) for row in rows]


# -- out of time ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OverdueTask:
    """An open task whose time is over. `token` is of the attempt that runs, where one does."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    attempt: int
    failure_event: str
    token: LeaseToken | None
    parent_task_id: TaskId | None


_OVERDUE = select(
    _t.id, _t.tenant_id, _t.instance_id, _t.key, _t.joined_keys, ASKED, _t.name, _t.attempt, _t.failure_event,
    _t.lease_token, _t.parent_task_id,
).limit(500).with_for_update(skip_locked=True)  # fmt: skip
_WAITS = and_(_t.status == TaskStatus.PENDING, _t.start_by_at.is_not(None), not_(_t.held))
_LASTS = and_(_t.finished_at.is_(None), _t.finish_by_at.is_not(None))
_UNSTARTED = _OVERDUE.where(_WAITS, _t.start_by_at <= bindparam("now", type_=UtcDateTime())).order_by(
    _t.start_by_at
)
_UNFINISHED = _OVERDUE.where(
    _LASTS, (_t.type == "MAP") == bindparam("maps"), _t.finish_by_at <= bindparam("now", type_=UtcDateTime())
).order_by(_t.finish_by_at)
NEXT_UNSTARTED = select(func.min(_t.start_by_at)).where(_WAITS)
NEXT_UNFINISHED = select(func.min(_t.finish_by_at)).where(_LASTS)


def lock_unstarted(tx: Connection, *, now: datetime) -> list[OverdueTask]:
    """Lock up to 500 tasks that waited too long for a worker, longest over first; rows in flight are skipped."""
    rows: Iterable[Any] = tx.execute(_UNSTARTED, {"now": now})
    return [OverdueTask(*row) for row in rows]


def lock_unfinished(tx: Connection, *, now: datetime, maps: bool) -> list[OverdueTask]:
    """Lock up to 500 open MAPs, or other open tasks, that should have ended by now, longest over first; rows in flight are skipped."""
    rows: Iterable[Any] = tx.execute(_UNFINISHED, {"now": now, "maps": maps})
    return [OverdueTask(*row) for row in rows]


def time_out(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Fail locked open tasks: rows {id, status, error, finished_at}. A running handler learns it by its next beat."""
    update_rows(
        tx,
        tasks,
        rows,
        match=_BY_ID,
        only_if="tasks.status IN ('pending', 'running')",
        cleared=("lease_owner", "lease_token", "lease_expires_at", "start_by_at"),
    )
