"""Ending a task: the one place where an outcome becomes a row, an attempt and an event for the instance.

The local runner, the lease sweep and the API (people, remote workers) end tasks by these functions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from common.breaker import Call, Guarded, Verdict, error_text, verdict_on
from common.canonical import dumps, read
from common.commands.breakers import Turned, count_calls, log_turned
from common.commands.digests import attempts_digest, attempts_digests
from common.commands.joins import EndedMap, ItemEnd, Items, close, count_items
from common.commands.suggestions import suggested
from common.config import limits_of_process
from common.db import ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE, Database, note_bell
from common.db.rows import Writes
from common.db.tables import AttemptOutcome, InboxType
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId, new_id
from common.lifecycle import TaskStatus
from common.polls import KEPT_ATTEMPTS, TRIMMED_EVERY
from common.retry import MAX_LOST, RetryPolicy
from common.store import attempts, claims, deadlines, inbox, joins, leased, people, suggestions, tasks
from common.store.attempts import WonTask
from common.store.claims import TaskClaim
from common.store.deadlines import ExpiredTask, OverdueTask
from common.store.leased import KnownEnd
from common.store.people import HumanTask
from common.task_error import TaskError
from statechart.ai import AI
from statechart.maps import map_key
from statechart.record import record


@record
class Outcome:
    """How one claimed attempt ended: with `output` (canonical text), with `error`, or `released` before it ended.

    With `again_ms` it ended well but the work is not done: another attempt goes on from `state` (canonical text) so many
    milliseconds later. Of a POLL, `polls` is how many checks there were, and `state` is stored however it ended.
    `retry` is the policy in force, as JSON text: the task's own or its handler's. `timed_out` names an error that is
    the end of the attempt's time; `progress` is what the handler last told and no beat has stored yet. `guarded` is the
    circuit breaker that watches the call. `only_since`: when the attempt began, where it is known to be the task's only one;
    `ended_at`: when it ended, on the database's clock. `answers_one`: nothing else can wait for the task, no item's MAP and no other
    obligation.
    """

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
    timed_out: bool = False
    progress: str | None = None
    again_ms: int | None = None
    state: str | None = None
    polls: int | None = None
    guarded: Guarded | None = None
    only_since: datetime | None = None
    ended_at: datetime | None = None
    answers_one: bool = False

    @property
    def is_plain_success(self) -> bool:
        """Is there nothing to store but that it succeeded, and its output?"""
        told = (self.error, self.again_ms, self.state, self.progress, self.polls, self.guarded)
        return not self.released and all(one is None for one in told)

    @property
    def is_known(self) -> bool:
        """Is everything known that its end writes, so that nothing has to be read before? Then `report_known` may end it."""
        is_timed = self.only_since is not None and self.ended_at is not None
        return self.answers_one and is_timed and self.type != AI and self.is_plain_success


@record
class AtOnce:
    """The outcome of a claim that is written with it: `outcome` is a plain success, `ended_at` on the database's clock."""

    claim: TaskClaim
    outcome: Outcome
    ended_at: datetime


@record
class Decision:
    """How a person ended a task, which the caller has locked: with `output` (canonical text), or with `error`.

    `shown_hash` is of what the person was shown (`common.people.shown_hash`).
    """

    task: HumanTask
    by: str
    shown_hash: str
    output: str | None = None
    error: TaskError | None = None

    def told(self) -> dict[str, Any]:
        """What the history says of it."""
        told = {
            "decision": "completed" if self.error is None else "rejected",
            "person": self.by,
            "shownHash": self.shown_hash,
            "taskId": self.task.id,
        }
        return told if self.error is None else told | {"reason": self.error.message}


@record
class FailedAttempt:
    """An attempt that failed with `error`; `again_at` is when it is tried again, None where the task has failed for good."""

    outcome: Outcome
    error: TaskError
    again_at: datetime | None


@record
class Reported:
    """What became of reported outcomes, counted, the attempts that failed, and the circuit breakers that turned by them.

    `due_in`: after how many seconds the first of those is due that are tried again, or go on, later.
    """

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0
    late: int = 0
    continued: int = 0
    breakers: tuple[Turned, ...] = ()
    due_in: float | None = None
    failures: tuple[FailedAttempt, ...] = ()


