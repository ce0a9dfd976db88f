"""Timers: rows on the database's clock. Firing turns one into an inbox row, in one transaction, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from common.db.rows import Writes, insert_rows, update_rows
from common.db.tables import InboxType, TimerStatus, timers
from common.db.types import UtcDateTime, among
from common.ids import InstanceId, TenantId

_c = timers.c
BATCH = 500


@dataclass(frozen=True, slots=True)
class DueTimer:
    """An armed timer whose time has come. `body` is the inbox row's body."""

    id: str
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    due_at: datetime
    inbox_type: InboxType
    body: str


def arm(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert timer rows {id, tenant_id, instance_id, key, due_at, status, inbox_type, body, created_at, finished_at}."""
    insert_rows(tx, timers, rows)


_CANCEL_ALL = (
    update(timers)
    .where(among(_c.instance_id, "ids"), _c.status == TimerStatus.ARMED.value)
    .values(status=TimerStatus.CANCELLED.value, finished_at=bindparam("now", type_=UtcDateTime()))
)


def cancel(tx: Connection, keys: Sequence[tuple[str, str]], *, now: datetime) -> None:
    """Cancel armed timers, (instance_id, key) each. One that fired meanwhile stays fired; its event will be ignored.

    Nobody waits on timer rows while holding one and wanting another: firing skips locked rows, and the caller holds
    their instance.
    """
    if keys:
        rows = [
            {
                "instance_id": instance_id,
                "key": key,
                "status": TimerStatus.CANCELLED.value,
                "finished_at": now,
            }
            for instance_id, key in sorted(keys)
        ]
        match = (("instance_id", "instance_id"), ("key", "key"))
        update_rows(tx, timers, rows, match=match, only_if="timers.status = 'armed'")


def cancel_all(tx: Connection, instance_ids: Sequence[str], *, now: datetime) -> None:
    """Cancel every armed timer of instances that ended."""
    if instance_ids:
        tx.execute(_CANCEL_ALL, {"ids": instance_ids, "now": now})


_DUE = (
    select(_c.id, _c.tenant_id, _c.instance_id, _c.key, _c.due_at, _c.inbox_type, _c.body)
    .where(_c.status == TimerStatus.ARMED.value, _c.due_at <= bindparam("now", type_=UtcDateTime()))
    .order_by(_c.due_at, _c.id)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
_FIRE = (
    update(timers)
    .where(among(_c.id, "ids"), _c.status == TimerStatus.ARMED.value)
    .values(status=TimerStatus.FIRED.value, finished_at=bindparam("now", type_=UtcDateTime()))
)
NEXT = select(func.min(_c.due_at)).where(_c.status == TimerStatus.ARMED.value)


def lock_due(tx: Connection, *, now: datetime) -> list[DueTimer]:
    """Lock up to 500 due timers, oldest first; rows that another process fires or cancels are skipped."""
    return [
        DueTimer(row[0], row[1], row[2], row[3], row[4], InboxType(row[5]), row[6])
        for row in tx.execute(_DUE, {"now": now})
    ]


def fire(tx: Connection, ids: Sequence[str], *, now: datetime) -> None:
    """Mark locked timers as fired."""
    if ids:
        tx.execute(_FIRE, {"ids": ids, "now": now})
