"""What actions write into the context and ask of the world, and under which keys."""

from __future__ import annotations

from datetime import timedelta

import pytest

import statechart
from statechart import ArmTimer, CancelTimer, Emit, Log, SendEvent, StartWorkflow
from tests.unit.statechart.charts import (
    NOW,
    begin,
    chart_of,
    configurations,
    document_of,
    env,
    kinds,
    last,
    log,
    send,
    trace,
)


def acting(*actions, **root):
    """A chart that performs the actions on GO."""
    return chart_of({"a": {"on": {"GO": {"actions": list(actions)}}}}, **root)


def after_go(*actions, event="GO", **root):
    chart = acting(*actions, **root)
    return send(chart, begin(chart), event)


# assign


def test_assign_makes_objects_on_the_way():
    step = after_go({"type": "assign", "path": "order.lines.first", "value": 1}, context={})

    assert step.snapshot["context"] == {"order": {"lines": {"first": 1}}}
    assert step.changes[-1] == {"type": "context.assigned", "path": "order.lines.first", "value": 1}


def test_assign_keeps_what_stands_beside():
    step = after_go({"type": "assign", "path": "order.total", "value": 2}, context={"order": {"id": 1}})

    assert step.snapshot["context"] == {"order": {"id": 1, "total": 2}}


def test_assigned_values_see_the_context_before_the_action():
    swap = {"type": "assign", "values": {"a": "${context.b}", "b": "${context.a}"}}

    assert after_go(swap, context={"a": 1, "b": 2}).snapshot["context"] == {"a": 2, "b": 1}


def test_actions_see_what_earlier_actions_assigned():
    double = {"type": "assign", "path": "n", "value": "${context.n * 2}"}

    assert after_go(double, double, double, context={"n": 1}).snapshot["context"] == {"n": 8}


def test_assign_into_something_that_is_no_object_is_an_error():
    document = document_of(
        {
            "a": {
                "on": {
                    "GO": {"actions": {"type": "assign", "path": "n.deep", "value": 1}},
                    "error.execution": {
                        "actions": {"type": "assign", "path": "why", "value": "${event.error}"}
                    },
                }
            }
        },
        context={"n": 7},
    )

    why = last(document, "GO")["context"]["why"]

    assert why["code"] == "context.not_an_object"
    assert why["message"] == "expected an object at context.n, found a number"


# emit, log, send


def test_emit_publishes_under_a_key_of_its_place():
    chart = acting({"type": "emit", "event": {"type": "PAID", "id": "${event.id}"}})
    first = send(chart, begin(chart), {"type": "GO", "id": 1})
    second = send(chart, first, {"type": "GO", "id": 2})

    assert [*first.effects, *second.effects] == [
        Emit({"type": "PAID", "id": 1}, "a/1/1"),
        Emit({"type": "PAID", "id": 2}, "a/1/2"),
    ]


def test_log_renders_what_is_no_text_as_json():
    step = after_go({"type": "log", "message": {"n": "${1 + 1}"}, "level": "warning", "label": "sum"})

    assert step.effects == (Log('sum: {"n":2}', "warning"),)


@pytest.mark.parametrize(
    ("to", "addressee"),
    [
        ("parent", {"parent": True}),
        ("#_parent", {"parent": True}),
        ({"instanceId": "${event.id}"}, {"instanceId": "i-7"}),
        ({"definitionKey": "order", "businessKey": "b"}, {"definitionKey": "order", "businessKey": "b"}),
        ("${event.back}", {"instanceId": "i-8"}),
    ],
)
def test_events_to_others_are_effects(to, addressee):
    step = after_go(
        {"type": "send", "to": to, "event": "PING"},
        event={"type": "GO", "id": "i-7", "back": {"instanceId": "i-8"}},
    )

    assert step.effects == (SendEvent(addressee, {"type": "PING"}, "a/1/1"),)


def test_a_delayed_event_to_another_instance_is_a_timer_first():
    chart = acting({"type": "send", "to": "parent", "event": "PING", "delay": "5m", "id": "ping"})
    armed = send(chart, begin(chart), "GO")

    assert armed.effects == (ArmTimer("a/1/1", NOW + timedelta(minutes=5), {"type": "PING"}),)

    fired = send(chart, armed, "PING", obligation="a/1/1", after=300)

    assert fired.effects == (SendEvent({"parent": True}, {"type": "PING"}, "a/1/1"),)
    assert (fired.outcome, fired.snapshot["timers"]) == ("applied", {})


