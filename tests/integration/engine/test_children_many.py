"""Many children, many parents, several orchestrators: nothing is lost, doubled or deadlocked."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, Event
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from common.commands.doctor import examine
from common.db import Database
from common.ids import new_id
from common.lifecycle import InstanceStatus
from common.store import definitions, inbox, instances
from orchestrator.locked import advance_locked
from tests.integration.engine.children import children_of, finish, parent, started
from tests.integration.engine.documents import COUNTER, ON_POSTGRESQL, ON_SQLITE, Document, assign, on_go
from tests.integration.engine.test_locks import waiters
from tests.support.engine import Engine
from tests.support.waiting import wait_until

S = InstanceStatus

DOUBLING: Document = {
    "id": "doubling",
    "initial": "done",
    "output": {"doubled": "${input.n * 2}"},
    "states": {"done": {"type": "final"}},
}


def counting_answers(children: int) -> Document:
    """Starts `children` children at once and adds up what they answer."""
    starts = [
        {"type": "startWorkflow", "definitionKey": "doubling", "input": {"n": n}} for n in range(children)
    ]
    return {
        "id": "adding",
        "initial": "waiting",
        "context": {"sum": 0, "answers": 0},
        "states": {
            "waiting": {
                "entry": starts,
                "on": {
                    "done.workflow.doubling": {
                        "actions": [
                            assign("sum", "${context.sum + event.output.output.doubled}"),
                            assign("answers", "${context.answers + 1}"),
                        ]
                    }
                },
                "always": {"target": "done", "guard": f"context.answers == {children}"},
            },
            "done": {"type": "final"},
        },
    }


def test_a_hundred_children_of_one_parent(engine: Engine) -> None:
    engine.apply(DOUBLING)
    instance_id = engine.start(counting_answers(100))
    engine.settle()

    assert engine.status(instance_id) is S.COMPLETED
    assert engine.context(instance_id) == {"sum": 9_900, "answers": 100}
    children = children_of(engine, instance_id)
    assert len(children) == 100
    told = [entry for entry in engine.entries(instance_id) if entry["type"] == "child.completed"]
    assert sorted(entry["instanceId"] for entry in told) == children


def test_parents_and_their_children_stepped_in_one_batch(engine: Engine) -> None:
    """Each of the children ends and each of the parents is sent an event, all in one transaction."""
    engine.apply(COUNTER)
    pairs = [started(engine, parent()) for _ in range(10)]
    for instance_id, child in pairs:
        engine.send(child, "STOP")
        engine.send(instance_id, "LEAVE")

    done = engine.advance()

    assert done.instances >= 20
    for instance_id, child in pairs:
        assert engine.status(child) is S.COMPLETED
        assert engine.snapshot(instance_id)["configuration"] == ["left"]
        assert engine.entry_types(instance_id)[-2:] == ["event.ignored", "child.closed"]
    for instance_id, _ in pairs:
        finish(engine, instance_id)
        assert engine.status(instance_id) is S.COMPLETED


@ON_SQLITE
def test_nothing_of_a_parent_s_step_is_there_where_its_transaction_fails(engine: Engine) -> None:
    """Parent, child and start row commit together or not at all."""
    engine.apply(COUNTER)
    instance_id = engine.start(parent())
    with suppress(RuntimeError), engine.database.transaction() as tx:
        _advance_in(engine, tx, instance_id)
        raise RuntimeError("the process dies before its commit")

    assert engine.execute("SELECT count(*) FROM instances") == [(1,)]
    assert engine.status(instance_id) is S.PENDING
    engine.settle()
    assert len(children_of(engine, instance_id)) == 1


def rows_for(engine: Engine, parent_id: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    with engine.database.reading() as tx:
        definition = definitions.find_facts(tx, engine.tenant_id, "counter")
    assert definition is not None
    return [
        {
            "id": new_id(),
            "tenant_id": engine.tenant_id,
            "definition_id": definition.id,
            "definition_key": definition.key,
            "definition_version": definition.version,
            "business_key": key,
            "input": "null",
            "priority": 0,
            "parent_id": parent_id,
            "parent_key": f"{parent_id}/{key}",
            "cancel_with_parent": True,
            "depth": 1,
            "created_at": engine.now(),
        }
        for key in keys
    ]


@ON_POSTGRESQL
def test_inserts_of_crossing_business_keys_wait_in_one_order(engine: Engine) -> None:
    """One transaction has inserted its children; the other waits for the first of them and for nobody else, then goes on."""
    engine.apply(COUNTER)
    parents = [engine.start(on_go(), business_key=name) for name in ("first", "second")]
    keys = [f"order-{n}" for n in range(20)]
    inserted, let_go = Event(), Event()

    def insert(parent_id: str, wanted: Sequence[str], *, waits: bool) -> int:
        with engine.database.transaction() as tx:
            count = len(instances.insert_children(tx, rows_for(engine, parent_id, wanted)))
            inserted.set()
            if waits:
                assert let_go.wait(10)
            return count

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(insert, parents[0], keys, waits=True)
        assert inserted.wait(10)
        second = threads.submit(insert, parents[1], keys[::-1], waits=False)
        wait_until(lambda: waiters(engine.database) == 1, what="the second to wait", seconds=10)
        let_go.set()

        assert (first.result(10), second.result(10)) == (20, 0)
    engine.execute("DELETE FROM instances WHERE parent_id IS NOT NULL")


@ON_POSTGRESQL
def test_batches_with_crossing_business_keys_do_not_deadlock(engine: Engine) -> None:
    """Two orchestrators step parents that want the same children in opposite orders, eight times, at the same moment."""
    engine.apply(COUNTER)
    keys = [f"order-{n}" for n in range(12)]
    pairs = [(engine.start(wanting(keys)), engine.start(wanting(keys[::-1]))) for _ in range(8)]
    engine.settle()
    deadlocked: list[OperationalError] = []

    def advance(meet: Barrier, one: str) -> None:
        meet.wait(10)
        try:
            with engine.database.transaction() as tx:
                _advance_in(engine, tx, one)
        except OperationalError as error:
            deadlocked.append(error)

    with ThreadPoolExecutor(2) as threads:
        for pair in pairs:
            meet = Barrier(2)
            for one in pair:
                engine.send(one, "GO")
            for run in [threads.submit(advance, meet, one) for one in pair]:
                run.result(30)
            engine.settle()
            assert engine.execute("SELECT count(*) FROM instances WHERE status = 'waiting' AND parent_id IS NOT NULL") == [(12,)]  # fmt: skip
            for one in pair:
                finish(engine, one)

    assert deadlocked == []
    assert {engine.status(one) for pair in pairs for one in pair} == {S.COMPLETED}


def wanting(keys: Sequence[str]) -> Document:
    """Starts a child for each key in this order at GO, and does not mind those that are refused."""
    starts = [{"type": "startWorkflow", "definitionKey": "counter", "businessKey": key} for key in keys]
    return {
        **on_go(*starts, **{"error.workflow.counter": {"actions": [assign("refused", True)]}}),
        "id": f"wanting-{keys[0]}",
    }


def _advance_in(engine: Engine, tx: Connection, instance_id: str) -> None:
    """Step one instance in a transaction of the test's own: no second try hides a deadlock."""
    locked = instances.lock_ready(tx, [instance_id])
    assert locked
    advance_locked(engine.advancing, tx, locked, inbox.read_ready(tx, [instance_id]))


# -- damage that the doctor finds -------------------------------------------------------------------------------------


def forget_end(engine: Engine, instance_id: str, child: str) -> None:
    """The child ends, but its answer is lost."""
    engine.send(child, "STOP")
    _advance_only(engine, child)
    engine.execute("DELETE FROM inbox")


def forget_cancel(engine: Engine, instance_id: str, child: str) -> None:
    """The parent is cancelled, but its child never hears of it."""
    engine.control("cancel", instance_id)
    _advance_only(engine, instance_id)
    engine.execute("DELETE FROM inbox")


def _advance_only(engine: Engine, instance_id: str) -> None:
    with engine.database.transaction() as tx:
        _advance_in(engine, tx, instance_id)


@pytest.mark.breaks_promises
@pytest.mark.parametrize(
    ("damage", "found"), [(forget_end, "child.missing"), (forget_cancel, "child.unasked")]
)
def test_the_doctor_finds_what_was_lost_between_parent_and_child(
    engine: Engine, database: Database, damage: Callable[..., None], found: str
) -> None:
    engine.apply(COUNTER)
    pair = started(engine, parent())
    assert examine(database)["healthy"]

    damage(engine, *pair)

    assert found in [problem["code"] for problem in examine(database)["problems"]]
