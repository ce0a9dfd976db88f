"""The actions, compiled: each evaluates its values and writes what follows from them into the draft.

`perform` raises `ExpressionFailed` or `ActionFailed` where a value is of no use; step.py makes `error.execution` of it
and gives up the rest of the block, as SCXML says. `at` is the path in the document, `place` the place that gives an
obligation its key: the path of the state and an ordinal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from statechart.draft import ActionFailed, Draft
from statechart.durations import parse_duration
from statechart.effects import CreateTask, Emit, Event, Log, LogLevel, SendEvent, StartWorkflow
from statechart.env import Json, after, parse_instant

if TYPE_CHECKING:
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
    "title",
    "description",
    "labels",
)

NAMED_ADDRESSEES = ("self", "parent", "#_internal", "#_parent")


class Action(Protocol):
    @property
    def at(self) -> str:
        """Where it stands in the document."""

    def perform(self, draft: Draft) -> None: ...


@dataclass(frozen=True, slots=True)
class Assign:
    """All values see the context as it was before, then they are set in the order of the document."""

    at: str
    values: tuple[tuple[tuple[str, ...], Value], ...]

    def perform(self, draft: Draft) -> None:
        if len(self.values) == 1:
            keys, value = self.values[0]
            draft.assign(keys, value.evaluate(draft.scope))
            return
        results = [(keys, value.evaluate(draft.scope)) for keys, value in self.values]
        for keys, result in results:
            draft.assign(keys, result)


@dataclass(frozen=True, slots=True)
class Raise:
    """An internal event, taken within this macrostep; with a delay, a timer."""

    at: str
    place: str
    event: Value
    delay: Value | None
    id: Value | None

    def perform(self, draft: Draft) -> None:
        event = _event(draft, self.event)
        if self.delay is None:
            draft.queue.append(event)
            draft.note("event.raised", event=event)
        else:
            _arm(draft, self.place, self.delay, event, self.id)


@dataclass(frozen=True, slots=True)
class Send:
    """To itself: taken after this macrostep, as an event from outside. To others: an effect, or a timer first."""

    at: str
    place: str
    to: Value
    event: Value
    delay: Value | None
    id: Value | None

    def perform(self, draft: Draft) -> None:
        event = _event(draft, self.event)
        to = _addressee(draft.evaluate(self.to))
        if self.delay is not None:
            _arm(draft, self.place, self.delay, event, self.id, to=to)
        elif to is None:
            draft.mailbox.append(event)
            draft.note("event.raised", event=event)
        else:
            send_event(draft, draft.next_key(self.place), to, event)


@dataclass(frozen=True, slots=True)
class EmitEvent:
    at: str
    place: str
    event: Value

    def perform(self, draft: Draft) -> None:
        event = _event(draft, self.event)
        key = draft.next_key(self.place)
        draft.effects.append(Emit(event, key))
        draft.note("event.emitted", key=key, event=event)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancels what is open under a name: delayed events by `id`, tasks by name or `invoke` id, children by key."""

    at: str
    id: Value

    def perform(self, draft: Draft) -> None:
        name = _text(draft.evaluate(self.id), "cancel.id", "the id of what to cancel")
        for key in sorted(key for key, timer in draft.timers.items() if timer.get("id") == name):
            draft.cancel_timer(key)
        for key in sorted(
            key for key, task in draft.tasks.items() if name in (task["name"], task.get("invoke"))
        ):
            draft.cancel_task(key)
        for key in sorted(key for key, child in draft.children.items() if child["definitionKey"] == name):
            draft.cancel_child(key)


@dataclass(frozen=True, slots=True)
class WriteLog:
    at: str
    message: Value
    label: str | None
    level: LogLevel

    def perform(self, draft: Draft) -> None:
        message = draft.evaluate(self.message)
        text = message if isinstance(message, str) else render_json(message)
        text = f"{self.label}: {text}" if self.label else text
        draft.effects.append(Log(text, self.level))
        draft.note("log", message=text, level=self.level)


