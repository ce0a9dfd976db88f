"""Tasks, to read. Completing tasks over HTTP comes with people and remote workers."""

from __future__ import annotations

from typing import Any

from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.schemas import Task, TaskPage, TaskQuery
from api.shapes import task_json
from common.ids import is_id
from common.store import listing

routes = Routes("tasks")

_NOTHING: dict[str, Any] = {"items": [], "nextCursor": None}


@routes.get("/tasks", answers={200: Shape("newest first", TaskPage)})
def list_tasks(call: Call, query: TaskQuery) -> Answer:
    """List tasks."""
    paging = Paging(call, query)
    if query.instance_id is not None and not is_id(query.instance_id):
        return Answer(_NOTHING)
    wanted = listing.TaskFilter(statuses=query.status, type=query.type, instance_id=query.instance_id)
    page = listing.list_tasks(call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit)
    return Answer(paging.answer(page.items, task_json, [page.items[-1].id] if page.has_more else None))


@routes.get("/tasks/{taskId}", answers={200: Shape("the task", Task)})
def get_task(call: Call, task_id: str) -> Answer:
    """Read a task, with every attempt at it."""
    record = listing.read_task(call.tx, call.tenant_id, task_id)
    if record is None:
        raise missing("task", task_id)
    return Answer(task_json(record, with_traces=True))
