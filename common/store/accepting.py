"""What the door reads of an instance before it accepts something for it, and the row that it puts into its inbox.

Read without a lock. What loses the race with the end of the instance is recorded there as rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select, text

from common.clock import database_now
from common.db.prepared import Prepared
from common.db.tables import instances
from common.ids import DefinitionId, TenantId
from common.lifecycle import InstanceStatus

_c = instances.c


class Standing(NamedTuple):
    """What decides whether something may be said to an instance, and the database's time when it was read."""

    status: InstanceStatus
    finished_at: datetime | None
    definition_id: DefinitionId
    now: datetime


_STANDING = select(_c.status, _c.finished_at, _c.definition_id, database_now()).where(
    _c.tenant_id == bindparam("tenant_id"), _c.id == bindparam("id")
)


def read_standing(tx: Connection, tenant_id: TenantId, instance_id: str) -> Standing | None:
    """How an instance stands; None when this tenant has no such instance."""
    row = tx.execute(_STANDING, {"tenant_id": tenant_id, "id": instance_id}).one_or_none()
    return None if row is None else Standing(InstanceStatus(row[0]), *row[1:])


_PUT = Prepared(
    text(
        "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at)"
        " VALUES (CAST(:tenant_id AS uuid), CAST(:instance_id AS uuid), :lane, :type, :body, :source,"
        " :accepted_at) RETURNING id"
    )
)


def put_alone(tx: Connection, row: Mapping[str, Any]) -> None:
    """Accept a row made by `inbox.new_row`; on a connection of `Database.each_alone` it is committed when this returns."""
    _PUT.rows(tx, row)