def test_start_workflow_is_awaited_as_a_child():
    step = after_go(
        {
            "type": "startWorkflow",
            "definitionKey": "pack",
            "input": {"n": "${1 + 1}"},
            "businessKey": "${'b' + '1'}",
        }
    )

    assert step.effects == (
        StartWorkflow(
            "a/1/1",
            "pack",
            None,
            {"n": 2},
            "b1",
            True,
            True,
            "done.workflow.pack",
            "error.workflow.pack",
            instance_id=step.snapshot["children"]["a/1/1"]["instanceId"],
        ),
    )
    assert step.snapshot["children"]["a/1/1"]["completionEvent"] == "done.workflow.pack"


def test_start_workflow_without_waiting_leaves_nothing_open():
    step = after_go({"type": "startWorkflow", "definitionKey": "pack", "wait": False})

    assert step.snapshot["children"] == {}
    assert len(step.effects) == 1


def test_the_end_of_a_child_answers_its_obligation():
    chart = chart_of(
        {
            "a": {
                "entry": {"type": "startWorkflow", "definitionKey": "pack"},
                "on": {"done.workflow.pack": "b"},
            },
            "b": {},
        }
    )
    started = begin(chart)

    step = send(chart, started, {"type": "done.workflow.pack", "output": {}}, obligation="a/1/1")

    assert (step.snapshot["configuration"], step.snapshot["children"]) == (["b"], {})


# timers


def test_after_arms_a_timer_on_entry_and_cancels_it_on_exit():
    chart = chart_of({"a": {"after": {"30s": "late"}, "on": {"GO": "b"}}, "b": {}, "late": {}})
    started = begin(chart)

    assert started.effects == (
        ArmTimer("a/1/1", NOW + timedelta(seconds=30), {"type": "xstate.after.30s.m.a"}),
    )
    assert started.snapshot["timers"]["a/1/1"] == {
        "dueAt": "2026-03-01T09:12:30.000000Z",
        "event": {"type": "xstate.after.30s.m.a"},
        "id": "xstate.after.30s.m.a",
    }
    assert send(chart, started, "GO").effects == (CancelTimer("a/1/1"),)


def test_a_timer_that_fires_takes_its_transition():
    chart = chart_of({"a": {"after": {"1000": "b"}}, "b": {}})
    started = begin(chart)
    timer = started.snapshot["timers"]["a/1/1"]

    fired = send(chart, started, timer["event"], obligation="a/1/1", after=1)

    assert fired.snapshot["configuration"] == ["b"]
    assert (fired.effects, fired.snapshot["timers"]) == ((), {})


def test_a_timer_that_was_cancelled_meanwhile_is_ignored():
    chart = chart_of({"a": {"after": {"1000": "late"}, "on": {"GO": "b"}}, "b": {}, "late": {}})
    started = begin(chart)
    gone = send(chart, started, "GO")

    late = send(chart, gone, started.snapshot["timers"]["a/1/1"]["event"], obligation="a/1/1")

    assert (late.outcome, late.reason, late.snapshot) == ("ignored", "obligation_closed", gone.snapshot)


def test_each_entry_arms_a_timer_of_its_own():
    chart = chart_of({"a": {"after": {"1000": "b"}, "on": {"GO": "b"}}, "b": {"on": {"BACK": "a"}}})

    step = send(chart, send(chart, begin(chart), "GO"), "BACK")

    assert list(step.snapshot["timers"]) == ["a/1/2"]


def test_after_may_name_a_delay_or_compute_one():
    document = document_of(
        {"a": {"after": {"patience": "b"}}, "b": {"after": {"${context.ms}": "c"}}, "c": {}},
        delays={"patience": "2s"},
        context={"ms": 500},
    )

    assert configurations(document, 1999, 1, 499, 1) == [["a"], ["a"], ["b"], ["b"], ["c"]]