def log_reported(log: Any, reported: Reported) -> None:
    """Tell of attempts that failed and breakers that turned, once that is committed.

    Of an error only its code: what it says may quote the input. `signalbox tasks show` has it, with the trace.
    """
    for one in reported.failures:
        log.warning(
            "attempt.failed",
            tenant_id=one.outcome.tenant_id,
            instance_id=one.outcome.instance_id,
            task_id=one.outcome.task_id,
            type=one.outcome.type,
            attempt=one.outcome.attempt,
            code=one.error.code,
            again=one.again_at is not None,
            again_at=None if one.again_at is None else one.again_at.isoformat(),
        )
    for turned in reported.breakers:
        log_turned(log, turned)


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
    polls: int | None = None,
    items: Items | None = None,
    decided: Mapping[str, Any] | None = None,
) -> str:
    """The inbox body of an ended task: {entry, event, key}. `output` is canonical text and stays the very same bytes.

    Of a MAP the entry tells how its `items` ended. `decided` joins it where a person ended the task: what the history
    tells of that as `human.decided`.
    """
    task = {"attempt": attempt, "id": task_id, "name": name, "type": type}
    entry: dict[str, Any] = {
        "attempt": attempt,
        "attemptsDigest": attempts_digest,
        "key": key,
        "name": name,
        "taskId": task_id,
    }
    if polls is not None:
        entry["polls"] = polls
    if items is not None:
        entry |= items.to_json()
    if error is None:
        entry["type"] = "task.succeeded"
        event = f'{{"output":{output},"task":{dumps(task)},"type":{dumps(event_type)}}}'
    else:
        entry |= {"error": error, "type": "task.failed"}
        event = dumps({"error": error, "task": task, "type": event_type})
    by_whom = "" if decided is None else f'"decided":{dumps(decided)},'
    return f'{{{by_whom}"entry":{dumps(entry)},"event":{event},"key":{dumps(key)}}}'


def report_outcomes(
    tx: Connection,
    outcomes: Sequence[Outcome],
    *,
    at_once: Sequence[AtOnce] = (),
    worker: WorkerId | None = None,
) -> Reported:
    """Make outcomes true that hold their lease; record the others as late. One group, one transaction (operation: OUTCOME).

    A token that still holds its row wins, whatever the clock says. `at_once` is what `worker` has locked and nobody has
    begun: it is written with its end. Rings the orchestrator for what became final.
    """
    won, now = _lock_won(tx, outcomes) if outcomes else ({}, max(end.ended_at for end in at_once))
    group = _Group(now)
    for end in at_once:
        group.add_at_once(end)
    refused: list[Outcome] = []
    for outcome in outcomes:
        claim = (outcome.task_id, outcome.token)
        if claim in won:
            group.add(outcome, won.pop(claim))  # a claim ends once, however often it is in the group
        else:
            refused.append(outcome)
    group.save(tx, worker)
    # Afterwards, because what ended the attempt may stand in this very group: a time-out, and what came too late for it.
    late = sum(_record_late(tx, outcome, now) for outcome in refused)
    # Breakers come last in the order of locks.
    turned = count_calls(tx, group.calls, now=now)
    return Reported(
        group.succeeded, group.failed, group.retried, group.released, late, group.continued, tuple(turned),
        group.due_in, tuple(group.failures),
    )  # fmt: skip


def report_known(database: Database, outcomes: Sequence[Outcome]) -> set[tuple[TaskId, LeaseToken]]:
    """End what `is_known` and holds its lease, and commit; returns what did. The same as `report_outcomes`, in fewer words.

    What did not hold its lease is for `report_outcomes`. On PostgreSQL it is one statement, outside of any transaction.
    """
    # A claim ends once, however often it is in the group.
    each = {(one.task_id, one.token): one for one in reversed(outcomes)}
    return store_known(database, [known_end(one) for one in each.values()])


