"""What the database refuses costs the instance at fault, never its neighbours in the batch."""

import os
from datetime import timedelta

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
TOO_LONG = os.urandom(50_000).hex()
"""Longer than an index entry of PostgreSQL may be, and not to be compressed below that."""


def start_one_too_long_among_three(engine: Engine) -> list[str]:
    engine.handler("work", lambda _input: None)
    key = engine.apply(KEYED)
    return [str(engine.start(key, input=value)) for value in ("first", TOO_LONG, "third")]


def assert_only_the_second_is_not_completed(engine: Engine, instance_ids: list[str]) -> None:
    first, second, third = (engine.status(one) for one in instance_ids)
    assert (first, third) == (InstanceStatus.COMPLETED, InstanceStatus.COMPLETED)
    if engine.database.is_sqlite:  # which has no such limit
        assert second is InstanceStatus.COMPLETED
    else:
        assert second is InstanceStatus.FAILED
        assert engine.execute("SELECT code, status FROM incidents") == [("engine.rejected", "open")]


def test_an_index_entry_that_is_too_long_fails_its_own_instance_alone(engine: Engine) -> None:
    instance_ids = start_one_too_long_among_three(engine)

    engine.settle()

    assert_only_the_second_is_not_completed(engine, instance_ids)


def test_the_same_holds_while_a_process_has_just_died(engine: Engine) -> None:
    instance_ids = start_one_too_long_among_three(engine)
    with engine.database.reading() as tx:
        death = read_now(tx) - timedelta(seconds=30)  # before the instances: nobody is suspected

    engine.advancing = Advancing(engine.database, LIMITS.max_context_bytes, last_death=lambda: death)
    engine.settle()

    assert_only_the_second_is_not_completed(engine, instance_ids)
