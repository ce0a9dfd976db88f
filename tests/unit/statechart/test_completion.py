"""Final states: done events, outputs, the end of the machine."""

from __future__ import annotations

from statechart import CancelTask, CancelTimer, CreateTask
from tests.unit.statechart.charts import (
    begin,
    chart_of,
    configurations,
    document_of,
    kinds,
    last,
    log,
    send,
    trace,
    traced,
)


def test_a_compound_state_is_done_when_its_final_child_is_entered():
    states = {
        "a": {"initial": "b", "onDone": "z", "states": {"b": {"on": {"GO": "c"}}, "c": {"type": "final"}}},
        "z": {},
    }

    assert configurations(document_of(states), "GO") == [["a.b"], ["z"]]


def test_a_parallel_state_is_done_when_all_its_regions_are():
    def region(event):
        return {"initial": "on", "states": {"on": {"on": {event: "end"}}, "end": {"type": "final"}}}

    states = {
        "p": {"type": "parallel", "onDone": "z", "states": {"x": region("X"), "y": region("Y")}},
        "z": {},
    }

    assert configurations(document_of(states), "X", "Y") == [
        ["p.x.on", "p.y.on"],
        ["p.x.end", "p.y.on"],
        ["z"],
    ]


def test_the_done_event_carries_the_output_of_the_final_state():
    states = {
        "a": {
            "initial": "b",
            "onDone": {
                "target": "z",
                "actions": {"type": "assign", "path": "got", "value": "${event.output}"},
            },
            "states": {
                "b": {"on": {"GO": "c"}},
                "c": {"type": "final", "output": {"sum": "${context.n + event.n}"}},
            },
        },
        "z": {},
    }
    document = document_of(states, context={"n": 40})

    assert last(document, {"type": "GO", "n": 2})["context"]["got"] == {"sum": 42}


def test_the_machine_is_done_when_a_top_level_final_state_is_entered():
    document = document_of({"a": {"on": {"GO": "z"}}, "z": {"type": "final"}})

    assert [last(document, *events)["status"] for events in ((), ("GO",))] == ["active", "done"]


def test_a_parallel_root_is_done_with_its_last_region():
    region = {"initial": "on", "states": {"on": {"on": {"GO": "end"}}, "end": {"type": "final"}}}

    assert last(document_of({"x": region, "y": region}, type="parallel"), "GO")["status"] == "done"


def test_the_root_output_reads_the_output_of_what_completed_it():
    chart = chart_of(
        {"a": {"on": {"GO": "z"}}, "z": {"type": "final", "output": 6}},
        output={"answer": "${event.output * 7}"},
    )

    assert send(chart, begin(chart), "GO").snapshot["output"] == {"answer": 42}


def test_the_output_of_the_final_state_stands_for_a_root_without_one():
    chart = chart_of({"a": {"on": {"GO": "z"}}, "z": {"type": "final", "output": "done well"}})

    assert send(chart, begin(chart), "GO").snapshot["output"] == "done well"


def test_everything_is_exited_when_the_machine_is_done():
    document = document_of(
        {"a": traced("a", on={"GO": "z"}), "z": traced("z", type="final")},
        exit=log("-root"),
        entry=log("+root"),
    )

    assert trace(document, "GO") == ["-a", "+z", "-z", "-root"]


def test_nothing_is_taken_after_the_end():
    chart = chart_of({"a": {"on": {"GO": "z"}}, "z": {"type": "final"}})
    done = send(chart, begin(chart), "GO")

    again = send(chart, done, "GO")

    assert (again.outcome, again.reason) == ("ignored", "not_active")
    assert again.snapshot == done.snapshot


def test_the_end_cancels_what_is_still_open():
    chart = chart_of(
        {
            "p": {
                "type": "parallel",
                "states": {
                    "x": {
                        "entry": {"type": "createTask", "task": {"type": "noop"}},
                        "invoke": {"src": "slow"},
                        "after": {"1h": {"actions": log("late")}},
                    },
                    "y": {},
                },
                "on": {"GO": "z"},
            },
            "z": {"type": "final"},
        }
    )
    started = begin(chart)

    done = send(chart, started, "GO")

    created = {effect.key for effect in started.effects if isinstance(effect, CreateTask)}
    assert {effect.key for effect in done.effects if isinstance(effect, CancelTask)} == created
    assert sum(isinstance(effect, CancelTimer) for effect in done.effects) == 1
    assert (done.snapshot["tasks"], done.snapshot["timers"]) == ({}, {})
    assert kinds(done)[-1] == "task.cancelled"
