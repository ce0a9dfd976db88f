"""Promise 6 as queries: every obligation has its row, every row its obligation, nobody waits for nothing.

Each query returns what violates it; on a healthy database all of them return nothing. They read only, and on a live
system they see committed states, in which the invariants hold at every moment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    union_all,
)

from common.db.prepared import Prepared
from common.db.tables import (
    AttemptOutcome,
    InboxType,
    IncidentStatus,
    TimerStatus,
    attempts,
    handlers,
    inbox,
    incidents,
    instances,
    joins,
    tasks,
    timers,
)
from common.db.types import UtcDateTime
from common.ids import InstanceId, TenantId
from common.lifecycle import FINAL, FROZEN, OPEN, InstanceStatus, TaskStatus
from common.store.overview import list_workers, offered_types

_i = instances.c


def _of(tenant_id: TenantId | None) -> ColumnElement[bool]:
    return _i.tenant_id == tenant_id if tenant_id is not None else _i.id.is_not(None)


def stalled_instances(
    tx: Connection, tenant_id: TenantId | None = None, *, limit: int = 1_000
) -> list[InstanceId]:
    """Live instances that nothing will ever wake: no inbox row, no open task, no armed timer, no child, no event taken.

    Failed ones must have an open incident. `tenant_id` None asks across tenants, for the doctor.
    """
    waits = exists().where(inbox.c.instance_id == _i.id)
    works = exists().where(tasks.c.instance_id == _i.id, tasks.c.status.in_(OPEN))
    sleeps = exists().where(timers.c.instance_id == _i.id, timers.c.status == TimerStatus.ARMED.value)
    child = instances.alias("child").c
    has_children = exists().where(
        child.parent_id == _i.id, child.parent_key.is_not(None), child.status.not_in(FINAL)
    )
    asks = exists().where(incidents.c.instance_id == _i.id, incidents.c.status == IncidentStatus.OPEN.value)
    idle = and_(
        _i.status.in_(
            (
                InstanceStatus.PENDING,
                InstanceStatus.RUNNING,
                InstanceStatus.WAITING,
                InstanceStatus.COMPENSATING,
            )
        ),
        not_(
            or_(
                waits,
                works,
                sleeps,
                has_children,
                and_(_i.accepts_events, _i.status != InstanceStatus.PENDING),
            )
        ),
    )
    frozen = and_(_i.status == InstanceStatus.FAILED, not_(asks))
    query = select(_i.id).where(_of(tenant_id), or_(idle, frozen)).order_by(_i.id).limit(limit)
    return [InstanceId(row[0]) for row in tx.execute(query)]


@dataclass(frozen=True, slots=True)
class ChildFacts:
    """A child as the obligation `key` of its parent sees it."""

    key: str
    status: InstanceStatus
    cancel_with_parent: bool
    is_being_cancelled: bool  # the command is in its inbox
    has_failed: bool  # once at least: its parent may have gone on without it


def count_open_incidents(tx: Connection, tenant_id: TenantId | None) -> int:
    """How many incidents wait for somebody, of a tenant or (None) of all."""
    query = select(func.count()).where(incidents.c.status == IncidentStatus.OPEN.value)
    if tenant_id is not None:
        query = query.where(incidents.c.tenant_id == tenant_id)
    return tx.execute(query).scalar_one()


@dataclass(frozen=True, slots=True)
class Obligations:
    """One instance's snapshot text and the keys of its live rows, read in one transaction."""

    instance_id: InstanceId
    tenant_id: TenantId
    status: InstanceStatus
    snapshot: str | None
    counts: tuple[int, int, int]  # of open tasks, timers and children, as its row has them
    task_keys: tuple[tuple[str, str | None, str, str], ...]  # key, joined keys, status, type
    timer_keys: tuple[tuple[str, str], ...]  # key, status
    inbox_bodies: tuple[tuple[str, str], ...]  # type, body
    children: tuple[ChildFacts, ...] = ()


def read_obligations(tx: Connection, after: str | None, *, limit: int = 200) -> list[Obligations]:
    """Instances beyond id `after` with everything that must agree with their snapshots, across tenants."""
    query = _OBLIGED.order_by(_i.id).limit(limit)
    if after is not None:
        query = query.where(_i.id > after)
    return _obligations(tx, tx.execute(query).all())


def read_obligations_of(tx: Connection, instance_id: str) -> list[Obligations]:
    """The same of one instance; empty where it is not there."""
    return _obligations(tx, tx.execute(_OBLIGED.where(_i.id == instance_id)).all())


_OBLIGED = select(
    _i.id, _i.tenant_id, _i.status, _i.snapshot, _i.open_tasks, _i.open_timers, _i.open_children
)


