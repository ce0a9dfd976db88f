"""What is due by now, and what a tenant may know of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from common.clock import instant_text
from common.db.now import read_now
from common.ids import TenantId
from common.retention import Keeping, kept_for
from common.store import retention
from common.store.retention import Rule


def due_rules(
    tx: Connection, keeping: Keeping, *, now: datetime, tenant_id: TenantId | None = None
) -> list[Rule]:
    """The rules that hold now, of a tenant or (None) of all: one for each definition version and status not kept for ever.

    Where the settings keep for ever, only definitions that say something themselves are read.
    """
    policies = retention.read_policies(tx, tenant_id, only_own=keeping.is_for_ever)
    return [
        Rule(policy.definition_id, status, now - kept)
        for policy in policies
        for status, kept in kept_for(policy.retention, keeping).items()
    ]


def retention_status(tx: Connection, keeping: Keeping, *, tenant_id: TenantId | None) -> Mapping[str, Any]:
    """{"keptDays", "due", "oldestFinishedAt", "deleted", "lastDeletedAt"}, of a tenant or (None) of all.

    `keptDays` is what the settings of the asking process say, by status; null for ever. `due` counts up to 10,000.
    """
    rules = due_rules(tx, keeping, now=read_now(tx), tenant_id=tenant_id)
    due = retention.count_due(tx, rules)
    deleted, last = retention.count_deleted(tx, tenant_id)
    kept = keeping.by_status()
    return {
        "keptDays": {
            status.value: None if time is None else time.total_seconds() / 86_400
            for status, time in kept.items()
        },
        "due": due.count,
        "oldestFinishedAt": None if due.oldest is None else instant_text(due.oldest),
        "deleted": deleted,
        "lastDeletedAt": None if last is None else instant_text(last),
    }