def test_timers_fire_in_the_order_of_their_due_times():
    document = document_of({"a": {"after": {"200": {"actions": log("200")}, "100": {"actions": log("100")}}}})

    assert trace(document, 1000) == ["100", "200"]


def test_a_delayed_raise_can_be_cancelled_by_its_id():
    states = {
        "a": {
            "entry": {"type": "raise", "event": "REMIND", "delay": "1h", "id": "reminder"},
            "on": {
                "STOP": {"actions": {"type": "cancel", "id": "reminder"}},
                "REMIND": {"actions": log("reminded")},
            },
        }
    }

    assert trace(document_of(states), 3_600_000) == ["reminded"]
    assert trace(document_of(states), "STOP", 3_600_000) == []


def test_an_id_leads_to_the_delayed_event_that_took_it_last_until_one_of_them_fires():
    remind = {"type": "raise", "event": "REMIND", "delay": 100, "id": "reminder"}
    states = {
        "a": {
            "on": {
                "ASK": {"actions": remind},
                "STOP": {"actions": {"type": "cancel", "id": "reminder"}},
                "REMIND": {"actions": log("reminded")},
            }
        }
    }

    assert trace(document_of(states), "ASK", 50, "ASK", "STOP", 1000) == ["reminded"]
    assert trace(document_of(states), "ASK", 50, "ASK", 50, "STOP", 1000) == ["reminded", "reminded"]


def test_a_state_that_is_entered_again_without_being_left_has_two_timers():
    states = {
        "p": {
            "initial": "a",
            "states": {
                "a": {"on": {"AGAIN": "memory", "GO": "b"}, "after": {"100": {"actions": log("late")}}},
                "b": {},
                "memory": {"type": "history"},
            },
        }
    }

    assert trace(document_of(states), "AGAIN", 100) == ["late", "late"]
    assert trace(document_of(states), "AGAIN", "GO", 100) == []


def test_a_timer_that_is_armed_and_cancelled_in_one_step_is_never_asked_for():
    chart = chart_of({"a": {"on": {"GO": "b"}}, "b": {"after": {"1s": "c"}, "always": "c"}, "c": {}})

    step = send(chart, begin(chart), "GO")

    assert step.effects == ()
    assert kinds(step) == [
        "state.changed",
        "timer.armed",
        "state.changed",
        "timer.cancelled",
    ]


def test_a_delay_that_is_no_duration_is_an_error():
    chart = acting({"type": "raise", "event": "X", "delay": "${event.delay}"})
    chart_with_catch = chart_of(
        {
            "a": {
                "on": {
                    "GO": {"actions": {"type": "raise", "event": "X", "delay": "${event.delay}"}},
                    "error.execution": "failed",
                }
            },
            "failed": {},
        }
    )

    assert send(chart, begin(chart), {"type": "GO", "delay": "1m"}).snapshot["timers"]
    step = send(chart_with_catch, begin(chart_with_catch), {"type": "GO", "delay": "soon"})
    assert step.snapshot["configuration"] == ["failed"]


# draws


def test_uuid_and_random_follow_from_the_seed_and_differ_within_a_step():
    chart = acting(
        {"type": "assign", "values": {"a": "${uuid()}", "b": "${uuid()}", "c": "${random()}"}}, context={}
    )
    started = begin(chart)

    one, again = (statechart.step(chart, started.snapshot, {"type": "GO"}, env(seed="s")) for _ in range(2))
    other = statechart.step(chart, started.snapshot, {"type": "GO"}, env(seed="t"))

    assert one.snapshot["context"] == again.snapshot["context"]
    assert one.snapshot["context"]["a"] != one.snapshot["context"]["b"]
    assert one.snapshot["context"] != other.snapshot["context"]


def test_now_and_config_come_from_the_environment():
    chart = acting(
        {"type": "assign", "values": {"at": "${now}", "limit": "${config.orders.limit}"}}, context={}
    )
    started = begin(chart)

    step = statechart.step(
        chart, started.snapshot, {"type": "GO"}, env(after=1, config={"orders": {"limit": 5}})
    )

    assert step.snapshot["context"]["limit"] == 5
    assert step.snapshot["context"]["at"].startswith("2026-03-01T09:12:01")
    assert chart.config_names == {"orders.limit"}
