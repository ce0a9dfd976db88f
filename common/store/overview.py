"""Reads that look across: has an instance settled, why does it stand where it stands, what do the figures say.

`HUMAN` tasks wait for a person: an instance that has nothing else open has settled, as far as machines are concerned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
)

from common.canonical import read
from common.clock import database_now
from common.db.prepared import Prepared
from common.db.tables import InboxType, handlers, inbox, instances, tasks, workers
from common.ids import TenantId, WorkerId
from common.lifecycle import FINAL, FROZEN, OPEN
from common.store.inbox import CONTROL
from common.store.listing import INSTANCE, InstanceRecord, instance_record

_i = instances.c
_b = inbox.c
_t = tasks.c
_h = handlers.c
_w = workers.c


def _one_of(names: Iterable[str]) -> list[ColumnElement[Any]]:
    """Names as they stand in a statement that is prepared: a list of parameters has no fixed length."""
    return [literal_column(f"'{name}'") for name in names]


def hold_still(tx: Connection) -> None:
    """Let everything that follows in a reading transaction see one instant: an instance and its history, say.

    Must come before any other statement. A transaction on SQLite sees one instant anyway.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(_HOLD_STILL)


_HOLD_STILL = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

# The instance and the children that it waits for, their children, and so on: it rests when all of them do.
_child = instances.alias("child")
_root = select(_i.id).where(_i.id == bindparam("instance_id")).cte("family", recursive=True)
_family = _root.union(
    select(_child.c.id).where(
        _child.c.parent_id == _root.c.id,
        _child.c.parent_key.is_not(None),
        _child.c.status.not_in(_one_of(FINAL)),
    )
)
_member = instances.alias("member")
_m = _member.c


_WAITING_ROW = and_(_b.instance_id == _m.id, not_(_b.parked))
_MACHINE_TASK = and_(
    _t.instance_id == _m.id, _t.status.in_(_one_of(OPEN)), _t.type.not_in(_one_of(("HUMAN", "WORKFLOW")))
)  # a WORKFLOW does what its child does
_COMMAND = and_(_b.instance_id == _m.id, not_(_b.parked), _b.lane == CONTROL)
_QUEUED_START = and_(
    _m.queued, _b.instance_id == _m.id, _b.type == InboxType.START.value
)  # set aside until there is a place: others have to end first
_BUSY = case(
    (_m.status.in_(_one_of(FINAL)), False),
    (_m.status.in_(_one_of(FROZEN)), exists().where(_COMMAND)),
    else_=or_(exists().where(_WAITING_ROW), exists().where(_MACHINE_TASK), exists().where(_QUEUED_START)),
)
_OWN_COMMAND = and_(_b.instance_id == _i.id, not_(_b.parked), _b.lane == CONTROL)
_OWN_ERASURE = and_(_b.instance_id == _i.id, _b.type == InboxType.ERASE.value)
_HAS_SETTLED = case(
    (_i.status.in_(_one_of(FINAL)), not_(exists().where(_OWN_ERASURE))),
    (_i.status.in_(_one_of(FROZEN)), not_(exists().where(_OWN_COMMAND))),
    else_=not_(exists().where(_m.id == _family.c.id, _BUSY)),
)
_SETTLING = Prepared(
    INSTANCE.add_columns(_HAS_SETTLED).where(
        _i.tenant_id == bindparam("tenant_id"), _i.id == bindparam("instance_id")
    )
)


def read_settling(
    tx: Connection, tenant_id: TenantId, instance_id: str
) -> tuple[InstanceRecord, bool] | None:
    """One instance, and whether it has come to rest, as of one instant; None when this tenant has no such instance.

    That is: final and not about to be erased, or paused or failed with no command that waits, or nothing left that a machine would do, for
    it or for the children that it waits for.
    """
    rows = _SETTLING.rows(tx, {"tenant_id": tenant_id, "instance_id": instance_id})
    return (instance_record(rows[0][:-1]), bool(rows[0][-1])) if rows else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An instance's unconsumed inbox rows: those that may be stepped now, and those set aside until it thaws."""

    ready: int
    parked: int


