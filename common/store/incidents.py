"""Incidents: what stopped an instance, until somebody resolved it. (Lists for people are in `listing`.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, update

from common.db.rows import insert_rows
from common.db.tables import IncidentStatus, incidents
from common.db.types import UtcDateTime, among

_c = incidents.c
_RESOLVE = (
    update(incidents)
    .where(among(_c.instance_id, "ids"), _c.status == IncidentStatus.OPEN.value)
    .values(
        status=IncidentStatus.RESOLVED.value,
        resolved_at=bindparam("now", type_=UtcDateTime()),
        resolved_by=bindparam("actor"),
    )
)


def open_all(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert open incidents {id, tenant_id, instance_id, task_id, code, message, detail, sequence, status, opened_at}."""
    insert_rows(tx, incidents, rows)


def resolve_of(tx: Connection, instance_ids: Sequence[str], *, actor: str, now: datetime) -> None:
    """Resolve every open incident of instances that the caller holds."""
    if instance_ids:
        tx.execute(_RESOLVE, {"ids": instance_ids, "actor": actor, "now": now})
