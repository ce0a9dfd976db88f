"""Instances: making them, locking them for a step, saving what the step decided.

Only the orchestrator writes a snapshot, and only under the lock of `lock_ready` with the sequence that it read:
`save` says `WHERE sequence = :old`, so a second writer would change no row and be found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, bindparam, case, cast, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from common.clock import database_now
from common.db.prepared import Prepared
from common.db.rows import Writes, insert_rows
from common.db.tables import definitions, inbox, instances
from common.db.types import IdList, among
from common.ids import DefinitionId, InstanceId, TenantId
from common.lifecycle import FINAL, LIVE, InstanceStatus
from common.store.limits import limited_types_text, read_limited_types
from statechart.record import record

GENESIS = bytes(32)
"""The hash that an instance's first history row points back to."""


@record
class LockedInstance:
    """An instance row as the orchestrator holds it. `snapshot` is its stored text, None before the start."""

    id: InstanceId
    tenant_id: TenantId
    definition_id: DefinitionId
    definition_key: str
    definition_version: int
    business_key: str | None
    status: InstanceStatus
    snapshot: str | None
    error: str | None
    sequence: int
    head_hash: bytes
    last_step_at: datetime | None
    strikes: int
    priority: int
    parent_id: InstanceId | None
    parent_key: str | None
    depth: int
    created_at: datetime
    deadline_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    concurrency_key: str | None
    is_queued: bool  # waits for a place among those of its key, while it lives
    now: datetime  # the database's clock when the row was locked
    limited_types: frozenset[str]  # types of task that its tenant has limits for


_c = instances.c
LOCKED = (
    _c.id, _c.tenant_id, _c.definition_id, _c.definition_key, _c.definition_version, _c.business_key, _c.status,
    _c.snapshot, _c.error, _c.sequence, _c.head_hash, _c.last_step_at, _c.strikes, _c.priority, _c.parent_id,
    _c.parent_key, _c.depth, _c.created_at, _c.deadline_at, _c.started_at, _c.finished_at,
    _c.concurrency_key, _c.queued,
)  # fmt: skip

# The clock comes with the lock: it saves a round trip, and a step's time is never before its lock.
# FOR NO KEY UPDATE: every insert of an inbox row takes KEY SHARE on its instance through the foreign key. A plain
# FOR UPDATE conflicts with that: busy instances would be skipped for ever, and senders would deadlock with us.
_LOCK = Prepared(
    select(*LOCKED, database_now(), limited_types_text(_c.tenant_id))
    .where(among(_c.id, "ids"))
    .order_by(_c.id)
    .with_for_update(key_share=True, skip_locked=True)
)


def lock_ready(tx: Connection, ids: Sequence[str]) -> list[LockedInstance]:
    """Lock those of `ids` that nobody else holds, in id order, until the transaction ends. Others are skipped."""
    return [locked_instance(row) for row in _LOCK.rows(tx, {"ids": ids})]


def locked_instance(row: Sequence[Any]) -> LockedInstance:
    """From the columns `LOCKED`, the clock and the limited types of its tenant."""
    values = list(row)
    values[6], values[-1] = InstanceStatus(values[6]), read_limited_types(values[-1])
    return LockedInstance(*values)


