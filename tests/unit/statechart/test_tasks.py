"""Tasks: what createTask and invoke ask for, how they are answered, and what is done inside the step."""

from __future__ import annotations

from datetime import timedelta

import pytest

import statechart
from statechart import ArmTimer, CancelTask, CreateTask, DefinitionInvalid, Emit, Log
from statechart.env import format_instant
from tests.unit.statechart.charts import NOW, begin, chart_of, configurations, document_of, kinds, last, send


def creating(task, **action):
    return {"type": "createTask", "task": task, **action}


def created(step):
    return [effect for effect in step.effects if isinstance(effect, CreateTask)]


def entering(*actions, on=None, **root):
    return chart_of({"a": {"entry": list(actions), "on": on or {}}, "b": {}}, **root)


# createTask


def test_a_task_has_a_key_of_its_place_and_events_of_its_name():
    step = begin(
        entering(creating({"type": "EMAIL", "name": "hello", "input": {"to": "${input.to}"}})),
        input={"to": "x"},
    )

    assert step.effects == (
        CreateTask("a/1/1", "EMAIL", "hello", {"to": "x"}, "done.task.hello", "error.task.hello"),
    )
    assert step.snapshot["tasks"] == {
        "a/1/1": {
            "type": "EMAIL",
            "name": "hello",
            "completionEvent": "done.task.hello",
            "failureEvent": "error.task.hello",
        }
    }


def test_a_task_without_a_name_is_called_by_its_type():
    (task,) = created(begin(entering(creating({"type": "orders.ship"}))))

    assert (task.name, task.completion_event) == ("orders.ship", "done.task.orders.ship")


def test_options_beside_the_task_hold_where_the_task_says_nothing():
    action = creating(
        {"type": "t", "completionEvent": "INNER", "timeout": "10s", "maxAttempts": 5},
        completionEvent="OUTER",
        failureEvent="FAILED",
        idempotencyKey="k-${input.n}",
        retry={"backoffRate": 3},
        priority=7,
        queue="slow",
        delay="1m",
        policy={"allowedEvents": ["A"]},
        assignee="ada",
        timeout="5s",
    )

    (task,) = created(begin(entering(action), input={"n": 4}))

    assert task.completion_event == "INNER"
    assert task.failure_event == "FAILED"
    assert task.timeout_ms == 10_000
    assert task.retry == {"backoffRate": 3, "maxAttempts": 5}
    assert (task.idempotency_key, task.priority, task.queue) == ("k-4", 7, "slow")
    assert task.run_at == NOW + timedelta(minutes=1)
    assert task.options == {"policy": {"allowedEvents": ["A"]}, "assignee": "ada"}


def test_defaults_of_the_definition_hold_where_the_task_says_nothing():
    chart = entering(
        creating({"type": "t"}),
        creating({"type": "u", "retry": 1}),
        defaults={"retry": {"maxAttempts": 9}, "timeout": "1m"},
    )

    one, other = created(begin(chart))

    assert (one.retry, one.timeout_ms) == ({"maxAttempts": 9}, 60_000)
    assert other.retry == {"maxAttempts": 1}


def test_run_at_is_an_instant():
    (task,) = created(begin(entering(creating({"type": "t", "runAt": "2026-04-01T00:00:00+02:00"}))))

    assert task.run_at is not None
    assert task.run_at.isoformat() == "2026-03-31T22:00:00+00:00"


