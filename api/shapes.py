"""From stored records to the JSON of the API. Member names are the contract of docs/api.md; schemas.py documents them.

JSON columns are stored as canonical text, so they are put into the answer as they are, without being parsed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import Any

import orjson

from common.breaker import Breaker as StoredBreaker
from common.breaker import BreakerKey, BreakerState
from common.canonical import read
from common.catalogue import CATALOGUE, CODE, TaskType, members_of
from common.clock import instant_text
from common.commands.admission import ShutOut
from common.commands.incidents import why_held
from common.commands.limits import LimitState, Wait
from common.commands.unattended import Unattended
from common.db.tables import IncidentStatus
from common.decision import NOT_RUN_BY_A_RUNNER
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from common.people import shown_hash
from common.polls import POLL, Counted, Polling
from common.schedule import Run, ScheduleKind
from common.store.breakers import BreakerRecord, WaitingTask
from common.store.configs import ConfigRecord
from common.store.definitions import CurrentDefinition, Definition, DefinitionFacts
from common.store.holders import Locker
from common.store.listing import (
    AttemptRecord,
    ChildRecord,
    HistoryRecord,
    IncidentRecord,
    InstanceRecord,
    TaskRecord,
)
from common.store.metadata import MetadataRecord
from common.store.overview import HandlerRecord, WorkerRecord
from common.store.results import ResultRecord
from common.store.schedules import Schedule as StoredSchedule
from common.store.statistics import Fared, TaskFared
from common.store.suggestions import Suggestion
from common.store.triggers import Trigger as StoredTrigger
from common.ways_out import WayOut, legal_ways
from statechart.compensation import in_order


def stored(text: str | None) -> Any:
    """Stored JSON text as a piece of the answer; None stays null."""
    return None if text is None else orjson.Fragment(text)


def written(value: Any) -> Any:
    """A part of stored JSON as a piece of the answer: written by itself, so that it need not be shallower than it was stored."""
    return orjson.Fragment(orjson.dumps(value))


def instant(at: datetime | None) -> str | None:
    return None if at is None else instant_text(at)


# -- definitions --------------------------------------------------------------------------------------------------


def definition_summary(facts: DefinitionFacts) -> dict[str, Any]:
    """A definition without its document, which may be a megabyte."""
    return {
        "id": facts.id,
        "key": facts.key,
        "version": facts.version,
        "status": facts.status.value,
        "checksum": facts.checksum,
        "labels": facts.labels,
        "warnings": stored(facts.warnings),
        "createdAt": instant(facts.created_at),
        "createdBy": facts.created_by,
    }


def definition_json(definition: Definition) -> dict[str, Any]:
    return {**definition_summary(definition.facts), "document": stored(definition.document)}


def current_definition_json(current: CurrentDefinition) -> dict[str, Any]:
    return {**definition_summary(current.facts), "newestVersion": current.newest_version}


def figures_json(fared: Sequence[Fared]) -> dict[str, Any]:
    """Instances of one version, or of several, together."""
    completed = [one for one in fared if one.status is InstanceStatus.COMPLETED and one.mean_ms is not None]
    ended = sum(one.count for one in completed)
    spent = sum(one.count * (one.mean_ms or 0.0) for one in completed)
    by_status: Counter[str] = Counter()
    for one in fared:
        by_status[one.status.value] += one.count
    return {
        "total": by_status.total(),
        "instances": dict(sorted(by_status.items())),
        "meanMs": round(spent / ended) if ended else None,
        "longestMs": _whole(max((one.longest_ms or 0.0 for one in completed), default=None)),
        "lastCreatedAt": instant(max((one.last_created_at for one in fared), default=None)),
    }


def task_figures_json(one: TaskFared) -> dict[str, Any]:
    return {
        "name": one.name,
        "type": one.type,
        "total": one.count,
        "succeeded": one.succeeded,
        "failed": one.failed,
        "open": one.open,
        "meanAttempts": round(one.mean_attempts, 2),
        "meanMs": _whole(one.mean_ms),
        "longestMs": _whole(one.longest_ms),
    }


def _whole(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds)


# -- instances ----------------------------------------------------------------------------------------------------


def instance_json(record: InstanceRecord) -> dict[str, Any]:
    """An instance; its context is empty until its start is consumed."""
    snapshot = read(record.snapshot) if record.snapshot is not None else {}
    return {
        "id": record.id,
        "definitionKey": record.definition_key,
        "definitionVersion": record.definition_version,
        "definitionId": record.definition_id,
        "status": record.status.value,
        "configuration": stored(record.configuration),
        "context": written(snapshot.get("context", {})),
        "input": stored(record.input),
        "output": stored(record.output),
        "error": stored(record.error),
        "businessKey": record.business_key,
        "labels": record.labels,
        "priority": record.priority,
        "sequence": record.sequence,
        "parentId": record.parent_id,
        "depth": record.depth,
        "createdAt": instant(record.created_at),
        "startedAt": instant(record.started_at),
        "finishedAt": instant(record.finished_at),
        "deadlineAt": instant(record.deadline_at),
        "erasedAt": instant(record.erased_at),
        "concurrencyKey": record.concurrency_key,
        "queued": record.is_queued,
    }


def child_json(
    record: ChildRecord, places: Mapping[str, Any] | None, shut_out: ShutOut | None
) -> dict[str, Any]:
    """A child that has not ended; `places`: those of which it waits for one."""
    return {
        "instanceId": record.id,
        "key": record.key,
        "definitionKey": record.definition_key,
        "businessKey": record.business_key,
        "status": record.status.value,
        "places": places,
        "incidents": [incident_json(incident, shut_out) for incident in record.incidents],
    }


def history_entries(record: HistoryRecord) -> list[dict[str, Any]]:
    """The entries of one history row, each with the hash of its row. A row whose body was erased shows that it was there."""
    changes = [{"type": "erased"}] if record.changes is None else read(record.changes)
    return [
        {
            "sequence": f"{record.sequence}.{ordinal}",
            "type": change["type"],
            "at": instant(record.at),
            "actor": record.actor,
            "payload": written({name: value for name, value in change.items() if name != "type"}),
            "hash": record.hash.hex(),
            "previousHash": record.previous_hash.hex(),
        }
        for ordinal, change in enumerate(changes, start=1)
    ]


# -- tasks, incidents, what runs ----------------------------------------------------------------------------------


def task_json(
    record: TaskRecord, waits_for: Mapping[str, Any] | None, *, with_traces: bool = False
) -> dict[str, Any]:
    """A task; `waits_for`: the circuit breaker that it waits for (`waits_json`)."""
    options = read(record.options) if record.options is not None else {}
    return {
        "id": record.id,
        "instanceId": record.instance_id,
        "type": record.type,
        "name": record.name,
        "status": record.status,
        "attempt": record.attempt,
        "maxAttempts": record.max_attempts,
        "lost": record.lost,
        "held": record.held,
        "priority": record.priority,
        "runAt": instant(record.run_at),
        "waitsFor": waits_for,
        "input": stored(record.input),
        "output": stored(record.output),
        "error": stored(record.error),
        "progress": stored(record.progress),
        "idempotencyKey": record.idempotency_key,
        "limitKey": record.limit_key,
        "attempts": [_attempt(attempt, with_trace=with_traces) for attempt in record.attempts],
        "title": options.get("title"),
        "description": options.get("description"),
        "form": options.get("form"),
        "assignee": record.assignee,
        "candidates": list(record.candidates or ()),
        "fourEyes": options.get("fourEyes") is True,
        "dueAt": instant(record.due_at),
        "endedBy": record.ended_by,
        "shownHash": shown_hash(read(record.input), options) if record.type == "HUMAN" else None,
        "createdAt": instant(record.created_at),
        "finishedAt": instant(record.finished_at),
        "poll": _poll(record),
        "parentTaskId": record.parent_task_id,
        "index": record.item_index,
        "items": _items(record),
    }


def limit_json(state: LimitState) -> dict[str, Any]:
    limit = state.limit
    rate = None if limit.bucket is None else limit.bucket.rate
    return {
        "key": limit.key,
        "source": limit.source,
        "maxRunning": limit.max_running,
        "rate": None if rate is None else {"count": rate.count, "perMs": rate.per_ms, "burst": rate.burst},
        "running": state.running,
        "waiting": state.waiting,
        "tokens": None if state.tokens is None else round(state.tokens, 3),
        "createdAt": instant(limit.created_at),
        "updatedAt": instant(limit.updated_at),
        "updatedBy": limit.updated_by,
    }


def limit_wait_json(wait: Wait) -> dict[str, Any]:
    return {
        "key": wait.key,
        "maxRunning": wait.max_running,
        "running": wait.running,
        "nextTokenAt": instant(wait.next_token_at),
    }


def held_key_json(business_key: str, holder: InstanceId) -> dict[str, Any]:
    """Why a failed instance whose business key another has taken cannot go on, and what to do, in words too."""
    return {
        "businessKey": business_key,
        "instanceId": holder,
        "reason": f"it cannot go on now: {why_held(business_key, holder)}; wait until that has ended, or cancel one of the two",
    }


def locker_json(locker: Locker) -> dict[str, Any]:
    """A session that has locked a row, and what to do, in words too."""
    what = "this instance" if locker.task_id is None else f"task {locker.task_id}"
    return {
        "taskId": locker.task_id,
        "pid": locker.pid,
        "reason": f"session {locker.pid} of PostgreSQL has locked {what}, which stands still until it lets go: `signalbox doctor` "
        f"tells whose it is; end its transaction there, or `SELECT pg_terminate_backend({locker.pid})`",
    }


def unattended_json(one: Unattended) -> dict[str, Any]:
    return {"duty": one.duty, "type": one.type, "name": one.name, "reason": one.reason}


def _items(record: TaskRecord) -> dict[str, int] | None:
    """How far a MAP is; None for any other task, and for a MAP that had nothing to do."""
    if record.items is None:
        return None
    succeeded, failed = record.items_succeeded or 0, record.items_failed or 0
    return {
        "total": record.items,
        "succeeded": succeeded,
        "failed": failed,
        "open": record.items - succeeded - failed,
    }


def _poll(record: TaskRecord) -> dict[str, Any] | None:
    """How a POLL is asked again, and what it has counted; None for any other task, and once its options were erased."""
    if record.type != POLL or record.options is None:
        return None
    polling, counted = Polling.read(record.options), Counted.read(record.polls)
    return {
        "type": record.executed_as,
        "until": polling.until,
        "intervalMs": polling.interval,
        "timeoutMs": polling.timeout,
        "maxAttempts": polling.max_attempts,
        "polls": counted.polls,
        "lastPolledAt": instant(counted.last_polled_at),
    }


def _attempt(record: AttemptRecord, *, with_trace: bool) -> dict[str, Any]:
    """An attempt; its stack trace, cut to 8,000 characters, only where one task is read: a page of them would be heavy."""
    told = read(record.error) if record.error is not None else None
    return {
        "attempt": record.attempt,
        "workerId": record.worker_id,
        "startedAt": instant(record.started_at),
        "endedAt": instant(record.ended_at),
        "outcome": record.outcome,
        "error": None if told is None else {name: told.get(name) for name in ("code", "message", "data")},
        "trace": told.get("trace") if told is not None and with_trace else None,
        "progress": stored(record.progress),
    }


def incident_json(record: IncidentRecord, shut_out: ShutOut | None) -> dict[str, Any]:
    """An incident; `shut_out` where its instance is."""
    return {
        "id": record.id,
        "instanceId": record.instance_id,
        "taskId": record.task_id,
        "code": record.code,
        "message": record.message,
        "detail": stored(record.detail),
        "sequence": record.sequence,
        "status": record.status,
        "openedAt": instant(record.opened_at),
        "resolvedAt": instant(record.resolved_at),
        "resolvedBy": record.resolved_by,
        "resolution": record.resolution,
        "keyHolder": record.key_holder,
        "waysOut": _ways_out(record, shut_out),
    }


_UNDONE = {"done": "done", "skipped": "skipped", "passedOver": "passed_over"}
NOTHING_UNDONE: Mapping[str, Any] = {
    "ends": None,
    "reason": None,
    "code": None,
    "awaited": [],
    **dict.fromkeys(_UNDONE, 0),
    "total": 0,
    "items": [],
}
"""What is said of an instance of which nothing can be undone."""


def compensation_json(record: InstanceRecord) -> dict[str, Any] | None:
    """What an instance has done that can be undone, in the order of its undoing; None where that is nothing."""
    if record.snapshot is None or record.erased_at is not None:
        return None
    state = read(record.snapshot).get("compensation")
    if state is None:
        return None
    started = state.get("started") or {}
    items = [_undone_json(item, record) for item in in_order(state["registered"])]
    return {
        "ends": started.get("ends"),
        "reason": started.get("reason"),
        "code": started.get("code"),
        "awaited": [one["name"] for one in state.get("awaited", {}).values()],
        **{name: sum(item["status"] == status for item in items) for name, status in _UNDONE.items()},
        "total": len(items),
        "items": items,
    }


def _undone_json(item: dict[str, Any], record: InstanceRecord) -> dict[str, Any]:
    stopped = item["status"] == "running" and record.status is InstanceStatus.FAILED
    problem = item.get("error") or item.get("problem") or (_stopped_by(item, record) if stopped else None)
    return {
        "id": item["id"],
        "undoes": item["undoes"],
        "key": item["key"],
        "type": item.get("taskType"),
        "name": item.get("name"),
        "input": (item.get("task") or {}).get("input"),
        "order": item["order"],
        "kind": item["kind"],
        "onFailure": item["onFailure"],
        "status": "failed" if stopped else item["status"],
        "error": None
        if problem is None
        else {name: problem.get(name) for name in ("code", "message", "data")},
        "registeredAt": item["registeredAt"],
        "startedAt": item.get("startedAt"),
        "endedAt": item.get("endedAt"),
    }


def _stopped_by(item: dict[str, Any], record: InstanceRecord) -> dict[str, Any] | None:
    """The error of the task that undoes, which its instance has failed with: it is the item's once somebody has decided."""
    data = (read(record.error) if record.error is not None else {}).get("data")
    if not isinstance(data, dict) or data.get("compensation") != item["id"]:
        return None
    return data.get("error")


