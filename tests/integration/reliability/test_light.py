"""Light handlers: called inside the claim, on record like any other, and never counted twice."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from common import faults
from common.lifecycle import InstanceStatus
from task_runner import claiming, light
from task_runner.registry import Continue, Options, make_handler
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

COMPLETED, FAILED = InstanceStatus.COMPLETED, InstanceStatus.FAILED
AT_ONCE = {"maxAttempts": 2, "interval": 0, "jitter": 0}


def lightly(engine: Engine, work: Callable[..., Any], **options: Any) -> None:
    engine.registry.add(make_handler("work", work, options=Options(light=True, **options)))


def begun(engine: Engine, **task: Any) -> str:
    instance_id = engine.start(one_task(**task))
    engine.advance()
    return instance_id


def test_a_light_handler_is_called_in_the_claim(engine: Engine, make_runner: MakeRunner) -> None:
    threads: list[str] = []
    lightly(engine, lambda _input: threads.append(threading.current_thread().name))
    instance_id = begun(engine)
    runner = make_runner()

    assert runner.claim(until=0.0).counts["claimed"] == 1

    assert engine.attempts() == [(1, "succeeded")], "before anything else could happen"
    assert (runner.held, threads) == (0, [threading.current_thread().name])
    engine.settle()
    assert engine.status(instance_id) is COMPLETED


def test_a_claim_that_finds_none_leases_at_once_until_one_comes(
    engine: Engine, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most light handlers are called by steps: claims of the others are not to cost more because there are some."""
    lightly(engine, lambda _input: None)
    engine.handler("other", lambda _input: None)
    runner = make_runner(slots=8)
    looks: list[str] = []
    for name in ("lock_due", "claim_due"):
        real = getattr(claiming, name)
        monkeypatch.setattr(
            claiming,
            name,
            lambda *args, real=real, name=name, **more: (looks.append(name), real(*args, **more))[1],
        )

    def claims(kind: str) -> str:
        looks.clear()
        engine.start(one_task(kind))
        engine.advance()
        assert runner.claim(until=0.0).counts["claimed"] == 1
        return looks[0]

    assert claims("other") == "lock_due", "it is not known yet"
    assert claims("other") == "claim_due"
    assert claims("work") == "claim_due", "leased, and called in a slot"
    assert claims("work") == "lock_due", "there are some"
    engine.settle()
    wait_until(lambda: [one[1] for one in engine.attempts()] == ["succeeded"] * 4, what="all to end")


def test_what_it_raises_is_its_attempt_s_failure(engine: Engine, make_runner: MakeRunner) -> None:
    def work(_input: Any, context: Any) -> None:
        context.heartbeat({"attempt": context.attempt})
        raise SystemExit("no")

    lightly(engine, work, retry=AT_ONCE)
    instance_id = begun(engine)
    runner = make_runner()
    for _ in range(2):
        runner.claim(until=0.0)
    engine.settle()

    assert engine.attempts() == [(1, "failed"), (2, "failed")]
    assert engine.execute("SELECT progress FROM tasks") == [('{"attempt":2}',)]
    assert engine.status(instance_id) is FAILED


def test_a_claim_that_does_not_commit_counts_nothing(engine: Engine, make_runner: MakeRunner) -> None:
    """What a death between the call and the commit leaves behind."""
    called: list[int] = []
    lightly(engine, lambda _input: called.append(1))
    instance_id = begun(engine)

    def die() -> None:
        raise faults.FaultInjected

    faults.arm("before_outcome_commit", die)
    with pytest.raises(faults.FaultInjected):
        make_runner().claim(until=0.0)
    assert engine.attempts() == []
    assert engine.execute("SELECT status, attempt FROM tasks") == [("pending", 0)]

    faults.disarm()
    make_runner().claim(until=0.0)
    engine.settle()
    assert (engine.attempts(), len(called)) == ([(1, "succeeded")], 2)
    assert engine.entry_types(instance_id).count("task.succeeded") == 1


@ON_SQLITE
@pytest.mark.parametrize("reason", ["wary", "bounded"])
def test_it_is_run_as_an_ordinary_one_where_that_is_safer(
    engine: Engine, make_runner: MakeRunner, reason: str
) -> None:
    threads: list[str] = []
    lightly(engine, lambda _input: threads.append(threading.current_thread().name))
    instance_id = begun(engine, **({"timeout": "5s"} if reason == "bounded" else {}))
    runner = make_runner(is_wary=lambda: reason == "wary")

    runner.claim(until=0.0)

    wait_until(lambda: engine.attempts() == [(1, "succeeded")], what="the attempt to end")
    assert threads == ["slot"]
    engine.settle()
    assert engine.status(instance_id) is COMPLETED


@ON_SQLITE
def test_what_does_not_fit_into_the_budget_goes_to_the_slots(
    engine: Engine, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_runner.claiming.BUDGET_SECONDS", -1.0)
    lightly(engine, lambda _input: "done")
    begun(engine)
    make_runner().claim(until=0.0)
    wait_until(lambda: engine.attempts() == [(1, "succeeded")], what="the attempt to end")
    engine.settle()


@ON_SQLITE
def test_one_refused_result_does_not_hold_up_the_others(
    engine: Engine, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightly(engine, lambda _input: "done")
    for _ in range(3):
        begun(engine)
    runner = make_runner()
    refusals = [ValueError("refused")]

    def refuse() -> None:
        if refusals:
            raise refusals.pop()

    faults.arm("before_outcome_commit", refuse)
    assert runner.claim(until=0.0).counts["claimed"] == 3
    wait_until(lambda: engine.attempts() == [(1, "succeeded")] * 3, what="all to be reported")
    assert runner.claiming.ordinary_until > 0
    engine.settle()


@pytest.mark.parametrize(("seconds", "calls"), [(0.2, 1), (0.02, light.BREACHES)])
def test_who_breaks_the_promise_is_without_the_privilege_for_a_while(
    seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "WITHOUT_SECONDS", 0.2)
    handler = make_handler("work", lambda _input: None, options=Options(light=True))
    other = make_handler("other", lambda _input: None)
    handlers = light.LightHandlers([handler, other])
    assert (handlers.has(handler), handlers.has(other)) == (True, False)

    for _ in range(calls - 1):
        handlers.note("work", seconds)
    assert handlers.has(handler)
    handlers.note("work", 0.001)
    for _ in range(calls - 1):
        handlers.note("work", seconds)
    assert handlers.has(handler), "a kept promise makes up for those before"

    handlers.note("work", seconds)
    assert not handlers.has(handler)
    assert handlers.names == frozenset()
    wait_until(lambda: handlers.has(handler), what="the privilege to come back")


def test_a_light_handler_goes_on_in_another_claim(engine: Engine, make_runner: MakeRunner) -> None:
    lightly(
        engine, lambda _input, context: "done" if context.state == 2 else Continue((context.state or 0) + 1)
    )
    instance_id = begun(engine)
    runner = make_runner()

    for _ in range(3):
        runner.claim(until=0.0)
    engine.advance()

    assert engine.status(instance_id) is COMPLETED
    assert [outcome for _, outcome in engine.attempts()] == ["continued", "continued", "succeeded"]
