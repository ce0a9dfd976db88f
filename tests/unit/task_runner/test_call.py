"""Calling a handler: whatever it returns or raises becomes an outcome; nothing of it escapes into the slot."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from common import faults
from common.canonical import dumps, read
from common.clock import utc_now
from common.commands.outcome import Outcome
from common.errors import Misconfigured
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, new_id
from common.store.claims import TaskClaim
from common.task_error import TaskError
from statechart.durations import MAX_DURATION_MS
from task_runner.attempt import MAX_CODE, MAX_MESSAGE
from task_runner.call import call_handler
from task_runner.context import MAX_PROGRESS_BYTES, TaskContext
from task_runner.redact import Redaction
from task_runner.registry import Continue, Permanent, Registry, Retryable, make_handler

ROOM = 1_000


def a_claim(type: str = "work", name: str = "job", input: str = "null", **more: Any) -> TaskClaim:
    values: dict[str, Any] = {
        "id": TaskId(new_id()),
        "tenant_id": TenantId(new_id()),
        "instance_id": InstanceId(new_id()),
        "key": "working:0/1",
        "attempt": 1,
        "max_attempts": 3,
        "idempotency_key": None,
        "retry": None,
        "timeout_ms": None,
        "heartbeat_ms": None,
        "options": None,
        "progress": None,
        "completion_event": "DONE",
        "failure_event": "FAILED",
        "joined_keys": None,
        "run_at": utc_now(),
        "token": LeaseToken(new_id()),
        **more,
    }
    return TaskClaim(type=type, name=name, input=input, **values)


def called(function: Callable[..., Any], **claim: Any) -> Outcome:
    registry = Registry()
    registry.add(make_handler("work", function))
    made = a_claim(**claim)
    return call_handler(registry, made, TaskContext(made), max_output_bytes=ROOM)


def failure(function: Callable[..., Any], **claim: Any) -> TaskError:
    outcome = called(function, **claim)
    assert outcome.output is None
    assert outcome.error is not None
    return outcome.error


def raising(error: BaseException) -> Callable[[Any], Any]:
    def handler(_input: Any) -> Any:
        raise error

    return handler


def test_a_handler_gets_its_input_and_returns_canonical_text() -> None:
    outcome = called(lambda input: {"twice": input["n"] * 2, "also": (1.0, None)}, input='{"n":21}')

    assert outcome.output == '{"also":[1,null],"twice":42}'
    assert outcome.error is None


def test_a_handler_with_two_parameters_gets_the_context_too() -> None:
    outcome = called(
        lambda _input, context: [context.attempt, context.idempotency_key], idempotency_key="k", attempt=2
    )

    assert outcome.output == '[2,"k"]'


def test_a_task_without_idempotency_key_is_known_by_its_id() -> None:
    claim = a_claim()
    assert TaskContext(claim).idempotency_key == claim.id


def test_a_system_task_is_the_function_of_its_name() -> None:
    outcome = called(lambda _input: "ran", type="SYSTEM", name="work")
    assert outcome.output == '"ran"'


def test_an_exception_becomes_an_error_with_its_name_and_trace() -> None:
    error = failure(raising(ValueError("no such order")))

    assert (error.code, error.message, error.retryable) == ("ValueError", "no such order", None)
    assert error.trace is not None
    assert "test_call.py" in error.trace


@pytest.mark.parametrize(
    ("raised", "code", "retryable"),
    [
        (Retryable("later"), "handler.retryable", True),
        (Retryable("later", code="rate.limited"), "rate.limited", True),
        (Permanent("never"), "handler.permanent", False),
        (Permanent("never", code="card.declined", data={"reason": "expired"}), "card.declined", False),
    ],
)
def test_retryable_and_permanent_say_so(raised: Permanent | Retryable, code: str, retryable: bool) -> None:
    error = failure(raising(raised))

    assert (error.code, error.retryable, error.data) == (code, retryable, raised.data)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_handler_cannot_end_its_process_by_an_exception(raised: BaseException) -> None:
    assert failure(raising(raised)).code == type(raised).__name__


def test_an_injected_fault_is_not_taken_for_a_failure() -> None:
    with pytest.raises(faults.FaultInjected):
        called(raising(faults.FaultInjected()))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("my own text fails")


def test_an_exception_that_cannot_say_what_it_is_costs_nothing_but_its_task() -> None:
    assert failure(raising(Unspeakable())).message == "Unspeakable"


class Leaving(Exception):
    """Whoever asks what it says is to leave."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Slippery(str):
    def __getitem__(self, _key: Any) -> str:
        raise SystemExit("no part of me")


class SlipperyText(Exception):
    def __str__(self) -> str:
        return Slippery("no")


class NoClass(Exception):
    @property
    def __class__(self) -> Any:
        raise SystemExit("of what class it is, it does not say")


