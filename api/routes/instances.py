"""Instances: start, send, note, read, explain, verify. Start and send are the API's hot paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from api.auth import Permission
from api.operations import Answer, Call, Follow, Routes, Shape
from api.pages import Paging
from api.problems import item_problem
from api.reading import missing, refused_members
from api.routes.definitions import chart_of
from api.schemas.answers import (
    BatchAnswer,
    Compensations,
    Explanation,
    HistoryPage,
    Instance,
    InstancePage,
    ResultPage,
    TaskPage,
    Verification,
)
from api.schemas.queries import HistoryQuery, InstanceQuery, InstanceTaskQuery, PageQuery
from api.schemas.requests import BatchBody, EventBody, NoteBody, StartBody
from api.shapes import (
    NOTHING_UNDONE,
    child_json,
    compensation_json,
    held_key_json,
    history_entries,
    incident_json,
    instance_json,
    instant,
    limit_wait_json,
    locker_json,
    result_json,
    unattended_json,
)
from api.tasks import task_shape, waits_by_task
from common.canonical import read
from common.commands.absent import absent_instance
from common.commands.admission import find_shut_out
from common.commands.configs import Wanted, read_wanted, scope_id_of
from common.commands.contracts import CONTRACTS
from common.commands.limits import explain_waits
from common.commands.send import add_note, send_alone, send_event
from common.commands.start import Start, Started, start_alone, start_instance
from common.commands.unattended import find_unattended
from common.commands.verify import verify_instance
from common.db.now import read_now
from common.db.tables import IncidentStatus
from common.decision import NOT_RUN_BY_A_RUNNER
from common.errors import LimitExceeded, SignalboxError
from common.ids import InstanceId, TenantId, is_id
from common.lifecycle import FINAL, LIVE, OPEN, InstanceStatus, TaskStatus
from common.store import breakers, holders, listing, overview, places, results
from common.store.instances import read_definitions
from common.store.places import Place
from statechart import Env, explain

routes = Routes("instances")

VERIFY_SECONDS = 60.0
EXPLAINED = 20  # open tasks and incidents that an explanation shows


# -- starting -----------------------------------------------------------------------------------------------------


def _start_alone(call: Call, body: StartBody) -> Answer | None:
    started = start_alone(call.tx, call.tenant_id, _request(body), actor=call.actor, limits=call.limits)
    return (
        None if started is None or started.record is None else _started(call.tenant_id, started.record, 201)
    )


@routes.post(
    "/instances",
    permission=Permission.OPERATE,
    answers={
        201: Shape("started", Instance),
        200: Shape("a live instance holds this business key: here it is", Instance),
        202: Shape("with Prefer: started, and not settled in that time", Instance),
    },
    wait=0.0,
    alone=_start_alone,
    example={"definitionKey": "hello-workflow", "businessKey": "order-1001", "input": {"customer": "Ada"}},
)
def start(call: Call, body: StartBody) -> Answer:
    """Start an instance.

    It is accepted when this answers, and runs when an orchestrator takes it up. A business key that a live instance of
    the definition holds is answered with that instance, or refused with `"onConflict": "reject"`.
    """
    started = _start(call, body)
    record = started.record or _instance(call, started.instance_id)
    return _started(call.tenant_id, record, 201 if started.created else 200)


def _started(tenant_id: TenantId, record: listing.InstanceRecord, status: int) -> Answer:
    return Answer(
        instance_json(record),
        status,
        {"Location": f"/api/v1/instances/{record.id}"},
        follow=Follow(tenant_id, record.id, settled_status=status, unsettled_status=202),
    )


@routes.post(
    "/instances:batch",
    permission=Permission.OPERATE,
    answers={200: Shape("a result for each, in order", BatchAnswer)},
    example={"instances": [{"definitionKey": "hello-workflow"}, {"definitionKey": "hello-workflow"}]},
)
def start_batch(call: Call, body: BatchBody) -> Answer:
    """Start up to 1,000 instances.

    Each is started or refused by itself; all that are started commit together.
    """
    allowed = call.limits.max_batch
    if len(body.instances) > allowed:
        message = f"a batch starts at most {allowed} instances, found {len(body.instances)}"
        raise LimitExceeded(message, limit="max_batch", allowed=allowed)
    started = {at: _start_one(call, body.instances[at]) for at in _in_key_order(body.instances)}
    results = [started[at] for at in range(len(body.instances))]
    ids = [result.instance_id for result in results if isinstance(result, Started)]
    records = listing.read_instances(call.tx, call.tenant_id, ids)
    return Answer({"items": [_batch_item(call, result, records) for result in results]})


def _in_key_order(items: Sequence[Any]) -> list[int]:
    """The places of the items, by definition and business key: who waits for a key waits in the same order as all others."""

    def keys(at: int) -> tuple[str, str]:
        item = items[at] if isinstance(items[at], Mapping) else {}
        return str(item.get("definitionKey")), str(item.get("businessKey"))

    return sorted(range(len(items)), key=keys)


def _start_one(call: Call, item: Any) -> Started | SignalboxError:
    try:
        body = StartBody.model_validate(item)
    except ValidationError as error:
        return refused_members(error, StartBody)
    try:
        return _start(call, body)
    except SignalboxError as error:  # raised before anything was written: the others are not touched
        return error


def _batch_item(
    call: Call, result: Started | SignalboxError, records: dict[str, listing.InstanceRecord]
) -> dict[str, Any]:
    if isinstance(result, SignalboxError):
        return {"problem": item_problem(result, path=call.path, trace_id=call.trace_id)}
    return {"instance": instance_json(records[result.instance_id])}


def _start(call: Call, body: StartBody) -> Started:
    return start_instance(call.tx, call.tenant_id, _request(body), actor=call.actor, limits=call.limits)


def _request(body: StartBody) -> Start:
    if body.definition_id is not None and not is_id(body.definition_id):
        raise missing("definition", body.definition_id)
    return Start(
        definition_key=body.definition_key,
        definition_id=body.definition_id,
        version=body.version,
        business_key=body.business_key,
        input=body.input,
        context=body.context,
        priority=body.priority,
        start_at=body.start_at,
        labels=body.labels,
        on_conflict=body.on_conflict,
    )


# -- sending ------------------------------------------------------------------------------------------------------

ACCEPTED = {
    202: Shape("accepted; the instance as it stands", Instance),
    200: Shape("the instance, which has settled", Instance),
}


def _send_alone(call: Call, instance_id: str, body: EventBody) -> Answer | None:
    record = send_alone(call.tx, call.tenant_id, instance_id, body.root, actor=call.actor, limits=call.limits)
    return None if record is None else _accepted(call.tenant_id, record)


@routes.post(
    "/instances/{instanceId}/events",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=0.0,
    alone=_send_alone,
    example={"type": "APPROVED", "by": "ada"},
)
def send(call: Call, instance_id: str, body: EventBody) -> Answer:
    """Send an event.

    The body is the event. It is consumed exactly once and stands in the history as applied, ignored or rejected. Events
    of a paused or failed instance wait; a finished one refuses them. `xstate.*`, `done.*` and `error.*` are the
    engine's.
    """
    send_event(call.tx, call.tenant_id, instance_id, body.root, actor=call.actor, limits=call.limits)
    return accepted(call, instance_id)


@routes.post(
    "/instances/{instanceId}/history",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=0.0,
    example={"note": "called the customer, who will pay tomorrow"},
)
def append_note(call: Call, instance_id: str, body: NoteBody) -> Answer:
    """Append a note to the history.

    Any instance takes notes, a finished one too.
    """
    add_note(call.tx, call.tenant_id, instance_id, body.note, actor=call.actor)
    return accepted(call, instance_id)


def accepted(call: Call, instance_id: str) -> Answer:
    """The answer to what was put into an instance's inbox: the instance, as it stands or once it has settled."""
    return _accepted(call.tenant_id, _instance(call, instance_id))


