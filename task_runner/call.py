"""Calling a handler: the one place where its exceptions are caught, and where its output becomes canonical text."""

from __future__ import annotations

import traceback
from typing import Any

from common import faults
from common.canonical import clean, dumps, read, size, storable
from common.commands.outcome import Outcome, TaskError
from common.store.tasks import TaskClaim
from task_runner.context import TaskContext
from task_runner.registry import HandlerError, Registry

MAX_MESSAGE = 2_000
MAX_TRACE = 8_000
MAX_CODE = 200
MAX_DATA = 64_000

Json = Any


def call_handler(
    registry: Registry, claim: TaskClaim, context: TaskContext, *, max_output_bytes: int
) -> Outcome:
    """Run one attempt to its end and say how it ended; never raises for what a handler does."""
    try:
        handler = registry.find(claim.type, claim.name)
        arguments = (read(claim.input), context) if handler.takes_context else (read(claim.input),)
        output = handler.function(*arguments)
    except faults.FaultInjected:
        raise
    except BaseException as error:  # noqa: BLE001 - the handler's own failure, SystemExit included, is data
        return ended(claim, error=_described(error))
    faults.hit("after_handler")
    try:
        text = dumps(clean(output))
    except Exception as error:  # noqa: BLE001 - reading what a handler returned may run its code: a mapping of its own
        message = f"the handler's output cannot be stored: {_said(error)}"
        return ended(
            claim, error=TaskError("output.invalid", storable(message)[:MAX_MESSAGE], retryable=False)
        )
    if size(text) > max_output_bytes:
        message = f"the handler returned {size(text)} bytes, at most {max_output_bytes} are allowed; store it elsewhere and return a reference"
        return ended(
            claim,
            error=TaskError("output.too_large", message, {"limit": "max_output_bytes"}, retryable=False),
        )
    return ended(claim, output=text)


def ended(
    claim: TaskClaim, *, output: str | None = None, error: TaskError | None = None, released: bool = False
) -> Outcome:
    """The outcome of a claim."""
    return Outcome(
        claim.id, claim.tenant_id, claim.instance_id, claim.token, claim.key, claim.type, claim.name, claim.attempt,
        claim.retry, claim.completion_event, claim.failure_event, output, error, released,
    )  # fmt: skip


def _described(error: BaseException) -> TaskError:
    trace = storable("".join(traceback.format_exception(error, limit=-20)))[-MAX_TRACE:]
    message = storable(_said(error))[:MAX_MESSAGE]
    if not isinstance(error, HandlerError):
        # A missing handler is this process's lack, not the work's: another runner may have it.
        return TaskError(type(error).__name__, message, trace=trace)
    return TaskError(storable(str(error.code))[:MAX_CODE], message, _data(error), error.retryable, trace)


def _said(error: BaseException) -> str:
    """An error in words, even where its own `__str__` raises: that must not cost the slot that it ran in."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - the handler's code
        return type(error).__name__


def _data(error: HandlerError) -> Json:
    try:
        data = clean(error.data)
        if size(dumps(data)) <= MAX_DATA:
            return data
    except Exception:  # noqa: BLE001 - the handler's values
        return f"data of type {type(error.data).__name__} that cannot be stored"
    return f"more than {MAX_DATA} bytes of data"
