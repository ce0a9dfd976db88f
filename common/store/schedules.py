"""Schedules: when to start instances. A row waits for one instant; firing moves it to the next, guarded by what it waited for.

Lock order: schedules before instances. Firing skips rows that somebody holds; who changes one by hand waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, update

from common.db.tables import Source, instances, schedules
from common.db.types import UtcDateTime
from common.ids import InstanceId, TenantId
from common.lifecycle import LIVE
from common.schedule import CatchUp, Overlap, ScheduleKind
from common.store.listing import Page

BATCH = 50

_c = schedules.c
_i = instances.c


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule. `input` is stored JSON text, `queued` the instants that wait, oldest first, as stored JSON text.

    `scheduled_at` is the instant that it waits for, `next_at` when that run is due; both None where there is none.
    """

    id: str
    tenant_id: TenantId
    name: str | None
    definition_key: str
    source: Source
    kind: ScheduleKind
    expression: str
    timezone: str
    anchor_at: datetime
    overlap: Overlap
    catch_up: CatchUp
    catch_up_limit: int
    jitter_ms: int
    input: str | None
    business_key: str | None
    paused: bool
    active: bool
    scheduled_at: datetime | None
    next_at: datetime | None
    queued: str
    last_scheduled_at: datetime | None
    last_fired_at: datetime | None
    last_instance_id: InstanceId | None
    last_error: str | None
    fired: int
    skipped: int
    refused: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


_ROW = (
    _c.id, _c.tenant_id, _c.name, _c.definition_key, _c.source, _c.kind, _c.expression, _c.timezone, _c.anchor_at,
    _c.overlap, _c.catch_up, _c.catch_up_limit, _c.jitter_ms, _c.input, _c.business_key, _c.paused, _c.active,
    _c.scheduled_at, _c.next_at, _c.queued, _c.last_scheduled_at, _c.last_fired_at, _c.last_instance_id,
    _c.last_error, _c.fired, _c.skipped, _c.refused, _c.created_at, _c.created_by, _c.updated_at, _c.updated_by,
)  # fmt: skip


def _schedule(row: Any) -> Schedule:
    values = list(row)
    values[4], values[5] = Source(values[4]), ScheduleKind(values[5])
    values[9], values[10] = Overlap(values[9]), CatchUp(values[10])
    return Schedule(*values)


# -- firing -------------------------------------------------------------------------------------------------------

_MAY_FIRE = ~_c.paused & _c.next_at.is_not(None)
_HAS_QUEUED = ~_c.paused & (_c.queued != "[]")
_NO_ONE_LIVES = ~exists().where(
    _i.schedule_id == _c.id, _i.schedule_id.is_not(None), _i.status.in_(LIVE)
).correlate(schedules)
NEXT_RUN = select(func.min(_c.next_at)).where(_MAY_FIRE)
IS_FREED = exists().where(_HAS_QUEUED, _NO_ONE_LIVES)
"""May a run start that waited for another?"""

_DUE = (
    select(*_ROW)
    .where(_MAY_FIRE, _c.next_at <= bindparam("now", type_=UtcDateTime()))
    .order_by(_c.next_at, _c.id)
    .limit(BATCH)
    .with_for_update(key_share=True, skip_locked=True)
)
_FREED = (
    select(*_ROW)
    .where(_HAS_QUEUED, _NO_ONE_LIVES)
    .order_by(_c.id)
    .limit(BATCH)
    .with_for_update(key_share=True, skip_locked=True)
)


def lock_due(tx: Connection, *, now: datetime) -> list[Schedule]:
    """Lock schedules whose run is due, the oldest first, at most 50; what others hold is skipped."""
    return [_schedule(row) for row in tx.execute(_DUE, {"now": now})]


def lock_freed(tx: Connection) -> list[Schedule]:
    """Lock schedules with runs that wait, and with no live instance that they would wait for; at most 50."""
    return [_schedule(row) for row in tx.execute(_FREED)]