class NoNotes(Exception):
    @property
    def __notes__(self) -> Any:
        raise KeyboardInterrupt


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(4)


class OfNamelessClass(Exception, metaclass=Nameless):
    pass


class Coy(Permanent):
    @property
    def code(self) -> str:  # type: ignore[override]
        raise SystemExit(5)

    @code.setter
    def code(self, _value: str) -> None:
        pass


HOSTILE: Mapping[str, tuple[Callable[[], BaseException], str, str]] = {
    "text": (Leaving, "Leaving", "Leaving"),
    "slices": (SlipperyText, "SlipperyText", "no"),
    "class": (lambda: NoClass("no"), "NoClass", "no"),
    "notes": (lambda: NoNotes("no"), "NoNotes", "no"),
    "name": (lambda: OfNamelessClass("no"), "Exception", "no"),
    "code": (lambda: Coy("no"), "Coy", "no"),
    # As parsers raise it: `traceback` itself trips over what they give for the column and the text.
    "column": (
        lambda: SyntaxError("bad token", ("rules.dsl", 3, "col 7", "when x")), "SyntaxError", "bad token (rules.dsl, line 3)",
    ),
    "bytes": (lambda: SyntaxError("bad token", ("rules.dsl", 3, 7, b"when x")), "SyntaxError", "bad token (rules.dsl, line 3)"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_an_exception_that_trips_up_who_reads_it_fails_its_task_and_nothing_else(what: str) -> None:
    make, code, message = HOSTILE[what]

    error = failure(lambda _input: raising(make())(None))

    assert (error.code, error.message) == (code, message)


def test_the_name_of_an_error_is_bounded() -> None:
    error = failure(raising(type("E" * 20_000, (Exception,), {})("no")))
    assert error.code == "E" * MAX_CODE


@pytest.mark.parametrize("after", [timedelta.max, timedelta.min])
def test_a_wait_that_nobody_lives_to_see_is_as_long_as_the_longest(after: timedelta) -> None:
    error = failure(raising(Retryable("later", after=after)))
    again = called(lambda _input: Continue(after=after))

    assert error.retry_after_ms == again.again_ms == (MAX_DURATION_MS if after > timedelta(0) else 0)


def test_a_wait_that_is_none_makes_an_output_that_cannot_be_stored() -> None:
    error = failure(lambda _input: Continue(after=5))  # type: ignore[arg-type]
    assert (error.code, error.retryable) == ("output.invalid", False)


def test_a_fault_of_the_engine_itself_ends_its_task_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised on, it would leave the task held for ever, its lease beaten."""

    def broken(*_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("task_runner.call.attempt", broken)
    assert failure(lambda _input: None).message == "a bug"


def test_the_words_of_an_error_are_storable_and_bounded() -> None:
    error = failure(raising(ValueError("nul \x00, surrogate \ud800, " + "x" * 10_000)))

    assert error.message.startswith("nul ␀, surrogate ?, xxx")
    assert len(error.message) == MAX_MESSAGE


@pytest.mark.parametrize("data", [object(), {"a": "\x00"}, {1: 2}, float("nan"), ["\ud800"], 2**60])
def test_error_data_that_cannot_be_stored_is_named_instead(data: Any) -> None:
    error = failure(raising(Permanent("no", data=data)))
    assert error.data == f"data of type {type(data).__name__} that cannot be stored"


def test_error_data_is_bounded() -> None:
    assert failure(raising(Permanent("no", data="x" * 100_000))).data == "more than 64000 bytes of data"


class Ambush(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("gotcha")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "output",
    [
        "nul \x00",
        {"deep": ["\ud800"]},
        float("inf"),
        {"amount": float("nan")},
        2**53 + 1,
        {1: "number as key"},
        object(),
        b"bytes",
        {"set": {1}},
        Ambush(),
    ],
)
def test_an_output_that_cannot_be_stored_fails_its_task_for_good(output: Any) -> None:
    error = failure(lambda _input: output)

    assert error.code == "output.invalid"
    assert error.retryable is False
    assert error.message.startswith("the handler's output cannot be stored: ")


def test_an_output_is_measured_in_bytes() -> None:
    assert called(lambda _input: "é" * 499).output is not None  # 2 * 499 + 2 quotes

    error = failure(lambda _input: "é" * 500)
    assert (error.code, error.retryable) == ("output.too_large", False)
    assert "returned 1002 bytes, at most 1000" in error.message


def test_a_handler_that_this_process_does_not_have_is_named_with_a_suggestion() -> None:
    error = failure(lambda _input: None, type="SYSTEM", name="wrok")
    assert 'no handler "wrok" in this task runner; did you mean "work"?' in error.message


def test_the_fault_point_after_a_handler_is_passed_only_when_it_returned() -> None:
    passed: list[str] = []
    faults.arm("after_handler", lambda: passed.append("passed"))
    try:
        called(raising(ValueError("no")))
        assert passed == []
        called(lambda _input: None)
        assert passed == ["passed"]
    finally:
        faults.disarm()


def test_progress_is_handed_over_once_and_given_to_the_next_attempt() -> None:
    claim = a_claim(progress='{"page":3}')
    context = TaskContext(claim)
    assert context.progress == {"page": 3}

    context.heartbeat({"page": 4})
    context.heartbeat({"page": 5})

    assert read(context.take_unsaved_progress() or "null") == {"page": 5}
    assert context.take_unsaved_progress() is None


def test_a_cancelled_context_says_so() -> None:
    context = TaskContext(a_claim())
    assert not context.cancelled
    context.cancel()
    assert context.cancelled


def test_a_sign_of_life_without_progress_keeps_the_progress() -> None:
    context = TaskContext(a_claim())
    context.heartbeat({"page": 4})
    context.heartbeat()
    assert context.last_progress == '{"page":4}'
    context.heartbeat(None)
    assert context.last_progress == "null"


def test_progress_is_bounded() -> None:
    context = TaskContext(a_claim())
    context.heartbeat("x" * (MAX_PROGRESS_BYTES - 2))
    with pytest.raises(Permanent, match="at most 64000") as refused:
        context.heartbeat("x" * MAX_PROGRESS_BYTES)
    assert refused.value.code == "progress.too_large"
    assert context.last_progress == f'"{"x" * (MAX_PROGRESS_BYTES - 2)}"'


def test_who_waits_for_a_cancel_is_told_also_when_it_came_before() -> None:
    context = TaskContext(a_claim())
    told: list[str] = []
    context.cancel()
    context.on_cancel(lambda: told.append("at once"))
    assert told == ["at once"]
    context.on_cancel(None)
    context.cancel()
    assert told == ["at once"]


# -- schemas ------------------------------------------------------------------------------------------------------

LINES = {"type": "object", "required": ["lines"], "properties": {"lines": {"type": "array"}}}


def with_schemas(
    function: Callable[..., Any], *, input: str, hidden: Mapping[str, str] | None = None
) -> Outcome:
    registry = Registry()
    registry.add(make_handler("work", function, input_schema=LINES, output_schema={"type": "integer"}))
    made = a_claim(input=input)
    context = TaskContext(made)
    context.conceal(Redaction(hidden or {}))
    return call_handler(registry, made, context, max_output_bytes=ROOM)


def test_an_input_that_the_schema_refuses_is_not_worked_on() -> None:
    outcome = with_schemas(lambda _input: pytest.fail("called"), input='{"lines":"hunter2hunter2"}')
    assert outcome.error == TaskError(
        "input.invalid",
        'the input is not what the handler\'s schema says: lines: the value is not of type "array"',
        {"problems": [{"path": "lines", "message": 'the value is not of type "array"'}]},
        retryable=False,
    )


def test_an_output_that_the_schema_refuses_is_none() -> None:
    outcome = with_schemas(lambda _input: "hunter2hunter2", input='{"lines":[]}')
    assert (outcome.output, outcome.error and outcome.error.code) == (None, "output.invalid")
    assert outcome.error is not None
    assert outcome.error.data == {"problems": [{"path": "", "message": 'the value is not of type "integer"'}]}
    assert "hunter2" not in outcome.error.message
    assert with_schemas(lambda _input: 7, input='{"lines":[]}').output == "7"


def test_what_goes_on_is_no_output_yet() -> None:
    outcome = with_schemas(lambda _input: Continue("any state"), input='{"lines":[]}')
    assert (outcome.error, outcome.state) == (None, '"any state"')


def test_a_secret_name_of_a_member_is_not_told() -> None:
    strict = {"type": "object", "additionalProperties": False, "properties": {"lines": {}}}
    registry = Registry()
    registry.add(make_handler("work", lambda _input: 1, input_schema=strict))
    made = a_claim(input='{"hunter2hunter2":1}')
    context = TaskContext(made)
    context.conceal(Redaction({"[secret KEY]": "hunter2hunter2"}))
    outcome = call_handler(registry, made, context, max_output_bytes=ROOM)
    assert outcome.error is not None
    assert "hunter2" not in dumps(outcome.error.to_json())
    assert "[secret KEY]" in outcome.error.message


def test_a_handler_with_a_schema_that_is_none_is_not_registered() -> None:
    with pytest.raises(Misconfigured, match=r'handler "work": input_schema: type: expected one of array, '):
        make_handler("work", lambda _input: 1, input_schema={"type": "objct"})
    with pytest.raises(Misconfigured, match="output_schema"):
        make_handler("work", lambda _input: 1, output_schema={"$ref": "http://example.com/x"})
