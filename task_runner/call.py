"""Calling a handler: the one place where its exceptions are caught, and where its output becomes canonical text."""

from __future__ import annotations

import traceback

from common import faults
from common.canonical import clean, dumps, read
from common.commands.outcome import Outcome, TaskError
from common.errors import SignalboxError
from common.store.tasks import TaskClaim
from task_runner.context import TaskContext
from task_runner.registry import HandlerError, Registry

MAX_MESSAGE = 2_000
MAX_TRACE = 8_000


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
    except SignalboxError as error:
        return ended(
            claim,
            error=TaskError(
                "output.invalid", f"the handler's output cannot be stored: {error}", retryable=False
            ),
        )
    if len(text) > max_output_bytes:
        message = f"the handler returned {len(text)} bytes, at most {max_output_bytes} are allowed; store it elsewhere and return a reference"
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
    trace = _storable("".join(traceback.format_exception(error, limit=-20)))[-MAX_TRACE:]
    message = _storable(str(error) or type(error).__name__)[:MAX_MESSAGE]
    if not isinstance(error, HandlerError):
        # A missing handler is this process's lack, not the work's: another runner may have it.
        return TaskError(type(error).__name__, message, trace=trace)
    try:
        data = clean(error.data)
    except SignalboxError:
        data = _storable(repr(error.data))[:MAX_MESSAGE]
    return TaskError(_storable(str(error.code))[:200], message, data, error.retryable, trace)


def _storable(text: str) -> str:
    return text.replace("\x00", "␀").encode("utf-8", "replace").decode()
