"""Inputs that a definition writes, asked as far as they are literals: what no evaluation can make right is an error, no more."""

from typing import Any

import pytest

from common.literals import MAX_PROBLEMS, literal_problems
from common.schemas import compile_schema

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["url", "method"],
    "additionalProperties": False,
    "properties": {
        "url": {"type": "string", "pattern": "^https?://"},
        "method": {"enum": ["GET", "POST"]},
        "tags": {"type": "array", "minItems": 1, "items": {"type": "string"}, "uniqueItems": True},
        "body": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        "mode": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["deep"]}]},
        "never": False,
    },
    "not": {"required": ["body", "mode"]},
    "if": {"properties": {"method": {"const": "GET"}}},
    "then": {"properties": {"tags": {"maxItems": 2}}},
    "else": {"required": ["body"]},
}
GOOD: dict[str, Any] = {"url": "https://x", "method": "GET"}


def places(value: Any) -> list[str]:
    return [problem.path for problem in literal_problems(compile_schema(SCHEMA), value, "input")]


@pytest.mark.parametrize(
    "value",
    [
        GOOD,
        "${context.request}",
        "$.request",
        {"url": "${context.url}", "method": "$.method"},
        {"url": "https://x/${input.id}", "method": "${context.method}"},
        {**GOOD, "tags": ["${context.tag}", "${context.tag}"]},
        {**GOOD, "tags": "${context.tags}"},
        {**GOOD, "body": {"n": "${context.n}"}},
        {**GOOD, "mode": {"${": "$.x"}} | {"mode": "${context.mode}"},
        {**GOOD, "method": "${context.method}", "tags": ["a", "b", "c"]},
        {**GOOD, "method": "${context.method}"},
        {**GOOD, "mode": {"other": "${context.deep}", "deep": 1}},
    ],
)
def test_what_may_turn_out_right_is_no_problem(value: Any) -> None:
    assert places(value) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, ["input", "input"]),
        ({"url": "${context.url}"}, ["input"]),
        ({**GOOD, "url": "ftp://x", "body": {"n": "${context.n}"}}, ["input.url"]),
        ({**GOOD, "method": "PUT", "body": {"n": 1}}, ["input.method"]),
        ({**GOOD, "url": "$.url", "metod": "${context.m}"}, ["input.metod"]),
        ({**GOOD, "url": "$.url", "tags": []}, ["input.tags"]),
        ({**GOOD, "url": "$.url", "tags": ["a", 7, "${context.tag}"]}, ["input.tags[1]"]),
        ({**GOOD, "url": "$.url", "tags": {"a": "${context.a}"}}, ["input.tags"]),
        ({**GOOD, "url": "$.url", "body": {"m": "${context.m}"}}, ["input.body"]),
        ({**GOOD, "url": "$.url", "mode": {"other": 1}}, ["input.mode"]),
        ({**GOOD, "url": "$.url", "never": "${context.x}"}, ["input.never"]),
        ({**GOOD, "body": {"n": 1}, "mode": None}, ["input"]),
    ],
)
def test_what_no_evaluation_makes_right_is_one(value: Any, found: list[str]) -> None:
    assert places(value) == found


def test_a_problem_has_a_code_and_a_suggestion() -> None:
    [problem] = literal_problems(compile_schema(SCHEMA), {**GOOD, "metod": 1}, "states.a.invoke.input")
    assert problem.to_json() == {
        "severity": "error",
        "code": "task.input",
        "path": "states.a.invoke.input.metod",
        "message": "'metod' is not known here; there are body, method, mode, never, tags, url",
        "suggestion": "method",
    }


def test_problems_are_bounded() -> None:
    wrong = {**GOOD, "tags": [*range(100)]}
    assert len(places(wrong)) == MAX_PROBLEMS


def test_a_value_that_costs_too_much_is_told_so() -> None:
    schema = compile_schema({"items": {"allOf": [{"type": "integer"}] * 9_000}})
    [problem] = literal_problems(schema, [1] * 10_000, "input")
    assert problem.code == "schema.too_expensive"
