"""Tasks with an idempotency key: asked for, asked for again and withdrawn within one batch, and locked in one order."""

import threading
from typing import Any

import pytest

from tests.support.engine import Engine
from tests.support.waiting import wait_until

WITHDRAWN = {
    "id": "withdrawn",
    "initial": "idle",
    "states": {
        "idle": {"on": {"GO": "busy"}},
        "busy": {"invoke": {"src": "work", "idempotencyKey": "the-work"}, "on": {"STOP": "idle"}},
    },
}


def open_tasks(engine: Engine) -> list[Any]:
    return engine.execute("SELECT status, joined_keys FROM tasks WHERE status IN ('pending', 'running')")


def test_asked_for_and_withdrawn_in_one_batch_leaves_no_open_task(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(WITHDRAWN)
    engine.advance()

    engine.send(instance_id, "GO")
    engine.send(instance_id, "STOP")
    engine.advance()

    assert open_tasks(engine) == []


def test_asked_for_again_and_withdrawn_in_one_batch_cancels_the_first_too(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(WITHDRAWN)
    engine.send(instance_id, "GO")
    engine.advance()
    assert len(open_tasks(engine)) == 1

    for type in ("STOP", "GO", "STOP"):
        engine.send(instance_id, type)
    engine.advance()

    assert open_tasks(engine) == []


def test_left_and_entered_again_in_one_batch_keeps_the_task_for_the_new_obligation(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(WITHDRAWN)
    engine.send(instance_id, "GO")
    engine.advance()

    engine.send(instance_id, "STOP")
    engine.send(instance_id, "GO")
    engine.advance()

    assert len(open_tasks(engine)) == 1
    assert engine.snapshot(instance_id)["configuration"] == ["busy"]


BOTH = {
    "id": "both",
    "initial": "idle",
    "on": {
        "ASK": {
            "actions": {
                "type": "createTask",
                "params": {"task": {"type": "work", "idempotencyKey": "asked", "completionEvent": "ASKED"}},
            }
        }
    },
    "states": {
        "idle": {"on": {"GO": "busy"}},
        "busy": {"invoke": {"src": "work"}, "on": {"STOP": "idle"}},
    },
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_asking_again_and_cancelling_lock_tasks_in_the_order_of_a_runner(engine: Engine) -> None:
    """The orchestrator locked the asked task first, whatever its id, and deadlocked with a runner that reported both."""
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(BOTH)
    engine.send(instance_id, "GO")  # the task with the lower id, which STOP cancels
    engine.advance()
    engine.send(instance_id, "ASK")  # the task with the higher id, which ASK joins
    engine.advance()
    low, high = sorted(engine.claim(), key=lambda claim: claim.id)
    engine.send(instance_id, "ASK")
    engine.send(instance_id, "STOP")
    failures: list[BaseException] = []

    def alone(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - kept for the thread of the test
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def waiting() -> int:
        [(count,)] = engine.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(count)

    with engine.database.transaction() as blocker:
        blocker.exec_driver_sql(f"SELECT id FROM tasks WHERE id = '{high.id}' FOR UPDATE")
        orchestrator = alone(engine.advance)
        wait_until(lambda: waiting() == 1, what="the orchestrator to wait for a task")
        runner = alone(lambda: engine.report(engine.succeeded(low), engine.succeeded(high)))
        wait_until(lambda: waiting() == 2, what="the runner to wait as well")
    orchestrator.join(20)
    runner.join(20)

    assert failures == []
    engine.settle()
    engine.database.dispose()  # a session counts its deadlocks when it ends
    assert engine.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [
        (0,)
    ]
