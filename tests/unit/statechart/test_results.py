"""Results of work in expressions: which are kept, when they can be read, and `outputKey` of every form of work."""

from __future__ import annotations

import pytest

import statechart
from statechart import DefinitionInvalid
from tests.unit.statechart.charts import begin, chart_of, env

FAILURE = {"code": "t.broke", "message": "broken", "data": None}


def answer(chart, step, key, output=None, error=None):
    """Answer an open obligation by its completion or its failure."""
    snapshot = step.snapshot
    asked = snapshot["tasks"].get(key) or snapshot["children"][key]
    if error is None:
        event = {"type": asked["completionEvent"], "output": output}
    else:
        event = {"type": asked["failureEvent"], "error": error}
    return statechart.step(chart, snapshot, event, env(), obligation=key)


def task(name, **more):
    return {"type": "createTask", "task": {"type": "T", "name": name, **more}}


def looking(value, guard=None):
    """Takes the value into `context.seen` on LOOK."""
    action = {"type": "assign", "path": "seen", "value": value}
    return {"LOOK": {"actions": [action]} | ({"guard": guard} if guard else {})}


def look(chart, step):
    return statechart.step(chart, step.snapshot, {"type": "LOOK"}, env()).snapshot["context"].get("seen")


def test_a_task_is_read_by_its_name_once_it_has_ended():
    chart = chart_of({"a": {"entry": [task("pay")], "on": looking("${steps.pay}")}})
    begun = begin(chart)
    assert begun.snapshot["steps"] == {}

    paid = answer(chart, begun, "a/1/1", {"receipt": 7})

    assert paid.snapshot["steps"] == {"pay": {"status": "succeeded", "output": {"receipt": 7}, "error": None}}
    assert look(chart, paid) == paid.snapshot["steps"]["pay"]


def test_an_invoke_is_read_by_its_states_path_its_id_and_its_name():
    invoke = {"src": "T", "id": "ship", "name": "shipping", "onDone": "b"}
    chart = chart_of(
        {
            "outer": {
                "initial": "a",
                "states": {"a": {"invoke": invoke}, "b": {}},
                "on": looking("${[steps['outer.a'].output, steps.ship.output, steps.shipping.output]}"),
            }
        }
    )

    shipped = answer(chart, begin(chart), "outer.a/1/1", 5)

    assert look(chart, shipped) == [5, 5, 5]


def test_the_result_stands_there_before_guards_and_actions_of_the_answer_look():
    seen = {"type": "assign", "path": "seen", "value": "${steps.a.output.n}"}
    chart = chart_of(
        {
            "a": {
                "invoke": {
                    "src": "T",
                    "onDone": [
                        {"target": "large", "guard": "steps.a.output.n > 5", "actions": [seen]},
                        {"target": "small", "actions": [seen]},
                    ],
                    "onError": {"target": "broken", "guard": "steps.a.error.code == 't.broke'"},
                }
            },
            "large": {},
            "small": {},
            "broken": {},
        }
    )

    large = answer(chart, begin(chart), "a/1/1", {"n": 6})
    assert (large.snapshot["configuration"], large.snapshot["context"]["seen"]) == (["large"], 6)
    assert answer(chart, begin(chart), "a/1/1", {"n": 5}).snapshot["configuration"] == ["small"]
    failed = answer(chart, begin(chart), "a/1/1", error=FAILURE)
    assert failed.snapshot["configuration"] == ["broken"]
    assert failed.snapshot["steps"] == {"a": {"output": None, "error": FAILURE}}


