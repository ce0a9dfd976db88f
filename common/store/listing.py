"""What the API shows: single reads and cursor-paged lists. Nothing here is on a worker's path, and nothing locks.

A page holds at most `limit` rows and at most `PAGE_BYTES` of JSON: rows may be megabytes each, so the ids of a page are
chosen by size first and read in a second statement. JSON columns are handed out as the stored text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.sql.functions import coalesce

from common.canonical import dumps
from common.clock import database_now
from common.db.prepared import Prepared
from common.db.tables import IncidentStatus, attempts, history, incidents, instances, joins, tasks
from common.db.types import among
from common.ids import DefinitionId, InstanceId, TaskId, TenantId, WorkerId
from common.lifecycle import FINAL, LIVE, InstanceStatus
from common.people import spellings
from common.polls import POLL

PAGE_BYTES = 8_000_000

T = TypeVar("T")
_i = instances.c
_t = tasks.c
_a = attempts.c
_h = history.c
_n = incidents.c


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list; `has_more` tells whether others follow the last one."""

    items: list[T]
    has_more: bool


# -- instances ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """An instance as people see it. `snapshot` is None until its start is consumed."""

    id: InstanceId
    definition_id: DefinitionId
    definition_key: str
    definition_version: int
    business_key: str | None
    status: InstanceStatus
    configuration: str
    snapshot: str | None
    input: str
    output: str | None
    error: str | None
    labels: dict[str, str]
    priority: int
    sequence: int
    parent_id: InstanceId | None
    depth: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    erased_at: datetime | None
    concurrency_key: str | None
    is_queued: bool  # it waits for a place, or would when its time comes


INSTANCE = select(
    _i.id, _i.definition_id, _i.definition_key, _i.definition_version, _i.business_key, _i.status, _i.configuration,
    _i.snapshot, _i.input, _i.output, _i.error, _i.labels, _i.priority, _i.sequence, _i.parent_id, _i.depth,
    _i.created_at, _i.started_at, _i.finished_at, _i.deadline_at, _i.erased_at,
    _i.concurrency_key, _i.queued,
)  # fmt: skip


# On the path of every start and send: built once, so that nothing of it is built per request.
_by_id = INSTANCE.where(_i.tenant_id == bindparam("tenant_id"), _i.id == bindparam("id"))
_ONE_INSTANCE = Prepared(_by_id)
_ONE_INSTANCE_NOW = Prepared(_by_id.add_columns(database_now()))


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    """Which instances a list shows; what is empty or None does not restrict it.

    `state`: active in this state, given by its dotted path, or in one below it. `labels`: all of these pairs.
    """

    statuses: Sequence[InstanceStatus] = ()
    definition_key: str | None = None
    business_key: str | None = None
    state: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    parent_id: str | None = None
    ids: Sequence[str] | None = None
    queued: bool | None = None


def read_instance(tx: Connection, tenant_id: TenantId, instance_id: str) -> InstanceRecord | None:
    """One instance, or None when this tenant has no such instance."""
    rows = _ONE_INSTANCE.rows(tx, {"tenant_id": tenant_id, "id": instance_id})
    return instance_record(rows[0]) if rows else None


def read_instance_now(
    tx: Connection, tenant_id: TenantId, instance_id: str
) -> tuple[InstanceRecord, datetime] | None:
    """One instance, and the database's time at which it was read."""
    rows = _ONE_INSTANCE_NOW.rows(tx, {"tenant_id": tenant_id, "id": instance_id})
    return (instance_record(rows[0][:-1]), rows[0][-1]) if rows else None


def read_instances(tx: Connection, tenant_id: TenantId, ids: Sequence[str]) -> dict[str, InstanceRecord]:
    """Several instances of this tenant, by id; unknown ids are left out."""
    query = INSTANCE.where(_i.tenant_id == tenant_id, among(_i.id, "ids"))
    return {row.id: instance_record(row) for row in tx.execute(query, {"ids": list(ids)})}


