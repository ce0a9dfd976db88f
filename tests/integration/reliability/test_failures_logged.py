"""What fails is in the log: each attempt as its runner stores it, and each incident as its step is committed; never what was said."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from task_runner.isolate import Surroundings
from task_runner.registry import REGISTRY, Options
from tests.integration.engine.documents import COUNTER, ON_SQLITE, one_task
from tests.integration.engine.test_poison import refuse_history_where
from tests.support import isolated_handlers
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

AT_ONCE = {"maxAttempts": 2, "interval": 0, "jitter": 0}
HIDDEN = "4111-1111"


def spill(given: Any) -> None:
    raise ValueError(f"no such card: {given}")


def lines(logged: list[Any], event: str) -> list[dict[str, Any]]:
    return [dict(line) for line in logged if line["event"] == event]


def begun(engine: Engine, kind: str = "work", **task: Any) -> str:
    instance_id = str(engine.start(one_task(kind, input="${input}", **task), input=HIDDEN))
    engine.advance()
    return instance_id


@pytest.mark.parametrize("is_light", [False, True], ids=["in a slot", "in the claim"])
def test_each_attempt_that_fails_is_a_line(engine: Engine, make_runner: MakeRunner, is_light: bool) -> None:
    engine.handler("work", spill, Options(light=is_light))
    instance_id = begun(engine, retry=AT_ONCE)
    runner = make_runner()

    with capture_logs() as logged:
        for attempt in (1, 2):
            wait_until(lambda: runner.claim(until=0.0).counts["claimed"] == 1, what="the task to be due")
            wait_until(lambda n=attempt: len(lines(logged, "attempt.failed")) == n, what="its line")

    [(task_id,)] = engine.execute("SELECT id FROM tasks")
    first, second = lines(logged, "attempt.failed")
    assert first.pop("again_at") is not None
    assert first == {
        "event": "attempt.failed",
        "log_level": "warning",
        "tenant_id": engine.tenant_id,
        "instance_id": instance_id,
        "task_id": str(task_id),
        "type": "work",
        "attempt": 1,
        "code": "ValueError",
        "again": True,
    }
    assert (second["attempt"], second["again"], second["again_at"]) == (2, False, None)
    assert HIDDEN not in str(logged)


@ON_SQLITE
@pytest.mark.timeout(120)
def test_so_is_one_of_an_isolated_handler(engine: Engine, make_runner: MakeRunner) -> None:
    for handler in REGISTRY.all():
        if handler.function.__module__ == isolated_handlers.__name__:
            engine.registry.add(handler)
    begun(engine, "isolated.exit", retry={"maxAttempts": 1})
    runner = make_runner(surroundings=Surroundings("json"))

    with capture_logs() as logged:
        runner.claim(until=0.0)
        wait_until(lambda: lines(logged, "attempt.failed"), what="its line", seconds=30)

    [line] = lines(logged, "attempt.failed")
    assert (line["type"], line["code"], line["again"]) == ("isolated.exit", "task.crashed", False)


@ON_SQLITE
def test_a_success_is_none(engine: Engine, make_runner: MakeRunner) -> None:
    engine.handler("work", lambda _input: None)
    begun(engine)
    with capture_logs() as logged:
        make_runner().claim(until=0.0)
        wait_until(lambda: engine.attempts() == [(1, "succeeded")], what="the end")
        engine.settle()
    assert lines(logged, "attempt.failed") == lines(logged, "incident.opened") == []


def test_an_incident_is_a_line_of_the_step_that_opened_it(engine: Engine) -> None:
    engine.handler("work", spill)
    instance_id = begun(engine, retry={"maxAttempts": 1})
    engine.work()

    with capture_logs() as logged:
        engine.advance()

    [(task_id,)] = engine.execute("SELECT id FROM tasks")
    assert lines(logged, "incident.opened") == [
        {
            "event": "incident.opened",
            "log_level": "warning",
            "tenant_id": engine.tenant_id,
            "instance_id": instance_id,
            "definition": "one-work",
            "code": "ValueError",
            "task_id": str(task_id),
        }
    ]
    assert HIDDEN not in str(logged)


def test_a_step_that_the_database_refused_tells_the_incident_that_is_stored(engine: Engine) -> None:
    refuse_history_where(engine, "actor = 'poison'")
    engine.start(COUNTER)
    engine.execute("UPDATE inbox SET source = 'poison'")

    with capture_logs() as logged:
        engine.advance()

    assert [line["code"] for line in lines(logged, "incident.opened")] == ["engine.rejected"]
