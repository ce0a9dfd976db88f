"""Timers: never early, once, oldest first, and harmless once their state was left."""

from dataclasses import replace
from datetime import timedelta

from common.lifecycle import InstanceStatus
from common.store.timers import BATCH
from orchestrator.timers import fire_due_timers
from tests.integration.engine.documents import COUNTER, ON_SQLITE, after, assign, on_go
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

MICROSECOND = timedelta(microseconds=1)


def configuration(engine: Engine, instance_id: str) -> list[str]:
    return list(engine.snapshot(instance_id)["configuration"])


def timers(engine: Engine) -> list[str]:
    return [row[0] for row in engine.execute("SELECT status FROM timers ORDER BY due_at, id")]


def test_a_timer_never_fires_early_and_then_once(clock: ManualClock, engine: Engine) -> None:
    instance_id = engine.start(after("10m"))
    engine.settle()

    clock.advance(timedelta(minutes=10) - MICROSECOND)
    engine.settle()
    assert configuration(engine, instance_id) == ["early"]
    assert engine.status(instance_id) is InstanceStatus.WAITING

    clock.advance(MICROSECOND)
    engine.settle()
    assert configuration(engine, instance_id) == ["late"]

    clock.advance(timedelta(days=1))
    assert fire_due_timers(engine.database) == 0
    assert engine.entry_types(instance_id).count("timer.fired") == 2, "told by the inbox and by the step"
    assert timers(engine) == ["fired"]


def test_who_arms_timers_is_told_when_the_first_of_them_is_due(clock: ManualClock, engine: Engine) -> None:
    """So that it looks then, and not at its next look, which may be too late by a second."""
    told: list[float] = []
    engine.advancing = replace(engine.advancing, on_due=told.append)
    for delay in ("10s", "250ms", "1m"):
        engine.start(after(delay))
    engine.start(COUNTER)

    engine.advance()

    assert min(told) == 0.25, "each batch tells of its first, and on a slow machine they are two"


def test_a_timer_is_cancelled_when_its_state_is_left(clock: ManualClock, engine: Engine) -> None:
    instance_id = engine.start(after("10m"))
    engine.settle()
    engine.send(instance_id, "LEAVE")
    engine.settle()

    clock.advance(timedelta(hours=1))
    engine.settle()

    assert timers(engine) == ["cancelled"]
    assert configuration(engine, instance_id) == ["left"]


@ON_SQLITE
def test_a_timer_that_fired_before_its_state_was_left_is_consumed_as_ignored(
    clock: ManualClock, engine: Engine
) -> None:
    instance_id = engine.start(after("10m"))
    engine.settle()
    engine.send(instance_id, "LEAVE")
    clock.advance(timedelta(hours=1))
    fire_due_timers(engine.database)

    engine.settle()

    assert configuration(engine, instance_id) == ["left"]
    assert engine.entries(instance_id)[-1]["reason"] == "obligation_closed"


@ON_SQLITE
def test_a_timer_that_fired_first_is_taken_first(clock: ManualClock, engine: Engine) -> None:
    instance_id = engine.start(after("10m"))
    engine.settle()
    clock.advance(timedelta(hours=1))
    fire_due_timers(engine.database)
    engine.send(instance_id, "LEAVE")

    engine.settle()

    assert configuration(engine, instance_id) == ["late"]


@ON_SQLITE
def test_a_delayed_raise_comes_when_it_is_due_and_can_be_cancelled(
    clock: ManualClock, engine: Engine
) -> None:
    raise_ = {"type": "raise", "event": {"type": "RANG", "n": 7}, "delay": "5m", "id": "alarm"}
    document = on_go(
        raise_,
        RANG={"actions": [assign("n", "${event.n}")]},
        QUIET={"actions": [{"type": "cancel", "id": "alarm"}]},
    )
    heard, quiet = engine.start(document), engine.start("on-go")
    engine.settle()
    for instance_id in (heard, quiet):
        engine.send(instance_id, "GO")
    engine.settle()
    engine.send(quiet, "QUIET")
    engine.settle()

    clock.advance(timedelta(minutes=5))
    engine.settle()

    assert engine.context(heard) == {"n": 7}
    assert engine.context(quiet) == {}


@ON_SQLITE
def test_a_delayed_send_reaches_the_other_instance_when_it_is_due(clock: ManualClock, engine: Engine) -> None:
    target = engine.start(COUNTER, business_key="other")
    send = {
        "type": "send",
        "to": {"definitionKey": "counter", "businessKey": "other"},
        "event": {"type": "ADD", "n": 1},
        "delay": "5m",
    }
    sender = engine.start(on_go(send))
    engine.settle()
    engine.send(sender, "GO")
    engine.settle()
    assert engine.context(target)["seen"] == []

    clock.advance(timedelta(minutes=5))
    engine.settle()

    assert engine.context(target)["seen"] == [1]


def test_a_timer_armed_and_cancelled_in_one_batch_never_fires(clock: ManualClock, engine: Engine) -> None:
    instance_id = engine.start(after("10m"))
    engine.send(instance_id, "LEAVE")
    engine.settle()

    clock.advance(timedelta(hours=1))

    assert fire_due_timers(engine.database) == 0
    assert timers(engine) == ["cancelled"]


@ON_SQLITE
def test_a_timer_counts_from_the_step_that_armed_it(clock: ManualClock, engine: Engine) -> None:
    instance_id = engine.start(after("10m"))
    clock.advance(timedelta(minutes=3))
    engine.settle()

    [entry] = [entry for entry in engine.entries(instance_id) if entry["type"] == "timer.armed"]

    assert entry["dueAt"] == "2026-03-01T12:13:00.000000Z"


def test_kernel_time_does_not_run_backwards_with_the_clock(clock: ManualClock, engine: Engine) -> None:
    """A database that fails over to a host whose clock is behind: the instance's own time stands still meanwhile."""
    instance_id = engine.start(on_go(assign("at", "${string(now)}")))
    engine.settle()
    clock.advance(timedelta(minutes=-5))
    engine.send(instance_id, "GO")
    engine.settle()

    assert engine.context(instance_id)["at"].startswith("2026-03-01T12:00:00")


def test_more_than_a_batch_due_at_once_fire_oldest_first_and_in_order(
    clock: ManualClock, engine: Engine
) -> None:
    """60 instances with 10 delayed events each, due one second apart, all overdue when they are first looked at."""
    raises = [
        {"type": "raise", "event": {"type": "RANG", "n": n}, "delay": f"{10 - n}s", "id": f"alarm-{n}"}
        for n in range(10)
    ]
    heard = {"actions": [assign("heard", "${context.heard + [event.n]}")]}
    document = on_go(*raises, context={"heard": []}, RANG=heard)
    started = [engine.start(document), *(engine.start("on-go") for _ in range(59))]
    for instance_id in started:
        engine.send(instance_id, "GO")
    engine.advance()
    clock.advance(timedelta(minutes=1))

    assert fire_due_timers(engine.database, seconds=60) == 600 > BATCH
    fired = engine.execute("SELECT body FROM inbox ORDER BY id")
    assert [int(row[0].split('"n":')[1][0]) for row in fired] == [
        n for n in range(9, -1, -1) for _ in started
    ]
    engine.advance()

    for instance_id in started:
        assert engine.context(instance_id)["heard"] == list(range(9, -1, -1))