def list_instances(
    tx: Connection, tenant_id: TenantId, wanted: InstanceFilter, *, before: str | None, limit: int
) -> Page[InstanceRecord]:
    """Instances that match, newest first, older than the id `before`."""
    size = _bytes(tx, _i.snapshot, _i.input, _i.output)
    conditions = [_i.tenant_id == tenant_id, *_instance_conditions(tx, wanted)]
    if before is not None:
        conditions.append(_i.id < before)
    ids, has_more = _choose(tx, select(_i.id, size).where(*conditions).order_by(_i.id.desc()), limit)
    found = read_instances(tx, tenant_id, ids)
    return Page([found[one] for one in ids if one in found], has_more)


@dataclass(frozen=True, slots=True)
class InstanceStanding:
    """An instance's status, for who decides about many."""

    id: InstanceId
    status: InstanceStatus
    finished_at: datetime | None


def page_ids(
    tx: Connection, tenant_id: TenantId, wanted: InstanceFilter, *, after: str | None, limit: int
) -> list[InstanceId]:
    """The ids of instances that match, oldest first, beyond the id `after`."""
    query = select(_i.id).where(_i.tenant_id == tenant_id, *_instance_conditions(tx, wanted))
    if after is not None:
        query = query.where(_i.id > after)
    return [InstanceId(row[0]) for row in tx.execute(query.order_by(_i.id).limit(limit))]


def list_statuses(
    tx: Connection, tenant_id: TenantId, wanted: InstanceFilter, *, before: str | None, limit: int
) -> Page[InstanceStanding]:
    """As `list_instances`, without their data."""
    conditions = [_i.tenant_id == tenant_id, *_instance_conditions(tx, wanted)]
    if before is not None:
        conditions.append(_i.id < before)
    query = select(_i.id, _i.status, _i.finished_at).where(*conditions).order_by(_i.id.desc())
    rows = tx.execute(query.limit(limit + 1)).all()
    found = [InstanceStanding(row[0], InstanceStatus(row[1]), row[2]) for row in rows[:limit]]
    return Page(found, len(rows) > limit)


def instance_record(row: Any) -> InstanceRecord:
    values = list(row)
    values[5] = InstanceStatus(values[5])
    values[-1] = values[-1] and values[5] in LIVE
    return InstanceRecord(*values)


def _instance_conditions(tx: Connection, wanted: InstanceFilter) -> Iterable[ColumnElement[bool]]:
    if wanted.statuses:
        yield _i.status.in_(wanted.statuses)
    if wanted.definition_key is not None:
        yield _i.definition_key == wanted.definition_key
    if wanted.business_key is not None:
        yield _i.business_key == wanted.business_key
    if wanted.state is not None:
        yield _is_active(wanted.state)
    for name, value in wanted.labels:
        yield _has_label(tx, name, value)
    if wanted.parent_id is not None:
        yield _i.parent_id == wanted.parent_id
    if wanted.ids is not None:
        yield _i.id.in_(wanted.ids)
    if wanted.queued is not None:
        is_queued = and_(_i.queued, _i.status.in_(LIVE))
        yield is_queued if wanted.queued else not_(is_queued)
    if wanted.created_after is not None:
        yield _i.created_at > wanted.created_after
    if wanted.created_before is not None:
        yield _i.created_at < wanted.created_before


def _is_active(state: str) -> ColumnElement[bool]:
    """The configuration is a JSON array of dotted paths: look for the path itself, or for the start of a longer one.

    By `replace`, because LIKE ignores case on SQLite and the two databases name the search of a text differently.
    """
    quoted = dumps(state)
    return or_(
        *(
            func.replace(_i.configuration, part, "") != _i.configuration
            for part in (quoted, f"{quoted[:-1]}.")
        )
    )


def _has_label(tx: Connection, name: str, value: str) -> ColumnElement[bool]:
    if tx.dialect.name == "postgresql":
        return _i.labels.op("@>", is_comparison=True)(literal({name: value}, _i.labels.type))
    pair = func.json_each(_i.labels).table_valued("key", "value")
    return select(pair.c.key).where(pair.c.key == name, pair.c.value == value).exists()


