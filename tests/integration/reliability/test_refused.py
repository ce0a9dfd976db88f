"""What the database refuses costs the instance at fault, never its neighbours in the batch."""

from datetime import timedelta

from sqlalchemy import text

from common.db.now import read_now
from common.lifecycle import InstanceStatus
from orchestrator.advancing import Advancing
from tests.support.engine import LIMITS, Engine

KEYED = {
    "id": "keyed",
    "initial": "working",
    "states": {
        "working": {
            "entry": {
                "type": "createTask",
                "params": {"task": {"type": "work", "idempotencyKey": "${input}", "completionEvent": "DONE"}},
            },
            "on": {"DONE": "done"},
        },
        "done": {"type": "final"},
    },
}
REFUSED = "second"
SQLITE_REFUSES = """
    CREATE TRIGGER of_the_operator BEFORE INSERT ON tasks WHEN new.idempotency_key = 'second'
    BEGIN SELECT RAISE(ABORT, 'not here'); END
"""
POSTGRESQL_REFUSES = "ALTER TABLE tasks ADD CONSTRAINT of_the_operator CHECK (idempotency_key <> 'second')"


def start_one_that_is_refused_among_three(engine: Engine) -> list[str]:
    """The database has a rule of its operator's own, which the engine knows nothing of."""
    with engine.database.transaction() as tx:
        tx.execute(text(SQLITE_REFUSES if engine.database.is_sqlite else POSTGRESQL_REFUSES))
    engine.handler("work", lambda _input: None)
    key = engine.apply(KEYED)
    return [str(engine.start(key, input=value)) for value in ("first", REFUSED, "third")]


def assert_only_the_second_is_not_completed(engine: Engine, instance_ids: list[str]) -> None:
    first, second, third = (engine.status(one) for one in instance_ids)
    assert (first, third) == (InstanceStatus.COMPLETED, InstanceStatus.COMPLETED)
    assert second is InstanceStatus.FAILED
    assert engine.execute("SELECT code, status FROM incidents") == [("engine.rejected", "open")]


def test_what_the_database_refuses_fails_its_own_instance_alone(engine: Engine) -> None:
    instance_ids = start_one_that_is_refused_among_three(engine)

    engine.settle()

    assert_only_the_second_is_not_completed(engine, instance_ids)


def test_the_same_holds_while_a_process_has_just_died(engine: Engine) -> None:
    instance_ids = start_one_that_is_refused_among_three(engine)
    with engine.database.reading() as tx:
        death = read_now(tx) - timedelta(seconds=30)  # before the instances: nobody is suspected

    engine.advancing = Advancing(engine.database, LIMITS.max_context_bytes, last_death=lambda: death)
    engine.settle()

    assert_only_the_second_is_not_completed(engine, instance_ids)
