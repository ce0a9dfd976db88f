"""Circuit breakers: their rows, and the tasks that wait for them.

Rows are locked after those of tasks, in order of their keys (`common.breaker.in_order`). Tasks that wait are made due
while a breaker's row is locked; that is out of turn, and therefore skips what others hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Insert, and_, bindparam, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from common.breaker import Breaker, BreakerKey, BreakerState, in_order
from common.db.prepared import Prepared
from common.db.rows import update_rows
from common.db.tables import attempts, breakers, tasks
from common.db.types import UtcDateTime, among
from common.ids import InstanceId, LeaseToken, TaskId, TenantId
from common.lifecycle import TaskStatus
from common.store.listing import Page
from common.store.tasks import later

_b = breakers.c
_t = tasks.c
_a = attempts.c
_KEY = (_b.tenant_id, _b.type, _b.target)
_STATE = (
    _b.state, _b.forced, _b.successes, _b.failures, _b.in_a_row, _b.counted_from, _b.opened_at, _b.retry_at,
    _b.probe_task_id, _b.probe_token, _b.last_error,
)  # fmt: skip
_NAMES = tuple(f"{column.name}" for column in _STATE)  # plain texts, as the columns of rows have to be
_WAITS = and_(_t.breaker.is_not(None), _t.status == TaskStatus.PENDING)
_CLAIMABLE = and_(_WAITS, ~_t.held, ~_t.gated)

WOKEN_AT_ONCE = 1_000
"""Tasks that are made due in one statement; what is left is for the next sweep."""
DUE_AT_ONCE = 100
"""Breakers that one sweep looks at."""


def _keys(keys: Iterable[BreakerKey]) -> list[tuple[str, str, str]]:
    return sorted(map(in_order, keys))


def _read(row: Any) -> tuple[BreakerKey, Breaker]:
    values = dict(zip(_NAMES, row[3:], strict=True)) | {"state": BreakerState(row[3])}
    return BreakerKey(row[0], row[1], row[2]), Breaker(**values)


# -- for tasks that were claimed --------------------------------------------------------------------------------

_IS_ASKED = tuple_(*_KEY).in_(bindparam("keys", expanding=True))
_NOT_CLOSED = select(*_KEY).where(_IS_ASKED, _b.state != BreakerState.CLOSED)
_LOCK = select(*_KEY, *_STATE).where(_IS_ASKED).order_by(*_KEY).with_for_update()
_LOCK_TELLING = (
    select(*_KEY, *_STATE)
    .where(
        or_(
            tuple_(*_KEY).in_(bindparam("failing", expanding=True)),
            _IS_ASKED & or_(_b.state != BreakerState.CLOSED, _b.failures > 0, _b.in_a_row > 0),
        )
    )
    .order_by(*_KEY)
    .with_for_update()
)
_RUNNING = select(_t.id, _t.lease_token).where(among(_t.id, "ids"), _t.status == TaskStatus.RUNNING)


def find_not_closed(tx: Connection, keys: Iterable[BreakerKey]) -> set[BreakerKey]:
    """Those of some breakers that may not let everybody through; locks nothing."""
    return {BreakerKey(*row) for row in tx.execute(_NOT_CLOSED, {"keys": _keys(keys)})}


def lock(tx: Connection, keys: Iterable[BreakerKey]) -> dict[BreakerKey, Breaker]:
    """Lock those of some breakers that have a row, in order."""
    return dict(_read(row) for row in tx.execute(_LOCK, {"keys": _keys(keys)}))


def lock_telling(
    tx: Connection, keys: Iterable[BreakerKey], failing: Iterable[BreakerKey]
) -> dict[BreakerKey, Breaker]:
    """Lock, in order, the `failing` ones of some breakers, and of the others those for which a success is news."""
    names = {"keys": _keys(keys), "failing": _keys(failing)}
    return dict(_read(row) for row in tx.execute(_LOCK_TELLING, names))


def find_probing(tx: Connection, locked: Iterable[Breaker]) -> set[tuple[TaskId, LeaseToken]]:
    """The probes of locked breakers that still run.

    To be asked after they are locked, in this statement of its own: one that locks sees tasks as they were before it waited.
    """
    ids = [breaker.probe_task_id for breaker in locked if breaker.probe_task_id is not None]
    return {(row.id, row.lease_token) for row in tx.execute(_RUNNING, {"ids": ids})} if ids else set()


def _creating(dialect: Any) -> Insert:
    row: Insert = dialect.insert(breakers)
    return row.on_conflict_do_nothing(index_elements=list(_KEY))  # type: ignore[attr-defined, no-any-return]


_CREATE = {"postgresql": _creating(postgresql), "sqlite": _creating(sqlite)}
_COUNT = select(func.count()).select_from(breakers).where(_b.tenant_id == bindparam("tenant_id"))
_KNOWN = select(*_KEY).where(_IS_ASKED)


def find_known(tx: Connection, keys: Iterable[BreakerKey]) -> set[BreakerKey]:
    """Those of some breakers that have a row."""
    return {BreakerKey(*row) for row in tx.execute(_KNOWN, {"keys": _keys(keys)})}


def create(tx: Connection, key: BreakerKey, *, by: str, now: datetime, at_most: int) -> bool:
    """Insert a closed breaker unless it is there; False where its tenant has `at_most` of them already."""
    if tx.execute(_COUNT, {"tenant_id": key.tenant_id}).scalar_one() >= at_most:
        return False
    tx.execute(
        _CREATE[tx.dialect.name],
        {
            "tenant_id": key.tenant_id, "type": key.type, "target": key.target, "state": BreakerState.CLOSED.value,
            "counted_from": now, "updated_at": now, "updated_by": by,
        },
    )  # fmt: skip
    return True


def save(tx: Connection, changed: Mapping[BreakerKey, Breaker], *, by: str, now: datetime) -> None:
    """Write locked breakers."""
    rows = [
        {"tenant_id": key.tenant_id, "type": key.type, "target": key.target}
        | {name: getattr(breaker, name) for name in _NAMES}
        | {"state": breaker.state.value, "updated_at": now, "updated_by": by}
        for key, breaker in changed.items()
    ]
    update_rows(
        tx,
        breakers,
        rows,
        match=(("tenant_id", "tenant_id"), ("type", "type"), ("target", "target")),
    )


# -- tasks that wait --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A claimed task that has to wait: for which breaker, until when it looks by itself, what its attempts were before."""

    task_id: TaskId
    token: LeaseToken
    key: BreakerKey
    run_at: datetime
    attempt: int


