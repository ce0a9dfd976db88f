"""Explanations: what is accepted, what blocks it with which values, and what would wake the instance."""

from __future__ import annotations

import statechart
from statechart import compensating
from tests.unit.statechart.charts import begin, chart_of, env, send


def explained(states, *, context=None, env=None, event=None, **root):
    chart = chart_of(states, context=context or {}, **root)
    step = begin(chart)
    if event is not None:
        step = send(chart, step, event)
    return statechart.explain(chart, step.snapshot, env)


def events(explanation):
    return {event["type"]: event["accepted"] for event in explanation["events"]}


def test_events_are_told_with_the_transition_that_would_be_taken():
    explanation = explained({"a": {"on": {"GO": "b"}}, "b": {}})

    assert (explanation["status"], explanation["configuration"]) == ("active", ["a"])
    assert explanation["events"] == [
        {
            "type": "GO",
            "accepted": True,
            "transitions": [
                {
                    "state": "a",
                    "at": "states.a.on.GO",
                    "target": ["b"],
                    "forbids": False,
                    "description": None,
                    "holds": True,
                    "guard": None,
                }
            ],
        }
    ]


def test_a_guard_that_blocks_shows_the_values_it_saw():
    explanation = explained(
        {"a": {"on": {"PAY": {"target": "b", "guard": "context.order.total > context.limit"}}}, "b": {}},
        context={"order": {"total": 5}, "limit": 10},
    )

    assert events(explanation) == {"PAY": False}
    guard = explanation["events"][0]["transitions"][0]["guard"]
    assert guard["holds"] is False
    assert guard["values"] == {"context.order.total": 5, "context.limit": 10}


def test_a_guard_that_fails_says_why():
    explanation = explained({"a": {"on": {"PAY": {"target": "b", "guard": "context.total > 1"}}}, "b": {}})

    guard = explanation["events"][0]["transitions"][0]["guard"]
    assert guard["holds"] is False
    assert "total" in guard["message"]


def test_what_an_event_would_bring_is_not_guessed():
    explanation = explained(
        {
            "a": {
                "on": {
                    "PAY": [
                        {"target": "b", "guard": "event.amount > 5"},
                    ],
                    "ADD": [{"target": "b", "guard": "event.amount > 5"}, "b"],
                }
            },
            "b": {},
        }
    )

    assert events(explanation) == {"PAY": None, "ADD": True}


def test_the_parts_of_a_guard_are_told_one_by_one():
    explanation = explained(
        {
            "a": {
                "on": {
                    "GO": {
                        "target": "b",
                        "guard": {"type": "and", "guards": ["rich", {"type": "stateIn", "state": "a"}]},
                    }
                }
            },
            "b": {},
        },
        guards={"rich": "context.money > 9"},
        context={"money": 3},
    )

    guard = explanation["events"][0]["transitions"][0]["guard"]
    rich, state_in = guard["parts"]
    assert guard["text"] == "and(rich, in a)"
    assert (rich["text"], rich["holds"], rich["parts"][0]["values"]) == ("rich", False, {"context.money": 3})
    assert (state_in["text"], state_in["holds"]) == ("in a", True)


def test_a_forbidden_event_is_not_accepted():
    explanation = explained(
        {"a": {"initial": "b", "states": {"b": {"on": {"GO": {}}}}, "on": {"GO": "c"}}, "c": {}}
    )

    assert events(explanation) == {"GO": False}


def test_config_and_time_have_no_answer_without_an_environment():
    states = {"a": {"on": {"GO": {"target": "b", "guard": "config.orders.open == true"}}}, "b": {}}

    assert events(explained(states)) == {"GO": None}
    assert events(explained(states, env=env(config={"orders": {"open": True}}))) == {"GO": True}


def test_tasks_and_timers_are_told_with_what_they_lead_to():
    explanation = explained(
        {
            "a": {
                "entry": {
                    "type": "createTask",
                    "task": {"type": "EMAIL", "name": "hello", "completionEvent": "SENT"},
                },
                "on": {"SENT": "b"},
                "after": {"2h": "late", "1h": {"actions": {"type": "log", "message": "an hour"}}},
            },
            "b": {},
            "late": {},
        }
    )

    assert explanation["events"] == []
    (task,) = explanation["tasks"]
    assert (task["key"], task["type"], task["name"], task["invoke"]) == ("a/1/1", "EMAIL", "hello", None)
    assert [(answer["type"], answer["accepted"]) for answer in task["answers"]] == [
        ("SENT", True),
        ("error.task.hello", False),
    ]
    assert [timer["event"]["type"] for timer in explanation["timers"]] == [
        "xstate.after.1h.m.a",
        "xstate.after.2h.m.a",
    ]
    assert explanation["timers"][1]["transitions"][0]["target"] == ["late"]


def test_nothing_is_accepted_after_the_end():
    explanation = explained(
        {"a": {"on": {"GO": "z"}}, "z": {"type": "final", "on": {"MORE": "a"}}}, event="GO"
    )

    assert (explanation["status"], explanation["events"]) == ("done", [])


def test_what_undoes_is_answered_by_no_state():
    invoke = {"src": "book", "compensate": {"type": "unbook"}, "onDone": "b"}
    chart = chart_of({"a": {"invoke": invoke}, "b": {"on": {"GO": "a"}}})
    begun = begin(chart)
    [key] = begun.snapshot["tasks"]
    booked = {"type": begun.snapshot["tasks"][key]["completionEvent"], "output": 1}
    step = statechart.step(chart, begun.snapshot, booked, env(), obligation=key)
    undoing = compensating.compensate(chart, step.snapshot, env(), ends="cancelled", why={})

    explanation = statechart.explain(chart, undoing.snapshot)

    assert [(task["name"], task["answers"]) for task in explanation["tasks"]] == [("unbook", [])]
    assert explanation["events"] == []
