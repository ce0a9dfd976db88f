"""Secrets: setting one, deleting one, and sealing all of them again after the installation's secret has changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection

from common.canonical import size
from common.db import Database
from common.db.now import read_now
from common.errors import Invalid, LimitExceeded, NotFound
from common.ids import TenantId
from common.sealing import Sealed, SealingKeys, Unopened
from common.store import secrets
from common.store.secrets import Named, SecretRecord

NAME = r"[A-Za-z_][A-Za-z0-9_.\-]{0,199}"
"""What `${secret.NAME}` takes for a name, see statechart/templates.py."""
MAX_VALUE_BYTES = 65_536
BATCH = 100


def set_secret(
    tx: Connection, tenant_id: TenantId, name: str, value: str, *, keys: SealingKeys, actor: str
) -> SecretRecord:
    """Set the value of a tenant's secret, text of 1 to 65,536 bytes; the value before it is gone.

    Raises `Invalid` (`secret.name_invalid`, `secret.value_invalid`) and `LimitExceeded`, without a word of the value.
    """
    if not is_name(name):
        raise Invalid(
            f'"{name[:100]}" is no name of a secret: expected a letter or _, then letters, digits and _ . - '
            "(at most 200 characters)",
            code="secret.name_invalid",
        )
    if not value or "\0" in value:
        raise Invalid(
            "value: expected text of at least one character, without NUL", code="secret.value_invalid"
        )
    if size(value) > MAX_VALUE_BYTES:
        raise LimitExceeded(
            f"value: {size(value)} bytes, a secret has at most {MAX_VALUE_BYTES}",
            limit="secret_value_bytes",
            allowed=MAX_VALUE_BYTES,
        )
    sealed = keys.seal(tenant_id, name, value)
    return secrets.set_secret(tx, tenant_id, name, sealed, updated_by=actor, now=read_now(tx))


def delete_secret(tx: Connection, tenant_id: TenantId, name: str) -> None:
    """Delete a tenant's secret. Raises `NotFound` (`secret.not_found`)."""
    if not secrets.delete_secret(tx, tenant_id, name):
        raise NotFound(f'no secret "{name[:200]}"; see `signalbox secrets ls`', code="secret.not_found")


def is_name(text: str) -> bool:
    """Tell whether a secret may have this name."""
    return re.fullmatch(NAME, text) is not None


def count_unopened(tx: Connection, keys: SealingKeys) -> dict[str, int]:
    """How many secrets of all tenants are sealed under each key that is not among `keys`, by its id: no task can use them."""
    return {key_id: count for key_id, count in secrets.count_by_key(tx).items() if not keys.opens(key_id)}


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far sealing again has come: secrets `done` of `total`, and those that no key here opens."""

    total: int
    done: int = 0
    unopened: tuple[tuple[Named, str], ...] = field(default=())


def rotate(database: Database, keys: SealingKeys, *, batch: int = BATCH) -> Iterator[Rotation]:
    """Seal every tenant's secrets under the current key that are sealed under another; tell how far it is after each batch.

    Each batch is a transaction; a run that is broken off is taken up by the next one. What no key here opens stays as it is.
    """
    with database.reading() as tx:
        state = Rotation(secrets.count_sealed_otherwise(tx, keys.current))
    yield state
    after: Named | None = None
    while True:
        step = database.run(partial(_reseal_batch, keys=keys, after=after, limit=batch))
        if step.last is None:
            return
        after = step.last
        state = Rotation(state.total, state.done + step.done, (*state.unopened, *step.unopened))
        yield state


@dataclass(frozen=True, slots=True)
class _Batch:
    last: Named | None
    done: int
    unopened: tuple[tuple[Named, str], ...]


def _reseal_batch(tx: Connection, *, keys: SealingKeys, after: Named | None, limit: int) -> _Batch:
    rows = secrets.lock_sealed_otherwise(tx, keys.current, after=after, limit=limit)
    changed: list[tuple[Named, Sealed]] = []
    unopened: list[tuple[Named, str]] = []
    for named, sealed in rows:
        try:
            value = keys.open(named.tenant_id, named.name, sealed)
        except Unopened as error:
            unopened.append((named, error.code))
        else:
            changed.append((named, keys.seal(named.tenant_id, named.name, value)))
    secrets.reseal(tx, changed)
    return _Batch(rows[-1][0] if rows else None, len(changed), tuple(unopened))