@pytest.mark.parametrize(
    ("part", "at"),
    [
        ({"type": "assign", "path": "x", "value": ["${secret.A}"]}, "entry.value.0"),
        ({"type": "raise", "event": {"type": "E", "key": "${secret.A}"}}, "entry.event.key"),
        ({"type": "log", "message": "with ${secret.A}"}, "entry.message"),
        (creating({"type": "HTTP", "name": "${secret.A}"}), "entry.task.name"),
        (creating({"type": "HTTP", "idempotencyKey": "${secret.A}"}), "entry.task.idempotencyKey"),
        (creating({"type": "HUMAN", "input": {"show": "${secret.A}"}}), "entry.task.input.show"),
        (creating({"type": "SET", "input": {"key": "${secret.A}"}}), "entry.task.input.key"),
        (
            creating({"type": "WORKFLOW", "input": {"definitionKey": "k", "input": "${secret.A}"}}),
            "entry.task.input.input",
        ),
        ({"type": "startWorkflow", "definitionKey": "k", "input": "${secret.A}"}, "entry.input"),
        (
            creating({"type": "MAP", "input": {"items": ["${secret.A}"], "task": {"type": "work"}}}),
            "entry.task.input.items.0",
        ),
        (
            creating(
                {"type": "MAP", "input": {"items": [], "task": {"type": "HUMAN", "input": "${secret.A}"}}}
            ),
            "entry.task.input.task.input",
        ),
        (
            creating({"type": "MAP", "input": {"items": [], "workflow": {"definitionKey": "${secret.A}"}}}),
            "entry.task.input.workflow.definitionKey",
        ),
    ],
)
def test_a_secret_that_nobody_would_resolve_is_refused(part, at):
    with pytest.raises(DefinitionInvalid) as refused:
        entering(part, on={"E": "b"})

    (problem,) = [one for one in refused.value.problems if one.severity == "error"]
    assert (problem.code, problem.path) == ("secret.misplaced", f"states.a.{at}")


def test_a_secret_in_a_condition_is_refused():
    for guard in ("secret.A == 'x'", {"key": "x", "operator": "==", "value": "${secret.A}"}):
        with pytest.raises(DefinitionInvalid) as refused:
            entering(on={"E": {"target": "b", "guard": guard}})
        assert {one.code for one in refused.value.problems} <= {"secret.misplaced", "expression.unknown_name"}


def test_secrets_stay_text_and_only_those_of_the_definition_are_named():
    chart = entering(creating({"type": "HTTP", "input": {"key": "${secret.api}", "data": ["${input.text}"]}}))

    (task,) = created(begin(chart, input={"text": "${secret.stolen}"}))

    assert task.input == {"key": "${secret.api}", "data": ["${secret.stolen}"]}
    assert task.secrets == (("key",),)


def test_a_finished_task_closes_its_obligation_and_is_taken_as_an_event():
    chart = entering(
        creating({"type": "t"}),
        on={
            "done.task.t": {
                "target": "b",
                "actions": {"type": "assign", "path": "got", "value": "${event.output}"},
            }
        },
    )

    step = send(chart, begin(chart), {"type": "done.task.t", "output": 42}, obligation="a/1/1")

    assert (step.snapshot["configuration"], step.snapshot["context"]["got"], step.snapshot["tasks"]) == (
        ["b"],
        42,
        {},
    )


def test_a_task_outlives_the_state_that_asked_for_it():
    chart = chart_of(
        {
            "a": {"entry": creating({"type": "t"}), "on": {"GO": "b"}},
            "b": {"on": {"done.task.t": "c"}},
            "c": {},
        }
    )
    gone = send(chart, begin(chart), "GO")

    assert gone.effects == ()
    assert send(chart, gone, "done.task.t", obligation="a/1/1").snapshot["configuration"] == ["c"]


def test_an_answer_that_nobody_waits_for_still_closes_the_obligation():
    chart = entering(creating({"type": "t"}))

    step = send(chart, begin(chart), "done.task.t", obligation="a/1/1")

    assert (step.outcome, step.reason, step.snapshot["tasks"]) == ("ignored", "no_transition", {})
    assert kinds(step) == ["task.closed"]


