"""Limits that definitions caused go when no task asks for them any more, and never while one does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from common.commands.limits import declare
from common.commands.outcome import Outcome
from common.db import Database
from common.db.now import read_now
from common.db.tables import Source
from common.lifecycle import InstanceStatus
from common.retention import Keeping
from common.store import limits
from common.store.claims import TaskClaim
from common.store.limits import Figures, LimitKey, Rate
from common.task_error import TaskError
from orchestrator.retention import LIMITS_EVERY, Sweeper, sweep_limits
from task_runner.call import ended
from tests.integration.engine.documents import one_task
from tests.integration.engine.test_limits import THREE, finish, set_limit, start, stored
from tests.integration.engine.test_maps_races import all_at_once, runner_of
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

BURSTS, BURST = 10, 6
AT_ITS_END = {"id": "at-its-end", "initial": "done", "states": {"done": {"type": "final"}}}
RATE = {"key": "mail", "rate": {"count": 2, "per": "1m"}}


def failed(claim: TaskClaim) -> Outcome:
    return ended(claim, error=TaskError("broken", "it is broken"))


def swept(engine: Engine, **more: Any) -> int:
    return sweep_limits(engine.database, rest=lambda _seconds: False, **more)


def test_a_limit_goes_with_the_last_task_that_asks_for_it(engine: Engine) -> None:
    start(engine, 2, limit=THREE)
    first, second = engine.claim()
    assert swept(engine) == 0
    finish(engine, first)
    assert swept(engine) == 0

    finish(engine, second)

    assert swept(engine) == 1
    assert stored(engine) == {}
    start(engine, 5, limit=THREE)
    assert len(engine.claim()) == 3


def test_an_operator_s_limits_stay(engine: Engine) -> None:
    set_limit(engine, "type:work", running=3)
    set_limit(engine, "key:crm", running=3)

    assert swept(engine) == 0
    assert stored(engine).keys() == {"type:work", "key:crm"}


def test_a_rate_goes_with_a_full_bucket_only(engine: Engine, clock: ManualClock) -> None:
    """Or who waits for its deletion would have its burst again."""
    start(engine, 1, limit=RATE)
    finish(engine, *engine.claim())
    clock.advance(timedelta(seconds=29))
    assert swept(engine) == 0

    clock.advance(timedelta(seconds=1))

    assert swept(engine) == 1


def test_a_limit_stays_for_the_tasks_of_the_paused_and_the_frozen(engine: Engine) -> None:
    [paused] = start(engine, 1, limit=THREE)
    engine.control("pause", paused)
    engine.advance()

    assert swept(engine) == 0


def test_a_task_that_runs_again_finds_its_limit_again(engine: Engine) -> None:
    ids = start(engine, 5, retry=1, limit={"key": "crm", "maxRunning": 2})
    for _ in range(3):
        engine.report(*[failed(claim) for claim in engine.claim()])
    engine.advance()
    assert [engine.status(one) for one in ids] == [InstanceStatus.FAILED] * 5
    assert swept(engine) == 1

    for one in ids:
        engine.control("retry", one)
    engine.advance()

    assert stored(engine) == {"key:crm": ("definition", Figures(2))}
    assert len(engine.claim()) == 2


def test_a_task_that_runs_again_does_not_set_back_what_a_newer_one_says(engine: Engine) -> None:
    [old] = start(engine, 1, retry=1, limit={"key": "crm", "maxRunning": 2})
    engine.report(*[failed(claim) for claim in engine.claim()])
    engine.advance()
    start(engine, 1, "newer", limit={"key": "crm", "maxRunning": 7})

    engine.control("retry", old)
    engine.advance()

    assert stored(engine) == {"key:crm": ("definition", Figures(7))}


def test_it_goes_through_all_of_them_a_batch_at_a_time(engine: Engine) -> None:
    start(engine, 1, limit=THREE)
    with engine.database.transaction() as tx:
        for number in range(7):
            limits.put(
                tx, LimitKey(engine.tenant_id, f"key:{number}"), Figures(1, Rate(1, 1000, 1)),
                source=Source.DEFINITION, updated_by="test", now=read_now(tx),
            )  # fmt: skip

    assert swept(engine, batch=2) == 7
    assert stored(engine).keys() == {"key:crm"}


def test_a_sweeper_sweeps_them_by_itself(engine: Engine, database: Database) -> None:
    start(engine, 1, limit=THREE)
    finish(engine, *engine.claim())
    sweeper = Sweeper(database, Keeping(), look_seconds=0.2 / LIMITS_EVERY)
    sweeper.start()
    try:
        wait_until(lambda: stored(engine) == {}, what="the limit to be swept")
    finally:
        sweeper.end(wait=5)


def test_they_are_swept_while_instances_fall_due_all_the_time(engine: Engine, database: Database) -> None:
    """Limits waited for a pass that deletes no instance, which never came: each customer's stayed for ever."""
    start(engine, 1, limit=THREE)
    finish(engine, *engine.claim())
    engine.settle()
    sweeper = Sweeper(database, Keeping(completed=timedelta(microseconds=1)), look_seconds=0.2 / LIMITS_EVERY)
    sweeper._ending = _EndingOthers(engine)
    sweeper.start()
    try:
        wait_until(lambda: stored(engine) == {}, what="the limit to be swept")
    finally:
        sweeper.end(wait=5)
    assert engine.execute("SELECT count(*) FROM tombstones")[0][0] > 1, "instances were swept all the time"