def test_the_last_run_that_ended_wins():
    chart = chart_of({"a": {"invoke": {"src": "T", "onDone": "b"}, "on": looking("${steps.a.output}")}, "b": {
        "on": {"AGAIN": "a", **looking("${steps.a.output}")}}})  # fmt: skip
    first = answer(chart, begin(chart), "a/1/1", 1)
    again = statechart.step(chart, first.snapshot, {"type": "AGAIN"}, env())

    assert look(chart, again) == 1
    assert look(chart, answer(chart, again, "a/1/2", 2)) == 2


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("${steps.pay.status}", {"pay": {"status": "succeeded"}}),
        ("${has(steps.pay.error) ? steps.pay.error.code : ''}", {"pay": {"error": None}}),
        ("${steps.?other.?output}", {}),
        ("${steps.pay.output.receipt.number}", {"pay": {"output": {"receipt": {"number": 1}}}}),
        ("${steps}", "everything"),
        ("${steps[context.name].output}", "everything"),
        ("${context.seen}", None),
    ],
)
def test_no_more_is_kept_than_expressions_name(value, kept):
    document = {"a": {"entry": [task("pay"), task("other")], "on": looking(value)}}
    chart = chart_of(document, context={"name": "pay", "seen": None})

    paid = answer(chart, begin(chart), "a/1/1", {"receipt": {"number": 1}})

    if kept == "everything":
        kept = {"pay": {"status": "succeeded", "output": {"receipt": {"number": 1}}, "error": None}}
    assert paid.snapshot.get("steps") == kept


def test_a_result_nobody_has_yet_is_missing_as_any_member_is():
    chart = chart_of(
        {"a": {"entry": [task("pay")], "on": looking("${[steps.?pay.?output, has(steps.pay.output)]}")}}
    )

    assert look(chart, begin(chart)) == [None, False]


def test_a_failure_that_nobody_catches_is_no_result():
    chart = chart_of({"a": {"entry": [task("pay")], "on": looking("${steps.?pay.?status}")}})
    begun = begin(chart)

    failed = answer(chart, begun, "a/1/1", error=FAILURE)

    assert (failed.reason, failed.snapshot) == ("no_transition", begun.snapshot)


def test_work_that_the_step_does_itself_has_results_too():
    def instant(kind, name, input):
        return {"type": "createTask", "task": {"type": kind, "name": name, "input": input}}

    chart = chart_of(
        {
            "a": {
                "entry": [
                    instant("TRANSFORM", "double", {"n": "${2 * 21}"}),
                    instant("TIMER", "wait", {"duration": "1m"}),
                    {"type": "startWorkflow", "definitionKey": "child"},
                    instant("WORKFLOW", "flow", {"definitionKey": "other"}),
                ],
                "on": looking(
                    "${[steps.double.output.n, steps.?wait.?status, steps.?child.?output, steps.?flow.?output]}"
                ),
            }
        }
    )
    begun = begin(chart)
    assert look(chart, begun) == [42, None, None, None]

    (timer,) = begun.snapshot["timers"]
    event = begun.snapshot["timers"][timer]["event"]
    fired = statechart.step(chart, begun.snapshot, event, env(after=60), obligation=timer)
    (child,) = fired.snapshot["children"]
    ended = answer(chart, fired, child, {"output": 1})
    (flow,) = ended.snapshot["tasks"]

    assert look(chart, answer(chart, ended, flow, 2)) == [42, "succeeded", {"output": 1}, 2]


def test_a_restart_keeps_results_as_it_keeps_the_context():
    chart = chart_of({"a": {"entry": [task("pay")], "on": looking("${steps.pay.output}")}})
    paid = answer(chart, begin(chart), "a/1/1", 3)

    assert look(chart, statechart.restart(chart, paid.snapshot, env())) == 3


def test_a_snapshot_from_before_there_were_results_goes_on():
    chart = chart_of({"a": {"entry": [task("pay")], "on": looking("${steps.?pay.?output}")}})
    old = {name: part for name, part in begin(chart).snapshot.items() if name != "steps"}

    stepped = statechart.step(chart, old, {"type": "LOOK"}, env())

    assert stepped.snapshot["context"]["seen"] is None
    assert stepped.snapshot["steps"] == {}


