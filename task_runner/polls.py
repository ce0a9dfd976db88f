"""The end of an attempt of a POLL: what its inner handler came to is judged here (`common.polls` has the rules)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.polls import Counted, Polling, has_timed_out, judge, timed_out
from common.store.claims import TaskClaim
from task_runner.attempt import Result


@dataclass(frozen=True, slots=True)
class Polled:
    """The result of an attempt, and how many checks the POLL has had."""

    result: Result
    polls: int


def judged(claim: TaskClaim, result: Result) -> Polled:
    """What a POLL comes to by the result of its inner handler.

    A failure is left to the retry policy. One that goes on in another attempt has not checked anything yet: it keeps its
    own state, and is ended where the time of the POLL is over.
    """
    polling, counted = Polling.read(claim.options), Counted.read(claim.polls)
    at = claim.claimed_at
    assert at is not None, "a claim has its time"  # noqa: S101
    begun = counted.since(polling, at)
    if result.error is not None:
        is_new = claim.polls is None and polling.started_at is None
        return Polled(replace(result, state=begun.wrap() if is_new else None), begun.polls)
    if result.again_ms is not None:
        if has_timed_out(polling, begun, at=at):
            return Polled(
                Result(error=timed_out(polling, begun, claim.name), state=begun.wrap()), begun.polls
            )
        return Polled(Result(again_ms=result.again_ms, state=begun.wrap(result.state)), begun.polls)
    verdict = judge(polling, counted, claim.name, result.output or "null", at=at)
    output = result.output if verdict.error is None and verdict.again_ms is None else None
    return Polled(Result(output, verdict.error, verdict.again_ms, verdict.state), verdict.counted.polls)
