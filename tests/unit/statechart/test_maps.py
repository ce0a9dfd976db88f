"""MAP: what a step asks for each item, what stays in the snapshot, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

import statechart
from statechart import CancelTask, CreateTask, StepFailed
from statechart.maps import MAX_BYTES, MAX_ITEMS, map_key
from tests.unit.statechart.charts import NOW, begin, chart_of, document_of, last, send
from tests.unit.statechart.test_hostile import MEGABYTES, SECONDS, megabytes_of, seconds_of

SHIP = {"type": "ship", "input": {"sku": "${item.sku}", "at": "${index}", "key": "${secret.k}"}}


def mapping(items, task=SHIP, **input):
    """An action that maps over items."""
    return {"type": "createTask", "task": {"type": "MAP", "input": {"items": items, "task": task, **input}}}


def over(action, *, on=None, **root):
    return chart_of(
        {"a": {"entry": action, "on": on or {"done.task.MAP": "b", "error.task.MAP": "b"}}, "b": {}}, **root
    )


def asked(started) -> CreateTask:
    (effect,) = (one for one in started.effects if isinstance(one, CreateTask))
    return effect


def test_a_map_fills_its_task_in_for_each_item():
    chart = over(mapping("${context.lines}", concurrency=2), context={"lines": [{"sku": "a"}, {"sku": "b"}]})

    started = begin(chart)

    task = asked(started)
    assert task.input == {"items": [{"sku": "a"}, {"sku": "b"}], "concurrency": 2}
    assert (task.secrets, task.items.concurrency, task.items.needed, task.items.fail_fast) == ((), 2, 2, True)
    assert task.items.tasks == (
        CreateTask(
            "a/1/1#0",
            "ship",
            "ship",
            {"sku": "a", "at": 0, "key": "${secret.k}"},
            "",
            "",
            secrets=(("key",),),
        ),
        CreateTask(
            "a/1/1#1",
            "ship",
            "ship",
            {"sku": "b", "at": 1, "key": "${secret.k}"},
            "",
            "",
            secrets=(("key",),),
        ),
    )


def test_neither_snapshot_nor_history_hold_the_items():
    started = begin(over(mapping([{"sku": "a"}, {"sku": "b"}])))

    assert started.snapshot["tasks"] == {
        "a/1/1": {
            "type": "MAP",
            "name": "MAP",
            "completionEvent": "done.task.MAP",
            "failureEvent": "error.task.MAP",
            "items": 2,
            "isExecuted": True,
        }
    }
    assert {"type": "task.created", "key": "a/1/1", "taskType": "MAP", "name": "MAP", "items": 2} in (
        started.changes
    )


def test_only_items_that_a_runner_executes_are_marked_so():
    started = begin(over(mapping(["ann", "bob"], {"type": "HUMAN", "assignee": "${item}"})))

    assert "isExecuted" not in started.snapshot["tasks"]["a/1/1"]


def test_an_item_has_options_of_its_own_and_the_defaults():
    task = {
        "type": "t",
        "name": "n-${index}",
        "priority": "${item}",
        "retry": {"maxAttempts": 2},
        "delay": "1m",
    }
    chart = over(
        mapping([5, 6], task), defaults={"timeouts": {"startToClose": "9s"}, "retry": {"maxAttempts": 7}}
    )

    first, second = asked(begin(chart)).items.tasks

    assert (first.name, first.priority, first.retry, first.timeout_ms, first.run_at) == (
        "n-0", 5, {"maxAttempts": 2}, 9_000, NOW + timedelta(minutes=1),
    )  # fmt: skip
    assert (second.name, second.priority) == ("n-1", 6)


def test_items_are_as_urgent_and_as_late_as_their_map():
    action = mapping([1], {"type": "t"})
    action["task"] |= {"priority": 3, "delay": "5m"}

    [item] = asked(begin(over(action))).items.tasks

    assert (item.priority, item.run_at) == (3, NOW + timedelta(minutes=5))


def test_workflows_are_children_with_ids_of_their_own():
    action = mapping([7, 8])
    del action["task"]["input"]["task"]
    action["task"]["input"]["workflow"] = {
        "definitionKey": "pack",
        "input": "${item}",
        "businessKey": "b-${index}",
    }

    items = asked(begin(over(action))).items

    assert [(one.key, one.type, one.name) for one in items.tasks] == [
        ("a/1/1#0", "WORKFLOW", "pack"), ("a/1/1#1", "WORKFLOW", "pack"),
    ]  # fmt: skip
    assert [(one.key, one.definition_key, one.input, one.business_key, one.wait) for one in items.children] == [
        ("a/1/1#0", "pack", 7, "b-0", True), ("a/1/1#1", "pack", 8, "b-1", True),
    ]  # fmt: skip
    assert len({one.instance_id for one in items.children}) == 2


def test_a_map_over_nothing_is_done_within_the_step():
    started = begin(over(mapping([])))

    assert started.effects == ()
    assert (started.snapshot["configuration"], started.snapshot["tasks"]) == (["b"], {})


def test_its_answer_closes_the_one_obligation():
    chart = over(mapping([1, 2], {"type": "t"}))
    event = {"type": "done.task.MAP", "output": {"results": [1, 2], "errors": []}}

    ended = send(chart, begin(chart), event, obligation="a/1/1")

    assert (ended.snapshot["configuration"], ended.snapshot["tasks"]) == (["b"], {})


def test_a_map_of_an_invoke_is_cancelled_with_its_state():
    invoke = {"src": "MAP", "input": {"items": [1], "task": {"type": "t"}}, "onDone": "b"}
    chart = chart_of({"a": {"invoke": invoke, "on": {"GO": "b"}}, "b": {}})

    left = send(chart, begin(chart), "GO")

    assert left.effects == (CancelTask("a/1/1"),)


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("map.items", {"items": "${context.n}"}),
        ("map.items", {"items": "${context.many}"}),
        ("map.join", {"join": "${context.n}"}),
        ("map.join", {"join": {"quorum": "${context.n}"}}),
        ("map.join", {"items": "${context.none}", "join": "any"}),
        ("map.concurrency", {"concurrency": "${context.n - 3}"}),
        ("map.on_error", {"onError": "${'never'}"}),
        ("map.task", {"task": {"type": "${'TIMER'}"}}),
    ],
)
def test_what_is_of_no_use_fails_in_the_step(code, input):
    action = mapping([1, 2], {"type": "t"})
    action["task"]["input"] |= input
    document = document_of(
        {"a": {"entry": action, "on": {"error.execution": {"target": "b", "actions": {
            "type": "assign", "path": "code", "value": "${event.error.code}"}}}}, "b": {}},
        context={"n": 3, "many": [0] * (MAX_ITEMS + 1), "none": []},
    )  # fmt: skip

    assert last(document)["context"]["code"] == code


def test_an_item_that_is_no_workflow_to_wait_for_fails_in_the_step():
    action = mapping([1])
    action["task"]["input"] = {"items": [1], "workflow": {"definitionKey": "p", "wait": "${item == 2}"}}

    with pytest.raises(StepFailed, match="waits for each"):
        begin(over(action))


def test_names_are_read_only_where_items_are():
    problems = statechart.check(
        document_of(
            {"a": {"entry": mapping("${item}", {"type": "t"}), "on": {"done.task.MAP": "b"}}, "b": {}}
        )
    )

    assert any("item" in problem.message for problem in problems if problem.severity == "error")


def test_the_key_of_an_item_names_its_map():
    assert map_key("a#b/1/2#17") == "a#b/1/2"
    assert map_key("a#b/1/2") is None


def test_a_step_replays_to_the_same_items():
    action = mapping([1, 2], {"type": "t", "input": "${uuid()}"})
    chart = over(action)

    assert asked(begin(chart)) == asked(begin(chart))


# -- what it may cost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        {"type": "t", "input": {"n": "${item}", "twice": "${item * 2}", "text": "item ${index}"}},
        {"type": "t", "input": {"all": ["${item + 1}"] * 5}, "name": "n${index}"},
    ],
)
def test_ten_thousand_items_fit_into_a_step(template):
    chart = over(mapping("${context.list}", template), context={"list": list(range(MAX_ITEMS))})

    assert len(asked(begin(chart)).items.tasks) == MAX_ITEMS
    assert seconds_of(partial(begin, chart)) < SECONDS
    assert megabytes_of(partial(begin, chart)) < MEGABYTES


@pytest.mark.parametrize(
    "template",
    [
        {"type": "t", "input": "${context.list.map(x, x * 2)}"},
        {"type": "t", "input": "${context.list.all(x, context.list.exists(y, y == x))}"},
        {"type": "t", "input": {"literal": "x" * 900_000}},
        {"type": "t", "input": [[{}] * 1_000] * 10},
        {"type": "t", "input": "${string(context.list)}"},
    ],
    ids=["long lists", "squares", "large literals", "many values", "texts"],
)
def test_a_hostile_template_is_refused_quickly(template):
    chart = over(mapping("${context.list}", template), context={"list": list(range(MAX_ITEMS))})

    def ask():
        with pytest.raises(StepFailed, match=r"more than|larger than"):
            begin(chart)

    assert seconds_of(ask) < SECONDS
    assert megabytes_of(ask) < MEGABYTES


def test_many_maps_of_a_step_share_what_items_may_cost():
    actions = [mapping("${context.list}", {"type": "t"}) for _ in range(40)]
    chart = over(actions, context={"list": list(range(MAX_ITEMS))})

    def ask():
        with pytest.raises(StepFailed, match="more than"):
            begin(chart)

    assert seconds_of(ask) < SECONDS
    assert MAX_BYTES < MEGABYTES * 1_000_000
