"""Regions: entering and leaving them together, conflicts between them, the order in which they answer."""

from __future__ import annotations

import statechart
from tests.unit.statechart.charts import (
    begin,
    configurations,
    document_of,
    env,
    last,
    log,
    send,
    trace,
    traced,
)


def two_regions(**root):
    return document_of(
        {
            "x": traced("x", initial="x1", states={"x1": traced("x1", on={"GO": "x2"}), "x2": traced("x2")}),
            "y": traced("y", initial="y1", states={"y1": traced("y1", on={"GO": "y2"}), "y2": traced("y2")}),
        },
        type="parallel",
        **root,
    )


def test_all_regions_are_entered_in_document_order():
    assert last(two_regions())["context"]["log"] == ["+x", "+x1", "+y", "+y1"]


def test_one_event_moves_every_region_that_handles_it():
    document = two_regions()

    assert last(document, "GO")["configuration"] == ["x.x2", "y.y2"]
    assert trace(document, "GO") == ["-y1", "-x1", "+x2", "+y2"]


def test_the_root_is_asked_only_where_no_region_answers():
    document = two_regions(on={"GO": {"actions": log("root")}})

    assert trace(document, "GO", "GO") == ["-y1", "-x1", "+x2", "+y2", "root"]


def test_of_two_regions_that_lead_out_the_first_wins():
    states = {
        "p": {
            "type": "parallel",
            "states": {
                "x": {"on": {"OUT": {"target": "#m.a", "actions": log("x")}}},
                "y": {"on": {"OUT": {"target": "#m.b", "actions": log("y")}}},
            },
        },
        "a": {},
        "b": {},
    }
    document = document_of(states)

    assert configurations(document, "OUT") == [["p.x", "p.y"], ["a"]]
    assert trace(document, "OUT") == ["x"]


def test_a_deeper_transition_wins_over_one_of_another_region_that_leads_out():
    states = {
        "p": {
            "type": "parallel",
            "states": {
                "x": {"on": {"GO": "#m.a"}},
                "y": {"initial": "y1", "states": {"y1": {"on": {"GO": "y2"}}, "y2": {}}},
            },
        },
        "a": {},
    }

    assert last(document_of(states), "GO")["configuration"] == ["a"]


def test_several_targets_enter_several_regions():
    states = {
        "a": {"on": {"GO": {"target": ["#m.p.x.x2", "#m.p.y.y2"]}}},
        "p": {
            "type": "parallel",
            "states": {
                name: {"initial": f"{name}1", "states": {f"{name}1": {}, f"{name}2": {}}} for name in "xyz"
            },
        },
    }

    assert last(document_of(states), "GO")["configuration"] == ["p.x.x2", "p.y.y2", "p.z.z1"]


def test_a_target_inside_one_region_enters_the_others_by_default():
    states = {
        "a": {"on": {"GO": "p.y.y2"}},
        "p": traced(
            "p",
            type="parallel",
            states={
                name: {"initial": f"{name}1", "states": {f"{name}1": {}, f"{name}2": {}}} for name in "xy"
            },
        ),
    }

    assert last(document_of(states), "GO")["configuration"] == ["p.x.x1", "p.y.y2"]


def test_a_region_that_reenters_itself_takes_its_neighbours_along():
    document = two_regions()
    document["states"]["x"]["on"] = {"AGAIN": {"target": "x", "reenter": True}}

    assert trace(document, "AGAIN") == ["-y1", "-y", "-x1", "-x", "+x", "+x1", "+y", "+y1"]


def test_eventless_transitions_are_asked_in_the_order_in_which_regions_were_entered():
    # As XState: the region that moved last is asked last, even in the next step after its state was stored.
    def region(name):
        return {
            "initial": "1",
            "states": {
                "1": {"on": {f"MOVE_{name}": "2"}},
                "2": {"always": {"target": "3", "guard": "context.go", "actions": log(name)}},
                "3": {},
            },
        }

    document = document_of(
        {"x": region("x"), "y": region("y")},
        type="parallel",
        context={"log": [], "go": False},
        on={"ALL": {"actions": {"type": "assign", "path": "go", "value": True}}},
    )

    assert trace(document, "MOVE_x", "MOVE_y", "ALL") == ["x", "y"]
    assert trace(document, "MOVE_y", "MOVE_x", "ALL") == ["y", "x"]


def test_two_transitions_never_enter_two_children_of_one_state():
    document = document_of(
        {
            "x": {
                "initial": "x1",
                "states": {
                    "x1": {"on": {"GO": "memory"}},
                    "x2": {},
                    "memory": {"type": "history"},
                },
            },
            "y": {"on": {"GO": "x.x2"}},
        },
        type="parallel",
    )

    assert configurations(document, "GO") == [["x.x1", "y"], ["x.x1", "y"]]


def test_a_history_that_leads_to_another_region_leaves_none_empty():
    document = document_of(
        {
            "x": {"type": "parallel", "states": {"memory": {"type": "history"}}},
            "jump": {"type": "history", "target": "#m.x.memory"},
            "y": {"type": "parallel", "states": {"y1": {"on": {"GO": "#m.jump"}}}},
        },
        type="parallel",
    )

    assert configurations(document, "GO")[-1] == ["y.y1"]


def test_a_parallel_state_without_regions_is_active_and_stays_so_when_it_is_stored():
    chart = statechart.load(
        document_of(
            {"a": {"type": "parallel", "states": {}, "on": {"GO": {"target": "b", "guard": "true"}}}, "b": {}}
        )
    )

    step = begin(chart)

    assert step.snapshot["configuration"] == []
    assert step.snapshot["entered"] == ["a"]
    assert statechart.accepts(chart, step.snapshot)
    (go,) = statechart.explain(chart, step.snapshot)["events"]
    assert (go["type"], go["accepted"]) == ("GO", True)
    assert send(chart, step, "GO").snapshot["configuration"] == ["b"]
    assert statechart.stop(chart, step.snapshot, env()).snapshot["status"] == "stopped"