@dataclass(frozen=True, slots=True)
class NewTask:
    """`createTask`: outlives the state that asked for it, until it is answered or the machine ends."""

    at: str
    place: str
    spec: TaskTemplate

    def perform(self, draft: Draft) -> None:
        spec = self.spec.evaluate(draft)
        kind = _text(spec.get("type"), "task.type", "the type of the task")
        name = _text(spec.get("name") or kind, "task.name", "the name of the task")
        done = _text(
            spec.get("completionEvent") or f"done.task.{name}", "task.completion_event", "an event type"
        )
        failed = _text(
            spec.get("failureEvent") or f"error.task.{name}", "task.failure_event", "an event type"
        )
        draft.create_task(_task(draft, draft.next_key(self.place), kind, name, done, failed, spec))


@dataclass(frozen=True, slots=True)
class InvokeTask:
    """`invoke`: a task that is created when its state is entered and cancelled when it is left."""

    at: str
    place: str
    id: str
    spec: TaskTemplate
    output_key: tuple[str, ...] | None

    def perform(self, draft: Draft) -> None:
        spec = self.spec.evaluate(draft)
        kind = _text(spec.get("type"), "task.type", "the type of the task")
        name = _text(spec.get("name") or kind, "task.name", "the name of the task")
        self.cancel(draft)
        key = draft.next_key(self.place)
        done, failed = f"xstate.done.actor.{self.id}", f"xstate.error.actor.{self.id}"
        draft.create_task(_task(draft, key, kind, name, done, failed, spec, invoke=self.id))

    def cancel(self, draft: Draft) -> None:
        draft.cancel_task(draft.last_key(self.place))


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
        definition_key = _text(spec["definitionKey"], "workflow.definition_key", "a definition key")
        version, business_key = spec.get("version"), spec.get("businessKey")
        done = spec.get("completionEvent") or f"done.workflow.{definition_key}"
        failed = spec.get("failureEvent") or f"error.workflow.{definition_key}"
        draft.start_workflow(
            StartWorkflow(
                key=draft.next_key(self.place),
                definition_key=definition_key,
                version=None if version is None else _integer(version, "workflow.version", "a version"),
                input=spec.get("input"),
                business_key=None
                if business_key is None
                else _text(business_key, "workflow.business_key", "a key"),
                wait=self.wait,
                cancel_with_parent=self.cancel_with_parent,
                completion_event=_text(done, "workflow.completion_event", "an event type"),
                failure_event=_text(failed, "workflow.failure_event", "an event type"),
            )
        )


@dataclass(frozen=True, slots=True)
class ArmAfter:
    """The timer of one entry of `after`, armed on entry. `event_type` is XState's `xstate.after.DELAY.ID`."""

    at: str
    place: str
    event_type: str
    delay: Value

    def perform(self, draft: Draft) -> None:
        # XState may enter a state again that it has not left (its own history as a target): one timer is enough.
        self.disarm(draft)
        due_at = after(draft.env.now, _milliseconds(draft.evaluate(self.delay), "after"))
        draft.arm_timer(
            draft.next_key(self.place), due_at, {"type": self.event_type}, identifier=self.event_type
        )

    def disarm(self, draft: Draft) -> None:
        draft.cancel_timer(draft.last_key(self.place))


@dataclass(frozen=True, slots=True)
class EachItem:
    """What a MAP does with each of its items: the `task` or `workflow`, with `item` and `index` in expressions."""

    part: str
    template: Value


@dataclass(frozen=True, slots=True)
class TaskTemplate:
    """The fields of a task as written, with the definition's defaults; `constants` join the input as they are."""

    fields: Value
    each: EachItem | None
    constants: Mapping[str, Json]

    def evaluate(self, draft: Draft) -> dict[str, Json]:
        spec: dict[str, Json] = self.fields.evaluate(draft.scope)
        more = dict(self.constants)
        if self.each is not None:
            items = (spec.get("input") or {}).get("items")
            more[f"{self.each.part}s"] = _expanded(draft, items, self.each.template)
        return {**spec, "input": {**(spec.get("input") or {}), **more}} if more else spec


def _expanded(draft: Draft, items: Json, template: Value) -> list[Json]:
    if not isinstance(items, list):
        raise ActionFailed("map.items", f"expected a list of items, found {render_json(items)[:80]}")
    scope = draft.scope
    before = scope.extra
    expanded = []
    try:
        for index, item in enumerate(items):
            scope.extra = {**before, "item": item, "index": index}
            expanded.append(template.evaluate(scope))
    finally:
        scope.extra = before
    return expanded


