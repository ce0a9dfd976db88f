"""What KEDA asks PostgreSQL, of a real one: how long the oldest work waits that another worker would help."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.db import Database
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine

FILE = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "keda.yaml"
QUERIES = {
    one["metadata"]["name"].removeprefix("signalbox-"): one["spec"]["triggers"][0]["metadata"]["query"]
    for one in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))
}


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    database = Database.open(postgres_url)
    yield Engine.on(database)
    database.dispose()


def age(engine: Engine, duty: str) -> Any:
    [row] = engine.execute(QUERIES[duty])
    [seconds] = row
    return seconds


def test_nothing_waits_where_nothing_is_to_do(engine: Engine) -> None:
    assert {duty: age(engine, duty) for duty in QUERIES} == {"orchestrator": 0, "task-runner": 0}


def test_the_age_of_the_oldest_event_that_can_be_stepped(engine: Engine) -> None:
    engine.start(one_task())
    assert age(engine, "orchestrator") in (1, 2, 3)  # rounded up: something waits
    engine.start(one_task())
    engine.execute(
        "UPDATE inbox SET accepted_at = accepted_at - interval '1 minute' WHERE id = (SELECT min(id) FROM inbox)"
    )
    assert 60 <= age(engine, "orchestrator") <= 90

    engine.execute("UPDATE inbox SET parked = true")

    assert age(engine, "orchestrator") == 0


def test_the_age_of_the_oldest_task_that_a_free_slot_would_help(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    engine.start(one_task())
    engine.advance()
    engine.execute("UPDATE tasks SET run_at = run_at - interval '1 minute'")
    assert age(engine, "task-runner") == 0, "no handler of this installation executes it"
    engine.execute("INSERT INTO handlers (type, published_at) VALUES ('work', now())")
    assert 60 <= age(engine, "task-runner") <= 90

    for waits_otherwise in (
        "held = true",
        "run_at = now() + interval '1 hour'",
        "limit_key = 'key:a'",
        "breaker = 'work nowhere', breaker_since = now()",
    ):
        engine.execute("CREATE TABLE kept AS SELECT * FROM tasks")
        engine.execute(f"UPDATE tasks SET {waits_otherwise}")
        assert age(engine, "task-runner") == 0, waits_otherwise
        engine.execute(
            "UPDATE tasks SET held = kept.held, run_at = kept.run_at, limit_key = kept.limit_key,"
            " breaker = kept.breaker, breaker_since = kept.breaker_since FROM kept WHERE kept.id = tasks.id"
        )
        engine.execute("DROP TABLE kept")
    assert 60 <= age(engine, "task-runner") <= 90
    engine.execute("UPDATE tasks SET status = 'cancelled', finished_at = now()")
    assert age(engine, "task-runner") == 0
