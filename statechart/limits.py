"""The limit of a task: under which key it runs, how many run under that key at once, and how often one starts.

A definition writes `{"key": …, "maxRunning"?: …, "rate"?: {"count", "per", "burst"?}}`. Keys are shared by all definitions of a
tenant. Whoever executes tasks keeps to it; the machine only says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from statechart.actions import as_milliseconds, as_text
from statechart.draft import ActionFailed
from statechart.env import Json
from statechart.numbers import read_whole
from statechart.templates import is_template

MAX_KEY = 200
"""Characters."""
MAX_COUNT = 1_000_000
NOT_LIMITED = ("TIMER", "HUMAN", "WORKFLOW", "MAP", "SET", "TRANSFORM", "LOG", "EMIT")
"""What no runner executes takes up no place."""


@dataclass(frozen=True, slots=True)
class StartRate:
    """So many tasks start in so many milliseconds, at most `burst` of them at once."""

    count: int
    per_ms: int
    burst: int


@dataclass(frozen=True, slots=True)
class TaskLimit:
    """What bounds the tasks of one key; at least one of the two."""

    key: str
    max_running: int | None
    rate: StartRate | None


def read_limit(kind: str, written: Json) -> TaskLimit:
    """The evaluated `limit` of a task of type `kind`. Raises `ActionFailed` (`task.limit`, `duration.invalid`)."""
    if kind in NOT_LIMITED:
        raise ActionFailed("task.limit", wrong_type(kind))
    if not isinstance(written, Mapping):
        raise ActionFailed("task.limit", "limit: expected an object with a key")
    key = as_text(written.get("key"), "task.limit", "the key of a limit")
    if len(key) > MAX_KEY:
        raise ActionFailed(
            "task.limit", f"limit.key: expected at most {MAX_KEY} characters, found {len(key)}"
        )
    rate = written.get("rate")
    most = _read_count(written.get("maxRunning"), "maxRunning")
    if rate is None:
        if most is None:
            raise ActionFailed("task.limit", "limit: expected maxRunning, rate or both, found neither")
        return TaskLimit(key, most, None)
    count = _read_count(rate.get("count"), "rate.count")
    per = as_milliseconds(rate.get("per"), "limit.rate.per")
    if count is None or per < 1:
        raise ActionFailed("task.limit", "limit.rate: expected a count of tasks per at least 1 ms")
    return TaskLimit(key, most, StartRate(count, per, _read_count(rate.get("burst"), "rate.burst") or count))


def limit_problems(kind: str, written: Json) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of a limit as far as it is written out."""
    if not isinstance(written, Mapping):
        return
    if kind in NOT_LIMITED:
        yield "", wrong_type(kind)
    rate = written.get("rate")
    if written.get("maxRunning") is None and rate is None:
        yield "", "expected maxRunning, rate or both, found neither"
    counted = {"maxRunning": written.get("maxRunning")}
    if isinstance(rate, Mapping):
        counted |= {f"rate.{name}": rate.get(name) for name in ("count", "burst")}
        if rate.get("per") == 0:
            yield "rate.per", "expected at least 1 ms, found 0"
    for path, value in counted.items():
        if not is_template(value):
            try:
                _count(value)
            except ValueError as wrong:
                yield path, str(wrong)
    key = written.get("key")
    if isinstance(key, str) and not is_template(key) and not 0 < len(key) <= MAX_KEY:
        yield "key", f"expected a text of 1 to {MAX_KEY} characters, found {len(key)}"


def wrong_type(kind: str) -> str:
    return f"a {kind} takes no limit: no runner executes it" + (
        "; give it to its items" if kind == "MAP" else ""
    )


def _read_count(value: Json, name: str) -> int | None:
    try:
        return _count(value)
    except ValueError as wrong:
        raise ActionFailed("task.limit", f"limit.{name}: {wrong}") from wrong


def _count(value: Json) -> int | None:
    return None if value is None else read_whole(value, 1, MAX_COUNT)