def store_known(
    database: Database,
    ends: Sequence[KnownEnd],
    *,
    note: Callable[[Connection, Set[tuple[TaskId, LeaseToken]]], None] = lambda _tx, _done: None,
) -> set[tuple[TaskId, LeaseToken]]:
    """End tasks, of each claim one, tell their instances, and commit; returns whose claims held. `note` may note bells with it."""
    with database.transaction() if database.is_sqlite else database.each_alone() as tx:
        done = leased.end_known(tx, ends)
        if done:
            note_bell(tx, ORCHESTRATOR_QUEUE, *(end.instance_id for end in ends if end.claim in done))
        note(tx, done)
    return done


def known_end(outcome: Outcome) -> KnownEnd:
    """What the end of an outcome writes that `is_known`."""
    assert outcome.ended_at is not None, "known"  # noqa: S101
    body = outcome_body(
        key=outcome.key,
        task_id=outcome.task_id,
        name=outcome.name,
        type=outcome.type,
        attempt=outcome.attempt,
        event_type=outcome.completion_event,
        output=outcome.output or "null",
        error=None,
        attempts_digest=_only_attempt(outcome, AttemptOutcome.SUCCEEDED, outcome.ended_at),
    )
    return KnownEnd(
        outcome.task_id, outcome.token, outcome.tenant_id, outcome.instance_id, outcome.output, outcome.ended_at, body
    )  # fmt: skip


def _lock_won(
    tx: Connection, outcomes: Sequence[Outcome]
) -> tuple[dict[tuple[TaskId, LeaseToken], WonTask], datetime]:
    return attempts.lock_won(tx, sorted(o.task_id for o in outcomes), sorted({o.token for o in outcomes}))


def _call(outcome: Outcome, guarded: Guarded) -> Call:
    """What an outcome tells the breaker that watched it; of an attempt that was given back, nothing."""
    error = outcome.error
    verdict = None if outcome.released else verdict_on(error)
    text = None if error is None else error_text(error)
    return Call(guarded, outcome.task_id, outcome.token, verdict, text)


def _is_failed_probe(outcome: Outcome, error: TaskError) -> bool:
    guarded = outcome.guarded
    return guarded is not None and guarded.is_probe and verdict_on(error) is Verdict.BADLY


def report_decision(tx: Connection, decision: Decision, *, now: datetime) -> None:
    """End a locked task as a person decided, for good. Rings the orchestrator."""
    group = _Group(now)
    group.decide(decision)
    group.save(tx)


@record
class _Ended:
    """A task that ended for good, for the instance to be told under each of its obligations, or its MAP to count it."""

    task_id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    keys: tuple[str, ...]
    type: str
    name: str
    attempt: int
    event_type: str
    output: str | None
    error: TaskError | None
    polls: int | None = None
    parent_task_id: TaskId | None = None
    items: Items | None = None
    by: str | None = None  # the principal that ended it
    decided: Mapping[str, Any] | None = None
    digest: str | None = None  # of its attempts, where no other than this one was made


