"""Incidents: what stopped instances, and the ways out."""

from __future__ import annotations

from typing import Any

from api.auth import Permission
from api.cursors import ListName
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.routes.control import CONTROL_WAIT_SECONDS, bulk_answer, refuse_empty
from api.routes.instances import ACCEPTED, accepted
from api.schemas.answers import BulkAnswer, IncidentDetail, IncidentPage
from api.schemas.queries import IncidentQuery
from api.schemas.requests import BulkResolveBody, ResolveBody
from api.shapes import incident_json
from api.tasks import task_shape
from common.canonical import dumps
from common.commands.admission import find_shut_out
from common.commands.bulk import resolve_all
from common.commands.incidents import resolve_incident
from common.db.tables import IncidentStatus
from common.ids import is_id
from common.store import listing
from common.store.listing import IncidentFilter, IncidentRecord

routes = Routes("incidents")


@routes.get("/incidents", answers={200: Shape("newest first", IncidentPage)})
def list_incidents(call: Call, query: IncidentQuery) -> Answer:
    """List incidents."""
    paging = Paging(call, query)
    if query.instance_id is not None and not is_id(query.instance_id):
        return Answer({"items": [], "nextCursor": None})
    wanted = IncidentFilter(query.status, query.instance_id, query.code, query.definition_key)
    page = listing.list_incidents(
        call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit
    )
    open_ones = {one.instance_id for one in page.items if one.status == IncidentStatus.OPEN}
    shut_out = find_shut_out(call.tx, call.tenant_id, open_ones)

    def shape(one: IncidentRecord) -> dict[str, Any]:
        return incident_json(one, shut_out.get(one.instance_id))

    return Answer(paging.answer(page.items, shape, [page.items[-1].id] if page.has_more else None))


@routes.get("/incidents/{incidentId}", answers={200: Shape("the incident", IncidentDetail)})
def get_incident(call: Call, incident_id: str) -> Answer:
    """Read an incident, with the task that failed and every attempt at it."""
    record = listing.read_incident(call.tx, call.tenant_id, incident_id)
    if record is None:
        raise missing("incident", incident_id)
    task = None
    if record.task_id is not None:
        task = listing.read_task(call.tx, call.tenant_id, record.task_id)
    told = None
    if task is not None:
        told = task_shape(call.tx, call.tenant_id, [task], with_traces=True)(task)
    shut_out = find_shut_out(call.tx, call.tenant_id, [record.instance_id]).get(record.instance_id)
    return Answer({**incident_json(record, shut_out), "task": told})


@routes.post(
    "/incidents/{incidentId}/resolve",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"way": "skip", "output": {"charged": False}, "reason": "paid in cash"},
)
def resolve(call: Call, incident_id: str, body: ResolveBody) -> Answer:
    """Resolve an incident, so that its instance goes on.

    `retry` runs the failed task again, or takes the event again whose step failed. `skip` answers the task with `output`
    as if it had succeeded, or leaves the event out. Answers with the instance.
    """
    instance_id = resolve_incident(
        call.tx,
        call.tenant_id,
        incident_id,
        way=body.way,
        output=body.output,
        reason=body.reason,
        actor=call.actor,
        limits=call.limits,
    )
    return accepted(call, instance_id)


@routes.post(
    "/incidents:resolve",
    permission=Permission.OPERATE,
    answers={200: Shape("what became of one page of them", BulkAnswer)},
    example={"way": "retry", "filter": {"code": "http.503"}, "dryRun": True},
)
def resolve_bulk(call: Call, body: BulkResolveBody) -> Answer:
    """Resolve every open incident that a filter finds by the same way out.

    A call looks at up to `limit` incidents, newest first; go on with `nextCursor` until it is null. With `dryRun`
    nothing is done.
    """
    refuse_empty(body.filter)
    asked = body.model_dump(mode="json", include={"way", "filter", "dry_run"})
    name = ListName(call.tenant_id, f"{call.path}?{dumps(asked)}")
    position = call.services.cursors.read(name, body.cursor)
    done = resolve_all(
        call.tx,
        call.tenant_id,
        IncidentFilter(IncidentStatus.OPEN, code=body.filter.code, definition_key=body.filter.definition_key),
        way=body.way,
        output=body.output,
        dry_run=body.dry_run,
        reason=body.reason,
        before=None if position is None else str(position[0]),
        limit=body.limit,
        actor=call.actor,
        limits=call.limits,
    )
    return bulk_answer(call, done, name, is_dry_run=body.dry_run)
