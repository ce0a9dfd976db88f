"""Places: how many instances of a definition run at once, each key by itself (`concurrency` of the definition).

Nobody counts up or down. Who has a place is told by the rows: live, with the key, and not `queued`. So whatever ends an
instance gives its place back in the same statement, and nothing that dies can keep one. Who wants to add to those rows
takes the lock of the key first, and counts in a later statement: the snapshot must be younger than the lock.

The lock is an advisory one. A row to lock would have to be made for every key that ever was, one for each customer, and
nobody could tell when it may go. It stands behind the instances and before the tasks in the order of locks; of several keys
all are taken in one statement, in one order. On SQLite the writer's turn is that lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from common.canonical import dumps
from common.db.tables import InboxType, inbox, instances
from common.db.types import among
from common.ids import DefinitionId, InstanceId, TenantId
from common.lifecycle import LIVE, InstanceStatus

_i = instances.c


class Place(NamedTuple):
    """What instances share places by."""

    tenant_id: TenantId
    definition_key: str
    key: str


class Failed(NamedTuple):
    """A failed instance, and the place that it gave back."""

    id: InstanceId
    definition_id: DefinitionId
    place: Place


# As literals: a partial index serves only a statement that names its condition.
_LIVING = _i.status.in_(bindparam("live", list(LIVE), expanding=True, literal_execute=True))
_PENDING = _i.status == bindparam("pending", InstanceStatus.PENDING.value, literal_execute=True)
_OF_KEY = and_(
    _i.tenant_id == bindparam("tenant_id"),
    _i.definition_key == bindparam("definition_key"),
    _i.concurrency_key == bindparam("key"),
    _i.concurrency_key.is_not(None),
)
_QUEUED = and_(_OF_KEY, _i.queued, _PENDING)


def _has(type: InboxType) -> ColumnElement[bool]:
    return exists().where(inbox.c.instance_id == _i.id, inbox.c.type == type.value)


# A start that lies in the future has no row yet, and wants no place.
_WANTS = and_(_QUEUED, _has(InboxType.START), not_(_has(InboxType.CANCEL)))

_hashed = select(
    func.hashtextextended(func.unnest(bindparam("names", type_=ARRAY(Text()))), 0).label("hash")
).subquery()
_in_order = select(_hashed.c.hash).distinct().order_by(_hashed.c.hash).subquery()
_LOCK = select(func.pg_advisory_xact_lock(_in_order.c.hash))


def lock(tx: Connection, places: Collection[Place]) -> None:
    """Take the right to add to who has these places, until `tx` ends. Waits; a transaction should ask once for all it needs."""
    if places and tx.dialect.name == "postgresql":
        tx.execute(_LOCK, {"names": [f"places:{dumps(list(place))}" for place in sorted(places)]}).all()


_COUNT_QUEUED = select(func.count()).where(_i.queued, _PENDING)
_COUNT_TAKEN = select(func.count()).where(_OF_KEY, not_(_i.queued), _LIVING)
_COUNT_WANTED = select(func.count()).where(_WANTS)


def count_taken(tx: Connection, place: Place) -> int:
    """How many instances have a place, as the rows say now."""
    return tx.execute(_COUNT_TAKEN, _named(place)).scalar_one()


_FAILED = select(_i.id, _i.definition_id, _i.tenant_id, _i.definition_key, _i.concurrency_key).where(
    _i.tenant_id == bindparam("tenant_id"),
    among(_i.id, "ids"),
    _i.status == InstanceStatus.FAILED.value,
    _i.concurrency_key.is_not(None),
    not_(_i.queued),
)


def read_failed(tx: Connection, tenant_id: TenantId, ids: Collection[str]) -> list[Failed]:
    """Those of some instances that have failed and given a place back."""
    if not ids:
        return []
    rows = tx.execute(_FAILED, {"tenant_id": tenant_id, "ids": list(ids)})
    return [Failed(row[0], row[1], Place(*row[2:])) for row in rows]


def count_wanted(tx: Connection, place: Place) -> int:
    """How many instances wait for a place, their time to start being there."""
    return tx.execute(_COUNT_WANTED, _named(place)).scalar_one()


def _named(place: Place) -> dict[str, Any]:
    return {"tenant_id": place.tenant_id, "definition_key": place.definition_key, "key": place.key}


_NEXT = (
    select(_i.id)
    .where(_WANTS)
    .order_by(_i.priority.desc(), _i.id)
    .limit(bindparam("limit"))
    .with_for_update(key_share=True, skip_locked=True, of=instances)
)


def lock_next(tx: Connection, place: Place, limit: int) -> list[InstanceId]:
    """Lock those that are next: the highest priority first, of one priority the oldest.

    One that somebody else holds is passed over: it is being cancelled or paused, or its holder will look here itself.
    """
    return list(tx.execute(_NEXT, {**_named(place), "limit": limit}).scalars())


_ADMIT = update(instances).where(among(_i.id, "ids"), _i.queued).values(queued=False)


def admit(tx: Connection, ids: Sequence[str]) -> None:
    """Give places to instances that `lock_next` has locked; the caller holds the lock of their key."""
    tx.execute(_ADMIT, {"ids": ids})


_NEWEST = select(_i.definition_id).where(_WANTS).order_by(_i.id.desc()).limit(1)


def find_newest_version(tx: Connection, place: Place) -> DefinitionId | None:
    """The version of the youngest instance that wants a place: what it says of a full house holds for all of them."""
    return tx.execute(_NEWEST, _named(place)).scalar_one_or_none()


# Who compensates is on the way out already, and what it undoes must not be cut short.
_STAYING = (
    select(_i.id)
    .where(
        _OF_KEY,
        _LIVING,
        _i.status != InstanceStatus.COMPENSATING,
        or_(not_(_i.queued), _WANTS),
        not_(_has(InboxType.CANCEL)),
    )
    .order_by(_i.id.desc())
    .offset(bindparam("keeping"))
    .limit(bindparam("limit"))
)


def find_superseded(tx: Connection, place: Place, *, keeping: int, limit: int) -> list[InstanceId]:
    """Instances that have or want a place and are not among the youngest `keeping`; whom a cancel waits for is left out."""
    rows = tx.execute(_STAYING, {**_named(place), "keeping": keeping, "limit": limit})
    return list(rows.scalars())


_PLACE = (_i.tenant_id, _i.definition_key, _i.concurrency_key)
_WANTED = select(*_PLACE).where(_i.queued, _PENDING).distinct().order_by(*_PLACE).limit(bindparam("limit"))
ARE_WANTED = exists().where(_i.queued, _i.status == literal_column(f"'{InstanceStatus.PENDING.value}'"))
"""Does anybody wait for a place?"""
_WANTED_BEHIND = _WANTED.where(
    tuple_(*_PLACE)
    > tuple_(bindparam("tenant_id", type_=_i.tenant_id.type), bindparam("definition_key"), bindparam("key"))
)


def find_wanted(tx: Connection, *, after: Place | None, limit: int) -> list[Place]:
    """Keys that somebody waits for, of all tenants, in their order, behind `after`."""
    if after is None:
        rows = tx.execute(_WANTED, {"limit": limit})
    else:
        rows = tx.execute(_WANTED_BEHIND, {**_named(after), "limit": limit})
    return [Place(*row) for row in rows]


_AHEAD = select(func.count()).where(
    _WANTS,
    or_(
        _i.priority > bindparam("priority"),
        and_(_i.priority == bindparam("priority"), _i.id < bindparam("id")),
    ),
)


def count_ahead(tx: Connection, place: Place, *, priority: int, instance_id: str) -> int:
    """How many get a place before this instance."""
    return tx.execute(_AHEAD, {**_named(place), "priority": priority, "id": instance_id}).scalar_one()


def count_queued(tx: Connection, tenant_id: TenantId | None) -> int:
    """How many instances wait for a place of their definition's `concurrency`, of a tenant or (None) of all."""
    query = _COUNT_QUEUED if tenant_id is None else _COUNT_QUEUED.where(_i.tenant_id == tenant_id)
    return tx.execute(query).scalar_one()