class _EndingOthers(threading.Event):
    """While somebody waits for this, another instance ends."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._engine.start(AT_ITS_END)
            self._engine.settle()
        return super().wait(timeout)


# -- races ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_creates_a_task_while_its_limit_is_swept_writes_it_anew(engine: Engine) -> None:
    """The creator waits behind the sweeper's lock, and finds the row gone."""
    start(engine, 1, limit=THREE)
    finish(engine, *engine.claim())
    name = LimitKey(engine.tenant_id, "key:crm")
    wanted = {name: (Figures(3), "test")}

    with ThreadPoolExecutor(1) as pool:
        with ExitStack() as sweeping:
            tx = sweeping.enter_context(engine.database.transaction())
            assert limits.delete_unused(tx, [name]) == 1
            created = pool.submit(
                engine.database.run, lambda tx: declare(tx, wanted, again={}, now=read_now(tx))
            )
            wait_until(
                lambda: engine.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"),
                what="the creator to wait",
            )
        created.result(10)

    assert stored(engine) == {"key:crm": ("definition", Figures(3))}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_limit_that_a_creator_holds_is_passed_over(engine: Engine) -> None:
    start(engine, 1, limit=THREE)
    finish(engine, *engine.claim())
    name = LimitKey(engine.tenant_id, "key:crm")

    with engine.database.transaction() as tx:
        limits.hold(tx, [name])
        assert swept(engine) == 0

    assert swept(engine) == 1


def test_8_claimers_keep_to_a_limit_of_3_while_it_is_swept(engine: Engine) -> None:
    """Tasks come a few at a time, so that the last one goes and the first one comes again and again beside the sweeper."""
    turn, over = threading.Lock(), threading.Event()
    running, most, done, gone = 0, 0, 0, 0

    def has_done(number: int) -> bool:
        return done == number

    def work(_input: Any, _context: Any) -> None:
        nonlocal running, most
        with turn:
            running += 1
            most = max(most, running)
        over.wait(0.02)
        with turn:
            running -= 1

    engine.handler("work", work)
    key = engine.apply(one_task(limit=THREE))

    def claimer() -> None:
        nonlocal done
        runner = runner_of(engine)
        while not over.is_set():
            # A place is given back by its report, so the attempt has ended for the limit only then.
            for claim in runner.claim(1):
                runner.report(runner.call(claim))
                with turn:
                    done += 1

    def creator() -> None:
        created = 0
        try:
            for _ in range(BURSTS):
                for _ in range(BURST):
                    engine.start(key)
                engine.advance()
                created += BURST
                wait_until(partial(has_done, created), what="what was created to be done", seconds=60)
                wait_until(lambda: not stored(engine), what="the limit to be swept", seconds=60)
        finally:
            over.set()

    def sweeper() -> None:
        nonlocal gone
        while not over.is_set():
            gone += swept(engine)

    works: list[Callable[[], Any]] = [claimer] * 8 + [creator, sweeper]
    all_at_once(works)

    assert done == BURSTS * BURST
    assert 1 < most <= 3
    assert gone >= BURSTS
