"""What a step asks for becomes true in memory: the statements of `Batch.save` and `Children.save`, without a database.

The orchestrator's own code steps the instance and collects the rows; only where it would speak SQL, these classes write to a
`Memory`, in the same order. `tests/unit/testing/test_agreement.py` compares both,
script by script.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from common.canonical import dumps, read
from common.commands.outcome import WorkflowEnd, outcome_body
from common.config import Limits
from common.db.tables import AttemptOutcome, InboxType, IncidentStatus, SuggestionStatus, TimerStatus
from common.decision import NOT_RUN_BY_A_RUNNER
from common.errors import Conflict, SignalboxError
from common.ids import DefinitionId, InstanceId, TaskId
from common.lifecycle import ENDED, FINAL, InstanceStatus, TaskStatus
from common.polls import POLL, begin_anew
from common.retry import RetryPolicy
from common.store.inbox import ANSWERS, new_row
from common.store.tasks import later
from orchestrator.batch import Batch, _Asking, assigned
from orchestrator.children import (
    Children,
    _Asked,
    _cancel_row,
    _first_row,
    _is_later,
    _problem,
    _refusal,
    _start_timer,
    error_of,
    name_of,
)
from orchestrator.sends import Send, delivery
from orchestrator.taken_back import answer_of
from signalbox.testing import maps
from signalbox.testing.memory import TENANT, Incident, Memory, Task, Timer
from signalbox.testing.outcomes import count_items
from statechart.effects import CreateTask
from statechart.maps import map_key

Row = dict[str, Any]
Finder: TypeAlias = Callable[[str, int | None], tuple[DefinitionId, int] | SignalboxError]
"""Finds the definition of a child by key and version: its id and version, or why there is none."""


@dataclass
class Family(Children):
    """What steps ask of children and tell parents, saved in memory."""

    def end_workflows(self, memory: Memory) -> None:
        """End the WORKFLOW tasks whose children have ended."""
        for row in self._ended_tasks:
            for task in memory.open_tasks({row["instance_id"]}):
                if task.type == "WORKFLOW" and task.key == row["key"]:
                    task.status, task.finished_at = TaskStatus(row["status"]), memory.now
                    task.output, task.error = row["output"], read(row["error"]) if row["error"] else None

    def end_items(self, memory: Memory) -> None:
        """End the items of MAPs whose children have ended, or could not be started."""
        refused = [WorkflowEnd.failed(*one) for one in self.refused_items]
        for end in (*self.ended_items, *refused):
            for task in memory.open_tasks({end.instance_id}):
                if task.type == "WORKFLOW" and task.key == end.key:
                    task.status = TaskStatus.SUCCEEDED if end.error is None else TaskStatus.FAILED
                    task.output, task.error = end.output, read(end.error) if end.error else None
                    task.finished_at = memory.now
                    memory.item_ends.append(task)

    def store(self, memory: Memory, find: Finder, limits: Limits) -> list[Row]:
        """Insert the children; return inbox rows for them and for parents."""
        rows = [row for asked in self._asked.values() for row in self._start_one(memory, asked, find, limits)]
        for instance in memory.instances.values():
            held = instance.held
            if not instance.cancel_with_parent:
                continue
            if held.status not in FINAL and (held.parent_id or "", held.parent_key or "") in self._cancelled:
                tells = (held.parent_id or "", held.parent_key or "") in self._telling
                rows.append(_cancel_row(TENANT, held.id, held.parent_id or held.id, memory.now, tells=tells))
        return rows + self._tell_parents(memory)

    def _start_one(self, memory: Memory, asked: _Asked, find: Finder, limits: Limits) -> list[Row]:
        effect, now = asked.effect, memory.now
        found = find(effect.definition_key, effect.version)
        problem = (
            found if isinstance(found, SignalboxError) else _problem(asked, limits, memory.contract(found[0]))
        )
        if problem is None and not isinstance(found, SignalboxError):
            definition_id, version = found
            inserted = memory.insert_pending(
                id=effect.instance_id, definition_id=definition_id, definition_key=effect.definition_key,
                definition_version=version, business_key=effect.business_key, input=asked.input,
                priority=asked.parent.priority if effect.priority is None else effect.priority,
                parent_id=asked.parent.id, parent_key=effect.key if effect.wait else None,
                cancel_with_parent=effect.cancel_with_parent, depth=asked.parent.depth + 1,
            )  # fmt: skip
            if inserted is None:
                message = f'business key "{effect.business_key}" of "{effect.definition_key}" is held by another live instance'
                holder = memory.find_live(effect.definition_key, effect.business_key or "")
                problem = Conflict(message, code="instance.business_key_held", instanceId=holder)
        if problem is not None and map_key(effect.key) is not None:
            self.refused_items.append((asked.parent.id, effect.key, error_of(problem)))
            return []
        if problem is not None:
            return [_refusal(asked, problem, now)]
        if asked.is_withdrawn or not _is_later(asked, now):
            return [_first_row(asked, now)]
        memory.timers.append(_timer(_start_timer(asked, now)))
        return []

    def _tell_parents(self, memory: Memory) -> list[Row]:
        rows = []
        for ended in self._ended:
            child, answer = ended.child, ended.answer
            if ended.has_request:
                given = read(memory.instances[child.id].input)
                answer["request"] = {"businessKey": child.business_key, "input": given}
            rows.append(
                new_row(
                    TENANT, ended.parent_id, InboxType.CHILD, dumps(answer), name_of(child.id), memory.now
                )
            )
        return rows


@dataclass
class Saving(Batch):
    """The rows that one instance's steps ask for, saved in memory."""

    family: Family = field(default_factory=Family)

    @classmethod
    def of(cls, batch: Batch) -> Saving:
        saving = cls(batch.now)
        saving.merge(batch)
        saving.family.merge(batch.children)
        return saving

    def store(self, memory: Memory, find: Finder, limits: Limits) -> None:
        """Write everything collected, in the order of `Batch.save`."""
        self._store_asked_again(memory)
        for task_id in sorted(self._retried_tasks):
            _retry(memory, memory.tasks[task_id], limits.max_output_bytes)
        for skipped in self._skipped_tasks:
            memory.tasks[TaskId(skipped)].status = TaskStatus.SKIPPED
        self.family.end_workflows(memory)
        self.family.end_items(memory)
        self._withdraw(memory)
        self._release(memory)
        memory.timers = [
            timer for timer in memory.timers if (timer.instance_id, timer.key) not in self._cancelled_timers
        ]
        for row in self.instances:
            _save_instance(memory, row)
        for row in self._tasks.values():
            task = Task.of(row, memory.number("task"))
            memory.tasks[task.id] = task
        maps.store(memory, self._maps)
        for row in self._timers.values():
            if row["status"] == TimerStatus.ARMED.value:
                memory.timers.append(_timer(row))
        memory.history += self.history
        self._store_incidents(memory)
        expired = SuggestionStatus.EXPIRED.value
        memory.suggestions = [
            replace(one, status=expired, decided_at=memory.now, decided_by="engine")
            if one.instance_id in self.asked_models and one.status == SuggestionStatus.OPEN.value
            else one
            for one in memory.suggestions
        ]
        rows = self.family.store(memory, find, limits) + self._addressed(memory)
        for row in rows + self._taken_back(memory, rows):
            memory.put(row)
        memory.parked.update(self.parked)
        memory.parked -= {row.id for row in memory.inbox if row.instance_id in self.thawed}
        memory.consume(self.consumed)

    # -- tasks ------------------------------------------------------------------------------------------------------

    def _withdraw(self, memory: Memory) -> None:
        """Cancel tasks that nobody waits for any more, and hold those of instances that are frozen."""
        concerned = self._withdrawing()
        self._cancel_and_hold_new(concerned)
        for task in memory.open_tasks(concerned):
            joined = dumps(task.joined_keys) if task.joined_keys else None
            if not self._is_wanted(task.instance_id, task.key, joined):
                if task.type == "WORKFLOW" and map_key(task.key) is not None:
                    self.family.cancel_items([(task.instance_id, task.key)])
                task.end_attempt(AttemptOutcome.CANCELLED, memory.now)
                task.status, task.finished_at = TaskStatus.CANCELLED, memory.now
                maps.close(memory, task)
                continue
            if task.instance_id in self.frozen:
                task.held, task.start_by_at = True, None
            effect = self._assigned.get((task.instance_id, task.key))
            if effect is not None:
                columns = assigned(effect)
                task.assignee, task.candidates = (
                    columns["assignee"],
                    columns.get("candidates", task.candidates),
                )

    def _release(self, memory: Memory) -> None:
        """Let held tasks run again; the wait for a worker begins anew."""
        for task in memory.open_tasks({str(one) for one in self.released}):
            if task.held:
                task.held = False
                wait = None if task.gated else task.start_within_ms
                task.start_by_at = later(max(task.run_at, memory.now), wait)

    def _store_asked_again(self, memory: Memory) -> None:
        for asking in self._asked_again:
            known = _same_work(memory, asking)
            if known is None:
                self._create_once(asking)
            elif known.status is TaskStatus.CANCELLED:
                known.idempotency_key = None
                self._create_once(asking)
            else:
                if known.status is not TaskStatus.SUCCEEDED:
                    known.joined_keys.append(asking.effect.key)
                if known.status in ENDED:
                    memory.put(_stored_answer(asking.instance.id, asking.effect, known))

    def _taken_back(self, memory: Memory, rows: list[Row]) -> list[Row]:
        """How tasks ended that were taken back, where nothing else answers for them."""
        living = {
            (one.held.parent_id, one.held.parent_key)
            for one in memory.instances.values()
            if one.held.status not in FINAL
        }
        waiting = [
            (row.instance_id, row.type, row.body) for row in memory.inbox if row.id not in self.consumed
        ]
        waiting += [(row["instance_id"], InboxType(row["type"]), row["body"]) for row in rows]
        answered = {(one, read(body)["key"]) for one, type, body in waiting if type.value in ANSWERS}
        told = []
        for one, key in self.taken_back.keys:
            if (one, key) not in answered and (one, key) not in living:
                found = [t for t in memory.tasks.values() if t.instance_id == one and key in t.obligations()]
                body = answer_of(key, found[-1] if found else None)
                told.append(new_row(TENANT, InstanceId(one), InboxType.TASK, body, "engine", memory.now))
        return told

    # -- the others -------------------------------------------------------------------------------------------------

    def _store_incidents(self, memory: Memory) -> None:
        for instance_id, (resolution, _) in self._resolved.items():
            for one in memory.open_incidents(instance_id):
                one.is_open, one.resolution = False, resolution
        for row in self._incidents:
            memory.incidents.append(
                Incident(
                    memory.number("incident"), row["instance_id"], row["task_id"], row["code"], row["message"],
                    read(row["detail"]), row["sequence"], row["status"] == IncidentStatus.OPEN.value, row["resolution"],
                )
            )  # fmt: skip

    def _addressed(self, memory: Memory) -> list[Row]:
        """Inbox rows for the events that were sent; one that finds nobody comes back as `error.communication`."""
        return [delivery(send, _target(memory, send), now=memory.now) for send in self.sends]


