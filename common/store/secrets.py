"""Secrets: values that tasks use and nobody reads. They stand here sealed; their texts are never a parameter of this module.

A secret's row is locked last of all, by itself or in the order of tenant and name, and never with the row of something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from common.db.rows import update_rows
from common.db.tables import secrets
from common.db.types import UtcDateTime, among
from common.ids import TenantId
from common.sealing import Sealed

_c = secrets.c


class Named(NamedTuple):
    """A secret's whole name: tenants never meet."""

    tenant_id: TenantId
    name: str


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """What may be told of a secret. `version` counts how often its value was set; `key_id`: which key it is sealed under."""

    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    updated_by: str
    key_id: str


_TOLD = (_c.name, _c.version, _c.created_at, _c.updated_at, _c.updated_by, _c.key_id)


def _set_statement(dialect: Any) -> ReturningInsert[Any]:
    row = dialect.insert(secrets).values(
        tenant_id=bindparam("tenant_id", type_=_c.tenant_id.type),
        name=bindparam("name", type_=_c.name.type),
        version=1,
        key_id=bindparam("key_id", type_=_c.key_id.type),
        sealed=bindparam("sealed", type_=_c.sealed.type),
        created_at=bindparam("now", type_=UtcDateTime()),
        updated_at=bindparam("now", type_=UtcDateTime()),
        updated_by=bindparam("updated_by", type_=_c.updated_by.type),
    )
    changed = {name: row.excluded[name] for name in ("key_id", "sealed", "updated_at", "updated_by")}
    stored: ReturningInsert[Any] = row.on_conflict_do_update(
        index_elements=(_c.tenant_id, _c.name), set_={**changed, "version": _c.version + 1}
    ).returning(*_TOLD)
    return stored


_SET = {"postgresql": _set_statement(postgresql), "sqlite": _set_statement(sqlite)}


def set_secret(
    tx: Connection, tenant_id: TenantId, name: str, sealed: Sealed, *, updated_by: str, now: datetime
) -> SecretRecord:
    """Set a secret's value: a new secret of version 1, or the next version of the one there is, which is then gone."""
    row = tx.execute(
        _SET[tx.dialect.name],
        {
            "tenant_id": tenant_id,
            "name": name,
            "key_id": sealed.key_id,
            "sealed": sealed.sealed,
            "updated_by": updated_by,
            "now": now,
        },
    ).one()
    return SecretRecord(*row)


_OF_TENANT = _c.tenant_id == bindparam("tenant")
_LIST = select(*_TOLD).where(_OF_TENANT, _c.name > bindparam("after")).order_by(_c.name)
_DELETE = delete(secrets).where(_OF_TENANT, _c.name == bindparam("named"))


def list_secrets(tx: Connection, tenant_id: TenantId, *, after: str | None, limit: int) -> list[SecretRecord]:
    """Up to `limit` of a tenant's secrets after the name `after`, by name."""
    rows = tx.execute(_LIST.limit(limit), {"tenant": tenant_id, "after": after or ""})
    return [SecretRecord(*row) for row in rows]


def delete_secret(tx: Connection, tenant_id: TenantId, name: str) -> bool:
    """Delete a secret. False when this tenant has none of this name."""
    return tx.execute(_DELETE, {"tenant": tenant_id, "named": name}).rowcount == 1


# -- reading what is sealed ---------------------------------------------------------------------------------------

_SEALED = select(_c.tenant_id, _c.name, _c.key_id, _c.sealed).where(
    among(_c.tenant_id, "tenants"), among(_c.name, "names", "text")
)


def read_sealed(tx: Connection, wanted: Iterable[Named]) -> dict[Named, Sealed]:
    """The sealed values of secrets of any tenants, by one statement; those that are not there are left out."""
    asked = set(wanted)
    rows = tx.execute(
        _SEALED,
        {"tenants": sorted({one.tenant_id for one in asked}), "names": sorted({one.name for one in asked})},
    )
    found = {Named(TenantId(row[0]), row[1]): Sealed(row[2], bytes(row[3])) for row in rows}
    return {one: found[one] for one in asked & found.keys()}


# -- another installation secret ----------------------------------------------------------------------------------


_OTHERWISE = _c.key_id != bindparam("current")
_COUNT_OTHERWISE = select(func.count()).select_from(secrets).where(_OTHERWISE)
_COUNT_BY_KEY = select(_c.key_id, func.count()).group_by(_c.key_id).order_by(_c.key_id)
_LOCK_OTHERWISE = (
    select(_c.tenant_id, _c.name, _c.key_id, _c.sealed)
    .where(_OTHERWISE)
    .order_by(_c.tenant_id, _c.name)
    .limit(bindparam("limit"))
    .with_for_update()
)
_LOCK_FURTHER = _LOCK_OTHERWISE.where(
    tuple_(_c.tenant_id, _c.name)
    > tuple_(bindparam("tenant", type_=_c.tenant_id.type), bindparam("after", type_=_c.name.type))
)


def count_sealed_otherwise(tx: Connection, key_id: str) -> int:
    """How many secrets of all tenants are sealed under another key."""
    return int(tx.execute(_COUNT_OTHERWISE, {"current": key_id}).scalar_one())


def count_by_key(tx: Connection) -> dict[str, int]:
    """How many secrets of all tenants are sealed under each key, by its id."""
    return {key_id: int(count) for key_id, count in tx.execute(_COUNT_BY_KEY)}


def lock_sealed_otherwise(
    tx: Connection, key_id: str, *, after: Named | None, limit: int
) -> list[tuple[Named, Sealed]]:
    """Lock up to `limit` secrets of all tenants that are sealed under another key, in order, after the one named."""
    asked: dict[str, Any] = {"current": key_id, "limit": limit}
    if after is None:
        rows = tx.execute(_LOCK_OTHERWISE, asked)
    else:
        rows = tx.execute(_LOCK_FURTHER, {**asked, "tenant": after.tenant_id, "after": after.name})
    return [(Named(TenantId(row[0]), row[1]), Sealed(row[2], bytes(row[3]))) for row in rows]


def reseal(tx: Connection, changed: Sequence[tuple[Named, Sealed]]) -> int:
    """Store locked secrets sealed under another key; value, version and times stay. Returns how many changed."""
    rows = [
        {"tenant_id": named.tenant_id, "name": named.name, "key_id": new.key_id, "sealed": new.sealed}
        for named, new in changed
    ]
    return update_rows(tx, secrets, rows, match=(("tenant_id", "tenant_id"), ("name", "name")))
