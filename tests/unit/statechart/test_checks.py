"""The catalogue of docs/checks.md: each example causes its code, and each code that the source names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import statechart
from tests.unit.statechart.charts import document_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/checks.md").read_text()
ENTRY = re.compile(r"^### `([a-z_.]+)` \((error|warning)\)\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"```json\n(.*?)```", re.DOTALL)
WRITTEN_BY_TEST = re.compile(r"the tests write it \(`(\w+)`\)")
TYPES = re.compile(r"^Known types: (.*)\.$", re.MULTILINE)
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
    "long": lambda: document_of({"a": {"on": {"GO": {"guard": f"1 == {'1' * 10_000}"}}}}),
    "nesting": lambda: document_of({"a": {"on": {"GO": {"guard": f"{'(' * 200}true{')' * 200}"}}}}),
}


def entries():
    for code, severity, text in ENTRY.findall(PAGE):
        large = WRITTEN_BY_TEST.search(text)
        example = EXAMPLE.search(text)
        assert large or example, f"{code} has no example"
        known = {"task_types": names_in(TYPES, text), "workflows": names_in(WORKFLOWS, text)}
        document = LARGE[large[1]]() if large else json.loads(example[1])
        yield pytest.param(code, severity, document, known, id=code)


def names_in(line, text):
    found = line.search(text)
    return re.findall(r"`([^`]+)`", found[1]) if found else None


@pytest.mark.parametrize(("code", "severity", "document", "known"), list(entries()))
def test_the_example_causes_its_code(code, severity, document, known):
    problems = statechart.check(document, **known)

    found = [problem for problem in problems if problem.code == code]
    assert found, f"found {[problem.code for problem in problems]} instead"
    assert {problem.severity for problem in found} == {severity}
    others = [problem for problem in problems if problem.code != code and problem.severity == "error"]
    assert others == []


def test_every_code_that_the_source_names_is_in_the_catalogue():
    source = "\n".join(path.read_text() for path in (ROOT / "statechart").glob("*.py"))
    named = re.findall(r'(?:\.error|warning|_error|\.add)\(\s*(?:"error",\s*)?f?"([a-z]+\.[a-z_]+)"', source)
    listed = {code for code, _, _ in ENTRY.findall(PAGE)}

    assert set(named) - listed == set()
    assert len(named) > 25


@pytest.mark.parametrize("path", sorted((ROOT / "fixtures").glob("001-*.json")), ids=lambda path: path.name)
def test_no_fixture_in_our_format_raises_an_alarm(path):
    assert statechart.check(json.loads(path.read_text())) == []


GOOD = {
    "toggle": document_of({"off": {"on": {"FLIP": "on"}}, "on": {"on": {"FLIP": "off"}}}),
    "monitor": document_of(
        {
            "watching": {"on": {"PING": {"actions": {"type": "log", "message": "ping"}}, "END": "end"}},
            "end": {"type": "final"},
        }
    ),
    "retry with a guard": document_of(
        {
            "try": {"invoke": {"src": "HTTP", "onDone": "ok", "onError": "again"}},
            "again": {"always": [{"target": "try", "guard": "context.n < 3"}, "failed"]},
            "ok": {"type": "final"},
            "failed": {"type": "final"},
        },
        context={"n": 0},
    ),
    "join": document_of(
        {
            "p": {
                "type": "parallel",
                "onDone": "end",
                "states": {
                    name: {
                        "initial": "work",
                        "states": {
                            "work": {"invoke": {"src": name, "onDone": "done", "onError": "#m.failed"}},
                            "done": {"type": "final"},
                        },
                    }
                    for name in ("ship", "bill")
                },
            },
            "end": {"type": "final"},
            "failed": {"type": "final"},
        }
    ),
    "left by a neighbour": document_of(
        {
            "p": {
                "type": "parallel",
                "states": {
                    "idle": {},
                    "work": {"initial": "one", "states": {"one": {"on": {"GO": "#m.end"}}}},
                },
            },
            "end": {"type": "final"},
        }
    ),
    "catch all beside a wildcard": document_of(
        {
            "a": {
                "initial": "b",
                "states": {"b": {"on": {"order.*": "c", "NEXT": "c"}}, "c": {"type": "final"}},
                "on": {"CANCEL": "end"},
                "onDone": "end",
            },
            "end": {"type": "final"},
        }
    ),
    "history": document_of(
        {
            "a": {
                "initial": "one",
                "states": {
                    "one": {"on": {"N": "two"}},
                    "two": {},
                    "h": {"type": "history", "history": "deep"},
                },
                "on": {"PAUSE": "paused"},
            },
            "paused": {"on": {"RESUME": "a.h", "END": "end"}},
            "end": {"type": "final"},
        }
    ),
    "task and its answers": document_of(
        {
            "a": {
                "entry": {"type": "createTask", "task": {"type": "EMAIL", "completionEvent": "SENT"}},
                "on": {"SENT": "end", "error.task.EMAIL": "failed"},
            },
            "end": {"type": "final"},
            "failed": {"type": "final"},
        }
    ),
}


@pytest.mark.parametrize("document", list(GOOD.values()), ids=list(GOOD))
def test_a_good_chart_raises_no_alarm(document):
    assert statechart.check(document) == []


def test_checking_a_chart_finds_what_checking_its_document_finds():
    document = document_of({"a": {"on": {"GO": "b"}}, "b": {}})

    assert statechart.check(statechart.load(document)) == statechart.check(document)
    assert statechart.load(document).warnings == statechart.check(document)


def test_errors_come_before_warnings():
    document = document_of({"a": {"invoke": {"src": "EMIAL"}, "on": {"GO": "b"}}, "b": {}})

    assert [problem.severity for problem in statechart.check(document, task_types=["EMAIL"])] == [
        "error",
        "warning",
    ]
