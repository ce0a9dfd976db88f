"""History: one row per consumed event, chained by hashes; the database itself refuses to change a row.

digest = SHA-256(salt ‖ body) with body = {"changes":…,"input":…} over the stored texts, and
hash = SHA-256(header ‖ digest ‖ previous_hash) with header = canonical text of [tenant, instance, sequence, at, actor].
A body can be erased and the chain still verifies, because the hash covers the digest and not the body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, case, func, select

from common.canonical import dumps
from common.clock import instant_text
from common.db.rows import Writes, insert_rows
from common.db.tables import history
from common.ids import InstanceId, TenantId
from common.randomness import random_bytes

_c = history.c


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One consumed event as stored; `input`, `changes` and `salt` are None once erased."""

    instance_id: InstanceId
    sequence: int
    tenant_id: TenantId
    at: datetime
    actor: str
    input: str | None
    changes: str | None
    salt: bytes | None
    digest: bytes
    previous_hash: bytes
    hash: bytes


def chained(
    tenant_id: TenantId,
    instance_id: InstanceId,
    sequence: int,
    *,
    at: datetime,
    actor: str,
    input: str,
    changes: str,
    previous_hash: bytes,
) -> dict[str, Any]:
    """Return the row that continues a chain after `previous_hash`, with a fresh 16-byte salt."""
    salt = random_bytes(16)
    digest = body_digest(salt, input, changes)
    return {
        "tenant_id": tenant_id,
        "instance_id": instance_id,
        "sequence": sequence,
        "at": at,
        "actor": actor,
        "input": input,
        "changes": changes,
        "salt": salt,
        "digest": digest,
        "previous_hash": previous_hash,
        "hash": chain_hash(tenant_id, instance_id, sequence, at, actor, digest, previous_hash),
    }


def body_digest(salt: bytes, input: str, changes: str) -> bytes:
    """The salted digest of a row's body; needs both texts and the salt, so it cannot be guessed after an erasure."""
    return sha256(salt + f'{{"changes":{changes},"input":{input}}}'.encode()).digest()


def chain_hash(
    tenant_id: str,
    instance_id: str,
    sequence: int,
    at: datetime,
    actor: str,
    digest: bytes,
    previous_hash: bytes,
) -> bytes:
    """The hash that the next row points back to."""
    header = dumps([tenant_id, instance_id, sequence, instant_text(at), actor])
    return sha256(header.encode() + digest + previous_hash).digest()


def append(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows made by `chained`. The caller holds the lock of each instance."""
    insert_rows(tx, history, rows)


_READ = select(
    _c.instance_id, _c.sequence, _c.tenant_id, _c.at, _c.actor, _c.input, _c.changes, _c.salt, _c.digest,
    _c.previous_hash, _c.hash,
).order_by(_c.sequence)  # fmt: skip


CHAIN_PORTION = 20
"""Rows that are read of a chain at a time: two texts of each may be of a megabyte and more."""


def read_chain(tx: Connection, tenant_id: TenantId, instance_id: str) -> Iterator[HistoryRow]:
    """Every row of one instance, in order, a few at a time; of one history only where the transaction sees one instant."""
    portion = _READ.where(_c.tenant_id == tenant_id, _c.instance_id == instance_id).limit(CHAIN_PORTION)
    wanted = portion
    while True:
        rows = tx.execute(wanted).all()
        for row in rows:
            yield HistoryRow(*row)
        if len(rows) < CHAIN_PORTION:
            return
        wanted = portion.where(_c.sequence > rows[-1].sequence)


@dataclass(frozen=True)
class Bodies:
    """How many rows an instance has, and of how many of them a part of the body is gone."""

    rows: int
    without_input: int
    without_salt: int
    first_without_salt: int | None


def count_bodies(tx: Connection, tenant_id: TenantId, instance_id: str) -> Bodies:
    """Count the rows of one instance and those that were erased."""
    gone = case((_c.salt.is_(None), _c.sequence))
    found = select(func.count(), func.count() - func.count(_c.input), func.count(gone), func.min(gone)).where(
        _c.tenant_id == tenant_id, _c.instance_id == instance_id
    )
    return Bodies(*tx.execute(found).one())


def read_row(tx: Connection, tenant_id: TenantId, instance_id: str, sequence: int) -> HistoryRow | None:
    """One row of an instance's history."""
    wanted = _READ.where(_c.tenant_id == tenant_id, _c.instance_id == instance_id, _c.sequence == sequence)
    row = tx.execute(wanted).one_or_none()
    return None if row is None else HistoryRow(*row)
