"""Starts: an instance and the start in its inbox, accepted by one statement.

This is the path of every workflow, so it is one round trip on PostgreSQL: the definition is looked at, the clock is read and
both rows are written together. Nothing is written where the definition is not active any more, whatever the caller
remembers of it, nor where a live instance holds the business key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, TextClause, bindparam, literal_column, select, text
from sqlalchemy.dialects import postgresql, sqlite

from common.clock import database_now
from common.db.prepared import Prepared
from common.db.tables import DefinitionStatus, InboxType, definitions, instances
from common.ids import DefinitionId, InstanceId, TenantId
from common.lifecycle import InstanceStatus
from common.store import inbox
from common.store.instances import BUSINESS_KEY, GENESIS

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
_d = definitions.c


@dataclass(frozen=True, slots=True)
class NewStart:
    """A pending instance and its start. `input` and `body` as they are stored; `actor` is who the history names.

    Where `start_at` lies in the future by the database's clock, its start is left out: a timer of the caller's brings it.
    """

    instance_id: InstanceId
    tenant_id: TenantId
    definition_id: DefinitionId
    business_key: str | None
    input: str
    body: str
    actor: str
    priority: int
    labels: Mapping[str, str]
    depth: int
    start_at: datetime | None = None
    schedule_id: str | None = None
    scheduled_at: datetime | None = None
    concurrency_key: str | None = None
    is_queued: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """When, by the database's clock; `is_inserted` is False where a live instance holds the business key."""

    at: datetime
    is_inserted: bool


def insert_started(tx: Connection, new: NewStart) -> Accepted | None:
    """Accept a start; None where its definition is not active, and nothing was written."""
    if tx.dialect.name != "postgresql":
        return _insert_in_turn(tx, new)
    rows = _STARTED[new.business_key is not None].rows(tx, _parameters(new))
    return Accepted(rows[0][0], rows[0][1] == 1) if rows else None


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


def _parameters(new: NewStart) -> dict[str, Any]:
    return {
        "id": new.instance_id,
        "tenant_id": new.tenant_id,
        "definition_id": new.definition_id,
        "business_key": new.business_key,
        "input": new.input,
        "body": new.body,
        "actor": new.actor,
        "priority": new.priority,
        "labels": orjson.dumps(new.labels).decode() if new.labels else "{}",
        "depth": new.depth,
        "start_at": new.start_at,
        "schedule_id": new.schedule_id,
        "scheduled_at": new.scheduled_at,
        "concurrency_key": new.concurrency_key,
        "queued": new.is_queued,
    }


def _started(*, is_keyed: bool) -> TextClause:
    """The statement. The clock is read once, because a part that two others read is worked out once."""
    now = database_now().compile(dialect=_POSTGRESQL)
    columns = ", ".join(column.name for column in BUSINESS_KEY.columns)
    unless_held = (
        f" ON CONFLICT ({columns}) WHERE {BUSINESS_KEY.dialect_options['postgresql']['where']} DO NOTHING"
    )
    return text(
        f"WITH active AS MATERIALIZED (SELECT key, version, {now} AS now FROM definitions"
        f" WHERE id = CAST(:definition_id AS uuid) AND tenant_id = CAST(:tenant_id AS uuid)"
        f" AND status = '{DefinitionStatus.ACTIVE.value}'),"
        " made AS (INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version,"
        " business_key, status, head_hash, input, priority, labels, created_at, depth, schedule_id, scheduled_at,"
        " concurrency_key, queued)"
        " SELECT CAST(:id AS uuid), CAST(:tenant_id AS uuid), CAST(:definition_id AS uuid), key, version,"
        f" :business_key, '{InstanceStatus.PENDING.value}', CAST('\\x{GENESIS.hex()}' AS bytea), :input,"
        " :priority, CAST(:labels AS jsonb), now, :depth, CAST(:schedule_id AS uuid),"
        " CAST(:scheduled_at AS timestamptz), :concurrency_key, :queued"
        f" FROM active{unless_held if is_keyed else ''} RETURNING id),"
        " accepted AS (INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at)"
        f" SELECT CAST(:tenant_id AS uuid), made.id, {inbox.ORDINARY}, '{InboxType.START.value}', :body, :actor, now"
        " FROM made, active WHERE coalesce(CAST(:start_at AS timestamptz) <= now, true))"
        " SELECT now, (SELECT count(*) FROM made) FROM active"
    )


_STARTED = {is_keyed: Prepared(_started(is_keyed=is_keyed)) for is_keyed in (False, True)}

# -- SQLite, in process: a statement costs no round trip ------------------------------------------------------------

_ACTIVE = Prepared(
    select(_d.key, _d.version, database_now()).where(
        _d.id == bindparam("definition_id"),
        _d.tenant_id == bindparam("tenant_id"),
        _d.status == literal_column(f"'{DefinitionStatus.ACTIVE.value}'"),
    )
)
_COLUMNS = (
    "id", "tenant_id", "definition_id", "definition_key", "definition_version", "business_key", "status", "head_hash",
    "input", "priority", "labels", "created_at", "depth", "schedule_id", "scheduled_at", "concurrency_key", "queued",
)  # fmt: skip
_INSERT = {
    "sqlite": Prepared(
        sqlite.insert(instances)
        .values({name: bindparam(name) for name in _COLUMNS})
        .on_conflict_do_nothing(
            index_elements=list(BUSINESS_KEY.columns),
            index_where=BUSINESS_KEY.dialect_options["sqlite"]["where"],
        )
        .returning(instances.c.id)
    )
}


def _insert_in_turn(tx: Connection, new: NewStart) -> Accepted | None:
    active = _ACTIVE.rows(tx, {"definition_id": new.definition_id, "tenant_id": new.tenant_id})
    if not active:
        return None
    [(key, version, now)] = active
    row = {
        "id": new.instance_id,
        "tenant_id": new.tenant_id,
        "definition_id": new.definition_id,
        "definition_key": key,
        "definition_version": version,
        "business_key": new.business_key,
        "status": InstanceStatus.PENDING.value,
        "head_hash": GENESIS,
        "input": new.input,
        "priority": new.priority,
        "labels": dict(new.labels),
        "created_at": now,
        "depth": new.depth,
        "schedule_id": new.schedule_id,
        "scheduled_at": new.scheduled_at,
        "concurrency_key": new.concurrency_key,
        "queued": new.is_queued,
    }
    if not _INSERT["sqlite"].rows(tx, row):
        return Accepted(now, is_inserted=False)
    if new.start_at is None or new.start_at <= now:
        start = inbox.new_row(new.tenant_id, new.instance_id, InboxType.START, new.body, new.actor, now)
        inbox.put(tx, [start])
    return Accepted(now, is_inserted=True)
