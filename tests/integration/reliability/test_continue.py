"""Work that goes on in further attempts: each ends on record, the next goes on from where it stood, none is counted."""

from datetime import timedelta
from typing import Any

from common.lifecycle import InstanceStatus
from orchestrator.sweep import expire_due_leases
from task_runner.context import TaskContext
from task_runner.registry import Continue
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock


def in_turns(last: int, after: timedelta = timedelta(0)) -> Any:
    def work(_input: Any, context: TaskContext) -> Any:
        turn = (context.state or {"turn": 0})["turn"] + 1
        return {"turns": turn} if turn == last else Continue({"turn": turn}, after)

    return work


def outcomes(engine: Engine) -> list[tuple[int, str]]:
    rows = engine.execute("SELECT attempt, outcome FROM attempts ORDER BY started_at, attempt, token")
    return [(row[0], row[1]) for row in rows]


def test_a_handler_goes_on_from_what_it_said(engine: Engine) -> None:
    engine.handler("work", in_turns(3))
    instance_id = engine.start(one_task())

    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert [outcome for _, outcome in outcomes(engine)] == ["continued", "continued", "succeeded"]
    [(output, attempt)] = engine.execute("SELECT output, attempt FROM tasks")
    assert (output, attempt) == ('{"turns":3}', 1)


def test_it_goes_on_after_the_time_that_it_asked_for(engine: Engine, clock: ManualClock) -> None:
    engine.handler("work", in_turns(2, timedelta(minutes=5)))
    instance_id = engine.start(one_task())
    engine.settle()
    clock.advance(timedelta(minutes=5, microseconds=-1))
    engine.settle()
    assert [outcome for _, outcome in outcomes(engine)] == ["continued"]

    clock.advance(timedelta(microseconds=1))
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_failures_between_are_counted_anew_after_each_turn(engine: Engine) -> None:
    """Three attempts in a row may fail; a long poll may fail more often than that in its life."""
    failed: set[int] = set()

    def work(_input: Any, context: TaskContext) -> Any:
        turn = (context.state or {"turn": 0})["turn"]
        if turn not in failed:
            failed.add(turn)
            raise RuntimeError("not yet")
        return "done" if turn == 4 else Continue({"turn": turn + 1})

    engine.handler("work", work)
    instance_id = engine.start(one_task(retry={"maxAttempts": 2, "interval": 0, "jitter": 0}))

    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert [outcome for _, outcome in outcomes(engine)].count("failed") == 5


def test_a_lost_turn_is_taken_again_from_the_state_before_it(engine: Engine) -> None:
    seen: list[Any] = []

    def work(_input: Any, context: TaskContext) -> Any:
        seen.append(context.state)
        if len(seen) == 2:  # its worker dies: nobody reports, and its lease runs out
            engine.execute(
                "UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000' WHERE lease_token IS NOT NULL"
            )
            expire_due_leases(engine.database)
        return "done" if len(seen) == 4 else Continue({"turn": len(seen)})

    engine.handler("work", work)
    instance_id = engine.start(one_task())

    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert seen == [None, {"turn": 1}, {"turn": 1}, {"turn": 3}]
