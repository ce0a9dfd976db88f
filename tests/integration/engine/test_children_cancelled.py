"""Who is not waited for any more is cancelled, unless it was started to outlive that; its own children follow it."""

from datetime import timedelta
from typing import Any

import pytest

from common.lifecycle import InstanceStatus
from tests.integration.engine.children import (
    child_of,
    children_of,
    finish,
    parent,
    started,
    with_invoke,
    with_task,
)
from tests.integration.engine.documents import COUNTER, ON_SQLITE, Document, on_go
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

S = InstanceStatus
EACH_WAY = pytest.mark.parametrize(
    "document", [parent(), with_task(), with_invoke()], ids=["action", "task", "invoke"]
)


@EACH_WAY
def test_a_cancelled_parent_cancels_its_child_and_hears_nothing_of_it(
    engine: Engine, document: Document
) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, document)

    engine.control("cancel", instance_id)
    engine.settle()

    assert (engine.status(instance_id), engine.status(child)) == (S.CANCELLED, S.CANCELLED)
    assert "instance.cancelled" in engine.entry_types(child)
    assert engine.entry_types(instance_id)[-2:] == ["child.cancelled", "machine.stopped"]
    actors = f"SELECT DISTINCT actor FROM history WHERE instance_id = '{child}'"
    assert engine.execute(actors) == [(f"instance:{instance_id}",)]


@ON_SQLITE
def test_a_child_that_outlives_its_parent_goes_on_and_its_end_is_rejected_on_record(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, parent(cancelWithParent=False))

    engine.control("cancel", instance_id)
    engine.settle()
    assert engine.entry_types(instance_id)[-2:] == ["child.released", "machine.stopped"]
    assert engine.status(child) is S.WAITING

    finish(engine, child)
    assert engine.status(child) is S.COMPLETED
    assert engine.entries(instance_id)[-1] == {
        "type": "event.rejected",
        "reason": "instance is cancelled",
        "inboxType": "child",
        "instanceId": child,
        "childStatus": "completed",
    }


@ON_SQLITE
def test_leaving_the_state_of_an_invoke_cancels_its_child(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, with_invoke())

    engine.send(instance_id, "LEAVE")
    engine.settle()

    assert engine.status(child) is S.CANCELLED
    assert engine.execute("SELECT status FROM tasks") == [("cancelled",)]
    finish(engine, instance_id)
    assert engine.status(instance_id) is S.COMPLETED


@ON_SQLITE
def test_the_action_cancel_names_a_workflow_task(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, with_task())

    engine.send(instance_id, "DROP")
    engine.settle()

    assert engine.status(child) is S.CANCELLED
    assert engine.status(instance_id) is S.WAITING


def test_a_parent_that_completes_first_cancels_who_still_runs(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, parent())
    engine.send(instance_id, "LEAVE")
    engine.settle()
    assert engine.status(child) is S.WAITING  # an action outlives the state that took it

    finish(engine, instance_id)

    assert engine.status(instance_id) is S.COMPLETED
    assert engine.status(child) is S.CANCELLED


@ON_SQLITE
def test_a_parent_whose_time_is_over_cancels_its_child(engine: Engine, clock: ManualClock) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, {**parent(), "timeout": "1h"})

    clock.advance(timedelta(hours=1))
    engine.settle()

    assert (engine.status(instance_id), engine.status(child)) == (S.TIMED_OUT, S.CANCELLED)


@ON_SQLITE
def test_a_workflow_task_whose_time_is_over_cancels_its_child(engine: Engine, clock: ManualClock) -> None:
    engine.apply(COUNTER)
    document = with_task()
    document["states"]["waiting"]["entry"][0]["task"]["timeout"] = "1h"
    document["states"]["waiting"]["on"]["error.task.sub"] = "left"
    instance_id, child = started(engine, document)

    clock.advance(timedelta(hours=1))
    engine.settle()

    assert engine.snapshot(instance_id)["configuration"] == ["left"]
    assert engine.status(child) is S.CANCELLED
    assert engine.execute("SELECT status FROM tasks") == [("failed",)]