_WAITED = select(_t.id, _t.breaker, _t.breaker_since, _t.start_within_ms).where(among(_t.id, "ids"))
_DROP_ATTEMPTS = delete(attempts).where(
    among(_a.task_id, "ids"), among(_a.token, "tokens"), _a.ended_at.is_(None)
)


def hold_back(tx: Connection, held: Sequence[HeldBack], *, now: datetime) -> None:
    """Make tasks that this transaction claimed pending again, as if it had not: no attempt is counted, none on record.

    Their wait for a worker (`scheduleToStart`) counts from when they first had to wait for the breaker.
    """
    if not held:
        return
    waited = {row.id: row for row in tx.execute(_WAITED, {"ids": [one.task_id for one in held]})}
    rows = []
    for one in held:
        before = waited[one.task_id]
        since = before.breaker_since if before.breaker == one.key.text and before.breaker_since else now
        within = before.start_within_ms
        rows.append(
            {
                "id": one.task_id,
                "held_token": one.token,
                "status": TaskStatus.PENDING.value,
                "attempt": one.attempt,
                "run_at": one.run_at,
                "start_by_at": later(since, within),
                "breaker": one.key.text,
                "breaker_since": since,
            }
        )
    update_rows(
        tx,
        tasks,
        rows,
        match=(("id", "id"), ("lease_token", "held_token")),
        only_if="tasks.status = 'running'",
        cleared=("lease_owner", "lease_token", "lease_expires_at"),
    )
    tx.execute(
        _DROP_ATTEMPTS,
        {"ids": [one.task_id for one in held], "tokens": sorted({one.token for one in held})},
    )


