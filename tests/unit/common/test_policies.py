"""Policies that a definition writes out are looked at when it is applied."""

from typing import Any

import pytest

from common.commands.policies import policy_problems
from tests.support.ai import asking

INNER = {"type": "AI", "policy": {"allow": 1}}


@pytest.mark.parametrize("policy", [None, {}, {"allowedEvents": ["A"]}, {"maxTurns": "${context.turns}"}])
def test_what_can_be_read_or_is_computed_is_accepted(policy: Any) -> None:
    assert list(policy_problems(asking([], policy))) == []


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
    [problem] = policy_problems(asking([], policy))

    assert (problem.severity, problem.code) == ("error", "task.policy")
    assert problem.path == "states.thinking.entry[0].task.policy"
    assert said in problem.message


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
    assert len(list(policy_problems(document))) == 1