def count_inbox(tx: Connection, tenant_id: TenantId, instance_id: str) -> Waiting:
    """How many accepted events an instance has not consumed."""
    parked = func.coalesce(func.sum(case((_b.parked, 1), else_=0)), 0)
    row = tx.execute(
        select(func.count(), parked).where(_b.tenant_id == tenant_id, _b.instance_id == instance_id)
    ).one()
    return Waiting(row[0] - row[1], row[1])


# -- figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts; a status without rows is left out. `oldest_seconds`: how long the oldest inbox row waits."""

    instances: Mapping[str, int]
    tasks: Mapping[str, int]
    inbox_waiting: int
    inbox_oldest_seconds: float


def read_figures(tx: Connection, tenant_id: TenantId | None) -> Figures:
    """Count a tenant's instances, tasks and waiting inbox rows, or everybody's (None); reads every one of these rows."""
    oldest = func.min(_b.accepted_at)
    query = select(func.count(), oldest, database_now()).where(not_(_b.parked))
    waiting = tx.execute(query if tenant_id is None else query.where(_b.tenant_id == tenant_id)).one()
    return Figures(
        _by_status(tx, _i, tenant_id),
        _by_status(tx, _t, tenant_id),
        waiting[0],
        max(0.0, (waiting[2] - waiting[1]).total_seconds()) if waiting[1] else 0.0,
    )


def _by_status(tx: Connection, columns: Any, tenant_id: TenantId | None) -> dict[str, int]:
    query = select(columns.status, func.count()).group_by(columns.status)
    if tenant_id is not None:
        query = query.where(columns.tenant_id == tenant_id)
    return {str(status): count for status, count in tx.execute(query)}


# -- what runs ----------------------------------------------------------------------------------------------------


SEEN_RECENTLY = timedelta(seconds=15)
"""For how long a worker that says nothing counts as alive: others may be late to find it dead, or not there to do it."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process that has not ended. `seen_at` is its last beat, `now` the database's time of this read."""

    id: WorkerId
    duty: str
    host: str
    pid: int
    version: str
    types: str
    slots: int
    started_at: datetime
    seen_at: datetime
    now: datetime

    @property
    def is_alive(self) -> bool:
        return self.now - self.seen_at < SEEN_RECENTLY


def offered_types(found: Iterable[WorkerRecord]) -> set[str]:
    """The task types that the living runners among these workers take."""
    return {type_ for one in found if one.is_alive and one.duty == "task-runner" for type_ in read(one.types)}


def list_workers(tx: Connection) -> list[WorkerRecord]:
    """The workers of this installation that have not ended, by duty and age. Shared by all tenants."""
    query = (
        select(
            _w.id, _w.duty, _w.host, _w.pid, _w.version, _w.types, _w.slots, _w.started_at, _w.seen_at, database_now()
        )
        .where(_w.ended_at.is_(None))
        .order_by(_w.duty, _w.id)
    )  # fmt: skip
    return [_worker(row) for row in tx.execute(query)]


def _worker(row: Any) -> WorkerRecord:
    return WorkerRecord(*row)


@dataclass(frozen=True, slots=True)
class HandlerRecord:
    """A task type that some runner offers; for SYSTEM, one function of it. Schemas are JSON texts."""

    type: str
    name: str
    description: str
    light: bool
    isolated: bool
    input_schema: str | None
    output_schema: str | None
    retry: str | None
    published_at: datetime


def list_handlers(tx: Connection) -> list[HandlerRecord]:
    """Everything that runners have published, by type and name. Shared by all tenants."""
    query = select(
        _h.type, _h.name, _h.description, _h.light, _h.isolated, _h.input_schema, _h.output_schema, _h.retry,
        _h.published_at,
    ).order_by(_h.type, _h.name)  # fmt: skip
    return [_handler(row) for row in tx.execute(query)]


def _handler(row: Any) -> HandlerRecord:
    return HandlerRecord(*row)
