"""MAP over workflows: a child for each item, started when its turn comes, counted when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from common import faults
from common.faults import FaultInjected
from common.lifecycle import InstanceStatus
from orchestrator.map_children import start_items
from tests.integration.engine.documents import COUNTER, Document
from tests.integration.engine.maps import items_of, join_of, mapping, statuses, the_map
from tests.support.engine import LIMITS, Engine


def over_workflows(**more: Any) -> Document:
    input = {name: more.pop(name) for name in ("concurrency", "join", "onError") if name in more}
    workflow = {"definitionKey": "counter", "input": "${item}", **more.pop("workflow", {})}
    document = mapping(**more, **input)
    given = document["states"]["working"]["invoke"]["input"]
    del given["task"]
    given["workflow"] = workflow
    return document


def children(engine: Engine, *, alive: bool = True) -> list[str]:
    """Ids of the children, by the index of their items."""
    final = "('completed', 'cancelled', 'timed_out', 'failed')"
    where = f"AND status NOT IN {final}" if alive else ""
    rows = engine.execute(f"SELECT id, parent_key FROM instances WHERE parent_id IS NOT NULL {where}")
    return [row[0] for row in sorted(rows, key=lambda row: int(row[1].rpartition("#")[2]))]


def stop(engine: Engine, *ids: str) -> None:
    for id_ in ids:
        engine.send(id_, "STOP")
    engine.advance()


def test_every_child_answers_and_its_parent_is_told_once(engine: Engine) -> None:
    engine.apply({**COUNTER, "output": {"seen": "${context.seen}"}})
    instance_id = engine.start(over_workflows(), input={"items": [1, 2]})
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.WAITING
    assert statuses(engine) == ["running", "running"]
    first, second = children(engine)
    engine.send(first, "ADD", n=5)
    stop(engine, first)
    assert join_of(engine) == (1, 0, False)
    stop(engine, second)

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"]["results"] == [
        {"instanceId": first, "status": "completed", "output": {"seen": [5]}},
        {"instanceId": second, "status": "completed", "output": {"seen": []}},
    ]
    told = [one for one in engine.entry_types(instance_id) if one.startswith(("child.", "task."))]
    assert told == ["task.created", "task.succeeded"]


def test_children_are_started_in_turn(engine: Engine) -> None:
    engine.apply(COUNTER)
    engine.start(over_workflows(concurrency=1), input={"items": [1, 2, 3]})
    engine.advance()
    [first] = children(engine)
    assert statuses(engine) == ["running", "pending", "pending"]
    stop(engine, first)

    assert statuses(engine) == ["succeeded", "running", "pending"]
    assert len(children(engine)) == 1


def test_a_child_that_fails_ends_a_map_that_needs_it_and_the_others_are_cancelled(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id = engine.start(over_workflows(), input={"items": [1, 2]})
    engine.advance()
    first, second = children(engine)
    engine.send(first, "ADD")  # without the number that it is about
    engine.settle()

    assert engine.status(first) is InstanceStatus.FAILED
    error = engine.context(instance_id)["error"]
    assert (error["code"], error["data"]["error"]["code"]) == ("map.item_failed", "child.failed")
    assert engine.status(second) is InstanceStatus.CANCELLED
    assert statuses(engine) == ["failed", "cancelled"]

    engine.control("retry", first)
    engine.settle()
    assert join_of(engine) == (0, 1, True)


def test_leaving_the_state_cancels_children_and_starts_no_other(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id = engine.start(over_workflows(concurrency=1), input={"items": [1, 2]})
    engine.advance()
    [child] = children(engine)
    engine.send(instance_id, "LEAVE")
    engine.settle()

    assert engine.status(child) is InstanceStatus.CANCELLED
    assert statuses(engine) == ["cancelled", "cancelled"]
    assert len(children(engine, alive=False)) == 1


def test_children_that_are_not_tied_to_it_go_on(engine: Engine) -> None:
    engine.apply(COUNTER)
    document = over_workflows(workflow={"cancelWithParent": False})
    instance_id = engine.start(document, input={"items": [1]})
    engine.advance()
    [child] = children(engine)
    engine.control("cancel", instance_id)
    engine.settle()

    assert engine.status(child) is InstanceStatus.WAITING
    assert statuses(engine) == ["cancelled"]


@pytest.mark.parametrize("concurrency", [None, 1])
def test_what_cannot_be_started_is_a_failed_item(engine: Engine, concurrency: int | None) -> None:
    document = over_workflows(onError="waitAll", concurrency=concurrency)
    instance_id = engine.start(document, input={"items": [1, 2, 3]})
    engine.settle()

    answer = engine.context(instance_id)["answer"]
    assert answer["results"] == [None, None, None]
    assert [one["error"]["code"] for one in answer["errors"]] == ["definition.not_found"] * 3


def test_a_business_key_that_is_held_is_a_failed_item(engine: Engine) -> None:
    engine.apply(COUNTER)
    document = over_workflows(onError="waitAll", workflow={"businessKey": "the-one"})
    engine.start(document, input={"items": [1, 2]})
    engine.advance()

    assert sorted(statuses(engine)) == ["failed", "running"]
    stop(engine, *children(engine))
    assert join_of(engine) == (1, 1, True)


def test_a_paused_parent_starts_no_further_child(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id = engine.start(over_workflows(concurrency=1), input={"items": [1, 2]})
    engine.advance()
    engine.control("pause", instance_id)
    engine.advance()
    stop(engine, *children(engine))
    assert (statuses(engine), children(engine)) == (["succeeded", "pending"], [])

    engine.control("resume", instance_id)
    engine.advance()
    assert len(children(engine)) == 1


def test_a_crash_while_children_are_started_starts_each_of_them_once(engine: Engine) -> None:
    engine.apply(COUNTER)
    engine.start(over_workflows(), input={"items": [1, 2, 3]})

    def die() -> None:
        raise FaultInjected

    faults.arm("before_items_commit", die)
    with pytest.raises(FaultInjected):
        engine.advance()
    faults.disarm()
    assert children(engine) == []

    assert start_items(engine.database, LIMITS) == 3
    assert len(children(engine)) == 3
    assert the_map(engine)["status"] == "running"
    assert [index for index, _ in items_of(engine)] == [0, 1, 2]
