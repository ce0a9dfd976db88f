"""Links that were used: a row is written in the transaction of what the link does, and keeps it from being done twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from common.db.tables import used_links
from common.ids import InstanceId, TenantId

_c = used_links.c
_NAMES = ("tenant_id", "digest", "instance_id", "person", "used_at")
_VALUES = {name: bindparam(name, type_=_c[name].type) for name in _NAMES}


def _use_statement(dialect: Any) -> Any:
    row = dialect.insert(used_links).values(_VALUES)
    return row.on_conflict_do_nothing(index_elements=["tenant_id", "digest"]).returning(_c.digest)


_USE = {"postgresql": _use_statement(postgresql), "sqlite": _use_statement(sqlite)}
_IS_LINK = (_c.tenant_id == bindparam("b_tenant_id")) & (_c.digest == bindparam("b_digest"))
_FIND = select(_c.used_at).where(_IS_LINK)
_FORGET = delete(used_links).where(_IS_LINK)


def use(
    tx: Connection, tenant_id: TenantId, digest: bytes, *, instance_id: InstanceId, person: str, now: datetime
) -> bool:
    """Note that a link is used now; False where it was used before. Waits for a concurrent use of the same link."""
    row = {
        "tenant_id": tenant_id,
        "digest": digest,
        "instance_id": instance_id,
        "person": person,
        "used_at": now,
    }
    return tx.execute(_USE[tx.dialect.name], row).one_or_none() is not None


def used_at(tx: Connection, tenant_id: TenantId, digest: bytes) -> datetime | None:
    """When a link was used."""
    found: datetime | None = tx.execute(
        _FIND, {"b_tenant_id": tenant_id, "b_digest": digest}
    ).scalar_one_or_none()
    return found


def forget(tx: Connection, tenant_id: TenantId, digest: bytes) -> None:
    """What the link would have done was refused: it is as good as before."""
    tx.execute(_FORGET, {"b_tenant_id": tenant_id, "b_digest": digest})
