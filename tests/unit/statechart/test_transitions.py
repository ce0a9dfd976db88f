"""Which transition is taken, what it leaves and enters, and in which order everything happens."""

from __future__ import annotations

import pytest

from tests.unit.statechart.charts import configurations, document_of, last, log, run, trace, traced


def test_the_initial_configuration_is_entered_from_the_outside_in():
    document = document_of({"a": traced("a", initial="b", states={"b": traced("b")})}, entry=log("+root"))

    assert run(document)[0] == {
        "configuration": ["a.b"],
        "context": {"log": ["+root", "+a", "+b"]},
        "status": "active",
    }


def test_actions_of_an_initial_transition_come_before_the_entry_of_the_child():
    states = {"a": traced("a", initial={"target": "b", "actions": log("initial")}, states={"b": traced("b")})}

    assert last(document_of(states))["context"]["log"] == ["+a", "initial", "+b"]


def test_exit_comes_before_the_transition_and_entry_after_it():
    states = {
        "a": traced(
            "a", initial="b", states={"b": traced("b", on={"GO": {"target": "#m.c", "actions": log("go")}})}
        ),
        "c": traced("c", initial="d", states={"d": traced("d")}),
    }

    assert trace(document_of(states), "GO") == ["-b", "-a", "go", "+c", "+d"]


def test_an_event_that_nobody_handles_changes_nothing():
    before, after = run(document_of({"a": {"on": {"GO": "b"}}, "b": {}}), "OTHER")

    assert after == before


def test_the_deepest_state_answers_first():
    states = {
        "a": {
            "initial": "b",
            "states": {"b": {"on": {"GO": {"actions": log("inner")}}}},
            "on": {"GO": {"actions": log("outer")}},
        }
    }

    assert trace(document_of(states), "GO") == ["inner"]


def test_an_outer_state_answers_when_the_guard_of_the_inner_one_fails():
    states = {
        "a": {
            "initial": "b",
            "states": {"b": {"on": {"GO": {"actions": log("inner"), "guard": "event.deep"}}}},
            "on": {"GO": {"actions": log("outer")}},
        }
    }

    assert trace(document_of(states), {"type": "GO", "deep": False}, {"type": "GO", "deep": True}) == [
        "outer",
        "inner",
    ]


def test_the_first_candidate_whose_guard_holds_is_taken():
    states = {
        "a": {
            "on": {
                "GO": [{"target": "b", "guard": "event.n > 5"}, {"target": "c", "guard": "event.n > 1"}, "d"]
            }
        },
        "b": {},
        "c": {},
        "d": {},
    }

    assert [last(document_of(states), {"type": "GO", "n": n})["configuration"] for n in (9, 3, 0)] == [
        ["b"],
        ["c"],
        ["d"],
    ]


def test_an_empty_transition_forbids_what_an_outer_state_would_take():
    states = {
        "a": {"initial": "b", "states": {"b": {"on": {"GO": {}}}, "c": {}}, "on": {"GO": "d", "IN": ".c"}},
        "d": {},
    }

    assert configurations(document_of(states), "GO", "IN", "GO") == [["a.b"], ["a.b"], ["a.c"], ["d"]]


def test_a_transition_without_a_target_leaves_and_enters_nothing():
    states = {"a": traced("a", on={"GO": {"actions": log("stay")}})}

    assert trace(document_of(states), "GO") == ["stay"]


def test_a_transition_to_its_own_state_does_not_leave_it_unless_it_reenters():
    states = {
        "a": traced(
            "a",
            on={"STAY": {"target": "a", "actions": log("stay")}, "AGAIN": {"target": "a", "reenter": True}},
        )
    }

    assert trace(document_of(states), "STAY", "AGAIN") == ["stay", "-a", "+a"]


def test_a_transition_to_its_own_child_keeps_the_parent_unless_it_reenters():
    states = {
        "a": traced(
            "a",
            initial="b",
            states={"b": traced("b"), "c": traced("c")},
            on={"IN": ".c", "AGAIN": {"target": ".c", "reenter": True}},
        )
    }

    assert trace(document_of(states), "IN", "AGAIN") == ["-b", "+c", "-c", "-a", "+a", "+c"]


def test_a_root_that_reenters_leaves_even_the_root():
    document = document_of(
        {"a": traced("a"), "b": traced("b")},
        entry=log("+root"),
        exit=log("-root"),
        on={"IN": ".b", "AGAIN": {"target": ".b", "reenter": True}},
    )

    assert trace(document, "IN", "AGAIN") == ["-a", "+b", "-b", "-root", "+root", "+b"]


@pytest.mark.parametrize(
    "target",
    ["b.d", "#m.b.d", "#deep", "#middle.d"],
    ids=["path from a sibling", "default id", "own id", "child of an id"],
)
def test_a_target_may_be_named_in_several_ways(target):
    states = {
        "a": {"on": {"GO": target}},
        "b": {"id": "middle", "initial": "c", "states": {"c": {}, "d": {"id": "deep"}}},
    }
    if target == "#m.b.d":
        del states["b"]["id"]

    assert last(document_of(states), "GO")["configuration"] == ["b.d"]


def test_states_called_by_numbers_stand_in_the_order_of_javascript():
    document = document_of(
        {"b": traced("b"), "10": traced("10"), "2": traced("2")}, type="parallel", on={"GO": {"target": ".b"}}
    )

    assert last(document)["context"]["log"] == ["+2", "+10", "+b"]
    assert last(document)["configuration"] == ["2", "10", "b"]


def test_conditions_see_assignments_that_were_made_before_in_the_same_step():
    states = {
        "a": {"on": {"GO": {"target": "b", "actions": {"type": "assign", "path": "n", "value": 7}}}},
        "b": {"always": [{"target": "c", "guard": "context.n == 7"}, "d"]},
        "c": {},
        "d": {},
    }

    assert last(document_of(states), "GO")["configuration"] == ["c"]