def send_event(draft: Draft, key: str, to: dict[str, Json], event: Event) -> None:
    draft.effects.append(SendEvent(to, event, key))
    draft.note("event.sent", key=key, to=to, event=event)


def render_json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _arm(
    draft: Draft, place: str, delay: Value, event: Event, identifier: Value | None, to: Json = None
) -> None:
    due_at = after(draft.env.now, _milliseconds(draft.evaluate(delay), "delay"))
    name = None if identifier is None else _text(draft.evaluate(identifier), "event.id", "an id")
    draft.arm_timer(draft.next_key(place), due_at, event, to=to, identifier=name)


def _task(
    draft: Draft,
    key: str,
    kind: str,
    name: str,
    completion_event: str,
    failure_event: str,
    spec: Mapping[str, Json],
    *,
    invoke: str | None = None,
) -> CreateTask:
    priority, queue, identity = spec.get("priority"), spec.get("queue"), spec.get("idempotencyKey")
    timeout = spec.get("timeout")
    return CreateTask(
        key=key,
        type=kind,
        name=name,
        input=spec.get("input"),
        completion_event=completion_event,
        failure_event=failure_event,
        run_at=_run_at(draft, spec),
        idempotency_key=None if identity is None else _text(identity, "task.idempotency_key", "a key"),
        retry=_retry(spec),
        timeout_ms=None if timeout is None else _milliseconds(timeout, "timeout"),
        priority=None if priority is None else _integer(priority, "task.priority", "a priority"),
        queue=None if queue is None else _text(queue, "task.queue", "the name of a queue"),
        options={option: spec[option] for option in FREE_OPTIONS if option in spec},
        invoke=invoke,
    )


def _run_at(draft: Draft, spec: Mapping[str, Json]) -> datetime | None:
    if (moment := spec.get("runAt")) is not None:
        try:
            return parse_instant(_text(moment, "task.run_at", "an instant"))
        except ValueError as wrong:
            raise ActionFailed("task.run_at", f"runAt: {wrong}") from wrong
    if (delay := spec.get("delay")) is not None:
        return after(draft.env.now, _milliseconds(delay, "delay"))
    return None


def _retry(spec: Mapping[str, Json]) -> dict[str, Json] | None:
    retry, most = spec.get("retry"), spec.get("maxAttempts")
    if most is None:
        return retry
    return {**(retry or {}), "maxAttempts": _integer(most, "task.max_attempts", "a number of attempts")}


def _event(draft: Draft, event: Value) -> Event:
    found = draft.evaluate(event)
    if isinstance(found, str) and found:
        return {"type": found}
    if isinstance(found, dict) and isinstance(found.get("type"), str) and found["type"]:
        return found
    raise ActionFailed("event.invalid", f"expected an event with a type, found {render_json(found)[:80]}")


def _addressee(to: Json) -> dict[str, Json] | None:
    """None is the instance itself."""
    match to:
        case None | "self" | "#_internal":
            return None
        case "parent" | "#_parent" | {"parent": True}:
            return {"parent": True}
        case {"instanceId": str()}:
            return {"instanceId": to["instanceId"]}
        case {"definitionKey": str(), "businessKey": str()}:
            return {"definitionKey": to["definitionKey"], "businessKey": to["businessKey"]}
        case _:
            raise ActionFailed(
                "send.to",
                'expected "self", "parent", {"instanceId"} or {"definitionKey", "businessKey"}, '
                f"found {render_json(to)[:80]}",
            )


def _text(value: Json, code: str, what: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # keys and ids are often numbers in the data
    raise ActionFailed(code, f"expected {what}, found {render_json(value)[:80]}")


def _integer(value: Json, code: str, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ActionFailed(code, f"expected {what}, an integer, found {render_json(value)[:80]}")


def _milliseconds(value: Json, what: str) -> int:
    try:
        return parse_duration(value)
    except ValueError as wrong:
        raise ActionFailed("duration.invalid", f"{what}: {wrong}") from wrong