def _ways_out(record: IncidentRecord, shut_out: ShutOut | None) -> list[WayOut]:
    if record.status != IncidentStatus.OPEN:
        return []
    # A machine that ended with an error of its own has nothing to go on from, and nothing leaves where a stuck one stands.
    is_over = record.code in ("instance.error", "instance.stuck") or read(record.detail).get("compensated")
    return legal_ways(
        is_key_held=record.key_holder is not None,
        is_over=bool(is_over),
        is_shut_out=shut_out is not None,
        is_undoing=shut_out is not None and shut_out.is_undoing,
    )


def result_json(record: ResultRecord) -> dict[str, Any]:
    task = record.task
    began = task.attempts[0].started_at if task.attempts else None
    if began is None and task.type in NOT_RUN_BY_A_RUNNER:
        began = task.created_at
    span = task.finished_at - began if task.finished_at is not None and began is not None else None
    return {
        "key": record.key,
        "state": record.key.rsplit("/", 2)[0],
        "taskId": task.id,
        "name": task.name,
        "type": task.type,
        "status": task.status,
        "input": stored(task.input),
        "output": stored(task.output),
        "error": stored(task.error),
        "attempts": task.attempt,
        "runs": record.runs,
        "startedAt": instant(began),
        "endedAt": instant(task.finished_at),
        "durationMs": None if span is None else max(round(span.total_seconds() * 1_000), 0),
    }