def _obligations(tx: Connection, rows: Sequence[Any]) -> list[Obligations]:
    if not rows:
        return []
    between = (rows[0][0], rows[-1][0])
    task_rows = _grouped(tx, tasks, between, (tasks.c.key, tasks.c.joined_keys, tasks.c.status, tasks.c.type))
    timer_rows = _grouped(tx, timers, between, (timers.c.key, timers.c.status))
    inbox_rows = _grouped(tx, inbox, between, (inbox.c.type, inbox.c.body))
    children = _children(tx, between)
    return [
        Obligations(
            row[0],
            row[1],
            InstanceStatus(row[2]),
            row[3],
            (row[4], row[5], row[6]),
            tuple(task_rows.get(row[0], ())),
            tuple(timer_rows.get(row[0], ())),
            tuple(inbox_rows.get(row[0], ())),
            tuple(children.get(row[0], ())),
        )
        for row in rows
    ]


def _grouped(
    tx: Connection, table: Any, between: tuple[str, str], columns: Sequence[ColumnElement[Any]]
) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    query = select(table.c.instance_id, *columns).where(table.c.instance_id.between(*between))
    for row in tx.execute(query):
        found.setdefault(row[0], []).append(tuple(row[1:]))
    return found


def _children(tx: Connection, between: tuple[str, str]) -> dict[str, list[ChildFacts]]:
    is_being_cancelled = exists().where(inbox.c.instance_id == _i.id, inbox.c.type == InboxType.CANCEL.value)
    has_failed = exists().where(incidents.c.instance_id == _i.id)
    query = select(
        _i.parent_id, _i.parent_key, _i.status, _i.cancel_with_parent, is_being_cancelled, has_failed
    ).where(_i.parent_id.between(*between), _i.parent_key.is_not(None))
    found: dict[str, list[ChildFacts]] = {}
    for parent_id, key, status, *facts in tx.execute(query):
        found.setdefault(parent_id, []).append(ChildFacts(key, InstanceStatus(status), *facts))
    return found


_SUCCEEDED = AttemptOutcome.SUCCEEDED.value
_COUNTED = (
    _SUCCEEDED,
    AttemptOutcome.FAILED.value,
    AttemptOutcome.TIMED_OUT.value,
    AttemptOutcome.LOST.value,
    AttemptOutcome.LATE.value,  # lost first
)
_Violations = Mapping[str, Select[Any]]
"""Of what is wrong, by its name, the ids of the rows."""


def _left_over() -> _Violations:
    """Rows that should not outlive their instance: open tasks, armed timers of final ones.

    Unparked rows of frozen ones do not count, they are parked at the next look.
    """
    final = _i.status.in_(FINAL)
    of_task, of_timer, of_row = (
        select(id_).join(instances, instance_id == _i.id)
        for id_, instance_id in (
            (tasks.c.id, tasks.c.instance_id),
            (timers.c.id, timers.c.instance_id),
            (inbox.c.instance_id, inbox.c.instance_id),
        )
    )
    return {
        "task.open": of_task.where(final, tasks.c.status.in_(OPEN)),
        "timer.armed": of_timer.where(final, timers.c.status == TimerStatus.ARMED.value),
        "inbox.parked": of_row.where(
            inbox.c.parked,
            _i.status.not_in(FROZEN),
            not_(and_(_i.queued, _i.status.not_in(FINAL))),
            not_(and_(inbox.c.type == InboxType.ERASE, _i.status == InstanceStatus.COMPENSATING)),
        ),
        "task.held": of_task.where(
            tasks.c.held, tasks.c.status == TaskStatus.PENDING, _i.status.not_in(FROZEN)
        ),
    }


def _miscounted() -> _Violations:
    """Tasks with more than one attempt that counted, and ended ones whose attempts do not say how.

    Tasks without attempts are ended by other means than a runner; those whose time is bounded may end while they wait.
    """
    counted = func.count(case((attempts.c.outcome.in_(_COUNTED), 1)))
    succeeded = func.count(case((attempts.c.outcome == _SUCCEEDED, 1)))
    by_task = (
        select(attempts.c.task_id, counted.label("counted"), succeeded.label("succeeded"))
        .group_by(attempts.c.task_id)
        .subquery()
    )
    rows = select(tasks.c.id).join(by_task, by_task.c.task_id == tasks.c.id)
    unaccounted = or_(
        and_(tasks.c.status == TaskStatus.SUCCEEDED, by_task.c.succeeded == 0),
        and_(
            tasks.c.status == TaskStatus.FAILED,
            by_task.c.counted == 0,
            tasks.c.start_within_ms.is_(None),
            tasks.c.finish_within_ms.is_(None),
        ),
    )
    return {"counted_twice": rows.where(by_task.c.succeeded > 1), "unaccounted": rows.where(unaccounted)}