# -- tasks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try of a task; a lost or released one does not count, so two may have the same number."""

    attempt: int
    worker_id: WorkerId
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    error: str | None
    progress: str | None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as people see it, with its attempts in order.

    A POLL says in `executed_as` of which type its inner task is, and in `polls`, stored text, what it has counted. An item
    names its MAP in `parent_task_id`; a MAP counts its `items`.
    """

    id: TaskId
    instance_id: InstanceId
    type: str
    name: str
    status: str
    attempt: int
    max_attempts: int
    lost: int
    run_at: datetime
    held: bool
    priority: int
    input: str
    output: str | None
    error: str | None
    progress: str | None
    options: str | None
    idempotency_key: str | None
    created_at: datetime
    finished_at: datetime | None
    executed_as: str
    limit_key: str | None
    gated: bool
    polls: str | None
    assignee: str | None
    candidates: Sequence[str] | None
    due_at: datetime | None
    ended_by: str | None
    parent_task_id: TaskId | None
    item_index: int | None
    items: int | None
    items_succeeded: int | None
    items_failed: int | None
    attempts: list[AttemptRecord] = field(default_factory=list)


_ASKED: ColumnElement[str] = func.coalesce(_t.asked_as, _t.type)  # what the definition wrote
_COUNTED: ColumnElement[str | None] = case((_t.asked_as == POLL, _t.state))
_TASK = select(
    _t.id, _t.instance_id, _ASKED, _t.name, _t.status, _t.attempt, _t.max_attempts, _t.lost, _t.run_at, _t.held,
    _t.priority, _t.input, _t.output, _t.error, _t.progress, _t.options, _t.idempotency_key, _t.created_at,
    _t.finished_at, _t.type, _t.limit_key, _t.gated, _COUNTED, _t.assignee, _t.candidates, _t.due_at, _t.ended_by, _t.parent_task_id, _t.item_index,
    joins.c.total, joins.c.succeeded, joins.c.failed,
).outerjoin(joins, joins.c.task_id == _t.id)  # fmt: skip
_ATTEMPTS = (
    select(
        _a.task_id, _a.attempt, _a.worker_id, _a.started_at, _a.ended_at, _a.outcome, _a.error, _a.progress
    )
    .where(among(_a.task_id, "ids"))
    .order_by(_a.task_id, _a.started_at, _a.token)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks a list shows; what is empty or None does not restrict it.

    `assignee` and `candidate` name a person; `overdue_at`: not ended, and due before this instant.
    """

    statuses: Sequence[str] = ()
    type: str | None = None
    instance_id: str | None = None
    assignee: str | None = None
    candidate: str | None = None
    overdue_at: datetime | None = None
    parent_task_id: str | None = None


def read_task(tx: Connection, tenant_id: TenantId, task_id: str) -> TaskRecord | None:
    """One task with its attempts, or None when this tenant has no such task."""
    return _read_tasks(tx, tenant_id, [task_id]).get(task_id)


def list_tasks(
    tx: Connection, tenant_id: TenantId, wanted: TaskFilter, *, before: str | None, limit: int
) -> Page[TaskRecord]:
    """Tasks that match, newest first, older than the id `before`."""
    conditions = [_t.tenant_id == tenant_id, *_task_conditions(tx, wanted)]
    if before is not None:
        conditions.append(_t.id < before)
    size = _bytes(tx, _t.input, _t.output, _t.options, _COUNTED)
    ids, has_more = _choose(tx, select(_t.id, size).where(*conditions).order_by(_t.id.desc()), limit)
    found = _read_tasks(tx, tenant_id, ids)
    return Page([found[one] for one in ids if one in found], has_more)


def _task_conditions(tx: Connection, wanted: TaskFilter) -> Iterable[ColumnElement[bool]]:
    if wanted.statuses:
        yield _t.status.in_(wanted.statuses)
    if wanted.type is not None:
        yield or_(_t.asked_as == wanted.type, and_(_t.asked_as.is_(None), _t.type == wanted.type))
    if wanted.instance_id is not None:
        yield _t.instance_id == wanted.instance_id
    if wanted.parent_task_id is not None:
        yield _t.parent_task_id == wanted.parent_task_id
    if wanted.assignee is not None:
        yield _t.assignee.in_(spellings(wanted.assignee))
    if wanted.candidate is not None:
        yield or_(*(_has_candidate(tx, name) for name in spellings(wanted.candidate)))
    if wanted.overdue_at is not None:
        yield _t.finished_at.is_(None)
        yield _t.due_at < wanted.overdue_at