class _Group:
    """Tasks that are held, sorted into the statements that end their attempts."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.succeeded = 0
        self.failed = 0
        self.retried = 0
        self.released = 0
        self.continued = 0
        self.taken_back = 0  # attempts that ended without their runner, which so does not claim the next task
        self.calls: list[Call] = []
        self.failures: list[FailedAttempt] = []
        self._ended: list[_Ended] = []
        self._suggestions: list[dict[str, Any]] = []
        self._thought: list[TaskId] = []
        self._progress: list[tuple[TaskId, LeaseToken, str]] = []
        self._states: list[dict[str, Any]] = []
        self._well_tried: list[TaskId] = []
        self._finish: list[dict[str, Any]] = []
        self._time_out: list[dict[str, Any]] = []
        self._decide: list[dict[str, Any]] = []
        self._release: list[dict[str, Any]] = []
        self._attempts: list[dict[str, Any]] = []
        self._at_once: list[dict[str, Any]] = []

    def add_at_once(self, end: AtOnce) -> None:
        outcome, claim = end.outcome, end.claim
        self.succeeded += 1
        self._at_once.append({"claim": claim, "output": outcome.output, "finished_at": end.ended_at})
        digest = _only_attempt(outcome, AttemptOutcome.SUCCEEDED, end.ended_at)
        self._ended.append(_ended(outcome, claim.joined_keys, claim.parent_task_id, digest))

    def add(self, outcome: Outcome, won: WonTask) -> None:
        if outcome.progress is not None:
            self._progress.append((outcome.task_id, outcome.token, outcome.progress))
        if outcome.state is not None:
            self._states.append({"id": outcome.task_id, "held_token": outcome.token, "state": outcome.state})
        if outcome.guarded is not None:
            self.calls.append(_call(outcome, outcome.guarded))
        if outcome.released:
            self.released += 1
            self._again(outcome, won.start_within_ms, AttemptOutcome.RELEASED, run_at=self.now, uncounted=1)
        elif outcome.error is None and outcome.again_ms is not None:
            self._continue(outcome, outcome.again_ms, won)
        elif outcome.error is None:
            self.succeeded += 1
            self._end(outcome, won, TaskStatus.SUCCEEDED, AttemptOutcome.SUCCEEDED)
        else:
            self._add_failure(outcome, outcome.error, won)

    def _add_failure(self, outcome: Outcome, error: TaskError, won: WonTask) -> None:
        ended = AttemptOutcome.TIMED_OUT if outcome.timed_out else AttemptOutcome.FAILED
        if _is_failed_probe(outcome, error) and won.max_attempts > 1:
            self._add_failed_probe(outcome, error, won, ended)
            return
        run_at = self._next_try(outcome, error, won, outcome.attempt)
        # A try that could not begin before the whole task's time is over is not waited for.
        if run_at is None or (won.finish_by_at is not None and run_at >= won.finish_by_at):
            self._fail(outcome, error, won, ended)
            return
        self._note_retried(outcome, error, run_at)
        self._again(outcome, won.start_within_ms, ended, run_at=run_at, error=dumps(error.to_json()))

    def _fail(self, outcome: Outcome, error: TaskError, won: WonTask, ended: AttemptOutcome) -> None:
        self.failed += 1
        self.failures.append(FailedAttempt(outcome, error, None))
        self._end(outcome, won, TaskStatus.FAILED, ended)

    def _note_retried(self, outcome: Outcome, error: TaskError, run_at: datetime) -> None:
        self.retried += 1
        self.failures.append(FailedAttempt(outcome, error, run_at))

    def _add_failed_probe(
        self, outcome: Outcome, error: TaskError, won: WonTask, ended: AttemptOutcome
    ) -> None:
        """The target is still down. Who tried it for all that wait waits on with them: the attempt stays on record, uncounted.

        Else a long outage would use up the attempts of one task after the other. The policy is asked as after a first attempt.
        """
        run_at = self._next_try(outcome, error, won, 1)
        if run_at is None or (won.finish_by_at is not None and run_at >= won.finish_by_at):
            self._fail(outcome, error, won, ended)
            return
        self._note_retried(outcome, error, run_at)
        self._well_tried.append(outcome.task_id)
        error_text = dumps(error.to_json())
        self._again(outcome, won.start_within_ms, ended, run_at=run_at, error=error_text, uncounted=1)

    def _continue(self, outcome: Outcome, again_ms: int, won: WonTask) -> None:
        """The work goes on in another attempt. Failures are counted anew: this one was none."""
        self.continued += 1
        if outcome.polls and outcome.polls > KEPT_ATTEMPTS and outcome.polls % TRIMMED_EVERY == 0:
            self._well_tried.append(outcome.task_id)
        run_at = self.now + timedelta(milliseconds=again_ms)
        self._again(
            outcome, won.start_within_ms, AttemptOutcome.CONTINUED, run_at=run_at, uncounted=outcome.attempt
        )

    def _next_try(self, outcome: Outcome, error: TaskError, won: WonTask, attempt: int) -> datetime | None:
        """When the policy has a failed attempt of this number tried again; None when it does not."""
        policy = RetryPolicy.read(read(outcome.retry) if outcome.retry else None)
        limit = won.max_attempts
        if not policy.retries(error.code, attempt=attempt, limit=limit, retryable=error.retryable):
            return None
        failures = policy.failed(attempt, limit=limit)
        chance = random.random()  # noqa: S311 - jitter, not a secret
        return self.now + policy.delay(failures, chance=chance, at_least=error.retry_after)

    def lose(self, outcome: Outcome, task: ExpiredTask, *, for_good: bool) -> None:
        """A lease ran out. Lost attempts do not count against the policy, they have their own limit."""
        self.taken_back += 1
        if for_good:
            self.failed += 1
            self._end(outcome, task, TaskStatus.FAILED, AttemptOutcome.LOST)
        else:
            self.retried += 1
            self._again(
                outcome, task.start_within_ms, AttemptOutcome.LOST, run_at=self.now, uncounted=1, lost=1
            )

    def time_out(self, task: OverdueTask, error: TaskError) -> None:
        """The time of a task is over, whether it waits or runs: it failed for good."""
        self.failed += 1
        self._time_out.append(
            {
                "id": task.id,
                "status": TaskStatus.FAILED.value,
                "error": dumps(error.to_json()),
                "finished_at": self.now,
            }
        )
        if task.token is not None:
            self.taken_back += 1
            self._end_attempt(task.id, task.token, AttemptOutcome.TIMED_OUT, error)
        self._ended.append(
            _Ended(
                task.id, task.tenant_id, task.instance_id, _keys(task.key, task.joined_keys), task.type, task.name,
                task.attempt, task.failure_event, None, error, parent_task_id=task.parent_task_id,
            )
        )  # fmt: skip

    def decide(self, decision: Decision) -> None:
        """A person ended a task that nobody leases: it is not tried again."""
        task, error = decision.task, decision.error
        status = TaskStatus.SUCCEEDED if error is None else TaskStatus.FAILED
        self._decide.append(
            {
                "id": task.id,
                "status": status.value,
                "output": decision.output,
                "error": None if error is None else dumps(error.to_json()),
                "finished_at": self.now,
                "ended_by": decision.by,
            }
        )
        event_type = task.completion_event if error is None else task.failure_event
        self._ended.append(
            _Ended(
                task.id, task.tenant_id, task.instance_id, _keys(task.key, task.joined_keys), task.type, task.name,
                task.attempt, event_type, decision.output, error, by=decision.by,
                decided=decision.told(), parent_task_id=task.parent_task_id,
            )
        )  # fmt: skip

    def _end(
        self, outcome: Outcome, row: WonTask | ExpiredTask, status: TaskStatus, attempt: AttemptOutcome
    ) -> None:
        error = None if outcome.error is None else dumps(outcome.error.to_json())
        self._finish.append(
            {
                "id": outcome.task_id,
                "held_token": outcome.token,
                "status": status.value,
                "output": outcome.output,
                "error": error,
                "finished_at": self.now,
            }
        )
        if outcome.type == AI and outcome.output is not None:
            self._thought.append(outcome.task_id)
            self._suggest(outcome, outcome.output)
        self._end_attempt(outcome.task_id, outcome.token, attempt, outcome.error)
        digest = _only_attempt(outcome, attempt, self.now)
        self._ended.append(_ended(outcome, row.joined_keys, row.parent_task_id, digest))

    def _suggest(self, outcome: Outcome, output: str) -> None:
        """What a model would send, and its policy leaves to a person."""
        members = suggested(read(output))
        if members is not None:
            self._suggestions.append(
                {
                    "id": new_id(),
                    "tenant_id": outcome.tenant_id,
                    "instance_id": outcome.instance_id,
                    "task_id": outcome.task_id,
                    **members,
                    "created_at": self.now,
                }
            )

    @property
    def due_in(self) -> float | None:
        later = [row["run_at"] for row in self._release if row["run_at"] > self.now]
        return (min(later) - self.now).total_seconds() if later else None

    def _again(
        self,
        outcome: Outcome,
        start_within_ms: int | None,
        attempt: AttemptOutcome,
        *,
        run_at: datetime,
        error: str | None = None,
        uncounted: int = 0,
        lost: int = 0,
    ) -> None:
        self._release.append(
            {
                "b_id": outcome.task_id,
                "run_at": run_at,
                "start_by_at": tasks.later(run_at, start_within_ms),
                "error": error,
                "uncounted": uncounted,
                "lost": lost,
            }
        )
        self._end_attempt(outcome.task_id, outcome.token, attempt, outcome.error)

    def _end_attempt(
        self, task_id: TaskId, token: LeaseToken, ended: AttemptOutcome, error: TaskError | None
    ) -> None:
        told = None if error is None else dumps(error.to_json() | {"trace": error.trace})
        self._attempts.append(
            {"task_id": task_id, "token": token, "ended_at": self.now, "outcome": ended.value, "error": told}
        )

    def save(self, tx: Connection, worker: WorkerId | None = None) -> None:
        """Write everything collected. `worker` is who made the attempts that are written at once."""
        attempts.save_progress(tx, self._progress)
        attempts.save_states(tx, self._states)
        writes = Writes(tx)
        attempts.finish(writes, self._finish)
        attempts.end_attempts(writes, self._attempts)
        if worker is not None:
            claims.end_at_once(writes, self._at_once, worker)
        if self._has_more_to_write:
            writes.run()
            self._write_more(tx)
        if self.released or self.continued or self.taken_back:
            note_bell(tx, TASK_RUNNER_QUEUE)
        for ended in self._ended:
            if ended.parent_task_id is not None and ended.decided is not None:
                _tell_of_item(tx, ended, ended.decided, self.now)
        items = [_item_end(ended) for ended in self._ended if ended.parent_task_id is not None]
        told = [ended for ended in self._ended if ended.parent_task_id is None]
        maps = [ended.task_id for ended in told if ended.type == "MAP"]
        if items or maps:
            writes.run()  # what is counted has to stand in its rows
        closed = close(tx, maps, now=self.now)
        told = [replace(ended, items=closed.get(ended.task_id)) for ended in told]
        self._tell(writes, told)
        writes.run()
        self.count(tx, items)

    @property
    def _has_more_to_write(self) -> bool:
        """Is there what only some outcomes come with?"""
        return bool(
            self._thought
            or self._suggestions
            or self._time_out
            or self._decide
            or self._release
            or self._well_tried
        )

    def _write_more(self, tx: Connection) -> None:
        attempts.forget_states(tx, self._thought)
        suggestions.put(tx, self._suggestions)
        deadlines.time_out(tx, self._time_out)
        people.decide(tx, self._decide)
        attempts.release(tx, self._release)
        attempts.drop_old_attempts(tx, self._well_tried, kept=KEPT_ATTEMPTS)

    def count(self, tx: Connection, ends: Sequence[ItemEnd], *, also: Sequence[str] = ()) -> None:
        """Count items that ended for their MAPs, and tell of those MAPs that ended by it."""
        counted = count_items(
            tx, ends, now=self.now, max_output_bytes=limits_of_process().max_output_bytes, also=also
        )
        if counted.opened:
            note_bell(tx, TASK_RUNNER_QUEUE, *counted.opened)
            note_bell(tx, ORCHESTRATOR_QUEUE)  # some may be workflows, which it starts
        writes = Writes(tx)
        self._tell(writes, [_ended_map(one) for one in counted.ended])
        writes.run()

    def _tell(self, writes: Writes, told: list[_Ended]) -> None:
        """Put what ended into the inboxes of its instances; read what it was tried by, where that is not known."""
        if not told:
            return
        unknown = [ended.task_id for ended in told if ended.digest is None]
        if unknown:
            writes.run()
        digests = attempts_digests(writes.tx, unknown) if unknown else {}
        rows = [
            row
            for ended in told
            for row in self._deliveries(ended, ended.digest or digests.get(ended.task_id))
        ]
        inbox.put(writes, rows)
        note_bell(writes.tx, ORCHESTRATOR_QUEUE, *(ended.instance_id for ended in told))

    def _deliveries(self, ended: _Ended, digest: str | None) -> list[dict[str, Any]]:
        return [
            inbox.new_row(
                ended.tenant_id,
                ended.instance_id,
                InboxType.TASK,
                outcome_body(
                    key=key,
                    task_id=ended.task_id,
                    name=ended.name,
                    type=ended.type,
                    attempt=ended.attempt,
                    event_type=ended.event_type,
                    output=ended.output or "null",
                    error=ended.error.to_json() if ended.error else None,
                    attempts_digest=digest,
                    polls=ended.polls,
                    items=ended.items,
                    decided=ended.decided if key == ended.keys[0] else None,
                ),
                ended.by or f"task:{ended.task_id}",
                self.now,
            )
            for key in ended.keys
        ]


def _ended(
    outcome: Outcome, joined_keys: str | None, parent_task_id: TaskId | None, digest: str | None
) -> _Ended:
    event_type = outcome.completion_event if outcome.error is None else outcome.failure_event
    return _Ended(
        outcome.task_id, outcome.tenant_id, outcome.instance_id, _keys(outcome.key, joined_keys), outcome.type, outcome.name,
        outcome.attempt, event_type, outcome.output, outcome.error, outcome.polls, parent_task_id, digest=digest,
    )  # fmt: skip


def _only_attempt(outcome: Outcome, ended: AttemptOutcome, ended_at: datetime) -> str | None:
    """The digest of a task's attempts where this was the only one; None: they have to be read."""
    if outcome.only_since is None:
        return None
    return attempts_digest([(outcome.attempt, ended.value, outcome.only_since, ended_at)])


