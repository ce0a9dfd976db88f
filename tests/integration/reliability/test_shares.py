"""Long tasks of one tenant do not take every slot while others may need one, and take them all where nobody else does."""

import threading
from collections.abc import Callable, Iterator

import pytest

from task_runner.run import Runner
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

SLOTS, SHARE = 8, 7


@pytest.fixture
def go_on() -> threading.Event:
    return threading.Event()


@pytest.fixture
def rung() -> threading.Event:
    """Set whenever the runner says that it has room."""
    return threading.Event()


@pytest.fixture
def runner(
    engine: Engine, make_runner: MakeRunner, go_on: threading.Event, rung: threading.Event
) -> Iterator[Runner]:
    """A runner whose handlers last until `go_on` is set, except those of the quiet tenant."""
    engine.handler("work", lambda input: input == "short" or go_on.wait(30))
    yield make_runner(slots=SLOTS, on_room=rung.set)
    go_on.set()


def start_tasks(engine: Engine, tenant: str, count: int, input: str) -> Engine:
    of = Engine.on(engine.database, tenant)
    key = of.apply(one_task(input=input))
    for _ in range(count):
        of.start(key)
    of.advance()
    return of


def claim(runner: Runner) -> int:
    return runner.claim(until=float("inf")).counts["claimed"]


def idle(runner: Runner) -> Callable[[], bool]:
    return lambda: runner.held == 0


def test_a_tenant_alone_takes_every_slot(engine: Engine, runner: Runner) -> None:
    start_tasks(engine, "flooding", 20, "long")

    assert claim(runner) == SLOTS


def test_while_several_have_tasks_none_takes_the_last_slots(
    engine: Engine, runner: Runner, go_on: threading.Event
) -> None:
    start_tasks(engine, "quiet", 1, "short")
    start_tasks(engine, "flooding", 1, "short")
    assert claim(runner) == 2
    wait_until(idle(runner), what="both have ended")
    start_tasks(engine, "flooding", 20, "long")

    assert claim(runner) == SHARE
    assert claim(runner) == 0, "the last slot is kept for others"
    for _ in range(3):
        start_tasks(engine, "quiet", 1, "short")
        assert claim(runner) == 1, "and they find it free, however long the others take"
        wait_until(lambda: runner.held == SHARE, what="the quiet tenant's task has ended")
    go_on.set()
    wait_until(lambda: claim(runner) == 0 and runner.held == 0, what="the flood has ended")


def test_who_has_his_share_goes_on_when_one_of_his_ends(
    engine: Engine, runner: Runner, go_on: threading.Event, rung: threading.Event
) -> None:
    """No slot gets free that was not free before, so the commit of what ended must ring."""
    start_tasks(engine, "quiet", 1, "short")
    start_tasks(engine, "flooding", 1, "short")
    claim(runner)
    wait_until(idle(runner), what="both have ended")
    start_tasks(engine, "flooding", 20, "long")
    claim(runner)
    rung.clear()

    go_on.set()

    assert rung.wait(10)
    wait_until(lambda: claim(runner) == 0 and runner.held == 0, what="the flood has ended")
