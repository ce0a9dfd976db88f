"""The runner between its handlers and the database: what ended is stored, what did not is given back, nothing hangs."""

import threading
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from common import faults
from common.db.tables import AttemptOutcome
from common.lifecycle import InstanceStatus, TaskStatus
from orchestrator.sweep import expire_due_leases
from task_runner.run import Runner
from tests.integration.engine.documents import ONE_TASK, one_task
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until


def claim_all(runner: Runner) -> int:
    return runner.claim(until=0.0).counts["claimed"]


def status_of_task(engine: Engine) -> str:
    [row] = engine.execute("SELECT status FROM tasks")
    return str(row[0])


def attempts(engine: Engine) -> list[str | None]:
    return [row[0] for row in engine.execute("SELECT outcome FROM attempts ORDER BY started_at")]


def expire_now(engine: Engine) -> None:
    engine.execute(
        "UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000' WHERE lease_token IS NOT NULL"
    )
    expire_due_leases(engine.database)


def test_a_drain_waits_for_the_commit_of_what_has_ended(engine: Engine, make_runner: MakeRunner) -> None:
    """A result whose commit was on its way used to be given back, and its work was done again."""
    engine.handler("work", lambda _input: "result")
    instance_id = engine.start(ONE_TASK)
    engine.advance()
    taken, may_commit = threading.Event(), threading.Event()

    def hold() -> None:
        taken.set()
        may_commit.wait(10)

    faults.arm("before_report", hold)
    runner = make_runner()
    claim_all(runner)
    assert taken.wait(10)
    threading.Timer(0.3, may_commit.set).start()

    released = runner.drain(1)

    assert released == 0
    assert attempts(engine) == [AttemptOutcome.SUCCEEDED]
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_a_drain_gives_back_what_still_runs_and_rings_for_it(engine: Engine, make_runner: MakeRunner) -> None:
    go_on = threading.Event()
    engine.handler("work", lambda _input: go_on.wait(10))
    engine.start(ONE_TASK)
    engine.advance()
    runner = make_runner()
    claim_all(runner)
    rung: list[str] = []
    engine.database.listeners.append(rung.extend)

    released = runner.drain(0.1)
    go_on.set()

    assert released == 1
    assert rung == ["workflow-task-runner"]
    assert engine.execute("SELECT status, attempt, lost FROM tasks") == [("pending", 0, 0)]
    assert attempts(engine) == [AttemptOutcome.RELEASED]


def test_a_result_whose_task_was_claimed_anew_by_the_same_process_is_recorded_as_late(
    engine: Engine, make_runner: MakeRunner
) -> None:
    started: list[int] = []
    go_on = [threading.Event(), threading.Event()]

    def work(_input: Any) -> int:
        turn = len(started)
        started.append(turn)
        go_on[turn].wait(10)
        return turn

    engine.handler("work", work)
    instance_id = engine.start(ONE_TASK)
    engine.advance()
    runner = make_runner()
    claim_all(runner)
    wait_until(lambda: len(started) == 1, what="the first attempt to begin")
    expire_now(engine)
    claim_all(runner)
    wait_until(lambda: len(started) == 2, what="the second attempt to begin")

    go_on[0].set()
    wait_until(
        lambda: attempts(engine) == [AttemptOutcome.LATE, None], what="the stale result to be recorded"
    )
    go_on[1].set()
    wait_until(lambda: status_of_task(engine) == TaskStatus.SUCCEEDED, what="the second result to count")

    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.entry_types(instance_id).count("task.late") == 1
    assert engine.execute("SELECT output FROM tasks") == [("1",)]


REFUSE_BAD = {
    "sqlite": """CREATE TRIGGER refuse_bad BEFORE UPDATE ON tasks WHEN NEW.output = '"bad"'
        BEGIN SELECT RAISE(ABORT, 'bad is refused'); END""",
    "postgresql": """ALTER TABLE tasks ADD CONSTRAINT refuse_bad CHECK (output <> '"bad"')""",
}

ECHO = {
    "id": "echo",
    "initial": "working",
    "states": {
        "working": {
            "invoke": {"src": "work", "input": {"value": "${input}"}, "onDone": "done", "onError": "refused"}
        },
        "done": {"type": "final"},
        "refused": {"type": "final"},
    },
}


