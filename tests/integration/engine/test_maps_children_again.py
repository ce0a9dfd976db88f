"""A MAP over workflows that is tried again: each item goes on with the child that it has, or gets another."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.commands.incidents import resolve_incident
from common.lifecycle import InstanceStatus
from common.store import incidents, instances
from orchestrator.advance import advance_ready
from orchestrator.map_children import start_items
from tests.integration.engine.documents import COUNTER, ON_POSTGRESQL, Document
from tests.integration.engine.maps import statuses
from tests.integration.engine.sagas import Ledger, trip
from tests.integration.engine.test_maps_children import children, over_workflows, stop
from tests.support.engine import LIMITS, Engine

SUM: Document = {**COUNTER, "output": "${context.seen}"}


def begin(engine: Engine, items: int = 2, child: Document = SUM, **more: Any) -> tuple[str, list[str]]:
    """A MAP over so many children, whose failure nothing takes: the parent and its children."""
    engine.apply(child)
    instance_id = engine.start(over_workflows(catches=False, **more), input={"items": list(range(items))})
    engine.advance()
    return str(instance_id), children(engine)


def fail(engine: Engine, child: str) -> None:
    engine.send(child, "ADD")  # without the number that it is about
    engine.settle()
    assert engine.status(child) is InstanceStatus.FAILED


def skip(engine: Engine, instance_id: str) -> None:
    with engine.database.transaction() as tx:
        [one] = incidents.read_open(tx, engine.tenant_id, instance_id)
        about = (tx, engine.tenant_id, one.id)
        resolve_incident(*about, way="skip", output=None, reason=None, actor="test", limits=LIMITS)
    engine.settle()


def retry(engine: Engine, instance_id: str) -> None:
    engine.control("retry", instance_id)
    engine.settle()


def outputs(engine: Engine, instance_id: str) -> list[Any]:
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    return [one["output"] for one in engine.context(instance_id)["answer"]["results"]]


def born(engine: Engine) -> int:
    """How many children there have been."""
    return int(engine.execute("SELECT count(*) FROM instances WHERE parent_id IS NOT NULL")[0][0])


def test_a_failed_child_is_retried_where_it_stands(engine: Engine) -> None:
    parent, [first, second] = begin(engine)
    engine.send(first, "ADD", n=5)
    fail(engine, first)
    assert engine.status(parent) is InstanceStatus.FAILED

    retry(engine, parent)

    # It takes the event again that it failed on, which fails again: its MAP is told once more.
    assert [engine.status(one) for one in (parent, first)] == [InstanceStatus.FAILED] * 2
    types = engine.entry_types(first)
    assert types.count("instance.retried") == 1
    assert types.count("incident.opened") == 2
    skip(engine, first)
    retry(engine, parent)
    assert engine.status(parent) is InstanceStatus.WAITING
    stop(engine, first, second)
    assert outputs(engine, parent) == [[5], []]
    assert born(engine) == 2


def test_what_has_come_of_a_child_meanwhile_counts(engine: Engine) -> None:
    parent, [first, second, third] = begin(engine, 3)
    engine.send(first, "ADD", n=5)
    fail(engine, first)
    skip(engine, first)
    stop(engine, first)
    assert engine.status(first) is InstanceStatus.COMPLETED
    fail(engine, second)
    skip(engine, second)
    assert engine.status(parent) is InstanceStatus.FAILED

    retry(engine, parent)

    assert statuses(engine) == ["succeeded", "running", "running"]
    stop(engine, second, third)
    assert outputs(engine, parent) == [[5], [], []]
    assert born(engine) == 3


@pytest.mark.parametrize("concurrency", [None, 1])
def test_another_child_takes_the_place_of_one_that_was_cancelled(
    engine: Engine, concurrency: int | None
) -> None:
    parent, [first, *_] = begin(engine, concurrency=concurrency, workflow={"businessKey": "${string(item)}"})
    engine.control("cancel", first)
    engine.settle()
    assert engine.status(parent) is InstanceStatus.FAILED

    retry(engine, parent)
    if concurrency == 1:
        assert statuses(engine) == ["running", "pending"]
        stop(engine, children(engine)[0])
    stop(engine, *children(engine))

    assert outputs(engine, parent) == [[], []]
    assert born(engine) == 3
    assert engine.status(first) is InstanceStatus.CANCELLED


def test_who_ends_before_his_turn_gives_nobody_a_turn(engine: Engine) -> None:
    parent, _ = begin(engine, 3, concurrency=1, join={"quorum": 3}, onError="waitAll")
    for _ in range(3):
        fail(engine, children(engine)[0])
    first, second, third = children(engine, alive=False)
    for child in (first, second):
        skip(engine, child)
    assert engine.status(parent) is InstanceStatus.FAILED
    retry(engine, parent)
    assert statuses(engine) == ["running", "pending", "pending"]

    stop(engine, second)

    assert statuses(engine) == ["running", "succeeded", "pending"]
    assert "instance.retried" not in engine.entry_types(third)
    stop(engine, first)
    engine.settle()
    assert "instance.retried" in engine.entry_types(third)


def test_a_child_that_could_not_be_started_is_started(engine: Engine) -> None:
    parent = str(engine.start(over_workflows(catches=False), input={"items": [1]}))
    engine.settle()
    assert engine.status(parent) is InstanceStatus.FAILED
    engine.apply(SUM)

    retry(engine, parent)

    stop(engine, *children(engine))
    assert outputs(engine, parent) == [[]]


def test_who_was_given_up_does_not_answer_for_its_successor(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    parent, [first] = begin(engine, 1, {**trip(), "id": "counter", "output": "it has travelled"})
    engine.settle()
    assert engine.status(parent) is InstanceStatus.FAILED
    assert ledger.lines[-1] == "undo.flight"

    ledger.failing.clear()
    engine.control("retry", parent)
    engine.advance()
    [second] = children(engine)
    engine.control("restart", first)
    engine.control("pause", second)
    engine.settle()

    assert engine.status(first) is InstanceStatus.COMPLETED
    assert engine.status(parent) is InstanceStatus.WAITING
    engine.control("resume", second)
    engine.settle()
    assert outputs(engine, parent) == ["it has travelled"]


def test_a_child_without_a_place_is_a_failed_item_again(engine: Engine) -> None:
    child = {**SUM, "concurrency": {"max": 1, "onFull": "reject"}}
    parent, [first] = begin(engine, 1, child)
    fail(engine, first)
    other = str(engine.start(child))
    engine.advance()

    retry(engine, parent)

    assert engine.status(parent) is InstanceStatus.FAILED
    [(message,)] = engine.execute(
        f"SELECT message FROM incidents WHERE status = 'open' AND instance_id = '{parent}'"
    )
    assert "has reached its concurrency limit of 1" in message
    engine.control("cancel", other)
    engine.settle()
    skip(engine, first)
    retry(engine, parent)
    stop(engine, first)
    assert outputs(engine, parent) == [[]]


@ON_POSTGRESQL
def test_a_child_that_somebody_holds_is_looked_at_later(engine: Engine) -> None:
    parent, [first] = begin(engine, 1)
    fail(engine, first)
    skip(engine, first)
    assert engine.status(first) is InstanceStatus.WAITING
    engine.control("retry", parent)
    advance_ready(engine.advancing, until=time.monotonic() + 30)

    with engine.database.transaction() as tx:
        assert [one.id for one in instances.lock_ready(tx, [first])] == [first]
        assert start_items(engine.database, LIMITS) == 0
        assert statuses(engine) == ["pending"]

    assert start_items(engine.database, LIMITS) == 1
    assert statuses(engine) == ["running"]
    stop(engine, first)
    assert outputs(engine, parent) == [[]]
