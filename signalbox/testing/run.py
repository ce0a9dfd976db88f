"""One instance in a test: what one says to it, what one sees of it, and what is said when it is not as expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import statechart
from common.canonical import clean, dumps, read
from common.clock import instant_text
from common.commands.incidents import Way, refuse_ended_in_error
from common.commands.send import MAX_NOTE, event_text, illegal
from common.commands.suggestions import WORDS, Word, comment_text, entry_of, event_of, source_of
from common.db.tables import AttemptOutcome, InboxType, SuggestionStatus
from common.decide import VERBS
from common.decide_compensation import is_running
from common.errors import Conflict, Invalid, did_you_mean
from common.lifecycle import InstanceStatus, TaskStatus, instance_can
from common.polls import POLL, Counted
from common.store import inbox
from common.store.suggestions import Suggestion
from signalbox.testing import outcomes
from signalbox.testing.answers import Answer, fails, succeeds
from signalbox.testing.history import LAST, History
from signalbox.testing.memory import Incident, Instance, Task
from signalbox.testing.ways_out import ways_out
from signalbox.testing.world import World
from statechart.compensation import is_there_to_undo
from statechart.durations import parse_duration

Json = Any
ACTOR = "test"
_UNSAID: Any = object()


class Unexpected(AssertionError):
    """What a test expects is not so. The message says what was expected, what was found, and what happened last."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as it stands; `attempts` counts those that count, `outcomes` tells how each ended (None: it runs).

    Of a POLL, `polls` is how many checks there were, and `input` that of its inner task.
    """

    name: str
    type: str
    status: TaskStatus
    attempts: int
    input: Json
    output: Json
    error: dict[str, Json] | None
    run_at: datetime
    outcomes: tuple[AttemptOutcome | None, ...]
    polls: int | None = None


@dataclass(frozen=True, slots=True)
class IncidentView:
    """Why the instance stopped."""

    code: str
    message: str
    detail: dict[str, Json]


@dataclass(frozen=True, slots=True)
class SuggestionView:
    """An event that a model would have sent; its status: open, accepted, rejected, expired."""

    event: str
    payload: dict[str, Json]
    reason: str
    status: str


class Run:
    """An instance. Whatever is said to it is taken at once, with everything that is due because of it.

    `with run.together():` lets several things be accepted before the first of them is taken.
    """

    def __init__(self, world: World, instance: Instance) -> None:
        self._world = world
        self._instance = instance
        self._gathers = False

    # -- time -------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The virtual time, aware UTC."""
        return self._world.memory.now

    def settle(self, *, advance: bool = False) -> Run:
        """Do everything that is due now. With `advance`, let time go on as long as answered tasks are tried again or run."""
        self._world.settle()
        for _ in range(_MAX_JUMPS):
            due = self._world.next_work() if advance else None
            if due is None:
                return self
            self._world.advance_to(due)
        raise self._unexpected(
            "no task to be tried again", f"more to do after {_MAX_JUMPS:,} moves of the clock"
        )

    def advance(self, duration: str | int | timedelta | None = None) -> Run:
        """Let time go by ("7d", milliseconds or a timedelta), doing what falls due at its own time.

        Without a duration: up to what happens next by itself. Raises `Unexpected` where nothing would.
        """
        if duration is None:
            self._world.settle()
            due = self._world.next_due()
            if due is None:
                raise self._unexpected("something to wait for: a timer or another try", "nothing")
            self._world.advance_to(due)
        else:
            if not isinstance(duration, timedelta):
                duration = timedelta(milliseconds=parse_duration(duration))
            self._world.advance_to(self.now + duration)
        return self

    @contextmanager
    def together(self) -> Iterator[Run]:
        """Accept all that is said within before the first of it is taken, as if it came between two looks of the engine."""
        self._gathers = True
        try:
            yield self
        finally:
            self._gathers = False
        self._world.settle()

    # -- saying things ----------------------------------------------------------------------------------------------

    def send(self, event: str | Mapping[str, Json], /, *, by: str = ACTOR, **members: Json) -> Run:
        """Send an event: its type and members, or the whole event. Checked as the API checks it."""
        given = {"type": event, **members} if isinstance(event, str) else {**event, **members}
        text = event_text(given, limits=self._world.limits)
        self._world.memory.contract(self._instance.held.definition_id).check_event(read(text))
        return self._say("send", InboxType.EVENT, text, by, lane=inbox.ORDINARY)

    def note(self, note: str, *, by: str = ACTOR) -> Run:
        """Append a note to the history."""
        if not 0 < len(note) <= MAX_NOTE:
            raise Invalid(f"note: expected text of 1 to {MAX_NOTE} characters", code="note.invalid")
        return self._say("note", InboxType.NOTE, {"note": clean(note)}, by)

    def pause(self, reason: str | None = None, *, by: str = ACTOR) -> Run:
        """Let it stand still."""
        return self._command(InboxType.PAUSE, {"reason": reason}, by)

    def resume(self, reason: str | None = None, *, by: str = ACTOR) -> Run:
        """Let it go on."""
        return self._command(InboxType.RESUME, {"reason": reason}, by)

    def step(self, *, by: str = ACTOR) -> Run:
        """Let a paused instance take one thing that waits."""
        return self._command(InboxType.STEP, {}, by)

    def cancel(self, reason: str | None = None, *, compensate: bool = True, by: str = ACTOR) -> Run:
        """End it; what it has done is undone first where its definition says so, unless `compensate` is false."""
        if compensate and self.status is InstanceStatus.FAILED and is_running(self._snapshot or None):
            raise Conflict(
                f"cannot cancel instance {self.id}: one of its compensations has failed; retry it, skip it, "
                "or cancel without compensation",
                code="compensation.stopped",
            )
        said = {} if compensate else {"compensate": False}
        return self._command(InboxType.CANCEL, {"reason": reason, **said}, by)

    def compensate(self, reason: str | None = None, *, by: str = ACTOR) -> Run:
        """Undo what it has done, and end it: a failed one failed, any other cancelled."""
        self._require("compensate")
        failed = [one.detail.get("key", "") for one in self._open_incidents()]
        snapshot = self._snapshot
        if (
            not snapshot
            or snapshot["status"] != "active"
            or not is_there_to_undo(self._chart, snapshot, without=failed)
        ):
            raise Conflict(
                f"cannot compensate instance {self.id}: nothing that it has done says how it is undone",
                code="compensation.nothing",
            )
        body = {"error": self.error, "reason": reason, "verb": "compensate"}
        return self._say("compensate", InboxType.CANCEL, body, by)

    def retry(self, reason: str | None = None, *, by: str = ACTOR) -> Run:
        """Try again what a failed instance failed on."""
        self._require("retry")
        return self._resolve("retry", None, reason, by)

    def skip(self, output: Json = None, *, reason: str | None = None, by: str = ACTOR) -> Run:
        """Go on without what a failed instance failed on: its task answered with `output`, its event left out."""
        if not self._open_incidents():
            raise self._unexpected("an open incident", f'none; the instance is "{self.status.value}"')
        return self._resolve("skip", clean(output), reason, by)

    def restart(
        self,
        state: str | None = None,
        *,
        context: Mapping[str, Json] | None = None,
        reason: str | None = None,
        by: str = ACTOR,
    ) -> Run:
        """Leave where it stands and enter `state`, a dotted path (None: the initial one)."""
        self._require("restart")
        if not self._snapshot:
            raise Conflict(
                f"cannot restart instance {self.id}: it has not started; retry it",
                code="instance.not_started",
            )
        paths = [
            node.path for node in self._chart.nodes if node.parent is not None and node.type != "history"
        ]
        if state is not None and state not in paths:
            known = ", ".join(paths[:20])
            raise Invalid(
                f'state: expected one of {known}, found "{state}"{did_you_mean(state, paths)}',
                code="restart.unknown_state",
            )
        self._refuse_held_key()
        body = {"context": None if context is None else clean(context), "reason": reason, "state": state}
        return self._command(InboxType.RESTART, body, by)

    # -- answering by hand --------------------------------------------------------------------------------------------

    def complete(self, name: str, output: Json = None) -> Run:
        """Let an open task succeed: the attempt that runs, or one that begins now. A person's output has to fit its `form`."""
        return self._report(name, succeeds(output))

    def fail(self, name: str, code: str = "handler.failed", message: str = "", **more: Any) -> Run:
        """Let an attempt of an open task fail (`data`, `retryable` as in `fails`); whether it is tried again, its policy says."""
        return self._report(name, fails(code, message, **more))

    def complete_child(self, definition_key: str, output: Json = None) -> Run:
        """Let a child that the test plays complete."""
        return self._end_child(definition_key, succeeds(output))

    def fail_child(self, definition_key: str, code: str = "child.broke", message: str = "") -> Run:
        """Let a child that the test plays stop with an incident."""
        return self._end_child(definition_key, fails(code, message))

    # -- what models suggest --------------------------------------------------------------------------------------

    def accept(self, event: str, *, comment: str | None = None, by: str = ACTOR) -> Run:
        """Accept the open suggestion of an event: it is sent, as yours."""
        found = self._open_suggestion(event)
        text = event_text(event_of(found), limits=self._world.limits)
        self._require("send")
        self._world.memory.contract(self._instance.held.definition_id).check_event(read(text))
        body = {**read(text), "source": source_of(found)}
        self._world.accept(self.id, InboxType.EVENT, body, lane=inbox.ORDINARY, actor=by)
        return self._decide(found, "accept", comment, by)

    def reject(self, event: str, *, comment: str | None = None, by: str = ACTOR) -> Run:
        """Reject the open suggestion of an event: nothing is sent."""
        return self._decide(self._open_suggestion(event), "reject", comment, by)

    # -- seeing -------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return str(self._instance.id)

    @property
    def status(self) -> InstanceStatus:
        return self._instance.held.status

    @property
    def configuration(self) -> list[str]:
        """The active states that have no active child, as dotted paths."""
        return list(self._instance.configuration)

    @property
    def context(self) -> dict[str, Json]:
        """The data, a copy."""
        return dict(self._snapshot.get("context") or {})

    @property
    def input(self) -> Json:
        """What it was started with."""
        return read(self._instance.input)

    @property
    def output(self) -> Json:
        """What it completed with."""
        return self._instance.output

    @property
    def error(self) -> dict[str, Json] | None:
        """Why it failed or timed out: {code, message, data}."""
        error = self._instance.held.error
        return None if error is None else dict(read(error))

    @property
    def incident(self) -> IncidentView | None:
        """The open incident that stopped it."""
        found = self._open_incidents()
        return IncidentView(found[-1].code, found[-1].message, dict(found[-1].detail)) if found else None

    @property
    def path(self) -> list[str]:
        """Every state that was entered, in order; parents before their children."""
        entered = (entry["entered"] for entry in self.history.of_type("state.changed"))
        return [state for states in entered for state in states if state != _ROOT]

    @property
    def history(self) -> History:
        """What happened so far."""
        rows = self._world.memory.history
        return History.of([row for row in rows if row["instance_id"] == self.id])

    @property
    def metadata(self) -> dict[str, Json]:
        """What its handlers share by `context.metadata`."""
        texts = self._world.memory.metadata.get(self._instance.id, {})
        return {key: read(text) for key, text in sorted(texts.items())}

    @property
    def emitted(self) -> list[dict[str, Json]]:
        """The events that `emit` has published."""
        return [entry["event"] for entry in self.history.of_type("event.emitted")]

    @property
    def logged(self) -> list[str]:
        """The messages of `log`."""
        return [entry["message"] for entry in self.history.of_type("log")]

    @property
    def tasks(self) -> list[TaskView]:
        """Every task that it ever asked for, in order."""
        return [_view(task) for task in self._tasks()]

    def task(self, name: str) -> TaskView:
        """The newest task of a name, or of a type; an item of a MAP by its name and index (`ship#0`).

        Raises `Unexpected` where it never asked for one.
        """
        return _view(self._find_task(name, lambda _task: True, "task"))

    @property
    def suggestions(self) -> list[SuggestionView]:
        """Everything that models have suggested to it, in order."""
        return [
            SuggestionView(one.event, read(one.payload), one.reason, one.status)
            for one in self._suggestions()
        ]

    @property
    def timers(self) -> dict[str, datetime]:
        """When its timers fire, by key."""
        return {
            timer.key: timer.due_at for timer in self._world.memory.timers if timer.instance_id == self.id
        }

    @property
    def children(self) -> list[Run]:
        """The instances that it has started, in order."""
        found = self._world.memory.instances.values()
        return [Run(self._world, one) for one in found if one.held.parent_id == self.id]

    def child(self, definition_key: str) -> Run:
        """The newest child of a definition. Raises `Unexpected` where it has none."""
        found = [one for one in self.children if one._instance.held.definition_key == definition_key]
        if not found:
            keys = [one._instance.held.definition_key for one in self.children]
            raise self._unexpected(f'a child of "{definition_key}"', _listed("children of", keys))
        return found[-1]

    @property
    def story(self) -> str:
        """Where it stands, what it waits for, and the last ten entries of its history: for the message of an `assert`."""
        history = self.history
        lines = [
            f'instance of "{self._instance.held.definition_key}": {self.status.value} in '
            f"{_shown(self.configuration)} at {instant_text(self.now)}",
            *self._waits(),
            f"last {min(LAST, len(history))} of {len(history)} history entries:",
            str(history[-LAST:]),
        ]
        return "\n".join(lines)

    def expect(
        self,
        *,
        status: str = _UNSAID,
        configuration: list[str] = _UNSAID,
        context: Mapping[str, Json] = _UNSAID,
        output: Json = _UNSAID,
        path: list[str] = _UNSAID,
        incident: str | None = _UNSAID,
    ) -> Run:
        """Assert several things at once. Of `context` the members that are given are compared, of an incident its code."""
        found_context = self.context
        said = {
            "status": (status, self.status.value),
            "configuration": (configuration, self.configuration),
            "output": (output, self.output),
            "path": (path, self.path),
            "incident": (incident, self.incident.code if self.incident else None),
        }
        if context is not _UNSAID:
            said |= {f"context.{key}": (value, found_context.get(key)) for key, value in context.items()}
        for what, (expected, found) in said.items():
            if expected is not _UNSAID and expected != found:
                raise self._unexpected(f"{what} {_shown(expected)}", _shown(found))
        return self

    def __repr__(self) -> str:
        return f"<Run of {self._instance.held.definition_key}: {self.status.value} in {self.configuration}>"

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _snapshot(self) -> dict[str, Json]:
        text = self._instance.held.snapshot
        return {} if text is None else dict(read(text))

    @property
    def _chart(self) -> statechart.Chart:
        chart = self._world.memory.definitions[self._instance.held.definition_id].chart
        assert chart is not None, "what does not compile is not loaded"  # noqa: S101
        return chart

    def _tasks(self) -> list[Task]:
        return [task for task in self._world.memory.tasks.values() if task.instance_id == self.id]

    def _open_incidents(self) -> list[Incident]:
        return self._world.memory.open_incidents(self.id)

    def _suggestions(self) -> list[Suggestion]:
        return [one for one in self._world.memory.suggestions if one.instance_id == self.id]

    def _open_suggestion(self, event: str) -> Suggestion:
        found = self._suggestions()
        for one in reversed(found):
            if one.event == event and one.status == SuggestionStatus.OPEN.value:
                return one
        told = [f"{one.event} ({one.status})" for one in found]
        raise self._unexpected(f'an open suggestion of "{event}"', _listed("suggestions", told))

    def _decide(self, found: Suggestion, word: Word, comment: str | None, by: str) -> Run:
        memory, said, status = self._world.memory, comment_text(comment), WORDS[word]
        decided = replace(found, status=status.value, decided_at=memory.now, decided_by=by, comment=said)
        memory.suggestions[memory.suggestions.index(found)] = decided
        return self._say("note", InboxType.RECORD, {"entry": entry_of(found, status, said)}, by)

    def _require(self, verb: str) -> None:
        held = self._instance.held
        if not instance_can(verb, held.status):
            raise illegal(verb, held.id, held.status, held.finished_at)

    def _say(self, verb: str, type: InboxType, body: Any, by: str, *, lane: int = inbox.CONTROL) -> Run:
        self._require(verb)
        self._world.accept(self.id, type, body, lane=lane, actor=by)
        return self._settled()

    def _settled(self) -> Run:
        if not self._gathers:
            self._world.settle()
        return self

    def _command(self, type: InboxType, body: Mapping[str, Json], by: str) -> Run:
        return self._say(VERBS[type], type, body, by)

    def _resolve(self, way: Way, output: Json, reason: str | None, by: str) -> Run:
        refuse_ended_in_error(self.id, self._instance.held.snapshot)
        self._refuse_held_key()
        chosen = ways_out(self._world.memory, self.id, way=way, output=output)
        return self._command(InboxType.RETRY, {"incidents": chosen, "reason": reason}, by)

    def _refuse_held_key(self) -> None:
        """As `common.commands.incidents.refuse_held_key` does: a failed instance has given its business key back."""
        held = self._instance.held
        if held.business_key is None or held.status is not InstanceStatus.FAILED:
            return
        holder = self._world.memory.find_live(held.definition_key, held.business_key)
        if holder is not None:
            raise Conflict(
                f'instance {self.id} cannot go on now: its business key "{held.business_key}" is held by instance {holder}; '
                "wait until that has ended, or cancel one of the two",
                code="instance.business_key_held",
            )

    def _report(self, name: str, answer: Answer) -> Run:
        # An item whose turn has not come is nobody's to end; where there are no others, it is told why.
        is_next = any(task.is_open and not task.gated for task in self._tasks() if name in _names(task))
        task = self._find_task(name, lambda task: task.is_open and not (is_next and task.gated), "open task")
        if task.type == "WORKFLOW":
            raise self._unexpected(
                f'task "{name}" to be one that somebody can end', "one that waits for its child; end that one"
            )
        why_not = outcomes.describe_hold(task, self._world.memory)
        if task.status is TaskStatus.PENDING:
            if why_not is not None:
                raise self._unexpected(f'task "{name}" to be one that somebody may begin', why_not)
            outcomes.claim(self._world.memory, task)
        self._world.report(task, answer)
        return self._settled()

    def _find_task(self, name: str, is_wanted: Callable[[Task], bool], what: str) -> Task:
        tasks = self._tasks()
        for task in reversed(tasks):
            if name in _names(task) and is_wanted(task):
                return task
        told = [f"{task.name} ({task.status.value})" for task in tasks]
        hint = did_you_mean(name, {task.name for task in tasks} - {name})
        raise self._unexpected(f'{what} "{name}"{hint}', _listed("tasks", told))

    def _end_child(self, definition_key: str, answer: Answer) -> Run:
        child = self.child(definition_key)
        if not self._world.is_stand_in(child._instance):
            raise self._unexpected(
                f'child "{definition_key}" to be played by the test',
                "one that runs its own definition; send it events instead",
            )
        if child.status is not InstanceStatus.WAITING:
            raise self._unexpected(f'child "{definition_key}" to be waiting', child.status.value)
        self._world.end_stand_in(child._instance, answer)
        return self._settled()

    def _unexpected(self, expected: str, found: str) -> Unexpected:
        return Unexpected(f"expected {expected}\nfound {found}\n\n{self.story}")

    def _waits(self) -> Iterator[str]:
        for task in self._tasks():
            if task.is_open:
                why = outcomes.describe_hold(task, self._world.memory)
                yield f'open task "{task.name}" ({task.type}), {task.status.value}' + (
                    f": {why}" if why else ""
                )
        for key, due_at in self.timers.items():
            yield f'timer "{key}" fires at {instant_text(due_at)}'
        if self.incident is not None:
            yield f"incident {self.incident.code}: {self.incident.message}"
        if self._instance.accepts_events:
            events = statechart.explain(self._chart, self._snapshot)["events"]
            yield f"it takes the events {', '.join(event['type'] for event in events)}"


_ROOT = "(machine)"
_MAX_JUMPS = 10_000


def _names(task: Task) -> tuple[str | None, ...]:
    """What a test may call a task: its name or type; an item of a MAP by its name and index, too."""
    item = None if task.parent_task_id is None else f"{task.name}#{task.item_index}"
    return (task.name, task.asked_as, task.type, item)


def _view(task: Task) -> TaskView:
    output = None if task.output is None else read(task.output)
    tried = tuple(attempt.outcome for attempt in task.attempts)
    return TaskView(
        task.name,
        task.asked_as or task.type,
        task.status,
        task.attempt,
        read(task.input),
        output,
        task.error,
        task.run_at,
        tried,
        Counted.read(task.state).polls if task.asked_as == POLL else None,
    )


def _listed(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(names)}" if names else f"no {what.removesuffix(' of')}"


def _shown(value: Json) -> str:
    try:
        return dumps(value)
    except Invalid:  # what a test expects need not be JSON
        return repr(value)
