"""What the kernel's checks must not say: charts that are as they should be raise no alarm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import statechart
from tests.unit.statechart.charts import document_of

ROOT = Path(__file__).parents[3]


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
