"""POLL: asked again at its interval until its condition holds, counted durably, ended by its limits and never early."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from common.canonical import read
from common.commands.doctor import examine
from common.lifecycle import InstanceStatus
from common.polls import KEPT_ATTEMPTS, Counted
from common.store import attempts, listing
from common.store.listing import TaskFilter, TaskRecord
from orchestrator.sweep import expire_due_leases
from task_runner.context import TaskContext
from task_runner.registry import Continue, Permanent
from tests.integration.engine.documents import ON_SQLITE, Document, one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

COMPLETED, FAILED = InstanceStatus.COMPLETED, InstanceStatus.FAILED
EXACT = {"maxAttempts": 3, "interval": "1s", "jitter": 0}


def polling(
    until: str = "output.ready", *, task: Any = None, invoke: bool = False, **members: Any
) -> Document:
    """Asks `check` every 5 s until it is ready; the output becomes that of the instance."""
    asked = {"type": "check", "input": {"job": 7}, **(task or {})}
    given = {"task": asked, "until": until, "interval": "5s", **members}
    document = one_task("POLL", input=given)
    if invoke:
        document["states"]["working"] = {
            "invoke": {"src": "POLL", "input": given, "onDone": "done"}, "on": {"LEAVE": "left"},
        }  # fmt: skip
        document["states"]["left"] = {"on": {"STOP": "done"}}
    return document


def ready_at(number: int, seen: list[Any] | None = None) -> Callable[[Any], Any]:
    """Says "ready" the `number`th time."""
    asked: list[Any] = [] if seen is None else seen

    def check(input: Any) -> Any:
        asked.append(input)
        return {"ready": len(asked) >= number, "n": len(asked)}

    return check


def advance(engine: Engine, clock: ManualClock, **by: float) -> None:
    clock.advance(timedelta(**by))
    engine.settle()


def only_task(engine: Engine) -> TaskRecord:
    with engine.database.reading() as tx:
        [task] = listing.list_tasks(tx, engine.tenant_id, TaskFilter(type="POLL"), before=None, limit=9).items
    return task


def counted(engine: Engine) -> Counted:
    return Counted.read(only_task(engine).polls)


def outcomes(engine: Engine) -> list[str | None]:
    return [attempt.outcome for attempt in only_task(engine).attempts]


def error(engine: Engine) -> dict[str, Any]:
    return dict(read(only_task(engine).error or "{}"))


def test_three_checks_each_after_the_interval_and_never_early(engine: Engine, clock: ManualClock) -> None:
    seen: list[Any] = []
    engine.handler("check", ready_at(3, seen))
    instance_id = engine.start(polling())
    engine.settle()
    assert seen == []

    for number in (1, 2, 3):
        advance(engine, clock, seconds=5, microseconds=-1)
        assert len(seen) == number - 1
        began = clock.advance(timedelta(microseconds=1))
        engine.settle()
        assert len(seen) == number
        assert (counted(engine).polls, counted(engine).last_polled_at) == (number, began)

    assert engine.status(instance_id) is COMPLETED
    assert seen == [{"job": 7}] * 3
    task = only_task(engine)
    assert (task.type, task.executed_as, task.name, task.attempt) == ("POLL", "check", "job", 1)
    assert read(task.output or "") == {"n": 3, "ready": True}
    assert outcomes(engine) == ["continued", "continued", "succeeded"]
    [entry] = [one for one in engine.entries(instance_id) if one["type"] == "task.succeeded"]
    assert entry["polls"] == 3
    assert examine(engine.database)["problems"] == []


def test_the_first_check_may_be_made_at_once(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(2))
    instance_id = engine.start(polling(checkFirst=True))
    engine.settle()
    assert counted(engine).polls == 1

    advance(engine, clock, seconds=5)
    assert engine.status(instance_id) is COMPLETED


def test_the_event_and_the_history_say_poll(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(1))
    document = polling()
    document["states"]["working"]["on"]["DONE"] = {
        "target": "done",
        "actions": [{"type": "assign", "path": "seen", "value": "${event.task.type}"}],
    }
    instance_id = engine.start(document)
    engine.settle()
    assert [task["type"] for task in engine.snapshot(instance_id)["tasks"].values()] == ["POLL"]
    advance(engine, clock, seconds=5)

    assert engine.context(instance_id)["seen"] == "POLL"
    [created] = [one for one in engine.entries(instance_id) if one["type"] == "task.created"]
    assert created["taskType"] == "POLL"


@ON_SQLITE
def test_only_a_runner_that_has_the_handler_claims_it(engine: Engine, clock: ManualClock) -> None:
    engine.handler("other", lambda _input: None)
    engine.start(polling(checkFirst=True))
    engine.settle()
    assert engine.claim() == []

    engine.handler("check", ready_at(1))
    engine.settle()
    assert outcomes(engine) == ["succeeded"]


@ON_SQLITE
def test_a_registered_function_is_asked_by_its_name(engine: Engine, clock: ManualClock) -> None:
    engine.handler("orders.status", ready_at(1))
    instance_id = engine.start(polling(checkFirst=True, task={"type": "SYSTEM", "name": "orders.status"}))
    engine.settle()
    assert engine.status(instance_id) is COMPLETED
    assert (only_task(engine).name, only_task(engine).executed_as) == ("job", "orders.status")


def test_it_gives_up_after_so_many_checks_and_begins_anew_by_hand(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(5))
    instance_id = engine.start(polling(maxAttempts=2))
    for _ in range(3):
        advance(engine, clock, seconds=5)

    assert engine.status(instance_id) is FAILED
    assert outcomes(engine) == ["continued", "failed"]
    assert error(engine) == {
        "code": "poll.exhausted",
        "data": {"output": {"n": 2, "ready": False}, "polls": 2},
        "message": 'poll "job" exceeded maxAttempts: "until" was not true after 2 checks',
    }

    engine.control("retry", instance_id)
    engine.settle()
    assert counted(engine).polls == 3
    advance(engine, clock, seconds=5)
    assert (engine.status(instance_id), counted(engine).polls) == (FAILED, 4)
    engine.control("retry", instance_id)
    engine.settle()
    assert (engine.status(instance_id), counted(engine).polls) == (COMPLETED, 5)


def test_it_times_out_from_its_creation_on_and_never_early(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(100))
    instance_id = engine.start(polling(timeout="12s"))
    engine.settle()
    for _ in range(2):
        advance(engine, clock, seconds=5)
    advance(engine, clock, seconds=2, microseconds=-1)
    assert (engine.status(instance_id), counted(engine).polls) == (InstanceStatus.RUNNING, 2)

    advance(engine, clock, microseconds=1)
    assert engine.status(instance_id) is FAILED
    assert (error(engine)["code"], error(engine)["data"]["polls"]) == ("poll.timed_out", 3)
    assert 'poll "job" timed out' in error(engine)["message"]

    engine.control("retry", instance_id)
    engine.settle()
    advance(engine, clock, seconds=11)
    assert engine.status(instance_id) is InstanceStatus.RUNNING
    advance(engine, clock, seconds=1)
    assert engine.status(instance_id) is FAILED


@ON_SQLITE
def test_a_runner_that_was_away_makes_one_more_check_before_it_gives_up(
    engine: Engine, clock: ManualClock
) -> None:
    engine.handler("check", ready_at(1))
    instance_id = engine.start(polling(timeout="12s"))
    engine.advance()
    advance(engine, clock, hours=1)
    assert engine.status(instance_id) is COMPLETED


@ON_SQLITE
def test_a_delayed_poll_has_its_time_from_then_on(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(2))
    document = polling(timeout="12s")
    document["states"]["working"]["entry"][0]["task"]["delay"] = "1h"
    instance_id = engine.start(document)
    engine.settle()
    advance(engine, clock, hours=1, seconds=4)
    assert counted(engine).polls == 0
    advance(engine, clock, seconds=1)
    advance(engine, clock, seconds=5)
    assert engine.status(instance_id) is COMPLETED


def test_counters_survive_a_lost_runner(engine: Engine, clock: ManualClock) -> None:
    asked: list[int] = []

    def check(_input: Any, context: TaskContext) -> Any:
        asked.append(context.attempt)
        return {"ready": len(asked) == 3}

    engine.handler("check", check)
    instance_id = engine.start(polling())
    engine.settle()
    for _ in range(2):
        advance(engine, clock, seconds=5)
    clock.advance(timedelta(seconds=5))
    assert len(engine.claim()) == 1  # its runner dies
    clock.advance(timedelta(seconds=8, microseconds=1))
    assert expire_due_leases(engine.database) == 1
    assert counted(engine).polls == 2
    engine.settle()

    assert (engine.status(instance_id), counted(engine).polls) == (COMPLETED, 3)
    assert outcomes(engine) == ["continued", "continued", "lost", "succeeded"]


def test_an_inner_failure_follows_the_policy_and_is_no_check(engine: Engine, clock: ManualClock) -> None:
    asked: list[int] = []

    def check(_input: Any) -> Any:
        asked.append(len(asked))
        if len(asked) in (1, 2, 4, 5):
            raise RuntimeError("not now")
        return {"ready": len(asked) >= 6}

    engine.handler("check", check)
    instance_id = engine.start(polling(task={"retry": EXACT}))
    engine.settle()
    for _ in range(20):
        advance(engine, clock, seconds=1)
    assert engine.status(instance_id) is COMPLETED
    assert counted(engine).polls == 2
    assert outcomes(engine) == ["failed", "failed", "continued", "failed", "failed", "succeeded"]


def test_an_inner_failure_for_good_is_that_of_the_poll(engine: Engine, clock: ManualClock) -> None:
    def check(_input: Any) -> Any:
        raise Permanent("no such job", code="job.unknown")

    engine.handler("check", check)
    instance_id = engine.start(polling(checkFirst=True))
    engine.settle()
    assert (engine.status(instance_id), error(engine)["code"]) == (FAILED, "job.unknown")


def test_work_that_goes_on_is_no_check_and_keeps_its_state(engine: Engine, clock: ManualClock) -> None:
    seen: list[Any] = []

    def check(_input: Any, context: TaskContext) -> Any:
        seen.append(context.state)
        page = (context.state or {"page": 0})["page"] + 1
        if page < 3:
            return Continue({"page": page}, timedelta(seconds=1))
        return {"ready": len(seen) == 6}

    engine.handler("check", check)
    instance_id = engine.start(polling())
    engine.settle()
    for _ in range(14):
        advance(engine, clock, seconds=1)
    assert engine.status(instance_id) is COMPLETED
    assert seen == [None, {"page": 1}, {"page": 2}] * 2
    assert counted(engine).polls == 2


def test_a_check_that_never_ends_runs_out_of_the_polls_time(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", lambda _input: Continue(after=timedelta(seconds=4)))
    instance_id = engine.start(polling(timeout="12s"))
    for _ in range(4):
        advance(engine, clock, seconds=4)
    assert (engine.status(instance_id), error(engine)["code"]) == (FAILED, "poll.timed_out")


@ON_SQLITE
@pytest.mark.parametrize("until", ["output.missing", "output.n", "output.ready + 1 == 2"])
def test_a_condition_without_an_answer_is_a_failure_for_good(
    engine: Engine, clock: ManualClock, until: str
) -> None:
    engine.handler("check", ready_at(9))
    instance_id = engine.start(polling(until, checkFirst=True))
    engine.settle()
    assert (engine.status(instance_id), error(engine)["code"]) == (FAILED, "poll.until")
    assert error(engine)["data"] == {"output": {"n": 1, "ready": False}, "until": until}
    assert outcomes(engine) == ["failed"]


@ON_SQLITE
def test_a_condition_cannot_cost_the_runner_dear(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", lambda _input: {"list": list(range(2_000))})
    until = "output.list.all(a, output.list.all(b, a + b >= 0))"
    instance_id = engine.start(polling(until, checkFirst=True))
    engine.settle()
    assert (engine.status(instance_id), error(engine)["code"]) == (FAILED, "poll.until")
    assert "operations" in error(engine)["message"]


def test_leaving_its_state_ends_it(engine: Engine, clock: ManualClock) -> None:
    seen: list[Any] = []
    engine.handler("check", ready_at(9, seen))
    instance_id = engine.start(polling(invoke=True))
    engine.settle()
    advance(engine, clock, seconds=5)
    engine.send(instance_id, "LEAVE")
    engine.settle()
    assert only_task(engine).status == "cancelled"
    advance(engine, clock, minutes=5)
    assert len(seen) == 1
    assert examine(engine.database)["problems"] == []


@ON_SQLITE
def test_a_long_poll_keeps_its_newest_attempts(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(151))
    instance_id = engine.start(polling())
    engine.settle()
    for _ in range(150):
        advance(engine, clock, seconds=5)
    assert counted(engine).polls == 150
    assert KEPT_ATTEMPTS <= len(outcomes(engine)) < KEPT_ATTEMPTS + 20

    advance(engine, clock, seconds=5)
    assert (engine.status(instance_id), counted(engine).polls) == (COMPLETED, 151)
    newest = only_task(engine).attempts[-1]
    assert (newest.outcome, newest.started_at) == ("succeeded", clock.now())


def test_the_oldest_attempts_are_dropped_task_by_task(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(99))
    engine.start(polling())
    engine.start(polling())
    engine.settle()
    for _ in range(4):
        advance(engine, clock, seconds=5)
    clock.advance(timedelta(seconds=5))
    running = engine.claim()
    before = engine.execute("SELECT task_id, token FROM attempts ORDER BY task_id, started_at")

    with engine.database.transaction() as tx:
        attempts.drop_old_attempts(tx, [running[0].id], kept=2)

    left = engine.execute("SELECT task_id, token FROM attempts ORDER BY task_id, started_at")
    mine = [row for row in before if row[0] == running[0].id]
    assert len(mine) == 5
    assert set(before) - set(left) == set(mine[:3])


@ON_SQLITE
def test_lists_know_it_by_what_was_asked_for(engine: Engine, clock: ManualClock) -> None:
    engine.handler("check", ready_at(9))
    engine.start(polling())
    engine.start(one_task("check"))
    engine.advance()
    with engine.database.reading() as tx:
        for type in ("POLL", "check"):
            found = listing.list_tasks(tx, engine.tenant_id, TaskFilter(type=type), before=None, limit=9)
            assert [task.type for task in found.items] == [type]