def test_a_failure_that_nobody_catches_leaves_the_task_open_for_a_retry():
    chart = entering(creating({"type": "t"}), on={"done.task.t": "b"})
    started = begin(chart)

    failed = send(chart, started, {"type": "error.task.t", "error": {"code": "x"}}, obligation="a/1/1")

    assert (failed.outcome, failed.reason) == ("ignored", "no_transition")
    assert failed.snapshot == started.snapshot
    assert send(chart, failed, "done.task.t", obligation="a/1/1").snapshot["configuration"] == ["b"]


def test_nothing_else_follows_from_a_failure_that_nobody_catches():
    chart = chart_of(
        {
            "a": {"entry": [creating({"type": "t"})], "always": {"target": "b", "guard": "has(event.error)"}},
            "b": {},
        }
    )

    failed = send(chart, begin(chart), {"type": "error.task.t", "error": {"code": "x"}}, obligation="a/1/1")

    assert (failed.outcome, failed.reason) == ("ignored", "no_transition")
    assert failed.snapshot["configuration"] == ["a"]


def test_a_failure_may_be_forbidden_and_closes_its_task():
    chart = entering(creating({"type": "t"}), on={"error.task.t": {}})

    failed = send(chart, begin(chart), {"type": "error.task.t", "error": {"code": "x"}}, obligation="a/1/1")

    assert (failed.outcome, failed.reason, failed.snapshot["tasks"]) == ("ignored", "forbidden", {})


def test_a_second_answer_is_ignored():
    chart = entering(
        creating({"type": "t"}), on={"done.task.t": {"actions": {"type": "log", "message": "done"}}}
    )
    once = send(chart, begin(chart), "done.task.t", obligation="a/1/1")

    twice = send(chart, once, "done.task.t", obligation="a/1/1")

    assert (twice.outcome, twice.reason, twice.snapshot) == ("ignored", "obligation_closed", once.snapshot)


def test_cancel_ends_a_task_by_its_name():
    chart = entering(
        creating({"type": "t", "name": "slow"}), on={"STOP": {"actions": {"type": "cancel", "id": "slow"}}}
    )

    assert send(chart, begin(chart), "STOP").effects == (CancelTask("a/1/1"),)


def test_each_time_a_place_asks_it_uses_another_key():
    chart = entering(on={"GO": {"actions": [creating({"type": "t"}), creating({"type": "u"})]}})

    first = send(chart, begin(chart), "GO")
    second = send(chart, first, "GO")

    assert [task.key for task in (*created(first), *created(second))] == ["a/1/1", "a/2/1", "a/1/2", "a/2/2"]


# invoke


def invoking(**invoke):
    return chart_of(
        {
            "a": {"invoke": {"src": "orders.ship", "id": "ship", **invoke}, "on": {"LEAVE": "b"}},
            "b": {"on": {"BACK": "a"}},
            "failed": {},
        }
    )


def test_invoke_creates_its_task_on_entry_and_cancels_it_on_exit():
    chart = invoking(input={"n": 1})
    started = begin(chart)

    assert started.effects == (
        CreateTask(
            "a/1/1",
            "orders.ship",
            "orders.ship",
            {"n": 1},
            "xstate.done.actor.ship",
            "xstate.error.actor.ship",
            invoke="ship",
        ),
    )
    assert send(chart, started, "LEAVE").effects == (CancelTask("a/1/1"),)


def test_the_output_of_an_invoke_is_in_the_context_before_on_done_looks():
    chart = invoking(
        outputKey="order.shipment",
        onDone=[{"target": "b", "guard": "context.order.shipment.ok"}, "failed"],
    )

    step = send(
        chart, begin(chart), {"type": "xstate.done.actor.ship", "output": {"ok": True}}, obligation="a/1/1"
    )

    assert step.snapshot["configuration"] == ["b"]
    assert step.snapshot["context"]["order"] == {"shipment": {"ok": True}}
    assert step.effects == ()


