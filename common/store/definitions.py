"""Definitions: immutable documents, numbered per tenant and key; only their status ever changes.

At most one version of a key is active (a partial unique index says so). Whoever changes versions or statuses of a key
holds `lock_key` first, so that two activations queue up instead of meeting on that index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from common.db.tables import DefinitionStatus, definitions, handlers
from common.ids import DefinitionId, TenantId

_c = definitions.c
_h = handlers.c


@dataclass(frozen=True, slots=True)
class DefinitionFacts:
    """One version without its document: what a start and a list need. `warnings` is stored JSON text."""

    id: DefinitionId
    key: str
    version: int
    status: DefinitionStatus
    checksum: str
    labels: dict[str, str]
    warnings: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Definition:
    """One version with its document, the text that was applied: its members in their order."""

    facts: DefinitionFacts
    document: str


@dataclass(frozen=True, slots=True)
class CurrentDefinition:
    """A key as lists show it: its active version, else its newest, and what else there is."""

    facts: DefinitionFacts
    newest_version: int


_FACTS = (
    _c.id,
    _c.key,
    _c.version,
    _c.status,
    _c.checksum,
    _c.labels,
    _c.warnings,
    _c.created_by,
    _c.created_at,
)


def _facts(row: Any) -> DefinitionFacts:
    values = list(row[:9])
    values[3] = DefinitionStatus(values[3])
    return DefinitionFacts(*values)


def _of(tenant_id: TenantId, key: str) -> ColumnElement[bool]:
    return (_c.tenant_id == tenant_id) & (_c.key == key)


# -- one ----------------------------------------------------------------------------------------------------------


_OF_KEY = (_c.tenant_id == bindparam("tenant_id"), _c.key == bindparam("key"))
# Built once: every start asks one of these, and building a statement costs more than running it.
_ACTIVE_FACTS = select(*_FACTS).where(*_OF_KEY, _c.status == DefinitionStatus.ACTIVE)
_VERSION_FACTS = select(*_FACTS).where(*_OF_KEY, _c.version == bindparam("version"))


def find_facts(
    tx: Connection, tenant_id: TenantId, key: str, *, version: int | None = None
) -> DefinitionFacts | None:
    """One version of a key, or without `version` its active one; None when there is no such version."""
    names: dict[str, Any] = {"tenant_id": tenant_id, "key": key}
    if version is None:
        row = tx.execute(_ACTIVE_FACTS, names).one_or_none()
    else:
        row = tx.execute(_VERSION_FACTS, names | {"version": version}).one_or_none()
    return None if row is None else _facts(row)


def find_facts_by_id(tx: Connection, tenant_id: TenantId, definition_id: str) -> DefinitionFacts | None:
    """One version by its id, or None when this tenant has no such definition."""
    row = tx.execute(select(*_FACTS).where(_c.tenant_id == tenant_id, _c.id == definition_id)).one_or_none()
    return None if row is None else _facts(row)


_DOCUMENT = select(_c.document).where(_c.id == bindparam("definition_id"))


def read_document(tx: Connection, definition_id: str) -> str | None:
    """The document of a version, by an id that was found under its tenant."""
    return tx.execute(_DOCUMENT, {"definition_id": definition_id}).scalar_one_or_none()


def find_version(tx: Connection, tenant_id: TenantId, key: str, version: int) -> Definition | None:
    """One version with its document, or None."""
    return _one(tx, select(*_FACTS, _c.document).where(_of(tenant_id, key), _c.version == version))


def find_current(tx: Connection, tenant_id: TenantId, key: str) -> Definition | None:
    """The active version of a key, else its newest, with its document; None for an unknown key."""
    query = select(*_FACTS, _c.document).where(_of(tenant_id, key)).order_by(*_CURRENT_FIRST).limit(1)
    return _one(tx, query)


def find_newest_version(tx: Connection, tenant_id: TenantId, key: str) -> int | None:
    """The number of the version of a key that was applied last; None for an unknown key."""
    newest: int | None = tx.execute(select(func.max(_c.version)).where(_of(tenant_id, key))).scalar_one()
    return newest


def find_newest(tx: Connection, tenant_id: TenantId, key: str) -> Definition | None:
    """The version of a key that was applied last, whatever its status; None for an unknown key."""
    query = select(*_FACTS, _c.document).where(_of(tenant_id, key)).order_by(_c.version.desc()).limit(1)
    return _one(tx, query)


def _one(tx: Connection, query: Select[Any]) -> Definition | None:
    row = tx.execute(query).one_or_none()
    return None if row is None else Definition(_facts(row), row[9])


_CURRENT_FIRST = ((_c.status == DefinitionStatus.ACTIVE).desc(), _c.version.desc())

# -- changing -----------------------------------------------------------------------------------------------------


def lock_key(tx: Connection, tenant_id: TenantId, key: str) -> None:
    """Queue up for this key until the transaction ends: its first version is the lock. Nothing is locked for a new key."""
    first = select(_c.id).where(_of(tenant_id, key)).order_by(_c.version).limit(1)
    # Not the stronger lock: inserts of instances take KEY SHARE on their definition and must not wait.
    tx.execute(first.with_for_update(key_share=True))


def insert_version(
    tx: Connection,
    tenant_id: TenantId,
    *,
    definition_id: str,
    key: str,
    version: int,
    document: str,
    checksum: str,
    warnings: str,
    retention: str | None = None,
    created_by: str,
    now: datetime,
) -> bool:
    """Insert a draft. False when somebody else made this version first: read again, then try again."""
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    done = tx.execute(
        dialect.insert(definitions)
        .values(
            id=definition_id,
            tenant_id=tenant_id,
            key=key,
            version=version,
            status=DefinitionStatus.DRAFT.value,
            document=document,
            checksum=checksum,
            warnings=warnings,
            retention=retention,
            created_by=created_by,
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=[_c.tenant_id, _c.key, _c.version])
        .returning(_c.id)  # SQLAlchemy does not tell how many rows an insert made
    )
    return done.one_or_none() is not None


def activate(tx: Connection, tenant_id: TenantId, key: str, version: int) -> None:
    """Make one version the active one and the version that was active inactive. The caller holds `lock_key`."""
    tx.execute(
        update(definitions)
        .where(_of(tenant_id, key), _c.status == DefinitionStatus.ACTIVE, _c.version != version)
        .values(status=DefinitionStatus.INACTIVE.value)
    )
    set_status(tx, tenant_id, key, version, DefinitionStatus.ACTIVE)


def set_status(tx: Connection, tenant_id: TenantId, key: str, version: int, status: DefinitionStatus) -> None:
    """Set the status of one version. The caller holds `lock_key` and has looked at the status that it had."""
    tx.execute(
        update(definitions).where(_of(tenant_id, key), _c.version == version).values(status=status.value)
    )


# -- lists --------------------------------------------------------------------------------------------------------


def list_current(
    tx: Connection, tenant_id: TenantId, *, search: str | None = None, after: str | None, limit: int
) -> list[CurrentDefinition]:
    """The keys of a tenant in alphabetical order, each by its active version or else its newest, from after `after`.

    With `search` those that have this text in them, in upper or lower case (on SQLite of ASCII).
    """
    ranked = select(
        *_FACTS,
        func.row_number().over(partition_by=_c.key, order_by=_CURRENT_FIRST).label("rank"),
        func.max(_c.version).over(partition_by=_c.key).label("newest"),
    ).where(_c.tenant_id == tenant_id)
    if search is not None:
        ranked = ranked.where(_c.key.icontains(search, autoescape=True))
    if after is not None:
        ranked = ranked.where(_c.key > after)
    rows = ranked.subquery()
    query = select(rows).where(rows.c.rank == 1).order_by(rows.c.key).limit(limit)
    return [CurrentDefinition(_facts(row), row.newest) for row in tx.execute(query)]


def list_versions(
    tx: Connection, tenant_id: TenantId, key: str, *, before: int | None, limit: int
) -> list[DefinitionFacts]:
    """The versions of a key, newest first, from below `before`."""
    query = select(*_FACTS).where(_of(tenant_id, key)).order_by(_c.version.desc()).limit(limit)
    if before is not None:
        query = query.where(_c.version < before)
    return [_facts(row) for row in tx.execute(query)]


# -- what runners can do ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedTypes:
    """What runners have published so far. Without any type no runner has ever published; None: not known."""

    types: frozenset[str] | None
    functions: frozenset[str]  # names of the type SYSTEM
    workflows: frozenset[str] | None = None  # keys of the tenant's definitions; None: not known
    inputs: Mapping[tuple[str, str], str] = field(
        default_factory=dict
    )  # schemas by type and, for SYSTEM, name


def read_published_types(tx: Connection, tenant_id: TenantId) -> PublishedTypes:
    """What there is to run, for the check at the door: the types that runners offer to all tenants, this one's workflows."""
    keys = tx.execute(select(_c.key).where(_c.tenant_id == tenant_id).distinct()).scalars()
    rows = tx.execute(select(_h.type, _h.name, _h.input_schema)).all()
    return PublishedTypes(
        frozenset(row.type for row in rows),
        frozenset(row.name for row in rows if row.type == "SYSTEM" and row.name),
        frozenset(keys),
        {(row.type, row.name): row.input_schema for row in rows if row.input_schema is not None},
    )