def _target(memory: Memory, send: Send) -> InstanceId | None:
    if send.to.get("parent"):
        return send.sender.parent_id
    wanted = send.to.get("instanceId")
    if wanted is not None:
        return InstanceId(wanted) if wanted in memory.instances else None
    key, business_key = send.to.get("definitionKey"), send.to.get("businessKey")
    if isinstance(key, str) and isinstance(business_key, str):
        return memory.find_live(key, business_key)
    return None


def _same_work(memory: Memory, asking: _Asking) -> Task | None:
    for task in memory.tasks.values():
        if (task.instance_id, task.idempotency_key) == (asking.instance.id, asking.effect.idempotency_key):
            return task
    return None


def _stored_answer(instance_id: InstanceId, effect: CreateTask, known: Task) -> Row:
    """The outcome of work that was done before, as the answer to who asks for it again."""
    succeeded = known.status is TaskStatus.SUCCEEDED
    error = known.error or {"code": f"task.{known.status}", "message": f"task was {known.status}"}
    body = outcome_body(
        key=effect.key, task_id=known.id, name=effect.name, type=known.asked_as or known.type, attempt=known.attempt,
        event_type=effect.completion_event if succeeded else effect.failure_event, output=known.output or "null",
        error=None if succeeded else error, attempts_digest=None,
    )  # fmt: skip
    return {"instance_id": instance_id, "lane": 1, "type": "task", "body": body, "source": f"task:{known.id}"}