def test_on_error_catches_a_failed_invoke():
    chart = invoking(
        onError={
            "target": "failed",
            "actions": {"type": "assign", "path": "why", "value": "${event.error.code}"},
        }
    )

    step = send(
        chart, begin(chart), {"type": "xstate.error.actor.ship", "error": {"code": "E"}}, obligation="a/1/1"
    )

    assert (step.snapshot["configuration"], step.snapshot["context"]["why"]) == (["failed"], "E")


def test_an_invoke_whose_state_is_left_at_once_is_never_asked_for():
    chart = chart_of({"a": {"invoke": {"src": "t"}, "always": "b"}, "b": {}})

    step = begin(chart)

    assert (step.effects, step.snapshot["tasks"]) == ((), {})


def test_an_invoke_without_an_id_is_called_as_xstate_calls_it():
    chart = chart_of({"a": {"invoke": [{"src": "t"}, {"src": "u", "onDone": "b"}]}, "b": {}})

    assert [task.invoke for task in created(begin(chart))] == ["0.m.a", "1.m.a"]


def test_simulate_answers_the_task_that_waits_for_an_event():
    document = document_of(
        {"a": {"invoke": {"src": "t", "id": "x", "outputKey": "got", "onDone": "b"}}, "b": {}}, context={}
    )

    view = last(document, {"type": "xstate.done.actor.x", "output": 5})

    assert view == {"configuration": ["b"], "context": {"got": 5}, "status": "active"}


# done inside the step


def test_set_writes_into_the_context_and_transform_gives_its_input_back():
    document = document_of(
        {
            "a": {
                "invoke": {"src": "SET", "input": {"order.total": "${1 + 2}", "paid": False}, "onDone": "b"}
            },
            "b": {
                "invoke": {
                    "src": "TRANSFORM",
                    "input": {"twice": "${context.order.total * 2}"},
                    "outputKey": "result",
                    "onDone": "c",
                }
            },
            "c": {},
        },
        context={},
    )

    assert last(document) == {
        "configuration": ["c"],
        "context": {"order": {"total": 3}, "paid": False, "result": {"twice": 6}},
        "status": "active",
    }


def test_log_and_emit_need_no_runner():
    chart = chart_of(
        {
            "a": {"invoke": {"src": "LOG", "input": {"message": "hi", "level": "error"}, "onDone": "b"}},
            "b": {"entry": creating({"type": "EMIT", "input": {"event": {"type": "PAID", "n": 1}}})},
        }
    )

    step = begin(chart)

    assert step.effects == (Log("hi", "error"), Emit({"type": "PAID", "n": 1}, "b/1/1"))
    assert (step.snapshot["configuration"], step.snapshot["tasks"]) == (["b"], {})


def test_an_instant_task_of_a_state_that_was_left_is_not_answered():
    document = document_of(
        {
            "a": {"invoke": {"src": "TRANSFORM", "input": 1, "id": "x"}, "always": "b"},
            "b": {"on": {"*": "wrong"}},
            "wrong": {},
        }
    )

    assert configurations(document) == [["b"]]


@pytest.mark.parametrize(
    "wait", [{"delay": "5m"}, {"input": {"duration": "PT5M"}}, {"runAt": "2026-03-01T09:17:00Z"}]
)
def test_a_timer_task_is_a_timer(wait):
    chart = chart_of(
        {"a": {"invoke": {"src": "TIMER", "id": "wait", "onDone": "b", **wait}, "on": {"GO": "b"}}, "b": {}}
    )

    started = begin(chart)

    ((key, timer),) = started.snapshot["timers"].items()
    assert started.effects == (ArmTimer(key, NOW + timedelta(minutes=5), timer["event"]),)
    assert send(chart, started, timer["event"], obligation=key).snapshot["configuration"] == ["b"]
    assert send(chart, started, "GO").snapshot["timers"] == {}


# POLL


