"""Triggers: which events start instances; and emitted events that wait for the triggers that answer them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, update

from common.db.rows import insert_rows
from common.db.tables import Source, published, triggers
from common.db.types import among
from common.ids import DefinitionId, InstanceId, TenantId
from common.store.listing import Page

BATCH = 100

_c = triggers.c
_p = published.c


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger. `condition` and `input` are stored JSON text; `definition_id` is the version that it is written in."""

    id: str
    tenant_id: TenantId
    name: str | None
    definition_key: str
    source: Source
    event: str
    condition: str | None
    business_key: str | None
    input: str | None
    definition_id: DefinitionId | None
    enabled: bool
    active: bool
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


_ROW = (
    _c.id, _c.tenant_id, _c.name, _c.definition_key, _c.source, _c.event, _c.condition, _c.business_key, _c.input,
    _c.definition_id, _c.enabled, _c.active, _c.created_at, _c.created_by, _c.updated_at, _c.updated_by,
)  # fmt: skip


def _trigger(row: Any) -> Trigger:
    values = list(row)
    values[4] = Source(values[4])
    return Trigger(*values)


# -- matching -----------------------------------------------------------------------------------------------------

_ANSWERS = _c.enabled & _c.active
_MATCHING = (
    select(*_ROW)
    .where(_c.tenant_id == bindparam("tenant_id"), among(_c.event, "patterns", "text"), _ANSWERS)
    .order_by(_c.id)
)
_MATCHING_ANY = (
    select(_c.tenant_id, _c.event, _c.id)
    .where(among(_c.tenant_id, "tenants"), among(_c.event, "patterns", "text"), _ANSWERS)
    .order_by(_c.id)
)


def find_matching(tx: Connection, tenant_id: TenantId, patterns: Sequence[str]) -> list[Trigger]:
    """The triggers of a tenant whose event is one of `patterns`, and that may start something."""
    names = {"tenant_id": tenant_id, "patterns": patterns}
    return [_trigger(row) for row in tx.execute(_MATCHING, names)]


def find_ids_matching(
    tx: Connection, tenants: Iterable[TenantId], patterns: Iterable[str]
) -> list[tuple[TenantId, str, str]]:
    """(tenant, pattern, id) of triggers of several tenants, for an orchestrator's batch: one statement."""
    names = {"tenants": sorted(tenants), "patterns": sorted(patterns)}
    return [(row[0], row[1], row[2]) for row in tx.execute(_MATCHING_ANY, names)]


# -- emitted events that wait -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """An event that waits for a trigger. `event` is its stored text; `depth` that of what it starts."""

    id: int
    tenant_id: TenantId
    trigger_id: str
    emitter_id: InstanceId
    depth: int
    event: str


def publish(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep emitted events {tenant_id, trigger_id, emitter_id, depth, event, published_at} for their triggers."""
    insert_rows(tx, published, rows)


_WAITING = (
    select(_p.id, _p.tenant_id, _p.trigger_id, _p.emitter_id, _p.depth, _p.event)
    .order_by(_p.id)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
HAS_WAITING = exists(select(_p.id))
"""Does any emitted event wait for a trigger?"""

_CONSUME = delete(published).where(among(_p.id, "ids", "big"))


def lock_published(tx: Connection) -> list[Published]:
    """Lock events that wait, the oldest first, at most 100; those that others hold are skipped."""
    return [Published(*row) for row in tx.execute(_WAITING)]


def consume(tx: Connection, ids: Sequence[int]) -> int:
    """Delete events that have had their triggers; returns how many went."""
    return tx.execute(_CONSUME, {"ids": ids}).rowcount if ids else 0


# -- by hand ------------------------------------------------------------------------------------------------------


def create(tx: Connection, row: Mapping[str, Any]) -> None:
    """Insert a trigger: every column."""
    tx.execute(insert(triggers), row)


def change(tx: Connection, tenant_id: TenantId, trigger_id: str, **changes: Any) -> None:
    """Change a trigger."""
    tx.execute(update(triggers).where(_c.tenant_id == tenant_id, _c.id == trigger_id).values(**changes))


def remove(tx: Connection, tenant_id: TenantId, trigger_id: str) -> None:
    """Delete a trigger. What it has started goes on."""
    tx.execute(delete(triggers).where(_c.tenant_id == tenant_id, _c.id == trigger_id))


def read(tx: Connection, tenant_id: TenantId, trigger_id: str) -> Trigger | None:
    """One trigger, or None when this tenant has no such trigger."""
    row = tx.execute(select(*_ROW).where(_c.tenant_id == tenant_id, _c.id == trigger_id)).one_or_none()
    return None if row is None else _trigger(row)


def read_of_definition(tx: Connection, tenant_id: TenantId, definition_key: str) -> list[Trigger]:
    """The triggers that are written in versions of a definition, whose key the caller has locked."""
    written = (_c.tenant_id == tenant_id, _c.definition_key == definition_key, _c.source == Source.DEFINITION)
    return [_trigger(row) for row in tx.execute(select(*_ROW).where(*written).order_by(_c.id))]


def count(tx: Connection, tenant_id: TenantId) -> int:
    """How many triggers a tenant has."""
    return tx.execute(
        select(func.count()).select_from(triggers).where(_c.tenant_id == tenant_id)
    ).scalar_one()


@dataclass(frozen=True, slots=True)
class TriggerFilter:
    """Which triggers a list shows; None does not restrict it."""

    definition_key: str | None = None
    event: str | None = None


def list_triggers(
    tx: Connection, tenant_id: TenantId, wanted: TriggerFilter, *, before: str | None, limit: int
) -> Page[Trigger]:
    """Triggers that match, newest first, older than the id `before`."""
    conditions = [_c.tenant_id == tenant_id]
    if wanted.definition_key is not None:
        conditions.append(_c.definition_key == wanted.definition_key)
    if wanted.event is not None:
        conditions.append(_c.event == wanted.event)
    if before is not None:
        conditions.append(_c.id < before)
    query = select(*_ROW).where(*conditions).order_by(_c.id.desc()).limit(limit + 1)
    found = [_trigger(row) for row in tx.execute(query)]
    return Page(found[:limit], len(found) > limit)
