"""The tasks of instances, as their steps see them: created, asked for again, answered, cancelled, held, retried, skipped.

The caller holds the locks of the instances. Waiting for task locks happens after instance locks and in id order, MAPs last,
everywhere. How tasks are taken up, tried and ended by runners is told in `claims`, `attempts` and `deadlines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from common.canonical import read
from common.db.now import read_now
from common.db.rows import Writes, insert_rows, update_rows
from common.db.tables import AttemptOutcome, attempts, handlers, tasks
from common.db.types import UtcDateTime, among
from common.decide import NOT_RUN_BY_A_RUNNER
from common.ids import InstanceId, TaskId, TenantId
from common.lifecycle import OPEN, TASK_MOVES, TaskStatus, sources
from common.polls import POLL, begin_anew
from common.retry import RetryPolicy
from statechart.env import end_of_wait

_t = tasks.c
_a = attempts.c
ASKED = func.coalesce(_t.asked_as, _t.type)
"""What the definition wrote, and its events say."""
_BY_ID = (("id", "id"),)
_IN_TURN = (_t.type == "MAP", _t.id)
"""The order in which task rows are waited for: who holds a MAP waits for nothing that may be an item of it."""


def create(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert task rows, all with the same members. The caller holds the locks of their instances."""
    insert_rows(tx, tasks, rows)


_IN_ORDER = (
    select(_t.id)
    .where(
        or_(
            among(_t.instance_id, "withdrawing") & _t.status.in_(OPEN),
            among(_t.instance_id, "asking") & among(_t.idempotency_key, "idempotency_keys", "text"),
            among(_t.parent_task_id, "retried"),
            among(_t.id, "retried"),
            among(_t.instance_id, "counting") & among(_t.key, "counted", "text"),
        )
    )
    .order_by(*_IN_TURN)
    .with_for_update()
)


def lock_in_order(
    tx: Connection,
    *,
    withdrawing: Sequence[str],
    asking: Sequence[str],
    idempotency_keys: Sequence[str],
    retried: Sequence[str],
    counted: Sequence[tuple[str, str]],
) -> None:
    """Lock, in order, the open tasks of some instances, those that answer one of the keys for others, those to be retried
    with their items, and those of an instance and a key each.

    Who locks a few of them first and others later does not lock in id order, and deadlocks with a runner that
    reports both. What is asked for afterwards is held already.
    """
    names = {
        "withdrawing": withdrawing, "asking": asking, "idempotency_keys": idempotency_keys, "retried": retried,
        "counting": sorted({one for one, _ in counted}), "counted": sorted({key for _, key in counted}),
    }  # fmt: skip
    tx.execute(_IN_ORDER, names).all()


# -- asked again ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SameWork:
    """A task that already answers an idempotency key of its instance."""

    id: TaskId
    status: TaskStatus
    key: str
    joined_keys: str | None
    name: str
    type: str
    attempt: int
    output: str | None
    error: str | None


_SAME = (
    select(_t.id, _t.status, _t.key, _t.joined_keys, _t.name, ASKED, _t.attempt, _t.output, _t.error)
    .where(_t.instance_id == bindparam("instance_id"), _t.idempotency_key == bindparam("idempotency_key"))
    .with_for_update()
)
_GIVE_UP_KEY = update(tasks).where(_t.id == bindparam("b_id")).values(idempotency_key=None)
_JOIN = update(tasks).where(_t.id == bindparam("b_id")).values(joined_keys=bindparam("b_keys"))


def lock_same_work(tx: Connection, instance_id: InstanceId, idempotency_key: str) -> SameWork | None:
    """Lock the task that an instance already created under this idempotency key, if it did."""
    row = tx.execute(_SAME, {"instance_id": instance_id, "idempotency_key": idempotency_key}).one_or_none()
    return None if row is None else SameWork(row[0], TaskStatus(row[1]), *row[2:])


def join(tx: Connection, task_id: TaskId, joined_keys: str) -> None:
    """Let a locked task answer further obligations of its instance."""
    tx.execute(_JOIN, {"b_id": task_id, "b_keys": joined_keys})