def _broken_maps() -> _Violations:
    """MAPs that do not agree with their joins, or their joins with the items."""
    items = tasks.alias("item")
    item = items.c
    ended = case((item.finished_at.is_not(None), 1))
    well = case((item.status == TaskStatus.SUCCEEDED, 1))
    has_turn = case((and_(item.finished_at.is_(None), not_(item.gated)), 1))
    counts_for = joins.c.task_id == tasks.c.id
    of_items = (
        select(tasks.c.id)
        .join(joins, counts_for)
        .join(items, item.parent_task_id == tasks.c.id)
        .where(joins.c.ended_at.is_(None))
        .group_by(tasks.c.id, joins.c.total, joins.c.succeeded, joins.c.failed)
    )
    miscounted = or_(
        func.count(item.id) != joins.c.total,
        func.count(well) != joins.c.succeeded,
        func.count(ended) != joins.c.succeeded + joins.c.failed,
    )
    counts = and_(joins.c.task_id.is_not(None), joins.c.ended_at.is_(None))
    unjoined = (
        select(tasks.c.id)
        .outerjoin(joins, counts_for)
        .where(tasks.c.type == "MAP", tasks.c.status.in_(OPEN) != counts)
    )
    return {
        "miscounted": of_items.having(miscounted),
        "stuck": of_items.having(func.count(has_turn) == 0),
        "unjoined": unjoined,
    }


def _as_one(**kinds: _Violations) -> Prepared:
    """All of them as one statement, whose rows are (kind, what, id)."""
    parts = [
        select(literal(kind), literal(what), cast(rows.subquery().c[0], Text))
        for kind, violations in kinds.items()
        for what, rows in violations.items()
    ]
    return Prepared(union_all(*parts).limit(_TOLD), is_literal=True)


_TOLD = 1_000
"""Violations that are told at most."""
_VIOLATIONS = _as_one(left=_left_over(), task=_miscounted(), map=_broken_maps())


def read_violations(tx: Connection) -> list[tuple[str, str, str]]:
    """(kind, what, id) of rows that should not be as they are, a thousand at the most: kind `left` outlived its instance's status, `task` has
    attempts that do not add up to its status, `map` is a MAP that does not agree with its join or its items.
    """
    return [(kind, what, id_) for kind, what, id_ in _VIOLATIONS.rows(tx)]


@dataclass(frozen=True, slots=True)
class Delays:
    """What is late, as a doctor tells it: counts, and the age of the oldest waiting inbox row in seconds."""

    expired_leases: int
    overdue_timers: int
    overdue_tasks: int
    inbox_waiting: int
    inbox_oldest_seconds: float
    unclaimable_types: tuple[str, ...]
    orchestrators: int  # that live


def read_delays(tx: Connection, *, now: datetime, grace: timedelta = timedelta(seconds=2)) -> Delays:
    """Leases, timers and time limits of tasks overdue by more than `grace`, the inbox's age, and types without a runner."""
    [(expired, overdue, late, waiting, oldest)] = _DELAYS.rows(tx, {"before": now - grace})
    age = max((now - oldest).total_seconds(), 0.0) if oldest else 0.0
    workers = list_workers(tx)
    orchestrators = sum(one.is_alive and one.duty == "orchestrator" for one in workers)
    return Delays(
        expired, overdue, late, waiting, age, _unclaimable(tx, offered_types(workers)), orchestrators
    )


def _count(*where: ColumnElement[bool]) -> ColumnElement[int]:
    return select(func.count()).where(*where).scalar_subquery()


_BEFORE = bindparam("before", type_=UtcDateTime())
_DELAYS = Prepared(
    select(
        _count(
            tasks.c.status == literal_column("'running'"),
            tasks.c.lease_token.is_not(None),
            tasks.c.lease_expires_at < _BEFORE,
        ),
        _count(timers.c.status == literal_column("'armed'"), timers.c.due_at < _BEFORE),
        _count(
            or_(
                and_(
                    tasks.c.status == literal_column("'pending'"),
                    not_(tasks.c.held),
                    tasks.c.start_by_at < _BEFORE,
                ),
                and_(tasks.c.finished_at.is_(None), tasks.c.finish_by_at < _BEFORE),
            )
        ),
        _count(not_(inbox.c.parked)),
        select(func.min(inbox.c.accepted_at)).where(not_(inbox.c.parked)).scalar_subquery(),
    )
)


def _unclaimable(tx: Connection, offered: Collection[str]) -> tuple[str, ...]:
    """Types of pending tasks that no living runner has said it runs; SYSTEM functions that nobody has published."""
    published = exists().where(
        handlers.c.type == tasks.c.type, or_(tasks.c.type != "SYSTEM", handlers.c.name == tasks.c.name)
    )
    pending = (
        select(tasks.c.type, published.label("published"))
        .where(tasks.c.status == TaskStatus.PENDING)
        .distinct()
        .limit(200)
    )
    return tuple(
        sorted({row.type for row in tx.execute(pending) if row.type not in offered or not row.published})
    )