def metadata_json(record: MetadataRecord) -> dict[str, Any]:
    return {
        "key": record.key,
        "value": stored(record.value),
        "updatedAt": instant(record.updated_at),
        "updatedBy": record.updated_by,
    }


def config_json(record: ConfigRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "module": record.module,
        "key": record.key,
        "value": stored(record.value),
        "scope": record.scope.value,
        "scopeId": record.scope_id or None,
        "description": record.description,
        "updatedAt": instant(record.updated_at),
        "updatedBy": record.updated_by,
    }


def suggestion_json(record: Suggestion) -> dict[str, Any]:
    return {
        "id": record.id,
        "instanceId": record.instance_id,
        "taskId": record.task_id,
        "event": record.event,
        "payload": stored(record.payload),
        "reason": record.reason,
        "confidence": stored(record.confidence),
        "status": record.status,
        "createdAt": instant(record.created_at),
        "decidedAt": instant(record.decided_at),
        "decidedBy": record.decided_by,
        "comment": record.comment,
    }


def own_type_json(one: TaskType) -> dict[str, Any]:
    """A type that the engine executes itself; SYSTEM stands for all its functions."""
    given = None if one.input_schema is None else dict(one.input_schema)
    made = None if one.output_schema is None else dict(one.output_schema)
    return {
        "type": one.type,
        "name": None,
        "title": one.title,
        "category": one.category,
        "description": one.description,
        **_what_goes_in_and_out(given, made),
        "examples": _examples(one),
        "light": False,
        "isolated": False,
        "retry": None,
        "builtIn": True,
        "runners": None,
        "publishedAt": None,
    }


