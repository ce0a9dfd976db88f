"""What a HUMAN task says for people: whose work it is, who may take it, what they are shown, what they may answer.

Read twice: at the door as far as it is written out, and whole when the task is asked for. With a `due` the kernel arms
timers that belong to the task: they end with it, and their events come to the machine like those of any timer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from statechart.actions import render_json
from statechart.draft import ActionFailed, Draft
from statechart.durations import parse_duration
from statechart.effects import CreateTask
from statechart.env import Json, after, format_instant, read_instant
from statechart.templates import is_template

EVENTS = ("reminder.task.", "due.task.", "escalated.task.")
"""What comes before the name of a task in the events of its `due`."""
MAX_REMINDERS = 20
MAX_CANDIDATES = 1_000
MAX_NAME = 500


def read_people(options: Mapping[str, Json]) -> None:
    """Raises `ActionFailed` for options of a HUMAN task that are of no use."""
    for name, problem in _problems(options):
        raise ActionFailed(f"task.{_CODES.get(name, name)}", f"{name}: {problem}")


def problems_of(written: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it), for everything that is written out."""
    return _problems({name: value for name, value in written.items() if not is_template(value)})


def _problems(options: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    for name, expected, is_good in _SHAPES:
        value = options.get(name)
        if value is not None and not is_good(value):
            yield name, f"expected {expected}, found {render_json(value)[:80]}"


def _is_name(value: Json) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value == value.strip()


def _are_names(value: Json) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) <= MAX_CANDIDATES
        and all(map(_is_name, value))
    )


_SHAPES = (
    ("assignee", "the name of a person, a text", _is_name),
    ("candidates", f"a list of at most {MAX_CANDIDATES:,} names, texts", _are_names),
    ("form", "a JSON Schema, an object or a boolean", lambda value: isinstance(value, dict | bool)),
    ("fourEyes", "true or false", lambda value: isinstance(value, bool)),
    ("title", "a text", lambda value: isinstance(value, str)),
    ("description", "a text", lambda value: isinstance(value, str)),
)
_CODES = {"fourEyes": "four_eyes"}


# --- due


@dataclass(frozen=True, slots=True)
class Due:
    """When a task is due, when people are reminded of it, and to whom it goes when nobody has done it."""

    at: datetime
    remind_at: tuple[datetime, ...] = ()
    escalate_at: datetime | None = None
    assignee: str | None = None
    candidates: Sequence[str] | None = None


def read_due(value: Json, now: datetime) -> Due | None:
    """The `due` of a task that is asked for now; None where it has none. Raises `ActionFailed` (`task.due`)."""
    if value is None:
        return None
    try:
        return _due(value, now)
    except (ValueError, OverflowError) as wrong:
        raise ActionFailed("task.due", f"due: {wrong}") from wrong


def due_problems(written: Json) -> Iterator[tuple[str, str]]:
    """(path inside `due`, what is wrong with it), for everything that is written out."""
    if written is None or (is_template(written) and not isinstance(written, Mapping)):
        return
    if not isinstance(written, Mapping):
        yield from _wrong("", _check_time, written)
        return
    for name in written:
        if name not in _DUE:
            yield name, f"unknown member {name!r}; due takes {', '.join(_DUE)}"
    if ("in" in written) == ("at" in written):
        yield "", "expected either in, a duration, or at, an instant"
    if "in" in written:
        yield from _wrong("in", parse_duration, written["in"])
    if "at" in written:
        yield from _wrong("at", read_instant, written["at"])
    remind = written.get("remind")
    if remind is not None and not (isinstance(remind, str) and is_template(remind)):
        if not isinstance(remind, list) or len(remind) > MAX_REMINDERS:
            yield "remind", f"expected a list of at most {MAX_REMINDERS} durations before it is due"
        else:
            for index, before in enumerate(remind):
                yield from _wrong(f"remind[{index}]", parse_duration, before)
    yield from _escalate_problems(written.get("escalate"))


