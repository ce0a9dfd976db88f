"""The actions, compiled: each evaluates its values and writes what follows from them into the draft.

`perform` raises `ExpressionFailed` or `ActionFailed` where a value is of no use; step.py makes `error.execution` of it
and gives up the rest of the block, as SCXML says. `at` is the path in the document, `place` the place that gives an
obligation its key: the path of the state and an ordinal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from statechart.draft import ActionFailed, Draft
from statechart.durations import parse_duration
from statechart.effects import Emit, Event, Log, LogLevel, SendEvent
from statechart.env import Json, after

if TYPE_CHECKING:
    from statechart.templates import Value

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
            draft.mailbox.append((event, None))
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
        emit(draft, draft.next_key(self.place), event)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancels what is open under a name: delayed events by `id`, tasks by name or `invoke` id, children by key."""

    at: str
    id: Value

    def perform(self, draft: Draft) -> None:
        name = as_text(draft.evaluate(self.id), "cancel.id", "the id of what to cancel")
        for key in sorted(key for key, timer in draft.timers.items() if _answers_to(timer, name)):
            draft.cancel_timer(key)
        for key in sorted(
            key for key, task in draft.tasks.items() if name in (task["name"], task.get("invoke"))
        ):
            draft.cancel_task(key)
        for key in sorted(key for key, child in draft.children.items() if child["definitionKey"] == name):
            draft.cancel_child(key)


def _answers_to(timer: Mapping[str, Json], name: str) -> bool:
    return timer.get("name") == name or (timer.get("id") == name and "isReleased" not in timer)


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
        write_log(draft, text, self.level)


@dataclass(frozen=True, slots=True)
class ArmAfter:
    """The timer of one entry of `after`, armed on entry. `event_type` is XState's `xstate.after.DELAY.ID`."""

    at: str
    place: str
    event_type: str
    delay: Value

    def perform(self, draft: Draft) -> None:
        # A state may be entered again that was not left (its own history as a target). XState forgets the timer that
        # runs already, and both fire.
        draft.release_timer(draft.last_key(self.place))
        due_at = after(draft.env.now, as_milliseconds(draft.evaluate(self.delay), "after"))
        draft.arm_timer(draft.next_key(self.place), due_at, {"type": self.event_type}, id=self.event_type)

    def disarm(self, draft: Draft) -> None:
        key = draft.last_key(self.place)
        if "isReleased" not in draft.timers.get(key, ()):
            draft.cancel_timer(key)


def emit(draft: Draft, key: str, event: Event) -> None:
    draft.effects.append(Emit(event, key))
    draft.note("event.emitted", key=key, event=event)


def write_log(draft: Draft, message: str, level: LogLevel) -> None:
    draft.effects.append(Log(message, level))
    draft.note("log", message=message, level=level)


def send_event(draft: Draft, key: str, to: dict[str, Json], event: Event) -> None:
    draft.effects.append(SendEvent(to, event, key))
    draft.note("event.sent", key=key, to=to, event=event)


def render_json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _arm(
    draft: Draft, place: str, delay: Value, event: Event, identifier: Value | None, to: Json = None
) -> None:
    due_at = after(draft.env.now, as_milliseconds(draft.evaluate(delay), "delay"))
    name = None if identifier is None else as_text(draft.evaluate(identifier), "event.id", "an id")
    if name is not None:
        draft.release_id(name)
    draft.arm_timer(draft.next_key(place), due_at, event, to=to, id=name)


def _event(draft: Draft, event: Value) -> Event:
    return as_event(draft.evaluate(event))


def as_event(found: Json) -> Event:
    """An event from its type or its object. Raises `ActionFailed` for anything else."""
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


def as_text(value: Json, code: str, what: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # keys and ids are often numbers in the data
    raise ActionFailed(code, f"expected {what}, found {render_json(value)[:80]}")


def as_milliseconds(value: Json, what: str) -> int:
    try:
        return parse_duration(value)
    except ValueError as wrong:
        raise ActionFailed("duration.invalid", f"{what}: {wrong}") from wrong


def as_integer(value: Json, code: str, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ActionFailed(code, f"expected {what}, an integer, found {render_json(value)[:80]}")
