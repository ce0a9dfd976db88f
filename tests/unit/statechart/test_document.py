"""Reading documents: every form that XState exports, and refusals that say what was meant."""

from __future__ import annotations

import pytest

import statechart
from statechart import DefinitionInvalid
from tests.unit.statechart.charts import begin, chart_of, document_of, last


def problems(document):
    with pytest.raises(DefinitionInvalid) as invalid:
        statechart.load(document)
    return invalid.value.problems


def only_problem(document):
    (problem,) = problems(document)
    return problem


# XState's forms


@pytest.mark.parametrize(
    "action",
    [
        {"type": "raise", "event": "NEXT"},
        {"type": "xstate.raise", "event": {"type": "NEXT"}},
        {"type": "xstate.raise", "params": {"event": {"type": "NEXT"}, "delay": None}},
        {"type": "xstate.sendTo", "params": {"event": {"type": "NEXT"}}},
        {"type": "@xstate.raise", "event": {"type": "NEXT"}},
        {"type": "raise", "event": "${'NE' + 'XT'}"},
        {"type": "raise", "event": "${event.forward}"},
    ],
)
def test_raise_may_be_written_as_xstate_exports_it(action):
    document = document_of({"a": {"on": {"GO": {"actions": action}, "NEXT": "b"}}, "b": {}})

    assert last(document, {"type": "GO", "forward": {"type": "NEXT"}})["configuration"] == ["b"]


@pytest.mark.parametrize(
    "action",
    [
        {"type": "assign", "path": "n", "value": 1},
        {"type": "assign", "values": {"n": 1}},
        {"type": "xstate.assign", "assignment": {"n": 1}},
        {"type": "xstate.assign", "params": {"assignment": {"n": 1}}},
    ],
)
def test_assign_may_be_written_as_xstate_exports_it(action):
    assert last(document_of({"a": {"entry": action}}))["context"]["n"] == 1


def test_cancel_and_log_may_be_written_as_xstate_exports_them():
    chart = chart_of(
        {
            "a": {
                "entry": [
                    {"type": "xstate.raise", "params": {"event": {"type": "X"}, "delay": 10, "id": "x"}},
                    {"type": "xstate.cancel", "params": {"sendId": "x"}},
                    {"type": "xstate.log", "params": {"value": "hi", "label": "note"}},
                ]
            }
        }
    )

    step = begin(chart)

    assert step.snapshot["timers"] == {}
    assert [type(effect).__name__ for effect in step.effects] == ["Log"]


def test_what_an_exported_machine_carries_beside_is_accepted():
    document = {
        "id": "exported",
        "version": "1.2",
        "key": "exported",
        "order": -1,
        "type": "compound",
        "initial": {"target": ["#exported.a"], "source": "#exported", "actions": [], "eventType": None},
        "types": {"events": {}},
        "meta": {"layout": "x"},
        "tags": ["t"],
        "history": False,
        "entry": [],
        "exit": [],
        "invoke": [],
        "transitions": [],
        "states": {
            "a": {
                "key": "a",
                "history": False,
                "on": {
                    "GO": [
                        {
                            "target": ["#exported.b"],
                            "source": "#exported.a",
                            "actions": [],
                            "reenter": False,
                            "eventType": "GO",
                        }
                    ]
                },
                "tags": "single",
            },
            "b": {"type": "final", "output": {"n": 1}},
        },
    }

    assert statechart.check(document) == []
    assert last(document, "GO") == {"configuration": ["b"], "context": {}, "status": "done"}


def test_a_machine_without_an_id_is_called_as_xstate_calls_it():
    chart = statechart.load(
        {
            "initial": "a",
            "states": {"a": {"initial": "b", "onDone": "c", "states": {"b": {"type": "final"}}}, "c": {}},
        }
    )

    assert chart.id == "(machine)"
    assert begin(chart).snapshot["configuration"] == ["c"]


# Refusals


@pytest.mark.parametrize(
    ("change", "path", "suggestion"),
    [
        ({"contxt": {}}, "contxt", "context"),
        ({"states": {"a": {"entyr": []}}}, "states.a.entyr", "entry"),
        ({"states": {"a": {"on": {"GO": {"target": "a", "cond": "true"}}}}}, "states.a.on.GO.cond", "guard"),
        ({"states": {"a": {"on": {"GO": [{"taget": "a"}]}}}}, "states.a.on.GO[0].taget", "target"),
        (
            {"states": {"a": {"entry": {"type": "raise", "event": "X", "dealy": 1}}}},
            "states.a.entry.dealy",
            "delay",
        ),
        (
            {"states": {"a": {"entry": {"type": "createTask", "task": {"type": "t", "inptu": 1}}}}},
            "states.a.entry.task.inptu",
            "input",
        ),
        ({"states": {"a": {"invoke": {"src": "t", "onDon": "a"}}}}, "states.a.invoke.onDon", "onDone"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_what_was_meant(change, path, suggestion):
    problem = only_problem({"id": "m", "initial": "a", "states": {"a": {}}} | change)

    assert (problem.code, problem.path, problem.suggestion) == ("document.unknown_key", path, suggestion)


def test_all_problems_are_told_at_once():
    document = document_of(
        {
            "a": {
                "on": {"X": "nowhere", "Y": {"target": "a", "guard": "nobody"}},
                "entry": {"type": "raise", "event": "${1 +}"},
            },
        }
    )

    assert {problem.code for problem in problems(document)} == {
        "target.unknown",
        "guard.unknown",
        "expression.syntax",
    }


def test_a_problem_is_data_and_reads_as_a_sentence():
    problem = only_problem(document_of({"review": {"on": {"approve": "aproved"}}, "approved": {}}))

    assert (
        str(problem) == "states.review.on.approve.target: unknown target 'aproved'; did you mean 'approved'?"
    )
    assert problem.to_json() == {
        "severity": "error",
        "code": "target.unknown",
        "path": "states.review.on.approve.target",
        "message": "unknown target 'aproved'",
        "suggestion": "approved",
    }


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"context": []}, "context", "expected an object, found a list"),
        ({"maxSteps": 0}, "maxSteps", "expected at least 1, found 0"),
        ({"description": 5}, "description", "expected a text, found 5"),
        ({"on": {"GO": {"target": "a", "reenter": "maybe"}}}, "on.GO.reenter", "expected true or false, found 'maybe'"),
        ({"type": "compund"}, "type", "expected 'atomic', 'compound', 'parallel', 'final' or 'history', found 'compund'"),
    ],
)  # fmt: skip
def test_a_value_of_another_form_is_told_with_what_was_expected_and_found(change, path, message):
    problem = only_problem({**document_of({"a": {}}), **change})

    assert (problem.code, problem.path, problem.message) == ("document.form", path, message)


