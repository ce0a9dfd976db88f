"""What MAPs count: their items' ends, the items that wait for their turn, the results put together.

Whoever counts holds the row of the MAP, and has locked the items before it (`lock_maps`). So a row of `joins` is never
waited for, and nobody who holds a MAP waits for one of its items: those that are opened are skipped where they are
locked, and found when their instance is thawed (`open_again`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    bindparam,
    cast,
    func,
    not_,
    select,
    update,
)
from sqlalchemy.sql.functions import coalesce

from common.canonical import dumps, read
from common.db.rows import Writes, insert_rows, update_rows
from common.db.tables import attempts, handlers, instances, joins, tasks
from common.db.types import Id, UtcDateTime, among
from common.decide_joins import Count, ItemResult
from common.ids import InstanceId, TaskId, TenantId
from common.lifecycle import OPEN, TaskStatus
from common.store.tasks import another_series, is_handler_of_task, later
from statechart.effects import NOT_RUN_BY_A_RUNNER

_t = tasks.c
_j = joins.c
_a = attempts.c
_BY_ID = (("id", "id"),)


def create(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert join rows of MAPs that were inserted before, with their items."""
    insert_rows(tx, joins, rows)


# -- counting -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenMap:
    """A locked MAP that runs, with what tells its end."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    name: str
    attempt: int
    completion_event: str
    failure_event: str
    options: str | None

    @property
    def join(self) -> Any:
        """What it waits for, as it was written."""
        return (read(self.options) if self.options else {}).get("join", "all")


_MAPS = (
    select(
        _t.id, _t.tenant_id, _t.instance_id, _t.key, _t.name, _t.attempt, _t.completion_event, _t.failure_event,
        _t.options,
    )
    .where(among(_t.id, "ids"), _t.status == TaskStatus.RUNNING)
    .order_by(_t.id)
    .with_for_update(key_share=True)
)  # fmt: skip


def lock_maps(tx: Connection, ids: Sequence[str]) -> dict[str, OpenMap]:
    """Lock those MAPs that run, in id order. To be called after every item that the transaction locks."""
    return {row.id: OpenMap(*row) for row in tx.execute(_MAPS, {"ids": ids})}


_COUNTS = select(_j.task_id, _j.total, _j.needed, _j.fail_fast, _j.succeeded, _j.failed).where(
    among(_j.task_id, "ids"), _j.ended_at.is_(None)
)


def read_counts(tx: Connection, joined: Mapping[str, Any]) -> dict[str, Count]:
    """How far locked MAPs are, those that have not been decided; `joined` says by id what each waits for."""
    rows = tx.execute(_COUNTS, {"ids": sorted(joined)})
    return {
        row.task_id: Count(
            row.total, row.needed, row.fail_fast, joined[row.task_id], row.succeeded, row.failed
        )
        for row in rows
    }


def save_counts(tx: Connection, counts: Mapping[str, Count], *, ended_at: Mapping[str, datetime]) -> None:
    """Write the counts of locked MAPs; those in `ended_at` count no more."""
    rows = [
        {"task_id": id_, "succeeded": one.succeeded, "failed": one.failed, "ended_at": ended_at.get(id_)}
        for id_, one in sorted(counts.items())
    ]
    update_rows(tx, joins, rows, match=(("task_id", "task_id"),), only_if="joins.ended_at IS NULL")


_END = (
    update(joins)
    .where(among(_j.task_id, "ids"), _j.ended_at.is_(None))
    .values(ended_at=bindparam("now", type_=UtcDateTime()))
)


def give_up(tx: Connection, ids: Sequence[str], *, now: datetime) -> None:
    """Count no more for MAPs that were cancelled; `ids` of locked tasks, MAPs or not."""
    if ids:
        tx.execute(_END, {"ids": ids, "now": now})


def end_maps(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End locked MAPs: rows {id, status, output, error, finished_at}."""
    update_rows(tx, tasks, rows, match=_BY_ID, only_if="tasks.status = 'running'")


# -- turns --------------------------------------------------------------------------------------------------------