def test_the_condition_of_a_poll_stays_an_expression():
    chart = entering(
        creating(
            {
                "type": "POLL",
                "input": {
                    "task": {"type": "t", "input": {"id": "${input.id}", "key": "${secret.k}"}},
                    "until": "${output.ready}",
                    "interval": "5s",
                    "timeout": "${input.time}",
                },
            }
        )
    )
    started = begin(chart, input={"id": 7, "time": "1h"})

    (task,) = created(started)

    assert (task.type, task.asked_as, task.name, task.completion_event) == ("t", "POLL", "t", "done.task.t")
    assert task.input == {"id": 7, "key": "${secret.k}"}
    assert task.secrets == (("key",),)
    assert task.run_at == NOW + timedelta(seconds=5)
    assert task.options == {
        "poll": {
            "until": "output.ready",
            "interval": 5_000,
            "timeout": 3_600_000,
            "startedAt": format_instant(NOW),
        }
    }
    assert started.snapshot["tasks"]["a/1/1"]["type"] == "POLL"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"interval": "${50}"}, "poll.interval"),
        ({"interval": "${'soon'}"}, "duration.invalid"),
        ({"timeout": "${0}"}, "poll.timeout"),
        ({"maxAttempts": "${0}"}, "poll.max_attempts"),
        ({"maxAttempts": "${'a'}"}, "poll.max_attempts"),
        ({"checkFirst": "${1}"}, "poll.check_first"),
        ({"task": {"type": "${'HUMAN'}"}}, "poll.task"),
        ({"task": {"type": "${null}"}}, "poll.task"),
        ({"task": {"type": "${'" + "x" * 2_001 + "'}"}}, "poll.task"),
    ],
)
def test_a_poll_that_is_computed_wrongly_is_an_error(members, code):
    given = {"task": {"type": "t"}, "until": "output.ready", "interval": "5s", **members}
    document = document_of(
        {
            "a": {
                "entry": creating({"type": "POLL", "input": given}),
                "on": {
                    "error.execution": {
                        "target": "failed",
                        "actions": {"type": "assign", "path": "why", "value": "${event.error.code}"},
                    }
                },
            },
            "failed": {},
        },
    )

    assert last(document)["context"]["why"] == code


def test_a_poll_takes_over_what_its_inner_task_says():
    inner = {
        "type": "SYSTEM",
        "name": "orders.status",
        "retry": {"maxAttempts": 9},
        "timeouts": {"heartbeat": "1s"},
    }
    given = {"task": inner, "until": "output.ready", "interval": "soon", "checkFirst": True}
    chart = entering(creating({"type": "POLL", "timeout": "5s", "input": given}), delays={"soon": "2s"})

    (task,) = created(begin(chart))

    assert (task.type, task.name, task.run_at) == ("orders.status", "orders.status", None)
    assert (task.retry, task.timeout_ms, task.heartbeat_ms) == ({"maxAttempts": 9}, 5_000, 1_000)
    assert task.options["poll"]["interval"] == 2_000


# what can never be right


def problems_of(document):
    return [(problem.code, problem.path, problem.message) for problem in statechart.check(document)]


