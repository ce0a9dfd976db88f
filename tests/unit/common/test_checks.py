"""The catalogue of docs/checks.md: each example causes its code, and each code that a check can tell is there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from common.canonical import dumps
from common.commands.definitions import find_problems
from common.store.definitions import PublishedTypes
from statechart.tasks import READERS
from tests.unit.statechart.charts import document_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/checks.md").read_text()
ENTRY = re.compile(r"^### `([a-z_.]+)` \((error|warning)\)\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"```json\n(.*?)```", re.DOTALL)
WRITTEN_BY_TEST = re.compile(r"the tests write it \(`(\w+)`\)")
TYPES = re.compile(r"^Known types: (.*)\.$", re.MULTILINE)
FUNCTIONS = re.compile(r"^Known functions: (.*)\.$", re.MULTILINE)
WORKFLOWS = re.compile(r"^Known workflows: (.*)\.$", re.MULTILINE)


def nested(levels):
    """States inside states."""
    document = {"id": "example", "initial": "s", "states": {"s": {}}}
    inner = document["states"]["s"]
    for _ in range(levels - 1):
        inner.update(initial="s", states={"s": {}})
        inner = inner["states"]["s"]
    return document


def deep_value(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


LARGE = {
    "deep": lambda: {"id": "example", "context": {"value": deep_value(100)}},
    "nested": lambda: nested(33),
    "states": lambda: {"id": "example", "type": "parallel", "states": {f"s{n}": {} for n in range(5_001)}},
    "values": lambda: {"id": "example", "context": {"list": [0] * 200_001}},
    "expressions": lambda: document_of(
        {"a": {"entry": [{"type": "assign", "path": "n", "value": "${1}"}] * 10_001}}
    ),
    "guards": lambda: document_of(
        {"a": {"on": {"GO": {"guard": "g20"}}}},
        guards={
            "g0": "true",
            **{f"g{n}": {"type": "and", "guards": [f"g{n - 1}"] * 2} for n in range(1, 21)},
        },
    ),
    "configs": lambda: document_of(
        {"a": {"on": {"GO": {"guard": " || ".join(f"config.m.k{n} == 1" for n in range(201))}}}}
    ),
    "expensive": lambda: document_of(
        {
            "a": {"invoke": {"src": "sum", "input": [1] * 10_000, "onDone": "b", "onError": "b"}},
            "b": {"type": "final"},
        },
        id="example",
    ),
    "long": lambda: document_of({"a": {"on": {"GO": {"guard": f"1 == {'1' * 10_000}"}}}}),
    "nesting": lambda: document_of({"a": {"on": {"GO": {"guard": f"{'(' * 200}true{')' * 200}"}}}}),
}


# What the task types of the examples publish of their inputs, as a runner would.
INPUTS = {
    ("charge", ""): dumps({"type": "object", "required": ["amount"]}),
    ("sum", ""): dumps({"items": {"allOf": [{"type": "integer"}] * 9_000}}),
}
SOURCES = (
    *(ROOT / "statechart").glob("compile*.py"),
    *(ROOT / "statechart").glob("check*.py"),
    *(ROOT / "statechart" / f"{name}.py" for name in ("document", "findings", "links", "reading", "workflows")),
    *(ROOT / "common/commands" / f"{name}.py" for name in ("activation", "contracts", "definitions", "task_options")),
    ROOT / "common/literals.py",
)  # fmt: skip
CODE = re.compile(r"[a-z]+\.[a-z_]+")
NO_CODES = {"defaults.retry"}  # a place
OF_DATA = {"input.invalid", "event.invalid"}  # what a start or an event is refused with, no definition
ELSEWHERE = {"schema.too_expensive"}  # from where schemas are asked


def entries():
    for code, severity, text in ENTRY.findall(PAGE):
        large = WRITTEN_BY_TEST.search(text)
        example = EXAMPLE.search(text)
        assert large or example, f"{code} has no example"
        types, workflows = names_in(TYPES, text), names_in(WORKFLOWS, text)
        known = PublishedTypes(types, names_in(FUNCTIONS, text) or frozenset(), workflows, INPUTS)
        document = LARGE[large[1]]() if large else json.loads(example[1])
        yield pytest.param(code, severity, document, known, id=code)


def names_in(line, text):
    found = line.search(text)
    return frozenset(re.findall(r"`([^`]+)`", found[1])) if found else None


@pytest.mark.parametrize(("code", "severity", "document", "known"), list(entries()))
def test_the_example_causes_its_code(code, severity, document, known):
    problems = find_problems(document, known)

    found = [problem for problem in problems if problem.code == code]
    assert found, f"found {[problem.code for problem in problems]} instead"
    assert {problem.severity for problem in found} == {severity}
    others = [problem for problem in problems if problem.code != code and problem.severity == "error"]
    assert others == []


def test_every_code_that_the_source_names_is_in_the_catalogue():
    listed = {code for code, _, _ in ENTRY.findall(PAGE)}
    told = set().union(*map(codes_in, SOURCES)) - NO_CODES - OF_DATA
    read = {code for code, _ in READERS.values()}

    assert (told | read | ELSEWHERE) - listed == set()
    assert len(told) > 80


def codes_in(path):
    """Every text of a source that is a code, but for those of errors that are raised (`code=…`), and places."""
    parts = list(ast.walk(ast.parse(path.read_text())))
    raised = [part.value for part in parts if isinstance(part, ast.keyword) and part.arg == "code"]
    calls = [part for part in parts if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)]
    places = [argument for call in calls if call.func.id == "join" for argument in call.args]
    texts = [part for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return {part.value for part in texts if part not in (*raised, *places) and CODE.fullmatch(part.value)}
