"""From a claim to its outcome: find the handler, call it in this process, say how the attempt ended."""

from __future__ import annotations

from dataclasses import replace

import structlog

from common.commands.outcome import Outcome
from common.faults import FaultInjected
from common.polls import POLL, Counted
from common.store.claims import TaskClaim
from common.task_error import TaskError
from task_runner.attempt import Result, attempt, described
from task_runner.context import TaskContext
from task_runner.polls import judged
from task_runner.registry import HandlerError, Registry
from task_runner.resolve import NOTHING_PREPARED, Prepared

log = structlog.get_logger("signalbox.task_runner")


def call_handler(
    registry: Registry,
    claim: TaskClaim,
    context: TaskContext,
    *,
    max_output_bytes: int,
    prepared: Prepared = NOTHING_PREPARED,
) -> Outcome:
    """Run one attempt to its end and say how it ended; never raises for what a handler does.

    `prepared` has what the claim's input refers to.
    """
    try:
        handler = registry.find(claim.type, claim.name)
    except KeyError as error:
        return ended(claim, error=described(error))
    try:
        input = prepared.fill(claim)
    except HandlerError as error:
        return ended(claim, error=described(error))
    context.conceal(input.redaction)
    try:
        return ended_with(claim, attempt(handler, input.text, context, max_output_bytes=max_output_bytes))
    except FaultInjected:
        raise
    except BaseException as error:  # noqa: BLE001
        # A fault of our own, or an exception that trips up who formats it. Raised from here it would leave the task held by this process for ever, its lease beaten.
        why = described(error)
        log.error(
            "attempt.broken", task_id=claim.id, instance_id=claim.instance_id, code=why.code, trace=why.trace
        )
        return ended(claim, error=why)


def ended_with(claim: TaskClaim, result: Result) -> Outcome:
    """The outcome of a claim whose handler was called."""
    if claim.asked_as != POLL:
        outcome = ended(claim, output=result.output, error=result.error)
        return (
            outcome
            if result.again_ms is None
            else replace(outcome, again_ms=result.again_ms, state=result.state)
        )
    polled = judged(claim, result)
    end = polled.result
    outcome = ended(claim, output=end.output, error=end.error)
    return replace(outcome, again_ms=end.again_ms, state=end.state, polls=polled.polls)


def ended(
    claim: TaskClaim,
    *,
    output: str | None = None,
    error: TaskError | None = None,
    released: bool = False,
    timed_out: bool = False,
) -> Outcome:
    """The outcome of a claim."""
    return Outcome(
        claim.id, claim.tenant_id, claim.instance_id, claim.token, claim.key, claim.asked_as or claim.type, claim.name, claim.attempt,
        claim.retry, claim.completion_event, claim.failure_event, output, error, released, timed_out,
        polls=Counted.read(claim.polls).polls if claim.asked_as == POLL else None, guarded=claim.guarded,
        only_since=claim.claimed_at if claim.is_first else None,
        answers_one=claim.idempotency_key is None and claim.parent_task_id is None,
    )  # fmt: skip