@pytest.mark.parametrize(
    ("option", "code", "path", "message"),
    [
        ({"retry": {"maxAttempts": "3"}}, "retry.invalid", "retry.maxAttempts", "expected a whole number from 1 to 1,000,000, found '3'"),
        ({"retry": {"maxAttempts": None}}, "retry.invalid", "retry.maxAttempts", "expected a whole number from 1 to 1,000,000, found None"),
        ({"retry": {"jitter": "0.2"}}, "retry.invalid", "retry.jitter", "expected a number from 0 to 1, found '0.2'"),
        ({"retry": {"backoffRate": "2"}}, "retry.invalid", "retry.backoffRate", "expected a number from 1 to 100, found '2'"),
        ({"retry": {"retryOn": "http.503"}}, "retry.invalid", "retry.retryOn", 'expected a list of error codes such as ["card.declined", "http.*"], found \'http.503\''),
        ({"maxAttempts": "3"}, "task.max_attempts", "maxAttempts", "expected a whole number from 1 to 1,000,000, found '3'"),
        ({"maxAttempts": 0}, "task.max_attempts", "maxAttempts", "expected a whole number from 1 to 1,000,000, found 0"),
        ({"priority": "5"}, "task.priority", "priority", "expected a whole number from -32,768 to 32,767, found '5'"),
        ({"priority": 40_000}, "task.priority", "priority", "expected a whole number from -32,768 to 32,767, found 40000"),
        ({"runAt": "tomorrow"}, "task.run_at", "runAt", "expected an instant such as 2026-03-01T09:00:00Z, found 'tomorrow'"),
        ({"runAt": "2026-03-01"}, "task.run_at", "runAt", "expected an instant with an offset such as 2026-03-01T09:00:00Z, found '2026-03-01'"),
        ({"name": ""}, "task.name", "name", "expected a text, or to be left out, found ''"),
        ({"idempotencyKey": ""}, "task.idempotency_key", "idempotencyKey", "expected a text, or to be left out, found ''"),
        ({"queue": ""}, "task.queue", "queue", "expected a text, or to be left out, found ''"),
        ({"idempotencyKey": "é" * 1_001}, "task.idempotency_key", "idempotencyKey", "expected a key of at most 2,000 bytes, found one of 1,001 characters"),
    ],
)  # fmt: skip
def test_an_option_that_can_never_be_right_is_refused_at_the_door(option, code, path, message):
    invoked = document_of({"a": {"invoke": {"src": "t", "onDone": "b", "onError": "b", **option}}, "b": {"type": "final"}})  # fmt: skip
    work = {"type": "t", **option}
    asked = document_of({"a": {"entry": creating(work), "on": {"*": "b", "error.*": "b"}}, "b": {"type": "final"}})  # fmt: skip

    assert (code, f"states.a.invoke.{path}", message) in problems_of(invoked)
    assert (code, f"states.a.entry.task.{path}", message) in problems_of(asked)


@pytest.mark.parametrize(
    ("given", "found"), [({"duration": "soon"}, "'soon'"), ({}, "None"), (None, "None"), ({"duration": True}, "True")]
)  # fmt: skip
def test_a_timer_of_which_nobody_knows_how_long_is_refused_at_the_door(given, found):
    pause = {"src": "TIMER", "input": given, "onDone": "b"}
    document = document_of({"a": {"invoke": pause}, "b": {"type": "final"}})

    ((code, path, message),) = problems_of(document)
    assert (code, path) == ("duration.invalid", "states.a.invoke.input.duration")
    assert message.endswith(f', "7d" or "PT5M", found {found}')


@pytest.mark.parametrize(
    "wait", [{"input": {"duration": "${input.n}"}}, {"input": "${input}"}, {"delay": "5m"}, {"runAt": "$.at"}]
)
def test_a_timer_that_may_turn_out_right_passes_the_door(wait):
    pause = {"src": "TIMER", "onDone": "b", **wait}

    assert problems_of(document_of({"a": {"invoke": pause}, "b": {"type": "final"}})) == []


def test_a_default_that_can_never_be_right_is_refused_at_the_door():
    document = document_of({"a": {"type": "final"}}, defaults={"retry": {"maxAttempts": "3"}})

    message = "expected a whole number from 1 to 1,000,000, found '3'"
    assert problems_of(document) == [("retry.invalid", "defaults.retry.maxAttempts", message)]


@pytest.mark.parametrize("name", ["a*", "a.*", "*", ""])
@pytest.mark.parametrize("option", ["completionEvent", "failureEvent"])
def test_the_event_of_an_answer_has_a_type_that_can_be_waited_for(option, name):
    document = document_of({"a": {"entry": creating({"type": "t", option: name})}})

    message = f'expected an event type, which has no "*", found {name!r}'
    assert ("event.form", f"states.a.entry.task.{option}", message) in problems_of(document)