_later = (
    select(_t.id)
    .where(
        _t.tenant_id == bindparam("b_tenant_id"),
        _t.breaker == bindparam("b_breaker"),
        _WAITS,
        _t.run_at > bindparam("b_now", type_=UtcDateTime()),
    )
    .order_by(_t.run_at)
    .limit(bindparam("b_limit"))
    .with_for_update(skip_locked=True)
)
# As in the claim: a WITH query that locks is run once, a subquery may be run for each row.
_all_of_it = _later.cte("waiting")
_WAKE = (
    update(tasks)
    .where(_t.id.in_(select(_all_of_it.c.id)))
    .values(run_at=bindparam("b_now", type_=UtcDateTime()))
)
_some_of_it = _later.where(~_t.held, ~_t.gated).cte("waiting")
_WAKE_CLAIMABLE = (
    update(tasks)
    .where(_t.id.in_(select(_some_of_it.c.id)))
    .values(run_at=bindparam("b_now", type_=UtcDateTime()))
)


def wake(tx: Connection, key: BreakerKey, *, now: datetime, limit: int = WOKEN_AT_ONCE) -> int:
    """Make tasks that wait for a breaker due, the longest waiting first; returns how many. What is locked is skipped."""
    names = {"b_tenant_id": key.tenant_id, "b_breaker": key.text, "b_now": now, "b_limit": limit}
    return tx.execute(_WAKE, names).rowcount


def wake_one(tx: Connection, key: BreakerKey, *, now: datetime) -> int:
    """Make one task due that waits for a breaker and may be claimed; returns how many that were."""
    names = {"b_tenant_id": key.tenant_id, "b_breaker": key.text, "b_now": now, "b_limit": 1}
    return tx.execute(_WAKE_CLAIMABLE, names).rowcount


# -- what nobody else wakes -------------------------------------------------------------------------------------

_OF_IT = (_t.tenant_id == _b.tenant_id, _t.breaker == _b.type + " " + _b.target)
_NOW = bindparam("now", type_=UtcDateTime())
_probe = tasks.alias("probe")
_IS_PROBED = exists(
    select(_probe.c.id).where(
        _probe.c.id == _b.probe_task_id,
        _probe.c.lease_token == _b.probe_token,
        _probe.c.status == TaskStatus.RUNNING,
    )
)
_NEEDS_PROBE = and_(
    _b.state != BreakerState.CLOSED,
    _b.retry_at <= _NOW,
    exists(select(_t.id).where(*_OF_IT, _CLAIMABLE, _t.run_at > _NOW)),
    ~exists(select(_t.id).where(*_OF_IT, _CLAIMABLE, _t.run_at <= _NOW)),
    ~_IS_PROBED,
)
_LEFT_ASLEEP = and_(
    _b.state == BreakerState.CLOSED,
    _b.updated_at > bindparam("lately", type_=UtcDateTime()),
    exists(select(_t.id).where(*_OF_IT, _WAITS, _t.run_at > _NOW)),
)
ARE_ANY = exists(select(_b.target))
"""Is there a circuit breaker, so that something may have to be woken?"""
_NEXT = Prepared(
    select(
        select(func.min(_b.retry_at)).where(_b.state != BreakerState.CLOSED).scalar_subquery(),
        exists(select(_b.target).where(_LEFT_ASLEEP)),
    )
)
_TO_WAKE = select(*_KEY, _b.state).where(or_(_NEEDS_PROBE, _LEFT_ASLEEP)).limit(DUE_AT_ONCE)
LATELY = timedelta(minutes=2)
"""How long after a breaker was closed somebody looks for tasks that were passed over then."""


def next_look_at(tx: Connection, *, now: datetime) -> datetime | None:
    """When waiting tasks may have to be woken next: at the end of a cool-down, or now where some were passed over."""
    [(retry_at, is_left)] = _NEXT.rows(tx, {"now": now, "lately": now - LATELY})
    return now if is_left else retry_at


def find_to_wake(tx: Connection, *, now: datetime) -> list[tuple[BreakerKey, BreakerState]]:
    """Breakers whose cool-down is over and whose waiting tasks all sleep, and closed ones for which some still do."""
    rows = tx.execute(_TO_WAKE, {"now": now, "lately": now - LATELY})
    return [(BreakerKey(*row[:3]), BreakerState(row.state)) for row in rows]


_IDLE = delete(breakers).where(
    ~_b.forced,
    _b.updated_at < bindparam("before", type_=UtcDateTime()),
    ~exists(select(_t.id).where(*_OF_IT, _WAITS)),
    ~_IS_PROBED,
)