_NEXT = (
    select(_t.id, _t.type, _t.run_at, _t.start_within_ms, _t.finish_within_ms)
    .where(_t.parent_task_id == bindparam("map_id", type_=Id()), _t.gated, _t.status == TaskStatus.PENDING)
    .order_by(_t.item_index)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)


def open_next(tx: Connection, map_id: str, count: int, *, now: datetime) -> list[TaskId]:
    """Let the next items of a locked MAP have their turn, by index; returns the ids of those that did.

    Never waits: an item that is locked is passed over. What no runner executes runs from now on; a WORKFLOW stays pending,
    for the orchestrator to start.
    """
    rows = tx.execute(_NEXT, {"map_id": map_id, "limit": count}).all()
    update_rows(tx, tasks, [_opened(row, now) for row in rows], match=_BY_ID, only_if="tasks.gated")
    return [row.id for row in rows]


def _opened(row: Any, now: datetime) -> dict[str, Any]:
    """Its time begins with its turn."""
    run_at = max(row.run_at, now)
    waits_for_a_person = row.type in NOT_RUN_BY_A_RUNNER and row.type != "WORKFLOW"
    executed = row.type not in NOT_RUN_BY_A_RUNNER
    return {
        "id": row.id,
        "gated": False,
        "status": (TaskStatus.RUNNING if waits_for_a_person else TaskStatus.PENDING).value,
        "run_at": run_at,
        "start_by_at": later(run_at, row.start_within_ms) if executed else None,
        "finish_by_at": later(run_at, row.finish_within_ms),
    }


_WAITING_MAPS = (
    select(_t.parent_task_id)
    .where(among(_t.instance_id, "instance_ids"), _t.gated, _t.status == TaskStatus.PENDING)
    .distinct()
)
_ROOM = (
    select(_j.task_id, (_j.concurrency - func.count(_t.id)).label("room"))
    .outerjoin(tasks, and_(_t.parent_task_id == _j.task_id, _t.status.in_(OPEN), not_(_t.gated)))
    .where(among(_j.task_id, "ids"), _j.ended_at.is_(None))
    .group_by(_j.task_id, _j.concurrency)
)


def open_again(tx: Connection, instance_ids: Sequence[str], *, now: datetime) -> list[TaskId]:
    """Give the MAPs of locked instances as many items as may run at once; returns the ids that had to wait until now.

    For instances that were frozen: whoever froze them held the items that somebody else wanted to open.
    """
    waiting = sorted(tx.execute(_WAITING_MAPS, {"instance_ids": instance_ids}).scalars())
    if not waiting:
        return []
    rows = tx.execute(_ROOM, {"ids": sorted(lock_maps(tx, waiting))}).all()
    return [id_ for row in rows if row.room > 0 for id_ in open_next(tx, row.task_id, row.room, now=now)]


# -- workflows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartableItem:
    """A locked item that is a workflow and has its turn; what its child needs to know of the parent comes with it."""

    task_id: TaskId
    tenant_id: TenantId
    id: InstanceId
    key: str
    input: str
    options: str | None
    priority: int
    depth: int

    @property
    def child_id(self) -> InstanceId:
        """The instance that is its child, or will be."""
        return InstanceId(read(self.options or "{}")["instanceId"])

    @property
    def is_again(self) -> bool:
        """Has its MAP been retried, so that the child may be there already?"""
        return bool(read(self.options or "{}").get("again"))


_MAY_START = and_(
    _t.type == "WORKFLOW",
    _t.status == TaskStatus.PENDING,
    not_(_t.held),
    not_(_t.gated),
    _t.parent_task_id.is_not(None),
)
_STARTABLE = (
    select(_t.id, _t.tenant_id, _t.instance_id, _t.key, _t.input, _t.options, _t.priority, instances.c.depth)
    .join(instances, instances.c.id == _t.instance_id)
    .where(_MAY_START, _t.run_at <= bindparam("now", type_=UtcDateTime()))
    .order_by(_t.run_at, _t.id)
    .limit(bindparam("limit"))
    .with_for_update(of=tasks, key_share=True, skip_locked=True)
)
NEXT_START = select(func.min(_t.run_at)).where(_MAY_START)
_BEGIN = (
    update(tasks)
    .where(among(_t.id, "ids"), _t.status == TaskStatus.PENDING)
    .values(status=TaskStatus.RUNNING)
)


