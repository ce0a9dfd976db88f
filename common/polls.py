"""POLL where it is executed: what stands in its options, what it counts, and whether it is over. Pure.

A task that was asked for as a POLL has the type of its inner task. Each check is an attempt; where its output is not what is
waited for, another one follows (`AttemptOutcome.CONTINUED`). What is counted stands in `tasks.state`, around the state of the
inner handler, so it is stored with the end of each attempt and survives whatever befalls the runner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from common.canonical import clean, dumps, read, size
from common.clock import instant_text
from common.errors import Invalid
from common.task_error import TaskError
from statechart.env import end_of_wait, parse_instant
from statechart.expressions import Expression, ExpressionFailed, ExpressionInvalid, Scope, compile_expression
from statechart.polls import POLL

__all__ = [
    "KEPT_ATTEMPTS",
    "POLL",
    "TRIMMED_EVERY",
    "Counted",
    "Polling",
    "Verdict",
    "begin_anew",
    "has_timed_out",
    "judge",
    "timed_out",
    "unwrap",
]

KEPT_ATTEMPTS = 100
"""How many attempts of a POLL are kept, the newest: one of each 5 s would be half a million rows in a month."""
TRIMMED_EVERY = 20
"""After so many checks older attempts are deleted, so that each check does not pay for it."""
_SHOWN_OUTPUT = 16_000
_SHOWN_DEPTH = 48
_TEXTS = 256


@dataclass(frozen=True, slots=True)
class Polling:
    """How a task is asked again: the `poll` member of its options, in milliseconds."""

    until: str
    interval: int
    timeout: int | None = None
    max_attempts: int | None = None
    started_at: datetime | None = None

    @classmethod
    def read(cls, options: str | None) -> Polling:
        """From the options of a task that was asked for as a POLL."""
        poll = read(options or "{}")["poll"]
        started = poll.get("startedAt")
        return cls(
            poll["until"], poll["interval"], poll.get("timeout"), poll.get("maxAttempts"),
            None if started is None else parse_instant(started),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counted:
    """What a POLL has counted: its checks, when the last of them began, and from where its limits count."""

    polls: int = 0
    last_polled_at: datetime | None = None
    started_at: datetime | None = None
    counted_from: int = 0

    @classmethod
    def read(cls, state: str | None) -> Counted:
        """From the stored state of a task, wrapped or unwrapped."""
        told = read(state) if state else {}
        return cls(
            told.get("polls", 0), _instant(told.get("lastPolledAt")), _instant(told.get("startedAt")),
            told.get("countedFrom", 0),
        )  # fmt: skip

    def since(self, polling: Polling, at: datetime) -> Counted:
        """The same, with the instant from which its time counts: that of its creation, else of its first attempt, `at`."""
        return replace(self, started_at=self.started_at or polling.started_at or at)

    def wrap(self, state: str | None = None) -> str:
        """The state to be stored: canonical, with the inner handler's inside."""
        told: dict[str, Any] = {
            "countedFrom": self.counted_from,
            "lastPolledAt": None if self.last_polled_at is None else instant_text(self.last_polled_at),
            "polls": self.polls,
            "startedAt": None if self.started_at is None else instant_text(self.started_at),
        }
        text = dumps(told)
        return text if state is None else f'{text[:-1]},"state":{state}}}'


def unwrap(state: str | None) -> str | None:
    """The inner handler's own state, canonical text, from the stored one."""
    told = read(state).get("state") if state else None
    return None if told is None else dumps(told)