def _tell_of_item(tx: Connection, ended: _Ended, decided: Mapping[str, Any], now: datetime) -> None:
    """Items end in a count, but what a person decided stands in the history."""
    body = dumps({"entry": {"type": "human.decided", "key": ended.keys[0], **decided}})
    source = ended.by or f"task:{ended.task_id}"
    row = inbox.new_row(
        ended.tenant_id, ended.instance_id, InboxType.RECORD, body, source, now, lane=inbox.CONTROL
    )
    inbox.put(tx, [row])
    note_bell(tx, ORCHESTRATOR_QUEUE, ended.instance_id)


def _item_end(ended: _Ended) -> ItemEnd:
    assert ended.parent_task_id is not None, "an item has a MAP"  # noqa: S101
    [key] = ended.keys
    error = None if ended.error is None else dumps(ended.error.to_json())
    return ItemEnd(ended.parent_task_id, int(key.rpartition("#")[2]), error)


def _ended_map(one: EndedMap) -> _Ended:
    event_type = one.map.completion_event if one.error is None else one.map.failure_event
    return _Ended(
        one.map.id, one.map.tenant_id, one.map.instance_id, (one.map.key,), "MAP", one.map.name, one.map.attempt, event_type,
        one.output, one.error, items=one.items,
    )  # fmt: skip


