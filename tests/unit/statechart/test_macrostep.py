"""Raised, sent and eventless: everything that follows from one event without another one."""

from __future__ import annotations

import pytest

from statechart import StepFailed
from tests.unit.statechart.charts import (
    begin,
    chart_of,
    configurations,
    document_of,
    kinds,
    last,
    log,
    run,
    send,
    trace,
)


def raising(*names):
    return [{"type": "raise", "event": name} for name in names]


def test_raised_events_are_taken_in_order_within_the_same_step():
    states = {
        "a": {
            "on": {
                "GO": {"actions": raising("ONE", "TWO")},
                "ONE": {"actions": [log("one"), *raising("THREE")]},
                "TWO": {"actions": log("two")},
                "THREE": {"actions": log("three")},
            }
        }
    }

    assert trace(document_of(states), "GO") == ["one", "two", "three"]


def test_a_raised_event_may_carry_data():
    states = {
        "a": {
            "on": {
                "GO": {"actions": {"type": "raise", "event": {"type": "SUM", "sum": "${event.a + event.b}"}}},
                "SUM": {"actions": {"type": "assign", "path": "sum", "value": "${event.sum}"}},
            }
        }
    }

    assert last(document_of(states), {"type": "GO", "a": 1, "b": 2})["context"]["sum"] == 3


def test_eventless_transitions_come_before_raised_events():
    states = {
        "a": {"on": {"GO": {"target": "b", "actions": raising("NEXT")}}},
        "b": {"always": "c", "on": {"NEXT": "wrong"}},
        "c": {"on": {"NEXT": "right"}},
        "right": {},
        "wrong": {},
    }

    assert last(document_of(states), "GO")["configuration"] == ["right"]


def test_eventless_transitions_see_the_event_that_led_to_them():
    states = {
        "a": {"on": {"GO": "b"}},
        "b": {"always": {"target": "c", "guard": "event.type == 'GO'"}},
        "c": {},
    }

    assert last(document_of(states), "GO")["configuration"] == ["c"]


def test_an_event_that_is_not_handled_may_still_enable_an_eventless_transition():
    states = {"a": {"always": {"target": "b", "guard": "event.type == 'GO'"}}, "b": {}}

    assert configurations(document_of(states), "GO") == [["a"], ["b"]]


def test_an_eventless_transition_that_changes_nothing_is_not_taken_for_ever():
    states = {"a": {"always": {"target": "a", "reenter": True}, "on": {"GO": "b"}}, "b": {}}

    assert configurations(document_of(states), "GO") == [["a"], ["b"]]


def test_an_event_sent_to_itself_comes_after_the_macrostep():
    states = {
        "a": {
            "on": {
                "GO": {"actions": [{"type": "send", "event": "SENT"}, *raising("RAISED")]},
                "SENT": {"actions": log("sent")},
                "RAISED": {"actions": log("raised")},
            }
        }
    }

    assert trace(document_of(states), "GO") == ["raised", "sent"]


def test_events_sent_to_itself_are_lost_where_the_machine_ends():
    states = {
        "a": {"on": {"GO": {"target": "z", "actions": {"type": "send", "event": "LATE"}}}},
        "z": {"type": "final"},
    }
    chart = chart_of(states)

    assert send(chart, begin(chart), "GO").snapshot["status"] == "done"


def test_a_circle_that_data_keeps_going_fails_the_step():
    states = {
        "a": {"on": {"GO": "b"}},
        "b": {"always": {"target": "c", "guard": "context.n == 1"}},
        "c": {"always": {"target": "b", "guard": "context.n == 1"}},
    }
    chart = chart_of(states, context={"n": 1})

    with pytest.raises(StepFailed) as failed:
        send(chart, begin(chart), "GO")

    assert failed.value.code == "step.endless"
    assert "1,000 microsteps" in failed.value.message


def test_a_circle_of_events_to_itself_fails_the_step():
    states = {"a": {"on": {"GO": {"actions": {"type": "send", "event": "GO"}}}}}
    chart = chart_of(states)

    with pytest.raises(StepFailed, match="go round in circles"):
        send(chart, begin(chart), "GO")


# Wildcards


@pytest.mark.parametrize(
    ("event", "handler"),
    [
        ("order.paid.card", "exact"),
        ("order.paid.cash", "order.paid.*"),
        ("order.paid", "order.paid.*"),
        ("order.sent", "order.*"),
        ("order", "order.*"),
        ("orders", "*"),
    ],
)
def test_the_longest_descriptor_that_matches_is_taken(event, handler):
    descriptors = {"*": "*", "order.*": "order.*", "order.paid.*": "order.paid.*", "order.paid.card": "exact"}
    states = {"a": {"on": {name: {"actions": log(text)} for name, text in descriptors.items()}}}

    assert trace(document_of(states), event) == [handler]


def test_a_wildcard_answers_where_the_guard_of_the_exact_name_fails():
    states = {"a": {"on": {"GO": {"actions": log("exact"), "guard": "false"}, "*": {"actions": log("any")}}}}

    assert trace(document_of(states), "GO") == ["any"]


def test_wildcards_match_events_of_the_engine():
    states = {
        "a": {"initial": "b", "states": {"b": {"on": {"GO": "c"}}, "c": {"type": "final"}}, "on": {"*": "z"}},
        "z": {},
    }

    assert last(document_of(states), "GO")["configuration"] == ["z"]


# The start


def test_a_start_is_delivered_where_a_state_names_it():
    chart = chart_of(
        {"a": {"on": {"WORKFLOW_START": {"target": "b", "guard": "event.input.n == 3"}}}, "b": {}}
    )

    assert begin(chart, input={"n": 3}).snapshot["configuration"] == ["b"]


@pytest.mark.parametrize("wildcard", ["*", "WORKFLOW_START.*"])
def test_a_start_is_not_taken_by_a_wildcard(wildcard):
    chart = chart_of({"a": {"on": {wildcard: "b"}}, "b": {}})

    assert begin(chart).snapshot["configuration"] == ["a"]


def test_a_start_that_nobody_names_leaves_no_entry():
    assert kinds(begin(chart_of({"a": {}}))) == ["state.changed"]


def test_simulate_does_not_send_a_start():
    document = document_of({"a": {"on": {"WORKFLOW_START": "b"}}, "b": {}})

    assert [view["configuration"] for view in run(document, "WORKFLOW_START")] == [["a"], ["b"]]


def test_the_context_of_a_start_is_laid_over_that_of_the_definition():
    chart = chart_of({"a": {}}, context={"kept": 1, "replaced": {"deep": 1}})

    step = begin(chart, input={"never": "merged"}, context={"replaced": {"other": 2}}, instance={"id": "i"})

    assert step.snapshot["context"] == {"kept": 1, "replaced": {"other": 2}}
    assert (step.snapshot["input"], step.snapshot["instance"]) == ({"never": "merged"}, {"id": "i"})