def _has_candidate(tx: Connection, name: str) -> ColumnElement[bool]:
    if tx.dialect.name == "postgresql":
        return _t.candidates.op("@>", is_comparison=True)(literal([name], _t.candidates.type))
    one = func.json_each(_t.candidates).table_valued("value")
    return select(one.c.value).where(one.c.value == name).exists()


def _read_tasks(tx: Connection, tenant_id: TenantId, ids: Sequence[str]) -> dict[str, TaskRecord]:
    query = _TASK.where(_t.tenant_id == tenant_id, among(_t.id, "ids"))
    found = {row[0]: _task(row) for row in tx.execute(query, {"ids": list(ids)})}
    for task_id, *values in tx.execute(_ATTEMPTS, {"ids": list(found)}):
        found[task_id].attempts.append(AttemptRecord(*values))
    return found


def _task(row: Any) -> TaskRecord:
    return TaskRecord(*row)


# -- history ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One consumed event: its entries are in `changes`, a JSON array, or None once erased."""

    sequence: int
    at: datetime
    actor: str
    changes: str | None
    hash: bytes
    previous_hash: bytes


_HISTORY = select(_h.sequence, _h.at, _h.actor, _h.changes, _h.hash, _h.previous_hash).order_by(_h.sequence)


def list_history(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, since: int, limit: int
) -> Page[HistoryRecord]:
    """The rows of one instance in order, from sequence `since` on."""
    of_instance = and_(_h.tenant_id == tenant_id, _h.instance_id == instance_id, _h.sequence >= since)
    sizes = select(_h.sequence, _bytes(tx, _h.changes)).where(of_instance).order_by(_h.sequence)
    numbers, has_more = _choose(tx, sizes, limit)
    if not numbers:
        return Page([], False)
    rows = tx.execute(_HISTORY.where(of_instance, _h.sequence <= numbers[-1]))
    return Page([HistoryRecord(*row) for row in rows], has_more)


# -- incidents ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncidentRecord:
    """What stopped an instance. `sequence` is that of the history row that tells of it.

    `key_holder`, of an open one: the live instance that holds the business key which the stopped one has given back.
    """

    id: str
    instance_id: InstanceId
    task_id: TaskId | None
    code: str
    message: str
    detail: str
    sequence: int
    status: str
    opened_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None
    key_holder: InstanceId | None


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    """Which incidents a list shows; what is None does not restrict it."""

    status: str | None = None
    instance_id: str | None = None
    code: str | None = None
    definition_key: str | None = None


_stopped = instances.alias("stopped")
_holder = instances.alias("holder")
# At most one: the unique index that answers it holds for live instances, so their statuses have to be literals.
_KEY_HOLDER = (
    select(_holder.c.id)
    .join(
        _stopped,
        and_(
            _stopped.c.tenant_id == _holder.c.tenant_id,
            _stopped.c.definition_key == _holder.c.definition_key,
            _stopped.c.business_key == _holder.c.business_key,
        ),
    )
    .where(
        _n.status == IncidentStatus.OPEN.value,
        _stopped.c.tenant_id == _n.tenant_id,
        _stopped.c.id == _n.instance_id,
        _stopped.c.status == InstanceStatus.FAILED.value,
        _holder.c.status.in_(bindparam("live", list(LIVE), expanding=True, literal_execute=True)),
    )
    .correlate(incidents)
    .scalar_subquery()
)
_INCIDENT = select(
    _n.id, _n.instance_id, _n.task_id, _n.code, _n.message, _n.detail, _n.sequence, _n.status, _n.opened_at,
    _n.resolved_at, _n.resolved_by, _n.resolution, _KEY_HOLDER.label("key_holder"),
)  # fmt: skip


def read_incident(tx: Connection, tenant_id: TenantId, incident_id: str) -> IncidentRecord | None:
    """One incident, or None when this tenant has no such incident."""
    row = tx.execute(_INCIDENT.where(_n.tenant_id == tenant_id, _n.id == incident_id)).one_or_none()
    return None if row is None else _incident(row)


