"""Options of tasks that a definition writes out are looked at when it is applied: policies of AI tasks, forms for people."""

from typing import Any

import pytest

from common.commands.task_options import option_problems
from tests.support.ai import asking

INNER = {"type": "AI", "policy": {"allow": 1}}


@pytest.mark.parametrize("policy", [None, {}, {"allowedEvents": ["A"]}, {"maxTurns": "${context.turns}"}])
def test_what_can_be_read_or_is_computed_is_accepted(policy: Any) -> None:
    assert list(option_problems(asking([], policy))) == []


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"allowedEvent": ["A"]}, "unknown member 'allowedEvent'"),
        ({"allowedEvents": ["A*"]}, "without wildcards"),
        ({"allowDirectEmit": "yes"}, "expected true or false"),
        ({"allowedTools": {"x": {"$ref": "http://example.com/x"}}}, "schema"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_place(policy: Any, said: str) -> None:
    [problem] = option_problems(asking([], policy))

    assert (problem.severity, problem.code) == ("error", "task.policy")
    assert problem.path == "states.thinking.entry[0].task.policy"
    assert said in problem.message
    assert not problem.message.startswith("policy"), "the path says so"


@pytest.mark.parametrize(
    "document",
    [
        {"states": {"a": {"invoke": {"src": "AI", "policy": {"allow": 1}}}}},
        {
            "states": {
                "a": {"entry": {"type": "createTask", "task": {"type": "MAP", "input": {"task": INNER}}}}
            }
        },
        {"states": {"a": {"invoke": [{"type": "AI", "policy": {"allow": 1}}]}}},
    ],
)
def test_they_are_found_wherever_a_task_is_asked_for(document: Any) -> None:
    assert len(list(option_problems(document))) == 1


def asked(form: object, **invoke: object) -> dict[str, object]:
    return {"id": "r", "initial": "a", "states": {"a": {"invoke": {"src": "HUMAN", "form": form, **invoke}}}}


@pytest.mark.parametrize("form", [{"type": "object"}, True, None, "${context.form}", {"enum": "$.allowed"}])
def test_a_form_that_can_be_used_or_is_computed_is_let_through(form: object) -> None:
    assert list(option_problems(asked(form))) == []


@pytest.mark.parametrize(
    ("form", "place", "message"),
    [
        ({"type": "objct"}, ".type", 'expected one of array, boolean, integer, null, number, object, string, found "objct"'),
        ({"properties": {"a": {"type": ["string", "nul"]}}}, ".properties.a.type[1]",
         'expected one of array, boolean, integer, null, number, object, string, found "nul"'),
        ({"required": "approved"}, ".required", 'expected a list, found "approved"'),
        ({"minLength": "3"}, ".minLength", 'expected a whole number, found "3"'),
        (7, "", "expected an object, or true or false, found 7"),
        ({"$ref": "https://example.com/form"}, "",
         "$ref: expected a place in the schema such as #/$defs/line, found 'https://example.com/form'"),
    ],
)  # fmt: skip
def test_a_form_that_nobody_could_fill_in_is_refused_with_the_place_in_it(
    form: object, place: str, message: str
) -> None:
    [problem] = option_problems(asked(form))

    assert (problem.severity, problem.code) == ("error", "task.form")
    assert problem.path == f"states.a.invoke.form{place}"
    assert problem.message == message
