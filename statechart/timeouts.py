"""The four time-outs of a task: how a definition writes them, and what they are for one task.

`scheduleToStart` bounds the wait for a worker before each attempt, `startToClose` one attempt, `heartbeat` the silence
of a handler, `scheduleToClose` the whole task with all its attempts. `timeout` is short for `startToClose`. Each is a
setting of its own: a default holds for those that the task leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping

from statechart.actions import as_milliseconds
from statechart.draft import ActionFailed
from statechart.env import Json
from statechart.record import record

TIMEOUTS = ("scheduleToStart", "startToClose", "heartbeat", "scheduleToClose")
SHORT = "startToClose"
"""The one that `timeout` stands for."""


@record
class Timeouts:
    """Milliseconds, at least 1; None where nothing bounds the time."""

    schedule_to_start: int | None = None
    start_to_close: int | None = None
    heartbeat: int | None = None
    schedule_to_close: int | None = None


UNBOUNDED = Timeouts()


def read_timeouts(spec: Mapping[str, Json]) -> Timeouts:
    """The time-outs of one task, from its evaluated `timeouts`. Raises `ActionFailed` (`duration.invalid`)."""
    given = spec.get("timeouts")
    if not given:
        return UNBOUNDED
    return Timeouts(*(_milliseconds(given.get(name), name) for name in TIMEOUTS))


def _milliseconds(value: Json, name: str) -> int | None:
    if value is None:
        return None
    milliseconds = as_milliseconds(value, name)
    if milliseconds < 1:
        raise ActionFailed(
            "duration.invalid", f"{name}: expected a time-out of at least 1 ms, found {value!r}"
        )
    return milliseconds