def _accepted(tenant_id: TenantId, record: listing.InstanceRecord) -> Answer:
    follow = Follow(tenant_id, record.id, settled_status=200, unsettled_status=202)
    return Answer(instance_json(record), 202, follow=follow)


# -- reading ------------------------------------------------------------------------------------------------------


@routes.get("/instances", answers={200: Shape("newest first", InstancePage)})
def list_instances(call: Call, query: InstanceQuery) -> Answer:
    """List instances.

    A page ends early where its instances are very large.
    """
    paging = Paging(call, query)
    if query.parent_id is not None and not is_id(query.parent_id):
        return Answer(paging.answer([], instance_json, None))
    labels = [tuple(pair.split(":", 1)) for pair in query.label]
    wanted = listing.InstanceFilter(
        statuses=query.status,
        definition_key=query.definition_key,
        business_key=query.business_key,
        state=query.state,
        labels=[(name, value) for name, value in labels],
        created_after=query.created_after,
        created_before=query.created_before,
        parent_id=query.parent_id,
        queued=query.queued,
    )
    page = listing.list_instances(
        call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit
    )
    return Answer(paging.answer(page.items, instance_json, [page.items[-1].id] if page.has_more else None))


def _get_alone(call: Call, instance_id: str) -> Answer | None:
    record = listing.read_instance(call.tx, call.tenant_id, instance_id)
    return None if record is None else Answer(instance_json(record))


