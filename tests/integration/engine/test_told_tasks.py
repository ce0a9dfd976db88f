"""Tasks that are told with the call that hands them over: their runner calls what it was told, reads nothing, and calls nobody twice."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from common.ids import InstanceId, TaskId
from common.lifecycle import InstanceStatus
from common.queues.answers import Envelope
from common.store.leased import read_handed
from task_runner import handed, offering
from task_runner.registry import Options
from task_runner.run import Runner
from tests.integration.engine.documents import ONE_TASK, Document, one_task
from tests.support.engine import Engine
from tests.support.post import Post
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

ENVELOPE = Envelope(b"k" * 32)


@pytest.fixture
def post(engine: Engine) -> Post:
    return Post(engine, ENVELOPE)


@pytest.fixture
def called(engine: Engine) -> list[Any]:
    """The inputs that the handler of `work` was called with."""
    called: list[Any] = []
    engine.handler("work", called.append)
    return called


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[TaskId]]]:
    """The ids that runners have read rows of."""
    reads: list[list[TaskId]] = []

    def noted(tx: Any, worker: Any, ids: Any) -> Any:
        reads.append(list(ids))
        return read_handed(tx, worker, ids)

    monkeypatch.setattr(handed, "read_handed", noted)
    return reads


@pytest.fixture
def runner(engine: Engine, post: Post, make_runner: MakeRunner, called: list[Any]) -> Runner:
    """A runner that has found nothing to claim, and so has made its offer."""
    runner = make_runner(say=post.say, envelope=ENVELOPE)
    assert runner.claim(until=0.0).counts["claimed"] == 0
    return runner


def start(engine: Engine, document: Document = ONE_TASK) -> InstanceId:
    instance_id = engine.start(document)
    engine.advance()
    return instance_id


def is_over(engine: Engine, instance_id: InstanceId) -> bool:
    engine.advance()
    return engine.status(instance_id) is InstanceStatus.COMPLETED


def test_a_task_is_called_by_the_word_of_its_step(
    engine: Engine, post: Post, runner: Runner, called: list[Any], reads: list[list[TaskId]]
) -> None:
    instance_id = start(engine, one_task("work", input={"n": 7}))

    post.deliver(runner)

    wait_until(lambda: is_over(engine, instance_id), what="the instance to end")
    assert called == [{"n": 7}]
    assert reads == []
    [attempt] = engine.execute(
        "SELECT a.outcome, a.ended_at >= a.started_at, t.attempt FROM attempts a JOIN tasks t ON t.id = a.task_id"
    )
    assert tuple(attempt) == ("succeeded", 1, 1)


@pytest.mark.parametrize(
    "document",
    [
        ONE_TASK,
        one_task("work", input={"a": ["\u00fc", 1, None]}, retry={"maxAttempts": 5, "interval": "2s"}),
        one_task("work", priority=7, onLost="retry"),
        one_task("work", failureEvent="BROKEN", name="another"),
    ],
    ids=["invoked", "with a policy", "with options", "named"],
)
def test_what_is_told_is_what_would_be_read(
    engine: Engine,
    post: Post,
    runner: Runner,
    reads: list[list[TaskId]],
    monkeypatch: pytest.MonkeyPatch,
    document: Document,
) -> None:
    start(engine, document)
    seen: list[Any] = []
    monkeypatch.setattr(runner._handed, "_call_all", lambda claims, *_: seen.extend(claims) or [])
    [row] = engine.execute("SELECT id FROM tasks")
    with engine.database.reading() as tx:
        [read] = read_handed(tx, engine.worker, [TaskId(str(row[0]))]).claims

    post.deliver(runner)

    assert reads == [], "the runner has not read it"
    assert seen == [read]


@pytest.mark.parametrize(
    "document",
    [
        one_task("work", timeouts={"startToClose": "30s"}),
        one_task("work", idempotencyKey="once-a-day"),
        one_task("work", input={"long": "x" * 5_000}),
    ],
    ids=["bounded in time", "with a key", "long"],
)
def test_what_needs_more_than_a_call_is_read(
    engine: Engine, post: Post, runner: Runner, reads: list[list[TaskId]], document: Document
) -> None:
    instance_id = start(engine, document)

    post.deliver(runner)

    wait_until(lambda: is_over(engine, instance_id), what="the instance to end")
    assert len(reads) == 1


def test_the_word_of_a_step_is_not_taken_long_after_the_offer_that_it_used(
    engine: Engine, post: Post, runner: Runner, reads: list[list[TaskId]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(engine)
    monkeypatch.setattr(offering, "RECENT_SECONDS", 0.0)

    post.deliver(runner)

    wait_until(lambda: runner.held == 0, what="the task to end")
    assert len(reads) == 1


def test_a_task_that_was_cancelled_before_such_a_call_is_not_called(
    engine: Engine, post: Post, runner: Runner, called: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = start(engine)
    engine.send(instance_id, "STOP")
    engine.advance()
    monkeypatch.setattr(offering, "RECENT_SECONDS", 0.0)

    post.deliver(runner)

    assert runner.held == 0
    assert called == []


def test_a_call_that_is_played_again_calls_nobody_again(
    engine: Engine, post: Post, runner: Runner, called: list[Any], reads: list[list[TaskId]]
) -> None:
    instance_id = start(engine)
    hints = list(post.handed)
    post.deliver(runner)
    wait_until(lambda: is_over(engine, instance_id), what="the instance to end")

    runner.take_up(hints)

    assert len(reads) == 1, "it asks what is leased to it"
    assert runner.held == 0
    assert len(called) == 1


def test_a_call_that_comes_after_its_task_was_found_and_is_over_calls_nobody_again(
    engine: Engine, post: Post, runner: Runner, called: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = start(engine)
    monkeypatch.setattr(offering, "LOOK_AFTER", 0.0)
    runner.claim(until=0.0)
    wait_until(lambda: is_over(engine, instance_id), what="the instance to end")
    assert len(called) == 1

    post.deliver(runner)

    assert runner.held == 0
    assert len(called) == 1


def test_a_call_while_the_task_is_held_calls_nobody_again(
    engine: Engine, post: Post, make_runner: MakeRunner
) -> None:
    go_on, called = threading.Event(), []

    def wait(_input: Any) -> None:
        called.append(1)
        go_on.wait(20)

    engine.handler("work", wait, Options())
    runner = make_runner(say=post.say, envelope=ENVELOPE)
    runner.claim(until=0.0)
    instance_id = start(engine)
    hints = list(post.handed)
    post.deliver(runner)
    wait_until(lambda: called == [1], what="the handler to be called")

    runner.take_up(hints)
    go_on.set()

    wait_until(lambda: is_over(engine, instance_id), what="the instance to end")
    assert called == [1]


def test_a_runner_with_another_secret_reads(
    engine: Engine, post: Post, make_runner: MakeRunner, called: list[Any], reads: list[list[TaskId]]
) -> None:
    runner = make_runner(say=post.say, envelope=Envelope(b"l" * 32))
    runner.claim(until=0.0)
    instance_id = start(engine)

    post.deliver(runner)

    wait_until(lambda: is_over(engine, instance_id), what="the instance to end")
    assert len(called) == 1
    assert len(reads) == 1
