"""What a retry policy may say, member by member: asked at the door of what is written out, and of every policy that is read.

When a policy lets a task be tried again is for whoever executes tasks to work out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from statechart.durations import parse_duration
from statechart.env import Json
from statechart.numbers import read_number, read_whole

MOST_ATTEMPTS = 1_000_000


def read_attempts(value: Json) -> int:
    """How often a task is tried at most. Raises `ValueError`."""
    return read_whole(value, 1, MOST_ATTEMPTS)


def _codes(value: Json) -> tuple[str, ...]:
    listed = [] if value is None else value
    if not isinstance(listed, list | tuple) or not all(isinstance(code, str) for code in listed):
        raise ValueError(
            f'expected a list of error codes such as ["card.declined", "http.*"], found {value!r:.80}'
        )
    return tuple(listed)


_READERS: Mapping[str, Callable[[Json], Any]] = {
    "maxAttempts": read_attempts,
    "interval": parse_duration,
    "backoffRate": lambda value: read_number(value, 1, 100),
    "maxInterval": parse_duration,
    "jitter": lambda value: read_number(value, 0, 1),
    "retryOn": _codes,
    "doNotRetryOn": _codes,
}
RETRY = tuple(_READERS)
"""The members of a policy."""


def read_member(name: str, value: Json) -> Any:
    """What member `name` of a policy says: a number, milliseconds or codes of errors. Raises `ValueError`."""
    return _READERS[name](value)
