"""Ways out of an incident: what failed is tried again or left out, the history says so, and what waited comes after it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from common.commands.incidents import resolve_incident
from common.config import Limits
from common.errors import Conflict, NotFound
from common.ids import new_id
from common.lifecycle import InstanceStatus
from common.store import instances
from tests.integration.engine.documents import COUNTER, ON_POSTGRESQL, ON_SQLITE, assign, waiting_with_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

S = InstanceStatus


class Shop:
    """A handler that fails as long as `stock` is 0."""

    def __init__(self) -> None:
        self.stock = 0
        self.tries = 0

    def work(self, _input: object) -> int:
        self.tries += 1
        if not self.stock:
            raise RuntimeError("no stock left")
        return self.stock


def failed_task(engine: Engine, **task: Any) -> tuple[str, Shop]:
    shop = Shop()
    engine.handler("work", shop.work)
    instance_id = engine.start(waiting_with_task(retry={"maxAttempts": 2, "interval": 0}, **task))
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    return str(instance_id), shop


def failed_step(engine: Engine, guard: str = "${context.seen[0] / event.n}") -> str:
    """An instance whose step at ADD fails while `n` is 0."""
    document = {**COUNTER, "id": "dividing", "context": {"seen": [8]}}
    document["states"] = {
        "counting": {
            "on": {
                "ADD": {"actions": [assign("quotient", guard)]},
                "MEND": {"actions": [assign("seen", "${[event.n]}")]},
                "STOP": "stopped",
            }
        },
        "stopped": {"type": "final"},
    }
    instance_id = engine.start(document)
    engine.settle()
    return str(instance_id)


def incident_of(engine: Engine, instance_id: str) -> str:
    rows = engine.execute(
        f"SELECT id FROM incidents WHERE instance_id = '{instance_id}' AND status = 'open' ORDER BY id"
    )
    return str(rows[-1][0])


def resolve(engine: Engine, incident_id: str, way: Any, output: Any = None) -> None:
    with engine.database.transaction() as tx:
        resolve_incident(
            tx,
            engine.tenant_id,
            incident_id,
            way=way,
            output=output,
            reason="mended",
            actor="ops",
            limits=Limits(),
        )
    engine.settle()


def test_a_retry_runs_the_failed_task_again_and_goes_on_counting(engine: Engine) -> None:
    instance_id, shop = failed_task(engine)
    assert shop.tries == 2
    shop.stock = 7
    engine.control("retry", instance_id, reason="stock is here")
    engine.settle()

    assert engine.status(instance_id) is S.WAITING
    assert engine.context(instance_id)["output"] == 7
    assert engine.execute("SELECT attempt, max_attempts, status FROM tasks") == [(3, 4, "succeeded")]
    assert [
        tuple(row) for row in engine.execute("SELECT status, resolution, resolved_by FROM incidents")
    ] == [("resolved", "retried", "test")]
    types = engine.entry_types(instance_id)
    assert types.index("instance.retried") < types.index("task.succeeded")
    assert {"type": "instance.retried", "reason": "stock is here"} in engine.entries(instance_id)


def test_a_retry_that_fails_again_opens_the_next_incident(engine: Engine) -> None:
    instance_id, shop = failed_task(engine)
    engine.control("retry", instance_id)
    engine.settle()

    assert shop.tries == 4
    assert engine.status(instance_id) is S.FAILED
    assert [row[0] for row in engine.execute("SELECT status FROM incidents ORDER BY id")] == [
        "resolved",
        "open",
    ]


def test_what_waited_is_taken_after_the_retry(engine: Engine) -> None:
    instance_id, shop = failed_task(engine)
    for n in range(3):
        engine.send(instance_id, "ADD", n=n)
    engine.settle()
    shop.stock = 1
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.context(instance_id)["seen"] == [0, 1, 2]


def test_a_failed_task_is_skipped_with_an_output_by_hand(engine: Engine) -> None:
    instance_id, shop = failed_task(engine)
    resolve(engine, incident_of(engine, instance_id), "skip", output={"by": "hand"})

    assert shop.tries == 2
    assert engine.status(instance_id) is S.WAITING
    assert engine.context(instance_id)["output"] == {"by": "hand"}
    assert engine.execute("SELECT status FROM tasks") == [("skipped",)]
    assert engine.execute("SELECT resolution, resolved_by FROM incidents") == [("skipped", "ops")]
    assert "task.skipped" in engine.entry_types(instance_id)


def test_a_step_that_failed_is_taken_again_before_what_waited(engine: Engine) -> None:
    """The event that failed is in no inbox any more: the incident's history row brings it back."""
    instance_id = failed_step(engine, "${context.seen[event.n]}")
    engine.send(instance_id, "ADD", n=1)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    engine.send(instance_id, "MEND", n=5)
    engine.settle()

    engine.control("retry", instance_id)  # the world is as it was: it fails again, and MEND still waits
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    assert engine.context(instance_id)["seen"] == [8]

    resolve(engine, incident_of(engine, instance_id), "skip")
    assert engine.context(instance_id)["seen"] == [5]
    assert engine.status(instance_id) is S.WAITING
    assert "quotient" not in engine.context(instance_id)