@pytest.mark.parametrize(
    ("value", "suggestion"),
    [
        ("${steps.pya.output}", "pay"),
        ("${steps.pay.outptu}", "output"),
        ("${steps.b.c.output}", 'steps["b.c"]'),
        ("${steps.b.output}", None),
    ],
)
def test_what_nothing_here_is_called_is_refused_with_what_was_meant(value, suggestion):
    states = {
        "a": {"entry": [task("pay")], "on": looking(value)},
        "b": {"initial": "c", "states": {"c": {"invoke": {"src": "T"}}}},
    }

    with pytest.raises(DefinitionInvalid) as refused:
        chart_of(states)

    (problem,) = refused.value.problems
    assert (problem.code, problem.suggestion) == ("steps.unknown", suggestion)
    assert problem.path == "states.a.on.LOOK.actions.value"


def test_names_that_are_computed_may_be_any():
    chart = chart_of({"a": {"entry": [task("${'p' + 'ay'}")], "on": looking("${steps.pay.output}")}})

    assert look(chart, answer(chart, begin(chart), "a/1/1", 4)) == 4


# -- outputKey ----------------------------------------------------------------------------------------------------


def kept(work, *, on="done.task.pay"):
    """Work of a state whose output must stand in the context before the transition of its end looks."""
    return chart_of(
        {
            "a": {"entry": [work], "on": {on: {"target": "b", "guard": "has(context.order.receipt)"}}},
            "b": {"type": "final", "output": "${context.order.receipt}"},
        },
        context={"order": {"id": 1}},
    )


@pytest.mark.parametrize(
    "work",
    [
        task("pay", outputKey="order.receipt"),
        {**task("pay"), "outputKey": "order.receipt"},
        {**task("pay", outputKey="order.receipt"), "outputKey": "elsewhere"},
    ],
)
def test_the_output_of_a_task_stands_in_the_context_before_its_completion_looks(work):
    chart = kept(work)

    done = answer(chart, begin(chart), "a/1/1", {"n": 7})

    assert done.snapshot["context"] == {"order": {"id": 1, "receipt": {"n": 7}}}
    assert done.snapshot["output"] == {"n": 7}


def test_an_output_that_no_transition_takes_is_kept_all_the_same():
    chart = chart_of({"a": {"entry": [task("pay", outputKey="got")]}})

    done = answer(chart, begin(chart), "a/1/1", 7)

    assert (done.outcome, done.snapshot["context"]["got"]) == ("applied", 7)


def test_a_failure_leaves_the_output_key_alone():
    states = {"a": {"entry": [task("pay", outputKey="got")], "on": {"error.task.pay": "b"}}, "b": {}}

    failed = answer(chart := chart_of(states), begin(chart), "a/1/1", error=FAILURE)

    assert failed.snapshot["configuration"] == ["b"]
    assert "got" not in failed.snapshot["context"]


def test_the_output_of_a_workflow_a_timer_and_an_instant_task_is_kept():
    chart = chart_of(
        {
            "a": {
                "entry": [
                    task("flow", type="WORKFLOW", input={"definitionKey": "x"}, outputKey="flow"),
                    task("made", type="TRANSFORM", input=[1], outputKey="made"),
                    task("wait", type="TIMER", input={"duration": 5}, outputKey="waited"),
                ],
                "invoke": {"src": "TIMER", "id": "t", "input": {"duration": 5}, "outputKey": "invoked"},
            }
        },
        context={"waited": "not yet", "invoked": "not yet"},
    )
    step = begin(chart)
    assert step.snapshot["context"]["made"] == [1]
    for key in list(step.snapshot["timers"]):
        event = step.snapshot["timers"][key]["event"]
        step = statechart.step(chart, step.snapshot, event, env(after=5), obligation=key)
    (flow,) = step.snapshot["tasks"]
    step = answer(chart, step, flow, {"instanceId": "i", "status": "completed", "output": 3})

    context = step.snapshot["context"]
    assert (context["waited"], context["invoked"], context["flow"]["output"]) == (None, None, 3)


@pytest.mark.parametrize("path", ["", "a..b", "context.a", "${event.x}"])
def test_an_output_key_that_is_no_path_is_refused(path):
    with pytest.raises(DefinitionInvalid) as refused:
        chart_of({"a": {"entry": [task("pay", outputKey=path)]}})

    assert [problem.code for problem in refused.value.problems] == ["assign.path"]
