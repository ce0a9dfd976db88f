"""References: resolved where the definition wrote them, and nowhere else; what comes back is without the values."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from structlog.testing import capture_logs

from common.canonical import dumps, read
from common.commands.outcome import Outcome
from common.store.claims import TaskClaim
from task_runner.call import call_handler
from task_runner.context import TaskContext
from task_runner.registry import Continue, Permanent, Registry, Retryable, make_handler
from task_runner.resolve import Look, Resolver
from tests.unit.task_runner.test_call import a_claim

VALUES = {"KEY": "sk_live_4711", "other.key-2": "pässword\nof two lines"}


class Known:
    """A kind of reference whose values the test knows; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prepare(self, _tx: Connection, asked: Sequence[tuple[TaskClaim, str]]) -> Look:
        self.asked += [name for _, name in asked]

        def look(_claim: TaskClaim, name: str) -> str:
            if name not in VALUES:
                raise Permanent(f"no {name}", code="secret.unknown")
            return VALUES[name]

        return look


def outcome_of(function: Callable[..., Any], input: Any, *places: list[str | int]) -> Outcome:
    claim = a_claim(input=dumps(input), secrets=dumps(list(places)))
    with create_engine("sqlite://").connect() as tx:
        prepared = Resolver({"secret": Known()}).prepare(tx, [claim])
    registry = Registry()
    registry.add(make_handler("work", function))
    return call_handler(registry, claim, TaskContext(claim), max_output_bytes=10_000, prepared=prepared)


def given_to(input: Any, *places: list[str | int]) -> Any:
    """What the handler is called with."""
    given: list[Any] = []
    outcome = outcome_of(given.append, input, *places)
    assert outcome.error is None, outcome.error
    return given[0]


def test_references_are_resolved_alone_and_within_text() -> None:
    input = {"a": "${secret.KEY}", "b": ["Bearer ${ secret.KEY }!", "${secret.other.key-2}${secret.KEY}"]}

    assert given_to(input, ["a"], ["b", 0], ["b", 1]) == {
        "a": "sk_live_4711",
        "b": ["Bearer sk_live_4711!", "pässword\nof two linessk_live_4711"],
    }


def test_an_input_may_be_a_reference_as_a_whole() -> None:
    assert given_to("${secret.KEY}", []) == "sk_live_4711"


def test_text_that_came_as_data_stays_as_it_is() -> None:
    input = {"a": "${secret.KEY}", "data": "${secret.KEY}", "more": ["${secret.KEY}"]}

    assert given_to(input, ["a"]) == {**input, "a": "sk_live_4711"}


def test_a_value_is_not_searched_for_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, "KEY", "${secret.other.key-2}")

    assert given_to(["${secret.KEY}"], [0]) == ["${secret.other.key-2}"]


@pytest.mark.parametrize("place", [["missing"], ["a", "b"], ["a", 0], ["list", 5], ["number"]])
def test_a_place_that_is_not_there_is_passed_over(place: list[str | int]) -> None:
    input = {"a": "text", "list": [1], "number": 7}

    assert given_to(input, place) == input


def test_a_claim_without_references_costs_nothing() -> None:
    kind = Known()
    with create_engine("sqlite://").connect() as tx:
        prepared = Resolver({"secret": kind}).prepare(tx, [a_claim(input='"${secret.KEY}"')])

    assert (kind.asked, prepared.looks) == ([], {})


def test_another_kind_of_reference_stays_text() -> None:
    assert given_to(["${link.APPROVE}"], [0]) == ["${link.APPROVE}"]


def test_what_there_is_not_fails_the_task_before_its_handler_is_called() -> None:
    called: list[Any] = []

    outcome = outcome_of(called.append, ["${secret.KEI}"], [0])

    assert called == []
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retryable) == ("secret.unknown", False)


def returns(input: Any) -> Any:
    return {"got": input, input[0]: [f"<{input[0]}>"]}


def raises(input: Any) -> Any:
    try:
        raise KeyError(input[0])
    except KeyError as error:
        raise Retryable(f"no luck with {input[0]}", code=f"x.{input[0]}", data={"sent": input}) from error


def raises_what_is_no_text(input: Any) -> Any:
    raise ValueError({"key": input[0]})


def raises_a_long_text(input: Any) -> Any:
    raise ValueError("x" * 1_995 + input[0])


def continues(input: Any) -> Any:
    return Continue({"with": input}, after=timedelta(seconds=1))


def returns_too_much(input: Any) -> Any:
    return [input[0] * 2_000]


def returns_a_set(input: Any) -> Any:
    return {input[0]: {1: 2}}


def tells_its_progress(input: Any, context: TaskContext) -> Any:
    context.heartbeat({"sent": input})
    return context.redact(f"sent {input[0]}")


@pytest.mark.parametrize(
    "function",
    [
        returns, raises, raises_what_is_no_text, raises_a_long_text, continues, returns_too_much, returns_a_set,
        tells_its_progress,
    ],
)  # fmt: skip
def test_no_value_comes_back(function: Callable[..., Any]) -> None:
    outcome = outcome_of(function, ["${secret.KEY}"], [0])

    told = repr(outcome)
    assert "sk_live" not in told
    assert "[secret KEY]"[:5] in told or function is returns_too_much


def test_output_state_and_errors_say_which_secret_stood_there() -> None:
    output = outcome_of(returns, ["${secret.KEY}"], [0]).output
    state = outcome_of(continues, ["${secret.KEY}"], [0]).state
    error = outcome_of(raises, ["${secret.KEY}"], [0]).error

    assert read(output or "") == {"got": ["[secret KEY]"], "[secret KEY]": ["<[secret KEY]>"]}
    assert read(state or "") == {"with": ["[secret KEY]"]}
    assert error is not None
    assert (error.message, error.code) == ("no luck with [secret KEY]", "x.[secret KEY]")
    assert error.data == {"sent": ["[secret KEY]"]}
    assert "KeyError: '[secret KEY]'" in (error.trace or "")


def test_what_a_handler_logs_is_redacted_the_traceback_too() -> None:
    def work(input: Any, context: TaskContext) -> None:
        context.log.info(f"calling with {input[0]}", key=input, length=12)
        context.log.bind(again=input[0]).warning("bound")
        try:
            raise ValueError(input[0])
        except ValueError:
            context.log.exception("it failed")

    with capture_logs() as lines:
        assert outcome_of(work, ["${secret.KEY}"], [0]).error is None

    assert "sk_live" not in repr(lines)
    first, second, third = lines
    assert first["event"] == "calling with [secret KEY]"
    assert (first["key"], first["length"]) == (["[secret KEY]"], 12)
    assert first["task_id"]
    assert second["again"] == "[secret KEY]"
    assert "ValueError: [secret KEY]" in third["exception"]