def _keys(key: str, joined: str | None) -> tuple[str, ...]:
    return (key, *(read(joined) if joined else ()))


def _record_late(tx: Connection, outcome: Outcome, now: datetime) -> int:
    """Record a result whose lease was lost: once, without effect. Returns 1 when it was news."""
    if outcome.released:
        return 0
    said = outcome.output if outcome.error is None else dumps(outcome.error.to_json())
    digest = sha256((said or "null").encode()).digest()
    if not attempts.record_late(tx, outcome.task_id, outcome.token, digest):
        return 0
    if map_key(outcome.key) is not None:  # of the items of a MAP only the attempts tell
        return 1
    entry = {
        "attempt": outcome.attempt,
        "key": outcome.key,
        "name": outcome.name,
        "outcome": "failed" if outcome.error else "succeeded",
        "resultDigest": digest.hex(),
        "taskId": outcome.task_id,
    }
    source, body = f"task:{outcome.task_id}", dumps({"entry": entry})
    row = inbox.new_row(outcome.tenant_id, outcome.instance_id, InboxType.TASK_LATE, body, source, now)
    inbox.put(tx, [row])
    note_bell(tx, ORCHESTRATOR_QUEUE, outcome.instance_id)
    return 1


def retry_items(tx: Connection, ids: Sequence[TaskId], *, now: datetime) -> list[TaskId]:
    """Let those of some retried tasks that are MAPs try their items again; returns the ids of items that may be claimed.

    The tasks and their items are locked. A MAP that failed although nothing of it is left to do fails again.
    """
    if not ids:
        return []
    claimable = joins.reopen(tx, ids, now=now)
    _Group(now).count(tx, [], also=ids)
    return claimable