def published_json(record: HandlerRecord, workers: Sequence[WorkerRecord]) -> dict[str, Any]:
    """A type that task runners offer, or a function of SYSTEM, with how many runners that live offer it."""
    known = CATALOGUE.get(record.type)
    named = record.name or record.type  # a function is offered by those who offer the type of its name
    is_known = known is not None and not record.name
    return {
        "type": record.type,
        "name": record.name or None,
        "title": known.title if known is not None and is_known else named,
        "category": CODE if known is None else known.category,
        "description": record.description,
        **_what_goes_in_and_out(
            *(None if text is None else read(text) for text in (record.input_schema, record.output_schema))
        ),
        "examples": _examples(known) if known is not None and is_known else [],
        "light": record.light,
        "isolated": record.isolated,
        "retry": stored(record.retry),
        "builtIn": is_known,
        "runners": sum(one.is_alive and named in read(one.types) for one in workers),
        "publishedAt": instant(record.published_at),
    }


def _what_goes_in_and_out(given: Any, made: Any) -> dict[str, Any]:
    return {
        "inputSchema": given,
        "outputSchema": made,
        "parameters": members_of(given),
        "outputs": members_of(made),
    }


def _examples(one: TaskType) -> list[dict[str, Any]]:
    return [{"says": example.says, "task": dict(example.task)} for example in one.examples]


