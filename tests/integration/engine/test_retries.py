"""Retries: after the policy's time, as often as it says, unless the handler knows better; every attempt is on record."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from common.canonical import read
from common.db import tables
from common.lifecycle import InstanceStatus
from task_runner.registry import Permanent, Retryable
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.support.runners import MakeRunner

COMPLETED, RUNNING, FAILED = InstanceStatus.COMPLETED, InstanceStatus.RUNNING, InstanceStatus.FAILED
EXACT = {"maxAttempts": 3, "interval": "10s", "backoffRate": 2, "jitter": 0}


def failing(*errors: Exception | None) -> Callable[[Any], str]:
    """A handler that raises these in turn, and succeeds where there is none."""
    left = list(errors)

    def work(_input: Any) -> str:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return "done"

    return work


def begun(engine: Engine, work: Callable[[Any], Any], **task: Any) -> str:
    engine.handler("work", work)
    instance_id = engine.start(one_task(**task))
    engine.settle()
    return instance_id


def test_a_failed_attempt_runs_again_at_the_time_of_the_policy(clock: ManualClock, engine: Engine) -> None:
    instance_id = begun(engine, failing(ValueError("1"), ValueError("2")), retry=EXACT)
    assert engine.attempts() == [(1, "failed")]
    assert engine.status(instance_id) is RUNNING, "also between retries"

    clock.advance(timedelta(seconds=10) - timedelta(microseconds=1))
    engine.settle()
    assert len(engine.attempts()) == 1

    clock.advance(timedelta(microseconds=1))
    engine.settle()
    assert engine.attempts() == [(1, "failed"), (2, "failed")]

    clock.advance(timedelta(seconds=19))
    engine.settle()
    assert len(engine.attempts()) == 2

    clock.advance(timedelta(seconds=1))
    engine.settle()
    assert engine.attempts() == [(1, "failed"), (2, "failed"), (3, "succeeded")]
    assert engine.status(instance_id) is COMPLETED


def test_the_last_failure_is_the_task_s_and_the_entry_vouches_for_its_attempts(
    clock: ManualClock, engine: Engine
) -> None:
    instance_id = begun(
        engine, failing(ValueError("first"), KeyError("second")), retry=EXACT | {"maxAttempts": 2}
    )
    clock.advance(timedelta(seconds=10))
    engine.settle()

    assert engine.status(instance_id) is FAILED
    [entry] = [entry for entry in engine.entries(instance_id) if entry["type"] == "task.failed"]
    assert entry["error"] == {"code": "KeyError", "data": None, "message": "'second'"}
    assert entry["attempt"] == 2
    assert len(entry["attemptsDigest"]) == 64
    errors = [read(row[0]) for row in engine.execute("SELECT error FROM attempts ORDER BY started_at")]
    assert [error["code"] for error in errors] == ["ValueError", "KeyError"]
    assert all("Traceback" in error["trace"] for error in errors)
    assert "trace" not in str(engine.execute("SELECT error FROM tasks")), "traces stay with the attempts"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("error", "retry", "tried"),
    [
        (Permanent("no"), {}, 1),
        (Permanent("no"), {"retryOn": ["*"]}, 1),
        (Retryable("later"), {"retryOn": ["other"]}, 3),
        (Retryable("later", code="busy"), {"doNotRetryOn": ["busy"]}, 1),
        (ValueError("x"), {"doNotRetryOn": ["ValueError"]}, 1),
        (ValueError("x"), {"retryOn": ["KeyError"]}, 1),
        (ValueError("x"), {"retryOn": ["ValueError"]}, 3),
        (ValueError("x"), {"maxAttempts": 1}, 1),
        (ValueError("x"), {}, 3),
    ],
)
def test_who_says_whether_it_is_tried_again(
    clock: ManualClock, engine: Engine, error: Exception, retry: dict[str, Any], tried: int
) -> None:
    instance_id = begun(engine, failing(*[error] * 9), retry=EXACT | retry)
    for _ in range(4):
        clock.advance(timedelta(minutes=1))
        engine.settle()

    assert len(engine.attempts()) == tried
    assert engine.status(instance_id) is FAILED


@ON_SQLITE
def test_without_a_policy_it_is_three_attempts_with_a_second_and_two_between(
    clock: ManualClock, engine: Engine
) -> None:
    begun(engine, failing(*[ValueError("x")] * 9))
    for tried, shortest, longest in ((1, 0.8, 1.2), (2, 1.6, 2.4)):
        assert len(engine.attempts()) == tried
        with engine.database.reading() as tx:
            [due_at] = tx.execute(select(tables.tasks.c.run_at)).scalars()
        assert shortest <= (due_at - clock.now()).total_seconds() <= longest
        clock.advance(timedelta(seconds=3))
        engine.settle()

    assert engine.execute("SELECT status FROM tasks") == [("failed",)]


@ON_SQLITE
def test_progress_of_one_attempt_reaches_the_next(
    clock: ManualClock, engine: Engine, make_runner: MakeRunner
) -> None:
    seen: list[Any] = []

    def work(_input: Any, context: Any) -> None:
        seen.append(context.progress)
        if len(seen) == 1:
            context.heartbeat({"page": 3})
            runner.beat()
            raise ValueError("half way")

    engine.handler("work", work)
    engine.start(one_task(retry=EXACT))
    engine.advance()
    runner = make_runner(slots=1)
    runner.claim(until=0)
    runner.drain(20)
    clock.advance(timedelta(seconds=10))
    engine.settle()

    assert seen == [None, {"page": 3}]


@ON_SQLITE
def test_a_delayed_task_is_not_claimed_before_its_time(clock: ManualClock, engine: Engine) -> None:
    instance_id = begun(engine, failing(), delay="1h")
    assert engine.claim() == []
    assert engine.status(instance_id) is RUNNING

    clock.advance(timedelta(hours=1))
    engine.settle()

    assert engine.status(instance_id) is COMPLETED


@ON_SQLITE
def test_a_task_with_a_time_of_its_own_in_the_past_runs_at_once(clock: ManualClock, engine: Engine) -> None:
    instance_id = begun(engine, failing(), runAt="2020-01-01T00:00:00Z")
    assert engine.status(instance_id) is COMPLETED


@ON_SQLITE
def test_a_task_of_another_type_or_function_is_left_to_others(engine: Engine) -> None:
    engine.handler("work", failing())
    engine.start(one_task(kind="SYSTEM", name="nobody.has.this"))
    engine.start(one_task(kind="UNKNOWN"))
    mine = engine.start(one_task(kind="SYSTEM", name="work") | {"id": "mine"})
    engine.settle()

    assert engine.status(mine) is COMPLETED
    assert engine.execute("SELECT count(*) FROM tasks WHERE status = 'pending'") == [(2,)]


@ON_SQLITE
def test_a_person_s_task_waits_without_a_runner(engine: Engine) -> None:
    instance_id = engine.start(one_task(kind="HUMAN", assignee="ann"))
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.WAITING
    assert engine.execute("SELECT status, lease_token FROM tasks") == [("running", None)]
    engine.send(instance_id, "DONE")
    engine.settle()
    assert engine.execute("SELECT status FROM tasks") == [("cancelled",)]


def test_a_try_does_not_come_before_its_failure_allows_it(clock: ManualClock, engine: Engine) -> None:
    later = Retryable("busy", code="http.429", after=timedelta(seconds=30))
    longest = Retryable("busy", code="http.429", after=timedelta(days=1))
    instance_id = begun(engine, failing(later, longest), retry=EXACT | {"maxInterval": "2m"})

    for wait in (30, 120):
        tried = len(engine.attempts())
        clock.advance(timedelta(seconds=wait - 1))
        engine.settle()
        assert len(engine.attempts()) == tried
        clock.advance(timedelta(seconds=1))
        engine.settle()
        assert len(engine.attempts()) == tried + 1
    assert engine.status(instance_id) is COMPLETED
