"""Isolated handlers: whatever one does to its process, only its own attempt is harmed."""

import os
import signal
import time
from typing import Any

import pytest

from common.canonical import read
from task_runner import executor
from task_runner.isolate import Surroundings
from task_runner.registry import REGISTRY
from task_runner.run import Runner
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support import isolated_handlers
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

pytestmark = [ON_SQLITE, pytest.mark.timeout(120)]
HANDLERS = isolated_handlers.__name__


@pytest.fixture
def runner(engine: Engine, make_runner: MakeRunner) -> Runner:
    for handler in REGISTRY.all():
        if handler.function.__module__ == HANDLERS:
            engine.registry.add(handler)
    return make_runner(slots=2, surroundings=Surroundings("json"))


def ended(engine: Engine, runner: Runner, kind: str, **task: Any) -> tuple[str, Any]:
    """Run a task to the end of its attempt: (outcome, its output or its error)."""
    begin(engine, runner, kind, **task)
    return end(engine)


def begin(engine: Engine, runner: Runner, kind: str, **task: Any) -> None:
    engine.start(one_task(kind, **task))
    engine.advance()
    assert runner.claim(until=0.0).counts["claimed"] == 1


def end(engine: Engine) -> tuple[str, Any]:
    def is_over() -> bool:
        return engine.execute("SELECT count(*) FROM attempts WHERE ended_at IS NULL") == [(0,)]

    wait_until(is_over, what="the attempt to end", seconds=30)
    [(outcome, error, output)] = engine.execute(
        "SELECT a.outcome, a.error, t.output FROM attempts a JOIN tasks t ON t.id = a.task_id "
        "ORDER BY a.started_at DESC LIMIT 1"
    )
    engine.advance()
    return outcome, read(error or output)


def test_a_child_is_kept_and_used_again(engine: Engine, runner: Runner) -> None:
    first = ended(engine, runner, "isolated.pid")
    assert first[0] == "succeeded"
    assert first[1] != os.getpid()
    assert ended(engine, runner, "isolated.pid") == first

    os.kill(first[1], signal.SIGKILL)  # while it is idle: nobody's failure
    again = ended(engine, runner, "isolated.pid")
    assert again[0] == "succeeded"
    assert again[1] != first[1]


def test_a_child_that_dies_before_it_has_begun_a_call_is_nobodys_failure(
    engine: Engine, runner: Runner
) -> None:
    _, pid = ended(engine, runner, "isolated.pid")
    os.kill(pid, signal.SIGSTOP)  # its socket still takes the call
    begin(engine, runner, "isolated.pid")
    wait_until(lambda: runner.executor.room == 1, what="the call to have its slot", seconds=10)
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    again = end(engine)
    assert again[0] == "succeeded"
    assert again[1] != pid
    assert engine.execute("SELECT max(attempt) FROM attempts") == [(1,)]


@pytest.mark.parametrize(
    ("kind", "data"),
    [("isolated.segfault", {"signal": "SIGSEGV"}), ("isolated.exit", {"exitCode": 3})],
)
def test_a_crash_is_the_outcome_of_its_attempt(
    engine: Engine, runner: Runner, kind: str, data: dict[str, Any]
) -> None:
    outcome, error = ended(engine, runner, kind)
    assert (outcome, error["code"], error["data"]) == ("failed", "task.crashed", data)
    assert ended(engine, runner, "isolated.pid")[0] == "succeeded"


def test_a_leak_ends_at_its_limit_and_takes_nobody_with_it(engine: Engine, runner: Runner) -> None:
    outcome, error = ended(engine, runner, "isolated.leak")
    assert (outcome, error["code"]) == ("failed", "task.out_of_memory")
    assert error["data"] == {"limitBytes": 256 * 2**20}
    assert ended(engine, runner, "isolated.pid")[0] == "succeeded"


def test_a_spinning_child_is_killed_when_its_time_is_over(engine: Engine, runner: Runner) -> None:
    outcome, error = ended(engine, runner, "isolated.spin", timeout="1500ms")
    assert (outcome, error["code"]) == ("timed_out", "task.timeout")
    assert (runner.slots.zombies, runner.slots.free) == (0, 2)
    assert ended(engine, runner, "isolated.pid")[0] == "succeeded"


def test_heartbeats_progress_and_cancelling_reach_through(
    engine: Engine, runner: Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(engine, runner, "isolated.talk", input=True)
    wait_until(
        lambda: any(held.context.last_progress for held in runner.reporting.held), what="progress", seconds=30
    )
    runner.beat()
    assert engine.execute("SELECT progress FROM tasks") == [('{"page":7}',)]

    [held] = runner.reporting.held
    held.context.cancel()
    outcome, output = end(engine)
    assert outcome == "succeeded"
    assert (output["cancelled"], output["key"]) == (True, held.claim.id)
    out, err = capfd.readouterr()
    assert "isolated says hello" in out
    assert '"event":"isolated.logs"' in err.replace(" ", "")


def test_what_an_isolated_handler_raises_is_told_with_its_trace(engine: Engine, runner: Runner) -> None:
    outcome, error = ended(engine, runner, "isolated.rude", retry={"maxAttempts": 1})
    assert (outcome, error["code"], error["message"]) == ("failed", "ValueError", "no")
    assert "isolated_handlers.py" in error["trace"]


def test_a_process_that_nobody_waits_for_is_killed_after_a_grace(
    engine: Engine, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(engine, runner, "isolated.spin")
    [held] = runner.reporting.held
    wait_until(lambda: held.ticket is not None and held.ticket.has_begun, what="its call to begin")
    # Ends the instance, and with it the task.
    engine.send(str(engine.execute("SELECT id FROM instances")[0][0]), "DONE")
    engine.advance()
    assert engine.execute("SELECT status FROM tasks") == [("cancelled",)]
    monkeypatch.setattr(executor, "CANCEL_GRACE", 0.1)

    def is_free() -> bool:
        runner.beat()
        return runner.slots.free == 2

    runner.beat()
    assert runner.slots.free == 1, "it is told first"
    wait_until(is_free, what="the slot to be free again", seconds=20)
    wait_until(lambda: runner.held == 0, what="the report", seconds=20)
    engine.settle()