def worker_json(record: WorkerRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "duty": record.duty,
        "host": record.host,
        "pid": record.pid,
        "version": record.version,
        "types": stored(record.types),
        "slots": record.slots,
        "startedAt": instant(record.started_at),
        "seenAt": instant(record.seen_at),
        "isAlive": record.is_alive,
    }


# -- schedules ----------------------------------------------------------------------------------------------------


def schedule_summary(schedule: StoredSchedule) -> dict[str, Any]:
    """A schedule as lists show it."""
    return {
        "id": schedule.id,
        "name": schedule.name,
        "definitionKey": schedule.definition_key,
        "source": schedule.source.value,
        **{kind.value: schedule.expression if kind is schedule.kind else None for kind in ScheduleKind},
        "timezone": schedule.timezone,
        "overlap": schedule.overlap.value,
        "catchUp": schedule.catch_up.value,
        "catchUpLimit": schedule.catch_up_limit,
        "jitter": schedule.jitter_ms,
        "input": stored(schedule.input),
        "businessKey": schedule.business_key,
        "paused": schedule.paused,
        "status": _schedule_status(schedule),
        "nextAt": instant(None if schedule.paused else schedule.next_at),
        "queued": stored(schedule.queued),
        "lastScheduledAt": instant(schedule.last_scheduled_at),
        "lastFiredAt": instant(schedule.last_fired_at),
        "lastInstanceId": schedule.last_instance_id,
        "lastError": stored(schedule.last_error),
        "fired": schedule.fired,
        "skipped": schedule.skipped,
        "refused": schedule.refused,
        "createdAt": instant(schedule.created_at),
        "createdBy": schedule.created_by,
        "updatedAt": instant(schedule.updated_at),
        "updatedBy": schedule.updated_by,
    }