@ON_SQLITE
def test_a_workflow_task_that_ran_out_of_time_uncaught_goes_on_with_its_child_after_a_retry(
    engine: Engine, clock: ManualClock
) -> None:
    engine.apply(COUNTER)
    document = with_task()
    document["states"]["waiting"]["entry"][0]["task"]["timeout"] = "1h"
    instance_id, child = started(engine, document)
    clock.advance(timedelta(hours=1))
    engine.settle()
    assert (engine.status(instance_id), engine.status(child)) == (S.FAILED, S.WAITING)

    finish(engine, child)
    engine.control("retry", instance_id)
    engine.settle()

    assert engine.status(instance_id) is S.COMPLETED
    assert engine.context(instance_id)["answer"]["instanceId"] == child


def test_grandchildren_follow_by_their_own_parents(engine: Engine) -> None:
    engine.apply(COUNTER)
    engine.apply({**parent(), "id": "middle"})
    top, middle = started(engine, parent("middle"))
    bottom = child_of(engine, middle)
    assert engine.execute(f"SELECT depth FROM instances WHERE id = '{bottom}'") == [(2,)]

    engine.control("cancel", top)
    engine.settle()

    assert [engine.status(one) for one in (top, middle, bottom)] == [S.CANCELLED] * 3


@ON_SQLITE
def test_a_failed_child_is_cancelled_with_its_parent(engine: Engine) -> None:
    def broken(input: Any, context: Any) -> Any:
        raise ValueError("no")

    engine.handler("work", broken)
    engine.apply({"id": "failing", "initial": "a", "states": {"a": {"invoke": {"src": "work", "retry": {"maxAttempts": 1}}}}})  # fmt: skip
    instance_id, child = started(engine, parent("failing"))
    assert engine.status(child) is S.FAILED

    engine.control("cancel", instance_id)
    engine.settle()

    assert engine.status(child) is S.CANCELLED


def test_asked_for_and_cancelled_within_one_batch(engine: Engine) -> None:
    """Both events are taken under one lock: the child is stored, and cancelled by its own first step."""
    engine.apply(COUNTER)
    instance_id = engine.start(
        on_go(
            {"type": "startWorkflow", "definitionKey": "counter"},
            DROP={"actions": [{"type": "cancel", "id": "counter"}]},
        )
    )
    engine.settle()

    engine.send(instance_id, "GO")
    engine.send(instance_id, "DROP")
    engine.settle()

    [child] = children_of(engine, instance_id)
    assert engine.status(child) is S.CANCELLED
    assert engine.entry_types(child) == ["instance.cancelled"]
    assert engine.snapshot(instance_id)["children"] == {}


@ON_SQLITE
def test_asked_for_and_cancelled_within_one_step_it_is_never_there(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id = engine.start(
        on_go(
            {"type": "startWorkflow", "definitionKey": "counter"},
            {"type": "cancel", "id": "counter"},
        )
    )
    engine.send(instance_id, "GO")
    engine.settle()

    assert children_of(engine, instance_id) == []


def test_nobody_waits_for_a_child_that_was_started_so(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id = engine.start(on_go({"type": "startWorkflow", "definitionKey": "counter", "wait": False}))
    engine.send(instance_id, "GO")
    engine.settle()
    [child] = children_of(engine, instance_id)
    before = engine.entry_types(instance_id)

    finish(engine, child)
    assert engine.status(child) is S.COMPLETED
    assert engine.entry_types(instance_id) == before

    finish(engine, instance_id)
    assert engine.status(instance_id) is S.COMPLETED


@ON_SQLITE
def test_a_paused_parent_is_answered_when_it_is_resumed(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, parent())
    engine.control("pause", instance_id)
    engine.settle()

    finish(engine, child)
    assert engine.status(instance_id) is S.PAUSED
    assert engine.execute("SELECT type FROM inbox WHERE parked") == [("child",)]

    engine.control("resume", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED
