"""What is not there: an instance that never was, or belongs to another tenant, or its time of keeping was over; a definition that nobody applied."""

from __future__ import annotations

from sqlalchemy import Connection

from common.errors import Gone, NotFound
from common.ids import TenantId, is_id
from common.store import definitions
from common.store.retention import find_tombstone


def absent_instance(tx: Connection, tenant_id: TenantId, instance_id: str) -> NotFound:
    """The error to raise: `Gone` (`instance.deleted`) with what its tombstone tells, else `NotFound` (`instance.not_found`)."""
    left = find_tombstone(tx, tenant_id, instance_id) if is_id(instance_id) else None
    if left is None:
        return NotFound(f'no instance "{instance_id[:100]}"', code="instance.not_found")
    return Gone(
        f'instance {instance_id} of "{left["definition_key"]}" was {left["status"]} at {left["finished_at"]}'
        f" and deleted at {left['deleted_at']}, when its time of keeping was over",
        code="instance.deleted",
        definitionKey=left["definition_key"],
        definitionVersion=left["definition_version"],
        instanceStatus=left["status"],
        parentId=left["parent_id"],
        createdAt=left["created_at"],
        startedAt=left["started_at"],
        finishedAt=left["finished_at"],
        erasedAt=left["erased_at"],
        deletedAt=left["deleted_at"],
        reason=left["reason"],
        sequence=left["sequence"],
        headHash=left["head_hash"],
    )


def require_definition(tx: Connection, tenant_id: TenantId, key: str) -> None:
    """Raise `NotFound` (`definition.not_found`) where this tenant has no version of a definition."""
    if definitions.find_newest(tx, tenant_id, key) is None:
        raise NotFound(f'no definition "{key}"; apply it first', code="definition.not_found")