def schedule_json(schedule: StoredSchedule, runs: Iterable[Run]) -> dict[str, Any]:
    return {**schedule_summary(schedule), "nextRuns": [run_json(run) for run in runs]}


def breaker_json(record: BreakerRecord) -> dict[str, Any]:
    breaker = record.breaker
    return {
        "type": record.key.type,
        "target": record.key.target,
        "state": breaker.state.value,
        "forced": breaker.forced,
        "failures": breaker.failures,
        "successes": breaker.successes,
        "failuresInARow": breaker.in_a_row,
        "countedFrom": instant(breaker.counted_from),
        "openedAt": instant(breaker.opened_at),
        "retryAt": instant(breaker.retry_at),
        "probeTaskId": breaker.probe_task_id,
        "lastError": breaker.last_error,
        "waiting": record.waiting,
        "updatedAt": instant(record.updated_at),
        "updatedBy": record.updated_by,
    }


def waits_json(task: WaitingTask, record: BreakerRecord | None) -> dict[str, Any]:
    """A task that waits for a circuit breaker, and why, in words too."""
    return {
        "taskId": task.task_id,
        "since": instant(task.since),
        "breaker": None if record is None else breaker_json(record),
        "reason": _why_it_waits(task.key, None if record is None else record.breaker),
    }


def _why_it_waits(key: BreakerKey, breaker: StoredBreaker | None) -> str:
    name = f"circuit breaker {key.text}"
    if breaker is None or breaker.state is BreakerState.CLOSED:
        return f"{name} is closed again, the task is about to call"
    parts = [f"{name} is open since {instant(breaker.opened_at)}"]
    if breaker.forced:
        parts.append("by an operator, until it is closed or reset")
    elif breaker.state is BreakerState.HALF_OPEN:
        parts.append("one task tries now")
    else:
        parts.append(f"next try at {instant(breaker.retry_at)}")
    if breaker.failures:
        parts.append(f"{breaker.failures} {'failure' if breaker.failures == 1 else 'failures'}")
    if breaker.last_error is not None:
        parts.append(f"last error {breaker.last_error}")
    # The name of a type or target is its author's, and who copies the command gives it to a shell.
    return f"{', '.join(parts)}; close it: `signalbox breakers reset {quote(key.type)} {quote(key.target)}`"


def trigger_json(trigger: StoredTrigger) -> dict[str, Any]:
    return {
        "id": trigger.id,
        "name": trigger.name,
        "definitionKey": trigger.definition_key,
        "source": trigger.source.value,
        "event": trigger.event,
        "condition": stored(trigger.condition),
        "businessKey": trigger.business_key,
        "input": stored(trigger.input),
        "enabled": trigger.enabled,
        "active": trigger.active,
        "createdAt": instant(trigger.created_at),
        "createdBy": trigger.created_by,
        "updatedAt": instant(trigger.updated_at),
        "updatedBy": trigger.updated_by,
    }


def run_json(run: Run) -> dict[str, Any]:
    return {"scheduledAt": instant(run.scheduled_at), "dueAt": instant(run.due_at)}


def _schedule_status(schedule: StoredSchedule) -> str:
    if not schedule.active:
        return "inactive"
    if schedule.next_at is None:
        return "ended"
    return "paused" if schedule.paused else "active"