def start_one_refused_among_three(engine: Engine) -> list[str]:
    """Three tasks are due, and the database will take what two of their handlers return."""
    engine.execute(REFUSE_BAD[engine.database.engine.dialect.name])
    engine.handler("work", lambda input: input["value"])
    key = engine.apply(ECHO)
    instance_ids = [engine.start(key, input=value) for value in ("good", "bad", "fine")]
    engine.advance()
    return [str(one) for one in instance_ids]


def none_is_open(engine: Engine) -> bool:
    return not engine.execute("SELECT id FROM tasks WHERE status IN ('pending', 'running')")


def configurations(engine: Engine, instance_ids: list[str]) -> list[list[str]]:
    return [engine.snapshot(one)["configuration"] for one in instance_ids]


def test_an_output_that_the_database_refuses_fails_its_own_task_alone(
    engine: Engine, make_runner: MakeRunner
) -> None:
    instance_ids = start_one_refused_among_three(engine)

    claim_all(make_runner())

    wait_until(lambda: none_is_open(engine), what="every task to end")
    engine.settle()
    assert configurations(engine, instance_ids) == [["done"], ["refused"], ["done"]]


def test_database_trouble_while_a_refused_group_is_split_does_not_end_the_committer(
    engine: Engine, make_runner: MakeRunner
) -> None:
    """The reporting thread used to end on it: results stayed unstored for ever, under leases beaten for ever."""
    instance_ids = start_one_refused_among_three(engine)
    passes: list[int] = []

    def lose_the_connection_once() -> None:
        """At the commit of a part of the split group, the first that gets as far as that."""
        passes.append(1)
        if len(passes) == 1:
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    faults.arm("before_outcome_commit", lose_the_connection_once)
    claim_all(make_runner())

    wait_until(lambda: none_is_open(engine), what="every task to end")
    engine.settle()
    assert configurations(engine, instance_ids) == [["done"], ["refused"], ["done"]]


def test_an_outcome_that_cannot_be_stored_at_all_is_left_to_its_lease_and_hinders_no_other(
    engine: Engine, make_runner: MakeRunner
) -> None:
    instance_ids = start_one_refused_among_three(engine)
    refuse_failure_too = {
        "sqlite": """CREATE TRIGGER refuse_failed BEFORE UPDATE ON tasks WHEN NEW.error LIKE '%output.rejected%'
            BEGIN SELECT RAISE(ABORT, 'failed is refused'); END""",
        "postgresql": """ALTER TABLE tasks ADD CONSTRAINT refuse_failed CHECK (error NOT LIKE '%output.rejected%')""",
    }
    statement = refuse_failure_too[engine.database.engine.dialect.name]
    engine.execute(statement.replace("%", "%%") if not engine.database.is_sqlite else statement)
    runner = make_runner()
    claim_all(runner)

    def only_one_is_open() -> bool:
        return len(engine.execute("SELECT id FROM tasks WHERE status IN ('pending', 'running')")) == 1

    wait_until(only_one_is_open, what="the two good results to be stored")
    wait_until(lambda: runner.held == 0, what="the runner to let go of the third")
    for _ in range(3):
        expire_now(engine)
        claim_all(runner)
        wait_until(lambda: runner.held == 0, what="the runner to let go of it again")
    engine.settle()
    assert configurations(engine, instance_ids) == [["done"], ["refused"], ["done"]]
    assert "task.lost" in str(engine.execute("SELECT error FROM tasks WHERE status = 'failed'"))


def test_who_stores_a_failure_is_told_when_the_next_attempt_is_due(
    engine: Engine, make_runner: MakeRunner
) -> None:
    def fail(_input: Any) -> None:
        raise ValueError("not yet")

    engine.handler("work", fail)
    engine.start(one_task("work", retry={"maxAttempts": 2, "interval": "30s", "jitter": 0}))
    engine.advance()
    told: list[float] = []
    runner = make_runner(on_due=told.append)

    claim_all(runner)

    wait_until(lambda: bool(told), what="the failure to be stored")
    assert told == [pytest.approx(30.0, abs=1.0)]