@routes.get("/instances/{instanceId}", answers={200: Shape("the instance", Instance)}, alone=_get_alone)
def get_instance(call: Call, instance_id: str) -> Answer:
    """Read an instance."""
    return Answer(instance_json(_instance(call, instance_id)))


@routes.get("/instances/{instanceId}/tasks", answers={200: Shape("newest first", TaskPage)})
def list_instance_tasks(call: Call, instance_id: str, query: InstanceTaskQuery) -> Answer:
    """List the tasks of an instance."""
    _instance(call, instance_id)
    paging = Paging(call, query)
    wanted = listing.TaskFilter(statuses=query.status, instance_id=instance_id)
    page = listing.list_tasks(call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit)
    shape = task_shape(call.tx, call.tenant_id, page.items)
    return Answer(paging.answer(page.items, shape, [page.items[-1].id] if page.has_more else None))


@routes.get("/instances/{instanceId}/results", answers={200: Shape("newest first", ResultPage)})
def list_results(call: Call, instance_id: str, query: PageQuery) -> Answer:
    """List what the work of an instance has come to.

    One item for each place in the definition that asked for a task: the newest task of it, with its input, output, error and
    time, and how many there were. What a step does itself (SET, TRANSFORM, LOG, EMIT, TIMER) leaves no task.
    """
    _instance(call, instance_id)
    paging = Paging(call, query)
    page = results.list_results(
        call.tx, call.tenant_id, instance_id, before=paging.after_text(), limit=paging.limit
    )
    following = [page.items[-1].task.id] if page.has_more else None
    return Answer(paging.answer(page.items, result_json, following))


@routes.get("/instances/{instanceId}/history", answers={200: Shape("in order", HistoryPage)})
def list_history(call: Call, instance_id: str, query: HistoryQuery) -> Answer:
    """Read the history, entry by entry.

    Entries are numbered `row.entry`: a row is a consumed event, and what it caused are its entries.
    """
    _instance(call, instance_id)
    paging = Paging(call, query)
    sequence, ordinal = (int(part) for part in paging.position or (query.since, 0))
    entries: list[tuple[int, int, dict[str, Any]]] = []
    has_more = True
    while has_more and len(entries) <= paging.limit:
        page = listing.list_history(
            call.tx, call.tenant_id, instance_id, since=sequence, limit=paging.limit + 1
        )
        for row in page.items:
            entries += [
                (row.sequence, number, entry)
                for number, entry in enumerate(history_entries(row), start=1)
                if (row.sequence, number) > (sequence, ordinal)
            ]
        has_more = page.has_more
        if page.items:
            sequence, ordinal = page.items[-1].sequence + 1, 0
    shown = entries[: paging.limit]
    following = [shown[-1][0], shown[-1][1]] if len(entries) > len(shown) else None
    return Answer(paging.answer(shown, lambda entry: entry[2], following))


