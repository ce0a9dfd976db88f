"""Failing: what nobody catches freezes its instance with an incident; what is caught goes on; others never notice."""

from datetime import timedelta

import pytest

from common.commands.control import cancel_instance
from common.commands.incidents import resolve_incident
from common.commands.send import add_note
from common.config import Limits
from common.db import Database
from common.errors import Conflict
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import ON_SQLITE, assign, on_go, one_task, waiting_with_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

FAILED, CANCELLED, COMPLETED = InstanceStatus.FAILED, InstanceStatus.CANCELLED, InstanceStatus.COMPLETED


def failing(engine: Engine, **task: object) -> str:
    """An instance frozen by a task that failed for good."""
    engine.handler("work", raising)
    instance_id = engine.start(waiting_with_task(retry={"maxAttempts": 1}, **task))
    engine.settle()
    assert engine.status(instance_id) is FAILED
    return instance_id


def raising(_input: object) -> None:
    raise RuntimeError("no stock left")


def incidents(engine: Engine) -> list[tuple[str, str]]:
    return [tuple(row) for row in engine.execute("SELECT code, status FROM incidents ORDER BY id")]


def error_of(engine: Engine, instance_id: str) -> str:
    return str(engine.execute(f"SELECT error FROM instances WHERE id = '{instance_id}'")[0][0])


def cancel(engine: Engine, instance_id: str) -> None:
    with engine.database.transaction() as tx:
        cancel_instance(tx, engine.tenant_id, instance_id, reason="enough", actor="test")


def note(engine: Engine, instance_id: str, text: str = "seen") -> None:
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, instance_id, text, actor="test")


def parked(engine: Engine) -> int:
    return int(engine.execute("SELECT count(*) FROM inbox WHERE parked")[0][0])


@ON_SQLITE
def test_an_instance_that_goes_round_too_often_is_stopped(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    document = {"id": "round", "maxSteps": 10, **one_task()}
    document["states"] = {
        "working": {"invoke": {"src": "work", "onDone": {"target": "working", "reenter": True}}},
    }
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is FAILED
    assert incidents(engine) == [("limit.steps", "open")]
    assert engine.entry_types(instance_id).count("task.succeeded") == 10
    assert "it has taken 10 steps, which is all that" in error_of(engine, instance_id)


@ON_SQLITE
def test_a_failure_that_nobody_catches_opens_an_incident_and_freezes(engine: Engine) -> None:
    instance_id = failing(engine)

    assert incidents(engine) == [("RuntimeError", "open")]
    assert (
        '"message":"task \\"job\\" failed and no transition takes \\"error.task.job\\": no stock left"'
        in error_of(engine, instance_id)
    )
    assert engine.entry_types(instance_id)[-3:] == ["task.failed", "incident.opened", "instance.failed"]
    assert (
        list(engine.snapshot(instance_id)["tasks"]) == ["working:0/1"]
        or engine.snapshot(instance_id)["tasks"]
    )


def test_events_for_a_failed_instance_wait_parked_in_their_order(engine: Engine) -> None:
    instance_id = failing(engine)
    for n in (1, 2, 3):
        engine.send(instance_id, "ADD", n=n)

    engine.advance()

    assert parked(engine) == 3
    assert engine.context(instance_id)["seen"] == []
    assert engine.advance().instances == 0


def test_pending_tasks_of_a_failed_instance_are_held(engine: Engine) -> None:
    engine.handler("work", raising)
    engine.handler("other", lambda _input: None)
    document = waiting_with_task(retry={"maxAttempts": 1})
    document["states"]["working"]["entry"].append(
        {"type": "createTask", "task": {"type": "other", "delay": "1h"}}
    )
    engine.start(document)
    engine.settle()

    assert engine.execute("SELECT type, status, held FROM tasks ORDER BY type") == [
        ("other", "pending", True),
        ("work", "failed", False),
    ]


@ON_SQLITE
def test_a_note_on_a_failed_instance_changes_nothing_but_its_history(engine: Engine) -> None:
    instance_id = failing(engine)
    error = error_of(engine, instance_id)

    note(engine, instance_id)
    engine.advance()

    assert engine.entries(instance_id)[-1] == {"type": "note", "note": "seen"}
    assert error_of(engine, instance_id) == error
    assert incidents(engine) == [("RuntimeError", "open")]


@ON_SQLITE
def test_cancelling_a_failed_instance_resolves_its_incident(engine: Engine) -> None:
    instance_id = failing(engine)

    cancel(engine, instance_id)
    engine.advance()

    assert engine.status(instance_id) is CANCELLED
    assert incidents(engine) == [("RuntimeError", "resolved")]
    assert engine.execute("SELECT resolved_by FROM incidents") == [("test",)]


def test_cancelling_a_failed_instance_consumes_what_waited_parked(engine: Engine) -> None:
    instance_id = failing(engine)
    engine.send(instance_id, "ADD", n=1)
    engine.send(instance_id, "ADD", n=2)
    engine.advance()
    cancel(engine, instance_id)

    engine.advance()

    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)]
    assert [
        entry["reason"] for entry in engine.entries(instance_id) if entry["type"] == "event.rejected"
    ] == [
        "instance is cancelled",
        "instance is cancelled",
    ]


