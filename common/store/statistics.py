"""How the instances of a definition have fared: counts and times, read from their rows when somebody asks.

Nothing is counted beforehand: what was deleted since, by its retention, is not in the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, case, cast, func, select
from sqlalchemy.sql.functions import coalesce

from common.db.tables import instances, tasks
from common.ids import TenantId
from common.lifecycle import InstanceStatus, TaskStatus

_i = instances.c
_t = tasks.c

MOST_TASKS = 200


@dataclass(frozen=True, slots=True)
class Fared:
    """The instances of one version that stand in one status. Times are of those that have started and ended."""

    version: int
    status: InstanceStatus
    count: int
    mean_ms: float | None
    longest_ms: float | None
    last_created_at: datetime


def read_instances(tx: Connection, tenant_id: TenantId, key: str, *, since: datetime) -> list[Fared]:
    """The instances of a definition that were created from `since` on, by version and status."""
    took = _milliseconds(tx, _i.started_at, _i.finished_at)
    query = (
        select(
            _i.definition_version, _i.status, func.count(), func.avg(took), func.max(took), func.max(_i.created_at)
        )
        .where(_i.tenant_id == tenant_id, _i.definition_key == key, _i.created_at >= since)
        .group_by(_i.definition_version, _i.status)
        .order_by(_i.definition_version.desc(), _i.status)
    )  # fmt: skip
    return [Fared(row[0], InstanceStatus(row[1]), *row[2:]) for row in tx.execute(query)]


@dataclass(frozen=True, slots=True)
class TaskFared:
    """The tasks of one name and type. `mean_ms` is of those that succeeded, from their creation to their end."""

    name: str
    type: str
    count: int
    succeeded: int
    failed: int
    open: int
    mean_attempts: float
    mean_ms: float | None
    longest_ms: float | None


def read_tasks(tx: Connection, tenant_id: TenantId, key: str, *, since: datetime) -> list[TaskFared]:
    """The tasks of the same instances by name and type, those that are most first; at most 200 of these."""
    asked = coalesce(_t.asked_as, _t.type)
    has_succeeded = _t.status == TaskStatus.SUCCEEDED
    took = case((has_succeeded, _milliseconds(tx, _t.created_at, _t.finished_at)))
    query = (
        select(
            _t.name, asked, func.count(),
            func.count(case((has_succeeded, 1))),
            func.count(case((_t.status == TaskStatus.FAILED, 1))),
            func.count(case((_t.finished_at.is_(None), 1))),
            func.avg(cast(_t.attempt, Float)), func.avg(took), func.max(took),
        )
        .join(instances, (_i.tenant_id == _t.tenant_id) & (_i.id == _t.instance_id))
        .where(_i.tenant_id == tenant_id, _i.definition_key == key, _i.created_at >= since)
        .group_by(_t.name, asked)
        .order_by(func.count().desc(), _t.name, asked)
        .limit(MOST_TASKS)
    )  # fmt: skip
    return [TaskFared(*row) for row in tx.execute(query)]


def _milliseconds(tx: Connection, begin: Any, end: Any) -> ColumnElement[float]:
    """How long it is from one instant to another; null where one of them is not there."""
    if tx.dialect.name == "postgresql":
        return cast(func.extract("epoch", end - begin) * 1_000, Float)
    return (func.julianday(end, type_=Float()) - func.julianday(begin, type_=Float())) * 86_400_000.0