@pytest.mark.parametrize(
    ("members", "path", "message"),
    [
        ({"maxSteps": "5"}, "maxSteps", "expected a whole number, found '5'"),
        ({"maxSteps": True}, "maxSteps", "expected a whole number, found True"),
        ({"concurrency": {"max": "5"}}, "concurrency.max", "expected a whole number, found '5'"),
    ],
)
def test_a_number_in_quotes_is_no_number(members, path, message):
    assert problems_of(document_of({"a": {"type": "final"}}, **members)) == [("document.form", path, message)]


def test_the_order_of_undoing_is_no_number_in_quotes():
    work = {"src": "t", "compensate": {"type": "undo", "order": "1"}}

    where = "states.a.invoke.compensate.order"
    assert problems_of(document_of({"a": {"invoke": work}})) == [
        ("document.form", where, "expected a whole number, found '1'")
    ]


@pytest.mark.parametrize(
    "option",
    [
        {"retry": 3},
        {"retry": None},
        {"retry": {"maxAttempts": 3.0, "interval": "PT1H", "maxInterval": 500, "retryOn": None}},
        {"retry": {"maxAttempts": "${input.n}", "interval": "10s", "jitter": "$.jitter", "retryOn": ["${input.n}"]}},
        {"maxAttempts": "${input.n}", "priority": "$.priority", "runAt": "${now}"},
        {"maxAttempts": None, "priority": None, "runAt": None, "name": None, "queue": None},
        {"priority": -5, "runAt": "2026-03-01T09:00:00+01:00", "name": "${input.name}"},
        {"idempotencyKey": "x" * 2_000},
    ],
)  # fmt: skip
def test_what_may_turn_out_right_passes_the_door(option):
    work = {"src": "t", "onDone": "b", "onError": "b", **option}

    assert problems_of(document_of({"a": {"invoke": work}, "b": {"type": "final"}})) == []


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ({"runAt": "${'tomorrow'}"}, "task.run_at", "runAt: expected an instant such as 2026-03-01T09:00:00Z, found 'tomorrow'"),
        ({"runAt": "${7}"}, "task.run_at", "runAt: expected an instant such as 2026-03-01T09:00:00Z, found 7"),
        ({"idempotencyKey": "${'" + "x" * 2_001 + "'}"}, "task.idempotency_key", "expected a key of at most 2,000 bytes, found one of 2,001 characters"),
        ({"type": "${'" + "x" * 2_001 + "'}"}, "task.type", "expected the type of a task of at most 2,000 bytes, found one of 2,001 characters"),
        ({"priority": "${'5'}"}, "task.priority", "priority: expected a whole number from -32,768 to 32,767, found '5'"),
        ({"maxAttempts": "${0}"}, "task.max_attempts", "maxAttempts: expected a whole number from 1 to 1,000,000, found 0"),
        ({"retry": {"maxAttempts": "${'3'}"}}, "retry.invalid", "retry.maxAttempts: expected a whole number from 1 to 1,000,000, found '3'"),
    ],
)  # fmt: skip
def test_an_option_that_is_computed_wrongly_is_an_error_that_says_what_was_expected(option, code, message):
    why = {"type": "assign", "path": "why", "value": "${event.error}"}
    document = document_of(
        {"a": {"entry": creating({"type": "t", **option}), "on": {"error.execution": {"actions": why}}}}
    )

    found = last(document)["context"]["why"]
    assert (found["code"], found["message"]) == (code, message)


def test_a_retry_waits_for_a_delay_of_the_document():
    chart = entering(
        creating({"type": "t", "retry": {"interval": "short"}}),
        creating({"type": "u"}),
        delays={"short": "1s", "long": "${input.minutes + 'm'}"},
        defaults={"retry": {"maxInterval": "long"}},
    )

    one, other = created(begin(chart, input={"minutes": "5"}))

    assert (one.retry, other.retry) == ({"interval": "1s"}, {"maxInterval": "5m"})
