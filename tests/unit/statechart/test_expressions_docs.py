"""docs/expressions.md says what the language does: its examples run, and its lists are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from statechart.cel import errors, patterns
from statechart.cel.compiler import MACROS, MAX_HEIGHT
from statechart.cel.functions import GLOBALS, METHODS
from statechart.cel.syntax import MAX_LENGTH, MAX_NESTING
from statechart.cel.values import MAX_VALUE_DEPTH
from statechart.expressions import MAX_OPERATIONS, ROOTS
from statechart.operators import OPERATORS, UNKNOWN_OPERATOR
from tests.unit.statechart.common_scope import COMMON, answer

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "expressions.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^(?P<text>.+?)\s*// (?:=> (?P<value>.+)|error (?P<error>[a-z._]+))$", re.MULTILINE)
EXAMPLES = [
    match.groupdict()
    for block in re.findall(r"```cel\n(.*?)```", PAGE, re.DOTALL)
    for match in EXAMPLE.finditer(block)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["text"][:50])
def test_the_example_is_true(example):
    found = answer(example["text"], COMMON | {"event": {"type": "PAY"}})

    if example["error"]:
        assert found == {"error": example["error"]}
    else:
        assert json.dumps(found) == json.dumps({"value": json.loads(example["value"])})


def test_every_line_of_the_examples_is_tested():
    lines = [
        line
        for block in re.findall(r"```cel\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines()
        if line
    ]

    assert len(lines) == len(EXAMPLES) > 30


@pytest.mark.parametrize("name", sorted({*GLOBALS, *METHODS, *MACROS, "uuid", "random"}))
def test_every_function_is_listed(name):
    assert re.search(rf"\b{re.escape(name)}\b", PAGE)


@pytest.mark.parametrize("name", [*ROOTS, *OPERATORS])
def test_every_root_and_operator_is_listed(name):
    assert f"`{name}`" in PAGE


def test_every_code_is_listed():
    codes = {
        value for value in vars(errors).values() if isinstance(value, str) and value.startswith("expression.")
    }

    assert {*re.findall(r"`(expression\.[a-z_]+)`", PAGE)} == codes | {patterns.PATTERN, UNKNOWN_OPERATOR}


@pytest.mark.parametrize(
    "limit", [MAX_LENGTH, MAX_NESTING, MAX_HEIGHT, MAX_VALUE_DEPTH, MAX_OPERATIONS, patterns.MAX_PROGRAM]
)
def test_every_limit_is_listed(limit):
    assert re.search(rf"\| [^|]*\b{limit:,}\b[^|]* \|", PAGE)
