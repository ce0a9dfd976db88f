"""Idempotency keys: the answer that a caller's key was given, kept in the same transaction as what it answers.

`claim` comes first in the transaction, `keep` last. Two requests with one key meet on the primary key: the second waits
for the first to commit (then it is answered from the row) or to roll back (then it is the first).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from common.db.prepared import Prepared
from common.db.tables import idempotency
from common.db.types import UtcDateTime
from common.ids import TenantId

_c = idempotency.c


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key as one principal of one tenant uses it, and the SHA-256 of the request that it came with."""

    tenant_id: TenantId
    principal: str
    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered the first time. `is_same_request`: the key came with the same request again."""

    status: int
    answer: str
    is_same_request: bool


_NAMES = ("tenant_id", "principal", "key", "digest", "status", "answer", "created_at", "expires_at")
_VALUES = {name: bindparam(name, type_=_c[name].type) for name in _NAMES}
_KEY = (_c.tenant_id, _c.principal, _c.key)


def _claim_statement(dialect: Any) -> ReturningInsert[Any]:
    """An expired row is taken over as if it were not there; a row that holds is left, and no row is changed."""
    row = dialect.insert(idempotency).values(_VALUES)
    taken: ReturningInsert[Any] = row.on_conflict_do_update(
        index_elements=_KEY,
        set_={name: row.excluded[name] for name in _NAMES[3:]},
        where=_c.expires_at <= row.excluded.created_at,
    ).returning(_c.key)  # SQLAlchemy does not tell how many rows an insert made
    return taken


_CLAIM = {
    "postgresql": Prepared(_claim_statement(postgresql)),
    "sqlite": Prepared(_claim_statement(sqlite)),
}
_IS_KEY = (
    (_c.tenant_id == bindparam("b_tenant_id", type_=_c.tenant_id.type))
    & (_c.principal == bindparam("b_principal"))
    & (_c.key == bindparam("b_key"))
)
_FIND = Prepared(select(_c.status, _c.answer, _c.digest).where(_IS_KEY))
_KEEP = Prepared(
    update(idempotency)
    .where(_IS_KEY)
    .values(
        status=bindparam("status", type_=_c.status.type),
        answer=bindparam("answer", type_=_c.answer.type),
        instance_id=bindparam("about", type_=_c.instance_id.type),
    )
    .returning(_c.key)
)

_FORGET = delete(idempotency).where(_IS_KEY)


def claim(tx: Connection, key: IdempotencyKey, *, now: datetime, expires_at: datetime) -> KeptAnswer | None:
    """Take a key for this transaction: None when it is ours, else the answer that another request was given.

    Waits for a concurrent request with the same key. A caller that gets None calls `keep` before the commit.
    """
    taken = _CLAIM[tx.dialect.name].rows(
        tx,
        {
            "tenant_id": key.tenant_id,
            "principal": key.principal,
            "key": key.key,
            "digest": key.digest,
            "status": 0,
            "answer": "null",
            "created_at": now,
            "expires_at": expires_at,
        },
    )
    return None if taken else find(tx, key)


def find(tx: Connection, key: IdempotencyKey) -> KeptAnswer | None:
    """The answer kept for a key, or None."""
    for status, answer, digest in _FIND.rows(tx, _names(key)):
        return KeptAnswer(status, answer, digest == key.digest)
    return None


def keep(
    tx: Connection, key: IdempotencyKey, *, status: int, answer: str, instance_id: str | None = None
) -> None:
    """Keep the answer of a claimed key: a status and a JSON text. `instance_id`: the one instance that it shows."""
    _KEEP.rows(tx, {**_names(key), "status": status, "answer": answer, "about": instance_id})


def forget(tx: Connection, key: IdempotencyKey) -> None:
    """Let go of a claimed key: its request was refused, and may be tried again."""
    tx.execute(_FORGET, _names(key))


def _names(key: IdempotencyKey) -> dict[str, str]:
    return {"b_tenant_id": key.tenant_id, "b_principal": key.principal, "b_key": key.key}


_EXPIRED = (
    select(*_KEY)
    .where(_c.expires_at <= bindparam("now", type_=UtcDateTime()))
    .order_by(_c.expires_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_DELETE_EXPIRED = delete(idempotency).where(tuple_(*_KEY).in_(_EXPIRED))


def delete_expired(tx: Connection, *, now: datetime, limit: int = 1_000) -> int:
    """Delete the keys of every tenant that expired first; rows in use are left for the next time. Returns how many went."""
    return tx.execute(_DELETE_EXPIRED, {"now": now, "limit": limit}).rowcount
