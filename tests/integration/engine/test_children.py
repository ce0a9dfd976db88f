"""Children: started with their parent's step, answering it with their end, each by its own inbox."""

from datetime import timedelta
from typing import Any

import pytest

from common.lifecycle import InstanceStatus
from tests.integration.engine.children import (
    catching,
    child_of,
    finish,
    parent,
    started,
    with_invoke,
    with_task,
)
from tests.integration.engine.documents import COUNTER, ON_SQLITE, Document
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock


def test_a_child_starts_with_its_parent_and_answers_with_its_end(engine: Engine) -> None:
    engine.apply({**COUNTER, "output": {"seen": "${context.seen}"}})
    started = engine.start(parent(input={"n": 1}, businessKey="order-1"), priority=7)
    engine.settle()

    child = child_of(engine, started)
    assert engine.status(started) is InstanceStatus.WAITING
    assert engine.execute(
        f"SELECT depth, priority, business_key, parent_key FROM instances WHERE id = '{child}'"
    ) == [(1, 7, "order-1", "waiting/1/1")]

    engine.send(child, "ADD", n=5)
    engine.send(child, "STOP")
    engine.settle()

    assert engine.status(started) is InstanceStatus.COMPLETED
    assert engine.context(started)["answer"] == {
        "instanceId": child,
        "status": "completed",
        "output": {"seen": [5]},
    }
    told = [entry for entry in engine.entries(started) if entry["type"].startswith("child.")]
    assert [(entry["type"], entry["instanceId"]) for entry in told] == [
        ("child.started", child),
        ("child.completed", child),
    ]
    assert engine.entries(child)[0] == {"type": "instance.started", "parentId": started}


# -- tasks of type WORKFLOW ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [with_task(), with_invoke()], ids=["createTask", "invoke"])
def test_a_workflow_task_runs_without_a_lease_and_ends_with_its_child(
    engine: Engine, document: Document
) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, document)
    row = "SELECT status, lease_token FROM tasks"

    assert engine.execute(row) == [("running", None)]
    assert engine.status(instance_id) is InstanceStatus.WAITING

    finish(engine, child)

    assert engine.execute(row) == [("succeeded", None)]
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"] == {
        "instanceId": child,
        "status": "completed",
        "output": None,
    }
    assert [type for type in engine.entry_types(instance_id) if type.startswith(("task.", "child."))] == [
        "task.created",
        "child.started",
        "child.completed",
        "task.succeeded",
    ]


@ON_SQLITE
def test_a_workflow_task_that_does_not_wait_is_done_at_once_and_knows_its_child(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, with_task(wait=False))

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"] == {"instanceId": child, "status": "pending", "output": None}
    assert engine.execute("SELECT count(*) FROM tasks") == [(0,)]
    assert engine.status(child) is InstanceStatus.WAITING


@ON_SQLITE
def test_a_workflow_task_may_start_its_child_later(engine: Engine, clock: ManualClock) -> None:
    engine.apply(COUNTER)
    document = with_task()
    document["states"]["waiting"]["entry"][0]["task"]["delay"] = "1h"
    instance_id, child = started(engine, document)

    assert engine.status(child) is InstanceStatus.PENDING

    clock.advance(timedelta(hours=1))
    engine.settle()

    assert engine.status(child) is InstanceStatus.WAITING
    finish(engine, child)
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


# -- children that fail -----------------------------------------------------------------------------------------------


FAILING: Document = {
    "id": "failing",
    "initial": "working",
    "output": {"result": "${context.result}"},
    "states": {
        "working": {
            "invoke": {
                "src": "work",
                "retry": {"maxAttempts": 1},
                "outputKey": "result",
                "onDone": "done",
            },
        },
        "done": {"type": "final"},
    },
}
"""Its one task fails as long as its handler is broken."""


class Shelf:
    """A handler that fails until the shelf is full."""

    is_full = False

    def take(self, input: Any, context: Any) -> str:
        if not self.is_full:
            raise ValueError("out of stock")
        return "fine"


@pytest.fixture
def shelf(engine: Engine) -> Shelf:
    shelf = Shelf()
    engine.handler("work", shelf.take)
    engine.apply(FAILING)
    return shelf


def test_a_caught_failure_closes_the_obligation_and_a_second_end_is_ignored_on_record(
    engine: Engine, shelf: Shelf
) -> None:
    document = catching(parent("failing"), "error.workflow.failing")
    instance_id, child = started(engine, document)

    assert engine.status(child) is InstanceStatus.FAILED
    assert engine.snapshot(instance_id)["configuration"] == ["caught"]
    error = engine.context(instance_id)["error"]
    assert (error["code"], error["data"]["instanceId"]) == ("child.failed", child)
    assert "out of stock" in error["message"]

    shelf.is_full = True
    engine.control("retry", child)
    engine.settle()

    assert engine.status(child) is InstanceStatus.COMPLETED
    assert engine.snapshot(instance_id)["configuration"] == ["caught"]
    assert engine.entries(instance_id)[-1] == {
        "type": "event.ignored",
        "eventType": "child.completed",
        "reason": "obligation_closed",
    }


@pytest.mark.parametrize("kind", ["action", "task"])
def test_an_uncaught_failure_leaves_the_parent_waiting_and_a_retried_child_takes_it_on(
    engine: Engine, shelf: Shelf, kind: str
) -> None:
    document = parent("failing") if kind == "action" else with_task(child="failing")
    instance_id, child = started(engine, document)

    assert engine.status(child) is InstanceStatus.FAILED
    assert engine.status(instance_id) is InstanceStatus.WAITING
    assert engine.entry_types(instance_id)[-1] == "child.failed"
    assert engine.entries(instance_id)[-1]["instanceId"] == child

    shelf.is_full = True
    engine.control("retry", child)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"]["output"] == {"result": "fine"}


@pytest.mark.parametrize("document", [parent(), with_task(), with_invoke()], ids=["action", "task", "invoke"])
def test_an_uncaught_cancel_of_the_child_fails_the_parent_whose_retry_starts_another_child(
    engine: Engine, document: Document
) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, document, input={"n": 1})
    engine.control("cancel", child, reason="ordered twice")
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    [(code, message)] = engine.execute("SELECT code, message FROM incidents")
    assert code == "child.cancelled"
    assert "ordered twice" in message

    engine.control("retry", instance_id)
    engine.settle()
    [(another,)] = engine.execute(f"SELECT id FROM instances WHERE parent_id IS NOT NULL AND id <> '{child}'")

    assert engine.status(instance_id) is InstanceStatus.WAITING
    finish(engine, str(another))
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"]["instanceId"] == str(another)


@ON_SQLITE
def test_a_caught_cancel_says_so(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id, child = started(engine, catching(parent(), "error.workflow.counter"))

    engine.control("cancel", child, reason="no longer needed")
    engine.settle()

    assert engine.context(instance_id)["error"] == {
        "code": "child.cancelled",
        "message": f'"counter" instance {child} was cancelled: no longer needed',
        "data": {"instanceId": child, "status": "cancelled", "reason": "no longer needed"},
    }


@ON_SQLITE
def test_a_child_whose_time_is_over_says_so(engine: Engine, clock: ManualClock) -> None:
    engine.apply({**COUNTER, "timeout": "1h"})
    instance_id, child = started(engine, catching(parent(), "error.workflow.counter"))

    clock.advance(timedelta(hours=1))
    engine.settle()

    assert engine.status(child) is InstanceStatus.TIMED_OUT
    assert engine.context(instance_id)["error"]["code"] == "child.timed_out"
