"""A task's idempotency key: the same work is done once for an instance, however often its definition asks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest

from common.db import Database
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import ON_SQLITE, Document, assign
from tests.support.engine import Engine
from tests.support.waiting import wait_until


def asking(key: str = "${context.key}", **task: Any) -> Document:
    """Asks at each ASK, and keeps what comes back in the order in which it comes."""
    wanted = {"type": "pay", "name": "pay", "idempotencyKey": key, "completionEvent": "PAID", **task}
    heard = [assign("heard", "${context.heard + [has(event.output) ? event.output : event.error.code]}")]
    return {
        "id": "asking",
        "initial": "idle",
        "context": {"key": "order-1", "heard": []},
        "states": {
            "idle": {
                "on": {
                    "ASK": {"actions": [{"type": "createTask", "task": wanted}]},
                    "PAID": {"actions": heard},
                    "error.task.pay": {"actions": heard},
                    "KEY": {"actions": [assign("key", "${event.key}")]},
                    "STOP": "done",
                }
            },
            "done": {"type": "final"},
        },
    }


class Payments:
    """Counts what is really done."""

    def __init__(self, *, fails: bool = False) -> None:
        self.made = 0
        self.fails = fails

    def __call__(self, _input: Any) -> str:
        self.made += 1
        if self.fails:
            raise LookupError("no such account")
        return f"receipt {self.made}"


def begun(engine: Engine, payments: Payments, **task: Any) -> str:
    engine.handler("pay", payments)
    instance_id = engine.start(asking(**task))
    engine.settle()
    return instance_id


def heard(engine: Engine, instance_id: str) -> list[str]:
    return list(engine.context(instance_id)["heard"])


def task_rows(engine: Engine) -> list[tuple[str, Any]]:
    return [(row[0], row[1]) for row in engine.execute("SELECT status, joined_keys FROM tasks ORDER BY id")]


def test_asked_again_while_it_runs_joins_it_and_both_are_answered(engine: Engine) -> None:
    payments = Payments()
    instance_id = begun(engine, payments)
    engine.send(instance_id, "ASK")
    engine.advance()
    [claim] = engine.claim()
    engine.send(instance_id, "ASK")
    engine.send(instance_id, "ASK")
    engine.advance()

    engine.report(engine.call(claim))
    engine.settle()

    assert payments.made == 1
    assert heard(engine, instance_id) == ["receipt 1"] * 3
    assert engine.snapshot(instance_id)["tasks"] == {}
    assert [status for status, _ in task_rows(engine)] == ["succeeded"]


def test_asked_twice_in_one_batch_is_one_task(engine: Engine) -> None:
    payments = Payments()
    instance_id = begun(engine, payments)
    for _ in range(3):
        engine.send(instance_id, "ASK")

    engine.settle()

    assert payments.made == 1
    assert heard(engine, instance_id) == ["receipt 1"] * 3


@ON_SQLITE
def test_asked_after_success_delivers_the_stored_outcome_again(engine: Engine) -> None:
    payments = Payments()
    instance_id = begun(engine, payments)
    for _ in range(3):
        engine.send(instance_id, "ASK")
        engine.settle()

    assert payments.made == 1
    assert heard(engine, instance_id) == ["receipt 1"] * 3
    answers = [entry for entry in engine.entries(instance_id) if entry["type"] == "task.succeeded"]
    assert len({entry["taskId"] for entry in answers}) == 1


@ON_SQLITE
def test_asked_after_a_failure_delivers_the_failure_again(engine: Engine) -> None:
    payments = Payments(fails=True)
    instance_id = begun(engine, payments, retry={"maxAttempts": 1})
    for _ in range(2):
        engine.send(instance_id, "ASK")
        engine.settle()

    assert payments.made == 1
    assert heard(engine, instance_id) == ["LookupError"] * 2


@ON_SQLITE
def test_another_key_is_other_work(engine: Engine) -> None:
    payments = Payments()
    instance_id = begun(engine, payments)
    for key in ("order-1", "order-2"):
        engine.send(instance_id, "KEY", key=key)
        engine.send(instance_id, "ASK")
    engine.settle()

    assert payments.made == 2
    assert sorted(heard(engine, instance_id)) == ["receipt 1", "receipt 2"]


@ON_SQLITE
def test_the_same_key_in_another_instance_is_other_work(engine: Engine) -> None:
    payments = Payments()
    first = begun(engine, payments)
    second = engine.start("asking")
    engine.settle()
    for instance_id in (first, second):
        engine.send(instance_id, "ASK")
    engine.settle()

    assert payments.made == 2


def invoking() -> Document:
    invoke = {"src": "pay", "id": "pay", "onDone": "done"}
    return {
        "id": "invoking",
        "initial": "idle",
        "states": {
            "idle": {"on": {"ASK": "paying"}},
            "paying": {
                "entry": [],
                "invoke": invoke | {"idempotencyKey": "order-1"},
                "on": {"BACK": "idle", "STOP": "done"},
            },
            "done": {"type": "final"},
        },
    }


def test_asked_for_and_withdrawn_in_one_batch_is_not_done(engine: Engine) -> None:
    payments = Payments()
    engine.handler("pay", payments)
    instance_id = engine.start(invoking())
    engine.advance()
    engine.send(instance_id, "ASK")
    engine.send(instance_id, "BACK")

    engine.settle()

    assert payments.made == 0
    assert task_rows(engine) == [("cancelled", None)]
    assert engine.status(instance_id) is InstanceStatus.WAITING


@ON_SQLITE
def test_withdrawn_by_one_asker_it_goes_on_for_the_other(engine: Engine) -> None:
    payments = Payments()
    engine.handler("pay", payments)
    instance_id = engine.start(invoking())
    engine.advance()
    engine.send(instance_id, "ASK")
    engine.send(instance_id, "BACK")
    engine.send(instance_id, "ASK")

    engine.settle()

    assert payments.made == 1
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_asked_again_after_it_was_cancelled_is_asked_anew_under_the_same_key(engine: Engine) -> None:
    keys: list[str] = []
    engine.handler("pay", lambda _input, context: keys.append(context.idempotency_key))
    instance_id = engine.start(invoking())
    engine.advance()
    for event in ("ASK", "BACK", "ASK"):
        engine.send(instance_id, event)
        engine.advance()

    engine.settle()

    assert keys == ["order-1"]
    assert [status for status, _ in task_rows(engine)] == ["cancelled", "succeeded"]
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def two_regions() -> Document:
    """Two askers of the same work, each of which can lose interest."""
    region = {
        "initial": "idle",
        "states": {
            "idle": {"on": {"ASK": "paying"}},
            "paying": {
                "invoke": {"src": "pay", "id": "pay", "idempotencyKey": "order-1", "onDone": "paid"},
                "on": {"BACK": "idle"},
            },
            "paid": {},
        },
    }
    left, right = deepcopy(region), deepcopy(region)
    right["states"]["paying"]["on"] = {"BACK_RIGHT": "idle"}
    right["states"]["paying"]["invoke"]["id"] = "pay-right"
    return {"id": "regions", "type": "parallel", "states": {"left": left, "right": right}}


@pytest.mark.parametrize(
    ("withdrawn", "paid"),
    [("BACK", ["left.idle", "right.paid"]), ("BACK_RIGHT", ["left.paid", "right.idle"])],
)
@ON_SQLITE
def test_who_loses_interest_leaves_the_other_its_answer(
    engine: Engine, withdrawn: str, paid: list[str]
) -> None:
    payments = Payments()
    engine.handler("pay", payments)
    instance_id = engine.start(two_regions())
    engine.advance()
    engine.send(instance_id, "ASK")
    engine.advance()
    [claim] = engine.claim()
    engine.send(instance_id, withdrawn)
    engine.advance()

    engine.report(engine.call(claim))
    engine.settle()

    assert payments.made == 1
    assert engine.snapshot(instance_id)["configuration"] == paid


@ON_SQLITE
def test_when_all_lose_interest_it_is_cancelled(engine: Engine) -> None:
    engine.handler("pay", Payments())
    instance_id = engine.start(two_regions())
    engine.advance()
    for event in ("ASK", "BACK", "BACK_RIGHT"):
        engine.send(instance_id, event)
        engine.advance()

    assert [status for status, _ in task_rows(engine)] == ["cancelled"]


@ON_SQLITE
def test_an_uncaught_failure_delivered_again_freezes_the_instance_with_its_obligation(
    engine: Engine,
) -> None:
    engine.handler("pay", Payments(fails=True))
    document = asking(retry={"maxAttempts": 1})
    ask = document["states"]["idle"]["on"]["ASK"]["actions"]
    document["states"]["idle"]["on"]["MOVE"] = "strict"
    document["states"]["strict"] = {"entry": ask}
    instance_id = engine.start(document)
    engine.settle()
    engine.send(instance_id, "ASK")
    engine.settle()

    engine.send(instance_id, "MOVE")
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert len(engine.snapshot(instance_id)["tasks"]) == 1


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    database = Database.open(postgres_url)
    yield Engine.on(database)
    database.dispose()


def test_asking_again_and_reporting_at_once_never_deadlock(postgres_engine: Engine) -> None:
    """The instance asks for the later task first; the runner reports both in id order; somebody holds the later one."""
    engine = postgres_engine
    engine.handler("pay", Payments())
    instance_id = engine.start(asking())
    engine.advance()
    for key in ("order-1", "order-2"):
        engine.send(instance_id, "KEY", key=key)
        engine.send(instance_id, "ASK")
    engine.advance()
    claims = sorted(engine.claim(), key=lambda claim: claim.id)
    for key in ("order-2", "order-1"):
        engine.send(instance_id, "KEY", key=key)
        engine.send(instance_id, "ASK")

    with ThreadPoolExecutor(2) as both:
        with engine.database.transaction() as tx:
            tx.exec_driver_sql(f"SELECT 1 FROM tasks WHERE id = '{claims[1].id}' FOR UPDATE")
            advancing = both.submit(engine.advance)
            wait_until(lambda: waiters(engine) == 1, what="the orchestrator to wait for the task")
            reporting = both.submit(engine.report, *[engine.call(claim) for claim in claims])
            wait_until(lambda: waiters(engine) == 2, what="the runner to wait too")
        advancing.result(10)
        reporting.result(10)
    engine.settle()

    assert deadlocks(engine) == 0
    assert sorted(heard(engine, instance_id)) == ["receipt 1"] * 2 + ["receipt 2"] * 2


def waiters(engine: Engine) -> int:
    with engine.database.reading() as tx:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return int(tx.exec_driver_sql(asked).scalar_one())


def deadlocks(engine: Engine) -> int:
    with engine.database.reading() as tx:
        asked = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(tx.exec_driver_sql(asked).scalar_one())