def test_a_start_that_failed_stays_startable(engine: Engine) -> None:
    document = {**COUNTER, "id": "no-start", "entry": [assign("first", "${input.list[0]}")]}
    instance_id = engine.start(document, input={"list": []})
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED  # the same input fails the same way, on record
    assert engine.entry_types(instance_id).count("incident.opened") == 2

    engine.control("cancel", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.CANCELLED


@ON_SQLITE
def test_an_incident_is_resolved_once(engine: Engine) -> None:
    instance_id, shop = failed_task(engine)
    incident_id = incident_of(engine, instance_id)
    shop.stock = 1
    resolve(engine, incident_id, "retry")
    with pytest.raises(Conflict, match="resolved already"):
        resolve(engine, incident_id, "retry")
    with pytest.raises(NotFound):
        resolve(engine, new_id(), "retry")


@ON_SQLITE
def test_two_who_retry_at_once_retry_once(engine: Engine) -> None:
    instance_id, shop = failed_task(engine)
    shop.stock = 1
    engine.control("retry", instance_id)
    engine.control("retry", instance_id)
    engine.settle()
    assert shop.tries == 3
    assert "event.rejected" in engine.entry_types(instance_id)


@ON_SQLITE
def test_a_machine_that_ended_in_error_is_restarted_not_retried(engine: Engine) -> None:
    """Its snapshot is over: a retry would have nothing to go on from."""
    instance_id, _ = failed_task(engine)
    engine.execute(
        f'UPDATE instances SET snapshot = replace(snapshot, \'"status":"active"\', \'"status":"error"\') '
        f"WHERE id = '{instance_id}'"
    )
    with pytest.raises(Conflict, match="restart it from a state"):
        engine.control("retry", instance_id)
    engine.execute(
        f'UPDATE instances SET snapshot = replace(snapshot, \'"status":"error"\', \'"status":"active"\') '
        f"WHERE id = '{instance_id}'"
    )


def failing_at_the_answer(engine: Engine, **working: Any) -> str:
    """An instance whose task succeeds, and whose step at that answer fails."""
    engine.handler("work", lambda _input: {"n": 0})
    document = {
        "id": "answered",
        "initial": "working",
        "states": {
            "working": {
                "invoke": {
                    "src": "work",
                    "onDone": {"target": "done", "actions": [assign("share", "${1 / event.output.n}")]},
                },
                **working,
            },
            "done": {"type": "final"},
        },
    }
    instance_id = engine.start(document)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    return str(instance_id)


def test_an_answer_that_is_left_out_is_not_waited_for_any_more(engine: Engine) -> None:
    instance_id = failing_at_the_answer(engine, on={"GO": "done"})
    resolve(engine, incident_of(engine, instance_id), "skip")

    assert engine.status(instance_id) is S.WAITING
    assert engine.snapshot(instance_id)["tasks"] == {}
    engine.send(instance_id, "GO")
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED


def test_who_would_wait_for_nothing_is_not_left_alone(engine: Engine) -> None:
    instance_id = failing_at_the_answer(engine)
    resolve(engine, incident_of(engine, instance_id), "skip")

    assert engine.status(instance_id) is S.FAILED
    assert engine.execute("SELECT code, status FROM incidents ORDER BY id")[-1] == ("instance.stuck", "open")
    engine.control("restart", instance_id, state="done")
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED


def test_a_timer_whose_step_failed_is_tried_again(engine: Engine, clock: ManualClock) -> None:
    document = {
        "id": "timed",
        "initial": "early",
        "context": {"n": 0},
        "states": {
            "early": {"after": {"1s": {"target": "late", "actions": [assign("share", "${1 / context.n}")]}}},
            "late": {"type": "final"},
        },
    }
    instance_id = engine.start(document)
    engine.settle()
    clock.advance(timedelta(seconds=1))
    engine.settle()
    assert engine.status(instance_id) is S.FAILED

    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    engine.control("restart", instance_id, context={"n": 2})
    engine.settle()
    clock.advance(timedelta(seconds=1))
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED


@ON_POSTGRESQL
@pytest.mark.parametrize("way", ["retry", "resolve"])
def test_a_way_out_waits_for_the_step_that_is_made(engine: Engine, way: str) -> None:
    """Else it may be read from what stood before that step: it would thaw the instance and try nothing again."""
    instance_id, shop = failed_task(engine)
    shop.stock = 1
    incident = incident_of(engine, instance_id)

    def take() -> None:
        if way == "retry":
            engine.control("retry", instance_id)
        else:
            resolve(engine, incident, "retry")

    with ThreadPoolExecutor(1) as pool:
        with engine.database.transaction() as tx:
            assert instances.lock_ready(tx, [instance_id])
            waiting = pool.submit(take)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
        waiting.result(30)
    engine.settle()
    assert "instance.retried" in engine.entry_types(instance_id)
    assert shop.tries == 3