def lock_startable(tx: Connection, *, limit: int, now: datetime) -> list[StartableItem]:
    """Lock items whose children may be started, longest due first; rows in flight are skipped."""
    return [StartableItem(*row) for row in tx.execute(_STARTABLE, {"limit": limit, "now": now})]


def begin(tx: Connection, ids: Sequence[TaskId]) -> None:
    """Items whose children are started run, without a lease."""
    tx.execute(_BEGIN, {"ids": ids})


def begin_again(tx: Connection, items: Mapping[TaskId, InstanceId]) -> None:
    """Items of MAPs that were retried run, each waiting for this child and for no other."""
    rows = [
        {"id": id_, "status": TaskStatus.RUNNING.value, "options": dumps({"instanceId": child})}
        for id_, child in sorted(items.items())
    ]
    update_rows(tx, tasks, rows, match=_BY_ID, only_if="tasks.status = 'pending'")


@dataclass(frozen=True, slots=True)
class WorkflowItem:
    """An open item that is a workflow. One that was tried again may be gated although its child lives."""

    id: TaskId
    map_id: TaskId
    index: int
    instance_id: InstanceId
    key: str
    gated: bool


_WORKFLOW_ITEMS = (
    select(_t.id, _t.parent_task_id, _t.item_index, _t.instance_id, _t.key, _t.gated)
    .where(
        among(_t.instance_id, "instance_ids"), among(_t.key, "keys", "text"), _t.type == "WORKFLOW",
        _t.status.in_(OPEN), _t.parent_task_id.is_not(None),
    )
    .order_by(_t.id)
    .with_for_update()
)  # fmt: skip


def lock_workflow_items(tx: Connection, wanted: Sequence[tuple[str, str]]) -> list[WorkflowItem]:
    """Lock those of some items, (instance, key) each, that are open."""
    asked = set(wanted)
    names = {"instance_ids": sorted({one for one, _ in asked}), "keys": sorted({key for _, key in asked})}
    found = [WorkflowItem(*row) for row in tx.execute(_WORKFLOW_ITEMS, names)]
    return [item for item in found if (item.instance_id, item.key) in asked]