@pytest.mark.parametrize(
    "document", [None, [], "text", 7, {"states": []}, {"states": {"a": 1}}, {"initial": 3}, {"on": {"X": 5}}]
)
def test_what_is_no_document_is_refused_and_never_breaks_anything(document):
    assert {problem.severity for problem in statechart.check(document)} == {"error"}


# What a chart says of itself


def test_a_chart_names_what_others_have_to_know():
    chart = chart_of(
        {
            "a": {
                "entry": {"type": "createTask", "task": {"type": "EMAIL", "completionEvent": "SENT"}},
                "invoke": {"src": "HTTP"},
                "on": {
                    "SENT": "b",
                    "APPROVE": "b",
                    "order.*": "b",
                    "xstate.done.actor.x": "b",
                    "done.task.y": "b",
                },
            },
            "b": {},
        }
    )

    assert chart.id == "m"
    assert chart.events == {"APPROVE", "order.*"}
    assert chart.task_types == {"EMAIL", "HTTP"}


def test_accepts_says_whether_somebody_outside_could_do_something():
    chart = chart_of(
        {
            "a": {
                "entry": {"type": "createTask", "task": {"type": "t", "completionEvent": "SENT"}},
                "on": {"SENT": "b"},
            },
            "b": {"on": {"GO": "c"}},
            "c": {"on": {"GO": {}}},
        }
    )
    first = begin(chart)
    second = statechart.step(
        chart, first.snapshot, {"type": "SENT"}, statechart.Env.from_json({"now": "2026-01-01T00:00:00Z"})
    )
    third = statechart.step(
        chart, second.snapshot, {"type": "GO"}, statechart.Env.from_json({"now": "2026-01-01T00:00:00Z"})
    )

    assert [statechart.accepts(chart, step.snapshot) for step in (first, second, third)] == [
        False,
        True,
        False,
    ]


def test_the_path_of_a_state_is_no_longer_than_a_database_finds_rows_by():
    def nested(inner):
        names = ("a" * 1_000, inner)
        return {"initial": names[0], "states": {names[0]: {"initial": inner, "states": {inner: {}}}}}

    assert [p for p in statechart.check(nested("b" * 999)) if p.severity == "error"] == []
    for inner in ("b" * 1_000, "é" * 500):
        [problem] = [p for p in statechart.check(nested(inner)) if p.severity == "error"]
        assert (problem.code, problem.path) == ("state.name", f"states.{'a' * 1_000}.states.{inner}")
        assert problem.message == "expected a dotted path of at most 2,000 bytes, found one of 2,001"


@pytest.mark.parametrize("where", ["on", "guards", "and"])
def test_a_guard_that_is_written_as_a_value_is_told_how_guards_are_written(where):
    guard = "${context.total > 3}"
    document = document_of({"a": {"on": {"GO": {"target": "b", "guard": guard}}}, "b": {}})
    if where == "guards":
        document |= {"guards": {"isLarge": guard}}
        document["states"]["a"]["on"]["GO"]["guard"] = "isLarge"
    if where == "and":
        document["states"]["a"]["on"]["GO"]["guard"] = {"type": "and", "guards": [guard, "true"]}

    problem = only_problem(document)

    assert (problem.code, problem.suggestion) == ("expression.syntax", "context.total > 3")
    assert problem.message.startswith(
        "a guard is an expression by itself, and is written without ${…}; found"
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("x.y", "expected an object, found 'x.y'"),
        ({"type": "x.y", "name": 5}, "expected a text, found 5"),
        ({"type": "x.y", "limit": {}}, "expected a key 'key', found none"),
    ],
)
@pytest.mark.parametrize("type", ["MAP", "POLL"])
def test_a_task_within_a_task_is_told_what_was_expected_in_our_words(type, task, message):
    more = {"items": [1]} if type == "MAP" else {"until": "output", "interval": "1s"}
    document = document_of(
        {"a": {"invoke": {"src": type, "input": {"task": task, **more}, "onDone": "b"}}, "b": {}}
    )

    assert only_problem(document).message == message
