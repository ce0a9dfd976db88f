"""Simulation: the shape of its answers, its clock, and batches that nothing stops."""

from __future__ import annotations

import json

import pytest

import statechart
from statechart import DefinitionInvalid, StepFailed
from tests.unit.statechart.charts import configurations, document_of, run

TIMED = document_of({"a": {"after": {"100": "b"}}, "b": {"after": {"100": "c"}}, "c": {}})


def test_there_is_a_snapshot_at_the_start_and_one_after_each_event():
    document = document_of({"a": {"on": {"GO": "b"}}, "b": {"type": "final"}})

    assert run(document, "OTHER", "GO") == [
        {"configuration": ["a"], "context": {"log": []}, "status": "active"},
        {"configuration": ["a"], "context": {"log": []}, "status": "active"},
        {"configuration": ["b"], "context": {"log": []}, "status": "done"},
    ]


def test_the_clock_moves_by_milliseconds():
    assert configurations(TIMED, 99, 1, 99, 1) == [["a"], ["a"], ["b"], ["b"], ["c"]]


def test_the_clock_jumps_so_that_a_timer_armed_on_the_way_counts_from_where_it_has_arrived():
    assert configurations(TIMED, 250, 99, 1) == [["a"], ["b"], ["b"], ["c"]]


def test_what_the_last_timer_arms_without_delay_waits_for_the_next_move():
    states = {"a": {"after": {"10": "b"}}, "b": {"after": {"0": "c"}}, "c": {}}

    assert configurations(document_of(states), 10, 0) == [["a"], ["b"], ["c"]]
    assert configurations(document_of(states, after={"60": {"actions": []}}), 10) == [["a"], ["c"]]


def test_a_failure_that_is_caught_nowhere_is_an_error_and_one_that_is_forbidden_is_not():
    invoke = {"src": "t", "id": "work"}
    failure = {"type": "xstate.error.actor.work", "error": {"code": "no"}}

    uncaught = run(document_of({"a": {"invoke": invoke, "on": {"NEXT": "b"}}, "b": {}}), failure, "NEXT")
    forbidden = run(document_of({"a": {"invoke": {**invoke, "onError": {}}}}), failure)

    assert [view["status"] for view in uncaught] == ["active", "error", "error"]
    assert uncaught[-1]["error"]["code"] == "task.failed"
    assert [view["status"] for view in forbidden] == ["active", "active"]


@pytest.mark.parametrize(
    "event", [{}, {"advance_ms": -1}, {"advance_ms": "1"}, {"advance_ms": True}, {"type": 3}, 7, None]
)
def test_what_is_no_event_is_refused(event):
    with pytest.raises(StepFailed) as failed:
        statechart.simulate(TIMED, [event])

    assert failed.value.code == "event.invalid"


@pytest.mark.parametrize("milliseconds", [2**53, 1e300, float("inf"), float("nan"), 7_900 * 366 * 86_400_000])
def test_a_clock_that_would_leave_the_calendar_is_refused(milliseconds):
    with pytest.raises(StepFailed, match="years up to") as failed:
        statechart.simulate(TIMED, [{"advance_ms": milliseconds}])

    assert failed.value.code == "event.invalid"


def test_a_document_that_does_not_compile_is_refused():
    with pytest.raises(DefinitionInvalid):
        statechart.simulate(document_of({"a": {"on": {"GO": "nowhere"}}}), [])


SIZED = document_of(
    {"a": {"always": [{"guard": "input.total > 5", "target": "b"}, {"target": "c"}]}, "b": {}, "c": {}}
)


@pytest.mark.parametrize(("total", "state"), [(6, "b"), (5, "c")])
def test_a_simulation_is_started_with_an_input(total: int, state: str) -> None:
    (at_the_start,) = statechart.simulate(SIZED, [], input={"total": total})
    (line,) = statechart.simulate_lines([json.dumps({"id": 1, "spec": SIZED, "input": {"total": total}})])

    assert at_the_start["configuration"] == [state]
    assert json.loads(line)["snapshots"] == [at_the_start]


def test_a_batch_answers_line_by_line_and_goes_on_after_a_bad_case():
    lines = [
        json.dumps({"id": "one", "spec": TIMED, "events": [{"advance_ms": 100}]}),
        "no JSON",
        "",
        json.dumps({"id": "two", "spec": document_of({"a": {"on": {"GO": "nowhere"}}})}),
        json.dumps({"id": "three", "spec": TIMED, "events": {"type": "GO"}}),
        '{"id": "four", "spec": {"initial": "a", "context": {"n": NaN}}}',
        "[]",
        '{"id": "five", "spec": ' + '{"states":{"s":' * 5_000 + "1" + "}}" * 5_000 + "}",
        json.dumps({"id": ["six"], "spec": TIMED, "events": [{"type": "\ud800"}]}),
    ]

    answers = [json.loads(line) for line in statechart.simulate_lines(lines)]

    assert [answer["id"] for answer in answers] == ["one", None, "two", "three", None, None, None, ["six"]]
    assert ["error" in answer for answer in answers] == [False, True, True, True, True, True, True, False]
    assert [view["configuration"] for view in answers[0]["snapshots"]] == [["a"], ["b"]]
    assert "unknown target 'nowhere'" in answers[2]["error"]


def test_each_answer_of_a_batch_is_one_line():
    (line,) = statechart.simulate_lines([json.dumps({"id": "a\nb", "spec": TIMED, "events": []})])

    assert "\n" not in line
