"""Attempts under their leases: extended, told of, ended.

Whoever reports names the token of his claim: it wins if the row is still `running` under it, whatever the clock says (expiry alone
voids nothing; only another claim, an expiry sweep or a cancel does). Whose token is not the row's any more is recorded as late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    select,
    tuple_,
    update,
)

from common.clock import database_now
from common.db.now import read_now
from common.db.prepared import Prepared
from common.db.rows import Writes, update_rows, write_rows
from common.db.tables import AttemptOutcome, attempts, handlers, tasks
from common.db.types import Id, UtcDateTime, among
from common.ids import InstanceId, LeaseToken, TaskId, TenantId
from common.lifecycle import TaskStatus
from common.store.tasks import is_handler_of_task

_t = tasks.c
_a = attempts.c

# -- beating ----------------------------------------------------------------------------------------------------

_beaten = (
    select(_t.id)
    .where(among(_t.id, "ids"), among(_t.lease_token, "tokens"), _t.status == TaskStatus.RUNNING)
    .with_for_update(skip_locked=True)
)
_BEAT = (
    update(tasks)
    .where(_t.id.in_(_beaten.scalar_subquery()))
    .values(lease_expires_at=bindparam("expires_at", type_=UtcDateTime()))
)
_HELD = select(_t.id).where(
    among(_t.id, "ids"), among(_t.lease_token, "tokens"), _t.status == TaskStatus.RUNNING
)


def extend_leases(
    tx: Connection, ids: Sequence[TaskId], tokens: Sequence[LeaseToken], *, lease: timedelta, now: datetime
) -> set[TaskId]:
    """Extend the leases that `tokens` hold on `ids`; return the ids still held. A missing id: cancelled, or lease lost.

    Rows in flight elsewhere are skipped rather than waited for, and still count as held.
    """
    names = {"ids": ids, "tokens": tokens}
    tx.execute(_BEAT, {**names, "expires_at": now + lease})
    return set(tx.execute(_HELD, names).scalars())


def save_progress(tx: Connection, rows: Sequence[tuple[TaskId, LeaseToken, str]]) -> None:
    """Keep what handlers reported of their progress: with the task for the next attempt, and with this attempt for people."""
    told = [{"id": task, "token": token, "progress": text} for task, token, text in rows]
    update_rows(
        tx, tasks, told, match=(("id", "id"), ("lease_token", "token")), only_if="tasks.status = 'running'"
    )
    update_rows(
        tx, attempts, told, match=(("task_id", "id"), ("token", "token")), only_if="attempts.ended_at IS NULL"
    )


def save_states(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what the next attempt goes on from: rows {id, held_token, state}."""
    update_rows(
        tx,
        tasks,
        rows,
        match=(("id", "id"), ("lease_token", "held_token")),
        only_if="tasks.status = 'running'",
    )


_FORGET = update(tasks).where(among(_t.id, "ids"), _t.state.is_not(None)).values(state=None)


def forget_states(tx: Connection, ids: Sequence[TaskId]) -> None:
    """Drop what ended tasks went on from: a conversation with a model is kept redacted, in their outputs."""
    if ids:
        tx.execute(_FORGET, {"ids": ids})


# -- ending -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WonTask:
    """A locked task whose claim still holds, with what decides about another attempt, and the MAP that it is an item of."""

    joined_keys: str | None
    max_attempts: int
    start_within_ms: int | None
    finish_by_at: datetime | None
    parent_task_id: TaskId | None


_WON = Prepared(
    select(
        _t.id, _t.lease_token, _t.joined_keys, _t.max_attempts, _t.start_within_ms, _t.finish_by_at, _t.parent_task_id,
        database_now(),
    )
    .where(among(_t.id, "ids"), among(_t.lease_token, "tokens"), _t.status == literal_column("'running'"))
    .order_by(_t.id)
    .with_for_update()
)  # fmt: skip


def lock_won(
    tx: Connection, ids: Sequence[TaskId], tokens: Sequence[LeaseToken]
) -> tuple[dict[tuple[TaskId, LeaseToken], WonTask], datetime]:
    """Lock the tasks of `ids` that run under one of `tokens`, in id order, by id and the row's token; and the time by then.

    A group may hold an old and a new claim of one task. Who asks must find its own pair here: the id alone would let
    the old claim's result pass under the new claim's token.
    """
    rows = _WON.rows(tx, {"ids": ids, "tokens": tokens})
    now = rows[-1][-1] if rows else read_now(tx)
    return {(row[0], row[1]): WonTask(*row[2:-1]) for row in rows}, now


