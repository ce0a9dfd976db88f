"""Leases: they end by themselves, what was lost does not count as tried, and a token counts once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from common.commands.outcome import Outcome
from common.db import Database
from common.ids import LeaseToken, new_token
from common.lifecycle import InstanceStatus
from common.store import claims
from common.store.attempts import extend_leases
from common.store.claims import TaskClaim
from common.task_error import TaskError
from orchestrator.sweep import expire_due_leases
from task_runner.call import ended
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

COMPLETED, FAILED = InstanceStatus.COMPLETED, InstanceStatus.FAILED
LEASE = timedelta(seconds=8)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def instance_id(clock: ManualClock, engine: Engine) -> str:
    engine.handler("work", lambda _input: {"ok": True})
    instance_id = engine.start(one_task(retry={"maxAttempts": 2, "interval": "1s", "jitter": 0}))
    engine.advance()
    return instance_id


def lose(engine: Engine, clock: ManualClock) -> TaskClaim:
    """Claim the task, and let the lease run out."""
    [claim] = engine.claim()
    clock.advance(LEASE + MICROSECOND)
    assert expire_due_leases(engine.database) == 1
    return claim


def task(engine: Engine, column: str) -> Any:
    return engine.execute(f"SELECT {column} FROM tasks")[0][0]


def test_a_lease_is_over_only_when_its_time_is_over(
    clock: ManualClock, engine: Engine, instance_id: str
) -> None:
    engine.claim()
    clock.advance(LEASE)
    assert expire_due_leases(engine.database) == 0

    clock.advance(MICROSECOND)

    assert expire_due_leases(engine.database) == 1
    assert expire_due_leases(engine.database) == 0
    assert engine.attempts() == [(1, "lost")]
    assert (
        "the lease of its attempt ran out: its worker died or froze"
        in engine.execute("SELECT error FROM attempts")[0][0]
    )
    assert (task(engine, "status"), task(engine, "attempt"), task(engine, "lost")) == ("pending", 0, 1)


def test_a_beat_extends_the_lease(clock: ManualClock, engine: Engine, instance_id: str) -> None:
    [claim] = engine.claim()
    for _ in range(5):
        clock.advance(timedelta(seconds=6))
        with engine.database.transaction() as tx:
            kept = extend_leases(tx, [claim.id], [claim.token], lease=LEASE, now=clock.now())
        assert kept == {claim.id}
        assert expire_due_leases(engine.database) == 0

    engine.report(engine.call(claim))
    engine.settle()
    assert engine.status(instance_id) is COMPLETED


def test_a_lost_attempt_does_not_count_against_the_policy(
    clock: ManualClock, engine: Engine, instance_id: str
) -> None:
    lose(engine, clock)
    lose(engine, clock)

    engine.settle()

    assert engine.status(instance_id) is COMPLETED
    assert engine.attempts() == [(1, "lost"), (1, "lost"), (1, "succeeded")]


@ON_SQLITE
def test_the_third_lost_lease_fails_the_task(clock: ManualClock, engine: Engine, instance_id: str) -> None:
    for _ in range(3):
        lose(engine, clock)
    engine.settle()

    assert engine.status(instance_id) is FAILED
    assert engine.execute("SELECT code FROM incidents") == [("task.lost",)]
    assert [outcome for _, outcome in engine.attempts()] == ["lost"] * 3
    assert "3 attempts" in task(engine, "error")


def test_a_time_out_and_what_came_too_late_for_it_may_be_told_together(
    clock: ManualClock, engine: Engine, instance_id: str
) -> None:
    [claim] = engine.claim()
    over = ended(claim, error=TaskError("task.timeout", "too long"), timed_out=True)

    reported = engine.report(over, engine.succeeded(claim, "late"))

    assert (reported.retried, reported.succeeded, reported.late) == (1, 0, 1)
    assert engine.attempts() == [(1, "timed_out")]
    clock.advance(timedelta(seconds=1))
    engine.settle()
    assert engine.status(instance_id) is COMPLETED
    assert engine.entry_types(instance_id).count("task.late") == 1


@ON_SQLITE
def test_work_that_must_not_be_begun_twice_fails_with_the_first_lease(
    clock: ManualClock, engine: Engine
) -> None:
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(one_task(onLost="fail"))
    engine.advance()
    lose(engine, clock)
    engine.settle()

    assert engine.status(instance_id) is FAILED
    assert engine.execute("SELECT code FROM incidents") == [("task.lost",)]
    assert engine.attempts() == [(1, "lost")]


@ON_SQLITE
def test_a_lost_task_can_be_caught(clock: ManualClock, engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    document = one_task()
    document["states"]["working"]["on"]["error.*"] = "done"
    instance_id = engine.start(document)
    engine.advance()
    for _ in range(3):
        lose(engine, clock)
    engine.settle()

    assert engine.status(instance_id) is COMPLETED


@ON_SQLITE
def test_a_result_after_the_lease_ran_out_counts_as_long_as_nobody_noticed(
    clock: ManualClock, engine: Engine, instance_id: str
) -> None:
    """Expiry alone voids nothing: the row is still ours."""
    [claim] = engine.claim()
    clock.advance(timedelta(hours=1))

    assert engine.report(engine.call(claim)).succeeded == 1
    engine.settle()
    assert engine.status(instance_id) is COMPLETED


def test_a_result_after_the_sweep_is_refused_and_recorded(
    clock: ManualClock, engine: Engine, instance_id: str
) -> None:
    stale = lose(engine, clock)
    [fresh] = engine.claim()

    reported = engine.report(engine.succeeded(stale, "stale"))

    assert (reported.late, reported.succeeded) == (1, 0)
    assert task(engine, "status") == "running"
    assert engine.report(engine.succeeded(fresh, "fresh")).succeeded == 1
    engine.settle()
    assert task(engine, "output") == '"fresh"'
    types = engine.entry_types(instance_id)
    assert (types.count("task.late"), types.count("task.succeeded")) == (1, 1)


def test_the_same_result_twice_counts_once(clock: ManualClock, engine: Engine, instance_id: str) -> None:
    """A commit whose answer was lost on the way is reported again."""
    [claim] = engine.claim()
    outcome = engine.succeeded(claim)

    reported = [engine.report(outcome), engine.report(outcome, outcome)]
    engine.settle()

    assert [(one.succeeded, one.late) for one in reported] == [(1, 0), (0, 0)]
    assert engine.entry_types(instance_id).count("task.succeeded") == 1


def with_token(outcome: Outcome, token: LeaseToken) -> Outcome:
    return Outcome(**{name: getattr(outcome, name) for name in outcome.__slots__} | {"token": token})


@pytest.mark.parametrize("make", [lambda o: with_token(o, new_token())])
@ON_SQLITE
def test_a_token_that_nobody_gave_has_no_effect(
    clock: ManualClock, engine: Engine, instance_id: str, make: Callable[[Outcome], Outcome]
) -> None:
    [claim] = engine.claim()

    reported = engine.report(make(engine.succeeded(claim)))

    assert (reported.succeeded, reported.late) == (0, 0)
    assert task(engine, "status") == "running"
    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)]
    engine.report(engine.succeeded(claim))
    engine.settle()


@ON_SQLITE
def test_an_attempt_that_was_given_back_does_not_count(
    clock: ManualClock, engine: Engine, instance_id: str
) -> None:
    for _ in range(5):
        [claim] = engine.claim()
        released = Outcome(
            **{name: getattr(engine.succeeded(claim), name) for name in Outcome.__slots__}
            | {"output": None, "released": True}
        )
        assert engine.report(released).released == 1

    engine.settle()

    assert engine.status(instance_id) is COMPLETED
    assert sorted(engine.attempts()) == [(1, "released")] * 5 + [(1, "succeeded")]


def test_claims_at_once_are_disjoint_and_within_their_limit(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    engine.handler("work", lambda _input: None)
    engine.start(one_task())
    for _ in range(59):
        engine.start("one-work")
    engine.advance()

    with ThreadPoolExecutor(4) as runners:
        claimed = [done.result(20) for done in [runners.submit(engine.claim, 10) for _ in range(8)]]

    ids = [claim.id for batch in claimed for claim in batch]
    assert len(ids) == len(set(ids)) == 60
    assert all(len(batch) <= 10 for batch in claimed)
    database.dispose()


WORST_PLAN = ("hashagg", "hashjoin", "mergejoin", "material", "memoize", "sort", "indexscan", "bitmapscan")


def test_a_claim_keeps_its_limit_under_the_worst_plan(postgres_url: str) -> None:
    """Without statistics the planner may ask for the due rows once per task: a subquery would lock others each time."""
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    engine.start(one_task())
    for _ in range(29):
        engine.start("one-work")
    engine.advance()

    with database.transaction() as tx:
        for method in WORST_PLAN:
            tx.exec_driver_sql(f"SET LOCAL enable_{method} = off")
        due = claims.claim_due(
            tx,
            worker=engine.worker,
            token=new_token(),
            types=["work"],
            functions=[],
            limit=10,
            lease=LEASE,
        )

    assert len(due.claims) == 10
    database.dispose()
