"""Control of instances: pause, resume, step, retry, restart, cancel and compensate, one by one or for all that a filter finds."""

from __future__ import annotations

from api.auth import Permission
from api.cursors import ListName
from api.operations import Answer, Call, Routes, Shape
from api.routes.instances import ACCEPTED, accepted
from api.schemas.answers import BulkAnswer
from api.schemas.base import Body
from api.schemas.requests import (
    BulkBody,
    BulkEraseBody,
    CancelBody,
    EmptyBody,
    InstanceFilterBody,
    ReasonBody,
    RestartBody,
)
from common.canonical import dumps
from common.commands import control
from common.commands.bulk import Bulk, control_all
from common.errors import Invalid
from common.store.listing import InstanceFilter

routes = Routes("control")

CONTROL_WAIT_SECONDS = 2.0


@routes.post(
    "/instances/{instanceId}/pause",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"reason": "month end"},
)
def pause(call: Call, instance_id: str, body: ReasonBody | None = None) -> Answer:
    """Pause an instance.

    Running tasks finish; their results, events and due timers wait; nothing new starts. It overtakes waiting events.
    """
    control.pause_instance(call.tx, call.tenant_id, instance_id, reason=_reason(body), actor=call.actor)
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/resume",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={},
)
def resume(call: Call, instance_id: str, body: ReasonBody | None = None) -> Answer:
    """Resume a paused instance where it stands.

    What waited is taken in its order.
    """
    control.resume_instance(call.tx, call.tenant_id, instance_id, reason=_reason(body), actor=call.actor)
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/step",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={},
)
def step(call: Call, instance_id: str, body: EmptyBody | None = None) -> Answer:  # noqa: ARG001 - nothing is in it
    """Take a paused instance one event further.

    It lets the instance's tasks run and takes the oldest event, result or timer that waits. It stays paused.
    """
    control.step_instance(call.tx, call.tenant_id, instance_id, actor=call.actor)
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/retry",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"reason": "the warehouse is back"},
)
def retry(call: Call, instance_id: str, body: ReasonBody | None = None) -> Answer:
    """Retry a failed instance.

    Runs its failed task again, or takes the event again whose step failed, and resolves its incidents. What waited comes
    after that.
    """
    control.retry_instance(call.tx, call.tenant_id, instance_id, reason=_reason(body), actor=call.actor)
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/restart",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"state": "notify", "reason": "the address was wrong", "context": {"address": "new"}},
)
def restart(call: Call, instance_id: str, body: RestartBody | None = None) -> Answer:
    """Restart an instance from a chosen state.

    It leaves where it stands, exit actions included; open tasks, timers and children are cancelled; it enters the state
    with the context as it is. A failed one goes on from there.
    """
    asked = body or RestartBody()
    control.restart_instance(
        call.tx,
        call.tenant_id,
        instance_id,
        state=asked.state,
        context=asked.context,
        reason=asked.reason,
        actor=call.actor,
        limits=call.limits,
    )
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/cancel",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"reason": "ordered twice"},
)
def cancel(call: Call, instance_id: str, body: CancelBody | None = None) -> Answer:
    """Cancel an instance.

    Refused at once where the instance has finished. It overtakes waiting events; open tasks, timers and children end
    with it. What it has done is undone first where its definition says how, unless `compensate` is false. Answers as with
    `Prefer: wait=2` unless told otherwise, as every command does.
    """
    control.cancel_instance(
        call.tx,
        call.tenant_id,
        instance_id,
        reason=_reason(body),
        actor=call.actor,
        compensate=body is None or body.compensate,
    )
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/compensate",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"reason": "the supplier is bankrupt"},
)
def compensate(call: Call, instance_id: str, body: ReasonBody | None = None) -> Answer:
    """Undo what an instance has done, and end it.

    What is open is taken back, then every finished work that says how it is undone is undone, last first. A failed instance
    ends failed, any other cancelled. Refused where there is nothing to undo.
    """
    control.compensate_instance(call.tx, call.tenant_id, instance_id, reason=_reason(body), actor=call.actor)
    return accepted(call, instance_id)


@routes.post(
    "/instances:bulk",
    permission=Permission.OPERATE,
    answers={200: Shape("what became of one page of them", BulkAnswer)},
    example={
        "verb": "retry",
        "filter": {"definitionKey": "hello-workflow", "status": ["failed"]},
        "dryRun": True,
    },
)
def bulk(call: Call, body: BulkBody) -> Answer:
    """Pause, resume, retry, cancel or compensate every instance that a filter finds.

    A call looks at up to `limit` instances, newest first; go on with `nextCursor` until it is null. With `dryRun`
    nothing is done. Instances are refused one by one, the others are not touched by it.
    """
    refuse_empty(body.filter)
    name = list_name(call, body)
    position = call.services.cursors.read(name, body.cursor)
    done = control_all(
        call.tx,
        call.tenant_id,
        body.verb,
        filter_of(body.filter),
        dry_run=body.dry_run,
        reason=body.reason,
        before=None if position is None else str(position[0]),
        limit=body.limit,
        actor=call.actor,
    )
    return bulk_answer(call, done, name, is_dry_run=body.dry_run)


def refuse_empty(wanted: Body) -> None:
    """Raise `Invalid` for a filter that restricts nothing: one with empty members would find everybody, too."""
    if not wanted.model_dump(exclude_defaults=True):
        members = ", ".join(field.alias or name for name, field in type(wanted).model_fields.items())
        raise Invalid(
            f"filter: expected a value for at least one of {members}, found none", code="filter.empty"
        )


def bulk_answer(call: Call, done: Bulk, name: ListName, *, is_dry_run: bool) -> Answer:
    """What became of a page, and the cursor of the next one."""
    cursor = None
    if done.has_more and done.last is not None:
        cursor = call.services.cursors.write(name, [done.last])
    return Answer(
        {
            "dryRun": is_dry_run,
            "accepted": done.accepted,
            "refused": [{"id": id_, "code": error.code, "detail": str(error)} for id_, error in done.refused],
            "nextCursor": cursor,
        }
    )


def filter_of(asked: InstanceFilterBody) -> InstanceFilter:
    return InstanceFilter(
        statuses=asked.status,
        definition_key=asked.definition_key,
        business_key=asked.business_key,
        state=asked.state,
        labels=list(asked.labels.items()),
        created_after=asked.created_after,
        created_before=asked.created_before,
    )


def list_name(call: Call, body: BulkBody | BulkEraseBody) -> ListName:
    """The cursor holds for the same command with the same filter."""
    asked = body.model_dump(mode="json", include={"verb", "filter", "dry_run"})
    return ListName(call.tenant_id, f"{call.path}?{dumps(asked)}")


def _reason(body: ReasonBody | None) -> str | None:
    return None if body is None else body.reason