@record
class WorkflowEnd:
    """How the child of an item ended: `output` or `error`, canonical texts. The item is (instance of its MAP, key)."""

    instance_id: str
    key: str
    output: str | None
    error: str | None

    @classmethod
    def failed(cls, instance_id: str, key: str, error: Mapping[str, Any]) -> WorkflowEnd:
        return cls(instance_id, key, None, dumps(error))


def end_workflow_items(tx: Connection, ends: Sequence[WorkflowEnd], *, now: datetime) -> None:
    """End items whose children have ended or could not be started, and count them. What is not open any more is passed over.

    Nobody who calls this waits for a task afterwards; where it waits for others, it has locked all of them in order.
    """
    if not ends:
        return
    by_key = {(end.instance_id, end.key): end for end in ends}
    items = joins.lock_workflow_items(tx, sorted(by_key))
    rows, counted = [], []
    for item in items:
        end = by_key[item.instance_id, item.key]
        status = TaskStatus.SUCCEEDED if end.error is None else TaskStatus.FAILED
        rows.append(
            {
                "id": item.id,
                "status": status.value,
                "output": end.output,
                "error": end.error,
                "finished_at": now,
            }
        )
        counted.append(ItemEnd(item.map_id, item.index, end.error, was_gated=item.gated))
    joins.end_workflow_items(tx, rows)
    _Group(now).count(tx, counted)