@routes.get(
    "/instances/{instanceId}/compensations",
    answers={200: Shape("what can be undone, in the order of its undoing", Compensations)},
)
def list_compensations(call: Call, instance_id: str) -> Answer:
    """List what an instance has done that can be undone, and how far that is."""
    return Answer(compensation_json(_instance(call, instance_id)) or NOTHING_UNDONE)


@routes.get("/instances/{instanceId}/verify", answers={200: Shape("what the check found", Verification)})
def verify(call: Call, instance_id: str) -> Answer:
    """Check the history: the chain of hashes is intact, and replaying it gives the stored snapshot."""
    with call.services.calculating.place_of(call.tenant_id):
        overview.hold_still(call.tx)
        return Answer(verify_instance(call.tx, call.tenant_id, instance_id, within=VERIFY_SECONDS))


@routes.get("/instances/{instanceId}/explain", answers={200: Shape("the explanation", Explanation)})
def explain_instance(call: Call, instance_id: str) -> Answer:
    """Explain why an instance stands where it stands, and what would move it."""
    overview.hold_still(call.tx)
    record = _instance(call, instance_id)
    tx, tenant_id = call.tx, call.tenant_id
    waiting = overview.count_inbox(tx, tenant_id, instance_id)
    tasks = listing.list_tasks(
        tx,
        tenant_id,
        listing.TaskFilter(statuses=OPEN, instance_id=instance_id),
        before=None,
        limit=EXPLAINED,
    )
    incidents = listing.list_incidents(
        tx,
        tenant_id,
        listing.IncidentFilter(status=IncidentStatus.OPEN, instance_id=instance_id),
        before=None,
        limit=EXPLAINED,
    )
    held_key = _held_key(record, incidents.items)
    locked = holders.find_lockers(tx, tenant_id, record.id, [task.id for task in tasks.items])
    children = listing.list_children(tx, tenant_id, instance_id, limit=EXPLAINED)
    shut_out = find_shut_out(tx, tenant_id, [record.id, *(child.id for child in children)])
    return Answer(
        {
            "instanceId": record.id,
            "status": record.status.value,
            "erasedAt": instant(record.erased_at),
            "chart": _explain(tx, tenant_id, record, incidents.items),
            "compensation": compensation_json(record),
            "inbox": {"ready": waiting.ready, "parked": waiting.parked},
            "heldKey": held_key,
            "locked": [locker_json(one) for one in locked],
            "places": _places(tx, tenant_id, record, is_shut_out=record.id in shut_out),
            "tasks": list(map(task_shape(tx, tenant_id, tasks.items), tasks.items)),
            "limits": _limits(tx, tenant_id, tasks.items),
            "unattended": _unattended(tx, record, tasks.items, waiting),
            "breakers": _waits_for(tx, tenant_id, record.id),
            "children": [
                child_json(
                    child, _places(tx, tenant_id, child) if child.is_queued else None, shut_out.get(child.id)
                )
                for child in children
            ],
            "incidents": [incident_json(one, shut_out.get(record.id)) for one in incidents.items],
        }
    )