def list_incidents(
    tx: Connection, tenant_id: TenantId, wanted: IncidentFilter, *, before: str | None, limit: int
) -> Page[IncidentRecord]:
    """Incidents that match, newest first, older than the id `before`."""
    query = _INCIDENT.where(_n.tenant_id == tenant_id).order_by(_n.id.desc()).limit(limit + 1)
    if wanted.status is not None:
        query = query.where(_n.status == wanted.status)
    if wanted.instance_id is not None:
        query = query.where(_n.instance_id == wanted.instance_id)
    if wanted.code is not None:
        query = query.where(_n.code == wanted.code)
    if wanted.definition_key is not None:
        query = query.join(instances, and_(_i.tenant_id == _n.tenant_id, _i.id == _n.instance_id))
        query = query.where(_i.definition_key == wanted.definition_key)
    if before is not None:
        query = query.where(_n.id < before)
    found = [_incident(row) for row in tx.execute(query)]
    return Page(found[:limit], len(found) > limit)


def _incident(row: Any) -> IncidentRecord:
    return IncidentRecord(*row)


# -- children -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """A child that has not ended; `key` is the obligation of its parent, None where nobody waits for it."""

    id: InstanceId
    key: str | None
    definition_key: str
    business_key: str | None
    status: InstanceStatus
    definition_id: DefinitionId
    priority: int
    concurrency_key: str | None
    is_queued: bool  # as an instance is
    incidents: list[IncidentRecord] = field(default_factory=list)  # those that are open


_CHILD = select(
    _i.id, _i.parent_key, _i.definition_key, _i.business_key, _i.status, _i.definition_id, _i.priority, _i.concurrency_key,
    _i.queued,
)  # fmt: skip


def list_children(tx: Connection, tenant_id: TenantId, parent_id: str, *, limit: int) -> list[ChildRecord]:
    """Children that have not ended, the failed ones first and then the oldest, with what stopped them."""
    query = (
        _CHILD.where(_i.tenant_id == tenant_id, _i.parent_id == parent_id, _i.status.not_in(FINAL))
        .order_by(_i.status != InstanceStatus.FAILED, _i.id)
        .limit(limit)
    )
    found = {row[0]: _child(row) for row in tx.execute(query)}
    stopped = [child.id for child in found.values() if child.status is InstanceStatus.FAILED]
    opened = _INCIDENT.where(
        _n.tenant_id == tenant_id,
        among(_n.instance_id, "ids"),
        _n.status == IncidentStatus.OPEN.value,
    ).order_by(_n.id)
    for row in tx.execute(opened, {"ids": stopped}) if stopped else ():
        incident = _incident(row)
        found[incident.instance_id].incidents.append(incident)
    return list(found.values())


def _child(row: Any) -> ChildRecord:
    values = list(row)
    values[4] = InstanceStatus(values[4])
    values[-1] = values[-1] and values[4] in LIVE
    return ChildRecord(*values)


# -- pages --------------------------------------------------------------------------------------------------------


def _bytes(tx: Connection, *columns: ColumnElement[Any]) -> ColumnElement[int]:
    """About how many bytes these JSON columns hold, without reading them where the database keeps count."""
    measure = func.octet_length if tx.dialect.name == "postgresql" else func.length
    total: ColumnElement[int] = literal(0)
    for column in columns:
        total += coalesce(measure(column), 0)
    return total.label("size")


def _choose(tx: Connection, query: Select[Any], limit: int) -> tuple[list[Any], bool]:
    """The first ids of (id, size) rows that make a page, and whether more follow. One row always fits."""
    rows = tx.execute(query.limit(limit + 1)).all()
    chosen = fitting([(row[0], row[1]) for row in rows], limit)
    return chosen, len(rows) > len(chosen)


def fitting(sized: Sequence[tuple[T, int]], limit: int) -> list[T]:
    """The first of (thing, bytes) that make a page; one always fits."""
    chosen: list[T] = []
    total = 0
    for thing, size in sized[:limit]:
        total += size
        if chosen and total > PAGE_BYTES:
            break
        chosen.append(thing)
    return chosen
