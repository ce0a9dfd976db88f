"""Time-outs that need no runner: the wait for a worker, and the task as a whole. Never early, once, on record."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from common.db import Database
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from common.store import tasks
from common.store.coming import read_coming
from orchestrator.sweep import time_out_due_tasks
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

COMPLETED, FAILED, WAITING = InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.WAITING
MICROSECOND = timedelta(microseconds=1)
START, CLOSE = "task.schedule_to_start_timeout", "task.schedule_to_close_timeout"
EXACT = {"maxAttempts": 5, "interval": "10s", "backoffRate": 2, "jitter": 0}


def begun(engine: Engine, kind: str = "work", **task: Any) -> InstanceId:
    """An instance whose task nobody has looked at yet."""
    instance_id = engine.start(one_task(kind, **task))
    engine.advance()
    return instance_id


@pytest.mark.parametrize(
    "more",
    [
        {"timeouts": {"scheduleToStart": "10d", "scheduleToClose": "36500d"}},
        {
            "type": "POLL",
            "input": {"task": {"type": "work"}, "until": "output", "interval": "5s", "timeout": "9d"},
        },
    ],
    ids=["time-outs", "POLL"],
)
def test_the_time_of_a_task_that_begins_at_the_end_of_the_calendar_is_never_over(
    engine: Engine, more: dict[str, Any]
) -> None:
    asked = {"type": "createTask", "task": {"type": "work", "runAt": "${input}", **more}}
    document = {
        "id": "never",
        "initial": "a",
        "states": {"a": {"entry": asked, "on": {"STOP": "b"}}, "b": {"type": "final"}},
    }
    instance_id = engine.start(document, input="9999-12-31T23:59:59Z")

    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.RUNNING
    assert time_out_due_tasks(engine.database) == 0
    engine.send(instance_id, "STOP")
    engine.settle()
    assert engine.status(instance_id) is COMPLETED


def failing(engine: Engine) -> Callable[[Any], None]:
    def work(_input: Any) -> None:
        raise ValueError("no")

    engine.handler("work", work)
    return work


def incidents(engine: Engine) -> list[str]:
    return [code for (code,) in engine.execute("SELECT code FROM incidents")]


def task(engine: Engine, column: str) -> Any:
    return engine.execute(f"SELECT {column} FROM tasks")[0][0]


@pytest.mark.parametrize(("bound", "code"), [("scheduleToStart", START), ("scheduleToClose", CLOSE)])
def test_a_task_that_nobody_begins_fails_when_its_time_is_over(
    clock: ManualClock, engine: Engine, bound: str, code: str
) -> None:
    instance_id = begun(engine, timeouts={bound: "30s"})
    clock.advance(timedelta(seconds=30) - MICROSECOND)
    assert time_out_due_tasks(engine.database) == 0

    clock.advance(MICROSECOND)
    assert time_out_due_tasks(engine.database) == 1
    assert time_out_due_tasks(engine.database) == 0
    engine.settle()

    assert engine.status(instance_id) is FAILED
    assert incidents(engine) == [code]
    assert (task(engine, "status"), task(engine, "attempt")) == ("failed", 0)
    assert engine.attempts() == []


@ON_SQLITE
def test_the_wait_for_a_worker_begins_when_the_task_is_due(clock: ManualClock, engine: Engine) -> None:
    begun(engine, timeouts={"scheduleToStart": "5s"}, delay="1h")
    clock.advance(timedelta(hours=1, seconds=5) - MICROSECOND)
    assert time_out_due_tasks(engine.database) == 0
    clock.advance(MICROSECOND)
    assert time_out_due_tasks(engine.database) == 1
    engine.settle()


@ON_SQLITE
def test_each_attempt_has_its_own_wait_for_a_worker(clock: ManualClock, engine: Engine) -> None:
    failing(engine)
    begun(engine, timeouts={"scheduleToStart": "5s"}, retry=EXACT)
    engine.work()
    clock.advance(timedelta(seconds=14))
    assert time_out_due_tasks(engine.database) == 0

    clock.advance(timedelta(seconds=1))
    assert time_out_due_tasks(engine.database) == 1
    engine.settle()

    assert incidents(engine) == [START]
    assert engine.attempts() == [(1, "failed")]


@ON_SQLITE
def test_a_claimed_task_does_not_wait_for_a_worker_any_more(clock: ManualClock, engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = begun(engine, timeouts={"scheduleToStart": "5s"})
    [claim] = engine.claim()
    clock.advance(timedelta(seconds=7))
    assert time_out_due_tasks(engine.database) == 0

    engine.report(engine.call(claim))
    engine.settle()
    assert engine.status(instance_id) is COMPLETED


def test_a_running_task_fails_when_the_time_of_the_whole_is_over(clock: ManualClock, engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = begun(engine, timeouts={"scheduleToClose": "5s"})
    [claim] = engine.claim()
    clock.advance(timedelta(seconds=5))
    assert time_out_due_tasks(engine.database) == 1

    late = engine.report(engine.call(claim))
    engine.settle()

    assert (late.late, late.succeeded) == (1, 0)
    assert engine.status(instance_id) is FAILED
    assert incidents(engine) == [CLOSE]
    assert engine.attempts() == [(1, "timed_out")]
    assert engine.entry_types(instance_id).count("task.failed") == 1
    assert engine.execute("SELECT type FROM inbox") == [("task.late",)], "parked, as the instance is frozen"


@ON_SQLITE
def test_a_retry_that_could_not_begin_in_time_is_not_waited_for(clock: ManualClock, engine: Engine) -> None:
    failing(engine)
    begun(engine, timeouts={"scheduleToClose": "10s"}, retry=EXACT)

    engine.settle()

    assert incidents(engine) == ["ValueError"]
    assert engine.attempts() == [(1, "failed")]


@ON_SQLITE
def test_a_time_out_can_be_caught(clock: ManualClock, engine: Engine) -> None:
    document = one_task(timeouts={"scheduleToStart": "5s"})
    document["states"]["working"]["on"]["error.*"] = {
        "target": "done",
        "guard": f"event.error.code == '{START}'",
    }
    instance_id = engine.start(document)
    engine.advance()
    clock.advance(timedelta(seconds=5))
    engine.settle()

    assert engine.status(instance_id) is COMPLETED


@ON_SQLITE
@pytest.mark.parametrize("written", [{"timeout": "1h"}, {"timeouts": {"scheduleToClose": "1h"}}])
def test_a_person_s_task_has_one_attempt_its_whole_life(
    clock: ManualClock, engine: Engine, written: dict[str, Any]
) -> None:
    instance_id = begun(engine, "HUMAN", assignee="ann", **written)
    clock.advance(timedelta(minutes=59))
    engine.settle()
    assert engine.status(instance_id) is WAITING

    clock.advance(timedelta(minutes=1))
    engine.settle()
    assert engine.status(instance_id) is FAILED
    assert incidents(engine) == [CLOSE]


@ON_SQLITE
def test_a_held_task_does_not_wait_for_a_worker(clock: ManualClock, engine: Engine) -> None:
    instance_id = begun(engine, timeouts={"scheduleToStart": "5s"})
    task_id = task(engine, "id")
    with engine.database.transaction() as tx:
        tasks.hold(tx, [task_id])
    clock.advance(timedelta(hours=1))
    assert time_out_due_tasks(engine.database) == 0

    with engine.database.transaction() as tx:
        tasks.unhold(tx, [instance_id])
    clock.advance(timedelta(seconds=5) - MICROSECOND)
    assert time_out_due_tasks(engine.database) == 0
    clock.advance(MICROSECOND)
    assert time_out_due_tasks(engine.database) == 1
    engine.settle()


@ON_SQLITE
def test_a_task_taken_up_again_has_its_time_anew(clock: ManualClock, engine: Engine) -> None:
    begun(engine, timeouts={"scheduleToStart": "5s", "scheduleToClose": "8s"})
    clock.advance(timedelta(seconds=9))
    engine.settle()
    assert task(engine, "status") == "failed"
    task_id, now = task(engine, "id"), clock.now()
    with engine.database.transaction() as tx:
        assert tasks.retry(tx, [task_id], now=now) == [task_id]
        assert read_coming(tx).overdue_at == now + timedelta(seconds=5)


def test_sweeps_at_once_share_the_work(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    for _ in range(3):
        begun(engine, timeouts={"scheduleToClose": 1})
    with database.transaction() as tx:
        tx.exec_driver_sql("SELECT id FROM tasks ORDER BY id LIMIT 1 FOR UPDATE")
        assert time_out_due_tasks(database) == 2, "the locked row is skipped, not waited for"
    assert time_out_due_tasks(database) == 1
    engine.settle()
    database.dispose()
