"""Tasks: read them, and what people and remote workers do with them."""

from __future__ import annotations

from typing import Any

from api.auth import Permission, require
from api.operations import Answer, Call, Follow, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.schemas.answers import Task, TaskPage
from api.schemas.queries import TaskQuery
from api.schemas.requests import ClaimBody, CompleteBody, DelegateBody, EmptyBody, FailBody, RejectBody
from api.tasks import task_shape
from common.commands import people
from common.db.now import read_now
from common.db.tables import Role
from common.errors import Conflict, Forbidden
from common.ids import is_id
from common.people import Person, Refusal
from common.store import listing
from common.task_error import TaskError

routes = Routes("tasks")

_NOTHING: dict[str, Any] = {"items": [], "nextCursor": None}


@routes.get("/tasks", answers={200: Shape("newest first", TaskPage)})
def list_tasks(call: Call, query: TaskQuery) -> Answer:
    """List tasks."""
    paging = Paging(call, query)
    if any(one is not None and not is_id(one) for one in (query.instance_id, query.parent_task_id)):
        return Answer(_NOTHING)
    wanted = listing.TaskFilter(
        statuses=query.status,
        type=query.type,
        instance_id=query.instance_id,
        assignee=query.assignee,
        candidate=query.candidate,
        overdue_at=read_now(call.tx) if query.overdue else None,
        parent_task_id=query.parent_task_id,
    )
    page = listing.list_tasks(call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit)
    shape = task_shape(call.tx, call.tenant_id, page.items)
    return Answer(paging.answer(page.items, shape, [page.items[-1].id] if page.has_more else None))


@routes.get("/tasks/{taskId}", answers={200: Shape("the task", Task)})
def get_task(call: Call, task_id: str) -> Answer:
    """Read a task, with every attempt at it."""
    return _answer(call, task_id)


# -- people -------------------------------------------------------------------------------------------------------

_THE_TASK = {200: Shape("the task as it stands now", Task)}


@routes.post(
    "/tasks/{taskId}/claim",
    permission=Permission.OPERATE,
    answers=_THE_TASK,
    example={"assignee": "ada@example.org"},
)
def claim_task(call: Call, task_id: str, body: ClaimBody | None = None) -> Answer:
    """Claim a HUMAN task.

    It becomes the work of who asks, or of `assignee`. What somebody else has is refused, and so is who is not among the
    candidates, where there are any; an admin may name anybody. Refusals stand in the history.
    """
    assignee = body.assignee if body is not None else None
    refusal = people.claim_task(call.tx, call.tenant_id, task_id, by=_person(call), assignee=assignee)
    return _answer(call, task_id, refusal)


@routes.post("/tasks/{taskId}/unclaim", permission=Permission.OPERATE, answers=_THE_TASK, example={})
def unclaim_task(call: Call, task_id: str, body: EmptyBody | None = None) -> Answer:  # noqa: ARG001 - nothing is in it
    """Give a HUMAN task back.

    By who has it, or an admin.
    """
    refusal = people.unclaim_task(call.tx, call.tenant_id, task_id, by=_person(call))
    return _answer(call, task_id, refusal)


@routes.post(
    "/tasks/{taskId}/delegate",
    permission=Permission.OPERATE,
    answers=_THE_TASK,
    example={"assignee": "grace@example.org"},
)
def delegate_task(call: Call, task_id: str, body: DelegateBody) -> Answer:
    """Let somebody else take a HUMAN task over.

    By who has it, by an admin, or by any operator while nobody has it.
    """
    refusal = people.delegate_task(call.tx, call.tenant_id, task_id, by=_person(call), assignee=body.assignee)
    return _answer(call, task_id, refusal)


@routes.post(
    "/tasks/{taskId}/complete",
    permission=Permission.ANSWER,
    answers=_THE_TASK,
    example={"output": {"approved": True}},
)
def complete_task(call: Call, task_id: str, body: CompleteBody | None = None) -> Answer:
    """Complete a task.

    A HUMAN task by an operator: the output must satisfy its `form`; one that is somebody's work is completed by that
    person or an admin. With `leaseToken`, by the worker that leased it. A second completion is refused.
    """
    asked = body or CompleteBody()
    if asked.lease_token is not None:
        require(call.principal, Permission.WORK)
        refusal = people.report_leased(
            call.tx, call.tenant_id, task_id, asked.lease_token, output=asked.output, limits=call.limits
        )
    else:
        require(call.principal, Permission.OPERATE)
        refusal = people.complete_task(
            call.tx,
            call.tenant_id,
            task_id,
            by=_person(call),
            output=asked.output,
            shown=asked.shown_hash,
            limits=call.limits,
        )
    return _answer(call, task_id, refusal)


@routes.post(
    "/tasks/{taskId}/reject",
    permission=Permission.OPERATE,
    answers=_THE_TASK,
    example={"reason": "the invoice is not ours"},
)
def reject_task(call: Call, task_id: str, body: RejectBody) -> Answer:
    """Reject a HUMAN task.

    It fails for good with the code `human.rejected`, the reason as the message and `output` as the data of its error.
    """
    refusal = people.reject_task(
        call.tx,
        call.tenant_id,
        task_id,
        by=_person(call),
        reason=body.reason,
        output=body.output,
        shown=body.shown_hash,
        limits=call.limits,
    )
    return _answer(call, task_id, refusal)


@routes.post(
    "/tasks/{taskId}/fail",
    permission=Permission.ANSWER,
    answers=_THE_TASK,
    example={"error": {"code": "warehouse.closed", "message": "nobody is there until Monday"}},
)
def fail_task(call: Call, task_id: str, body: FailBody) -> Answer:
    """Fail a task.

    With `leaseToken`, by the worker that leased it: whether it is tried again, its policy and `retryable` say. A HUMAN
    task, by an operator: for good, with the error that is given.
    """
    given = body.error
    code, message, data = (
        ("task.failed", given, None) if isinstance(given, str) else (given.code, given.message, given.data)
    )
    if body.lease_token is not None:
        require(call.principal, Permission.WORK)
        error = TaskError(code, message, data, retryable=body.retryable)
        refusal = people.report_leased(
            call.tx, call.tenant_id, task_id, body.lease_token, error=error, limits=call.limits
        )
    else:
        require(call.principal, Permission.OPERATE)
        refusal = people.reject_task(
            call.tx,
            call.tenant_id,
            task_id,
            by=_person(call),
            reason=message or code,
            output=data,
            code=code,
            limits=call.limits,
        )
    return _answer(call, task_id, refusal)


def _person(call: Call) -> Person:
    return Person(call.actor, is_admin=call.principal.role == Role.ADMIN)


def _answer(call: Call, task_id: str, refusal: Refusal | None = None) -> Answer:
    """The task; or, once it is committed that somebody was refused, the refusal."""
    if refusal is not None:
        kind = Conflict if refusal.code in _CONFLICTS else Forbidden
        return Answer(None, refusal=kind(refusal.message, code=refusal.code))
    record = listing.read_task(call.tx, call.tenant_id, task_id)
    if record is None:
        raise missing("task", task_id)
    about = Follow(call.tenant_id, record.instance_id, settled_status=200, unsettled_status=200)
    shape = task_shape(call.tx, call.tenant_id, [record], with_traces=True)
    return Answer(shape(record), follow=about)


_CONFLICTS = ("human.claimed", "task.lease_lost")
