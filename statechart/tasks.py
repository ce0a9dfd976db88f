"""Tasks and child workflows, compiled: what `createTask`, `invoke` and `startWorkflow` ask for.

A task is written as a template and filled in when its place is reached. What needs nobody else is done here: a TIMER
is a timer, and the instant types are answered within the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from statechart.actions import (
    as_event,
    as_milliseconds,
    as_text,
    emit,
    render_json,
    write_log,
)
from statechart.ai import AI, AI_EVENTS, event_schemas
from statechart.draft import ActionFailed, Draft
from statechart.effects import LOG_LEVELS, CreateTask, Event, LogLevel, Where
from statechart.env import Json, after, read_instant
from statechart.limits import read_limit
from statechart.maps import EachItem, open_map
from statechart.naming import MOST_INDEXED, is_indexed, js_order
from statechart.numbers import read_whole
from statechart.people import arm_due, read_due, read_people
from statechart.polls import POLL, as_asked_again
from statechart.retry import read_attempts, read_member
from statechart.timeouts import read_timeouts
from statechart.workflows import child_of, child_of_task, definition_key_of

if TYPE_CHECKING:
    from statechart.compensation import Compensator
    from statechart.expressions import Scope
    from statechart.templates import Value

# What a task may say that has no place of its own in `CreateTask`; handed on under these names.
FREE_OPTIONS = (
    "policy",
    "assignee",
    "candidates",
    "form",
    "due",
    "fourEyes",
    "onLost",
    "limit",
    "breaker",
    "title",
    "description",
    "labels",
    "links",
)
_FREE = frozenset(FREE_OPTIONS)

PRIORITIES = range(-32_768, 32_768)
"""What the column of a task holds. PostgreSQL refuses more and SQLite does not; the step says the same on both."""


def read_priority(value: Json) -> int:
    """How urgent a task is among those of its tenant. Raises `ValueError`."""
    return read_whole(value, PRIORITIES[0], PRIORITIES[-1])


READERS: Mapping[str, tuple[str, Callable[[Json], Any]]] = {
    "runAt": ("task.run_at", read_instant),
    "priority": ("task.priority", read_priority),
    "maxAttempts": ("task.max_attempts", read_attempts),
}
"""By option: the code of what is wrong with it, and what reads it or raises `ValueError`. The door asks them of literals."""

INSTANT_TYPES = ("SET", "TRANSFORM", "LOG", "EMIT")  # done inside the step


@dataclass(frozen=True, slots=True)
class NewTask:
    """`createTask`: outlives the state that asked for it, until it is answered or the machine ends."""

    at: str
    place: str
    spec: TaskTemplate
    output_key: tuple[str, ...] | None = None
    compensate: Compensator | None = None

    def perform(self, draft: Draft) -> None:
        spec, secrets = self.spec.evaluate(draft)
        kind = as_text(spec.get("type"), "task.type", "the type of the task")
        name = as_text(spec.get("name") or kind, "task.name", "the name of the task")
        done = as_text(
            spec.get("completionEvent") or f"done.task.{name}", "task.completion_event", "an event type"
        )
        failed = as_text(
            spec.get("failureEvent") or f"error.task.{name}", "task.failure_event", "an event type"
        )
        task = task_of(draft, draft.next_key(self.place), kind, name, done, failed, spec, secrets)
        ask(draft, task, self.spec.each)


@dataclass(frozen=True, slots=True)
class InvokeTask:
    """`invoke`: a task that is created when its state is entered and cancelled when it is left."""

    at: str
    place: str
    id: str
    spec: TaskTemplate
    output_key: tuple[str, ...] | None
    result_names: tuple[str, ...]  # as which expressions read its result
    compensate: Compensator | None = None

    def perform(self, draft: Draft) -> None:
        spec, secrets = self.spec.evaluate(draft)
        kind = as_text(spec.get("type"), "task.type", "the type of the task")
        name = as_text(spec.get("name") or kind, "task.name", "the name of the task")
        self.cancel(draft)
        key = draft.next_key(self.place)
        done, failed = f"xstate.done.actor.{self.id}", f"xstate.error.actor.{self.id}"
        task = task_of(draft, key, kind, name, done, failed, spec, secrets, invoke=self.id)
        ask(draft, task, self.spec.each)

    def cancel(self, draft: Draft) -> None:
        if not draft.tasks and not draft.timers:
            return
        key = draft.last_key(self.place)
        draft.cancel_task(key)
        draft.cancel_timer(key)  # the work of a TIMER is a timer


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """`startWorkflow`: a child instance; awaited unless `wait` is false."""

    at: str
    place: str
    spec: Value
    wait: bool
    cancel_with_parent: bool

    def perform(self, draft: Draft) -> None:
        spec = draft.evaluate(self.spec)
        definition_key = definition_key_of(spec)
        done = spec.get("completionEvent") or f"done.workflow.{definition_key}"
        failed = spec.get("failureEvent") or f"error.workflow.{definition_key}"
        child = child_of(
            draft,
            draft.next_key(self.place),
            {**spec, "wait": self.wait, "cancelWithParent": self.cancel_with_parent},
            completion_event=as_text(done, "workflow.completion_event", "an event type"),
            failure_event=as_text(failed, "workflow.failure_event", "an event type"),
        )
        draft.start_workflow(child)


class Filled(NamedTuple):
    """A template's fields for one task, and where in its input secrets are to be resolved."""

    fields: dict[str, Json]
    secrets: tuple[Where, ...]