def _retry(memory: Memory, task: Task, max_output_bytes: int) -> None:
    """Another series of attempts for a failed task, at once (`common.store.tasks.retry`)."""
    if task.status is not TaskStatus.FAILED:
        return
    is_executed = task.type not in NOT_RUN_BY_A_RUNNER
    task.status = TaskStatus.PENDING if is_executed else TaskStatus.RUNNING
    task.held, task.run_at, task.lost = False, memory.now, 0
    task.max_attempts = task.attempt + RetryPolicy.read(read(task.retry) if task.retry else None).max_attempts
    task.start_by_at = later(memory.now, task.start_within_ms)
    task.finish_by_at = later(memory.now, task.finish_within_ms)
    task.error = task.finished_at = None
    if task.asked_as == POLL:
        task.state = begin_anew(task.state, memory.now)
    if task.id in memory.joins:
        maps.reopen(memory, task)
        count_items(memory, max_output_bytes=max_output_bytes, also=(task.id,))


def _timer(row: Row) -> Timer:
    return Timer(row["instance_id"], row["key"], row["due_at"], InboxType(row["inbox_type"]), row["body"])


def _save_instance(memory: Memory, row: Row) -> None:
    instance = memory.instances[row["id"]]
    instance.held = replace(
        instance.held, status=InstanceStatus(row["status"]), snapshot=row["snapshot"], error=row["error"],
        sequence=row["sequence"], head_hash=row["head_hash"], last_step_at=row["last_step_at"],
        deadline_at=row["deadline_at"], started_at=row["started_at"], finished_at=row["finished_at"],
    )  # fmt: skip
    instance.configuration = read(row["configuration"])
    instance.output = read(row["output"]) if row["output"] is not None else None
    instance.accepts_events = row["accepts_events"]
