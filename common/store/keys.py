"""Tenants and their API keys. Only a key's prefix and keyed hash are stored; its text exists in `IssuedKey` alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from common.clock import database_now
from common.credentials import Principal, Secret, make_key
from common.db.now import read_now
from common.db.tables import Role, api_keys, tenants
from common.ids import TenantId, new_id

_t = tenants.c
_k = api_keys.c


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that may be used, as found by its prefix. `seconds_left` until it expires; None: never."""

    principal: Principal
    hash: bytes
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as lists show it."""

    id: str
    name: str
    role: Role
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key, with its text for the only time."""

    id: str
    name: str
    role: Role
    prefix: str
    key: str

    def __repr__(self) -> str:
        return f"IssuedKey(id={self.id!r}, name={self.name!r}, prefix={self.prefix!r})"


def find_tenant(tx: Connection, name: str) -> TenantId | None:
    """The tenant of this name, or None."""
    return tx.execute(select(_t.id).where(_t.name == name)).scalar_one_or_none()


def list_tenants(tx: Connection) -> dict[str, str]:
    """The names of all tenants, by id."""
    return {row.id: row.name for row in tx.execute(select(_t.id, _t.name))}


def ensure_tenant(tx: Connection, name: str) -> TenantId:
    """Return the tenant of this name, made now if there was none; two callers at once get the same one."""
    found = find_tenant(tx, name)
    if found is not None:
        return found
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    tx.execute(
        dialect.insert(tenants)
        .values(id=new_id(), name=name, created_at=read_now(tx))
        .on_conflict_do_nothing(index_elements=[_t.name])
    )
    return TenantId(tx.execute(select(_t.id).where(_t.name == name)).scalar_one())


def issue_key(
    tx: Connection,
    tenant_id: TenantId,
    *,
    name: str,
    role: Role,
    secret: Secret,
    expires_at: datetime | None = None,
) -> IssuedKey:
    """Make a key for a tenant and store what is needed to recognise it. The answer is the only copy of its text."""
    fresh = make_key(secret)
    key_id = new_id()
    tx.execute(
        insert(api_keys).values(
            id=key_id,
            tenant_id=tenant_id,
            name=name,
            role=role.value,
            prefix=fresh.prefix,
            hash=fresh.hash,
            created_at=read_now(tx),
            expires_at=expires_at,
        )
    )
    return IssuedKey(key_id, name, role, fresh.prefix, fresh.text)


_USABLE = select(
    _k.id, _k.tenant_id, _k.name, _k.role, _k.hash, _k.expires_at, database_now().label("now")
).where(_k.prefix == bindparam("prefix"), _k.revoked_at.is_(None))


def find_usable_key(tx: Connection, prefix: str) -> StoredKey | None:
    """The key of this prefix, unless it was revoked or has expired by the database's clock.

    The only read of this module without a tenant: the key is what tells the tenant. The caller compares the hash.
    """
    row = tx.execute(_USABLE, {"prefix": prefix}).one_or_none()
    if row is None:
        return None
    left = None if row.expires_at is None else (row.expires_at - row.now).total_seconds()
    if left is not None and left <= 0:
        return None
    return StoredKey(Principal(row.tenant_id, row.id, row.name, row.role), row.hash, left)


def list_keys(tx: Connection, tenant_id: TenantId) -> list[KeyRecord]:
    """Every key of a tenant, oldest first, the revoked ones included."""
    query = (
        select(_k.id, _k.name, _k.role, _k.prefix, _k.created_at, _k.expires_at, _k.revoked_at)
        .where(_k.tenant_id == tenant_id)
        .order_by(_k.id)
    )
    return [KeyRecord(row[0], row[1], Role(row[2]), *row[3:]) for row in tx.execute(query)]


def revoke_key(tx: Connection, tenant_id: TenantId, key_id: str) -> bool:
    """Revoke a key. False when this tenant has no such key, or it was revoked before."""
    done = tx.execute(
        update(api_keys)
        .where(_k.tenant_id == tenant_id, _k.id == key_id, _k.revoked_at.is_(None))
        .values(revoked_at=read_now(tx))
    )
    return done.rowcount == 1
