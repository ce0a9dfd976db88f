"""Many runners at the items of one MAP, while the instance is cancelled, paused or resumed: nothing hangs, nothing is lost.

A transaction that fails by a deadlock is run again three times, so that nobody would see it; these tests look.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext

from common.errors import Conflict
from common.ids import WorkerId, new_id
from common.lifecycle import FINAL, InstanceStatus
from orchestrator.sweep import expire_due_leases, time_out_due_tasks
from task_runner.registry import Permanent
from tests.integration.engine.maps import join_of, mapping, statuses, the_map
from tests.support.engine import Engine

RUNNERS = 4


def runner_of(engine: Engine) -> Engine:
    """Another process's runner on the same database."""
    return replace(engine, worker=WorkerId(new_id()))


def work_until_idle(engine: Engine, *, group: int) -> int:
    """Claim, call and report groups until nothing is due; how many reports succeeded."""
    runner, done = runner_of(engine), 0
    while claims := runner.claim(group):
        random.shuffle(claims)
        done += runner.report(*[runner.call(claim) for claim in claims]).succeeded
    return done


def all_at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """Let them begin together; what each returns. Raises what one of them raises."""
    together = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        together.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(begin, work) for work in works]]


@pytest.fixture(autouse=True)
def no_deadlock(engine: Engine) -> Iterator[None]:
    """A deadlock is run again and so would pass unseen; there is to be none."""
    met: list[str] = []

    def note(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "40P01":
            met.append(str(context.statement))

    event.listen(engine.database.engine, "handle_error", note)
    yield
    assert met == []


@pytest.mark.parametrize("concurrency", [None, 20])
def test_every_item_is_counted_once(engine: Engine, concurrency: int | None) -> None:
    engine.handler("work", lambda input: input)
    instance_id = engine.start(mapping(concurrency=concurrency), input={"items": list(range(300))})
    engine.advance()
    works = [lambda: work_until_idle(engine, group=7) for _ in range(RUNNERS)]
    done = sum(all_at_once(works))
    engine.settle()  # who found nothing due a moment too early left the rest

    assert done <= 300
    assert join_of(engine) == (300, 0, True)
    assert engine.context(instance_id)["answer"]["results"] == list(range(300))
    assert engine.entry_types(instance_id).count("task.succeeded") == 1


@pytest.mark.parametrize("verb", ["cancel", "pause"])
@pytest.mark.parametrize("seed", range(3))
def test_a_command_meets_many_reports(engine: Engine, verb: str, seed: int) -> None:
    engine.handler("work", lambda input: input)
    random.seed(seed)
    ids = [engine.start(mapping(concurrency=9), input={"items": list(range(60))})]
    ids += [engine.start("mapping", input={"items": list(range(60))}) for _ in range(3)]
    engine.advance()

    def command() -> None:
        for id_ in ids:
            with suppress(Conflict):  # the runners were quicker, and it has ended
                engine.control(verb, id_)
            engine.advance()

    all_at_once([command, *[lambda: work_until_idle(engine, group=11) for _ in range(RUNNERS)]])
    for id_ in ids:
        if verb == "pause" and engine.status(id_) is InstanceStatus.PAUSED:
            engine.control("resume", id_)
    engine.settle()

    assert {engine.status(id_) for id_ in ids} <= set(FINAL)
    open_items = engine.execute("SELECT count(*) FROM tasks WHERE finished_at IS NULL")
    assert [tuple(row) for row in open_items] == [(0,)]


def test_failures_from_everywhere_end_a_map_once(engine: Engine) -> None:
    def fails(input: int) -> int:
        if input % 2:
            raise Permanent(f"{input} is odd")
        return input

    engine.handler("work", fails)
    instance_id = engine.start(mapping(), input={"items": list(range(100))})
    engine.advance()
    all_at_once([lambda: work_until_idle(engine, group=5) for _ in range(RUNNERS)])
    engine.settle()

    assert engine.context(instance_id)["error"]["code"] == "map.item_failed"
    assert engine.entry_types(instance_id).count("task.failed") == 1
    assert "pending" not in statuses(engine)


@pytest.mark.parametrize("join", ["any", {"quorum": 3}])
def test_what_is_left_over_is_cancelled(engine: Engine, join: Any) -> None:
    engine.handler("work", lambda input: input)
    instance_id = engine.start(mapping(join=join), input={"items": list(range(50))})
    engine.advance()
    claims = sorted(engine.claim(10), key=lambda claim: claim.key)
    engine.report(*[engine.call(claim) for claim in claims[:3]])
    engine.advance()

    found = statuses(engine)
    assert found.count("succeeded") == 3
    assert found.count("cancelled") == 47
    results = engine.context(instance_id)["answer"]["results"]
    assert sum(one is not None for one in results) == 3
    assert the_map(engine)["status"] == "succeeded"


def test_times_that_are_over_meet_reports(engine: Engine) -> None:
    engine.handler("work", lambda input: input)
    timed = {"type": "work", "input": "${item}", "timeouts": {"scheduleToClose": 300}}
    instance_id = engine.start(mapping(timed, onError="waitAll"), input={"items": list(range(120))})
    engine.advance()

    def sweep() -> None:
        for _ in range(20):
            expire_due_leases(engine.database)
            time_out_due_tasks(engine.database)

    all_at_once([sweep, sweep, *[lambda: work_until_idle(engine, group=6) for _ in range(RUNNERS)]])
    engine.settle()
    succeeded, failed, is_over = join_of(engine)
    assert (succeeded + failed, is_over) == (120, True)
    assert len(engine.context(instance_id)["answer"]["results"]) == 120
