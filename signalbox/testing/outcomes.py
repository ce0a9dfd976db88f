"""Attempts in virtual time: a task is claimed, ends, is tried again, runs out of time, loses its worker.

The rules are those of `common.commands.outcome`, whose bodies and policies are used as they are; only the jitter of delays is
left out, so that a test can say when the next try comes.
"""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

from common.canonical import dumps, read
from common.clock import instant_text
from common.commands.joins import Items
from common.commands.outcome import UNFINISHED, UNSTARTED, _lost, outcome_body
from common.commands.suggestions import suggested
from common.db.tables import AttemptOutcome, InboxType
from common.ids import TaskId
from common.lifecycle import TaskStatus
from common.polls import POLL, Counted
from common.retry import MAX_LOST, RetryPolicy
from common.store import inbox
from common.store.suggestions import Suggestion
from common.store.tasks import later
from common.task_error import TaskError
from signalbox.testing import maps
from signalbox.testing.memory import Attempt, Memory, Task
from statechart.ai import AI

NO_JITTER = 0.5
"""The chance that `RetryPolicy.delay` takes for neither sooner nor later."""
LEASE_MS = 8_001  # a lease of 8 s is over when they have passed


def claim(memory: Memory, task: Task) -> Attempt:
    """Begin the next attempt of a pending task."""
    task.status, task.attempt, task.start_by_at = TaskStatus.RUNNING, task.attempt + 1, None
    attempt = Attempt(task.attempt, memory.now)
    task.attempts.append(attempt)
    return attempt


def succeed(memory: Memory, task: Task, output: str) -> None:
    """The attempt that runs returned `output`, canonical text. So ends what no runner executes, too."""
    task.end_attempt(AttemptOutcome.SUCCEEDED, memory.now)
    _end(memory, task, TaskStatus.SUCCEEDED, output=output, polls=_polls(task))


def fail(memory: Memory, task: Task, error: TaskError, *, timed_out: bool = False) -> None:
    """The attempt that runs failed: it is tried again where the policy says so, else the task has failed."""
    outcome = AttemptOutcome.TIMED_OUT if timed_out else AttemptOutcome.FAILED
    has_attempt = task.running_attempt is not None
    task.end_attempt(outcome, memory.now, error.to_json())
    policy = RetryPolicy.read(read(task.retry) if task.retry else None)
    if has_attempt and policy.retries(
        error.code, attempt=task.attempt, limit=task.max_attempts, retryable=error.retryable
    ):
        failures = policy.failed(task.attempt, limit=task.max_attempts)
        run_at = memory.now + policy.delay(failures, chance=NO_JITTER, at_least=error.retry_after)
        if task.finish_by_at is None or run_at < task.finish_by_at:
            task.status, task.run_at, task.error = TaskStatus.PENDING, run_at, error.to_json()
            task.start_by_at = later(run_at, task.start_within_ms)
            return
    _end(memory, task, TaskStatus.FAILED, error=error, polls=_polls(task))


def go_on(memory: Memory, task: Task, again_ms: int) -> None:
    """The attempt that runs ended well, but the work is not done: another goes on. Failures are counted anew."""
    task.end_attempt(AttemptOutcome.CONTINUED, memory.now)
    task.went_on += task.attempt
    task.status, task.attempt, task.error = TaskStatus.PENDING, 0, None
    task.run_at = memory.now + timedelta(milliseconds=again_ms)
    task.start_by_at = later(task.run_at, task.start_within_ms)


def lose(memory: Memory, task: Task) -> None:
    """The lease of the attempt that runs is over: again at once, or failed as lost. It does not count as an attempt."""
    once = (read(task.options) if task.options else {}).get("onLost") == "fail"
    error = _lost(task.lost + 1, once=once)
    task.end_attempt(AttemptOutcome.LOST, memory.now, error.to_json())
    if once or task.lost + 1 >= MAX_LOST:
        _end(memory, task, TaskStatus.FAILED, error=error)
        return
    task.lost, task.attempt = task.lost + 1, task.attempt - 1
    task.status, task.run_at = TaskStatus.PENDING, memory.now
    task.start_by_at = later(memory.now, task.start_within_ms)


