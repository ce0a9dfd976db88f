"""A result counts under the very token it was claimed with: not under a neighbour's, not under its own task's next one."""

from datetime import UTC, datetime, timedelta

from common.db.tables import AttemptOutcome
from orchestrator.sweep import expire_due_leases
from tests.support.engine import Engine

TWO_TASKS = {
    "id": "two-tasks",
    "initial": "working",
    "states": {
        "working": {
            "type": "parallel",
            "states": {
                side: {
                    "initial": "open",
                    "states": {
                        "open": {"invoke": {"src": "work", "id": side, "onDone": "closed"}},
                        "closed": {"type": "final"},
                    },
                }
                for side in ("left", "right")
            },
            "onDone": "done",
        },
        "done": {"type": "final"},
    },
}


def lose_every_lease(engine: Engine) -> None:
    past = datetime(2000, 1, 1, tzinfo=UTC)
    engine.execute(
        "UPDATE tasks SET lease_expires_at = '" + past.strftime("%Y-%m-%d %H:%M:%S.%f") + "'"
        " WHERE lease_token IS NOT NULL"
    )
    expire_due_leases(engine.database)


def outcomes_of_attempts(engine: Engine, task_id: str) -> list[str | None]:
    rows = engine.execute(f"SELECT outcome FROM attempts WHERE task_id = '{task_id}' ORDER BY started_at")
    return [row[0] for row in rows]


def test_a_stale_result_beside_one_of_the_new_claim_is_late(engine: Engine) -> None:
    """One runner lost its leases, claimed both tasks again, and reports old and new results in one group."""
    engine.lease = timedelta(seconds=30)
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(TWO_TASKS)
    engine.advance()
    old_left, _old_right = sorted(engine.claim(), key=lambda claim: claim.key)
    lose_every_lease(engine)
    new_left, new_right = sorted(engine.claim(), key=lambda claim: claim.key)

    reported = engine.report(engine.succeeded(old_left, "stale"), engine.succeeded(new_right, "fresh"))

    assert (reported.late, reported.succeeded) == (1, 1)
    assert outcomes_of_attempts(engine, new_left.id) == [AttemptOutcome.LATE, None]
    engine.report(engine.succeeded(new_left, "fresh"))
    engine.settle()
    results = [entry for entry in engine.entries(instance_id) if entry["type"] == "task.succeeded"]
    assert sorted(entry["taskId"] for entry in results) == sorted((new_left.id, new_right.id))
    assert engine.execute(f"SELECT output FROM tasks WHERE id = '{new_left.id}'") == [('"fresh"',)]


def test_old_and_new_result_of_one_task_in_one_group_count_once(engine: Engine) -> None:
    engine.lease = timedelta(seconds=30)
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(TWO_TASKS)
    engine.advance()
    old_left, _old_right = sorted(engine.claim(), key=lambda claim: claim.key)
    lose_every_lease(engine)
    new_left, new_right = sorted(engine.claim(), key=lambda claim: claim.key)

    reported = engine.report(
        engine.succeeded(old_left, "stale"),
        engine.succeeded(new_left, "fresh"),
        engine.succeeded(new_right, "fresh"),
    )

    assert (reported.late, reported.succeeded) == (1, 2)
    engine.settle()
    entries = engine.entry_types(instance_id)
    assert entries.count("task.succeeded") == 2
    assert entries.count("task.late") == 1