@ON_SQLITE
def test_a_failure_with_a_name_of_its_own_is_caught_by_it(engine: Engine) -> None:
    engine.handler("work", raising)
    document = one_task(retry={"maxAttempts": 1}, failureEvent="OUT_OF_STOCK")
    document["states"]["working"]["on"]["OUT_OF_STOCK"] = {
        "target": "done",
        "actions": [assign("why", "${event.error.message}")],
    }
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id) == {"why": "no stock left"}
    assert incidents(engine) == []


@pytest.mark.parametrize("caught_by", ["error.task.job", "error.task.*", "error.*", "*"])
@ON_SQLITE
def test_a_failure_is_caught_by_its_own_name_or_a_wildcard(engine: Engine, caught_by: str) -> None:
    engine.handler("work", raising)
    document = one_task(retry={"maxAttempts": 1})
    document["states"]["working"]["on"][caught_by] = "done"
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED


@pytest.mark.parametrize("frozen_at", [0, 3], ids=["first", "last"])
def test_a_task_created_and_frozen_in_one_batch_is_held_beside_others_that_are_not(
    engine: Engine, frozen_at: int
) -> None:
    """Several instances in one batch: rows of all are written by one statement."""
    engine.handler("work", lambda _input: None)
    ask = {"type": "createTask", "task": {"type": "work", "name": "job"}}
    engine.apply(on_go(ask, BREAK={"actions": [assign("x", "${1 / 0}")]}))
    started = [engine.start("on-go") for _ in range(4)]
    engine.advance()
    for instance_id in started:
        engine.send(instance_id, "GO")
    engine.send(started[frozen_at], "BREAK")

    engine.advance()

    frozen = started[frozen_at]
    assert [engine.status(one) for one in started if one != frozen] == [InstanceStatus.RUNNING] * 3
    assert engine.status(frozen) is FAILED
    rows = engine.execute("SELECT instance_id, held FROM tasks")
    assert sorted((str(row[0]) == frozen, bool(row[1])) for row in rows) == [
        *[(False, False)] * 3,
        (True, True),
    ]


def test_a_timer_that_falls_due_while_frozen_waits_parked(engine: Engine, clock: ManualClock) -> None:
    engine.handler("work", raising)
    document = waiting_with_task(retry={"maxAttempts": 1})
    document["states"]["working"]["after"] = {"1m": "done"}
    instance_id = engine.start(document)
    engine.settle()
    assert engine.status(instance_id) is FAILED

    clock.advance(timedelta(minutes=2))
    engine.settle()

    assert engine.status(instance_id) is FAILED
    assert parked(engine) == 1


@ON_SQLITE
def test_an_instance_that_fails_at_its_start_waits_with_its_incident(engine: Engine) -> None:
    document = on_go() | {"entry": [assign("x", "${1 / 0}")]}
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is FAILED
    assert [code for code, _ in incidents(engine)] == ["step.uncaught"]
    cancel(engine, instance_id)
    engine.settle()
    assert engine.status(instance_id) is CANCELLED


def test_a_failed_instance_does_not_hold_its_business_key(engine: Engine, database: Database) -> None:
    engine.handler("work", raising)
    document = one_task(retry={"maxAttempts": 1})
    first = engine.start(document, business_key="order-1")
    engine.settle()

    second = engine.start("one-work", business_key="order-1")

    assert second != first
    assert engine.status(second) is InstanceStatus.PENDING


@pytest.mark.parametrize("way", ["retry", "restart", "skip"])
def test_a_failed_instance_does_not_go_on_under_a_business_key_that_another_holds(
    engine: Engine, way: str
) -> None:
    stock: list[str] = []
    engine.handler("work", lambda _input: stock[0])
    first = engine.start(one_task(retry={"maxAttempts": 1}), business_key="order-1")
    engine.settle()
    second = engine.start("one-work", business_key="order-1")
    engine.advance()

    def go_on() -> None:
        if way != "skip":
            engine.control(way, first)
            return
        [(incident,)] = engine.execute("SELECT id FROM incidents WHERE status = 'open'")
        with engine.database.transaction() as tx:
            resolve_incident(
                tx,
                engine.tenant_id,
                incident,
                way="skip",
                output=1,
                reason=None,
                actor="test",
                limits=Limits(),
            )

    with pytest.raises(Conflict, match=f'"order-1" is held by instance {second}') as refused:
        go_on()
    assert refused.value.code == "instance.business_key_held"
    engine.advance()
    assert engine.status(first) is FAILED
    assert [code for code, _ in incidents(engine)] == ["IndexError"]

    cancel(engine, second)
    engine.settle()
    stock.append("a chair")
    go_on()
    engine.settle()
    assert engine.status(first) is COMPLETED


def test_a_business_key_that_is_taken_before_a_retry_is_stepped_is_told_as_that(engine: Engine) -> None:
    stock: list[str] = []
    engine.handler("work", lambda _input: stock[0])
    first = engine.start(one_task(retry={"maxAttempts": 1}), business_key="order-1")
    engine.settle()
    engine.control("retry", first)
    second = engine.start("one-work", business_key="order-1")
    engine.advance()

    assert engine.status(first) is FAILED
    assert "another live instance holds its business key by now; retry it when" in error_of(engine, first)

    cancel(engine, second)
    engine.settle()
    stock.append("a chair")
    engine.control("retry", first)
    engine.settle()
    assert engine.status(first) is COMPLETED
