"""MAPs in memory: their items stored, counted and given their turn. The rules are those of `common.commands.joins`.

Items that end at one instant are counted together, as a runner reports what is ready in one group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.canonical import dumps, read
from common.commands.digests import attempts_digest
from common.commands.joins import Items
from common.decide_joins import (
    Count,
    ItemResult,
    item_failed,
    items_digest,
    not_enough,
    results_text,
    too_large,
)
from common.decision import NOT_RUN_BY_A_RUNNER
from common.ids import TaskId
from common.lifecycle import OPEN, TaskStatus
from common.retry import RetryPolicy
from common.store.tasks import later
from common.task_error import TaskError
from orchestrator.map_rows import MapRows
from signalbox.testing.memory import Join, Memory, Task


@dataclass(frozen=True, slots=True)
class MapEnd:
    """How a MAP ends: with `output`, canonical text, or with `error`."""

    task: Task
    items: Items
    output: str | None = None
    error: TaskError | None = None


def store(memory: Memory, maps: MapRows) -> None:
    """Store the items and joins of MAPs that were stored just now."""
    made = {(str(task.instance_id), task.key): task for task in memory.tasks.values() if task.type == "MAP"}
    for key, rows in maps.items.items():
        parent, join = made[key], maps.joins[key]
        for row in rows:
            item = Task.of({**row, "parent_task_id": parent.id}, memory.number("task"))
            memory.tasks[item.id] = item
        written = read(parent.options or "{}")["join"]
        count = Count(join["total"], join["needed"], join["fail_fast"], written)
        memory.joins[parent.id] = Join(count, join["concurrency"])


def count(memory: Memory, *, max_output_bytes: int, also: tuple[TaskId, ...] = ()) -> list[MapEnd]:
    """Count the items that have ended since the last time, open others in their place; the MAPs that are at their end by it."""
    ended: dict[TaskId, list[Task]] = {id_: [] for id_ in also}
    for item in memory.item_ends:
        ended.setdefault(item.parent_task_id or item.id, []).append(item)
    memory.item_ends.clear()
    found = []
    for map_id, items in sorted(ended.items()):
        task, join = memory.tasks[map_id], memory.joins[map_id]
        if task.status is not TaskStatus.RUNNING or join.is_over:
            continue
        well = sum(item.status is TaskStatus.SUCCEEDED for item in items)
        join.count = replace(
            join.count,
            succeeded=join.count.succeeded + well,
            failed=join.count.failed + len(items) - well,
        )
        if join.count.has_succeeded() is None:
            _open_next(memory, task, len(items))
        else:
            found.append(_end(memory, task, join.count, items, max_output_bytes))
            join.is_over = True
    return found


def close(memory: Memory, task: Task) -> Items | None:
    """Count no more for a MAP that ends otherwise; None for a task that has no items."""
    join = memory.joins.get(task.id)
    if join is None:
        return None
    join.is_over = True
    return Items(join.count, _digest(memory, task))


def reopen(memory: Memory, task: Task) -> None:
    """Let a MAP that is retried try again what has not succeeded."""
    join = memory.joins[task.id]
    items = memory.items_of(task.id)
    well = sum(item.status is TaskStatus.SUCCEEDED for item in items)
    join.count, join.is_over = replace(join.count, succeeded=well, failed=0), False
    rest = [item for item in items if item.status is not TaskStatus.SUCCEEDED]
    waiting = [item for item in rest if not item.is_open or item.gated]
    room = len(waiting) if join.concurrency is None else max(join.concurrency - len(rest) + len(waiting), 0)
    for position, item in enumerate(waiting):
        item.gated, item.held, item.lost = position >= room, False, 0
        item.error = item.finished_at = None
        policy = RetryPolicy.read(read(item.retry) if item.retry else None)
        item.max_attempts = item.attempt + policy.max_attempts
        if item.type == "WORKFLOW":
            item.options = dumps({**read(item.options or "{}"), "again": True})
        _begin(memory, item)


def _open_next(memory: Memory, task: Task, turns: int) -> None:
    waiting = [item for item in memory.items_of(task.id) if item.gated and item.status in OPEN]
    for item in waiting[:turns]:
        item.gated = False
        _begin(memory, item)


def _begin(memory: Memory, item: Task) -> None:
    """The time of an item begins with its turn."""
    executed = item.type not in NOT_RUN_BY_A_RUNNER
    item.run_at = max(item.run_at, memory.now)
    item.status = TaskStatus.RUNNING if item.type == "HUMAN" and not item.gated else TaskStatus.PENDING
    bounded = None if item.gated else item.run_at
    item.start_by_at = later(bounded, item.start_within_ms) if bounded and executed else None
    item.finish_by_at = later(bounded, item.finish_within_ms) if bounded else None


def _end(memory: Memory, task: Task, count: Count, ended: list[Task], max_output_bytes: int) -> MapEnd:
    results = [_result(item) for item in memory.items_of(task.id)]
    items = Items(count, _digest(memory, task))
    if count.has_succeeded():
        size = sum(
            len((one.output or "null").encode()) + len((one.error or "").encode()) + 1 for one in results
        )
        if size > max_output_bytes:
            return MapEnd(task, items, error=too_large(size, max_output_bytes))
        return MapEnd(task, items, output=results_text(results))
    failed = [item for item in ended if item.status is TaskStatus.FAILED]
    if count.join == "all" and failed:
        first = min(failed, key=lambda item: item.item_index or 0)
        return MapEnd(task, items, error=item_failed(first.item_index or 0, first.error or {}, count.total))
    errors = [(one.index, read(one.error)) for one in results if one.error is not None]
    return MapEnd(task, items, error=not_enough(count, errors))


def _result(item: Task) -> ItemResult:
    index = item.item_index or 0
    if item.status is TaskStatus.SUCCEEDED:
        return ItemResult(index, output=item.output or "null")
    failed = item.status is TaskStatus.FAILED
    return ItemResult(index, error=dumps(item.error) if failed else None)


def _digest(memory: Memory, task: Task) -> str:
    return items_digest(
        (item.item_index or 0, item.status.value, digest_of(item))
        for item in memory.items_of(task.id)
        if not item.is_open
    )


def digest_of(task: Task) -> str | None:
    """The digest of a task's attempts; None where it has none."""
    told = [
        (one.number, one.outcome and one.outcome.value, one.started_at, one.ended_at) for one in task.attempts
    ]
    return attempts_digest(told) if told else None