def time_out_tasks(memory: Memory) -> None:
    """Fail tasks for good that waited too long for a worker, or took too long in all."""
    for task in memory.open_tasks():
        if task.finish_by_at is not None and task.finish_by_at <= memory.now:
            error = UNFINISHED
        elif not _waits_too_long(task, memory):
            continue
        else:
            error = UNSTARTED
        task.end_attempt(AttemptOutcome.TIMED_OUT, memory.now, error.to_json())
        task.start_by_at = None
        _end(memory, task, TaskStatus.FAILED, error=error)


def count_items(memory: Memory, *, max_output_bytes: int, also: tuple[TaskId, ...] = ()) -> None:
    """Count the items that have ended for their MAPs, and end those MAPs whose end it is."""
    for end in maps.count(memory, max_output_bytes=max_output_bytes, also=also):
        status = TaskStatus.SUCCEEDED if end.error is None else TaskStatus.FAILED
        _end(memory, end.task, status, output=end.output, error=end.error, items=end.items)


def _waits_too_long(task: Task, memory: Memory) -> bool:
    return task.is_claimable and task.start_by_at is not None and task.start_by_at <= memory.now


def record_late(memory: Memory, task: Task, attempt: Attempt, error: TaskError | None, output: str) -> None:
    """A result whose lease is gone: once, without effect, on record."""
    if attempt.has_told_late:
        return
    attempt.has_told_late = True
    if attempt.outcome is not AttemptOutcome.TIMED_OUT:
        attempt.outcome = AttemptOutcome.LATE
    said = output if error is None else dumps(error.to_json())
    entry = {
        "attempt": attempt.number,
        "key": task.key,
        "name": task.name,
        "outcome": "failed" if error else "succeeded",
        "resultDigest": sha256(said.encode()).hexdigest(),
        "taskId": task.id,
    }
    if task.parent_task_id is not None:
        return
    _deliver(memory, task, InboxType.TASK_LATE, dumps({"entry": entry}))


def _suggest(memory: Memory, task: Task, output: str) -> None:
    """What the model of an ended task would send, and its policy leaves to a person."""
    task.state = None
    members = suggested(read(output))
    if members is not None:
        id = memory.number("suggestion")
        made = Suggestion(
            id,
            task.instance_id,
            task.id,
            **members,
            created_at=memory.now,
            decided_at=None,
            decided_by=None,
            comment=None,
        )
        memory.suggestions.append(made)


def _end(
    memory: Memory,
    task: Task,
    status: TaskStatus,
    *,
    output: str | None = None,
    error: TaskError | None = None,
    polls: int | None = None,
    items: Items | None = None,
) -> None:
    """End a task for good, and tell its instance under each of its obligations; an item is counted instead."""
    if task.type == "MAP" and items is None:
        items = maps.close(memory, task)
    task.status, task.finished_at = status, memory.now
    task.output, task.error = output, error.to_json() if error else None
    if task.type == AI and task.asked_as is None and output is not None:
        _suggest(memory, task, output)
    if task.parent_task_id is not None:
        memory.item_ends.append(task)
        return
    for key in task.obligations():
        body = outcome_body(
            key=key, task_id=task.id, name=task.name, type=task.asked_as or task.type, attempt=task.attempt,
            event_type=task.completion_event if error is None else task.failure_event, output=output or "null",
            error=task.error, attempts_digest=maps.digest_of(task), polls=polls, items=items,
        )  # fmt: skip
        _deliver(memory, task, InboxType.TASK, body)


def _polls(task: Task) -> int | None:
    return Counted.read(task.state).polls if task.asked_as == POLL else None


def _deliver(memory: Memory, task: Task, type: InboxType, body: str) -> None:
    row = {"instance_id": task.instance_id, "lane": inbox.ORDINARY, "type": type.value, "body": body}
    memory.put({**row, "source": f"task:{task.id}"})


def describe_hold(task: Task, memory: Memory) -> str | None:
    """Why nobody may begin the task now; None where somebody may."""
    if task.held:
        return "it is held, because its instance is paused or failed"
    if task.gated:
        return "its turn has not come: other items of its MAP are first"
    if task.status is TaskStatus.PENDING and task.run_at > memory.now:
        return f"it is not due before {instant_text(task.run_at)}"
    return None
