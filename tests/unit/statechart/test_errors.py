"""What goes wrong inside a step: values that fail, guards that fail, snapshots and events that are of no use."""

from __future__ import annotations

import copy

import pytest

import statechart
from statechart import StepFailed
from tests.unit.statechart.charts import begin, chart_of, document_of, env, kinds, last, log, run, send, trace

BROKEN = {"type": "assign", "path": "x", "value": "${context.missing.deep}"}


def test_a_value_that_fails_raises_error_execution_in_the_same_step():
    document = document_of(
        {"a": {"on": {"GO": {"actions": BROKEN}, "error.execution": "caught"}}, "caught": {}}
    )

    assert last(document, "GO")["configuration"] == ["caught"]


def test_the_error_says_what_failed_and_where():
    document = document_of(
        {
            "a": {
                "on": {
                    "GO": {"actions": BROKEN},
                    "error.*": {"actions": {"type": "assign", "path": "e", "value": "${event.error}"}},
                }
            }
        }
    )

    error = last(document, "GO")["context"]["e"]

    assert error["code"] == "expression.missing"
    assert error["data"] == {"at": "states.a.on.GO.actions"}
    assert "context.missing" in error["message"]


def test_the_rest_of_the_block_is_given_up_and_other_blocks_go_on():
    states = {
        "a": {"on": {"GO": {"target": "b", "actions": [log("1"), BROKEN, log("2")]}}},
        "b": {"entry": log("3"), "on": {"error.execution": {"actions": log("caught")}}},
    }

    assert trace(document_of(states), "GO") == ["1", "3", "caught"]


def test_an_error_that_nobody_catches_fails_the_step():
    chart = chart_of({"a": {"on": {"GO": {"actions": BROKEN}}}})

    with pytest.raises(StepFailed) as failed:
        send(chart, begin(chart), "GO")

    assert (failed.value.code, failed.value.path) == ("step.uncaught", "states.a.on.GO.actions")
    assert failed.value.data["code"] == "expression.missing"


@pytest.mark.parametrize("target", [{}, {"target": "z"}], ids=["goes on", "ends"])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, 'the machine raised "error.execution" itself, and no state takes it'),
        ({"error": "no stock"}, 'no state takes it: "no stock"'),
        ({"error": {"code": "c"}}, 'no state takes it: {"code":"c"}'),
        ({"error": {"message": 3}, "at": 5}, 'no state takes it: {"message":3}'),
        ({"error": {"message": "no stock"}}, "no stock"),
    ],
    ids=["nothing", "a text", "no message", "not even texts", "a message"],
)
def test_an_execution_error_that_the_machine_raises_itself_fails_the_step_as_any_other(said, message, target):
    raising = {"type": "raise", "event": {"type": "error.execution", **said}}
    chart = chart_of({"a": {"on": {"GO": {"actions": raising, **target}}}, "z": {"type": "final"}})

    with pytest.raises(StepFailed) as failed:
        send(chart, begin(chart), "GO")

    assert failed.value.code == "step.uncaught"
    assert failed.value.message.endswith(message)
    assert failed.value.data == said.get("error")


def test_a_wildcard_does_not_swallow_an_error():
    chart = chart_of({"a": {"on": {"GO": {"actions": BROKEN}, "*": {"actions": log("any")}}}})

    with pytest.raises(StepFailed):
        send(chart, begin(chart), "GO")


def test_an_error_on_the_way_to_the_end_is_not_lost():
    chart = chart_of({"a": {"on": {"GO": "z"}}, "z": {"type": "final", "entry": BROKEN}})

    with pytest.raises(StepFailed, match="missing"):
        send(chart, begin(chart), "GO")


def test_an_invoke_whose_input_fails_raises_an_error_and_the_others_are_created():
    chart = chart_of(
        {
            "a": {
                "invoke": [{"src": "t", "input": "${context.missing}"}, {"src": "u"}],
                "on": {"error.execution": {"actions": log("caught")}},
            }
        }
    )

    step = begin(chart)

    assert [task["type"] for task in step.snapshot["tasks"].values()] == ["u"]
    assert step.snapshot["context"]["log"] == ["caught"]


