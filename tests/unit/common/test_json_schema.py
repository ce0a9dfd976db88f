"""JSON Schemas of definitions: problems by path, nothing fetched, no pattern that takes for ever."""

import time
from typing import Any

import pytest

from common.errors import Invalid
from common.json_schema import MAX_PROBLEMS, compile_schema


def _problems(schema: Any, value: Any) -> list[dict[str, Any]]:
    found = compile_schema(schema).problems(value)
    assert (compile_schema(schema).problem(value) is None) == (not found)
    return found


def test_problems_have_paths() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}, "required": ["b"]}

    found = {one["path"]: one["message"] for one in _problems(schema, {"a": [1, "x"]})}

    assert found == {"": '"b" is a required property', "a.1": '"x" is not of type "integer"'}
    assert _problems(schema, {"a": [1], "b": None}) == []
    assert _problems(True, 1) == []
    assert len(_problems(False, 1)) == 1


def test_there_are_at_most_so_many_problems_and_none_is_long() -> None:
    found = _problems({"items": {"type": "integer"}}, ["x" * 10_000] * 200)
    assert len(found) == MAX_PROBLEMS
    assert max(len(one["message"]) for one in found) <= 300


@pytest.mark.parametrize(
    "schema",
    [
        7, "text", None, [], {"type": "intger"}, {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "file:///etc/passwd"},
        {"$schema": "http://example.org/mine"}, {"pattern": "("}, {"pattern": "(?=a)"}, {"description": "x" * 200_001},
        {"$ref": "#/$defs/0", "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(60)}},
        {"items": [{"$ref": f"#/items/{n + 1}"} for n in range(3)] * 9_000},
    ],
)  # fmt: skip
def test_what_is_no_schema_of_ours_is_refused(schema: Any) -> None:
    with pytest.raises(Invalid, match="JSON Schema") as refused:
        compile_schema(schema)
    assert refused.value.code == "schema.invalid"


def test_a_hostile_schema_costs_no_second() -> None:
    begun = time.perf_counter()
    double = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(12)}
    assert _problems({"$ref": "#/$defs/d0", "$defs": {**double, "d12": {"type": "integer"}}}, 1) == []
    flat = {f"p{n}": {"$ref": "#/$defs/text"} for n in range(500)}
    assert _problems({"properties": flat, "$defs": {"text": {"type": "string"}}}, {"p1": "x"}) == []
    tree = {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    assert _problems(tree, {"left": {"right": {}}}) == []
    assert _problems({"pattern": "(a+)+$"}, "a" * 50_000 + "b") != []
    assert _problems({"$ref": "#"}, 1) == []
    assert time.perf_counter() - begun < 1
