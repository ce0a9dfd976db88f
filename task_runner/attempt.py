"""One call of a handler: the one place where its exceptions are caught, and where its output becomes canonical text.

Knows nothing of the database, so that the process of an isolated handler is light to start.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from common import faults
from common.canonical import clean, dumps, read, size, storable
from common.task_error import TaskError
from statechart.durations import MAX_DURATION_MS
from task_runner.context import TaskContext
from task_runner.redact import NOTHING_HIDDEN, Redaction
from task_runner.registry import Continue, Handler, HandlerError

if TYPE_CHECKING:
    from common.schemas import Schema

MAX_MESSAGE = 2_000
MAX_TRACE = 8_000
MAX_CODE = 200
MAX_DATA = 64_000

Json = Any


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call: `output` as canonical text, an `error`, or `state` to go on from in `again_ms` milliseconds."""

    output: str | None = None
    error: TaskError | None = None
    again_ms: int | None = None
    state: str | None = None


def attempt(handler: Handler, input: str, context: TaskContext, *, max_output_bytes: int) -> Result:
    """Call a handler with the canonical text of its input; never raises for what it does.

    It is not called with an input that its schema refuses, and an output that its schema refuses is none. Nothing comes
    back of what the context conceals.
    """
    hidden = context.redaction
    given = read(input)
    refused = _refused("input", handler.input_check, given, hidden)
    if refused is not None:
        return Result(error=refused)
    try:
        arguments = (given, context) if handler.takes_context else (given,)
        output = handler.function(*arguments)
    except faults.FaultInjected:
        raise
    except BaseException as error:  # noqa: BLE001 - the handler's own failure, SystemExit included, is data
        return Result(error=described(error, hidden))
    faults.hit("after_handler")
    return stored(output, max_bytes=max_output_bytes, hidden=hidden, check=handler.output_check)


def stored(
    output: Any,
    *,
    max_bytes: int | None = None,
    hidden: Redaction = NOTHING_HIDDEN,
    check: Schema | None = None,
) -> Result:
    """What a handler returned as it is stored, without what is hidden, or why it cannot be."""
    again = output if isinstance(output, Continue) else None
    try:
        value = hidden.json(clean(output if again is None else again.state))
        text = dumps(value)
        again_ms = None if again is None else _milliseconds(again.after)
    except BaseException as error:  # noqa: BLE001 - reading what a handler returned may run its code: a mapping of its own
        why = _told(partial(_said, error), "it cannot be read", hidden)
        message = f"the handler's output cannot be stored: {why}"[:MAX_MESSAGE]
        return Result(error=TaskError("output.invalid", message, retryable=False))
    if max_bytes is not None and size(text) > max_bytes:
        message = f"the handler returned {size(text)} bytes, at most {max_bytes} are allowed; store it elsewhere and return a reference"
        return Result(
            error=TaskError("output.too_large", message, {"limit": "max_output_bytes"}, retryable=False)
        )
    if again_ms is not None:
        return Result(again_ms=again_ms, state=text)
    refused = _refused("output", check, value, hidden)
    return Result(output=text) if refused is None else Result(error=refused)


def _refused(what: str, check: Schema | None, value: Json, hidden: Redaction) -> TaskError | None:
    """Why a schema refuses an input or output: its problems by place, none of which quotes a value."""
    problems = [] if check is None else check.problems(value)
    if not problems:
        return None
    places = ", ".join(f"{one['path'] or what}: {one['message']}" for one in problems[:3])
    message = hidden.text(f"the {what} is not what the handler's schema says: {places}")[:MAX_MESSAGE]
    return TaskError(f"{what}.invalid", message, hidden.json({"problems": problems}), retryable=False)


def described(error: BaseException, hidden: Redaction = NOTHING_HIDDEN) -> TaskError:
    """What a handler raised, as data without what is hidden: its class is the code unless it named one.

    Never raises. An exception is the handler's own code, and so is whatever is read of it: how it tells itself, what it holds, of what class it says that it is.
    """
    # Redacted before it is cut: half a value would not be found.
    trace = _told(lambda: "".join(traceback.format_exception(error, limit=-20)), "", hidden)[-MAX_TRACE:]
    name = _told(lambda: type(error).__name__, "Exception", hidden)[:MAX_CODE]
    message = _told(lambda: _said(error), name, hidden)[:MAX_MESSAGE]
    if issubclass(type(error), HandlerError):  # `isinstance` would ask the exception itself
        with suppress(
            BaseException
        ):  # the handler's code: where it cannot be read, it counts as any other exception
            return _as_it_says(cast("HandlerError", error), message, trace, hidden)
    # A missing handler is this process's lack, not the work's: another runner may have it.
    return TaskError(name, message, trace=trace)


def _as_it_says(error: HandlerError, message: str, trace: str, hidden: Redaction) -> TaskError:
    return TaskError(
        hidden.text(storable(str(error.code)))[:MAX_CODE],
        message,
        _data(error, hidden),
        None if error.retryable is None else bool(error.retryable),
        trace,
        _milliseconds(error.after) if isinstance(error.after, timedelta) else None,
    )


def _milliseconds(after: timedelta) -> int:
    """A wait as it is told: what is longer than any is as long as the longest."""
    return min(max(round(after.total_seconds() * 1_000), 0), MAX_DURATION_MS)


def _told(read: Callable[[], str], otherwise: str, hidden: Redaction) -> str:
    """What a handler's exception says, as it may be stored; `otherwise` where to read it raises, be it by `SystemExit`: that must not cost the slot."""
    try:
        return hidden.text(
            storable("".join((read(),)))
        )  # a text of the handler's own class is copied into one that is none
    except BaseException:  # noqa: BLE001 - the handler's code
        return otherwise


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _data(error: HandlerError, hidden: Redaction) -> Json:
    data = error.data
    try:
        cleaned = hidden.json(clean(data))
        if size(dumps(cleaned)) <= MAX_DATA:
            return cleaned
    except BaseException:  # noqa: BLE001 - the handler's values
        return f"data of type {_told(lambda: type(data).__name__, 'unknown', hidden)} that cannot be stored"
    return f"more than {MAX_DATA} bytes of data"
