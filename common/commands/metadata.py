"""Setting metadata of an instance by hand; handlers set theirs by `task_runner/metadata.py`, within the same bounds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from common.canonical import read
from common.commands.absent import absent_instance
from common.db.now import read_now
from common.errors import Conflict, NotFound
from common.ids import TenantId, is_id
from common.metadata import MAX_KEYS, key_text, too_many_keys, value_text
from common.store import instances
from common.store import metadata as store
from common.store.metadata import MetadataRecord

Json = Any

UNSAID: Any = object()


def set_metadata(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    key: str,
    value: Json,
    *,
    expected: Json = UNSAID,
    actor: str,
) -> MetadataRecord:
    """Set a value, whatever the instance's status; with `expected` only in the place of that value.

    A key that is not there counts as null. Raises `NotFound` (`instance.not_found`), `Conflict` (`metadata.changed`),
    `Invalid` and `LimitExceeded`.
    """
    name, text = key_text(key), value_text(value)
    require_instance(tx, tenant_id, instance_id)
    only_over = None if expected is UNSAID else _expected(expected)
    now = read_now(tx)
    written = store.put(
        tx, tenant_id, instance_id, name, text, only_over=only_over, lease=None, most=MAX_KEYS,
        now=now, actor=actor,
    )  # fmt: skip
    if not written:
        found = store.read_value(tx, tenant_id, instance_id, name)
        if only_over is not None and found not in only_over:
            raise Conflict(
                f'metadata "{name}" is not what was expected; read it again', code="metadata.changed"
            )
        raise too_many_keys()
    return MetadataRecord(name, text, now, actor)


def _expected(value: Json) -> list[str | None]:
    text = value_text(value)
    return [text, None] if read(text) is None else [text]


def remove_metadata(tx: Connection, tenant_id: TenantId, instance_id: str, key: str) -> MetadataRecord:
    """Delete a value. Raises `NotFound` (`instance.not_found`, `metadata.not_found`)."""
    require_instance(tx, tenant_id, instance_id)
    found = store.remove(tx, tenant_id, instance_id, key, lease=None)
    if found is None:
        raise NotFound(f'no metadata "{key[:100]}"', code="metadata.not_found")
    return found


def require_instance(tx: Connection, tenant_id: TenantId, instance_id: str) -> None:
    """Raise `NotFound` (`instance.not_found`) unless this tenant has such an instance."""
    if not is_id(instance_id) or not instances.existing(tx, tenant_id, [instance_id]):
        raise absent_instance(tx, tenant_id, instance_id)
