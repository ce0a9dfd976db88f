"""No definition, however hostile, takes more than a second to refuse or to step, nor breaks anything.

The times are CPU times of one process and a multiple of what is measured, so that a busy machine fails nothing.
"""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import pytest

import statechart
from statechart import DefinitionInvalid, StepFailed
from tests.support.slowdown import slower
from tests.unit.statechart.charts import begin, document_of, env, log

SECONDS = 1.0
"""Of the machine that the suite's bounds were set on, see `slowdown.py`."""
MEGABYTES = 100


def seconds_of(action) -> float:
    """The CPU seconds of an action on that machine, at best of three: neighbours make even CPU time dearer."""
    taken = []
    for _ in range(3):
        times = slower(time.process_time)
        began = time.process_time()
        action()
        taken.append((time.process_time() - began) / times)
        if taken[-1] < SECONDS:
            break
    return min(taken)


def megabytes_of(action) -> float:
    """The peak of memory that an action takes."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / 1_000_000
    finally:
        tracemalloc.stop()


def deep_json(levels):
    value = {}
    for _ in range(levels):
        value = {"states": {"s": value}}
    return value


REFUSED = {
    "JSON nested a hundred thousand levels": lambda: deep_json(100_000),
    "ten thousand states": lambda: {"initial": "s0", "states": {f"s{n}": {} for n in range(10_000)}},
    "a hundred thousand states inside one": lambda: {
        "initial": "a",
        "states": {"a": {"states": {f"s{n}": {"on": {"X": "y"}} for n in range(100_000)}}},
    },
    "unknown targets everywhere": lambda: {
        "initial": "s0",
        "states": {f"s{n}": {"on": {f"E{k}": f"nowhere{n}{k}" for k in range(10)}} for n in range(4_000)},
    },
    "unknown keys everywhere": lambda: {
        "initial": "s0",
        "states": {f"s{n}": {f"unknown_key_{n}": n} for n in range(4_900)},
    },
    "an exponential guard": lambda: document_of(
        {"a": {"on": {"GO": {"guard": "g60"}}}},
        guards={"g0": "true", **{f"g{n}": {"type": "or", "guards": [f"g{n - 1}"] * 3} for n in range(1, 61)}},
    ),
    "a long chain of guards": lambda: document_of(
        {"a": {"on": {"GO": {"guard": "g4000"}}}},
        guards={"g0": "true", **{f"g{n}": {"type": "not", "guard": f"g{n - 1}"} for n in range(1, 4_001)}},
    ),
    "twenty thousand expressions": lambda: document_of(
        {
            "a": {
                "entry": [
                    {"type": "assign", "path": "n", "value": f"${{context.n + {n}}}"} for n in range(20_000)
                ]
            }
        }
    ),
    "long expressions": lambda: document_of(
        {"a": {"entry": [{"type": "log", "message": "${" + f"{n}+" * 1_500 + "1}"} for n in range(60)]}}
    ),
}


@pytest.mark.parametrize("make", list(REFUSED.values()), ids=list(REFUSED))
def test_a_hostile_document_is_refused_quickly(make):
    document = make()

    def check():
        assert "error" in {problem.severity for problem in statechart.check(document)}

    assert seconds_of(check) < SECONDS


LOADED = {
    "five thousand states": lambda: document_of(
        {f"s{n}": {"on": {"NEXT": f"s{(n + 1) % 5_000}"}} for n in range(5_000)}
    ),
    "five thousand regions": lambda: document_of(
        {f"s{n}": {"on": {"NEXT": {"actions": []}}} for n in range(5_000)}, type="parallel"
    ),
    "a wide region behind every target": lambda: document_of(
        {
            "a": {"on": {f"E{n}": f"p.r{n}.x" for n in range(1_500)}},
            "p": {
                "type": "parallel",
                "on": {"BACK": "a"},
                "states": {f"r{n}": {"initial": "x", "states": {"x": {}, "y": {}}} for n in range(1_500)},
            },
        }
    ),
}


@pytest.mark.parametrize("make", list(LOADED.values()), ids=list(LOADED))
def test_the_largest_charts_are_loaded_quickly(make):
    document = make()

    assert seconds_of(lambda: statechart.load(document)) < SECONDS


def endless(body, **root):
    """A chart whose state goes round for ever on GO."""
    return document_of(
        {
            "idle": {"on": {"GO": "one"}},
            "one": {"always": {"target": "two", "guard": "context.n >= 0"}, **body},
            "two": {"always": {"target": "one", "guard": "context.n >= 0"}, **body},
        },
        context={"n": 0, "log": [], "big": {f"k{n}": n for n in range(20_000)}, **root.pop("context", {})},
        **root,
    )


STEPS = {
    "a circle": lambda: endless({}),
    "a circle that grows": lambda: endless({"entry": log("x")}),
    "a circle that doubles a list": lambda: endless(
        {"entry": {"type": "assign", "path": "log", "value": "${context.log + context.log + [1]}"}}
    ),
    "a circle that doubles a text": lambda: endless(
        {"entry": {"type": "assign", "path": "text", "value": "${context.text + context.text}"}},
        context={"text": "abc"},
    ),
    "a circle that copies a large object": lambda: endless(
        {"entry": [{"type": "assign", "path": "big.k0", "value": 1}] * 50}
    ),
    "a circle of many actions": lambda: endless({"entry": [{"type": "raise", "event": "X"}] * 5_000}),
    "a circle of timers": lambda: endless({"after": {str(n): "idle" for n in range(200)}}),
    "a circle of tasks": lambda: endless({"invoke": [{"src": "t", "id": f"i{n}"} for n in range(100)]}),
    "regions that ask each other": lambda: document_of(
        {
            "idle": {"on": {"GO": "p"}},
            "p": {
                "type": "parallel",
                "states": {
                    f"r{n}": {
                        "initial": "x",
                        "states": {
                            "x": {"always": {"target": "y", "guard": "context.n == 0"}},
                            "y": {"always": {"target": "x", "guard": "context.n == 0"}},
                        },
                    }
                    for n in range(1_500)
                },
            },
        },
        context={"n": 0},
    ),
    "regions that ask for one child and another": lambda: document_of(
        {
            "p": {
                "type": "parallel",
                "states": {
                    "again": {"on": {"GO": {"target": "#m.p", "reenter": True}}},
                    **{
                        f"r{n}": {
                            "initial": "x",
                            "states": {
                                "x": {},
                                "y": {"on": {"GO": "memory", "AGAIN": "memory"}},
                                "memory": {"type": "history", "target": "y"},
                            },
                            "always": {"target": ".y", "guard": "context.n == 0"},
                        }
                        for n in range(1_200)
                    },
                },
            }
        },
        context={"n": 0},
    ),
    "a large guard asked again and again": lambda: (
        endless({}, guards={"slow": {"type": "and", "guards": ["context.n == 0"] * 900}})
        | {
            "on": {"X": [{"guard": {"type": "not", "guard": "slow"}}] * 100},
        }
    ),
    "an exponential expression": lambda: document_of(
        {
            "idle": {
                "on": {
                    "GO": {
                        "actions": {
                            "type": "assign",
                            "path": "n",
                            "value": "${"
                            + "".join(f"[1,2,3,4].map({v}, " for v in "abcdefghijkl")
                            + "1"
                            + ")" * 12
                            + "}",
                        }
                    }
                }
            }
        }
    ),
}


def going(make):
    """One step of a hostile chart, which may be given up and may do nothing worse."""
    chart = statechart.load(make())
    snapshot = begin(chart).snapshot

    def step():
        with suppress(StepFailed):
            statechart.step(chart, snapshot, {"type": "GO"}, env())

    return step


@pytest.mark.parametrize("make", list(STEPS.values()), ids=list(STEPS))
def test_a_hostile_step_is_given_up_quickly(make):
    step = going(make)

    assert seconds_of(step) < SECONDS


@pytest.mark.parametrize(
    "name", ["a circle that doubles a list", "a circle that doubles a text", "a circle of tasks"]
)
def test_a_hostile_step_takes_little_memory(name):
    assert megabytes_of(going(STEPS[name])) < MEGABYTES


@pytest.mark.parametrize("name", ["a wide region behind every target", "five thousand regions"])
def test_the_largest_charts_take_little_memory(name):
    document = LOADED[name]()

    assert megabytes_of(lambda: statechart.load(document)) < MEGABYTES


@pytest.mark.parametrize(
    "name",
    [
        "__class__",
        "constructor",
        "${",
        "a b",
        "ünï©ode",
        "\u0000",
        "\ud800",
        "'; DROP TABLE",
        "<script>",
        "x" * 2_000,
    ],
)
def test_odd_names_of_states_break_nothing(name):
    document = document_of({"a": {"on": {"GO": name}}, name: {"type": "final"}})

    chart = statechart.load(document)
    done = statechart.step(chart, begin(chart).snapshot, {"type": "GO"}, env())

    assert done.snapshot["configuration"] == [name]
    assert "<script>" not in statechart.diagram(chart, format="svg")
    assert statechart.diagram(chart)


def test_a_refusal_never_lists_more_than_anybody_would_read():
    with pytest.raises(DefinitionInvalid) as refused:
        statechart.load(REFUSED["unknown targets everywhere"]())

    assert len(refused.value.problems) == 100


@pytest.mark.parametrize(
    "action",
    [
        {"type": "assign", "path": "copy", "value": "x" * 300_000},
        {"type": "assign", "path": "copy", "value": "${input}"},
        {"type": "assign", "path": "copy", "value": "${input.text}"},
        {"type": "assign", "path": "copy", "value": {"inside": "${input}"}},
        {"type": "createTask", "task": {"type": "T", "input": {"text": "x" * 300_000}}},
        {"type": "createTask", "task": {"type": "T", "input": "${input}"}},
        {"type": "emit", "event": {"type": "E", "text": "x" * 300_000}},
        {"type": "log", "message": "${input.text}"},
    ],
)
def test_a_step_writes_no_more_than_its_history_can_hold(action):
    """What is only passed on costs nothing to evaluate, and stands in the record each time: a loop made gigabytes of it."""
    count = {"type": "assign", "path": "n", "value": "${context.n + 1}"}
    turn = {"guard": "context.n < 400", "actions": [action, count]}
    document = document_of({"a": {"always": turn}}, context={"n": 0, "copy": None})
    chart = statechart.load(document)

    with pytest.raises(StepFailed) as failed:
        begin(chart, input={"text": "x" * 300_000})

    assert failed.value.data["code"] == "expression.too_expensive"
    assert "33,554,432 bytes together" in failed.value.data["message"]


def test_what_a_step_writes_in_good_faith_is_far_below_that_bound():
    chart = statechart.load(
        document_of(
            {"a": {"entry": [{"type": "assign", "path": f"k{n}", "value": "${input}"} for n in range(20)]}}
        )
    )

    assert len(begin(chart, input="x" * 1_000_000).snapshot["context"]) == 21
