"""What the work of an instance has come to: for each place of its definition that asked for tasks, the newest of them.

The key of a task is its place and how often this place has asked (`approved/1/2`), so the place is the key without the digits
at its end. Items of a MAP belong to their MAP.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Text, and_, cast, func, select

from common.db.tables import tasks
from common.ids import TenantId
from common.store.listing import Page, TaskRecord, _bytes, _read_tasks, fitting

_t = tasks.c


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """The newest task of one place, its key, and how many this place has asked for."""

    key: str
    runs: int
    task: TaskRecord


def list_results(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, before: str | None, limit: int
) -> Page[ResultRecord]:
    """One record a place, the newest task first, older than the task id `before`."""
    newest = func.max(cast(_t.id, Text())).label("newest")  # as text: PostgreSQL has no max of UUIDs
    places = (
        select(newest, func.count().label("runs"))
        .where(_t.tenant_id == tenant_id, _t.instance_id == instance_id, _t.parent_task_id.is_(None))
        .group_by(func.rtrim(_t.key, "0123456789"))
        .subquery()
    )
    query = (
        select(_t.id, _bytes(tx, _t.input, _t.output), _t.key, places.c.runs)
        .join(places, places.c.newest == cast(_t.id, Text()))
        .where(and_(_t.tenant_id == tenant_id, _t.instance_id == instance_id))
        .order_by(_t.id.desc())
    )
    if before is not None:
        query = query.where(_t.id < before)
    rows = tx.execute(query.limit(limit + 1)).all()
    chosen = fitting([(row, row[1]) for row in rows], limit)
    found = _read_tasks(tx, tenant_id, [row[0] for row in chosen])
    records = [ResultRecord(row[2], row[3], found[row[0]]) for row in chosen if row[0] in found]
    return Page(records, len(rows) > len(chosen))