def end_workflow_items(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End locked open items: rows {id, status, output, error, finished_at}."""
    update_rows(tx, tasks, rows, match=_BY_ID, only_if="tasks.finished_at IS NULL")


# -- again --------------------------------------------------------------------------------------------------------

_JOINED = select(_j.task_id, _j.concurrency).where(among(_j.task_id, "ids")).order_by(_j.task_id)
_NOT_SUCCEEDED = (
    select(
        _t.id, _t.type, _t.status, _t.gated, _t.attempt, _t.retry, _t.run_at, _t.start_within_ms, _t.finish_within_ms,
        _t.asked_as, _t.state, _t.options, handlers.c.retry.label("handlers_retry"),
    )
    .outerjoin(handlers, is_handler_of_task())
    .where(_t.parent_task_id == bindparam("map_id", type_=Id()), _t.status != TaskStatus.SUCCEEDED)
    .order_by(_t.item_index)
)  # fmt: skip
_WELL = select(func.count()).where(
    _t.parent_task_id == bindparam("map_id", type_=Id()), _t.status == TaskStatus.SUCCEEDED
)


def reopen(tx: Connection, ids: Sequence[str], *, now: datetime) -> list[TaskId]:
    """Let MAPs that were retried try their items again; returns the ids of items that may be claimed by it.

    `ids` are of locked tasks that run again, MAPs or not; their items are locked too. What has succeeded is kept, what has
    failed or was cancelled has another series of attempts, and the rest goes on.
    """
    claimable: list[TaskId] = []
    counts = []
    for map_id, concurrency in tx.execute(_JOINED, {"ids": ids}).all():
        again = _again(tx.execute(_NOT_SUCCEEDED, {"map_id": map_id}).all(), concurrency, now)
        update_rows(
            tx,
            tasks,
            again,
            match=_BY_ID,
            only_if="tasks.status <> 'succeeded'",
            cleared=("error", "finished_at", "breaker", "breaker_since"),
        )
        claimable += [row["id"] for row in again if not row["gated"]]
        succeeded = tx.execute(_WELL, {"map_id": map_id}).scalar_one()
        counts.append({"task_id": map_id, "succeeded": succeeded, "failed": 0, "ended_at": None})
    update_rows(tx, joins, counts, match=(("task_id", "task_id"),))
    return claimable


def _again(rows: Sequence[Any], concurrency: int | None, now: datetime) -> list[dict[str, Any]]:
    """What becomes of items that have not succeeded, by index: as many as may run have their turn."""
    busy = sum(row.status in OPEN and not row.gated for row in rows)
    waiting = [row for row in rows if row.status not in OPEN or row.gated]
    room = len(waiting) if concurrency is None else max(concurrency - busy, 0)
    return [_anew(row, now, is_gated=position >= room) for position, row in enumerate(waiting)]


def _anew(row: Any, now: datetime, *, is_gated: bool) -> dict[str, Any]:
    opened = _opened(row, now)
    if is_gated:
        opened |= {
            "gated": True,
            "status": TaskStatus.PENDING.value,
            "start_by_at": None,
            "finish_by_at": None,
        }
    anew = {**opened, "held": False, **another_series(row, now)}
    if row.type == "WORKFLOW":  # its child may stand somewhere: who lets it begin looks first (`begin_again`)
        anew["options"] = dumps({**read(row.options or "{}"), "again": True})
    return anew


# -- results ------------------------------------------------------------------------------------------------------


def results_size(tx: Connection, map_id: str) -> int:
    """About how many bytes the results of the items are together, without reading them."""
    size = coalesce(_bytes(tx, _t.output), 4) + coalesce(_bytes(tx, _t.error), 0) + 1
    query = select(coalesce(func.sum(size), 0)).where(_t.parent_task_id == map_id)
    return int(tx.execute(query).scalar_one())


def _bytes(tx: Connection, column: Column[str]) -> ColumnElement[int]:
    is_postgresql = tx.dialect.name == "postgresql"
    return func.octet_length(column) if is_postgresql else func.length(cast(column, LargeBinary))


_RESULTS = (
    select(_t.item_index, _t.status, _t.output, _t.error)
    .where(_t.parent_task_id == bindparam("map_id", type_=Id()))
    .order_by(_t.item_index)
)


def read_results(tx: Connection, map_id: str) -> Iterator[ItemResult]:
    """How the items of a MAP ended, by index: stored texts."""
    for row in tx.execute(_RESULTS, {"map_id": map_id}):
        yield _result(row)


def _result(row: Any) -> ItemResult:
    if row.status == TaskStatus.SUCCEEDED:
        return ItemResult(row.item_index, output=row.output)
    # A task that waits for another try has the error of the last one.
    return ItemResult(row.item_index, error=row.error if row.status == TaskStatus.FAILED else None)


def read_errors(tx: Connection, map_id: str, *, limit: int) -> list[tuple[int, Any]]:
    """The first errors of a MAP's items, by index."""
    failed = _RESULTS.where(_t.status == TaskStatus.FAILED).limit(limit)
    return [(row.item_index, read(row.error)) for row in tx.execute(failed, {"map_id": map_id})]


_TRIED = (
    select(_t.item_index, _t.status, _a.attempt, _a.outcome, _a.started_at, _a.ended_at)
    .outerjoin(attempts, _a.task_id == _t.id)
    .where(_t.parent_task_id == bindparam("map_id", type_=Id()), _t.finished_at.is_not(None))
    .order_by(_t.item_index, _a.started_at, _a.token)
)


def read_tries(tx: Connection, map_id: str) -> Iterator[tuple[int, str, list[tuple[Any, ...]]]]:
    """(index, status, attempts) of the items of a MAP that have ended, by index; attempts as `tasks.read_attempts` gives them."""
    for (index, status), rows in groupby(tx.execute(_TRIED, {"map_id": map_id}), key=lambda row: row[:2]):
        yield index, status, [tuple(row[2:]) for row in rows if row.attempt is not None]
