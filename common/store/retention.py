"""Deleting finished instances whose time of keeping is over: a tombstone each, then everything that belonged to them.

Theory of operation. A rule says which instances of one definition version, in one final status, finished before an
instant. A batch takes the next page of a rule in the order of the index (finished_at, id), whoever is eligible on it or
not, so that those who have to wait hide nobody behind them. In one transaction:

1. Lock those of the page that nobody holds: FOR UPDATE SKIP LOCKED. Here, and nowhere else, the strong lock is meant: no
   row that points at the instance can come in any more (an insert waits for us, finds the instance gone, and is told).
2. In a NEW statement, whose snapshot is younger than the lock, keep those that are eligible: nothing waits in the inbox, no
   incident is open, no child is left, and the parent has ended.
3. Insert the tombstones, without which the database refuses the next step; delete dependants, then the instances.

A family goes from its leaves up: a child never before its parent has ended, which could not be explained without it, and
a parent never before its last child, which points at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Delete, and_, bindparam, delete, exists, func, insert, select, text, tuple_
from sqlalchemy.sql import Select

from common.clock import instant_text
from common.db.now import read_now
from common.db.tables import (
    IncidentStatus,
    attempts,
    definitions,
    history,
    inbox,
    incidents,
    instance_metadata,
    instances,
    joins,
    suggestions,
    tasks,
    timers,
    tombstones,
    used_links,
)
from common.db.types import UtcDateTime, among
from common.ids import DefinitionId, TenantId
from common.lifecycle import InstanceStatus
from common.store.configs import DELETE_OF_INSTANCES

BATCH = 100
COUNTED = 10_000
"""Who asks how many are due is told "at least so many" beyond it: counting them all would cost as much as deleting them."""

_i, _p = instances.c, instances.alias("parent").c


@dataclass(frozen=True, slots=True)
class Policy:
    """A definition version and what it says of keeping: stored text, None where it says nothing."""

    definition_id: DefinitionId
    tenant_id: TenantId
    retention: str | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Instances of one definition version that finished with `status` before `before` are due."""

    definition_id: DefinitionId
    status: InstanceStatus
    before: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """Where a sweep goes on: after the instance that finished then."""

    finished_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch did. `reached` None: the rule's page was the last one."""

    deleted: int
    reached: Position | None


def read_policies(tx: Connection, tenant_id: TenantId | None, *, only_own: bool) -> list[Policy]:
    """Every definition version, of a tenant or (None) of all; `only_own` those that say something themselves."""
    query = select(definitions.c.id, definitions.c.tenant_id, definitions.c.retention)
    if tenant_id is not None:
        query = query.where(definitions.c.tenant_id == tenant_id)
    if only_own:
        query = query.where(definitions.c.retention.is_not(None))
    return [Policy(*row) for row in tx.execute(query)]


def _of_rule(*columns: Any) -> Select[Any]:
    return select(*columns).where(
        _i.definition_id == bindparam("definition_id", type_=_i.definition_id.type),
        _i.status == bindparam("status"),
        _i.finished_at.is_not(None),  # by which the index is found
        _i.finished_at <= bindparam("before", type_=UtcDateTime()),
    )


def _names(rule: Rule) -> dict[str, Any]:
    return {"definition_id": rule.definition_id, "status": rule.status.value, "before": rule.before}


_ANY = _of_rule(_i.id).limit(1)
_WHICH = text(
    "SELECT r.number FROM json_to_recordset(CAST(:rules AS json))"
    " AS r(number int, definition_id uuid, status text, before timestamptz)"
    " WHERE EXISTS (SELECT 1 FROM instances WHERE instances.definition_id = r.definition_id"
    " AND instances.status = r.status AND instances.finished_at IS NOT NULL AND instances.finished_at <= r.before)"
)


def rules_with_due(tx: Connection, rules: Sequence[Rule]) -> list[Rule]:
    """Those of `rules` that have anything due: one probe of the index each, on PostgreSQL in one statement."""
    if tx.dialect.name != "postgresql":
        return [rule for rule in rules if tx.execute(_ANY, _names(rule)).first() is not None]
    rows = [{"number": number, **_names(rule)} for number, rule in enumerate(rules)]
    packed = orjson.dumps(rows).decode()
    return [rules[row[0]] for row in tx.execute(_WHICH, {"rules": packed})] if rules else []


