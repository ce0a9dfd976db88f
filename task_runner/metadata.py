"""`context.metadata`: JSON values that the handlers of one instance share, atomic for each key.

`Metadata` is what a handler sees; it knows neither database nor pipe. Behind it stands a `MetadataPort`: rows for handlers
in the runner's process, messages to the runner for isolated ones, memory in the test kit. A port speaks stored texts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from common.canonical import clean, read, storable
from common.errors import LimitExceeded
from common.metadata import key_text, too_many_keys, value_text
from task_runner.registry import Permanent, Retryable

Json = Any

_TRIES = 1_000
_LONGEST_PAUSE = 0.02

Swapped = Literal["done", "changed", "full", "lost"]
"""What a write came to: `changed` under our hands, no room for another key, or the lease is `lost`."""


class MetadataPort(Protocol):
    """Where the values of one instance are kept, as the task that is bound to it may see and write them."""

    def read(self, key: str) -> str | None:
        """The stored text of one value, None where there is none."""

    def read_all(self) -> dict[str, str]:
        """All stored texts by key."""

    def write(self, key: str, value: str | None) -> Swapped:
        """Set or, with None, delete a value, whatever it was."""

    def swap(self, key: str, value: str, expected: str | None) -> Swapped:
        """Set a value in the place of `expected`, the text that was read (None: there was none)."""


class Metadata:
    """The metadata of the task's instance. What is set is stored at once, whatever becomes of the attempt."""

    def __init__(self, port: MetadataPort, redact: Callable[[Json], Json] = lambda value: value) -> None:
        self._port = port
        self._redact = redact

    def get(self, key: str, default: Json = None) -> Json:
        """The value of a key, `default` where there is none."""
        text = self._port.read(key_text(key))
        return default if text is None else read(text)

    def all(self) -> dict[str, Json]:
        """All values by key."""
        return {key: read(text) for key, text in self._port.read_all().items()}

    def set(self, key: str, value: Json) -> None:
        """Set a value: any JSON of at most 64,000 bytes, under a key of at most 200 characters; 1,000 keys in all.

        Raises `Permanent` (`limit.exceeded`, `task.lease_lost`), and `Invalid` for what is no JSON or no name. The values of
        secrets are redacted.
        """
        _done(self._port.write(key_text(key), self._text(value)))

    def remove(self, key: str) -> None:
        """Delete a value; nothing happens where there is none. Raises as `set` does."""
        _done(self._port.write(key_text(key), None))

    def update(self, key: str, function: Callable[[Json], Json], default: Json = None) -> Json:
        """Put `function(value)` in the place of the value, and return it; nobody else writes this key in between.

        `function` gets a copy of the value (`default` where there is none) and may be called several times: it should do
        nothing but compute. Raises as `set` does, and `Retryable` (`metadata.contended`) where others were faster 1,000 times.
        """
        name = key_text(key)
        for attempt in range(_TRIES):
            before = self._port.read(name)
            value = function(default if before is None else read(before))
            text = self._text(value)
            if _done(self._port.swap(name, text, before)):
                return read(text)
            # Those who were in each other's way come back at different times.
            time.sleep(random.uniform(0, min(0.001 * 2 ** min(attempt, 9), _LONGEST_PAUSE)))  # noqa: S311
        raise Retryable(
            f'others changed metadata "{name}" {_TRIES:,} times in a row', code="metadata.contended"
        )

    def increment(self, key: str, by: float = 1) -> Json:
        """Add to a number, which is 0 where there is none, and return the sum. Raises as `update`, and `Permanent`
        (`metadata.not_a_number`)."""

        def added(value: Json) -> Json:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Permanent(
                    f'metadata "{key}": expected a number to add to, found {type(value).__name__}',
                    code="metadata.not_a_number",
                )
            return value + by

        return self.update(key, added, default=0)

    def _text(self, value: Json) -> str:
        try:
            return value_text(self._redact(clean(value)))
        except LimitExceeded as error:
            raise _beyond(error) from error


def _beyond(error: LimitExceeded) -> Permanent:
    return Permanent(error.message, code=error.code, data=dict(error.fields))


def _done(swapped: Swapped) -> bool:
    """False where somebody was faster; raises where the write can never be."""
    match swapped:
        case "full":
            raise _beyond(too_many_keys())
        case "lost":
            raise Permanent(
                "this attempt has lost its lease: somebody else has the task, or nobody waits for it any more",
                code="task.lease_lost",
            )
    return swapped == "done"


# -- between the process of an isolated handler and its runner ------------------------------------------------------


class RemoteMetadata:
    """A `MetadataPort` that asks the runner. `ask` sends a request and waits for its answer."""

    def __init__(self, ask: Callable[[dict[str, Json]], dict[str, Json]]) -> None:
        self._ask = ask

    def read(self, key: str) -> str | None:
        found: str | None = self._answer(verb="read", key=key)
        return found

    def read_all(self) -> dict[str, str]:
        found: dict[str, str] = self._answer(verb="read_all")
        return found

    def write(self, key: str, value: str | None) -> Swapped:
        done: Swapped = self._answer(verb="write", key=key, value=value)
        return done

    def swap(self, key: str, value: str, expected: str | None) -> Swapped:
        done: Swapped = self._answer(verb="swap", key=key, value=value, expected=expected)
        return done

    def _answer(self, **request: Json) -> Json:
        answer = self._ask(request)
        if "failed" in answer:
            raise Retryable(answer["failed"], code="metadata.unavailable")
        return answer["found"]


def answer_request(port: MetadataPort, request: dict[str, Json]) -> dict[str, Json]:
    """What the runner answers to a request of `RemoteMetadata`; never raises, whatever was sent."""
    try:
        match request:
            case {"verb": "read", "key": str(key)}:
                return {"found": port.read(key)}
            case {"verb": "read_all"}:
                return {"found": port.read_all()}
            case {"verb": "write", "key": str(key), "value": (str() | None) as value}:
                return {"found": port.write(key, value)}
            case {
                "verb": "swap",
                "key": str(key),
                "value": str(value),
                "expected": (str() | None) as expected,
            }:
                return {"found": port.swap(key, value, expected)}
    except Exception as error:  # noqa: BLE001 - the handler's to hear, in its process; the slot goes on listening to it
        return {"failed": storable(f"{type(error).__name__}: {error}")[:500]}
    return {"failed": "no such request"}
