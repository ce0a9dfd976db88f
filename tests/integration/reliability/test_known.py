"""A first attempt that succeeds is ended by one statement: the very rows that the longer way writes, and fenced as that is."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.commands.outcome import Outcome, report_known, report_outcomes
from common.commands.verify import verify_instance
from common.lifecycle import InstanceStatus
from common.store.claims import TaskClaim
from orchestrator.sweep import expire_due_leases
from tests.integration.engine.documents import ONE_TASK
from tests.support.engine import Engine


@pytest.fixture
def claims(engine: Engine) -> list[TaskClaim]:
    """Three claims of as many instances."""
    engine.handler("work", lambda _input: None)
    for _ in range(3):
        engine.start(ONE_TASK)
    engine.advance()
    return engine.claim()


def known(engine: Engine, claim: TaskClaim, output: Any = None) -> Outcome:
    assert claim.claimed_at is not None
    outcome = replace(engine.succeeded(claim, output), ended_at=claim.claimed_at + timedelta(milliseconds=3))
    assert outcome.is_known
    return outcome


def report(engine: Engine, *outcomes: Outcome) -> set[str]:
    return {task_id for task_id, _ in report_known(engine.database, outcomes)}


def stored(engine: Engine, task_id: str) -> list[Any]:
    """What its end leaves, without ids and instants."""
    statements = (
        "SELECT status, attempt, output, error, lease_owner, lease_token, lease_expires_at, finished_at IS NULL FROM tasks WHERE id = '{}'",
        "SELECT attempt, outcome, error, result_digest, ended_at IS NULL FROM attempts WHERE task_id = '{}'",
        "SELECT lane, type, parked, length(body), source = 'task:' || '{}' FROM inbox WHERE source = 'task:' || '{}'",
    )
    return [[tuple(row) for row in engine.execute(one.replace("{}", task_id))] for one in statements]


def test_one_statement_leaves_what_the_longer_way_leaves(engine: Engine, claims: list[TaskClaim]) -> None:
    rung: list[str] = []
    engine.database.listeners.append(rung.extend)
    at_once, longer, _ = claims

    assert report(engine, known(engine, at_once, {"a": [1, None, "ü\\\"'"]})) == {at_once.id}
    engine.report(known(engine, longer, {"a": [1, None, "ü\\\"'"]}))

    assert stored(engine, at_once.id) == stored(engine, longer.id)
    assert rung == ["workflow-orchestrator"] * 2
    engine.advance()
    for claim in (at_once, longer):
        assert engine.status(claim.instance_id) is InstanceStatus.COMPLETED
        with engine.database.reading() as tx:
            assert verify_instance(tx, engine.tenant_id, claim.instance_id)["valid"]


def test_who_lost_his_lease_ends_nothing_and_the_others_of_his_group_do(
    engine: Engine, claims: list[TaskClaim]
) -> None:
    lost, *others = claims
    engine.execute(f"UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000' WHERE id = '{lost.id}'")
    expire_due_leases(engine.database)
    outcomes = [known(engine, one, "mine") for one in claims]

    assert report(engine, *outcomes) == {one.id for one in others}
    [again] = engine.claim()
    assert report(engine, outcomes[0]) == set(), "the old token of a task that runs again"
    with engine.database.transaction() as tx:
        assert report_outcomes(tx, [outcomes[0]]).late == 1

    engine.report(engine.succeeded(again, "another's"))
    engine.advance()
    assert engine.context(lost.instance_id) is not None
    assert [row[0] for row in engine.execute(f"SELECT output FROM tasks WHERE id = '{lost.id}'")] == [
        '"another\'s"'
    ]


def test_reported_twice_it_ends_once(engine: Engine, claims: list[TaskClaim]) -> None:
    outcome = known(engine, claims[0])

    assert report(engine, outcome, outcome) == {claims[0].id}
    assert report(engine, outcome) == set()

    assert len(engine.execute(f"SELECT id FROM inbox WHERE instance_id = '{claims[0].instance_id}'")) == 1


def test_what_more_may_wait_for_goes_the_longer_way(engine: Engine, claims: list[TaskClaim]) -> None:
    claim = claims[0]
    for other in (
        replace(claim, idempotency_key="same work"),
        replace(claim, parent_task_id=claims[1].id),
        replace(claim, is_first=False),
        replace(claim, type="AI"),
    ):
        assert not replace(engine.succeeded(other), ended_at=claim.claimed_at).is_known
    assert not engine.succeeded(claim).is_known, "nobody knows when it ended"