def save(writes: Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write stepped instances: each row names `id`, the `read_sequence` it was read at, and every column of a step.

    One that somebody else wrote since it was read is `Unmatched`, and the caller must roll back.
    """
    writes.update(instances, rows, match=(("id", "id"), ("sequence", "read_sequence")))


DOUBTED = -1
"""In place of a count of strikes: it was about to be stepped together with others, and no step of it has been saved since."""
_HAS_ROWS = exists().where(inbox.c.instance_id == _c.id, ~inbox.c.parked)
_DOUBT = (
    update(instances)
    .where(among(_c.id, "ids"), _c.strikes == 0, _HAS_ROWS)
    .values(strikes=DOUBTED)
    .returning(_c.id)
)
_STRIKE = (
    update(instances)
    .where(_c.id == bindparam("one"), _HAS_ROWS)
    .values(strikes=case((_c.strikes < 0, 1), else_=_c.strikes + 1))
    .returning(_c.strikes)
)


def doubt(tx: Connection, ids: Sequence[InstanceId]) -> set[InstanceId]:
    """Note of instances that are about to be stepped together that one of them may end this process; `save` takes it back.

    Returns those of which it was noted: who has something to be stepped, and neither a strike nor such a note from before.
    """
    return set(tx.execute(_DOUBT, {"ids": ids}).scalars())


def strike(tx: Connection, instance_id: InstanceId) -> int | None:
    """Count one more try of an instance alone, which may end this process; `save` sets the count back.

    Returns how many there are now; None, and counts nothing, where there is nothing to be stepped: no step would take that strike back.
    """
    return tx.execute(_STRIKE, {"one": instance_id}).scalar_one_or_none()


_asked = select(func.unnest(bindparam("ids", type_=IdList())).label("id")).subquery("asked")
_TURNS = select(_asked.c.id).where(
    func.pg_try_advisory_xact_lock(func.hashtextextended(cast(_asked.c.id, Text), 0))
)


def take_turns(tx: Connection, ids: Sequence[InstanceId]) -> set[InstanceId]:
    """Take the turns to strike and step suspected instances, until `tx` ends; returns those that no other process has.

    Advisory locks, because a strike must be committed before the step, and a row lock ends with its commit. On SQLite
    nobody else steps beside us.
    """
    return set(ids) if tx.dialect.name == "sqlite" else set(tx.execute(_TURNS, {"ids": ids}).scalars())


BUSINESS_KEY = next(index for index in instances.indexes if index.name == "uq_instances_business_key")


def insert_children(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert pending children; returns the ids of those that came in. The others' business keys are held.

    Rows come in the order of (tenant, definition key, business key): who waits for another transaction's business key waits
    in that order, so that two batches whose children want each other's keys do not deadlock.
    """
    status, dialect = InstanceStatus.PENDING.value, postgresql if tx.dialect.name == "postgresql" else sqlite
    wanted = [{"status": status, "head_hash": GENESIS, **row} for row in rows]
    free = [row for row in wanted if row["business_key"] is None]
    insert_rows(tx, instances, free)
    inserted = {row["id"] for row in free}
    unless_held = (
        dialect.insert(instances)
        .on_conflict_do_nothing(
            index_elements=list(BUSINESS_KEY.columns),
            index_where=BUSINESS_KEY.dialect_options[tx.dialect.name]["where"],
        )
        .returning(_c.id)
    )
    keyed = [row for row in wanted if row["business_key"] is not None]
    for row in sorted(keyed, key=lambda row: (row["tenant_id"], row["definition_key"], row["business_key"])):
        inserted.update(tx.execute(unless_held, row).scalars())
    return inserted


def find_children(
    tx: Connection, keys: Sequence[tuple[str, str]]
) -> list[tuple[InstanceId, TenantId, InstanceId]]:
    """(id, tenant, parent) of children that answer obligations, (parent id, parent key) each, live, and end with them; not locked."""
    asked = set(keys)
    names = {"ids": sorted({one for one, _ in asked}), "keys": sorted({key for _, key in asked})}
    rows = tx.execute(_CHILDREN, names)
    return [(row[0], row[1], row[2]) for row in rows if (row.parent_id, row.parent_key) in asked]


_CHILDREN = (
    select(_c.id, _c.tenant_id, _c.parent_id, _c.parent_key)
    .where(
        among(_c.parent_id, "ids"),
        among(_c.parent_key, "keys", "text"),
        _c.status.not_in(FINAL),
        _c.cancel_with_parent,
    )
    .order_by(_c.id)
)


def read_error(tx: Connection, tenant_id: TenantId, instance_id: str) -> str | None:
    """Why an instance stands as it does, as stored text; None where nothing is wrong."""
    wanted = select(_c.error).where(_c.tenant_id == tenant_id, _c.id == instance_id)
    return tx.execute(wanted).scalar_one_or_none()


_LIVING = select(_c.parent_id, _c.parent_key).where(
    among(_c.parent_id, "ids"), _c.parent_key.is_not(None), _c.status.not_in(FINAL)
)


def read_living_children(tx: Connection, parent_ids: Sequence[str]) -> set[tuple[str, str]]:
    """(parent id, parent key) of the children that have not ended."""
    return {(row[0], row[1]) for row in tx.execute(_LIVING, {"ids": list(parent_ids)})}


_INPUTS = select(_c.id, _c.input).where(among(_c.id, "ids"))


def read_inputs(tx: Connection, ids: Sequence[str]) -> dict[str, str]:
    """What instances were started with: stored texts, by id."""
    return {row.id: row.input for row in tx.execute(_INPUTS, {"ids": ids})}


def is_about_held_key(reason: str) -> bool:
    """Does the database say, in whichever words, that another live instance holds the business key?"""
    return str(BUSINESS_KEY.name) in reason or f"{instances.name}.business_key" in reason


def find_live(
    tx: Connection, tenant_id: TenantId, definition_key: str, business_key: str
) -> InstanceId | None:
    """The live instance that holds a business key, if one does."""
    return tx.execute(
        select(_c.id).where(
            _c.tenant_id == tenant_id,
            _c.definition_key == definition_key,
            _c.business_key == business_key,
            _c.status.in_(LIVE),
        )
    ).scalar_one_or_none()


def existing(tx: Connection, tenant_id: TenantId, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that are instances of this tenant."""
    return set(
        tx.execute(
            select(_c.id).where(_c.tenant_id == tenant_id, among(_c.id, "ids")), {"ids": list(ids)}
        ).scalars()
    )


_HOLD = (
    select(_c.id)
    .where(_c.tenant_id == bindparam("tenant_id"), _c.id == bindparam("id"))
    .with_for_update(read=True)
)


def hold(tx: Connection, tenant_id: TenantId, instance_id: str) -> None:
    """Let no step of an instance come between what is read of it from now on and what is accepted for it: waits for one that is made.

    Who steps never waits for this lock, but passes the instance over until the next look. Callers share it.
    """
    tx.execute(_HOLD, {"tenant_id": tenant_id, "id": instance_id})


_DISOWN = update(instances).where(among(_c.id, "ids")).values(parent_key=None)


def disown(tx: Connection, ids: Sequence[str]) -> None:
    """Let locked children answer no more, whatever becomes of them: another has their obligation."""
    if ids:
        tx.execute(_DISOWN, {"ids": ids})


_PRESENT = select(_c.id).where(among(_c.id, "ids"))


def present(tx: Connection, ids: Sequence[str]) -> set[InstanceId]:
    """Those of `ids` that are instances, for workers: across tenants, by ids taken from locked rows."""
    return set(tx.execute(_PRESENT, {"ids": list(ids)}).scalars())


@record
class DefinitionText:
    """What a worker needs to compile a chart; rows are immutable by id, so this may be cached without end."""

    id: DefinitionId
    document: str
    checksum: str


_DEFINITIONS = select(definitions.c.id, definitions.c.document, definitions.c.checksum).where(
    among(definitions.c.id, "ids")
)


def read_definitions(tx: Connection, ids: Iterable[str]) -> list[DefinitionText]:
    """The documents of these definitions, for workers: across tenants, by ids taken from locked rows."""
    return [DefinitionText(*row) for row in tx.execute(_DEFINITIONS, {"ids": list(ids)})]


@record
class StoredInstance:
    """An instance row as a verifier reads it, without a lock."""

    id: InstanceId
    tenant_id: TenantId
    definition_id: DefinitionId
    definition_key: str
    definition_version: int
    business_key: str | None
    status: InstanceStatus
    snapshot: str | None
    configuration: str
    output: str | None
    accepts_events: bool
    sequence: int
    head_hash: bytes
    parent_id: InstanceId | None
    created_at: datetime
    concurrency_key: str | None
    is_queued: bool


_STORED = select(
    _c.id, _c.tenant_id, _c.definition_id, _c.definition_key, _c.definition_version, _c.business_key, _c.status,
    _c.snapshot, _c.configuration, _c.output, _c.accepts_events, _c.sequence, _c.head_hash, _c.parent_id,
    _c.created_at, _c.concurrency_key, _c.queued,
)  # fmt: skip


def read_stored(tx: Connection, tenant_id: TenantId, instance_id: str) -> StoredInstance | None:
    """One instance for verification, or None when this tenant has no such instance."""
    row = tx.execute(_STORED.where(_c.tenant_id == tenant_id, _c.id == instance_id)).one_or_none()
    if row is None:
        return None
    values = list(row)
    values[6], values[-1] = InstanceStatus(values[6]), bool(values[-1])
    return StoredInstance(*values)
