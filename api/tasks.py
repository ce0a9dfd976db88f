"""Tasks as the API shows them: what their rows say, and which circuit breaker they wait for.

A task that waits for one has a `run_at` of minutes ahead, as one that is tried again later has; only the breaker tells why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from api.shapes import task_json, waits_json
from common.ids import TaskId, TenantId
from common.lifecycle import TaskStatus
from common.store import breakers
from common.store.breakers import WaitingTask
from common.store.listing import TaskRecord


def task_shape(
    tx: Connection, tenant_id: TenantId, records: Sequence[TaskRecord], *, with_traces: bool = False
) -> Callable[[TaskRecord], dict[str, Any]]:
    """How each of some tasks is shown; `with_traces` as `task_json` has it. What they wait for is read at once, for all of them."""
    pending = [one.id for one in records if one.status == TaskStatus.PENDING]
    waiting = breakers.find_waiting_among(tx, tenant_id, pending) if pending else []
    waits = waits_by_task(tx, waiting)
    return lambda record: task_json(record, waits.get(record.id), with_traces=with_traces)


def waits_by_task(tx: Connection, waiting: Sequence[WaitingTask]) -> dict[TaskId, dict[str, Any]]:
    """What is told of tasks that wait for circuit breakers, by their ids."""
    found = {one.key: one for one in breakers.read(tx, {task.key for task in waiting})} if waiting else {}
    return {task.task_id: waits_json(task, found.get(task.key)) for task in waiting}