def test_a_failed_step_leaves_its_snapshot_alone():
    chart = chart_of({"a": {"on": {"GO": {"actions": [log("before"), BROKEN]}}}})
    started = begin(chart)
    before = copy.deepcopy(started.snapshot)

    with pytest.raises(StepFailed):
        send(chart, started, "GO")

    assert started.snapshot == before


# Guards


def test_a_guard_that_fails_is_false_and_on_record():
    chart = chart_of(
        {"a": {"on": {"GO": [{"target": "b", "guard": "context.missing > 1"}, "c"]}}, "b": {}, "c": {}}
    )

    step = send(chart, begin(chart), "GO")

    assert step.snapshot["configuration"] == ["c"]
    failed = step.changes[0]
    assert failed["type"] == "guard.failed"
    assert (failed["guard"], failed["at"]) == ("context.missing > 1", "states.a.on.GO[0]")


def test_a_guard_that_is_neither_true_nor_false_fails():
    chart = chart_of(
        {"a": {"on": {"GO": {"target": "b", "guard": "context.n + 1"}}}, "b": {}}, context={"n": 1}
    )

    step = send(chart, begin(chart), "GO")

    assert (step.outcome, kinds(step)) == ("ignored", ["guard.failed"])
    assert step.changes[0]["message"] == "expected true or false, found 2"


# Snapshots and events that are of no use


def test_a_snapshot_with_a_state_that_the_chart_does_not_have_is_refused():
    chart = chart_of({"a": {}})
    snapshot = begin(chart).snapshot | {"configuration": ["elsewhere"]}

    with pytest.raises(StepFailed) as failed:
        statechart.step(chart, snapshot, {"type": "GO"}, env())

    assert failed.value.code == "snapshot.unusable"
    assert "'elsewhere'" in failed.value.message


def test_a_snapshot_of_another_kernel_is_refused():
    chart = chart_of({"a": {}})

    with pytest.raises(StepFailed, match="expected a snapshot of kernel 1, found kernel 99"):
        statechart.step(chart, begin(chart).snapshot | {"kernel": 99}, {"type": "GO"}, env())


@pytest.mark.parametrize("event", [{}, {"type": ""}, {"type": "*"}, {"type": 7}])
def test_an_event_without_a_proper_type_is_refused(event):
    chart = chart_of({"a": {}})

    with pytest.raises(StepFailed, match="expected an event with a type"):
        statechart.step(chart, begin(chart).snapshot, event, env())


# Stopping


def test_stop_runs_every_exit_action_from_the_inside_out_and_cancels_everything():
    chart = chart_of(
        {
            "a": {
                "exit": log("-a"),
                "initial": "b",
                "states": {"b": {"exit": log("-b"), "after": {"1h": {}}, "invoke": {"src": "t"}}},
            }
        },
        exit=log("-root"),
    )
    started = begin(chart)

    stopped = statechart.stop(chart, started.snapshot, env())

    assert stopped.snapshot["status"] == "stopped"
    assert stopped.snapshot["context"]["log"] == ["-b", "-a", "-root"]
    assert (stopped.snapshot["tasks"], stopped.snapshot["timers"]) == ({}, {})
    assert len(stopped.effects) == 2


def test_a_value_that_fails_does_not_keep_a_machine_from_stopping():
    chart = chart_of({"a": {"exit": BROKEN}})

    stopped = statechart.stop(chart, begin(chart).snapshot, env())

    assert stopped.snapshot["status"] == "stopped"
    assert "error.execution" in kinds(stopped)


def test_a_task_that_is_asked_for_while_stopping_is_not_created():
    chart = chart_of({"a": {"exit": {"type": "createTask", "task": {"type": "cleanup"}}}})

    assert statechart.stop(chart, begin(chart).snapshot, env()).effects == ()


def test_simulate_shows_a_step_that_fails_and_goes_no_further():
    document = document_of({"a": {"on": {"GO": {"actions": BROKEN}, "B": "b"}}, "b": {}})

    views = run(document, "GO", "B")

    assert [view["status"] for view in views] == ["active", "error", "error"]
    assert views[1]["error"]["code"] == "step.uncaught"
    assert views[2]["configuration"] == ["a"]