def forget_idle(tx: Connection, *, before: datetime) -> int:
    """Delete breakers that nothing has happened to since `before` and that nobody waits for; an operator's word stays."""
    return tx.execute(_IDLE, {"before": before}).rowcount


# -- for people -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BreakerRecord:
    """A breaker with its key, and how many tasks wait for it."""

    key: BreakerKey
    breaker: Breaker
    updated_at: datetime
    updated_by: str
    waiting: int


_WAITING = select(func.count()).select_from(tasks).where(*_OF_IT, _WAITS).scalar_subquery()
_RECORD = select(*_KEY, *_STATE, _b.updated_at, _b.updated_by, _WAITING.label("waiting"))


def _record(row: Any) -> BreakerRecord:
    key, breaker = _read(row[:-3])
    return BreakerRecord(key, breaker, *row[-3:])


def read(tx: Connection, keys: Iterable[BreakerKey]) -> list[BreakerRecord]:
    """Those of some breakers that have a row, in order."""
    return [
        _record(row) for row in tx.execute(_RECORD.where(_IS_ASKED).order_by(*_KEY), {"keys": _keys(keys)})
    ]


def list_breakers(
    tx: Connection,
    tenant_id: TenantId,
    *,
    state: BreakerState | None,
    type: str | None,
    after: tuple[str, str] | None,
    limit: int,
) -> Page[BreakerRecord]:
    """Breakers of a tenant by type and target, after that pair."""
    conditions = [_b.tenant_id == tenant_id]
    if state is not None:
        conditions.append(_b.state == state)
    if type is not None:
        conditions.append(_b.type == type)
    if after is not None:
        conditions.append(tuple_(_b.type, _b.target) > tuple_(*after))
    query = _RECORD.where(*conditions).order_by(_b.type, _b.target).limit(limit + 1)
    found = [_record(row) for row in tx.execute(query)]
    return Page(found[:limit], len(found) > limit)


def count_by_state(tx: Connection, tenant_id: TenantId | None) -> dict[str, int]:
    """How many breakers have each state, of a tenant or (None) of all; a state that none has is left out."""
    query = select(_b.state, func.count()).group_by(_b.state)
    if tenant_id is not None:
        query = query.where(_b.tenant_id == tenant_id)
    return {str(state): count for state, count in tx.execute(query)}


def count_waiting(tx: Connection, tenant_id: TenantId | None) -> int:
    """How many tasks wait for breakers, of a tenant or (None) of all."""
    query = select(func.count()).select_from(tasks).where(_WAITS)
    if tenant_id is not None:
        query = query.where(_t.tenant_id == tenant_id)
    return tx.execute(query).scalar_one()


_WAITING_OF = (
    select(_t.id, _t.breaker, _t.breaker_since)
    .where(_t.tenant_id == bindparam("tenant_id"), _t.instance_id == bindparam("instance_id"), _WAITS)
    .order_by(_t.id)
    .limit(bindparam("limit"))
)


_WAITING_AMONG = select(_t.id, _t.breaker, _t.breaker_since).where(
    _t.tenant_id == bindparam("tenant_id"), among(_t.id, "ids"), _WAITS
)


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """A task that waits for a breaker, since when."""

    task_id: TaskId
    key: BreakerKey
    since: datetime


def find_waiting(
    tx: Connection, tenant_id: TenantId, instance_id: InstanceId, *, limit: int
) -> list[WaitingTask]:
    """Tasks of an instance that wait for breakers."""
    names = {"tenant_id": tenant_id, "instance_id": instance_id, "limit": limit}
    return [_waiting(tenant_id, row) for row in tx.execute(_WAITING_OF, names)]


def find_waiting_among(tx: Connection, tenant_id: TenantId, ids: Sequence[TaskId]) -> list[WaitingTask]:
    """Those of some tasks that wait for breakers."""
    rows = tx.execute(_WAITING_AMONG, {"tenant_id": tenant_id, "ids": list(ids)})
    return [_waiting(tenant_id, row) for row in rows]


def _waiting(tenant_id: TenantId, row: Any) -> WaitingTask:
    return WaitingTask(row.id, _key_of(tenant_id, row.breaker), row.breaker_since)


def _key_of(tenant_id: TenantId, text: str) -> BreakerKey:
    type, _, target = text.partition(" ")
    return BreakerKey(tenant_id, type, target)
