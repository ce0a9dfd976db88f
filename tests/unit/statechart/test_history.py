"""What history states remember and where they lead without a memory."""

from __future__ import annotations

import json

import pytest

import statechart
from tests.unit.statechart.charts import (
    begin,
    chart_of,
    configurations,
    document_of,
    env,
    last,
    send,
    trace,
    traced,
)


def player(history: str = "shallow", **history_state):
    return document_of(
        {
            "off": {"on": {"BACK": "on.memory", "ON": "on"}},
            "on": traced(
                "on",
                initial="low",
                on={"OFF": "off"},
                states={
                    "low": {"on": {"UP": "high"}},
                    "high": {"initial": "soft", "states": {"soft": {"on": {"MORE": "loud"}}, "loud": {}}},
                    "memory": {"type": "history", "history": history, **history_state},
                },
            ),
        }
    )


def test_shallow_history_remembers_the_child_and_enters_it_by_default():
    assert last(player("shallow"), "ON", "UP", "MORE", "OFF", "BACK")["configuration"] == ["on.high.soft"]


def test_deep_history_remembers_the_leaf():
    assert last(player("deep"), "ON", "UP", "MORE", "OFF", "BACK")["configuration"] == ["on.high.loud"]


def test_history_without_a_memory_leads_to_the_initial_state():
    assert last(player("deep"), "BACK")["configuration"] == ["on.low"]


def test_history_without_a_memory_leads_to_its_target_where_it_has_one():
    assert last(player("deep", target="high"), "BACK")["configuration"] == ["on.high.soft"]


@pytest.mark.parametrize("history", ["shallow", "deep"])
def test_history_of_a_parallel_state_remembers_every_region(history):
    document = document_of(
        {
            "p": {
                "type": "parallel",
                "on": {"OUT": "away"},
                "states": {
                    **{
                        n: {"initial": f"{n}1", "states": {f"{n}1": {"on": {n: f"{n}2"}}, f"{n}2": {}}}
                        for n in "xy"
                    },
                    "memory": {"type": "history", "history": history},
                },
            },
            "away": {"on": {"BACK": "p.memory"}},
        }
    )
    remembered = {"shallow": ["p.x.x1", "p.y.y1"], "deep": ["p.x.x1", "p.y.y2"]}

    assert configurations(document, "y", "OUT", "BACK")[-1] == remembered[history]


def test_entering_by_history_runs_the_entry_of_what_is_around():
    assert trace(player("deep"), "ON", "UP", "OFF", "BACK") == ["+on", "-on", "+on"]


def test_initial_may_name_a_history_state():
    document = document_of(
        {
            "a": {
                "initial": "memory",
                "on": {"OUT": "b"},
                "states": {
                    "one": {"on": {"N": "two"}},
                    "two": {},
                    "memory": {"type": "history", "target": "one"},
                },
            },
            "b": {"on": {"IN": "a"}},
        }
    )

    assert configurations(document, "N", "OUT", "IN") == [["a.one"], ["a.two"], ["b"], ["a.two"]]


def test_a_state_that_targets_the_history_of_what_it_is_in_stays_legal():
    # XState 5 leaves `p` and enters only its regions here: docs/statecharts.md, "Differences".
    document = document_of(
        {
            "idle": {"on": {"GO": "p"}},
            "p": traced(
                "p",
                type="parallel",
                states={
                    "x": {"initial": "x1", "states": {"x1": {"on": {"H": "#m.p.memory"}}}},
                    "y": {},
                    "memory": {"type": "history"},
                },
            ),
        }
    )

    assert trace(document, "GO", "H") == ["+p", "-p", "+p"]
    assert last(document, "GO", "H")["configuration"] == ["p.x.x1", "p.y"]


def test_memory_survives_being_stored():
    chart = chart_of(player("deep")["states"])
    step = begin(chart)
    for name in ("ON", "UP", "MORE", "OFF"):
        step = statechart.step(chart, json.loads(json.dumps(step.snapshot)), {"type": name}, env())

    assert step.snapshot["history"] == {"on.memory": ["on.high.loud"]}


def test_a_state_that_targets_itself_begins_where_its_initial_history_remembers():
    document = document_of(
        {
            "on": {
                "initial": "memory",
                "states": {
                    "memory": {"type": "history", "history": "deep", "target": "low"},
                    "low": {"on": {"UP": "high"}},
                    "high": {},
                },
                "on": {"OFF": "off", "AGAIN": "on"},
            },
            "off": {"on": {"ON": "on.high"}},
        }
    )

    assert configurations(document, "UP", "OFF", "ON", "AGAIN")[-2:] == [["on.high"], ["on.high"]]


def test_a_history_state_that_leads_to_another_one_is_never_active_itself():
    document = document_of(
        {
            "first": {"type": "history", "target": "a"},
            "second": {"type": "history", "history": "deep"},
            "a": {},
        },
        initial="first",
        on={"GO": ".second"},
    )

    chart = statechart.load(document)
    step = send(chart, begin(chart), "GO")

    assert step.snapshot["configuration"] == ["a"]
    assert "entered" not in step.snapshot
