"""What a test says that tasks and children answer: values, made once and asked again for every attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from common.canonical import clean, dumps
from common.task_error import TaskError
from statechart.durations import parse_duration
from task_runner.attempt import Result, described, stored
from task_runner.registry import Continue

Json: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Answer:
    """How one attempt ends: with an output (`text`, canonical), with `error`, or, where `is_silent`, not by itself.

    `after_ms` is how long it takes, in virtual milliseconds. `crashes`: its worker dies, and the lease runs out. With
    `again_ms` the work is not done: another attempt goes on from `state`, canonical text, so much later. `turns` are what a
    model says.
    """

    text: str | None = None
    error: TaskError | None = None
    after_ms: int = 0
    is_silent: bool = False
    crashes: bool = False
    again_ms: int | None = None
    state: str | None = None
    turns: tuple[Json, ...] | None = None

    @property
    def output(self) -> str:
        """Canonical text."""
        return self.text or "null"


def succeeds(output: Json = None, *, after: str | int = 0) -> Answer:
    """The attempt returns `output`, any JSON, `after` a virtual time ("30s", or milliseconds)."""
    return Answer(dumps(clean(output)), after_ms=parse_duration(after))


def fails(
    code: str = "handler.failed",
    message: str = "",
    *,
    data: Json = None,
    retryable: bool | None = None,
    retry_after: str | int | None = None,
    after: str | int = 0,
) -> Answer:
    """The attempt fails with an error. `retryable` is what a handler says by `Retryable` (True) and `Permanent` (False).

    `retry_after`: another try is not to come earlier, as by `Retryable(…, after=…)`.
    """
    wait = None if retry_after is None else parse_duration(retry_after)
    said = message or f"the test lets it fail with {code}"
    error = TaskError(code, said, clean(data), retryable, retry_after_ms=wait)
    return Answer(error=error, after_ms=parse_duration(after))


def hangs() -> Answer:
    """The attempt never ends by itself: a time-out, a cancel or the test does it."""
    return Answer(is_silent=True)


def crashes() -> Answer:
    """The worker dies during the attempt. Its lease runs out after 8 s and the task is tried again; not for ever."""
    return Answer(is_silent=True, crashes=True)


def says(*turns: Json) -> Answer:
    """The model of an AI task says these, one a turn: text, a decision, or {toolCalls, usage, …} as in a `script`.

    An object with an `event` or `result` is the JSON that a model would answer with. The policy of the task holds.
    """
    return Answer(turns=tuple(_turn(said) for said in turns))


def _turn(said: Json) -> Json:
    is_decision = isinstance(said, dict) and not set(said).isdisjoint({"event", "result"})
    return {"json": clean(said)} if is_decision else clean(said)


Answering: TypeAlias = Callable[[Json, int], Any]


@dataclass(frozen=True, slots=True)
class Script:
    """The answers to the attempts of each task, one by one; the last one answers all that come after it."""

    answers: tuple[Answer | Continue | Answering, ...]

    def answer(self, input: Json, attempt: int) -> Answer:
        """The answer to attempt number `attempt`, from 1; it counts on over attempts that went on (`Continue`).

        What a function returns is the output, what it raises the error.
        """
        chosen = self.answers[min(attempt, len(self.answers)) - 1]
        if isinstance(chosen, Answer | Continue):
            return _answer_of(chosen)
        try:
            said = chosen(input, attempt)
        except AssertionError:
            raise  # it is the test that speaks, not the handler
        except Exception as error:  # noqa: BLE001 - the failure of a handler is data, here as in a task runner
            return Answer(error=described(error))
        return _answer_of(said)


def _answer_of(said: Json) -> Answer:
    """What was said as an answer: one already, a `Continue`, or an output."""
    if isinstance(said, Answer):
        return said
    if isinstance(said, Continue):
        return result_answer(stored(said))
    return succeeds(said)


def result_answer(result: Result) -> Answer:
    """The answer that a handler's result is, at once."""
    return Answer(result.output, result.error, again_ms=result.again_ms, state=result.state)


def script_of(answers: tuple[Answer | Continue | Answering, ...], subject: str) -> Script:
    """Read what a test says. Raises `TypeError` naming the `subject` for no answer, or for what is none."""
    if not answers:
        raise TypeError(f"{subject}: expected at least one answer, such as succeeds() or fails()")
    for answer in answers:
        if not isinstance(answer, Answer | Continue) and not callable(answer):
            raise TypeError(
                f"{subject}: expected succeeds(…), fails(…), hangs(), crashes(), a Continue or a function of "
                f"(input, attempt), found {answer!r}"
            )
    return Script(answers)