_PAGE = (
    _of_rule(_i.finished_at, _i.id)
    .where(
        tuple_(_i.finished_at, _i.id)
        > tuple_(bindparam("after_at", type_=UtcDateTime()), bindparam("after_id", type_=_i.id.type))
    )
    .order_by(_i.finished_at, _i.id)
    .limit(bindparam("limit"))
)
_FIRST = _of_rule(_i.finished_at, _i.id).order_by(_i.finished_at, _i.id).limit(bindparam("limit"))
_HAS_ENDED = and_(among(_i.id, "ids"), _i.finished_at.is_not(None))
_LOCK = select(_i.id).where(_HAS_ENDED).order_by(_i.id).with_for_update(skip_locked=True)
_child = instances.alias("child").c
_ELIGIBLE = and_(
    _HAS_ENDED,
    ~exists().where(inbox.c.instance_id == _i.id),
    ~exists().where(incidents.c.instance_id == _i.id, incidents.c.status == IncidentStatus.OPEN.value),
    ~exists().where(_child.parent_id == _i.id),
    ~exists().where(_p.id == _i.parent_id, _p.finished_at.is_(None)),
)
_CHOOSE = select(_i.id).where(_ELIGIBLE).order_by(_i.id)

_KEPT = (
    "tenant_id", "definition_key", "definition_version", "status", "parent_id", "created_at", "started_at", "finished_at",
    "erased_at", "sequence", "head_hash",
)  # fmt: skip
_BURY = insert(tombstones).from_select(
    ["instance_id", *_KEPT, "deleted_at", "reason"],
    select(
        _i.id, *(_i[name] for name in _KEPT), bindparam("now", type_=UtcDateTime()), bindparam("reason")
    ).where(among(_i.id, "ids")),
)
_TASKS_OF = select(tasks.c.id).where(among(tasks.c.instance_id, "ids"))
_DELETIONS: tuple[Delete, ...] = (
    delete(attempts).where(attempts.c.task_id.in_(_TASKS_OF)),
    *(
        delete(table).where(among(table.c.instance_id, "ids"))
        for table in (
            suggestions, incidents, joins, tasks, timers, history, inbox, used_links, instance_metadata,
        )
    ),
    DELETE_OF_INSTANCES,
    delete(instances).where(among(_i.id, "ids")),
)  # fmt: skip


def sweep_batch(
    tx: Connection, rule: Rule, after: Position | None, *, reason: str, limit: int = BATCH
) -> Swept:
    """Delete those on the next page of a rule that are eligible and that nobody holds. The caller commits."""
    if after is None:
        page = tx.execute(_FIRST, {**_names(rule), "limit": limit}).all()
    else:
        names = {**_names(rule), "after_at": after.finished_at, "after_id": after.id, "limit": limit}
        page = tx.execute(_PAGE, names).all()
    reached = Position(page[-1][0], page[-1][1]) if len(page) == limit else None
    locked = list(tx.execute(_LOCK, {"ids": [row[1] for row in page]}).scalars()) if page else []
    chosen = list(tx.execute(_CHOOSE, {"ids": locked}).scalars()) if locked else []
    if chosen:
        # Read only now: a parent may have ended since the transaction began, and its child is deleted after that.
        tx.execute(_BURY, {"ids": chosen, "now": read_now(tx), "reason": reason})
        for statement in _DELETIONS:
            tx.execute(statement, {"ids": chosen})
    return Swept(len(chosen), reached)


# -- looking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """What is due: at most `COUNTED` of them are counted; `oldest` finished first."""

    count: int
    oldest: datetime | None


def count_due(tx: Connection, rules: Sequence[Rule]) -> Due:
    """How many instances are due by these rules, those included that have to wait for a child or a parent."""
    count, oldest = 0, None
    for rule in rules_with_due(tx, rules):
        page = _of_rule(_i.finished_at).order_by(_i.finished_at).limit(COUNTED - count).subquery()
        found, first = tx.execute(select(func.count(), func.min(page.c.finished_at)), _names(rule)).one()
        count += found
        if first is not None and (oldest is None or first < oldest):
            oldest = first
        if count >= COUNTED:
            break
    return Due(count, oldest)


def count_deleted(tx: Connection, tenant_id: TenantId | None) -> tuple[int, datetime | None]:
    """How many tombstones there are, of a tenant or (None) of all, and when the last one was set."""
    query = select(func.count(), func.max(tombstones.c.deleted_at))
    if tenant_id is not None:
        query = query.where(tombstones.c.tenant_id == tenant_id)
    row = tx.execute(query).one()
    return row[0], row[1]


def find_tombstone(tx: Connection, tenant_id: TenantId, instance_id: str) -> Mapping[str, Any] | None:
    """What is left of a deleted instance, as it is told; None when this tenant has none of this id."""
    t = tombstones.c
    row = (
        tx.execute(select(tombstones).where(t.tenant_id == tenant_id, t.instance_id == instance_id))
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    times = ("created_at", "started_at", "finished_at", "erased_at", "deleted_at")
    told = {name: None if row[name] is None else instant_text(row[name]) for name in times}
    return {**row, **told, "head_hash": row["head_hash"].hex()}