@dataclass(frozen=True, slots=True)
class LeasedTask:
    """An attempt as its holder reports it. `retry` is the policy in force: the task's own, else its handler's."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    token: LeaseToken
    key: str
    type: str
    name: str
    attempt: int
    retry: str | None
    completion_event: str
    failure_event: str


_LEASED = (
    select(
        _t.id, _t.tenant_id, _t.instance_id, _a.token, _t.key, _t.type, _t.name, _a.attempt,
        func.coalesce(_t.retry, handlers.c.retry), _t.completion_event, _t.failure_event,
    )
    .join(attempts, _a.task_id == _t.id)
    .outerjoin(handlers, is_handler_of_task())
    .where(
        _t.tenant_id == bindparam("tenant_id"), _t.id == bindparam("id"), _a.token == bindparam("token", type_=Id())
    )
)  # fmt: skip


def find_leased(tx: Connection, tenant_id: TenantId, task_id: str, token: LeaseToken) -> LeasedTask | None:
    """The attempt at a task that was made under a token, whether the lease still holds or not."""
    row = tx.execute(_LEASED, {"tenant_id": tenant_id, "id": task_id, "token": token}).one_or_none()
    return None if row is None else LeasedTask(*row)


_RELEASE = (
    update(tasks)
    .where(_t.id == bindparam("b_id"), _t.status == TaskStatus.RUNNING)
    .values(
        status=TaskStatus.PENDING, run_at=bindparam("run_at"), error=bindparam("error"),
        start_by_at=bindparam("start_by_at", type_=UtcDateTime()),
        attempt=_t.attempt - bindparam("uncounted"), lost=_t.lost + bindparam("lost"),
        lease_owner=None, lease_token=None, lease_expires_at=None, breaker=None, breaker_since=None,
    )
)  # fmt: skip


def finish(writes: Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """End locked tasks: rows {id, held_token, status, output, error, finished_at}."""
    writes.update(
        tasks,
        rows,
        match=(("id", "id"), ("lease_token", "held_token")),
        only_if="tasks.status = 'running'",
        cleared=("lease_owner", "lease_token", "lease_expires_at"),
    )


def release(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make locked tasks pending again: rows {b_id, run_at, start_by_at, error, uncounted, lost}.

    `uncounted` 1 takes the attempt back (a drain, a lost lease); `lost` 1 counts a lost lease.
    """
    write_rows(tx, _RELEASE, rows)


def end_attempts(writes: Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Close attempt rows: {task_id, token, ended_at, outcome, error}; one that is closed already stays as it is."""
    writes.update(
        attempts,
        rows,
        match=(("task_id", "task_id"), ("token", "token")),
        only_if="attempts.ended_at IS NULL",
        may_miss=True,
    )


_numbered = (
    select(
        _a.task_id,
        _a.token,
        _a.ended_at,
        func.row_number()
        .over(partition_by=_a.task_id, order_by=(_a.started_at.desc(), _a.token.desc()))
        .label("age"),
    )
    .where(among(_a.task_id, "ids"))
    .subquery()
)
_DROP_OLD = delete(attempts).where(
    tuple_(_a.task_id, _a.token).in_(
        select(_numbered.c.task_id, _numbered.c.token).where(
            _numbered.c.age > bindparam("kept"), _numbered.c.ended_at.is_not(None)
        )
    )
)


def drop_old_attempts(tx: Connection, ids: Sequence[TaskId], *, kept: int) -> None:
    """Delete ended attempts of locked tasks, except the newest `kept` of each."""
    if ids:
        tx.execute(_DROP_OLD, {"ids": ids, "kept": kept})


_ENDED_BY_OTHERS = (
    AttemptOutcome.LOST.value,
    AttemptOutcome.CANCELLED.value,
    AttemptOutcome.RELEASED.value,
    AttemptOutcome.TIMED_OUT.value,
)
_LATE = (
    update(attempts)
    .where(
        _a.task_id == bindparam("b_id"),
        _a.token == bindparam("b_token", type_=Id()),
        _a.result_digest.is_(None),
    )
    .where(_a.outcome.in_(_ENDED_BY_OTHERS))
    .values(
        result_digest=bindparam("digest"),
        # Of an attempt that ran out of time this stays the outcome: it counted.
        outcome=case(
            (_a.outcome == AttemptOutcome.TIMED_OUT.value, AttemptOutcome.TIMED_OUT.value),
            else_=AttemptOutcome.LATE.value,
        ),
    )
)


def record_late(tx: Connection, task_id: TaskId, token: LeaseToken, digest: bytes) -> bool:
    """Record that a result came after its lease was lost. False when this attempt has already told (a repeat)."""
    return tx.execute(_LATE, {"b_id": task_id, "b_token": token, "digest": digest}).rowcount == 1


_READ_ATTEMPTS = Prepared(
    select(_a.task_id, _a.attempt, _a.outcome, _a.started_at, _a.ended_at)
    .where(among(_a.task_id, "ids"))
    .order_by(_a.task_id, _a.started_at, _a.token)
)


def read_attempts(tx: Connection, ids: Sequence[TaskId]) -> dict[str, list[tuple[Any, ...]]]:
    """The attempts of tasks, oldest first: id → [(attempt, outcome, started_at, ended_at)]."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in _READ_ATTEMPTS.rows(tx, {"ids": ids}):
        found.setdefault(row[0], []).append(tuple(row[1:]))
    return found
