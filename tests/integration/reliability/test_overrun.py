"""Attempts that overrun their time, in a runner: ended at once, tried again by policy, their late results refused."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from common import faults
from common.canonical import read
from common.lifecycle import InstanceStatus
from task_runner.registry import Options, make_handler
from task_runner.run import Runner
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

AT_ONCE = {"maxAttempts": 2, "interval": 0, "jitter": 0}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def claimed(engine: Engine, runner: Runner, number: int = 1) -> None:
    engine.advance()

    def is_claimed() -> bool:
        return runner.claim(until=0.0).counts["claimed"] == number

    wait_until(is_claimed, what="the task to be claimed")


def until(engine: Engine, expected: list[tuple[int, str | None]]) -> None:
    wait_until(lambda: engine.attempts() == expected, what=f"attempts to be {expected}")


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ({"timeout": "200ms"}, "task.timeout"),
        ({"timeouts": {"heartbeat": "200ms"}}, "task.heartbeat_timeout"),
    ],
)
def test_an_overrun_attempt_is_ended_at_once_and_its_late_result_refused(
    engine: Engine, make_runner: MakeRunner, gate: threading.Event, written: dict[str, Any], code: str
) -> None:
    told: list[bool] = []

    def work(_input: Any, context: Any) -> str:
        if context.attempt == 1:
            gate.wait(20)
            told.append(context.cancelled)
            return "late"
        return "in time"

    engine.handler("work", work)
    runner = make_runner(slots=4)
    instance_id = engine.start(one_task(retry=AT_ONCE, **written))
    claimed(engine, runner)
    until(engine, [(1, "timed_out")])
    assert runner.slots.free == 4
    [(started, ended, error)] = engine.execute("SELECT started_at, ended_at, error FROM attempts")
    assert read(error)["code"] == code
    if not isinstance(started, str):
        assert timedelta(milliseconds=200) <= ended - started < timedelta(seconds=3)

    claimed(engine, runner)
    until(engine, [(1, "timed_out"), (2, "succeeded")])
    engine.settle()
    gate.set()
    wait_until(lambda: engine.execute("SELECT count(*) FROM inbox") == [(1,)], what="the late result")
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert told == [True]
    assert engine.attempts() == [(1, "timed_out"), (2, "succeeded")], "the outcome stays what it was"
    types = engine.entry_types(instance_id)
    assert (types.count("task.succeeded"), types.count("task.late")) == (1, 1)


def test_an_end_by_time_counts_before_what_the_handler_returned_by_then_in_one_group_too(
    engine: Engine, make_runner: MakeRunner, gate: threading.Event
) -> None:
    """Both are stored together when the committer was busy; the result, stored by the shorter way, must not pass the time-out."""
    returned = threading.Event()

    def work(_input: Any, context: Any) -> str:
        while context.attempt == 1 and not context.cancelled:
            pass
        returned.set()
        return "late"

    engine.handler("work", work)
    engine.handler("quick", lambda _input: None)
    runner = make_runner()
    busy = threading.Event()

    def hold() -> None:
        busy.set()
        gate.wait(20)

    faults.arm("before_report", hold)
    engine.start(one_task("quick"))
    claimed(engine, runner)
    assert busy.wait(10)
    engine.start(one_task(retry=AT_ONCE, timeout="200ms"))
    claimed(engine, runner)
    assert returned.wait(10)
    wait_until(lambda: len(runner.reporting._ready) == 2, what="both ends to wait")
    gate.set()

    until(engine, [(1, "succeeded"), (1, "timed_out")])
    faults.disarm()


@ON_SQLITE
def test_heartbeats_keep_a_long_attempt_alive(engine: Engine, make_runner: MakeRunner) -> None:
    def work(_input: Any, context: Any) -> None:
        for _ in range(6):
            threading.Event().wait(0.1)
            context.heartbeat()

    engine.handler("work", work)
    runner = make_runner()
    engine.start(one_task(timeouts={"heartbeat": "400ms"}))
    claimed(engine, runner)
    until(engine, [(1, "succeeded")])
    engine.settle()


@ON_SQLITE
def test_the_error_of_an_overrun_attempt_is_judged_by_the_policy(
    engine: Engine, make_runner: MakeRunner, gate: threading.Event
) -> None:
    engine.handler("work", lambda _input: gate.wait(20))
    runner = make_runner()
    instance_id = engine.start(one_task(retry=AT_ONCE | {"doNotRetryOn": ["task.timeout"]}, timeout=100))
    claimed(engine, runner)
    until(engine, [(1, "timed_out")])
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert engine.execute("SELECT code FROM incidents") == [("task.timeout",)]
    gate.set()


@ON_SQLITE
def test_at_half_the_slots_the_runner_asks_to_be_replaced(
    engine: Engine, make_runner: MakeRunner, gate: threading.Event
) -> None:
    asked: list[Any] = []
    engine.handler("work", lambda _input: gate.wait(20))
    stored = "SELECT outcome FROM attempts WHERE outcome IS NOT NULL"
    runner = make_runner(
        slots=3,
        on_wearing_out=lambda: asked.append(engine.execute(stored)),
        on_worn_out=lambda: asked.append("asked"),
    )
    engine.start(one_task(retry={"maxAttempts": 1}, timeout=100))
    claimed(engine, runner)
    until(engine, [(1, "timed_out")])
    assert asked == []

    engine.start("one-work")
    claimed(engine, runner)
    wait_until(lambda: len(asked) == 2, what="the runner to ask")
    assert asked == [[("timed_out",)], "asked"], "it can stop taking tasks before it stores what wore it out"
    gate.set()
    until(engine, [(1, "timed_out")] * 2)
    engine.settle()


PRECEDENCE = [
    ({}, {}, {}, 3),
    ({}, {}, {"maxAttempts": 7}, 7),
    ({}, {"maxAttempts": 6}, {"maxAttempts": 7}, 6),
    ({}, {"interval": "2s"}, {"maxAttempts": 7}, 3),  # the first one given wins as a whole
    ({"maxAttempts": 5}, {"maxAttempts": 6}, {"maxAttempts": 7}, 5),
    ({"interval": "2s"}, {"maxAttempts": 6}, {"maxAttempts": 7}, 3),
]


@ON_SQLITE
@pytest.mark.parametrize(("task", "defaults", "handlers", "expected"), PRECEDENCE)
def test_the_first_policy_given_wins_from_task_over_defaults_to_handler(
    engine: Engine,
    make_runner: MakeRunner,
    task: dict[str, Any],
    defaults: dict[str, Any],
    handlers: dict[str, Any],
    expected: int,
) -> None:
    seen: list[int] = []

    def work(_input: Any, context: Any) -> None:
        seen.append(context.max_attempts)

    engine.registry.add(make_handler("work", work, options=Options(retry=handlers or None)))
    options: dict[str, Any] = {"retry": task} if task else {}
    document = one_task(**options)
    if defaults:
        document["defaults"] = {"retry": defaults}
    engine.start(document)
    runner = make_runner()
    claimed(engine, runner)
    until(engine, [(1, "succeeded")])

    assert seen == [expected]
    assert engine.execute("SELECT max_attempts FROM tasks") == [(expected,)]
    engine.settle()


@ON_SQLITE
@pytest.mark.parametrize(("task", "ended"), [({}, "timed_out"), ({"timeout": "20s"}, "succeeded")])
def test_a_handler_s_time_out_holds_where_the_task_names_none(
    engine: Engine, make_runner: MakeRunner, task: dict[str, Any], ended: str
) -> None:
    def work(_input: Any, context: Any) -> None:
        for _ in range(100):
            if context.cancelled:
                return
            threading.Event().wait(0.005)

    options = Options(timeout_ms=100, retry={"maxAttempts": 1})
    engine.registry.add(make_handler("work", work, options=options))
    runner = make_runner()
    engine.start(one_task(**task))
    claimed(engine, runner)
    until(engine, [(1, ended)])
    engine.settle()


def test_the_last_progress_of_an_attempt_is_stored_when_it_ends(
    engine: Engine, make_runner: MakeRunner
) -> None:
    seen: list[Any] = []

    def work(_input: Any, context: Any) -> None:
        seen.append(context.progress)
        context.heartbeat({"page": context.attempt})
        context.heartbeat()
        if context.attempt == 1:
            raise ValueError("half way")

    engine.handler("work", work)
    runner = make_runner()
    engine.start(one_task(retry=AT_ONCE))
    claimed(engine, runner)
    until(engine, [(1, "failed")])
    claimed(engine, runner)
    until(engine, [(1, "failed"), (2, "succeeded")])
    engine.settle()

    assert seen == [None, {"page": 1}]
    assert engine.execute("SELECT progress FROM tasks") == [('{"page":2}',)]
    stored = engine.execute("SELECT progress FROM attempts ORDER BY started_at")
    assert stored == [('{"page":1}',), ('{"page":2}',)]
