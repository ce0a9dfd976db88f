"""Tasks that wait for a slot of the runner they were leased to: only while calls are short, never for long, and uncounted if given back."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from common import courtesy
from common.lifecycle import InstanceStatus
from common.queues.offers import name_of
from task_runner import handed, line, shares
from task_runner.line import LEAST_CALLS
from task_runner.run import Runner
from tests.integration.engine.documents import ONE_TASK, one_task
from tests.support.engine import Engine
from tests.support.post import Post
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

SLOTS = 2
MANY = 10


@pytest.fixture
def post(engine: Engine) -> Post:
    return Post(engine)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What handlers wait for; opened at the end, so that none is left waiting."""
    gate = threading.Event()
    yield gate
    gate.set()


class Work:
    """A handler that returns at once until it is told to wait, and remembers its calls."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.is_slow = False
        self.calls = 0

    def __call__(self, _input: Any) -> None:
        self.calls += 1
        if self.is_slow:
            self.gate.wait(20)


@pytest.fixture
def work(engine: Engine, gate: threading.Event) -> Work:
    work = Work(gate)
    engine.handler("work", work)
    return work


@pytest.fixture
def quick(make_runner: MakeRunner, post: Post, engine: Engine, work: Work) -> Runner:
    """A runner that has made a few calls, each of them short, and has offered anew since."""
    return warm(engine, make_runner(slots=SLOTS, say=post.say), post)


def warm(engine: Engine, runner: Runner, post: Post) -> Runner:
    runner.claim(until=0.0)
    for _ in range(LEAST_CALLS):
        engine.start(ONE_TASK)
        engine.advance()
        post.deliver(runner)
        wait_until(lambda: runner.held == 0, what="a task to end")
    engine.advance()
    renew(runner)
    return runner


def renew(runner: Runner) -> None:
    """Have it offer what it would offer now."""
    runner._handed._offering._told_at = 0.0001
    runner.claim(until=0.0)


def start_many(engine: Engine, document: dict[str, Any] = ONE_TASK) -> None:
    key = engine.apply(document)
    for _ in range(MANY):
        engine.start(key)
    engine.advance()


def get_stuck(engine: Engine, post: Post, runner: Runner, work: Work) -> None:
    """Fill its slots with calls that do not end, and the line with what was leased to it beside them."""
    work.is_slow = True
    start_many(engine)
    post.deliver(runner)
    wait_until(lambda: work.calls == LEAST_CALLS + SLOTS, what="the slots to be taken")


def open_tasks(engine: Engine) -> list[tuple[Any, ...]]:
    found = engine.execute(
        "SELECT status, attempt, lost FROM tasks WHERE status IN ('pending', 'running') ORDER BY status"
    )
    return [tuple(row) for row in found]


def test_quick_calls_make_a_line_and_all_of_it_is_called(
    engine: Engine, post: Post, quick: Runner, work: Work
) -> None:
    assert post.offers[0].credit == SLOTS
    assert post.offers[-1].credit > MANY

    start_many(engine)
    assert open_tasks(engine) == [("running", 1, 0)] * MANY, "none is left to be claimed"
    post.deliver(quick)

    wait_until(lambda: quick.held == 0, what="all of the line to end")
    assert work.calls == LEAST_CALLS + MANY
    engine.advance()
    assert engine.execute("SELECT count(*) FROM instances WHERE status <> 'completed'")[0][0] == 0


def test_what_waits_to_be_claimed_comes_into_the_line_at_once(
    engine: Engine, post: Post, quick: Runner, work: Work
) -> None:
    engine.advancing.offers.forget(name_of(engine.worker))
    start_many(engine)
    assert open_tasks(engine) == [("pending", 0, 0)] * MANY

    assert quick.claim(until=0.0).counts["claimed"] == MANY

    wait_until(lambda: quick.held == 0, what="all of the line to end")
    assert work.calls == LEAST_CALLS + MANY
    engine.advance()
    renew(quick)
    start_many(engine)
    assert open_tasks(engine) == [("running", 1, 0)] * MANY, "what comes next is handed over again"
    post.deliver(quick)
    wait_until(lambda: quick.held == 0, what="all of the line to end")


def test_what_must_not_be_done_twice_waits_in_no_line(engine: Engine, quick: Runner, work: Work) -> None:
    """It would fail with a process that has never called it."""
    work.is_slow = True
    start_many(engine, one_task("work", onLost="fail"))
    assert open_tasks(engine) == [("pending", 0, 0)] * MANY, "it is not handed over either"

    quick.claim(until=0.0)

    wait_until(lambda: work.calls == LEAST_CALLS + SLOTS, what="the slots to be taken")
    given_back = [("pending", 0, 0)] * (MANY - SLOTS)
    wait_until(
        lambda: open_tasks(engine) == given_back + [("running", 1, 0)] * SLOTS,
        what="the others to be given back",
    )
    assert quick.executor.line.length == 0


def test_there_is_no_line_while_all_slots_are_stuck(
    engine: Engine, post: Post, quick: Runner, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_stuck(engine, post, quick, work)
    assert quick.claiming.line_length > 0

    monkeypatch.setattr(line, "PATIENCE", 0.0)

    assert quick.claiming.line_length == 0


def test_what_waits_behind_slow_calls_is_given_back_uncounted_and_the_line_is_closed(
    engine: Engine, post: Post, quick: Runner, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_stuck(engine, post, quick, work)
    quick.claim(until=0.0)
    assert open_tasks(engine) == [("running", 1, 0)] * MANY, "they have not waited long"

    monkeypatch.setattr(handed, "PATIENCE", 0.0)
    quick.claim(until=0.0)

    given_back = [("pending", 0, 0)] * (MANY - SLOTS)
    wait_until(
        lambda: open_tasks(engine) == given_back + [("running", 1, 0)] * SLOTS,
        what="the line to be given back",
    )
    assert len(engine.claim_unlimited()) == MANY - SLOTS, "for others to claim"
    assert quick.executor.line.length == 0
    assert work.calls == LEAST_CALLS + SLOTS


def test_whoever_takes_up_more_than_its_slots_looks_for_who_waits_in_time(
    engine: Engine, post: Post, make_runner: MakeRunner, work: Work
) -> None:
    rings: list[float] = []
    quick = warm(engine, make_runner(slots=SLOTS, say=post.say, ring_in=rings.append), post)
    work.is_slow = True
    assert rings == []

    start_many(engine)
    post.deliver(quick)

    assert rings == [handed.PATIENCE]


def test_a_drain_gives_the_line_back_before_it_waits(
    engine: Engine, post: Post, quick: Runner, work: Work, gate: threading.Event
) -> None:
    get_stuck(engine, post, quick, work)
    threading.Timer(0.2, gate.set).start()

    assert quick.drain(10) == MANY - SLOTS

    assert open_tasks(engine) == [("pending", 0, 0)] * (MANY - SLOTS)
    assert work.calls == LEAST_CALLS + SLOTS


def test_the_time_of_an_attempt_counts_from_its_call(
    engine: Engine, post: Post, quick: Runner, work: Work, gate: threading.Event
) -> None:
    work.is_slow = True
    start_many(engine)
    bounded = one_task("work", timeouts={"startToClose": "PT0.3S"})
    instance_id = engine.start(bounded)
    engine.advance()
    post.deliver(quick)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + 0.5, what="more than its time to go by in the line")
    work.is_slow = False
    gate.set()

    wait_until(lambda: quick.held == 0, what="all of the line to end")
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_what_is_cancelled_in_the_line_is_not_called(
    engine: Engine, post: Post, quick: Runner, work: Work, gate: threading.Event
) -> None:
    get_stuck(engine, post, quick, work)
    live = [row[0] for row in engine.execute("SELECT id FROM instances WHERE status = 'running'")]
    for instance_id in live:
        engine.control("cancel", str(instance_id))
    engine.advance()

    quick.beat()

    wait_until(lambda: quick.held == SLOTS, what="the line to be empty")
    gate.set()
    wait_until(lambda: quick.held == 0, what="the others to end")
    assert work.calls == LEAST_CALLS + SLOTS


def test_there_is_no_line_after_an_unsaid_death(
    engine: Engine, post: Post, make_runner: MakeRunner, work: Work
) -> None:
    died: list[int] = []
    runner = warm(engine, make_runner(slots=SLOTS, say=post.say, is_wary=lambda: bool(died)), post)
    assert post.offers[-1].credit > MANY

    died.append(1)
    renew(runner)

    assert post.offers[-1].credit == SLOTS


@pytest.mark.usefixtures("work")
def test_there_is_no_line_before_somebody_quiet(
    engine: Engine, post: Post, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was done of late fades within seconds; here it is all of this moment, however slow the machine.
    now = time.monotonic()
    for module in (courtesy, shares):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    for name in ("FLOOD", "STILL_FLOOD"):
        monkeypatch.setattr(courtesy, name, 1.5)
    quick = warm(engine, make_runner(slots=SLOTS, say=post.say), post)
    Engine.on(engine.database, "other").start(ONE_TASK)
    engine.advance()
    quick.claim(until=0.0)
    post.deliver(quick)
    wait_until(lambda: quick.held == 0, what="the other's task to end")

    renew(quick)

    assert post.offers[-1].credit == SLOTS - 1, "the last slot is for who comes next"