def expire_leases(tx: Connection, *, now: datetime) -> int:
    """Take tasks back whose lease ran out: pending again, or failed as `lost` the third time. Returns how many.

    A task with `onLost: "fail"` must not be done twice, and fails the first time. Locked rows are skipped: their holder
    is beating or reporting this very moment (operation: EXPIRE).
    """
    expired = deadlines.lock_expired(tx, now=now)
    group = _Group(now)
    for task in expired:
        options = read(task.options) if task.options else {}
        once = options.get("onLost") == "fail"
        outcome = Outcome(
            task.id, task.tenant_id, task.instance_id, task.token, task.key, task.type, task.name, task.attempt, None, "",
            task.failure_event, error=_lost(task.lost + 1, once=once),
        )  # fmt: skip
        group.lose(outcome, task, for_good=once or task.lost + 1 >= MAX_LOST)
    group.save(tx)
    return len(expired)


def _lost(times: int, *, once: bool) -> TaskError:
    if once:
        message = 'the lease ran out: its worker died or froze, and "onLost" lets nobody do the work again'
    elif times == 1:
        message = "the lease of its attempt ran out: its worker died or froze"
    else:
        message = f"the lease of {times} attempts ran out: their workers died or froze"
    return TaskError("task.lost", message)


UNSTARTED = TaskError(
    "task.schedule_to_start_timeout", "no worker began the task within the time that scheduleToStart allows"
)
UNFINISHED = TaskError(
    "task.schedule_to_close_timeout",
    "the task with all its attempts did not end within the time that scheduleToClose allows",
)


def time_out_tasks(tx: Connection, *, now: datetime, maps: bool = False) -> int:
    """Fail tasks for good that waited too long for a worker, or took too long in all. Returns how many, 500 of each at most.

    Needs nobody who holds them: it works as well when their runner is dead. One that runs is told by its beat. `maps` does so
    for MAPs, else it is done for all other tasks: in one transaction an item would be counted for a MAP that is held out
    of its turn (operation: ORDER).
    """
    group = _Group(now)
    unfinished = deadlines.lock_unfinished(tx, now=now, maps=maps)
    for task in unfinished:
        group.time_out(task, UNFINISHED)
    over = {task.id for task in unfinished}
    for task in () if maps else deadlines.lock_unstarted(tx, now=now):
        if task.id not in over:
            group.time_out(task, UNSTARTED)
    group.save(tx)
    return group.failed