@dataclass(frozen=True, slots=True)
class TaskTemplate:
    """The fields of a task as written, with the definition's defaults; `constants` join the input as they are."""

    fields: Value
    each: EachItem | None
    constants: Mapping[str, Json]
    secrets: tuple[Where, ...] = field(init=False)

    def __post_init__(self) -> None:
        secrets = tuple(where[1:] for where in self.fields.secrets if where[0] == "input")
        object.__setattr__(self, "secrets", secrets)

    def evaluate(self, draft: Draft) -> Filled:
        """Raises `ExpressionFailed`."""
        return self.fill(draft.scope)

    def fill(self, scope: Scope) -> Filled:
        """The same in a scope that may know more, such as an item of a MAP."""
        spec: dict[str, Json] = self.fields.evaluate(scope)
        if self.constants:
            spec = {**spec, "input": {**(spec.get("input") or {}), **self.constants}}
        return Filled(spec, self.secrets)


def ask(draft: Draft, task: CreateTask, each: EachItem | None) -> None:
    """Ask for the task, or do here what needs nobody else: a TIMER is a timer, the instant types are done at once."""
    if task.type == "TIMER":
        arm_timer_task(draft, task)
    elif task.type == "WORKFLOW":
        start_workflow_task(draft, task)
    elif task.type == "MAP":
        if not open_map(draft, task, each, partial(_item_task, draft)):
            draft.create_task(task, is_instant=True)
            draft.mailbox.append((completion(task, {"errors": [], "results": []}), task.key))
    elif task.type in INSTANT_TYPES:
        answer = completion(task, perform_instantly(draft, task))
        draft.create_task(task, is_instant=True)
        draft.mailbox.append((answer, task.key))
    elif task.type == POLL:
        draft.create_task(as_asked_again(task, draft.env.now))
    else:
        draft.create_task(task)
        if task.type == "HUMAN":
            arm_due(draft, task)


def arm_timer_task(draft: Draft, task: CreateTask) -> None:
    """A TIMER waits until its `runAt`, for its `delay`, or for the `duration` of its input."""
    due_at = task.run_at
    if due_at is None:
        duration = task.input.get("duration") if isinstance(task.input, Mapping) else None
        due_at = after(draft.env.now, as_milliseconds(duration, "duration"))
    draft.arm_timer(task.key, due_at, completion(task, None), name=task.invoke or task.name)


def start_workflow_task(draft: Draft, task: CreateTask) -> None:
    """A WORKFLOW waits for its child, and ends with it; one that does not wait is done as soon as it is asked for."""
    child = child_of_task(draft, task)
    if child.wait:
        draft.create_workflow_task(task, child)
        return
    draft.create_task(task, is_instant=True)
    draft.start_workflow(child)
    output = {"instanceId": child.instance_id, "status": "pending", "output": None}
    draft.mailbox.append((completion(task, output), task.key))


def completion(task: CreateTask, output: Json) -> Event:
    """The event that a task sends which the kernel itself has done."""
    return {
        "type": task.completion_event,
        "output": output,
        "task": {"name": task.name, "type": task.type, "key": task.key},
    }


