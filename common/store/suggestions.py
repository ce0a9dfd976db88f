"""Suggestions: events that models would have sent, which wait for a person's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from common.db.rows import insert_rows
from common.db.tables import SuggestionStatus, suggestions
from common.db.types import UtcDateTime, among
from common.ids import InstanceId, TaskId, TenantId
from common.store.listing import Page

_s = suggestions.c


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One suggestion; `payload` and `confidence` are stored JSON texts."""

    id: str
    instance_id: InstanceId
    task_id: TaskId
    event: str
    payload: str
    reason: str
    confidence: str | None
    status: str
    created_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    comment: str | None


_ALL = select(
    _s.id, _s.instance_id, _s.task_id, _s.event, _s.payload, _s.reason, _s.confidence, _s.status, _s.created_at,
    _s.decided_at, _s.decided_by, _s.comment,
)  # fmt: skip


def put(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert open suggestions {id, tenant_id, instance_id, task_id, event, payload, reason, confidence, status, created_at}."""
    insert_rows(tx, suggestions, rows)


def read(tx: Connection, tenant_id: TenantId, suggestion_id: str) -> Suggestion | None:
    """One suggestion, or None when this tenant has no such suggestion."""
    row = tx.execute(_ALL.where(_s.tenant_id == tenant_id, _s.id == suggestion_id)).one_or_none()
    return None if row is None else _suggestion(row)


def list_suggestions(
    tx: Connection,
    tenant_id: TenantId,
    *,
    status: str | None,
    instance_id: str | None,
    before: str | None,
    limit: int,
) -> Page[Suggestion]:
    """Suggestions that match, newest first, older than the id `before`."""
    query = _ALL.where(_s.tenant_id == tenant_id).order_by(_s.id.desc()).limit(limit + 1)
    if status is not None:
        query = query.where(_s.status == status)
    if instance_id is not None:
        query = query.where(_s.instance_id == instance_id)
    if before is not None:
        query = query.where(_s.id < before)
    found = [_suggestion(row) for row in tx.execute(query)]
    return Page(found[:limit], len(found) > limit)


def _suggestion(row: Any) -> Suggestion:
    return Suggestion(*row)


_DECIDE = (
    update(suggestions)
    .where(
        _s.tenant_id == bindparam("b_tenant"),
        _s.id == bindparam("b_id"),
        _s.status == SuggestionStatus.OPEN.value,
    )
    .values(
        status=bindparam("b_status"),
        decided_at=bindparam("b_now", type_=UtcDateTime()),
        decided_by=bindparam("b_actor"),
        comment=bindparam("b_comment"),
    )
)


def decide(
    tx: Connection,
    tenant_id: TenantId,
    suggestion_id: str,
    status: SuggestionStatus,
    *,
    actor: str,
    comment: str | None,
    now: datetime,
) -> bool:
    """Decide an open suggestion. False where it is open no more: somebody else was first, or its instance ended."""
    names = {
        "b_tenant": tenant_id, "b_id": suggestion_id, "b_status": status.value, "b_now": now, "b_actor": actor,
        "b_comment": comment,
    }  # fmt: skip
    return tx.execute(_DECIDE, names).rowcount == 1


_EXPIRE = (
    update(suggestions)
    .where(among(_s.instance_id, "ids"), _s.status == SuggestionStatus.OPEN.value)
    .values(
        status=SuggestionStatus.EXPIRED.value,
        decided_at=bindparam("now", type_=UtcDateTime()),
        decided_by="engine",
    )
)


def expire(tx: Connection, instance_ids: Sequence[InstanceId], *, now: datetime) -> None:
    """Close the open suggestions of instances that have ended, whose locks the caller holds."""
    if instance_ids:
        tx.execute(_EXPIRE, {"ids": instance_ids, "now": now})
