"""Metadata of instances: JSON values by key, shared by the steps and handlers of one instance.

Each write is one statement that says what it expects: the value that was read, where the new one was made of it, and the lease
of the task that writes, where a task does. Zero rows is an ordinary answer: somebody was faster, or the lease is lost. Rows
are locked by these statements alone; who holds tasks takes them after those and before joins and limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, and_, delete, func, literal, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from common.clock import UtcDateTime
from common.db.tables import instance_metadata, tasks
from common.db.types import CanonicalText, Id
from common.ids import LeaseToken, TaskId, TenantId
from common.lifecycle import TaskStatus
from common.store.listing import Page, _bytes, _choose

_m = instance_metadata.c
_t = tasks.c


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of the task that writes: its write counts only while it holds."""

    task_id: TaskId
    token: LeaseToken

    def holds(self) -> ColumnElement[bool]:
        return (
            select(_t.id)
            .where(_t.id == self.task_id, _t.lease_token == self.token, _t.status == TaskStatus.RUNNING.value)
            .exists()
        )


@dataclass(frozen=True, slots=True)
class MetadataRecord:
    """One value as people see it."""

    key: str
    value: str
    updated_at: datetime
    updated_by: str


def read_value(tx: Connection, tenant_id: TenantId, instance_id: str, key: str) -> str | None:
    """The stored text of one value, None where there is none."""
    query = select(_m.value).where(_of(tenant_id, instance_id), _m.key == key)
    return tx.execute(query).scalar_one_or_none()


def read_all(tx: Connection, tenant_id: TenantId, instance_id: str) -> dict[str, str]:
    """The stored texts of all values, by key."""
    query = select(_m.key, _m.value).where(_of(tenant_id, instance_id)).order_by(_m.key)
    return {row.key: row.value for row in tx.execute(query)}


def put(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    key: str,
    value: str,
    *,
    only_over: Sequence[str | None] | None,
    lease: Lease | None,
    most: int,
    now: datetime,
    actor: str,
) -> bool:
    """Set a value; False where nothing was written.

    `only_over`: the value must be one of these texts, None among them for none at all; without it any is overwritten.
    `lease`: it must be held. An instance gets no more than `most` keys.
    """
    if only_over is not None and None not in only_over:
        return _overwrite(tx, tenant_id, instance_id, key, value, only_over, lease, now, actor)
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    mine = instance_metadata.alias()
    is_there = select(mine.c.key).where(mine.c.instance_id == instance_id, mine.c.key == key).exists()
    count = select(func.count()).where(mine.c.instance_id == instance_id).scalar_subquery()
    may = [or_(is_there, count < most), *([lease.holds()] if lease else [])]
    source = select(
        literal(instance_id, Id()),
        literal(key, Text()),
        literal(tenant_id, Id()),
        literal(value, CanonicalText()),
        literal(now, UtcDateTime()),
        literal(actor, Text()),
    ).where(*may)
    columns = ["instance_id", "key", "tenant_id", "value", "updated_at", "updated_by"]
    inserting = dialect.insert(instance_metadata).from_select(columns, source)
    changed = {name: inserting.excluded[name] for name in ("value", "updated_at", "updated_by")}
    over = None if only_over is None else _m.value.in_([text for text in only_over if text is not None])
    statement = inserting.on_conflict_do_update(
        index_elements=[_m.instance_id, _m.key], set_=changed, where=over
    )
    # By what is returned: PostgreSQL's driver does not count the rows of an INSERT from a SELECT.
    return tx.execute(statement.returning(_m.key)).one_or_none() is not None


def _overwrite(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    key: str,
    value: str,
    only_over: Sequence[str | None],
    lease: Lease | None,
    now: datetime,
    actor: str,
) -> bool:
    statement = instance_metadata.update().where(
        _of(tenant_id, instance_id),
        _m.key == key,
        _m.value.in_([text for text in only_over if text is not None]),
        *([lease.holds()] if lease else []),
    )
    done = tx.execute(statement.values(value=value, updated_at=now, updated_by=actor))
    return done.rowcount == 1


def remove(
    tx: Connection, tenant_id: TenantId, instance_id: str, key: str, *, lease: Lease | None
) -> MetadataRecord | None:
    """Delete a value and return what it was; None where nothing was deleted."""
    statement = delete(instance_metadata).where(
        _of(tenant_id, instance_id), _m.key == key, *([lease.holds()] if lease else [])
    )
    row = tx.execute(statement.returning(*_RECORD)).one_or_none()
    return None if row is None else MetadataRecord(*row)


def is_held(tx: Connection, lease: Lease) -> bool:
    """Does the task still have this lease?"""
    return bool(tx.execute(select(lease.holds())).scalar_one())


_RECORD = (_m.key, _m.value, _m.updated_at, _m.updated_by)


def find(tx: Connection, tenant_id: TenantId, instance_id: str, key: str) -> MetadataRecord | None:
    """One value, or None."""
    row = tx.execute(select(*_RECORD).where(_of(tenant_id, instance_id), _m.key == key)).one_or_none()
    return None if row is None else MetadataRecord(*row)


def list_metadata(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, after: str | None, limit: int
) -> Page[MetadataRecord]:
    """Values by key, those after the key `after`."""
    conditions = [_of(tenant_id, instance_id), *([] if after is None else [_m.key > after])]
    sizes = select(_m.key, _bytes(tx, _m.value)).where(*conditions).order_by(_m.key)
    keys, has_more = _choose(tx, sizes, limit)
    if not keys:
        return Page([], False)
    query = select(*_RECORD).where(*conditions, _m.key <= keys[-1]).order_by(_m.key)
    return Page([MetadataRecord(*row) for row in tx.execute(query)], has_more)


def _of(tenant_id: TenantId, instance_id: Any) -> ColumnElement[bool]:
    return and_(_m.tenant_id == tenant_id, _m.instance_id == instance_id)
