"""Incidents: what stopped an instance, until somebody resolved it. (Lists for people are in `listing`.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from common.db.rows import Writes, insert_rows
from common.db.tables import IncidentStatus, incidents
from common.db.types import UtcDateTime, among
from common.ids import InstanceId, TenantId

_c = incidents.c
_RESOLVE = (
    update(incidents)
    .where(among(_c.instance_id, "ids"), _c.status == IncidentStatus.OPEN.value)
    .values(
        status=IncidentStatus.RESOLVED.value,
        resolved_at=bindparam("now", type_=UtcDateTime()),
        resolved_by=bindparam("actor"),
        resolution=bindparam("resolution"),
    )
)


def open_all(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert open incidents {id, tenant_id, instance_id, task_id, code, message, detail, sequence, status, opened_at}."""
    insert_rows(tx, incidents, rows)


def resolve_of(
    tx: Connection, instance_ids: Sequence[str], *, resolution: str, actor: str, now: datetime
) -> None:
    """Resolve every open incident of instances that the caller holds; `resolution` says by which way out."""
    if instance_ids:
        tx.execute(_RESOLVE, {"ids": instance_ids, "actor": actor, "now": now, "resolution": resolution})


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident as the commands about it need it. `detail` is stored JSON text; `sequence` the history row that tells of it."""

    id: str
    instance_id: InstanceId
    task_id: str | None
    code: str
    detail: str
    sequence: int
    status: IncidentStatus


_FACTS = select(_c.id, _c.instance_id, _c.task_id, _c.code, _c.detail, _c.sequence, _c.status)


def read_open(tx: Connection, tenant_id: TenantId, instance_id: str) -> list[OpenIncident]:
    """The open incidents of an instance, oldest first."""
    wanted = _FACTS.where(
        _c.tenant_id == tenant_id, _c.instance_id == instance_id, _c.status == IncidentStatus.OPEN.value
    )
    return [_facts(row) for row in tx.execute(wanted.order_by(_c.id))]


def find(tx: Connection, tenant_id: TenantId, incident_id: str) -> OpenIncident | None:
    """One incident, open or not; None when this tenant has no such incident."""
    row = tx.execute(_FACTS.where(_c.tenant_id == tenant_id, _c.id == incident_id)).one_or_none()
    return None if row is None else _facts(row)


def _facts(row: Any) -> OpenIncident:
    return OpenIncident(row[0], row[1], row[2], row[3], row[4], row[5], IncidentStatus(row[6]))
