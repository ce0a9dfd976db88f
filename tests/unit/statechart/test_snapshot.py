"""Snapshots are plain JSON under agreed keys, and steps write into nothing that they were given."""

from __future__ import annotations

import copy
import json

import statechart
from tests.unit.statechart.charts import NOW, begin, chart_of, env, send


def test_a_snapshot_has_the_agreed_keys():
    chart = chart_of(
        {"a": {"after": {"1h": "b"}, "invoke": {"src": "t", "id": "x"}}, "b": {}}, context={"n": 1}
    )

    step = begin(chart, input={"i": 1}, instance={"id": "instance"})

    assert step.snapshot == {
        "kernel": statechart.KERNEL,
        "status": "active",
        "configuration": ["a"],
        "context": {"n": 1},
        "input": {"i": 1},
        "instance": {"id": "instance"},
        "history": {},
        "tasks": {
            "a/1/1": {
                "type": "t",
                "name": "t",
                "completionEvent": "xstate.done.actor.x",
                "failureEvent": "xstate.error.actor.x",
                "invoke": "x",
            }
        },
        "timers": {
            "a/2/1": {
                "dueAt": "2026-03-01T10:12:00.000000Z",
                "event": {"type": "xstate.after.1h.m.a"},
                "id": "xstate.after.1h.m.a",
            }
        },
        "children": {},
        "counts": {"a/1": 1, "a/2": 1},
        "output": None,
        "error": None,
    }


def test_an_ignored_event_gives_the_snapshot_back():
    chart = chart_of({"a": {}})
    started = begin(chart)

    assert send(chart, started, "GO").snapshot is started.snapshot


def test_a_step_changes_nothing_that_it_was_given():
    chart = chart_of(
        {
            "a": {
                "on": {
                    "GO": {
                        "target": "b",
                        "actions": [
                            {
                                "type": "assign",
                                "path": "order.lines",
                                "value": "${context.order.lines + [event.line]}",
                            },
                            {"type": "assign", "path": "order.state", "value": {"literal": []}},
                            {"type": "assign", "path": "order.state.more", "value": 1},
                            {"type": "createTask", "task": {"type": "t", "input": "${context.order}"}},
                        ],
                    }
                }
            },
            "b": {},
        },
        context={"order": {"lines": [1]}},
    )
    document = copy.deepcopy(chart.document)
    snapshot, event = begin(chart).snapshot, {"type": "GO", "line": {"n": 2}}
    before = copy.deepcopy((snapshot, event))

    step = statechart.step(chart, snapshot, event, env())

    assert (snapshot, event) == before
    assert chart.document == document
    assert step.snapshot["context"]["order"] == {"lines": [1, {"n": 2}], "state": {"literal": [], "more": 1}}


def test_the_same_step_twice_is_the_same_step():
    chart = chart_of(
        {"a": {"on": {"GO": {"actions": {"type": "assign", "path": "id", "value": "${uuid()} ${now}"}}}}}
    )
    snapshot = begin(chart).snapshot

    assert statechart.step(chart, snapshot, {"type": "GO"}, env()) == statechart.step(
        statechart.load(json.loads(json.dumps(chart.document))),
        json.loads(json.dumps(snapshot, sort_keys=True)),
        {"type": "GO"},
        statechart.Env.from_json(json.loads(json.dumps(env().to_json()))),
    )


def test_due_times_come_from_the_environment():
    chart = chart_of({"a": {"on": {"GO": "b"}}, "b": {"after": {"1s": "a"}}})

    step = send(chart, begin(chart), "GO", after=10)

    assert step.effects[0].due_at.timestamp() == NOW.timestamp() + 11