def _escalate_problems(written: Json) -> Iterator[tuple[str, str]]:
    if written is None or (is_template(written) and not isinstance(written, Mapping)):
        return
    if not isinstance(written, Mapping):
        yield "escalate", f'expected an object such as {{"after": "1d"}}, found {render_json(written)[:80]}'
        return
    for name in written:
        if name not in _ESCALATE:
            yield f"escalate.{name}", f"unknown member {name!r}; escalate takes {', '.join(_ESCALATE)}"
    if written.get("after") is not None:
        yield from _wrong("escalate.after", parse_duration, written["after"])
    for name, problem in problems_of({part: written.get(part) for part in ("assignee", "candidates")}):
        yield f"escalate.{name}", problem


_DUE = ("in", "at", "remind", "escalate")
_ESCALATE = ("after", "assignee", "candidates")


def _wrong(path: str, read: Callable[[Json], object], value: Json) -> Iterator[tuple[str, str]]:
    if is_template(value):
        return
    try:
        read(value)
    except ValueError as wrong:
        yield path, str(wrong)


def _due(value: Json, now: datetime) -> Due:
    if not isinstance(value, Mapping):
        return Due(_time(value, now))
    for path, problem in due_problems({name: _untemplated(part) for name, part in value.items()}):
        raise ValueError(f"{path}: {problem}" if path else problem)
    at = after(now, parse_duration(value["in"])) if "in" in value else read_instant(value["at"])
    remind = value.get("remind") or ()
    reminders = sorted({after(at, -parse_duration(before)) for before in remind})
    escalate = value.get("escalate")
    return Due(
        at,
        tuple(
            moment for moment in reminders if moment > now
        ),  # of one whose time was over nobody is reminded
        None if escalate is None else after(at, parse_duration(escalate.get("after") or 0)),
        None if escalate is None else escalate.get("assignee"),
        None if escalate is None else escalate.get("candidates"),
    )


def _untemplated(value: Json) -> Json:
    """Evaluated data may look like a template; here it is none, and is to be checked."""
    if isinstance(value, str):
        return value.replace("${", "$ {").replace("$.", "$ .")
    if isinstance(value, list):
        return [_untemplated(part) for part in value]
    if isinstance(value, Mapping):
        return {name: _untemplated(part) for name, part in value.items()}
    return value


def _time(value: Json, now: datetime) -> datetime:
    try:
        return after(now, parse_duration(value))
    except ValueError as no_duration:
        try:
            return read_instant(value)
        except ValueError:
            raise ValueError(f"{no_duration}; an instant such as 2026-03-01T09:00:00Z will do too") from None


def _check_time(value: Json) -> object:
    return _time(value, _SOME_TIME)


_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def arm_due(draft: Draft, task: CreateTask) -> None:
    """Arm the timers of a task with `due`, and keep their keys with it, so that they end with it."""
    due = read_due(task.options.get("due"), draft.env.now)
    if due is None:
        return
    keys = []

    def arm(suffix: str, kind: str, at: datetime, assignee: Json, **marks: Json) -> None:
        told: dict[str, Json] = {
            "key": task.key,
            "name": task.name,
            "type": task.type,
            "dueAt": format_instant(due.at),
            **({} if assignee is None else {"assignee": assignee}),
        }
        key = f"{task.key}/{suffix}"
        draft.arm_timer(key, at, {"type": f"{kind}{task.name}", "task": told}, task=task.key, **marks)
        keys.append(key)

    assignee = task.options.get("assignee")
    for number, moment in enumerate(due.remind_at, start=1):
        arm(f"remind/{number}", EVENTS[0], moment, assignee)
    arm("due", EVENTS[1], due.at, assignee)
    if due.escalate_at is not None:
        goes_to = {"assignee": due.assignee, "candidates": due.candidates}
        given = {name: value for name, value in goes_to.items() if value is not None}
        arm("escalate", EVENTS[2], due.escalate_at, due.assignee or assignee, assign=given or None)
    draft.tie_timers(task.key, keys)
