"""JSON Schemas: what they say of a value without quoting it, and what a hostile one cannot do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from common.errors import Invalid
from common.schemas import MAX_PROBLEMS, MAX_WEIGHT, Complaint, compile_schema
from tests.support.slowdown import assert_within

ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["lines"],
    "additionalProperties": False,
    "properties": {
        "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}},
        "mode": {"enum": ["fast", "cheap"]},
        "note": {"type": "string", "maxLength": 5, "pattern": "^[a-z]*$"},
    },
    "$defs": {
        "line": {
            "type": "object",
            "properties": {
                "sku": {"type": "string"},
                "count": {"oneOf": [{"type": "integer"}, {"const": "all"}]},
            },
        }
    },
}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.process_time()
    yield
    assert_within(time.process_time() - began, seconds, clock=time.process_time)


def only(schema: Any, value: Any) -> Complaint:
    [found] = compile_schema(schema).complaints(value)
    return found


def test_what_is_right_has_no_problems() -> None:
    order = {"lines": [{"sku": "a", "count": 1}, {"count": "all"}], "mode": "fast", "note": "abc"}
    assert compile_schema(ORDER).problems(order) == []


def test_each_problem_has_its_place() -> None:
    wrong = {"lines": [{"sku": "a"}, {"sku": 7, "count": "some"}], "note": "abcdef"}
    assert compile_schema(ORDER).problems(wrong) == [
        {"path": "lines[1].sku", "message": 'the value is not of type "string"'},
        {
            "path": "lines[1].count",
            "message": 'the value is not of type "integer", or "all" was expected',
        },
        {"path": "note", "message": "the value is longer than 5 characters"},
    ]


@pytest.mark.parametrize("value", ["hunter2hunter2", {"hunter2": 1}, ["hunter2"]])
def test_no_value_is_quoted(value: Any) -> None:
    for schema in ({"type": "integer"}, {"const": 1}, {"enum": [1, 2]}, {"maxLength": 1, "type": "null"},
                   {"anyOf": [{"type": "null"}, {"type": "integer"}]}, {"not": {}}, False):  # fmt: skip
        for problem in compile_schema(schema).problems(value):
            assert "hunter2" not in problem["message"]


def test_a_misspelt_member_gets_a_suggestion() -> None:
    found = only(ORDER, {"lines": [{}], "mod": "fast"})
    assert (found.path, found.suggestion, found.message) == (
        ("mod",), "mode", "'mod' is not known here; there are lines, mode, note",
    )  # fmt: skip
    assert only(ORDER, {"lines": [{}], "mode": "fst"}).suggestion == "fast"


def test_problems_are_bounded() -> None:
    numbers = compile_schema({"items": {"type": "null"}})
    assert len(numbers.problems([1] * 1_000)) == MAX_PROBLEMS
    assert numbers.problems([None] * 150_000 + [1] * 40_000) == [
        {"path": "[150000]", "message": 'the value is not of type "null"'}
    ]


def test_equal_schemas_are_compiled_once() -> None:
    assert compile_schema({"type": "object", "minProperties": 1}) is compile_schema(
        {"minProperties": 1, "type": "object"}
    )


LAUGHS: dict[str, Any] = {
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}},
    "$ref": "#/$defs/d0",
}
IN_A_CIRCLE = {"properties": {"child": {"$ref": "#"}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("object", "expected an object"),
        (None, "expected an object"),
        ([], "expected an object"),
        ({"type": "strin"}, "type: expected one of"),
        ({"properties": {"a": {"minimum": "x"}}}, "properties.a.minimum: expected a number"),
        ({"$ref": "http://example.com/x"}, "expected a place in the schema"),
        ({"$ref": "file:///etc/passwd"}, "expected a place in the schema"),
        ({"$ref": "other.json#/x"}, "expected a place in the schema"),
        ({"$ref": "#/$defs/none"}, "there is nothing at"),
        ({"$schema": "http://example.com/x"}, "meta-schema"),
        ({"$defs": {"a": {"$id": "http://example.com/y"}}}, "$id"),
        ({"pattern": "(?=a)"}, "regex"),
        ({"pattern": r"(a)\1"}, "regex"),
        ({"pattern": "((a{1000}){1000}){1000}"}, "regex"),
        ({"allOf": [{"pattern": f"x{n}"} for n in range(201)]}, "at most 200 patterns"),
        ({"$defs": {"a": {"patternProperties": {f"x{n}": {} for n in range(201)}}}}, "at most 200 patterns"),
        (IN_A_CIRCLE, "cannot refer to itself"),
        ({"$ref": "#"}, "cannot refer to itself"),
        ({"$ref": "#/%24defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "cannot refer to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}}, "cannot refer to itself"),
        (LAUGHS, "parts of a schema"),
        ({"allOf": [{}] * (MAX_WEIGHT + 1)}, "parts of a schema"),
        ({"description": "x" * 300_000}, "bytes"),
    ],
)
def test_a_schema_that_is_none_or_is_not_bounded_is_refused(schema: Any, said: str) -> None:
    with within(1), pytest.raises(Invalid) as refused:
        compile_schema(schema)
    assert refused.value.code == "schema.invalid"
    assert said in str(refused.value)
    assert len(str(refused.value)) <= 600


def test_costly_patterns_are_compiled_within_bounds() -> None:
    with within(1.5):
        compile_schema({"allOf": [{"pattern": f"x{n}(a{{100}}){{100}}"} for n in range(200)]})


def test_a_deep_schema_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"not": deep}
    compile_schema(deep)
    for _ in range(10):
        deep = {"not": deep}
    with pytest.raises(Invalid, match="levels"):
        compile_schema(deep)


def test_a_handler_s_own_schema_may_refer_to_itself() -> None:
    tree = compile_schema({**IN_A_CIRCLE, "required": ["name"]}, trusted=True)
    assert tree.problems({"name": 1, "child": {"name": 2, "child": {}}}) == [
        {"path": "child.child", "message": '"name" is a required property'}
    ]
    with pytest.raises(Invalid):
        compile_schema({"$ref": "http://example.com/x"}, trusted=True)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"allOf": [{"type": "integer"}] * 2_000}}, list(range(100_000))),
        ({"items": {"allOf": [{"pattern": f"^(a|b|ab)*{n}$"} for n in range(100)]}}, ["ab" * 500_000]),
        ({"patternProperties": {f"^(a|b|ab)*{n}$": {} for n in range(100)}}, {"ab" * 500_000: 1}),
        ({"items": {"enum": [{"a": n} for n in range(600)]}}, [{"a": -1}] * 1_000),
        ({"items": {"enum": [str(n) for n in range(9_000)]}}, ["x"] * 2_000),
        ({"items": {"type": "null"}}, [0] * 190_000),
        ({"uniqueItems": True}, [{"a": n} for n in range(60_000)]),
        ({"contains": {"const": 1}, "minContains": 9}, [0] * 190_000),
    ],
)
def test_asking_is_bounded(schema: Any, value: Any) -> None:
    with within(1.5):
        compile_schema(schema).problems(value)