def move(
    tx: Connection,
    schedule: Schedule,
    *,
    scheduled_at: datetime | None,
    next_at: datetime | None,
    **changes: Any,
) -> bool:
    """Let a schedule wait for another instant, unless it waits for another one already: then False, and nothing changed."""
    waits = _c.next_at.is_(None) if schedule.next_at is None else _c.next_at == schedule.next_at
    moved = update(schedules).where(_c.id == schedule.id, waits)
    return tx.execute(moved.values(scheduled_at=scheduled_at, next_at=next_at, **changes)).rowcount == 1


_LIVING = (
    select(_i.id)
    .where(_i.schedule_id == bindparam("schedule_id"), _i.schedule_id.is_not(None), _i.status.in_(LIVE))
    .order_by(_i.id)
)


def find_living(tx: Connection, schedule_id: str) -> list[InstanceId]:
    """The live instances that a schedule has started, oldest first. A failed one, which is frozen, does not count."""
    return list(tx.execute(_LIVING, {"schedule_id": schedule_id}).scalars())


# -- by hand ------------------------------------------------------------------------------------------------------


def create(tx: Connection, row: Mapping[str, Any]) -> None:
    """Insert a schedule: every column that has no default."""
    tx.execute(insert(schedules), row)


def change(tx: Connection, tenant_id: TenantId, schedule_id: str, **changes: Any) -> None:
    """Change a schedule that this transaction has locked."""
    tx.execute(update(schedules).where(_c.tenant_id == tenant_id, _c.id == schedule_id).values(**changes))


def remove(tx: Connection, tenant_id: TenantId, schedule_id: str) -> None:
    """Delete a schedule that this transaction has locked. What it has started goes on."""
    tx.execute(delete(schedules).where(_c.tenant_id == tenant_id, _c.id == schedule_id))


def read(tx: Connection, tenant_id: TenantId, schedule_id: str) -> Schedule | None:
    """One schedule, or None when this tenant has no such schedule."""
    row = tx.execute(select(*_ROW).where(_c.tenant_id == tenant_id, _c.id == schedule_id)).one_or_none()
    return None if row is None else _schedule(row)


def lock(tx: Connection, tenant_id: TenantId, schedule_id: str) -> Schedule | None:
    """As `read`, locked until the transaction ends; waits for who fires it."""
    query = select(*_ROW).where(_c.tenant_id == tenant_id, _c.id == schedule_id)
    row = tx.execute(query.with_for_update(key_share=True)).one_or_none()
    return None if row is None else _schedule(row)


def lock_of_definition(tx: Connection, tenant_id: TenantId, definition_key: str) -> list[Schedule]:
    """Lock the schedules that are written in versions of a definition, in the order of their ids."""
    written = (_c.tenant_id == tenant_id, _c.definition_key == definition_key, _c.source == Source.DEFINITION)
    query = select(*_ROW).where(*written).order_by(_c.id).with_for_update(key_share=True)
    return [_schedule(row) for row in tx.execute(query)]


def count(tx: Connection, tenant_id: TenantId) -> int:
    """How many schedules a tenant has."""
    return tx.execute(
        select(func.count()).select_from(schedules).where(_c.tenant_id == tenant_id)
    ).scalar_one()


@dataclass(frozen=True, slots=True)
class ScheduleFilter:
    """Which schedules a list shows; None does not restrict it."""

    definition_key: str | None = None
    paused: bool | None = None


def list_schedules(
    tx: Connection, tenant_id: TenantId, wanted: ScheduleFilter, *, before: str | None, limit: int
) -> Page[Schedule]:
    """Schedules that match, newest first, older than the id `before`."""
    conditions = [_c.tenant_id == tenant_id]
    if wanted.definition_key is not None:
        conditions.append(_c.definition_key == wanted.definition_key)
    if wanted.paused is not None:
        conditions.append(_c.paused == wanted.paused)
    if before is not None:
        conditions.append(_c.id < before)
    query = select(*_ROW).where(*conditions).order_by(_c.id.desc()).limit(limit + 1)
    found = [_schedule(row) for row in tx.execute(query)]
    return Page(found[:limit], len(found) > limit)
