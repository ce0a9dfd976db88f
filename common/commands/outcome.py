"""Ending a task: the one place where an outcome becomes a row, an attempt and an event for the instance.

The local runner, the lease sweep and the API (people, remote workers) end tasks by these functions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.clock import instant_text
from common.db import ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE, note_bell
from common.db.tables import AttemptOutcome, InboxType
from common.ids import InstanceId, LeaseToken, TaskId, TenantId
from common.lifecycle import TaskStatus
from common.retry import MAX_LOST, RetryPolicy
from common.store import inbox, tasks


@dataclass(frozen=True, slots=True)
class TaskError:
    """A failure as data. `retryable` None leaves the decision to the policy. `trace` is cut to size and never shown to callers."""

    code: str
    message: str
    data: Any = None
    retryable: bool | None = None
    trace: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "data": self.data, "message": self.message}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one claimed attempt ended: with `output` (canonical text), with `error`, or `released` before it ended."""

    task_id: TaskId
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
    output: str | None = None
    error: TaskError | None = None
    released: bool = False


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of reported outcomes, counted."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0
    late: int = 0


def outcome_body(
    *,
    key: str,
    task_id: str,
    name: str,
    type: str,
    attempt: int,
    event_type: str,
    output: str,
    error: Any,
    attempts_digest: str | None,
) -> str:
    """The inbox body of an ended task: {entry, event, key}. `output` is canonical text and stays the very same bytes."""
    task = {"attempt": attempt, "id": task_id, "name": name, "type": type}
    entry = {
        "attempt": attempt,
        "attemptsDigest": attempts_digest,
        "key": key,
        "name": name,
        "taskId": task_id,
    }
    if error is None:
        entry["type"] = "task.succeeded"
        event = f'{{"output":{output},"task":{dumps(task)},"type":{dumps(event_type)}}}'
    else:
        entry |= {"error": error, "type": "task.failed"}
        event = dumps({"error": error, "task": task, "type": event_type})
    return f'{{"entry":{dumps(entry)},"event":{event},"key":{dumps(key)}}}'


def report_outcomes(tx: Connection, outcomes: Sequence[Outcome], *, now: datetime) -> Reported:
    """Make outcomes true that hold their lease; record the others as late. One group, one transaction (operation: OUTCOME).

    A token that still holds its row wins, whatever the clock says. Rings the orchestrator for what became final.
    """
    won = tasks.lock_won(tx, sorted(o.task_id for o in outcomes), sorted({o.token for o in outcomes}))
    group = _Group(now)
    late = 0
    for outcome in outcomes:
        claim = (outcome.task_id, outcome.token)
        if claim in won:
            group.add(outcome, joined=won.pop(claim))  # a claim ends once, however often it is in the group
        else:
            late += _record_late(tx, outcome, now)
    group.save(tx)
    return Reported(len(group.succeeded), len(group.failed), group.retried, group.released, late)