def give_up_key(tx: Connection, task_id: TaskId) -> None:
    """Free the idempotency key of a cancelled task, so that the same work can be asked for again."""
    tx.execute(_GIVE_UP_KEY, {"b_id": task_id})


# -- cancelling -------------------------------------------------------------------------------------------------

_OPEN_OF = (
    select(_t.id, _t.instance_id, _t.key, _t.joined_keys, _t.type, _t.lease_token.is_not(None))
    .where(among(_t.instance_id, "instance_ids"), _t.status.in_(OPEN))
    .order_by(*_IN_TURN)
    .with_for_update()
)
_CANCEL = (
    update(tasks)
    .where(among(_t.id, "ids"), _t.status.in_(OPEN))
    .values(
        status=TaskStatus.CANCELLED, finished_at=bindparam("now", type_=UtcDateTime()), lease_owner=None,
        lease_token=None, lease_expires_at=None,
    )
)  # fmt: skip
_END_ATTEMPTS = (
    update(attempts)
    .where(among(_a.task_id, "ids"), _a.ended_at.is_(None))
    .values(ended_at=bindparam("now", type_=UtcDateTime()), outcome=AttemptOutcome.CANCELLED.value)
)


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A locked task that is open, and what it answers."""

    id: TaskId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    is_leased: bool


def lock_open(tx: Connection, instance_ids: Sequence[str]) -> list[OpenTask]:
    """Lock the open tasks of locked instances in order. May wait for a runner's commit."""
    return [OpenTask(*row) for row in tx.execute(_OPEN_OF, {"instance_ids": instance_ids})]


@dataclass(frozen=True, slots=True)
class AnsweringTask:
    """How a task stands that answers obligations of its instance."""

    id: TaskId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    status: TaskStatus
    attempt: int
    output: str | None
    error_text: str | None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, *(read(self.joined_keys) if self.joined_keys else ()))


_ANSWERING = select(
    _t.id, _t.instance_id, _t.key, _t.joined_keys, ASKED, _t.name, _t.status, _t.attempt, _t.output, _t.error
).where(among(_t.instance_id, "ids"), _t.parent_task_id.is_(None))


def read_answering(tx: Connection, instance_ids: Sequence[str]) -> list[AnsweringTask]:
    """Every task of instances that answers an obligation, ended or not; items of MAPs answer none."""
    rows = tx.execute(_ANSWERING, {"ids": list(instance_ids)})
    return [
        AnsweringTask(
            row[0], row[1], row[2], row[3], row[4], row[5], TaskStatus(row[6]), row[7], row[8], row[9]
        )
        for row in rows
    ]


def cancel(tx: Connection, ids: Sequence[TaskId], *, now: datetime) -> None:
    """Cancel locked open tasks. A running handler learns it by its next beat; its result will be late."""
    if ids:
        tx.execute(_CANCEL, {"ids": ids, "now": now})
        tx.execute(_END_ATTEMPTS, {"ids": ids, "now": now})