def begin_anew(state: str | None, now: datetime) -> str | None:
    """The state of a POLL that is taken up again by hand: it goes on counting, and its limits begin anew."""
    if state is None:
        return None
    counted = Counted.read(state)
    return replace(counted, started_at=now, counted_from=counted.polls).wrap(unwrap(state))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check comes to: it is over, with or without an `error`, or `again_ms` later there is another."""

    counted: Counted
    again_ms: int | None = None
    error: TaskError | None = None

    @property
    def state(self) -> str:
        """To be stored: whatever state the inner handler had is done with."""
        return self.counted.wrap()


def judge(polling: Polling, counted: Counted, name: str, output: str, *, at: datetime) -> Verdict:
    """Judge the output (canonical text) of a check that began `at`, by the database's clock.

    The time of the POLL is over when a check began no earlier; the last check is made at that instant.
    """
    now = replace(counted.since(polling, at), polls=counted.polls + 1, last_polled_at=at)
    try:
        if _is_reached(polling.until, read(output)):
            return Verdict(now)
    except ExpressionFailed as failed:
        return Verdict(now, error=_bad_condition(polling, str(failed), output))
    except ExpressionInvalid as invalid:
        return Verdict(now, error=_bad_condition(polling, invalid.message, output))
    except TypeError as found:
        return Verdict(now, error=_bad_condition(polling, str(found), output))
    made = now.polls - now.counted_from
    if polling.max_attempts is not None and made >= polling.max_attempts:
        message = f'poll "{name}" exceeded maxAttempts: "until" was not true after {_checks(made)}'
        return Verdict(now, error=_given_up("poll.exhausted", message, now, output))
    left = _left(polling, now, at)
    if left is not None and left <= 0:
        message = f'poll "{name}" timed out: "until" was not true within {polling.timeout} ms, after {_checks(made)}'
        return Verdict(now, error=_given_up("poll.timed_out", message, now, output))
    return Verdict(now, again_ms=polling.interval if left is None else min(polling.interval, left))


def has_timed_out(polling: Polling, counted: Counted, *, at: datetime) -> bool:
    """Is the time of the POLL over, for an attempt that began `at` and has checked nothing?"""
    left = _left(polling, counted, at)
    return left is not None and left <= 0


def timed_out(polling: Polling, counted: Counted, name: str) -> TaskError:
    """The error of a POLL whose inner task goes on for longer than it has time."""
    message = f'poll "{name}" timed out: its task was not done within {polling.timeout} ms'
    return TaskError("poll.timed_out", message, {"polls": counted.polls}, retryable=False)


def _left(polling: Polling, counted: Counted, at: datetime) -> int | None:
    """Milliseconds that are left, rounded up so that nothing is over early; None where the time is not bounded."""
    if polling.timeout is None:
        return None
    return -((at - end_of_wait(counted.started_at or at, polling.timeout)) // timedelta(milliseconds=1))


def _is_reached(until: str, output: Any) -> bool:
    """Raises `ExpressionFailed`, and `TypeError` where the condition gives neither true nor false."""
    reached = _condition(until).evaluate(Scope(extra={"output": output}))
    if not isinstance(reached, bool):
        raise TypeError(f"expected true or false, found {dumps(reached)[:80]}")
    return reached


@lru_cache(maxsize=_TEXTS)
def _condition(until: str) -> Expression:
    return compile_expression(until, extra_names=("output",))


def _bad_condition(polling: Polling, why: str, output: str) -> TaskError:
    data = {"until": polling.until, **_last(output)}
    return TaskError(
        "poll.until", f'"until" has no answer for this output: {why}'[:2_000], data, retryable=False
    )


def _given_up(code: str, message: str, counted: Counted, output: str) -> TaskError:
    return TaskError(code, message, {"polls": counted.polls, **_last(output)}, retryable=False)


def _last(output: str) -> dict[str, Any]:
    """The output that was not what is waited for, unless it is large: it stands nowhere else."""
    if size(output) > _SHOWN_OUTPUT:
        return {}
    try:
        return {"output": clean(read(output), max_depth=_SHOWN_DEPTH)}
    except Invalid:
        return {}


def _checks(number: int) -> str:
    return f"{number} check{'' if number == 1 else 's'}"


def _instant(text: str | None) -> datetime | None:
    return None if text is None else parse_instant(text)