def perform_instantly(draft: Draft, task: CreateTask) -> Json:
    """What the instant types do; returns their output. Their input is evaluated already.

    SET puts each value of its input into the context, by path. TRANSFORM gives its input back, made of expressions
    as it is. LOG writes `message`, EMIT publishes `event`.
    """
    given = task.input if isinstance(task.input, Mapping) else {}
    match task.type:
        case "SET":
            for path, value in js_order(given):
                keys = tuple(path.split("."))
                if "" in keys:
                    raise ActionFailed("assign.path", f"expected a path in the context, found {path!r}")
                draft.assign(keys, value)
        case "LOG":
            message = given.get("message")
            text = message if isinstance(message, str) else render_json(message)
            levels: dict[Json, LogLevel] = {level: level for level in LOG_LEVELS}
            level = levels.get(given.get("level", "info"), "info")
            write_log(draft, text, level)
        case "EMIT":
            emit(draft, task.key, as_event(given.get("event", given)))
            return None
        case _:
            pass
    return task.input


def task_of(
    draft: Draft,
    key: str,
    kind: str,
    name: str,
    completion_event: str,
    failure_event: str,
    spec: Mapping[str, Json],
    secrets: tuple[Where, ...],
    *,
    invoke: str | None = None,
) -> CreateTask:
    """The task that a filled template asks for. Raises `ActionFailed`."""
    queue, identity = spec.get("queue"), spec.get("idempotencyKey")
    _require_indexed(kind, "task.type", "the type of a task")
    timeouts = read_timeouts(spec)
    options: dict[str, Json] = {}
    if not _FREE.isdisjoint(spec):
        options = {option: spec[option] for option in FREE_OPTIONS if option in spec}
    if kind == AI:
        draft.counts.setdefault(AI_EVENTS, 0)
        schemas = event_schemas(draft.chart.document, options.get("policy"))
        options |= {"eventSchemas": schemas} if schemas else {}
    if options.get("limit") is not None:
        read_limit(kind, options["limit"])
    due = None
    if kind == "HUMAN":
        read_people(options)
        due = read_due(options.get("due"), draft.env.now)
    return CreateTask(
        key=key,
        type=kind,
        name=name,
        input=spec.get("input"),
        completion_event=completion_event,
        failure_event=failure_event,
        run_at=_run_at(draft, spec) if "runAt" in spec or "delay" in spec else None,
        idempotency_key=None if identity is None else _identity(identity),
        retry=_retry(spec) if "retry" in spec or "maxAttempts" in spec else None,
        timeout_ms=timeouts.start_to_close,
        heartbeat_ms=timeouts.heartbeat,
        start_within_ms=timeouts.schedule_to_start,
        finish_within_ms=timeouts.schedule_to_close,
        priority=_read(spec, "priority"),
        queue=None if queue is None else as_text(queue, "task.queue", "the name of a queue"),
        options=options,
        invoke=invoke,
        secrets=secrets,
        due_at=None if due is None else due.at,
    )


def _item_task(draft: Draft, key: str, filled: Filled) -> CreateTask:
    """The task of an item of a MAP. Its end is no event of its own."""
    kind = as_text(filled.fields.get("type"), "task.type", "the type of the task")
    name = as_text(filled.fields.get("name") or kind, "task.name", "the name of the task")
    return task_of(draft, key, kind, name, "", "", filled.fields, filled.secrets)


def _identity(value: Json) -> str:
    return _require_indexed(as_text(value, "task.idempotency_key", "a key"), "task.idempotency_key", "a key")


def _require_indexed(text: str, code: str, what: str) -> str:
    if not is_indexed(text):
        raise ActionFailed(
            code, f"expected {what} of at most {MOST_INDEXED:,} bytes, found one of {len(text):,} characters"
        )
    return text


def _run_at(draft: Draft, spec: Mapping[str, Json]) -> datetime | None:
    if spec.get("runAt") is not None:
        moment: datetime = _read(spec, "runAt")
        return moment
    if (delay := spec.get("delay")) is not None:
        return after(draft.env.now, as_milliseconds(delay, "delay"))
    return None


def _retry(spec: Mapping[str, Json]) -> dict[str, Json] | None:
    retry, most = spec.get("retry"), _read(spec, "maxAttempts")
    for name, value in (retry or {}).items():
        try:
            read_member(name, value)
        except ValueError as wrong:
            raise ActionFailed("retry.invalid", f"retry.{name}: {wrong}") from wrong
    return retry if most is None else {**(retry or {}), "maxAttempts": most}


def _read(spec: Mapping[str, Json], option: str) -> Any:
    value = spec.get(option)
    if value is None:
        return None
    code, read = READERS[option]
    try:
        return read(value)
    except ValueError as wrong:
        raise ActionFailed(code, f"{option}: {wrong}") from wrong