def end_workflows(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End WORKFLOW tasks of locked instances, which nobody claims: rows {instance_id, key, status, output, error, finished_at}."""
    update_rows(
        tx,
        tasks,
        rows,
        match=(("instance_id", "instance_id"), ("key", "key")),
        only_if="tasks.status = 'running' AND tasks.type = 'WORKFLOW'",
    )


_HOLD = update(tasks).where(among(_t.id, "ids"), _t.status.in_(OPEN)).values(held=True, start_by_at=None)


def hold(tx: Connection, ids: Sequence[TaskId]) -> None:
    """Keep locked open tasks of a frozen instance from being claimed; one that runs finishes, but is not tried again."""
    if ids:
        tx.execute(_HOLD, {"ids": ids})


_HELD_TASKS = (
    select(_t.id, _t.run_at, _t.start_within_ms, _t.gated)
    .where(among(_t.instance_id, "instance_ids"), _t.status.in_(OPEN), _t.held)
    .order_by(*_IN_TURN)
    .with_for_update()
)


def unhold(tx: Connection, instance_ids: Sequence[InstanceId]) -> list[TaskId]:
    """Let the held tasks of locked instances be claimed again; returns their ids, in order.

    The wait for a worker that `scheduleToStart` bounds begins anew: nobody could have started them meanwhile.
    """
    if not instance_ids:
        return []
    rows = tx.execute(_HELD_TASKS, {"instance_ids": instance_ids}).all()
    if rows:
        now = read_now(tx)
        thawed = [
            {
                "id": row.id,
                "held": False,
                # The wait of an item begins with its turn.
                "start_by_at": None if row.gated else later(max(row.run_at, now), row.start_within_ms),
            }
            for row in rows
        ]
        update_rows(tx, tasks, thawed, match=_BY_ID, only_if="tasks.finished_at IS NULL")
    return [row.id for row in rows]


def is_handler_of_task() -> ColumnElement[bool]:
    """Does a row of `handlers` tell of the handler that executes a task? SYSTEM names its functions."""
    return and_(handlers.c.type == _t.type, handlers.c.name == case((_t.type == "SYSTEM", _t.name), else_=""))


_FAILED = (
    select(
        _t.id, _t.type, _t.attempt, _t.retry, _t.start_within_ms, _t.finish_within_ms, _t.asked_as, _t.state,
        handlers.c.retry.label("handlers_retry"),
    )
    .outerjoin(handlers, is_handler_of_task())
    .where(among(_t.id, "ids"), _t.status.in_(sources(TASK_MOVES, "retry")))
    .order_by(_t.id)
    .with_for_update(of=tasks)
)  # fmt: skip


def retry(tx: Connection, ids: Sequence[TaskId], *, now: datetime) -> list[TaskId]:
    """Give failed tasks of locked instances another series of attempts, at once; returns the ids that changed, in order.

    Attempts go on counting: `max_attempts` becomes those made so far and as many as the policy allows. Time-outs, and
    the limits of a POLL, begin anew, the last error and the count of lost leases are cleared. What no runner executes waits as it did before.
    """
    if not ids:
        return []
    rows = tx.execute(_FAILED, {"ids": ids}).all()
    again = []
    for row in rows:
        executed = row.type not in NOT_RUN_BY_A_RUNNER
        again.append(
            {
                "id": row.id,
                "status": (TaskStatus.PENDING if executed else TaskStatus.RUNNING).value,
                "held": False,
                "run_at": now,
                "start_by_at": later(now, row.start_within_ms),
                "finish_by_at": later(now, row.finish_within_ms),
                **another_series(row, now),
            }
        )
    update_rows(
        tx,
        tasks,
        again,
        match=_BY_ID,
        only_if="tasks.status = 'failed'",
        cleared=("error", "finished_at", "ended_by", "breaker", "breaker_since"),
    )
    return [row.id for row in rows]


def another_series(row: Any, now: datetime) -> dict[str, Any]:
    """What another series of attempts changes in a row {attempt, retry, handlers_retry, asked_as, state}."""
    policy = row.retry or row.handlers_retry
    return {
        "lost": 0,
        "max_attempts": row.attempt + RetryPolicy.read(read(policy) if policy else None).max_attempts,
        "state": begin_anew(row.state, now) if row.asked_as == POLL else row.state,
    }


def later(at: datetime, milliseconds: int | None) -> datetime | None:
    """The instant so long after `at`; None where nothing bounds the time."""
    return None if milliseconds is None else end_of_wait(at, milliseconds)


# -- skipping ---------------------------------------------------------------------------------------------------

_SKIP = (
    update(tasks)
    .where(among(_t.id, "ids"), _t.status.in_(sources(TASK_MOVES, "skip")))
    .values(status=TaskStatus.SKIPPED)
)


def skip(tx: Connection, ids: Sequence[str]) -> None:
    """Give failed tasks of locked instances up: somebody has answered for them."""
    if ids:
        tx.execute(_SKIP, {"ids": ids})


@dataclass(frozen=True, slots=True)
class TaskNames:
    """What an answer to a task has to name."""

    type: str
    name: str
    attempt: int
    completion_event: str


def read_names(tx: Connection, tenant_id: TenantId, task_id: str) -> TaskNames:
    """The names of a task that an incident points at; such a task is never gone before its incident."""
    wanted = select(ASKED, _t.name, _t.attempt, _t.completion_event)
    return TaskNames(*tx.execute(wanted.where(_t.tenant_id == tenant_id, _t.id == task_id)).one())