def _unattended(
    tx: Connection,
    record: listing.InstanceRecord,
    open_tasks: Sequence[listing.TaskRecord],
    waiting: overview.Waiting,
) -> list[dict[str, Any]]:
    """Who is missing: a runner for tasks that are to run, an orchestrator for whatever else happens."""
    to_run = [
        (task.executed_as, task.name)
        for task in open_tasks
        if task.status == TaskStatus.PENDING and not task.held and task.type not in NOT_RUN_BY_A_RUNNER
    ]
    is_stepped = record.status not in FINAL or waiting.ready > 0
    found = find_unattended(overview.list_workers(tx), to_run, is_stepped=is_stepped)
    return [unattended_json(one) for one in found]


def _held_key(
    record: listing.InstanceRecord, open_incidents: Sequence[listing.IncidentRecord]
) -> dict[str, Any] | None:
    """Who holds the business key that a failed instance would take again, and what to do."""
    holder = next((one.key_holder for one in open_incidents if one.key_holder is not None), None)
    return (
        None if record.business_key is None or holder is None else held_key_json(record.business_key, holder)
    )


def _waits_for(tx: Connection, tenant_id: TenantId, instance_id: InstanceId) -> list[dict[str, Any]]:
    waiting = breakers.find_waiting(tx, tenant_id, instance_id, limit=EXPLAINED)
    return list(waits_by_task(tx, waiting).values())


def _places(
    tx: Connection,
    tenant_id: TenantId,
    record: listing.InstanceRecord | listing.ChildRecord,
    *,
    is_shut_out: bool = False,
) -> dict[str, Any] | None:
    if record.concurrency_key is None or record.status not in (*LIVE, InstanceStatus.FAILED):
        return None
    concurrency = CONTRACTS.of(tx, record.definition_id).concurrency
    if concurrency is None:
        return None
    place = Place(tenant_id, record.definition_key, record.concurrency_key)
    ahead = None
    if record.is_queued:
        ahead = places.count_ahead(tx, place, priority=record.priority, instance_id=record.id)
    return {
        "key": place.key,
        "max": concurrency.max,
        "taken": places.count_taken(tx, place),
        "queued": record.is_queued,
        "ahead": ahead,
        "shutOut": is_shut_out,
    }


def _limits(tx: Connection, tenant_id: TenantId, open_tasks: Sequence[listing.TaskRecord]) -> dict[str, Any]:
    """Which limits keep those of some open tasks that are due from running."""
    now = read_now(tx)
    due = {
        task.id: (task.executed_as, task.limit_key)
        for task in open_tasks
        if task.status == TaskStatus.PENDING and not task.held and not task.gated and task.run_at <= now
    }
    waits = explain_waits(tx, tenant_id, due) if due else {}
    return {task: [limit_wait_json(wait) for wait in found] for task, found in waits.items()}


def _explain(
    tx: Connection,
    tenant_id: TenantId,
    record: listing.InstanceRecord,
    open_incidents: Sequence[listing.IncidentRecord],
) -> dict[str, Any] | None:
    if record.snapshot is None or record.erased_at is not None:
        return None
    (definition,) = read_definitions(tx, [record.definition_id])
    chart = chart_of(definition.document)
    scope_id = scope_id_of(record.business_key, record.id)
    (config,) = read_wanted(tx, [Wanted(tenant_id, chart.config_names, scope_id)])
    # Where the values are more than a step may read, a guard that names one has no answer.
    env = None if config is None else Env(read_now(tx), config)
    explained = explain(chart, read(record.snapshot), env)
    # What has failed for good, and is an incident, stays in the snapshot for a retry. Until then it brings no answer.
    failed = {read(incident.detail).get("key") for incident in open_incidents}
    for obligation in (*explained["tasks"], *explained["children"]):
        if obligation["key"] in failed:
            obligation["answers"] = []
    return explained


def _instance(call: Call, instance_id: str) -> listing.InstanceRecord:
    record = listing.read_instance(call.tx, call.tenant_id, instance_id)
    if record is None:
        raise absent_instance(call.tx, call.tenant_id, instance_id)
    return record