class _Group:
    """Outcomes that won, sorted into the statements that make them true."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.succeeded: list[Outcome] = []
        self.failed: list[Outcome] = []
        self.retried = 0
        self.released = 0
        self._joined: dict[str, str | None] = {}
        self._finish: list[dict[str, Any]] = []
        self._release: list[dict[str, Any]] = []
        self._attempts: list[dict[str, Any]] = []

    def add(self, outcome: Outcome, *, joined: str | None) -> None:
        self._joined[outcome.task_id] = joined
        if outcome.released:
            self.released += 1
            self._again(outcome, AttemptOutcome.RELEASED, run_at=self.now, error=None, uncounted=1)
        elif outcome.error is None:
            self.succeeded.append(outcome)
            self._end(outcome, TaskStatus.SUCCEEDED, AttemptOutcome.SUCCEEDED, outcome.output, None)
        else:
            self._add_failure(outcome, outcome.error)

    def _add_failure(self, outcome: Outcome, error: TaskError) -> None:
        policy = RetryPolicy.read(read(outcome.retry) if outcome.retry else None)
        text = dumps(error.to_json())
        if policy.retries(error.code, attempt=outcome.attempt, retryable=error.retryable):
            self.retried += 1
            delay = policy.delay(outcome.attempt, chance=random.random())  # noqa: S311 - jitter, not a secret
            self._again(outcome, AttemptOutcome.FAILED, run_at=self.now + delay, error=text, uncounted=0)
        else:
            self.failed.append(outcome)
            self._end(outcome, TaskStatus.FAILED, AttemptOutcome.FAILED, None, text)

    def lose(self, outcome: Outcome, *, joined: str | None, for_good: bool) -> None:
        """A lease ran out. Lost attempts do not count against the policy, they have their own limit."""
        self._joined[outcome.task_id] = joined
        if for_good:
            self.failed.append(outcome)
            error = None if outcome.error is None else dumps(outcome.error.to_json())
            self._end(outcome, TaskStatus.FAILED, AttemptOutcome.LOST, None, error)
        else:
            self.retried += 1
            self._again(outcome, AttemptOutcome.LOST, run_at=self.now, error=None, uncounted=1, lost=1)

    def _end(
        self,
        outcome: Outcome,
        status: TaskStatus,
        attempt: AttemptOutcome,
        output: str | None,
        error: str | None,
    ) -> None:
        self._finish.append(
            {
                "id": outcome.task_id,
                "held_token": outcome.token,
                "status": status.value,
                "output": output,
                "error": error,
                "finished_at": self.now,
            }
        )
        self._end_attempt(outcome, attempt)

    def _again(
        self,
        outcome: Outcome,
        attempt: AttemptOutcome,
        *,
        run_at: datetime,
        error: str | None,
        uncounted: int,
        lost: int = 0,
    ) -> None:
        self._release.append(
            {"b_id": outcome.task_id, "run_at": run_at, "error": error, "uncounted": uncounted, "lost": lost}
        )
        self._end_attempt(outcome, attempt)

    def _end_attempt(self, outcome: Outcome, ended: AttemptOutcome) -> None:
        error = None
        if outcome.error is not None:
            error = dumps(outcome.error.to_json() | {"trace": outcome.error.trace})
        self._attempts.append(
            {
                "task_id": outcome.task_id,
                "token": outcome.token,
                "ended_at": self.now,
                "outcome": ended.value,
                "error": error,
            }
        )

    def save(self, tx: Connection) -> None:
        tasks.finish(tx, self._finish)
        tasks.release(tx, self._release)
        tasks.end_attempts(tx, self._attempts)
        if self.released:
            note_bell(tx, TASK_RUNNER_QUEUE)
        ended = [*self.succeeded, *self.failed]
        if not ended:
            return
        digests = attempts_digests(tx, [outcome.task_id for outcome in ended])
        inbox.put(tx, [row for outcome in ended for row in self._deliveries(outcome, digests)])
        note_bell(tx, ORCHESTRATOR_QUEUE, *(outcome.instance_id for outcome in ended))

    def _deliveries(self, outcome: Outcome, digests: dict[str, str]) -> list[dict[str, Any]]:
        joined = self._joined[outcome.task_id]
        return [
            {
                "tenant_id": outcome.tenant_id,
                "instance_id": outcome.instance_id,
                "lane": inbox.ORDINARY,
                "type": InboxType.TASK.value,
                "body": outcome_body(
                    key=key,
                    task_id=outcome.task_id,
                    name=outcome.name,
                    type=outcome.type,
                    attempt=outcome.attempt,
                    event_type=outcome.failure_event if outcome.error else outcome.completion_event,
                    output=outcome.output or "null",
                    error=outcome.error.to_json() if outcome.error else None,
                    attempts_digest=digests.get(outcome.task_id),
                ),
                "source": f"task:{outcome.task_id}",
                "accepted_at": self.now,
            }
            for key in (outcome.key, *(read(joined) if joined else ()))
        ]


def attempts_digests(tx: Connection, ids: Sequence[TaskId]) -> dict[str, str]:
    """SHA-256 over each task's attempts, hex: the history entry that ends a task vouches for how it was tried."""
    return {task: attempts_digest(rows) for task, rows in tasks.read_attempts(tx, ids).items()}


def attempts_digest(rows: Sequence[tuple[Any, ...]]) -> str:
    """The digest of attempts (attempt, outcome, started_at, ended_at), oldest first."""
    listed = [
        [attempt, outcome, instant_text(started), instant_text(ended) if ended else None]
        for attempt, outcome, started, ended in rows
    ]
    return sha256(dumps(listed).encode()).hexdigest()


def _record_late(tx: Connection, outcome: Outcome, now: datetime) -> int:
    """Record a result whose lease was lost: once, without effect. Returns 1 when it was news."""
    if outcome.released:
        return 0
    said = outcome.output if outcome.error is None else dumps(outcome.error.to_json())
    digest = sha256((said or "null").encode()).digest()
    if not tasks.record_late(tx, outcome.task_id, outcome.token, digest):
        return 0
    entry = {
        "attempt": outcome.attempt,
        "key": outcome.key,
        "name": outcome.name,
        "outcome": "failed" if outcome.error else "succeeded",
        "resultDigest": digest.hex(),
        "taskId": outcome.task_id,
    }
    inbox.put(
        tx,
        [
            {
                "tenant_id": outcome.tenant_id,
                "instance_id": outcome.instance_id,
                "lane": inbox.ORDINARY,
                "type": InboxType.TASK_LATE.value,
                "body": dumps({"entry": entry}),
                "source": f"task:{outcome.task_id}",
                "accepted_at": now,
            }
        ],
    )
    note_bell(tx, ORCHESTRATOR_QUEUE, outcome.instance_id)
    return 1


def expire_leases(tx: Connection, *, now: datetime) -> int:
    """Take tasks back whose lease ran out: pending again, or failed as `lost` the third time. Returns how many.

    Locked rows are skipped: their holder is beating or reporting this very moment (operation: EXPIRE).
    """
    expired = tasks.lock_expired(tx, now=now)
    group = _Group(now)
    for task in expired:
        outcome = Outcome(
            task.id, task.tenant_id, task.instance_id, task.token, task.key, task.type, task.name, task.attempt, None, "",
            task.failure_event,
            error=TaskError("task.lost", f"the lease of {task.lost + 1} attempts ran out: their workers died or froze"),
        )  # fmt: skip
        group.lose(outcome, joined=task.joined_keys, for_good=task.lost + 1 >= MAX_LOST)
    group.save(tx)
    return len(expired)
