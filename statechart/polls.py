"""POLL: a task that is asked again and again until its output is what somebody waits for.

For the machine it is one obligation of type POLL. What is executed is its inner task, by whoever executes that type, so the
effect that asks for it is one of the inner type; how it is asked again stands in its options (`common.polls` reads them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from statechart.actions import as_integer, as_milliseconds, as_text
from statechart.draft import ActionFailed
from statechart.effects import CreateTask
from statechart.env import Json, end_of_wait, format_instant
from statechart.naming import MOST_INDEXED, is_indexed

POLL = "POLL"
FIELDS = ("task", "until", "interval", "timeout", "maxAttempts", "checkFirst")
REQUIRED = ("task", "until", "interval")
NO_INNER = ("POLL", "MAP", "WORKFLOW", "HUMAN", "TIMER", "SET", "TRANSFORM", "LOG", "EMIT")
"""Task types that cannot be asked again: no runner executes them."""
LEAST_INTERVAL_MS = 100


def poll_name(fields: Mapping[str, Json]) -> Json:
    """The name of a POLL that has none of its own: its inner task's, or that one's type."""
    given = fields.get("input")
    inner = given.get("task") if isinstance(given, Mapping) else None
    return (inner.get("name") or inner.get("type")) if isinstance(inner, Mapping) else None


def as_asked_again(task: CreateTask, now: datetime, *, has_started: bool = True) -> CreateTask:
    """The task that a runner executes for a POLL, from its evaluated fields. Raises `ActionFailed`.

    Its time counts from `now` or its own `run_at`; where it has not started, because it waits for its turn, from its
    first attempt.
    """
    given = task.input
    inner = given.get("task") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(inner, Mapping):
        raise ActionFailed("poll.input", "expected an input with task, until and interval, written out")
    until = as_text(given.get("until"), "poll.until", "an expression over output")
    interval = as_milliseconds(given.get("interval"), "interval")
    if interval < LEAST_INTERVAL_MS:
        raise ActionFailed(
            "poll.interval", f"expected an interval of at least {LEAST_INTERVAL_MS} ms, found {interval}"
        )
    timeout = _timeout(given.get("timeout"))
    starts = task.run_at or now
    first = 0 if _checks_first(given.get("checkFirst")) else interval
    if timeout is not None:
        first = min(first, timeout)
    poll: dict[str, Json] = {
        "until": until,
        "interval": interval,
        "timeout": timeout,
        "maxAttempts": _most(given.get("maxAttempts")),
        "startedAt": format_instant(starts) if has_started else None,
    }
    return replace(
        task,
        type=_executed(inner),
        asked_as=POLL,
        input=inner.get("input"),
        run_at=end_of_wait(starts, first) if first else task.run_at,
        options={
            **task.options,
            "poll": {name: value for name, value in poll.items() if value is not None},
        },
        secrets=tuple(where[2:] for where in task.secrets if where[:2] == ("task", "input")),
    )


def _executed(inner: Mapping[str, Json]) -> str:
    """The type that runners know it by. A function is one of its own, so that a POLL of it keeps its own name."""
    kind = as_text(inner.get("type"), "poll.task", "the type of the task")
    if kind == "SYSTEM":
        kind = as_text(inner.get("name"), "poll.task", "the name of the function")
    if not is_indexed(kind):
        raise ActionFailed("poll.task", f"expected the type of a task of at most {MOST_INDEXED:,} bytes")
    if kind in NO_INNER:
        raise ActionFailed("poll.task", f"a task of type {kind!r} cannot be asked again")
    return kind


def _timeout(value: Json) -> int | None:
    if value is None:
        return None
    milliseconds = as_milliseconds(value, "timeout")
    if milliseconds < 1:
        raise ActionFailed("poll.timeout", f"expected a timeout of at least 1 ms, found {milliseconds}")
    return milliseconds


def _most(value: Json) -> int | None:
    if value is None:
        return None
    most = as_integer(value, "poll.max_attempts", "a number of checks")
    if most < 1:
        raise ActionFailed("poll.max_attempts", f"expected at least 1 check, found {most}")
    return most


def _checks_first(value: Json) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ActionFailed("poll.check_first", f"checkFirst: expected true or false, found {value!r:.80}")
    return value
